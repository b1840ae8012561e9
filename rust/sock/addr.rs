// SPDX-License-Identifier: GPL-2.0

//! The addresses of a connection's ends.

use crate::{
    net::sockaddr::{
        IpVersion,
        SockAddr,
        AF_INET6_SDP,
        AF_INET_SDP, //
    },
    prelude::*,
    sock::Socket, //
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

/// The addresses of a connection's ends, as programs see them.
#[derive(Clone, Copy)]
pub(super) struct Names {
    /// This end's address and port; the port is 0 while it is not known.
    pub(super) local: SocketAddr,
    /// The peer's address and port.
    pub(super) peer: SocketAddr,
}
