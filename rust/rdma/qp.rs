// SPDX-License-Identifier: GPL-2.0

//! Queue pairs: posting sends and receives, and handling their completions.

use super::{
    buf::{
        Headers,
        Held,
        RecvBuf,
        Sge,
        MAX_RECV_PAGES, //
    },
    cm::{
        CmHandler,
        CmId, //
    },
    cq::Cq,
    device::{
        Device,
        OWNER, //
    },
    mr::{
        Memory,
        Remote, //
    },
    pd::Pd,
};
use crate::{
    bindings,
    net::spinlock_bh::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    prelude::*, //
};
use core::{
    mem::{
        self,
        ManuallyDrop, //
    },
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    container_of,
    error::to_result,
    fmt,
    sync::Arc, //
};

/// The most pieces of memory that follow a header in one send.
pub(crate) const MAX_PAYLOAD: usize = 2;

/// The handler of a QP's completions.
///
/// They come in softirq context and one at a time, receives in the order in which they were posted,
/// and so requests of the send queue, except that on iWARP an RDMA Read completes after requests
/// that were posted later.
pub(crate) trait Completions: Send + Sync + 'static {
    /// Identifies a request of the send queue.
    type Request: Send;

    /// A request of the send queue has completed, and its memory was released. Softirq.
    fn sent(&self, request: Self::Request, result: Result<(), WcStatus>);

    /// A receive has completed: `buf` has what was received, or on failure nothing. Softirq.
    fn received(&self, buf: RecvBuf, result: Result<(), WcStatus>);

    /// Something happened to the QP itself. Any context, also with interrupts disabled.
    fn qp_event(&self, event: QpEvent);
}

/// Why a work request failed. After the first failure all others of the QP fail with `WrFlush`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WcStatus {
    /// A message was longer than the buffer posted for it.
    LocLen,
    /// The local memory was not mapped as the request said.
    LocProt,
    /// The QP was in the error state.
    WrFlush,
    /// The peer saw an invalid request, such as a message longer than its buffer.
    RemInvReq,
    /// The peer's memory does not allow that.
    RemAccess,
    /// The peer could not execute it.
    RemOp,
    /// The peer did not answer.
    RetryExc,
    /// The peer posted no receive for too long.
    RnrRetryExc,
    /// The peer used up a receive by something other than a send, which leaves the buffer
    /// unwritten.
    NotSend,
    /// Any other `enum ib_wc_status`.
    Other(u32),
}

impl WcStatus {
    fn of(wc: &bindings::ib_wc) -> Result<(), Self> {
        Err(match wc.status {
            bindings::ib_wc_status_IB_WC_SUCCESS => return Ok(()),
            bindings::ib_wc_status_IB_WC_LOC_LEN_ERR => Self::LocLen,
            bindings::ib_wc_status_IB_WC_LOC_PROT_ERR => Self::LocProt,
            bindings::ib_wc_status_IB_WC_WR_FLUSH_ERR => Self::WrFlush,
            bindings::ib_wc_status_IB_WC_REM_INV_REQ_ERR => Self::RemInvReq,
            bindings::ib_wc_status_IB_WC_REM_ACCESS_ERR => Self::RemAccess,
            bindings::ib_wc_status_IB_WC_REM_OP_ERR => Self::RemOp,
            bindings::ib_wc_status_IB_WC_RETRY_EXC_ERR => Self::RetryExc,
            bindings::ib_wc_status_IB_WC_RNR_RETRY_EXC_ERR => Self::RnrRetryExc,
            other => Self::Other(other),
        })
    }
}

impl fmt::Display for WcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::LocLen => "local length error",
            Self::LocProt => "local protection error",
            Self::WrFlush => "flushed",
            Self::RemInvReq => "invalid request at the peer",
            Self::RemAccess => "access error at the peer",
            Self::RemOp => "operation error at the peer",
            Self::RetryExc => "the peer does not answer",
            Self::RnrRetryExc => "the peer posts no receives",
            Self::NotSend => "the peer used up a receive without a send",
            Self::Other(status) => return write!(f, "status {status}"),
        };
        f.write_str(text)
    }
}

/// An event of a QP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QpEvent {
    /// The peer uses the connection before the CM has received its RTU.
    CommEst,
    /// The QP failed.
    Fatal,
    /// Any other `enum ib_event_type`.
    Other(u32),
}

/// The size of a QP.
#[derive(Clone, Copy)]
pub(crate) struct Caps {
    /// Requests that the send queue takes at a time.
    pub(crate) send_wr: u32,
    /// Receives that can be posted at a time.
    pub(crate) recv_wr: u32,
    /// Pieces of memory that can follow the header of one send, at most [`MAX_PAYLOAD`].
    pub(crate) payload_sge: u32,
    /// Pages of a receive buffer, at most [`MAX_RECV_PAGES`].
    pub(crate) recv_sge: u32,
}

impl Caps {
    /// As much of it as `device` supports, less what draining the QP posts.
    fn clamp(self, device: &Device) -> Self {
        let max_wr = device.max_qp_wr().saturating_sub(1);
        let max_sge = device.max_send_sge().saturating_sub(1);
        Self {
            send_wr: self.send_wr.min(max_wr),
            recv_wr: self.recv_wr.min(max_wr),
            // CAST: Both are small.
            payload_sge: self.payload_sge.min(max_sge).min(MAX_PAYLOAD as u32),
            recv_sge: self
                .recv_sge
                .min(device.max_recv_sge())
                .min(MAX_RECV_PAGES as u32),
        }
    }
}

/// A piece of memory of a request.
pub(crate) enum Piece {
    /// Bytes that were copied.
    Copied(Sge),
    /// So many of a caller's bytes, from an offset on.
    Registered(Arc<Memory>, usize, usize),
}

/// The memory of a request, in order.
#[derive(Default)]
pub(crate) struct Payload {
    pieces: [Option<Piece>; MAX_PAYLOAD],
    count: usize,
}

impl Payload {
    /// Appends a piece; gives it back when there are [`MAX_PAYLOAD`] already.
    pub(crate) fn push(&mut self, piece: Piece) -> Result<(), Piece> {
        match self.pieces.get_mut(self.count) {
            Some(place) => {
                *place = Some(piece);
                self.count += 1;
                Ok(())
            }
            None => Err(piece),
        }
    }

    /// The pieces.
    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().flatten()
    }
}

/// What a request holds: a [`Payload`] that is mapped, or the memory whose key it is about.
///
/// # Invariants
///
/// What is mapped of `held` is mapped for the device of `pd`, to which it was not posted yet.
pub(crate) struct Ready<'a> {
    pd: &'a Pd,
    held: [Held; MAX_PAYLOAD],
    /// Their description for a work request, and how many there are.
    sges: [bindings::ib_sge; MAX_PAYLOAD],
    count: usize,
}

impl<'a> Ready<'a> {
    fn new(pd: &'a Pd) -> Self {
        Self {
            pd,
            held: Default::default(),
            sges: Default::default(),
            count: 0,
        }
    }

    /// For a request about a key, with the memory of that.
    fn holding(pd: &'a Pd, memory: Held) -> Self {
        let mut ready = Self::new(pd);
        let [first, ..] = &mut ready.held;
        *first = memory;
        ready
    }

    /// Maps `payload`. Any context. Fails with `ENOMEM`, and with `EINVAL` for memory of another
    /// domain.
    fn map(pd: &'a Pd, payload: &Payload) -> Result<Self> {
        let mut ready = Self::new(pd);
        let places = ready.held.iter_mut().zip(&mut ready.sges);
        for (piece, (held, sge)) in payload.pieces().zip(places) {
            // INVARIANT: What was copied is just mapped.
            (*held, *sge) = match piece {
                Piece::Copied(range) => range.map(pd)?,
                Piece::Registered(memory, offset, len) if memory.is_of(pd) => {
                    let sge = memory.to_device(*offset, *len)?;
                    let _memory = memory.clone();
                    (Held::Registered { _memory }, sge)
                }
                Piece::Registered(..) => return Err(EINVAL),
            };
            // OVERFLOW: There are at most `MAX_PAYLOAD`.
            ready.count += 1;
        }
        Ok(ready)
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        for held in &mut self.held {
            // SAFETY: By the type invariants.
            unsafe { mem::take(held).unmap(self.pd) };
        }
    }
}

/// A message to send.
pub(crate) struct SendWr<'a> {
    /// Its first bytes, at most [`HEADER_ROOM`](super::buf::HEADER_ROOM), which are copied.
    pub(crate) header: &'a [u8],
    /// The bytes that follow, which are held until the send has completed.
    pub(crate) payload: Option<Ready<'a>>,
    /// Whether the peer should be woken by an interrupt although it asked for few.
    pub(crate) solicited: bool,
}

/// A posted request of the send queue.
struct Sent<R> {
    held: [Held; MAX_PAYLOAD],
    /// Identifies it to the handler of its completion; none if posting failed.
    request: Option<R>,
}

impl<R> Sent<R> {
    /// Lets the memory go.
    ///
    /// # Safety
    ///
    /// It was posted to a QP in `pd`, and has completed, or the QP is destroyed.
    unsafe fn unmap(self, pd: &Pd) {
        for held in self.held {
            // SAFETY: It was mapped for that device, which is done with it.
            unsafe { held.unmap(pd) };
        }
    }
}

/// The completion entry of a slot, by which a completion finds its request.
///
/// # Invariants
///
/// `context` is where this lies, in its list for the queue that `cqe` is for.
#[repr(C)]
struct Cqe<D: Completions> {
    cqe: bindings::ib_cqe,
    context: NonNull<QpContext<D>>,
}

// SAFETY: The pointer is followed in completions only, and `QpContext` may be shared by threads.
unsafe impl<D: Completions> Send for Cqe<D> {}
// SAFETY: As above.
unsafe impl<D: Completions> Sync for Cqe<D> {}

/// A slot for what a posted work request keeps alive.
enum Slot<T> {
    Used(T),
    Free { next: Option<u32> },
}

/// What the posted work requests of a queue keep alive.
struct Slots<T> {
    slots: KVVec<Slot<T>>,
    /// The first free slot.
    free: Option<u32>,
    /// Whether requests may be posted.
    open: bool,
}

impl<T> Slots<T> {
    fn new(len: u32) -> Result<Self> {
        // CAST: `usize` has at least 32 bits.
        let mut slots = KVVec::with_capacity(len as usize, GFP_KERNEL)?;
        let mut free = None;
        for slot in 0..len {
            slots.push(Slot::Free { next: free }, GFP_KERNEL)?;
            free = Some(slot);
        }
        Ok(Self {
            slots,
            free,
            open: true,
        })
    }

    /// The next slot to use. Fails with `ESHUTDOWN` when closed, and with `EAGAIN` when all are in
    /// use.
    fn vacant(&self) -> Result<usize> {
        match self.free {
            _ if !self.open => Err(ESHUTDOWN),
            // CAST: `usize` has at least 32 bits.
            Some(slot) => Ok(slot as usize),
            None => Err(EAGAIN),
        }
    }

    /// Uses the slot that [`Self::vacant`] gave.
    fn fill(&mut self, value: T) {
        // CAST: `usize` has at least 32 bits.
        let free = self.free.and_then(|at| self.slots.get_mut(at as usize));
        if let Some(slot) = free {
            if let Slot::Free { next } = mem::replace(slot, Slot::Used(value)) {
                self.free = next;
            }
        }
    }

    /// The value in a slot.
    fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        match self.slots.get_mut(slot)? {
            Slot::Used(value) => Some(value),
            Slot::Free { .. } => None,
        }
    }

    fn take(&mut self, at: usize) -> Option<T> {
        let slot = self.slots.get_mut(at)?;
        if let Slot::Free { .. } = slot {
            return None;
        }
        let next = self.free;
        self.free = Some(u32::try_from(at).ok()?);
        match mem::replace(slot, Slot::Free { next }) {
            Slot::Used(value) => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The values in all slots.
    fn used(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used(value) => Some(value),
            Slot::Free { .. } => None,
        })
    }
}

/// The part of a QP that completions use. It is pinned until the QP has been drained.
#[pin_data]
struct QpContext<D: Completions> {
    caps: Caps,
    cq: Cq,
    pd: Arc<Pd>,
    headers: Headers,
    #[pin]
    sends: SpinLockBh<Slots<Sent<D::Request>>>,
    #[pin]
    recvs: SpinLockBh<Slots<RecvBuf>>,
    send_cqes: KVVec<Cqe<D>>,
    recv_cqes: KVVec<Cqe<D>>,
    completions: D,
}

impl<D: Completions> QpContext<D> {
    fn new(pd: Arc<Pd>, caps: Caps, cq: Cq, completions: D) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(&this in Self {
                caps,
                cq,
                headers: Headers::new(&pd, caps.send_wr)?,
                pd,
                sends <- new_spinlock_bh!(Slots::new(caps.send_wr)?, "sdp::QpContext::sends"),
                recvs <- new_spinlock_bh!(Slots::new(caps.recv_wr)?, "sdp::QpContext::recvs"),
                send_cqes: Self::cqes(this, send_done::<D>, caps.send_wr)?,
                recv_cqes: Self::cqes(this, recv_done::<D>, caps.recv_wr)?,
                completions,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Whether requests of the send queue have not completed.
    fn is_sending(&self) -> bool {
        let busy = |sent: &Sent<D::Request>| sent.request.is_some();
        self.sends.lock().used().any(busy)
    }

    fn cqes(
        context: NonNull<Self>,
        done: unsafe extern "C" fn(*mut bindings::ib_cq, *mut bindings::ib_wc),
        len: u32,
    ) -> Result<KVVec<Cqe<D>>> {
        // CAST: `usize` has at least 32 bits.
        let len = len as usize;
        let mut cqes = KVVec::with_capacity(len, GFP_KERNEL)?;
        for _ in 0..len {
            let cqe = bindings::ib_cqe { done: Some(done) };
            // INVARIANT: It becomes an entry of that list of `context`.
            cqes.push(Cqe { cqe, context }, GFP_KERNEL)?;
        }
        Ok(cqes)
    }
}

/// A connected queue pair, on the connection identifier that it owns.
///
/// Dropping it drains it, which gives all that was posted back to its [`Completions`], and
/// destroys it and then the identifier. That sleeps, and has the restrictions of dropping a
/// [`CmId`].
///
/// # Invariants
///
/// The QP of `id` is live until this is dropped; its completions and events go to `context`.
pub(crate) struct Qp<C: CmHandler, D: Completions> {
    // Fields are dropped in this order.
    context: ManuallyDrop<Pin<KBox<QpContext<D>>>>,
    id: CmId<C>,
}

// SAFETY: The verbs of a QP may be called from any thread, and so may all else that is in it.
unsafe impl<C: CmHandler, D: Completions> Send for Qp<C, D> {}
// SAFETY: Posting is synchronised by the locks in `QpContext` and by the driver.
unsafe impl<C: CmHandler, D: Completions> Sync for Qp<C, D> {}

impl<C: CmHandler, D: Completions> Qp<C, D> {
    /// Makes a QP of up to `caps` in `pd` on `id`. Sleeps.
    ///
    /// The identifier has to be bound to the device of `pd`, and not connected; the domain must not
    /// have been used for another QP. On failure the identifier is given back, with `EINVAL` where
    /// the domain was used or the device cannot do without some of `caps`, `ENOMEM`, or the
    /// driver's error.
    pub(crate) fn new(
        id: CmId<C>,
        pd: &Arc<Pd>,
        caps: Caps,
        completions: D,
    ) -> Result<Self, (Error, CmId<C>)> {
        match Self::create(&id, pd, caps, completions) {
            Ok(context) => Ok(Self {
                context: ManuallyDrop::new(context),
                id,
            }),
            Err(e) => Err((e, id)),
        }
    }

    fn create(
        id: &CmId<C>,
        pd: &Arc<Pd>,
        caps: Caps,
        completions: D,
    ) -> Result<Pin<KBox<QpContext<D>>>> {
        let caps = caps.clamp(pd.device());
        if caps.send_wr == 0 || caps.recv_wr == 0 || caps.recv_sge == 0 {
            return Err(EINVAL);
        }
        pd.take_for_qp()?;
        // OVERFLOW: The device's limit leaves room for one more in each queue.
        let (send_wr, recv_wr) = (caps.send_wr + 1, caps.recv_wr + 1);
        let cq = Cq::get(pd.device(), send_wr.saturating_add(recv_wr))?;
        let context = QpContext::new(pd.clone(), caps, cq, completions)?;
        let mut attr = bindings::ib_qp_init_attr {
            event_handler: Some(qp_event::<D>),
            qp_context: (&raw const *context).cast_mut().cast(),
            send_cq: context.cq.as_ptr(),
            recv_cq: context.cq.as_ptr(),
            cap: bindings::ib_qp_cap {
                max_send_wr: send_wr,
                max_recv_wr: recv_wr,
                // OVERFLOW: There are at most `MAX_PAYLOAD`.
                max_send_sge: caps.payload_sge + 1,
                max_recv_sge: caps.recv_sge,
                ..Default::default()
            },
            sq_sig_type: bindings::ib_sig_type_IB_SIGNAL_ALL_WR,
            qp_type: bindings::ib_qp_type_IB_QPT_RC,
            ..Default::default()
        };
        // SAFETY: The identifier is live and the domain valid; rdma_cm checks that they are on one
        // device. It has no QP, because one would own it, and nobody else can connect it. An event
        // of rdma_cm that looks for the QP meanwhile finds none, or one that is ready.
        let created = unsafe { bindings::rdma_create_qp(id.as_ptr(), pd.as_ptr(), &mut attr) };
        // rxe fails with ENFILE where it has no memory for its own socket.
        to_result(created).map_err(|e| if e == ENFILE { ENOMEM } else { e })?;
        // Until here the name is "rdma_cm"; whoever reads it meanwhile sees one or the other.
        //
        // SAFETY: That set the pointer to a live QP.
        unsafe {
            let name = &raw mut (*(*id.as_ptr()).qp).res.kern_name;
            ptr::write_volatile(name, OWNER.as_char_ptr());
        }
        Ok(context)
    }

    /// The C queue pair, live as long as `self`.
    fn as_ptr(&self) -> *mut bindings::ib_qp {
        // SAFETY: The identifier is live, and rdma_cm leaves the pointer alone while it has a QP.
        unsafe { (*self.id.as_ptr()).qp }
    }

    /// The connection identifier.
    pub(crate) fn id(&self) -> &CmId<C> {
        &self.id
    }

    /// The protection domain, to which all memory that is posted has to belong. Any context.
    pub(crate) fn pd(&self) -> &Arc<Pd> {
        &self.context.pd
    }

    /// The size of the QP: what was asked for, as far as the device supports it. Any context.
    pub(crate) fn caps(&self) -> &Caps {
        &self.context.caps
    }

    /// Maps `payload`, so that it can be posted. Any context.
    ///
    /// Fails with `ENOMEM` where it cannot be mapped now, and with `EINVAL` for too many pieces or
    /// memory of another domain. What is not posted is unmapped when it is dropped.
    pub(crate) fn map(&self, payload: &Payload) -> Result<Ready<'_>> {
        // CAST: `usize` has at least 32 bits.
        if payload.count > self.context.caps.payload_sge as usize {
            return Err(EINVAL);
        }
        Ready::map(&self.context.pd, payload)
    }

    /// Posts a message. Any context.
    ///
    /// Fails with `EINVAL` for too long a header or a payload of another domain, `EAGAIN` when
    /// [`Caps::send_wr`] requests have not completed, `ESHUTDOWN` once the QP is being drained or
    /// posting failed before, and the driver's error, such as for a QP that is not connected. Then
    /// [`Completions::sent`] is not called.
    pub(crate) fn post_send(&self, send: SendWr<'_>, request: D::Request) -> Result {
        let mut wr = bindings::ib_send_wr {
            opcode: bindings::ib_wr_opcode_IB_WR_SEND,
            send_flags: if send.solicited {
                bindings::ib_send_flags_IB_SEND_SOLICITED as c_int
            } else {
                0
            },
            ..Default::default()
        };
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post(&raw mut wr, Some(send.header), send.payload, request) }
    }

    /// Posts an RDMA Write of `from` to the peer's memory. As [`Self::post_send`].
    pub(crate) fn post_write(&self, from: Ready<'_>, to: Remote, request: D::Request) -> Result {
        let mut rdma = rdma_wr(bindings::ib_wr_opcode_IB_WR_RDMA_WRITE, to);
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post((&raw mut rdma).cast(), None, Some(from), request) }
    }

    /// Posts an RDMA Read of `len` bytes of the peer's memory to the start of `into`, which has
    /// been registered. As [`Self::post_send`]. The caller keeps the memory until the request has
    /// completed.
    pub(crate) fn post_read(
        &self,
        into: &Arc<Memory>,
        len: usize,
        from: Remote,
        request: D::Request,
    ) -> Result {
        let mut rdma = rdma_wr(bindings::ib_wr_opcode_IB_WR_RDMA_READ, from);
        let mut payload = Payload::default();
        let piece = Piece::Registered(into.clone(), 0, len);
        payload.push(piece).map_err(|_| EINVAL)?;
        let ready = self.map(&payload)?;
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post((&raw mut rdma).cast(), None, Some(ready), request) }
    }

    /// Posts an RDMA Read of no bytes. As [`Self::post_send`].
    pub(crate) fn post_read_nothing(&self, from: Remote, request: D::Request) -> Result {
        let mut rdma = rdma_wr(bindings::ib_wr_opcode_IB_WR_RDMA_READ, from);
        let mut nothing = Ready::new(&self.context.pd);
        // On iWARP it needs one piece of memory to store to.
        let [place, ..] = &mut nothing.sges;
        place.lkey = self.context.pd.lkey();
        nothing.count = 1;
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post((&raw mut rdma).cast(), None, Some(nothing), request) }
    }

    /// Whether a registration has to wait until requests have completed
    /// ([`Device::repeats_registrations`]). Any context.
    ///
    /// [`Device::repeats_registrations`]: super::device::Device::repeats_registrations
    pub(crate) fn delays_registration(&self) -> bool {
        self.context.pd.device().repeats_registrations() && self.context.is_sending()
    }

    /// Posts the registration of `memory`, whose key is valid for the requests after this one. As
    /// [`Self::post_send`], and with `EINVAL` for memory of another domain, or that was registered
    /// before. The caller keeps the memory until the request has completed.
    pub(crate) fn post_register(&self, memory: &Arc<Memory>, request: D::Request) -> Result {
        if !memory.is_of(&self.context.pd) {
            return Err(EINVAL);
        }
        let mut reg = bindings::ib_reg_wr {
            wr: bindings::ib_send_wr {
                opcode: bindings::ib_wr_opcode_IB_WR_REG_MR,
                ..Default::default()
            },
            mr: memory.as_ptr(),
            key: memory.key(),
            access: memory.access_flags(),
        };
        let held = Ready::holding(&self.context.pd, Held::Registering(memory.clone()));
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post((&raw mut reg).cast(), None, Some(held), request) }
    }

    /// Posts the invalidation of the key of `memory`. As [`Self::post_send`], and with `EINVAL` for
    /// memory of another domain, or that was not registered. The caller keeps the memory until the
    /// request has completed.
    pub(crate) fn post_invalidate(&self, memory: &Arc<Memory>, request: D::Request) -> Result {
        if !memory.is_of(&self.context.pd) {
            return Err(EINVAL);
        }
        let mut wr = bindings::ib_send_wr {
            opcode: bindings::ib_wr_opcode_IB_WR_LOCAL_INV,
            ..Default::default()
        };
        // SAFETY: All members of the union are plain data.
        unsafe { *wr.ex.invalidate_rkey.as_mut() = memory.key() };
        let held = Ready::holding(&self.context.pd, Held::Ending(memory.clone()));
        // SAFETY: It is the request that the opcode says.
        unsafe { self.post(&raw mut wr, None, Some(held), request) }
    }

    /// Posts a request with its memory.
    ///
    /// # Safety
    ///
    /// `wr` starts what its opcode says, complete but for memory and completion.
    unsafe fn post(
        &self,
        wr: *mut bindings::ib_send_wr,
        header: Option<&[u8]>,
        payload: Option<Ready<'_>>,
        request: D::Request,
    ) -> Result {
        let context = &**self.context;
        let mut payload = payload.unwrap_or_else(|| Ready::new(&context.pd));
        if !ptr::eq(payload.pd, &*context.pd) {
            return Err(EINVAL);
        }
        let mut sges: [bindings::ib_sge; MAX_PAYLOAD + 1] = Default::default();
        let [first, rest @ ..] = &mut sges;
        rest.swap_with_slice(&mut payload.sges);

        // The lock is held while posting, so that once the queue is closed nobody is still posting.
        let mut sends = context.sends.lock();
        let slot = sends.vacant()?;
        // A key that ends, and is then used again, would not be known to be valid.
        match &payload.held {
            [Held::Registering(memory), ..] => memory.register()?,
            [Held::Ending(memory), ..] if !memory.is_registered() => return Err(EINVAL),
            _ => {}
        }
        // CAST: There are at most `MAX_PAYLOAD`, and one.
        let mut count = payload.count as c_int;
        let mut list = rest.as_mut_ptr();
        if let Some(header) = header {
            // SAFETY: The slot is vacant, so the device reads no header there.
            *first = unsafe { context.headers.write(slot, header) }?;
            list = sges.as_mut_ptr();
            count += 1;
        }
        let cqe = cqe(&context.send_cqes, slot)?;
        // SAFETY: By the contract it is valid; all members of the union are plain data.
        unsafe {
            (*wr).sg_list = list;
            (*wr).num_sge = count;
            *(*wr).__bindgen_anon_1.wr_cqe.as_mut() = cqe;
        }
        sends.fill(Sent {
            held: mem::take(&mut payload.held),
            request: Some(request),
        });
        // SAFETY: The QP is live and the request what its opcode says. The slot keeps the memory,
        // and the `Cqe` stays where it is, until the request has completed.
        let result = to_result(unsafe {
            bindings::sdp_helper_ib_post_send(self.as_ptr(), wr, &mut ptr::null())
        });
        if result.is_err() {
            // A driver may fail after it has queued the request, so the memory has to stay. The
            // caller learns of the failure here, and not again by a completion.
            sends.open = false;
            if let Some(sent) = sends.get_mut(slot) {
                sent.request = None;
            }
        }
        result
    }

    /// Posts a buffer for the next message. Any context.
    ///
    /// On failure the buffer is given back: with `EINVAL` for more than [`Caps::recv_sge`] pages,
    /// `ENOMEM` where it cannot be mapped, otherwise as [`Self::post_send`].
    pub(crate) fn post_recv(&self, mut buf: RecvBuf) -> Result<(), (Error, RecvBuf)> {
        let context = &**self.context;
        let mut sges: [bindings::ib_sge; MAX_RECV_PAGES] = Default::default();
        // CAST: `usize` has at least 32 bits.
        let room = sges.get_mut(..context.caps.recv_sge as usize);
        let count = match buf.map(&context.pd, room.unwrap_or(&mut [])) {
            Ok(count) => count,
            Err(error) => return Err((error, buf)),
        };
        // SAFETY: Where this is called, the device was not given the buffer.
        let back = |mut buf: RecvBuf| unsafe {
            buf.unmap(&context.pd, 0);
            buf
        };
        // The lock is held while posting, so that once the queue is closed nobody is still posting.
        let mut recvs = context.recvs.lock();
        let (slot, cqe) = match recvs
            .vacant()
            .and_then(|slot| Ok((slot, cqe(&context.recv_cqes, slot)?)))
        {
            Ok(found) => found,
            Err(error) => return Err((error, back(buf))),
        };
        let mut wr = bindings::ib_recv_wr {
            sg_list: sges.as_mut_ptr(),
            // CAST: It is at most `MAX_RECV_PAGES`.
            num_sge: count as c_int,
            ..Default::default()
        };
        // SAFETY: All members of the union are plain data.
        unsafe { *wr.__bindgen_anon_1.wr_cqe.as_mut() = cqe };
        recvs.fill(buf);
        // SAFETY: As in `post_send`.
        let result = to_result(unsafe {
            bindings::sdp_helper_ib_post_recv(self.as_ptr(), &wr, &mut ptr::null())
        });
        if let Err(error) = result {
            if let Some(buf) = recvs.take(slot) {
                return Err((error, back(buf)));
            }
        }
        Ok(())
    }

    /// Ends the connection and tells the peer. Sleeps.
    ///
    /// Requests that are posted afterwards are flushed or refused, and earlier ones may be flushed.
    /// Fails with `ENOTCONN` before a successful [`CmId::connect`], and with the driver's error.
    pub(crate) fn disconnect(&self) -> Result {
        // iWARP disconnects a QP through the SQD state, which is for QPs with an empty send queue.
        // siw then never completes requests that are in the queue because the TCP connection had
        // ended. On a direct transition to the error state it does.
        if self.context.is_sending() {
            let mut attr = bindings::ib_qp_attr {
                qp_state: bindings::ib_qp_state_IB_QPS_ERR,
                ..Default::default()
            };
            // CAST: It is a bit of an `int`.
            let mask = bindings::ib_qp_attr_mask_IB_QP_STATE as c_int;
            // SAFETY: The QP is live, and the attribute is the one that the mask names.
            to_result(unsafe { bindings::ib_modify_qp(self.as_ptr(), &mut attr, mask) })?;
        }
        self.id.disconnect()
    }

    /// Puts the QP into the error state and waits until all posted requests have completed. Nothing
    /// can be posted afterwards. Sleeps.
    fn drain(&mut self) {
        self.context.sends.lock().open = false;
        self.context.recvs.lock().open = false;
        // SAFETY: The QP is live, each queue of it and its CQ have room for one more request, and
        // nobody else posts.
        unsafe { bindings::ib_drain_qp(self.as_ptr()) };
    }
}

impl<C: CmHandler, D: Completions> Drop for Qp<C, D> {
    fn drop(&mut self) {
        self.drain();
        // SAFETY: By the type invariants the identifier has a QP, which nobody uses any more.
        unsafe { bindings::rdma_destroy_qp(self.id.as_ptr()) };
        let receiving = self.context.recvs.lock().used().count() != 0;
        if self.context.is_sending() || receiving {
            // A driver that failed to drain may still use what was posted.
            pr_err!("a QP could not be drained; its buffers are lost\n");
            return;
        }
        // Requests that could not be posted are still there.
        let sends = mem::replace(&mut self.context.sends.lock().slots, KVVec::new());
        for slot in sends {
            if let Slot::Used(sent) = slot {
                // SAFETY: The QP is destroyed.
                unsafe { sent.unmap(&self.context.pd) };
            }
        }
        // SAFETY: It is not used again; no work request is left that could complete.
        unsafe { ManuallyDrop::drop(&mut self.context) };
    }
}

/// An RDMA request to the peer's memory.
fn rdma_wr(opcode: bindings::ib_wr_opcode, remote: Remote) -> bindings::ib_rdma_wr {
    bindings::ib_rdma_wr {
        wr: bindings::ib_send_wr {
            opcode,
            ..Default::default()
        },
        remote_addr: remote.addr,
        rkey: remote.key,
    }
}

/// The `ib_cqe` of a slot.
fn cqe<D: Completions>(cqes: &[Cqe<D>], slot: usize) -> Result<*mut bindings::ib_cqe> {
    let entry = cqes.get(slot).ok_or(EINVAL)?;
    Ok((&raw const entry.cqe).cast_mut())
}

/// The QP and the slot of a completion.
///
/// # Safety
///
/// `wc` is the completion of a request that was posted with an entry of `cqes` of a `QpContext<D>`.
unsafe fn posted<'a, D: Completions>(
    wc: &bindings::ib_wc,
    cqes: impl Fn(&QpContext<D>) -> &[Cqe<D>],
) -> (&'a QpContext<D>, usize) {
    // SAFETY: By the contract it is the member of a `Cqe`, which says where it is, and which is in
    // the list. All of it stays until the QP has been drained, and that waits for this completion.
    unsafe {
        let cqe = container_of!(*wc.__bindgen_anon_1.wr_cqe.as_ref(), Cqe<D>, cqe);
        let context = (*cqe).context.as_ref();
        let slot = cqe.cast_const().offset_from(cqes(context).as_ptr());
        // CAST: It is an index.
        (context, slot as usize)
    }
}

/// Handles the completion of a send.
///
/// # Safety
///
/// The CQ calls it, for a request posted with one of the `send_cqes` of a `QpContext<D>`.
unsafe extern "C" fn send_done<D: Completions>(
    _cq: *mut bindings::ib_cq,
    wc: *mut bindings::ib_wc,
) {
    // SAFETY: By the contract the completion is valid.
    let wc = unsafe { &*wc };
    // SAFETY: By the contract.
    let (context, slot) = unsafe { posted::<D>(wc, |context| &context.send_cqes) };
    let Some(mut sent) = context.sends.lock().take(slot) else {
        return;
    };
    let (request, result) = (sent.request.take(), WcStatus::of(wc));
    if let ([Held::Ending(memory), ..], Ok(())) = (&sent.held, &result) {
        memory.end();
    }
    // SAFETY: It has completed.
    unsafe { sent.unmap(&context.pd) };
    if let Some(request) = request {
        context.completions.sent(request, result);
    }
}

/// Handles the completion of a receive.
///
/// # Safety
///
/// The CQ calls it, for a request posted with one of the `recv_cqes` of a `QpContext<D>`.
unsafe extern "C" fn recv_done<D: Completions>(
    _cq: *mut bindings::ib_cq,
    wc: *mut bindings::ib_wc,
) {
    // SAFETY: By the contract the completion is valid.
    let wc = unsafe { &*wc };
    // SAFETY: By the contract.
    let (context, slot) = unsafe { posted::<D>(wc, |context| &context.recv_cqes) };
    let Some(mut buf) = context.recvs.lock().take(slot) else {
        return;
    };
    let result = WcStatus::of(wc).and_then(|()| {
        // An RDMA Write with immediate data takes a receive too, and has the length of what it
        // wrote elsewhere.
        if wc.opcode != bindings::ib_wc_opcode_IB_WC_RECV {
            return Err(WcStatus::NotSend);
        }
        // CAST: `usize` has at least 32 bits.
        Ok(wc.byte_len as usize)
    });
    // SAFETY: The device is done with the buffer. Where the peer's send succeeded it wrote that
    // much.
    unsafe { buf.unmap(&context.pd, result.as_ref().map_or(0, |len| *len)) };
    context.completions.received(buf, result.map(|_| ()));
}

/// Handles an event of the QP.
///
/// # Safety
///
/// The driver calls it, with a valid event, for a QP whose context is a `QpContext<D>`. It does so
/// no more once the QP is destroyed.
unsafe extern "C" fn qp_event<D: Completions>(
    event: *mut bindings::ib_event,
    context: *mut c_void,
) {
    // SAFETY: By the contract.
    let (event, context) = unsafe { ((*event).event, &*context.cast::<QpContext<D>>()) };
    context.completions.qp_event(match event {
        bindings::ib_event_type_IB_EVENT_COMM_EST => QpEvent::CommEst,
        bindings::ib_event_type_IB_EVENT_QP_FATAL
        | bindings::ib_event_type_IB_EVENT_QP_REQ_ERR
        | bindings::ib_event_type_IB_EVENT_QP_ACCESS_ERR => QpEvent::Fatal,
        other => QpEvent::Other(other),
    });
}
