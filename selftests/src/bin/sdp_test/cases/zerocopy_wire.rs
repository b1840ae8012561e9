// SPDX-License-Identifier: GPL-2.0

//! Zero copy with a peer made by hand: as the protocol has it, and as no honest peer would.

use super::{
    options::{
        now,
        recv_with_control,
        time, //
    },
    wire::{
        raw_client,
        raw_client_of,
        raw_only,
        Talk, //
    },
};
use crate::{
    bsdh::{
        mid,
        Advert,
        Hello,
        Message,
        HEADER, //
    },
    config::{
        self,
        moment,
        patience, //
    },
    faults::Nth,
    harness::{
        cases,
        check,
        check_any,
        must,
        step,
        Child, //
    },
    peers::{
        iwarp,
        pair, //
    },
    raw_peer::{
        Received,
        SEND_SIZE,
        WINDOW, //
    },
    zcopy::{
        check_bytes,
        check_received,
        check_sent,
        check_settled,
        check_unpinned,
        counted,
        random,
        stats,
        threshold,
        together,
        THRESHOLD, //
    },
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    random::Random,
    sock::Sock,
};
use std::{
    collections::VecDeque,
    ops::Range,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    wire_src_avail_out(30) "SrcAvail describes the bytes; fetched in parts, the send ends, and the key is dead (B-26 to B-32, B-35)",
    wire_send_sm_in(30) "SendSm at once, and after a part: the rest comes by Data (B-33)",
    wire_cancel_out(60) "a peer that does nothing gets SrcAvailCancel, then Data (B-39 to B-42)",
    wire_cancel_crossed(60) "RdmaRdCompl crosses SrcAvailCancel: nothing is sent twice (B-42)",
    wire_cancel_unanswered(180) "a peer that never answers SrcAvailCancel loses the connection",
    wire_cancel_unanswered_killed(60) "SIGKILL ends a send whose peer never answers",
    wire_read_beyond(30) "RDMA Read of more than was advertised, before it and behind it: refused (B-85)",
    wire_write_into(30) "RDMA Write into what is advertised for reading: refused (B-85)",
    wire_read_compl_more(30) "RdmaRdCompl of more than was advertised (B-32)",
    wire_read_compl_twice(30) "RdmaRdCompl again (B-32)",
    wire_read_compl_alone(30) "RdmaRdCompl without SrcAvail (B-32)",
    wire_send_sm_twice(30) "SendSm again (B-33)",
    wire_send_sm_alone(30) "SendSm without SrcAvail (B-33)",
    wire_invalidate_early(60) "a peer that invalidates the key before its time",
    wire_gone_unread(30) "a peer that goes without an answer",
    wire_src_avail_in(30) "SrcAvail of a peer is fetched by RDMA Read, and RdmaRdCompl tells how much (B-31, B-32)",
    wire_src_avail_declined(30) "a small read, or zero copy off: SendSm (B-33, B-38)",
    wire_cancel_in(60) "SrcAvailCancel in the middle of a read: what is not reported comes by Data (B-40)",
    wire_cancel_in_unread(30) "SrcAvailCancel before any read: SendSm (B-40)",
    wire_cancel_in_alone(30) "SrcAvailCancel of nothing means nothing (B-43)",
    wire_key_foreign(60) "the peer of another connection uses a key: it is refused, and the connection that has it goes on",
    wire_key_random(60) "no I/O virtual address says anything of another, nor of where the memory is",
    wire_key_wrong(30) "SrcAvail with a key that is none: the reader is told, and nothing stays",
    wire_range_wrong(30) "SrcAvail of more than the region has: the same",
    wire_src_avail_gone(60) "a peer that advertises and goes, with a reader and without",
    wire_src_avail_closed(30) "close() with a SrcAvail unread",
    wire_src_avail_empty(30) "SrcAvail without payload in Combined mode (B-27)",
    wire_src_avail_twice(30) "a second SrcAvail in Combined mode (B-29)",
    wire_src_avail_short(30) "SrcAvail with more payload than it describes (B-26)",
    wire_src_avail_sizes(60) "SrcAvail of 0 and of more than 2^31 bytes (B-28)",
    wire_src_avail_cut(30) "SrcAvail whose header is cut",
    wire_data_behind(30) "Data behind an open SrcAvail, in Combined and in Pipelined mode (B-25)",
    wire_disconn_behind(30) "DisConn behind an open SrcAvail (B-68)",
    wire_sink_avails(30) "a receive offers several SinkAvails of the length of the writes before; all are filled (B-46, B-47)",
    wire_sink_avails_short(60) "writes shorter than their SinkAvails, and Data in place of some: no gap is left (B-47, B-48)",
    wire_sink_avails_urgent(60) "urgent bytes, and writes behind them to what one receive offers: it ends at the mark, and no byte is lost",
    wire_sink_avails_stamp(20) "SO_TIMESTAMPNS of what was written to offered memory: when that was, not when the next message came",
    wire_sink_avails_back(60) "a receive that times out takes several SinkAvails back, whatever was written to them (B-53)",
    wire_sink_avails_stale(30) "Data that crosses SinkAvails, then writes to those that are not stale (B-49)",
    wire_sink_avails_gone(60) "a peer that goes, or breaks the rules, with several SinkAvails open",
    wire_sink_avails_random(120) "writes of every length, Data, SrcAvails and answers at random: no byte is lost",
}

/// A socket with zero copy on, and a raw peer.
fn connect() -> (Sock, Talk) {
    raw_only();
    let (sock, talk) = raw_client();
    threshold(&sock, THRESHOLD);
    (sock, talk)
}

/// The SrcAvail that comes next, and its payload.
fn next_advert(talk: &mut Talk) -> (Advert, Vec<u8>) {
    let mut message = talk.next();
    while message.mid == mid::MODE_CHANGE {
        message = talk.next();
    }
    check!(message.mid, mid::SRC_AVAIL);
    let (advert, payload) = must!(Advert::split(&message.rest).ok_or("a SrcAvail that is cut"));
    assert!(
        payload.len() < advert.len as usize,
        "{} bytes of payload of {advert:?}",
        payload.len()
    );
    (advert, payload.to_vec())
}

/// What an advertisement describes behind its first `skip` bytes.
fn behind(advert: Advert, skip: usize) -> Advert {
    Advert {
        len: advert.len - skip as u32,
        addr: advert.addr + skip as u64,
        ..advert
    }
}

fn read_compl(len: usize) -> Vec<u8> {
    (len as u32).to_be_bytes().to_vec()
}

/// Sends a message of the peer's that need not arrive: the connection may be gone.
fn say_anyway(talk: &mut Talk, mid: u8, rest: &[u8]) {
    let message = talk.message(mid, rest);
    talk.send(&message);
}

/// Lets SDP send `bytes` in one call while the peer does `answer` with the first advertisement.
fn sends(
    bytes: &[u8],
    answer: impl FnOnce(&mut Talk, Advert, Vec<u8>),
) -> (Sock, Talk, Result<usize>) {
    let (sock, mut talk) = connect();
    let (sent, _) = together(
        || sock.send(bytes, libc::MSG_NOSIGNAL),
        || {
            let (advert, payload) = next_advert(&mut talk);
            check_bytes(&payload, &bytes[..payload.len()]);
            answer(&mut talk, advert, payload);
        },
    );
    (sock, talk, sent)
}

/// Checks what SDP does about a peer that breaks the rules: it drops the connection, and nothing
/// stays.
fn check_dropped(sock: &Sock, talk: &mut Talk) {
    talk.peer.ended();
    must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(5)));
    let end = loop {
        match sock.recv(&mut [0; 4096], 0) {
            Ok(0) => break Ok(()),
            Ok(_) => (),
            Err(error) => break Err(error),
        }
    };
    // A sender may have been told before.
    check_any!(
        end,
        [
            Err(Errno::ECONNRESET),
            Err(Errno::EPROTO),
            Err(Errno::ETIMEDOUT),
            Ok(())
        ]
    );
    check_any!(
        sock.send(b"x", libc::MSG_NOSIGNAL),
        [
            Err(Errno::ECONNRESET),
            Err(Errno::EPROTO),
            Err(Errno::EPIPE)
        ]
    );
    check_unpinned(sock);
    let (a, b) = pair();
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

/// Checks what a send gave that was cut short.
fn check_cut(sent: Result<usize>, total: usize) {
    match sent {
        Ok(sent) => assert!(sent < total, "all of {total} bytes were sent"),
        Err(error) => check_any!(error, [Errno::ECONNRESET, Errno::EPROTO, Errno::EPIPE]),
    }
}

/// Checks that nothing can be read by the key of `advert` any more, which breaks the connection.
fn check_dead(talk: &mut Talk, advert: Advert) {
    talk.peer.window().fill(0);
    let one = Advert { len: 16, ..advert };
    assert!(talk.peer.read(0, one).is_err(), "the key still works");
    assert!(
        talk.peer.window().iter().all(|byte| *byte == 0),
        "bytes came"
    );
}

fn wire_src_avail_out() {
    let bytes = random(400, 256 << 10);
    for parts in [1, 3] {
        let mut last = None;
        let (sock, mut talk, sent) = sends(&bytes, |talk, advert, payload| {
            check!(advert.len as usize, bytes.len());
            let rest = behind(advert, payload.len());
            must!(talk
                .peer
                .read(0, rest)
                .map_err(|status| format!("status {status}")));
            let len = rest.len as usize;
            check_bytes(&talk.peer.window()[..len], &bytes[payload.len()..]);
            for part in 0..parts {
                let from = len * part / parts;
                let to = len * (part + 1) / parts;
                talk.say(mid::RDMA_RD_COMPL, &read_compl(to - from));
            }
            last = Some((advert, payload.len()));
        });
        check!(sent, Ok(bytes.len()));
        check_sent(&sock, bytes.len(), 90);
        let (advert, inline) = must!(last.ok_or("no SrcAvail"));
        counted("the peer fetched all but the payload", &sock, |stats| {
            stats.sent_read as usize == bytes.len() - inline && stats.src_avails == 1
        });
        check_settled(&sock);
        check!(sock.send(b"next", 0), Ok(4));
        check_bytes(&talk.data(4), b"next");
        check_dead(&mut talk, advert);
        talk.peer.disconnect();
    }
}

fn wire_send_sm_in() {
    let bytes = random(401, 256 << 10);
    for part in [0, 100_000] {
        let (sock, mut talk, sent) = sends(&bytes, |talk, _, payload| {
            if part > 0 {
                talk.say(mid::RDMA_RD_COMPL, &read_compl(part));
            }
            talk.say(mid::SEND_SM, b"");
            let known = payload.len() + part;
            check_bytes(&talk.data(bytes.len() - known), &bytes[known..]);
        });
        check!(sent, Ok(bytes.len()));
        check_sent(&sock, bytes.len(), 0);
        counted("what was fetched", &sock, |stats| {
            stats.sent_read as usize == part
        });
        check_settled(&sock);
        check!(sock.send(b"next", 0), Ok(4));
        check_bytes(&talk.data(4), b"next");
    }
}

fn wire_cancel_out() {
    let bytes = random(402, 256 << 10);
    let mut dead = None;
    let (sock, mut talk, sent) = sends(&bytes, |talk, advert, payload| {
        dead = Some(advert);
        check!(talk.next().mid, mid::SRC_AVAIL_CANCEL);
        talk.say(mid::SEND_SM, b"");
        check_bytes(
            &talk.data(bytes.len() - payload.len()),
            &bytes[payload.len()..],
        );
    });
    check!(sent, Ok(bytes.len()));
    counted("the peer was too slow", &sock, |stats| {
        stats.cancels_timeout > 0 && stats.sent_read == 0
    });
    check_sent(&sock, bytes.len(), 0);
    check_settled(&sock);
    check_dead(&mut talk, must!(dead.ok_or("no SrcAvail")));
}

fn wire_cancel_crossed() {
    let bytes = random(403, 256 << 10);
    // Whether all was fetched when the cancel came, or a part.
    for part in [1, 2] {
        step!("1/{part} was fetched");
        let (sock, mut talk, sent) = sends(&bytes, |talk, _, payload| {
            check!(talk.next().mid, mid::SRC_AVAIL_CANCEL);
            let rest = bytes.len() - payload.len();
            let fetched = rest / part;
            // Sent as before the cancel was seen: with an older MSeqAck.
            let mut message = talk.message(mid::RDMA_RD_COMPL, &read_compl(fetched));
            message.mseq_ack -= 1;
            talk.send(&message);
            if fetched < rest {
                talk.say(mid::SEND_SM, b"");
                let known = payload.len() + fetched;
                check_bytes(&talk.data(rest - fetched), &bytes[known..]);
            }
        });
        check!(sent, Ok(bytes.len()));
        check_sent(&sock, bytes.len(), 0);
        check_settled(&sock);
        check!(sock.send(b"next", 0), Ok(4));
        check_bytes(&talk.data(4), b"next");
    }
}

fn wire_cancel_unanswered() {
    let bytes = random(404, 256 << 10);
    let start = Instant::now();
    let (sock, mut talk, sent) = sends(&bytes, |talk, _, _| {
        check!(talk.next().mid, mid::SRC_AVAIL_CANCEL);
    });
    check_cut(sent, bytes.len());
    step!("ended after {:?}", start.elapsed());
    check_dropped(&sock, &mut talk);
}

fn wire_cancel_unanswered_killed() {
    let (sock, mut talk) = connect();
    let bytes = random(405, 256 << 10);
    let child = Child::start(|| {
        let _ = sock.send(&bytes, 0);
        // The signal comes in any case.
        thread::sleep(Duration::from_secs(100));
    });
    drop(sock);
    next_advert(&mut talk);
    let start = Instant::now();
    child.signal(libc::SIGKILL);
    check!(child.wait(), -libc::SIGKILL);
    let took = start.elapsed();
    assert!(took < patience(10), "took {took:?}");
}

fn wire_read_beyond() {
    let bytes = random(406, 100_000);
    for what in ["a byte more", "a byte behind", "a byte before"] {
        step!("{what}");
        let (sock, talk, sent) = sends(&bytes, |talk, advert, _| {
            let wrong = match what {
                "a byte more" => Advert {
                    len: advert.len + 1,
                    ..advert
                },
                "a byte behind" => Advert {
                    len: 1,
                    addr: advert.addr + u64::from(advert.len),
                    ..advert
                },
                _ => Advert {
                    len: 1,
                    addr: advert.addr.wrapping_sub(1),
                    ..advert
                },
            };
            talk.peer.window().fill(0);
            assert!(talk.peer.read(0, wrong).is_err(), "{what}: it can be read");
            assert!(
                talk.peer.window()[advert.len as usize..]
                    .iter()
                    .all(|byte| *byte == 0),
                "{what}: it was given"
            );
            talk.peer.disconnect();
        });
        check_cut(sent, bytes.len());
        check_unpinned(&sock);
        drop(talk);
    }
}

fn wire_write_into() {
    let bytes = random(407, 100_000);
    let copy = bytes.clone();
    let (sock, _talk, sent) = sends(&bytes, |talk, advert, _| {
        talk.peer.window().fill(0x99);
        // A device may tell of it late, so that success alone says nothing.
        let _ = talk.peer.write(0, advert);
        thread::sleep(moment());
        talk.peer.disconnect();
    });
    check_cut(sent, bytes.len());
    check_bytes(&bytes, &copy);
    check_unpinned(&sock);
}

/// Answers the advertisement of a send wrongly: the connection is dropped.
fn answers_wrongly(stream: u64, answer: impl FnOnce(&mut Talk, usize)) {
    let bytes = random(stream, 100_000);
    let (sock, mut talk, sent) = sends(&bytes, |talk, advert, payload| {
        answer(talk, advert.len as usize - payload.len());
    });
    if sent != Ok(bytes.len()) {
        check_cut(sent, bytes.len());
    }
    check_dropped(&sock, &mut talk);
}

fn wire_read_compl_more() {
    for extra in [1, 1 << 20] {
        answers_wrongly(408, |talk, rest| {
            say_anyway(talk, mid::RDMA_RD_COMPL, &read_compl(rest + extra));
        });
    }
    step!("in parts");
    answers_wrongly(409, |talk, rest| {
        say_anyway(talk, mid::RDMA_RD_COMPL, &read_compl(rest - 1));
        say_anyway(talk, mid::RDMA_RD_COMPL, &read_compl(2));
    });
}

fn wire_read_compl_twice() {
    answers_wrongly(410, |talk, rest| {
        say_anyway(talk, mid::RDMA_RD_COMPL, &read_compl(rest));
        say_anyway(talk, mid::RDMA_RD_COMPL, &read_compl(rest));
    });
}

/// Says something to an idle connection that drops it.
fn says_wrongly(mid: u8, rest: &[u8]) {
    let (sock, mut talk) = connect();
    talk.say(mid::DATA, b"good");
    check!(sock.recv_bytes(4), Ok(b"good".to_vec()));
    say_anyway(&mut talk, mid, rest);
    check_dropped(&sock, &mut talk);
}

fn wire_read_compl_alone() {
    says_wrongly(mid::RDMA_RD_COMPL, &read_compl(1));
    says_wrongly(mid::RDMA_RD_COMPL, &read_compl(0));
}

fn wire_send_sm_twice() {
    answers_wrongly(411, |talk, _| {
        say_anyway(talk, mid::SEND_SM, b"");
        say_anyway(talk, mid::SEND_SM, b"");
    });
}

fn wire_send_sm_alone() {
    says_wrongly(mid::SEND_SM, b"");
}

fn wire_invalidate_early() {
    let bytes = random(412, 100_000);
    for part in [1000, 0] {
        step!("{part} bytes are reported");
        let (sock, talk, sent) = sends(&bytes, |talk, advert, _| {
            let message = match part {
                0 => talk.message(mid::DATA, b""),
                _ => talk.message(mid::RDMA_RD_COMPL, &read_compl(part)),
            };
            let _ = talk
                .peer
                .send_with_invalidate(&message.to_bytes(), advert.key);
            thread::sleep(moment());
            talk.peer.disconnect();
        });
        check_cut(sent, bytes.len());
        check_unpinned(&sock);
        drop(talk);
    }
}

fn wire_gone_unread() {
    let bytes = random(413, 256 << 10);
    for wait in [Duration::ZERO, moment()] {
        let (sock, _talk, sent) = sends(&bytes, |talk, _, _| {
            thread::sleep(wait);
            talk.peer.disconnect();
        });
        check_cut(sent, bytes.len());
        check_unpinned(&sock);
    }
}

/// Bytes that go with a SrcAvail of ours.
const INLINE: usize = 10;

/// Says SrcAvail of `bytes`, which the window then has.
fn advertise(talk: &mut Talk, bytes: &[u8]) -> Advert {
    talk.peer.window()[..bytes.len()].copy_from_slice(bytes);
    let advert = talk.peer.advert(0, bytes.len());
    talk.say(
        mid::SRC_AVAIL,
        &[&advert.to_bytes(), &bytes[..INLINE]].concat(),
    );
    advert
}

/// The `Len` of an RdmaRdCompl.
fn reported(message: &Message) -> usize {
    check!((message.mid, message.rest.len()), (mid::RDMA_RD_COMPL, 4));
    u32::from_be_bytes([
        message.rest[0],
        message.rest[1],
        message.rest[2],
        message.rest[3],
    ]) as usize
}

/// Takes answers to a SrcAvail of `total` bytes until all was reported or declined: how many are
/// reported, and whether SendSm came.
fn take_answers(talk: &mut Talk, total: usize) -> (usize, bool) {
    let mut sum = 0;
    while sum + INLINE < total {
        let message = talk.next();
        if message.mid == mid::SEND_SM {
            check!(message.rest.len(), 0);
            return (sum, true);
        }
        sum += reported(&message);
    }
    check!(sum + INLINE, total);
    (sum, false)
}

fn wire_src_avail_in() {
    let (sock, mut talk) = connect();
    for (round, len) in [THRESHOLD, 256 << 10, WINDOW, 100_001]
        .into_iter()
        .enumerate()
    {
        step!("{len} bytes");
        let bytes = random(420 + round as u64, len);
        let mut room = vec![0; len];
        let (got, answers) = together(
            || sock.recv(&mut room, libc::MSG_WAITALL),
            || {
                thread::sleep(moment() / 4);
                advertise(&mut talk, &bytes);
                take_answers(&mut talk, len)
            },
        );
        check!(got, Ok(len));
        check!(answers, (len - INLINE, false));
        check_bytes(&room, &bytes);
        check_settled(&sock);
    }
    let total = THRESHOLD + (256 << 10) + WINDOW + 100_001;
    check_received(&sock, total, 99);
    counted("nothing else was copied", &sock, |stats| {
        stats.recv_copied as usize == 4 * INLINE
    });
    talk.say(mid::DISCONN, b"");
    check!(sock.recv(&mut [0], 0), Ok(0));
}

fn wire_src_avail_declined() {
    let bytes = random(430, 60_000);
    for off in [false, true] {
        step!("zero copy is off: {off}");
        let (sock, mut talk) = connect();
        if off {
            threshold(&sock, 0);
        }
        let (got, _) = together(
            || {
                let mut all = Vec::new();
                while all.len() < bytes.len() {
                    let mut room = [0; 100];
                    let len = must!(sock.recv(&mut room, 0));
                    assert_ne!(len, 0, "an end");
                    all.extend_from_slice(&room[..len]);
                }
                all
            },
            || {
                advertise(&mut talk, &bytes);
                let (fetched, declined) = take_answers(&mut talk, bytes.len());
                assert!(declined || !off, "it was fetched");
                if declined {
                    talk.send_data(&bytes[INLINE + fetched..]);
                }
            },
        );
        check_bytes(&got, &bytes);
        counted("SendSm is counted", &sock, |stats| {
            stats.declined > 0 || !off
        });
        check_received(&sock, bytes.len(), 0);
        check_settled(&sock);
    }
    step!("zero copy is off, and nobody reads");
    let (sock, mut talk) = connect();
    threshold(&sock, 0);
    advertise(&mut talk, &bytes);
    check!(take_answers(&mut talk, bytes.len()), (0, true));
    drop(sock);
}

fn wire_cancel_in() {
    let bytes = random(431, WINDOW);
    for wait in [0, 1, 5, 30] {
        step!("after {wait} ms");
        let (sock, mut talk) = connect();
        let mut room = vec![0; WINDOW];
        let (got, _) = together(
            || sock.recv(&mut room, libc::MSG_WAITALL),
            || {
                thread::sleep(moment() / 4);
                advertise(&mut talk, &bytes);
                thread::sleep(Duration::from_millis(wait));
                talk.say(mid::SRC_AVAIL_CANCEL, b"");
                let (fetched, declined) = take_answers(&mut talk, WINDOW);
                if declined {
                    // Nothing may look at the rest any more.
                    talk.peer.window().fill(0);
                    talk.send_data(&bytes[INLINE + fetched..]);
                }
            },
        );
        check!(got, Ok(WINDOW));
        check_bytes(&room, &bytes);
        check_received(&sock, WINDOW, 0);
        check_settled(&sock);
    }
}

fn wire_cancel_in_unread() {
    let (sock, mut talk) = connect();
    let bytes = random(432, 100_000);
    advertise(&mut talk, &bytes);
    talk.say(mid::SRC_AVAIL_CANCEL, b"");
    check!(take_answers(&mut talk, bytes.len()), (0, true));
    talk.peer.window().fill(0);
    let (got, _) = together(
        || sock.recv_bytes(bytes.len()),
        || talk.send_data(&bytes[INLINE..]),
    );
    check_bytes(&must!(got), &bytes);
    check_settled(&sock);
}

fn wire_cancel_in_alone() {
    let (sock, mut talk) = connect();
    talk.say(mid::SRC_AVAIL_CANCEL, b"");
    talk.say(mid::DATA, b"goes on");
    check!(sock.recv_bytes(7), Ok(b"goes on".to_vec()));
    check!(sock.send(b"both ways", 0), Ok(9));
    check_bytes(&talk.data(9), b"both ways");
}

/// Advertises what cannot be read, and lets SDP try.
fn advertises_wrongly(spoil: impl Fn(Advert) -> Advert) {
    let (sock, mut talk) = connect();
    let mut room = vec![0; 256 << 10];
    let (end, _) = together(
        || {
            must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(15)));
            let mut got = 0;
            loop {
                match sock.recv(&mut room[got..], 0) {
                    Ok(0) => break Ok(got),
                    Ok(len) => got += len,
                    Err(error) => break Err((got, error)),
                }
            }
        },
        || {
            let advert = spoil(talk.peer.advert(0, 256 << 10));
            let message = talk.message(
                mid::SRC_AVAIL,
                &[&advert.to_bytes(), &[7; INLINE][..]].concat(),
            );
            // The read that is refused may break this QP before it is told that the message
            // arrived.
            talk.send(&message);
        },
    );
    match end {
        Err((got, error)) => {
            assert!(got <= INLINE, "{got} bytes came");
            check_any!(error, [Errno::ECONNRESET, Errno::EIO, Errno::EPROTO]);
        }
        Ok(got) => panic!("an error is told\nexpected one\n     got the end after {got} bytes"),
    }
    check_dropped(&sock, &mut talk);
}

/// Checks that the peer of a connection of its own cannot use the key of `advert` for anything.
fn check_foreign(advert: Advert) {
    let one = Advert { len: 16, ..advert };
    let (_sock, mut thief) = connect();
    check_dead(&mut thief, one);
    let (_sock, mut thief) = connect();
    thief.peer.window()[..16].fill(0x66);
    // A device may tell of it late: what is stored is looked at by the caller.
    let _ = thief.peer.write(0, one);
    thread::sleep(moment() / 4);
}

fn wire_key_foreign() {
    step!("of a SrcAvail");
    let bytes = random(414, 256 << 10);
    let (sock, mut talk, sent) = sends(&bytes, |talk, advert, payload| {
        check_foreign(advert);
        let rest = behind(advert, payload.len());
        let len = rest.len as usize;
        check!(talk.peer.read(0, rest), Ok(()));
        check_bytes(&talk.peer.window()[..len], &bytes[payload.len()..]);
        talk.say(mid::RDMA_RD_COMPL, &read_compl(len));
    });
    check!(sent, Ok(bytes.len()));
    check!(sock.send(b"next", 0), Ok(4));
    check_bytes(&talk.data(4), b"next");

    step!("of a SinkAvail");
    let (sock, mut writer) = Writer::new(random(415, 4 << 20));
    let mut room = vec![0; WINDOW];
    let from = writer.at;
    let (got, _) = together(
        || sock.recv(&mut room, 0),
        || {
            writer.wait_for(1);
            check_foreign(writer.sinks[0]);
            writer.write(Some(THRESHOLD));
        },
    );
    check!(got, Ok(THRESHOLD));
    check_bytes(&room[..THRESHOLD], &writer.bytes[from..writer.at]);
    assert!(
        room[THRESHOLD..].iter().all(|byte| *byte == 0),
        "bytes came"
    );
}

fn wire_key_random() {
    let bytes = random(416, 256 << 10);
    let mut pages: Vec<u64> = Vec::new();
    let (sock, mut talk) = connect();
    for _ in 0..8 {
        let (sent, _) = together(
            || sock.send(&bytes, 0),
            || {
                let (advert, payload) = next_advert(&mut talk);
                check!(advert.addr & 0xfff, bytes.as_ptr() as u64 & 0xfff);
                pages.push(advert.addr >> 12);
                let rest = behind(advert, payload.len());
                check!(talk.peer.read(0, rest), Ok(()));
                talk.say(mid::RDMA_RD_COMPL, &read_compl(rest.len as usize));
            },
        );
        check!(sent, Ok(bytes.len()));
    }
    assert!(pages.iter().all(|page| page >> 51 == 0), "{pages:x?}");
    // Each is another in each half of its 50 bits; by chance two halves are alike once in a million
    // times.
    for bits in [0..25, 25..50] {
        let mut halves: Vec<u64> = pages
            .iter()
            .map(|page| (page >> bits.start) & ((1 << bits.len()) - 1))
            .collect();
        halves.sort_unstable();
        halves.dedup();
        check!(halves.len(), pages.len());
    }
}

fn wire_key_wrong() {
    advertises_wrongly(|advert| Advert {
        key: advert.key ^ 0x5a5a_5a00,
        ..advert
    });
}

fn wire_range_wrong() {
    advertises_wrongly(|advert| Advert {
        addr: advert.addr + WINDOW as u64 - 1000,
        ..advert
    });
    advertises_wrongly(|advert| Advert { addr: 8, ..advert });
}

fn wire_src_avail_gone() {
    let bytes = random(433, WINDOW);
    for reader in [false, true] {
        for wait in [0, 5, 50] {
            step!("with a reader: {reader}; after {wait} ms");
            let (sock, mut talk) = connect();
            let gone = || {
                advertise(&mut talk, &bytes);
                thread::sleep(Duration::from_millis(wait));
                drop(talk);
            };
            let mut room = vec![0; WINDOW];
            must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(15)));
            let receive = || {
                let mut got = 0;
                let end = loop {
                    match sock.recv(&mut room[got..], 0) {
                        Ok(0) => break None,
                        Ok(len) => got += len,
                        Err(error) => break Some(error),
                    }
                };
                check_bytes(&room[..got], &bytes[..got]);
                // All may have come before.
                if got < WINDOW {
                    check!(end, Some(Errno::ECONNRESET));
                }
            };
            if reader {
                together(receive, gone);
            } else {
                gone();
                let mut receive = receive;
                receive();
            }
            check_unpinned(&sock);
        }
    }
}

fn wire_src_avail_closed() {
    let (sock, mut talk) = connect();
    advertise(&mut talk, &random(434, WINDOW));
    thread::sleep(moment());
    drop(sock);
    // Unread bytes make it a reset, but a decline may come before.
    let end = Instant::now() + patience(10);
    while Instant::now() < end {
        if let Received::Ended(_) = talk.peer.recv(Duration::from_millis(100)).0 {
            break;
        }
    }
    talk.peer.ended();
}

/// Advertises, good, then says what drops the connection.
fn behind_advert(mid: u8, rest: impl Fn(&Talk) -> Vec<u8>) {
    let (sock, mut talk) = connect();
    advertise(&mut talk, &random(435, 100_000));
    let rest = rest(&talk);
    say_anyway(&mut talk, mid, &rest);
    check_dropped(&sock, &mut talk);
}

fn wire_src_avail_empty() {
    let (sock, mut talk) = connect();
    let advert = talk.peer.advert(0, 100_000);
    say_anyway(&mut talk, mid::SRC_AVAIL, &advert.to_bytes());
    check_dropped(&sock, &mut talk);
}

fn wire_src_avail_twice() {
    behind_advert(mid::SRC_AVAIL, |talk| {
        [&talk.peer.advert(0, 100_000).to_bytes(), &[1; INLINE][..]].concat()
    });
}

fn wire_src_avail_short() {
    let (sock, mut talk) = connect();
    let advert = talk.peer.advert(0, INLINE - 1);
    say_anyway(
        &mut talk,
        mid::SRC_AVAIL,
        &[&advert.to_bytes(), &[1; INLINE][..]].concat(),
    );
    check_dropped(&sock, &mut talk);
}

fn wire_src_avail_sizes() {
    for len in [0, (1 << 31) + 1, u32::MAX] {
        let (sock, mut talk) = connect();
        let advert = Advert {
            len,
            ..talk.peer.advert(0, 1)
        };
        say_anyway(
            &mut talk,
            mid::SRC_AVAIL,
            &[&advert.to_bytes(), &[1; INLINE][..]].concat(),
        );
        check_dropped(&sock, &mut talk);
    }
}

fn wire_src_avail_cut() {
    for len in [0, 4, 15] {
        says_wrongly(mid::SRC_AVAIL, &[1; 16][..len]);
    }
}

fn wire_data_behind() {
    step!("in Combined mode");
    behind_advert(mid::DATA, |_| b"x".to_vec());
    step!("in Pipelined mode");
    let (sock, mut writer) = Writer::new(random(436, THRESHOLD));
    let advert = writer.talk.peer.advert(0, THRESHOLD);
    writer.talk.say(mid::SRC_AVAIL, &advert.to_bytes());
    say_anyway(&mut writer.talk, mid::DATA, b"x");
    check_dropped(&sock, &mut writer.talk);
}

fn wire_disconn_behind() {
    behind_advert(mid::DISCONN, |_| Vec::new());
}

/// Buffers that one receive offers at most.
const OFFERS: usize = 4;

/// A raw peer as the source of a stream in Pipelined mode.
struct Writer {
    talk: Talk,
    /// The SinkAvails that can be written to.
    sinks: VecDeque<Advert>,
    /// Payload messages that used up none of them (B-49).
    payloads: u32,
    /// A SinkAvailCancel is not answered, since the test does that.
    cancelled: bool,
    hold_answers: bool,
    /// What `bytes` were sent.
    at: usize,
    bytes: Vec<u8>,
}

impl Writer {
    /// A socket to which `bytes` are to go. It has fetched the first `THRESHOLD` of them, and so
    /// will offer.
    fn new(bytes: Vec<u8>) -> (Sock, Self) {
        raw_only();
        let (sock, talk) = raw_client_of(&Hello {
            max_adverts: 8,
            ..Hello::GOOD
        });
        threshold(&sock, THRESHOLD);
        let mut writer = Self {
            talk,
            sinks: VecDeque::new(),
            payloads: 0,
            cancelled: false,
            hold_answers: false,
            at: 0,
            bytes,
        };
        writer.talk.say(mid::MODE_CHANGE, &[0x20, 0, 0, 0]);
        let mut room = vec![0; THRESHOLD];
        let (got, fetched) = together(
            || sock.recv(&mut room, libc::MSG_WAITALL),
            || writer.src_avail(THRESHOLD),
        );
        check!((got, fetched), (Ok(THRESHOLD), THRESHOLD));
        check_bytes(&room, &writer.bytes[..THRESHOLD]);
        (sock, writer)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Range<usize> {
        let from = self.at;
        self.at += len;
        from..self.at
    }

    /// Takes in what came; gives what is not about SinkAvails.
    fn poll(&mut self, timeout: Duration) -> Option<Message> {
        let (message, slot) = self.talk.poll(timeout)?;
        self.talk.repost(slot);
        match message.mid {
            mid::SINK_AVAIL => {
                let (advert, rest) = must!(Advert::split(&message.rest).ok_or("a cut SinkAvail"));
                let non_discards = must!(rest.try_into().map(u32::from_be_bytes));
                if non_discards == self.payloads {
                    self.sinks.push_back(advert);
                    assert!(self.sinks.len() <= 8, "more SinkAvails than MaxAdverts");
                } else {
                    self.payloads = self.payloads.wrapping_sub(1);
                }
                return None;
            }
            mid::SINK_AVAIL_CANCEL => {
                self.cancelled = true;
                if !self.hold_answers {
                    self.answer();
                }
                return None;
            }
            mid::DATA => assert!(message.rest.is_empty(), "{message:?}"),
            mid::CH_RCV_BUF => self.talk.refuse_resize(&message),
            _ => return Some(message),
        }
        None
    }

    /// Answers the SinkAvailCancel that came, if something is left to cancel.
    fn answer(&mut self) {
        assert!(self.cancelled, "no SinkAvailCancel came");
        self.cancelled = false;
        if !self.sinks.is_empty() {
            self.sinks.clear();
            self.talk.say(mid::SINK_CANCEL_ACK, b"");
        }
    }

    /// Waits until so many SinkAvails are open, or a SinkAvailCancel came.
    fn wait_for(&mut self, sinks: usize) {
        let end = Instant::now() + patience(10);
        while self.sinks.len() < sinks && !self.cancelled {
            assert!(
                Instant::now() < end,
                "{} of {sinks} SinkAvails came",
                self.sinks.len()
            );
            let message = self.poll(Duration::from_millis(20));
            assert!(message.is_none(), "{message:?}");
        }
    }

    /// Takes in all that is on its way.
    fn settle(&mut self) {
        let end = Instant::now() + moment();
        while Instant::now() < end {
            let message = self.poll(Duration::from_millis(20));
            assert!(message.is_none(), "{message:?}");
        }
    }

    /// Writes the next bytes to the oldest SinkAvail, all of it unless `len` says less.
    fn write(&mut self, len: Option<usize>) {
        let sink = must!(self.sinks.pop_front().ok_or("no SinkAvail"));
        let len = len.unwrap_or(sink.len as usize).min(self.left());
        assert!((1..=sink.len as usize).contains(&len), "{len} to {sink:?}");
        let bytes = self.take(len);
        self.talk.peer.window()[..len].copy_from_slice(&self.bytes[bytes]);
        let to = Advert {
            len: len as u32,
            ..sink
        };
        check!(self.talk.peer.write(0, to), Ok(()));
        self.talk.say(mid::RDMA_WR_COMPL, &read_compl(len));
    }

    /// Sends the next bytes as one message.
    fn data(&mut self, len: usize) {
        self.data_with(len, 0);
    }

    /// The same, with flags.
    fn data_with(&mut self, len: usize, flags: u8) {
        while self.talk.credits < 3 {
            let message = self.poll(patience(10));
            assert!(message.is_none(), "{message:?}");
        }
        let bytes = self.take(len);
        let mut message = self.talk.message(mid::DATA, &self.bytes[bytes]);
        message.flags = flags;
        check!(self.talk.peer.send(&message.to_bytes()), Ok(()));
        if self.sinks.pop_front().is_none() {
            self.payloads = self.payloads.wrapping_add(1);
        }
    }

    /// Has the next bytes fetched; what is declined goes by Data, and what a SinkAvail crosses not
    /// at all. How many went.
    fn src_avail(&mut self, len: usize) -> usize {
        assert!(self.sinks.is_empty(), "a SinkAvail is open");
        let bytes = self.take(len);
        self.talk.peer.window()[..len].copy_from_slice(&self.bytes[bytes]);
        let advert = self.talk.peer.advert(0, len);
        self.talk.say(mid::SRC_AVAIL, &advert.to_bytes());
        let end = Instant::now() + patience(20);
        let mut done = 0;
        while done < len {
            assert!(Instant::now() < end, "{done} of {len} bytes are fetched");
            let message = self.poll(Duration::from_millis(20));
            if !self.sinks.is_empty() {
                check!(done, 0);
                self.at -= len;
                return 0;
            }
            match message {
                None => (),
                Some(message) if message.mid == mid::SEND_SM => {
                    self.at -= len - done;
                    while done < len {
                        let piece = (len - done).min(SEND_SIZE - HEADER);
                        self.data(piece);
                        done += piece;
                    }
                }
                Some(message) => done += reported(&message),
            }
        }
        len
    }

    /// Teaches the receiver that writes have this length: it then offers that much at a time.
    fn teach(&mut self, sock: &Sock, len: usize) {
        let mut room = vec![0; WINDOW];
        for _ in 0..2 {
            let from = self.at;
            let (got, _) = together(
                || sock.recv(&mut room, 0),
                || {
                    self.wait_for(1);
                    // All of the room, or as much as the device can register.
                    let offered = self.sinks[0].len as usize;
                    assert!(offered > WINDOW / 2, "offers {offered} bytes");
                    self.write(Some(len));
                },
            );
            check!(got, Ok(len));
            check_bytes(&room[..len], &self.bytes[from..self.at]);
        }
    }
}

fn wire_sink_avails() {
    for len in [THRESHOLD, 200_001] {
        step!("writes of {len} bytes");
        let (sock, mut writer) = Writer::new(random(440, 4 << 20));
        writer.teach(&sock, len);
        let count = OFFERS.min(WINDOW / len);
        let before = stats(&sock);
        let mut room = vec![0; WINDOW];
        let from = writer.at;
        writer.hold_answers = true;
        let (got, keys) = together(
            || sock.recv(&mut room, 0),
            || {
                writer.wait_for(count);
                thread::sleep(moment() / 4);
                assert!(writer.sinks.iter().all(|sink| sink.len as usize == len));
                let keys: Vec<Advert> = writer.sinks.iter().copied().collect();
                (0..count).for_each(|_| writer.write(None));
                keys
            },
        );
        check!(got, Ok(count * len));
        check_bytes(&room[..count * len], &writer.bytes[from..writer.at]);
        counted("without a copy", &sock, |stats| {
            stats.recv_written - before.recv_written == (count * len) as u64
                && stats.recv_copied == before.recv_copied
                && stats.sink_avails - before.sink_avails == count as u64
        });
        check_settled(&sock);
        writer.settle();
        if writer.cancelled {
            writer.answer();
        }
        step!("no key is left");
        writer.talk.peer.window().fill(0x99);
        // A device may tell of it late, so that success alone says nothing.
        let _ = writer.talk.peer.write(0, keys[count - 1]);
        thread::sleep(moment());
        check_bytes(&room[..count * len], &writer.bytes[from..writer.at]);
        writer.talk.peer.ended();
    }
}

fn wire_sink_avails_short() {
    const DATA: bool = true;
    const LEN: usize = THRESHOLD;
    let full = (!DATA, LEN);
    for (round, how) in [
        // The gap is of a byte, of a page, and of nearly all; in a first one, and in a later one.
        vec![full, (!DATA, LEN - 1), full, (!DATA, 1)],
        vec![(!DATA, LEN - 4096), full, (!DATA, 4097), full],
        vec![(!DATA, 1), full, (!DATA, 2), full],
        vec![full, (DATA, 4080), full, (DATA, 1)],
        vec![(DATA, 4000), full, (!DATA, LEN / 2), (DATA, 1)],
        vec![full, full, full, (!DATA, 7)],
        vec![(DATA, 1), (DATA, 2), (DATA, 3)],
    ]
    .into_iter()
    .enumerate()
    {
        step!("{how:?}");
        let (sock, mut writer) = Writer::new(random(441 + round as u64, 2 << 20));
        writer.teach(&sock, LEN);
        let mut room = vec![0; WINDOW];
        let from = writer.at;
        writer.hold_answers = true;
        let before = stats(&sock);
        let (got, _) = together(
            || sock.recv(&mut room, 0),
            || {
                writer.wait_for(OFFERS);
                for (data, len) in &how {
                    match data {
                        &DATA => writer.data(*len),
                        _ => writer.write(Some(*len)),
                    }
                }
                while !writer.cancelled && !writer.sinks.is_empty() {
                    writer.wait_for(OFFERS + 1);
                }
                if writer.cancelled {
                    writer.answer();
                }
            },
        );
        let total: usize = how.iter().map(|(_, len)| len).sum();
        check!(got, Ok(total));
        check_bytes(&room[..total], &writer.bytes[from..writer.at]);
        // What stands where it was written was not copied.
        let mut fill = how.iter().take_while(|how| **how == full).count();
        fill += usize::from(how.get(fill).is_some_and(|(data, _)| !data));
        let written: usize = how[..fill].iter().map(|(_, len)| len).sum();
        counted("what is moved is copied", &sock, |stats| {
            stats.recv_written - before.recv_written == written as u64
                && stats.recv_copied - before.recv_copied == (total - written) as u64
        });
        check_settled(&sock);
        step!("and on");
        writer.data(1000);
        check!(
            sock.recv_bytes(1000),
            Ok(writer.bytes[writer.at - 1000..writer.at].to_vec())
        );
    }
}

fn wire_sink_avails_urgent() {
    const SIOCATMARK: libc::c_ulong = 0x8905;
    /// OOB_PRES and OOB_PEND (A.1).
    const URGENT: u8 = 3;
    const LEN: usize = THRESHOLD;
    // How long messages with an urgent byte are; 0 stands for a write.
    let rounds = [
        vec![0, 1, 1, 0],
        vec![1, 1, 0],
        vec![0, 1000, 0, 1],
        vec![0, 1000, 0, 0],
        vec![1, 0, 1000],
    ];
    for (round, inline) in (0..rounds.len()).flat_map(|round| [(round, false), (round, true)]) {
        let how = &rounds[round];
        step!("{how:?}, in line: {inline}");
        let (sock, mut writer) = Writer::new(random(460 + round as u64, 2 << 20));
        writer.teach(&sock, LEN);
        must!(sock.set(
            libc::SOL_SOCKET,
            libc::SO_OOBINLINE,
            libc::c_int::from(inline)
        ));
        let mut room = vec![0; WINDOW];
        let from = writer.at;
        writer.hold_answers = true;
        // Those that were replaced are read in their place.
        let last = how.iter().rposition(|len| *len > 0);
        let mut urgent = 0;
        let (got, _) = together(
            || sock.recv(&mut room, 0),
            || {
                writer.wait_for(OFFERS);
                for (at, len) in how.iter().enumerate() {
                    match len {
                        0 => writer.write(Some(LEN)),
                        _ => writer.data_with(*len, URGENT),
                    }
                    if Some(at) == last {
                        urgent = writer.at - 1;
                    }
                }
                while !writer.cancelled && !writer.sinks.is_empty() {
                    writer.wait_for(OFFERS + 1);
                }
                if writer.cancelled {
                    writer.answer();
                }
            },
        );
        let mut all = writer.bytes[from..writer.at].to_vec();
        let byte = all[urgent - from];
        if !inline {
            all.remove(urgent - from);
        }
        let got = must!(got);
        let mark = urgent - from;
        assert!(
            mark == 0 || got <= mark,
            "{got} bytes, the mark is at {mark}"
        );
        let mut rest = must!(sock.recv_bytes(mark.saturating_sub(got)));
        if got <= mark && mark > 0 {
            check!(sock.ioctl(SIOCATMARK), Ok(1));
            if !inline {
                check!(sock.recv(&mut room[got..][..1], libc::MSG_OOB), Ok(1));
                check!(room[got], byte);
            }
        }
        let left = all.len() - got - rest.len();
        rest.extend(must!(sock.recv_bytes(left)));
        check_bytes(&[&room[..got], &rest].concat(), &all);
        // A read that goes on beyond the byte leaves the mark behind.
        let at_mark = !inline && urgent + 1 == writer.at;
        check!(sock.ioctl(SIOCATMARK), Ok(at_mark.into()));
        check_settled(&sock);
        step!("and on");
        writer.data(1000);
        check!(
            sock.recv_bytes(1000),
            Ok(writer.bytes[writer.at - 1000..writer.at].to_vec())
        );
    }
}

/// Has the peer write behind an urgent byte to what a receive offers that has a failure. No byte is
/// lost, wherever that is. Whether the call went on beyond the mark, for want of memory for what is
/// behind it.
pub(super) fn written_behind(nth: &Nth, inline: bool) -> bool {
    const URGENT: u8 = 3;
    const LEN: usize = THRESHOLD;
    let (sock, mut writer) = Writer::new(random(471, 2 << 20));
    writer.teach(&sock, LEN);
    must!(sock.set(
        libc::SOL_SOCKET,
        libc::SO_OOBINLINE,
        libc::c_int::from(inline)
    ));
    let mut room = vec![0; WINDOW];
    let from = writer.at;
    writer.hold_answers = true;
    let mut mark = 0;
    let (got, _) = together(
        || nth.call(|| sock.recv(&mut room, 0)),
        || {
            // A call that fails offers less, or nothing.
            let end = Instant::now() + moment();
            while writer.sinks.len() < OFFERS && !writer.cancelled && Instant::now() < end {
                writer.poll(Duration::from_millis(20));
            }
            for urgent in [false, true, false, false] {
                match writer.sinks.is_empty() {
                    _ if urgent => {
                        writer.data_with(1000, URGENT);
                        mark = writer.at - 1 - from;
                    }
                    true => writer.data(1000),
                    false => writer.write(Some(LEN)),
                }
            }
            while !writer.cancelled && !writer.sinks.is_empty() {
                writer.wait_for(OFFERS + 1);
            }
            if writer.cancelled {
                writer.answer();
            }
        },
    );
    let mut all = writer.bytes[from..writer.at].to_vec();
    if !inline {
        all.remove(mark);
    }
    let got = match got {
        Ok(got) => got,
        Err(error) => {
            check_any!(error, [Errno::ENOMEM, Errno::ENOBUFS, Errno::EFAULT]);
            0
        }
    };
    let rest = must!(sock.recv_bytes(all.len() - got));
    check_bytes(&[&room[..got], &rest].concat(), &all);
    check_settled(&sock);
    writer.data(1000);
    check!(
        sock.recv_bytes(1000),
        Ok(writer.bytes[writer.at - 1000..writer.at].to_vec())
    );
    got > mark
}

fn wire_sink_avails_stamp() {
    const SO_TIMESTAMPNS_NEW: i32 = 64;
    let (sock, mut writer) = Writer::new(random(470, 2 << 20));
    writer.teach(&sock, THRESHOLD);
    must!(sock.set(libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1));
    // The call waits for more than comes.
    must!(sock.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, WINDOW as i32));
    must!(sock.set_timeout(libc::SO_RCVTIMEO, moment() * 4));
    // The kernel may begin to look at the clock a little later.
    thread::sleep(moment());
    writer.hold_answers = true;
    let ((got, control), written) = together(
        || recv_with_control(&sock, WINDOW, 0),
        || {
            writer.wait_for(OFFERS);
            writer.write(Some(THRESHOLD));
            thread::sleep(moment());
            let written = now();
            // A message that brings nothing, while the call waits.
            writer.talk.say(mid::DATA, &[]);
            writer.wait_for(OFFERS + 1);
            writer.answer();
            written
        },
    );
    check!((got, control.len()), (THRESHOLD, 1));
    let late = time(&control[0]) - written;
    assert!(late < 0, "{late} ns too late");
}

fn wire_sink_avails_back() {
    for writes in [
        vec![],
        vec![THRESHOLD],
        vec![THRESHOLD, 100],
        vec![10, THRESHOLD, 20],
        // The peer has nothing to answer then.
        vec![10, THRESHOLD, 20, 30],
    ] {
        step!("{writes:?} while the receive takes them back");
        let (sock, mut writer) = Writer::new(random(450, 2 << 20));
        writer.teach(&sock, THRESHOLD);
        must!(sock.set_timeout(libc::SO_RCVTIMEO, moment()));
        let mut room = vec![0; WINDOW];
        let from = writer.at;
        writer.hold_answers = true;
        let (got, _) = together(
            || sock.recv(&mut room, 0),
            || {
                let end = Instant::now() + patience(10);
                while !writer.cancelled {
                    assert!(Instant::now() < end, "no SinkAvailCancel came");
                    let message = writer.poll(Duration::from_millis(20));
                    assert!(message.is_none(), "{message:?}");
                }
                check!(writer.sinks.len(), OFFERS);
                for len in &writes {
                    writer.write(Some(*len));
                }
                writer.answer();
            },
        );
        let total: usize = writes.iter().sum();
        match total {
            0 => check!(got, Err(Errno::EAGAIN)),
            _ => check!(got, Ok(total)),
        }
        check_bytes(&room[..total], &writer.bytes[from..writer.at]);
        check_settled(&sock);
        if total > 0 {
            step!("{writes:?}, and memory is offered again");
            must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(10)));
            writer.hold_answers = false;
            let from = writer.at;
            let over = AtomicBool::new(false);
            let (got, _) = together(
                || {
                    let got = sock.recv(&mut room, 0);
                    over.store(true, Ordering::Relaxed);
                    got
                },
                || {
                    writer.wait_for(1);
                    writer.write(Some(100));
                    while !over.load(Ordering::Relaxed) {
                        let message = writer.poll(Duration::from_millis(20));
                        assert!(message.is_none(), "{message:?}");
                    }
                },
            );
            check!(got, Ok(100));
            check_bytes(&room[..100], &writer.bytes[from..writer.at]);
        }
        writer.data(1000);
        check!(
            sock.recv_bytes(1000),
            Ok(writer.bytes[writer.at - 1000..writer.at].to_vec())
        );
    }
}

fn wire_sink_avails_stale() {
    let (sock, mut writer) = Writer::new(random(451, 2 << 20));
    writer.teach(&sock, THRESHOLD);
    let mut room = vec![0; WINDOW];
    let from = writer.at;
    writer.hold_answers = true;
    let (got, _) = together(
        || sock.recv(&mut room, 0),
        || {
            thread::sleep(moment());
            // They came, but the peer has not looked at them when it sends this.
            writer.data(100);
            writer.wait_for(OFFERS - 1);
            writer.write(None);
            writer.write(Some(300));
            writer.wait_for(OFFERS + 1);
            writer.answer();
        },
    );
    let total = 100 + THRESHOLD + 300;
    check!(got, Ok(total));
    check_bytes(&room[..total], &writer.bytes[from..writer.at]);
    check_settled(&sock);
}

fn wire_sink_avails_gone() {
    for what in ["goes", "writes beyond", "tells of more", "tells of nothing"] {
        step!("it {what}");
        let (sock, mut writer) = Writer::new(random(452, 2 << 20));
        writer.teach(&sock, THRESHOLD);
        must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(15)));
        let mut room = vec![0; WINDOW];
        let from = writer.at;
        writer.hold_answers = true;
        let (got, _) = together(
            || sock.recv(&mut room, 0),
            || {
                writer.wait_for(OFFERS);
                writer.write(None);
                writer.write(Some(1000));
                let sink = writer.sinks[0];
                match what {
                    "writes beyond" => {
                        let to = Advert {
                            len: sink.len + 1,
                            ..sink
                        };
                        let _ = writer.talk.peer.write(0, to);
                    }
                    "tells of more" => {
                        let len = sink.len as usize + 1;
                        say_anyway(&mut writer.talk, mid::RDMA_WR_COMPL, &read_compl(len));
                    }
                    "tells of nothing" => {
                        say_anyway(&mut writer.talk, mid::RDMA_WR_COMPL, &read_compl(0));
                    }
                    _ => (),
                }
                if iwarp() {
                    // What is sent there is complete before it arrives, and lost when the
                    // connection goes.
                    thread::sleep(moment());
                }
                writer.talk.peer.disconnect();
            },
        );
        check!(got, Ok(THRESHOLD + 1000));
        check_bytes(&room[..THRESHOLD + 1000], &writer.bytes[from..writer.at]);
        check_any!(
            sock.recv(&mut room, 0),
            [
                Err(Errno::ECONNRESET),
                Err(Errno::EPROTO),
                Err(Errno::EIO),
                Ok(0)
            ]
        );
        check_unpinned(&sock);
    }
}

fn wire_sink_avails_random() {
    let total = config::volume(16 << 20, 4 << 20);
    let (sock, mut writer) = Writer::new(random(453, total));
    let expected = writer.bytes.clone();
    let from = writer.at;
    let mut random = Random::new(config::get().seed, 2454);
    let over = AtomicBool::new(false);
    let (got, _) = together(
        || {
            let mut timeouts = Random::new(config::get().seed, 2455);
            let (mut all, mut room) = (Vec::new(), vec![0; WINDOW]);
            while all.len() < expected.len() - from {
                let timeout = Duration::from_millis(timeouts.within(1, 40) as u64);
                must!(sock.set_timeout(libc::SO_RCVTIMEO, timeout));
                let size = timeouts.within(THRESHOLD, WINDOW);
                match sock.recv(&mut room[..size], 0) {
                    Ok(0) => break,
                    Ok(len) => all.extend_from_slice(&room[..len]),
                    Err(error) => check!(error, Errno::EAGAIN),
                }
            }
            over.store(true, Ordering::Relaxed);
            all
        },
        || {
            // Most writes are as long as those before, so that several are offered.
            let mut usual = THRESHOLD;
            let end = Instant::now() + patience(100);
            while !over.load(Ordering::Relaxed) {
                assert!(Instant::now() < end, "{} bytes are left", writer.left());
                let message = writer.poll(Duration::from_millis(random.within(0, 5) as u64));
                assert!(message.is_none(), "{message:?}");
                if writer.left() == 0 {
                    continue;
                }
                let few = random.within(1, SEND_SIZE - HEADER).min(writer.left());
                match (random.within(0, 15), writer.sinks.front()) {
                    (0, _) => writer.data(few),
                    (1, _) => usual = random.within(THRESHOLD, 4 * THRESHOLD),
                    (2, Some(sink)) => {
                        let len = random.within(1, sink.len as usize);
                        writer.write(Some(len));
                    }
                    (3, _) => thread::sleep(Duration::from_millis(random.within(0, 50) as u64)),
                    (_, Some(sink)) => {
                        let len = usual.min(sink.len as usize);
                        writer.write(Some(len));
                    }
                    (4 | 5, None) => {
                        let len = usual.min(writer.left());
                        writer.src_avail(len);
                    }
                    (_, None) => (),
                }
            }
        },
    );
    check_bytes(&got, &expected[from..]);
    let stats = stats(&sock);
    step!("{stats:?}");
    check_settled(&sock);
}
