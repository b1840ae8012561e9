// SPDX-License-Identifier: GPL-2.0

//! Socket addresses: those that programs pass, those of this host, and the pair of a connection.

use crate::{
    net::sockaddr::{
        IpVersion,
        SockAddr,
        AF_INET6_SDP,
        AF_INET_SDP, //
    },
    prelude::*,
    sock::types::{
        Net,
        Socket, //
    }, //
};
use core::net::SocketAddr;

/// The address that a program gave.
pub(super) fn address(sk: &Socket, addr: &SockAddr<'_>) -> Result<SocketAddr> {
    match sk.version() {
        IpVersion::V4 => addr.to_v4(AF_INET_SDP).map(SocketAddr::V4),
        IpVersion::V6 => addr.to_v6(AF_INET6_SDP),
    }
}

/// `addr` with another port.
pub(super) fn with_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}

/// The addresses of this host of a version of IP, but for loopback ones, of port 0. Any context.
pub(super) fn own(net: &Net, version: IpVersion) -> impl Iterator<Item = SocketAddr> + use<'_> {
    (0..).map_while(move |at| match version {
        IpVersion::V4 => net.own_v4(at),
        IpVersion::V6 => net.own_v6(at),
    })
}

/// What `bind` makes of the first of `addrs` that has an RDMA device. Fails with `ENODEV` where
/// none has, and as `bind` does.
pub(super) fn with_device<T>(
    addrs: impl Iterator<Item = SocketAddr>,
    bind: impl Fn(SocketAddr) -> Result<T>,
) -> Result<T> {
    for addr in addrs {
        match bind(addr) {
            // The address may have gone meanwhile.
            Err(e) if e == ENODEV || e == EADDRNOTAVAIL => {}
            done => return done,
        }
    }
    Err(ENODEV)
}

/// The addresses of a connection's ends, as programs see them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct AddrPair {
    /// This end's address and port; the port is 0 while it is not known.
    pub(super) local: SocketAddr,
    /// The peer's address and port.
    pub(super) peer: SocketAddr,
}
