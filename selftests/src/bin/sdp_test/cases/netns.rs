// SPDX-License-Identifier: GPL-2.0

//! Network namespaces: their settings, and their end.

use crate::{
    config::patience,
    harness::{
        cases,
        check,
        must,
        step, //
    },
    peers::{
        addr,
        becomes,
        command,
        family,
        iwarp,
        pair,
        rdma_add,
        sdp_only,
        A,
        B, //
    },
};
use sdp_selftests::{
    errno::Errno,
    namespace,
    sdp::Stats,
    sock::Sock, //
};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt,
    path::Path, //
};

cases! {
    netns_sysctl(10) "net.sdp: each namespace has its own values, which refuse what is out of range",
    netns_stat(20) "/proc/net/sdp_stat: each namespace has its own, with the names of struct sdp_stats",
    netns_empty(10) "a namespace without any network: ENETUNREACH",
    netns_deleted(60) "a namespace deleted with live sockets lives until they are closed, and then goes",
}

const SYSCTL: &str = "/proc/sys/net/sdp";

fn read(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().to_string(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn netns_sysctl() {
    sdp_only("net.sdp is not TCP's");
    A.enter();
    let files = match fs::read_dir(SYSCTL) {
        Ok(files) => files,
        Err(error) => panic!("{SYSCTL}: {error}"),
    };
    let mut count = 0;
    for file in files.flatten() {
        let path = file.path();
        let value = read(&path);
        step!("{} is {value}", path.display());
        let write = |text: &str| fs::write(&path, text).map_err(Errno::from);
        let Ok(number) = value.parse::<i64>() else {
            continue;
        };
        count += 1;
        let is_writable = || {
            let metadata = fs::metadata(&path);
            let metadata = must!(metadata.map_err(Errno::from));
            metadata.mode() & 0o200 != 0
        };
        if !is_writable() {
            step!("{} is the host's to set", path.display());
            check!(write(&value), Err(Errno::EACCES));
            continue;
        }
        for nonsense in ["-1", "99999999999999999999", "no number"] {
            let result = write(nonsense);
            assert!(
                result == Err(Errno::EINVAL) || result == Err(Errno::ERANGE),
                "{} takes {nonsense:?}\nexpected Err(EINVAL)\n     got {result:?}",
                path.display()
            );
            check!(&read(&path), &value);
        }
        // Another value that is in range; B's stays, unless A is the host, and it is the host's to
        // set.
        B.enter();
        let own = is_writable().then(|| read(&path));
        A.enter();
        let taken = [number + 1, number - 1, number * 2, 0, 1, 4096, 8192, 65536]
            .into_iter()
            .find(|other| *other != number && write(&other.to_string()) == Ok(()));
        let Some(taken) = taken else {
            panic!("{} takes no other value than {number}", path.display());
        };
        check!(read(&path), taken.to_string());
        B.enter();
        check!(read(&path), own.unwrap_or(taken.to_string()));
        A.enter();
        check!(write(&value), Ok(()));
        check!(&read(&path), &value);
    }
    assert!(count > 0, "{SYSCTL} has no values");
}

fn netns_stat() {
    sdp_only("TCP has no such file");
    // The fields, in order, as programs know them.
    let header = include_str!("../../../../../include/uapi/linux/sdp.h");
    let fields: Vec<_> = header
        .lines()
        .filter_map(|line| line.trim().strip_prefix("__u64 ")?.split(';').next())
        .collect();
    assert!(fields.len() > 20, "{fields:?}");
    let extra = Extra::new();
    extra.enter();
    let path = Path::new("/proc/thread-self/net/sdp_stat");
    let text = read(path);
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let (counters, of_host) = names.split_at(fields.len());
    check!(counters, &fields);
    check!(of_host, &["memory_pages", "orphans"]);
    check!(must!(Stats::of_namespace()), Stats::default());

    let (_a, b) = pair();
    check!(must!(Stats::of(&b)), Stats::default());
    check!(must!(Stats::of(&B.socket())), Stats::default());
}

/// A namespace of the case's own, deleted before and after.
pub(super) struct Extra(String);

impl Extra {
    pub(super) fn new() -> Self {
        let name = format!("{}-extra", A.netns());
        if Path::new("/run/netns").join(&name).exists() {
            command("ip", &["netns", "del", &name]);
        }
        command("ip", &["netns", "add", &name]);
        Self(name)
    }

    /// Turns its loopback interface on.
    pub(super) fn up(&self) {
        command("ip", &["-n", &self.0, "link", "set", "lo", "up"]);
    }

    pub(super) fn enter(&self) {
        if let Err(error) = namespace::enter(&self.0) {
            panic!("{error}");
        }
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        command("ip", &["netns", "del", &self.0]);
    }
}

fn netns_empty() {
    let extra = Extra::new();
    extra.up();
    extra.enter();
    let sock = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
    check!(sock.connect(&B.at(1)), Err(Errno::ENETUNREACH));
    check!(sock.bind(&B.at(0)), Err(Errno::EADDRNOTAVAIL));
}

fn netns_deleted() {
    if crate::config::get().patience > 1 && !crate::config::tcp() && !iwarp() {
        // rxe unregisters its device from a work of its own, and the kernel warns of an interface
        // that is held for ten seconds.
        crate::harness::skip(
            "on a slow kernel rxe holds the interface of a deleted namespace for too long",
        );
    }
    let extra = Extra::new();
    let (here, there) = (Ipv4Addr::new(10, 29, 0, 1), Ipv4Addr::new(10, 29, 0, 2));
    command(
        "ip",
        &[
            "-n",
            A.netns(),
            "link",
            "add",
            "v4",
            "mtu",
            "9000",
            "type",
            "veth",
            "peer",
            "name",
            "v5",
            "netns",
            &extra.0,
        ],
    );
    command(
        "ip",
        &["-n", A.netns(), "addr", "add", "10.29.0.1/24", "dev", "v4"],
    );
    command(
        "ip",
        &["-n", &extra.0, "addr", "add", "10.29.0.2/24", "dev", "v5"],
    );
    command("ip", &["-n", A.netns(), "link", "set", "v4", "up"]);
    command("ip", &["-n", &extra.0, "link", "set", "v5", "up"]);
    extra.up();
    if !crate::config::tcp() {
        rdma_add(A.netns(), "rdma_v4", "v4");
        rdma_add(&extra.0, "rdma_v5", "v5");
    }
    extra.enter();
    let listener = must!(Sock::new(family(), libc::SOCK_STREAM, 0));
    must!(listener.bind(&addr(there, 0)));
    must!(listener.listen(4));
    let to = must!(listener.name());
    step!("connects");
    let client = A.socket();
    // The device's addresses become known to RDMA a moment after it was made.
    let connected = becomes(patience(5), || client.connect(&to).is_ok());
    assert!(connected, "connect(): {:?}", client.connect(&to));
    let server = must!(listener.accept());
    check!(must!(client.name()).to_v4().ip(), &here);

    step!("deletes the namespace");
    A.enter();
    drop(extra);
    for _ in 0..3 {
        check!(client.send(b"there", 0), Ok(5));
        check!(server.recv_bytes(5), Ok(b"there".to_vec()));
        check!(server.send(b"back", 0), Ok(4));
        check!(client.recv_bytes(4), Ok(b"back".to_vec()));
    }

    step!("closes the last sockets of the namespace");
    drop(server);
    drop(listener);
    check!(client.recv(&mut [0], 0), Ok(0));
    drop(client);
    // With the namespace goes its end of the pair, and so this one.
    let gone = || {
        must!(std::process::Command::new("ip")
            .args(["-n", A.netns(), "link", "show", "dev", "v4"])
            .output()
            .map_err(|error| error.to_string()))
        .stdout
        .is_empty()
    };
    assert!(becomes(patience(20), gone), "the namespace is still there");
}
