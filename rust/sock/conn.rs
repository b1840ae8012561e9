// SPDX-License-Identifier: GPL-2.0

//! One connection: the protocol machine, the QP, and the buffers between them and the user.
//!
//! A connection lives by itself. It is there before a child has a socket, and after a socket was
//! closed; its [`Owner`] is who hears of it. What the CM and the device tell is done by the
//! connection's own work, which no program can hold up.
//!
//! Here is what a connection is made of, and what its work does. Its methods are in files for each
//! thing that it does: `setup` and `teardown`, `state`, `owner` and `charge`; `transmit` and
//! `receive` of messages, `zcopy` of buffers, and `events`, which the device and the machine tell.
//!
//! Locks, in the order in which they may be taken; Documentation/architecture.rst has the table of
//! all:
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
//! User memory is accessed with the socket lock held and no other. Completions run in softirq and
//! take 5 to 8 only; a handler of the CM takes spinlocks only.
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
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        work::Work, //
    },
    prelude::*,
    proto::{
        BufferId,
        Config,
        Machine,
        Readable,
        SendTag,
        Side,
        Transmit,
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
        pd::Pd,
        qp::{
            Payload,
            Qp, //
        }, //
    },
    sock::{
        account::Account,
        addr::Names,
        buffers::Buffers,
        link::{
            Link,
            Progress, //
        },
        notes::{
            Notes,
            Setup, //
        },
        recv_buffers::{
            Limits,
            RecvBuffers,
            Unread,
            FIRST, //
        },
        ring::Ring,
        stats::{
            self,
            Counter,
            Counters, //
        },
        Options,
        Socket, //
    }, //
};
use kernel::{
    new_mutex,
    new_spinlock,
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
    }, //
};

/// The cm id of a connection.
pub(super) type Id = CmId<Arc<Conn>>;

/// The QP of a connection, with its cm id.
pub(super) type ConnQp = Qp<Arc<Conn>, Arc<Conn>>;

/// A peer that is not ready is retried for as long as it lives; credits keep it ready.
const RNR_RETRY_FOR_EVER: u8 = 7;

/// RDMA Reads at a time each way. Devices set memory aside for what is asked for.
// CAST: It is 8.
pub(super) const READS: u8 = ADVERTS as u8;

/// The most that the CM knows.
const RETRIES: u8 = 7;

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
    pub(super) link: Link,
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
    pub(super) send_charged: usize,
    /// When the timer is to run out, in the machine's time.
    pub(super) armed: Option<u64>,
    /// When a connection that has grown is looked at next, in that too.
    pub(super) idle_at: Option<u64>,
    /// The reason why the connection failed, if it did, was left to the user.
    pub(super) reported: bool,
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

/// What the lock that orders messages guards.
pub(super) struct Post {
    pub(super) qp: Option<Arc<ConnQp>>,
    /// The send stream from the next message on.
    pub(super) tx: Ring<Sge>,
    /// The message that goes before any other: the device had no room to map it.
    pub(super) waiting: Option<Outbound>,
    /// Requests for messages and registrations that have not completed; others of the callers'
    /// buffers have slots of their own.
    pub(super) messages: usize,
    /// No more were posted for want of a slot.
    pub(super) is_full: bool,
    pub(super) buffers: Buffers,
}

/// A message, or an RDMA Write and a message, as the machine gave it, with what it carries.
pub(super) struct Outbound {
    pub(super) transmit: Transmit,
    pub(super) payload: Payload,
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
    pub(super) made: Instant<Monotonic>,
    /// What the connection did.
    pub(super) stats: Counters,
    /// For the work: data came on a connection that the CM takes for unfinished, the RTU being late or
    /// lost (B-9).
    pub(super) came_early: AtomicFlag,
    /// For the work: the device failed the QP.
    pub(super) fatal: AtomicFlag,
    #[pin]
    pub(super) notes: SpinLock<Notes<Id>>,
    #[pin]
    pub(super) setup: Mutex<Setup<Id>>,
    #[pin]
    pub(super) account: Mutex<Account>,
    #[pin]
    pub(super) owner: SpinLockBh<Owner>,
    #[pin]
    pub(super) post: SpinLockBh<Post>,
    #[pin]
    pub(super) flow: SpinLockBh<Flow>,
}

/// Milliseconds in the machine's time, which is in nanoseconds.
pub(super) fn ms(ms: u32) -> u64 {
    u64::from(ms).saturating_mul(1_000_000)
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

    /// Has what is held back for more bytes sent in time (`TCP_CORK`, `MSG_MORE`), and what else the machine
    /// wants to do later. Any context.
    pub(super) fn arm_held(&self) {
        if let Some(at) = self.inspect(Machine::deadline) {
            self.work_at(at);
        }
    }

    /// Has the work run in so many milliseconds, or before. Any context.
    pub(super) fn work_in(&self, ms: u32) {
        self.work_at(self.now().saturating_add(self::ms(ms)));
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
}
