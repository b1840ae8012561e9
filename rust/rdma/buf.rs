// SPDX-License-Identifier: GPL-2.0

//! Memory for sends and receives, mapped for a device.

use super::{
    device::Device,
    mr::Memory,
    pd::Pd, //
};
use crate::{
    bindings,
    mm::pages::{
        self,
        Pages, //
    },
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
    alloc::Flags,
    iov::IovIterSource,
    page::PAGE_SIZE,
    sync::Arc, //
};

const TO_DEVICE: bindings::dma_data_direction = bindings::dma_data_direction::DMA_TO_DEVICE;
const FROM_DEVICE: bindings::dma_data_direction = bindings::dma_data_direction::DMA_FROM_DEVICE;

/// A page that this value owns.
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
    /// Allocates one. Sleeps. Fails with `ENOMEM`. It is not charged to a cgroup, since the owner
    /// of the buffer charges for it.
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
    /// Allocates so many bytes. Sleeps if `flags` say so. Fails with `ENOMEM`.
    fn new(size: usize, flags: Flags) -> Result<Self> {
        Ok(Self(KVec::with_capacity(size, flags)?))
    }

    fn size(&self) -> usize {
        self.0.capacity()
    }

    /// The first byte; `size()` bytes from there are valid as long as `self`, and the vector makes
    /// no use of them.
    fn start(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().cast()
    }

    /// Maps `range` for `device` to read, and returns its DMA address. Any context. Fails with
    /// `ENOMEM`, and with `EINVAL` where the range is not in the chunk.
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

/// The room for the header of each send, in bytes.
pub(crate) const HEADER_ROOM: usize = 64;

/// Memory for the headers of the sends that a QP can have in flight.
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
    /// Memory for `count` sends. Sleeps. Fails with `ENOMEM`.
    pub(super) fn new(pd: &Arc<Pd>, count: u32) -> Result<Self> {
        let size = usize::try_from(count)?
            .checked_mul(HEADER_ROOM)
            .ok_or(ENOMEM)?;
        let rooms = Chunk::new(size, GFP_KERNEL)?;
        // INVARIANT: It is just mapped.
        Ok(Self {
            pd: pd.clone(),
            addr: rooms.map(pd.device(), 0..rooms.size())?,
            rooms,
        })
    }

    /// Writes the header of the send `slot`, and describes it for its work request. Any context.
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
    /// Others may read it ([`RecvBuf::share`]), so nobody may write to it any more.
    shared: bool,
    /// The page that replaces it before the device writes again, if there was memory for one.
    fresh: Option<Page>,
    /// Its DMA address, while it is mapped.
    addr: u64,
}

impl RecvPage {
    /// Replaces it if it is shared, and maps it for `device`. Any context. Fails with `ENOMEM`,
    /// also without a replacement.
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
/// The device has it from when it is posted until the receive completes, and it is mapped only for
/// that time: unread data does not keep a device.
///
/// # Invariants
///
/// The first `filled` bytes were written, by the device, [`Self::append`], [`Self::keep`] or
/// [`Self::append_pages`]. While it is `mapped`, all pages are so at their `addr` for a device;
/// otherwise no device writes to them.
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

    /// How many pages it takes. Any context.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// How many bytes it can receive, which is also the memory that it takes. Any context.
    pub(crate) fn size(&self) -> usize {
        // OVERFLOW: There are a few.
        self.pages.len() * PAGE_SIZE
    }

    /// How many bytes were received; none after a failed receive. Any context.
    pub(crate) fn len(&self) -> usize {
        // CAST: `usize` has at least 32 bits.
        self.filled as usize
    }

    /// The bytes that were received from offset `at` on, as far as they lie in one page. Any
    /// context.
    pub(crate) fn bytes(&self, at: usize) -> &[u8] {
        let (offset, len) = self.in_page(at);
        match self.pages.get(at / PAGE_SIZE) {
            // SAFETY: By the type invariants these bytes are initialised, and no device writes to
            // them until the buffer is posted again, for which it has to be moved away.
            Some(page) if len > 0 => unsafe {
                slice::from_raw_parts(page.page.start().add(offset), len)
            },
            _ => &[],
        }
    }

    /// The offset of byte `at` in its page, and how many bytes were received in that from there on.
    fn in_page(&self, at: usize) -> (usize, usize) {
        let offset = at % PAGE_SIZE;
        // OVERFLOW: It is the smaller.
        let len = self.len().saturating_sub(at).min(PAGE_SIZE - offset);
        (offset, len)
    }

    /// At most `max` of the bytes that [`Self::bytes`] returns, to be kept for any time. Sleeps.
    /// Fails with `EINVAL` beyond the buffer.
    ///
    /// The page is replaced when the buffer is posted next, by one that is allocated now. Without
    /// memory for that the buffer cannot be posted any more.
    pub(crate) fn share(&mut self, at: usize, max: usize) -> Result<Slice> {
        let (offset, len) = self.in_page(at);
        let len = len.min(max);
        let page = self.pages.get_mut(at / PAGE_SIZE).ok_or(EINVAL)?;
        if !page.shared {
            page.shared = true;
            page.fresh = Page::new().ok();
        }
        // SAFETY: These bytes are initialised by the type invariant. They are not written before
        // the page has been replaced: not by a device, to which `map` hands the other, nor by
        // `append`, which writes to pages only that are not shared.
        unsafe { Slice::new(page.page.0, offset..offset + len) }
    }

    /// Appends a copy of the first of `range` of what `other` received, as many bytes as there is
    /// room for. Returns how many. Any context.
    pub(crate) fn append(&mut self, other: &Self, range: Range<usize>) -> usize {
        let mut from = range.start;
        while from < range.end && !self.mapped {
            let offset = self.len() % PAGE_SIZE;
            let page = self.pages.get(self.len() / PAGE_SIZE);
            let Some(page) = page.filter(|page| !page.shared) else {
                break;
            };
            let bytes = other.bytes(from);
            // OVERFLOW: The offset is the smaller.
            let len = bytes.len().min(range.end - from).min(PAGE_SIZE - offset);
            if len == 0 {
                break;
            }
            // SAFETY: By the type invariants no device writes to the page, others read it only if
            // it is shared, and `&mut self` is exclusive; the bytes fit in.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), page.page.start().add(offset), len);
            }
            // INVARIANT: They were just written. CAST: The size of a buffer is small.
            self.filled += len as u32;
            from += len;
        }
        from.saturating_sub(range.start)
    }

    /// Moves `range` of what was received to the front, and forgets the rest. False, and nothing is
    /// changed, where others may read it. Any context.
    pub(crate) fn keep(&mut self, range: Range<usize>) -> bool {
        if self.mapped || self.pages.iter().any(|page| page.shared) {
            return false;
        }
        let (mut to, mut from) = (0, range.start);
        while from < range.end {
            let offset = to % PAGE_SIZE;
            let bytes = self.bytes(from);
            // OVERFLOW: The offset is the smaller.
            let len = bytes.len().min(range.end - from).min(PAGE_SIZE - offset);
            let Some(page) = self.pages.get(to / PAGE_SIZE).filter(|_| len > 0) else {
                break;
            };
            // SAFETY: As in `append`, but that the bytes may overlap.
            unsafe { ptr::copy(bytes.as_ptr(), page.page.start().add(offset), len) };
            to += len;
            from += len;
        }
        // INVARIANT: They were just written. CAST: The size of a buffer is small.
        self.filled = to as u32;
        true
    }

    /// Appends up to `max` bytes from offset `at` of `parts` on, which follow each other, as many
    /// as there are and there is room for. Returns how many. Process context.
    pub(crate) fn append_pages(&mut self, parts: &[Pages], at: usize, max: usize) -> usize {
        let mut done: usize = 0;
        while done < max && !self.mapped {
            let offset = self.len() % PAGE_SIZE;
            let page = self.pages.get(self.len() / PAGE_SIZE);
            let Some(page) = page.filter(|page| !page.shared) else {
                break;
            };
            // OVERFLOW: The offset is the smaller.
            let len = (max - done).min(PAGE_SIZE - offset);
            // SAFETY: As in `append`.
            let room = unsafe {
                let start = page.page.start().add(offset);
                slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), len)
            };
            let n = pages::load(parts, at.saturating_add(done), room);
            if n == 0 {
                break;
            }
            // INVARIANT: They were just written. CAST: The size of a buffer is small.
            self.filled += n as u32;
            done += n;
        }
        done
    }

    /// Empties the buffer, maps it for the device of `pd` and describes it for a work request.
    /// Returns the number of pieces. Any context. Fails with `EINVAL` for more pieces than `sges`
    /// has room for, and with `ENOMEM`.
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
    /// If it is mapped, it is so for the device of `pd`, which wrote the first `len` bytes, or
    /// fewer if the buffer is smaller, and is done.
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
            // The device may still write to the pages, so they are leaked.
            core::mem::forget(core::mem::take(&mut self.pages));
        }
    }
}

/// Memory for sends, to which only this value appends.
///
/// Bytes are appended once and never change, so earlier ones can be in flight meanwhile. It is
/// mapped range by range, when those are posted, and so keeps no device.
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
    /// Allocates `size` bytes, or a page where there is no room for more in one piece. Sleeps.
    /// Fails with `ENOMEM`.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let chunk = if size > PAGE_SIZE {
            // Not worth to wait for.
            Chunk::new(size, GFP_NOWAIT | __GFP_NOWARN)
                .or_else(|_| Chunk::new(PAGE_SIZE, GFP_KERNEL))?
        } else {
            Chunk::new(size, GFP_KERNEL)?
        };
        // INVARIANT: Nothing is filled yet, and nobody else has the chunk.
        Ok(Self {
            chunk: Arc::new(chunk, GFP_KERNEL)?,
            filled: 0,
        })
    }

    /// The memory that it takes, in bytes. Any context.
    pub(crate) fn size(&self) -> usize {
        self.chunk.size()
    }

    /// How many bytes can still be appended. Any context.
    pub(crate) fn room(&self) -> usize {
        // OVERFLOW: `filled` is at most the size.
        self.size() - self.filled
    }

    /// Appends up to `max` bytes of a caller's data, as many as there is room for.
    ///
    /// The range is shorter, or `None`, if the caller's memory could not be read. Sleeps while that
    /// is paged in.
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
/// It holds a reference of the memory, and so does a request that sends it until that has
/// completed.
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

    /// Splits off the first `len` bytes; `None` if either part would be empty. Any context.
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

    /// Appends `next` if it continues this range in memory, otherwise gives it back. Any context.
    pub(crate) fn join(&mut self, next: Self) -> Result<(), Self> {
        // OVERFLOW: The end of a range lies in its chunk.
        if !Arc::ptr_eq(&self.chunk, &next.chunk) || self.offset + self.len != next.offset {
            return Err(next);
        }
        // INVARIANT: Two adjacent valid ranges are one.
        self.len += next.len;
        Ok(())
    }

    /// Maps the range for the device of `pd`, and describes it for a work request. Any context.
    /// Fails with `ENOMEM`.
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

/// The memory that a request of the send queue holds until it has completed.
///
/// # Invariants
///
/// Of copied bytes, `len` bytes of the chunk are mapped at `addr` for a device. Without
/// [`Self::unmap`] the chunk is leaked, since the device may read it.
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
    /// A caller's memory, which the request registers.
    Registering(Arc<Memory>),
    /// A caller's memory, whose key the request invalidates.
    Ending(Arc<Memory>),
}

impl Held {
    /// Unmaps and releases the memory. Any context.
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
