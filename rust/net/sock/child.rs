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

/// The options of a socket, as they were when a peer asked for a connection: what is accepted has
/// them.
pub(crate) struct Inherited {
    rcvbuf: c_int,
    sndbuf: c_int,
    locks: u8,
    rcvlowat: c_int,
    timeouts: [c_long; 2],
    lingertime: c_ulong,
    mark: u32,
    uid: bindings::kuid_t,
    interface: c_int,
    is_v6only: bool,
    reuse: c_uchar,
    reuseport: bool,
    peek_off: c_int,
    max_pacing_rate: c_ulong,
    tsflags: u32,
    clockid: u8,
    no_check_tx: bool,
    busy_poll: bindings::sdp_busy_poll,
    flags: c_ulong,
    inet: inet::Inherited,
    inet6: Option<inet::Inherited6>,
}

impl<P: Protocol> Sock<P> {
    /// What a connection that a peer asks for now is to have of its options. Any context.
    pub(crate) fn inherited(&self) -> Inherited {
        let sk = self.as_ptr();
        // SAFETY: The sock is live, begins with an `inet_sock`, and has what is IPv6's if it is of
        // that. The fields are integers that setsockopt may change at any time, and either value
        // serves.
        unsafe {
            let common = addr_of!((*sk).__sk_common);
            Inherited {
                rcvbuf: addr_of!((*sk).sk_rcvbuf).read_volatile(),
                sndbuf: addr_of!((*sk).sk_sndbuf).read_volatile(),
                locks: addr_of!((*sk).sk_userlocks).read_volatile()
                    // CAST: The bits are among the first.
                    & (bindings::SOCK_SNDBUF_LOCK | bindings::SOCK_RCVBUF_LOCK) as u8,
                rcvlowat: addr_of!((*sk).sk_rcvlowat).read_volatile(),
                timeouts: [
                    addr_of!((*sk).sk_rcvtimeo).read_volatile(),
                    addr_of!((*sk).sk_sndtimeo).read_volatile(),
                ],
                lingertime: addr_of!((*sk).sk_lingertime).read_volatile(),
                mark: addr_of!((*sk).sk_mark).read_volatile(),
                uid: (*sk).sk_uid,
                interface: addr_of!((*common).skc_bound_dev_if).read_volatile(),
                is_v6only: (*common).skc_ipv6only() != 0,
                reuse: (*common).skc_reuse(),
                reuseport: (*common).skc_reuseport() != 0,
                peek_off: addr_of!((*sk).sk_peek_off).read_volatile(),
                max_pacing_rate: addr_of!((*sk).sk_max_pacing_rate).read_volatile(),
                tsflags: addr_of!((*sk).sk_tsflags).read_volatile(),
                clockid: (*sk).sk_clockid,
                no_check_tx: (*sk).sk_no_check_tx() != 0,
                busy_poll: bindings::sdp_helper_busy_poll(sk),
                flags: (*common).__bindgen_anon_5.skc_flags & !OWN_FLAGS,
                inet: inet::Inherited::of(sk.cast()),
                inet6: (self.version() == IpVersion::V6)
                    .then(|| inet::Inherited6::of(self.pinet6())),
            }
        }
    }

    /// Allocates a sock that no file has yet, for accept. Its memory is charged to the current
    /// task; as with TCP its cgroup, which filters its calls, and its security label are those of
    /// `self`.
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
        // SAFETY: Both socks are live. Nobody else knows the child.
        unsafe {
            let to = child.as_ptr();
            // The kernel crate has no fields of this type.
            bindings::security_sk_clone(parent.cast(), to.cast());
            bindings::sdp_helper_inherit_cgroup(parent, to);
            // CAST: It is one of the first.
            (*to).sk_type = bindings::sock_type_SOCK_STREAM as u16;
        }
        // INVARIANT: It was just allocated without one.
        Ok(Child(child))
    }
}

impl<P: Protocol> Child<P> {
    /// Gives it the options that its listener had, as TCP's has them. Nobody else may know it.
    pub(crate) fn inherit(&self, from: &Inherited) {
        let to = self.0.as_ptr();
        // SAFETY: The sock is live, begins with an `inet_sock`, and has what is IPv6's if it is of
        // that. Nobody else knows it.
        unsafe {
            (*to).sk_rcvbuf = from.rcvbuf;
            (*to).sk_sndbuf = from.sndbuf;
            (*to).sk_userlocks = from.locks;
            (*to).sk_rcvlowat = from.rcvlowat;
            [(*to).sk_rcvtimeo, (*to).sk_sndtimeo] = from.timeouts;
            (*to).sk_lingertime = from.lingertime;
            (*to).sk_mark = from.mark;
            (*to).sk_uid = from.uid;
            (*to).sk_peek_off = from.peek_off;
            (*to).sk_max_pacing_rate = from.max_pacing_rate;
            (*to).sk_tsflags = from.tsflags;
            (*to).sk_clockid = from.clockid;
            (*to).set_sk_no_check_tx(from.no_check_tx.into());
            bindings::sdp_helper_set_busy_poll(to, &from.busy_poll);
            let common = addr_of_mut!((*to).__sk_common);
            (*common).skc_bound_dev_if = from.interface;
            (*common).set_skc_ipv6only(from.is_v6only.into());
            (*common).set_skc_reuse(from.reuse);
            (*common).set_skc_reuseport(from.reuseport.into());
            (*common).__bindgen_anon_5.skc_flags |= from.flags;
            if from.flags & STAMPS != 0 {
                // The end of a socket with these flags takes it back.
                bindings::net_enable_timestamp();
            }
            from.inet.give(to.cast());
            if let Some(inet6) = &from.inet6 {
                inet6.give(self.0.pinet6());
            }
        }
    }
}

/// Flags of a listener's own life.
const OWN_FLAGS: c_ulong = 1 << bindings::sock_flags_SOCK_DEAD
    | 1 << bindings::sock_flags_SOCK_DONE
    | 1 << bindings::sock_flags_SOCK_DESTROY
    | 1 << bindings::sock_flags_SOCK_ZAPPED
    | 1 << bindings::sock_flags_SOCK_USE_WRITE_QUEUE
    | 1 << bindings::sock_flags_SOCK_MEMALLOC
    | 1 << bindings::sock_flags_SOCK_FASYNC
    | 1 << bindings::sock_flags_SOCK_RCU_FREE
    | 1 << bindings::sock_flags_SOCK_XDP;
