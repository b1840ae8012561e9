// SPDX-License-Identifier: GPL-2.0

//! What the cases of zero copy share: sockets that have it on, and the counters that tell of it.
//!
//! With TCP's sockets all bytes are compared and no counters, for it has none.

use crate::{
    config::{
        self,
        patience, //
    },
    harness::{
        check,
        join_scoped,
        must, //
    },
    peers::{
        self,
        becomes, //
    },
};
use sdp_selftests::{
    random::Random,
    sdp::{
        Stats,
        ZCOPY_RETRY,
        ZCOPY_THRESH, //
    },
    sock::Sock,
};
use std::thread;

/// Sends and receives of so many bytes move without a copy, whatever the run's own threshold is.
pub(crate) const THRESHOLD: usize = 64 << 10;
/// A large write.
pub(crate) const BLOCK: usize = 1 << 20;

/// Sets the threshold of `sock`; 0 is off.
pub(crate) fn threshold(sock: &Sock, bytes: usize) {
    if !config::tcp() {
        must!(sock.set(libc::IPPROTO_TCP, ZCOPY_THRESH, bytes as libc::c_int));
    }
}

/// Lets a non-blocking call that fails with `EAGAIN` leave its buffer with `sock`.
pub(crate) fn set_retry(sock: &Sock, on: bool) {
    if !config::tcp() {
        must!(sock.set(libc::IPPROTO_TCP, ZCOPY_RETRY, libc::c_int::from(on)));
    }
}

/// A connection with zero copy on at both ends.
pub(crate) fn pair() -> (Sock, Sock) {
    let (a, b) = peers::pair();
    threshold(&a, THRESHOLD);
    threshold(&b, THRESHOLD);
    (a, b)
}

/// Random bytes, other ones for each `stream`.
pub(crate) fn random(stream: u64, len: usize) -> Vec<u8> {
    Random::new(config::get().seed, 2000 + stream).bytes(len)
}

/// The counters of `sock`; all zero for TCP.
pub(crate) fn stats(sock: &Sock) -> Stats {
    if config::tcp() {
        return Stats::default();
    }
    must!(Stats::of(sock))
}

/// Checks a counter, now or after a moment, but not for TCP: what is lent beyond a call is counted
/// when the peer's answer comes, which may be after the bytes.
#[track_caller]
pub(crate) fn counted(what: &str, sock: &Sock, holds: impl Fn(&Stats) -> bool) {
    if !config::tcp() {
        let counted = becomes(patience(1), || holds(&stats(sock)));
        assert!(counted, "{what}; {:?}", stats(sock));
    }
}

/// How much is to move without a copy on this kernel: on a slow one a peer may take longer than the
/// module waits, and then any part of it may be copied.
fn at_least(percent: u64) -> u64 {
    if config::slow() {
        0
    } else {
        percent
    }
}

/// Checks that `sock` has sent `total` bytes, at least `percent` of them without a copy.
#[track_caller]
pub(crate) fn check_sent(sock: &Sock, total: usize, percent: u64) {
    let (total, percent) = (total as u64, at_least(percent));
    counted(
        &format!("{percent} % of {total} bytes are sent without a copy"),
        sock,
        |stats| stats.sent() == total && stats.sent_without_copy() * 100 >= total * percent,
    );
}

/// Checks that `sock` has received `total` bytes, at least `percent` of them without a copy.
#[track_caller]
pub(crate) fn check_received(sock: &Sock, total: usize, percent: u64) {
    let (total, percent) = (total as u64, at_least(percent));
    counted(
        &format!("{percent} % of {total} bytes are received without a copy"),
        sock,
        |stats| stats.received() == total && stats.received_without_copy() * 100 >= total * percent,
    );
}

/// Checks that no page is pinned and no memory registered, now or after a moment.
#[track_caller]
pub(crate) fn check_settled(sock: &Sock) {
    let settled = || {
        let stats = stats(sock);
        stats.pages_pinned == stats.pages_unpinned && stats.mrs_registered == stats.mrs_invalidated
    };
    assert!(
        becomes(patience(1), settled),
        "no page stays pinned and no memory registered; {:?}",
        stats(sock)
    );
}

/// Checks that no page is pinned, now or after a moment: for a connection that is broken, whose
/// regions went with it.
#[track_caller]
pub(crate) fn check_unpinned(sock: &Sock) {
    let unpinned = || {
        let stats = stats(sock);
        stats.pages_pinned == stats.pages_unpinned
    };
    assert!(
        becomes(patience(1), unpinned),
        "no page stays pinned; {:?}",
        stats(sock)
    );
}

/// Does both at once, the first in a thread of its own: what they give.
pub(crate) fn together<T: Send, U>(
    other: impl FnOnce() -> T + Send,
    here: impl FnOnce() -> U,
) -> (T, U) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("other".to_string());
        let other = must!(thread.spawn_scoped(scope, other));
        let here = here();
        (join_scoped(other), here)
    })
}

/// Moves `source` from `a` into `room` at `b`, which is as long, with one blocking call each.
pub(crate) fn transfer(a: &Sock, b: &Sock, source: &[u8], room: &mut [u8]) {
    let (sent, got) = together(
        || a.send(source, 0),
        || b.recv(room, libc::MSG_WAITALL), //
    );
    check!(sent, Ok(source.len()));
    check!(got, Ok(source.len()));
    check_bytes(room, source);
}

/// Checks that `got` is `expected`, without printing a megabyte where it is not.
#[track_caller]
pub(crate) fn check_bytes(got: &[u8], expected: &[u8]) {
    check!(got.len(), expected.len());
    if let Some(at) = (0..got.len()).find(|at| got[*at] != expected[*at]) {
        let wrong = got
            .iter()
            .zip(expected)
            .filter(|(got, expected)| got != expected);
        panic!(
            "byte {at} of {}\nexpected {:#04x}\n     got {:#04x}; {} bytes are wrong",
            got.len(),
            expected[at],
            got[at],
            wrong.count()
        );
    }
}

/// Moves `source` into `room` over a connection of its own, without a copy, and checks all there is
/// to check.
pub(crate) fn moves(source: &[u8], room: &mut [u8]) {
    let (a, b) = pair();
    transfer(&a, &b, source, room);
    check_sent(&a, source.len(), 99);
    // The first part, up to a page, comes with the advertisement, and so by copy.
    let percent = if source.len() < BLOCK { 98 } else { 99 };
    check_received(&b, source.len(), percent);
    check_settled(&a);
    check_settled(&b);
}
