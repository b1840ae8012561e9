// SPDX-License-Identifier: GPL-2.0

//! From the send stream to messages in the send queue.

use crate::{
    prelude::*,
    proto::{
        wire::mid,
        Machine,
        Source, //
    },
    rdma::{
        buf::Sge,
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
            Outbound,
            Post,
            Request, //
        },
        recv_buffers::RETRY_MS,
        ring::Ring,
        stats::Counter,
        Socket, //
    }, //
};

/// Pages of a send chunk for more than a page, as a power of two: 16 KiB on 4 KiB pages.
pub(super) const SEND_ORDER: u32 = 2;

/// Requests of the send queue for registrations, and for messages, which are up to two each.
pub(super) const SEND_SLOTS: u32 = 6;

/// Buffers for a message's payload, beside that for its header.
pub(super) const PAYLOAD_PIECES: u32 = 2;

/// Pieces of written data that may wait to be sent, at first and at most; a piece is a chunk,
/// except at the ends.
pub(super) const FIRST_PIECES: usize = 8;
const SEND_PIECES: usize = 1024;

impl Conn {
    /// Appends written bytes to the send stream; gives them back where the stream has no place.
    pub(super) fn write(&self, bytes: Sge) -> Result<(), Sge> {
        let len = bytes.len();
        {
            let mut post = self.post.lock();
            let rest = match post.tx.back_mut() {
                Some(last) => last.join(bytes),
                None => Err(bytes),
            };
            if let Err(bytes) = rest {
                post.tx.push(bytes)?;
            }
        }
        let now = self.now();
        {
            let flow = &mut *self.flow.lock();
            let m = &mut flow.machine;
            m.set_now(now);
            m.write(len);
            // Where more than one message is full, larger ones are better.
            if m.unsent() > m.peer_recv_size() as usize && m.peer_recv_size() < flow.message_size {
                m.ask_resize(flow.message_size);
            }
        }
        self.kick();
        Ok(())
    }

    /// Whether the send stream has, or can be given, a place for another piece.
    pub(super) fn has_place(&self) -> bool {
        let tx = &self.post.lock().tx;
        !tx.is_full() || tx.capacity() < SEND_PIECES
    }

    /// Gives the send stream a place for another piece; false where that has to wait for some to be
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
        let longer = Ring::new(more)?;
        let unused = {
            let mut post = self.post.lock();
            // What is written after the end goes nowhere.
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

    /// Bytes that were copied from the user and have not reached the peer.
    pub(super) fn copied(&self) -> usize {
        self.inspect(|m| m.unsent().saturating_add(m.in_flight()))
    }

    /// Bytes that were written and have not reached the peer.
    pub(super) fn queued(&self) -> usize {
        let buffered = self.inspect(Machine::buffered);
        let buffered = usize::try_from(buffered).unwrap_or(usize::MAX);
        self.copied().saturating_add(buffered)
    }

    /// Whether writers are woken: as with TCP, once a third of the send buffer is free.
    pub(super) fn writable(&self, sk: &Socket) -> bool {
        let third = sk.send_buffer() / 3;
        self.copied() <= sk.send_buffer().saturating_sub(third) && self.has_buffer_place()
    }

    /// Whether the connection takes no more of the user's bytes, for whatever reason.
    pub(super) fn send_closed(&self) -> bool {
        self.inspect(|m| !m.can_write())
    }

    /// Posts what the machine wants sent, as long as there is room for it. Any context, without the
    /// spinlocks. Fails with the driver's error, after which no message goes any more.
    pub(super) fn transmit(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        let slots = message_slots(qp);
        let pieces = qp.caps().payload_sge as usize;
        // There is room for two.
        while post.messages.saturating_add(1) < slots {
            if let Some((memory, read)) = post.buffers.take_new() {
                // Before any message that tells of it, or needs it.
                qp.post_register(&memory, Request::Register)?;
                post.messages = post.messages.saturating_add(1);
                if let Some((from, len)) = read {
                    qp.post_read(&memory, len, from, Request::Read)?;
                }
                continue;
            }
            let next = match post.waiting.take() {
                None => self.next_message(&mut post.tx, &mut post.buffers, pieces)?,
                waiting => waiting,
            };
            let Some(next) = next else { break };
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
        post.is_full = post.messages.saturating_add(1) >= slots;
        Ok(())
    }

    /// What the machine wants sent next, if anything, with what that carries of the send stream, in
    /// so many pieces, or of a buffer.
    fn next_message(
        &self,
        tx: &mut Ring<Sge>,
        buffers: &mut Buffers,
        pieces: usize,
    ) -> Result<Option<Outbound>> {
        // What one message can carry of the stream, which lies in pieces.
        let gather = (0..pieces)
            .filter_map(|at| tx.get(at))
            .fold(0usize, |sum, piece| sum.saturating_add(piece.len()));
        let transmit = {
            let machine = &mut self.flow.lock().machine;
            machine.set_gather(u32::try_from(gather).unwrap_or(u32::MAX));
            machine.poll_transmit()
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

    /// Writes no bytes to the peer.
    pub(super) fn probe(&self) -> Result {
        let mut guard = self.post.lock();
        let post = &mut *guard;
        let Some(qp) = &post.qp else { return Ok(()) };
        // Where there is no room it is tried again later.
        if post.messages < message_slots(qp) {
            let nowhere = Remote { addr: 0, key: 0 };
            qp.post_write(qp.map(&Payload::default())?, nowhere, Request::Write)?;
            post.messages = post.messages.saturating_add(1);
        }
        Ok(())
    }
}

impl Post {
    /// Posts a request to the QP. `ENOTCONN` where there is none any more.
    pub(super) fn request(&mut self, post: impl FnOnce(&ConnQp) -> Result) -> Result {
        post(self.qp.as_ref().ok_or(ENOTCONN)?)
    }
}

/// Requests for messages that may be posted at a time.
fn message_slots(qp: &ConnQp) -> usize {
    let all = qp.caps().send_wr;
    let slots = match has_buffer_slots(all) {
        true => all.saturating_sub(BUFFER_SLOTS),
        false => all,
    };
    slots as usize
}

/// Takes the first `len` bytes off the send stream.
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
