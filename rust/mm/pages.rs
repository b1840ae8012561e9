// SPDX-License-Identifier: GPL-2.0

//! The pages of a caller's buffer, held so that a device can reach them.

use crate::{
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::to_result,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    page::PAGE_SIZE,
    sync::Arc, //
};

/// How pages are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// A pin on each: they are a program's.
    Pinned,
    /// A reference on each: they are the kernel's.
    Referenced,
}

/// To whose `RLIMIT_MEMLOCK` pinned pages count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memlock {
    /// To that of the calling task's user.
    Task,
    /// To none: the caller has accounted them already.
    Paid,
}

/// Consecutive bytes of a caller's buffer, in pages that stay where they are until the last clone
/// is dropped.
///
/// Has to be dropped in process context, without spinlocks, since that may sleep.
#[derive(Clone)]
pub(crate) struct Pages(Arc<Held>);

/// The part of [`Pages`] that clones share.
///
/// # Invariants
///
/// Each of `pages` is held once, as `hold` says. The bytes start `offset` bytes into the first,
/// and end in the last.
struct Held {
    pages: KVVec<NonNull<bindings::page>>,
    offset: usize,
    len: usize,
    hold: Hold,
    /// Whether a device writes to them.
    written: bool,
    paid: bindings::ubuf_info_msgzc_mmpin,
}

// SAFETY: Pages are memory like any other, and may be let go by any thread.
unsafe impl Send for Held {}
// SAFETY: As above; what is in them is a program's, which may change it at any time.
unsafe impl Sync for Held {}

impl Pages {
    /// Takes up to `max` bytes, in up to `max_pages` pages, off the front of what a caller sends,
    /// to be read. May sleep.
    ///
    /// It takes what is contiguous, so perhaps less than `max`. Fails with `EFAULT` for memory that
    /// the caller does not have or that may not be pinned for long, `ENOBUFS` beyond
    /// `RLIMIT_MEMLOCK`, `EOPNOTSUPP` for memory that cannot be held, `EINVAL` for none, and
    /// `ENOMEM`. After a failure the caller has to take back what was taken off.
    pub(crate) fn of_source(
        from: &mut IovIterSource<'_>,
        max: usize,
        max_pages: usize,
        memlock: Memlock,
    ) -> Result<Self> {
        // SAFETY: The iterator is valid, and borrowed for the call.
        unsafe { Self::extract(from.as_raw(), max, max_pages, memlock, false) }
    }

    /// As [`Self::of_source`], for the memory of a caller that receives, to be written.
    pub(crate) fn of_dest(
        to: &mut IovIterDest<'_>,
        max: usize,
        max_pages: usize,
        memlock: Memlock,
    ) -> Result<Self> {
        // SAFETY: As in `of_source`.
        unsafe { Self::extract(to.as_raw(), max, max_pages, memlock, true) }
    }

    /// # Safety
    ///
    /// `iter` is valid and nobody else uses it; `written` says whether it is a destination.
    unsafe fn extract(
        iter: *mut bindings::iov_iter,
        max: usize,
        max_pages: usize,
        memlock: Memlock,
        written: bool,
    ) -> Result<Self> {
        // SAFETY: By the contract, here and below.
        let pinned = unsafe { bindings::sdp_helper_iov_iter_extract_will_pin(iter) };
        // SAFETY: As above.
        if !pinned && (written || !unsafe { bindings::sdp_helper_iov_iter_is_bvec(iter) }) {
            return Err(EOPNOTSUPP);
        }
        // Steps over segments of no bytes.
        // SAFETY: As above.
        unsafe { bindings::iov_iter_advance(iter, 0) };
        // SAFETY: As above.
        let max = max.min(unsafe { contiguous(iter) });
        if max == 0 || max_pages == 0 {
            return Err(EINVAL);
        }
        // SAFETY: As above.
        let addr = unsafe { bindings::sdp_helper_iov_iter_addr(iter) };
        // Bytes beyond the pages are not to be accounted.
        let fits = max_pages.saturating_mul(PAGE_SIZE);
        let max = max.min(fits.saturating_sub(addr % PAGE_SIZE));
        let room = (max / PAGE_SIZE).saturating_add(2).min(max_pages);
        let mut pages = KVVec::<NonNull<bindings::page>>::with_capacity(room, GFP_KERNEL)?;
        let mut paid = bindings::ubuf_info_msgzc_mmpin::default();
        if pinned && memlock == Memlock::Task {
            // SAFETY: `paid` is a new account, which is settled in drop, or below.
            to_result(unsafe { bindings::mm_account_pinned_pages(&mut paid, max) })?;
        }
        let list = pages.spare_capacity_mut().as_mut_ptr().cast();
        let taken = if pinned {
            // SAFETY: As above, and the list has room for so many pages.
            unsafe { pin(iter, addr, max, written, list) }
        } else {
            // SAFETY: As above.
            unsafe { list_pages(iter, max, room, list) }
        };
        let (offset, len) = match taken {
            Ok(taken) => taken,
            Err(e) => {
                // SAFETY: The account was made above, or is empty.
                unsafe { bindings::mm_unaccount_pinned_pages(&mut paid) };
                return Err(e);
            }
        };
        let count = offset.saturating_add(len).div_ceil(PAGE_SIZE);
        // SAFETY: The call stored so many valid pages, and pinned each where it pins.
        unsafe { pages.inc_len(count) };
        if !pinned {
            // SAFETY: The caller keeps the pages for the call.
            let usable = |page: &NonNull<bindings::page>| unsafe {
                bindings::sdp_helper_sendpage_ok(page.as_ptr())
            };
            if !pages.iter().all(usable) {
                // SAFETY: So much was taken off it just now.
                unsafe { bindings::iov_iter_revert(iter, len) };
                return Err(EOPNOTSUPP);
            }
            for page in &pages {
                // SAFETY: As above.
                unsafe { bindings::sdp_helper_get_page(page.as_ptr()) };
            }
        }
        // INVARIANT: Each page was pinned by the call, or referenced just now.
        let held = Held {
            pages,
            offset,
            len,
            hold: if pinned {
                Hold::Pinned
            } else {
                Hold::Referenced
            },
            written,
            paid,
        };
        Ok(Self(Arc::new(held, GFP_KERNEL)?))
    }

    /// The length in bytes, at least 1.
    pub(crate) fn len(&self) -> usize {
        self.0.len
    }

    /// Where the bytes start in the first page.
    pub(crate) fn offset(&self) -> usize {
        self.0.offset
    }

    /// How many pages there are.
    pub(crate) fn count(&self) -> usize {
        self.0.pages.len()
    }

    /// Whether a device may write to them.
    pub(crate) fn is_written(&self) -> bool {
        self.0.written
    }

    /// The C array of [`Self::count`] pages.
    pub(crate) fn as_ptr(&self) -> *mut *mut bindings::page {
        self.0.as_ptr()
    }
}

/// The place of a byte in memory that may be written.
///
/// # Invariants
///
/// `page` is held for `'a`, and has `len` bytes from `offset` on.
struct Place<'a> {
    page: NonNull<bindings::page>,
    offset: usize,
    len: usize,
    held: PhantomData<&'a Pages>,
}

/// Finds the byte with offset `at` in `parts`, which follow each other. None beyond them, or where
/// a part is not to be written.
fn place(parts: &[Pages], mut at: usize) -> Option<Place<'_>> {
    let part = parts.iter().find(|part| {
        let found = at < part.len();
        if !found {
            at = at.saturating_sub(part.len());
        }
        found
    });
    let part = part.filter(|part| part.is_written())?;
    let offset = part.offset().checked_add(at)?;
    let page = *part.0.pages.get(offset / PAGE_SIZE)?;
    let offset = offset % PAGE_SIZE;
    let left = part.len().saturating_sub(at);
    // INVARIANT: The bytes of a part lie in its pages, which it holds.
    Some(Place {
        page,
        offset,
        len: PAGE_SIZE.saturating_sub(offset).min(left),
        held: PhantomData,
    })
}

impl Place<'_> {
    /// Runs `f` with the address at which the byte is mapped.
    fn with<T>(&self, f: impl FnOnce(*mut u8) -> T) -> T {
        // SAFETY: By the type invariants it is a page.
        let page = unsafe { bindings::kmap_local_page(self.page.as_ptr()) };
        let result = f(page.cast::<u8>().wrapping_add(self.offset));
        // SAFETY: What was mapped after it was unmapped by `f`.
        unsafe { bindings::kunmap_local(page) };
        result
    }
}

/// Stores `bytes` at offset `at` of `parts`, which follow each other, and to which no device writes
/// any more. Returns how many there was room for. Process context.
pub(crate) fn store(parts: &[Pages], at: usize, bytes: &[u8]) -> usize {
    let mut done: usize = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let Some(to) = place(parts, at.saturating_add(done)) else {
            break;
        };
        let n = rest.len().min(to.len);
        // SAFETY: There are so many bytes at both, by the type invariants. That a program changes
        // them meanwhile is its own affair: nobody has a reference to them.
        to.with(|to| unsafe { ptr::copy(rest.as_ptr(), to, n) });
        done = done.saturating_add(n);
    }
    done
}

/// Copies bytes from offset `at` of `parts` on to `to`, as [`store`] does to them. Returns how many
/// there are, which are initialised then.
pub(crate) fn load(parts: &[Pages], at: usize, to: &mut [MaybeUninit<u8>]) -> usize {
    let mut done: usize = 0;
    while let Some(room) = to.get_mut(done..).filter(|room| !room.is_empty()) {
        let Some(from) = place(parts, at.saturating_add(done)) else {
            break;
        };
        let n = room.len().min(from.len);
        // SAFETY: As in `store`.
        from.with(|from| unsafe { ptr::copy(from, room.as_mut_ptr().cast(), n) });
        done = done.saturating_add(n);
    }
    done
}

/// Moves `len` bytes from offset `from` of `parts` to offset `to`, which is lower; the ranges may
/// overlap. Otherwise as [`store`].
pub(crate) fn move_down(parts: &[Pages], from: usize, to: usize, len: usize) {
    let mut done: usize = 0;
    while done < len {
        let source = place(parts, from.saturating_add(done));
        let (Some(from), Some(to)) = (source, place(parts, to.saturating_add(done))) else {
            return;
        };
        let n = from.len.min(to.len).min(len.saturating_sub(done));
        if from.page == to.page {
            // Mapped once, for they may overlap.
            from.with(|bytes| {
                let at = bytes.wrapping_sub(from.offset).wrapping_add(to.offset);
                // SAFETY: As in `store`.
                unsafe { ptr::copy(bytes, at, n) }
            });
        } else {
            // SAFETY: As in `store`.
            from.with(|from| to.with(|to| unsafe { ptr::copy(from, to, n) }));
        }
        done = done.saturating_add(n);
    }
}

impl Held {
    fn as_ptr(&self) -> *mut *mut bindings::page {
        self.pages.as_ptr().cast_mut().cast()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self.hold {
            // SAFETY: By the type invariants the pages are pinned, and the pins are ours.
            Hold::Pinned => unsafe {
                bindings::unpin_user_pages_dirty_lock(
                    self.as_ptr(),
                    // CAST: `usize` has as many bits.
                    self.pages.len() as c_ulong,
                    self.written,
                );
            },
            Hold::Referenced => {
                for page in &self.pages {
                    // SAFETY: By the type invariants the reference is ours.
                    unsafe { bindings::sdp_helper_put_page(page.as_ptr()) };
                }
            }
        }
        // SAFETY: It is the account that `extract` made, or empty.
        unsafe { bindings::mm_unaccount_pinned_pages(&mut self.paid) };
    }
}

/// Pins the pages of up to `len` bytes of a program's memory at `addr`, the front of `iter`, and
/// takes them off it: where they start in the first page, and how many they are, at least one.
///
/// A peer may use them for as long as it likes, so the pins are long-term: pages are migrated out
/// of movable zones, and those of files whose file system has to track writes are refused.
///
/// # Safety
///
/// `iter` is valid and nobody else uses it, has a program's memory with so many bytes in its first
/// segment, and is a destination if `written`; `list` has room for the pages.
unsafe fn pin(
    iter: *mut bindings::iov_iter,
    addr: usize,
    len: usize,
    written: bool,
    list: *mut *mut bindings::page,
) -> Result<(usize, usize)> {
    let offset = addr % PAGE_SIZE;
    let count = offset.saturating_add(len).div_ceil(PAGE_SIZE);
    let mut flags = bindings::FOLL_LONGTERM;
    if written {
        flags |= bindings::FOLL_WRITE;
    }
    // SAFETY: By the contract.
    if unsafe { (*iter).nofault } {
        flags |= bindings::FOLL_NOFAULT;
    }
    // CAST: `usize` has as many bits as an address, and pages are far fewer than 2^31: a list is
    // limited by what a device takes.
    let (start, count) = (addr.saturating_sub(offset) as c_ulong, count as c_int);
    // SAFETY: The list has room for them.
    let pinned = unsafe { bindings::pin_user_pages_fast(start, count, flags, list) };
    // CAST: `isize` has at least 32 bits.
    let pinned = to_result_len(pinned as isize)?;
    let len = len.min(pinned.saturating_mul(PAGE_SIZE).saturating_sub(offset));
    // SAFETY: By the contract.
    unsafe { bindings::iov_iter_advance(iter, len) };
    Ok((offset, len))
}

/// Lists the pages of up to `max` bytes of the kernel's memory, the front of `iter`, and takes them
/// off it, as [`pin`] does.
///
/// # Safety
///
/// `iter` is valid and nobody else uses it; `list` has room for `room` pages.
unsafe fn list_pages(
    iter: *mut bindings::iov_iter,
    max: usize,
    room: usize,
    mut list: *mut *mut bindings::page,
) -> Result<(usize, usize)> {
    let mut offset = 0;
    // CAST: As in `pin`.
    let room = room as c_uint;
    // SAFETY: By the contract.
    let len =
        unsafe { bindings::iov_iter_extract_pages(iter, &mut list, max, room, 0, &mut offset) };
    Ok((offset, to_result_len(len)?))
}

/// A length of at least 1, or an error.
fn to_result_len(len: isize) -> Result<usize> {
    match usize::try_from(len) {
        Ok(0) => Err(EFAULT),
        Ok(len) => Ok(len),
        Err(_) => Err(Error::from_errno(i32::try_from(len).unwrap_or(0))),
    }
}

/// An upper bound of how many bytes from the front on are contiguous.
///
/// # Safety
///
/// `iter` is valid.
unsafe fn contiguous(iter: *const bindings::iov_iter) -> usize {
    // SAFETY: By the contract.
    unsafe {
        // A segment of no bytes is passed over by whoever uses the iterator. Pages of the kernel
        // may go on in the next segment.
        match bindings::iov_iter_single_seg_count(iter) {
            n @ 1.. if bindings::sdp_helper_iov_iter_extract_will_pin(iter) => n,
            _ => bindings::sdp_helper_iov_iter_count(iter),
        }
    }
}

/// The address of what a caller sends, or 0 if that is not memory of a program. Any context, as
/// those that follow.
pub(crate) fn source_address(from: &mut IovIterSource<'_>) -> usize {
    // SAFETY: The iterator is valid.
    unsafe { bindings::sdp_helper_iov_iter_addr(from.as_raw()) }
}

/// The address of the memory in which a caller receives, or 0 if that is not memory of a program.
pub(crate) fn dest_address(to: &mut IovIterDest<'_>) -> usize {
    // SAFETY: The iterator is valid.
    unsafe { bindings::sdp_helper_iov_iter_addr(to.as_raw()) }
}

/// How many bytes the next [`Pages`] of what a caller sends can have.
pub(crate) fn source_extent(from: &mut IovIterSource<'_>) -> usize {
    // SAFETY: The iterator is valid.
    unsafe { contiguous(from.as_raw()) }
}

/// How many bytes the next [`Pages`] of the memory in which a caller receives can have.
pub(crate) fn dest_extent(to: &mut IovIterDest<'_>) -> usize {
    // SAFETY: The iterator is valid.
    unsafe { contiguous(to.as_raw()) }
}
