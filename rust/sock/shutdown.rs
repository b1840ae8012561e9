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
                sk.show(Shown::FinWait1);
            }
            s.recv_shut |= read;
            sk.state_change();
        }
    }
    Ok(())
}

/// Frees the port, and ends what waited to be accepted.
fn stop_listening(s: &mut SockGuard<'_, Sdp>) {
    if let Some(port) = s.port.take() {
        port.close();
    }
    s.sock().show(Shown::Close);
    s.sock().state_change();
}

/// `connect(2)` to no address: what was connected, connecting or listening is no more.
pub(super) fn disconnect(sk: &Socket) {
    let mut s = sk.lock();
    match s.state() {
        State::Idle => {}
        State::Failed => s.forget_failed(),
        State::Connecting => {
            let Some(conn) = s.conn.clone() else { return };
            if conn.fail_setup(ECONNRESET) {
                s.forget_failed();
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
                s.let_go(Link::Disconnect);
            }
            s.rx = Ring::empty();
            s.tx = None;
            s.recv_shut = false;
            sk.show(Shown::Close);
            sk.state_change();
        }
    }
}
