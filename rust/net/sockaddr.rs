// SPDX-License-Identifier: GPL-2.0

//! Socket addresses between the caller's bytes and [`SocketAddrV4`].

use crate::{
    bindings,
    prelude::*, //
};
use core::net::{
    Ipv4Addr,
    Ipv6Addr,
    SocketAddrV4, //
};

const AF_UNSPEC: u16 = bindings::AF_UNSPEC as u16;
const AF_INET: u16 = bindings::AF_INET as u16;
/// The family of SDP sockets over IPv4.
pub(crate) const AF_INET_SDP: u16 = bindings::AF_INET_SDP as u16;

const AF_INET6: u16 = bindings::AF_INET6 as u16;

/// The bytes of a `struct sockaddr` that a caller gave, copied to the kernel.
pub(crate) struct SockAddr<'a>(&'a [u8]);

impl<'a> SockAddr<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.0.get(at..).ok_or(EINVAL)?;
        bytes.first_chunk().copied().ok_or(EINVAL)
    }

    /// Whether this is `AF_UNSPEC`, with which connect undoes a connection.
    pub(crate) fn is_unspecified(&self) -> Result<bool> {
        Ok(u16::from_ne_bytes(self.array(0)?) == AF_UNSPEC)
    }

    /// The IPv4 address and port.
    ///
    /// Programs give `AF_INET` or the socket's own `family`; those that resolved names for IPv6
    /// also give the any-address or a v4-mapped one of `AF_INET6`. `EINVAL` for an address that
    /// is too short, `EAFNOSUPPORT` for another family, `EADDRNOTAVAIL` for a real IPv6 address.
    pub(crate) fn to_v4(&self, family: u16) -> Result<SocketAddrV4> {
        let given = u16::from_ne_bytes(self.array(0)?);
        let port = u16::from_be_bytes(self.array(2)?);
        // Old programs bind the any-address of no family, and TCP lets them.
        let any = given == AF_UNSPEC && self.array::<4>(4)? == [0; 4];
        if given == AF_INET || given == family || any {
            // The caller has to give the padding of `struct sockaddr_in` too, as TCP wants it.
            let _padding: [u8; 8] = self.array(8)?;
            let ip = Ipv4Addr::from(self.array::<4>(4)?);
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
}
