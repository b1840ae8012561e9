// SPDX-License-Identifier: GPL-2.0

//! Bytes go in at one end and come out at the other: all, in order, once.

use crate::{
    config::{
        self,
        moment,
        patience,
        volume, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        note,
        skip,
        spawn,
        step, //
    },
    peers::{
        pair,
        pair_bounded,
        pair_of,
        B, //
    },
    zcopy::{
        threshold,
        together,
        THRESHOLD, //
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
use sha2::{
    Digest,
    Sha256, //
};
use std::{
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
    sync::Arc,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

cases! {
    transfer_sizes(60) "writes of 1 byte to 1 MiB, around the edges of buffers, there and back",
    transfer_both_ways(120) "both directions at once in random sizes; SHA-256 of each",
    transfer_many(60) "64 connections at a time",
    transfer_small_writes(60) "single bytes until the socket says EAGAIN; a late reader gets them all",
    transfer_blocked_writer(60) "a writer waits for a reader that sleeps, then all arrives",
    transfer_blocked_both(60) "both sides write more than fits before either reads: non-blocking, nothing is lost",
    transfer_vectors(20) "readv() and writev() in odd pieces, empty ones too",
    transfer_vectors_many(20) "as many pieces as there may be; one more is EMSGSIZE",
    transfer_mmsg(20) "sendmmsg() and recvmmsg()",
    transfer_two_writers(60) "two threads write on one socket: nothing is lost or doubled",
    transfer_two_readers(60) "two threads read from one socket: each byte goes to one of them",
    transfer_first_megabyte(60) "a stream reaches its full speed within its first megabyte",
    transfer_idle(20) "a connection that rested for seconds goes on",
    transfer_ping_pong(60) "one byte there and back, many times",
}

fn random(stream: u64) -> Random {
    Random::new(config::get().seed, stream)
}

fn transfer_sizes() {
    let largest = volume(1 << 20, 128 << 10);
    let mut sizes = vec![1, 2, 3];
    for edge in [
        16,
        512,
        4096 - 16,
        4096,
        8192,
        16 << 10,
        32 << 10,
        64 << 10,
        128 << 10,
        1 << 20,
    ] {
        sizes.extend(
            [edge - 1, edge, edge + 1]
                .into_iter()
                .filter(|size| *size <= largest),
        );
    }
    let echo = sizes.clone();
    let (a, b) = pair();
    let server = spawn("echo", move || {
        for size in echo {
            step!("size {size}: receives");
            let bytes = must!(b.recv_bytes(size));
            step!("size {size}: sends back");
            must!(b.send_all(&bytes));
        }
        check!(b.recv(&mut [0], 0), Ok(0));
    });
    let mut random = random(1);
    for size in sizes {
        let bytes = random.bytes(size);
        step!("size {size}: sends");
        check!(a.send(&bytes, 0), Ok(size));
        step!("size {size}: receives");
        let back = must!(a.recv_bytes(size));
        assert!(
            back == bytes,
            "{size} bytes came back as {} others",
            back.len()
        );
    }
    drop(a);
    join(server);
}

/// Sends `total` random bytes in random sizes and ends: their hash.
fn send_random(sock: &Sock, stream: u64, total: usize) -> Vec<u8> {
    let (mut data, mut sizes) = (random(stream), random(stream + 1000));
    let mut hash = Sha256::new();
    let mut sent = 0;
    while sent < total {
        // As many small as large ones: the size of the size is random.
        let limit = 1 << sizes.within(0, 18);
        let bytes = data.bytes(sizes.within(1, limit).min(total - sent));
        step!("sent {sent} of {total}, sends {}", bytes.len());
        must!(sock.send_all(&bytes));
        hash.update(&bytes);
        sent += bytes.len();
    }
    must!(sock.shutdown(Shut::Write));
    hash.finalize().to_vec()
}

/// Receives to the end in random sizes: the length and the hash.
fn recv_random(sock: &Sock, stream: u64) -> (usize, Vec<u8>) {
    let mut sizes = random(stream + 2000);
    let mut hash = Sha256::new();
    let mut room = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        let limit = 1 << sizes.within(0, 18);
        let size = sizes.within(1, limit);
        step!("received {received}, has room for {size}");
        match must!(sock.recv(&mut room[..size], 0)) {
            0 => return (received, hash.finalize().to_vec()),
            got => {
                hash.update(&room[..got]);
                received += got;
            }
        }
    }
}

/// Moves `total` bytes each way over a connection, all at once.
pub(super) fn both_ways(a: Sock, b: Sock, stream: u64, total: usize) {
    let (a, b) = (Arc::new(a), Arc::new(b));
    let sender = |sock: &Arc<Sock>, stream| {
        let sock = sock.clone();
        spawn("sender", move || send_random(&sock, stream, total))
    };
    let receiver = |sock: &Arc<Sock>, stream| {
        let sock = sock.clone();
        spawn("receiver", move || recv_random(&sock, stream))
    };
    let there = (sender(&a, stream), receiver(&b, stream));
    let back = (sender(&b, stream + 1), receiver(&a, stream + 1));
    for (sender, receiver) in [there, back] {
        let sent = join(sender);
        check!(join(receiver), (total, sent));
    }
}

fn transfer_both_ways() {
    let (a, b) = pair();
    both_ways(a, b, 10, volume(16 << 20, 512 << 10));
}

fn transfer_many() {
    let (listener, to) = B.listen();
    let count = config::rounds(64, 16);
    let size = volume(32 << 10, 4 << 10);
    step!("connects");
    let pairs: Vec<_> = (0..count).map(|_| pair_of(&listener, &to)).collect();
    for (a, b) in &pairs {
        // One thread sends and reads, so that a send that waited for its reader would wait in vain.
        threshold(a, 0);
        threshold(b, 0);
    }
    let mut random = random(20);
    for round in 0..3 {
        let bytes: Vec<_> = pairs.iter().map(|_| random.bytes(size)).collect();
        step!("round {round}: sends on all");
        for ((a, b), bytes) in pairs.iter().zip(&bytes) {
            must!(a.send_all(bytes));
            must!(b.send_all(bytes));
        }
        step!("round {round}: receives on all");
        for ((a, b), bytes) in pairs.iter().zip(&bytes).rev() {
            assert!(must!(a.recv_bytes(size)) == *bytes, "other bytes at A");
            assert!(must!(b.recv_bytes(size)) == *bytes, "other bytes at B");
        }
    }
}

fn transfer_small_writes() {
    let (a, b) = pair_bounded(4 << 10, 4 << 10);
    // Each write goes out as it is, as long as the peer has room.
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));

    let mut sent = Vec::new();
    let mut random = random(30);
    let mut byte = [0];
    loop {
        random.fill(&mut byte);
        match a.send(&byte, libc::MSG_DONTWAIT) {
            Ok(_) => sent.push(byte[0]),
            Err(error) => {
                check!(error, Errno::EAGAIN);
                // What the network still has to take may make room once more.
                if must!(a.poll(libc::POLLOUT, moment())) == 0 {
                    break;
                }
            }
        }
        assert!(sent.len() < 4 << 20, "never says EAGAIN");
    }
    step!("{} bytes are on their way", sent.len());
    let reader = spawn("reader", move || must!(b.recv_to_end()));
    assert_ne!(
        must!(a.poll(libc::POLLOUT, patience(10))),
        0,
        "room for a byte"
    );
    drop(a);
    assert!(
        join(reader) == sent,
        "the bytes that arrive are those that were sent"
    );
}

fn transfer_blocked_writer() {
    let (a, b) = pair_bounded(64 << 10, 64 << 10);
    let total = volume(8 << 20, 1 << 20);
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let done = done.clone();
        spawn("writer", move || {
            let bytes = random(40).bytes(total);
            check!(a.send(&bytes, 0), Ok(total));
            done.store(true, Ordering::Relaxed);
            bytes
        })
    };
    thread::sleep(Duration::from_millis(500));
    assert!(
        !done.load(Ordering::Relaxed),
        "{total} bytes fit without a reader"
    );
    step!("receives");
    let received = must!(b.recv_to_end());
    assert!(
        received == join(writer),
        "the bytes that arrive are those that were sent"
    );
}

fn transfer_blocked_both() {
    let (a, b) = pair();
    let bytes = random(50).bytes(64 << 10);
    let fill = |sock: &Sock| {
        let mut sent = Vec::new();
        loop {
            match sock.send(&bytes, libc::MSG_DONTWAIT) {
                Ok(len) => sent.extend_from_slice(&bytes[..len]),
                Err(error) => {
                    check!(error, Errno::EAGAIN);
                    return sent;
                }
            }
        }
    };
    step!("fills both ways");
    let (there, back) = (fill(&a), fill(&b));
    must!(a.shutdown(Shut::Write));
    must!(b.shutdown(Shut::Write));
    step!("empties both ways");
    assert!(must!(a.recv_to_end()) == back, "the way back");
    assert!(must!(b.recv_to_end()) == there, "the way there");
}

fn transfer_vectors() {
    let (a, b) = pair();
    let sizes = [0, 1, 0, 4095, 3, 4097, 0, 17, 10_000, 0];
    let bytes = random(60).bytes(sizes.iter().sum());
    let mut rest = &bytes[..];
    let mut pieces = Vec::new();
    for size in sizes {
        let (piece, after) = rest.split_at(size);
        pieces.push(Piece::from(piece));
        rest = after;
    }
    check!(a.sendmsg(&mut pieces, 0), Ok(bytes.len()));

    let mut room = vec![0; bytes.len()];
    let (first, others) = room.split_at_mut(5);
    let (second, third) = others.split_at_mut(9000);
    let mut room_pieces = [first, &mut [][..], second, third];
    let got = must!(b.recv_vectored(&mut room_pieces, libc::MSG_WAITALL));
    check!(got, (bytes.len(), 0));
    assert!(room == bytes, "other bytes");
}

fn transfer_vectors_many() {
    let (a, b) = pair();
    let bytes = random(61).bytes(1025);
    let pieces = |count| {
        bytes
            .chunks(1)
            .take(count)
            .map(Piece::from)
            .collect::<Vec<_>>()
    };
    check!(a.sendmsg(&mut pieces(1025), 0), Err(Errno::EMSGSIZE));
    check!(a.sendmsg(&mut pieces(1024), 0), Ok(1024));
    check!(b.recv_bytes(1024), Ok(bytes[..1024].to_vec()));
    check!(a.sendmsg(&mut [], 0), Ok(0));
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
}

fn transfer_mmsg() {
    let (a, b) = pair();
    let bytes = random(62).bytes(6000);
    let (first, rest) = bytes.split_at(1000);
    let (second, third) = rest.split_at(2000);
    check!(
        a.sendmmsg(&[first, second, third]),
        Ok(vec![1000, 2000, 3000])
    );
    let mut room = vec![0; 6000];
    let (one, two) = room.split_at_mut(3000);
    // Each message of a stream is what `recvmsg()` gives: filled, with MSG_WAITALL.
    check!(
        b.recvmmsg(&mut [one, two], libc::MSG_WAITALL),
        Ok(vec![3000, 3000])
    );
    assert!(room == bytes, "other bytes");
}

fn transfer_two_writers() {
    let (a, b) = pair();
    let a = Arc::new(a);
    let each = volume(2 << 20, 256 << 10);
    let writers: Vec<_> = [0x11, 0x22]
        .into_iter()
        .map(|mark| {
            let a = a.clone();
            spawn("writer", move || must!(a.send_all(&vec![mark; each])))
        })
        .collect();
    let received = must!(b.recv_bytes(2 * each));
    writers.into_iter().for_each(join);
    let count = |mark| received.iter().filter(|byte| **byte == mark).count();
    check!((count(0x11), count(0x22)), (each, each));
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
}

fn transfer_two_readers() {
    let (a, b) = pair();
    let b = Arc::new(b);
    let total = volume(2 << 20, 256 << 10);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let b = b.clone();
            spawn("reader", move || must!(b.recv_to_end()))
        })
        .collect();
    let bytes = random(70).bytes(total);
    must!(a.send_all(&bytes));
    drop(a);
    // Whoever got a byte, it is one of those sent; the sums tell of loss and doubling.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let parts: Vec<_> = readers.into_iter().map(join).collect();
    check!(parts.iter().map(Vec::len).sum::<usize>(), total);
    check!(parts.iter().map(|part| sum(part)).sum::<u64>(), sum(&bytes));
}

/// The median, which what else the machine does moves little.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn transfer_first_megabyte() {
    if config::slow() {
        skip("the checks of this kernel take most of the time");
    }
    const MIB: usize = 1 << 20;
    const COUNT: usize = 6;
    let block = vec![0x5a; MIB];
    // Without a copy, and with one.
    for bytes in [THRESHOLD, 0] {
        let mut ratios = Vec::new();
        for _ in 0..config::rounds(11, 5) {
            let (a, b) = pair();
            threshold(&a, bytes);
            threshold(&b, bytes);
            let mut room = vec![0; MIB];
            let ((), times) = together(
                || {
                    for _ in 0..COUNT {
                        must!(a.send_all(&block));
                    }
                },
                || {
                    assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
                    let mut receive = || {
                        let start = Instant::now();
                        check!(b.recv_all(&mut room), Ok(MIB));
                        start.elapsed().as_secs_f64()
                    };
                    (0..COUNT).map(|_| receive()).collect::<Vec<_>>()
                },
            );
            ratios.push(times[0] / median(times[1..].to_vec()));
        }
        let ratio = median(ratios);
        note(&format!(
            "with a threshold of {bytes} the first MiB takes {ratio:.2} times as long as later ones"
        ));
        assert!(ratio < 2.0, "the first MiB takes {ratio:.2} times as long");
    }
}

fn transfer_idle() {
    let (a, b) = pair();
    for _ in 0..2 {
        check!(a.send(b"there", 0), Ok(5));
        check!(b.recv_bytes(5), Ok(b"there".to_vec()));
        check!(b.send(b"back", 0), Ok(4));
        check!(a.recv_bytes(4), Ok(b"back".to_vec()));
        thread::sleep(Duration::from_secs(3));
    }
}

fn transfer_ping_pong() {
    let (a, b) = pair();
    let rounds = volume(2000, 200);
    let server = spawn("server", move || {
        let mut byte = [0];
        while must!(b.recv(&mut byte, 0)) == 1 {
            check!(b.send(&byte, 0), Ok(1));
        }
    });
    for round in 0..rounds {
        let byte = [round as u8];
        check!(a.send(&byte, 0), Ok(1));
        check!(a.recv_bytes(1), Ok(byte.to_vec()));
    }
    drop(a);
    join(server);
}
