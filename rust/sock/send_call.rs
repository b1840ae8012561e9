// SPDX-License-Identifier: GPL-2.0

//! A call that sends: how it lends its memory, its I/O lock, and how it waits for the peer.

use crate::{
    mm::pages,
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        sock::{
            Timeout,
            WaitError, //
        },
        stamp::TxStamps,
        wait::OpenGuard,
        zerocopy::Notice, //
    },
    prelude::*,
    sock::{
        conn::Conn,
        inq,
        locked::Locked,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    sync::Arc, //
};

/// How long a send waits for a peer that makes no progress while bytes from it are unread here, in
/// milliseconds, before the rest is copied: its program may be in such a call too, and each has to
/// return before its program can read.
const CROSSED_MS: u32 = 50;

/// Whether a call lends its memory, and until when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lending {
    /// Not at all.
    No,
    /// Until it returns.
    Call,
    /// Until the call is made again, since it must not sleep.
    Retry,
    /// Until its notice is given or, for pages of the kernel, until the peer has them.
    Beyond,
}

/// A call that sends.
pub(super) struct Sending<'a, 'g, 'm> {
    /// The socket.
    pub(super) sk: &'a Socket,
    /// Its lock.
    pub(super) s: &'a mut OpenGuard<'g, Sdp>,
    /// The connection that it sends to.
    pub(super) conn: &'a Arc<Conn>,
    /// What the call was given.
    pub(super) msg: SendMsg<'m>,
    /// How much longer it may wait.
    pub(super) timeout: Timeout,
    /// Whether what comes next is lent.
    pub(super) lending: Lending,
    /// It has the I/O lock.
    pub(super) has_iolock: bool,
    /// The least piece that is lent.
    pub(super) least: usize,
    /// Bytes that were copied, or that the peer has fetched.
    pub(super) sent: usize,
    /// Bytes that are lent until the call returns.
    pub(super) lent: usize,
    /// The notice of `MSG_ZEROCOPY`, once it is needed.
    pub(super) notice: Option<Notice>,
    /// The stages of its last byte that are to be reported.
    pub(super) stages: TxStamps,
    /// Both ends wait in a send, each for the other to read.
    pub(super) crossed: bool,
    /// The machine knows that nothing follows what was copied last.
    pub(super) pushed: bool,
}

impl<'a, 'g, 'm> Sending<'a, 'g, 'm> {
    /// A call that has sent nothing yet, and finds how it lends.
    pub(super) fn new(
        sk: &'a Socket,
        s: &'a mut OpenGuard<'g, Sdp>,
        conn: &'a Arc<Conn>,
        msg: SendMsg<'m>,
        timeout: Timeout,
    ) -> Self {
        // CAST: `usize` has at least 32 bits.
        let threshold = s.options.zcopy_threshold as usize;
        let beyond = msg.flags & (flags::SPLICE_PAGES | flags::ZEROCOPY) != 0;
        let lending = match threshold {
            0 => Lending::No,
            // The urgent byte is copied (B-80), and with it what comes before.
            _ if msg.flags & flags::OOB != 0 => Lending::No,
            _ if beyond => Lending::Beyond,
            _ => Self::own(s, timeout, pages::source_address(msg.data)),
        };
        // A pipe gives its pages in small numbers, and a call that is large may be so in pieces.
        let large = msg.flags & flags::SPLICE_PAGES != 0 || msg.data.len() >= threshold;
        let large = large && threshold > 0;
        let least = match large {
            true => (threshold / 4).min(conn.max_buffer_pages().saturating_mul(PAGE_SIZE / 4)),
            false => threshold,
        };
        let mut call = Self {
            sk,
            s,
            conn,
            msg,
            timeout,
            lending,
            has_iolock: false,
            least,
            sent: 0,
            lent: 0,
            notice: None,
            stages: TxStamps::default(),
            crossed: false,
            pushed: false,
        };
        if call.s.stream.crossed_at == Some(call.s.stream.receives) && call.is_unread() {
            call.cross();
        }
        call
    }

    /// How a call without `MSG_ZEROCOPY` lends.
    pub(super) fn own(s: &Locked, timeout: Timeout, addr: usize) -> Lending {
        match timeout.is_zero() {
            false => Lending::Call,
            true if s.options.zcopy_retry && addr != 0 => Lending::Retry,
            true => Lending::No,
        }
    }

    /// Takes the I/O lock, if the call has not got it: before it sleeps without the socket lock.
    pub(super) fn acquire_iolock(&mut self) {
        if !core::mem::replace(&mut self.has_iolock, true) {
            self.sk.poll_state().lock().send_iolock.acquire();
        }
    }

    /// Releases the I/O lock, if the call has it, and notifies who has found it held.
    pub(super) fn release_iolock(&mut self) {
        if core::mem::replace(&mut self.has_iolock, false)
            && self.sk.poll_state().lock().send_iolock.release()
        {
            self.sk.wake_calls();
            self.conn.notify_all_writers(self.sk);
        }
    }

    /// Whether the last byte is urgent (`MSG_OOB`).
    pub(super) fn is_urgent(&self) -> bool {
        self.msg.flags & flags::OOB != 0
    }

    /// [`Self::stages`], if what was just taken from the call ends it.
    pub(super) fn stamps_at_end(&self) -> TxStamps {
        match self.msg.data.is_empty() {
            true => self.stages,
            false => TxStamps::default(),
        }
    }

    /// Whether the stream takes no more bytes.
    pub(super) fn is_closed(&self) -> bool {
        !self.s.has(self.conn) || self.sk.has_error() || self.conn.send_closed()
    }

    /// Whether bytes from the peer are unread here.
    pub(super) fn is_unread(&mut self) -> bool {
        is_unread(self.s, self.conn)
    }

    /// Notes that this call and one of the peer's program wait for each other: the rest is copied,
    /// beyond `SO_SNDBUF` unless the program has set that.
    pub(super) fn cross(&mut self) {
        self.s.stream.crossed_at = Some(self.s.stream.receives);
        self.crossed = true;
        self.lending = Lending::No;
    }

    /// Waits until it is `done`, or the peer has made no progress for `patience`, or for
    /// [`CROSSED_MS`] while bytes from it are unread here. Returns whether it was done. Every sleep
    /// without the socket lock begins with this one.
    pub(super) fn wait_for_peer(
        &mut self,
        patience: Timeout,
        done: impl Fn() -> bool,
    ) -> Result<bool, WaitError> {
        let conn = self.conn;
        self.acquire_iolock();
        conn.arm_timer();
        loop {
            let before = conn.queued();
            let mut left = patience;
            let crossed = loop {
                let (unread, receives) = (self.is_unread(), self.s.stream.receives);
                let may_cross = unread && !self.crossed;
                let mut slice = match may_cross {
                    true => left.min(Timeout::from_ms(CROSSED_MS)),
                    false => left,
                };
                let whole = slice;
                let in_time = self.s.wait_slice(&mut self.timeout, &mut slice, |s| {
                    conn.has_returned(s, &done)
                        || s.stream.receives != receives
                        || is_unread(s, conn) != unread
                })?;
                if done() {
                    return Ok(true);
                }
                left.spend(whole, slice);
                if !in_time {
                    break may_cross;
                }
            };
            if conn.queued() >= before {
                if crossed {
                    self.cross();
                }
                return Ok(false);
            }
        }
    }

    /// The notice of the call, if it asks for one. From here on the call must not release the
    /// socket lock before it has sent something. Fails with `ENOBUFS`.
    pub(super) fn notice(&mut self) -> Result<Option<Notice>> {
        if self.notice.is_none() {
            self.notice = self.msg.notice(self.s, self.msg.data.len())?;
        }
        Ok(self.notice.clone())
    }
}

/// Whether bytes from the peer are unread here, those included that were fetched into a buffer
/// which a call left here.
fn is_unread(s: &OpenGuard<'_, Sdp>, conn: &Conn) -> bool {
    let has_retry = s.sock().poll_state().lock().retry_recv.is_some();
    inq::unread(s) > 0 || (has_retry && conn.are_reads_done())
}
