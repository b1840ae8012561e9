// SPDX-License-Identifier: GPL-2.0

//! The receive buffers of a connection: how many there are, of what size, and the unread payload in
//! them. Guarded by [`Connection::flow`](super::conn::Connection::flow).
//!
//! Documentation/architecture.rst says what `SO_RCVBUF` means for them. What the kernel keeps of
//! it, twice what the program has set, is the limit here. The peer can send half of that however
//! long its messages are:
//!
//! - Once unread payload takes up about half of the limit, and fills less than half of what it
//!   takes up, messages are moved together without gaps ([`RecvBuffers::are_sparse`]). Until then
//!   nothing but small ones is copied, and a reader that keeps up sees no more of that.
//! - A peer sends no payload on its last credits (`B-18`), so up to [`FEW`] buffers are of no use.
//!   While less than half of the limit is unread, [`FIRST`] may be beyond it
//!   ([`RecvBuffers::most`]).
//!
//! When no buffer can be added, those with payload take up more than the limit, less a page.
//! Nothing is moved together while they take up less than half of it, less a buffer and a page, or
//! their payload is half of what they and these take up. From then on all but the last are full: so
//! half of the limit is unread.

use crate::{
    net::{
        pipe::Slice,
        stamp::Stamp, //
    },
    prelude::*,
    rdma::{
        buf::{
            RecvBuf,
            MAX_RECV_PAGES, //
        },
        device::Device, //
    },
    sock::{
        settings,
        types::Net, //
    },
};
use core::ops::Range;
use kernel::page::PAGE_SIZE;

/// How many buffers a connection starts with, and always has.
pub(super) const FIRST: u16 = crate::proto::DEPTH_MIN;

/// With at most this many buffers posted, a credit update would not help a peer that is short of
/// credit; with more, one is due.
pub(super) const FEW: u16 = 3;

/// How many are posted however much is unread, for messages without payload: a peer that gets no
/// credit cannot give any, so that nothing could be sent to it.
const LEAST: u16 = 2;

/// The pause before memory is asked for again by a connection whose peer is short of credit for
/// want of it, in milliseconds.
pub(super) const GROW_AGAIN_MS: u32 = 1000;

/// The pause before an allocation or a mapping that failed is tried again, in milliseconds.
pub(super) const RETRY_MS: u32 = 100;

/// Received payload that its reader has not finished.
pub(super) struct Unread {
    /// The buffer that it arrived in.
    pub(super) buf: RecvBuf,
    /// It was copied there, from memory that the peer wrote to: the buffer is none of those that
    /// are posted.
    pub(super) is_copy: bool,
    /// The bytes of the buffer which are still to be read.
    pub(super) range: Range<usize>,
    /// When the last of them arrived, where the program has asked.
    pub(super) stamp: Option<Stamp>,
}

impl Unread {
    /// How many bytes are still to be read.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether all was read.
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The unread bytes after the first `skip`, as far as they lie in one page.
    pub(super) fn bytes(&self, skip: usize) -> &[u8] {
        self.buf.bytes(self.range.start.saturating_add(skip))
    }

    /// Counts the first `n` bytes as read.
    pub(super) fn advance(&mut self, n: usize) {
        self.range.start = self.range.start.saturating_add(n).min(self.range.end);
    }

    /// Copies as much of `next`, which follows it, behind its payload as there is room for. The
    /// rest moves to the front of its own buffer, so that others find room behind that.
    pub(super) fn join(&mut self, next: &mut Self) {
        let n = self.buf.append(&next.buf, next.range.clone());
        if n == 0 {
            return;
        }
        self.range.end = self.buf.len();
        self.stamp = next.stamp.or(self.stamp);
        next.advance(n);
        if !next.is_empty() && next.buf.keep(next.range.clone()) {
            next.range = 0..next.buf.len();
        }
    }

    /// At most `max` of the bytes that [`Self::bytes`] returns, in their own page. Sleeps. Fails as
    /// [`RecvBuf::share`] does.
    pub(super) fn share(&mut self, max: usize) -> Result<Slice> {
        self.buf.share(self.range.start, max)
    }
}

/// What the owner of a connection wants of messages that come.
#[derive(Clone, Copy)]
pub(super) struct RecvTerms {
    /// The bytes that receive buffers may take (`SO_RCVBUF`); none under memory pressure, or
    /// without an owner: they should shrink.
    pub(super) limit: Option<usize>,
    /// The time, if the program has asked when bytes come.
    pub(super) stamp: Option<Stamp>,
}

/// Bytes that a buffer takes in the queues of the connection and of its reader.
const QUEUES_EACH: usize = 2 * size_of::<Option<Unread>>();

/// The limits of the receive buffers of a connection.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How many may be posted.
    pub(super) count: u16,
    /// Pages of a buffer.
    pub(super) pages: usize,
    /// Bytes of buffers that are kept under memory pressure, or when the connection is idle.
    keep: usize,
}

impl Limits {
    /// Before the device is known.
    pub(super) const NONE: Self = Self {
        count: 0,
        pages: 0,
        keep: 0,
    };

    /// The settings of `net`, as far as `device` can meet them. Any context.
    pub(super) fn new(net: &Net, device: &Device) -> Self {
        let count = settings::recv_buffers(net).min(device.max_qp_wr().saturating_sub(1));
        // CAST: `usize` has at least 32 bits.
        let size = settings::recv_buffer_size(net) as usize;
        let pages = size.div_ceil(PAGE_SIZE).min(device.max_recv_sge() as usize);
        Self {
            count: u16::try_from(count).unwrap_or(u16::MAX).max(FIRST),
            pages: pages.clamp(1, MAX_RECV_PAGES),
            // CAST: As above.
            keep: settings::rmem_min(net) as usize,
        }
    }

    /// Roughly the pages that it takes to queue them: rxe has 128 bytes for a completion, and 40
    /// and 16 for each page for a receive, the QP has a slot for each, and so have the queues of
    /// the connection and of the reader.
    pub(super) fn queue_pages(self) -> usize {
        let each = self
            .pages
            .saturating_mul(16)
            .saturating_add(192)
            .saturating_add(QUEUES_EACH);
        each.saturating_mul(self.count.into()).div_ceil(PAGE_SIZE)
    }

    /// Bytes of the largest buffer.
    pub(super) fn size(self) -> u32 {
        u32::try_from(self.pages.saturating_mul(PAGE_SIZE)).unwrap_or(u32::MAX)
    }
}

/// How many buffers there are, and of what size.
pub(super) struct RecvBuffers {
    /// How many may be posted, and of what size.
    pub(super) limits: Limits,
    /// Pages of a buffer that is made now.
    pub(super) pages_each: usize,
    /// How many there should be.
    pub(super) wanted: u16,
    /// How many there are: posted, or with unread payload.
    pub(super) count: u16,
    /// Pages of all of them, and of copies.
    pages: usize,
    /// Pages of the queues of unread payload, beyond [`Limits::queue_pages`].
    queues: usize,
    /// How many are posted.
    pub(super) posted: u16,
    /// Pages of these.
    posted_pages: usize,
    /// How many of the posted ones, the oldest, have the former size: the peer is notified of the
    /// new one when none is left (`B-64`).
    pub(super) smaller: u16,
    /// The peer asked for the present size, and has not been notified of it yet.
    pub(super) resizing: bool,
    /// Messages that arrived since [`Self::take_idle`] was last called.
    arrivals: u16,
    /// The peer was short of credit because of `SO_RCVBUF` when it last was.
    limited: bool,
    /// The reader has read everything since.
    caught_up: bool,
    /// The peer is short of credit for want of memory.
    pub(super) starved: bool,
}

impl RecvBuffers {
    /// No buffers yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pages_each: 1,
            wanted: 0,
            count: 0,
            pages: 0,
            queues: 0,
            posted: 0,
            posted_pages: 0,
            smaller: 0,
            resizing: false,
            arrivals: 0,
            limited: false,
            caught_up: false,
            starved: false,
        }
    }

    /// Counts a buffer that is about to be made, and returns the pages that it is to have.
    pub(super) fn add(&mut self) -> usize {
        self.count = self.count.saturating_add(1);
        self.pages = self.pages.saturating_add(self.pages_each);
        self.pages_each
    }

    /// Uncounts a buffer of `pages` pages, which was not made, or was freed.
    pub(super) fn remove(&mut self, pages: usize) {
        self.count = self.count.saturating_sub(1);
        self.pages = self.pages.saturating_sub(pages);
    }

    /// Counts the pages of a buffer for a copy that is about to be made, and returns how many it is
    /// to have.
    pub(super) fn add_copy(&mut self) -> usize {
        self.pages = self.pages.saturating_add(self.pages_each);
        self.pages_each
    }

    /// Uncounts a buffer of `pages` pages for a copy, which was not made, or was freed.
    pub(super) fn remove_copy(&mut self, pages: usize) {
        self.pages = self.pages.saturating_sub(pages);
    }

    /// Counts one of `pages` pages that is about to be posted. False where it is to be freed: it
    /// has not the present size, or there are too many.
    pub(super) fn post(&mut self, pages: usize) -> bool {
        if self.posted >= self.limits.count {
            // Those that were added while many held payload are too many now.
            let rest = self.count.saturating_sub(1).max(self.limits.count);
            self.wanted = self.wanted.min(rest);
            return false;
        }
        // Those that hold unread payload may be too many for long, and a peer that gets no credit
        // cannot even say that it has read.
        let are_enough = self.posted >= FIRST;
        if are_enough && self.count > self.wanted.max(FIRST) {
            return false;
        }
        if pages != self.pages_each {
            if !are_enough {
                // Another takes its place.
                self.wanted = self.wanted.max(self.count);
            }
            return false;
        }
        self.posted = self.posted.saturating_add(1);
        self.posted_pages = self.posted_pages.saturating_add(pages);
        true
    }

    /// Uncounts one of `pages` pages that is not posted any more, or was not.
    pub(super) fn unpost(&mut self, pages: usize) {
        self.posted = self.posted.saturating_sub(1);
        self.posted_pages = self.posted_pages.saturating_sub(pages);
    }

    /// Counts a message that arrived in the oldest posted buffer, of `pages` pages.
    pub(super) fn used(&mut self, pages: usize) {
        self.unpost(pages);
        self.smaller = self.smaller.saturating_sub(1);
        self.arrivals = self.arrivals.saturating_add(1);
    }

    /// Whether every buffer is posted, and no more messages arrived than there are buffers since
    /// this was last called.
    pub(super) fn take_idle(&mut self) -> bool {
        core::mem::take(&mut self.arrivals) <= self.count && self.posted == self.count
    }

    /// How many are kept when no more are needed.
    fn keep(&self) -> u16 {
        let keep = self.limits.keep.checked_div(self.size()).unwrap_or(0);
        u16::try_from(keep).unwrap_or(u16::MAX).max(FIRST)
    }

    /// Whether more are wanted than are kept by [`Self::shrink`].
    pub(super) fn have_grown(&self) -> bool {
        self.wanted > self.keep()
    }

    /// Wants no more than are kept when no more are needed, and [`LEAST`] beside those with unread
    /// payload. The others are freed as the peer uses them up, since a receive cannot be taken
    /// back.
    pub(super) fn shrink(&mut self) {
        let least = self.held().saturating_add(LEAST);
        self.wanted = self.wanted.min(self.keep().max(least));
    }

    /// How many hold unread payload.
    fn held(&self) -> u16 {
        self.count.saturating_sub(self.posted)
    }

    /// Bytes of a buffer that is made now.
    pub(super) fn size(&self) -> usize {
        self.pages_each.saturating_mul(PAGE_SIZE)
    }

    /// Makes buffers of so many pages from now on, for a peer that asked for larger ones.
    pub(super) fn enlarge(&mut self, pages: usize) {
        self.pages_each = pages;
        self.smaller = self.posted;
        self.resizing = true;
    }

    /// As [`Self::pages`], and of as many of the present size as are missing of those that there
    /// are always to be.
    pub(super) fn least_pages(&self) -> usize {
        let missing = FIRST.saturating_sub(self.count);
        self.pages_each
            .saturating_mul(missing.into())
            .saturating_add(self.pages())
    }

    /// Counts what the queues of the connection and of its reader take for `capacity` buffers,
    /// beyond [`Limits::queue_pages`].
    pub(super) fn queue_for(&mut self, capacity: usize) {
        let more = capacity.saturating_sub(self.limits.count.into());
        self.queues = more.saturating_mul(QUEUES_EACH).div_ceil(PAGE_SIZE);
    }

    /// How many buffers there may be in `limit` bytes, if further ones have the present size, with
    /// no more posted than may be.
    fn fit(&self, limit: usize) -> u16 {
        let limit = limit / PAGE_SIZE;
        let count = usize::from(self.count);
        let fit = match limit.checked_sub(self.pages) {
            Some(left) => count.saturating_add(left / self.pages_each.max(1)),
            None => {
                let excess = self.pages.saturating_sub(limit);
                count.saturating_sub(excess.div_ceil(self.pages_each.max(1)))
            }
        };
        u16::try_from(fit)
            .unwrap_or(u16::MAX)
            .min(self.limits.count.saturating_add(self.held()))
    }

    /// How many there may be for a limit, with so many bytes unread. While that is less than half
    /// of it, [`FIRST`] may be posted, and else [`LEAST`], beyond the limit if need be, but not by
    /// more than [`FIRST`].
    fn most(&self, limit: usize, unread: usize) -> u16 {
        let least = if unread < limit / 2 { FIRST } else { LEAST };
        let first = self.size().saturating_mul(FIRST.into());
        let beyond = self.fit(limit.saturating_add(first));
        let least = self.held().saturating_add(least);
        self.fit(limit).max(beyond.min(least))
    }

    /// Wants no more than there may be for a limit, with so many bytes unread, but at least
    /// [`FIRST`].
    pub(super) fn cap(&mut self, limit: usize, unread: usize) {
        self.wanted = self.wanted.min(self.most(limit, unread)).max(FIRST);
    }

    /// Whether the buffers that hold the unread bytes, with another and a page, take up more than
    /// half of the limit, and more than twice the bytes.
    pub(super) fn are_sparse(&self, limit: usize, unread: usize) -> bool {
        let held = self.pages.saturating_sub(self.posted_pages);
        let pages = held.saturating_add(self.pages_each).saturating_add(1);
        let half = pages.saturating_mul(PAGE_SIZE / 2);
        half > limit / 4 && half > unread
    }

    /// Pages that they take, with their queues.
    pub(super) fn pages(&self) -> usize {
        self.pages.saturating_add(self.queues)
    }

    /// Wants no more than there are, for want of memory, but at least [`FIRST`].
    pub(super) fn give_up_growth(&mut self) {
        self.wanted = self.wanted.min(self.count).max(FIRST);
    }

    /// Whether buffers are missing.
    pub(super) fn lacks(&self) -> bool {
        self.count < self.wanted
    }

    /// Wants twice as many, as far as there may be for a limit, with so many bytes unread, for a
    /// peer that is short of credit; nothing while some are still missing.
    pub(super) fn grow(&mut self, limit: usize, unread: usize) {
        if !self.lacks() {
            let now = self.wanted.max(self.count);
            self.limited = now >= self.fit(limit);
            let more = now.saturating_mul(2).min(self.most(limit, unread));
            self.wanted = self.wanted.max(more);
        }
    }

    /// Notes that the reader has read everything that arrived.
    pub(super) fn note_read(&mut self) {
        self.caught_up |= core::mem::take(&mut self.limited);
    }

    /// Whether the peer was short of credit because of `SO_RCVBUF`, and the reader has read
    /// everything since, after this was last called: with a larger one they would both go on.
    pub(super) fn take_caught_up(&mut self) -> bool {
        core::mem::take(&mut self.caught_up)
    }
}
