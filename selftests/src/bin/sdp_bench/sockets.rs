// SPDX-License-Identifier: GPL-2.0

//! The work over sockets, of whatever family. Every call is one that librspreload knows.

use crate::{
    cycles,
    end::{
        open_port,
        tell,
        wait_for_word,
        Result,
        LISTENER, //
    },
    plan::{
        Line,
        Transport,
        MANY, //
    },
    trips, //
};
use sdp_selftests::{
    errno::Errno,
    resources::allow_files,
    sdp::ZCOPY_THRESH,
    sock::{
        Addr,
        Shut,
        Sock,
        AF_INET_SDP, //
    },
};
use std::{
    fs, io,
    net::SocketAddrV4,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    ptr,
    sync::{
        mpsc,
        Arc, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Bytes of a request, and of a response.
const REQUEST: usize = 64;

/// What a reader of a stream has room for at least.
const ROOM: usize = 64 << 10;

/// A new socket of `transport`.
fn new(transport: Transport) -> Result<Sock> {
    let family = match transport {
        Transport::Sdp | Transport::Copy => AF_INET_SDP,
        _ => libc::AF_INET,
    };
    // Not `Sock::new`: librspreload takes no socket with SOCK_CLOEXEC.
    // SAFETY: `socket()` takes no memory.
    let fd = Errno::check(unsafe { libc::socket(family, libc::SOCK_STREAM, 0) })
        .map_err(|e| format!("socket: {e}"))?;
    // SAFETY: The descriptor is new, and nobody else knows it.
    let sock = Sock::from(unsafe { OwnedFd::from_raw_fd(fd) });
    prepare(&sock, transport)?;
    Ok(sock)
}

/// Sets the options of a socket, of which some transports let an accepted one have none.
fn prepare(sock: &Sock, transport: Transport) -> Result<()> {
    sock.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
        .map_err(|e| format!("TCP_NODELAY: {e}"))?;
    if transport == Transport::Copy {
        sock.set(libc::IPPROTO_TCP, ZCOPY_THRESH, 0)
            .map_err(|e| format!("SDP_ZCOPY_THRESH: {e}"))?;
    }
    Ok(())
}

/// Fails if a connection goes over something else than `transport`.
fn check(sock: &Sock, transport: Transport) -> Result<()> {
    match transport {
        Transport::Rsockets => {
            // librspreload gives its sockets descriptors of /dev/null.
            let path = fs::read_link(format!("/proc/self/fd/{}", sock.as_raw_fd()))?;
            match path.to_string_lossy().starts_with("socket:") {
                true => Err("librspreload let a socket of TCP through".into()),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn connect(transport: Transport, port: u16) -> Result<Sock> {
    let sock = new(transport)?;
    let to = Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, port));
    sock.connect(&to).map_err(|e| format!("connect: {e}"))?;
    Ok(sock)
}

fn listen(transport: Transport) -> Result<Sock> {
    let listener = new(transport)?;
    let at = Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, 0));
    listener.bind(&at).map_err(|e| format!("bind: {e}"))?;
    listener.listen(4096).map_err(|e| format!("listen: {e}"))?;
    open_port(listener.name()?.to_v4().port());
    Ok(listener)
}

fn accept(listener: &Sock, transport: Transport) -> Result<Sock> {
    // Not `Sock::accept`: Debian's librspreload has no accept4().
    // SAFETY: Without an address `accept()` takes no memory.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut()) };
    let fd = Errno::check(fd).map_err(|e| format!("accept: {e}"))?;
    // SAFETY: The descriptor is new, and nobody else knows it.
    let sock = Sock::from(unsafe { OwnedFd::from_raw_fd(fd) });
    prepare(&sock, transport)?;
    Ok(sock)
}

/// The listening end.
pub(crate) fn serve(transport: Transport, line: Line) -> Result<()> {
    allow_files(16 * MANY as u64)?;
    let listener = listen(transport)?;
    match line {
        Line::Stream(size) => receive(&accept(&listener, transport)?, size),
        Line::Trip(size) => answer(&accept(&listener, transport)?, size),
        Line::Requests => respond(&accept_many(&listener, transport, MANY)?),
        Line::Connect(parallel) => {
            let listener = Arc::new(listener);
            let (tell, failure) = mpsc::channel();
            for _ in 0..parallel {
                let (listener, tell) = (listener.clone(), tell.clone());
                thread::spawn(move || {
                    let failed = loop {
                        if let Err(e) = accept(&listener, transport) {
                            break e;
                        }
                    };
                    tell.send(failed).ok();
                });
            }
            Err(failure.recv()?)
        }
        Line::Memory => {
            let _ends = accept_many(&listener, transport, 1 + MANY)?;
            loop {
                thread::park();
            }
        }
    }
}

/// The connecting end: what `line` gives.
pub(crate) fn work(
    transport: Transport,
    line: Line,
    port: u16,
    duration: Duration,
) -> Result<Vec<f64>> {
    allow_files(16 * MANY as u64)?;
    let sock = connect(transport, port)?;
    check(&sock, transport)?;
    match line {
        Line::Stream(size) => send(&sock, size, duration),
        Line::Trip(size) => {
            let bytes = vec![0x5a; size];
            let mut room = vec![0; size];
            trips::measure(duration, || {
                sock.send_all(&bytes).map_err(|e| format!("send: {e}"))?;
                match sock.recv_all(&mut room) {
                    Ok(len) if len == size => Ok(()),
                    Ok(_) => Err("the connection ended".into()),
                    Err(e) => Err(format!("recv: {e}").into()),
                }
            })
        }
        Line::Requests => {
            let mut socks = connect_many(transport, port, MANY - 1)?;
            socks.push(sock);
            request(&socks, duration)
        }
        Line::Connect(parallel) => {
            drop(sock);
            let rate = connect_and_close(transport, port, parallel, duration)?;
            check(&connect(transport, port)?, transport)?;
            Ok(vec![rate])
        }
        Line::Memory => {
            tell("one");
            wait_for_word();
            let socks = connect_many(transport, port, MANY)?;
            tell("many");
            wait_for_word();
            drop(socks);
            Ok(vec![])
        }
    }
}

fn accept_many(listener: &Sock, transport: Transport, number: usize) -> Result<Vec<Sock>> {
    (0..number).map(|_| accept(listener, transport)).collect()
}

fn connect_many(transport: Transport, port: u16, number: usize) -> Result<Vec<Sock>> {
    let one = |_| {
        let sock = connect(transport, port)?;
        check(&sock, transport)?;
        Ok(sock)
    };
    (0..number).map(one).collect()
}

/// Sends for `duration`, and counts what came within the time that it took to come.
fn send(sock: &Sock, size: usize, duration: Duration) -> Result<Vec<f64>> {
    // Touched, so that no page fault is measured.
    let bytes = vec![0x5a; size];
    // The clock is not to be looked at for every small write.
    let batch = ((16 << 10) / size).max(1);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < duration {
        for _ in 0..batch {
            sock.send_all(&bytes).map_err(|e| format!("send: {e}"))?;
            sent += size as u64;
        }
    }
    sock.shutdown(Shut::Write)
        .map_err(|e| format!("shutdown: {e}"))?;
    let mut came = [0; 8];
    sock.recv_all(&mut came).map_err(|e| format!("recv: {e}"))?;
    let took = start.elapsed();
    match u64::from_le_bytes(came) {
        came if came == sent => Ok(vec![sent as f64 / 1e6 / took.as_secs_f64()]),
        came => Err(format!("{came} of {sent} bytes came").into()),
    }
}

/// Receives until the end, and says how much that was.
fn receive(sock: &Sock, size: usize) -> Result<()> {
    let mut room = vec![1; size.max(ROOM)];
    let mut came = 0;
    loop {
        match sock.recv(&mut room, 0).map_err(|e| format!("recv: {e}"))? {
            0 => break,
            len => came += len as u64,
        }
    }
    sock.send_all(&came.to_le_bytes())
        .map_err(|e| format!("send: {e}"))?;
    Ok(())
}

/// Sends back what comes.
fn answer(sock: &Sock, size: usize) -> Result<()> {
    let mut room = vec![1; size];
    while sock.recv_all(&mut room).map_err(|e| format!("recv: {e}"))? == size {
        sock.send_all(&room).map_err(|e| format!("send: {e}"))?;
    }
    Ok(())
}

/// Calls `ready` with the number of each socket that has bytes or its end to read, once.
fn poll(polls: &mut [libc::pollfd], mut ready: impl FnMut(usize) -> Result<()>) -> Result<()> {
    // SAFETY: `polls` is an array of that many.
    let ret = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
    Errno::check(ret).map_err(|e| format!("poll: {e}"))?;
    for (number, poll) in polls.iter().enumerate() {
        if poll.revents != 0 {
            ready(number)?;
        }
    }
    Ok(())
}

fn polls(socks: &[Sock]) -> Vec<libc::pollfd> {
    let poll = |sock: &Sock| libc::pollfd {
        fd: sock.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    socks.iter().map(poll).collect()
}

/// Receives a request or a response: whether one came before the end.
fn take(sock: &Sock) -> Result<bool> {
    let mut room = [0; REQUEST];
    let len = sock.recv_all(&mut room).map_err(|e| format!("recv: {e}"))?;
    Ok(len == REQUEST)
}

fn put(sock: &Sock) -> Result<()> {
    sock.send_all(&[0x5a; REQUEST])
        .map_err(|e| format!("send: {e}").into())
}

/// Keeps one request under way on each connection: how many are answered in a second.
fn request(socks: &[Sock], duration: Duration) -> Result<Vec<f64>> {
    let mut polls = polls(socks);
    socks.iter().try_for_each(put)?;
    let start = Instant::now();
    let mut answered = 0;
    while start.elapsed() < duration {
        poll(&mut polls, |number| {
            if !take(&socks[number])? {
                return Err("a connection ended".into());
            }
            answered += 1;
            put(&socks[number])
        })?;
    }
    let rate = f64::from(answered) / start.elapsed().as_secs_f64();
    for sock in socks {
        take(sock)?;
    }
    Ok(vec![rate])
}

/// Answers each request, until a connection ends: that is when all are answered.
fn respond(socks: &[Sock]) -> Result<()> {
    let mut polls = polls(socks);
    let mut ended = false;
    while !ended {
        poll(&mut polls, |number| match take(&socks[number])? {
            true => put(&socks[number]),
            false => {
                ended = true;
                Ok(())
            }
        })?;
    }
    Ok(())
}

/// Connects, and waits for the end that comes at once, with so many threads: how many connections
/// come and go in a second.
fn connect_and_close(
    transport: Transport,
    port: u16,
    parallel: usize,
    duration: Duration,
) -> Result<f64> {
    let cycle = || {
        let sock = connect(transport, port)?;
        match sock.recv(&mut [0], 0) {
            Ok(0) => Ok(()),
            Ok(_) => Err("bytes came".into()),
            Err(e) => Err(format!("recv: {e}").into()),
        }
    };
    cycles::measure(parallel, duration, || Ok(cycle))
}

/// Where Debian's rdma-core has the library that makes sockets rsockets.
pub(crate) fn preload() -> io::Result<String> {
    let path = "/usr/lib/x86_64-linux-gnu/rsocket/librspreload.so";
    match fs::metadata(path) {
        Ok(_) => Ok(path.into()),
        Err(e) => Err(io::Error::new(e.kind(), format!("{path}: {e}"))),
    }
}
