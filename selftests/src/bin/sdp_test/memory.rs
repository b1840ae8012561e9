// SPDX-License-Identifier: GPL-2.0

//! Memory of every kind that a program can send from and receive into.

use crate::harness::{
    must,
    skip, //
};
use sdp_selftests::errno::Errno;
use std::{
    ffi::CString,
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::Write,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    },
    process, ptr, slice,
};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// A mapping, unmapped when dropped.
pub(crate) struct Map {
    start: *mut u8,
    len: usize,
}

// SAFETY: A mapping belongs to the whole process.
unsafe impl Send for Map {}
// SAFETY: As above; writing needs the one `&mut`.
unsafe impl Sync for Map {}

impl Map {
    fn new(len: usize, prot: libc::c_int, flags: libc::c_int, fd: RawFd) -> Result<Self, Errno> {
        // SAFETY: A mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Memory that nothing was written to yet.
    pub(crate) fn anonymous(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        must!(Self::new(
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1
        ))
    }

    /// A file, `MAP_SHARED` or `MAP_PRIVATE`.
    pub(crate) fn file(file: &File, len: usize, prot: libc::c_int, flags: libc::c_int) -> Self {
        must!(Self::new(len, prot, flags, file.as_raw_fd()))
    }

    /// Huge pages of hugetlbfs.
    pub(crate) fn huge(len: usize) -> Self {
        let pages = "/proc/sys/vm/nr_hugepages";
        if let Err(error) = fs::write(pages, (len / HUGE + 2).to_string()) {
            skip(&format!("{pages}: {error}"));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        match Self::new(len, libc::PROT_READ | libc::PROT_WRITE, flags, -1) {
            Ok(map) => map,
            Err(error) => skip(&format!("no huge pages to be had: {error}")),
        }
    }

    /// Transparent huge pages, written to; at least one of `len` bytes.
    pub(crate) fn transparent_huge(len: usize) -> (Self, usize) {
        let mut map = Self::anonymous(len + 2 * HUGE);
        let at = (map.start as usize).next_multiple_of(HUGE) - map.start as usize;
        map.advise(libc::MADV_HUGEPAGE);
        map.bytes_mut().fill(1);
        let maps = must!(fs::read_to_string("/proc/self/smaps"));
        let huge = maps
            .lines()
            .filter_map(|line| line.strip_prefix("AnonHugePages:"))
            .any(|size| size.trim() != "0 kB");
        if !huge {
            skip("no transparent huge pages to be had");
        }
        (map, at)
    }

    /// Puts the start of a file, `MAP_SHARED`, in the place of all from `at` on.
    pub(crate) fn put(&mut self, at: usize, file: &File) {
        assert!(at < self.len);
        // SAFETY: The range is within the mapping, which is borrowed mutably.
        let start = unsafe {
            libc::mmap(
                self.start.add(at).cast(),
                self.len - at,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "{}", Errno::last());
    }

    /// Gives the kernel advice.
    pub(crate) fn advise(&self, advice: libc::c_int) {
        // SAFETY: The mapping is ours, and the advice that is given here keeps what it holds.
        must!(Errno::check(unsafe {
            libc::madvise(self.start.cast(), self.len, advice)
        }));
    }

    /// Sets what may be done with `len` bytes at `at`, whole pages.
    pub(crate) fn protect(&self, at: usize, len: usize, prot: libc::c_int) {
        assert!(at + len <= self.len);
        // SAFETY: The range is within the mapping. Whoever touches it against the protection dies
        // of a signal.
        must!(Errno::check(unsafe {
            libc::mprotect(self.start.add(at).cast(), len, prot)
        }));
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: The mapping lives as long as `self`, and changing it needs the one `&mut`.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: As above.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: Nothing of the process refers to the mapping any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// A file in memory with `bytes`.
pub(crate) fn memfd(bytes: &[u8]) -> File {
    // SAFETY: The name is a string.
    let fd = must!(Errno::check(unsafe {
        libc::memfd_create(c"sdp_test".as_ptr(), libc::MFD_CLOEXEC)
    }));
    // SAFETY: The kernel just gave us this descriptor.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    must!(file.write_all(bytes));
    file
}

/// A file of `len` bytes whose memory nobody but the program may see: the kernel lends it to
/// nobody.
pub(crate) fn secret(len: usize) -> File {
    // SAFETY: No memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = match Errno::check(fd as libc::c_int) {
        Ok(fd) => fd,
        Err(error) => skip(&format!("memfd_secret: {error}")),
    };
    // SAFETY: The kernel just gave us this descriptor.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    must!(file.set_len(len as u64));
    file
}

/// A file without a name, of the file system of `/tmp`, with `bytes`.
pub(crate) fn file(bytes: &[u8]) -> File {
    file_at(&format!("/tmp/sdp_test.{}", process::id()), bytes)
}

/// A file without a name of `len` bytes, whose file system wants to see each write to a page, as
/// those of disks do: while it is mapped shared nobody may keep its pages to write to them.
pub(crate) fn tracked_file(len: usize) -> File {
    let root = format!("/tmp/sdp_test.{}.ramfs", process::id());
    must!(fs::create_dir(&root));
    let path = must!(CString::new(root.as_str()));
    // SAFETY: Both are strings, and the file system has no options.
    must!(Errno::check(unsafe {
        libc::mount(
            c"none".as_ptr(),
            path.as_ptr(),
            c"ramfs".as_ptr(),
            0,
            ptr::null(),
        )
    }));
    let file = file_at(&format!("{root}/file"), &vec![0; len]);
    // SAFETY: As above. The file keeps what it needs.
    must!(Errno::check(unsafe {
        libc::umount2(path.as_ptr(), libc::MNT_DETACH)
    }));
    must!(fs::remove_dir(&root));
    file
}

fn file_at(path: &str, bytes: &[u8]) -> File {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let mut file = must!(options);
    must!(fs::remove_file(path));
    must!(file.write_all(bytes));
    file
}
