// SPDX-License-Identifier: GPL-2.0

//! splice: received messages go to a pipe in the pages that they came in.

use crate::{
    net::pipe::{
        Pipe,
        Slice, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn::Conn,
        recv,
        stats::Counter,
        Locked,
        Socket,
        State, //
    },
};
use kernel::page::PAGE_SIZE;

/// `splice(2)` of at most `len` bytes out of the socket: gives what there is, once there is anything.
pub(super) fn splice_read(
    sk: &Socket,
    pipe: &mut Pipe<'_>,
    len: usize,
    nonblock: bool,
) -> Result<usize> {
    let mut timeout = sk.recv_timeout(nonblock);
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
    loop {
        // What another call fetches, or waits for with its own memory, comes first.
        s.wait(&mut timeout, |s| s.recv_turn.ask())
            .map_err(|woken| timeout.error(woken))?;
        if !s.has(&conn) {
            // Another thread undid the connection.
            return Err(ENOTCONN);
        }
        if s.kept_recv.is_some() {
            return Err(EBUSY);
        }
        let next = conn.take_unread(&mut s.stream.rx)?;
        let before = next.map_or(usize::MAX, |next| recv::before(&s, next));
        let given = give(&mut s, &conn, pipe, len.min(before))?;
        if given > 0 {
            return Ok(given);
        }
        if before == 0 && s.advertised() > 0 {
            // A pipe takes the pages of messages.
            conn.decline();
        }
        // Everything that came before an end was given above, unless it came just now.
        if s.stream.recv_shut || conn.recv_closed() {
            if conn.unread() > 0 {
                continue;
            }
            if !s.stream.recv_shut && !conn.inspect(|m| m.peer_closed()) {
                sk.take_error()?;
            }
            return Ok(0);
        }
        let woken = s.wait(&mut timeout, |s| {
            !s.has(&conn)
                || recv::unread(s) > 0
                || s.stream.recv_shut
                || conn.recv_closed()
                || sk.has_error()
        });
        woken.map_err(|woken| timeout.error(woken))?;
        if sk.has_error() && !conn.recv_closed() {
            sk.take_error()?;
        }
    }
}

/// Gives at most `max` bytes of what there is. Fails only where it gave nothing.
fn give(s: &mut Locked, conn: &Conn, pipe: &mut Pipe<'_>, max: usize) -> Result<usize> {
    let mut given: usize = 0;
    while given < max {
        let Some(front) = s.stream.rx.front_mut() else {
            break;
        };
        let left = max.saturating_sub(given);
        // What the pipe has no room for need not be prepared.
        let pushed = if pipe.is_full() {
            Err(EAGAIN)
        } else {
            let bytes = front.bytes(0);
            let bytes = bytes.get(..left).unwrap_or(bytes);
            // Who gets a page is to hold no more than four times what is in it.
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

/// No more comes for what `MSG_MORE` held back: a file that is sent ended early.
pub(super) fn splice_eof(sk: &Socket) {
    let s = sk.lock();
    if let (State::Connected, Some(conn)) = (s.state(), &s.conn) {
        conn.with(Machine::push);
    }
}
