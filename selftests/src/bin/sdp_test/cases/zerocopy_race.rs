// SPDX-License-Identifier: GPL-2.0

//! Memory, processes and connections that go while bytes of theirs are advertised.

use super::{
    connect::disconnect,
    process::drain,
    splice::sendfile, //
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
        join_scoped,
        must,
        spawn,
        step,
        Child, //
    },
    memory::{
        file,
        memfd,
        Map,
        PAGE, //
    },
    peers::{
        becomes,
        netem,
        pair_of,
        sdp_only,
        talk,
        B, //
    },
    signals::{
        block,
        catch,
        interrupt_every, //
    },
    zcopy::{
        check_bytes,
        check_received,
        check_sent,
        check_settled,
        pair,
        random,
        threshold,
        together,
        transfer,
        BLOCK,
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
use std::{
    os::unix::fs::FileExt,
    ptr,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    zcopy_killed_sender(60) "SIGKILL of a process that sends: the peer is told soon",
    zcopy_killed_receiver(60) "SIGKILL of a process that receives: the peer is told soon",
    zcopy_exit(30) "a process exits right after MSG_ZEROCOPY: the peer gets all",
    zcopy_exec(30) "a process becomes another right after MSG_ZEROCOPY: the peer gets all",
    zcopy_munmap(60) "the memory of a send is unmapped, and other memory comes to its place",
    zcopy_munmap_recv(60) "the memory of a receive is unmapped while it waits",
    zcopy_mprotect(60) "the memory of a send is protected from its process",
    zcopy_mprotect_recv(60) "the memory of a receive is protected from its process",
    zcopy_fork_send(30) "fork() during a send; parent and child write beside the bytes on the same pages",
    zcopy_fork_recv(60) "fork() during a receive; parent and child write beside the bytes on the same pages",
    zcopy_truncate(30) "the file that is mapped and sent gets shorter",
    zcopy_truncate_sendfile(30) "the file of a sendfile() gets shorter",
    zcopy_close_races(120) "either side closes or shuts down at any time of a transfer",
    zcopy_disconnected_send(60) "connect(AF_UNSPEC) while another thread's send lends its memory",
    zcopy_disconnected_read(90) "the same while another thread's receive reads from the peer, which does not answer",
    zcopy_disconnected_offer(60) "the same while another thread's receive offers its memory",
    zcopy_storm(120) "both ways, random sizes, signals, and readers that stop now and then",
}

fn zerocopy_on(sock: &Sock) {
    must!(sock.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
}

/// Sends all of `bytes` with `MSG_ZEROCOPY`.
fn send_zerocopy(sock: &Sock, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += must!(sock.send(&bytes[sent..], libc::MSG_ZEROCOPY));
    }
}

fn zcopy_killed_sender() {
    for (round, wait) in [0, 20, 100, 1500].into_iter().enumerate() {
        for zerocopy in [false, true] {
            step!("round {round}: MSG_ZEROCOPY {zerocopy}");
            let (a, b) = pair();
            zerocopy_on(&a);
            let child = Child::start(|| {
                let block = vec![3; 3 * BLOCK];
                let flags = if zerocopy { libc::MSG_ZEROCOPY } else { 0 };
                loop {
                    // What ENOBUFS says is no end.
                    let _ = a.send(&block, flags);
                }
            });
            drop(a);
            must!(b.recv_bytes(round * BLOCK / 2));
            thread::sleep(Duration::from_millis(wait));
            child.signal(libc::SIGKILL);
            check!(child.wait(), -libc::SIGKILL);
            drain(&b);
        }
    }
}

fn zcopy_killed_receiver() {
    for (round, wait) in [0, 20, 100, 300].into_iter().enumerate() {
        step!("round {round}");
        let (a, b) = pair();
        let child = Child::start(|| {
            let mut room = vec![0; 3 * BLOCK];
            loop {
                must!(b.recv(&mut room, libc::MSG_WAITALL));
            }
        });
        drop(b);
        let block = vec![4; BLOCK];
        for _ in 0..round {
            check!(a.send(&block, 0), Ok(BLOCK));
        }
        let (error, _) = together(
            || loop {
                if let Err(error) = a.send(&block, libc::MSG_NOSIGNAL) {
                    break error;
                }
            },
            || {
                thread::sleep(Duration::from_millis(wait));
                child.signal(libc::SIGKILL);
                check!(child.wait(), -libc::SIGKILL);
            },
        );
        check_any!(error, [Errno::EPIPE, Errno::ECONNRESET]);
    }
}

fn zcopy_exit() {
    sdp_only("TCP waits for room");
    for bytes in [BLOCK, 100] {
        let (a, b) = pair();
        zerocopy_on(&a);
        let block = random(300, bytes);
        let child = Child::start(|| {
            check!(a.send(&block, libc::MSG_ZEROCOPY), Ok(bytes));
        });
        drop(a);
        check!(child.wait(), 0);
        check_bytes(&must!(b.recv_to_end()), &block);
        check_settled(&b);
    }
}

fn zcopy_exec() {
    sdp_only("TCP waits for room");
    for inherited in [false, true] {
        step!("the socket is inherited: {inherited}");
        let (a, b) = pair();
        zerocopy_on(&a);
        let block = random(301, BLOCK);
        let child = Child::start(|| {
            check!(a.send(&block, libc::MSG_ZEROCOPY), Ok(BLOCK));
            // SAFETY: `dup2()` takes no memory; `execv()` gets strings and an end mark.
            unsafe {
                if inherited {
                    libc::dup2(a.fd(), 1);
                }
                let words = [
                    c"echo".as_ptr(),
                    c"hello from a program".as_ptr(),
                    ptr::null(),
                ];
                libc::execv(c"/bin/echo".as_ptr(), words.as_ptr());
            }
            panic!("execv: {}", Errno::last());
        });
        drop(a);
        check!(child.wait(), 0);
        let last: &[u8] = if inherited {
            b"hello from a program\n"
        } else {
            b""
        };
        check_bytes(&must!(b.recv_to_end()), &[&block[..], last].concat());
        check_settled(&b);
    }
}

/// What comes to the place of memory that is unmapped.
const OTHER: u8 = 0x99;

/// Sends a mapping while `disturb` does something to it, in each way that there is; the peer reads
/// after a while. What was counted must come, and as it was before when `MSG_ZEROCOPY` had
/// returned.
fn disturbed_send(disturb: impl Fn(Map) -> Option<Map>) {
    for flags in [0, libc::MSG_ZEROCOPY] {
        for (delay, late) in [(5, 50), (50, 300), (50, 1000)] {
            step!("flags {flags:#x}, after {delay} ms; the peer reads {late} ms later");
            let (a, b) = pair();
            zerocopy_on(&a);
            let bytes = random(310, BLOCK + 3 * PAGE);
            let mut map = Map::anonymous(bytes.len());
            map.bytes_mut().copy_from_slice(&bytes);
            let start = map.start() as usize;
            let returned = AtomicBool::new(false);
            let (sent, map) = together(
                || {
                    let start = ptr::with_exposed_provenance(start);
                    let sent = match a.sendmsg(&mut [Piece::at(start, bytes.len())], flags) {
                        Ok(sent) => sent,
                        Err(error) => {
                            check!(error, Errno::EFAULT);
                            0
                        }
                    };
                    returned.store(true, Ordering::Relaxed);
                    must!(a.shutdown(Shut::Write));
                    sent
                },
                || {
                    if flags != 0 {
                        assert!(becomes(patience(3), || returned.load(Ordering::Relaxed)));
                    }
                    thread::sleep(Duration::from_millis(delay));
                    let map = disturb(map);
                    thread::sleep(Duration::from_millis(late));
                    let got = must!(b.recv_to_end());
                    if flags == 0 {
                        // A call that has not returned may still copy what is there now.
                        check_or(&got, &bytes[..got.len().min(bytes.len())], OTHER);
                    } else {
                        check_bytes_some(&got, &bytes);
                    }
                    map
                },
            );
            check_received(&b, sent, 0);
            check_settled(&a);
            check_settled(&b);
            drop(map);
        }
    }
}

/// Checks that `got` is the start of `expected`.
#[track_caller]
fn check_bytes_some(got: &[u8], expected: &[u8]) {
    assert!(got.len() <= expected.len(), "{} bytes", got.len());
    check_bytes(got, &expected[..got.len()]);
}

fn zcopy_munmap() {
    sdp_only("TCP's count is checked by the counters");
    disturbed_send(|map| {
        let len = map.bytes().len();
        // Full of it from the start: a call that still copies would see zeros before it is filled.
        let other = memfd(&vec![OTHER; len]);
        drop(map);
        // Likely at the same place.
        Some(Map::file(&other, len, libc::PROT_READ, libc::MAP_PRIVATE))
    });
}

fn zcopy_mprotect() {
    sdp_only("TCP's count is checked by the counters");
    disturbed_send(|map| {
        map.protect(0, map.bytes().len(), libc::PROT_NONE);
        Some(map)
    });
}

/// Receives into a mapping while `disturb` does something to it; what does not come there comes
/// elsewhere.
fn disturbed_recv(disturb: impl Fn(Map) -> Option<Map>) {
    for late in [0, 50, 300] {
        for early in [0, 5, 30] {
            step!("the peer writes after {late} ms, the memory changes {early} ms later");
            let (a, b) = pair();
            let bytes = random(320, 2 * BLOCK);
            let map = Map::anonymous(2 * BLOCK);
            let start = map.start() as usize;
            let (first, (sent, map)) = together(
                || {
                    let start = ptr::with_exposed_provenance_mut(start);
                    // SAFETY: Only this call writes to the mapping, as long as there is one; what
                    // comes to its place is not used.
                    let first = unsafe { b.recv_at(start, 2 * BLOCK, libc::MSG_WAITALL) };
                    let first = match first {
                        Ok(len) => len,
                        Err(error) => {
                            check!(error, Errno::EFAULT);
                            0
                        }
                    };
                    let rest = must!(b.recv_bytes(2 * BLOCK - first));
                    check_bytes(&rest, &bytes[first..]);
                    first
                },
                || {
                    thread::scope(|scope| {
                        let sender = scope.spawn(|| {
                            thread::sleep(Duration::from_millis(late));
                            a.send(&bytes, 0)
                        });
                        thread::sleep(Duration::from_millis(late + early));
                        let map = disturb(map);
                        (join_scoped(sender), map)
                    })
                },
            );
            check!(sent, Ok(bytes.len()));
            if let Some(map) = map {
                map.protect(0, 2 * BLOCK, libc::PROT_READ | libc::PROT_WRITE);
                check_bytes(&map.bytes()[..first], &bytes[..first]);
            }
            check_settled(&a);
            check_settled(&b);
        }
    }
}

fn zcopy_munmap_recv() {
    disturbed_recv(|map| {
        drop(map);
        None
    });
}

fn zcopy_mprotect_recv() {
    disturbed_recv(|map| {
        map.protect(0, 2 * BLOCK, libc::PROT_NONE);
        Some(map)
    });
}

/// Where the bytes lie in a mapping that parent and child write around.
const BESIDE: usize = 100;

/// Writes to all that does not belong to the `BLOCK` bytes at `BESIDE`.
///
/// # Safety
///
/// `start` must be a mapping of `BLOCK + PAGE` bytes of which nothing else uses these.
unsafe fn write_beside(start: *mut u8, byte: u8) {
    // SAFETY: By the contract above.
    unsafe {
        start.write_bytes(byte, BESIDE);
        start.add(BESIDE + BLOCK).write_bytes(byte, PAGE - BESIDE);
    }
}

fn zcopy_fork_send() {
    sdp_only("TCP waits for room");
    let bytes = random(330, BLOCK);
    for parent_first in [false, true] {
        let (a, b) = pair();
        zerocopy_on(&a);
        let mut map = Map::anonymous(BLOCK + PAGE);
        map.bytes_mut()[BESIDE..][..BLOCK].copy_from_slice(&bytes);
        send_zerocopy(&a, &map.bytes()[BESIDE..][..BLOCK]);
        let start = map.start();
        let child = Child::start(|| {
            // SAFETY: The mapping is that long, and the bytes that are sent are left alone.
            unsafe { write_beside(start, 0xcc) };
            // The child's own memory: nothing that it writes there may go out.
            // SAFETY: As above; nothing of this process uses it.
            unsafe { start.add(BESIDE).write_bytes(0xdd, BLOCK) };
            thread::sleep(moment());
        });
        if parent_first {
            // SAFETY: As above.
            unsafe { write_beside(start, 0xee) };
        }
        thread::sleep(moment() / 2);
        // SAFETY: As above.
        unsafe { write_beside(start, 0xee) };
        check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes);
        check!(child.wait(), 0);
        check_settled(&a);
        check_settled(&b);
        check_bytes(&map.bytes()[BESIDE..][..BLOCK], &bytes);
    }
}

fn zcopy_fork_recv() {
    // fork() blocks all signals for a moment. A child that ends within it has its SIGCHLD, which is
    // ignored only where it is not blocked, interrupt another thread.
    block(libc::SIGCHLD);
    for delay in [0, 2, 10, 40] {
        step!("fork() {delay} ms after the write");
        let (a, b) = pair();
        let bytes = random(331, BLOCK);
        let map = Map::anonymous(BLOCK + PAGE);
        // SAFETY: The mapping is that long, and new.
        unsafe { write_beside(map.start(), 0x11) };
        let start = map.start() as usize;
        let write = |byte| {
            // SAFETY: The mapping is that long, and the bytes that are received are left alone.
            unsafe { write_beside(ptr::with_exposed_provenance_mut(start), byte) };
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let room = ptr::with_exposed_provenance_mut::<u8>(start);
                // SAFETY: Only this call writes to that part of the mapping.
                let got = unsafe { b.recv_at(room.add(BESIDE), BLOCK, libc::MSG_WAITALL) };
                check!(got, Ok(BLOCK));
            });
            scope.spawn(|| check!(a.send(&bytes, 0), Ok(BLOCK)));
            thread::sleep(Duration::from_millis(delay));
            // SAFETY: The work only writes memory and ends.
            let child = unsafe {
                Child::start_beside_threads(|| {
                    write(0xcc);
                    libc::_exit(0);
                })
            };
            write(0xee);
            check!(child.wait(), 0);
        });
        check_bytes(&map.bytes()[BESIDE..][..BLOCK], &bytes);
        assert!(map.bytes()[..BESIDE].iter().all(|byte| *byte == 0xee));
        check_settled(&a);
        check_settled(&b);
    }
}

/// Checks that each byte is what it was or `other`.
#[track_caller]
fn check_or(got: &[u8], expected: &[u8], other: u8) {
    check!(got.len(), expected.len());
    let wrong = got
        .iter()
        .zip(expected)
        .position(|(got, expected)| got != expected && *got != other);
    check!(wrong, None);
}

fn zcopy_truncate() {
    sdp_only("TCP waits for room");
    let bytes = random(340, BLOCK);
    let (a, b) = pair();
    zerocopy_on(&a);
    let file = file(&bytes);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::file(&file, BLOCK, prot, libc::MAP_SHARED);
    send_zerocopy(&a, map.bytes());
    must!(file.set_len(5 * PAGE as u64 + 7));
    must!(file.set_len(0));
    check_or(&must!(b.recv_bytes(BLOCK)), &bytes, 0);
    check_settled(&a);

    step!("a blocking send, whose peer is late");
    must!(file.write_all_at(&bytes, 0));
    let (sent, got) = together(
        || {
            let sent = match a.send(map.bytes(), 0) {
                Ok(sent) => sent,
                Err(error) => {
                    check!(error, Errno::EFAULT);
                    0
                }
            };
            must!(a.shutdown(Shut::Write));
            sent
        },
        || {
            thread::sleep(moment());
            must!(file.set_len(0));
            thread::sleep(Duration::from_millis(1500));
            must!(b.recv_to_end())
        },
    );
    check_or(&got, &bytes[..sent], 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_truncate_sendfile() {
    let bytes = random(341, 2 * BLOCK);
    for delay in [0, 20, 300] {
        step!("after {delay} ms");
        let (a, b) = pair();
        let file = file(&bytes);
        let (sent, got) = together(
            || {
                let mut sent = 0;
                loop {
                    match must!(sendfile(&a, &file, sent as i64, bytes.len() - sent)) {
                        0 => break,
                        len => sent += len,
                    }
                }
                must!(a.shutdown(Shut::Write));
                sent
            },
            || {
                thread::sleep(Duration::from_millis(delay));
                must!(file.set_len(0));
                thread::sleep(Duration::from_millis(delay));
                must!(b.recv_to_end())
            },
        );
        check_or(&got, &bytes[..sent], 0);
        check_sent(&a, sent, 0);
        check_received(&b, sent, 0);
        check_settled(&a);
        check_settled(&b);
    }
}

fn zcopy_close_races() {
    let mut random_delays = Random::new(config::get().seed, 2350);
    let bytes = random(350, 4 * BLOCK);
    for round in 0..config::rounds(40, 12) {
        let (a, b) = pair();
        zerocopy_on(&a);
        let (a, b) = (Arc::new(a), Arc::new(b));
        let flags = [0, libc::MSG_ZEROCOPY][round % 2] | libc::MSG_NOSIGNAL;
        // TCP's sender would wait long for a reader that shut its side.
        let ways = if config::tcp() { 5 } else { 7 };
        let how = random_delays.within(0, ways - 1);
        let delay = Duration::from_millis(random_delays.within(0, 60) as u64);
        step!("round {round}: way {how} after {delay:?}");
        let sender = {
            let (a, bytes) = (a.clone(), bytes.clone());
            spawn("sender", move || {
                let mut sent = 0;
                while sent < bytes.len() {
                    let end = bytes.len().min(sent + BLOCK);
                    match a.send(&bytes[sent..end], flags) {
                        Ok(len) => sent += len,
                        Err(error) => {
                            check_any!(error, [Errno::EPIPE, Errno::ECONNRESET, Errno::ENOBUFS]);
                            break;
                        }
                    }
                }
                sent
            })
        };
        let receiver = {
            let b = b.clone();
            let len = bytes.len();
            spawn("receiver", move || {
                let (mut room, mut got) = (vec![0; len], 0);
                while got < len {
                    match b.recv(&mut room[got..], 0) {
                        Ok(0) => break,
                        Ok(len) => got += len,
                        Err(error) => {
                            check!(error, Errno::ECONNRESET);
                            break;
                        }
                    }
                }
                room.truncate(got);
                room
            })
        };
        thread::sleep(delay);
        // Other descriptors of the same sockets are in the threads, so a close() alone would end
        // nothing.
        match how {
            0 => must!(a.shutdown(Shut::Write)),
            1 => must!(a.shutdown(Shut::Both)),
            2 => must!(b.shutdown(Shut::Write)),
            3 => must!(a.set_linger(0)),
            4 => (),
            5 => must!(b.shutdown(Shut::Both)),
            _ => must!(b.shutdown(Shut::Read)),
        }
        let closing = Instant::now();
        drop(a);
        let got = join(receiver);
        drop(b);
        let sent = join(sender);
        let took = closing.elapsed();
        assert!(took < patience(10), "took {took:?}");
        check_bytes_some(&got, &bytes);
        assert!(
            got.len() <= sent,
            "{} of {sent} came, way {how}, flags {flags:#x}",
            got.len()
        );
        if [0, 1, 2, 4].contains(&how) {
            // The receiver heard all, to an orderly end.
            check!(got.len(), sent);
        }
    }
}

/// Disconnects A's end while another thread makes `call` on it, after B's end did `first`. What A
/// sends is late, so that the device cannot be done with the memory: the call ends all the same,
/// and the socket can connect again.
fn disconnected(
    first: impl FnOnce(&Sock),
    call: impl FnOnce(&Sock) -> Result<usize, Errno> + Send,
) {
    let (listener, to) = B.listen();
    let (a, b) = pair_of(&listener, &to);
    for sock in [&a, &b] {
        threshold(sock, THRESHOLD);
        zerocopy_on(sock);
    }
    // The next receive expects large ones, and offers memory for them.
    let mut room = vec![0; BLOCK];
    for stream in 380..382 {
        transfer(&b, &a, &random(stream, BLOCK), &mut room);
    }
    let limit = patience(1);
    let late = (moment() + limit).as_millis() + 500;
    netem(&["delay", &format!("{late}ms")]);
    first(&b);
    let ((ended, end), start) = together(
        || (call(&a), Instant::now()),
        || {
            thread::sleep(moment());
            let start = Instant::now();
            disconnect(&a);
            start
        },
    );
    match ended {
        // A send may have copied some.
        Ok(len) => assert!(len < BLOCK, "{len} bytes"),
        ended => check_any!(
            ended,
            [
                Err(Errno::ECONNRESET),
                Err(Errno::EPIPE),
                Err(Errno::ENOTCONN)
            ]
        ),
    }
    let took = end.duration_since(start);
    assert!(took < limit, "took {took:?}");
    netem(&[]);
    let is_told = || must!(b.poll(0, Duration::ZERO)) & (libc::POLLERR | libc::POLLHUP) != 0;
    assert!(becomes(patience(20), is_told), "the peer is told");
    step!("it connects again");
    check!(a.connect(&to), Ok(()));
    talk(&a, &must!(listener.accept()));
}

fn zcopy_disconnected_send() {
    sdp_only("TCP's calls copy");
    disconnected(|_| (), |a| a.send(&[5; 2 * BLOCK], libc::MSG_NOSIGNAL));
}

fn zcopy_disconnected_read() {
    sdp_only("TCP's calls copy");
    let receive = |a: &Sock| {
        assert_ne!(must!(a.poll(libc::POLLIN, patience(5))), 0);
        a.recv(&mut vec![0; BLOCK], libc::MSG_WAITALL)
    };
    disconnected(|b| send_zerocopy(b, &[6; BLOCK]), receive);
}

fn zcopy_disconnected_offer() {
    sdp_only("TCP's calls copy");
    disconnected(|_| (), |a| a.recv(&mut vec![0; BLOCK], 0));
}

fn zcopy_storm() {
    catch(libc::SIGUSR1, 0);
    let (a, b) = pair();
    threshold(&a, PAGE);
    threshold(&b, THRESHOLD);
    let total = volume(16 << 20, BLOCK);
    let sizes = |stream| {
        let mut random = Random::new(config::get().seed, stream);
        move || {
            let limit = 1 << random.within(8, 20);
            random.within(1, limit)
        }
    };
    let send = |sock: &Sock, stream| {
        let _interrupter = interrupt_every(Duration::from_millis(11), libc::SIGUSR1);
        let (bytes, mut size, mut sent) = (random(stream, total), sizes(stream + 1), 0);
        while sent < total {
            let len = size().min(total - sent);
            match sock.send(&bytes[sent..][..len], 0) {
                Ok(len) => sent += len,
                Err(error) => check!(error, Errno::EINTR),
            }
        }
    };
    let receive = |sock: &Sock, stream| {
        let _interrupter = interrupt_every(Duration::from_millis(13), libc::SIGUSR1);
        let (mut size, mut got) = (sizes(stream + 2), 0);
        let mut room = vec![0; total];
        while got < total {
            let len = size().min(total - got);
            match sock.recv(&mut room[got..][..len], [0, libc::MSG_WAITALL][len % 2]) {
                Ok(len) => got += len,
                Err(error) => check!(error, Errno::EINTR),
            }
            if len % 64 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        check_bytes(&room, &random(stream, total));
    };
    thread::scope(|scope| {
        scope.spawn(|| send(&a, 360));
        scope.spawn(|| receive(&b, 360));
        scope.spawn(|| send(&b, 370));
        scope.spawn(|| receive(&a, 370));
    });
    for sock in [&a, &b] {
        check_sent(sock, total, 0);
        check_received(sock, total, 0);
        check_settled(sock);
    }
}
