// SPDX-License-Identifier: GPL-2.0

//! Large blocking sends: from memory of every kind, and ended early in every way.

use super::transfer::both_ways;
use crate::{
    config::{
        self,
        moment,
        patience,
        volume, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        spawn,
        step,
        Child, //
    },
    memory::{
        file,
        memfd,
        secret,
        tracked_file,
        Map,
        HUGE,
        PAGE, //
    },
    peers::{
        self,
        becomes,
        sdp_only,
        A,
        B, //
    },
    signals::{
        catch,
        interrupt_every, //
    },
    zcopy::{
        check_bytes,
        check_received,
        check_sent,
        check_settled,
        check_unpinned,
        counted,
        moves,
        pair,
        random,
        stats,
        threshold,
        together,
        transfer,
        BLOCK,
        THRESHOLD, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sdp::{
        stats_bytes,
        Stats,
        STATS,
        ZCOPY_RETRY,
        ZCOPY_THRESH, //
    },
    sock::{
        Piece,
        Shut,
        Sock, //
    },
};
use std::{
    fs::File,
    io,
    mem::{
        offset_of,
        size_of, //
    },
    sync::Arc,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    zcopy_options(10) "SDP_ZCOPY_THRESH, SDP_ZCOPY_RETRY and SDP_STATS: what they take and give",
    zcopy_sysctl(10) "net.sdp.zcopy_threshold: what it takes, and that new sockets have it",
    zcopy_blocking(60) "writes and reads of 1 MiB move without a copy at either end, both ways",
    zcopy_unaligned(60) "any address and any length, at both ends",
    zcopy_below_threshold(20) "what is below the threshold, or has it off at one end, is copied",
    zcopy_large(60) "one write of more than 5 MiB",
    zcopy_vectors(60) "many pieces of many sizes, at both ends",
    zcopy_from_readonly_file(20) "from a file that can only be read, as a program's own text can",
    zcopy_from_rodata(20) "from the program's constants",
    zcopy_from_shared_file(20) "from a file that is mapped shared",
    zcopy_from_private_file(20) "from a file that is mapped private and half written to",
    zcopy_from_memfd(20) "from a file that exists in memory only",
    zcopy_from_huge_page(20) "from pages of hugetlbfs",
    zcopy_from_transparent_huge_page(20) "from transparent huge pages",
    zcopy_from_zero_page(20) "from memory that nothing was written to",
    zcopy_from_tracked_file(20) "from a file whose pages nobody may keep to write to them: to read they may",
    zcopy_from_secret(30) "from memory of memfd_secret(), which nobody may keep: copies, behind memory that is lent",
    zcopy_fault_send(30) "memory that ends in the middle: what went is counted, and nothing else goes",
    zcopy_late_reader(60) "a peer that reads nothing for 3 s gets all bytes once",
    zcopy_signal_send(60) "a signal ends a send: the count is what the peer gets",
    zcopy_signals_send(120) "signals all the time: the counts are what the peer gets",
    zcopy_timeout_send(60) "SO_SNDTIMEO ends a send: the count is what the peer gets",
    zcopy_shutdown_send(60) "shutdown() by another thread ends a send: the count is what the peer gets",
    zcopy_reader_gone(60) "the peer closes: a send ends soon",
    zcopy_both_send(120) "both sides write 8 MiB while neither reads at first",
    zcopy_exchange(60) "both sides write 1 MiB and then read, each in one thread",
    zcopy_exchange_limited(60) "the same with SO_SNDBUF, which the listener has set, and without",
    zcopy_two_writers(120) "blocks of two threads do not mix, with zero copy and without",
    zcopy_threshold_page(120) "both directions in random sizes, with a threshold of one page",
    zcopy_threshold_64k(120) "the same with 64 KiB",
    zcopy_threshold_off(120) "the same with zero copy off: all is copied",
    zcopy_threshold_changes(60) "the threshold changes between calls and during one",
    zcopy_memlock(30) "RLIMIT_MEMLOCK of 0 for an ordinary user: copies",
}

fn zcopy_options() {
    sdp_only("TCP has no such options");
    let sock = A.socket();
    let get = |option| sock.get(libc::IPPROTO_TCP, option);
    let set = |option, value: i32| sock.set(libc::IPPROTO_TCP, option, value);
    for bytes in [0, PAGE as i32, 64 << 10, 1 << 30] {
        check!(set(ZCOPY_THRESH, bytes), Ok(()));
        check!(get(ZCOPY_THRESH), Ok(bytes));
    }
    for wrong in [-1, 1, PAGE as i32 - 1, i32::MAX] {
        check!(set(ZCOPY_THRESH, wrong), Err(Errno::EINVAL));
    }
    check!(get(ZCOPY_THRESH), Ok(1 << 30));
    check!(get(ZCOPY_RETRY), Ok(0));
    check!(set(ZCOPY_RETRY, 1), Ok(()));
    check!(get(ZCOPY_RETRY), Ok(1));
    check!(set(ZCOPY_RETRY, 2), Err(Errno::EINVAL));
    check!(set(ZCOPY_RETRY, 0), Ok(()));
    check!(get(ZCOPY_RETRY), Ok(0));
    check!(set(STATS, 0), Err(Errno::ENOPROTOOPT));

    let (a, b) = pair();
    check!(a.send(b"counted", 0), Ok(7));
    check!(b.recv_bytes(7), Ok(b"counted".to_vec()));
    check!((stats(&a).sent_copied, stats(&b).recv_copied), (7, 7));
    step!("there is room for some of SDP_STATS, and for more");
    let mut room = [0xee; size_of::<Stats>() + 8];
    check!(stats_bytes(&a, &mut room[..12]), Ok(12));
    check!(&room[..8], &7_u64.to_ne_bytes()[..]);
    check!(&room[8..16], &[0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee][..]);
    check!(stats_bytes(&a, &mut room), Ok(size_of::<Stats>()));
    check!(&room[size_of::<Stats>()..], &[0xee; 8][..]);
    check!(stats_bytes(&b, &mut room), Ok(size_of::<Stats>()));
    check!(room[offset_of!(Stats, recv_copied)], 7);

    step!("/proc/net/sdp_stat has the same, of all connections of the namespace");
    let before = must!(A.visit(Stats::of_namespace)).sent_copied;
    check!(a.send(b"more", 0), Ok(4));
    check!(b.recv_bytes(4), Ok(b"more".to_vec()));
    check!(must!(A.visit(Stats::of_namespace)).sent_copied, before + 4);
}

fn zcopy_sysctl() {
    sdp_only("TCP has no such setting");
    let kind = |result: io::Result<()>| result.map_err(|error| error.raw_os_error());
    check!(kind(A.set_threshold(PAGE as i64)), Ok(()));
    check!(kind(B.set_threshold(0)), Ok(()));
    for wrong in [-1, 1, PAGE as i64 - 1, (1 << 30) + 1, 1 << 40] {
        check!(kind(A.set_threshold(wrong)), Err(Some(libc::EINVAL)));
    }
    check!(
        (must!(A.threshold()), must!(B.threshold())),
        (PAGE as u32, 0)
    );

    let (a, b) = peers::pair();
    check!(a.get(libc::IPPROTO_TCP, ZCOPY_THRESH), Ok(PAGE as i32));
    check!(b.get(libc::IPPROTO_TCP, ZCOPY_THRESH), Ok(0));
    threshold(&b, PAGE);
    let bytes = random(1, 16 * PAGE);
    let mut room = vec![0; bytes.len()];
    transfer(&a, &b, &bytes, &mut room);
    counted("the threshold of the setting holds", &a, |stats| {
        stats.src_avails > 0
    });
    check_settled(&a);
}

fn zcopy_blocking() {
    let (a, b) = pair();
    let rounds = config::rounds(8, 2);
    let mut room = vec![0; BLOCK];
    for (from, to, way) in [(&a, &b, 2), (&b, &a, 3)] {
        for round in 0..rounds {
            step!("way {way}, round {round}");
            transfer(from, to, &random(way, BLOCK), &mut room);
        }
        check_sent(from, rounds * BLOCK, 99);
        check_received(to, rounds * BLOCK, 99);
        counted("no send was too slow", from, |stats| {
            config::slow() || stats.cancels_timeout == 0
        });
        counted("pages were pinned", from, |stats| {
            stats.pages_pinned as usize >= rounds * BLOCK / PAGE
        });
    }
    check_settled(&a);
    check_settled(&b);

    step!("without MSG_WAITALL");
    let bytes = random(4, BLOCK);
    let before = stats(&b).received_without_copy();
    let (sent, got) = together(|| a.send(&bytes, 0), || b.recv_bytes(BLOCK));
    check!(sent, Ok(BLOCK));
    check_bytes(&must!(got), &bytes);
    counted("99 % are received without a copy", &b, |stats| {
        (stats.received_without_copy() - before) * 100 >= BLOCK as u64 * 99
    });
}

fn zcopy_unaligned() {
    let (a, b) = pair();
    let bytes = random(5, 512 << 10);
    let mut room = vec![0; bytes.len()];
    let mut total = 0;
    let places = [(1, 0), (0, 1), (7, 4095), (4095, 7), (4096, 2), (513, 513)];
    let lengths = [THRESHOLD, THRESHOLD + 1, 100_003, 262_143];
    for (number, len) in lengths.into_iter().cycle().take(8).enumerate() {
        let (from, to) = places[number % places.len()];
        step!("{len} bytes at {from}, to {to}");
        room.fill(0);
        transfer(&a, &b, &bytes[from..][..len], &mut room[to..][..len]);
        let around = room[..to].iter().chain(&room[to + len..]);
        assert!(
            around.copied().all(|byte| byte == 0),
            "bytes beside the room"
        );
        total += len;
    }
    check_sent(&a, total, 99);
    check_received(&b, total, 95);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_below_threshold() {
    let (a, b) = pair();
    let mut room = vec![0; BLOCK];
    transfer(
        &a,
        &b,
        &random(6, THRESHOLD - 1),
        &mut room[..THRESHOLD - 1],
    );
    for sock in [&a, &b] {
        counted("nothing moved without a copy", sock, |stats| {
            stats.src_avails == 0
                && stats.sent_without_copy() == 0
                && stats.received_without_copy() == 0
        });
    }
    threshold(&b, 0);
    transfer(&a, &b, &random(7, BLOCK), &mut room);
    counted("a reader that has it off copies", &b, |stats| {
        stats.received_without_copy() == 0
    });
    threshold(&a, 0);
    threshold(&b, THRESHOLD);
    let before = stats(&a).sent_without_copy();
    transfer(&a, &b, &random(8, BLOCK), &mut room);
    counted("a writer that has it off copies", &a, |stats| {
        stats.sent_without_copy() == before
    });
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_large() {
    let bytes = random(9, (5 << 20) + 123);
    moves(&bytes, &mut vec![0; bytes.len()]);
}

fn zcopy_vectors() {
    let (a, b) = pair();
    let there = [1, 4095, 100_000, 3, 65_536, 0, 300_001, 17, 131_072, 50_000];
    let total = there.iter().sum();
    let here = [200_000, 1, 70_000, 4096, 0, 300_000, 99];
    let last = total - here.iter().sum::<usize>();
    let bytes = random(10, total);
    let mut room = vec![0; total];
    let (_, got) = together(
        || {
            let mut rest = &bytes[..];
            let mut pieces = there.map(|len| {
                let (piece, after) = rest.split_at(len);
                rest = after;
                Piece::from(piece)
            });
            check!(a.sendmsg(&mut pieces, 0), Ok(total));
        },
        || {
            let mut rest = &mut room[..];
            let mut pieces = Vec::new();
            for len in here.into_iter().chain([last]) {
                let (piece, after) = rest.split_at_mut(len);
                pieces.push(piece);
                rest = after;
            }
            b.recv_vectored(&mut pieces, libc::MSG_WAITALL)
        },
    );
    check!(got, Ok((total, 0)));
    check_bytes(&room, &bytes);
    // A twelfth is in pieces below the threshold.
    check_sent(&a, total, 90);
    check_received(&b, total, 50);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_from_readonly_file() {
    let program = must!(File::open("/proc/self/exe"));
    let len = (must!(program.metadata()).len() as usize).min(BLOCK + 1);
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let map = Map::file(&program, len, libc::PROT_READ, flags);
        moves(map.bytes(), &mut vec![0; len]);
    }
}

/// Something that no array of zeros is, so that it is in the file.
static CONSTANTS: [[u8; BLOCK / 4]; 4] = {
    let mut bytes = [0; BLOCK / 4];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at * 7 / 5) as u8;
        at += 1;
    }
    [bytes; 4]
};

fn zcopy_from_rodata() {
    moves(CONSTANTS.as_flattened(), &mut vec![0; BLOCK]);
}

fn zcopy_from_shared_file() {
    let bytes = random(11, BLOCK);
    let map = Map::file(
        &file(&bytes),
        BLOCK,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
    );
    moves(map.bytes(), &mut vec![0; BLOCK]);
    check_bytes(map.bytes(), &bytes);
}

fn zcopy_from_private_file() {
    let mut bytes = random(12, BLOCK);
    let mut map = Map::file(
        &file(&bytes),
        BLOCK,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE,
    );
    for page in (0..BLOCK).step_by(2 * PAGE) {
        bytes[page..][..100].fill(0x77);
        map.bytes_mut()[page..][..100].fill(0x77);
    }
    let mut room = vec![0; BLOCK];
    moves(map.bytes(), &mut room);
    check_bytes(&room, &bytes);
}

fn zcopy_from_memfd() {
    let bytes = random(13, BLOCK + 5);
    let map = Map::file(&memfd(&bytes), BLOCK + 5, libc::PROT_READ, libc::MAP_SHARED);
    moves(map.bytes(), &mut vec![0; BLOCK + 5]);
}

fn zcopy_from_huge_page() {
    let mut map = Map::huge(2 * HUGE);
    map.bytes_mut().copy_from_slice(&random(14, 2 * HUGE));
    let source = &map.bytes()[HUGE / 2 + 5..][..HUGE];
    moves(source, &mut vec![0; HUGE]);
}

fn zcopy_from_transparent_huge_page() {
    let (mut map, at) = Map::transparent_huge(HUGE);
    let bytes = random(15, HUGE);
    map.bytes_mut()[at..][..HUGE].copy_from_slice(&bytes);
    moves(&map.bytes()[at..][..HUGE], &mut vec![0; HUGE]);
}

fn zcopy_from_zero_page() {
    let map = Map::anonymous(BLOCK);
    let mut room = vec![1; BLOCK];
    moves(map.bytes(), &mut room);
    assert!(room.iter().all(|byte| *byte == 0), "zeros");
}

fn zcopy_from_tracked_file() {
    let mut map = Map::file(
        &tracked_file(BLOCK),
        BLOCK,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
    );
    let bytes = random(19, BLOCK);
    map.bytes_mut().copy_from_slice(&bytes);
    let mut room = vec![0; BLOCK];
    moves(map.bytes(), &mut room);
    check_bytes(&room, &bytes);
}

fn zcopy_from_secret() {
    let (a, b) = pair();
    let bytes = random(40, 2 * BLOCK);
    let mut map = Map::anonymous(2 * BLOCK);
    map.put(BLOCK, &secret(BLOCK));
    map.bytes_mut().copy_from_slice(&bytes);
    let mut room = vec![0; 2 * BLOCK];
    transfer(&a, &b, &map.bytes()[BLOCK..], &mut room[BLOCK..]);
    counted("all is copied, and told so", &a, |stats| {
        stats.sent_copied == BLOCK as u64 && stats.no_pages > 0
    });
    step!("behind memory that is lent");
    transfer(&a, &b, map.bytes(), &mut room);
    counted("the first part is lent", &a, |stats| {
        config::slow() || stats.sent_without_copy() > 0
    });
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_fault_send() {
    let (a, b) = pair();
    for (number, good) in [BLOCK, BLOCK + 8 * PAGE, THRESHOLD / 2]
        .into_iter()
        .enumerate()
    {
        step!("{good} bytes, then none that can be read");
        let mut map = Map::anonymous(good + 4 * THRESHOLD);
        let bytes = random(16 + number as u64, good);
        map.bytes_mut()[..good].copy_from_slice(&bytes);
        map.protect(good, 4 * THRESHOLD, libc::PROT_NONE);
        let whole = good + 4 * THRESHOLD;
        let (sent, got) = together(
            || {
                let sent = match a.sendmsg(&mut [Piece::at(map.start(), whole)], 0) {
                    Ok(sent) => sent,
                    Err(error) => {
                        check!(error, Errno::EFAULT);
                        0
                    }
                };
                check!(a.send(b"after", 0), Ok(5));
                sent
            },
            || {
                let mut all = Vec::new();
                while !all.ends_with(b"after") {
                    let mut room = vec![0; 128 << 10];
                    let len = must!(b.recv(&mut room, 0));
                    assert_ne!(len, 0, "an end");
                    all.extend_from_slice(&room[..len]);
                }
                all
            },
        );
        assert!(sent <= good, "{sent} of {good}");
        // What goes before the fault may stop at the limits of the pieces in which it is handed on.
        assert!(sent > 0 || good < THRESHOLD, "nothing was sent");
        check_bytes(&got, &[&bytes[..sent], b"after"].concat());
    }
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_late_reader() {
    for len in [256 << 10, (4 << 20) + 1] {
        step!("{len} bytes");
        let (a, b) = pair();
        let bytes = random(20, len);
        let (sent, got) = together(
            || a.send(&bytes, 0),
            || {
                thread::sleep(Duration::from_secs(3));
                b.recv_bytes(len)
            },
        );
        check!(sent, Ok(len));
        check_bytes(&must!(got), &bytes);
        check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
        counted("the peer was too slow", &a, |stats| {
            stats.cancels_timeout > 0
        });
        check_sent(&a, len, 0);
        check_received(&b, len, 0);
        check_settled(&a);
        check_settled(&b);
    }
}

/// Sends `bytes` while nobody reads, until `send` gives up: what it sent is what comes.
fn ends_early(
    a: Sock,
    b: Sock,
    bytes: &[u8],
    send: impl FnOnce(&Sock) -> Result<usize, Errno>,
    errors: &[Errno],
) {
    let sent = match send(&a) {
        Ok(sent) => sent,
        Err(error) => {
            assert!(
                errors.contains(&error),
                "the send\nexpected a count or one of {errors:?}\n     got {error}"
            );
            0
        }
    };
    step!("{sent} bytes were sent");
    assert!(sent < bytes.len(), "all was sent");
    check_settled(&a);
    let _ = a.shutdown(Shut::Write);
    check_bytes(&must!(b.recv_to_end()), &bytes[..sent]);
    check_received(&b, sent, 0);
    check_settled(&b);
}

fn zcopy_signal_send() {
    catch(libc::SIGUSR1, 0);
    let bytes = random(21, 16 << 20);
    // While the peer may still read, and when it was too slow already.
    for millis in [50, 200, 2500] {
        step!("a signal after {millis} ms");
        let (a, b) = pair();
        ends_early(
            a,
            b,
            &bytes,
            |a| {
                let _interrupter = interrupt_every(Duration::from_millis(millis), libc::SIGUSR1);
                let sent = a.send(&bytes, 0);
                if millis < 500 {
                    counted("a signal ended it", a, |stats| stats.cancels_signal > 0);
                }
                sent
            },
            &[Errno::EINTR],
        );
    }
}

fn zcopy_signals_send() {
    catch(libc::SIGUSR1, 0);
    let (a, b) = pair();
    let bytes = random(22, volume(16 << 20, BLOCK));
    let total = bytes.len();
    let (_, got) = together(
        || {
            let _interrupter = interrupt_every(Duration::from_millis(7), libc::SIGUSR1);
            let mut sent = 0;
            while sent < total {
                let end = total.min(sent + BLOCK);
                match a.send(&bytes[sent..end], 0) {
                    Ok(len) => sent += len,
                    Err(error) => check!(error, Errno::EINTR),
                }
            }
        },
        || b.recv_bytes(total),
    );
    check_bytes(&must!(got), &bytes);
    check_sent(&a, total, 0);
    check_received(&b, total, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_timeout_send() {
    let bytes = random(23, 16 << 20);
    for millis in [20, 300, 1800] {
        step!("a timeout of {millis} ms");
        let (a, b) = pair();
        must!(a.set_timeout(libc::SO_SNDTIMEO, Duration::from_millis(millis)));
        ends_early(
            a,
            b,
            &bytes,
            |a| {
                let start = Instant::now();
                let sent = a.send(&bytes, 0);
                let took = start.elapsed();
                let most = Duration::from_millis(millis) + patience(3);
                assert!(took < most, "took {took:?}");
                sent
            },
            &[Errno::EAGAIN],
        );
    }
}

fn zcopy_shutdown_send() {
    let bytes = random(24, 16 << 20);
    for how in [Shut::Write, Shut::Both] {
        let (a, b) = pair();
        let other = must!(a.dup());
        ends_early(
            a,
            b,
            &bytes,
            |a| {
                together(
                    || a.send(&bytes, libc::MSG_NOSIGNAL),
                    || {
                        thread::sleep(moment());
                        must!(other.shutdown(how));
                    },
                )
                .0
            },
            &[Errno::EPIPE],
        );
    }
}

fn zcopy_reader_gone() {
    let bytes = random(25, 16 << 20);
    for delay in [Duration::ZERO, moment(), Duration::from_millis(1500)] {
        step!("the reader closes after {delay:?}");
        let (a, b) = pair();
        let start = Instant::now();
        let (sent, _) = together(
            || a.send(&bytes, libc::MSG_NOSIGNAL),
            || {
                thread::sleep(delay);
                drop(b);
            },
        );
        match sent {
            Ok(sent) => assert!(sent < bytes.len(), "all was sent"),
            Err(error) => check_any!(error, [Errno::ECONNRESET, Errno::EPIPE]),
        }
        let took = start.elapsed();
        assert!(took < delay + patience(5), "took {took:?}");
        check_unpinned(&a);
    }
}

fn zcopy_both_send() {
    let (a, b) = pair();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let total = volume(8 << 20, BLOCK);
    let sides = [(&a, 26, 27), (&b, 27, 26)].map(|(sock, mine, others)| {
        let writer = {
            let sock = sock.clone();
            spawn("writer", move || {
                check!(sock.send(&random(mine, total), 0), Ok(total))
            })
        };
        let sock = sock.clone();
        let reader = spawn("reader", move || {
            thread::sleep(Duration::from_millis(1500));
            check_bytes(&must!(sock.recv_bytes(total)), &random(others, total));
        });
        (writer, reader)
    });
    for (writer, reader) in sides {
        join(writer);
        join(reader);
    }
    for sock in [&a, &b] {
        check_sent(sock, total, 0);
        check_received(sock, total, 0);
        check_settled(sock);
    }
}

fn zcopy_exchange() {
    sdp_only("TCP's buffers grow later");
    let lent = libc::MSG_ZEROCOPY;
    for (bytes, len, piece, flags) in [
        (THRESHOLD, THRESHOLD, THRESHOLD, 0),
        (THRESHOLD, 3 * THRESHOLD + 1, BLOCK, 0),
        (THRESHOLD, BLOCK, BLOCK, 0),
        (THRESHOLD, BLOCK, THRESHOLD, 0),
        (THRESHOLD, BLOCK, THRESHOLD, lent),
        (0, BLOCK, BLOCK, 0),
        (0, BLOCK, 16 << 10, 0),
    ] {
        let what = format!("threshold {bytes}, {len} bytes in pieces of {piece}, flags {flags}");
        step!("{what}");
        let (a, b) = pair();
        for sock in [&a, &b] {
            threshold(sock, bytes);
            must!(sock.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
        }
        let exchange = |sock: &Sock, mine: u64, others: u64| {
            let start = Instant::now();
            for round in 0..3 {
                let bytes = random(mine + round, len);
                for piece in bytes.chunks(piece) {
                    check!(sock.send(piece, flags), Ok(piece.len()));
                }
                check_bytes(&must!(sock.recv_bytes(len)), &random(others + round, len));
                // What is lent is the peer's until it has read it.
                let end = || stats(sock).sent() == (1 + round) * len as u64;
                assert!(becomes(patience(2), end), "the peer has read it");
            }
            let took = start.elapsed();
            // Less than the patience with a peer that reads nothing, three times.
            assert!(
                took < patience(6),
                "{what} took {took:?}; {:?}",
                stats(sock)
            );
        };
        together(|| exchange(&a, 400, 410), || exchange(&b, 410, 400));
        for sock in [&a, &b] {
            check_sent(sock, 3 * len, 0);
            check_received(sock, 3 * len, 0);
            check_settled(sock);
        }
    }
}

fn zcopy_exchange_limited() {
    sdp_only("TCP's buffers grow later");
    let (listener, addr) = B.listen();
    must!(listener.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 64 << 10));
    let (a, b) = peers::pair_of(&listener, &addr);
    for sock in [&a, &b] {
        check!(sock.send(b"unread", 0), Ok(6));
        must!(sock.set_timeout(libc::SO_SNDTIMEO, patience(1)));
    }
    let bytes = random(420, 3 * BLOCK);
    step!("as much as TCP would hold");
    check!(a.send(&bytes, 0), Ok(bytes.len()));
    step!("no more than the listener's SO_SNDBUF, and what the peer's buffers take");
    let sent = must!(b.send(&bytes, 0));
    assert!(sent < BLOCK, "{sent} bytes were sent");
    check_bytes(&must!(a.recv_bytes(6 + sent))[6..], &bytes[..sent]);
    check_bytes(&must!(b.recv_bytes(6 + bytes.len()))[6..], &bytes);
}

fn zcopy_two_writers() {
    sdp_only("TCP mixes what two threads write");
    let rounds = config::rounds(6, 2);
    for bytes in [THRESHOLD, 0] {
        let (a, b) = pair();
        threshold(&a, bytes);
        threshold(&b, bytes);
        let a = Arc::new(a);
        let writers: Vec<_> = [0x10, 0x20]
            .into_iter()
            .map(|mark| {
                let a = a.clone();
                spawn("writer", move || {
                    for round in 0..rounds {
                        let block = vec![mark + round as u8; BLOCK];
                        check!(a.send(&block, 0), Ok(BLOCK));
                    }
                })
            })
            .collect();
        let mut next = [0; 2];
        for round in 0..2 * rounds {
            step!("threshold {bytes}: block {round}");
            let block = must!(b.recv_bytes(BLOCK));
            check!(block.len(), BLOCK);
            let whose = usize::from(block[0] >> 4);
            assert!(
                (1..=2).contains(&whose),
                "a block of byte {:#04x}",
                block[0]
            );
            check!(usize::from(block[0] & 0xf), next[whose - 1]);
            next[whose - 1] += 1;
            check_bytes(&block, &vec![block[0]; BLOCK]);
        }
        writers.into_iter().for_each(join);
        check_settled(&a);
        check_settled(&b);
    }
}

/// Moves random sizes both ways, with a threshold of `bytes`; `seen` looks at each end then.
fn with_threshold(bytes: usize, stream: u64, seen: impl Fn(&Sock, usize)) {
    let (a, b) = pair();
    threshold(&a, bytes);
    threshold(&b, bytes);
    let ends = [must!(a.dup()), must!(b.dup())];
    let total = volume(12 << 20, 512 << 10);
    both_ways(a, b, stream, total);
    for sock in &ends {
        seen(sock, total);
        check_settled(sock);
    }
}

fn zcopy_threshold_page() {
    with_threshold(PAGE, 2100, |sock, total| {
        check_sent(sock, total, 1);
        check_received(sock, total, 0);
    });
}

fn zcopy_threshold_64k() {
    with_threshold(64 << 10, 2110, |sock, total| {
        check_sent(sock, total, 0);
        check_received(sock, total, 0);
    });
}

fn zcopy_threshold_off() {
    with_threshold(0, 2120, |sock, total| {
        counted("all is copied", sock, |stats| {
            let total = total as u64;
            (stats.sent_copied, stats.recv_copied) == (total, total)
                && (stats.src_avails, stats.sink_avails, stats.declined) == (0, 0, 0)
                && (stats.pages_pinned, stats.mrs_registered) == (0, 0)
        });
    });
}

fn zcopy_threshold_changes() {
    let (a, b) = pair();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let total = volume(32 << 20, 4 * BLOCK);
    let writer = {
        let a = a.clone();
        spawn("writer", move || {
            let bytes = random(28, total);
            for block in bytes.chunks(BLOCK / 2 + 1) {
                check!(a.send(block, 0), Ok(block.len()));
            }
            bytes
        })
    };
    let reader = {
        let b = b.clone();
        spawn("reader", move || must!(b.recv_bytes(total)))
    };
    let mut random = Random::new(config::get().seed, 2029);
    while !reader.is_finished() {
        let bytes = [0, PAGE, THRESHOLD, BLOCK, 1 << 30][random.within(0, 4)];
        threshold(if random.within(0, 1) == 0 { &a } else { &b }, bytes);
        thread::sleep(Duration::from_millis(random.within(0, 20) as u64));
    }
    check_bytes(&join(reader), &join(writer));
    check_sent(&a, total, 0);
    check_received(&b, total, 0);
    check_settled(&a);
    check_settled(&b);
}

/// Makes this process one of an ordinary user, who may lock `bytes` of memory.
pub(super) fn be_ordinary(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: The limit is read over the call; the others take no memory.
    unsafe {
        must!(Errno::check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit)));
        must!(Errno::check(libc::setgid(65534)));
        must!(Errno::check(libc::setuid(65534)));
    }
}

fn zcopy_memlock() {
    let (a, b) = pair();
    let bytes = random(30, BLOCK);
    let child = Child::start(|| {
        be_ordinary(0);
        check!(a.send(&bytes, 0), Ok(BLOCK));
        check!(a.recv_bytes(BLOCK).as_ref(), Ok(&bytes));
        for (what, copied) in [
            ("sends", stats(&a).sent_copied),
            ("receives", stats(&a).recv_copied),
        ] {
            counted(&format!("{what} by copy"), &a, |_| copied == BLOCK as u64);
        }
        counted("says why", &a, |stats| {
            stats.no_memlock > 0 && stats.pages_pinned == 0
        });
    });
    check_bytes(&must!(b.recv_bytes(BLOCK)), &bytes);
    check!(b.send(&bytes, 0), Ok(BLOCK));
    check!(child.wait(), 0);
    check_settled(&b);
}
