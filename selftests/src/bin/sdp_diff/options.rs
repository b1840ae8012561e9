// SPDX-License-Identifier: GPL-2.0

//! Every option number of each level, in every state of a socket: read and set, with all lengths,
//! several values, and addresses where no memory is.

use crate::{
    names::{
        self,
        Names, //
    },
    raw::{
        self,
        At, //
    },
    record::{
        Hex,
        Record, //
    },
    sides::{
        reset,
        Sides, //
    },
};
use libc::c_int;
use sdp_selftests::{
    errno::Result,
    sock::{
        Addr,
        Sock, //
    },
};

/// The values that an option is set to.
const VALUES: [c_int; 9] = [-1, 0, 2, 3, 100, 1000, 65536, c_int::MAX, 1];

/// One level, and its options by number.
struct Level {
    number: c_int,
    name: &'static str,
    names: Names,
}

impl Level {
    fn name(&self, option: c_int) -> String {
        let known = self.names.iter().find(|(number, _)| *number == option);
        known.map_or_else(
            || format!("{}:{option}", self.name),
            |(_, name)| name.to_string(),
        )
    }

    /// Whether the value of an option depends on the time, on chance, or on the socket's port: then
    /// only its length is compared.
    fn varies(&self, option: c_int) -> bool {
        const VARY: [&str; 9] = [
            "SO_COOKIE",
            "SO_INCOMING_CPU",
            "SO_INCOMING_NAPI_ID",
            "SO_MEMINFO",
            "SO_PEERNAME",
            "TCP_INFO",
            "TCP_TIMESTAMP",
            "IP_PROTOCOL",
            "IP_PKTOPTIONS",
        ];
        VARY.contains(&&*self.name(option))
    }
}

pub(crate) fn socket(sides: &Sides, record: &mut Record) {
    sweep(sides, record, libc::SOL_SOCKET, "SOL_SOCKET", names::SOCKET);
}

pub(crate) fn tcp(sides: &Sides, record: &mut Record) {
    sweep(sides, record, libc::SOL_TCP, "SOL_TCP", names::TCP);
}

pub(crate) fn ip(sides: &Sides, record: &mut Record) {
    sweep(sides, record, libc::SOL_IP, "SOL_IP", names::IP);
}

pub(crate) fn ipv6(sides: &Sides, record: &mut Record) {
    sweep(sides, record, libc::SOL_IPV6, "SOL_IPV6", names::IPV6);
}

/// A socket of each state. Those of an option that could be set are not used for the next.
struct Sockets {
    new: Sock,
    listener: (Sock, Addr),
    pair: (Sock, Sock),
}

impl Sockets {
    fn new(sides: &Sides) -> Self {
        let pair = sides.pair();
        let listener = sides.listener();
        Self {
            new: sides.socket(),
            listener,
            pair,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        reset(&self.pair.0);
        reset(&self.pair.1);
    }
}

fn sweep(sides: &Sides, record: &mut Record, number: c_int, name: &'static str, names: Names) {
    let level = Level {
        number,
        name,
        names,
    };
    let mut sockets = Sockets::new(sides);
    for option in 0..=150 {
        let states = [
            ("new", &sockets.new),
            ("listening", &sockets.listener.0),
            ("connected", &sockets.pair.0),
            ("accepted", &sockets.pair.1),
        ];
        let mut changed = false;
        for (state, sock) in states {
            get(&level, option, state, sock, record);
            changed |= set(&level, option, state, sock, record);
        }
        if changed {
            inherit(&level, option, sides, &sockets, record);
            sockets = Sockets::new(sides);
        }
    }
}

/// What an option gives, or of one that varies how much that is.
fn read(level: &Level, option: c_int, sock: &Sock, len: c_int) -> Result<(c_int, Hex)> {
    let got = raw::get(sock, level.number, option, [At::Memory; 2], len);
    got.map(|(len, bytes)| match level.varies(option) {
        // Whether it is a CPU.
        true if level.name(option) == "SO_INCOMING_CPU" => {
            (len, Hex(bytes.0.iter().map(|byte| byte & 0x80).collect()))
        }
        true => (len, Hex(Vec::new())),
        false => (len, bytes),
    })
}

fn get(level: &Level, option: c_int, state: &str, sock: &Sock, record: &mut Record) {
    let name = level.name(option);
    for len in [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 400] {
        record.note(
            format!("{name} get {state} room={len}"),
            read(level, option, sock, len),
        );
    }
    for (what, at, len) in [
        ("room=-1", [At::Memory, At::Memory], -1),
        ("value=null", [At::Null, At::Memory], 4),
        ("value=nowhere", [At::Nowhere, At::Memory], 16),
        ("value=nowhere,room=0", [At::Nowhere, At::Memory], 0),
        ("length=null", [At::Memory, At::Null], 4),
        ("length=nowhere", [At::Memory, At::Nowhere], 4),
    ] {
        let got = raw::get(sock, level.number, option, at, len);
        record.note(format!("{name} get {state} {what}"), got.map(drop));
    }
}

/// Whether anything was set.
fn set(level: &Level, option: c_int, state: &str, sock: &Sock, record: &mut Record) -> bool {
    let name = level.name(option);
    let mut changed = false;
    for (what, at, len) in [
        ("value=null,len=0", At::Null, 0),
        ("value=null,len=4", At::Null, 4),
        ("value=nowhere,len=1", At::Nowhere, 1),
        ("value=nowhere,len=4", At::Nowhere, 4),
        ("value=nowhere,len=16", At::Nowhere, 16),
        ("len=-1", At::Null, -1),
    ] {
        let got = raw::set(sock, level.number, option, at, &[], len);
        changed |= got.is_ok();
        record.note(format!("{name} set {state} {what}"), got);
    }
    let mut one = [0; 16];
    one[0] = 1;
    let lengths = (0..=8).chain([12, 16]).map(|len| (1, len, one));
    let values = VALUES.into_iter().map(|value| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&value.to_ne_bytes());
        (value, 4, bytes)
    });
    for (value, len, bytes) in lengths.chain(values) {
        let got = raw::set(sock, level.number, option, At::Memory, &bytes, len);
        changed |= got.is_ok();
        let probe = format!("{name} set {state} value={value},len={len}");
        match got {
            Ok(()) => record.note(probe, read(level, option, sock, 16)),
            Err(error) => record.note(probe, error),
        }
    }
    changed
}

/// What an accepted socket has of what its listener was set to, last of all to 1.
fn inherit(level: &Level, option: c_int, sides: &Sides, sockets: &Sockets, record: &mut Record) {
    let name = level.name(option);
    let is_linger = option == libc::SO_LINGER && level.number == libc::SOL_SOCKET;
    let len = if is_linger { 8 } else { 4 };
    let set = |listener: &Sock| {
        let one = 1u64.to_ne_bytes();
        raw::set(listener, level.number, option, At::Memory, &one, len)
    };
    let (fresh, late) = (sides.listener(), sides.listener());
    for (what, (listener, to)) in [
        ("all", &sockets.listener),
        ("one", &fresh),
        // What is set once the connection is there is not inherited.
        ("late", &late),
    ] {
        let is_late = what == "late";
        let first = if is_late { Ok(()) } else { set(listener) };
        if first.is_err() {
            record.note(format!("{name} inherit {what}"), first);
            continue;
        }
        let client = sides.socket_a();
        // A byte, for which a listener may wait.
        let asked = sides.ask(&client, listener, to, b"x");
        if is_late {
            let _ = set(listener);
        }
        let got = asked.and_then(|()| sides.take(listener)).and_then(|sock| {
            let got = read(level, option, &sock, 16);
            reset(&sock);
            got
        });
        reset(&client);
        record.note(format!("{name} inherit {what}"), got);
    }
}

/// Names of congestion controls, and of none.
const CONTROLS: [&str; 5] = ["reno", "cubic", "bbr", "dctcp", "nosuch"];

/// What a user without capabilities may set and bind, and what anybody may set by a name.
pub(crate) fn unprivileged(sides: &Sides, record: &mut Record) {
    let set_name = |sock: &Sock, name: &str| {
        let len = name.len() as c_int;
        let option = libc::TCP_CONGESTION;
        let set = raw::set(
            sock,
            libc::SOL_TCP,
            option,
            At::Memory,
            name.as_bytes(),
            len,
        );
        set.and_then(|()| raw::get(sock, libc::SOL_TCP, option, [At::Memory; 2], 16))
    };
    for name in CONTROLS {
        let got = set_name(&sides.socket_a(), name);
        record.note(format!("privileged congestion {name}"), got);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sides.enter_a();
            // SAFETY: These take numbers, and by this way concern the calling thread alone.
            unsafe {
                libc::syscall(libc::SYS_setresgid, 1000, 1000, 1000);
                libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000);
            }
            for name in CONTROLS {
                let got = set_name(&sides.socket(), name);
                record.note(format!("unprivileged congestion {name}"), got);
            }
            for (number, name, names) in [
                (libc::SOL_SOCKET, "SOL_SOCKET", names::SOCKET),
                (libc::SOL_TCP, "SOL_TCP", names::TCP),
                (libc::SOL_IP, "SOL_IP", names::IP),
                (libc::SOL_IPV6, "SOL_IPV6", names::IPV6),
            ] {
                let level = Level {
                    number,
                    name,
                    names,
                };
                for option in 0..=150 {
                    for value in [0u64, 1, 7] {
                        for len in [4, 16] {
                            let sock = sides.socket();
                            let bytes = [value.to_ne_bytes(), [0; 8]].concat();
                            let got = raw::set(&sock, number, option, At::Memory, &bytes, len);
                            let probe = level.name(option);
                            let how = format!("value={value},len={len}");
                            record.note(format!("{probe} set unprivileged {how}"), got);
                        }
                    }
                }
            }
            for port in [0, 1, 79, 1023] {
                let got = sides.socket().bind(&sides.addr(1, port));
                record.note(format!("unprivileged bind port={port}"), got);
            }
        });
    });
}
