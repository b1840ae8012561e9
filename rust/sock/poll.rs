// SPDX-License-Identifier: GPL-2.0

//! poll, select and epoll.

use crate::sock::{
    locked::SocketState,
    mark::Urgent,
    recv,
    urgent,
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

/// The pending events, as TCP reports them in the same state. Sleeps, for the socket lock.
pub(super) fn poll(sk: &Socket) -> u32 {
    let mut s = sk.lock();
    // A send that has the turn delays others. One that left its buffer here is made again once that
    // is free.
    let may_send = s.send_turn.ask();
    let (urgent, at_mark) = urgent::look(&mut s, sk);
    let readable = match (&s.kept_recv, &s.conn) {
        (Some(_), Some(conn)) => conn.are_reads_over(),
        _ => {
            // A read leaves the urgent byte out.
            let hole = usize::from(at_mark && !sk.is_oob_inline());
            let target = sk.recv_target(false, usize::MAX).saturating_add(hole);
            recv::unread(&mut s) >= target || recv::is_starved(&mut s)
        }
    };
    let mut events = 0;
    match (s.state(), &s.conn) {
        (SocketState::Listening, _) => {
            if s.bound
                .as_ref()
                .is_some_and(|bound| bound.backlog.has_ready())
            {
                events |= IN | RDNORM;
            }
        }
        (SocketState::Connecting, _) => {}
        (SocketState::Connected, Some(conn)) => {
            let recv_closed = s.stream.is_over(conn);
            let send_closed = s.stream.send_shut || conn.send_closed();
            if recv_closed && send_closed {
                events |= HUP;
            }
            if matches!(urgent, Urgent::Here(..)) {
                events |= PRI;
            }
            if recv_closed {
                events |= IN | RDNORM | RDHUP;
            } else if readable {
                events |= IN | RDNORM;
            }
            let room = || match &s.kept_send {
                Some(_) => conn.call().left == 0,
                None => conn.writable(sk),
            };
            if send_closed || (may_send && conn.finds_room(sk, room)) {
                events |= OUT | WRNORM;
            }
        }
        (SocketState::Failed, _) => events |= IN | RDNORM | RDHUP | OUT | WRNORM | HUP,
        (SocketState::Idle | SocketState::Connected, _) => {
            events |= OUT | WRNORM | HUP;
            if s.stream.recv_shut {
                events |= IN | RDNORM | RDHUP;
            }
        }
    }
    // After the state, which changes after the error was set.
    if sk.has_error() || sk.has_notices() {
        events |= ERR;
    }
    events
}
