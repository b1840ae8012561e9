// SPDX-License-Identifier: GPL-2.0

//! The peer's urgent byte (`B-77` to `B-80`), with what TCP makes of it.
//!
//! One is known at a time. It has a place in the stream, the mark, at which reads stop, and which
//! is counted as the number of payload bytes of messages before it: what moves without a copy is
//! never urgent. A read that begins at the mark leaves the byte out, unless the program wants it in
//! line. Once a read has passed the mark the byte is forgotten.

use crate::{
    net::{
        msg::{
            flags,
            RecvMsg, //
        },
        sock::SockGuard, //
    },
    prelude::*,
    proto::Received,
    sock::{
        conn::Conn,
        flow::Flow,
        locked::SocketState,
        mark::{
            distance,
            Urgent, //
        },
        stats::Counter,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use kernel::sync::Arc;

impl Flow {
    /// Takes in what a message said of an urgent byte, which is its last: `last`. Before it arrived
    /// `unread` bytes were unread.
    pub(super) fn note_urgent(&mut self, received: &Received, last: Option<u8>, unread: usize) {
        let end = self.machine.received_bytes();
        if received.urgent_pending {
            let after = unread.saturating_add(received.payload.len());
            self.replace_urgent(end.wrapping_sub(after as u64));
        }
        if let (true, Some(byte)) = (received.urgent, last) {
            self.urgent.set(Urgent::Here(end.wrapping_sub(1), byte));
            self.urgent_unreported = true;
        }
    }

    /// Another urgent byte was announced. As with TCP, a reader who stands `at` the one before it
    /// does not get that in its place.
    fn replace_urgent(&mut self, at: u64) {
        let replaced = self.urgent.set(Urgent::Announced);
        let Some(mark) = replaced.mark() else {
            return;
        };
        // What the peer wrote, or advertises, may stand before it.
        let fetches_first = self
            .machine
            .readable()
            .is_some_and(|next| next.after == mark);
        if self.offers.gathering || fetches_first {
            return;
        }
        if self.skip.contains(&at) && self.skip.end == mark {
            self.skip.end = mark.wrapping_add(1);
        } else if at == mark {
            self.skip = mark..mark.wrapping_add(1);
        }
    }
}

impl Conn {
    /// What is known of the peer's urgent byte. Any context, without the spinlocks.
    pub(super) fn urgent(&self) -> Urgent {
        self.flow.lock().urgent
    }

    /// Whether the urgent byte arrived since this was last called. Any context, as for the next.
    pub(super) fn take_urgent_unreported(&self) -> bool {
        core::mem::take(&mut self.flow.lock().urgent_unreported)
    }

    /// Forgets the urgent byte if the reader, at `consumed`, has passed its `mark`. Any context,
    /// without the spinlocks.
    pub(super) fn pass_mark(&self, mark: Option<u64>, consumed: u64) {
        if mark.is_none() || distance(mark, consumed).is_some() {
            return;
        }
        let mut flow = self.flow.lock();
        if flow.urgent.mark() == mark {
            flow.urgent.set(Urgent::None);
        }
    }
}

/// `MSG_OOB`: returns the urgent byte, without waiting for it. Sleeps. Fails as [`pending`] does,
/// with `EAGAIN` while the byte has not come, and with `EFAULT`.
pub(super) fn recv_urgent(sk: &Socket, msg: &mut RecvMsg<'_>) -> Result<usize> {
    let s = sk.lock();
    let (conn, urgent) = pending(sk, &s)?;
    let byte = match urgent {
        Urgent::Here(mark, byte) => {
            if msg.flags & flags::PEEK == 0 {
                let mut flow = conn.flow.lock();
                // It may just have been replaced.
                if flow.urgent == urgent {
                    flow.urgent.set(Urgent::Read(mark));
                }
            }
            byte
        }
        _ if conn.is_recv_done() => return Ok(0),
        _ => return Err(EAGAIN),
    };
    msg.set_flags(flags::OOB);
    if msg.data.is_empty() {
        msg.set_flags(flags::TRUNC);
        return Ok(0);
    }
    if msg.flags & flags::TRUNC == 0 && msg.data.copy_to_iter(&[byte]) == 0 {
        return Err(EFAULT);
    }
    if msg.flags & flags::PEEK == 0 {
        conn.count(Counter::RecvCopied, 1);
    }
    Ok(1)
}

/// The connection, and its urgent byte, which is to be read. Fails with `EINVAL` where there is
/// none or it was read, and with `ENOTCONN` on a listener, or where the connection was reset.
fn pending(sk: &Socket, s: &SockGuard<'_, Sdp>) -> Result<(Arc<Conn>, Urgent)> {
    if matches!(s.state(), SocketState::Listening) {
        return Err(ENOTCONN);
    }
    let conn = s.conn().cloned().ok_or(EINVAL)?;
    match conn.urgent() {
        Urgent::None | Urgent::Read(_) => Err(EINVAL),
        _ if sk.is_oob_inline() => Err(EINVAL),
        _ if !conn.is_up() && !conn.inspect(|m| m.peer_closed()) => Err(ENOTCONN),
        urgent => Ok((conn, urgent)),
    }
}
