// SPDX-License-Identifier: GPL-2.0

//! RDMA devices.

use crate::{
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;
use kernel::c_str;

/// The name under which `rdma resource` shows what is created here.
pub(super) const OWNER: &CStr = c_str!("sdp");

/// An RDMA device in use.
///
/// It keeps the device registered, so whoever holds one delays the device's removal. Its limits may
/// be read in any context.
///
/// # Invariants
///
/// `0` is a registered device, and this value owns one of its registration references.
pub(crate) struct Device(NonNull<bindings::ib_device>);

// SAFETY: The RDMA core synchronises devices.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::ib_device_put(self.0.as_ptr()) };
    }
}

impl Device {
    /// Takes a reference of an `ib_device`. Any context. Fails with `ENODEV` if it is being
    /// removed.
    ///
    /// # Safety
    ///
    /// `device` is valid for the time of the call.
    pub(super) unsafe fn get(device: NonNull<bindings::ib_device>) -> Result<Self> {
        // SAFETY: By the contract.
        if !unsafe { bindings::sdp_helper_ib_device_try_get(device.as_ptr()) } {
            return Err(ENODEV);
        }
        // INVARIANT: The reference was just taken.
        Ok(Self(device))
    }

    /// The C device, registered as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::ib_device {
        self.0.as_ptr()
    }

    /// The index of the device, a small unique number.
    pub(super) fn index(&self) -> u32 {
        // SAFETY: The device is registered, and its number does not change while it is.
        unsafe { (*self.as_ptr()).index }
    }

    /// The most protection domains that the device supports.
    pub(super) fn max_pd(&self) -> u32 {
        limit(self.attrs().max_pd)
    }

    fn attrs(&self) -> &bindings::ib_device_attr {
        // SAFETY: The device is registered, and its attributes do not change while it is.
        unsafe { &(*self.as_ptr()).attrs }
    }

    /// The most pages of one memory region; 0 if the device does not support fast registration.
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

    /// Whether it speaks iWARP, over TCP, where an RDMA Read stores through a key that the peer
    /// learns.
    pub(crate) fn is_iwarp(&self) -> bool {
        // SAFETY: The device is registered.
        unsafe { bindings::sdp_helper_rdma_cap_iw_cm(self.as_ptr()) }
    }

    /// Whether a registration must have no request before it that may be sent again: rxe executes
    /// whatever is behind that again too, and fails the QP for a region that is valid already.
    /// Any context.
    pub(crate) fn repeats_registrations(&self) -> bool {
        // SAFETY: The device is registered.
        let driver = unsafe { (*self.as_ptr()).ops.driver_id };
        driver == bindings::rdma_driver_id_RDMA_DRIVER_RXE
    }

    /// The most work requests that one queue of a QP may hold.
    pub(crate) fn max_qp_wr(&self) -> u32 {
        limit(self.attrs().max_qp_wr)
    }

    /// The most pieces of memory that a send may gather.
    pub(crate) fn max_send_sge(&self) -> u32 {
        limit(self.attrs().max_send_sge)
    }

    /// The most pieces of memory that a receive may scatter to.
    pub(crate) fn max_recv_sge(&self) -> u32 {
        limit(self.attrs().max_recv_sge)
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
