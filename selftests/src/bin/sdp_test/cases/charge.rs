// SPDX-License-Identifier: GPL-2.0

//! Memory that connections take: who is charged for it, and what bounds it.

use super::connect::disconnect;
use crate::{
    config::{
        self,
        moment,
        patience,
        volume, //
    },
    harness::{
        cases,
        check,
        must,
        skip,
        step,
        Child, //
    },
    peers::{
        addr,
        becomes,
        command,
        pair,
        pair_bounded,
        pair_of,
        sdp_only,
        Setting,
        A,
        B, //
    },
    zcopy::{
        threshold,
        together,
        THRESHOLD, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::{
        Addr,
        Shut,
        Sock, //
    },
};
use std::{
    fs,
    io::{
        Read,
        Write, //
    },
    net::{
        Ipv4Addr,
        Shutdown, //
    },
    os::unix::net::UnixStream,
    path::Path,
    process, thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    charge_cgroup(60) "memory.max ends the connects of its cgroup with ENOBUFS, kills nobody, and stops nobody else",
    charge_full(60) "what waits for memory of a full cgroup does so beside the work of others",
    charge_bound(10) "a socket that is bound is charged for its port, and gives that back",
    charge_limit(60) "net.sdp.mem ends connects with ENOBUFS; what is closed makes room again",
    charge_requests(30) "requests that wait, and connects that look for their peer, are charged",
    charge_disconnect(10) "connect(AF_UNSPEC) gives back what was not read",
    charge_idle(30) "net.sdp.idle_timeout: a connection that has grown gives its buffers back",
    charge_rmem(30) "net.sdp.rmem: SO_RCVBUF bounds what is not read, and grows with a reader unless it was set",
    charge_rcvbuf(90) "SO_RCVBUF bytes can be sent before any is read, however they are written, in bounded memory",
    charge_rcvbuf_full(60) "a program whose receive buffer is full sends to one that reads",
    charge_slow_reader(60) "net.sdp.rmem: SO_RCVBUF does not grow for a reader that is slower than its peer",
    charge_orphans(30) "net.sdp.max_orphans: a connection more than that is reset at its close",
}

/// Bytes of a page.
const PAGE: u32 = 4096;

/// A memory cgroup of the case's own.
const CGROUP: &str = "/sys/fs/cgroup/sdp_test_charge";

fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    if let Err(error) = fs::write(path, text) {
        panic!("{}: {error}", path.display());
    }
}

/// Makes the cgroup.
fn new_cgroup() -> &'static Path {
    let cgroup = Path::new(CGROUP);
    let _ = fs::remove_dir(cgroup);
    must!(fs::create_dir(cgroup).map_err(Errno::from));
    cgroup
}

/// Connects until that fails, at most `most` times: the connections, and the error.
fn connect_all(to: &Addr, most: usize) -> (Vec<Sock>, Option<Errno>) {
    let mut socks = Vec::new();
    // They take memory, so that there is an end.
    let mut waiting = Vec::new();
    while socks.len() < most {
        let sock = A.socket();
        // The peer may be short of memory too: it has this end come again.
        must!(sock.set_timeout(libc::SO_SNDTIMEO, Duration::from_secs(1)));
        match sock.connect(to) {
            Ok(()) => socks.push(sock),
            Err(Errno::EINPROGRESS) => waiting.push(sock),
            Err(error) => return (socks, Some(error)),
        }
    }
    (socks, None)
}

fn charge_cgroup() {
    sdp_only("memory.max makes TCP wait");
    let cgroup = new_cgroup();
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(1000));
    let to = must!(listener.name());
    let child = Child::start(|| {
        // What the process itself has stays charged elsewhere.
        write(cgroup.join("memory.max"), &(16 << 20).to_string());
        // A kernel without swap has no such file.
        let swap = cgroup.join("memory.swap.max");
        if swap.exists() {
            write(swap, "0");
        }
        write(cgroup.join("cgroup.procs"), &process::id().to_string());
        let (socks, error) = connect_all(&to, 600);
        let Some(error) = error else {
            panic!("{} connections in 16 MiB", socks.len());
        };
        assert!(
            error == Errno::ENOBUFS || error == Errno::ENOMEM,
            "expected ENOBUFS or ENOMEM\n     got {error}, after {} connections",
            socks.len()
        );
        // They take some 60 KiB.
        assert!(socks.len() > 100, "{} connections in 16 MiB", socks.len());
        step!("what is there still works");
        check!(socks[0].send(b"x", 0), Ok(1));
        for sock in &socks {
            must!(sock.set_linger(0));
        }
        drop(socks);
        step!("what was reset makes room");
        let again = becomes(patience(10), || connect_all(&to, 10).0.len() == 10);
        assert!(again, "no room for 10 connections");
    });
    check!(child.wait(), 0);
    step!("others are not concerned");
    let (socks, error) = connect_all(&to, 10);
    check!((socks.len(), error), (10, None));
    let events = must!(fs::read_to_string(cgroup.join("memory.events")).map_err(Errno::from));
    assert!(events.contains("oom_kill 0"), "{events}");
    drop((socks, listener));
    must!(fs::remove_dir(cgroup).map_err(Errno::from));
}

/// The kernel's workers that are at work for the module's `queue`, and reclaim memory, or wait for
/// somebody who charges it.
fn workers_that_wait(queue: &str) -> usize {
    let processes = must!(fs::read_dir("/proc").map_err(Errno::from));
    let charges = |path: &Path| {
        // Many a process has ended meanwhile.
        let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default();
        let waits = |stack: String| {
            stack.contains("try_to_free_mem") || stack.contains("mutex") && stack.contains("charge")
        };
        read("comm").trim_end().ends_with(&format!("+{queue}")) && waits(read("stack"))
    };
    processes
        .flatten()
        .filter(|entry| charges(&entry.path()))
        .count()
}

fn charge_full() {
    sdp_only("TCP charges a connection when it is accepted");
    if config::get().patience > 1 {
        skip("on a slow kernel the clients that ask again take all of its time");
    }
    let cgroup = new_cgroup();
    let (elsewhere, to) = B.listen();
    let (inside, outside) = must!(UnixStream::pair().map_err(Errno::from));
    let child = Child::start(|| {
        write(cgroup.join("memory.max"), &(4 << 20).to_string());
        write(cgroup.join("cgroup.procs"), &process::id().to_string());
        let (_listener, own) = B.listen();
        let (socks, error) = connect_all(&to, 600);
        assert!(error.is_some(), "{} connections in 4 MiB", socks.len());
        let port = own.to_v4().port().to_ne_bytes();
        must!((&inside).write_all(&port).map_err(Errno::from));
        let _ = (&inside).read(&mut [0]);
    });
    let mut port = [0; 2];
    must!((&outside).read_exact(&mut port).map_err(Errno::from));
    let full = B.at(u16::from_ne_bytes(port));
    let connect = |_| {
        let sock = A.socket();
        must!(sock.set_nonblocking(true));
        check!(sock.connect(&full), Err(Errno::EINPROGRESS));
        sock
    };
    let socks: Vec<Sock> = (0..60).map(connect).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        // One or two may just have met.
        let waiting = workers_that_wait("sdp");
        assert!(waiting < 5, "{waiting} workers wait");
    }
    step!("others connect meanwhile");
    let (others, error) = connect_all(&to, 10);
    check!((others.len(), error), (10, None));
    drop(socks);
    // The child has this end too.
    must!(outside.shutdown(Shutdown::Both).map_err(Errno::from));
    check!(child.wait(), 0);
    drop((others, elsewhere));
    must!(fs::remove_dir(cgroup).map_err(Errno::from));
}

fn charge_bound() {
    sdp_only("TCP does not charge for ports");
    let sock = B.socket();
    check!(sock.charged(), Ok(0));
    must!(sock.bind(&B.at(0)));
    check!(sock.charged(), Ok(PAGE));
    must!(sock.listen(1));
    assert!(must!(sock.charged()) >= PAGE);
    must!(sock.shutdown(Shut::Both));
    check!(sock.charged(), Ok(PAGE));
}

/// Runs sysctl in the host's network namespace.
fn host_sysctl(setting: &str) {
    command("nsenter", &["-t", "1", "-n", "sysctl", "-qw", setting]);
}

/// What a setting of `net.sdp` of the host is.
fn host_setting(name: &str) -> String {
    let path = format!("/proc/sys/net/sdp/{name}");
    let words = ["-t", "1", "-n", "cat", &path];
    let output = must!(process::Command::new("nsenter")
        .args(words)
        .output()
        .map_err(Errno::from));
    String::from_utf8_lossy(&output.stdout)
        .replace('\t', " ")
        .trim()
        .to_owned()
}

/// A number of `/proc/net/sdp_stat`.
pub(super) fn of_host(name: &str) -> u64 {
    let text = must!(fs::read_to_string("/proc/thread-self/net/sdp_stat").map_err(Errno::from));
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

fn charge_limit() {
    sdp_only("net.ipv4.tcp_mem makes TCP wait");
    A.enter();
    let (listener, to) = B.listen();
    // The kernel's CPUs keep a part of what they count, which this is well above.
    let high = of_host("memory_pages") + 2048;
    let before = host_setting("mem");
    // What is refused is traced, too.
    let trace = Path::new("/sys/kernel/tracing/events/sock/sock_exceed_buf_limit/enable");
    let traces = trace.exists();
    if traces {
        write(trace, "1");
    }
    host_sysctl(&format!("net.sdp.mem={high} {high} {high}"));
    let (socks, error) = connect_all(&to, 400);
    host_sysctl(&format!("net.sdp.mem={before}"));
    check!(host_setting("mem"), before);
    if traces {
        write(trace, "0");
    }
    check!(error, Some(Errno::ENOBUFS));
    assert!(
        socks.len() < 200,
        "{} connections in 2048 pages",
        socks.len()
    );
    step!("there is room again");
    let (more, error) = connect_all(&to, 5);
    check!((more.len(), error), (5, None));
    drop((socks, more, listener));
}

fn charge_requests() {
    sdp_only("TCP does not charge requests");
    // That of a connection and its cm id.
    const EACH: u32 = 2 * PAGE;
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(0));
    let to = must!(listener.name());
    let connect = |to: &Addr| {
        let sock = A.socket();
        must!(sock.set_nonblocking(true));
        check!(sock.connect(to), Err(Errno::EINPROGRESS));
        sock
    };
    let socks: Vec<Sock> = (0..21).map(|_| connect(&to)).collect();
    for sock in &socks {
        assert!(must!(sock.charged()) >= EACH);
    }
    let charged = becomes(patience(5), || must!(listener.charged()) > 21 * EACH);
    assert!(charged, "{} bytes", must!(listener.charged()));
    drop(socks);

    step!("a host that does not answer");
    let sock = connect(&addr(Ipv4Addr::new(10, 27, 0, 99), 7));
    check!(sock.charged(), Ok(EACH));
    drop((sock, listener));
}

fn charge_disconnect() {
    sdp_only("TCP's memory is charged otherwise");
    let (a, b) = pair();
    fill(&a);
    let charged = must!(b.charged());
    assert!(charged > 16 * PAGE, "{charged} bytes of unread data");
    disconnect(&b);
    let freed = becomes(patience(5), || must!(b.charged()) <= 2 * PAGE);
    assert!(freed, "{} bytes", must!(b.charged()));
}

fn charge_idle() {
    sdp_only("TCP has no such setting");
    let _timeout = Setting::new("sdp/idle_timeout", "1");
    let _of_sender = Setting::of(A, "sdp/idle_timeout", "1");
    let (a, b) = pair();
    let first = must!(b.charged());
    step!("much that is read late");
    let grown = becomes(patience(10), || {
        let sent = fill(&a);
        let charged = must!(b.charged());
        must!(b.recv_bytes(sent));
        charged >= first + 64 * PAGE
    });
    assert!(grown, "{} of {first} bytes", must!(b.charged()));
    step!("nothing for a while");
    let shrunk = becomes(patience(10), || must!(b.charged()) <= first + 4 * PAGE);
    assert!(shrunk, "{} bytes, of {first} at first", must!(b.charged()));
}

/// Sends until the peer takes no more for a while; how many bytes.
fn fill(sock: &Sock) -> usize {
    let mut sent = 0;
    loop {
        match sock.send(&[7; 4000], libc::MSG_DONTWAIT) {
            Ok(n) => sent += n,
            Err(error) => {
                check!(error, Errno::EAGAIN);
                if must!(sock.poll(libc::POLLOUT, Duration::from_millis(300))) == 0 {
                    return sent;
                }
            }
        }
    }
}

fn charge_rmem() {
    sdp_only("TCP has net.ipv4.tcp_rmem");
    let rcvbuf = |sock: &Sock| must!(sock.get(libc::SOL_SOCKET, libc::SO_RCVBUF)) as usize;
    let (default, most) = (131_072, 262_144);
    let rmem = Setting::new("sdp/rmem", &format!("16384 {default} {most}"));
    for wrong in ["0", "16384 0", "16384 131072 x", "16384 131072 2147483647"] {
        check!(rmem.try_set(wrong), Err(Errno::EINVAL));
    }
    let (listener, to) = B.listen();
    check!(rcvbuf(&listener), default);

    step!("nobody reads");
    let (a, b) = pair_of(&listener, &to);
    let mut sent = fill(&a);
    // Buffers are counted whole, and one of 16 KiB may have a message of 4000 bytes.
    let held = unread(&b);
    assert!(
        (default / 5..=default).contains(&held),
        "{held} bytes are unread"
    );
    check!(rcvbuf(&b), default);

    step!("a reader that keeps up");
    let grown = becomes(patience(10), || {
        must!(b.recv_bytes(sent));
        sent = fill(&a);
        rcvbuf(&b) == most
    });
    assert!(grown, "SO_RCVBUF is {}", rcvbuf(&b));
    let held = unread(&b);
    assert!((most / 5..=most).contains(&held), "{held} bytes are unread");

    step!("one that has set it");
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000));
    let (a, b) = pair_of(&listener, &to);
    for _ in 0..3 {
        let sent = fill(&a);
        assert!(unread(&b) <= 40_000, "{} bytes are unread", unread(&b));
        must!(b.recv_bytes(sent));
        check!(rcvbuf(&b), 40_000);
    }
}

fn unread(sock: &Sock) -> usize {
    must!(sock.ioctl(libc::FIONREAD)) as usize
}

/// Whether `condition` holds within a moment, which is often much less.
fn soon(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + moment();
    while !condition() {
        if Instant::now() >= end {
            return condition();
        }
        thread::yield_now();
    }
    true
}

/// Sends `stream` by writes of these lengths in turn, until the peer takes no more for a while: how
/// many bytes. As long as `alone` and the peer can, each write arrives before the next.
fn write_all(a: &Sock, b: &Sock, stream: &[u8], writes: &[usize], mut alone: bool) -> usize {
    let mut sent = 0;
    for len in writes.iter().cycle() {
        let end = stream.len().min(sent + len);
        match a.send(&stream[sent..end], libc::MSG_DONTWAIT) {
            Ok(n) => sent += n,
            Err(error) => {
                check!(error, Errno::EAGAIN);
                if must!(a.poll(libc::POLLOUT, moment())) == 0 {
                    break;
                }
            }
        }
        alone = alone && soon(|| unread(b) >= sent);
        assert!(sent < stream.len(), "nothing stops it");
    }
    sent
}

fn charge_rcvbuf() {
    sdp_only("TCP's memory is charged otherwise");
    const LARGE: usize = 16 << 10;
    let stream: Vec<u8> = (0..2 << 20).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    for (bytes, writes, alone) in [
        (4 << 10, &[1][..], false),
        (4 << 10, &[100], false),
        (4 << 10, &[1, 4080], true),
        (4 << 10, &[4096], false),
        (64 << 10, &[100], false),
        (64 << 10, &[1000], true),
        (64 << 10, &[1100, 4080], true),
        (64 << 10, &[4096], false),
        (64 << 10, &[64 << 10], false),
        (256 << 10, &[1000], false),
        (256 << 10, &[2100], true),
        (256 << 10, &[1025, 16368], true),
        (256 << 10, &[4080], false),
        (256 << 10, &[8200], true),
        (256 << 10, &[64 << 10], false),
    ] {
        if config::slow() && bytes > 64 << 10 {
            // Two minutes, there.
            continue;
        }
        let how = if alone { "one by one" } else { "at once" };
        step!("{bytes} bytes, in writes of {writes:?}, {how}");
        let (listener, to) = B.listen();
        must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes as i32));
        let most = 2 * bytes;
        let a = A.socket();
        must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 16 << 10));
        must!(a.connect(&to));
        let b = must!(listener.accept());
        check!(b.get(libc::SOL_SOCKET, libc::SO_RCVBUF), Ok(most as i32));
        must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
        let first = must!(b.charged());
        let sent = write_all(&a, &b, &stream, writes, alone);
        let held = unread(&b);
        assert!(held >= bytes, "only {held} bytes fit, of {sent}");
        // There are always four buffers, which are large if so many fit.
        let each = if most < 4 * LARGE {
            PAGE as usize
        } else {
            LARGE
        };
        let charged = || (must!(b.charged()) - first + 4 * PAGE) as usize;
        // Each has a place in two queues.
        let queues = most / PAGE as usize * 128;
        let is_bounded = becomes(patience(5), || charged() <= most + 4 * each + queues);
        assert!(is_bounded, "{held} bytes take {} of {most}", charged());
        let came = must!(b.recv_bytes(sent));
        assert!(came == stream[..sent], "other bytes come");
    }
}

fn charge_rcvbuf_full() {
    sdp_only("TCP's window says nothing of its own messages");
    let stream = vec![1; 1 << 20];
    for lent in [false, true] {
        for writes in [&[1100][..], &[1025, 4080], &[4080]] {
            step!("writes of {writes:?}, lent: {lent}");
            let (a, b) = pair_bounded(16 << 10, 64 << 10);
            must!(a.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
            threshold(&b, if lent { THRESHOLD } else { 0 });
            // In the end more waits than is good for small buffers: larger ones are asked for.
            write_all(&a, &b, &stream, writes, true);
            let bytes = vec![2; volume(1 << 20, 256 << 10)];
            let (sent, got) = together(|| b.send_all(&bytes), || a.recv_bytes(bytes.len()));
            check!(sent, Ok(()));
            assert!(must!(got) == bytes, "other bytes come");
        }
    }
}

fn charge_slow_reader() {
    sdp_only("TCP has net.ipv4.tcp_rmem");
    const PIECE: usize = 4096;
    let default = 65_536;
    let _rmem = Setting::new("sdp/rmem", &format!("16384 {default} 1048576"));
    let (a, b) = pair();
    let rcvbuf = || must!(b.get(libc::SOL_SOCKET, libc::SO_RCVBUF));
    let mut sent = fill(&a);
    for _ in 0..(1 << 20) / PIECE {
        // The peer always has more, and never waits for long.
        while let Ok(n) = a.send(&[7; PIECE], libc::MSG_DONTWAIT) {
            sent += n;
        }
        let comes = becomes(patience(5), || unread(&b) >= 2 * PIECE);
        assert!(comes, "{} bytes are unread", unread(&b));
        sent -= must!(b.recv_bytes(PIECE)).len();
        check!(rcvbuf(), default);
    }
    step!("it keeps up now");
    let grown = becomes(patience(10), || {
        must!(b.recv_bytes(sent));
        sent = fill(&a);
        rcvbuf() > default
    });
    assert!(grown, "SO_RCVBUF is {}", rcvbuf());
}

fn charge_orphans() {
    sdp_only("TCP keeps its own number of them");
    let (listener, to) = B.listen();
    let pair = || {
        let client = A.connect(&to);
        (client, must!(listener.accept()))
    };
    let before = host_setting("max_orphans");
    let none_counts = || becomes(patience(5), || of_host("orphans") == 0);
    step!("those that wait for the peer's close do not count");
    assert!(none_counts());
    host_sysctl("net.sdp.max_orphans=1");
    let closed: Vec<Sock> = (0..3)
        .map(|_| {
            let (client, server) = pair();
            drop(client);
            check!(server.recv(&mut [0], 0), Ok(0));
            assert!(none_counts());
            server
        })
        .collect();
    step!("none may be left behind");
    let (client, server) = pair();
    host_sysctl("net.sdp.max_orphans=0");
    drop(client);
    check!(server.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    host_sysctl(&format!("net.sdp.max_orphans={before}"));
    drop(closed);
}
