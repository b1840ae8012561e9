// SPDX-License-Identifier: GPL-2.0

//! Peers that do not answer: keepalive, and the times after which a connection is given up.

use crate::{
    config::{
        self,
        patience,
        tcp, //
    },
    harness::{
        cases,
        check,
        must,
        skip,
        step, //
    },
    peers::{
        iwarp,
        netem,
        pair,
        pair_of,
        Setting,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    alive_options(10) "TCP_KEEPIDLE, _KEEPINTVL, _KEEPCNT, _SYNCNT and _USER_TIMEOUT: TCP's defaults and bounds, inherited by accept()",
    alive_idle(20) "SO_KEEPALIVE leaves an idle peer alone that is there",
    alive_idle_dead(30) "SO_KEEPALIVE finds an idle peer that is gone: ETIMEDOUT",
    alive_turned_on_late(30) "the same where it is turned on while the peer is gone, on a listener's child",
    alive_user_timeout_idle(30) "TCP_USER_TIMEOUT decides how long keepalive goes on",
    alive_user_timeout_sent(30) "TCP_USER_TIMEOUT: what was sent has no answer: ETIMEDOUT",
    alive_user_timeout_unread(60) "TCP_USER_TIMEOUT: the peer takes nothing, although its host answers: ETIMEDOUT",
    alive_user_timeout_read(60) "TCP_USER_TIMEOUT leaves a slow reader alone",
    alive_user_timeout_shutdown(30) "TCP_USER_TIMEOUT: the end of the stream has no answer: ETIMEDOUT",
    alive_retries(60) "net.ipv4.tcp_retries2: what was sent has no answer: ETIMEDOUT",
    alive_syn_count(60) "TCP_SYNCNT and TCP_USER_TIMEOUT: connect() gives up in time",
    alive_outage(60) "a network that drops everything for five seconds: the stream goes on",
    alive_neighbour_moves(30) "the peer's address moves for a moment: the stream goes on",
}

const TCP: libc::c_int = libc::IPPROTO_TCP;

/// A's packets are lost from now on.
fn cut() {
    netem(&["loss", "100%"]);
}

/// They arrive again.
fn mend() {
    netem(&[]);
}

/// Turns it on: since when.
fn set_keepalive(
    sock: &Sock,
    idle: libc::c_int,
    interval: libc::c_int,
    probes: libc::c_int,
) -> Instant {
    let now = Instant::now();
    must!(sock.set(TCP, libc::TCP_KEEPIDLE, idle));
    must!(sock.set(TCP, libc::TCP_KEEPINTVL, interval));
    must!(sock.set(TCP, libc::TCP_KEEPCNT, probes));
    must!(sock.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1));
    now
}

fn set_user_timeout(sock: &Sock, ms: libc::c_int) {
    must!(sock.set(TCP, libc::TCP_USER_TIMEOUT, ms));
}

/// Checks that `call` fails with `ETIMEDOUT`, `seconds` after `start` or a little later.
fn times_out<T>(start: Instant, seconds: f32, call: impl FnOnce() -> Result<T>) {
    let error = call().err();
    let took = start.elapsed();
    check!(error, Some(Errno::ETIMEDOUT));
    let least = Duration::from_secs_f32(seconds);
    let most = least + least / 2 + patience(4);
    assert!(
        took + Duration::from_millis(400) >= least && took <= most,
        "took {took:?}, not between {least:?} and {most:?}"
    );
}

/// What a socket shows once its peer was given up, and that was told.
fn check_gone(sock: &Sock) {
    check!(sock.error(), Ok(()));
    check!(sock.recv(&mut [0], 0), Ok(0));
    check!(sock.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    let events = must!(sock.poll(libc::POLLIN | libc::POLLOUT, Duration::ZERO));
    check!(events, libc::POLLIN | libc::POLLOUT | libc::POLLHUP);
}

fn alive_options() {
    let setting = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        let text = B.visit(|| must!(std::fs::read_to_string(&path).map_err(Errno::from)));
        must!(text.trim().parse::<libc::c_int>())
    };
    let (listener, to) = B.listen();
    // The option, what it is at first, the most that it takes.
    let options = [
        (libc::TCP_KEEPIDLE, setting("tcp_keepalive_time"), 32767),
        (libc::TCP_KEEPINTVL, setting("tcp_keepalive_intvl"), 32767),
        (libc::TCP_KEEPCNT, setting("tcp_keepalive_probes"), 127),
        (libc::TCP_SYNCNT, setting("tcp_syn_retries"), 127),
    ];
    for (option, first, most) in options {
        step!("option {option}");
        check!(listener.get(TCP, option), Ok(first));
        for bad in [0, -1, most + 1, libc::c_int::MIN, libc::c_int::MAX] {
            check!(listener.set(TCP, option, bad), Err(Errno::EINVAL));
        }
        check!(listener.set(TCP, option, 1_u8), Err(Errno::EINVAL));
        for good in [1, most, 77] {
            check!(listener.set(TCP, option, good), Ok(()));
            check!(listener.get(TCP, option), Ok(good));
        }
    }
    check!(listener.get(TCP, libc::TCP_USER_TIMEOUT), Ok(0));
    check!(
        listener.set(TCP, libc::TCP_USER_TIMEOUT, -1),
        Err(Errno::EINVAL)
    );
    set_user_timeout(&listener, libc::c_int::MAX);
    set_user_timeout(&listener, 12_345);
    must!(listener.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 7));

    let (_a, b) = pair_of(&listener, &to);
    for (option, ..) in options {
        check!(b.get(TCP, option), Ok(77));
    }
    check!(b.get(TCP, libc::TCP_USER_TIMEOUT), Ok(12_345));
    check!(b.get(libc::SOL_SOCKET, libc::SO_KEEPALIVE), Ok(1));
    must!(listener.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 0));
    check!(b.get(libc::SOL_SOCKET, libc::SO_KEEPALIVE), Ok(1));

    step!("what is not set is what the namespace has now");
    let sock = B.socket();
    let _time = Setting::new("ipv4/tcp_keepalive_time", "1234");
    check!(sock.get(TCP, libc::TCP_KEEPIDLE), Ok(1234));
}

fn alive_idle() {
    let (a, b) = pair();
    set_keepalive(&a, 1, 1, 1);
    set_keepalive(&b, 1, 1, 1);
    set_user_timeout(&b, 1);
    check!(a.poll(libc::POLLIN, Duration::from_millis(4500)), Ok(0));
    check!(b.poll(libc::POLLIN, Duration::ZERO), Ok(0));
    check!(a.send(b"still", 0), Ok(5));
    check!(b.recv_bytes(5), Ok(b"still".to_vec()));
}

fn alive_idle_dead() {
    let (_a, b) = pair();
    let start = set_keepalive(&b, 1, 1, 2);
    cut();
    times_out(start, 3.0, || b.recv(&mut [0], 0));
    check_gone(&b);
    mend();
}

fn alive_turned_on_late() {
    let (listener, to) = B.listen();
    must!(listener.set(TCP, libc::TCP_KEEPIDLE, 2));
    must!(listener.set(TCP, libc::TCP_KEEPINTVL, 1));
    must!(listener.set(TCP, libc::TCP_KEEPCNT, 1));
    let (_a, b) = pair_of(&listener, &to);
    cut();
    check!(b.poll(libc::POLLIN, Duration::from_millis(2500)), Ok(0));
    must!(b.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1));
    times_out(Instant::now(), 3.0, || {
        let events = must!(b.poll(libc::POLLIN, patience(10)));
        check!(events, libc::POLLIN | libc::POLLERR | libc::POLLHUP);
        b.error()
    });
    check_gone(&b);
    mend();
}

fn alive_user_timeout_idle() {
    let (_a, b) = pair();
    set_user_timeout(&b, 2500);
    let start = set_keepalive(&b, 1, 1, 100);
    cut();
    times_out(start, 3.0, || b.recv(&mut [0], 0));
    check_gone(&b);
    mend();
}

fn alive_user_timeout_sent() {
    let (a, b) = pair();
    check!(a.send(b"hello", 0), Ok(5));
    check!(b.recv_bytes(5), Ok(b"hello".to_vec()));
    set_user_timeout(&b, 1500);
    cut();
    check!(b.send(b"nobody", 0), Ok(6));
    if iwarp() && !tcp() {
        // An iWARP device is done with a send once its TCP connection has it.
        mend();
        return;
    }
    times_out(Instant::now(), 1.5, || b.recv(&mut [0], 0));
    check_gone(&b);
    mend();
}

fn alive_user_timeout_unread() {
    for piece in [1000, 1 << 20] {
        step!("pieces of {piece} bytes");
        let (_a, b) = pair();
        set_user_timeout(&b, 3000);
        let bytes = vec![1; piece];
        times_out(Instant::now(), 3.0, || -> Result<()> {
            loop {
                b.send(&bytes, libc::MSG_NOSIGNAL)?;
            }
        });
        check_gone(&b);
    }
}

fn alive_user_timeout_read() {
    let (a, b) = pair();
    set_user_timeout(&b, 2500);
    let bytes = vec![1; 256 << 10];
    let all = 24 * bytes.len();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..24 {
                check!(b.send_all(&bytes), Ok(()));
            }
            must!(b.shutdown(Shut::Write));
        });
        let mut got = 0;
        let mut room = vec![0; all / 16];
        loop {
            thread::sleep(Duration::from_millis(200));
            match must!(a.recv_all(&mut room)) {
                0 => break,
                len => got += len,
            }
        }
        check!(got, all);
    });
}

fn alive_user_timeout_shutdown() {
    if iwarp() && !tcp() {
        skip("an iWARP device is done with a message once its TCP connection has it");
    }
    let (_a, b) = pair();
    set_user_timeout(&b, 1500);
    cut();
    must!(b.shutdown(Shut::Write));
    times_out(Instant::now(), 1.5, || b.recv(&mut [0], 0));
    check!(b.error(), Ok(()));
    mend();
}

fn alive_retries() {
    if iwarp() && !tcp() {
        skip("an iWARP device is done with a message once its TCP connection has it");
    }
    let _retries = Setting::new("ipv4/tcp_retries2", "3");
    let (_a, b) = pair();
    cut();
    check!(b.send(b"nobody", 0), Ok(6));
    times_out(Instant::now(), 3.0, || b.recv(&mut [0], 0));
    check_gone(&b);
    mend();
}

fn alive_syn_count() {
    if iwarp() && !tcp() {
        skip("an iWARP device connects its TCP connection by itself");
    }
    let (_listener, to) = B.listen();
    // So that the address is known.
    drop(A.connect(&to));
    cut();
    let sock = A.socket();
    must!(sock.set(TCP, libc::TCP_SYNCNT, 1));
    times_out(Instant::now(), 3.0, || sock.connect(&to));
    let sock = A.socket();
    set_user_timeout(&sock, 1500);
    must!(sock.set_nonblocking(true));
    times_out(Instant::now(), 1.5, || {
        check!(sock.connect(&to), Err(Errno::EINPROGRESS));
        let events = must!(sock.poll(libc::POLLOUT, patience(10)));
        check!(events, libc::POLLOUT | libc::POLLERR | libc::POLLHUP);
        sock.error()
    });
    mend();
    step!("what has been given up leaves nothing behind");
    let sock = A.connect(&to);
    check!(sock.error(), Ok(()));
}

fn alive_outage() {
    let (a, b) = pair();
    cut();
    check!(a.send(b"from a", 0), Ok(6));
    check!(b.send(b"from b", 0), Ok(6));
    thread::sleep(Duration::from_secs(5));
    mend();
    check!(b.recv_bytes(6), Ok(b"from a".to_vec()));
    check!(a.recv_bytes(6), Ok(b"from b".to_vec()));
    for byte in 0..20 {
        check!(a.send(&[byte], 0), Ok(1));
        check!(b.recv_bytes(1), Ok(vec![byte]));
    }
}

fn alive_neighbour_moves() {
    let (a, b) = pair();
    check!(a.send(b"before", 0), Ok(6));
    check!(b.recv_bytes(6), Ok(b"before".to_vec()));
    let ip = B.ip().to_string();
    let neighbour = |words: &[&str]| {
        let mut all = vec!["ip", "neigh"];
        all.extend(words);
        all.extend(["dev", A.interface()]);
        A.command(&all);
    };
    neighbour(&["replace", &ip, "lladdr", "02:00:00:00:00:77"]);
    thread::sleep(config::moment());
    neighbour(&["del", &ip]);
    check!(a.send(b"behind", 0), Ok(6));
    check!(b.recv_bytes(6), Ok(b"behind".to_vec()));
    check!(b.send(b"back", 0), Ok(4));
    check!(a.recv_bytes(4), Ok(b"back".to_vec()));
}
