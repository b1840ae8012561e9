// SPDX-License-Identifier: GPL-2.0

//! `struct sock` with a protocol's own state behind it.
//!
//! Reference rules. An [`ARef`] of a [`Sock`] owns one count of `sk_refcnt`. The `struct socket`
//! of an open file owns one until release. The last put runs the destructor, in whatever
//! context that happens, so a [`Protocol`]'s state must be droppable where sleeping is forbidden.
//! Every `struct sock` holds the module, so no code here runs after it is gone.

use crate::{
    bindings,
    net::{
        family::Family,
        msg::RecvMsg,
        namespace::Net,
        ops::Protocol, //
    },
    prelude::*, //
};
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    net::SocketAddrV4,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};
use kernel::{
    error::to_result,
    new_mutex,
    page::PAGE_SIZE,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        Mutex, //
    },
    types::Opaque, //
};

/// What [`Family`] has the socket layer allocate for each socket.
#[repr(C)]
pub(super) struct Layout<P: Protocol> {
    /// First, since the socket layer allocates and frees the whole as a `struct sock`. An
    /// `inet_sock`, since the inet helpers used here expect one.
    inet: bindings::inet_sock,
    /// Where inet code looks for IPv6 state.
    _pinet6: MaybeUninit<bindings::ipv6_pinfo>,
    locked: UnsafeCell<P::Locked>,
    account: Mutex<()>,
}

/// A reference-counted socket of protocol `P`.
///
/// # Invariants
///
/// The `inet` of the layout is a valid C object and the rest is initialised. `locked` is only
/// touched under `lock_sock()`, or by the destructor, and `sk_forward_alloc` under `account`.
#[repr(transparent)]
pub(crate) struct Sock<P: Protocol>(Opaque<Layout<P>>);

// SAFETY: The locked part is `Send` and behind a lock, and the C object may be used and freed on any
// thread.
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

/// How long a call may sleep, in jiffies: 0 for not at all, `MAX` for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timeout(c_long);

impl Timeout {
    /// No limit.
    pub(crate) const FOREVER: Self = Self(c_long::MAX);

    /// So many milliseconds.
    pub(crate) fn from_ms(ms: u32) -> Self {
        // SAFETY: A pure function of its argument.
        let jiffies = unsafe { bindings::__msecs_to_jiffies(ms) };
        Self(c_long::try_from(jiffies).unwrap_or(c_long::MAX))
    }

    /// Whether the call may not sleep, or has slept as long as it may.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Takes off the time in which another limit went from `from` to `to`.
    pub(crate) fn spend(&mut self, from: Self, to: Self) {
        if *self != Self::FOREVER {
            self.0 = self.0.saturating_sub(from.0.saturating_sub(to.0)).max(0);
        }
    }

    /// The errno of a call whose wait ended with `woken`, with this time left: `EAGAIN`, or for a
    /// signal `ERESTARTSYS` where the call can be restarted without a loss of time, else `EINTR`.
    pub(crate) fn error(self, woken: WaitError) -> Error {
        match woken {
            WaitError::TimedOut => EAGAIN,
            WaitError::Signal => {
                // SAFETY: A pure function of its argument.
                Error::from_errno(unsafe { bindings::sdp_helper_sock_intr_errno(self.0) })
            }
        }
    }
}

/// The `TCP_*` states of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub(crate) enum TcpState {
    Established = 1,
    SynSent = 2,
    FinWait1 = 4,
    FinWait2 = 5,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
}

impl<P: Protocol> Sock<P> {
    /// Allocates the sock of a new `struct socket`, which owns the one reference to it.
    ///
    /// # Safety
    ///
    /// `net` and `sock` are what the socket layer handed to the family's `create`.
    pub(super) unsafe fn create(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        kern: c_int,
    ) -> Result {
        // SAFETY: As the caller promises.
        let sk = unsafe { Self::alloc(net, sock, kern) }?;
        // The socket layer has stored the pointer in `sock`; it now owns the reference.
        ARef::into_raw(sk);
        Ok(())
    }

    /// Allocates a sock that no file has yet, with what an accepted socket inherits from `self`. Its memory
    /// and its cgroup are those of the current task, and its label that of `self`.
    ///
    /// May sleep. Fails with `ENOMEM`.
    pub(crate) fn new_child(&self) -> Result<ARef<Self>> {
        let parent = self.as_ptr();
        // SAFETY: `parent` is live and so is its namespace.
        let child = unsafe {
            Self::alloc(
                bindings::sdp_helper_sock_net(parent),
                core::ptr::null_mut(),
                0,
            )
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
            (*to).sk_priority = addr_of!((*from).sk_priority).read_volatile();
            (*to).sk_mark = addr_of!((*from).sk_mark).read_volatile();
            (*to).sk_uid = (*from).sk_uid;
            for flag in [
                bindings::sock_flags_SOCK_LINGER,
                bindings::sock_flags_SOCK_KEEPOPEN,
                bindings::sock_flags_SOCK_URGINLINE,
                bindings::sock_flags_SOCK_ZEROCOPY,
            ] {
                let value = bindings::sdp_helper_sock_flag(from, flag);
                bindings::sdp_helper_sock_valbool_flag(to, flag, value.into());
            }
        }
        Ok(child)
    }

    /// Allocates and initialises a sock.
    ///
    /// # Safety
    ///
    /// `net` is a live namespace; `sock` is NULL or a `struct socket` under construction.
    unsafe fn alloc(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        kern: c_int,
    ) -> Result<ARef<Self>> {
        let family: &'static Family<P> = P::family();
        // SAFETY: `net` is live by the contract. Of a live namespace the per-namespace values are.
        let locked = P::new(unsafe { Net::from_ptr(net) });
        // SAFETY: `net` is live, and `proto()` was registered before any socket can be asked for.
        let sk = unsafe {
            bindings::sk_alloc(net, P::FAMILY, bindings::GFP_KERNEL, family.proto(), kern)
        };
        let layout = NonNull::new(sk.cast::<Layout<P>>()).ok_or(ENOMEM)?;
        // SAFETY: `obj_size` of our `struct proto` is the size of `Layout`, the memory is ours, and
        // until `sk_destruct` is set nobody looks at what lies behind `sk`. `account` is pinned from here
        // on, and its initialiser cannot fail. It does not live as long as the type of `slot` says, but
        // `slot` ends here.
        unsafe {
            let l = layout.as_ptr();
            addr_of_mut!((*l).locked).write(UnsafeCell::new(locked));
            let slot: *mut Mutex<()> = addr_of_mut!((*l).account);
            let slot: &'static mut MaybeUninit<Mutex<()>> = &mut *slot.cast();
            let Ok(_) = slot.write_pin_init(new_mutex!((), "sdp::Sock::account"));
        }
        // SAFETY: `sk` is freshly allocated and `sock` is NULL or being made.
        unsafe {
            bindings::sock_init_data(sock, sk);
            (*sk).sk_destruct = Some(Self::on_destruct);
            (*sk).sk_protocol = bindings::IPPROTO_TCP as u16;
            (*sk).__sk_common.skc_state = TcpState::Close as u8;
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
            // SAFETY: The socket is live, and the flag is one of its bits. CAST: It is a small number.
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
            core::ptr::drop_in_place(addr_of_mut!((*layout).account));
            // What it wants to see: one that never had a file says neither.
            (*sk).__sk_common.skc_state = TcpState::Close as u8;
            bindings::sdp_helper_sock_valbool_flag(sk, bindings::sock_flags_SOCK_DEAD, 1);
            bindings::inet_sock_destruct(sk);
        }
    }

    /// Charges so many pages of memory. Sleeps. Fails with `ENOBUFS` where that is too much for `memory.max`
    /// of the socket's cgroup, for all, or for the kernel's sum of what one socket is charged.
    pub(super) fn charge_pages(&self, pages: usize) -> Result {
        // CAST: `Charge` bounds it.
        let bytes = (pages * PAGE_SIZE) as c_int;
        let _account = self.account().lock();
        // SAFETY: The sock is live, and its account locked.
        let charged = unsafe { (*self.as_ptr()).sk_forward_alloc };
        charged.checked_add(bytes).ok_or(ENOBUFS)?;
        let kind = bindings::SK_MEM_RECV as c_int;
        // SAFETY: The sock is live, and its account locked. Without BH disabled the cgroup may be made to
        // reclaim.
        match unsafe { bindings::__sk_mem_schedule(self.as_ptr(), bytes, kind) } {
            0 => Err(ENOBUFS),
            _ => Ok(()),
        }
    }

    /// Gives up so many pages that were charged. Sleeps.
    pub(super) fn uncharge_pages(&self, pages: usize) {
        if pages == 0 {
            return;
        }
        // CAST: As above.
        let bytes = (pages * PAGE_SIZE) as c_int;
        let _account = self.account().lock();
        // SAFETY: The sock is live, its account locked, and so much of it charged.
        unsafe { bindings::__sk_mem_reclaim(self.as_ptr(), bytes) };
    }

    fn account(&self) -> &Mutex<()> {
        // SAFETY: The sock is live and the mutex initialised.
        unsafe { &*addr_of!((*self.0.get()).account) }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::sock {
        self.0.get().cast()
    }

    /// The namespace that the socket was made in.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: A sock holds its namespace, or, for a kernel socket, never outlives it.
        unsafe { Net::from_ptr(bindings::sdp_helper_sock_net(self.as_ptr())) }
    }

    /// Takes the socket lock, which serialises the callers of one socket. May sleep.
    pub(crate) fn lock(&self) -> SockGuard<'_, P> {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_lock_sock(self.as_ptr()) };
        SockGuard { sk: self }
    }

    /// Tells readers that there is something to read. Any context.
    pub(crate) fn data_ready(&self) {
        // SAFETY: The sock is live; `sock_init_data()` set the callback.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_data_ready {
                f(self.as_ptr());
            }
        }
    }

    /// Tells writers that there is room. Any context.
    pub(crate) fn write_space(&self) {
        // SAFETY: As in `data_ready()`.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_write_space {
                f(self.as_ptr());
            }
        }
    }

    /// Wakes everybody who waits for the socket's state. Any context.
    pub(crate) fn state_change(&self) {
        // SAFETY: As in `data_ready()`.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_state_change {
                f(self.as_ptr());
            }
        }
    }

    /// Wakes all tasks that wait on the socket, those too that no signal wakes. Any context.
    pub(crate) fn wake_all(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_wake_up_all(self.as_ptr()) };
    }

    /// Leaves `error` for the next call to report, and tells everybody. Any context.
    pub(crate) fn fail(&self, error: Error) {
        // SAFETY: The sock is live; `sk_err` may be written from anywhere.
        unsafe {
            addr_of_mut!((*self.as_ptr()).sk_err).write_volatile(-error.to_errno());
            if let Some(f) = (*self.as_ptr()).sk_error_report {
                f(self.as_ptr());
            }
        }
    }

    /// Takes the error that waits for the next call.
    pub(crate) fn take_error(&self) -> Result {
        // SAFETY: The sock is live.
        to_result(unsafe { bindings::sdp_helper_sock_error(self.as_ptr()) })
    }

    /// Whether an error waits for the next call.
    pub(crate) fn has_error(&self) -> bool {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).sk_err).read_volatile() != 0 }
    }

    /// Whether the error queue has something for a program to read.
    pub(crate) fn has_notices(&self) -> bool {
        // SAFETY: The sock is live; what the queue has is not looked at.
        unsafe {
            !bindings::sdp_helper_skb_queue_empty_lockless(addr_of!(
                (*self.as_ptr()).sk_error_queue
            ))
        }
    }

    /// `MSG_ERRQUEUE`: gives the next entry of the error queue, which is a control message without
    /// data, in the form that programs know from TCP over IPv4. Never waits: fails with `EAGAIN`.
    pub(crate) fn recv_errqueue(&self, msg: RecvMsg<'_>) -> Result<usize> {
        let len = c_int::try_from(msg.data.len()).unwrap_or(c_int::MAX);
        // SAFETY: The sock is live, and so is the message, whose iterator nobody else uses now.
        let n = unsafe {
            bindings::sock_recv_errqueue(
                self.as_ptr(),
                msg.msg,
                len,
                bindings::SOL_IP as c_int,
                bindings::IP_RECVERR as c_int,
            )
        };
        usize::try_from(n).map_err(|_| Error::from_errno(n))
    }

    /// The error of a send on a stream that takes no more, with SIGPIPE where it is due.
    pub(crate) fn stream_error(&self, flags: u32, error: Error) -> Error {
        // SAFETY: The sock is live; called in the context of the sending task.
        let errno =
            unsafe { bindings::sk_stream_error(self.as_ptr(), flags as c_int, error.to_errno()) };
        Error::from_errno(errno)
    }

    /// `SO_RCVTIMEO`, or no time at all.
    pub(crate) fn recv_timeout(&self, nonblock: bool) -> Timeout {
        // SAFETY: The sock is live.
        Timeout(unsafe { bindings::sdp_helper_sock_rcvtimeo(self.as_ptr(), nonblock) })
    }

    /// `SO_SNDTIMEO`, or no time at all.
    pub(crate) fn send_timeout(&self, nonblock: bool) -> Timeout {
        // SAFETY: The sock is live.
        Timeout(unsafe { bindings::sdp_helper_sock_sndtimeo(self.as_ptr(), nonblock) })
    }

    /// How many bytes a receive of `len` waits for: `SO_RCVLOWAT`, or all; at least 1.
    pub(crate) fn recv_target(&self, waitall: bool, len: usize) -> usize {
        let len = c_int::try_from(len).unwrap_or(c_int::MAX);
        // SAFETY: The sock is live.
        let n = unsafe { bindings::sdp_helper_sock_rcvlowat(self.as_ptr(), waitall.into(), len) };
        usize::try_from(n).unwrap_or(1)
    }

    /// `SO_SNDBUF` as the kernel keeps it, in bytes.
    pub(crate) fn send_buffer(&self) -> usize {
        // SAFETY: The sock is live; the field is an integer.
        let n = unsafe { addr_of!((*self.as_ptr()).sk_sndbuf).read_volatile() };
        usize::try_from(n).unwrap_or(0)
    }

    /// `SO_RCVBUF` as the kernel keeps it, in bytes, where the program has set it. Any context.
    pub(crate) fn rcvbuf_if_set(&self) -> Option<usize> {
        // SAFETY: The sock is live; a bit and an integer that only setsockopt changes.
        let (locks, n) = unsafe {
            let sk = self.as_ptr();
            (
                (*sk).sk_userlocks,
                addr_of!((*sk).sk_rcvbuf).read_volatile(),
            )
        };
        let set = u32::from(locks) & bindings::SOCK_RCVBUF_LOCK != 0;
        set.then(|| usize::try_from(n).unwrap_or(0))
    }

    /// What `SO_SNDBUF` may grow to where the program has not set it: as TCP's, which is
    /// `net.ipv4.tcp_wmem`.
    pub(crate) fn max_send_buffer(&self) -> usize {
        // SAFETY: The sock is live, and so is its namespace.
        let n = unsafe { bindings::sdp_helper_sock_max_wmem(self.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Whether `SO_SNDBUF` was set by the program.
    pub(crate) fn is_sndbuf_locked(&self) -> bool {
        // SAFETY: The sock is live; a bit that only setsockopt changes.
        let locks = unsafe { (*self.as_ptr()).sk_userlocks };
        u32::from(locks) & bindings::SOCK_SNDBUF_LOCK != 0
    }

    /// `SO_ZEROCOPY`.
    pub(super) fn has_zerocopy(&self) -> bool {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sock_flag(self.as_ptr(), bindings::sock_flags_SOCK_ZEROCOPY) }
    }

    /// `SO_REUSEADDR`.
    pub(crate) fn reuseaddr(&self) -> bool {
        // SAFETY: The sock is live; a bit that only setsockopt changes.
        unsafe { (*self.as_ptr()).__sk_common.skc_reuse() != 0 }
    }

    /// `SO_LINGER`: how long close may wait, or `None` when it is off. A task that exits does not
    /// wait, as with TCP.
    pub(crate) fn linger(&self) -> Option<Timeout> {
        // SAFETY: The current task is live, and only itself sets the flag.
        let exits = unsafe { (*kernel::current!().as_ptr()).flags } & bindings::PF_EXITING != 0;
        self.linger_setting()
            .filter(|timeout| timeout.is_zero() || !exits)
    }

    fn linger_setting(&self) -> Option<Timeout> {
        // SAFETY: The sock is live; the field is an integer.
        unsafe {
            bindings::sdp_helper_sock_flag(self.as_ptr(), bindings::sock_flags_SOCK_LINGER).then(
                || {
                    let jiffies = addr_of!((*self.as_ptr()).sk_lingertime).read_volatile();
                    Timeout(c_long::try_from(jiffies).unwrap_or(c_long::MAX))
                },
            )
        }
    }

    /// Sets the state that getpeername(2) and diagnostics see. Any context.
    pub(crate) fn set_state(&self, state: TcpState) {
        // SAFETY: The sock is live; the field is read at any time.
        unsafe {
            addr_of_mut!((*self.as_ptr()).__sk_common.skc_state).write_volatile(state as u8);
        }
    }

    /// Sets the local name. Any context.
    pub(crate) fn set_local(&self, addr: SocketAddrV4) {
        let ip = u32::from_ne_bytes(addr.ip().octets());
        // SAFETY: The sock is live and begins with an `inet_sock`; the fields are read at any time,
        // and the address is one of IPv4.
        unsafe {
            let inet = addr_of_mut!((*self.0.get()).inet);
            let (addrs, ports) = self.pairs();
            addr_of_mut!((*addrs).skc_rcv_saddr).write_volatile(ip);
            addr_of_mut!((*ports).skc_num).write_volatile(addr.port());
            addr_of_mut!((*inet).inet_saddr).write_volatile(ip);
            addr_of_mut!((*inet).inet_sport).write_volatile(addr.port().to_be());
        }
    }

    /// Sets the peer's name. Any context.
    pub(crate) fn set_peer(&self, addr: SocketAddrV4) {
        let ip = u32::from_ne_bytes(addr.ip().octets());
        let (addrs, ports) = self.pairs();
        // SAFETY: As in `set_local()`.
        unsafe {
            addr_of_mut!((*addrs).skc_daddr).write_volatile(ip);
            addr_of_mut!((*ports).skc_dport).write_volatile(addr.port().to_be());
        }
    }

    /// Where a `struct sock` has both ends' addresses, and their ports: unions, of which IPv4 uses
    /// these members.
    fn pairs(
        &self,
    ) -> (
        *mut bindings::sock_common__bindgen_ty_1__bindgen_ty_1,
        *mut bindings::sock_common__bindgen_ty_3__bindgen_ty_1,
    ) {
        // SAFETY: The sock is live; nothing is read or written.
        unsafe {
            let common = addr_of_mut!((*self.as_ptr()).__sk_common);
            (
                addr_of_mut!((*common).__bindgen_anon_1).cast(),
                addr_of_mut!((*common).__bindgen_anon_3).cast(),
            )
        }
    }

    /// The ports that may be chosen for it, each once, beginning at any.
    pub(crate) fn local_ports(&self) -> impl Iterator<Item = u16> {
        let (mut low, mut high) = (0, 0);
        // SAFETY: The sock is live and begins with an `inet_sock`.
        unsafe { bindings::inet_sk_get_local_port_range(self.as_ptr(), &mut low, &mut high) };
        // SAFETY: It has no preconditions. CAST: Any bits will do.
        let from = unsafe { bindings::get_random_u64() } as u32;
        let low = u32::try_from(low).unwrap_or(0);
        let count = u32::try_from(high)
            .unwrap_or(0)
            .saturating_sub(low)
            .saturating_add(1);
        (0..count)
            .map(move |at| low.saturating_add(from.wrapping_add(at).wrapping_rem(count)))
            .filter_map(|port| u16::try_from(port).ok())
    }
}

/// The socket lock held; dereferences to the state that it guards.
///
/// # Invariants
///
/// The current task holds `lock_sock()` of `sk`.
pub(crate) struct SockGuard<'a, P: Protocol> {
    sk: &'a Sock<P>,
}

impl<P: Protocol> Deref for SockGuard<'_, P> {
    type Target = P::Locked;

    fn deref(&self) -> &P::Locked {
        // SAFETY: The lock is held by the type invariant, and `&self` excludes a `&mut` through it.
        unsafe { &*(*addr_of!((*self.sk.0.get()).locked)).get() }
    }
}

impl<P: Protocol> DerefMut for SockGuard<'_, P> {
    fn deref_mut(&mut self) -> &mut P::Locked {
        // SAFETY: The lock is held by the type invariant, and `&mut self` is exclusive.
        unsafe { &mut *(*addr_of!((*self.sk.0.get()).locked)).get() }
    }
}

impl<P: Protocol> Drop for SockGuard<'_, P> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type invariant.
        unsafe { bindings::release_sock(self.sk.as_ptr()) };
    }
}

/// Why a wait ended without what it waited for.
pub(crate) enum WaitError {
    /// The time is used up.
    TimedOut,
    /// A signal is pending.
    Signal,
}

impl<'a, P: Protocol> SockGuard<'a, P> {
    /// Sleeps until `done`, without the lock while asleep; what is left of `timeout` remains.
    ///
    /// `done` runs with the lock held, first before any sleep. A socket without a file does not
    /// wait.
    pub(crate) fn wait(
        &mut self,
        timeout: &mut Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        self.sleep(timeout, bindings::TASK_INTERRUPTIBLE, done)
    }

    /// As [`Self::wait`], for at most `slice` of the time, of which what is left remains: whether it
    /// was `done` by then.
    pub(crate) fn wait_slice(
        &mut self,
        timeout: &mut Timeout,
        slice: &mut Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, WaitError> {
        let (whole, part) = (*timeout, *slice);
        if whole <= part {
            let woken = self.wait(timeout, done);
            slice.spend(whole, *timeout);
            return woken.map(|()| true);
        }
        let woken = self.wait(slice, done);
        timeout.spend(part, *slice);
        match woken {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Signal) => Err(WaitError::Signal),
        }
    }

    /// As [`Self::wait`], through all signals but those that kill; whether it was `done`.
    pub(crate) fn wait_killable(
        &mut self,
        mut timeout: Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        self.sleep(&mut timeout, bindings::TASK_KILLABLE, done)
            .is_ok()
    }

    /// As [`Self::wait`], through all signals: for what ends by itself soon. Whether it was `done`.
    pub(crate) fn wait_through(
        &mut self,
        mut timeout: Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        self.sleep(&mut timeout, bindings::TASK_UNINTERRUPTIBLE, done)
            .is_ok()
    }

    fn sleep(
        &mut self,
        timeout: &mut Timeout,
        state: c_uint,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        if done(self) {
            return Ok(());
        }
        let sk = self.sk.as_ptr();
        let mut entry = bindings::wait_queue_entry {
            private: kernel::current!().as_ptr().cast(),
            func: Some(bindings::woken_wake_function),
            ..Default::default()
        };
        // SAFETY: The entry stays where it is until it is removed below, and the queue belongs to
        // the socket of the file that the caller has open.
        let queue = unsafe { bindings::sdp_helper_sk_sleep(sk) };
        if queue.is_null() {
            // Nobody who has it open is there to wait.
            return Err(WaitError::TimedOut);
        }
        // SAFETY: As above.
        unsafe { bindings::add_wait_queue(queue, &raw mut entry) };
        let result = loop {
            if done(self) {
                break Ok(());
            }
            if timeout.is_zero() {
                break Err(WaitError::TimedOut);
            }
            // SAFETY: The current task looks at its own signals.
            if unsafe {
                bindings::sdp_helper_signal_pending_state(state, kernel::current!().as_ptr())
            } {
                break Err(WaitError::Signal);
            }
            // SAFETY: The lock is held; it is dropped for the sleep and taken again, so the type
            // invariant holds whenever this function's caller can look. `&mut self` means that no
            // borrow of the locked state lives across.
            unsafe {
                bindings::release_sock(sk);
                timeout.0 = bindings::wait_woken(&raw mut entry, state, timeout.0);
                bindings::sdp_helper_lock_sock(sk);
            }
        };
        // SAFETY: The entry was added above.
        unsafe { bindings::remove_wait_queue(queue, &raw mut entry) };
        result
    }

    /// Sets `SO_ZEROCOPY`.
    pub(super) fn set_zerocopy(&mut self, on: bool) {
        let flag = bindings::sock_flags_SOCK_ZEROCOPY;
        // SAFETY: The sock is live, and locked, as whoever changes its flags has it.
        unsafe { bindings::sdp_helper_sock_valbool_flag(self.sk.as_ptr(), flag, on.into()) };
    }

    /// The socket itself.
    pub(crate) fn sock(&self) -> &'a Sock<P> {
        self.sk
    }

    /// Cuts the sock from its file: no callback reaches a waiter any more.
    pub(crate) fn orphan(&mut self) {
        // SAFETY: The sock is live and locked.
        unsafe { bindings::sdp_helper_sock_orphan(self.sk.as_ptr()) };
    }

    /// Makes `self` the sock of `sock`, which takes over `reference`.
    ///
    /// # Safety
    ///
    /// `sock` is a `struct socket` under construction without a sock; `reference` is of this sock.
    pub(super) unsafe fn graft(&mut self, sock: *mut bindings::socket, reference: ARef<Sock<P>>) {
        // SAFETY: As the caller promises; `SS_CONNECTED` is what an accepted socket is.
        unsafe {
            bindings::sdp_helper_sock_graft(self.sk.as_ptr(), sock);
            Sock::<P>::mark(sock);
            (*sock).state = bindings::socket_state_SS_CONNECTED;
        }
        ARef::into_raw(reference);
    }
}
