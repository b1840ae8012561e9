// SPDX-License-Identifier: GPL-2.0

//! The ioctls of sockets, on every kind of interface name, in every state.

use crate::{
    raw::{
        self,
        At, //
    },
    record::{
        Hex,
        Record, //
    },
    sides::{
        becomes,
        Sides, //
    },
};
use sdp_selftests::sock::{
    Shut,
    Sock, //
};

/// About a number of bytes, or the socket's file.
const NUMBERS: [(&str, u32); 10] = [
    ("SIOCINQ", 0x541b),
    ("SIOCOUTQ", 0x5411),
    ("SIOCOUTQNSD", 0x894b),
    ("SIOCATMARK", 0x8905),
    ("FIONBIO", 0x5421),
    ("FIOASYNC", 0x5452),
    ("FIOGETOWN", 0x8903),
    ("TCGETS", 0x5401),
    ("TIOCGPGRP", 0x540f),
    ("unknown", 0x1234_5678),
];

/// That ask about an interface and change nothing.
const GETTERS: [(&str, u32); 13] = [
    ("SIOCGIFNAME", 0x8910),
    ("SIOCGIFFLAGS", 0x8913),
    ("SIOCGIFADDR", 0x8915),
    ("SIOCGIFDSTADDR", 0x8917),
    ("SIOCGIFBRDADDR", 0x8919),
    ("SIOCGIFNETMASK", 0x891b),
    ("SIOCGIFMETRIC", 0x891d),
    ("SIOCGIFMTU", 0x8921),
    ("SIOCGIFHWADDR", 0x8927),
    ("SIOCGIFINDEX", 0x8933),
    ("SIOCGIFPFLAGS", 0x8935),
    ("SIOCGIFTXQLEN", 0x8942),
    ("SIOCGIFMAP", 0x8970),
];

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    let new = sides.socket_a();
    let (listener, _to) = sides.listener();
    let (a, b) = sides.pair();
    let states = [
        ("new", &new),
        ("listening", &listener),
        ("connected", &a),
        ("accepted", &b),
    ];
    for (state, sock) in states {
        // A name that is not there has the kernel look for a module, which takes long.
        for request in 0x8900..=0x89ff {
            let got = raw::ioctl(sock, request, At::Nowhere, &mut [0; 64]);
            // One of them gives a descriptor.
            record.note(format!("ioctl {request:#x} {state} nowhere"), got.map(drop));
        }
        for (name, request) in GETTERS {
            for interface in ["lo", "v0", "v1"] {
                call(sock, record, name, request, state, interface);
            }
        }
        for (name, request) in NUMBERS {
            call(sock, record, name, request, state, "");
            for (what, at) in [("null", At::Null), ("nowhere", At::Nowhere)] {
                let got = raw::ioctl(sock, request, at, &mut [0; 64]);
                record.note(format!("ioctl {name} {state} {what}"), got);
            }
        }
    }
    bytes(sides, record);
}

fn call(sock: &Sock, record: &mut Record, name: &str, request: u32, state: &str, about: &str) {
    let mut memory = [0; 64];
    memory[..about.len()].copy_from_slice(about.as_bytes());
    let before = memory;
    let got = raw::ioctl(sock, request, At::Memory, &mut memory);
    let about = if about.is_empty() { "memory" } else { about };
    let changed = (memory != before).then(|| Hex(memory[..40].to_vec()));
    record.note(format!("ioctl {name} {state} {about}"), (got, changed));
}

/// What they say of bytes that wait.
fn bytes(sides: &Sides, record: &mut Record) {
    let (a, b) = sides.pair();
    let counts = |sock: &Sock| {
        [0x541b, 0x5411, 0x894b].map(|request| sock.ioctl(libc::c_ulong::from(request as u32)))
    };
    let mut note =
        |what: &str, sock: &Sock| record.note(format!("ioctl bytes {what}"), counts(sock));
    note("none", &a);
    let _ = a.send(b"0123456789", 0);
    becomes(|| b.ioctl(libc::FIONREAD) == Ok(10));
    note("came", &b);
    becomes(|| a.ioctl(libc::TIOCOUTQ) == Ok(0));
    note("went", &a);
    let _ = b.recv(&mut [0; 4], libc::MSG_PEEK);
    note("peeked", &b);
    let _ = b.recv(&mut [0; 4], 0);
    note("read", &b);
    let _ = a.shutdown(Shut::Write);
    becomes(|| b.poll(libc::POLLRDHUP, crate::sides::MOMENT) == Ok(libc::POLLRDHUP));
    note("ended", &b);
    let _ = b.recv(&mut [0; 16], 0);
    note("ended_read", &b);
    drop(b);
    std::thread::sleep(crate::sides::MOMENT);
    note("closed", &a);
}
