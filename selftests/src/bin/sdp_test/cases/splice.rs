// SPDX-License-Identifier: GPL-2.0

//! `sendfile()` and `splice()`.

use crate::{
    config::{
        self,
        volume, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        skip,
        spawn, //
    },
    peers::pair, //
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::Sock, //
};
use std::{
    fs::File,
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
    ptr,
};

cases! {
    sendfile_file(30) "sendfile() of a file, whole and from an offset",
    sendfile_socket(20) "sendfile() of a file that shrinks and of nothing",
    splice_in(30) "splice() from a pipe into the socket",
    splice_out(30) "splice() from the socket into a pipe",
    splice_out_end(10) "splice() from an ended socket gives 0; from an empty non-blocking one EAGAIN",
}

fn io<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// A file in memory with `bytes`.
fn file(bytes: &[u8]) -> File {
    // SAFETY: The name is a string.
    let fd = must!(Errno::check(unsafe {
        libc::memfd_create(c"sdp_test".as_ptr(), 0)
    }));
    // SAFETY: The kernel just gave us this descriptor.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    io(file.write_all(bytes));
    file
}

fn pipe() -> (File, File) {
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

fn sendfile(sock: &Sock, file: &File, offset: i64, len: usize) -> Result<usize, Errno> {
    let mut offset = offset;
    // SAFETY: `offset` is one `off_t`.
    Errno::check_len(unsafe { libc::sendfile(sock.fd(), file.as_raw_fd(), &mut offset, len) })
}

fn splice(from: RawFd, to: RawFd, len: usize, flags: u32) -> Result<usize, Errno> {
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
    let file = file(&bytes);
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
    let file = file(b"short");
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
