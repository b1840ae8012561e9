// SPDX-License-Identifier: GPL-2.0

//! One machine and a peer that sends what it likes: nonsense, messages out of turn, and mostly what
//! it may.

mod onlooker;
#[path = "../random/mod.rs"]
mod random;

use onlooker::{
    config,
    is_greeting,
    is_greeting_ib,
    Act,
    Differences,
    Onlooker,
    Step, //
};
use proptest::prelude::*;
use random::Random;
use sdp_proto::{
    wire::{
        mid,
        Flags,
        Half,
        Message, //
    },
    Endpoints,
    IbVersion,
    Machine,
    Mode,
    Region,
    Side, //
};
use std::net::Ipv4Addr;

/// A small number most of the time.
fn size(random: &mut Random) -> u32 {
    match random.below(10) {
        0 => random.next() as u32,
        _ => random.below(2000) as u32,
    }
}

fn message(random: &mut Random) -> Message {
    let region = Region {
        len: size(random).saturating_add(1),
        rkey: 1,
        va: random.next() >> random.below(2),
    };
    let n = random.next();
    let half = random.pick(&[(3, Half::Receive), (1, Half::Send)]);
    let mode = random.pick(&[
        (1, Mode::Buffered),
        (2, Mode::Combined),
        (3, Mode::Pipelined),
    ]);
    let size = size(random);
    random.pick(&[
        (60, Message::Data),
        (30, Message::SrcAvail(region)),
        (30, Message::SinkAvail(region, (n % 3) as u32)),
        (5, Message::DisConn),
        (2, Message::AbortConn),
        (20, Message::SendSm),
        (20, Message::RdmaWrCompl(size)),
        (20, Message::RdmaRdCompl(size)),
        (40, Message::ModeChange(half, mode)),
        (10, Message::SrcAvailCancel),
        (10, Message::SinkAvailCancel),
        (10, Message::SinkCancelAck),
        (10, Message::ChRcvBuf(size)),
        (10, Message::ChRcvBufAck(size)),
        (1, Message::SuspComm(0x1_0000 | (n & 0xffff))),
        (1, Message::SuspCommAck),
    ])
}

fn act(random: &mut Random) -> Act {
    random.pick(&[
        (40, Act::Write),
        (30, Act::Buffer),
        (30, Act::Offer),
        (25, Act::CancelSend),
        (10, Act::CancelOffers),
        (20, Act::Mode),
        (10, Act::Combine),
        (30, Act::Read),
        (30, Act::ReadDone),
        (10, Act::Decline),
        (10, Act::Resize),
        (10, Act::Ask),
        (10, Act::Urgent),
        (1, Act::Suspend),
        (5, Act::ShutSend),
        (3, Act::ShutReceive),
        (1, Act::Abort),
        (40, Act::Sent),
        (10, Act::Time),
        (20, Act::Posted),
    ])
}

fn differences(random: &mut Random) -> Differences {
    let mut rarely = |most: u64| match random.below(60) {
        0 => random.below(most),
        _ => 0,
    };
    Differences {
        insists: rarely(3) > 0,
        mseq: rarely(3) as u32,
        back: rarely(3) as u32,
        short: rarely(8) as u16,
        len: rarely(3) as u32,
        garbled: Some((rarely(40) as usize, 0)).filter(|&(at, _)| at > 0),
        unseen: random.below(4) as u32,
        bufs: random.below(30) as u16,
    }
}

/// What happens next, of which the number decides everything.
fn step(decision: u64) -> Step {
    let random = &mut Random(decision);
    match random.below(1000) {
        0 => Step::Bytes((0..random.below(60)).map(|_| random.next() as u8).collect()),
        1..500 => {
            let flags = Flags {
                urgent: random.below(10) == 0,
                urgent_pending: random.below(10) == 0,
                pipeline: random.below(2) == 0,
            };
            let payload = match random.below(2) {
                0 => 0,
                _ => random.below(80) as usize,
            };
            let mut differences = differences(random);
            if let Some((_, value)) = &mut differences.garbled {
                *value = random.next() as u8;
            }
            Step::Message(message(random), flags, payload, differences)
        }
        _ => Step::Act(act(random), random.next() as u16),
    }
}

/// Changes some of the bytes: each to a value, to 0, or its lowest bit.
fn change(bytes: &mut [u8], changes: &[(usize, u8, u8)]) {
    for &(at, value, kind) in changes {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = [value, 0, *byte ^ 1][usize::from(kind)];
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 5000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn b_86_no_message_breaks_the_machine(
        steps in prop::collection::vec(any::<u64>().prop_map(step), 20..300)
    ) {
        let mut onlooker = Onlooker::new();
        for step in &steps {
            onlooker.step(step);
        }
        onlooker.disconnect();
    }

    #[test]
    fn b_86_no_private_data_breaks_set_up(data in prop::collection::vec(any::<u8>(), 0..240)) {
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

    /// A Hello and a HelloAck with some other bytes.
    #[test]
    fn b_5_and_b_86_only_good_greetings_are_taken(
        changes in prop::collection::vec((0..32usize, any::<u8>(), 0..3u8), 0..4)
    ) {
        let mut connecting = Machine::new(config(Side::Connecting)).unwrap();
        let mut accepting = Machine::new(config(Side::Accepting)).unwrap();
        let mut hello = connecting.hello();
        let mut ack = accepting.hello_received(&hello).unwrap();
        assert!(is_greeting(&hello, mid::HELLO) && is_greeting(&ack, mid::HELLO_ACK));
        change(&mut hello, &changes);
        let mut machine = Machine::new(config(Side::Accepting)).unwrap();
        let accepted = machine.hello_received(&hello).is_ok();
        assert_eq!(accepted, is_greeting(&hello, mid::HELLO), "{hello:x?}");
        change(&mut ack, &changes);
        let accepted = connecting.hello_ack_received(&ack).is_ok();
        assert_eq!(accepted, is_greeting(&ack, mid::HELLO_ACK), "{ack:x?}");
    }

    /// The same in InfiniBand's form.
    #[test]
    fn b_5_and_b_86_only_good_greetings_of_infiniband_are_taken(
        changes in prop::collection::vec((0..24usize, any::<u8>(), 0..3u8), 0..4)
    ) {
        let endpoints = Endpoints {
            port: 7,
            source: Ipv4Addr::LOCALHOST.into(),
            destination: Ipv4Addr::LOCALHOST.into(),
        };
        let mut connecting = Machine::new(config(Side::Connecting)).unwrap();
        let mut accepting = Machine::new(config(Side::Accepting)).unwrap();
        let hello = connecting.hello_ib(IbVersion::V2_2, &endpoints);
        let (mut ack, _) = accepting.hello_ib_received(&hello).unwrap();
        assert!(is_greeting_ib(&ack));
        change(&mut ack, &changes);
        let accepted = connecting.hello_ib_ack_received(&ack).is_ok();
        assert_eq!(accepted, is_greeting_ib(&ack), "{ack:x?}");
    }
}
