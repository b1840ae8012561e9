// SPDX-License-Identifier: GPL-2.0

//! One machine and a peer that sends what it likes: nonsense, messages out of turn, and now and then what it should.

use proptest::prelude::*;
use sdp_proto::{
    wire::{
        self,
        Base,
        Flags,
        Half,
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
enum Step {
    /// Bytes that need not be a message.
    Bytes(Vec<u8>),
    /// A message in sequence but for these differences.
    Message(Message, Flags, usize, Differences),
    /// The user or the fabric does something.
    Act(Act, u16),
}

#[derive(Clone, Debug)]
struct Differences {
    mseq: u32,
    /// How many of our messages it does not acknowledge; more than there are acknowledges what was never sent.
    unseen: u32,
    bufs: u16,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
enum Act {
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

fn message() -> impl Strategy<Value = Message> {
    let region = (any::<u32>(), any::<bool>(), any::<u64>()).prop_map(|(len, sane, va)| Region {
        len: if sane { len % 5000 + 1 } else { len },
        rkey: 1,
        va: if sane { va >> 1 } else { va },
    });
    let half = prop_oneof![Just(Half::Receive), Just(Half::Send)];
    let mode = prop_oneof![
        Just(Mode::Buffered),
        Just(Mode::Combined),
        Just(Mode::Pipelined)
    ];
    let size = prop_oneof![0..2000u32, any::<u32>()];
    prop_oneof![
        6 => Just(Message::Data),
        3 => region.clone().prop_map(Message::SrcAvail),
        3 => (region, 0..3u32).prop_map(|(region, count)| Message::SinkAvail(region, count)),
        1 => Just(Message::DisConn),
        1 => Just(Message::AbortConn),
        2 => Just(Message::SendSm),
        2 => size.clone().prop_map(Message::RdmaWrCompl),
        2 => size.clone().prop_map(Message::RdmaRdCompl),
        4 => (half, mode).prop_map(|(half, mode)| Message::ModeChange(half, mode)),
        1 => Just(Message::SrcAvailCancel),
        1 => Just(Message::SinkAvailCancel),
        1 => Just(Message::SinkCancelAck),
        1 => size.clone().prop_map(Message::ChRcvBuf),
        1 => size.prop_map(Message::ChRcvBufAck),
        1 => any::<u16>().prop_map(|port| Message::SuspComm(0x1_0000 | u64::from(port))),
        1 => Just(Message::SuspCommAck),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    use Act::*;
    prop_oneof![
        4 => Just(Write),
        3 => Just(Buffer),
        3 => Just(Offer),
        1 => Just(CancelSend),
        1 => Just(CancelOffers),
        2 => Just(Mode),
        1 => Just(Combine),
        3 => Just(Read),
        3 => Just(ReadDone),
        1 => Just(Decline),
        1 => Just(Resize),
        1 => Just(Ask),
        1 => Just(Urgent),
        1 => Just(Suspend),
        1 => Just(ShutSend),
        1 => Just(ShutReceive),
        1 => Just(Abort),
        4 => Just(Sent),
        1 => Just(Time),
        2 => Just(Posted),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let flags = (
        proptest::bool::weighted(0.1),
        any::<bool>(),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(urgent, pipeline, urgent_pending)| Flags {
            urgent,
            urgent_pending,
            pipeline,
        });
    let rarely = |max: u32| prop_oneof![9 => Just(0), 1 => 0..max];
    let differences =
        (rarely(3), 0..3u32, 0..30u16, rarely(3)).prop_map(|(mseq, unseen, bufs, len)| {
            Differences {
                mseq,
                unseen,
                bufs,
                len,
            }
        });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Step::Bytes),
        20 => (message(), flags, prop_oneof![Just(0), 0..80usize], differences)
            .prop_map(|(message, flags, payload, d)| Step::Message(message, flags, payload, d)),
        20 => (act(), any::<u16>()).prop_map(|(act, n)| Step::Act(act, n)),
    ]
}

/// The machine, and what an onlooker counts of its credit.
struct Onlooker {
    machine: Machine,
    received: u32,
    sent: u32,
    acked: u32,
    bufs: u16,
    tags: Vec<SendTag>,
    reading: u32,
    now: u64,
}

impl Onlooker {
    fn new() -> Onlooker {
        let config = |side| Config {
            side,
            max_adverts: 4,
            ord: 1,
            ird: 1,
            recv_size: 200,
            recv_depth: 16,
            send_size: 120,
            desired_remote: 200,
        };
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
            reading: 0,
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
                    self.reading += region.len;
                }
            }
            Act::ReadDone => {
                machine.read_done(self.reading);
                self.reading = 0;
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

    fn step(&mut self, step: &Step) {
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn b_86_no_message_breaks_the_machine(steps in prop::collection::vec(step(), 0..120)) {
        let mut onlooker = Onlooker::new();
        for step in &steps {
            onlooker.step(step);
        }
        onlooker.machine.disconnected();
        assert_eq!(onlooker.machine.state(), State::Closed);
        assert!(onlooker.machine.poll_transmit().is_none());
    }

    #[test]
    fn b_86_no_private_data_breaks_set_up(data in prop::collection::vec(any::<u8>(), 0..240)) {
        let config = |side| Config {
            side,
            max_adverts: 4,
            ord: 1,
            ird: 1,
            recv_size: 200,
            recv_depth: 16,
            send_size: 120,
            desired_remote: 200,
        };
        let mut machine = Machine::new(config(Side::Accepting)).unwrap();
        let accepted = machine.hello_received(&data).is_ok();
        assert_eq!(machine.aborted().is_none(), accepted);
        let mut machine = Machine::new(config(Side::Connecting)).unwrap();
        machine.hello();
        let accepted = machine.hello_ack_received(&data).is_ok();
        assert_eq!(machine.aborted().is_none(), accepted);
        let mut machine = Machine::new(config(Side::Accepting)).unwrap();
        let accepted = machine.hello_ib_received(&data).is_ok();
        assert_eq!(machine.aborted().is_none(), accepted);
    }
}
