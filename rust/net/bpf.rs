// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of control groups that filter calls on inet sockets: they refuse a socket, an
//! address or a connection, or replace an address.
//!
//! The kernel runs them for sockets of `AF_INET` and `AF_INET6` only, and lets them access one with
//! protocol `IPPROTO_TCP` as a `struct tcp_sock`. Ours are neither. So a socket whose control group
//! has programs gets a [`StandIn`]: a TCP socket without packets or a file, on which they are run.
//! What they may read is copied to it before, and what they may set is copied back.
//!
//! Lock: `lock_sock()` of the stand-in, below that of its socket.

use crate::{
    bindings,
    net::{
        namespace::Net,
        ops::Protocol,
        sock::{
            Sock,
            SockGuard, //
        },
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::{
    net::{
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr,
        SocketAddrV6, //
    },
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut,
        NonNull, //
    }, //
};
use kernel::error::to_result;

/// A call that programs filter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// A socket is made.
    Create,
    /// A socket goes.
    Release,
    /// `bind(2)`, before anything else.
    Bind,
    /// `bind(2)`, once the address is there.
    PostBind,
    /// `connect(2)`.
    Connect,
    /// `getpeername(2)`.
    PeerName,
    /// `getsockname(2)`.
    SockName,
}

/// A program has allowed any port, without privilege.
const BIND_NO_CAP: u32 = 1;

/// The TCP socket that programs are run on.
///
/// # Invariants
///
/// It is a live TCP socket of the kernel's that nobody else knows, and this value owns it. Between
/// two runs it has no address.
pub(super) struct StandIn(NonNull<bindings::socket>);

impl StandIn {
    /// Makes one. Sleeps.
    fn new(net: &Net, is_v6: bool) -> Result<Self> {
        let family = if is_v6 {
            bindings::AF_INET6
        } else {
            bindings::AF_INET
        };
        let mut socket = null_mut();
        // SAFETY: The namespace is live. It stays so as long as the socket that this is for does,
        // which lets this go first.
        to_result(unsafe {
            bindings::sock_create_kern(
                net.as_ptr(),
                family as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &mut socket,
            )
        })?;
        // INVARIANT: It was just made.
        NonNull::new(socket).map(Self).ok_or(ENOMEM)
    }

    fn sk(&self) -> *mut bindings::sock {
        // SAFETY: By the type invariant. The kernel crate has no fields of the type.
        unsafe { (*self.0.as_ptr()).sk.cast() }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_release(self.0.as_ptr()) };
    }
}

/// The addresses of an inet `struct sock`, as bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// `sk_addrpair` and `sk_portpair`.
    pairs: (u64, u32),
    /// `inet_saddr` and `inet_sport`.
    source: (u32, u16),
    /// `sk_v6_rcv_saddr` and `sk_v6_daddr`.
    #[cfg(CONFIG_IPV6)]
    v6: [[u8; 16]; 2],
}

impl Ends {
    const NONE: Self = Self {
        pairs: (0, 0),
        source: (0, 0),
        #[cfg(CONFIG_IPV6)]
        v6: [[0; 16]; 2],
    };

    /// # Safety
    ///
    /// `sk` is live and locked, and begins with an `inet_sock`.
    unsafe fn of(sk: *mut bindings::sock) -> Self {
        let inet = sk.cast::<bindings::inet_sock>();
        // SAFETY: By the contract; the unions are of integers that are as long as is read.
        unsafe {
            let common = addr_of_mut!((*sk).__sk_common);
            Self {
                pairs: (
                    addr_of!((*common).__bindgen_anon_1).cast::<u64>().read(),
                    addr_of!((*common).__bindgen_anon_3).cast::<u32>().read(),
                ),
                source: ((*inet).inet_saddr, (*inet).inet_sport),
                #[cfg(CONFIG_IPV6)]
                v6: [
                    addr_of!((*common).skc_v6_rcv_saddr)
                        .cast::<[u8; 16]>()
                        .read(),
                    addr_of!((*common).skc_v6_daddr).cast::<[u8; 16]>().read(),
                ],
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Self::of`].
    unsafe fn set(self, sk: *mut bindings::sock) {
        let inet = sk.cast::<bindings::inet_sock>();
        // SAFETY: By the contract, as above.
        unsafe {
            let common = addr_of_mut!((*sk).__sk_common);
            addr_of_mut!((*common).__bindgen_anon_1)
                .cast::<u64>()
                .write(self.pairs.0);
            addr_of_mut!((*common).__bindgen_anon_3)
                .cast::<u32>()
                .write(self.pairs.1);
            ((*inet).inet_saddr, (*inet).inet_sport) = self.source;
            #[cfg(CONFIG_IPV6)]
            {
                addr_of_mut!((*common).skc_v6_rcv_saddr)
                    .cast::<[u8; 16]>()
                    .write(self.v6[0]);
                addr_of_mut!((*common).skc_v6_daddr)
                    .cast::<[u8; 16]>()
                    .write(self.v6[1]);
            }
        }
    }

    /// The local address and port.
    fn local(self, is_v6: bool) -> SocketAddr {
        let port = u16::from_be(self.source.1);
        #[cfg(CONFIG_IPV6)]
        if is_v6 {
            return from_v6(Ipv6Addr::from(self.v6[0]), port, 0);
        }
        let _ = is_v6;
        (Ipv4Addr::from(self.source.0.to_ne_bytes()), port).into()
    }
}

/// What programs may read and set, except for the addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Settings {
    mark: u32,
    priority: u32,
    interface: c_int,
    buffers: [c_int; 2],
    /// Which of the buffers were set.
    locks: u8,
    rcvlowat: c_int,
}

impl Settings {
    const LOCKS: u8 = (bindings::SOCK_SNDBUF_LOCK | bindings::SOCK_RCVBUF_LOCK) as u8;

    /// # Safety
    ///
    /// `sk` is live.
    unsafe fn of(sk: *mut bindings::sock) -> Self {
        // SAFETY: By the contract; they are integers that may change at any time.
        unsafe {
            Self {
                mark: addr_of!((*sk).sk_mark).read_volatile(),
                priority: addr_of!((*sk).sk_priority).read_volatile(),
                interface: addr_of!((*sk).__sk_common.skc_bound_dev_if).read_volatile(),
                buffers: [
                    addr_of!((*sk).sk_sndbuf).read_volatile(),
                    addr_of!((*sk).sk_rcvbuf).read_volatile(),
                ],
                locks: addr_of!((*sk).sk_userlocks).read_volatile() & Self::LOCKS,
                rcvlowat: addr_of!((*sk).sk_rcvlowat).read_volatile(),
            }
        }
    }

    /// # Safety
    ///
    /// `sk` is live and locked.
    unsafe fn set(self, sk: *mut bindings::sock) {
        // SAFETY: By the contract; others may look at any time.
        unsafe {
            addr_of_mut!((*sk).sk_mark).write_volatile(self.mark);
            addr_of_mut!((*sk).sk_priority).write_volatile(self.priority);
            addr_of_mut!((*sk).__sk_common.skc_bound_dev_if).write_volatile(self.interface);
            let [send, recv] = self.buffers;
            addr_of_mut!((*sk).sk_sndbuf).write_volatile(send);
            addr_of_mut!((*sk).sk_rcvbuf).write_volatile(recv);
            let others = (*sk).sk_userlocks & !Self::LOCKS;
            addr_of_mut!((*sk).sk_userlocks).write_volatile(others | self.locks);
            addr_of_mut!((*sk).sk_rcvlowat).write_volatile(self.rcvlowat);
        }
    }
}

/// A `struct sockaddr_in` or `struct sockaddr_in6`, with room for any address.
#[repr(C, align(8))]
struct Storage([u8; 128]);

impl Storage {
    fn new(addr: &SocketAddr, is_v6: bool) -> (Self, c_int) {
        let mut bytes = [0; 128];
        let mut put = |at: usize, value: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        };
        put(2, &addr.port().to_be_bytes());
        let (family, len) = match (addr, is_v6) {
            (SocketAddr::V4(addr), false) => {
                put(4, &addr.ip().octets());
                (bindings::AF_INET, 16)
            }
            (SocketAddr::V4(addr), true) => {
                put(8, &addr.ip().to_ipv6_mapped().octets());
                (bindings::AF_INET6, 28)
            }
            (SocketAddr::V6(addr), _) => {
                put(8, &addr.ip().octets());
                put(24, &addr.scope_id().to_ne_bytes());
                (bindings::AF_INET6, 28)
            }
        };
        // CAST: It is a small number.
        put(0, &(family as u16).to_ne_bytes());
        (Self(bytes), len)
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or([0; N])
    }

    fn addr(&self, is_v6: bool) -> SocketAddr {
        let port = u16::from_be_bytes(self.get(2));
        if !is_v6 {
            return (Ipv4Addr::from(self.get::<4>(4)), port).into();
        }
        let scope = u32::from_ne_bytes(self.get(24));
        from_v6(Ipv6Addr::from(self.get::<16>(8)), port, scope)
    }
}

/// The address of an IPv6 socket: an IPv4 one if it is v4-mapped.
fn from_v6(ip: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    match ip.to_ipv4_mapped() {
        Some(ip) => (ip, port).into(),
        None => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

/// The result of the programs.
struct Verdict {
    /// Flags that they returned.
    flags: u32,
    /// The address that a program has bound the socket to.
    bound: Option<SocketAddr>,
}

impl<P: Protocol, F> SockGuard<'_, P, F> {
    /// For `bind(2)`: returns the address to bind, and whether any port is allowed. Sleeps. Fails
    /// with `EPERM` where a program refuses, and with `ENOMEM`.
    pub(crate) fn filter_bind(&mut self, addr: SocketAddr) -> Result<(SocketAddr, bool)> {
        let (addr, verdict) = self.filter_addr(Hook::Bind, addr)?;
        Ok((addr, verdict.flags & BIND_NO_CAP != 0))
    }

    /// For `bind(2)`, once the socket has its address. Sleeps. Fails with `EPERM` where a program
    /// refuses that, and with `ENOMEM`.
    pub(crate) fn filter_post_bind(&mut self) -> Result {
        self.filter(Hook::PostBind)
    }

    /// For `connect(2)`: returns the peer to connect to, and the address that a program bound the
    /// socket to, if one did. Sleeps. Fails with `EPERM` where a program refuses, and with
    /// `ENOMEM`.
    pub(crate) fn filter_connect(
        &mut self,
        peer: SocketAddr,
    ) -> Result<(SocketAddr, Option<SocketAddr>)> {
        let (peer, verdict) = self.filter_addr(Hook::Connect, peer)?;
        Ok((peer, verdict.bound))
    }

    fn filter_addr(&mut self, hook: Hook, addr: SocketAddr) -> Result<(SocketAddr, Verdict)> {
        let is_v6 = self.is_v6();
        let (mut storage, mut len) = Storage::new(&addr, is_v6);
        let to = storage.0.as_mut_ptr().cast();
        // SAFETY: There is room for any address.
        let verdict = unsafe { self.run(hook, Some((to, &mut len))) }?;
        match verdict {
            Some(verdict) => Ok((storage.addr(is_v6), verdict)),
            // There are no programs.
            None => Ok((
                addr,
                Verdict {
                    flags: 0,
                    bound: None,
                },
            )),
        }
    }

    /// For a call without an address. Sleeps. Fails with `EPERM` where a program refuses, and with
    /// `ENOMEM`.
    pub(super) fn filter(&mut self, hook: Hook) -> Result {
        // SAFETY: There is no address.
        unsafe { self.run(hook, None) }.map(drop)
    }

    /// Has programs change an address that is returned to a caller. Sleeps. Fails with `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `addr` is an address of `len` bytes, with room for any.
    pub(super) unsafe fn filter_name(
        &mut self,
        hook: Hook,
        addr: *mut bindings::sockaddr_unsized,
        len: &mut c_int,
    ) -> Result {
        // SAFETY: By the contract.
        match unsafe { self.run(hook, Some((addr, len))) } {
            Err(e) if e == ENOMEM => Err(e),
            // They cannot refuse it.
            Err(_) | Ok(_) => Ok(()),
        }
    }

    /// Whether programs see an `AF_INET6` socket.
    fn is_v6(&self) -> bool {
        self.sock().version() == IpVersion::V6
    }
}

#[cfg(not(CONFIG_CGROUP_BPF))]
impl<P: Protocol, F> SockGuard<'_, P, F> {
    /// # Safety
    ///
    /// None.
    unsafe fn run(
        &mut self,
        _hook: Hook,
        _addr: Option<(*mut bindings::sockaddr_unsized, &mut c_int)>,
    ) -> Result<Option<Verdict>> {
        Ok(None)
    }
}

#[cfg(CONFIG_CGROUP_BPF)]
impl<P: Protocol, F> SockGuard<'_, P, F> {
    /// Runs the programs of the socket's control group. None without any.
    ///
    /// # Safety
    ///
    /// `addr` is an address, with its length, and room for any.
    unsafe fn run(
        &mut self,
        hook: Hook,
        addr: Option<(*mut bindings::sockaddr_unsized, &mut c_int)>,
    ) -> Result<Option<Verdict>> {
        let is_v6 = self.is_v6();
        let kind = attach_type(hook, is_v6);
        let sk = self.sock().as_ptr();
        // SAFETY: The sock is live.
        if !unsafe { bindings::sdp_helper_cgroup_bpf_sock_enabled(sk, kind) } {
            return Ok(None);
        }
        let sock: &Sock<P> = self.sock();
        let cookie = sock.cookie();
        let slot = self.stand_in();
        let stand_in = match slot {
            Some(stand_in) => stand_in,
            None => slot.insert(StandIn::new(sock.net(), is_v6)?),
        };
        let to = stand_in.sk();
        // SAFETY: The stand-in is live, and known to the holder of the socket's lock alone.
        unsafe { bindings::sdp_helper_lock_sock(to) };
        let mut flags = 0;
        // SAFETY: Both are live and locked, and begin with an `inet_sock`. The control group is
        // that of the socket, which holds it; the stand-in has it for the time of the run only.
        // Nobody else looks at the stand-in.
        let (ran, ends, after) = unsafe {
            let ends = Ends::of(sk);
            let settings = Settings::of(sk);
            settings.set(to);
            ends.set(to);
            (*to).sk_uid = (*sk).sk_uid;
            // CAST: The bits are what matters.
            (*to).__sk_common.skc_cookie.counter = cookie as i64;
            let group = addr_of!((*to).sk_cgrp_data).read();
            addr_of_mut!((*to).sk_cgrp_data).write(addr_of!((*sk).sk_cgrp_data).read());
            let ran = match addr {
                Some((addr, len)) => bindings::__cgroup_bpf_run_filter_sock_addr(
                    to,
                    addr,
                    len,
                    kind,
                    null_mut(),
                    &mut flags,
                ),
                None => bindings::__cgroup_bpf_run_filter_sk(to, kind),
            };
            addr_of_mut!((*to).sk_cgrp_data).write(group);
            let after = Ends::of(to);
            let changed = Settings::of(to);
            // What another call sets just now stays.
            if changed != settings {
                changed.set(sk);
            }
            (ran, ends, after)
        };
        let bound = (after != ends).then(|| after.local(is_v6));
        if bound.is_none() {
            // SAFETY: It is live and locked.
            unsafe { Ends::NONE.set(to) };
        }
        // SAFETY: It was locked above.
        unsafe { bindings::release_sock(to) };
        if bound.is_some() {
            // INVARIANT: It has an address, and maybe a port of TCP's, so that it goes.
            *slot = None;
        }
        to_result(ran)?;
        Ok(Some(Verdict { flags, bound }))
    }
}

#[cfg(CONFIG_CGROUP_BPF)]
fn attach_type(hook: Hook, is_v6: bool) -> bindings::cgroup_bpf_attach_type {
    match (hook, is_v6) {
        (Hook::Create, _) => bindings::cgroup_bpf_attach_type_CGROUP_INET_SOCK_CREATE,
        (Hook::Release, _) => bindings::cgroup_bpf_attach_type_CGROUP_INET_SOCK_RELEASE,
        (Hook::Bind, false) => bindings::cgroup_bpf_attach_type_CGROUP_INET4_BIND,
        (Hook::Bind, true) => bindings::cgroup_bpf_attach_type_CGROUP_INET6_BIND,
        (Hook::PostBind, false) => bindings::cgroup_bpf_attach_type_CGROUP_INET4_POST_BIND,
        (Hook::PostBind, true) => bindings::cgroup_bpf_attach_type_CGROUP_INET6_POST_BIND,
        (Hook::Connect, false) => bindings::cgroup_bpf_attach_type_CGROUP_INET4_CONNECT,
        (Hook::Connect, true) => bindings::cgroup_bpf_attach_type_CGROUP_INET6_CONNECT,
        (Hook::PeerName, false) => bindings::cgroup_bpf_attach_type_CGROUP_INET4_GETPEERNAME,
        (Hook::PeerName, true) => bindings::cgroup_bpf_attach_type_CGROUP_INET6_GETPEERNAME,
        (Hook::SockName, false) => bindings::cgroup_bpf_attach_type_CGROUP_INET4_GETSOCKNAME,
        (Hook::SockName, true) => bindings::cgroup_bpf_attach_type_CGROUP_INET6_GETSOCKNAME,
    }
}
