// SPDX-License-Identifier: GPL-2.0

//! Special addresses to bind and to connect to, and sockets that want the same one.

use crate::{
    calls::look,
    record::Record,
    sides::{
        Sides,
        MOMENT, //
    },
};
use libc::c_int;
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::{
        Addr,
        Sock, //
    },
};
use std::net::{
    IpAddr,
    SocketAddrV4, //
};

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    let addresses = match sides.is_v6() {
        true => &ADDRESSES6[..],
        false => &ADDRESSES4[..],
    };
    for text in addresses {
        bind(sides, record, text);
        for port in [0, 1] {
            connect(sides, record, text, port);
        }
    }
    shared(sides, record);
    levels(sides, record);
}

const ADDRESSES4: [&str; 10] = [
    "0.0.0.0",
    "127.0.0.1",
    "127.1.2.3",
    "10.27.0.1",
    "10.27.0.255",
    "10.27.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
];

const ADDRESSES6: [&str; 11] = [
    "::",
    "::1",
    "ff02::1",
    "ff0e::1",
    "fe80::1",
    "2001:db8::1",
    "::ffff:0.0.0.0",
    "::ffff:127.0.0.1",
    "::ffff:10.27.0.1",
    "::ffff:224.0.0.1",
    "::ffff:255.255.255.255",
];

fn address(text: &str, port: u16) -> Addr {
    match text.parse().expect("an address") {
        IpAddr::V4(ip) => Addr::v4(libc::AF_INET, SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => Addr::v6(ip, port),
    }
}

/// Binds to the address, and then listens, and connects from there.
fn bind(sides: &Sides, record: &mut Record, text: &str) {
    let addr = address(text, 0);
    let sock = sides.socket_a();
    let got = (sock.bind(&addr), look(&sock), sock.listen(1), look(&sock));
    record.note(format!("place bind {text}"), got);
    let (_listener, to) = sides.listener();
    let sock = sides.socket_a();
    let _ = sock.bind(&addr);
    let got = attempt(&sock, &to);
    record.note(format!("place from {text}"), (got, look(&sock)));
}

/// Connects to the address, where nobody listens.
fn connect(sides: &Sides, record: &mut Record, text: &str, port: u16) {
    let sock = sides.socket_a();
    let got = attempt(&sock, &address(text, port));
    record.note(format!("place connect {text} port={port}"), got);
}

/// A connect that does not wait: how it begins, and what has become of it soon.
fn attempt(sock: &Sock, to: &Addr) -> (Result<()>, Option<Result<()>>) {
    sock.set_nonblocking(true).expect("a flag");
    let begun = sock.connect(to);
    if begun != Err(Errno::EINPROGRESS) {
        return (begun, None);
    }
    let ended = sock
        .poll(libc::POLLOUT, MOMENT * 4)
        .is_ok_and(|events| events != 0);
    (begun, ended.then(|| sock.error()))
}

/// Two sockets that are bound to the same port, with all that lets them.
fn shared(sides: &Sides, record: &mut Record) {
    let any = if sides.is_v6() { "::" } else { "0.0.0.0" };
    let options = [libc::SO_REUSEADDR, libc::SO_REUSEPORT];
    for how in 0..16 {
        for state in ["bound", "listening", "connected"] {
            for (name, first_any, second_any) in [
                ("same", false, false),
                ("any_first", true, false),
                ("any_second", false, true),
            ] {
                let addr = |is_any: bool, port| match is_any {
                    true => address(any, port),
                    false => sides.addr(1, port),
                };
                let (listener, to) = sides.listener();
                let [first, second] = [0, 2].map(|shift| {
                    let sock = sides.socket_a();
                    for (at, option) in options.into_iter().enumerate() {
                        let on = c_int::from((how >> (shift + at)) & 1 != 0);
                        sock.set(libc::SOL_SOCKET, option, on).expect("an option");
                    }
                    sock
                });
                first.bind(&addr(first_any, 0)).expect("a port");
                let port = first.name().expect("its address").to_v4().port();
                let _accepted = match state {
                    "bound" => None,
                    "listening" => first.listen(1).map(|()| None).expect("a listener"),
                    _ => sides.join(&first, &listener, &to).ok(),
                };
                sides.enter_a();
                let got = (second.bind(&addr(second_any, port)), second.listen(1));
                record.note(format!("place shared {state} {name} {how:04b}"), got);
            }
        }
    }
}

/// Options of levels that no stream has.
fn levels(sides: &Sides, record: &mut Record) {
    let sock = sides.socket_a();
    for level in -1..=300 {
        if [
            libc::SOL_SOCKET,
            libc::SOL_IP,
            libc::SOL_TCP,
            libc::SOL_IPV6,
        ]
        .contains(&level)
        {
            continue;
        }
        let got = (sock.get(level, 1), sock.set(level, 1, 1));
        record.note(format!("place level {level}"), got);
    }
}
