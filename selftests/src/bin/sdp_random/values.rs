// SPDX-License-Identifier: GPL-2.0

//! Random arguments: mostly such as programs give, now and then such as none should.

use crate::{
    memory::DATA,
    worker::Worker, //
};
use std::{
    mem,
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    },
};

/// The ports that everybody uses, so that they meet.
const PORTS: u16 = 7100;

/// An address where no memory is that a program may use.
const KERNEL: usize = 0xffff_8880_0000_1000;

/// A pointer and the length of what is there.
pub(crate) type Range = (usize, usize);

/// The bits of `flags` that are set in `mask`.
fn bits(mask: u64, flags: &[libc::c_int]) -> libc::c_int {
    let chosen = flags.iter().enumerate();
    chosen.fold(0, |all, (bit, flag)| match (mask >> bit) & 1 {
        0 => all,
        _ => all | flag,
    })
}

impl Worker {
    /// True in `percent` of all cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.within(1, 100) <= percent
    }

    pub(crate) fn within(&mut self, low: usize, high: usize) -> usize {
        self.random.within(low, high)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.within(0, values.len() - 1)]
    }

    /// Some of `flags`: a quarter of them.
    pub(crate) fn some_of(&mut self, flags: &[libc::c_int]) -> libc::c_int {
        bits(self.random.word() & self.random.word(), flags)
    }

    /// An integer such as options take.
    pub(crate) fn number(&mut self) -> i32 {
        match self.within(0, 9) {
            0 | 1 => 0,
            2 | 3 => 1,
            4 => self.within(2, 100) as i32,
            5 => 1 << self.within(0, 20),
            6 => self.within(0, 1 << 20) as i32,
            7 => -1,
            _ => self.random.word() as i32 >> self.within(0, 31),
        }
    }

    /// Where an option's value, an `ioctl()`'s argument or the like is: mostly memory with
    /// something in it, which as a pointer leads nowhere.
    pub(crate) fn pointer(&mut self) -> usize {
        let numbers = [0; 8].map(|_| [self.number(), self.one_of(&[0, 1, -1])]);
        let good = self.scratch.put(numbers);
        match self.within(0, 19) {
            0 => 0,
            1 => self.one_of(&[8, KERNEL, usize::MAX - 3]),
            2 => {
                let before = self.within(0, 8);
                self.data.at(DATA - before)
            }
            _ => good,
        }
    }

    /// The length of a small structure, of `right` bytes as a rule.
    pub(crate) fn length(&mut self, right: usize) -> usize {
        match self.within(0, 9) {
            0 => self.within(0, 16),
            1 => self.one_of(&[
                0,
                1,
                28,
                40,
                64,
                128,
                129,
                256,
                4096,
                0x7fff_ffff,
                0xffff_ffff,
            ]),
            _ => right,
        }
    }

    /// Bytes to send or room to receive into, part of which may not be there.
    pub(crate) fn buffer(&mut self) -> Range {
        let len = match self.within(0, 19) {
            0 => 0,
            1 => 1,
            2..=6 => self.within(2, 256),
            7..=11 => self.within(256, 4096),
            12..=16 => self.within(4096, 65536),
            17 | 18 => self.within(65536, 1 << 20),
            _ => self.one_of(&[1 << 21, 1 << 24, 0x7fff_ffff, 0x8000_0000, usize::MAX]),
        };
        let offset = match self.within(0, 3) {
            0 => self.within(0, DATA - 1),
            1 => self.within(0, DATA / 4096 - 1) * 4096,
            2 => self.within(0, 7) * 8,
            _ => DATA - len.min(DATA),
        };
        (self.data.at(offset), len)
    }

    /// Flags of a call that sends or receives.
    pub(crate) fn message_flags(&mut self) -> libc::c_int {
        match self.within(0, 9) {
            0..=2 => 0,
            3..=5 => libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            6 | 7 => self.some_of(&[
                libc::MSG_CONFIRM,
                libc::MSG_DONTROUTE,
                libc::MSG_DONTWAIT,
                libc::MSG_EOR,
                libc::MSG_ERRQUEUE,
                libc::MSG_MORE,
                libc::MSG_NOSIGNAL,
                libc::MSG_OOB,
                libc::MSG_PEEK,
                libc::MSG_TRUNC,
                libc::MSG_WAITALL,
                libc::MSG_ZEROCOPY,
                libc::MSG_CMSG_CLOEXEC,
            ]),
            8 => libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT,
            _ => (1 << self.within(0, 31)) | libc::MSG_DONTWAIT,
        }
    }

    /// A port that others use too.
    pub(crate) fn meeting_port(&mut self) -> u16 {
        PORTS + self.within(0, 7) as u16
    }

    fn port(&mut self) -> u16 {
        match self.within(0, 19) {
            0..=16 => self.meeting_port(),
            17 | 18 => 0,
            _ => self.random.word() as u16,
        }
    }

    /// A socket address: one that leads to somebody, as a rule.
    pub(crate) fn address(&mut self) -> Range {
        let port = self.port();
        let ip = match self.within(0, 19) {
            0..=5 => Ipv4Addr::new(10, 27, 0, 1),
            6..=12 => Ipv4Addr::new(10, 27, 0, 2),
            13..=15 => Ipv4Addr::LOCALHOST,
            16 | 17 => Ipv4Addr::UNSPECIFIED,
            _ => self.one_of(&[
                Ipv4Addr::new(127, 1, 2, 3),
                Ipv4Addr::new(10, 27, 0, 77),
                Ipv4Addr::new(224, 0, 0, 1),
                Ipv4Addr::new(192, 0, 2, 1),
                Ipv4Addr::BROADCAST,
            ]),
        };
        let six = self.one_of(&[
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::LOCALHOST,
            ip.to_ipv6_mapped(),
            Ipv6Addr::new(0xfd00, 0x27, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0xfd00, 0x27, 0, 0, 0, 0, 0, 2),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        ]);
        let scope = self.one_of(&[0, 0, 1, 100, 200]);
        let family = match self.within(0, 19) {
            0..=10 => libc::AF_INET,
            11 | 12 => self.family,
            13..=16 => libc::AF_INET6,
            17 => crate::worker::AF_INET6_SDP,
            18 => libc::AF_UNSPEC,
            _ => self.within(0, 50) as libc::c_int,
        };
        let (address, right) = match family {
            libc::AF_INET6 | crate::worker::AF_INET6_SDP => (
                self.scratch.put(libc::sockaddr_in6 {
                    sin6_family: family as libc::sa_family_t,
                    sin6_port: port.to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: six.octets(),
                    },
                    sin6_scope_id: scope,
                }),
                mem::size_of::<libc::sockaddr_in6>(),
            ),
            _ => (
                self.scratch.put(libc::sockaddr_in {
                    sin_family: family as libc::sa_family_t,
                    sin_port: port.to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    sin_zero: [0; 8],
                }),
                mem::size_of::<libc::sockaddr_in>(),
            ),
        };
        // More may be received.
        self.scratch.put([0u8; 112]);
        let len = self.length(right);
        (address, len)
    }

    /// Where a call may put an address, and where it finds that room's size.
    pub(crate) fn room_for_address(&mut self) -> Range {
        let room = self.one_of(&[0, 1, 1, 1, 1]) * self.scratch.put([0u8; 128]);
        let len = self.length(128) as libc::socklen_t;
        let len = match self.within(0, 19) {
            0 => self.one_of(&[0, 8, KERNEL]),
            _ => self.scratch.put(len),
        };
        (room, len)
    }

    /// A `struct iovec` array: where, and how many.
    pub(crate) fn pieces(&mut self) -> Range {
        let used = self.within(1, 6);
        let pieces = [0; 6].map(|_| {
            let (base, len) = self.buffer();
            libc::iovec {
                iov_base: std::ptr::with_exposed_provenance_mut(base),
                iov_len: len,
            }
        });
        let address = self.scratch.put(pieces);
        match self.within(0, 29) {
            0 => (self.one_of(&[0, 8]), used),
            1 => (address, self.one_of(&[0, 1025, usize::MAX])),
            _ => (address, used),
        }
    }

    /// Control data: a few messages, right or wrong, of any protocol.
    fn control(&mut self) -> Range {
        /// One message as `CMSG_SPACE()` lays it out.
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Message {
            len: usize,
            level: libc::c_int,
            kind: libc::c_int,
            data: [i32; 4],
        }
        let messages = [0; 2].map(|_| Message {
            len: self.one_of(&[16, 20, 20, 24, 28, 32, 32, 0, 15, 200, usize::MAX]),
            level: self.one_of(&[
                libc::SOL_SOCKET,
                libc::SOL_SOCKET,
                libc::SOL_TCP,
                libc::SOL_IP,
                libc::SOL_IPV6,
                282,
            ]),
            kind: self.one_of(&[
                libc::SCM_CREDENTIALS,
                libc::SO_MARK,
                libc::SO_TIMESTAMPING,
                libc::SCM_TXTIME,
            ]) * self.one_of(&[0, 1, 1])
                + self.one_of(&[0, 0, 1, 2, 8, 50]),
            // No number of a file that may be sent: those are small.
            data: [0; 4].map(|_| self.number() | i32::MIN),
        });
        let address = self.scratch.put(messages);
        // More may be received.
        self.scratch.put([0u8; 512]);
        let len = self.one_of(&[0, 0, 0, 0, 32, 64, 16, 8, 1 << 20]);
        match len {
            0 => (0, 0),
            len => (address, len),
        }
    }

    /// A `struct msghdr`.
    pub(crate) fn message(&mut self) -> libc::msghdr {
        let (pieces, count) = self.pieces();
        let (control, control_len) = self.control();
        let (name, name_len) = match self.chance(20) {
            true => self.address(),
            false => (0, 0),
        };
        // SAFETY: All-zero bytes are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = std::ptr::with_exposed_provenance_mut(name);
        message.msg_namelen = name_len as libc::socklen_t;
        message.msg_iov = std::ptr::with_exposed_provenance_mut(pieces);
        message.msg_iovlen = count as _;
        message.msg_control = std::ptr::with_exposed_provenance_mut(control);
        message.msg_controllen = control_len as _;
        message.msg_flags = self.number();
        message
    }
}
