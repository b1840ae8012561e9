// SPDX-License-Identifier: GPL-2.0

//! poll, select and epoll.

use crate::{
    net::uapi::{
        EPOLLERR,
        EPOLLHUP,
        EPOLLIN,
        EPOLLOUT,
        EPOLLPRI,
        EPOLLRDHUP,
        EPOLLRDNORM,
        EPOLLWRNORM, //
    },
    sock::{
        locked::SocketState,
        mark::Urgent,
        types::Socket, //
    },
};

/// The pending events, as TCP reports them in the same state, whoever holds the socket lock.
pub(super) fn poll(sk: &Socket) -> u32 {
    let mut events = pending_events(sk);
    // After the state, which changes after the error was set.
    if sk.has_error() || sk.has_notices() {
        events |= EPOLLERR;
    }
    events
}

fn pending_events(sk: &Socket) -> u32 {
    let mut poll_state = sk.poll_state().lock();
    let readable = poll_state.is_readable(sk);
    // A send that sleeps blocks others. After one that left its buffer here, the socket is writable
    // once the fabric is done with that.
    let may_send = poll_state.send_iolock.is_free();
    let mut events = 0;
    match (poll_state.state(), &poll_state.conn, &poll_state.backlog) {
        (SocketState::Listening, _, backlog) => {
            if backlog.as_ref().is_some_and(|backlog| backlog.has_ready()) {
                events |= EPOLLIN | EPOLLRDNORM;
            }
        }
        (SocketState::Connecting, ..) => {}
        (SocketState::Connected, Some(conn), _) => {
            let recv_closed = conn.is_recv_done();
            let send_closed = poll_state.send_shut || conn.send_closed();
            if recv_closed && send_closed {
                events |= EPOLLHUP;
            }
            if matches!(conn.urgent(), Urgent::Here(..)) {
                events |= EPOLLPRI;
            }
            if recv_closed {
                events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
            } else if readable {
                events |= EPOLLIN | EPOLLRDNORM;
            }
            let room = || match &poll_state.retry_send {
                Some(_) => conn.is_call_done(),
                None => conn.writable(sk),
            };
            if send_closed || (may_send && conn.finds_room(sk, room)) {
                events |= EPOLLOUT | EPOLLWRNORM;
            } else if !may_send {
                sk.want_async_space();
            }
        }
        (SocketState::Failed, ..) => {
            events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | EPOLLOUT | EPOLLWRNORM | EPOLLHUP
        }
        (SocketState::Idle | SocketState::Connected, ..) => {
            events |= EPOLLOUT | EPOLLWRNORM | EPOLLHUP;
            if poll_state.recv_shut {
                events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
            }
        }
    }
    events
}
