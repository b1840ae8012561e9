// SPDX-License-Identifier: GPL-2.0

//! A spinlock for softirq and process context.

use crate::{
    bindings,
    prelude::*, //
};
use kernel::sync::lock::{
    Backend,
    Lock, //
};

/// Creates a [`SpinLockBh`] initialiser with a lock class of its own.
///
/// The class has the given name, or one made of the file and line.
macro_rules! new_spinlock_bh {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::net::spinlock_bh::SpinLockBh::new(
            $inner, ::kernel::optional_name!($($name)?), ::kernel::static_lock_class!())
    };
}
pub(crate) use new_spinlock_bh;

/// A spinlock that disables softirqs on the holder's CPU.
///
/// It may be taken in process and in softirq context, never in a hard interrupt nor with hard
/// interrupts disabled.
pub(crate) type SpinLockBh<T> = Lock<T, SpinLockBhBackend>;

/// A `spinlock_t` taken with `spin_lock_bh()`.
pub(crate) struct SpinLockBhBackend;

// SAFETY: `spinlock_t` gives mutual exclusion between CPUs, and with softirqs disabled also on
// the holder's own. `relock` is the default, which takes the lock as `lock` does.
unsafe impl Backend for SpinLockBhBackend {
    type State = bindings::spinlock_t;
    type GuardState = ();

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: By the contract `ptr` may be written, and `name` and `key` stay valid.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: By the contract the lock has been initialised.
        unsafe { bindings::sdp_helper_spin_lock_bh(ptr) }
    }

    unsafe fn unlock(ptr: *mut Self::State, _guard_state: &Self::GuardState) {
        // SAFETY: By the contract the lock is valid and the caller holds it.
        unsafe { bindings::sdp_helper_spin_unlock_bh(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: By the contract the lock has been initialised.
        unsafe { bindings::sdp_helper_spin_trylock_bh(ptr) }.then_some(())
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Elsewhere it would be a call of a function that does nothing, each time.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: By the contract the lock has been initialised.
            unsafe { bindings::spin_assert_is_held(ptr) }
        }
    }
}
