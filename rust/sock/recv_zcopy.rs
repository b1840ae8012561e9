// SPDX-License-Identifier: GPL-2.0

//! Receiving without a copy: what the peer advertises is fetched into the caller's pages by RDMA
//! Read, or these are offered for the peer to write to.

use crate::{
    mm::pages::{
        self,
        Memlock,
        Pages, //
    },
    net::{
        msg::flags,
        sock::Timeout,
        wait::OpenGuard, //
    },
    prelude::*,
    proto::Machine,
    rdma::mr::Access,
    sock::{
        buffers::BUFFERS,
        conn::Conn,
        inq::{
            fetchable,
            unread, //
        },
        mark::distance,
        recv_buffers::Unread,
        recv_call::Receiving,
        retry_buffer::RetryBuffer,
        ring::Ring,
        stats::Counter,
        types::Sdp,
        zcopy::RETURN_MS, //
    }, //
};
use kernel::sync::atomic::Relaxed;

/// The most bytes that one RDMA Read fetches. Each is reported when it completes, so that a peer
/// that waits sees progress; the next is in flight by then.
const FETCH_MAX: usize = 256 << 10;

/// How long one RDMA Read may take, in milliseconds.
const READ_MS: u32 = 60_000;

impl Receiving<'_, '_, '_> {
    /// Continues a call that left its buffer here. Fails with `EBUSY` if this is another call, and
    /// with `EAGAIN` while the fabric uses the buffer.
    pub(super) fn resume(&mut self) -> Result {
        self.wait_iolock()?;
        let (addr, len) = (pages::dest_address(self.msg.data), self.msg.data.len());
        let poll_state = self.sk.poll_state();
        let retry = poll_state.lock().retry_recv.clone();
        let is_own =
            |retry: &RetryBuffer| retry.is_of(addr, len) && self.msg.flags & flags::PEEK == 0;
        let Some(retry) = retry.filter(is_own) else {
            return check_retry(self.s, self.conn);
        };
        if !self.may_sleep && !self.conn.finds_reads_done() {
            return Err(EAGAIN);
        }
        self.msg.data.advance(retry.lent);
        // Dropped without the spinlock.
        let _retry = {
            let mut poll_state = poll_state.lock();
            poll_state.recv_iolock.acquire();
            poll_state.retry_recv.take()
        };
        self.has_iolock = true;
        self.finish();
        self.release_iolock();
        Ok(())
    }

    /// Whether the caller's memory is to be offered to the peer: it is large, nothing is there to
    /// be read, what was received last arrived without a copy, and the call need not be filled
    /// (B-46).
    pub(super) fn may_offer(&mut self) -> bool {
        // CAST: `usize` has at least 32 bits.
        let threshold = self.s.options.zcopy_threshold as usize;
        let partial = flags::PEEK | flags::TRUNC | flags::WAITALL;
        self.s.stream.last_was_zcopy
            && threshold > 0
            && self.copied == 0
            && self.msg.flags & partial == 0
            && self.may_sleep
            && pages::dest_extent(self.msg.data) >= threshold
            && self.conn.takes_offers()
            && unread(self.s) == 0
    }

    /// Offers the caller's memory, and waits until the peer has written to it or the caller waits
    /// no longer. Returns whether it was offered. Fails as a wait does.
    pub(super) fn offer(&mut self) -> Result<bool> {
        let (conn, target) = (self.conn, self.target);
        // CAST: `usize` has at least 32 bits.
        let least = self.s.options.zcopy_threshold as usize;
        let room = pages::dest_extent(self.msg.data);
        let mut size = conn.offer_size(room, least);
        let Ok(mut parts) = KVec::with_capacity(BUFFERS, GFP_KERNEL) else {
            return Ok(false);
        };
        while parts.is_empty()
            || (pages::dest_extent(self.msg.data) >= size && !conn.is_offer_due(target))
        {
            match self.offer_part(size) {
                // There is room for as many as can be offered.
                Ok(part) => drop(parts.push_within_capacity(part)),
                // Messages may be as long as that.
                Err(_) if parts.is_empty() && size < room => size = room,
                Err(_) => break,
            }
        }
        if parts.is_empty() {
            self.s.stream.last_was_zcopy = false;
            return Ok(false);
        }
        self.acquire_iolock();
        let sk = self.sk;
        let woken = self.s.wait_data(&mut self.timeout, |s| {
            conn.is_offer_due(target)
                || conn.recv_shut.load(Relaxed)
                || !s.has(conn)
                || sk.has_error()
        });
        if !conn.are_offers_done() {
            conn.with(Machine::cancel_offers);
            conn.wait_return(self.s, RETURN_MS, || conn.are_offers_done());
        }
        let received = self.gather(&parts);
        let asked = parts.iter().map(Pages::len).fold(0, usize::saturating_add);
        self.msg.revert(asked.saturating_sub(received));
        self.copied = self.copied.saturating_add(received);
        self.s.stream.last_was_zcopy = received > 0;
        self.s.stream.receives = self.s.stream.receives.wrapping_add(u64::from(received > 0));
        self.release_iolock();
        match woken {
            // A message that took the offer back is there to be read.
            Err(_) if self.copied == 0 && unread(self.s) == 0 => {
                self.timeout.check(woken).map(|()| true)
            }
            _ => Ok(true),
        }
    }

    /// Offers up to so many bytes of the caller's memory. Takes none of it on failure: of
    /// [`Pages::of_dest`], of [`Conn::register`], or with `EAGAIN` where it cannot be offered now.
    fn offer_part(&mut self, size: usize) -> Result<Pages> {
        let conn = self.conn;
        let before = self.msg.data.len();
        let max_pages = conn.max_buffer_pages();
        let offered =
            Pages::of_dest(self.msg.data, size, max_pages, Memlock::Task).and_then(|part| {
                let memory = conn.register(part.clone(), Access::RemoteWrite)?;
                conn.offer_memory(memory).map_err(|_| EAGAIN)?;
                Ok(part)
            });
        if offered.is_err() {
            self.msg.revert(before.saturating_sub(self.msg.data.len()));
        }
        offered
    }

    /// Moves together what arrived while `parts` of the caller's memory were offered, which are
    /// done. Returns the number of bytes.
    ///
    /// A part that the peer did not fill leaves a gap (`B-47`), and a message with payload takes
    /// the place of the part that it used up (`B-48`). What the peer wrote behind these is moved
    /// within the pages, since the program may have unmapped them; behind the mark it is kept for
    /// later calls.
    fn gather(&mut self, parts: &[Pages]) -> usize {
        let conn = self.conn;
        let mut written = [(0, None); BUFFERS];
        let written = written.get_mut(..parts.len()).unwrap_or(&mut []);
        while !conn.take_offered(written) {
            // The connection is being torn down, which releases the memory.
            self.s.wait_through(Timeout::FOREVER, |s| {
                conn.has_returned(s, || conn.are_offers_done())
            });
        }
        let inline = self.sk.is_oob_inline();
        let mark = match self.s.has(conn) {
            // Without memory for all, the first of it is there, which is what is needed.
            true => self.s.stream.take_over(conn, self.sk),
            false => Err(ENOTCONN),
        };
        let mark = mark.ok().and_then(|upcoming| upcoming.mark);
        let ends = written.iter().rposition(|(bytes, _)| *bytes > 0);
        let used = ends.map_or(0, |last| last.saturating_add(1));
        let (mut from, mut to, mut copied) = (0usize, 0usize, 0usize);
        let mut stopped = false;
        for (index, ((bytes, stamp), part)) in written.iter().zip(parts).take(used).enumerate() {
            let at = self.s.stream.consumed;
            let n = match *bytes {
                // It is no longer than the part (`B-46`).
                0 => {
                    // Another thread may have disconnected the socket.
                    let Some(message) = self.s.stream.rx.front_mut() else {
                        break;
                    };
                    let whole = message.len();
                    let to_mark = distance(mark, at).filter(|bytes| *bytes < whole);
                    if let Some(bytes) = to_mark.filter(|bytes| *bytes > 0 || to > 0) {
                        // Without memory for what is behind it the call goes on through the mark.
                        let used = written.get(..used).unwrap_or(&[]);
                        let stream = &mut self.s.stream;
                        stopped = conn.keep_behind(stream, parts, used, index, bytes).is_ok();
                    }
                    let Some(message) = self.s.stream.rx.front_mut() else {
                        break;
                    };
                    let n = match to_mark {
                        Some(bytes) if stopped || !inline => bytes,
                        _ => whole,
                    };
                    let n = store(parts, to, message, n);
                    if n > 0 {
                        self.stamp = message.stamp.or(self.stamp);
                    }
                    self.s.stream.consume(conn, n);
                    if n < whole && !stopped {
                        // The urgent byte, which is not read in line.
                        self.s.stream.consume(conn, whole.saturating_sub(n));
                    }
                    copied = copied.saturating_add(n);
                    n
                }
                n => {
                    self.stamp = stamp.or(self.stamp);
                    if from > to {
                        pages::move_down(parts, from, to, n);
                        copied = copied.saturating_add(n);
                    }
                    n
                }
            };
            to = to.saturating_add(n);
            if stopped {
                break;
            }
            from = from.saturating_add(part.len());
        }
        if !stopped {
            conn.pass_mark(mark, self.s.stream.consumed);
        }
        conn.gathered();
        match (&*written, parts) {
            ([(bytes, _)], [part]) => conn.learn_from_one(*bytes, *bytes == part.len()),
            (written, _) => {
                let helped = used > 1 && copied == 0;
                conn.learn_from_several(written.iter().map(|(bytes, _)| *bytes), helped);
            }
        }
        conn.count(Counter::RecvCopied, copied as u64);
        conn.count(Counter::RecvWritten, to.saturating_sub(copied) as u64);
        to
    }

    /// Fetches what the peer advertises, or declines it. Returns whether something was fetched.
    /// Fails with `EAGAIN` where the call leaves its buffer here.
    pub(super) fn fetch(&mut self) -> Result<bool> {
        let advertised = fetchable(self.s);
        let room = pages::dest_extent(self.msg.data).min(advertised);
        // CAST: `usize` has at least 32 bits.
        let threshold = self.s.options.zcopy_threshold as usize;
        let wanted = threshold > 0
            && (room >= threshold || room == advertised)
            && self.msg.flags & (flags::PEEK | flags::TRUNC) == 0
            && (self.may_sleep
                || (self.s.options.zcopy_retry && pages::dest_address(self.msg.data) != 0));
        if !wanted {
            self.conn.decline();
            return Ok(false);
        }
        let room = self.msg.data.len();
        let result = self.start().and_then(|()| {
            if !self.may_sleep && !self.conn.finds_reads_done() {
                let lent = room.saturating_sub(self.msg.data.len());
                self.msg.revert(lent);
                let addr = pages::dest_address(self.msg.data);
                let retry = RetryBuffer::new(addr, room, lent);
                self.sk.poll_state().lock().retry_recv = Some(retry);
                return Err(EAGAIN);
            }
            Ok(self.finish())
        });
        self.release_iolock();
        result
    }

    /// Starts as many RDMA Reads as there is memory and room for, or declines what is advertised.
    fn start(&mut self) -> Result {
        let (conn, after) = (self.conn, self.s.stream.consumed);
        loop {
            let next = conn.readable().filter(|next| next.after == after);
            // CAST: `usize` has at least 32 bits.
            let advertised = next.map_or(0, |next| next.region.len as usize);
            if advertised == 0 || self.msg.data.is_empty() || !conn.has_read_place() {
                return Ok(());
            }
            let before = self.msg.data.len();
            let max = advertised.min(FETCH_MAX);
            let max_pages = conn.max_buffer_pages();
            let pages = Pages::of_dest(self.msg.data, max, max_pages, Memlock::Task);
            let taken = before.saturating_sub(self.msg.data.len());
            let memory = conn.register_pinned(pages, Access::ReadSink);
            let refused = match memory {
                Ok(memory) => {
                    self.acquire_iolock();
                    match conn.read_memory(memory, after) {
                        Ok(()) => continue,
                        // The peer has cancelled it meanwhile.
                        Err(memory) => {
                            drop(memory);
                            None
                        }
                    }
                }
                Err(refused) => Some(refused),
            };
            self.msg.revert(taken);
            match refused {
                _ if conn.is_reading() => return Ok(()),
                // There is no QP any more.
                Some((_, e)) if e == ENOTCONN => return Ok(()),
                Some((counter, _)) => {
                    conn.count(counter, 1);
                    conn.decline();
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    /// Waits until all RDMA Reads that were started are done: the device uses the caller's memory
    /// until then. Returns whether they brought anything.
    fn finish(&mut self) -> bool {
        let conn = self.conn;
        let (mut any, mut missing) = (false, 0usize);
        while conn.is_reading() {
            if let Some((asked, bytes, stamp)) = conn.take_read() {
                if missing == 0 {
                    self.copied = self.copied.saturating_add(bytes);
                    self.stamp = stamp.or(self.stamp);
                    any |= bytes > 0;
                    missing = asked.saturating_sub(bytes);
                } else {
                    // An earlier one failed and left a gap: the connection has failed.
                    missing = missing.saturating_add(asked);
                }
                continue;
            }
            conn.wait_return(self.s, READ_MS, || conn.is_read_done());
        }
        self.msg.revert(missing);
        self.s.stream.last_was_zcopy |= any;
        self.s.stream.receives = self.s.stream.receives.wrapping_add(1);
        any
    }
}

/// Stores the first `len` bytes of a message from byte `to` of `parts` on. Returns how many there
/// was room for.
fn store(parts: &[Pages], to: usize, message: &Unread, len: usize) -> usize {
    let mut stored = 0usize;
    while stored < len {
        let bytes = message.bytes(stored);
        let bytes = bytes.get(..len.saturating_sub(stored)).unwrap_or(bytes);
        let n = pages::store(parts, to.saturating_add(stored), bytes);
        stored = stored.saturating_add(n);
        if n < bytes.len() {
            break;
        }
    }
    stored
}

/// Takes back a buffer that a call left here (`SDP_ZCOPY_RETRY`), when the socket is closed or
/// disconnected. That breaks the connection. Sleeps.
pub(super) fn cancel_retry(s: &mut OpenGuard<'_, Sdp>, conn: &Conn) {
    let retry = s.sock().poll_state().lock().retry_recv.take();
    if retry.is_some() {
        conn.count(Counter::CancelsRetry, 1);
        conn.fail(ECONNRESET);
        while conn.is_reading() {
            if conn.take_read().is_none() {
                s.wait_through(Timeout::FOREVER, |_| conn.is_read_done());
            }
        }
    }
}

/// Fails with `EBUSY` while a buffer is left here. One of a process that is gone is taken back:
/// what it received is lost, and so the connection. Sleeps.
pub(super) fn check_retry(s: &mut OpenGuard<'_, Sdp>, conn: &Conn) -> Result {
    let retry = s.sock().poll_state().lock().retry_recv.clone();
    match retry {
        None => return Ok(()),
        Some(retry) if !retry.is_abandoned() => return Err(EBUSY),
        Some(_) => {}
    }
    cancel_retry(s, conn);
    // What arrived behind is not to be taken for what is lost.
    conn.drop_unread(core::mem::replace(&mut s.stream.rx, Ring::empty()));
    Ok(())
}
