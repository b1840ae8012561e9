// SPDX-License-Identifier: GPL-2.0

//! Protection domains, one for each connection, so that the peer of another cannot use its keys.

use super::{
    device::{
        Device,
        OWNER, //
    },
    mr::FreeMrs, //
};
use crate::{
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    sync::{
        atomic::{
            Acquire,
            AtomicFlag,
            Full,
            Release, //
        },
        global_lock,
        Arc, //
    },
};

/// On devices with fewer domains than this all connections share one.
const ENOUGH_DOMAINS: u32 = 16 << 10;

/// A protection domain of a connection, on its device.
///
/// It keeps the device registered. The last reference has to be dropped in process context, without
/// spinlocks, since that sleeps.
#[pin_data]
pub(crate) struct Pd {
    // Fields are dropped in this order: first what is in the domain, then the domain, while the
    // device is still registered.
    #[pin]
    mrs: FreeMrs,
    raw: RawPd,
    device: Device,
    has_qp: AtomicFlag,
}

impl Pd {
    /// A domain on `device`. Sleeps. Fails with `ENOMEM`, and with the driver's error.
    pub(crate) fn new(device: Device) -> Result<Arc<Self>> {
        let raw = if device.max_pd() < ENOUGH_DOMAINS {
            RawPd::shared(&device)?
        } else {
            RawPd::own(&device)?
        };
        Arc::pin_init(
            pin_init!(Self {
                mrs <- FreeMrs::new(),
                raw,
                device,
                has_qp: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// The device. Any context.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Takes it for a QP. It has one in all, on which a key ends after it was registered. Any
    /// context. Fails with `EINVAL` where that was done before.
    pub(super) fn take_for_qp(&self) -> Result {
        match self.has_qp.xchg(true, Full) {
            false => Ok(()),
            true => Err(EINVAL),
        }
    }

    /// The C protection domain, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::ib_pd {
        self.raw.pd.as_ptr()
    }

    /// The key with which the device accesses DMA-mapped memory.
    pub(super) fn lkey(&self) -> u32 {
        // SAFETY: The domain is valid, and its key is set when it is allocated.
        unsafe { (*self.as_ptr()).local_dma_lkey }
    }

    /// How many memory regions the domain has once another is in use, those in use included.
    /// Sleeps.
    pub(crate) fn regions_with_another(&self) -> usize {
        self.mrs.with_another()
    }

    /// Whether there are regions that are not in use. Sleeps.
    pub(crate) fn has_free_regions(&self) -> bool {
        self.mrs.has_free()
    }

    /// Frees the regions that are not in use. Returns how many are left. Sleeps.
    pub(crate) fn free_regions(&self) -> usize {
        self.mrs.free_all()
    }

    /// The memory regions of the domain that are not in use.
    pub(super) fn mrs(&self) -> &FreeMrs {
        &self.mrs
    }
}

/// A live `struct ib_pd`.
///
/// # Invariants
///
/// `pd` is live. Where it is not `shared` only this value deallocates it; otherwise it is in
/// [`SHARED_PDS`], with this value as one of its users.
struct RawPd {
    pd: NonNull<bindings::ib_pd>,
    shared: bool,
}

// SAFETY: The RDMA core lets any thread use and deallocate a domain.
unsafe impl Send for RawPd {}
// SAFETY: As above.
unsafe impl Sync for RawPd {}

impl RawPd {
    fn own(device: &Device) -> Result<Self> {
        // INVARIANT: It was just allocated.
        Ok(Self {
            pd: alloc(device)?,
            shared: false,
        })
    }

    fn shared(device: &Device) -> Result<Self> {
        if !INIT_ENDED.load(Acquire) {
            return Err(ENODEV);
        }
        let mut list = SHARED_PDS.lock();
        let known = list.iter_mut().find(|entry| {
            // SAFETY: A domain in the list is live.
            unsafe { (*entry.pd.as_ptr()).device == device.as_ptr() }
        });
        let pd = match known {
            Some(entry) => {
                entry.users = entry.users.checked_add(1).ok_or(ENOMEM)?;
                entry.pd
            }
            None => {
                list.reserve(1, GFP_KERNEL)?;
                let pd = alloc(device)?;
                // There is room for it.
                let _ = list.push_within_capacity(SharedPd { pd, users: 1 });
                pd
            }
        };
        // INVARIANT: It was just counted.
        Ok(Self { pd, shared: true })
    }
}

impl Drop for RawPd {
    fn drop(&mut self) {
        if self.shared {
            let mut list = SHARED_PDS.lock();
            if let Some(entry) = list.iter_mut().find(|entry| entry.pd == self.pd) {
                // OVERFLOW: By the type invariants this value is among them.
                entry.users -= 1;
                if entry.users > 0 {
                    return;
                }
            }
            list.retain(|entry| entry.pd != self.pd);
            if list.is_empty() {
                // The static list is never dropped, and must leave nothing behind with the module.
                *list = KVec::new();
            }
        }
        // SAFETY: By the type invariants it is live, and nobody uses it any more.
        unsafe { bindings::sdp_helper_ib_dealloc_pd(self.pd.as_ptr()) };
    }
}

fn alloc(device: &Device) -> Result<NonNull<bindings::ib_pd>> {
    // SAFETY: The device is registered; the name is static.
    let pd = unsafe { bindings::__ib_alloc_pd(device.as_ptr(), 0, OWNER.as_char_ptr()) };
    NonNull::new(from_err_ptr(pd)?).ok_or(ENOMEM)
}

/// A domain that several connections share.
struct SharedPd {
    pd: NonNull<bindings::ib_pd>,
    users: usize,
}

// SAFETY: As for `RawPd`.
unsafe impl Send for SharedPd {}

global_lock! {
    // SAFETY: `init` initialises it once, and `RawPd::shared` does not lock it before.
    unsafe(uninit) static SHARED_PDS: Mutex<KVec<SharedPd>> = KVec::new();
}

static INIT_BEGAN: AtomicFlag = AtomicFlag::new(false);
static INIT_ENDED: AtomicFlag = AtomicFlag::new(false);

/// Initialises this file; to be called when the module is loaded. May sleep.
pub(crate) fn init() {
    if !INIT_BEGAN.xchg(true, Full) {
        // SAFETY: The flag lets only one caller come here.
        unsafe { SHARED_PDS.init() };
        INIT_ENDED.store(true, Release);
    }
}
