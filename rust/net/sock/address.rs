// SPDX-License-Identifier: GPL-2.0

//! The addresses and ports of a sock, where C looks for them.

use crate::{
    bindings,
    net::{
        namespace::in6_addr,
        ops::Protocol,
        random,
        sock::Sock,
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::{
    net::{
        IpAddr,
        Ipv4Addr,
        SocketAddr, //
    },
    ptr::{
        addr_of,
        addr_of_mut, //
    }, //
};
use kernel::error::to_result;

/// What the kernel stores as the IPv4 address of a socket that has an IPv6 one.
const LOOPBACK4_IPV6: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// The bit of what the program has chosen that stands for the port.
// CAST: It is 8.
const CHOSEN_PORT: u8 = bindings::SOCK_BINDPORT_LOCK as u8;

/// The IPv4 address that the kernel keeps for `ip`.
pub(in crate::net) fn kept_v4(ip: IpAddr) -> u32 {
    let ip = match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(_) => LOOPBACK4_IPV6,
    };
    u32::from_ne_bytes(ip.octets())
}

/// The IPv6 address that the kernel keeps for `ip`.
fn kept_v6(ip: IpAddr) -> bindings::in6_addr {
    in6_addr(&match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    })
}

/// The route to a peer.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    /// The address and port that the connection comes from; port 0 is any.
    pub(crate) source: SocketAddr,
    /// The interface by which it leaves, or 0 where the peer is this host.
    pub(crate) interface: u32,
}

impl<P: Protocol> Sock<P> {
    /// Sets the local address. Any context.
    pub(crate) fn set_local(&self, addr: SocketAddr) {
        let ip = kept_v4(addr.ip());
        // SAFETY: The sock is live and begins with an `inet_sock`; the fields are read at any time.
        unsafe {
            let inet = addr_of_mut!((*self.0.get()).inet);
            let (addrs, ports) = self.pairs();
            addr_of_mut!((*addrs).skc_rcv_saddr).write_volatile(ip);
            addr_of_mut!((*ports).skc_num).write_volatile(addr.port());
            addr_of_mut!((*inet).inet_saddr).write_volatile(ip);
            addr_of_mut!((*inet).inet_sport).write_volatile(addr.port().to_be());
            if self.version() == IpVersion::V6 {
                let ip = kept_v6(addr.ip());
                let common = addr_of_mut!((*self.as_ptr()).__sk_common);
                addr_of_mut!((*common).skc_v6_rcv_saddr).write_volatile(ip);
                addr_of_mut!((*self.0.get()).pinet6.saddr).write_volatile(ip);
            }
        }
    }

    /// Sets the local address of a socket whose connection is over. As with TCP the socket goes on
    /// to show the port of the connection, if it has none without. Any context.
    pub(crate) fn reset_local(&self, addr: SocketAddr) {
        // SAFETY: As in `set_local()`.
        let shown = unsafe { addr_of_mut!((*self.0.get()).inet.inet_sport) };
        // SAFETY: As above.
        let former = unsafe { shown.read_volatile() };
        self.set_local(addr);
        if addr.port() == 0 {
            // SAFETY: As above.
            unsafe { shown.write_volatile(former) };
        }
    }

    /// Notes that the program has chosen the port, for diagnostics. With the socket locked.
    pub(crate) fn note_chosen_port(&self) {
        // SAFETY: The sock is live, and locked by who changes the bits.
        unsafe {
            let locks = addr_of_mut!((*self.as_ptr()).sk_userlocks);
            locks.write_volatile(locks.read_volatile() | CHOSEN_PORT);
        }
    }

    /// Whether the program has chosen the port. Any context.
    pub(in crate::net) fn has_chosen_port(&self) -> bool {
        // SAFETY: The sock is live; bits that change under its lock.
        unsafe { addr_of!((*self.as_ptr()).sk_userlocks).read_volatile() & CHOSEN_PORT != 0 }
    }

    /// Whether it has a local port. Any context.
    pub(crate) fn has_port(&self) -> bool {
        let (_, ports) = self.pairs();
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*ports).skc_num).read_volatile() != 0 }
    }

    /// Sets the peer's address. Any context.
    pub(crate) fn set_peer(&self, addr: SocketAddr) {
        let ip = kept_v4(addr.ip());
        let (addrs, ports) = self.pairs();
        // SAFETY: As in `set_local()`.
        unsafe {
            addr_of_mut!((*addrs).skc_daddr).write_volatile(ip);
            addr_of_mut!((*ports).skc_dport).write_volatile(addr.port().to_be());
            if self.version() == IpVersion::V6 {
                let common = addr_of_mut!((*self.as_ptr()).__sk_common);
                addr_of_mut!((*common).skc_v6_daddr).write_volatile(kept_v6(addr.ip()));
            }
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

    /// The index of the interface that it is bound to, or 0 (`SO_BINDTODEVICE`, or the scope of a
    /// link-local address). Any context.
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: The sock is live; the field is an integer.
        let index =
            unsafe { addr_of!((*self.as_ptr()).__sk_common.skc_bound_dev_if).read_volatile() };
        u32::try_from(index).unwrap_or(0)
    }

    /// Binds it to an interface, which need not exist. With the socket locked, unless nobody else
    /// knows it.
    pub(crate) fn set_interface(&self, index: u32) {
        let index = c_int::try_from(index).unwrap_or(0);
        // SAFETY: The sock is live; the field is read at any time.
        unsafe {
            addr_of_mut!((*self.as_ptr()).__sk_common.skc_bound_dev_if).write_volatile(index);
        }
    }

    /// The route to a peer, as TCP looks for it: for this socket and its user, from `source`, whose
    /// address may be the unspecified one. With the socket locked. Fails with the error of the
    /// route, such as `ENETUNREACH`, also for an IPv4 address of many hosts, and for a source that
    /// is not here.
    pub(crate) fn route_to(&self, peer: SocketAddr, source: SocketAddr) -> Result<Route> {
        let (to, from) = (peer.port().to_be(), source.port().to_be());
        let mut ip = source.ip();
        let interface = match (peer, &mut ip) {
            (SocketAddr::V4(peer), IpAddr::V4(ip)) => {
                let mut addr = u32::from_ne_bytes(ip.octets());
                let peer = u32::from_ne_bytes(peer.ip().octets());
                // SAFETY: The sock is live, locked, and begins with an `inet_sock`.
                let index = unsafe {
                    bindings::sdp_helper_find_route4(self.as_ptr(), peer, to, &mut addr, from)
                };
                *ip = addr.to_ne_bytes().into();
                index
            }
            (SocketAddr::V6(peer), IpAddr::V6(ip)) => {
                let mut addr = in6_addr(ip);
                let peer = in6_addr(peer.ip());
                // SAFETY: As above, and one that connects to such a peer is of IPv6.
                let index = unsafe {
                    bindings::sdp_helper_find_route6(self.as_ptr(), &peer, to, &mut addr, from)
                };
                // SAFETY: Any bytes are a valid array of bytes.
                *ip = unsafe { addr.in6_u.u6_addr8 }.into();
                index
            }
            _ => return Err(EINVAL),
        };
        to_result(interface)?;
        let interface = u32::try_from(interface)?;
        let mut source = SocketAddr::new(ip, source.port());
        if let (SocketAddr::V6(source), SocketAddr::V6(peer)) = (&mut source, peer) {
            if source.ip().is_unicast_link_local() {
                source.set_scope_id(match interface {
                    0 => peer.scope_id(),
                    index => index,
                });
            }
        }
        Ok(Route { source, interface })
    }

    /// Whether bind is to leave the port to connect (`IP_BIND_ADDRESS_NO_PORT`). Any context.
    pub(crate) fn binds_without_port(&self) -> bool {
        self.inet_flag(bindings::INET_FLAGS_BIND_ADDRESS_NO_PORT)
    }

    /// Whether it may be bound to an address that no interface has: `IP_FREEBIND`,
    /// `IP_TRANSPARENT`, and `net.ipv4.ip_nonlocal_bind` or its IPv6 counterpart. Any context.
    pub(crate) fn may_bind_nonlocal(&self, version: IpVersion) -> bool {
        // SAFETY: The sock is live, and begins with an `inet_sock`.
        unsafe {
            match version {
                IpVersion::V4 => bindings::sdp_helper_inet_can_nonlocal_bind(self.as_ptr()),
                IpVersion::V6 => bindings::sdp_helper_ipv6_can_nonlocal_bind(self.as_ptr()),
            }
        }
    }

    /// Whether some ports of `net.ipv4.ip_local_port_range` may not be chosen for it
    /// (`IP_LOCAL_PORT_RANGE`, `net.ipv4.ip_local_reserved_ports`). Any context.
    pub(crate) fn has_fewer_ports(&self) -> bool {
        // SAFETY: The sock is live and begins with an `inet_sock`; the field is an integer.
        let range = unsafe { addr_of!((*self.0.get()).inet.local_port_range).read_volatile() };
        range != 0 || self.net().has_reserved_ports()
    }

    /// The ports that may be chosen for it, each once, beginning at a random one. Any context.
    pub(crate) fn local_ports(&self) -> impl Iterator<Item = u16> {
        let (mut low, mut high) = (0, 0);
        // SAFETY: The sock is live and begins with an `inet_sock`.
        unsafe { bindings::inet_sk_get_local_port_range(self.as_ptr(), &mut low, &mut high) };
        // CAST: Any bits will do.
        let from = random() as u32;
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
