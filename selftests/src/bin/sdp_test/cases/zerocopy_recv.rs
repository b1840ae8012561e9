// SPDX-License-Identifier: GPL-2.0

//! Large receives: into memory of every kind, too small ones, and what looks at bytes that the peer
//! has only advertised.

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
        step, //
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
    peers::becomes,
    signals::{
        catch,
        interrupt_every, //
    },
    zcopy::{
        check_bytes,
        check_received,
        check_sent,
        check_settled,
        counted,
        moves,
        pair,
        random,
        stats,
        together,
        transfer,
        BLOCK,
        THRESHOLD, //
    },
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::Arc,
    thread,
    time::Duration, //
};

cases! {
    zcopy_to_shared_file(20) "into a file that is mapped shared: the file has the bytes",
    zcopy_to_private_file(20) "into a file that is mapped private: the file stays as it was",
    zcopy_to_memfd(20) "into a file that exists in memory only",
    zcopy_to_huge_page(20) "into pages of hugetlbfs",
    zcopy_to_transparent_huge_page(20) "into transparent huge pages",
    zcopy_to_untouched(20) "into memory that nothing was written to",
    zcopy_to_tracked_file(60) "into a file whose pages nobody may keep: copies, beside memory that is lent too",
    zcopy_to_secret(60) "into memory of memfd_secret(), which nobody may keep either",
    zcopy_to_readonly(30) "into memory that cannot be written: EFAULT, and the bytes can still be read",
    zcopy_fault_recv(30) "into memory that ends in the middle: what came is counted, and the rest can be read",
    zcopy_small_reads(60) "reads of 4 KiB of a write of 1 MiB",
    zcopy_mixed_reads(60) "reads of random sizes of writes of random sizes",
    zcopy_peek(30) "MSG_PEEK at an advertised write, before it is read",
    zcopy_trunc(30) "MSG_TRUNC drops a part of an advertised write",
    zcopy_waitall(30) "MSG_WAITALL over small and large writes",
    zcopy_fionread(30) "FIONREAD with an advertised write tells of no more than there is",
    zcopy_lowat(30) "SO_RCVLOWAT of a part of an advertised write",
    zcopy_signals_recv(120) "signals all the time: no byte is lost",
    zcopy_timeout_recv(30) "SO_RCVTIMEO ends a receive with what there is",
    zcopy_two_readers(60) "two threads read advertised writes: each byte goes to one of them",
    zcopy_shut_recv(30) "shutdown() by another thread ends a large receive",
    zcopy_written(60) "the peer writes into memory that a waiting receive offers",
    zcopy_written_short(60) "writes shorter than the memory that is offered, small ones among them",
    zcopy_written_several(60) "the peer writes several buffers of a length into memory that one receive offers",
    zcopy_written_uneven(120) "buffers of a length and of others: what was written apart is brought together",
    zcopy_written_timeout(60) "SO_RCVTIMEO takes offered memory back, whenever the peer writes: no byte is lost",
}

/// Receives into `map`, which is a block long.
fn into_block(stream: u64, map: &mut Map) -> Vec<u8> {
    let bytes = random(stream, BLOCK);
    moves(&bytes, map.bytes_mut());
    bytes
}

fn zcopy_to_shared_file() {
    let file = file(&vec![0; BLOCK]);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let bytes = into_block(100, &mut Map::file(&file, BLOCK, prot, libc::MAP_SHARED));
    let mut room = vec![0; BLOCK];
    must!(file.read_exact_at(&mut room, 0));
    check_bytes(&room, &bytes);
}

fn zcopy_to_private_file() {
    let file = file(&vec![0x55; BLOCK]);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let mut map = Map::file(&file, BLOCK, prot, libc::MAP_PRIVATE);
    // Read before, so that pages of the file itself are there, to be left alone.
    assert!(map.bytes().iter().all(|byte| *byte == 0x55));
    into_block(101, &mut map);
    let mut room = vec![0; BLOCK];
    must!(file.read_exact_at(&mut room, 0));
    check_bytes(&room, &vec![0x55; BLOCK]);
}

fn zcopy_to_memfd() {
    let file = memfd(&vec![0; BLOCK]);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let bytes = into_block(102, &mut Map::file(&file, BLOCK, prot, libc::MAP_SHARED));
    let mut room = vec![0; BLOCK];
    must!(file.read_exact_at(&mut room, 0));
    check_bytes(&room, &bytes);
}

fn zcopy_to_huge_page() {
    let mut map = Map::huge(2 * HUGE);
    let room = &mut map.bytes_mut()[HUGE / 2 + 5..][..HUGE];
    moves(&random(103, HUGE), room);
}

fn zcopy_to_transparent_huge_page() {
    let (mut map, at) = Map::transparent_huge(HUGE);
    moves(&random(104, HUGE), &mut map.bytes_mut()[at..][..HUGE]);
}

fn zcopy_to_untouched() {
    into_block(105, &mut Map::anonymous(BLOCK));
}

/// Receives into memory of `file`, which nobody may keep: whether the peer advertises or would
/// write, all is copied, and the next receive into other memory is not. What it has then.
fn copies_into(stream: u64, file: &File) -> Vec<u8> {
    let (a, b) = warm_pair();
    let mut map = Map::anonymous(2 * BLOCK);
    map.put(BLOCK, file);
    let lent = stats(&b).received_without_copy();
    let mut bytes = Vec::new();
    for round in 0..3 {
        step!("round {round}");
        bytes = random(stream + round, BLOCK);
        let room = &mut map.bytes_mut()[BLOCK..];
        let (sent, got) = together(
            || {
                // The reader waits by then, or what is advertised waits for the reader.
                thread::sleep(if round == 0 { moment() } else { Duration::ZERO });
                a.send(&bytes, 0)
            },
            || b.recv_all(room),
        );
        check!((sent, got), (Ok(BLOCK), Ok(BLOCK)));
        check_bytes(room, &bytes);
    }
    counted("all is copied, and told so", &b, |stats| {
        stats.received_without_copy() == lent && stats.no_pages > 0
    });

    step!("memory that is lent, and then such that is not");
    let both = random(stream + 3, 2 * BLOCK);
    transfer(&a, &b, &both, map.bytes_mut());
    counted("the first part is lent", &b, |stats| {
        config::slow() || stats.received_without_copy() > lent
    });
    bytes.copy_from_slice(&both[BLOCK..]);
    let stats = stats(&b);
    step!("other memory");
    transfer(&a, &b, &both, &mut vec![0; 2 * BLOCK]);
    counted("is lent", &b, |now| {
        config::slow() || now.received_without_copy() > stats.received_without_copy()
    });
    check_settled(&a);
    check_settled(&b);
    bytes
}

fn zcopy_to_tracked_file() {
    let file = tracked_file(BLOCK);
    let bytes = copies_into(540, &file);
    let mut room = vec![0; BLOCK];
    must!(file.read_exact_at(&mut room, 0));
    check_bytes(&room, &bytes);
}

fn zcopy_to_secret() {
    copies_into(550, &secret(BLOCK));
}

fn zcopy_to_readonly() {
    let (a, b) = pair();
    let bytes = random(106, BLOCK);
    let map = Map::anonymous(BLOCK);
    map.protect(0, BLOCK, libc::PROT_READ);
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            for flags in [0, libc::MSG_WAITALL, libc::MSG_PEEK] {
                assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
                // SAFETY: The memory cannot be written.
                let result = unsafe { b.recv_at(map.start(), BLOCK, flags) };
                check!(result, Err(Errno::EFAULT));
            }
            must!(b.recv_bytes(BLOCK))
        },
    );
    check!(sent, Ok(BLOCK));
    check_bytes(&got, &bytes);
    assert!(map.bytes().iter().all(|byte| *byte == 0), "bytes in it");
    check_sent(&a, BLOCK, 0);
    check_received(&b, BLOCK, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_fault_recv() {
    for good in [PAGE, THRESHOLD, BLOCK / 2 + 4 * PAGE] {
        step!("room for {good} bytes, then none");
        let (a, b) = pair();
        let bytes = random(107, BLOCK);
        let map = Map::anonymous(BLOCK);
        map.protect(good, BLOCK - good, libc::PROT_NONE);
        let (sent, got) = together(
            || a.send(&bytes, 0),
            || {
                // SAFETY: The part of the memory that can be written belongs to this call.
                let first = match unsafe { b.recv_at(map.start(), BLOCK, libc::MSG_WAITALL) } {
                    Ok(len) => len,
                    Err(error) => {
                        check!(error, Errno::EFAULT);
                        0
                    }
                };
                assert!(first <= good, "{first} of {good}");
                let rest = must!(b.recv_bytes(BLOCK - first));
                [&map.bytes()[..first], &rest].concat()
            },
        );
        check!(sent, Ok(BLOCK));
        check_bytes(&got, &bytes);
        check_settled(&a);
        check_settled(&b);
    }
}

fn zcopy_small_reads() {
    let (a, b) = pair();
    let rounds = config::rounds(4, 1);
    for round in 0..rounds {
        let bytes = random(108 + round as u64, BLOCK);
        let (sent, got) = together(
            || a.send(&bytes, 0),
            || {
                let mut all = Vec::with_capacity(BLOCK);
                let mut room = [0; PAGE];
                while all.len() < BLOCK {
                    let len = must!(b.recv(&mut room, 0));
                    assert_ne!(len, 0, "an end");
                    all.extend_from_slice(&room[..len]);
                }
                all
            },
        );
        check!(sent, Ok(BLOCK));
        check_bytes(&got, &bytes);
    }
    counted("the reader asks for copies", &b, |stats| stats.declined > 0);
    check_sent(&a, rounds * BLOCK, 0);
    check_received(&b, rounds * BLOCK, 0);
    counted("no send waited in vain", &a, |stats| {
        stats.cancels_timeout == 0
    });
    check_settled(&a);
    check_settled(&b);

    step!("large reads move without a copy again");
    let before = stats(&b).received_without_copy();
    let mut room = vec![0; BLOCK];
    for round in 0..4 {
        transfer(&a, &b, &random(112 + round, BLOCK), &mut room);
    }
    counted("some did", &b, |stats| {
        stats.received_without_copy() > before
    });
}

fn zcopy_mixed_reads() {
    let (a, b) = pair();
    let total = volume(24 << 20, BLOCK);
    let bytes = random(116, total);
    let sizes = |stream| {
        let mut random = Random::new(config::get().seed, stream);
        move || {
            let limit = 1 << random.within(10, 19);
            random.within(1, limit)
        }
    };
    let (_, got) = together(
        || {
            let (mut sent, mut size) = (0, sizes(2117));
            while sent < total {
                let len = size().min(total - sent);
                check!(a.send(&bytes[sent..][..len], 0), Ok(len));
                sent += len;
            }
        },
        || {
            let (mut got, mut size) = (0, sizes(2118));
            let mut room = vec![0; total];
            while got < total {
                let len = size().min(total - got);
                let flags = [0, libc::MSG_WAITALL][len % 2];
                let len = must!(b.recv(&mut room[got..][..len], flags));
                assert_ne!(len, 0, "an end");
                got += len;
            }
            room
        },
    );
    check_bytes(&got, &bytes);
    check_sent(&a, total, 0);
    check_received(&b, total, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_peek() {
    let (a, b) = pair();
    let bytes = random(119, BLOCK);
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            let mut room = vec![0; BLOCK];
            assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
            for len in [1, 100, PAGE, THRESHOLD, BLOCK, 1] {
                room.fill(0);
                let peeked = must!(b.recv(&mut room[..len], libc::MSG_PEEK));
                assert!((1..=len).contains(&peeked), "peeked at {peeked} of {len}");
                check_bytes(&room[..peeked], &bytes[..peeked]);
                assert!(room[peeked..].iter().all(|byte| *byte == 0), "bytes behind");
            }
            let first = must!(b.recv(&mut room[..1000], libc::MSG_WAITALL));
            check!(first, 1000);
            let peeked = must!(b.recv(&mut room[1000..], libc::MSG_PEEK));
            check_bytes(&room[1000..][..peeked], &bytes[1000..][..peeked]);
            check!(b.recv_all(&mut room[1000..]), Ok(BLOCK - 1000));
            room
        },
    );
    check!(sent, Ok(BLOCK));
    check_bytes(&got, &bytes);
    check!(b.recv(&mut [0], libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
    check_sent(&a, BLOCK, 0);
    check_received(&b, BLOCK, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_trunc() {
    let (a, b) = pair();
    let bytes = random(120, BLOCK + 1000);
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            let mut room = vec![0xee; BLOCK];
            let mut dropped = 0;
            while dropped < BLOCK {
                let len = must!(b.recv(&mut room[dropped..], libc::MSG_TRUNC));
                assert_ne!(len, 0, "an end");
                dropped += len;
            }
            assert!(room.iter().all(|byte| *byte == 0xee), "stored bytes");
            must!(b.recv_bytes(1000))
        },
    );
    check!(sent, Ok(bytes.len()));
    check_bytes(&got, &bytes[BLOCK..]);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_waitall() {
    let (a, b) = pair();
    let bytes = random(121, 2 * BLOCK + 40);
    let (_, got) = together(
        || {
            let mut rest = &bytes[..];
            for len in [10, BLOCK, 10, 10, BLOCK, 10] {
                let (piece, after) = rest.split_at(len);
                check!(a.send(piece, 0), Ok(len));
                rest = after;
                thread::sleep(Duration::from_millis(30));
            }
        },
        || {
            let mut room = vec![0; bytes.len()];
            check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(bytes.len()));
            room
        },
    );
    check_bytes(&got, &bytes);
    check_sent(&a, bytes.len(), 99);
    check_received(&b, bytes.len(), 98);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_fionread() {
    let (a, b) = pair();
    let bytes = random(122, BLOCK);
    let unread = || must!(b.ioctl(libc::FIONREAD)) as usize;
    check!(unread(), 0);
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            assert_ne!(must!(b.poll(libc::POLLIN, patience(5))), 0);
            let there = unread();
            assert!((1..=BLOCK).contains(&there), "tells of {there}");
            // What it tells of can be had without waiting.
            let mut room = vec![0; BLOCK];
            let first = must!(b.recv(&mut room[..there], libc::MSG_DONTWAIT));
            assert!((1..=there).contains(&first), "gives {first} of {there}");
            check!(b.recv_all(&mut room[first..]), Ok(BLOCK - first));
            room
        },
    );
    check!(sent, Ok(BLOCK));
    check_bytes(&got, &bytes);
    check!(unread(), 0);
    check_settled(&b);
}

fn zcopy_lowat() {
    let (a, b) = pair();
    let lowat = 256 << 10;
    // SO_RCVLOWAT is bounded by the receive buffer.
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVBUF, BLOCK as i32));
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, lowat));
    let bytes = random(123, BLOCK);
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            step!("poll()");
            let events = must!(b.poll(libc::POLLIN, patience(8)));
            check!(events & libc::POLLIN, libc::POLLIN);
            step!("recv()");
            let mut room = vec![0; BLOCK];
            let first = must!(b.recv(&mut room, 0));
            assert!(first >= lowat as usize, "gives {first}");
            must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1));
            check!(b.recv_all(&mut room[first..]), Ok(BLOCK - first));
            room
        },
    );
    check!(sent, Ok(BLOCK));
    check_bytes(&got, &bytes);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_signals_recv() {
    catch(libc::SIGUSR1, 0);
    let (a, b) = pair();
    let total = volume(16 << 20, BLOCK);
    let bytes = random(124, total);
    let (_, got) = together(
        || {
            for block in bytes.chunks(BLOCK) {
                check!(a.send(block, 0), Ok(block.len()));
            }
        },
        || {
            let _interrupter = interrupt_every(Duration::from_millis(5), libc::SIGUSR1);
            let mut room = vec![0; total];
            let mut got = 0;
            while got < total {
                let end = total.min(got + BLOCK);
                match b.recv(&mut room[got..end], libc::MSG_WAITALL) {
                    Ok(len) => got += len,
                    Err(error) => check!(error, Errno::EINTR),
                }
            }
            room
        },
    );
    check_bytes(&got, &bytes);
    check_sent(&a, total, 0);
    check_received(&b, total, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_timeout_recv() {
    let (a, b) = pair();
    let bytes = random(125, BLOCK);
    must!(b.set_timeout(libc::SO_RCVTIMEO, moment()));
    let mut room = vec![0; 2 * BLOCK];
    check!(b.recv(&mut room, 0), Err(Errno::EAGAIN));
    let (sent, got) = together(
        || a.send(&bytes, 0),
        || {
            let mut got = 0;
            while got < BLOCK {
                match b.recv(&mut room[got..], libc::MSG_WAITALL) {
                    Ok(len) => got += len,
                    Err(error) => check!(error, Errno::EAGAIN),
                }
            }
            got
        },
    );
    check!((sent, got), (Ok(BLOCK), BLOCK));
    check_bytes(&room[..BLOCK], &bytes);
    check_received(&b, BLOCK, 0);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_two_readers() {
    let (a, b) = pair();
    let b = Arc::new(b);
    let total = volume(8 << 20, BLOCK);
    let readers: Vec<_> = [BLOCK / 4, BLOCK]
        .into_iter()
        .map(|size| {
            let b = b.clone();
            spawn("reader", move || {
                let (mut all, mut room) = (Vec::new(), vec![0; size]);
                loop {
                    match must!(b.recv(&mut room, 0)) {
                        0 => return all,
                        len => all.extend_from_slice(&room[..len]),
                    }
                }
            })
        })
        .collect();
    let bytes = random(126, total);
    for block in bytes.chunks(BLOCK) {
        check!(a.send(block, 0), Ok(block.len()));
    }
    check_sent(&a, total, 0);
    drop(a);
    let mut count = [0_i64; 256];
    for byte in readers.into_iter().flat_map(join) {
        count[usize::from(byte)] += 1;
    }
    for byte in &bytes {
        count[usize::from(*byte)] -= 1;
    }
    assert!(count.iter().all(|count| *count == 0), "other bytes");
    check_received(&b, total, 0);
}

fn zcopy_shut_recv() {
    let (a, b) = pair();
    let other = must!(b.dup());
    let mut room = vec![0; BLOCK];
    let (_, got) = together(
        || {
            thread::sleep(moment());
            must!(other.shutdown(Shut::Read));
        },
        || b.recv(&mut room, libc::MSG_WAITALL),
    );
    check!(got, Ok(0));
    // What comes then is refused, or dropped as TCP does; no thread waits for ever.
    let result = a.send(&room[..100], libc::MSG_NOSIGNAL);
    check_any!(result, [Ok(100), Err(Errno::ECONNRESET), Err(Errno::EPIPE)]);
    assert!(
        becomes(patience(3), || b.recv(&mut [0], libc::MSG_DONTWAIT)
            != Err(Errno::EAGAIN)),
        "a receive after shutdown() does not wait"
    );
}

/// A connection on which large writes come without a copy, so that the next one is expected to.
fn warm_pair() -> (Sock, Sock) {
    let (a, b) = pair();
    let mut room = vec![0; BLOCK];
    for stream in 500..502 {
        transfer(&a, &b, &random(stream, BLOCK), &mut room);
    }
    (a, b)
}

fn zcopy_written() {
    let (a, b) = warm_pair();
    let mut room = vec![0; BLOCK];
    for round in 0..config::rounds(8, 3) {
        step!("round {round}");
        let bytes = random(510 + round as u64, BLOCK);
        let (_, got) = together(
            || {
                // The reader waits by then.
                thread::sleep(moment());
                check!(a.send(&bytes, 0), Ok(BLOCK));
            },
            || {
                let mut got = 0;
                while got < BLOCK {
                    got += must!(b.recv(&mut room[got..], 0));
                }
                got
            },
        );
        check!(got, BLOCK);
        check_bytes(&room, &bytes);
    }
    counted("what waits is written to", &b, |stats| {
        config::slow() || (stats.recv_written > 0 && stats.sink_avails > 0)
    });
    counted("by the peer", &a, |stats| {
        config::slow() || stats.sent_written > 0
    });
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_written_short() {
    let (a, b) = warm_pair();
    let mut sizes = Random::new(config::get().seed, 520);
    let bytes = random(521, volume(6 << 20, BLOCK));
    let (_, got) = together(
        || {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let limit = 1 << sizes.within(0, 20);
                let (piece, after) = rest.split_at(sizes.within(1, limit).min(rest.len()));
                rest = after;
                check!(a.send(piece, 0), Ok(piece.len()));
            }
            must!(a.shutdown(Shut::Write));
        },
        || {
            let (mut all, mut room) = (Vec::new(), vec![0; BLOCK]);
            loop {
                room.fill(0x77);
                match must!(b.recv(&mut room, 0)) {
                    0 => return all,
                    len => {
                        all.extend_from_slice(&room[..len]);
                        assert!(
                            room[len..].iter().all(|byte| *byte == 0x77),
                            "bytes behind those that were told"
                        );
                    }
                }
            }
        },
    );
    check_bytes(&got, &bytes);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_written_timeout() {
    let (a, b) = warm_pair();
    must!(b.set_timeout(libc::SO_RCVTIMEO, Duration::from_millis(2)));
    let bytes = random(530, volume(6 << 20, BLOCK));
    let (_, got) = together(
        || {
            for piece in bytes.chunks(BLOCK / 3) {
                thread::sleep(Duration::from_millis(1));
                check!(a.send(piece, 0), Ok(piece.len()));
            }
        },
        || {
            let (mut all, mut room) = (Vec::new(), vec![0; BLOCK]);
            while all.len() < bytes.len() {
                match b.recv(&mut room, 0) {
                    Ok(len) => all.extend_from_slice(&room[..len]),
                    Err(error) => check!(error, Errno::EAGAIN),
                }
            }
            all
        },
    );
    check_bytes(&got, &bytes);
    check_settled(&a);
    check_settled(&b);
}

/// Sends blocks made of buffers with `MSG_ZEROCOPY`, whose lengths `next` gives, to a receiver that
/// waits for each block; how many receives it took.
fn write_blocks(a: &Sock, b: &Sock, bytes: &[u8], mut next: impl FnMut() -> usize + Send) -> usize {
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    let mut calls = 0;
    together(
        || {
            for block in bytes.chunks(BLOCK) {
                // The receiver waits by then.
                check!(a.recv(&mut [0], 0), Ok(1));
                thread::sleep(moment() / 10);
                let mut rest = block;
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(next().min(rest.len()));
                    check!(a.send(piece, libc::MSG_ZEROCOPY), Ok(piece.len()));
                    // There is room for so many only.
                    while a.notice().is_ok() {}
                    rest = after;
                }
            }
        },
        || {
            let mut room = vec![0; BLOCK];
            for block in bytes.chunks(BLOCK) {
                check!(b.send(b"x", 0), Ok(1));
                let mut got = 0;
                while got < block.len() {
                    let len = must!(b.recv(&mut room[got..], 0));
                    assert_ne!(len, 0, "an end");
                    got += len;
                    calls += 1;
                }
                check_bytes(&room[..block.len()], block);
            }
        },
    );
    calls
}

fn zcopy_written_several() {
    let (a, b) = warm_pair();
    let rounds = config::rounds(24, 4);
    let bytes = random(540, rounds * BLOCK);
    let calls = write_blocks(&a, &b, &bytes, || BLOCK / 4);
    counted("receives offer several buffers", &b, |stats| {
        config::slow() || stats.sink_avails > calls as u64
    });
    counted("which are written to", &b, |stats| {
        config::slow() || stats.recv_written > (rounds * BLOCK / 4) as u64
    });
    check_sent(&a, (rounds + 2) * BLOCK, 99);
    check_settled(&a);
    check_settled(&b);
}

fn zcopy_written_uneven() {
    let (a, b) = warm_pair();
    let mut sizes = Random::new(config::get().seed, 2541);
    let bytes = random(541, config::rounds(48, 6) * BLOCK);
    write_blocks(&a, &b, &bytes, || match sizes.within(0, 7) {
        0 => sizes.within(1, 4 * THRESHOLD),
        1 => 10,
        _ => 2 * THRESHOLD,
    });
    check_received(&b, bytes.len() + 2 * BLOCK, 0);
    check_settled(&a);
    check_settled(&b);
}
