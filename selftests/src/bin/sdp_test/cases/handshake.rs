// SPDX-License-Identifier: GPL-2.0

//! Connection set-up against peers that are not SDP, or not as they should be.

use super::{
    connect::finish,
    wire::{
        hello,
        hello_ack, //
    },
};
use crate::{
    bsdh::{
        mid,
        Hello,
        HelloAck,
        Message,
        VERSION, //
    },
    config::{
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        note,
        skip,
        spawn,
        step, //
    },
    hole::Hole,
    memory::PAGE,
    peers::{
        eventually,
        iwarp,
        pair,
        pair_of,
        sdp_only,
        A,
        B, //
    },
    raw_peer::{
        EventKind,
        Listener,
        Peer, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Addr,
        Sock, //
    },
};
use std::{
    sync::{
        mpsc,
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    handshake_hello(10) "connect() sends the Hello of A.5",
    handshake_hello_ack(10) "a listener answers a Hello with the HelloAck of A.5",
    handshake_not_sdp_server(20) "an RDMA listener that is not SDP's: EPROTO",
    handshake_bad_hello_ack(60) "a HelloAck with a wrong field: EPROTO, and the socket can connect elsewhere",
    handshake_refused(10) "an RDMA listener that refuses: ECONNREFUSED",
    handshake_no_answer(20) "an RDMA listener that does not answer: the socket can give up",
    handshake_not_sdp_client(30) "an RDMA client that is not SDP's is refused, and the listener goes on",
    handshake_bad_hello(60) "a Hello with a wrong field is refused, and the listener goes on",
    handshake_minor_version(10) "another minor version alone is no reason to refuse (B-5)",
    handshake_client_gone(20) "clients that vanish right after the set-up",
    handshake_unconfirmed(60) "a peer that does not confirm the accept loses its place to one that waits",
    handshake_listener_gone(20) "a listener that closes before its client has confirmed: the client has a connection, and is told its end",
    handshake_asleep(120) "200 sockets whose locks are held: others connect meanwhile",
}

fn raw_only() {
    sdp_only("TCP has no private data");
}

/// Starts a connection of A to a raw listener.
fn start(to: &Addr) -> Sock {
    let sock = A.socket();
    must!(sock.set_nonblocking(true));
    check!(sock.connect(to), Err(Errno::EINPROGRESS));
    sock
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn handshake_hello() {
    raw_only();
    let listener = Listener::new(B);
    let _sock = start(&listener.addr());
    let bytes = listener.request().private_data;
    assert!(
        bytes.len() >= 32,
        "only {} bytes of private data",
        bytes.len()
    );
    let hello = must!(Message::from_bytes(&bytes).ok_or("no header"));
    check!((hello.mid, hello.flags, hello.len), (mid::HELLO, 0, 32));
    check!((hello.mseq, hello.mseq_ack), (0, 0));
    assert!(hello.bufs >= 3, "B-3: {hello:?}");
    check!(bytes[16], VERSION);
    assert!(half(&bytes, 18) > 0, "B-5: MaxAdverts 0");
    assert!(
        (37..=1 << 31).contains(&word(&bytes, 24)),
        "B-4: LocalRcvSz {}",
        word(&bytes, 24)
    );
    assert!(
        word(&bytes, 20) <= 1 << 31,
        "DesRemRcvSz {}",
        word(&bytes, 20)
    );
    assert!(
        half(&bytes, 28) > 0 && half(&bytes, 30) > 0,
        "B-5: LocORD or LocIRD 0"
    );
    assert!(
        bytes[32..].iter().all(|byte| *byte == 0),
        "private data after the Hello: {bytes:02x?}"
    );
}

fn handshake_hello_ack() {
    raw_only();
    let (listener, to) = B.listen();
    let (_peer, bytes) =
        must!(Peer::connect(A, &to, &hello()).map_err(|event| format!("{event:?}")));
    must!(listener.accept());
    assert!(
        bytes.len() >= 28,
        "only {} bytes of private data",
        bytes.len()
    );
    let ack = must!(Message::from_bytes(&bytes).ok_or("no header"));
    check!((ack.mid, ack.flags, ack.len), (mid::HELLO_ACK, 0, 28));
    check!((ack.mseq, ack.mseq_ack), (0, 0));
    assert!(ack.bufs >= 3, "B-3: {ack:?}");
    check!(bytes[16], VERSION);
    assert!(half(&bytes, 18) > 0, "B-5: MaxAdverts 0");
    assert!(
        (37..=1 << 31).contains(&word(&bytes, 20)),
        "B-4: ActRcvSz {}",
        word(&bytes, 20)
    );
    assert!(
        half(&bytes, 24) > 0 && half(&bytes, 26) > 0,
        "B-5: LocORD or LocIRD 0"
    );
    assert!(
        bytes[28..].iter().all(|byte| *byte == 0),
        "private data after the HelloAck: {bytes:02x?}"
    );
}

fn handshake_not_sdp_server() {
    raw_only();
    let listener = Listener::new(B);
    for private_data in [
        &b""[..],
        b"x",
        b"GET / HTTP/1.0\r\n\r\n I speak something else",
        &[0xff; 56],
    ] {
        step!("answers with {} bytes", private_data.len());
        let sock = start(&listener.addr());
        let _peer = listener.request().accept(private_data);
        check!(finish(&sock), Err(Errno::EPROTO));
    }
}

/// Copies of a good message with one byte or field wrong.
fn spoilt(good: &[u8], changes: &[(&'static str, usize, &[u8])]) -> Vec<(&'static str, Vec<u8>)> {
    changes
        .iter()
        .map(|(what, at, bytes)| {
            let mut bad = good.to_vec();
            bad[*at..*at + bytes.len()].copy_from_slice(bytes);
            (*what, bad)
        })
        .collect()
}

fn handshake_bad_hello_ack() {
    raw_only();
    let listener = Listener::new(B);
    let (good_listener, good) = B.listen();
    let mut bad = spoilt(
        &hello_ack(),
        &[
            ("MID", 0, &[mid::DATA]),
            ("Bufs 2", 2, &[0, 2]),
            ("Len 27", 4, &[0, 0, 0, 27]),
            ("Len 29", 4, &[0, 0, 0, 29]),
            ("Len 4 GiB", 4, &[0xff; 4]),
            ("major version 2", 16, &[0x22]),
            ("major version 0", 16, &[0x01]),
            ("MaxAdverts 0", 18, &[0, 0]),
            ("ActRcvSz 36", 20, &[0, 0, 0, 36]),
            ("ActRcvSz 4 GiB", 20, &[0xff; 4]),
            ("LocORD 0", 24, &[0, 0]),
            ("LocIRD 0", 26, &[0, 0]),
        ],
    );
    bad.push(("a Hello", hello()));
    for (what, ack) in bad {
        step!("{what}");
        let sock = start(&listener.addr());
        let _peer = listener.request().accept(&ack);
        let result = finish(&sock);
        assert!(
            result == Err(Errno::EPROTO),
            "{what}\nexpected Err(EPROTO)\n     got {result:?}"
        );
        must!(sock.set_nonblocking(false));
        check_any!(sock.connect(&good), [Ok(()), Err(Errno::ECONNABORTED)]);
        drop(sock);
        must!(good_listener.set_nonblocking(true));
        while good_listener.accept().is_ok() {}
    }
}

fn handshake_refused() {
    raw_only();
    let listener = Listener::new(B);
    let sock = start(&listener.addr());
    // siw may lose what a reject says, so that one that says nothing is not believed at once.
    for _ in 0..if iwarp() { 5 } else { 1 } {
        listener.request().reject(b"");
    }
    check!(finish(&sock), Err(Errno::ECONNREFUSED));
    let sock = start(&listener.addr());
    listener.request().reject(b"not today");
    check!(finish(&sock), Err(Errno::ECONNREFUSED));
}

fn handshake_no_answer() {
    raw_only();
    let listener = Listener::new(B);
    let sock = A.socket();
    must!(sock.set_timeout(libc::SO_SNDTIMEO, Duration::from_millis(300)));
    check!(sock.connect(&listener.addr()), Err(Errno::EINPROGRESS));
    let request = listener.request();
    let closing = Instant::now();
    drop(sock);
    assert!(
        closing.elapsed() < patience(3),
        "close() took {:?}",
        closing.elapsed()
    );
    drop(request);
    // The next one finds all in order.
    let sock = start(&listener.addr());
    let _peer = listener.request().accept(&hello_ack());
    check!(finish(&sock), Ok(()));
}

/// Connects with `private_data`, which the listener must refuse.
fn refused(to: &Addr, what: &str, private_data: &[u8]) {
    step!("{what}");
    match Peer::connect(A, to, private_data) {
        Ok(_) => panic!("{what}\nexpected a refusal\n     got a connection"),
        Err(event) => assert!(
            event.kind == EventKind::Rejected,
            "{what}\nexpected Rejected\n     got {event:?}"
        ),
    }
}

fn goes_on(listener: &Sock, to: &Addr) {
    let (a, b) = pair_of(listener, to);
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    must!(listener.set_nonblocking(true));
    check!(listener.accept().map(drop), Err(Errno::EAGAIN));
    must!(listener.set_nonblocking(false));
}

fn handshake_not_sdp_client() {
    raw_only();
    let (listener, to) = B.listen();
    refused(&to, "no private data", b"");
    refused(&to, "one byte", b"\0");
    refused(&to, "text", b"I speak something else, if you please");
    refused(&to, "all ones", &[0xff; 56]);
    refused(&to, "a Hello cut short", &hello()[..20]);
    goes_on(&listener, &to);
}

fn handshake_bad_hello() {
    raw_only();
    let (listener, to) = B.listen();
    let mut bad = spoilt(
        &hello(),
        &[
            ("MID", 0, &[mid::DATA]),
            ("Bufs 0", 2, &[0, 0]),
            ("Bufs 2", 2, &[0, 2]),
            ("Len 31", 4, &[0, 0, 0, 31]),
            ("Len 33", 4, &[0, 0, 0, 33]),
            ("Len 0", 4, &[0, 0, 0, 0]),
            ("major version 2", 16, &[0x21]),
            ("major version 0", 16, &[0x01]),
            ("MaxAdverts 0", 18, &[0, 0]),
            ("LocalRcvSz 36", 24, &[0, 0, 0, 36]),
            ("LocalRcvSz 4 GiB", 24, &[0xff; 4]),
            ("LocORD 0", 28, &[0, 0]),
            ("LocIRD 0", 30, &[0, 0]),
        ],
    );
    bad.push(("a HelloAck", hello_ack()));
    for (what, hello) in bad {
        refused(&to, what, &hello);
    }
    goes_on(&listener, &to);
}

fn handshake_minor_version() {
    raw_only();
    let (listener, to) = B.listen();
    let other = Hello {
        version: 0x12,
        ..Hello::GOOD
    };
    let (_peer, _) =
        must!(Peer::connect(A, &to, &other.to_bytes()).map_err(|event| format!("{event:?}")));
    must!(listener.accept());

    let listener = Listener::new(B);
    let sock = start(&listener.addr());
    let ack = HelloAck {
        version: 0x12,
        ..HelloAck::GOOD
    };
    let _peer = listener.request().accept(&ack.to_bytes());
    check!(finish(&sock), Ok(()));
}

fn handshake_client_gone() {
    raw_only();
    let (listener, to) = B.listen();
    for round in 0..5 {
        step!("round {round}");
        let (peer, _) =
            must!(Peer::connect(A, &to, &hello()).map_err(|event| format!("{event:?}")));
        drop(peer);
    }
    must!(listener.set_nonblocking(true));
    // One may get into the queue long after its client has gone.
    while let Ok(server) = eventually(patience(1), || match listener.accept() {
        Err(Errno::ECONNABORTED) => Err(Errno::EAGAIN),
        result => result,
    }) {
        must!(server.set_nonblocking(false));
        check!(server.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    }
    must!(listener.set_nonblocking(false));
    goes_on(&listener, &to);
}

/// A reject would be lost where it overtakes the answer, and the client wait for ever.
fn handshake_listener_gone() {
    raw_only();
    let (listener, to) = B.listen();
    let mut peer = must!(Peer::request(A, &to, &hello()).map_err(|event| format!("{event:?}")));
    peer.await_event();
    drop(listener);
    thread::sleep(moment());
    check!(peer.event("the answer").kind, EventKind::Established);
    peer.ended();
}

/// A peer that never confirms the accept would keep its place for a minute.
fn handshake_unconfirmed() {
    raw_only();
    if iwarp() {
        skip("over iWARP it is TCP that confirms");
    }
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(0));
    let to = must!(listener.name());
    let silent = must!(Peer::request(A, &to, &hello()).map_err(|event| format!("{event:?}")));
    silent.await_event();
    let start = Instant::now();
    let sock = A.socket();
    must!(sock.set_timeout(libc::SO_SNDTIMEO, patience(20)));
    must!(sock.connect(&to));
    let took = start.elapsed();
    assert!(took > Duration::from_secs(8), "took {took:?}");
    drop((sock, silent, listener));
}

/// Connects a raw peer of A to a raw listener of B: how long that takes.
fn time_raw_connect() -> Duration {
    let (tell, hear) = mpsc::channel();
    let server = spawn("server", move || {
        let listener = Listener::new(B);
        must!(tell.send(listener.addr()).map_err(|_| "nobody waits"));
        listener.request().establish(b"");
    });
    let to = must!(hear.recv());
    let start = Instant::now();
    let peer = Peer::connect(A, &to, b"");
    let took = start.elapsed();
    join(server);
    must!(peer.map_err(|event| format!("{event:?}")));
    took
}

/// What the connection manager tells a socket may have to wait for its lock. Its workers, which
/// everybody shares, may not.
fn handshake_asleep() {
    raw_only();
    const PAIRS: usize = 100;
    let limit = patience(1);
    let hole = Arc::new(Hole::new(PAGE));
    let asleep = |sock: &Sock| {
        let sock = must!(sock.dup());
        let hole = hole.clone();
        spawn("asleep", move || {
            check!(hole.sleep_locked(&sock), Ok(()));
        })
    };
    step!("all is well before");
    // Raw peers take seconds to connect where the hosts do not know each other's address yet.
    drop(pair());
    let before = time_raw_connect();
    assert!(before < limit, "took {before:?}");

    step!("listeners fall asleep, and then who connects to them");
    let listeners: Vec<_> = (0..PAIRS).map(|_| B.listen()).collect();
    let mut sleepers: Vec<_> = listeners.iter().map(|(sock, _)| asleep(sock)).collect();
    hole.asleep(PAIRS);
    let clients: Vec<_> = listeners.iter().map(|(_, to)| start(to)).collect();
    sleepers.extend(clients.iter().map(asleep));
    hole.asleep(PAIRS);
    let mut longest = Duration::ZERO;
    for round in 0..10 {
        step!("raw peers connect, round {round}");
        let took = time_raw_connect();
        assert!(took < limit, "round {round} took {took:?}");
        longest = longest.max(took);
    }
    note(&format!(
        "another user connects in {longest:.1?} at most; in {before:.1?} before"
    ));

    step!("all wake, and connect");
    hole.fill();
    sleepers.into_iter().for_each(join);
    for (client, (listener, _)) in clients.iter().zip(&listeners) {
        check!(finish(client), Ok(()));
        let server = must!(listener.accept());
        check!(client.send(b"x", 0), Ok(1));
        check!(server.recv_bytes(1), Ok(b"x".to_vec()));
    }
}
