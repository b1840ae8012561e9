// SPDX-License-Identifier: GPL-2.0

//! Addresses of the RDMA CM.

use crate::{
    net::namespace::Net,
    prelude::*,
    rdma::cm::{
        CmHandler,
        CmId, //
    },
};
use core::net::{
    SocketAddr,
    SocketAddrV4, //
};

/// A new cm id at `addr`, and the address that it got. Sleeps. Fails as [`CmId::bind`] does.
pub(super) fn bind_id<C: CmHandler>(
    net: &Net,
    handler: C,
    reuse: bool,
    addr: SocketAddrV4,
) -> Result<(CmId<C>, SocketAddrV4)> {
    let mut id = CmId::new(net, handler)?;
    // That fails for listeners only, which a new one is not.
    let _ = id.set_reuseaddr(reuse);
    let bound = v4(id.bind(&SocketAddr::V4(addr))?)?;
    Ok((id, bound))
}

/// The address of a connection's end, which is of the family that the socket was given.
pub(super) fn v4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(EAFNOSUPPORT),
    }
}
