// SPDX-License-Identifier: GPL-2.0

//! The TCP socket on which the BPF programs of a control group run: what they may read is copied to
//! it before, and what they may set is copied back. Another such socket tells what TCP says of an
//! option.

use super::from_v6;
use crate::{
    bindings,
    net::{
        namespace::Net,
        optval::{
            OptionRoom,
            OptionValue, //
        },
        sock::kept_v4, //
    },
    prelude::*, //
};
use core::{
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr, //
    },
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut,
        NonNull, //
    },
};
use kernel::error::to_result;

/// A TCP socket without packets or a file.
///
/// # Invariants
///
/// It is a live TCP socket of the kernel's that nobody else knows, and this value owns it. Between
/// two runs it has no address.
pub(in crate::net) struct StandIn(NonNull<bindings::socket>);

impl StandIn {
    /// Makes one. Sleeps. Fails with `ENOMEM`.
    pub(in crate::net) fn new(net: &Net, is_v6: bool) -> Result<Self> {
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

    /// Sets an option of it, as the current task may. Sleeps. Fails as TCP does.
    pub(in crate::net) fn set_option(
        &self,
        level: c_int,
        name: c_int,
        value: OptionValue<'_>,
    ) -> Result {
        let socket = self.0.as_ptr();
        let (value, len) = value.raw();
        // SAFETY: By the type invariant it is live, and its operations are TCP's; the value is that
        // of the call.
        to_result(unsafe {
            if level == bindings::SOL_SOCKET as c_int {
                bindings::sock_setsockopt(socket, level, name, value, len)
            } else {
                match (*(*socket).ops).setsockopt {
                    Some(set) => set(socket, level, name, value, len),
                    None => ENOPROTOOPT.to_errno(),
                }
            }
        })
    }

    /// Gives an option of it, above the level of sockets, to the current task. Sleeps. Fails as TCP
    /// does.
    pub(in crate::net) fn option(&self, level: c_int, name: c_int, to: OptionRoom) -> Result {
        let socket = self.0.as_ptr();
        let (value, len) = to.raw();
        // SAFETY: As above; the kernel checks the caller's addresses.
        to_result(unsafe {
            match (*(*socket).ops).getsockopt {
                Some(get) => get(socket, level, name, value, len),
                None => ENOPROTOOPT.to_errno(),
            }
        })
    }

    fn sk(&self) -> *mut bindings::sock {
        // SAFETY: By the type invariant. The kernel crate has no fields of the type.
        unsafe { (*self.0.as_ptr()).sk.cast() }
    }

    /// Runs the programs of the control group of `sk`, on a copy of it. Sleeps. Returns what they
    /// say, the flags that they returned, and the address that one has bound it to: then it has
    /// that, and must not be used again.
    ///
    /// # Safety
    ///
    /// `sk` is live and locked, and begins with an `inet_sock`. `addr` is an address, with its
    /// length, and room for any.
    #[cfg(CONFIG_CGROUP_BPF)]
    pub(super) unsafe fn run(
        &mut self,
        sk: *mut bindings::sock,
        cookie: u64,
        kind: bindings::cgroup_bpf_attach_type,
        addr: Option<(*mut bindings::sockaddr_unsized, &mut c_int)>,
    ) -> (Result, u32, Option<SocketAddr>) {
        let mut flags = 0;
        // SAFETY: By the contract.
        let (ends, settings) = unsafe { (Ends::of(sk), Settings::of(sk)) };
        let run = |to: *mut bindings::sock| {
            // SAFETY: The stand-in is live and locked, and the address as the caller promises; both
            // begin with an `inet_sock`.
            unsafe {
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
                let after = Ends::of(to);
                let changed = Settings::of(to);
                // What another call sets just now stays.
                if changed != settings {
                    changed.set(sk);
                }
                let is_v6 =
                    c_int::from((*to).__sk_common.skc_family) == bindings::AF_INET6 as c_int;
                let bound = (after != ends).then(|| after.local(is_v6));
                if bound.is_none() {
                    Ends::NONE.set(to);
                }
                (to_result(ran), bound)
            }
        };
        // SAFETY: By the contract.
        let (ran, bound) = unsafe { self.with_copy(sk, cookie, (ends, settings), run) };
        (ran, flags, bound)
    }

    /// Has the programs of the control group of `sk` that filter packets see a SYN and its answer
    /// between these ends, by the interface; whether this end `connects`, and sends the SYN.
    /// Sleeps. Fails with `EPERM` where they drop one, and with `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `sk` is live, and begins with an `inet_sock`.
    #[cfg(CONFIG_CGROUP_BPF)]
    pub(super) unsafe fn filter_handshake(
        &mut self,
        sk: *mut bindings::sock,
        cookie: u64,
        ends: Ends,
        interface: c_int,
        connects: bool,
    ) -> Result {
        // SAFETY: By the contract.
        let settings = unsafe { Settings::of(sk) };
        let run = |to: *mut bindings::sock| {
            [false, true].into_iter().try_for_each(|is_answer| {
                let egress = connects != is_answer;
                // SAFETY: The stand-in is live, locked, and a TCP socket.
                to_result(unsafe {
                    bindings::sdp_helper_filter_syn(to, egress, is_answer, interface)
                })
            })
        };
        // SAFETY: By the contract.
        let filtered = unsafe { self.with_copy(sk, cookie, (ends, settings), run) };
        // SAFETY: It is live, and nobody else knows it.
        unsafe { Ends::NONE.set(self.sk()) };
        filtered
    }

    /// Runs `f` on the stand-in, locked, which is a copy of `sk` with these ends and settings.
    /// Sleeps.
    ///
    /// # Safety
    ///
    /// `sk` is live, and begins with an `inet_sock`.
    #[cfg(CONFIG_CGROUP_BPF)]
    unsafe fn with_copy<R>(
        &mut self,
        sk: *mut bindings::sock,
        cookie: u64,
        (ends, settings): (Ends, Settings),
        f: impl FnOnce(*mut bindings::sock) -> R,
    ) -> R {
        let to = self.sk();
        // SAFETY: The stand-in is live, locked, and nobody else knows it. Both begin with an
        // `inet_sock`. The control group is that of the socket, which holds it and does not change
        // it; the stand-in has it for the time of the run only.
        unsafe {
            bindings::sdp_helper_lock_sock(to);
            settings.set(to);
            ends.set(to);
            (*to).sk_uid = (*sk).sk_uid;
            // CAST: The bits are what matters.
            (*to).__sk_common.skc_cookie.counter = cookie as i64;
            let group = addr_of!((*to).sk_cgrp_data).read();
            addr_of_mut!((*to).sk_cgrp_data).write(addr_of!((*sk).sk_cgrp_data).read());
            let result = f(to);
            addr_of_mut!((*to).sk_cgrp_data).write(group);
            bindings::release_sock(to);
            result
        }
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
pub(super) struct Ends {
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

    /// Those of a connection.
    #[cfg(CONFIG_CGROUP_BPF)]
    pub(super) fn between(local: SocketAddr, peer: SocketAddr) -> Self {
        let [own, other] = [local, peer].map(|addr| kept_v4(addr.ip()));
        let (at, to) = (local.port(), peer.port().to_be());
        let ([a, b, c, d], [e, f, g, h]) = (other.to_ne_bytes(), own.to_ne_bytes());
        let ([i, j], [k, l]) = (to.to_ne_bytes(), at.to_ne_bytes());
        Self {
            pairs: (
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
            ),
            source: (own, at.to_be()),
            #[cfg(CONFIG_IPV6)]
            v6: [local, peer].map(|addr| match addr.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            }),
        }
    }

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
