// SPDX-License-Identifier: GPL-2.0

//! Calls on a connection in a random order, the same for each family: bytes, urgent ones among
//! them, looked at and read in pieces, with options that change how, up to the end.

use crate::{
    raw,
    record::Record,
    sides::{
        becomes,
        reset,
        Sides, //
    },
};
use libc::c_int;
use sdp_selftests::{
    errno::Result,
    random::Random,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    thread::sleep,
    time::Duration, //
};

/// How many connections there are, and how many calls on each.
const CONNECTIONS: u64 = 120;
const CALLS: usize = 16;

const SO_PEEK_OFF: c_int = 42;
const SIOCATMARK: libc::c_ulong = 0x8905;

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    for number in 0..CONNECTIONS {
        let mut random = Random::new(27, number);
        let (a, b) = sides.pair();
        for at in 0..CALLS {
            let (end, sock, peer) = match random.within(0, 3) {
                0 => ("a", &a, &b),
                _ => ("b", &b, &a),
            };
            let (what, got) = call(sock, peer, &mut random);
            let name = format!("sequence {number} {at:02} {end} {what}");
            record.note(name, (got, raw::signals()));
        }
        reset(&a);
        reset(&b);
    }
}

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.within(0, of.len() - 1)]
}

/// What a call is, and what it gave.
fn call(sock: &Sock, peer: &Sock, random: &mut Random) -> (String, String) {
    match random.within(0, 15) {
        0..=4 => {
            let len = pick(random, &[1, 1, 2, 3, 10, 100, 5000]);
            let flags = pick(random, &[0, 0, libc::MSG_OOB]);
            let bytes = random.bytes(len);
            // It is the other end that mostly reads.
            let got = peer.send(&bytes, flags);
            becomes(|| peer.ioctl(libc::TIOCOUTQ) == Ok(0));
            sleep(Duration::from_millis(10));
            (
                format!("is_sent {len} flags={flags:#x}"),
                format!("{got:?}"),
            )
        }
        5..=10 => {
            let len = pick(random, &[0, 1, 2, 3, 8, 100, 10000]);
            let flags = [
                libc::MSG_PEEK,
                libc::MSG_PEEK,
                libc::MSG_TRUNC,
                libc::MSG_WAITALL,
                libc::MSG_OOB,
            ];
            let flags = flags.into_iter().filter(|_| random.within(0, 3) == 0);
            let flags = flags.fold(libc::MSG_DONTWAIT, |all, flag| all | flag);
            let mut room = vec![0; len];
            let got = sock.recv_vectored(&mut [&mut room], flags);
            let sum = room.iter().fold(0u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            });
            (
                format!("recv {len} flags={flags:#x}"),
                format!("{got:?} {sum:x}"),
            )
        }
        11 => {
            let numbers = [libc::FIONREAD, SIOCATMARK].map(|request| sock.ioctl(request));
            ("ioctl".into(), format!("{numbers:?}"))
        }
        12 => {
            let all = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;
            let got = sock.poll(all, Duration::ZERO);
            ("poll".into(), format!("{got:?}"))
        }
        13 => {
            let inline = pick(random, &[0, 1]);
            let got = sock.set(libc::SOL_SOCKET, libc::SO_OOBINLINE, inline);
            (format!("inline {inline}"), format!("{got:?}"))
        }
        14 => match random.within(0, 1) {
            0 => {
                let bytes = pick(random, &[1, 3, 10, 200]);
                let got = sock.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
                (format!("low_water {bytes}"), format!("{got:?}"))
            }
            _ => {
                let offset = pick(random, &[-1, 0, 1, 3]);
                let got = sock.set(libc::SOL_SOCKET, SO_PEEK_OFF, offset);
                (format!("peek_offset {offset}"), format!("{got:?}"))
            }
        },
        _ => end(sock, random),
    }
}

/// Shuts a half, or asks what has become of the connection.
fn end(sock: &Sock, random: &mut Random) -> (String, String) {
    let (what, got): (_, Result<()>) = match random.within(0, 5) {
        0 => ("shutdown_write", sock.shutdown(Shut::Write)),
        1 => ("shutdown_read", sock.shutdown(Shut::Read)),
        _ => ("error", sock.error()),
    };
    sleep(Duration::from_millis(10));
    (what.into(), format!("{got:?}"))
}
