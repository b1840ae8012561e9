// SPDX-License-Identifier: GPL-2.0

//! The work over plain verbs: what a program gets that does nothing but hand memory to the device
//! and sleep until a completion event comes.

use crate::{
    cycles,
    end::{
        open_port,
        Result,
        LISTENER, //
    },
    plan::{
        Line,
        Transport, //
    },
    trips, //
};
use sdp_selftests::{
    errno::Errno,
    sock::Addr, //
};
use sdp_verbs as ffi;
use std::{
    net::SocketAddrV4,
    ptr, slice, thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The most requests under way.
const DEPTH: usize = 64;

/// The most bytes under way where requests are large.
const WINDOW: usize = 4 << 20;

/// How many requests of `size` bytes are under way at most.
fn depth(size: usize) -> usize {
    (WINDOW / size).clamp(4, DEPTH)
}

/// Events of the connection manager, by librdmacm's numbers.
const ADDR_RESOLVED: u32 = 0;
const ROUTE_RESOLVED: u32 = 2;
const CONNECT_REQUEST: u32 = 4;
const ESTABLISHED: u32 = 9;
const DISCONNECTED: u32 = 10;

fn check(what: &str, ret: libc::c_int) -> Result<()> {
    Errno::check(ret)
        .map(drop)
        .map_err(|e| format!("{what}: {e}").into())
}

/// Checks what the calls that post work give: 0 or an error number.
fn posted(what: &str, ret: libc::c_int) -> Result<()> {
    match ret {
        0 => Ok(()),
        error => Err(format!("{what}: {}", Errno(error.abs())).into()),
    }
}

fn found<T>(what: &str, pointer: *mut T) -> Result<*mut T> {
    match pointer.is_null() {
        true => Err(format!("{what}: {}", Errno::last()).into()),
        false => Ok(pointer),
    }
}

/// The memory that a peer's Writes and Reads may name, as private data of the connection.
#[derive(Clone, Copy, Default)]
struct Window {
    addr: u64,
    key: u32,
}

impl Window {
    fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..].copy_from_slice(&self.key.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (addr, rest) = bytes.split_first_chunk()?;
        Some(Self {
            addr: u64::from_le_bytes(*addr),
            key: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

/// An event, with what it carried.
struct Event {
    kind: u32,
    id: *mut ffi::CmId,
    data: Vec<u8>,
}

/// An event channel.
struct Channel(*mut ffi::EventChannel);

impl Channel {
    fn new() -> Result<Self> {
        // SAFETY: The call takes no memory.
        let channel = unsafe { ffi::rdma_create_event_channel() };
        found("rdma_create_event_channel", channel).map(Self)
    }

    fn id(&self) -> Result<*mut ffi::CmId> {
        let mut id = ptr::null_mut();
        // SAFETY: The channel lives, and `id` has room for a pointer.
        let ret = unsafe { ffi::rdma_create_id(self.0, &mut id, ptr::null_mut(), ffi::PS_TCP) };
        check("rdma_create_id", ret)?;
        Ok(id)
    }

    /// Waits for the next event.
    fn event(&self) -> Result<Event> {
        let mut event = ptr::null_mut();
        // SAFETY: The channel lives, and `event` has room for a pointer.
        let ret = unsafe { ffi::rdma_get_cm_event(self.0, &mut event) };
        check("rdma_get_cm_event", ret)?;
        // SAFETY: The call above gave an event, which lives until it is acknowledged below. RC ids
        // have no other kind of parameter than a `ConnParam`.
        let copy = unsafe {
            let param = &(*event).param;
            let len = usize::from(param.private_data_len);
            Event {
                kind: (*event).event,
                id: (*event).id,
                data: match param.private_data.is_null() {
                    true => Vec::new(),
                    false => slice::from_raw_parts(param.private_data.cast(), len).to_vec(),
                },
            }
        };
        // SAFETY: The event came from this channel and is not used afterwards.
        check("rdma_ack_cm_event", unsafe {
            ffi::rdma_ack_cm_event(event)
        })?;
        Ok(copy)
    }

    /// Waits for the next event, which has to be `kind`.
    fn expect(&self, kind: u32) -> Result<Event> {
        match self.event()? {
            event if event.kind == kind => Ok(event),
            event => Err(format!("event {} came instead of {kind}", event.kind).into()),
        }
    }

    /// An id that knows the way to the listener.
    fn resolve(&self, port: u16) -> Result<*mut ffi::CmId> {
        let id = self.id()?;
        let to = Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, port));
        // SAFETY: The id lives, and `to` has the length that its family has.
        let ret = unsafe { ffi::rdma_resolve_addr(id, ptr::null(), to.as_ptr(), 5000) };
        check("rdma_resolve_addr", ret)?;
        self.expect(ADDR_RESOLVED)?;
        // SAFETY: The id lives.
        check("rdma_resolve_route", unsafe {
            ffi::rdma_resolve_route(id, 5000)
        })?;
        self.expect(ROUTE_RESOLVED)?;
        Ok(id)
    }

    /// Listens, and tells the port.
    fn listen(&self) -> Result<()> {
        let id = self.id()?;
        let at = Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, 0));
        // SAFETY: The id lives, and `at` has the length that its family has.
        check("rdma_bind_addr", unsafe {
            ffi::rdma_bind_addr(id, at.as_ptr())
        })?;
        // SAFETY: The id lives.
        check("rdma_listen", unsafe { ffi::rdma_listen(id, 1024) })?;
        // SAFETY: As above.
        open_port(u16::from_be(unsafe { ffi::rdma_get_src_port(id) }));
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: Ids that are left do not use it any more. It closes a file, and wakes nobody.
        unsafe { ffi::rdma_destroy_event_channel(self.0) };
    }
}

/// Makes a QP for `id`, whose device is known; without a CQ the library makes two.
fn make_qp(id: *mut ffi::CmId, cq: *mut libc::c_void, depth: usize) -> Result<()> {
    let mut attr = ffi::QpInitAttr {
        qp_context: ptr::null_mut(),
        send_cq: cq,
        recv_cq: cq,
        srq: ptr::null_mut(),
        max_send_wr: depth as u32,
        max_recv_wr: depth as u32,
        max_send_sge: 1,
        max_recv_sge: 1,
        max_inline_data: 0,
        qp_type: ffi::QPT_RC,
        sq_sig_all: 0,
    };
    // SAFETY: Every caller has an id that lives and has a device, and a CQ of that or none.
    check("rdma_create_qp", unsafe {
        ffi::rdma_create_qp(id, ptr::null_mut(), &mut attr)
    })
}

fn conn_param(data: &[u8]) -> ffi::ConnParam {
    ffi::ConnParam {
        private_data: data.as_ptr().cast(),
        private_data_len: data.len() as u8,
        responder_resources: 16,
        initiator_depth: 16,
        flow_control: 0,
        retry_count: 7,
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}

fn connect(id: *mut ffi::CmId) -> Result<()> {
    let mut param = conn_param(&[]);
    // SAFETY: Every caller has an id that lives and has a QP.
    check("rdma_connect", unsafe { ffi::rdma_connect(id, &mut param) })
}

fn accept(id: *mut ffi::CmId, data: &[u8]) -> Result<()> {
    let mut param = conn_param(data);
    // SAFETY: Every caller has an id that lives and has a QP; `param` names `data`.
    check("rdma_accept", unsafe { ffi::rdma_accept(id, &mut param) })
}

/// What marks the completion of a receive, beside the number of its slot.
const RECEIVED: u64 = 1 << 32;

/// One end of a connection. It lives as long as the process, whose end frees what it holds.
struct Endpoint {
    id: *mut ffi::CmId,
    events: *mut libc::c_void,
    cq: *mut libc::c_void,
    /// `slots` pieces of `size` bytes to receive into, and one to send from.
    memory: Box<[u8]>,
    size: usize,
    slots: usize,
    mr: *mut ffi::Mr,
}

impl Endpoint {
    /// Gives `id`, whose device is known, all that it needs for messages of `size` bytes.
    fn new(id: *mut ffi::CmId, size: usize) -> Result<Self> {
        let slots = depth(size);
        // SAFETY: The id lives and has a device.
        let context = unsafe { (*id).verbs };
        // SAFETY: The context lives as long as the id.
        let events = unsafe { ffi::ibv_create_comp_channel(context) };
        let events = found("ibv_create_comp_channel", events)?;
        // SAFETY: As above.
        let cq = unsafe { ffi::ibv_create_cq(context, 512, ptr::null_mut(), events, 0) };
        let cq = found("ibv_create_cq", cq)?;
        make_qp(id, cq, 2 * DEPTH)?;
        // Touched, so that no page fault is measured.
        let mut memory = vec![0x5a; size * (slots + 1)].into_boxed_slice();
        // SAFETY: The id has a PD now. The memory is on the heap, and nothing frees it while the
        // device may use it.
        let mr = unsafe {
            ffi::ibv_reg_mr(
                (*id).pd,
                memory.as_mut_ptr().cast(),
                memory.len(),
                ffi::ACCESS_LOCAL_WRITE | ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_REMOTE_READ,
            )
        };
        let endpoint = Self {
            id,
            events,
            cq,
            memory,
            size,
            slots,
            mr: found("ibv_reg_mr", mr)?,
        };
        (0..slots).try_for_each(|slot| endpoint.post_recv(slot))?;
        Ok(endpoint)
    }

    fn sge(&self, slot: usize, len: usize) -> ffi::Sge {
        ffi::Sge {
            addr: self.memory.as_ptr() as u64 + (slot * self.size) as u64,
            length: len as u32,
            // SAFETY: The region lives as long as `self`.
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    /// The memory that the peer may write to, and read.
    fn window(&self) -> Window {
        Window {
            addr: self.sge(self.slots, 0).addr,
            // SAFETY: The region lives as long as `self`.
            key: unsafe { (*self.mr).rkey },
        }
    }

    fn post_recv(&self, slot: usize) -> Result<()> {
        let mut sge = self.sge(slot, self.size);
        let mut wr = ffi::RecvWr {
            wr_id: RECEIVED | slot as u64,
            next: ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: The id has a QP; the request names registered memory, which only the device
        // touches.
        posted("ibv_post_recv", unsafe {
            ((*(*self.id).verbs).post_recv)((*self.id).qp, &mut wr, &mut bad)
        })
    }

    /// Posts a request of `len` bytes, of which `signalled` ones give a completion.
    fn post(&self, opcode: u32, len: usize, signalled: bool, there: Window) -> Result<()> {
        let mut sge = self.sge(self.slots, len);
        let mut wr = ffi::SendWr {
            wr_id: 0,
            next: ptr::null_mut(),
            num_sge: i32::from(len != 0),
            sg_list: &mut sge,
            opcode,
            send_flags: if signalled { ffi::SEND_SIGNALED } else { 0 },
            imm_data: 0,
            remote_addr: there.addr,
            rkey: there.key,
            rest: [0; 9],
        };
        let mut bad = ptr::null_mut();
        // SAFETY: As for a receive; nobody minds which bytes a request finds there.
        posted("ibv_post_send", unsafe {
            ((*(*self.id).verbs).post_send)((*self.id).qp, &mut wr, &mut bad)
        })
    }

    fn poll(&self) -> Result<Option<u64>> {
        let mut wc = ffi::Wc::default();
        // SAFETY: The CQ lives, and `wc` has room for one completion.
        match unsafe { ((*(*self.id).verbs).poll_cq)(self.cq, 1, &mut wc) } {
            0 => Ok(None),
            1 if wc.status == ffi::WC_SUCCESS => Ok(Some(wc.wr_id)),
            1 => Err(format!("a request failed with status {}", wc.status).into()),
            ret => Err(format!("ibv_poll_cq: {ret}").into()),
        }
    }

    /// The next completion. It sleeps until there is an event, if need be.
    fn completion(&self) -> Result<u64> {
        loop {
            if let Some(done) = self.poll()? {
                return Ok(done);
            }
            // SAFETY: The CQ lives.
            posted("ibv_req_notify_cq", unsafe {
                ((*(*self.id).verbs).req_notify_cq)(self.cq, 0)
            })?;
            // One may have come just before.
            if let Some(done) = self.poll()? {
                return Ok(done);
            }
            let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: The channel lives, and there is room for two pointers.
            check("ibv_get_cq_event", unsafe {
                ffi::ibv_get_cq_event(self.events, &mut cq, &mut context)
            })?;
            // SAFETY: The event was of this CQ, the only one of the channel.
            unsafe { ffi::ibv_ack_cq_events(self.cq, 1) };
        }
    }

    /// The next completion of a receive, whose buffer is posted again.
    fn receive(&self) -> Result<()> {
        loop {
            let done = self.completion()?;
            if done & RECEIVED != 0 {
                return self.post_recv((done & 0xffff_ffff) as usize);
            }
        }
    }
}

/// The listening end.
pub(crate) fn serve(line: Line) -> Result<()> {
    let channel = Channel::new()?;
    channel.listen()?;
    let (Line::Stream(size) | Line::Trip(size)) = line else {
        return close_all(&channel);
    };
    let id = channel.expect(CONNECT_REQUEST)?.id;
    let endpoint = Endpoint::new(id, size)?;
    accept(id, &endpoint.window().bytes())?;
    channel.expect(ESTABLISHED)?;
    match line {
        Line::Trip(_) => {
            for number in 1.. {
                endpoint.receive()?;
                endpoint.post(ffi::WR_SEND, size, number % DEPTH == 0, Window::default())?;
            }
        }
        // Writes and Reads need nobody here.
        _ => {
            for number in 1.. {
                endpoint.receive()?;
                // Room for so many more.
                if number % (endpoint.slots / 2) == 0 {
                    endpoint.post(ffi::WR_SEND, 0, true, Window::default())?;
                }
            }
        }
    }
    Ok(())
}

/// The connecting end: what `line` gives.
pub(crate) fn work(
    transport: Transport,
    line: Line,
    port: u16,
    duration: Duration,
) -> Result<Vec<f64>> {
    let (Line::Stream(size) | Line::Trip(size)) = line else {
        let parallel = match line {
            Line::Connect(parallel) => parallel,
            _ => 1,
        };
        return connect_and_close(port, parallel, duration);
    };
    let channel = Channel::new()?;
    let id = channel.resolve(port)?;
    let endpoint = Endpoint::new(id, size)?;
    connect(id)?;
    let window = Window::read(&channel.expect(ESTABLISHED)?.data).ok_or("no window")?;
    // A message that siw gets before it is done with the connection waits for the next one.
    thread::sleep(Duration::from_millis(100));
    match (line, transport) {
        (Line::Trip(_), _) => {
            let mut number = 0;
            trips::measure(duration, || {
                number += 1;
                endpoint.post(ffi::WR_SEND, size, number % DEPTH == 0, Window::default())?;
                endpoint.receive()
            })
        }
        (_, Transport::Send) => stream(&endpoint, ffi::WR_SEND, Window::default(), duration),
        (_, Transport::Write) => stream(&endpoint, ffi::WR_WRITE, window, duration),
        _ => stream(&endpoint, ffi::WR_READ, window, duration),
    }
}

/// Posts requests for `duration`, and waits for the last: megabytes a second. The peer says when it
/// has room for more messages; others need none.
fn stream(endpoint: &Endpoint, opcode: u32, there: Window, duration: Duration) -> Result<Vec<f64>> {
    let depth = endpoint.slots;
    let signal = depth / 4;
    let (mut posted, mut completed) = (0, 0);
    let mut room = depth;
    let start = Instant::now();
    let mut more = true;
    while more || completed < posted {
        let full = posted - completed >= depth || (opcode == ffi::WR_SEND && posted >= room);
        if more && !full {
            posted += 1;
            // The clock is looked at once for each completion.
            let last = posted % signal == 0 && start.elapsed() >= duration;
            more = !last;
            endpoint.post(opcode, endpoint.size, posted % signal == 0, there)?;
            continue;
        }
        match endpoint.completion()? {
            0 => completed += signal,
            slot => {
                room += depth / 2;
                endpoint.post_recv((slot & 0xffff_ffff) as usize)?;
            }
        }
    }
    let bytes = (posted * endpoint.size) as f64;
    Ok(vec![bytes / 1e6 / start.elapsed().as_secs_f64()])
}

/// Closes every connection that comes.
fn close_all(channel: &Channel) -> Result<()> {
    loop {
        let event = channel.event()?;
        match event.kind {
            CONNECT_REQUEST => {
                make_qp(event.id, ptr::null_mut(), 16)?;
                accept(event.id, &[])?;
            }
            // SAFETY: The id lives until its connection has ended.
            ESTABLISHED => check("rdma_disconnect", unsafe { ffi::rdma_disconnect(event.id) })?,
            DISCONNECTED => drop_id(event.id),
            kind => return Err(format!("event {kind} came").into()),
        }
    }
}

fn drop_id(id: *mut ffi::CmId) {
    // SAFETY: The id lives, has a QP, and no event that is not acknowledged; both callers are done
    // with it.
    unsafe {
        ffi::rdma_destroy_qp(id);
        ffi::rdma_destroy_id(id);
    }
}

/// Connects, and waits for the end that comes at once, with so many threads: how many connections
/// come and go in a second.
fn connect_and_close(port: u16, parallel: usize, duration: Duration) -> Result<Vec<f64>> {
    let begin = || {
        let channel = Channel::new()?;
        Ok(move || {
            let id = channel.resolve(port)?;
            make_qp(id, ptr::null_mut(), 16)?;
            connect(id)?;
            channel.expect(ESTABLISHED)?;
            channel.expect(DISCONNECTED)?;
            // SAFETY: The id lives. An error says that all of it has ended already.
            unsafe { ffi::rdma_disconnect(id) };
            drop_id(id);
            Ok(())
        })
    };
    Ok(vec![cycles::measure(parallel, duration, begin)?])
}
