// SPDX-License-Identifier: GPL-2.0

//! sendmsg: by copy into chunks of the send stream.

use crate::{
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::{
            SockGuard,
            Woken, //
        },
    },
    proto::Machine,
    rdma::buf::SendBuf,
    sock::{
        conn::{
            Conn,
            SEND_ORDER, //
        },
        Sdp,
        Socket,
        State, //
    },
};
use kernel::prelude::*;

/// `sendmsg(2)`.
///
/// Takes bytes as long as `SO_SNDBUF` has room. The caller raises SIGPIPE where the error asks
/// for it.
pub(super) fn sendmsg(sk: &Socket, mut msg: SendMsg<'_>) -> Result<usize> {
    if msg.flags & flags::OOB != 0 || msg.has_control {
        return Err(EOPNOTSUPP);
    }
    let mut timeout = sk.send_timeout(msg.nonblock());
    let mut s = sk.lock();
    match s.wait(&mut timeout, |s| !matches!(s.state, State::Connecting)) {
        Ok(()) => {}
        Err(Woken::TimedOut) => return Err(EAGAIN),
        Err(Woken::Signal) => return Err(timeout.interrupted()),
    }
    let conn = match (&s.state, &s.conn) {
        (State::Connected, Some(conn)) => conn.clone(),
        _ => return Err(EPIPE),
    };

    let mut copied: usize = 0;
    let result = loop {
        if !s.has(&conn) || sk.has_error() || conn.send_closed() {
            break Err(EPIPE);
        }
        if msg.data.is_empty() {
            break Ok(());
        }
        let room = sk.send_buffer().saturating_sub(conn.queued());
        if room > 0 && conn.has_place() {
            match copy(&mut s, &conn, &mut msg, room) {
                Ok(n) => copied = copied.saturating_add(n),
                Err(e) => break Err(e),
            }
            continue;
        }
        // Who waits has no more to add.
        conn.with(Machine::push);
        let woken = s.wait(&mut timeout, |_| {
            sk.has_error() || conn.send_closed() || (conn.writable(sk) && conn.has_place())
        });
        match woken {
            Ok(()) => {}
            Err(Woken::TimedOut) => break Err(EAGAIN),
            Err(Woken::Signal) => break Err(timeout.interrupted()),
        }
    };

    if msg.flags & flags::MORE == 0 {
        conn.with(Machine::push);
    }
    conn.arm_held();
    match result {
        Err(e) if copied == 0 => Err(e),
        _ => Ok(copied),
    }
}

/// Copies at most `room` bytes, and what one chunk holds, to the send stream.
fn copy(
    s: &mut SockGuard<'_, Sdp>,
    conn: &Conn,
    msg: &mut SendMsg<'_>,
    room: usize,
) -> Result<usize> {
    let mut chunk = match s.tx.take() {
        Some(chunk) if chunk.room() > 0 => chunk,
        _ => SendBuf::new(&conn.device().ok_or(EPIPE)?, SEND_ORDER)?,
    };
    let piece = chunk.append_iter(msg.data, room);
    s.tx = Some(chunk);
    let piece = piece.ok_or(EFAULT)?;
    let len = piece.len();
    // The caller saw a place for it, and adds alone.
    conn.write(piece).map_err(|_| ENOBUFS)?;
    Ok(len)
}
