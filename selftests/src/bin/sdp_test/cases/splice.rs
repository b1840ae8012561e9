// SPDX-License-Identifier: GPL-2.0

//! `sendfile()` and `splice()`.

use crate::{
    config::{
        self,
        moment,
        patience,
        tcp,
        volume, //
    },
    faults::Faults,
    harness::{
        cases,
        check,
        join,
        must,
        skip,
        spawn, //
    },
    memory::memfd,
    peers::{
        becomes,
        pair,
        sdp_only,
        Side,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sdp::Stats,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    fs::{
        self,
        File, //
    },
    io::{
        self,
        Read,
        Write, //
    },
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    },
    ptr, thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    sendfile_file(30) "sendfile() of a file, whole and from an offset",
    sendfile_socket(20) "sendfile() of a file that shrinks and of nothing",
    splice_in(30) "splice() from a pipe into the socket",
    splice_out(30) "splice() from the socket into a pipe",
    splice_out_end(10) "splice() from an ended socket gives 0; from an empty non-blocking one EAGAIN",
    splice_out_moved(30) "large messages go to the pipe in their own pages, and are counted so",
    splice_out_small(20) "small messages go to the pipe as copies, one by one and in order",
    splice_out_mixed(60) "splice(), recv() and MSG_PEEK in turn, in random sizes: the order stays",
    splice_out_full(30) "a pipe takes no more than it has room for: the rest stays in the socket",
    splice_out_outlives(60) "what is in the pipe outlives the connection and its sockets",
    splice_out_no_memory(30) "without memory for other pages those of messages go to the pipe all the same, and none is lost",
    splice_out_waits(20) "splice() waits for data, as long as SO_RCVTIMEO says",
    splice_out_states(10) "splice() from sockets that are not connected, reset or shut",
    splice_eof(20) "sendfile() of more than the file has sends what there is at once",
}

fn io<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: There is room for two descriptors, which are ours then.
    unsafe {
        must!(Errno::check(libc::pipe(fds.as_mut_ptr())));
        (
            OwnedFd::from_raw_fd(fds[0]).into(),
            OwnedFd::from_raw_fd(fds[1]).into(),
        )
    }
}

pub(super) fn sendfile(sock: &Sock, file: &File, offset: i64, len: usize) -> Result<usize, Errno> {
    let mut offset = offset;
    // SAFETY: `offset` is one `off_t`.
    Errno::check_len(unsafe { libc::sendfile(sock.fd(), file.as_raw_fd(), &mut offset, len) })
}

pub(super) fn splice(from: RawFd, to: RawFd, len: usize, flags: u32) -> Result<usize, Errno> {
    // SAFETY: No memory is passed.
    Errno::check_len(unsafe {
        libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), len, flags)
    })
}

fn random(len: usize) -> Vec<u8> {
    Random::new(config::get().seed, 90).bytes(len)
}

fn sendfile_file() {
    let (a, b) = pair();
    let bytes = random(volume(4 << 20, 256 << 10) + 123);
    let total = bytes.len();
    let file = memfd(&bytes);
    let reader = spawn("reader", move || must!(b.recv_to_end()));
    let start = 1001;
    let mut sent = start;
    while sent < total {
        sent += must!(sendfile(&a, &file, sent as i64, total - sent));
    }
    drop(a);
    assert!(
        join(reader) == bytes[start..],
        "the bytes that arrive are those of the file"
    );
}

fn sendfile_socket() {
    let (a, b) = pair();
    let file = memfd(b"short");
    check!(sendfile(&a, &file, 0, 1000), Ok(5));
    check!(sendfile(&a, &file, 5, 1000), Ok(0));
    // Received before the file shrinks: until then the pages in flight are the file's own.
    check!(b.recv_bytes(5), Ok(b"short".to_vec()));
    io(file.set_len(2));
    check!(sendfile(&a, &file, 0, 1000), Ok(2));
    drop(a);
    check!(b.recv_to_end(), Ok(b"sh".to_vec()));
}

fn splice_in() {
    let (a, b) = pair();
    let bytes = random(volume(2 << 20, 128 << 10) + 77);
    let (from, mut to) = pipe();
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || io(to.write_all(&feed)));
    let reader = spawn("reader", move || must!(b.recv_to_end()));
    let mut sent = 0;
    loop {
        match must!(splice(
            from.as_raw_fd(),
            a.fd(),
            50_000,
            libc::SPLICE_F_MORE
        )) {
            0 => break,
            len => sent += len,
        }
    }
    check!(sent, bytes.len());
    drop(a);
    join(feeder);
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those of the pipe"
    );
}

fn splice_out() {
    let (a, b) = pair();
    let bytes = random(volume(2 << 20, 128 << 10) + 77);
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || must!(a.send_all(&feed)));
    let (mut from, to) = pipe();
    let reader = spawn("reader", move || {
        let mut all = Vec::new();
        io(from.read_to_end(&mut all));
        all
    });
    let mut got = 0;
    loop {
        match splice(b.fd(), to.as_raw_fd(), 50_000, 0) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(Errno::EINVAL) if got == 0 => skip("the socket has no splice_read"),
            Err(error) => panic!("splice\nexpected bytes\n     got {error}"),
        }
    }
    drop(to);
    join(feeder);
    check!(got, bytes.len());
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those that were sent"
    );
}

fn splice_out_end() {
    let (a, b) = pair();
    let (_from, to) = pipe();
    must!(b.set_nonblocking(true));
    match splice(b.fd(), to.as_raw_fd(), 100, 0) {
        Err(Errno::EINVAL) => skip("the socket has no splice_read"),
        result => check!(result, Err(Errno::EAGAIN)),
    }
    must!(b.set_nonblocking(false));
    drop(a);
    check!(splice(b.fd(), to.as_raw_fd(), 100, 0), Ok(0));
}

/// Splices `len` bytes from `sock` to the pipe `to`.
fn splice_all(sock: &Sock, to: &File, len: usize) {
    let mut got = 0;
    while got < len {
        match must!(splice(sock.fd(), to.as_raw_fd(), len - got, 0)) {
            0 => panic!("the stream ends after {got} of {len} bytes"),
            n => got += n,
        }
    }
}

/// Reads `len` bytes from the pipe `from`.
fn read(from: &mut File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    io(from.read_exact(&mut bytes));
    bytes
}

fn splice_out_moved() {
    sdp_only("TCP has no such counters");
    let (a, b) = pair();
    let bytes = random(volume(2 << 20, 256 << 10));
    let of_namespace = |side: Side| {
        side.enter();
        must!(Stats::of_namespace()).recv_moved
    };
    let before = (of_namespace(A), of_namespace(B));
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || {
        must!(a.send_all(&feed));
        a
    });
    let (mut from, to) = pipe();
    let len = bytes.len();
    let reader = spawn("reader", move || read(&mut from, len));
    splice_all(&b, &to, len);
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those that were sent"
    );
    drop(join(feeder));
    let stats = must!(Stats::of(&b));
    check!(stats.received(), len as u64);
    // What is copied are the ends of writes that did not fill a message.
    assert!(
        stats.recv_moved * 100 >= len as u64 * 95,
        "{} of {len} bytes were moved",
        stats.recv_moved
    );
    check!(of_namespace(A), before.0);
    check!(of_namespace(B), before.1 + stats.recv_moved);
}

fn splice_out_small() {
    let (a, b) = pair();
    must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
    let (mut from, to) = pipe();
    // More than there are receive buffers, so that each has to be posted again.
    for round in 0..200_u8 {
        check!(a.send(&[round], 0), Ok(1));
        splice_all(&b, &to, 1);
        check!(read(&mut from, 1), vec![round]);
    }
    if !tcp() {
        let stats = must!(Stats::of(&b));
        check!((stats.recv_moved, stats.recv_copied), (0, 200));
    }
}

fn splice_out_mixed() {
    let (a, b) = pair();
    let bytes = random(volume(3 << 20, 256 << 10) + 13);
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || {
        let mut random = Random::new(config::get().seed, 91);
        let mut rest = &feed[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.within(1, 40_000).min(rest.len()));
            must!(a.send_all(now));
            rest = later;
        }
    });
    let mut random = Random::new(config::get().seed, 92);
    let (mut from, to) = pipe();
    let mut all: Vec<u8> = Vec::new();
    while all.len() < bytes.len() {
        let len = random.within(1, 30_000);
        let mut room = vec![0; len];
        match random.within(0, 3) {
            0 => {
                let n = must!(b.recv(&mut room, 0));
                all.extend_from_slice(&room[..n]);
            }
            1 => {
                let n = must!(b.recv(&mut room, libc::MSG_PEEK));
                assert!(
                    room[..n] == bytes[all.len()..all.len() + n],
                    "a look after {} bytes shows what comes next",
                    all.len()
                );
            }
            _ => {
                let n = must!(splice(b.fd(), to.as_raw_fd(), len, 0));
                all.extend(read(&mut from, n));
            }
        }
    }
    join(feeder);
    assert!(
        all == bytes,
        "the bytes that arrive are those that were sent"
    );
    check!(splice(b.fd(), to.as_raw_fd(), 1, 0), Ok(0));
}

fn splice_out_full() {
    let (a, b) = pair();
    let bytes = random(volume(1 << 20, 256 << 10));
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || {
        must!(a.send_all(&feed));
        a
    });
    let (mut from, to) = pipe();
    let mut all = Vec::new();
    while all.len() < bytes.len() {
        let mut held = 0;
        while all.len() + held < bytes.len() {
            match splice(b.fd(), to.as_raw_fd(), 1 << 20, libc::SPLICE_F_NONBLOCK) {
                Err(Errno::EAGAIN) => break,
                result => held += must!(result),
            }
        }
        all.extend(read(&mut from, held));
    }
    assert!(
        all == bytes,
        "the bytes that arrive are those that were sent"
    );
    drop(join(feeder));
    // Nobody reads the pipe any more.
    // SAFETY: Only the disposition of a signal is set.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let (a, b) = pair();
    drop(from);
    check!(a.send(b"x", 0), Ok(1));
    check!(splice(b.fd(), to.as_raw_fd(), 1, 0), Err(Errno::EPIPE));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

/// Has other bytes in whatever memory the connection, or the kernel, uses for messages.
fn churn(a: &Sock, b: &Sock) {
    let other = vec![0xa5; 1 << 20];
    thread::scope(|scope| {
        scope.spawn(|| must!(a.send_all(&other)));
        must!(b.recv_bytes(other.len()));
    });
}

fn splice_out_outlives() {
    let (a, b) = pair();
    let bytes = random(40_000);
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || {
        must!(a.send_all(&feed));
        a
    });
    let (mut from, to) = pipe();
    // The rest of the last message stays, and shares its pages with the pipe.
    splice_all(&b, &to, bytes.len() - 5);
    let a = join(feeder);
    check!(b.recv_bytes(5), Ok(bytes[bytes.len() - 5..].to_vec()));
    churn(&a, &b);
    must!(a.send_all(&bytes[..3]));
    drop(a);
    drop(b);
    if !tcp() {
        let gone = || fs::read_to_string("/sys/module/sdp/refcnt").is_ok_and(|n| n.trim() == "0");
        assert!(
            becomes(patience(40), gone),
            "sockets are left: {:?}",
            fs::read_to_string("/sys/module/sdp/refcnt")
        );
    }
    let (a, b) = pair();
    churn(&a, &b);
    assert!(
        read(&mut from, bytes.len() - 5) == bytes[..bytes.len() - 5],
        "the pipe has what was spliced"
    );
}

fn splice_out_no_memory() {
    let faults = Faults::new();
    faults.no_pages();
    let (a, b) = pair();
    let bytes = random(volume(512 << 10, 128 << 10));
    let feed = bytes.clone();
    let feeder = spawn("feeder", move || {
        must!(a.send_all(&feed));
        a
    });
    let (mut from, to) = pipe();
    let len = bytes.len();
    let reader = spawn("reader", move || read(&mut from, len));
    faults.apply(|| splice_all(&b, &to, len / 2));
    let stats = must!(Stats::of(&b));
    check!((stats.recv_moved, stats.recv_copied), (len as u64 / 2, 0));
    // The receive buffers that are missing now are made in time.
    splice_all(&b, &to, len - len / 2);
    assert!(
        join(reader) == bytes,
        "the bytes that arrive are those that were sent"
    );
    drop(join(feeder));
}

fn splice_out_waits() {
    let (a, b) = pair();
    let (mut from, to) = pipe();
    must!(b.set_timeout(libc::SO_RCVTIMEO, moment()));
    let start = Instant::now();
    check!(splice(b.fd(), to.as_raw_fd(), 100, 0), Err(Errno::EAGAIN));
    assert!(
        start.elapsed() + config::TICK >= moment(),
        "it waits for {:?}",
        start.elapsed()
    );
    must!(b.set_timeout(libc::SO_RCVTIMEO, Duration::ZERO));
    let sender = spawn("sender", move || {
        thread::sleep(moment());
        check!(a.send(b"later", 0), Ok(5));
        a
    });
    // The flag is about the pipe alone.
    check!(
        splice(b.fd(), to.as_raw_fd(), 100, libc::SPLICE_F_NONBLOCK),
        Ok(5)
    );
    check!(read(&mut from, 5), b"later".to_vec());
    drop(join(sender));
}

fn splice_out_states() {
    let (_from, to) = pipe();
    let out = |sock: &Sock| splice(sock.fd(), to.as_raw_fd(), 100, 0);
    check!(out(&A.socket()), Err(Errno::ENOTCONN));
    check!(out(&B.listen().0), Err(Errno::ENOTCONN));

    let (_a, b) = pair();
    must!(b.shutdown(Shut::Read));
    check!(out(&b), Ok(0));

    let (a, b) = pair();
    must!(a.set_linger(0));
    drop(a);
    check!(out(&b), Err(Errno::ECONNRESET));
    check!(out(&b), Ok(0));
}

fn splice_eof() {
    let (a, b) = pair();
    let file = memfd(b"short");
    // One that was not held back, however slow the machine is at times.
    let best = (0..10)
        .map(|_| {
            let start = Instant::now();
            check!(sendfile(&a, &file, 0, 1000), Ok(5));
            check!(b.recv_bytes(5), Ok(b"short".to_vec()));
            start.elapsed()
        })
        .min();
    assert!(
        best < Some(Duration::from_millis(150)),
        "what came before the end took {best:?} at least"
    );
}
