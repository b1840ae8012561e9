// SPDX-License-Identifier: GPL-2.0

//! bind, and the names of a socket's ends.

use crate::{
    net::{
        ops::Name,
        sock::SockGuard, //
    },
    prelude::*,
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

/// `bind(2)`.
///
/// Ports are those of rdma_cm's TCP port space, shared with all its users: `EADDRINUSE` for one
/// that is taken, `EACCES` for a privileged one, `EADDRNOTAVAIL` for an address of no interface
/// here, `ENODEV` for one of an interface without an RDMA device.
pub(super) fn bind(sk: &Socket, addr: SocketAddrV4) -> Result {
    // Dropped after the lock.
    let (mut failed, mut probe) = (None, None);
    let mut s = reap::lock_clean(sk);
    if !matches!(s.state, State::Idle) || s.bound.is_some() {
        return Err(EINVAL);
    }
    match bind_id(sk, addr, &mut failed) {
        Ok((id, bound)) => {
            s.id = Some(id);
            s.bound = Some(bound);
            Ok(())
        }
        // rdma_cm says so too where the port is taken for any address, or for one of them and any
        // is wanted now. Where another port would do, it is the port.
        Err(e) if e == EADDRNOTAVAIL => {
            let any_port = SocketAddrV4::new(*addr.ip(), 0);
            let (id, _) = bind_id(sk, any_port, &mut probe)?;
            probe.replace(id);
            Err(EADDRINUSE)
        }
        Err(e) => Err(e),
    }
}

/// A new cm id at `addr`, and the address that it got.
///
/// With the socket lock, under which no cm id may be destroyed: one that cannot be bound is left in
/// `failed`, for the caller to drop without it.
pub(super) fn bind_id(
    sk: &Socket,
    addr: SocketAddrV4,
    failed: &mut Option<Id>,
) -> Result<(Id, SocketAddrV4)> {
    let mut id = new_id(sk)?;
    match id.bind(&SocketAddr::V4(addr)).and_then(v4) {
        Ok(bound) => Ok((id, bound)),
        Err(e) => {
            *failed = Some(id);
            Err(e)
        }
    }
}

/// A new cm id of `sk`.
pub(super) fn new_id(sk: &Socket) -> Result<Id> {
    let mut id = CmId::new(sk.net(), sk.into())?;
    // That fails for listeners only, which a new one is not.
    let _ = id.set_reuseaddr(sk.reuse_address());
    Ok(id)
}

/// `getsockname(2)` and `getpeername(2)`.
pub(super) fn name(sk: &Socket, which: Name) -> Result<SocketAddrV4> {
    let s = sk.lock();
    if which == Name::Local {
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        return Ok(s.local.or(s.bound).unwrap_or(nobody));
    }
    let there = match (&s.state, &s.conn) {
        (State::Connected, Some(conn)) => which == Name::Accepted || conn.link() == Link::Up,
        _ => false,
    };
    s.peer.filter(|_| there).ok_or(ENOTCONN)
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
