// SPDX-License-Identifier: GPL-2.0

//! sendmsg: by copy into chunks of the send stream, or, if the call is large enough, by lending the
//! caller's pages to the peer ([`super::send_zcopy`]).

use crate::{
    mm::pages,
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::Timeout, //
    },
    prelude::*,
    proto::Machine,
    rdma::buf::SendBuf,
    sock::{
        conn::Conn,
        locked::SocketState,
        output::SEND_ORDER,
        send_call::{
            Lending,
            Sending, //
        },
        stats::Counter,
        types::{
            OpenSocket,
            Socket, //
        }, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// The smallest chunk of the send stream, in bytes.
const CHUNK_MIN: usize = 512;

/// `sendmsg(2)`.
///
/// Takes bytes as long as `SO_SNDBUF` has room, or lends them. Sleeps. The caller raises SIGPIPE
/// where the error asks for it.
pub(super) fn sendmsg(sk: &OpenSocket, msg: SendMsg<'_>) -> Result<usize> {
    let mut timeout = sk.send_timeout(msg.nonblock());
    let mut s = sk.lock();
    let mut is_shut = false;
    let locked = s.wait(&mut timeout, |s| {
        if matches!(s.state(), SocketState::Connecting) {
            return false;
        }
        let mut poll_state = sk.poll_state().lock();
        is_shut = poll_state.send_shut;
        poll_state.send_iolock.is_free()
    });
    timeout.check(locked)?;
    let conn = match (s.state(), s.conn()) {
        (SocketState::Connected, Some(conn)) if !is_shut => conn.clone(),
        _ => return Err(EPIPE),
    };
    let stages = msg.control(sk)?;
    if !stages.is_empty() {
        conn.reserve_stamp();
    }
    let mut call = Sending::new(sk, &mut s, &conn, msg, timeout);
    call.stages = stages;
    // The reason of a failure is reported before the EPIPE that follows it.
    let result = call.run().inspect_err(|_| conn.report_failure());
    call.release_iolock();
    result
}

impl Sending<'_, '_, '_> {
    fn run(&mut self) -> Result<usize> {
        self.resume()?;
        let result = self.finish_lending().and_then(|()| self.send());
        // Whatever happened, the caller gets its memory back, unless it leaves it here.
        let returned = self.finish_lending();
        if self.sent == 0 {
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        if self.is_urgent() && self.sent > 0 && !self.msg.data.is_empty() {
            // The last byte that was taken is urgent, also of a call that ends early, unless it has
            // left already.
            self.conn.with(Machine::mark_urgent);
        }
        if self.sent > 0 && !self.stages.is_empty() {
            self.conn.stamp_last(self.stages);
        }
        if self.msg.flags & flags::MORE == 0 && !self.pushed {
            self.conn.with(Machine::push);
        }
        self.conn.arm_timer();
        match result.and(returned) {
            Err(e) if self.sent == 0 => Err(e),
            _ => Ok(self.sent),
        }
    }

    fn send(&mut self) -> Result {
        loop {
            if self.msg.data.is_empty() && self.lent == 0 && self.sent > 0 {
                return Ok(());
            }
            if self.is_closed() {
                return Err(EPIPE);
            }
            if self.msg.data.is_empty() {
                if self.lent == 0 {
                    return Ok(());
                }
                // What was not fetched is copied.
                self.finish_lending()?;
                continue;
            }
            if self.lends_next() {
                if self.lending == Lending::Retry && self.sent > 0 {
                    // The program leaves its memory alone after EAGAIN only.
                    return Ok(());
                }
                if self.conn.has_buffer_place() {
                    self.lend()?;
                    continue;
                }
                if self.lent > 0 {
                    self.finish_lending()?;
                    continue;
                }
                self.wait(|_, conn| conn.has_buffer_place())?;
                continue;
            }
            // What is copied must not come before what is lent, which may be taken back.
            if self.lent > 0 {
                self.finish_lending()?;
                continue;
            }
            let room = self.conn.room(self.limit());
            if room > 0 && self.conn.make_place()? {
                match self.copy(room) {
                    // There is memory again when what was written has been sent.
                    Err(e) if e == ENOBUFS && self.conn.copied() > 0 => {
                        self.conn.with(Machine::push);
                        self.wait(|_, conn| conn.copied() == 0)?;
                    }
                    copied => copied?,
                }
                continue;
            }
            // A caller that waits has no more to add.
            self.conn.with(Machine::push);
            self.wait(|sk, conn| conn.writable(sk) && conn.has_place())?;
        }
    }

    /// How many copied bytes may be on their way to the peer.
    fn limit(&self) -> usize {
        let set = self.sk.send_buffer();
        if self.crossed && !self.sk.is_sndbuf_locked() {
            set.max(self.sk.max_send_buffer())
        } else {
            set
        }
    }

    /// Waits until there is `room`, or the stream takes no more.
    fn wait(&mut self, room: impl Fn(&Socket, &Conn) -> bool) -> Result {
        if self.sent == 0 {
            // Another task may make the next call, which gets its number.
            if let Some(notice) = self.notice.take() {
                notice.abort();
            }
        }
        let (sk, conn) = (self.sk, self.conn);
        let waited = self.wait_for_peer(Timeout::FOREVER, || {
            sk.has_error() || conn.send_closed() || conn.finds_room(sk, || room(sk, conn))
        });
        self.crossed &= matches!(waited, Ok(false));
        self.timeout.check(waited.map(|_| ()))
    }

    /// The size of a chunk for the next bytes, of which there is `room` for so many. If nothing
    /// waits to be sent, a small write gets a chunk for a few writes of its size.
    fn chunk_size(&self, room: usize) -> usize {
        let len = self.msg.data.len().min(room);
        if len > PAGE_SIZE || self.conn.copied() > 0 {
            return PAGE_SIZE << SEND_ORDER;
        }
        let few = len.saturating_mul(4).next_power_of_two();
        few.clamp(CHUNK_MIN, PAGE_SIZE)
    }

    /// Copies at most `room` bytes, and no more than one chunk holds, to the send stream. Fails
    /// with `ENOBUFS` where they cannot be charged, `ENOMEM`, `EFAULT`, and with `EPIPE` where the
    /// connection has ended.
    fn copy(&mut self, room: usize) -> Result {
        if let Some(notice) = self.notice()? {
            notice.copied();
        }
        let mut chunk = match self.conn.take_chunk() {
            Some(chunk) => chunk,
            None => {
                let mut size = self.chunk_size(room);
                if let Err(e) = self.conn.charge_send(size) {
                    // A page is charged from the start, so that what was connected can send.
                    if self.conn.copied() > 0 || size <= PAGE_SIZE {
                        return Err(e);
                    }
                    size = PAGE_SIZE;
                    self.conn.charge_send(size)?;
                }
                SendBuf::new(size)?
            }
        };
        // The piece behind one that is too small to be lent may be large enough.
        let room = match self.lending {
            Lending::No => room,
            _ => room.min(pages::source_extent(self.msg.data).max(1)),
        };
        let Some(piece) = chunk.append_iter(self.msg.data, room) else {
            self.conn.keep_chunk(chunk);
            return Err(EFAULT);
        };
        let len = piece.len();
        // There is a place for it, unless the connection has ended: nobody else adds any.
        // As with TCP, of a call that ends for want of room it is the last that was taken.
        let ends = self.msg.data.is_empty() || (len == room && self.timeout.is_zero());
        let urgent = self.is_urgent() && ends;
        self.pushed = self.msg.data.is_empty() && self.msg.flags & flags::MORE == 0;
        self.conn
            .write(piece, chunk, (urgent, self.pushed), self.stamps_at_end())
            .map_err(|_| EPIPE)?;
        self.conn.count(Counter::SentCopied, len as u64);
        self.sent = self.sent.saturating_add(len);
        Ok(())
    }
}
