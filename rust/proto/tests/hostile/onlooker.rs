// SPDX-License-Identifier: GPL-2.0

//! A machine with an onlooker, who lets a peer and a user do anything and holds what the machine
//! says, and what it lets the peer say, against the rules. He reads messages by himself.

use sdp_proto::{
    wire::{
        self,
        mid,
        Base,
        Flags,
        Half,
        Message, //
    },
    AbortReason,
    BufferId,
    Config,
    Events,
    Header,
    Machine,
    Mode,
    Region,
    SendTag,
    Side,
    Source,
    State, //
};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Bytes that need not be a message.
    Bytes(Vec<u8>),
    /// A message in sequence but for these differences.
    Message(Message, Flags, usize, Differences),
    /// The user or the fabric does something.
    Act(Act, u16),
}

/// What is unusual about a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences {
    /// It is sent as it is, legal or not. Otherwise it is mended, or left out, so that a peer gets
    /// far before it breaks a rule.
    pub(crate) insists: bool,
    pub(crate) mseq: u32,
    /// How many of our messages it does not acknowledge, as far as none was before.
    pub(crate) unseen: u32,
    /// How many less it acknowledges than one before.
    pub(crate) back: u32,
    /// The credit that it gives beyond our messages that it does not acknowledge, and what it
    /// takes back of it.
    pub(crate) bufs: u16,
    pub(crate) short: u16,
    pub(crate) len: u32,
    /// A byte that is another.
    pub(crate) garbled: Option<(usize, u8)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Write,
    Buffer,
    Offer,
    CancelSend,
    CancelOffers,
    Mode,
    Combine,
    Read,
    ReadDone,
    Decline,
    Resize,
    Ask,
    Urgent,
    Suspend,
    ShutSend,
    ShutReceive,
    Abort,
    Sent,
    Time,
    Posted,
}

pub(crate) fn config(side: Side) -> Config {
    Config {
        side,
        max_adverts: 4,
        ord: 3,
        ird: 2,
        recv_size: 200,
        recv_depth: 16,
        send_size: 120,
        desired_remote: 200,
    }
}

/// The RDMA Reads that the peer can serve, fewer than it may start itself.
const MOST_READS: usize = 2;
/// Advertisements that each end takes.
const MAX_ADVERTS: usize = 4;
/// How long a peer may take to close in turn, and its fabric to answer, in nanoseconds.
const CLOSE_TIMEOUT: u64 = 300_000_000;
const SILENCE: u64 = 400_000_000;

/// Whether these are the bytes of a message (`A.1`, `A.2`, `A.6`, `B-78`).
fn is_message(bytes: &[u8]) -> bool {
    let Some((&[mid, flags, _, _, l0, l1, l2, l3], extended)) = bytes.split_first_chunk() else {
        return false;
    };
    let Some(extended) = extended.get(8..) else {
        return false;
    };
    let (headers, carries) = match mid {
        0x02..=0x04 | 0x08..=0x0a | 0x0e => (0, false),
        0x05..=0x07 | 0x0b | 0x0c => (4, false),
        0x0d => (8, false),
        0xfd => (20, true),
        0xfe => (16, true),
        0xff => (0, true),
        _ => return false,
    };
    let long = extended.len() > headers;
    let number = extended
        .first_chunk()
        .map(|&bytes| u32::from_be_bytes(bytes));
    u32::from_be_bytes([l0, l1, l2, l3]) as usize == bytes.len()
        && extended.len() >= headers
        && (carries || !long)
        && (flags & 1 == 0 || mid == 0xff && long)
        && match (mid, number) {
            (0x07, Some(mode)) => (mode >> 28) & 7 < 3,
            (0x0b | 0x0c, Some(size)) => (37..=1 << 31).contains(&size),
            (0xfd | 0xfe, Some(len)) => (1..=1 << 31).contains(&len),
            _ => true,
        }
}

/// Whether this is a good Hello or HelloAck in the short form (`A.5`, `B-3` to `B-5`).
#[allow(dead_code, reason = "the fuzzer has no use for it")]
pub(crate) fn is_greeting(bytes: &[u8], mid: u8) -> bool {
    let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| (u32::from(short(at)) << 16) | u32::from(short(at + 2));
    // A Hello has DesRemRcvSz before the size of the buffers.
    let (len, size) = if mid == 0 { (32, 24) } else { (28, 20) };
    bytes.len() >= len
        && bytes[0] == mid
        && short(2) >= 3
        && long(4) as usize == len
        && bytes[16] >> 4 == 1
        && short(18) > 0
        && (37..=1 << 31).contains(&long(size))
        && short(size + 4) > 0
        && short(size + 6) > 0
}

/// Whether this is a good HelloAck in InfiniBand's form to a Hello of version 2 (`A.4`).
#[allow(dead_code, reason = "the fuzzer has no use for it")]
pub(crate) fn is_greeting_ib(bytes: &[u8]) -> bool {
    let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| (u32::from(short(at)) << 16) | u32::from(short(at + 2));
    bytes.len() >= 196
        && bytes[0] == mid::HELLO_ACK
        && short(2) >= 3
        && long(4) == 196
        && bytes[16] >> 4 == 2
        && bytes[19] > 0
        && (37..=1 << 31).contains(&long(20))
}

/// Who may change the mode of a half of the stream, and to what (`B-55` to `B-59`).
fn may_change(half: Half, from: Mode, to: Mode) -> bool {
    use Mode::*;
    match half {
        Half::Receive => matches!(
            (from, to),
            (Combined, Buffered | Pipelined) | (Pipelined, Combined)
        ),
        Half::Send => (from, to) == (Buffered, Combined),
    }
}

/// The machine, and what an onlooker knows of the connection.
pub(crate) struct Onlooker {
    pub(crate) machine: Machine,
    received: u32,
    sent: u32,
    acked: u32,
    bufs: u16,
    /// The number of the last message that the peer was told to have a buffer for.
    told: u32,
    tags: Vec<(SendTag, Message)>,
    /// When the oldest of them went, and when the peer or its fabric was heard.
    oldest: u64,
    heard: u64,
    reading: Vec<u32>,
    send_mode: Mode,
    receive_mode: Mode,
    /// Whose stream has ended.
    closed: Option<u32>,
    peer_closed: bool,
    /// The user writes, and reads, no more, and since when neither.
    mute: bool,
    deaf: bool,
    done: Option<u64>,
    /// A byte was marked urgent that the peer may not have, or before it had all it offered.
    marked: bool,
    /// The buffer behind which nothing was written, and those that were taken back.
    last: Option<BufferId>,
    withdrawn: Vec<BufferId>,
    /// The bytes left of the machine's SrcAvails, and their numbers; the number of its
    /// SrcAvailCancel: MSeqAck, and credit, may be behind from then on (`B-41`).
    lent: VecDeque<(u32, u32)>,
    cancelled: Option<u32>,
    /// Bytes that a SendSm asked for.
    owed: u32,
    /// The bytes left of the peer's, and the number of its SrcAvailCancel.
    borrowed: VecDeque<u32>,
    ending: Option<u32>,
    /// Bytes that the machine's SendSms asked for.
    due: u32,
    /// The machine's SinkAvails, and their numbers, and whether it takes them back.
    offers: VecDeque<(u32, u32)>,
    takes_back: bool,
    /// The peer's, the count that NonDiscards is held against (`B-49`), and what that was when the
    /// machine left Pipelined mode, by this message.
    sinks: VecDeque<u32>,
    owes_ack: bool,
    ack: Option<u32>,
    discards: u32,
    left: Option<(u32, u32)>,
    /// The machine's first message that can tell the peer that it was seen to leave that mode.
    seen_to_leave: Option<u32>,
    /// The sizes of receive buffers asked for and not answered, by this end and by the peer.
    asks: Option<u32>,
    asked: Option<u32>,
    own_size: u32,
    peer_size: u32,
    /// The machine refused to grow, and to shrink.
    refused: [bool; 2],
    /// A SuspComm was sent, and one came that is to be answered, or is not.
    moves: bool,
    moved: bool,
    peer_silent: bool,
    /// Nothing more is to be said (`B-83`).
    silent: bool,
    now: u64,
}

impl Onlooker {
    pub(crate) fn new() -> Onlooker {
        let mut peer = Machine::new(config(Side::Connecting)).unwrap();
        let mut machine = Machine::new(config(Side::Accepting)).unwrap();
        machine.hello_received(&peer.hello()).unwrap();
        machine.established();
        machine.set_zero_copy(true);
        machine.set_resizable(true);
        machine.set_close_timeout(Some(CLOSE_TIMEOUT));
        machine.set_limits(None, Some(SILENCE));
        Onlooker {
            machine,
            received: 0,
            sent: 0,
            acked: 0,
            bufs: 16,
            told: 16,
            tags: Vec::new(),
            oldest: 0,
            heard: 0,
            reading: Vec::new(),
            send_mode: Mode::Combined,
            receive_mode: Mode::Combined,
            closed: None,
            peer_closed: false,
            mute: false,
            deaf: false,
            done: None,
            marked: false,
            last: None,
            withdrawn: Vec::new(),
            lent: VecDeque::new(),
            cancelled: None,
            owed: 0,
            borrowed: VecDeque::new(),
            ending: None,
            due: 0,
            offers: VecDeque::new(),
            takes_back: false,
            sinks: VecDeque::new(),
            owes_ack: false,
            ack: None,
            discards: 0,
            left: None,
            seen_to_leave: None,
            asks: None,
            asked: None,
            own_size: 200,
            peer_size: 200,
            refused: [false; 2],
            moves: false,
            moved: false,
            peer_silent: false,
            silent: false,
            now: 0,
        }
    }

    /// Whether the machine has to refuse a message. There are more than these; what it depends on
    /// is known here without the machine's help.
    fn is_illegal(&self, bytes: &[u8]) -> bool {
        let Some(parsed) = wire::parse(bytes).ok().filter(|_| is_message(bytes)) else {
            return true;
        };
        let (base, carries) = (parsed.base, !parsed.payload.is_empty());
        let new = base.mseq_ack.wrapping_sub(self.acked);
        let out = self.sent.wrapping_sub(self.acked);
        let short = u32::from(base.bufs) < self.sent.wrapping_sub(base.mseq_ack);
        let out_of_sequence = base.mseq != self.received.wrapping_add(1)
            || self.told.wrapping_sub(base.mseq) > 1 << 16
            || new > out
            || short && self.cancelled.is_none();
        let moves_bytes = carries
            || matches!(
                parsed.message,
                Message::SrcAvail(_) | Message::RdmaWrCompl(_)
            );
        // What the peer has of the machine's messages, if it does not hold that back.
        let seen = |mseq: u32| base.mseq_ack.wrapping_sub(mseq) < 1 << 16;
        let unseen = |mseq: u32| self.cancelled.is_none() && !seen(mseq);
        let is_open = |&(_, mseq): &(u32, u32)| seen(mseq);
        out_of_sequence
            || self.peer_silent && parsed.message != Message::SuspCommAck
            || moves_bytes && (self.peer_closed || self.deaf)
            || match parsed.message {
                Message::DisConn => self.peer_closed || !self.borrowed.is_empty(),
                Message::AbortConn => !self.peer_closed,
                Message::RdmaWrCompl(len) => {
                    len == 0 || self.offers.front().is_none_or(|&(most, _)| len > most)
                }
                Message::RdmaRdCompl(len) => {
                    len == 0 || self.lent.front().is_none_or(|&(most, _)| len > most)
                }
                Message::SendSm => self.lent.is_empty(),
                Message::SrcAvail(region) => {
                    let sinks = match self.closed {
                        Some(_) => 0,
                        None => self.sinks.len(),
                    };
                    let is_bad = match self.receive_mode {
                        Mode::Buffered => true,
                        Mode::Combined => !carries || !self.borrowed.is_empty(),
                        Mode::Pipelined => carries,
                    };
                    is_bad
                        || parsed.payload.len() > region.len as usize
                        || self.borrowed.len() + sinks >= MAX_ADVERTS
                        || self.ending.is_some()
                        || self.offers.front().is_some_and(is_open)
                }
                Message::SrcAvailCancel => self.ending.is_some(),
                Message::SinkAvailCancel => self.owes_ack,
                Message::Data => carries && self.is_behind(parsed.payload.len()),
                Message::SinkAvail(region, count) => {
                    let left = self.left.filter(|_| self.send_mode != Mode::Pipelined);
                    let discards = left.map_or(self.discards, |(_, left)| left);
                    let is_possible = self.send_mode == Mode::Pipelined || left.is_some();
                    let is_read = is_open;
                    let is_open = self.send_mode == Mode::Pipelined && count == discards;
                    !is_possible
                        || region.len <= self.peer_size
                        || self.owes_ack
                        || self.ack.is_some_and(unseen)
                        || self.closed.is_some_and(seen)
                        || is_open && self.lent.front().is_some_and(is_read)
                        || discards.wrapping_sub(count) > 1 << 16
                        || is_open && self.sinks.len() + self.borrowed.len() >= MAX_ADVERTS
                        || carries && self.is_behind(parsed.payload.len())
                }
                Message::ModeChange(half @ Half::Receive, to) => {
                    let is_early = to == Mode::Buffered && !self.borrowed.is_empty();
                    is_early
                        || self.seen_to_leave.is_some_and(unseen)
                        || !may_change(half, self.receive_mode, to)
                }
                Message::ModeChange(half @ Half::Send, to) => !may_change(half, self.send_mode, to),
                Message::SinkCancelAck => !self.takes_back && !self.peer_closed,
                Message::ChRcvBuf(wish) => {
                    let again = wish > self.own_size && self.refused[0]
                        || wish < self.own_size && self.refused[1];
                    again || self.asked.is_some()
                }
                Message::ChRcvBufAck(size) => match self.asks {
                    None => true,
                    Some(wish) if size != self.peer_size && wish > self.peer_size => size < wish,
                    Some(wish) => size < wish.min(self.peer_size) || size > self.peer_size,
                },
                Message::SuspComm(_) => self.moved,
                Message::SuspCommAck => !self.moves,
            }
    }

    /// So much payload would overtake what a SrcAvail describes (`B-25`).
    fn is_behind(&self, payload: usize) -> bool {
        !self.borrowed.is_empty() && payload > self.due as usize
    }

    fn receive(&mut self, bytes: &[u8]) {
        let is_over = self.is_over();
        let is_illegal = self.is_illegal(bytes);
        match self.machine.received(bytes) {
            Ok(received) if is_over => assert!(received.payload.is_empty()),
            Ok(received) => {
                assert!(!is_illegal, "takes {bytes:x?}");
                assert!(received.payload.end <= bytes.len());
                assert!(received.payload.is_empty() || received.payload.end == bytes.len());
                assert!(
                    !received.urgent || bytes[1] & 1 != 0,
                    "takes a byte for urgent"
                );
                assert!(!received.urgent_pending || bytes[1] & 3 != 0);
                if let Ok(parsed) = wire::parse(bytes) {
                    self.heard(&parsed);
                }
                self.machine.posted(1);
            }
            Err(_) => {
                assert!(self.is_over());
                assert!(self.machine.aborted().is_some());
            }
        }
    }

    /// Whether nothing is heard any more.
    fn is_over(&self) -> bool {
        matches!(
            self.machine.state(),
            State::Aborting | State::Disconnecting | State::Closed
        )
    }

    /// What the peer's message changes.
    fn heard(&mut self, parsed: &wire::Parsed) {
        self.heard = self.now;
        self.received = parsed.base.mseq;
        self.acked = parsed.base.mseq_ack;
        self.bufs = parsed.base.bufs;
        let reached = |mseq: u32| self.acked.wrapping_sub(mseq) < 1 << 16;
        self.left = self.left.filter(|&(mseq, _)| !reached(mseq));
        let carries = !parsed.payload.is_empty();
        self.ack = self.ack.filter(|&mseq| !reached(mseq));
        if !matches!(parsed.message, Message::SrcAvail(_)) {
            self.due = self.due.saturating_sub(parsed.payload.len() as u32);
        }
        match parsed.message {
            // It crosses an offer, and both forget it (B-50).
            Message::SrcAvail(_) if !self.offers.is_empty() => {}
            Message::SrcAvail(region) => {
                let left = region.len - parsed.payload.len() as u32;
                self.borrowed.push_back(left);
            }
            Message::SrcAvailCancel if !self.borrowed.is_empty() => {
                self.ending.get_or_insert(parsed.base.mseq);
            }
            _ => {}
        }
        if carries || matches!(parsed.message, Message::RdmaWrCompl(_)) {
            self.offers.pop_front();
        }
        match parsed.message {
            Message::RdmaRdCompl(len) => {
                self.lent[0].0 -= len;
                if self.lent[0].0 == 0 {
                    self.lent.pop_front();
                }
            }
            Message::SendSm if self.cancelled.is_some_and(reached) => self.lent.clear(),
            Message::SendSm => {
                let left = self.lent.pop_front().map_or(0, |(left, _)| left);
                self.owed = self.owed.saturating_add(left);
            }
            Message::SinkAvail(region, count) => self.offered(region.len, count),
            Message::SinkAvailCancel => {
                self.owes_ack |= !self.sinks.is_empty();
                self.sinks.clear();
            }
            Message::DisConn => {
                self.peer_closed = true;
                self.offers.clear();
            }
            Message::ModeChange(Half::Receive, mode) => {
                let leaves = self.receive_mode == Mode::Pipelined;
                self.seen_to_leave = leaves.then_some(self.sent.wrapping_add(1));
                self.receive_mode = mode;
                self.offers.clear();
            }
            Message::ModeChange(Half::Send, mode) => self.send_mode = mode,
            Message::SinkCancelAck => self.offers.clear(),
            // The accepting end, which this is, does not answer what crossed its own (B-66).
            Message::ChRcvBuf(wish) => self.asked = self.asks.is_none().then_some(wish),
            Message::ChRcvBufAck(size) => {
                self.asks = None;
                self.peer_size = size;
            }
            // Nor here (B-83).
            Message::SuspComm(_) => {
                self.peer_silent = true;
                self.moved = !self.moves;
            }
            Message::SuspCommAck => self.silent = true,
            _ => {}
        }
        self.takes_back &= !self.offers.is_empty();
        self.cancelled = self.cancelled.filter(|_| !self.lent.is_empty());
    }

    /// The peer's SinkAvail came (`B-49`, `B-50`, `B-60b`).
    fn offered(&mut self, len: u32, count: u32) {
        match &mut self.left {
            _ if self.send_mode == Mode::Pipelined => {
                if count == self.discards {
                    self.sinks.push_back(len);
                    self.lent.clear();
                } else {
                    self.discards = self.discards.wrapping_sub(1);
                }
            }
            Some((_, left)) if count != *left => {
                *left = left.wrapping_sub(1);
                self.discards = self.discards.wrapping_sub(1);
            }
            _ => {}
        }
    }

    fn act(&mut self, act: Act, n: u16) {
        let machine = &mut self.machine;
        let region = Region {
            len: u32::from(n) + 1,
            rkey: 1,
            va: 5,
        };
        let modes = [Mode::Buffered, Mode::Combined, Mode::Pipelined];
        match act {
            Act::Write => {
                self.last = None;
                machine.write(usize::from(n) % 500);
                machine.push();
            }
            Act::Buffer => self.last = machine.send_buffer(region),
            Act::Offer => {
                machine.offer_buffer(region);
            }
            Act::CancelSend => {
                let withdraw = n % 2 == 0;
                machine.cancel_send(withdraw);
                self.withdrawn.extend(self.last.filter(|_| withdraw));
            }
            Act::CancelOffers => machine.cancel_offers(),
            Act::Mode => machine.want_mode(modes[usize::from(n) % 3]),
            Act::Combine => machine.want_combined(),
            Act::Read => {
                if let Some(region) = machine.start_read(u32::from(n)) {
                    self.reading.push(region.len);
                    assert!(self.reading.len() <= MOST_READS, "too many reads");
                }
            }
            Act::ReadDone => {
                for len in self.reading.drain(..) {
                    machine.read_done(len);
                }
            }
            Act::Decline => {
                machine.decline();
            }
            Act::Resize => {
                machine.resized(u32::from(n));
            }
            Act::Ask => {
                machine.ask_resize(u32::from(n));
            }
            Act::Urgent => {
                machine.mark_urgent();
                self.marked = true;
            }
            Act::Suspend => {
                machine.suspend(n);
            }
            Act::ShutSend => {
                machine.shutdown_send();
                self.mute = true;
            }
            Act::ShutReceive => {
                machine.shutdown_receive();
                self.deaf = true;
            }
            Act::Abort => machine.abort(),
            Act::Sent => {
                if !self.tags.is_empty() {
                    self.heard = self.now;
                }
                for (tag, message) in self.tags.drain(..) {
                    let state = machine.state();
                    machine.sent(tag);
                    let ends = matches!(
                        message,
                        Message::DisConn | Message::AbortConn | Message::SuspCommAck
                    );
                    assert!(ends || machine.state() == state, "{message:?} ends {state}");
                }
            }
            Act::Time => {
                self.now += u64::from(n) * 10_000;
                machine.take_events();
                let (due, state) = (machine.deadline(), machine.state());
                let was_aborted = machine.aborted().is_some();
                machine.expired(self.now);
                let events = machine.take_events();
                assert!(!events.contains(Events::NUDGE), "nudges who need not talk");
                let is_idle = events.is_empty() && machine.state() == state;
                let is_due = due.is_some_and(|at| at <= self.now);
                assert!(is_idle || is_due, "does by chance what no timer was for");
                if machine.aborted() == Some(AbortReason::TimedOut) && !was_aborted {
                    // Nobody was asked anything before (B-76).
                    let since = self.heard.max(self.oldest);
                    assert!(self.now - since >= SILENCE, "gives up too early");
                }
                // B-74
                let since = self.done.unwrap_or(self.now);
                assert!(
                    self.now - since < CLOSE_TIMEOUT || self.is_over(),
                    "waits without end"
                );
            }
            Act::Posted => machine.posted(n % 4),
        }
        let is_known = self.machine.unsent() == 0 && self.acked == self.sent;
        self.marked &= !is_known || !self.sinks.is_empty();
        if self.mute && self.deaf {
            self.done.get_or_insert(self.now);
        }
    }

    /// Takes all there is to send, and holds it against the rules.
    fn drain(&mut self) {
        for _ in 0..1 << 17 {
            let Some(transmit) = self.machine.poll_transmit() else {
                return;
            };
            if let Source::Buffer(id, _) = transmit.source {
                assert!(!self.withdrawn.contains(&id), "sends what was taken back");
            }
            let mut bytes = transmit.header.as_bytes().to_vec();
            bytes.resize(bytes.len() + transmit.payload as usize, 0);
            assert!(is_message(&bytes), "sends {bytes:x?}");
            let parsed = wire::parse(&bytes).expect("sends what it would not take");
            if self.tags.is_empty() {
                self.oldest = self.now;
            }
            self.tags.push((transmit.tag, parsed.message));
            if let Some(reason) = self.machine.aborted() {
                assert_ne!(reason, AbortReason::TimedOut, "waits for who is silent");
                // It counts on what the offending message said.
                assert_eq!(parsed.message, Message::AbortConn);
                assert!(self.closed.is_some(), "an AbortConn without a DisConn");
                continue;
            }
            let credit = i64::from(self.bufs) - i64::from(self.sent.wrapping_sub(self.acked));
            let told = parsed.base.mseq_ack.wrapping_add(parsed.base.bufs.into());
            assert!(credit >= 1, "sends without credit");
            assert!(
                credit >= 2 || told != self.told,
                "the last credit for nothing"
            );
            assert!(transmit.payload == 0 || credit >= 3, "payload on {credit}");
            assert!(told.wrapping_sub(self.told) < 1 << 16, "takes credit back");
            // A wish for less counts at once (B-64).
            let most = self
                .asks
                .map_or(self.peer_size, |wish| wish.min(self.peer_size));
            assert!(bytes.len() <= most as usize, "too long a message");
            assert_eq!(bytes[1] & !7, 0, "flags that do not exist");
            assert!(
                bytes[1] & 4 == 0 || matches!(bytes[0], 0x05 | 0x06),
                "a hint on {:?}",
                parsed.message
            );
            self.sent = self.sent.wrapping_add(1);
            self.told = told;
            assert_eq!(parsed.base.mseq, self.sent);
            assert!(self.received.wrapping_sub(parsed.base.mseq_ack) < 1 << 16);
            self.says(&parsed);
        }
        panic!("never stops sending");
    }

    /// What the machine's message changes, if it may send it.
    fn says(&mut self, parsed: &wire::Parsed) {
        let (message, carries) = (parsed.message, !parsed.payload.is_empty());
        assert!(!self.silent, "{message:?} before a move");
        let moves_bytes = carries || matches!(message, Message::SrcAvail(_) | Message::DisConn);
        assert!(
            !moves_bytes || self.closed.is_none(),
            "{message:?} after the DisConn"
        );
        if carries {
            let is_asked_for = self.owed >= parsed.payload.len() as u32;
            assert!(
                self.lent.is_empty() || is_asked_for || message != Message::Data,
                "payload behind a SrcAvail"
            );
            // Only what belongs to an urgent byte, or stands behind it, has to go by Data (B-80).
            let could_write = message == Message::Data && !self.marked && !self.sinks.is_empty();
            assert!(!could_write, "copies what it could write");
            self.owed = self.owed.saturating_sub(parsed.payload.len() as u32);
            if self.sinks.pop_front().is_none() {
                self.discards = self.discards.wrapping_add(1);
            }
        }
        if let Some(mseq) = self.ending.filter(|_| message != Message::SendSm) {
            let hold = mseq.wrapping_sub(parsed.base.mseq_ack);
            assert!(
                hold > 0 && hold < 1 << 16,
                "acknowledges a cancel too early"
            );
        }
        match message {
            Message::DisConn => {
                assert!(self.lent.is_empty(), "the end behind a SrcAvail");
                self.closed = Some(self.sent);
            }
            Message::ModeChange(half @ Half::Receive, to) => {
                assert!(may_change(half, self.send_mode, to), "changes to {to:?}");
                assert_eq!(self.left, None, "changes again before the peer has it");
                assert!(to != Mode::Buffered || self.lent.is_empty(), "too early");
                if to == Mode::Combined {
                    self.left = Some((self.sent, self.discards));
                    self.sinks.clear();
                }
                self.send_mode = to;
            }
            Message::ModeChange(half @ Half::Send, to) => {
                assert!(may_change(half, self.receive_mode, to), "changes to {to:?}");
                self.receive_mode = to;
            }
            Message::SrcAvail(region) => {
                let fits = match self.send_mode {
                    Mode::Buffered => false,
                    Mode::Combined => carries && self.lent.is_empty(),
                    Mode::Pipelined => !carries,
                };
                assert!(fits, "a SrcAvail in {:?} mode", self.send_mode);
                assert!(
                    self.sinks.is_empty(),
                    "a SrcAvail though there is a SinkAvail"
                );
                assert_eq!(self.cancelled, None, "a SrcAvail during its cancel");
                self.lent
                    .push_back((region.len - parsed.payload.len() as u32, self.sent));
                assert!(self.lent.len() + self.offers.len() <= MAX_ADVERTS);
            }
            Message::SrcAvailCancel => {
                assert!(!self.lent.is_empty(), "takes nothing back");
                self.cancelled = Some(self.sent);
            }
            Message::RdmaRdCompl(len) => {
                let left = self.borrowed.front_mut().expect("read nothing");
                *left = left.checked_sub(len).expect("read more than there is");
                if *left == 0 {
                    self.borrowed.pop_front();
                }
            }
            Message::SendSm => {
                let left = self.borrowed.pop_front().expect("asks for nothing");
                if self.ending.is_some() {
                    self.borrowed.clear();
                } else {
                    self.due = self.due.saturating_add(left);
                }
            }
            Message::RdmaWrCompl(len) => {
                let most = self.sinks.pop_front().expect("writes to nothing");
                assert!(len > 0 && len <= most, "writes {len} to {most}");
            }
            Message::SinkCancelAck => {
                assert!(self.owes_ack, "answers what was not asked");
                self.owes_ack = false;
                self.ack = Some(self.sent);
            }
            Message::SinkAvail(region, _) => {
                assert!(self.receive_mode == Mode::Pipelined && !self.takes_back);
                self.offers.push_back((region.len, self.sent));
                assert!(self.lent.len() + self.offers.len() <= MAX_ADVERTS);
            }
            Message::SinkAvailCancel => {
                assert!(!self.offers.is_empty(), "takes nothing back");
                self.takes_back = true;
            }
            Message::ChRcvBuf(wish) => {
                let once = self.asks.is_none() && self.asked.is_none();
                assert!(once, "asks for buffers twice");
                self.asks = Some(wish);
            }
            Message::ChRcvBufAck(size) => {
                let wish = self.asked.take().expect("answers what was not asked");
                if size == self.own_size {
                    self.refused[0] |= wish > size;
                    self.refused[1] |= wish < size;
                }
                self.own_size = size;
            }
            Message::SuspComm(_) => {
                let idle = self.lent.is_empty()
                    && self.borrowed.is_empty()
                    && self.offers.is_empty()
                    && self.reading.is_empty();
                assert!(idle, "moves in the middle of a transfer");
                self.moves = true;
                self.silent = true;
            }
            Message::SuspCommAck => {
                assert!(self.moved, "answers what was not asked");
                self.silent = true;
            }
            _ => {}
        }
        self.ending = self.ending.filter(|_| !self.borrowed.is_empty());
    }

    /// A message like this one that goes just too far.
    fn spoil(&self, message: Message) -> Message {
        let beyond =
            |left: Option<&(u32, u32)>, len| left.map_or(len, |&(left, _)| left.wrapping_add(1));
        match message {
            Message::RdmaRdCompl(len) => Message::RdmaRdCompl(beyond(self.lent.front(), len)),
            Message::RdmaWrCompl(len) => Message::RdmaWrCompl(beyond(self.offers.front(), len)),
            Message::SinkAvail(region, count) => {
                Message::SinkAvail(region, self.discards.wrapping_add(count))
            }
            Message::ChRcvBufAck(size) => match self.asks {
                Some(wish) => Message::ChRcvBufAck(wish.wrapping_sub(1)),
                None => Message::ChRcvBufAck(size),
            },
            _ => message,
        }
    }

    /// A message like this one that may be legal.
    fn mend(&self, message: Message, payload: usize) -> (Message, usize) {
        match message {
            Message::RdmaRdCompl(len) => {
                let most = self.lent.front().map_or(len, |&(left, _)| left);
                (Message::RdmaRdCompl(len.clamp(1, most.max(1))), 0)
            }
            Message::RdmaWrCompl(len) => {
                let most = self.offers.front().map_or(len, |&(most, _)| most);
                (Message::RdmaWrCompl(len.clamp(1, most.max(1))), 0)
            }
            Message::SinkAvail(region, count) => {
                let count = self.discards.saturating_sub(count / 2);
                let region = Region {
                    len: region.len.max(self.peer_size.saturating_add(1)),
                    ..region
                };
                (Message::SinkAvail(region, count), 0)
            }
            Message::SrcAvail(region) => match self.receive_mode {
                Mode::Pipelined => (message, 0),
                _ => (message, payload.clamp(1, region.len.max(1) as usize)),
            },
            Message::Data if self.is_behind(payload) => (message, 0),
            Message::Data => (message, payload),
            Message::ChRcvBufAck(size) => match self.asks {
                Some(wish) if size % 4 > 0 => (Message::ChRcvBufAck(wish), 0),
                _ => (Message::ChRcvBufAck(self.peer_size), 0),
            },
            _ => (message, 0),
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Bytes(bytes) => self.receive(bytes),
            Step::Message(message, flags, payload, differences) => {
                let (message, payload) = match differences.insists {
                    true => (self.spoil(*message), *payload),
                    false => self.mend(*message, *payload),
                };
                let unseen = differences.unseen.min(self.sent.wrapping_sub(self.acked));
                let unseen = unseen.wrapping_add(differences.back);
                // CAST: some messages.
                let bufs = differences.bufs.saturating_add(unseen as u16);
                let base = Base {
                    flags: *flags,
                    bufs: bufs.saturating_sub(differences.short),
                    mseq: self.received.wrapping_add(1).wrapping_add(differences.mseq),
                    mseq_ack: self.sent.wrapping_sub(unseen),
                };
                let len = payload as u32 + differences.len;
                let mut bytes = Header::new(base, message, len).as_bytes().to_vec();
                bytes.resize(bytes.len() + payload, 0x55);
                if let Some((at, value)) = differences.garbled {
                    let at = at % bytes.len();
                    bytes[at] = value;
                }
                if differences.insists || !self.is_illegal(&bytes) {
                    self.receive(&bytes);
                }
            }
            Step::Act(act, n) => self.act(*act, *n),
        }
        self.drain();
        let finished = [
            std::iter::from_fn(|| self.machine.finished()).count(),
            std::iter::from_fn(|| self.machine.offer_finished()).count(),
        ];
        let events = self.machine.take_events();
        let is_told = events.contains(Events::FINISHED) || matches!(step, Step::Act(..));
        assert!(finished == [0, 0] || is_told, "finished unheard");
    }

    /// The fabric drops the connection. The end is orderly if both ends had closed, or the machine
    /// was told that it may move (B-72, B-83).
    pub(crate) fn disconnect(&mut self) {
        let is_moved = self.silent && !self.moved;
        let is_closed = self.closed.is_some() && self.peer_closed;
        self.machine.disconnected();
        assert_eq!(self.machine.state(), State::Closed);
        assert!(self.machine.poll_transmit().is_none());
        let is_orderly = is_moved || is_closed;
        assert!(
            is_orderly || self.machine.aborted().is_some(),
            "cut, and does not say so"
        );
    }
}
