// SPDX-License-Identifier: GPL-2.0

//! recvmsg: by copy out of received messages, or by fetching what the peer advertises straight into
//! the caller's pages.
//!
//! What is advertised has its place in the stream: bytes that came behind it wait until it was
//! fetched, or was declined and came by messages after all.

use crate::{
    mm::pages::{
        self,
        Memlock,
        Pages, //
    },
    net::{
        msg::{
            flags,
            RecvMsg, //
        },
        sock::{
            SockGuard,
            Timeout,
            WaitError, //
        },
        stamp::Stamp,
        wait::{
            is_signal_pending,
            OpenGuard, //
        },
    },
    prelude::*,
    proto::{
        Machine,
        Readable, //
    },
    rdma::mr::Access,
    sock::{
        ahead::Ahead,
        buffers::BUFFERS,
        conn::Conn,
        kept::Kept,
        locked::{
            Locked,
            SocketState, //
        },
        mark::{
            distance,
            Upcoming, //
        },
        recv_buffers::Unread,
        ring::Ring,
        shared,
        stats::Counter,
        stream::More,
        types::{
            OpenSocket,
            Sdp,
            Socket, //
        },
        urgent,
        zcopy::RETURN_MS, //
    }, //
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

/// The most bytes that one RDMA Read fetches. Each is reported when it completes, so that a peer
/// that waits sees progress; the next is in flight by then.
const FETCH_MAX: usize = 256 << 10;

/// How long one RDMA Read may take, in milliseconds.
const READ_MS: u32 = 60_000;

/// `recvmsg(2)`.
///
/// Returns what there is, once it is as much as `SO_RCVLOWAT` or `MSG_WAITALL` ask for, or no more
/// can come. Sleeps.
pub(super) fn recvmsg(sk: &OpenSocket, mut msg: RecvMsg<'_>) -> Result<usize> {
    let Received { bytes, stamp, left } = receive(sk, &mut msg)?;
    if let Some(stamp) = stamp {
        msg.put_timestamps(sk, stamp);
    }
    if let Some((left, has_asked)) = left {
        msg.put_unread(left, has_asked);
    }
    Ok(bytes)
}

/// What a call received.
struct Received {
    bytes: usize,
    /// When the last of them came, where the program has asked.
    stamp: Option<Stamp>,
    /// Where somebody wants to know, how many are left, and whether that is the program.
    left: Option<(c_int, bool)>,
}

impl Received {
    /// So many bytes that do not belong to the stream, of which nothing else is told.
    fn aside(bytes: usize) -> Self {
        Self {
            bytes,
            stamp: None,
            left: None,
        }
    }
}

/// The connection to receive from, once it is no longer being made; none where the socket was shut
/// before it had one, and there is nothing to receive. Sleeps. Fails with `ENOTCONN` where there is
/// none, after the error that waits for the next call, with `EPIPE` where another thread has
/// disconnected the socket meanwhile, and as a wait does.
pub(super) fn connection(
    s: &mut OpenGuard<'_, Sdp>,
    timeout: &mut Timeout,
) -> Result<Option<Arc<Conn>>> {
    let disconnects = s.slot.disconnects();
    let waited = s.wait(timeout, |s| !matches!(s.state(), SocketState::Connecting));
    timeout.check(waited)?;
    if s.slot.disconnects() != disconnects {
        return Err(EPIPE);
    }
    match (s.state(), s.conn()) {
        (SocketState::Connected, Some(conn)) => Ok(Some(conn.clone())),
        (state, _) => {
            let is_shut = s.sock().shared().lock().recv_shut && state == SocketState::Idle;
            s.sock().take_error()?;
            if is_shut {
                Ok(None)
            } else {
                Err(ENOTCONN)
            }
        }
    }
}

fn receive(sk: &OpenSocket, msg: &mut RecvMsg<'_>) -> Result<Received> {
    let flags = msg.flags;
    if msg.flags & flags::ERRQUEUE != 0 {
        return sk.recv_errqueue(msg).map(Received::aside);
    }
    if msg.flags & flags::OOB != 0 {
        return urgent::recv_urgent(sk, msg).map(Received::aside);
    }
    let mut timeout = sk.recv_timeout(msg.nonblock());
    let target = sk.recv_target(msg.flags & flags::WAITALL != 0, msg.data.len());
    let mut s = sk.lock();
    let Some(conn) = connection(&mut s, &mut timeout)? else {
        return Ok(Received::aside(0));
    };
    let may_sleep = !timeout.is_zero();
    let mut call = Receiving {
        may_sleep,
        sk,
        s: &mut s,
        conn: &conn,
        msg,
        timeout,
        target,
        has_turn: false,
        copied: 0,
        stamp: None,
        peeked: sk.peek_offset(flags & flags::PEEK != 0),
    };
    let (bytes, stamp) = match call.resume().and_then(|()| call.run()) {
        Err(e) if call.copied == 0 => return Err(e),
        _ => (call.copied, call.stamp),
    };
    sk.move_peek_offset(bytes, flags & flags::PEEK != 0);
    let has_asked = s.options.inq;
    let left = (has_asked || msg.wants_unread()).then(|| {
        // As with TCP the end is to be read as well.
        let left = unread(&s).max(usize::from(conn.recv_closed()));
        (c_int::try_from(left).unwrap_or(c_int::MAX), has_asked)
    });
    Ok(Received { bytes, stamp, left })
}

/// A call that receives.
struct Receiving<'a, 'g, 'm> {
    sk: &'a Socket,
    s: &'a mut OpenGuard<'g, Sdp>,
    conn: &'a Arc<Conn>,
    msg: &'a mut RecvMsg<'m>,
    timeout: Timeout,
    /// Whether the call may sleep at all.
    may_sleep: bool,
    /// Bytes that it waits for.
    target: usize,
    /// It has the turn.
    has_turn: bool,
    /// Bytes that it returns.
    copied: usize,
    /// When the last of them came, where the program has asked.
    stamp: Option<Stamp>,
    /// Bytes that a peek has already returned, or leaves out (`SO_PEEK_OFF`).
    peeked: usize,
}

impl Receiving<'_, '_, '_> {
    /// Continues a call that left its buffer here. Fails with `EBUSY` if this is another call, and
    /// with `EAGAIN` while the fabric uses the buffer.
    fn resume(&mut self) -> Result {
        self.await_turn()?;
        let (addr, len) = (pages::dest_address(self.msg.data), self.msg.data.len());
        let shared = self.sk.shared();
        let kept = shared.lock().kept_recv.clone();
        let is_own = |kept: &Kept| kept.is_of(addr, len) && self.msg.flags & flags::PEEK == 0;
        let Some(kept) = kept.filter(is_own) else {
            return check_kept(self.s, self.conn);
        };
        if !self.may_sleep && !self.conn.finds_reads_over() {
            return Err(EAGAIN);
        }
        self.msg.data.advance(kept.lent);
        // Dropped without the spinlock.
        let _kept = {
            let mut shared = shared.lock();
            shared.recv_turn.take();
            shared.kept_recv.take()
        };
        self.has_turn = true;
        self.finish();
        self.end_turn();
        Ok(())
    }

    /// Waits until no other call has the turn. Fails as a wait does.
    fn await_turn(&mut self) -> Result {
        let shared = self.sk.shared();
        let turn = self
            .s
            .wait(&mut self.timeout, |_| shared.lock().recv_turn.ask());
        self.timeout.check(turn)
    }

    /// Takes the turn, if the call has not got it: before it sleeps without the socket lock, or
    /// changes what others find to be read.
    fn take_turn(&mut self) {
        if !core::mem::replace(&mut self.has_turn, true) {
            self.sk.shared().lock().recv_turn.take();
        }
    }

    fn end_turn(&mut self) {
        if core::mem::replace(&mut self.has_turn, false) && self.sk.shared().lock().recv_turn.end()
        {
            shared::notify_readers(self.sk);
        }
    }

    fn run(&mut self) -> Result {
        let (sk, conn) = (self.sk, self.conn);
        let peek = self.msg.flags & flags::PEEK != 0;
        loop {
            // What another call fetches, or waits for with its own memory, comes first.
            self.await_turn()?;
            check_kept(self.s, conn)?;
            if !self.s.has(conn) {
                // Another thread has disconnected the socket.
                return Err(EPIPE);
            }
            let inline = sk.is_oob_inline();
            let Upcoming { advertised, mark } = self.s.stream.take_over(conn, sk)?;
            if self.copied == 0 && self.is_at(mark, advertised) && is_signal_pending() {
                // SIGURG comes first.
                return self.timeout.check(Err(match self.timeout.is_zero() {
                    true => WaitError::TimedOut,
                    false => WaitError::Signal,
                }));
            }
            let stop = Stop {
                before: advertised,
                mark,
                inline,
                copied: self.copied > 0,
            };
            let (n, whole) = if peek {
                let (n, skipped, whole) =
                    copy_peeked(self.s, self.msg, self.peeked, &stop, &mut self.stamp);
                self.peeked = self.peeked.saturating_add(n).saturating_add(skipped);
                (n, whole)
            } else {
                deliver(self.s, conn, self.msg, &stop, &mut self.stamp)
            };
            let next = advertised;
            self.copied = self.copied.saturating_add(n);
            if !whole {
                return Err(EFAULT);
            }
            if self.copied > 0 && self.is_at(mark, advertised) {
                return Ok(());
            }
            // All before it was read, or peeked at.
            let is_next = next.is_some_and(|next| before(self.s, next) <= self.peeked);
            if is_next && !self.msg.data.is_empty() && fetchable(self.s) > 0 {
                if !self.may_sleep && self.s.options.zcopy_retry && self.copied > 0 {
                    // The program leaves its memory alone after EAGAIN only.
                    return Ok(());
                }
                if self.fetch()? {
                    continue;
                }
            }
            // A call without room waits for data all the same.
            let is_full =
                self.msg.data.is_empty() && (self.copied > 0 || unread(self.s) > self.peeked);
            if is_full || self.copied >= self.target || (peek && self.is_all()) {
                return Ok(());
            }
            match self.s.stream.more(conn, sk, self.copied > 0)? {
                More::Here => continue,
                More::Later => {}
                More::Never => return Ok(()),
            }
            if self.may_offer() && self.offer()? {
                continue;
            }
            let (peeked, copied) = (self.peeked, self.copied);
            let woken = self.s.wait_data(&mut self.timeout, |s| {
                !s.has(conn)
                    || unread(s) > peeked
                    || (peek && copied > 0 && is_starved(s))
                    || conn.is_over()
                    || sk.has_error()
            });
            self.timeout.check(woken)?;
            if self.s.has(conn) && sk.has_error() && !conn.recv_closed() {
                return if self.copied == 0 {
                    sk.take_error()
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Whether the call is at the mark, with nothing before that which is advertised.
    fn is_at(&self, mark: Option<u64>, advertised: Option<Readable>) -> bool {
        let at = self.s.stream.consumed.wrapping_add(self.peeked as u64);
        mark == Some(at) && advertised.is_none_or(|next| next.after != at)
    }

    /// Whether a peek has found something, and no more can come.
    fn is_all(&mut self) -> bool {
        // What came just now is peeked at first.
        self.copied > 0 && is_starved(self.s) && unread(self.s) <= self.peeked
    }

    /// Whether the caller's memory is to be offered to the peer: it is large, nothing is there to
    /// be read, what came last came without a copy, and the call need not be filled (B-46).
    fn may_offer(&mut self) -> bool {
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
    /// no longer. Tells whether it was offered. Fails as a wait does.
    fn offer(&mut self) -> Result<bool> {
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
        self.take_turn();
        let sk = self.sk;
        let woken = self.s.wait_data(&mut self.timeout, |s| {
            conn.is_offer_due(target)
                || conn.recv_shut.load(Relaxed)
                || !s.has(conn)
                || sk.has_error()
        });
        if !conn.are_offers_over() {
            conn.with(Machine::cancel_offers);
            conn.wait_return(self.s, RETURN_MS, || conn.are_offers_over());
        }
        let received = self.gather(&parts);
        let asked = parts.iter().map(Pages::len).fold(0, usize::saturating_add);
        self.msg.revert(asked.saturating_sub(received));
        self.copied = self.copied.saturating_add(received);
        self.s.stream.last_was_zcopy = received > 0;
        self.s.stream.receives = self.s.stream.receives.wrapping_add(u64::from(received > 0));
        self.end_turn();
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

    /// Moves together what came while `parts` of the caller's memory were offered, which are over.
    /// Returns the number of bytes.
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
                conn.has_returned(s, || conn.are_offers_over())
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

    /// Fetches what the peer advertises, or declines it. Tells whether something was fetched. Fails
    /// with `EAGAIN` where the call leaves its buffer here.
    fn fetch(&mut self) -> Result<bool> {
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
            if !self.may_sleep && !self.conn.finds_reads_over() {
                let lent = room.saturating_sub(self.msg.data.len());
                self.msg.revert(lent);
                let addr = pages::dest_address(self.msg.data);
                let kept = Kept::new(addr, room, lent);
                self.sk.shared().lock().kept_recv = Some(kept);
                return Err(EAGAIN);
            }
            Ok(self.finish())
        });
        self.end_turn();
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
                    self.take_turn();
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

    /// Waits until all RDMA Reads that were started are over: the device uses the caller's memory
    /// until then. Tells whether they brought anything.
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
            conn.wait_return(self.s, READ_MS, || conn.is_read_over());
        }
        self.msg.revert(missing);
        self.s.stream.last_was_zcopy |= any;
        self.s.stream.receives = self.s.stream.receives.wrapping_add(1);
        any
    }
}

/// Takes back a buffer that a call left here (`SDP_ZCOPY_RETRY`), when the socket is closed or
/// disconnected. That breaks the connection. Sleeps.
pub(super) fn give_up_kept(s: &mut OpenGuard<'_, Sdp>, conn: &Conn) {
    let kept = s.sock().shared().lock().kept_recv.take();
    if kept.is_some() {
        conn.count(Counter::CancelsRetry, 1);
        conn.fail(ECONNRESET);
        while conn.is_reading() {
            if conn.take_read().is_none() {
                s.wait_through(Timeout::FOREVER, |_| conn.is_read_over());
            }
        }
    }
}

/// Fails with `EBUSY` while a buffer is left here. One of a process that is gone is taken back:
/// what came to it is lost, and so the connection. Sleeps.
pub(super) fn check_kept(s: &mut OpenGuard<'_, Sdp>, conn: &Conn) -> Result {
    let kept = s.sock().shared().lock().kept_recv.clone();
    match kept {
        None => return Ok(()),
        Some(kept) if !kept.is_abandoned() => return Err(EBUSY),
        Some(_) => {}
    }
    give_up_kept(s, conn);
    // What came behind is not to be taken for what is lost.
    conn.drop_unread(core::mem::replace(&mut s.stream.rx, Ring::empty()));
    Ok(())
}

/// What there is to be read, if no other call has the turn, and whether what the peer advertises
/// can be fetched. Who finds none for that reason is woken when the turn ends.
fn ahead<F>(s: &SockGuard<'_, Sdp, F>) -> Option<(Ahead, bool)> {
    let fetches = {
        let mut shared = s.sock().shared().lock();
        shared
            .recv_turn
            .ask()
            .then_some(shared.kept_recv.is_none())?
    };
    Some((s.conn()?.ahead(s.sock()), fetches))
}

/// Whether something has to be read before more can come, however little that is: messages take up
/// buffers, not bytes. With the socket locked.
pub(super) fn is_starved<F>(s: &SockGuard<'_, Sdp, F>) -> bool {
    ahead(s).is_some_and(|(ahead, fetches)| ahead.is_starved(fetches))
}

/// Bytes that can be read without waiting for the peer's program; none while another call has the
/// turn.
pub(super) fn unread<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    ahead(s).map_or(0, |(ahead, fetches)| ahead.unread(fetches))
}

/// As [`unread`], but only up to an urgent byte that is not read in line.
pub(super) fn unread_to_mark<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    ahead(s).map_or(0, |(ahead, fetches)| ahead.unread_to_mark(fetches))
}

/// Bytes that the peer advertises next; none while another call is fetching them. Who finds none
/// for that reason is woken.
pub(super) fn fetchable<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    let advertised = s.conn().map_or(0, |conn| conn.advertised());
    let mut shared = s.sock().shared().lock();
    if advertised > 0 && shared.kept_recv.is_none() && shared.recv_turn.ask() {
        advertised
    } else {
        0
    }
}

/// Unread bytes that come before what the peer advertises. With the socket locked.
pub(super) fn before(s: &Locked, next: Readable) -> usize {
    usize::try_from(next.after.wrapping_sub(s.stream.consumed)).unwrap_or(usize::MAX)
}

/// What a read does not go beyond.
struct Stop {
    /// The peer's memory that is to be fetched first.
    before: Option<Readable>,
    /// The urgent byte, which is read in line or left out.
    mark: Option<u64>,
    inline: bool,
    /// The call has bytes already, and ends at the mark.
    copied: bool,
}

/// Copies what there is before `stop` to the caller, or drops it for `MSG_TRUNC`. Returns the
/// number of bytes, and whether all that fits could be stored; `stamp` is when the last of them
/// came.
fn deliver(
    s: &mut Locked,
    conn: &Conn,
    msg: &mut RecvMsg<'_>,
    stop: &Stop,
    stamp: &mut Option<Stamp>,
) -> (usize, bool) {
    let mut left = stop.before.map_or(usize::MAX, |next| before(s, next));
    let mut copied: usize = 0;
    let mut whole = true;
    while !msg.data.is_empty() && left > 0 && whole {
        let to_mark = distance(stop.mark, s.stream.consumed);
        if to_mark == Some(0) && (stop.copied || copied > 0) {
            break;
        }
        let Some(front) = s.stream.rx.front_mut() else {
            break;
        };
        if to_mark == Some(0) && !stop.inline {
            s.stream.consume(conn, 1);
            left = left.saturating_sub(1);
            continue;
        }
        let to_mark = to_mark.filter(|bytes| *bytes > 0).unwrap_or(usize::MAX);
        let bytes = front.bytes(0);
        let wanted = bytes.len().min(msg.data.len()).min(left).min(to_mark);
        *stamp = front.stamp.or(*stamp);
        let n = give(msg, bytes.get(..wanted).unwrap_or(&[]));
        s.stream.consume(conn, n);
        left = left.saturating_sub(n);
        copied = copied.saturating_add(n);
        whole = n == wanted;
    }
    conn.pass_mark(stop.mark, s.stream.consumed);
    if copied > 0 {
        conn.count(Counter::RecvCopied, copied as u64);
        s.stream.last_was_zcopy = false;
    }
    (copied, whole)
}

/// Copies bytes to the caller, or drops them for `MSG_TRUNC`: how many. There is room for all.
fn give(msg: &mut RecvMsg<'_>, bytes: &[u8]) -> usize {
    if msg.flags & flags::TRUNC != 0 {
        msg.data.advance(bytes.len());
        return bytes.len();
    }
    msg.data.copy_to_iter(bytes)
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

/// Copies what there is behind the first `skip` bytes and before `stop` to the caller, for
/// `MSG_PEEK`. Returns the number of bytes, how many urgent bytes were left out, and whether all
/// that fits could be stored; `stamp` is when the last of them came.
fn copy_peeked(
    s: &Locked,
    msg: &mut RecvMsg<'_>,
    mut skip: usize,
    stop: &Stop,
    stamp: &mut Option<Stamp>,
) -> (usize, usize, bool) {
    let end = stop.before.map_or(usize::MAX, |next| before(s, next));
    let at = s.stream.consumed.wrapping_add(skip as u64);
    let mut left = end.saturating_sub(skip);
    let mut skipped: usize = 0;
    if msg.data.is_empty() {
        return (0, 0, true);
    }
    match distance(stop.mark, at) {
        None => {}
        Some(0) if stop.copied || s.stream.rx.is_empty() => return (0, 0, true),
        Some(0) if stop.inline => {}
        Some(0) if left == 0 => {}
        Some(0) => {
            skip = skip.saturating_add(1);
            left = left.saturating_sub(1);
            skipped = 1;
        }
        Some(bytes) => left = left.min(bytes),
    }
    let mut copied: usize = 0;
    for at in 0..s.stream.rx.len() {
        let Some(unread) = s.stream.rx.get(at) else {
            break;
        };
        while skip < unread.len() {
            let bytes = unread.bytes(skip);
            let wanted = bytes.len().min(msg.data.len()).min(left);
            if wanted == 0 {
                return (copied, skipped, true);
            }
            *stamp = unread.stamp.or(*stamp);
            let n = give(msg, bytes.get(..wanted).unwrap_or(&[]));
            skip = skip.saturating_add(n);
            left = left.saturating_sub(n);
            copied = copied.saturating_add(n);
            if n < wanted {
                return (copied, skipped, false);
            }
        }
        skip = skip.saturating_sub(unread.len());
    }
    (copied, skipped, true)
}
