// SPDX-License-Identifier: GPL-2.0

//! Bounded integers below `/proc/sys/net`, one set for each network namespace.

use crate::{
    bindings,
    net::namespace::Net, //
};
use core::{
    marker::PhantomData,
    ptr::addr_of_mut,
    sync::atomic::{
        AtomicI32,
        AtomicU32,
        Ordering, //
    },
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    str::CStr,
    types::Opaque, //
};

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
}

/// A directory of `N` knobs, to be kept in a static.
pub(crate) trait Directory<const N: usize>: Sized + 'static {
    /// Its path below `/proc/sys`.
    const PATH: &'static CStr;

    /// The static that keeps the knobs and what C needs of them.
    fn knobs() -> &'static Knobs<Self, N>;
}

/// The knobs of a [`Directory`].
pub(crate) struct Knobs<D, const N: usize> {
    knobs: [Knob; N],
    ops: Opaque<bindings::pernet_operations>,
    /// Where a namespace keeps its [`Values`]; valid while registered.
    id: AtomicU32,
    _directory: PhantomData<fn() -> D>,
}

// SAFETY: The C structure is only changed by registration, which happens once.
unsafe impl<D, const N: usize> Sync for Knobs<D, N> {}

/// What each namespace has; allocated zeroed, and freed, with it.
#[repr(C)]
struct Values<const N: usize> {
    header: *mut bindings::ctl_table_header,
    table: [bindings::ctl_table; N],
    values: [AtomicI32; N],
}

impl<D: Directory<N>, const N: usize> Knobs<D, N> {
    /// Knobs to be registered.
    pub(crate) const fn new(knobs: [Knob; N]) -> Self {
        Self {
            knobs,
            ops: Opaque::new(pin_init::zeroed()),
            id: AtomicU32::new(0),
            _directory: PhantomData,
        }
    }

    /// The value of the knob with index `at` in `net`, within the knob's bounds.
    ///
    /// Any context. Valid only while registered, as it is while the module has sockets.
    pub(crate) fn get(&'static self, net: &Net, at: usize) -> i32 {
        // SAFETY: Registered, so that `id` names the `Values` of this live namespace.
        let values = unsafe { &*self.values(net.as_ptr()) };
        values
            .values
            .get(at)
            .map_or(0, |v| v.load(Ordering::Relaxed))
    }

    /// # Safety
    ///
    /// Registered; `net` is live, and not before its `init` began.
    unsafe fn values(&self, net: *mut bindings::net) -> *mut Values<N> {
        let id = self.id.load(Ordering::Relaxed);
        // SAFETY: By the contract.
        unsafe { bindings::sdp_helper_net_generic(net, id) }.cast()
    }

    /// # Safety
    ///
    /// The kernel calls it, while registered, for each namespace once.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        from_result(|| {
            let this = D::knobs();
            // SAFETY: Called during registration with a live namespace; nobody else knows the
            // zeroed memory yet. Zero is valid for all its fields.
            let values = unsafe { &mut *this.values(net) };
            for ((knob, value), entry) in
                this.knobs.iter().zip(&values.values).zip(&mut values.table)
            {
                value.store(knob.default, Ordering::Relaxed);
                *entry = bindings::ctl_table {
                    procname: knob.name.as_char_ptr(),
                    data: value.as_ptr().cast(),
                    maxlen: size_of::<c_int>() as c_int,
                    mode: 0o644,
                    proc_handler: Some(bindings::proc_dointvec_minmax),
                    extra1: (&raw const knob.min).cast_mut().cast(),
                    extra2: (&raw const knob.max).cast_mut().cast(),
                    ..pin_init::zeroed()
                };
            }
            // SAFETY: The table lives in the namespace until `exit` has unregistered it.
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
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// The kernel calls it for each namespace whose [`Self::init`] succeeded, once.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: `init` succeeded for this namespace, and its memory is freed after this.
        unsafe {
            let values = D::knobs().values(net);
            bindings::unregister_net_sysctl_table((*values).header);
        }
    }
}

/// A registered directory; gone from every namespace when dropped.
pub(crate) struct Registration<D: Directory<N>, const N: usize>(PhantomData<fn() -> D>);

impl<D: Directory<N>, const N: usize> Registration<D, N> {
    /// Makes the directory in every namespace, now and to come. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let this = D::knobs();
        let ops = this.ops.get();
        // SAFETY: The static is not registered yet, so nobody else looks at it.
        unsafe {
            addr_of_mut!((*ops).init).write(Some(Knobs::<D, N>::init));
            addr_of_mut!((*ops).exit).write(Some(Knobs::<D, N>::exit));
            addr_of_mut!((*ops).id)
                .cast::<*mut c_uint>()
                .write(this.id.as_ptr());
            addr_of_mut!((*ops).size).write(size_of::<Values<N>>());
            to_result(bindings::register_pernet_subsys(ops))?;
        }
        Ok(Self(PhantomData))
    }
}

impl<D: Directory<N>, const N: usize> Drop for Registration<D, N> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new()`; the family went first, so no socket can look any more.
        unsafe { bindings::unregister_pernet_subsys(D::knobs().ops.get()) };
    }
}
