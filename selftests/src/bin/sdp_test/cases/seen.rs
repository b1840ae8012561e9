// SPDX-License-Identifier: GPL-2.0

//! What `sock_diag` and `/proc/net` tell of sockets, and how an administrator ends them.

use crate::{
    config::{
        self,
        moment,
        patience,
        v6, //
    },
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
        becomes,
        family,
        iwarp,
        pair,
        pair_of,
        sdp_only,
        A,
        B, //
    },
};
use sdp_selftests::{
    diag::{
        self,
        state,
        Diag,
        Filter,
        Id,
        Socket,
        ANY_COOKIE, //
    },
    errno::Errno,
    sock::{
        Addr,
        Shut,
        Sock, //
    },
};
use std::{
    collections::HashSet,
    fs,
    iter,
    mem,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr, //
    },
    ops::Range,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    time::{
        Duration,
        Instant, //
    }, //
};

cases! {
    seen_states(20) "sock_diag: the states of a listener, a connection, and halves that were closed",
    seen_identity(10) "sock_diag: the addresses, owner, inode and cookie of a socket",
    seen_queues(10) "sock_diag: bytes that wait to be read, and connections that wait for accept",
    seen_info(10) "sock_diag: INET_DIAG_INFO has what TCP_INFO gives",
    seen_unaccepted(10) "sock_diag: a connection before accept() has no inode, and its cookie stays",
    seen_orphan(20) "sock_diag: a connection of a closed socket has no inode, and its owner stays",
    seen_bound(10) "sock_diag: sockets that are bound and no more, to who asks for them",
    seen_filter(10) "sock_diag: states and ports filter a dump; requests that are wrong",
    seen_bytecode(10) "sock_diag: filters of byte code, right and wrong",
    seen_find(10) "sock_diag: one socket by its addresses and its cookie",
    seen_unprivileged(10) "sock_diag: what a user without capabilities sees, and may not do",
    seen_destroy(20) "SOCK_DESTROY: ECONNABORTED for a connection, in every state",
    seen_connecting(20) "sock_diag: a connect has its port from when it is first seen",
    seen_destroy_listener(10) "SOCK_DESTROY: a listener listens no more",
    seen_namespace(10) "sock_diag and /proc/net: the sockets of one namespace are not another's",
    seen_many(60) "sock_diag: a long dump has each socket once, while others come and go",
    seen_proc(10) "/proc/net/sdp: a listener and a connection, in the columns of old tools",
    seen_proc_many(30) "/proc/net/sdp: a long file has each socket once",
    seen_protocols(10) "/proc/net/protocols counts the sockets of a namespace",
}

/// What sock_diag gives.
fn diag() -> Diag {
    must!(Diag::new())
}

/// An address as sock_diag has it.
fn end(addr: &Addr) -> SocketAddr {
    if v6() {
        SocketAddr::V6(addr.to_v6())
    } else {
        SocketAddr::V4(addr.to_v4())
    }
}

/// No address, with a port.
fn unspecified(port: u16) -> SocketAddr {
    if v6() {
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    }
}

/// Listeners of B, each at a port of its own.
fn listen_all(count: usize) -> Vec<Sock> {
    let listen = || {
        let sock = B.socket();
        if v6() {
            // On iWARP a listener of both versions is charged twice for what devices queue.
            must!(sock.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1));
        }
        must!(sock.listen(1));
        sock
    };
    iter::repeat_with(listen).take(count).collect()
}

fn name(sock: &Sock) -> SocketAddr {
    end(&must!(sock.name()))
}

fn cookie(sock: &Sock) -> u64 {
    must!(sock.cookie())
}

fn inode(sock: &Sock) -> u32 {
    // SAFETY: All-zero bytes are a valid `stat`, and `fstat()` writes one.
    let stat = unsafe {
        let mut stat: libc::stat = mem::zeroed();
        must!(Errno::check(libc::fstat(sock.fd(), &mut stat)));
        stat
    };
    stat.st_ino as u32
}

/// The sockets here that are at a port.
fn at_port(diag: &Diag, port: u16) -> Vec<Socket> {
    let filter = Filter {
        local_port: port,
        ..Filter::states(state::ALL)
    };
    must!(diag.dump(family(), &filter))
}

/// The one here whose ends are those of `sock`.
fn seen(diag: &Diag, sock: &Sock) -> Option<Socket> {
    let (local, peer) = (name(sock), end(&must!(sock.peer())));
    let mut all = at_port(diag, local.port()).into_iter();
    all.find(|socket| socket.id.local == local && socket.id.peer == peer)
}

fn expect_state(diag: &Diag, sock: &Sock, state: u8) {
    let is = || seen(diag, sock).map(|socket| socket.state);
    becomes(patience(5), || is() == Some(state));
    check!(is(), Some(state));
}

fn seen_states() {
    let (listener, addr) = B.listen();
    let there = diag();
    let listening = at_port(&there, addr.to_v4().port());
    check!(listening.len(), 1);
    check!(listening[0].state, state::LISTEN);
    check!(listening[0].state_name(), "LISTEN");
    check!(listening[0].id.peer.port(), 0);
    let (a, b) = pair_of(&listener, &addr);
    A.enter();
    let here = diag();
    expect_state(&here, &a, state::ESTABLISHED);
    expect_state(&there, &b, state::ESTABLISHED);
    must!(a.shutdown(Shut::Write));
    expect_state(&here, &a, state::FIN_WAIT2);
    expect_state(&there, &b, state::CLOSE_WAIT);
    let shut = |diag: &Diag, sock: &Sock| {
        let seen = seen(diag, sock).expect("it is there");
        seen.attribute(diag::SHUTDOWN).map(<[u8]>::to_vec)
    };
    check!(shut(&here, &a), Some(vec![2]));
    check!(shut(&there, &b), Some(vec![1]));
    must!(b.shutdown(Shut::Write));
    check!(a.recv_to_end(), Ok(vec![]));
    check!(becomes(patience(5), || a.peer().is_err()), true);
    drop((a, b));
    // In SYN-SENT, since nobody answers there.
    let lonely = A.socket();
    must!(lonely.set_nonblocking(true));
    let to = crate::peers::addr(Ipv4Addr::new(10, 27, 0, 77), 7);
    check!(lonely.connect(&to), Err(Errno::EINPROGRESS));
    let filter = Filter {
        peer_port: 7,
        ..Filter::states(state::bit(state::SYN_SENT))
    };
    let all = must!(here.dump(family(), &filter));
    let found = all.iter().find(|socket| socket.id.peer == end(&to));
    check!(found.map(|socket| socket.inode), Some(inode(&lonely)));
    drop(lonely);
    check!(
        becomes(patience(5), || must!(here.dump(family(), &filter))
            .is_empty()),
        true
    );
}

fn seen_identity() {
    let (a, b) = pair();
    let there = B.visit(diag);
    A.enter();
    let here = diag();
    for (diag, sock) in [(&here, &a), (&there, &b)] {
        let seen = seen(diag, sock).expect("it is there");
        check!(seen.family, family());
        check!(seen.inode, inode(sock));
        check!(seen.id.cookie, cookie(sock));
        check!(seen.uid, 0);
        check!(seen.id.interface, 0);
    }
    let listener = A.socket();
    // SAFETY: `fchown()` takes no memory.
    must!(Errno::check(unsafe {
        libc::fchown(listener.fd(), 1000, 1000)
    }));
    must!(listener.listen(1));
    let port = must!(listener.name()).to_v4().port();
    let seen = &at_port(&here, port)[0];
    check!(seen.uid, 1000);
    check!(seen.id.cookie, cookie(&listener));
    check!(seen.inode, inode(&listener));
    check!(seen.id.local, unspecified(port));
}

fn seen_queues() {
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(5));
    let addr = must!(listener.name());
    let port = addr.to_v4().port();
    let there = diag();
    let backlog = || {
        let all = at_port(&there, port);
        let listening = all.iter().find(|socket| socket.state == state::LISTEN);
        listening.map(|socket| (socket.recv_queue, socket.send_queue))
    };
    check!(backlog(), Some((0, 5)));
    let a = A.connect(&addr);
    let _other = A.connect(&addr);
    becomes(patience(5), || backlog() == Some((2, 5)));
    check!(backlog(), Some((2, 5)));
    let b = must!(listener.accept());
    check!(backlog(), Some((1, 5)));

    let unread = || seen(&there, &b).map(|socket| socket.recv_queue);
    check!(unread(), Some(0));
    must!(a.send_all(&[1; 3000]));
    must!(a.send_all(&[2; 2000]));
    becomes(patience(5), || unread() == Some(5000));
    check!(unread(), Some(5000));
    check!(b.recv_bytes(1000).map(|bytes| bytes.len()), Ok(1000));
    check!(unread(), Some(4000));
    check!(b.recv(&mut [0; 100], libc::MSG_PEEK), Ok(100));
    check!(unread(), Some(4000));
    check!(b.recv_bytes(4000).map(|bytes| bytes.len()), Ok(4000));
    check!(unread(), Some(0));

    // What the peer has no room for stays here.
    must!(a.set_nonblocking(true));
    while a.send(&[3; 1 << 16], 0).is_ok() {}
    A.enter();
    let here = diag();
    check!(
        seen(&here, &a).is_some_and(|socket| socket.send_queue > 0),
        true
    );
}

fn seen_info() {
    const BYTES_ACKED: usize = 120;
    const BYTES_RECEIVED: usize = 128;
    const LAST: Range<usize> = 44..60;
    let (listener, addr) = B.listen();
    let (a, b) = pair_of(&listener, &addr);
    check!(a.send(&[1; 3000], 0), Ok(3000));
    check!(b.recv_bytes(1000).map(|bytes| bytes.len()), Ok(1000));
    assert!(becomes(patience(5), || a.ioctl(libc::TIOCOUTQ) == Ok(0)));
    B.enter();
    let there = diag();
    A.enter();
    let here = diag();
    let info = |from: &Diag, sock: &Sock| {
        let filter = Filter {
            local_port: name(sock).port(),
            attributes: &[diag::INFO],
            ..Filter::states(state::bit(state::ESTABLISHED))
        };
        let all = must!(from.dump(family(), &filter));
        let found = all.iter().find(|socket| socket.id.local == name(sock));
        let id = found.expect("it is listed").id;
        let one = must!(from.find(family(), &id, &[diag::INFO]));
        let [dumped, found] = [found, Some(&one)]
            .map(|socket| socket.and_then(|socket| socket.attribute(diag::INFO)));
        check!(dumped.map(<[u8]>::len), found.map(<[u8]>::len));
        found.expect("it has the attribute").to_vec()
    };
    let number = |info: &[u8], at: usize| {
        let bytes = info.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_ne_bytes(bytes.expect("it is long enough"))
    };
    let (of_a, of_b) = (info(&here, &a), info(&there, &b));
    check!((of_a[0], of_b[0]), (state::ESTABLISHED, state::ESTABLISHED));
    // One more, for the SYN.
    check!(number(&of_a, BYTES_ACKED), 3001);
    check!(number(&of_b, BYTES_RECEIVED), 3000);
    if !config::tcp() {
        let mut room = [0u8; 512];
        for (sock, seen) in [(&a, of_a), (&b, of_b)] {
            let len = must!(sock.get_bytes(libc::SOL_TCP, libc::TCP_INFO, &mut room));
            // The times since something happened go on.
            room[LAST].fill(0);
            let mut seen = seen;
            seen[LAST].fill(0);
            check!(&seen[..], &room[..len]);
        }
    }
    let filter = Filter {
        local_port: name(&listener).port(),
        attributes: &[diag::INFO],
        ..Filter::states(state::bit(state::LISTEN))
    };
    let _waits = A.connect(&addr);
    assert!(becomes(patience(5), || {
        let all = must!(there.dump(family(), &filter));
        let info = all.first().and_then(|socket| socket.attribute(diag::INFO));
        // tcpi_state, and tcpi_unacked: what waits for accept.
        info.is_some_and(|info| (info[0], info[24]) == (state::LISTEN, 1))
    }));
}

fn seen_unaccepted() {
    let (listener, addr) = B.listen();
    let there = diag();
    let a = A.connect(&addr);
    let is_it = |socket: &Socket| socket.id.peer == name(&a) && socket.id.local == end(&addr);
    let find = || at_port(&there, addr.to_v4().port()).into_iter().find(is_it);
    becomes(patience(5), || {
        find().is_some_and(|socket| socket.state == state::ESTABLISHED)
    });
    let before = find().expect("it is there before accept()");
    check!(before.state, state::ESTABLISHED);
    check!(before.inode, 0);
    let b = must!(listener.accept());
    let after = find().expect("it is there after accept()");
    check!(after.inode, inode(&b));
    check!(after.id, before.id);
    check!(cookie(&b), before.id.cookie);
}

fn seen_orphan() {
    let (a, b) = pair();
    A.enter();
    let here = diag();
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 20));
    // SAFETY: `fchown()` takes no memory.
    must!(Errno::check(unsafe { libc::fchown(a.fd(), 1000, 1000) }));
    must!(a.set_nonblocking(true));
    let mut sent = 0;
    while let Ok(len) = a.send(&[7; 1 << 16], 0) {
        sent += len;
    }
    let id = seen(&here, &a).expect("it is there").id;
    let find = || here.find(family(), &id, &[]);
    drop(a);
    let orphan = must!(find());
    check!(orphan.state, state::FIN_WAIT1);
    check!((orphan.inode, orphan.uid), (0, 1000));
    check!(orphan.send_queue > 0, true);
    check!(b.recv_bytes(sent).map(|bytes| bytes.len()), Ok(sent));
    drop(b);
    // TCP keeps the name for another minute.
    let is_over = || !matches!(find(), Ok(Socket { state: 1..=5, .. }));
    check!(becomes(patience(10), is_over), true);
}

fn seen_bound() {
    let sock = A.socket();
    let here = diag();
    must!(sock.bind(&A.at(0)));
    let port = name(&sock).port();
    check!(at_port(&here, port), vec![]);
    let filter = Filter {
        local_port: port,
        ..Filter::states(state::bit(state::BOUND_INACTIVE))
    };
    let bound = must!(here.dump(family(), &filter));
    check!(bound.len(), 1);
    check!(bound[0].state, state::CLOSE);
    check!(bound[0].id.local, name(&sock));
    check!(bound[0].inode, inode(&sock));
    must!(sock.listen(1));
    check!(must!(here.dump(family(), &filter)), vec![]);
    check!(at_port(&here, port).len(), 1);
    drop(sock);
    check!(at_port(&here, port), vec![]);
}

fn seen_filter() {
    let (listener, addr) = B.listen();
    let there = diag();
    let (a, _b) = pair_of(&listener, &addr);
    let port = addr.to_v4().port();
    let peer_port = name(&a).port();
    let count = |states: u32, local_port: u16, peer_port: u16| {
        let filter = Filter {
            states,
            local_port,
            peer_port,
            attributes: &[],
        };
        must!(there.dump(family(), &filter)).len()
    };
    check!(count(state::ALL, port, 0), 2);
    check!(count(state::bit(state::LISTEN), port, 0), 1);
    check!(count(state::bit(state::ESTABLISHED), port, 0), 1);
    check!(count(state::ALL, port, peer_port), 1);
    check!(count(state::ALL, port, peer_port ^ 1), 0);
    check!(count(state::bit(state::SYN_SENT), port, 0), 0);
    check!(count(0, port, 0), 0);

    let id = seen(&there, &_b).expect("it is there").id;
    let request = |protocol| diag::request(family(), protocol, &[], state::ALL, &id);
    for dump in [true, false] {
        step!("dump: {dump}");
        let right = request(libc::IPPROTO_TCP);
        check!(must!(there.raw(dump, &right)).len(), 1);
        check!(there.raw(dump, &right[..55]), Err(Errno::EINVAL));
        check!(
            there.raw(dump, &request(libc::IPPROTO_ICMP)),
            Err(Errno::ENOENT)
        );
        // A protocol beyond what the field has room for.
        let with = |protocol: u32| {
            let mut request = request(libc::IPPROTO_ICMP);
            request.extend_from_slice(&[8, 0, 3, 0]);
            request.extend_from_slice(&protocol.to_ne_bytes());
            request
        };
        check!(must!(there.raw(dump, &with(6))).len(), 1);
        check!(there.raw(dump, &with(262 + 6)), Err(Errno::ENOENT));
    }
}

/// An instruction of a filter: a code, how far to jump if it holds, and if not, and an argument.
fn instruction(code: u8, yes: usize, no: usize, argument: &[u8]) -> Vec<u8> {
    let mut bytes = vec![code, yes as u8];
    bytes.extend_from_slice(&(no as u16).to_ne_bytes());
    bytes.extend_from_slice(argument);
    bytes
}

fn seen_bytecode() {
    const S_GE: u8 = 2;
    const S_LE: u8 = 3;
    const AUTO: u8 = 6;
    const S_COND: u8 = 7;
    const D_COND: u8 = 8;
    const DEV_COND: u8 = 9;
    const MARK_COND: u8 = 10;
    const S_EQ: u8 = 11;
    const D_EQ: u8 = 12;
    const JMP: u8 = 1;
    const NOP: u8 = 0;
    let (listener, addr) = B.listen();
    let there = diag();
    let (a, _b) = pair_of(&listener, &addr);
    let (port, peer_port) = (addr.to_v4().port(), name(&a).port());
    let dump = |code: &[u8]| {
        let none = Id {
            local: end(&B.at(port)),
            peer: end(&A.at(0)),
            interface: 0,
            cookie: ANY_COOKIE,
        };
        let mut request = diag::request(family(), libc::IPPROTO_TCP, &[], state::ALL, &none);
        request.extend_from_slice(&(4 + code.len() as u16).to_ne_bytes());
        request.extend_from_slice(&diag::REQ_BYTECODE.to_ne_bytes());
        request.extend_from_slice(code);
        there.raw(true, &request).map(|found| found.len())
    };
    // One condition: 4 bytes behind the end is the jump that says no.
    let one = |code: u8, argument: &[u8]| {
        let len = 4 + argument.len();
        dump(&instruction(code, len, len + 4, argument))
    };
    let of_port = |port: u16| [[0, 0], port.to_ne_bytes()].concat();
    for (code, number, found) in [
        (S_EQ, port, 2),
        (S_EQ, port ^ 1, 0),
        (S_GE, port, 2),
        (S_GE, port + 1, 0),
        (S_LE, port, 2),
        (S_LE, port - 1, 0),
        (D_EQ, peer_port, 1),
        (D_EQ, 0, 1),
    ] {
        step!("{code} {number}");
        check!(one(code, &of_port(number)), Ok(found));
    }
    let host = |family: libc::c_int, prefix: u8, port: i32, ip: &[u8]| {
        let mut bytes = vec![family as u8, prefix, 0, 0];
        bytes.extend_from_slice(&port.to_ne_bytes());
        bytes.extend_from_slice(ip);
        bytes
    };
    let ip4 = |side: crate::peers::Side| side.ip().octets().to_vec();
    let ip = |side: crate::peers::Side| match crate::config::v6() {
        true => side.at(0).to_v6().ip().octets().to_vec(),
        false => ip4(side),
    };
    let (inet, whole) = match crate::config::v6() {
        true => (libc::AF_INET6, 128),
        false => (libc::AF_INET, 32),
    };
    for (code, argument, found) in [
        (S_COND, host(libc::AF_UNSPEC, 0, -1, &[]), 2),
        (S_COND, host(libc::AF_UNSPEC, 0, i32::from(port), &[]), 2),
        (S_COND, host(inet, whole, -1, &ip(B)), 2),
        (S_COND, host(inet, whole, -1, &ip(A)), 0),
        // They differ in the last two bits.
        (S_COND, host(inet, whole - 2, -1, &ip(A)), 2),
        (S_COND, host(inet, whole - 1, -1, &ip(A)), 0),
        (D_COND, host(inet, whole, i32::from(peer_port), &ip(A)), 1),
        (D_COND, host(inet, whole, i32::from(port), &ip(A)), 0),
        (DEV_COND, 0u32.to_ne_bytes().to_vec(), 2),
        (DEV_COND, 1u32.to_ne_bytes().to_vec(), 0),
        (MARK_COND, [0u32, 0].map(u32::to_ne_bytes).concat(), 2),
        (MARK_COND, [1u32, 1].map(u32::to_ne_bytes).concat(), 0),
        (NOP, vec![], 2),
    ] {
        step!("{code} {argument:?}");
        check!(one(code, &argument), Ok(found));
    }
    if !crate::config::v6() {
        check!(one(S_COND, &host(libc::AF_INET6, 0, -1, &[0; 16])), Ok(0));
    }
    // The port of the listener was the kernel's choice, and so is that of what it accepts.
    check!(one(AUTO, &[]), Ok(2));
    check!(one(JMP, &[]), Ok(0));

    step!("not, and, or");
    let second = |no: usize| instruction(D_EQ, 8, no, &of_port(peer_port));
    // Port S and peer P; S or P; not S.
    let both = [instruction(S_EQ, 8, 20, &of_port(port)), second(12)].concat();
    check!(dump(&both), Ok(1));
    let either = [
        instruction(S_EQ, 8, 12, &of_port(port ^ 1)),
        instruction(JMP, 4, 12, &[]),
        second(12),
    ]
    .concat();
    check!(dump(&either), Ok(1));
    let not = [
        instruction(S_EQ, 8, 12, &of_port(port)),
        instruction(JMP, 4, 8, &[]),
    ]
    .concat();
    check!(dump(&not), Ok(0));

    step!("wrong");
    for code in [
        vec![0; 3],
        instruction(200, 4, 8, &[]),
        instruction(JMP, 0, 8, &[]),
        instruction(JMP, 4, 0, &[]),
        instruction(JMP, 4, 6, &[]),
        instruction(JMP, 5, 8, &[]),
        instruction(JMP, 4, 12, &[]),
        instruction(JMP, 12, 8, &[]),
        instruction(S_EQ, 4, 8, &[]),
        instruction(S_EQ, 8, 4, &of_port(1)),
        instruction(DEV_COND, 4, 8, &[]),
        instruction(S_COND, 12, 16, &host(99, 0, -1, &[])),
        instruction(S_COND, 16, 20, &host(libc::AF_INET, 33, -1, &[0; 4])),
        instruction(S_COND, 12, 16, &host(libc::AF_INET, 0, -1, &[])),
        // Into the argument of the second.
        [
            instruction(JMP, 4, 8, &[]),
            instruction(S_EQ, 8, 12, &of_port(1)),
        ]
        .concat(),
    ] {
        step!("wrong: {code:?}");
        check!(dump(&code), Err(Errno::EINVAL));
    }
}

fn seen_find() {
    let (listener, addr) = B.listen();
    let there = diag();
    let (_a, b) = pair_of(&listener, &addr);
    let id = seen(&there, &b).expect("it is there").id;
    let find = |id: &Id| there.find(family(), id, &[]).map(|socket| socket.id);
    check!(find(&id), Ok(id));
    let any = Id {
        cookie: ANY_COOKIE,
        ..id
    };
    check!(find(&any), Ok(id));
    let other = Id {
        cookie: id.cookie ^ 1,
        ..id
    };
    check!(find(&other), Err(Errno::ENOENT));
    let listening = Id {
        peer: end(&A.at(1)),
        cookie: ANY_COOKIE,
        ..id
    };
    check!(
        find(&listening).map(|found| found.cookie),
        Ok(cookie(&listener))
    );
    let mut nobody = listening;
    nobody.local.set_port(id.local.port() ^ 1);
    check!(find(&nobody), Err(Errno::ENOENT));
    // What is asked for is there, and what is not is not.
    let asked = must!(there.find(family(), &id, &[diag::MEMINFO, diag::SKMEMINFO, diag::TOS]));
    check!(asked.words(diag::MEMINFO).len(), 4);
    check!(asked.words(diag::SKMEMINFO).len(), 9);
    check!(asked.attribute(diag::TOS).map(<[u8]>::len), Some(1));
    check!(asked.attribute(diag::MARK).map(<[u8]>::len), Some(4));
    check!(asked.attribute(diag::CGROUP_ID).map(<[u8]>::len), Some(8));
    // Options of IP, in the order of the structure: this one is `freebind`.
    let flags = |socket: &Socket| socket.attribute(diag::SOCKOPT).map(<[u8]>::to_vec);
    let mc_all = if config::v6() { 0 } else { 0b0100_0000 };
    check!(flags(&asked), Some(vec![0b0001_0010 | mc_all, 0]));
    must!(b.set(libc::SOL_IP, libc::IP_FREEBIND, 1));
    let plain = must!(there.find(family(), &id, &[]));
    check!(flags(&plain), Some(vec![0b0001_0110 | mc_all, 0]));
    check!(plain.attribute(diag::CONG), None);
    let asked = must!(there.find(family(), &id, &[diag::CONG]));
    check!(asked.attribute(diag::CONG).is_some(), true);
    must!(b.set(libc::SOL_TCP, libc::TCP_CONGESTION, *b"reno"));
    let asked = must!(there.find(family(), &id, &[diag::CONG]));
    check!(asked.attribute(diag::CONG), Some(&b"reno\0"[..]));
    check!((plain.timer, plain.expires), (0, 0));
    must!(b.set(libc::SOL_TCP, libc::TCP_KEEPIDLE, 100));
    must!(b.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1));
    let kept = must!(there.find(family(), &id, &[]));
    check!(kept.timer, diag::KEEPALIVE);
    check!((90_000..=100_000).contains(&kept.expires), true);
    check!(plain.attribute(diag::MEMINFO), None);
    check!(plain.attribute(diag::TOS), None);
}

fn seen_unprivileged() {
    let (listener, addr) = B.listen();
    let (_a, b) = pair_of(&listener, &addr);
    let there = B.visit(diag);
    let seen_before = seen(&there, &b).expect("it is there");
    B.enter();
    let child = Child::start(|| {
        // SAFETY: `setresuid()` and `setresgid()` take no memory; this process has one thread.
        unsafe {
            must!(Errno::check(libc::setresgid(1000, 1000, 1000)));
            must!(Errno::check(libc::setresuid(1000, 1000, 1000)));
        }
        let diag = diag();
        let seen = seen(&diag, &b).expect("it is there");
        check!(
            (seen.uid, seen.inode, seen.id),
            (0, seen_before.inode, seen_before.id)
        );
        check!(seen.attribute(diag::MARK), None);
        check!(diag.destroy(family(), &seen.id), Err(Errno::EPERM));
        check!(b.send(b"still", 0), Ok(5));
    });
    check!(child.wait(), 0);
    check!(
        seen_before.attribute(diag::MARK).map(<[u8]>::to_vec),
        Some(vec![0; 4])
    );
}

fn seen_destroy() {
    let (a, b) = pair();
    let there = B.visit(diag);
    A.enter();
    let here = diag();
    let id = |diag: &Diag, sock: &Sock| seen(diag, sock).expect("it is there").id;
    let a_id = id(&here, &a);

    step!("a connection, with a reader that waits");
    let reader = spawn("reader", {
        let a = must!(a.dup());
        move || a.recv(&mut [0], 0)
    });
    std::thread::sleep(moment());
    check!(here.destroy(family(), &a_id), Ok(()));
    check!(join(reader), Err(Errno::ECONNABORTED));
    check!(here.destroy(family(), &a_id), Err(Errno::ENOENT));
    check!(a.recv(&mut [0], 0), Ok(0));
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    check!(a.peer().map(drop), Err(Errno::ENOTCONN));
    check!(b.recv(&mut [0], 0), Err(Errno::ECONNRESET));

    step!("SO_ERROR and poll()");
    let (a, _b) = pair();
    check!(here.destroy(family(), &id(&here, &a)), Ok(()));
    let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    check!(
        a.poll(events, Duration::ZERO),
        Ok(events | libc::POLLERR | libc::POLLHUP)
    );
    check!(a.error(), Err(Errno::ECONNABORTED));
    check!(a.error(), Ok(()));

    step!("a half that was closed");
    let (a, b) = pair();
    must!(a.shutdown(Shut::Write));
    expect_state(&there, &b, state::CLOSE_WAIT);
    check!(there.destroy(family(), &id(&there, &b)), Ok(()));
    check!(b.error(), Err(Errno::ECONNABORTED));

    step!("a connect that waits");
    let to = crate::peers::addr(Ipv4Addr::new(10, 27, 0, 77), 7);
    let waiter = spawn("connect", move || A.socket().connect(&to));
    let filter = Filter {
        peer_port: 7,
        ..Filter::states(state::bit(state::SYN_SENT))
    };
    let all = || must!(here.dump(family(), &filter));
    check!(becomes(patience(5), || !all().is_empty()), true);
    check!(here.destroy(family(), &all()[0].id), Ok(()));
    check!(join(waiter), Err(Errno::ECONNABORTED));

    step!("a connection that was not accepted yet");
    let (listener, addr) = B.listen();
    let a = A.connect(&addr);
    let child = |socket: &Socket| socket.state == state::ESTABLISHED;
    let find = || at_port(&there, addr.to_v4().port()).into_iter().find(child);
    check!(becomes(patience(5), || find().is_some()), true);
    let child = find().expect("it was there");
    check!(there.destroy(family(), &child.id), Ok(()));
    check!(a.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    let b = must!(listener.accept());
    check!(b.error(), Err(Errno::ECONNABORTED));
}

fn seen_connecting() {
    let to = crate::peers::addr(Ipv4Addr::new(10, 27, 0, 77), 7);
    let (is_seen, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let connect = || {
                let sock = A.socket();
                must!(sock.set_nonblocking(true));
                check!(sock.connect(&to), Err(Errno::EINPROGRESS));
                sock
            };
            let end = Instant::now() + patience(10);
            let mut rounds = 0;
            while rounds < 25 || !is_seen.load(Ordering::Relaxed) && Instant::now() < end {
                // A few at a time.
                drop(iter::repeat_with(connect).take(8).collect::<Vec<_>>());
                rounds += 1;
            }
            is_over.store(true, Ordering::Relaxed);
        });
        A.enter();
        let here = diag();
        let filter = Filter {
            peer_port: 7,
            ..Filter::states(state::bit(state::SYN_SENT))
        };
        while !is_over.load(Ordering::Relaxed) {
            for socket in must!(here.dump(family(), &filter)) {
                check!(socket.id.local.port() != 0, true);
                is_seen.store(true, Ordering::Relaxed);
            }
        }
    });
    check!(is_seen.into_inner(), true);
}

fn seen_destroy_listener() {
    let (mut listener, addr) = B.listen();
    if crate::config::tcp() {
        // A port that was chosen is not the socket's any more afterwards.
        drop(listener);
        listener = B.socket();
        must!(listener.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1));
        must!(listener.bind(&addr));
        must!(listener.listen(5));
    }
    let there = diag();
    let listening = at_port(&there, addr.to_v4().port())[0].id;
    let a = A.connect(&addr);
    let waiting = spawn("accept", {
        let listener = must!(listener.dup());
        move || {
            must!(listener.accept());
            listener.accept().map(drop)
        }
    });
    std::thread::sleep(moment());
    check!(there.destroy(family(), &listening), Ok(()));
    check!(join(waiting), Err(Errno::EINVAL));
    check!(there.destroy(family(), &listening), Err(Errno::ENOENT));
    check!(listener.error(), Err(Errno::ECONNABORTED));
    A.enter();
    check!(A.socket().connect(&addr), Err(Errno::ECONNREFUSED));
    drop(a);
    // The address is the socket's still.
    check!(listener.name().map(|name| name.to_v4()), Ok(addr.to_v4()));
    check!(listener.listen(1), Ok(()));
    if iwarp() {
        // Whether a device there takes requests again at once is not known.
        return;
    }
    let again = A.socket();
    check!(again.connect(&addr), Ok(()));
    must!(listener.accept());
}

fn seen_namespace() {
    let (listener, addr) = B.listen();
    let port = addr.to_v4().port();
    check!(at_port(&diag(), port).len(), 1);
    A.enter();
    check!(at_port(&diag(), port), vec![]);
    drop(listener);
}

fn seen_many() {
    sdp_only("TCP may miss one while others come and go");
    const STABLE: usize = 600;
    B.enter();
    let stable = listen_all(STABLE);
    let ports: HashSet<_> = stable.iter().map(|sock| name(sock).port()).collect();
    check!(ports.len(), STABLE);
    let done = Arc::new(AtomicBool::new(false));
    let churners: Vec<_> = (0..2)
        .map(|_| {
            let done = done.clone();
            spawn("churn", move || {
                B.enter();
                let mut some = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let sock = B.socket();
                    must!(sock.listen(1));
                    some.push(sock);
                    if some.len() > 20 {
                        some.clear();
                    }
                }
            })
        })
        .collect();
    let there = diag();
    for round in 0..crate::config::rounds(20, 3) {
        step!("dump {round}");
        let all = must!(there.dump(family(), &Filter::states(state::ALL)));
        let seen: Vec<_> = all
            .iter()
            .map(|socket| socket.id.local.port())
            .filter(|port| ports.contains(port))
            .collect();
        check!(seen.len(), STABLE);
        check!(seen.iter().collect::<HashSet<_>>().len(), STABLE);
        let cookies: HashSet<_> = all.iter().map(|socket| socket.id.cookie).collect();
        check!(cookies.len(), all.len());
    }
    done.store(true, Ordering::Relaxed);
    churners.into_iter().for_each(join);
}

/// The words of the lines in a file below `/proc/net` of this thread's namespace, but for the
/// first.
fn lines(file: &str) -> Vec<Vec<String>> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = must!(fs::read_to_string(path).map_err(Errno::from));
    let words = |line: &str| line.split_whitespace().map(String::from).collect();
    text.lines().skip(1).map(words).collect()
}

/// An address as such files have it.
fn hex(addr: SocketAddr) -> String {
    let bytes = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        format!("{word:08X}")
    });
    format!("{}:{:04X}", words.collect::<String>(), addr.port())
}

fn seen_proc() {
    sdp_only("TCP's file has other columns");
    let (listener, addr) = B.listen();
    let (a, b) = pair_of(&listener, &addr);
    must!(a.send_all(&[1; 300]));
    let there = B.visit(diag);
    becomes(patience(5), || {
        seen(&there, &b).is_some_and(|socket| socket.recv_queue == 300)
    });
    B.enter();
    let nobody = unspecified(0);
    let find = |peer: SocketAddr| {
        let (local, peer) = (hex(end(&addr)), hex(peer));
        let mut lines = lines("sdp").into_iter();
        let line = lines.find(|line| line[1] == local && line[2] == peer);
        line.map(|line| line[3..].to_vec())
    };
    check!(
        find(name(&a)),
        Some(vec![
            "0".into(),
            inode(&b).to_string(),
            "0000012C:00000000".into(),
            "01".into()
        ])
    );
    check!(
        find(nobody),
        Some(vec![
            "0".into(),
            inode(&listener).to_string(),
            "00000000:00000080".into(),
            "0A".into()
        ])
    );
    // Not those that are bound and no more.
    let bound = B.socket();
    must!(bound.bind(&B.at(0)));
    let local = hex(name(&bound));
    check!(lines("sdp").iter().any(|line| line[1] == local), false);
    A.enter();
    let local = hex(name(&a));
    check!(
        lines("sdp").iter().any(|line| line[1] == local
            && line[2] == hex(end(&addr))
            && line[4] == inode(&a).to_string()),
        true
    );
}

fn seen_proc_many() {
    sdp_only("TCP's file has other columns");
    let listeners = listen_all(500);
    B.enter();
    let seen: Vec<_> = lines("sdp")
        .into_iter()
        .map(|line| line[1].clone())
        .collect();
    let wanted: HashSet<_> = listeners.iter().map(|sock| hex(name(sock))).collect();
    let found: Vec<_> = seen
        .iter()
        .filter(|local| wanted.contains(*local))
        .collect();
    check!(found.len(), 500);
    check!(found.iter().collect::<HashSet<_>>().len(), 500);
    drop(listeners);
    check!(
        lines("sdp").iter().any(|line| wanted.contains(&line[1])),
        false
    );
}

fn seen_protocols() {
    // TCP counts those only that are bound or connected.
    let protocol = match (crate::config::tcp(), v6()) {
        (true, false) => "TCP",
        (true, true) => "TCPv6",
        (false, false) => "SDP",
        (false, true) => "SDPv6",
    };
    let count = || -> usize {
        let lines = lines("protocols");
        let line = lines.iter().find(|line| line[0] == protocol);
        must!(line.expect("the protocol is there")[2].parse())
    };
    B.enter();
    let before = count();
    let listeners = listen_all(7);
    check!(count(), before + 7);
    A.enter();
    let elsewhere = count();
    drop(listeners);
    check!(count(), elsewhere);
    B.enter();
    check!(count(), before);
}
