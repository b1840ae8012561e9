// SPDX-License-Identifier: GPL-2.0

//! Sending without a copy: the caller's pages are lent to the peer.
//!
//! They are pinned and registered, and the peer fetches them. A blocking call waits for that, so
//! that its memory is its own when it returns; what the peer does not fetch in time is taken back
//! and copied. `MSG_ZEROCOPY` and the pages of splice are let go later, by the connection's work.

use crate::{
    mm::pages::{
        self,
        Memlock,
        Pages, //
    },
    net::{
        msg::flags,
        sock::{
            Timeout,
            WaitError, //
        },
        wait::OpenGuard, //
    },
    prelude::*,
    rdma::mr::Access,
    sock::{
        buffers::Waiter,
        conn::Conn,
        retry_buffer::RetryBuffer,
        send_call::{
            Lending,
            Sending, //
        },
        stats::Counter,
        types::Sdp,
        zcopy::RETURN_MS, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// How long the peer may make no progress with what is lent to it before the rest is copied, in
/// milliseconds.
const LEND_TIMEOUT_MS: u32 = 2000;

impl Sending<'_, '_, '_> {
    /// Continues a call that left its buffer here. Fails with `EBUSY` if this is another call.
    pub(super) fn resume(&mut self) -> Result {
        let (addr, len) = (pages::source_address(self.msg.data), self.msg.data.len());
        let retry = self.sk.poll_state().lock().retry_send.clone();
        let retry = match retry {
            None => {
                self.conn.begin_call();
                return Ok(());
            }
            // What is lent is not urgent.
            Some(retry) if retry.is_of(addr, len) && !self.is_urgent() => retry,
            Some(retry) if !retry.is_abandoned() => return Err(EBUSY),
            Some(_) => {
                // Of a process that is gone: what the peer has not fetched does not go.
                cancel_retry(self.s, self.conn);
                self.conn.begin_call();
                return Ok(());
            }
        };
        // Dropped without the spinlock.
        let _retry = self.sk.poll_state().lock().retry_send.take();
        self.msg.data.advance(retry.lent);
        self.lent = retry.lent;
        if self.timeout.is_zero() {
            self.lending = Lending::Retry;
        }
        Ok(())
    }

    /// Whether the next piece is lent.
    pub(super) fn lends_next(&mut self) -> bool {
        self.lending != Lending::No && pages::source_extent(self.msg.data) >= self.least
    }

    /// Lends the next piece, or finds that the rest of the call cannot be lent. Fails with
    /// `ENOBUFS` where there is no notice, and with `EPIPE` where the connection does not take the
    /// piece.
    pub(super) fn lend(&mut self) -> Result {
        let notice = self.notice()?;
        if notice.is_none()
            && self.lending == Lending::Beyond
            && self.msg.flags & flags::SPLICE_PAGES == 0
        {
            // MSG_ZEROCOPY without SO_ZEROCOPY has no effect.
            let addr = pages::source_address(self.msg.data);
            self.lending = Self::own(self.s, self.timeout, addr);
            return Ok(());
        }
        let memlock = match notice {
            Some(_) => Memlock::Paid,
            None => Memlock::Task,
        };
        let before = self.msg.data.len();
        let max_pages = self.conn.max_buffer_pages();
        // Parts of one size, lest the last be too small to be lent, and of whole pages.
        let at = pages::source_address(self.msg.data) % PAGE_SIZE;
        let all = at.saturating_add(pages::source_extent(self.msg.data));
        let all = all.div_ceil(PAGE_SIZE);
        let part = all.div_ceil(all.div_ceil(max_pages.max(1)).max(1));
        let max = part.saturating_mul(PAGE_SIZE).saturating_sub(at);
        let pages = Pages::of_source(self.msg.data, max, max_pages, memlock);
        let taken = before.saturating_sub(self.msg.data.len());
        let conn = self.conn;
        let memory = match conn.register_pinned(pages, Access::RemoteRead) {
            Ok(memory) => memory,
            Err((counter, _)) => {
                self.msg.revert(taken);
                conn.count(counter, 1);
                self.lending = Lending::No;
                return Ok(());
            }
        };
        let waiter = match self.lending {
            Lending::Beyond => Waiter::Work { _notice: notice },
            _ => Waiter::Call,
        };
        let is_call = waiter.is_call();
        let stages = self.stamps_at_end();
        if let Err(memory) = self.conn.send_memory(memory, waiter, stages) {
            // The connection is about to end, which the next check finds.
            drop(memory);
            self.msg.revert(taken);
            return if self.is_closed() { Ok(()) } else { Err(EPIPE) };
        }
        if is_call {
            self.lent = self.lent.saturating_add(taken);
        } else {
            self.sent = self.sent.saturating_add(taken);
        }
        Ok(())
    }

    /// Waits until nothing is lent any more: the peer has fetched it, or was asked to give it up,
    /// because it made no progress or the caller waits no longer. Fails with `EAGAIN` where a call
    /// leaves its buffer here, and as a wait does.
    pub(super) fn finish_lending(&mut self) -> Result {
        if self.lent == 0 {
            return Ok(());
        }
        let conn = self.conn;
        let is_returned = || conn.call().left == 0;
        if self.lending == Lending::Retry && !conn.finds_room(self.sk, is_returned) {
            let lent = core::mem::take(&mut self.lent);
            self.msg.revert(lent);
            let addr = pages::source_address(self.msg.data);
            let retry = RetryBuffer::new(addr, self.msg.data.len(), lent);
            self.sk.poll_state().lock().retry_send = Some(retry);
            return Err(EAGAIN);
        }
        let waited = self.wait_for_peer(Timeout::from_ms(LEND_TIMEOUT_MS), || {
            conn.call().left == 0 || conn.send_closed()
        });
        match waited {
            // Where another thread has ended the stream the peer is not waited for, as with TCP.
            Ok(true) => {}
            Ok(false) => {
                conn.count(Counter::CancelsTimeout, 1);
                self.lending = Lending::No;
            }
            Err(WaitError::TimedOut) => conn.count(Counter::CancelsTimeout, 1),
            Err(WaitError::Signal) => conn.count(Counter::CancelsSignal, 1),
        }
        let call = conn.call();
        if let Some(first) = call.first.filter(|_| call.left > 0) {
            conn.with(|m| m.withdraw_send(first));
            conn.wait_return(self.s, RETURN_MS, || conn.call().left == 0);
        }
        let bytes = conn.call().bytes.min(self.lent);
        self.msg.revert(self.lent.saturating_sub(bytes));
        self.sent = self.sent.saturating_add(bytes);
        self.lent = 0;
        conn.begin_call();
        self.timeout.check(waited.map(|_| ()))
    }
}

/// Takes back a buffer that a call left here (`SDP_ZCOPY_RETRY`), when the socket is closed or
/// disconnected.
pub(super) fn cancel_retry(s: &OpenGuard<'_, Sdp>, conn: &Conn) {
    let retry = s.sock().poll_state().lock().retry_send.take();
    if retry.is_some() {
        conn.count(Counter::CancelsRetry, 1);
        if let Some(first) = conn.call().first {
            conn.with(|m| m.withdraw_send(first));
        }
        conn.disown_call();
    }
}
