// SPDX-License-Identifier: GPL-2.0

//! `connect()`: its ways to succeed, to fail, to wait and to be interrupted.

use super::splice::{
    pipe,
    splice, //
};
use crate::{
    config::{
        moment,
        patience,
        v6,
        volume,
        TICK, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        skip,
        spawn,
        step,
        Child, //
    },
    peers::{
        addr,
        becomes,
        command,
        during,
        eventually,
        family,
        iwarp,
        pair,
        pair_of,
        sdp_only,
        sockets,
        talk,
        v4_only,
        Setting,
        A,
        B, //
    },
    signals::{
        catch,
        caught,
        interrupt_every, //
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
    fs,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    connect_blocking(10) "both ends can talk as soon as connect() and accept() return",
    connect_nonblocking(10) "EINPROGRESS, then POLLOUT and no error",
    connect_names(20) "when poll() says that the connection is there, both names are",
    connect_self_host(10) "to the own address",
    connect_self(20) "to the own address and port: ECONNREFUSED at once, and the socket can connect later",
    connect_simultaneous(30) "two bound sockets to each other: ECONNREFUSED at once",
    connect_refused(10) "nobody listens: ECONNREFUSED at once, and the socket can connect later",
    connect_refused_nonblocking(10) "the same through SO_ERROR, reported once",
    connect_refused_bound(10) "a bound socket that does not listen refuses too",
    connect_in_progress(30) "a second non-blocking connect(): EALREADY; a silent host: EHOSTUNREACH or ETIMEDOUT",
    connect_silent_host(30) "a host that does not answer, blocking",
    connect_share(30) "a user whose connects over iWARP wait keeps no other user waiting",
    connect_share_closed(60) "a user who closes connects over iWARP that nobody answers keeps no other user waiting",
    connect_timeout(10) "SO_SNDTIMEO ends a blocking connect() with EINPROGRESS, and another with EALREADY",
    connect_interrupted(20) "a signal: EINTR, and the connection completes all the same",
    connect_interrupted_restart(20) "a signal with SA_RESTART is not seen",
    connect_no_route(10) "no route: ENETUNREACH, and the socket can connect elsewhere",
    connect_no_device(10) "no RDMA device on the route: ENODEV or ENETUNREACH",
    connect_rules(20) "routing rules hold for the user, the service type and the port of a socket",
    connect_dontroute(10) "SO_DONTROUTE: who is behind a router is not reached",
    connect_twice(20) "two sockets of one address and port cannot connect to the same peer: EADDRNOTAVAIL",
    connect_ports(20) "from one address and port there are connections to different peers",
    connect_unspec(10) "connect(AF_UNSPEC) disconnects, and the socket can connect again",
    connect_unspec_waiting(20) "connect(AF_UNSPEC) ends the calls that wait, with EPIPE",
    connect_after_reset(40) "the same after the peer's reset, where the next host does not answer",
    connect_abandoned_early(30) "closed while they look for the peer's address: nothing is left",
    connect_abandoned_reset(30) "the same of a socket that had a connection, which was reset",
    connect_abandoned(20) "sockets closed while they connect do no harm",
    connect_churn(60) "connect, a byte, close, over and over",
    connect_crossing(20) "many clients connect at once",
}

/// Waits for the end of a non-blocking connect().
pub(super) fn finish(sock: &Sock) -> Result<(), Errno> {
    let events = must!(sock.poll(libc::POLLOUT, patience(15)));
    assert_ne!(
        events,
        0,
        "connect() has not ended after {} s",
        patience(15).as_secs()
    );
    sock.error()
}

/// An address of the network where nobody is.
fn silent() -> Addr {
    addr(Ipv4Addr::new(10, 27, 0, 99), 7)
}

/// A port where nobody listens, now.
fn free_port() -> Addr {
    let sock = B.socket();
    must!(sock.bind(&B.at(0)));
    must!(sock.name())
}

fn connect_blocking() {
    let (listener, to) = B.listen();
    let a = A.connect(&to);
    check!(a.send(b"first", 0), Ok(5));
    let b = must!(listener.accept());
    check!(b.send(b"second", 0), Ok(6));
    check!(b.recv_bytes(5), Ok(b"first".to_vec()));
    check!(a.recv_bytes(6), Ok(b"second".to_vec()));
}

fn connect_nonblocking() {
    let (listener, to) = B.listen();
    let a = A.socket();
    must!(a.set_nonblocking(true));
    check!(a.connect(&to), Err(Errno::EINPROGRESS));
    let name = must!(a.name()).to_v4();
    check!((*name.ip(), name.port() > 0), (A.ip(), true));
    check!(finish(&a), Ok(()));
    check!(must!(a.name()).to_v4(), name);
    // The first connect() after the end tells of it, the next that there is nothing to do.
    check_any!(a.connect(&to), [Ok(()), Err(Errno::EISCONN)]);
    check!(a.connect(&to), Err(Errno::EISCONN));
    let b = must!(listener.accept());
    check!(b.send(b"hello", 0), Ok(5));
    must!(a.set_nonblocking(false));
    check!(a.recv_bytes(5), Ok(b"hello".to_vec()));
}

fn connect_names() {
    let (listener, to) = B.listen();
    let rounds = volume(60, 10);
    let server = spawn("server", move || {
        for _ in 0..rounds {
            let b = must!(listener.accept());
            // What it says first comes together with its answer, or nearly.
            check!(b.send(b"x", 0), Ok(1));
            check!(b.recv(&mut [0], 0), Ok(0));
        }
    });
    for _ in 0..rounds {
        let a = A.socket();
        must!(a.set_nonblocking(true));
        check!(a.connect(&to), Err(Errno::EINPROGRESS));
        let mut seen = 0;
        while seen == 0 {
            seen = must!(a.poll(libc::POLLIN | libc::POLLOUT, Duration::from_millis(0)));
        }
        check!(must!(a.peer()).to_v4(), to.to_v4());
        check!(*must!(a.name()).to_v4().ip(), A.ip());
        must!(a.set_nonblocking(false));
        check!(a.recv(&mut [0], 0), Ok(1));
    }
    join(server);
}

fn connect_self_host() {
    let (listener, to) = A.listen();
    let (client, server) = pair_of(&listener, &to);
    check!(client.send(b"round", 0), Ok(5));
    check!(server.recv_bytes(5), Ok(b"round".to_vec()));
    check!(
        must!(client.name()).to_v4().ip(),
        must!(client.peer()).to_v4().ip()
    );
}

fn connect_self() {
    sdp_only("a TCP socket is connected to itself");
    let a = A.socket();
    must!(a.bind(&A.at(0)));
    let own = must!(a.name());
    let start = Instant::now();
    check!(a.connect(&own), Err(Errno::ECONNREFUSED));
    let took = start.elapsed();
    assert!(took < patience(3), "took {took:?}");
    must!(a.set_nonblocking(true));
    check!(a.connect(&own), Err(Errno::EINPROGRESS));
    check!(finish(&a), Err(Errno::ECONNREFUSED));
    // The first after SO_ERROR, as with TCP.
    check!(a.connect(&own), Err(Errno::ECONNABORTED));
    must!(a.set_nonblocking(false));

    step!("to a listener");
    let (listener, to) = B.listen();
    A.enter();
    check!(a.connect(&to), Ok(()));
    talk(&a, &must!(listener.accept()));
}

fn connect_simultaneous() {
    sdp_only("TCP makes one connection of both, if the packets cross");
    // siw connects from A only.
    let sides = if iwarp() { [A, A] } else { [A, B] };
    for _ in 0..volume(20, 5) {
        let sockets = sides.map(|side| {
            let sock = side.socket();
            must!(sock.bind(&side.at(0)));
            must!(sock.set_nonblocking(true));
            sock
        });
        let [a, b] = &sockets;
        let names = sockets.each_ref().map(|sock| must!(sock.name()));
        let start = Instant::now();
        check!(a.connect(&names[1]), Err(Errno::EINPROGRESS));
        check!(b.connect(&names[0]), Err(Errno::EINPROGRESS));
        check!(finish(a), Err(Errno::ECONNREFUSED));
        check!(finish(b), Err(Errno::ECONNREFUSED));
        let took = start.elapsed();
        // Their TCP sockets may have met, which ends later.
        let limit = if iwarp() { 10 } else { 1 };
        assert!(took < patience(limit), "took {took:?}");
    }
}

fn connect_refused() {
    let to = free_port();
    let a = A.socket();
    let start = Instant::now();
    check!(a.connect(&to), Err(Errno::ECONNREFUSED));
    let took = start.elapsed();
    assert!(took < patience(1), "took {took:?}");
    check!(a.error(), Ok(()));
    check!(a.connect(&to), Err(Errno::ECONNREFUSED));

    step!("a listener appears");
    let listener = B.socket();
    must!(listener.bind(&to));
    must!(listener.listen(1));
    // siw connects from the namespace of the thread that asks it to.
    A.enter();
    check!(a.connect(&to), Ok(()));
    let b = must!(listener.accept());
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

fn connect_refused_nonblocking() {
    let to = free_port();
    let a = A.socket();
    must!(a.set_nonblocking(true));
    check!(a.connect(&to), Err(Errno::EINPROGRESS));
    let events = must!(a.poll(libc::POLLIN | libc::POLLOUT, patience(5)));
    check!(
        events & (libc::POLLERR | libc::POLLHUP),
        libc::POLLERR | libc::POLLHUP
    );
    check!(a.error(), Err(Errno::ECONNREFUSED));
    check!(a.error(), Ok(()));

    step!("a listener appears");
    let listener = B.socket();
    must!(listener.bind(&to));
    must!(listener.listen(1));
    check_any!(
        a.connect(&to),
        [Err(Errno::EINPROGRESS), Err(Errno::ECONNABORTED)]
    );
    if must!(a.poll(libc::POLLOUT, Duration::ZERO)) & libc::POLLHUP != 0 {
        // TCP reports the failure once more if SO_ERROR took it before connect() could.
        check!(a.connect(&to), Err(Errno::EINPROGRESS));
    }
    check!(finish(&a), Ok(()));
    must!(listener.accept());
}

fn connect_refused_bound() {
    let holder = B.socket();
    must!(holder.bind(&B.at(0)));
    check!(
        A.socket().connect(&must!(holder.name())),
        Err(Errno::ECONNREFUSED)
    );
}

fn connect_in_progress() {
    let a = A.socket();
    must!(a.set_nonblocking(true));
    check!(a.connect(&silent()), Err(Errno::EINPROGRESS));
    check!(a.connect(&silent()), Err(Errno::EALREADY));
    check!(a.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EAGAIN));
    check!(
        a.poll(libc::POLLIN | libc::POLLOUT, Duration::from_millis(100)),
        Ok(0)
    );
    check_any!(
        finish(&a),
        [Err(Errno::EHOSTUNREACH), Err(Errno::ETIMEDOUT)]
    );
}

fn connect_silent_host() {
    let start = Instant::now();
    check_any!(
        A.socket().connect(&silent()),
        [Err(Errno::EHOSTUNREACH), Err(Errno::ETIMEDOUT)]
    );
    let took = start.elapsed();
    assert!(took < patience(20), "took {took:?}");
}

/// A socket in A, of a user, that connects.
fn start(uid: libc::uid_t, to: &Addr) -> Sock {
    A.enter();
    // SAFETY: It takes no memory.
    must!(Errno::check(unsafe { libc::seteuid(uid) }));
    let sock = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
    must!(sock.set_nonblocking(true));
    check!(sock.connect(to), Err(Errno::EINPROGRESS));
    // SAFETY: As above.
    must!(Errno::check(unsafe { libc::seteuid(0) }));
    sock
}

/// Checks that connects of other users to `to` succeed soon. One or another may be on the same of
/// the 64 workqueues.
fn check_others(to: &Addr) {
    let others: Vec<Sock> = (1000..1004).map(|uid| start(uid, to)).collect();
    let connected = becomes(patience(3), || {
        let made = |sock: &&Sock| must!(sock.poll(libc::POLLOUT, Duration::ZERO)) == libc::POLLOUT;
        others.iter().filter(made).count() > 1
    });
    assert!(connected, "all others wait");
}

/// Lets this process have so many files.
pub(super) fn allow_files(count: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: It is a `struct rlimit`.
    must!(Errno::check(unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    }));
}

fn connect_share_closed() {
    sdp_only("a connect of TCP keeps nobody waiting");
    v4_only("siw is asked by IPv4");
    if !iwarp() {
        skip("only a device of iWARP waits in rdma_destroy_id()");
    }
    // More than the kernel runs at a time of one workqueue.
    let count = 1100;
    allow_files(2048);
    let (_listener, to) = B.listen();
    // TCP connects, and then nobody says a word of MPA.
    B.enter();
    let mute = must!(Sock::new(libc::AF_INET, libc::SOCK_STREAM, 0));
    must!(mute.bind(&B.at(0)));
    must!(mute.listen(4096));
    let there = must!(mute.name());
    let asking: Vec<Sock> = (0..count).map(|_| start(65534, &there)).collect();
    // The first would be answered by siw's own timeout ten seconds after it began.
    let begun = becomes(patience(8), || {
        let port = format!("{:04X} 01 ", there.to_v4().port());
        let sockets = must!(fs::read_to_string("/proc/thread-self/net/tcp").map_err(Errno::from));
        sockets.lines().filter(|line| line.contains(&port)).count() >= count
    });
    assert!(begun, "not all connects have begun");
    step!("all are closed");
    drop(asking);
    check_others(&to);
}

fn connect_share() {
    sdp_only("a connect of TCP keeps nobody waiting");
    v4_only("it is a neighbour of IPv4");
    if !iwarp() {
        skip("only a device of iWARP waits in rdma_connect()");
    }
    let (listener, to) = B.listen();
    // Who connects waits for a host that answers ARP and nothing else.
    let device = ["dev", A.interface()];
    let gone = silent().to_v4().ip().to_string();
    let mut neighbour = vec![
        "ip",
        "neigh",
        "replace",
        &gone,
        "lladdr",
        "02:00:00:00:00:77",
    ];
    neighbour.extend(device);
    A.command(&neighbour);
    let _retries = Setting::of(A, "ipv4/tcp_syn_retries", "2");
    let waiting: Vec<Sock> = (0..70).map(|_| start(65534, &silent())).collect();
    // siw connects by TCP, whose state 2 is SYN_SENT.
    let to_silent = |line: &&str| line.contains(" 63001B0A:0007 02 ");
    let connecting = || {
        let sockets = must!(fs::read_to_string("/proc/thread-self/net/tcp").map_err(Errno::from));
        sockets.lines().filter(to_silent).count()
    };
    let full = becomes(patience(3), || connecting() >= 64);
    assert!(full, "{} connects wait", connecting());
    step!("its own next connect waits with the others");
    let own = start(65534, &to);
    check!(own.poll(libc::POLLOUT, moment()), Ok(0));
    step!("another user's does not");
    check_others(&to);
    check!(own.poll(libc::POLLOUT, Duration::ZERO), Ok(0));
    drop((waiting, own, listener));
    neighbour[2] = "del";
    A.command(&neighbour);
}

fn connect_timeout() {
    let a = A.socket();
    let timeout = Duration::from_millis(300);
    must!(a.set_timeout(libc::SO_SNDTIMEO, timeout));
    let start = Instant::now();
    check!(a.connect(&silent()), Err(Errno::EINPROGRESS));
    let took = start.elapsed();
    assert!(took + TICK >= timeout, "took {took:?}");
    // Another does not begin anything.
    check!(a.connect(&silent()), Err(Errno::EALREADY));
    let took = start.elapsed();
    assert!(took + TICK >= 2 * timeout, "took {took:?}");
}

/// Lets B answer no one's question for its address, so that connections to it wait.
fn silence(on: bool) {
    v4_only("it is ARP that is silenced");
    let (arp, probes) = if on { ("off", "100") } else { ("on", "3") };
    A.enter();
    // As many questions as the wait may take, or A gives up.
    let solicit = format!("/proc/sys/net/ipv4/neigh/{}/mcast_solicit", A.interface());
    must!(fs::write(solicit, probes));
    B.command(&["ip", "link", "set", B.interface(), "arp", arp]);
    if on {
        // Both forget each other. The way back needs no flush, which would fail the connections
        // that wait.
        for side in [A, B] {
            side.command(&["ip", "neigh", "flush", "dev", side.interface()]);
        }
    }
}

fn speak_after(delay: Duration) -> thread::JoinHandle<()> {
    spawn("speaker", move || {
        thread::sleep(delay);
        silence(false);
    })
}

fn connect_interrupted() {
    let (listener, to) = B.listen();
    catch(libc::SIGUSR1, 0);
    let a = A.socket();
    silence(true);
    let interrupter = interrupt_every(Duration::from_millis(200), libc::SIGUSR1);
    check!(a.connect(&to), Err(Errno::EINTR));
    drop(interrupter);
    // At once: the connection waits only so long for an address.
    silence(false);
    assert!(caught() >= 1);
    step!("the connection goes on without us");
    check!(finish(&a), Ok(()));
    let b = must!(listener.accept());
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

fn connect_interrupted_restart() {
    let (listener, to) = B.listen();
    catch(libc::SIGUSR1, libc::SA_RESTART);
    let a = A.socket();
    silence(true);
    let speaker = speak_after(Duration::from_millis(600));
    let interrupter = interrupt_every(Duration::from_millis(200), libc::SIGUSR1);
    check!(a.connect(&to), Ok(()));
    drop(interrupter);
    assert!(caught() >= 1);
    join(speaker);
    must!(listener.accept());
}

fn connect_no_route() {
    let a = A.socket();
    check!(
        a.connect(&addr(Ipv4Addr::new(192, 0, 2, 1), 7)),
        Err(Errno::ENETUNREACH)
    );
    let (listener, to) = B.listen();
    check!(a.connect(&to), Ok(()));
    must!(listener.accept());
}

fn connect_no_device() {
    sdp_only("TCP needs no RDMA device");
    v4_only("the networks are of IPv4");
    command(
        "ip",
        &[
            "-n",
            A.netns(),
            "link",
            "add",
            "v2",
            "type",
            "veth",
            "peer",
            "name",
            "v3",
            "netns",
            B.netns(),
        ],
    );
    for (side, interface, ip) in [(A, "v2", "10.28.0.1/24"), (B, "v3", "10.28.0.2/24")] {
        command(
            "ip",
            &["-n", side.netns(), "addr", "add", ip, "dev", interface],
        );
        command("ip", &["-n", side.netns(), "link", "set", interface, "up"]);
    }
    let there = addr(Ipv4Addr::new(10, 28, 0, 2), 7);
    let here = addr(Ipv4Addr::new(10, 28, 0, 1), 0);
    let connect = A.socket().connect(&there);
    let bind = A.socket().bind(&here);
    command("ip", &["-n", A.netns(), "link", "del", "v2"]);
    check_any!(connect, [Err(Errno::ENODEV), Err(Errno::ENETUNREACH)]);
    // It is reached from the host itself.
    check!(bind, Ok(()));
}

/// Takes the connection, and with it the peer, from `sock`.
pub(super) fn disconnect(sock: &Sock) {
    let unspec = Addr::v4(libc::AF_UNSPEC, B.at(0).to_v4());
    check!(sock.connect(&unspec), Ok(()));
}

/// A rule of A's routing, for as long as it lives.
struct Rule(Vec<String>);

impl Rule {
    fn new(words: &[&str]) -> Self {
        let this = Self(words.iter().map(|word| word.to_string()).collect());
        this.change("add");
        this
    }

    fn change(&self, how: &str) {
        let version = if v6() { "-6" } else { "-4" };
        let mut all = vec!["ip", version, "rule", how];
        all.extend(self.0.iter().map(String::as_str));
        A.command(&all);
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.change("del");
    }
}

fn connect_rules() {
    const USER: libc::uid_t = 1000;
    let rules = A.visit(|| Command::new("ip").args(["rule", "list"]).output());
    if !rules.is_ok_and(|output| output.status.success()) {
        skip("this kernel has one routing table");
    }
    let (listener, to) = B.listen();
    let as_user = |work: &dyn Fn()| {
        let child = Child::start(|| {
            A.enter();
            // SAFETY: It takes no memory; this process has one thread.
            must!(Errno::check(unsafe { libc::setresuid(USER, USER, USER) }));
            work();
        });
        check!(child.wait(), 0);
    };
    let socket = || must!(Sock::new(family(), libc::SOCK_STREAM, 0));
    let connects = |sock: Sock| {
        check!(sock.connect(&to), Ok(()));
        must!(listener.accept());
    };

    step!("the user");
    {
        let _rule = Rule::new(&["uidrange", "1000-1000", "prohibit"]);
        let of_root = A.socket();
        as_user(&|| {
            check!(socket().connect(&to), Err(Errno::EACCES));
            let sock = socket();
            must!(sock.set_nonblocking(true));
            check!(sock.connect(&to), Err(Errno::EACCES));
            check!(sock.error(), Ok(()));
            // Whose socket it is, not whose call.
            check!(of_root.connect(&to), Ok(()));
        });
        must!(listener.accept());
        connects(A.socket());
    }
    as_user(&|| check!(socket().connect(&to), Ok(())));
    must!(listener.accept());

    step!("the service type");
    {
        let _rule = Rule::new(&["tos", "0x10", "prohibit"]);
        let (level, option) = match v6() {
            true => (libc::SOL_IPV6, libc::IPV6_TCLASS),
            false => (libc::SOL_IP, libc::IP_TOS),
        };
        let sock = A.socket();
        must!(sock.set(level, option, 0x10));
        check!(sock.connect(&to), Err(Errno::EACCES));
        must!(sock.set(level, option, 0));
        connects(sock);
    }

    step!("the port");
    let port = to.to_v4().port().to_string();
    {
        let _rule = Rule::new(&["ipproto", "tcp", "dport", &port, "prohibit"]);
        let sock = A.socket();
        check!(sock.connect(&to), Err(Errno::EACCES));
        check!(
            must!(sock.name()).to_v4(),
            addr(Ipv4Addr::UNSPECIFIED, 0).to_v4()
        );
        let (_listener, elsewhere) = B.listen();
        check!(sock.connect(&elsewhere), Ok(()));
    }
    connects(A.socket());
}

fn connect_dontroute() {
    v4_only("it has no effect on IPv6");
    let (listener, to) = B.listen();
    let router = B.ip().to_string();
    let route = ["198.18.0.0/24", "via", &router];
    let change = |how| A.command(&[&["ip", "route", how][..], &route].concat());
    let direct = || {
        let sock = A.socket();
        must!(sock.set(libc::SOL_SOCKET, libc::SO_DONTROUTE, 1));
        sock
    };
    change("add");
    let refused = direct().connect(&addr(Ipv4Addr::new(198, 18, 0, 1), 7));
    change("del");
    check!(refused, Err(Errno::ENETUNREACH));
    let sock = direct();
    check!(sock.connect(&to), Ok(()));
    talk(&sock, &must!(listener.accept()));
}

fn connect_twice() {
    let (listener, to) = B.listen();
    let (_other, elsewhere) = B.listen();
    let at = |at: &Addr| {
        let sock = A.socket();
        must!(sock.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1));
        must!(sock.bind(at));
        sock
    };
    let first = at(&A.at(0));
    let name = must!(first.name());
    let second = at(&name);
    let third = at(&name);
    must!(third.set_nonblocking(true));
    check!(first.connect(&to), Ok(()));
    let server = must!(listener.accept());
    check!(second.connect(&to), Err(Errno::EADDRNOTAVAIL));
    check!(third.connect(&to), Err(Errno::EADDRNOTAVAIL));
    check!(must!(second.name()).to_v4(), name.to_v4());
    talk(&first, &server);

    step!("elsewhere");
    check!(second.connect(&elsewhere), Ok(()));
    check!(third.connect(&elsewhere), Err(Errno::EADDRNOTAVAIL));

    step!("once the first connection is gone");
    must!(first.set_linger(0));
    drop(first);
    drop(server);
    must!(third.set_nonblocking(false));
    let again = || match third.connect(&to) {
        Err(Errno::EADDRNOTAVAIL) => Err(Errno::EAGAIN),
        done => done,
    };
    check!(eventually(patience(10), again), Ok(()));
    talk(&third, &must!(listener.accept()));
}

fn connect_ports() {
    let _range = Setting::of(A, "ipv4/ip_local_port_range", "40200 40201");
    let from = || {
        let sock = A.socket();
        must!(sock.set(libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1));
        must!(sock.bind(&A.at(0)));
        sock
    };
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (listener, to) = B.listen();
        for _ in 0..2 {
            let sock = from();
            check!(sock.connect(&to), Ok(()));
            talk(&sock, &must!(listener.accept()));
            kept.push(sock);
        }
        check!(from().connect(&to), Err(Errno::EADDRNOTAVAIL));
    }
}

fn connect_unspec() {
    let (listener, to) = B.listen();
    let (a, b) = pair_of(&listener, &to);
    disconnect(&a);
    check_any!(b.recv(&mut [0], 0), [Ok(0), Err(Errno::ECONNRESET)]);
    check!(a.peer().map(drop), Err(Errno::ENOTCONN));
    check!(a.connect(&to), Ok(()));
    let b = must!(listener.accept());
    check!(a.send(b"again", 0), Ok(5));
    check!(b.recv_bytes(5), Ok(b"again".to_vec()));
}

fn connect_unspec_waiting() {
    let (listener, to) = B.listen();
    let waiting = |what: &str, number, call: &(dyn Fn(&Sock) -> Result<usize, Errno> + Sync)| {
        step!("{what} that waits for data");
        let (a, _b) = pair_of(&listener, &to);
        let (told, ()) = during(number, || call(&a), || disconnect(&a));
        check!(told, Err(Errno::EPIPE));
        check!(a.error(), Err(Errno::ECONNRESET));
        step!("{what} that waits for the connection");
        let a = A.socket();
        must!(a.set_nonblocking(true));
        check!(a.connect(&silent()), Err(Errno::EINPROGRESS));
        must!(a.set_nonblocking(false));
        let (told, ()) = during(number, || call(&a), || disconnect(&a));
        check!(told, Err(Errno::EPIPE));
    };
    waiting("recv()", libc::SYS_recvfrom, &|a| a.recv(&mut [0], 0));
    let (_read, write) = pipe();
    waiting("splice()", libc::SYS_splice, &|a| {
        splice(a.fd(), write.as_raw_fd(), 100, 0)
    });

    step!("send()");
    let (a, _b) = pair_of(&listener, &to);
    let bytes = vec![1; 16 << 20];
    while a.send(&bytes, libc::MSG_DONTWAIT).is_ok() {}
    let send = || a.send(&bytes, libc::MSG_NOSIGNAL);
    let (told, ()) = during(libc::SYS_sendto, send, || disconnect(&a));
    // The reason comes before the EPIPE.
    check!(told, Err(Errno::ECONNRESET));

    step!("connect()");
    let a = A.socket();
    let (told, ()) = during(
        libc::SYS_connect,
        || a.connect(&silent()),
        || disconnect(&a), //
    );
    check!(told, Err(Errno::EPIPE));
    check!(a.error(), Err(Errno::ECONNRESET));
    A.enter();
    check!(a.connect(&to), Ok(()));

    step!("accept()");
    let (other, _) = B.listen();
    let (told, ()) = during(
        libc::SYS_accept4,
        || other.accept().map(drop),
        || disconnect(&other),
    );
    check!(told, Err(Errno::EINVAL));
}

/// Closes `peer` so that `sock` is reset, and waits until it is.
pub(super) fn reset(sock: &Sock, peer: Sock, how: Reset) {
    match how {
        Reset::Unread => {
            check!(sock.send(b"unread", 0), Ok(6));
            assert_ne!(must!(peer.poll(libc::POLLIN, patience(5))), 0);
        }
        Reset::Linger => must!(peer.set_linger(0)),
    }
    drop(peer);
    assert_ne!(must!(sock.poll(0, patience(5))), 0, "no reset came");
}

/// Why a close resets the connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reset {
    /// It leaves data unread.
    Unread,
    /// `SO_LINGER` of 0 s.
    Linger,
}

fn connect_after_reset() {
    for how in [Reset::Unread, Reset::Linger] {
        let (listener, to) = B.listen();
        let (a, b) = pair_of(&listener, &to);
        reset(&a, b, how);
        disconnect(&a);
        step!("{how:?}: connects to nobody");
        let start = Instant::now();
        check!(a.connect(&silent()), Err(Errno::EHOSTUNREACH));
        let took = start.elapsed();
        assert!(took < patience(8), "took {took:?}");
        step!("{how:?}: connects again");
        check!(a.connect(&to), Ok(()));
        let b = must!(listener.accept());
        check!(a.send(b"again", 0), Ok(5));
        check!(b.recv_bytes(5), Ok(b"again".to_vec()));
    }
}

fn connect_abandoned() {
    let (listener, to) = B.listen();
    for round in 0..20 {
        step!("round {round}");
        let a = A.socket();
        must!(a.set_nonblocking(true));
        check!(a.connect(&to), Err(Errno::EINPROGRESS));
        // At every stage of the set-up, as far as time can choose it.
        thread::sleep(Duration::from_micros(200 * round));
    }
    let a = A.socket();
    must!(a.set_nonblocking(true));
    check!(a.connect(&silent()), Err(Errno::EINPROGRESS));
    drop(a);

    step!("what did get through ends, and a new connection works");
    let last = A.connect(&to);
    let name = must!(last.name()).to_v4();
    loop {
        let (server, from) = match listener.accept_from(0) {
            // A connection that was reset before it was accepted.
            Err(Errno::ECONNABORTED) => continue,
            result => must!(result),
        };
        if from.to_v4() == name {
            check!(server.send(b"x", 0), Ok(1));
            break;
        }
        check_any!(server.recv(&mut [0], 0), [Ok(0), Err(Errno::ECONNRESET)]);
    }
    check!(last.recv_bytes(1), Ok(b"x".to_vec()));
}

fn connect_abandoned_early() {
    let before = sockets_before();
    for delay in [0, 50, 100, 200, 400, 1000, 50_000, 250_000] {
        step!("closed {delay} us after it began to connect");
        let a = A.socket();
        must!(a.set_nonblocking(true));
        check!(a.connect(&silent()), Err(Errno::EINPROGRESS));
        thread::sleep(Duration::from_micros(delay));
    }
    check_closed(before);
}

fn connect_abandoned_reset() {
    let before = sockets_before();
    let (listener, to) = B.listen();
    for round in 0..30 {
        step!("round {round}");
        let (a, b) = pair();
        reset(&a, b, Reset::Linger);
        disconnect(&a);
        must!(a.set_nonblocking(true));
        // Except with iWARP, a listener keeps for a minute what goes in the middle of the set-up.
        let to = if iwarp() { to } else { silent() };
        check!(a.connect(&to), Err(Errno::EINPROGRESS));
    }
    drop(listener);
    check_closed(before);
}

/// The sockets that there are once those of the case before have closed.
pub(super) fn sockets_before() -> usize {
    becomes(patience(3), || sockets() == 0);
    sockets()
}

/// Checks that no more sockets are left than there were `before`.
pub(super) fn check_closed(before: usize) {
    // A request that comes while its listener closes gets no answer from the CM of iWARP, and siw
    // waits for one for ten seconds.
    let last = if iwarp() { 15 } else { 5 };
    let none = becomes(patience(last), || sockets() <= before);
    assert!(none, "{} sockets, before {before}", sockets());
}

fn connect_churn() {
    let (listener, to) = B.listen();
    let rounds = volume(200, 30);
    let server = spawn("server", move || {
        // Connections of a moment may overtake each other on their way into the queue.
        let mut seen = vec![0; rounds];
        for round in 0..rounds {
            step!("round {round}: accepts");
            let b = must!(listener.accept());
            step!("round {round}: receives");
            let bytes = must!(b.recv_to_end());
            check!(bytes.len(), 1);
            seen[usize::from(bytes[0])] += 1;
        }
        check!(seen, vec![1; rounds]);
    });
    for round in 0..rounds {
        step!("round {round}: connects");
        let a = A.connect(&to);
        check!(a.send(&[round as u8], 0), Ok(1));
    }
    join(server);
}

fn connect_crossing() {
    let (listener, to) = B.listen();
    let clients: Vec<_> = (0..8u8)
        .map(|number| {
            spawn("client", move || {
                let a = A.connect(&to);
                check!(a.send(&[number], 0), Ok(1));
                check!(a.recv_bytes(1), Ok(vec![number]));
            })
        })
        .collect();
    must!(listener.set_nonblocking(true));
    let mut served = Vec::new();
    while served.len() < clients.len() {
        let b = must!(eventually(patience(10), || listener.accept()));
        must!(b.set_nonblocking(false));
        let byte = must!(b.recv_bytes(1));
        check!(b.send(&byte, 0), Ok(1));
        served.push((byte, b));
    }
    clients.into_iter().for_each(join);
    served.sort_by(|a, b| a.0.cmp(&b.0));
    check!(
        served
            .iter()
            .flat_map(|(byte, _)| byte.clone())
            .collect::<Vec<_>>(),
        (0..8).collect::<Vec<u8>>()
    );
    assert!(becomes(patience(5), || {
        served
            .iter()
            .all(|(_, b)| b.recv(&mut [0], libc::MSG_DONTWAIT) == Ok(0))
    }));
}
