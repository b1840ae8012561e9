// SPDX-License-Identifier: GPL-2.0

//! What the test programs share: sockets, their addresses, the two network namespaces, and random data.

pub mod errno;
pub mod namespace;
pub mod random;
pub mod sdp;
pub mod sock;
