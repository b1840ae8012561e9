// SPDX-License-Identifier: GPL-2.0

//! Pipes that a socket fills by `splice(2)`.

use crate::{
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::page::PAGE_SIZE;

/// Bytes in memory that others may read too.
///
/// # Invariants
///
/// One reference of the pages that `page` heads is this value's. `len` bytes from `offset` on lie
/// in them, are initialised, and never change.
pub(crate) struct Slice {
    page: NonNull<bindings::page>,
    offset: u32,
    len: u32,
}

impl Slice {
    /// Bytes `range` of the pages that `page` heads, of which it takes a reference. Any context.
    /// Fails with `EINVAL` beyond 4 GiB.
    ///
    /// # Safety
    ///
    /// The pages are compound if there are more than one, live for now, and hold initialised bytes
    /// in `range`, which nobody writes before the last reference of the pages is gone.
    pub(crate) unsafe fn new(page: NonNull<bindings::page>, range: Range<usize>) -> Result<Self> {
        let (offset, len) = (u32::try_from(range.start)?, u32::try_from(range.len())?);
        // SAFETY: By the contract the pages are live.
        unsafe { bindings::sdp_helper_get_page(page.as_ptr()) };
        // INVARIANT: By the contract, and the reference was just taken.
        Ok(Self { page, offset, len })
    }

    /// A copy of the first `bytes`, at most a page of them, charged to the cgroup of the task.
    /// Sleeps. Fails with `ENOMEM`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self> {
        let len = bytes.len().min(PAGE_SIZE);
        // SAFETY: A single page may always be asked for.
        let page = unsafe { bindings::sdp_helper_alloc_pages(bindings::GFP_KERNEL_ACCOUNT, 0) };
        let page = NonNull::new(page).ok_or(ENOMEM)?;
        // SAFETY: The page is ours and not in high memory, so it has an address; the bytes fit in.
        unsafe {
            let to = bindings::sdp_helper_page_address(page.as_ptr()).cast::<u8>();
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, len);
        }
        // INVARIANT: The allocation's reference is ours, and the bytes were just written.
        Ok(Self {
            page,
            offset: 0,
            len: len as u32,
        })
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::sdp_helper_put_page(self.page.as_ptr()) };
    }
}

/// A pipe for the time of one call, during which nobody else fills it.
///
/// # Invariants
///
/// `pipe` is live for `'a`, and the caller keeps all others from filling it.
pub(crate) struct Pipe<'a> {
    pipe: NonNull<bindings::pipe_inode_info>,
    _call: PhantomData<&'a mut ()>,
}

impl Pipe<'_> {
    /// # Safety
    ///
    /// `pipe` is the valid argument of a splice call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(pipe: *mut bindings::pipe_inode_info) -> Result<Self> {
        // INVARIANT: By the contract.
        Ok(Self {
            pipe: NonNull::new(pipe).ok_or(EINVAL)?,
            _call: PhantomData,
        })
    }

    /// Whether it is full.
    pub(crate) fn is_full(&self) -> bool {
        // SAFETY: Live by the type invariant.
        unsafe { bindings::sdp_helper_pipe_is_full(self.pipe.as_ptr()) }
    }

    /// Appends `slice`, and returns its length. Process context. Fails with `EAGAIN` where the pipe
    /// is full, and with `EPIPE`, raising SIGPIPE, where it has no reader.
    pub(crate) fn push(&mut self, slice: Slice) -> Result<usize> {
        // Its reference goes to the pipe, or with a failure.
        let slice = ManuallyDrop::new(slice);
        // SAFETY: The pipe is live and filled by nobody else by its invariant, the slice is valid
        // by its.
        let n = unsafe {
            bindings::sdp_helper_add_to_pipe(
                self.pipe.as_ptr(),
                slice.page.as_ptr(),
                slice.offset,
                slice.len,
            )
        };
        usize::try_from(n).map_err(|_| Error::from_errno(n as c_int))
    }
}
