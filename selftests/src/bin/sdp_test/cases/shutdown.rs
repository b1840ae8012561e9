// SPDX-License-Identifier: GPL-2.0

//! The end of a connection: half, whole, polite and not.

use crate::{
    config::{
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        spawn,
        step, //
    },
    peers::{
        becomes,
        pair,
        pair_of,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    shutdown_write(10) "SHUT_WR: the peer reads the end and may go on sending; from either side",
    shutdown_write_after_data(20) "SHUT_WR comes after all that was sent before",
    shutdown_read(10) "SHUT_RD: recv() says the end and does not wait",
    shutdown_read_then_data(10) "data that comes after SHUT_RD can be read, as Linux has it for TCP",
    shutdown_both(10) "SHUT_RDWR ends both ways; a second shutdown() is allowed",
    shutdown_bad(5) "shutdown() of no known side: EINVAL",
    shutdown_wakes(10) "shutdown() wakes this side's reader and writer",
    shutdown_simultaneous(10) "both sides end at once",
    close_end(10) "close(): the peer reads what was sent and then the end, again and again",
    close_write(10) "writes to a peer that has closed: EPIPE or ECONNRESET soon",
    close_unread(10) "close() with unread data resets: ECONNRESET",
    close_linger_zero(10) "SO_LINGER of 0 s resets: ECONNRESET",
    close_linger_waits(20) "SO_LINGER: close() waits until the peer has all",
    close_linger_ends(20) "SO_LINGER: close() waits no longer than it says",
    close_background(20) "without SO_LINGER close() returns at once, and all arrives",
    close_wakes_blocked(20) "a reset wakes the peer's blocked reader and writer",
    close_half_open(10) "both halves closed one after the other, in both orders",
}

/// Sends until the socket takes no more and nothing moves on either: how many bytes it took.
fn fill(sock: &Sock) -> usize {
    let bytes = [7; 16 << 10];
    let mut sent = 0;
    while must!(sock.poll(libc::POLLOUT, moment())) != 0 {
        match sock.send(&bytes, libc::MSG_DONTWAIT) {
            Ok(len) => sent += len,
            Err(error) => check!(error, Errno::EAGAIN),
        }
    }
    sent
}

/// A connection with small buffers, so that it is soon full.
fn narrow_pair() -> (Sock, Sock) {
    let (listener, to) = B.listen();
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 32 << 10));
    let a = A.socket();
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 32 << 10));
    must!(a.connect(&to));
    let b = must!(listener.accept());
    (a, b)
}

fn shutdown_write() {
    for swap in [false, true] {
        let (first, second) = pair();
        let (first, second) = if swap {
            (second, first)
        } else {
            (first, second)
        };
        check!(first.send(b"before", 0), Ok(6));
        check!(first.shutdown(Shut::Write), Ok(()));
        check!(first.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
        check!(second.recv_to_end(), Ok(b"before".to_vec()));
        check!(second.recv(&mut [0], 0), Ok(0));
        for _ in 0..3 {
            check!(second.send(b"after", 0), Ok(5));
            check!(first.recv_bytes(5), Ok(b"after".to_vec()));
        }
        check!(second.shutdown(Shut::Write), Ok(()));
        check!(first.recv(&mut [0], 0), Ok(0));
        check!(second.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    }
}

fn shutdown_write_after_data() {
    let (a, b) = narrow_pair();
    let sent = fill(&a);
    must!(a.shutdown(Shut::Write));
    thread::sleep(Duration::from_millis(200));
    check!(must!(b.recv_to_end()).len(), sent);
}

fn shutdown_read() {
    let (a, b) = pair();
    check!(a.shutdown(Shut::Read), Ok(()));
    check!(a.recv(&mut [0], 0), Ok(0));
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    check!(
        must!(a.poll(libc::POLLIN, Duration::ZERO)) & libc::POLLIN,
        libc::POLLIN
    );
}

fn shutdown_read_then_data() {
    let (a, b) = pair();
    check!(a.shutdown(Shut::Read), Ok(()));
    check!(a.recv(&mut [0], 0), Ok(0));
    check!(b.send(b"late", 0), Ok(4));
    assert!(becomes(patience(5), || a.ioctl(libc::FIONREAD) == Ok(4)));
    check!(a.recv_bytes(4), Ok(b"late".to_vec()));
    check!(a.recv(&mut [0], 0), Ok(0));
}

fn shutdown_both() {
    let (a, b) = pair();
    check!(a.shutdown(Shut::Both), Ok(()));
    check!(a.recv(&mut [0], 0), Ok(0));
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    check!(b.recv(&mut [0], 0), Ok(0));
    check!(a.shutdown(Shut::Both), Ok(()));
    check!(b.shutdown(Shut::Both), Ok(()));
    // With both ends ended there is no connection.
    assert!(becomes(patience(5), || a.shutdown(Shut::Write)
        == Err(Errno::ENOTCONN)));
}

fn shutdown_bad() {
    let (a, _b) = pair();
    for how in [3, -1] {
        // SAFETY: `shutdown()` takes no memory.
        let result = unsafe { libc::shutdown(a.fd(), how) };
        check!(Errno::check(result), Err(Errno::EINVAL));
    }
}

fn shutdown_wakes() {
    let (a, _b) = narrow_pair();
    fill(&a);
    let reader = must!(a.dup());
    let reader = spawn("reader", move || reader.recv(&mut [0], 0));
    let writer = must!(a.dup());
    let writer = spawn("writer", move || {
        writer.send(&[1; 1 << 20], libc::MSG_NOSIGNAL)
    });
    thread::sleep(Duration::from_millis(200));
    check!(a.shutdown(Shut::Both), Ok(()));
    step!("the reader wakes");
    check!(join(reader), Ok(0));
    step!("the writer wakes");
    match join(writer) {
        // A part may have gone before.
        Ok(len) => assert!(len < 1 << 20, "all went"),
        Err(error) => check!(error, Errno::EPIPE),
    }
}

fn shutdown_simultaneous() {
    let (listener, to) = B.listen();
    for round in 0..20 {
        step!("round {round}");
        let (a, b) = pair_of(&listener, &to);
        let other = spawn("other side", move || {
            must!(b.shutdown(Shut::Write));
            check!(b.recv(&mut [0], 0), Ok(0));
        });
        must!(a.shutdown(Shut::Write));
        check!(a.recv(&mut [0], 0), Ok(0));
        join(other);
    }
}

fn close_end() {
    let (a, b) = pair();
    check!(a.send(b"rest", 0), Ok(4));
    drop(a);
    check!(b.recv_bytes(4), Ok(b"rest".to_vec()));
    for _ in 0..3 {
        check!(b.recv(&mut [0], 0), Ok(0));
    }
}

fn close_write() {
    let (a, b) = pair();
    drop(b);
    check!(a.recv(&mut [0], 0), Ok(0));
    let mut error = None;
    assert!(
        becomes(patience(5), || {
            error = a.send(b"anyone?", libc::MSG_NOSIGNAL).err();
            error.is_some()
        }),
        "writes to a closed peer go on for ever"
    );
    check_any!(error, [Some(Errno::EPIPE), Some(Errno::ECONNRESET)]);
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
}

fn close_unread() {
    let (a, b) = pair();
    check!(a.send(b"never read", 0), Ok(10));
    assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
    drop(b);
    check!(a.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    // The error is told once, then the socket is one without a connection.
    check!(a.recv(&mut [0], 0), Ok(0));
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
}

fn close_linger_zero() {
    for unsent in [false, true] {
        let (a, b) = narrow_pair();
        if unsent {
            fill(&a);
        }
        must!(a.set_linger(0));
        drop(a);
        assert!(becomes(patience(5), || must!(
            b.poll(libc::POLLIN, Duration::ZERO)
        ) & libc::POLLHUP
            != 0));
        let mut room = vec![0; 64 << 10];
        // What has arrived before the reset may still be read.
        let error = loop {
            match b.recv(&mut room, 0) {
                Ok(len) => assert_ne!(len, 0, "the end, where a reset should be"),
                Err(error) => break error,
            }
        };
        check!(error, Errno::ECONNRESET);
    }
}

fn close_linger_waits() {
    let (a, b) = narrow_pair();
    let sent = fill(&a);
    must!(a.set_linger(15));
    let reader = spawn("reader", move || {
        thread::sleep(Duration::from_millis(500));
        must!(b.recv_to_end()).len()
    });
    let start = Instant::now();
    drop(a);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(300),
        "close() took only {took:?}"
    );
    assert!(took < Duration::from_secs(14), "close() took {took:?}");
    check!(join(reader), sent);
}

fn close_linger_ends() {
    let (a, _b) = narrow_pair();
    fill(&a);
    must!(a.set_linger(1));
    let start = Instant::now();
    drop(a);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(900),
        "close() took only {took:?}"
    );
    assert!(
        took < Duration::from_secs(1) + patience(2),
        "close() took {took:?}"
    );
}

fn close_background() {
    let (a, b) = narrow_pair();
    let sent = fill(&a);
    let start = Instant::now();
    drop(a);
    let took = start.elapsed();
    assert!(took < patience(1), "close() took {took:?}");
    thread::sleep(Duration::from_millis(300));
    check!(must!(b.recv_to_end()).len(), sent);
}

fn close_wakes_blocked() {
    let (a, b) = narrow_pair();
    fill(&a);
    let reader = must!(a.dup());
    let reader = spawn("reader", move || reader.recv(&mut [0], 0));
    let writer = must!(a.dup());
    let writer = spawn("writer", move || {
        writer.send(&[1; 1 << 20], libc::MSG_NOSIGNAL)
    });
    thread::sleep(Duration::from_millis(200));
    drop(b);
    // One of them is told of the reset, the other finds no connection.
    step!("the reader wakes");
    let read = join(reader);
    check_any!(read, [Ok(0), Err(Errno::ECONNRESET)]);
    step!("the writer wakes");
    match join(writer) {
        Ok(len) => assert!(len < 1 << 20, "all went"),
        Err(error) => check_any!(error, [Errno::EPIPE, Errno::ECONNRESET]),
    }
}

fn close_half_open() {
    for swap in [false, true] {
        let (first, second) = pair();
        let (first, second) = if swap {
            (second, first)
        } else {
            (first, second)
        };
        must!(first.shutdown(Shut::Write));
        check!(second.recv(&mut [0], 0), Ok(0));
        check!(second.send(b"last", 0), Ok(4));
        drop(second);
        check!(first.recv_to_end(), Ok(b"last".to_vec()));
        drop(first);
    }
}
