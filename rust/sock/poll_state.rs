// SPDX-License-Identifier: GPL-2.0

//! The part of a socket that poll reads, without the socket lock: a program that sleeps in a page
//! fault holds that for as long as it likes, and keeps nobody waiting who polls, as with TCP.
//!
//! No wake-up is lost, since who polls is in the wait queue before it looks (`sock_poll_wait()`),
//! and who changes what it looks at does so before it wakes:
//!
//! - What is here is looked at, and changed, under this lock; so is how far the reader of the
//!   stream is while no call has its I/O lock.
//! - Who finds that a call has the I/O lock says so ([`IoLock::is_free`]), and is notified when
//!   that ends. Data that arrives meanwhile is reported then ([`notify_readers`]).
//! - The rest is the connection's, under its own spinlocks, and reported by its events.

use crate::sock::{
    backlog::Backlog,
    conn::Conn,
    iolock::IoLock,
    locked::SocketState,
    retry_buffer::RetryBuffer,
    types::Socket, //
};
use kernel::sync::Arc;

/// What poll reads. It changes with the socket locked as well, but for [`IoLock::is_free`], so that
/// a call finds it as it was.
#[derive(Default)]
pub(crate) struct PollState {
    /// The connection, that of [`Locked::conn`](super::locked::Locked::conn).
    pub(super) conn: Option<Arc<Conn>>,
    /// The connections that wait for accept, of a socket that listens or has listened.
    pub(super) backlog: Option<Arc<Backlog>>,
    /// `shutdown(2)` of the receive half before there was a connection.
    pub(super) recv_shut: bool,
    /// That of the send half, of which the peer is not notified.
    pub(super) send_shut: bool,
    /// The buffer that a non-blocking send left (`SDP_ZCOPY_RETRY`).
    pub(super) retry_send: Option<RetryBuffer>,
    /// The buffer that a non-blocking receive left.
    pub(super) retry_recv: Option<RetryBuffer>,
    /// The I/O lock of the calls that send.
    pub(super) send_iolock: IoLock,
    /// The I/O lock of the receives that fetch what the peer advertises, or offer memory.
    pub(super) recv_iolock: IoLock,
}

impl PollState {
    /// Whether a call has left its buffer here. Any context.
    pub(super) fn has_retry_buffer(&self) -> bool {
        self.retry_send.is_some() || self.retry_recv.is_some()
    }

    /// Forgets that it was shut, with the connection. Any context.
    pub(super) fn unshut(&mut self) {
        self.recv_shut = false;
        self.send_shut = false;
    }

    /// The present state. Any context.
    pub(super) fn state(&self) -> SocketState {
        SocketState::of(self.conn.as_deref(), self.backlog.as_deref())
    }

    /// Whether there is as much to be read as readers of `sk`, which this is of, wait for; who
    /// finds that a call has the I/O lock is notified when that ends. Any context.
    pub(super) fn is_readable(&mut self, sk: &Socket) -> bool {
        let Some(conn) = &self.conn else {
            return false;
        };
        match self.retry_recv {
            Some(_) => conn.are_reads_done(),
            None => self.recv_iolock.is_free() && conn.inq(sk).is_enough(sk),
        }
    }
}

/// Notifies readers of `sk` that something arrived. Who polls, or gets SIGIO, is notified as TCP
/// does: once it is as much as readers wait for, or urgent, or the end; while a call has the I/O
/// lock, when that ends. Any context, without the spinlocks of a connection but
/// [`Connection::owner`].
///
/// [`Connection::owner`]: super::conn::Connection::owner
pub(super) fn notify_readers(sk: &Socket) {
    let is_due = {
        let mut poll_state = sk.poll_state().lock();
        let is_due_at_once = poll_state.conn.as_ref().is_some_and(|conn| {
            let urgent_unreported = conn.take_urgent_unreported();
            urgent_unreported || conn.recv_closed()
        });
        is_due_at_once || poll_state.is_readable(sk)
    };
    if is_due {
        sk.data_ready();
    } else {
        sk.wake_calls();
    }
}
