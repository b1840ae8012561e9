// SPDX-License-Identifier: GPL-2.0

//! splice: received messages go to a pipe in the pages in which they arrived.

use crate::{
    net::pipe::{
        Pipe,
        Slice, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn::Conn,
        inq,
        locked::{
            Locked,
            SocketState, //
        },
        mark::distance,
        recv,
        recv_zcopy,
        stats::Counter,
        stream::More,
        types::{
            OpenSocket,
            Socket, //
        }, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// `splice(2)` of at most `len` bytes out of the socket: gives the pipe what there is, once there
/// is anything. Sleeps.
pub(super) fn splice_read(
    sk: &OpenSocket,
    pipe: &mut Pipe<'_>,
    len: usize,
    nonblock: bool,
) -> Result<usize> {
    let mut timeout = sk.recv_timeout(nonblock);
    let mut s = sk.lock();
    let Some(conn) = recv::connection(&mut s, &mut timeout)? else {
        return Ok(0);
    };
    loop {
        // What another call fetches, or waits for with its own memory, comes first.
        let locked = s.wait(&mut timeout, |_| {
            sk.poll_state().lock().recv_iolock.is_free()
        });
        timeout.check(locked)?;
        if !s.has(&conn) {
            // Another thread has disconnected the socket.
            return Err(EPIPE);
        }
        recv_zcopy::check_retry(&mut s, &conn)?;
        let next = s.stream.take_over(&conn, sk)?;
        let before = next
            .advertised
            .map_or(usize::MAX, |next| inq::before(&s, next));
        // Whether urgent bytes are read in line or not: as with TCP it does not go beyond.
        let to_mark = distance(next.mark, s.stream.consumed).unwrap_or(usize::MAX);
        let given = give(&mut s, &conn, pipe, len.min(before).min(to_mark))?;
        if given > 0 {
            return Ok(given);
        }
        if before == 0 && inq::fetchable(&s) > 0 {
            // A pipe takes the pages of messages only.
            conn.decline();
        }
        match s.stream.more(&conn, sk, false)? {
            More::Here => continue,
            More::Later => {}
            More::Never => return Ok(0),
        }
        if to_mark == 0 && before > 0 {
            return match timeout.is_zero() {
                true => Err(EAGAIN),
                false => Ok(0),
            };
        }
        let woken = s.wait_data(&mut timeout, |s| {
            !s.has(&conn) || inq::unread(s) > 0 || conn.is_recv_done() || sk.has_error()
        });
        timeout.check(woken)?;
        if s.has(&conn) && sk.has_error() && !conn.recv_closed() {
            sk.take_error()?;
        }
    }
}

/// Gives the pipe at most `max` bytes of what there is. Fails only if it gave nothing.
fn give(s: &mut Locked, conn: &Conn, pipe: &mut Pipe<'_>, max: usize) -> Result<usize> {
    let mut given: usize = 0;
    while given < max {
        let Some(front) = s.stream.rx.front_mut() else {
            break;
        };
        let left = max.saturating_sub(given);
        // Nothing need be prepared for a full pipe.
        let pushed = if pipe.is_full() {
            Err(EAGAIN)
        } else {
            let bytes = front.bytes(0);
            let bytes = bytes.get(..left).unwrap_or(bytes);
            // A page may hold no more than four times the bytes that the pipe is given.
            let copy = match bytes.len() < PAGE_SIZE / 4 {
                true => Slice::copy_of(bytes).ok(),
                false => None,
            };
            match copy {
                Some(slice) => Ok((slice, Counter::RecvCopied)),
                None => front.share(left).map(|slice| (slice, Counter::RecvMoved)),
            }
        }
        .and_then(|(slice, counter)| Ok((pipe.push(slice)?, counter)));
        let n = match pushed {
            Ok((n, counter)) => {
                conn.count(counter, n as u64);
                n
            }
            Err(e) if given == 0 => return Err(e),
            Err(_) => break,
        };
        given = given.saturating_add(n);
        s.stream.consume(conn, n);
    }
    Ok(given)
}

/// Sends what `MSG_MORE` held back, since a file that was being sent has ended early. Sleeps.
pub(super) fn splice_eof(sk: &Socket) {
    let s = sk.lock();
    if let (SocketState::Connected, Some(conn)) = (s.state(), s.conn()) {
        conn.with(Machine::push);
    }
}
