// SPDX-License-Identifier: GPL-2.0

//! Socket options that do something, beyond being set and read: `sdp_diff` compares the rest.

use crate::{
    bpf::SocketMap,
    config::{
        self,
        moment,
        patience, //
    },
    harness::{
        cases,
        check,
        join,
        must,
        spawn,
        step, //
    },
    peers::{
        becomes,
        pair,
        pair_of,
        sockets,
        talk,
        A,
        B, //
    },
    zcopy::counted,
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::{
        Shut,
        Sock,
        SO_TIMESTAMPING_NEW, //
    },
};
use std::{
    mem, thread,
    time::{
        Duration,
        Instant, //
    },
};

cases! {
    option_peek_off(10) "SO_PEEK_OFF: peeks go on where the last ended, and reads bring them back",
    option_rcvlowat_wakes(10) "a reader whose SO_RCVLOWAT is lowered to what is there wakes",
    option_inq(10) "TCP_INQ: each receive tells how much is left, and of the end",
    option_stamps(20) "SO_TIMESTAMPNS and SO_TIMESTAMPING: when the last of the bytes came, by copy or not",
    option_stamps_sent(30) "SO_TIMESTAMPING: when the last byte of a call was queued, sent and acknowledged",
    option_notsent_lowat(20) "TCP_NOTSENT_LOWAT: poll and send take no more than that unsent",
    option_defer_accept(20) "TCP_DEFER_ACCEPT: a connection is accepted with its data, or after the time",
    option_linger2(30) "TCP_LINGER2: a closed socket waits for its peer's end no longer",
    option_maxseg(10) "TCP_MAXSEG bounds the payload of a message, and nothing is lost",
    option_fastopen(10) "MSG_FASTOPEN connects and sends, and TCP_FASTOPEN_CONNECT connects",
    option_ulp(5) "TCP_ULP of a protocol that is not there: ENOENT",
    option_sockmap(10) "a BPF map of sockets takes none: EOPNOTSUPP, and the socket works as before",
    option_info(10) "TCP_INFO counts what was sent, acknowledged and received",
    option_info_times(20) "TCP_INFO: when bytes were sent and came, how many messages, and how long the peer had no room",
    option_incoming_cpu(10) "SO_INCOMING_CPU of a connection is a CPU, and of a listener what it is set to",
    option_congestion(10) "TCP_CONGESTION: names that TCP knows are kept, and given back",
    option_window_clamp(20) "TCP_WINDOW_CLAMP bounds what comes before it is read",
    option_control(5) "control messages of a send are checked, and what they say is ignored",
}

const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_LINGER2: i32 = 8;
const TCP_INFO: i32 = 11;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_ULP: i32 = 31;
const TCP_INQ: i32 = 36;
const SO_PEEK_OFF: i32 = 42;

/// Waits until so much can be read.
fn await_bytes(sock: &Sock, bytes: i32) {
    assert!(
        becomes(patience(5), || sock.ioctl(libc::FIONREAD) == Ok(bytes)),
        "{bytes} bytes do not come"
    );
}

fn option_peek_off() {
    let (a, b) = pair();
    check!(a.send(b"0123456789", 0), Ok(10));
    await_bytes(&b, 10);
    must!(b.set(libc::SOL_SOCKET, SO_PEEK_OFF, 2));
    let mut room = [0; 4];
    check!(b.recv(&mut room, libc::MSG_PEEK), Ok(4));
    check!(&room, b"2345");
    check!(b.recv(&mut room[..2], libc::MSG_PEEK), Ok(2));
    check!(&room[..2], b"67");
    check!(b.get(libc::SOL_SOCKET, SO_PEEK_OFF), Ok(8));
    check!(b.recv(&mut room, 0), Ok(4));
    check!(&room, b"0123");
    check!(b.get(libc::SOL_SOCKET, SO_PEEK_OFF), Ok(4));
    check!(b.recv(&mut room, libc::MSG_PEEK), Ok(2));
    check!(&room[..2], b"89");
    // Behind all that is there: it waits for more.
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    check!(b.recv(&mut room, flags), Err(Errno::EAGAIN));
    let waits = spawn("peek", move || {
        let mut room = [0; 4];
        let got = b.recv(&mut room, libc::MSG_PEEK);
        (b, got, room)
    });
    thread::sleep(moment());
    check!(a.send(b"ab", 0), Ok(2));
    let (_b, got, room) = join(waits);
    check!(got, Ok(2));
    check!(&room[..2], b"ab");
}

fn option_rcvlowat_wakes() {
    let (a, b) = pair();
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 100));
    check!(a.send(b"01234", 0), Ok(5));
    await_bytes(&b, 5);
    check!(b.poll(libc::POLLIN, Duration::ZERO), Ok(0));
    let other = must!(b.dup());
    let waits = spawn("poll", move || other.poll(libc::POLLIN, patience(5)));
    thread::sleep(moment());
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 5));
    check!(join(waits), Ok(libc::POLLIN));
}

/// A control message: its level, its type, and its payload.
pub(super) type Control = (i32, i32, Vec<u8>);

/// Receives into `room` bytes: how much, and with which control messages.
pub(super) fn recv_with_control(sock: &Sock, room: usize, flags: i32) -> (usize, Vec<Control>) {
    #[repr(C, align(8))]
    struct Control([u8; 1024]);
    let mut bytes = vec![0u8; room];
    let mut control = Control([0; 1024]);
    let mut piece = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: room,
    };
    // SAFETY: All-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: The piece and the control buffer are memory of ours to write.
    let got = must!(Errno::check_len(unsafe {
        libc::recvmsg(sock.fd(), &mut message, flags)
    }));
    let mut found = Vec::new();
    // SAFETY: The kernel left whole control messages in the buffer, whose length it told.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while let Some(control) = header.as_ref() {
            let len = control.cmsg_len - libc::CMSG_LEN(0) as usize;
            let payload = std::slice::from_raw_parts(libc::CMSG_DATA(header), len).to_vec();
            found.push((control.cmsg_level, control.cmsg_type, payload));
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    (got, found)
}

/// Receives into `room` bytes: how much, and what `TCP_INQ` tells.
fn recv_with_inq(sock: &Sock, room: usize) -> (usize, Option<i32>) {
    let (got, control) = recv_with_control(sock, room, 0);
    let inq = control.first().map(|(level, kind, payload)| {
        check!((*level, *kind), (libc::SOL_TCP, TCP_INQ));
        i32::from_ne_bytes(must!(payload[..].try_into().map_err(|_| Errno::EINVAL)))
    });
    (got, inq)
}

/// The time of day, in nanoseconds.
pub(super) fn now() -> i128 {
    let since = std::time::UNIX_EPOCH.elapsed();
    must!(since.map_err(|_| Errno::EINVAL)).as_nanos() as i128
}

/// The time that a control message begins with, in nanoseconds.
pub(super) fn time((_, _, payload): &Control) -> i128 {
    let number = |at: usize| {
        let bytes = payload
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        i128::from(bytes.map_or(0, i64::from_ne_bytes))
    };
    number(0) * 1_000_000_000 + number(8)
}

fn option_stamps() {
    const SO_TIMESTAMPNS_NEW: i32 = 64;
    use libc::{
        SOF_TIMESTAMPING_RX_SOFTWARE as RX_SOFTWARE,
        SOF_TIMESTAMPING_SOFTWARE as SOFTWARE, //
    };
    const KINDS: [(i32, i32, usize); 2] = [
        (libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW, 16),
        (libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, 48),
    ];
    let (a, b) = pair();
    check!(a.send(b"x", 0), Ok(1));
    await_bytes(&b, 1);
    check!(recv_with_control(&b, 1, 0), (1, vec![]));
    must!(b.set(libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1));
    must!(b.set(
        libc::SOL_SOCKET,
        SO_TIMESTAMPING_NEW,
        RX_SOFTWARE | SOFTWARE
    ));
    // The kernel may begin to look at the clock a little later.
    thread::sleep(moment());

    // Received so many bytes that were sent from `since` on, with both times.
    let check = |since: i128, (got, control): (usize, Vec<Control>), bytes: usize| {
        check!(got, bytes);
        let kinds: Vec<_> = control
            .iter()
            .map(|(level, kind, payload)| (*level, *kind, payload.len()))
            .collect();
        check!(&kinds[..], &KINDS[..]);
        let times: Vec<_> = control.iter().map(time).collect();
        check!(times[0], times[1]);
        assert!(
            (since..=now()).contains(&times[0]),
            "it came {} ns after it was sent",
            times[0] - since
        );
        times[0]
    };
    let since = now();
    check!(a.send(b"0123", 0), Ok(4));
    await_bytes(&b, 4);
    let peeked = check(since, recv_with_control(&b, 2, libc::MSG_PEEK), 2);
    thread::sleep(moment());
    let later = now();
    check!(a.send(b"4567", 0), Ok(4));
    await_bytes(&b, 8);
    assert!(peeked < later, "a time of before");
    check(later, recv_with_control(&b, 64, 0), 8);

    // Large enough for zero copy: read from the peer's memory, or written to this end's.
    const LARGE: usize = 1 << 20;
    for _ in 0..4 {
        let since = now();
        let sender = must!(a.dup());
        let sends = spawn("sender", move || {
            check!(sender.send(&vec![7; LARGE], 0), Ok(LARGE));
        });
        let got = recv_with_control(&b, LARGE, libc::MSG_WAITALL);
        join(sends);
        check(since, got, LARGE);
    }
    counted("large bytes are read without a copy", &b, |stats| {
        config::slow() || stats.recv_read > LARGE as u64
    });
    for _ in 0..4 {
        let reader = must!(b.dup());
        let receives = spawn("reader", move || {
            let mut all = Vec::new();
            let mut left = LARGE;
            while left > 0 {
                let (got, control) = recv_with_control(&reader, left, 0);
                left -= got;
                all.push((got, control));
            }
            all
        });
        thread::sleep(moment());
        let since = now();
        check!(a.send(&vec![7; LARGE], 0), Ok(LARGE));
        for received in join(receives) {
            let bytes = received.0;
            check(since, received, bytes);
        }
    }
    counted("large bytes are written without a copy", &b, |stats| {
        config::slow() || stats.recv_written > LARGE as u64
    });

    must!(b.set(libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW, 0));
    must!(b.set(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, 0));
    check!(a.send(b"x", 0), Ok(1));
    check!(recv_with_control(&b, 1, 0), (1, vec![]));
}

/// A stamp of the error queue: the stage, `SCM_TSTAMP_*`, and the number of the byte; its time; and
/// what came with it of the connection.
type SentStamp = ((u32, u32), i128, Vec<u8>);

/// Takes a stamp from the error queue, which has to come.
fn sent_stamp(sock: &Sock) -> SentStamp {
    const OPT_STATS: i32 = 54;
    check!(
        sock.poll(0, patience(5))
            .map(|events| events & libc::POLLERR),
        Ok(libc::POLLERR)
    );
    let (_, control) = recv_with_control(sock, 256, libc::MSG_ERRQUEUE);
    let of = |level: i32, kind: i32| {
        control
            .iter()
            .find(|(l, k, _)| (*l, *k) == (level, kind))
            .cloned()
    };
    let stamp = of(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW).expect("a time");
    let error = of(libc::SOL_IP, libc::IP_RECVERR)
        .or_else(|| of(libc::SOL_IPV6, libc::IPV6_RECVERR))
        .expect("what it is of")
        .2;
    let number = |at: usize| {
        let bytes = error
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(u32::MAX, u32::from_ne_bytes)
    };
    // ENOMSG, of time stamps.
    check!((number(0), number(4) & 0xff), (libc::ENOMSG as u32, 4));
    let stats = of(libc::SOL_SOCKET, OPT_STATS).map(|(_, _, stats)| stats);
    (
        (number(8), number(12)),
        time(&stamp),
        stats.unwrap_or_default(),
    )
}

/// The attribute of a kind in such statistics, of 64 bits.
fn attribute(mut stats: &[u8], kind: u16) -> Option<u64> {
    while let Some((header, _)) = stats.split_first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let found = u16::from_ne_bytes([header[2], header[3]]);
        if found == kind {
            return stats.get(4..12)?.try_into().ok().map(u64::from_ne_bytes);
        }
        stats = stats.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn option_stamps_sent() {
    use libc::{
        SOF_TIMESTAMPING_OPT_ID as OPT_ID,
        SOF_TIMESTAMPING_OPT_ID_TCP as OPT_ID_TCP,
        SOF_TIMESTAMPING_OPT_STATS as OPT_STATS,
        SOF_TIMESTAMPING_OPT_TSONLY as OPT_TSONLY,
        SOF_TIMESTAMPING_SOFTWARE as SOFTWARE,
        SOF_TIMESTAMPING_TX_ACK as TX_ACK,
        SOF_TIMESTAMPING_TX_SCHED as TX_SCHED,
        SOF_TIMESTAMPING_TX_SOFTWARE as TX_SOFTWARE, //
    };
    const SND: u32 = 0;
    const SCHED: u32 = 1;
    const ACK: u32 = 2;
    const BYTES_SENT: u16 = 18;
    let set = |sock: &Sock, flags| sock.set(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, flags);
    let told = SOFTWARE | OPT_TSONLY;
    let all = told | TX_SOFTWARE | TX_SCHED | TX_ACK;
    let numbered = OPT_ID | OPT_ID_TCP;
    check!(set(&A.socket(), all | OPT_ID), Err(Errno::EINVAL));
    check!(set(&A.socket(), all), Ok(()));
    let (a, b) = pair();
    check!(a.send(b"before", 0), Ok(6));
    check!(b.recv_bytes(6), Ok(b"before".to_vec()));
    must!(set(&a, all | numbered));
    let mut next = 0;
    for bytes in [10, 3] {
        let since = now();
        next += bytes;
        check!(a.send(&vec![7; bytes as usize], 0), Ok(bytes as usize));
        let mut last = since;
        for stage in [SCHED, SND, ACK] {
            let (of, time, _) = sent_stamp(&a);
            check!(of, (stage, next - 1));
            assert!((last..=now()).contains(&time), "{} ns later", time - last);
            last = time;
        }
        check!(a.notice().map(drop), Err(Errno::EAGAIN));
        check!(b.recv_bytes(bytes as usize), Ok(vec![7; bytes as usize]));
    }

    step!("without numbers");
    must!(set(&a, told | TX_ACK));
    check!(a.send(b"x", 0), Ok(1));
    check!(sent_stamp(&a).0, (ACK, 0));
    step!("numbered from here");
    must!(set(&a, told | numbered));
    check!(a.send(b"y", 0), Ok(1));
    step!("as a control message wants it");
    let kind = (libc::SOL_SOCKET, SO_TIMESTAMPING_NEW);
    let with = |bytes: &[u8], flags| send_with_control(&a, bytes, kind, flags, 20);
    check!(with(b"z", TX_ACK), Ok(1));
    check!(sent_stamp(&a).0, (ACK, 1));
    check!(with(b"z", OPT_ID), Err(Errno::EINVAL));
    must!(set(&a, all | numbered));
    check!(with(b"z", 0), Ok(1));
    check!(b.recv_bytes(4), Ok(b"xyzz".to_vec()));
    thread::sleep(moment());
    check!(a.notice().map(drop), Err(Errno::EAGAIN));

    step!("large calls");
    const LARGE: usize = 1 << 20;
    must!(set(&a, told | numbered | TX_ACK));
    for round in 0..2 {
        let sender = must!(a.dup());
        let sends = spawn("sender", move || {
            check!(sender.send(&vec![7; LARGE], 0), Ok(LARGE));
        });
        check!(b.recv_bytes(LARGE), Ok(vec![7; LARGE]));
        join(sends);
        let number = 3 + (round + 1) * LARGE as u32 - 1;
        check!(sent_stamp(&a).0, (ACK, number));
    }

    step!("what the connection has sent");
    must!(set(&a, told | TX_ACK | OPT_STATS));
    check!(a.send(b"x", 0), Ok(1));
    let (of, _, stats) = sent_stamp(&a);
    check!(of, (ACK, 0));
    // The last one may not be counted yet, and TCP may have sent some twice.
    let sent = attribute(&stats, BYTES_SENT).expect("the bytes that were sent");
    assert!(sent >= 6 + 13 + 4 + 2 * LARGE as u64, "{sent} bytes");
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));

    step!("no more than SO_RCVBUF are kept");
    must!(a.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 4096));
    must!(set(&a, told | TX_ACK));
    for _ in 0..64 {
        check!(a.send(b"x", 0), Ok(1));
        check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    }
    thread::sleep(moment());
    let kept = std::iter::from_fn(|| a.notice().ok()).count();
    assert!((1..32).contains(&kept), "{kept} are kept");
    step!("none are asked for");
    must!(set(&a, 0));
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    thread::sleep(moment());
    check!(a.notice().map(drop), Err(Errno::EAGAIN));
}

fn option_inq() {
    let (a, b) = pair();
    check!(a.send(b"0123456789", 0), Ok(10));
    await_bytes(&b, 10);
    check!(recv_with_inq(&b, 1), (1, None));
    must!(b.set(libc::SOL_TCP, TCP_INQ, 1));
    check!(recv_with_inq(&b, 4), (4, Some(5)));
    check!(recv_with_inq(&b, 64), (5, Some(0)));
    must!(a.shutdown(Shut::Write));
    check!(b.poll(libc::POLLRDHUP, patience(5)), Ok(libc::POLLRDHUP));
    // The end is to be read as well.
    check!(recv_with_inq(&b, 64), (0, Some(1)));
}

fn option_notsent_lowat() {
    const LOWAT: usize = 32 << 10;
    let (a, b) = pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 20));
    must!(a.set(libc::SOL_TCP, TCP_NOTSENT_LOWAT, LOWAT as i32));
    must!(a.set_nonblocking(true));
    // Until the peer has no room, and enough is unsent.
    let block = vec![7; 4096];
    let mut sent = 0;
    loop {
        match a.send(&block, 0) {
            Ok(len) => sent += len,
            Err(Errno::EAGAIN) => {
                thread::sleep(moment());
                match a.send(&block, 0) {
                    Ok(len) => sent += len,
                    Err(error) => {
                        check!(error, Errno::EAGAIN);
                        break;
                    }
                }
            }
            Err(error) => panic!("send: {error}"),
        }
    }
    let notsent = must!(a.ioctl(0x894b)) as usize;
    assert!(
        (LOWAT..3 * LOWAT).contains(&notsent),
        "{notsent} bytes are unsent"
    );
    check!(a.poll(libc::POLLOUT, Duration::ZERO), Ok(0));
    let reads = spawn("read", move || {
        let got = must!(b.recv_bytes(sent)).len();
        (b, got)
    });
    check!(a.poll(libc::POLLOUT, patience(10)), Ok(libc::POLLOUT));
    let (_b, got) = join(reads);
    check!(got, sent);
    // Raising it wakes too.
    check!(a.get(libc::SOL_TCP, TCP_NOTSENT_LOWAT), Ok(LOWAT as i32));
}

fn option_defer_accept() {
    let (listener, addr) = B.listen();
    must!(listener.set(libc::SOL_TCP, TCP_DEFER_ACCEPT, 2));
    // As TCP rounds it.
    check!(listener.get(libc::SOL_TCP, TCP_DEFER_ACCEPT), Ok(3));
    let a = A.connect(&addr);
    check!(listener.poll(libc::POLLIN, moment()), Ok(0));
    check!(a.send(b"x", 0), Ok(1));
    check!(listener.poll(libc::POLLIN, patience(3)), Ok(libc::POLLIN));
    let b = must!(listener.accept());
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    // Without data it waits, but not for ever.
    let start = Instant::now();
    let silent = A.connect(&addr);
    check!(listener.poll(libc::POLLIN, patience(10)), Ok(libc::POLLIN));
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    drop((must!(listener.accept()), silent));
}

fn option_linger2() {
    let before = sockets();
    let (a, b) = pair();
    must!(a.set(libc::SOL_TCP, TCP_LINGER2, 1));
    check!(a.send(b"last", 0), Ok(4));
    let start = Instant::now();
    drop(a);
    check!(b.recv_bytes(5), Ok(b"last".to_vec()));
    // The peer does not close. What the closed end had is gone after a second, which a send finds
    // out.
    let gone = becomes(patience(10), || {
        start.elapsed() > Duration::from_millis(1500) && b.send(b"x", libc::MSG_NOSIGNAL).is_err()
    });
    assert!(gone, "the peer is still there after {:?}", start.elapsed());
    drop(b);
    assert!(becomes(patience(10), || sockets() <= before));
}

fn option_maxseg() {
    let (a, b) = pair();
    must!(a.set(libc::SOL_TCP, libc::TCP_MAXSEG, 100));
    check!(
        a.set(libc::SOL_TCP, libc::TCP_MAXSEG, 20),
        Err(Errno::EINVAL)
    );
    if !config::tcp() {
        check!(a.get(libc::SOL_TCP, libc::TCP_MAXSEG), Ok(100));
    }
    let bytes: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let sends = spawn("send", {
        let bytes = bytes.clone();
        move || {
            must!(a.send_all(&bytes));
            a
        }
    });
    check!(b.recv_bytes(bytes.len()), Ok(bytes));
    drop(join(sends));
}

fn option_fastopen() {
    let (listener, addr) = B.listen();
    must!(listener.set(libc::SOL_TCP, libc::TCP_FASTOPEN, 5));
    let a = A.socket();
    // SAFETY: The kernel reads the bytes, and the address.
    let sent = Errno::check_len(unsafe {
        libc::sendto(
            a.fd(),
            b"hello".as_ptr().cast(),
            5,
            libc::MSG_FASTOPEN,
            addr.as_ptr(),
            addr.len() as libc::socklen_t,
        )
    });
    check!(sent, Ok(5));
    let b = must!(listener.accept());
    check!(b.recv_bytes(5), Ok(b"hello".to_vec()));
    let c = A.socket();
    must!(c.set(libc::SOL_TCP, TCP_FASTOPEN_CONNECT, 1));
    must!(c.connect(&addr));
    check!(c.send(b"again", 0), Ok(5));
    let d = must!(listener.accept());
    check!(d.recv_bytes(5), Ok(b"again".to_vec()));
}

fn option_ulp() {
    let (a, _b) = pair();
    check!(a.set(libc::SOL_TCP, TCP_ULP, *b"none"), Err(Errno::ENOENT));
    if !config::tcp() {
        // TLS in the kernel is TCP's.
        check!(a.set(libc::SOL_TCP, TCP_ULP, *b"tls\0"), Err(Errno::ENOENT));
    }
}

/// `struct tcp_info`, and zeros behind it.
fn tcp_info(sock: &Sock) -> [u8; 400] {
    let mut room = [0; 400];
    must!(sock.get_bytes(libc::SOL_TCP, TCP_INFO, &mut room));
    room
}

/// `tcpi_bytes_acked` and `tcpi_bytes_received`, and `tcpi_state`.
fn info(sock: &Sock) -> (u64, u64, u8) {
    let room = tcp_info(sock);
    let word = |at: usize| room[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    (word(120), word(128), room[0])
}

fn option_sockmap() {
    let refused = if config::tcp() {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    };
    for kind in SocketMap::KINDS {
        let map = SocketMap::new(kind);
        check!(map.insert(&A.socket()), Err(Errno::EOPNOTSUPP));
        let (listener, to) = B.listen();
        check!(map.insert(&listener), refused);
        let (a, b) = pair_of(&listener, &to);
        check!(a.send(b"x", 0), Ok(1));
        await_bytes(&b, 1);
        check!(map.insert(&a), refused);
        check!(map.insert(&b), refused);
        check!(b.recv_bytes(1), Ok(b"x".to_vec()));
        talk(&a, &b);
        drop(map);
        talk(&a, &b);
    }
}

fn option_info() {
    const ESTABLISHED: u8 = 1;
    let (a, b) = pair();
    // TCP counts its SYN.
    check!(info(&a).1, 0);
    must!(a.send_all(&[7; 5000]));
    check!(b.recv_bytes(5000).map(|bytes| bytes.len()), Ok(5000));
    assert!(becomes(patience(5), || a.ioctl(libc::TIOCOUTQ) == Ok(0)));
    check!(info(&a), (5001, 0, ESTABLISHED));
    check!(info(&b).1, 5000);
    check!(b.send(b"12345", 0), Ok(5));
    await_bytes(&a, 5);
    // What nobody has read has come all the same.
    check!(info(&a).1, 5);
}

/// The numbers of `TCP_INFO` at these places.
fn info_words<const N: usize>(sock: &Sock, at: [usize; N]) -> [u32; N] {
    let room = tcp_info(sock);
    at.map(|at| room[at..at + 4].try_into().map_or(0, u32::from_ne_bytes))
}

fn option_info_times() {
    const LAST_DATA_SENT: usize = 44;
    const LAST_DATA_RECV: usize = 52;
    const LAST_ACK_RECV: usize = 56;
    const SEGS_OUT: usize = 136;
    const SEGS_IN: usize = 140;
    const DATA_SEGS_IN: usize = 152;
    const DATA_SEGS_OUT: usize = 156;
    const BUSY_TIME: usize = 168;
    const RWND_LIMITED: usize = 176;
    let (a, b) = pair();
    check!(
        info_words(&a, [DATA_SEGS_IN, DATA_SEGS_OUT, RWND_LIMITED]),
        [0; 3]
    );
    for _ in 0..3 {
        check!(a.send(b"x", 0), Ok(1));
        check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    }
    check!(info_words(&a, [DATA_SEGS_IN, DATA_SEGS_OUT]), [0, 3]);
    check!(info_words(&b, [DATA_SEGS_IN, DATA_SEGS_OUT]), [3, 0]);
    let [out] = info_words(&a, [SEGS_OUT]);
    let [came] = info_words(&b, [SEGS_IN]);
    assert!(out >= 3 && came >= 3, "messages: {out} sent, {came} came");
    thread::sleep(Duration::from_millis(500));
    let [sent, acked] = info_words(&a, [LAST_DATA_SENT, LAST_ACK_RECV]);
    let [came] = info_words(&b, [LAST_DATA_RECV]);
    for ms in [sent, acked, came] {
        assert!(
            (400..60_000).contains(&ms),
            "{sent}, {acked}, {came} ms ago"
        );
    }
    must!(a.set_nonblocking(true));
    // Until nothing goes any more, and nothing comes to go on.
    while a.poll(libc::POLLOUT, Duration::from_millis(300)) == Ok(libc::POLLOUT) {
        while a.send(&[0; 4096], 0).is_ok() {}
    }
    thread::sleep(Duration::from_millis(300));
    let [busy, limited] = info_words(&a, [BUSY_TIME, RWND_LIMITED]);
    assert!(limited >= 200_000, "limited for {limited} us");
    assert!(busy >= limited, "busy for {busy} us");
}

fn option_incoming_cpu() {
    let cpu = |sock: &Sock| must!(sock.get(libc::SOL_SOCKET, libc::SO_INCOMING_CPU));
    let (listener, to) = B.listen();
    check!(cpu(&listener), -1);
    let (a, b) = pair_of(&listener, &to);
    talk(&a, &b);
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as i32);
    for sock in [&a, &b] {
        let cpu = cpu(sock);
        assert!((0..cpus).contains(&cpu), "CPU {cpu}");
    }
    must!(listener.set(libc::SOL_SOCKET, libc::SO_INCOMING_CPU, 7));
    check!(cpu(&listener), 7);
}

fn option_congestion() {
    let sock = A.socket();
    let name = |sock: &Sock| {
        let mut room = [0; 16];
        must!(sock.get_bytes(libc::SOL_TCP, libc::TCP_CONGESTION, &mut room));
        let end = room.iter().position(|byte| *byte == 0).unwrap_or(16);
        String::from_utf8_lossy(&room[..end]).into_owned()
    };
    if !config::tcp() {
        check!(name(&sock), "rdma".into());
    }
    check!(
        sock.set(libc::SOL_TCP, libc::TCP_CONGESTION, *b"nosuch"),
        Err(Errno::ENOENT)
    );
    must!(sock.set(libc::SOL_TCP, libc::TCP_CONGESTION, *b"reno"));
    check!(name(&sock), "reno".into());
    let (listener, to) = B.listen();
    must!(listener.set(libc::SOL_TCP, libc::TCP_CONGESTION, *b"reno"));
    let (_a, b) = pair_of(&listener, &to);
    check!(name(&b), "reno".into());
}

fn option_window_clamp() {
    const CLAMP: i32 = 65_536;
    let came = |clamp: bool| {
        let (a, b) = pair();
        if clamp {
            must!(b.set(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP, CLAMP));
            check!(b.get(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP), Ok(CLAMP));
        }
        must!(a.set_nonblocking(true));
        while a.poll(libc::POLLOUT, Duration::from_millis(300)) == Ok(libc::POLLOUT) {
            while a.send(&[0; 16384], 0).is_ok() {}
        }
        must!(b.ioctl(libc::FIONREAD))
    };
    let (free, clamped) = (came(false), came(true));
    assert!(
        clamped <= CLAMP && clamped < free,
        "{clamped} bytes, and {free}"
    );
    let new = A.socket();
    check!(new.set(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP, 0), Ok(()));
    check!(new.set(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP, 1), Ok(()));
    check!(new.get(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP), Ok(1152));
}

/// Sends bytes with one control message, of which `len` is told: 20 for one of four bytes.
fn send_with_control(
    sock: &Sock,
    bytes: &[u8],
    (level, kind): (i32, i32),
    value: u32,
    len: usize,
) -> Result<usize> {
    let mut control = [0u8; 24];
    control[..8].copy_from_slice(&len.to_ne_bytes());
    control[8..12].copy_from_slice(&level.to_ne_bytes());
    control[12..16].copy_from_slice(&kind.to_ne_bytes());
    control[16..20].copy_from_slice(&value.to_ne_bytes());
    sock.send_with_control(bytes, &mut control, 0)
}

fn option_control() {
    let (a, b) = pair();
    let send = |level, kind, len| send_with_control(&a, b"x", (level, kind), 0, len);
    check!(send(libc::SOL_IP, libc::IP_PKTINFO, 20), Ok(1));
    check!(send(libc::SOL_SOCKET, libc::SO_MARK, 20), Ok(1));
    check!(
        send(libc::SOL_SOCKET, libc::SO_MARK, 17),
        Err(Errno::EINVAL)
    );
    check!(send(libc::SOL_SOCKET, 9999, 20), Err(Errno::EINVAL));
    check!(
        send(libc::SOL_SOCKET, libc::SO_MARK, 100),
        Err(Errno::EINVAL)
    );
    check!(b.recv_bytes(2), Ok(b"xx".to_vec()));
}
