// SPDX-License-Identifier: GPL-2.0

//! `struct sock` with a protocol's own state behind it.
//!
//! Reference rules. An [`ARef`] of a [`Sock`] owns one count of `sk_refcnt`. The `struct socket`
//! of an open file owns one until release. The last put runs the destructor, in whatever
//! context that happens, so a [`Protocol`]'s state must be droppable where sleeping is forbidden.
//! Every `struct sock` holds the module, so no code here runs after it is gone.

mod address;
mod child;
mod guard;
mod sol_socket;
mod tcp_state;
mod timeout;
mod wake;

pub(super) use address::kept_v4;
pub(crate) use address::Route;
pub(crate) use child::{
    Child,
    Inherited, //
};
pub(crate) use guard::SockGuard;
pub(crate) use tcp_state::TcpState;
pub(crate) use timeout::{
    Timeout,
    WaitError, //
};

use crate::{
    bindings,
    net::{
        bpf::{
            Hook,
            StandIn, //
        },
        family::Family,
        inet,
        ops::Protocol,
        pernet::NetOf,
        responsible_uid,
        sockaddr::IpVersion,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
    },
    prelude::*, //
};
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
    sync::atomic::AtomicI64, //
};
use kernel::{
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

/// What [`Family`] has the socket layer allocate for each socket.
#[repr(C)]
pub(super) struct Layout<P: Protocol> {
    /// First, since the socket layer allocates and frees the whole as a `struct sock`. An
    /// `inet_sock`, since the inet helpers used here expect one.
    inet: bindings::inet_sock,
    /// Where inet code looks for the state of a socket over IPv6.
    pinet6: bindings::ipv6_pinfo,
    locked: UnsafeCell<P::Locked>,
    poll_state: SpinLockBh<P::PollState>,
    /// As long as the socket has a file.
    stand_in: UnsafeCell<Option<StandIn>>,
    forward_alloc: SpinLockBh<()>,
    responsible_uid: u32,
    reclaim_at: AtomicI64,
}

/// The offset of the state for IPv6 in the layout.
pub(super) const fn pinet6_offset<P: Protocol>() -> c_uint {
    // CAST: A `struct sock` is a few kilobytes.
    core::mem::offset_of!(Layout<P>, pinet6) as c_uint
}

/// A reference-counted socket of protocol `P`.
///
/// # Invariants
///
/// The `inet` of the layout is a valid C object and the rest is initialised. `locked` and
/// `stand_in` are only touched under `lock_sock()`, or by the destructor, and `sk_forward_alloc`
/// under `forward_alloc`.
#[repr(transparent)]
pub(crate) struct Sock<P: Protocol>(Opaque<Layout<P>>);

// SAFETY: Both parts of the state are `Send` and behind locks, and the C object may be used and
// freed on any thread.
unsafe impl<P: Protocol> Send for Sock<P> {}
// SAFETY: As above.
unsafe impl<P: Protocol> Sync for Sock<P> {}

// SAFETY: `sk_refcnt` keeps the allocation, and sockets only exist counted.
unsafe impl<P: Protocol> AlwaysRefCounted for Sock<P> {
    fn inc_ref(&self) {
        // SAFETY: `self` is a live sock by the type invariant.
        unsafe { bindings::sdp_helper_sock_hold(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a count of this sock and gives it up.
        unsafe { bindings::sdp_helper_sock_put(obj.as_ptr().cast()) };
    }
}

impl<P: Protocol> Sock<P> {
    /// Allocates the sock of a new `struct socket`, which owns the one reference to it.
    ///
    /// # Safety
    ///
    /// `family` is open, and `net` and `sock` are what the socket layer handed to its `create`.
    pub(super) unsafe fn create(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        family: &'static Family<P>,
        kern: c_int,
    ) -> Result {
        // SAFETY: As the caller promises.
        let sk = unsafe { Self::alloc(net, sock, family, kern) }?;
        if kern == 0 {
            let mut guard = sk.lock();
            let allowed = guard.filter(Hook::Create);
            if allowed.is_err() {
                *guard.stand_in() = None;
                // SAFETY: It is under construction, and the sock goes.
                unsafe { (*sock).sk = core::ptr::null_mut() };
            }
            drop(guard);
            allowed?;
        }
        // The socket layer has stored the pointer in `sock`; it now owns the reference.
        ARef::into_raw(sk);
        Ok(())
    }

    /// Allocates and initialises a sock.
    ///
    /// # Safety
    ///
    /// `family` is open. `net` is a live namespace; `sock` is NULL or a `struct socket` under
    /// construction.
    unsafe fn alloc(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        family: &'static Family<P>,
        kern: c_int,
    ) -> Result<ARef<Self>> {
        // SAFETY: By the contract.
        let home = unsafe { NetOf::from_ptr(net) };
        let locked = P::new(home);
        // SAFETY: `net` is live, and an open family is registered.
        let sk = unsafe {
            bindings::sk_alloc(
                net,
                family.number(),
                bindings::GFP_KERNEL,
                family.proto(),
                kern,
            )
        };
        let layout = NonNull::new(sk.cast::<Layout<P>>()).ok_or(ENOMEM)?;
        // SAFETY: `obj_size` of our `struct proto` is the size of `Layout`, the memory is ours, and
        // until `sk_destruct` is set nobody looks at what lies behind `sk`. The spinlocks are
        // pinned from here on, and their initialisers cannot fail. They do not live as long as the
        // types of the slots say, but the slots end here.
        unsafe {
            let l = layout.as_ptr();
            addr_of_mut!((*l).locked).write(UnsafeCell::new(locked));
            addr_of_mut!((*l).stand_in).write(UnsafeCell::new(None));
            addr_of_mut!((*l).responsible_uid).write(responsible_uid());
            addr_of_mut!((*l).reclaim_at).write(AtomicI64::new(0));
            let slot: *mut SpinLockBh<()> = addr_of_mut!((*l).forward_alloc);
            let slot: &'static mut MaybeUninit<SpinLockBh<()>> = &mut *slot.cast();
            let Ok(_) = slot.write_pin_init(new_spinlock_bh!((), "sdp::Sock::forward_alloc"));
            let slot: *mut SpinLockBh<P::PollState> = addr_of_mut!((*l).poll_state);
            let slot: &'static mut MaybeUninit<SpinLockBh<P::PollState>> = &mut *slot.cast();
            let poll_state = new_spinlock_bh!(P::PollState::default(), "sdp::Sock::poll_state");
            let Ok(_) = slot.write_pin_init(poll_state);
        }
        // SAFETY: `sk` is freshly allocated and `sock` is NULL or being made.
        unsafe {
            if kern != 0 {
                // The kernel's own sockets do not hold their namespace by themselves, but its
                // connections need that, and may last longer than the socket.
                bindings::sk_net_refcnt_upgrade(sk);
            }
            bindings::sock_init_data(sock, sk);
            inet::set_up(sk.cast());
            (*sk).sk_destruct = Some(Self::on_destruct);
            (*sk).sk_protocol = bindings::IPPROTO_TCP as u16;
            (*sk).__sk_common.skc_state = TcpState::Close as u8;
            (*sk).sk_rcvbuf = P::default_rcvbuf(home);
            if family.version() == IpVersion::V6 {
                // `sk_alloc()` has zeroed it.
                inet::set_up6(sk.cast(), addr_of_mut!((*layout.as_ptr()).pinet6));
                let v6only = bindings::sdp_helper_bindv6only(net);
                (*sk).__sk_common.set_skc_ipv6only(v6only.into());
            }
            bindings::sdp_helper_sock_prot_inuse_add(sk, 1);
            if !sock.is_null() {
                (*sock).ops = family.ops();
                Self::mark(sock);
            }
        }
        // SAFETY: INVARIANT: All parts are initialised; `sk_alloc()` gave us the first reference.
        Ok(unsafe { ARef::from_raw(layout.cast()) })
    }

    /// Tells the socket layer what it cannot know of our sockets: that `SO_ZEROCOPY` has a meaning,
    /// for which it gives us all of `SOL_SOCKET`, and that io_uring may send without a copy.
    ///
    /// # Safety
    ///
    /// `sock` is a `struct socket` under construction.
    unsafe fn mark(sock: *mut bindings::socket) {
        for flag in [
            bindings::socket_flags_SOCK_CUSTOM_SOCKOPT,
            bindings::socket_flags_SOCK_SUPPORT_ZC,
        ] {
            // SAFETY: The socket is live, and the flag is one of its bits. CAST: It is a small
            // number.
            unsafe { bindings::set_bit(flag as usize, addr_of_mut!((*sock).flags)) };
        }
    }

    /// # Safety
    ///
    /// The socket layer calls it, once, for a sock without references.
    unsafe extern "C" fn on_destruct(sk: *mut bindings::sock) {
        let layout = sk.cast::<Layout<P>>();
        // SAFETY: The last reference is gone, so nothing else can reach the sock and the state,
        // which were initialised before `sk_destruct` was set.
        unsafe {
            core::ptr::drop_in_place(addr_of_mut!((*layout).locked));
            core::ptr::drop_in_place(addr_of_mut!((*layout).poll_state));
            // Nothing: it went with the file, since this may not sleep.
            core::ptr::drop_in_place(addr_of_mut!((*layout).stand_in));
            core::ptr::drop_in_place(addr_of_mut!((*layout).forward_alloc));
            // What it wants to see: one that never had a file says neither.
            (*sk).__sk_common.skc_state = TcpState::Close as u8;
            bindings::sdp_helper_sock_valbool_flag(sk, bindings::sock_flags_SOCK_DEAD, 1);
            bindings::sdp_helper_sock_prot_inuse_add(sk, -1);
            if (*layout).inet.pinet6.is_null() {
                bindings::inet_sock_destruct(sk);
            } else {
                bindings::inet6_sock_destruct(sk);
            }
        }
    }

    /// `SO_KEEPALIVE` is set.
    ///
    /// # Safety
    ///
    /// The socket layer calls it, for a sock of this protocol, with its lock held.
    pub(super) unsafe extern "C" fn on_keepalive(sk: *mut bindings::sock, on: c_int) {
        // SAFETY: By the contract the sock is live. Whoever holds the lock is in the socket layer,
        // and has no reference to the state.
        let locked = unsafe { &mut *(*addr_of!((*sk.cast::<Layout<P>>()).locked)).get() };
        P::set_keepalive(locked, on != 0);
    }

    /// The user who is responsible for the task that made it: see [`responsible_uid`]. Any context.
    pub(crate) fn responsible_uid(&self) -> u32 {
        // SAFETY: The sock is live, and this does not change.
        unsafe { (*self.0.get()).responsible_uid }
    }

    /// What is known of it without [`Self::lock`]. Any context.
    pub(crate) fn poll_state(&self) -> &SpinLockBh<P::PollState> {
        // SAFETY: The sock is live and the lock initialised.
        unsafe { &*addr_of!((*self.0.get()).poll_state) }
    }

    /// The lock of `sk_forward_alloc`.
    pub(super) fn forward_alloc(&self) -> &SpinLockBh<()> {
        // SAFETY: The sock is live and the lock initialised.
        unsafe { &*addr_of!((*self.0.get()).forward_alloc) }
    }

    /// When memory may be reclaimed for it again, in nanoseconds of the monotonic clock.
    pub(super) fn reclaim_at(&self) -> &AtomicI64 {
        // SAFETY: The sock is live and the field initialised.
        unsafe { &*addr_of!((*self.0.get()).reclaim_at) }
    }

    /// The C sock, live as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::sock {
        self.0.get().cast()
    }

    /// The version of IP that its family is for. Any context.
    pub(crate) fn version(&self) -> IpVersion {
        // SAFETY: The sock is live, and its family does not change.
        let family = unsafe { (*self.as_ptr()).__sk_common.skc_family };
        if c_int::from(family) == P::FAMILY6 {
            IpVersion::V6
        } else {
            IpVersion::V4
        }
    }

    /// The namespace that the socket was made in. Any context.
    pub(crate) fn net(&self) -> &NetOf<P> {
        // SAFETY: A sock holds its namespace, and the module, so that the family stays open.
        unsafe { NetOf::from_ptr(bindings::sdp_helper_sock_net(self.as_ptr())) }
    }

    /// Takes the socket lock, which serialises the callers of one socket. May sleep.
    pub(crate) fn lock(&self) -> SockGuard<'_, P> {
        // SAFETY: `()` says nothing.
        unsafe { SockGuard::new(self) }
    }

    /// The state that getpeername(2) and diagnostics see.
    pub(crate) fn state(&self) -> u8 {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).__sk_common.skc_state).read_volatile() }
    }

    /// The state of a socket of IPv6.
    pub(super) fn pinet6(&self) -> *mut bindings::ipv6_pinfo {
        // SAFETY: The sock is live.
        unsafe { addr_of_mut!((*self.0.get()).pinet6) }
    }

    /// The user that owns the socket. Any context.
    pub(crate) fn uid(&self) -> u32 {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).sk_uid.val).read_volatile() }
    }

    /// Sets the state that getpeername(2) and diagnostics see, traces it, and wakes the calls that
    /// wait for it. Pollers are notified of events by the code that causes them, and not of state
    /// changes: as with TCP there are changes that nobody polls for, and an edge (`EPOLLET`) too
    /// many would be seen. Any context.
    pub(crate) fn set_state(&self, state: TcpState) {
        if self.is_in_state(state) {
            return;
        }
        pr_debug!("socket: {state}\n");
        // SAFETY: The sock is live; the field is read at any time.
        unsafe {
            addr_of_mut!((*self.as_ptr()).__sk_common.skc_state).write_volatile(state as u8);
        }
        self.wake_calls();
    }

    /// The state that was set last. Any context.
    pub(crate) fn is_in_state(&self, state: TcpState) -> bool {
        self.state() == state as u8
    }

    /// The inode number of its file, or 0. Any context.
    pub(super) fn inode(&self) -> c_ulong {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sock_i_ino(self.as_ptr()) }
    }

    /// `SO_COOKIE`: a number that no other socket has had. Any context.
    pub(crate) fn cookie(&self) -> u64 {
        let mut halves = [0; 2];
        // SAFETY: The sock is live, and there is room for two numbers.
        unsafe { bindings::sock_diag_save_cookie(self.as_ptr(), halves.as_mut_ptr()) };
        let [low, high] = halves;
        u64::from(low) | u64::from(high) << 32
    }

    /// Sets the cookie of a sock that no program has seen. Any context.
    pub(crate) fn set_cookie(&self, cookie: u64) {
        // SAFETY: The sock is live; the field is an integer. CAST: Any bits will do.
        unsafe {
            addr_of_mut!((*self.as_ptr()).__sk_common.skc_cookie.counter)
                .write_volatile(cookie as i64);
        }
    }

    /// Whether a bit of `inet_flags` is set. Any context.
    pub(super) fn inet_flag(&self, flag: c_uint) -> bool {
        // SAFETY: The sock is live and begins with an `inet_sock`; the field is an integer.
        let flags = unsafe { addr_of!((*self.0.get()).inet.inet_flags).read_volatile() };
        flags & 1 << flag != 0
    }
}

/// The flags of a socket whose program has asked when bytes come.
pub(super) const STAMPS: c_ulong = 1 << bindings::sock_flags_SOCK_TIMESTAMP
    | 1 << bindings::sock_flags_SOCK_TIMESTAMPING_RX_SOFTWARE;
