// SPDX-License-Identifier: GPL-2.0

//! RDMA devices and the protection domain that all connections on one of them share.

use super::mr::FreeMrs;
use crate::{
    bindings,
    prelude::*, //
};
use core::{
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    c_str,
    error::from_err_ptr,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Acquire,
            AtomicFlag,
            Full,
            Release, //
        },
        global_lock, Refcount,
    },
};

/// The name under which `rdma resource` shows what is created here.
pub(super) const OWNER: &CStr = c_str!("sdp");

/// The registration of a device, which does not end before this is dropped.
///
/// # Invariants
///
/// `0` is a registered device, and this value owns one of its registration references.
struct Registration(NonNull<bindings::ib_device>);

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::ib_device_put(self.0.as_ptr()) };
    }
}

/// A protection domain.
///
/// # Invariants
///
/// `0` is a live protection domain that only this value deallocates.
struct Pd(NonNull<bindings::ib_pd>);

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is live, and it is not used any more.
        unsafe { bindings::sdp_helper_ib_dealloc_pd(self.0.as_ptr()) };
    }
}

/// An RDMA device in use.
///
/// It keeps the device registered, so whoever holds one delays the device's removal. The last
/// reference has to be dropped in process context, because that sleeps.
#[pin_data]
pub(crate) struct Device {
    users: Refcount,
    // Fields are dropped in this order: what is in the domain first, and the domain while the
    // device is still registered.
    #[pin]
    mrs: FreeMrs,
    pd: Pd,
    registration: Registration,
}

// SAFETY: The RDMA core synchronises devices and protection domains.
unsafe impl Send for Device {}
// SAFETY: As above; all fields but the counter, which is atomic, are immutable.
unsafe impl Sync for Device {}

/// A device in the list of those in use, which holds no reference.
struct Entry(NonNull<Device>);

// SAFETY: `Device` is `Send` and `Sync`.
unsafe impl Send for Entry {}

global_lock! {
    // SAFETY: `init` initialises it once, and `Device::get` does not lock it before.
    unsafe(uninit) static DEVICES: Mutex<KVec<Entry>> = KVec::new();
}

static INIT_BEGAN: AtomicFlag = AtomicFlag::new(false);
static INIT_ENDED: AtomicFlag = AtomicFlag::new(false);

/// Makes devices usable; to be called when the module is loaded.
pub(crate) fn init() {
    if !INIT_BEGAN.xchg(true, Full) {
        // SAFETY: The flag lets only one caller come here.
        unsafe { DEVICES.init() };
        INIT_ENDED.store(true, Release);
    }
}

impl Device {
    /// Gives the one `Device` of an `ib_device`, made at its first use. Sleeps.
    ///
    /// Fails with `ENODEV` when the device is going, `ENOMEM`, or the driver's error.
    ///
    /// # Safety
    ///
    /// `device` is valid for the time of the call.
    pub(super) unsafe fn get(device: NonNull<bindings::ib_device>) -> Result<ARef<Self>> {
        if !INIT_ENDED.load(Acquire) {
            return Err(ENODEV);
        }
        let mut devices = DEVICES.lock();
        for entry in devices.iter() {
            // SAFETY: A device leaves the list, under this lock, before it is freed, and its
            // count becomes zero under this lock only.
            let known = unsafe { entry.0.as_ref() };
            if known.registration.0 == device {
                return Ok(ARef::from(known));
            }
        }

        // SAFETY: By the contract `device` is valid.
        if !unsafe { bindings::sdp_helper_ib_device_try_get(device.as_ptr()) } {
            return Err(ENODEV);
        }
        // INVARIANT: The reference was just taken.
        let registration = Registration(device);
        // SAFETY: The device is registered; the name is static.
        let pd = from_err_ptr(unsafe {
            bindings::__ib_alloc_pd(device.as_ptr(), 0, OWNER.as_char_ptr())
        })?;
        // INVARIANT: It was just allocated.
        let pd = Pd(NonNull::new(pd).ok_or(ENOMEM)?);
        let new = KBox::pin_init(
            pin_init!(Self {
                users: Refcount::new(1),
                mrs <- FreeMrs::new(),
                pd,
                registration,
            }),
            GFP_KERNEL,
        )?;
        devices.push(Entry(NonNull::from(&*new)), GFP_KERNEL)?;
        // SAFETY: `new` is a valid box, which is not moved out of until it is freed; the reference
        // counted by `users` goes to the caller.
        Ok(unsafe {
            let new = KBox::into_raw(Pin::into_inner_unchecked(new));
            ARef::from_raw(NonNull::new_unchecked(new))
        })
    }

    /// The C device, registered as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::ib_device {
        self.registration.0.as_ptr()
    }

    /// The C protection domain, valid as long as `self`.
    pub(super) fn pd(&self) -> *mut bindings::ib_pd {
        self.pd.0.as_ptr()
    }

    /// The key with which the device reaches memory mapped for it.
    pub(super) fn lkey(&self) -> u32 {
        // SAFETY: The domain is valid, and its key is set when it is allocated.
        unsafe { (*self.pd()).local_dma_lkey }
    }

    fn attrs(&self) -> &bindings::ib_device_attr {
        // SAFETY: The device is registered, and its attributes do not change while it is.
        unsafe { &(*self.as_ptr()).attrs }
    }

    /// Memory regions that nobody uses.
    pub(super) fn mrs(&self) -> &FreeMrs {
        &self.mrs
    }

    /// The most pages that one registered region of memory may have, 0 if there are none.
    pub(crate) fn max_mr_pages(&self) -> usize {
        let attrs = self.attrs();
        // CAST: `usize` has at most 64 bits.
        let fast = bindings::ib_device_cap_flags_IB_DEVICE_MEM_MGT_EXTENSIONS;
        if attrs.device_cap_flags & fast as u64 == 0 {
            return 0;
        }
        // CAST: `usize` has at least 32 bits.
        (attrs.max_fast_reg_page_list_len as usize).min(super::mr::MAX_PAGES)
    }

    /// Whether its connections are iWARP's, over TCP, where an RDMA Read stores through a key that the
    /// peer learns.
    pub(crate) fn is_iwarp(&self) -> bool {
        // SAFETY: The device is registered.
        unsafe { bindings::sdp_helper_rdma_cap_iw_cm(self.as_ptr()) }
    }

    /// The most work requests that one queue of a QP may hold.
    pub(crate) fn max_qp_wr(&self) -> u32 {
        limit(self.attrs().max_qp_wr)
    }

    /// The most pieces of memory that a send may gather.
    pub(crate) fn max_send_sge(&self) -> u32 {
        limit(self.attrs().max_send_sge)
    }

    /// The most completions that one completion queue may hold.
    pub(crate) fn max_cqe(&self) -> u32 {
        limit(self.attrs().max_cqe)
    }

    /// How many RDMA Reads of the peer a QP of this device can answer at a time.
    pub(crate) fn max_qp_rd_atom(&self) -> u8 {
        self.attrs().max_qp_rd_atom.try_into().unwrap_or(u8::MAX)
    }

    /// How many RDMA Reads a QP of this device can have in flight.
    pub(crate) fn max_qp_init_rd_atom(&self) -> u8 {
        let max = self.attrs().max_qp_init_rd_atom;
        max.try_into().unwrap_or(u8::MAX)
    }
}

/// A limit as drivers fill it in: an `int` or a `u32`, by the version of the kernel.
fn limit(value: impl TryInto<u32>) -> u32 {
    value.try_into().unwrap_or(0)
}

// SAFETY: Devices live in boxes that go when `users`, which counts the references, becomes zero.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        self.users.inc();
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller's reference keeps it alive until the count is decremented below.
        let users = unsafe { &(*obj.as_ptr()).users };
        // The count becomes zero under the list's lock only, so that `get` finds no dying device.
        //
        // SAFETY: `Refcount` is a `refcount_t`.
        if unsafe { bindings::refcount_dec_not_one(users.as_atomic().as_ptr().cast()) } {
            return;
        }
        let mut devices = DEVICES.lock();
        if !users.dec_and_test() {
            return;
        }
        devices.retain(|entry| entry.0 != obj);
        if devices.is_empty() {
            // The static list is never dropped, and must leave nothing behind with the module.
            *devices = KVec::new();
        }
        drop(devices);
        // SAFETY: It came from a box in `get`; the last reference was just dropped, and the list
        // has forgotten it.
        drop(unsafe { KBox::from_raw(obj.as_ptr()) });
    }
}
