// SPDX-License-Identifier: GPL-2.0

//! What a peer wrote behind an urgent byte to memory that a receive offers.
//!
//! That call ends at the mark, and its memory is the program's again, so what is behind is copied
//! to buffers of this end, for later calls. Places in the stream are counted in payload of messages
//! (`Stream::consumed`, marks, [`Readable::after`](crate::proto::Readable)), which these bytes are
//! not: the places of what stands before them are lowered by their number.

use crate::{
    mm::pages::Pages,
    net::stamp::Stamp,
    prelude::*,
    rdma::buf::RecvBuf,
    sock::{
        conn::Conn,
        recv_buffers::Unread,
        ring::Ring,
        stream::Stream, //
    }, //
};
use core::sync::atomic::Ordering;

/// Bytes that were copied, and of which part.
type Copies = KVec<(usize, Unread)>;

impl Conn {
    /// Keeps what the peer wrote behind the first message of the reader's queue, which used up part
    /// `index` of `parts`, and has the mark behind its first `to_mark` bytes. `written` says how
    /// many bytes were written to each part, and when; none where the next message used it up. With
    /// the socket of `stream` locked. Sleeps. Fails with `ENOMEM` and `ENOBUFS`, and has changed
    /// nothing then.
    pub(super) fn keep_behind(
        &self,
        stream: &mut Stream,
        parts: &[Pages],
        written: &[(usize, Option<Stamp>)],
        index: usize,
        to_mark: usize,
    ) -> Result {
        let mut copies = Copies::new();
        let copied = self.copy_behind(parts, written, index, &mut copies);
        let queue = copied.and_then(|()| {
            let len = stream.rx.len().saturating_add(copies.len());
            Ring::new(len)
        });
        let mut queue = match queue {
            Ok(queue) => queue,
            Err(e) => {
                for (_, copy) in copies {
                    self.free_unread(copy);
                }
                return Err(e);
            }
        };
        let mut bytes = 0usize;
        let mut copies = copies.into_iter().peekable();
        // There is room for all of them.
        for (index, (bytes_written, _)) in written.iter().enumerate().skip(index) {
            if *bytes_written == 0 {
                let message = stream.rx.pop();
                let _ = message.map(|message| queue.push(message));
            }
            while let Some((_, copy)) = copies.next_if(|(of, _)| *of == index) {
                bytes = bytes.saturating_add(copy.len());
                let _ = queue.push(copy);
            }
        }
        queue.append(&mut stream.rx);
        stream.rx = queue;
        let mut flow = self.flow.lock();
        let mark = stream.consumed.wrapping_add(to_mark as u64);
        let lower = |place: u64| place.wrapping_sub(bytes as u64);
        let lowered = flow.urgent.lowered(mark, bytes as u64);
        flow.urgent.set(lowered);
        flow.skip = lower(flow.skip.start)..lower(flow.skip.end);
        stream.consumed = lower(stream.consumed);
        // Where the reader stands is looked at under the lock.
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Copies what was written, as [`Self::keep_behind`] has it, to buffers.
    fn copy_behind(
        &self,
        parts: &[Pages],
        written: &[(usize, Option<Stamp>)],
        first: usize,
        copies: &mut Copies,
    ) -> Result {
        let mut from = 0usize;
        for (index, ((bytes, stamp), part)) in written.iter().zip(parts).enumerate() {
            let mut done = if index < first { *bytes } else { 0 };
            while done < *bytes {
                copies.reserve(1, GFP_KERNEL)?;
                let mut copy = Unread {
                    buf: self.spare_buffer()?,
                    is_copy: true,
                    range: 0..0,
                    stamp: *stamp,
                };
                let left = bytes.saturating_sub(done);
                let n = copy
                    .buf
                    .append_pages(parts, from.saturating_add(done), left);
                copy.range.end = n;
                // There is room for it.
                let _ = copies.push_within_capacity((index, copy));
                if n == 0 {
                    return Err(EINVAL);
                }
                done = done.saturating_add(n);
            }
            from = from.saturating_add(part.len());
        }
        Ok(())
    }

    /// A buffer for bytes that arrived in no message. Sleeps. Fails with `ENOMEM` and `ENOBUFS`.
    fn spare_buffer(&self) -> Result<RecvBuf> {
        self.reclaim();
        let (pages, all) = {
            let recv = &mut self.flow.lock().recv;
            (recv.add_copy(), recv.pages())
        };
        self.charge(|parts| parts.recv = parts.recv.max(all))
            .and_then(|()| RecvBuf::new(pages))
            .inspect_err(|_| self.flow.lock().recv.remove_copy(pages))
    }
}
