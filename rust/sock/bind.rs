// SPDX-License-Identifier: GPL-2.0

//! bind, and the names of a socket's ends.

use crate::{
    net::ops::Name,
    prelude::*,
    sock::{
        conn::Link,
        listener::Listener,
        Socket,
        State, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddrV4, //
};

/// `bind(2)`.
///
/// Ports are those of rdma_cm's TCP port space, shared with all its users: `EADDRINUSE` for one
/// that is taken, `EACCES` for a privileged one, `EADDRNOTAVAIL` for an address of no interface
/// here, `ENODEV` for one of an interface without an RDMA device.
pub(super) fn bind(sk: &Socket, addr: SocketAddrV4) -> Result {
    let mut s = sk.lock();
    if !matches!(s.state(), State::Idle) || s.bound.is_some() {
        return Err(EINVAL);
    }
    s.finish_former();
    match Listener::bound(sk, addr) {
        Ok((port, bound)) => {
            s.port = Some(port);
            s.bound = Some(bound);
            Ok(())
        }
        // rdma_cm says so too where the port is taken for any address, or for one of them and any
        // is wanted now. Where another port would do, it is the port.
        Err(e) if e == EADDRNOTAVAIL => {
            let (port, _) = Listener::bound(sk, SocketAddrV4::new(*addr.ip(), 0))?;
            port.close();
            Err(EADDRINUSE)
        }
        Err(e) => Err(e),
    }
}

/// `getsockname(2)` and `getpeername(2)`.
pub(super) fn name(sk: &Socket, which: Name) -> Result<SocketAddrV4> {
    let s = sk.lock();
    let names = s.conn.as_ref().and_then(|conn| conn.names());
    if which == Name::Local {
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        return Ok(names.map(|names| names.local).or(s.bound).unwrap_or(nobody));
    }
    let up = s.conn.as_ref().is_some_and(|conn| conn.link() == Link::Up);
    let there = matches!(s.state(), State::Connected) && (which == Name::Accepted || up);
    names
        .filter(|_| there)
        .map(|names| names.peer)
        .ok_or(ENOTCONN)
}
