// SPDX-License-Identifier: GPL-2.0

//! Links that fail, and devices that go.

use super::{
    connect::{
        disconnect,
        finish,
        reset,
        Reset, //
    },
    wire::hello_ack,
    zerocopy_async::{
        keep_send,
        retry_pair, //
    },
};
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
        check_any,
        join,
        must,
        note,
        spawn,
        step, //
    },
    hole::Hole,
    memory::PAGE,
    peers::{
        becomes,
        iwarp,
        netem,
        pair,
        pair_of,
        rdma_add,
        sdp_only,
        Side,
        A,
        B, //
    },
    raw_peer::Listener,
    zcopy::{
        self,
        check_bytes,
        check_unpinned,
        together,
        BLOCK, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::{
        Piece,
        Sock, //
    },
};
use std::{
    sync::{
        mpsc,
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    link_outage(60) "a network that drops everything for half a second: the stream goes on",
    link_lossy(120) "a link that loses, doubles and delays packets: the stream is whole",
    device_removed(120) "the RDMA device goes while data flows: both sides are told, and a new device serves",
    device_removed_zcopy(120) "the same with blocks that move without a copy, both ways",
    device_removed_advertised(120) "the RDMA device goes while a send is advertised and nobody reads",
    device_removed_idle(60) "the RDMA device goes under a listener, an idle and an unaccepted connection",
    device_removed_reused(60) "the RDMA device goes under a listener that was a connection",
    device_removed_send_fault(60) "the RDMA device goes while a send sleeps in a page fault",
    device_removed_recv_fault(60) "the RDMA device goes while a receive sleeps in a page fault",
    device_removed_connected_asleep(60) "the same while a call sleeps with a connection's lock",
    device_removed_connecting_asleep(60) "the same with that of a socket that connects",
    device_removed_listening_asleep(60) "the same with that of a listener that has a queue",
    device_removed_kept(60) "the RDMA device goes while it uses a buffer that no call will ask for",
}

/// Bytes of a call of [`transfer`].
const PIECE: usize = 16 << 10;

/// Sends `bytes` from A to B while `disturb` runs, copied or lent.
fn transfer(bytes: Vec<u8>, lent: bool, disturb: impl FnOnce()) {
    step!("lent: {lent}");
    let (a, b) = pair();
    if !config::tcp() {
        let threshold = if lent { PIECE } else { 0 };
        zcopy::threshold(&a, threshold);
        zcopy::threshold(&b, threshold);
    }
    let reader = spawn("reader", move || must!(b.recv_to_end()));
    let copy = bytes.clone();
    let writer = spawn("writer", move || {
        copy.chunks(PIECE)
            .for_each(|piece| must!(a.send_all(piece)));
    });
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

/// An interface that goes down is no case here: a software RDMA device then breaks its queue pairs
/// for good, those of its connection manager too, as soon as the interface refuses a packet.
fn link_outage() {
    for lent in [false, true] {
        transfer(random(volume(8 << 20, 256 << 10)), lent, || {
            thread::sleep(Duration::from_millis(100));
            netem(&["loss", "100%"]);
            thread::sleep(Duration::from_millis(500));
            netem(&[]);
        });
    }
}

fn link_lossy() {
    let words = "loss 1% duplicate 1% delay 1ms 1ms reorder 5%";
    let words: Vec<_> = words.split(' ').collect();
    netem(&words);
    for lent in [false, true] {
        transfer(random(volume(128 << 10, 32 << 10)), lent, || ());
    }
    netem(&[]);
}

/// Lets the device of `side` go, for which nothing that a program does may make it wait.
fn rdma_delete_soon(side: Side) {
    step!("the device of {side:?} goes");
    let (done, end) = mpsc::channel();
    let start = Instant::now();
    spawn("remover", move || {
        side.command(&["rdma", "link", "delete", side.device()]);
        let _ = done.send(());
    });
    // On a slow kernel one that nothing uses takes up to 20 s, and after a minute the wait for it
    // is taken for a hang.
    let limit = if config::slow() {
        Duration::from_secs(50)
    } else {
        patience(5)
    };
    let gone = end.recv_timeout(limit).is_ok();
    assert!(
        gone,
        "after {limit:?} the device of {side:?} is still there"
    );
    note(&format!("the device is gone after {:.1?}", start.elapsed()));
}

/// Adds the device of `side` again and waits until connections work.
fn rdma_restore(side: Side) {
    step!("the device comes back");
    rdma_add(side.netns(), side.device(), side.interface());
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

/// Checks what a call says of a connection whose device went, here or at the peer.
#[track_caller]
fn check_told(error: Errno) {
    check_any!(
        error,
        [
            Errno::ENODEV,
            Errno::ECONNRESET,
            Errno::ETIMEDOUT,
            Errno::EPIPE
        ]
    );
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
    rdma_delete_soon(B);
    for (who, thread) in all {
        step!("{who} is told");
        check_told(join(thread));
    }
    drop((a, b));
    rdma_restore(B);
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
    rdma_delete_soon(B);
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
    drop((a, b));
    rdma_restore(B);
    step!("the listener serves the new device");
    must!(listener.set_nonblocking(false));
    pair_of(&listener, &to);
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
    rdma_delete_soon(B);
    for (who, thread) in all {
        step!("{who} is told");
        check_told(join(thread));
    }
    check_unpinned(&a);
    check_unpinned(&b);
    drop((a, b));
    rdma_restore(B);
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
                rdma_delete_soon(B);
            },
        );
        match sent {
            Ok(sent) => assert!(sent < block.len(), "all was sent"),
            Err(error) => check_told(error),
        }
        check_unpinned(&a);
        drop((a, b));
        rdma_restore(B);
    }
}

fn device_removed_reused() {
    needs_device();
    for side in [A, B] {
        let (a, b) = pair();
        let (sock, peer) = if side == A { (a, b) } else { (b, a) };
        reset(&sock, peer, Reset::Linger);
        disconnect(&sock);
        // siw listens in the namespace of the thread that asks it to.
        side.enter();
        must!(sock.bind(&side.at(0)));
        must!(sock.listen(1));
        rdma_delete_soon(side);
        drop(sock);
        rdma_restore(side);
    }
}

fn device_removed_send_fault() {
    needs_device();
    // The first is copied, the second would be lent.
    for len in [PAGE, BLOCK] {
        let (a, b) = zcopy::pair();
        let hole = Hole::new(len);
        let (sent, _) = together(
            || b.sendmsg(&mut [Piece::at(hole.start(), len)], libc::MSG_NOSIGNAL),
            || {
                hole.asleep(1);
                rdma_delete_soon(B);
                hole.fill();
            },
        );
        match sent {
            Ok(sent) => panic!("{sent} of {len} bytes were sent"),
            Err(error) => check_told(error),
        }
        check_unpinned(&b);
        drop((a, b));
        rdma_restore(B);
    }
}

fn device_removed_recv_fault() {
    needs_device();
    // The first is there to be copied, the second is advertised.
    for len in [PAGE, BLOCK] {
        let (a, b) = zcopy::pair();
        let bytes = random(len);
        let hole = Hole::new(len);
        let receive = || {
            assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
            // SAFETY: Nothing uses the memory until the call has ended.
            unsafe { b.recv_at(hole.start(), len, libc::MSG_WAITALL) }
        };
        let (sent, (got, _)) = together(
            || a.send(&bytes, libc::MSG_NOSIGNAL),
            || {
                together(receive, || {
                    hole.asleep(1);
                    rdma_delete_soon(B);
                    hole.fill();
                })
            },
        );
        if len == PAGE {
            check!((sent, got), (Ok(len), Ok(len)));
        }
        match got {
            Ok(got) => check_bytes(&hole.bytes()[..got], &bytes[..got]),
            Err(error) => check_told(error),
        }
        check_unpinned(&a);
        check_unpinned(&b);
        drop((a, b));
        rdma_restore(B);
    }
}

/// Lets the device of `side` go while a call sleeps with the lock of `sock`; `meanwhile` comes
/// before that.
fn delete_asleep<T>(side: Side, sock: &Sock, meanwhile: impl FnOnce() -> T) -> T {
    let hole = Hole::new(PAGE);
    let (slept, result) = together(
        || hole.sleep_locked(sock),
        || {
            hole.asleep(1);
            let result = meanwhile();
            rdma_delete_soon(side);
            hole.fill();
            result
        },
    );
    check!(slept, Ok(()));
    result
}

fn device_removed_connected_asleep() {
    needs_device();
    let (a, b) = pair();
    check!(a.send(b"unread", 0), Ok(6));
    assert_ne!(must!(b.poll(libc::POLLIN, patience(3))), 0);
    delete_asleep(B, &b, || ());
    step!("both ends are told");
    check!(b.recv_bytes(6), Ok(b"unread".to_vec()));
    for sock in [&a, &b] {
        match sock.recv(&mut [0], 0) {
            Ok(got) => check!(got, 0),
            Err(error) => check_told(error),
        }
    }
    drop((a, b));
    rdma_restore(B);
}

fn device_removed_connecting_asleep() {
    needs_device();
    for answered in [false, true] {
        if iwarp() && !answered {
            // siw waits ten seconds for an answer, and its CM keeps the device until then.
            continue;
        }
        step!("the answer has come: {answered}");
        let listener = Listener::new(B);
        let sock = A.socket();
        must!(sock.set_nonblocking(true));
        check!(sock.connect(&listener.addr()), Err(Errno::EINPROGRESS));
        let request = listener.request();
        let _answer = delete_asleep(A, &sock, || {
            let answer = match answered {
                true => Ok(request.accept(&hello_ack())),
                false => Err(request),
            };
            thread::sleep(moment());
            answer
        });
        step!("the socket is told");
        match finish(&sock) {
            // It was connected, and the device went then.
            Ok(()) if answered => must!(sock.set_nonblocking(false)),
            Ok(()) => panic!("connected without an answer"),
            Err(error) => check_told(error),
        }
        drop(sock);
        rdma_restore(A);
    }
}

fn device_removed_listening_asleep() {
    needs_device();
    let (listener, to) = B.listen();
    let waiting = [A.connect(&to), A.connect(&to)];
    thread::sleep(moment());
    let late = delete_asleep(B, &listener, || {
        let late = A.socket();
        must!(late.set_nonblocking(true));
        check!(late.connect(&to), Err(Errno::EINPROGRESS));
        thread::sleep(moment());
        late
    });
    must!(listener.set_nonblocking(true));
    step!("accept() does not wait for what cannot come");
    while let Ok(server) = listener.accept() {
        let _ = server.recv(&mut [0], libc::MSG_DONTWAIT);
    }
    step!("who waits in the queue is told");
    for client in waiting {
        match client.recv(&mut [0], 0) {
            Ok(got) => check!(got, 0),
            Err(error) => check_told(error),
        }
    }
    drop((late, listener));
    rdma_restore(B);
}

fn device_removed_kept() {
    needs_device();
    let bytes = random(8 * BLOCK);
    step!("a send is left");
    let (a, b) = retry_pair();
    keep_send(&b, &bytes);
    check!(b.send(b"other", libc::MSG_NOSIGNAL), Err(Errno::EBUSY));
    rdma_delete_soon(B);
    check_unpinned(&b);
    drop((a, b));
    rdma_restore(B);

    step!("a receive is left");
    let (a, b) = retry_pair();
    must!(a.set_nonblocking(false));
    let mut room = vec![0; bytes.len()];
    let (sent, _) = together(
        || a.send(&bytes, libc::MSG_NOSIGNAL),
        || {
            assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
            let mut got = 0;
            while let Ok(more) = b.recv(&mut room[got..], 0) {
                got += more;
                assert!(got < room.len(), "no receive had to wait");
            }
            check!(b.recv(&mut [0], 0), Err(Errno::EBUSY));
            rdma_delete_soon(B);
            check_unpinned(&b);
        },
    );
    match sent {
        Ok(sent) => assert!(sent < bytes.len(), "all was sent"),
        Err(error) => check_told(error),
    }
    drop((a, b));
    rdma_restore(B);
}
