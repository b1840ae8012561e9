// SPDX-License-Identifier: GPL-2.0

//! Calls that a socket's state forbids.

use crate::{
    harness::{
        cases,
        check,
        check_any,
        must, //
    },
    peers::{
        pair,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Shut, //
};
use std::time::Duration;

cases! {
    state_new(5) "a new socket: no accept, send, receive or shutdown",
    state_listener(5) "a listener: no connect, send or receive; listen() again changes the backlog",
    state_connected(5) "a connected socket: no bind, listen, accept or second connect",
    state_listen_unbound(5) "listen() without bind() chooses a port",
    state_poll_new(5) "poll() of a new socket says POLLOUT and POLLHUP, as TCP's does",
    state_option_unknown(5) "options that nobody has: ENOPROTOOPT",
}

fn state_new() {
    let sock = A.socket();
    check!(sock.accept().map(drop), Err(Errno::EINVAL));
    check!(sock.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    check!(sock.recv(&mut [0], 0), Err(Errno::ENOTCONN));
    check!(
        sock.recv(&mut [0], libc::MSG_DONTWAIT),
        Err(Errno::ENOTCONN)
    );
    check!(sock.shutdown(Shut::Both), Err(Errno::ENOTCONN));
    check!(sock.error(), Ok(()));
    must!(sock.bind(&A.at(0)));
    check!(sock.accept().map(drop), Err(Errno::EINVAL));
}

fn state_listener() {
    let (listener, _) = A.listen();
    let (_other, to) = B.listen();
    check!(listener.connect(&to), Err(Errno::EISCONN));
    check!(listener.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    check!(
        listener.recv(&mut [0], libc::MSG_DONTWAIT),
        Err(Errno::ENOTCONN)
    );
    check!(listener.listen(3), Ok(()));
    check!(listener.listen(0), Ok(()));
    check!(listener.bind(&A.at(0)), Err(Errno::EINVAL));
}

fn state_connected() {
    let (a, b) = pair();
    let (_other, to) = B.listen();
    check!(a.connect(&to), Err(Errno::EISCONN));
    check!(b.connect(&to), Err(Errno::EISCONN));
    check!(a.bind(&A.at(0)), Err(Errno::EINVAL));
    check!(a.listen(1), Err(Errno::EINVAL));
    check!(b.listen(1), Err(Errno::EINVAL));
    check!(a.accept().map(drop), Err(Errno::EINVAL));
    check!(b.accept().map(drop), Err(Errno::EINVAL));
    check!(a.send(b"still", 0), Ok(5));
    check!(b.recv_bytes(5), Ok(b"still".to_vec()));
}

fn state_listen_unbound() {
    let listener = B.socket();
    must!(listener.listen(1));
    let port = must!(listener.name()).to_v4().port();
    assert_ne!(port, 0);
    let _client = A.connect(&B.at(port));
    must!(listener.accept());
}

fn state_poll_new() {
    let sock = A.socket();
    check!(
        sock.poll(libc::POLLIN | libc::POLLOUT, Duration::ZERO),
        Ok(libc::POLLOUT | libc::POLLHUP)
    );
}

fn state_option_unknown() {
    let sock = A.socket();
    check!(
        sock.set(libc::IPPROTO_TCP, 9999, 1),
        Err(Errno::ENOPROTOOPT)
    );
    check!(sock.get(libc::IPPROTO_TCP, 9999), Err(Errno::ENOPROTOOPT));
    check_any!(
        sock.set(libc::SOL_SOCKET, 9999, 1),
        [Err(Errno::ENOPROTOOPT), Err(Errno::EINVAL)]
    );
    check!(sock.ioctl(0x7fff_fff0), Err(Errno::ENOTTY));
}
