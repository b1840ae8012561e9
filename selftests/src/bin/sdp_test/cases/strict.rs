// SPDX-License-Identifier: GPL-2.0

//! SDP against the strict peer (`sdp-strict`): random steps, each of them legal, and then one that
//! is not.

use super::{
    connect::finish,
    wire::raw_only, //
};
use crate::{
    bsdh::Advert,
    config::{
        self,
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        join_scoped,
        must,
        note,
        step, //
    },
    peers::{
        iwarp,
        A,
        B, //
    },
    raw_peer::{
        Listener,
        Peer,
        Received,
        DEPTH,
        RECV_SIZE,
        SEND_SIZE,
        WINDOW, //
    },
    zcopy::threshold,
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    random,
    sock::{
        Shut,
        Sock, //
    },
};
use sdp_strict::{
    pattern,
    raw::Hello,
    Action,
    Config,
    Head,
    Illegal,
    Offer,
    Outcome,
    Random,
    Region,
    Side,
    Window, //
};
use std::{
    collections::{
        BTreeMap,
        VecDeque, //
    },
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
    strict_legal(60) "a peer that takes random legal steps, in all modes, and refuses what is none; --seconds is how long",
    strict_illegal(60) "the same, with an illegal step at the end: the connection is reset, or the step ignored, as the rules say",
}

/// Connections with more are made for so long, unless `--seconds` says otherwise.
const SECONDS: u64 = 4;

/// The window's parts: what is advertised, and what is read into and written from.
const ADVERTISED: usize = WINDOW / 2;
const SCRATCH: usize = WINDOW / 4;

/// Sends and receives of so many bytes move without a copy.
const THRESHOLD: usize = 4096;

/// The strict peer and its connection.
struct Strict {
    raw: Peer,
    peer: sdp_strict::Peer,
    random: Random,
    /// Receive buffers whose messages were taken.
    slots: VecDeque<usize>,
    /// The other side ended the connection.
    gone: bool,
    /// Nothing can be sent any more, although more may have come.
    is_cut: bool,
}

/// A window of the strict peer.
macro_rules! window {
    ($raw:expr) => {{
        let Advert { key, addr, .. } = $raw.advert(0, 0);
        &mut Window {
            addr,
            key,
            bytes: &mut $raw.window()[..ADVERTISED],
        }
    }};
}

/// The key of the stream that the strict peer sends, and of that which it gets.
fn keys(seed: u64) -> [u64; 2] {
    [seed, !seed]
}

impl Strict {
    /// Connects an SDP socket, as client or as server, and a strict peer.
    fn new(seed: u64) -> (Sock, Self) {
        let mut random = Random::new(seed);
        let own = Offer {
            max_adverts: random.pick(&[1, 4, 8]),
            ord: 1,
            ird: 1,
            recv_size: random.pick(&[1000, 4096, RECV_SIZE as u32]),
            recv_depth: DEPTH as u16,
        };
        let hello = Hello {
            version: sdp_strict::raw::VERSION,
            bufs: own.recv_depth,
            max_adverts: own.max_adverts,
            desired: RECV_SIZE as u32,
            recv_size: own.recv_size,
            ord: own.ord,
            ird: own.ird,
        };
        let side = random.pick(&[Side::Connecting, Side::Accepting]);
        step!("seed {seed}: the strict peer is the {side:?} end");
        let (sock, raw, said) = match side {
            Side::Connecting => {
                let (listener, to) = B.listen();
                let connected = Peer::connect(A, &to, &hello.to_bytes());
                let (raw, said) = must!(connected.map_err(|event| format!("{event:?}")));
                if iwarp() {
                    // The connection is not there before the strict peer said something (B-9a).
                    (Err(listener), raw, said)
                } else {
                    (Ok(must!(listener.accept())), raw, said)
                }
            }
            Side::Accepting => {
                let listener = Listener::new(B);
                let sock = A.socket();
                must!(sock.set_nonblocking(true));
                check!(sock.connect(&listener.addr()), Err(Errno::EINPROGRESS));
                let request = listener.request();
                let said = request.private_data.clone();
                let raw = request.establish(&hello.ack_to_bytes());
                check!(finish(&sock), Ok(()));
                must!(sock.set_nonblocking(false));
                (Ok(sock), raw, said)
            }
        };
        let said = must!(Hello::parse(&said).ok_or("neither Hello nor HelloAck"));
        let mut strict = Self {
            raw,
            peer: sdp_strict::Peer::new(Config {
                side,
                initiator_first: iwarp(),
                own,
                peer: Offer {
                    max_adverts: said.max_adverts,
                    ord: said.ord,
                    ird: said.ird,
                    recv_size: said.recv_size,
                    recv_depth: said.bufs,
                },
                send_size: SEND_SIZE as u32,
                size_max: RECV_SIZE as u32,
                rdma_max: SCRATCH as u32,
                keys: keys(seed),
            }),
            random,
            slots: VecDeque::new(),
            gone: false,
            is_cut: false,
        };
        let sock = sock.unwrap_or_else(|listener| {
            strict.duty();
            must!(listener.accept())
        });
        threshold(&sock, THRESHOLD);
        must!(sock.set(libc::SOL_SOCKET, libc::SO_OOBINLINE, 1));
        (sock, strict)
    }

    /// Carries an action out. False when there is none.
    fn perform(&mut self, action: Option<Action>) -> bool {
        let done = match action {
            _ if self.is_cut => return false,
            None => return false,
            Some(Action::Repost) => {
                let slot = must!(self.slots.pop_front().ok_or("no receive buffer is free"));
                self.raw.repost(slot);
                Ok(())
            }
            Some(Action::Send(bytes)) => self.raw.send(&bytes),
            Some(Action::Write(to, data, bytes)) => {
                self.raw.window()[ADVERTISED..][..data.len()].copy_from_slice(&data);
                let written = self.raw.write(ADVERTISED, advert(to));
                written.and_then(|()| self.raw.send(&bytes))
            }
            Some(Action::Read(from)) => {
                let at = ADVERTISED + SCRATCH;
                self.raw.read(at, advert(from)).inspect(|()| {
                    let bytes = self.raw.window()[at..][..from.len as usize].to_vec();
                    must!(self.peer.read_done(&bytes));
                })
            }
        };
        self.is_cut |= done.is_err();
        true
    }

    /// Takes a message that comes within `timeout`. False when none does.
    fn hear(&mut self, timeout: Duration) -> bool {
        match self.raw.recv(timeout) {
            (Received::Nothing, _) => return false,
            (Received::Ended(_), _) => self.gone = true,
            (Received::Bytes(bytes), slot) => {
                if let Err(violation) = self.peer.receive(&bytes, window!(self.raw)) {
                    panic!("{violation}\nby {:?}", Head::parse(&bytes));
                }
                self.slots.push_back(slot);
            }
        }
        true
    }

    /// A random step.
    fn step(&mut self) {
        if self.random.one_in(2) {
            let wait = self.random.below(3);
            while self.hear(Duration::from_millis(wait)) && !self.gone {
                if self.random.one_in(3) {
                    return;
                }
            }
            return;
        }
        let action = self.peer.legal(&mut self.random, window!(self.raw));
        self.perform(action);
    }

    /// What the strict peer owes. False when it owes nothing.
    fn duty(&mut self) -> bool {
        let action = self.peer.duty(window!(self.raw));
        self.perform(action)
    }

    /// Does what is owed until `done`, which must be soon.
    fn settle(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + patience(20);
        while !done(self) && !self.gone {
            assert!(Instant::now() < end, "{what}: never done; {:?}", self.peer);
            if !self.hear(Duration::ZERO) && !self.duty() {
                self.hear(Duration::from_millis(2));
            }
        }
    }

    /// Does what is owed until nothing is said any more.
    fn fall_silent(&mut self) {
        let mut last = Instant::now();
        self.settle("silence", |strict| {
            if strict.hear(Duration::ZERO) || strict.duty() {
                last = Instant::now();
            }
            last.elapsed() > moment() / 8
        });
    }

    /// Closes, and waits for the other side to do so too.
    fn close(&mut self) {
        self.settle("the end of all that is open", |strict| {
            let action = strict.peer.withdraw(window!(strict.raw));
            strict.perform(action);
            strict.peer.is_settled()
        });
        self.settle("a DisConn", |strict| {
            let action = strict.peer.close(window!(strict.raw));
            strict.perform(action)
        });
        self.settle("the end", |strict| strict.peer.is_over());
        assert!(self.peer.is_over(), "ended before both had closed");
    }
}

fn advert(region: Region) -> Advert {
    Advert {
        len: region.len,
        key: region.key,
        addr: region.addr,
    }
}

/// The program that has the socket: what it wrote, and what it read and how that ended.
struct Program<'a> {
    sock: &'a Sock,
    keys: [u64; 2],
    stop: AtomicBool,
}

impl Program<'_> {
    fn size(random: &mut random::Random) -> usize {
        match random.within(0, 9) {
            0..=5 => random.within(1, 3000),
            6 | 7 => random.within(1, 3 * THRESHOLD),
            _ => random.within(THRESHOLD, 200_000),
        }
    }

    /// Writes until it is to stop.
    fn write(&self, seed: u64) -> (u64, Result<()>) {
        let mut random = random::Random::new(seed, 1);
        let mut at = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let bytes = pattern(self.keys[1], at, Self::size(&mut random));
            let flags = match random.within(0, 30) {
                0 => libc::MSG_OOB,
                1..=5 => libc::MSG_MORE,
                _ => 0,
            };
            match self.sock.send(&bytes, flags | libc::MSG_NOSIGNAL) {
                Ok(sent) => at += sent as u64,
                Err(error) => return (at, Err(error)),
            }
            if random.within(0, 5) == 0 {
                thread::sleep(Duration::from_millis(random.within(0, 10) as u64));
            }
        }
        (at, Ok(()))
    }

    /// Reads until the end.
    fn read(&self, seed: u64) -> (u64, Result<()>) {
        let mut random = random::Random::new(seed, 2);
        let (mut at, mut room) = (0, vec![0; 200_000]);
        loop {
            let size = Self::size(&mut random);
            match self.sock.recv(&mut room[..size], 0) {
                Ok(0) => return (at, Ok(())),
                Ok(len) => {
                    let expected = pattern(self.keys[0], at, len);
                    assert!(room[..len] == expected, "{len} bytes at {at} are others");
                    at += len as u64;
                }
                Err(error) => return (at, Err(error)),
            }
            if random.within(0, 5) == 0 && !self.stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(random.within(0, 10) as u64));
            }
        }
    }
}

/// How one connection went.
struct Played {
    written: u64,
    read: u64,
    /// What the illegal step was, and whether the connection ended of it.
    illegal: Option<(Illegal, bool)>,
}

/// One connection: legal steps, and an illegal one if there is to be one.
fn play(seed: u64, illegal: bool) -> Played {
    let (sock, mut strict) = Strict::new(seed);
    let program = Program {
        sock: &sock,
        keys: keys(seed),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| program.write(seed));
        let reader = scope.spawn(|| program.read(seed));
        for _ in 0..20 + strict.random.below(300) {
            strict.step();
            assert!(!strict.gone, "the other side ended the connection");
        }
        program.stop.store(true, Ordering::Relaxed);
        strict.settle("the program's writes", |_| writer.is_finished());
        let (written, wrote) = join_scoped(writer);
        check!(wrote, Ok(()));
        strict.fall_silent();
        let broken = match illegal {
            true => break_a_rule(&mut strict),
            false => None,
        };
        if let Some((step, ends)) = &broken {
            if *ends || step.outcome == Outcome::Either {
                // It is not for the strict peer to go on from here.
                strict.raw.disconnect();
                let (read, ended) = join_scoped(reader);
                if *ends {
                    assert_eq!(ended, Err(Errno::EPROTO), "after {:?}", step.rules);
                }
                return Played {
                    written,
                    read,
                    illegal: broken,
                };
            }
        }
        check!(sock.shutdown(Shut::Write), Ok(()));
        strict.close();
        let (read, ended) = join_scoped(reader);
        check!(ended, Ok(()));
        check!(strict.peer.bytes(), [read, written]);
        Played {
            written,
            read,
            illegal: broken,
        }
    })
}

/// One illegal step, if one was found, and whether it ended the connection.
fn break_a_rule(strict: &mut Strict) -> Option<(Illegal, bool)> {
    let illegal = strict
        .peer
        .illegal(&mut strict.random, window!(strict.raw))?;
    step!(
        "{:?} by {:?} of {} bytes",
        illegal.rules,
        Head::parse(&illegal.bytes).map(|(head, _)| head),
        illegal.bytes.len()
    );
    strict.gone |= strict.raw.send(&illegal.bytes).is_err();
    match illegal.outcome {
        Outcome::Ends => {
            strict.raw.ended();
            Some((illegal, true))
        }
        Outcome::Ignored => Some((illegal, false)),
        Outcome::Either => {
            let end = Instant::now() + moment() / 4;
            while !strict.gone && Instant::now() < end {
                strict.gone |= matches!(
                    strict.raw.recv(Duration::from_millis(5)).0,
                    Received::Ended(_)
                );
            }
            let gone = strict.gone;
            Some((illegal, gone))
        }
    }
}

/// Makes connections for as long as there is time.
fn for_a_while(mut run: impl FnMut(u64)) {
    raw_only();
    let time = Duration::from_secs(config::get().seconds.unwrap_or(SECONDS));
    let end = Instant::now() + time;
    let mut random = random::Random::new(config::get().seed, 7);
    loop {
        run(random.word());
        if Instant::now() >= end {
            return;
        }
    }
}

fn strict_legal() {
    let (mut connections, mut written, mut read) = (0, 0, 0);
    for_a_while(|seed| {
        let played = play(seed, false);
        connections += 1;
        written += played.written;
        read += played.read;
    });
    note(&format!(
        "{connections} connections, {written} bytes written, {read} read"
    ));
}

fn strict_illegal() {
    let mut seen = BTreeMap::new();
    for_a_while(|seed| {
        if let Some((illegal, ends)) = play(seed, true).illegal {
            *seen.entry((illegal.rules, ends)).or_insert(0) += 1;
        }
    });
    for ((rules, ends), times) in seen {
        let end = if ends { "a reset" } else { "nothing" };
        note(&format!("{times} times {}: {end}", rules.join(" ")));
    }
}
