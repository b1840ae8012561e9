// SPDX-License-Identifier: GPL-2.0

//! SDP against a peer made by hand, which says what no honest peer would.
//!
//! After every violation the connection must be reset, soon, and the machine go on.

use super::connect::finish;
use crate::{
    bsdh::{
        mid,
        Hello,
        HelloAck,
        Message,
        HEADER, //
    },
    config::{
        self,
        patience,
        volume,
        TICK, //
    },
    harness::{
        cases,
        check,
        check_any,
        join,
        must,
        spawn,
        step, //
    },
    peers::{
        becomes,
        iwarp,
        pair,
        sdp_only,
        A,
        B, //
    },
    raw_peer::{
        Listener,
        Peer,
        Received,
        DEPTH,
        RECV_SIZE,
        SEND_SIZE, //
    },
    signals::{
        catch,
        caught, //
    },
    zcopy::threshold,
};
use sdp_selftests::{
    errno::Errno,
    random::Random,
    sock::{
        Shut,
        Sock, //
    },
};
use std::{
    sync::mpsc,
    time::{
        Duration,
        Instant, //
    }, //
};

cases! {
    wire_raw_peers(20) "two raw peers talk to each other: the tool itself works, without the module",
    wire_conversation(20) "data and the end, both ways, as A.1 and B-12 to B-24 have them",
    wire_credits(30) "never more messages than credits, and payload only with three (B-15 to B-18)",
    wire_credits_given(20) "a peer that runs out of credits gets some without asking (B-19)",
    wire_recv_size(20) "no message is larger than the peer's receive buffers (B-4)",
    wire_resize_refused(30) "larger receive buffers are wished for when there is much to send, and not again once refused (B-63, B-65)",
    wire_resize_granted(30) "a peer that wishes for larger receive buffers gets them when the smaller are used up (B-63, B-64)",
    wire_resize_beyond(30) "receive buffers larger than net.sdp.recv_buffer_size, or smaller, are refused (B-65)",
    wire_small_unread(30) "many small messages that nobody reads do not stop the peer",
    wire_small_peeked(30) "nor do those at which a reader only looks, one after the other",
    wire_reset(20) "SO_LINGER of 0 s drops the connection without a DisConn",
    wire_abort(20) "AbortConn after DisConn resets (B-72)",
    wire_disconnect(20) "an end without DisConn is a reset (B-76)",
    wire_suspended(30) "SuspComm is answered, and then a reset, with bytes unsent and without (B-83)",
    wire_suspend_nowhere(20) "SuspComm to no port, and SuspCommAck without SuspComm (A.6, B-83)",
    wire_mseq_skipped(20) "a message sequence number too many (B-12)",
    wire_mseq_repeated(20) "a message sequence number again (B-12)",
    wire_ack_unsent(20) "an acknowledgement of messages that were never sent",
    wire_ack_backwards(20) "an acknowledgement that takes an earlier one back",
    wire_len_large(20) "Len larger than what came",
    wire_len_small(20) "Len smaller than what came",
    wire_len_huge(20) "Len of 4 GiB",
    wire_header_cut(20) "less than a header",
    wire_nothing(20) "a message of no bytes",
    wire_mid_reserved(20) "message identifiers that are reserved (A.2)",
    wire_hello_again(20) "a Hello in the middle of a connection",
    wire_payload_unasked(20) "bytes after a header that has none",
    wire_data_after_disconn(20) "Data after DisConn",
    wire_urgent(20) "an urgent byte that is announced before it comes, however often, or not at all (B-77, B-79)",
    wire_urgent_nothing(20) "OOB_PRES on Data of no bytes (B-78)",
    wire_silent_end(20) "a peer that does not close in turn: given up after net.sdp.fin_timeout (B-74)",
    wire_hung(30) "SO_KEEPALIVE finds an idle peer that hangs while its adapter answers: ETIMEDOUT (B-81)",
    wire_disconn_twice(20) "DisConn after DisConn",
    wire_abort_alone(20) "AbortConn without DisConn (B-71)",
    wire_flood(60) "more messages than credits: all arrive or the connection is reset",
    wire_random(120) "random messages, and good ones spoilt at random: no hang, and the machine goes on",
}

/// A `Hello` that is right.
pub(super) fn hello() -> Vec<u8> {
    Hello::GOOD.to_bytes()
}

/// A `HelloAck` that is right.
pub(super) fn hello_ack() -> Vec<u8> {
    HelloAck::GOOD.to_bytes()
}

/// A raw peer that keeps count of its messages.
pub(super) struct Talk {
    pub(super) peer: Peer,
    /// MSeq of the last message that was sent.
    pub(super) sent: u32,
    /// MSeq of the last message that came.
    pub(super) got: u32,
    /// Receive buffers that are posted now.
    pub(super) posted: u16,
    /// What the other side had posted when it said so first.
    pub(super) bufs: u16,
    /// Messages that the other side has room for.
    pub(super) credits: i64,
    /// Wishes for larger receive buffers that were refused.
    pub(super) resizes: u32,
}

impl Talk {
    /// `greeting` is the other side's Hello or HelloAck.
    fn new(peer: Peer, greeting: &[u8]) -> Self {
        let greeting = must!(Message::from_bytes(greeting).ok_or("no Hello"));
        Self {
            peer,
            sent: 0,
            got: 0,
            posted: DEPTH as u16,
            bufs: greeting.bufs,
            credits: greeting.bufs.into(),
            resizes: 0,
        }
    }

    /// A message with the right numbers; it counts as sent.
    pub(super) fn message(&mut self, mid: u8, rest: &[u8]) -> Message {
        self.sent += 1;
        self.credits -= 1;
        let mut message = Message::new(mid, rest);
        message.mseq = self.sent;
        message.mseq_ack = self.got;
        message.bufs = self.posted;
        message
    }

    /// Sends a message of any kind. Where the other side has reset already it goes nowhere.
    pub(super) fn send(&mut self, message: &Message) {
        let _ = self.peer.send(&message.to_bytes());
    }

    pub(super) fn say(&mut self, mid: u8, rest: &[u8]) {
        let message = self.message(mid, rest);
        check!(self.peer.send(&message.to_bytes()), Ok(()));
    }

    /// The next message within `timeout`, checked for what every message must be. Its buffer is
    /// gone.
    pub(super) fn poll(&mut self, timeout: Duration) -> Option<(Message, usize)> {
        match self.try_poll(timeout) {
            Ok(polled) => polled,
            Err(status) => panic!("a message\nexpected one\n     got the end, status {status}"),
        }
    }

    /// As [`Talk::poll`], or the completion status with which the connection ended.
    fn try_poll(&mut self, timeout: Duration) -> Result<Option<(Message, usize)>, u32> {
        let (received, slot) = self.peer.recv(timeout);
        Ok(match received {
            Received::Nothing => None,
            Received::Ended(status) => return Err(status),
            Received::Bytes(bytes) => {
                let message =
                    must!(Message::from_bytes(&bytes).ok_or("a message without a header"));
                self.posted -= 1;
                self.got += 1;
                check!(message.len as usize, bytes.len());
                check!(message.mseq, self.got);
                assert!(
                    message.mseq_ack <= self.sent,
                    "acknowledges {} of {}",
                    message.mseq_ack,
                    self.sent
                );
                self.credits = i64::from(message.bufs) - i64::from(self.sent - message.mseq_ack);
                Some((message, slot))
            }
        })
    }

    pub(super) fn repost(&mut self, slot: usize) {
        self.peer.repost(slot);
        self.posted += 1;
    }

    /// The next message that is more than a credit update. A wish for larger receive buffers is
    /// refused.
    pub(super) fn next(&mut self) -> Message {
        loop {
            match self.poll(patience(10)) {
                None => panic!("a message\nexpected one\n     got none"),
                Some((message, slot)) => {
                    self.repost(slot);
                    if message.mid == mid::CH_RCV_BUF {
                        self.refuse_resize(&message);
                        continue;
                    }
                    if message.mid != mid::DATA || !message.rest.is_empty() {
                        return message;
                    }
                }
            }
        }
    }

    /// Answers a ChRcvBuf with the present size.
    pub(super) fn refuse_resize(&mut self, message: &Message) {
        let wish = must!(message.rest.as_slice().try_into().map(u32::from_be_bytes));
        assert!(wish as usize > RECV_SIZE, "wishes for {wish} bytes");
        self.resizes += 1;
        self.say(mid::CH_RCV_BUF_ACK, &(RECV_SIZE as u32).to_be_bytes());
    }

    /// Receives `len` bytes of Data.
    pub(super) fn data(&mut self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let message = self.next();
            check!(message.mid, mid::DATA);
            all.extend(&message.rest);
            // The sender may be waiting for room, and has some for this or says so first.
            if self.credits >= 2 {
                self.say(mid::DATA, b"");
            }
        }
        all
    }

    /// Sends `bytes` by Data, as credits allow; the other side may say nothing else meanwhile.
    pub(super) fn send_data(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(SEND_SIZE - HEADER) {
            while self.credits < 3 {
                let (message, slot) = must!(self
                    .poll(patience(10))
                    .ok_or("no credit update came (B-19)"));
                self.repost(slot);
                check!((message.mid, message.rest.len()), (mid::DATA, 0));
            }
            self.say(mid::DATA, piece);
        }
    }
}

/// A raw client of an SDP server.
pub(super) fn raw_client() -> (Sock, Talk) {
    raw_client_of(&Hello::GOOD)
}

/// The same, which says another Hello.
pub(super) fn raw_client_of(hello: &Hello) -> (Sock, Talk) {
    let (listener, to) = B.listen();
    let connected = Peer::connect(A, &to, &hello.to_bytes());
    let (peer, ack) = must!(connected.map_err(|event| format!("{event:?}")));
    let mut talk = Talk::new(peer, &ack);
    if iwarp() {
        // Who connects talks first (B-9a).
        talk.say(mid::DATA, b"");
    }
    (must!(listener.accept()), talk)
}

/// A raw server of an SDP client.
pub(super) fn raw_server() -> (Sock, Talk) {
    let listener = Listener::new(B);
    let sock = A.socket();
    must!(sock.set_nonblocking(true));
    check!(sock.connect(&listener.addr()), Err(Errno::EINPROGRESS));
    let request = listener.request();
    let hello = request.private_data.clone();
    let peer = request.establish(&hello_ack());
    check!(finish(&sock), Ok(()));
    must!(sock.set_nonblocking(false));
    let mut talk = Talk::new(peer, &hello);
    if iwarp() {
        let Some((message, slot)) = talk.poll(patience(10)) else {
            panic!("B-9a: who connects talks first");
        };
        check!((message.mid, message.len as usize), (mid::DATA, HEADER));
        talk.repost(slot);
    }
    (sock, talk)
}

pub(super) fn raw_only() {
    sdp_only("TCP has other messages");
}

/// In both roles: `say` violates the protocol, and SDP resets the connection.
fn violation(say: impl Fn(&mut Talk)) {
    raw_only();
    for (role, connect) in [("client", raw_client as fn() -> _), ("server", raw_server)] {
        step!("the raw peer is the {role}: good data");
        let (sock, mut talk): (Sock, Talk) = connect();
        talk.say(mid::DATA, b"good");
        check!(sock.recv_bytes(4), Ok(b"good".to_vec()));
        check!(sock.send(b"fine", 0), Ok(4));
        check!(talk.data(4), b"fine".to_vec());

        step!("the raw peer is the {role}: the violation");
        say(&mut talk);
        talk.peer.ended();
        must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(5)));
        let result = sock.recv(&mut [0], 0);
        if result == Ok(0) {
            // The violation came after a good DisConn, so the end may come first.
            let result = sock.send(b"x", libc::MSG_NOSIGNAL).map(|_| 0);
            check_any!(
                result,
                [
                    Err(Errno::ECONNRESET),
                    Err(Errno::EPROTO),
                    Err(Errno::EPIPE)
                ]
            );
        } else {
            check_any!(result, [Err(Errno::ECONNRESET), Err(Errno::EPROTO)]);
        }
    }
    let (a, b) = pair();
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}

fn wire_raw_peers() {
    raw_only();
    let (tell, hear) = mpsc::channel();
    let server = spawn("server", move || {
        let listener = Listener::new(B);
        must!(tell.send(listener.addr()).map_err(|_| "nobody waits"));
        let request = listener.request();
        let greeting = request.private_data.clone();
        check!(&greeting[..32], &hello()[..]);
        let mut talk = Talk::new(request.establish(&hello_ack()), &greeting);
        check!(talk.next().rest, b"there".to_vec());
        talk.say(mid::DATA, b"back");
        check!(talk.next().mid, mid::DISCONN);
        talk.peer.ended();
    });
    let to = must!(hear.recv());
    let (peer, ack) = must!(Peer::connect(A, &to, &hello()).map_err(|event| format!("{event:?}")));
    check!(&ack[..28], &hello_ack()[..]);
    let mut talk = Talk::new(peer, &ack);
    talk.say(mid::DATA, b"there");
    let message = talk.next();
    check!((&message.rest[..], message.mseq_ack), (&b"back"[..], 1));
    talk.say(mid::DISCONN, b"");
    drop(talk);
    join(server);
}

fn wire_conversation() {
    raw_only();
    for (role, connect) in [("client", raw_client as fn() -> _), ("server", raw_server)] {
        step!("the raw peer is the {role}");
        let (sock, mut talk): (Sock, Talk) = connect();
        check!(sock.send(b"from SDP", 0), Ok(8));
        let message = talk.next();
        check!(
            (message.mid, message.flags, &message.rest[..]),
            (mid::DATA, 0, &b"from SDP"[..])
        );
        talk.say(mid::DATA, b"from the raw peer");
        check!(sock.recv_bytes(17), Ok(b"from the raw peer".to_vec()));

        // What was sent last acknowledges what came (B-14).
        check!(sock.send(b"ack", 0), Ok(3));
        let message = talk.next();
        check!((message.mid, &message.rest[..]), (mid::DATA, &b"ack"[..]));
        check!(message.mseq_ack, talk.sent);

        step!("the raw peer is the {role}: the end");
        talk.say(mid::DISCONN, b"");
        check!(sock.recv(&mut [0], 0), Ok(0));
        check!(sock.send(b"last", 0), Ok(4));
        check!(talk.next().rest, b"last".to_vec());
        must!(sock.shutdown(Shut::Write));
        let message = talk.next();
        check!((message.mid, message.len as usize), (mid::DISCONN, HEADER));
        talk.peer.ended();
    }
}

fn wire_credits() {
    raw_only();
    let (sock, mut talk) = raw_server();
    let total = 100;
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1));
    must!(sock.set_nonblocking(true));
    let bytes = vec![9; RECV_SIZE];
    let mut fed = 0;
    let mut held = Vec::new();
    let mut received = 0;
    for round in 0..total {
        while let Ok(len) = sock.send(&bytes, 0) {
            fed += len;
        }
        step!("round {round}: takes all that comes");
        // Credits as the sender must count them (B-14): what was posted when it heard last.
        while let Some((message, slot)) =
            talk.poll(Duration::from_millis(if round == 0 { 1000 } else { 100 }))
        {
            if message.mid != mid::CH_RCV_BUF {
                received += message.rest.len();
            }
            // B-16 to B-18: with two credits no payload, and the last one gives credit only.
            let credits = usize::from(talk.posted) + 1;
            if message.mid == mid::DATA && !message.rest.is_empty() {
                assert!(credits >= 3, "payload with {credits} credits");
            }
            held.push(slot);
        }
        assert!(talk.posted >= 1, "the last credit is gone");
        if round == 0 {
            assert!(received > 0 && received < fed, "took {received} of {fed}");
        }
        if received >= 64 << 10 {
            break;
        }
        held.drain(..).for_each(|slot| talk.repost(slot));
        talk.say(mid::DATA, b"");
    }
    assert!(received >= 64 << 10, "only {received} bytes came");
}

fn wire_credits_given() {
    raw_only();
    let (sock, mut talk) = raw_client();
    // Not closed before the peer knows that its last message arrived: the end of the connection may
    // overtake that.
    let reader = spawn("reader", move || (must!(sock.recv_to_end()).len(), sock));
    // An honest sender: payload with three credits, otherwise it waits.
    let mut credits = i64::from(talk.bufs);
    let mut sent = 0;
    let total = 300;
    while sent < total {
        step!("sent {sent}, credits {credits}");
        if credits >= 3 {
            talk.say(mid::DATA, b"x");
            sent += 1;
            credits -= 1;
            continue;
        }
        let (message, slot) = must!(talk.poll(patience(5)).ok_or("no credit update came (B-19)"));
        talk.repost(slot);
        credits = i64::from(message.bufs) - i64::from(talk.sent - message.mseq_ack);
        assert!(
            credits >= 0,
            "takes credits back: {message:?} after {}",
            talk.sent
        );
    }
    talk.say(mid::DISCONN, b"");
    let (came, _sock) = join(reader);
    check!(came, total);
}

/// Has SDP send so many bytes by copy to a raw peer, which refuses to make its receive buffers
/// larger.
fn send_to_peer(stream: u64, len: usize) -> Talk {
    raw_only();
    let (sock, mut talk) = raw_server();
    threshold(&sock, 0);
    let bytes = Random::new(config::get().seed, stream).bytes(len);
    let copy = bytes.clone();
    let writer = spawn("writer", move || {
        check!(sock.send(&copy, 0), Ok(copy.len()));
        sock
    });
    assert!(talk.data(bytes.len()) == bytes, "other bytes");
    join(writer);
    talk
}

fn wire_recv_size() {
    // A message that is too large does not fit into the buffer: the connection would break.
    send_to_peer(100, 100_000);
}

fn wire_resize_refused() {
    let talk = send_to_peer(101, 200_000);
    check!(talk.resizes, 1);
    step!("a write that fits a message, and one that does not");
    let most = RECV_SIZE - HEADER;
    check!(send_to_peer(103, most).resizes, 0);
    check!(send_to_peer(104, most + 1).resizes, 1);
}

/// Sends single bytes until a ChRcvBufAck comes: how many, and the size that it says.
fn resize(talk: &mut Talk, size: u32) -> (usize, u32) {
    talk.say(mid::CH_RCV_BUF, &size.to_be_bytes());
    let mut sent = 0;
    let end = Instant::now() + patience(10);
    loop {
        while let Some((message, slot)) = talk.poll(Duration::from_millis(20)) {
            talk.repost(slot);
            if message.mid == mid::CH_RCV_BUF_ACK {
                let size = must!(message.rest.as_slice().try_into().map(u32::from_be_bytes));
                return (sent, size);
            }
            check!((message.mid, message.rest.len()), (mid::DATA, 0));
        }
        assert!(
            Instant::now() < end,
            "no ChRcvBufAck, after {sent} messages"
        );
        if talk.credits >= 3 {
            talk.say(mid::DATA, b"x");
            sent += 1;
        }
    }
}

fn wire_resize_granted() {
    raw_only();
    let (sock, mut talk) = raw_client();
    let (sent, size) = resize(&mut talk, RECV_SIZE as u32);
    check!(size as usize, RECV_SIZE);
    check!(sock.recv_bytes(sent), Ok(vec![b'x'; sent]));
    step!("messages of that size");
    let bytes = Random::new(config::get().seed, 102).bytes(20 * (RECV_SIZE - HEADER));
    for piece in bytes.chunks(RECV_SIZE - HEADER) {
        while talk.credits < 3 {
            let (message, slot) = must!(talk.poll(patience(10)).ok_or("no credit came"));
            talk.repost(slot);
            check!((message.mid, message.rest.len()), (mid::DATA, 0));
        }
        talk.say(mid::DATA, piece);
        assert!(
            sock.recv_bytes(piece.len()).as_deref() == Ok(piece),
            "other bytes"
        );
    }
}

fn wire_resize_beyond() {
    raw_only();
    let (sock, mut talk) = raw_client();
    for size in [1 << 20, 1000] {
        let (sent, is) = resize(&mut talk, size);
        check!(is as usize, SEND_SIZE);
        check!(sock.recv_bytes(sent), Ok(vec![b'x'; sent]));
    }
}

fn wire_small_unread() {
    raw_only();
    let (sock, mut talk) = raw_client();
    let total = 20_000;
    let mut all = Vec::new();
    for number in 0..total / 10 {
        while talk.credits < 3 {
            let (message, slot) = must!(talk.poll(patience(10)).ok_or(format!(
                "no credit came after {number} messages of 10 bytes"
            )));
            talk.repost(slot);
            check!((message.mid, message.rest.len()), (mid::DATA, 0));
        }
        let bytes = format!("{number:>10}").into_bytes();
        talk.say(mid::DATA, &bytes);
        all.extend(bytes);
    }
    assert!(sock.recv_bytes(total) == Ok(all), "other bytes");
}

fn wire_small_peeked() {
    raw_only();
    let (sock, mut talk) = raw_client();
    let mut all = Vec::new();
    for number in 0..200 {
        while talk.credits < 3 {
            let (message, slot) = must!(talk.poll(patience(10)).ok_or(format!(
                "no credit came after {number} messages of 20 bytes"
            )));
            talk.repost(slot);
            check!((message.mid, message.rest.len()), (mid::DATA, 0));
        }
        let bytes = format!("{number:>20}").into_bytes();
        talk.say(mid::DATA, &bytes);
        all.extend(bytes);
        // All that came is looked at, and nothing read.
        let mut room = vec![0; all.len() + 1];
        let seen = becomes(patience(5), || {
            must!(sock.recv(&mut room, libc::MSG_PEEK)) == all.len()
        });
        assert!(seen && room.starts_with(&all), "message {number}");
    }
    check!(sock.recv_bytes(all.len()), Ok(all));
}

fn wire_reset() {
    raw_only();
    let (sock, mut talk) = raw_server();
    must!(sock.set_linger(0));
    drop(sock);
    talk.peer.ended();
    match talk.peer.recv(Duration::ZERO).0 {
        Received::Bytes(bytes) => panic!(
            "a reset\nexpected no message\n     got {:?}",
            Message::from_bytes(&bytes)
        ),
        Received::Nothing | Received::Ended(_) => (),
    }
}

fn wire_abort() {
    raw_only();
    let (sock, mut talk) = raw_client();
    talk.say(mid::DATA, b"unread");
    talk.say(mid::DISCONN, b"");
    check!(sock.recv_bytes(6), Ok(b"unread".to_vec()));
    check!(sock.recv(&mut [0], 0), Ok(0));
    let abort = talk.message(mid::ABORT_CONN, b"");
    talk.send(&abort);
    talk.peer.ended();
    check_any!(
        sock.send(b"x", libc::MSG_NOSIGNAL),
        [Err(Errno::ECONNRESET), Err(Errno::EPIPE)]
    );
}

fn wire_disconnect() {
    raw_only();
    let (sock, mut talk) = raw_server();
    talk.say(mid::DATA, b"last words");
    check!(sock.recv_bytes(10), Ok(b"last words".to_vec()));
    talk.peer.disconnect();
    check!(sock.recv(&mut [0], 0), Err(Errno::ECONNRESET));
}

fn wire_suspended() {
    raw_only();
    for full in [true, false] {
        step!("with bytes unsent: {full}");
        let (sock, mut talk) = raw_server();
        must!(sock.set_nonblocking(true));
        while full && sock.send(&[7; RECV_SIZE], 0).is_ok() {}
        must!(sock.set_nonblocking(false));
        // The end of the connection may overtake its completion.
        let message = talk.message(mid::SUSP_COMM, &0x1_1234_u64.to_be_bytes());
        talk.send(&message);
        // What is in flight arrives first, and maybe a wish for larger buffers.
        loop {
            let (message, slot) = must!(talk.poll(patience(10)).ok_or("no SuspCommAck came"));
            talk.repost(slot);
            if message.mid == mid::SUSP_COMM_ACK {
                break;
            }
        }
        talk.peer.ended();
        must!(sock.set_timeout(libc::SO_RCVTIMEO, patience(5)));
        check!(sock.recv(&mut [0], 0), Err(Errno::ECONNRESET));
        check!(sock.send(b"x", libc::MSG_NOSIGNAL), Err(Errno::EPIPE));
    }
}

fn wire_suspend_nowhere() {
    violation(|talk| {
        let message = talk.message(mid::SUSP_COMM, &0x1_0000_u64.to_be_bytes());
        talk.send(&message);
    });
    violation(|talk| {
        let message = talk.message(mid::SUSP_COMM_ACK, b"");
        talk.send(&message);
    });
}

fn wire_mseq_skipped() {
    violation(|talk| {
        talk.sent += 1;
        let message = talk.message(mid::DATA, b"x");
        talk.send(&message);
    });
}

fn wire_mseq_repeated() {
    violation(|talk| {
        talk.sent -= 1;
        let message = talk.message(mid::DATA, b"x");
        talk.send(&message);
    });
}

fn wire_ack_unsent() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"x");
        message.mseq_ack += 100;
        talk.send(&message);
    });
}

fn wire_ack_backwards() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"");
        message.mseq_ack -= 1;
        talk.send(&message);
    });
}

fn wire_len_large() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"x");
        message.len += 1;
        talk.send(&message);
    });
}

fn wire_len_small() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"xy");
        message.len -= 1;
        talk.send(&message);
    });
}

fn wire_len_huge() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"xy");
        message.len = u32::MAX;
        talk.send(&message);
    });
}

fn wire_header_cut() {
    violation(|talk| {
        let message = talk.message(mid::DATA, b"");
        let _ = talk.peer.send(&message.to_bytes()[..HEADER - 1]);
    });
}

fn wire_nothing() {
    violation(|talk| {
        let _ = talk.peer.send(b"");
    });
}

fn wire_mid_reserved() {
    for reserved in [0x0f, 0x3f, 0x80, 0xfc] {
        violation(|talk| {
            let message = talk.message(reserved, b"");
            talk.send(&message);
        });
    }
}

fn wire_hello_again() {
    violation(|talk| {
        let _ = talk.peer.send(&hello());
    });
}

fn wire_payload_unasked() {
    violation(|talk| {
        let message = talk.message(mid::DISCONN, b"and more");
        talk.send(&message);
    });
}

fn wire_data_after_disconn() {
    violation(|talk| {
        talk.say(mid::DISCONN, b"");
        let message = talk.message(mid::DATA, b"x");
        talk.send(&message);
    });
}

/// Flags of a message (A.1).
const OOB_PRES: u8 = 1;
const OOB_PEND: u8 = 2;

fn wire_urgent() {
    raw_only();
    let (sock, mut talk) = raw_client();
    let mut say = |flags, bytes: &[u8]| {
        let mut message = talk.message(mid::DATA, bytes);
        message.flags = flags;
        talk.send(&message);
    };
    let urgent = || sock.recv(&mut [0], libc::MSG_OOB);
    catch(libc::SIGURG, 0);
    // SAFETY: `F_SETOWN` takes no memory.
    must!(Errno::check(unsafe {
        libc::fcntl(sock.fd(), libc::F_SETOWN, libc::getpid())
    }));
    step!("announced");
    say(OOB_PEND, b"");
    say(OOB_PEND, b"before");
    assert!(becomes(patience(5), || urgent() == Err(Errno::EAGAIN)));
    check!(sock.recv_bytes(6), Ok(b"before".to_vec()));
    check!(sock.poll(libc::POLLPRI, Duration::ZERO), Ok(0));
    check!(caught(), 1);
    step!("here");
    say(OOB_PRES, b"and!");
    assert!(becomes(patience(5), || urgent() == Ok(1)));
    check!(caught(), 1);
    check!(sock.recv_bytes(3), Ok(b"and".to_vec()));
    step!("not announced");
    say(OOB_PRES, b"!");
    assert!(becomes(patience(5), || urgent() == Ok(1)));
    check!(caught(), 2);
    step!("never here");
    say(OOB_PRES | OOB_PEND, b"1");
    say(OOB_PEND, b"");
    say(0, b"end");
    check!(sock.recv_bytes(3), Ok(b"end".to_vec()));
    check!(urgent(), Err(Errno::EAGAIN));
    check!(caught(), 4);
    talk.say(mid::DISCONN, b"");
    check!(sock.recv(&mut [0], 0), Ok(0));
    check!(urgent(), Ok(0));
}

fn wire_urgent_nothing() {
    violation(|talk| {
        let mut message = talk.message(mid::DATA, b"");
        message.flags = OOB_PRES;
        talk.send(&message);
    });
}

fn wire_silent_end() {
    raw_only();
    let fin_timeout = |seconds| {
        A.command(&["sysctl", "-q", &format!("net.sdp.fin_timeout={seconds}")]);
    };
    let (sock, mut talk) = raw_server();
    // Something is held back, and has no credit: the timer that it needs must not be in the way.
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_CORK, 1));
    must!(sock.set_nonblocking(true));
    while sock.send(&[7; RECV_SIZE], 0).is_ok() {}
    fin_timeout(1);
    let start = Instant::now();
    drop(sock);
    fin_timeout(60);
    talk.peer.ended();
    let took = start.elapsed();
    assert!(
        took + TICK >= Duration::from_secs(1) && took < patience(5),
        "took {took:?}"
    );
}

fn wire_hung() {
    raw_only();
    let (sock, mut talk) = raw_server();
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1));
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1));
    must!(sock.set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 2));
    must!(sock.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1));
    step!("it answers");
    for _ in 0..3 {
        let (message, slot) = must!(talk.poll(patience(4)).ok_or("no ChRcvBuf"));
        talk.repost(slot);
        let same = (RECV_SIZE as u32).to_be_bytes();
        check!(
            (message.mid, &message.rest[..]),
            (mid::CH_RCV_BUF, &same[..])
        );
        talk.say(mid::CH_RCV_BUF_ACK, &same);
    }
    check!(sock.error(), Ok(()));
    step!("it does not");
    let start = Instant::now();
    check!(sock.recv(&mut [0], 0), Err(Errno::ETIMEDOUT));
    let took = start.elapsed();
    assert!(
        took + TICK >= Duration::from_secs(3) && took < patience(6),
        "took {took:?}"
    );
}

fn wire_disconn_twice() {
    violation(|talk| {
        talk.say(mid::DISCONN, b"");
        let message = talk.message(mid::DISCONN, b"");
        talk.send(&message);
    });
}

fn wire_abort_alone() {
    violation(|talk| {
        let message = talk.message(mid::ABORT_CONN, b"");
        talk.send(&message);
    });
}

fn wire_flood() {
    raw_only();
    let (sock, mut talk) = raw_client();
    // InfiniBand holds back what finds no buffer, so this ends only because the socket is read;
    // iWARP ends the connection.
    let reader = spawn("reader", move || {
        std::thread::sleep(Duration::from_millis(500));
        sock.recv_to_end()
    });
    let total = 400;
    for number in 0..total {
        let message = talk.message(mid::DATA, &[number as u8]);
        if talk.peer.send(&message.to_bytes()).is_err() {
            break;
        }
        // Whatever it says in between; its buffers must not run out.
        while let Ok(Some((_, slot))) = talk.try_poll(Duration::ZERO) {
            talk.repost(slot);
        }
    }
    let last = talk.message(mid::DISCONN, b"");
    talk.send(&last);
    match join(reader) {
        Ok(bytes) => check!(
            bytes,
            (0..total).map(|number| number as u8).collect::<Vec<_>>()
        ),
        Err(error) => check_any!(error, [Errno::ECONNRESET, Errno::EPROTO]),
    }
}

fn wire_random() {
    raw_only();
    let mut random = Random::new(config::get().seed, 101);
    let rounds = volume(60, 12);
    for round in 0..rounds {
        let (sock, mut talk) = if round % 2 == 0 {
            raw_client()
        } else {
            raw_server()
        };
        for number in 0..random.within(1, 8) {
            let known = [
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xfd, 0xfe, 0xff, 0xff, 0xff,
            ];
            let len = random.within(0, 64);
            let rest = random.bytes(len);
            let mid = known[random.within(0, known.len() - 1)];
            let mut bytes = talk.message(mid, &rest).to_bytes();
            if random.within(0, 2) == 0 {
                let at = random.within(0, bytes.len() - 1);
                bytes[at] = random.word() as u8;
            }
            step!(
                "round {round}, message {number}: {:?}",
                Message::from_bytes(&bytes)
            );
            if talk.peer.send(&bytes).is_err() {
                break;
            }
        }
        // Use the socket as a program would; what comes of it does not matter here.
        must!(sock.set_nonblocking(true));
        let _ = sock.send(b"hello?", libc::MSG_NOSIGNAL);
        let _ = sock.recv(&mut [0; 100], 0);
        let _ = sock.recv(&mut [0; 100], 0);
        drop(sock);
        drop(talk);
    }
    let (a, b) = pair();
    check!(a.send(b"x", 0), Ok(1));
    check!(b.recv_bytes(1), Ok(b"x".to_vec()));
}
