// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.

use crate::{
    bindings,
    prelude::*, //
};
use core::net::{
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6, //
};
use kernel::types::Opaque;

/// The index of the loopback interface, in each namespace.
pub(crate) const LOOPBACK_INTERFACE: u32 = bindings::LOOPBACK_IFINDEX;

/// The settings of `net.ipv4.tcp_*` that limit how long a peer may be silent; times are in
/// milliseconds.
pub(crate) type TcpSysctls = bindings::sdp_helper_tcp_sysctls;

/// A borrowed `struct net`.
///
/// # Invariants
///
/// It is live.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: A namespace is shared by all threads; C synchronises what is reached through it.
unsafe impl Send for Net {}
// SAFETY: As above.
unsafe impl Sync for Net {}

impl Net {
    /// Borrows a C namespace.
    ///
    /// # Safety
    ///
    /// For `'a` `net` is live.
    pub(super) unsafe fn from_ptr<'a>(net: *mut bindings::net) -> &'a Self {
        // SAFETY: INVARIANT: By the contract; the wrapper is transparent.
        unsafe { &*net.cast() }
    }

    /// How many connection requests may wait: `net.core.somaxconn`, and no more than that of the
    /// initial namespace, since a listener's queues are allocated for all. Any context.
    pub(crate) fn max_backlog(&self) -> usize {
        // SAFETY: It is never freed.
        let host = unsafe { Self::from_ptr(&raw mut bindings::init_net) };
        usize::try_from(self.somaxconn().min(host.somaxconn())).unwrap_or(0)
    }

    /// `net.core.somaxconn`.
    pub(crate) fn somaxconn(&self) -> c_int {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_somaxconn(self.as_ptr()) }
    }

    /// Whether programs may ask for TCP Fast Open (`net.ipv4.tcp_fastopen`).
    pub(crate) fn is_fastopen_client(&self) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_is_fastopen_client(self.as_ptr()) }
    }

    /// The settings for TCP's sockets in this namespace. Any context.
    pub(crate) fn tcp_sysctls(&self) -> TcpSysctls {
        let mut sysctls = TcpSysctls::default();
        // SAFETY: The namespace is live, and there is the room.
        unsafe { bindings::sdp_helper_tcp_sysctls(self.as_ptr(), &mut sysctls) };
        sysctls
    }

    /// Whether this is a local address, seen from an interface: on that, or in its VRF; 0 is no
    /// interface. Any context.
    pub(crate) fn is_local(&self, addr: &SocketAddr, interface: u32) -> bool {
        match addr {
            SocketAddr::V4(addr) => {
                let ip = u32::from_ne_bytes(addr.ip().octets());
                // SAFETY: The namespace is live.
                unsafe { bindings::sdp_helper_is_local(self.as_ptr(), ip, interface) }
            }
            SocketAddr::V6(addr) => {
                let ip = in6_addr(addr.ip());
                // SAFETY: The namespace and the address are live.
                unsafe { bindings::sdp_helper_is_local6(self.as_ptr(), &ip, interface) }
            }
        }
    }

    /// Whether it has an interface with this index. Any context.
    pub(crate) fn has_interface(&self, index: u32) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_has_interface(self.as_ptr(), index) }
    }

    /// The VRF of an interface, or 0. Any context.
    pub(crate) fn vrf_of(&self, interface: u32) -> u32 {
        if interface == 0 {
            return 0;
        }
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_l3mdev_master(self.as_ptr(), interface) }
    }

    /// `net.ipv4.tcp_l3mdev_accept`: whether a listener that is bound to no VRF accepts from all.
    /// Any context.
    pub(crate) fn accepts_from_vrfs(&self) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_tcp_l3mdev_accept(self.as_ptr()) }
    }

    /// Its local IPv4 addresses other than loopback ones, by an index from 0 on. Any context.
    pub(crate) fn own_v4(&self, at: u32) -> Option<SocketAddr> {
        // SAFETY: The namespace is live.
        let addr = unsafe { bindings::sdp_helper_own_addr(self.as_ptr(), at) };
        (addr != 0).then(|| SocketAddrV4::new(Ipv4Addr::from(addr.to_ne_bytes()), 0).into())
    }

    /// As [`Self::own_v4`], for IPv6.
    pub(crate) fn own_v6(&self, at: u32) -> Option<SocketAddr> {
        let mut addr = bindings::in6_addr::default();
        // SAFETY: The namespace is live, and there is room for an address.
        let scope = unsafe { bindings::sdp_helper_own_addr6(self.as_ptr(), at, &mut addr) };
        // SAFETY: Any bytes are a valid array of bytes.
        let ip = Ipv6Addr::from(unsafe { addr.in6_u.u6_addr8 });
        let scope = u32::try_from(scope).ok()?;
        Some(SocketAddrV6::new(ip, 0, 0, scope).into())
    }

    /// Whether the current task may bind to a port, which is privileged below
    /// `net.ipv4.ip_unprivileged_port_start`. Process context.
    pub(crate) fn may_bind(&self, port: u16) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_may_bind(self.as_ptr(), port) }
    }

    /// Whether there are reserved ports ([`Self::is_reserved`]). Any context.
    pub(crate) fn has_reserved_ports(&self) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_has_reserved_ports(self.as_ptr()) }
    }

    /// Whether a port must not be chosen for a socket that asks for any
    /// (`net.ipv4.ip_local_reserved_ports`). Any context.
    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_is_reserved(self.as_ptr(), port) }
    }

    /// The C namespace, valid as long as `self`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}

/// An IPv6 address as C has it.
pub(super) fn in6_addr(ip: &Ipv6Addr) -> bindings::in6_addr {
    let mut addr = bindings::in6_addr::default();
    addr.in6_u.u6_addr8 = ip.octets();
    addr
}
