// SPDX-License-Identifier: GPL-2.0

//! Memory that puts whoever touches it to sleep, the kernel in a system call too, by userfaultfd.

use crate::{
    config::patience,
    harness::must,
    memory::{
        Map,
        PAGE, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Sock, //
};
use std::{
    fs::File,
    io::Read,
    mem,
    os::fd::{
        AsRawFd,
        FromRawFd, //
    },
    time::Instant, //
};

/// The part of linux/userfaultfd.h that is needed here.
mod ffi {
    pub(super) const API: u64 = 0xaa;
    pub(super) const REGISTER_MODE_MISSING: u64 = 1;
    pub(super) const EVENT_PAGEFAULT: u8 = 0x12;
    pub(super) const MESSAGE: usize = 32;

    const fn request(direction: u64, number: u64, size: usize) -> u64 {
        (direction << 30) | ((size as u64) << 16) | (API << 8) | number
    }
    pub(super) const UFFDIO_API: u64 = request(3, 0x3f, size_of::<Api>());
    pub(super) const UFFDIO_REGISTER: u64 = request(3, 0, size_of::<Register>());
    pub(super) const UFFDIO_UNREGISTER: u64 = request(2, 1, size_of::<Range>());

    #[repr(C)]
    pub(super) struct Api {
        pub(super) api: u64,
        pub(super) features: u64,
        pub(super) ioctls: u64,
    }

    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(super) struct Range {
        pub(super) start: u64,
        pub(super) len: u64,
    }

    #[repr(C)]
    pub(super) struct Register {
        pub(super) range: Range,
        pub(super) mode: u64,
        pub(super) ioctls: u64,
    }
}

/// Memory without pages until it is filled.
pub(crate) struct Hole {
    /// With a page before the hole.
    map: Map,
    faults: File,
}

impl Hole {
    /// So many bytes, whole pages.
    pub(crate) fn new(len: usize) -> Self {
        let map = Map::anonymous(PAGE + len);
        // SAFETY: The memory is ours to write, and nobody else knows it.
        unsafe { map.start().write_volatile(0) };
        // SAFETY: The call takes no memory.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_userfaultfd,
                libc::O_CLOEXEC | libc::O_NONBLOCK, //
            )
        };
        let fd = must!(Errno::check(fd as libc::c_int));
        // SAFETY: The kernel just gave us this descriptor.
        let faults = unsafe { File::from_raw_fd(fd) };
        let mut api = ffi::Api {
            api: ffi::API,
            features: 0,
            ioctls: 0,
        };
        // SAFETY: The request reads and writes a `struct uffdio_api`.
        must!(Errno::check(unsafe {
            libc::ioctl(fd, ffi::UFFDIO_API, &mut api)
        }));
        let hole = Self { map, faults };
        let mut register = ffi::Register {
            range: hole.range(),
            mode: ffi::REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: The request reads and writes a `struct uffdio_register`.
        must!(Errno::check(unsafe {
            libc::ioctl(fd, ffi::UFFDIO_REGISTER, &mut register)
        }));
        hole
    }

    fn range(&self) -> ffi::Range {
        ffi::Range {
            start: self.start() as u64,
            len: (self.map.len() - PAGE) as u64,
        }
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.start().wrapping_add(PAGE)
    }

    /// Waits until `count` more threads sleep here.
    pub(crate) fn asleep(&self, count: usize) {
        let end = Instant::now() + patience(10);
        for number in 0..count {
            let mut poll = libc::pollfd {
                fd: self.faults.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let left = end.saturating_duration_since(Instant::now());
            // SAFETY: `poll` is one `pollfd`.
            let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis() as libc::c_int) };
            assert_eq!(ready, 1, "{number} of {count} threads sleep");
            let mut message = [0; ffi::MESSAGE];
            must!((&self.faults).read_exact(&mut message));
            assert_eq!(message[0], ffi::EVENT_PAGEFAULT, "the kind of event");
        }
    }

    /// Gives it pages, which wakes all who sleep here.
    pub(crate) fn fill(&self) {
        let mut range = self.range();
        // SAFETY: The request reads a `struct uffdio_range`.
        must!(Errno::check(unsafe {
            libc::ioctl(
                self.faults.as_raw_fd(),
                ffi::UFFDIO_UNREGISTER,
                &mut range, //
            )
        }));
    }

    /// What it holds once it is filled and nobody writes to it any more.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map.bytes()[PAGE..]
    }

    /// Sleeps with the lock of `sock`: the kernel reads the second half of `SO_LINGER` with it,
    /// which is here; the first says that it is off.
    pub(crate) fn sleep_locked(&self, sock: &Sock) -> Result<(), Errno> {
        let linger = self
            .start()
            .wrapping_sub(mem::offset_of!(libc::linger, l_linger));
        // SAFETY: The kernel reads a `struct linger`, of which all is mapped once the hole is
        // filled.
        Errno::check(unsafe {
            libc::setsockopt(
                sock.fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                linger.cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        })
        .map(drop)
    }
}
