// SPDX-License-Identifier: GPL-2.0

//! Two machines over a reliable ordered link, driven by an adversary: it decides who acts next,
//! what users do, when the fabric delivers and completes, and when buffers come back. An onlooker
//! holds every message against the rules for credit, sizes and urgent bytes. In some runs one user
//! never reads, or never writes, and none is made to push, or to read, when it is judged whether a
//! run goes on.
//!
//! A run is a list of numbers, each of which is one decision, so that a failing run can be cut down
//! to the decisions that matter. `SDP_SEEDS=n` runs so many seeds, `SDP_SEED=n` only that one, and
//! `SDP_SHRINK=0` leaves it as it is.

mod random;

use random::Random;
use sdp_proto::{
    wire::{
        Half,
        Message,
        Parsed, //
    },
    AbortReason,
    BufferId,
    Config,
    Events,
    Machine,
    Mode,
    Region,
    SendTag,
    Side,
    Source,
    State,
    Transmit, //
};
use std::collections::{
    BTreeMap,
    BTreeSet,
    VecDeque, //
};

/// A work request in a send queue.
enum Work {
    /// Whether the connection's state waits for it, too.
    Send(SendTag, Vec<u8>, bool),
    Write(Region, Vec<u8>),
    Read(Region),
    Probe,
}

/// What a user put into its stream.
enum Piece {
    Copied(Vec<u8>),
    Buffer(BufferId, Vec<u8>),
}

/// What came and was not read by the user.
enum Arrived {
    Message(Vec<u8>),
    Written(Vec<u8>),
}

struct End {
    machine: Machine,
    /// What the user does at all.
    reads: bool,
    writes: bool,
    /// The next byte of the pattern that this user writes.
    pattern: u64,
    stream: Vec<Piece>,
    /// Copied bytes that no message took, and where they stand in the pattern.
    copied: VecDeque<(u64, u8)>,
    /// Send buffers that the peer or the fabric may touch, and receive buffers that were offered.
    buffers: BTreeMap<u32, (BufferId, Vec<u8>)>,
    offers: BTreeMap<u32, (BufferId, Vec<u8>)>,
    /// Send buffers that were taken back.
    withdrawn: Vec<BufferId>,
    next_key: u32,

    queue: VecDeque<Work>,
    completions: VecDeque<(SendTag, bool)>,
    /// The buffers that messages read whose sends have not completed, for each message.
    reading: VecDeque<Option<BufferId>>,
    /// The sizes of the receive buffers that stand posted, and the number of those that wait to be
    /// posted again.
    posted: VecDeque<usize>,
    free: u32,
    /// Bytes of buffers that are posted from now on, and of those that the peer was told of.
    size: u32,
    told_size: u32,
    wire: Wire,

    arrived: VecDeque<Arrived>,
    /// Message bytes that the user read.
    consumed: u64,
    read: Vec<u8>,
    events: Events,
    /// The bytes that were marked urgent, and those that went as such; the last byte that went.
    urgent: BTreeSet<u64>,
    urgent_sent: BTreeSet<u64>,
    taken: Option<u64>,
    announced: u32,
    urgent_seen: u32,
    /// What was seen of them when memory was offered.
    offered_at: BTreeMap<u32, u32>,
    messages: u64,
    /// RDMA Writes to the peer's memory.
    written: u64,
    /// A message came, and the fabric is gone.
    heard: bool,
    gone: bool,
    /// A SendSm went.
    asked: bool,
    /// Where to tell what happens.
    trace: Option<&'static str>,
}

/// What an onlooker counts of the messages of one end.
struct Wire {
    /// What the end may do: the smaller MaxAdverts of both ends, and RDMA Reads in flight.
    max_adverts: u16,
    most_reads: usize,
    /// Messages sent, and what the peer said last of them and of its buffers.
    sent: u32,
    acked: u32,
    bufs: u16,
    /// The number of the last message that the peer was told to have a buffer for.
    told: u32,
    /// Stream bytes that went, in messages or by RDMA, and how many had gone when an urgent byte
    /// was announced.
    moved: u64,
    announced_at: Option<u64>,
    /// Bytes of the peer's receive buffers, and those wished for and not answered.
    connecting: bool,
    peer_size: u32,
    wish: Option<u32>,
    /// The message by which the send half left Pipelined mode, until the peer has it.
    mode: Mode,
    leaving: Option<u32>,
    /// The peer was asked to move, or told that it may.
    moves: bool,
}

/// The most bytes from an announcement to the urgent byte (`B-77`).
const URGENT_DISTANCE: u64 = 65535;

impl Wire {
    fn new(own: Config, peer: Config) -> Wire {
        Wire {
            max_adverts: own.max_adverts.min(peer.max_adverts),
            most_reads: own.ord.min(peer.ird).into(),
            sent: 0,
            acked: 0,
            bufs: peer.recv_depth,
            told: own.recv_depth.into(),
            moved: 0,
            announced_at: None,
            connecting: own.side == Side::Connecting,
            peer_size: peer.recv_size,
            wish: None,
            mode: Mode::Combined,
            leaving: None,
            moves: false,
        }
    }

    /// `B-14`.
    fn credit(&self) -> i64 {
        i64::from(self.bufs) - i64::from(self.sent.wrapping_sub(self.acked))
    }

    fn sends(&mut self, transmit: &Transmit, parsed: &Parsed) {
        let base = parsed.base;
        let credit = self.credit();
        let told = base.mseq_ack.wrapping_add(base.bufs.into());
        assert_eq!(base.mseq, self.sent + 1);
        assert!(told.wrapping_sub(self.told) < 1 << 16, "takes credit back");
        assert!(credit >= 1, "sends without credit");
        assert!(
            credit >= 2 || told != self.told,
            "the last credit for nothing"
        );
        assert!(transmit.payload == 0 || credit >= 3, "payload on {credit}");
        assert!(
            self.max_adverts > 1 || !matches!(parsed.message, Message::ModeChange(..)),
            "leaves Combined mode with one advertisement"
        );
        assert!(!self.moves, "{:?} before a move", parsed.message);
        match parsed.message {
            Message::ModeChange(Half::Receive, mode) => {
                assert_eq!(self.leaving, None, "changes before the peer has left");
                if self.mode == Mode::Pipelined {
                    self.leaving = Some(base.mseq);
                }
                self.mode = mode;
            }
            Message::SuspComm(_) | Message::SuspCommAck => self.moves = true,
            _ => {}
        }
        self.sent = base.mseq;
        self.told = told;
        // A smaller size counts as soon as it was wished for (B-64).
        let size = self
            .wish
            .map_or(self.peer_size, |wish| wish.min(self.peer_size));
        let len = transmit.header.as_bytes().len() as u32 + transmit.payload;
        assert!(len <= size, "{len} bytes to buffers of {size}");
        if let Message::ChRcvBuf(wish) = parsed.message {
            assert_eq!(self.wish, None, "a second wish");
            self.wish = Some(wish);
        }

        if base.flags.urgent_pending {
            assert_eq!(self.announced_at, None, "announced twice");
            self.announced_at = Some(self.moved);
        }
        let written = transmit.write.map_or(0, |region| region.len);
        self.moved += u64::from(transmit.payload + written);
        if base.flags.urgent {
            let at = self.announced_at.take().expect("not announced");
            let most = URGENT_DISTANCE.max(transmit.payload.into());
            assert!(self.moved - at <= most, "announced too early");
        }
        assert!(transmit.solicited || !(base.flags.urgent || base.flags.urgent_pending));
    }

    fn gets(&mut self, parsed: &Parsed) {
        self.acked = parsed.base.mseq_ack;
        self.bufs = parsed.base.bufs;
        self.leaving = self.leaving.filter(|&mseq| self.acked < mseq);
        match parsed.message {
            Message::ModeChange(Half::Send, mode) => self.mode = mode,
            Message::RdmaRdCompl(len) => self.moved += u64::from(len),
            Message::ChRcvBufAck(size) => {
                self.peer_size = size;
                self.wish = None;
            }
            // The accepting end ignores what crossed its own (B-66).
            Message::ChRcvBuf(_) if self.connecting => self.wish = None,
            _ => {}
        }
    }
}

const SLOTS: usize = 16;

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    WriteLong,
    Write,
    SendBuffer,
    OfferBuffer,
    Withdraw,
    CancelOffers,
    Push,
    Cork,
    NoDelay,
    Mode,
    Shut,
    AskResize,
    Grant,
    Urgent,
    Time,
    Read,
    Repost,
    Deliver,
    Complete,
    Poll,
}

/// The actions by their weights.
const ACTIONS: [(u64, Action); 20] = [
    (1, Action::WriteLong),
    (9, Action::Write),
    (5, Action::SendBuffer),
    (3, Action::OfferBuffer),
    (1, Action::Withdraw),
    (1, Action::CancelOffers),
    (1, Action::Push),
    (1, Action::Cork),
    (1, Action::NoDelay),
    (1, Action::Mode),
    (1, Action::Shut),
    (1, Action::AskResize),
    (1, Action::Grant),
    (1, Action::Urgent),
    (1, Action::Time),
    (16, Action::Read),
    (10, Action::Repost),
    (15, Action::Deliver),
    (10, Action::Complete),
    (20, Action::Poll),
];

impl Action {
    fn writes(self) -> bool {
        use Action::*;
        matches!(self, WriteLong | Write | SendBuffer | Urgent)
    }

    fn reads(self) -> bool {
        matches!(self, Action::OfferBuffer | Action::Read)
    }

    fn is_users(self) -> bool {
        use Action::*;
        !matches!(self, Repost | Deliver | Complete | Poll)
    }

    /// The weights of one run: in some an action is frequent, or rare, or left out, for what comes
    /// of it is not seen where everything happens in its turn.
    fn weights(random: &mut Random) -> Vec<(u64, Action)> {
        let weight = |(weight, action): (u64, Action)| {
            let factor = match random.below(6) {
                0 if action.is_users() => 0,
                0 | 1 => 1,
                _ if action == Action::WriteLong => 1,
                2..=4 => 4,
                _ => 16,
            };
            (weight * factor, action)
        };
        ACTIONS.map(weight).into()
    }
}

impl End {
    fn new(config: Config, peer: Config) -> End {
        End {
            machine: Machine::new(config).unwrap(),
            reads: true,
            writes: true,
            pattern: 0,
            stream: Vec::new(),
            copied: VecDeque::new(),
            buffers: BTreeMap::new(),
            offers: BTreeMap::new(),
            withdrawn: Vec::new(),
            next_key: 1,
            queue: VecDeque::new(),
            completions: VecDeque::new(),
            reading: VecDeque::new(),
            posted: vec![config.recv_size as usize; config.recv_depth.into()].into(),
            free: 0,
            size: config.recv_size,
            told_size: config.recv_size,
            wire: Wire::new(config, peer),
            arrived: VecDeque::new(),
            consumed: 0,
            read: Vec::new(),
            events: Events::default(),
            urgent: BTreeSet::new(),
            urgent_sent: BTreeSet::new(),
            taken: None,
            announced: 0,
            urgent_seen: 0,
            offered_at: BTreeMap::new(),
            messages: 0,
            written: 0,
            heard: false,
            gone: false,
            asked: false,
            trace: None,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(name) = self.trace {
            println!("{name}: {}", what());
        }
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let start = self.pattern;
        self.pattern += n as u64;
        (start..self.pattern)
            .map(|i| (Random(i).next() & 0xff) as u8)
            .collect()
    }

    fn write(&mut self, n: usize, push: bool) {
        if !self.machine.can_write() {
            return;
        }
        let start = self.pattern;
        let bytes = self.bytes(n);
        self.copied.extend((start..).zip(bytes.iter().copied()));
        self.stream.push(Piece::Copied(bytes));
        self.machine.write(n);
        if push {
            self.machine.push();
        }
    }

    fn region(&mut self, len: usize) -> Region {
        let rkey = self.next_key;
        self.next_key += 1;
        // Any alignment, and a base that shows when somebody forgets it.
        Region {
            len: len as u32,
            rkey,
            va: 0x1000 * u64::from(rkey) + 3,
        }
    }

    fn send_buffer(&mut self, len: usize) {
        let region = self.region(len);
        if let Some(id) = self.machine.send_buffer(region) {
            let bytes = self.bytes(len);
            self.stream.push(Piece::Buffer(id, bytes.clone()));
            self.buffers.insert(region.rkey, (id, bytes));
        }
    }

    /// Takes back one of the buffers, and those behind it.
    fn withdraw(&mut self, n: usize) {
        let ids: Vec<_> = self.buffers.values().map(|(id, _)| *id).collect();
        if !ids.is_empty() {
            let from = ids[n % ids.len()];
            self.machine.withdraw_send(from);
            for piece in self.stream.iter().rev() {
                match piece {
                    Piece::Buffer(id, _) => self.withdrawn.push(*id),
                    // Buffers before bytes that are to go are sent as well.
                    Piece::Copied(_) => break,
                }
                if self.withdrawn.last() == Some(&from) {
                    break;
                }
            }
        }
    }

    /// Waits no longer for the peer to fetch its buffers, and may take back the last.
    fn cancel_send(&mut self, withdraw: bool) {
        self.machine.cancel_send(withdraw);
        if let (true, Some(Piece::Buffer(id, _))) = (withdraw, self.stream.last()) {
            self.withdrawn.push(*id);
        }
    }

    fn offer_buffer(&mut self, len: usize) {
        let region = self.region(len);
        if let Some(id) = self.machine.offer_buffer(region) {
            self.offers.insert(region.rkey, (id, vec![0; len]));
        }
    }

    /// Takes back what is finished.
    fn reap(&mut self) {
        let events = self.machine.take_events();
        self.events |= events;
        if events.contains(Events::NUDGE) {
            assert!(!self.heard, "nudges a peer that was heard");
            self.queue.push_back(Work::Probe);
        }
        while let Some(finished) = self.machine.finished() {
            assert!(events.contains(Events::FINISHED), "finished unheard");
            let is_read = self.reading.contains(&Some(finished.id));
            assert!(!is_read || self.gone, "finished while a message reads it");
            let key = *self
                .buffers
                .iter()
                .find(|(_, (id, _))| *id == finished.id)
                .expect("finished twice")
                .0;
            self.buffers.remove(&key);
            for piece in &mut self.stream {
                match piece {
                    Piece::Buffer(id, bytes) if *id == finished.id => {
                        bytes.truncate(finished.bytes as usize)
                    }
                    _ => {}
                }
            }
        }
        while let Some(finished) = self.machine.offer_finished() {
            let key = *self
                .offers
                .iter()
                .find(|(_, (id, _))| *id == finished.id)
                .expect("offer finished twice")
                .0;
            let (_, mut bytes) = self.offers.remove(&key).unwrap();
            bytes.truncate(finished.bytes as usize);
            if !bytes.is_empty() {
                self.arrived.push_back(Arrived::Written(bytes));
            }
        }
    }

    fn take(&mut self, source: Source, n: usize) -> Vec<u8> {
        match source {
            Source::Stream => {
                let bytes = self.copied.drain(..n);
                bytes
                    .map(|(at, byte)| {
                        self.taken = Some(at);
                        byte
                    })
                    .collect()
            }
            Source::Buffer(id, offset) => {
                let (_, bytes) = self
                    .buffers
                    .values()
                    .find(|(other, _)| *other == id)
                    .expect("sends from a finished buffer");
                bytes[offset as usize..offset as usize + n].to_vec()
            }
        }
    }

    fn post(&mut self, transmit: Transmit) {
        if let Source::Buffer(id, _) = transmit.source {
            assert!(!self.withdrawn.contains(&id), "sends what was taken back");
        }
        if let Some(region) = transmit.write {
            let bytes = self.take(transmit.source, region.len as usize);
            self.written += 1;
            self.queue.push_back(Work::Write(region, bytes));
        }
        let mut message = transmit.header.as_bytes().to_vec();
        if transmit.payload > 0 {
            let bytes = self.take(transmit.source, transmit.payload as usize);
            message.extend(bytes);
        }
        let parsed = sdp_proto::wire::parse(&message).expect("sends what it would not take");
        self.wire.sends(&transmit, &parsed);
        self.announced += u32::from(parsed.base.flags.urgent_pending);
        if parsed.base.flags.urgent {
            let at = self.taken.expect("an urgent byte of a buffer");
            assert!(self.urgent.contains(&at), "a byte is urgent that is not");
            self.urgent_sent.insert(at);
        }
        match parsed.message {
            Message::SinkAvail(region, _) => {
                self.offered_at.insert(region.rkey, self.urgent_seen);
            }
            Message::ChRcvBufAck(size) => self.told_size = size,
            Message::SendSm => self.asked = true,
            _ => {}
        }
        self.messages += 1;
        self.tell(|| format!("sends {:?} payload {}", parsed.message, transmit.payload));
        let ends = matches!(
            parsed.message,
            Message::DisConn | Message::AbortConn | Message::SuspCommAck
        );
        self.queue
            .push_back(Work::Send(transmit.tag, message, ends));
        let reads = transmit.payload > 0 || transmit.write.is_some();
        self.reading.push_back(match transmit.source {
            Source::Buffer(id, _) if reads => Some(id),
            _ => None,
        });
    }

    /// Time passes: something is due then only if the machine has asked for it.
    fn expire(&mut self, now: u64) -> Result<(), String> {
        self.reap();
        let (due, state) = (self.machine.deadline(), self.machine.state());
        self.machine.expired(now);
        let events = self.machine.take_events();
        let is_idle = events.is_empty() && self.machine.state() == state;
        if events.contains(Events::NUDGE) {
            assert!(!self.heard, "nudges a peer that was heard");
            self.queue.push_back(Work::Probe);
        }
        match is_idle || due.is_some_and(|at| at <= now) {
            true => Ok(()),
            false => Err("does by chance what no timer was set for".into()),
        }
    }

    fn poll(&mut self) -> bool {
        if self.queue.len() + self.completions.len() >= SLOTS {
            return false;
        }
        match self.machine.poll_transmit() {
            Some(transmit) => {
                self.post(transmit);
                true
            }
            None => false,
        }
    }

    fn complete(&mut self) -> bool {
        match self.completions.pop_front() {
            Some((tag, ends)) => {
                let state = self.machine.state();
                self.reading.pop_front();
                self.machine.sent(tag);
                assert!(ends || self.machine.state() == state, "ends {state} early");
                true
            }
            None => false,
        }
    }

    fn repost(&mut self) -> bool {
        if self.free == 0 {
            return false;
        }
        self.free -= 1;
        self.posted.push_back(self.size as usize);
        self.machine.posted(1);
        true
    }

    fn repost_all(&mut self) -> bool {
        let mut any = false;
        while self.repost() {
            any = true;
        }
        any
    }

    /// The user grants or refuses what the peer wishes of its receive buffers. Larger ones are
    /// posted from now on, and told of when the smaller are used up (`B-64`).
    fn grant(&mut self, refuse: bool) -> bool {
        match self.machine.resize_wish() {
            Some(_) if refuse && self.size == self.told_size => {}
            Some(wish) if wish > self.told_size => {
                self.size = self.size.max(wish);
                let size = self.size as usize;
                if self.posted.iter().any(|posted| *posted < size) {
                    return false;
                }
            }
            Some(wish) => self.size = wish,
            None => return false,
        }
        assert!(self.machine.resized(self.size));
        true
    }

    /// The user reads up to `n` bytes, or starts to fetch them.
    fn read(&mut self, n: usize, decline: bool) -> bool {
        let before = match self.machine.readable() {
            Some(readable) if readable.after == self.consumed && self.next_is_message() => {
                if readable.region.len == 0 {
                    return false;
                }
                if decline {
                    self.machine.decline();
                    return true;
                }
                let Some(region) = self.machine.start_read(n as u32) else {
                    assert!(!self.machine.may_read());
                    return false;
                };
                let in_flight = self.queue.iter().filter(|w| matches!(w, Work::Read(_)));
                assert!(in_flight.count() < self.wire.most_reads, "too many reads");
                self.queue.push_back(Work::Read(region));
                return true;
            }
            Some(readable) => (readable.after - self.consumed) as usize,
            None => usize::MAX,
        };
        match self.arrived.pop_front() {
            Some(Arrived::Written(bytes)) => self.read.extend(bytes),
            Some(Arrived::Message(mut bytes)) => {
                let rest = bytes.split_off(n.min(before).min(bytes.len()));
                self.consumed += bytes.len() as u64;
                self.read.extend(bytes);
                if rest.is_empty() {
                    self.free += 1;
                } else {
                    self.arrived.push_front(Arrived::Message(rest));
                }
            }
            None => return false,
        }
        true
    }

    fn next_is_message(&self) -> bool {
        !matches!(self.arrived.front(), Some(Arrived::Written(_)))
    }

    fn receive(&mut self, message: &[u8]) -> Result<(), String> {
        let Some(size) = self.posted.pop_front() else {
            return Err("message without a receive buffer".into());
        };
        if message.len() > size {
            return Err(format!("{} bytes to a buffer of {size}", message.len()));
        }
        self.tell(|| {
            format!(
                "gets {:?}",
                sdp_proto::wire::parse(message).map(|p| (p.message, p.base.mseq))
            )
        });
        let received = self
            .machine
            .received(message)
            .map_err(|violation| format!("violation: {violation}"))?;
        self.heard = true;
        self.wire
            .gets(&sdp_proto::wire::parse(message).expect("took nonsense"));
        if received.urgent {
            self.urgent_seen += 1;
        }
        if received.payload.is_empty() {
            self.free += 1;
        } else {
            self.reap();
            self.arrived
                .push_back(Arrived::Message(message[received.payload].to_vec()));
        }
        Ok(())
    }

    fn memory(
        map: &mut BTreeMap<u32, (BufferId, Vec<u8>)>,
        region: Region,
    ) -> Result<&mut [u8], String> {
        let (_, bytes) = map
            .get_mut(&region.rkey)
            .ok_or("key of finished memory used")?;
        let start = (region.va - (0x1000 * u64::from(region.rkey) + 3)) as usize;
        bytes
            .get_mut(start..start + region.len as usize)
            .ok_or("outside the advertised memory".into())
    }

    /// The stream as it was written.
    fn sent(&self) -> Vec<u8> {
        self.stream
            .iter()
            .flat_map(|piece| match piece {
                Piece::Copied(bytes) | Piece::Buffer(_, bytes) => bytes.iter().copied(),
            })
            .collect()
    }
}

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Move,
    Abort,
}

struct World {
    ends: [End; 2],
    actions: Vec<(u64, Action)>,
    /// What the connecting end sends before that is not seen until something comes behind it
    /// (`B-9a`).
    awake_at: u64,
    unseen: Vec<Vec<u8>>,
    now: u64,
    /// The fabric lets an end send before it posts the buffers that came back.
    posts_late: bool,
    /// The fabric is gone before it says that the last message arrived.
    drops_early: bool,
    ending: Ending,
    moving: bool,
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let mut random = Random(seed);
        let config = |side, random: &mut Random| {
            let depths = [4, 5, 6, 8, 16, 64];
            let sizes = [37, 53, 64, 100, 300, 1000];
            Config {
                side,
                max_adverts: 1 + random.below(9) as u16,
                ord: 1 + random.below(4) as u16,
                ird: 1 + random.below(4) as u16,
                recv_size: sizes[random.below(6) as usize],
                recv_depth: depths[random.below(6) as usize],
                send_size: sizes[random.below(6) as usize],
                desired_remote: 100,
            }
        };
        let configs = [
            config(Side::Connecting, &mut random),
            config(Side::Accepting, &mut random),
        ];
        let mut a = End::new(configs[0], configs[1]);
        let mut b = End::new(configs[1], configs[0]);
        match random.below(8) {
            0 => a.reads = false,
            1 => b.reads = false,
            2 => a.writes = false,
            3 => b.writes = false,
            _ => {}
        }
        for end in [&mut a, &mut b] {
            end.machine.set_movable(true);
            end.machine.set_zero_copy(random.below(4) > 0);
            end.machine.set_resizable(random.below(2) > 0);
            end.machine.set_pipeline_hint(random.below(2) > 0);
            let modes = [
                Mode::Combined,
                Mode::Pipelined,
                Mode::Pipelined,
                Mode::Buffered,
            ];
            end.machine.want_mode(modes[random.below(4) as usize]);
        }
        if trace {
            a.trace = Some("a");
            b.trace = Some("b");
        }
        let iwarp = random.below(3) == 0;
        if iwarp {
            a.machine.set_initiator_first();
            b.machine.set_initiator_first();
        }
        let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
        a.machine.hello_ack_received(&ack).unwrap();
        if random.below(2) > 0 {
            b.machine.established();
        }
        World {
            ends: [a, b],
            posts_late: Random(!seed).below(2) > 0,
            drops_early: Random(!seed).below(8) < 4,
            actions: Action::weights(&mut random),
            awake_at: match iwarp && random.below(2) > 0 {
                true => random.below(3_000_000_000),
                false => 0,
            },
            unseen: Vec::new(),
            now: 0,
            ending: match random.below(4) {
                0 => Ending::Abort,
                1 => Ending::Move,
                _ => Ending::Close,
            },
            moving: false,
        }
    }

    /// The fabric takes the next work request of one end.
    fn deliver(&mut self, from: usize) -> Result<bool, String> {
        let [a, b] = &mut self.ends;
        let connecting = from == 0;
        let (from, to) = if connecting { (a, b) } else { (b, a) };
        match from.queue.pop_front() {
            None => return Ok(false),
            Some(Work::Probe) if self.now < self.awake_at => {}
            Some(Work::Probe) => {
                for message in self.unseen.drain(..) {
                    to.receive(&message)?;
                }
            }
            Some(Work::Send(tag, message, ends)) if connecting && self.now < self.awake_at => {
                self.unseen.push(message);
                from.completions.push_back((tag, ends));
            }
            Some(Work::Send(tag, message, ends)) => {
                if connecting {
                    for unseen in self.unseen.drain(..) {
                        to.receive(&unseen)?;
                    }
                }
                to.receive(&message)?;
                from.completions.push_back((tag, ends));
            }
            Some(Work::Write(region, bytes)) => {
                if to.offered_at.get(&region.rkey) != Some(&to.urgent_seen) {
                    return Err("writes behind an urgent byte to what was offered before".into());
                }
                End::memory(&mut to.offers, region)?.copy_from_slice(&bytes);
            }
            Some(Work::Read(region)) => {
                let bytes = End::memory(&mut to.buffers, region)?.to_vec();
                from.machine.read_done(region.len);
                from.read.extend(bytes);
            }
        }
        Ok(true)
    }

    fn step(&mut self, decision: u64) -> Result<(), String> {
        let mut random = Random(decision);
        let side = random.below(2) as usize;
        let n = match random.below(4) {
            0 => 1,
            1 => 1 + random.below(20),
            2 => 1 + random.below(200),
            _ => 1 + random.below(3000),
        } as usize;
        let long = match random.below(40) {
            0 => 60_000 + random.below(20_000) as usize,
            _ => n,
        };
        let action = random.pick(&self.actions);
        let end = &mut self.ends[side];
        if !end.writes && action.writes() || !end.reads && action.reads() {
            return self.check();
        }
        if action.is_users() {
            end.tell(|| format!("user action {action:?} with {n}"));
        }
        match action {
            Action::WriteLong => end.write(long, random.below(4) > 0),
            Action::Write => end.write(n, random.below(4) > 0),
            Action::SendBuffer => end.send_buffer(long),
            Action::OfferBuffer => end.offer_buffer(n),
            Action::Withdraw => match random.below(3) {
                0 => end.withdraw(n),
                withdraw => end.cancel_send(withdraw > 1),
            },
            Action::CancelOffers => end.machine.cancel_offers(),
            Action::Push => end.machine.push(),
            Action::Cork => end.machine.set_cork(random.below(2) > 0),
            Action::NoDelay => end.machine.set_nodelay(random.below(2) > 0),
            Action::Mode => {
                let mode = [Mode::Buffered, Mode::Combined, Mode::Pipelined];
                end.machine.want_mode(mode[random.below(3) as usize]);
            }
            Action::Shut if random.below(40) == 0 => end.machine.shutdown_send(),
            Action::Shut => end.machine.want_combined(),
            Action::AskResize => {
                end.machine.ask_resize(37 + random.below(1000) as u32);
            }
            Action::Grant => {
                end.grant(random.below(4) == 0);
            }
            Action::Urgent => {
                if let Some(&(at, _)) = end.copied.back() {
                    end.machine.mark_urgent();
                    end.urgent.insert(at);
                }
            }
            Action::Time => {
                self.now += random.below(300_000_000);
                end.expire(self.now)?;
            }
            Action::Read => {
                end.read(n, random.below(8) == 0);
            }
            Action::Repost => {
                end.repost();
            }
            Action::Deliver => {
                self.deliver(side)?;
            }
            Action::Complete => {
                end.complete();
            }
            Action::Poll => {
                end.poll();
            }
        }
        self.check()
    }

    /// What holds after every step.
    fn check(&mut self) -> Result<(), String> {
        for end in &mut self.ends {
            end.reap();
            if let Some(reason) = end.machine.aborted() {
                return Err(format!("aborted: {reason:?}"));
            }
            if end.machine.unsent() != end.copied.len() {
                return Err("lost count of unsent bytes".into());
            }
        }
        Ok(())
    }

    /// Runs on, with users that do no more than read, if they do, until nothing happens any more,
    /// or until one end is to drop the connection and the other has said its last word.
    fn settle(&mut self, reading: bool) -> Result<(), String> {
        self.ends[1].machine.established();
        for _ in 0..100_000 {
            let mut active = false;
            let is_over = |end: &End| end.machine.state() == State::Disconnecting;
            let is_over = self.ends.iter().any(is_over);
            for side in 0..2 {
                if !self.posts_late {
                    active |= self.ends[side].repost_all();
                }
                active |= self.ends[side].poll();
                active |= self.deliver(side)?;
                let end = &mut self.ends[side];
                if self.posts_late {
                    active |= end.repost_all();
                }
                let is_last = end.completions.front().is_some_and(|&(_, ends)| ends);
                let is_lost = self.drops_early && is_over && is_last;
                active |= !is_lost && end.complete();
                active |= reading && end.reads && end.read(1000, false);
                active |= end.grant(false);
                self.check()?;
            }
            if active {
                continue;
            }
            self.check_silence()?;
            let [a, b] = &self.ends;
            match a
                .machine
                .deadline()
                .into_iter()
                .chain(b.machine.deadline())
                .min()
            {
                None => return Ok(()),
                Some(at) => self.now = self.now.max(at),
            }
            for end in &mut self.ends {
                end.expire(self.now)?;
            }
        }
        Err("never falls silent".into())
    }

    /// What holds when nobody has anything to say.
    fn check_silence(&self) -> Result<(), String> {
        let [a, b] = &self.ends;
        let open = |end: &End| {
            matches!(
                end.machine.state(),
                State::Established
                    | State::DisConnSent
                    | State::DisConnDone
                    | State::DisConnReceived
                    | State::Closing
            )
        };
        if !open(a) || !open(b) || self.moving || self.now < self.awake_at {
            return Ok(());
        }
        for (end, peer) in [(a, b), (b, a)] {
            let (own, known) = (peer.wire.credit(), end.wire.credit());
            let news = peer.posted.len() as i64 > known;
            // B-19
            if news && ((known == 0 && own >= 1) || (known == 1 && own >= 3)) {
                return Err(format!(
                    "has credit for {known}, and is not told of the rest of {}",
                    peer.posted.len()
                ));
            }
            let held = end.machine.deadline().is_some();
            let unsent = !end.copied.is_empty() && end.buffers.is_empty();
            if unsent && !held && known >= 3 {
                return Err("sends nothing, with credit for it".into());
            }
            let asks = end.wire.wish.is_some();
            if !asks && end.machine.peer_recv_size() != peer.told_size {
                return Err("does not know the size of the receive buffers".into());
            }
            // What was shrunk is used up (B-64), as far as there is credit for it.
            let growing = peer.size > peer.told_size;
            let larger = |size: &usize| *size > peer.told_size as usize;
            let done = end.machine.send_shut() || growing || known < 3;
            if !done && peer.posted.iter().any(larger) {
                return Err("keeps receive buffers of the former size".into());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.ending == Ending::Abort {
            return self.abort();
        }
        self.settle(false)?;
        self.settle(true)?;
        self.check_offers()?;
        self.check_probes()?;
        for end in &mut self.ends {
            end.machine.cancel_offers();
        }
        self.settle(true)?;
        for from in 0..2 {
            if !self.ends[1 - from].reads {
                self.take_back(from)?;
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            self.compare(from, to)?;
            self.write_last(from, to)?;
        }
        match self.ending {
            Ending::Move if self.ends.iter().all(|end| end.reads) => self.move_away(),
            _ => self.close(),
        }
    }

    /// A reader in Pipelined mode who waits has offered its memory (`B-46`), but for what the peer
    /// takes at a time, and for want of credit.
    fn check_offers(&self) -> Result<(), String> {
        for (end, peer) in [(0, 1), (1, 0)].map(|(a, b)| (&self.ends[a], &self.ends[b])) {
            let may = end.machine.receive_mode() == Mode::Pipelined
                && end.machine.state() == State::Established
                && end.machine.readable().is_none()
                && end.buffers.is_empty()
                && peer.buffers.is_empty()
                // Of what it asked for, it does not know whether it still comes.
                && !end.asked
                && end.wire.credit() >= 2;
            let is_out = |key: &&u32| end.offered_at.contains_key(key);
            let out = end.offers.keys().filter(is_out).count();
            let most = end.offers.len().min(end.wire.max_adverts.into());
            if may && out < most {
                return Err(format!("offers {out} of {} buffers", end.offers.len()));
            }
        }
        Ok(())
    }

    /// A peer that leaves something waiting is probed every 30 seconds (`B-76`).
    fn check_probes(&mut self) -> Result<(), String> {
        for end in &mut self.ends {
            let waits = end.machine.unsent() > 0 || end.machine.buffered() > 0;
            if !waits || !end.machine.can_write() {
                continue;
            }
            for _ in 0..3 {
                end.machine.probed();
                self.now += 30_000_000_000;
                end.machine.expired(self.now);
                if !end.machine.take_events().contains(Events::PROBE) {
                    return Err("leaves a peer unprobed".into());
                }
            }
        }
        Ok(())
    }

    /// What the peer does not read comes back all the same.
    fn take_back(&mut self, from: usize) -> Result<(), String> {
        let end = &mut self.ends[from];
        end.withdraw(0);
        self.settle(true)?;
        let end = &self.ends[from];
        match end.stream.last() {
            Some(Piece::Buffer(id, _)) if end.buffers.values().any(|(other, _)| other == id) => {
                Err("a buffer that was withdrawn never came back".into())
            }
            _ => Ok(()),
        }
    }

    /// Nothing is on its way any more that could use up a SinkAvail, so that none is stale,
    /// whatever went before (`B-49`): a source that has one, and knows that the peer has all of its
    /// urgent bytes, writes.
    fn write_last(&mut self, from: usize, to: usize) -> Result<(), String> {
        if self.ends.iter().any(|end| !end.reads) {
            return Ok(());
        }
        self.ends[to].machine.want_combined();
        self.settle(true)?;
        self.ends[from].machine.want_mode(Mode::Pipelined);
        self.settle(true)?;
        let sink = &mut self.ends[to];
        let key = sink.next_key;
        sink.offer_buffer(sink.size.max(sink.told_size) as usize + 1);
        self.settle(true)?;
        let is_out = self.ends[to].offered_at.contains_key(&key);
        let source = &mut self.ends[from];
        let may = source.wire.acked == source.wire.sent || source.urgent.is_empty();
        let written = source.written;
        source.write(1, true);
        self.settle(true)?;
        let source = &self.ends[from];
        let is_sent = source.machine.can_write() && source.copied.is_empty();
        if is_out && may && is_sent && source.written == written {
            return Err("copies what it could write".into());
        }
        self.ends[to].machine.cancel_offers();
        self.settle(true)?;
        self.compare(from, to)
    }

    /// Holds what was read against what was written.
    fn compare(&self, from: usize, to: usize) -> Result<(), String> {
        let (sender, receiver) = (&self.ends[from], &self.ends[to]);
        if !sender.offers.is_empty() {
            return Err("offers never came back".into());
        }
        if !receiver.reads {
            return Ok(());
        }
        let (sent, read) = (sender.sent(), &receiver.read);
        if sent != *read {
            let same = sent.iter().zip(read).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "end {from} sent {} bytes, end {to} read {}, the same up to {same}",
                sent.len(),
                read.len(),
            ));
        }
        if sender.announced != receiver.urgent_seen {
            return Err(format!(
                "{} urgent bytes announced, {} came",
                sender.announced, receiver.urgent_seen,
            ));
        }
        // One takes the place of another, but none that of the last (B-79).
        if sender.urgent.last() != sender.urgent_sent.last() {
            return Err("the last urgent byte did not go as one".into());
        }
        if !sender.buffers.is_empty() {
            return Err("buffers never came back".into());
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        for end in &mut self.ends {
            end.machine.shutdown_send();
        }
        self.settle(true)?;
        for (from, to) in [(0, 1), (1, 0)] {
            if self.ends[to].reads && !self.ends[to].machine.peer_closed() {
                return Err(format!("end {from} never ended its stream"));
            }
        }
        if self.ends.iter().all(|end| end.reads) {
            return self.gone(None);
        }
        match self.ends[0].machine.state() {
            State::Disconnecting => self.gone(None),
            _ => self.abort(),
        }
    }

    /// Both ends want to move; one of them does.
    fn move_away(&mut self) -> Result<(), String> {
        let [a, b] = &mut self.ends;
        if !a.machine.suspend(7) || !b.machine.suspend(7) {
            // They have closed already.
            return self.close();
        }
        self.moving = true;
        self.settle(true)?;
        if self
            .ends
            .iter()
            .all(|end| end.machine.resume_port() != Some(7))
        {
            return Err("nobody heard of the move".into());
        }
        self.gone(None)
    }

    /// One end gives up in the middle of whatever goes on.
    fn abort(&mut self) -> Result<(), String> {
        // Nothing is left to give up once both ends have closed.
        let is_over = self.ends[0].machine.state() == State::Disconnecting;
        self.ends[0].machine.abort();
        while self.ends[0].poll() || self.deliver(0)? || self.ends[0].complete() {}
        self.gone((!is_over).then_some(AbortReason::Local))
    }

    /// The fabric drops the connection, and everything comes back.
    fn gone(&mut self, aborted: Option<AbortReason>) -> Result<(), String> {
        let [a, b] = &mut self.ends;
        let states = [a.machine.state(), b.machine.state()];
        let known = match self.drops_early {
            true => states.contains(&State::Disconnecting),
            false => states[0] == State::Disconnecting,
        };
        if !known {
            return Err(format!("ends in {} and {}", states[0], states[1]));
        }
        for end in [&mut *a, &mut *b] {
            end.gone = true;
            end.machine.disconnected();
            end.reap();
            if end.machine.state() != State::Closed {
                return Err(format!("left in {}", end.machine.state()));
            }
            if !end.buffers.is_empty() || !end.offers.is_empty() {
                return Err("buffers never came back".into());
            }
        }
        let reasons = (a.machine.aborted(), b.machine.aborted());
        // Who has both DisConns need not hear of an abort that came after them.
        let is_closed = b.machine.send_shut() && b.machine.peer_closed();
        let heard = reasons.1.is_some() || (is_closed && aborted.is_some());
        if reasons.0 != aborted || heard != aborted.is_some() {
            return Err(format!("ended by {reasons:?}"));
        }
        Ok(())
    }
}

fn run(seed: u64, decisions: &[u64], trace: bool) -> Result<World, String> {
    std::panic::catch_unwind(|| run_to_panic(seed, decisions, trace))
        .unwrap_or_else(|_| Err("panic".into()))
}

fn run_to_panic(seed: u64, decisions: &[u64], trace: bool) -> Result<World, String> {
    let mut world = World::new(seed, trace);
    for (at, &decision) in decisions.iter().enumerate() {
        world
            .step(decision)
            .map_err(|error| format!("step {at}: {error}"))?;
    }
    let finished = world.finish();
    if finished.is_err() {
        for end in &world.ends {
            end.tell(|| {
                let (posted, free) = (end.posted.len(), end.free);
                format!("{posted} buffers posted, {free} free, {:#?}", end.machine)
            });
        }
    }
    finished?;
    Ok(world)
}

/// The fewest decisions, found by leaving out ever smaller parts, with which the run still fails.
fn shrink(seed: u64, mut decisions: Vec<u64>) -> Vec<u64> {
    let mut part = decisions.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < decisions.len() {
            let mut fewer = decisions.clone();
            fewer.drain(at..(at + part).min(fewer.len()));
            if run(seed, &fewer, false).is_err() {
                decisions = fewer;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    decisions
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: not a number")),
    )
}

#[test]
fn bytes_arrive_once_in_order_and_nothing_hangs() {
    let seeds = match (number("SDP_SEED"), number("SDP_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(500),
    };
    let mut totals = [0; 3];
    for seed in seeds {
        totals[0] += 1;
        let mut random = Random(seed ^ 0x5d9);
        let length = 20 + random.below(800);
        let decisions: Vec<u64> = (0..length).map(|_| random.next()).collect();
        match run(seed, &decisions, false) {
            Ok(world) => {
                for end in &world.ends {
                    totals[1] += end.messages;
                    totals[2] += end.read.len() as u64;
                }
            }
            Err(first) => {
                if number("SDP_SHRINK") == Some(0) {
                    panic!("SDP_SEED={seed}: {first}");
                }
                std::panic::set_hook(Box::new(|_| {}));
                let fewer = shrink(seed, decisions);
                let _ = std::panic::take_hook();
                let error = run(seed, &fewer, true).err().unwrap_or(first);
                panic!(
                    "SDP_SEED={seed}: {error}\n{} decisions: {fewer:#x?}",
                    fewer.len()
                );
            }
        }
    }
    let [seeds, messages, bytes] = totals;
    println!("{seeds} seeds, {messages} messages, {bytes} bytes");
}
