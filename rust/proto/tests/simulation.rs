// SPDX-License-Identifier: GPL-2.0

//! Two machines over a reliable ordered link, driven by an adversary: it decides who acts next,
//! what users do, when the fabric delivers and completes, and when buffers come back.
//!
//! A run is a list of numbers, each of which is one decision, so that a failing run can be cut down
//! to the decisions that matter. `SDP_SEEDS=n` runs so many seeds, `SDP_SEED=n` only that one.

use sdp_proto::{
    wire::Message,
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

/// The generator of decisions (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A work request in a send queue.
enum Work {
    Send(SendTag, Vec<u8>),
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
    /// The next byte of the pattern that this user writes.
    pattern: u64,
    stream: Vec<Piece>,
    /// Copied bytes that no message took.
    copied: VecDeque<u8>,
    /// Send buffers that the peer or the fabric may touch, and receive buffers that were offered.
    buffers: BTreeMap<u32, (BufferId, Vec<u8>)>,
    offers: BTreeMap<u32, (BufferId, Vec<u8>)>,
    next_key: u32,

    queue: VecDeque<Work>,
    completions: VecDeque<SendTag>,
    /// Receive buffers that stand posted, and those that wait to be posted again.
    posted: u32,
    free: u32,

    arrived: VecDeque<Arrived>,
    /// Message bytes that the user read.
    consumed: u64,
    read: Vec<u8>,
    events: Events,
    urgent: BTreeSet<u64>,
    announced: u32,
    urgent_seen: u32,
    /// What was seen of them when memory was offered.
    offered_at: BTreeMap<u32, u32>,
    messages: u64,
    /// Where to tell what happens.
    trace: Option<&'static str>,
}

const SLOTS: usize = 16;

impl End {
    fn new(config: Config) -> End {
        End {
            machine: Machine::new(config).unwrap(),
            pattern: 0,
            stream: Vec::new(),
            copied: VecDeque::new(),
            buffers: BTreeMap::new(),
            offers: BTreeMap::new(),
            next_key: 1,
            queue: VecDeque::new(),
            completions: VecDeque::new(),
            posted: u32::from(config.recv_depth),
            free: 0,
            arrived: VecDeque::new(),
            consumed: 0,
            read: Vec::new(),
            events: Events::default(),
            urgent: BTreeSet::new(),
            announced: 0,
            urgent_seen: 0,
            offered_at: BTreeMap::new(),
            messages: 0,
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
        let bytes = self.bytes(n);
        self.copied.extend(&bytes);
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
            self.queue.push_back(Work::Probe);
        }
        while let Some(finished) = self.machine.finished() {
            assert!(events.contains(Events::FINISHED), "finished unheard");
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
            Source::Stream => self.copied.drain(..n).collect(),
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
        if let Some(region) = transmit.write {
            let bytes = self.take(transmit.source, region.len as usize);
            self.queue.push_back(Work::Write(region, bytes));
        }
        let mut message = transmit.header.as_bytes().to_vec();
        if transmit.payload > 0 {
            let bytes = self.take(transmit.source, transmit.payload as usize);
            message.extend(bytes);
        }
        let parsed = sdp_proto::wire::parse(&message).expect("sends what it would not take");
        self.announced += u32::from(parsed.base.flags.urgent_pending);
        if let Message::SinkAvail(region, _) = parsed.message {
            self.offered_at.insert(region.rkey, self.urgent_seen);
        }
        self.messages += 1;
        self.tell(|| format!("sends {:?} payload {}", parsed.message, transmit.payload));
        self.queue.push_back(Work::Send(transmit.tag, message));
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
            Some(tag) => {
                self.machine.sent(tag);
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
        self.posted += 1;
        self.machine.posted(1);
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
        if self.posted == 0 {
            return Err("message without a receive buffer".into());
        }
        self.posted -= 1;
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
    /// What the connecting end sends before that is not seen until something comes behind it
    /// (`B-9a`).
    awake_at: u64,
    unseen: Vec<Vec<u8>>,
    now: u64,
    ending: Ending,
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
        let mut a = End::new(config(Side::Connecting, &mut random));
        let mut b = End::new(config(Side::Accepting, &mut random));
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
            Some(Work::Send(tag, message)) if connecting && self.now < self.awake_at => {
                self.unseen.push(message);
                from.completions.push_back(tag);
            }
            Some(Work::Send(tag, message)) => {
                if connecting {
                    for unseen in self.unseen.drain(..) {
                        to.receive(&unseen)?;
                    }
                }
                to.receive(&message)?;
                from.completions.push_back(tag);
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
        let end = &mut self.ends[side];
        let action = random.below(100);
        if action < 44 {
            end.tell(|| format!("user action {action} with {n}"));
        }
        match action {
            0..=9 => end.write(n, random.below(4) > 0),
            10..=14 => end.send_buffer(n),
            15..=17 => end.offer_buffer(n),
            18 => end.machine.cancel_send(random.below(2) > 0),
            19 => end.machine.cancel_offers(),
            20 => end.machine.push(),
            21 => end.machine.set_cork(random.below(2) > 0),
            22 => end.machine.set_nodelay(random.below(2) > 0),
            23 => {
                let mode = [Mode::Buffered, Mode::Combined, Mode::Pipelined];
                end.machine.want_mode(mode[random.below(3) as usize]);
            }
            24 if random.below(40) == 0 => end.machine.shutdown_send(),
            24 => end.machine.want_combined(),
            25 => {
                end.machine.ask_resize(37 + random.below(1000) as u32);
            }
            26 => {
                if let Some(wish) = end.machine.resize_wish() {
                    end.machine.resized(wish);
                }
            }
            27 => {
                if end.machine.unsent() > 0 {
                    end.machine.mark_urgent();
                    end.urgent.insert(end.pattern);
                }
            }
            28 => {
                self.now += random.below(300_000_000);
                end.machine.expired(self.now);
            }
            29..=44 => {
                end.read(n, random.below(8) == 0);
            }
            45..=54 => {
                end.repost();
            }
            55..=69 => {
                self.deliver(side)?;
            }
            70..=79 => {
                end.complete();
            }
            _ => {
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

    /// Runs on with users that only read, until nothing happens any more.
    fn settle(&mut self) -> Result<(), String> {
        self.ends[1].machine.established();
        for end in &mut self.ends {
            end.machine.set_cork(false);
            end.machine.push();
            end.machine.set_nodelay(true);
        }
        for _ in 0..100_000 {
            let mut active = false;
            for side in 0..2 {
                active |= self.ends[side].poll();
                active |= self.deliver(side)?;
                let end = &mut self.ends[side];
                active |= end.complete();
                active |= end.read(1000, false);
                while end.repost() {
                    active = true;
                }
                if let Some(wish) = end.machine.resize_wish() {
                    active |= end.machine.resized(wish);
                }
                self.check()?;
            }
            if active {
                continue;
            }
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
                end.machine.expired(self.now);
            }
        }
        Err("never falls silent".into())
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.ending == Ending::Abort {
            return self.abort();
        }
        self.settle()?;
        for end in &mut self.ends {
            end.machine.cancel_offers();
        }
        self.settle()?;
        for (from, to) in [(0, 1), (1, 0)] {
            let (sent, read) = (self.ends[from].sent(), &self.ends[to].read);
            if sent != *read {
                let same = sent.iter().zip(read).take_while(|(a, b)| a == b).count();
                return Err(format!(
                    "end {from} sent {} bytes, end {to} read {}, the same up to {same}",
                    sent.len(),
                    read.len(),
                ));
            }
            let (sender, receiver) = (&self.ends[from], &self.ends[to]);
            if sender.announced != receiver.urgent_seen {
                return Err(format!(
                    "{} urgent bytes announced, {} came",
                    sender.announced, receiver.urgent_seen,
                ));
            }
            if !sender.urgent.is_empty() && receiver.urgent_seen == 0 {
                return Err("urgent byte lost".into());
            }
            if !sender.buffers.is_empty() || !sender.offers.is_empty() {
                return Err("buffers never came back".into());
            }
        }
        match self.ending {
            Ending::Move => self.move_away(),
            _ => self.close(),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        for end in &mut self.ends {
            end.machine.shutdown_send();
        }
        self.settle()?;
        self.gone(None)
    }

    /// Both ends want to move; one of them does.
    fn move_away(&mut self) -> Result<(), String> {
        let [a, b] = &mut self.ends;
        if !a.machine.suspend(7) || !b.machine.suspend(7) {
            // They have closed already.
            return self.close();
        }
        self.settle()?;
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
        self.ends[0].machine.abort();
        while self.ends[0].poll() || self.deliver(0)? || self.ends[0].complete() {}
        self.gone(Some(AbortReason::Local))
    }

    /// The fabric drops the connection, and everything comes back.
    fn gone(&mut self, aborted: Option<AbortReason>) -> Result<(), String> {
        let [a, b] = &mut self.ends;
        if a.machine.state() != State::Disconnecting {
            return Err(format!("ends in {}", a.machine.state()));
        }
        for end in [&mut *a, &mut *b] {
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
        if reasons.0 != aborted || reasons.1.is_some() != aborted.is_some() {
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
                let (posted, free) = (end.posted, end.free);
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
