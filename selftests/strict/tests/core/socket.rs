// SPDX-License-Identifier: GPL-2.0

//! The core with a user and a fabric: what a socket is to it.

use sdp_proto::{
    BufferId,
    Config,
    Events,
    Machine,
    Mode,
    Region,
    SendTag,
    Source,
    Transmit, //
};
use sdp_strict::{
    pattern,
    Random, //
};
use std::collections::{
    BTreeMap,
    VecDeque, //
};

/// A work request in the send queue.
pub(crate) enum Work {
    /// A message, and whether it is solicited.
    Send(SendTag, Vec<u8>, bool),
    Write(Region, Vec<u8>),
    Read(Region),
    Probe,
}

/// What came and was not read by the user.
enum Arrived {
    Message(Vec<u8>),
    Written(Vec<u8>),
}

pub(crate) struct Socket {
    pub(crate) machine: Machine,
    keys: [u64; 2],
    /// Bytes that the user wrote, and those that it read.
    pub(crate) written: u64,
    pub(crate) read: u64,
    /// The user took buffers back, and writes nothing until it knows how much of them went.
    withdrawing: bool,
    copied: VecDeque<u8>,
    /// Send buffers, with their places in the stream, and receive buffers, by key.
    pub(crate) buffers: BTreeMap<u32, (BufferId, u64, Vec<u8>)>,
    pub(crate) offers: BTreeMap<u32, (BufferId, Vec<u8>)>,
    next_key: u32,

    pub(crate) queue: VecDeque<Work>,
    pub(crate) completions: VecDeque<SendTag>,
    /// The buffers that messages read whose sends have not completed, for each message.
    reading: VecDeque<Option<BufferId>>,
    /// A message came, and the fabric is gone.
    heard: bool,
    pub(crate) gone: bool,
    /// Sizes of the receive buffers that stand posted.
    pub(crate) posted: VecDeque<usize>,
    pub(crate) free: u32,
    size: u32,
    pub(crate) told_size: u32,

    arrived: VecDeque<Arrived>,
    consumed: u64,
    pub(crate) urgent: u32,
    pub(crate) trace: bool,
}

const SLOTS: usize = 16;

impl Socket {
    pub(crate) fn new(config: Config, keys: [u64; 2]) -> Self {
        Self {
            machine: Machine::new(config).unwrap(),
            keys,
            written: 0,
            read: 0,
            withdrawing: false,
            copied: VecDeque::new(),
            buffers: BTreeMap::new(),
            offers: BTreeMap::new(),
            next_key: 1,
            queue: VecDeque::new(),
            completions: VecDeque::new(),
            reading: VecDeque::new(),
            heard: false,
            gone: false,
            posted: vec![config.recv_size as usize; config.recv_depth.into()].into(),
            free: 0,
            size: config.recv_size,
            told_size: config.recv_size,
            arrived: VecDeque::new(),
            consumed: 0,
            urgent: 0,
            trace: false,
        }
    }

    /// The next bytes of the stream that the user writes.
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        if self.trace {
            println!("core: writes {n} at {}", self.written);
        }
        let bytes = pattern(self.keys[0], self.written, n);
        self.written += n as u64;
        bytes
    }

    fn write(&mut self, n: usize, push: bool) {
        if self.machine.can_write() && !self.withdrawing {
            let bytes = self.bytes(n);
            self.copied.extend(&bytes);
            self.machine.write(n);
            if push {
                self.machine.push();
            }
        }
    }

    fn region(&mut self, len: usize) -> Region {
        let rkey = self.next_key;
        self.next_key += 1;
        Region {
            len: len as u32,
            rkey,
            va: base(rkey),
        }
    }

    fn send_buffer(&mut self, len: usize) {
        let region = self.region(len);
        if self.withdrawing {
            return;
        }
        if let Some(id) = self.machine.send_buffer(region) {
            let at = self.written;
            let bytes = self.bytes(len);
            self.buffers.insert(region.rkey, (id, at, bytes));
        }
    }

    fn offer_buffer(&mut self, len: usize) {
        let region = self.region(len);
        if let Some(id) = self.machine.offer_buffer(region) {
            self.offers.insert(region.rkey, (id, vec![0; len]));
        }
    }

    pub(crate) fn withdraw(&mut self, n: usize) {
        let ids: Vec<_> = self.buffers.values().map(|(id, ..)| *id).collect();
        if !ids.is_empty() {
            self.withdrawing = true;
            self.machine.withdraw_send(ids[n % ids.len()]);
        }
    }

    /// Takes back what is finished.
    pub(crate) fn reap(&mut self) -> Result<(), String> {
        let events = self.machine.take_events();
        if events.contains(Events::NUDGE) {
            if self.heard {
                return Err("a peer that was heard is nudged".into());
            }
            self.queue.push_back(Work::Probe);
        }
        while let Some(finished) = self.machine.finished() {
            if !events.contains(Events::FINISHED) {
                return Err("a buffer finished unheard".into());
            }
            if self.reading.contains(&Some(finished.id)) && !self.gone {
                return Err("a buffer finished while a message reads it".into());
            }
            let found = self.buffers.iter().find(|(_, (id, ..))| *id == finished.id);
            let key = *found.ok_or("a buffer finished twice")?.0;
            let (_, at, bytes) = self.buffers.remove(&key).unwrap();
            if self.trace {
                println!(
                    "core: {} of the {} bytes at {at} went",
                    finished.bytes,
                    bytes.len()
                );
            }
            if (finished.bytes as usize) < bytes.len() {
                if !self.withdrawing {
                    return Err("a buffer finished short".into());
                }
                self.written = self.written.min(at + u64::from(finished.bytes));
            }
        }
        self.withdrawing &= !self.buffers.is_empty();
        while let Some(finished) = self.machine.offer_finished() {
            let found = self.offers.iter().find(|(_, (id, _))| *id == finished.id);
            let key = *found.ok_or("an offer finished twice")?.0;
            let (_, mut bytes) = self.offers.remove(&key).unwrap();
            bytes.truncate(finished.bytes as usize);
            if !bytes.is_empty() {
                self.arrived.push_back(Arrived::Written(bytes));
            }
        }
        Ok(())
    }

    fn take(&mut self, source: Source, n: usize) -> Vec<u8> {
        match source {
            Source::Stream => self.copied.drain(..n).collect(),
            Source::Buffer(id, offset) => {
                let found = self.buffers.values().find(|(other, ..)| *other == id);
                let (_, _, bytes) = found.expect("sends from a finished buffer");
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
        if transmit.header.mid() == sdp_strict::raw::mid::CH_RCV_BUF_ACK {
            self.told_size = self.size;
        }
        if self.trace {
            println!("core: sends {}", told(&message));
        }
        self.queue
            .push_back(Work::Send(transmit.tag, message, transmit.solicited));
        let reads = transmit.payload > 0 || transmit.write.is_some();
        self.reading.push_back(match transmit.source {
            Source::Buffer(id, _) if reads => Some(id),
            _ => None,
        });
    }

    pub(crate) fn poll(&mut self) -> bool {
        if self.queue.len() + self.completions.len() >= SLOTS {
            return false;
        }
        let transmit = self.machine.poll_transmit();
        transmit.map(|transmit| self.post(transmit)).is_some()
    }

    pub(crate) fn complete(&mut self) -> bool {
        let Some(tag) = self.completions.pop_front() else {
            return false;
        };
        self.reading.pop_front();
        self.machine.sent(tag);
        true
    }

    pub(crate) fn repost(&mut self) -> bool {
        if self.free == 0 {
            return false;
        }
        self.free -= 1;
        self.posted.push_back(self.size as usize);
        self.machine.posted(1);
        true
    }

    /// Time passes: something is due then only if the machine has asked for it.
    pub(crate) fn expire(&mut self, now: u64) -> Result<(), String> {
        self.reap()?;
        let (due, state) = (self.machine.deadline(), self.machine.state());
        self.machine.expired(now);
        let is_due = due.is_some_and(|at| at <= now) || self.machine.state() == state;
        self.reap()?;
        match is_due {
            true => Ok(()),
            false => Err("the core does by chance what no timer was set for".into()),
        }
    }

    /// Grants or refuses what the peer wishes of the receive buffers.
    pub(crate) fn grant(&mut self, refuse: bool) -> bool {
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

    fn reads(&mut self, bytes: &[u8]) -> Result<(), String> {
        if *bytes != *pattern(self.keys[1], self.read, bytes.len()) {
            return Err(format!("{} bytes out of their place", bytes.len()));
        }
        self.read += bytes.len() as u64;
        Ok(())
    }

    /// The user reads up to `n` bytes, or starts to fetch them.
    pub(crate) fn consume(&mut self, n: usize, decline: bool) -> Result<bool, String> {
        let next_is_message = !matches!(self.arrived.front(), Some(Arrived::Written(_)));
        let before = match self.machine.readable() {
            Some(readable) if readable.after == self.consumed && next_is_message => {
                if readable.region.len == 0 {
                    return Ok(false);
                }
                if decline {
                    self.machine.decline();
                    return Ok(true);
                }
                let Some(region) = self.machine.start_read(n as u32) else {
                    return Ok(false);
                };
                self.queue.push_back(Work::Read(region));
                return Ok(true);
            }
            Some(readable) => (readable.after - self.consumed) as usize,
            None => usize::MAX,
        };
        match self.arrived.pop_front() {
            Some(Arrived::Written(bytes)) => self.reads(&bytes)?,
            Some(Arrived::Message(mut bytes)) => {
                let rest = bytes.split_off(n.min(before).min(bytes.len()));
                self.consumed += bytes.len() as u64;
                self.reads(&bytes)?;
                if rest.is_empty() {
                    self.free += 1;
                } else {
                    self.arrived.push_front(Arrived::Message(rest));
                }
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// A message came: the rule that it is refused by, if it is.
    pub(crate) fn receive(&mut self, message: &[u8]) -> Result<Option<String>, String> {
        let size = self.posted.pop_front().ok_or("no receive buffer")?;
        if message.len() > size {
            return Err(format!("{} bytes to a buffer of {size}", message.len()));
        }
        if self.trace {
            println!("core: gets {}", told(message));
        }
        let received = match self.machine.received(message) {
            Ok(received) => received,
            Err(violation) => return Ok(Some(violation.to_string())),
        };
        self.heard = true;
        self.urgent += u32::from(received.urgent);
        if received.payload.is_empty() {
            self.free += 1;
        } else {
            self.reap()?;
            let payload = message[received.payload].to_vec();
            self.arrived.push_back(Arrived::Message(payload));
        }
        Ok(None)
    }

    /// The memory that the peer names.
    pub(crate) fn memory(&mut self, rkey: u32, va: u64, len: u32) -> Result<&mut [u8], String> {
        let bytes = match (self.buffers.get_mut(&rkey), self.offers.get_mut(&rkey)) {
            (Some((_, _, bytes)), _) | (_, Some((_, bytes))) => bytes,
            _ => return Err(format!("key {rkey} of finished memory used")),
        };
        let start = va.wrapping_sub(base(rkey)) as usize;
        bytes
            .get_mut(start..start + len as usize)
            .ok_or("outside the advertised memory".into())
    }

    /// A read is done.
    pub(crate) fn read_done(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.machine.read_done(bytes.len() as u32);
        self.reads(bytes)
    }

    /// The user does something.
    pub(crate) fn act(&mut self, random: &mut Random) -> Result<(), String> {
        let n = random.length(3000) as usize;
        let long = match random.one_in(40) {
            true => 60_000 + random.below(20_000) as usize,
            false => n,
        };
        let action = random.below(45);
        if self.trace {
            println!("core: user action {action} with {n}");
        }
        let modes = [Mode::Buffered, Mode::Combined, Mode::Pipelined];
        match action {
            0 => self.write(long, !random.one_in(4)),
            1..9 => self.write(n, !random.one_in(4)),
            9..15 => self.send_buffer(long),
            15..19 => self.offer_buffer(n),
            19 if random.one_in(3) => self.withdraw(n),
            19 => {
                let withdraw = random.one_in(2);
                self.withdrawing |= withdraw && !self.buffers.is_empty();
                self.machine.cancel_send(withdraw);
            }
            20 => self.machine.cancel_offers(),
            21 => self.machine.push(),
            22 => self.machine.set_cork(random.one_in(2)),
            23 => self.machine.set_nodelay(random.one_in(2)),
            24 | 43.. => self.machine.want_mode(modes[random.below(3) as usize]),
            25 => self.machine.want_combined(),
            26 => {
                self.machine.ask_resize(37 + random.below(1000) as u32);
            }
            27 => {
                self.grant(random.one_in(4));
            }
            28 if self.machine.unsent() > 0 => self.machine.mark_urgent(),
            29..43 => {
                self.consume(n, random.one_in(8))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Where memory with this key starts.
fn base(rkey: u32) -> u64 {
    0x1_0000_0000 * u64::from(rkey) + 3
}

pub(crate) fn told(message: &[u8]) -> String {
    match sdp_strict::Head::parse(message) {
        Ok((head, _)) => format!("{head:?}"),
        Err(error) => format!("{:?}: {error}", &message[..message.len().min(40)]),
    }
}
