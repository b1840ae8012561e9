// SPDX-License-Identifier: GPL-2.0

//! The input queue: what a reader has before it in the stream.

use crate::{
    net::sock::SockGuard,
    proto::Readable,
    sock::{
        conn::Conn,
        flow::Flow,
        locked::Locked,
        mark::{
            distance,
            Urgent, //
        },
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};

/// What a reader has before it, behind urgent bytes that it is not to have.
pub(super) struct Inq {
    /// Where the reader stands, as `Stream::consumed` counts.
    at: u64,
    /// Payload bytes of messages that it has not read.
    received: usize,
    /// The peer's memory that is to be fetched before anything that arrived behind it.
    next: Option<Readable>,
    /// The state of the peer's urgent byte.
    pub(super) urgent: Urgent,
    /// The urgent byte is read in line.
    inline: bool,
    /// More can only come once something was read.
    short: bool,
}

impl Flow {
    /// What a reader has before it who has not read so many bytes.
    fn inq(&self, unread: usize, inline: bool) -> Inq {
        let mut received = unread;
        let mut at = self.machine.received_bytes().wrapping_sub(received as u64);
        if !inline && self.skip.contains(&at) {
            let left = distance(Some(self.skip.end), at).unwrap_or(0).min(received);
            at = at.wrapping_add(left as u64);
            received = received.saturating_sub(left);
        }
        Inq {
            at,
            received,
            next: self.machine.readable(),
            urgent: self.urgent,
            inline,
            short: self.is_short(0) && !self.recv.lacks(),
        }
    }
}

impl Conn {
    /// What the reader, `sk`, has before it. Any context, without
    /// [`Connection::flow`](super::conn::Connection::flow) and the locks after it.
    pub(super) fn inq(&self, sk: &Socket) -> Inq {
        let inline = sk.is_oob_inline();
        let flow = self.flow.lock();
        flow.inq(self.unread(), inline)
    }
}

impl Inq {
    /// Unread bytes before what the peer advertises.
    fn before(&self, next: Readable) -> usize {
        distance(Some(next.after), self.at).unwrap_or(usize::MAX)
    }

    /// Bytes that the peer advertises behind no more than the first `bytes`, if the reader
    /// `fetches` them.
    fn advertised(&self, bytes: usize, fetches: bool) -> usize {
        match self.next {
            // CAST: `usize` has at least 32 bits.
            Some(next) if fetches && self.before(next) <= bytes => next.region.len as usize,
            _ => 0,
        }
    }

    /// Bytes that can be read without waiting for the peer's program; those that it advertises only
    /// where the reader `fetches`.
    pub(super) fn unread(&self, fetches: bool) -> usize {
        // What arrived behind has to wait for what is advertised. Bytes before that which have not
        // come will come by message.
        let received = self
            .next
            .map_or(self.received, |next| self.before(next).min(self.received));
        received.saturating_add(self.advertised(received, fetches))
    }

    /// As [`Self::unread`], but only up to an urgent byte that is not read in line.
    pub(super) fn unread_to_mark(&self, fetches: bool) -> usize {
        let all = self.unread(fetches);
        match distance(self.urgent.mark(), self.at).filter(|_| !self.inline) {
            None => all,
            // What is advertised before it counts too.
            Some(left) => all.min(left.saturating_add(self.advertised(left, fetches))),
        }
    }

    /// Whether the urgent byte is the next to be read.
    pub(super) fn is_at_mark(&self) -> bool {
        let fetches_first = self.next.is_some_and(|next| next.after == self.at);
        self.urgent.mark() == Some(self.at) && !fetches_first
    }

    /// Whether something has to be read before more can come, however little that is: messages take
    /// up buffers, not bytes.
    pub(super) fn is_starved(&self, fetches: bool) -> bool {
        self.short && self.unread(fetches) > 0
    }

    /// Whether it is as much as readers of `sk` wait for (`SO_RCVLOWAT`), or all that can come.
    pub(super) fn is_enough(&self, sk: &Socket) -> bool {
        // A read leaves the urgent byte out.
        let hole = usize::from(self.is_at_mark() && !self.inline);
        let target = sk.recv_target(false, usize::MAX).saturating_add(hole);
        self.unread(true) >= target || self.is_starved(true)
    }
}

/// What there is to be read, if no other call has the I/O lock, and whether what the peer
/// advertises can be fetched. Who finds none for that reason is woken when that is released.
fn inq<F>(s: &SockGuard<'_, Sdp, F>) -> Option<(Inq, bool)> {
    let fetches = {
        let mut poll_state = s.sock().poll_state().lock();
        poll_state
            .recv_iolock
            .is_free()
            .then_some(poll_state.retry_recv.is_none())?
    };
    Some((s.conn()?.inq(s.sock()), fetches))
}

/// Whether something has to be read before more can come, however little that is: messages take up
/// buffers, not bytes.
pub(super) fn is_starved<F>(s: &SockGuard<'_, Sdp, F>) -> bool {
    inq(s).is_some_and(|(inq, fetches)| inq.is_starved(fetches))
}

/// Bytes that can be read without waiting for the peer's program; none while another call has the
/// I/O lock.
pub(super) fn unread<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    inq(s).map_or(0, |(inq, fetches)| inq.unread(fetches))
}

/// As [`unread`], but only up to an urgent byte that is not read in line.
pub(super) fn unread_to_mark<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    inq(s).map_or(0, |(inq, fetches)| inq.unread_to_mark(fetches))
}

/// Bytes that the peer advertises next; none while another call is fetching them. Who finds none
/// for that reason is woken.
pub(super) fn fetchable<F>(s: &SockGuard<'_, Sdp, F>) -> usize {
    let advertised = s.conn().map_or(0, |conn| conn.advertised());
    let mut poll_state = s.sock().poll_state().lock();
    if advertised > 0 && poll_state.retry_recv.is_none() && poll_state.recv_iolock.is_free() {
        advertised
    } else {
        0
    }
}

/// Unread bytes that come before what the peer advertises.
pub(super) fn before(s: &Locked, next: Readable) -> usize {
    usize::try_from(next.after.wrapping_sub(s.stream.consumed)).unwrap_or(usize::MAX)
}
