// SPDX-License-Identifier: GPL-2.0

//! poll, select and epoll.

use crate::sock::{
    recv,
    Socket,
    State, //
};

const IN: u32 = 0x0001;
const OUT: u32 = 0x0004;
const ERR: u32 = 0x0008;
const HUP: u32 = 0x0010;
const RDNORM: u32 = 0x0040;
const WRNORM: u32 = 0x0100;
const RDHUP: u32 = 0x2000;

/// The events that are now, as TCP has them in the same state.
pub(super) fn poll(sk: &Socket) -> u32 {
    let mut s = sk.lock();
    let unread = recv::unread(&mut s);
    // A call that sends is in the way of others.
    let may_send = s.send_turn.is_free();
    let mut events = if sk.has_error() || sk.has_notices() {
        ERR
    } else {
        0
    };
    match (&s.state, &s.conn) {
        (State::Listening(backlog), _) => {
            if !backlog.is_empty() {
                events |= IN | RDNORM;
            }
        }
        (State::Connecting, _) => {}
        (State::Connected, Some(conn)) => {
            let recv_closed = s.recv_shut || conn.recv_closed();
            let send_closed = conn.send_closed();
            if recv_closed && send_closed {
                events |= HUP;
            }
            if recv_closed {
                events |= IN | RDNORM | RDHUP;
            } else if unread >= sk.recv_target(false, usize::MAX) || recv::is_starved(&s) {
                events |= IN | RDNORM;
            }
            if send_closed || (may_send && conn.writable(sk)) {
                events |= OUT | WRNORM;
            }
        }
        (State::Failed, _) => events |= IN | RDNORM | RDHUP | OUT | WRNORM | HUP,
        (State::Idle | State::Connected, _) => events |= OUT | WRNORM | HUP,
    }
    events
}
