// SPDX-License-Identifier: GPL-2.0

//! Time stamps of what a connection has sent ([`super::stamps`]), for its program.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::stamp::TxStamps,
    sock::{
        conn::Conn,
        ring::Ring,
        stamps::{
            self,
            SentStamps, //
        }, //
    }, //
};
use kernel::sync::atomic::Relaxed;

impl Conn {
    /// Makes room for the stamps of another call. Where there is no memory for it not all are
    /// reported. Sleeps.
    pub(super) fn reserve_stamp(&self) {
        if self.flow.lock().stamps.awaited.len() < stamps::MOST {
            let _ = Ring::reserve(&self.flow, |flow| &mut flow.stamps.awaited);
        }
    }

    /// Has these stages of the byte that ends the stream now reported. Under
    /// [`Connection::flow`](super::conn::Connection::flow), which guards `stamps`.
    pub(super) fn await_stamp(&self, stamps: &mut SentStamps, end: u64, stages: TxStamps) {
        if !stages.is_empty() {
            stamps.add(end, stages);
            self.awaits_stamps.store(true, Relaxed);
        }
    }

    /// Has these stages of the last byte that was written reported, if none are yet: its call has
    /// ended early. Any context, without the spinlocks, as for those that follow.
    pub(super) fn stamp_last(&self, stages: TxStamps) {
        {
            let flow = &mut *self.flow.lock();
            let end = flow.machine.written();
            if flow.stamps.last == end {
                return;
            }
            self.await_stamp(&mut flow.stamps, end, stages);
        }
        self.report_stamps();
    }

    /// Begins to number the bytes: with the next one that is written, or the first that has not
    /// reached the peer.
    pub(super) fn start_stamp_ids(&self, from_next: bool) {
        let flow = &mut *self.flow.lock();
        flow.stamps.first = match from_next {
            true => flow.machine.written(),
            false => flow.machine.arrived_bytes(),
        };
    }

    /// Reports the stages that are due. The socket is held meanwhile, so that they come in order.
    #[cold]
    pub(super) fn report_stamps(&self) {
        self.with_socket(|sk| {
            while let Some((stage, number)) = {
                let flow = &mut *self.flow.lock();
                let next = flow.stamps.next(&flow.machine);
                self.awaits_stamps.store(!flow.stamps.is_idle(), Relaxed);
                next
            } {
                let stats = sk.wants_stats().then(|| {
                    let queued = u32::try_from(self.queued()).unwrap_or(u32::MAX);
                    (self.info(), queued)
                });
                sk.put_sent_stamp(stage, number, stats);
            }
        });
    }
}
