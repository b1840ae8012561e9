// SPDX-License-Identifier: GPL-2.0

//! Fast-register memory regions: a caller's pages with keys by which a device, and a peer, reach
//! exactly their bytes.

use super::pd::Pd;
use crate::{
    bindings,
    mm::pages::Pages,
    prelude::*, //
};
use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicUsize,
        Ordering, //
    },
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    sync::{
        atomic::{
            Acquire,
            AtomicFlag,
            Full,
            Release, //
        },
        new_mutex,
        Arc,
        Mutex, //
    },
    types::Opaque, //
};

/// The most pages of a region, whatever the device can do: 2 MiB on 4 KiB pages.
pub(super) const MAX_PAGES: usize = 512;

/// A mask for I/O virtual addresses: with a region behind them they stay below 2^63, which all
/// drivers take.
const IOVA_MASK: u64 = (1 << 62) - 1;

/// An allocated region without memory.
///
/// # Invariants
///
/// `0` is a live region, not valid on the device, that only this value deallocates.
struct Mr(NonNull<bindings::ib_mr>);

// SAFETY: The RDMA core lets any thread use a region, one at a time.
unsafe impl Send for Mr {}
// SAFETY: As above; `&Mr` gives its keys alone.
unsafe impl Sync for Mr {}

impl Drop for Mr {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is live and ours. The device ends its use here, if
        // anything of it is left.
        if unsafe { bindings::sdp_helper_ib_dereg_mr(self.0.as_ptr()) } != 0 {
            pr_err!("a memory region could not be deregistered\n");
        }
    }
}

/// The regions of a domain that are not in use. There are as many regions as its connection used at
/// a time since it was idle.
#[pin_data]
pub(super) struct FreeMrs {
    #[pin]
    free: Mutex<KVec<Mr>>,
    /// How many there are, those in use included.
    made: AtomicUsize,
}

impl FreeMrs {
    /// Without any region yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            free <- new_mutex!(KVec::new(), "sdp::FreeMrs::free"),
            made: AtomicUsize::new(0),
        })
    }
}

impl FreeMrs {
    /// How many regions there are once another is in use, those in use included. Sleeps.
    pub(super) fn with_another(&self) -> usize {
        let made = self.made.load(Ordering::Relaxed);
        made.saturating_add(self.free.lock().is_empty().into())
    }

    /// Whether some are not in use. Sleeps.
    pub(super) fn has_free(&self) -> bool {
        !self.free.lock().is_empty()
    }

    /// Frees those that are not in use. Returns how many are left. Sleeps.
    pub(super) fn free_all(&self) -> usize {
        let free = core::mem::take(&mut *self.free.lock());
        let count = free.len();
        drop(free);
        let made = self.made.fetch_sub(count, Ordering::Relaxed);
        made.saturating_sub(count)
    }
}

impl Mr {
    /// Takes an unused region of `pd`, or makes one. Sleeps. Fails with the driver's error.
    fn take(pd: &Pd) -> Result<Self> {
        if let Some(mr) = pd.mrs().free.lock().pop() {
            return Ok(mr);
        }
        let pages = u32::try_from(pd.device().max_mr_pages())?;
        // SAFETY: The domain is valid as long as `pd`.
        let mr = from_err_ptr(unsafe {
            bindings::ib_alloc_mr(pd.as_ptr(), bindings::ib_mr_type_IB_MR_TYPE_MEM_REG, pages)
        })?;
        // INVARIANT: It was just allocated.
        let mr = Self(NonNull::new(mr).ok_or(ENOMEM)?);
        pd.mrs().made.fetch_add(1, Ordering::Relaxed);
        Ok(mr)
    }

    /// Returns it to `pd`, no longer valid on the device. Sleeps.
    fn give_back(self, pd: &Pd) {
        let mut free = pd.mrs().free.lock();
        if free.reserve(1, GFP_KERNEL).is_ok() {
            // There is room.
            let _ = free.push(self, GFP_KERNEL);
        } else {
            drop(free);
            self.discard(pd);
        }
    }

    /// Deregisters it, and with it a key that may be valid. Sleeps.
    fn discard(self, pd: &Pd) {
        drop(self);
        pd.mrs().made.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The DMA mapping of pages.
///
/// # Invariants
///
/// `table` is mapped for the device of `pd`, in this direction; only this value unmaps and frees
/// it.
struct Mapping {
    table: Opaque<bindings::sg_table>,
    pd: Arc<Pd>,
    direction: bindings::dma_data_direction,
}

// SAFETY: A mapping may be ended by any thread.
unsafe impl Send for Mapping {}
// SAFETY: It is only looked at while the region is made, and when dropped.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `pages`, which have to outlive the mapping. May sleep. Fails with `ENOMEM`.
    fn new(pd: &Arc<Pd>, pages: &Pages) -> Result<Self> {
        let direction = if pages.is_written() {
            bindings::dma_data_direction::DMA_FROM_DEVICE
        } else {
            bindings::dma_data_direction::DMA_TO_DEVICE
        };
        let table = Opaque::<bindings::sg_table>::zeroed();
        // SAFETY: The list has so many pages, in which the bytes lie.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                table.get(),
                pages.as_ptr(),
                // CAST: There are at most `MAX_PAGES`, of which the bytes start in the first.
                pages.count() as c_uint,
                pages.offset() as c_uint,
                pages.len() as c_ulong,
                bindings::sdp_helper_ib_dma_max_seg_size(pd.device().as_ptr()),
                bindings::GFP_KERNEL,
            )
        })?;
        // SAFETY: The device is registered and the table complete.
        let mapped = to_result(unsafe {
            bindings::sdp_helper_ib_dma_map_sgtable(pd.device().as_ptr(), table.get(), direction)
        });
        if let Err(e) = mapped {
            // SAFETY: It was made above.
            unsafe { bindings::sg_free_table(table.get()) };
            return Err(e);
        }
        // INVARIANT: It was just mapped.
        Ok(Self {
            table,
            pd: pd.clone(),
            direction,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is mapped, and ours.
        unsafe {
            bindings::sdp_helper_ib_dma_unmap_sgtable(
                self.pd.device().as_ptr(),
                self.table.get(),
                self.direction,
            );
            bindings::sg_free_table(self.table.get());
        }
    }
}

/// Who may access a [`Memory`], beside the local device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The peer, to read it.
    RemoteRead,
    /// The peer, to write to it.
    RemoteWrite,
    /// Nobody: our own RDMA Reads store there.
    ReadSink,
}

/// Memory of the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Its address, as its owner has advertised it.
    pub(crate) addr: u64,
    /// Its key.
    pub(crate) key: u32,
}

/// A caller's bytes, registered under a key.
///
/// The key is valid once: from when [`Qp::post_register`](super::qp::Qp::post_register) was
/// executed until [`Qp::post_invalidate`](super::qp::Qp::post_invalidate) was. Each work request
/// that names the memory holds a reference until it has completed. The last one has to be dropped
/// in process context, without spinlocks: that sleeps, and releases the pages. If the key is still
/// valid then, the region is deregistered.
pub(crate) struct Memory {
    mr: Option<Mr>,
    // Fields are dropped in this order: the device must not access pages that were released.
    mapping: Mapping,
    pages: Pages,
    access: Access,
    /// The registration was posted, which is done once.
    registered: AtomicFlag,
    /// The key has ended since.
    ended: AtomicFlag,
}

impl Memory {
    /// Maps `pages` for the device of `pd`, with a key of their own, at an I/O virtual address that
    /// a peer cannot guess. Sleeps.
    ///
    /// Fails with `EINVAL` for more pages than [`Device::max_mr_pages`], or if `access` writes and
    /// the pages are not held for writing, or the reverse; with `ENOMEM`, and with the driver's
    /// error.
    ///
    /// [`Device::max_mr_pages`]: super::device::Device::max_mr_pages
    pub(crate) fn new(pd: &Arc<Pd>, pages: Pages, access: Access) -> Result<Arc<Self>> {
        if pages.is_written() != (access != Access::RemoteRead)
            || pages.count() > pd.device().max_mr_pages()
        {
            return Err(EINVAL);
        }
        let mr = Mr::take(pd)?;
        let mapping = match Mapping::new(pd, &pages) {
            Ok(mapping) => mapping,
            Err(e) => {
                mr.give_back(pd);
                return Err(e);
            }
        };
        // SAFETY: The table is mapped; region and table are ours.
        unsafe {
            let table = mapping.table.get();
            let count = bindings::ib_map_mr_sg(
                mr.0.as_ptr(),
                (*table).sgl,
                (*table).nents as c_int,
                ptr::null_mut(),
                PAGE_SIZE as c_uint,
            );
            if u32::try_from(count) != Ok((*table).nents) {
                mr.give_back(pd);
                return Err(EINVAL);
            }
            // Only 8 bits of a key change: a guess has to hit 50 bits more. The offset in the page
            // is the mapping's, which differs from the memory's if that is bounced.
            let offset = (*mr.0.as_ptr()).iova % PAGE_SIZE as u64;
            let page = bindings::get_random_u64() & IOVA_MASK & !(PAGE_SIZE as u64 - 1);
            (*mr.0.as_ptr()).iova = page | offset;
            bindings::sdp_helper_ib_next_fast_reg_key(mr.0.as_ptr());
        }
        Ok(Arc::new(
            Self {
                mr: Some(mr),
                mapping,
                pages,
                access,
                registered: AtomicFlag::new(false),
                ended: AtomicFlag::new(false),
            },
            GFP_KERNEL,
        )?)
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// How many pages there are.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.count()
    }

    /// Its address and key, as they are advertised to the peer.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            addr: self.addr(),
            key: self.key(),
        }
    }

    /// Whether it belongs to `pd`.
    pub(super) fn is_of(&self, pd: &Pd) -> bool {
        ptr::eq(&*self.mapping.pd, pd)
    }

    /// The C region, live as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::ib_mr {
        // It is taken in drop alone.
        self.mr.as_ref().map_or(ptr::null_mut(), |mr| mr.0.as_ptr())
    }

    /// The key, both for the peer and for the local device.
    pub(super) fn key(&self) -> u32 {
        // SAFETY: The region is live, and its keys do not change before it is dropped.
        unsafe { (*self.as_ptr()).rkey }
    }

    fn addr(&self) -> u64 {
        // SAFETY: As above.
        unsafe { (*self.as_ptr()).iova }
    }

    /// The access flags for C.
    pub(super) fn access_flags(&self) -> c_int {
        let flags = match self.access {
            Access::RemoteRead => bindings::ib_access_flags_IB_ACCESS_REMOTE_READ,
            Access::ReadSink if !self.mapping.pd.device().is_iwarp() => {
                bindings::ib_access_flags_IB_ACCESS_LOCAL_WRITE
            }
            Access::ReadSink | Access::RemoteWrite => {
                bindings::ib_access_flags_IB_ACCESS_LOCAL_WRITE
                    | bindings::ib_access_flags_IB_ACCESS_REMOTE_WRITE
            }
        };
        // CAST: They are the lowest bits.
        flags as c_int
    }

    /// Notes that the registration is about to be posted: from now on the device may accept the
    /// key. Any context. Fails with `EINVAL` where it was noted before.
    pub(super) fn register(&self) -> Result {
        match self.registered.xchg(true, Full) {
            false => Ok(()),
            true => Err(EINVAL),
        }
    }

    /// Whether the registration was posted. Any context.
    pub(super) fn is_registered(&self) -> bool {
        self.registered.load(Acquire)
    }

    /// Notes that the device does not accept the key any more. Any context.
    pub(super) fn end(&self) {
        self.ended.store(true, Release);
    }

    /// Describes a part of it for a work request. Any context. Fails with `EINVAL` for bytes beyond
    /// it.
    pub(super) fn to_device(&self, offset: usize, len: usize) -> Result<bindings::ib_sge> {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.len() {
            return Err(EINVAL);
        }
        // SAFETY: The region is live, and its keys do not change before it is dropped.
        let lkey = unsafe { (*self.as_ptr()).lkey };
        Ok(bindings::ib_sge {
            // OVERFLOW: Within the region, which ends below 2^63.
            addr: self.addr() + offset as u64,
            length: u32::try_from(len)?,
            lkey,
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A key that may be valid is ended by deregistering its region.
        if let Some(mr) = self.mr.take() {
            match self.is_registered() && !self.ended.load(Acquire) {
                false => mr.give_back(&self.mapping.pd),
                true => mr.discard(&self.mapping.pd),
            }
        }
    }
}
