// SPDX-License-Identifier: GPL-2.0

//! One connection: the protocol machine, the QP, and the buffers between them and the user.
//!
//! A connection has a lifetime of its own: it exists before a child has a socket, and after a
//! socket was closed. Its [`Owner`] is notified of its events. What the CM and the device report is
//! handled by the connection's own work, which no program can hold up.
//!
//! This file defines it, except for what two of its locks guard, [`Flow`] and
//! [`Post`](post::Post), and what it knows of its [`Listener`]. Its methods are in one file for
//! each concern, which `sock.rs` lists.
//!
//! Locks: Documentation/architecture.rst has the table of all, in the order in which they are
//! taken. "The spinlocks" of a connection are [`Connection::owner`], [`Connection::post`],
//! [`Connection::flow`] and [`Connection::notes`], in this order. User memory is accessed with the
//! socket lock held and no other. Completions run in softirq and take spinlocks only. So does the
//! handler of a connection's cm id; that of a port's also takes `DiagList::table`, and allocates.
//!
//! References: the QP's completions own an `Arc` of the connection and the connection owns the QP,
//! and so it is with its cm id. [`Conn::tear_down`], with which every connection ends, breaks both
//! circles. A connection and the socket that owns it have a reference of each other;
//! [`Conn::detach`] drops that of the connection, when the socket gives it up.

use crate::{
    net::{
        sock::Inherited,
        sockaddr::IpVersion,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        this_cpu,
        work::Work, //
    },
    prelude::*,
    proto::{
        Config,
        Machine,
        Readable,
        Side, //
    },
    rdma::{
        cm::CmId,
        pd::Pd,
        qp::Qp, //
    },
    sock::{
        account::Account,
        addr::AddrPair,
        conn_options::ConnOptions,
        diag_list::Number,
        flow::{
            new_machine,
            Flow,
            Identity, //
        },
        listener::{
            ChildState,
            Listener,
            UnchargedId, //
        },
        notes::{
            Notes,
            Setup, //
        },
        orphan::Orphan,
        post,
        recv_buffers::FIRST,
        stats::{
            Counter,
            Counters, //
        },
        types::{
            Net,
            NetRef,
            Socket, //
        }, //
    }, //
};
use core::sync::atomic::{
    AtomicI32,
    AtomicUsize, //
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

/// What [`Connection::post`] guards.
pub(super) type Post = post::Post<ConnQp>;

/// Who is notified of a connection's events.
pub(super) enum Owner {
    /// Nobody: it ends by itself.
    Nobody(Option<Orphan>),
    /// The listener that it was made for, and how far it is from accept.
    Listener(Arc<dyn Listener<Conn>>, ChildState),
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
            Self::Listener(_, state) => {
                f.write_str("listener, ")?;
                fmt::Display::fmt(state, f)
            }
            Self::Socket(_) => f.write_str("socket"),
        }
    }
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
    /// The number of the request at its listener, from which it was made; 0 for one that connects.
    pub(super) request_seq: u64,
    /// The options that a child has when it is accepted.
    pub(super) inherited: Option<Inherited>,
    /// The CPU on which the last message arrived, or the request for it (`SO_INCOMING_CPU`).
    pub(super) cpu: AtomicI32,
    /// When it was made: the zero of the machine's time.
    pub(super) made: Instant<Monotonic>,
    /// The counters of this connection.
    pub(super) stats: Counters,
    /// Its number in the list of diagnostics.
    pub(super) number: Number,
    /// Payload bytes of received messages that were not read, in [`Flow::rx`] and in the queue of
    /// the reader (`Stream::rx`): where the reader stands. Grows under [`Connection::flow`].
    pub(super) unread: AtomicUsize,
    /// Its set-up has succeeded: spares calls a look at [`Flow::setup_result`], which does not
    /// change any more then. Changes with that, under [`Connection::flow`].
    pub(super) was_established: AtomicFlag,
    /// The receive half was shut down (`shutdown(2)`).
    pub(super) recv_shut: AtomicFlag,
    /// A writer has found no room, and is notified when there is some.
    pub(super) no_room: AtomicFlag,
    /// A reader has left its buffer here, and is notified when the fabric uses it no more.
    pub(super) reads_left: AtomicFlag,
    /// Stamps of what was sent are still to be reported (`SO_TIMESTAMPING`).
    pub(super) awaits_stamps: AtomicFlag,
    /// For the work: data arrived on a connection that the CM does not know to be established,
    /// since the RTU is late or lost (B-9).
    pub(super) comm_est: AtomicFlag,
    /// For the work: the device failed the QP.
    pub(super) fatal: AtomicFlag,
    /// What the CM reported; process context only.
    #[pin]
    pub(super) notes: SpinLock<Notes<UnchargedId<Conn>>>,
    /// Set-up and teardown.
    #[pin]
    pub(super) setup: Mutex<Setup<Id>>,
    /// What it is charged.
    #[pin]
    pub(super) account: Mutex<Account>,
    /// Who is notified; held meanwhile. Any context.
    #[pin]
    pub(super) owner: SpinLockBh<Owner>,
    /// Held from asking the machine for a message until that is posted. Any context.
    #[pin]
    pub(super) post: SpinLockBh<Post>,
    /// Held for a few hundred instructions, and a copy of at most a receive buffer. Any context.
    #[pin]
    pub(super) flow: SpinLockBh<Flow>,
}

impl Conn {
    /// A connection of the connecting side, for `sk`, of which nothing is set up. May sleep. Fails
    /// with `ENOMEM`.
    pub(super) fn connecting(sk: &Socket, options: ConnOptions) -> Result<Arc<Self>> {
        let identity = Identity {
            addrs: None,
            uid: sk.uid(),
            cookie: Some(sk.cookie()),
        };
        let owner = Owner::Socket(sk.into());
        Self::unconnected(sk.net(), owner, sk.version(), identity, None, options)
    }

    /// A connection of the accepting side, between these addresses, for a peer's request with this
    /// number at `listener` in `net`. Fails with `ECONNREFUSED` where that is closed, and as
    /// [`Self::connecting`] does.
    pub(super) fn accepting(
        net: &Net,
        listener: Arc<dyn Listener<Conn>>,
        request_seq: u64,
        addrs: AddrPair,
        options: ConnOptions,
    ) -> Result<Arc<Self>> {
        let (version, uid, inherited) = listener.inherited().ok_or(ECONNREFUSED)?;
        let identity = Identity {
            addrs: Some(addrs),
            uid,
            cookie: None,
        };
        let owner = Owner::Listener(listener, ChildState::Waiting);
        let request = Some((request_seq, inherited));
        Self::unconnected(net, owner, version, identity, request, options)
    }

    fn unconnected(
        net: &Net,
        owner: Owner,
        version: IpVersion,
        identity: Identity,
        request: Option<(u64, Inherited)>,
        options: ConnOptions,
    ) -> Result<Arc<Self>> {
        let side = match request {
            Some(_) => Side::Accepting,
            None => Side::Connecting,
        };
        let (request_seq, inherited) = request.unzip();
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
        let machine = new_machine(config)?;
        Work::new(pin_init!(Connection {
            net: net.into(),
            side,
            version,
            request_seq: request_seq.unwrap_or(0),
            inherited,
            cpu: AtomicI32::new(match side {
                Side::Accepting => this_cpu(),
                Side::Connecting => -1,
            }),
            made: Instant::now(),
            stats: Counters::new(),
            number: Number::none(),
            unread: AtomicUsize::new(0),
            was_established: AtomicFlag::new(false),
            recv_shut: AtomicFlag::new(false),
            no_room: AtomicFlag::new(false),
            reads_left: AtomicFlag::new(false),
            awaits_stamps: AtomicFlag::new(false),
            comm_est: AtomicFlag::new(false),
            fatal: AtomicFlag::new(false),
            notes <- new_spinlock!(Notes::new(), "sdp::Connection::notes"),
            setup <- new_mutex!(Setup::new(), "sdp::Connection::setup"),
            account <- new_mutex!(Account::default(), "sdp::Connection::account"),
            owner <- new_spinlock_bh!(owner, "sdp::Connection::owner"),
            post <- new_spinlock_bh!(Post::new(), "sdp::Connection::post"),
            flow <- new_spinlock_bh!(
                Flow::new(machine, identity, options),
                "sdp::Connection::flow"
            ),
        }))
    }

    /// The addresses of the connection's ends, as far as they are known. Any context, without
    /// [`Connection::flow`] and the locks after it.
    pub(super) fn addrs(&self) -> Option<AddrPair> {
        self.flow.lock().identity.addrs
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

    /// A reference of the QP, for calls that sleep. Under [`Connection::setup`], since the last
    /// reference must be dropped in [`Conn::destroy_qp`].
    pub(super) fn qp(&self, _setup: &Setup<Id>) -> Option<Arc<ConnQp>> {
        self.post.lock().qp.clone()
    }

    /// Counts what happened, for the connection and for its namespace. Any context.
    pub(super) fn count(&self, counter: Counter, n: u64) {
        self.stats.add(counter, n);
        self.net.own().stats.add(counter, n);
    }

    /// Sets the time of the machine, runs `f` on it, and then does what it wants done.
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

    /// The peer's memory that is to be fetched before anything that arrived behind it. Any context.
    pub(super) fn readable(&self) -> Option<Readable> {
        self.inspect(Machine::readable)
    }

    /// Bytes of the peer's memory that can be fetched now. Any context.
    pub(super) fn advertised(&self) -> usize {
        // CAST: `usize` has at least 32 bits.
        self.readable().map_or(0, |next| next.region.len as usize)
    }
}
