// SPDX-License-Identifier: GPL-2.0

//! Changing the size of receive buffers on a live connection (`B-63` to `B-67`).

use super::{
    machine::Side,
    sequence::reached,
    violation::{
        Rule,
        Violation, //
    },
};

/// What this end asks of the peer's buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Nothing,
    /// To be sent.
    Wanted(u32),
    /// Sent by the message of this number, and not answered.
    Sent(u32, u32),
}

/// Whether buffers of `old` bytes may become ones of `new` for a wish: that or more to grow, that
/// at least to shrink, or as they were (`B-64`, `B-65`).
fn grants(wish: u32, old: u32, new: u32) -> bool {
    if wish > old {
        new >= wish || new == old
    } else {
        new >= wish && new <= old
    }
}

#[derive(Debug)]
pub(super) struct Resize {
    side: Side,
    /// Bytes of this end's receive buffers as the peer knows them.
    own: u32,
    /// Bytes of the peer's receive buffers.
    peer: u32,
    ask: Ask,
    /// The peer refused to grow, to shrink: it is not to be asked again (`B-65`).
    no_larger: bool,
    no_smaller: bool,
    /// This end refused the same to the peer.
    refused_larger: bool,
    refused_smaller: bool,
    /// The user answers requests; otherwise each is refused at once.
    pub(super) willing: bool,
    /// The size that the peer asked for and the user has not answered.
    wish: Option<u32>,
    /// The answer to send.
    answer: Option<u32>,
}

impl Resize {
    pub(super) fn new(side: Side, own: u32) -> Resize {
        Resize {
            side,
            own,
            peer: 0,
            ask: Ask::Nothing,
            no_larger: false,
            no_smaller: false,
            refused_larger: false,
            refused_smaller: false,
            willing: false,
            wish: None,
            answer: None,
        }
    }

    pub(super) fn start(&mut self, peer: u32) {
        self.peer = peer;
    }

    /// The longest message that the peer takes. An end that asked for smaller buffers keeps to them
    /// at once (`B-64`).
    pub(super) fn peer(&self) -> u32 {
        match self.ask {
            Ask::Sent(size, _) => self.peer.min(size),
            _ => self.peer,
        }
    }

    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// Bytes of the peer's receive buffers as it has them, whatever it was asked for.
    pub(super) fn peer_has(&self) -> u32 {
        self.peer
    }

    /// Asks for peer buffers of `size` when that is legal; false when it is pointless (`B-63`,
    /// `B-65`).
    pub(super) fn ask(&mut self, size: u32) -> bool {
        let refused = if size > self.peer {
            self.no_larger
        } else {
            self.no_smaller || size == self.peer
        };
        if refused || matches!(self.ask, Ask::Sent(..)) {
            return false;
        }
        self.ask = Ask::Wanted(size);
        true
    }

    /// Asks the peer for the buffers that it has, which it has to answer (`B-63`). False if it is
    /// asked for something already.
    pub(super) fn ask_same(&mut self) -> bool {
        let is_free = self.ask == Ask::Nothing;
        if is_free {
            self.ask = Ask::Wanted(self.peer);
        }
        is_free
    }

    /// The request to send. Not while the peer waits for an answer: it would take the request for a
    /// collision.
    pub(super) fn next_ask(&self) -> Option<u32> {
        match self.ask {
            Ask::Wanted(size) if self.wish.is_none() && self.answer.is_none() => Some(size),
            _ => None,
        }
    }

    /// The request goes out as this message. Whether it was [`Resize::ask_same`]'s.
    pub(super) fn asked(&mut self, size: u32, mseq: u32) -> bool {
        self.ask = Ask::Sent(size, mseq);
        size == self.peer
    }

    /// A ChRcvBufAck came. Whether the peer's buffers are smaller than before.
    pub(super) fn answered(&mut self, size: u32) -> Result<bool, Violation> {
        let Ask::Sent(wish, _) = self.ask else {
            return Err(Violation::new(
                Rule::B(63),
                "ChRcvBufAck without a ChRcvBuf",
            ));
        };
        if !grants(wish, self.peer, size) {
            return Err(Violation::new(
                Rule::B(64),
                "ChRcvBufAck of a size that was not asked for",
            ));
        }
        if size == self.peer {
            self.no_larger |= wish > self.peer;
            self.no_smaller |= wish < self.peer;
        }
        let smaller = size < self.peer;
        self.peer = size;
        self.ask = Ask::Nothing;
        Ok(smaller)
    }

    /// A ChRcvBuf came, of a peer that has this end's messages up to `mseq_ack` at least.
    pub(super) fn wished(&mut self, size: u32, mseq_ack: u32) -> Result<(), Violation> {
        if self.wish.is_some() || self.answer.is_some() {
            return Err(Violation::new(
                Rule::B(63),
                "second ChRcvBuf before the answer to the first",
            ));
        }
        if size > self.own && self.refused_larger || size < self.own && self.refused_smaller {
            return Err(Violation::new(Rule::B(65), "ChRcvBuf that was refused"));
        }
        if let Ask::Sent(own_wish, mseq) = self.ask {
            // Both asked: the accepting end's request stands, the connecting end answers and
            // repeats its own (B-66), unless the peer had it and so answers it as well.
            match self.side {
                Side::Accepting => return Ok(()),
                Side::Connecting if reached(mseq_ack, mseq) => {}
                Side::Connecting => self.ask = Ask::Wanted(own_wish),
            }
        }
        if self.willing && size != self.own {
            self.wish = Some(size);
        } else {
            self.answers(size, self.own);
        }
        Ok(())
    }

    fn answers(&mut self, wish: u32, size: u32) {
        if size == self.own {
            self.refused_larger |= wish > size;
            self.refused_smaller |= wish < size;
        }
        self.answer = Some(size);
    }

    pub(super) fn wish(&self) -> Option<u32> {
        self.wish
    }

    /// The user has buffers of `size` now; false when that answers no wish.
    pub(super) fn answer(&mut self, size: u32) -> bool {
        let Some(wish) = self.wish else {
            return false;
        };
        let legal = grants(wish, self.own, size);
        if legal {
            self.wish = None;
            self.answers(wish, size);
        }
        legal
    }

    pub(super) fn next_answer(&self) -> Option<u32> {
        self.answer
    }

    pub(super) fn answer_sent(&mut self) {
        if let Some(size) = self.answer.take() {
            self.own = size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize(side: Side) -> Resize {
        let mut resize = Resize::new(side, 1000);
        resize.start(2000);
        resize.willing = true;
        resize
    }

    fn ask(resize: &mut Resize, size: u32) {
        assert!(resize.ask(size));
        assert_eq!(resize.next_ask(), Some(size));
        resize.asked(size, 7);
    }

    #[test]
    fn b_63_one_request_at_a_time() {
        let mut r = resize(Side::Connecting);
        ask(&mut r, 3000);
        assert!(!r.ask(4000));
        r.answered(3000).unwrap();
        assert!(!r.ask(3000), "has it");
        assert_eq!(r.peer(), 3000);
        assert_eq!(r.answered(3000).unwrap_err().rule, Rule::B(63));
        let mut r = resize(Side::Accepting);
        r.wished(3000, 6).unwrap();
        assert_eq!(r.wished(3000, 6).unwrap_err().rule, Rule::B(63));
    }

    #[test]
    fn b_64_smaller_counts_at_once_larger_when_answered() {
        let mut r = resize(Side::Connecting);
        ask(&mut r, 500);
        assert_eq!(r.peer(), 500);
        r.answered(700).unwrap();
        assert_eq!(r.peer(), 700);
        ask(&mut r, 900);
        assert_eq!(r.peer(), 700);
    }

    #[test]
    fn b_64_answers_outside_the_request() {
        for (wish, answer, ok) in [
            (3000, 3000, true),
            (3000, 5000, true),
            (3000, 2000, true),
            (3000, 2500, false),
            (3000, 1000, false),
            (500, 500, true),
            (500, 2000, true),
            (500, 400, false),
            (500, 2001, false),
            (2000, 2000, true),
            (2000, 1999, false),
            (2000, 2001, false),
        ] {
            assert_eq!(grants(wish, 2000, answer), ok, "{wish} {answer}");
            if wish == 2000 {
                continue;
            }
            let mut r = resize(Side::Connecting);
            ask(&mut r, wish);
            assert_eq!(r.answered(answer).is_ok(), ok, "{wish} {answer}");

            let mut r = resize(Side::Connecting);
            r.own = 2000;
            r.wished(wish, 6).unwrap();
            assert_eq!(r.answer(answer), ok, "{wish} {answer}");
            assert_eq!(r.next_answer(), ok.then_some(answer));
        }
    }

    #[test]
    fn b_65_a_refusal_is_final_in_its_direction() {
        let mut r = resize(Side::Connecting);
        ask(&mut r, 3000);
        r.answered(2000).unwrap();
        assert!(!r.ask(4000));
        ask(&mut r, 1000);
        r.answered(2000).unwrap();
        assert!(!r.ask(1000));
    }

    #[test]
    fn b_65_an_unwilling_end_refuses() {
        let mut r = resize(Side::Accepting);
        r.willing = false;
        r.wished(5000, 6).unwrap();
        assert_eq!((r.wish(), r.next_answer()), (None, Some(1000)));
    }

    #[test]
    fn b_65_what_was_refused_is_not_asked_for_again() {
        for (refused, other) in [(3000, 500), (500, 3000)] {
            let mut r = resize(Side::Accepting);
            r.wished(refused, 6).unwrap();
            assert!(r.answer(1000));
            r.answer_sent();
            // That which asks for nothing, and the other direction, were not refused.
            r.wished(1000, 6).unwrap();
            r.answer_sent();
            assert_eq!(r.wished(refused, 6).unwrap_err().rule, Rule::B(65));
            r.wished(other, 6).unwrap();
            assert!(r.answer(other));
        }
        let mut r = resize(Side::Accepting);
        r.willing = false;
        r.wished(5000, 6).unwrap();
        r.answer_sent();
        assert_eq!(r.wished(2000, 6).unwrap_err().rule, Rule::B(65));
    }

    #[test]
    fn b_66_collision() {
        let mut connecting = resize(Side::Connecting);
        let mut accepting = resize(Side::Accepting);
        ask(&mut connecting, 3000);
        ask(&mut accepting, 4000);
        accepting.wished(3000, 6).unwrap();
        assert_eq!(accepting.wish(), None, "ignored");
        connecting.wished(4000, 6).unwrap();
        assert_eq!(connecting.next_ask(), None, "answers first");
        assert!(connecting.answer(4000));
        connecting.answer_sent();
        assert_eq!(connecting.own(), 4000);
        assert_eq!(connecting.next_ask(), Some(3000), "then repeats its own");
        accepting.answered(4000).unwrap();
    }

    #[test]
    fn b_66_no_collision_where_the_peer_had_the_request() {
        let mut connecting = resize(Side::Connecting);
        ask(&mut connecting, 3000);
        connecting.wished(4000, 7).unwrap();
        assert!(connecting.answer(4000));
        connecting.answer_sent();
        assert_eq!(connecting.next_ask(), None, "is being answered");
        assert_eq!(connecting.answered(3000), Ok(false));
        assert_eq!(connecting.peer(), 3000);
    }
}
