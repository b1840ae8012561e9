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
    // A call that sends is in the way of others. A call that left its buffer here is to be made
    // again once that is free.
    let may_send = s.send_turn.ask();
    let readable = match (&s.kept_recv, &s.conn) {
        (Some(_), Some(conn)) => conn.are_reads_over(),
        _ => recv::unread(&mut s) >= sk.recv_target(false, usize::MAX) || recv::is_starved(&mut s),
    };
    let mut events = if sk.has_error() || sk.has_notices() {
        ERR
    } else {
        0
    };
    match (s.state(), &s.conn) {
        (State::Listening, _) => {
            if s.bound
                .as_ref()
                .is_some_and(|bound| bound.backlog.has_ready())
            {
                events |= IN | RDNORM;
            }
        }
        (State::Connecting, _) => {}
        (State::Connected, Some(conn)) => {
            let recv_closed = s.stream.recv_shut || conn.recv_closed();
            let send_closed = conn.send_closed();
            if recv_closed && send_closed {
                events |= HUP;
            }
            if recv_closed {
                events |= IN | RDNORM | RDHUP;
            } else if readable {
                events |= IN | RDNORM;
            }
            let writable = match s.kept_send {
                Some(_) => conn.call().left == 0,
                None => conn.writable(sk),
            };
            if send_closed || (may_send && writable) {
                events |= OUT | WRNORM;
            }
        }
        (State::Failed, _) => events |= IN | RDNORM | RDHUP | OUT | WRNORM | HUP,
        (State::Idle | State::Connected, _) => events |= OUT | WRNORM | HUP,
    }
    events
}
