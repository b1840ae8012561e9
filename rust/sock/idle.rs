// SPDX-License-Identifier: GPL-2.0

//! What an idle connection gives back.
//!
//! The work looks at every connection that has grown ([`Conn::check_idle`]), and has itself run
//! again after `net.sdp.idle_timeout`. Receive buffers grow in a run of the work, which arms the
//! timer by itself, or with one queued; a sender that grows its queue, has a large chunk, or asks
//! for larger buffers, arms it in `output`, and who makes a memory region in `zcopy`.

use crate::{
    rdma::buf::SendBuf,
    sock::{
        conn::{
            Conn,
            Post, //
        },
        flow::Flow,
        output::FIRST_PIECES,
        ring::Ring,
        settings,
        time::ms, //
    }, //
};
use kernel::page::PAGE_SIZE;

impl Flow {
    /// Asks the peer for buffers of the size that they had before this end asked for larger ones.
    fn ask_smaller(&mut self) {
        let machine = &mut self.machine;
        if machine.unsent() == 0 && machine.in_flight() == 0 {
            let Some(size) = self.peer_buffers.before else {
                return;
            };
            if machine.ask_resize(size) || machine.peer_recv_size() <= size {
                self.peer_buffers.before = None;
            }
        }
    }
}

impl Post {
    /// Whether a sender has grown.
    fn has_spare(&self) -> bool {
        let is_large = |chunk: &SendBuf| chunk.size() > PAGE_SIZE;
        self.tx.capacity() > FIRST_PIECES || self.chunk.as_ref().is_some_and(is_large)
    }
}

impl Conn {
    /// Has a connection that has grown and was idle for `net.sdp.idle_timeout`, or for which memory
    /// is short, go back to the minimum of `net.sdp.rmem` and free what it needs when it is used
    /// again; and its peer, once idle, to buffers of the size that they had at first: after one to
    /// two of these times. Sleeps; under [`Connection::setup`](super::conn::Connection::setup).
    pub(super) fn check_idle(&self) {
        let now = self.now();
        let is_short = self.recv_limit().is_none();
        let has_regions = self.has_spare_regions();
        let has_spare = self.post.lock().has_spare() || has_regions;
        let (at, recv_idle, send_idle) = {
            let flow = &mut *self.flow.lock();
            if !has_spare && !flow.recv.have_grown() && flow.peer_buffers.before.is_none() {
                flow.timers.idle_at = None;
                return;
            }
            match flow.timers.idle_at {
                Some(at) if now < at => (at, false, false),
                before => {
                    let at = now.saturating_add(self.idle_timeout());
                    flow.timers.idle_at = Some(at);
                    let wrote = core::mem::take(&mut flow.peer_buffers.wrote);
                    let send_idle = before.is_some() && !wrote;
                    if send_idle {
                        flow.ask_smaller();
                    }
                    (at, flow.recv.take_idle() && before.is_some(), send_idle)
                }
            }
        };
        if recv_idle {
            self.flow.lock().recv.shrink();
            self.wake_reader();
        }
        if send_idle || is_short {
            self.free_send_spare();
        }
        if (send_idle && recv_idle) || is_short {
            self.free_spare_regions();
        }
        self.work_at(at);
    }

    /// Frees what a sender makes again when it needs it. Sleeps.
    fn free_send_spare(&self) {
        let Ok(mut spare) = Ring::new(FIRST_PIECES) else {
            return;
        };
        let chunk = {
            let post = &mut *self.post.lock();
            // A writer that make_place() promised a place still has one: the new ring is empty.
            if post.tx.is_empty() && post.tx.capacity() > FIRST_PIECES {
                core::mem::swap(&mut post.tx, &mut spare);
            }
            post.chunk.take_if(|chunk| chunk.size() > PAGE_SIZE)
        };
        drop(spare);
        if chunk.is_some() {
            drop(chunk);
            self.uncharge_chunk();
        }
    }

    /// `net.sdp.idle_timeout`, in nanoseconds. Any context.
    pub(super) fn idle_timeout(&self) -> u64 {
        ms(settings::idle_timeout_ms(&self.net))
    }
}
