// SPDX-License-Identifier: GPL-2.0

//! Memory of our own in each network namespace.

use crate::{
    bindings,
    net::namespace::Net,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    pin::Pin,
    ptr::{
        addr_of_mut,
        drop_in_place, //
    },
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    types::Opaque, //
};

/// What each namespace has one of, by a [`Registration`] that the module has for as long as it can
/// have sockets.
pub(super) trait PerNet: Sized + Send + Sync + 'static {
    /// The static that tells where.
    fn slot() -> &'static Slot<Self>;

    /// Initialises the value of a namespace. May sleep.
    ///
    /// # Safety
    ///
    /// `this` is memory for the value, which stays there until it was dropped, unless this fails; until
    /// then `net` is live. Nobody else knows of the memory, except through what this call makes.
    unsafe fn init(this: *mut Self, net: *mut bindings::net) -> Result;
}

/// Where the values of all namespaces are found, to be kept in a static.
pub(super) struct Slot<T: PerNet> {
    ops: Opaque<bindings::pernet_operations>,
    /// Valid while registered.
    id: AtomicU32,
    _value: PhantomData<fn() -> T>,
}

// SAFETY: The C structure is only changed by registration, which happens once.
unsafe impl<T: PerNet> Sync for Slot<T> {}

impl<T: PerNet> Slot<T> {
    /// A slot to be registered.
    pub(super) const fn new() -> Self {
        Self {
            ops: Opaque::new(pin_init::zeroed()),
            id: AtomicU32::new(0),
            _value: PhantomData,
        }
    }

    /// The value of `net`. Any context.
    pub(super) fn get<'a>(&self, net: &'a Net) -> &'a T {
        // SAFETY: By the invariant of `Net` the namespace has an initialised value.
        unsafe { &*self.place(net.as_ptr()) }
    }

    /// # Safety
    ///
    /// Registered; `net` is live, and not before its `init` began.
    unsafe fn place(&self, net: *mut bindings::net) -> *mut T {
        let id = self.id.load(Ordering::Relaxed);
        // SAFETY: By the contract.
        unsafe { bindings::sdp_helper_net_generic(net, id) }.cast()
    }

    /// # Safety
    ///
    /// The kernel calls it, while registered, for each namespace once.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        from_result(|| {
            // SAFETY: Called during registration with a live namespace, whose memory for the value is
            // freed after `exit`, or after this failed.
            unsafe { T::init(T::slot().place(net), net) }?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// The kernel calls it for each namespace whose [`Self::init`] succeeded, once.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: `init` succeeded for this namespace, and its memory is freed after this.
        unsafe { drop_in_place(T::slot().place(net)) };
    }
}

/// What each namespace has one of, which needs nothing of the namespace to be made.
pub(crate) trait PerNetValue: Sized + Send + Sync + 'static {
    /// The static that tells where the namespaces have theirs.
    fn values() -> &'static Values<Self>;

    /// That of a new namespace. May sleep.
    fn new() -> Result<Pin<KBox<Self>>>;
}

/// Those of all namespaces, to be kept in a static.
pub(crate) struct Values<T: PerNetValue>(Slot<Value<T>>);

impl<T: PerNetValue> Values<T> {
    /// Values to be registered.
    pub(crate) const fn new() -> Self {
        Self(Slot::new())
    }

    /// That of `net`. Any context.
    pub(crate) fn get<'a>(&self, net: &'a Net) -> &'a T {
        &self.0.get(net).0
    }
}

/// Values in every namespace, until dropped.
pub(crate) struct ValueRegistration<T: PerNetValue>(Registration<Value<T>>);

impl<T: PerNetValue> ValueRegistration<T> {
    /// Makes one in every namespace, now and to come. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Registration::new()?))
    }
}

struct Value<T>(Pin<KBox<T>>);

impl<T: PerNetValue> PerNet for Value<T> {
    fn slot() -> &'static Slot<Self> {
        &T::values().0
    }

    unsafe fn init(this: *mut Self, _net: *mut bindings::net) -> Result {
        let value = T::new()?;
        // SAFETY: By the contract the memory is there, and ours alone.
        unsafe { this.write(Self(value)) };
        Ok(())
    }
}

/// Values in every namespace, now and to come; dropped with it.
pub(super) struct Registration<T: PerNet>(PhantomData<fn() -> T>);

impl<T: PerNet> Registration<T> {
    /// Makes a value for every namespace. May sleep. Once at a time.
    pub(super) fn new() -> Result<Self> {
        let slot = T::slot();
        let ops = slot.ops.get();
        // SAFETY: The static is not registered yet, so nobody else looks at it.
        unsafe {
            addr_of_mut!((*ops).init).write(Some(Slot::<T>::init));
            addr_of_mut!((*ops).exit).write(Some(Slot::<T>::exit));
            addr_of_mut!((*ops).id)
                .cast::<*mut c_uint>()
                .write(slot.id.as_ptr());
            addr_of_mut!((*ops).size).write(size_of::<T>());
            to_result(bindings::register_pernet_subsys(ops))?;
        }
        Ok(Self(PhantomData))
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new()`; the family went first, so no socket can look any more.
        unsafe { bindings::unregister_pernet_subsys(T::slot().ops.get()) };
    }
}
