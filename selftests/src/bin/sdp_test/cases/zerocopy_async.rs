// SPDX-License-Identifier: GPL-2.0

//! Zero copy without a thread that waits: `MSG_ZEROCOPY`, io_uring, `sendfile()` and `splice()`,
//! and non-blocking calls that leave their buffers.

use super::{
    poll::Epoll,
    splice::{
        pipe,
        sendfile,
        splice, //
    },
    uring::{
        self,
        Ring, //
    },
    zerocopy_send::be_ordinary,
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
        must,
        step,
        Child, //
    },
    memory::{
        file,
        secret,
        tracked_file,
        Map, //
    },
    peers::{
        becomes,
        eventually,
        sdp_only, //
    },
    zcopy::{
        check_bytes,
        check_received,
        check_sent,
        check_settled,
        counted,
        pair,
        random,
        set_retry,
        stats,
        threshold,
        together,
        transfer,
        BLOCK,
        THRESHOLD, //
    },
};
use io_uring::{
    cqueue,
    opcode,
    squeue,
    types::Fd, //
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sdp::ZCOPY_RETRY,
    shared,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    os::fd::AsRawFd,
    sync::atomic::{
        AtomicUsize,
        Ordering, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    zcopy_msg_zerocopy(60) "MSG_ZEROCOPY: notices for all calls, in ranges; no byte copied",
    zcopy_msg_zerocopy_at_once(30) "MSG_ZEROCOPY returns before the peer has read, and tells when it has",
    zcopy_msg_zerocopy_small(20) "MSG_ZEROCOPY of a few bytes: the notice says that they were copied",
    zcopy_msg_zerocopy_off(20) "without SO_ZEROCOPY the flag means nothing",
    zcopy_msg_zerocopy_mixed(60) "large, small and ordinary sends in turn: order of bytes and of notices",
    zcopy_msg_zerocopy_limit(60) "what may be outstanding is limited, and room comes back",
    zcopy_msg_zerocopy_memlock(30) "RLIMIT_MEMLOCK of an ordinary user bounds MSG_ZEROCOPY: ENOBUFS",
    zcopy_msg_zerocopy_refused(30) "MSG_ZEROCOPY of memory that nobody may keep: the notice says that it was copied",
    zcopy_msg_zerocopy_close(60) "close() with notices outstanding: the peer gets all bytes, or a reset",
    zcopy_uring_send_zc(30) "IORING_OP_SEND_ZC: a result and a notice, and no copy",
    zcopy_uring_send_zc_fixed(30) "the same from registered buffers",
    zcopy_uring_send_zc_small(20) "IORING_OP_SEND_ZC of a few bytes",
    zcopy_uring_async(60) "IORING_OP_SEND and IORING_OP_RECV in io_uring's own threads move 1 MiB without a copy",
    zcopy_uring_plain(60) "the same where they are submitted",
    zcopy_uring_cancel(30) "an io_uring receive that is cancelled gives its buffer back",
    zcopy_sendfile(60) "sendfile() of 8 MiB from the page cache: no copy",
    zcopy_sendfile_program(30) "sendfile() of a file on another kind of file system",
    zcopy_splice_pipe(60) "splice() from a pipe",
    zcopy_vmsplice(30) "splice() of a program's own pages from a pipe",
    zcopy_nonblocking(60) "non-blocking calls without SDP_ZCOPY_RETRY never wait, and copy",
    zcopy_retry_poll(60) "poll() and SDP_ZCOPY_RETRY: 1 MiB moves without a copy at either end",
    zcopy_retry_epoll(60) "the same with edge-triggered epoll, which tells of each change once",
    zcopy_retry_refused(60) "SDP_ZCOPY_RETRY with memory that nobody may keep: copies",
    zcopy_retry_busy_send(30) "after EAGAIN a send of another buffer is EBUSY; the same one gives the count",
    zcopy_retry_busy_recv(30) "the same for a receive",
    zcopy_retry_orphaned_send(30) "the process that left a buffer of a send ends: others can send",
    zcopy_retry_orphaned_recv(30) "the same for a receive: what came to it is no other process's, so the connection is reset",
    zcopy_retry_off(60) "SDP_ZCOPY_RETRY is turned off with a buffer kept",
    zcopy_retry_close_send(30) "close() with a buffer of a send kept",
    zcopy_retry_close_recv(30) "close() with a buffer of a receive kept: nothing is written to it any more",
    zcopy_retry_shutdown(30) "shutdown() with a buffer kept",
}

const ORIGIN_ZEROCOPY: u8 = 5;
const CODE_COPIED: u8 = 1;

/// A connection whose end in A may send with `MSG_ZEROCOPY`.
fn zerocopy_pair() -> (Sock, Sock) {
    let (a, b) = pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    (a, b)
}

fn send_zerocopy(sock: &Sock, bytes: &[u8]) -> Result<usize> {
    sock.send(bytes, libc::MSG_ZEROCOPY | libc::MSG_NOSIGNAL)
}

/// Takes notices until those of the calls `next` to `last` are all there, each once, though perhaps
/// not in order: how many said that bytes were copied.
fn take_notices(sock: &Sock, first: u32, last: u32) -> u32 {
    let mut copied = 0;
    let mut expected: BTreeSet<u32> = (first..=last).collect();
    while !expected.is_empty() {
        let events = must!(sock.poll(0, patience(8)));
        check!(events & libc::POLLERR, libc::POLLERR);
        let notice = must!(sock.notice());
        check!((notice.errno, notice.origin), (0, ORIGIN_ZEROCOPY));
        let (low, high) = notice.range;
        assert!(
            low <= high && (low..=high).all(|call| expected.remove(&call)),
            "a notice of {low} to {high}, expected of {expected:?}"
        );
        if notice.code == CODE_COPIED {
            copied += high - low + 1;
        }
    }
    check!(sock.notice(), Err(Errno::EAGAIN));
    check!(must!(sock.poll(0, Duration::ZERO)), 0);
    copied
}

fn zcopy_msg_zerocopy() {
    let (a, b) = zerocopy_pair();
    let rounds = config::rounds(12, 3);
    let bytes = random(200, rounds * BLOCK);
    let (_, got) = together(
        || {
            for (round, block) in bytes.chunks(BLOCK).enumerate() {
                step!("round {round}");
                let mut sent = 0;
                while sent < BLOCK {
                    sent += must!(send_zerocopy(&a, &block[sent..]));
                }
                // Calls that sent a part only would each have a number of their own.
                check!(sent, BLOCK);
            }
        },
        || {
            let mut room = vec![0; bytes.len()];
            for block in room.chunks_mut(BLOCK) {
                check!(b.recv(block, libc::MSG_WAITALL), Ok(BLOCK));
            }
            room
        },
    );
    check_bytes(&got, &bytes);
    // Several at once may be told of in one notice.
    thread::sleep(moment());
    let mut count = 0;
    while let Ok(notice) = a.notice() {
        check!((notice.errno, notice.origin), (0, ORIGIN_ZEROCOPY));
        check!(notice.range.0, count);
        if !config::tcp() {
            check!(notice.code, 0);
        }
        count = notice.range.1 + 1;
    }
    if config::tcp() {
        assert!(count as usize >= rounds, "{count} calls");
    } else {
        check!(count as usize, rounds);
    }
    check_sent(&a, rounds * BLOCK, 99);
    check_received(&b, rounds * BLOCK, 99);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_msg_zerocopy_at_once() {
    sdp_only("TCP waits for room");
    let (a, b) = zerocopy_pair();
    let bytes = random(201, BLOCK);
    for round in 0..3_u32 {
        let start = Instant::now();
        check!(send_zerocopy(&a, &bytes), Ok(BLOCK));
        let took = start.elapsed();
        assert!(took < patience(1) / 2, "took {took:?}");
        check!(a.notice(), Err(Errno::EAGAIN));
        check!(must!(a.poll(libc::POLLERR, Duration::ZERO)), 0);
        check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes);
        check!(take_notices(&a, round, round), 0);
    }
    step!("a peer that is late");
    check!(send_zerocopy(&a, &bytes), Ok(BLOCK));
    check!(send_zerocopy(&a, &bytes), Ok(BLOCK));
    thread::sleep(Duration::from_secs(2));
    check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes);
    check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes);
    take_notices(&a, 3, 4);
    check_sent(&a, 5 * BLOCK, 0);
    check_received(&b, 5 * BLOCK, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_msg_zerocopy_small() {
    let (a, b) = zerocopy_pair();
    for number in 0..10 {
        let bytes = random(210 + u64::from(number), 100);
        check!(send_zerocopy(&a, &bytes), Ok(100));
        check!(b.recv_bytes(100), Ok(bytes));
        let copied = take_notices(&a, number, number);
        if !config::tcp() {
            check!(copied, 1);
        }
    }
    step!("all at once");
    for _ in 0..10 {
        check!(send_zerocopy(&a, b"x"), Ok(1));
    }
    check!(b.recv_bytes(10), Ok(b"xxxxxxxxxx".to_vec()));
    // Nobody took a notice in between, so they became one.
    let notice = must!(eventually(patience(3), || a.notice()));
    if !config::tcp() {
        check!((notice.range, notice.code), ((10, 19), CODE_COPIED));
    }
    check_settled(&a);
}

fn zcopy_msg_zerocopy_off() {
    let (a, b) = pair();
    let bytes = random(220, BLOCK);
    check!(a.get(libc::SOL_SOCKET, libc::SO_ZEROCOPY), Ok(0));
    let (sent, got) = together(|| send_zerocopy(&a, &bytes), || b.recv_bytes(BLOCK));
    check!(sent, Ok(BLOCK));
    check_bytes(&must!(got), &bytes);
    thread::sleep(moment());
    check!(a.notice(), Err(Errno::EAGAIN));
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    check!(a.get(libc::SOL_SOCKET, libc::SO_ZEROCOPY), Ok(1));
    check_settled(&a);
}

fn zcopy_msg_zerocopy_mixed() {
    let (a, b) = zerocopy_pair();
    let sizes = [BLOCK, 10, 300_000, 5, 5, THRESHOLD, 70_000, 1, BLOCK + 1];
    let bytes = random(221, sizes.iter().sum());
    let (calls, got) = together(
        || {
            let mut rest = &bytes[..];
            let mut calls = 0;
            for (number, size) in sizes.into_iter().enumerate() {
                let (mut piece, after) = rest.split_at(size);
                rest = after;
                let zerocopy = number % 3 != 2;
                while !piece.is_empty() {
                    let sent = if zerocopy {
                        calls += 1;
                        must!(send_zerocopy(&a, piece))
                    } else {
                        must!(a.send(piece, 0))
                    };
                    piece = &piece[sent..];
                }
            }
            calls
        },
        || b.recv_bytes(bytes.len()),
    );
    check_bytes(&must!(got), &bytes);
    take_notices(&a, 0, calls - 1);
    check_sent(&a, bytes.len(), 0);
    check_received(&b, bytes.len(), 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_msg_zerocopy_limit() {
    let (a, b) = zerocopy_pair();
    let block = random(222, 256 << 10);
    must!(a.set_nonblocking(true));
    let (mut sent, mut calls) = (0, 0);
    let error = loop {
        match send_zerocopy(&a, &block) {
            Ok(len) => {
                sent += len;
                calls += 1;
                // Each call sends the same bytes, from the start.
                if len < block.len() {
                    break Errno::EAGAIN;
                }
            }
            Err(error) => break error,
        }
        assert!(sent < 1 << 30, "{sent} bytes are outstanding");
    };
    check_any!(error, [Errno::EAGAIN, Errno::ENOBUFS]);
    step!("{calls} calls of {sent} bytes are outstanding");
    assert!(calls > 0, "none is accepted");
    for at in (0..sent).step_by(block.len()) {
        let len = block.len().min(sent - at);
        check_bytes(&must!(b.recv_bytes(len)), &block[..len]);
    }
    take_notices(&a, 0, calls - 1);
    step!("there is room again");
    let more = must!(eventually(patience(3), || send_zerocopy(&a, &block)));
    check_bytes(&must!(b.recv_bytes(more)), &block[..more]);
    take_notices(&a, calls, calls);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_msg_zerocopy_memlock() {
    let (a, b) = zerocopy_pair();
    let block = random(223, BLOCK);
    let child = Child::start(|| {
        be_ordinary(0);
        check!(send_zerocopy(&a, &block), Err(Errno::ENOBUFS));
        check!(a.notice(), Err(Errno::EAGAIN));
        check!(a.send(&block, 0), Ok(BLOCK));
    });
    check_bytes(&must!(b.recv_bytes(BLOCK)), &block);
    check!(child.wait(), 0);

    sdp_only("TCP's buffers are full before");
    step!("room for three blocks");
    let child = Child::start(|| {
        be_ordinary(3 * BLOCK as u64 + (64 << 10));
        must!(a.set_nonblocking(true));
        let mut sent = 0;
        let error = loop {
            match send_zerocopy(&a, &block) {
                Ok(len) => sent += len,
                Err(error) => break error,
            }
            assert!(sent <= 4 * BLOCK, "{sent} bytes are outstanding");
        };
        check_any!(error, [Errno::ENOBUFS, Errno::EAGAIN]);
        check!(sent % BLOCK, 0);
        must!(a.set_nonblocking(false));
        check!(a.send(&(sent as u64).to_le_bytes(), 0), Ok(8));
    });
    let mut all = Vec::new();
    while all.len() % BLOCK != 8 {
        let mut room = vec![0; BLOCK];
        let len = must!(b.recv(&mut room, 0));
        assert_ne!(len, 0, "an end");
        all.extend_from_slice(&room[..len]);
    }
    check!(child.wait(), 0);
    let (blocks, count) = all.split_at(all.len() - 8);
    check!(count, &(blocks.len() as u64).to_le_bytes()[..]);
    blocks
        .chunks(BLOCK)
        .for_each(|got| check_bytes(got, &block));
}

fn zcopy_msg_zerocopy_refused() {
    sdp_only("TCP fails with EFAULT");
    let (a, b) = zerocopy_pair();
    let bytes = random(227, 2 * BLOCK);
    let mut map = Map::anonymous(2 * BLOCK);
    map.put(BLOCK, &secret(BLOCK));
    map.bytes_mut().copy_from_slice(&bytes);
    for (call, from) in [BLOCK, 0].into_iter().enumerate() {
        step!("from byte {from} on");
        let (_, got) = together(
            || {
                let piece = &map.bytes()[from..];
                check!(send_zerocopy(&a, piece), Ok(piece.len()));
            },
            || b.recv_bytes(2 * BLOCK - from),
        );
        check_bytes(&must!(got), &bytes[from..]);
        check!(take_notices(&a, call as u32, call as u32), 1);
    }
    counted("says why", &a, |stats| stats.no_pages > 0);

    step!("a file, which is lent");
    let mut map = Map::anonymous(BLOCK);
    map.put(0, &tracked_file(BLOCK));
    map.bytes_mut().copy_from_slice(&bytes[..BLOCK]);
    check!(send_zerocopy(&a, map.bytes()), Ok(BLOCK));
    check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes[..BLOCK]);
    check!(take_notices(&a, 2, 2), 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_msg_zerocopy_close() {
    sdp_only("TCP waits for room");
    let block = random(224, BLOCK);
    for delay in [Duration::ZERO, moment(), Duration::from_millis(1500)] {
        step!("close(), and the peer reads after {delay:?}");
        let (a, b) = zerocopy_pair();
        let mut sent = must!(send_zerocopy(&a, &block));
        if sent == BLOCK {
            sent += must!(a.send(b"end", 0));
        }
        drop(a);
        thread::sleep(delay);
        let expected = [&block[..], b"end"].concat();
        check_bytes(&must!(b.recv_to_end()), &expected[..sent]);
        check_settled(&b);
    }
    step!("close() drops the connection");
    let (a, b) = zerocopy_pair();
    must!(send_zerocopy(&a, &block));
    must!(a.set_linger(0));
    drop(a);
    let result = loop {
        match b.recv(&mut [0; 100], 0) {
            Ok(0) => break Ok(()),
            Ok(_) => (),
            Err(error) => break Err(error),
        }
    };
    check!(result, Err(Errno::ECONNRESET));
    step!("the peer closes");
    let (a, b) = zerocopy_pair();
    must!(send_zerocopy(&a, &block));
    drop(b);
    let gone = || {
        let events = must!(a.poll(0, Duration::ZERO));
        events & libc::POLLHUP != 0
            || a.send(b"x", libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
                .is_err()
    };
    assert!(becomes(patience(5), gone), "A is told");
    take_notices_of_broken(&a);
}

/// Takes the one notice that is due, which comes for bytes that went nowhere too.
fn take_notices_of_broken(sock: &Sock) {
    let notice = must!(eventually(patience(5), || sock.notice()));
    check!((notice.origin, notice.range), (ORIGIN_ZEROCOPY, (0, 0)));
}

/// Sends `bytes` by `IORING_OP_SEND_ZC`, from the registered buffer where `index` says so: checks
/// result and notice.
fn uring_send_zc(ring: &mut Ring, sock: &Sock, bytes: &[u8], index: Option<u16>) {
    let entry = opcode::SendZc::new(Fd(sock.fd()), bytes.as_ptr(), bytes.len() as u32)
        .buf_index(index)
        .flags(libc::MSG_WAITALL)
        .build();
    // SAFETY: The bytes live until the notice was taken, below.
    unsafe { ring.start(entry, 7) };
    let (token, result, flags) = ring.next_with_flags();
    check!((token, result), (7, Ok(bytes.len())));
    assert!(cqueue::more(flags), "no notice will follow");
    let (token, result, flags) = ring.next_with_flags();
    check!((token, result), (7, Ok(0)));
    assert!(cqueue::notif(flags), "the second completion is no notice");
}

fn zcopy_uring_send_zc() {
    let (a, b) = pair();
    let mut ring = Ring::new();
    let bytes = random(230, BLOCK);
    let rounds = config::rounds(4, 2);
    let mut room = vec![0; BLOCK];
    for round in 0..rounds {
        step!("round {round}");
        together(
            || check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(BLOCK)),
            || uring_send_zc(&mut ring, &a, &bytes, None),
        );
        check_bytes(&room, &bytes);
    }
    check_sent(&a, rounds * BLOCK, 99);
    check_received(&b, rounds * BLOCK, 99);
    check!(a.notice(), Err(Errno::EAGAIN));
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_uring_send_zc_fixed() {
    let (a, b) = pair();
    let bytes = random(231, 2 * BLOCK);
    let mut ring = Ring::new();
    // SAFETY: The ring is dropped before the bytes, by the order in which they were made.
    unsafe { ring.register(&bytes) };
    let mut room = vec![0; BLOCK];
    for at in [0, 1001, BLOCK] {
        step!("from {at}");
        together(
            || check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(BLOCK)),
            || uring_send_zc(&mut ring, &a, &bytes[at..][..BLOCK], Some(0)),
        );
        check_bytes(&room, &bytes[at..][..BLOCK]);
    }
    check_sent(&a, 3 * BLOCK, 99);
    check_received(&b, 3 * BLOCK, 99);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_uring_send_zc_small() {
    let (a, b) = pair();
    let mut ring = Ring::new();
    for _ in 0..10 {
        uring_send_zc(&mut ring, &a, b"a few bytes", None);
        check!(b.recv_bytes(11), Ok(b"a few bytes".to_vec()));
    }
    check_settled(&a);
}

/// Moves blocks by `IORING_OP_SEND` and `IORING_OP_RECV`, with `flags` for both.
fn uring_blocks(a: &Sock, b: &Sock, flags: squeue::Flags) {
    let mut ring = Ring::new();
    let rounds = config::rounds(4, 2);
    for round in 0..rounds {
        step!("round {round}");
        let bytes = random(232 + round as u64, BLOCK);
        let mut room = vec![0; BLOCK];
        // SAFETY: Both buffers live until both completions were taken, below.
        unsafe {
            ring.start(uring::recv(b, &mut room, libc::MSG_WAITALL).flags(flags), 1);
            ring.start(uring::send(a, &bytes, libc::MSG_WAITALL).flags(flags), 2);
        }
        let mut done = [ring.next(), ring.next()];
        done.sort_by_key(|(token, _)| *token);
        check!(done, [(1, Ok(BLOCK)), (2, Ok(BLOCK))]);
        check_bytes(&room, &bytes);
    }
    check_sent(a, rounds * BLOCK, 99);
    check_received(b, rounds * BLOCK, 99);
    check_settled(a);
    check_settled(b);
}

fn zcopy_uring_async() {
    let (a, b) = pair();
    // Its threads poll a socket too, and never wait in it.
    set_retry(&a, true);
    set_retry(&b, true);
    uring_blocks(&a, &b, squeue::Flags::ASYNC);
}

fn zcopy_uring_plain() {
    let (a, b) = pair();
    set_retry(&a, true);
    set_retry(&b, true);
    uring_blocks(&a, &b, squeue::Flags::empty());
}

fn zcopy_uring_cancel() {
    let (a, b) = pair();
    set_retry(&b, true);
    let mut ring = Ring::new();
    let mut room = vec![0; BLOCK];
    // SAFETY: The buffer lives until both completions were taken, below.
    unsafe {
        ring.start(uring::recv(&b, &mut room, libc::MSG_WAITALL), 1);
        ring.start(opcode::AsyncCancel::new(1).build(), 2);
    }
    let mut done = [ring.next(), ring.next()];
    done.sort_by_key(|(token, _)| *token);
    check!(done, [(1, Err(Errno::ECANCELED)), (2, Ok(0))]);
    // The socket cannot know, so the next call of another buffer may find it kept, until it is
    // turned off.
    set_retry(&b, false);
    let bytes = random(236, BLOCK);
    let (sent, got) = together(|| a.send(&bytes, 0), || b.recv_bytes(BLOCK));
    check!(sent, Ok(BLOCK));
    check_bytes(&must!(got), &bytes);
    assert!(
        room.iter().all(|byte| *byte == 0),
        "bytes in the cancelled buffer"
    );
    check_settled(&a);
    check_settled(&b);
}

/// Sends `len` bytes of `file` and checks what comes.
fn sends_file(file: &File, bytes: &[u8], percent: u64) {
    let (a, b) = pair();
    let total = bytes.len();
    let mut room = vec![0; total];
    together(
        || {
            let mut sent = 0;
            while sent < total {
                match must!(sendfile(&a, file, sent as i64, total - sent)) {
                    0 => break,
                    len => sent += len,
                }
            }
            check!(sent, total);
        },
        || check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(total)),
    );
    check_bytes(&room, bytes);
    check_sent(&a, total, percent);
    check_received(&b, total, percent);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_sendfile() {
    let bytes = random(240, volume(8 << 20, BLOCK));
    sends_file(&file(&bytes), &bytes, 99);
}

fn zcopy_sendfile_program() {
    let bytes = must!(std::fs::read("/proc/self/exe"));
    let len = bytes.len().min(2 * BLOCK + 17);
    sends_file(&must!(File::open("/proc/self/exe")), &bytes[..len], 90);
}

fn zcopy_splice_pipe() {
    let (a, b) = pair();
    let bytes = random(241, volume(4 << 20, BLOCK));
    let total = bytes.len();
    let (from, mut to) = pipe();
    // SAFETY: `F_SETPIPE_SZ` takes no memory.
    must!(Errno::check(unsafe {
        libc::fcntl(from.as_raw_fd(), libc::F_SETPIPE_SZ, BLOCK as libc::c_int)
    }));
    let mut room = vec![0; total];
    thread::scope(|scope| {
        scope.spawn(|| must!(to.write_all(&bytes)));
        scope.spawn(|| {
            let mut sent = 0;
            while sent < total {
                sent += must!(splice(
                    from.as_raw_fd(),
                    a.fd(),
                    total - sent,
                    libc::SPLICE_F_MORE
                ));
            }
        });
        check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(total));
    });
    check_bytes(&room, &bytes);
    check_sent(&a, total, 0);
    check_received(&b, total, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_vmsplice() {
    let (a, b) = pair();
    let len = 256 << 10;
    let bytes = random(242, len);
    let mut map = Map::anonymous(len);
    map.bytes_mut().copy_from_slice(&bytes);
    let (from, to) = pipe();
    // SAFETY: `F_SETPIPE_SZ` takes no memory.
    must!(Errno::check(unsafe {
        libc::fcntl(from.as_raw_fd(), libc::F_SETPIPE_SZ, BLOCK as libc::c_int)
    }));
    let piece = libc::iovec {
        iov_base: map.start().cast(),
        iov_len: len,
    };
    // SAFETY: The mapping lives until all was received, and is not written until then.
    let lent = unsafe { libc::vmsplice(to.as_raw_fd(), &piece, 1, 0) };
    check!(Errno::check_len(lent), Ok(len));
    let mut room = vec![0; len];
    together(
        || {
            let mut sent = 0;
            while sent < len {
                sent += must!(splice(from.as_raw_fd(), a.fd(), len - sent, 0));
            }
        },
        || check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(len)),
    );
    check_bytes(&room, &bytes);
    check_sent(&a, len, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_nonblocking() {
    let (a, b) = pair();
    let bytes = random(243, 24 << 20);
    must!(a.set_nonblocking(true));
    must!(b.set_nonblocking(true));
    let quick = |call: &mut dyn FnMut() -> Result<usize>| {
        let start = Instant::now();
        let result = call();
        let took = start.elapsed();
        assert!(took < patience(1) / 2, "took {took:?}");
        result
    };
    step!("a receive of nothing");
    let mut room = vec![0; BLOCK];
    check!(quick(&mut || b.recv(&mut room, 0)), Err(Errno::EAGAIN));
    step!("a send that nobody reads");
    let mut sent = 0;
    while let Ok(len) = quick(&mut || a.send(&bytes[sent..][..BLOCK], 0)) {
        sent += len;
        assert!(sent + BLOCK < bytes.len(), "all went");
    }
    assert!(sent > 0, "nothing went");
    let mut all = Vec::new();
    while all.len() < sent {
        assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0, "bytes to read");
        if let Ok(len) = quick(&mut || b.recv(&mut room, 0)) {
            all.extend_from_slice(&room[..len]);
        }
    }
    check_bytes(&all, &bytes[..sent]);
    counted("all is copied", &a, |stats| stats.sent_without_copy() == 0);

    step!("a receive of what a blocking send advertises");
    must!(a.set_nonblocking(false));
    let (_, got) = together(
        || check!(a.send(&bytes[..2 * BLOCK], 0), Ok(2 * BLOCK)),
        || {
            let mut all = Vec::new();
            while all.len() < 2 * BLOCK {
                assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0, "bytes to read");
                match quick(&mut || b.recv(&mut room, 0)) {
                    Ok(len) => all.extend_from_slice(&room[..len]),
                    Err(error) => check!(error, Errno::EAGAIN),
                }
            }
            all
        },
    );
    check_bytes(&got, &bytes[..2 * BLOCK]);
    check_settled(&a);
    check_settled(&b);
}

/// A non-blocking connection that keeps the buffers of calls that would block.
pub(super) fn retry_pair() -> (Sock, Sock) {
    let (a, b) = pair();
    for sock in [&a, &b] {
        must!(sock.set_nonblocking(true));
        set_retry(sock, true);
    }
    (a, b)
}

/// Makes one call until it gives a count, with `poll()` for `events` in between.
fn until_done(sock: &Sock, events: i16, mut call: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match call() {
            Err(Errno::EAGAIN) => assert_ne!(must!(sock.poll(events, patience(8))), 0, "an event"),
            result => return result,
        }
    }
}

/// Moves blocks both ways over a connection that keeps buffers; `wait` comes after each call that
/// would block.
fn retry_blocks<W: Wait>() {
    let (a, b) = retry_pair();
    let rounds = config::rounds(6, 2);
    for (from, to, way) in [(&a, &b, 250), (&b, &a, 260)] {
        let bytes = random(way, rounds * BLOCK);
        let mut room = vec![0; bytes.len()];
        together(
            || {
                let wait = W::new(from, libc::POLLOUT);
                for block in bytes.chunks(BLOCK) {
                    let mut sent = 0;
                    while sent < BLOCK {
                        match from.send(&block[sent..], 0) {
                            Ok(len) => sent += len,
                            Err(error) => {
                                check!(error, Errno::EAGAIN);
                                wait.wait();
                            }
                        }
                    }
                }
            },
            || {
                let wait = W::new(to, libc::POLLIN);
                for block in room.chunks_mut(BLOCK) {
                    let mut got = 0;
                    while got < BLOCK {
                        match to.recv(&mut block[got..], 0) {
                            Ok(len) => {
                                assert_ne!(len, 0, "an end");
                                got += len;
                            }
                            Err(error) => {
                                check!(error, Errno::EAGAIN);
                                wait.wait();
                            }
                        }
                    }
                }
            },
        );
        check_bytes(&room, &bytes);
        check_sent(from, rounds * BLOCK, 99);
        check_received(to, rounds * BLOCK, 99);
    }
    check_settled(&a);
    check_settled(&b);
}

/// A way to wait for a socket.
trait Wait {
    fn new(sock: &Sock, events: i16) -> Self;
    fn wait(&self);
}

struct ByPoll(Sock, i16);

impl Wait for ByPoll {
    fn new(sock: &Sock, events: i16) -> Self {
        Self(must!(sock.dup()), events)
    }

    fn wait(&self) {
        assert_ne!(must!(self.0.poll(self.1, patience(8))), 0, "an event");
    }
}

impl Wait for Epoll {
    fn new(sock: &Sock, events: i16) -> Self {
        let epoll = Self::new();
        epoll.add(sock, i32::from(events) | libc::EPOLLET, 1);
        epoll
    }

    fn wait(&self) {
        assert!(Epoll::wait(self, patience(8)).is_some(), "an event");
    }
}

fn zcopy_retry_poll() {
    retry_blocks::<ByPoll>();
}

fn zcopy_retry_epoll() {
    retry_blocks::<Epoll>();
}

fn zcopy_retry_refused() {
    let (a, b) = retry_pair();
    let bytes = random(250, BLOCK);
    let secret_memory = || {
        let mut map = Map::anonymous(BLOCK);
        map.put(0, &secret(BLOCK));
        map
    };
    let (mut from, mut to) = (secret_memory(), secret_memory());
    from.bytes_mut().copy_from_slice(&bytes);
    together(
        || {
            let (wait, mut sent) = (ByPoll::new(&a, libc::POLLOUT), 0);
            while sent < BLOCK {
                match a.send(&from.bytes()[sent..], 0) {
                    Err(Errno::EAGAIN) => wait.wait(),
                    result => sent += must!(result),
                }
            }
        },
        || {
            let (wait, mut got) = (ByPoll::new(&b, libc::POLLIN), 0);
            while got < BLOCK {
                match b.recv(&mut to.bytes_mut()[got..], 0) {
                    Err(Errno::EAGAIN) => wait.wait(),
                    result => got += must!(result),
                }
            }
        },
    );
    check_bytes(to.bytes(), &bytes);
    counted("by copy", &a, |stats| {
        stats.sent_copied == BLOCK as u64 && stats.no_pages > 0
    });
    check_settled(&a);
    check_settled(&b);
}

/// Sends `bytes` from the start until they are kept: how many went before.
pub(super) fn keep_send(sock: &Sock, bytes: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        match sock.send(&bytes[sent..], libc::MSG_NOSIGNAL) {
            Ok(len) => sent += len,
            Err(error) => {
                check!(error, Errno::EAGAIN);
                return sent;
            }
        }
        assert!(sent < bytes.len(), "all went");
    }
}

fn zcopy_retry_busy_send() {
    sdp_only("TCP keeps no buffers");
    let (a, b) = retry_pair();
    let bytes = random(251, BLOCK);
    let other = random(252, BLOCK);
    let sent = keep_send(&a, &bytes);
    for wrong in [&other[..], &bytes[sent + 1..], b"few"] {
        check!(a.send(wrong, 0), Err(Errno::EBUSY));
    }
    check!(a.send(&bytes[sent..], 0), Err(Errno::EAGAIN));
    step!("the other direction goes on");
    check!(b.send(b"back", 0), Ok(4));
    assert_ne!(must!(a.poll(libc::POLLIN, patience(3))), 0);
    check!(a.recv(&mut [0; 8], 0), Ok(4));

    step!("the peer reads");
    must!(b.set_nonblocking(false));
    let (done, got) = together(
        || {
            let mut sent = sent;
            while sent < BLOCK {
                sent += must!(until_done(&a, libc::POLLOUT, || a.send(&bytes[sent..], 0)));
            }
            until_done(&a, libc::POLLOUT, || a.send(b"few", 0))
        },
        || b.recv_bytes(BLOCK + 3),
    );
    check!(done, Ok(3));
    check_bytes(&must!(got), &[&bytes[..], b"few"].concat());
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_retry_busy_recv() {
    sdp_only("TCP keeps no buffers");
    let (a, b) = retry_pair();
    must!(a.set_nonblocking(false));
    let bytes = random(253, BLOCK);
    let mut room = vec![0; BLOCK];
    let mut other = vec![0; BLOCK];
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
            let mut got = 0;
            while got < BLOCK {
                match b.recv(&mut room[got..], 0) {
                    Ok(len) => got += len,
                    Err(error) => {
                        check!(error, Errno::EAGAIN);
                        // What is not kept may be read from elsewhere.
                        match b.recv(&mut other[got..], 0) {
                            Ok(len) => {
                                room[got..][..len].copy_from_slice(&other[got..][..len]);
                                got += len;
                            }
                            Err(error) => check_any!(error, [Errno::EBUSY, Errno::EAGAIN]),
                        }
                        must!(b.poll(libc::POLLIN, patience(5)));
                    }
                }
            }
            got
        },
    );
    check!((sent, got), (Ok(BLOCK), BLOCK));
    check_bytes(&room, &bytes);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_retry_orphaned_send() {
    sdp_only("TCP keeps no buffers");
    let (a, b) = retry_pair();
    let bytes = random(258, BLOCK);
    let child = Child::start(|| {
        keep_send(&a, &bytes);
    });
    check!(child.wait(), 0);
    check!(a.send(b"after", 0), Ok(5));
    must!(a.shutdown(Shut::Write));
    must!(b.set_nonblocking(false));
    let got = must!(b.recv_to_end());
    let (first, last) = got.split_at(got.len().saturating_sub(5));
    check_bytes(last, b"after");
    check_bytes(first, &bytes[..first.len()]);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_retry_orphaned_recv() {
    sdp_only("TCP keeps no buffers");
    let (a, b) = retry_pair();
    let bytes = random(259, BLOCK);
    keep_send(&a, &bytes);
    let mut room = vec![0; BLOCK];
    // SAFETY: Zero is valid, and it is an atomic.
    let before = unsafe { shared::map::<AtomicUsize>() };
    let child = Child::start(|| {
        assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
        let mut got = 0;
        while let Ok(more) = b.recv(&mut room[got..], 0) {
            got += more;
        }
        check!(b.recv(&mut [0], 0), Err(Errno::EBUSY));
        before.store(got, Ordering::Relaxed);
    });
    check!(child.wait(), 0);
    let got = before.load(Ordering::Relaxed);
    step!("another process of the same memory layout, which may get the same place in the kernel");
    let child = Child::start(|| {
        let end = eventually(patience(5), || b.recv(&mut room[got..], 0));
        check!(end, Err(Errno::ECONNRESET));
        check!(b.recv(&mut room, 0), Ok(0));
    });
    check!(child.wait(), 0);
}

fn zcopy_retry_off() {
    sdp_only("TCP keeps no buffers");
    for zero_copy_too in [false, true] {
        let (a, b) = retry_pair();
        let bytes = random(254, 4 * BLOCK);
        let mut sent = keep_send(&a, &bytes[..BLOCK]);
        let result = a.set(libc::IPPROTO_TCP, ZCOPY_RETRY, 0);
        check_any!(result, [Ok(()), Err(Errno::EBUSY)]);
        if zero_copy_too {
            threshold(&a, 0);
        }
        // Whatever came of it, the same call tells how many bytes went, and the stream goes on
        // behind them.
        must!(b.set_nonblocking(false));
        let (sent, got) = together(
            || {
                let mut end = BLOCK;
                while sent < bytes.len() {
                    sent += must!(until_done(&a, libc::POLLOUT, || a.send(&bytes[sent..end], 0)));
                    if sent == end {
                        end = bytes.len().min(end + BLOCK);
                    }
                }
                sent
            },
            || b.recv_bytes(bytes.len()),
        );
        check!(sent, bytes.len());
        check_bytes(&must!(got), &bytes);
        check_settled(&a);
        check_settled(&b);
    }
}

fn zcopy_retry_close_send() {
    let bytes = random(255, 16 << 20);
    for delay in [Duration::ZERO, Duration::from_millis(1500)] {
        let (a, b) = retry_pair();
        must!(b.set_nonblocking(false));
        let sent = keep_send(&a, &bytes);
        drop(a);
        thread::sleep(delay);
        // What was kept may or may not come; what the program was told of must.
        let mut all = Vec::new();
        let mut room = vec![0; BLOCK];
        loop {
            match b.recv(&mut room, 0) {
                Ok(0) => break,
                Ok(len) => all.extend_from_slice(&room[..len]),
                Err(error) => break check!(error, Errno::ECONNRESET),
            }
        }
        assert!(all.len() >= sent, "{} of {sent} came", all.len());
        check_bytes(&all, &bytes[..all.len()]);
        counted("no page stays pinned", &b, |stats| {
            stats.pages_pinned == stats.pages_unpinned
        });
    }
}

fn zcopy_retry_close_recv() {
    let bytes = random(256, 4 << 20);
    for round in 0..config::rounds(6, 3) {
        let (a, b) = retry_pair();
        must!(a.set_nonblocking(false));
        let mut room = vec![0; bytes.len()];
        step!("round {round}");
        let (sent, _) = together(
            || a.send(&bytes, libc::MSG_NOSIGNAL),
            || {
                must!(b.poll(libc::POLLIN, patience(5)));
                let mut got = 0;
                let until = Instant::now() + Duration::from_millis(3 * round as u64);
                loop {
                    match b.recv(&mut room[got..], 0) {
                        Ok(len) => got += len,
                        Err(error) => {
                            check!(error, Errno::EAGAIN);
                            if Instant::now() >= until {
                                break;
                            }
                            must!(b.poll(libc::POLLIN, Duration::from_millis(1)));
                        }
                    }
                    if got == room.len() {
                        break;
                    }
                }
                check_bytes(&room[..got], &bytes[..got]);
                drop(b);
                // The memory is the program's again.
                room.fill(0x99);
                thread::sleep(moment());
                assert!(
                    room.iter().all(|byte| *byte == 0x99),
                    "written after close()"
                );
            },
        );
        match sent {
            Ok(_) => (),
            Err(error) => check_any!(error, [Errno::ECONNRESET, Errno::EPIPE]),
        }
    }
}

fn zcopy_retry_shutdown() {
    let bytes = random(257, 16 << 20);
    let (a, b) = retry_pair();
    must!(b.set_nonblocking(false));
    let sent = keep_send(&a, &bytes);
    must!(a.shutdown(Shut::Write));
    let (more, got) = together(
        || match until_done(&a, libc::POLLOUT, || {
            a.send(&bytes[sent..], libc::MSG_NOSIGNAL)
        }) {
            Ok(len) => len,
            Err(error) => {
                check!(error, Errno::EPIPE);
                0
            }
        },
        || b.recv_to_end(),
    );
    check_bytes(&must!(got), &bytes[..sent + more]);
    check_settled(&a);
    check_settled(&b);
    let mut room = vec![0; BLOCK];
    step!("the other way is open");
    set_retry(&a, false);
    must!(a.set_nonblocking(false));
    transfer(&b, &a, &bytes[..BLOCK], &mut room);
    let _ = stats(&a);
}
