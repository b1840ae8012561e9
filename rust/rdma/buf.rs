// SPDX-License-Identifier: GPL-2.0

//! Memory for sends and receives, mapped for a device.

use super::{
    device::Device,
    mr::Memory,
    pd::Pd, //
};
use crate::{
    bindings,
    net::pipe::Slice,
    prelude::*, //
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
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

const TO_DEVICE: bindings::dma_data_direction = bindings::dma_data_direction::DMA_TO_DEVICE;
const FROM_DEVICE: bindings::dma_data_direction = bindings::dma_data_direction::DMA_FROM_DEVICE;

/// A page of one's own.
///
/// # Invariants
///
/// One reference of the page is this value's.
struct Page(NonNull<bindings::page>);

// SAFETY: A page is memory like any other.
unsafe impl Send for Page {}
// SAFETY: As above; this type alone gives no access to what is in it.
unsafe impl Sync for Page {}

impl Page {
    /// Sleeps. Nobody is charged for it, lest the cgroup be twice: that is for who asks for the
    /// buffer.
    fn new() -> Result<Self> {
        // SAFETY: It may be called anywhere that may sleep.
        let page = unsafe { bindings::sdp_helper_alloc_pages(bindings::GFP_KERNEL, 0) };
        // INVARIANT: It was just allocated.
        Ok(Self(NonNull::new(page).ok_or(ENOMEM)?))
    }

    /// The first byte; the page is valid as long as `self`.
    fn start(&self) -> *mut u8 {
        // SAFETY: The page is ours and not in high memory, so it has an address.
        unsafe { bindings::sdp_helper_page_address(self.0.as_ptr()) }.cast()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::__free_pages(self.0.as_ptr(), 0) };
    }
}

/// Physically contiguous memory that a device reads.
pub(super) struct Chunk(KVec<MaybeUninit<u8>>);

impl Chunk {
    /// So many bytes. Sleeps. Fails with `ENOMEM`.
    fn new(size: usize) -> Result<Self> {
        Ok(Self(KVec::with_capacity(size, GFP_KERNEL)?))
    }

    fn size(&self) -> usize {
        self.0.capacity()
    }

    /// The first byte; `size()` bytes from there are valid as long as `self`, and the vector makes no
    /// use of them.
    fn start(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().cast()
    }

    /// Maps `range` for `device` to read, and gives its address there. Any context. Fails with `ENOMEM`,
    /// and with `EINVAL` where the chunk does not have the range.
    fn map(&self, device: &Device, range: Range<usize>) -> Result<u64> {
        if range.is_empty() || range.end > self.size() {
            return Err(EINVAL);
        }
        let device = device.as_ptr();
        // SAFETY: The device is registered, and the range is in the chunk, which is in memory that
        // devices reach.
        let addr = unsafe {
            let start = self.start().add(range.start);
            bindings::sdp_helper_ib_dma_map_single(device, start.cast(), range.len(), TO_DEVICE)
        };
        // SAFETY: The device is registered, and `addr` is what mapping for it gave.
        match unsafe { bindings::sdp_helper_ib_dma_mapping_error(device, addr) } {
            0 => Ok(addr),
            _ => Err(ENOMEM),
        }
    }
}

/// Ends a mapping of [`Chunk::map`]. Any context.
///
/// # Safety
///
/// It mapped `size` bytes at `addr` for `device`, which does not read them any more.
unsafe fn unmap(device: &Device, addr: u64, size: usize) {
    // SAFETY: By the contract; the device is registered.
    unsafe { bindings::sdp_helper_ib_dma_unmap_single(device.as_ptr(), addr, size, TO_DEVICE) };
}

/// The room for the first bytes of each send.
pub(crate) const HEADER_ROOM: usize = 64;

/// Memory for the first bytes of the sends that a QP can have in flight.
///
/// # Invariants
///
/// All of `rooms` is mapped at `addr` for the device of `pd`; only this value unmaps it.
pub(super) struct Headers {
    pd: Arc<Pd>,
    addr: u64,
    rooms: Chunk,
}

impl Headers {
    /// Memory for `count` sends. Fails with `ENOMEM`.
    pub(super) fn new(pd: &Arc<Pd>, count: u32) -> Result<Self> {
        let size = usize::try_from(count)?
            .checked_mul(HEADER_ROOM)
            .ok_or(ENOMEM)?;
        let rooms = Chunk::new(size)?;
        // INVARIANT: It is just mapped.
        Ok(Self {
            pd: pd.clone(),
            addr: rooms.map(pd.device(), 0..rooms.size())?,
            rooms,
        })
    }

    /// Writes the first bytes of the send `slot` and describes them for its work request.
    ///
    /// Fails with `EINVAL` for more than [`HEADER_ROOM`] bytes.
    ///
    /// # Safety
    ///
    /// The room of that send is not in use: neither by the device nor by another call.
    pub(super) unsafe fn write(&self, slot: usize, header: &[u8]) -> Result<bindings::ib_sge> {
        let start = slot.checked_mul(HEADER_ROOM).ok_or(EINVAL)?;
        let end = start.checked_add(HEADER_ROOM).ok_or(EINVAL)?;
        if header.len() > HEADER_ROOM || end > self.rooms.size() {
            return Err(EINVAL);
        }
        // SAFETY: The room is in the chunk, and by the contract nobody else uses it.
        unsafe {
            let to = self.rooms.start().add(start);
            ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
        }
        // CAST: `usize` has at most 64 bits. OVERFLOW: The address lies in the mapping.
        let addr = self.addr + start as u64;
        // SAFETY: It is mapped for the device in this direction.
        unsafe {
            bindings::sdp_helper_ib_dma_sync_single_for_device(
                self.pd.device().as_ptr(),
                addr,
                header.len(),
                TO_DEVICE,
            )
        };
        Ok(bindings::ib_sge {
            addr,
            length: u32::try_from(header.len())?,
            lkey: self.pd.lkey(),
        })
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is mapped, and ours to unmap.
        unsafe { unmap(self.pd.device(), self.addr, self.rooms.size()) };
    }
}

/// The most pages of a [`RecvBuf`].
pub(crate) const MAX_RECV_PAGES: usize = 16;

/// A page of a [`RecvBuf`].
struct RecvPage {
    page: Page,
    /// Others read it, so that nobody may write to it any more.
    shared: bool,
    /// What takes its place then before the device writes again, if there was memory for it.
    fresh: Option<Page>,
    /// Where the device has it, while it is mapped.
    addr: u64,
}

impl RecvPage {
    /// Replaces it if it is shared, and maps it for `device`. Any context. Fails with `ENOMEM`.
    fn map(&mut self, device: &Device) -> Result {
        if self.shared {
            self.page = self.fresh.take().ok_or(ENOMEM)?;
            self.shared = false;
        }
        let (device, page) = (device.as_ptr(), self.page.0.as_ptr());
        // SAFETY: The device is registered, and the page valid.
        let addr = unsafe {
            bindings::sdp_helper_ib_dma_map_page(device, page, 0, PAGE_SIZE, FROM_DEVICE)
        };
        // SAFETY: The device is registered, and `addr` is what mapping for it gave.
        match unsafe { bindings::sdp_helper_ib_dma_mapping_error(device, addr) } {
            0 => self.addr = addr,
            _ => return Err(ENOMEM),
        }
        Ok(())
    }

    /// Ends its mapping. Any context.
    ///
    /// # Safety
    ///
    /// It is mapped for `device`, which does not write to it any more.
    unsafe fn unmap(&self, device: &Device) {
        let device = device.as_ptr();
        // SAFETY: By the contract; the device is registered.
        unsafe {
            bindings::sdp_helper_ib_dma_unmap_page(device, self.addr, PAGE_SIZE, FROM_DEVICE)
        };
    }
}

/// A buffer of single pages that receives one message at a time.
///
/// It is the device's from when it is posted until the receive completes, and mapped only then: who
/// reads what was received keeps no device.
///
/// # Invariants
///
/// The first `filled` bytes were written, by the device or by [`Self::append`]. While it is `mapped`,
/// all pages are so at their `addr` for a device; otherwise no device writes to them.
pub(crate) struct RecvBuf {
    pages: KVec<RecvPage>,
    filled: u32,
    mapped: bool,
}

impl RecvBuf {
    /// Allocates `pages` pages, at most [`MAX_RECV_PAGES`]. Sleeps. Fails with `ENOMEM`.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let count = pages.clamp(1, MAX_RECV_PAGES);
        let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let page = RecvPage {
                page: Page::new()?,
                shared: false,
                fresh: None,
                addr: 0,
            };
            // There is room for it.
            let _ = pages.push_within_capacity(page);
        }
        // INVARIANT: Nothing is filled nor mapped yet.
        Ok(Self {
            pages,
            filled: 0,
            mapped: false,
        })
    }

    /// The bytes that it can receive, which is also the memory that it takes.
    pub(crate) fn size(&self) -> usize {
        // OVERFLOW: There are a few.
        self.pages.len() * PAGE_SIZE
    }

    /// The bytes that were received; none after a failed receive.
    pub(crate) fn len(&self) -> usize {
        // CAST: `usize` has at least 32 bits.
        self.filled as usize
    }

    /// What was received from `at` on, as far as it lies in one page.
    pub(crate) fn bytes(&self, at: usize) -> &[u8] {
        let (offset, len) = self.in_page(at);
        match self.pages.get(at / PAGE_SIZE) {
            // SAFETY: By the type invariants these bytes are initialised, and no device writes to them
            // until the buffer is posted again, for which it has to be moved away.
            Some(page) if len > 0 => unsafe {
                slice::from_raw_parts(page.page.start().add(offset), len)
            },
            _ => &[],
        }
    }

    /// The offset in its page of byte `at`, and how many bytes were received from there on in that.
    fn in_page(&self, at: usize) -> (usize, usize) {
        let offset = at % PAGE_SIZE;
        // OVERFLOW: It is the smaller.
        let len = self.len().saturating_sub(at).min(PAGE_SIZE - offset);
        (offset, len)
    }

    /// At most `max` of the bytes that [`Self::bytes`] gives, to be kept for as long as wanted. Sleeps.
    ///
    /// The page is replaced when the buffer is posted next, by one that is allocated now. Without memory
    /// for that it cannot be posted any more.
    pub(crate) fn share(&mut self, at: usize, max: usize) -> Result<Slice> {
        let (offset, len) = self.in_page(at);
        let len = len.min(max);
        let page = self.pages.get_mut(at / PAGE_SIZE).ok_or(EINVAL)?;
        if !page.shared {
            page.shared = true;
            page.fresh = Page::new().ok();
        }
        // SAFETY: These bytes are initialised by the type invariant. They are not written before the
        // page has been replaced: not by a device, to which `map` hands the other, nor by `append`,
        // which writes to pages only that are not shared.
        unsafe { Slice::new(page.page.0, offset..offset + len) }
    }

    /// Appends a copy of `bytes` to what was received, or does nothing where there is no room for all of
    /// it in the last page. Any context.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let at = self.len();
        let offset = at % PAGE_SIZE;
        // OVERFLOW: It is the smaller.
        let room = PAGE_SIZE - offset;
        let page = match self.pages.get_mut(at / PAGE_SIZE) {
            Some(page) if !page.shared && bytes.len() <= room => page,
            _ => return false,
        };
        if self.mapped {
            return false;
        }
        // SAFETY: By the type invariants no device writes to the page, others read it only if it is
        // shared, and `&mut self` is exclusive; the bytes fit in.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), page.page.start().add(offset), bytes.len());
        }
        // INVARIANT: They were just written.
        self.filled = u32::try_from(at.saturating_add(bytes.len())).unwrap_or(self.filled);
        true
    }

    /// Empties the buffer, hands it to the device of `pd` and describes it for a work request: how
    /// many pieces there are. Any context. Fails with `EINVAL` for more than `sges` has room for, and
    /// `ENOMEM`.
    pub(super) fn map(&mut self, pd: &Pd, sges: &mut [bindings::ib_sge]) -> Result<usize> {
        if self.mapped || self.pages.len() > sges.len() {
            return Err(EINVAL);
        }
        // INVARIANT: Nothing is filled.
        self.filled = 0;
        let lkey = pd.lkey();
        for (at, (page, sge)) in self.pages.iter_mut().zip(sges).enumerate() {
            if let Err(e) = page.map(pd.device()) {
                self.unmap_first(pd, at);
                return Err(e);
            }
            *sge = bindings::ib_sge {
                addr: page.addr,
                length: PAGE_SIZE as u32,
                lkey,
            };
        }
        // INVARIANT: All of them were just mapped.
        self.mapped = true;
        Ok(self.pages.len())
    }

    /// Ends the mapping of the first `count` pages, which are mapped for the device of `pd`.
    fn unmap_first(&mut self, pd: &Pd, count: usize) {
        for page in self.pages.iter().take(count) {
            // SAFETY: The page is mapped so, and the device does not use it any more.
            unsafe { page.unmap(pd.device()) };
        }
    }

    /// Takes the buffer back from the device. Any context.
    ///
    /// # Safety
    ///
    /// If it is mapped, it is so for the device of `pd`, which wrote the first `len` bytes, or fewer if
    /// the buffer is smaller, and is done.
    pub(super) unsafe fn unmap(&mut self, pd: &Pd, len: usize) {
        if core::mem::take(&mut self.mapped) {
            self.unmap_first(pd, self.pages.len());
            // INVARIANT: By the contract.
            self.filled = u32::try_from(len.min(self.size())).unwrap_or(0);
        }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        if self.mapped {
            // The device may still write to them, so they are lost.
            core::mem::forget(core::mem::take(&mut self.pages));
        }
    }
}

/// The one appender to memory for sends.
///
/// Bytes are appended once and never change, so those before can be in flight meanwhile. It belongs to
/// no device, however long its owner keeps it.
///
/// # Invariants
///
/// The first `filled` bytes of the chunk are initialised and not written any more; the others are
/// written through this value only.
pub(crate) struct SendBuf {
    chunk: Arc<Chunk>,
    filled: usize,
}

impl SendBuf {
    /// Allocates `size` bytes. Sleeps. Fails with `ENOMEM`.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let chunk = Chunk::new(size)?;
        // INVARIANT: Nothing is filled yet, and nobody else has the chunk.
        Ok(Self {
            chunk: Arc::new(chunk, GFP_KERNEL)?,
            filled: 0,
        })
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.chunk.size()
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
            let start = self.chunk.start().add(offset);
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
/// It keeps the memory, and the request that sends it does so until it has completed.
///
/// # Invariants
///
/// `len` bytes from `offset` on lie in the chunk, are initialised, and never change.
pub(crate) struct Sge {
    chunk: Arc<Chunk>,
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

    /// Maps the range for the device of `pd`, and describes it for a work request. Any context. Fails
    /// with `ENOMEM`.
    pub(super) fn map(&self, pd: &Pd) -> Result<(Held, bindings::ib_sge)> {
        // OVERFLOW: The end of a range lies in its chunk.
        let range = self.offset..self.offset + self.len;
        let len = u32::try_from(self.len)?;
        let addr = self.chunk.map(pd.device(), range)?;
        let sge = bindings::ib_sge {
            addr,
            length: len,
            lkey: pd.lkey(),
        };
        let chunk = ManuallyDrop::new(self.chunk.clone());
        // INVARIANT: It is just mapped.
        Ok((Held::Copied { chunk, addr, len }, sge))
    }
}

/// What a request of the send queue keeps until it has completed.
///
/// # Invariants
///
/// Of what was copied, `len` bytes of the chunk are mapped at `addr` for a device. Without
/// [`Self::unmap`] the chunk is lost, since the device may read it.
#[derive(Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// Bytes that were copied.
    Copied {
        chunk: ManuallyDrop<Arc<Chunk>>,
        addr: u64,
        len: u32,
    },
    /// A caller's memory, which the request names.
    Registered { _memory: Arc<Memory> },
    /// A caller's memory, whose key the request ends.
    Ended(Arc<Memory>),
}

impl Held {
    /// Lets the memory go. Any context.
    ///
    /// # Safety
    ///
    /// What is mapped is so for the device of `pd`, which does not read it any more.
    pub(super) unsafe fn unmap(self, pd: &Pd) {
        if let Self::Copied { chunk, addr, len } = self {
            // CAST: `usize` has at least 32 bits.
            //
            // SAFETY: By the type invariant and the contract.
            unsafe { unmap(pd.device(), addr, len as usize) };
            drop(ManuallyDrop::into_inner(chunk));
        }
    }
}
