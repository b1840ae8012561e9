// SPDX-License-Identifier: GPL-2.0

//! Zero copy on a connection: the buffers that callers send.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::stamp::TxStamps,
    prelude::*,
    proto::{
        BufferId,
        Mode, //
    },
    rdma::mr::Memory,
    sock::{
        buffers::{
            Call,
            Outgoing,
            Stage,
            Waiter, //
        },
        conn::Conn,
        stats::Counter,
        zcopy::region, //
    }, //
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

impl Conn {
    /// Whether another buffer can be sent.
    pub(super) fn has_buffer_place(&self) -> bool {
        self.post.lock().buffers.has_place()
    }

    /// Queues all of `memory`, which the peer may read, to be sent behind what was written; these
    /// stages of its last byte are to be reported. [`Self::release_finished`] releases it. Gives it
    /// back if it cannot be taken now. Process context, without the spinlocks.
    pub(super) fn send_memory(
        &self,
        memory: Arc<Memory>,
        waiter: Waiter,
        stages: TxStamps,
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
                let id = machine.send_buffer(region(&memory));
                if id.is_some() {
                    self.await_stamp(&mut flow.stamps, machine.written(), stages);
                }
                id
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

    /// Releases the sent buffers that are done, which may make room for writers. Sleeps; without
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

    /// Begins a call that will wait for its buffers, of which it has none yet. Calls take turns by
    /// the I/O lock.
    pub(super) fn begin_call(&self) {
        self.post.lock().buffers.call = Call::default();
    }

    /// How far the buffers of the call are, after releasing those that are done. Sleeps; without
    /// the spinlocks.
    pub(super) fn call(&self) -> Call {
        self.release_finished();
        self.post.lock().buffers.call
    }

    /// Whether the fabric has finished with the buffers of the call. Any context, without the
    /// spinlocks.
    pub(super) fn is_call_done(&self) -> bool {
        self.post.lock().buffers.is_call_done()
    }

    /// Handles the invalidation of a buffer that was sent. Any context, without the spinlocks.
    pub(super) fn send_invalidated(&self, id: BufferId) {
        let is_call = {
            let mut post = self.post.lock();
            let Some(buffer) = post.buffers.outgoing(id) else {
                return;
            };
            buffer.stage.set(Stage::Done);
            buffer.waiter.is_call()
        };
        if is_call {
            self.with_socket(|sk| sk.wake_calls());
        }
        // A call that left it here is notified by poll, once it is released.
        if !is_call || self.no_room.load(Relaxed) {
            self.queue();
        }
    }
}
