// SPDX-License-Identifier: GPL-2.0

//! What happens when nothing does (`B-9a`, `B-74`, `B-76`, `B-81`). Times are nanoseconds of a clock of the caller's.

/// How long the connecting end waits for the peer's first message before it probes (`B-9a`), which
/// it does again after pauses that double, up to the longest.
const GREETING_NS: u64 = 100_000_000;
const GREETING_MAX_NS: u64 = GREETING_NS << 9;

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The caller's last word on the time.
    pub(super) now: u64,
    /// When the fabric last showed that the peer is there.
    heard: u64,
    keepalive: Option<u64>,
    /// Since when the user is done with both halves.
    closed: Option<u64>,
    close_timeout: Option<u64>,
    /// When a peer that was not heard yet is probed (`B-9a`).
    pub(super) greeting: Option<u64>,
    /// The pause before that.
    pause: u64,
}

impl Timers {
    pub(super) fn heard(&mut self) {
        self.heard = self.now;
    }

    pub(super) fn set_keepalive(&mut self, interval: Option<u64>) {
        self.keepalive = interval;
        self.heard();
    }

    pub(super) fn set_close_timeout(&mut self, timeout: Option<u64>) {
        self.close_timeout = timeout;
    }

    pub(super) fn closed(&mut self) {
        self.closed.get_or_insert(self.now);
    }

    pub(super) fn greets(&mut self) {
        self.pause = GREETING_NS;
        self.greeting = Some(self.now.saturating_add(self.pause));
    }

    /// The peer is being probed.
    pub(super) fn greets_again(&mut self) {
        self.pause = self.pause.saturating_mul(2);
        let at = self.now.saturating_add(self.pause);
        self.greeting = (self.pause <= GREETING_MAX_NS).then_some(at);
    }

    fn keepalive_at(&self) -> Option<u64> {
        self.keepalive
            .map(|interval| self.heard.saturating_add(interval))
    }

    fn close_at(&self) -> Option<u64> {
        self.closed
            .zip(self.close_timeout)
            .map(|(since, timeout)| since.saturating_add(timeout))
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        earlier(self.keepalive_at(), self.close_at())
    }

    /// Whether the peer has been silent for so long that it is to be probed.
    pub(super) fn keepalive_expired(&mut self) -> bool {
        let expired = self.keepalive_at().is_some_and(|at| at <= self.now);
        if expired {
            self.heard();
        }
        expired
    }

    /// Whether the peer has not closed its half for too long.
    pub(super) fn close_expired(&self) -> bool {
        self.close_at().is_some_and(|at| at <= self.now)
    }
}

pub(super) fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => a.or(b),
    }
}
