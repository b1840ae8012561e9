// SPDX-License-Identifier: GPL-2.0

//! The SDP socket: one file for each thing that a program does with it, and those of the connection
//! below.
//!
//! - What a program calls: `bind`, `connect`, `listen`, `send` (a `send_call` copies, or lends its
//!   pages by `send_zcopy`), `recv` (a `recv_call` takes bytes by `recv_copy` or `recv_zcopy`, or
//!   `urgent` data), `splice`, `poll`, `shutdown`, `release`, and `sockopt`; the sysctls are in
//!   `settings`.
//! - What a socket is made of: its address (`endpoint`, `addr`) at a port (`ports`), which it may
//!   share (`binding`), with what waits for accept (`backlog`); its state as calls see it
//!   (`locked`): its address (`local_addr`) and connection (`conn_slot`), its options at TCP's
//!   level (`conn_options`, `timeouts`), what calls share (`stream`, `iolock`), and buffers that
//!   they left (`retry_buffer`); what poll sees of that (`poll_state`), and the input queue
//!   (`inq`).
//! - A connection, `conn`: what two of its locks guard, `flow`, with the machine, and `post`, with
//!   the QP; what it knows of its `listener`. Its `work` (on a `slow_queue` where that may wait),
//!   from `setup` (of the end that is `connecting` or `accepting`, by `resources`, with `notes` of
//!   what the CM reported) to `teardown` (and as an `orphan`); its `owner` and `state`; what it is
//!   charged (`charge`, `account`), and gives back (`idle`); its messages (`output`, and `input`
//!   into `recv_buffers`, which `recv_refill` supplies), the `buffers` of large calls (`zcopy`,
//!   `zcopy_send` and `zcopy_recv`, and what a peer writes `behind` a mark), what the device
//!   reports (`events`), and the `stamps` of what was sent (`stamp_report`). `conn_state`, `mark`,
//!   `ring` and `time` are parts of it.
//! - What each namespace has, `sdp_net`, and what an administrator sees: `diag_list`, `diag`,
//!   `info` and `stats`.
//! - The names of what `net` has for this protocol, `types`.
//!
//! State is in two places: that of a socket, as its program sees it, is [`Locked`], under
//! `lock_sock()`, but for what poll reads, [`PollState`], under a spinlock; that of a connection,
//! which outlives its socket, is in [`conn`]. The order of all locks is in
//! Documentation/architecture.rst.

mod accepting;
mod account;
mod addr;
mod backlog;
mod behind;
mod bind;
mod binding;
mod buffers;
mod charge;
mod conn;
mod conn_options;
mod conn_slot;
mod conn_state;
mod connect;
mod connecting;
mod diag;
mod diag_list;
mod endpoint;
mod events;
mod flow;
mod idle;
mod info;
mod input;
mod inq;
mod iolock;
mod listen;
mod listener;
mod local_addr;
mod locked;
mod mark;
mod notes;
mod orphan;
mod output;
mod owner;
mod poll;
mod poll_state;
mod ports;
mod post;
mod recv;
mod recv_buffers;
mod recv_call;
mod recv_copy;
mod recv_refill;
mod recv_zcopy;
mod release;
mod resources;
mod retry_buffer;
mod ring;
mod sdp_net;
mod send;
mod send_call;
mod send_zcopy;
mod settings;
mod setup;
mod shutdown;
mod slow_queue;
mod sockopt;
mod splice;
mod stamp_report;
mod stamps;
mod state;
mod stats;
mod stream;
mod teardown;
mod time;
mod timeouts;
mod types;
mod urgent;
mod work;
mod zcopy;
mod zcopy_recv;
mod zcopy_send;

use crate::{
    net::{
        family::Family,
        msg::{
            RecvMsg,
            SendMsg, //
        },
        ops::Protocol,
        optval::{
            OptionRoom,
            OptionValue, //
        },
        pipe::Pipe,
        sock::Child,
        sockaddr::{
            IpVersion,
            SockAddr,
            AF_INET6_SDP,
            AF_INET_SDP, //
        }, //
    },
    prelude::*,
    rdma::{
        client::Registration,
        pd, //
    },
    sock::{
        locked::Locked,
        poll_state::PollState,
        sdp_net::SdpNet,
        types::{
            Net,
            OpenSocket,
            Socket, //
        }, //
    }, //
};

pub(crate) use types::Sdp;

static FAMILY: Family<Sdp> = Family::new(c"SDP", IpVersion::V4);
static FAMILY6: Family<Sdp> = Family::new(c"SDPv6", IpVersion::V6);

impl Protocol for Sdp {
    type Locked = Locked;
    type PollState = PollState;
    type Global = Registration;
    type PerNet = SdpNet;

    const FAMILY: c_int = AF_INET_SDP as c_int;
    const FAMILY6: c_int = AF_INET6_SDP as c_int;

    fn family(version: IpVersion) -> &'static Family<Self> {
        match version {
            IpVersion::V4 => &FAMILY,
            IpVersion::V6 => &FAMILY6,
        }
    }

    fn load() -> Result<Registration> {
        pd::init();
        Registration::new()
    }

    fn new(net: &Net) -> Locked {
        Locked::new(net)
    }

    fn default_rcvbuf(net: &Net) -> c_int {
        // No value of the knob is greater.
        c_int::try_from(settings::rmem_default(net)).unwrap_or(c_int::MAX)
    }

    fn release(sk: &OpenSocket) {
        release::release(sk);
    }

    fn bind(sk: &Socket, addr: SockAddr<'_>) -> Result {
        let bound = addr::address(sk, &addr).and_then(|addr| bind::bind(sk, addr));
        sk.lock().local.note_bind(bound);
        bound
    }

    fn connect(sk: &OpenSocket, addr: SockAddr<'_>, nonblock: bool) -> Result {
        connect::connect_to(sk, addr, nonblock)
    }

    fn listen(sk: &Socket, backlog: c_int) -> Result {
        listen::listen(sk, backlog)
    }

    fn accept(sk: &OpenSocket, nonblock: bool) -> Result<(Child<Self>, bool)> {
        listen::accept(sk, nonblock)
    }

    fn poll(sk: &Socket) -> u32 {
        poll::poll(sk)
    }

    fn low_water_set(sk: &Socket) {
        sockopt::low_water_set(sk);
    }

    fn set_keepalive(s: &mut Locked, on: bool) {
        sockopt::set_keepalive(s, on);
    }

    fn start_stamp_ids(sk: &Socket, from_next: bool) {
        sockopt::start_stamp_ids(sk, from_next);
    }
    fn ioctl(sk: &Socket, cmd: u32) -> Result<c_int> {
        sockopt::ioctl(sk, cmd)
    }

    fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
        shutdown::shutdown(sk, read, write)
    }

    fn set_option(sk: &Socket, name: c_int, value: OptionValue<'_>) -> Result {
        sockopt::set(sk, name, value)
    }

    fn option(sk: &Socket, name: c_int, to: OptionRoom) -> Result {
        sockopt::get(sk, name, to)
    }

    fn sendmsg(sk: &OpenSocket, msg: SendMsg<'_>) -> Result<usize> {
        let flags = msg.flags;
        connect::connect_to_send(sk, &msg)
            .and_then(|()| send::sendmsg(sk, msg))
            .map_err(|e| sk.stream_error(flags, e))
    }

    fn recvmsg(sk: &OpenSocket, msg: RecvMsg<'_>) -> Result<usize> {
        recv::recvmsg(sk, msg)
    }

    fn splice_read(
        sk: &OpenSocket,
        pipe: &mut Pipe<'_>,
        len: usize,
        nonblock: bool,
    ) -> Result<usize> {
        splice::splice_read(sk, pipe, len, nonblock)
    }

    fn splice_eof(sk: &Socket) {
        splice::splice_eof(sk);
    }
}
