// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the RDMA connection manager and verbs, without SDP.
//!
//! # Lifetimes
//!
//! The order in which things are destroyed is the order of the fields in [`qp::Qp`]: the work
//! requests are drained, the QP is destroyed, the CQ is returned to its pool, and the connection
//! identifier ([`cm::CmId`]) is destroyed last. rdma_cm removes an RDMA device only when every
//! identifier bound to it is destroyed, and the device frees its CQ pools right after that. The
//! protection domain and DMA mappings may outlive the identifier: they hold the device's
//! registration, [`device::Device`], through [`pd::Pd`], and the device's removal waits for the
//! last of them. So on [`cm::CmEvent::DeviceRemoval`] everything on that device has to be released,
//! but nothing that is late accesses freed memory.
//!
//! # Locks
//!
//! See Documentation/architecture.rst. The driver's own locks are below all of ours.

pub(crate) mod buf;
pub(crate) mod client;
pub(crate) mod cm;
mod cq;
pub(crate) mod device;
pub(crate) mod mr;
pub(crate) mod pd;
pub(crate) mod qp;
