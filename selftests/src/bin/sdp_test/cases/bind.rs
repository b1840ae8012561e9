// SPDX-License-Identifier: GPL-2.0

//! `bind()`: ports and addresses.

use super::connect::allow_files;
use crate::{
    bpf,
    config::{
        self,
        moment,
        tcp,
        v6,
        volume, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        skip,
        spawn,
        step,
        Child, //
    },
    peers::{
        addr,
        command,
        eventually,
        family,
        iwarp,
        pair_of,
        sdp_only,
        v4_only,
        Setting,
        Side,
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
        Addr,
        Shut,
        Sock,
        AF_INET_SDP, //
    },
};
use std::{
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    os::fd::{
        AsRawFd,
        OwnedFd, //
    },
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
    bind_loopback_again(30) "and each that asks again is told so at once",
    bind_shared(10) "SO_REUSEADDR of both: an address may be bound twice, and one may listen there",
    bind_listen_fails(20) "a listen() that fails because another listens takes no connection from that",
    bind_kept(10) "a listener that was shut down keeps its port, and listens again",
    bind_range(20) "port 0 gives one of ip_local_port_range, and none of ip_local_reserved_ports",
    bind_range_connect(20) "connect() too gets a port of those, and gives it back",
    bind_unprivileged(10) "net.ipv4.ip_unprivileged_port_start says which ports are privileged",
    bind_privileges_dropped(10) "a privileged port that was bound is listened on, and connected from, without them",
    bind_reuseport(20) "SO_REUSEPORT of all: they listen at one address, and share what comes",
    bind_reuseport_program(30) "SO_ATTACH_REUSEPORT_CBPF and _EBPF: the program of a group selects the listener",
    bind_reuseport_most(30) "SO_REUSEPORT: 1024 sockets share a port, and no more",
    bind_reuseport_rules(10) "SO_REUSEPORT: not beside one that has it not, nor of another user",
    bind_device(20) "SO_BINDTODEVICE: a listener hears its interface alone, and two share a port",
    bind_device_source(20) "SO_BINDTODEVICE: connect() goes by the interface",
    bind_nonlocal(20) "ip_nonlocal_bind: a listener at an address that comes later",
    bind_foreign(20) "IP_FREEBIND and IP_TRANSPARENT: an address that is not here, from which nothing connects",
    bind_own_range(20) "IP_LOCAL_PORT_RANGE: bind() and connect() choose of the socket's own ports",
    bind_without_port(20) "IP_BIND_ADDRESS_NO_PORT: connect() and listen() choose the port",
    bind_mark(5) "SO_MARK is refused, since routes are looked for without it",
    bind_last_error(20) "SDP_LAST_BIND_ERR tells why the last bind() failed",
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

fn bind_loopback_again() {
    let listener = B.socket();
    must!(listener.bind(&addr(Ipv4Addr::LOCALHOST, 0)));
    must!(listener.listen(1));
    let port = must!(listener.name()).to_v4().port();
    // On iWARP the device takes a QP down before the CM tells of the refusal.
    for round in 0..config::rounds(200, 10) {
        step!("round {round}");
        check!(A.socket().connect(&B.at(port)), Err(Errno::ECONNREFUSED));
    }
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

fn bind_range_connect() {
    if iwarp() {
        skip("siw connects from A alone");
    }
    let _range = Setting::new("ipv4/ip_local_port_range", "40000 40007");
    let _reserved = Setting::new("ipv4/ip_local_reserved_ports", "40000-40005");
    let (listener, to) = A.listen();
    let mut pairs: Vec<_> = (0..2)
        .map(|_| {
            let client = B.connect(&to);
            (client, must!(listener.accept()))
        })
        .collect();
    let mut ports: Vec<_> = pairs
        .iter()
        .map(|(client, _)| must!(client.name()).to_v4().port())
        .collect();
    ports.sort_unstable();
    check!(ports, vec![40006, 40007]);
    check!(B.socket().connect(&to), Err(Errno::EADDRNOTAVAIL));
    step!("one goes");
    let (client, server) = pairs.remove(0);
    let port = must!(client.name()).to_v4().port();
    // The end that closes last has no TIME_WAIT.
    drop(server);
    check!(client.recv(&mut [0], 0), Ok(0));
    drop(client);
    let client = must!(eventually(moment(), || {
        let client = B.socket();
        match client.connect(&to) {
            Ok(()) => Ok(client),
            Err(Errno::EADDRNOTAVAIL) => Err(Errno::EAGAIN),
            Err(error) => Err(error),
        }
    }));
    check!(must!(client.name()).to_v4().port(), port);
    step!("a connection that is not made keeps none");
    drop(client);
    let nobody = must!(eventually(moment(), || {
        match B.socket().connect(&A.at(1)) {
            Err(Errno::EADDRNOTAVAIL) => Err(Errno::EAGAIN),
            result => Ok(result),
        }
    }));
    check!(nobody, Err(Errno::ECONNREFUSED));
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

fn reuseport(sock: &Sock) {
    must!(sock.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1));
    check!(sock.get(libc::SOL_SOCKET, libc::SO_REUSEPORT), Ok(1));
}

fn bind_reuseport() {
    let mut port = 0;
    let mut listeners: Vec<_> = (0..config::rounds(4, 2))
        .map(|_| {
            let sock = B.socket();
            reuseport(&sock);
            must!(sock.bind(&B.at(port)));
            must!(sock.listen(128));
            must!(sock.set_nonblocking(true));
            port = must!(sock.name()).to_v4().port();
            sock
        })
        .collect();
    let clients: Vec<_> = (0..config::rounds(64, 26))
        .map(|_| A.connect(&B.at(port)))
        .collect();
    let accept = |listener: &Sock| {
        let mut accepted = Vec::new();
        while let Ok(sock) = eventually(moment(), || listener.accept()) {
            check!(sock.get(libc::SOL_SOCKET, libc::SO_REUSEPORT), Ok(1));
            accepted.push(sock);
        }
        accepted
    };
    let accepted: Vec<_> = listeners.iter().map(accept).collect();
    // That one gets none has a probability below 10^-7.
    assert!(accepted.iter().all(|accepted| !accepted.is_empty()));
    check!(accepted.iter().map(Vec::len).sum(), clients.len());
    step!("one of them goes");
    listeners.pop();
    let clients: Vec<_> = (0..config::rounds(16, 4))
        .map(|_| A.connect(&B.at(port)))
        .collect();
    check!(
        listeners.iter().map(|one| accept(one).len()).sum(),
        clients.len()
    );
}

/// `SO_ATTACH_REUSEPORT_CBPF`: a classic program of these instructions.
fn attach_classic(sock: &Sock, program: &[libc::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: The program outlives the call.
    Errno::check(unsafe {
        libc::setsockopt(
            sock.fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    })
    .map(drop)
}

const fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// `return k`.
const fn always(k: u32) -> libc::sock_filter {
    filter(libc::BPF_RET | libc::BPF_K, 0, 0, k)
}

/// Returns 2 for a SYN that asks for `port`, and otherwise 0.
fn asks_for(port: u16) -> Vec<libc::sock_filter> {
    let ip = if v6() { 40 } else { 20 };
    let (half, byte) = (libc::BPF_LD | libc::BPF_H, libc::BPF_LD | libc::BPF_B);
    let net = libc::SKF_NET_OFF as u32;
    let unless = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    vec![
        filter(half | libc::BPF_ABS, 0, 0, net + ip + 2),
        filter(unless, 0, 3, port.into()),
        filter(byte | libc::BPF_ABS, 0, 0, net + ip + 13),
        filter(unless, 0, 1, 2),
        always(2),
        always(0),
    ]
}

fn bind_reuseport_program() {
    const SOCKET_FILTER: u32 = 1;
    const SK_REUSEPORT: u32 = 21;
    let option = |sock: &Sock, name, value: i32| sock.set(libc::SOL_SOCKET, name, value);
    let attach = |sock: &Sock, program: &OwnedFd| {
        option(sock, libc::SO_ATTACH_REUSEPORT_EBPF, program.as_raw_fd())
    };
    let detach = |sock: &Sock| option(sock, libc::SO_DETACH_REUSEPORT_BPF, 0);
    check!(
        attach_classic(&B.socket(), &[always(1)]),
        Err(Errno::EINVAL)
    );
    check!(detach(&B.socket()), Err(Errno::EINVAL));
    let mut port = 0;
    let bound = |port: &mut u16| {
        let sock = B.socket();
        reuseport(&sock);
        must!(sock.bind(&B.at(*port)));
        *port = must!(sock.name()).to_v4().port();
        sock
    };
    let listens = |sock: &Sock| {
        must!(sock.listen(16));
        must!(sock.set_nonblocking(true));
    };
    let first = bound(&mut port);
    check!(detach(&first), Err(Errno::ENOENT));
    step!("the program that begins the group");
    check!(attach_classic(&first, &[always(1)]), Ok(()));
    listens(&first);
    let (second, third) = (bound(&mut port), bound(&mut port));
    step!("one that has its own program joins no group");
    let other = bound(&mut port);
    check!(attach_classic(&other, &[always(0)]), Ok(()));
    check!(other.listen(16), Err(Errno::EADDRINUSE));
    drop(other);
    let other = B.socket();
    reuseport(&other);
    check!(attach_classic(&other, &[always(0)]), Ok(()));
    check!(other.bind(&B.at(port)), Err(Errno::EADDRINUSE));
    drop(other);
    listens(&second);
    listens(&third);
    let all = [&first, &second, &third];
    // Who gets each of some connections.
    let taken = |all: &[&Sock]| -> Vec<usize> {
        let one = |_| {
            let _client = A.connect(&B.at(port));
            let mut to = None;
            eventually(moment() * 20, || {
                to = all.iter().position(|listener| listener.accept().is_ok());
                to.ok_or(Errno::EAGAIN)
            })
            .unwrap_or(usize::MAX)
        };
        (0..6).map(one).collect()
    };
    check!(taken(&all), vec![1; 6]);
    step!("another");
    check!(attach_classic(&third, &[always(2)]), Ok(()));
    check!(taken(&all), vec![2; 6]);
    step!("it sees the SYN");
    check!(attach_classic(&third, &asks_for(port)), Ok(()));
    check!(taken(&all), vec![2; 6]);
    check!(attach_classic(&third, &asks_for(port ^ 1)), Ok(()));
    check!(taken(&all), vec![0; 6]);
    step!("a program of eBPF");
    let program = bpf::load(SOCKET_FILTER, 0, &bpf::end(1));
    check!(attach(&first, &program), Ok(()));
    drop(program);
    check!(taken(&all), vec![1; 6]);
    step!("it selects nobody");
    check!(attach_classic(&first, &[always(3)]), Ok(()));
    assert!(taken(&all).iter().all(|to| *to < 3));
    step!("one of a group without one of its members");
    check!(attach_classic(&first, &[always(1)]), Ok(()));
    drop(second);
    check!(taken(&[&first, &third]), vec![1; 6]);
    must!(third.shutdown(Shut::Read));
    check!(taken(&[&first]), vec![0; 6]);
    step!("no program");
    check!(detach(&first), Ok(()));
    check!(detach(&first), Err(Errno::ENOENT));
    check!(taken(&[&first]), vec![0; 6]);
    step!("one that selects by a map");
    let program = bpf::load(SK_REUSEPORT, 39, &bpf::end(1));
    let expected = match config::tcp() {
        true => Ok(()),
        // Only sockets of TCP and UDP may be in such a map.
        false => Err(Errno::EOPNOTSUPP),
    };
    check!(attach(&first, &program), expected);
    check!(taken(&[&first]), vec![0; 6]);
}

fn bind_reuseport_most() {
    sdp_only("TCP finds them by tables");
    if config::slow() {
        skip("each is compared with all others");
    }
    allow_files(2048);
    let mut port = 0;
    let bind = |port| {
        let sock = B.socket();
        reuseport(&sock);
        sock.bind(&B.at(port)).map(|()| sock)
    };
    let socks: Vec<Sock> = (0..1024)
        .map(|_| {
            let sock = must!(bind(port));
            port = must!(sock.name()).to_v4().port();
            sock
        })
        .collect();
    check!(bind(port).map(drop), Err(Errno::EADDRINUSE));
    drop(socks);
    check!(bind(port).map(drop), Ok(()));
}

fn bind_reuseport_rules() {
    let first = B.socket();
    must!(first.bind(&B.at(0)));
    let at = must!(first.name());
    let second = B.socket();
    reuseport(&second);
    step!("one of them does not want it");
    check!(second.bind(&at), Err(Errno::EADDRINUSE));
    step!("both want it");
    reuseport(&first);
    check!(second.bind(&at), Ok(()));
    must!(first.listen(1));
    check!(second.listen(1), Ok(()));
    let any = addr(Ipv4Addr::UNSPECIFIED, at.to_v4().port());
    let third = B.socket();
    reuseport(&third);
    check!(third.bind(&any), Ok(()));
    check!(third.listen(1), Ok(()));
    step!("the certain address comes first");
    let client = A.connect(&at);
    must!(third.set_nonblocking(true));
    check!(third.accept().map(drop), Err(Errno::EAGAIN));
    drop(client);
    step!("another user");
    unprivileged(B, || {
        let sock = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
        reuseport(&sock);
        check!(sock.bind(&at), Err(Errno::EADDRINUSE));
    });
    step!("one that has it no more");
    let last = B.socket();
    reuse(&last);
    check!(last.bind(&at), Err(Errno::EADDRINUSE));
}

fn bind_to(sock: &Sock, interface: &str) {
    let mut name = [0_u8; 16];
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    must!(sock.set(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name));
}

fn bind_device() {
    let any = |port| addr(Ipv4Addr::UNSPECIFIED, port);
    let outer = A.socket();
    bind_to(&outer, A.interface());
    must!(outer.bind(&any(0)));
    must!(outer.listen(8));
    let port = must!(outer.name()).to_v4().port();
    let local = addr(Ipv4Addr::LOCALHOST, port);
    step!("nobody hears the host itself");
    check!(A.socket().connect(&local), Err(Errno::ECONNREFUSED));
    step!("nobody else there hears the interface");
    let inner = A.socket();
    check!(inner.bind(&any(port)), Err(Errno::EADDRINUSE));
    bind_to(&inner, "lo");
    check!(inner.bind(&any(port)), Ok(()));
    check!(inner.listen(8), Ok(()));
    let mut pairs = vec![(A, local, &inner), (A, A.at(port), &outer)];
    if !iwarp() {
        // siw connects from A alone.
        pairs.push((B, A.at(port), &outer));
    }
    for (side, to, listener) in pairs {
        step!("{side:?} to {to:?}");
        let client = side.connect(&to);
        let server = must!(listener.accept());
        check!(client.send(b"x", 0), Ok(1));
        check!(server.recv_bytes(1), Ok(b"x".to_vec()));
    }
    step!("bound to an interface by now");
    let late = A.socket();
    must!(late.bind(&any(0)));
    must!(late.listen(8));
    let port = must!(late.name()).to_v4().port();
    drop(A.connect(&addr(Ipv4Addr::LOCALHOST, port)));
    bind_to(&late, A.interface());
    check!(
        A.socket().connect(&addr(Ipv4Addr::LOCALHOST, port)),
        Err(Errno::ECONNREFUSED)
    );
}

fn bind_device_source() {
    let (listener, to) = B.listen();
    for bound in [None, Some(Ipv4Addr::UNSPECIFIED), Some(A.ip())] {
        step!("bound to {bound:?}");
        let client = A.socket();
        bind_to(&client, A.interface());
        if let Some(ip) = bound {
            must!(client.bind(&addr(ip, 0)));
        }
        check!(client.connect(&to), Ok(()));
        check!(*must!(client.name()).to_v4().ip(), A.ip());
        must!(listener.accept());
    }
    if !tcp() && !v6() {
        step!("another interface than that of the address");
        let client = A.socket();
        bind_to(&client, "lo");
        must!(client.bind(&A.at(0)));
        check!(client.connect(&to), Err(Errno::ENODEV));
    }
}

fn bind_nonlocal() {
    v4_only("the route is of IPv4");
    let ip = Ipv4Addr::new(192, 0, 2, 7);
    check!(B.socket().bind(&addr(ip, 0)), Err(Errno::EADDRNOTAVAIL));
    let _nonlocal = Setting::new("ipv4/ip_nonlocal_bind", "1");
    let listener = B.socket();
    must!(listener.bind(&addr(ip, 0)));
    check!(listener.listen(8), Ok(()));
    let at = must!(listener.name());
    check!(*at.to_v4().ip(), ip);
    check!(B.socket().bind(&at), Err(Errno::EADDRINUSE));
    step!("the address comes");
    B.command(&["ip", "address", "add", "192.0.2.7/32", "dev", B.interface()]);
    A.command(&["ip", "route", "add", "192.0.2.7/32", "dev", A.interface()]);
    let client = A.socket();
    let connected = client.connect(&at);
    A.command(&["ip", "route", "del", "192.0.2.7/32", "dev", A.interface()]);
    let server = connected.and_then(|()| listener.accept());
    B.command(&["ip", "address", "del", "192.0.2.7/32", "dev", B.interface()]);
    check!(server.map(drop), Ok(()));
}

fn bind_foreign() {
    const IPV6_TRANSPARENT: libc::c_int = 75;
    const IPV6_FREEBIND: libc::c_int = 78;
    let foreign = addr(Ipv4Addr::new(192, 0, 2, 7), 0);
    let (level, options) = match v6() {
        true => (libc::SOL_IPV6, [IPV6_FREEBIND, IPV6_TRANSPARENT]),
        false => (libc::SOL_IP, [libc::IP_FREEBIND, libc::IP_TRANSPARENT]),
    };
    for option in options {
        let sock = B.socket();
        must!(sock.set(level, option, 1));
        check!(sock.get(level, option), Ok(1));
        must!(sock.set(level, option, 0));
        check!(sock.bind(&foreign), Err(Errno::EADDRNOTAVAIL));
        must!(sock.set(level, option, 1));
        check!(sock.bind(&foreign), Ok(()));
        check!(must!(sock.name()).to_v4().ip(), foreign.to_v4().ip());
        check!(sock.listen(1), Ok(()));
    }
    if !v6() {
        let sock = A.socket();
        must!(sock.set(level, options[0], 1));
        must!(sock.bind(&foreign));
        check!(sock.connect(&B.at(1)), Err(Errno::ENETUNREACH));
    }
}

fn bind_own_range() {
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    const PORTS: [u16; 2] = [40101, 40102];
    let limited = |side: Side| {
        let sock = side.socket();
        let range = u32::from(PORTS[0]) | (u32::from(PORTS[1]) << 16);
        must!(sock.set(libc::SOL_IP, IP_LOCAL_PORT_RANGE, range));
        sock
    };
    let ports = |socks: &[Sock]| {
        let names = socks.iter().map(|sock| must!(sock.name()));
        let mut ports: Vec<_> = names.map(|name| name.to_v4().port()).collect();
        ports.sort_unstable();
        ports
    };
    let socks = [limited(B), limited(B)];
    for sock in &socks {
        check!(sock.bind(&B.at(0)), Ok(()));
    }
    check!(ports(&socks), PORTS.to_vec());
    check!(limited(B).bind(&B.at(0)), Err(Errno::EADDRINUSE));
    check!(B.socket().bind(&B.at(0)), Ok(()));
    step!("connect");
    let (_listener, to) = B.listen();
    let clients = [limited(A), limited(A)];
    for client in &clients {
        check!(client.connect(&to), Ok(()));
    }
    check!(ports(&clients), PORTS.to_vec());
    check!(limited(A).connect(&to), Err(Errno::EADDRNOTAVAIL));
    check!(A.socket().connect(&to), Ok(()));
    step!("connect elsewhere, from the same ports");
    let (_listener, elsewhere) = B.listen();
    let others = [limited(A), limited(A)];
    for other in &others {
        check!(other.connect(&elsewhere), Ok(()));
    }
    check!(ports(&others), PORTS.to_vec());
    check!(limited(A).connect(&elsewhere), Err(Errno::EADDRNOTAVAIL));
}

fn bind_without_port() {
    let without_port = |side: Side| {
        let sock = side.socket();
        must!(sock.set(libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1));
        check!(sock.bind(&side.at(0)), Ok(()));
        check!(must!(sock.name()).to_v4(), side.at(0).to_v4());
        sock
    };
    let listener = without_port(B);
    // Again, since it has no port.
    check!(listener.bind(&B.at(0)), Ok(()));
    check!(listener.listen(4), Ok(()));
    let to = must!(listener.name()).to_v4();
    check!((*to.ip(), to.port() > 0), (B.ip(), true));
    let client = without_port(A);
    check!(client.connect(&B.at(to.port())), Ok(()));
    let from = must!(client.name()).to_v4();
    check!((*from.ip(), from.port() > 0), (A.ip(), true));
    let server = must!(listener.accept());
    check!(must!(server.peer()).to_v4(), from);
    check!(client.bind(&A.at(0)), Err(Errno::EINVAL));
    step!("what says a port gets it");
    let sock = without_port(A);
    check!(sock.bind(&A.at(from.port())), Err(Errno::EADDRINUSE));
    check!(sock.bind(&A.at(45000)), Ok(()));
    check!(must!(sock.name()).to_v4().port(), 45000);
}

fn bind_mark() {
    let sock = A.socket();
    check!(sock.set(libc::SOL_SOCKET, libc::SO_MARK, 0), Ok(()));
    let expected = match tcp() {
        true => (Ok(()), Ok(7)),
        false => (Err(Errno::EOPNOTSUPP), Ok(0)),
    };
    check!(sock.set(libc::SOL_SOCKET, libc::SO_MARK, 7), expected.0);
    check!(sock.get(libc::SOL_SOCKET, libc::SO_MARK), expected.1);
}

fn bind_last_error() {
    sdp_only("it is an option of SDP");
    const SDP_LAST_BIND_ERR: libc::c_int = 81;
    let last = |sock: &Sock| sock.get(libc::IPPROTO_TCP, SDP_LAST_BIND_ERR);
    let sock = A.socket();
    check!(last(&sock), Ok(0));
    check!(sock.bind(&B.at(0)), Err(Errno::EADDRNOTAVAIL));
    check!(last(&sock), Ok(-libc::EADDRNOTAVAIL));
    let nowhere = spawn("without a device", move || {
        // SAFETY: It is another network for this thread alone, which ends.
        check!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        command("ip", &["address", "add", "10.27.9.1/24", "dev", "lo"]);
        command("ip", &["link", "set", "lo", "up"]);
        let at = Addr::v4(
            libc::AF_INET,
            SocketAddrV4::new(Ipv4Addr::new(10, 27, 9, 1), 0),
        );
        let sock = must!(Sock::new(AF_INET_SDP, libc::SOCK_STREAM, 0));
        check!(sock.bind(&at), Err(Errno::ENODEV));
        check!(last(&sock), Ok(-libc::ENOENT));
    });
    join(nowhere);
    check!(sock.bind(&A.at(0)), Ok(()));
    check!(last(&sock), Ok(0));
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
