// SPDX-License-Identifier: GPL-2.0

//! The strict peer: an end, what its peer must believe, and the bytes.

use crate::{
    end::{
        ahead,
        Avail,
        End,
        Offer,
        Side, //
    },
    message::{
        Body,
        Head,
        Region,
        Violation, //
    },
    random::pattern, //
};
use std::collections::VecDeque;

/// What both ends agreed on, and what is this end's own.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end the strict one is.
    pub side: Side,
    /// The fabric wants the connecting end to talk first (B-9a).
    pub initiator_first: bool,
    /// What it says of itself.
    pub own: Offer,
    /// What the peer says of itself.
    pub peer: Offer,
    /// The longest message that it sends.
    pub send_size: u32,
    /// The largest receive buffers that it has memory for.
    pub size_max: u32,
    /// The most that one RDMA operation of it moves.
    pub rdma_max: u32,
    /// The keys of the [`pattern`] of the stream that it sends, and of the one that it receives.
    pub keys: [u64; 2],
}

/// Memory that is registered for the peer to read and write: the first half for SrcAvails, the
/// second for SinkAvails.
#[derive(Debug)]
pub struct Window<'a> {
    /// What the peer calls its first byte.
    pub addr: u64,
    /// The key.
    pub key: u32,
    /// The memory itself.
    pub bytes: &'a mut [u8],
}

/// So many SrcAvails, and SinkAvails, have a part of the window each.
const SLOTS: usize = 8;

impl Window<'_> {
    /// The most that an advertisement names.
    fn most(&self) -> usize {
        self.bytes.len() / (2 * SLOTS) - 8
    }

    fn slot(&self, region: Region) -> usize {
        (region.addr - self.addr) as usize / (self.bytes.len() / (2 * SLOTS))
    }

    /// The memory that `region` names, all of which is in the window.
    pub fn at(&mut self, region: Region) -> &mut [u8] {
        let start = (region.addr - self.addr) as usize;
        &mut self.bytes[start..][..region.len as usize]
    }

    /// Up to `len` bytes for SrcAvails or SinkAvails, in no slot that one of `used` has.
    pub(crate) fn allocate(
        &self,
        sink: bool,
        used: &[Region],
        len: u64,
        skew: u64,
    ) -> Option<Region> {
        let first = if sink { SLOTS } else { 0 };
        let slot = (first..first + SLOTS)
            .find(|slot| used.iter().all(|region| self.slot(*region) != *slot))?;
        let start = slot * (self.bytes.len() / (2 * SLOTS));
        Some(Region {
            len: (len as usize).min(self.most()) as u32,
            key: self.key,
            addr: self.addr + start as u64 + skew % 8,
        })
    }
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this message.
    Send(Vec<u8>),
    /// RDMA Write of these bytes there, and then send the message.
    Write(Region, Vec<u8>, Vec<u8>),
    /// RDMA Read of this; its bytes go to [`Peer::read_done`], in the order of the reads.
    Read(Region),
    /// Post a receive buffer again.
    Repost,
}

/// An RDMA Read under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Where its bytes stand in the stream.
    at: u64,
    /// How many of them were not read before.
    progress: u32,
}

/// The strict peer.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) config: Config,
    pub(crate) me: End,
    /// What the peer may have made of the messages up to a number, the first of each pair. It is
    /// one, except while the peer holds MSeqAck back (B-41).
    mirrors: Vec<(u32, End)>,
    /// The messages that not all of them have.
    log: VecDeque<Head>,
    /// Receive buffers that stand posted, and those whose messages were consumed.
    standing: u32,
    free: u32,
    pub(crate) reading: VecDeque<Reading>,
    /// Bytes of the oldest SrcAvail that were read and not reported.
    pub(crate) read: u32,
}

impl Peer {
    /// A peer that has just exchanged Hello and HelloAck.
    pub fn new(config: Config) -> Self {
        let (own, peer) = (config.own, config.peer);
        let first = config.initiator_first;
        let other = match config.side {
            Side::Connecting => Side::Accepting,
            Side::Accepting => Side::Connecting,
        };
        Self {
            config,
            me: End::new(config.side, own, peer, first),
            mirrors: vec![(0, End::new(other, peer, own, first))],
            log: VecDeque::new(),
            standing: own.recv_depth.into(),
            free: 0,
            reading: VecDeque::new(),
            read: 0,
        }
    }

    /// A message came.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn receive(&mut self, bytes: &[u8], window: &mut Window<'_>) -> Result<(), Violation> {
        self.standing = self
            .standing
            .checked_sub(1)
            .ok_or(Violation::new("B-14", "no receive buffer"))?;
        let (head, payload) = Head::parse(bytes)?;
        head.tidy()?;
        self.hold_against_mirrors(&head)?;
        let at = self.me.inward.done;
        if payload != self.pattern(at, payload.len()) {
            return Err(Violation::new("B-12", "payload out of its place"));
        }
        if let (Body::RdmaWrCompl(len), Some(room)) =
            (head.body, self.me.inward.rooms.front().copied())
        {
            let written = window.at(room.region.part(0, len));
            if *written != *self.pattern(at, len as usize) {
                return Err(Violation::new("B-47", "written bytes out of their place"));
            }
        }
        self.me.receives(&head);
        // Payload is consumed at once.
        self.free += 1;
        Ok(())
    }

    fn pattern(&self, at: u64, len: usize) -> Vec<u8> {
        pattern(self.config.keys[1], at, len)
    }

    /// Whether the message's sends were to be solicited (B-82).
    pub fn wants_solicited(bytes: &[u8]) -> bool {
        Head::parse(bytes).is_ok_and(|(head, _)| head.solicited())
    }

    /// Whether the message is a SrcAvail.
    pub fn advertises(bytes: &[u8]) -> bool {
        Head::parse(bytes).is_ok_and(|(head, _)| matches!(head.body, Body::SrcAvail(_)))
    }

    /// Holds a message against what its sender must believe.
    fn hold_against_mirrors(&mut self, head: &Head) -> Result<(), Violation> {
        let ack = head.mseq_ack;
        if ahead(ack, self.me.sent) > 0 || ahead(ack, self.me.acked) < 0 {
            return Err(Violation::new("B-12", "acknowledges what was not sent"));
        }
        let held = self
            .me
            .out
            .cancel
            .is_some_and(|cancel| ack == cancel.wrapping_sub(1));
        let mut error = Violation::new("B-41", "MSeqAck is held back for no reason");
        let mut next: Vec<(u32, End)> = Vec::new();
        for (mut has, mut end) in std::mem::take(&mut self.mirrors) {
            loop {
                if ahead(has, ack) >= 0 {
                    let broken = end.broken(head);
                    match broken.first() {
                        Some(violation) => error = *violation,
                        None => {
                            let mut end = end.clone();
                            end.sends(head);
                            if !next.contains(&(has, end.clone())) {
                                next.push((has, end));
                            }
                        }
                    }
                    if !held || has == self.me.sent {
                        break;
                    }
                }
                has = has.wrapping_add(1);
                let first = self.log.front().map_or(0, |head| head.mseq);
                end.receives(&self.log[has.wrapping_sub(first) as usize]);
            }
        }
        if next.is_empty() {
            return Err(error);
        }
        self.mirrors = next;
        while self.log.front().is_some_and(|head| {
            self.mirrors
                .iter()
                .all(|(has, _)| ahead(*has, head.mseq) >= 0)
        }) {
            self.log.pop_front();
        }
        Ok(())
    }

    /// Whether the peer may hold that a SrcAvailCancel of its own is not done.
    pub(crate) fn peer_cancels(&self) -> bool {
        self.mirrors.iter().any(|(_, end)| end.out.cancel.is_some())
    }

    /// The peer reads the memory of this end.
    ///
    /// # Errors
    ///
    /// If it was not offered for that.
    pub fn reads(&self, region: Region) -> Result<(), Violation> {
        let within = |avail: &Avail| {
            let offset = region.addr.checked_sub(avail.region.addr);
            let end = offset.and_then(|offset| offset.checked_add(region.len.into()));
            end.is_some_and(|end| end <= avail.region.len.into())
        };
        match self.me.out.avails.iter().any(within) {
            true => Ok(()),
            false => Err(Violation::new("B-85", "reads what is not advertised")),
        }
    }

    /// The peer writes to the memory of this end.
    ///
    /// # Errors
    ///
    /// If it was not offered for that.
    pub fn writes(&self, region: Region) -> Result<(), Violation> {
        match self.me.inward.rooms.front() {
            Some(room) if room.region.addr == region.addr && region.len <= room.region.len => {
                Ok(())
            }
            _ => Err(Violation::new("B-85", "writes to what is not advertised")),
        }
    }

    /// The oldest read is done.
    ///
    /// # Errors
    ///
    /// If these are not the bytes of the stream that it asked for.
    pub fn read_done(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let reading = self.reading.pop_front().expect("nothing is read");
        self.read += reading.progress;
        match *bytes == *self.pattern(reading.at, bytes.len()) {
            true => Ok(()),
            false => Err(Violation::new("B-26", "read bytes out of their place")),
        }
    }

    /// A read of `len` bytes of the `nth` SrcAvail, from `offset` of what is left of it on.
    pub(crate) fn start_read(&mut self, nth: usize, offset: u32, len: u32) -> Action {
        let half = &self.me.inward;
        let before: u64 = half
            .avails
            .iter()
            .take(nth)
            .map(|a| u64::from(a.left))
            .sum();
        let under_way: u32 = self.reading.iter().map(|reading| reading.progress).sum();
        self.reading.push_back(Reading {
            at: half.done + half.owed() + before + u64::from(offset),
            progress: match nth == 0 && offset == self.read + under_way {
                true => len,
                false => 0,
            },
        });
        Action::Read(half.avails[nth].rest(offset, len))
    }

    /// Bytes of the oldest SrcAvail that nobody read.
    pub(crate) fn unread(&self) -> (u32, u32) {
        let under_way: u32 = self.reading.iter().map(|reading| reading.progress).sum();
        let start = self.read + under_way;
        let left = self.me.inward.avails.front().map_or(0, |avail| avail.left);
        (start, left - start)
    }

    /// Reads that may be under way (B-4a).
    pub(crate) fn most_reads(&self) -> usize {
        self.config.own.ord.min(self.config.peer.ird).into()
    }

    /// A message of this end, in its sequence.
    pub(crate) fn head(&self, body: Body, payload: u32, flags: u8) -> Head {
        let received = self.me.received;
        let mseq_ack = match self.me.inward.cancel {
            Some(cancel) if body != Body::SendSm => cancel.wrapping_sub(1),
            _ => received,
        };
        Head {
            flags,
            bufs: (received.wrapping_sub(mseq_ack) + self.standing) as u16,
            mseq: self.me.sent.wrapping_add(1),
            mseq_ack,
            body,
            payload,
        }
    }

    /// Sends it, with the bytes that belong to it.
    pub(crate) fn send(&mut self, head: &Head, window: &mut Window<'_>) -> Action {
        let (key, at) = (self.config.keys[0], self.me.out.done);
        let payload = pattern(key, at, head.payload as usize);
        let mut write = None;
        match head.body {
            Body::SrcAvail(region) => {
                let before: u32 = self.me.out.avails.iter().map(|avail| avail.left).sum();
                let bytes = pattern(key, at + u64::from(before), region.len as usize);
                window.at(region).copy_from_slice(&bytes);
            }
            Body::SinkAvail(region, _) => window.at(region).fill(0),
            Body::RdmaWrCompl(len) => {
                let room = self.me.out.rooms[0].region.part(0, len);
                write = Some((room, pattern(key, at, len as usize)));
            }
            Body::RdmaRdCompl(len) => self.read -= len,
            Body::SendSm => self.read = 0,
            _ => {}
        }
        self.me.sends(head);
        self.log.push_back(*head);
        let bytes = head.to_raw(&payload).to_bytes();
        match write {
            Some((room, data)) => Action::Write(room, data, bytes),
            None => Action::Send(bytes),
        }
    }

    /// Posts a receive buffer again, if one is free.
    pub(crate) fn repost(&mut self) -> Option<Action> {
        self.free = self.free.checked_sub(1)?;
        self.standing += 1;
        Some(Action::Repost)
    }

    /// What the peer was not told of its credit.
    pub(crate) fn gain(&self) -> i64 {
        ahead(self.me.received.wrapping_add(self.standing), self.me.told)
    }

    /// Credit of the peer, as far as it was told.
    pub(crate) fn peer_credit(&self) -> i64 {
        ahead(self.me.told, self.me.received)
    }

    /// Bytes of the stream that this end sent, and received.
    pub fn bytes(&self) -> [u64; 2] {
        [self.me.out.done, self.me.inward.done]
    }

    /// Messages that it has credit for.
    pub fn credit(&self) -> i64 {
        self.me.credit()
    }

    /// Credit of the peer as far as this end told it, and the receive buffers that stand posted.
    pub fn told(&self) -> (i64, u32) {
        (self.peer_credit(), self.standing)
    }

    /// Whether both ends have closed, or one has moved away, or aborted: the connection is to be
    /// dropped.
    pub fn is_over(&self) -> bool {
        self.me.is_closed() || self.me.aborted || self.me.suspended || self.me.peer_suspended
    }

    /// Whether the peer closed its stream.
    pub fn peer_closed(&self) -> bool {
        self.me.inward.closed.is_some()
    }

    /// Whether nothing of this end is open that the peer has to answer.
    pub fn is_settled(&self) -> bool {
        let me = &self.me;
        me.adverts() == 0 && me.inward.avails.is_empty() && me.wish.is_none() && me.out.owed() == 0
    }
}
