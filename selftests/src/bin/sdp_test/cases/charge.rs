// SPDX-License-Identifier: GPL-2.0

//! Memory that connections take: who is charged for it, and what bounds it.

use crate::{
    config::patience,
    harness::{
        cases,
        check,
        must,
        step,
        Child, //
    },
    peers::{
        becomes,
        command,
        pair,
        sdp_only,
        Setting,
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
    fs,
    path::Path,
    process,
    thread,
    time::Duration, //
};

cases! {
    charge_cgroup(60) "memory.max ends the connects of its cgroup with ENOBUFS, kills nobody, and stops nobody else",
    charge_limit(60) "net.sdp.mem ends connects with ENOBUFS; what is closed makes room again",
    charge_idle(30) "net.sdp.idle_timeout: a connection that has grown gives its buffers back as they are used",
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

/// Connects until that fails, at most `most` times: the connections, and the error.
fn connect_all(to: &Addr, most: usize) -> (Vec<Sock>, Option<Errno>) {
    let mut socks = Vec::new();
    while socks.len() < most {
        let sock = A.socket();
        // The peer may be short of memory too: it has this end come again.
        must!(sock.set_timeout(libc::SO_SNDTIMEO, Duration::from_secs(1)));
        match sock.connect(to) {
            Ok(()) => socks.push(sock),
            Err(Errno::EINPROGRESS) => (),
            Err(error) => return (socks, Some(error)),
        }
    }
    (socks, None)
}

fn charge_cgroup() {
    sdp_only("memory.max makes TCP wait");
    let cgroup = Path::new(CGROUP);
    let _ = fs::remove_dir(cgroup);
    must!(fs::create_dir(cgroup).map_err(Errno::from));
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

/// Runs sysctl in the host's network namespace.
fn host_sysctl(setting: &str) {
    command("nsenter", &["-t", "1", "-n", "sysctl", "-qw", setting]);
}

/// What `net.sdp.mem` of the host is.
fn host_mem() -> String {
    let words = ["-t", "1", "-n", "cat", "/proc/sys/net/sdp/mem"];
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
    let before = host_mem();
    host_sysctl(&format!("net.sdp.mem={high} {high} {high}"));
    let (socks, error) = connect_all(&to, 400);
    host_sysctl(&format!("net.sdp.mem={before}"));
    check!(host_mem(), before);
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

fn charge_idle() {
    sdp_only("TCP has no such setting");
    let _timeout = Setting::new("sdp/idle_timeout", "1");
    let (a, b) = pair();
    let first = must!(b.charged());
    step!("much that nobody reads");
    must!(a.set_nonblocking(true));
    let mut sent = 0;
    let grown = becomes(patience(10), || {
        while let Ok(n) = a.send(&[7; 2048], 0) {
            sent += n;
        }
        must!(b.charged()) >= first + 64 * PAGE
    });
    assert!(
        grown,
        "{} of {first} bytes after {sent}",
        must!(b.charged())
    );
    must!(b.recv_bytes(sent));
    step!("little after a pause");
    must!(a.set_nonblocking(false));
    // They are larger than at first, and this may take a few more.
    let most = first + 32 * PAGE;
    let shrunk = becomes(patience(10), || {
        thread::sleep(Duration::from_millis(2500));
        for _ in 0..40 {
            must!(a.send_all(b"x"));
            check!(b.recv(&mut [0; 2], 0), Ok(1));
        }
        must!(b.charged()) <= most
    });
    assert!(shrunk, "{} bytes, of {first} at first", must!(b.charged()));
}

fn charge_orphans() {
    sdp_only("TCP keeps its own number of them");
    let (listener, to) = B.listen();
    let pair = || {
        let client = A.connect(&to);
        (client, must!(listener.accept()))
    };
    let (first, second) = (pair(), pair());
    drop(first.0);
    check!(first.1.recv(&mut [0], 0), Ok(0));
    step!("none may be left behind");
    host_sysctl("net.sdp.max_orphans=0");
    drop(second.0);
    check!(second.1.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    host_sysctl("net.sdp.max_orphans=4096");
}
