// SPDX-License-Identifier: GPL-2.0

//! What the spinlock [`Connection::flow`](super::conn::Connection::flow) guards: the machine of a
//! connection, and what goes with its state.

use crate::{
    net::stamp::Stamp,
    prelude::*,
    proto::{
        Config,
        Machine, //
    },
    rdma::buf::RecvBuf,
    sock::{
        addr::AddrPair,
        conn_options::ConnOptions,
        conn_state::{
            SetupResult,
            Teardown, //
        },
        mark::Urgent,
        recv_buffers::{
            Limits,
            RecvBuffers,
            Unread, //
        },
        ring::Ring,
        stamps::SentStamps, //
    }, //
};
use core::ops::Range;

/// A protocol machine, in memory of its own: it would be copied on the stack of a handler of the
/// CM's, which has no room for that. Sleeps. Fails with `EINVAL` for a configuration that makes no
/// sense, and with `ENOMEM`.
#[inline(never)]
pub(super) fn new_machine(config: Config) -> Result<KBox<Machine>> {
    let room = KBox::new_uninit(GFP_KERNEL)?;
    // No map_err(), which would move the machine once more.
    match Machine::new(config) {
        Ok(machine) => Ok(room.write(machine)),
        Err(_) => Err(EINVAL),
    }
}

/// What identifies a connection to diagnostics.
pub(super) struct Identity {
    /// The addresses of its ends, as far as they are known.
    pub(super) addrs: Option<AddrPair>,
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

impl Timers {
    /// Whether a time, as those above, is before the timer expires.
    pub(super) fn is_before(&self, at: u64) -> bool {
        self.armed.is_none_or(|armed| at < armed)
    }
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
    /// Notes a cause, of which the first is reported.
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
    /// A call offered buffers, and has not collected what arrived for them: messages are not
    /// joined.
    pub(super) gathering: bool,
}

/// What `Connection::flow` guards: the machine, and what goes with its state.
pub(super) struct Flow {
    /// The protocol.
    pub(super) machine: KBox<Machine>,
    /// Payload that no reader has taken over yet.
    pub(super) rx: Ring<Unread>,
    /// The peer's urgent byte.
    pub(super) urgent: Urgent,
    /// It arrived, and readers were not notified yet.
    pub(super) urgent_unreported: bool,
    /// Urgent bytes that a reader who stands at one of them is not to have.
    pub(super) skip: Range<u64>,
    /// The result of the set-up; changed by `Conn::decide_setup` only.
    pub(super) setup_result: SetupResult,
    /// How far the teardown is; changed by `Conn::advance_teardown` only.
    pub(super) teardown: Teardown,
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
    /// Messages that arrived before the HelloAck was seen.
    pub(super) early: Ring<RecvBuf>,
    /// The QP was taken down: it returns at once what is posted.
    pub(super) flushed: bool,
    /// When the timer expires, and what for.
    pub(super) timers: Timers,
    /// What is known of the reason of a failure.
    pub(super) failure: Failure,
    /// Whether buffers are offered to the peer.
    pub(super) offers: Offers,
    /// When the last message arrived while buffers were offered, where the program has asked.
    pub(super) offer_stamp: Option<Stamp>,
    /// What is to be reported to programs of what they sent.
    pub(super) stamps: SentStamps,
}

impl Flow {
    /// Whether the teardown has not begun.
    pub(super) fn is_up(&self) -> bool {
        self.teardown == Teardown::NotBegun
    }

    /// That of a connection of which nothing is set up.
    pub(super) fn new(machine: KBox<Machine>, identity: Identity, options: ConnOptions) -> Self {
        Self {
            machine,
            rx: Ring::empty(),
            urgent: Urgent::None,
            urgent_unreported: false,
            skip: 0..0,
            recv: RecvBuffers::new(Limits::NONE),
            setup_result: SetupResult::Pending,
            teardown: Teardown::NotBegun,
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
            offer_stamp: None,
            stamps: SentStamps::new(),
        }
    }
}
