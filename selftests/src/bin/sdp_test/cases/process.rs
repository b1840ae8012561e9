// SPDX-License-Identifier: GPL-2.0

//! Sockets and processes: shared, passed on, and left behind.

use crate::{
    config::patience,
    harness::{
        cases,
        check,
        check_any,
        must,
        step,
        Child, //
    },
    peers::{
        pair,
        pair_of,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Sock, //
};
use std::{
    mem,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    },
    os::unix::net::UnixStream,
    ptr, thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    process_dup(10) "dup(): the connection ends with the last descriptor",
    process_fork(10) "parent and child share a connection; it ends with the last of them",
    process_fork_listener(10) "a child accepts on its parent's listener",
    process_pass(10) "SCM_RIGHTS passes a connection to another process",
    process_exec(10) "a program inherits a connection as its standard output",
    process_exit(10) "a process that ends without close() ends its connections",
    process_killed(30) "SIGKILL while data flows: the other side sees the end or a reset soon",
    process_killed_connecting(20) "SIGKILL in connect(), accept() and a blocked send()",
    process_stopped(20) "a stopped reader stops the writer; continued, all goes on",
}

fn process_dup() {
    let (a, b) = pair();
    let copy = must!(a.dup());
    drop(a);
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
    check!(copy.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    drop(copy);
    check!(b.recv(&mut [0], 0), Ok(0));
}

fn process_fork() {
    let (a, b) = pair();
    let child = Child::start(|| {
        check!(a.send(b"child", 0), Ok(5));
        check!(a.recv_bytes(2), Ok(b"go".to_vec()));
    });
    check!(b.recv_bytes(5), Ok(b"child".to_vec()));
    drop(a);
    thread::sleep(Duration::from_millis(50));
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
    check!(b.send(b"go", 0), Ok(2));
    check!(child.wait(), 0);
    check!(b.recv(&mut [0], 0), Ok(0));
}

fn process_fork_listener() {
    let (listener, to) = B.listen();
    let child = Child::start(|| {
        let server = must!(listener.accept());
        let bytes = must!(server.recv_bytes(4));
        must!(server.send_all(&bytes));
    });
    drop(listener);
    let client = A.connect(&to);
    check!(client.send(b"echo", 0), Ok(4));
    check!(client.recv_to_end(), Ok(b"echo".to_vec()));
    check!(child.wait(), 0);
    check!(A.socket().connect(&to), Err(Errno::ECONNREFUSED));
}

/// Room for the control message that carries one descriptor.
#[repr(C, align(8))]
struct Control([u8; 24]);

fn pass(to: &UnixStream, fd: RawFd) {
    let mut byte = [0_u8];
    let mut piece = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 24]);
    // SAFETY: All-zero bytes are a valid `msghdr`; its pieces and its control buffer outlive the
    // call, and the buffer has room for the one header and descriptor that are written to it.
    let sent = unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<RawFd>(), fd);
        libc::sendmsg(to.as_raw_fd(), &message, 0)
    };
    check!(Errno::check_len(sent), Ok(1));
}

fn take(from: &UnixStream) -> Sock {
    let mut byte = [0_u8];
    let mut piece = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 24]);
    // SAFETY: As in `pass()`; a descriptor that comes is new and ours.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        check!(
            Errno::check_len(libc::recvmsg(from.as_raw_fd(), &mut message, 0)),
            Ok(1)
        );
        let header = libc::CMSG_FIRSTHDR(&message);
        assert!(
            !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS,
            "no descriptor came"
        );
        let fd = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>());
        OwnedFd::from_raw_fd(fd).into()
    }
}

fn process_pass() {
    let (a, b) = pair();
    let (here, there) = UnixStream::pair().unwrap_or_else(|error| panic!("socketpair: {error}"));
    let fd = a.fd();
    let child = Child::start(|| {
        // Only the passed descriptor is left.
        // SAFETY: The child never uses `a` again, and ends without running destructors.
        unsafe { libc::close(fd) };
        let passed = take(&there);
        check!(passed.send(b"passed", 0), Ok(6));
        check!(passed.recv_bytes(2), Ok(b"ok".to_vec()));
    });
    pass(&here, a.fd());
    // The last owner now is the message, then the child.
    drop(a);
    check!(b.recv_bytes(6), Ok(b"passed".to_vec()));
    check!(b.send(b"ok", 0), Ok(2));
    check!(child.wait(), 0);
    check!(b.recv(&mut [0], 0), Ok(0));
}

fn process_exec() {
    let (a, b) = pair();
    let child = Child::start(|| {
        // SAFETY: `dup2()` takes no memory; `execv()` gets two strings and an end mark.
        unsafe {
            libc::dup2(a.fd(), 1);
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
    check!(b.recv_to_end(), Ok(b"hello from a program\n".to_vec()));
    check!(child.wait(), 0);
}

fn process_exit() {
    let (listener, to) = B.listen();
    let child = Child::start(|| {
        let client = A.connect(&to);
        check!(client.send(b"bye", 0), Ok(3));
        mem::forget(client);
    });
    let server = must!(listener.accept());
    check!(server.recv_to_end(), Ok(b"bye".to_vec()));
    check!(child.wait(), 0);
}

/// Reads to the end or a reset, which must come soon.
pub(super) fn drain(sock: &Sock) {
    let start = Instant::now();
    let mut room = vec![0; 64 << 10];
    loop {
        match sock.recv(&mut room, 0) {
            Ok(0) => break,
            Ok(_) => (),
            Err(error) => break check!(error, Errno::ECONNRESET),
        }
    }
    let took = start.elapsed();
    assert!(took < patience(10), "took {took:?}");
}

fn process_killed() {
    let (listener, to) = B.listen();
    for round in 0..4 {
        step!("round {round}: a writer is killed");
        let child = Child::start(|| {
            let client = A.connect(&to);
            loop {
                must!(client.send_all(&[3; 32 << 10]));
            }
        });
        let server = must!(listener.accept());
        must!(server.recv_bytes(128 << 10));
        child.signal(libc::SIGKILL);
        check!(child.wait(), -libc::SIGKILL);
        drain(&server);

        step!("round {round}: a reader is killed");
        let child = Child::start(|| {
            let client = A.connect(&to);
            loop {
                must!(client.recv_bytes(10_000));
            }
        });
        let server = must!(listener.accept());
        must!(server.send_all(&[4; 128 << 10]));
        child.signal(libc::SIGKILL);
        check!(child.wait(), -libc::SIGKILL);
        let start = Instant::now();
        let error = loop {
            if let Err(error) = server.send(&[4; 32 << 10], libc::MSG_NOSIGNAL) {
                break error;
            }
        };
        check_any!(error, [Errno::EPIPE, Errno::ECONNRESET]);
        assert!(start.elapsed() < patience(10), "took {:?}", start.elapsed());
    }
}

fn process_killed_connecting() {
    let (listener, to) = B.listen();
    for round in 0..5 {
        step!("round {round}: in connect()");
        let child = Child::start(|| loop {
            mem::forget(A.connect(&to));
        });
        must!(listener.accept());
        child.signal(libc::SIGKILL);
        check!(child.wait(), -libc::SIGKILL);
    }
    step!("in accept()");
    let child = Child::start(|| {
        let (other, _) = B.listen();
        let _ = other.accept();
    });
    thread::sleep(Duration::from_millis(50));
    child.signal(libc::SIGKILL);
    check!(child.wait(), -libc::SIGKILL);

    step!("in a send() that is blocked");
    let (server, from) = B.listen();
    let child = Child::start(|| {
        let client = A.connect(&from);
        let _ = client.send(&[5; 64 << 20], 0);
    });
    let server = must!(server.accept());
    thread::sleep(Duration::from_millis(200));
    child.signal(libc::SIGKILL);
    check!(child.wait(), -libc::SIGKILL);
    drain(&server);

    step!("connections that were never accepted are gone");
    must!(listener.set_nonblocking(true));
    while let Ok(server) = listener.accept() {
        must!(server.set_nonblocking(false));
        drain(&server);
    }
    must!(listener.set_nonblocking(false));
    pair_of(&listener, &to);
}

fn process_stopped() {
    let (listener, to) = B.listen();
    let child = Child::start(|| {
        let client = A.connect(&to);
        check!(must!(client.recv_to_end()).len(), 1 << 20);
    });
    let server = must!(listener.accept());
    child.signal(libc::SIGSTOP);
    must!(server.set_timeout(libc::SO_SNDTIMEO, Duration::from_millis(500)));
    let bytes = vec![1; 1 << 20];
    let mut sent = 0;
    while sent < bytes.len() {
        match server.send(&bytes[sent..], 0) {
            Ok(len) => sent += len,
            Err(error) => {
                check!(error, Errno::EAGAIN);
                child.signal(libc::SIGCONT);
            }
        }
    }
    drop(server);
    child.signal(libc::SIGCONT);
    check!(child.wait(), 0);
}
