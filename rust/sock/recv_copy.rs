// SPDX-License-Identifier: GPL-2.0

//! Receiving by copy, out of the messages in the reader's queue.

use crate::{
    net::{
        msg::{
            flags,
            RecvMsg, //
        },
        stamp::Stamp, //
    },
    proto::Readable,
    sock::{
        conn::Conn,
        inq::before,
        locked::Locked,
        mark::distance,
        stats::Counter, //
    }, //
};

/// What a read does not go beyond.
pub(super) struct Stop {
    /// The peer's memory that is to be fetched first.
    pub(super) before: Option<Readable>,
    /// The urgent byte.
    pub(super) mark: Option<u64>,
    /// Whether it is read in line.
    pub(super) inline: bool,
    /// The call has bytes already, and ends at the mark.
    pub(super) copied: bool,
}

/// Copies what there is before `stop` to the caller, or drops it for `MSG_TRUNC`. Returns the
/// number of bytes, and whether all that fits could be stored; `stamp` is when the last of them
/// arrived.
pub(super) fn deliver(
    s: &mut Locked,
    conn: &Conn,
    msg: &mut RecvMsg<'_>,
    stop: &Stop,
    stamp: &mut Option<Stamp>,
) -> (usize, bool) {
    let mut left = stop.before.map_or(usize::MAX, |next| before(s, next));
    let mut copied: usize = 0;
    let mut whole = true;
    while !msg.data.is_empty() && left > 0 && whole {
        let to_mark = distance(stop.mark, s.stream.consumed);
        if to_mark == Some(0) && (stop.copied || copied > 0) {
            break;
        }
        let Some(front) = s.stream.rx.front_mut() else {
            break;
        };
        if to_mark == Some(0) && !stop.inline {
            s.stream.consume(conn, 1);
            left = left.saturating_sub(1);
            continue;
        }
        let to_mark = to_mark.filter(|bytes| *bytes > 0).unwrap_or(usize::MAX);
        let bytes = front.bytes(0);
        let wanted = bytes.len().min(msg.data.len()).min(left).min(to_mark);
        *stamp = front.stamp.or(*stamp);
        let n = give(msg, bytes.get(..wanted).unwrap_or(&[]));
        s.stream.consume(conn, n);
        left = left.saturating_sub(n);
        copied = copied.saturating_add(n);
        whole = n == wanted;
    }
    conn.pass_mark(stop.mark, s.stream.consumed);
    if copied > 0 {
        conn.count(Counter::RecvCopied, copied as u64);
        s.stream.last_was_zcopy = false;
    }
    (copied, whole)
}

/// Copies what there is behind the first `skip` bytes and before `stop` to the caller, for
/// `MSG_PEEK`. Returns the number of bytes, how many urgent bytes were left out, and whether all
/// that fits could be stored; `stamp` is when the last of them arrived.
pub(super) fn copy_peeked(
    s: &Locked,
    msg: &mut RecvMsg<'_>,
    mut skip: usize,
    stop: &Stop,
    stamp: &mut Option<Stamp>,
) -> (usize, usize, bool) {
    let end = stop.before.map_or(usize::MAX, |next| before(s, next));
    let at = s.stream.consumed.wrapping_add(skip as u64);
    let mut left = end.saturating_sub(skip);
    let mut skipped: usize = 0;
    if msg.data.is_empty() {
        return (0, 0, true);
    }
    match distance(stop.mark, at) {
        None => {}
        Some(0) if stop.copied || s.stream.rx.is_empty() => return (0, 0, true),
        Some(0) if stop.inline => {}
        Some(0) if left == 0 => {}
        Some(0) => {
            skip = skip.saturating_add(1);
            left = left.saturating_sub(1);
            skipped = 1;
        }
        Some(bytes) => left = left.min(bytes),
    }
    let mut copied: usize = 0;
    for at in 0..s.stream.rx.len() {
        let Some(unread) = s.stream.rx.get(at) else {
            break;
        };
        while skip < unread.len() {
            let bytes = unread.bytes(skip);
            let wanted = bytes.len().min(msg.data.len()).min(left);
            if wanted == 0 {
                return (copied, skipped, true);
            }
            *stamp = unread.stamp.or(*stamp);
            let n = give(msg, bytes.get(..wanted).unwrap_or(&[]));
            skip = skip.saturating_add(n);
            left = left.saturating_sub(n);
            copied = copied.saturating_add(n);
            if n < wanted {
                return (copied, skipped, false);
            }
        }
        skip = skip.saturating_sub(unread.len());
    }
    (copied, skipped, true)
}

/// Copies bytes to the caller, or drops them for `MSG_TRUNC`: how many. There is room for all.
fn give(msg: &mut RecvMsg<'_>, bytes: &[u8]) -> usize {
    if msg.flags & flags::TRUNC != 0 {
        msg.data.advance(bytes.len());
        return bytes.len();
    }
    msg.data.copy_to_iter(bytes)
}
