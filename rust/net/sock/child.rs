// SPDX-License-Identifier: GPL-2.0

//! The sock that accept returns, with what it inherits from its listener.

use crate::{
    bindings,
    net::{
        inet,
        ops::Protocol,
        sock::{
            Sock,
            STAMPS, //
        },
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::{
    ops::Deref,
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut, //
    },
};
use kernel::sync::aref::ARef;

/// A sock that no file has yet; dereferences to it.
///
/// # Invariants
///
/// It has no `struct socket`, and no other value may give it one.
pub(crate) struct Child<P: Protocol>(ARef<Sock<P>>);

impl<P: Protocol> Child<P> {
    /// Makes it the sock of `socket`, which takes the reference over. Sleeps.
    ///
    /// # Safety
    ///
    /// `socket` is a `struct socket` under construction without a sock.
    pub(in crate::net) unsafe fn graft(self, socket: *mut bindings::socket) {
        let guard = self.0.lock();
        // SAFETY: By the contract, and the type invariant; the sock is locked. `SS_CONNECTED` is
        // what an accepted socket is.
        unsafe {
            bindings::sdp_helper_sock_graft(self.0.as_ptr(), socket);
            Sock::<P>::mark(socket);
            (*socket).state = bindings::socket_state_SS_CONNECTED;
        }
        drop(guard);
        ARef::into_raw(self.0);
    }
}

impl<P: Protocol> Deref for Child<P> {
    type Target = Sock<P>;

    fn deref(&self) -> &Sock<P> {
        &self.0
    }
}

impl<P: Protocol> Sock<P> {
    /// Allocates a sock that no file has yet, with what an accepted socket inherits from `self`. It
    /// is charged to the cgroup of the current task, and has the security label of `self`.
    ///
    /// May sleep. Fails with `ENOMEM`.
    pub(crate) fn new_child(&self) -> Result<Child<P>> {
        let parent = self.as_ptr();
        let family = P::family(self.version());
        if !family.is_open() {
            return Err(EAFNOSUPPORT);
        }
        // SAFETY: `parent` is live, and so is its namespace; the family is open. The bit does not
        // change.
        let child = unsafe {
            let kern = c_int::from((*parent).sk_kern_sock());
            Self::alloc(self.net().as_ptr(), null_mut(), family, kern)
        }?;
        // SAFETY: Both socks are live. Nobody else knows the child; the fields read of the parent
        // are integers that setsockopt may change at any time, and either value serves. CAST: The
        // bit is one of the first.
        unsafe {
            let (from, to) = (parent, child.as_ptr());
            // The kernel crate has no fields of this type.
            bindings::security_sk_clone(from.cast(), to.cast());
            (*to).sk_type = bindings::sock_type_SOCK_STREAM as u16;
            (*to).sk_rcvbuf = addr_of!((*from).sk_rcvbuf).read_volatile();
            (*to).sk_sndbuf = addr_of!((*from).sk_sndbuf).read_volatile();
            (*to).sk_userlocks = addr_of!((*from).sk_userlocks).read_volatile()
                & (bindings::SOCK_SNDBUF_LOCK | bindings::SOCK_RCVBUF_LOCK) as u8;
            (*to).sk_rcvlowat = addr_of!((*from).sk_rcvlowat).read_volatile();
            (*to).sk_rcvtimeo = addr_of!((*from).sk_rcvtimeo).read_volatile();
            (*to).sk_sndtimeo = addr_of!((*from).sk_sndtimeo).read_volatile();
            (*to).sk_lingertime = addr_of!((*from).sk_lingertime).read_volatile();
            (*to).sk_mark = addr_of!((*from).sk_mark).read_volatile();
            (*to).sk_uid = (*from).sk_uid;
            let (from_common, to_common) = (
                addr_of!((*from).__sk_common),
                addr_of_mut!((*to).__sk_common),
            );
            (*to_common).skc_bound_dev_if =
                addr_of!((*from_common).skc_bound_dev_if).read_volatile();
            (*to_common).set_skc_ipv6only((*from_common).skc_ipv6only());
            (*to_common).set_skc_reuse((*from_common).skc_reuse());
            (*to_common).set_skc_reuseport((*from_common).skc_reuseport());
            (*to).sk_peek_off = addr_of!((*from).sk_peek_off).read_volatile();
            (*to).sk_max_pacing_rate = addr_of!((*from).sk_max_pacing_rate).read_volatile();
            (*to).sk_tsflags = addr_of!((*from).sk_tsflags).read_volatile();
            (*to).sk_clockid = (*from).sk_clockid;
            (*to).set_sk_no_check_tx((*from).sk_no_check_tx());
            bindings::sdp_helper_inherit_busy_poll(from, to);
            inherit_flags(from, to);
            inet::inherit(from.cast(), to.cast());
            if child.version() == IpVersion::V6 {
                inet::inherit6(self.pinet6(), child.pinet6());
            }
        }
        // INVARIANT: It was just allocated without one.
        Ok(Child(child))
    }
}

/// Gives an accepted socket the flags of its listener, as TCP's has them, but for those of the
/// listener's own life.
///
/// # Safety
///
/// Both are live, and nobody else knows `to`.
unsafe fn inherit_flags(from: *const bindings::sock, to: *mut bindings::sock) {
    const OWN: [u32; 9] = [
        bindings::sock_flags_SOCK_DEAD,
        bindings::sock_flags_SOCK_DONE,
        bindings::sock_flags_SOCK_DESTROY,
        bindings::sock_flags_SOCK_ZAPPED,
        bindings::sock_flags_SOCK_USE_WRITE_QUEUE,
        bindings::sock_flags_SOCK_MEMALLOC,
        bindings::sock_flags_SOCK_FASYNC,
        bindings::sock_flags_SOCK_RCU_FREE,
        bindings::sock_flags_SOCK_XDP,
    ];
    let own: c_ulong = OWN.iter().fold(0, |bits, flag| bits | 1 << flag);
    // SAFETY: By the contract.
    unsafe {
        let flags = (*from).__sk_common.__bindgen_anon_5.skc_flags & !own;
        (*to).__sk_common.__bindgen_anon_5.skc_flags |= flags;
        if flags & STAMPS != 0 {
            // The end of a socket with these flags takes it back.
            bindings::net_enable_timestamp();
        }
    }
}
