// SPDX-License-Identifier: GPL-2.0

//! What a thread does at random: each kind of step draws its arguments first, and makes one call or
//! a few.
//!
//! What is drawn never depends on what calls gave, so that the seed alone says what a thread does.

use crate::{
    memory::DATA,
    shared,
    worker::{
        Of,
        Worker,
        AF_INET6_SDP, //
    },
};
use io_uring::{
    opcode,
    squeue::{
        Entry,
        Flags, //
    },
    types::Fd,
};
use sdp_selftests::{
    random::Random,
    sock::v6_for, //
};
use std::{
    mem,
    net::Ipv4Addr,
    ptr::{
        with_exposed_provenance,
        with_exposed_provenance_mut, //
    },
};

/// A kind of step.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// How often it is done, beside the others.
    pub(crate) weight: usize,
    pub(crate) run: fn(&mut Worker),
}

macro_rules! kinds {
    ($($name:ident($weight:literal),)*) => {
        /// All kinds.
        pub(crate) const KINDS: &[Kind] = &[$(Kind {
            name: stringify!($name),
            weight: $weight,
            run: Worker::$name,
        }),*];
    };
}

kinds! {
    socket(4), connection(8), listener(4), client(8), bind(4), listen(3), connect(6), disconnect(1),
    accept(7), names(2), shutdown(2), close_one(3), send(9), sendmsg(5), sendmmsg(2), write(3),
    recv(10), recvmsg(5), recvmmsg(2), read(3), setsockopt(9), getsockopt(6), linger(2),
    timeouts(2), zero_copy(2), stamps(2), ioctl(4), fcntl(3), poll(3), select(1), epoll_create(1),
    epoll_ctl(4), epoll_wait(2), pipe(1), splice(5), tee(1), vmsplice(1), sendfile(3),
    memory_file(1), dup(1), dup3(1), pass_file(1), get_file(2), fork(1), kill_child(1),
    change_memory(1), map_socket(1), uring(6), set_sysctl(1), read_proc(1), sock_diag(1),
}

const _: () = assert!(KINDS.len() <= shared::KINDS);

/// What accepts, connects and sends through a ring has this, and its result is a file.
const GIVES_FILE: u64 = 1;

/// `F_SETSIG`.
const F_SETSIG: libc::c_int = 10;

const LEVELS: [libc::c_int; 9] = [
    libc::SOL_SOCKET,
    libc::SOL_SOCKET,
    libc::SOL_SOCKET,
    libc::SOL_TCP,
    libc::SOL_TCP,
    libc::SOL_TCP,
    libc::SOL_IP,
    libc::SOL_IPV6,
    282,
];

/// The size of a name.
const NAME: usize = mem::size_of::<libc::sockaddr_in>();

/// A number as a register has it.
fn reg(number: libc::c_int) -> usize {
    number as usize
}

impl Worker {
    fn socket(&mut self) {
        let family = match self.within(0, 19) {
            0..=14 => self.family,
            15 | 16 => AF_INET6_SDP,
            17 => self.one_of(&[libc::AF_INET, libc::AF_INET6]),
            _ => self.within(0, 50) as libc::c_int,
        };
        let kind = match self.within(0, 19) {
            0 => self.within(0, 20) as libc::c_int,
            _ => libc::SOCK_STREAM,
        };
        let flags = self.one_of(&[
            0,
            libc::SOCK_NONBLOCK,
            libc::SOCK_NONBLOCK,
            libc::SOCK_CLOEXEC,
        ]);
        let protocol = match self.within(0, 19) {
            0 => self.within(0, 300),
            1..=5 => libc::IPPROTO_TCP as usize,
            _ => 0,
        };
        let file = self.call(libc::SYS_socket, [reg(family), reg(kind | flags), protocol]);
        self.keep(Of::Socket, file);
    }

    /// A family, and an address for its sockets with its length: mostly IPv4, or IPv6, or IPv4
    /// mapped to it.
    fn end(&mut self, ip: [u8; 4], port: u16) -> (usize, usize, usize) {
        let ip = Ipv4Addr::from(ip);
        let ip6 = match self.within(0, 9) {
            0..=4 => {
                let name = self.scratch.put(libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: port.to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(ip.octets()),
                    },
                    sin_zero: [0; 8],
                });
                return (reg(self.family), name, NAME);
            }
            5 | 6 => ip.to_ipv6_mapped(),
            _ => v6_for(ip),
        };
        let family = match self.family {
            libc::AF_INET => libc::AF_INET6,
            _ => AF_INET6_SDP,
        };
        let name = self.scratch.put(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: ip6.octets(),
            },
            sin6_scope_id: 0,
        });
        (reg(family), name, mem::size_of::<libc::sockaddr_in6>())
    }

    /// Both ends of a connection, with the calls of a program that means it.
    fn connection(&mut self) {
        let ip = self.one_of(&[[10, 27, 0, 1], [10, 27, 0, 2], [127, 0, 0, 1], [0, 0, 0, 0]]);
        let flags = self.one_of(&[0, libc::SOCK_NONBLOCK, libc::SOCK_NONBLOCK]);
        let (family, address, len) = self.end(ip, 0);
        let room = self.scratch.put(len as libc::socklen_t);
        let time = self.scratch.put(libc::timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let nonblocking = reg(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        let listener = self.call(libc::SYS_socket, [family, nonblocking, 0]);
        let client = self.call(libc::SYS_socket, [family, nonblocking, 0]);
        self.call(libc::SYS_bind, [listener as usize, address, len]);
        self.call(libc::SYS_listen, [listener as usize, 4]);
        self.call(libc::SYS_getsockname, [listener as usize, address, room]);
        self.call(libc::SYS_connect, [client as usize, address, len]);
        let poll = self.scratch.put(libc::pollfd {
            fd: listener as libc::c_int,
            events: libc::POLLIN,
            revents: 0,
        });
        // The supervisor interrupts it now and then.
        for _ in 0..4 {
            self.call(libc::SYS_ppoll, [poll, 1, time, 0, 0]);
        }
        let server = self.call(libc::SYS_accept4, [listener as usize, 0, 0, reg(flags)]);
        self.call(
            libc::SYS_fcntl,
            [client as usize, reg(libc::F_SETFL), reg(flags)],
        );
        self.keep(Of::Socket, client);
        self.keep(Of::Socket, server);
        match self.chance(90) {
            true => self.close(listener as usize),
            false => self.keep(Of::Socket, listener),
        }
    }

    /// A listener where others connect to.
    fn listener(&mut self) {
        let port = self.meeting_port();
        let (family, name, len) = self.end([0; 4], port);
        let backlog = self.within(0, 8);
        let option = self.one_of(&[libc::SO_REUSEADDR, libc::SO_REUSEPORT]);
        let one = self.scratch.put(1);
        let kind = self.one_of(&[libc::SOCK_STREAM, libc::SOCK_STREAM | libc::SOCK_NONBLOCK]);
        let file = self.call(libc::SYS_socket, [family, reg(kind), 0]);
        let option = [file as usize, reg(libc::SOL_SOCKET), reg(option), one, 4];
        self.call(libc::SYS_setsockopt, option);
        self.call(libc::SYS_bind, [file as usize, name, len]);
        self.call(libc::SYS_listen, [file as usize, backlog]);
        self.keep(Of::Listener, file);
    }

    /// An end that connects to one of those, on either host, and waits a moment for it.
    fn client(&mut self) {
        let ip = self.one_of(&[[10, 27, 0, 1], [10, 27, 0, 2]]);
        let port = self.meeting_port();
        let (family, name, len) = self.end(ip, port);
        let time = self.moment();
        let flags = self.one_of(&[0, libc::SOCK_NONBLOCK]);
        let nonblocking = reg(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        let file = self.call(libc::SYS_socket, [family, nonblocking, 0]);
        let poll = self.scratch.put(libc::pollfd {
            fd: file as libc::c_int,
            events: libc::POLLOUT,
            revents: 0,
        });
        self.call(libc::SYS_connect, [file as usize, name, len]);
        self.call(libc::SYS_ppoll, [poll, 1, time, 0, 0]);
        self.call(
            libc::SYS_fcntl,
            [file as usize, reg(libc::F_SETFL), reg(flags)],
        );
        self.keep(Of::Socket, file);
    }

    fn bind(&mut self) {
        let file = self.file(Of::Socket);
        let (address, len) = self.address();
        self.call(libc::SYS_bind, [file, address, len]);
    }

    fn listen(&mut self) {
        let file = self.file(Of::Socket);
        let backlog = self.one_of(&[0, 1, 2, 5, 128, 1 << 20, -1]);
        self.call(libc::SYS_listen, [file, reg(backlog)]);
    }

    fn connect(&mut self) {
        let file = self.file(Of::Socket);
        let (address, len) = self.address();
        self.call(libc::SYS_connect, [file, address, len]);
    }

    fn disconnect(&mut self) {
        let file = self.file(Of::Socket);
        let address = self.scratch.put([0u8; 28]);
        let len = self.length(16);
        self.call(libc::SYS_connect, [file, address, len]);
    }

    fn accept(&mut self) {
        let of = self.one_of(&[Of::Listener, Of::Listener, Of::Listener, Of::Socket]);
        let file = self.file(of);
        let (room, len) = self.room_for_address();
        let flags = match self.within(0, 9) {
            0 => self.number(),
            _ => self.one_of(&[0, libc::SOCK_NONBLOCK, libc::SOCK_CLOEXEC]),
        };
        let accepted = self.call(libc::SYS_accept4, [file, room, len, reg(flags)]);
        self.keep(Of::Socket, accepted);
    }

    fn names(&mut self) {
        let file = self.file(Of::Socket);
        let (room, len) = self.room_for_address();
        let number = self.one_of(&[libc::SYS_getsockname, libc::SYS_getpeername]);
        self.call(number, [file, room, len]);
    }

    fn shutdown(&mut self) {
        let file = self.file(Of::Socket);
        let how = self.within(0, 3);
        self.call(libc::SYS_shutdown, [file, how]);
    }

    fn close_one(&mut self) {
        let of = self.one_of(&[
            Of::Socket,
            Of::Socket,
            Of::Socket,
            Of::Listener,
            Of::Pipe,
            Of::File,
        ]);
        let file = self.take_file(of);
        self.close(file);
    }

    fn send(&mut self) {
        let file = self.file(Of::Socket);
        let (start, len) = self.buffer();
        let flags = self.message_flags();
        let (address, address_len) = match self.chance(10) {
            true => self.address(),
            false => (0, 0),
        };
        let args = [file, start, len, reg(flags), address, address_len];
        self.call(libc::SYS_sendto, args);
    }

    fn sendmsg(&mut self) {
        let file = self.file(Of::Socket);
        let message = self.message();
        let message = self.scratch.put(message);
        let flags = self.message_flags();
        self.call(libc::SYS_sendmsg, [file, message, reg(flags)]);
    }

    /// A few messages for `sendmmsg()` and `recvmmsg()`.
    fn messages(&mut self) -> usize {
        let messages = [0; 3].map(|_| libc::mmsghdr {
            msg_hdr: self.message(),
            msg_len: 0,
        });
        self.scratch.put(messages)
    }

    fn sendmmsg(&mut self) {
        let file = self.file(Of::Socket);
        let messages = self.messages();
        let count = self.within(0, 3);
        let flags = self.message_flags();
        self.call(libc::SYS_sendmmsg, [file, messages, count, reg(flags)]);
    }

    fn write(&mut self) {
        let file = self.file(Of::Socket);
        let (start, len) = self.buffer();
        let (pieces, count) = self.pieces();
        match self.within(0, 2) {
            0 => self.call(libc::SYS_write, [file, start, len]),
            1 => self.call(libc::SYS_writev, [file, pieces, count]),
            _ => self.call(
                libc::SYS_pwritev2,
                [file, pieces, count, usize::MAX, 0, reg(libc::RWF_NOWAIT)],
            ),
        };
    }

    fn recv(&mut self) {
        let file = self.file(Of::Socket);
        let (start, len) = self.buffer();
        let flags = self.message_flags();
        let (room, room_len) = match self.chance(10) {
            true => self.room_for_address(),
            false => (0, 0),
        };
        self.call(
            libc::SYS_recvfrom,
            [file, start, len, reg(flags), room, room_len],
        );
    }

    fn recvmsg(&mut self) {
        let file = self.file(Of::Socket);
        let mut message = self.message();
        // What the kernel writes, it writes to where nothing else is.
        message.msg_name = with_exposed_provenance_mut(self.one_of(&[0, 1]) * self.data.at(0));
        let message = self.scratch.put(message);
        let flags = self.message_flags();
        self.call(libc::SYS_recvmsg, [file, message, reg(flags)]);
    }

    fn recvmmsg(&mut self) {
        let file = self.file(Of::Socket);
        let messages = self.messages();
        let count = self.within(0, 3);
        let flags = self.message_flags();
        let time = self.scratch.put(libc::timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        });
        let time = self.one_of(&[0, time]);
        self.call(
            libc::SYS_recvmmsg,
            [file, messages, count, reg(flags), time],
        );
    }

    fn read(&mut self) {
        let file = self.file(Of::Socket);
        let (start, len) = self.buffer();
        let (pieces, count) = self.pieces();
        match self.within(0, 2) {
            0 => self.call(libc::SYS_read, [file, start, len]),
            1 => self.call(libc::SYS_readv, [file, pieces, count]),
            _ => self.call(
                libc::SYS_preadv2,
                [file, pieces, count, usize::MAX, 0, reg(libc::RWF_NOWAIT)],
            ),
        };
    }

    /// The level and the number of an option.
    fn option(&mut self) -> (libc::c_int, usize) {
        let level = match self.within(0, 19) {
            0 => self.number(),
            _ => self.one_of(&LEVELS),
        };
        let option = match self.within(0, 19) {
            0 => self.number() as usize,
            _ => self.within(0, 90),
        };
        (level, option)
    }

    fn setsockopt(&mut self) {
        let file = self.file(Of::Socket);
        let (level, option) = self.option();
        let name = self.one_of(&[*b"v0\0\0", *b"v1\0\0", *b"lo\0\0", *b"tls\0"]);
        let value = match self.chance(10) {
            true => self.scratch.put(name),
            false => self.pointer(),
        };
        let len = self.length(4);
        self.call(libc::SYS_setsockopt, [file, reg(level), option, value, len]);
    }

    fn getsockopt(&mut self) {
        let file = self.file(Of::Socket);
        let (level, option) = self.option();
        let value = self.pointer();
        let len = self.length(4) as libc::socklen_t;
        // The room that there is, or where it ends.
        let len = if self.chance(90) { len.min(64) } else { 0 };
        let len = self.scratch.put(len);
        let len = self.one_of(&[len, len, len, len, len, len, len, 0, 8]);
        self.call(libc::SYS_getsockopt, [file, reg(level), option, value, len]);
    }

    fn set<T: Copy>(&mut self, level: libc::c_int, option: libc::c_int, value: T) {
        let file = self.file(Of::Socket);
        let value = self.scratch.put(value);
        self.call(
            libc::SYS_setsockopt,
            [file, reg(level), reg(option), value, mem::size_of::<T>()],
        );
    }

    fn linger(&mut self) {
        let value = libc::linger {
            l_onoff: self.one_of(&[0, 1, 1]),
            l_linger: self.one_of(&[0, 0, 1, 2, -1]),
        };
        self.set(libc::SOL_SOCKET, libc::SO_LINGER, value);
    }

    fn timeouts(&mut self) {
        let option = self.one_of(&[libc::SO_RCVTIMEO, libc::SO_SNDTIMEO]);
        let value = libc::timeval {
            tv_sec: self.one_of(&[0, 0, 0, 1, -1]),
            tv_usec: self.one_of(&[0, 1, 10_000, 50_000, 2_000_000]),
        };
        self.set(libc::SOL_SOCKET, option, value);
    }

    /// Where calls with and without a copy part, and what may be left with the kernel.
    fn zero_copy(&mut self) {
        let (level, option, value) = self.one_of(&[
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1),
            (libc::SOL_TCP, sdp_selftests::sdp::ZCOPY_THRESH, 0),
            (libc::SOL_TCP, sdp_selftests::sdp::ZCOPY_THRESH, 4096),
            (libc::SOL_TCP, sdp_selftests::sdp::ZCOPY_THRESH, 65536),
            (libc::SOL_TCP, sdp_selftests::sdp::ZCOPY_RETRY, 0),
            (libc::SOL_TCP, sdp_selftests::sdp::ZCOPY_RETRY, 1),
        ]);
        self.set(level, option, value);
    }

    /// When what is sent was queued, sent, and acknowledged.
    fn stamps(&mut self) {
        let flags = self.some_of(&[1, 3, 4, 7, 8, 9, 11, 12, 16].map(|bit| 1 << bit));
        self.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags);
    }

    fn ioctl(&mut self) {
        let file = self.file(Of::Socket);
        let known = self.one_of(&[
            0x541b, 0x5411, 0x894b, 0x8905, 0x5421, 0x5452, 0x8903, 0x8904, 0x8906, 0x8907, 0x8910,
            0x8912, 0x8913, 0x8915, 0x8921, 0x8927, 0x8933, 0x8946, 0x8953,
        ]);
        let other = self.one_of(&[0x5400, 0x8900, 0x8980]) + self.within(0, 127);
        // A stranger may try what would change the host, but nobody is to send signals to somebody
        // else.
        let request = match self.chance(30) && !self.root && !matches!(other, 0x8901 | 0x8902) {
            true => other,
            false => known,
        };
        let value = self.pointer();
        self.call(libc::SYS_ioctl, [file, request, value]);
    }

    fn fcntl(&mut self) {
        let file = self.file(Of::Socket);
        let flags = self.some_of(&[
            libc::O_NONBLOCK,
            libc::O_ASYNC,
            libc::O_APPEND,
            libc::O_DIRECT,
        ]);
        // SAFETY: `getpid()` takes nothing.
        let own = unsafe { libc::getpid() };
        let (command, value) = self.one_of(&[
            (libc::F_GETFL, 0),
            (libc::F_SETFL, flags),
            (libc::F_SETFL, flags),
            (libc::F_SETFL, 0),
            (libc::F_SETOWN, own),
            (libc::F_GETOWN, 0),
            (F_SETSIG, libc::SIGUSR1),
            (F_SETSIG, 0),
        ]);
        self.call(libc::SYS_fcntl, [file, reg(command), reg(value)]);
    }

    /// A few files to wait for.
    fn files_to_poll(&mut self) -> usize {
        let files = [0; 4].map(|_| libc::pollfd {
            fd: self.file(Of::Socket) as libc::c_int,
            events: self.random.word() as libc::c_short,
            revents: 0,
        });
        self.scratch.put(files)
    }

    /// Some milliseconds at most.
    fn moment(&mut self) -> usize {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: self.within(0, 20) as libc::c_long * 1_000_000,
        };
        self.scratch.put(time)
    }

    fn poll(&mut self) {
        let files = self.files_to_poll();
        let count = self.within(1, 4);
        let time = self.moment();
        self.call(libc::SYS_ppoll, [files, count, time, 0, 0]);
    }

    fn select(&mut self) {
        let sets = [0; 3].map(|_| {
            let files = [0u64; 16].map(|_| self.random.word() & self.random.word());
            self.scratch.put(files)
        });
        let time = self.moment();
        self.call(
            libc::SYS_pselect6,
            [200, sets[0], sets[1], sets[2], time, 0],
        );
    }

    fn epoll_create(&mut self) {
        let file = self.call(libc::SYS_epoll_create1, [0]);
        self.keep(Of::Epoll, file);
    }

    fn epoll_ctl(&mut self) {
        let epoll = self.file(Of::Epoll);
        let file = self.file(Of::Socket);
        let op = self.one_of(&[
            libc::EPOLL_CTL_ADD,
            libc::EPOLL_CTL_ADD,
            libc::EPOLL_CTL_MOD,
            libc::EPOLL_CTL_DEL,
        ]);
        let events = self.random.word() as u32 & 0xffff;
        let how = self.one_of(&[0, libc::EPOLLET, libc::EPOLLONESHOT, libc::EPOLLEXCLUSIVE]);
        let event = self.scratch.put(libc::epoll_event {
            events: events | how as u32,
            u64: 0,
        });
        self.call(libc::SYS_epoll_ctl, [epoll, reg(op), file, event]);
    }

    fn epoll_wait(&mut self) {
        let epoll = self.file(Of::Epoll);
        let time = self.within(0, 20);
        self.call(
            libc::SYS_epoll_pwait,
            [epoll, self.data.at(0), 8, time, 0, 0],
        );
    }

    fn pipe(&mut self) {
        let ends = self.scratch.put([-1; 2]);
        let flags = self.one_of(&[0, libc::O_NONBLOCK, libc::O_CLOEXEC]);
        self.call(libc::SYS_pipe2, [ends, reg(flags)]);
        // SAFETY: Any bytes are two numbers.
        let [from, to] = unsafe { self.scratch.get::<[libc::c_int; 2]>(ends) };
        self.keep(Of::Pipe, from as isize);
        self.keep(Of::Pipe, to as isize);
    }

    /// Flags of the calls that move pages.
    fn splice_flags(&mut self) -> usize {
        match self.within(0, 3) {
            0 => self.within(0, 15),
            1 => 0,
            _ => libc::SPLICE_F_NONBLOCK as usize,
        }
    }

    fn splice(&mut self) {
        let (from, to) = self.one_of(&[
            (Of::Socket, Of::Pipe),
            (Of::Pipe, Of::Socket),
            (Of::Pipe, Of::Socket),
            (Of::File, Of::Pipe),
            (Of::Pipe, Of::Pipe),
        ]);
        let (from, to) = (self.file(from), self.file(to));
        let (_, len) = self.buffer();
        let flags = self.splice_flags();
        self.call(libc::SYS_splice, [from, 0, to, 0, len, flags]);
    }

    fn tee(&mut self) {
        let (from, to) = (self.file(Of::Pipe), self.file(Of::Pipe));
        let (_, len) = self.buffer();
        let flags = self.splice_flags();
        self.call(libc::SYS_tee, [from, to, len, flags]);
    }

    fn vmsplice(&mut self) {
        let pipe = self.file(Of::Pipe);
        let (pieces, count) = self.pieces();
        let flags = self.splice_flags();
        self.call(libc::SYS_vmsplice, [pipe, pieces, count, flags]);
    }

    fn sendfile(&mut self) {
        let to = self.file(Of::Socket);
        let from = self.file(Of::File);
        let offset = self.within(0, 1 << 20) as i64;
        let offset = self.scratch.put(offset);
        let offset = self.one_of(&[offset, offset, 0]);
        let (_, len) = self.buffer();
        self.call(libc::SYS_sendfile, [to, from, offset, len]);
    }

    /// A file whose pages can be sent.
    fn memory_file(&mut self) {
        let name = self.scratch.put(*b"random\0\0");
        let start = self.data.at(0);
        let file = self.call(libc::SYS_memfd_create, [name, 0]);
        self.call(libc::SYS_ftruncate, [file as usize, 1 << 20]);
        self.call(libc::SYS_pwrite64, [file as usize, start, 1 << 18, 0]);
        self.keep(Of::File, file);
    }

    fn dup(&mut self) {
        let file = self.file(Of::Socket);
        let file = self.call(libc::SYS_dup, [file]);
        self.keep(Of::Socket, file);
    }

    /// One socket in the place of another.
    fn dup3(&mut self) {
        let (from, to) = (self.file(Of::Socket), self.file(Of::Socket));
        self.call(libc::SYS_dup3, [from, to, 0]);
    }

    /// A message with room for one file.
    fn parcel(&mut self, file: usize) -> usize {
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Parcel {
            len: usize,
            level: libc::c_int,
            kind: libc::c_int,
            file: libc::c_int,
        }
        let len = mem::offset_of!(Parcel, file) + mem::size_of::<libc::c_int>();
        let control = self.scratch.put(Parcel {
            len,
            level: libc::SOL_SOCKET,
            kind: libc::SCM_RIGHTS,
            file: file as libc::c_int,
        });
        let byte = self.scratch.put(0u8);
        let piece = self.scratch.put(libc::iovec {
            iov_base: with_exposed_provenance_mut(byte),
            iov_len: 1,
        });
        // SAFETY: All-zero bytes are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = with_exposed_provenance_mut(piece);
        message.msg_iovlen = 1;
        message.msg_control = with_exposed_provenance_mut(control);
        message.msg_controllen = mem::size_of::<Parcel>() as _;
        self.scratch.put(message)
    }

    /// Gives a socket to whichever process asks next.
    fn pass_file(&mut self) {
        let file = self.file(Of::Socket);
        let message = self.parcel(file);
        let [to, _] = self.passage;
        self.call(
            libc::SYS_sendmsg,
            [reg(to), message, reg(libc::MSG_DONTWAIT)],
        );
    }

    fn get_file(&mut self) {
        let message = self.parcel(usize::MAX);
        let [_, from] = self.passage;
        // SAFETY: The message was just written.
        let control = unsafe { self.scratch.get::<libc::msghdr>(message) }.msg_control;
        let file = control.expose_provenance() + 16;
        let came = self.call(
            libc::SYS_recvmsg,
            [reg(from), message, reg(libc::MSG_DONTWAIT)],
        );
        // SAFETY: Any bytes are a number.
        let file = unsafe { self.scratch.get::<libc::c_int>(file) };
        self.keep(Of::Socket, if came < 0 { -1 } else { file as isize });
    }

    /// A process that makes a few calls with the same sockets, and ends.
    fn fork(&mut self) {
        let steps = self.within(1, 40) as u64;
        let seed = self.random.word();
        self.wait_for_child();
        let (None, Some(seat)) = (self.child, self.forked) else {
            return;
        };
        let child = self.note(libc::SYS_clone, [0; 6], |_| {
            // SAFETY: The child allocates nothing and takes no locks, which other threads may have
            // held.
            match unsafe { libc::fork() } {
                -1 => -1,
                pid => pid as isize,
            }
        });
        match child {
            0 => {
                // The ring is its parent's.
                mem::forget(self.ring.take());
                self.seat = seat;
                self.forked = None;
                self.random = Random::new(seed, 0);
                self.run(steps);
                // SAFETY: `_exit()` ends the process without running anything of it.
                unsafe { libc::_exit(0) }
            }
            1.. => self.child = Some(child as libc::pid_t),
            _ => (),
        }
    }

    /// Forgets the child if it has ended.
    fn wait_for_child(&mut self) {
        if let Some(child) = self.child {
            let done = self.call(libc::SYS_wait4, [reg(child), 0, reg(libc::WNOHANG), 0]);
            if done != 0 {
                self.child = None;
            }
        }
    }

    fn kill_child(&mut self) {
        self.wait_for_child();
        if let Some(child) = self.child {
            self.call(libc::SYS_kill, [reg(child), reg(libc::SIGKILL)]);
        }
    }

    /// Takes away, protects or replaces memory that calls of other threads may use just now.
    fn change_memory(&mut self) {
        let page = 4096;
        let first = self.within(0, DATA / page - 1);
        let count = self.within(1, 64).min(DATA / page - first);
        let (start, len) = (self.data.at(first * page), count * page);
        let both = reg(libc::PROT_READ | libc::PROT_WRITE);
        let part = self.within(0, 2);
        match self.within(0, 9) {
            0 => {
                self.call(libc::SYS_mprotect, [start, len, reg(libc::PROT_READ)]);
            }
            1 => {
                self.call(libc::SYS_mprotect, [start, len, reg(libc::PROT_NONE)]);
            }
            2..=4 => {
                let (all, data) = (self.data.at(0), DATA);
                self.call(libc::SYS_mprotect, [all, data, both]);
            }
            5 | 6 => {
                self.call(libc::SYS_madvise, [start, len, reg(libc::MADV_DONTNEED)]);
            }
            7 => {
                self.call(libc::SYS_madvise, [start, len, reg(libc::MADV_REMOVE)]);
            }
            8 => {
                self.call(libc::SYS_madvise, [start, len, reg(libc::MADV_PAGEOUT)]);
            }
            _ => {
                let data = self.data;
                self.note(libc::SYS_mmap, [data.at(0), part, 0, 0, 0, 0], |_| {
                    data.renew(part);
                    0
                });
            }
        }
    }

    /// No family but TCP's can be mapped, and that only for its receive queue.
    fn map_socket(&mut self) {
        let file = self.file(Of::Socket);
        let args = [
            0,
            4096,
            reg(libc::PROT_READ),
            reg(libc::MAP_SHARED),
            file,
            0,
        ];
        let start = self.call(libc::SYS_mmap, args);
        if start > 0 {
            self.call(libc::SYS_munmap, [start as usize, 4096]);
        }
    }

    /// An operation of io_uring, and whatever has completed.
    fn uring(&mut self) {
        let (entry, token) = self.operation();
        let entry = entry.user_data(token).flags(match self.within(0, 9) {
            0 => Flags::ASYNC,
            1 => Flags::IO_LINK,
            _ => Flags::empty(),
        });
        let places = [0; 4].map(|_| self.random.word());
        let Some(mut ring) = self.ring.take() else {
            return;
        };
        // SAFETY: What the entry names are the files of this process, its data, which stay mapped,
        // and scratch, of which the kernel takes a copy when the entry is submitted, below. A full
        // ring is submitted all the same.
        unsafe { ring.submission().push(&entry) }.ok();
        self.note(
            libc::SYS_io_uring_enter,
            [token as usize, 0, 0, 0, 0, 0],
            |_| match ring.submit() {
                Ok(count) => count as isize,
                Err(error) => -(error.raw_os_error().unwrap_or(0) as isize),
            },
        );
        let mut files = [-1; 4];
        for file in &mut files {
            match ring.completion().next() {
                Some(done) if done.user_data() == GIVES_FILE => *file = done.result() as isize,
                Some(_) => (),
                None => break,
            }
        }
        self.ring = Some(ring);
        // What completes when is not for the seed to say, so a generator of its own places these.
        for (file, place) in files.into_iter().zip(places) {
            let random = mem::replace(&mut self.random, Random::new(place, 0));
            self.keep(Of::Socket, file);
            self.random = random;
        }
    }

    fn operation(&mut self) -> (Entry, u64) {
        let file = Fd(self.file(Of::Socket) as libc::c_int);
        let (start, len) = self.buffer();
        let len = len as u32;
        let flags = self.message_flags();
        let (name, name_len) = self.address();
        let message = self.message();
        let message = self.scratch.put(message);
        let other = Fd(self.file(Of::Pipe) as libc::c_int);
        let token = self.within(2, 16) as u64;
        let room = with_exposed_provenance_mut(start);
        let entry = match self.within(0, 13) {
            0 => {
                return (
                    opcode::Accept::new(file, std::ptr::null_mut(), std::ptr::null_mut()).build(),
                    GIVES_FILE,
                )
            }
            1 => {
                return (
                    opcode::Socket::new(self.family, libc::SOCK_STREAM, 0).build(),
                    GIVES_FILE,
                )
            }
            2 => opcode::Connect::new(
                file,
                with_exposed_provenance(name),
                name_len as libc::socklen_t,
            )
            .build(),
            3 => opcode::Send::new(file, room, len).flags(flags).build(),
            4 => opcode::SendZc::new(file, room, len).flags(flags).build(),
            5 => opcode::SendMsg::new(file, with_exposed_provenance(message))
                .flags(flags as u32)
                .build(),
            6 | 7 => opcode::Recv::new(file, room, len).flags(flags).build(),
            // No room for a name: it would be written when scratch has become something else.
            8 => opcode::Read::new(file, room, len).build(),
            9 => opcode::PollAdd::new(file, self.random.word() as u32 & 0x3fff).build(),
            10 => opcode::Shutdown::new(file, self.within(0, 3) as libc::c_int).build(),
            11 => opcode::Splice::new(file, -1, other, -1, len).build(),
            12 => opcode::UringCmd16::new(file, self.within(0, 5) as u32).build(),
            _ => opcode::AsyncCancel::new(token).build(),
        };
        (entry, token)
    }

    /// Another threshold for the sockets that this namespace makes from now on; only root may.
    fn set_sysctl(&mut self) {
        let path = self.scratch.put(*b"/proc/sys/net/sdp/zcopy_threshold\0");
        let text = self.one_of(&[
            *b"4096\0\0\0",
            *b"0\0\0\0\0\0\0",
            *b"65536\0\0",
            *b"1048576",
        ]);
        let text_at = self.scratch.put(text);
        let len = text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len());
        let here = libc::AT_FDCWD as usize;
        let file = self.call(libc::SYS_openat, [here, path, reg(libc::O_WRONLY), 0]);
        if file >= 0 {
            self.call(libc::SYS_write, [file as usize, text_at, len]);
            self.close(file as usize);
        }
    }

    /// What the kernel shows of all sockets, while they change.
    fn read_proc(&mut self) {
        let path = self.one_of(&[
            *b"/proc/thread-self/net/sdp_stat\0\0",
            *b"/proc/thread-self/net/protocols\0",
            *b"/proc/thread-self/net/sdp\0\0\0\0\0\0\0",
            *b"/proc/thread-self/net/sdp6\0\0\0\0\0\0",
        ]);
        let path = self.scratch.put(path);
        let start = self.data.at(0);
        let here = libc::AT_FDCWD as usize;
        let file = self.call(libc::SYS_openat, [here, path, reg(libc::O_RDONLY), 0]);
        if file >= 0 {
            self.call(libc::SYS_read, [file as usize, start, 4096]);
            self.call(libc::SYS_read, [file as usize, start, 65536]);
            self.close(file as usize);
        }
    }

    /// Asks for all sockets by netlink, as `ss` does.
    fn sock_diag(&mut self) {
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Request {
            len: u32,
            kind: u16,
            flags: u16,
            sequence: u32,
            port: u32,
            family: u8,
            protocol: u8,
            extensions: u8,
            pad: u8,
            states: u32,
            id: [u32; 12],
        }
        let request = Request {
            len: mem::size_of::<Request>() as u32,
            kind: 20,
            flags: self.one_of(&[0x301, 0x301, 0x301, 1]),
            sequence: 1,
            port: 0,
            family: self.one_of(&[self.family, AF_INET6_SDP, libc::AF_INET]) as u8,
            protocol: self.one_of(&[libc::IPPROTO_TCP, libc::IPPROTO_TCP, 0]) as u8,
            extensions: self.random.word() as u8,
            pad: 0,
            states: self.one_of(&[u32::MAX, 0xfff, 1 << 1, 1 << 10]),
            id: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, u32::MAX, u32::MAX],
        };
        let request = self.scratch.put(request);
        let start = self.data.at(0);
        let file = self.call(
            libc::SYS_socket,
            [reg(libc::AF_NETLINK), reg(libc::SOCK_RAW), 4],
        );
        if file >= 0 {
            let file = file as usize;
            let nonblocking = reg(libc::MSG_DONTWAIT);
            self.call(
                libc::SYS_sendto,
                [file, request, mem::size_of::<Request>(), nonblocking, 0, 0],
            );
            for _ in 0..4 {
                self.call(libc::SYS_recvfrom, [file, start, 65536, nonblocking, 0, 0]);
            }
            self.close(file);
        }
    }
}
