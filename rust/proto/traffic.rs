// SPDX-License-Identifier: GPL-2.0

//! What a connection has sent and received, and when: nothing depends on it. Times are nanoseconds
//! of the caller's clock.

/// What a connection has sent and received so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Messages that were sent, modulo 2^32.
    pub sent: u32,
    /// Messages that came, modulo 2^32.
    pub received: u32,
    /// Those of the messages sent that carry payload, or tell of payload.
    pub data_sent: u32,
    /// Those of the messages that came.
    pub data_received: u32,
    /// When the last of these was sent.
    pub data_sent_at: u64,
    /// When the last of these came.
    pub data_received_at: u64,
    /// When the fabric last showed that the peer is there.
    pub heard_at: u64,
    /// For how long something was written that the peer did not have.
    pub busy: u64,
    /// For how long payload waited for the peer's credit.
    pub limited: u64,
}

/// What is counted of it as it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    data_sent: u32,
    data_received: u32,
    data_sent_at: u64,
    data_received_at: u64,
    busy: Span,
    limited: Span,
}

/// The time that something lasted, until now if it began.
#[derive(Debug, Default)]
struct Span {
    total: u64,
    since: Option<u64>,
}

impl Span {
    fn begin(&mut self, now: u64) {
        self.since.get_or_insert(now);
    }

    fn end(&mut self, now: u64) {
        if self.since.is_some() {
            self.total = self.at(now);
            self.since = None;
        }
    }

    fn at(&self, now: u64) -> u64 {
        let last = self.since.map_or(0, |since| now.saturating_sub(since));
        self.total.saturating_add(last)
    }
}

impl Counts {
    /// A message with payload, or that tells of some, is sent.
    pub(super) fn data_sent(&mut self, now: u64) {
        self.data_sent = self.data_sent.wrapping_add(1);
        self.data_sent_at = now;
        self.limited.end(now);
    }

    /// Such a message came.
    pub(super) fn data_received(&mut self, now: u64) {
        self.data_received = self.data_received.wrapping_add(1);
        self.data_received_at = now;
    }

    /// Something was written, and waits.
    pub(super) fn begins(&mut self, now: u64) {
        self.busy.begin(now);
    }

    /// The peer has all that was written, or gets no more.
    pub(super) fn ends(&mut self, now: u64) {
        self.busy.end(now);
        self.limited.end(now);
    }

    /// Payload waits for the peer's credit.
    pub(super) fn limited(&mut self, now: u64) {
        self.limited.begin(now);
    }

    /// It together with what is known elsewhere.
    pub(super) fn traffic(&self, now: u64, sent: u32, received: u32, heard_at: u64) -> Traffic {
        Traffic {
            sent,
            received,
            data_sent: self.data_sent,
            data_received: self.data_received,
            data_sent_at: self.data_sent_at,
            data_received_at: self.data_received_at,
            heard_at,
            busy: self.busy.at(now),
            limited: self.limited.at(now),
        }
    }
}
