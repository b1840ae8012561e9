// SPDX-License-Identifier: GPL-2.0

//! One connection: the protocol machine, the QP, and the buffers between them and the user.
//!
//! Locks, in the order in which they may be taken:
//!
//! 1. the socket's teardown mutex;
//! 2. the handler mutex of the socket's cm id, in CM events;
//! 3. `lock_sock()` of the socket;
//! 4. [`Conn::post`], which keeps messages in the order of their MSeq: who holds it asks the
//!    machine for the next message and posts it;
//! 5. [`Conn::flow`], the machine and what it received; held for a few hundred instructions.
//!
//! Completions run in softirq and take 4 and 5 only, so they never wait for a user.
//!
//! References: the QP's completions own an `Arc` of the connection and the connection owns the QP;
//! the sock owns an `Arc` too and the connection a reference of the sock. Both circles end in
//! [`Conn::tear_down`] and when the socket lets the connection go.

use crate::{
    net::{
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        }, //
    },
    prelude::*,
    proto::{
        wire::mid,
        AbortReason,
        BufferId,
        Config,
        Events,
        Machine,
        Readable,
        SendTag,
        Side,
        Source,
        State,
        Transmit,
        Violation,
        ADVERTS, //
    },
    rdma::{
        buf::{
            RecvBuf,
            Sge, //
        },
        cm::{
            CmId,
            ConnParam,
            Handler,
            PeerParam, //
        },
        device::Device,
        pd::Pd,
        qp::{
            Caps,
            Completions,
            Payload,
            Piece,
            Qp,
            QpEvent,
            SendWr,
            WcStatus, //
        },
    },
    sock::{
        buffers::Buffers,
        receive::{
            self,
            Limits,
            Unread,
            RETRY_MS, //
        },
        ring::Ring,
        stats::{
            self,
            Counter,
            Counters, //
        },
        zcopy::{
            has_buffer_slots,
            remote,
            BUFFER_SLOTS, //
        },
        Socket, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    sync::{
        aref::ARef,
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        UniqueArc, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// The cm id of a socket.
pub(super) type Id = CmId<ARef<Socket>>;

/// The QP of a connection, with its cm id.
pub(super) type Pair = Qp<ARef<Socket>, Arc<Conn>>;

/// Pages of a send chunk for more than a page, as a power of two: 16 KiB on 4 KiB pages.
pub(super) const SEND_ORDER: u32 = 2;

/// Requests of the send queue for messages, which are up to two each.
const SEND_SLOTS: u32 = 6;

/// Pieces of written data that may wait to be sent; a piece is a chunk, except at the ends.
const SEND_PIECES: usize = 1024;

/// Buffers for a message's payload, beside that for its header.
const PAYLOAD_PIECES: u32 = 2;

/// A peer that is not ready is retried for as long as it lives; credits keep it ready.
const RNR_RETRY_FOR_EVER: u8 = 7;

/// RDMA Reads at a time each way. Devices set memory aside for what is asked for.
// CAST: It is 8.
const READS: u8 = ADVERTS as u8;

/// The most that the CM knows.
const RETRIES: u8 = 7;

/// How far the connection below is from its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Link {
    /// It carries messages, or is being made.
    Up,
    /// It is to be dropped.
    Drop,
    /// The peer was told that it is dropped.
    Dropped,
    /// It is gone; what it used can be freed.
    Gone,
    /// What it used is freed.
    Over,
}

/// What the machine's lock guards.
pub(super) struct Flow {
    pub(super) machine: Machine,
    /// Payload that no reader has taken over yet.
    pub(super) rx: Ring<Unread>,
    /// Messages that came before the HelloAck was seen.
    early: Ring<RecvBuf>,
    /// The CM said that the connection is established.
    ready: bool,
    link: Link,
    /// The reason why the connection failed, if it did, was left to the user.
    told: bool,
    /// What went wrong below, where that is known better than as a reset.
    cause: Option<Error>,
    /// Buffers are offered to the peer, or are to be, and nothing came yet that stands behind what
    /// is written to them.
    pub(super) offering: bool,
    /// A call offered buffers, and has not looked yet at what came for them: messages stay as they are.
    pub(super) gathering: bool,
    /// The receive buffers.
    pub(super) recv: receive::RecvBuffers,
}

/// What the lock that orders messages guards.
pub(super) struct Post {
    pub(super) qp: Option<Arc<Pair>>,
    /// The send stream from the next message on.
    tx: Ring<Sge>,
    /// The message that goes before any other: the device had no room to map it.
    waiting: Option<Outbound>,
    /// Requests for messages that have not completed; those for the callers' buffers have slots of
    /// their own.
    messages: usize,
    pub(super) buffers: Buffers,
}

/// A message, or an RDMA Write and a message, as the machine gave it, with what it carries.
struct Outbound {
    transmit: Transmit,
    payload: Payload,
}

/// A request in the fabric.
pub(super) enum Request {
    /// A message.
    Message(SendTag),
    /// An RDMA Write, of which the next message tells.
    Write,
    /// The registration of a buffer.
    Register,
    /// An RDMA Read into the oldest buffer that is busy.
    Read,
    /// The end of the key of a buffer that is sent.
    EndSend(BufferId),
    /// The end of the key of the oldest buffer that was read.
    EndRead,
    /// The end of the key of the oldest buffer that was offered.
    EndOffer,
}

/// One connection of a socket.
#[pin_data]
pub(super) struct Conn {
    pub(super) sk: ARef<Socket>,
    side: Side,
    /// Whether it is iWARP's.
    iwarp: bool,
    made: Instant<Monotonic>,
    /// The longest message that is worth larger buffers of the peer's.
    message_size: u32,
    /// What the connection did.
    pub(super) stats: Counters,
    /// For the socket's work: data came on a connection that the CM takes for unfinished, the RTU
    /// being late or lost (B-9).
    came_early: AtomicFlag,
    /// For the socket's work: the device failed the QP.
    fatal: AtomicFlag,
    #[pin]
    pub(super) post: SpinLockBh<Post>,
    #[pin]
    pub(super) flow: SpinLockBh<Flow>,
}

impl Conn {
    /// Makes the connection of `sk` on the device of `id`, with its QP.
    ///
    /// In a handler of `id`, with the socket locked. What fails gives `id` back, since it cannot
    /// be destroyed there; for the same reason a connection that was made ends by the socket's
    /// work alone.
    pub(super) fn new(
        sk: &Socket,
        id: Id,
        handler: &Handler<'_>,
        side: Side,
    ) -> Result<Arc<Self>, (Error, Id)> {
        let made = handler
            .device()
            .and_then(Pd::new)
            .and_then(|pd| Ok((Self::without_qp(sk, pd.device(), side)?, pd)))
            .and_then(|(conn, pd)| Ok((conn, pd, UniqueArc::<Pair>::new_uninit(GFP_KERNEL)?)));
        let (conn, pd, room) = match made {
            Ok(made) => made,
            Err(e) => return Err((e, id)),
        };
        let limits = conn.flow.lock().recv.limits();
        let caps = Caps {
            send_wr: SEND_SLOTS.saturating_add(BUFFER_SLOTS),
            recv_wr: limits.count.into(),
            payload_sge: PAYLOAD_PIECES,
            // CAST: There are a few.
            recv_sge: limits.pages as u32,
        };
        let qp = Qp::new(id, handler, &pd, caps, conn.clone())?;
        conn.post.lock().qp = Some(room.write(qp).into());
        Ok(conn)
    }

    fn without_qp(sk: &Socket, device: &Device, side: Side) -> Result<Arc<Self>> {
        let limits = Limits::new(sk.net(), device);
        let recv_size = u32::try_from(PAGE_SIZE)?;
        // A payload of a full chunk starts and ends inside one: it lies in two of them.
        let send_size = u32::try_from(PAGE_SIZE << SEND_ORDER)?;
        let config = Config {
            side,
            // CAST: It is 8.
            max_adverts: ADVERTS as u16,
            ord: device.max_qp_init_rd_atom().clamp(1, READS).into(),
            ird: device.max_qp_rd_atom().clamp(1, READS).into(),
            recv_size,
            recv_depth: receive::FIRST,
            send_size,
            desired_remote: limits.size(),
        };
        let mut machine = Machine::new(config).map_err(|_| EINVAL)?;
        machine.set_resizable(true);
        let iwarp = device.is_iwarp();
        if iwarp {
            machine.set_initiator_first();
        }
        let flow = Flow {
            machine,
            rx: Ring::new(receive::FIRST.into())?,
            early: Ring::new(receive::FIRST.into())?,
            recv: receive::RecvBuffers::new(limits),
            ready: false,
            link: Link::Up,
            told: false,
            cause: None,
            offering: false,
            gathering: false,
        };
        let post = Post {
            qp: None,
            tx: Ring::empty(),
            waiting: None,
            messages: 0,
            buffers: Buffers::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                sk: sk.into(),
                side,
                iwarp,
                made: Instant::now(),
                message_size: limits.size().min(send_size),
                stats: Counters::new(),
                came_early: AtomicFlag::new(false),
                fatal: AtomicFlag::new(false),
                post <- new_spinlock_bh!(post, "sdp::Conn::post"),
                flow <- new_spinlock_bh!(flow, "sdp::Conn::flow"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether a connect that was begun keeps the cm id until the peer has answered, or TCP has
    /// given it up.
    pub(super) fn awaits_answer(&self) -> bool {
        self.iwarp
    }

    /// What to tell of a failure that the device gives no reason for. An iWARP device says no more
    /// when it loses its TCP connection.
    fn lost(&self) -> Error {
        if self.iwarp {
            ECONNRESET
        } else {
            EIO
        }
    }

    /// The QP, to sleep with. Only where [`Conn::tear_down`] cannot run meanwhile, since the last
    /// reference must go there: in the work itself, and in the handler that makes the connection.
    fn qp(&self) -> Option<Arc<Pair>> {
        self.post.lock().qp.clone()
    }

    /// What the CM is to be told of this end.
    pub(super) fn param(&self, peer: Option<PeerParam>) -> ConnParam {
        let (responder_resources, initiator_depth) = self.qp().map_or((1, 1), |qp| {
            let device = qp.pd().device();
            (
                device.max_qp_rd_atom().min(READS),
                device.max_qp_init_rd_atom().min(READS),
            )
        });
        // Neither side may have more RDMA Reads in flight than the other answers.
        let (responder_resources, initiator_depth) = match peer {
            Some(peer) => (
                responder_resources.min(peer.responder_resources),
                initiator_depth.min(peer.initiator_depth),
            ),
            None => (responder_resources, initiator_depth),
        };
        ConnParam {
            responder_resources,
            initiator_depth,
            retry_count: RETRIES,
            rnr_retry_count: RNR_RETRY_FOR_EVER,
        }
    }

    /// Counts what happened, for the connection and for its namespace. Any context.
    pub(super) fn count(&self, counter: Counter, n: u64) {
        self.stats.add(counter, n);
        stats::of(self.sk.net()).add(counter, n);
    }

    /// Runs `f` on the machine, and then does what the machine wants done.
    ///
    /// Any context, without the locks of this file.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Machine) -> R) -> R {
        let result = f(&mut self.flow.lock().machine);
        self.kick();
        result
    }

    /// The time as the machine wants it, in nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(0)
    }

    /// Looks at the machine. Any context, without the locks of this file.
    pub(super) fn look<R>(&self, f: impl FnOnce(&Machine) -> R) -> R {
        f(&self.flow.lock().machine)
    }

    /// Posts what is to be sent, and tells the socket what happened.
    pub(super) fn kick(&self) {
        if let Err(e) = self.transmit() {
            self.refused(e);
        }
        let events = self.flow.lock().machine.take_events();
        self.dispatch(events);
    }

    fn transmit(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        let all = qp.caps().send_wr;
        let slots = match has_buffer_slots(all) {
            true => all.saturating_sub(BUFFER_SLOTS),
            false => all,
        };
        let slots = slots as usize;
        let pieces = qp.caps().payload_sge as usize;
        while post.messages.saturating_add(1) < slots {
            let next = match post.waiting.take() {
                None => self.next_message(&mut post.tx, &mut post.buffers, pieces)?,
                waiting => waiting,
            };
            let Some(next) = next else { break };
            let transmit = &next.transmit;
            let mut payload = match qp.map(&next.payload) {
                Ok(payload) => Some(payload),
                Err(e) if e == ENOMEM => {
                    post.waiting = Some(next);
                    self.sk.arm_timer(RETRY_MS);
                    break;
                }
                Err(e) => return Err(e),
            };
            if let Some(to) = transmit.write {
                let from = payload.take().ok_or(EINVAL)?;
                // The loop saw room for two.
                qp.post_write(from, remote(to), Request::Write)?;
                post.messages = post.messages.saturating_add(1);
            }
            let send = SendWr {
                header: transmit.header.as_bytes(),
                payload,
                solicited: transmit.solicited,
            };
            qp.post_send(send, Request::Message(transmit.tag))?;
            post.messages = post.messages.saturating_add(1);
            match transmit.header.mid() {
                mid::SRC_AVAIL => self.count(Counter::SrcAvails, 1),
                mid::SINK_AVAIL => self.count(Counter::SinkAvails, 1),
                mid::SEND_SM => self.count(Counter::Declined, 1),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the machine wants sent next, if anything, with what that carries of the send stream, in so many
    /// pieces, or of a buffer.
    fn next_message(
        &self,
        tx: &mut Ring<Sge>,
        buffers: &mut Buffers,
        pieces: usize,
    ) -> Result<Option<Outbound>> {
        // What one message can carry of the stream, which lies in pieces.
        let gather = (0..pieces)
            .filter_map(|at| tx.get(at))
            .fold(0usize, |sum, piece| sum.saturating_add(piece.len()));
        let transmit = {
            let machine = &mut self.flow.lock().machine;
            machine.set_gather(u32::try_from(gather).unwrap_or(u32::MAX));
            machine.poll_transmit()
        };
        let Some(transmit) = transmit else {
            return Ok(None);
        };
        let bytes = transmit.write.map_or(transmit.payload, |to| to.len);
        let payload = match transmit.source {
            Source::Stream => take_payload(tx, bytes)?,
            Source::Buffer(id, offset) => {
                let counter = match transmit.write {
                    Some(_) => Counter::SentWritten,
                    None => Counter::SentDirect,
                };
                self.count(counter, bytes.into());
                buffers.payload(id, offset, bytes)?
            }
        };
        Ok(Some(Outbound { transmit, payload }))
    }

    fn dispatch(&self, events: Events) {
        if events.is_empty() {
            return;
        }
        let sk = &*self.sk;
        if events.contains(Events::FINISHED) {
            self.settle();
        }
        if events.contains(Events::RESIZE) {
            self.resize_wished();
        }
        if events.contains(Events::DISCONNECT) {
            self.set_link(Link::Drop);
        }
        if events.contains(Events::ABORTED) {
            // What fails before the connection is established is told with that.
            if self.is_ready() {
                self.tell_failure();
            }
        }
        if events.contains(Events::READABLE) {
            sk.data_ready();
        }
        if events.contains(Events::WRITABLE) && self.writable(sk) {
            sk.write_space();
        }
        for event in [
            Events::PEER_CLOSED,
            Events::SENT_ALL,
            Events::ABORTED,
            Events::CLOSED,
        ] {
            if events.contains(event) {
                sk.state_change();
                break;
            }
        }
    }

    /// Leaves the reason why the connection failed, if it did, to the user's next call.
    fn tell_failure(&self) {
        let (reason, cause) = {
            let flow = self.flow.lock();
            (flow.machine.aborted(), flow.cause)
        };
        let errno = match reason {
            None => return,
            Some(AbortReason::Local) => None,
            Some(AbortReason::Violation(violation)) => {
                pr_debug!("peer broke the protocol: {violation:?}\n");
                Some(EPROTO)
            }
            Some(_) => Some(cause.unwrap_or(ECONNRESET)),
        };
        if let Some(errno) = errno {
            self.sk.fail(errno);
        }
        self.flow.lock().told = true;
    }

    /// Bytes that were copied from the user and have not reached the peer.
    pub(super) fn copied(&self) -> usize {
        self.look(|m| m.unsent().saturating_add(m.in_flight()))
    }

    /// Bytes that were written and have not reached the peer.
    pub(super) fn queued(&self) -> usize {
        let buffered = self.look(Machine::buffered);
        let buffered = usize::try_from(buffered).unwrap_or(usize::MAX);
        self.copied().saturating_add(buffered)
    }

    /// Whether writers are woken: as with TCP, once a third of the send buffer is free.
    pub(super) fn writable(&self, sk: &Socket) -> bool {
        let third = sk.send_buffer() / 3;
        self.copied() <= sk.send_buffer().saturating_sub(third) && self.has_buffer_place()
    }

    /// Whether the connection takes no more of the user's bytes, for whatever reason.
    pub(super) fn send_closed(&self) -> bool {
        self.look(|m| !m.can_write())
    }

    /// Whether no more payload will come. Where a failure is why, its reason is the user's to take
    /// by then, lest a reader who comes just now take it for the end of the stream.
    pub(super) fn recv_closed(&self) -> bool {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        let over = match machine.aborted() {
            Some(_) => flow.told,
            None => machine.state() == State::Closed,
        };
        machine.peer_closed() || over
    }

    /// Appends written bytes to the send stream; gives them back where the stream has no place.
    pub(super) fn write(&self, bytes: Sge) -> Result<(), Sge> {
        let len = bytes.len();
        {
            let mut post = self.post.lock();
            let rest = match post.tx.back_mut() {
                Some(last) => last.join(bytes),
                None => Err(bytes),
            };
            if let Err(bytes) = rest {
                post.tx.push(bytes)?;
            }
        }
        let now = self.now();
        self.with(|m| {
            m.set_now(now);
            m.write(len);
            // Where more than one message is full, larger ones are better.
            if m.unsent() > m.peer_recv_size() as usize && m.peer_recv_size() < self.message_size {
                m.ask_resize(self.message_size);
            }
        });
        Ok(())
    }

    /// Has what is held back for more bytes sent in time (`TCP_CORK`, `MSG_MORE`), and what else the machine
    /// wants to do later; and what could not be mapped tried again.
    pub(super) fn arm_held(&self) {
        let deadline = self.look(Machine::deadline).map(|at| {
            let ms = at.saturating_sub(self.now()).div_ceil(1_000_000);
            u32::try_from(ms).unwrap_or(u32::MAX)
        });
        let waits = self.post.lock().waiting.is_some();
        let retry = waits.then_some(RETRY_MS);
        if let Some(ms) = [deadline, retry].into_iter().flatten().min() {
            self.sk.arm_timer(ms);
        }
    }

    /// The socket's work: takes in what the device told, lets buffers go, and sends what was held
    /// back too long.
    pub(super) fn work(&self) {
        self.collect();
        if self.came_early.load(Relaxed) && self.side == Side::Accepting && !self.is_ready() {
            if let Some(qp) = self.qp() {
                // If the CM cannot take it now, the RTU or the next message says it again.
                let _ = qp.id().notify_established();
            }
        }
        if self.fatal.load(Relaxed) {
            self.broken(self.lost());
        }
        if self.link() == Link::Up {
            self.fill();
            let now = self.now();
            self.with(|m| m.expired(now));
            self.arm_held();
        }
    }

    /// Whether the send stream has, or can be given, a place for another piece.
    pub(super) fn has_place(&self) -> bool {
        let tx = &self.post.lock().tx;
        !tx.is_full() || tx.capacity() < SEND_PIECES
    }

    /// Gives the send stream a place for another piece; false where that has to wait for some to be
    /// sent. Sleeps; one caller at a time. Fails with `ENOMEM`.
    pub(super) fn make_place(&self) -> Result<bool> {
        let capacity = {
            let tx = &self.post.lock().tx;
            if !tx.is_full() {
                return Ok(true);
            }
            tx.capacity()
        };
        let more = capacity.saturating_mul(2).clamp(8, SEND_PIECES);
        if more <= capacity {
            return Ok(false);
        }
        let longer = Ring::new(more)?;
        let unused = {
            let mut post = self.post.lock();
            // What is written after the end goes nowhere.
            if post.qp.is_none() {
                return Ok(false);
            }
            post.tx.lengthen(longer)
        };
        drop(unused);
        Ok(true)
    }

    /// The protection domain, while there is a QP in it.
    pub(super) fn pd(&self) -> Option<Arc<Pd>> {
        let post = self.post.lock();
        Some(post.qp.as_ref()?.pd().clone())
    }

    /// The peer's memory that is to be fetched before anything that came behind it.
    pub(super) fn readable(&self) -> Option<Readable> {
        self.look(Machine::readable)
    }

    /// Bytes of the peer's memory that can be fetched now.
    pub(super) fn advertised(&self) -> usize {
        // CAST: `usize` has at least 32 bits.
        self.readable().map_or(0, |next| next.region.len as usize)
    }

    /// The HelloAck came: the active side's connection is there, with what arrived before.
    pub(super) fn hello_ack(&self, private_data: &[u8]) -> Result<(), Violation> {
        let mut recycle = Ring::empty();
        let now = self.now();
        let result = {
            let mut guard = self.flow.lock();
            let flow = &mut *guard;
            flow.machine.set_now(now);
            let result = flow.machine.hello_ack_received(private_data);
            if result.is_ok() {
                flow.ready = true;
                core::mem::swap(&mut recycle, &mut flow.early);
                // Taken in under the lock, so that none that comes now can overtake.
                for _ in 0..recycle.len() {
                    if let Some(buf) = recycle.pop() {
                        if let Some(buf) = flow.take(buf) {
                            let _ = recycle.push(buf);
                        }
                    }
                }
            }
            result
        };
        while let Some(buf) = recycle.pop() {
            self.recycle(buf);
        }
        self.kick();
        self.arm_held();
        result
    }

    /// The passive side's connection is there, though what came early may have ended it by now.
    pub(super) fn established(&self) {
        self.flow.lock().ready = true;
        self.with(Machine::established);
        self.tell_failure();
    }

    /// Whether the CM said that the connection is there.
    pub(super) fn is_ready(&self) -> bool {
        self.flow.lock().ready
    }

    /// The fabric failed the connection: no message goes through any more. Any context.
    pub(super) fn broken(&self, cause: Error) {
        let events = {
            let mut flow = self.flow.lock();
            flow.cause.get_or_insert(cause);
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        self.set_link(Link::Drop);
        self.dispatch(events);
    }

    /// A request could not be posted. That the QP has no connection any more may be noticed so before any
    /// completion says it, which on siw is the rule.
    pub(super) fn refused(&self, error: Error) {
        self.broken(if error == ENOTCONN || error == ESHUTDOWN {
            ECONNRESET
        } else {
            error
        });
    }

    /// How far the connection is from its end.
    pub(super) fn link(&self) -> Link {
        self.flow.lock().link
    }

    /// Brings the connection nearer to its end, and has the socket's work see to it. Any context.
    pub(super) fn set_link(&self, link: Link) {
        {
            let mut flow = self.flow.lock();
            if flow.link >= link {
                return;
            }
            flow.link = link;
        }
        self.sk.queue_work();
    }

    /// Tells the peer that the connection is dropped. The CM's answer, or its silence, comes as an
    /// event. Sleeps; only in the socket's work.
    pub(super) fn disconnect(&self) -> Result {
        self.qp().ok_or(ENOTCONN)?.disconnect()
    }

    /// Ends the connection below: when this returns no completion and no CM event comes any more,
    /// and the device is free of it. What was received stays readable.
    ///
    /// Sleeps; only in the socket's work or under its teardown mutex, without the socket lock.
    pub(super) fn tear_down(&self) {
        // Let go last: what is freed under the lock below must not be the last to hold the domain.
        let _pd = self.pd();
        let qp = self.post.lock().qp.take();
        // The completions that this flushes take in what came before the end.
        drop(qp);
        self.flow.lock().machine.disconnected();
        self.settle();
        let unsent = {
            let mut post = self.post.lock();
            post.buffers.end();
            (
                core::mem::replace(&mut post.tx, Ring::empty()),
                post.waiting.take(),
            )
        };
        drop(unsent);
        self.collect();
        let events = {
            let mut flow = self.flow.lock();
            flow.early = Ring::empty();
            flow.link = Link::Over;
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        // Where both ends had closed, nothing changes for the user.
        if events.contains(Events::ABORTED) {
            self.dispatch(events);
        }
        // A close that lingers waits for bytes which the peer had no use for, and a call for its
        // buffers.
        self.sk.wake_all();
    }
}

impl Post {
    /// Posts a request to the QP. `ENOTCONN` where there is none any more.
    pub(super) fn request(&mut self, post: impl FnOnce(&Pair) -> Result) -> Result {
        post(self.qp.as_ref().ok_or(ENOTCONN)?)
    }
}

/// Takes the first `len` bytes off the send stream.
fn take_payload(tx: &mut Ring<Sge>, len: u32) -> Result<Payload> {
    let mut payload = Payload::default();
    let mut rest = len as usize;
    while rest > 0 {
        let front = tx.front_mut().ok_or(EPIPE)?;
        let piece = if front.len() <= rest {
            tx.pop()
        } else {
            front.split_to(rest)
        }
        .ok_or(EPIPE)?;
        rest = rest.saturating_sub(piece.len());
        payload.push(Piece::Copied(piece)).map_err(|_| EMSGSIZE)?;
    }
    Ok(payload)
}

impl Completions for Arc<Conn> {
    type Request = Request;

    fn sent(&self, request: Request, result: Result<(), WcStatus>) {
        let read = {
            let mut post = self.post.lock();
            if matches!(request, Request::Message(_) | Request::Write) {
                post.messages = post.messages.saturating_sub(1);
            }
            matches!(request, Request::Read) && self.read_over(&mut post, result.is_ok())
        };
        match (request, &result) {
            (Request::Message(tag), Ok(())) => self.with(|m| m.sent(tag)),
            (Request::EndSend(id), _) => self.send_ended(id),
            (Request::EndRead, _) => self.read_ended(),
            (Request::EndOffer, _) => self.offer_ended(),
            _ => {}
        }
        if read {
            self.kick();
        }
        if let Err(status) = result {
            self.failed(status);
        }
    }

    fn received(&self, buf: RecvBuf, result: Result<(), WcStatus>) {
        if let Err(status) = result {
            drop(buf);
            return self.failed(status);
        }
        let (recycle, early) = {
            let mut flow = self.flow.lock();
            flow.buffer_used();
            if flow.ready {
                (flow.take(buf), false)
            } else if self.side == Side::Connecting {
                (flow.early.push(buf).err(), false)
            } else {
                (flow.take(buf), true)
            }
        };
        if let Some(buf) = recycle {
            self.recycle(buf);
        }
        if early {
            self.note(&self.came_early);
        }
        self.want_buffers();
        self.kick();
    }

    fn qp_event(&self, event: QpEvent) {
        let told = match event {
            QpEvent::CommEst => &self.came_early,
            QpEvent::Fatal => &self.fatal,
            QpEvent::Other(_) => return,
        };
        self.note(told);
    }
}

impl Conn {
    /// Leaves a note to the socket's work. Any context: that of a device's event may have interrupts
    /// off, where none of the locks can be taken, and in softirq none of the CM's can.
    fn note(&self, what: &AtomicFlag) {
        what.store(true, Relaxed);
        self.sk.queue_work();
    }

    fn failed(&self, status: WcStatus) {
        match status {
            // Somebody took the QP down. If that was not us then the CM may never tell of it: rxe
            // fails a QP so when the interface below it refuses a packet.
            WcStatus::WrFlush => {
                if self.look(|m| m.state() != State::Closed) {
                    self.broken(ECONNRESET);
                }
            }
            WcStatus::RetryExc | WcStatus::RnrRetryExc => self.broken(ETIMEDOUT),
            _ => self.broken(self.lost()),
        }
    }
}
