// SPDX-License-Identifier: GPL-2.0

//! The last close of a socket's file, and what a connection does without one.

use crate::{
    net::sock::{
        Shown,
        SockGuard, //
    },
    proto::Machine,
    sock::{
        conn::{
            Conn,
            Link, //
        },
        reap,
        recv,
        ring::Ring,
        send,
        settings,
        Sdp,
        Socket,
        State, //
    },
};
use kernel::time::{
    Delta,
    Instant,
    Monotonic, //
};

/// How long a closed socket waits for its peer.
pub(super) struct FinWait {
    /// When it has waited long enough.
    at: Instant<Monotonic>,
    /// The bytes that had not reached the peer when the wait began.
    queued: usize,
}

/// `close(2)` of the last file.
///
/// As with TCP: unread data, or a linger time of 0, resets the connection; otherwise what was
/// written goes out first, and the caller waits for that as long as `SO_LINGER` says.
pub(super) fn release(sk: &Socket) {
    let mut left_to_work = false;
    let backlog = {
        let mut s = sk.lock();
        let backlog = match core::mem::replace(&mut s.state, State::Idle) {
            State::Idle | State::Failed => None,
            State::Listening(backlog) => Some(backlog),
            State::Connecting => {
                if let Some(conn) = &s.conn {
                    left_to_work = conn.awaits_answer();
                    conn.set_link(Link::Gone);
                }
                None
            }
            State::Connected => {
                s.state = State::Connected;
                if let Some(conn) = s.conn.clone() {
                    close(sk, &mut s, &conn);
                }
                None
            }
        };
        s.bury();
        s.orphan();
        let_go(&mut s);
        sk.show(Shown::Close);
        backlog
    };
    if let Some(backlog) = backlog {
        backlog.abandon();
    }
    if !left_to_work {
        reap::reap(sk);
    }
}

fn close(sk: &Socket, s: &mut SockGuard<'_, Sdp>, conn: &Conn) {
    send::give_up_kept(s, conn);
    recv::give_up_kept(s, conn);
    let linger = sk.linger();
    let unread = !s.rx.is_empty() || conn.unread() > 0 || conn.advertised() > 0;
    if unread || linger.is_some_and(|timeout| timeout.is_zero()) {
        conn.with(Machine::abort);
        return wait_for_fin(sk, s, conn);
    }
    conn.with(|m| {
        m.shutdown_receive();
        m.shutdown_send();
    });
    if let Some(mut timeout) = linger {
        // However the wait ends, the rest happens without the caller.
        let _ = s.wait(&mut timeout, |_| {
            conn.queued() == 0 || conn.link() != Link::Up
        });
    }
    wait_for_fin(sk, s, conn);
}

/// Gives the peer `net.sdp.fin_timeout` to take what is queued or the abort, or to close its half.
fn wait_for_fin(sk: &Socket, s: &mut SockGuard<'_, Sdp>, conn: &Conn) {
    if conn.link() != Link::Up {
        return;
    }
    let ms = settings::fin_timeout_ms(sk.net());
    s.fin_wait = Some(FinWait {
        at: Instant::now() + Delta::from_millis(ms.into()),
        queued: conn.queued(),
    });
    sk.arm_timer(ms);
    // It has one timer for both, and this is sooner.
    conn.arm_held();
}

/// Resets the connection of a closed socket whose peer has made no progress for too long.
pub(super) fn check_fin_wait(sk: &Socket) {
    let mut s = sk.lock();
    let Some(conn) = s.conn.clone() else { return };
    let Some(wait) = &s.fin_wait else { return };
    if conn.link() != Link::Up {
        return;
    }
    if let Some(ms) = reap::until(wait.at) {
        // The timer may have run out for what the connection held back.
        return sk.arm_timer(ms);
    }
    if conn.queued() < wait.queued {
        wait_for_fin(sk, &mut s, &conn);
    } else {
        s.fin_wait = None;
        conn.with(Machine::abort);
        // Also where the abort's own message cannot be sent.
        conn.set_link(Link::Drop);
    }
}

/// Once socket and connection are both through, neither keeps the other.
pub(super) fn let_go(s: &mut SockGuard<'_, Sdp>) {
    if !s.sock().is_orphan() {
        return;
    }
    s.rx = Ring::empty();
    s.tx = None;
    if s.conn
        .as_ref()
        .is_some_and(|conn| conn.link() == Link::Over)
    {
        s.conn = None;
    }
}

/// Ends a socket that no program has, or will get.
pub(super) fn abandon(s: &mut SockGuard<'_, Sdp>) {
    s.orphan();
    let_go(s);
    if let Some(conn) = &s.conn {
        conn.with(Machine::abort);
        // A connection that was never made has nobody to be told of its end.
        conn.set_link(if conn.is_ready() {
            Link::Drop
        } else {
            Link::Gone
        });
    }
    s.sock().queue_work();
}
