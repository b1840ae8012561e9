// SPDX-License-Identifier: GPL-2.0

//! Set-up and teardown of a connection, step by step.
//!
//! What the RDMA CM tells is a note, which the next step follows: taken by the connection's work, or
//! by the task that waits in connect(2). Nothing is set up in the CM's own workers.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::{
        sock::TcpState,
        work::Run, //
    },
    prelude::*,
    proto::{
        Config,
        Machine,
        Side,
        ADVERTS,
        REJECT_BUSY, //
    },
    rdma::{
        cm::{
            CmEvent,
            CmHandler,
            CmId,
            PeerParam, //
        },
        device::Device,
        pd::Pd,
        qp::{
            Caps,
            Qp, //
        },
    },
    sock::{
        addr::{
            self,
            Names, //
        },
        buffers::BUFFER_SLOTS,
        conn::{
            ms,
            Conn,
            Connection,
            Id,
            READS, //
        },
        link::{
            Link,
            Progress, //
        },
        notes::{
            End,
            FinWait,
            Lookup,
            PrivateData,
            Setup,
            Step, //
        },
        orphan::Orphan,
        ports::Port,
        recv_buffers::{
            Limits,
            RecvBuffers,
            FIRST, //
        },
        ring::Ring,
        settings,
        transmit::{
            PAYLOAD_PIECES,
            SEND_ORDER,
            SEND_SLOTS, //
        },
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddr,
    SocketAddrV4, //
};
use kernel::{
    page::PAGE_SIZE,
    sync::{
        atomic::Relaxed,
        Arc,
        UniqueArc, //
    },
};

/// Pages that a connection without data holds, beside its buffers: measured on rxe, where `make connections`
/// tells what a connection takes, and how much of that is charged.
const FIXED_PAGES: usize = 9;

/// How long the route to a peer may take, in milliseconds.
const ROUTE_MS: u32 = 3000;

/// How long one look for the peer's address may take, in milliseconds. ib_core misses an answer
/// that comes while it queues the question, and looks again only when this time is over.
const ADDRESS_MS: u32 = 200;

/// How many looks there are; together they take five seconds, as ARP gives up after three.
const ADDRESS_LOOKS: u8 = 25;

/// How long a connect goes on asking a peer whose backlog is full, in milliseconds: as long as TCP's
/// sends SYNs, with `net.ipv4.tcp_syn_retries` at 6.
const BUSY_MS: u32 = 127_000;

/// The first pause after the peer was busy, which then doubles, and the longest; in milliseconds.
const BUSY_FIRST_MS: u32 = 20;
const BUSY_MAX_MS: u32 = 1000;

/// How long a request may wait for a place on iWARP, in milliseconds. Devices give it up after ten
/// seconds, and the peer would not know why.
const IWARP_WAIT_MS: u32 = 5000;

/// How long the peer may take to confirm that the connection ends, in milliseconds; the CM
/// tells it again every four seconds, in case that it was lost.
const DISCONNECT_MS: u32 = 30_000;

fn is_iwarp(id: &Id) -> bool {
    id.device().is_ok_and(|device| device.is_iwarp())
}

impl CmHandler for Arc<Conn> {
    fn event(&self, event: CmEvent<'_>) {
        match event {
            CmEvent::AddrResolved => self.note_step(Step::Address),
            CmEvent::RouteResolved => self.note_step(Step::Route),
            CmEvent::Established { private_data } => {
                self.note_step(Step::Established(PrivateData::new(private_data)));
            }
            CmEvent::AddrError(e) if e == ETIMEDOUT => self.note_end(End::NoAnswer),
            CmEvent::AddrError(e) => self.note_end(End::Failed(e)),
            CmEvent::RouteError => self.note_end(End::Failed(EHOSTUNREACH)),
            CmEvent::Unreachable => self.note_end(End::Failed(ETIMEDOUT)),
            CmEvent::Rejected { private_data } if private_data.starts_with(&REJECT_BUSY) => {
                self.note_end(End::Busy);
            }
            // Nobody listens there, or who does wants no more.
            CmEvent::ConnectError | CmEvent::Rejected { .. } => {
                self.note_end(End::Failed(ECONNREFUSED));
            }
            CmEvent::Disconnected => self.note_end(End::Gone),
            CmEvent::DeviceRemoval => self.note_end(End::Removed),
            // Children make no requests.
            CmEvent::ConnectRequest { .. } | CmEvent::AddrChange | CmEvent::TimewaitExit => {}
        }
    }
}

/// The notes of a connection.
impl Conn {
    /// Leaves the next step to a task that waits for it, or to the work.
    fn note_step(&self, step: Step) {
        let waited_for = {
            let mut notes = self.notes.lock();
            notes.step = Some(step);
            notes.waiters > 0
        };
        if waited_for {
            self.with_socket(|sk| sk.wake_all());
        } else {
            self.queue();
        }
    }

    /// Leaves the end to the work, which no program can hold up.
    fn note_end(&self, end: End) {
        {
            let mut notes = self.notes.lock();
            // Nothing is more than that.
            if !matches!(notes.end, Some(End::Removed)) {
                notes.end = Some(end);
            }
        }
        self.queue();
    }

    /// A task is about to wait, and to call [`Self::advance_waiting`] whenever it is woken; or
    /// does so no more.
    pub(super) fn set_waiting(&self, waiting: bool) {
        let mut notes = self.notes.lock();
        if waiting {
            notes.waiters = notes.waiters.saturating_add(1);
            return;
        }
        notes.waiters = notes.waiters.saturating_sub(1);
        let left = notes.waiters == 0 && notes.step.is_some();
        drop(notes);
        if left {
            self.queue();
        }
    }

    /// The step that can be taken now, and the end that was told after it: both at once, lest an
    /// end overtake its step.
    fn next_notes(&self, setup: &mut Setup<Id>, in_work: bool) -> (Option<Step>, Option<End>) {
        // Looked at first: who is admitted later queues the work.
        let waits = self.is_waiting();
        let mut notes = self.notes.lock();
        if let Some(id) = notes.id.take() {
            setup.id = Some(id);
        }
        let end = notes.end.take();
        let step = match notes.step {
            Some(Step::Request(..)) if waits => None,
            // iWARP devices wait there for the TCP connection.
            Some(Step::Route) if !in_work && setup.id.as_ref().is_some_and(is_iwarp) => {
                self.queue();
                None
            }
            _ => notes.step.take(),
        };
        (step, end)
    }

    /// Does what the CM, the device and time ask for. Sleeps; without the locks of a connection.
    fn advance(&self) {
        self.advance_in(&mut self.setup.lock(), true);
    }

    /// The same in a task that waits for the connection with its socket locked, which must not be kept: what may
    /// take long is left to the work.
    pub(super) fn advance_waiting(&self) {
        match self.setup.try_lock() {
            Some(mut setup) => self.advance_in(&mut setup, false),
            // Who has it may have looked before there was something to do.
            None => self.queue(),
        }
    }

    fn advance_in(&self, setup: &mut Setup<Id>, in_work: bool) {
        self.begin_work();
        let (step, end) = self.next_notes(setup, in_work);
        if let Some(step) = step {
            if self.link() == Link::Up {
                self.run_step(setup, step);
            }
        }
        if let Some(end) = end {
            self.handle_end(setup, end);
        }
        self.ask_again(setup);
        self.check_waiting(setup);
        self.serve();
        self.check_fin_wait(setup);
        self.end_link(setup, false);
    }

    /// Ends a connection that is not up any more, without waiting for what its peer has to say: its port is
    /// free when this returns. Sleeps; with no lock but a socket's.
    pub(super) fn finish(&self) {
        self.end_link(&mut self.setup.lock(), true);
    }

    /// Ends a connection that was not made, and that nobody wants. Its port is free when this returns, unless
    /// the device keeps it. Sleeps; with no lock but a socket's.
    pub(super) fn discard(&self) {
        self.detach();
        self.set_link(Link::Disconnected);
        if !self.awaits_answer() {
            self.finish();
        }
    }

    fn run_step(&self, setup: &mut Setup<Id>, step: Step) {
        let done = match &step {
            Step::Address => self.find_route(setup),
            Step::Route => self.connect(setup),
            Step::Request(param, hello, names) => {
                setup.names = Some(*names);
                self.accept(setup, *param, hello.get())
            }
            Step::Established(data) => self.handle_established(setup, data.get()),
        };
        if let Err(e) = done {
            pr_debug!("no connection: {e:?}\n");
            if matches!(step, Step::Request(..)) && (e == ENOMEM || e == ENOBUFS) {
                self.reject_busy(setup);
            }
            self.fail_setup(e);
            self.set_link(Link::Disconnected);
        }
    }

    fn handle_end(&self, setup: &mut Setup<Id>, end: End) {
        if self.progress() == Progress::SettingUp {
            let error = match end {
                End::NoAnswer => match self.resolve_again(setup) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                End::Busy => match self.pause(setup) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                End::Failed(e) => e,
                End::Gone => ECONNREFUSED,
                End::Removed => ENODEV,
            };
            self.fail_setup(error);
        } else if matches!(end, End::Removed) {
            self.broken(ENODEV);
        }
        self.set_link(Link::Disconnected);
    }

    fn handle_established(&self, setup: &mut Setup<Id>, private_data: &[u8]) -> Result {
        setup.expectation = None;
        let names = match setup.names {
            Some(names) => names,
            None => {
                let qp = self.qp().ok_or(ENOTCONN)?;
                Names {
                    local: addr::v4(qp.id().local_addr()?)?,
                    peer: addr::v4(qp.id().peer_addr()?)?,
                }
            }
        };
        self.flow.lock().names = Some(names);
        if self.side == Side::Accepting {
            self.established();
            self.check_flushed();
            self.hand_to_backlog();
            return Ok(());
        }
        // Before anybody is told that it is there.
        self.with_socket(|sk| {
            sk.set_local(names.local);
            sk.set_peer(names.peer);
            sk.set_state(TcpState::Established);
        });
        let acked = self.hello_ack(private_data);
        self.update_state();
        if let Err(violation) = acked {
            pr_debug!("the listener does not speak SDP: {violation:?}\n");
            // The peer has a connection that nobody here wants: it is told.
            self.fail_setup(EPROTO);
            self.set_link(Link::Disconnect);
            return Ok(());
        }
        if self.progress() != Progress::Established {
            // A call undid it meanwhile.
            return Ok(());
        }
        self.with_socket(|sk| {
            sk.state_change();
            sk.write_space();
        });
        self.check_flushed();
        Ok(())
    }

    /// The QP may have been taken down before the CM told that the connection is there.
    fn check_flushed(&self) {
        if self.flow.lock().flushed {
            self.broken(ECONNRESET);
        }
    }
}

/// The end that connects.
impl Conn {
    /// Begins to look for `peer`, from the address that the socket is bound to, if it is. Sleeps.
    /// Fails with `EINVAL` for a loopback address at one end and a foreign one at the other, and as
    /// [`CmId::bind`] and [`CmId::resolve_addr`] do.
    pub(super) fn begin(&self, bound: Option<SocketAddrV4>, peer: SocketAddrV4) -> Result {
        let mut guard = self.setup.lock();
        let setup = &mut *guard;
        setup.lookup = Some(Lookup {
            peer,
            bound,
            left: ADDRESS_LOOKS,
            pause: BUSY_FIRST_MS,
            again_at: None,
        });
        self.resolve(setup)
    }

    /// Looks for the peer's address, with a cm id that has not looked before. A used one would wait for its
    /// handler.
    fn resolve(&self, setup: &mut Setup<Id>) -> Result {
        let (peer, bound) = match &setup.lookup {
            Some(lookup) => (lookup.peer, lookup.bound),
            None => return Err(EINVAL),
        };
        let is_loopback = bound.is_some_and(|bound| bound.ip().is_loopback());
        if is_loopback || peer.ip().is_loopback() {
            return self.resolve_loopback(setup, bound.unwrap_or(addr::ANY), peer);
        }
        let mut id = match bound {
            Some(bound) => self.bind_id(bound)?.0,
            None => CmId::new(&self.net, self.arc())?,
        };
        id.resolve_addr(&SocketAddr::V4(peer), ADDRESS_MS)?;
        setup.id = Some(id);
        Ok(())
    }

    /// A cm id at `addr`, and the address that it got. Sleeps. Fails as [`CmId::bind`] does.
    fn bind_id(&self, addr: SocketAddrV4) -> Result<(Id, SocketAddrV4)> {
        let mut id = CmId::new(&self.net, self.arc())?;
        // The socket has the port, and shares it with its connections. That fails for listeners
        // only.
        let _ = id.set_reuseaddr(addr.port() > 0);
        let bound = addr::v4(id.bind(&SocketAddr::V4(addr))?)?;
        Ok((id, bound))
    }

    /// The same where an end has a loopback address: over an address of a device, which is the
    /// host's own as well.
    fn resolve_loopback(
        &self,
        setup: &mut Setup<Id>,
        bound: SocketAddrV4,
        peer: SocketAddrV4,
    ) -> Result {
        if !self.net.is_local(*peer.ip()) {
            return Err(if peer.ip().is_loopback() {
                ENETUNREACH
            } else {
                EINVAL
            });
        }
        let Some(there) = Port::listening(&self.net, peer) else {
            // Told as if a peer had said so.
            self.note_end(End::Failed(ECONNREFUSED));
            return Ok(());
        };
        let is_own = |ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_unspecified();
        // With a port of its own, by which the request is known.
        let (id, from) = match [*peer.ip(), *bound.ip()].into_iter().find(is_own) {
            Some(ip) => self.bind_id(SocketAddrV4::new(ip, 0))?,
            None => self.bind_to_device()?,
        };
        let local = match bound.ip().is_unspecified() {
            true => Ipv4Addr::LOCALHOST,
            false => *bound.ip(),
        };
        let port = match bound.port() {
            0 => from.port(),
            port => port,
        };
        let local = SocketAddrV4::new(local, port);
        setup.names = Some(Names { local, peer });
        let seen = Names {
            local: peer,
            peer: local,
        };
        setup.expectation = Some(Port::expect(there, from, seen)?);
        let id = setup.id.insert(id);
        let to = SocketAddrV4::new(*from.ip(), peer.port());
        id.resolve_addr(&SocketAddr::V4(to), ADDRESS_MS)
    }

    /// A cm id at the first address here that has an RDMA device, and that address. Sleeps. Fails
    /// with `ENODEV` where none has.
    fn bind_to_device(&self) -> Result<(Id, SocketAddrV4)> {
        for at in 0.. {
            let Some(ip) = self.net.own_addr(at) else {
                break;
            };
            match self.bind_id(SocketAddrV4::new(ip, 0)) {
                // The address may have gone meanwhile.
                Err(e) if e == ENODEV || e == EADDRNOTAVAIL => {}
                done => return done,
            }
        }
        Err(ENODEV)
    }

    /// The peer did not say its address in time: looks for it again.
    fn resolve_again(&self, setup: &mut Setup<Id>) -> Result {
        // Frees the port, where the socket is bound to one.
        self.destroy_id(setup);
        match &mut setup.lookup {
            Some(lookup) if lookup.left > 0 => lookup.left = lookup.left.saturating_sub(1),
            // As TCP says it of a host that does not answer.
            _ => return Err(EHOSTUNREACH),
        }
        self.resolve(setup)
    }

    /// The peer has no room now: it is asked again after a pause.
    fn pause(&self, setup: &mut Setup<Id>) -> Result {
        let now = self.now();
        let lookup = setup.lookup.as_mut().ok_or(ECONNREFUSED)?;
        if now >= ms(BUSY_MS) {
            return Err(ETIMEDOUT);
        }
        lookup.again_at = Some(now.saturating_add(ms(lookup.pause)));
        lookup.pause = lookup.pause.saturating_mul(2).min(BUSY_MAX_MS);
        self.destroy_qp();
        self.destroy_id(setup);
        Ok(())
    }

    fn ask_again(&self, setup: &mut Setup<Id>) {
        let Some(lookup) = &mut setup.lookup else {
            return;
        };
        let Some(at) = lookup.again_at else { return };
        if self.link() != Link::Up {
            return;
        }
        if self.now() < at {
            return self.work_at(at);
        }
        lookup.again_at = None;
        lookup.left = ADDRESS_LOOKS;
        if let Err(e) = self.resolve(setup) {
            self.fail_setup(e);
            self.set_link(Link::Disconnected);
        }
    }

    /// The peer's address is known, and with it the own one: looks for the route.
    fn find_route(&self, setup: &mut Setup<Id>) -> Result {
        let id = setup.id.as_mut().ok_or(ENOTCONN)?;
        let local = match setup.names {
            Some(names) => names.local,
            None => addr::v4(id.local_addr()?)?,
        };
        self.with_socket(|sk| sk.set_local(local));
        id.resolve_route(ROUTE_MS)
    }

    /// The route is known: sends the Hello.
    fn connect(&self, setup: &mut Setup<Id>) -> Result {
        self.make_qp(setup)?;
        self.fill_first()?;
        let hello = self.with(Machine::hello);
        let qp = self.qp().ok_or(ENOTCONN)?;
        qp.id().connect(&self.param(None), &hello)
    }

    /// Makes the machine and the QP for the device of the cm id. Sleeps.
    fn make_qp(&self, setup: &mut Setup<Id>) -> Result {
        // All at once: where this fails nothing has been set up.
        self.charge_first(FIXED_PAGES)?;
        let pd = Pd::new(setup.id.as_ref().ok_or(ENOTCONN)?.device()?)?;
        let limits = self.make_machine(pd.device())?;
        let caps = Caps {
            send_wr: SEND_SLOTS.saturating_add(BUFFER_SLOTS),
            recv_wr: limits.count.into(),
            payload_sge: PAYLOAD_PIECES,
            // CAST: There are a few.
            recv_sge: limits.pages as u32,
        };
        let room = UniqueArc::new_uninit(GFP_KERNEL)?;
        let id = setup.id.take().ok_or(ENOTCONN)?;
        match Qp::new(id, &pd, caps, self.arc()) {
            Ok(qp) => {
                self.post.lock().qp = Some(room.write(qp).into());
                Ok(())
            }
            Err((e, id)) => {
                setup.id = Some(id);
                Err(e)
            }
        }
    }

    fn make_machine(&self, device: &Device) -> Result<Limits> {
        let limits = Limits::new(&self.net, device);
        // A payload of a full chunk starts and ends inside one: it lies in two of them.
        let send_size = u32::try_from(PAGE_SIZE << SEND_ORDER)?;
        let config = Config {
            side: self.side,
            // CAST: It is 8.
            max_adverts: ADVERTS as u16,
            ord: device.max_qp_init_rd_atom().clamp(1, READS).into(),
            ird: device.max_qp_rd_atom().clamp(1, READS).into(),
            recv_size: u32::try_from(PAGE_SIZE)?,
            recv_depth: FIRST,
            send_size,
            desired_remote: limits.size(),
        };
        let mut machine = Machine::new(config).map_err(|_| EINVAL)?;
        machine.set_resizable(true);
        let iwarp = device.is_iwarp();
        if iwarp {
            machine.set_initiator_first();
        }
        self.fatal.store(false, Relaxed);
        let mut rx = Ring::new(FIRST.into())?;
        let mut early = Ring::new(FIRST.into())?;
        {
            let mut flow = self.flow.lock();
            flow.options.apply(&mut machine);
            flow.machine = machine;
            // Of an attempt before.
            flow.flushed = false;
            flow.cause = None;
            flow.iwarp = iwarp;
            flow.message_size = limits.size().min(send_size);
            flow.recv = RecvBuffers::new(limits);
            core::mem::swap(&mut flow.rx, &mut rx);
            core::mem::swap(&mut flow.early, &mut early);
        }
        Ok(limits)
    }
}

/// The end that accepts.
impl Conn {
    /// Takes over the request of a peer, in the handler of the listener's cm id.
    pub(super) fn request(&self, id: Id, param: PeerParam, hello: &[u8], names: Names) {
        {
            let mut notes = self.notes.lock();
            notes.id = Some(id);
            notes.step = Some(Step::Request(param, PrivateData::new(hello), names));
        }
        self.queue();
    }

    /// A request that has waited too long for a place is told to come again: its peer may be gone.
    fn check_waiting(&self, setup: &mut Setup<Id>) {
        if !self.is_waiting() || self.link() != Link::Up {
            return;
        }
        let Some(id) = &setup.id else { return };
        // Since the request came.
        let until = ms(if is_iwarp(id) { IWARP_WAIT_MS } else { BUSY_MS });
        if self.now() < until {
            return self.work_at(until);
        }
        self.reject_busy(setup);
        self.fail_setup(ETIMEDOUT);
        self.set_link(Link::Disconnected);
    }

    /// Tells the peer to come again, unless it was told something already.
    fn reject_busy(&self, setup: &Setup<Id>) {
        let _ = match (&setup.id, self.qp()) {
            (Some(id), _) => id.reject(&REJECT_BUSY),
            (None, Some(qp)) => qp.id().reject(&REJECT_BUSY),
            (None, None) => Ok(()),
        };
    }

    /// Answers the Hello.
    fn accept(&self, setup: &mut Setup<Id>, param: PeerParam, hello: &[u8]) -> Result {
        self.make_qp(setup)?;
        let ack = self
            .with(|m| m.hello_received(hello))
            .inspect_err(|violation| pr_debug!("bad Hello: {violation:?}\n"))
            .map_err(|_| EPROTO)?;
        self.fill_first()?;
        let qp = self.qp().ok_or(ENOTCONN)?;
        qp.id().accept(&self.param(Some(param)), &ack)
    }
}

/// The end.
impl Conn {
    /// Counts the connection among those of closed sockets. False where there are too many.
    pub(super) fn count_orphan(&self) -> bool {
        let mut setup = self.setup.lock();
        setup.orphan = Orphan::new(&self.net);
        setup.orphan.is_some()
    }

    /// The socket was closed: gives the peer `net.sdp.fin_timeout` to take what is queued or the abort, or to
    /// close its half.
    pub(super) fn wait_for_fin(&self) {
        let mut setup = self.setup.lock();
        if self.link() != Link::Up {
            return;
        }
        let wait = FinWait {
            at: self.fin_timeout(),
            queued: self.queued(),
        };
        self.work_at(wait.at);
        setup.fin_wait = Some(wait);
    }

    /// When a wait for the peer that begins now is over.
    fn fin_timeout(&self) -> u64 {
        let timeout = ms(settings::fin_timeout_ms(&self.net));
        self.now().saturating_add(timeout)
    }

    /// Resets the connection of a closed socket whose peer has made no progress for too long.
    fn check_fin_wait(&self, setup: &mut Setup<Id>) {
        let Some(wait) = &mut setup.fin_wait else {
            return;
        };
        if self.link() != Link::Up {
            setup.fin_wait = None;
            return;
        }
        let queued = self.queued();
        if self.now() >= wait.at && queued < wait.queued {
            wait.at = self.fin_timeout();
            wait.queued = queued;
        }
        if self.now() < wait.at {
            return self.work_at(wait.at);
        }
        setup.fin_wait = None;
        self.with(Machine::abort);
        // Also where the abort's own message cannot be sent.
        self.set_link(Link::Disconnect);
    }

    /// Brings a connection that is not up any more to its end; in a `hurry`, without waiting for what its
    /// peer has to say.
    fn end_link(&self, setup: &mut Setup<Id>, hurry: bool) {
        let link = self.link();
        // What ended before it was there has nobody who waits for a word, but a program for the reason.
        let cause = self.flow.lock().cause;
        let unmade = link > Link::Up && self.fail_setup(cause.unwrap_or(ECONNRESET));
        match link {
            Link::Up => return,
            Link::Closed => {
                // A listener closed before a request had its cm id.
                if setup.id.is_some() {
                    self.destroy_id(setup);
                }
                return;
            }
            Link::Disconnect if unmade => {}
            Link::Disconnect => {
                if self.disconnect().is_ok() && !hurry {
                    let by = self.now().saturating_add(ms(DISCONNECT_MS));
                    setup.disconnect_by = Some(by);
                    self.set_link(Link::Disconnecting);
                    return self.work_at(by);
                }
            }
            Link::Disconnecting => {
                let left = setup.disconnect_by.filter(|by| self.now() < *by);
                if let Some(by) = left.filter(|_| !hurry) {
                    return self.work_at(by);
                }
            }
            Link::Disconnected => {}
        }
        self.tear_down(setup);
    }
}

impl Run for Connection {
    fn run(this: &Arc<Conn>) {
        this.advance();
    }
}
