// SPDX-License-Identifier: GPL-2.0

//! The end that connects: it resolves the peer's address and the route, sends the Hello, and begins
//! anew where the peer is busy or a path has changed.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::{
        namespace::LOOPBACK_INTERFACE,
        sock::Route,
        sockaddr::IpVersion, //
    },
    prelude::*,
    proto::{
        Machine,
        Side,
        HELLO_LEN, //
    },
    rdma::cm::{
        CmId,
        ConnParam, //
    },
    sock::{
        addr::{
            self,
            AddrPair, //
        },
        conn::{
            Conn,
            ConnQp,
            Id, //
        },
        conn_state::SetupResult,
        notes::{
            End,
            Lookup,
            Setup,
            Step, //
        },
        ports::{
            Claim,
            Port, //
        },
        time::ms,
        types::Socket, //
    }, //
};
use core::net::SocketAddr;
use kernel::sync::Arc;

/// How long resolving the route to a peer may take, in milliseconds.
const ROUTE_MS: u32 = 3000;

/// How long one attempt to resolve the peer's address may take, in milliseconds. ib_core misses an
/// answer that comes while it queues the request, and looks again only when this time is over.
const ADDRESS_MS: u32 = 200;

/// How many more attempts there are; together they take five seconds, as ARP gives up after three.
const ADDRESS_TRIES: u8 = 25;

/// The first pause before a busy peer is asked again, which then doubles, and the longest; in
/// milliseconds.
const BUSY_FIRST_MS: u32 = 20;
const BUSY_MAX_MS: u32 = 1000;

/// After how many rejects without private data in a row a peer on iWARP is no longer asked again.
const IWARP_REFUSALS: u8 = 4;

impl Conn {
    /// Begins to resolve the address of `peer`, to which this route leads from the socket, `sk`,
    /// which has `claim` if it is bound to a port. Sleeps. Fails with `EINVAL` for a loopback
    /// address at this end and a foreign one at the other, with `ENOBUFS` where the owner may be
    /// charged no more memory, with `EPERM` where a program of the control group drops packets to
    /// or from the peer, and as [`CmId::bind`] and [`CmId::resolve_addr`] do.
    pub(super) fn begin(
        &self,
        sk: &Socket,
        route: Route,
        peer: SocketAddr,
        claim: Option<Claim>,
    ) -> Result {
        self.reclaim();
        self.charge_own()?;
        let mut guard = self.setup.lock();
        let setup = &mut *guard;
        setup.lookup = Some(Lookup {
            peer,
            route,
            has_port: claim.is_some(),
            user: sk.responsible_uid(),
            left: ADDRESS_TRIES,
            pause: BUSY_FIRST_MS,
            refusals: 0,
            again_at: None,
        });
        setup.claim = claim;
        self.set_addrs(AddrPair {
            local: route.source,
            peer,
        });
        self.resolve(setup)
            .and_then(|()| self.filter_packets(sk, route.interface))
            // With its port, as diagnostics find those of TCP.
            .and_then(|()| self.number.list(&self.net, self.arc()))
            // What its handler has noted is not to be gone on with.
            .inspect_err(|_| self.destroy_id(setup))
    }

    /// Sets the addresses, and those of the socket that has the connection.
    fn set_addrs(&self, addrs: AddrPair) {
        self.flow.lock().identity.addrs = Some(addrs);
        self.with_socket(|sk| sk.set_local(addrs.local));
    }

    /// Resolves the peer's address, with a new cm id: a used one would wait for its handler.
    /// Sleeps. Fails as [`Self::begin`] does.
    fn resolve(&self, setup: &mut Setup<Id>) -> Result {
        let lookup = setup.lookup.as_ref().ok_or(EINVAL)?;
        let (peer, source, interface) = (lookup.peer, lookup.route.source, lookup.route.interface);
        if source.ip().is_loopback() || peer.ip().is_loopback() {
            if interface == 0 {
                return self.resolve_loopback(setup, source, peer);
            }
            if !peer.ip().is_loopback() {
                return Err(EINVAL);
            }
            // Nobody there has a loopback address.
            self.note_end(End::Failed(EHOSTUNREACH));
            return Ok(());
        }
        if interface == LOOPBACK_INTERFACE {
            // No device is on it, but rdma_cm would take that of the address.
            return Err(ENODEV);
        }
        if interface == 0 && self.lacks_device(source, peer) {
            return self.resolve_loopback(setup, source, peer);
        }
        let has_port = lookup.has_port;
        let resolve = |source| -> Result<Id> {
            let mut id = CmId::new(&self.net, self.arc())?;
            // The socket shares its port with its connections. That fails for listeners only.
            let _ = id.set_reuseaddr(has_port);
            if interface > 0 {
                id.set_interface(interface);
            }
            id.resolve_addr(&source, &peer, ADDRESS_MS)?;
            Ok(id)
        };
        let may_change = source.port() > 0 && !has_port;
        let id = match resolve(source) {
            // Others may have got the port since the attempt before.
            Err(e) if may_change && (e == EADDRINUSE || e == EADDRNOTAVAIL) => {
                resolve(addr::with_port(source, 0))
            }
            done => done,
        }?;
        let local = id.local_addr()?;
        setup.id = Some(id);
        if let Some(lookup) = &mut setup.lookup {
            lookup.route.source = local;
        }
        self.set_addrs(AddrPair { local, peer });
        Ok(())
    }

    /// Whether one of the addresses of a connection within this host has no RDMA device. Sleeps.
    fn lacks_device(&self, source: SocketAddr, peer: SocketAddr) -> bool {
        [peer, source]
            .into_iter()
            .any(|addr| matches!(self.bind_id(addr::with_port(addr, 0)), Err(e) if e == ENODEV))
    }

    /// Has the programs of the socket's control group see what makes a connection of TCP. Sleeps.
    /// Fails with `EPERM` where they drop it, and with `ENOMEM`.
    fn filter_packets(&self, sk: &Socket, interface: u32) -> Result {
        let addrs = self.addrs().ok_or(EINVAL)?;
        let interface = match interface {
            0 => LOOPBACK_INTERFACE,
            index => index,
        };
        sk.filter_handshake(true, addrs.local, addrs.peer, interface)
    }

    /// A cm id bound to `addr`, and the address that it got. Sleeps. Fails as [`CmId::bind`] does.
    fn bind_id(&self, addr: SocketAddr) -> Result<(Id, SocketAddr)> {
        let mut id = CmId::new(&self.net, self.arc())?;
        let bound = id.bind(&addr)?;
        Ok((id, bound))
    }

    /// [`Self::resolve`] where the peer is this host, and an end has a loopback address, or one
    /// without an RDMA device: over the address of a device of this host.
    fn resolve_loopback(
        &self,
        setup: &mut Setup<Id>,
        source: SocketAddr,
        peer: SocketAddr,
    ) -> Result {
        let Some(there) = Port::listening(&self.net, peer) else {
            // Reported as if a peer had refused.
            self.note_end(End::Failed(ECONNREFUSED));
            return Ok(());
        };
        let ends = [peer, source]
            .into_iter()
            .filter(|addr| !addr.ip().is_loopback());
        // With a port of its own, which identifies the request.
        let bind = |addr| self.bind_id(addr::with_port(addr, 0));
        let versions = IpVersion::ALL.into_iter();
        let listened = versions.filter(|version| there.listens_by(*version));
        let (id, from) = addr::with_device(ends, bind).or_else(|e| match e {
            e if e == ENODEV => {
                addr::with_device(listened.flat_map(|v| addr::own(&self.net, v)), bind)
            }
            e => Err(e),
        })?;
        let local = match source.port() {
            0 => addr::with_port(source, from.port()),
            _ => source,
        };
        let addrs = AddrPair { local, peer };
        setup.addrs = Some(addrs);
        self.set_addrs(addrs);
        let seen = AddrPair {
            local: peer,
            peer: local,
        };
        setup.expectation = Some(Port::expect(there, from, seen)?);
        let id = setup.id.insert(id);
        id.resolve_addr(&from, &addr::with_port(from, peer.port()), ADDRESS_MS)
    }

    /// Resolves the peer's address again, which was not resolved in time. Sleeps. Fails with
    /// `EHOSTUNREACH` after the last attempt.
    pub(super) fn resolve_again(&self, setup: &mut Setup<Id>) -> Result {
        // Frees the port, where the socket is bound to one.
        self.destroy_id(setup);
        match &mut setup.lookup {
            Some(lookup) if lookup.left > 0 => lookup.left = lookup.left.saturating_sub(1),
            // As TCP reports a host that does not answer.
            _ => return Err(EHOSTUNREACH),
        }
        self.resolve(setup)
    }

    /// Gives up the attempt, and has the peer asked again after a pause. Sleeps.
    pub(super) fn pause(&self, setup: &mut Setup<Id>) -> Result {
        let now = self.now();
        let lookup = setup.lookup.as_mut().ok_or(ECONNREFUSED)?;
        lookup.refusals = 0;
        lookup.again_at = Some(now.saturating_add(ms(lookup.pause)));
        lookup.pause = lookup.pause.saturating_mul(2).min(BUSY_MAX_MS);
        self.destroy_qp(setup);
        self.destroy_id(setup);
        Ok(())
    }

    /// Has a peer asked again that rejected without private data, if it may have been busy: on
    /// iWARP, since siw does not read an answer that comes together with the end of the TCP
    /// connection. Sleeps. Fails with `ECONNREFUSED` after [`IWARP_REFUSALS`] in a row, and
    /// elsewhere.
    pub(super) fn pause_refused(&self, setup: &mut Setup<Id>) -> Result {
        let lookup = setup.lookup.as_ref().ok_or(ECONNREFUSED)?;
        let refusals = lookup.refusals.saturating_add(1);
        if !self.awaits_answer() || refusals > IWARP_REFUSALS {
            return Err(ECONNREFUSED);
        }
        self.pause(setup)?;
        if let Some(lookup) = &mut setup.lookup {
            lookup.refusals = refusals;
        }
        Ok(())
    }

    /// Ends a connect that has timed out.
    pub(super) fn check_connecting(&self) {
        let is_connecting = self.side == Side::Connecting
            && self.setup_result() == SetupResult::Pending
            && self.is_up();
        if !is_connecting {
            return;
        }
        let by = self.connect_by();
        if self.now() < by {
            return self.work_at(by);
        }
        self.abort_setup(ETIMEDOUT);
    }

    /// Asks a peer again that was busy, if it is time. Sleeps.
    pub(super) fn ask_again(&self, setup: &mut Setup<Id>) {
        let Some(lookup) = &mut setup.lookup else {
            return;
        };
        let Some(at) = lookup.again_at else { return };
        if !self.is_up() {
            return;
        }
        if self.now() < at {
            return self.work_at(at);
        }
        lookup.again_at = None;
        lookup.left = ADDRESS_TRIES;
        if let Err(e) = self.resolve(setup) {
            self.abort_setup(e);
        }
    }

    /// The peer's address is resolved: resolves the route. Sleeps.
    pub(super) fn find_route(&self, setup: &mut Setup<Id>) -> Result {
        let id = setup.id.as_mut().ok_or(ENOTCONN)?;
        let lookup = setup.lookup.as_ref().ok_or(ENOTCONN)?;
        let version = IpVersion::of(lookup.peer.ip());
        let mut tos = 0;
        self.with_socket(|sk| tos = sk.packet_options(version).0);
        if tos > 0 {
            id.set_service_type(tos);
        }
        id.resolve_route(ROUTE_MS)
    }

    /// The route is resolved: sends the Hello. Sleeps.
    pub(super) fn connect(&self, setup: &mut Setup<Id>) -> Result {
        let (qp, param, hello) = self.prepare(setup)?;
        qp.id().connect(&param, &hello)
    }

    /// The route is resolved: sends the Hello on iWARP, where that may wait until the TCP
    /// connection is made, without any lock. Or ends a connect that was given up, which may wait as
    /// long. Sleeps.
    pub(super) fn connect_slowly(&self) {
        if self.ends_slowly() {
            return self.finish();
        }
        self.reclaim();
        let prepared = {
            let setup = &mut *self.setup.lock();
            let has_route = {
                let mut notes = self.notes.lock();
                let has_route = matches!(notes.step, Some(Step::Route)) && notes.end.is_none();
                if has_route {
                    notes.step = None;
                }
                has_route
            };
            if !has_route || !self.is_up() {
                return self.queue();
            }
            let prepared = self.prepare(setup);
            setup.connecting = prepared.is_ok();
            prepared
        };
        let done = prepared.and_then(|(qp, param, hello)| qp.id().connect(&param, &hello));
        self.setup.lock().connecting = false;
        if let Err(e) = done {
            self.abort_setup(e);
        }
        self.queue();
    }

    /// Makes the machine and the QP, posts the first buffers, and makes the Hello. Sleeps. Fails as
    /// [`Self::make_qp`] does, and with `ECONNABORTED` where the connect was ended meanwhile.
    fn prepare(&self, setup: &mut Setup<Id>) -> Result<(Arc<ConnQp>, ConnParam, [u8; HELLO_LEN])> {
        if let (Some(lookup), Some(id)) = (&setup.lookup, &mut setup.id) {
            let version = IpVersion::of(lookup.peer.ip());
            self.with_socket(|sk| {
                if let Some(ttl) = sk.packet_options(version).1 {
                    id.set_hop_limit(ttl);
                }
            });
        }
        self.make_qp(setup)?;
        self.fill_first()?;
        let hello = self.with(Machine::hello);
        if !self.is_up() {
            // Closed meanwhile: on iWARP the work must not wait for a connection that nobody wants.
            return Err(ECONNABORTED);
        }
        let qp = self.qp(setup).ok_or(ENOTCONN)?;
        Ok((qp, self.param(setup, None), hello))
    }
}
