// SPDX-License-Identifier: GPL-2.0

//! Converts socket addresses of callers to [`SocketAddr`].

use crate::{
    bindings,
    prelude::*, //
};
use core::net::{
    IpAddr,
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6, //
};

const AF_UNSPEC: u16 = bindings::AF_UNSPEC as u16;
const AF_INET: u16 = bindings::AF_INET as u16;
const AF_INET6: u16 = bindings::AF_INET6 as u16;
/// The family of SDP sockets over IPv4.
pub(crate) const AF_INET_SDP: u16 = bindings::AF_INET_SDP as u16;
/// The family of SDP sockets over IPv6.
pub(crate) const AF_INET6_SDP: u16 = bindings::AF_INET6_SDP as u16;

/// A version of IP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The version of an address.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The unspecified address.
    pub(crate) const fn any(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The unspecified address and no port.
    pub(crate) const fn nobody(self) -> SocketAddr {
        SocketAddr::new(self.any(), 0)
    }

    /// The loopback address.
    pub(crate) const fn localhost(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }
}

/// The bytes of a `struct sockaddr` that a caller gave, copied to the kernel.
pub(crate) struct SockAddr<'a>(&'a [u8]);

impl<'a> SockAddr<'a> {
    /// An address in these bytes, which may be too short for it.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.0.get(at..).ok_or(EINVAL)?;
        bytes.first_chunk().copied().ok_or(EINVAL)
    }

    /// Whether this is `AF_UNSPEC`, with which connect disconnects. Fails with `EINVAL` where it is
    /// too short for a family.
    pub(crate) fn is_unspecified(&self) -> Result<bool> {
        Ok(u16::from_ne_bytes(self.array(0)?) == AF_UNSPEC)
    }

    /// The IPv4 address and port.
    ///
    /// Programs give `AF_INET` or the socket's own `family`; those that resolve names for IPv6 also
    /// give the unspecified address or a v4-mapped one of `AF_INET6`. Fails with `EINVAL` for an
    /// address that is too short, `EAFNOSUPPORT` for another family, and `EADDRNOTAVAIL` for
    /// another IPv6 address.
    pub(crate) fn to_v4(&self, family: u16) -> Result<SocketAddrV4> {
        let given = u16::from_ne_bytes(self.array(0)?);
        let port = u16::from_be_bytes(self.array(2)?);
        let ip = Ipv4Addr::from(self.array::<4>(4)?);
        // As with TCP the padding of `struct sockaddr_in` has to be there, whatever the family.
        let _padding: [u8; 8] = self.array(8)?;
        // Old programs bind the unspecified address with AF_UNSPEC, which TCP allows.
        let any = given == AF_UNSPEC && ip.is_unspecified();
        if given == AF_INET || given == family || any {
            Ok(SocketAddrV4::new(ip, port))
        } else if given == AF_INET6 {
            let ip = Ipv6Addr::from(self.array::<16>(8)?);
            let ip = if ip.is_unspecified() {
                Ipv4Addr::UNSPECIFIED
            } else {
                ip.to_ipv4_mapped().ok_or(EADDRNOTAVAIL)?
            };
            Ok(SocketAddrV4::new(ip, port))
        } else {
            Err(EAFNOSUPPORT)
        }
    }

    /// The address and port for an IPv6 socket: an IPv4 one if it is v4-mapped, and with the scope
    /// if it is link-local.
    ///
    /// Programs give `AF_INET6` or the socket's own `family`. Fails with `EINVAL` for an address
    /// that is too short, and with `EAFNOSUPPORT` for another family.
    pub(crate) fn to_v6(&self, family: u16) -> Result<SocketAddr> {
        let given = u16::from_ne_bytes(self.array(0)?);
        let port = u16::from_be_bytes(self.array(2)?);
        let ip = Ipv6Addr::from(self.array::<16>(8)?);
        if given != AF_INET6 && given != family {
            return Err(EAFNOSUPPORT);
        }
        if let Some(ip) = ip.to_ipv4_mapped() {
            return Ok(SocketAddrV4::new(ip, port).into());
        }
        let scope = if ip.is_unicast_link_local() {
            // The first version of `struct sockaddr_in6` had none, and is still allowed.
            self.array(24).map_or(0, u32::from_ne_bytes)
        } else {
            0
        };
        Ok(SocketAddrV6::new(ip, port, 0, scope).into())
    }
}
