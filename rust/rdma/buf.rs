// SPDX-License-Identifier: GPL-2.0

//! Memory for sends and receives, mapped for a device.

use super::pd::Pd;
use crate::{
    bindings,
    net::pipe::Slice,
    prelude::*, //
};
use core::{
    mem::MaybeUninit,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
    slice,
};
use kernel::{
    iov::IovIterSource,
    page::PAGE_SIZE,
    sync::Arc, //
};

/// Physically contiguous pages.
///
/// # Invariants
///
/// `page` heads `2^order` pages, compound if there are more than one, of which one reference is this
/// value's.
struct Pages {
    page: NonNull<bindings::page>,
    order: u32,
}

// SAFETY: Pages are memory like any other.
unsafe impl Send for Pages {}
// SAFETY: As above; this type alone gives no access to what is in them.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(order: u32) -> Result<Self> {
        // SAFETY: Any order may be asked for; what is too large fails.
        let page = unsafe { bindings::sdp_helper_alloc_pages(bindings::GFP_KERNEL_ACCOUNT, order) };
        // INVARIANT: They were just allocated.
        Ok(Self {
            page: NonNull::new(page).ok_or(ENOMEM)?,
            order,
        })
    }

    fn size(&self) -> usize {
        // OVERFLOW: Pages of this order exist.
        PAGE_SIZE << self.order
    }

    /// The first byte; `size()` bytes from there are valid as long as `self`.
    fn start(&self) -> *mut u8 {
        // SAFETY: The page is ours and not in high memory, so it has an address.
        unsafe { bindings::sdp_helper_page_address(self.page.as_ptr()) }.cast()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::__free_pages(self.page.as_ptr(), self.order) };
    }
}

/// Which way a device moves data.
#[derive(Clone, Copy)]
enum Direction {
    FromDevice,
    ToDevice,
}

impl Direction {
    fn as_raw(self) -> bindings::dma_data_direction {
        match self {
            Self::FromDevice => bindings::dma_data_direction::DMA_FROM_DEVICE,
            Self::ToDevice => bindings::dma_data_direction::DMA_TO_DEVICE,
        }
    }
}

/// The mapping of pages for a device.
///
/// # Invariants
///
/// `size` bytes are mapped at `addr` for the device of `pd`; only this value unmaps them.
struct Mapping {
    pd: Arc<Pd>,
    addr: u64,
    size: usize,
    direction: Direction,
}

impl Mapping {
    /// Maps all of `pages`, which have to outlive the mapping.
    fn new(pd: &Arc<Pd>, pages: &Pages, direction: Direction) -> Result<Self> {
        let size = pages.size();
        // SAFETY: The device is registered, and the pages are valid.
        let addr = unsafe {
            bindings::sdp_helper_ib_dma_map_page(
                pd.device().as_ptr(),
                pages.page.as_ptr(),
                0,
                size,
                direction.as_raw(),
            )
        };
        // SAFETY: The device is registered, and `addr` is what mapping for it gave.
        if unsafe { bindings::sdp_helper_ib_dma_mapping_error(pd.device().as_ptr(), addr) } != 0 {
            return Err(ENOMEM);
        }
        // INVARIANT: It was just mapped.
        Ok(Self {
            pd: pd.clone(),
            addr,
            size,
            direction,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is mapped, and ours to unmap.
        unsafe {
            bindings::sdp_helper_ib_dma_unmap_page(
                self.pd.device().as_ptr(),
                self.addr,
                self.size,
                self.direction.as_raw(),
            )
        };
    }
}

/// Pages that are mapped for a device until they are detached.
struct Buf {
    // Fields are dropped in this order: the device must not reach freed pages.
    mapping: Option<Mapping>,
    pages: Pages,
}

impl Buf {
    fn new(pd: &Arc<Pd>, order: u32, direction: Direction) -> Result<Self> {
        let pages = Pages::new(order)?;
        Ok(Self {
            mapping: Some(Mapping::new(pd, &pages, direction)?),
            pages,
        })
    }

    /// The mapping for `pd`, if there is one and `range` lies in it.
    fn mapped(&self, pd: &Pd, range: &Range<usize>) -> Result<(&Mapping, u64)> {
        let mapping = self.mapping.as_ref().ok_or(EINVAL)?;
        if !ptr::eq(&*mapping.pd, pd) || range.start > range.end || range.end > mapping.size {
            return Err(EINVAL);
        }
        // CAST: `usize` has at most 64 bits. OVERFLOW: The address lies in the mapping.
        Ok((mapping, mapping.addr + range.start as u64))
    }

    /// Hands `range` to the device and describes it for a work request.
    ///
    /// Fails with `EINVAL` when the range is not mapped for `pd`.
    fn to_device(&self, pd: &Pd, range: Range<usize>) -> Result<bindings::ib_sge> {
        let (mapping, addr) = self.mapped(pd, &range)?;
        let length = u32::try_from(range.len())?;
        // SAFETY: The range is mapped for the device in this direction.
        unsafe {
            bindings::sdp_helper_ib_dma_sync_single_for_device(
                pd.device().as_ptr(),
                addr,
                range.len(),
                mapping.direction.as_raw(),
            )
        };
        Ok(bindings::ib_sge {
            addr,
            length,
            lkey: pd.lkey(),
        })
    }

    /// Takes the first `len` bytes back from the device.
    fn to_cpu(&self, pd: &Pd, len: usize) -> Result {
        let (mapping, addr) = self.mapped(pd, &(0..len))?;
        // SAFETY: The range is mapped for the device in this direction.
        unsafe {
            bindings::sdp_helper_ib_dma_sync_single_for_cpu(
                pd.device().as_ptr(),
                addr,
                len,
                mapping.direction.as_raw(),
            )
        };
        Ok(())
    }
}

/// The room for the first bytes of each send.
pub(crate) const HEADER_ROOM: usize = 64;

/// Memory for the first bytes of the sends that a QP can have in flight.
pub(super) struct Headers(Buf);

impl Headers {
    /// Memory for `count` sends. Fails with `ENOMEM`.
    pub(super) fn new(pd: &Arc<Pd>, count: u32) -> Result<Self> {
        let size = usize::try_from(count)?
            .checked_mul(HEADER_ROOM)
            .ok_or(ENOMEM)?;
        let pages = size.div_ceil(PAGE_SIZE).next_power_of_two();
        let buf = Buf::new(pd, pages.ilog2(), Direction::ToDevice)?;
        Ok(Self(buf))
    }

    /// Writes the first bytes of the send `slot` and describes them for its work request.
    ///
    /// Fails with `EINVAL` for more than [`HEADER_ROOM`] bytes.
    ///
    /// # Safety
    ///
    /// The room of that send is not in use: neither by the device nor by another call.
    pub(super) unsafe fn write(
        &self,
        pd: &Pd,
        slot: usize,
        header: &[u8],
    ) -> Result<bindings::ib_sge> {
        let start = slot.checked_mul(HEADER_ROOM).ok_or(EINVAL)?;
        if header.len() > HEADER_ROOM || start >= self.0.pages.size() {
            return Err(EINVAL);
        }
        // SAFETY: The room is in the pages, which are a multiple of it, and by the contract
        // nobody else uses it.
        unsafe {
            let to = self.0.pages.start().add(start);
            ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
        }
        // OVERFLOW: The room is in the pages.
        self.0.to_device(pd, start..start + header.len())
    }
}

/// A buffer that receives one message at a time.
///
/// # Invariants
///
/// The first `filled` bytes were written by the device, which does not write them now.
pub(crate) struct RecvBuf {
    buf: Buf,
    filled: usize,
}

impl RecvBuf {
    /// Allocates `2^order` pages and maps them for the device of `pd`. Sleeps. Fails with `ENOMEM`.
    pub(crate) fn new(pd: &Arc<Pd>, order: u32) -> Result<Self> {
        // INVARIANT: Nothing is filled yet.
        Ok(Self {
            buf: Buf::new(pd, order, Direction::FromDevice)?,
            filled: 0,
        })
    }

    /// The bytes that it can receive, which is also the memory that it takes.
    pub(crate) fn size(&self) -> usize {
        self.buf.pages.size()
    }

    /// What was received; empty after a failed receive.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariants these bytes are initialised, and the device is done with
        // them until the buffer is posted again, for which it has to be moved away.
        unsafe { slice::from_raw_parts(self.buf.pages.start(), self.filled) }
    }

    /// Unmaps the buffer and lets the device go; what was received stays readable.
    ///
    /// It cannot be posted any more. May have to be called in process context: see [`Pd`].
    pub(crate) fn detach(&mut self) {
        self.buf.mapping = None;
    }

    /// Bytes `range` of what was received, or what there is of it, to be kept for as long as wanted.
    ///
    /// Detaches the buffer, so that no device writes to it again: so with the context of that.
    pub(crate) fn share(&mut self, range: Range<usize>) -> Result<Slice> {
        self.detach();
        let start = range.start.min(self.filled);
        let range = start..range.end.clamp(start, self.filled);
        // SAFETY: These bytes are initialised by the type invariant, in pages that were allocated as
        // compound ones. Without the mapping the buffer is never armed, which alone allows to write it.
        unsafe { Slice::new(self.buf.pages.page, range) }
    }

    /// Empties the buffer and hands it to the device.
    pub(super) fn arm(&mut self, pd: &Pd) -> Result<bindings::ib_sge> {
        // INVARIANT: Nothing is filled.
        self.filled = 0;
        self.buf.to_device(pd, 0..self.size())
    }

    /// Takes the buffer back from the device.
    ///
    /// # Safety
    ///
    /// The device wrote the first `len` bytes, or fewer if the buffer is smaller, and is done.
    pub(super) unsafe fn fill(&mut self, pd: &Pd, len: usize) -> Result {
        let len = len.min(self.size());
        self.buf.to_cpu(pd, len)?;
        // INVARIANT: By the contract.
        self.filled = len;
        Ok(())
    }
}

/// The one appender to memory for sends.
///
/// Bytes are appended once and never change, so those before can be in flight meanwhile.
///
/// # Invariants
///
/// The first `filled` bytes of the chunk are initialised and not written any more; the others are
/// written through this value only.
pub(crate) struct SendBuf {
    chunk: Arc<Buf>,
    filled: usize,
}

impl SendBuf {
    /// Allocates `2^order` pages and maps them for the device of `pd`. Sleeps. Fails with `ENOMEM`.
    pub(crate) fn new(pd: &Arc<Pd>, order: u32) -> Result<Self> {
        let buf = Buf::new(pd, order, Direction::ToDevice)?;
        // INVARIANT: Nothing is filled yet, and nobody else has the chunk.
        Ok(Self {
            chunk: Arc::new(buf, GFP_KERNEL)?,
            filled: 0,
        })
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.chunk.pages.size()
    }

    /// The bytes that can still be appended.
    pub(crate) fn room(&self) -> usize {
        // OVERFLOW: `filled` is at most the size.
        self.size() - self.filled
    }

    /// Appends up to `max` bytes of a caller's data, as many as there is room for.
    ///
    /// The range is shorter than that, or `None`, when the caller's memory could not be read.
    /// Sleeps when it has to be paged in.
    pub(crate) fn append_iter(&mut self, from: &mut IovIterSource<'_>, max: usize) -> Option<Sge> {
        let offset = self.filled;
        // SAFETY: By the type invariants nobody else reads or writes bytes from `filled` on, and
        // there are `room()` of them.
        let spare = unsafe {
            let start = self.chunk.pages.start().add(offset);
            slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), max.min(self.room()))
        };
        let len = from.copy_from_iter_raw(spare).len();
        if len == 0 {
            return None;
        }
        // INVARIANT: They were just initialised. OVERFLOW: They fitted.
        self.filled += len;
        // INVARIANT: The range ends at `filled`.
        Some(Sge {
            chunk: self.chunk.clone(),
            offset,
            len,
        })
    }
}

/// A range of bytes that were appended to a [`SendBuf`].
///
/// It keeps the memory, and a posted range does so until its send has completed.
///
/// # Invariants
///
/// `len` bytes from `offset` on lie in the chunk, are initialised, and never change.
pub(crate) struct Sge {
    chunk: Arc<Buf>,
    offset: usize,
    len: usize,
}

impl Sge {
    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Splits the first `len` bytes off; `None` unless that leaves something on both sides.
    pub(crate) fn split_to(&mut self, len: usize) -> Option<Self> {
        if len == 0 || len >= self.len {
            return None;
        }
        // INVARIANT: The two halves of a valid range are valid. OVERFLOW: `len < self.len`.
        let first = Self {
            chunk: self.chunk.clone(),
            offset: self.offset,
            len,
        };
        self.offset += len;
        self.len -= len;
        Some(first)
    }

    /// Appends `next` if it continues this range in memory, otherwise gives it back.
    pub(crate) fn join(&mut self, next: Self) -> Result<(), Self> {
        // OVERFLOW: The end of a range lies in its chunk.
        if !Arc::ptr_eq(&self.chunk, &next.chunk) || self.offset + self.len != next.offset {
            return Err(next);
        }
        // INVARIANT: Two adjacent valid ranges are one.
        self.len += next.len;
        Ok(())
    }

    /// Hands the range to the device and describes it for a work request.
    pub(super) fn to_device(&self, pd: &Pd) -> Result<bindings::ib_sge> {
        self.chunk
            .to_device(pd, self.offset..self.offset + self.len)
    }
}
