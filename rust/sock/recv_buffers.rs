// SPDX-License-Identifier: GPL-2.0

//! The receive buffers of a connection: how many there are, of what size, and the payload in them that
//! nobody has read. Guarded by the lock of the connection that has them.

use crate::{
    net::{
        namespace::Net,
        pipe::Slice, //
    },
    prelude::*,
    rdma::{
        buf::{
            RecvBuf,
            MAX_RECV_PAGES, //
        },
        device::Device, //
    },
    sock::settings,
};
use core::ops::Range;
use kernel::page::PAGE_SIZE;

/// Buffers that a connection starts with.
pub(super) const FIRST: u16 = crate::proto::DEPTH_MIN;

/// How long to wait for memory before the next try to get some, in milliseconds.
pub(super) const RETRY_MS: u32 = 100;

/// Received payload that its reader has not finished.
pub(super) struct Unread {
    pub(super) buf: RecvBuf,
    pub(super) range: Range<usize>,
}

impl Unread {
    /// The bytes that are still to be read.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// What is still to be read behind the first `skip` bytes of that, as far as it lies in one page.
    pub(super) fn bytes(&self, skip: usize) -> &[u8] {
        self.buf.bytes(self.range.start.saturating_add(skip))
    }

    /// Counts the first `n` bytes as read.
    pub(super) fn advance(&mut self, n: usize) {
        self.range.start = self.range.start.saturating_add(n).min(self.range.end);
    }

    /// At most `max` of the bytes that [`Self::bytes`] gives, in their own page. Sleeps.
    pub(super) fn share(&mut self, max: usize) -> Result<Slice> {
        self.buf.share(self.range.start, max)
    }
}

/// What receive buffers of one connection may come to.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How many there may be.
    pub(super) count: u16,
    /// Pages of one.
    pub(super) pages: usize,
}

impl Limits {
    /// Before the device is known.
    pub(super) const NONE: Self = Self { count: 0, pages: 0 };

    /// Those of `net`, as far as `device` can do it.
    pub(super) fn new(net: &Net, device: &Device) -> Self {
        let count = settings::recv_buffers(net).min(device.max_qp_wr().saturating_sub(1));
        // CAST: `usize` has at least 32 bits.
        let size = settings::recv_buffer_size(net) as usize;
        let pages = size.div_ceil(PAGE_SIZE).min(device.max_recv_sge() as usize);
        Self {
            count: u16::try_from(count).unwrap_or(u16::MAX).max(FIRST),
            pages: pages.clamp(1, MAX_RECV_PAGES),
        }
    }

    /// Bytes of the largest.
    pub(super) fn size(self) -> u32 {
        u32::try_from(self.pages.saturating_mul(PAGE_SIZE)).unwrap_or(u32::MAX)
    }
}

/// How many buffers there are, and of what size.
pub(super) struct RecvBuffers {
    pub(super) limits: Limits,
    /// Pages of one that is made now.
    pub(super) pages: usize,
    /// How many there should be, and are: posted, or with payload that was not read.
    pub(super) wanted: u16,
    pub(super) count: u16,
    /// Those that are posted, oldest first: of the first `smaller` the peer must have used the last
    /// before it may know of the larger size (`B-64`).
    pub(super) posted: u16,
    pub(super) smaller: u16,
    /// Messages that came since the connection was last looked at.
    pub(super) came: u16,
}

impl RecvBuffers {
    /// Before there are any.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pages: 1,
            wanted: 0,
            count: 0,
            posted: 0,
            smaller: 0,
            came: 0,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The oldest that was posted received a message.
    pub(super) fn used(&mut self) {
        self.posted = self.posted.saturating_sub(1);
        self.smaller = self.smaller.saturating_sub(1);
        self.came = self.came.saturating_add(1);
    }

    /// Whether there were enough of them since this was last asked, had none been posted again.
    pub(super) fn take_unused(&mut self) -> bool {
        core::mem::take(&mut self.came) <= self.count
    }

    /// Whether there are more than at first.
    pub(super) fn have_grown(&self) -> bool {
        self.wanted.max(self.count) > FIRST
    }

    /// Lets those beyond the first go as the peer uses them up: a receive cannot be taken back.
    pub(super) fn shrink(&mut self) {
        self.wanted = self.wanted.min(FIRST);
    }

    /// Bytes of a buffer that is made now.
    pub(super) fn size(&self) -> usize {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// How many of the present size take no more than `limit` bytes.
    pub(super) fn fit(&self, limit: usize) -> u16 {
        let fit = limit.checked_div(self.size()).unwrap_or(0);
        u16::try_from(fit)
            .unwrap_or(u16::MAX)
            .min(self.limits.count)
    }

    /// Pages that they may take.
    pub(super) fn pages(&self) -> usize {
        usize::from(self.count).saturating_mul(self.pages)
    }

    /// There is no memory for more.
    pub(super) fn give_up_growth(&mut self) {
        self.wanted = self.wanted.min(self.count).max(FIRST);
    }

    /// Whether buffers are missing.
    pub(super) fn lacks(&self) -> bool {
        self.count < self.wanted
    }

    /// Has more made for a peer that waits for them, if they take no more than `limit` bytes then and none is
    /// missing.
    pub(super) fn grow(&mut self, limit: usize) {
        if !self.lacks() {
            let more = self.wanted.saturating_mul(2).min(self.fit(limit));
            self.wanted = self.wanted.max(more);
        }
    }
}
