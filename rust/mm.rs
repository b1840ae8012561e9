// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of memory management: the pages of a caller's buffer, without SDP or RDMA.

pub(crate) mod pages;
