// SPDX-License-Identifier: GPL-2.0

//! The calls in every state: what they return, what poll says then, which signals come, and what
//! the other end sees.

use crate::{
    raw,
    record::{
        done,
        Record, //
    },
    sides::{
        becomes,
        reset,
        unspecified,
        Sides,
        MOMENT,
        PATIENCE, //
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
        Shut,
        Sock, //
    },
};
use std::{
    thread::sleep,
    time::Duration, //
};

/// All that poll can say.
const EVENTS: i16 = libc::POLLIN
    | libc::POLLOUT
    | libc::POLLPRI
    | libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLWRNORM
    | libc::POLLWRBAND
    | libc::POLLRDHUP;

pub(crate) fn run(sides: &Sides, record: &mut Record) {
    sockets(sides, record);
    addresses(sides, record);
    states(sides, record);
    shutdowns(sides, record);
    ends(sides, record);
    refusal(sides, record);
    disconnects(sides, record);
    self_connect(sides, record);
    low_water(sides, record);
    peek_offset(sides, record);
    signals(sides, record);
    edges(sides, record);
    info(sides, record);
}

/// What a socket says of itself now.
pub(crate) fn look(sock: &Sock) -> impl std::fmt::Debug {
    (look_but_name(sock), name(sock))
}

/// The same but for its own address.
fn look_but_name(sock: &Sock) -> impl std::fmt::Debug {
    let events = sock
        .poll(EVENTS, Duration::ZERO)
        .map(|events| format!("{events:#x}"));
    let peer = sock
        .peer()
        .map(|peer| (peer.family(), *peer.to_v4().ip(), peer.len()));
    (events, peer)
}

/// Its own address, and whether it has a port.
fn name(sock: &Sock) -> impl std::fmt::Debug {
    sock.name()
        .map(|name| (name.family(), *name.to_v4().ip(), name.to_v4().port() > 0))
}

fn sockets(sides: &Sides, record: &mut Record) {
    sides.enter_a();
    for protocol in [-1, 0, 1, 6, 17, 132, 255, 256, 262, 263] {
        let got = Sock::new(sides.family, libc::SOCK_STREAM, protocol);
        record.note(format!("socket stream protocol={protocol}"), done(got));
    }
    for kind in 0..=11 {
        let got = Sock::new(sides.family, kind, libc::IPPROTO_TCP);
        record.note(format!("socket kind={kind} protocol=6"), done(got));
    }
}

fn addresses(sides: &Sides, record: &mut Record) {
    for family in [
        libc::AF_UNSPEC,
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        27,
        28,
        99,
    ] {
        for len in [0, 1, 2, 8, 15, 16, 17, 23, 24, 27, 28, 29, 128] {
            for host in [2, 77] {
                let to = sides.addr(host, 0).with_family(family).with_len(len);
                sides.enter_b();
                let what = format!("family={family} len={len} host={host}");
                let sock = sides.socket();
                record.note(format!("bind {what}"), (sock.bind(&to), look(&sock)));
                // To port 0 nobody can be connected.
                let whole = if sides.is_v6() { 24 } else { 16 };
                if host == 2 && !(whole..=128).contains(&len) {
                    let sock = sides.socket_a();
                    record.note(format!("connect {what}"), (sock.connect(&to), look(&sock)));
                }
            }
        }
    }
}

/// Each call in each state.
fn states(sides: &Sides, record: &mut Record) {
    type Make = fn(&Sides) -> (Sock, Vec<Sock>);
    let makers: [(&str, Make); 9] = [
        ("new", |sides| (sides.socket_a(), vec![])),
        ("bound", |sides| {
            let sock = sides.socket_a();
            sock.bind(&sides.addr(1, 0)).expect("a port");
            (sock, vec![])
        }),
        ("listening", |sides| {
            let (sock, _to) = sides.listener();
            (sock, vec![])
        }),
        ("listened", |sides| {
            let (sock, to) = sides.listener();
            let client = sides.socket_a();
            client.connect(&to).expect("a connection");
            sock.poll(libc::POLLIN, PATIENCE).expect("it comes");
            (sock, vec![client])
        }),
        ("connected", |sides| {
            let (a, b) = sides.pair();
            (a, vec![b])
        }),
        ("accepted", |sides| {
            let (a, b) = sides.pair();
            (b, vec![a])
        }),
        ("refused", |sides| {
            let (listener, to) = sides.listener();
            drop(listener);
            let sock = sides.socket_a();
            let _ = sock.connect(&to);
            (sock, vec![])
        }),
        ("connecting", |sides| {
            let sock = sides.socket_a();
            sock.set_nonblocking(true).expect("a flag");
            // Nobody has that address.
            let _ = sock.connect(&sides.addr(77, 1));
            (sock, vec![])
        }),
        ("reset", |sides| {
            let (a, b) = sides.pair();
            reset(&b);
            let _ = a.poll(libc::POLLRDHUP, PATIENCE);
            (a, vec![b])
        }),
    ];
    type Call = fn(&Sides, &Sock) -> Result<()>;
    let calls: [(&str, Call); 20] = [
        ("nothing", |_, _| Ok(())),
        ("bind", |sides, sock| sock.bind(&sides.addr(1, 0))),
        ("listen", |_, sock| sock.listen(4)),
        ("listen_0", |_, sock| sock.listen(0)),
        ("listen_negative", |_, sock| sock.listen(-1)),
        ("accept", |_, sock| done(sock.accept())),
        ("accept_flags", |_, sock| done(sock.accept_from(1))),
        ("connect_unspecified", |_, sock| {
            sock.connect(&unspecified())
        }),
        ("connect_again", |sides, sock| {
            sock.connect(&sides.addr(2, 1))
        }),
        ("send", |_, sock| done(sock.send(b"x", 0))),
        ("recv", |_, sock| {
            done(sock.recv(&mut [0; 8], libc::MSG_DONTWAIT))
        }),
        ("recv_nothing", |_, sock| {
            done(sock.recv(&mut [], libc::MSG_DONTWAIT))
        }),
        ("shutdown_read", |_, sock| sock.shutdown(Shut::Read)),
        ("shutdown_write", |_, sock| sock.shutdown(Shut::Write)),
        ("shutdown_both", |_, sock| sock.shutdown(Shut::Both)),
        ("sendto", |sides, sock| send_to(sock, &sides.addr(2, 1), 0)),
        ("send_nothing", |_, sock| done(sock.send(b"", 0))),
        ("send_urgent", |_, sock| {
            done(sock.send(b"!", libc::MSG_OOB))
        }),
        ("recv_urgent", |_, sock| {
            done(sock.recv(&mut [0; 8], libc::MSG_OOB))
        }),
        ("connect_short", |sides, sock| {
            sock.connect(&sides.addr(2, 1).with_len(1))
        }),
    ];
    for (state, make) in makers {
        for (name, call) in calls {
            let (sock, _others) = make(sides);
            sock.set_nonblocking(true).expect("a flag");
            sides.enter_a();
            let first = call(sides, &sock);
            let came = raw::signals();
            if first == Err(Errno::EINPROGRESS) {
                sock.poll(libc::POLLOUT, PATIENCE).expect("an end");
            }
            // What it is called before it is connected is looked at below.
            let after = match state {
                "connecting" => format!("{:?}", look_but_name(&sock)),
                _ => format!("{:?}", look(&sock)),
            };
            let error = sock.error();
            let second = call(sides, &sock);
            let again = raw::signals();
            record.note(
                format!("state {state} {name}"),
                ((first, came), after, error, (second, again)),
            );
        }
    }
}

/// `sendto()`.
fn send_to(sock: &Sock, to: &Addr, flags: c_int) -> Result<()> {
    // SAFETY: The kernel reads one byte, and the address.
    Errno::check_len(unsafe {
        libc::sendto(
            sock.fd(),
            b"x".as_ptr().cast(),
            1,
            flags,
            to.as_ptr(),
            to.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Which halves each end shuts, with bytes under way or not, and what each can do then.
fn shutdowns(sides: &Sides, record: &mut Record) {
    let hows = [
        ("none", None),
        ("read", Some(Shut::Read)),
        ("write", Some(Shut::Write)),
        ("both", Some(Shut::Both)),
    ];
    for (of_a, how_a) in hows {
        for (of_b, how_b) in hows {
            for data in [false, true] {
                let (a, b) = sides.pair();
                if data {
                    let _ = (a.send(b"from a", 0), b.send(b"from b", 0));
                    becomes(|| {
                        [&a, &b]
                            .iter()
                            .all(|sock| sock.ioctl(libc::FIONREAD) == Ok(6))
                    });
                }
                let results = [
                    how_a.map(|how| a.shutdown(how)),
                    how_b.map(|how| b.shutdown(how)),
                ];
                let ends = |how: Option<Shut>| how.is_some_and(|how| how != Shut::Read);
                for (how, peer) in [(how_a, &b), (how_b, &a)] {
                    if ends(how) {
                        let _ = peer.poll(libc::POLLRDHUP, PATIENCE);
                    }
                }
                if ends(how_a) && ends(how_b) {
                    becomes(|| a.peer().is_err() && b.peer().is_err());
                }
                let what = format!("shutdown {of_a} {of_b} data={data}");
                record.note(format!("{what} calls"), results);
                for (end, sock) in [("a", &a), ("b", &b)] {
                    record.note(format!("{what} {end} look"), look(sock));
                    for turn in 0..2 {
                        let mut room = [0; 16];
                        let got = sock.recv(&mut room, libc::MSG_DONTWAIT);
                        record.note(format!("{what} {end} recv {turn}"), (got, room));
                    }
                    record.note(format!("{what} {end} error"), sock.error());
                }
                // What is sent to an end that reads no more may reset it.
                for (end, sock) in [("a", &a), ("b", &b)] {
                    let got = sock.send(b"more", 0);
                    sleep(MOMENT);
                    record.note(format!("{what} {end} send"), (got, raw::signals()));
                }
                for (end, sock) in [("a", &a), ("b", &b)] {
                    let last = (look(sock), sock.error());
                    record.note(
                        format!("{what} {end} last"),
                        (last, sock.shutdown(Shut::Both)),
                    );
                    sleep(MOMENT);
                }
            }
        }
    }
}

/// What the peer sees of a close.
fn ends(sides: &Sides, record: &mut Record) {
    type End = fn(Sock);
    let enders: [(&str, bool, End); 5] = [
        ("close", false, drop),
        ("close_unread", true, drop),
        ("linger_0", false, |sock| {
            sock.set_linger(0).expect("an option");
        }),
        ("linger_1", false, |sock| {
            sock.set_linger(1).expect("an option");
        }),
        ("shutdown_close", false, |sock| {
            sock.shutdown(Shut::Both).expect("a connection");
        }),
    ];
    for (name, unread, end) in enders {
        for written in [false, true] {
            let (a, b) = sides.pair();
            if unread {
                let _ = b.send(b"unread", 0);
                becomes(|| a.ioctl(libc::FIONREAD) == Ok(6));
            }
            if written {
                let _ = a.send(b"written", 0);
                becomes(|| b.ioctl(libc::FIONREAD) == Ok(7));
            }
            end(a);
            let _ = b.poll(libc::POLLRDHUP, PATIENCE);
            let what = format!("end {name} written={written}");
            record.note(format!("{what} look"), look(&b));
            for turn in 0..3 {
                let mut room = [0; 16];
                let got = b.recv(&mut room, libc::MSG_DONTWAIT);
                record.note(format!("{what} recv {turn}"), (got, room));
            }
            for turn in 0..3 {
                let got = b.send(b"x", 0);
                // Nobody is there any more, which is told by a reset.
                let _ = b.poll(0, PATIENCE);
                record.note(
                    format!("{what} send {turn}"),
                    (got, raw::signals(), look(&b)),
                );
            }
            record.note(format!("{what} error"), (b.error(), b.error()));
            record.note(
                format!("{what} recv last"),
                b.recv(&mut [0; 4], libc::MSG_DONTWAIT),
            );
        }
    }
}

/// How a connect that nobody answers is told.
fn refusal(sides: &Sides, record: &mut Record) {
    let (listener, to) = sides.listener();
    drop(listener);
    let sock = sides.socket_a();
    record.note(
        "refused blocking".into(),
        (sock.connect(&to), look(&sock), sock.error()),
    );
    record.note(
        "refused blocking again".into(),
        (sock.connect(&to), look(&sock)),
    );
    for told_by in ["connect", "error", "send", "recv"] {
        let sock = sides.socket_a();
        sock.set_nonblocking(true).expect("a flag");
        let first = sock.connect(&to);
        let polled = sock
            .poll(EVENTS, PATIENCE)
            .map(|events| format!("{events:#x}"));
        let told = match told_by {
            "connect" => sock.connect(&to),
            "error" => sock.error(),
            "send" => done(sock.send(b"x", 0)),
            _ => done(sock.recv(&mut [0; 4], 0)),
        };
        let after = (look(&sock), sock.error(), raw::signals());
        let next = sock.connect(&to);
        record.note(
            format!("refused nonblocking {told_by}"),
            (first, polled, told, after, next),
        );
    }
    let (_listener, to) = sides.listener();
    let sock = sides.socket_a();
    sock.set_nonblocking(true).expect("a flag");
    let first = sock.connect(&to);
    let polled = sock.poll(libc::POLLOUT, PATIENCE);
    let rest = (
        sock.connect(&to),
        sock.connect(&to),
        sock.error(),
        look(&sock),
    );
    record.note("connected nonblocking".into(), (first, polled, rest));
}

/// `connect()` to no address, and what the socket and its peer are then.
fn disconnects(sides: &Sides, record: &mut Record) {
    let (listener, to) = sides.listener();
    let a = sides.socket_a();
    let b = sides.join(&a, &listener, &to).expect("a connection");
    record.note(
        "disconnect connected".into(),
        (a.connect(&unspecified()), look(&a)),
    );
    sleep(MOMENT);
    record.note(
        "disconnect peer".into(),
        (look(&b), b.recv(&mut [0; 4], libc::MSG_DONTWAIT), b.error()),
    );
    sides.enter_a();
    record.note(
        "disconnect twice".into(),
        (a.connect(&unspecified()), a.send(b"x", 0), raw::signals()),
    );
    let again = sides.join(&a, &listener, &to);
    let echoed = again.as_ref().map(|b| {
        let sent = b.send(b"x", 0);
        becomes(|| a.ioctl(libc::FIONREAD) == Ok(1));
        (sent, a.recv(&mut [0; 4], libc::MSG_DONTWAIT))
    });
    record.note("disconnect again".into(), (echoed, look(&a)));
    record.note(
        "disconnect listening".into(),
        (listener.connect(&unspecified()), look(&listener)),
    );
    for (how, end) in [
        (
            "disconnect",
            (|sock| sock.connect(&unspecified())) as fn(&Sock) -> Result<()>,
        ),
        ("shutdown", |sock| sock.shutdown(Shut::Write)),
    ] {
        let (listener, to) = sides.listener();
        let sock = sides.socket_a();
        sock.set_nonblocking(true).expect("a flag");
        // Nobody has that address.
        let begun = sock.connect(&sides.addr(77, 1));
        let named = name(&sock);
        let ended = (end(&sock), look_but_name(&sock));
        record.note(format!("connecting name {how}"), (named, name(&sock)));
        let again = sides.join(&sock, &listener, &to);
        let joined = again.as_ref().map(|_| ());
        let got = (begun, ended, joined, look(&sock), sock.error());
        record.note(format!("disconnect connecting {how}"), got);
    }
    let shut = sides.socket_a();
    let (listener, to) = sides.listener();
    let first = (shut.shutdown(Shut::Both), shut.recv(&mut [0; 4], 0));
    let joined = sides.join(&shut, &listener, &to);
    let sent = joined.as_ref().map(|peer| peer.send(b"x", 0));
    sleep(MOMENT);
    let then = (
        look(&shut),
        shut.send(b"x", 0),
        shut.recv(&mut [0; 4], libc::MSG_DONTWAIT),
        shut.recv(&mut [0; 4], libc::MSG_DONTWAIT),
        raw::signals(),
    );
    record.note("disconnect shut_before".into(), (first, sent, then));
    let bound = sides.socket_a();
    let port = bound.bind(&sides.addr(1, 0));
    record.note(
        "disconnect bound".into(),
        (port, bound.connect(&unspecified()), look(&bound)),
    );
}

/// A socket that connects to its own address.
fn self_connect(sides: &Sides, record: &mut Record) {
    let sock = sides.socket_a();
    sock.bind(&sides.addr(1, 0)).expect("a port");
    let own = sock.name().expect("its address");
    sock.set_timeout(libc::SO_SNDTIMEO, Duration::from_secs(1))
        .expect("an option");
    let connected = sock.connect(&own);
    let sent = sock.send(b"myself", libc::MSG_NOSIGNAL);
    sleep(MOMENT);
    let mut room = [0; 8];
    let got = sock.recv(&mut room, libc::MSG_DONTWAIT);
    record.note("self_connect".into(), (connected, sent, got, room));
}

/// `SO_RCVLOWAT`: what poll says, and whether lowering it wakes.
fn low_water(sides: &Sides, record: &mut Record) {
    let (a, b) = sides.pair();
    let set = |value: c_int| a.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, value);
    let mut results = vec![set(10)];
    let _ = b.send(b"12345", 0);
    becomes(|| a.ioctl(libc::FIONREAD) == Ok(5));
    let below = a.poll(libc::POLLIN, MOMENT);
    let woken = std::thread::scope(|scope| {
        let waits = scope.spawn(|| a.poll(libc::POLLIN, PATIENCE / 5));
        sleep(MOMENT);
        results.push(set(5));
        waits.join()
    });
    record.note("low_water".into(), (results, below, woken.ok()));
    let _ = set(100);
    let got = (
        a.recv(&mut [0; 2], libc::MSG_DONTWAIT),
        a.poll(libc::POLLIN, MOMENT),
    );
    let _ = b.shutdown(Shut::Write);
    let ended = a.poll(libc::POLLIN, PATIENCE);
    record.note("low_water short".into(), (got, ended));
}

/// `SO_PEEK_OFF`.
fn peek_offset(sides: &Sides, record: &mut Record) {
    let (a, b) = sides.pair();
    const SO_PEEK_OFF: c_int = 42;
    let set = |value: c_int| a.set(libc::SOL_SOCKET, SO_PEEK_OFF, value);
    let offset = || a.get(libc::SOL_SOCKET, SO_PEEK_OFF);
    let _ = b.send(b"0123456789", 0);
    becomes(|| a.ioctl(libc::FIONREAD) == Ok(10));
    let mut note = |what: &str, set: Result<()>, flags: c_int, len: usize| {
        let mut room = [0; 16];
        let got = a.recv(&mut room[..len], flags | libc::MSG_DONTWAIT);
        record.note(format!("peek_offset {what}"), (set, got, room, offset()));
    };
    note("off", Ok(()), libc::MSG_PEEK, 2);
    note("at_0", set(0), libc::MSG_PEEK, 2);
    note("goes_on", Ok(()), libc::MSG_PEEK, 3);
    note("read", Ok(()), 0, 4);
    note("after_read", Ok(()), libc::MSG_PEEK, 2);
    note("at_4", set(4), libc::MSG_PEEK, 16);
    note("beyond", set(9), libc::MSG_PEEK, 16);
    note("at_end", set(6), libc::MSG_PEEK, 16);
    note("negative", set(-5), libc::MSG_PEEK, 2);
    note("all", set(3), 0, 16);
    let _ = b.shutdown(Shut::Write);
    becomes(|| a.poll(libc::POLLRDHUP, MOMENT) == Ok(libc::POLLRDHUP));
    note("ended", set(2), libc::MSG_PEEK, 2);
}

/// The signals of a socket with `O_ASYNC`, and what they tell.
fn signals(sides: &Sides, record: &mut Record) {
    let arm = raw::arm;
    let came = || {
        sleep(MOMENT);
        (raw::signals(), raw::told())
    };
    came();
    let (listener, to) = sides.listener();
    let armed = arm(&listener);
    let a = sides.socket_a();
    let armed = (armed, arm(&a));
    record.note("sigio armed".into(), (armed, came()));
    let _ = raw::fcntl(&a, libc::F_SETFL, libc::O_NONBLOCK);
    let _ = a.connect(&to);
    let _ = listener.poll(libc::POLLIN, PATIENCE);
    record.note("sigio listener".into(), came());
    let b = listener.accept();
    let Ok(b) = b else {
        return record.note("sigio accept".into(), done(b));
    };
    drop(listener);
    let other = sides.listener();
    let c = sides.socket_a();
    let _ = arm(&c);
    let _ = c.connect(&other.1);
    let _ = c.poll(libc::POLLOUT, PATIENCE);
    record.note("sigio connected".into(), came());
    drop((c, other));
    came();
    let _ = arm(&a);
    record.note("sigio idle".into(), came());
    let _ = b.send(b"x", 0);
    record.note("sigio data".into(), came());
    // Until there is no room; then until there is.
    let block = vec![7; 1 << 16];
    while a.send(&block, 0).is_ok() {}
    sleep(MOMENT);
    while a.send(&block, 0).is_ok() {}
    came();
    let _ = b.set_nonblocking(true);
    let mut room = vec![0; 1 << 16];
    becomes(|| {
        while b.recv(&mut room, 0).is_ok() {}
        a.ioctl(libc::TIOCOUTQ) == Ok(0)
    });
    record.note("sigio room".into(), came());
    let _ = b.send(b"!", libc::MSG_OOB);
    record.note("sigio urgent".into(), came());
    let _ = b.shutdown(Shut::Write);
    record.note("sigio shut".into(), came());
    drop(b);
    record.note("sigio closed".into(), came());
    drop(a);
    ends_signalled(sides, record);
    let (a, b) = sides.pair();
    let _ = arm(&a);
    let _ = raw::fcntl(&a, libc::F_SETFL, libc::O_ASYNC);
    came();
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| a.recv(&mut [0; 4], libc::MSG_WAITALL));
        sleep(MOMENT);
        let _ = b.send(b"12", 0);
        record.note("sigio while_read".into(), came());
        let _ = b.send(b"34", 0);
        let _ = reads.join();
    });
    came();
    let _ = b.send(b"5", 0);
    record.note("sigio after_read".into(), came());
}

/// What tells of the end of a connection, which comes in several ways.
fn ends_signalled(sides: &Sides, record: &mut Record) {
    type End = fn(&Sock, Sock) -> Option<Sock>;
    let enders: [(&str, End); 8] = [
        ("own_end", |a, b| {
            let _ = a.shutdown(Shut::Write);
            Some(b)
        }),
        ("both_ends", |a, b| {
            let _ = (a.shutdown(Shut::Write), b.shutdown(Shut::Write));
            Some(b)
        }),
        ("ends_last", |a, b| {
            let _ = b.shutdown(Shut::Write);
            let _ = a.poll(libc::POLLRDHUP, PATIENCE);
            raw::forget_signals();
            let _ = a.shutdown(Shut::Write);
            Some(b)
        }),
        ("ends_first", |a, b| {
            let _ = a.shutdown(Shut::Write);
            let _ = b.poll(libc::POLLRDHUP, PATIENCE);
            raw::forget_signals();
            let _ = b.shutdown(Shut::Write);
            Some(b)
        }),
        ("reads_no_more", |a, b| {
            let _ = (a.shutdown(Shut::Read), b.shutdown(Shut::Write));
            Some(b)
        }),
        ("close", |_, _| None),
        ("reset", |_, b| {
            reset(&b);
            Some(b)
        }),
        ("disconnect", |a, b| {
            reset(a);
            Some(b)
        }),
    ];
    for (name, end) in enders {
        let (a, b) = sides.pair();
        let _ = raw::arm(&a);
        raw::forget_signals();
        let _b = end(&a, b);
        sleep(MOMENT * 2);
        record.note(format!("sigio end {name}"), (raw::signals(), raw::told()));
    }
    let (listener, _to) = sides.listener();
    let new = sides.socket_a();
    for (name, sock) in [("listening", &listener), ("new", &new)] {
        for (how, call) in [
            (
                "shutdown",
                (|sock| sock.shutdown(Shut::Both)) as fn(&Sock) -> Result<()>,
            ),
            ("disconnect", |sock| sock.connect(&unspecified())),
        ] {
            let _ = raw::arm(sock);
            raw::forget_signals();
            let got = call(sock);
            sleep(MOMENT);
            let told = (got, raw::signals(), raw::told());
            record.note(format!("sigio {name} {how}"), told);
        }
    }
}

/// Edge-triggered epoll: what each step makes it say.
fn edges(sides: &Sides, record: &mut Record) {
    // SAFETY: `epoll_create1()` takes no memory.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let watch = |sock: &Sock| {
        let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI;
        let mut event = libc::epoll_event {
            events: (bits | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: The kernel reads `event`.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, sock.fd(), &mut event) };
    };
    // All that is told within a moment, joined.
    let told = || {
        sleep(MOMENT);
        let mut events = Vec::new();
        loop {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: There is room for one event.
            if unsafe { libc::epoll_wait(epoll, &mut event, 1, 0) } != 1 {
                return events;
            }
            let bits = event.events;
            events.push(format!("{bits:#x}"));
            if events.len() > 10 {
                return events;
            }
        }
    };
    let (a, b) = sides.pair();
    watch(&a);
    let mut note = |what: &str| record.note(format!("edge {what}"), told());
    note("added");
    note("nothing");
    let _ = b.send(b"12345", 0);
    note("data");
    note("data_nothing");
    let _ = b.send(b"67890", 0);
    note("more_data");
    let _ = a.recv(&mut [0; 3], 0);
    note("read_some");
    let _ = a.recv(&mut [0; 64], 0);
    note("read_all");
    let _ = a.recv(&mut [0; 64], libc::MSG_DONTWAIT);
    note("read_none");
    let _ = a.send(b"x", 0);
    note("sent");
    let _ = b.recv(&mut [0; 64], 0);
    note("peer_read");
    let _ = b.shutdown(Shut::Write);
    note("peer_shut");
    let _ = a.shutdown(Shut::Write);
    note("shut");
    drop(b);
    note("peer_closed");
    drop(a);
    let (listener, to) = sides.listener();
    watch(&listener);
    let mut note = |what: &str| record.note(format!("edge listener {what}"), told());
    note("added");
    let first = sides.socket_a();
    let _ = first.connect(&to);
    note("first");
    let second = sides.socket_a();
    let _ = second.connect(&to);
    note("second");
    let accepted = listener.accept();
    note("accepted");
    drop((accepted, listener));
    // SAFETY: Nobody else has the descriptor.
    unsafe { libc::close(epoll) };
}

/// The parts of `TCP_INFO` that mean the same on any stream.
fn info(sides: &Sides, record: &mut Record) {
    const TCP_INFO: c_int = 11;
    let read = |sock: &Sock| {
        let got = raw::get(sock, libc::SOL_TCP, TCP_INFO, [raw::At::Memory; 2], 400);
        got.map(|(len, bytes)| {
            let word = |at: usize| {
                let bytes = bytes
                    .0
                    .get(at..at + 4)
                    .and_then(|bytes| bytes.try_into().ok());
                bytes.map(u32::from_ne_bytes)
            };
            // tcpi_state, tcpi_unacked, tcpi_bytes_acked (which counts SYN and FIN),
            // tcpi_bytes_received (which counts FIN), tcpi_notsent_bytes.
            (
                len,
                bytes.0.first().copied(),
                word(24),
                word(120),
                word(128),
                word(144),
                // tcpi_data_segs_in, tcpi_data_segs_out
                (word(152), word(156)),
                // tcpi_pmtu, tcpi_rcv_space, tcpi_rcv_wnd: whether there is one.
                [60, 96, 232].map(|at| word(at).is_some_and(|word| word > 0)),
            )
        })
    };
    let mut note = |what: &str, sock: &Sock| record.note(format!("info {what}"), read(sock));
    note("new", &sides.socket_a());
    let (listener, to) = sides.listener();
    note("listening", &listener);
    let a = sides.socket_a();
    let _ = a.connect(&to);
    let _ = listener.poll(libc::POLLIN, PATIENCE);
    note("listened", &listener);
    let Ok(b) = listener.accept() else { return };
    note("connected", &a);
    note("accepted", &b);
    let _ = a.send(b"0123456789", 0);
    becomes(|| b.ioctl(libc::FIONREAD) == Ok(10));
    becomes(|| a.ioctl(libc::TIOCOUTQ) == Ok(0));
    note("sent", &a);
    note("came", &b);
    let _ = a.shutdown(Shut::Write);
    sleep(MOMENT);
    note("shut", &a);
    note("peer_shut", &b);
    let _ = b.recv(&mut [0; 64], 0);
    let _ = b.shutdown(Shut::Write);
    sleep(MOMENT);
    note("both_shut", &b);
}
