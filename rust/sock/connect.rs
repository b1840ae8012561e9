// SPDX-License-Identifier: GPL-2.0

//! connect.

use crate::{
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::{
            TcpState,
            WaitError, //
        },
        sockaddr::{
            IpVersion,
            SockAddr, //
        },
        wait::OpenGuard, //
    },
    prelude::*,
    sock::{
        addr::{
            self,
            AddrPair, //
        },
        bind,
        conn::Conn,
        endpoint::Bound,
        locked::SocketState,
        shutdown,
        types::{
            OpenSocket,
            Sdp,
            Socket, //
        }, //
    }, //
};
use core::net::SocketAddr;
use kernel::sync::atomic::Relaxed;

/// The connect that a send with `MSG_FASTOPEN` begins with. No peer takes data with a request, as
/// TCP finds of one that it does not know.
pub(super) fn connect_to_send(sk: &OpenSocket, msg: &SendMsg<'_>) -> Result {
    if msg.flags & flags::FASTOPEN == 0 {
        return Ok(());
    }
    if !sk.net().is_fastopen_client() {
        return Err(EOPNOTSUPP);
    }
    match msg.name() {
        Some(name) => connect_to(sk, name, msg.nonblock()),
        None if sk.state() == TcpState::Close as u8 => Err(EINVAL),
        None => Err(EISCONN),
    }
}

/// `connect(2)` to what a program names, or to no address.
pub(super) fn connect_to(sk: &OpenSocket, addr: SockAddr<'_>, nonblock: bool) -> Result {
    if addr.is_unspecified()? {
        shutdown::disconnect(sk);
        return Ok(());
    }
    connect(sk, &addr, nonblock)
}

/// A connection to `peer`.
///
/// A call that waits sets the connection up itself, in the caller's time; otherwise the
/// connection's work does. Sleeps. Fails as TCP's does, with `ENODEV` where no RDMA device leads to
/// the peer, and with `ENOBUFS` beyond `net.sdp.mem`.
fn connect(sk: &OpenSocket, peer: &SockAddr<'_>, nonblock: bool) -> Result {
    let mut timeout = sk.send_timeout(nonblock);
    let mut s = sk.lock();
    // What a call says that does not wait for the end.
    let pending = match s.state() {
        SocketState::Idle => {
            begin(sk, &mut s, peer)?;
            // Even if the work was quicker: TCP never does otherwise.
            if nonblock {
                return Err(EINPROGRESS);
            }
            EINPROGRESS
        }
        SocketState::Connecting if nonblock => return Err(EALREADY),
        SocketState::Connecting | SocketState::Failed => EALREADY,
        // The first call after that reports success, as with TCP.
        SocketState::Connected if s.slot.is_unreported() => EALREADY,
        SocketState::Listening | SocketState::Connected => return Err(EISCONN),
    };
    let Some(conn) = s.conn().cloned() else {
        return Err(ECONNABORTED);
    };
    let disconnects = s.slot.disconnects();
    conn.add_waiter();
    let waited = s.wait(&mut timeout, |s| {
        conn.advance_waiting();
        !s.has(&conn) || !matches!(s.state(), SocketState::Connecting)
    });
    conn.remove_waiter();
    match waited {
        Ok(()) => {}
        Err(WaitError::TimedOut) => return Err(pending),
        Err(woken) => return Err(timeout.error(woken)),
    }
    if s.slot.disconnects() != disconnects {
        return Err(EPIPE);
    }
    if s.has(&conn) && matches!(s.state(), SocketState::Connected) {
        s.slot.set_unreported(false);
        return Ok(());
    }
    s.slot.count_disconnect();
    s.forget_failed(sk);
    sk.stop_peek_offset();
    // As TCP does where SO_ERROR has reported the reason already.
    let failed = sk.take_error().err().unwrap_or(ECONNABORTED);
    // TCP disconnects the socket then, which it reports as an error.
    sk.report_error();
    Err(failed)
}

/// The address that a socket connects to for `peer`, by TCP's rules: the unspecified address means
/// this host. Fails with `EINVAL` for a link-local address whose interface is not known, or is not
/// the socket's, `ENETUNREACH` for an IPv4 address where the socket is for IPv6 only, and for an
/// IPv6 one of many hosts, and `EAFNOSUPPORT` for an IPv6 address where the socket is bound to an
/// IPv4 one.
fn reachable(
    s: &OpenGuard<'_, Sdp>,
    peer: SocketAddr,
    bound: Option<SocketAddr>,
) -> Result<SocketAddr> {
    let sk = s.sock();
    let with_port = |ip| SocketAddr::new(ip, peer.port());
    let peer = match (peer, bound) {
        (peer, _) if !peer.ip().is_unspecified() => peer,
        (SocketAddr::V4(_), Some(own)) if !own.ip().is_unspecified() => with_port(own.ip()),
        (SocketAddr::V6(_), Some(SocketAddr::V4(_))) => with_port(IpVersion::V4.localhost()),
        (peer, _) => with_port(IpVersion::of(peer.ip()).localhost()),
    };
    match (peer, bound) {
        (SocketAddr::V4(_), _) if sk.is_v6only() => Err(ENETUNREACH),
        (SocketAddr::V6(peer), _) if peer.ip().is_multicast() => Err(ENETUNREACH),
        (SocketAddr::V6(peer), _) if peer.scope_id() > 0 => {
            let interface = sk.interface();
            if interface > 0 && interface != peer.scope_id() {
                return Err(EINVAL);
            }
            bind::scoped(s, peer.into())
        }
        (SocketAddr::V6(_), Some(SocketAddr::V4(_))) => Err(EAFNOSUPPORT),
        (peer, _) => bind::scoped(s, peer),
    }
}

/// The unspecified address from which `peer` can be reached: of its version of IP and its scope.
fn any_for(peer: SocketAddr, port: u16) -> SocketAddr {
    let mut any = SocketAddr::new(IpVersion::of(peer.ip()).any(), port);
    if let (SocketAddr::V6(any), SocketAddr::V6(peer)) = (&mut any, peer) {
        any.set_scope_id(peer.scope_id());
    }
    any
}

/// Makes a connection, and begins to resolve the address of `peer`. Fails as [`connect`] does.
fn begin(sk: &Socket, s: &mut OpenGuard<'_, Sdp>, peer: &SockAddr<'_>) -> Result {
    let (peer, local) = s.filter_connect(addr::address(sk, peer)?)?;
    if let Some(local) = local {
        s.slot.finish_former();
        let bound = Bound::new(s, local)?;
        sk.set_local(bound.addr());
        s.local.bind(bound);
    }
    let bound = s.local.addr();
    let peer = reachable(s, peer, bound)?;
    let from = match bound {
        Some(bound) if bound.ip().is_unspecified() => any_for(peer, bound.port()),
        Some(bound) => bound,
        None => any_for(peer, 0),
    };
    let mut route = sk.route_to(peer, from)?;
    let interface = match route.interface {
        0 => sk.interface(),
        index => index,
    };
    if !sk.net().is_local(&route.source, interface) {
        // TCP would send packets from there.
        return Err(EADDRNOTAVAIL);
    }
    if s.local.bound().is_some() {
        // It may have been to the same peer.
        s.slot.finish_former();
    }
    let claim = match s.local.bound() {
        Some(bound) => {
            let local = route.source;
            Some(bound.claim(AddrPair { local, peer }, sk.interface())?)
        }
        // rdma_cm chooses from `net.ipv4.ip_local_port_range` alone.
        None if sk.has_fewer_ports() => {
            let (bound, claim) = Bound::to_connect(s, route.source, peer)?;
            route.source = s.local.bind_auto(bound).addr();
            Some(claim)
        }
        None => None,
    };
    // An error that an earlier connection left is not this one's.
    let _ = sk.take_error();
    let begun = Conn::connecting(sk, s.options).and_then(|conn| {
        conn.recv_shut
            .store(sk.poll_state().lock().recv_shut, Relaxed);
        sk.set_state(TcpState::SynSent);
        // Before it may be established, which poll is to report.
        s.slot.set(sk, Some(conn.clone()));
        conn.begin(sk, route, peer, claim).inspect_err(|_| {
            s.slot.set(sk, None);
            sk.set_state(TcpState::Close);
            sk.state_change();
            conn.discard();
        })
    });
    begun.inspect_err(|_| {
        s.local.unbind_auto();
        sk.set_local(s.local.addr().unwrap_or(sk.version().nobody()));
    })?;
    s.slot.set_unreported(true);
    Ok(())
}
