// SPDX-License-Identifier: GPL-2.0

//! The supply of receive buffers.
//!
//! Documentation/architecture.rst says when there are more of them, and larger ones (`B-63`);
//! [`super::recv_buffers`] counts them.
//!
//! The life of a buffer: [`Flow::want_buffers`] raises the number that is wanted when a message
//! leaves the peer short of credit, and [`Conn::adjust_recv_buffers`], in the work or in a reader
//! that has finished a message, charges, makes and posts what is missing. A message comes in it,
//! [`Conn::take_in`]; when that was read it is posted again, [`Conn::finish_unread`]. To have
//! fewer, under memory pressure or when idle ([`super::idle`]), the number that is wanted is
//! lowered: a buffer that comes back is then freed instead, and the work uncharges it. Larger ones
//! are decided on by [`Conn::decide_resize`], and a larger `SO_RCVBUF` by [`Conn::take_unread`].
//!
//! Locks and references are those of [`Conn`].

use crate::{
    prelude::*,
    proto::wire::BASE_LEN,
    rdma::buf::RecvBuf,
    sock::{
        account::Parts,
        conn::Conn,
        flow::Flow,
        poll_state,
        recv_buffers::{
            FEW,
            FIRST,
            GROW_AGAIN_MS,
            RETRY_MS, //
        },
        ring::Ring,
        settings, //
    }, //
};
use kernel::page::PAGE_SIZE;

impl Flow {
    /// Whether a buffer is missing, and the QP keeps it: after it was taken down it returns each at
    /// once.
    pub(super) fn takes_buffer(&self) -> bool {
        self.recv.lacks() && self.is_up() && !self.flushed
    }

    /// Whether the peer is short of credit, even when so many more buffers are posted.
    pub(super) fn is_short(&self, returning: u16) -> bool {
        self.recv.posted.saturating_add(returning) <= FEW && self.machine.peer_is_short()
    }

    /// Counts a buffer of `pages` pages that returned from the device with a message, before that
    /// is taken in.
    pub(super) fn buffer_used(&mut self, pages: usize) {
        self.recv.used(pages);
        self.answer_resize();
    }

    /// Wants more buffers for a peer that is short of credit, as far as `limit` allows with so many
    /// bytes unread, or fewer where that is none. `returns` says whether the buffer that was used
    /// last is about to be posted again.
    ///
    /// Under the same hold of the lock as taking the message in: no reader is to find that no more
    /// can come.
    pub(super) fn want_buffers(&mut self, limit: Option<usize>, unread: usize, returns: bool) {
        match limit {
            None => self.recv.shrink(),
            Some(limit) if self.is_short(returns.into()) => {
                self.recv.grow(self.options.clamp(limit), unread)
            }
            Some(_) => {}
        }
    }

    /// Notifies the peer of larger buffers, once it has used up the smaller ones that were posted.
    fn answer_resize(&mut self) {
        if self.recv.resizing && self.recv.smaller == 0 {
            self.recv.resizing = false;
            self.answer_size();
        }
    }

    /// Reports the present size of its buffers to the peer.
    fn answer_size(&mut self) {
        let size = u32::try_from(self.recv.size()).unwrap_or(0);
        self.machine.resized(size);
    }

    /// The size of larger buffers that the peer asks for (`B-63`), in pages, if that can be
    /// granted. Smaller ones, and a refusal of what would take more than `limit` bytes, are
    /// answered here.
    fn resize_wish(&mut self, limit: usize) -> Option<usize> {
        let wish = self.machine.resize_wish()?;
        let recv = &self.recv;
        if recv.resizing {
            return None;
        }
        // CAST: `usize` has at least 32 bits.
        let pages = (wish as usize).div_ceil(PAGE_SIZE);
        let takes = pages.saturating_mul(PAGE_SIZE).saturating_mul(FIRST.into());
        if pages > recv.pages_each
            && pages <= recv.limits.pages
            && takes <= self.options.clamp(limit)
        {
            return Some(pages);
        }
        if pages < recv.pages_each {
            // The peer keeps to them already (`B-64`), and has no use for many.
            self.recv.pages_each = pages.max(1);
            self.recv.shrink();
        }
        self.answer_size();
        None
    }
}

impl Conn {
    /// Posts the buffers that the Hello or HelloAck promises. Sleeps. Fails with `ENOMEM`, and the
    /// driver's error.
    pub(super) fn fill_first(&self) -> Result {
        for _ in 0..FIRST {
            let pages = self.flow.lock().recv.add();
            RecvBuf::new(pages)
                .and_then(|buf| self.post_buffer(buf))
                .inspect_err(|_| self.uncount_buffer(pages))?;
        }
        self.flow.lock().recv.wanted = FIRST;
        Ok(())
    }

    /// The most payload of a message that comes. Any context.
    pub(super) fn recv_payload(&self) -> u32 {
        let size = u32::try_from(self.flow.lock().recv.size()).unwrap_or(u32::MAX);
        // CAST: It is 16.
        size.saturating_sub(BASE_LEN as u32)
    }

    /// Makes and posts the buffers that are missing; under memory pressure fewer are wanted, and
    /// more after it for a peer that is short of credit. Sleeps; with no lock of the connection but
    /// [`Connection::setup`](super::conn::Connection::setup). Without memory it is tried again
    /// later.
    pub(super) fn adjust_recv_buffers(&self) {
        let limit = self.recv_limit();
        let gives_up = {
            let flow = &mut *self.flow.lock();
            let lacked = flow.recv.lacks();
            if limit.is_none() || core::mem::take(&mut flow.recv.starved) {
                flow.want_buffers(limit, self.unread(), false);
            }
            limit.is_none() && lacked && !flow.recv.lacks()
        };
        if limit.is_none() {
            self.grow_again();
        }
        if gives_up {
            self.wake_reader();
        }
        while self.flow.lock().takes_buffer() {
            match self.add_buffer() {
                Ok(true) => {}
                // The QP takes no more of them.
                Ok(false) => return,
                Err(_) => return self.work_in(RETRY_MS),
            }
        }
    }

    /// Makes and posts a buffer, if one is missing. False where it cannot be posted. Sleeps. Fails
    /// with `ENOMEM` and `ENOBUFS`.
    fn add_buffer(&self) -> Result<bool> {
        self.make_places()?;
        let limit = self.recv_limit();
        let (pages, all) = {
            let mut flow = self.flow.lock();
            if let Some(limit) = limit {
                // Buffers may have become larger since, and fewer fit.
                let limit = flow.options.clamp(limit);
                flow.recv.cap(limit, self.unread());
            }
            let most = flow.recv.wanted.into();
            // Each needs a place in the ring for its payload.
            if usize::from(flow.recv.count) >= flow.rx.capacity().min(most) {
                drop(flow);
                self.wake_reader();
                return Ok(true);
            }
            (flow.recv.add(), flow.recv.pages())
        };
        if let Err(e) = self.charge(|parts| parts.recv = parts.recv.max(all)) {
            self.uncount_buffer(pages);
            let lacks = {
                let recv = &mut self.flow.lock().recv;
                recv.give_up_growth();
                recv.lacks()
            };
            // Fewer than at the start are not enough.
            if lacks {
                return Err(e);
            }
            self.grow_again();
            self.wake_reader();
            return Ok(true);
        }
        let buf = RecvBuf::new(pages).inspect_err(|_| self.uncount_buffer(pages))?;
        match self.repost(buf) {
            Err(e) if e == ENOMEM => Err(e),
            posted => Ok(posted.is_ok()),
        }
    }

    /// Has the work look again for memory, if the peer is short of credit for want of it.
    fn grow_again(&self) {
        let starved = {
            let flow = &mut *self.flow.lock();
            flow.recv.starved = flow.is_short(0);
            flow.recv.starved
        };
        if starved {
            self.work_in(GROW_AGAIN_MS);
        }
    }

    /// Notifies readers who wait for more bytes than can come. Any context, without the spinlocks.
    pub(super) fn wake_reader(&self) {
        self.with_socket(poll_state::notify_readers);
    }

    /// Wants more buffers for a peer that is short of credit, where no message arrived that would:
    /// for a `limit` that has grown, or behind those that arrived early. Any context, without the
    /// spinlocks.
    pub(super) fn want_more(&self, limit: Option<usize>) {
        let mut flow = self.flow.lock();
        flow.want_buffers(limit, self.unread(), false);
        drop(flow);
        self.fill_later();
    }

    /// Makes room in the ring for the payload of all wanted buffers. Sleeps. Fails with `ENOMEM`.
    fn make_places(&self) -> Result {
        let wanted = {
            let flow = self.flow.lock();
            let wanted = usize::from(flow.recv.wanted);
            if flow.rx.capacity() >= wanted {
                return Ok(());
            }
            wanted
        };
        let longer = Ring::new(wanted)?;
        let unused = {
            let mut flow = self.flow.lock();
            flow.recv.queue_for(wanted);
            flow.rx.lengthen(longer)
        };
        drop(unused);
        Ok(())
    }

    /// Uncounts a buffer of so many pages, which was not made, or was freed. Any context, without
    /// [`Connection::flow`](super::conn::Connection) and the locks after it.
    pub(super) fn uncount_buffer(&self, pages: usize) {
        self.flow.lock().recv.remove(pages);
    }

    /// Posts a buffer and reports it to the machine, or frees one that is not of the present size,
    /// or not wanted. Any context, without [`Connection::post`](super::conn::Connection) and the
    /// locks after it. Fails with `ENOMEM`, and with other errors where the QP takes no more.
    fn repost(&self, buf: RecvBuf) -> Result {
        let pages = buf.page_count();
        let posted = self.post_buffer(buf);
        match posted {
            Ok(true) => self.flow.lock().machine.posted(1),
            Ok(false) => {
                self.uncount_buffer(pages);
                // The work uncharges it, which sleeps.
                self.queue();
            }
            Err(_) => self.uncount_buffer(pages),
        }
        posted.map(|_| ())
    }

    /// Posts a buffer again. Any context, without [`Connection::post`](super::conn::Connection) and
    /// the locks after it. A buffer that fails for want of memory is replaced by
    /// [`Self::adjust_recv_buffers`]; other failures mean that the QP is being torn down, or
    /// broken, which its completions report.
    pub(super) fn recycle(&self, buf: RecvBuf) {
        let _ = self.repost(buf);
    }

    /// Posts a buffer. False where it is not of the present size, or there are too many. Fails with
    /// `ENOTCONN` without a QP, and as [`Qp::post_recv`](crate::rdma::qp::Qp::post_recv) does.
    fn post_buffer(&self, buf: RecvBuf) -> Result<bool> {
        // Held over both, so that buffers are posted in the order in which they are counted.
        let post = self.post.lock();
        let qp = post.qp.as_ref().ok_or(ENOTCONN)?;
        let pages = buf.page_count();
        if !self.flow.lock().recv.post(pages) {
            return Ok(false);
        }
        match qp.post_recv(buf) {
            Ok(()) => Ok(true),
            Err((e, _)) => {
                // None was posted meanwhile: the lock is held.
                self.flow.lock().recv.unpost(pages);
                Err(e)
            }
        }
    }

    /// Has the work make missing buffers. Any context, without
    /// [`Connection::flow`](super::conn::Connection) and the locks after it.
    pub(super) fn fill_later(&self) {
        if self.flow.lock().takes_buffer() {
            self.queue();
        }
    }

    /// Decides about the size of buffers that the peer asks for, if it does; while memory is short
    /// it puts that off, since a refusal would be for good. Sleeps; with no lock of the connection
    /// but [`Connection::setup`](super::conn::Connection::setup).
    pub(super) fn decide_resize(&self) {
        if self.inspect(|m| m.resize_wish().is_none()) {
            return;
        }
        let Some(sk) = self.charged_socket() else {
            return;
        };
        let limit = sk.max_rcvbuf(settings::rmem_max(&self.net));
        let Some(pages) = self.flow.lock().resize_wish(limit) else {
            return;
        };
        // So that there is always memory for as many as at the start.
        let all = {
            let first = pages.saturating_mul(FIRST.into());
            self.flow.lock().recv.pages().saturating_add(first)
        };
        let is_short = || {
            let charge = |parts: &mut Parts| parts.recv = parts.recv.max(all);
            sk.is_under_pressure() || self.charge(charge).is_err()
        };
        if is_short() {
            return self.work_in(RETRY_MS);
        }
        let mut flow = self.flow.lock();
        flow.recv.enlarge(pages);
        flow.answer_resize();
    }
}
