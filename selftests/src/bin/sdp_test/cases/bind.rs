// SPDX-License-Identifier: GPL-2.0

//! `bind()`: ports and addresses.

use crate::{
    config::volume,
    harness::{
        cases,
        check,
        join,
        must,
        spawn,
        step,
        Child, //
    },
    peers::{
        addr,
        family,
        pair_of,
        Setting,
        Side,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    net::Ipv4Addr,
    sync::{
        atomic::{
            AtomicBool,
            Ordering::Relaxed, //
        },
        Arc, //
    },
};

cases! {
    bind_port_in_use(5) "a port that another socket has: EADDRINUSE, until that one closes",
    bind_any_in_use(5) "the any address and a certain address share their ports",
    bind_other_namespace(5) "a port is in use in its own namespace only",
    bind_not_local(5) "an address that is not ours: EADDRNOTAVAIL",
    bind_twice(5) "a second bind(): EINVAL",
    bind_privileged(5) "a port below 1024 without the capability: EACCES",
    bind_port_chosen(5) "port 0 gives a free port, each time another",
    bind_failed_then_again(5) "a socket whose bind() failed can bind another address",
    bind_source(5) "connect() keeps the address and port that bind() chose",
    bind_loopback(10) "a listener on 127.0.0.1 is not there for others",
    bind_shared(10) "SO_REUSEADDR of both: an address may be bound twice, and one may listen there",
    bind_listen_fails(20) "a listen() that fails because another listens takes no connection from that",
    bind_kept(10) "a listener that was shut down keeps its port, and listens again",
    bind_range(20) "port 0 gives one of ip_local_port_range, and none of ip_local_reserved_ports",
    bind_unprivileged(10) "net.ipv4.ip_unprivileged_port_start says which ports are privileged",
    bind_privileges_dropped(10) "a privileged port that was bound is listened on, and connected from, without them",
    bind_restart(10) "a server starts again on its port with SO_REUSEADDR, old connections or not",
}

fn reuse(sock: &Sock) {
    must!(sock.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1));
}

fn bind_port_in_use() {
    let first = A.socket();
    must!(first.bind(&A.at(0)));
    let taken = must!(first.name());
    let second = A.socket();
    check!(second.bind(&taken), Err(Errno::EADDRINUSE));
    must!(first.listen(1));
    check!(second.bind(&taken), Err(Errno::EADDRINUSE));
    // SO_REUSEADDR does not take a port from a listener.
    reuse(&second);
    check!(second.bind(&taken), Err(Errno::EADDRINUSE));
    drop(first);
    check!(second.bind(&taken), Ok(()));
}

fn bind_any_in_use() {
    let first = A.socket();
    must!(first.bind(&addr(Ipv4Addr::UNSPECIFIED, 0)));
    let port = must!(first.name()).to_v4().port();
    check!(A.socket().bind(&A.at(port)), Err(Errno::EADDRINUSE));
    drop(first);
    let first = A.socket();
    must!(first.bind(&A.at(port)));
    check!(
        A.socket().bind(&addr(Ipv4Addr::UNSPECIFIED, port)),
        Err(Errno::EADDRINUSE)
    );
}

fn bind_other_namespace() {
    let first = A.socket();
    must!(first.bind(&addr(Ipv4Addr::UNSPECIFIED, 0)));
    let taken = must!(first.name());
    check!(B.socket().bind(&taken), Ok(()));
}

fn bind_loopback() {
    let listener = B.socket();
    must!(listener.bind(&addr(Ipv4Addr::LOCALHOST, 0)));
    must!(listener.listen(1));
    let port = must!(listener.name()).to_v4().port();
    check!(A.socket().connect(&B.at(port)), Err(Errno::ECONNREFUSED));
}

fn bind_shared() {
    let any = |port| addr(Ipv4Addr::UNSPECIFIED, port);
    let first = B.socket();
    must!(first.bind(&B.at(0)));
    let port = must!(first.name()).to_v4().port();
    let second = B.socket();
    reuse(&second);
    step!("one of them does not want it");
    check!(second.bind(&B.at(port)), Err(Errno::EADDRINUSE));
    check!(second.bind(&any(port)), Err(Errno::EADDRINUSE));
    step!("both want it");
    reuse(&first);
    check!(second.bind(&any(port)), Ok(()));
    check!(first.listen(1), Ok(()));
    check!(second.listen(1), Err(Errno::EADDRINUSE));
    let third = B.socket();
    reuse(&third);
    check!(third.bind(&B.at(port)), Err(Errno::EADDRINUSE));
    let (client, server) = pair_of(&first, &B.at(port));
    check!(client.send(b"x", 0), Ok(1));
    check!(server.recv_bytes(1), Ok(b"x".to_vec()));
    step!("the listener goes");
    drop(first);
    // siw listens in the namespace of the thread that asks it to.
    B.enter();
    check!(second.listen(1), Ok(()));
    pair_of(&second, &B.at(port));
}

fn bind_listen_fails() {
    let first = B.socket();
    reuse(&first);
    must!(first.bind(&addr(Ipv4Addr::UNSPECIFIED, 0)));
    let port = must!(first.name()).to_v4().port();
    let second = B.socket();
    reuse(&second);
    must!(second.bind(&B.at(port)));
    must!(first.listen(8));
    let end = Arc::new(AtomicBool::new(false));
    let tries = {
        let end = end.clone();
        spawn("second", move || {
            B.enter();
            while !end.load(Relaxed) {
                check!(second.listen(1), Err(Errno::EADDRINUSE));
            }
        })
    };
    for _ in 0..volume(50, 10) {
        pair_of(&first, &B.at(port));
    }
    end.store(true, Relaxed);
    join(tries);
}

fn bind_kept() {
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(1));
    let at = must!(listener.name());
    // With a port of its choice TCP's socket would give that back.
    drop(listener);
    let listener = B.socket();
    must!(listener.bind(&at));
    must!(listener.listen(1));
    must!(listener.shutdown(Shut::Both));
    check!(A.socket().connect(&at), Err(Errno::ECONNREFUSED));
    check!(B.socket().bind(&at), Err(Errno::EADDRINUSE));
    check!(listener.listen(1), Ok(()));
    pair_of(&listener, &at);
}

fn bind_range() {
    let _range = Setting::new("ipv4/ip_local_port_range", "40000 40007");
    let _reserved = Setting::new("ipv4/ip_local_reserved_ports", "40002,40004-40005");
    let mut socks = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..5 {
        let sock = B.socket();
        must!(sock.bind(&B.at(0)));
        ports.push(must!(sock.name()).to_v4().port());
        socks.push(sock);
    }
    ports.sort_unstable();
    check!(ports, vec![40000, 40001, 40003, 40006, 40007]);
    check!(B.socket().bind(&B.at(0)), Err(Errno::EADDRINUSE));
    step!("who says the number gets it");
    check!(B.socket().bind(&B.at(40004)), Ok(()));
}

/// Runs `work` in a process of its own on `side`, without privileges.
fn unprivileged(side: Side, work: impl FnOnce()) {
    let child = Child::start(|| {
        side.enter();
        // SAFETY: `setuid()` takes no memory; this process has no other thread.
        must!(Errno::check(unsafe { libc::setuid(65534) }));
        work();
    });
    check!(child.wait(), 0);
}

fn bind_unprivileged() {
    let _start = Setting::new("ipv4/ip_unprivileged_port_start", "1000");
    let bind = |port| {
        let sock = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
        sock.bind(&B.at(port))
    };
    unprivileged(B, || {
        check!(bind(1000), Ok(()));
        check!(bind(999), Err(Errno::EACCES));
    });
    step!("more of them privileged");
    let _start = Setting::new("ipv4/ip_unprivileged_port_start", "1500");
    unprivileged(B, || check!(bind(1499), Err(Errno::EACCES)));
}

fn bind_privileges_dropped() {
    let (peer, to) = B.listen();
    let listener = B.socket();
    must!(listener.bind(&B.at(1022)));
    let client = A.socket();
    must!(client.bind(&A.at(1023)));
    unprivileged(B, || {
        check!(listener.listen(1), Ok(()));
        check!(client.connect(&to), Ok(()));
    });
    let (_server, from) = must!(peer.accept_from(0));
    check!(from.to_v4(), A.at(1023).to_v4());
    pair_of(&listener, &B.at(1022));
}

fn bind_not_local() {
    check!(A.socket().bind(&B.at(0)), Err(Errno::EADDRNOTAVAIL));
    check!(
        A.socket().bind(&addr(Ipv4Addr::new(192, 0, 2, 1), 0)),
        Err(Errno::EADDRNOTAVAIL)
    );
}

fn bind_twice() {
    let sock = A.socket();
    must!(sock.bind(&A.at(0)));
    let name = must!(sock.name());
    check!(sock.bind(&A.at(0)), Err(Errno::EINVAL));
    check!(sock.bind(&name), Err(Errno::EINVAL));
    check!(must!(sock.name()).to_v4(), name.to_v4());
}

fn bind_privileged() {
    A.enter();
    let sock = A.socket();
    check!(sock.bind(&A.at(1023)), Ok(()));
    unprivileged(A, || {
        let sock = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
        check!(sock.bind(&A.at(1022)), Err(Errno::EACCES));
    });
}

fn bind_port_chosen() {
    let socks: Vec<_> = (0..20).map(|_| A.socket()).collect();
    let mut ports = Vec::new();
    for sock in &socks {
        must!(sock.bind(&A.at(0)));
        ports.push(must!(sock.name()).to_v4().port());
    }
    assert!(!ports.contains(&0), "{ports:?}");
    ports.sort_unstable();
    ports.dedup();
    check!(ports.len(), socks.len());
}

fn bind_failed_then_again() {
    let first = A.socket();
    must!(first.bind(&A.at(0)));
    let sock = A.socket();
    check!(sock.bind(&must!(first.name())), Err(Errno::EADDRINUSE));
    check!(sock.bind(&B.at(0)), Err(Errno::EADDRNOTAVAIL));
    check!(sock.bind(&A.at(0)), Ok(()));
    check!(sock.listen(1), Ok(()));
}

fn bind_source() {
    let (listener, to) = B.listen();
    let sock = A.socket();
    must!(sock.bind(&A.at(0)));
    let name = must!(sock.name()).to_v4();
    must!(sock.connect(&to));
    let (_server, from) = must!(listener.accept_from(0));
    check!(from.to_v4(), name);
    check!(must!(sock.name()).to_v4(), name);
}

fn bind_restart() {
    let first = B.socket();
    reuse(&first);
    must!(first.bind(&B.at(0)));
    must!(first.listen(4));
    let at = must!(first.name());
    let (open, open_server) = pair_of(&first, &at);
    let (closed, closed_server) = pair_of(&first, &at);

    step!("the server ends one connection first, and its listener");
    drop(closed_server);
    check!(closed.recv(&mut [0], 0), Ok(0));
    drop(closed);
    drop(first);

    step!("starts again");
    let second = B.socket();
    reuse(&second);
    check!(second.bind(&at), Ok(()));
    check!(second.listen(4), Ok(()));
    let (client, server) = pair_of(&second, &at);
    check!(client.send(b"new", 0), Ok(3));
    check!(server.recv_bytes(3), Ok(b"new".to_vec()));

    step!("the old connection goes on");
    check!(open.send(b"old", 0), Ok(3));
    check!(open_server.recv_bytes(3), Ok(b"old".to_vec()));
}
