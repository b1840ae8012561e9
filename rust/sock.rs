// SPDX-License-Identifier: GPL-2.0

//! The SDP socket: one file for each thing that a program does with it, and those of the connection
//! below.
//!
//! State is in two places. What the caller of a socket decides about is [`Locked`], under
//! `lock_sock()`; a connection has its own, and goes on without the socket, in [`conn`], where the
//! order of all locks stands.

mod account;
mod addr;
mod backlog;
mod bind;
mod buffers;
mod charge;
mod conn;
mod connect;
mod endpoint;
mod events;
mod kept;
mod link;
mod listen;
mod notes;
mod option;
mod orphan;
mod owner;
mod poll;
pub(crate) mod ports;
mod receive;
mod recv;
mod recv_buffers;
mod release;
mod ring;
mod send;
pub(crate) mod settings;
mod setup;
mod shutdown;
mod splice;
mod state;
pub(crate) mod stats;
mod stream;
mod teardown;
mod transmit;
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
        ops::Protocol,
        option::OptionRoom,
        pipe::Pipe,
        sock::{
            Sock,
            TcpState, //
        },
        sockaddr::{
            SockAddr,
            AF_INET_SDP, //
        },
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn::Conn,
        endpoint::Endpoint,
        link::{
            Link,
            Progress, //
        },
        stream::Stream, //
    },
};
use kernel::sync::{
    aref::ARef,
    Arc, //
};

/// An SDP socket.
pub(crate) type Socket = Sock<Sdp>;

/// The protocol of the sockets.
pub(crate) struct Sdp;

/// What the caller of a socket has made of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing, or a local address.
    Idle,
    /// It listens.
    Listening,
    /// Its connection is being made.
    Connecting,
    /// The connection was not made; connect tells why, once.
    Failed,
    /// It has, or had, a connection.
    Connected,
}

/// What is set for a socket, and for the children of a listener.
#[derive(Clone, Copy, Default)]
struct Options {
    nodelay: bool,
    cork: bool,
    /// The least call that moves its bytes without a copy, or 0 for none.
    zcopy_threshold: u32,
    /// A call that would block may leave its buffer here.
    zcopy_retry: bool,
}

impl Options {
    /// Has a machine go by them.
    fn apply(&self, machine: &mut Machine) {
        machine.set_nodelay(self.nodelay);
        machine.set_cork(self.cork);
        machine.set_zero_copy(self.zcopy_threshold > 0);
        machine.set_pipeline_hint(self.zcopy_threshold > 0);
    }
}

/// The part of a socket that `lock_sock()` guards.
pub(crate) struct Locked {
    /// The address that it is bound to.
    bound: Option<Arc<Endpoint>>,
    conn: Option<Arc<Conn>>,
    /// The connection before, which may hold the address still.
    former: Option<Arc<Conn>>,
    /// connect() has not yet returned the result of this connection.
    connect_unreported: bool,
    options: Options,
    stream: Stream,
    /// The buffers that calls left.
    kept_send: Option<kept::Kept>,
    kept_recv: Option<kept::Kept>,
    /// The calls that send, and those that fetch what the peer advertises, take turns.
    send_turn: turn::Turn,
    recv_turn: turn::Turn,
}

impl Locked {
    fn state(&self) -> State {
        match (&self.conn, &self.bound) {
            (Some(conn), _) => match conn.progress() {
                Progress::SettingUp => State::Connecting,
                Progress::Established => State::Connected,
                Progress::Failed => State::Failed,
            },
            (None, Some(bound)) if bound.backlog.is_listening() => State::Listening,
            (None, _) => State::Idle,
        }
    }

    /// Whether `conn` is still the connection that the socket has.
    fn has(&self, conn: &Arc<Conn>) -> bool {
        self.conn.as_ref().is_some_and(|own| Arc::ptr_eq(own, conn))
    }

    /// Leaves the connection to itself, on its way to the end. `sk` is the socket that this is of.
    fn drop_conn(&mut self, sk: &Socket, link: Link) {
        if let Some(conn) = self.conn.take() {
            conn.detach();
            conn.set_link(link);
            if let Some(older) = self.former.replace(conn) {
                older.finish();
            }
        }
        self.connect_unreported = false;
        sk.set_state(TcpState::Close);
        let bound = self.bound.as_ref();
        sk.set_local(bound.map_or(addr::ANY, |bound| bound.addr()));
        sk.set_peer(addr::ANY);
    }

    /// A connection that was not made is no more. `sk` is the socket that this is of.
    fn forget_failed(&mut self, sk: &Socket) {
        if matches!(self.state(), State::Failed) {
            self.drop_conn(sk, Link::Disconnected);
        }
    }

    /// Waits until nothing of the connection before holds the address. Sleeps.
    fn finish_former(&mut self) {
        if let Some(conn) = self.former.take() {
            conn.finish();
        }
    }
}

static FAMILY: Family<Sdp> = Family::new(c"SDP");

/// The registered family; programs can open sockets while it lives.
pub(crate) fn register() -> Result<Registration<Sdp>> {
    Registration::new(&FAMILY)
}

impl Protocol for Sdp {
    type Locked = Locked;

    const FAMILY: c_int = AF_INET_SDP as c_int;

    fn family() -> &'static Family<Self> {
        &FAMILY
    }

    fn new(net: &Net) -> Locked {
        Locked {
            bound: None,
            conn: None,
            former: None,
            connect_unreported: false,
            options: Options {
                zcopy_threshold: settings::zcopy_threshold(net),
                ..Options::default()
            },
            stream: Stream::new(),
            kept_send: None,
            kept_recv: None,
            send_turn: turn::Turn::default(),
            recv_turn: turn::Turn::default(),
        }
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
}
