// SPDX-License-Identifier: GPL-2.0

//! The two ends, in their namespaces, and sockets in each state.

use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    namespace,
    sock::{
        v6_for,
        Addr,
        Sock,
        AF_INET6_SDP, //
    },
};
use std::{
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    time::{
        Duration,
        Instant, //
    },
};

/// How long something may take that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take, which an option may prevent.
const JOIN: Duration = Duration::from_secs(1);
/// How long to wait for what is not to happen, or is under way.
pub(crate) const MOMENT: Duration = Duration::from_millis(60);

/// The namespaces, and the family of the sockets made there.
pub(crate) struct Sides {
    pub(crate) family: libc::c_int,
    netns: [String; 2],
}

impl Sides {
    pub(crate) fn new(family: libc::c_int, netns: [String; 2]) -> Self {
        Self { family, netns }
    }

    /// Moves the calling thread to the side that connects.
    pub(crate) fn enter_a(&self) {
        namespace::enter(&self.netns[0]).expect("the namespace is there");
    }

    /// Moves the calling thread to the side that listens.
    pub(crate) fn enter_b(&self) {
        namespace::enter(&self.netns[1]).expect("the namespace is there");
    }

    /// Whether the sockets are over IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        matches!(self.family, libc::AF_INET6 | AF_INET6_SDP)
    }

    /// Address `host` of the link, at a port.
    pub(crate) fn addr(&self, host: u8, port: u16) -> Addr {
        let ip = Ipv4Addr::new(10, 27, 0, host);
        match self.is_v6() {
            true => Addr::v6(v6_for(ip), port),
            false => Addr::v4(libc::AF_INET, SocketAddrV4::new(ip, port)),
        }
    }

    /// A new socket where the thread is.
    pub(crate) fn socket(&self) -> Sock {
        Sock::new(self.family, libc::SOCK_STREAM, 0).expect("a socket")
    }

    /// A new socket of the side that connects.
    pub(crate) fn socket_a(&self) -> Sock {
        self.enter_a();
        self.socket()
    }

    /// A listener.
    pub(crate) fn listener(&self) -> (Sock, Addr) {
        self.enter_b();
        let sock = self.socket();
        sock.bind(&self.addr(2, 0)).expect("a port");
        sock.listen(16).expect("a listener");
        let name = sock.name().expect("its address");
        (sock, name)
    }

    /// Connects `sock` and accepts: the accepted end. `EAGAIN` where nothing came.
    pub(crate) fn join(&self, sock: &Sock, listener: &Sock, to: &Addr) -> Result<Sock> {
        self.join_with(sock, listener, to, b"")
    }

    /// The same, with bytes sent before it is accepted.
    pub(crate) fn join_with(
        &self,
        sock: &Sock,
        listener: &Sock,
        to: &Addr,
        first: &[u8],
    ) -> Result<Sock> {
        self.ask(sock, listener, to, first)?;
        self.take(listener)
    }

    /// Connects `sock` and sends bytes, so that it can be accepted.
    pub(crate) fn ask(&self, sock: &Sock, listener: &Sock, to: &Addr, first: &[u8]) -> Result<()> {
        self.enter_a();
        sock.set_nonblocking(true)?;
        match sock.connect(to) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        sock.poll(libc::POLLOUT, JOIN)?;
        sock.error()?;
        sock.set_nonblocking(false)?;
        sock.connect(to).or_else(|e| match e {
            Errno::EISCONN => Ok(()),
            e => Err(e),
        })?;
        if !first.is_empty() {
            sock.send(first, 0)?;
        }
        listener.poll(libc::POLLIN, JOIN).map(drop)
    }

    /// Accepts what is there. `EAGAIN` where nothing came.
    pub(crate) fn take(&self, listener: &Sock) -> Result<Sock> {
        listener.set_nonblocking(true)?;
        let accepted = listener.accept();
        listener.set_nonblocking(false)?;
        accepted
    }

    /// A connection: the end that connected, and the one that accepted.
    pub(crate) fn pair(&self) -> (Sock, Sock) {
        let (listener, to) = self.listener();
        let a = self.socket_a();
        let b = self.join(&a, &listener, &to).expect("a connection");
        (a, b)
    }
}

/// No address.
pub(crate) fn unspecified() -> Addr {
    Addr::v4(libc::AF_UNSPEC, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))
}

/// Ends a connection at once, whose options may keep its packets from the peer for minutes after a
/// close.
pub(crate) fn reset(sock: &Sock) {
    let _ = sock.connect(&unspecified());
}

/// Waits until `condition` holds; whether it does.
pub(crate) fn becomes(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
