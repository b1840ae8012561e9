// SPDX-License-Identifier: GPL-2.0

//! io_uring: accept, connect, send, receive and poll without a system call each.

use crate::{
    config::{
        self,
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        must,
        skip, //
    },
    peers::{
        becomes,
        pair,
        pair_of,
        A,
        B, //
    },
};
use io_uring::{
    opcode,
    squeue::Entry,
    types::{
        Fd,
        SubmitArgs,
        Timespec, //
    },
    IoUring, //
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::Sock, //
};
use std::{
    os::fd::{
        FromRawFd,
        OwnedFd, //
    },
    thread,
};

cases! {
    uring_accept_connect(10) "IORING_OP_ACCEPT and IORING_OP_CONNECT",
    uring_accept_more(10) "IORING_OP_ACCEPT tells whether more connections wait",
    uring_send_recv(20) "IORING_OP_SEND and IORING_OP_RECV, a receive that waits for its data",
    uring_large(30) "a send larger than all buffers completes as the peer reads",
    uring_poll_cancel(10) "IORING_OP_POLL_ADD, and a receive that is cancelled",
    uring_shutdown(10) "IORING_OP_SHUTDOWN ends a receive that waits",
    uring_commands(20) "IORING_OP_URING_CMD: SIOCINQ, SIOCOUTQ, options, names and time stamps, as the calls",
}

/// A ring of a few entries.
pub(super) struct Ring(IoUring);

impl Ring {
    pub(super) fn new() -> Self {
        match IoUring::new(8) {
            Ok(ring) => Self(ring),
            Err(error) => skip(&format!("no io_uring: {error}")),
        }
    }

    /// Starts an operation under `token`.
    ///
    /// # Safety
    ///
    /// What `entry` names must live until its completion was taken.
    pub(super) unsafe fn start(&mut self, entry: Entry, token: u64) {
        // SAFETY: By the contract above.
        let pushed = unsafe { self.0.submission().push(&entry.user_data(token)) };
        assert!(pushed.is_ok(), "the ring is full");
        check!(self.0.submit().map_err(|error| error.to_string()), Ok(1));
    }

    /// The next completion, which must come soon: its token and result.
    pub(super) fn next(&mut self) -> (u64, Result<usize, Errno>) {
        let (token, result, _) = self.next_with_flags();
        (token, result)
    }

    /// Registers `bytes` as the buffer with index 0.
    ///
    /// # Safety
    ///
    /// They must live as long as the ring.
    pub(super) unsafe fn register(&self, bytes: &[u8]) {
        let piece = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: By the contract above. The kernel writes to it only where an operation says so.
        must!(unsafe { self.0.submitter().register_buffers(&[piece]) });
    }

    /// The next completion with its flags.
    pub(super) fn next_with_flags(&mut self) -> (u64, Result<usize, Errno>, u32) {
        let timeout = Timespec::from(patience(5));
        let args = SubmitArgs::new().timespec(&timeout);
        if self.0.completion().is_empty() {
            if let Err(error) = self.0.submitter().submit_with_args(1, &args) {
                panic!("no completion: {error}");
            }
        }
        match self.0.completion().next() {
            Some(done) => {
                let result = usize::try_from(done.result()).map_err(|_| Errno(-done.result()));
                (done.user_data(), result, done.flags())
            }
            None => panic!("no completion"),
        }
    }
}

pub(super) fn send(sock: &Sock, bytes: &[u8], flags: i32) -> Entry {
    opcode::Send::new(Fd(sock.fd()), bytes.as_ptr(), bytes.len() as u32)
        .flags(flags)
        .build()
}

pub(super) fn recv(sock: &Sock, room: &mut [u8], flags: i32) -> Entry {
    opcode::Recv::new(Fd(sock.fd()), room.as_mut_ptr(), room.len() as u32)
        .flags(flags)
        .build()
}

fn uring_accept_connect() {
    let mut ring = Ring::new();
    let (listener, to) = B.listen();
    let accept = opcode::Accept::new(
        Fd(listener.fd()),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    )
    .build();
    let client = A.socket();
    let connect = opcode::Connect::new(Fd(client.fd()), to.as_ptr(), to.len() as u32).build();
    // SAFETY: The sockets and the address live until the end of this function, which takes both
    // completions.
    unsafe {
        ring.start(accept, 1);
        ring.start(connect, 2);
    }
    let mut done = [ring.next(), ring.next()];
    done.sort_by_key(|(token, _)| *token);
    check!(done[1], (2, Ok(0)));
    let fd = must!(done[0].1) as i32;
    // SAFETY: The kernel just gave us this descriptor.
    let server = Sock::from(unsafe { OwnedFd::from_raw_fd(fd) });
    check!(client.send(b"x", 0), Ok(1));
    check!(server.recv_bytes(1), Ok(b"x".to_vec()));
}

fn uring_accept_more() {
    const SOCK_NONEMPTY: u32 = 1 << 2;
    let mut ring = Ring::new();
    let (listener, to) = B.listen();
    let clients = [A.connect(&to), A.connect(&to), A.connect(&to)];
    // The last of them may be on its way.
    thread::sleep(moment());
    for more in [true, true, false] {
        let accept = opcode::Accept::new(
            Fd(listener.fd()),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        // SAFETY: The listener lives until the completion was taken, here.
        unsafe { ring.start(accept.build(), 1) };
        let (_, fd, flags) = ring.next_with_flags();
        // SAFETY: The kernel just gave us this descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(must!(fd) as i32) });
        check!(flags & SOCK_NONEMPTY != 0, more);
    }
    drop(clients);
}

fn uring_send_recv() {
    let mut ring = Ring::new();
    let (a, b) = pair();
    let mut room = [0; 16];
    for round in 0..50_u8 {
        let bytes = [round; 16];
        // SAFETY: Both buffers live until both completions were taken, below.
        unsafe {
            ring.start(recv(&b, &mut room, libc::MSG_WAITALL), 1);
            ring.start(send(&a, &bytes, 0), 2);
        }
        let mut done = [ring.next(), ring.next()];
        done.sort_by_key(|(token, _)| *token);
        check!(done, [(1, Ok(16)), (2, Ok(16))]);
        check!(room, bytes);
    }
    drop(a);
    // SAFETY: The buffer lives until the completion was taken.
    unsafe { ring.start(recv(&b, &mut room, 0), 3) };
    check!(ring.next(), (3, Ok(0)));
}

fn uring_large() {
    let mut ring = Ring::new();
    let (a, b) = pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 32 << 10));
    let bytes = Random::new(config::get().seed, 95).bytes(1 << 20);
    // SAFETY: The bytes live until the completion was taken.
    unsafe { ring.start(send(&a, &bytes, libc::MSG_WAITALL), 1) };
    let received = must!(b.recv_bytes(bytes.len()));
    check!(ring.next(), (1, Ok(bytes.len())));
    assert!(
        received == bytes,
        "the bytes that arrive are those that were sent"
    );
}

fn uring_poll_cancel() {
    let mut ring = Ring::new();
    let (a, b) = pair();
    // SAFETY: The socket lives until the completion was taken.
    unsafe {
        ring.start(
            opcode::PollAdd::new(Fd(b.fd()), libc::POLLIN as u32).build(),
            1,
        )
    };
    check!(a.send(b"x", 0), Ok(1));
    let (token, events) = ring.next();
    check!(
        (token, must!(events) as i16 & libc::POLLIN),
        (1, libc::POLLIN)
    );
    let mut room = [0; 8];
    check!(b.recv(&mut room, 0), Ok(1));
    // SAFETY: The buffer lives until both completions were taken.
    unsafe {
        ring.start(recv(&b, &mut room, 0), 2);
        ring.start(opcode::AsyncCancel::new(2).build(), 3);
    }
    let mut done = [ring.next(), ring.next()];
    done.sort_by_key(|(token, _)| *token);
    check!(done[0], (2, Err(Errno::ECANCELED)));
    check!(done[1], (3, Ok(0)));
    check!(a.send(b"y", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"y".to_vec()));
}

fn uring_shutdown() {
    let mut ring = Ring::new();
    let (_a, b) = pair();
    let mut room = [0; 8];
    // SAFETY: The buffer lives until both completions were taken.
    unsafe {
        ring.start(recv(&b, &mut room, 0), 1);
        ring.start(
            opcode::Shutdown::new(Fd(b.fd()), libc::SHUT_RDWR).build(),
            2,
        );
    }
    let mut done = [ring.next(), ring.next()];
    done.sort_by_key(|(token, _)| *token);
    check!(done, [(1, Ok(0)), (2, Ok(0))]);
}

/// What a command of a socket is given, each where the kernel looks for it.
#[derive(Clone, Copy, Default)]
struct Arguments {
    /// The level of an option.
    level: u32,
    name: u32,
    /// Instead of these, where an address goes.
    addr: Option<u64>,
    len: u32,
    value: u64,
}

/// `IORING_OP_URING_CMD`.
fn command(sock: &Sock, op: u32, arguments: Arguments) -> Entry {
    const URING_CMD: u8 = 46;
    let mut entry = opcode::Nop::new().build();
    let mut bytes = [0; 64];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &[URING_CMD]);
    put(4, &sock.fd().to_ne_bytes());
    put(8, &op.to_ne_bytes());
    match arguments.addr {
        Some(addr) => put(16, &addr.to_ne_bytes()),
        None => {
            put(16, &arguments.level.to_ne_bytes());
            put(20, &arguments.name.to_ne_bytes());
        }
    }
    put(44, &arguments.len.to_ne_bytes());
    put(48, &arguments.value.to_ne_bytes());
    assert_eq!(size_of_val(&entry), bytes.len());
    // SAFETY: It is a `struct io_uring_sqe`, of that size, for which any bytes are valid.
    unsafe {
        std::ptr::from_mut(&mut entry)
            .cast::<[u8; 64]>()
            .write(bytes)
    };
    entry
}

fn uring_commands() {
    const SIOCINQ: u32 = 0;
    const SIOCOUTQ: u32 = 1;
    const GETSOCKOPT: u32 = 2;
    const SETSOCKOPT: u32 = 3;
    const TX_TIMESTAMP: u32 = 4;
    const GETSOCKNAME: u32 = 5;
    let mut ring = Ring::new();
    let mut run = |sock: &Sock, op: u32, arguments: Arguments| {
        // SAFETY: What the arguments name lives until the completion was taken, here.
        unsafe { ring.start(command(sock, op, arguments), 1) };
        ring.next().1
    };
    let none = Arguments::default();
    let (listener, to) = B.listen();
    let (a, b) = pair_of(&listener, &to);
    check!(run(&a, SIOCINQ, none), Ok(0));
    check!(b.send(b"0123456789", 0), Ok(10));
    assert!(becomes(patience(5), || a.ioctl(libc::FIONREAD) == Ok(10)));
    check!(run(&a, SIOCINQ, none), Ok(10));
    assert!(becomes(patience(5), || run(&b, SIOCOUTQ, none) == Ok(0)));
    check!(run(&listener, SIOCINQ, none), Err(Errno::EINVAL));
    check!(run(&listener, SIOCOUTQ, none), Err(Errno::EINVAL));

    let mut value = [0i32; 2];
    let option = |level: i32, name: i32, value: &mut [i32]| Arguments {
        level: level as u32,
        name: name as u32,
        len: size_of_val(value) as u32,
        value: value.as_mut_ptr() as u64,
        ..none
    };
    let low = option(libc::SOL_SOCKET, libc::SO_RCVLOWAT, &mut value);
    check!(run(&a, GETSOCKOPT, low), Ok(4));
    check!(value, [1, 0]);
    value[0] = 7;
    check!(run(&a, SETSOCKOPT, low), Ok(0));
    check!(a.get(libc::SOL_SOCKET, libc::SO_RCVLOWAT), Ok(7));
    // Those that the family sets itself.
    for name in [libc::SO_ZEROCOPY, libc::SO_REUSEPORT] {
        value[0] = 1;
        let on = option(libc::SOL_SOCKET, name, &mut value);
        check!(run(&a, SETSOCKOPT, on), Ok(0));
        check!(a.get(libc::SOL_SOCKET, name), Ok(1));
    }
    value[0] = 1;
    let nodelay = option(libc::SOL_TCP, libc::TCP_NODELAY, &mut value);
    check!(run(&a, SETSOCKOPT, nodelay), Ok(0));
    check!(a.get(libc::SOL_TCP, libc::TCP_NODELAY), Ok(1));
    // io_uring reads those of SOL_SOCKET only.
    check!(run(&a, GETSOCKOPT, nodelay), Err(Errno::EOPNOTSUPP));
    let unknown = option(libc::SOL_SOCKET, 999, &mut value);
    check!(run(&a, GETSOCKOPT, unknown), Err(Errno::ENOPROTOOPT));
    check!(run(&a, SETSOCKOPT, unknown), Err(Errno::ENOPROTOOPT));
    // It needs larger completions.
    check!(run(&a, TX_TIMESTAMP, none), Err(Errno::EINVAL));

    for (peer, expected) in [(0, a.name()), (1, a.peer())] {
        let mut room = [0u8; 128];
        let mut len = room.len() as libc::socklen_t;
        let name = Arguments {
            addr: Some(room.as_mut_ptr() as u64),
            len: peer,
            value: (&raw mut len) as u64,
            ..none
        };
        match run(&a, GETSOCKNAME, name) {
            // Of Linux 7.0.
            Err(Errno::EOPNOTSUPP) => break,
            got => check!(got, Ok(0)),
        }
        let expected = must!(expected);
        check!(len as usize, expected.len());
        // SAFETY: An address of that length is there.
        let bytes =
            unsafe { std::slice::from_raw_parts(expected.as_ptr().cast::<u8>(), expected.len()) };
        check!(&room[..bytes.len()], bytes);
    }
    check!(run(&a, 99, none), Err(Errno::EOPNOTSUPP));
}
