// SPDX-License-Identifier: GPL-2.0

//! The two sides of every test: a namespace, an address, and the sockets made there.

use crate::{
    config, faults,
    harness::{
        check,
        join_scoped,
        must,
        skip, //
    },
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    namespace,
    sock::{
        v6_for,
        Addr,
        Sock, //
    },
};
use std::{
    env, fs, io,
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    path::Path,
    process::Command,
    sync::{
        mpsc,
        OnceLock, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

const THRESHOLD: &str = "/proc/sys/net/sdp/zcopy_threshold";

/// What `net.core.somaxconn` is at first.
pub(crate) const SOMAXCONN: u32 = 4096;

/// One side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

pub(crate) use Side::{
    A,
    B, //
};

impl Side {
    /// The name of its namespace.
    pub(crate) fn netns(self) -> &'static str {
        &config::get().netns[self as usize]
    }

    /// The interface that leads to the other side.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            A => "v0",
            B => "v1",
        }
    }

    /// The RDMA device on that interface.
    pub(crate) fn device(self) -> &'static str {
        match self {
            A => "rdma_a",
            B => "rdma_b",
        }
    }

    /// Its address.
    pub(crate) fn ip(self) -> Ipv4Addr {
        match self {
            A => Ipv4Addr::new(10, 27, 0, 1),
            B => Ipv4Addr::new(10, 27, 0, 2),
        }
    }

    /// Its address and a port.
    pub(crate) fn at(self, port: u16) -> Addr {
        addr(self.ip(), port)
    }

    /// Moves the calling thread here.
    pub(crate) fn enter(self) {
        if let Err(error) = namespace::enter(self.netns()) {
            panic!("{error}");
        }
    }

    /// A new stream socket here.
    pub(crate) fn socket(self) -> Sock {
        self.enter();
        must!(Sock::new(family(), libc::SOCK_STREAM, 0))
    }

    /// A listener here, on a port of the kernel's choice.
    pub(crate) fn listen(self) -> (Sock, Addr) {
        let sock = self.socket();
        must!(sock.bind(&self.at(0)));
        must!(sock.listen(128));
        let addr = must!(sock.name());
        (sock, addr)
    }

    /// A socket here, connected to `addr`.
    pub(crate) fn connect(self, addr: &Addr) -> Sock {
        let sock = self.socket();
        must!(sock.connect(addr));
        sock
    }

    /// Does `work` here, and leaves the calling thread where it is.
    pub(crate) fn visit<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            join_scoped(scope.spawn(|| {
                self.enter();
                work()
            }))
        })
    }

    /// `net.sdp.zcopy_threshold` here.
    pub(crate) fn threshold(self) -> io::Result<u32> {
        let text = self.visit(|| fs::read_to_string(THRESHOLD))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Sets `net.sdp.zcopy_threshold` here.
    pub(crate) fn set_threshold(self, bytes: i64) -> io::Result<()> {
        self.visit(|| fs::write(THRESHOLD, bytes.to_string()))
    }

    /// Sets `net.core.somaxconn` here.
    pub(crate) fn set_somaxconn(self, connections: u32) -> io::Result<()> {
        self.visit(|| fs::write("/proc/sys/net/core/somaxconn", connections.to_string()))
    }

    /// Runs a command here; it must succeed.
    pub(crate) fn command(self, words: &[&str]) {
        let mut ip = vec!["netns", "exec", self.netns()];
        ip.extend(words);
        command("ip", &ip);
    }
}

/// Sets a file below `/proc/sys/net` for as long as it lives.
pub(crate) struct Setting {
    side: Side,
    path: String,
    former: String,
}

impl Setting {
    /// In B.
    pub(crate) fn new(name: &str, value: &str) -> Self {
        Self::of(B, name, value)
    }

    pub(crate) fn of(side: Side, name: &str, value: &str) -> Self {
        let path = format!("/proc/sys/net/{name}");
        let former = side.visit(|| must!(fs::read_to_string(&path).map_err(Errno::from)));
        let this = Self { side, path, former };
        this.set(value);
        this
    }

    fn set(&self, value: &str) {
        must!(self.try_set(value));
    }

    /// Sets it to something else.
    pub(crate) fn try_set(&self, value: &str) -> Result<()> {
        self.side
            .visit(|| fs::write(&self.path, value).map_err(Errno::from))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.set(&self.former);
    }
}

/// The first argument of `socket()`.
pub(crate) fn family() -> libc::c_int {
    config::get().family.number()
}

/// Does `meanwhile` once another thread sleeps in `call`, the system call of this number: what both
/// give.
pub(crate) fn during<T: Send, U>(
    number: libc::c_long,
    call: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce() -> U,
) -> (T, U) {
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let caller = scope.spawn(move || {
            // SAFETY: It takes no memory.
            let _ = tell.send(unsafe { libc::gettid() });
            call()
        });
        let at = format!("/proc/self/task/{}/syscall", must!(told.recv()));
        let number = format!("{number} ");
        let sleeps = || fs::read_to_string(&at).is_ok_and(|text| text.starts_with(&number));
        assert!(
            becomes(config::patience(3), sleeps),
            "it sleeps in the call"
        );
        let meanwhile = meanwhile();
        (join_scoped(caller), meanwhile)
    })
}

/// The family and the length of an address that the kernel gives.
pub(crate) fn inet() -> (libc::c_int, usize) {
    if config::v6() {
        (libc::AF_INET6, size_of::<libc::sockaddr_in6>())
    } else {
        (libc::AF_INET, size_of::<libc::sockaddr_in>())
    }
}

/// An `AF_INET` address, or the one of `AF_INET6` that stands for it.
pub(crate) fn addr(ip: Ipv4Addr, port: u16) -> Addr {
    if config::v6() {
        return Addr::v6(v6_for(ip), port);
    }
    Addr::v4(libc::AF_INET, SocketAddrV4::new(ip, port))
}

/// Has both ends say something.
pub(crate) fn talk(client: &Sock, server: &Sock) {
    check!(client.send(b"question", 0), Ok(8));
    check!(server.recv_bytes(8), Ok(b"question".to_vec()));
    check!(server.send(b"answer", 0), Ok(6));
    check!(client.recv_bytes(6), Ok(b"answer".to_vec()));
}

/// A connection: its end in A, which connected, and its end in B, which accepted.
pub(crate) fn pair() -> (Sock, Sock) {
    let (listener, addr) = B.listen();
    pair_of(&listener, &addr)
}

/// A connection to `listener`.
pub(crate) fn pair_of(listener: &Sock, addr: &Addr) -> (Sock, Sock) {
    let a = A.connect(addr);
    let b = must!(listener.accept());
    (a, b)
}

/// A connection from A to B, with `SO_SNDBUF` of A's end and `SO_RCVBUF` of B's.
pub(crate) fn pair_bounded(sndbuf: libc::c_int, rcvbuf: libc::c_int) -> (Sock, Sock) {
    let (listener, to) = B.listen();
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUF, rcvbuf));
    let a = A.socket();
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, sndbuf));
    must!(a.connect(&to));
    let b = must!(listener.accept());
    (a, b)
}

/// Leaves the case out where sockets are TCP's.
pub(crate) fn sdp_only(reason: &str) {
    if config::tcp() {
        skip(reason);
    }
}

/// Leaves the case out where sockets are over IPv6.
pub(crate) fn v4_only(reason: &str) {
    if config::v6() {
        skip(reason);
    }
}

/// Runs a command, which must succeed.
pub(crate) fn command(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output();
    match output {
        Err(error) => panic!("{program}: {error}"),
        Ok(output) if !output.status.success() => panic!(
            "{program} {}: {}\n{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Ok(_) => (),
    }
}

/// Repeats `call` while it says `EAGAIN`, until `timeout`: for what another thread or the peer is
/// about to do.
pub(crate) fn eventually<T>(timeout: Duration, mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + timeout;
    loop {
        match call() {
            Err(Errno::EAGAIN) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// Waits until `condition` holds, for at most `timeout`: whether it does.
pub(crate) fn becomes(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    while !condition() {
        if Instant::now() >= end {
            return condition();
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The kind of the RDMA devices, rxe or siw.
fn rdma_kind() -> String {
    env::var("RDMA").unwrap_or("rxe".to_string())
}

/// Whether the RDMA devices are iWARP's.
pub(crate) fn iwarp() -> bool {
    rdma_kind() == "siw"
}

/// Makes the RDMA device `name` on `interface`.
pub(crate) fn rdma_add(netns: &str, name: &str, interface: &str) {
    let kind = rdma_kind();
    let mut words = vec!["netns", "exec", netns, "rdma", "link", "add", name];
    words.extend(["type", &kind, "netdev", interface]);
    command("ip", &words);
}

/// Sets the threshold of zero copy on both sides to what the command line says, or to what it was
/// at first: a case may have changed it.
pub(crate) fn set_threshold() {
    static FIRST: OnceLock<Option<u32>> = OnceLock::new();
    let first = FIRST.get_or_init(|| A.threshold().ok());
    if let Some(bytes) = config::get().threshold.or(*first) {
        must!(A.set_threshold(bytes.into()));
        must!(B.set_threshold(bytes.into()));
    }
}

/// Sockets of the module, those too that no program has any more: each holds it. None where they
/// are TCP's.
pub(crate) fn sockets() -> usize {
    if config::tcp() {
        return 0;
    }
    let text = must!(fs::read_to_string("/sys/module/sdp/refcnt"));
    must!(text.trim().parse())
}

/// Lets netem treat like this what A's interface sends; with no words, it only passes packets on.
///
/// It is there from the start: a change of the discipline itself refuses packets for a moment, and
/// a software RDMA device breaks for good the queue pair whose packet that is, which may be the
/// connection manager's.
pub(crate) fn netem(words: &[&str]) {
    assert!(try_netem(words), "tc does not take {words:?}");
}

fn try_netem(words: &[&str]) -> bool {
    let mut all = vec!["-n", A.netns(), "qdisc", "change", "dev", A.interface()];
    // As many packets as guest-init lets it hold.
    all.extend(["root", "netem", "limit", "100000"]);
    all.extend(words);
    let output = Command::new("tc").args(all).output();
    output.is_ok_and(|output| output.status.success())
}

/// Puts the link and the devices back as the cases expect them, after one that failed halfway.
pub(crate) fn repair() {
    let try_command = |words: &[&str]| Command::new("ip").args(words).output().is_ok();
    try_command(&[
        "-n",
        B.netns(),
        "link",
        "set",
        B.interface(),
        "arp",
        "on",
        "up",
    ]);
    try_netem(&[]);
    faults::reset();
    let _ = fs::write("/proc/sys/vm/nr_hugepages", "0");
    let _ = B.set_somaxconn(SOMAXCONN);
    for interface in ["v2", "v4"] {
        try_command(&["-n", A.netns(), "link", "del", interface]);
    }
    for address in ["10.29.1.1/32", "fd29:1::1/128"] {
        try_command(&["-n", A.netns(), "address", "del", address, "dev", "lo"]);
    }
    for side in [A, B] {
        if !config::tcp()
            && !Path::new("/sys/class/infiniband")
                .join(side.device())
                .exists()
        {
            rdma_add(side.netns(), side.device(), side.interface());
        }
    }
}
