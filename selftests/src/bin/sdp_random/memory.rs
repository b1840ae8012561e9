// SPDX-License-Identifier: GPL-2.0

//! Memory that calls may be given whatever they do with it: no reference of the program ever leads
//! there.

use sdp_selftests::errno::Errno;
use std::{
    mem,
    ptr, //
};

/// The part of a process's data that is one mapping.
const PART: usize = 2 << 20;
/// The parts: anonymous, shared with a file in memory, and in huge pages.
const PARTS: usize = 3;
/// All of them, behind which there is nothing.
pub(crate) const DATA: usize = PART * PARTS;

fn map(start: usize, len: usize, prot: libc::c_int, flags: libc::c_int, fd: libc::c_int) -> usize {
    // SAFETY: With `start` 0 the kernel chooses where nothing is; otherwise the callers own what
    // they replace.
    let start = unsafe { libc::mmap(ptr::without_provenance_mut(start), len, prot, flags, fd, 0) };
    assert_ne!(start, libc::MAP_FAILED, "mmap: {}", Errno::last());
    start.expose_provenance()
}

/// The bytes that the threads of a process send from and receive into. Threads also protect, drop
/// and replace its pages, so that only the kernel may touch them.
#[derive(Clone, Copy)]
pub(crate) struct Data {
    start: usize,
    file: libc::c_int,
}

impl Data {
    pub(crate) fn map() -> Self {
        let guard = 1 << 16;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = map(0, DATA + guard, libc::PROT_NONE, private, -1);
        // SAFETY: The name is a string that ends.
        let file = unsafe { libc::memfd_create(c"sdp_random".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: `ftruncate()` takes no memory.
        let sized = unsafe { libc::ftruncate(file, PART as i64) };
        assert_eq!(sized, 0, "{}", Errno::last());
        let data = Self { start, file };
        for part in 0..PARTS {
            data.renew(part);
        }
        data
    }

    /// Puts fresh memory in the place of a part.
    pub(crate) fn renew(&self, part: usize) {
        let part = part % PARTS;
        let start = self.start + part * PART;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        match part {
            1 => map(
                start,
                PART,
                access,
                libc::MAP_SHARED | libc::MAP_FIXED,
                self.file,
            ),
            _ => {
                let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                map(start, PART, access, private, -1)
            }
        };
        if part == 2 {
            // SAFETY: Advice changes no contents. A kernel without huge pages refuses it.
            unsafe {
                libc::madvise(
                    ptr::with_exposed_provenance_mut(start),
                    PART,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }

    /// The address `offset` bytes into it.
    pub(crate) fn at(&self, offset: usize) -> usize {
        self.start + offset
    }
}

/// What one thread alone writes structures to, for its next call.
pub(crate) struct Scratch {
    start: usize,
    used: usize,
}

const SCRATCH: usize = 1 << 16;

impl Scratch {
    pub(crate) fn map() -> Self {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        Self {
            start: map(0, SCRATCH, access, private, -1),
            used: 0,
        }
    }

    /// Forgets what is there.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Puts `value` there: its address.
    pub(crate) fn put<T: Copy>(&mut self, value: T) -> usize {
        const {
            assert!(mem::align_of::<T>() <= 16);
        }
        let offset = self.used.next_multiple_of(16);
        let end = offset + mem::size_of::<T>();
        assert!(end <= SCRATCH, "a step uses too much memory");
        self.used = end;
        let address = self.start + offset;
        // SAFETY: The bytes lie in the mapping, which this thread alone uses, and are aligned.
        unsafe { ptr::with_exposed_provenance_mut::<T>(address).write(value) };
        address
    }

    /// What is at an address that [`put`](Self::put) gave for a `T`, or what a call left there.
    ///
    /// # Safety
    ///
    /// Any bytes must be a valid `T`.
    pub(crate) unsafe fn get<T: Copy>(&self, address: usize) -> T {
        assert!(address >= self.start && address + mem::size_of::<T>() <= self.start + SCRATCH);
        // SAFETY: The bytes lie in the mapping and were written when it was made; by the contract
        // above they are a `T`.
        unsafe { ptr::with_exposed_provenance::<T>(address).read_unaligned() }
    }
}
