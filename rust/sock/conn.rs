// SPDX-License-Identifier: GPL-2.0

//! One connection: the protocol machine, the QP, and the buffers between them and the user.
//!
//! A connection has a lifetime of its own: it exists before a child has a socket, and after a
//! socket was closed. Its [`Owner`] is who hears of it. What the CM and the device report is
//! handled by the connection's own work, which no program can hold up.
//!
//! Here is what a connection is made of. Its methods are in one file for each concern: `work` with
//! the timer; `setup` (`connecting`, `accepting`, `resources`) and `teardown`; `state`,
//! `owner` and `charge`; `input` and `output` of messages, `zcopy` of buffers, and `events` of
//! the device and the machine.
//!
//! Locks: Documentation/architecture.rst has the table of all, in the order in which they are
//! taken. "The spinlocks" of a connection are [`Connection::owner`], [`Connection::post`],
//! [`Connection::flow`] and [`Connection::notes`], in this order. User memory is accessed with the
//! socket lock held and no other. Completions run in softirq and take spinlocks only. So does the
//! handler of a connection's cm id; that of a port's also takes `Seen::table`, and allocates.
//!
//! References: the QP's completions own an `Arc` of the connection and the connection owns the QP,
//! and so it is with its cm id. [`Conn::tear_down`], with which every connection ends, breaks both
//! circles. A connection and the socket that owns it have a reference of each other;
//! [`Conn::detach`] drops that of the connection, when the socket gives it up.

use crate::{
    net::{
        sock::Heritage,
        sockaddr::IpVersion,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        stamp::Stamp,
        this_cpu,
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
        Transmit, //
    },
    rdma::{
        buf::{
            RecvBuf,
            SendBuf,
            Sge, //
        },
        cm::CmId,
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
        conn_options::ConnOptions,
        link::{
            Link,
            Progress, //
        },
        mark::Urgent,
        notes::{
            Notes,
            Setup, //
        },
        orphan::Orphan,
        recv_buffers::{
            Limits,
            RecvBuffers,
            Unread,
            FIRST, //
        },
        ring::Ring,
        seen::Number,
        stats::{
            Counter,
            Counters, //
        },
        Net,
        NetRef,
        Socket, //
    }, //
};
use core::{
    ops::Range,
    sync::atomic::{
        AtomicI32,
        AtomicUsize, //
    },
};
use kernel::{
    fmt,
    new_mutex,
    new_spinlock,
    page::PAGE_SIZE,
    sync::{
        aref::ARef,
        atomic::AtomicFlag,
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

/// A protocol machine, in memory of its own: it would be copied on the stack of a handler of the
/// CM's, which has no room for that. Sleeps. Fails with `EINVAL` for a configuration that makes no
/// sense, and with `ENOMEM`.
#[inline(never)]
pub(super) fn new_machine(config: Config) -> Result<KBox<Machine>> {
    let machine = Machine::new(config).map_err(|_| EINVAL)?;
    Ok(KBox::new(machine, GFP_KERNEL_ACCOUNT)?)
}

/// The owner of a connection, who is told of it.
pub(super) enum Owner {
    /// Nobody: it ends by itself.
    Nobody(Option<Orphan>),
    /// The listener that it was made for, and its place there.
    Listener(Arc<dyn Parent>, Place),
    /// The socket that has it.
    Socket(ARef<Socket>),
}

impl Owner {
    /// Changes the owner, for the log. Returns the one before, to be dropped without the lock.
    #[must_use]
    pub(super) fn set(&mut self, owner: Self) -> Self {
        pr_debug!("owner: {} -> {owner}\n", *self);
        core::mem::replace(self, owner)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(_) => f.write_str("nobody"),
            Self::Listener(_, place) => {
                f.write_str("listener, ")?;
                fmt::Display::fmt(place, f)
            }
            Self::Socket(_) => f.write_str("socket"),
        }
    }
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

impl Place {
    /// Changes the place, for the log.
    pub(super) fn set(&mut self, place: Self) {
        pr_debug!("child: {} -> {place}\n", *self);
        *self = place;
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::SettingUp => "setting-up",
            Self::Ready => "ready",
        })
    }
}

/// A connection's listener, as the connection sees it.
pub(super) trait Parent: Send + Sync {
    /// Queues an established child for accept. False where nobody will accept it. Process context,
    /// without spinlocks.
    fn ready(&self, child: Arc<Conn>) -> bool;

    /// Removes a child that ended before accept. Process context, without spinlocks.
    fn child_gone(&self, child: &Conn);

    /// [`Conn::recv_terms`] of a child. Any context.
    fn recv_terms(&self) -> (Option<usize>, Option<Stamp>);

    /// Whether a request waits for a place. Any context.
    fn has_waiting(&self) -> bool;

    /// The version of IP of the children's sockets, the uid that owns children until they are
    /// accepted, and the options that they will have then. None where nobody will accept them. Any
    /// context.
    fn heritage(&self) -> Option<(IpVersion, u32, Heritage)>;

    /// Counts one more, or one less, of the requests that are not charged. Any context.
    fn count_uncharged(&self, more: bool);

    /// The socket that is charged for children until they are accepted. Any context.
    fn socket(&self) -> Option<ARef<Socket>>;
}

/// The cm id of a request that is not charged yet.
pub(super) struct Uncharged {
    id: Id,
    _count: UncountOnDrop,
}

impl Uncharged {
    /// Counts it at its listener until it is charged, or dropped. Any context.
    pub(super) fn new(id: Id, parent: Arc<dyn Parent>) -> Self {
        parent.count_uncharged(true);
        Self {
            id,
            _count: UncountOnDrop(parent),
        }
    }

    /// The cm id, counted no more. Any context.
    pub(super) fn into_id(self) -> Id {
        self.id
    }
}

struct UncountOnDrop(Arc<dyn Parent>);

impl Drop for UncountOnDrop {
    fn drop(&mut self) {
        self.0.count_uncharged(false);
    }
}

/// What identifies a connection to diagnostics.
pub(super) struct Identity {
    /// The addresses of its ends, as far as they are known.
    pub(super) names: Option<Names>,
    /// The user that it belongs to while no socket has it.
    pub(super) uid: u32,
    /// The cookie of the socket that it was made for, or that has closed it.
    pub(super) cookie: Option<u64>,
}

/// The sizes of the peer's receive buffers that this end asks for, in bytes.
#[derive(Default)]
pub(super) struct PeerBuffers {
    /// The longest message of this end: larger buffers are of no use.
    pub(super) message_size: u32,
    /// Their size before this end asked for larger ones.
    pub(super) before: Option<u32>,
    /// Something was written since `check_idle` last ran.
    pub(super) wrote: bool,
}

/// When the work is to run, in the machine's time.
#[derive(Default)]
pub(super) struct Timers {
    /// When the timer expires, in the machine's time, in nanoseconds.
    pub(super) armed: Option<u64>,
    /// When a connection that has grown is next checked for idleness, in the machine's time.
    pub(super) idle_at: Option<u64>,
}

/// Why the connection failed, if it did.
#[derive(Default)]
pub(super) struct Failure {
    /// The cause of a failure, where something more precise than a reset is known.
    pub(super) cause: Option<Error>,
    /// The reason of a failure was left in the socket (`sk_err`).
    pub(super) reported: bool,
}

impl Failure {
    /// Notes a cause, of which the first is told.
    pub(super) fn note(&mut self, cause: Error) {
        self.cause.get_or_insert(cause);
    }
}

/// How far the buffers are that a call offers to the peer.
#[derive(Default)]
pub(super) struct Offers {
    /// Buffers are offered to the peer, or are to be, and nothing has come yet that belongs behind
    /// what the peer writes to them.
    pub(super) open: bool,
    /// A call offered buffers, and has not collected what came for them: messages are not joined.
    pub(super) gathering: bool,
}

/// What [`Connection::flow`] guards: the machine, and what goes with its state.
pub(super) struct Flow {
    /// The protocol.
    pub(super) machine: KBox<Machine>,
    /// Payload that no reader has taken over yet.
    pub(super) rx: Ring<Unread>,
    /// The peer's urgent byte.
    pub(super) urgent: Urgent,
    /// It came, and readers were not told yet.
    pub(super) urgent_came: bool,
    /// Urgent bytes that a reader who stands at one of them is not to have.
    pub(super) skip: Range<u64>,
    /// What became of the set-up; changed by `decide` only.
    pub(super) progress: Progress,
    /// How far the connection is from its end; changed by `go_on_to` only.
    pub(super) link: Link,
    /// What diagnostics show of it.
    pub(super) identity: Identity,
    /// The options of the socket, or for a child those of the listener.
    pub(super) options: ConnOptions,
    /// Whether the device speaks iWARP.
    pub(super) iwarp: bool,
    /// The peer's receive buffers.
    pub(super) peer_buffers: PeerBuffers,
    /// Pages that are charged for written bytes.
    pub(super) send_charged: usize,
    /// Until when it waits for data before it can be accepted, if it does, in the machine's time.
    pub(super) deferred: Option<u64>,
    /// The receive buffers.
    pub(super) recv: RecvBuffers,
    /// Messages that came before the HelloAck was seen.
    pub(super) early: Ring<RecvBuf>,
    /// The QP was taken down: it returns at once what is posted.
    pub(super) flushed: bool,
    /// When the timer expires, and what for.
    pub(super) timers: Timers,
    /// What is known of the reason of a failure.
    pub(super) failure: Failure,
    /// Whether buffers are offered to the peer.
    pub(super) offers: Offers,
    /// When the last message came while buffers were offered, where the program has asked.
    pub(super) told: Option<Stamp>,
}

/// What [`Connection::post`] guards: the QP, and what is to be posted to it.
pub(super) struct Post {
    /// None before the device is known, and after teardown.
    pub(super) qp: Option<Arc<ConnQp>>,
    /// The bytes of the send stream that no message carries yet.
    pub(super) tx: Ring<Sge>,
    /// The chunk with room that the next written bytes go to, while no call has it.
    pub(super) chunk: Option<SendBuf>,
    /// The message that goes before any other: it could not be mapped for want of memory.
    pub(super) waiting: Option<Outbound>,
    /// Requests for messages and registrations that have not completed. Other requests of the
    /// callers' buffers have slots of their own.
    pub(super) messages: usize,
    /// Something may wait for a slot of the send queue.
    pub(super) is_full: bool,
    /// A probe has no answer yet.
    pub(super) is_probing: bool,
    /// The callers' buffers that take part in zero copy.
    pub(super) buffers: Buffers,
}

/// A message, or an RDMA Write with the message that tells of it, and the bytes that it carries.
pub(super) struct Outbound {
    /// As the machine gave it.
    pub(super) transmit: Transmit,
    /// The bytes, not mapped yet.
    pub(super) payload: Payload,
}

/// A request of the send queue that has not completed.
pub(super) enum Request {
    /// A message.
    Message(SendTag),
    /// An RDMA Write, of which the next message tells, or one of no bytes ([`Conn::nudge`]).
    Write,
    /// A request without bytes that the peer's device has to answer.
    Probe,
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

/// A connection, with its work items and timer.
pub(super) type Conn = Work<Connection>;

/// What a connection is made of.
#[pin_data]
pub(super) struct Connection {
    /// The network namespace of its socket or listener.
    pub(super) net: NetRef,
    /// Whether this end connects or accepts.
    pub(super) side: Side,
    /// The version of IP of its socket.
    pub(super) version: IpVersion,
    /// The number of the request at its listener, from which it came; 0 for one that connects.
    pub(super) request_seq: u64,
    /// The options that a child has when it is accepted.
    pub(super) heritage: Option<Heritage>,
    /// The CPU on which the last message came, or the request for it (`SO_INCOMING_CPU`).
    pub(super) cpu: AtomicI32,
    /// When it was made: the zero of the machine's time.
    pub(super) made: Instant<Monotonic>,
    /// The counters of this connection.
    pub(super) stats: Counters,
    /// Its number in the list of diagnostics.
    pub(super) number: Number,
    /// Payload bytes in the queue of the reader (`Stream::rx`): where the reader stands.
    pub(super) reader_unread: AtomicUsize,
    /// The receive half was shut down (`shutdown(2)`).
    pub(super) recv_shut: AtomicFlag,
    /// A writer has found no room, and is told when there is some.
    pub(super) no_room: AtomicFlag,
    /// A reader has left its buffer here, and is told when the fabric uses it no more.
    pub(super) reads_left: AtomicFlag,
    /// For the work: data came on a connection that the CM does not know to be established, since
    /// the RTU is late or lost (B-9).
    pub(super) came_early: AtomicFlag,
    /// For the work: the device failed the QP.
    pub(super) fatal: AtomicFlag,
    /// What the CM told; process context only.
    #[pin]
    pub(super) notes: SpinLock<Notes<Uncharged>>,
    /// Set-up and teardown.
    #[pin]
    pub(super) setup: Mutex<Setup<Id>>,
    /// What it is charged.
    #[pin]
    pub(super) account: Mutex<Account>,
    /// Who is told; held while that is told. Any context.
    #[pin]
    pub(super) owner: SpinLockBh<Owner>,
    /// Held from asking the machine for a message until that is posted. Any context.
    #[pin]
    pub(super) post: SpinLockBh<Post>,
    /// Held for a few hundred instructions, and a copy of at most a page. Any context.
    #[pin]
    pub(super) flow: SpinLockBh<Flow>,
}

impl Conn {
    /// A connection of the connecting side, for `sk`, of which nothing is set up. May sleep. Fails
    /// with `ENOMEM`.
    pub(super) fn connecting(sk: &Socket, options: ConnOptions) -> Result<Arc<Self>> {
        let identity = Identity {
            names: None,
            uid: sk.uid(),
            cookie: Some(sk.cookie()),
        };
        let owner = Owner::Socket(sk.into());
        Self::unconnected(sk.net(), owner, sk.version(), identity, None, options)
    }

    /// A connection of the accepting side, between these addresses, for a peer's request with this
    /// number at `parent` in `net`. Fails with `ECONNREFUSED` where that is closed, and as
    /// [`Self::connecting`] does.
    pub(super) fn accepting(
        net: &Net,
        parent: Arc<dyn Parent>,
        request_seq: u64,
        names: Names,
        options: ConnOptions,
    ) -> Result<Arc<Self>> {
        let (version, uid, heritage) = parent.heritage().ok_or(ECONNREFUSED)?;
        let identity = Identity {
            names: Some(names),
            uid,
            cookie: None,
        };
        let owner = Owner::Listener(parent, Place::Waiting);
        let request = Some((request_seq, heritage));
        Self::unconnected(net, owner, version, identity, request, options)
    }

    fn unconnected(
        net: &Net,
        owner: Owner,
        version: IpVersion,
        identity: Identity,
        request: Option<(u64, Heritage)>,
        options: ConnOptions,
    ) -> Result<Arc<Self>> {
        let side = match request {
            Some(_) => Side::Accepting,
            None => Side::Connecting,
        };
        let (request_seq, heritage) = request.unzip();
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
            machine: new_machine(config)?,
            rx: Ring::empty(),
            urgent: Urgent::None,
            urgent_came: false,
            skip: 0..0,
            recv: RecvBuffers::new(Limits::NONE),
            progress: Progress::SettingUp,
            link: Link::Up,
            identity,
            options,
            iwarp: false,
            peer_buffers: PeerBuffers::default(),
            send_charged: 0,
            deferred: None,
            early: Ring::empty(),
            flushed: false,
            timers: Timers::default(),
            failure: Failure::default(),
            offers: Offers::default(),
            told: None,
        };
        let post = Post {
            qp: None,
            tx: Ring::empty(),
            chunk: None,
            waiting: None,
            messages: 0,
            is_full: false,
            is_probing: false,
            buffers: Buffers::default(),
        };
        Work::new(pin_init!(Connection {
            net: net.into(),
            side,
            version,
            request_seq: request_seq.unwrap_or(0),
            heritage,
            cpu: AtomicI32::new(match side {
                Side::Accepting => this_cpu(),
                Side::Connecting => -1,
            }),
            made: Instant::now(),
            stats: Counters::new(),
            number: Number::none(),
            reader_unread: AtomicUsize::new(0),
            recv_shut: AtomicFlag::new(false),
            no_room: AtomicFlag::new(false),
            reads_left: AtomicFlag::new(false),
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

    /// The addresses of the connection's ends, as far as they are known. Any context, without
    /// [`Connection::flow`] and the locks after it.
    pub(super) fn names(&self) -> Option<Names> {
        self.flow.lock().identity.names
    }

    /// Sets these options in the machine. Any context, without the spinlocks.
    pub(super) fn set_options(&self, options: ConnOptions) {
        {
            let mut flow = self.flow.lock();
            flow.options = options;
            flow.machine.set_now(self.now());
            options.apply(&mut flow.machine, &self.net);
        }
        self.kick();
        self.arm_timer();
    }

    /// When a connect times out, in the machine's time, in nanoseconds. Any context, without
    /// [`Connection::flow`] and the locks after it.
    pub(super) fn connect_by(&self) -> u64 {
        self.flow.lock().options.timeouts.connect_ns(&self.net)
    }

    /// Whether a connect that was begun keeps the cm id until the peer has answered, or TCP has
    /// timed out: so on iWARP. Any context.
    pub(super) fn awaits_answer(&self) -> bool {
        self.flow.lock().iwarp
    }

    /// A reference of the QP, for calls that sleep. Only under [`Connection::setup`], since the
    /// last reference must be dropped in [`Conn::destroy_qp`].
    pub(super) fn qp(&self) -> Option<Arc<ConnQp>> {
        self.post.lock().qp.clone()
    }

    /// Counts what happened, for the connection and for its namespace. Any context.
    pub(super) fn count(&self, counter: Counter, n: u64) {
        self.stats.add(counter, n);
        self.net.own().stats.add(counter, n);
    }

    /// Tells the machine the time, runs `f` on it, and then does what it wants done.
    ///
    /// Any context, without the spinlocks.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Machine) -> R) -> R {
        let now = self.now();
        let result = {
            let machine = &mut self.flow.lock().machine;
            machine.set_now(now);
            f(machine)
        };
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

    /// The protection domain of the QP, while there is one. Process context, where its last
    /// reference may be dropped.
    pub(super) fn pd(&self) -> Option<Arc<Pd>> {
        let post = self.post.lock();
        Some(post.qp.as_ref()?.pd().clone())
    }

    /// The peer's memory that is to be fetched before anything that came behind it. Any context.
    pub(super) fn readable(&self) -> Option<Readable> {
        self.inspect(Machine::readable)
    }

    /// Bytes of the peer's memory that can be fetched now. Any context.
    pub(super) fn advertised(&self) -> usize {
        // CAST: `usize` has at least 32 bits.
        self.readable().map_or(0, |next| next.region.len as usize)
    }
}
