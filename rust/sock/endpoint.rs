// SPDX-License-Identifier: GPL-2.0

//! The local address of a socket, which may listen there.

use crate::{
    net::namespace::NetRef,
    prelude::*,
    rdma::cm::{
        ChildId,
        CmId,
        PeerParam, //
    },
    sock::{
        addr::Names,
        backlog::Backlog,
        ports::{
            Binding, //
            Port,
        },
        Options,
        Socket, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddr,
    SocketAddrV4, //
};
use kernel::sync::{
    Arc,
    UniqueArc, //
};

/// A local address, from bind on until the socket is closed.
pub(super) struct Endpoint {
    net: NetRef,
    port: Arc<Port>,
    ip: Ipv4Addr,
    /// What waits for accept, where the socket listens.
    pub(super) backlog: Arc<Backlog>,
}

impl Endpoint {
    /// Gives `sk` an address, with a port of its own where it says 0. Sleeps.
    ///
    /// Fails with `EADDRNOTAVAIL` for an address of no interface here, `ENODEV` for one of an
    /// interface without an RDMA device, `EADDRINUSE` for a port that is taken, also by another
    /// user of rdma_cm, or where all are, and with `ENOMEM`.
    pub(super) fn bind(sk: &Socket, addr: SocketAddrV4) -> Result<Arc<Self>> {
        let backlog = Backlog::new(sk)?;
        let (ip, number) = (*addr.ip(), addr.port());
        if number > 0 {
            return Self::at(sk, ip, number, &backlog);
        }
        for number in sk.local_ports() {
            if sk.net().is_reserved(number) || Port::is_used(sk.net(), number) {
                continue;
            }
            match Self::at(sk, ip, number, &backlog) {
                Err(e) if e == EADDRINUSE => {}
                done => return done,
            }
        }
        Err(EADDRINUSE)
    }

    fn at(sk: &Socket, ip: Ipv4Addr, number: u16, backlog: &Arc<Backlog>) -> Result<Arc<Self>> {
        loop {
            // Before there is a port that nobody uses.
            let room = UniqueArc::new_uninit(GFP_KERNEL)?;
            let port = Port::get(sk.net(), number)?;
            let this: Arc<Self> = room
                .write(Self {
                    net: sk.net().into(),
                    port: port.clone(),
                    ip,
                    backlog: backlog.clone(),
                })
                .into();
            match Port::add(&port, sk.net(), this.clone()) {
                // Its last binding had just gone.
                Err(e) if e == EAGAIN => {}
                Err(e) => return Err(e),
                Ok(()) => {
                    return match this.check_device() {
                        Ok(()) => Ok(this),
                        Err(e) => {
                            this.close();
                            Err(e)
                        }
                    }
                }
            }
        }
    }

    /// Whether connections can have the address, which rdma_cm knows.
    fn check_device(&self) -> Result {
        if self.ip.is_unspecified() || self.ip.is_loopback() {
            return Ok(());
        }
        let any_port = SocketAddrV4::new(self.ip, 0);
        let mut id = CmId::new(&self.net, self.port.clone())?;
        id.bind(&SocketAddr::V4(any_port)).map(|_| ())
    }

    /// The address.
    pub(super) fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, self.port.number())
    }

    /// Listens, or changes the backlog of one that does. Sleeps. Fails with `ENOMEM`, and as
    /// [`Port::listen`] does.
    pub(super) fn listen(&self, backlog: usize, options: Options) -> Result {
        self.backlog.set_limit(backlog, options)?;
        if self.backlog.is_listening() {
            self.backlog.admit();
            return Ok(());
        }
        // A failure may come after a request.
        Port::listen(&self.port, &self.net, self).inspect_err(|_| self.backlog.close())
    }

    /// Listens no more, and ends what waits for accept. Sleeps.
    pub(super) fn stop(&self) {
        self.backlog.close();
        Port::stop(&self.port, &self.net);
    }

    /// The socket gives the address up. Sleeps.
    pub(super) fn close(&self) {
        self.backlog.disown();
        self.backlog.close();
        Port::remove(&self.port, &self.net, self);
    }
}

impl Binding for Endpoint {
    fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    fn reuseaddr(&self) -> bool {
        self.backlog.reuseaddr()
    }

    fn is_listening(&self) -> bool {
        self.backlog.is_listening()
    }

    fn set_listening(&self, on: bool) {
        self.backlog.set_listening(on);
    }

    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8], names: Names) -> Result {
        Backlog::request(&self.backlog, id, param, hello, names)
    }
}
