// SPDX-License-Identifier: GPL-2.0

//! `O_ASYNC`: the owner of a socket gets a signal when it should look.

use super::{
    connect::finish,
    poll::Epoll,
    wire::raw_client_of, //
};
use crate::{
    bsdh::{
        mid,
        Hello, //
    },
    config::{
        self,
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        spawn,
        step, //
    },
    peers::{
        pair,
        A,
        B, //
    },
    signals::block,
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    mem,
    ptr,
    thread,
    time::Duration, //
};

cases! {
    sigio_recv(10) "O_ASYNC: data, the end and a reset are signalled",
    sigio_accept(10) "O_ASYNC: a connection that can be accepted is signalled",
    sigio_connect(10) "O_ASYNC: the end of a connect is signalled, whichever it is",
    sigio_lowat(10) "O_ASYNC: data is signalled once it is as much as SO_RCVLOWAT says",
    sigio_quiet(10) "O_ASYNC, and the edge: what brings no data, and shutdown(), signal nothing",
    sigio_room(30) "O_ASYNC: room is signalled to who had none, and to nobody else",
}

/// The signal in place of SIGIO: one that queues.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Has `sock` signal the process.
fn watch(sock: &Sock) {
    block(signal());
    let control = |what, value: libc::c_int| {
        // SAFETY: These commands take no memory.
        must!(Errno::check(unsafe { libc::fcntl(sock.fd(), what, value) }))
    };
    // SAFETY: `getpid()` takes nothing.
    control(libc::F_SETOWN, unsafe { libc::getpid() });
    control(10, signal()); // F_SETSIG
    let flags = control(libc::F_GETFL, 0);
    control(libc::F_SETFL, flags | libc::O_ASYNC);
}

/// Whether a signal came, and takes it and all that came with it.
fn signalled(timeout: Duration) -> bool {
    let one = |timeout: Duration| {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: All-zero bytes are a valid `sigset_t`, and the calls get pointers to one.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&mut set, signal());
            libc::sigtimedwait(&set, ptr::null_mut(), &timeout) == signal()
        }
    };
    let any = one(timeout);
    if any {
        while one(moment() / 4) {}
    }
    any
}

fn sigio_recv() {
    let (a, b) = pair();
    watch(&b);
    assert!(!signalled(moment() / 4), "at first");
    check!(a.send(b"x", 0), Ok(1));
    assert!(signalled(patience(3)), "data");
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    assert!(!signalled(moment() / 4), "nothing new");
    must!(a.shutdown(Shut::Write));
    assert!(signalled(patience(3)), "the end");
    must!(a.set_linger(0));
    drop(a);
    assert!(signalled(patience(3)), "a reset");
}

fn sigio_accept() {
    let (listener, to) = B.listen();
    watch(&listener);
    for _ in 0..2 {
        assert!(!signalled(moment() / 4), "nothing new");
        let _client = A.connect(&to);
        assert!(signalled(patience(3)), "a connection");
        must!(listener.accept());
    }
}

fn sigio_connect() {
    let (listener, to) = B.listen();
    for open in [true, false] {
        step!("with a listener: {open}");
        let sock = A.socket();
        must!(sock.set_nonblocking(true));
        watch(&sock);
        let _ = signalled(moment() / 4);
        if !open {
            must!(listener.shutdown(Shut::Both));
        }
        check!(sock.connect(&to), Err(Errno::EINPROGRESS));
        assert!(signalled(patience(3)), "the end of the connect");
        let expected = if open {
            Ok(())
        } else {
            Err(Errno::ECONNREFUSED)
        };
        check!(finish(&sock), expected);
    }
}

fn sigio_lowat() {
    let (a, b) = pair();
    watch(&b);
    let lowat = |bytes| must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes));
    lowat(10);
    assert!(!signalled(moment() / 4), "nothing is there");
    check!(a.send(b"12345", 0), Ok(5));
    assert!(!signalled(moment()), "too little");
    check!(a.send(b"67890", 0), Ok(5));
    assert!(signalled(patience(3)), "enough");
    lowat(20);
    assert!(!signalled(moment() / 4), "too little again");
    lowat(5);
    assert!(signalled(patience(3)), "enough again");
    check!(b.recv_bytes(10), Ok(b"1234567890".to_vec()));
    lowat(1);
    assert!(!signalled(moment() / 4), "all was read");
}

fn sigio_quiet() {
    step!("shutdown()");
    let (_a, b) = pair();
    watch(&b);
    must!(b.shutdown(Shut::Both));
    assert!(!signalled(moment()), "its own shutdown()");
    if config::tcp() {
        return;
    }
    step!("messages without data");
    let (sock, mut talk) = raw_client_of(&Hello {
        max_adverts: 8,
        ..Hello::GOOD
    });
    watch(&sock);
    // Its send half is in Pipelined mode then.
    talk.say(mid::MODE_CHANGE, &[0x20, 0, 0, 0]);
    talk.say(mid::SRC_AVAIL_CANCEL, b"");
    assert!(!signalled(moment()), "nothing to read");
    step!("the edge");
    talk.say(mid::DATA, b"x");
    assert!(signalled(patience(3)), "data");
    let epoll = Epoll::new();
    epoll.add(&sock, libc::EPOLLIN | libc::EPOLLET, 1);
    check!(epoll.wait(Duration::ZERO), Some((1, libc::EPOLLIN)));
    talk.say(mid::SRC_AVAIL_CANCEL, b"");
    check!(epoll.wait(moment()), None);
    assert!(!signalled(Duration::ZERO), "nothing new");
    check!(sock.recv_bytes(1), Ok(b"x".to_vec()));
}

fn sigio_room() {
    let (a, b) = pair();
    must!(a.set_nonblocking(true));
    watch(&a);
    for _ in 0..8 {
        check!(a.send(b"x", 0), Ok(1));
    }
    assert!(!signalled(moment()), "there always was room");
    let bytes = [1; 16 << 10];
    let mut sent = 8;
    // Until even what is on its way makes no more room.
    while must!(a.poll(libc::POLLOUT, moment())) & libc::POLLOUT != 0 {
        while let Ok(len) = a.send(&bytes, 0) {
            sent += len;
        }
    }
    while signalled(Duration::ZERO) {}
    // poll() wants a third of the buffer free, a send any byte.
    while let Ok(len) = a.send(b"x", 0) {
        sent += len;
    }
    let reader = spawn("reader", move || must!(b.recv_to_end()).len());
    assert!(signalled(patience(5)), "room");
    thread::sleep(moment());
    sent += must!(a.send(b"x", 0));
    drop(a);
    check!(join(reader), sent);
}
