// SPDX-License-Identifier: GPL-2.0

//! The SDP socket: one file for each thing that a program does with it.
//!
//! State is in two places. What the caller of a socket decides about is [`Locked`], under
//! `lock_sock()`; what messages change is in [`conn::Conn`], under the spinlocks that are described
//! there with the order of all locks.
//!
//! A cm id must not be destroyed in its own handler, nor under a lock that the handler takes, and
//! a QP must be drained by a task that can sleep. So nobody but [`reap`] does either: connections
//! that end mark how far they are from it and queue the socket's work, which reaps.

mod bind;
mod buffers;
mod cm;
mod conn;
mod connect;
mod kept;
mod listen;
mod option;
mod poll;
mod reap;
mod receive;
mod recv;
mod release;
mod ring;
mod send;
pub(crate) mod settings;
mod shutdown;
mod splice;
pub(crate) mod stats;
mod turn;
mod zcopy;

use crate::{
    net::{
        family::{
            Family,
            Registration, //
        },
        msg::{
            RecvMsg,
            SendMsg, //
        },
        namespace::Net,
        ops::{
            Name,
            Protocol, //
        },
        option::OptionRoom,
        pipe::Pipe,
        sock::Sock,
        sockaddr::{
            SockAddr,
            AF_INET_SDP, //
        },
    },
    prelude::*,
    rdma::buf::SendBuf,
    sock::{
        conn::{
            Conn,
            Id, //
        },
        listen::{
            Backlog,
            Pending, //
        },
        receive::Unread,
        ring::Ring, //
    },
};
use core::net::SocketAddrV4;
use kernel::{
    new_mutex, new_spinlock,
    sync::{
        aref::ARef,
        atomic::Atomic,
        Arc,
        Mutex,
        SpinLock, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// An SDP socket.
pub(crate) type Socket = Sock<Sdp>;

/// The part of a socket that needs no socket lock.
#[pin_data]
pub(crate) struct Sdp {
    /// Held by who reaps what the socket used before.
    #[pin]
    teardown: Mutex<()>,
    /// How the CM ended the cm id that the socket has.
    #[pin]
    ended: SpinLock<Option<cm::Ended>>,
    /// Children of a listener that are not connected yet.
    pending: Atomic<u32>,
}

/// What the caller of a socket has made of it.
enum State {
    /// Nothing, or a local address.
    Idle,
    /// It listens.
    Listening(Backlog),
    /// Its connection is being made.
    Connecting,
    /// The connection was not made; connect tells why, once.
    Failed,
    /// It has, or had, a connection.
    Connected,
}

/// The part of a socket that `lock_sock()` guards.
pub(crate) struct Locked {
    state: State,
    /// The address that bind was given, with the port that it got.
    bound: Option<SocketAddrV4>,
    /// The names of the connection's ends.
    local: Option<SocketAddrV4>,
    peer: Option<SocketAddrV4>,
    /// The cm id while there is no QP, which has it afterwards.
    id: Option<Id>,
    /// What [`reap`] is to destroy.
    dead: Option<Id>,
    conn: Option<Arc<Conn>>,
    /// No connect has told of the connection yet.
    untold: bool,
    /// The peer that is looked for.
    lookup: Option<connect::Lookup>,
    /// Where a child goes once it is connected.
    listener: Option<Pending>,
    /// Payload that the readers have taken over from the connection.
    rx: Ring<Unread>,
    /// The chunk that written bytes go to.
    tx: Option<SendBuf>,
    /// `shutdown(2)` of the receive half.
    recv_shut: bool,
    nodelay: bool,
    cork: bool,
    /// The least call that moves its bytes without a copy, or 0 for none.
    zcopy_threshold: u32,
    /// A call that would block may leave its buffer here.
    zcopy_retry: bool,
    /// The buffers that calls left.
    kept_send: Option<kept::Kept>,
    kept_recv: Option<kept::Kept>,
    /// The calls that send, and those that fetch what the peer advertises, take turns.
    send_turn: turn::Turn,
    recv_turn: turn::Turn,
    /// Payload bytes of messages that were read, modulo 2^64.
    consumed: u64,
    /// Times that bytes were received by the program.
    taken: u64,
    /// `taken` when a send found that it waited for a peer which seemed to wait for it: the two have
    /// crossed until more is received.
    crossed_at: Option<u64>,
    /// What came last came without a copy, so that the next is expected to.
    lends: bool,
    /// A closed socket waits for its peer.
    fin_wait: Option<release::FinWait>,
    /// When the wait for the peer's word on a dropped connection ends.
    drop_at: Option<Instant<Monotonic>>,
}

impl Locked {
    /// Whether `conn` is still the connection that the socket has.
    fn has(&self, conn: &Arc<Conn>) -> bool {
        matches!(self.state, State::Connected)
            && self.conn.as_ref().is_some_and(|own| Arc::ptr_eq(own, conn))
    }

    /// Leaves the cm id, if there is one, to [`reap`].
    fn bury(&mut self) {
        if let Some(id) = self.id.take() {
            self.dead = Some(id);
        }
    }
}

static FAMILY: Family<Sdp> = Family::new(c"SDP");

/// The registered family; programs can open sockets while it lives.
pub(crate) fn register() -> Result<Registration<Sdp>> {
    Registration::new(&FAMILY, c"sdp")
}

impl Protocol for Sdp {
    type Locked = Locked;

    const FAMILY: c_int = AF_INET_SDP as c_int;

    fn family() -> &'static Family<Self> {
        &FAMILY
    }

    fn new(net: &Net) -> Result<(impl PinInit<Self, Error>, Locked)> {
        let shared = try_pin_init!(Self {
            teardown <- new_mutex!((), "sdp::Sdp::teardown"),
            ended <- new_spinlock!(None, "sdp::Sdp::ended"),
            pending: Atomic::new(0),
        });
        let locked = Locked {
            state: State::Idle,
            bound: None,
            local: None,
            peer: None,
            id: None,
            dead: None,
            conn: None,
            untold: false,
            lookup: None,
            listener: None,
            rx: Ring::empty(),
            tx: None,
            recv_shut: false,
            nodelay: false,
            cork: false,
            zcopy_threshold: settings::zcopy_threshold(net),
            zcopy_retry: false,
            kept_send: None,
            kept_recv: None,
            send_turn: turn::Turn::default(),
            recv_turn: turn::Turn::default(),
            consumed: 0,
            taken: 0,
            crossed_at: None,
            lends: false,
            fin_wait: None,
            drop_at: None,
        };
        Ok((shared, locked))
    }

    fn release(sk: &Socket) {
        release::release(sk);
    }

    fn bind(sk: &Socket, addr: SockAddr<'_>) -> Result {
        bind::bind(sk, addr.to_v4(AF_INET_SDP)?)
    }

    fn connect(sk: &Socket, addr: SockAddr<'_>, nonblock: bool) -> Result {
        if addr.is_unspecified()? {
            shutdown::disconnect(sk);
            return Ok(());
        }
        connect::connect(sk, addr.to_v4(AF_INET_SDP)?, nonblock)
    }

    fn listen(sk: &Socket, backlog: c_int) -> Result {
        listen::listen(sk, backlog)
    }

    fn accept(sk: &Socket, nonblock: bool) -> Result<ARef<Socket>> {
        listen::accept(sk, nonblock)
    }

    fn name(sk: &Socket, which: Name) -> Result<SocketAddrV4> {
        bind::name(sk, which)
    }

    fn poll(sk: &Socket) -> u32 {
        poll::poll(sk)
    }

    fn ioctl(sk: &Socket, cmd: u32) -> Result<c_int> {
        option::ioctl(sk, cmd)
    }

    fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
        shutdown::shutdown(sk, read, write)
    }

    fn set_option(sk: &Socket, level: c_int, name: c_int, value: c_int) -> Result {
        option::set(sk, level, name, value)
    }

    fn option(sk: &Socket, level: c_int, name: c_int, to: OptionRoom) -> Result {
        option::get(sk, level, name, to)
    }

    fn sendmsg(sk: &Socket, msg: SendMsg<'_>) -> Result<usize> {
        let flags = msg.flags;
        send::sendmsg(sk, msg).map_err(|e| sk.stream_error(flags, e))
    }

    fn recvmsg(sk: &Socket, msg: RecvMsg<'_>) -> Result<usize> {
        recv::recvmsg(sk, msg)
    }

    fn splice_read(sk: &Socket, pipe: &mut Pipe<'_>, len: usize, nonblock: bool) -> Result<usize> {
        splice::splice_read(sk, pipe, len, nonblock)
    }

    fn splice_eof(sk: &Socket) {
        splice::splice_eof(sk);
    }

    fn timer(sk: &Socket) {
        sk.queue_work();
    }

    fn work(sk: &Socket) {
        reap::work(sk);
    }
}
