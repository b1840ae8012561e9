// SPDX-License-Identifier: GPL-2.0

//! The socket's work: ends connections, and destroys what ended ones leave.

use crate::{
    net::sock::SockGuard,
    sock::{
        cm,
        conn::Link,
        release,
        ring::Ring,
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

/// How long the peer may take to confirm that the connection is dropped, in milliseconds; the CM
/// tells it again every four seconds, in case that it was lost.
const DROP_MS: u32 = 30_000;

/// Queued work: a timer ran out, or something ended.
pub(super) fn work(sk: &Socket) {
    cm::take_end(sk);
    release::check_fin_wait(sk);
    if let Some(conn) = &sk.lock().conn {
        conn.work();
    }
    reap(sk);
}

/// Locks the socket once nothing of an attempt before is left that holds its port. Sleeps.
///
/// Only so locked may a socket get a new cm id: one can wait for [`reap`] at a time.
pub(super) fn lock_clean(sk: &Socket) -> SockGuard<'_, Sdp> {
    loop {
        // Held until the socket is locked, so that nobody else is about to reap.
        let teardown = sk.teardown.lock();
        reap_locked(sk, true);
        let s = sk.lock();
        drop(teardown);
        if s.dead.is_none() {
            return s;
        }
    }
}

/// Brings what ends to its end. Sleeps; without the socket lock.
pub(super) fn reap(sk: &Socket) {
    let _teardown = sk.teardown.lock();
    reap_locked(sk, false);
}

/// The milliseconds until `at`, unless it has passed.
pub(super) fn until(at: Instant<Monotonic>) -> Option<u32> {
    let late = at.elapsed();
    late.is_negative().then(|| {
        let rest = late.as_millis().saturating_neg().saturating_add(1);
        u32::try_from(rest).unwrap_or(u32::MAX)
    })
}

/// [`reap()`] under the teardown mutex; in a `hurry`, without waiting for what a failed attempt's
/// peer has to say to it.
fn reap_locked(sk: &Socket, hurry: bool) {
    let (dead, conn, drop_at, failed) = {
        let mut s = sk.lock();
        let failed = matches!(s.state, State::Idle | State::Failed);
        (s.dead.take(), s.conn.clone(), s.drop_at, failed)
    };
    if dead.is_some() {
        drop(dead);
        // What its handler said last is of no interest any more.
        *sk.ended.lock() = None;
    }
    let Some(conn) = conn else { return };
    match conn.link() {
        Link::Up => return,
        Link::Drop => {
            if conn.disconnect().is_ok() && !(hurry && failed) {
                let now = Instant::<Monotonic>::now();
                sk.lock().drop_at = Some(now + Delta::from_millis(DROP_MS.into()));
                conn.set_link(Link::Dropped);
                sk.arm_timer(DROP_MS);
                return;
            }
        }
        Link::Dropped => {
            // The timer may have run out for what the connection held back.
            if let Some(ms) = drop_at.and_then(until).filter(|_| !(hurry && failed)) {
                return sk.arm_timer(ms);
            }
        }
        Link::Gone => {}
        Link::Over => return release::let_go(&mut sk.lock()),
    }
    sk.stop_timer();
    conn.tear_down();
    *sk.ended.lock() = None;
    let mut s = sk.lock();
    s.tx = None;
    if failed {
        s.conn = None;
        s.rx = Ring::empty();
    }
    release::let_go(&mut s);
}
