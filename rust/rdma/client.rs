// SPDX-License-Identifier: GPL-2.0

//! Counts the iWARP devices of the host, for which a listener is charged.

use crate::{
    bindings,
    prelude::*, //
};
use core::{
    ffi::c_void,
    sync::atomic::{
        AtomicUsize,
        Ordering::Relaxed, //
    },
};
use kernel::error::to_result;

/// How many iWARP devices there are.
static IWARP: AtomicUsize = AtomicUsize::new(0);

/// How many iWARP devices there are, in all namespaces. Any context.
pub(crate) fn iwarp_devices() -> usize {
    IWARP.load(Relaxed)
}

/// The client of ib_core that counts devices, until dropped.
///
/// # Invariants
///
/// The client is registered.
pub(crate) struct Registration(KBox<bindings::ib_client>);

// SAFETY: It is only unregistered, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Counts the present devices, and those that are added and removed from now on. Sleeps. Fails
    /// with `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: A client of zeros, without functions, is a valid one.
        let client: bindings::ib_client = unsafe { core::mem::zeroed() };
        let mut client = KBox::new(client, GFP_KERNEL)?;
        client.name = c"sdp".as_char_ptr();
        client.add = Some(add);
        client.remove = Some(remove);
        // SAFETY: The client lives, where it is, until it is unregistered.
        to_result(unsafe { bindings::ib_register_client(&raw mut *client) })?;
        // INVARIANT: It was just registered.
        Ok(Self(client))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. This waits for the functions below.
        unsafe { bindings::ib_unregister_client(&raw mut *self.0) };
    }
}

/// # Safety
///
/// ib_core calls it, with a device that is registered. It sleeps.
unsafe extern "C" fn add(device: *mut bindings::ib_device) -> c_int {
    // SAFETY: By the contract.
    if unsafe { bindings::sdp_helper_rdma_cap_iw_cm(device) } {
        IWARP.fetch_add(1, Relaxed);
        0
    } else {
        // Its removal is not reported then.
        EOPNOTSUPP.to_errno()
    }
}

/// # Safety
///
/// ib_core calls it, for a device for which [`add`] returned 0. It sleeps.
unsafe extern "C" fn remove(_device: *mut bindings::ib_device, _data: *mut c_void) {
    IWARP.fetch_sub(1, Relaxed);
}
