// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the RDMA connection manager and verbs, without SDP.
//!
//! # Lifetimes
//!
//! The order in which things may go is the order of the fields in [`qp::Qp`]: the work requests
//! are drained, the QP is destroyed, the CQ goes back to its pool, and the connection identifier
//! ([`cm::CmId`]) goes last. rdma_cm lets an RDMA device go only when every identifier bound to it
//! is destroyed, and the device empties its CQ pools right after that. Protection domain and DMA
//! mappings may outlive the identifier: they hold the device's registration, [`device::Device`],
//! through [`pd::Pd`], and the device's removal waits for the last of them. So on
//! [`cm::CmEvent::DeviceRemoval`] everything on that device has to be let go, but nothing that is
//! late touches freed memory.
//!
//! # Locks
//!
//! Outermost first: the handler mutex of a connection identifier, the list of shared protection
//! domains, the queue locks of a QP, the driver's own locks.

pub(crate) mod buf;
pub(crate) mod cm;
mod cq;
pub(crate) mod device;
pub(crate) mod mr;
pub(crate) mod pd;
pub(crate) mod qp;
