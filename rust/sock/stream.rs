// SPDX-License-Identifier: GPL-2.0

//! The part of a connection's stream that its socket holds.

use crate::{
    prelude::*,
    sock::{
        conn::Conn,
        mark::Upcoming,
        recv_buffers::Unread,
        ring::Ring,
        types::Socket, //
    },
};
use core::sync::atomic::Ordering;
use kernel::sync::atomic::Relaxed;

/// A socket's state of the stream, from the connection's start to its end; guarded by the socket
/// lock.
pub(super) struct Stream {
    /// Payload that the readers have taken over from the connection.
    pub(super) rx: Ring<Unread>,
    /// Payload bytes of messages that were read, modulo 2^64.
    pub(super) consumed: u64,
    /// Times that bytes were received by the program.
    pub(super) receives: u64,
    /// `receives` when a send found that both ends wait in a send: they do until more is received.
    pub(super) crossed_at: Option<u64>,
    /// What was received last arrived without a copy, so what is next is expected to.
    pub(super) last_was_zcopy: bool,
}

/// What comes behind the bytes that were taken over.
pub(super) enum More {
    /// Some arrived just now.
    Here,
    /// Some may come.
    Later,
    /// The stream has ended.
    Never,
}

impl Stream {
    /// A stream of which nothing was read or written.
    pub(super) const fn new() -> Self {
        Self {
            rx: Ring::empty(),
            consumed: 0,
            receives: 0,
            crossed_at: None,
            last_was_zcopy: false,
        }
    }

    /// Takes over what arrived of the stream for `sk`. Sleeps; fails as
    /// [`Conn::take_unread`] does.
    pub(super) fn take_over(&mut self, conn: &Conn, sk: &Socket) -> Result<Upcoming> {
        let (upcoming, skip) = conn.take_unread(sk, &mut self.rx)?;
        while !sk.is_oob_inline() && skip.contains(&self.consumed) && !self.rx.is_empty() {
            self.consume(conn, 1);
        }
        Ok(upcoming)
    }

    /// Counts the first `n` bytes of the first message in the reader's queue as read.
    pub(super) fn consume(&mut self, conn: &Conn, n: usize) {
        self.consumed = self.consumed.wrapping_add(n as u64);
        self.receives = self.receives.wrapping_add(1);
        let Some(front) = self.rx.front_mut() else {
            return;
        };
        front.advance(n);
        conn.unread.fetch_sub(n, Ordering::Relaxed);
        if front.is_empty() {
            if let Some(read) = self.rx.pop() {
                conn.finish_unread(read);
            }
        }
    }

    /// What a call that has read all that was taken over finds behind it. At the end of the stream
    /// it fails with the error of the socket, unless the call `has_bytes` to return.
    pub(super) fn more(&self, conn: &Conn, sk: &Socket, has_bytes: bool) -> Result<More> {
        if !conn.is_recv_done() {
            return Ok(More::Later);
        }
        if conn.has_more() {
            return Ok(More::Here);
        }
        if !conn.recv_shut.load(Relaxed) && !conn.inspect(|m| m.peer_closed()) && !has_bytes {
            sk.take_error()?;
        }
        Ok(More::Never)
    }
}
