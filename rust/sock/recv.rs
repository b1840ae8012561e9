// SPDX-License-Identifier: GPL-2.0

//! recvmsg: by copy out of received messages ([`super::recv_copy`]), or by fetching what the peer
//! advertises straight into the caller's pages ([`super::recv_zcopy`]).
//!
//! What is advertised has its place in the stream: bytes that arrived behind it wait until it was
//! fetched, or was declined and arrived by messages after all.

use crate::{
    net::{
        msg::{
            flags,
            RecvMsg, //
        },
        sock::{
            Timeout,
            WaitError, //
        },
        stamp::Stamp,
        wait::{
            is_signal_pending,
            OpenGuard, //
        }, //
    },
    prelude::*,
    proto::Readable,
    sock::{
        conn::Conn,
        inq::{
            before,
            fetchable,
            is_starved,
            unread, //
        },
        locked::SocketState,
        mark::Upcoming,
        recv_call::Receiving,
        recv_copy::{
            copy_peeked,
            deliver,
            Stop, //
        },
        recv_zcopy::check_retry,
        stream::More,
        types::{
            OpenSocket,
            Sdp, //
        },
        urgent, //
    }, //
};
use kernel::sync::Arc;

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
    /// When the last of them arrived, where the program has asked.
    stamp: Option<Stamp>,
    /// Where somebody wants to know, how many are left, and whether that is the program.
    left: Option<(c_int, bool)>,
}

impl Received {
    /// So many bytes that do not belong to the stream, of which nothing else is reported.
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
            let is_shut = s.sock().poll_state().lock().recv_shut && state == SocketState::Idle;
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
        has_iolock: false,
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

impl Receiving<'_, '_, '_> {
    fn run(&mut self) -> Result {
        let (sk, conn) = (self.sk, self.conn);
        let peek = self.msg.flags & flags::PEEK != 0;
        loop {
            // What another call fetches, or waits for with its own memory, comes first.
            self.wait_iolock()?;
            check_retry(self.s, conn)?;
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
                    || conn.is_recv_done()
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
        // What arrived just now is peeked at first.
        self.copied > 0 && is_starved(self.s) && unread(self.s) <= self.peeked
    }
}
