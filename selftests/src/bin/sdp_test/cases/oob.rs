// SPDX-License-Identifier: GPL-2.0

//! Urgent data: `MSG_OOB`, the mark, and who is told.

use super::poll::Epoll;
use crate::{
    config::{
        self,
        moment, //
    },
    harness::{
        cases,
        check,
        must,
        step, //
    },
    peers::{
        becomes,
        pair,
        pair_of,
        B, //
    },
    signals::{
        catch,
        caught, //
    },
    zcopy::{
        self,
        check_bytes,
        counted,
        random,
        together,
        BLOCK,
        THRESHOLD, //
    },
};
use sdp_selftests::{
    errno::Errno,
    sock::Sock, //
};
use std::{
    os::fd::AsRawFd,
    time::Duration, //
};

cases! {
    oob_states(10) "MSG_OOB on sockets that have no urgent byte, and with room for none",
    oob_byte(10) "MSG_OOB gives the urgent byte, once, and reads go round it",
    oob_mark(10) "reads stop at the mark, and SIOCATMARK tells that they have",
    oob_inline(10) "SO_OOBINLINE: the byte is read in its place, and MSG_OOB fails with EINVAL",
    oob_poll(10) "POLLPRI until the byte was read or passed; POLLIN for what else there is",
    oob_signal(10) "SIGURG to the owner",
    oob_peek(10) "MSG_PEEK of the byte, and of what is round it",
    oob_newer(10) "a newer urgent byte takes the place of one before",
    oob_run(10) "who stands at urgent bytes that were replaced gets none of them",
    oob_lowat(10) "SO_RCVLOWAT: a read does not wait at the mark, and poll() counts what is behind it",
    oob_epoll(10) "edge-triggered EPOLLPRI once for each urgent byte",
    oob_inherit(10) "accepted sockets have their listener's SO_OOBINLINE",
    oob_short(20) "of a send that takes less than it was given, the last byte taken is urgent",
    oob_large(60) "an urgent byte between sends that move without a copy",
    oob_written(60) "a receive into which the peer may write ends at the mark",
    oob_passed(10) "a byte that a read has passed is gone",
    oob_long(20) "the last byte of a large send is urgent",
    oob_splice(10) "splice() stops at the mark",
    oob_splice_end(10) "splice() at the mark at the end of the stream",
    oob_end(10) "the urgent byte as the last of the stream",
}

const SHORTLY: Duration = Duration::from_secs(3);
const SIOCATMARK: libc::c_ulong = 0x8905;

/// Sends an urgent byte behind `before`, and waits for it.
fn send_urgent(a: &Sock, b: &Sock, before: &[u8], byte: u8) {
    let mut bytes = before.to_vec();
    bytes.push(byte);
    check!(a.send(&bytes, libc::MSG_OOB), Ok(bytes.len()));
    let came = must!(b.poll(libc::POLLPRI, SHORTLY));
    check!(came & libc::POLLPRI, libc::POLLPRI);
}

fn urgent(sock: &Sock, flags: libc::c_int) -> Result<u8, Errno> {
    let mut room = [0; 2];
    sock.recv(&mut room, libc::MSG_OOB | flags).map(|len| {
        check!(len, 1);
        room[0]
    })
}

fn read(sock: &Sock) -> Result<Vec<u8>, Errno> {
    let mut room = [0; 64];
    sock.recv(&mut room, libc::MSG_DONTWAIT)
        .map(|len| room[..len].to_vec())
}

/// Waits until so many bytes can be read.
fn await_unread(sock: &Sock, bytes: libc::c_int) {
    let came = || must!(sock.ioctl(libc::FIONREAD)) == bytes;
    assert!(becomes(SHORTLY, came), "{bytes} bytes can be read");
}

fn oob_states() {
    let (listener, _) = B.listen();
    check!(urgent(&listener, 0), Err(Errno::ENOTCONN));
    check!(urgent(&B.socket(), 0), Err(Errno::EINVAL));
    let (a, b) = pair();
    check!(b.ioctl(SIOCATMARK), Ok(0));
    check!(a.send(b"", libc::MSG_OOB), Ok(0));
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    check!(urgent(&b, 0), Err(Errno::EINVAL));

    step!("no room");
    send_urgent(&a, &b, b"", b'!');
    let told = b.recv_vectored(&mut [], libc::MSG_OOB | libc::MSG_PEEK);
    check!(told, Ok((0, libc::MSG_OOB | libc::MSG_TRUNC)));
    let mut room = [7];
    let told = b.recv_vectored(&mut [&mut room], libc::MSG_OOB | libc::MSG_TRUNC);
    check!(told, Ok((1, libc::MSG_OOB)));
    check!(room, [7]);
    check!(urgent(&b, 0), Err(Errno::EINVAL));

    step!("nowhere");
    send_urgent(&a, &b, b"", b'!');
    // SAFETY: There is no memory at that address.
    let got = unsafe { b.recv_at(std::ptr::null_mut(), 1, libc::MSG_OOB) };
    check!(got, Err(Errno::EFAULT));
    check!(urgent(&b, 0), Err(Errno::EINVAL));
}

fn oob_byte() {
    let (a, b) = pair();
    check!(urgent(&b, 0), Err(Errno::EINVAL));
    send_urgent(&a, &b, b"ab", b'!');
    check!(a.send(b"cd", 0), Ok(2));
    check!(urgent(&b, 0), Ok(b'!'));
    check!(urgent(&b, 0), Err(Errno::EINVAL));
    check!(read(&b), Ok(b"ab".to_vec()));
    must!(b.poll(libc::POLLIN, SHORTLY));
    check!(read(&b), Ok(b"cd".to_vec()));
    check!(read(&b), Err(Errno::EAGAIN));
    counted("the urgent byte counts as received", &b, |stats| {
        stats.recv_copied == 5
    });
    check!(b.send(b"back", 0), Ok(4));
    check!(a.recv_bytes(4), Ok(b"back".to_vec()));
}

fn oob_mark() {
    let (a, b) = pair();
    check!(b.ioctl(SIOCATMARK), Ok(0));
    send_urgent(&a, &b, b"before", b'!');
    check!(a.send(b"behind", 0), Ok(6));
    await_unread(&b, 6);
    check!(b.ioctl(SIOCATMARK), Ok(0));
    let mut room = [0; 4];
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(4));
    check!(b.ioctl(libc::FIONREAD), Ok(2));
    let mut room = [0; 8];
    check!(b.recv(&mut room, libc::MSG_WAITALL), Ok(2));
    check!(&room[..2], &b"re"[..]);
    check!(b.ioctl(SIOCATMARK), Ok(1));
    check!(b.ioctl(libc::FIONREAD), Ok(0));
    check!(urgent(&b, 0), Ok(b'!'));
    check!(b.ioctl(SIOCATMARK), Ok(1));
    check!(b.recv_bytes(6), Ok(b"behind".to_vec()));
    check!(b.ioctl(SIOCATMARK), Ok(0));
}

fn oob_inline() {
    let (a, b) = pair();
    must!(b.set(libc::SOL_SOCKET, libc::SO_OOBINLINE, 1));
    send_urgent(&a, &b, b"ab", b'!');
    check!(a.send(b"cd", 0), Ok(2));
    check!(urgent(&b, 0), Err(Errno::EINVAL));
    await_unread(&b, 5);
    check!(read(&b), Ok(b"ab".to_vec()));
    check!(b.ioctl(SIOCATMARK), Ok(1));
    check!(read(&b), Ok(b"!cd".to_vec()));
    check!(b.ioctl(SIOCATMARK), Ok(0));
    check!(b.poll(libc::POLLPRI, Duration::ZERO), Ok(0));
}

fn oob_poll() {
    let all = libc::POLLPRI | libc::POLLIN;
    let (a, b) = pair();
    check!(b.poll(all, Duration::ZERO), Ok(0));
    send_urgent(&a, &b, b"", b'!');
    check!(b.poll(all, Duration::ZERO), Ok(libc::POLLPRI));
    check!(a.send(b"x", 0), Ok(1));
    check!(must!(b.poll(libc::POLLIN, SHORTLY)), libc::POLLIN);
    check!(b.poll(all, Duration::ZERO), Ok(all));
    check!(urgent(&b, 0), Ok(b'!'));
    check!(b.poll(all, Duration::ZERO), Ok(libc::POLLIN));
    check!(read(&b), Ok(b"x".to_vec()));
    check!(b.poll(all, Duration::ZERO), Ok(0));
}

fn oob_signal() {
    let (a, b) = pair();
    catch(libc::SIGURG, 0);
    // SAFETY: `F_SETOWN` takes no memory.
    must!(Errno::check(unsafe {
        libc::fcntl(b.fd(), libc::F_SETOWN, libc::getpid())
    }));
    check!(caught(), 0);
    send_urgent(&a, &b, b"ab", b'!');
    assert!(becomes(SHORTLY, || caught() == 1), "SIGURG");
    check!(urgent(&b, 0), Ok(b'!'));
    check!(a.send(b"not urgent", 0), Ok(10));
    check!(read(&b), Ok(b"ab".to_vec()));
    check!(b.recv_bytes(10), Ok(b"not urgent".to_vec()));
    check!(caught(), 1);
}

fn oob_peek() {
    let (a, b) = pair();
    send_urgent(&a, &b, b"ab", b'!');
    check!(a.send(b"cd", 0), Ok(2));
    check!(urgent(&b, libc::MSG_PEEK), Ok(b'!'));
    check!(urgent(&b, libc::MSG_PEEK), Ok(b'!'));
    let mut room = [0; 8];
    check!(b.recv(&mut room, libc::MSG_PEEK), Ok(2));
    check!(read(&b), Ok(b"ab".to_vec()));
    // The byte is not shown, and stays.
    assert!(becomes(SHORTLY, || {
        b.recv(&mut room, libc::MSG_PEEK | libc::MSG_DONTWAIT) == Ok(2)
    }));
    check!(&room[..2], &b"cd"[..]);
    check!(urgent(&b, 0), Ok(b'!'));
    check!(read(&b), Ok(b"cd".to_vec()));
}

fn oob_newer() {
    let (a, b) = pair();
    step!("one that was read");
    for byte in [b'1', b'2', b'3'] {
        send_urgent(&a, &b, b"", byte);
        check!(urgent(&b, 0), Ok(byte));
    }
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
    step!("one that was not");
    send_urgent(&a, &b, b"ab", b'1');
    check!(a.send(b"cd2", libc::MSG_OOB), Ok(3));
    assert!(becomes(SHORTLY, || urgent(&b, libc::MSG_PEEK) == Ok(b'2')));
    check!(read(&b), Ok(b"ab1cd".to_vec()));
    check!(urgent(&b, 0), Ok(b'2'));
}

fn oob_run() {
    for inline in [false, true] {
        step!("in line: {inline}");
        let (a, b) = pair();
        must!(b.set(
            libc::SOL_SOCKET,
            libc::SO_OOBINLINE,
            libc::c_int::from(inline)
        ));
        // Bytes that the other end sent before, so that nobody looks at this one meanwhile.
        for byte in *b"123" {
            check!(a.send(&[byte], libc::MSG_OOB), Ok(1));
            check!(b.send(b"x", 0), Ok(1));
            check!(a.recv_bytes(1), Ok(b"x".to_vec()));
            std::thread::sleep(moment() / 4);
        }
        check!(a.send(b"y", 0), Ok(1));
        if inline {
            await_unread(&b, 4);
            check!(read(&b), Ok(b"12".to_vec()));
            check!(read(&b), Ok(b"3y".to_vec()));
            continue;
        }
        check!(b.recv_bytes(1), Ok(b"y".to_vec()));
        check!(urgent(&b, 0), Err(Errno::EINVAL));
    }
    step!("an ordinary byte between them is in the way");
    let (a, b) = pair();
    send_urgent(&a, &b, b"", b'1');
    send_urgent(&a, &b, b"x", b'2');
    assert!(becomes(SHORTLY, || urgent(&b, libc::MSG_PEEK) == Ok(b'2')));
    check!(read(&b), Ok(b"x".to_vec()));
    step!("one that is not next stays");
    let (a, b) = pair();
    send_urgent(&a, &b, b"x", b'1');
    send_urgent(&a, &b, b"", b'2');
    assert!(becomes(SHORTLY, || urgent(&b, libc::MSG_PEEK) == Ok(b'2')));
    check!(b.ioctl(libc::FIONREAD), Ok(2));
    check!(read(&b), Ok(b"x1".to_vec()));
}

fn oob_lowat() {
    let (a, b) = pair();
    must!(b.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 4));
    send_urgent(&a, &b, b"ab", b'!');
    check!(b.poll(libc::POLLIN, Duration::ZERO), Ok(0));
    check!(a.send(b"c", 0), Ok(1));
    check!(b.poll(libc::POLLIN, SHORTLY), Ok(libc::POLLIN));
    check!(b.recv(&mut [0; 8], 0), Ok(2));
    // The urgent byte does not count where it is next.
    check!(a.send(b"de", 0), Ok(2));
    std::thread::sleep(moment());
    check!(b.poll(libc::POLLIN, Duration::ZERO), Ok(0));
    check!(a.send(b"f", 0), Ok(1));
    check!(b.poll(libc::POLLIN, SHORTLY), Ok(libc::POLLIN));
    check!(b.recv(&mut [0; 8], 0), Ok(4));
}

fn oob_epoll() {
    let (a, b) = pair();
    let epoll = Epoll::new();
    let events = libc::EPOLLPRI | libc::EPOLLET;
    epoll.add(&b, events, 1);
    check!(epoll.wait(Duration::ZERO), None);
    for byte in *b"12" {
        check!(a.send(&[byte], libc::MSG_OOB), Ok(1));
        check!(epoll.wait(SHORTLY), Some((1, libc::EPOLLPRI)));
        check!(epoll.wait(moment() / 4), None);
        check!(urgent(&b, 0), Ok(byte));
    }
    check!(a.send(b"x", 0), Ok(1));
    check!(epoll.wait(moment() / 4), None);
}

fn oob_inherit() {
    let (listener, addr) = B.listen();
    must!(listener.set(libc::SOL_SOCKET, libc::SO_OOBINLINE, 1));
    let (a, b) = pair_of(&listener, &addr);
    check!(b.get(libc::SOL_SOCKET, libc::SO_OOBINLINE), Ok(1));
    check!(a.send(b"ab", libc::MSG_OOB), Ok(2));
    await_unread(&b, 2);
    check!(read(&b), Ok(b"a".to_vec()));
    check!(read(&b), Ok(b"b".to_vec()));
}

fn oob_short() {
    let (a, b) = pair();
    let bytes = vec![b'x'; 64 << 20];
    let len = must!(a.send(&bytes, libc::MSG_OOB | libc::MSG_DONTWAIT));
    assert!(len < bytes.len(), "all was taken");
    let mut room = vec![0; 1 << 20];
    let mut got = 0;
    while got < len - 1 {
        let n = must!(b.recv(&mut room, 0));
        assert_ne!(n, 0, "an end");
        got += n;
    }
    check!(got, len - 1);
    must!(b.poll(libc::POLLPRI, SHORTLY));
    check!(b.ioctl(SIOCATMARK), Ok(1));
    check!(urgent(&b, 0), Ok(b'x'));
    check!(read(&b), Err(Errno::EAGAIN));
}

/// Receives `before`, no call beyond it, the urgent byte, and `behind`; each call has room for
/// both.
fn recv_round(b: &Sock, room: &mut [u8], before: &[u8], behind: &[u8]) {
    let mut got = 0;
    while got < before.len() {
        let len = must!(b.recv(&mut room[got..], 0));
        assert_ne!(len, 0, "an end");
        got += len;
        assert!(
            got <= before.len(),
            "went through the mark at {}, to {got}",
            before.len()
        );
    }
    check_bytes(&room[..got], before);
    let came = must!(b.poll(libc::POLLPRI, SHORTLY));
    check!(came & libc::POLLPRI, libc::POLLPRI);
    check!(b.ioctl(SIOCATMARK), Ok(1));
    check!(urgent(b, 0), Ok(b'!'));
    check!(b.recv_all(&mut room[..behind.len()]), Ok(behind.len()));
    check_bytes(&room[..behind.len()], behind);
}

/// Sends blocks with an urgent byte between to a reader that waits for each round.
fn rounds(a: &Sock, b: &Sock, sizes: &[usize], flags: libc::c_int) {
    let mut room = vec![0; 4 * BLOCK];
    for (round, len) in sizes.iter().enumerate() {
        step!("round {round}: {len} bytes, flags {flags:#x}");
        let before = random(600 + round as u64, *len);
        let behind = random(700 + round as u64, 2 * len);
        let (first, second) = behind.split_at(*len);
        together(
            || {
                // The reader waits by then.
                check!(a.recv(&mut [0], 0), Ok(1));
                std::thread::sleep(moment() / 4);
                check!(a.send(&before, flags), Ok(*len));
                check!(a.send(b"!", libc::MSG_OOB | flags), Ok(1));
                check!(a.send(first, flags), Ok(*len));
                check!(a.send(second, flags), Ok(*len));
            },
            || {
                check!(b.send(b"x", 0), Ok(1));
                recv_round(b, &mut room, &before, &behind);
            },
        );
        while a.notice().is_ok() {}
    }
}

fn oob_large() {
    for flags in [0, libc::MSG_ZEROCOPY] {
        let (a, b) = zcopy::pair();
        must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
        let sizes = [BLOCK, THRESHOLD, BLOCK / 2 + 1, 10, BLOCK];
        rounds(&a, &b, &sizes[..config::rounds(5, 3)], flags);
        counted("large sends are not copied", &a, |stats| {
            config::slow() || stats.sent_without_copy() > 2 * BLOCK as u64
        });
        zcopy::check_settled(&a);
        zcopy::check_settled(&b);
    }
}

fn oob_written() {
    let (a, b) = zcopy::pair();
    must!(a.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1));
    let mut room = vec![0; BLOCK];
    for stream in 500..502 {
        zcopy::transfer(&a, &b, &random(stream, BLOCK), &mut room);
    }
    // A receive offers several buffers when writes of a length were seen.
    let sizes = vec![BLOCK / 4; config::rounds(12, 4)];
    rounds(&a, &b, &sizes, 0);
    rounds(&a, &b, &sizes, libc::MSG_ZEROCOPY);
    counted("receives offer memory", &b, |stats| {
        config::slow() || stats.recv_written > BLOCK as u64
    });
    zcopy::check_settled(&a);
    zcopy::check_settled(&b);
}

fn oob_passed() {
    let (a, b) = pair();
    send_urgent(&a, &b, b"ab", b'!');
    check!(a.send(b"cd", 0), Ok(2));
    check!(read(&b), Ok(b"ab".to_vec()));
    check!(b.recv_bytes(2), Ok(b"cd".to_vec()));
    check!(urgent(&b, 0), Err(Errno::EINVAL));
    check!(b.poll(libc::POLLPRI, Duration::ZERO), Ok(0));
}

fn oob_long() {
    let (a, b) = pair();
    let mut bytes = vec![b'x'; 300_000];
    bytes.push(b'!');
    std::thread::scope(|scope| {
        scope.spawn(|| {
            check!(a.send(&bytes, libc::MSG_OOB), Ok(bytes.len()));
            check!(a.send(b"behind", 0), Ok(6));
        });
        let mut got = 0;
        let mut room = vec![0; 100_000];
        while got < bytes.len() - 1 {
            let len = must!(b.recv(&mut room, 0));
            assert!(room[..len].iter().all(|byte| *byte == b'x'));
            got += len;
        }
        check!(got, bytes.len() - 1);
        assert!(becomes(SHORTLY, || urgent(&b, libc::MSG_PEEK) == Ok(b'!')));
        check!(b.ioctl(SIOCATMARK), Ok(1));
        check!(urgent(&b, 0), Ok(b'!'));
        check!(b.recv_bytes(6), Ok(b"behind".to_vec()));
    });
}

/// `splice()` of `sock` to a pipe that is lost.
fn splice(sock: &Sock) -> Result<usize, Errno> {
    let (_reader, writer) = super::splice::pipe();
    super::splice::splice(sock.fd(), writer.as_raw_fd(), 64, 0)
}

fn oob_splice() {
    let (a, b) = pair();
    send_urgent(&a, &b, b"before", b'!');
    check!(a.send(b"behind", 0), Ok(6));
    check!(splice(&b), Ok(6));
    check!(splice(&b), Ok(0));
    must!(b.set_nonblocking(true));
    check!(splice(&b), Err(Errno::EAGAIN));
    must!(b.set_nonblocking(false));
    check!(urgent(&b, 0), Ok(b'!'));
    check!(b.recv_bytes(6), Ok(b"behind".to_vec()));
}

fn oob_splice_end() {
    let (a, b) = pair();
    send_urgent(&a, &b, b"", b'!');
    drop(a);
    check!(
        must!(b.poll(libc::POLLRDHUP, SHORTLY)) & libc::POLLRDHUP,
        libc::POLLRDHUP
    );
    must!(b.set_nonblocking(true));
    check!(splice(&b), Ok(0));
    check!(urgent(&b, 0), Ok(b'!'));
}

fn oob_end() {
    let (a, b) = pair();
    send_urgent(&a, &b, b"ab", b'!');
    drop(a);
    check!(urgent(&b, 0), Ok(b'!'));
    check!(b.recv_to_end(), Ok(b"ab".to_vec()));
}
