// SPDX-License-Identifier: GPL-2.0

//! Sockets over IPv6, and what they have to do with IPv4: on `AF_INET6_SDP`, or on `AF_INET6` where
//! sockets are TCP's.

use crate::{
    bpf::{
        self,
        Group,
        Hook, //
    },
    config,
    harness::{
        cases,
        check,
        must,
        step, //
    },
    peers::{
        iwarp,
        talk,
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
        v6_for,
        Addr,
        Sock,
        AF_INET6_SDP,
        AF_INET_SDP, //
    },
};
use std::{
    fs,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr,
        SocketAddrV4, //
    },
};

cases! {
    ipv6_any(20) "a listener on :: is reached at each address of either version, and both ends know the names",
    ipv6_mapped(20) "v4-mapped addresses: to and from a socket over IPv4",
    ipv6_only(10) "IPV6_V6ONLY: nothing to do with IPv4, set before bind(), and set by an address of IPv6",
    ipv6_only_default(10) "net.ipv6.bindv6only says what new sockets have",
    ipv6_both(20) "listeners of one port for each version of IP",
    ipv6_conflicts(30) "which addresses can be bound beside each other, of all pairs",
    ipv6_link(20) "addresses of the link: with the scope, and not without",
    ipv6_loopback(20) "::1, and connect() to ::",
    ipv6_addr(10) "addresses that are too short, of other families, multicast, or not ours",
    ipv6_cgroup(20) "cgroup BPF: bind() is refused, a service address is another peer, and names are changed",
    ipv6_bound_to_mapped(10) "a socket that is bound to an address of one version reaches none of the other",
}

/// The family over IPv6.
fn six() -> libc::c_int {
    if config::tcp() {
        libc::AF_INET6
    } else {
        AF_INET6_SDP
    }
}

/// The family over IPv4.
fn four() -> libc::c_int {
    if config::tcp() {
        libc::AF_INET
    } else {
        AF_INET_SDP
    }
}

fn socket(side: Side, family: libc::c_int) -> Sock {
    side.enter();
    must!(Sock::new(family, libc::SOCK_STREAM, 0))
}

fn v6(ip: Ipv6Addr, port: u16) -> Addr {
    Addr::v6(ip, port)
}

fn v4(ip: Ipv4Addr, port: u16) -> Addr {
    Addr::v4(libc::AF_INET, SocketAddrV4::new(ip, port))
}

/// The IPv6 address of a side.
fn own(side: Side) -> Ipv6Addr {
    v6_for(side.ip())
}

fn mapped(side: Side) -> Ipv6Addr {
    side.ip().to_ipv6_mapped()
}

fn only(sock: &Sock) -> bool {
    must!(sock.get(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)) != 0
}

fn set_only(sock: &Sock, on: bool) -> Result<()> {
    let on = libc::c_int::from(on);
    sock.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, on)
}

/// A listener of B on `addr`, and its port.
fn listen(family: libc::c_int, addr: &Addr) -> (Sock, u16) {
    let listener = socket(B, family);
    must!(listener.bind(addr));
    must!(listener.listen(8));
    let port = must!(listener.name()).to_v6().port();
    (listener, port)
}

fn ipv6_any() {
    let (listener, port) = listen(six(), &v6(Ipv6Addr::UNSPECIFIED, 0));
    check!(only(&listener), false);
    for (from, to) in [
        (own(A), own(B)),
        (mapped(A), mapped(B)),
        (Ipv6Addr::UNSPECIFIED, own(B)),
        (Ipv6Addr::UNSPECIFIED, mapped(B)),
    ] {
        step!("from {from} to {to}");
        let client = socket(A, six());
        must!(client.bind(&v6(from, 0)));
        let bound = must!(client.name()).to_v6();
        check!(*bound.ip(), from);
        check!(client.connect(&v6(to, port)), Ok(()));
        let (server, peer) = must!(listener.accept_from(0));
        let source = match to == own(B) {
            true => own(A),
            false => mapped(A),
        };
        check!(
            must!(client.name()).to_v6(),
            v6(source, bound.port()).to_v6()
        );
        check!(must!(client.peer()).to_v6(), v6(to, port).to_v6());
        check!(peer.to_v6(), must!(client.name()).to_v6());
        check!(must!(server.peer()).to_v6(), peer.to_v6());
        check!(must!(server.name()).to_v6(), v6(to, port).to_v6());
        check!(
            (must!(server.name()).family(), must!(server.name()).len()),
            (libc::AF_INET6, 28)
        );
        check!(server.get(libc::SOL_SOCKET, libc::SO_DOMAIN), Ok(six()));
        talk(&client, &server);
    }
}

fn ipv6_mapped() {
    step!("to a listener over IPv4");
    let (listener, port) = listen(four(), &v4(B.ip(), 0));
    let client = socket(A, six());
    check!(client.connect(&v6(mapped(B), port)), Ok(()));
    let (server, peer) = must!(listener.accept_from(0));
    check!(*peer.to_v4().ip(), A.ip());
    check!(must!(client.peer()).to_v6(), v6(mapped(B), port).to_v6());
    check!(
        must!(client.name()).to_v6(),
        v6(mapped(A), peer.to_v4().port()).to_v6()
    );
    talk(&client, &server);

    for ip in [mapped(B), Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()] {
        step!("from a socket over IPv4 to {ip}");
        let (listener, port) = listen(six(), &v6(ip, 0));
        check!(*must!(listener.name()).to_v6().ip(), ip);
        let client = socket(A, four());
        check!(client.connect(&v4(B.ip(), port)), Ok(()));
        let (server, peer) = must!(listener.accept_from(0));
        check!(
            peer.to_v6(),
            v6(mapped(A), must!(client.name()).to_v4().port()).to_v6()
        );
        check!(must!(server.name()).to_v6(), v6(mapped(B), port).to_v6());
        talk(&client, &server);
        step!("it is not reached over IPv6");
        check!(
            socket(A, six()).connect(&v6(own(B), port)),
            Err(Errno::ECONNREFUSED)
        );
    }
}

fn ipv6_only() {
    let sock = socket(B, six());
    check!(set_only(&sock, true), Ok(()));
    check!(only(&sock), true);
    check!(sock.bind(&v6(mapped(B), 0)), Err(Errno::EINVAL));
    check!(sock.connect(&v6(mapped(A), 1)), Err(Errno::ENETUNREACH));
    must!(sock.bind(&v6(Ipv6Addr::UNSPECIFIED, 0)));
    check!(set_only(&sock, false), Err(Errno::EINVAL));
    must!(sock.listen(8));
    let port = must!(sock.name()).to_v6().port();
    check!(
        socket(A, four()).connect(&v4(B.ip(), port)),
        Err(Errno::ECONNREFUSED)
    );
    check!(
        socket(A, six()).connect(&v6(mapped(B), port)),
        Err(Errno::ECONNREFUSED)
    );
    let client = socket(A, six());
    check!(client.connect(&v6(own(B), port)), Ok(()));
    let server = must!(sock.accept());
    check!(only(&server), true);
    check!(only(&client), false);

    step!("an address of IPv6");
    let sock = socket(B, six());
    must!(sock.bind(&v6(own(B), 0)));
    check!(only(&sock), true);
    check!(sock.connect(&v6(mapped(A), 1)), Err(Errno::ENETUNREACH));
    step!("one that could not be bound");
    let other = socket(B, six());
    check!(other.bind(&must!(sock.name())), Err(Errno::EADDRINUSE));
    check!(only(&other), false);
    step!("a socket over IPv4 has no such option");
    let sock = socket(B, four());
    check!(set_only(&sock, true), Err(Errno::ENOPROTOOPT));
}

fn ipv6_only_default() {
    let _setting = Setting::new("ipv6/bindv6only", "1");
    let sock = socket(B, six());
    check!(only(&sock), true);
    must!(sock.bind(&v6(Ipv6Addr::UNSPECIFIED, 0)));
    let port = must!(sock.name()).to_v6().port();
    check!(
        socket(B, four()).bind(&v4(Ipv4Addr::UNSPECIFIED, port)),
        Ok(())
    );
    let sock = socket(B, six());
    check!(set_only(&sock, false), Ok(()));
    check!(sock.bind(&v6(mapped(B), 0)), Ok(()));
}

fn ipv6_both() {
    let over6 = socket(B, six());
    must!(set_only(&over6, true));
    must!(over6.bind(&v6(Ipv6Addr::UNSPECIFIED, 0)));
    must!(over6.listen(8));
    let port = must!(over6.name()).to_v6().port();
    let over4 = socket(B, four());
    check!(over4.bind(&v4(Ipv4Addr::UNSPECIFIED, port)), Ok(()));
    check!(over4.listen(8), Ok(()));
    for (listener, to) in [(&over6, own(B)), (&over4, mapped(B)), (&over6, own(B))] {
        let client = socket(A, six());
        check!(client.connect(&v6(to, port)), Ok(()));
        let server = must!(listener.accept());
        talk(&client, &server);
    }
    step!("one of them goes");
    drop(over4);
    check!(
        socket(A, four()).connect(&v4(B.ip(), port)),
        Err(Errno::ECONNREFUSED)
    );
    let client = socket(A, six());
    check!(client.connect(&v6(own(B), port)), Ok(()));
    must!(over6.accept());
}

/// What a socket is bound to.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Over IPv4.
    Four(Ipv4Addr),
    /// Over IPv6, perhaps to a v4-mapped address.
    Six(Ipv6Addr),
    /// `::` of IPv6 alone.
    AnyOnly,
}

impl Bound {
    fn bind(self, port: u16) -> Result<Sock> {
        let sock = match self {
            Bound::Four(ip) => {
                let sock = socket(B, four());
                sock.bind(&v4(ip, port))?;
                sock
            }
            Bound::Six(ip) => {
                let sock = socket(B, six());
                sock.bind(&v6(ip, port))?;
                sock
            }
            Bound::AnyOnly => {
                let sock = socket(B, six());
                must!(set_only(&sock, true));
                sock.bind(&v6(Ipv6Addr::UNSPECIFIED, port))?;
                sock
            }
        };
        Ok(sock)
    }

    /// Its address, and whether that is all of IPv4 too.
    fn addr(self) -> (IpAddr, bool) {
        match self {
            Bound::Four(ip) => (ip.into(), false),
            Bound::Six(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => (ip.into(), false),
                None => (ip.into(), ip.is_unspecified()),
            },
            Bound::AnyOnly => (Ipv6Addr::UNSPECIFIED.into(), false),
        }
    }

    /// Whether there is an address that both have.
    fn overlaps(self, other: Self) -> bool {
        let ((a, a_both), (b, b_both)) = (self.addr(), other.addr());
        let same = a.is_ipv4() == b.is_ipv4();
        a == b
            || (a.is_unspecified() && (same || a_both))
            || (b.is_unspecified() && (same || b_both))
    }
}

fn ipv6_conflicts() {
    let all = [
        Bound::Four(Ipv4Addr::UNSPECIFIED),
        Bound::Four(B.ip()),
        Bound::Four(Ipv4Addr::LOCALHOST),
        Bound::Six(Ipv6Addr::UNSPECIFIED),
        Bound::Six(own(B)),
        Bound::Six(Ipv6Addr::LOCALHOST),
        Bound::Six(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
        Bound::Six(mapped(B)),
        Bound::AnyOnly,
    ];
    for first in all {
        let bound = must!(first.bind(0));
        let port = must!(bound.name()).to_v6().port();
        for second in all {
            step!("{second:?} beside {first:?}");
            let expected = match first.overlaps(second) {
                true => Err(Errno::EADDRINUSE),
                false => Ok(()),
            };
            check!(second.bind(port).map(drop), expected);
        }
    }
}

/// The address of the link that a side has, and its interface.
fn link(side: Side) -> (Ipv6Addr, u32) {
    let text = side
        .visit(|| must!(fs::read_to_string("/proc/thread-self/net/if_inet6").map_err(Errno::from)));
    // Address, interface, prefix, scope, flags, name.
    let fields = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    for field in fields {
        if field[3] == "20" && field[5] == side.interface() {
            let ip = u128::from_str_radix(field[0], 16).expect("an address in hex");
            let index = u32::from_str_radix(field[1], 16).expect("an interface in hex");
            return (ip.into(), index);
        }
    }
    panic!("{} has no address of the link", side.interface());
}

fn ipv6_link() {
    let ((from, from_scope), (to, scope)) = (link(A), link(B));
    let listener = socket(B, six());
    step!("without the scope");
    check!(listener.bind(&v6(to, 0)), Err(Errno::EINVAL));
    check!(socket(A, six()).connect(&v6(to, 1)), Err(Errno::EINVAL));
    step!("with a wrong one");
    check!(
        socket(B, six()).bind(&v6(to, 0).with_scope(9999)),
        Err(Errno::ENODEV)
    );
    check!(
        socket(B, six()).bind(&v6(to, 0).with_scope(1)),
        Err(Errno::EADDRNOTAVAIL)
    );
    step!("with the right one");
    must!(listener.bind(&v6(to, 0).with_scope(scope)));
    must!(listener.listen(8));
    let name = must!(listener.name()).to_v6();
    check!((*name.ip(), name.scope_id()), (to, scope));
    let (any, any_port) = listen(six(), &v6(Ipv6Addr::UNSPECIFIED, 0));
    for (listener, port) in [(&listener, name.port()), (&any, any_port)] {
        for bound in [Ipv6Addr::UNSPECIFIED, from] {
            let to = v6(to, port).with_scope(from_scope);
            let client = socket(A, six());
            must!(client.bind(&v6(bound, 0).with_scope(from_scope)));
            step!("from {bound} to port {port}");
            check!(client.connect(&to), Ok(()));
            let (server, peer) = must!(listener.accept_from(0));
            check!(must!(client.peer()).to_v6(), to.to_v6());
            let source = must!(client.name()).to_v6();
            check!((*source.ip(), source.scope_id()), (from, from_scope));
            check!(
                peer.to_v6(),
                v6(from, source.port()).with_scope(scope).to_v6()
            );
            check!(must!(server.name()).to_v6().scope_id(), scope);
            talk(&client, &server);
        }
    }
    step!("bound to another interface");
    let client = socket(A, six());
    must!(client.bind(&v6(from, 0).with_scope(from_scope)));
    check!(
        client.connect(&v6(to, name.port()).with_scope(1)),
        Err(Errno::EINVAL)
    );
}

fn ipv6_loopback() {
    let local = Ipv6Addr::LOCALHOST;
    for listening in [Ipv6Addr::UNSPECIFIED, local] {
        let listener = socket(A, six());
        must!(listener.bind(&v6(listening, 0)));
        must!(listener.listen(8));
        let port = must!(listener.name()).to_v6().port();
        for (bound, to) in [
            (Ipv6Addr::UNSPECIFIED, local),
            (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
            (local, local),
            (own(A), local),
        ] {
            step!("from {bound} to {to} at {listening}");
            let client = socket(A, six());
            must!(client.bind(&v6(bound, 0)));
            check!(client.connect(&v6(to, port)), Ok(()));
            let (server, peer) = must!(listener.accept_from(0));
            let name = must!(client.name()).to_v6();
            let source = match bound.is_unspecified() {
                true => local,
                false => bound,
            };
            check!(*name.ip(), source);
            check!(peer.to_v6(), name);
            check!(must!(client.peer()).to_v6(), v6(local, port).to_v6());
            check!(must!(server.name()).to_v6(), v6(local, port).to_v6());
            talk(&client, &server);
        }
        step!("not by IPv4 unless it is for all");
        let client = socket(A, four());
        let expected = match listening == local {
            true => Err(Errno::ECONNREFUSED),
            false => Ok(()),
        };
        check!(client.connect(&v4(Ipv4Addr::LOCALHOST, port)), expected);
        if iwarp() {
            // siw connects from A alone.
            continue;
        }
        step!("and not by others");
        let expected = match listening == local {
            true => Err(Errno::ECONNREFUSED),
            false => Ok(()),
        };
        check!(socket(B, six()).connect(&v6(own(A), port)), expected);
    }
}

fn ipv6_addr() {
    let sock = || socket(A, six());
    let there = v6(own(B), 1);
    for len in [0, 1, 2, 16, 23] {
        check!(
            sock().bind(&v6(own(A), 0).with_len(len)),
            Err(Errno::EINVAL)
        );
        check!(sock().connect(&there.with_len(len)), Err(Errno::EINVAL));
    }
    step!("without the scope");
    check!(sock().bind(&v6(own(A), 0).with_len(24)), Ok(()));
    step!("of IPv4");
    let here = v4(A.ip(), 0);
    check!(sock().bind(&here), Err(Errno::EINVAL));
    check!(sock().bind(&here.with_len(28)), Err(Errno::EAFNOSUPPORT));
    check!(sock().connect(&here.with_len(28)), Err(Errno::EAFNOSUPPORT));
    step!("of many");
    let many = v6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 1).with_scope(100);
    check!(sock().bind(&many), Err(Errno::EINVAL));
    check!(sock().connect(&many), Err(Errno::ENETUNREACH));
    step!("not ours");
    check!(sock().bind(&v6(own(B), 0)), Err(Errno::EADDRNOTAVAIL));
    check!(sock().bind(&v6(mapped(B), 0)), Err(Errno::EADDRNOTAVAIL));
    step!("a scope that an address does not need");
    check!(sock().bind(&v6(own(A), 0).with_scope(9999)), Ok(()));
}

fn ipv6_bound_to_mapped() {
    let client = socket(A, six());
    must!(client.bind(&v6(mapped(A), 0)));
    check!(only(&client), false);
    check!(client.connect(&v6(own(B), 1)), Err(Errno::EAFNOSUPPORT));
    let client = socket(A, six());
    must!(client.bind(&v6(own(A), 0)));
    check!(client.connect(&v6(mapped(B), 1)), Err(Errno::ENETUNREACH));
}

fn ipv6_cgroup() {
    let service = Ipv6Addr::new(0xfd00, 96, 0, 0, 0, 0, 0, 1);
    let wire = |port: u16| u32::from(port.to_be());
    let (listener, port) = listen(six(), &v6(own(B), 0));
    let group = Group::new();
    let rename = |from: u16, ip, to: u16| {
        [
            &bpf::end_unless(bpf::addr::PORT, wire(from), 1)[..],
            &bpf::set_ip6(ip),
            &bpf::set(bpf::addr::PORT, wire(to)),
            &bpf::end(1),
        ]
        .concat()
    };
    group.attach(Hook::Connect6, &rename(80, own(B), port));
    group.attach(Hook::PeerName6, &rename(port, service, 80));
    group.run(|| {
        let client = socket(A, six());
        check!(client.connect(&v6(service, 80)), Ok(()));
        let server = must!(listener.accept());
        talk(&client, &server);
        check!(*must!(client.peer()).to_v6().ip(), service);
        check!(must!(client.peer()).to_v6().port(), 80);
        check!(*must!(client.name()).to_v6().ip(), own(A));
    });
    group.attach(Hook::Bind6, &bpf::end(0));
    group.run(|| {
        check!(socket(A, six()).bind(&v6(own(A), 0)), Err(Errno::EPERM));
    });
}
