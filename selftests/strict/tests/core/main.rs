// SPDX-License-Identifier: GPL-2.0

//! The protocol core against the strict peer, which makes random legal steps, and at last an
//! illegal one. `SDP_SEEDS=n` runs so many seeds, `SDP_SEED=n` only that one, and tells its story.

mod socket;

use sdp_proto::{
    AbortReason,
    Config,
    Mode,
    Side,
    State, //
};
use sdp_strict::{
    raw::Hello,
    Action,
    Illegal,
    Offer,
    Outcome,
    Peer,
    Random,
    Window, //
};
use socket::{
    told,
    Socket,
    Work, //
};
use std::{
    cell::RefCell,
    collections::{
        BTreeMap,
        BTreeSet,
        VecDeque, //
    },
    panic::{
        catch_unwind,
        AssertUnwindSafe, //
    },
};

const WINDOW_ADDR: u64 = 0x7000_0000_0003;
const WINDOW_KEY: u32 = 0xabcd;

/// Memory that an advertisement can name is as long as this over 16.
const WINDOW: usize = 16 * 4096;

struct World {
    core: Socket,
    strict: Peer,
    window: Vec<u8>,
    queue: VecDeque<Action>,
    random: Random,
    /// RDMA Reads that the core may have in flight (B-4a).
    most_reads: usize,
    now: u64,
    trace: bool,
    /// The identifiers of the messages that the core sent, and the strict peer.
    seen: [BTreeSet<u8>; 2],
    /// An end has begun to close or to move.
    ends: bool,
    /// The fabric is gone before it says that the core's last message arrived.
    drops_early: bool,
}

/// The window as the strict peer has it.
macro_rules! window {
    ($world:expr) => {
        &mut Window {
            addr: WINDOW_ADDR,
            key: WINDOW_KEY,
            bytes: &mut $world.window,
        }
    };
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed ^ 0x57a1c7);
        let offer = |random: &mut Random| Offer {
            max_adverts: 1 + random.below(9) as u16,
            ord: 1 + random.below(4) as u16,
            ird: 1 + random.below(4) as u16,
            recv_size: random.pick(&[37, 53, 64, 100, 300, 1000]),
            recv_depth: random.pick(&[4, 5, 6, 8, 16, 64]),
        };
        let (own, mut other) = (offer(&mut random), offer(&mut random));
        let side = random.pick(&[Side::Connecting, Side::Accepting]);
        let keys = [seed, !seed];
        let mut core = Socket::new(
            Config {
                side,
                max_adverts: other.max_adverts,
                ord: other.ord,
                ird: other.ird,
                recv_size: other.recv_size,
                recv_depth: other.recv_depth,
                send_size: random.pick(&[37, 64, 100, 1000]),
                desired_remote: 100,
            },
            [keys[1], keys[0]],
        );
        core.trace = trace;
        let machine = &mut core.machine;
        machine.set_movable(true);
        machine.set_zero_copy(random.below(4) > 0);
        machine.set_resizable(random.below(2) > 0);
        machine.set_pipeline_hint(random.below(2) > 0);
        machine.want_mode(random.pick(&[
            Mode::Combined,
            Mode::Pipelined,
            Mode::Pipelined,
            Mode::Buffered,
        ]));
        let iwarp = random.one_in(3);
        if iwarp {
            machine.set_initiator_first();
        }
        let hello = Hello {
            version: 0x11,
            bufs: own.recv_depth,
            max_adverts: own.max_adverts,
            desired: 100,
            recv_size: own.recv_size,
            ord: own.ord,
            ird: own.ird,
        };
        let theirs = match side {
            Side::Connecting => {
                let theirs = machine.hello().to_vec();
                machine.hello_ack_received(&hello.ack_to_bytes()).unwrap();
                theirs
            }
            Side::Accepting => {
                let theirs = machine.hello_received(&hello.to_bytes()).unwrap().to_vec();
                machine.established();
                theirs
            }
        };
        let theirs = Hello::parse(&theirs).expect("a Hello that is none");
        other.max_adverts = theirs.max_adverts;
        let said = Offer {
            max_adverts: theirs.max_adverts,
            ord: theirs.ord,
            ird: theirs.ird,
            recv_size: theirs.recv_size,
            recv_depth: theirs.bufs,
        };
        assert_eq!(said, other);
        let strict = Peer::new(sdp_strict::Config {
            side: match side {
                Side::Connecting => sdp_strict::Side::Accepting,
                Side::Accepting => sdp_strict::Side::Connecting,
            },
            initiator_first: iwarp,
            own,
            peer: other,
            send_size: random.pick(&[37, 64, 100, 1000]),
            size_max: random.pick(&[own.recv_size, 1200]),
            rdma_max: random.pick(&[100, 1 << 20]),
            keys,
        });
        Self {
            core,
            strict,
            window: vec![0; WINDOW],
            queue: VecDeque::new(),
            most_reads: other.ord.min(own.ird).into(),
            random,
            now: 0,
            trace,
            seen: Default::default(),
            ends: false,
            drops_early: seed % 2 > 0,
        }
    }

    /// Queues what the strict peer does. False when it does nothing.
    fn plays(&mut self, action: Option<Action>) -> bool {
        match action {
            None => return false,
            Some(Action::Repost) => {}
            Some(action) => {
                if self.trace {
                    match &action {
                        Action::Send(bytes) => println!("strict: sends {}", told(bytes)),
                        Action::Write(to, data, bytes) => {
                            println!("strict: writes {} to {to:?}, {}", data.len(), told(bytes));
                        }
                        action => println!("strict: {action:?}"),
                    }
                }
                self.queue.push_back(action);
            }
        }
        true
    }

    /// What the strict peer sent reaches the core.
    fn deliver_to_core(&mut self) -> Result<bool, String> {
        let message = match self.queue.pop_front() {
            None | Some(Action::Repost) => return Ok(false),
            Some(Action::Read(region)) => {
                let memory = self.core.memory(region.key, region.addr, region.len)?;
                let bytes = memory.to_vec();
                self.strict.read_done(&bytes).map_err(|e| e.to_string())?;
                return Ok(true);
            }
            Some(Action::Send(message)) => message,
            Some(Action::Write(to, data, message)) => {
                self.core
                    .memory(to.key, to.addr, to.len)?
                    .copy_from_slice(&data);
                message
            }
        };
        self.seen[1].insert(message[0]);
        match self.core.receive(&message)? {
            None => Ok(true),
            Some(violation) => Err(format!("the core refuses: {violation}")),
        }
    }

    /// What the core sent reaches the strict peer.
    fn deliver_to_strict(&mut self) -> Result<bool, String> {
        match self.core.queue.pop_front() {
            None => return Ok(false),
            Some(Work::Probe) => {}
            Some(Work::Send(tag, message, solicited)) => {
                self.seen[0].insert(message[0]);
                self.strict
                    .receive(&message, window!(self))
                    .map_err(|violation| {
                        format!("the core breaks {violation}, by {}", told(&message))
                    })?;
                if Peer::wants_solicited(&message) && !solicited {
                    return Err("the core breaks B-82: not solicited".into());
                }
                self.core.completions.push_back(tag);
            }
            Some(Work::Write(region, bytes)) => {
                let region = ours(region);
                self.strict.writes(region).map_err(|e| e.to_string())?;
                window!(self).at(region).copy_from_slice(&bytes);
            }
            Some(Work::Read(region)) => {
                let region = ours(region);
                let others = self.core.queue.iter();
                let reads = others.filter(|work| matches!(work, Work::Read(_))).count();
                if reads >= self.most_reads {
                    return Err("the core breaks B-4a: too many reads".into());
                }
                self.strict.reads(region).map_err(|e| e.to_string())?;
                let bytes = window!(self).at(region).to_vec();
                self.core.read_done(&bytes)?;
            }
        }
        Ok(true)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(10) {
            0..3 => {
                let action = self.strict.legal(&mut self.random, window!(self));
                self.plays(action);
            }
            3 => {
                self.deliver_to_core()?;
            }
            4 => {
                self.deliver_to_strict()?;
            }
            5 => {
                self.core.poll();
            }
            6 => {
                self.core.complete();
                self.core.repost();
            }
            7 if self.random.one_in(10) => {
                self.now += self.random.below(300_000_000);
                self.core.expire(self.now)?;
            }
            _ => self.core.act(&mut self.random)?,
        }
        self.check()
    }

    fn check(&mut self) -> Result<(), String> {
        self.core.reap()?;
        match self.core.machine.aborted() {
            None => Ok(()),
            Some(reason) => Err(format!("the core aborts: {reason:?}")),
        }
    }

    /// Both do what they owe each other, until nobody has anything to say.
    fn settle(&mut self, reading: bool) -> Result<(), String> {
        for _ in 0..100_000 {
            let mut active = self.deliver_to_strict()?;
            let action = self.strict.duty(window!(self));
            active |= self.plays(action);
            active |= self.deliver_to_core()?;
            active |= reading && self.core.consume(1000, false)?;
            active |= self.core.poll();
            active |= !(self.drops_early && self.strict.is_over()) && self.core.complete();
            active |= self.core.repost() | self.core.grant(false);
            self.check()?;
            if active {
                continue;
            }
            self.check_silence()?;
            match self.core.machine.deadline() {
                None => return Ok(()),
                Some(at) => self.now = self.now.max(at),
            }
            self.core.expire(self.now)?;
        }
        Err("never falls silent".into())
    }

    /// B-19, when nobody has anything to say.
    fn check_silence(&self) -> Result<(), String> {
        let (known, own) = (self.strict.credit(), self.strict.told().0);
        let news = self.core.posted.len() as i64 > known;
        let hungry = (known == 0 && own >= 1) || (known == 1 && own >= 3);
        if news && hungry && self.core.machine.state() != State::Disconnecting {
            return Err("the core breaks B-19: gives no credit".into());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.settle(false)?;
        self.settle(true)?;
        self.core.machine.cancel_offers();
        while let Some(action) = self.strict.withdraw(window!(self)) {
            self.plays(Some(action));
        }
        self.settle(true)?;
        if !self.strict.is_settled() {
            return Err(format!("left open: {:#?}", self.strict));
        }
        match self.random.below(10) {
            0 | 1 => return self.move_away(),
            2 => return self.abort(),
            _ => {}
        }
        self.core.machine.shutdown_send();
        let action = self.strict.close(window!(self));
        if !self.plays(action) {
            return Err("the strict peer cannot close".into());
        }
        self.settle(true)?;
        let [sent, received] = self.strict.bytes();
        if sent != self.core.read || received != self.core.written {
            return Err(format!(
                "{sent} bytes sent, {} read; {} written, {received} came",
                self.core.read, self.core.written
            ));
        }
        if !self.strict.peer_closed() {
            return Err("the core does not close".into());
        }
        self.gone()
    }

    /// One asks the other to connect again, or both do.
    fn move_away(&mut self) -> Result<(), String> {
        let who = self.random.below(3);
        if who != 0 && !self.core.machine.suspend(7) {
            return Err("the core does not move".into());
        }
        if who != 1 {
            let action = self.strict.suspend(7, window!(self));
            if !self.plays(action) {
                return Err("the strict peer cannot move".into());
            }
        }
        self.settle(true)?;
        if !self.strict.is_over() {
            return Err("nobody moves".into());
        }
        self.gone()
    }

    /// One ends its stream, and then aborts (B-71, B-72).
    fn abort(&mut self) -> Result<(), String> {
        let reason = if self.random.one_in(2) {
            self.core.machine.shutdown_send();
            self.settle(true)?;
            self.core.machine.abort();
            while self.core.poll() || self.deliver_to_strict()? || self.core.complete() {}
            AbortReason::Local
        } else {
            let action = self.strict.close(window!(self));
            self.plays(action);
            self.settle(true)?;
            let action = self.strict.abort(window!(self));
            if !self.plays(action) || !self.deliver_to_core()? {
                return Err("the strict peer cannot abort".into());
            }
            AbortReason::PeerAborted
        };
        let (state, aborted) = (self.core.machine.state(), self.core.machine.aborted());
        match state == State::Disconnecting && aborted == Some(reason) && self.strict.is_over() {
            true => Ok(()),
            false => Err(format!(
                "an abort leaves the core in {state}, by {aborted:?}"
            )),
        }
    }

    /// The fabric drops the connection: both knew it.
    fn gone(&mut self) -> Result<(), String> {
        let knows = self.drops_early || self.core.machine.state() == State::Disconnecting;
        if !knows || !self.strict.is_over() {
            return Err(format!("ends in {}", self.core.machine.state()));
        }
        self.core.gone = true;
        self.core.machine.disconnected();
        self.check()?;
        if !self.core.buffers.is_empty() || !self.core.offers.is_empty() {
            return Err("buffers never came back".into());
        }
        Ok(())
    }

    /// All that was sent arrives, and the core says what it has to say.
    fn exchange(&mut self) -> Result<(), String> {
        while self.deliver_to_core()? {}
        while self.core.poll() || self.deliver_to_strict()? || self.core.complete() {}
        self.check()
    }

    /// One end begins to close or to move.
    fn begin_to_end(&mut self) -> Result<(), String> {
        let way = self.random.below(12);
        self.ends = way < 6;
        let action = match way {
            0 | 1 => self.strict.close(window!(self)),
            2 => self.strict.suspend(7, window!(self)),
            3 | 4 => {
                self.core.machine.shutdown_send();
                None
            }
            5 => {
                self.core.machine.suspend(7);
                None
            }
            _ => None,
        };
        self.plays(action);
        self.exchange()
    }

    /// One illegal step, when the core has said all it has to say: what was done.
    fn break_a_rule(&mut self) -> Result<Option<(Illegal, Option<String>)>, String> {
        self.exchange()?;
        self.begin_to_end()?;
        if self.strict.is_over() || self.core.posted.is_empty() {
            return Ok(None);
        }
        let Some(illegal) = self.strict.illegal(&mut self.random, window!(self)) else {
            return Ok(None);
        };
        if illegal.bytes.len() > self.core.posted[0] {
            return Ok(None);
        }
        if self.trace {
            println!(
                "strict: breaks {:?} by {}",
                illegal.rules,
                told(&illegal.bytes)
            );
        }
        let cited = self.core.receive(&illegal.bytes)?;
        match (&cited, illegal.outcome) {
            (None, Outcome::Ends) => {
                // AbortConn and data after a shutdown end it without a citation.
                if self.core.machine.aborted() != Some(AbortReason::PeerAborted) {
                    return Err(format!(
                        "the core lets {:?} pass: {}",
                        illegal.rules,
                        told(&illegal.bytes)
                    ));
                }
            }
            (Some(cited), Outcome::Ignored) => {
                return Err(format!(
                    "the core refuses {:?} by {cited}: {}",
                    illegal.rules,
                    told(&illegal.bytes)
                ));
            }
            (Some(cited), _) => {
                // B-59a is a part of B-59 to the core.
                let is_cited = |rule: &&str| {
                    let rule = rule.trim_end_matches(|c: char| c.is_ascii_lowercase());
                    cited.split(':').next() == Some(rule)
                };
                if !illegal.rules.iter().any(is_cited) {
                    return Err(format!(
                        "the core refuses {:?} by {cited}: {}",
                        illegal.rules,
                        told(&illegal.bytes)
                    ));
                }
            }
            (None, _) => {}
        }
        Ok(Some((illegal, cited)))
    }
}

fn ours(region: sdp_proto::Region) -> sdp_strict::Region {
    sdp_strict::Region {
        len: region.len,
        key: region.rkey,
        addr: region.va,
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: not a number")),
    )
}

/// Runs `run` for each seed, and tells the story of the first that fails.
fn each_seed(count: u64, run: impl Fn(&mut World, u64) -> Result<(), String>) {
    let seeds = match (number("SDP_SEED"), number("SDP_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, asked) => 0..asked.unwrap_or(count),
    };
    for seed in seeds {
        let play = |trace| {
            let mut world = World::new(seed, trace);
            let steps = 20 + world.random.below(600);
            run(&mut world, steps)
        };
        let result = catch_unwind(AssertUnwindSafe(|| play(false)));
        if !matches!(result, Ok(Ok(()))) {
            match play(true) {
                Ok(()) => panic!("SDP_SEED={seed}: fails only sometimes"),
                Err(error) => panic!("SDP_SEED={seed}: {error}"),
            }
        }
    }
}

#[test]
fn legal_steps_are_taken_and_answered() {
    let seen = RefCell::new([BTreeSet::new(), BTreeSet::new()]);
    each_seed(1500, |world, steps| {
        for step in 0..steps {
            world
                .step()
                .map_err(|error| format!("step {step}: {error}"))?;
        }
        world.finish()?;
        for (all, seen) in seen.borrow_mut().iter_mut().zip(&world.seen) {
            all.extend(seen);
        }
        Ok(())
    });
    if number("SDP_SEED").is_none() {
        let all: BTreeSet<u8> = (0x02..=0x0e).chain(0xfd..=0xff).collect();
        let [core, strict] = seen.into_inner();
        assert_eq!(core, all, "what the core sent");
        assert_eq!(strict, all, "what the strict peer sent");
    }
}

/// Data is legal, but not for a user who shut the receive half down (B-73).
#[test]
fn data_after_a_shutdown_ends_the_connection() {
    each_seed(200, |world, steps| {
        for _ in 0..steps {
            world.step()?;
        }
        world.exchange()?;
        world.core.machine.shutdown_receive();
        for _ in 0..1000 {
            let before = world.strict.bytes()[0];
            let action = world.strict.legal(&mut world.random, window!(world));
            let moved = world.strict.bytes()[0] - before;
            let Some(Action::Send(message) | Action::Write(_, _, message)) = action else {
                world.plays(action);
                world.exchange()?;
                continue;
            };
            let advertises = Peer::advertises(&message);
            if moved == 0 && !advertises {
                world.queue.push_back(Action::Send(message));
                world.exchange()?;
                continue;
            }
            return match world.core.receive(&message)? {
                Some(cited) if cited.starts_with("B-73") => Ok(()),
                other => Err(format!("the core takes {} as {other:?}", told(&message))),
            };
        }
        Ok(())
    });
}

#[test]
fn illegal_steps_end_the_connection_by_the_rule_that_they_break() {
    let seen = RefCell::new(BTreeMap::new());
    each_seed(1500, |world, steps| {
        for step in 0..steps {
            world
                .step()
                .map_err(|error| format!("step {step}: {error}"))?;
        }
        let Some((illegal, cited)) = world.break_a_rule()? else {
            return Ok(());
        };
        let key = cited.unwrap_or_else(|| format!("nothing: {:?}", illegal.rules));
        *seen.borrow_mut().entry(key).or_insert(0) += 1;
        if illegal.outcome == Outcome::Ignored && !world.ends {
            return world.finish();
        }
        Ok(())
    });
    for (cited, times) in seen.borrow().iter() {
        println!("{times:5} {cited}");
    }
}
