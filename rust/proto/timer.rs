// SPDX-License-Identifier: GPL-2.0

//! What happens when nothing does (`B-9a`, `B-74`, `B-76`, `B-81`). Times are nanoseconds of a
//! clock of the caller's.
//!
//! The rules for a silent peer are TCP's. An idle one is probed as keepalive says: its fabric, and
//! the peer itself, which may hang while its adapter answers. One that has something to answer, be
//! it to the fabric or with credit, is given up when it makes no progress for the user's timeout,
//! or when it does not even answer the fabric.

/// How long the connecting end waits for the peer's first message before it probes (`B-9a`), which
/// it does again after pauses that double, up to the longest.
const GREETING_NS: u64 = 100_000_000;
const GREETING_MAX_NS: u64 = GREETING_NS << 9;

/// How long the fabric may be silent before a peer is probed that leaves what was written waiting.
const PERSIST_NS: u64 = 30_000_000_000;

/// When an idle peer is probed, and given up (`B-76`, `B-81`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// The silence before the first probe, in nanoseconds.
    pub idle: u64,
    /// The time between probes that have no answer, in nanoseconds.
    pub interval: u64,
    /// How many of them have no answer from a peer that is gone.
    pub probes: u32,
}

/// What becomes of what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    /// The peer has all of it.
    Nothing,
    /// Some of it is in the fabric, which has no answer yet.
    InFlight,
    /// It waits for the peer's credit.
    Held,
    /// It waits for the peer to read it.
    Lent,
}

/// What a connection waits for, as it would have a peer probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// An idle peer is probed.
    KeepAlive,
    /// The peer does not take what was written.
    Persist,
}

/// What is to be done about a silent peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Probe its fabric.
    Probe,
    /// Probe its fabric, and ask the peer itself.
    KeepAlive,
    /// Copy what it was to read.
    Copy,
    /// Give it up.
    GiveUp,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The caller's last word on the time.
    pub(super) now: u64,
    /// When the fabric last showed that the peer is there.
    pub(super) heard: u64,
    keepalive: Option<KeepAlive>,
    /// Probes of keepalive since then.
    unanswered: u32,
    /// When the peer's last message came.
    spoke: u64,
    /// When the peer was sent what it has to answer, if no message came since.
    asked: Option<u64>,
    /// When the last of what is probed else was probed, if that was since then.
    probed: Option<u64>,
    /// How long what was written may make no progress, and since when it has made none.
    user_timeout: Option<u64>,
    stalled: u64,
    /// How long the fabric may have no answer to what is in it.
    silence: Option<u64>,
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
        self.unanswered = 0;
        self.probed = None;
    }

    /// A message came.
    pub(super) fn spoke(&mut self) {
        self.heard();
        self.spoke = self.now;
        self.asked = None;
    }

    /// The peer was sent what it has to answer, and has credit for the answer.
    pub(super) fn asked(&mut self) {
        self.asked.get_or_insert(self.now);
    }

    /// Some of what was written went on, or it is the first that waits.
    pub(super) fn progressed(&mut self) {
        self.stalled = self.now;
    }

    /// The time before keepalive was turned on does not count.
    pub(super) fn set_keepalive(&mut self, keepalive: Option<KeepAlive>) {
        if self.keepalive.is_none() && keepalive.is_some() {
            self.heard();
        }
        if keepalive.is_none() {
            self.asked = None;
        }
        self.keepalive = keepalive;
    }

    pub(super) fn set_limits(&mut self, user_timeout: Option<u64>, silence: Option<u64>) {
        self.user_timeout = user_timeout;
        self.silence = silence;
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

    /// When keepalive has something to do. While something is pending it only looks again.
    fn keepalive_at(&self, pending: Pending) -> Option<u64> {
        let keepalive = self.keepalive?;
        Some(match pending {
            Pending::Nothing => keepalive
                .interval
                .saturating_mul(self.unanswered.into())
                .saturating_add(keepalive.idle)
                .saturating_add(self.heard),
            _ => self.now.saturating_add(keepalive.idle),
        })
    }

    /// When a peer is given up whose fabric answers and which itself does not: as one that answers
    /// none of keepalive's probes from then on.
    fn hung_at(&self) -> Option<u64> {
        let (keepalive, asked) = self.keepalive.zip(self.asked)?;
        let probes = match self.user_timeout {
            Some(timeout) => {
                let left = self.spoke.saturating_add(timeout).saturating_sub(asked);
                left.div_ceil(keepalive.interval.max(1)).max(1)
            }
            None => keepalive.probes.into(),
        };
        Some(asked.saturating_add(keepalive.interval.saturating_mul(probes)))
    }

    /// Since when the fabric owes an answer.
    fn silent_since(&self, pending: Pending) -> Option<u64> {
        match pending {
            Pending::Nothing => None,
            Pending::InFlight => Some(self.heard.max(self.stalled)),
            Pending::Held | Pending::Lent => self.probed,
        }
    }

    /// When the peer is given up for what is pending.
    fn give_up_at(&self, pending: Pending) -> Option<u64> {
        let until = |since: u64, limit: Option<u64>| limit.map(|limit| since.saturating_add(limit));
        let stalled = (pending != Pending::Nothing).then_some(self.stalled);
        earlier(
            stalled.and_then(|since| until(since, self.user_timeout)),
            self.silent_since(pending)
                .and_then(|since| until(since, self.silence)),
        )
    }

    /// When what the peer was to read is copied instead, lest the user's timeout end what TCP had
    /// brought to the peer by now.
    fn copy_at(&self, pending: Pending) -> Option<u64> {
        let half = self.user_timeout? / 2;
        (pending == Pending::Lent).then_some(self.stalled.saturating_add(half))
    }

    /// When a peer is probed that leaves something waiting.
    fn persist_at(&self, pending: Pending) -> Option<u64> {
        let waits = matches!(pending, Pending::Held | Pending::Lent);
        (waits && self.probed.is_none())
            .then_some(self.heard.max(self.stalled).saturating_add(PERSIST_NS))
    }

    fn is_due(&self, at: Option<u64>) -> bool {
        at.is_some_and(|at| at <= self.now)
    }

    /// What is due now.
    pub(super) fn due(&mut self, pending: Pending) -> Option<Due> {
        if self.is_due(self.give_up_at(pending)) || self.is_due(self.hung_at()) {
            return Some(Due::GiveUp);
        }
        if self.is_due(self.persist_at(pending)) {
            self.probed = Some(self.now);
            return Some(Due::Probe);
        }
        if self.is_due(self.copy_at(pending)) {
            return Some(Due::Copy);
        }
        let keepalive = self.keepalive?;
        if pending != Pending::Nothing || !self.is_due(self.keepalive_at(pending)) {
            return None;
        }
        let silence = self.now.saturating_sub(self.heard);
        let is_gone = match self.user_timeout {
            Some(timeout) => self.unanswered > 0 && silence >= timeout,
            None => self.unanswered >= keepalive.probes,
        };
        if is_gone {
            return Some(Due::GiveUp);
        }
        self.unanswered = self.unanswered.saturating_add(1);
        Some(Due::KeepAlive)
    }

    /// When the peer is next probed, what for, and how many probes have no answer.
    pub(super) fn awaited(&self, pending: Pending) -> Option<(Awaited, u32, u64)> {
        if pending == Pending::Nothing {
            let at = self.keepalive_at(pending)?;
            return Some((Awaited::KeepAlive, self.unanswered, at));
        }
        let at = self.persist_at(pending)?;
        Some((Awaited::Persist, u32::from(self.probed.is_some()), at))
    }

    fn close_at(&self) -> Option<u64> {
        self.closed
            .zip(self.close_timeout)
            .map(|(since, timeout)| since.saturating_add(timeout))
    }

    pub(super) fn deadline(&self, pending: Pending) -> Option<u64> {
        // What was copied stays so.
        let copy = self.copy_at(pending).filter(|at| *at > self.now);
        [
            self.keepalive_at(pending),
            self.give_up_at(pending),
            self.hung_at(),
            self.persist_at(pending),
            copy,
            self.close_at(),
        ]
        .into_iter()
        .fold(None, earlier)
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
