// SPDX-License-Identifier: GPL-2.0

//! The flags of `send()` and `recv()`, and memory that is not there.

use crate::{
    config::{
        self,
        rounds, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        spawn,
        step, //
    },
    peers::{
        pair,
        pair_of,
        A,
        B, //
    },
    signals::{
        catch,
        caught,
        interrupt_every, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::{
        Piece,
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
    flags_peek(10) "MSG_PEEK shows bytes and leaves them, also after a part was read",
    flags_peek_waits(10) "MSG_PEEK waits for data; with MSG_DONTWAIT it does not",
    flags_peek_meets(20) "MSG_PEEK and poll() just when a message comes see all of it or nothing",
    flags_waitall(10) "MSG_WAITALL waits for all, or for the end",
    flags_waitall_signal(10) "a signal ends MSG_WAITALL with what there is",
    flags_dontwait(10) "MSG_DONTWAIT on a blocking socket: EAGAIN",
    flags_trunc(10) "MSG_TRUNC drops bytes without copying them, as TCP does",
    flags_nosignal(10) "SIGPIPE comes with EPIPE, and MSG_NOSIGNAL keeps it away",
    flags_more(10) "MSG_MORE holds a small write back until the next",
    flags_more_in_the_end(10) "what MSG_MORE holds back goes in the end by itself, or with shutdown()",
    flags_cork(10) "TCP_CORK holds small writes back until it is taken off",
    flags_nodelay(10) "TCP_NODELAY is set and read, and small writes go at once",
    flags_zero_length(10) "nothing sent is nothing received; nothing asked for is nothing given",
    flags_fault_send(10) "send() from memory that is not there: EFAULT or a part, and nothing is lost",
    flags_fault_recv(10) "recv() into memory that is not there: EFAULT or a part, and nothing is lost",
    flags_fault_large(20) "the same with more than one message's worth of bytes",
    flags_oob_none(10) "MSG_OOB without urgent data: EINVAL",
}

/// Longer than any transport takes on any kernel here to deliver a byte when it wants to.
const SHORTLY: Duration = Duration::from_secs(3);

fn flags_peek() {
    let (a, b) = pair();
    check!(a.send(b"0123456789", 0), Ok(10));
    let mut room = [0; 10];
    check!(
        b.recv(&mut room, libc::MSG_PEEK | libc::MSG_WAITALL),
        Ok(10)
    );
    check!(&room, b"0123456789");
    check!(b.recv_bytes(4), Ok(b"0123".to_vec()));
    let mut room = [0; 4];
    check!(b.recv(&mut room, libc::MSG_PEEK), Ok(4));
    check!(&room, b"4567");
    check!(b.recv(&mut room[..2], libc::MSG_PEEK), Ok(2));
    check!(&room[..2], &b"45"[..]);
    check!(b.recv_bytes(6), Ok(b"456789".to_vec()));
    check!(
        b.recv(&mut room, libc::MSG_PEEK | libc::MSG_DONTWAIT),
        Err(Errno::EAGAIN)
    );
    drop(a);
    check!(b.recv(&mut room, libc::MSG_PEEK), Ok(0));
    check!(b.recv(&mut room, 0), Ok(0));
}

fn flags_peek_waits() {
    let (a, b) = pair();
    check!(
        b.recv(&mut [0], libc::MSG_PEEK | libc::MSG_DONTWAIT),
        Err(Errno::EAGAIN)
    );
    let writer = spawn("writer", move || {
        thread::sleep(Duration::from_millis(100));
        check!(a.send(b"x", 0), Ok(1));
        a
    });
    check!(b.recv(&mut [0], libc::MSG_PEEK), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    join(writer);
}

/// Receives a byte without sleeping, so that the caller keeps its processor.
fn spin(sock: &Sock, flags: libc::c_int) -> sdp_selftests::errno::Result<usize> {
    loop {
        match sock.recv(&mut [0], flags | libc::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => thread::yield_now(),
            received => return received,
        }
    }
}

fn flags_peek_meets() {
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    // As few buffers as there can be: with the second message the peer is short of credit.
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 1));
    must!(listener.listen(1));
    let (a, b) = pair_of(&listener, &must!(listener.name()));
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
    let rounds = rounds(500, 50);
    let writer = spawn("writer", move || {
        for _ in 0..rounds {
            check!(a.send(b"x", 0), Ok(1));
            check!(a.send(b"x", 0), Ok(1));
            check!(spin(&a, 0), Ok(1));
        }
    });
    for round in 0..rounds {
        for message in 1..=2 {
            step!("round {round}: message {message}");
            check!(spin(&b, libc::MSG_PEEK), Ok(1));
            check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Ok(1));
        }
        check!(b.send(b"y", 0), Ok(1));
    }
    join(writer);
}

fn flags_waitall() {
    let (a, b) = pair();
    let writer = spawn("writer", move || {
        for piece in [b"one", b"two"] {
            check!(a.send(piece, 0), Ok(3));
            thread::sleep(Duration::from_millis(100));
        }
        check!(a.send(b"end", 0), Ok(3));
    });
    let mut room = [0; 6];
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(6));
    check!(&room, b"onetwo");
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(3));
    check!(&room[..3], &b"end"[..]);
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(0));
    join(writer);
}

fn flags_waitall_signal() {
    let (a, b) = pair();
    check!(a.send(b"part", 0), Ok(4));
    catch(libc::SIGUSR1, libc::SA_RESTART);
    let interrupter = interrupt_every(Duration::from_millis(300), libc::SIGUSR1);
    let mut room = [0; 100];
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(4));
    drop(interrupter);
    assert!(caught() >= 1);
}

fn flags_dontwait() {
    let (a, b) = pair();
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
    let bytes = [7; 64 << 10];
    let mut sent = 0;
    loop {
        match a.send(&bytes, libc::MSG_DONTWAIT) {
            Ok(len) => sent += len,
            Err(error) => break check!(error, Errno::EAGAIN),
        }
        assert!(sent < 64 << 20, "never says EAGAIN");
    }
    drop(a);
    check!(must!(b.recv_to_end()).len(), sent);
}

fn flags_trunc() {
    let (a, b) = pair();
    check!(a.send(b"dropped!kept", 0), Ok(12));
    let mut room = [0xaa; 8];
    check!(
        b.recv(&mut room, libc::MSG_TRUNC | libc::MSG_WAITALL),
        Ok(8)
    );
    check!(room, [0xaa; 8]);
    check!(b.recv_bytes(4), Ok(b"kept".to_vec()));
}

fn flags_nosignal() {
    let (a, b) = pair();
    catch(libc::SIGPIPE, 0);
    must!(a.shutdown(Shut::Write));
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    check!(caught(), 0);
    check!(a.send(b"x", 0), Err(Errno::EPIPE));
    check!(caught(), 1);
    check!(b.recv(&mut [0], 0), Ok(0));
}

fn flags_more() {
    let (a, b) = pair();
    let start = Instant::now();
    check!(a.send(b"he", libc::MSG_MORE), Ok(2));
    check!(a.send(b"ll", libc::MSG_MORE), Ok(2));
    check!(a.send(b"o", 0), Ok(1));
    let held = start.elapsed() < Duration::from_millis(100);
    let mut room = [0; 8];
    let got = must!(b.recv(&mut room, 0));
    // One message, unless this machine was so slow that the pieces went one by one.
    if held {
        check!(&room[..got], &b"hello"[..]);
    }
}

fn flags_more_in_the_end() {
    let (a, b) = pair();
    check!(a.send(b"late", libc::MSG_MORE), Ok(4));
    assert_ne!(
        must!(b.poll(libc::POLLIN, SHORTLY)),
        0,
        "goes after a while"
    );
    check!(b.recv_bytes(4), Ok(b"late".to_vec()));
    check!(a.send(b"last", libc::MSG_MORE), Ok(4));
    must!(a.shutdown(Shut::Write));
    check!(b.recv_to_end(), Ok(b"last".to_vec()));
}

fn flags_cork() {
    let (a, b) = pair();
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_CORK, 1));
    check!(a.get(libc::IPPROTO_TCP, libc::TCP_CORK), Ok(1));
    let start = Instant::now();
    for piece in [b"a", b"b", b"c"] {
        check!(a.send(piece, 0), Ok(1));
    }
    let early = must!(b.poll(libc::POLLIN, Duration::from_millis(50)));
    let held = start.elapsed() < Duration::from_millis(150);
    if held {
        check!(early, 0);
    }
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_CORK, 0));
    let held = start.elapsed() < Duration::from_millis(150);
    assert_ne!(
        must!(b.poll(libc::POLLIN, SHORTLY)),
        0,
        "goes when the cork is off"
    );
    let mut room = [0; 8];
    let got = must!(b.recv(&mut room, 0));
    if held {
        check!(&room[..got], &b"abc"[..]);
    }
}

fn flags_nodelay() {
    let (a, b) = pair();
    check!(a.get(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(0));
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
    check!(a.get(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
    for byte in 0..50 {
        check!(a.send(&[byte], 0), Ok(1));
    }
    check!(b.recv_bytes(50), Ok((0..50).collect::<Vec<u8>>()));
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 0));
    check!(a.get(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(0));
    check!(
        a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1_u8),
        Err(Errno::EINVAL)
    );
}

fn flags_zero_length() {
    let (a, b) = pair();
    check!(a.send(b"", 0), Ok(0));
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
    check!(a.send(b"x", 0), Ok(1));
    assert_ne!(must!(b.poll(libc::POLLIN, SHORTLY)), 0);
    check!(b.recv(&mut [], 0), Ok(0));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

fn flags_fault_send() {
    let (a, b) = pair();
    let bytes = Random::new(config::get().seed, 80).bytes(200);
    check!(a.sendmsg(&mut [Piece::nowhere(100)], 0), Err(Errno::EFAULT));
    // A part may have gone, up to where the memory ends.
    let sent = match a.sendmsg(&mut [Piece::from(&bytes[..100]), Piece::nowhere(100)], 0) {
        Err(error) => {
            check!(error, Errno::EFAULT);
            0
        }
        Ok(len) => len,
    };
    assert!(sent <= 100, "sent {sent} bytes of 100");
    must!(a.send_all(&bytes[sent..]));
    must!(a.shutdown(Shut::Write));
    check!(b.recv_to_end(), Ok(bytes));
}

fn flags_fault_recv() {
    let (a, b) = pair();
    let bytes = Random::new(config::get().seed, 81).bytes(200);
    must!(a.send_all(&bytes));
    must!(a.shutdown(Shut::Write));
    assert_ne!(must!(b.poll(libc::POLLIN, SHORTLY)), 0);
    check!(b.recv_with_fault(&mut [], 50), Err(Errno::EFAULT));
    let mut room = [0; 60];
    let got = match b.recv_with_fault(&mut room, 100) {
        Err(error) => {
            check!(error, Errno::EFAULT);
            0
        }
        Ok(len) => len,
    };
    assert!(got <= 60, "received {got} bytes into 60");
    check!(&room[..got], &bytes[..got]);
    check!(b.recv_to_end(), Ok(bytes[got..].to_vec()));
    check!(A.socket().error(), Ok(()));
}

fn flags_fault_large() {
    let (a, b) = pair();
    let bytes = Random::new(config::get().seed, 82).bytes(256 << 10);
    let reader = spawn("reader", move || {
        let mut received = Vec::new();
        let mut room = vec![0; 70_000];
        loop {
            match b.recv_with_fault(&mut room, 1000) {
                Ok(0) => return received,
                Ok(len) => received.extend_from_slice(&room[..len]),
                // Nothing is lost: without the hole the bytes come.
                Err(error) => {
                    check!(error, Errno::EFAULT);
                    let len = must!(b.recv(&mut room, 0));
                    received.extend_from_slice(&room[..len]);
                }
            }
        }
    });
    let mut sent = 0;
    while sent < bytes.len() {
        let end = (sent + 100_000).min(bytes.len());
        match a.sendmsg(
            &mut [Piece::from(&bytes[sent..end]), Piece::nowhere(1000)],
            0,
        ) {
            Ok(len) => sent += len,
            Err(error) => {
                check!(error, Errno::EFAULT);
                sent += must!(a.send(&bytes[sent..end], 0));
            }
        }
    }
    drop(a);
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those that were sent"
    );
}

fn flags_oob_none() {
    let (a, b) = pair();
    check!(b.recv(&mut [0], libc::MSG_OOB), Err(Errno::EINVAL));
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}
