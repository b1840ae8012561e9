// SPDX-License-Identifier: GPL-2.0

//! An RDMA peer in user space that sends and receives whatever a test says: over librdmacm, with no
//! SDP of its own.
//!
//! Namespaces are as for sockets: an id belongs to the namespace of the thread that creates it.

use crate::{
    bsdh::Advert,
    config::{
        moment,
        patience, //
    },
    harness::must,
    peers::{
        iwarp,
        Side, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Addr, //
};
use sdp_verbs as ffi;
use std::{
    fmt, ptr, slice, thread,
    time::{
        Duration,
        Instant, //
    },
};

/// What the connection manager reports, by librdmacm's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    AddrResolved,
    RouteResolved,
    ConnectRequest,
    Unreachable,
    Rejected,
    Established,
    Disconnected,
    Other(u32),
}

impl From<u32> for EventKind {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::AddrResolved,
            2 => Self::RouteResolved,
            4 => Self::ConnectRequest,
            7 => Self::Unreachable,
            8 => Self::Rejected,
            9 => Self::Established,
            10 => Self::Disconnected,
            number => Self::Other(number),
        }
    }
}

/// An event, with what it carried.
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// For [`EventKind::Rejected`] the reason.
    pub(crate) status: i32,
    pub(crate) private_data: Vec<u8>,
    id: *mut ffi::CmId,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} status {} with {} bytes",
            self.kind,
            self.status,
            self.private_data.len()
        )
    }
}

/// An event channel.
struct Channel(*mut ffi::EventChannel);

impl Channel {
    fn new() -> Self {
        // SAFETY: The call takes no memory.
        let channel = unsafe { ffi::rdma_create_event_channel() };
        assert!(
            !channel.is_null(),
            "no RDMA connection manager: is rdma_ucm loaded? {}",
            Errno::last()
        );
        Self(channel)
    }

    /// Whether there is an event, or one comes within `timeout`.
    fn is_ready(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            // SAFETY: The channel lives as long as `self`.
            fd: unsafe { (*self.0).fd },
            events: libc::POLLIN,
            revents: 0,
        };
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // SAFETY: `poll` is one `pollfd`.
            match Errno::check(unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) }) {
                // A signal that a case waits for, such as SIGURG.
                Err(Errno::EINTR) => {}
                ready => return must!(ready) > 0,
            }
        }
    }

    /// The next event within `timeout`.
    fn event(&self, timeout: Duration) -> Option<Event> {
        if !self.is_ready(timeout) {
            return None;
        }
        let mut event = ptr::null_mut();
        // SAFETY: The channel lives, and `event` has room for a pointer.
        must!(Errno::check(unsafe {
            ffi::rdma_get_cm_event(self.0, &mut event)
        }));
        // SAFETY: The call above gave an event, which lives until it is acknowledged below. RC ids
        // have no other kind of parameter than a `ConnParam`.
        let copy = unsafe {
            let param = &(*event).param;
            Event {
                kind: (*event).event.into(),
                status: (*event).status,
                private_data: match param.private_data.is_null() {
                    true => Vec::new(),
                    false => slice::from_raw_parts(
                        param.private_data.cast::<u8>(),
                        usize::from(param.private_data_len),
                    )
                    .to_vec(),
                },
                id: (*event).id,
            }
        };
        // SAFETY: The event came from this channel and is not used afterwards.
        must!(Errno::check(unsafe { ffi::rdma_ack_cm_event(event) }));
        Some(copy)
    }

    /// The next event, which must come soon.
    fn next(&self, what: &str) -> Event {
        match self.event(patience(15)) {
            Some(event) => event,
            None => panic!("{what}\nexpected an event of the connection manager\n     got none"),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: Each id of the channel is destroyed before, by the order of the fields of its
        // owner.
        unsafe { ffi::rdma_destroy_event_channel(self.0) };
    }
}

/// An id, destroyed when dropped.
struct Id(*mut ffi::CmId);

impl Id {
    fn new(channel: &Channel) -> Self {
        let mut id = ptr::null_mut();
        // SAFETY: The channel lives, and `id` has room for a pointer.
        must!(Errno::check(unsafe {
            ffi::rdma_create_id(channel.0, &mut id, ptr::null_mut(), ffi::PS_TCP)
        }));
        Self(id)
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: The id is ours, its QP is gone, and its events are all acknowledged.
        unsafe { ffi::rdma_destroy_id(self.0) };
    }
}

/// A plain RDMA listener: not SDP's.
pub(crate) struct Listener {
    id: Id,
    channel: Channel,
    side: Side,
}

impl Listener {
    /// Listens at `side`, on a port of the kernel's choice.
    pub(crate) fn new(side: Side) -> Self {
        side.enter();
        let channel = Channel::new();
        let id = Id::new(&channel);
        // SAFETY: `Addr` has an address of the length that its family has.
        must!(Errno::check(unsafe {
            ffi::rdma_bind_addr(id.0, side.at(0).as_ptr())
        }));
        // SAFETY: The id lives.
        must!(Errno::check(unsafe { ffi::rdma_listen(id.0, 8) }));
        Self { id, channel, side }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> Addr {
        // SAFETY: The id lives.
        let port = unsafe { ffi::rdma_get_src_port(self.id.0) };
        self.side.at(u16::from_be(port))
    }

    /// The next connection request.
    pub(crate) fn request(&self) -> Request {
        let event = self.channel.next("a connection request");
        assert_eq!(event.kind, EventKind::ConnectRequest, "{event:?}");
        Request {
            id: Id(event.id),
            private_data: event.private_data,
        }
    }
}

/// A connection request that waits for its answer.
pub(crate) struct Request {
    id: Id,
    pub(crate) private_data: Vec<u8>,
}

impl Request {
    /// Accepts it with `private_data`, such as a `HelloAck`.
    pub(crate) fn accept(self, private_data: &[u8]) -> Peer {
        let channel = Channel::new();
        // SAFETY: Both live; the id then belongs to the new channel.
        must!(Errno::check(unsafe {
            ffi::rdma_migrate_id(self.id.0, channel.0)
        }));
        let peer = Peer::new(self.id, channel);
        let mut param = conn_param(private_data);
        // SAFETY: The id lives, and `param` names `private_data`, which outlives the call.
        must!(Errno::check(unsafe {
            ffi::rdma_accept(peer.id.0, &mut param)
        }));
        peer
    }

    /// Accepts it, and waits until the other side has taken that.
    pub(crate) fn establish(self, private_data: &[u8]) -> Peer {
        let peer = self.accept(private_data);
        let event = peer.event("the end of the set-up");
        assert_eq!(event.kind, EventKind::Established, "{event:?}");
        peer
    }

    /// Refuses it.
    pub(crate) fn reject(self, private_data: &[u8]) {
        // SAFETY: The id lives, and the kernel only reads `private_data`.
        must!(Errno::check(unsafe {
            ffi::rdma_reject(
                self.id.0,
                private_data.as_ptr().cast(),
                private_data.len() as u8,
            )
        }));
    }
}

fn conn_param(private_data: &[u8]) -> ffi::ConnParam {
    ffi::ConnParam {
        private_data: private_data.as_ptr().cast(),
        private_data_len: private_data.len() as u8,
        responder_resources: 1,
        initiator_depth: 1,
        flow_control: 0,
        retry_count: 7,
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}

/// What the calls that post work give: 0 or an error number.
fn posted(ret: libc::c_int) -> Result<(), Errno> {
    match ret {
        0 => Ok(()),
        error => Err(Errno(error)),
    }
}

/// Receive buffers of a peer.
pub(crate) const DEPTH: usize = 16;
/// Bytes of each.
pub(crate) const RECV_SIZE: usize = 8192;

/// Bytes of the longest message that a peer sends: those of SDP's receive buffers before they grow.
pub(crate) const SEND_SIZE: usize = 4096;

/// Bytes of the memory that a peer can advertise, and into which it reads.
pub(crate) const WINDOW: usize = 1 << 20;

/// A connection.
pub(crate) struct Peer {
    // Dropped in this order by `Drop`, the rest after it: the id before its channel.
    mr: *mut ffi::Mr,
    window_mr: *mut ffi::Mr,
    id: Id,
    channel: Channel,
    /// `DEPTH` receive buffers and one to send from.
    memory: Box<[u8]>,
    window: Box<[u8]>,
    /// Whether the other side has dropped the connection.
    disconnected: bool,
}

/// How a wait for a message ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message of these bytes came.
    Bytes(Vec<u8>),
    /// The connection ended, with this completion status.
    Ended(u32),
    /// Nothing came.
    Nothing,
}

impl Peer {
    /// Gives `id`, whose device is known by now, a queue pair and all its receive buffers.
    fn new(id: Id, channel: Channel) -> Self {
        let mut attr = ffi::QpInitAttr {
            qp_context: ptr::null_mut(),
            send_cq: ptr::null_mut(),
            recv_cq: ptr::null_mut(),
            srq: ptr::null_mut(),
            max_send_wr: DEPTH as u32,
            max_recv_wr: DEPTH as u32,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
            qp_type: ffi::QPT_RC,
            sq_sig_all: 1,
        };
        // SAFETY: The id lives and has a device; without a PD and CQs the library makes them for
        // the id.
        must!(Errno::check(unsafe {
            ffi::rdma_create_qp(id.0, ptr::null_mut(), &mut attr)
        }));
        let mut memory = vec![0; (DEPTH + 1) * RECV_SIZE].into_boxed_slice();
        // SAFETY: `memory` is on the heap and outlives its registration (`Drop`).
        let mr = unsafe {
            ffi::ibv_reg_mr(
                (*id.0).pd,
                memory.as_mut_ptr().cast(),
                memory.len(),
                ffi::ACCESS_LOCAL_WRITE,
            )
        };
        assert!(!mr.is_null(), "no memory region: {}", Errno::last());
        let mut window = vec![0; WINDOW].into_boxed_slice();
        // SAFETY: As above.
        let window_mr = unsafe {
            ffi::ibv_reg_mr(
                (*id.0).pd,
                window.as_mut_ptr().cast(),
                window.len(),
                ffi::ACCESS_LOCAL_WRITE | ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_REMOTE_READ,
            )
        };
        assert!(!window_mr.is_null(), "no memory region: {}", Errno::last());
        let mut peer = Self {
            mr,
            window_mr,
            id,
            channel,
            memory,
            window,
            disconnected: false,
        };
        (0..DEPTH).for_each(|slot| peer.post_recv(slot));
        peer
    }

    /// Connects from `side` to `addr`, with `private_data` such as a `Hello`: the peer and the
    /// answer's private data, or the event that says no.
    pub(crate) fn connect(
        side: Side,
        addr: &Addr,
        private_data: &[u8],
    ) -> Result<(Self, Vec<u8>), Event> {
        let peer = Self::request(side, addr, private_data)?;
        let event = peer.event("the answer to the connection request");
        if event.kind != EventKind::Established {
            return Err(event);
        }
        if iwarp() {
            // siw answers before it looks for messages, and leaves one that comes between unread
            // until another comes.
            thread::sleep(moment() / 2);
        }
        Ok((peer, event.private_data))
    }

    /// The same without waiting for the answer, which is confirmed when its event is taken.
    pub(crate) fn request(side: Side, addr: &Addr, private_data: &[u8]) -> Result<Self, Event> {
        side.enter();
        let channel = Channel::new();
        let id = Id::new(&channel);
        // SAFETY: The id lives, and `addr` has the length that its family has.
        must!(Errno::check(unsafe {
            ffi::rdma_resolve_addr(id.0, ptr::null(), addr.as_ptr(), 5000)
        }));
        let event = channel.next("the address");
        if event.kind != EventKind::AddrResolved {
            return Err(event);
        }
        // SAFETY: The id lives.
        must!(Errno::check(unsafe { ffi::rdma_resolve_route(id.0, 5000) }));
        let event = channel.next("the route");
        if event.kind != EventKind::RouteResolved {
            return Err(event);
        }
        let peer = Self::new(id, channel);
        let mut param = conn_param(private_data);
        // SAFETY: The id lives, and `param` names `private_data`, which outlives the call.
        must!(Errno::check(unsafe {
            ffi::rdma_connect(peer.id.0, &mut param)
        }));
        Ok(peer)
    }

    /// Waits until there is an event, and leaves it there.
    pub(crate) fn await_event(&self) {
        assert!(self.channel.is_ready(patience(15)), "no event came");
    }

    /// The next event, which must come soon.
    pub(crate) fn event(&self, what: &str) -> Event {
        self.channel.next(what)
    }

    /// Waits until the other side has dropped the connection, which must be soon.
    pub(crate) fn ended(&mut self) {
        if !self.disconnected {
            let event = self.event("the end of the connection");
            assert_eq!(event.kind, EventKind::Disconnected, "{event:?}");
            self.disconnected = true;
        }
    }

    /// Notices when the other side drops the connection: what is under way then ends too.
    fn look(&mut self) {
        if self.disconnected {
            return;
        }
        if let Some(event) = self.channel.event(Duration::ZERO) {
            assert_eq!(event.kind, EventKind::Disconnected, "{event:?}");
            self.disconnected = true;
            self.disconnect();
        }
    }

    fn sge(&mut self, slot: usize, len: usize) -> ffi::Sge {
        let room = &mut self.memory[slot * RECV_SIZE..][..len];
        ffi::Sge {
            addr: room.as_mut_ptr() as u64,
            length: len as u32,
            // SAFETY: The region lives as long as `self`.
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    fn post_recv(&mut self, slot: usize) {
        let mut sge = self.sge(slot, RECV_SIZE);
        let mut wr = ffi::RecvWr {
            wr_id: slot as u64,
            next: ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: The id has a QP; the request names registered memory that nothing else touches
        // until it is done.
        must!(posted(unsafe {
            ((*(*self.id.0).verbs).post_recv)((*self.id.0).qp, &mut wr, &mut bad)
        }));
    }

    /// The next completion of `cq` within `timeout`.
    fn completion(&mut self, cq: *mut libc::c_void, timeout: Duration) -> Option<ffi::Wc> {
        let mut end = Instant::now() + timeout;
        let mut wc = ffi::Wc::default();
        loop {
            // SAFETY: `cq` is one of the id's, and `wc` has room for one completion.
            if unsafe { ((*(*self.id.0).verbs).poll_cq)(cq, 1, &mut wc) } == 1 {
                return Some(wc);
            }
            if Instant::now() >= end {
                return None;
            }
            self.look();
            if self.disconnected {
                end = end.min(Instant::now() + moment());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends `bytes` as one message and waits until the other side has it: the completion status if
    /// that fails.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), u32> {
        self.send_as(ffi::WR_SEND, bytes, 0)
    }

    /// The same, and lets the other side's device invalidate `key`.
    pub(crate) fn send_with_invalidate(&mut self, bytes: &[u8], key: u32) -> Result<(), u32> {
        self.send_as(ffi::WR_SEND_WITH_INVALIDATE, bytes, key)
    }

    fn send_as(&mut self, opcode: u32, bytes: &[u8], key: u32) -> Result<(), u32> {
        self.memory[DEPTH * RECV_SIZE..][..bytes.len()].copy_from_slice(bytes);
        let sge = self.sge(DEPTH, bytes.len());
        self.post(opcode, sge, key, (0, 0))
    }

    /// The memory that can be advertised and read into.
    pub(crate) fn window(&mut self) -> &mut [u8] {
        &mut self.window
    }

    /// How the other side would name `len` bytes at `at` of the window.
    pub(crate) fn advert(&self, at: usize, len: usize) -> Advert {
        Advert {
            len: len as u32,
            // SAFETY: The region lives as long as `self`.
            key: unsafe { (*self.window_mr).rkey },
            addr: self.window.as_ptr() as u64 + at as u64,
        }
    }

    /// RDMA Read of what `from` says, into the window at `at`: the completion status if that fails.
    pub(crate) fn read(&mut self, at: usize, from: Advert) -> Result<(), u32> {
        let sge = self.window_sge(at, from.len as usize);
        self.post(ffi::WR_READ, sge, 0, (from.addr, from.key))
    }

    /// RDMA Write of the window's bytes at `at` to where `to` says.
    pub(crate) fn write(&mut self, at: usize, to: Advert) -> Result<(), u32> {
        let sge = self.window_sge(at, to.len as usize);
        self.post(ffi::WR_WRITE, sge, 0, (to.addr, to.key))
    }

    fn window_sge(&mut self, at: usize, len: usize) -> ffi::Sge {
        ffi::Sge {
            addr: self.window[at..][..len].as_mut_ptr() as u64,
            length: len as u32,
            // SAFETY: The region lives as long as `self`.
            lkey: unsafe { (*self.window_mr).lkey },
        }
    }

    /// Posts a request and waits for its completion: the status if that is none of success.
    fn post(
        &mut self,
        opcode: u32,
        mut sge: ffi::Sge,
        invalidate: u32,
        (remote_addr, rkey): (u64, u32),
    ) -> Result<(), u32> {
        let mut wr = ffi::SendWr {
            wr_id: DEPTH as u64,
            next: ptr::null_mut(),
            num_sge: i32::from(sge.length != 0),
            sg_list: &mut sge,
            opcode,
            send_flags: ffi::SEND_SIGNALED,
            imm_data: invalidate,
            remote_addr,
            rkey,
            rest: [0; 9],
        };
        let mut bad = ptr::null_mut();
        // SAFETY: The id has a QP; the request names registered memory that nothing else touches
        // until it is done, which is before this function returns.
        let result = posted(unsafe {
            ((*(*self.id.0).verbs).post_send)((*self.id.0).qp, &mut wr, &mut bad)
        });
        // siw takes nothing from a program whose connection has just ended, and its library then
        // says -1.
        if result == Err(Errno(-1)) && iwarp() {
            return Err(ffi::WC_WR_FLUSH_ERR);
        }
        must!(result);
        // SAFETY: The id lives.
        match self.completion(unsafe { (*self.id.0).send_cq }, patience(20)) {
            Some(wc) if wc.status == ffi::WC_SUCCESS => Ok(()),
            Some(wc) => Err(wc.status),
            // siw forgets what a program posts after the end.
            None if self.disconnected => Err(ffi::WC_WR_FLUSH_ERR),
            None => panic!(
                "request {opcode} of {} bytes\nexpected a completion\n     got none",
                sge.length
            ),
        }
    }

    /// Waits for a message, whose buffer is not posted again: see [`Peer::repost`].
    pub(crate) fn recv(&mut self, timeout: Duration) -> (Received, usize) {
        // SAFETY: The id lives.
        match self.completion(unsafe { (*self.id.0).recv_cq }, timeout) {
            None => (Received::Nothing, 0),
            Some(wc) if wc.status != ffi::WC_SUCCESS => (Received::Ended(wc.status), 0),
            Some(wc) => {
                let slot = wc.wr_id as usize;
                let bytes = self.memory[slot * RECV_SIZE..][..wc.byte_len as usize].to_vec();
                (Received::Bytes(bytes), slot)
            }
        }
    }

    /// Posts the receive buffer `slot` again.
    pub(crate) fn repost(&mut self, slot: usize) {
        self.post_recv(slot);
    }

    /// Ends the connection.
    pub(crate) fn disconnect(&self) {
        // SAFETY: The id lives. An error says that the connection has ended already.
        unsafe { ffi::rdma_disconnect(self.id.0) };
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.disconnect();
        // SAFETY: The QP goes first, so that nothing uses the region or the memory any more; then
        // the region, and by the order of the fields the id, the channel and the memory.
        unsafe {
            ffi::rdma_destroy_qp(self.id.0);
            ffi::ibv_dereg_mr(self.mr);
            ffi::ibv_dereg_mr(self.window_mr);
        }
    }
}
