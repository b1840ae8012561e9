// SPDX-License-Identifier: GPL-2.0

//! sendmsg: by copy into chunks of the send stream, or by lending the caller's pages to the peer.
//!
//! A call that is large enough lends: its pages are pinned and registered, and the peer fetches
//! them. A blocking call waits for that, so that its memory is its own when it returns; what the
//! peer does not fetch in time is taken back and copied. `MSG_ZEROCOPY` and the pages of splice
//! are let go later, by the connection's work.

use crate::{
    mm::pages::{
        self,
        Memlock,
        Pages, //
    },
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::{
            Timeout,
            WaitError, //
        },
        wait::OpenGuard,
        zerocopy::Notice,
    },
    prelude::*,
    proto::Machine,
    rdma::{
        buf::SendBuf,
        mr::Access, //
    },
    sock::{
        buffers::Waiter,
        conn::Conn,
        kept::Kept,
        locked::{
            Locked,
            SocketState, //
        },
        output::SEND_ORDER,
        recv,
        stats::Counter,
        types::{
            OpenSocket,
            Sdp,
            Socket, //
        },
        zcopy::RETURN_MS, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    sync::Arc, //
};

/// The smallest chunk of the send stream, in bytes.
const CHUNK_MIN: usize = 512;

/// How long the peer may make no progress with what is lent to it before the rest is copied, in
/// milliseconds.
const LEND_TIMEOUT_MS: u32 = 2000;

/// The same while bytes from the peer are unread here, in milliseconds: its program may be in such
/// a call too, and each has to return before its program can read.
const CROSSED_MS: u32 = 50;

/// `sendmsg(2)`.
///
/// Takes bytes as long as `SO_SNDBUF` has room, or lends them. Sleeps. The caller raises SIGPIPE
/// where the error asks for it.
pub(super) fn sendmsg(sk: &OpenSocket, msg: SendMsg<'_>) -> Result<usize> {
    let mut timeout = sk.send_timeout(msg.nonblock());
    let mut s = sk.lock();
    let turn = s.wait(&mut timeout, |s| {
        !matches!(s.state(), SocketState::Connecting) && sk.shared().lock().send_turn.ask()
    });
    timeout.check(turn)?;
    let conn = match (s.state(), s.conn()) {
        (SocketState::Connected, Some(conn)) if !sk.shared().lock().send_shut => conn.clone(),
        _ => return Err(EPIPE),
    };
    msg.check_control(sk)?;
    let mut call = Sending::new(sk, &mut s, &conn, msg, timeout);
    // The reason of a failure is reported before the EPIPE that follows it.
    let result = call.run().inspect_err(|_| conn.report_failure());
    call.end_turn();
    result
}

/// Takes back a buffer that a call left here (`SDP_ZCOPY_RETRY`), when the socket is closed or
/// disconnected. With the socket locked.
pub(super) fn give_up_kept(sk: &Socket, conn: &Conn) {
    let kept = sk.shared().lock().kept_send.take();
    if kept.is_some() {
        conn.count(Counter::CancelsRetry, 1);
        if let Some(first) = conn.call().first {
            conn.with(|m| m.withdraw_send(first));
        }
        conn.disown_call();
    }
}

/// Whether bytes from the peer are unread here, those included that were fetched into a buffer
/// which a call left here.
fn is_unread(s: &OpenGuard<'_, Sdp>, conn: &Conn) -> bool {
    let has_kept = s.sock().shared().lock().kept_recv.is_some();
    recv::unread(s) > 0 || (has_kept && conn.are_reads_over())
}

/// Whether a call lends its memory, and until when.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lending {
    /// Not at all.
    No,
    /// Until it returns.
    Call,
    /// Until the call is made again, since it must not sleep.
    Retry,
    /// Until its notice is given or, for pages of the kernel, until the peer has them.
    Beyond,
}

/// A call that sends.
struct Sending<'a, 'g, 'm> {
    sk: &'a Socket,
    s: &'a mut OpenGuard<'g, Sdp>,
    conn: &'a Arc<Conn>,
    msg: SendMsg<'m>,
    timeout: Timeout,
    lending: Lending,
    /// It has the turn.
    has_turn: bool,
    /// The least piece that is lent.
    least: usize,
    /// Bytes that were copied, or that the peer has fetched.
    sent: usize,
    /// Bytes that are lent until the call returns.
    lent: usize,
    notice: Option<Notice>,
    /// Both ends wait in a send, each for the other to read.
    crossed: bool,
}

impl<'a, 'g, 'm> Sending<'a, 'g, 'm> {
    fn new(
        sk: &'a Socket,
        s: &'a mut OpenGuard<'g, Sdp>,
        conn: &'a Arc<Conn>,
        msg: SendMsg<'m>,
        timeout: Timeout,
    ) -> Self {
        // CAST: `usize` has at least 32 bits.
        let threshold = s.options.zcopy_threshold as usize;
        let beyond = msg.flags & (flags::SPLICE_PAGES | flags::ZEROCOPY) != 0;
        let lending = match threshold {
            0 => Lending::No,
            // The urgent byte is copied (B-80), and with it what comes before.
            _ if msg.flags & flags::OOB != 0 => Lending::No,
            _ if beyond => Lending::Beyond,
            _ => Self::own(s, timeout, pages::source_address(msg.data)),
        };
        // A pipe gives its pages in small numbers, and a call that is large may be so in pieces.
        let large = msg.flags & flags::SPLICE_PAGES != 0 || msg.data.len() >= threshold;
        let large = large && threshold > 0;
        let least = match large {
            true => (threshold / 4).min(conn.max_buffer_pages().saturating_mul(PAGE_SIZE / 4)),
            false => threshold,
        };
        let mut call = Self {
            sk,
            s,
            conn,
            msg,
            timeout,
            lending,
            has_turn: false,
            least,
            sent: 0,
            lent: 0,
            notice: None,
            crossed: false,
        };
        if call.s.stream.crossed_at == Some(call.s.stream.receives) && call.is_unread() {
            call.cross();
        }
        call
    }

    /// How a call without `MSG_ZEROCOPY` lends.
    fn own(s: &Locked, timeout: Timeout, addr: usize) -> Lending {
        match timeout.is_zero() {
            false => Lending::Call,
            true if s.options.zcopy_retry && addr != 0 => Lending::Retry,
            true => Lending::No,
        }
    }

    fn run(&mut self) -> Result<usize> {
        self.resume()?;
        let result = self.finish_lending().and_then(|()| self.send());
        // Whatever happened, the caller gets its memory back, unless it leaves it here.
        let returned = self.finish_lending();
        if self.sent == 0 {
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        if self.is_urgent() && self.sent > 0 && !self.msg.data.is_empty() {
            // So it is of one that ends early for another reason, unless that byte has left.
            self.conn.with(Machine::mark_urgent);
        }
        if self.msg.flags & flags::MORE == 0 {
            self.conn.with(Machine::push);
        }
        self.conn.arm_timer();
        match result.and(returned) {
            Err(e) if self.sent == 0 => Err(e),
            _ => Ok(self.sent),
        }
    }

    /// Continues a call that left its buffer here. Fails with `EBUSY` if this is another call.
    fn resume(&mut self) -> Result {
        let (addr, len) = (pages::source_address(self.msg.data), self.msg.data.len());
        let kept = self.sk.shared().lock().kept_send.clone();
        let kept = match kept {
            None => {
                self.conn.begin_call();
                return Ok(());
            }
            // What is lent is not urgent.
            Some(kept) if kept.is_of(addr, len) && !self.is_urgent() => kept,
            Some(kept) if !kept.is_abandoned() => return Err(EBUSY),
            Some(_) => {
                // Of a process that is gone: what the peer has not fetched does not go.
                give_up_kept(self.sk, self.conn);
                self.conn.begin_call();
                return Ok(());
            }
        };
        // Dropped without the spinlock.
        let _kept = self.sk.shared().lock().kept_send.take();
        self.msg.data.advance(kept.lent);
        self.lent = kept.lent;
        if self.timeout.is_zero() {
            self.lending = Lending::Retry;
        }
        Ok(())
    }

    /// Takes the turn, if the call has not got it: before it sleeps without the socket lock.
    fn take_turn(&mut self) {
        if !core::mem::replace(&mut self.has_turn, true) {
            self.sk.shared().lock().send_turn.take();
        }
    }

    fn end_turn(&mut self) {
        if core::mem::replace(&mut self.has_turn, false) && self.sk.shared().lock().send_turn.end()
        {
            self.sk.wake_calls();
            self.conn.notify_all_writers(self.sk);
        }
    }

    fn is_urgent(&self) -> bool {
        self.msg.flags & flags::OOB != 0
    }

    fn is_closed(&self) -> bool {
        !self.s.has(self.conn) || self.sk.has_error() || self.conn.send_closed()
    }

    fn send(&mut self) -> Result {
        loop {
            if self.is_closed() {
                return Err(EPIPE);
            }
            if self.msg.data.is_empty() {
                if self.lent == 0 {
                    return Ok(());
                }
                // What was not fetched is copied.
                self.finish_lending()?;
                continue;
            }
            if self.lends_next() {
                if self.lending == Lending::Retry && self.sent > 0 {
                    // The program leaves its memory alone after EAGAIN only.
                    return Ok(());
                }
                if self.conn.has_buffer_place() {
                    self.lend()?;
                    continue;
                }
                if self.lent > 0 {
                    self.finish_lending()?;
                    continue;
                }
                self.wait(|_, conn| conn.has_buffer_place())?;
                continue;
            }
            // What is copied must not come before what is lent, which may be taken back.
            if self.lent > 0 {
                self.finish_lending()?;
                continue;
            }
            let room = self.limit().saturating_sub(self.conn.copied());
            if room > 0 && self.conn.may_add(1) && self.conn.make_place()? {
                match self.copy(room) {
                    // There is memory again when what was written has been sent.
                    Err(e) if e == ENOBUFS && self.conn.copied() > 0 => {
                        self.conn.with(Machine::push);
                        self.wait(|_, conn| conn.copied() == 0)?;
                    }
                    copied => copied?,
                }
                continue;
            }
            // A caller that waits has no more to add.
            self.conn.with(Machine::push);
            self.wait(|sk, conn| conn.writable(sk) && conn.has_place())?;
        }
    }

    /// Whether bytes from the peer are unread here.
    fn is_unread(&mut self) -> bool {
        is_unread(self.s, self.conn)
    }

    /// Notes that this call and one of the peer's program wait for each other: the rest is copied,
    /// beyond `SO_SNDBUF` unless the program has set that.
    fn cross(&mut self) {
        self.s.stream.crossed_at = Some(self.s.stream.receives);
        self.crossed = true;
        self.lending = Lending::No;
    }

    /// How many copied bytes may be on their way to the peer.
    fn limit(&self) -> usize {
        let set = self.sk.send_buffer();
        if self.crossed && !self.sk.is_sndbuf_locked() {
            set.max(self.sk.max_send_buffer())
        } else {
            set
        }
    }

    /// Waits until there is `room`, or the stream takes no more.
    fn wait(&mut self, room: impl Fn(&Socket, &Conn) -> bool) -> Result {
        if self.sent == 0 {
            // Another task may make the next call, which gets its number.
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        let (sk, conn) = (self.sk, self.conn);
        let waited = self.wait_for_peer(Timeout::FOREVER, || {
            sk.has_error() || conn.send_closed() || conn.finds_room(sk, || room(sk, conn))
        });
        self.crossed &= matches!(waited, Ok(false));
        self.timeout.check(waited.map(|_| ()))
    }

    /// Waits until it is `done`, or the peer has made no progress for `patience`, or for
    /// [`CROSSED_MS`] while bytes from it are unread here. Tells whether it was done. Every sleep
    /// without the socket lock begins with this one.
    fn wait_for_peer(
        &mut self,
        patience: Timeout,
        done: impl Fn() -> bool,
    ) -> Result<bool, WaitError> {
        let conn = self.conn;
        self.take_turn();
        conn.arm_timer();
        loop {
            let before = conn.queued();
            let mut left = patience;
            let crossed = loop {
                let (unread, receives) = (self.is_unread(), self.s.stream.receives);
                let may_cross = unread && !self.crossed;
                let mut slice = match may_cross {
                    true => left.min(Timeout::from_ms(CROSSED_MS)),
                    false => left,
                };
                let whole = slice;
                let in_time = self.s.wait_slice(&mut self.timeout, &mut slice, |s| {
                    conn.has_returned(s, &done)
                        || s.stream.receives != receives
                        || is_unread(s, conn) != unread
                })?;
                if done() {
                    return Ok(true);
                }
                left.spend(whole, slice);
                if !in_time {
                    break may_cross;
                }
            };
            if conn.queued() >= before {
                if crossed {
                    self.cross();
                }
                return Ok(false);
            }
        }
    }

    /// The notice of the call, if it asks for one. From here on the call must not release the
    /// socket lock before it has sent something. Fails with `ENOBUFS`.
    fn notice(&mut self) -> Result<Option<Notice>> {
        if self.notice.is_none() {
            self.notice = self.msg.notice(self.s, self.msg.data.len())?;
        }
        Ok(self.notice.clone())
    }

    /// The size of a chunk for the next bytes, of which there is `room` for so many. If nothing
    /// waits to be sent, a small write gets a chunk for a few writes of its size.
    fn chunk_size(&self, room: usize) -> usize {
        let len = self.msg.data.len().min(room);
        if len > PAGE_SIZE || self.conn.copied() > 0 {
            return PAGE_SIZE << SEND_ORDER;
        }
        let few = len.saturating_mul(4).next_power_of_two();
        few.clamp(CHUNK_MIN, PAGE_SIZE)
    }

    /// Copies at most `room` bytes, and no more than one chunk holds, to the send stream. Fails
    /// with `ENOBUFS` where they cannot be charged, `ENOMEM`, `EFAULT`, and with `EPIPE` where the
    /// connection has ended.
    fn copy(&mut self, room: usize) -> Result {
        if let Some(notice) = self.notice()? {
            notice.copied();
        }
        let mut chunk = match self.conn.take_chunk() {
            Some(chunk) => chunk,
            None => {
                let mut size = self.chunk_size(room);
                if let Err(e) = self.conn.charge_send(size) {
                    // A page is charged from the start, so that what was connected can send.
                    if self.conn.copied() > 0 || size <= PAGE_SIZE {
                        return Err(e);
                    }
                    size = PAGE_SIZE;
                    self.conn.charge_send(size)?;
                }
                SendBuf::new(size)?
            }
        };
        // The piece behind one that is too small to be lent may be large enough.
        let room = match self.lending {
            Lending::No => room,
            _ => room.min(pages::source_extent(self.msg.data).max(1)),
        };
        let piece = chunk.append_iter(self.msg.data, room);
        self.conn.keep_chunk(chunk);
        let piece = piece.ok_or(EFAULT)?;
        let len = piece.len();
        // There is a place for it, unless the connection has ended: nobody else adds any.
        // As with TCP, of a call that ends for want of room it is the last that was taken.
        let ends = self.msg.data.is_empty() || (len == room && self.timeout.is_zero());
        let urgent = self.is_urgent() && ends;
        self.conn.write(piece, urgent).map_err(|_| EPIPE)?;
        self.conn.count(Counter::SentCopied, len as u64);
        self.sent = self.sent.saturating_add(len);
        Ok(())
    }

    fn lends_next(&mut self) -> bool {
        self.lending != Lending::No && pages::source_extent(self.msg.data) >= self.least
    }

    /// Lends the next piece, or finds that the rest of the call cannot be lent. Fails with
    /// `ENOBUFS` where there is no notice, and with `EPIPE` where the connection does not take the
    /// piece.
    fn lend(&mut self) -> Result {
        let notice = self.notice()?;
        if notice.is_none()
            && self.lending == Lending::Beyond
            && self.msg.flags & flags::SPLICE_PAGES == 0
        {
            // MSG_ZEROCOPY without SO_ZEROCOPY has no effect.
            let addr = pages::source_address(self.msg.data);
            self.lending = Self::own(self.s, self.timeout, addr);
            return Ok(());
        }
        let memlock = match notice {
            Some(_) => Memlock::Paid,
            None => Memlock::Task,
        };
        let before = self.msg.data.len();
        let max_pages = self.conn.max_buffer_pages();
        // Parts of one size, lest the last be too small to be lent, and of whole pages.
        let at = pages::source_address(self.msg.data) % PAGE_SIZE;
        let all = at.saturating_add(pages::source_extent(self.msg.data));
        let all = all.div_ceil(PAGE_SIZE);
        let part = all.div_ceil(all.div_ceil(max_pages.max(1)).max(1));
        let max = part.saturating_mul(PAGE_SIZE).saturating_sub(at);
        let pages = Pages::of_source(self.msg.data, max, max_pages, memlock);
        let taken = before.saturating_sub(self.msg.data.len());
        let conn = self.conn;
        let memory = match conn.register_pinned(pages, Access::RemoteRead) {
            Ok(memory) => memory,
            Err((counter, _)) => {
                self.msg.revert(taken);
                conn.count(counter, 1);
                self.lending = Lending::No;
                return Ok(());
            }
        };
        let waiter = match self.lending {
            Lending::Beyond => Waiter::Work { _notice: notice },
            _ => Waiter::Call,
        };
        let is_call = waiter.is_call();
        if let Err(memory) = self.conn.send_memory(memory, waiter) {
            // The connection is about to end, which the next check finds.
            drop(memory);
            self.msg.revert(taken);
            return if self.is_closed() { Ok(()) } else { Err(EPIPE) };
        }
        if is_call {
            self.lent = self.lent.saturating_add(taken);
        } else {
            self.sent = self.sent.saturating_add(taken);
        }
        Ok(())
    }

    /// Waits until nothing is lent any more: the peer has fetched it, or was told to give it up,
    /// because it made no progress or the caller waits no longer. Fails with `EAGAIN` where a call
    /// leaves its buffer here, and as a wait does.
    fn finish_lending(&mut self) -> Result {
        if self.lent == 0 {
            return Ok(());
        }
        let conn = self.conn;
        let is_returned = || conn.call().left == 0;
        if self.lending == Lending::Retry && !conn.finds_room(self.sk, is_returned) {
            let lent = core::mem::take(&mut self.lent);
            self.msg.revert(lent);
            let addr = pages::source_address(self.msg.data);
            let kept = Kept::new(addr, self.msg.data.len(), lent);
            self.sk.shared().lock().kept_send = Some(kept);
            return Err(EAGAIN);
        }
        let waited = self.wait_for_peer(Timeout::from_ms(LEND_TIMEOUT_MS), || {
            conn.call().left == 0 || conn.send_closed()
        });
        match waited {
            // Where another thread has ended the stream the peer is not waited for, as with TCP.
            Ok(true) => {}
            Ok(false) => {
                conn.count(Counter::CancelsTimeout, 1);
                self.lending = Lending::No;
            }
            Err(WaitError::TimedOut) => conn.count(Counter::CancelsTimeout, 1),
            Err(WaitError::Signal) => conn.count(Counter::CancelsSignal, 1),
        }
        let call = conn.call();
        if let Some(first) = call.first.filter(|_| call.left > 0) {
            conn.with(|m| m.withdraw_send(first));
            conn.wait_return(self.s, RETURN_MS, || conn.call().left == 0);
        }
        let bytes = conn.call().bytes.min(self.lent);
        self.msg.revert(self.lent.saturating_sub(bytes));
        self.sent = self.sent.saturating_add(bytes);
        self.lent = 0;
        conn.begin_call();
        self.timeout.check(waited.map(|_| ()))
    }
}
