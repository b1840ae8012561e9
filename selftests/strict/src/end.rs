// SPDX-License-Identifier: GPL-2.0

//! What one end may send, as a function of the messages that it sent and received.

use crate::message::{
    flag,
    Body,
    Head,
    Mode,
    Region,
    Violation, //
};
use std::collections::VecDeque;

/// Which end of the connection.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Connecting,
    Accepting,
}

/// What an end says of itself in its Hello or HelloAck.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub max_adverts: u16,
    pub ord: u16,
    pub ird: u16,
    pub recv_size: u32,
    pub recv_depth: u16,
}

/// How far `a` is ahead of `b`, or behind it.
pub(crate) fn ahead(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

/// An open SrcAvail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Avail {
    pub(crate) mseq: u32,
    pub(crate) region: Region,
    /// Bytes neither inlined nor reported.
    pub(crate) left: u32,
}

impl Avail {
    /// What is left of it, from `offset` on.
    pub(crate) fn rest(&self, offset: u32, len: u32) -> Region {
        self.region.part(self.region.len - self.left + offset, len)
    }
}

/// An open SinkAvail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    pub(crate) region: Region,
    /// The last message of the source that the sink had when it sent this.
    pub(crate) seen: u32,
}

/// A half of the stream, as one end of it sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stream {
    pub(crate) mode: Mode,
    pub(crate) avails: VecDeque<Avail>,
    /// SendSms, and the bytes that each asked for and that did not come yet.
    asked: VecDeque<(u32, u64)>,
    /// The SrcAvailCancel that is not done.
    pub(crate) cancel: Option<u32>,
    pub(crate) rooms: VecDeque<Room>,
    /// A SinkAvailCancel found some of them, and was not answered.
    pub(crate) taking_back: bool,
    /// Messages with payload that used up no SinkAvail (B-49).
    pub(crate) count: u32,
    /// Bytes of the stream that were transferred.
    pub(crate) done: u64,
    /// The DisConn.
    pub(crate) closed: Option<u32>,
}

impl Stream {
    fn new() -> Self {
        Self {
            mode: Mode::Combined,
            avails: VecDeque::new(),
            asked: VecDeque::new(),
            cancel: None,
            rooms: VecDeque::new(),
            taking_back: false,
            count: 0,
            done: 0,
            closed: None,
        }
    }

    /// Bytes that a SendSm asked for and that did not come yet.
    pub(crate) fn owed(&self) -> u64 {
        self.asked.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes went that may be what a SendSm asked for.
    fn comes(&mut self, len: u32) {
        self.done += u64::from(len);
        let mut len = u64::from(len);
        while let Some((_, bytes)) = self.asked.front_mut().filter(|_| len > 0) {
            let part = len.min(*bytes);
            *bytes -= part;
            len -= part;
            if *bytes == 0 {
                self.asked.pop_front();
            }
        }
    }

    /// A message with payload went (B-48, B-49).
    fn payload(&mut self, len: u32) {
        self.comes(len);
        match self.rooms.pop_front() {
            Some(_) => self.taking_back &= !self.rooms.is_empty(),
            None => self.count = self.count.wrapping_add(1),
        }
    }

    fn read(&mut self, len: u32) {
        self.done += u64::from(len);
        if let Some(oldest) = self.avails.front_mut() {
            oldest.left = oldest.left.saturating_sub(len);
            if oldest.left == 0 {
                self.avails.pop_front();
            }
        }
        self.settle_cancel();
    }

    fn written(&mut self, len: u32) {
        self.comes(len);
        self.rooms.pop_front();
        self.taking_back &= !self.rooms.is_empty();
    }

    /// The oldest SrcAvail was declined by this message.
    fn decline(&mut self, mseq: u32) {
        let avail = self.avails.pop_front();
        let left = avail.map_or(0, |avail| avail.left.into());
        if left > 0 {
            self.asked.push_back((mseq, left));
        }
        self.settle_cancel();
    }

    /// A SrcAvail goes of a source that has seen the sink's messages up to `seen`. What they asked
    /// for does not come then: the source took it back.
    fn advertise(&mut self, head: &Head, region: Region, seen: u32) {
        self.asked.retain(|(mseq, _)| ahead(*mseq, seen) > 0);
        self.avails.push_back(Avail {
            mseq: head.mseq,
            region,
            left: region.len.saturating_sub(head.payload),
        });
    }

    /// What was cancelled need not come at all, so that nothing is owed.
    fn cancelled(&mut self) {
        self.avails.clear();
        self.settle_cancel();
    }

    /// B-42: all were answered.
    fn settle_cancel(&mut self) {
        if self.avails.is_empty() && self.cancel.take().is_some() {
            self.asked.clear();
        }
    }

    fn void_rooms(&mut self) {
        self.rooms.clear();
        self.taking_back = false;
    }

    fn close(&mut self, mseq: u32) {
        self.closed = Some(mseq);
        self.void_rooms();
    }
}

/// One end: its two halves and what is common to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    pub(crate) side: Side,
    /// The limits of both ends for what this one does.
    pub(crate) peer_adverts: usize,
    single: bool,
    pub(crate) initiator_first: bool,
    /// The last message sent, and the last that there is a buffer for (B-14).
    pub(crate) sent: u32,
    pub(crate) limit: u32,
    /// The last one received, and the last that the peer was told to have a buffer for.
    pub(crate) received: u32,
    pub(crate) told: u32,
    /// The last MSeqAck sent.
    pub(crate) said: u32,
    /// The last of the own messages that the peer is known to have.
    pub(crate) acked: u32,
    /// Where this end is source, and where it is sink.
    pub(crate) out: Stream,
    pub(crate) inward: Stream,
    /// The source left Pipelined mode by this message, which was not acknowledged, and its count
    /// then (B-58).
    pub(crate) leaving: Option<(u32, u32)>,
    /// Bytes of receive buffers.
    pub(crate) size: u32,
    pub(crate) peer_size: u32,
    /// The own ChRcvBuf that was not answered, and the peer's.
    pub(crate) wish: Option<(u32, u32)>,
    pub(crate) asked: Option<u32>,
    /// Whether the peer refused to grow, and to shrink.
    refused: [bool; 2],
    /// Where the stream stood when urgent bytes were announced that did not go yet.
    pub(crate) announced: VecDeque<u64>,
    /// The message with the last urgent byte.
    pub(crate) urgent: Option<u32>,
    pub(crate) aborted: bool,
    /// SuspComm, and SuspCommAck, were sent, and received.
    pub(crate) suspends: bool,
    pub(crate) suspended: bool,
    pub(crate) peer_suspends: bool,
    pub(crate) peer_suspended: bool,
}

impl End {
    /// An end that has just exchanged Hello and HelloAck.
    pub(crate) fn new(side: Side, own: Offer, peer: Offer, initiator_first: bool) -> Self {
        Self {
            side,
            peer_adverts: peer.max_adverts.into(),
            single: own.max_adverts == 1 || peer.max_adverts == 1,
            initiator_first,
            sent: 0,
            limit: peer.recv_depth.into(),
            received: 0,
            told: own.recv_depth.into(),
            said: 0,
            acked: 0,
            out: Stream::new(),
            inward: Stream::new(),
            leaving: None,
            size: own.recv_size,
            peer_size: peer.recv_size,
            wish: None,
            asked: None,
            refused: [false; 2],
            announced: VecDeque::new(),
            urgent: None,
            aborted: false,
            suspends: false,
            suspended: false,
            peer_suspends: false,
            peer_suspended: false,
        }
    }

    /// B-14.
    pub(crate) fn credit(&self) -> i64 {
        ahead(self.limit, self.sent)
    }

    /// The longest message (B-4, B-64).
    pub(crate) fn longest(&self) -> u32 {
        self.wish
            .map_or(self.peer_size, |(wish, _)| wish.min(self.peer_size))
    }

    /// Advertisements of this end that are open (B-30).
    pub(crate) fn adverts(&self) -> usize {
        self.out.avails.len() + self.inward.rooms.len()
    }

    /// Both DisConns were exchanged.
    pub(crate) fn is_closed(&self) -> bool {
        self.out.closed.is_some() && self.inward.closed.is_some()
    }

    /// All the rules that the message would break if this end sent it next.
    pub(crate) fn broken(&self, head: &Head) -> Vec<Violation> {
        let mut broken = Vec::new();
        let mut rule = |is_broken: bool, rule, what| {
            if is_broken {
                broken.push(Violation::new(rule, what));
            }
        };
        rule(
            head.mseq != self.sent.wrapping_add(1),
            "B-12",
            "not the next number",
        );
        rule(
            ahead(head.mseq_ack, self.said) < 0,
            "B-12",
            "acknowledges less than before",
        );
        rule(
            ahead(head.mseq_ack, self.received) > 0,
            "B-12",
            "acknowledges what was not sent",
        );
        let acks_all = head.mseq_ack == self.received;
        match self.inward.cancel {
            None => rule(!acks_all, "A.1", "MSeqAck is not what was received"),
            Some(cancel) => {
                let held = head.mseq_ack == cancel.wrapping_sub(1);
                rule(!acks_all && !held, "A.1", "MSeqAck is held back elsewhere");
                let mut after = self.clone();
                after.does(head);
                rule(
                    acks_all && after.inward.cancel.is_some(),
                    "B-41",
                    "acknowledges a cancel that is not done",
                );
                rule(
                    head.body == Body::SendSm && !acks_all,
                    "B-42",
                    "ends a cancel without acknowledging it",
                );
            }
        }
        self.broken_credit(head, &mut rule);
        self.broken_state(head, &mut rule);
        if head.payload > 0 {
            let follows = u64::from(head.payload) > self.out.owed() && !self.out.avails.is_empty();
            match head.body {
                Body::SrcAvail(_) => {}
                _ => rule(follows, "B-25", "payload behind an open SrcAvail"),
            }
            rule(self.out.closed.is_some(), "B-68", "payload after DisConn");
        }
        self.broken_urgent(head, &mut rule);
        match head.body {
            Body::Data => {}
            Body::SrcAvail(region) => self.broken_src_avail(head, region, &mut rule),
            Body::SinkAvail(region, count) => self.broken_sink_avail(region, count, &mut rule),
            Body::RdmaRdCompl(len) => {
                let oldest = self.inward.avails.front();
                rule(
                    oldest.is_none_or(|avail| len > avail.left),
                    "B-32",
                    "reports more than there is to read",
                );
                rule(
                    self.inward.owed() > 0,
                    "B-34",
                    "reports a later buffer first",
                );
            }
            Body::SendSm => rule(
                self.inward.avails.is_empty(),
                "B-33",
                "declines what there is not",
            ),
            Body::RdmaWrCompl(len) => {
                let oldest = self.out.rooms.front();
                rule(
                    oldest.is_none_or(|room| len > room.region.len),
                    "B-47",
                    "wrote more than there is room for",
                );
                let behind = |room: &Room| self.urgent.is_some_and(|at| ahead(room.seen, at) < 0);
                rule(
                    oldest.is_some_and(behind),
                    "B-80",
                    "writes behind an urgent byte to older memory",
                );
                rule(self.out.closed.is_some(), "B-68", "writes after DisConn");
            }
            Body::ModeChange(send, mode) => self.broken_mode(send, mode, &mut rule),
            Body::SrcAvailCancel => rule(
                self.out.cancel.is_some(),
                "B-39",
                "cancels while a cancel is not done",
            ),
            Body::SinkAvailCancel => rule(
                self.inward.taking_back,
                "B-53",
                "cancels while a cancel is not done",
            ),
            // The cancel may have crossed the DisConn.
            Body::SinkCancelAck => rule(
                !self.out.taking_back && self.out.closed.is_none(),
                "B-53",
                "answers a cancel that there is not",
            ),
            Body::ChRcvBuf(wish) => {
                rule(self.wish.is_some(), "B-63", "a second wish");
                let refused = match wish {
                    wish if wish > self.peer_size => self.refused[0],
                    wish if wish < self.peer_size => self.refused[1],
                    _ => false,
                };
                rule(refused, "B-65", "asks for what was refused");
            }
            Body::ChRcvBufAck(size) => match self.asked {
                None => rule(true, "B-63", "answers a wish that there is not"),
                Some(wish) => {
                    let grows = wish > self.size && size >= wish;
                    let shrinks = wish < self.size && size >= wish && size < self.size;
                    let stays = size == self.size;
                    rule(!grows && !shrinks && !stays, "B-64", "not the size wished");
                }
            },
            Body::DisConn => {
                rule(self.out.closed.is_some(), "B-68", "closes twice");
                rule(
                    !self.out.avails.is_empty(),
                    "B-68",
                    "closes before its transfers are done",
                );
                rule(
                    !self.announced.is_empty(),
                    "B-77",
                    "announced a byte that never comes",
                );
            }
            Body::AbortConn => rule(
                self.out.closed.is_none(),
                "B-71",
                "aborts what it has not closed",
            ),
            Body::SuspComm(_) => {
                rule(self.suspends, "B-83", "moves twice");
                rule(
                    !self.out.avails.is_empty(),
                    "B-83",
                    "moves before its transfers are done",
                );
            }
            Body::SuspCommAck => rule(
                !self.peer_suspends,
                "B-83",
                "answers a move that there is not",
            ),
        }
        broken
    }

    /// B-12 to B-18, and the size of the message.
    fn broken_credit(&self, head: &Head, rule: &mut impl FnMut(bool, &'static str, &'static str)) {
        let credit = self.credit();
        let gain = ahead(head.limit(), self.told);
        rule(gain < 0, "B-13", "takes credit back");
        rule(
            ahead(head.limit(), self.received) < 0,
            "B-13",
            "takes back credit that was used",
        );
        rule(credit < 1, "B-14", "no credit");
        rule(
            credit == 1 && (head.payload > 0 || gain == 0),
            "B-16",
            "the last credit for nothing",
        );
        rule(
            credit == 2 && head.payload > 0,
            "B-17",
            "payload on the last credits",
        );
        rule(
            head.len() > self.longest(),
            "B-4",
            "larger than the receive buffers",
        );
    }

    /// What may still be said at all.
    fn broken_state(&self, head: &Head, rule: &mut impl FnMut(bool, &'static str, &'static str)) {
        rule(self.aborted, "B-71", "goes on after AbortConn");
        let silent = self.suspended || (self.suspends && head.body != Body::SuspCommAck);
        rule(silent, "B-83", "goes on after a move");
        rule(
            self.is_closed() && head.body != Body::AbortConn,
            "B-70",
            "goes on after both DisConns",
        );
        let first = self.initiator_first && self.side == Side::Accepting && self.received == 0;
        rule(first, "B-9a", "talks before the connecting end");
    }

    /// B-77.
    fn broken_urgent(&self, head: &Head, rule: &mut impl FnMut(bool, &'static str, &'static str)) {
        let mut announced = self.announced.clone();
        if head.has(flag::OOB_PEND) {
            rule(!announced.is_empty(), "B-77", "announced twice");
            announced.push_back(self.out.done);
        }
        if head.has(flag::OOB_PRES) {
            match announced.pop_front() {
                None => rule(true, "B-77", "an urgent byte that was not announced"),
                Some(at) => {
                    let distance = self.out.done + u64::from(head.payload) - 1 - at;
                    let far = distance > 65535 && at != self.out.done;
                    rule(far, "B-77", "announced too early");
                }
            }
        }
    }

    fn broken_src_avail(
        &self,
        head: &Head,
        region: Region,
        rule: &mut impl FnMut(bool, &'static str, &'static str),
    ) {
        let out = &self.out;
        rule(
            head.payload > region.len,
            "B-26",
            "more payload than the buffer",
        );
        match out.mode {
            Mode::Buffered => rule(true, "B-27", "a SrcAvail in Buffered mode"),
            Mode::Combined => {
                rule(
                    head.payload == 0,
                    "B-27",
                    "no payload though in Combined mode",
                );
                rule(
                    !out.avails.is_empty(),
                    "B-29",
                    "a second SrcAvail in Combined mode",
                );
            }
            Mode::Pipelined => rule(head.payload > 0, "B-27", "payload in Pipelined mode"),
        }
        rule(
            self.adverts() >= self.peer_adverts,
            "B-30",
            "more than MaxAdverts",
        );
        rule(out.cancel.is_some(), "B-39", "before a cancel is done");
        rule(
            !out.rooms.is_empty(),
            "B-50",
            "though there is a SinkAvail to use",
        );
        rule(out.closed.is_some(), "B-68", "a SrcAvail after DisConn");
    }

    fn broken_sink_avail(
        &self,
        region: Region,
        count: u32,
        rule: &mut impl FnMut(bool, &'static str, &'static str),
    ) {
        let half = &self.inward;
        rule(
            half.mode != Mode::Pipelined,
            "B-46",
            "a SinkAvail outside Pipelined mode",
        );
        rule(
            region.len <= self.size,
            "B-46",
            "no larger than a receive buffer",
        );
        rule(
            self.adverts() >= self.peer_adverts,
            "B-30",
            "more than MaxAdverts",
        );
        rule(count != half.count, "B-49", "a wrong count");
        rule(
            !half.avails.is_empty(),
            "B-51",
            "though there is a SrcAvail to read",
        );
        rule(
            half.owed() > 0,
            "B-51",
            "though what it asked for has not come",
        );
        rule(half.taking_back, "B-53", "before its cancel is answered");
        rule(half.closed.is_some(), "B-69", "for a stream that ended");
    }

    fn broken_mode(
        &self,
        send: bool,
        mode: Mode,
        rule: &mut impl FnMut(bool, &'static str, &'static str),
    ) {
        use Mode::*;
        if send {
            // The sink changes what the receiver sends.
            let half = &self.inward;
            rule(half.mode == mode, "B-59", "the mode that is on");
            let may = half.mode == Buffered && mode == Combined;
            rule(!may, "B-55", "not for the sink to change");
            rule(!may, "B-56", "not for the sink to change");
            return;
        }
        rule(self.out.mode == mode, "B-59", "the mode that is on");
        rule(
            self.single && mode == Pipelined,
            "B-59a",
            "Pipelined mode with one advertisement",
        );
        rule(
            self.leaving.is_some(),
            "B-58",
            "before the last change is acknowledged",
        );
        match (self.out.mode, mode) {
            (Combined, Buffered) => rule(
                !self.out.avails.is_empty(),
                "B-55",
                "Buffered with an open SrcAvail",
            ),
            (Combined, Pipelined) | (Pipelined, Combined) => {}
            (Buffered, _) => {
                rule(true, "B-55", "not for the source to change");
                rule(true, "B-56", "not for the source to change");
            }
            (from, to) => rule(from != to, "B-55", "not from Pipelined to Buffered"),
        }
    }

    /// The end sends this.
    pub(crate) fn sends(&mut self, head: &Head) {
        self.sent = head.mseq;
        self.told = head.limit();
        self.said = head.mseq_ack;
        if head.has(flag::OOB_PEND) {
            self.announced.push_back(self.out.done);
        }
        if head.has(flag::OOB_PRES) {
            self.announced.pop_front();
            self.urgent = Some(head.mseq);
        }
        self.does(head);
    }

    /// What the message itself does to its sender.
    fn does(&mut self, head: &Head) {
        let (out, inward) = (&mut self.out, &mut self.inward);
        if head.payload > 0 {
            out.payload(head.payload);
        }
        match head.body {
            Body::Data => {}
            Body::SrcAvail(region) => out.advertise(head, region, self.received),
            Body::SinkAvail(region, _) => inward.rooms.push_back(Room {
                region,
                seen: head.mseq_ack,
            }),
            Body::RdmaRdCompl(len) => inward.read(len),
            Body::SendSm if inward.cancel.is_some() => inward.cancelled(),
            Body::SendSm => inward.decline(head.mseq),
            Body::RdmaWrCompl(len) => out.written(len),
            Body::ModeChange(true, mode) => inward.mode = mode,
            Body::ModeChange(false, mode) => {
                if out.mode == Mode::Pipelined {
                    self.leaving = Some((head.mseq, out.count));
                    out.void_rooms();
                }
                out.mode = mode;
            }
            Body::SrcAvailCancel => {
                if !out.avails.is_empty() {
                    out.cancel = Some(head.mseq);
                }
            }
            Body::SinkAvailCancel => inward.taking_back = !inward.rooms.is_empty(),
            Body::SinkCancelAck => out.void_rooms(),
            Body::ChRcvBuf(wish) => self.wish = Some((wish, head.mseq)),
            Body::ChRcvBufAck(size) => {
                self.size = size;
                self.asked = None;
            }
            Body::DisConn => out.close(head.mseq),
            Body::AbortConn => self.aborted = true,
            Body::SuspComm(_) => self.suspends = true,
            Body::SuspCommAck => self.suspended = true,
        }
    }

    /// The end receives this, which its peer sent rightfully.
    pub(crate) fn receives(&mut self, head: &Head) {
        self.received = head.mseq;
        self.acked = head.mseq_ack;
        self.limit = head.limit();
        if self
            .leaving
            .is_some_and(|(change, _)| ahead(self.acked, change) >= 0)
        {
            self.leaving = None;
        }
        let (out, inward) = (&mut self.out, &mut self.inward);
        if head.payload > 0 {
            inward.payload(head.payload);
        }
        match head.body {
            Body::Data => {}
            // A SinkAvail crossed it and beats it (B-50).
            Body::SrcAvail(_) if !inward.rooms.is_empty() => {}
            Body::SrcAvail(region) => inward.advertise(head, region, head.mseq_ack),
            Body::SinkAvail(region, count) => {
                let room = Room {
                    region,
                    seen: head.mseq_ack,
                };
                self.offered(room, count);
            }
            Body::RdmaRdCompl(len) => out.read(len),
            Body::SendSm => match out.cancel {
                Some(cancel) if ahead(head.mseq_ack, cancel) >= 0 => out.cancelled(),
                _ => out.decline(head.mseq),
            },
            Body::RdmaWrCompl(len) => inward.written(len),
            Body::ModeChange(true, mode) => out.mode = mode,
            Body::ModeChange(false, mode) => {
                inward.void_rooms();
                inward.mode = mode;
            }
            Body::SrcAvailCancel => {
                inward.asked.clear();
                if !inward.avails.is_empty() {
                    inward.cancel = Some(head.mseq);
                }
            }
            Body::SinkAvailCancel => out.taking_back = !out.rooms.is_empty(),
            Body::SinkCancelAck => inward.void_rooms(),
            // When both ask, the request of the accepting end stands (B-66).
            Body::ChRcvBuf(_) if self.wish.is_some() && self.side == Side::Accepting => {}
            Body::ChRcvBuf(wish) => {
                self.wish = self.wish.filter(|(_, own)| ahead(head.mseq_ack, *own) >= 0);
                self.asked = Some(wish);
            }
            Body::ChRcvBufAck(size) => {
                if let Some((wish, _)) = self.wish.take() {
                    if size == self.peer_size {
                        self.refused[usize::from(wish < size)] = true;
                    }
                }
                self.peer_size = size;
            }
            Body::DisConn => inward.close(head.mseq),
            Body::AbortConn => self.aborted = true,
            Body::SuspComm(_) => self.peer_suspends = true,
            Body::SuspCommAck => self.peer_suspended = true,
        }
    }

    /// A SinkAvail came (B-49, B-50, B-58).
    fn offered(&mut self, room: Room, count: u32) {
        let out = &mut self.out;
        if out.closed.is_some() {
            return;
        }
        let (expected, before) = match &mut self.leaving {
            Some((change, expected)) => (expected, Some(*change)),
            None => (&mut out.count.clone(), None),
        };
        if *expected != count {
            *expected = expected.wrapping_sub(1);
            out.count = out.count.wrapping_sub(1);
            return;
        }
        let beaten = |avail: &Avail| before.is_none_or(|change| ahead(avail.mseq, change) < 0);
        out.avails.retain(|avail| !beaten(avail));
        if before.is_none() {
            out.rooms.push_back(room);
        }
        if out.avails.is_empty() {
            out.cancel = None;
        }
    }
}
