// SPDX-License-Identifier: GPL-2.0

//! Receiving: what comes goes to the reader, and its buffer back to the device.
//!
//! A connection starts with a few buffers of one page. It makes more when the peer is about to be out
//! of credit, and larger ones when the peer asks for them (`B-63`), up to what the namespace and
//! `SO_RCVBUF` allow. Small messages are put together in one buffer, so that the peer does not run
//! out of credit long before it runs out of memory here.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::account::is_under_pressure,
    prelude::*,
    proto::{
        Mode,
        Readable, //
    },
    rdma::buf::RecvBuf,
    sock::{
        conn::{
            Conn,
            Flow, //
        },
        link::Link,
        recv_buffers::{
            Unread,
            FIRST,
            RETRY_MS, //
        },
        ring::Ring, //
    },
};
use kernel::page::PAGE_SIZE;

/// With so few buffers posted, and too little credit for payload, the peer waits for more. With more of
/// them it is about to be told.
const FEW: u16 = 3;

/// The longest payload that is moved to the buffer of the message before it.
const SMALL: usize = 1024;

impl Flow {
    /// Takes in one message; gives the buffer back if it has nothing for the user.
    pub(super) fn receive(&mut self, buf: RecvBuf) -> Option<RecvBuf> {
        let received = self.machine.received_head(buf.bytes(0), buf.len());
        let came = matches!(&received, Ok(received) if !received.payload.is_empty());
        let ended = came
            || self.machine.readable().is_some()
            || self.machine.receive_mode() != Mode::Pipelined;
        if self.offering && ended {
            // A message with payload uses up what was offered; what was not goes back.
            self.machine.retract_offers();
            self.offering = false;
        }
        match received {
            Ok(received) if !received.payload.is_empty() => {
                let range = received.payload;
                // One that stands for an offer is not to be longer than that.
                if !self.gathering && range.len() <= SMALL {
                    if let Some(last) = self.rx.back_mut() {
                        let bytes = buf.bytes(range.start);
                        if bytes.len() == range.len() && last.buf.append(bytes) {
                            last.range.end = last.buf.len();
                            return Some(buf);
                        }
                    }
                }
                let unread = Unread { buf, range };
                // The ring is as long as there are buffers.
                self.rx.push(unread).err().map(|unread| unread.buf)
            }
            // A violation is told by the machine's events.
            Ok(_) | Err(_) => Some(buf),
        }
    }

    /// Whether the peer waits for buffers, of which so many are about to be posted.
    fn is_short(&self, returning: u16) -> bool {
        self.recv.posted.saturating_add(returning) <= FEW && self.machine.peer_is_short()
    }

    /// A buffer came back from the device with a message, before that is taken in.
    pub(super) fn buffer_used(&mut self) {
        self.recv.used();
        self.answer_wish();
    }

    /// Has more buffers made for a peer that waits for them, if they take no more than `limit`
    /// bytes then. The buffer that was used last may be about to be posted again.
    ///
    /// Under the lock under which the message was taken in: no reader is to think that there will
    /// be no more.
    pub(super) fn want_buffers(&mut self, limit: usize, returns: bool) {
        if is_under_pressure() {
            self.recv.shrink();
        } else if self.is_short(returns.into()) {
            self.recv.grow(limit);
        }
    }

    /// Tells the peer of larger buffers once it has used up the smaller ones that were posted.
    fn answer_wish(&mut self) {
        if self.recv.smaller == 0 && self.machine.resize_wish().is_some() {
            let size = u32::try_from(self.recv.size()).unwrap_or(0);
            self.machine.resized(size);
        }
    }

    /// The peer asks for other buffers (`B-63`), which may take `limit` bytes.
    fn resize_wished(&mut self, limit: usize) {
        let Some(wish) = self.machine.resize_wish() else {
            return;
        };
        let buffers = &mut self.recv;
        // CAST: `usize` has at least 32 bits.
        let pages = (wish as usize).div_ceil(PAGE_SIZE);
        let takes = pages.saturating_mul(PAGE_SIZE).saturating_mul(FIRST.into());
        // Smaller ones are refused, since there is no need.
        if pages > buffers.pages && pages <= buffers.limits.pages && takes <= limit {
            buffers.pages = pages;
            buffers.smaller = buffers.posted;
            buffers.wanted = buffers.fit(limit).min(buffers.wanted).max(FIRST);
        }
        self.answer_wish();
    }
}

impl Conn {
    /// Posts the buffers that the Hello or HelloAck promises. Sleeps. Fails with `ENOMEM`, and the
    /// driver's error.
    pub(super) fn fill_first(&self) -> Result {
        for _ in 0..FIRST {
            let pages = {
                let buffers = &mut self.flow.lock().recv;
                buffers.count = buffers.count.saturating_add(1);
                buffers.pages
            };
            self.post_buffer(RecvBuf::new(pages)?)?;
        }
        self.flow.lock().recv.wanted = FIRST;
        Ok(())
    }

    /// Makes and posts the buffers that are missing, on a connection that is there. Sleeps; without the
    /// locks of [`Conn`]. Where there is no memory it is tried again later.
    pub(super) fn fill(&self) {
        while self.flow.lock().recv.lacks() && self.link() == Link::Up {
            match self.add_buffer() {
                Ok(true) => {}
                // The QP takes no more.
                Ok(false) => return,
                Err(_) => return self.work_in(RETRY_MS),
            }
        }
    }

    /// Makes and posts a buffer, if one is missing; false where it cannot be posted. Sleeps. Fails with
    /// `ENOMEM`.
    fn add_buffer(&self) -> Result<bool> {
        self.make_places()?;
        let (pages, all) = {
            let mut flow = self.flow.lock();
            let most = flow.recv.wanted.into();
            // Each may come to have payload that has to have a place.
            if usize::from(flow.recv.count) >= flow.rx.capacity().min(most) {
                return Ok(true);
            }
            flow.recv.count = flow.recv.count.saturating_add(1);
            (flow.recv.pages, flow.recv.pages())
        };
        if let Err(e) = self.charge(|parts| parts.recv = parts.recv.max(all)) {
            self.lost_buffer();
            let lacks = {
                let recv = &mut self.flow.lock().recv;
                recv.give_up_growth();
                recv.lacks()
            };
            // Fewer than at first are not enough.
            if lacks {
                return Err(e);
            }
            self.no_more_buffers();
            return Ok(true);
        }
        let buf = RecvBuf::new(pages).inspect_err(|_| self.lost_buffer())?;
        match self.repost(buf) {
            Err(e) if e == ENOMEM => Err(e),
            posted => Ok(posted.is_ok()),
        }
    }

    /// No more buffers are to come: who waits for more than there is may have to be content with
    /// that.
    pub(super) fn no_more_buffers(&self) {
        self.with_socket(|sk| sk.data_ready());
    }

    /// Makes places for the payload of as many buffers as there should be. Sleeps. Fails with `ENOMEM`.
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
        let unused = self.flow.lock().rx.lengthen(longer);
        drop(unused);
        Ok(())
    }

    pub(super) fn lost_buffer(&self) {
        let buffers = &mut self.flow.lock().recv;
        buffers.count = buffers.count.saturating_sub(1);
    }

    /// Posts a buffer and tells the machine, or lets one go that is smaller than the peer is about to be
    /// told. Any context. Fails with `ENOMEM`, and otherwise where the QP takes no more.
    fn repost(&self, buf: RecvBuf) -> Result {
        let posted = self.post_buffer(buf);
        match posted {
            Ok(true) => self.flow.lock().machine.posted(1),
            Ok(false) | Err(_) => self.lost_buffer(),
        }
        posted.map(|_| ())
    }

    /// Posts a buffer again. Any context. What fails for want of memory is made up for by
    /// [`Self::fill`]; other failures mean that the QP is being torn down, or broken, which its
    /// completions tell.
    pub(super) fn recycle(&self, buf: RecvBuf) {
        let _ = self.repost(buf);
    }

    /// Whether the buffer was posted: not so where it is too small, or there are too many.
    fn post_buffer(&self, buf: RecvBuf) -> Result<bool> {
        // Held over both, so that buffers are posted in the order in which they are counted.
        let post = self.post.lock();
        let qp = post.qp.as_ref().ok_or(ENOTCONN)?;
        {
            let buffers = &mut self.flow.lock().recv;
            let small = buf.size() < buffers.size();
            if small || buffers.count > buffers.wanted.max(FIRST) {
                return Ok(false);
            }
            buffers.posted = buffers.posted.saturating_add(1);
        }
        match qp.post_recv(buf) {
            Ok(()) => Ok(true),
            Err((e, _)) => {
                // None was posted meanwhile: the lock is held.
                let buffers = &mut self.flow.lock().recv;
                buffers.posted = buffers.posted.saturating_sub(1);
                Err(e)
            }
        }
    }

    /// Has missing buffers made by the work. Any context.
    pub(super) fn fill_later(&self) {
        if self.flow.lock().recv.lacks() {
            self.queue();
        }
    }

    /// The peer asks for other buffers. Any context.
    pub(super) fn resize_wished(&self) {
        let limit = self.recv_limit();
        self.flow.lock().resize_wished(limit);
        self.no_more_buffers();
        self.kick();
    }

    /// Posts the buffer of payload that was read, which gives the peer credit. Sleeps.
    pub(super) fn finish_unread(&self, unread: Unread) {
        self.recycle(unread.buf);
        self.fill();
        self.kick();
    }

    /// Moves the payload that came to the reader's own queue, and gives the peer's memory that is
    /// to be fetched before anything that came behind it. Sleeps. Fails with `ENOMEM` where it cannot
    /// move anything of it; what is left is moved later.
    pub(super) fn take_unread(&self, to: &mut Ring<Unread>) -> Result<Option<Readable>> {
        let came = self.flow.lock().rx.len();
        if to.capacity() < to.len().saturating_add(came) {
            match Ring::new(to.len().saturating_add(came)) {
                Ok(longer) => drop(to.lengthen(longer)),
                Err(e) if to.is_full() => return Err(e),
                Err(_) => {}
            }
        }
        let mut flow = self.flow.lock();
        to.append(&mut flow.rx);
        Ok(flow.machine.readable())
    }

    /// Whether the peer is about to be out of credit and gets no more before something is read.
    pub(super) fn is_starved(&self) -> bool {
        let flow = self.flow.lock();
        flow.is_short(0) && !flow.recv.lacks()
    }

    /// Payload bytes that no reader took over yet.
    pub(super) fn unread(&self) -> usize {
        let flow = self.flow.lock();
        (0..flow.rx.len())
            .filter_map(|at| flow.rx.get(at))
            .fold(0, |sum, unread| sum.saturating_add(unread.len()))
    }
}
