// SPDX-License-Identifier: GPL-2.0

//! poll, select and epoll.

use crate::sock::{
    locked::SocketState,
    mark::Urgent,
    Socket, //
};

const IN: u32 = 0x0001;
const PRI: u32 = 0x0002;
const OUT: u32 = 0x0004;
const ERR: u32 = 0x0008;
const HUP: u32 = 0x0010;
const RDNORM: u32 = 0x0040;
const WRNORM: u32 = 0x0100;
const RDHUP: u32 = 0x2000;

/// The pending events, as TCP reports them in the same state, whoever holds the socket lock.
pub(super) fn poll(sk: &Socket) -> u32 {
    let mut events = look(sk);
    // After the state, which changes after the error was set.
    if sk.has_error() || sk.has_notices() {
        events |= ERR;
    }
    events
}

fn look(sk: &Socket) -> u32 {
    let mut shared = sk.shared().lock();
    let readable = shared.is_readable(sk);
    // A send that sleeps delays others. One that left its buffer here is made again once that is
    // free.
    let may_send = shared.send_turn.ask();
    let mut events = 0;
    match (shared.state(), &shared.conn, &shared.backlog) {
        (SocketState::Listening, _, backlog) => {
            if backlog.as_ref().is_some_and(|backlog| backlog.has_ready()) {
                events |= IN | RDNORM;
            }
        }
        (SocketState::Connecting, ..) => {}
        (SocketState::Connected, Some(conn), _) => {
            let recv_closed = conn.is_over();
            let send_closed = shared.send_shut || conn.send_closed();
            if recv_closed && send_closed {
                events |= HUP;
            }
            if matches!(conn.urgent(), Urgent::Here(..)) {
                events |= PRI;
            }
            if recv_closed {
                events |= IN | RDNORM | RDHUP;
            } else if readable {
                events |= IN | RDNORM;
            }
            let room = || match &shared.kept_send {
                Some(_) => conn.is_call_over(),
                None => conn.writable(sk),
            };
            if send_closed || (may_send && conn.finds_room(sk, room)) {
                events |= OUT | WRNORM;
            } else if !may_send {
                sk.want_async_space();
            }
        }
        (SocketState::Failed, ..) => events |= IN | RDNORM | RDHUP | OUT | WRNORM | HUP,
        (SocketState::Idle | SocketState::Connected, ..) => {
            events |= OUT | WRNORM | HUP;
            if shared.recv_shut {
                events |= IN | RDNORM | RDHUP;
            }
        }
    }
    events
}
