// SPDX-License-Identifier: GPL-2.0

//! Waits that end: by their timeouts, by signals.

use crate::{
    config::TICK,
    harness::{
        cases,
        check,
        join,
        must,
        spawn, //
    },
    peers::{
        pair,
        A, //
    },
    signals::{
        catch,
        caught,
        interrupt_every, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Sock, //
};
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    timeout_recv(10) "SO_RCVTIMEO ends recv() with EAGAIN, or with what there is",
    timeout_send(20) "SO_SNDTIMEO ends send() with a part, then with EAGAIN",
    timeout_read_back(5) "SO_RCVTIMEO and SO_SNDTIMEO read back, and refuse nonsense",
    interrupted_recv(10) "a signal: EINTR; with SA_RESTART recv() goes on",
    interrupted_send(20) "a signal: send() gives the part that went, or EINTR",
}

const TIMEOUT: Duration = Duration::from_millis(200);

fn timed<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took + TICK >= TIMEOUT, "took only {took:?} of {TIMEOUT:?}");
    result
}

/// A call during which a signal comes.
fn interrupted<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let interrupter = interrupt_every(TIMEOUT, libc::SIGUSR1);
    let result = call();
    let took = start.elapsed();
    drop(interrupter);
    assert!(
        took >= TIMEOUT,
        "took only {took:?}: the signal came after {TIMEOUT:?}"
    );
    result
}

fn timeout_recv() {
    let (a, b) = pair();
    must!(b.set_timeout(libc::SO_RCVTIMEO, TIMEOUT));
    check!(timed(|| b.recv(&mut [0], 0)), Err(Errno::EAGAIN));
    check!(a.send(b"part", 0), Ok(4));
    must!(b.poll(libc::POLLIN, Duration::from_secs(3)));
    check!(timed(|| b.recv(&mut [0; 10], libc::MSG_WAITALL)), Ok(4));
    check!(timed(|| b.recv(&mut [0], 0)), Err(Errno::EAGAIN));
}

fn timeout_send() {
    let (a, b) = pair();
    must!(a.set_timeout(libc::SO_SNDTIMEO, TIMEOUT));
    let large = vec![1; 64 << 20];
    let mut sent = 0;
    let error = loop {
        match timed(|| a.send(&large, 0)) {
            Ok(len) => sent += len,
            Err(error) => break error,
        }
        assert!(sent < large.len(), "all went");
    };
    check!(error, Errno::EAGAIN);
    drop(a);
    check!(must!(b.recv_to_end()).len(), sent);
}

fn timeout_read_back() {
    let sock = A.socket();
    let get = |sock: &Sock| {
        let mut value = libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        };
        let mut len = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: The kernel writes at most `len` bytes to `value`.
        let ret = unsafe {
            libc::getsockopt(
                sock.fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw mut value).cast(),
                &mut len,
            )
        };
        Errno::check(ret).map(|_| (value.tv_sec, value.tv_usec))
    };
    check!(get(&sock), Ok((0, 0)));
    must!(sock.set_timeout(libc::SO_RCVTIMEO, Duration::from_millis(2500)));
    check!(get(&sock), Ok((2, 500_000)));
    let nonsense = libc::timeval {
        tv_sec: 0,
        tv_usec: 2_000_000,
    };
    check!(
        sock.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, nonsense),
        Err(Errno::EDOM)
    );
    check!(
        sock.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, 1),
        Err(Errno::EINVAL)
    );
}

fn interrupted_recv() {
    let (a, b) = pair();
    catch(libc::SIGUSR1, 0);
    check!(interrupted(|| b.recv(&mut [0], 0)), Err(Errno::EINTR));

    catch(libc::SIGUSR1, libc::SA_RESTART);
    let before = caught();
    let writer = spawn("writer", move || {
        while caught() == before {
            thread::sleep(TIMEOUT / 4);
        }
        check!(a.send(b"x", 0), Ok(1));
        a
    });
    check!(interrupted(|| b.recv(&mut [0], 0)), Ok(1));
    let _a = join(writer);

    // With a timeout even SA_RESTART gives EINTR, as signal(7) says.
    must!(b.set_timeout(libc::SO_RCVTIMEO, Duration::from_secs(5)));
    check!(interrupted(|| b.recv(&mut [0], 0)), Err(Errno::EINTR));
}

fn interrupted_send() {
    let (a, b) = pair();
    catch(libc::SIGUSR1, 0);
    let large = vec![1; 64 << 20];
    let sent = must!(interrupted(|| a.send(&large, 0)));
    assert!(sent < large.len(), "all went");
    let more = match interrupted(|| a.send(&large, 0)) {
        Ok(len) => len,
        Err(error) => {
            check!(error, Errno::EINTR);
            0
        }
    };
    drop(a);
    check!(must!(b.recv_to_end()).len(), sent + more);
}
