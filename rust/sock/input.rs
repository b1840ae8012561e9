// SPDX-License-Identifier: GPL-2.0

//! Input: the messages that come. Payload goes to the reader, and its buffer back to the device
//! ([`super::recv_refill`]).
//!
//! Small messages, and longer ones when unread payload takes up much memory, share a buffer, so
//! that the peer does not run out of credit long before the receive buffer is full.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    prelude::*,
    proto::Mode,
    rdma::buf::RecvBuf,
    sock::{
        conn::Conn,
        flow::Flow,
        mark::Upcoming,
        owner::recv_limit,
        recv_buffers::{
            RecvTerms,
            Unread, //
        },
        ring::Ring,
        settings,
        types::Socket, //
    }, //
};
use core::{
    ops::Range,
    sync::atomic::Ordering, //
};

/// The longest payload that is always copied to the buffer of the message before it, in bytes, as
/// far as there is room.
const SMALL: usize = 1024;

impl Flow {
    /// Takes in one message, where `unread` bytes are unread. Gives the buffer back if it holds
    /// nothing for the reader, and the number of bytes that arrived for the reader.
    fn take_in(
        &mut self,
        buf: RecvBuf,
        unread: usize,
        terms: RecvTerms,
    ) -> (Option<RecvBuf>, usize) {
        let received = self.machine.received_head(buf.bytes(0), buf.len());
        let has_payload = matches!(&received, Ok(received) if !received.payload.is_empty());
        let ended = has_payload
            || self.machine.readable().is_some()
            || self.machine.receive_mode() != Mode::Pipelined;
        if self.offers.open && ended {
            // A message with payload uses up what was offered; what was not goes back.
            self.machine.retract_offers();
            self.offers.open = false;
        }
        if self.offers.gathering {
            // The message may report what the peer wrote.
            self.offer_stamp = terms.stamp;
        }
        if let Ok(received) = &received {
            if received.urgent || received.urgent_pending {
                let last = received.payload.end.saturating_sub(1);
                self.note_urgent(received, buf.bytes(last).first().copied(), unread);
            }
        }
        match received {
            Ok(received) if !received.payload.is_empty() => {
                if unread == 0 {
                    self.recv.note_read();
                }
                let mut next = Unread {
                    buf,
                    is_copy: false,
                    range: received.payload,
                    stamp: terms.stamp,
                };
                let added = next.len();
                if self.may_join(added, terms.limit, unread.saturating_add(added)) {
                    if let Some(last) = self.rx.back_mut() {
                        last.join(&mut next);
                    }
                }
                if next.is_empty() {
                    return (Some(next.buf), added);
                }
                // The ring has room for every buffer.
                match self.rx.push(next) {
                    Ok(()) => (None, added),
                    Err(lost) => (Some(lost.buf), added.saturating_sub(lost.range.len())),
                }
            }
            // A violation is reported by the machine's events.
            Ok(_) | Err(_) => (Some(buf), 0),
        }
    }

    /// Whether `len` bytes, of `unread` in all, are to be copied behind those before them. While
    /// offers are gathered each message keeps its own length (`B-46`).
    fn may_join(&self, len: usize, limit: Option<usize>, unread: usize) -> bool {
        let limit = self.options.clamp(limit.unwrap_or(0));
        (len <= SMALL || self.recv.are_sparse(limit, unread)) && !self.offers.gathering
    }

    /// Copies the first payload that no reader has taken over behind the last that one has, as far
    /// as that has room. Gives its buffer back if there was room for all of it.
    fn join_taken(
        &mut self,
        last: &mut Unread,
        limit: Option<usize>,
        unread: usize,
    ) -> Option<Unread> {
        let len = self.rx.get(0)?.len();
        if !self.may_join(len, limit, unread) {
            return None;
        }
        let first = self.rx.front_mut()?;
        last.join(first);
        if first.is_empty() {
            self.rx.pop()
        } else {
            None
        }
    }
}

impl Conn {
    /// Takes in one message of [`Connection::flow`](super::conn::Connection), on the terms of
    /// [`Self::recv_terms`]. Gives the buffer back if it holds nothing for the reader. Any context.
    pub(super) fn take_in(
        &self,
        flow: &mut Flow,
        buf: RecvBuf,
        terms: RecvTerms,
    ) -> Option<RecvBuf> {
        let (recycle, added) = flow.take_in(buf, self.unread(), terms);
        self.unread.fetch_add(added, Ordering::Relaxed);
        recycle
    }

    /// Payload bytes of received messages that were not read. Under
    /// [`Connection::flow`](super::conn::Connection) it goes with what arrived: the others may only
    /// have been read meanwhile. Any context.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Moves the payload that has come to the queue of the reader, whose socket `sk` is locked.
    /// Returns what comes next, and which bytes of it the reader is not to get. Sleeps. Fails with
    /// `ENOMEM` where it cannot move anything; the rest is moved later.
    pub(super) fn take_unread(
        &self,
        sk: &Socket,
        to: &mut Ring<Unread>,
    ) -> Result<(Upcoming, Range<u64>)> {
        let (arrived, keeps_up) = {
            let mut flow = self.flow.lock();
            (flow.rx.len(), flow.recv.take_caught_up())
        };
        if keeps_up {
            sk.grow_rcvbuf(settings::rmem_max(&self.net));
        }
        if to.capacity() < to.len().saturating_add(arrived) {
            match Ring::new(to.len().saturating_add(arrived)) {
                Ok(longer) => drop(to.lengthen(longer)),
                Err(e) if to.is_full() => return Err(e),
                Err(_) => {}
            }
        }
        let limit = match to.is_empty() {
            true => None,
            false => recv_limit(sk),
        };
        let mut flow = self.flow.lock();
        // A reader that only looks takes over each message as it comes.
        let joined = to
            .back_mut()
            .and_then(|last| flow.join_taken(last, limit, self.unread()));
        to.append(&mut flow.rx);
        let upcoming = Upcoming {
            advertised: flow.machine.readable(),
            mark: flow.urgent.mark(),
        };
        let skip = flow.skip.clone();
        drop(flow);
        if let Some(joined) = joined {
            self.finish_unread(joined);
        }
        Ok((upcoming, skip))
    }

    /// Whether some payload was not taken over yet. Any context.
    pub(super) fn has_more(&self) -> bool {
        !self.flow.lock().rx.is_empty()
    }

    /// Posts the buffer of payload that was read, which gives the peer credit; frees that of a
    /// copy. Sleeps; without the locks of the connection.
    pub(super) fn finish_unread(&self, unread: Unread) {
        if unread.is_copy {
            self.free_unread(unread);
            return self.uncharge_unused();
        }
        self.recycle(unread.buf);
        let (lacks, starved) = {
            let recv = &self.flow.lock().recv;
            (recv.lacks(), recv.starved)
        };
        if lacks {
            self.reclaim();
        }
        if lacks || starved {
            self.adjust_recv_buffers();
        }
        self.kick();
    }

    /// Frees what its socket will not read any more: what a reader had `taken` over, and what none
    /// had. Sleeps; without the locks of the connection.
    pub(super) fn drop_unread(&self, mut taken: Ring<Unread>) {
        let mut rx = {
            let mut flow = self.flow.lock();
            self.unread.store(0, Ordering::Relaxed);
            core::mem::replace(&mut flow.rx, Ring::empty())
        };
        while let Some(unread) = taken.pop().or_else(|| rx.pop()) {
            self.free_unread(unread);
        }
        self.uncharge_unused();
    }

    /// Frees payload, and does not uncharge it. Any context, without
    /// [`Connection::flow`](super::conn::Connection) and the locks after it.
    pub(super) fn free_unread(&self, unread: Unread) {
        let pages = unread.buf.page_count();
        let recv = &mut self.flow.lock().recv;
        match unread.is_copy {
            true => recv.remove_copy(pages),
            false => recv.remove(pages),
        }
    }
}
