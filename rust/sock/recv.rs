// SPDX-License-Identifier: GPL-2.0

//! recvmsg: by copy out of received messages, or by fetching what the peer advertises straight into
//! the caller's pages.
//!
//! What is advertised has its place in the stream: bytes that came behind it wait until it was
//! fetched, or was declined and came by messages after all.

use crate::{
    mm::pages::{
        self,
        Account,
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
    },
    prelude::*,
    proto::{
        Machine,
        Readable, //
    },
    rdma::mr::Access,
    sock::{
        buffers::BUFFERS,
        conn::Conn,
        kept::{
            Kept,
            RETURN_MS, //
        },
        recv_buffers::Unread,
        stats::Counter,
        Locked,
        Sdp,
        Socket,
        State, //
    },
};
use kernel::sync::Arc;

/// The most bytes that one RDMA Read fetches. Each is reported when it is done, so that a peer that
/// waits sees progress; the next is in flight by then.
const FETCH_MAX: usize = 256 << 10;

/// How long one RDMA Read may take, in milliseconds.
const READ_MS: u32 = 60_000;

/// `recvmsg(2)`.
///
/// Gives what there is, once it is as much as `SO_RCVLOWAT` or `MSG_WAITALL` ask for, or no more
/// can come.
pub(super) fn recvmsg(sk: &Socket, msg: RecvMsg<'_>) -> Result<usize> {
    if msg.flags & flags::ERRQUEUE != 0 {
        return sk.recv_errqueue(msg);
    }
    if msg.flags & flags::OOB != 0 {
        // As TCP says where no urgent byte is pending; none ever is.
        return Err(EINVAL);
    }
    let mut timeout = sk.recv_timeout(msg.nonblock());
    let target = sk.recv_target(msg.flags & flags::WAITALL != 0, msg.data.len());
    let mut s = sk.lock();
    s.wait(&mut timeout, |s| !matches!(s.state(), State::Connecting))
        .map_err(|woken| timeout.error(woken))?;
    let conn = match (s.state(), &s.conn) {
        (State::Connected, Some(conn)) => conn.clone(),
        _ => {
            sk.take_error()?;
            return Err(ENOTCONN);
        }
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
        copied: 0,
        peeked: 0,
    };
    match call.resume().and_then(|()| call.run()) {
        Err(e) if call.copied == 0 => Err(e),
        _ => Ok(call.copied),
    }
}

/// A call that receives.
struct Receiving<'a, 'g, 'm> {
    sk: &'a Socket,
    s: &'a mut SockGuard<'g, Sdp>,
    conn: &'a Arc<Conn>,
    msg: RecvMsg<'m>,
    timeout: Timeout,
    /// Whether the call may sleep at all.
    may_sleep: bool,
    /// Bytes that it waits for.
    target: usize,
    /// Bytes that it gives.
    copied: usize,
    /// What a peek has looked at already.
    peeked: usize,
}

impl Receiving<'_, '_, '_> {
    /// Goes on with a call that left its buffer here, which is the only one that may be made now.
    fn resume(&mut self) -> Result {
        let turn = self.s.wait(&mut self.timeout, |s| s.recv_turn.ask());
        self.woken(turn)?;
        let Some(kept) = self.s.kept_recv else {
            return Ok(());
        };
        let addr = pages::dest_address(self.msg.data);
        if !kept.is_of(addr, self.msg.data.len()) || self.msg.flags & flags::PEEK != 0 {
            return Err(EBUSY);
        }
        if !self.may_sleep && !self.conn.are_reads_over() {
            return Err(EAGAIN);
        }
        self.msg.data.advance(kept.lent);
        self.s.kept_recv = None;
        self.s.recv_turn.take();
        self.finish();
        self.end_turn();
        Ok(())
    }

    fn end_turn(&mut self) {
        if self.s.recv_turn.end() {
            self.sk.data_ready();
        }
    }

    fn run(&mut self) -> Result {
        let (sk, conn) = (self.sk, self.conn);
        let peek = self.msg.flags & flags::PEEK != 0;
        loop {
            // What another call fetches, or waits for with its own memory, comes first.
            let turn = self.s.wait(&mut self.timeout, |s| s.recv_turn.ask());
            self.woken(turn)?;
            if self.s.kept_recv.is_some() {
                return Err(EBUSY);
            }
            if !self.s.has(conn) {
                // Another thread undid the connection.
                return Err(ENOTCONN);
            }
            let next = conn.take_unread(&mut self.s.stream.rx)?;
            let (n, whole) = if peek {
                let (n, whole) = copy_peeked(self.s, &mut self.msg, self.peeked, next);
                self.peeked = self.peeked.saturating_add(n);
                (n, whole)
            } else {
                deliver(self.s, conn, &mut self.msg, next)
            };
            self.copied = self.copied.saturating_add(n);
            if !whole {
                return Err(EFAULT);
            }
            // What stands before it was read, or looked at.
            let is_next = next.is_some_and(|next| before(self.s, next) <= self.peeked);
            if is_next && !self.msg.data.is_empty() && self.s.advertised() > 0 {
                if !self.may_sleep && self.s.options.zcopy_retry && self.copied > 0 {
                    // The program leaves its memory alone after EAGAIN only.
                    return Ok(());
                }
                if self.fetch()? {
                    continue;
                }
            }
            if self.msg.data.is_empty() || self.copied >= self.target || (peek && self.is_all()) {
                return Ok(());
            }
            // Everything that came before an end was read above, unless it came just now.
            if self.s.stream.recv_shut || conn.recv_closed() {
                if conn.unread() > 0 {
                    continue;
                }
                if !self.s.stream.recv_shut
                    && !conn.inspect(|m| m.peer_closed())
                    && self.copied == 0
                {
                    sk.take_error()?;
                }
                return Ok(());
            }
            if self.may_offer() && self.offer()? {
                continue;
            }
            let peeked = self.peeked;
            let woken = self.s.wait(&mut self.timeout, |s| {
                !s.has(conn)
                    || unread(s) > peeked
                    || (peek && peeked > 0 && is_starved(s))
                    || s.stream.recv_shut
                    || conn.recv_closed()
                    || sk.has_error()
            });
            self.woken(woken)?;
            if sk.has_error() && !conn.recv_closed() {
                return if self.copied == 0 {
                    sk.take_error()
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Whether a peek has looked at something, and no more can come.
    fn is_all(&mut self) -> bool {
        // What came just now is looked at first.
        self.peeked > 0 && is_starved(self.s) && unread(self.s) <= self.peeked
    }

    fn woken(&self, woken: Result<(), WaitError>) -> Result {
        woken.map_err(|woken| self.timeout.error(woken))
    }

    /// Whether the caller's memory is to be offered to the peer: it is large, nothing is there to be
    /// read, what came before came without a copy, and it need not be filled (B-46).
    fn may_offer(&mut self) -> bool {
        // CAST: `usize` has at least 32 bits.
        let threshold = self.s.options.zcopy_threshold as usize;
        let partial = flags::PEEK | flags::TRUNC | flags::WAITALL;
        self.s.stream.lends
            && threshold > 0
            && self.copied == 0
            && self.msg.flags & partial == 0
            && self.may_sleep
            && pages::dest_extent(self.msg.data) >= threshold
            && self.conn.takes_offers()
            && unread(self.s) == 0
    }

    /// Offers the caller's memory, and waits until the peer has written to it or the caller does not want to
    /// wait any longer; whether it was offered.
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
            self.s.stream.lends = false;
            return Ok(false);
        }
        self.s.recv_turn.take();
        let sk = self.sk;
        let woken = self.s.wait(&mut self.timeout, |s| {
            conn.is_offer_due(target) || s.stream.recv_shut || !s.has(conn) || sk.has_error()
        });
        if !conn.are_offers_over() {
            conn.with(Machine::cancel_offers);
            conn.wait_return(self.s, RETURN_MS, || conn.are_offers_over());
        }
        let came = self.gather(&parts);
        let asked = parts.iter().map(Pages::len).fold(0, usize::saturating_add);
        self.msg.take_back(asked.saturating_sub(came));
        self.copied = self.copied.saturating_add(came);
        self.s.stream.lends = came > 0;
        self.s.stream.taken = self.s.stream.taken.wrapping_add(u64::from(came > 0));
        self.end_turn();
        match woken {
            Err(_) if self.copied == 0 => self.woken(woken).map(|()| true),
            _ => Ok(true),
        }
    }

    /// Offers up to so many bytes of the caller's memory. Takes nothing of it on failure.
    fn offer_part(&mut self, size: usize) -> Result<Pages> {
        let conn = self.conn;
        let before = self.msg.data.len();
        let max_pages = conn.max_buffer_pages();
        let offered =
            Pages::of_dest(self.msg.data, size, max_pages, Account::Task).and_then(|part| {
                let memory = conn.register(part.clone(), Access::RemoteWrite)?;
                conn.offer_memory(memory).map_err(|_| EAGAIN)?;
                Ok(part)
            });
        if offered.is_err() {
            self.msg
                .take_back(before.saturating_sub(self.msg.data.len()));
        }
        offered
    }

    /// Brings together what came while `parts` of the caller's memory were offered, which are over: how much
    /// stands there now.
    ///
    /// A part that the peer did not fill leaves a gap (`B-47`), and one that a message with payload used up
    /// stands for that message (`B-48`). What the peer wrote behind such is moved, by the pages, for
    /// the program may have unmapped them.
    fn gather(&mut self, parts: &[Pages]) -> usize {
        let conn = self.conn;
        let mut written = [0; BUFFERS];
        let written = written.get_mut(..parts.len()).unwrap_or(&mut []);
        while !conn.take_offered(written) {
            // The connection ends just now, and lets the memory go.
            self.s
                .wait_through(Timeout::FOREVER, |_| conn.are_offers_over());
        }
        if self.s.has(conn) {
            // Without memory the front is there, which is what is wanted next.
            let _ = conn.take_unread(&mut self.s.stream.rx);
        }
        let ends = written.iter().rposition(|bytes| *bytes > 0);
        let used = ends.map_or(0, |last| last.saturating_add(1));
        let (mut from, mut to, mut copied) = (0usize, 0usize, 0usize);
        for (bytes, part) in written.iter().zip(parts).take(used) {
            let n = match *bytes {
                // It is no longer than the part (`B-46`).
                0 => match self.s.stream.rx.front_mut() {
                    Some(message) => {
                        let n = store(parts, to, message);
                        self.s.stream.consume(conn, n);
                        copied = copied.saturating_add(n);
                        n
                    }
                    // Another thread undid the connection.
                    None => break,
                },
                n if from == to => n,
                n => {
                    pages::move_down(parts, from, to, n);
                    copied = copied.saturating_add(n);
                    n
                }
            };
            to = to.saturating_add(n);
            from = from.saturating_add(part.len());
        }
        conn.gathered();
        match (&*written, parts) {
            ([bytes], [part]) => conn.learn_from_one(*bytes, *bytes == part.len()),
            _ => conn.learn_from_several(written, used > 1 && copied == 0),
        }
        conn.count(Counter::RecvCopied, copied as u64);
        conn.count(Counter::RecvWritten, to.saturating_sub(copied) as u64);
        to
    }

    /// Fetches what the peer advertises, or declines it; whether something was fetched.
    fn fetch(&mut self) -> Result<bool> {
        let advertised = self.s.advertised();
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
        self.s.recv_turn.take();
        let room = self.msg.data.len();
        let result = self.start().and_then(|()| {
            if !self.may_sleep && !self.conn.are_reads_over() {
                let lent = room.saturating_sub(self.msg.data.len());
                self.msg.take_back(lent);
                self.s.kept_recv = Some(Kept {
                    mm: pages::current_mm(),
                    addr: pages::dest_address(self.msg.data),
                    len: room,
                    lent,
                });
                return Err(EAGAIN);
            }
            Ok(self.finish())
        });
        self.end_turn();
        result
    }

    /// Starts as many reads as there is memory and place for, or declines what is advertised.
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
            let pages = Pages::of_dest(self.msg.data, max, max_pages, Account::Task);
            let taken = before.saturating_sub(self.msg.data.len());
            let memory = pages
                .map_err(|e| match e {
                    e if e == ENOBUFS => (Counter::NoMemlock, e),
                    e => (Counter::NoPages, e),
                })
                .and_then(|pages| {
                    let memory = conn.register(pages, Access::ReadSink);
                    memory.map_err(|e| (Counter::NoMr, e))
                });
            let refused = match memory {
                Ok(memory) => match conn.read_memory(memory, after) {
                    Ok(()) => continue,
                    // The peer took it back meanwhile.
                    Err(memory) => {
                        drop(memory);
                        None
                    }
                },
                Err(refused) => Some(refused),
            };
            self.msg.take_back(taken);
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

    /// Waits until all reads that were started are over: the caller's memory is the fabric's until then.
    /// Whether they brought anything.
    fn finish(&mut self) -> bool {
        let conn = self.conn;
        let (mut any, mut missing) = (false, 0usize);
        while conn.is_reading() {
            if let Some((asked, came)) = conn.take_read() {
                if missing == 0 {
                    self.copied = self.copied.saturating_add(came);
                    any |= came > 0;
                    missing = asked.saturating_sub(came);
                } else {
                    // What failed before it left a gap: the connection has failed.
                    missing = missing.saturating_add(asked);
                }
                continue;
            }
            conn.wait_return(self.s, READ_MS, || conn.is_read_over());
        }
        self.msg.take_back(missing);
        self.s.stream.lends |= any;
        self.s.stream.taken = self.s.stream.taken.wrapping_add(1);
        any
    }
}

/// Takes the memory back that a call left here and never asked for again: the connection cannot go on
/// without it.
pub(super) fn give_up_kept(s: &mut SockGuard<'_, Sdp>, conn: &Conn) {
    if s.kept_recv.take().is_some() {
        conn.count(Counter::CancelsRetry, 1);
        conn.broken(ECONNRESET);
        while conn.is_reading() {
            if conn.take_read().is_none() {
                s.wait_through(Timeout::FOREVER, |_| conn.is_read_over());
            }
        }
    }
}

/// Whether there is something to read before more can come, however little that is: messages take
/// up buffers, not bytes.
pub(super) fn is_starved(s: &mut Locked) -> bool {
    s.conn.as_ref().is_some_and(|conn| conn.is_starved()) && unread(s) > 0
}

/// Bytes that can be read without waiting for the peer's program; none while another call fetches
/// some, or waits for them with its own memory.
pub(super) fn unread(s: &mut Locked) -> usize {
    if !s.recv_turn.ask() {
        return 0;
    }
    let taken = (0..s.stream.rx.len())
        .filter_map(|at| s.stream.rx.get(at))
        .fold(0usize, |sum, unread| sum.saturating_add(unread.len()));
    let Some(conn) = &s.conn else { return taken };
    let came = taken.saturating_add(conn.unread());
    // While another call fetches, what came behind has to wait for it.
    match conn.readable() {
        // What stands before it and has not come will come by message.
        Some(next) if before(s, next) > came => came,
        Some(next) => before(s, next).saturating_add(s.advertised()),
        None => came,
    }
}

impl Locked {
    /// Bytes that the peer advertises next, unless another call is fetching them. A caller that
    /// finds none because of that is woken.
    pub(super) fn advertised(&mut self) -> usize {
        let advertised = self.conn.as_ref().map_or(0, |conn| conn.advertised());
        if advertised > 0 && self.kept_recv.is_none() && self.recv_turn.ask() {
            advertised
        } else {
            0
        }
    }
}

/// Bytes that stand before what the peer advertises and were not read.
pub(super) fn before(s: &Locked, next: Readable) -> usize {
    usize::try_from(next.after.wrapping_sub(s.stream.consumed)).unwrap_or(usize::MAX)
}

/// Gives what there is before `next`, or drops it for `MSG_TRUNC`; and whether all that fits could
/// be stored.
fn deliver(
    s: &mut Locked,
    conn: &Conn,
    msg: &mut RecvMsg<'_>,
    next: Option<Readable>,
) -> (usize, bool) {
    let mut left = next.map_or(usize::MAX, |next| before(s, next));
    let mut copied: usize = 0;
    let mut whole = true;
    while !msg.data.is_empty() && left > 0 && whole {
        let Some(front) = s.stream.rx.front_mut() else {
            break;
        };
        let bytes = front.bytes(0);
        let wanted = bytes.len().min(msg.data.len()).min(left);
        let n = if msg.flags & flags::TRUNC != 0 {
            msg.data.advance(wanted);
            wanted
        } else {
            msg.data.copy_to_iter(bytes.get(..wanted).unwrap_or(&[]))
        };
        s.stream.consume(conn, n);
        left = left.saturating_sub(n);
        copied = copied.saturating_add(n);
        whole = n == wanted;
    }
    if copied > 0 {
        conn.count(Counter::RecvCopied, copied as u64);
        s.stream.lends = false;
    }
    (copied, whole)
}

/// Stores all of a message from byte `to` of `parts` on: how much that was.
fn store(parts: &[Pages], to: usize, message: &Unread) -> usize {
    let mut stored = 0usize;
    while stored < message.len() {
        let bytes = message.bytes(stored);
        let n = pages::store(parts, to.saturating_add(stored), bytes);
        stored = stored.saturating_add(n);
        if n < bytes.len() {
            break;
        }
    }
    stored
}

/// Shows what there is behind the first `skip` bytes and before `next`; and whether all that fits
/// could be stored.
fn copy_peeked(
    s: &Locked,
    msg: &mut RecvMsg<'_>,
    mut skip: usize,
    next: Option<Readable>,
) -> (usize, bool) {
    let mut left = next
        .map_or(usize::MAX, |next| before(s, next))
        .saturating_sub(skip);
    let mut copied: usize = 0;
    for at in 0..s.stream.rx.len() {
        let Some(unread) = s.stream.rx.get(at) else {
            break;
        };
        while skip < unread.len() {
            let bytes = unread.bytes(skip);
            let wanted = bytes.len().min(msg.data.len()).min(left);
            if wanted == 0 {
                return (copied, true);
            }
            let n = msg.data.copy_to_iter(bytes.get(..wanted).unwrap_or(&[]));
            skip = skip.saturating_add(n);
            left = left.saturating_sub(n);
            copied = copied.saturating_add(n);
            if n < wanted {
                return (copied, false);
            }
        }
        skip = skip.saturating_sub(unread.len());
    }
    (copied, true)
}
