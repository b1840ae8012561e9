// SPDX-License-Identifier: GPL-2.0

//! Every flag of send and recv, and control messages both ways.

use crate::{
    raw::{
        self,
        Received, //
    },
    record::Record,
    sides::{
        becomes,
        Sides,
        MOMENT,
        PATIENCE, //
    },
};
use libc::{
    c_int,
    c_uint, //
};
use sdp_selftests::{
    errno::Result,
    sock::{
        Shut,
        Sock,
        SO_TIMESTAMPING_NEW, //
    },
};
use std::thread::sleep;

/// The flags by their bits.
const NAMES: [&str; 32] = [
    "MSG_OOB",
    "MSG_PEEK",
    "MSG_DONTROUTE",
    "MSG_CTRUNC",
    "MSG_PROBE",
    "MSG_TRUNC",
    "MSG_DONTWAIT",
    "MSG_EOR",
    "MSG_WAITALL",
    "MSG_FIN",
    "MSG_SYN",
    "MSG_CONFIRM",
    "MSG_RST",
    "MSG_ERRQUEUE",
    "MSG_NOSIGNAL",
    "MSG_MORE",
    "MSG_WAITFORONE",
    "MSG_SENDPAGE_NOPOLICY",
    "MSG_BATCH",
    "MSG_NO_SHARED_FRAGS",
    "bit_20",
    "bit_21",
    "bit_22",
    "bit_23",
    "bit_24",
    "MSG_SOCK_DEVMEM",
    "MSG_ZEROCOPY",
    "MSG_SPLICE_PAGES",
    "bit_28",
    "MSG_FASTOPEN",
    "MSG_CMSG_CLOEXEC",
    "MSG_CMSG_COMPAT",
];

/// Sets of flags that go together.
const SETS: [(&str, c_int); 6] = [
    ("MSG_PEEK|MSG_TRUNC", libc::MSG_PEEK | libc::MSG_TRUNC),
    ("MSG_PEEK|MSG_WAITALL", libc::MSG_PEEK | libc::MSG_WAITALL),
    ("MSG_TRUNC|MSG_WAITALL", libc::MSG_TRUNC | libc::MSG_WAITALL),
    (
        "MSG_WAITALL|MSG_DONTWAIT",
        libc::MSG_WAITALL | libc::MSG_DONTWAIT,
    ),
    ("MSG_PEEK|MSG_ERRQUEUE", libc::MSG_PEEK | libc::MSG_ERRQUEUE),
    ("none", 0),
];

fn all() -> impl Iterator<Item = (&'static str, c_int)> {
    let bits = NAMES.into_iter().enumerate();
    bits.map(|(at, name)| (name, 1u32.wrapping_shl(at as u32) as c_int))
        .chain(SETS)
}

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    for (name, flags) in all() {
        send(sides, record, name, flags);
        recv(sides, record, name, flags);
    }
    control_sent(sides, record);
    control_received(sides, record);
    notices(sides, record);
    stamps(sides, record);
}

/// Receives what is there, without waiting.
fn rest(sock: &Sock, flags: c_int) -> Result<Received> {
    raw::receive(sock, 64, 256, flags | libc::MSG_DONTWAIT)
}

/// What came up to the mark that is sent behind it.
fn until_mark(sock: &Sock) -> String {
    let mut got = Vec::new();
    becomes(|| {
        let mut room = [0; 64];
        match sock.recv(&mut room, libc::MSG_DONTWAIT) {
            Ok(0) => true,
            Ok(len) => {
                got.extend_from_slice(&room[..len]);
                got.ends_with(b"!")
            }
            Err(_) => false,
        }
    });
    String::from_utf8_lossy(&got).into_owned()
}

fn send(sides: &Sides, record: &mut Record, name: &str, flags: c_int) {
    let mut note =
        |state: &str, got| record.note(format!("send {name} {state}"), (got, raw::signals()));
    let new = sides.socket_a();
    note("new", new.send(b"hello", flags));
    let (listener, _to) = sides.listener();
    note("listening", listener.send(b"hello", flags));
    let (a, b) = sides.pair();
    note("connected", a.send(b"hello", flags));
    note("nothing", a.send(b"", flags));
    let mark = a.send(b"!", 0);
    record.note(format!("send {name} marked"), (mark, until_mark(&b)));
    let mut note =
        |state: &str, got| record.note(format!("send {name} {state}"), (got, raw::signals()));
    // No signal is raised by a second call that finds the same.
    let shut = a.shutdown(Shut::Write);
    note("shut", a.send(b"hello", flags));
    record.note(format!("send {name} shut() "), shut);
}

fn recv(sides: &Sides, record: &mut Record, name: &str, flags: c_int) {
    let mut note = |state: &str, got: Result<Received>| {
        record.note(format!("recv {name} {state}"), (got, raw::signals()));
    };
    // A flag may take the one away that says not to wait.
    let quick = flags | libc::MSG_DONTWAIT;
    let new = sides.socket_a();
    note("new", raw::receive(&new, 4, 256, quick));
    let (listener, _to) = sides.listener();
    note("listening", raw::receive(&listener, 4, 256, quick));
    let (a, b) = sides.pair();
    note("empty", raw::receive(&a, 4, 256, quick));
    let sent = b.send(b"0123456789", 0);
    becomes(|| a.ioctl(libc::FIONREAD) == Ok(10));
    note("first", raw::receive(&a, 4, 256, flags));
    note("nothing", raw::receive(&a, 0, 256, quick));
    note("more", raw::receive(&a, 64, 256, quick));
    note("rest", rest(&a, 0));
    let shut = b.shutdown(Shut::Write);
    becomes(|| a.poll(libc::POLLRDHUP, MOMENT) == Ok(libc::POLLRDHUP));
    note("end", raw::receive(&a, 4, 256, flags));
    record.note(format!("recv {name} peer"), (sent, shut));
}

/// The bytes of a control message that says it is `len` bytes long, header included.
fn control(level: c_int, kind: c_int, payload: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn control_sent(sides: &Sides, record: &mut Record) {
    const HEADER: usize = 16;
    let (a, b) = sides.pair();
    let mut send = |what: String, bytes: &mut [u8]| {
        let got = a.send_with_control(b"x", bytes, 0);
        record.note(format!("cmsg {what}"), got);
        let _ = rest(&b, 0);
    };
    let levels = [
        ("SOL_IP", libc::SOL_IP),
        ("SOL_SOCKET", libc::SOL_SOCKET),
        ("SOL_TCP", libc::SOL_TCP),
        ("SOL_IPV6", libc::SOL_IPV6),
        ("SOL_TLS", 282),
        ("level:-1", -1),
    ];
    for (level, number) in levels {
        for kind in 0..=90 {
            for len in [0, 4, 8] {
                let payload = [0; 8];
                let mut bytes = control(number, kind, &payload[..len], HEADER + len);
                send(format!("{level} {kind} len={len}"), &mut bytes);
            }
        }
    }
    let payload = 1u32.to_ne_bytes();
    for (what, len) in [
        ("short", 0),
        ("header", 15),
        ("long", 100),
        ("huge", usize::MAX),
    ] {
        let mut bytes = control(libc::SOL_SOCKET, libc::SO_MARK, &payload, len);
        send(format!("length {what}"), &mut bytes);
    }
    let mut bytes = control(libc::SOL_SOCKET, libc::SO_MARK, &payload, HEADER + 4);
    for len in [1, 8, 15, 16, 20] {
        send(format!("room {len}"), &mut bytes[..len]);
    }
}

/// Which control messages come with bytes when options ask for them.
fn control_received(sides: &Sides, record: &mut Record) {
    const TCP_INQ: c_int = 36;
    const RX_SOFTWARE: c_int = (1 << 3) | (1 << 4);
    let options = [
        ("SO_TIMESTAMP_OLD", libc::SOL_SOCKET, 29, 1),
        ("SO_TIMESTAMPNS_OLD", libc::SOL_SOCKET, 35, 1),
        ("SO_TIMESTAMPING_OLD", libc::SOL_SOCKET, 37, RX_SOFTWARE),
        ("SO_TIMESTAMP_NEW", libc::SOL_SOCKET, 63, 1),
        ("SO_TIMESTAMPNS_NEW", libc::SOL_SOCKET, 64, 1),
        (
            "SO_TIMESTAMPING_NEW",
            libc::SOL_SOCKET,
            SO_TIMESTAMPING_NEW,
            RX_SOFTWARE,
        ),
        ("SO_RXQ_OVFL", libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
        ("SO_RCVMARK", libc::SOL_SOCKET, 75, 1),
        ("SO_RCVPRIORITY", libc::SOL_SOCKET, 82, 1),
        ("IP_RECVTTL", libc::SOL_IP, libc::IP_RECVTTL, 1),
        ("IP_RECVTOS", libc::SOL_IP, libc::IP_RECVTOS, 1),
        ("IP_PKTINFO", libc::SOL_IP, libc::IP_PKTINFO, 1),
        (
            "IPV6_RECVHOPLIMIT",
            libc::SOL_IPV6,
            libc::IPV6_RECVHOPLIMIT,
            1,
        ),
        ("IPV6_RECVTCLASS", libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1),
        (
            "IPV6_RECVPKTINFO",
            libc::SOL_IPV6,
            libc::IPV6_RECVPKTINFO,
            1,
        ),
        ("TCP_INQ", libc::SOL_TCP, TCP_INQ, 1),
    ];
    for (name, level, option, value) in options {
        let (a, b) = sides.pair();
        if a.set(level, option, value).is_err() {
            // That is told by the sweep of the options.
            continue;
        }
        let sent = b.send(b"0123456789", 0);
        becomes(|| a.ioctl(libc::FIONREAD) == Ok(10));
        for (what, room, control, flags) in [
            ("peek", 4, 256, libc::MSG_PEEK),
            ("first", 4, 256, 0),
            ("cut", 2, 4, 0),
            ("without", 1, 0, 0),
            ("rest", 64, 256, 0),
        ] {
            let got = raw::receive(&a, room, control, flags).map(|got| {
                // A time is not the same twice.
                let sizes = got.control.iter().map(|(level, kind, payload)| {
                    let shown = if name == "TCP_INQ" { &*payload.0 } else { &[] };
                    (*level, *kind, payload.0.len(), shown)
                });
                let sizes = format!("{:?}", sizes.collect::<Vec<_>>());
                (got.len, got.flags, sizes)
            });
            record.note(format!("cmsg_received {name} {what}"), got);
        }
        let _ = b.shutdown(Shut::Write);
        sleep(MOMENT);
        let end = raw::receive(&a, 4, 256, 0).map(|got| (got.len, got.flags, got.control.len()));
        record.note(format!("cmsg_received {name} end"), (sent, end));
    }
}

/// What the error queue says of `MSG_ZEROCOPY`, with room for all of it and for less.
fn notices(sides: &Sides, record: &mut Record) {
    let (a, b) = sides.pair();
    let mut note = |what: &str, got| record.note(format!("notice {what}"), got);
    note("not_asked", raw::receive(&a, 64, 256, libc::MSG_ERRQUEUE));
    if a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).is_err() {
        return;
    }
    for (what, room, control) in [
        ("whole", 64, 256),
        ("cut", 0, 24),
        ("header", 0, 8),
        ("none", 0, 0),
    ] {
        let sent = a.send(b"0123456789", libc::MSG_ZEROCOPY);
        let came = a.poll(0, PATIENCE);
        record.note(format!("notice {what} sent"), (sent, came));
        let got = raw::receive(&a, room, control, libc::MSG_ERRQUEUE);
        record.note(format!("notice {what}"), got);
    }
    let _ = rest(&b, 0);
}

/// What the error queue says of the stages of what was sent, except for the time.
fn stamps(sides: &Sides, record: &mut Record) {
    use libc::{
        SOF_TIMESTAMPING_OPT_ID as NUMBERS,
        SOF_TIMESTAMPING_OPT_ID_TCP as NUMBERS_TCP,
        SOF_TIMESTAMPING_OPT_TSONLY as ALONE,
        SOF_TIMESTAMPING_TX_ACK as ARRIVED,
        SOF_TIMESTAMPING_TX_HARDWARE as HARDWARE,
        SOF_TIMESTAMPING_TX_SCHED as QUEUED,
        SOF_TIMESTAMPING_TX_SOFTWARE as SENT, //
    };
    const TOLD: c_uint = libc::SOF_TIMESTAMPING_SOFTWARE | ALONE;
    const COMPLETION: c_uint = 1 << 18;
    for (what, option, flags) in [
        ("none", SO_TIMESTAMPING_NEW, TOLD),
        ("hardware", SO_TIMESTAMPING_NEW, TOLD | HARDWARE),
        ("completion", SO_TIMESTAMPING_NEW, TOLD | COMPLETION),
        ("queued", SO_TIMESTAMPING_NEW, TOLD | QUEUED),
        ("sent", SO_TIMESTAMPING_NEW, TOLD | SENT),
        ("sent by old", libc::SO_TIMESTAMPING, TOLD | SENT),
        ("arrived", SO_TIMESTAMPING_NEW, TOLD | ARRIVED),
        ("without a time", SO_TIMESTAMPING_NEW, ALONE | ARRIVED),
        (
            "with numbers",
            SO_TIMESTAMPING_NEW,
            TOLD | ARRIVED | NUMBERS,
        ),
        (
            "all with numbers",
            SO_TIMESTAMPING_NEW,
            TOLD | QUEUED | SENT | ARRIVED | NUMBERS | NUMBERS_TCP,
        ),
    ] {
        let (a, b) = sides.pair();
        let set = a.set(libc::SOL_SOCKET, option, flags);
        record.note(format!("stamp {what} set"), set);
        for bytes in [10, 3] {
            let sent = a.send(&vec![7; bytes], 0);
            let arrived = becomes(|| b.ioctl(libc::FIONREAD) == Ok(bytes as c_int));
            sleep(MOMENT);
            let came = a.poll(0, MOMENT);
            record.note(format!("stamp {what} sent {bytes}"), (sent, arrived, came));
            let mut all = Vec::new();
            while let Ok(got) = raw::receive(&a, 64, 256, libc::MSG_ERRQUEUE) {
                let control = got.control.into_iter().map(|(level, kind, payload)| {
                    let shown = match level {
                        // Times.
                        libc::SOL_SOCKET => Vec::new(),
                        _ => payload.0.clone(),
                    };
                    (level, kind, payload.0.len(), shown)
                });
                all.push((got.len, got.flags, control.collect::<Vec<_>>()));
            }
            record.note(format!("stamp {what} {bytes}"), format!("{all:?}"));
            let _ = b.recv_bytes(bytes);
        }
    }
}
