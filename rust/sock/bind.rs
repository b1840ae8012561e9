// SPDX-License-Identifier: GPL-2.0

//! bind.

use crate::{
    prelude::*,
    sock::{
        endpoint::Endpoint,
        Socket,
        State, //
    },
};
use core::net::SocketAddrV4;

/// `bind(2)`.
///
/// Ports are those of rdma_cm's TCP port space, shared with all its users: `EADDRINUSE` for one
/// that is taken, `EACCES` for a privileged one, `EADDRNOTAVAIL` for an address of no interface
/// here, `ENODEV` for one of an interface without an RDMA device.
pub(super) fn bind(sk: &Socket, addr: SocketAddrV4) -> Result {
    let net = sk.net();
    if !addr.ip().is_unspecified() && !net.is_local(*addr.ip()) {
        return Err(EADDRNOTAVAIL);
    }
    if addr.port() > 0 && !net.may_bind(addr.port()) {
        return Err(EACCES);
    }
    let mut s = sk.lock();
    if !matches!(s.state(), State::Idle) || s.bound.is_some() {
        return Err(EINVAL);
    }
    s.finish_former();
    let bound = Endpoint::bind(sk, addr)?;
    sk.set_local(bound.addr());
    s.bound = Some(bound);
    Ok(())
}
