// SPDX-License-Identifier: GPL-2.0

//! BPF programs of control groups: they refuse calls, and change addresses.

use crate::{
    bpf::{
        self,
        Group,
        Hook,
        Insn, //
    },
    config::{
        tcp,
        v6, //
    },
    harness::{
        cases,
        check,
        must,
        step,
        Child, //
    },
    peers::{
        addr,
        family,
        iwarp,
        pair_of,
        talk,
        v4_only,
        Side,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        v6_for,
        Addr,
        Sock, //
    },
};
use std::{
    fs,
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    process, //
};

cases! {
    cgroup_create(10) "cgroup BPF: socket() is refused, or gets the priority that a program sets",
    cgroup_bind(10) "cgroup BPF: bind() is refused, or goes to another address and port",
    cgroup_bind_privileged(10) "cgroup BPF: a program allows a privileged port to who has no capability",
    cgroup_post_bind(10) "cgroup BPF: a program refuses a port that was bound, which is free then",
    cgroup_connect(20) "cgroup BPF: connect() is refused, or goes to another peer; what programs see is a TCP socket",
    cgroup_connect_bind(10) "cgroup BPF: a program binds the socket that connects",
    cgroup_names(10) "cgroup BPF: getpeername() and getsockname() say what programs want",
    cgroup_egress(40) "cgroup BPF: no connection where a program drops packets that are sent to a peer",
    cgroup_ingress(40) "cgroup BPF: no connection where a program drops packets that come from a peer",
    cgroup_accept(10) "cgroup BPF: what is accepted is of the group of its listener, whoever accepts",
    cgroup_others(10) "cgroup BPF: sockets of other groups are not concerned, nor those that were handed over",
}

/// A service address that nobody has.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80);

/// The 32 bits of an address in memory.
fn ip(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

/// The 32 bits of a port where it is in network order.
fn port(port: u16) -> u32 {
    u32::from(port.to_be())
}

fn program(parts: &[&[Insn]]) -> Vec<Insn> {
    parts.concat()
}

/// `connect()` to [`SERVICE`] goes to `to`.
fn service(to: SocketAddrV4) -> Vec<Insn> {
    program(&[
        &bpf::end_unless(bpf::addr::IP, ip(*SERVICE.ip()), 1),
        &bpf::end_unless(bpf::addr::PORT, port(SERVICE.port()), 1),
        &bpf::set(bpf::addr::IP, ip(*to.ip())),
        &bpf::set(bpf::addr::PORT, port(to.port())),
        &bpf::end(1),
    ])
}

fn group() -> Group {
    v4_only("the programs are for IPv4");
    Group::new()
}

fn socket() -> Result<Sock, Errno> {
    Sock::new(family(), libc::SOCK_STREAM, 0)
}

fn cgroup_create() {
    let group = group();
    let before = A.socket();
    group.attach(
        Hook::Create,
        &program(&[
            &bpf::end_unless(bpf::sock::FAMILY, libc::AF_INET as u32, 0),
            &bpf::end_unless(bpf::sock::PROTOCOL, libc::IPPROTO_TCP as u32, 0),
            &bpf::set(bpf::sock::PRIORITY, 5),
            &bpf::end(1),
        ]),
    );
    let priority = |sock: &Sock| sock.get(libc::SOL_SOCKET, libc::SO_PRIORITY);
    group.run(|| {
        check!(priority(&must!(socket())), Ok(5));
        check!(priority(&before), Ok(0));
    });
    check!(priority(&must!(socket())), Ok(0));
    group.attach(Hook::Create, &bpf::end(0));
    group.run(|| {
        for _ in 0..3 {
            check!(socket().map(drop), Err(Errno::EPERM));
        }
        must!(Sock::new(libc::AF_UNIX, libc::SOCK_STREAM, 0));
    });
}

fn cgroup_bind() {
    let group = group();
    group.attach(Hook::Bind, &bpf::end(0));
    group.run(|| {
        let sock = A.socket();
        check!(sock.bind(&A.at(0)), Err(Errno::EPERM));
        check!(
            sock.bind(&addr(Ipv4Addr::new(1, 2, 3, 4), 0)),
            Err(Errno::EPERM)
        );
        check!(sock.name().map(|name| name.to_v4().port()), Ok(0));
        // siw binds a socket of TCP's then, for the same task.
        if !iwarp() {
            check!(sock.listen(1), Ok(()));
        }
    });
    group.attach(
        Hook::Bind,
        &program(&[
            &bpf::end_unless(bpf::addr::PORT, port(7777), 1),
            &bpf::set(bpf::addr::IP, ip(A.ip())),
            &bpf::set(bpf::addr::PORT, port(7778)),
            &bpf::end(1),
        ]),
    );
    group.run(|| {
        let sock = A.socket();
        check!(sock.bind(&addr(Ipv4Addr::UNSPECIFIED, 7777)), Ok(()));
        check!(
            sock.name().map(|name| name.to_v4()),
            Ok(SocketAddrV4::new(A.ip(), 7778))
        );
        check!(sock.bind(&A.at(0)), Err(Errno::EINVAL));
        check!(A.socket().bind(&A.at(7778)), Err(Errno::EADDRINUSE));
        let other = A.socket();
        check!(other.bind(&A.at(7779)), Ok(()));
        check!(other.name().map(|name| name.to_v4().port()), Ok(7779));
    });
}

/// Gives up all capabilities of this process.
fn unprivileged() {
    // SAFETY: They take no memory; this process has one thread.
    unsafe {
        must!(Errno::check(libc::setresgid(1000, 1000, 1000)));
        must!(Errno::check(libc::setresuid(1000, 1000, 1000)));
    }
}

fn cgroup_bind_privileged() {
    let group = group();
    group.attach(
        Hook::Bind,
        &program(&[&bpf::end_unless(bpf::addr::PORT, port(77), 1), &bpf::end(3)]),
    );
    group.run(|| {
        A.enter();
        unprivileged();
        check!(must!(socket()).bind(&A.at(78)), Err(Errno::EACCES));
        check!(must!(socket()).bind(&A.at(77)), Ok(()));
    });
}

fn cgroup_post_bind() {
    let group = group();
    group.attach(
        Hook::PostBind,
        &program(&[&bpf::end_unless(bpf::sock::PORT, 7780, 1), &bpf::end(0)]),
    );
    group.run(|| {
        let sock = A.socket();
        check!(sock.bind(&A.at(7780)), Err(Errno::EPERM));
        check!(sock.name().map(|name| name.to_v4().port()), Ok(0));
        check!(sock.bind(&A.at(7781)), Ok(()));
    });
    check!(A.socket().bind(&A.at(7780)), Ok(()));
}

fn cgroup_connect() {
    let (listener, to) = B.listen();
    let group = group();
    let service_addr = addr(*SERVICE.ip(), SERVICE.port());

    step!("refused");
    group.attach(Hook::Connect, &bpf::end(0));
    group.run(|| {
        let sock = A.socket();
        check!(sock.connect(&to), Err(Errno::EPERM));
        must!(sock.set_nonblocking(true));
        check!(sock.connect(&to), Err(Errno::EPERM));
        check!(sock.error(), Ok(()));
        check!(sock.peer().map(drop), Err(Errno::ENOTCONN));
    });

    step!("a service address");
    group.attach(Hook::Connect, &service(to.to_v4()));
    group.run(|| {
        for _ in 0..2 {
            let a = A.connect(&service_addr);
            let b = must!(listener.accept());
            check!(a.peer().map(|peer| peer.to_v4()), Ok(to.to_v4()));
            must!(b.send_all(b"service"));
            check!(a.recv_bytes(7), Ok(b"service".to_vec()));
        }
        // Of a family that only this module has.
        let own = sdp_selftests::sock::Addr::v4(family(), SERVICE);
        let a = A.connect(&own);
        must!(listener.accept());
        check!(a.peer().map(|peer| peer.to_v4()), Ok(to.to_v4()));
        let a = A.connect(&to);
        must!(listener.accept());
        check!(a.connect(&to), Err(Errno::EISCONN));
    });

    step!("what programs see");
    group.attach(
        Hook::Connect,
        &program(&[
            &bpf::end_unless(bpf::addr::FAMILY, libc::AF_INET as u32, 0),
            &bpf::end_unless(bpf::addr::TYPE, libc::SOCK_STREAM as u32, 0),
            &bpf::end_unless(bpf::addr::PROTOCOL, libc::IPPROTO_TCP as u32, 0),
            &bpf::end_unless(0, libc::AF_INET as u32, 0),
            &bpf::end_unless(bpf::addr::IP, ip(B.ip()), 0),
            &bpf::end_unless(bpf::addr::PORT, port(to.to_v4().port()), 0),
            &bpf::end(1),
        ]),
    );
    group.run(|| {
        let _a = A.connect(&to);
        must!(listener.accept());
        check!(A.socket().connect(&B.at(1)), Err(Errno::EPERM));
    });
}

fn cgroup_connect_bind() {
    let (listener, to) = B.listen();
    let group = group();
    group.attach(
        Hook::Connect,
        &program(&[&bpf::bind(ip(A.ip())), &bpf::end(1)]),
    );
    group.run(|| {
        let a = A.connect(&to);
        check!(a.name().map(|name| *name.to_v4().ip()), Ok(A.ip()));
        let (_b, from) = must!(listener.accept_from(0));
        check!(a.name().map(|name| name.to_v4()), Ok(from.to_v4()));
    });
}

fn cgroup_names() {
    let (listener, to) = B.listen();
    let group = group();
    let rename = |from: SocketAddrV4| {
        program(&[
            &bpf::end_unless(bpf::addr::PORT, port(from.port()), 1),
            &bpf::set(bpf::addr::IP, ip(*SERVICE.ip())),
            &bpf::set(bpf::addr::PORT, port(SERVICE.port())),
            &bpf::end(1),
        ])
    };
    group.attach(Hook::Connect, &service(to.to_v4()));
    group.attach(Hook::PeerName, &rename(to.to_v4()));
    group.attach(Hook::SockName, &rename(SocketAddrV4::new(A.ip(), 7790)));
    group.run(|| {
        let a = A.connect(&addr(*SERVICE.ip(), SERVICE.port()));
        check!(a.peer().map(|peer| peer.to_v4()), Ok(SERVICE));
        check!(a.name().map(|name| *name.to_v4().ip()), Ok(A.ip()));
        check!(A.socket().peer().map(drop), Err(Errno::ENOTCONN));
        let b = must!(listener.accept());
        check!(b.name().map(|name| name.to_v4()), Ok(to.to_v4()));
        let bound = A.socket();
        must!(bound.bind(&A.at(7790)));
        check!(bound.name().map(|name| name.to_v4()), Ok(SERVICE));
        check!(bound.name().map(|name| name.len()), Ok(16));
    });
}

/// The last 32 bits of an address of this side's in packets.
fn word(side: Side) -> u32 {
    match v6() {
        true => {
            let [.., a, b, c, d] = v6_for(side.ip()).octets();
            u32::from_ne_bytes([a, b, c, d])
        }
        false => ip(side.ip()),
    }
}

/// Where a packet has its source, its destination, and TCP's header; of an address the last 32
/// bits.
fn fields() -> [u16; 3] {
    match v6() {
        true => [20, 36, 40],
        false => [12, 16, 20],
    }
}

/// Runs `work` in a group with a program that drops packets with these 32 bits.
fn dropping(hook: Hook, at: u16, unwanted: u32, work: impl FnOnce()) {
    let group = Group::new();
    group.attach(hook, &bpf::drop_if(at, unwanted));
    group.run(work);
}

/// Fails to connect to `to`, as does TCP when its SYNs are lost.
fn does_not_connect(to: &Addr, at_once: Errno) {
    let sock = A.socket();
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1));
    let expected = if tcp() { Errno::ETIMEDOUT } else { at_once };
    check!(sock.connect(to), Err(expected));
    check!(sock.error(), Ok(()));
    check!(sock.peer().map(drop), Err(Errno::ENOTCONN));
}

fn cgroup_egress() {
    let [_, to_ip, tcp_at] = fields();
    let (listener, to) = B.listen();
    step!("of who connects");
    dropping(Hook::Egress, to_ip, word(B), || {
        does_not_connect(&to, Errno::EPERM);
        let (listener, own) = A.listen();
        let a = A.connect(&own);
        talk(&a, &must!(listener.accept()));
    });
    dropping(Hook::Egress, to_ip, word(A), || {
        let a = A.connect(&to);
        talk(&a, &must!(listener.accept()));
    });
    step!("of who connects from a port");
    let ports = |from: u16, to: u16| (port(to) << 16) | port(from);
    let from = |from: u16| {
        let sock = A.socket();
        must!(sock.bind(&A.at(from)));
        sock
    };
    let port_to = to.to_v4().port();
    dropping(Hook::Egress, tcp_at, ports(7792, port_to), || {
        let sock = from(7793);
        check!(sock.connect(&to), Ok(()));
        must!(listener.accept());
        let sock = from(7792);
        must!(sock.set_nonblocking(true));
        let expected = if tcp() {
            Errno::EINPROGRESS
        } else {
            Errno::EPERM
        };
        check!(sock.connect(&to), Err(expected));
    });
    if iwarp() {
        // siw's own TCP socket is in the group of who listens.
        return;
    }
    step!("of who listens");
    dropping(Hook::Egress, to_ip, word(A), || {
        let (_listener, to) = B.listen();
        outside(|| does_not_connect(&to, Errno::ECONNREFUSED));
    });
}

fn cgroup_ingress() {
    let [from_ip, ..] = fields();
    let (listener, to) = B.listen();
    step!("of who connects");
    dropping(Hook::Ingress, from_ip, word(B), || {
        does_not_connect(&to, Errno::EPERM);
    });
    dropping(Hook::Ingress, from_ip, word(A), || {
        let a = A.connect(&to);
        talk(&a, &must!(listener.accept()));
    });
    if iwarp() {
        // siw's own TCP socket is in the group of who listens.
        return;
    }
    step!("of who listens");
    dropping(Hook::Ingress, from_ip, word(A), || {
        let (listener, to) = B.listen();
        outside(|| does_not_connect(&to, Errno::ECONNREFUSED));
        must!(listener.set_nonblocking(true));
        check!(listener.accept().map(drop), Err(Errno::EAGAIN));
    });
}

/// Runs `work` in a process that has left the group.
fn outside(work: impl FnOnce()) {
    let child = Child::start(|| {
        let procs = "/sys/fs/cgroup/cgroup.procs";
        must!(fs::write(procs, process::id().to_string()).map_err(Errno::from));
        work();
    });
    check!(child.wait(), 0);
}

fn cgroup_accept() {
    let group = group();
    group.attach(
        Hook::SockName,
        &program(&[&bpf::set(bpf::addr::IP, ip(*SERVICE.ip())), &bpf::end(1)]),
    );
    let ip_of = |sock: &Sock| sock.name().map(|name| *name.to_v4().ip());
    // As a service manager listens for a program in a group of its own.
    let (listener, to) = B.listen();
    group.run(|| {
        let (_a, b) = pair_of(&listener, &to);
        check!(ip_of(&b), Ok(*to.to_v4().ip()));
    });
    if iwarp() {
        // siw takes the address of a request from a socket of its own, which is in the group too.
        return;
    }
    group.run(|| {
        let (inside, to) = B.listen();
        // Its name says another address than the one that it listens at.
        let to = B.at(to.to_v4().port());
        outside(|| {
            let (_a, b) = pair_of(&inside, &to);
            check!(ip_of(&b), Ok(*SERVICE.ip()));
        });
    });
}

fn cgroup_others() {
    let (listener, to) = B.listen();
    let group = group();
    group.attach(Hook::Connect, &bpf::end(0));
    let made_outside = A.socket();
    group.run(|| {
        check!(A.socket().connect(&to), Err(Errno::EPERM));
        // Whose socket it is, not whose call.
        check!(made_outside.connect(&to), Ok(()));
    });
    let _a = A.connect(&to);
    must!(listener.accept());
    must!(listener.accept());
}
