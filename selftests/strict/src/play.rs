// SPDX-License-Identifier: GPL-2.0

//! The steps of the strict peer: legal ones, illegal ones, and those that it owes.

use crate::{
    message::{
        flag,
        Body,
        Head,
        Mode,
        Region, //
    },
    peer::{
        Action,
        Peer,
        Window, //
    },
    random::Random,
    raw::{
        mid,
        Message,
        HEADER, //
    },
};

/// What the rules say must follow an illegal step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The peer ends the connection.
    Ends,
    /// Nothing.
    Ignored,
    /// Either: the rule binds the sender, and the receiver need not be able to see it.
    Either,
}

/// An illegal step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Illegal {
    /// The message.
    pub bytes: Vec<u8>,
    /// All the rules that it breaks.
    pub rules: Vec<&'static str>,
    /// What follows.
    pub outcome: Outcome,
}

const MODES: [Mode; 3] = [Mode::Buffered, Mode::Combined, Mode::Pipelined];

impl Peer {
    /// A step that is legal now, picked at random, if one was found.
    pub fn legal(&mut self, random: &mut Random, window: &mut Window<'_>) -> Option<Action> {
        for _ in 0..20 {
            if random.one_in(5) {
                match self.repost() {
                    None => continue,
                    action => return action,
                }
            }
            if random.one_in(5) {
                match self.random_read(random) {
                    None => continue,
                    action => return action,
                }
            }
            let Some((body, payload)) = self.candidate(random, window) else {
                continue;
            };
            let mut head = self.head(body, payload, 0);
            self.add_flags(&mut head, random);
            if self.me.broken(&head).is_empty() && self.is_prudent(&head) {
                return Some(self.send(&head, window));
            }
        }
        None
    }

    /// Whether an urgent byte that was announced, or is by this message, can still come in time
    /// behind it and what is open (B-77).
    fn leaves_urgent(&self, head: &Head) -> bool {
        let announced = self.me.announced.front().copied();
        let at = match announced.or(head.has(flag::OOB_PEND).then_some(self.me.out.done)) {
            Some(at) if !head.has(flag::OOB_PRES) => at,
            _ => return true,
        };
        let open: u64 = (self.me.out.avails.iter().map(|avail| u64::from(avail.left))).sum();
        let moved = match head.body {
            Body::SrcAvail(region) => region.len,
            Body::RdmaWrCompl(len) => len,
            _ => 0,
        };
        let open = open + self.me.out.owed();
        self.me.out.done + open + u64::from(moved) + u64::from(head.payload) < at + 65535
    }

    /// Whether it is also right for what this end knows besides the messages.
    fn is_prudent(&self, head: &Head) -> bool {
        if !self.leaves_urgent(head) {
            return false;
        }
        let oldest = self.me.inward.avails.front();
        match head.body {
            Body::RdmaRdCompl(len) => {
                let finishes = oldest.is_some_and(|avail| avail.left == len);
                let is_empty = len == 0 && !finishes;
                len <= self.read && !is_empty && (!finishes || self.reading.is_empty())
            }
            Body::SendSm => {
                let reported = self.read == 0 || self.me.inward.cancel.is_none();
                self.reading.is_empty() && reported
            }
            Body::RdmaWrCompl(len) => len > 0,
            Body::SrcAvailCancel => self.me.out.cancel.is_none(),
            // A cancel or a mode change of nothing is legal and says nothing.
            Body::SinkAvailCancel => !self.me.inward.rooms.is_empty(),
            // Beside a wish that is not answered, the accepting end's stands if its MSeqAck shows
            // that it does not cross that one.
            Body::ChRcvBuf(wish) => {
                let stands =
                    self.me.side == crate::Side::Accepting && self.me.inward.cancel.is_none();
                (self.me.asked.is_none() || stands) && wish != self.me.peer_size
            }
            _ => true,
        }
    }

    fn add_flags(&self, head: &mut Head, random: &mut Random) {
        let announced = !self.me.announced.is_empty();
        // Not on what may be the last message.
        let may = self.me.out.closed.is_none()
            && !matches!(
                head.body,
                Body::DisConn | Body::AbortConn | Body::SuspComm(_) | Body::SuspCommAck
            );
        if may && !announced && random.one_in(20) {
            head.flags |= flag::OOB_PEND;
        }
        let pending = announced || head.has(flag::OOB_PEND);
        if pending && head.body == Body::Data && head.payload > 0 && !random.one_in(3) {
            head.flags |= flag::OOB_PRES;
        }
        let hints = matches!(head.body, Body::RdmaRdCompl(_) | Body::RdmaWrCompl(_));
        if hints && random.one_in(4) {
            head.flags |= flag::REQ_PIPE;
        }
    }

    fn random_read(&mut self, random: &mut Random) -> Option<Action> {
        let avails = &self.me.inward.avails;
        if avails.is_empty()
            || self.reading.len() >= self.most_reads()
            || self.me.inward.cancel.is_some()
            || self.me.suspends
        {
            return None;
        }
        // Again, or ahead of its turn.
        if random.one_in(8) && self.me.inward.owed() == 0 {
            let nth = random.below(avails.len() as u64) as usize;
            let left = avails[nth].left;
            if left == 0 {
                return None;
            }
            let offset = random.below(left.into()) as u32;
            let (next, _) = self.unread();
            if nth == 0 && offset == next {
                return None;
            }
            let len = random.length(u64::from(left - offset)) as u32;
            let len = len.min(self.config.rdma_max);
            return Some(self.start_read(nth, offset, len));
        }
        // What a SendSm asked for comes first (B-34), and may not come at all after a cancel.
        match self.unread() {
            (_, rest) if rest == 0 || self.me.inward.owed() > 0 => None,
            (start, rest) => {
                let len = random.length(rest.into()) as u32;
                Some(self.start_read(0, start, len.min(self.config.rdma_max)))
            }
        }
    }

    /// The most payload that fits behind a header.
    fn room(&self, header: u32) -> u64 {
        u64::from(self.me.longest().min(self.config.send_size)).saturating_sub(header.into())
    }

    fn payload(&self, random: &mut Random, header: u32) -> u32 {
        match self.room(header) {
            0 => 0,
            room => random.length(room) as u32,
        }
    }

    fn src_avail(&self, random: &mut Random, window: &Window<'_>) -> Option<Region> {
        let used: Vec<_> = self
            .me
            .out
            .avails
            .iter()
            .map(|avail| avail.region)
            .collect();
        window.allocate(false, &used, random.length(1 << 20), random.bits())
    }

    fn sink_avail(&self, random: &mut Random, window: &Window<'_>) -> Option<Region> {
        let used: Vec<_> = self
            .me
            .inward
            .rooms
            .iter()
            .map(|room| room.region)
            .collect();
        let len = u64::from(self.me.size) + random.length(1 << 20);
        window.allocate(true, &used, len, random.bits())
    }

    /// A message that may be legal.
    fn candidate(&self, random: &mut Random, window: &Window<'_>) -> Option<(Body, u32)> {
        let me = &self.me;
        Some(match random.below(100) {
            0..22 => {
                let payload = self.payload(random, 16);
                let owed = u64::from(u32::MAX).min(me.out.owed()) as u32;
                let most = if me.out.avails.is_empty() || owed == 0 {
                    u32::MAX
                } else {
                    owed
                };
                (Body::Data, payload.min(most))
            }
            22..26 => (Body::Data, 0),
            26..42 => {
                let region = self.src_avail(random, window)?;
                let payload = match me.out.mode {
                    Mode::Pipelined => 0,
                    _ => self.payload(random, 32).min(region.len),
                };
                (Body::SrcAvail(region), payload)
            }
            42..54 => {
                let region = self.sink_avail(random, window)?;
                let payload = match random.one_in(4) {
                    true => self.payload(random, 36),
                    false => 0,
                };
                (Body::SinkAvail(region, me.inward.count), payload)
            }
            54..66 => match self.read {
                0 => (Body::RdmaRdCompl(0), 0),
                read if random.one_in(2) => (Body::RdmaRdCompl(read), 0),
                read => (Body::RdmaRdCompl(random.length(read.into()) as u32), 0),
            },
            66..72 => (Body::SendSm, 0),
            72..82 => {
                let len = me.out.rooms.front()?.region.len.min(self.config.rdma_max);
                (Body::RdmaWrCompl(random.length(len.into()) as u32), 0)
            }
            82..88 => (Body::ModeChange(random.one_in(3), random.pick(&MODES)), 0),
            88..90 => (Body::SrcAvailCancel, 0),
            90..92 => (Body::SinkAvailCancel, 0),
            92..95 => (Body::SinkCancelAck, 0),
            95..97 => (Body::ChRcvBuf(37 + random.length(1000) as u32), 0),
            _ => (Body::ChRcvBufAck(self.grants(random)?), 0),
        })
    }

    /// An answer to the peer's wish (B-64).
    fn grants(&self, random: &mut Random) -> Option<u32> {
        let (wish, size) = (self.me.asked?, self.me.size);
        Some(match random.below(3) {
            0 => size,
            1 if wish < size => wish + random.below(u64::from(size - wish) + 1) as u32,
            _ if wish <= self.config.size_max => wish,
            _ => size,
        })
    }

    /// A step that this end owes its peer, or that it needs to come to an end: with nothing more to
    /// say. None when it waits for the peer, or is done.
    pub fn duty(&mut self, window: &mut Window<'_>) -> Option<Action> {
        if let Some(action) = self.repost() {
            return Some(action);
        }
        for (body, payload) in self.duties() {
            let head = self.head(body, payload, self.urgent_flags(body, payload));
            if self.me.broken(&head).is_empty() && self.is_prudent(&head) {
                return Some(self.send(&head, window));
            }
        }
        let most = self.most_reads();
        let half = &self.me.inward;
        let may = half.cancel.is_none() && half.owed() == 0 && !self.me.suspends;
        match self.unread() {
            (start, rest) if rest > 0 && may && self.reading.len() < most => {
                Some(self.start_read(0, start, rest.min(self.config.rdma_max)))
            }
            _ => None,
        }
    }

    /// The urgent byte that was announced comes.
    fn urgent_flags(&self, body: Body, payload: u32) -> u8 {
        let comes = !self.me.announced.is_empty() && body == Body::Data && payload > 0;
        if comes {
            flag::OOB_PRES
        } else {
            0
        }
    }

    fn duties(&self) -> Vec<(Body, u32)> {
        let me = &self.me;
        let mut duties = Vec::new();
        if me.initiator_first && me.side == crate::Side::Connecting && me.sent == 0 {
            duties.push((Body::Data, 0));
        }
        if me.peer_suspends {
            duties.push((Body::SuspCommAck, 0));
        }
        if me.out.taking_back {
            duties.push((Body::SinkCancelAck, 0));
        }
        if let Some(wish) = me.asked {
            let size = match wish {
                wish if wish <= self.config.size_max => wish,
                _ => me.size,
            };
            duties.push((Body::ChRcvBufAck(size), 0));
        }
        let all_read = self.unread().1 == 0 || me.inward.cancel.is_some();
        let full = me
            .inward
            .avails
            .front()
            .is_some_and(|avail| avail.left == 0);
        if all_read && (self.read > 0 || full) {
            duties.push((Body::RdmaRdCompl(self.read), 0));
        }
        if me.inward.cancel.is_some() {
            duties.push((Body::SendSm, 0));
        }
        let owed = me.out.owed().min(self.room(16)) as u32;
        if owed > 0 {
            duties.push((Body::Data, owed));
        } else if !me.announced.is_empty() {
            duties.push((Body::Data, 1));
        }
        // Uses up the buffers that the peer is to replace by larger ones (B-64).
        let grows = me.wish.is_some_and(|(wish, _)| wish > me.peer_size);
        if grows && me.credit() > 2 {
            duties.push((Body::Data, 0));
        }
        // B-19, and what lets the peer send payload again; no update answers an update.
        let peer = self.peer_credit();
        let gain = self.gain();
        let starves = gain > 0 && peer <= 1 && (me.credit() > 2 || peer == 0);
        let helps = peer < 3 && peer + gain >= 3 && me.credit() > 2;
        if starves || helps {
            duties.push((Body::Data, 0));
        }
        duties
    }

    /// Takes back what the peer has not answered.
    pub fn withdraw(&mut self, window: &mut Window<'_>) -> Option<Action> {
        let me = &self.me;
        let body = if !me.out.avails.is_empty() && me.out.cancel.is_none() {
            Body::SrcAvailCancel
        } else if !me.inward.rooms.is_empty() && !me.inward.taking_back {
            Body::SinkAvailCancel
        } else {
            return None;
        };
        self.say(body, window)
    }

    /// Ends the own stream, once nothing of it is open.
    pub fn close(&mut self, window: &mut Window<'_>) -> Option<Action> {
        self.say(Body::DisConn, window)
    }

    /// Moves to `port`, once nothing is open.
    pub fn suspend(&mut self, port: u16, window: &mut Window<'_>) -> Option<Action> {
        let ready = self.reading.is_empty();
        ready.then(|| self.say(Body::SuspComm(0x1_0000 | u64::from(port)), window))?
    }

    /// Aborts after a DisConn (B-71).
    pub fn abort(&mut self, window: &mut Window<'_>) -> Option<Action> {
        self.say(Body::AbortConn, window)
    }

    fn say(&mut self, body: Body, window: &mut Window<'_>) -> Option<Action> {
        let head = self.head(body, 0, 0);
        let legal = self.me.broken(&head).is_empty() && self.is_prudent(&head);
        legal.then(|| self.send(&head, window))
    }

    /// One step that is not legal, if one was found. The peer must have said all that it had to
    /// say, or it could not know.
    pub fn illegal(&mut self, random: &mut Random, window: &mut Window<'_>) -> Option<Illegal> {
        if self.me.credit() < 1 {
            return None;
        }
        (0..100).find_map(|_| {
            let illegal = match random.below(4) {
                0 => self.malformed(random, window),
                1 => self.out_of_sequence(random),
                2 => self.meaningless(random, window),
                _ => self.out_of_turn(random, window),
            }?;
            let fits = illegal.bytes.len() <= self.me.longest() as usize;
            fits.then_some(illegal)
        })
    }

    /// A message that is none.
    fn malformed(&self, random: &mut Random, window: &Window<'_>) -> Option<Illegal> {
        let (body, payload) = self.any_body(random, window);
        let mut raw = self.raw(body, payload);
        let bits = random.bits();
        match random.below(8) {
            0 => {
                let mut bytes = raw.to_bytes();
                bytes.truncate(random.below(HEADER as u64) as usize);
                return refused(bytes);
            }
            1 => {
                raw.len = raw
                    .len
                    .wrapping_add(random.pick(&[1, 2, u32::MAX, 1 << 31]))
            }
            2 => {
                raw.mid = random.pick(&[
                    mid::HELLO,
                    mid::HELLO_ACK,
                    0x0f,
                    0x3f,
                    0x40,
                    0x7f,
                    0x80,
                    0xfc,
                ])
            }
            3 => {
                raw.rest.extend([0; 3]);
                raw.len += 3;
            }
            4 if !raw.rest.is_empty() => {
                raw.rest
                    .truncate(random.below(raw.rest.len() as u64) as usize);
                raw.len = (HEADER + raw.rest.len()) as u32;
            }
            5 => raw.flags |= flag::OOB_PRES,
            // Fields of the extended header.
            6 if raw.rest.len() >= 4 => raw.rest[0] = bits as u8 | 0xc0,
            7 => raw.rest.iter_mut().take(8).for_each(|byte| *byte = 0),
            _ => return None,
        }
        refused(raw.to_bytes())
    }

    fn raw(&self, body: Body, payload: u32) -> Message {
        let head = self.head(body, payload, 0);
        head.to_raw(&vec![0x5a; payload as usize])
    }

    /// A message that is right but for its place, or for its credit.
    fn out_of_sequence(&self, random: &mut Random) -> Option<Illegal> {
        let mut head = self.head(Body::Data, 0, 0);
        match random.below(5) {
            0 => {
                head.mseq = head
                    .mseq
                    .wrapping_add(random.pick(&[1, 2, u32::MAX, 1 << 31]))
            }
            1 => {
                // Acknowledges more, of the same credit.
                let more = random.pick(&[1u16, 2]);
                head.mseq_ack = head.mseq_ack.wrapping_add(more.into());
                head.bufs = head.bufs.saturating_sub(more);
            }
            3 => {
                head.mseq_ack = self.me.said.wrapping_sub(random.pick(&[1, 2, 100]));
                head.bufs = self.me.told.wrapping_sub(head.mseq_ack) as u16;
            }
            // While it cancels, the peer takes less credit for MSeqAck held back (B-41).
            2 | 4 if self.peer_cancels() => return None,
            2 => {
                // Less credit than the peer was told of.
                let told = self.me.told.wrapping_sub(head.mseq_ack) as u16;
                head.bufs = told.checked_sub(1 + random.below(3) as u16)?;
            }
            _ => {
                // Less than it used.
                head.mseq_ack = self.me.said;
                let used = self.me.received.wrapping_sub(self.me.said) as u16;
                head.bufs = used.checked_sub(1)?;
            }
        }
        self.breaks(&head)
    }

    /// What must do nothing.
    fn meaningless(&mut self, random: &mut Random, window: &mut Window<'_>) -> Option<Illegal> {
        let me = &self.me;
        let (body, flags) = match random.below(4) {
            // B-43
            0 if me.out.avails.is_empty() => (Body::SrcAvailCancel, 0),
            // B-53
            1 if me.inward.rooms.is_empty() => (Body::SinkAvailCancel, 0),
            // B-60
            2 => (Body::Data, flag::REQ_PIPE),
            // A.1
            3 => (Body::Data, 1 << (3 + random.below(5))),
            _ => return None,
        };
        let head = self.head(body, 0, flags);
        if !me.broken(&head).is_empty() {
            return None;
        }
        let Action::Send(bytes) = self.send(&head, window) else {
            return None;
        };
        Some(Illegal {
            bytes,
            rules: vec![match body {
                Body::SrcAvailCancel => "B-43",
                Body::SinkAvailCancel => "B-53",
                _ if flags == flag::REQ_PIPE => "B-60",
                _ => "A.1",
            }],
            outcome: Outcome::Ignored,
        })
    }

    /// A message that is right at another time.
    fn out_of_turn(&self, random: &mut Random, window: &Window<'_>) -> Option<Illegal> {
        let (body, payload) = self.any_body(random, window);
        let mut head = self.head(body, payload, 0);
        if random.one_in(8) && body == Body::Data {
            head.flags = random.pick(&[flag::OOB_PEND, flag::OOB_PRES]);
        }
        if payload == 0 {
            head.flags &= !flag::OOB_PRES;
        }
        self.breaks(&head)
    }

    /// Any message of a right form, with values near to what is right.
    fn any_body(&self, random: &mut Random, window: &Window<'_>) -> (Body, u32) {
        let me = &self.me;
        let payload = match random.one_in(2) {
            true => self.payload(random, 36),
            false => 0,
        };
        let near = |random: &mut Random, right: u32| match random.below(3) {
            0 => right,
            1 => right.saturating_add(1),
            _ => random.length(5000) as u32,
        };
        let wild = Region {
            len: 100,
            key: window.key,
            addr: window.addr,
        };
        match random.below(18) {
            0..3 => (Body::Data, payload),
            3 | 4 => {
                let mut region = self.src_avail(random, window).unwrap_or(wild);
                if random.one_in(3) && payload > 1 {
                    region.len = payload - 1;
                }
                (Body::SrcAvail(region), payload)
            }
            5 | 6 => {
                let mut region = self.sink_avail(random, window).unwrap_or(wild);
                if random.one_in(4) {
                    region.len = 1 + random.below(me.size.into()) as u32;
                }
                let count = me.inward.count;
                let count = random.pick(&[count, count, count.wrapping_add(1)]);
                (Body::SinkAvail(region, count), payload)
            }
            7 => {
                let left = me.inward.avails.front().map_or(0, |avail| avail.left);
                (Body::RdmaRdCompl(near(random, left)), 0)
            }
            8 => {
                let len = me.out.rooms.front().map_or(0, |room| room.region.len);
                (Body::RdmaWrCompl(near(random, len)), 0)
            }
            9 => (Body::SendSm, 0),
            10 | 11 => (Body::ModeChange(random.one_in(2), random.pick(&MODES)), 0),
            12 => (Body::SinkCancelAck, 0),
            13 => {
                let wish = me.asked.unwrap_or(me.size);
                let wrong = [
                    wish.saturating_add(1),
                    wish.saturating_sub(1).max(37),
                    37,
                    1 << 20,
                ];
                (Body::ChRcvBufAck(random.pick(&wrong)), 0)
            }
            14 => (Body::ChRcvBuf(37 + random.length(1000) as u32), 0),
            15 => (Body::DisConn, 0),
            16 => (random.pick(&[Body::AbortConn, Body::SuspCommAck]), 0),
            _ => (
                random.pick(&[Body::SrcAvailCancel, Body::SinkAvailCancel]),
                0,
            ),
        }
    }

    fn breaks(&self, head: &Head) -> Option<Illegal> {
        let broken = self.me.broken(head);
        let rules: Vec<_> = broken.iter().map(|broken| broken.rule).collect();
        // Where MSeqAck is held back, it does not say what was seen (B-41).
        let hides = self.me.inward.cancel.is_some() || self.me.out.cancel.is_some();
        let passes = |what| MAY_PASS.contains(&what) || hides && MAY_PASS_UNSEEN.contains(&what);
        let outcome = match broken.iter().all(|broken| passes(broken.what)) {
            true => Outcome::Either,
            false => Outcome::Ends,
        };
        let payload = vec![0x5a; head.payload as usize];
        (!rules.is_empty()).then(|| Illegal {
            bytes: head.to_raw(&payload).to_bytes(),
            rules,
            outcome,
        })
    }
}

/// What harms nobody but the sender, or cannot be seen for sure, and so may pass (B-73).
const MAY_PASS: [&str; 10] = [
    "MSeqAck is not what was received",
    "MSeqAck is held back elsewhere",
    "takes credit back",
    "the last credit for nothing",
    "payload on the last credits",
    "acknowledges a cancel that is not done",
    "though what it asked for has not come",
    "announced twice",
    "an urgent byte that was not announced",
    "announced a byte that never comes",
];

/// What the receiver tells by the MSeqAck of its messages, or of those that it gets.
const MAY_PASS_UNSEEN: [&str; 2] = [
    "though there is a SinkAvail to use",
    "before the last change is acknowledged",
];

/// A message that breaks a rule of form.
fn refused(bytes: Vec<u8>) -> Option<Illegal> {
    let violation = Head::parse(&bytes).err()?;
    Some(Illegal {
        bytes,
        rules: vec![violation.rule],
        outcome: Outcome::Ends,
    })
}
