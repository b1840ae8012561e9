// SPDX-License-Identifier: GPL-2.0

//! bind, and the names of a socket's ends.

use crate::{
    net::sock::SockGuard,
    rdma::cm::{
        CmId,
        Handler, //
    },
    sock::{
        conn::{
            Id,
            Link, //
        },
        reap,
        Sdp,
        Socket,
        State, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddr,
    SocketAddrV4, //
};
use kernel::prelude::*;

/// `bind(2)`.
///
/// Ports are those of rdma_cm's TCP port space, shared with all its users: `EADDRINUSE` for one
/// that is taken, `EACCES` for a privileged one, `EADDRNOTAVAIL` for an address of no interface
/// here, `ENODEV` for one of an interface without an RDMA device.
pub(super) fn bind(sk: &Socket, addr: SocketAddrV4) -> Result {
    let mut s = reap::lock_clean(sk);
    if !matches!(s.state, State::Idle) || s.bound.is_some() {
        return Err(EINVAL);
    }
    let (id, bound) = bound_id(sk, addr)?;
    s.id = Some(id);
    s.bound = Some(bound);
    Ok(())
}

/// A new cm id at `addr`, and the address that it got.
pub(super) fn bound_id(sk: &Socket, addr: SocketAddrV4) -> Result<(Id, SocketAddrV4)> {
    let mut id = new_id(sk)?;
    let bound = id.bind(&SocketAddr::V4(addr))?;
    Ok((id, v4(bound)?))
}

/// A new cm id of `sk`.
pub(super) fn new_id(sk: &Socket) -> Result<Id> {
    let mut id = CmId::new(sk.net(), sk.into())?;
    id.set_reuseaddr(sk.reuse_address())?;
    Ok(id)
}

/// `getsockname(2)` and `getpeername(2)`.
pub(super) fn name(sk: &Socket, peer: bool) -> Result<SocketAddrV4> {
    let s = sk.lock();
    if peer {
        let there = s.conn.as_ref().is_some_and(|conn| conn.link() == Link::Up);
        match s.peer {
            Some(peer) if there && matches!(s.state, State::Connected) => Ok(peer),
            _ => Err(ENOTCONN),
        }
    } else {
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Ok(s.local.or(s.bound).unwrap_or(nobody))
    }
}

/// The address of a connection's end, which is of the family that the socket was given.
pub(super) fn v4(addr: SocketAddr) -> Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(EAFNOSUPPORT),
    }
}

/// Takes over the names that rdma_cm has for a connection's ends.
pub(super) fn set_names(s: &mut SockGuard<'_, Sdp>, handler: &Handler<'_>) -> Result {
    s.local = Some(v4(handler.local_addr()?)?);
    s.peer = Some(v4(handler.peer_addr()?)?);
    Ok(())
}
