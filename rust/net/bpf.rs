// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of control groups that filter calls on inet sockets: they refuse a socket, an
//! address or a connection, or replace an address. Those that filter packets see what would make a
//! connection of TCP, once for each of ours.
//!
//! The kernel runs them for sockets of `AF_INET` and `AF_INET6` only, and lets them access one with
//! protocol `IPPROTO_TCP` as a `struct tcp_sock`. Ours are neither. So a socket whose control group
//! has programs gets a [`StandIn`]: a TCP socket without packets or a file, on which they are run.
//! What they may read is copied to it before, and what they may set is copied back.
//!
//! Lock: `lock_sock()` of the stand-in, below that of its socket.

mod stand_in;

pub(super) use stand_in::StandIn;

#[cfg(CONFIG_CGROUP_BPF)]
use stand_in::Ends;

use crate::{
    bindings,
    net::{
        ops::Protocol,
        sock::{
            Sock,
            SockGuard, //
        },
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::net::{
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV6, //
};

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
const BIND_NO_CAP: u32 = bindings::BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE;

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
        let (cookie, net) = (self.sock().cookie(), self.sock().net());
        let slot = self.stand_in();
        let stand_in = match slot {
            Some(stand_in) => stand_in,
            None => slot.insert(StandIn::new(net, is_v6)?),
        };
        // SAFETY: The sock is live and locked, and begins with an `inet_sock`; the address is as
        // the caller promises.
        let (ran, flags, bound) = unsafe { stand_in.run(sk, cookie, kind, addr) };
        if bound.is_some() {
            // It has an address, and maybe a port of TCP's.
            *slot = None;
        }
        ran?;
        Ok(Some(Verdict { flags, bound }))
    }
}

impl<P: Protocol> Sock<P> {
    /// Has the programs that filter packets see those with which TCP would make a connection
    /// between these addresses, by an interface: a SYN, which this end sends if it `connects`, and
    /// its answer. Sleeps. Fails with `EPERM` where they drop one, and with `ENOMEM`.
    #[cfg(CONFIG_CGROUP_BPF)]
    pub(crate) fn filter_handshake(
        &self,
        connects: bool,
        local: SocketAddr,
        peer: SocketAddr,
        interface: u32,
    ) -> Result {
        let kinds = [
            bindings::cgroup_bpf_attach_type_CGROUP_INET_INGRESS,
            bindings::cgroup_bpf_attach_type_CGROUP_INET_EGRESS,
        ];
        let is_filtered = kinds.into_iter().any(|kind| {
            // SAFETY: The sock is live.
            unsafe { bindings::sdp_helper_cgroup_bpf_sock_enabled(self.as_ptr(), kind) }
        });
        if !is_filtered {
            return Ok(());
        }
        let interface = c_int::try_from(interface).unwrap_or(0);
        let ends = Ends::between(local, peer);
        let mut stand_in = StandIn::new(self.net(), self.version() == IpVersion::V6)?;
        // SAFETY: The sock is live, and begins with an `inet_sock`.
        unsafe {
            stand_in.filter_handshake(self.as_ptr(), self.cookie(), ends, interface, connects)
        }
    }

    /// As above, without such programs.
    #[cfg(not(CONFIG_CGROUP_BPF))]
    pub(crate) fn filter_handshake(
        &self,
        _connects: bool,
        _local: SocketAddr,
        _peer: SocketAddr,
        _interface: u32,
    ) -> Result {
        Ok(())
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
