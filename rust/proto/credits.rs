// SPDX-License-Identifier: GPL-2.0

//! Sequence numbers and credits of both directions (`B-12` to `B-23`).
//!
//! A *limit* is the last sequence number that fits into the buffers one end has told the other of:
//! MSeqAck + Bufs. Limits and sequence numbers live in the ring of integers modulo 2^32, so that
//! they are only ever subtracted.

use super::{
    sequence::ahead,
    violation::{
        Rule,
        Violation, //
    },
};

/// What a message costs the rules of `B-15` to `B-18`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cost {
    /// No payload.
    Control,
    /// With payload.
    Payload,
}

/// Credit that a message with payload needs (`B-18`).
pub(super) const PAYLOAD_CREDIT: u32 = 3;

#[derive(Debug)]
pub(super) struct Credits {
    /// Sequence number of the last message sent.
    sent: u32,
    /// MSeqAck of the last message received.
    acked: u32,
    /// Bufs of the last message received.
    bufs: u16,

    /// Sequence number of the last message received.
    received: u32,
    /// Own receive buffers posted and not yet filled (`B-13`).
    posted: u32,
    /// The MSeqAck to send in place of `received` (`B-41`, `B-44`).
    held: Option<u32>,
    /// The limit that the last message sent told.
    told: u32,
    /// Empty Data received since then, whose buffers give nothing new when they come back.
    updates: u32,
}

impl Credits {
    /// The start after Hello and HelloAck, which carry sequence number 0 and each end's posted
    /// buffers.
    pub(super) fn new(own_depth: u16) -> Credits {
        Credits {
            sent: 0,
            acked: 0,
            bufs: 0,
            received: 0,
            posted: u32::from(own_depth),
            held: None,
            told: u32::from(own_depth),
            updates: 0,
        }
    }

    /// The peer's Bufs as its Hello or HelloAck says it.
    pub(super) fn start(&mut self, peer_depth: u16) {
        self.bufs = peer_depth;
    }

    /// Messages that may still be sent (`B-14`).
    pub(super) fn available(&self) -> u32 {
        let outstanding = self.sent.wrapping_sub(self.acked);
        u32::from(self.bufs).saturating_sub(outstanding)
    }

    /// How many messages were sent and received, modulo 2^32.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.sent, self.received)
    }

    /// The number of this end's next message.
    pub(super) fn next_sent(&self) -> u32 {
        self.sent.wrapping_add(1)
    }

    /// The sequence number that the peer's next message must have (`B-12`).
    pub(super) fn next_received(&self) -> u32 {
        self.received.wrapping_add(1)
    }

    /// Whether a message of this cost may go now (`B-15` to `B-18`).
    pub(super) fn allow(&self, cost: Cost) -> bool {
        match cost {
            Cost::Payload => self.available() >= PAYLOAD_CREDIT,
            Cost::Control => match self.available() {
                0 => false,
                1 => self.gain() > 0,
                _ => true,
            },
        }
    }

    /// Whether an empty Data should tell the peer of new buffers (`B-19`, `B-20`).
    ///
    /// The peer knows of `peer` more messages, and `gain` would be news. With plenty on its side,
    /// news can wait until it doubles what the peer has: that bounds updates to a fraction of the
    /// messages they answer. When the peer has too little to send payload, each returned buffer
    /// counts, except that a buffer which an update of the peer's took must not alone call for an
    /// update in turn: two idle ends would never fall silent. Two such buffers do. That comes to an
    /// end, however late buffers are posted, for every update answers two.
    ///
    /// A peer that is left with nothing waits for the second, too: payload never takes the last two
    /// buffers (`B-17`), so that it is on its way back. One with a single credit may owe an answer,
    /// which its credit does not let it give, and is told of one buffer where this end has plenty:
    /// so much is left of that then that the peer does not do the same in turn.
    pub(super) fn update_due(&self) -> bool {
        let gain = self.gain();
        let peer = self.known();
        if peer < PAYLOAD_CREDIT {
            let urgent = peer == 1 && self.allow(Cost::Payload);
            gain > self.updates || gain >= 2 || (urgent && gain > 0)
        } else {
            gain >= peer
        }
    }

    /// Messages that the peer knows it may still send.
    pub(super) fn known(&self) -> u32 {
        ahead(self.told, self.received)
    }

    /// Buffers that the peer would learn of from a message sent now.
    fn gain(&self) -> u32 {
        ahead(self.limit(), self.told)
    }

    fn limit(&self) -> u32 {
        self.mseq_ack().wrapping_add(u32::from(self.own_bufs()))
    }

    fn mseq_ack(&self) -> u32 {
        self.held.unwrap_or(self.received)
    }

    /// Keeps MSeqAck from reaching the message received last (`B-41`).
    pub(super) fn hold(&mut self) {
        if self.held.is_none() {
            self.held = Some(self.received.wrapping_sub(1));
        }
    }

    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// `B-13`, as far as the field can say. Messages that MSeqAck leaves out do not count as
    /// received here either: the peer takes them for outstanding, and two ends short of buffers
    /// could otherwise hold each other up for ever.
    fn own_bufs(&self) -> u16 {
        let held = self.received.wrapping_sub(self.mseq_ack());
        u16::try_from(self.posted.saturating_add(held)).unwrap_or(u16::MAX)
    }

    /// Numbers the next message: its Bufs, MSeq and MSeqAck.
    pub(super) fn send(&mut self) -> (u16, u32, u32) {
        self.updates = self.updates.saturating_sub(self.gain());
        self.told = self.limit();
        self.sent = self.sent.wrapping_add(1);
        (self.own_bufs(), self.sent, self.mseq_ack())
    }

    pub(super) fn posted(&mut self, buffers: u16) {
        self.posted = self.posted.saturating_add(u32::from(buffers));
    }

    /// Counts a received message and takes the credit it brings; `update` says that it did nothing
    /// else, and `cancelling` that the peer may hold MSeqAck back, so that its limit may fall
    /// (`B-41`).
    pub(super) fn receive(
        &mut self,
        mseq: u32,
        mseq_ack: u32,
        bufs: u16,
        update: bool,
        cancelling: bool,
    ) -> Result<(), Violation> {
        let violation = |rule, what| Err(Violation::new(Rule::B(rule), what));
        if mseq != self.next_received() {
            return violation(12, "message out of sequence");
        }
        if ahead(mseq, self.told) > 0 {
            return violation(14, "message beyond the credit given");
        }
        let Some(posted) = self.posted.checked_sub(1) else {
            return violation(13, "more messages than receive buffers");
        };
        if mseq_ack.wrapping_sub(self.acked) > self.sent.wrapping_sub(self.acked) {
            return violation(12, "MSeqAck outside the messages not yet acknowledged");
        }
        if !cancelling && u32::from(bufs) < self.sent.wrapping_sub(mseq_ack) {
            return violation(13, "Bufs takes back credit that is used");
        }
        self.received = mseq;
        self.posted = posted;
        self.acked = mseq_ack;
        self.bufs = bufs;
        if update {
            self.updates = self.updates.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credits(own: u16, peer: u16) -> Credits {
        let mut credits = Credits::new(own);
        credits.start(peer);
        credits
    }

    #[test]
    fn b_12_sequence_wraps_and_may_not_jump() {
        let mut c = credits(8, 8);
        c.received = u32::MAX;
        c.told = c.received.wrapping_add(8);
        assert_eq!(c.receive(0, 0, 8, false, false), Ok(()));
        assert_eq!(
            c.receive(2, 0, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
        assert_eq!(
            c.receive(0, 0, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
    }

    #[test]
    fn b_12_acknowledges_only_what_was_sent() {
        let mut c = credits(8, 8);
        assert_eq!(
            c.receive(1, 1, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
        c.send();
        c.send();
        assert_eq!(c.receive(1, 2, 8, false, false), Ok(()));
        assert_eq!(
            c.receive(2, 1, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
        assert_eq!(
            c.receive(2, 3, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
    }

    #[test]
    fn b_13_bufs_counts_posted_less_received() {
        let mut c = credits(8, 8);
        c.receive(1, 0, 8, false, false).unwrap();
        assert_eq!(c.send(), (7, 1, 1));
        c.posted(3);
        assert_eq!(c.send(), (10, 2, 1));
    }

    #[test]
    fn b_13_bufs_saturates() {
        let mut c = credits(u16::MAX, 8);
        c.posted(5);
        assert_eq!(c.send().0, u16::MAX);
    }

    #[test]
    fn b_13_used_credit_cannot_be_taken_back() {
        let mut c = credits(8, 8);
        c.send();
        c.send();
        assert_eq!(
            c.receive(1, 0, 1, false, false).unwrap_err().rule,
            Rule::B(13)
        );
    }

    #[test]
    fn b_13_all_credit_may_be_used() {
        let mut c = credits(8, 8);
        c.send();
        c.send();
        assert_eq!(c.receive(1, 0, 2, false, false), Ok(()));
        assert_eq!(c.available(), 0);
    }

    #[test]
    fn b_13_unused_credit_may_shrink() {
        let mut c = credits(8, 8);
        c.send();
        assert_eq!(c.receive(1, 1, 2, false, false), Ok(()));
        assert_eq!(c.available(), 2);
    }

    #[test]
    fn b_41_held_acknowledgement_stays_below_the_cancel() {
        let mut c = credits(8, 8);
        for mseq in 1..=4 {
            c.receive(mseq, 0, 8, false, false).unwrap();
        }
        c.hold();
        c.receive(5, 0, 8, false, false).unwrap();
        c.hold();
        assert_eq!(c.send(), (5, 1, 3));
        c.release();
        assert_eq!(c.send(), (3, 2, 5));
        assert_eq!(
            c.receive(8, 0, 8, false, false).unwrap_err().rule,
            Rule::B(12)
        );
        c.receive(6, 0, 8, false, false).unwrap();
    }

    #[test]
    fn b_41_credit_may_fall_below_nothing_during_a_cancel() {
        let mut c = credits(8, 3);
        c.send();
        c.send();
        assert_eq!(c.receive(1, 0, 1, false, true), Ok(()));
        assert_eq!(c.available(), 0);
    }

    #[test]
    fn b_14_credit_is_bufs_less_unacknowledged() {
        let mut c = credits(8, 8);
        for left in (0..8).rev() {
            c.send();
            assert_eq!(c.available(), left);
        }
        c.receive(1, 5, 4, false, false).unwrap();
        assert_eq!(c.available(), 1);
    }

    #[test]
    fn b_14_peer_may_not_exceed_the_credit_told() {
        let mut c = credits(3, 8);
        c.posted(5);
        for mseq in 1..=3 {
            c.receive(mseq, 0, 8, false, false).unwrap();
        }
        assert_eq!(
            c.receive(4, 0, 8, false, false).unwrap_err().rule,
            Rule::B(14)
        );
    }

    #[test]
    fn b_15_to_b_18_what_each_credit_allows() {
        for (credit, gain, control, payload) in [
            (0, 1, false, false),
            (1, 0, false, false),
            (1, 1, true, false),
            (2, 0, true, false),
            (3, 0, true, true),
            (9, 0, true, true),
        ] {
            let mut c = credits(8, credit);
            c.posted(gain);
            assert_eq!(
                c.allow(Cost::Control),
                control,
                "credit {credit} gain {gain}"
            );
            assert_eq!(
                c.allow(Cost::Payload),
                payload,
                "credit {credit} gain {gain}"
            );
        }
    }

    #[test]
    fn b_19_a_peer_that_runs_dry_is_told() {
        let mut c = credits(3, 8);
        c.receive(1, 0, 8, false, false).unwrap();
        c.receive(2, 0, 8, false, false).unwrap();
        assert!(!c.update_due(), "nothing to give");
        c.posted(1);
        assert!(c.update_due());
        c.send();
        assert!(!c.update_due());
    }

    #[test]
    fn b_20_news_waits_until_it_doubles_the_peers_credit() {
        let mut c = credits(64, 64);
        for mseq in 1..=31 {
            c.receive(mseq, 0, 64, false, false).unwrap();
            c.posted(1);
            assert!(!c.update_due(), "after {mseq}");
        }
        c.receive(32, 0, 64, false, false).unwrap();
        c.posted(1);
        assert!(c.update_due());
    }

    /// As many messages as `own` leaves `peer` of, the last of them updates, and some buffers back.
    fn low(own: u16, peer: u16, updates: u32, back: u16) -> Credits {
        let mut c = credits(own, 8);
        let messages = u32::from(own - peer);
        for mseq in 1..=messages {
            let update = mseq + updates > messages;
            c.receive(mseq, 0, 8, update, false).unwrap();
        }
        c.posted(back);
        c
    }

    #[test]
    fn b_19_and_b_20_what_calls_for_an_update() {
        for (own, peer, updates, back, due) in [
            // Enough for payload: news has to double it.
            (6, 3, 0, 2, false),
            (6, 3, 0, 3, true),
            // Too little for payload: each buffer counts, but not one that an update took.
            (6, 2, 0, 1, true),
            (6, 2, 1, 1, false),
            // Two are worth it whatever took them.
            (6, 2, 2, 2, true),
            (6, 2, 4, 2, true),
            // Nothing: the second is on its way.
            (3, 0, 3, 1, false),
            (3, 0, 3, 2, true),
            (3, 0, 0, 1, true),
            (3, 0, 0, 0, false),
            (3, 0, 3, 0, false),
        ] {
            let c = low(own, peer, updates, back);
            assert_eq!(
                c.update_due(),
                due,
                "of {own}, {peer} left, {updates} updates, {back} back"
            );
        }
    }

    #[test]
    fn b_19_a_peer_with_one_credit_is_told_whatever_took_the_buffer() {
        for (credit, due) in [(2, false), (3, true)] {
            let mut c = credits(6, credit);
            for mseq in 1..=5 {
                c.receive(mseq, 0, credit, mseq == 5, false).unwrap();
            }
            c.posted(1);
            assert_eq!(c.known(), 1);
            assert_eq!(c.update_due(), due, "with {credit} to send");
        }
    }

    #[test]
    fn b_20_an_update_is_forgotten_once_its_buffer_was_told() {
        let mut c = credits(4, 8);
        c.receive(1, 0, 8, true, false).unwrap();
        c.posted(1);
        c.send();
        c.receive(2, 0, 8, false, false).unwrap();
        c.receive(3, 0, 8, false, false).unwrap();
        c.posted(1);
        assert!(c.update_due());
    }

    #[test]
    fn b_20_updates_do_not_answer_each_other() {
        for depth in 4..9 {
            let mut ends = [credits(depth, depth), credits(depth, depth)];
            let mut first = ends[0].send();
            let mut messages = 0;
            loop {
                let mut answered = false;
                for to in [1, 0] {
                    let (bufs, mseq, ack) = first;
                    ends[to].receive(mseq, ack, bufs, true, false).unwrap();
                    ends[to].posted(1);
                    answered = ends[to].update_due();
                    if !answered {
                        break;
                    }
                    messages += 1;
                    first = ends[to].send();
                }
                if !answered {
                    break;
                }
                assert!(messages < 10, "depth {depth} never falls silent");
            }
        }
    }

    /// Readers who read nothing leave an end as few as two buffers; each is posted before the end
    /// may send, or after. However many of them the peer knows of, and updates are under way, both
    /// fall silent, with credit on both sides.
    #[test]
    fn b_19_and_b_20_silence_does_not_hang_on_when_buffers_are_posted() {
        for choice in 0..1u32 << 12 {
            let bits = |at: u32, n: u32| (choice >> at) & ((1 << n) - 1);
            let depths = [2 + bits(0, 2), 2 + bits(2, 2)];
            let late = [bits(4, 1) > 0, bits(5, 1) > 0];
            let mut ends = depths.map(|_| credits(0, 0));
            let mut free = [0; 2];
            let mut queues: [Vec<(u16, u32, u32)>; 2] = [Vec::new(), Vec::new()];
            for end in 0..2 {
                let posted = depths[end].saturating_sub(bits(6 + 2 * end as u32, 2));
                let told = posted.saturating_sub(bits(10 + end as u32, 1));
                ends[end].posted = posted;
                ends[end].told = told;
                ends[1 - end].bufs = told as u16;
                free[end] = depths[end] - posted;
            }
            let mut messages = 0;
            loop {
                let before = (messages, free);
                for end in 0..2 {
                    let mut post = |ends: &mut [Credits; 2]| {
                        ends[end].posted(free[end] as u16);
                        free[end] = 0;
                    };
                    if !late[end] {
                        post(&mut ends);
                    }
                    if ends[end].update_due() && ends[end].allow(Cost::Control) {
                        messages += 1;
                        queues[end].push(ends[end].send());
                    }
                    if late[end] {
                        post(&mut ends);
                    }
                    for (bufs, mseq, ack) in std::mem::take(&mut queues[end]) {
                        let to = &mut ends[1 - end];
                        to.receive(mseq, ack, bufs, true, false).unwrap();
                        free[1 - end] += 1;
                    }
                }
                if before == (messages, free) {
                    break;
                }
                assert!(messages < 20, "{choice:#x} never falls silent");
            }
            for end in &ends {
                let (own, known) = (end.available(), end.known());
                assert!(known > 0 || own == 0, "{choice:#x} leaves the peer nothing");
                assert!(known > 1 || own < 3, "{choice:#x} leaves the peer one");
            }
        }
    }
}
