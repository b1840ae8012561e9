// SPDX-License-Identifier: GPL-2.0

//! One machine and a peer that sends what it likes: nonsense, messages out of turn, and now and
//! then what it should.

mod onlooker;

use onlooker::{
    config,
    Act,
    Differences,
    Onlooker,
    Step, //
};
use proptest::prelude::*;
use sdp_proto::{
    wire::{
        Flags,
        Half,
        Message, //
    },
    Machine,
    Mode,
    Region,
    Side,
    State, //
};

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
