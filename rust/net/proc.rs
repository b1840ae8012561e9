// SPDX-License-Identifier: GPL-2.0

//! Files below `/proc/net` that show what each network namespace has.

use crate::{
    bindings,
    net::{
        namespace::Net,
        pernet::{
            self,
            PerNet,
            Slot, //
        },
    },
    prelude::*, //
};
use core::ptr::{
    addr_of_mut,
    drop_in_place, //
};
use kernel::{
    seq_file::SeqFile,
    str::CStr, //
};

/// What each namespace has, and shows in a file.
pub(crate) trait Show: Sized + Send + Sync + 'static {
    /// The name of the file.
    const NAME: &'static CStr;

    /// The static that tells where the namespaces have theirs.
    fn files() -> &'static Files<Self>;

    /// That of a new namespace.
    fn new() -> Self;

    /// Prints the file. May sleep.
    fn show(&self, to: &SeqFile);
}

/// The files of all namespaces, to be kept in a static.
pub(crate) struct Files<T: Show>(Slot<File<T>>);

impl<T: Show> Files<T> {
    /// Files to be registered.
    pub(crate) const fn new() -> Self {
        Self(Slot::new())
    }

    /// What `net` has. Any context.
    pub(crate) fn get<'a>(&self, net: &'a Net) -> &'a T {
        &self.0.get(net).value
    }
}

/// Files in every namespace, until dropped.
pub(crate) struct Registration<T: Show>(pernet::Registration<File<T>>);

impl<T: Show> Registration<T> {
    /// Makes the file in every namespace, now and to come. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(pernet::Registration::new()?))
    }
}

/// # Invariants
///
/// `net` is the live namespace that this is of, and has the file.
struct File<T: Show> {
    value: T,
    net: *mut bindings::net,
}

// SAFETY: A namespace may be used by any thread, and `value` too by the trait.
unsafe impl<T: Show> Send for File<T> {}
// SAFETY: As above.
unsafe impl<T: Show> Sync for File<T> {}

impl<T: Show> File<T> {
    /// # Safety
    ///
    /// The kernel calls it, with an open file that is of [`Self::init`].
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The file goes before the value of its namespace does.
        unsafe {
            let net = Net::from_ptr(bindings::sdp_helper_seq_file_single_net(seq));
            T::files().get(net).show(SeqFile::from_raw(seq));
        }
        0
    }
}

impl<T: Show> PerNet for File<T> {
    fn slot() -> &'static Slot<Self> {
        &T::files().0
    }

    unsafe fn init(this: *mut Self, net: *mut bindings::net) -> Result {
        let value = T::new();
        // SAFETY: By the contract; the file can be read as soon as it is there, so the value comes first.
        unsafe {
            this.write(Self { value, net });
            let made = bindings::sdp_helper_proc_create_net_single(
                T::NAME.as_char_ptr(),
                net,
                Some(Self::show),
            );
            if !made {
                drop_in_place(addr_of_mut!((*this).value));
                return Err(ENOMEM);
            }
        }
        // INVARIANT: The file was just made.
        Ok(())
    }
}

impl<T: Show> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; who reads the file now is waited for.
        unsafe { bindings::sdp_helper_remove_proc_entry(T::NAME.as_char_ptr(), self.net) };
    }
}
