// SPDX-License-Identifier: GPL-2.0

//! Diagnostics of a namespace's sockets: a file in `/proc/net`, one socket a line, and `sock_diag`,
//! which speaks inet_diag's protocol for our families.

mod bytecode;
mod lines;
mod query;

pub(super) use lines::lines;
pub(super) use query::Registration;

use crate::{
    net::{
        ops::Protocol,
        sock::{
            Sock,
            TcpState, //
        },
        sockaddr::IpVersion,
        tcp_info::TcpInfo, //
    },
    prelude::*, //
};
use core::net::{
    IpAddr,
    SocketAddr, //
};
use kernel::sync::aref::ARef;

/// A socket as diagnostics show it: a listener, a connection, or a socket that is only bound.
pub(crate) struct View<P: Protocol> {
    /// The version of IP that its family is for.
    pub(crate) version: IpVersion,
    /// Its state; `Close` is that of a socket that is only bound.
    pub(crate) state: TcpState,
    /// The local address and port.
    pub(crate) local: SocketAddr,
    /// The peer's address and port; unspecified without a peer.
    pub(crate) peer: SocketAddr,
    /// Bytes that can be read, or for a listener the connections that can be accepted.
    pub(crate) recv_queue: usize,
    /// Bytes that have not reached the peer, or for a listener its backlog.
    pub(crate) send_queue: usize,
    /// Whether the receive half is shut down, and whether the send half is.
    pub(crate) shut: (bool, bool),
    /// What its timer waits for.
    pub(crate) timer: Option<Timer>,
    /// The user that owns it, in the initial user namespace.
    pub(crate) uid: u32,
    /// The cookie, which is unique.
    pub(crate) cookie: u64,
    /// The socket of a program, if one has it.
    pub(crate) sock: Option<ARef<Sock<P>>>,
}

/// When the peer is next probed.
#[derive(Clone, Copy)]
pub(crate) struct Timer {
    /// It is probed since it is idle, and not since it does not take what was written.
    pub(crate) is_keepalive: bool,
    /// How many probes have no answer.
    pub(crate) probes: u32,
    /// In how many milliseconds.
    pub(crate) in_ms: u32,
}

impl<P: Protocol> View<P> {
    fn family(&self) -> c_int {
        match self.version {
            IpVersion::V4 => P::FAMILY,
            IpVersion::V6 => P::FAMILY6,
        }
    }

    /// `addr` as sockets of the family show it.
    fn shown(&self, addr: SocketAddr) -> SocketAddr {
        match (self.version, addr.ip()) {
            (IpVersion::V6, IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), addr.port()).into(),
            _ => addr,
        }
    }
}

/// What diagnostics can show.
pub(crate) trait Visible<P: Protocol>: Send + Sync {
    /// Its present state, or `None` if it has ended, or is listed elsewhere. May sleep.
    fn view(&self) -> Option<View<P>>;

    /// What `TCP_INFO` tells of it, but for what is the socket's. May sleep.
    fn info(&self) -> TcpInfo;

    /// The name that `TCP_CONGESTION` gives. Any context.
    fn congestion(&self) -> [u8; 16];

    /// Ends it; its program is told `ECONNABORTED`. May sleep. Fails with `ENOENT` if it has ended,
    /// or cannot be ended.
    fn abort(&self) -> Result;
}

/// The address in words in network order, and how many it has.
fn words(ip: IpAddr) -> ([u32; 4], usize) {
    match ip {
        IpAddr::V4(ip) => ([u32::from_ne_bytes(ip.octets()), 0, 0, 0], 1),
        IpAddr::V6(ip) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(ip.octets().chunks_exact(4)) {
                *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
            }
            (words, 4)
        }
    }
}

/// A length as C stores it.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
