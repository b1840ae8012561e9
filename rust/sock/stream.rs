// SPDX-License-Identifier: GPL-2.0

//! The bytes of a connection that its socket has, on their way in and out.

use crate::{
    rdma::buf::SendBuf,
    sock::{
        conn::Conn,
        recv_buffers::Unread,
        ring::Ring, //
    },
};

/// What a socket knows of the stream, from the connection's start to its end.
pub(super) struct Stream {
    /// Payload that the readers have taken over from the connection.
    pub(super) rx: Ring<Unread>,
    /// The chunk that written bytes go to.
    pub(super) tx: Option<SendBuf>,
    /// `shutdown(2)` of the receive half.
    pub(super) recv_shut: bool,
    /// Payload bytes of messages that were read, modulo 2^64.
    pub(super) consumed: u64,
    /// Times that bytes were received by the program.
    pub(super) taken: u64,
    /// `taken` when a send found that it waited for a peer which seemed to wait for it: the two
    /// have crossed until more is received.
    pub(super) crossed_at: Option<u64>,
    /// What came last came without a copy, so that the next is expected to.
    pub(super) lends: bool,
}

impl Stream {
    /// One of which nothing was read or written.
    pub(super) const fn new() -> Self {
        Self {
            rx: Ring::empty(),
            tx: None,
            recv_shut: false,
            consumed: 0,
            taken: 0,
            crossed_at: None,
            lends: false,
        }
    }

    /// Counts the first `n` bytes of the first message in the reader's queue as read.
    pub(super) fn consume(&mut self, conn: &Conn, n: usize) {
        self.consumed = self.consumed.wrapping_add(n as u64);
        self.taken = self.taken.wrapping_add(1);
        let Some(front) = self.rx.front_mut() else {
            return;
        };
        front.advance(n);
        if front.is_empty() {
            if let Some(read) = self.rx.pop() {
                conn.finish_unread(read);
            }
        }
    }
}
