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
        Account,
        Pages, //
    },
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::{
            SockGuard,
            Timeout,
            WaitError, //
        },
        zerocopy::Notice,
    },
    prelude::*,
    proto::Machine,
    rdma::{
        buf::SendBuf,
        mr::Access, //
    },
    sock::{
        buffers::Owner,
        conn::Conn,
        kept::{
            Kept,
            RETURN_MS, //
        },
        recv,
        stats::Counter,
        transmit::SEND_ORDER,
        Locked,
        Sdp,
        Socket,
        State, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    sync::Arc, //
};

/// The smallest chunk of the send stream, in bytes.
const CHUNK_MIN: usize = 512;

/// How long the peer may make no progress with what is lent to it, in milliseconds, before the
/// rest is copied.
const PATIENCE_MS: u32 = 2000;

/// The same while bytes of the peer's wait here and nobody reads them: its program may be in such a
/// call too. Then they have crossed, and each has to return for its program to read.
const CROSSED_MS: u32 = 50;

/// `sendmsg(2)`.
///
/// Takes bytes as long as `SO_SNDBUF` has room, or lends them. The caller raises SIGPIPE where the
/// error asks for it.
pub(super) fn sendmsg(sk: &Socket, msg: SendMsg<'_>) -> Result<usize> {
    if msg.flags & flags::OOB != 0 || msg.has_control {
        return Err(EOPNOTSUPP);
    }
    let mut timeout = sk.send_timeout(msg.nonblock());
    let mut s = sk.lock();
    let turn = s.wait(&mut timeout, |s| {
        !matches!(s.state(), State::Connecting) && s.send_turn.ask()
    });
    turn.map_err(|woken| timeout.error(woken))?;
    let conn = match (s.state(), &s.conn) {
        (State::Connected, Some(conn)) => conn.clone(),
        _ => return Err(EPIPE),
    };
    s.send_turn.take();
    let mut call = Sending::new(sk, &mut s, &conn, msg, timeout);
    let result = call.run();
    if s.send_turn.end() {
        sk.write_space();
    }
    result
}

/// Takes back what a call left here and never asked for again.
pub(super) fn give_up_kept(s: &mut Locked, conn: &Conn) {
    if s.kept_send.take().is_some() {
        conn.count(Counter::CancelsRetry, 1);
        if let Some(first) = conn.call().first {
            conn.with(|m| m.withdraw_send(first));
        }
        conn.disown_call();
    }
}

/// Whether bytes of the peer's wait here and nobody reads them, which includes those in memory that a
/// call left here until it is made again.
fn is_unread(s: &mut Locked, conn: &Conn) -> bool {
    recv::unread(s) > 0 || (s.kept_recv.is_some() && conn.are_reads_over())
}

/// Whether, and to whose account, a call lends its memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lending {
    /// Not at all.
    No,
    /// Until it returns.
    Call,
    /// Until it is made again, since it must not sleep.
    Retry,
    /// Until its notice is given, or, for pages of the kernel, until the peer has them.
    Beyond,
}

/// A call that has the turn to send.
struct Sending<'a, 'g, 'm> {
    sk: &'a Socket,
    s: &'a mut SockGuard<'g, Sdp>,
    conn: &'a Arc<Conn>,
    msg: SendMsg<'m>,
    timeout: Timeout,
    lending: Lending,
    /// The least piece that is lent.
    least: usize,
    /// Bytes that were copied, or of which the peer has what it will get.
    sent: usize,
    /// Bytes that are lent until the call returns.
    lent: usize,
    notice: Option<Notice>,
    /// The peer and this end wait for each other.
    crossed: bool,
}

impl<'a, 'g, 'm> Sending<'a, 'g, 'm> {
    fn new(
        sk: &'a Socket,
        s: &'a mut SockGuard<'g, Sdp>,
        conn: &'a Arc<Conn>,
        msg: SendMsg<'m>,
        timeout: Timeout,
    ) -> Self {
        // CAST: `usize` has at least 32 bits.
        let threshold = s.options.zcopy_threshold as usize;
        let beyond = msg.flags & (flags::SPLICE_PAGES | flags::ZEROCOPY) != 0;
        let lending = match threshold {
            0 => Lending::No,
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
            least,
            sent: 0,
            lent: 0,
            notice: None,
            crossed: false,
        };
        if call.s.stream.crossed_at == Some(call.s.stream.taken) && call.is_unread() {
            call.cross();
        }
        call
    }

    /// How a call lends that did not say `MSG_ZEROCOPY`.
    fn own(s: &Locked, timeout: Timeout, addr: usize) -> Lending {
        match timeout.is_zero() {
            false => Lending::Call,
            true if s.options.zcopy_retry && addr != 0 => Lending::Retry,
            true => Lending::No,
        }
    }

    fn run(&mut self) -> Result<usize> {
        self.resume()?;
        let result = self.take_back().and_then(|()| self.send());
        // Whatever happened, the memory of the caller is the caller's, unless it left it here.
        let returned = self.take_back();
        if self.sent == 0 {
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        if self.msg.flags & flags::MORE == 0 {
            self.conn.with(Machine::push);
        }
        self.conn.arm_held();
        match result.and(returned) {
            Err(e) if self.sent == 0 => Err(e),
            _ => Ok(self.sent),
        }
    }

    /// Goes on with a call that left its buffer here, which is the only one that may be made now.
    fn resume(&mut self) -> Result {
        let Some(kept) = self.s.kept_send.take() else {
            self.conn.begin_call();
            return Ok(());
        };
        let addr = pages::source_address(self.msg.data);
        if !kept.is_of(addr, self.msg.data.len()) {
            self.s.kept_send = Some(kept);
            return Err(EBUSY);
        }
        self.msg.data.advance(kept.lent);
        self.lent = kept.lent;
        if self.timeout.is_zero() {
            self.lending = Lending::Retry;
        }
        Ok(())
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
                // Whatever comes back is to be copied.
                self.take_back()?;
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
                    self.take_back()?;
                    continue;
                }
                self.wait(|_, conn| conn.has_buffer_place())?;
                continue;
            }
            // What is copied must not come before what is lent, which may be taken back.
            if self.lent > 0 {
                self.take_back()?;
                continue;
            }
            let room = self.limit().saturating_sub(self.conn.copied());
            if room > 0 && self.conn.make_place()? {
                match self.copy(room) {
                    // There is memory again when what was written has gone.
                    Err(e) if e == ENOBUFS && self.conn.copied() > 0 => {
                        self.conn.with(Machine::push);
                        self.wait(|_, conn| conn.copied() == 0)?;
                    }
                    copied => copied?,
                }
                continue;
            }
            // Who waits has no more to add.
            self.conn.with(Machine::push);
            self.wait(|sk, conn| conn.writable(sk) && conn.has_place())?;
        }
    }

    /// Whether bytes of the peer's wait here and nobody reads them.
    fn is_unread(&mut self) -> bool {
        is_unread(self.s, self.conn)
    }

    /// This call and one of the peer's program wait for each other: what is left is copied, beyond
    /// `SO_SNDBUF` unless that was set.
    fn cross(&mut self) {
        self.s.stream.crossed_at = Some(self.s.stream.taken);
        self.crossed = true;
        self.lending = Lending::No;
    }

    /// Bytes that may be copied and not have reached the peer.
    fn limit(&self) -> usize {
        let set = self.sk.send_buffer();
        if self.crossed && !self.sk.is_sndbuf_locked() {
            set.max(self.sk.max_send_buffer())
        } else {
            set
        }
    }

    /// Waits for room of some kind, or until the stream takes no more.
    fn wait(&mut self, room: impl Fn(&Socket, &Conn) -> bool) -> Result {
        if self.sent == 0 {
            // Its number is the next call's, which may be another task's.
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        let (sk, conn) = (self.sk, self.conn);
        let waited = self.wait_for_peer(Timeout::FOREVER, || {
            sk.has_error() || conn.send_closed() || room(sk, conn)
        });
        self.crossed &= matches!(waited, Ok(false));
        self.woken(waited.map(|_| ()))
    }

    /// Waits until it is `done`, or the peer has made no progress for `patience`, or for a shorter time in
    /// which its own bytes were not read here: whether it was done.
    fn wait_for_peer(
        &mut self,
        patience: Timeout,
        done: impl Fn() -> bool,
    ) -> Result<bool, WaitError> {
        let conn = self.conn;
        loop {
            let before = conn.queued();
            let mut left = patience;
            let crossed = loop {
                let (unread, taken) = (self.is_unread(), self.s.stream.taken);
                let may_cross = unread && !self.crossed;
                let mut slice = match may_cross {
                    true => left.min(Timeout::from_ms(CROSSED_MS)),
                    false => left,
                };
                let whole = slice;
                let in_time = self.s.wait_slice(&mut self.timeout, &mut slice, |s| {
                    done() || s.stream.taken != taken || is_unread(s, conn) != unread
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

    fn woken(&self, woken: Result<(), WaitError>) -> Result {
        woken.map_err(|woken| self.timeout.error(woken))
    }

    /// The notice of the call, which must not sleep without the lock before it has sent something.
    fn notice(&mut self) -> Result<Option<Notice>> {
        if self.notice.is_none() {
            self.notice = self.msg.notice(self.s, self.msg.data.len())?;
        }
        Ok(self.notice.clone())
    }

    /// The size of a chunk for the next bytes, of which there is `room` for so many. The chunk of a small
    /// write is for a few of them if no other wait.
    fn chunk_size(&self, room: usize) -> usize {
        let len = self.msg.data.len().min(room);
        if len > PAGE_SIZE || self.conn.copied() > 0 {
            return PAGE_SIZE << SEND_ORDER;
        }
        let few = len.saturating_mul(4).next_power_of_two();
        few.clamp(CHUNK_MIN, PAGE_SIZE)
    }

    /// Copies at most `room` bytes, and what one chunk holds, to the send stream.
    fn copy(&mut self, room: usize) -> Result {
        if let Some(notice) = self.notice()? {
            notice.copied();
        }
        let mut chunk = match self.s.stream.tx.take() {
            Some(chunk) if chunk.room() > 0 => chunk,
            _ => {
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
        // What comes behind a piece too small to be lent may be large enough.
        let room = match self.lending {
            Lending::No => room,
            _ => room.min(pages::source_extent(self.msg.data).max(1)),
        };
        let piece = chunk.append_iter(self.msg.data, room);
        // It may stay for as long as nothing is sent.
        self.s.stream.tx = Some(chunk).filter(|chunk| chunk.room() > 0);
        let piece = piece.ok_or(EFAULT)?;
        let len = piece.len();
        // The caller saw a place for it, and adds alone: it is gone with the connection only.
        self.conn.write(piece).map_err(|_| EPIPE)?;
        self.conn.count(Counter::SentCopied, len as u64);
        self.sent = self.sent.saturating_add(len);
        Ok(())
    }

    fn lends_next(&mut self) -> bool {
        self.lending != Lending::No && pages::source_extent(self.msg.data) >= self.least
    }

    /// Lends what is next, or finds that the rest of the call cannot be lent.
    fn lend(&mut self) -> Result {
        let notice = self.notice()?;
        if notice.is_none()
            && self.lending == Lending::Beyond
            && self.msg.flags & flags::SPLICE_PAGES == 0
        {
            // MSG_ZEROCOPY without SO_ZEROCOPY means nothing.
            let addr = pages::source_address(self.msg.data);
            self.lending = Self::own(self.s, self.timeout, addr);
            return Ok(());
        }
        let account = match notice {
            Some(_) => Account::Paid,
            None => Account::Task,
        };
        let before = self.msg.data.len();
        let max_pages = self.conn.max_buffer_pages();
        // Parts alike, lest the last be too small to be lent, and whole pages but for the ends.
        let at = pages::source_address(self.msg.data) % PAGE_SIZE;
        let all = at.saturating_add(pages::source_extent(self.msg.data));
        let all = all.div_ceil(PAGE_SIZE);
        let part = all.div_ceil(all.div_ceil(max_pages.max(1)).max(1));
        let max = part.saturating_mul(PAGE_SIZE).saturating_sub(at);
        let pages = Pages::of_source(self.msg.data, max, max_pages, account);
        let taken = before.saturating_sub(self.msg.data.len());
        let conn = self.conn;
        let memory = pages
            .map_err(|e| match e {
                e if e == ENOBUFS => Counter::NoMemlock,
                _ => Counter::NoPages,
            })
            .and_then(|pages| {
                let memory = conn.register(pages, Access::RemoteRead);
                memory.map_err(|_| Counter::NoMr)
            });
        let memory = match memory {
            Ok(memory) => memory,
            Err(counter) => {
                self.msg.take_back(taken);
                self.conn.count(counter, 1);
                self.lending = Lending::No;
                return Ok(());
            }
        };
        let owner = match self.lending {
            Lending::Beyond => Owner::Work { _notice: notice },
            _ => Owner::Call,
        };
        let is_call = owner.is_call();
        if let Err(memory) = self.conn.send_memory(memory, owner) {
            // The connection is about to end, which is seen next.
            drop(memory);
            self.msg.take_back(taken);
            return if self.is_closed() { Ok(()) } else { Err(EPIPE) };
        }
        if is_call {
            self.lent = self.lent.saturating_add(taken);
        } else {
            self.sent = self.sent.saturating_add(taken);
        }
        Ok(())
    }

    /// Waits until the caller has back what is lent: the peer has fetched it, or was asked to let it
    /// go since it made no progress, or the caller waits no longer.
    fn take_back(&mut self) -> Result {
        if self.lent == 0 {
            return Ok(());
        }
        let conn = self.conn;
        if self.lending == Lending::Retry && conn.call().left > 0 {
            let lent = core::mem::take(&mut self.lent);
            self.msg.take_back(lent);
            self.s.kept_send = Some(Kept {
                mm: pages::current_mm(),
                addr: pages::source_address(self.msg.data),
                len: self.msg.data.len(),
                lent,
            });
            return Err(EAGAIN);
        }
        let waited = self.wait_for_peer(Timeout::from_ms(PATIENCE_MS), || conn.call().left == 0);
        match waited {
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
        self.msg.take_back(self.lent.saturating_sub(bytes));
        self.sent = self.sent.saturating_add(bytes);
        self.lent = 0;
        conn.begin_call();
        self.woken(waited.map(|_| ()))
    }
}
