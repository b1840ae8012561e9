// SPDX-License-Identifier: GPL-2.0

//! Output: from the send stream to messages in the send queue.

use crate::{
    net::stamp::TxStamps,
    prelude::*,
    proto::{
        wire::{
            mid,
            BASE_LEN, //
        },
        Events,
        Machine,
        Source, //
    },
    rdma::{
        buf::{
            SendBuf,
            Sge, //
        },
        mr::Remote,
        qp::{
            Payload,
            Piece,
            SendWr, //
        }, //
    },
    sock::{
        buffers::{
            has_buffer_slots,
            remote,
            Buffers,
            BUFFER_SLOTS, //
        },
        conn::{
            Conn,
            ConnQp,
            Post, //
        },
        post::{
            Outbound,
            Request, //
        },
        recv_buffers::RETRY_MS,
        ring::Ring,
        stats::Counter,
        types::Socket, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    sync::atomic::Relaxed, //
};

/// Pages of a send chunk for more than a page, as a power of two: 16 KiB on 4 KiB pages.
pub(super) const SEND_ORDER: u32 = 2;

/// Requests of the send queue for registrations, and for messages, of which one takes up to two.
pub(super) const SEND_SLOTS: u32 = 6;

/// Pieces of memory of a message's payload, beside that of its header.
pub(super) const PAYLOAD_PIECES: u32 = 2;

/// How many pieces of written data may wait to be sent, at first and at most; a piece is a chunk,
/// except at the ends.
pub(super) const FIRST_PIECES: usize = 8;
const SEND_PIECES: usize = 1024;

impl Conn {
    /// Appends written bytes to the send stream, of which the last may be `urgent`, or the last
    /// that the program writes for now (`push`), and is reported in these stages; or gives them
    /// back where there is no room for another piece. Keeps their chunk for the next ones, as
    /// [`Self::keep_chunk`] does. Any context, without the spinlocks.
    pub(super) fn write(
        &self,
        bytes: Sge,
        chunk: SendBuf,
        (urgent, push): (bool, bool),
        stages: TxStamps,
    ) -> Result<(), Sge> {
        let len = bytes.len();
        let is_large = is_large(&chunk);
        let unused;
        {
            let mut post = self.post.lock();
            unused = post.keep_chunk(chunk);
            let rest = match post.tx.back_mut() {
                Some(last) => last.join(bytes),
                None => Err(bytes),
            };
            if let Err(bytes) = rest {
                post.tx.push(bytes)?;
            }
        }
        drop(unused);
        let now = self.now();
        let check_at = {
            let flow = &mut *self.flow.lock();
            let m = &mut flow.machine;
            m.set_now(now);
            m.write(len);
            if urgent {
                m.mark_urgent();
            }
            if push {
                m.push();
            }
            self.await_stamp(&mut flow.stamps, m.written(), stages);
            let (size, peer) = (m.peer_recv_size(), &mut flow.peer_buffers);
            peer.wrote = true;
            // Larger messages are worth it if there is more to send than fits one. CAST: It is 16.
            let asked = m.unsent() > size.saturating_sub(BASE_LEN as u32) as usize
                && size < peer.message_size
                && m.ask_resize(peer.message_size);
            if asked {
                peer.before.get_or_insert(size);
            }
            (asked || is_large)
                .then(|| now.saturating_add(self.idle_timeout()))
                .filter(|at| flow.timers.is_before(*at))
        };
        if let Some(at) = check_at {
            self.work_at(at);
        }
        self.kick();
        Ok(())
    }

    /// Takes the chunk that was kept for the next written bytes. Any context, without
    /// [`Connection::post`](super::conn::Connection::post) and the locks after it.
    pub(super) fn take_chunk(&self) -> Option<SendBuf> {
        self.post.lock().chunk.take()
    }

    /// Keeps a chunk that has room, until the connection is idle. Any context, without
    /// [`Connection::post`](super::conn::Connection::post) and the locks after it.
    pub(super) fn keep_chunk(&self, chunk: SendBuf) {
        let is_large = is_large(&chunk);
        let unused = self.post.lock().keep_chunk(chunk);
        drop(unused);
        if is_large {
            self.work_at(self.now().saturating_add(self.idle_timeout()));
        }
    }

    /// Whether the send stream has, or can get, room for another piece. Any context, without
    /// [`Connection::post`](super::conn::Connection::post) and the locks after it.
    pub(super) fn has_place(&self) -> bool {
        let tx = &self.post.lock().tx;
        !tx.is_full() || tx.capacity() < SEND_PIECES
    }

    /// Makes room in the send stream for another piece. False where that has to wait until some are
    /// sent. Sleeps; one caller at a time. Fails with `ENOMEM`, and with `EPIPE` where the
    /// connection has ended.
    pub(super) fn make_place(&self) -> Result<bool> {
        let capacity = {
            let tx = &self.post.lock().tx;
            if !tx.is_full() {
                return Ok(true);
            }
            tx.capacity()
        };
        let more = capacity.saturating_mul(2).clamp(FIRST_PIECES, SEND_PIECES);
        if more <= capacity {
            return Ok(false);
        }
        let longer = Ring::new_charged(more)?;
        let unused = {
            let mut post = self.post.lock();
            // After teardown nothing would be sent.
            if post.qp.is_none() {
                return Err(EPIPE);
            }
            post.tx.lengthen(longer)
        };
        drop(unused);
        if more > FIRST_PIECES {
            self.work_at(self.now().saturating_add(self.idle_timeout()));
        }
        Ok(true)
    }

    /// Bytes that were copied from the program and have not reached the peer. Any context, as those
    /// that follow, without [`Connection::post`](super::conn::Connection::post) and the locks after
    /// it.
    pub(super) fn copied(&self) -> usize {
        self.inspect(|m| m.unsent().saturating_add(m.in_flight()))
    }

    /// Bytes that were written and have not reached the peer, those that were lent included.
    pub(super) fn queued(&self) -> usize {
        let buffered = self.inspect(Machine::buffered);
        let buffered = usize::try_from(buffered).unwrap_or(usize::MAX);
        self.copied().saturating_add(buffered)
    }

    /// How many more bytes may be written: as many as `limit` leaves, and none while too many are
    /// unsent (`TCP_NOTSENT_LOWAT`).
    pub(super) fn room(&self, limit: usize) -> usize {
        let flow = self.flow.lock();
        let unsent = flow.machine.unsent();
        if unsent >= flow.options.notsent_limit() {
            return 0;
        }
        limit.saturating_sub(unsent.saturating_add(flow.machine.in_flight()))
    }

    /// Whether writers are to be woken: as with TCP, once a third of the send buffer is free, and
    /// less than half of `TCP_NOTSENT_LOWAT` is unsent.
    pub(super) fn writable(&self, sk: &Socket) -> bool {
        let third = sk.send_buffer() / 3;
        self.copied() <= sk.send_buffer().saturating_sub(third)
            && self.has_buffer_place()
            && self.is_mostly_sent()
    }

    /// Whether the bytes that are unsent are less than half of `TCP_NOTSENT_LOWAT`.
    fn is_mostly_sent(&self) -> bool {
        let flow = self.flow.lock();
        let limit = flow.options.notsent_limit();
        flow.machine.unsent().saturating_mul(2) < limit
    }

    /// Whether there is `room`; a writer that finds none is notified when there is some. In a call
    /// on the file of `sk`, or in poll.
    pub(super) fn finds_room(&self, sk: &Socket, room: impl Fn() -> bool) -> bool {
        if room() {
            return true;
        }
        self.no_room.store(true, Relaxed);
        sk.want_async_space();
        // It may have come just before; the other side makes it under the same lock, and then
        // tests the flag.
        room()
    }

    /// Notifies writers, if some have found no room and there is some. That is once, lest those who
    /// wait for the edge (`EPOLLET`) are woken for each message that was sent. Any context, without
    /// the spinlocks.
    pub(super) fn notify_writers(&self, sk: &Socket) {
        let has_room = || self.writable(sk) || self.send_closed();
        if self.no_room.load(Relaxed) && has_room() && self.no_room.xchg(false, Relaxed) {
            sk.write_space();
        }
    }

    /// As [`Self::notify_writers`], also where none have found no room: they found a call that
    /// sends.
    pub(super) fn notify_all_writers(&self, sk: &Socket) {
        self.no_room.store(true, Relaxed);
        self.notify_writers(sk);
    }

    /// Whether the connection takes no more bytes from the program, for whatever reason.
    pub(super) fn send_closed(&self) -> bool {
        self.inspect(|m| !m.can_write())
    }

    /// Posts what the machine wants sent, as long as the send queue has room, and adds what has
    /// happened to `events`. Any context, without the spinlocks. Fails with the driver's error,
    /// after which no message can be sent any more.
    pub(super) fn transmit(&self, events: &mut Events) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else {
            *events |= self.flow.lock().machine.take_events();
            return Ok(());
        };
        let slots = message_slots(qp);
        let pieces = qp.caps().payload_sge as usize;
        post.is_full = false;
        // There is room for two.
        while post.messages.saturating_add(1) < slots {
            if let Some(new) = post.buffers.next_new() {
                if qp.delays_registration() {
                    post.is_full = true;
                    break;
                }
                let (memory, read) = new.begin();
                // Before any message that advertises the key, or needs it.
                qp.post_register(&memory, Request::Register)?;
                post.messages = post.messages.saturating_add(1);
                if let Some((from, len)) = read {
                    qp.post_read(&memory, len, from, Request::Read)?;
                }
                continue;
            }
            let next = match post.waiting.take() {
                None => self.next_message(&mut post.tx, &mut post.buffers, pieces, events)?,
                waiting => waiting,
            };
            let Some(next) = next else { return Ok(()) };
            let transmit = &next.transmit;
            let mut payload = match qp.map(&next.payload) {
                Ok(payload) => Some(payload),
                Err(e) if e == ENOMEM => {
                    post.waiting = Some(next);
                    self.work_in(RETRY_MS);
                    break;
                }
                Err(e) => return Err(e),
            };
            if let Some(to) = transmit.write {
                let from = payload.take().ok_or(EINVAL)?;
                qp.post_write(from, remote(to), Request::Write)?;
                post.messages = post.messages.saturating_add(1);
            }
            let send = SendWr {
                header: transmit.header.as_bytes(),
                payload,
                solicited: transmit.solicited,
            };
            qp.post_send(send, Request::Message(transmit.tag))?;
            post.messages = post.messages.saturating_add(1);
            match transmit.header.mid() {
                mid::SRC_AVAIL => self.count(Counter::SrcAvails, 1),
                mid::SINK_AVAIL => self.count(Counter::SinkAvails, 1),
                mid::SEND_SM => self.count(Counter::Declined, 1),
                _ => {}
            }
        }
        post.is_full |= post.messages.saturating_add(1) >= slots;
        *events |= self.flow.lock().machine.take_events();
        Ok(())
    }

    /// What the machine wants sent next, if anything, with the bytes that it carries, of a buffer
    /// or of at most so many pieces of the send stream. Adds what has happened to `events`. Fails
    /// as [`take_payload`] and [`Buffers::payload`] do.
    fn next_message(
        &self,
        tx: &mut Ring<Sge>,
        buffers: &mut Buffers,
        pieces: usize,
        events: &mut Events,
    ) -> Result<Option<Outbound>> {
        // What one message can carry of the stream, which lies in pieces.
        let gather = (0..pieces)
            .filter_map(|at| tx.get(at))
            .fold(0usize, |sum, piece| sum.saturating_add(piece.len()));
        let now = self.now();
        let transmit = {
            let machine = &mut self.flow.lock().machine;
            machine.set_now(now);
            machine.set_gather(u32::try_from(gather).unwrap_or(u32::MAX));
            let transmit = machine.poll_transmit();
            *events |= machine.take_events();
            transmit
        };
        let Some(transmit) = transmit else {
            return Ok(None);
        };
        let bytes = transmit.write.map_or(transmit.payload, |to| to.len);
        let payload = match transmit.source {
            Source::Stream => take_payload(tx, bytes)?,
            Source::Buffer(id, offset) => {
                let counter = match transmit.write {
                    Some(_) => Counter::SentWritten,
                    None => Counter::SentDirect,
                };
                self.count(counter, bytes.into());
                buffers.payload(id, offset, bytes)?
            }
        };
        Ok(Some(Outbound { transmit, payload }))
    }

    /// Posts a request without bytes that the peer's device has to answer, unless an answer is due
    /// anyway: an RDMA Write, or on iWARP, where a write completes once the TCP connection has it,
    /// an RDMA Read. Any context, without the spinlocks. Fails with the driver's error.
    pub(super) fn probe(&self) -> Result {
        let iwarp = self.flow.lock().iwarp;
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        // A full send queue means that other answers are due.
        if !post.is_probing && post.messages < message_slots(qp) {
            let nowhere = Remote { addr: 0, key: 0 };
            if iwarp {
                qp.post_read_nothing(nowhere, Request::Probe)?;
            } else {
                qp.post_write(qp.map(&Payload::default())?, nowhere, Request::Probe)?;
            }
            post.is_probing = true;
            post.messages = post.messages.saturating_add(1);
        }
        Ok(())
    }

    /// Posts an RDMA Write of no bytes, so that the peer's device looks at what arrived before
    /// (B-9a). Any context, without the spinlocks. Fails with the driver's error.
    pub(super) fn nudge(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        // If there is no room it is tried again later.
        if post.messages < message_slots(qp) {
            let nowhere = Remote { addr: 0, key: 0 };
            qp.post_write(qp.map(&Payload::default())?, nowhere, Request::Write)?;
            post.messages = post.messages.saturating_add(1);
        }
        Ok(())
    }
}

impl Post {
    /// Keeps a chunk that has room, while there is a QP. Gives back what is not kept, to be dropped
    /// without the lock.
    fn keep_chunk(&mut self, chunk: SendBuf) -> Option<SendBuf> {
        if chunk.room() == 0 || self.qp.is_none() {
            return Some(chunk);
        }
        self.chunk.replace(chunk)
    }

    /// Posts a request to the QP. Fails with `ENOTCONN` where there is none any more, and as `post`
    /// does.
    pub(super) fn request(&mut self, post: impl FnOnce(&ConnQp) -> Result) -> Result {
        post(self.qp.as_ref().ok_or(ENOTCONN)?)
    }
}

/// Whether a chunk that is kept is to be freed once the connection is idle.
fn is_large(chunk: &SendBuf) -> bool {
    chunk.room() > 0 && chunk.size() > PAGE_SIZE
}

/// How many requests for messages, registrations and probes may be posted at a time.
fn message_slots(qp: &ConnQp) -> usize {
    let all = qp.caps().send_wr;
    let slots = match has_buffer_slots(all) {
        true => all.saturating_sub(BUFFER_SLOTS),
        false => all,
    };
    slots as usize
}

/// Takes the first `len` bytes off the send stream. Fails with `EPIPE` where it has fewer, and with
/// `EMSGSIZE` where they lie in more pieces than a payload takes.
fn take_payload(tx: &mut Ring<Sge>, len: u32) -> Result<Payload> {
    let mut payload = Payload::default();
    let mut rest = len as usize;
    while rest > 0 {
        let front = tx.front_mut().ok_or(EPIPE)?;
        let piece = if front.len() <= rest {
            tx.pop()
        } else {
            front.split_to(rest)
        }
        .ok_or(EPIPE)?;
        rest = rest.saturating_sub(piece.len());
        payload.push(Piece::Copied(piece)).map_err(|_| EMSGSIZE)?;
    }
    Ok(payload)
}
