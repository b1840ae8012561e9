// SPDX-License-Identifier: GPL-2.0

//! What an idle connection gives back.
//!
//! The work looks at every connection that has grown ([`Conn::check_idle`]), and has itself run
//! again after `net.sdp.idle_timeout`. Receive buffers grow through the work alone, which arms the
//! timer by itself; a sender that grows its queue, or asks for larger buffers, arms it in
//! `output`.

use crate::{
    sock::{
        conn::{
            Conn,
            Flow, //
        },
        output::FIRST_PIECES,
        ring::Ring,
        settings,
        time::ms, //
    }, //
};

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

impl Conn {
    /// Has a connection that has grown and was idle for `net.sdp.idle_timeout` go back to the
    /// minimum of `net.sdp.rmem`, and its peer to buffers of the size that they had at first: after
    /// one to two of these times. Sleeps; under
    /// [`Connection::setup`](super::conn::Connection::setup).
    pub(super) fn check_idle(&self) {
        let now = self.now();
        let (at, idle) = {
            let long = self.post.lock().tx.capacity() > FIRST_PIECES;
            let flow = &mut *self.flow.lock();
            if !long && !flow.recv.have_grown() && flow.peer_buffers.before.is_none() {
                flow.timers.idle_at = None;
                return;
            }
            match flow.timers.idle_at {
                Some(at) if now < at => (at, false),
                before => {
                    let at = now.saturating_add(self.idle_timeout());
                    flow.timers.idle_at = Some(at);
                    let wrote = core::mem::take(&mut flow.peer_buffers.wrote);
                    if before.is_some() && !wrote {
                        flow.ask_smaller();
                    }
                    (at, flow.recv.take_idle() && before.is_some())
                }
            }
        };
        if idle {
            self.shrink();
        }
        self.work_at(at);
    }

    /// Gives up what an idle connection does not need. Sleeps.
    fn shrink(&self) {
        self.flow.lock().recv.shrink();
        self.wake_reader();
        let Ok(mut spare) = Ring::new(FIRST_PIECES) else {
            return;
        };
        {
            let tx = &mut self.post.lock().tx;
            // A writer that make_place() promised a place still has one: the new ring is empty.
            if tx.is_empty() && tx.capacity() > FIRST_PIECES {
                core::mem::swap(tx, &mut spare);
            }
        }
        drop(spare);
    }

    /// `net.sdp.idle_timeout`, in nanoseconds. Any context.
    pub(super) fn idle_timeout(&self) -> u64 {
        ms(settings::idle_timeout_ms(&self.net))
    }
}
