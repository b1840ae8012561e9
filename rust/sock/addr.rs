// SPDX-License-Identifier: GPL-2.0

//! Addresses of connections' ends.

use crate::prelude::*;
use core::net::{
    Ipv4Addr,
    SocketAddr,
    SocketAddrV4, //
};

/// Of any address, or none, and of any port.
pub(super) const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// The names of a connection's ends.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) local: SocketAddrV4,
    pub(super) peer: SocketAddrV4,
}

/// The address of an end as rdma_cm has it, which is of the family that the socket was given.
pub(super) fn v4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(EAFNOSUPPORT),
    }
}
