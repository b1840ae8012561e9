// SPDX-License-Identifier: GPL-2.0

use super::super::wire::BASE_LEN;
use super::*;
use core::net::{
    IpAddr,
    Ipv4Addr, //
};

fn config(side: Side) -> Config {
    Config {
        side,
        max_adverts: 4,
        ord: 4,
        ird: 4,
        recv_size: 116,
        recv_depth: 8,
        send_size: 116,
        desired_remote: 116,
    }
}

/// One end with its user: what it wrote and read, and the messages on their way to it.
struct End {
    machine: Machine,
    written: Vec<u8>,
    taken: usize,
    read: Vec<u8>,
    events: Events,
    /// Messages that were sent; see [`SENT_MAX`].
    sent: u32,
}

/// More than any test has to say.
const SENT_MAX: u32 = 50_000;

impl End {
    fn new(config: Config) -> End {
        End {
            machine: Machine::new(config).unwrap(),
            written: Vec::new(),
            taken: 0,
            read: Vec::new(),
            events: Events::default(),
            sent: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        assert!(self.machine.can_write());
        self.written.extend_from_slice(bytes);
        self.machine.write(bytes.len());
        self.machine.push();
    }

    /// The next message, as bytes.
    fn poll(&mut self) -> Option<(SendTag, Vec<u8>)> {
        let transmit = self.machine.poll_transmit()?;
        self.sent += 1;
        assert!(self.sent < SENT_MAX, "never stops sending");
        let end = self.taken + transmit.payload as usize;
        let bytes = [transmit.header.as_bytes(), &self.written[self.taken..end]].concat();
        self.taken = end;
        Some((transmit.tag, bytes))
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let received = self.machine.received(bytes).unwrap();
        self.read.extend_from_slice(&bytes[received.payload]);
        self.machine.posted(1);
        self.events |= self.machine.take_events();
    }
}

struct Pair {
    a: End,
    b: End,
}

impl Pair {
    fn connected() -> Pair {
        Pair::of(config(Side::Connecting), config(Side::Accepting))
    }

    fn of(a: Config, b: Config) -> Pair {
        let (mut a, mut b) = (End::new(a), End::new(b));
        let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
        a.machine.hello_ack_received(&ack).unwrap();
        b.machine.established();
        Pair { a, b }
    }

    /// Runs until nothing more is to be said; the number of messages it took.
    fn settle(&mut self) -> usize {
        let mut messages = 0;
        loop {
            let before = messages;
            messages += exchange(&mut self.a, &mut self.b);
            messages += exchange(&mut self.b, &mut self.a);
            if messages == before {
                return messages;
            }
            assert!(messages < 10_000, "never falls silent");
        }
    }
}

/// Delivers what `from` has to say, then completes it.
fn exchange(from: &mut End, to: &mut End) -> usize {
    let mut tags = Vec::new();
    while let Some((tag, bytes)) = from.poll() {
        to.deliver(&bytes);
        tags.push(tag);
    }
    for &tag in &tags {
        from.machine.sent(tag);
    }
    from.events |= from.machine.take_events();
    tags.len()
}

/// A message that the peer of `end` may send next, with plenty of credit.
fn message(end: &End, message: Message, payload: &[u8]) -> Vec<u8> {
    let mseq = end.machine.credits.next_received();
    let base = Base {
        bufs: 100,
        mseq,
        ..Base::default()
    };
    [
        Header::new(base, message, payload.len() as u32).as_bytes(),
        payload,
    ]
    .concat()
}

fn rule(end: &mut End, kind: Message, payload: &[u8]) -> Rule {
    let bytes = message(end, kind, payload);
    end.machine.received(&bytes).unwrap_err().rule
}

const REGION: Region = Region {
    len: 1000,
    rkey: 1,
    va: 0,
};

#[test]
fn traffic_is_counted() {
    let mut pair = Pair::connected();
    pair.a.machine.set_now(1000);
    pair.a.write(&[7; 1000]);
    let sent: Vec<_> = core::iter::from_fn(|| pair.a.poll()).collect();
    let traffic = pair.a.machine.traffic(3000);
    assert_eq!((traffic.data_sent, traffic.data_sent_at), (6, 1000));
    assert_eq!((traffic.busy, traffic.limited), (2000, 2000));
    for (tag, bytes) in sent {
        pair.b.deliver(&bytes);
        pair.a.machine.sent(tag);
    }
    pair.a.machine.set_now(4000);
    pair.settle();
    let traffic = pair.a.machine.traffic(9000);
    assert_eq!((traffic.data_sent, traffic.sent >= 10), (10, true));
    assert_eq!((traffic.busy, traffic.limited), (3000, 3000));
    assert_eq!(traffic.heard_at, 4000);
    let traffic = pair.b.machine.traffic(9000);
    assert_eq!((traffic.data_received, traffic.data_sent), (10, 0));
    assert!(traffic.received >= 10);
}

#[test]
fn b_1_set_up_in_order() {
    let pair = Pair::connected();
    assert_eq!(pair.a.machine.state(), State::Established);
    assert_eq!(pair.b.machine.state(), State::Established);
    assert_eq!(pair.a.machine.credits(), 8);
}

#[test]
fn b_1_nothing_is_sent_before_the_hello_ack() {
    let mut a = Machine::new(config(Side::Connecting)).unwrap();
    a.hello();
    a.write(5);
    a.push();
    assert!(a.poll_transmit().is_none());
    assert!(!a.can_write());
}

#[test]
fn b_1_hello_out_of_its_place() {
    let mut a = Machine::new(config(Side::Connecting)).unwrap();
    let hello = a.hello();
    assert_eq!(a.hello_received(&hello).unwrap_err().rule, Rule::B(1));
    assert_eq!(a.state(), State::Disconnecting);
    let mut b = Machine::new(config(Side::Accepting)).unwrap();
    b.hello_received(&hello).unwrap();
    assert_eq!(b.hello_received(&hello).unwrap_err().rule, Rule::B(1));
}

#[test]
fn b_2_accepting_end_is_silent_until_the_other_knows() {
    let mut a = Machine::new(config(Side::Connecting)).unwrap();
    let mut b = Machine::new(config(Side::Accepting)).unwrap();
    b.hello_received(&a.hello()).unwrap();
    b.write(5);
    b.push();
    assert!(b.poll_transmit().is_none());
    b.established();
    b.established();
    assert_eq!(b.take_events(), Events::CONNECTED);
    assert!(b.poll_transmit().is_some());
}

#[test]
fn b_9_first_message_establishes() {
    let mut a = End::new(config(Side::Connecting));
    let mut b = End::new(config(Side::Accepting));
    let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
    a.machine.hello_ack_received(&ack).unwrap();
    a.write(b"early");
    let (_, bytes) = a.poll().unwrap();
    b.deliver(&bytes);
    assert_eq!(b.machine.state(), State::Established);
    assert_eq!(b.read, b"early");
    assert_eq!(b.events, Events::CONNECTED | Events::READABLE);
}

#[test]
fn b_9a_connecting_end_talks_first() {
    let mut a = End::new(config(Side::Connecting));
    let mut b = End::new(config(Side::Accepting));
    a.machine.set_initiator_first();
    b.machine.set_initiator_first();
    let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
    b.machine.established();
    b.write(b"welcome");
    assert_eq!(b.poll(), None);
    assert_eq!(b.machine.state(), State::HelloAcked);

    a.machine.hello_ack_received(&ack).unwrap();
    let (_, bytes) = a.poll().unwrap();
    assert_eq!(bytes.len(), BASE_LEN);
    assert_eq!(a.poll(), None);
    b.deliver(&bytes);
    assert_eq!(b.machine.state(), State::Established);
    let (_, bytes) = b.poll().unwrap();
    a.deliver(&bytes);
    assert_eq!(a.read, b"welcome");
    assert_eq!(b.poll(), None);
}

#[test]
fn b_9a_payload_is_a_first_message() {
    let mut a = End::new(config(Side::Connecting));
    let mut b = End::new(config(Side::Accepting));
    a.machine.set_initiator_first();
    b.machine.set_initiator_first();
    let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
    a.machine.hello_ack_received(&ack).unwrap();
    a.write(b"first");
    let (_, bytes) = a.poll().unwrap();
    assert_eq!(bytes.len(), BASE_LEN + 5);
    assert_eq!(a.poll(), None);
    b.deliver(&bytes);
    assert_eq!(b.machine.state(), State::Established);
}

#[test]
fn b_9a_silence_is_probed() {
    let ms = 1_000_000;
    for (first, heard) in [(true, false), (true, true), (false, false)] {
        let mut a = End::new(config(Side::Connecting));
        let mut b = End::new(config(Side::Accepting));
        if first {
            a.machine.set_initiator_first();
        }
        let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
        a.machine.hello_ack_received(&ack).unwrap();
        a.machine.take_events();
        assert_eq!(a.poll().is_some(), first);
        if heard {
            b.machine.established();
            b.write(b"x");
            let (_, bytes) = b.poll().unwrap();
            a.deliver(&bytes);
            a.machine.take_events();
        }
        let mut at = 100 * ms;
        for pause in (1..10).map(|times| (100 * ms) << times) {
            let probes = first && !heard;
            assert_eq!(a.machine.deadline(), probes.then_some(at));
            a.machine.expired(at - 1);
            assert_eq!(a.machine.take_events(), Events::default());
            a.machine.expired(at);
            let events = a.machine.take_events();
            assert_eq!(events.contains(Events::NUDGE), probes);
            assert_eq!(a.poll(), None);
            at += pause;
        }
        a.machine.expired(at);
        a.machine.take_events();
        assert_eq!(a.machine.deadline(), None);
    }
}

#[test]
fn b_9a_a_probe_takes_no_credit() {
    let mut a = End::new(Config {
        recv_depth: 4,
        ..config(Side::Connecting)
    });
    let mut b = End::new(Config {
        recv_depth: 4,
        ..config(Side::Accepting)
    });
    a.machine.set_initiator_first();
    b.machine.set_initiator_first();
    let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
    a.machine.hello_ack_received(&ack).unwrap();
    let mut unseen = vec![a.poll().unwrap()];
    a.write(b"x");
    unseen.push(a.poll().unwrap());
    a.machine.shutdown_send();
    a.machine.shutdown_receive();
    unseen.push(a.poll().unwrap());
    for (tag, _) in &unseen {
        a.machine.sent(*tag);
    }
    assert_eq!(a.poll(), None);
    a.machine.take_events();
    a.machine.expired(a.machine.deadline().unwrap());
    assert_eq!(a.machine.take_events(), Events::NUDGE);
    for (_, bytes) in &unseen {
        b.deliver(bytes);
    }
    assert_eq!(b.read, b"x");
    assert!(b.machine.peer_closed());
}

#[test]
fn a_3_and_a_4_set_up_in_infiniband_form() {
    let endpoints = Endpoints {
        port: 7,
        source: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 1)),
        destination: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 2)),
    };
    for version in [IbVersion::V1_1, IbVersion::V2_2] {
        let mut a = Machine::new(config(Side::Connecting)).unwrap();
        let mut b = Machine::new(config(Side::Accepting)).unwrap();
        let hello = a.hello_ib(version, &endpoints);
        assert_eq!(a.state(), State::HelloSent);
        let (ack, heard) = b.hello_ib_received(&hello).unwrap();
        assert_eq!(heard, endpoints);
        assert_eq!(b.state(), State::HelloAcked);
        a.hello_ib_ack_received(&ack).unwrap();
        assert_eq!((a.state(), a.credits()), (State::Established, 8));
        assert_eq!(b.credits(), 8);
    }
}

#[test]
fn b_59a_who_cannot_do_it_is_left_in_combined_mode() {
    let endpoints = Endpoints {
        port: 7,
        source: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 1)),
        destination: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 2)),
    };
    let with_adverts = |side, max_adverts| Config {
        max_adverts,
        ..config(side)
    };
    for (adverts, version, leaves) in [
        ([2, 2], None, true),
        ([1, 2], None, false),
        ([2, 1], None, false),
        ([2, 2], Some(IbVersion::V1_1), true),
        ([2, 2], Some(IbVersion::V2_2), false),
    ] {
        for mode in [Mode::Pipelined, Mode::Buffered] {
            let [a, b] = adverts;
            let mut a = End::new(with_adverts(Side::Connecting, a));
            let mut b = End::new(with_adverts(Side::Accepting, b));
            match version {
                None => {
                    let ack = b.machine.hello_received(&a.machine.hello()).unwrap();
                    a.machine.hello_ack_received(&ack).unwrap();
                }
                Some(version) => {
                    let hello = a.machine.hello_ib(version, &endpoints);
                    let (ack, _) = b.machine.hello_ib_received(&hello).unwrap();
                    a.machine.hello_ib_ack_received(&ack).unwrap();
                }
            }
            b.machine.established();
            for end in [&mut a, &mut b] {
                end.machine.want_mode(mode);
                assert_eq!(end.poll().is_some(), leaves, "{adverts:?} {version:?}");
                let is = end.machine.send_mode();
                assert_eq!(is, if leaves { mode } else { Mode::Combined });
                // What waits for the change that never comes would not be sent.
                end.machine.send_buffer(REGION).unwrap();
                let advert = end.machine.poll_transmit().unwrap();
                assert_eq!(advert.payload > 0, mode != Mode::Pipelined || !leaves);
            }
        }
    }
}

#[test]
fn b_2_a_refused_hello_ack_ends_it() {
    let mut a = Machine::new(config(Side::Connecting)).unwrap();
    a.hello();
    assert_eq!(a.hello_ib_ack_received(&[]).unwrap_err().rule, Rule::A(5));
    assert_eq!(a.state(), State::Disconnecting);
}

#[test]
fn b_22_the_users_options() {
    let mut pair = Pair::connected();
    pair.a.machine.set_cork(true);
    pair.a.write(b"1");
    assert!(pair.a.poll().is_none());
    pair.a.machine.set_cork(false);
    assert!(pair.a.poll().is_some());
    // The first has not arrived.
    pair.a.write(b"2");
    assert!(pair.a.poll().is_none());
    pair.a.machine.set_nodelay(true);
    assert!(pair.a.poll().is_some());
    pair.a.machine.set_nodelay(false);
    pair.a.write(b"3");
    assert!(pair.a.poll().is_none());
}

#[test]
fn only_payload_that_arrives_is_news_for_the_writer() {
    let Pair { a: _, mut b } = Pair::connected();
    b.machine.posted(8);
    let (tag, _) = b.poll().expect("update");
    b.machine.take_events();
    b.machine.sent(tag);
    assert_eq!(b.machine.take_events(), Events::default());
}

#[test]
fn the_end_is_told_once() {
    let mut pair = Pair::connected();
    pair.a.machine.disconnected();
    assert!(pair.a.machine.take_events().contains(Events::CLOSED));
    pair.a.machine.disconnected();
    assert_eq!(pair.a.machine.take_events(), Events::default());
}

#[test]
fn config_is_checked() {
    let good = config(Side::Connecting);
    for (bad, rule) in [
        (
            Config {
                recv_depth: 3,
                ..good
            },
            Rule::B(3),
        ),
        (
            Config {
                recv_size: 36,
                ..good
            },
            Rule::B(4),
        ),
        (
            Config {
                send_size: 36,
                ..good
            },
            Rule::B(4),
        ),
        (
            Config {
                max_adverts: 0,
                ..good
            },
            Rule::B(5),
        ),
        (Config { ord: 0, ..good }, Rule::B(5)),
        (Config { ird: 0, ..good }, Rule::B(5)),
        (
            Config {
                desired_remote: u32::MAX,
                ..good
            },
            Rule::A(5),
        ),
    ] {
        assert_eq!(Machine::new(bad).unwrap_err().rule, rule);
    }
}

#[test]
fn a_5_sizes_are_two_to_the_31_at_most() {
    let largest = 1 << 31;
    assert!(Machine::new(Config {
        desired_remote: largest,
        recv_size: largest,
        send_size: largest,
        ..config(Side::Connecting)
    })
    .is_ok());
}

#[test]
fn sent_all_comes_when_the_last_byte_arrived() {
    let mut pair = Pair::connected();
    pair.a.write(&[0; 150]);
    let (first, _) = pair.a.poll().unwrap();
    pair.a.machine.sent(first);
    assert!(!pair.a.machine.take_events().contains(Events::SENT_ALL));
    let (second, _) = pair.a.poll().unwrap();
    assert!(!pair.a.machine.take_events().contains(Events::SENT_ALL));
    pair.a.machine.sent(second);
    assert!(pair.a.machine.take_events().contains(Events::SENT_ALL));
}

#[test]
fn bytes_arrive_once_and_in_order() {
    let mut pair = Pair::connected();
    let data: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    pair.a.write(&data);
    pair.b.write(&data[..50_000]);
    pair.settle();
    assert_eq!(pair.b.read, data);
    assert_eq!(pair.a.read, &data[..50_000]);
    assert!(pair.a.events.contains(Events::SENT_ALL));
    assert_eq!(
        (pair.a.machine.unsent(), pair.a.machine.in_flight()),
        (0, 0)
    );
}

#[test]
fn b_24_payload_limit_is_the_smaller_side() {
    for (recv, send, limit) in [(116, 200, 100), (200, 116, 100), (37, 37, 21)] {
        let mut pair = Pair::of(
            Config {
                send_size: send,
                ..config(Side::Connecting)
            },
            Config {
                recv_size: recv,
                ..config(Side::Accepting)
            },
        );
        pair.a.write(&[0; 500]);
        assert_eq!(pair.a.machine.poll_transmit().unwrap().payload, limit);
    }
}

#[test]
fn b_18_payload_stops_at_credit_two() {
    let mut pair = Pair::connected();
    pair.a.write(&[0; 10_000]);
    let mut messages = 0;
    while pair.a.poll().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 6);
    assert_eq!(pair.a.machine.credits(), 2);
}

#[test]
fn b_19_update_comes_without_a_message_from_the_peer() {
    let mut pair = Pair::connected();
    pair.a.write(&[0; 10_000]);
    while let Some((_, bytes)) = pair.a.poll() {
        let received = pair.b.machine.received(&bytes).unwrap();
        pair.b.read.extend_from_slice(&bytes[received.payload]);
        assert!(pair.b.poll().is_none(), "nothing to give");
    }
    pair.b.machine.posted(1);
    let (_, update) = pair.b.poll().unwrap();
    assert_eq!(update.len(), BASE_LEN);
    pair.a.deliver(&update);
    assert_eq!(pair.a.machine.credits(), 3);
}

#[test]
fn b_20_silence_after_traffic() {
    for depth in 4..20 {
        let with_depth = |side| Config {
            recv_depth: depth,
            ..config(side)
        };
        let mut pair = Pair::of(with_depth(Side::Connecting), with_depth(Side::Accepting));
        pair.a.write(&[1; 1000]);
        pair.b.write(&[2; 1000]);
        let messages = pair.settle();
        assert_eq!(pair.a.read.len() + pair.b.read.len(), 2000);
        assert!(messages < 60, "depth {depth}: {messages} messages");
    }
}

#[test]
fn b_29_copy_only_sink_answers_send_sm() {
    let Pair { a: _, mut b } = Pair::connected();
    let bytes = message(&b, Message::SrcAvail(REGION), b"head");
    let received = b.machine.received(&bytes).unwrap();
    assert_eq!(&bytes[received.payload], b"head");
    let second = message(&b, Message::Data, b"x");
    let (_, answer) = b.poll().unwrap();
    assert_eq!(wire::parse(&answer).unwrap().message, Message::SendSm);
    assert_eq!(b.machine.received(&second).unwrap_err().rule, Rule::B(25));
}

#[test]
fn b_34_rest_comes_by_data_after_the_send_sm() {
    let Pair { a: _, mut b } = Pair::connected();
    let bytes = message(&b, Message::SrcAvail(REGION), b"head");
    b.machine.received(&bytes).unwrap();
    b.poll().unwrap();
    let base = Base {
        bufs: 8,
        mseq: 2,
        mseq_ack: 1,
        ..Base::default()
    };
    let rest = [Header::new(base, Message::Data, 4).as_bytes(), b"rest"].concat();
    assert_eq!(&rest[b.machine.received(&rest).unwrap().payload], b"rest");
}

#[test]
fn b_26_to_b_30_bad_src_avails() {
    let small = Region { len: 3, ..REGION };
    for (mode, region, payload, expected) in [
        (Mode::Buffered, REGION, &b"x"[..], 27),
        (Mode::Combined, REGION, b"", 27),
        (Mode::Combined, small, b"long", 26),
        (Mode::Pipelined, REGION, b"x", 27),
    ] {
        let Pair { a: _, mut b } = Pair::connected();
        if mode != Mode::Combined {
            let change = message(&b, Message::ModeChange(Half::Receive, mode), b"");
            b.machine.received(&change).unwrap();
        }
        assert_eq!(b.machine.receive_mode(), mode);
        assert_eq!(
            rule(&mut b, Message::SrcAvail(region), payload),
            Rule::B(expected)
        );
    }
}

#[test]
fn b_30_no_more_than_max_adverts() {
    let Pair { a: _, mut b } = Pair::connected();
    let change = message(&b, Message::ModeChange(Half::Receive, Mode::Pipelined), b"");
    b.machine.received(&change).unwrap();
    for _ in 0..4 {
        let bytes = message(&b, Message::SrcAvail(REGION), b"");
        b.machine.received(&bytes).unwrap();
    }
    assert_eq!(rule(&mut b, Message::SrcAvail(REGION), b""), Rule::B(30));
}

#[test]
fn b_43_cancel_without_src_avail_is_ignored() {
    let Pair { a: _, mut b } = Pair::connected();
    let cancel = message(&b, Message::SrcAvailCancel, b"");
    b.machine.received(&cancel).unwrap();
    assert!(b.poll().is_none());
}

#[test]
fn b_64_buffers_of_the_former_size_are_used_up() {
    let mut pair = Pair::connected();
    pair.b.machine.set_resizable(true);
    assert!(pair.a.machine.ask_resize(60));
    pair.settle();
    assert_eq!(pair.b.machine.resize_wish(), Some(60));
    assert!(pair.b.machine.resized(60));
    let before = pair.a.sent;
    pair.settle();
    assert_eq!(pair.a.machine.peer_recv_size(), 60);
    // A receive for each that the peer had posted: it cannot take them back.
    let sent = pair.a.sent - before;
    assert!(sent >= 7, "{sent} messages");
}

#[test]
fn b_65_unchanged_size_refuses_a_resize() {
    let Pair { a: _, mut b } = Pair::connected();
    let ask = message(&b, Message::ChRcvBuf(5000), b"");
    b.machine.received(&ask).unwrap();
    let (_, answer) = b.poll().unwrap();
    assert_eq!(
        wire::parse(&answer).unwrap().message,
        Message::ChRcvBufAck(116)
    );
}

#[test]
fn answers_without_a_question_are_violations() {
    for (kind, expected) in [
        (Message::SendSm, 33),
        (Message::RdmaRdCompl(1), 32),
        (Message::RdmaWrCompl(1), 47),
        (Message::SinkAvail(REGION, 0), 46),
        (Message::SinkCancelAck, 53),
        (Message::ChRcvBufAck(500), 63),
        (Message::SuspCommAck, 83),
        (Message::ModeChange(Half::Send, Mode::Pipelined), 55),
        (Message::AbortConn, 71),
        (Message::ModeChange(Half::Send, Mode::Combined), 59),
        (Message::ModeChange(Half::Receive, Mode::Combined), 59),
    ] {
        let mut pair = Pair::connected();
        let rule = rule(&mut pair.b, kind, b"");
        assert_eq!(rule, Rule::B(expected), "{kind:?}");
        assert_eq!(pair.b.machine.state(), State::Disconnecting);
        assert!(matches!(
            pair.b.machine.aborted(),
            Some(AbortReason::Violation(v)) if v.rule == rule
        ));
        assert!(pair
            .b
            .machine
            .take_events()
            .contains(Events::ABORTED | Events::DISCONNECT));
    }
}

#[test]
fn b_68_disconn_goes_after_all_payload() {
    let mut pair = Pair::connected();
    pair.a.machine.set_cork(true);
    pair.a.write(&[7; 150]);
    pair.a.machine.shutdown_send();
    assert!(!pair.a.machine.can_write());
    pair.settle();
    assert_eq!(pair.b.read, [7; 150]);
    assert!(pair.b.machine.peer_closed());
    assert!(pair
        .b
        .events
        .contains(Events::PEER_CLOSED | Events::READABLE));
    assert_eq!(pair.a.machine.state(), State::DisConnDone);
}

#[test]
fn b_68_payload_after_disconn_is_a_violation() {
    let Pair { a: _, mut b } = Pair::connected();
    let disconn = message(&b, Message::DisConn, b"");
    b.machine.received(&disconn).unwrap();
    let update = message(&b, Message::Data, b"");
    b.machine.received(&update).unwrap();
    assert_eq!(rule(&mut b, Message::Data, b"x"), Rule::B(68));
}

#[test]
fn b_69_half_closed_connection_goes_on() {
    let mut pair = Pair::connected();
    pair.a.machine.shutdown_send();
    pair.settle();
    let data = [9; 3000];
    pair.b.write(&data);
    pair.settle();
    assert_eq!(pair.a.read, data);
    assert_eq!(pair.b.machine.state(), State::DisConnReceived);
}

#[test]
fn b_70_second_disconn_tears_down() {
    let mut pair = Pair::connected();
    pair.a.machine.shutdown_send();
    pair.settle();
    pair.b.machine.shutdown_send();
    pair.settle();
    for end in [&mut pair.a, &mut pair.b] {
        assert!(end.events.contains(Events::DISCONNECT));
        assert_eq!(end.machine.state(), State::Disconnecting);
        end.machine.disconnected();
        assert_eq!(end.machine.state(), State::Closed);
        assert_eq!(end.machine.aborted(), None);
    }
}

#[test]
fn b_70_simultaneous_close() {
    let mut pair = Pair::connected();
    pair.a.machine.shutdown_send();
    pair.b.machine.shutdown_send();
    let (a_tag, a_bytes) = pair.a.poll().unwrap();
    let (_, b_bytes) = pair.b.poll().unwrap();
    pair.a.deliver(&b_bytes);
    pair.b.deliver(&a_bytes);
    assert_eq!(pair.a.machine.state(), State::Closing);
    pair.a.machine.sent(a_tag);
    assert_eq!(pair.a.machine.state(), State::Disconnecting);
    // The other end drops the connection before this end's completion came.
    pair.b.machine.disconnected();
    assert_eq!(pair.b.machine.aborted(), None);
}

#[test]
fn b_71_abort_without_disconn_drops_the_connection() {
    let mut pair = Pair::connected();
    pair.a.machine.abort();
    assert!(pair.a.poll().is_none());
    assert!(pair.a.machine.take_events().contains(Events::DISCONNECT));
    assert_eq!(pair.a.machine.aborted(), Some(AbortReason::Local));
}

#[test]
fn b_71_abort_after_disconn_is_said() {
    let mut pair = Pair::connected();
    pair.a.machine.shutdown_send();
    pair.settle();
    pair.a.machine.abort();
    assert_eq!(pair.a.machine.state(), State::Aborting);
    let (tag, bytes) = pair.a.poll().unwrap();
    assert!(pair.a.poll().is_none());
    assert!(!pair.a.machine.take_events().contains(Events::DISCONNECT));
    pair.a.machine.sent(tag);
    assert!(pair.a.machine.take_events().contains(Events::DISCONNECT));

    pair.b.deliver(&bytes);
    assert_eq!(pair.b.machine.aborted(), Some(AbortReason::PeerAborted));
    assert!(pair.b.events.contains(Events::DISCONNECT));
}

#[test]
fn b_72_disconnect_without_disconn_is_a_reset() {
    let mut pair = Pair::connected();
    pair.a.machine.disconnected();
    assert_eq!(pair.a.machine.aborted(), Some(AbortReason::PeerReset));
    assert!(pair
        .a
        .machine
        .take_events()
        .contains(Events::ABORTED | Events::READABLE | Events::WRITABLE));
}

#[test]
fn b_73_data_after_receive_shutdown_aborts() {
    let mut pair = Pair::connected();
    pair.b.machine.shutdown_receive();
    assert_eq!(rule(&mut pair.b, Message::Data, b"x"), Rule::B(73));
    assert_eq!(
        pair.b.machine.aborted(),
        Some(AbortReason::DataAfterShutdown)
    );
}

#[test]
fn b_73_a_write_after_receive_shutdown_aborts() {
    let Pair { a: _, mut b } = Pair::connected();
    let change = message(&b, Message::ModeChange(Half::Receive, Mode::Pipelined), b"");
    b.machine.received(&change).unwrap();
    b.machine.offer_buffer(REGION).unwrap();
    b.poll().unwrap();
    b.machine.shutdown_receive();
    assert_eq!(rule(&mut b, Message::RdmaWrCompl(1), b""), Rule::B(73));
}

#[test]
fn b_73_nothing_is_heard_after_an_abort() {
    let mut pair = Pair::connected();
    pair.b.machine.abort();
    let late = message(&pair.b, Message::Data, b"late");
    let received = pair.b.machine.received(&late).unwrap();
    assert!(received.payload.is_empty());
}

mod script;
