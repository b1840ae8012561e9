// SPDX-License-Identifier: GPL-2.0

//! Write zero copy (`B-46` to `B-53`): the SinkAvails that this end sent as sink, and those that it
//! got as source.

use super::{
    buffer::{
        BufferId,
        Finished,
        ADVERTS, //
    },
    ring::{
        count,
        Ring, //
    },
    sequence::{
        ahead,
        forget_reached,
        reached, //
    },
    violation::{
        Rule,
        Violation, //
    },
    wire::Region,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum OfferState {
    #[default]
    Waiting,
    /// By the message of this number.
    Advertised(u32),
    /// Nothing writes to it any more.
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Offer {
    id: BufferId,
    region: Region,
    written: u32,
    state: OfferState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cancel {
    No,
    Wanted,
    Sent,
}

/// This end as sink: receive memory that the peer may write.
#[derive(Debug)]
pub(super) struct Offers {
    offers: Ring<Offer, ADVERTS>,
    cancel: Cancel,
    /// Payload messages received that used up no offer (`B-49`).
    non_discards: u32,
}

impl Offers {
    pub(super) fn new() -> Offers {
        Offers {
            offers: Ring::new(),
            cancel: Cancel::No,
            non_discards: 0,
        }
    }

    pub(super) fn add(&mut self, id: BufferId, region: Region) -> bool {
        self.offers.push(Offer {
            id,
            region,
            written: 0,
            state: OfferState::Waiting,
        })
    }

    /// The numbers of the SinkAvails that are open, oldest first.
    fn open(&self) -> impl Iterator<Item = u32> + '_ {
        self.offers.iter().filter_map(|offer| match offer.state {
            OfferState::Advertised(mseq) => Some(mseq),
            _ => None,
        })
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.oldest_open().is_some()
    }

    /// SinkAvails that are open.
    pub(super) fn open_count(&self) -> usize {
        count(self.open())
    }

    /// The number of the oldest SinkAvail that is open.
    pub(super) fn oldest_open(&self) -> Option<u32> {
        self.open().next()
    }

    /// The SinkAvail to send, of which there may be `most` at a time (`B-30`).
    pub(super) fn next(&self, most: usize) -> Option<(Region, u32)> {
        if self.cancel != Cancel::No || self.open_count() >= most {
            return None;
        }
        let waiting = |offer: &&Offer| offer.state == OfferState::Waiting;
        let offer = self.offers.iter().find(waiting)?;
        Some((offer.region, self.non_discards))
    }

    /// [`Offers::next`] goes out as this message.
    pub(super) fn advertised(&mut self, mseq: u32) {
        if let Some(offer) = self
            .offers
            .iter_mut()
            .find(|offer| offer.state == OfferState::Waiting)
        {
            offer.state = OfferState::Advertised(mseq);
        }
    }

    fn oldest(&mut self) -> Option<&mut Offer> {
        self.offers
            .iter_mut()
            .find(|offer| matches!(offer.state, OfferState::Advertised(_)))
    }

    /// A message with payload came: it uses up one offer (`B-48`), or counts (`B-49`). Whether it
    /// used up one.
    pub(super) fn payload(&mut self) -> bool {
        match self.oldest() {
            Some(offer) => {
                offer.state = OfferState::Done;
                self.used_up();
                true
            }
            None => {
                self.non_discards = self.non_discards.wrapping_add(1);
                false
            }
        }
    }

    /// An RdmaWrCompl came (`B-47`).
    pub(super) fn written(&mut self, len: u32) -> Result<(), Violation> {
        let Some(offer) = self.oldest() else {
            return Err(Violation::new(
                Rule::B(47),
                "RdmaWrCompl without a SinkAvail",
            ));
        };
        if len == 0 || len > offer.region.len {
            return Err(Violation::new(
                Rule::B(47),
                "RdmaWrCompl of nothing, or of more than was advertised",
            ));
        }
        offer.written = len;
        offer.state = OfferState::Done;
        self.used_up();
        Ok(())
    }

    /// A cancel is over as well when nothing is left of what it would take back: the peer does not
    /// answer it then (`B-53`).
    fn used_up(&mut self) {
        if !self.is_open() {
            self.cancel = Cancel::No;
        }
    }

    /// The user wants back what was not advertised.
    pub(super) fn retract(&mut self) {
        for offer in self.offers.iter_mut() {
            if offer.state == OfferState::Waiting {
                offer.state = OfferState::Done;
            }
        }
    }

    /// Receive buffers have `size` bytes now: what is no larger and was not advertised never is
    /// (`B-46`).
    pub(super) fn outgrown(&mut self, size: u32) {
        for offer in self.offers.iter_mut() {
            if offer.state == OfferState::Waiting && offer.region.len <= size {
                offer.state = OfferState::Done;
            }
        }
    }

    /// The user wants its memory back (`B-53`).
    pub(super) fn cancel(&mut self) {
        self.retract();
        if self.is_open() && self.cancel == Cancel::No {
            self.cancel = Cancel::Wanted;
        }
    }

    pub(super) fn owes_cancel(&self) -> bool {
        self.cancel == Cancel::Wanted
    }

    pub(super) fn cancel_sent(&mut self) {
        self.cancel = Cancel::Sent;
    }

    /// A SinkCancelAck came.
    pub(super) fn cancel_acked(&mut self) -> Result<(), Violation> {
        if self.cancel != Cancel::Sent {
            return Err(Violation::new(
                Rule::B(53),
                "SinkCancelAck without a SinkAvailCancel",
            ));
        }
        for offer in self.offers.iter_mut() {
            // Those that were made since then wait for their turn.
            if matches!(offer.state, OfferState::Advertised(_)) {
                offer.state = OfferState::Done;
            }
        }
        self.cancel = Cancel::No;
        Ok(())
    }

    /// The peer will write no more: it left Pipelined mode, or ended its stream, or is gone.
    pub(super) fn void(&mut self) {
        for offer in self.offers.iter_mut() {
            offer.state = OfferState::Done;
        }
        self.used_up();
    }

    /// The oldest offer once nothing writes to it.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        if self.offers.first()?.state != OfferState::Done {
            return None;
        }
        self.offers.pop().map(|offer| Finished {
            id: offer.id,
            bytes: offer.written,
        })
    }
}

/// Compares a SinkAvail's NonDiscards with the own count (`B-49`).
fn stale(non_discards: u32, payloads: u32) -> Result<bool, Violation> {
    if ahead(non_discards, payloads) > 0 {
        return Err(Violation::new(
            Rule::B(49),
            "NonDiscards counts more than was sent",
        ));
    }
    Ok(non_discards != payloads)
}

/// This end as source: the peer's receive memory that it may write.
#[derive(Debug)]
pub(super) struct Sinks {
    sinks: Ring<Region, ADVERTS>,
    /// Payload messages sent that used up no SinkAvail, less the SinkAvails found stale (`B-49`).
    payloads: u32,
    /// The same as it was when this end left Pipelined mode.
    left: u32,
    /// The message with the last urgent byte, until the peer has it.
    urgent: Option<u32>,
    /// So many of the oldest were offered before the peer had it.
    before_urgent: usize,
    /// A SinkAvailCancel is to be answered.
    owes_ack: bool,
    /// The SinkCancelAck, until the peer has it.
    answer: Option<u32>,
}

impl Sinks {
    pub(super) fn new() -> Sinks {
        Sinks {
            sinks: Ring::new(),
            payloads: 0,
            left: 0,
            urgent: None,
            before_urgent: 0,
            owes_ack: false,
            answer: None,
        }
    }

    /// A SinkAvail came, of receive memory of `len` bytes for a peer whose receive buffers have
    /// `size` (`B-46`); the peer held back what it has `seen` of this end's messages if that is
    /// none. It waits for the answer to its SinkAvailCancel (`B-53`).
    pub(super) fn check(&self, len: u32, size: u32, seen: Option<u32>) -> Result<(), Violation> {
        if len <= size {
            return Err(Violation::new(
                Rule::B(46),
                "SinkAvail no larger than a receive buffer",
            ));
        }
        let unseen = |answer| seen.is_some_and(|seen| !reached(seen, answer));
        if self.owes_ack || self.answer.is_some_and(unseen) {
            return Err(Violation::new(
                Rule::B(53),
                "SinkAvail before the SinkAvailCancel is answered",
            ));
        }
        Ok(())
    }

    /// The peer's SinkAvails that are open.
    pub(super) fn len(&self) -> usize {
        self.sinks.len()
    }

    /// A SinkAvail came, of which there may be `most` at a time (`B-30`); false when it is stale:
    /// payload on its way uses it up (`B-49`).
    pub(super) fn add(
        &mut self,
        region: Region,
        non_discards: u32,
        most: usize,
    ) -> Result<bool, Violation> {
        if stale(non_discards, self.payloads)? {
            self.payloads = self.payloads.wrapping_sub(1);
            return Ok(false);
        }
        if self.sinks.len() >= most || !self.sinks.push(region) {
            return Err(Violation::new(Rule::B(30), "SinkAvail beyond MaxAdverts"));
        }
        if self.urgent.is_some() {
            self.before_urgent = self.sinks.len();
        }
        Ok(true)
    }

    /// A SinkAvail came that crossed the ModeChange by which this end left Pipelined mode. The peer
    /// forgets it with that message (`B-58`, `B-60b`), unless payload before the message uses it
    /// up.
    pub(super) fn add_late(&mut self, non_discards: u32) -> Result<(), Violation> {
        if stale(non_discards, self.left)? {
            self.left = self.left.wrapping_sub(1);
            self.payloads = self.payloads.wrapping_sub(1);
        }
        Ok(())
    }

    /// An urgent byte goes out in this message. What is behind it is not written to memory that the
    /// peer's reader offered before: that reader would have it with what comes before the byte
    /// (`B-80`).
    pub(super) fn urgent(&mut self, mseq: u32) {
        self.urgent = Some(mseq);
        self.before_urgent = self.sinks.len();
    }

    /// The peer has our messages up to `mseq_ack`.
    pub(super) fn acknowledged(&mut self, mseq_ack: u32) {
        forget_reached(&mut self.urgent, mseq_ack);
        forget_reached(&mut self.answer, mseq_ack);
    }

    /// Bytes of the oldest that may be written, which is next; 0 where it is to be used up by Data.
    pub(super) fn room(&self) -> Option<u32> {
        let writable = self.before_urgent == 0;
        let room = |region: &Region| if writable { region.len } else { 0 };
        self.sinks.first().map(room)
    }

    /// The oldest is written to, with so many bytes: where to.
    pub(super) fn take(&mut self, len: u32) -> Option<Region> {
        self.sinks.pop().map(|region| Region { len, ..region })
    }

    /// A message with payload goes out (`B-48`, `B-49`).
    #[inline]
    pub(super) fn payload(&mut self) {
        if self.sinks.is_empty() {
            self.payloads = self.payloads.wrapping_add(1);
        } else {
            self.sinks.pop();
            self.before_urgent = self.before_urgent.saturating_sub(1);
        }
    }

    /// This end leaves Pipelined mode (`B-58`).
    pub(super) fn discard(&mut self) {
        self.sinks.clear();
        self.before_urgent = 0;
        self.left = self.payloads;
    }

    /// A SinkAvailCancel came (`B-53`): writes under way were announced before, so that the answer
    /// can go at once. There is none where nothing is left.
    pub(super) fn cancelled(&mut self) -> Result<(), Violation> {
        if self.owes_ack {
            return Err(Violation::new(
                Rule::B(53),
                "SinkAvailCancel before one is answered",
            ));
        }
        self.owes_ack = !self.sinks.is_empty();
        self.sinks.clear();
        self.before_urgent = 0;
        Ok(())
    }

    pub(super) fn owes_ack(&self) -> bool {
        self.owes_ack
    }

    pub(super) fn ack_sent(&mut self, mseq: u32) {
        self.owes_ack = false;
        self.answer = Some(mseq);
    }
}
