// SPDX-License-Identifier: GPL-2.0

//! One machine and a scripted peer, for the rules of zero copy and what comes after it.

use super::*;
use crate::rust::proto::{
    buffer::ADVERTS,
    wire,
    State, //
};

/// A machine, and what its peer has said and heard.
struct Script {
    machine: Machine,
    mseq: u32,
    heard: u32,
    ack: u32,
    /// Messages that were sent; see [`SENT_MAX`].
    sent: u32,
}

impl Script {
    fn new() -> Script {
        Script::of(Side::Accepting)
    }

    fn of(side: Side) -> Script {
        let mut machine = Machine::new(config(side)).unwrap();
        let offer = Config {
            recv_depth: 100,
            ..config(Side::Connecting)
        };
        let mut peer = Machine::new(offer).unwrap();
        match side {
            Side::Accepting => {
                machine.hello_received(&peer.hello()).unwrap();
                machine.established();
            }
            Side::Connecting => {
                let mut peer = Machine::new(Config {
                    side: Side::Accepting,
                    ..offer
                })
                .unwrap();
                let ack = peer.hello_received(&machine.hello()).unwrap();
                machine.hello_ack_received(&ack).unwrap();
            }
        }
        machine.take_events();
        machine.set_zero_copy(true);
        Script {
            machine,
            mseq: 0,
            heard: 0,
            ack: 0,
            sent: 0,
        }
    }

    /// A machine whose send half, and whose peer's, are in Pipelined mode.
    fn pipelined() -> Script {
        let mut script = Script::new();
        script.machine.want_mode(Mode::Pipelined);
        script.expect(Message::ModeChange(Half::Receive, Mode::Pipelined));
        script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
        script
    }

    /// The peer's next message, which acknowledges what [`Script::acknowledge`] said.
    fn try_say(
        &mut self,
        message: Message,
        flags: Flags,
        payload: &[u8],
    ) -> Result<Received, Violation> {
        self.mseq += 1;
        let base = Base {
            flags,
            bufs: 100,
            mseq: self.mseq,
            mseq_ack: self.ack,
        };
        let header = Header::new(base, message, payload.len() as u32);
        let received = self
            .machine
            .received(&[header.as_bytes(), payload].concat())?;
        self.machine.posted(1);
        Ok(received)
    }

    fn say(&mut self, message: Message) {
        self.try_say(message, Flags::default(), b"").unwrap();
    }

    fn say_with(&mut self, message: Message, payload: &[u8]) {
        self.try_say(message, Flags::default(), payload).unwrap();
    }

    fn refused(&mut self, message: Message, payload: &[u8]) -> Rule {
        self.try_say(message, Flags::default(), payload)
            .unwrap_err()
            .rule
    }

    /// The peer has got all that was sent, and the fabric said so.
    fn acknowledge(&mut self) {
        self.ack = self.heard;
    }

    /// The machine says something, which tells the peer that all it said came.
    #[track_caller]
    fn answer(&mut self) {
        self.machine.write(1);
        self.machine.push();
        self.expect(Message::Data);
        self.acknowledge();
    }

    /// The next message that is more than a credit update.
    fn next(&mut self) -> Option<(wire::Parsed, Transmit)> {
        loop {
            let transmit = self.machine.poll_transmit()?;
            self.sent += 1;
            assert!(self.sent < SENT_MAX, "never stops sending");
            let mut bytes = transmit.header.as_bytes().to_vec();
            bytes.resize(bytes.len() + transmit.payload as usize, 0);
            let parsed = wire::parse(&bytes).unwrap();
            self.heard = parsed.base.mseq;
            self.machine.sent(transmit.tag);
            let update = parsed.message == Message::Data && parsed.payload.is_empty();
            if !update || parsed.base.flags != Flags::default() {
                return Some((parsed, transmit));
            }
        }
    }

    /// The machine's next message, which must be this one.
    #[track_caller]
    fn expect(&mut self, message: Message) -> Transmit {
        let (parsed, transmit) = self.next().expect("nothing to send");
        assert_eq!(parsed.message, message);
        transmit
    }

    #[track_caller]
    fn expect_silence(&mut self) {
        let next = self.next();
        assert!(next.is_none(), "sends {next:?}");
    }

    #[track_caller]
    fn expect_buffer(&mut self, region: Region) -> BufferId {
        let id = self.machine.send_buffer(region).unwrap();
        let transmit = self.expect(Message::SrcAvail(region));
        assert_eq!(transmit.source, Source::Buffer(id, 0));
        id
    }
}

/// Larger than any message here.
const LARGE: Region = Region {
    len: 1000,
    rkey: 7,
    va: 0x1003,
};

/// What a SrcAvail in Combined mode carries: a message of 116 bytes less both headers.
const INLINE: u32 = 84;

fn part(offset: u32, len: u32) -> Region {
    Region {
        len,
        va: LARGE.va + u64::from(offset),
        ..LARGE
    }
}

#[test]
fn b_7_both_halves_start_combined() {
    let script = Script::new();
    assert_eq!(script.machine.send_mode(), Mode::Combined);
    assert_eq!(script.machine.receive_mode(), Mode::Combined);
}

#[test]
fn b_21_disconn_does_not_go_on_the_last_credit() {
    for (depth, goes) in [(3, false), (4, true)] {
        let mut pair = Pair::of(
            config(Side::Connecting),
            Config {
                recv_depth: 4,
                ..config(Side::Accepting)
            },
        );
        // Two payload messages leave 2 of 4 credits; an empty Data leaves 1.
        pair.a.write(&[0; 200]);
        while pair.a.poll().is_some() {}
        assert_eq!(pair.a.machine.credits(), 2);
        if depth == 3 {
            pair.a.machine.credits.send();
        }
        pair.a.machine.shutdown_send();
        assert_eq!(pair.a.poll().is_some(), goes);
    }
}

#[test]
fn b_23_rdma_costs_no_credit() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    let before = script.machine.credits();
    script.machine.start_read(500).unwrap();
    script.machine.start_read(500).unwrap();
    assert_eq!(script.machine.credits(), before);
    script.machine.read_done(500);
    script.machine.read_done(500);
    script.expect(Message::RdmaRdCompl(1000));
    assert_eq!(script.machine.credits(), before - 1);
}

#[test]
fn b_25_no_data_beside_a_src_avail() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.machine.write(10);
    script.machine.push();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len - INLINE));
    assert_eq!(script.expect(Message::Data).payload, 10);
}

#[test]
fn b_25_no_payload_behind_an_open_src_avail_in_any_mode() {
    for cancelled in [false, true] {
        for step in 0..3 {
            let mut script = Script::pipelined();
            script.say(Message::SrcAvail(LARGE));
            if step > 0 {
                script.machine.start_read(300).unwrap();
            }
            if step > 1 {
                script.machine.start_read(700).unwrap();
            }
            if cancelled {
                script.say(Message::SrcAvailCancel);
            }
            assert_eq!(script.refused(Message::Data, b"behind"), Rule::B(25));
        }
    }
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    let request = Message::SinkAvail(LARGE, 0);
    assert_eq!(script.refused(request, b"request"), Rule::B(25));
}

#[test]
fn b_25_and_b_33_what_a_send_sm_asked_for_and_no_more() {
    let mut script = Script::pipelined();
    for _ in 0..2 {
        script.say(Message::SrcAvail(part(0, 10)));
    }
    script.machine.decline();
    script.expect(Message::SendSm);
    script.acknowledge();
    // The second is as good as open.
    script.expect(Message::SendSm);
    script.say_with(Message::Data, b"first ten!");
    assert_eq!(script.refused(Message::Data, b"more"), Rule::B(25));
}

#[test]
fn b_26_src_avail_describes_what_it_carries_too() {
    let mut script = Script::new();
    script.machine.send_buffer(LARGE).unwrap();
    assert_eq!(script.expect(Message::SrcAvail(LARGE)).payload, INLINE);
}

#[test]
fn b_27_small_buffers_go_by_data() {
    let mut script = Script::new();
    let id = script.machine.send_buffer(part(0, 100)).unwrap();
    let transmit = script.expect(Message::Data);
    assert_eq!(
        (transmit.payload, transmit.source),
        (100, Source::Buffer(id, 0))
    );
    assert_eq!(script.machine.finished(), Some(Finished { id, bytes: 100 }));
}

#[test]
fn b_30_max_adverts_of_the_peer() {
    let mut script = Script::pipelined();
    for _ in 0..4 {
        script.expect_buffer(LARGE);
    }
    script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    script.expect(Message::SrcAvail(LARGE));
}

#[test]
fn b_31_any_number_of_reads() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    let readable = script.machine.readable().unwrap();
    assert_eq!((readable.after, readable.region), (4, part(4, 996)));
    for _ in 0..3 {
        script.machine.start_read(332).unwrap();
    }
    assert_eq!(script.machine.readable().unwrap().region.len, 0);
    assert_eq!(script.machine.start_read(1), None);
    script.machine.read_done(332);
    script.machine.read_done(332);
    script.expect_silence();
    script.machine.read_done(332);
    script.expect(Message::RdmaRdCompl(996));
    assert_eq!(script.machine.readable(), None);
}

#[test]
fn b_4a_reads_in_flight_are_as_many_as_both_ends_can_have() {
    for (ord, ird, most) in [(4, 4, 4), (1, 4, 1), (4, 2, 2)] {
        for side in [Side::Connecting, Side::Accepting] {
            let sink = Config {
                ord,
                ird: 3,
                ..config(side)
            };
            let source = |side| Config {
                ord: 1,
                ird,
                ..config(side)
            };
            let mut end = match side {
                Side::Connecting => Pair::of(sink, source(Side::Accepting)).a,
                Side::Accepting => Pair::of(source(Side::Connecting), sink).b,
            };
            end.machine.set_zero_copy(true);
            let advert = message(&end, Message::SrcAvail(LARGE), b"head");
            end.machine.received(&advert).unwrap();
            for _ in 0..most {
                assert!(end.machine.may_read());
                end.machine.start_read(10).unwrap();
            }
            assert!(!end.machine.may_read());
            assert_eq!(end.machine.start_read(10), None);
            assert!(end.machine.readable().is_some());
            end.machine.read_done(10);
            assert!(end.machine.may_read());
            end.machine.start_read(10).unwrap();
            assert_eq!(end.machine.start_read(10), None);
        }
    }
}

#[test]
fn b_31_a_message_that_has_it_all_is_reported() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(part(0, 4)), b"head");
    script.expect(Message::RdmaRdCompl(0));
    script.acknowledge();
    script.say_with(Message::Data, b"more");
}

#[test]
fn b_32_reports_add_up_to_the_buffer() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.say(Message::RdmaRdCompl(900));
    assert_eq!(script.machine.finished(), None);
    script.say(Message::RdmaRdCompl(16));
    assert_eq!(
        script.machine.finished(),
        Some(Finished { id, bytes: 1000 })
    );
}

#[test]
fn b_32_no_more_and_no_less_than_there_is() {
    for len in [0, LARGE.len - INLINE + 1] {
        let mut script = Script::new();
        script.expect_buffer(LARGE);
        assert_eq!(script.refused(Message::RdmaRdCompl(len), b""), Rule::B(32));
    }
}

#[test]
fn b_33_send_sm_brings_the_rest_by_data() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.say(Message::RdmaRdCompl(816));
    script.say(Message::SendSm);
    let transmit = script.expect(Message::Data);
    assert_eq!(
        (transmit.payload, transmit.source),
        (100, Source::Buffer(id, 900))
    );
    assert_eq!(script.refused(Message::SendSm, b""), Rule::B(33));
}

#[test]
fn b_34_payload_may_not_overtake_what_was_declined() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.decline();
    script.expect(Message::SendSm);
    assert_eq!(script.refused(Message::Data, b"early"), Rule::B(25));
}

#[test]
fn b_34_a_later_buffer_waits_for_what_was_declined() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(part(0, 6)));
    script.machine.decline();
    script.expect(Message::SendSm);
    script.say(Message::SrcAvail(LARGE));
    assert_eq!(script.machine.readable().unwrap().after, 6);
    script.acknowledge();
    script.say_with(Message::Data, b"first!");
    assert_eq!(script.machine.readable().unwrap().after, 6);
}

#[test]
fn b_36_a_sender_that_waits_too_long_copies() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.acknowledge();
    script.say(Message::SendSm);
    let transmit = script.expect(Message::Data);
    assert_eq!(transmit.source, Source::Buffer(id, INLINE));
}

#[test]
fn b_36_two_senders_that_wait_for_each_other() {
    for withdraw in [false, true] {
        let mut pair = Pair::connected();
        let ends = [&mut pair.a, &mut pair.b];
        let ids = ends.map(|end| {
            end.written = vec![7; LARGE.len as usize];
            end.machine.set_zero_copy(true);
            end.machine.send_buffer(LARGE).unwrap()
        });
        pair.settle();
        for end in [&mut pair.a, &mut pair.b] {
            // Neither reads, and so neither is done.
            assert!(end.machine.readable().is_some());
            assert_eq!(end.machine.finished(), None);
            end.machine.cancel_send(withdraw);
        }
        pair.settle();
        let bytes = if withdraw { INLINE } else { LARGE.len };
        for (end, id) in [(&mut pair.a, ids[0]), (&mut pair.b, ids[1])] {
            assert_eq!(end.machine.finished(), Some(Finished { id, bytes }));
            assert_eq!(end.read, vec![7; bytes as usize]);
        }
    }
}

#[test]
fn b_36_a_sender_may_withdraw() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.machine.cancel_send(true);
    script.expect(Message::SrcAvailCancel);
    script.say(Message::RdmaRdCompl(100));
    script.acknowledge();
    script.say(Message::SendSm);
    let bytes = INLINE + 100;
    assert_eq!(script.machine.finished(), Some(Finished { id, bytes }));
    script.expect_silence();
}

#[test]
fn b_37_advertisements_that_cross_are_both_answered() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.decline();
    script.expect(Message::SendSm);
    script.say(Message::SendSm);
    script.expect(Message::Data);
}

#[test]
fn b_37a_a_report_for_each_step_of_the_reader() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    for _ in 0..4 {
        script.machine.start_read(249).unwrap();
        script.machine.read_done(249);
        script.expect(Message::RdmaRdCompl(249));
    }
    assert_eq!(script.machine.readable(), None);
}

#[test]
fn b_38_an_end_that_cannot_read_asks_for_copies() {
    let mut script = Script::new();
    script.machine.set_zero_copy(false);
    script.say_with(Message::SrcAvail(LARGE), b"head");
    assert_eq!(script.machine.readable(), None);
    script.expect(Message::SendSm);
}

#[test]
fn b_39_no_src_avail_while_a_cancel_is_under_way() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    script.expect(Message::SrcAvail(LARGE));
}

#[test]
fn b_66_no_resize_while_a_cancel_holds_back_what_the_peer_has() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    assert!(script.machine.ask_resize(60));
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    script.expect(Message::ChRcvBuf(60));
}

#[test]
fn b_39_a_peer_that_advertises_during_its_cancel() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.say(Message::SrcAvailCancel);
    assert_eq!(script.refused(Message::SrcAvail(LARGE), b""), Rule::B(39));
}

#[test]
fn b_40_reads_in_flight_are_finished_and_one_send_sm_ends_it() {
    let mut script = Script::pipelined();
    for _ in 0..2 {
        script.say(Message::SrcAvail(LARGE));
    }
    script.machine.start_read(300).unwrap();
    script.say(Message::SrcAvailCancel);
    assert_eq!(script.machine.start_read(1), None);
    script.expect_silence();
    script.machine.read_done(300);
    script.expect(Message::RdmaRdCompl(300));
    script.expect(Message::SendSm);
    script.expect_silence();
}

#[test]
fn b_41_acknowledgement_stays_below_the_cancel_until_the_send_sm() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(300).unwrap();
    script.say(Message::SrcAvailCancel);
    let cancel = script.mseq;
    script.machine.read_done(300);
    let (report, _) = script.next().unwrap();
    assert_eq!(report.message, Message::RdmaRdCompl(300));
    assert_eq!(report.base.mseq_ack, cancel - 1);
    let (answer, _) = script.next().unwrap();
    assert_eq!(answer.message, Message::SendSm);
    assert_eq!(answer.base.mseq_ack, cancel);
}

#[test]
fn b_41_nothing_is_held_when_all_was_read() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(1000).unwrap();
    script.say(Message::SrcAvailCancel);
    script.machine.read_done(1000);
    script.expect(Message::RdmaRdCompl(1000));
    script.machine.write(1);
    script.machine.push();
    let (data, _) = script.next().unwrap();
    assert_eq!(data.message, Message::Data, "nothing was cancelled");
    assert_eq!(data.base.mseq_ack, script.mseq);
}

#[test]
fn b_42_only_a_send_sm_that_saw_the_cancel_ends_it() {
    let mut script = Script::pipelined();
    let first = script.expect_buffer(LARGE);
    let second = script.expect_buffer(LARGE);
    script.acknowledge();
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    // Declines the first, before it saw the cancel.
    script.say(Message::SendSm);
    script.acknowledge();
    for _ in 0..10 {
        assert!(matches!(
            script.expect(Message::Data).source,
            Source::Buffer(id, _) if id == first
        ));
    }
    script.expect_silence();
    script.say(Message::SendSm);
    assert_eq!(
        script.expect(Message::Data).source,
        Source::Buffer(second, 0)
    );
}

#[test]
fn b_43_cancel_after_the_answer_is_ignored() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.decline();
    script.expect(Message::SendSm);
    script.say(Message::SrcAvailCancel);
    script.expect_silence();
    script.acknowledge();
    script.say_with(Message::Data, b"rest");
}

#[test]
fn b_44_held_acknowledgement_is_a_counter_of_its_own() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(300).unwrap();
    script.say(Message::SrcAvailCancel);
    let cancel = script.mseq;
    for _ in 0..3 {
        script.say(Message::Data);
    }
    script.machine.write(1);
    script.machine.push();
    let (data, _) = script.next().unwrap();
    assert_eq!(data.base.mseq_ack, cancel - 1);
    // Four messages not acknowledged, all of whose buffers are back.
    assert_eq!(data.base.bufs, 8 + 4);
}

#[test]
fn b_45_a_peer_that_does_not_hold_its_acknowledgement() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.acknowledge();
    script.say(Message::Data);
    script.say(Message::SendSm);
    assert_eq!(
        script.expect(Message::Data).source,
        Source::Buffer(id, INLINE)
    );
    script.machine.cancel_send(false);
    script.expect(Message::Data);
}

#[test]
fn b_46_offers_are_large_and_pipelined_only() {
    let mut script = Script::new();
    assert_eq!(script.machine.offer_buffer(part(0, 116)), None);
    script.machine.offer_buffer(part(0, 117)).unwrap();
    script.expect_silence();
    script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.expect(Message::SinkAvail(part(0, 117), 0));
    assert_eq!(
        Script::new().refused(Message::SinkAvail(LARGE, 0), b""),
        Rule::B(46)
    );
}

#[test]
fn b_47_a_short_write_ends_the_receive() {
    let mut script = Script::pipelined();
    let id = script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.say(Message::RdmaWrCompl(10));
    assert_eq!(
        script.machine.offer_finished(),
        Some(Finished { id, bytes: 10 })
    );
    assert_eq!(script.refused(Message::RdmaWrCompl(10), b""), Rule::B(47));
}

#[test]
fn b_47_the_source_writes_and_says_so() {
    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(part(0, 150), 0));
    let id = script.machine.send_buffer(LARGE).unwrap();
    let transmit = script.expect(Message::RdmaWrCompl(150));
    assert_eq!(transmit.write, Some(part(0, 150)));
    assert_eq!(transmit.source, Source::Buffer(id, 0));
    assert_eq!(transmit.payload, 0);
    script.expect(Message::SrcAvail(part(150, 850)));
}

#[test]
fn b_48_data_uses_up_an_offer_on_both_sides() {
    let mut script = Script::pipelined();
    let id = script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.take_events();
    script.say_with(Message::Data, b"instead");
    let events = script.machine.take_events();
    assert!(events.contains(Events::FINISHED));
    assert_eq!(
        script.machine.offer_finished(),
        Some(Finished { id, bytes: 0 })
    );

    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(1);
    script.machine.mark_urgent();
    script.expect(Message::Data);
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::Data);
    script.acknowledge();
    // The first Data does not count, the second does.
    script.say(Message::SinkAvail(LARGE, 1));
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::RdmaWrCompl(1));
}

#[test]
fn b_49_a_stale_offer_is_dropped() {
    let mut script = Script::pipelined();
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::Data);
    // Sent before that Data came, which uses the first of them up.
    script.say(Message::SinkAvail(LARGE, 0));
    script.say(Message::SinkAvail(part(0, 200), 0));
    script.machine.write(1);
    script.machine.push();
    assert_eq!(
        script.expect(Message::RdmaWrCompl(1)).write,
        Some(part(0, 1))
    );
    assert_eq!(
        script.refused(Message::SinkAvail(LARGE, 1), b""),
        Rule::B(49)
    );
}

#[test]
fn b_49_the_sink_counts_what_uses_up_no_offer() {
    let mut script = Script::pipelined();
    script.say_with(Message::Data, b"1");
    script.say(Message::Data);
    script.say_with(Message::Data, b"2");
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 2));
    script.say_with(Message::Data, b"3");
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 2));
}

#[test]
fn b_50_sink_avail_beats_src_avail() {
    let mut source = Script::pipelined();
    let id = source.expect_buffer(LARGE);
    source.say(Message::SinkAvail(part(0, 600), 0));
    let transmit = source.expect(Message::RdmaWrCompl(600));
    assert_eq!(transmit.source, Source::Buffer(id, 0));
    source.expect(Message::SrcAvail(part(600, 400)));

    let mut sink = Script::pipelined();
    sink.machine.offer_buffer(LARGE).unwrap();
    sink.expect(Message::SinkAvail(LARGE, 0));
    sink.say(Message::SrcAvail(LARGE));
    assert_eq!(sink.machine.readable(), None);
    sink.say(Message::RdmaWrCompl(600));
    sink.say(Message::SrcAvail(part(600, 400)));
    assert_eq!(sink.machine.readable().unwrap().region, part(600, 400));
}

#[test]
fn b_25_and_b_50_no_payload_before_the_sink_avail_that_crossed_was_seen() {
    // Sent before the SinkAvail came, by a peer that takes its SrcAvail for open.
    let crossed = || {
        let mut script = Script::pipelined();
        script.acknowledge();
        script.machine.offer_buffer(LARGE).unwrap();
        script.expect(Message::SinkAvail(LARGE, 0));
        script.say(Message::SrcAvail(LARGE));
        script
    };
    let mut script = crossed();
    assert_eq!(script.refused(Message::Data, b"behind"), Rule::B(25));
    let mut script = crossed();
    script.say(Message::Data);
    script.say(Message::SrcAvail(LARGE));
    let request = Message::SinkAvail(LARGE, 0);
    assert_eq!(script.refused(request, b"request"), Rule::B(25));
    let mut script = crossed();
    script.say(Message::ModeChange(Half::Receive, Mode::Combined));
    let again = script.refused(Message::SrcAvail(LARGE), b"again");
    assert_eq!(again, Rule::B(25));

    let mut script = crossed();
    script.acknowledge();
    script.say_with(Message::Data, b"instead");
    assert_eq!(script.machine.offer_finished().unwrap().bytes, 0);
}

#[test]
fn b_25_and_b_50_it_is_the_oldest_that_no_payload_used_up() {
    for seen in [1, 2] {
        let mut script = Script::pipelined();
        script.acknowledge();
        for _ in 0..2 {
            script.machine.offer_buffer(LARGE).unwrap();
            script.expect(Message::SinkAvail(LARGE, 0));
        }
        script.say_with(Message::Data, b"uses up the first");
        script.say(Message::SrcAvail(LARGE));
        // The first is stale for the peer, and leaves its SrcAvail open.
        script.ack += seen;
        let data = script.try_say(Message::Data, Flags::default(), b"x");
        assert_eq!(data.is_ok(), seen == 2);
    }
}

#[test]
fn b_41_and_b_50_a_peer_that_works_on_a_cancel_cannot_say_what_it_saw() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.acknowledge();
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.say(Message::SrcAvail(LARGE));
    script.say_with(Message::Data, b"instead");
}

#[test]
fn b_51_no_offer_while_there_is_to_read() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect_silence();
    script.machine.start_read(1000).unwrap();
    script.machine.read_done(1000);
    script.expect(Message::RdmaRdCompl(1000));
    script.expect(Message::SinkAvail(LARGE, 0));
}

#[test]
fn b_52_sink_avail_with_payload() {
    let mut script = Script::pipelined();
    let flags = Flags::default();
    let received = script
        .try_say(Message::SinkAvail(LARGE, 0), flags, b"request")
        .unwrap();
    assert_eq!(received.payload.len(), 7);
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 1));
    script.machine.write(50);
    script.machine.push();
    script.expect(Message::RdmaWrCompl(50));
}

#[test]
fn b_53_offers_are_taken_back() {
    let mut script = Script::pipelined();
    let sent = script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.offer_buffer(LARGE).unwrap();
    script.machine.cancel_offers();
    script.expect(Message::SinkAvailCancel);
    assert_eq!(script.machine.offer_finished(), None);
    script.say(Message::SinkCancelAck);
    let finished = script.machine.offer_finished().unwrap();
    assert_eq!((finished.id, finished.bytes), (sent, 0));
    assert!(script.machine.offer_finished().is_some());
    assert_eq!(script.refused(Message::SinkCancelAck, b""), Rule::B(53));
}

#[test]
fn b_53_a_cancel_that_finds_nothing_is_not_answered() {
    let mut script = Script::new();
    script.say(Message::SinkAvailCancel);
    script.expect_silence();

    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(5);
    script.machine.push();
    script.expect(Message::RdmaWrCompl(5));
    script.say(Message::SinkAvailCancel);
    script.expect_silence();

    // Stale: used up by what is on its way.
    script.machine.write(5);
    script.machine.push();
    script.expect(Message::Data);
    script.say(Message::SinkAvail(LARGE, 0));
    script.say(Message::SinkAvailCancel);
    script.expect_silence();

    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.want_mode(Mode::Combined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Combined));
    script.say(Message::SinkAvailCancel);
    script.expect_silence();
}

#[test]
fn b_53_a_cancel_is_over_once_all_offers_are_used_up() {
    for sent in [false, true] {
        for written in [false, true] {
            let mut script = Script::pipelined();
            for _ in 0..2 {
                script.machine.offer_buffer(LARGE).unwrap();
                script.expect(Message::SinkAvail(LARGE, 0));
            }
            script.machine.cancel_offers();
            if sent {
                script.expect(Message::SinkAvailCancel);
            }
            script.say_with(Message::Data, b"instead");
            script.machine.offer_buffer(part(0, 500)).unwrap();
            if sent {
                script.expect_silence();
            }
            match written {
                true => script.say(Message::RdmaWrCompl(7)),
                false => script.say_with(Message::Data, b"instead"),
            }
            script.expect(Message::SinkAvail(part(0, 500), 0));
            let ack = script.refused(Message::SinkCancelAck, b"");
            assert_eq!(ack, Rule::B(53));
        }
    }
}

#[test]
fn b_53_and_b_69_a_cancel_that_crosses_the_end_may_be_answered() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.cancel_offers();
    script.expect(Message::SinkAvailCancel);
    script.say(Message::DisConn);
    assert!(script.machine.offer_finished().is_some());
    script.say(Message::SinkCancelAck);
}

#[test]
fn b_53_a_cancelled_offer_is_not_written() {
    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.say(Message::SinkAvailCancel);
    script.expect(Message::SinkCancelAck);
    script.machine.write(5);
    script.machine.push();
    script.expect(Message::Data);
}

#[test]
fn b_55_to_b_58_changes_go_out_when_they_may() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.machine.want_mode(Mode::Buffered);
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len - INLINE));
    script.expect(Message::ModeChange(Half::Receive, Mode::Buffered));
    script.machine.send_buffer(LARGE).unwrap();
    script.expect(Message::Data);
    script.say(Message::ModeChange(Half::Send, Mode::Combined));
    assert_eq!(script.machine.send_mode(), Mode::Combined);
    script.machine.want_mode(Mode::Pipelined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Pipelined));
}

#[test]
fn b_55_no_buffered_with_a_src_avail_open() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    let change = Message::ModeChange(Half::Receive, Mode::Buffered);
    assert_eq!(script.refused(change, b""), Rule::B(55));
}

#[test]
fn b_55_no_buffered_before_the_answer_to_a_src_avail_is_known() {
    let change = Message::ModeChange(Half::Receive, Mode::Buffered);
    for cancelled in [false, true] {
        for acknowledged in [false, true] {
            let mut script = Script::new();
            script.say_with(Message::SrcAvail(LARGE), b"head");
            if cancelled {
                script.say(Message::SrcAvailCancel);
            } else {
                script.machine.decline();
            }
            if acknowledged {
                script.expect(Message::SendSm);
                script.acknowledge();
                script.say(change);
            } else if cancelled {
                assert_eq!(script.refused(change, b""), Rule::B(55));
            } else {
                script.expect(Message::SendSm);
                assert_eq!(script.refused(change, b""), Rule::B(55));
            }
        }
    }
}

#[test]
fn b_56_the_sink_leaves_buffered() {
    let mut script = Script::new();
    script.machine.want_combined();
    script.expect_silence();
    script.say(Message::ModeChange(Half::Receive, Mode::Buffered));
    script.expect(Message::ModeChange(Half::Send, Mode::Combined));
    assert_eq!(script.machine.receive_mode(), Mode::Combined);
    script.say(Message::ModeChange(Half::Receive, Mode::Buffered));
    script.expect_silence();
}

#[test]
fn b_58_leaving_pipelined_voids_offers() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.say(Message::ModeChange(Half::Receive, Mode::Combined));
    assert_eq!(script.machine.offer_finished().unwrap().bytes, 0);
}

#[test]
fn b_58_nothing_new_is_advertised_while_a_change_waits() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.machine.want_mode(Mode::Combined);
    script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    script.expect(Message::ModeChange(Half::Receive, Mode::Combined));
    assert_eq!(script.expect(Message::SrcAvail(LARGE)).payload, INLINE);
}

#[test]
fn b_58_leaving_pipelined_leaves_open_src_avails() {
    for answer in 0..4 {
        let mut script = Script::pipelined();
        for _ in 0..2 {
            script.say(Message::SrcAvail(LARGE));
        }
        script.machine.start_read(300).unwrap();
        script.say(Message::ModeChange(Half::Receive, Mode::Combined));
        script.machine.write(1);
        script.machine.push();
        let (data, _) = script.next().unwrap();
        assert_eq!(data.base.mseq_ack, script.mseq, "nothing is held");
        assert_eq!(script.machine.readable().unwrap().region, part(300, 700));
        match answer {
            0 => {
                script.machine.start_read(700).unwrap();
                script.machine.start_read(1000).unwrap();
                for part in [300, 700, 1000] {
                    script.machine.read_done(part);
                }
                for _ in 0..2 {
                    script.expect(Message::RdmaRdCompl(1000));
                }
            }
            1 => {
                script.machine.decline();
                script.machine.read_done(300);
                script.expect(Message::RdmaRdCompl(300));
                for _ in 0..2 {
                    script.expect(Message::SendSm);
                }
            }
            2 => {
                script.say(Message::SrcAvailCancel);
                script.machine.read_done(300);
                script.expect(Message::RdmaRdCompl(300));
                script.expect(Message::SendSm);
            }
            _ => {
                // Combined mode allows one.
                let third = script.refused(Message::SrcAvail(LARGE), b"head");
                assert_eq!(third, Rule::B(29));
                continue;
            }
        }
        script.acknowledge();
        script.say(Message::Data);
        script.expect_silence();
    }
}

#[test]
fn b_58_what_a_sink_avail_crossed_is_issued_again() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.say(Message::SrcAvail(LARGE));
    script.say(Message::ModeChange(Half::Receive, Mode::Combined));
    assert_eq!(script.machine.readable(), None);
    assert_eq!(script.machine.offer_finished().unwrap().bytes, 0);
    script.acknowledge();
    script.say_with(Message::SrcAvail(LARGE), b"again");
    assert_eq!(script.machine.readable().unwrap().region, part(5, 995));
}

#[test]
fn b_60_the_hint_is_given_and_taken() {
    let mut script = Script::new();
    script.machine.set_pipeline_hint(true);
    script.say_with(Message::SrcAvail(part(0, 4)), b"head");
    let (report, _) = script.next().unwrap();
    assert!(report.base.flags.pipeline);

    script.expect_buffer(LARGE);
    assert!(!script.machine.pipeline_hinted());
    script.try_say(Message::Data, HINT, b"").unwrap();
    assert!(!script.machine.pipeline_hinted());
    script
        .try_say(Message::RdmaRdCompl(100), HINT, b"")
        .unwrap();
    assert!(script.machine.pipeline_hinted());
}

/// REQ_PIPE alone.
const HINT: Flags = Flags {
    urgent: false,
    urgent_pending: false,
    pipeline: true,
};

#[test]
fn b_60_a_write_hints_for_the_opposite_half() {
    for hint in [false, true] {
        let mut script = Script::pipelined();
        script.machine.set_pipeline_hint(hint);
        script.say(Message::SinkAvail(LARGE, 0));
        script.machine.write(1);
        script.machine.push();
        let (written, _) = script.next().unwrap();
        assert_eq!(written.message, Message::RdmaWrCompl(1));
        assert_eq!(written.base.flags.pipeline, hint);
    }
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.try_say(Message::RdmaWrCompl(1), HINT, b"").unwrap();
    assert!(script.machine.pipeline_hinted());
}

#[test]
fn b_60_the_hint_means_nothing_in_buffered_mode() {
    let mut script = Script::new();
    script.machine.want_mode(Mode::Buffered);
    script.expect(Message::ModeChange(Half::Receive, Mode::Buffered));
    script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.try_say(Message::RdmaWrCompl(1), HINT, b"").unwrap();
    assert!(!script.machine.pipeline_hinted());
}

#[test]
fn b_60b_a_late_sink_avail_is_discarded() {
    let mut script = Script::pipelined();
    script.machine.want_mode(Mode::Combined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Combined));
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(5);
    script.machine.push();
    script.expect(Message::Data);
    script.acknowledge();
    assert_eq!(
        script.refused(Message::SinkAvail(LARGE, 0), b""),
        Rule::B(46)
    );
}

#[test]
fn b_60b_a_late_sink_avail_that_payload_used_up_is_not_counted() {
    let mut script = Script::pipelined();
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::Data);
    script.machine.want_mode(Mode::Combined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Combined));
    script.say(Message::SinkAvail(LARGE, 0));
    script.acknowledge();
    script.say(Message::Data);
    script.machine.want_mode(Mode::Pipelined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::RdmaWrCompl(1));
}

#[test]
fn b_62_an_end_that_never_changes_accepts_changes() {
    let mut script = Script::new();
    for mode in [Mode::Pipelined, Mode::Combined, Mode::Buffered] {
        script.say(Message::ModeChange(Half::Receive, mode));
        assert_eq!(script.machine.receive_mode(), mode);
        script.say_with(Message::Data, b"x");
        script.answer();
    }
    assert_eq!(script.machine.send_mode(), Mode::Combined);
}

#[test]
fn b_63_a_wish_is_the_users_to_answer() {
    let mut script = Script::new();
    script.machine.set_resizable(true);
    script.say(Message::ChRcvBuf(5000));
    assert!(script.machine.take_events().contains(Events::RESIZE));
    assert_eq!(script.machine.resize_wish(), Some(5000));
    script.expect_silence();
    assert!(!script.machine.resized(4000));
    assert!(script.machine.resized(6000));
    script.expect(Message::ChRcvBufAck(6000));
}

#[test]
fn b_64_messages_grow_with_the_answer() {
    let mut script = Script::new();
    assert!(script.machine.ask_resize(60));
    script.expect(Message::ChRcvBuf(60));
    script.machine.write(500);
    assert_eq!(script.expect(Message::Data).payload, 60 - 16);
    script.say(Message::ChRcvBufAck(70));
    assert_eq!(script.expect(Message::Data).payload, 70 - 16);
}

#[test]
fn b_67_the_old_size_counts_until_the_answer() {
    let mut script = Script::pipelined();
    script.machine.set_resizable(true);
    script.say(Message::ChRcvBuf(500));
    assert!(script.machine.offer_buffer(part(0, 117)).is_some());
    script.machine.resized(500);
    script.expect(Message::ChRcvBufAck(500));
    assert_eq!(script.machine.offer_buffer(part(0, 500)), None);
    assert!(script.machine.offer_buffer(part(0, 501)).is_some());
}

#[test]
fn b_46_and_b_67_what_receive_buffers_outgrew_is_not_offered() {
    let mut script = Script::new();
    script.machine.set_resizable(true);
    let small = script.machine.offer_buffer(part(0, 500)).unwrap();
    script.machine.offer_buffer(part(0, 501)).unwrap();
    script.say(Message::ChRcvBuf(500));
    script.machine.resized(500);
    script.expect(Message::ChRcvBufAck(500));
    assert!(script.machine.take_events().contains(Events::FINISHED));
    assert_eq!(
        script.machine.offer_finished(),
        Some(Finished {
            id: small,
            bytes: 0
        })
    );
    assert_eq!(script.machine.offer_finished(), None);
    script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.expect(Message::SinkAvail(part(0, 501), 0));
    script.expect_silence();
}

#[test]
fn b_68_disconn_waits_for_zero_copy() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.machine.shutdown_send();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len - INLINE));
    script.expect(Message::DisConn);
}

#[test]
fn b_68_a_disconn_with_a_src_avail_open() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    assert_eq!(script.refused(Message::DisConn, b""), Rule::B(68));
}

#[test]
fn b_69_disconn_gives_offers_back() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.say(Message::DisConn);
    assert!(script.machine.offer_finished().is_some());
    assert_eq!(script.machine.offer_buffer(LARGE), None);
}

#[test]
fn b_72_every_buffer_comes_back_when_the_fabric_is_gone() {
    let mut script = Script::pipelined();
    let sent = script.expect_buffer(LARGE);
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.disconnected();
    assert_eq!(script.machine.finished().unwrap().id, sent);
    assert!(script.machine.offer_finished().is_some());
}

#[test]
fn b_74_a_peer_that_does_not_close_is_not_waited_for() {
    let mut script = Script::new();
    script.machine.set_close_timeout(Some(60));
    script.machine.set_now(1000);
    script.machine.shutdown_send();
    script.expect(Message::DisConn);
    assert_eq!(script.machine.deadline(), None, "half open may last");
    script.machine.shutdown_receive();
    assert_eq!(script.machine.deadline(), Some(1060));
    script.machine.expired(1059);
    assert_eq!(script.machine.state(), State::DisConnDone);
    // Who says so again does not wait longer.
    script.machine.shutdown_send();
    script.machine.shutdown_receive();
    assert_eq!(script.machine.deadline(), Some(1060));
    script.machine.expired(1060);
    assert_eq!(script.machine.state(), State::Aborting);
    script.expect(Message::AbortConn);
}

/// Probed after 50, and then each 10, three times.
const KEEPALIVE: KeepAlive = KeepAlive {
    idle: 50,
    interval: 10,
    probes: 3,
};

#[test]
fn b_76_and_b_81_silence_is_probed() {
    let mut script = Script::new();
    script.machine.set_now(100);
    script.machine.set_keepalive(Some(KEEPALIVE));
    assert_eq!(script.machine.deadline(), Some(150));
    script.machine.set_now(120);
    script.say(Message::Data);
    assert_eq!(script.machine.deadline(), Some(170));
    script.machine.expired(169);
    assert!(script.machine.take_events().is_empty());
    script.machine.expired(170);
    assert_eq!(script.machine.take_events(), Events::PROBE);
    assert_eq!(script.machine.deadline(), Some(180));
    script.machine.set_now(175);
    script.machine.probed();
    assert_eq!(script.machine.deadline(), Some(225));
}

#[test]
fn b_76_an_idle_peer_that_does_not_answer_is_given_up() {
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    for at in [50, 60, 70] {
        assert_eq!(script.machine.deadline(), Some(at));
        script.machine.expired(at);
        assert_eq!(script.machine.take_events(), Events::PROBE);
    }
    script.machine.expired(80);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
    assert_eq!(script.machine.state(), State::Disconnecting);
}

#[test]
fn b_76_the_users_timeout_is_that_of_keepalive_too() {
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    script.machine.set_limits(Some(95), None);
    for at in [50, 60, 70, 80, 90] {
        script.machine.expired(at);
        assert_eq!(script.machine.take_events(), Events::PROBE, "{at}");
    }
    script.machine.expired(100);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));

    // At least one probe must have had no answer.
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    script.machine.set_limits(Some(1), None);
    script.machine.expired(50);
    assert_eq!(script.machine.take_events(), Events::PROBE);
    script.machine.expired(60);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
}

#[test]
fn b_76_keepalive_leaves_a_peer_that_has_something_to_answer() {
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    script.machine.write(5);
    script.machine.push();
    let tag = script.machine.poll_transmit().unwrap().tag;
    script.machine.take_events();
    for at in [50, 100, 1000] {
        script.machine.expired(at);
        assert!(script.machine.take_events().is_empty(), "{at}");
        assert_eq!(script.machine.deadline(), Some(at + 50));
    }
    script.machine.set_now(1010);
    script.machine.sent(tag);
    assert_eq!(script.machine.deadline(), Some(1060));
}

#[test]
fn b_81_keepalive_asks_the_peer_itself() {
    let asks = |script: &mut Script, at: u64| {
        script.machine.expired(at);
        let size = script.machine.peer_recv_size();
        script.expect(Message::ChRcvBuf(size));
        // The adapter answers, whatever the peer does.
        script.machine.set_now(at + 1);
        script.acknowledge();
        script.machine.probed();
        size
    };
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    let size = asks(&mut script, 50);
    assert_eq!(script.machine.deadline(), Some(80));
    script.machine.set_now(79);
    script.say(Message::ChRcvBufAck(size));
    assert_eq!(script.machine.deadline(), Some(79 + 50));
    // That was no refusal of other sizes.
    assert!(script.machine.ask_resize(size - 1));
    script.expect(Message::ChRcvBuf(size - 1));
    script.say(Message::ChRcvBufAck(size - 1));
    assert!(script.machine.ask_resize(size));
    script.expect(Message::ChRcvBuf(size));
    script.say(Message::ChRcvBufAck(size));
    asks(&mut script, 200);
    // Whatever comes shows that the peer is there.
    script.machine.set_now(229);
    script.say(Message::Data);
    script.machine.expired(230);
    assert_eq!(script.machine.aborted(), None);

    for (user, until) in [(None, 80), (Some(95), 100), (Some(1), 60)] {
        let mut script = Script::new();
        script.machine.set_keepalive(Some(KEEPALIVE));
        script.machine.set_limits(user, None);
        asks(&mut script, 50);
        assert_eq!(script.machine.deadline(), Some(until));
        script.machine.expired(until - 1);
        assert_eq!(script.machine.aborted(), None);
        script.machine.expired(until);
        assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
    }
}

#[test]
fn b_81_a_peer_without_credit_owes_no_answer() {
    let mut script = Script::new();
    script.machine.credits = Credits::new(2);
    script.machine.credits.start(100);
    script.machine.set_keepalive(Some(KEEPALIVE));
    script.machine.expired(50);
    script.expect_silence();
    script.machine.set_now(51);
    script.machine.probed();
    assert_eq!(script.machine.deadline(), Some(51 + 50));
}

#[test]
fn b_81_on_iwarp_one_question_will_do() {
    for own in [8, 2] {
        let mut script = Script::new();
        script.machine.credits = Credits::new(own);
        script.machine.credits.start(100);
        script.machine.set_initiator_first();
        script.machine.set_keepalive(Some(KEEPALIVE));
        script.machine.expired(50);
        let probes = script.machine.take_events().contains(Events::PROBE);
        assert_eq!(probes, own < 3, "{own} buffers");
    }
}

#[test]
fn b_63_a_wish_for_the_present_size_is_answered_at_once() {
    let mut script = Script::new();
    script.machine.set_resizable(true);
    let size = script.machine.resize.own();
    script.say(Message::ChRcvBuf(size));
    assert_eq!(script.machine.resize_wish(), None);
    script.expect(Message::ChRcvBufAck(size));
}

#[test]
fn b_76_what_has_no_answer_ends_the_connection() {
    for user in [true, false] {
        let mut script = Script::new();
        let limit = |on: bool| on.then_some(100);
        script.machine.set_limits(limit(user), limit(!user));
        assert_eq!(script.machine.deadline(), None, "nothing is written");
        script.machine.set_now(10);
        script.machine.write(5);
        script.machine.push();
        let tag = script.machine.poll_transmit().unwrap().tag;
        // What follows does not make it younger.
        script.machine.set_now(60);
        script.machine.write(5);
        script.machine.push();
        script.machine.set_nodelay(true);
        script.machine.poll_transmit().unwrap();
        assert_eq!(script.machine.deadline(), Some(110));
        script.machine.set_now(90);
        script.machine.sent(tag);
        assert_eq!(script.machine.deadline(), Some(190));
        script.machine.expired(189);
        assert_eq!(script.machine.aborted(), None);
        // To be told again that there is no keepalive is no sign of life.
        script.machine.set_keepalive(None);
        script.machine.expired(190);
        assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
    }
}

#[test]
fn b_76_a_peer_that_gives_no_credit_is_given_up_by_the_user_alone() {
    let mut script = Script::new();
    script.machine.credits.start(2);
    script
        .machine
        .set_limits(Some(100_000_000_000), Some(1_000_000_000));
    script.machine.write(5);
    script.machine.push();
    script.expect_silence();
    script.machine.take_events();
    // Its fabric answers, so that its silence is none.
    for at in [30_000_000_000, 61_000_000_000] {
        assert_eq!(script.machine.deadline(), Some(at));
        script.machine.expired(at);
        assert!(script.machine.take_events().contains(Events::PROBE));
        script.machine.set_now(at + 1_000_000_000 - 1);
        script.machine.probed();
        script.machine.set_now(at + 1_000_000_000);
        script.machine.probed();
    }
    script.machine.expired(99_999_999_999);
    assert_eq!(script.machine.aborted(), None);
    script.machine.expired(100_000_000_000);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));

    let mut script = Script::new();
    script.machine.credits.start(2);
    script.machine.set_limits(None, Some(1_000_000_000));
    script.machine.write(5);
    script.machine.push();
    script.machine.expired(30_000_000_000);
    assert_eq!(script.machine.deadline(), Some(31_000_000_000));
    script.machine.expired(31_000_000_000);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
}

#[test]
fn b_76_what_the_peer_does_not_read_is_copied_in_time() {
    let mut script = Script::new();
    script.machine.set_limits(Some(100), None);
    script.machine.send_buffer(REGION).unwrap();
    let (parsed, _) = script.next().unwrap();
    assert!(matches!(parsed.message, Message::SrcAvail(_)));
    assert_eq!(script.machine.deadline(), Some(50));
    script.machine.expired(50);
    script.expect(Message::SrcAvailCancel);
    assert_eq!(script.machine.deadline(), Some(100));
}

#[test]
fn b_76_the_end_of_the_stream_has_to_arrive_too() {
    let mut script = Script::new();
    script.machine.set_limits(Some(100), None);
    script.machine.shutdown_send();
    script.machine.poll_transmit().unwrap();
    script.machine.expired(100);
    assert_eq!(script.machine.aborted(), Some(AbortReason::TimedOut));
    // Not by AbortConn, which would find nobody.
    assert_eq!(script.machine.state(), State::Disconnecting);
}

#[test]
fn b_77_urgent_bytes_are_announced_without_payload_credit() {
    let mut script = Script::new();
    script.machine.write(5);
    script.machine.mark_urgent();
    script.machine.credits.start(2);
    let (parsed, _) = script.next().unwrap();
    assert!(parsed.payload.is_empty() && parsed.base.flags.urgent_pending);
    script.expect_silence();
    script.say(Message::Data);
    let (parsed, transmit) = script.next().unwrap();
    assert!(parsed.base.flags.urgent && !parsed.base.flags.urgent_pending);
    assert!(transmit.solicited);
}

#[test]
fn b_77_a_buffer_before_the_urgent_byte_keeps_its_announcement() {
    for (len, early) in [(65534, true), (65535, false)] {
        let mut script = Script::pipelined();
        script.machine.send_buffer(part(0, len)).unwrap();
        script.machine.write(1);
        script.machine.mark_urgent();
        let (advert, _) = script.next().unwrap();
        assert_eq!(advert.message, Message::SrcAvail(part(0, len)));
        assert_eq!(advert.base.flags.urgent_pending, early);
        script.expect_silence();
        script.say(Message::RdmaRdCompl(len));
        let (data, _) = script.next().unwrap();
        assert!(data.base.flags.urgent);
        assert_eq!(data.base.flags.urgent_pending, !early);
    }
}

#[test]
fn b_77_buffers_behind_the_urgent_byte_do_not_count() {
    let mut script = Script::pipelined();
    script.machine.write(100);
    script.machine.mark_urgent();
    script.machine.send_buffer(part(0, 100_000)).unwrap();
    script.machine.credits.start(2 + 1);
    let (update, _) = script.next().unwrap();
    assert!(update.payload.is_empty() && update.base.flags.urgent_pending);
}

#[test]
fn b_82_what_announces_an_urgent_byte_is_solicited() {
    let mut script = Script::new();
    script.machine.write(5);
    script.machine.mark_urgent();
    script.machine.credits.start(2);
    let (parsed, transmit) = script.next().unwrap();
    assert!(parsed.base.flags.urgent_pending && parsed.payload.is_empty());
    assert!(transmit.solicited);

    let mut script = Script::new();
    script.machine.write(150);
    script.machine.mark_urgent();
    let (parsed, transmit) = script.next().unwrap();
    assert!(parsed.base.flags.urgent_pending && !parsed.base.flags.urgent);
    assert_eq!((transmit.payload, transmit.solicited), (100, true));
    let (_, transmit) = script.next().unwrap();
    assert!(transmit.solicited);
    script.machine.write(1);
    script.machine.push();
    assert!(!script.expect(Message::Data).solicited);
}

#[test]
fn b_78_an_urgent_byte_ends_its_message() {
    let mut script = Script::new();
    script.machine.write(5);
    script.machine.mark_urgent();
    script.machine.write(20);
    script.machine.push();
    let (parsed, _) = script.next().unwrap();
    assert_eq!(parsed.payload.len(), 5);
    assert!(parsed.base.flags.urgent && parsed.base.flags.urgent_pending);
    let (parsed, _) = script.next().unwrap();
    assert!(!parsed.base.flags.urgent);
}

#[test]
fn b_79_the_user_is_told_of_an_urgent_byte() {
    let mut script = Script::new();
    let pending = Flags {
        urgent_pending: true,
        ..Flags::default()
    };
    let received = script.try_say(Message::Data, pending, b"").unwrap();
    assert!(received.urgent_pending && !received.urgent);
    assert!(script.machine.take_events().contains(Events::URGENT));

    let urgent = Flags {
        urgent: true,
        ..Flags::default()
    };
    let again = script.try_say(Message::Data, pending, b"").unwrap();
    assert!(!again.urgent_pending, "announced once");
    let here = script.try_say(Message::Data, urgent, b"x").unwrap();
    assert!(here.urgent && !here.urgent_pending);
    let silent = script.try_say(Message::Data, urgent, b"y").unwrap();
    assert!(silent.urgent && silent.urgent_pending, "not announced");
    assert_eq!(script.machine.received_bytes(), 2);
}

#[test]
fn b_80_an_urgent_byte_goes_by_data() {
    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(5);
    script.machine.mark_urgent();
    assert_eq!(script.expect(Message::Data).payload, 5);
}

#[test]
fn b_80_nothing_behind_an_urgent_byte_is_written_to_memory_offered_before() {
    let mut script = Script::pipelined();
    for _ in 0..3 {
        script.say(Message::SinkAvail(LARGE, 0));
    }
    script.machine.write(5);
    script.machine.mark_urgent();
    script.machine.write(7);
    script.machine.push();
    script.machine.send_buffer(LARGE).unwrap();
    // Each uses up one.
    assert_eq!(script.expect(Message::Data).payload, 5);
    assert_eq!(script.expect(Message::Data).payload, 7);
    assert_eq!(script.expect(Message::Data).payload, 100);
    // Sent before the urgent byte was there, and used up as well.
    script.say(Message::SinkAvail(LARGE, 0));
    assert_eq!(script.expect(Message::Data).payload, 100);
    script.acknowledge();
    script.say(Message::SinkAvail(LARGE, 0));
    script.expect(Message::RdmaWrCompl(800));
}

#[test]
fn b_80_a_cancel_takes_back_what_was_offered_before() {
    for leave in [false, true] {
        let mut script = Script::pipelined();
        for _ in 0..2 {
            script.say(Message::SinkAvail(LARGE, 0));
        }
        script.machine.write(5);
        script.machine.mark_urgent();
        assert_eq!(script.expect(Message::Data).payload, 5);
        if leave {
            script.machine.want_mode(Mode::Combined);
            script.expect(Message::ModeChange(Half::Receive, Mode::Combined));
            script.acknowledge();
            script.say(Message::Data);
            script.machine.want_mode(Mode::Pipelined);
            script.expect(Message::ModeChange(Half::Receive, Mode::Pipelined));
        } else {
            script.say(Message::SinkAvailCancel);
            script.expect(Message::SinkCancelAck);
        }
        script.acknowledge();
        script.say(Message::SinkAvail(LARGE, 0));
        script.machine.write(1);
        script.machine.push();
        script.expect(Message::RdmaWrCompl(1));
    }
}

#[test]
fn b_83_the_peer_moves() {
    let mut script = Script::new();
    script.machine.set_movable(true);
    script.say(Message::SuspComm(0x1_1234));
    assert!(script.machine.take_events().contains(Events::SUSPEND));
    script.machine.write(7);
    script.machine.push();
    script.expect(Message::SuspCommAck);
    assert_eq!(script.machine.state(), State::Disconnecting);
    assert_eq!(script.machine.resume_port(), Some(0x1234));
    script.machine.disconnected();
    assert_eq!(script.machine.aborted(), None);
    assert_eq!(script.machine.unsent(), 7, "for the next connection");
}

#[test]
fn b_72_and_b_83_who_cannot_follow_the_peer_is_reset() {
    for completed in [true, false] {
        let mut script = Script::new();
        script.machine.write(7);
        script.say(Message::SuspComm(0x1_1234));
        script.machine.push();
        if completed {
            script.expect(Message::SuspCommAck);
            let events = Events::ABORTED | Events::DISCONNECT;
            assert!(script.machine.take_events().contains(events));
        } else {
            script.machine.poll_transmit().unwrap();
        }
        script.machine.disconnected();
        assert_eq!(script.machine.aborted(), Some(AbortReason::PeerReset));
    }

    // Both streams have ended: nothing is lost.
    let mut script = Script::new();
    script.machine.shutdown_send();
    script.machine.poll_transmit().unwrap();
    script.say(Message::DisConn);
    script.say(Message::SuspComm(0x1_1234));
    script.expect(Message::SuspCommAck);
    script.machine.disconnected();
    assert_eq!(script.machine.aborted(), None);
}

#[test]
fn b_83_this_end_moves() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    assert!(script.machine.suspend(0x1234));
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len - INLINE));
    script.expect(Message::SuspComm(0x1_1234));
    for _ in 0..3 {
        script.say_with(Message::Data, b"late");
    }
    script.expect_silence();
    script.say(Message::SuspCommAck);
    assert_eq!(script.machine.state(), State::Disconnecting);
    assert_eq!(script.machine.aborted(), None);
}

#[test]
fn b_83_both_move() {
    let mut accepting = Script::of(Side::Accepting);
    accepting.machine.suspend(1);
    accepting.expect(Message::SuspComm(0x1_0001));
    accepting.say(Message::SuspComm(0x1_0002));
    assert_eq!(accepting.machine.resume_port(), None);
    accepting.expect_silence();
    accepting.say(Message::SuspCommAck);

    let mut connecting = Script::of(Side::Connecting);
    connecting.machine.suspend(2);
    connecting.expect(Message::SuspComm(0x1_0002));
    connecting.say(Message::SuspComm(0x1_0001));
    connecting.expect(Message::SuspCommAck);
    assert_eq!(connecting.machine.resume_port(), Some(1));
}

#[test]
fn b_83_of_two_that_move_the_answer_is_all_that_follows() {
    let mut script = Script::of(Side::Connecting);
    script.machine.suspend(2);
    script.expect(Message::SuspComm(0x1_0002));
    // This crossed the SuspComm, and so do the buffers that come back.
    script.say(Message::ChRcvBuf(5000));
    script.say(Message::SuspComm(0x1_0001));
    script.machine.posted(50);
    let transmit = script.machine.poll_transmit().unwrap();
    assert_eq!(transmit.header.mid(), wire::mid::SUSP_COMM_ACK);
    assert!(script.machine.poll_transmit().is_none());
}

#[test]
fn b_83_nonsense() {
    for id in [0, 0x1_0000, 0x2_0001, u64::MAX] {
        assert_eq!(
            Script::new().refused(Message::SuspComm(id), b""),
            Rule::A(6)
        );
    }
    let mut script = Script::new();
    script.say(Message::SuspComm(0x1_0001));
    assert_eq!(
        script.refused(Message::SuspComm(0x1_0001), b""),
        Rule::B(83)
    );
    assert_eq!(
        Script::new().refused(Message::SuspCommAck, b""),
        Rule::B(83)
    );
}

#[test]
fn b_17_an_advertisement_without_payload_goes_on_two_credits() {
    let mut script = Script::pipelined();
    script.machine.send_buffer(LARGE).unwrap();
    script.machine.credits.start(2 + 1);
    script.expect(Message::SrcAvail(LARGE));

    let mut script = Script::new();
    script.machine.send_buffer(LARGE).unwrap();
    script.machine.credits.start(2);
    script.expect_silence();
}

#[test]
fn b_28_buffers_of_one_byte_and_of_none() {
    let mut script = Script::new();
    assert_eq!(script.machine.send_buffer(part(0, 0)), None);
    assert!(script.machine.send_buffer(part(0, 1)).is_some());
    let huge = Region {
        len: (1 << 31) + 1,
        ..LARGE
    };
    assert_eq!(script.machine.send_buffer(huge), None);
    assert_eq!(script.machine.offer_buffer(huge), None);
}

#[test]
fn b_51_no_offer_while_declined_bytes_are_to_come() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(part(0, 10)));
    script.machine.decline();
    script.expect(Message::SendSm);
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect_silence();
    script.acknowledge();
    script.say_with(Message::Data, b"fir");
    script.expect_silence();
    script.say_with(Message::Data, b"st ten!");
    script.expect(Message::SinkAvail(LARGE, 2));
}

#[test]
fn b_30_no_more_sink_avails_than_max_adverts() {
    let mut script = Script::pipelined();
    for _ in 0..4 {
        script.say(Message::SinkAvail(LARGE, 0));
    }
    assert_eq!(
        script.refused(Message::SinkAvail(LARGE, 0), b""),
        Rule::B(30)
    );
}

#[test]
fn b_49_payload_of_a_src_avail_counts() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.say(Message::RdmaRdCompl(LARGE.len - INLINE));
    script.machine.want_mode(Mode::Pipelined);
    script.expect(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.say(Message::SinkAvail(LARGE, 1));
    script.machine.write(1);
    script.machine.push();
    script.expect(Message::RdmaWrCompl(1));
}

#[test]
fn b_29_one_src_avail_until_its_answer_is_known() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    let second = script.refused(Message::SrcAvail(LARGE), b"head");
    assert_eq!(second, Rule::B(29));

    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.decline();
    script.expect(Message::SendSm);
    let early = script.refused(Message::SrcAvail(LARGE), b"head");
    assert_eq!(early, Rule::B(29));

    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.decline();
    script.expect(Message::SendSm);
    script.acknowledge();
    script.say_with(Message::SrcAvail(LARGE), b"head");
}

#[test]
fn b_31_a_completion_belongs_to_the_oldest_read_in_flight() {
    let mut script = Script::pipelined();
    // The first is not reported before the second was read.
    for _ in 0..2 {
        script.say(Message::SrcAvail(LARGE));
        script.machine.start_read(1000).unwrap();
        script.machine.read_done(1000);
    }
    script.expect(Message::RdmaRdCompl(1000));
    script.expect(Message::RdmaRdCompl(1000));
}

#[test]
fn b_33_what_is_read_already_cannot_be_declined() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(1000).unwrap();
    script.machine.decline();
    script.machine.read_done(1000);
    script.expect(Message::RdmaRdCompl(1000));
    script.expect_silence();
}

#[test]
fn b_40_what_was_read_before_the_cancel_is_reported() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(300).unwrap();
    script.machine.read_done(300);
    script.say(Message::SrcAvailCancel);
    script.expect(Message::RdmaRdCompl(300));
    script.expect(Message::SendSm);
}

#[test]
fn b_39_and_b_43_a_second_cancel_waits_for_the_answer_to_the_first() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.machine.start_read(300).unwrap();
    script.say(Message::SrcAvailCancel);
    assert_eq!(script.refused(Message::SrcAvailCancel, b""), Rule::B(39));

    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.say(Message::SrcAvailCancel);
    script.expect(Message::SendSm);
    // It crosses the answer, and finds nothing outstanding.
    script.say(Message::SrcAvailCancel);
    script.expect_silence();
}

#[test]
fn b_40_what_came_whole_is_reported_in_spite_of_a_cancel() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(part(0, 4)), b"head");
    script.say(Message::SrcAvailCancel);
    script.expect(Message::RdmaRdCompl(0));
    script.expect_silence();
    script.say_with(Message::SrcAvail(LARGE), b"head");
}

#[test]
fn b_42_payload_does_not_come_before_the_answer_to_the_cancel() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.say(Message::SrcAvailCancel);
    script.expect(Message::SendSm);
    assert_eq!(script.refused(Message::Data, b"early"), Rule::B(25));
}

#[test]
fn b_42_two_cancels_that_cross() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.acknowledge();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.say(Message::SrcAvailCancel);
    script.expect(Message::SendSm);
    // The peer works on our cancel, and so does not acknowledge the SendSm that allows it this.
    script.say_with(Message::Data, b"rest");
    script.acknowledge();
    script.say(Message::SendSm);
    script.expect(Message::Data);
}

#[test]
fn b_68_a_disconn_before_the_answer_is_known() {
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.decline();
    script.expect(Message::SendSm);
    assert_eq!(script.refused(Message::DisConn, b""), Rule::B(68));

    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.say(Message::SrcAvailCancel);
    assert_eq!(script.refused(Message::DisConn, b""), Rule::B(68));
}

#[test]
fn b_30_max_adverts_limits_src_avails_and_sink_avails_together() {
    let mut script = Script::pipelined();
    for _ in 0..2 {
        script.machine.offer_buffer(LARGE).unwrap();
        script.expect(Message::SinkAvail(LARGE, 0));
    }
    for _ in 0..2 {
        script.expect_buffer(LARGE);
    }
    script.machine.offer_buffer(LARGE).unwrap();
    script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    script.expect(Message::SinkAvail(LARGE, 0));
    script.expect_silence();
    script.say(Message::RdmaWrCompl(1));
    script.expect(Message::SrcAvail(LARGE));
    script.expect_silence();
}

#[test]
fn b_30_and_b_36_what_cannot_be_advertised_beside_sink_avails_is_copied() {
    for mode in [Mode::Combined, Mode::Pipelined] {
        let mut script = Script::new();
        script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
        if mode == Mode::Pipelined {
            script.machine.want_mode(mode);
            script.expect(Message::ModeChange(Half::Receive, mode));
        }
        for _ in 0..4 {
            script.machine.offer_buffer(LARGE).unwrap();
            script.expect(Message::SinkAvail(LARGE, 0));
        }
        // Else the peer might wait for these bytes before it writes.
        script.machine.send_buffer(LARGE).unwrap();
        assert_eq!(script.expect(Message::Data).payload, 100);
        script.say(Message::RdmaWrCompl(1));
        let rest = part(100, 900);
        script.expect(Message::SrcAvail(rest));
    }
}

#[test]
fn b_30_a_peer_that_exceeds_max_adverts_by_both_kinds() {
    for sinks in 0..=4 {
        for next in [Message::SrcAvail(LARGE), Message::SinkAvail(LARGE, 0)] {
            let mut script = Script::pipelined();
            for _ in 0..sinks {
                script.say(Message::SinkAvail(LARGE, 0));
            }
            for _ in sinks..4 {
                script.say(Message::SrcAvail(LARGE));
            }
            assert_eq!(script.refused(next, b""), Rule::B(30), "{sinks}");
        }
    }

    // The peer forgets its SinkAvails with the end of this stream.
    let mut script = Script::pipelined();
    for _ in 0..4 {
        script.say(Message::SinkAvail(LARGE, 0));
    }
    script.machine.shutdown_send();
    script.expect(Message::DisConn);
    for _ in 0..4 {
        script.say(Message::SrcAvail(LARGE));
    }
    assert_eq!(script.refused(Message::SrcAvail(LARGE), b""), Rule::B(30));
}

#[test]
fn b_30_and_b_46_no_more_offers_than_the_peer_takes() {
    let mut script = Script::pipelined();
    for _ in 0..5 {
        script.machine.offer_buffer(LARGE).unwrap();
    }
    for _ in 0..4 {
        script.expect(Message::SinkAvail(LARGE, 0));
    }
    script.expect_silence();
    script.say(Message::RdmaWrCompl(1000));
    script.expect(Message::SinkAvail(LARGE, 0));
}

#[test]
fn b_47_no_write_of_nothing_or_beyond_the_buffer() {
    for (len, ok) in [(0, false), (1, true), (1000, true), (1001, false)] {
        let mut script = Script::pipelined();
        script.machine.offer_buffer(LARGE).unwrap();
        script.expect(Message::SinkAvail(LARGE, 0));
        let result = script.try_say(Message::RdmaWrCompl(len), Flags::default(), b"");
        assert_eq!(result.is_ok(), ok, "{len}");
        if let Err(violation) = result {
            assert_eq!(violation.rule, Rule::B(47));
        }
    }
}

#[test]
fn b_53_no_offer_until_the_cancel_is_answered() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.cancel_offers();
    script.machine.offer_buffer(part(0, 500)).unwrap();
    script.expect(Message::SinkAvailCancel);
    script.expect_silence();
    script.say(Message::SinkCancelAck);
    assert!(script.machine.offer_finished().is_some());
    assert_eq!(script.machine.offer_finished(), None);
    script.expect(Message::SinkAvail(part(0, 500), 0));
}

#[test]
fn b_53_nothing_is_cancelled_that_is_not_open() {
    let mut script = Script::new();
    script.machine.offer_buffer(LARGE).unwrap();
    script.machine.cancel_offers();
    assert!(script.machine.offer_finished().is_some());
    script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.expect_silence();
}

#[test]
fn b_53_and_b_58_a_cancel_and_the_end_of_pipelined_mode() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.cancel_offers();
    script.say(Message::ModeChange(Half::Receive, Mode::Combined));
    assert!(script.machine.offer_finished().is_some());
    script.expect_silence();

    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.cancel_offers();
    script.expect(Message::SinkAvailCancel);
    script.say(Message::ModeChange(Half::Receive, Mode::Combined));
    // The cancel and the change crossed, so that the peer finds nothing to cancel.
    assert!(script.machine.offer_finished().is_some());
    script.answer();
    script.say(Message::ModeChange(Half::Receive, Mode::Pipelined));
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
}

#[test]
fn b_83_the_peer_drops_the_connection_before_the_answer_completes() {
    let mut script = Script::new();
    script.machine.set_movable(true);
    script.say(Message::SuspComm(0x1_1234));
    script.machine.poll_transmit().unwrap();
    assert_eq!(script.machine.state(), State::Established);
    assert!(script.machine.poll_transmit().is_none());
    script.machine.disconnected();
    assert_eq!(script.machine.aborted(), None);
}

#[test]
fn b_77_nothing_is_urgent_when_nothing_waits() {
    let mut script = Script::new();
    script.machine.mark_urgent();
    script.expect_silence();
    script.machine.write(1);
    script.machine.push();
    let (data, _) = script.next().unwrap();
    assert_eq!(data.base.flags, Flags::default());
}

#[test]
fn b_42_a_decline_waits_for_the_end_of_the_own_cancel() {
    for read in [false, true] {
        let mut script = Script::new();
        script.expect_buffer(LARGE);
        script.acknowledge();
        script.say_with(Message::SrcAvail(LARGE), b"head");
        script.machine.cancel_send(false);
        script.expect(Message::SrcAvailCancel);
        if read {
            // A report needs no acknowledgement.
            script.machine.start_read(100).unwrap();
            script.machine.read_done(100);
            script.expect(Message::RdmaRdCompl(100));
        }
        script.machine.decline();
        // The peer holds its acknowledgement, and so could not say whether its Data follows the
        // SendSm.
        script.expect_silence();
        script.acknowledge();
        script.say(Message::SendSm);
        script.expect(Message::SendSm);
        script.expect(Message::Data);
    }
}

#[test]
fn b_15_and_b_16_writing_is_announced_with_credit_only() {
    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(LARGE, 0));
    script.machine.write(1);
    script.machine.push();
    // One message went out before: this leaves nothing.
    script.machine.credits.start(1);
    script.expect_silence();
    script.machine.credits.start(3);
    script.expect(Message::RdmaWrCompl(1));
}

#[test]
fn b_46_memory_is_offered_to_an_open_stream_only() {
    let mut idle = Machine::new(config(Side::Connecting)).unwrap();
    assert_eq!(idle.offer_buffer(LARGE), None);
    assert_eq!(idle.send_buffer(LARGE), None);

    let mut script = Script::new();
    script.machine.shutdown_receive();
    assert_eq!(script.machine.offer_buffer(LARGE), None);
    script.machine.shutdown_send();
    assert_eq!(script.machine.send_buffer(LARGE), None);
}

#[test]
fn b_28_and_b_46_as_many_buffers_as_there_is_room_for() {
    let mut script = Script::new();
    let largest = Region {
        len: 1 << 31,
        ..LARGE
    };
    let mut ids = Vec::new();
    for _ in 0..ADVERTS {
        ids.push(script.machine.send_buffer(largest).unwrap());
        ids.push(script.machine.offer_buffer(largest).unwrap());
    }
    assert_eq!(script.machine.send_buffer(largest), None);
    assert_eq!(script.machine.offer_buffer(largest), None);
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "{id:?} twice");
    }
}

#[test]
fn b_63_sizes_that_no_buffer_has() {
    let mut script = Script::new();
    script.machine.set_resizable(true);
    assert!(!script.machine.ask_resize(36));
    assert!(!script.machine.resized(100), "nobody asked");
    script.say(Message::ChRcvBuf(37));
    assert!(!script.machine.resized(36));
    assert!(script.machine.resized(37));
}

#[test]
fn b_63_no_event_for_a_wish_that_is_refused_at_once() {
    let mut script = Script::new();
    script.say(Message::ChRcvBuf(5000));
    assert!(!script.machine.take_events().contains(Events::RESIZE));
    script.expect(Message::ChRcvBufAck(116));
}

#[test]
fn b_71_no_abort_conn_without_credit_nor_to_a_peer_that_aborted() {
    for (credits, said) in [(2, false), (3, true)] {
        let mut script = Script::new();
        script.machine.shutdown_send();
        script.expect(Message::DisConn);
        // One message went out: this is a credit of 1, which an AbortConn without news may not use,
        // or of 2.
        script.machine.credits.start(credits);
        script.machine.abort();
        let (state, events) = (script.machine.state(), script.machine.take_events());
        assert_eq!(state == State::Aborting, said);
        assert_eq!(events.contains(Events::DISCONNECT), !said);
        assert_eq!(script.next().is_some(), said);
    }

    let mut script = Script::new();
    script.machine.shutdown_send();
    script.machine.poll_transmit().unwrap();
    script.say(Message::DisConn);
    assert_eq!(script.machine.state(), State::Closing);
    script.say(Message::AbortConn);
    assert_eq!(script.machine.state(), State::Disconnecting);
    assert_eq!(script.machine.aborted(), Some(AbortReason::PeerAborted));
    script.expect_silence();
}

#[test]
fn b_71_only_the_arrival_of_the_abort_conn_ends_the_wait_for_it() {
    let mut script = Script::new();
    script.machine.write(100);
    let data = script.machine.poll_transmit().unwrap();
    script.machine.shutdown_send();
    let disconn = script.machine.poll_transmit().unwrap();
    script.machine.abort();
    let abort = script.machine.poll_transmit().unwrap();
    script.machine.take_events();
    for earlier in [data, disconn] {
        script.machine.sent(earlier.tag);
        assert_eq!(script.machine.state(), State::Aborting);
    }
    assert!(!script.machine.take_events().contains(Events::DISCONNECT));
    script.machine.sent(abort.tag);
    assert!(script.machine.take_events().contains(Events::DISCONNECT));
}

#[test]
fn b_68_a_stream_ends_once() {
    for (shut, state) in [(false, State::Disconnecting), (true, State::Aborting)] {
        let mut script = Script::new();
        script.say(Message::DisConn);
        if shut {
            // Not known to have arrived, so that the connection is not over yet.
            script.machine.shutdown_send();
            script.machine.poll_transmit().unwrap();
        }
        assert_eq!(script.refused(Message::DisConn, b""), Rule::B(68));
        assert_eq!(script.machine.state(), state);
    }
}

#[test]
fn b_71_the_first_reason_counts() {
    let mut script = Script::new();
    script.machine.shutdown_send();
    script.expect(Message::DisConn);
    script.machine.abort();
    script.machine.disconnected();
    assert_eq!(script.machine.aborted(), Some(AbortReason::Local));
}

#[test]
fn b_74_time_does_nothing_to_a_connection_that_is_gone() {
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KEEPALIVE));
    script.machine.disconnected();
    script.machine.take_events();
    assert_eq!(script.machine.deadline(), None);
    script.machine.expired(1000);
    assert_eq!(script.machine.take_events(), Events::default());
}

#[test]
fn b_74_and_b_81_the_earliest_of_all_deadlines() {
    let mut script = Script::new();
    script.machine.set_keepalive(Some(KeepAlive {
        idle: 1_000_000_000,
        ..KEEPALIVE
    }));
    script.machine.write(1);
    assert_eq!(script.machine.deadline(), Some(200_000_000), "held");
    script.machine.expired(200_000_000);
    script.expect(Message::Data);
    assert_eq!(script.machine.deadline(), Some(1_200_000_000), "keepalive");
}

#[test]
fn b_83_moves_that_cannot_be() {
    let mut idle = Machine::new(config(Side::Connecting)).unwrap();
    assert!(!idle.suspend(1));
    let mut script = Script::new();
    assert!(!script.machine.suspend(0));
    assert!(script.machine.suspend(1));
    assert!(!script.machine.suspend(2));
    script.expect(Message::SuspComm(0x1_0001));
}

#[test]
fn b_83_a_move_waits_for_transfers_of_every_kind() {
    // What this end reads.
    let mut script = Script::new();
    script.say_with(Message::SrcAvail(LARGE), b"head");
    script.machine.suspend(1);
    script.expect_silence();
    script.machine.decline();
    script.expect(Message::SendSm);
    script.expect(Message::SuspComm(0x1_0001));

    // What the peer may write.
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.suspend(1);
    script.expect_silence();
    script.say(Message::RdmaWrCompl(1));
    script.expect(Message::SuspComm(0x1_0001));

    // What is on its way.
    for asked in [false, true] {
        let mut script = Script::new();
        script.machine.write(1);
        script.machine.push();
        let data = script.machine.poll_transmit().unwrap();
        if asked {
            script.machine.suspend(1);
        } else {
            script.say(Message::SuspComm(0x1_0001));
        }
        script.expect_silence();
        script.machine.sent(data.tag);
        script.expect(match asked {
            true => Message::SuspComm(0x1_0001),
            false => Message::SuspCommAck,
        });
    }
}

#[test]
fn b_83_nothing_new_is_sent_before_a_move() {
    let mut script = Script::new();
    script.expect_buffer(LARGE);
    script.machine.suspend(1);
    script.machine.want_mode(Mode::Pipelined);
    script.machine.ask_resize(500);
    script.machine.shutdown_send();
    script.expect_silence();
}

#[test]
fn what_the_user_may_ask() {
    let mut script = Script::new();
    assert!(!script.machine.send_shut() && !script.machine.peer_closed());
    script.machine.write(5);
    assert_eq!(
        (script.machine.unsent(), script.machine.in_flight()),
        (5, 0)
    );
    script.machine.push();
    let data = script.machine.poll_transmit().unwrap();
    assert_eq!(
        (script.machine.unsent(), script.machine.in_flight()),
        (0, 5)
    );
    script.machine.sent(data.tag);
    assert_eq!(script.machine.in_flight(), 0);
    script.machine.shutdown_send();
    assert!(script.machine.send_shut());
    script.say(Message::DisConn);
    assert!(script.machine.peer_closed());
}

#[test]
fn who_is_told_of_what() {
    let mut script = Script::pipelined();
    let machine = &mut script.machine;
    machine.take_events();
    machine.cancel_send(false);
    assert_eq!(machine.take_events(), Events::FINISHED);
    machine.cancel_offers();
    assert_eq!(machine.take_events(), Events::FINISHED);
    machine.shutdown_receive();
    assert_eq!(machine.take_events(), Events::default());
    machine.shutdown_send();
    assert_eq!(machine.take_events(), Events::WRITABLE);

    // What crosses an offer is not to be read.
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.machine.take_events();
    script.say(Message::SrcAvail(LARGE));
    assert_eq!(script.machine.take_events(), Events::default());

    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    for (message, events) in [
        (Message::Data, Events::default()),
        (Message::RdmaWrCompl(1), Events::READABLE | Events::FINISHED),
        (Message::SrcAvail(LARGE), Events::READABLE),
        (Message::SrcAvailCancel, Events::default()),
        (
            Message::ModeChange(Half::Receive, Mode::Combined),
            Events::FINISHED,
        ),
        (
            Message::ModeChange(Half::Receive, Mode::Pipelined),
            Events::default(),
        ),
        (
            Message::DisConn,
            Events::PEER_CLOSED | Events::READABLE | Events::FINISHED,
        ),
    ] {
        if message == Message::DisConn
            || message == Message::ModeChange(Half::Receive, Mode::Pipelined)
        {
            while script.next().is_some() {}
            script.acknowledge();
        }
        script.machine.take_events();
        script.say(message);
        assert_eq!(script.machine.take_events(), events, "{message:?}");
    }
}

#[test]
fn b_35_a_buffer_is_finished_when_no_message_reads_it_any_more() {
    for (piece, carried) in [(part(0, 100), true), (LARGE, false)] {
        let mut script = Script::pipelined();
        let id = script.machine.send_buffer(piece).unwrap();
        let transmit = script.machine.poll_transmit().unwrap();
        if !carried {
            script.say(Message::RdmaRdCompl(piece.len));
        }
        // What the SrcAvail itself does not carry need not wait for its completion.
        assert_eq!(script.machine.finished().is_some(), !carried);
        script.machine.sent(transmit.tag);
        if carried {
            let bytes = piece.len;
            assert_eq!(script.machine.finished(), Some(Finished { id, bytes }));
        }
    }
}

#[test]
fn b_22_a_buffer_pushes_what_stands_before_it() {
    let mut script = Script::new();
    script.machine.set_cork(true);
    script.machine.write(10);
    script.expect_silence();
    script.machine.send_buffer(LARGE).unwrap();
    assert_eq!(script.expect(Message::Data).payload, 10);
    script.expect(Message::SrcAvail(LARGE));
}

#[test]
fn b_29_one_src_avail_and_nothing_behind_it_in_combined_mode() {
    let mut script = Script::new();
    let first = script.expect_buffer(LARGE);
    let second = script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.machine.cancel_send(false);
    script.machine.cancel_send(false);
    script.expect(Message::SrcAvailCancel);
    script.expect_silence();
    script.acknowledge();
    script.say(Message::SendSm);
    for (id, left) in [(first, LARGE.len - INLINE), (second, LARGE.len)] {
        let mut bytes = 0;
        while bytes < left {
            let data = script.expect(Message::Data);
            assert!(matches!(data.source, Source::Buffer(from, _) if from == id));
            bytes += data.payload;
        }
        let bytes = LARGE.len;
        assert_eq!(script.machine.finished(), Some(Finished { id, bytes }));
    }
}

#[test]
fn b_30_nothing_overtakes_an_open_src_avail() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.machine.write(10);
    script.machine.push();
    script.machine.send_buffer(LARGE).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    assert_eq!(script.expect(Message::Data).payload, 10);
    script.expect(Message::SrcAvail(LARGE));
    // A small buffer is copied, and so waits too.
    script.machine.send_buffer(part(0, 100)).unwrap();
    script.expect_silence();
    script.say(Message::RdmaRdCompl(LARGE.len));
    assert_eq!(script.expect(Message::Data).payload, 100);
}

#[test]
fn b_35_the_user_is_told_of_a_buffer_that_was_sent() {
    let mut script = Script::new();
    script.machine.send_buffer(part(0, 100)).unwrap();
    let data = script.machine.poll_transmit().unwrap();
    script.machine.take_events();
    script.machine.sent(data.tag);
    assert_eq!(script.machine.take_events(), Events::FINISHED);
}

#[test]
fn b_36_what_was_withdrawn_comes_back_at_once() {
    let mut script = Script::new();
    script.machine.set_cork(true);
    script.machine.write(10);
    let id = script.machine.send_buffer(LARGE).unwrap();
    script.machine.withdraw_send(id);
    assert_eq!(script.machine.finished(), Some(Finished { id, bytes: 0 }));
    // The bytes before it wait for more again.
    script.expect_silence();
    script.machine.set_cork(false);
    assert_eq!(script.expect(Message::Data).payload, 10);
    script.expect_silence();
}

#[test]
fn b_36_a_withdrawal_leaves_what_came_before() {
    let mut script = Script::new();
    let first = script.expect_buffer(LARGE);
    let second = script.machine.send_buffer(LARGE).unwrap();
    let third = script.machine.send_buffer(LARGE).unwrap();
    assert_eq!(script.machine.buffered(), 3 * u64::from(LARGE.len) - 84);
    script.machine.withdraw_send(second);
    for id in [second, third] {
        assert_eq!(script.machine.finished(), Some(Finished { id, bytes: 0 }));
    }
    assert_eq!(script.machine.finished(), None);
    assert_eq!(script.machine.buffered(), u64::from(LARGE.len) - 84);
    script.expect(Message::SrcAvailCancel);
    script.say(Message::SendSm);
    let mut bytes = 84;
    while bytes < LARGE.len {
        bytes += script.expect(Message::Data).payload;
    }
    assert_eq!(script.machine.buffered(), 0);
    assert_eq!(
        script.machine.finished(),
        Some(Finished { id: first, bytes })
    );
}

#[test]
fn b_36_no_withdrawal_with_bytes_behind() {
    let mut script = Script::new();
    let id = script.machine.send_buffer(LARGE).unwrap();
    script.machine.write(10);
    script.machine.push();
    script.machine.cancel_send(true);
    let mut bytes = 0;
    while bytes < LARGE.len {
        bytes += script.expect(Message::Data).payload;
    }
    assert_eq!(script.machine.finished(), Some(Finished { id, bytes }));
    assert_eq!(script.expect(Message::Data).payload, 10);
}

#[test]
fn b_36_withdrawal_of_what_is_being_copied() {
    let mut script = Script::new();
    let id = script.expect_buffer(LARGE);
    script.say(Message::SendSm);
    let data = script.expect(Message::Data);
    script.machine.cancel_send(true);
    let bytes = INLINE + data.payload;
    assert_eq!(script.machine.finished(), Some(Finished { id, bytes }));
    script.expect_silence();
}

#[test]
fn b_50_crossing_a_cancel() {
    for withdraw in [false, true] {
        let mut script = Script::pipelined();
        let id = script.expect_buffer(LARGE);
        script.machine.cancel_send(withdraw);
        script.expect(Message::SrcAvailCancel);
        script.machine.take_events();
        script.say(Message::SinkAvail(part(0, 950), 0));
        if withdraw {
            assert!(script.machine.take_events().contains(Events::FINISHED));
            assert_eq!(script.machine.finished(), Some(Finished { id, bytes: 0 }));
            script.expect_silence();
        } else {
            assert_eq!(
                script.expect(Message::RdmaWrCompl(950)).source,
                Source::Buffer(id, 0)
            );
            assert_eq!(script.expect(Message::Data).payload, 50);
        }
    }
}

#[test]
fn b_27_the_message_carries_what_comes_before_the_page() {
    for (offset, inline) in [(4096 - 1, 1), (4096 - 84, 84), (4096 - 85, 84), (0, 84)] {
        let mut script = Script::new();
        let region = Region {
            va: 0x5000 + offset,
            ..LARGE
        };
        script.machine.send_buffer(region).unwrap();
        let advert = script.expect(Message::SrcAvail(region));
        assert_eq!(advert.payload, inline, "at {offset}");
    }
}

#[test]
fn b_31_reads_may_be_in_flight_for_more_than_one_buffer() {
    let mut script = Script::pipelined();
    script.say(Message::SrcAvail(LARGE));
    script.say(Message::SrcAvail(part(0, 600)));
    script.machine.start_read(1000).unwrap();
    let readable = script.machine.readable().unwrap();
    assert_eq!((readable.after, readable.region), (0, part(0, 600)));
    assert_eq!(script.machine.start_read(500), Some(part(0, 500)));
    assert_eq!(script.machine.start_read(500), Some(part(500, 100)));
    assert_eq!(script.machine.start_read(1), None);
    for len in [1000, 500] {
        script.machine.read_done(len);
    }
    script.expect(Message::RdmaRdCompl(1000));
    script.expect_silence();
    script.machine.read_done(100);
    script.expect(Message::RdmaRdCompl(600));
}

#[test]
fn b_36_bytes_between_two_buffers_keep_the_first() {
    let mut script = Script::new();
    let first = script.machine.send_buffer(part(0, 200)).unwrap();
    script.machine.write(10);
    let second = script.machine.send_buffer(LARGE).unwrap();
    let third = script.machine.send_buffer(LARGE).unwrap();
    script.machine.withdraw_send(first);
    assert_eq!(script.machine.buffered(), 200);
    for id in [second, third] {
        assert_eq!(script.machine.finished(), Some(Finished { id, bytes: 0 }));
    }
    let sent: u32 = (0..3).map(|_| script.expect(Message::Data).payload).sum();
    assert_eq!(sent, 200 + 10);
    let bytes = 200;
    assert_eq!(
        script.machine.finished(),
        Some(Finished { id: first, bytes })
    );
    script.expect_silence();
}

#[test]
fn b_36_no_withdrawal_of_anything_with_bytes_behind() {
    let mut script = Script::new();
    let id = script.machine.send_buffer(LARGE).unwrap();
    script.machine.write(1);
    script.machine.withdraw_send(id);
    assert_eq!(script.machine.take_events(), Events::FINISHED);
    assert_eq!(script.machine.finished(), None);
    assert_eq!(script.machine.buffered(), 1000);
}

#[test]
fn b_83_an_end_that_moves_says_nothing_more() {
    let mut asked = Script::new();
    asked.machine.suspend(1);
    asked.expect(Message::SuspComm(0x1_0001));
    asked.say(Message::ChRcvBuf(5000));
    assert!(asked.machine.poll_transmit().is_none());
    let mut answered = Script::new();
    answered.say(Message::SuspComm(0x1_0001));
    answered.machine.poll_transmit().unwrap();
    assert!(answered.machine.poll_transmit().is_none());
    assert_eq!(answered.refused(Message::ChRcvBuf(5000), b""), Rule::B(83));

    // Of two that ask, the connecting end answers.
    let mut both = Script::new();
    both.machine.suspend(1);
    both.expect(Message::SuspComm(0x1_0001));
    both.say(Message::SuspComm(0x1_0001));
    both.say(Message::SuspCommAck);
    assert_eq!(both.machine.state(), State::Disconnecting);
}

#[test]
fn b_46_a_sink_avail_is_larger_than_a_receive_buffer() {
    let mut script = Script::pipelined();
    script.say(Message::SinkAvail(part(0, 117), 0));
    assert_eq!(
        script.refused(Message::SinkAvail(part(0, 116), 0), b""),
        Rule::B(46)
    );

    // The size is the peer's own, whatever it was asked for.
    let mut script = Script::pipelined();
    assert!(script.machine.ask_resize(60));
    script.expect(Message::ChRcvBuf(60));
    assert_eq!(
        script.refused(Message::SinkAvail(part(0, 100), 0), b""),
        Rule::B(46)
    );
}

#[test]
fn b_50_a_source_uses_the_sink_avail_that_it_has() {
    let mut script = Script::pipelined();
    script.machine.offer_buffer(LARGE).unwrap();
    script.expect(Message::SinkAvail(LARGE, 0));
    script.acknowledge();
    assert_eq!(script.refused(Message::SrcAvail(LARGE), b""), Rule::B(50));
}

#[test]
fn b_51_no_sink_avail_from_a_peer_that_has_to_read() {
    let mut script = Script::pipelined();
    script.expect_buffer(LARGE);
    script.acknowledge();
    assert_eq!(
        script.refused(Message::SinkAvail(LARGE, 0), b""),
        Rule::B(51)
    );
}

#[test]
fn b_53_nothing_new_before_a_sink_avail_cancel_is_answered() {
    for message in [Message::SinkAvail(LARGE, 0), Message::SinkAvailCancel] {
        let mut script = Script::pipelined();
        script.say(Message::SinkAvail(LARGE, 0));
        script.say(Message::SinkAvailCancel);
        assert_eq!(script.refused(message, b""), Rule::B(53));
    }
    for seen in [false, true] {
        let mut script = Script::pipelined();
        script.say(Message::SinkAvail(LARGE, 0));
        script.say(Message::SinkAvailCancel);
        script.expect(Message::SinkCancelAck);
        if seen {
            script.acknowledge();
            script.say(Message::SinkAvail(LARGE, 0));
        } else {
            assert_eq!(
                script.refused(Message::SinkAvail(LARGE, 0), b""),
                Rule::B(53)
            );
        }
    }
}

#[test]
fn b_58_no_change_before_the_last_one_was_acknowledged() {
    for seen in [false, true] {
        let mut script = Script::pipelined();
        script.say(Message::ModeChange(Half::Receive, Mode::Combined));
        let change = Message::ModeChange(Half::Receive, Mode::Buffered);
        if seen {
            script.answer();
            script.say(change);
        } else {
            assert_eq!(script.refused(change, b""), Rule::B(58));
        }
    }
}

#[test]
fn b_59a_no_pipelined_mode_where_an_end_takes_one_advertisement() {
    let one = |side| Config {
        max_adverts: 1,
        ..config(side)
    };
    let several = config(Side::Connecting);
    for (own, peer) in [
        (one(Side::Accepting), several),
        (config(Side::Accepting), one(Side::Connecting)),
    ] {
        let mut end = Pair::of(peer, own).b;
        let change = Message::ModeChange(Half::Receive, Mode::Pipelined);
        assert_eq!(rule(&mut end, change, b""), Rule::B(59));
    }
}

#[test]
fn b_59a_one_advertisement_does_not_bar_buffered_mode() {
    let one = Config {
        max_adverts: 1,
        ..config(Side::Accepting)
    };
    let mut end = Pair::of(config(Side::Connecting), one).b;
    let change = message(
        &end,
        Message::ModeChange(Half::Receive, Mode::Buffered),
        b"",
    );
    assert!(end.machine.received(&change).is_ok());
    assert_eq!(end.machine.receive_mode(), Mode::Buffered);
    end.machine.posted(1);
    end.machine.want_combined();
    let (_, bytes) = end.poll().unwrap();
    assert_eq!(bytes[0], wire::mid::MODE_CHANGE);
    assert_eq!(end.machine.receive_mode(), Mode::Combined);
}

#[test]
fn b_69_no_sink_avail_for_a_stream_that_ended() {
    for seen in [false, true] {
        let mut script = Script::pipelined();
        script.machine.shutdown_send();
        script.expect(Message::DisConn);
        if seen {
            script.acknowledge();
            let refused = script.refused(Message::SinkAvail(LARGE, 0), b"");
            assert_eq!(refused, Rule::B(69));
        } else {
            script.say(Message::SinkAvail(LARGE, 0));
        }
    }
}
