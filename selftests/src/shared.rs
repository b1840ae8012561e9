// SPDX-License-Identifier: GPL-2.0

//! Memory that processes have in common.

use std::{
    mem,
    ptr, //
};

/// Maps a `T` that stays common to all processes that are forked from now on. It is zero at first,
/// and never unmapped.
///
/// # Safety
///
/// All zeroes are a valid `T`, which is made of atomics alone, so that processes may use it at
/// once.
pub unsafe fn map<T: Sync>() -> &'static T {
    // SAFETY: An anonymous mapping at an address of the kernel's choice touches no other memory.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            mem::size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED, "no memory to share");
    // SAFETY: The mapping is large enough, page-aligned and never unmapped; the rest is the
    // contract.
    unsafe { &*start.cast::<T>() }
}
