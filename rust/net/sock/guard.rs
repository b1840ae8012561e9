// SPDX-License-Identifier: GPL-2.0

//! The lock of a socket.

use crate::{
    bindings,
    net::{
        bpf::{
            Hook,
            StandIn, //
        },
        ops::Protocol,
        sock::Sock, //
    },
};
use core::{
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::addr_of, //
};
use kernel::types::NotThreadSafe;

/// The socket lock held; dereferences to the state that it guards. `F` says what is known of the
/// socket: nothing, or [`Open`](crate::net::wait::Open).
///
/// # Invariants
///
/// The current task holds `lock_sock()` of `sk`. What `F` says of `sk` holds for `'a`.
pub(crate) struct SockGuard<'a, P: Protocol, F = ()> {
    sk: &'a Sock<P>,
    _file: PhantomData<F>,
    _not_send: NotThreadSafe,
}

impl<'a, P: Protocol, F> SockGuard<'a, P, F> {
    /// Takes the lock. May sleep.
    ///
    /// # Safety
    ///
    /// What `F` says of the socket holds for `'a`.
    pub(in crate::net) unsafe fn new(sk: &'a Sock<P>) -> Self {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_lock_sock(sk.as_ptr()) };
        // INVARIANT: The lock was just taken; the rest by the contract.
        Self {
            sk,
            _file: PhantomData,
            _not_send: NotThreadSafe,
        }
    }
}

impl<P: Protocol, F> Deref for SockGuard<'_, P, F> {
    type Target = P::Locked;

    fn deref(&self) -> &P::Locked {
        // SAFETY: The lock is held by the type invariant, and `&self` excludes a `&mut` through it.
        unsafe { &*(*addr_of!((*self.sk.0.get()).locked)).get() }
    }
}

impl<P: Protocol, F> DerefMut for SockGuard<'_, P, F> {
    fn deref_mut(&mut self) -> &mut P::Locked {
        // SAFETY: The lock is held by the type invariant, and `&mut self` is exclusive.
        unsafe { &mut *(*addr_of!((*self.sk.0.get()).locked)).get() }
    }
}

impl<P: Protocol, F> Drop for SockGuard<'_, P, F> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type invariant.
        unsafe { bindings::release_sock(self.sk.as_ptr()) };
    }
}

impl<'a, P: Protocol, F> SockGuard<'a, P, F> {
    /// Sets `SO_ZEROCOPY`.
    pub(in crate::net) fn set_zerocopy(&mut self, on: bool) {
        self.set_flag(bindings::sock_flags_SOCK_ZEROCOPY, on);
    }

    /// Sets what getsockopt(2) of `SO_KEEPALIVE` shows.
    pub(crate) fn set_keepopen(&mut self, on: bool) {
        self.set_flag(bindings::sock_flags_SOCK_KEEPOPEN, on);
    }

    fn set_flag(&mut self, flag: bindings::sock_flags, on: bool) {
        // SAFETY: The sock is live, and locked, as whoever changes its flags has it.
        unsafe { bindings::sdp_helper_sock_valbool_flag(self.sk.as_ptr(), flag, on.into()) };
    }

    /// Sets `SO_REUSEPORT`.
    pub(in crate::net) fn set_reuseport(&mut self, on: bool) {
        // SAFETY: As in `set_zerocopy()`.
        unsafe {
            (*self.sk.as_ptr()).__sk_common.set_skc_reuseport(on.into());
        }
    }

    /// Sets `IPV6_V6ONLY`.
    pub(crate) fn set_v6only(&mut self, on: bool) {
        // SAFETY: The sock is live, and locked, as whoever changes its flags has it.
        unsafe {
            (*self.sk.as_ptr()).__sk_common.set_skc_ipv6only(on.into());
        }
    }

    /// The socket on which BPF programs are run, if it was needed yet.
    pub(in crate::net) fn stand_in(&mut self) -> &mut Option<StandIn> {
        // SAFETY: The lock is held by the type invariant, and `&mut self` is exclusive.
        unsafe { &mut *(*addr_of!((*self.sk.0.get()).stand_in)).get() }
    }

    /// Tells BPF programs that the file is closed, and frees what they run on. Sleeps.
    pub(in crate::net) fn filter_release(&mut self) {
        // SAFETY: The sock is live; the bit does not change.
        if unsafe { (*self.sk.as_ptr()).sk_kern_sock() } == 0 {
            // They cannot refuse it.
            let _ = self.filter(Hook::Release);
        }
        *self.stand_in() = None;
    }

    /// The socket itself.
    pub(crate) fn sock(&self) -> &'a Sock<P> {
        self.sk
    }

    /// Detaches the sock from its file: no callback reaches a waiter any more.
    pub(crate) fn orphan(&mut self) {
        // SAFETY: The sock is live and locked.
        unsafe { bindings::sdp_helper_sock_orphan(self.sk.as_ptr()) };
    }
}
