// SPDX-License-Identifier: GPL-2.0

//! Zero copy on a connection: the callers' [`Buffers`] between the protocol machine and the QP.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    mm::pages::Pages,
    net::{
        sock::Timeout,
        stamp::Stamp,
        wait::OpenGuard, //
    },
    prelude::*,
    proto::{
        BufferId,
        Machine,
        Mode,
        Region, //
    },
    rdma::mr::{
        Access,
        Memory, //
    },
    sock::{
        buffers::{
            has_buffer_slots,
            remote,
            Call,
            Incoming,
            Offered,
            Outgoing,
            Stage,
            Waiter, //
        },
        conn::{
            Conn,
            Post, //
        },
        locked::Locked,
        post::Request,
        stats::Counter,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

/// Pages that a memory region takes at most: on rxe its table of pages and itself, and while it is
/// in use the list of the caller's pages and their scatter list.
const REGION_PAGES: usize = 7;

/// How long the peer may take to release memory that is withdrawn, in milliseconds. It answers
/// without its program, once the RDMA Reads that it has in flight have completed.
pub(super) const RETURN_MS: u32 = 30_000;

/// How long the fabric may take to give up a killed caller's memory, in milliseconds.
const KILLED_MS: u32 = 2000;

impl Conn {
    /// Invalidates the keys of buffers that the protocol has finished with. Any context, without
    /// the spinlocks.
    pub(super) fn invalidate_finished(&self) {
        let mut over = false;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            while let Some((finished, stamp)) = {
                let mut flow = self.flow.lock();
                let finished = flow.machine.offer_finished();
                finished.map(|finished| (finished, flow.offer_stamp))
            } {
                match post.buffers.finish_offer(finished, stamp) {
                    Some(memory) => post.end_key(&memory, Request::EndOffer),
                    None => over = true,
                }
            }
            while let Some(finished) = {
                let finished = self.flow.lock().machine.finished();
                finished
            } {
                match post.buffers.finish_send(finished) {
                    Some(memory) => post.end_key(&memory, Request::EndSend(finished.id)),
                    None => over = true,
                }
            }
        }
        if over {
            self.with_socket(|sk| sk.wake_calls());
            self.queue();
        }
    }

    /// The most pages of one buffer; 0 where the send queue has no requests for buffers. Any
    /// context, as for the other queries, without
    /// [`Connection::post`](super::conn::Connection::post) and the locks after it.
    pub(super) fn max_buffer_pages(&self) -> usize {
        let post = self.post.lock();
        let qp = post.qp.as_ref();
        qp.filter(|qp| has_buffer_slots(qp.caps().send_wr))
            .map_or(0, |qp| qp.pd().device().max_mr_pages())
    }

    /// Makes a memory region of a caller's pages. They have to be pinned before: a program may
    /// sleep for ever in the page fault that this takes, and would keep the device, of which this
    /// holds a reference. Sleeps; without the locks of the connection. Fails with `ENOTCONN` where
    /// there is no QP any more, `ENOBUFS` where the region cannot be charged, and as
    /// [`Memory::new`] does.
    pub(super) fn register(&self, pages: Pages, access: Access) -> Result<Arc<Memory>> {
        self.reclaim();
        let pd = self.pd().ok_or(ENOTCONN)?;
        let regions = pd.regions_with_another().saturating_mul(REGION_PAGES);
        self.charge(|parts| parts.regions = parts.regions.max(regions))?;
        self.work_at(self.now().saturating_add(self.idle_timeout()));
        Memory::new(&pd, pages, access)
    }

    /// Whether memory regions are kept that no buffer has. Sleeps.
    pub(super) fn has_spare_regions(&self) -> bool {
        self.pd().is_some_and(|pd| pd.has_free_regions())
    }

    /// Frees the memory regions that no buffer has: the next call makes new ones. One that does so
    /// now may be charged for a region less until the call after it. Sleeps.
    pub(super) fn free_spare_regions(&self) {
        let Some(pd) = self.pd() else { return };
        let regions = pd.free_regions().saturating_mul(REGION_PAGES);
        // To charge less cannot fail.
        let _ = self
            .account
            .lock()
            .change(|parts| parts.regions = parts.regions.min(regions));
    }

    /// [`Self::register`], once `pinned` has succeeded. An error comes with the counter of its
    /// cause.
    pub(super) fn register_pinned(
        &self,
        pinned: Result<Pages>,
        access: Access,
    ) -> Result<Arc<Memory>, (Counter, Error)> {
        let pages = pinned.map_err(|e| match e {
            e if e == ENOBUFS => (Counter::NoMemlock, e),
            e => (Counter::NoPages, e),
        })?;
        self.register(pages, access).map_err(|e| (Counter::NoMr, e))
    }

    /// Whether another buffer can be sent.
    pub(super) fn has_buffer_place(&self) -> bool {
        self.post.lock().buffers.has_place()
    }

    /// Queues all of `memory`, which the peer may read, to be sent behind what was written.
    /// [`Self::release_finished`] releases it. Gives it back if it cannot be taken now. Process
    /// context, without the spinlocks.
    pub(super) fn send_memory(
        &self,
        memory: Arc<Memory>,
        waiter: Waiter,
    ) -> Result<(), Arc<Memory>> {
        let pages = memory.page_count() as u64;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            if post.qp.is_none() || !post.buffers.has_place() {
                return Err(memory);
            }
            let more = post.buffers.is_sending();
            let now = self.now();
            let id = {
                let flow = &mut *self.flow.lock();
                flow.peer_buffers.wrote = true;
                let machine = &mut flow.machine;
                machine.set_now(now);
                if more || machine.pipeline_hinted() {
                    // So that the link does not idle between them, or the peer can offer memory.
                    machine.want_mode(Mode::Pipelined);
                }
                machine.send_buffer(region(&memory))
            };
            let Some(id) = id else {
                return Err(memory);
            };
            // There is a place for it.
            let _ = post.buffers.send(Outgoing {
                id,
                memory,
                stage: Stage::New,
                waiter,
                pushed: 0,
                bytes: 0,
            });
        }
        self.added(pages);
        Ok(())
    }

    /// Counts a buffer that was added, and has [`Self::kick`] post its registration before any
    /// other message.
    fn added(&self, pages: u64) {
        self.count(Counter::PagesPinned, pages);
        self.count(Counter::MrsRegistered, 1);
        self.kick();
    }

    /// Releases the sent buffers that are over, which may make room for writers. Sleeps; without
    /// the spinlocks.
    pub(super) fn release_finished(&self) {
        let mut any = false;
        loop {
            let Some(sent) = self.post.lock().buffers.take_sent() else {
                break;
            };
            let read = u64::from(sent.bytes).saturating_sub(sent.pushed);
            self.count(Counter::SentRead, read);
            self.release_memory(sent.memory);
            if sent.waiter.is_call() {
                // Only now may the caller use the memory.
                self.post.lock().buffers.call.returned(sent.bytes);
            }
            // The notice, if there is one, is dropped with the rest.
            any = true;
        }
        if any {
            self.with_socket(|sk| {
                sk.wake_calls();
                self.notify_writers(sk);
            });
        }
    }

    /// Leaves the buffers of the last call to the work: nobody waits for them any more. Any
    /// context, without the spinlocks.
    pub(super) fn disown_call(&self) {
        self.post.lock().buffers.disown_call();
        self.queue();
    }

    /// Releases the memory of one buffer. Sleeps.
    pub(super) fn release_memory(&self, memory: Arc<Memory>) {
        self.count(Counter::PagesUnpinned, memory.page_count() as u64);
        self.count(Counter::MrsInvalidated, 1);
        drop(memory);
    }

    /// Begins a call that will wait for its buffers, of which it has none yet. Calls take turns.
    pub(super) fn begin_call(&self) {
        self.post.lock().buffers.call = Call::default();
    }

    /// How far the buffers of the call are, after releasing those that are over. Sleeps; without
    /// the spinlocks.
    pub(super) fn call(&self) -> Call {
        self.release_finished();
        self.post.lock().buffers.call
    }

    /// Whether the fabric has finished with the buffers of the call. Any context, without the
    /// spinlocks.
    pub(super) fn is_call_over(&self) -> bool {
        self.post.lock().buffers.is_call_over()
    }

    /// Fills `memory` with what the peer advertises behind the first `after` bytes of payload.
    /// Gives it back if that is nothing now, or there is no room. Process context, without the
    /// spinlocks.
    ///
    /// [`Self::take_read`] releases it.
    pub(super) fn read_memory(&self, memory: Arc<Memory>, after: u64) -> Result<(), Arc<Memory>> {
        let pages = memory.page_count() as u64;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            if post.qp.is_none() || !post.buffers.has_fill_place() {
                return Err(memory);
            }
            let len = u32::try_from(memory.len()).unwrap_or(u32::MAX);
            let from = {
                let machine = &mut self.flow.lock().machine;
                // After what was fetched meanwhile, other bytes may come before this.
                match machine.readable() {
                    Some(next) if next.after == after && next.region.len >= len => {
                        machine.start_read(len)
                    }
                    _ => None,
                }
            };
            let Some(from) = from else {
                return Err(memory);
            };
            // There is a place for it.
            let _ = post.buffers.read(Incoming {
                len: memory.len(),
                memory: Some(memory),
                stage: Stage::New,
                from: remote(from),
                bytes: from.len,
                stamp: None,
            });
        }
        self.added(pages);
        Ok(())
    }

    /// Asks the peer to send a copy of what it advertises next. Any context, without the spinlocks.
    pub(super) fn decline(&self) {
        self.with(Machine::decline);
    }

    /// Waits until the fabric has released memory. After `limit_ms`, or when the caller is killed,
    /// it waits for [`KILLED_MS`] more, and then breaks the connection. With the socket locked.
    pub(super) fn wait_return(
        &self,
        s: &mut OpenGuard<'_, Sdp>,
        limit_ms: u32,
        is_over: impl Fn() -> bool,
    ) {
        let limit = Timeout::from_ms(limit_ms);
        let killed = Timeout::from_ms(KILLED_MS);
        let is_over = |s: &mut OpenGuard<'_, Sdp>| self.has_returned(s, &is_over);
        if s.wait_killable(limit, is_over) || s.wait_through(killed, is_over) {
            return;
        }
        self.fail(ETIMEDOUT);
        s.wait_through(Timeout::FOREVER, is_over);
    }

    /// Whether what a call waits for `is_over`. If the socket was disconnected meanwhile nobody
    /// wakes the call for it, so the connection is torn down here. Sleeps; with the socket locked.
    pub(super) fn has_returned(&self, s: &Locked, is_over: impl Fn() -> bool) -> bool {
        if is_over() {
            return true;
        }
        if s.has(self) {
            return false;
        }
        self.finish();
        is_over()
    }

    /// Whether another read can be started.
    pub(super) fn has_read_place(&self) -> bool {
        let has_place = self.post.lock().buffers.has_fill_place();
        has_place && self.inspect(Machine::may_read)
    }

    /// Whether reads are in flight, or not taken out yet.
    pub(super) fn is_reading(&self) -> bool {
        self.post.lock().buffers.is_reading()
    }

    /// Whether the oldest read is over, or there is none.
    pub(super) fn is_read_over(&self) -> bool {
        self.post.lock().buffers.is_read_over()
    }

    /// Whether the peer is in the mode in which it writes into offered memory.
    pub(super) fn takes_offers(&self) -> bool {
        self.inspect(|m| m.receive_mode() == Mode::Pipelined)
    }

    /// How long each buffer should be that a receive with room for so many bytes offers: `least` or
    /// more.
    pub(super) fn offer_size(&self, room: usize, least: usize) -> usize {
        self.post.lock().buffers.pattern.next(room, least)
    }

    /// Notes how much the peer wrote to the one buffer that a receive offered, and whether that
    /// `filled` it.
    pub(super) fn learn_from_one(&self, bytes: usize, filled: bool) {
        self.post.lock().buffers.pattern.wrote_one(bytes, filled);
    }

    /// Notes how much the peer wrote to each of several buffers that a receive offered, and whether
    /// these helped.
    pub(super) fn learn_from_several(&self, written: impl Iterator<Item = usize>, helped: bool) {
        self.post
            .lock()
            .buffers
            .pattern
            .wrote_several(written, helped);
    }

    /// Offers all of `memory` for the peer to write what comes next, behind what is offered
    /// already. Gives it back if there is no room, or the protocol does not take it. Process
    /// context, without the spinlocks.
    ///
    /// [`Self::take_offered`] releases it.
    pub(super) fn offer_memory(&self, memory: Arc<Memory>) -> Result<(), Arc<Memory>> {
        let pages = memory.page_count() as u64;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            if post.qp.is_none() || !post.buffers.has_fill_place() {
                return Err(memory);
            }
            let first = post.buffers.offered().next().is_none();
            let id = {
                let mut guard = self.flow.lock();
                let flow = &mut *guard;
                // What has come already belongs before what the peer would write.
                // A message that uses up an offer is not to be longer.
                let short = memory.len() <= flow.recv.limits.size() as usize;
                let is_behind = short || !flow.rx.is_empty() || flow.machine.readable().is_some();
                let missed = !first && !flow.offers.open;
                if is_behind || missed || flow.machine.receive_mode() != Mode::Pipelined {
                    return Err(memory);
                }
                let id = flow.machine.offer_buffer(region(&memory));
                if first {
                    flow.offers.open = id.is_some();
                    flow.offers.gathering = id.is_some();
                }
                id
            };
            let Some(id) = id else {
                return Err(memory);
            };
            // There is a place for it.
            let _ = post.buffers.offer(Offered {
                id,
                len: memory.len(),
                memory: Some(memory),
                stage: Stage::New,
                bytes: 0,
                stamp: None,
            });
        }
        self.added(pages);
        Ok(())
    }

    /// Whether all that was offered is over.
    pub(super) fn are_offers_over(&self) -> bool {
        let post = self.post.lock();
        let mut offered = post.buffers.offered();
        offered.all(|offered| offered.stage == Stage::Over)
    }

    /// Whether the caller that offered should wait no longer: all is over, or `target` bytes came,
    /// or a write did not fill its buffer, so that no more is expected.
    pub(super) fn is_offer_due(&self, target: usize) -> bool {
        let post = self.post.lock();
        let (mut over, mut short, mut received) = (true, false, 0usize);
        for offered in post.buffers.offered() {
            over &= offered.stage == Stage::Over;
            if offered.stage > Stage::Busy {
                // CAST: `usize` has at least 32 bits.
                let bytes = offered.bytes as usize;
                received = received.saturating_add(bytes);
                short |= bytes < offered.len;
            }
        }
        over || short || received >= target
    }

    /// Releases the buffers that were offered, and stores in `written` how many bytes came to each,
    /// and when, oldest first. False if not all are over. Sleeps; without the spinlocks.
    pub(super) fn take_offered(&self, written: &mut [(usize, Option<Stamp>)]) -> bool {
        let offered = {
            let mut post = self.post.lock();
            self.flow.lock().offers.open = false;
            post.buffers.take_offered()
        };
        let Some(offered) = offered else {
            return false;
        };
        let mut written = written.iter_mut();
        for offered in offered.into_iter().flatten() {
            if let Some(memory) = offered.memory {
                self.release_memory(memory);
            }
            if let Some(entry) = written.next() {
                // CAST: `usize` has at least 32 bits.
                *entry = (offered.bytes as usize, offered.stamp);
            }
        }
        true
    }

    /// Notes that what came while buffers were offered was collected. Any context.
    pub(super) fn gathered(&self) {
        self.flow.lock().offers.gathering = false;
    }

    /// Handles the invalidation of the oldest offered buffer whose key is being invalidated. Any
    /// context, without the spinlocks.
    pub(super) fn offer_ended(&self) {
        if let Some(offered) = self.post.lock().buffers.ending_offer() {
            offered.stage.set(Stage::Over);
        }
        self.with_socket(|sk| sk.wake_calls());
    }

    /// Whether no read is in flight.
    pub(super) fn are_reads_over(&self) -> bool {
        self.post.lock().buffers.are_reads_over()
    }

    /// Releases the buffer of the oldest read, once that is over, and returns how many bytes were
    /// asked for, how many came, and when. Sleeps; without the spinlocks.
    pub(super) fn take_read(&self) -> Option<(usize, usize, Option<Stamp>)> {
        let read = self.post.lock().buffers.take_read()?;
        self.count(Counter::RecvRead, read.bytes.into());
        if let Some(memory) = read.memory {
            self.release_memory(memory);
        }
        Some((read.len, read.bytes as usize, read.stamp))
    }

    /// Handles the completion of an RDMA Read, and has its key invalidated. Tells whether the
    /// machine has something to send. Under [`Connection::post`](super::conn::Connection::post),
    /// which `post` is.
    pub(super) fn read_over(&self, post: &mut Post, ok: bool, stamp: Option<Stamp>) -> bool {
        let Some(buffer) = post.buffers.incoming(Stage::Busy) else {
            return false;
        };
        let memory = buffer.memory.clone();
        buffer.stage.set(Stage::Ending);
        if ok {
            self.flow.lock().machine.read_done(buffer.bytes);
            buffer.stamp = stamp;
        } else {
            buffer.bytes = 0;
        }
        if let Some(memory) = memory {
            post.end_key(&memory, Request::EndRead);
        }
        ok
    }

    /// Handles the invalidation of a buffer that was sent. Any context, without the spinlocks.
    pub(super) fn send_ended(&self, id: BufferId) {
        let is_call = {
            let mut post = self.post.lock();
            let Some(buffer) = post.buffers.outgoing(id) else {
                return;
            };
            buffer.stage.set(Stage::Over);
            buffer.waiter.is_call()
        };
        if is_call {
            self.with_socket(|sk| sk.wake_calls());
        }
        // A call that left it here is told by poll, once it is released.
        if !is_call || self.no_room.load(Relaxed) {
            self.queue();
        }
    }

    /// Handles the invalidation of the oldest buffer that was read into. Any context, without the
    /// spinlocks.
    pub(super) fn read_ended(&self) {
        if let Some(buffer) = self.post.lock().buffers.incoming(Stage::Ending) {
            buffer.stage.set(Stage::Over);
        }
        self.with_socket(|sk| {
            sk.wake_calls();
            self.notify_reads_over(sk);
        });
    }

    /// Whether no read is in flight; who finds some without waiting for them is told when they are
    /// over, as readers are. Any context.
    pub(super) fn finds_reads_over(&self) -> bool {
        self.reads_left.store(true, Relaxed);
        // They may just have ended; who ends them looks at the flag behind the same lock.
        let over = self.are_reads_over();
        if over {
            self.reads_left.store(false, Relaxed);
        }
        over
    }

    /// Tells a reader that left its buffer here that it is free. Any context, without the
    /// spinlocks.
    pub(super) fn notify_reads_over(&self, sk: &Socket) {
        let left = &self.reads_left;
        if left.load(Relaxed) && self.are_reads_over() && left.xchg(false, Relaxed) {
            sk.data_ready();
        }
    }
}

impl Post {
    /// Posts the invalidation of a buffer's key. If that fails the QP has failed, and teardown
    /// deregisters the region.
    fn end_key(&mut self, memory: &Arc<Memory>, request: Request) {
        let _ = self.request(|qp| qp.post_invalidate(memory, request));
    }
}

/// Memory, for the machine.
fn region(memory: &Memory) -> Region {
    let remote = memory.remote();
    Region {
        len: u32::try_from(memory.len()).unwrap_or(0),
        rkey: remote.key,
        va: remote.addr,
    }
}
