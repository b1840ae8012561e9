// SPDX-License-Identifier: GPL-2.0

//! Completion queues from the pools of a device.

use super::device::Device;
use crate::{
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// The completion vector of the next queue, for devices by their index modulo the length.
static VECTORS: [Atomic<i32>; 16] = [const { Atomic::new(0) }; 16];

/// The next completion vector of `device`, round robin.
///
/// The pool has one round robin for all devices. If both ends of all connections are on this
/// machine, two devices take turns there, and each gets only every other vector; and the pool
/// allocates queues for the others in vain.
fn next_vector(device: &Device) -> c_int {
    // CAST: `usize` has at least 32 bits.
    let at = device.index() as usize % VECTORS.len();
    let next = VECTORS
        .get(at)
        .map_or(0, |vector| vector.fetch_add(1, Relaxed));
    next & c_int::MAX
}

/// A share of a completion queue that the device polls in softirq.
///
/// It must be dropped while an rdma_cm identifier is still bound to the device, since the removal
/// of a device frees its pools once the last of these is destroyed.
///
/// # Invariants
///
/// `cq` came from `ib_cq_pool_get()` for `entries` entries, which nobody else gives back.
pub(super) struct Cq {
    cq: NonNull<bindings::ib_cq>,
    entries: u32,
}

// SAFETY: A CQ is synchronised by its device and may be given back from any thread.
unsafe impl Send for Cq {}
// SAFETY: As above.
unsafe impl Sync for Cq {}

impl Cq {
    /// Takes room for `entries` completions. Sleeps.
    ///
    /// Fails with `EINVAL` for more than the device can do, and with the driver's error.
    pub(super) fn get(device: &Device, entries: u32) -> Result<Self> {
        // The pool would loop forever.
        if entries == 0 || entries > device.max_cqe() {
            return Err(EINVAL);
        }
        // SAFETY: The device is registered as long as `device` lives.
        let cq = from_err_ptr(unsafe {
            bindings::ib_cq_pool_get(
                device.as_ptr(),
                entries,
                next_vector(device),
                bindings::ib_poll_context_IB_POLL_SOFTIRQ,
            )
        })?;
        // INVARIANT: The pool just set these entries aside for this value.
        Ok(Self {
            cq: NonNull::new(cq).ok_or(ENOMEM)?,
            entries,
        })
    }

    /// The C queue, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::ib_cq {
        self.cq.as_ptr()
    }
}

impl Drop for Cq {
    fn drop(&mut self) {
        // SAFETY: By the type invariants these entries are ours to give back.
        unsafe { bindings::ib_cq_pool_put(self.cq.as_ptr(), self.entries) };
    }
}
