// SPDX-License-Identifier: GPL-2.0

//! bind.

use crate::{
    net::{
        sock::{
            SockGuard,
            TcpState, //
        },
        sockaddr::IpVersion, //
    },
    prelude::*,
    sock::{
        endpoint::Bound,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use core::net::SocketAddr;

/// `bind(2)`.
///
/// Ports are those of rdma_cm's TCP port space, shared with all its users. Sleeps. Fails with
/// `EADDRINUSE` for a port that is taken, `EACCES` for a privileged one, `EADDRNOTAVAIL` for an
/// address of no interface here, `ENODEV` where no interface here has an RDMA device, `EINVAL` for
/// a socket that is bound or for an address that its family does not have, and `ENOMEM`.
pub(super) fn bind(sk: &Socket, addr: SocketAddr) -> Result {
    let net = sk.net();
    // Before any check, as with TCP.
    let (addr, is_allowed) = sk.lock().filter_bind(addr)?;
    let is_v4 = sk.version() == IpVersion::V4;
    // TCP checks in a different order for each family.
    if is_v4 {
        check_local(sk, &addr)?;
    } else if addr.ip().is_multicast() && addr.is_ipv6() {
        return Err(EINVAL);
    }
    if addr.port() > 0 && !is_allowed && !net.may_bind(addr.port()) {
        return Err(EACCES);
    }
    let mut s = sk.lock();
    // As with TCP, one whose connection has ended may be bound before it is disconnected.
    if !sk.is_in_state(TcpState::Close) || s.local.bound().is_some() {
        return Err(EINVAL);
    }
    if addr.is_ipv4() && sk.is_v6only() {
        return Err(EINVAL);
    }
    let addr = scoped(&s, addr)?;
    if !is_v4 {
        check_local(sk, &addr)?;
    }
    s.slot.finish_former();
    let was_v6only = sk.is_v6only();
    if addr.is_ipv6() && !addr.ip().is_unspecified() {
        s.set_v6only(true);
    }
    if addr.port() == 0 && sk.binds_without_port() {
        s.local.set_source(Some(addr));
        sk.set_local(addr);
        return Ok(());
    }
    let bound = Bound::new(&s, addr).inspect_err(|_| s.set_v6only(was_v6only))?;
    sk.set_local(bound.addr());
    if addr.port() > 0 {
        sk.note_chosen_port();
    }
    if let Err(e) = s.filter_post_bind() {
        bound.close();
        sk.set_local(sk.version().nobody());
        s.set_v6only(was_v6only);
        return Err(e);
    }
    s.local.bind(bound);
    Ok(())
}

/// Fails with `EADDRNOTAVAIL` where no interface has the address, unless it may be bound to
/// nevertheless, and with `ENODEV` where the interface that the socket is bound to does not exist.
fn check_local(sk: &Socket, addr: &SocketAddr) -> Result {
    let (net, interface) = (sk.net(), sk.interface());
    if addr.ip().is_unspecified() {
        return Ok(());
    }
    if interface > 0 && sk.version() == IpVersion::V6 && !net.has_interface(interface) {
        return Err(ENODEV);
    }
    if net.is_local(addr, interface) || sk.may_bind_nonlocal(IpVersion::of(addr.ip())) {
        Ok(())
    } else {
        Err(EADDRNOTAVAIL)
    }
}

/// `addr` with its scope, if it is link-local: the one that it has, to which the socket is bound
/// from now on, or else the interface of the socket. Fails with `EINVAL` where there is neither.
pub(super) fn scoped<F>(s: &SockGuard<'_, Sdp, F>, addr: SocketAddr) -> Result<SocketAddr> {
    let sk = s.sock();
    let SocketAddr::V6(mut addr) = addr else {
        return Ok(addr);
    };
    if addr.ip().is_unicast_link_local() {
        if addr.scope_id() > 0 {
            sk.set_interface(addr.scope_id());
        }
        addr.set_scope_id(sk.interface());
        if addr.scope_id() == 0 {
            return Err(EINVAL);
        }
    }
    Ok(addr.into())
}
