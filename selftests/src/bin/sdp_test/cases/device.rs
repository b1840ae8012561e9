// SPDX-License-Identifier: GPL-2.0

//! Links that fail, and devices that go.

use crate::{
    config::{
        self,
        patience,
        volume, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        skip,
        spawn,
        step, //
    },
    peers::{
        becomes,
        iwarp,
        pair,
        pair_of,
        rdma_add,
        sdp_only,
        A,
        B, //
    },
    zcopy::{
        self,
        check_unpinned,
        set_retry,
        together,
        BLOCK, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::Sock, //
};
use std::{
    process::Command,
    sync::Arc,
    thread,
    time::Duration, //
};

cases! {
    link_outage(60) "a network that drops everything for half a second: the stream goes on",
    link_lossy(120) "a link that loses, doubles and delays packets: the stream is whole",
    device_removed(120) "the RDMA device goes while data flows: both sides are told, and a new device serves",
    device_removed_zcopy(120) "the same with blocks that move without a copy, both ways",
    device_removed_advertised(120) "the RDMA device goes while a send is advertised and nobody reads",
    device_removed_kept(120) "the RDMA device goes while a call's buffer is kept that the program never asks for again",
    device_removed_idle(60) "the RDMA device goes under a listener, an idle and an unaccepted connection",
}

/// Sends `bytes` from A to B while `disturb` runs.
fn transfer(bytes: Vec<u8>, disturb: impl FnOnce()) {
    let (a, b) = pair();
    if !iwarp() {
        // rxe does registrations again when it retransmits, and fails the queue pair for it.
        zcopy::threshold(&a, 0);
        zcopy::threshold(&b, 0);
    }
    let reader = spawn("reader", move || must!(b.recv_to_end()));
    let copy = bytes.clone();
    let writer = spawn("writer", move || must!(a.send_all(&copy)));
    disturb();
    step!("the rest is sent");
    join(writer);
    step!("the rest is received");
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those that were sent"
    );
}

fn random(len: usize) -> Vec<u8> {
    Random::new(config::get().seed, 110).bytes(len)
}

/// Lets netem do `operation` at A's interface.
fn netem(operation: &str, words: &[&str]) -> bool {
    let mut all = vec![
        "netns",
        "exec",
        A.netns(),
        "tc",
        "qdisc",
        operation,
        "dev",
        A.interface(),
        "root",
        "netem",
    ];
    all.extend(words);
    must!(Command::new("ip").args(all).output())
        .status
        .success()
}

/// Puts netem in before there is traffic: a change of the discipline itself refuses packets for a moment, which
/// breaks the queue pairs of a software RDMA device.
fn netem_on(words: &[&str]) {
    if !netem("add", words) {
        skip("this kernel has no netem");
    }
}

/// An interface that goes down is no case here: a software RDMA device then breaks its queue pairs for good, those of
/// its connection manager too, as soon as the interface refuses a packet.
fn link_outage() {
    netem_on(&["loss", "0%"]);
    transfer(random(volume(16 << 20, 512 << 10)), || {
        thread::sleep(Duration::from_millis(100));
        assert!(netem("change", &["loss", "100%"]));
        thread::sleep(Duration::from_millis(500));
        assert!(netem("change", &["loss", "0%"]));
    });
    assert!(netem("del", &[]));
}

fn link_lossy() {
    netem_on(&[
        "loss",
        "1%",
        "duplicate",
        "1%",
        "delay",
        "1ms",
        "1ms",
        "reorder",
        "5%",
        "limit",
        "10000",
    ]);
    transfer(random(volume(256 << 10, 64 << 10)), || ());
    assert!(netem("del", &[]));
}

fn rdma_delete() {
    B.command(&["rdma", "link", "delete", B.device()]);
}

/// Adds B's device again and waits until connections work.
fn rdma_restore() {
    step!("the device comes back");
    rdma_add(B.netns(), B.device(), B.interface());
    let works = becomes(patience(10), || {
        let listener = B.socket();
        if listener.bind(&B.at(0)).is_err() {
            return false;
        }
        must!(listener.listen(1));
        A.socket().connect(&must!(listener.name())).is_ok()
    });
    assert!(works, "no new connections after the device came back");
    let (a, b) = pair();
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

fn needs_device() {
    sdp_only("TCP needs no RDMA device");
}

fn device_removed() {
    needs_device();
    let (a, b) = pair();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let writer = |sock: &Arc<Sock>| {
        let sock = sock.clone();
        spawn("writer", move || loop {
            if let Err(error) = sock.send(&[1; 16 << 10], libc::MSG_NOSIGNAL) {
                return error;
            }
        })
    };
    let reader = |sock: &Arc<Sock>| {
        let sock = sock.clone();
        spawn("reader", move || loop {
            match sock.recv(&mut [0; 16 << 10], 0) {
                // The error was told to the writer.
                Ok(0) => return Errno::EPIPE,
                Ok(_) => (),
                Err(error) => return error,
            }
        })
    };
    let all = [
        ("A's writer", writer(&a)),
        ("A's reader", reader(&a)),
        ("B's writer", writer(&b)),
        ("B's reader", reader(&b)),
    ];
    thread::sleep(Duration::from_millis(300));
    rdma_delete();
    for (who, thread) in all {
        step!("{who} is told");
        let error = join(thread);
        let fine = [
            Errno::ENODEV,
            Errno::ECONNRESET,
            Errno::ETIMEDOUT,
            Errno::EPIPE,
        ];
        assert!(
            fine.contains(&error),
            "{who}\nexpected one of {fine:?}\n     got {error}"
        );
    }
    drop((a, b));
    rdma_restore();
}

fn device_removed_idle() {
    needs_device();
    let (listener, to) = B.listen();
    let (a, b) = pair_of(&listener, &to);
    let _waiting = A.connect(&to);
    check!(a.send(b"unread", 0), Ok(6));
    assert_ne!(must!(b.poll(libc::POLLIN, patience(3))), 0);
    let sleeper = must!(b.dup());
    let sleeper = spawn("sleeper", move || sleeper.poll(0, patience(20)));
    rdma_delete();
    step!("a sleeping poll() is told");
    assert_ne!(must!(join(sleeper)) & (libc::POLLERR | libc::POLLHUP), 0);
    step!("what had come can be read");
    check!(b.recv_bytes(6), Ok(b"unread".to_vec()));
    check_any!(
        b.recv(&mut [0], 0),
        [
            Err(Errno::ENODEV),
            Err(Errno::ECONNRESET),
            Err(Errno::ETIMEDOUT)
        ]
    );
    must!(listener.set_nonblocking(true));
    step!("accept() does not wait for what cannot come");
    while let Ok(server) = listener.accept() {
        let _ = server.recv(&mut [0], libc::MSG_DONTWAIT);
    }
    drop((a, b, listener));
    rdma_restore();
}

fn device_removed_zcopy() {
    needs_device();
    let (a, b) = zcopy::pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    let (a, b) = (Arc::new(a), Arc::new(b));
    let writer = |sock: &Arc<Sock>, flags| {
        let sock = sock.clone();
        spawn("writer", move || {
            let block = vec![1; BLOCK];
            loop {
                match sock.send(&block, flags | libc::MSG_NOSIGNAL) {
                    Ok(_) => (),
                    // The room for notices; they are taken by nobody.
                    Err(Errno::ENOBUFS) => thread::sleep(Duration::from_millis(10)),
                    Err(error) => return error,
                }
            }
        })
    };
    let reader = |sock: &Arc<Sock>| {
        let sock = sock.clone();
        spawn("reader", move || {
            let mut room = vec![0; BLOCK];
            loop {
                match sock.recv(&mut room, 0) {
                    // The error was told to the writer.
                    Ok(0) => return Errno::EPIPE,
                    Ok(_) => (),
                    Err(error) => return error,
                }
            }
        })
    };
    let all = [
        ("A's writer", writer(&a, libc::MSG_ZEROCOPY)),
        ("A's reader", reader(&a)),
        ("B's writer", writer(&b, 0)),
        ("B's reader", reader(&b)),
    ];
    thread::sleep(Duration::from_millis(300));
    rdma_delete();
    for (who, thread) in all {
        step!("{who} is told");
        let error = join(thread);
        let fine = [
            Errno::ENODEV,
            Errno::ECONNRESET,
            Errno::ETIMEDOUT,
            Errno::EPIPE,
        ];
        assert!(
            fine.contains(&error),
            "{who}\nexpected one of {fine:?}\n     got {error}"
        );
    }
    check_unpinned(&a);
    check_unpinned(&b);
    drop((a, b));
    rdma_restore();
}

fn device_removed_advertised() {
    needs_device();
    for side in ["the sender's", "the receiver's"] {
        step!("{side} device goes");
        let (x, y) = zcopy::pair();
        let (a, b) = if side == "the sender's" {
            (y, x)
        } else {
            (x, y)
        };
        let block = vec![1; 4 * BLOCK];
        let (sent, _) = together(
            || a.send(&block, libc::MSG_NOSIGNAL),
            || {
                thread::sleep(Duration::from_millis(100));
                rdma_delete();
            },
        );
        match sent {
            Ok(sent) => assert!(sent < block.len(), "all was sent"),
            Err(error) => check_any!(
                error,
                [
                    Errno::ENODEV,
                    Errno::ECONNRESET,
                    Errno::ETIMEDOUT,
                    Errno::EPIPE
                ]
            ),
        }
        check_unpinned(&a);
        drop((a, b));
        rdma_restore();
    }
}

fn device_removed_kept() {
    needs_device();
    let (a, b) = zcopy::pair();
    set_retry(&b, true);
    must!(b.set_nonblocking(true));
    let block = vec![1; 4 * BLOCK];
    let writer = spawn("writer", move || a.send(&block, libc::MSG_NOSIGNAL));
    let mut room = vec![0; 4 * BLOCK];
    step!("a receive leaves its buffer");
    let kept = becomes(patience(3), || {
        b.recv(&mut room, 0) == Err(Errno::EAGAIN) && {
            let stats = zcopy::stats(&b);
            stats.pages_pinned > stats.pages_unpinned
        }
    });
    assert!(kept, "no buffer was kept");
    rdma_delete();
    step!("the sender is told");
    let _ = join(writer);
    check_unpinned(&b);
    rdma_restore();
    step!("the receive is made again");
    check_any!(
        b.recv(&mut room, 0).map(|_| ()),
        [
            Ok(()),
            Err(Errno::ENODEV),
            Err(Errno::ECONNRESET),
            Err(Errno::ETIMEDOUT)
        ]
    );
}
