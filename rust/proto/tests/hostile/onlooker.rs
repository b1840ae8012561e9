// SPDX-License-Identifier: GPL-2.0

//! A machine with an onlooker, who lets a peer and a user do anything and holds what the machine
//! does against the rules.

use sdp_proto::{
    wire::{
        self,
        Base,
        Flags,
        Message, //
    },
    Config,
    Header,
    Machine,
    Mode,
    Region,
    SendTag,
    Side,
    State, //
};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Bytes that need not be a message.
    Bytes(Vec<u8>),
    /// A message in sequence but for these differences.
    Message(Message, Flags, usize, Differences),
    /// The user or the fabric does something.
    Act(Act, u16),
}

#[derive(Clone, Debug)]
pub(crate) struct Differences {
    pub(crate) mseq: u32,
    /// How many of our messages it does not acknowledge; more than there are acknowledges what was
    /// never sent.
    pub(crate) unseen: u32,
    pub(crate) bufs: u16,
    pub(crate) len: u32,
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
        ord: 2,
        ird: 3,
        recv_size: 200,
        recv_depth: 16,
        send_size: 120,
        desired_remote: 200,
    }
}

/// The machine, and what an onlooker counts of its credit.
pub(crate) struct Onlooker {
    pub(crate) machine: Machine,
    received: u32,
    sent: u32,
    acked: u32,
    bufs: u16,
    tags: Vec<SendTag>,
    reading: Vec<u32>,
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
        Onlooker {
            machine,
            received: 0,
            sent: 0,
            acked: 0,
            bufs: 16,
            tags: Vec::new(),
            reading: Vec::new(),
            now: 0,
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        match self.machine.received(bytes) {
            Ok(received) => {
                assert!(received.payload.end <= bytes.len());
                assert!(received.payload.is_empty() || received.payload.end == bytes.len());
                if let Ok(parsed) = wire::parse(bytes) {
                    self.received = parsed.base.mseq;
                    self.acked = parsed.base.mseq_ack;
                    self.bufs = parsed.base.bufs;
                }
                self.machine.posted(1);
            }
            Err(_) => {
                assert!(matches!(
                    self.machine.state(),
                    State::Aborting | State::Disconnecting
                ));
                assert!(self.machine.aborted().is_some());
            }
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
                machine.write(usize::from(n) % 500);
                machine.push();
            }
            Act::Buffer => {
                machine.send_buffer(region);
            }
            Act::Offer => {
                machine.offer_buffer(region);
            }
            Act::CancelSend => machine.cancel_send(n % 2 == 0),
            Act::CancelOffers => machine.cancel_offers(),
            Act::Mode => machine.want_mode(modes[usize::from(n) % 3]),
            Act::Combine => machine.want_combined(),
            Act::Read => {
                if let Some(region) = machine.start_read(u32::from(n)) {
                    self.reading.push(region.len);
                    assert!(self.reading.len() <= 2, "too many reads in flight");
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
            Act::Urgent => machine.mark_urgent(),
            Act::Suspend => {
                machine.suspend(n);
            }
            Act::ShutSend => machine.shutdown_send(),
            Act::ShutReceive => machine.shutdown_receive(),
            Act::Abort => machine.abort(),
            Act::Sent => {
                for tag in self.tags.drain(..) {
                    machine.sent(tag);
                }
            }
            Act::Time => {
                self.now += u64::from(n) * 10_000;
                machine.expired(self.now);
            }
            Act::Posted => machine.posted(n % 4),
        }
    }

    /// Takes all there is to send, and holds it against the rules for credit.
    fn drain(&mut self) {
        for _ in 0..200 {
            let Some(transmit) = self.machine.poll_transmit() else {
                return;
            };
            if self.machine.aborted().is_some() {
                // An AbortConn, which counts on what the offending message said.
                continue;
            }
            let credit = i64::from(self.bufs) - i64::from(self.sent.wrapping_sub(self.acked));
            assert!(credit >= 1, "sends without credit");
            assert!(transmit.payload == 0 || credit >= 3, "payload on {credit}");
            let mut bytes = transmit.header.as_bytes().to_vec();
            bytes.resize(bytes.len() + transmit.payload as usize, 0);
            assert!(bytes.len() <= 200);
            let parsed = wire::parse(&bytes).expect("sends what it would not take");
            self.sent = self.sent.wrapping_add(1);
            assert_eq!(parsed.base.mseq, self.sent);
            assert!(self.received.wrapping_sub(parsed.base.mseq_ack) < 1 << 16);
            self.tags.push(transmit.tag);
        }
        panic!("never stops sending");
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Bytes(bytes) => self.receive(bytes),
            Step::Message(message, flags, payload, differences) => {
                let base = Base {
                    flags: *flags,
                    bufs: differences.bufs,
                    mseq: self.received.wrapping_add(1).wrapping_add(differences.mseq),
                    mseq_ack: self.sent.wrapping_sub(differences.unseen),
                };
                let len = *payload as u32 + differences.len;
                let mut bytes = Header::new(base, *message, len).as_bytes().to_vec();
                bytes.resize(bytes.len() + payload, 0x55);
                self.receive(&bytes);
            }
            Step::Act(act, n) => self.act(*act, *n),
        }
        self.drain();
        while self.machine.finished().is_some() {}
        while self.machine.offer_finished().is_some() {}
        self.machine.take_events();
    }
}
