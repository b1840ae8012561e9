// SPDX-License-Identifier: GPL-2.0

//! connect.

use crate::{
    net::sock::{
        SockGuard,
        TcpState,
        WaitError, //
    },
    prelude::*,
    proto::Side,
    sock::{
        conn::{
            Conn,
            Owner, //
        },
        stream::Stream,
        Sdp,
        Socket,
        State, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddrV4, //
};

/// `connect(2)`.
///
/// A call that waits sets the connection up itself, so that this is the caller's time; otherwise the
/// connection's work does.
pub(super) fn connect(sk: &Socket, peer: SocketAddrV4, nonblock: bool) -> Result {
    let mut timeout = sk.send_timeout(nonblock);
    let mut s = sk.lock();
    match s.state() {
        State::Idle => {
            begin(sk, &mut s, peer)?;
            // Also where the work was quick: no program sees TCP do otherwise.
            if nonblock {
                return Err(EINPROGRESS);
            }
        }
        State::Connecting if nonblock => return Err(EALREADY),
        State::Connecting | State::Failed => {}
        // The first call after it tells of success, as with TCP.
        State::Connected if s.connect_unreported => {}
        State::Listening | State::Connected => return Err(EISCONN),
    }
    let Some(conn) = s.conn.clone() else {
        return Err(ECONNABORTED);
    };
    conn.set_waiting(true);
    let waited = s.wait(&mut timeout, |s| {
        conn.advance_waiting();
        !s.has(&conn) || !matches!(s.state(), State::Connecting)
    });
    conn.set_waiting(false);
    match waited {
        Ok(()) => {}
        Err(WaitError::TimedOut) => return Err(EINPROGRESS),
        Err(woken) => return Err(timeout.error(woken)),
    }
    if s.has(&conn) && matches!(s.state(), State::Connected) {
        s.connect_unreported = false;
        return Ok(());
    }
    s.forget_failed(sk);
    // Where SO_ERROR has told the reason already, TCP says so too.
    sk.take_error()?;
    Err(ECONNABORTED)
}

/// Makes a connection that looks for `peer`.
fn begin(sk: &Socket, s: &mut SockGuard<'_, Sdp>, peer: SocketAddrV4) -> Result {
    // What was left of a connection before this one is not its error.
    let _ = sk.take_error();
    let owner = Owner::Socket(sk.into());
    let conn = Conn::unconnected(sk.net(), Side::Connecting, owner, 0, s.options)?;
    let bound = s.bound.as_ref().map(|bound| bound.addr());
    // As with TCP no address is the own one.
    let peer = match (peer.ip().is_unspecified(), bound) {
        (false, _) => peer,
        (true, Some(bound)) if !bound.ip().is_unspecified() => {
            SocketAddrV4::new(*bound.ip(), peer.port())
        }
        (true, _) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, peer.port()),
    };
    sk.set_state(TcpState::SynSent);
    if let Err(e) = conn.begin(bound, peer) {
        sk.set_state(TcpState::Close);
        conn.discard();
        return Err(e);
    }
    s.stream = Stream::new();
    s.connect_unreported = true;
    s.conn = Some(conn);
    Ok(())
}
