// SPDX-License-Identifier: GPL-2.0

//! `poll()`, `epoll` and the ioctls that count bytes.

use crate::{
    config::{
        self,
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
    hole::Hole,
    memory::PAGE,
    peers::{
        becomes,
        pair,
        pair_of,
        A,
        B, //
    },
    zcopy::{
        self,
        together,
        BLOCK, //
    },
};
use libc::{
    EPOLLERR,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDHUP,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP, //
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Piece,
        Shut,
        Sock, //
    },
};
use std::{
    fs,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    sync::mpsc,
    thread,
    time::Duration,
};

cases! {
    poll_life(10) "poll() through the life of a connection",
    poll_reset(10) "poll() of a reset connection: POLLERR and POLLHUP, SO_ERROR once",
    poll_reset_reason(30) "who sees the end of a reset connection finds its reason",
    poll_refused_reason(30) "who sees the end of a refused connect() finds its reason",
    poll_write_room(30) "POLLOUT goes when the socket is full and comes with room",
    poll_wakes(10) "data, the end and a reset wake a sleeping poll()",
    poll_asleep(20) "poll() and epoll do not wait for a call that sleeps in a page fault",
    poll_asleep_wakes(20) "what comes while a call sleeps so wakes who polls",
    poll_lowat(10) "SO_RCVLOWAT: poll() and recv() wait for so many bytes",
    poll_lowat_large(20) "SO_RCVLOWAT of more than the receive buffer: that grows, and poll() waits for all",
    epoll_level(10) "level-triggered epoll tells as long as there is something",
    epoll_edge(10) "edge-triggered epoll tells once for each arrival",
    epoll_edge_both(10) "edge-triggered epoll for both directions tells of no room that was always there",
    epoll_edge_zerocopy(30) "edge-triggered epoll tells of a MSG_ZEROCOPY notice, and of nothing else that becomes of the memory",
    epoll_edge_large(30) "edge-triggered epoll tells nothing once a large transfer is over",
    epoll_edge_connect(10) "edge-triggered epoll tells once of a connection",
    epoll_oneshot(10) "EPOLLONESHOT tells once until it is armed again",
    epoll_end(10) "EPOLLRDHUP at the peer's end, EPOLLHUP when both ends are ended",
    epoll_many(30) "one epoll for 64 connections finds the one that has data",
    ioctl_inq(10) "FIONREAD counts the bytes that can be read",
    ioctl_outq(20) "SIOCOUTQ counts the bytes that the peer has not got, down to 0",
}

const ALL: i16 = POLLIN | POLLOUT | POLLRDHUP;
const SOON: Duration = Duration::from_secs(3);

fn now(sock: &Sock) -> i16 {
    must!(sock.poll(ALL, Duration::ZERO))
}

fn poll_life() {
    let (a, b) = pair();
    check!(now(&a), POLLOUT);
    check!(now(&b), POLLOUT);
    check!(a.send(b"x", 0), Ok(1));
    check!(b.poll(POLLIN, SOON), Ok(POLLIN));
    check!(now(&b), POLLIN | POLLOUT);
    check!(b.recv(&mut [0], 0), Ok(1));
    check!(now(&b), POLLOUT);

    must!(a.shutdown(Shut::Write));
    check!(b.poll(POLLIN, SOON), Ok(POLLIN));
    check!(now(&b), POLLIN | POLLOUT | POLLRDHUP);
    check!(b.recv(&mut [0], 0), Ok(0));
    check!(now(&b), POLLIN | POLLOUT | POLLRDHUP);
    check!(now(&a), POLLOUT);

    must!(b.shutdown(Shut::Write));
    assert!(becomes(SOON, || now(&a) & POLLHUP != 0));
    check!(now(&a), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    check!(now(&b), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

fn poll_reset() {
    let (a, b) = pair();
    must!(a.set_linger(0));
    drop(a);
    assert!(becomes(SOON, || now(&b) & POLLERR != 0));
    check!(now(&b), POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
    check!(b.error(), Err(Errno::ECONNRESET));
    check!(b.error(), Ok(()));
    check!(now(&b), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

fn poll_reset_reason() {
    let (listener, to) = B.listen();
    for _ in 0..config::rounds(100, 10) {
        let (a, b) = pair_of(&listener, &to);
        must!(a.set_linger(0));
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let b = &b;
            let sleeper = scope.spawn(move || {
                // SAFETY: It takes no memory.
                let _ = tell.send(unsafe { libc::gettid() });
                must!(b.poll(0, SOON))
            });
            let stat = format!("/proc/self/task/{}/stat", must!(told.recv()));
            let sleeps = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S "));
            assert!(becomes(SOON, sleeps));
            drop(a);
            while now(b) & POLLHUP == 0 {}
            check!(b.recv(&mut [0], 0), Err(Errno::ECONNRESET));
            let woken = sleeper.join().expect("the sleeper panicked");
            assert_ne!(woken & POLLHUP, 0, "woken by {woken:#x}");
        });
    }
}

fn poll_refused_reason() {
    let holder = B.socket();
    must!(holder.bind(&B.at(0)));
    let to = must!(holder.name());
    for _ in 0..config::rounds(100, 10) {
        let a = A.socket();
        must!(a.set_nonblocking(true));
        check!(a.connect(&to), Err(Errno::EINPROGRESS));
        while now(&a) & POLLOUT == 0 {}
        check!(a.error(), Err(Errno::ECONNREFUSED));
    }
}

fn poll_write_room() {
    let (a, b) = pair();
    let bytes = [1; 16 << 10];
    let mut sent = 0;
    while let Ok(len) = a.send(&bytes, libc::MSG_DONTWAIT) {
        sent += len;
    }
    // What is on its way may still make room.
    while must!(a.poll(POLLOUT, moment())) & POLLOUT != 0 {
        sent += a.send(&bytes, libc::MSG_DONTWAIT).unwrap_or(0);
    }
    check!(now(&a), 0);
    let reader = spawn("reader", move || must!(b.recv_to_end()).len());
    check!(a.poll(POLLOUT, patience(5)), Ok(POLLOUT));
    sent += must!(a.send(&bytes[..1], libc::MSG_DONTWAIT));
    drop(a);
    check!(join(reader), sent);
}

fn poll_wakes() {
    let (a, b) = pair();
    let writer = spawn("writer", move || {
        for step in 0..3 {
            thread::sleep(Duration::from_millis(150));
            match step {
                0 => check!(a.send(b"x", 0), Ok(1)),
                1 => check!(a.shutdown(Shut::Write), Ok(())),
                _ => must!(a.set_linger(0)),
            }
        }
    });
    check!(b.poll(POLLIN, SOON), Ok(POLLIN));
    check!(b.recv(&mut [0], 0), Ok(1));
    check!(b.poll(POLLIN | POLLRDHUP, SOON), Ok(POLLIN | POLLRDHUP));
    // Nothing but errors from here on: a reset.
    assert_ne!(must!(b.poll(0, SOON)) & POLLHUP, 0);
    join(writer);
}

/// Checks what poll() and epoll say of `sock` now.
fn check_polls(sock: &Sock, events: i16) {
    check!(now(sock), events);
    let epoll = Epoll::new();
    epoll.add(sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1);
    check!(epoll.wait(Duration::ZERO), Some((1, events.into())));
}

fn poll_asleep() {
    // The first is copied, the second is lent, and may be fetched.
    for len in [PAGE, BLOCK] {
        step!("send() of {len} bytes sleeps");
        let (a, b) = zcopy::pair();
        let hole = Hole::new(len);
        let (sent, _) = together(
            || a.sendmsg(&mut [Piece::at(hole.start(), len)], 0),
            || {
                hole.asleep(1);
                check_polls(&a, POLLOUT);
                hole.fill();
                check!(must!(b.recv_bytes(len)).len(), len);
            },
        );
        check!(sent, Ok(len));

        step!("recv() of {len} bytes sleeps");
        let (a, b) = zcopy::pair();
        let hole = Hole::new(len);
        let receive = || {
            assert_ne!(must!(b.poll(POLLIN, patience(5))), 0);
            // SAFETY: Nothing uses the memory until the call has ended.
            unsafe { b.recv_at(hole.start(), len, libc::MSG_WAITALL) }
        };
        let bytes = zcopy::random(802, len);
        let (sent, (got, ())) = together(
            || a.send(&bytes, 0),
            || {
                together(receive, || {
                    hole.asleep(1);
                    check_polls(&b, POLLIN | POLLOUT);
                    hole.fill();
                })
            },
        );
        check!((sent, got), (Ok(len), Ok(len)));
        zcopy::check_bytes(hole.bytes(), &bytes);
    }
}

fn poll_asleep_wakes() {
    let hole = Hole::new(PAGE);
    let (listener, to) = B.listen();
    let (slept, ()) = together(
        || hole.sleep_locked(&listener),
        || {
            hole.asleep(1);
            check!(listener.poll(POLLIN, Duration::ZERO), Ok(0));
            let _client = A.connect(&to);
            check!(listener.poll(POLLIN, SOON), Ok(POLLIN));
            hole.fill();
        },
    );
    check!(slept, Ok(()));
    if config::tcp() {
        // It puts off what comes to a connection until the lock is free.
        return;
    }
    step!("data, and the end");
    let hole = Hole::new(PAGE);
    let (a, b) = pair();
    let (slept, ()) = together(
        || hole.sleep_locked(&b),
        || {
            hole.asleep(1);
            check!(b.poll(POLLIN, Duration::ZERO), Ok(0));
            let epoll = Epoll::new();
            epoll.add(&b, EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
            check!(a.send(b"x", 0), Ok(1));
            check!(epoll.wait(SOON), Some((1, EPOLLIN)));
            must!(a.shutdown(Shut::Write));
            check!(b.poll(POLLRDHUP, SOON), Ok(POLLRDHUP));
            check!(epoll.wait(SOON), Some((1, EPOLLIN | EPOLLRDHUP)));
            hole.fill();
        },
    );
    check!(slept, Ok(()));
}

fn poll_lowat() {
    let (a, b) = pair();
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 10));
    check!(b.get(libc::SOL_SOCKET, libc::SO_RCVLOWAT), Ok(10));
    check!(a.send(b"12345", 0), Ok(5));
    check!(b.poll(POLLIN, Duration::from_millis(200)), Ok(0));
    check!(a.send(b"67890", 0), Ok(5));
    check!(b.poll(POLLIN, SOON), Ok(POLLIN));
    check!(b.recv_bytes(10), Ok(b"1234567890".to_vec()));

    // recv() waits for as many, too.
    let writer = spawn("writer", move || {
        check!(a.send(b"abcde", 0), Ok(5));
        thread::sleep(Duration::from_millis(150));
        check!(a.send(b"fghij", 0), Ok(5));
        thread::sleep(Duration::from_millis(150));
        check!(a.send(b"end", 0), Ok(3));
    });
    check!(b.recv(&mut [0; 20], 0), Ok(10));
    // Fewer only at the end.
    check!(b.recv(&mut [0; 20], 0), Ok(3));
    check!(b.recv(&mut [0; 20], 0), Ok(0));
    join(writer);
}

fn poll_lowat_large() {
    const LOWAT: usize = 200_000;
    let (a, b) = pair();
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, LOWAT as libc::c_int));
    check!(
        b.get(libc::SOL_SOCKET, libc::SO_RCVLOWAT),
        Ok(LOWAT as libc::c_int)
    );
    check!(
        b.get(libc::SOL_SOCKET, libc::SO_RCVBUF),
        Ok(2 * LOWAT as libc::c_int)
    );
    let bytes = zcopy::random(803, LOWAT);
    must!(a.send_all(&bytes[1..]));
    let all = libc::c_int::try_from(LOWAT - 1);
    assert!(becomes(patience(5), || b.ioctl(libc::FIONREAD).ok() == all.ok()));
    check!(b.poll(POLLIN, moment()), Ok(0));
    check!(a.send(&bytes[..1], 0), Ok(1));
    check!(b.poll(POLLIN, SOON), Ok(POLLIN));
    check!(must!(b.recv_bytes(LOWAT)).len(), LOWAT);
}

pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn new() -> Self {
        // SAFETY: `epoll_create1()` takes no memory.
        let fd = must!(Errno::check(unsafe {
            libc::epoll_create1(libc::EPOLL_CLOEXEC)
        }));
        // SAFETY: The kernel just gave us this descriptor.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn control(&self, operation: libc::c_int, sock: &Sock, events: libc::c_int, token: u64) {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: `event` is one `epoll_event`.
        must!(Errno::check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, sock.fd(), &mut event)
        }));
    }

    pub(super) fn add(&self, sock: &Sock, events: libc::c_int, token: u64) {
        self.control(libc::EPOLL_CTL_ADD, sock, events, token);
    }

    /// One event within `timeout`: its token and what it says.
    pub(super) fn wait(&self, timeout: Duration) -> Option<(u64, libc::c_int)> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: There is room for one event.
        let count = must!(Errno::check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                &mut event,
                1,
                timeout.as_millis() as i32,
            )
        }));
        (count == 1).then_some((event.u64, event.events as libc::c_int))
    }
}

fn epoll_level() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    epoll.add(&b, EPOLLIN, 1);
    check!(epoll.wait(Duration::ZERO), None);
    check!(a.send(b"ab", 0), Ok(2));
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));
    must!(b.poll(POLLIN, SOON));
    check!(b.recv(&mut [0], 0), Ok(1));
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));
    check!(b.recv(&mut [0], 0), Ok(1));
    check!(epoll.wait(Duration::ZERO), None);
}

fn epoll_edge() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    epoll.add(&b, EPOLLIN | EPOLLET, 1);
    check!(epoll.wait(Duration::ZERO), None);
    for byte in b"ab" {
        check!(a.send(&[*byte], 0), Ok(1));
        check!(epoll.wait(SOON), Some((1, EPOLLIN)));
        check!(epoll.wait(Duration::from_millis(50)), None);
    }
    check!(b.recv(&mut [0; 8], 0), Ok(2));
    check!(epoll.wait(Duration::from_millis(50)), None);
    must!(a.shutdown(Shut::Write));
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));

    // For writing: once at first, and again when a full socket gets room.
    let (a, b) = pair();
    let epoll = Epoll::new();
    must!(a.set_nonblocking(true));
    epoll.add(&a, EPOLLOUT | EPOLLET, 2);
    check!(epoll.wait(SOON), Some((2, EPOLLOUT)));
    check!(epoll.wait(Duration::from_millis(50)), None);
    let bytes = [1; 16 << 10];
    // Fill, until even what is on its way makes no more room.
    let mut sent = 0;
    while must!(a.poll(POLLOUT, moment())) & POLLOUT != 0 {
        while let Ok(len) = a.send(&bytes, 0) {
            sent += len;
        }
    }
    while epoll.wait(Duration::ZERO).is_some() {}
    let reader = spawn("reader", move || must!(b.recv_to_end()).len());
    check!(epoll.wait(patience(5)), Some((2, EPOLLOUT)));
    drop(a);
    check!(join(reader), sent);
}

fn epoll_edge_both() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    epoll.add(&a, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
    check!(epoll.wait(SOON), Some((1, EPOLLOUT)));
    // By copy, whatever the threshold.
    for len in [1, 100, 3000] {
        check!(a.send(&vec![7; len], 0), Ok(len));
        check!(b.recv_bytes(len), Ok(vec![7; len]));
        check!(epoll.wait(moment() / 2), None);
    }
    check!(b.send(b"x", 0), Ok(1));
    check!(epoll.wait(SOON), Some((1, EPOLLIN | EPOLLOUT)));
    check!(epoll.wait(moment() / 2), None);
    must!(b.shutdown(Shut::Write));
    // That may be told twice, as data and as a change of the state; TCP does so too.
    let end = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    check!(epoll.wait(SOON), Some((1, end)));
}

fn epoll_edge_zerocopy() {
    let (a, b) = zcopy::pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    // Room for all, so that nobody waits for it.
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 8 << 20));
    let epoll = Epoll::new();
    epoll.add(&a, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
    check!(epoll.wait(SOON), Some((1, EPOLLOUT)));
    let bytes = zcopy::random(800, 2 * zcopy::THRESHOLD);
    for _ in 0..8 {
        check!(a.send(&bytes, libc::MSG_ZEROCOPY), Ok(bytes.len()));
        check!(b.recv_bytes(bytes.len()), Ok(bytes.clone()));
        // The peer's program may have the bytes before this end knows.
        check!(epoll.wait(SOON), Some((1, EPOLLOUT | EPOLLERR)));
        must!(a.notice());
        check!(epoll.wait(moment() / 4), None);
    }
    zcopy::counted("large sends are not copied", &a, |stats| {
        config::slow() || stats.sent_without_copy() > bytes.len() as u64
    });
}

fn epoll_edge_large() {
    let (a, b) = zcopy::pair();
    let epoll = Epoll::new();
    let events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    epoll.add(&a, events, 1);
    epoll.add(&b, events, 2);
    let bytes = zcopy::random(801, zcopy::BLOCK);
    let mut room = vec![0; zcopy::BLOCK];
    // Fetched first, then written.
    for _ in 0..6 {
        zcopy::transfer(&a, &b, &bytes, &mut room);
        thread::sleep(moment() / 4);
        while epoll.wait(Duration::ZERO).is_some() {}
        check!(epoll.wait(moment() / 2), None);
    }
}

fn epoll_edge_connect() {
    let (listener, to) = B.listen();
    let sock = A.socket();
    must!(sock.set_nonblocking(true));
    check!(sock.connect(&to), Err(Errno::EINPROGRESS));
    let epoll = Epoll::new();
    epoll.add(&sock, EPOLLIN | EPOLLOUT | EPOLLET, 1);
    check!(epoll.wait(SOON), Some((1, EPOLLOUT)));
    check!(epoll.wait(moment() / 2), None);
    let listens = Epoll::new();
    listens.add(&listener, EPOLLIN | EPOLLET, 2);
    check!(listens.wait(SOON), Some((2, EPOLLIN)));
    let _more = A.connect(&to);
    check!(listens.wait(SOON), Some((2, EPOLLIN)));
    check!(listens.wait(moment() / 2), None);
    must!(listener.accept());
    must!(listener.accept());
    check!(listens.wait(moment() / 2), None);
}

fn epoll_oneshot() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    let events = EPOLLIN | EPOLLONESHOT;
    epoll.add(&b, events, 1);
    check!(a.send(b"x", 0), Ok(1));
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));
    check!(epoll.wait(Duration::from_millis(50)), None);
    epoll.control(libc::EPOLL_CTL_MOD, &b, events, 1);
    check!(epoll.wait(SOON), Some((1, EPOLLIN)));
}

fn epoll_end() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    epoll.add(&b, EPOLLRDHUP | EPOLLET, 1);
    check!(epoll.wait(Duration::from_millis(50)), None);
    must!(a.shutdown(Shut::Write));
    check!(epoll.wait(SOON), Some((1, EPOLLRDHUP)));
    must!(b.shutdown(Shut::Write));
    check!(epoll.wait(SOON), Some((1, EPOLLRDHUP | EPOLLHUP)));

    let (a, b) = pair();
    let epoll = Epoll::new();
    epoll.add(&b, EPOLLET, 2);
    must!(a.set_linger(0));
    drop(a);
    check_any!(
        epoll.wait(SOON),
        [Some((2, EPOLLERR | EPOLLHUP)), Some((2, EPOLLHUP))]
    );
}

fn epoll_many() {
    let (listener, to) = B.listen();
    let count = config::rounds(64, 16);
    let pairs: Vec<_> = (0..count)
        .map(|_| crate::peers::pair_of(&listener, &to))
        .collect();
    let epoll = Epoll::new();
    for (number, (_, b)) in (0..).zip(&pairs) {
        epoll.add(b, EPOLLIN | EPOLLRDHUP, number);
    }
    check!(epoll.wait(Duration::ZERO), None);
    for number in [count - 1, 0, count / 2] {
        let (a, b) = &pairs[number];
        check!(a.send(b"x", 0), Ok(1));
        check!(epoll.wait(SOON), Some((number as u64, EPOLLIN)));
        check!(b.recv(&mut [0], 0), Ok(1));
    }
    check!(epoll.wait(Duration::ZERO), None);
}

fn ioctl_inq() {
    let (a, b) = pair();
    check!(b.ioctl(libc::FIONREAD), Ok(0));
    check!(a.send(b"0123456789", 0), Ok(10));
    check!(a.send(b"0123456789", 0), Ok(10));
    assert!(
        becomes(SOON, || b.ioctl(libc::FIONREAD) == Ok(20)),
        "has {:?}",
        b.ioctl(libc::FIONREAD)
    );
    check!(b.recv_bytes(15), Ok(b"012345678901234".to_vec()));
    check!(b.ioctl(libc::FIONREAD), Ok(5));
    check!(b.recv(&mut [0; 5], libc::MSG_PEEK), Ok(5));
    check!(b.ioctl(libc::FIONREAD), Ok(5));
    drop(a);
    check!(b.recv_bytes(5), Ok(b"56789".to_vec()));
    check!(b.ioctl(libc::FIONREAD), Ok(0));
    let (listener, _) = A.listen();
    check!(listener.ioctl(libc::FIONREAD), Err(Errno::EINVAL));
}

fn ioctl_outq() {
    let (a, b) = pair();
    let outq = || must!(a.ioctl(libc::TIOCOUTQ)) as usize;
    check!(outq(), 0);
    check!(a.send(b"x", 0), Ok(1));
    assert!(becomes(SOON, || outq() == 0), "has {}", outq());
    let bytes = [1; 16 << 10];
    let mut sent = 0;
    while let Ok(len) = a.send(&bytes, libc::MSG_DONTWAIT) {
        sent += len;
    }
    // The peer has some of it, this side the rest.
    assert!((1..=sent).contains(&outq()), "has {} of {sent}", outq());
    let reader = spawn("reader", move || {
        check!(must!(b.recv_bytes(sent)).len(), sent);
        b
    });
    assert!(becomes(patience(10), || outq() == 0), "has {}", outq());
    join(reader);
    let (listener, _) = A.listen();
    check!(listener.ioctl(libc::TIOCOUTQ), Err(Errno::EINVAL));
}
