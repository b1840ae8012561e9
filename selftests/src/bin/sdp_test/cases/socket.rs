// SPDX-License-Identifier: GPL-2.0

//! `socket()`, and addresses going in and coming out.

use crate::{
    config::tcp,
    harness::{
        cases,
        check,
        check_any,
        must, //
    },
    peers::{
        addr,
        family,
        inet,
        pair,
        pair_of,
        sdp_only,
        v4_only,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Addr,
        Sock,
        AF_INET_SDP, //
    },
};
use std::net::{
    Ipv4Addr,
    Ipv6Addr, //
};

cases! {
    socket_kind(5) "socket() of a kind that is not a stream: ESOCKTNOSUPPORT",
    socket_protocol(5) "socket() takes protocols 0 and IPPROTO_TCP, others give EPROTONOSUPPORT",
    socket_flags(5) "SOCK_NONBLOCK and SOCK_CLOEXEC, SO_TYPE, SO_DOMAIN, SO_ACCEPTCONN",
    addr_family(10) "bind() and connect() take AF_INET and the socket's own family, and no others",
    addr_in6(10) "bind() and connect() take AF_INET6's any and v4-mapped addresses",
    addr_unspec(5) "bind() takes AF_UNSPEC for the any address, as TCP does",
    addr_short(5) "an address that is too short: EINVAL",
    addr_null(5) "an address where no memory is: EFAULT",
    names(10) "getsockname() and getpeername() through the life of a socket, always AF_INET or AF_INET6",
    names_any(10) "a socket bound to the any address learns its own when it connects or accepts",
    names_short(5) "getsockname() into little room: cut, with the true length",
}

fn socket_kind() {
    A.enter();
    let kind = |kind| Sock::new(family(), kind, 0).map(drop);
    check!(kind(libc::SOCK_SEQPACKET), Err(Errno::ESOCKTNOSUPPORT));
    check!(kind(libc::SOCK_RDM), Err(Errno::ESOCKTNOSUPPORT));
    if !tcp() {
        // AF_INET has datagrams; SDP has none.
        check!(kind(libc::SOCK_DGRAM), Err(Errno::ESOCKTNOSUPPORT));
        check!(kind(libc::SOCK_RAW), Err(Errno::ESOCKTNOSUPPORT));
    }
}

fn socket_protocol() {
    A.enter();
    let protocol = |protocol| Sock::new(family(), libc::SOCK_STREAM, protocol).map(drop);
    check!(protocol(0), Ok(()));
    check!(protocol(libc::IPPROTO_TCP), Ok(()));
    check!(protocol(libc::IPPROTO_UDP), Err(Errno::EPROTONOSUPPORT));
    check!(protocol(libc::IPPROTO_ICMP), Err(Errno::EPROTONOSUPPORT));
    check_any!(
        protocol(1000),
        [Err(Errno::EPROTONOSUPPORT), Err(Errno::EINVAL)]
    );
    check_any!(
        protocol(-1),
        [Err(Errno::EPROTONOSUPPORT), Err(Errno::EINVAL)]
    );
}

fn socket_flags() {
    A.enter();
    let sock = must!(Sock::new(
        family(),
        libc::SOCK_STREAM | libc::SOCK_NONBLOCK,
        0
    ));
    // SAFETY: `F_GETFL` and `F_GETFD` take no memory.
    let (status, descriptor) = unsafe {
        (
            libc::fcntl(sock.fd(), libc::F_GETFL),
            libc::fcntl(sock.fd(), libc::F_GETFD),
        )
    };
    check!(status & libc::O_NONBLOCK, libc::O_NONBLOCK);
    check!(descriptor & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    check!(
        sock.get(libc::SOL_SOCKET, libc::SO_TYPE),
        Ok(libc::SOCK_STREAM)
    );
    check!(sock.get(libc::SOL_SOCKET, libc::SO_DOMAIN), Ok(family()));
    check!(sock.get(libc::SOL_SOCKET, libc::SO_ACCEPTCONN), Ok(0));
    must!(sock.listen(1));
    check!(sock.get(libc::SOL_SOCKET, libc::SO_ACCEPTCONN), Ok(1));
}

fn addr_family() {
    for family in [inet().0, family()] {
        let listener = B.socket();
        must!(listener.bind(&B.at(0).with_family(family)));
        must!(listener.listen(1));
        let to = must!(listener.name());
        let client = A.socket();
        must!(client.connect(&to.with_family(family)));
        must!(listener.accept());
    }
    let other = A.at(0).with_family(libc::AF_UNIX);
    check!(A.socket().bind(&other), Err(Errno::EAFNOSUPPORT));
    check!(A.socket().connect(&other), Err(Errno::EAFNOSUPPORT));
    if tcp() {
        let sdp = A.at(0).with_family(AF_INET_SDP);
        check!(A.socket().bind(&sdp), Err(Errno::EAFNOSUPPORT));
    }
}

fn addr_in6() {
    sdp_only("AF_INET takes no AF_INET6 addresses");
    v4_only("AF_INET6_SDP has them all");
    // What a program does that resolves AF_INET6 first: qperf's server.
    for ip in [Ipv6Addr::UNSPECIFIED, B.ip().to_ipv6_mapped()] {
        let listener = B.socket();
        must!(listener.bind(&Addr::v6(ip, 0)));
        must!(listener.listen(1));
        let name = must!(listener.name());
        check!(name.family(), libc::AF_INET);
        let client = A.socket();
        must!(client.connect(&Addr::v6(B.ip().to_ipv6_mapped(), name.to_v4().port())));
        let server = must!(listener.accept());
        check!(
            must!(server.name()).to_v4(),
            B.at(name.to_v4().port()).to_v4()
        );
        check!(must!(client.peer()).to_v4(), must!(server.name()).to_v4());
    }
    let six = Addr::v6(Ipv6Addr::LOCALHOST, 0);
    check_any!(
        B.socket().bind(&six),
        [Err(Errno::EAFNOSUPPORT), Err(Errno::EADDRNOTAVAIL)]
    );
    let six = Addr::v6(Ipv6Addr::LOCALHOST, 1);
    check_any!(
        B.socket().connect(&six),
        [
            Err(Errno::EAFNOSUPPORT),
            Err(Errno::ENETUNREACH),
            Err(Errno::EADDRNOTAVAIL)
        ]
    );
    let short = Addr::v6(Ipv6Addr::UNSPECIFIED, 0).with_len(20);
    check!(B.socket().bind(&short), Err(Errno::EINVAL));
}

fn addr_unspec() {
    v4_only("TCP over IPv6 does not");
    let any = Addr::v4(libc::AF_UNSPEC, addr(Ipv4Addr::UNSPECIFIED, 0).to_v4());
    check!(A.socket().bind(&any), Ok(()));
    let own = Addr::v4(libc::AF_UNSPEC, A.at(0).to_v4());
    check!(A.socket().bind(&own), Err(Errno::EAFNOSUPPORT));
}

fn addr_short() {
    for len in [0, 1, 2, 8, 15] {
        check!(A.socket().bind(&A.at(0).with_len(len)), Err(Errno::EINVAL));
        check!(
            A.socket().connect(&B.at(1).with_len(len)),
            Err(Errno::EINVAL)
        );
    }
}

fn addr_null() {
    let sock = A.socket();
    // SAFETY: The kernel must find out that no memory is there.
    let (bind, connect) = unsafe {
        let nowhere = std::ptr::without_provenance(8);
        (
            Errno::check(libc::bind(sock.fd(), nowhere, 28)),
            Errno::check(libc::connect(sock.fd(), nowhere, 28)),
        )
    };
    check!(bind, Err(Errno::EFAULT));
    check!(connect, Err(Errno::EFAULT));
    check!(sock.bind(&A.at(0)), Ok(()));
}

fn names() {
    let given = |addr: &Addr| (addr.family(), addr.len());
    let sock = A.socket();
    let name = must!(sock.name());
    check!(given(&name), inet());
    check!(name.to_v4(), addr(Ipv4Addr::UNSPECIFIED, 0).to_v4());
    check!(sock.peer().map(drop), Err(Errno::ENOTCONN));

    must!(sock.bind(&A.at(0)));
    let name = must!(sock.name());
    check!(given(&name), inet());
    check!(*name.to_v4().ip(), A.ip());
    assert_ne!(name.to_v4().port(), 0, "bind() chooses a port");
    check!(sock.peer().map(drop), Err(Errno::ENOTCONN));

    let (listener, listening) = B.listen();
    check!(listener.peer().map(drop), Err(Errno::ENOTCONN));
    must!(sock.connect(&listening));
    let (server, from) = must!(listener.accept_from(0));
    check!(given(&from), inet());
    check!(from.to_v4(), name.to_v4());
    check!(must!(sock.name()).to_v4(), name.to_v4());
    check!(given(&must!(sock.peer())), inet());
    check!(must!(sock.peer()).to_v4(), listening.to_v4());
    check!(must!(server.name()).to_v4(), listening.to_v4());
    check!(must!(server.peer()).to_v4(), name.to_v4());

    // The peer's end alone takes no name away.
    drop(server);
    check!(sock.recv(&mut [0], 0), Ok(0));
    check!(must!(sock.peer()).to_v4(), listening.to_v4());

    // A reset does: there is no connection any more.
    let (sock, server) = pair_of(&listener, &listening);
    let name = must!(sock.name()).to_v4();
    must!(server.set_linger(0));
    drop(server);
    check!(sock.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    check!(sock.peer().map(drop), Err(Errno::ENOTCONN));
    check!(must!(sock.name()).to_v4(), name);
}

fn names_any() {
    let listener = B.socket();
    must!(listener.bind(&addr(Ipv4Addr::UNSPECIFIED, 0)));
    must!(listener.listen(1));
    let name = must!(listener.name()).to_v4();
    check!(*name.ip(), Ipv4Addr::UNSPECIFIED);

    let client = A.socket();
    must!(client.bind(&addr(Ipv4Addr::UNSPECIFIED, 0)));
    let port = must!(client.name()).to_v4().port();
    must!(client.connect(&B.at(name.port())));
    let server = must!(listener.accept());
    check!(must!(client.name()).to_v4(), A.at(port).to_v4());
    check!(must!(server.peer()).to_v4(), A.at(port).to_v4());
    check!(must!(server.name()).to_v4(), B.at(name.port()).to_v4());
}

fn names_short() {
    let (sock, _peer) = pair();
    let mut room = [0xaa_u8; 28];
    let mut len = 4;
    // SAFETY: `room` has more than `len` bytes.
    let result = unsafe { libc::getsockname(sock.fd(), room.as_mut_ptr().cast(), &mut len) };
    check!(Errno::check(result), Ok(0));
    check!(len as usize, inet().1);
    check!(&room[4..], &[0xaa; 24][..]);
}
