// SPDX-License-Identifier: GPL-2.0

//! recvmsg: by copy out of received messages.

use crate::{
    net::{
        msg::{
            flags,
            RecvMsg, //
        },
        sock::Woken, //
    },
    sock::{
        conn::Conn,
        Locked,
        Socket,
        State, //
    },
};
use kernel::prelude::*;

/// `recvmsg(2)`.
///
/// Gives what there is, once it is as much as `SO_RCVLOWAT` or `MSG_WAITALL` ask for, or no more
/// can come.
pub(super) fn recvmsg(sk: &Socket, mut msg: RecvMsg<'_>) -> Result<usize> {
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
    match s.wait(&mut timeout, |s| !matches!(s.state, State::Connecting)) {
        Ok(()) => {}
        Err(Woken::TimedOut) => return Err(EAGAIN),
        Err(Woken::Signal) => return Err(timeout.interrupted()),
    }
    let conn = match (&s.state, &s.conn) {
        (State::Connected, Some(conn)) => conn.clone(),
        _ => {
            sk.take_error()?;
            return Err(ENOTCONN);
        }
    };

    let peek = msg.flags & flags::PEEK != 0;
    let mut copied: usize = 0;
    // What a peek has looked at already.
    let mut peeked: usize = 0;
    let end = loop {
        if !s.has(&conn) {
            // Another thread undid the connection.
            break Err(ENOTCONN);
        }
        conn.take_unread(&mut s.rx);
        let (n, whole) = if peek {
            let n = look(&s, &mut msg, peeked);
            peeked = peeked.saturating_add(n.0);
            n
        } else {
            take(&mut s, &conn, &mut msg)
        };
        copied = copied.saturating_add(n);
        if !whole {
            break Err(EFAULT);
        }
        if msg.data.is_empty() || copied >= target || (peek && is_starved(&s)) {
            break Ok(());
        }
        // Everything that came before an end was read above, unless it came just now.
        if s.recv_shut || conn.recv_closed() {
            if conn.unread() > 0 {
                continue;
            }
            if !s.recv_shut && !conn.look(|m| m.peer_closed()) && copied == 0 {
                sk.take_error()?;
            }
            break Ok(());
        }
        let woken = s.wait(&mut timeout, |s| {
            !s.has(&conn)
                || unread(s) > peeked
                || s.recv_shut
                || conn.recv_closed()
                || sk.has_error()
        });
        match woken {
            Ok(()) if sk.has_error() && !conn.recv_closed() => {
                break if copied == 0 { sk.take_error() } else { Ok(()) };
            }
            Ok(()) => {}
            Err(Woken::TimedOut) => break Err(EAGAIN),
            Err(Woken::Signal) => break Err(timeout.interrupted()),
        }
    };
    match end {
        Err(e) if copied == 0 => Err(e),
        _ => Ok(copied),
    }
}

/// Whether no more can come before something is read, however little that is: messages take up
/// buffers, not bytes.
pub(super) fn is_starved(s: &Locked) -> bool {
    let taken = s.rx.len();
    s.conn.as_ref().is_some_and(|conn| conn.is_starved(taken))
}

/// Bytes that can be read without waiting.
pub(super) fn unread(s: &Locked) -> usize {
    let taken = (0..s.rx.len())
        .filter_map(|at| s.rx.get(at))
        .fold(0usize, |sum, unread| {
            sum.saturating_add(unread.bytes().len())
        });
    let waiting = s.conn.as_ref().map_or(0, |conn| conn.unread());
    taken.saturating_add(waiting)
}

/// Gives what there is, or drops it for `MSG_TRUNC`; and whether all that fits could be stored.
fn take(s: &mut Locked, conn: &Conn, msg: &mut RecvMsg<'_>) -> (usize, bool) {
    let mut copied: usize = 0;
    while !msg.data.is_empty() {
        let Some(front) = s.rx.front_mut() else { break };
        let bytes = front.bytes();
        let wanted = bytes.len().min(msg.data.len());
        let n = if msg.flags & flags::TRUNC != 0 {
            msg.data.advance(wanted);
            wanted
        } else {
            msg.data.copy_to_iter(bytes.get(..wanted).unwrap_or(&[]))
        };
        front.advance(n);
        copied = copied.saturating_add(n);
        if front.bytes().is_empty() {
            if let Some(read) = s.rx.pop() {
                conn.finish(read);
            }
        }
        if n < wanted {
            return (copied, false);
        }
    }
    (copied, true)
}

/// Shows what there is behind the first `skip` bytes; and whether all that fits could be stored.
fn look(s: &Locked, msg: &mut RecvMsg<'_>, mut skip: usize) -> (usize, bool) {
    let mut copied: usize = 0;
    for at in 0..s.rx.len() {
        let Some(unread) = s.rx.get(at) else { break };
        let bytes = unread.bytes();
        let Some(bytes) = bytes.get(skip..) else {
            skip = skip.saturating_sub(bytes.len());
            continue;
        };
        skip = 0;
        let wanted = bytes.len().min(msg.data.len());
        let n = msg.data.copy_to_iter(bytes.get(..wanted).unwrap_or(&[]));
        copied = copied.saturating_add(n);
        if n < wanted {
            return (copied, false);
        }
    }
    (copied, true)
}
