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

/// I/O virtual addresses, with room for a region behind the last, are below 2^63 for all drivers.
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

/// The regions of a domain that are not in use: as many as its connection ever used at a time.
/// `made` counts those in use too.
#[pin_data]
pub(super) struct FreeMrs {
    #[pin]
    free: Mutex<KVec<Mr>>,
    made: AtomicUsize,
}

impl FreeMrs {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            free <- new_mutex!(KVec::new(), "sdp::FreeMrs::free"),
            made: AtomicUsize::new(0),
        })
    }
}

impl FreeMrs {
    /// Regions that there are, those in use too.
    pub(super) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

impl Mr {
    /// A region of `pd`. Sleeps. Fails with the driver's error.
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

    /// Gives it back, no longer valid on the device. Sleeps.
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

    /// Ends it, and with it a key that may be valid. Sleeps.
    fn discard(self, pd: &Pd) {
        drop(self);
        pd.mrs().made.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The DMA mapping of pages.
///
/// # Invariants
///
/// `table` is mapped for the device of `pd`, in this direction; only this value unmaps and frees it.
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

/// Who reaches a [`Memory`], beside its own device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The peer, to read it.
    RemoteRead,
    /// The peer, to write to it.
    RemoteWrite,
    /// Nobody: RDMA Reads of our own store there.
    ReadSink,
}

/// Somebody else's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Where it starts, as its owner says.
    pub(crate) addr: u64,
    /// Its key.
    pub(crate) key: u32,
}

/// A caller's bytes with a key.
///
/// The key is valid from when [`Qp::post_register`](super::qp::Qp::post_register) was executed until
/// [`Qp::post_invalidate`](super::qp::Qp::post_invalidate) was. The last reference has to be dropped
/// in process context, after every work request that names the memory has completed: that sleeps,
/// and lets the pages go. If the key is valid by then, it ends that too.
pub(crate) struct Memory {
    mr: Option<Mr>,
    // Fields are dropped in this order: the device must not reach pages that are let go.
    mapping: Mapping,
    pages: Pages,
    access: Access,
    /// Whether the device may take the key.
    valid: AtomicFlag,
}

impl Memory {
    /// Maps `pages` for the device of `pd`, with a key of their own, at an I/O virtual address that no
    /// peer can guess. Sleeps.
    ///
    /// Fails with `EINVAL` for more pages than [`Device::max_mr_pages`], or pages that are not held for
    /// what `access` does with them; with `ENOMEM`, and with the driver's error.
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
            // The key alone has 8 bits that change: who guesses has to hit 50 bits more. The offset in
            // the page is the mapping's, which is another than the memory's where that is bounced.
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
                valid: AtomicFlag::new(false),
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

    /// What the peer is told of it.
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

    /// The key, for the peer and for the device alike.
    pub(super) fn key(&self) -> u32 {
        // SAFETY: The region is live, and its keys do not change before it is dropped.
        unsafe { (*self.as_ptr()).rkey }
    }

    fn addr(&self) -> u64 {
        // SAFETY: As above.
        unsafe { (*self.as_ptr()).iova }
    }

    /// Who may reach it, as C has it.
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

    /// Notes whether the device may take the key.
    pub(super) fn set_valid(&self, valid: bool) {
        self.valid.store(valid, Release);
    }

    /// Describes a part of it for a work request. Fails with `EINVAL` for what is not in it.
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
        // A key that may be valid ends with its region.
        if let Some(mr) = self.mr.take() {
            match self.valid.load(Acquire) {
                false => mr.give_back(&self.mapping.pd),
                true => mr.discard(&self.mapping.pd),
            }
        }
    }
}
