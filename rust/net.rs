// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the socket layer: what a protocol family needs of it, without SDP.

pub(crate) mod account;
pub(crate) mod errno;
pub(crate) mod family;
mod module;
pub(crate) mod msg;
pub(crate) mod namespace;
pub(crate) mod ops;
pub(crate) mod option;
pub(crate) mod pernet;
pub(crate) mod pipe;
pub(crate) mod proc;
pub(crate) mod sock;
pub(crate) mod sockaddr;
pub(crate) mod spinlock_bh;
pub(crate) mod sysctl;
pub(crate) mod work;
pub(crate) mod zerocopy;
