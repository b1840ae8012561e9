// SPDX-License-Identifier: GPL-2.0

//! Files below `/proc/net`.

use crate::{
    bindings,
    net::namespace::Net,
    prelude::*, //
};
use kernel::str::CStr;

/// A file of a namespace, until dropped.
///
/// # Invariants
///
/// `net` is live, and has the file.
pub(super) struct File {
    name: &'static CStr,
    net: *mut bindings::net,
}

// SAFETY: A namespace may be used by any thread.
unsafe impl Send for File {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for File {}

impl File {
    /// A file that `show` prints, which is called with it and finds `value` by [`value`]. May
    /// sleep. Fails with `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Until this was dropped `net` is live, and `value` is as `show` needs it.
    pub(super) unsafe fn whole(
        net: &Net,
        name: &'static CStr,
        value: *const c_void,
        show: unsafe extern "C" fn(*mut bindings::seq_file, *mut c_void) -> c_int,
    ) -> Result<Self> {
        let net = net.as_ptr();
        // SAFETY: By the contract, as what the file calls is said to be.
        let made = unsafe {
            bindings::sdp_helper_proc_create_net_single(
                name.as_char_ptr(),
                net,
                Some(show),
                value.cast_mut(),
            )
        };
        // INVARIANT: The file was just made.
        made.then_some(Self { name, net }).ok_or(ENOMEM)
    }

    /// A file whose lines `ops` look for, otherwise as [`Self::whole`].
    ///
    /// # Safety
    ///
    /// As for [`Self::whole`].
    pub(super) unsafe fn lines(
        net: &Net,
        name: &'static CStr,
        value: *const c_void,
        ops: &'static bindings::seq_operations,
    ) -> Result<Self> {
        let net = net.as_ptr();
        // SAFETY: As above.
        let made = unsafe {
            bindings::sdp_helper_proc_create_net(name.as_char_ptr(), net, ops, value.cast_mut())
        };
        // INVARIANT: The file was just made.
        made.then_some(Self { name, net }).ok_or(ENOMEM)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; who reads the file now is waited for.
        unsafe { bindings::sdp_helper_remove_proc_entry(self.name.as_char_ptr(), self.net) };
    }
}

/// What an open file shows.
///
/// # Safety
///
/// The file calls with `seq`. It is a [`File`], and was made with a `T`.
pub(super) unsafe fn value<'a, T>(seq: *mut bindings::seq_file) -> &'a T {
    // SAFETY: By the contracts of this and of who made the file.
    unsafe { &*bindings::sdp_helper_seq_value(seq).cast() }
}
