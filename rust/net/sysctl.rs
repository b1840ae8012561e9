// SPDX-License-Identifier: GPL-2.0

//! Bounded integers below `/proc/sys/net`, one set for each network namespace.

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
use core::{
    marker::PhantomData,
    ptr::null_mut,
    sync::atomic::{
        AtomicI32,
        Ordering, //
    },
};
use kernel::str::CStr;

/// One integer: its file's name, the value of a new namespace, and what may be written.
pub(crate) struct Knob {
    /// The name of its file.
    pub(crate) name: &'static CStr,
    /// What a new namespace starts with.
    pub(crate) default: i32,
    /// The least value that a write may set.
    pub(crate) min: i32,
    /// The greatest value that a write may set.
    pub(crate) max: i32,
    /// Whether 0, below `min`, turns off what the knob is for.
    pub(crate) has_off: bool,
    /// Whether the host's namespace alone sets it; others show its value.
    pub(crate) of_host: bool,
}

impl Knob {
    fn allows(&self, value: i32) -> bool {
        (self.min..=self.max).contains(&value) || (self.has_off && value == 0)
    }
}

/// A directory of `N` knobs, to be kept in a static.
pub(crate) trait Directory<const N: usize>: Sized + 'static {
    /// Its path below `/proc/sys`.
    const PATH: &'static CStr;

    /// The static that keeps the knobs and what C needs of them.
    fn knobs() -> &'static Knobs<Self, N>;
}

/// The knobs of a [`Directory`].
pub(crate) struct Knobs<D: Directory<N>, const N: usize> {
    knobs: [Knob; N],
    /// The values of those that are the host's.
    host: [AtomicI32; N],
    slot: Slot<Values<D, N>>,
}

impl<D: Directory<N>, const N: usize> Knobs<D, N> {
    /// Knobs to be registered.
    pub(crate) const fn new(knobs: [Knob; N]) -> Self {
        Self {
            knobs,
            host: [const { AtomicI32::new(0) }; N],
            slot: Slot::new(),
        }
    }

    /// The value of the knob with index `at` in `net`, one that the knob allows. Any context.
    pub(crate) fn get(&self, net: &Net, at: usize) -> i32 {
        let is_host = self.knobs.get(at).is_some_and(|knob| knob.of_host);
        let values = match is_host {
            true => &self.host,
            false => &self.slot.get(net).values,
        };
        values.get(at).map_or(0, |v| v.load(Ordering::Relaxed))
    }

    /// Whether the knob with index `at` could be set to `value`.
    pub(crate) fn allows(&self, at: usize, value: i32) -> bool {
        self.knobs.get(at).is_some_and(|knob| knob.allows(value))
    }
}

/// What each namespace has.
///
/// # Invariants
///
/// `header` is the registration of `table`, whose entries point to a knob and its value.
struct Values<D, const N: usize> {
    header: *mut bindings::ctl_table_header,
    table: [bindings::ctl_table; N],
    values: [AtomicI32; N],
    _directory: PhantomData<fn() -> D>,
}

// SAFETY: The C structures are only used by registration, and the values are atomic.
unsafe impl<D, const N: usize> Send for Values<D, N> {}
// SAFETY: As above.
unsafe impl<D, const N: usize> Sync for Values<D, N> {}

impl<D: Directory<N>, const N: usize> PerNet for Values<D, N> {
    fn slot() -> &'static Slot<Self> {
        &D::knobs().slot
    }

    unsafe fn init(this: *mut Self, net: *mut bindings::net) -> Result {
        // SAFETY: By the contract the memory is ours alone and may be written.
        let values = unsafe {
            this.write(Self {
                header: null_mut(),
                table: [pin_init::zeroed(); N],
                values: [const { AtomicI32::new(0) }; N],
                _directory: PhantomData,
            });
            &mut *this
        };
        let own = values.values.iter().zip(&mut values.table);
        let knobs = D::knobs();
        for ((knob, host), (own, entry)) in knobs.knobs.iter().zip(&knobs.host).zip(own) {
            let is_host = net == &raw mut bindings::init_net;
            let is_shown = knob.of_host && !is_host;
            let value = if knob.of_host { host } else { own };
            if !is_shown {
                value.store(knob.default, Ordering::Relaxed);
            }
            *entry = bindings::ctl_table {
                procname: knob.name.as_char_ptr(),
                data: value.as_ptr().cast(),
                maxlen: size_of::<c_int>() as c_int,
                mode: if is_shown { 0o444 } else { 0o644 },
                proc_handler: Some(access),
                extra1: (&raw const *knob).cast_mut().cast(),
                ..pin_init::zeroed()
            };
        }
        // SAFETY: The table lives in the namespace until the value was dropped, which unregisters it.
        values.header = unsafe {
            bindings::register_net_sysctl_sz(
                net,
                D::PATH.as_char_ptr(),
                values.table.as_mut_ptr(),
                N,
            )
        };
        if values.header.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: It was just registered.
        Ok(())
    }
}

impl<D, const N: usize> Drop for Values<D, N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; who reads or writes a file now is waited for.
        unsafe { bindings::unregister_net_sysctl_table(self.header) };
    }
}

/// A read or a write of one file.
///
/// # Safety
///
/// The kernel calls it, with an entry of a registered [`Values`].
unsafe extern "C" fn access(
    entry: *const bindings::ctl_table,
    write: c_int,
    buffer: *mut c_void,
    len: *mut usize,
    at: *mut bindings::loff_t,
) -> c_int {
    // SAFETY: By the invariant of `Values` both live as long as the entry.
    let (knob, value) = unsafe {
        (
            &*(*entry).extra1.cast::<Knob>(),
            &*(*entry).data.cast::<AtomicI32>(),
        )
    };
    let mut int: c_int = value.load(Ordering::Relaxed);
    // SAFETY: The entry is a valid one for an `int` once `data` is; the rest is what the kernel gave.
    let result = unsafe {
        let copy = bindings::ctl_table {
            data: (&raw mut int).cast(),
            ..*entry
        };
        bindings::proc_dointvec(&raw const copy, write, buffer, len, at)
    };
    if write == 0 || result != 0 {
        return result;
    }
    if !knob.allows(int) {
        return EINVAL.to_errno();
    }
    value.store(int, Ordering::Relaxed);
    0
}

/// A registered directory; gone from every namespace when dropped.
pub(crate) struct Registration<D: Directory<N>, const N: usize>(pernet::Registration<Values<D, N>>);

impl<D: Directory<N>, const N: usize> Registration<D, N> {
    /// Makes the directory in every namespace, now and to come. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(pernet::Registration::new()?))
    }
}
