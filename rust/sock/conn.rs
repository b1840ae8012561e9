// SPDX-License-Identifier: GPL-2.0

//! One connection: the protocol machine, the QP, and the buffers between them and the user.
//!
//! A connection lives by itself. It is there before a child has a socket, and after a socket was
//! closed; its [`Owner`] is who hears of it. What the CM and the device tell is done by the
//! connection's own work, which no program can hold up.
//!
//! Locks, in the order in which they may be taken; Documentation/architecture.rst has the table of all:
//!
//! 1. `lock_sock()` of a socket;
//! 2. [`Connection::setup`], for what sleeps: set-up and teardown;
//! 3. the handler mutex of a cm id, in which the CM tells its events;
//! 4. [`Connection::account`], what it is charged for, which may wait for memory;
//! 5. [`Connection::owner`], held while the owner is told;
//! 6. the locks of a backlog;
//! 7. [`Connection::post`], which keeps messages in the order of their MSeq: who holds it asks the
//!    machine for the next message and posts it;
//! 8. [`Connection::flow`], the machine and what it received; held for a few hundred instructions;
//! 9. [`Connection::notes`], what the CM told.
//!
//! User memory is accessed with the socket lock held and no other. Completions run in softirq and take 5 to 8
//! only; a handler of the CM takes spinlocks only.
//!
//! References: the QP's completions own an `Arc` of the connection and the connection owns the QP, and so
//! it is with its cm id. Both circles end in [`Conn::tear_down`], to which every connection comes that is
//! not up any more. A connection and the socket that owns it have a reference of each other; that of the
//! connection ends in [`Conn::detach`], when the socket lets it go.

use crate::{
    net::{
        namespace::{
            Net,
            NetRef, //
        },
        sock::TcpState,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        work::Work,
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
            PeerParam, //
        },
        mr::Remote,
        pd::Pd,
        qp::{
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
        account::{
            Account,
            Parts, //
        },
        addr::Names,
        buffers::{
            has_buffer_slots,
            remote,
            Buffers,
            BUFFER_SLOTS, //
        },
        notes::{
            Notes,
            Setup, //
        },
        recv_buffers::{
            Limits,
            RecvBuffers,
            Unread,
            FIRST,
            RETRY_MS, //
        },
        ring::Ring,
        settings,
        stats::{
            self,
            Counter,
            Counters, //
        },
        Options,
        Socket, //
    },
};
use kernel::{
    fmt, new_mutex, new_spinlock,
    page::PAGE_SIZE,
    sync::{
        aref::ARef,
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// The cm id of a connection.
pub(super) type Id = CmId<Arc<Conn>>;

/// The QP of a connection, with its cm id.
pub(super) type ConnQp = Qp<Arc<Conn>, Arc<Conn>>;

/// Pages of a send chunk for more than a page, as a power of two: 16 KiB on 4 KiB pages.
pub(super) const SEND_ORDER: u32 = 2;

/// Requests of the send queue for registrations, and for messages, which are up to two each.
pub(super) const SEND_SLOTS: u32 = 6;

/// Pieces of written data that may wait to be sent, at first and at most; a piece is a chunk, except at the
/// ends.
const FIRST_PIECES: usize = 8;
const SEND_PIECES: usize = 1024;

/// Pages that are charged for written bytes from the start: a small write takes no more.
const SEND_FIRST: usize = 1;

/// Pages in which more is charged; so many stay so when nothing waits, since the socket may keep a chunk.
const SEND_CHARGE: usize = 1 << SEND_ORDER;

/// Buffers for a message's payload, beside that for its header.
pub(super) const PAYLOAD_PIECES: u32 = 2;

/// A peer that is not ready is retried for as long as it lives; credits keep it ready.
const RNR_RETRY_FOR_EVER: u8 = 7;

/// RDMA Reads at a time each way. Devices set memory aside for what is asked for.
// CAST: It is 8.
pub(super) const READS: u8 = ADVERTS as u8;

/// The most that the CM knows.
const RETRIES: u8 = 7;

/// How far the connection below is from its end. It only goes on from one to a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Link {
    /// It carries messages, or is being made.
    Up,
    /// The peer is to be told that it ends.
    Disconnect,
    /// The peer was told, and has not confirmed it.
    Disconnecting,
    /// The CM is done with it.
    Disconnected,
    /// What it used is freed.
    Closed,
}

/// What became of the set-up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is being set up.
    SettingUp,
    /// It is there, or was.
    Established,
    /// It was never there.
    Failed,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Disconnect => "disconnect",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
        })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SettingUp => "setting-up",
            Self::Established => "established",
            Self::Failed => "failed",
        })
    }
}

/// Who hears of a connection.
pub(super) enum Owner {
    /// Nobody: it ends by itself.
    Nobody,
    /// The listener that it was made for, and its place there.
    Listener(Arc<dyn Parent>, Place),
    /// The socket that has it.
    Socket(ARef<Socket>),
}

/// A child's place in the backlog of its listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a request that waits for a place.
    Waiting,
    /// It is being set up.
    SettingUp,
    /// It waits for accept.
    Ready,
}

/// Who accepts children.
pub(super) trait Parent: Send + Sync {
    /// A child is established. False where nobody will accept it.
    fn ready(&self, child: Arc<Conn>) -> bool;

    /// A child that was not established is none any more.
    fn lost(&self, child: &Conn);

    /// `SO_RCVBUF` of the listener, where it was set. Any context.
    fn rcvbuf_if_set(&self) -> Option<usize>;

    /// The socket that is charged for children until they are accepted. Any context.
    fn socket(&self) -> Option<ARef<Socket>>;
}

/// What the machine's lock guards.
pub(super) struct Flow {
    pub(super) machine: Machine,
    /// Payload that no reader has taken over yet.
    pub(super) rx: Ring<Unread>,
    /// Messages that came before the HelloAck was seen.
    pub(super) early: Ring<RecvBuf>,
    pub(super) progress: Progress,
    link: Link,
    /// The QP was taken down while the connection was being set up.
    pub(super) flushed: bool,
    /// The names of its ends, once it is there.
    pub(super) names: Option<Names>,
    /// What the socket, or the listener, has set.
    pub(super) options: Options,
    /// Whether it is iWARP's.
    pub(super) iwarp: bool,
    /// The longest message that is worth larger buffers of the peer's.
    pub(super) message_size: u32,
    /// Pages that are charged for written bytes.
    send_charged: usize,
    /// When the timer is to run out, in the machine's time.
    armed: Option<u64>,
    /// When a connection that has grown is looked at next, in that too.
    idle_at: Option<u64>,
    /// The reason why the connection failed, if it did, was left to the user.
    reported: bool,
    /// What went wrong below, where that is known better than as a reset.
    pub(super) cause: Option<Error>,
    /// Buffers are offered to the peer, or are to be, and nothing came yet that stands behind what
    /// is written to them.
    pub(super) offering: bool,
    /// A call offered buffers, and has not looked yet at what came for them: messages stay as they are.
    pub(super) gathering: bool,
    /// The receive buffers.
    pub(super) recv: RecvBuffers,
}

impl Flow {
    /// Decides what becomes of the set-up. False where that was decided before.
    fn decide(&mut self, progress: Progress) -> bool {
        let is_open = self.progress == Progress::SettingUp;
        if is_open {
            pr_debug!("set-up: {} -> {progress}\n", self.progress);
            self.progress = progress;
        }
        is_open
    }

    /// Brings the connection nearer to its end. False where it is as near.
    fn go_on_to(&mut self, link: Link) -> bool {
        let is_nearer = self.link < link;
        if is_nearer {
            pr_debug!("link: {} -> {link}\n", self.link);
            self.link = link;
        }
        is_nearer
    }
}

/// What the lock that orders messages guards.
pub(super) struct Post {
    pub(super) qp: Option<Arc<ConnQp>>,
    /// The send stream from the next message on.
    tx: Ring<Sge>,
    /// The message that goes before any other: the device had no room to map it.
    waiting: Option<Outbound>,
    /// Requests for messages and registrations that have not completed; others of the callers' buffers have
    /// slots of their own.
    messages: usize,
    /// No more were posted for want of a slot.
    is_full: bool,
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
    /// An RDMA Write, of which the next message tells, or a probe.
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

/// A connection, with the work that it does by itself.
pub(super) type Conn = Work<Connection>;

/// What a connection is made of.
#[pin_data]
pub(super) struct Connection {
    pub(super) net: NetRef,
    pub(super) side: Side,
    /// The number of the request that it came of, at its listener.
    pub(super) request: u64,
    made: Instant<Monotonic>,
    /// What the connection did.
    pub(super) stats: Counters,
    /// For the work: data came on a connection that the CM takes for unfinished, the RTU being late or
    /// lost (B-9).
    came_early: AtomicFlag,
    /// For the work: the device failed the QP.
    pub(super) fatal: AtomicFlag,
    #[pin]
    pub(super) notes: SpinLock<Notes<Id>>,
    #[pin]
    pub(super) setup: Mutex<Setup<Id>>,
    #[pin]
    account: Mutex<Account>,
    #[pin]
    owner: SpinLockBh<Owner>,
    #[pin]
    pub(super) post: SpinLockBh<Post>,
    #[pin]
    pub(super) flow: SpinLockBh<Flow>,
}

impl Conn {
    /// A connection of which nothing is set up. May sleep; fails with `ENOMEM`.
    pub(super) fn unconnected(
        net: &Net,
        side: Side,
        owner: Owner,
        request: u64,
        options: Options,
    ) -> Result<Arc<Self>> {
        // Until the device is known; the machine is made anew then.
        let config = Config {
            side,
            max_adverts: 1,
            ord: 1,
            ird: 1,
            recv_size: u32::try_from(PAGE_SIZE)?,
            recv_depth: FIRST,
            send_size: u32::try_from(PAGE_SIZE)?,
            desired_remote: 0,
        };
        let flow = Flow {
            machine: Machine::new(config).map_err(|_| EINVAL)?,
            rx: Ring::empty(),
            early: Ring::empty(),
            recv: RecvBuffers::new(Limits::NONE),
            progress: Progress::SettingUp,
            link: Link::Up,
            flushed: false,
            names: None,
            options,
            iwarp: false,
            message_size: 0,
            send_charged: 0,
            armed: None,
            idle_at: None,
            reported: false,
            cause: None,
            offering: false,
            gathering: false,
        };
        let post = Post {
            qp: None,
            tx: Ring::empty(),
            waiting: None,
            messages: 0,
            is_full: false,
            buffers: Buffers::default(),
        };
        Work::new(pin_init!(Connection {
            net: net.into(),
            side,
            request,
            made: Instant::now(),
            stats: Counters::new(),
            came_early: AtomicFlag::new(false),
            fatal: AtomicFlag::new(false),
            notes <- new_spinlock!(Notes::new(), "sdp::Connection::notes"),
            setup <- new_mutex!(Setup::new(), "sdp::Connection::setup"),
            account <- new_mutex!(Account::default(), "sdp::Connection::account"),
            owner <- new_spinlock_bh!(owner, "sdp::Connection::owner"),
            post <- new_spinlock_bh!(post, "sdp::Connection::post"),
            flow <- new_spinlock_bh!(flow, "sdp::Connection::flow"),
        }))
    }

    /// Runs `f` on the socket that has the connection, if there is one. Any context, without 5 and
    /// what comes after it.
    pub(super) fn with_socket(&self, f: impl FnOnce(&Socket)) {
        if let Owner::Socket(sk) = &*self.owner.lock() {
            f(sk);
        }
    }

    /// The bytes that receive buffers may take: `SO_RCVBUF` where it was set. Any context.
    pub(super) fn recv_limit(&self) -> usize {
        let set = match &*self.owner.lock() {
            Owner::Socket(sk) => sk.rcvbuf_if_set(),
            Owner::Listener(parent, _) => parent.rcvbuf_if_set(),
            Owner::Nobody => None,
        };
        set.unwrap_or(usize::MAX)
    }

    /// Charges the owner what `change` makes of the account. Sleeps; without the spinlocks. Fails with `ENOBUFS`,
    /// and changes nothing, where that is more than there may be; with `ENOTCONN` where nobody owns it.
    pub(super) fn charge(&self, change: impl FnOnce(&mut Parts)) -> Result {
        self.charge_in(&mut self.account.lock(), change)
    }

    fn charge_in(&self, account: &mut Account, change: impl FnOnce(&mut Parts)) -> Result {
        if !account.is_open() {
            let sk = match &*self.owner.lock() {
                Owner::Socket(sk) => Some(sk.clone()),
                Owner::Listener(parent, _) => parent.socket(),
                Owner::Nobody => None,
            };
            account.open(&*sk.ok_or(ENOTCONN)?);
        }
        account.change(change)
    }

    /// Charges what a connection takes from the start, `fixed` pages of that for all but its buffers. Sleeps.
    /// Fails with `ENOBUFS`.
    pub(super) fn charge_first(&self, fixed: usize) -> Result {
        self.charge(|parts| {
            *parts = Parts {
                fixed,
                recv: FIRST.into(),
                send: SEND_FIRST,
                regions: 0,
            };
        })?;
        self.flow.lock().send_charged = SEND_FIRST;
        Ok(())
    }

    /// Charges another socket from now on. Sleeps. Fails with `ENOBUFS`, and changes nothing.
    pub(super) fn charge_to(&self, sk: &Socket) -> Result {
        self.account.lock().move_to(sk)
    }

    /// Makes sure that so many more written bytes are charged. Sleeps. Fails with `ENOBUFS`.
    pub(super) fn charge_send(&self, bytes: usize) -> Result {
        let pages = self.copied().saturating_add(bytes).div_ceil(PAGE_SIZE);
        if pages <= self.flow.lock().send_charged {
            return Ok(());
        }
        // More than is needed, so that a stream does not come here for every chunk.
        let pages = pages.next_multiple_of(SEND_CHARGE);
        let mut account = self.account.lock();
        self.charge_in(&mut account, |parts| parts.send = parts.send.max(pages))?;
        self.flow.lock().send_charged = account.parts().send;
        Ok(())
    }

    /// Gives up what is charged for nothing. Sleeps.
    fn settle_account(&self) {
        let mut account = self.account.lock();
        let mut parts = account.parts();
        {
            let mut flow = self.flow.lock();
            parts.recv = parts.recv.min(flow.recv.pages());
            if flow.machine.unsent() == 0 && flow.machine.in_flight() == 0 {
                parts.send = parts.send.min(SEND_CHARGE);
                flow.send_charged = parts.send;
            }
        }
        // Less can always be charged.
        let _ = account.change(|now| *now = parts);
    }

    /// Has a connection that has grown go back to what it took at first, when no more messages came for
    /// as long as `net.sdp.idle_timeout` says than it has receive buffers. In the work.
    fn check_idle(&self) {
        let now = self.now();
        let (at, idle) = {
            let long = self.post.lock().tx.capacity() > FIRST_PIECES;
            let flow = &mut *self.flow.lock();
            if !long && !flow.recv.have_grown() {
                flow.idle_at = None;
                return;
            }
            match flow.idle_at {
                Some(at) if now < at => (at, false),
                before => {
                    let at = now.saturating_add(self.idle_timeout());
                    flow.idle_at = Some(at);
                    (at, flow.recv.take_unused() && before.is_some())
                }
            }
        };
        if idle {
            self.shrink();
        }
        self.work_at(at);
    }

    /// Gives up what an idle connection does not need. Sleeps.
    fn shrink(&self) {
        self.flow.lock().recv.shrink();
        self.no_more_buffers();
        let Ok(mut spare) = Ring::new(FIRST_PIECES) else {
            return;
        };
        {
            let tx = &mut self.post.lock().tx;
            // Who was given a place has one then, too.
            if tx.is_empty() && tx.capacity() > FIRST_PIECES {
                core::mem::swap(tx, &mut spare);
            }
        }
        drop(spare);
    }

    /// `net.sdp.idle_timeout`, in nanoseconds.
    fn idle_timeout(&self) -> u64 {
        u64::from(settings::idle_timeout_ms(&self.net)).saturating_mul(1_000_000)
    }

    /// Gives the connection to a socket, with the failure that it may have had by now.
    pub(super) fn attach(&self, sk: &Socket) {
        // Dropped after the lock.
        let _former = core::mem::replace(&mut *self.owner.lock(), Owner::Socket(sk.into()));
        self.update_state();
        self.report_failure();
    }

    /// The socket lets the connection go.
    pub(super) fn detach(&self) {
        let owner = core::mem::replace(&mut *self.owner.lock(), Owner::Nobody);
        drop(owner);
    }

    /// A request that waited has got its place: it may be set up. False where it has ended.
    pub(super) fn admit(&self) -> bool {
        let admitted = match &mut *self.owner.lock() {
            Owner::Listener(_, place) => {
                *place = Place::SettingUp;
                true
            }
            Owner::Nobody | Owner::Socket(_) => false,
        };
        if admitted {
            self.queue();
        }
        admitted
    }

    /// Whether it waits for a place in its listener's backlog.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&*self.owner.lock(), Owner::Listener(_, Place::Waiting))
    }

    /// A child is established, and goes to its listener's queue.
    pub(super) fn hand_to_backlog(&self) {
        let parent = match &mut *self.owner.lock() {
            Owner::Listener(parent, place) => {
                *place = Place::Ready;
                parent.clone()
            }
            Owner::Nobody | Owner::Socket(_) => return,
        };
        if !parent.ready(self.arc()) {
            self.abandon();
        }
    }

    /// A child that was not established gives its place to another. Without the locks below.
    pub(super) fn leave_listener(&self) {
        let parent = {
            let mut owner = self.owner.lock();
            match core::mem::replace(&mut *owner, Owner::Nobody) {
                Owner::Listener(parent, place) if place != Place::Ready => parent,
                other => {
                    *owner = other;
                    return;
                }
            }
        };
        parent.lost(self);
    }

    /// Ends a connection that no program has, or will get.
    pub(super) fn abandon(&self) {
        self.detach();
        self.with(Machine::abort);
        // A connection that was never made has nobody to be told of its end.
        self.set_link(match self.progress() {
            Progress::Established => Link::Disconnect,
            Progress::SettingUp | Progress::Failed => Link::Disconnected,
        });
    }

    /// What became of the set-up.
    pub(super) fn progress(&self) -> Progress {
        self.flow.lock().progress
    }

    /// The names of the connection's ends, if it was ever there.
    pub(super) fn names(&self) -> Option<Names> {
        self.flow.lock().names
    }

    /// Has the machine go by these options.
    pub(super) fn set_options(&self, options: Options) {
        {
            let mut flow = self.flow.lock();
            flow.options = options;
            options.apply(&mut flow.machine);
        }
        self.kick();
    }

    /// Whether a connect that was begun keeps the cm id until the peer has answered, or TCP has
    /// given it up.
    pub(super) fn awaits_answer(&self) -> bool {
        self.flow.lock().iwarp
    }

    /// What to tell of a failure that the device gives no reason for. An iWARP device says no more
    /// when it loses its TCP connection.
    fn lost(&self) -> Error {
        if self.flow.lock().iwarp {
            ECONNRESET
        } else {
            EIO
        }
    }

    /// The QP, to sleep with. Only under [`Connection::setup`], since the last reference must go in
    /// [`Conn::tear_down`].
    pub(super) fn qp(&self) -> Option<Arc<ConnQp>> {
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
        stats::of(&self.net).add(counter, n);
    }

    /// Runs `f` on the machine, and then does what the machine wants done.
    ///
    /// Any context, without the spinlocks.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Machine) -> R) -> R {
        let result = f(&mut self.flow.lock().machine);
        self.kick();
        result
    }

    /// The time as the machine wants it, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(0)
    }

    /// Looks at the machine. Any context, without the spinlocks.
    pub(super) fn inspect<R>(&self, f: impl FnOnce(&Machine) -> R) -> R {
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

    /// Writes no bytes to the peer.
    fn probe(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        // Where there is no room it is tried again later.
        if post.messages < message_slots(qp) {
            let nowhere = Remote { addr: 0, key: 0 };
            qp.post_write(qp.map(&Payload::default())?, nowhere, Request::Write)?;
            post.messages = post.messages.saturating_add(1);
        }
        Ok(())
    }

    fn transmit(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        let slots = message_slots(qp);
        let pieces = qp.caps().payload_sge as usize;
        // There is room for two.
        while post.messages.saturating_add(1) < slots {
            if let Some((memory, read)) = post.buffers.take_new() {
                // Before any message that tells of it, or needs it.
                qp.post_register(&memory, Request::Register)?;
                post.messages = post.messages.saturating_add(1);
                if let Some((from, len)) = read {
                    qp.post_read(&memory, len, from, Request::Read)?;
                }
                continue;
            }
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
                    self.work_in(RETRY_MS);
                    break;
                }
                Err(e) => return Err(e),
            };
            if let Some(to) = transmit.write {
                let from = payload.take().ok_or(EINVAL)?;
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
        post.is_full = post.messages.saturating_add(1) >= slots;
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
        if events.contains(Events::FINISHED) {
            self.invalidate_finished();
        }
        if events.contains(Events::PROBE) {
            if let Err(e) = self.probe() {
                self.refused(e);
            }
        }
        if events.contains(Events::RESIZE) {
            self.resize_wished();
        }
        if events.contains(Events::SENT_ALL) && self.flow.lock().send_charged > SEND_CHARGE {
            self.queue();
        }
        if events.contains(Events::DISCONNECT) {
            self.set_link(Link::Disconnect);
        }
        if events.contains(Events::ABORTED) {
            // What fails before the connection is established is told with that.
            if self.progress() == Progress::Established {
                self.report_failure();
            }
        }
        let has_changed = [
            Events::PEER_CLOSED,
            Events::SENT_ALL,
            Events::ABORTED,
            Events::CLOSED,
        ]
        .into_iter()
        .any(|event| events.contains(event));
        self.with_socket(|sk| {
            if has_changed {
                sk.set_state(self.tcp_state());
            }
            if events.contains(Events::READABLE) {
                sk.data_ready();
            }
            if events.contains(Events::WRITABLE) && self.writable(sk) {
                sk.write_space();
            }
            if has_changed {
                sk.state_change();
            }
        });
    }

    /// Leaves the reason why the connection failed, if it did, to the next call of its socket. Who
    /// accepts it later is told then.
    fn report_failure(&self) {
        let owner = self.owner.lock();
        let Owner::Socket(sk) = &*owner else { return };
        let (reason, cause) = {
            let flow = self.flow.lock();
            if flow.reported {
                return;
            }
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
            sk.fail(errno);
        }
        self.flow.lock().reported = true;
    }

    /// Bytes that were copied from the user and have not reached the peer.
    pub(super) fn copied(&self) -> usize {
        self.inspect(|m| m.unsent().saturating_add(m.in_flight()))
    }

    /// Bytes that were written and have not reached the peer.
    pub(super) fn queued(&self) -> usize {
        let buffered = self.inspect(Machine::buffered);
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
        self.inspect(|m| !m.can_write())
    }

    /// Whether no more payload will come. Where a failure is why, its reason is the user's to take
    /// by then, lest a reader who comes just now take it for the end of the stream.
    pub(super) fn recv_closed(&self) -> bool {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        let over = match machine.aborted() {
            Some(_) => flow.reported,
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
        {
            let flow = &mut *self.flow.lock();
            let m = &mut flow.machine;
            m.set_now(now);
            m.write(len);
            // Where more than one message is full, larger ones are better.
            if m.unsent() > m.peer_recv_size() as usize && m.peer_recv_size() < flow.message_size {
                m.ask_resize(flow.message_size);
            }
        }
        self.kick();
        Ok(())
    }

    /// Has what is held back for more bytes sent in time (`TCP_CORK`, `MSG_MORE`), and what else the machine
    /// wants to do later. Any context.
    pub(super) fn arm_held(&self) {
        if let Some(at) = self.inspect(Machine::deadline) {
            self.work_at(at);
        }
    }

    /// Has the work run in so many milliseconds, or before. Any context.
    pub(super) fn work_in(&self, ms: u32) {
        self.work_at(
            self.now()
                .saturating_add(u64::from(ms).saturating_mul(1_000_000)),
        );
    }

    /// Has the work run at a time of [`Self::now`], or before. Any context.
    pub(super) fn work_at(&self, at: u64) {
        let mut flow = self.flow.lock();
        if flow.armed.is_none_or(|armed| at < armed) {
            flow.armed = Some(at);
            let ms = at.saturating_sub(self.now()).div_ceil(1_000_000);
            // Under the lock, so that the timer is what `armed` says.
            self.queue_in(u32::try_from(ms).unwrap_or(u32::MAX));
        }
    }

    /// In the work, before it looks what there is to do: who still wants a timer arms it again.
    pub(super) fn begin_work(&self) {
        let mut flow = self.flow.lock();
        if flow.link != Link::Closed {
            flow.armed = None;
        }
    }

    /// In the work: takes in what the device told, lets buffers go, and sends what was held back too
    /// long. Under [`Connection::setup`].
    pub(super) fn serve(&self) {
        self.release_finished();
        let unfinished = self.progress() != Progress::Established;
        if self.came_early.load(Relaxed) && self.side == Side::Accepting && unfinished {
            if let Some(qp) = self.qp() {
                // If the CM cannot take it now, the RTU or the next message says it again.
                let _ = qp.id().notify_established();
            }
        }
        if self.fatal.load(Relaxed) {
            self.broken(self.lost());
        }
        self.settle_account();
        if self.link() == Link::Up {
            self.fill();
            self.check_idle();
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
    /// sent. Sleeps; one caller at a time. Fails with `ENOMEM`, and with `EPIPE` where the connection has ended.
    pub(super) fn make_place(&self) -> Result<bool> {
        let capacity = {
            let tx = &self.post.lock().tx;
            if !tx.is_full() {
                return Ok(true);
            }
            tx.capacity()
        };
        let more = capacity.saturating_mul(2).clamp(FIRST_PIECES, SEND_PIECES);
        if more <= capacity {
            return Ok(false);
        }
        let longer = Ring::new(more)?;
        let unused = {
            let mut post = self.post.lock();
            // What is written after the end goes nowhere.
            if post.qp.is_none() {
                return Err(EPIPE);
            }
            post.tx.lengthen(longer)
        };
        drop(unused);
        if more > FIRST_PIECES {
            self.work_at(self.now().saturating_add(self.idle_timeout()));
        }
        Ok(true)
    }

    /// The protection domain, while there is a QP in it.
    pub(super) fn pd(&self) -> Option<Arc<Pd>> {
        let post = self.post.lock();
        Some(post.qp.as_ref()?.pd().clone())
    }

    /// The peer's memory that is to be fetched before anything that came behind it.
    pub(super) fn readable(&self) -> Option<Readable> {
        self.inspect(Machine::readable)
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
            if result.is_ok() && flow.decide(Progress::Established) {
                core::mem::swap(&mut recycle, &mut flow.early);
                // Taken in under the lock, so that none that comes now can overtake.
                for _ in 0..recycle.len() {
                    if let Some(buf) = recycle.pop() {
                        if let Some(buf) = flow.receive(buf) {
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
        self.flow.lock().decide(Progress::Established);
        self.with(Machine::established);
    }

    /// The connection cannot be made: `e` is connect's to tell. False where what became of it was decided
    /// before. Any context.
    pub(super) fn fail_setup(&self, e: Error) -> bool {
        if !self.flow.lock().decide(Progress::Failed) {
            return false;
        }
        self.with_socket(|sk| {
            sk.set_state(TcpState::Close);
            sk.fail(e);
            sk.state_change();
        });
        true
    }

    /// The fabric failed the connection: no message goes through any more. Any context.
    pub(super) fn broken(&self, cause: Error) {
        let events = {
            let mut flow = self.flow.lock();
            flow.cause.get_or_insert(cause);
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        self.set_link(Link::Disconnect);
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

    /// Brings the connection nearer to its end, and has the work see to it. Any context.
    pub(super) fn set_link(&self, link: Link) {
        if !self.flow.lock().go_on_to(link) {
            return;
        }
        self.update_state();
        self.queue();
    }

    /// The state that the socket shows.
    fn tcp_state(&self) -> TcpState {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        match (flow.progress, machine.state()) {
            (Progress::SettingUp, _) => TcpState::SynSent,
            (Progress::Failed, _) | (_, State::Aborting | State::Disconnecting | State::Closed) => {
                TcpState::Close
            }
            _ if flow.link != Link::Up => TcpState::Close,
            (_, State::DisConnDone) => TcpState::FinWait2,
            _ => match (machine.can_write(), machine.peer_closed()) {
                (true, false) => TcpState::Established,
                (true, true) => TcpState::CloseWait,
                (false, false) => TcpState::FinWait1,
                (false, true) => TcpState::LastAck,
            },
        }
    }

    /// Has the socket show the state. Any context, without 5 and what comes after it.
    pub(super) fn update_state(&self) {
        self.with_socket(|sk| sk.set_state(self.tcp_state()));
    }

    /// Tells the peer that the connection ends. The CM's answer, or its silence, comes as an event. Sleeps;
    /// under [`Connection::setup`].
    pub(super) fn disconnect(&self) -> Result {
        self.qp().ok_or(ENOTCONN)?.disconnect()
    }

    /// Destroys the QP, with the cm id: when this returns no completion comes any more. Sleeps; under
    /// [`Connection::setup`].
    pub(super) fn destroy_qp(&self) {
        // Let go last: what is freed under the lock below must not be the last to hold the domain.
        let _pd = self.pd();
        let qp = self.post.lock().qp.take();
        // The completions that this flushes take in what came before the end.
        drop(qp);
        let mut early = Ring::empty();
        core::mem::swap(&mut early, &mut self.flow.lock().early);
        while let Some(buf) = early.pop() {
            drop(buf);
            self.lost_buffer();
        }
    }

    /// Destroys the cm id that no QP has, and forgets what its handler said last. Sleeps; under
    /// [`Connection::setup`], which `setup` is.
    pub(super) fn destroy_id(&self, setup: &mut Setup<Id>) {
        let adopted = self.notes.lock().id.take();
        drop(adopted);
        setup.id = None;
        setup.expectation = None;
        let mut notes = self.notes.lock();
        notes.step = None;
        notes.end = None;
    }

    /// Ends the connection below: when this returns no completion and no CM event comes any more,
    /// and the device is free of it. What was received stays readable.
    ///
    /// Sleeps; under [`Connection::setup`], which `setup` is.
    pub(super) fn tear_down(&self, setup: &mut Setup<Id>) {
        // Let go last, as there: buffers and written bytes go below.
        let _pd = self.pd();
        self.destroy_qp();
        self.destroy_id(setup);
        setup.orphan = None;
        self.flow.lock().machine.disconnected();
        self.invalidate_finished();
        let (buffers, unsent) = {
            let mut post = self.post.lock();
            let tx = core::mem::replace(&mut post.tx, Ring::empty());
            (post.buffers.end(), (tx, post.waiting.take()))
        };
        drop(unsent);
        for memory in buffers.into_iter().flatten().flatten() {
            self.release_memory(memory);
        }
        self.post.lock().buffers.ended();
        self.release_finished();
        let events = {
            let mut flow = self.flow.lock();
            flow.go_on_to(Link::Closed);
            // Nothing is earlier.
            flow.armed = Some(0);
            self.cancel_later();
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        // Where both ends had closed, nothing changes for the user.
        if events.contains(Events::ABORTED) {
            self.dispatch(events);
        }
        self.leave_listener();
        let received = self.flow.lock().recv.pages();
        let _ = self.account.lock().change(|parts| {
            // What was received and not read is charged until the socket is closed.
            *parts = Parts {
                recv: parts.recv.min(received),
                ..Parts::default()
            };
        });
        // A close that lingers waits for bytes which the peer had no use for, and a call for its
        // buffers.
        self.with_socket(|sk| sk.wake_all());
    }
}

impl Post {
    /// Posts a request to the QP. `ENOTCONN` where there is none any more.
    pub(super) fn request(&mut self, post: impl FnOnce(&ConnQp) -> Result) -> Result {
        post(self.qp.as_ref().ok_or(ENOTCONN)?)
    }
}

/// Requests for messages that may be posted at a time.
fn message_slots(qp: &ConnQp) -> usize {
    let all = qp.caps().send_wr;
    let slots = match has_buffer_slots(all) {
        true => all.saturating_sub(BUFFER_SLOTS),
        false => all,
    };
    slots as usize
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
        let wanted = {
            let mut post = self.post.lock();
            if matches!(
                request,
                Request::Message(_) | Request::Write | Request::Register
            ) {
                post.messages = post.messages.saturating_sub(1);
            }
            match request {
                // What comes behind it may have waited for the slot.
                Request::Register => post.is_full,
                Request::Read => self.read_over(&mut post, result.is_ok()),
                _ => false,
            }
        };
        match (request, &result) {
            (Request::Message(tag), Ok(())) => self.with(|m| m.sent(tag)),
            (Request::EndSend(id), _) => self.send_ended(id),
            (Request::EndRead, _) => self.read_ended(),
            (Request::EndOffer, _) => self.offer_ended(),
            _ => {}
        }
        if wanted {
            self.kick();
        }
        if let Err(status) = result {
            self.failed(status);
        }
    }

    fn received(&self, buf: RecvBuf, result: Result<(), WcStatus>) {
        if let Err(status) = result {
            drop(buf);
            self.lost_buffer();
            return self.failed(status);
        }
        let limit = self.recv_limit();
        let (recycle, early) = {
            let mut flow = self.flow.lock();
            flow.buffer_used();
            let (recycle, early) = if flow.progress == Progress::Established {
                (flow.receive(buf), false)
            } else if self.side == Side::Connecting {
                (flow.early.push(buf).err(), false)
            } else {
                (flow.receive(buf), true)
            };
            flow.want_buffers(limit, recycle.is_some());
            (recycle, early)
        };
        if let Some(buf) = recycle {
            self.recycle(buf);
        }
        if early {
            self.note(&self.came_early);
        }
        self.fill_later();
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
    /// Leaves a note to the work. Any context: that of a device's event may have interrupts
    /// off, where none of the locks can be taken, and in softirq none of the CM's can.
    fn note(&self, what: &AtomicFlag) {
        what.store(true, Relaxed);
        self.queue();
    }

    fn failed(&self, status: WcStatus) {
        match status {
            // Somebody took the QP down. If that was not us then the CM may never tell of it: rxe
            // fails a QP so when the interface below it refuses a packet.
            WcStatus::WrFlush => {
                let lost = {
                    let mut flow = self.flow.lock();
                    // The CM tells what became of a set-up.
                    let setting_up = flow.progress == Progress::SettingUp;
                    flow.flushed |= setting_up;
                    !setting_up && flow.machine.state() != State::Closed
                };
                if lost {
                    self.broken(ECONNRESET);
                }
            }
            WcStatus::RetryExc | WcStatus::RnrRetryExc => self.broken(ETIMEDOUT),
            _ => self.broken(self.lost()),
        }
    }
}
