// SPDX-License-Identifier: GPL-2.0

//! shutdown, and connect to no address.

use crate::{
    net::sock::{
        Shown,
        SockGuard, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn::Link,
        connect,
        recv,
        ring::Ring,
        send,
        Sdp,
        Socket,
        State, //
    },
};

/// `shutdown(2)`, with what TCP makes of it in each state.
pub(super) fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
    let mut s = sk.lock();
    match &s.state {
        State::Idle | State::Failed => Err(ENOTCONN),
        State::Connecting => {
            connect::failed(sk, &mut s, ECONNRESET);
            Ok(())
        }
        State::Listening(_) => {
            if read {
                stop_listening(sk, s);
            }
            Ok(())
        }
        State::Connected => {
            let conn = s.conn.clone().ok_or(ENOTCONN)?;
            if conn.link() != Link::Up {
                return Err(ENOTCONN);
            }
            if write {
                conn.with(Machine::shutdown_send);
                sk.show(Shown::FinWait1);
            }
            s.recv_shut |= read;
            sk.state_change();
            Ok(())
        }
    }
}

/// `connect(2)` to no address: what was connected, connecting or listening is no more.
pub(super) fn disconnect(sk: &Socket) {
    let mut s = sk.lock();
    match &s.state {
        State::Idle => {}
        State::Failed => s.state = State::Idle,
        State::Connecting => {
            connect::failed(sk, &mut s, ECONNRESET);
            s.state = State::Idle;
        }
        State::Listening(_) => stop_listening(sk, s),
        State::Connected => {
            s.state = State::Idle;
            if let Some(conn) = s.conn.clone() {
                send::give_up_kept(&mut s, &conn);
                recv::give_up_kept(&mut s, &conn);
                conn.with(Machine::abort);
                conn.set_link(Link::Drop);
            }
            s.local = None;
            s.peer = None;
            s.rx = Ring::empty();
            s.recv_shut = false;
            sk.show(Shown::Close);
            sk.state_change();
        }
    }
}

/// Frees the port of a socket without a connection, and ends what waited to be accepted.
pub(super) fn stop_listening(sk: &Socket, mut s: SockGuard<'_, Sdp>) {
    let was = core::mem::replace(&mut s.state, State::Idle);
    s.bury();
    sk.show(Shown::Close);
    sk.queue_work();
    sk.state_change();
    drop(s);
    if let State::Listening(backlog) = was {
        backlog.abandon();
    }
}
