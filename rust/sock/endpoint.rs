// SPDX-License-Identifier: GPL-2.0

//! The local address of a socket, which may listen there.

use crate::{
    net::{
        sk_mem::Charge,
        sock::SockGuard,
        sockaddr::IpVersion, //
    },
    prelude::*,
    rdma::cm::{
        ChildId,
        CmId,
        PeerParam, //
    },
    sock::{
        addr::{
            self,
            AddrPair, //
        },
        backlog::Backlog,
        binding::{
            Binding,
            Sharing, //
        },
        conn_options::ConnOptions,
        diag_list::Number,
        listener::Listener,
        ports::{
            self,
            Claim,
            Port, //
        },
        types::{
            NetRef,
            Sdp,
            Socket, //
        }, //
    }, //
};
use core::{
    net::{
        IpAddr,
        SocketAddr, //
    },
    ops::Deref,
};
use kernel::sync::{
    aref::ARef,
    Arc,
    UniqueArc, //
};

/// A local address, from bind until the socket is closed.
pub(super) struct Endpoint {
    net: NetRef,
    /// The port, which finds this by the address.
    port: Arc<Port>,
    addr: SocketAddr,
    is_v6only: bool,
    /// Whether it was an address of this host when the socket was bound.
    is_local: bool,
    /// Whether connect chose the port.
    connects: bool,
    /// Its number in the list of diagnostics.
    number: Number,
    /// The connections that wait for accept, where the socket listens.
    pub(super) backlog: Arc<Backlog>,
}

/// An address that a socket has, and is charged for.
pub(super) struct Bound {
    endpoint: Arc<Endpoint>,
    charge: Charge<Sdp>,
}

impl Deref for Bound {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Bound {
    /// Binds a socket to an address, for port 0 with a free port. Sleeps.
    ///
    /// Fails with `EADDRNOTAVAIL` for an address of no interface here, `ENODEV` where no interface
    /// here has an RDMA device, `EADDRINUSE` for a port that is taken, also by another user of
    /// rdma_cm, or where none is free, `ENOBUFS` where no more may be charged, and with `ENOMEM`.
    pub(super) fn new<F>(s: &SockGuard<'_, Sdp, F>, addr: SocketAddr) -> Result<Self> {
        let sk = s.sock();
        Self::charged(sk, Endpoint::bind(sk, addr)?)
    }

    /// Binds a socket to an address with a free port, or one from which others connect to other
    /// peers than `peer`, and claims it. Sleeps. Fails as [`Self::new`] does, but with
    /// `EADDRNOTAVAIL` where there is no such port.
    pub(super) fn to_connect<F>(
        s: &SockGuard<'_, Sdp, F>,
        addr: SocketAddr,
        peer: SocketAddr,
    ) -> Result<(Self, Claim)> {
        let sk = s.sock();
        let (endpoint, claim) = Endpoint::bind_to_connect(sk, addr, peer)?;
        Ok((Self::charged(sk, endpoint)?, claim))
    }

    fn charged(sk: &Socket, endpoint: Arc<Endpoint>) -> Result<Self> {
        let mut bound = Self {
            endpoint,
            charge: Charge::new(sk),
        };
        match bound.charge_pages(sk, false) {
            Ok(()) => Ok(bound),
            Err(e) => {
                bound.close();
                Err(e)
            }
        }
    }

    /// Listens, or changes the backlog of a listener. Sleeps. Fails with `ENOBUFS` where no more
    /// may be charged, with `ENOMEM`, and as [`Port::listen`] does.
    pub(super) fn listen(&mut self, sk: &Socket, backlog: usize, options: ConnOptions) -> Result {
        self.charge_pages(sk, true)?;
        self.endpoint
            .listen(backlog, options)
            .inspect_err(|_| self.charge_address())
    }

    /// Stops listening, and ends what waits for accept. Sleeps.
    pub(super) fn stop(&mut self) {
        self.endpoint.stop();
        self.charge_address();
    }

    /// Gives the address up. Sleeps.
    pub(super) fn close(self) {
        self.endpoint.close();
    }

    fn charge_pages(&mut self, sk: &Socket, listens: bool) -> Result {
        let pages = ports::pages(&*self.endpoint, listens);
        sk.reclaim(pages);
        self.charge.set(pages)
    }

    /// Uncharges what only a listener takes.
    fn charge_address(&mut self) {
        if !self.endpoint.is_listening() {
            // To charge less cannot fail.
            let _ = self.charge.set(ports::pages(&*self.endpoint, false));
        }
    }
}

impl Endpoint {
    fn bind(sk: &Socket, addr: SocketAddr) -> Result<Arc<Self>> {
        let backlog = Backlog::new(sk)?;
        if addr.port() > 0 {
            return Self::at(sk, addr, &backlog, false);
        }
        for addr in Self::free(sk, addr, false) {
            match Self::at(sk, addr, &backlog, false) {
                Err(e) if e == EADDRINUSE => {}
                done => return done,
            }
        }
        Err(EADDRINUSE)
    }

    fn bind_to_connect(
        sk: &Socket,
        addr: SocketAddr,
        peer: SocketAddr,
    ) -> Result<(Arc<Self>, Claim)> {
        let backlog = Backlog::new(sk)?;
        for local in Self::free(sk, addr, true) {
            let this = match Self::at(sk, local, &backlog, true) {
                Err(e) if e == EADDRINUSE => continue,
                done => done?,
            };
            match this.claim(AddrPair { local, peer }, sk.interface()) {
                Ok(claim) => return Ok((this, claim)),
                Err(e) => {
                    this.close();
                    if e != EADDRNOTAVAIL {
                        return Err(e);
                    }
                }
            }
        }
        Err(EADDRNOTAVAIL)
    }

    /// `addr` with each port that may be chosen for `sk`, and seems to be free. Sleeps.
    fn free(
        sk: &Socket,
        addr: SocketAddr,
        connects: bool,
    ) -> impl Iterator<Item = SocketAddr> + use<'_> {
        let may_be_chosen = move |number: &u16| {
            !sk.net().is_reserved(*number) && !Port::is_used(sk.net(), *number, connects)
        };
        let ports = sk.local_ports().filter(may_be_chosen);
        ports.map(move |number| addr::with_port(addr, number))
    }

    fn at(
        sk: &Socket,
        addr: SocketAddr,
        backlog: &Arc<Backlog>,
        connects: bool,
    ) -> Result<Arc<Self>> {
        loop {
            // First, so that no failure leaves a port without a binding.
            let room = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
            let port = Port::get(sk.net(), addr.port())?;
            let this: Arc<Self> = room
                .write(Self {
                    net: sk.net().into(),
                    port: port.clone(),
                    addr,
                    is_v6only: sk.is_v6only(),
                    is_local: sk.net().is_local(&addr, sk.interface()),
                    connects,
                    number: Number::none(),
                    backlog: backlog.clone(),
                })
                .into();
            match Port::add(&port, sk.net(), this.clone()) {
                // Its last binding was just removed.
                Err(e) if e == EAGAIN => {}
                Err(e) => return Err(e),
                Ok(()) => {
                    let listed = this
                        .check_device()
                        .and_then(|()| this.number.list(&this.net, this.clone()));
                    return match listed {
                        Ok(()) => Ok(this),
                        Err(e) => {
                            this.close();
                            Err(e)
                        }
                    };
                }
            }
        }
    }

    /// Fails where rdma_cm does not have the address (`EADDRNOTAVAIL`), or a device for it or any
    /// other of this host, through which it could be reached from here (`ENODEV`).
    fn check_device(&self) -> Result {
        let ip = self.addr.ip();
        // The device of an address that no interface has yet is not known.
        if ip.is_unspecified() || ip.is_loopback() || !self.is_local {
            return Ok(());
        }
        let bind = |addr| {
            let mut id = CmId::new(&self.net, self.port.clone())?;
            id.bind(&addr::with_port(addr, 0)).map(|_| ())
        };
        match bind(self.addr) {
            Err(e) if e == ENODEV => {
                let versions = IpVersion::ALL.into_iter();
                addr::with_device(versions.flat_map(|v| addr::own(&self.net, v)), bind)
            }
            done => done,
        }
    }

    /// [`Port::claim`] for a socket that is bound to this address.
    pub(super) fn claim(&self, addrs: AddrPair, interface: u32) -> Result<Claim> {
        Port::claim(&self.port, addrs, interface)
    }

    /// The address. Any context.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn listen(&self, backlog: usize, options: ConnOptions) -> Result {
        self.backlog.set_limit(backlog, options)?;
        if self.backlog.is_listening() {
            self.backlog.admit();
            return Ok(());
        }
        // A request may have come before the failure.
        Port::listen(&self.port, &self.net, self).inspect_err(|_| self.backlog.close())
    }

    fn stop(&self) {
        Port::end_listening(&self.port, self);
        self.backlog.close();
        Port::stop(&self.port, &self.net);
    }

    fn close(&self) {
        self.number.unlist(&self.net);
        Port::end_listening(&self.port, self);
        self.backlog.disown();
        self.backlog.close();
        Port::remove(&self.port, &self.net, self);
    }
}

impl Binding for Endpoint {
    fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    fn is_v6only(&self) -> bool {
        self.is_v6only
    }

    fn sharing(&self) -> Sharing {
        Sharing {
            connects: self.connects,
            ..self.backlog.sharing()
        }
    }

    fn is_listening(&self) -> bool {
        self.backlog.is_listening()
    }

    fn socket(&self) -> Option<ARef<Socket>> {
        self.backlog.socket()
    }

    fn set_listening(&self, on: bool) {
        self.backlog.set_listening(on);
    }

    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8], addrs: AddrPair) -> Result {
        Backlog::request(&self.backlog, id, param, hello, addrs)
    }
}
