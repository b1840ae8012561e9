// SPDX-License-Identifier: GPL-2.0

//! Zero copy on a connection: the memory of the callers' [`Buffers`](super::buffers::Buffers), from
//! its registration to its release.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    mm::pages::Pages,
    net::{
        sock::Timeout,
        wait::OpenGuard, //
    },
    prelude::*,
    proto::Region,
    rdma::mr::{
        Access,
        Memory, //
    },
    sock::{
        buffers::has_buffer_slots,
        conn::{
            Conn,
            Post, //
        },
        locked::Locked,
        post::Request,
        stats::Counter,
        types::Sdp, //
    }, //
};
use kernel::sync::Arc;

/// Pages that a memory region takes at most: on rxe its table of pages and itself, and while it is
/// in use the list of the caller's pages and their scatter list.
const REGION_PAGES: usize = 7;

/// How long the peer may take to release memory that is withdrawn, in milliseconds. It answers
/// without its program, once the RDMA Reads that it has in flight have completed.
pub(super) const RETURN_MS: u32 = 30_000;

/// How long the fabric may take to give up a killed caller's memory, in milliseconds.
const KILLED_MS: u32 = 2000;

impl Conn {
    /// The most pages of one buffer; 0 where the send queue has no requests for buffers. Any
    /// context, as for the other queries, without
    /// [`Connection::post`](super::conn::Connection::post) and the locks after it.
    pub(super) fn max_buffer_pages(&self) -> usize {
        let post = self.post.lock();
        let qp = post.qp.as_ref();
        qp.filter(|qp| has_buffer_slots(qp.caps().send_wr))
            .map_or(0, |qp| qp.pd().device().max_mr_pages())
    }

    /// Makes a memory region of a caller's pages. They have to be pinned before: a program may
    /// sleep for ever in the page fault that this takes, and would keep the device, of which this
    /// holds a reference. Sleeps; without the locks of the connection. Fails with `ENOTCONN` where
    /// there is no QP any more, `ENOBUFS` where the region cannot be charged, and as
    /// [`Memory::new`] does.
    pub(super) fn register(&self, pages: Pages, access: Access) -> Result<Arc<Memory>> {
        self.reclaim();
        let pd = self.pd().ok_or(ENOTCONN)?;
        let regions = pd.regions_with_another().saturating_mul(REGION_PAGES);
        self.charge(|parts| parts.regions = parts.regions.max(regions))?;
        self.work_at(self.now().saturating_add(self.idle_timeout()));
        Memory::new(&pd, pages, access)
    }

    /// [`Self::register`], once `pinned` has succeeded. An error comes with the counter of its
    /// cause.
    pub(super) fn register_pinned(
        &self,
        pinned: Result<Pages>,
        access: Access,
    ) -> Result<Arc<Memory>, (Counter, Error)> {
        let pages = pinned.map_err(|e| match e {
            e if e == ENOBUFS => (Counter::NoMemlock, e),
            e => (Counter::NoPages, e),
        })?;
        self.register(pages, access).map_err(|e| (Counter::NoMr, e))
    }

    /// Whether memory regions are kept that no buffer has. Sleeps.
    pub(super) fn has_spare_regions(&self) -> bool {
        self.pd().is_some_and(|pd| pd.has_free_regions())
    }

    /// Frees the memory regions that no buffer has: the next call makes new ones. One that does so
    /// now may be charged for a region less until the call after it. Sleeps.
    pub(super) fn free_spare_regions(&self) {
        let Some(pd) = self.pd() else { return };
        let regions = pd.free_regions().saturating_mul(REGION_PAGES);
        // To charge less cannot fail.
        let _ = self
            .account
            .lock()
            .change(|parts| parts.regions = parts.regions.min(regions));
    }

    /// Counts a buffer that was added, and has [`Self::kick`] post its registration before any
    /// other message.
    pub(super) fn added(&self, pages: u64) {
        self.count(Counter::PagesPinned, pages);
        self.count(Counter::MrsRegistered, 1);
        self.kick();
    }

    /// Invalidates the keys of buffers that the protocol has finished with. Any context, without
    /// the spinlocks.
    pub(super) fn invalidate_finished(&self) {
        let mut done = false;
        {
            let mut guard = self.post.lock();
            let post = &mut *guard;
            while let Some((finished, stamp)) = {
                let mut flow = self.flow.lock();
                let finished = flow.machine.offer_finished();
                finished.map(|finished| (finished, flow.offer_stamp))
            } {
                match post.buffers.finish_offer(finished, stamp) {
                    Some(memory) => post.invalidate_key(&memory, Request::InvalidateOffer),
                    None => done = true,
                }
            }
            while let Some(finished) = {
                let flow = &mut *self.flow.lock();
                let finished = flow.machine.finished();
                flow.stamps.cut(flow.machine.written());
                finished
            } {
                match post.buffers.finish_send(finished) {
                    Some(memory) => {
                        post.invalidate_key(&memory, Request::InvalidateSend(finished.id))
                    }
                    None => done = true,
                }
            }
        }
        if done {
            self.with_socket(|sk| sk.wake_calls());
            self.queue();
        }
    }

    /// Releases the memory of one buffer. Sleeps.
    pub(super) fn release_memory(&self, memory: Arc<Memory>) {
        self.count(Counter::PagesUnpinned, memory.page_count() as u64);
        self.count(Counter::MrsInvalidated, 1);
        drop(memory);
    }

    /// Waits until the fabric has released memory. After `limit_ms`, or when the caller is killed,
    /// it waits for [`KILLED_MS`] more, and then breaks the connection.
    pub(super) fn wait_return(
        &self,
        s: &mut OpenGuard<'_, Sdp>,
        limit_ms: u32,
        is_done: impl Fn() -> bool,
    ) {
        let limit = Timeout::from_ms(limit_ms);
        let killed = Timeout::from_ms(KILLED_MS);
        let is_done = |s: &mut OpenGuard<'_, Sdp>| self.has_returned(s, &is_done);
        if s.wait_killable(limit, is_done) || s.wait_through(killed, is_done) {
            return;
        }
        self.fail(ETIMEDOUT);
        s.wait_through(Timeout::FOREVER, is_done);
    }

    /// Whether the condition that a call waits for (`is_done`) holds. If the socket was
    /// disconnected meanwhile nobody wakes the call for it, so the connection is torn down here.
    /// Sleeps.
    pub(super) fn has_returned(&self, s: &Locked, is_done: impl Fn() -> bool) -> bool {
        if is_done() {
            return true;
        }
        if s.has(self) {
            return false;
        }
        self.finish();
        is_done()
    }
}

impl Post {
    /// Posts the invalidation of a buffer's key. If that fails the QP has failed, and teardown
    /// deregisters the region.
    pub(super) fn invalidate_key(&mut self, memory: &Arc<Memory>, request: Request) {
        let _ = self.request(|qp| qp.post_invalidate(memory, request));
    }
}

/// Memory, for the machine.
pub(super) fn region(memory: &Memory) -> Region {
    let remote = memory.remote();
    Region {
        len: u32::try_from(memory.len()).unwrap_or(0),
        rkey: remote.key,
        va: remote.addr,
    }
}
