// SPDX-License-Identifier: GPL-2.0

//! Connections of a host with itself.

use crate::{
    config,
    harness::{
        cases,
        check,
        join,
        must,
        skip,
        spawn,
        step, //
    },
    peers::{
        addr,
        family,
        sdp_only,
        talk,
        v4_only,
        A,
        B, //
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
    net::{
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr, //
    },
    time::Duration, //
};

cases! {
    loopback_any(20) "a listener on any address is reached at each that the host has, by that name",
    loopback_names(20) "both ends know each other by the addresses that they bound and connected to",
    loopback_ports(20) "clients with one port at two addresses, to two servers with one port: nobody is mixed up",
    loopback_own(10) "listeners on 127.0.0.1 and on the own address share a port, and each has its own connections",
    loopback_refused(10) "nobody listens on 127.0.0.1: ECONNREFUSED, without blocking through SO_ERROR",
    loopback_foreign(10) "from 127.0.0.1 to another host: EINVAL",
    loopback_no_device(10) "a namespace without an RDMA device: ECONNREFUSED where nobody listens, else ENODEV",
    loopback_own_no_device(30) "an own address on an interface without an RDMA device, or on lo, is reached from the host",
    loopback_backlog(20) "a full queue: who finds it so waits, and keeps its names",
    loopback_crossing(30) "many at once, from threads of one process",
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another of the host's own, without an interface that has it.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);

/// A listener of A on `ip`, and its port.
fn listen(ip: Ipv4Addr, port: u16, backlog: libc::c_int) -> (Sock, u16) {
    let listener = A.socket();
    must!(listener.bind(&addr(ip, port)));
    must!(listener.listen(backlog));
    let port = must!(listener.name()).to_v4().port();
    (listener, port)
}

/// Connects `client` to `to`, and checks that the ends see the connection as from `from` to `at`.
fn check_names(listener: &Sock, client: &Sock, to: &Addr, from: Ipv4Addr, at: Ipv4Addr) -> Sock {
    check!(client.connect(to), Ok(()));
    let (server, peer) = must!(listener.accept_from(0));
    let port = to.to_v4().port();
    check!(must!(client.peer()).to_v4(), addr(at, port).to_v4());
    check!(must!(server.name()).to_v4(), addr(at, port).to_v4());
    let name = must!(client.name()).to_v4();
    check!(*name.ip(), from);
    check!(peer.to_v4(), name);
    check!(must!(server.peer()).to_v4(), name);
    talk(client, &server);
    server
}

fn loopback_any() {
    v4_only("IPv6 has one loopback address");
    let (listener, port) = listen(ANY, 0, 8);
    for (to, from, at) in [
        (LOCALHOST, LOCALHOST, LOCALHOST),
        (OTHER, LOCALHOST, OTHER),
        (ANY, LOCALHOST, LOCALHOST),
        (A.ip(), A.ip(), A.ip()),
    ] {
        step!("to {to}");
        check_names(&listener, &A.socket(), &addr(to, port), from, at);
    }
}

fn loopback_names() {
    v4_only("IPv6 has one loopback address");
    let (listener, port) = listen(ANY, 0, 8);
    for (from, to) in [
        (LOCALHOST, LOCALHOST),
        (OTHER, LOCALHOST),
        (A.ip(), LOCALHOST),
        (OTHER, A.ip()),
        (A.ip(), ANY),
        (A.ip(), A.ip()),
    ] {
        step!("from {from} to {to}");
        let client = A.socket();
        must!(client.bind(&addr(from, 0)));
        let name = must!(client.name()).to_v4();
        let at = if to == ANY { from } else { to };
        check_names(&listener, &client, &addr(to, port), from, at);
        check!(must!(client.name()).to_v4(), name);
    }
}

fn loopback_ports() {
    v4_only("IPv6 has one loopback address");
    let (inner, port) = listen(LOCALHOST, 0, 8);
    let (outer, _) = listen(A.ip(), port, 8);
    for _ in 0..10 {
        let client = |ip, from| {
            let client = A.socket();
            must!(client.bind(&addr(ip, from)));
            client
        };
        let first = client(LOCALHOST, 0);
        let from = must!(first.name()).to_v4().port();
        let second = client(OTHER, from);
        let connect = |client: Sock, to: Ipv4Addr| {
            spawn("client", move || {
                check!(client.connect(&addr(to, port)), Ok(()));
                check!(client.send(&to.octets(), 0), Ok(4));
                check!(client.recv(&mut [0], 0), Ok(0));
            })
        };
        let clients = [connect(first, LOCALHOST), connect(second, A.ip())];
        for (listener, from, at) in [(&inner, LOCALHOST, LOCALHOST), (&outer, OTHER, A.ip())] {
            let (server, peer) = must!(listener.accept_from(0));
            check!(*peer.to_v4().ip(), from);
            check!(server.recv_bytes(4), Ok(at.octets().to_vec()));
        }
        clients.into_iter().for_each(join);
    }
}

fn loopback_own() {
    let (inner, port) = listen(LOCALHOST, 0, 8);
    let (outer, _) = listen(A.ip(), port, 8);
    check!(A.socket().bind(&addr(ANY, port)), Err(Errno::EADDRINUSE));
    for (listener, ip) in [(&inner, LOCALHOST), (&outer, A.ip())] {
        step!("to {ip}");
        check_names(listener, &A.socket(), &addr(ip, port), ip, ip);
    }
    step!("one goes, the other stays");
    drop(inner);
    check!(
        A.socket().connect(&addr(LOCALHOST, port)),
        Err(Errno::ECONNREFUSED)
    );
    check_names(&outer, &A.socket(), &A.at(port), A.ip(), A.ip());
}

fn loopback_refused() {
    v4_only("IPv6 has one loopback address");
    for (at, others) in [(A.ip(), [LOCALHOST, OTHER]), (LOCALHOST, [A.ip(), OTHER])] {
        let (_listener, port) = listen(at, 0, 1);
        for to in others {
            step!("on {at}, to {to}");
            check!(
                A.socket().connect(&addr(to, port)),
                Err(Errno::ECONNREFUSED)
            );
        }
    }
    let (listener, port) = listen(LOCALHOST, 0, 1);
    drop(listener);
    let client = A.socket();
    must!(client.set_nonblocking(true));
    check!(
        client.connect(&addr(LOCALHOST, port)),
        Err(Errno::EINPROGRESS)
    );
    must!(client.poll(libc::POLLOUT, Duration::from_secs(5)));
    check!(client.error(), Err(Errno::ECONNREFUSED));

    step!("a listener appears");
    let client = A.socket();
    check!(
        client.connect(&addr(LOCALHOST, port)),
        Err(Errno::ECONNREFUSED)
    );
    let (listener, _) = listen(LOCALHOST, port, 1);
    check_names(
        &listener,
        &client,
        &addr(LOCALHOST, port),
        LOCALHOST,
        LOCALHOST,
    );
}

fn loopback_foreign() {
    if config::v6() {
        skip("TCP over IPv6 sends to the network from there");
    }
    let client = A.socket();
    must!(client.bind(&addr(LOCALHOST, 0)));
    check!(client.connect(&B.at(7)), Err(Errno::EINVAL));
}

fn loopback_no_device() {
    let extra = super::netns::Extra::new();
    extra.enter();
    let client = || must!(Sock::new(family(), libc::SOCK_STREAM, 0));
    check!(
        client().connect(&addr(LOCALHOST, 7)),
        Err(if config::v6() {
            Errno::EADDRNOTAVAIL
        } else {
            Errno::ENETUNREACH
        })
    );
    extra.up();
    check!(
        client().connect(&addr(LOCALHOST, 7)),
        Err(Errno::ECONNREFUSED)
    );
    let listener = client();
    must!(listener.bind(&addr(LOCALHOST, 7)));
    must!(listener.listen(1));
    check!(
        client().connect(&addr(LOCALHOST, 7)),
        if config::tcp() {
            Ok(())
        } else {
            Err(Errno::ENODEV)
        }
    );
}

/// Checks that a listener at `at` is reached under that address, from there and from elsewhere.
fn check_reached(at: impl Fn(u16) -> Addr) {
    let listener = A.socket();
    must!(listener.bind(&at(0)));
    must!(listener.listen(8));
    let to = must!(listener.name());
    let own = A.socket();
    must!(own.bind(&at(0)));
    for client in [A.socket(), own] {
        check!(client.connect(&to), Ok(()));
        let (server, peer) = must!(listener.accept_from(0));
        let parts = |addr: &Addr| match config::v6() {
            true => SocketAddr::V6(addr.to_v6()),
            false => SocketAddr::V4(addr.to_v4()),
        };
        check!(parts(&must!(client.peer())), parts(&to));
        check!(parts(&must!(server.name())), parts(&to));
        check!(parts(&must!(client.name())), parts(&peer));
        check!(parts(&peer).ip(), parts(&to).ip());
        talk(&client, &server);
    }
}

fn loopback_own_no_device() {
    let first = Ipv4Addr::new(10, 29, 0, 1);
    let second = Ipv4Addr::new(10, 29, 1, 1);
    let ip = |words: &[&str]| A.command(&[&["ip"][..], words].concat());
    ip(&["link", "add", "v2", "type", "veth", "peer", "name", "v3"]);
    ip(&["link", "set", "v2", "up"]);
    ip(&["link", "set", "v3", "up"]);
    let addresses = [
        ("v2", "10.29.0.1/24"),
        ("lo", "10.29.1.1/32"),
        ("v2", "fd29::1/64"),
        ("lo", "fd29:1::1/128"),
    ];
    for (interface, address) in addresses {
        let mut words = vec!["address", "add", address, "dev", interface];
        if address.contains(':') {
            words.push("nodad");
        }
        ip(&words);
    }
    for at in [first, second] {
        if config::v6() {
            break;
        }
        step!("{at}");
        check_reached(|port| addr(at, port));
        step!("{at}, by a listener on any address, or from there to another");
        let (listener, port) = listen(ANY, 0, 8);
        check_names(&listener, &A.socket(), &addr(at, port), at, at);
        let client = A.socket();
        must!(client.bind(&addr(at, 0)));
        check_names(&listener, &client, &A.at(port), at, A.ip());
        step!("{at}, where nobody listens");
        drop(listener);
        let to = addr(at, port);
        check!(A.socket().connect(&to), Err(Errno::ECONNREFUSED));
    }
    if config::v6() {
        for at in ["fd29::1", "fd29:1::1"] {
            step!("{at}");
            let ip: Ipv6Addr = must!(at.parse().map_err(|_| Errno::EINVAL));
            check_reached(|port| Addr::v6(ip, port));
        }
    }
    for (interface, address) in addresses {
        ip(&["address", "del", address, "dev", interface]);
    }
    ip(&["link", "del", "v2"]);
}

fn loopback_backlog() {
    sdp_only("TCP tries again after a second, and then later each time");
    let (listener, port) = listen(LOCALHOST, 0, 0);
    let to = addr(LOCALHOST, port);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            spawn("client", move || {
                let client = A.socket();
                check!(client.connect(&to), Ok(()));
                check!(*must!(client.peer()).to_v4().ip(), LOCALHOST);
                check!(client.recv_bytes(1), Ok(b"x".to_vec()));
            })
        })
        .collect();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(100));
        let (server, from) = must!(listener.accept_from(0));
        check!(*from.to_v4().ip(), LOCALHOST);
        check!(server.send(b"x", 0), Ok(1));
        check!(server.recv(&mut [0], 0), Ok(0));
    }
    clients.into_iter().for_each(join);
}

fn loopback_crossing() {
    let (listener, port) = listen(LOCALHOST, 0, 64);
    let to = addr(LOCALHOST, port);
    let rounds = config::rounds(4, 1);
    let clients: Vec<_> = (0..16u8)
        .map(|number| {
            spawn("client", move || {
                for _ in 0..rounds {
                    let client = A.socket();
                    check!(client.connect(&to), Ok(()));
                    check!(client.send(&[number], 0), Ok(1));
                    check!(client.recv_bytes(1), Ok(vec![number]));
                }
            })
        })
        .collect();
    for _ in 0..16 * rounds {
        let (server, from) = must!(listener.accept_from(0));
        check!(*from.to_v4().ip(), LOCALHOST);
        let byte = must!(server.recv_bytes(1));
        check!(server.send(&byte, 0), Ok(1));
    }
    clients.into_iter().for_each(join);
}
