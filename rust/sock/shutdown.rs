// SPDX-License-Identifier: GPL-2.0

//! shutdown, and connect to no address.

use crate::{
    net::sock::{
        SockGuard,
        TcpState, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        link::Link,
        recv,
        send,
        stream::Stream,
        Sdp,
        Socket,
        State, //
    },
};

/// `shutdown(2)`, with what TCP makes of it in each state.
pub(super) fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
    let mut s = sk.lock();
    match s.state() {
        State::Idle | State::Failed => return Err(ENOTCONN),
        State::Connecting => {
            let conn = s.conn.clone().ok_or(ENOTCONN)?;
            if !conn.fail_setup(ECONNRESET) {
                // It was just decided.
                drop(s);
                return shutdown(sk, read, write);
            }
            conn.set_link(Link::Disconnected);
        }
        State::Listening => {
            if read {
                stop_listening(&mut s);
            }
        }
        State::Connected => {
            let conn = s.conn.clone().ok_or(ENOTCONN)?;
            if conn.link() != Link::Up {
                return Err(ENOTCONN);
            }
            if write {
                conn.with(Machine::shutdown_send);
                conn.update_state();
            }
            s.stream.recv_shut |= read;
            sk.state_change();
        }
    }
    Ok(())
}

/// Ends what waited to be accepted. The socket keeps its address.
fn stop_listening(s: &mut SockGuard<'_, Sdp>) {
    if let Some(bound) = &s.bound {
        bound.stop();
    }
    s.sock().set_state(TcpState::Close);
    s.sock().state_change();
}

/// `connect(2)` to no address: what was connected, connecting or listening is no more.
pub(super) fn disconnect(sk: &Socket) {
    let mut s = sk.lock();
    match s.state() {
        State::Idle => {}
        State::Failed => s.forget_failed(sk),
        State::Connecting => {
            let Some(conn) = s.conn.clone() else { return };
            if conn.fail_setup(ECONNRESET) {
                s.forget_failed(sk);
            } else {
                // It was just decided.
                drop(s);
                disconnect(sk);
            }
        }
        State::Listening => stop_listening(&mut s),
        State::Connected => {
            if let Some(conn) = s.conn.clone() {
                send::give_up_kept(&mut s, &conn);
                recv::give_up_kept(&mut s, &conn);
                conn.with(Machine::abort);
                s.drop_conn(sk, Link::Disconnect);
            }
            s.stream = Stream::new();
            sk.state_change();
        }
    }
}
