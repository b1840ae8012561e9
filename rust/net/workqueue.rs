// SPDX-License-Identifier: GPL-2.0

//! A workqueue of the module's own, which its removal can wait for.

use crate::{
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;
use kernel::str::CStr;

/// An unbound workqueue, drained and destroyed when dropped.
///
/// # Invariants
///
/// `0` is a live workqueue that only this value destroys.
pub(crate) struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be used from and destroyed on any thread.
unsafe impl Send for Workqueue {}
// SAFETY: Queueing is synchronised by the workqueue itself.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Allocates a workqueue; `name` shows in `ps`. May sleep; fails with `ENOMEM`.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: `name` is a valid string for the time of the call.
        let wq = unsafe { bindings::sdp_helper_alloc_workqueue(name.as_char_ptr()) };
        // INVARIANT: It was just allocated, and nobody else has it.
        Ok(Self(NonNull::new(wq).ok_or(ENOMEM)?))
    }

    /// The C workqueue, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::workqueue_struct {
        self.0.as_ptr()
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is live and ours; this waits for all queued work.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
