// SPDX-License-Identifier: GPL-2.0

//! Threads that wait in calls on a socket while another one ends what they wait for.

use crate::{
    record::Record,
    sides::{
        unspecified,
        Sides,
        MOMENT, //
    },
};
use sdp_selftests::{
    errno::Result,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    sync::mpsc,
    thread, //
};

/// What ends the calls on a socket, or on its peer.
type End = (&'static str, fn(&Sock, &Sock) -> Result<()>);

const ENDS: [End; 8] = [
    ("shutdown_read", |own, _| own.shutdown(Shut::Read)),
    ("shutdown_write", |own, _| own.shutdown(Shut::Write)),
    ("shutdown_both", |own, _| own.shutdown(Shut::Both)),
    ("disconnect", |own, _| own.connect(&unspecified())),
    ("peer_shutdown_write", |_, peer| peer.shutdown(Shut::Write)),
    ("peer_shutdown_both", |_, peer| peer.shutdown(Shut::Both)),
    ("peer_disconnect", |_, peer| peer.connect(&unspecified())),
    ("nothing", |_, _| Ok(())),
];

/// A call that waits: on a connection, one that has no bytes, or one that takes no more.
type Call = (&'static str, fn(&Sock) -> Result<()>);

const CALLS: [Call; 4] = [
    ("recv", |sock| sock.recv(&mut [0; 16], 0).map(drop)),
    ("peek", |sock| {
        sock.recv(&mut [0; 16], libc::MSG_PEEK).map(drop)
    }),
    ("waitall", |sock| {
        sock.recv(&mut [0; 16], libc::MSG_WAITALL).map(drop)
    }),
    ("send", |sock| loop {
        // However much it is that the other side takes.
        sock.send(&[0; 65536], libc::MSG_NOSIGNAL)?;
    }),
];

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    for (end, ends) in ENDS {
        for (first, second) in [(0, 0), (0, 1), (2, 3), (3, 3)] {
            let sends = CALLS[second].0 == "send";
            if end == "peer_disconnect" && first != second {
                // The error goes to the one that looks first.
                continue;
            }
            if end == "peer_shutdown_both" && sends {
                // The peer resets once more bytes come, for which it may have no buffer here.
                continue;
            }
            let (a, b) = sides.pair();
            let (got, ended) = during(&a, [CALLS[first], CALLS[second]], || ends(&a, &b));
            let names = [CALLS[first].0, CALLS[second].0].join("+");
            record.note(format!("threads {names} {end}"), (got, ended));
        }
    }
    for (end, ends) in &ENDS[..4] {
        let (listener, to) = sides.listener();
        let accept: Call = ("accept", |sock| sock.accept().map(drop));
        let got = during(&listener, [accept, accept], || ends(&listener, &listener));
        record.note(format!("threads accept+accept {end}"), got);
        let late = sides.socket_a();
        let _ = late.set_nonblocking(true);
        let begun = late.connect(&to);
        record.note(format!("threads accept+accept {end} later"), begun);
    }
}

/// Two threads in calls while `end` is done: what they gave, in any order, and what that gave.
fn during(
    sock: &Sock,
    calls: [Call; 2],
    end: impl FnOnce() -> Result<()>,
) -> (Vec<String>, Result<()>) {
    thread::scope(|scope| {
        let (told, hears) = mpsc::channel();
        for (name, call) in calls {
            let told = told.clone();
            scope.spawn(move || {
                let got = call(sock);
                let _ = told.send(format!("{name} {got:?}"));
            });
        }
        thread::sleep(MOMENT * 2);
        let ended = end();
        let mut got: Vec<_> = (0..2)
            .map(|_| {
                let got = hears.recv_timeout(MOMENT * 10);
                got.unwrap_or_else(|_| "waits".into())
            })
            .collect();
        got.sort_unstable();
        // Those that still wait end by this.
        let _ = sock.shutdown(Shut::Both);
        let _ = sock.connect(&unspecified());
        (got, ended)
    })
}
