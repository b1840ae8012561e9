// SPDX-License-Identifier: GPL-2.0

//! `accept()` and the queue behind it.

use super::connect::{
    check_closed,
    finish,
    sockets_before, //
};
use crate::{
    config::{
        self,
        moment,
        patience,
        TICK, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        join_scoped,
        must,
        skip,
        spawn,
        step, //
    },
    peers::{
        becomes,
        eventually,
        iwarp,
        pair_of,
        sdp_only,
        A,
        B,
        SOMAXCONN, //
    },
    signals::{
        catch,
        interrupt_every, //
    },
    zcopy::together,
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
    sync::mpsc,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    accept_order(10) "connections are accepted in the order in which they were made",
    accept_waits(10) "accept() waits for a connection, and poll() says when there is one",
    accept_nonblocking(10) "a non-blocking listener without connections: EAGAIN",
    accept_timeout(10) "SO_RCVTIMEO ends accept() with EAGAIN",
    accept_interrupted(10) "a signal: EINTR, or with SA_RESTART nothing",
    accept_flags(10) "accept4() sets O_NONBLOCK and FD_CLOEXEC, and nothing is inherited of them",
    accept_inherits(10) "an accepted socket has the listener's options",
    accept_early_data(10) "data and end that come before accept() are there after it",
    accept_greeting(30) "a server that talks first, as soon as it has accepted",
    accept_gone(10) "a connection that was reset before accept()",
    accept_backlog(60) "a full queue: who finds it so waits, and is connected once there is room",
    accept_backlog_gone(30) "sockets closed while they wait for room in the queue leave nothing",
    accept_backlog_closed(30) "closing a listener ends those too who wait for room in its queue",
    accept_burst(30) "many more connections at once than the queue holds: all are made",
    accept_somaxconn(30) "the same where net.core.somaxconn keeps the queue short",
    accept_close_pending(20) "closing a listener resets the connections in its queue",
    accept_shutdown(10) "shutdown() of a listener wakes accept() with EINVAL",
    accept_wakes_one(20) "of the threads that wait in accept() a connection wakes one",
    accept_two_threads(10) "two threads accept on one listener",
}

fn accept_order() {
    let (listener, to) = B.listen();
    // Each is in the queue before the next is made: connections of one moment may overtake each
    // other.
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let client = A.connect(&to);
            thread::sleep(moment() / 2);
            client
        })
        .collect();
    for client in &clients {
        let (_server, from) = must!(listener.accept_from(0));
        check!(from.to_v4(), must!(client.name()).to_v4());
    }
}

fn accept_waits() {
    let (listener, to) = B.listen();
    check!(
        listener.poll(libc::POLLIN, Duration::from_millis(50)),
        Ok(0)
    );
    let start = Instant::now();
    let client = spawn("client", move || {
        thread::sleep(Duration::from_millis(200));
        A.connect(&to)
    });
    let _server = must!(listener.accept());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "took {took:?}");
    let _client = join(client);

    let _second = A.connect(&to);
    check!(listener.poll(libc::POLLIN, patience(5)), Ok(libc::POLLIN));
    must!(listener.accept());
    check!(
        listener.poll(libc::POLLIN | libc::POLLOUT, Duration::ZERO),
        Ok(0)
    );
}

fn accept_nonblocking() {
    let (listener, to) = B.listen();
    must!(listener.set_nonblocking(true));
    check!(listener.accept().map(drop), Err(Errno::EAGAIN));
    let _client = A.connect(&to);
    must!(eventually(patience(5), || listener.accept()));
    check!(listener.accept().map(drop), Err(Errno::EAGAIN));
}

fn accept_timeout() {
    let (listener, _) = B.listen();
    let timeout = Duration::from_millis(200);
    must!(listener.set_timeout(libc::SO_RCVTIMEO, timeout));
    let start = Instant::now();
    check!(listener.accept().map(drop), Err(Errno::EAGAIN));
    let took = start.elapsed();
    assert!(took + TICK >= timeout, "took {took:?}");
}

fn accept_interrupted() {
    let (listener, to) = B.listen();
    catch(libc::SIGUSR1, 0);
    let interrupter = interrupt_every(Duration::from_millis(100), libc::SIGUSR1);
    check!(listener.accept().map(drop), Err(Errno::EINTR));
    drop(interrupter);

    catch(libc::SIGUSR1, libc::SA_RESTART);
    let interrupter = interrupt_every(Duration::from_millis(100), libc::SIGUSR1);
    let client = spawn("client", move || {
        thread::sleep(Duration::from_millis(300));
        A.connect(&to)
    });
    must!(listener.accept());
    drop(interrupter);
    join(client);
}

fn accept_flags() {
    let (listener, to) = B.listen();
    // SAFETY: `F_GETFL` and `F_GETFD` take no memory.
    let flags = |fd| unsafe {
        (
            libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0,
            libc::fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC != 0,
        )
    };
    let _clients: Vec<_> = (0..3).map(|_| A.connect(&to)).collect();
    let (plain, _) = must!(listener.accept_from(0));
    check!(flags(plain.fd()), (false, false));
    let (both, _) = must!(listener.accept_from(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC));
    check!(flags(both.fd()), (true, true));
    check!(both.recv(&mut [0], 0), Err(Errno::EAGAIN));
    must!(listener.set_nonblocking(true));
    let (of_nonblocking, _) = must!(eventually(patience(5), || listener.accept_from(0)));
    check!(flags(of_nonblocking.fd()), (false, false));
    check!(
        listener.accept_from(0x4000_0000).map(drop),
        Err(Errno::EINVAL)
    );
}

fn accept_inherits() {
    let (listener, to) = B.listen();
    must!(listener.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1));
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 7));
    must!(listener.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000));
    must!(listener.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 30_000));
    must!(listener.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
    must!(listener.set_linger(9));
    let (_client, server) = pair_of(&listener, &to);
    let get = |option| server.get(libc::SOL_SOCKET, option);
    check!(get(libc::SO_KEEPALIVE), Ok(1));
    check!(get(libc::SO_RCVLOWAT), Ok(7));
    check!(
        get(libc::SO_RCVBUF),
        listener.get(libc::SOL_SOCKET, libc::SO_RCVBUF)
    );
    check!(
        get(libc::SO_SNDBUF),
        listener.get(libc::SOL_SOCKET, libc::SO_SNDBUF)
    );
    check!(server.get(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
    check!(server.linger(), Ok((1, 9)));
    check!(get(libc::SO_ACCEPTCONN), Ok(0));
}

fn accept_early_data() {
    let (listener, to) = B.listen();
    let client = A.connect(&to);
    check!(client.send(b"early", 0), Ok(5));
    drop(client);
    thread::sleep(moment());
    let server = must!(listener.accept());
    check!(server.recv_to_end(), Ok(b"early".to_vec()));
}

fn accept_greeting() {
    let (listener, to) = B.listen();
    let rounds = config::rounds(200, 10);
    let server = spawn("server", move || {
        for round in 0..rounds {
            step!("round {round}: accepts");
            let b = must!(listener.accept());
            check!(b.send(b"welcome", 0), Ok(7));
            step!("round {round}: waits for the end");
            check!(b.recv_to_end(), Ok(vec![]));
        }
    });
    for round in 0..rounds {
        step!("round {round}: connects");
        let a = A.connect(&to);
        check!(a.recv_bytes(7), Ok(b"welcome".to_vec()));
    }
    join(server);
}

fn accept_gone() {
    let (listener, to) = B.listen();
    let client = A.connect(&to);
    must!(client.set_linger(0));
    drop(client);
    thread::sleep(moment());
    must!(listener.set_nonblocking(true));
    // TCP hands the dead connection out; to leave it out is as good.
    match eventually(Duration::from_millis(500), || listener.accept()) {
        Ok(server) => {
            must!(server.set_nonblocking(false));
            check!(server.recv(&mut [0], 0), Err(Errno::ECONNRESET));
        }
        Err(error) => check_any!(error, [Errno::EAGAIN, Errno::ECONNABORTED]),
    }
    let (listener, to) = B.listen();
    pair_of(&listener, &to);
}

/// A listener at B with room for `backlog` connections and, as TCP has it, one more.
fn listen(backlog: libc::c_int) -> (Sock, Addr) {
    let listener = B.socket();
    must!(listener.bind(&B.at(0)));
    must!(listener.listen(backlog));
    let to = must!(listener.name());
    (listener, to)
}

/// Starts `count` connections of A.
fn start(to: &Addr, count: usize) -> Vec<Sock> {
    (0..count)
        .map(|_| {
            let client = A.socket();
            must!(client.set_nonblocking(true));
            check!(client.connect(to), Err(Errno::EINPROGRESS));
            client
        })
        .collect()
}

/// Waits until `room` of the connections are made, and checks that a second later all others
/// still wait.
fn check_waiting(clients: &[Sock], room: usize) {
    let ends = || {
        clients
            .iter()
            .map(|client| must!(client.poll(libc::POLLOUT, Duration::ZERO)))
            .filter(|events| *events != 0)
            .collect::<Vec<_>>()
    };
    becomes(patience(5), || ends().len() >= room);
    thread::sleep(Duration::from_secs(1));
    let ends = ends();
    if ends != vec![libc::POLLOUT; room] {
        let errors: Vec<_> = clients.iter().map(Sock::error).collect();
        panic!(
            "{room} are connected, and all others wait\n     got {ends:x?} of poll(), {errors:?}"
        );
    }
}

/// Accepts all `clients`, `pause` apart, and lets each connection carry a byte each way.
fn serve(listener: &Sock, clients: &[Sock], pause: Duration) {
    let (_, servers) = together(
        || {
            for (number, client) in (0..).zip(clients) {
                check!(finish(client), Ok(()));
                // TCP may be told so while its server has no room yet, and waits for data then.
                check!(client.send(&[number], 0), Ok(1));
                must!(client.set_nonblocking(false));
            }
        },
        || {
            let accept = |number| {
                step!("accepts connection {number} of {}", clients.len());
                let server = must!(listener.accept());
                thread::sleep(pause);
                server
            };
            (0..clients.len()).map(accept).collect::<Vec<_>>()
        },
    );
    for server in &servers {
        let number = must!(server.recv_bytes(1));
        check!(server.send(&number, 0), Ok(1));
    }
    for (number, client) in (0..).zip(clients) {
        check!(client.recv_bytes(1), Ok(vec![number]));
    }
}

fn accept_backlog() {
    let (listener, to) = listen(1);
    let clients = start(&to, 6);
    check_waiting(&clients, 2);
    serve(&listener, &clients, Duration::ZERO);
    step!("the listener goes on");
    pair_of(&listener, &to);
}

fn accept_backlog_gone() {
    if iwarp() {
        skip("iWARP completes a connection whose end was closed meanwhile: it takes a place");
    }
    let before = sockets_before();
    let (listener, to) = listen(1);
    let mut clients = start(&to, 6);
    check_waiting(&clients, 2);
    clients.retain(|client| must!(client.poll(libc::POLLOUT, Duration::ZERO)) != 0);
    thread::sleep(moment());
    step!("the listener goes on");
    serve(&listener, &clients, Duration::ZERO);
    pair_of(&listener, &to);
    drop((clients, listener));
    check_closed(before);
}

fn accept_backlog_closed() {
    let before = sockets_before();
    let (listener, to) = listen(1);
    let clients = start(&to, 6);
    check_waiting(&clients, 2);
    drop(listener);
    for client in clients {
        match finish(&client) {
            Ok(()) => {
                must!(client.set_nonblocking(false));
                check!(client.recv(&mut [0], 0), Err(Errno::ECONNRESET));
            }
            Err(error) => check_any!(error, [Errno::ECONNREFUSED, Errno::ECONNRESET]),
        }
    }
    check_closed(before);
}

fn tries_soon() {
    sdp_only("TCP tries again after a second, and then later each time");
}

fn accept_burst() {
    tries_soon();
    let (listener, to) = listen(5);
    let clients = start(&to, config::rounds(40, 12));
    serve(&listener, &clients, Duration::from_millis(20));
}

fn accept_somaxconn() {
    tries_soon();
    must!(B.set_somaxconn(4));
    let (listener, to) = listen(4096);
    let clients = start(&to, config::rounds(40, 12));
    check_waiting(&clients, 5);
    serve(&listener, &clients, Duration::from_millis(20));
    must!(B.set_somaxconn(SOMAXCONN));
}

fn accept_close_pending() {
    let (listener, to) = B.listen();
    let clients: Vec<_> = (0..5).map(|_| A.connect(&to)).collect();
    check!(clients[0].send(b"unread", 0), Ok(6));
    // Wait until they are all in the queue, not only on their way.
    thread::sleep(moment());
    drop(listener);
    for client in &clients {
        check!(client.recv(&mut [0], 0), Err(Errno::ECONNRESET));
    }
    check!(A.socket().connect(&to), Err(Errno::ECONNREFUSED));
    let again = B.socket();
    check!(again.bind(&to), Ok(()));
}

fn accept_shutdown() {
    let (listener, _) = B.listen();
    let closer = must!(listener.dup());
    let closer = spawn("closer", move || {
        thread::sleep(Duration::from_millis(100));
        must!(closer.shutdown(Shut::Both));
    });
    check!(listener.accept().map(drop), Err(Errno::EINVAL));
    join(closer);
    check!(listener.accept().map(drop), Err(Errno::EINVAL));
}

fn accept_two_threads() {
    let (listener, to) = B.listen();
    let acceptors: Vec<_> = (0..2)
        .map(|_| {
            let listener = must!(listener.dup());
            spawn("acceptor", move || {
                (0..5).map(|_| must!(listener.accept())).collect::<Vec<_>>()
            })
        })
        .collect();
    let clients: Vec<_> = (0..10).map(|_| A.connect(&to)).collect();
    let servers: Vec<_> = acceptors.into_iter().flat_map(join).collect();
    let mut from: Vec<_> = servers
        .iter()
        .map(|server| must!(server.peer()).to_v4())
        .collect();
    let mut made: Vec<_> = clients
        .iter()
        .map(|client| must!(client.name()).to_v4())
        .collect();
    from.sort();
    made.sort();
    check!(from, made);
}

/// How often a thread of this process has gone to sleep, and whether it sleeps.
fn sleeps(thread: libc::pid_t) -> (u64, bool) {
    let status = must!(fs::read_to_string(format!(
        "/proc/self/task/{thread}/status"
    )));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        must!(line.ok_or("no such line")).trim()
    };
    let count = must!(field("voluntary_ctxt_switches:").parse());
    (count, field("State:").starts_with('S'))
}

fn accept_wakes_one() {
    const THREADS: usize = 8;
    let (listener, to) = B.listen();
    let (tell, hear) = mpsc::channel();
    thread::scope(|scope| {
        let listener = &listener;
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let tell = tell.clone();
                scope.spawn(move || {
                    // SAFETY: `gettid()` takes nothing.
                    let id = unsafe { libc::gettid() };
                    must!(tell.send(id).map_err(|_| "nobody waits"));
                    let sock = must!(listener.accept());
                    must!(tell.send(id).map_err(|_| "nobody waits"));
                    sock
                })
            })
            .collect();
        let mut waiting: Vec<_> = (0..THREADS).map(|_| must!(hear.recv())).collect();
        let mut clients = Vec::new();
        while !waiting.is_empty() {
            let look = || waiting.iter().map(|id| sleeps(*id)).collect::<Vec<_>>();
            let mut before = look();
            let settled = || {
                let last = std::mem::replace(&mut before, look());
                thread::sleep(moment() / 4);
                last == before && last.iter().all(|(_, asleep)| *asleep)
            };
            assert!(becomes(patience(5), settled), "all wait");
            clients.push(A.connect(&to));
            let woken = must!(hear.recv_timeout(patience(5)));
            thread::sleep(moment() / 4);
            for (id, before) in waiting.iter().zip(&before) {
                if *id != woken {
                    check!(&sleeps(*id), before);
                }
            }
            waiting.retain(|id| *id != woken);
        }
        threads.into_iter().for_each(|thread| {
            join_scoped(thread);
        });
    });
}
