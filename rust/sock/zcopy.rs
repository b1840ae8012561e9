// SPDX-License-Identifier: GPL-2.0

//! Zero copy on a connection: the callers' [`Buffers`] between the protocol machine and the QP.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    mm::pages::Pages,
    net::sock::{
        SockGuard,
        Timeout, //
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
            Owner,
            Stage, //
        },
        conn::{
            Conn,
            Post,
            Request, //
        },
        stats::Counter,
        Sdp, //
    },
};
use kernel::sync::Arc;

/// Pages that a memory region holds: on rxe, its table of pages and itself.
const REGION_PAGES: usize = 2;

/// How long the fabric may take to let go a killed caller's memory, in milliseconds.
const KILLED_MS: u32 = 2000;

impl Conn {
    /// Ends the keys of buffers that the protocol has finished with.
    pub(super) fn invalidate_finished(&self) {
        let mut over = false;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            while let Some(finished) = {
                let finished = self.flow.lock().machine.offer_finished();
                finished
            } {
                match post.buffers.finish_offer(finished) {
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
            self.with_socket(|sk| sk.wake_all());
            self.queue();
        }
    }

    /// The most pages of one buffer; 0 where the send queue has no requests for buffers.
    pub(super) fn max_buffer_pages(&self) -> usize {
        let post = self.post.lock();
        let qp = post.qp.as_ref();
        qp.filter(|qp| has_buffer_slots(qp.caps().send_wr))
            .map_or(0, |qp| qp.pd().device().max_mr_pages())
    }

    /// Registers a caller's pages, once they are pinned: a program may sleep for ever in the page fault that
    /// that takes, and would keep the device with what is taken here. Sleeps. Fails with `ENOTCONN` where
    /// there is no QP any more, `ENOBUFS` where the region cannot be charged, and the driver's error.
    pub(super) fn register(&self, pages: Pages, access: Access) -> Result<Arc<Memory>> {
        let pd = self.pd().ok_or(ENOTCONN)?;
        let memory = Memory::new(&pd, pages, access)?;
        let regions = pd.regions().saturating_mul(REGION_PAGES);
        self.charge(|parts| parts.regions = parts.regions.max(regions))?;
        Ok(memory)
    }

    /// Whether another buffer can be sent.
    pub(super) fn has_buffer_place(&self) -> bool {
        self.post.lock().buffers.has_place()
    }

    /// Has all of `memory`, registered for the peer to read, sent behind what was written. It is let go
    /// by [`Self::release_finished`]. Gives it back where it cannot be taken now.
    pub(super) fn send_memory(&self, memory: Arc<Memory>, owner: Owner) -> Result<(), Arc<Memory>> {
        let pages = memory.page_count() as u64;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            if post.qp.is_none() || !post.buffers.has_place() {
                return Err(memory);
            }
            let more = post.buffers.is_sending();
            let id = {
                let machine = &mut self.flow.lock().machine;
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
                owner,
                pushed: 0,
                bytes: 0,
            });
        }
        self.added(pages);
        Ok(())
    }

    /// A buffer was added: [`Self::kick`] registers it before any other message.
    fn added(&self, pages: u64) {
        self.count(Counter::PagesPinned, pages);
        self.count(Counter::MrsRegistered, 1);
        self.kick();
    }

    /// Lets the buffers go that are over, which may make room for writers. Sleeps; any task.
    pub(super) fn release_finished(&self) {
        let mut any = false;
        loop {
            let Some(sent) = self.post.lock().buffers.take_sent() else {
                break;
            };
            let read = u64::from(sent.bytes).saturating_sub(sent.pushed);
            self.count(Counter::SentRead, read);
            self.release_memory(sent.memory);
            if sent.owner.is_call() {
                // Only now is the memory the caller's.
                self.post.lock().buffers.call.returned(sent.bytes);
            }
            // The notice, if there is one, goes with the rest.
            any = true;
        }
        if any {
            self.with_socket(|sk| {
                sk.wake_all();
                if self.writable(sk) {
                    sk.write_space();
                }
            });
        }
    }

    /// Nobody waits for the buffers of the last call any more: they are let go like any other.
    pub(super) fn disown_call(&self) {
        self.post.lock().buffers.disown_call();
        self.queue();
    }

    /// Lets one buffer's memory go. Sleeps.
    pub(super) fn release_memory(&self, memory: Arc<Memory>) {
        self.count(Counter::PagesUnpinned, memory.page_count() as u64);
        self.count(Counter::MrsInvalidated, 1);
        drop(memory);
    }

    /// A call begins that will wait for its buffers, of which it has none yet. Calls take turns.
    pub(super) fn begin_call(&self) {
        self.post.lock().buffers.call = Call::default();
    }

    /// How far the buffers of the call are, after those that are over were let go. Sleeps.
    pub(super) fn call(&self) -> Call {
        self.release_finished();
        self.post.lock().buffers.call
    }

    /// Fills `memory` with what the peer advertises behind the first `after` bytes of payload. Gives it
    /// back where that is nothing, or there is no place, now.
    ///
    /// [`Self::take_read`] lets it go.
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
                // What was fetched meanwhile may have been followed by bytes that come before.
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
            });
        }
        self.added(pages);
        Ok(())
    }

    /// Has what the peer advertises next come by copy. That is too late where more came behind it, which
    /// no peer of ours does: then the connection fails.
    pub(super) fn decline(&self) {
        if !self.with(Machine::decline) {
            self.broken(EPROTO);
        }
    }

    /// Waits until the fabric has let go what it was asked to, or the connection had to be broken for
    /// it: after `limit_ms`, or shortly after the caller was killed.
    pub(super) fn wait_return(
        &self,
        s: &mut SockGuard<'_, Sdp>,
        limit_ms: u32,
        is_over: impl Fn() -> bool,
    ) {
        let limit = Timeout::from_ms(limit_ms);
        let killed = Timeout::from_ms(KILLED_MS);
        if s.wait_killable(limit, |_| is_over()) || s.wait_through(killed, |_| is_over()) {
            return;
        }
        self.broken(ETIMEDOUT);
        s.wait_through(Timeout::FOREVER, |_| is_over());
    }

    /// Whether another read can be started.
    pub(super) fn has_read_place(&self) -> bool {
        self.post.lock().buffers.has_fill_place()
    }

    /// Whether reads are in flight, or wait to be taken out.
    pub(super) fn is_reading(&self) -> bool {
        self.post.lock().buffers.is_reading()
    }

    /// Whether the oldest read is over, or there is none.
    pub(super) fn is_read_over(&self) -> bool {
        self.post.lock().buffers.is_read_over()
    }

    /// Whether the peer writes into memory that is offered to it.
    pub(super) fn takes_offers(&self) -> bool {
        self.inspect(|m| m.receive_mode() == Mode::Pipelined)
    }

    /// How long each buffer should be that a receive offers who has room for so many bytes: `least` or more.
    pub(super) fn offer_size(&self, room: usize, least: usize) -> usize {
        self.post.lock().buffers.pattern.next(room, least)
    }

    /// Learns of a receive that offered one buffer, to which the peer wrote so much, and all that fits if it
    /// is `filled`.
    pub(super) fn learn_from_one(&self, bytes: usize, filled: bool) {
        self.post.lock().buffers.pattern.wrote_one(bytes, filled);
    }

    /// Learns of a receive that offered several buffers, to which the peer wrote so many bytes each, and
    /// whether that helped.
    pub(super) fn learn_from_several(&self, written: &[usize], helped: bool) {
        self.post
            .lock()
            .buffers
            .pattern
            .wrote_several(written, helped);
    }

    /// Offers all of `memory` for the peer to write what comes next, behind what is offered already. Gives
    /// it back where there is no place, or the protocol does not take it.
    ///
    /// [`Self::take_offered`] lets it go.
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
                // What has come stands before what the peer would write there.
                // A message that uses up an offer is not to be longer.
                let short = memory.len() <= flow.recv.limits().size() as usize;
                let came = short || !flow.rx.is_empty() || flow.machine.readable().is_some();
                let missed = !first && !flow.offering;
                if came || missed || flow.machine.receive_mode() != Mode::Pipelined {
                    return Err(memory);
                }
                let id = flow.machine.offer_buffer(region(&memory));
                if first {
                    flow.offering = id.is_some();
                    flow.gathering = id.is_some();
                }
                id
            };
            let Some(id) = id else {
                return Err(memory);
            };
            // There is a place for it.
            post.buffers.offer(Offered {
                id,
                len: memory.len(),
                memory: Some(memory),
                stage: Stage::New,
                bytes: 0,
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

    /// Whether the caller that offered should wait no longer: all is over, or `target` bytes came, or
    /// something came that is no more than a part of an offer, so that more is not to be expected.
    pub(super) fn is_offer_due(&self, target: usize) -> bool {
        let post = self.post.lock();
        let (mut over, mut short, mut came) = (true, false, 0usize);
        for offered in post.buffers.offered() {
            over &= offered.stage == Stage::Over;
            if offered.stage > Stage::Busy {
                // CAST: `usize` has at least 32 bits.
                let bytes = offered.bytes as usize;
                came = came.saturating_add(bytes);
                short |= bytes < offered.len;
            }
        }
        over || short || came >= target
    }

    /// Lets the memory of the buffers that were offered go, and tells the bytes that came to each, oldest
    /// first; false where not all are over. Sleeps.
    pub(super) fn take_offered(&self, written: &mut [usize]) -> bool {
        let offered = {
            let mut post = self.post.lock();
            self.flow.lock().offering = false;
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
            if let Some(bytes) = written.next() {
                // CAST: `usize` has at least 32 bits.
                *bytes = offered.bytes as usize;
            }
        }
        true
    }

    /// What came while buffers were offered was taken over.
    pub(super) fn gathered(&self) {
        self.flow.lock().gathering = false;
    }

    /// The key of the oldest buffer that was offered and is ending has ended.
    pub(super) fn offer_ended(&self) {
        if let Some(offered) = self.post.lock().buffers.ending_offer() {
            offered.stage = Stage::Over;
        }
        self.with_socket(|sk| sk.wake_all());
    }

    /// Whether no read is in flight.
    pub(super) fn are_reads_over(&self) -> bool {
        self.post.lock().buffers.are_reads_over()
    }

    /// Lets the memory of the oldest read go, once it is over, and gives the bytes that were asked for
    /// and those that came. Sleeps.
    pub(super) fn take_read(&self) -> Option<(usize, usize)> {
        let read = self.post.lock().buffers.take_read()?;
        self.count(Counter::RecvRead, read.bytes.into());
        if let Some(memory) = read.memory {
            self.release_memory(memory);
        }
        Some((read.len, read.bytes as usize))
    }

    /// An RDMA Read completed: its key ends.
    pub(super) fn read_over(&self, post: &mut Post, ok: bool) -> bool {
        let Some(buffer) = post.buffers.incoming(Stage::Busy) else {
            return false;
        };
        let memory = buffer.memory.clone();
        buffer.stage = Stage::Ending;
        if ok {
            self.flow.lock().machine.read_done(buffer.bytes);
        } else {
            buffer.bytes = 0;
        }
        if let Some(memory) = memory {
            post.end_key(&memory, Request::EndRead);
        }
        ok
    }

    /// The key of a buffer that was sent has ended.
    pub(super) fn send_ended(&self, id: BufferId) {
        let is_call = {
            let mut post = self.post.lock();
            let Some(buffer) = post.buffers.outgoing(id) else {
                return;
            };
            buffer.stage = Stage::Over;
            buffer.owner.is_call()
        };
        if is_call {
            self.with_socket(|sk| sk.wake_all());
        } else {
            self.queue();
        }
    }

    /// The key of the oldest buffer that was read has ended.
    pub(super) fn read_ended(&self) {
        if let Some(buffer) = self.post.lock().buffers.incoming(Stage::Ending) {
            buffer.stage = Stage::Over;
        }
        self.with_socket(|sk| sk.wake_all());
    }
}

impl Post {
    /// Ends the key of a buffer. Where that cannot be posted, the QP's end is the key's.
    fn end_key(&mut self, memory: &Arc<Memory>, request: Request) {
        let _ = self.request(|qp| qp.post_invalidate(memory, request));
    }
}

/// Memory as the protocol names it.
fn region(memory: &Memory) -> Region {
    let remote = memory.remote();
    Region {
        len: u32::try_from(memory.len()).unwrap_or(0),
        rkey: remote.key,
        va: remote.addr,
    }
}
