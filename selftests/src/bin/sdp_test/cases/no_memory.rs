// SPDX-License-Identifier: GPL-2.0

//! Memory runs out, at every place of a call and in the module's own work: calls fail as TCP's may,
//! or do without, and what is left works.

use super::{
    charge::of_host,
    zerocopy_wire::written_behind, //
};
use crate::{
    config::{
        self,
        patience, //
    },
    faults::{
        Faults,
        Nth,
        ALLOCATIONS, //
    },
    harness::{
        cases,
        check,
        must,
        note,
        step, //
    },
    peers::{
        self,
        becomes,
        family,
        Side,
        A,
        B, //
    },
    zcopy::{
        self,
        check_bytes,
        check_settled,
        random,
        together, //
    },
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    random::Random,
    sock::{
        Addr,
        Sock, //
    },
};
use std::{
    fs, thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    no_memory_socket(60) "socket(), with each allocation failing",
    no_memory_bind(60) "bind()",
    no_memory_listen(60) "listen(), which works when it is called again",
    no_memory_connect(120) "connect(), which works when it is called again",
    no_memory_accept(60) "accept(): the connection stays in the queue",
    no_memory_send(60) "the first send()",
    no_memory_recv(60) "the first recv()",
    no_memory_send_stream(60) "a send() for which buffers grow",
    no_memory_recv_stream(60) "a recv() for which buffers grow",
    no_memory_zcopy_send(60) "a send() that lends its memory",
    no_memory_zcopy_recv(60) "a recv() that fetches",
    no_memory_zcopy_async(60) "a send() with MSG_ZEROCOPY",
    no_memory_written_behind(120) "a recv() into which the peer writes behind an urgent byte: without memory for that it goes on through the mark",
    no_memory_close(60) "close(): the peer hears of it",
    no_memory_set_up(60) "connections are made, and once at any place, at either end, an allocation fails",
    no_memory_transfer(60) "bytes move while the module gets no memory now and then: none is lost, and no connection",
}

/// What is there before a case, and has to be there after it.
#[derive(Debug, PartialEq, Eq)]
struct Before {
    sockets: [u64; 2],
    orphans: u64,
    pages: u64,
}

/// Pages that processors keep for themselves of what is counted.
const KEPT_PAGES: u64 = 512;

impl Before {
    fn look() -> Self {
        Self {
            sockets: [A, B].map(sockets),
            orphans: A.visit(|| of_host("orphans")),
            pages: A.visit(|| of_host("memory_pages")),
        }
    }

    /// Checks that connections can be made, and that nothing is left but what was there.
    fn check(self) {
        step!("afterwards");
        let (a, b) = peers::pair();
        exchange(&a, &b);
        drop((a, b));
        let none_left = || {
            let now = Self::look();
            now.sockets == self.sockets
                && now.orphans == self.orphans
                && now.pages <= self.pages + KEPT_PAGES
        };
        assert!(
            becomes(patience(5), none_left),
            "left: {:?}, before: {self:?}",
            Self::look()
        );
    }
}

/// Sockets of the module in the namespace of `side`.
fn sockets(side: Side) -> u64 {
    let text = side.visit(|| must!(fs::read_to_string("/proc/thread-self/net/protocols")));
    let line = text.lines().find(|line| line.starts_with("SDP "));
    let number = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    number.unwrap_or_else(|| panic!("no number of sockets of SDP in\n{text}"))
}

/// Takes an error that says that memory was lacking.
#[track_caller]
fn for_memory(error: Errno) {
    let all = [Errno::ENOMEM, Errno::ENOBUFS, Errno::EFAULT];
    assert!(
        all.contains(&error),
        "expected one of {all:?}\n     got {error}"
    );
}

/// Makes a call again that failed for want of memory.
#[track_caller]
fn again<T>(nth: &Nth, mut call: impl FnMut() -> Result<T>) -> T {
    match nth.call(&mut call) {
        Ok(value) => value,
        Err(error) => {
            for_memory(error);
            must!(call())
        }
    }
}

/// Moves a few bytes both ways.
fn exchange(a: &Sock, b: &Sock) {
    for (from, to) in [(a, b), (b, a)] {
        check!(from.send(b"hello", 0), Ok(5));
        check!(to.recv_bytes(5), Ok(b"hello".to_vec()));
    }
}

/// The end in B of what `sock` connected.
fn accept_of(listener: &Sock, sock: &Sock) -> Sock {
    let name = must!(sock.name()).to_v4();
    loop {
        // What was not made may be in the queue.
        let (other, peer) = must!(listener.accept_from(0));
        if peer.to_v4() == name {
            return other;
        }
    }
}

fn no_memory_socket() {
    let (faults, before) = (Faults::new(), Before::look());
    A.enter();
    faults.each(5, |nth| {
        drop(again(nth, || Sock::new(family(), libc::SOCK_STREAM, 0)));
    });
    before.check();
}

fn no_memory_bind() {
    let (faults, before) = (Faults::new(), Before::look());
    faults.each(5, |nth| {
        let sock = A.socket();
        again(nth, || sock.bind(&A.at(0)));
        must!(sock.listen(1));
    });
    before.check();
}

fn no_memory_listen() {
    let (faults, before) = (Faults::new(), Before::look());
    faults.each(5, |nth| {
        let listener = B.socket();
        must!(listener.bind(&B.at(0)));
        again(nth, || listener.listen(10));
        let addr = must!(listener.name());
        let (a, b) = peers::pair_of(&listener, &addr);
        exchange(&a, &b);
    });
    before.check();
}

fn no_memory_connect() {
    let (faults, before) = (Faults::new(), Before::look());
    let (listener, addr) = B.listen();
    faults.each(23, |nth| {
        let a = A.socket();
        must!(a.set_timeout(libc::SO_SNDTIMEO, patience(10)));
        again(nth, || a.connect(&addr));
        exchange(&a, &accept_of(&listener, &a));
    });
    drop(listener);
    before.check();
}

fn no_memory_accept() {
    let (faults, before) = (Faults::new(), Before::look());
    let (listener, addr) = B.listen();
    faults.each(5, |nth| {
        let a = A.connect(&addr);
        let b = again(nth, || listener.accept());
        exchange(&a, &b);
    });
    drop(listener);
    before.check();
}

/// Has one end send `bytes`, in as many calls as it takes, of which the first is `nth`'s.
fn send_nth(nth: &Nth, sock: &Sock, bytes: &[u8], flags: libc::c_int) -> usize {
    let sent = match nth.call(|| sock.send(bytes, flags)) {
        Ok(sent) => sent,
        Err(error) => {
            for_memory(error);
            0
        }
    };
    must!(sock.send_all(&bytes[sent..]));
    sent
}

/// Has one end receive until `room` is full, in calls of which the first is `nth`'s.
fn recv_nth(nth: &Nth, sock: &Sock, room: &mut [u8]) {
    let got = match nth.call(|| sock.recv(room, libc::MSG_WAITALL)) {
        Ok(got) => got,
        Err(error) => {
            for_memory(error);
            0
        }
    };
    check!(sock.recv_all(&mut room[got..]), Ok(room.len() - got));
}

/// Sends `len` bytes over each of several new connections, with failures in the first call.
fn sends(stride: usize, len: usize, pair: fn() -> (Sock, Sock)) {
    let (faults, before) = (Faults::new(), Before::look());
    let bytes = random(1300, len);
    faults.each(stride, |nth| {
        let (a, b) = pair();
        let (got, _) = together(
            || b.recv_bytes(len),
            || send_nth(nth, &a, &bytes, 0), //
        );
        check_bytes(&must!(got), &bytes);
        exchange(&a, &b);
        check_settled(&a);
    });
    before.check();
}

/// The same of receiving.
fn receives(stride: usize, len: usize, pair: fn() -> (Sock, Sock)) {
    let (faults, before) = (Faults::new(), Before::look());
    let bytes = random(1301, len);
    faults.each(stride, |nth| {
        let (a, b) = pair();
        let mut room = vec![0; len];
        together(
            || must!(a.send_all(&bytes)),
            || {
                assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0, "an event");
                recv_nth(nth, &b, &mut room);
            },
        );
        check_bytes(&room, &bytes);
        exchange(&a, &b);
        check_settled(&b);
    });
    before.check();
}

/// Bytes for which buffers grow.
const STREAM: usize = 100_000;
/// Bytes that are lent.
const LENT: usize = 256 << 10;

fn no_memory_send() {
    sends(3, 1000, peers::pair);
}

fn no_memory_recv() {
    receives(3, 1000, peers::pair);
}

fn no_memory_send_stream() {
    sends(9, STREAM, peers::pair);
}

fn no_memory_recv_stream() {
    receives(9, STREAM, peers::pair);
}

fn no_memory_zcopy_send() {
    sends(9, LENT, zcopy::pair);
}

fn no_memory_zcopy_recv() {
    receives(9, LENT, zcopy::pair);
}

fn no_memory_zcopy_async() {
    let (faults, before) = (Faults::new(), Before::look());
    let bytes = random(1302, LENT);
    faults.each(5, |nth| {
        let (a, b) = zcopy::pair();
        must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
        let (got, sent) = together(
            || b.recv_bytes(LENT),
            || send_nth(nth, &a, &bytes, libc::MSG_ZEROCOPY),
        );
        check_bytes(&must!(got), &bytes);
        // One that sent nothing has no notice.
        if sent > 0 {
            let notice = must!(peers::eventually(patience(3), || a.notice()));
            check!((notice.errno, notice.range), (0, (0, 0)));
        }
        check!(a.notice().map(drop), Err(Errno::EAGAIN));
        check_settled(&a);
    });
    before.check();
}

fn no_memory_written_behind() {
    let (faults, before) = (Faults::new(), Before::look());
    for inline in [false, true] {
        if config::slow() && inline != (config::get().seed % 2 == 0) {
            // Either takes more than a minute there.
            continue;
        }
        let mut went_on = false;
        faults.each(7, |nth| went_on |= written_behind(nth, inline));
        assert!(went_on, "memory lacked for what is behind the mark");
    }
    before.check();
}

fn no_memory_close() {
    let (faults, before) = (Faults::new(), Before::look());
    faults.each(3, |nth| {
        let (a, b) = peers::pair();
        check!(a.send(b"last", 0), Ok(4));
        nth.call(|| drop(a));
        check!(b.recv_to_end(), Ok(b"last".to_vec()));
    });
    before.check();
}

/// How long something is tried.
fn time() -> Duration {
    Duration::from_secs(if config::slow() { 3 } else { 30 })
}

/// Percent of what the module asks for that fails.
const SHARE: u32 = 10;

/// Connects; `None` where that fails as it may.
fn connect(addr: &Addr) -> Option<Sock> {
    A.enter();
    let sock = match Sock::new(family(), libc::SOCK_STREAM, 0) {
        Ok(sock) => sock,
        Err(error) => {
            for_memory(error);
            return None;
        }
    };
    must!(sock.set_timeout(libc::SO_SNDTIMEO, patience(5)));
    match sock.connect(addr) {
        Ok(()) => Some(sock),
        Err(error) => {
            for_memory(error);
            None
        }
    }
}

fn no_memory_set_up() {
    let (faults, before) = (Faults::new(), Before::look());
    let (listener, addr) = B.listen();
    must!(listener.set_nonblocking(true));
    // It refuses the peer by itself.
    faults.not_in("rdma_accept");
    let end = Instant::now() + time();
    let (mut made, mut failed) = (0, 0);
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        let kind = round % ALLOCATIONS.len();
        faults.once_of_module(kind, [1, 2, 5, 20][round / ALLOCATIONS.len() % 4]);
        let sock = connect(&addr);
        made += usize::from(sock.is_some());
        failed += usize::from(faults.has_failed(kind));
        while let Ok(sock) = listener.accept() {
            drop(sock);
        }
    }
    drop(faults);
    note(&format!("{failed} failures, {made} connections"));
    assert!(made > 0 && failed > 0, "{made} were made, {failed} not");
    must!(listener.set_nonblocking(false));
    for _ in 0..3 {
        let a = A.connect(&addr);
        exchange(&a, &accept_of(&listener, &a));
    }
    drop(listener);
    before.check();
}

/// Calls until memory is there.
fn until_done<T>(mut call: impl FnMut() -> Result<T>) -> T {
    loop {
        match call() {
            Ok(value) => return value,
            Err(error) => for_memory(error),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn no_memory_transfer() {
    let (faults, before) = (Faults::new(), Before::look());
    let end = Instant::now() + time();
    let mut sizes = Random::new(config::get().seed, 1303);
    let pairs = [peers::pair(), zcopy::pair()];
    faults.of_module(SHARE);
    let mut round = 0;
    while Instant::now() < end {
        let (a, b) = &pairs[round % 2];
        let (from, to) = if round % 4 < 2 { (a, b) } else { (b, a) };
        let limit = 1 << sizes.within(0, 19);
        let bytes = random(1400 + round as u64, sizes.within(1, limit));
        step!("{} bytes, round {round}", bytes.len());
        let mut room = vec![0; bytes.len()];
        together(
            || {
                let mut sent = 0;
                while sent < bytes.len() {
                    sent += until_done(|| from.send(&bytes[sent..], libc::MSG_NOSIGNAL));
                }
            },
            || {
                let mut got = 0;
                while got < room.len() {
                    match until_done(|| to.recv(&mut room[got..], 0)) {
                        0 => panic!("an end after {got} bytes"),
                        len => got += len,
                    }
                }
            },
        );
        check_bytes(&room, &bytes);
        round += 1;
    }
    drop(faults);
    assert!(round > 3, "{round} rounds");
    for (a, b) in pairs {
        exchange(&a, &b);
        check_settled(&a);
        check_settled(&b);
    }
    before.check();
}
