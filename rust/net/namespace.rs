// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.

use crate::bindings;
use kernel::types::Opaque;

/// A borrowed `struct net`.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: A namespace is shared by all threads; C synchronises what is reached through it.
unsafe impl Send for Net {}
// SAFETY: As above.
unsafe impl Sync for Net {}

impl Net {
    /// Borrows a C namespace.
    ///
    /// # Safety
    ///
    /// `net` is live for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(net: *mut bindings::net) -> &'a Self {
        // SAFETY: By the contract; the wrapper is transparent.
        unsafe { &*net.cast() }
    }

    /// The C namespace, valid as long as `self`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}
