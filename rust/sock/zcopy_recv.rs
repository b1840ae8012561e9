// SPDX-License-Identifier: GPL-2.0

//! Zero copy on a connection: the buffers that callers have filled, by RDMA Reads or by what the
//! peer writes.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::stamp::Stamp,
    prelude::*,
    proto::{
        Machine,
        Mode, //
    },
    rdma::mr::Memory,
    sock::{
        buffers::{
            remote,
            Incoming,
            Offered,
            Stage, //
        },
        conn::{
            Conn,
            Post, //
        },
        post::Request,
        stats::Counter,
        types::Socket,
        zcopy::region, //
    }, //
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

impl Conn {
    /// Whether another read can be started.
    pub(super) fn has_read_place(&self) -> bool {
        let has_place = self.post.lock().buffers.has_fill_place();
        has_place && self.inspect(Machine::may_read)
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

    /// Whether reads are in flight, or not taken out yet.
    pub(super) fn is_reading(&self) -> bool {
        self.post.lock().buffers.is_reading()
    }

    /// Whether the oldest read is done, or there is none.
    pub(super) fn is_read_done(&self) -> bool {
        self.post.lock().buffers.is_read_done()
    }

    /// Whether no read is in flight.
    pub(super) fn are_reads_done(&self) -> bool {
        self.post.lock().buffers.are_reads_done()
    }

    /// Releases the buffer of the oldest read, once that is done, and returns how many bytes were
    /// asked for, how many arrived, and when. Sleeps; without the spinlocks.
    pub(super) fn take_read(&self) -> Option<(usize, usize, Option<Stamp>)> {
        let read = self.post.lock().buffers.take_read()?;
        self.count(Counter::RecvRead, read.bytes.into());
        if let Some(memory) = read.memory {
            self.release_memory(memory);
        }
        Some((read.len, read.bytes as usize, read.stamp))
    }

    /// Handles the completion of an RDMA Read, and has its key invalidated. Returns whether the
    /// machine has something to send.
    pub(super) fn read_completed(&self, post: &mut Post, ok: bool, stamp: Option<Stamp>) -> bool {
        let Some(buffer) = post.buffers.incoming(Stage::Busy) else {
            return false;
        };
        let memory = buffer.memory.clone();
        buffer.stage.set(Stage::Invalidating);
        if ok {
            self.flow.lock().machine.read_done(buffer.bytes);
            buffer.stamp = stamp;
        } else {
            buffer.bytes = 0;
        }
        if let Some(memory) = memory {
            post.invalidate_key(&memory, Request::InvalidateRead);
        }
        ok
    }

    /// Handles the invalidation of the oldest buffer that was read into. Any context, without the
    /// spinlocks.
    pub(super) fn read_invalidated(&self) {
        if let Some(buffer) = self.post.lock().buffers.incoming(Stage::Invalidating) {
            buffer.stage.set(Stage::Done);
        }
        self.with_socket(|sk| {
            sk.wake_calls();
            self.notify_reads_done(sk);
        });
    }

    /// Whether no read is in flight; who finds some without waiting for them is notified when they
    /// are done, as readers are. Any context.
    pub(super) fn finds_reads_done(&self) -> bool {
        self.reads_left.store(true, Relaxed);
        // They may just have ended; the other side ends them under the same lock, and then
        // tests the flag.
        let done = self.are_reads_done();
        if done {
            self.reads_left.store(false, Relaxed);
        }
        done
    }

    /// Notifies a reader that left its buffer here that it is free. Any context, without the
    /// spinlocks.
    pub(super) fn notify_reads_done(&self, sk: &Socket) {
        let left = &self.reads_left;
        if left.load(Relaxed) && self.are_reads_done() && left.xchg(false, Relaxed) {
            sk.data_ready();
        }
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

    /// Whether all that was offered is done.
    pub(super) fn are_offers_done(&self) -> bool {
        let post = self.post.lock();
        let mut offered = post.buffers.offered();
        offered.all(|offered| offered.stage == Stage::Done)
    }

    /// Whether the caller that offered should wait no longer: all is done, or `target` bytes
    /// arrived, or a write did not fill its buffer, so that no more is expected.
    pub(super) fn is_offer_due(&self, target: usize) -> bool {
        let post = self.post.lock();
        let (mut done, mut short, mut received) = (true, false, 0usize);
        for offered in post.buffers.offered() {
            done &= offered.stage == Stage::Done;
            if offered.stage > Stage::Busy {
                // CAST: `usize` has at least 32 bits.
                let bytes = offered.bytes as usize;
                received = received.saturating_add(bytes);
                short |= bytes < offered.len;
            }
        }
        done || short || received >= target
    }

    /// Releases the buffers that were offered, and stores in `written` how many bytes each
    /// received, and when, oldest first. False if not all are done. Sleeps; without the spinlocks.
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

    /// Notes that what arrived while buffers were offered was collected. Any context.
    pub(super) fn gathered(&self) {
        self.flow.lock().offers.gathering = false;
    }

    /// Handles the invalidation of the oldest offered buffer whose key is being invalidated. Any
    /// context, without the spinlocks.
    pub(super) fn offer_invalidated(&self) {
        if let Some(offered) = self.post.lock().buffers.invalidating_offer() {
            offered.stage.set(Stage::Done);
        }
        self.with_socket(|sk| sk.wake_calls());
    }
}
