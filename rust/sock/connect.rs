// SPDX-License-Identifier: GPL-2.0

//! connect.

use crate::{
    net::sock::{
        Shown,
        SockGuard,
        Woken, //
    },
    prelude::*,
    proto::Side,
    sock::{
        conn::{
            Conn,
            Owner, //
        },
        ring::Ring,
        Sdp,
        Socket,
        State, //
    },
};
use core::net::SocketAddrV4;
use kernel::sync::Arc;

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
        State::Connected if s.untold => {}
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
        Err(Woken::TimedOut) => return Err(EINPROGRESS),
        Err(woken) => return Err(timeout.error(woken)),
    }
    if s.has(&conn) && matches!(s.state(), State::Connected) {
        s.untold = false;
        return Ok(());
    }
    s.forget_failed();
    // Where SO_ERROR has told the reason already, TCP says so too.
    sk.take_error()?;
    Err(ECONNABORTED)
}

/// Makes a connection that looks for `peer`.
fn begin(sk: &Socket, s: &mut SockGuard<'_, Sdp>, peer: SocketAddrV4) -> Result {
    // What was left of a connection before this one is not its error.
    let _ = sk.take_error();
    s.finish_former();
    let owner = Owner::Socket(sk.into());
    let conn = Conn::unconnected(sk.net(), Side::Connecting, owner, 0, s.options)?;
    let begun = start(sk, s, &conn, peer);
    if let Err(e) = begun {
        conn.discard();
        return Err(e);
    }
    s.rx = Ring::empty();
    s.tx = None;
    s.consumed = 0;
    s.crossed_at = None;
    s.lends = false;
    s.untold = true;
    s.conn = Some(conn);
    sk.show(Shown::SynSent);
    Ok(())
}

fn start(sk: &Socket, s: &mut SockGuard<'_, Sdp>, conn: &Arc<Conn>, peer: SocketAddrV4) -> Result {
    let id = match s.port.take().and_then(|port| port.take_id()) {
        Some(id) => Some(id.hand_over(conn.clone())?),
        None => None,
    };
    conn.begin(id, s.bound, sk.reuse_address(), peer)
}
