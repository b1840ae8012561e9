// SPDX-License-Identifier: GPL-2.0

//! The callers' buffers that take part in zero copy, from registration until their key is ended.
//!
//! Part of what [`Conn::post`](super::conn::Conn) guards. A buffer goes through its [`Stage`]s in
//! softirq, but is let go by a task, since that sleeps: the memory of one that is over is taken
//! out and dropped without locks.

use crate::{
    net::zerocopy::Notice,
    prelude::*,
    proto::{
        BufferId,
        Finished,
        Region, //
    },
    rdma::{
        mr::{
            Memory,
            Remote, //
        },
        qp::{
            Payload,
            Piece, //
        }, //
    },
};
use kernel::sync::Arc;

/// Buffers that may be sent at a time, and that may be filled: read into, or offered.
pub(super) const BUFFERS: usize = 4;

/// Requests of the send queue that the messages leave to the callers' buffers: one for each, to
/// read into it and then to end its key. They are never out of one, so that no key is left valid
/// for want of it.
// CAST: It is 4.
pub(super) const BUFFER_SLOTS: u32 = 2 * BUFFERS as u32;

/// How far a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// Its key is to be made valid, before the next message.
    New,
    /// The protocol, or the fabric, uses it.
    Busy,
    /// Its key is being ended.
    Ending,
    /// Nobody but its owner can touch it.
    Over,
}

impl Stage {
    /// The protocol has finished with the buffer: whether its key is to be ended, which may never
    /// have been valid.
    fn finish(&mut self) -> bool {
        let valid = *self != Stage::New;
        *self = if valid { Stage::Ending } else { Stage::Over };
        valid
    }
}

/// Who waits for a buffer.
pub(super) enum Owner {
    /// The call that handed it in.
    Call,
    /// Nobody: the connection's work lets it go, and then, by dropping it, gives the notice.
    Work {
        /// Of `MSG_ZEROCOPY`; the kernel's own pages have none.
        _notice: Option<Notice>,
    },
}

impl Owner {
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Owner::Call)
    }
}

/// A buffer to be sent.
pub(super) struct Outgoing {
    pub(super) id: BufferId,
    pub(super) memory: Arc<Memory>,
    pub(super) stage: Stage,
    pub(super) owner: Owner,
    /// Bytes that were sent by Data or RDMA Write.
    pub(super) pushed: u64,
    /// Bytes of it that were transferred, once it is no longer busy.
    pub(super) bytes: u32,
}

/// A buffer that an RDMA Read fills.
pub(super) struct Incoming {
    /// None where the end of the QP was first to let it go.
    pub(super) memory: Option<Arc<Memory>>,
    pub(super) len: usize,
    pub(super) stage: Stage,
    /// Where it is read from.
    pub(super) from: Remote,
    /// Bytes to be read; those that were, once it is no longer busy.
    pub(super) bytes: u32,
}

/// A buffer that the peer may write.
pub(super) struct Offered {
    pub(super) id: BufferId,
    /// As in [`Incoming`].
    pub(super) memory: Option<Arc<Memory>>,
    pub(super) len: usize,
    pub(super) stage: Stage,
    /// Bytes that were written, once it is no longer busy.
    pub(super) bytes: u32,
}

/// Receives that offer one buffer after several have not paid; and those that offer several before one
/// asks again how much the peer writes.
const PAUSE: u8 = 16;

/// How the peer writes to what is offered, from which the next receive learns what to offer.
///
/// A write goes to one offer and ends it. So several offers at a time take several writes if each is
/// as long as those; otherwise what came has to be moved together.
#[derive(Default)]
pub(super) struct WritePattern {
    /// Bytes of the last write.
    size: usize,
    /// Whether the one before it had as many.
    again: bool,
    /// So many receives more offer one buffer.
    pause: u8,
    /// So many have offered several.
    several: u8,
}

impl WritePattern {
    /// The length of each buffer that a receive should offer who has room for so many bytes: all of it,
    /// or at least `least` and so much that two or more fit in.
    pub(super) fn next(&mut self, room: usize, least: usize) -> usize {
        let fits = self.again && (least..=room / 2).contains(&self.size);
        if fits && self.pause == 0 {
            return self.size;
        }
        self.pause = self.pause.saturating_sub(1);
        room
    }

    fn wrote(&mut self, bytes: usize) {
        self.again = self.size == bytes;
        self.size = bytes;
    }

    /// The peer wrote so many bytes to one offer, which may have had more for it where that was `filled`.
    pub(super) fn wrote_one(&mut self, bytes: usize, filled: bool) {
        match filled {
            true => self.again = false,
            false if bytes > 0 => self.wrote(bytes),
            false => {}
        }
    }

    /// The peer wrote so many bytes to each of several offers, which helped or not.
    pub(super) fn wrote_several(&mut self, written: &[usize], helped: bool) {
        for bytes in written.iter().filter(|bytes| **bytes > 0) {
            self.wrote(*bytes);
        }
        self.several = self.several.saturating_add(1);
        if !helped {
            self.pause = PAUSE;
        } else if self.several >= PAUSE {
            self.several = 0;
            self.pause = 1;
        }
    }
}

/// A buffer whose key is to be made valid, and what is to be read into it: where from, and how
/// much.
pub(super) type New = (Arc<Memory>, Option<(Remote, usize)>);

/// The buffers of one connection.
#[derive(Default)]
pub(super) struct Buffers {
    /// Whether some may be [`Stage::New`].
    any_new: bool,
    /// What the call that waits to receive offers: oldest first, packed.
    offered: [Option<Offered>; BUFFERS],
    pub(super) pattern: WritePattern,
    /// In no order: the protocol may finish with a late one first.
    outgoing: [Option<Outgoing>; BUFFERS],
    /// Oldest first, packed.
    incoming: [Option<Incoming>; BUFFERS],
    /// Of the call that waits for its buffers: how many are left, and the bytes transferred.
    pub(super) call: Call,
}

/// What a call that waits knows of its buffers.
#[derive(Clone, Copy, Default)]
pub(super) struct Call {
    /// The first of them.
    pub(super) first: Option<BufferId>,
    /// Those that are not let go.
    pub(super) left: usize,
    /// Bytes transferred of those that are.
    pub(super) bytes: usize,
}

impl Call {
    /// One of them was let go, with so many bytes transferred.
    pub(super) fn returned(&mut self, bytes: u32) {
        self.left = self.left.saturating_sub(1);
        // CAST: `usize` has at least 32 bits.
        self.bytes = self.bytes.saturating_add(bytes as usize);
    }
}

impl Buffers {
    /// Whether another buffer can be sent.
    pub(super) fn has_place(&self) -> bool {
        self.outgoing.iter().any(Option::is_none)
    }

    /// Whether buffers are on their way.
    pub(super) fn is_sending(&self) -> bool {
        let mut sending = self.outgoing.iter().flatten();
        sending.any(|buffer| buffer.stage <= Stage::Busy)
    }

    /// The next buffer whose key is to be made valid, which is busy from now on.
    pub(super) fn take_new(&mut self) -> Option<New> {
        if !self.any_new {
            return None;
        }
        let mut outgoing = self.outgoing.iter_mut().flatten();
        if let Some(buffer) = outgoing.find(|buffer| buffer.stage == Stage::New) {
            buffer.stage = Stage::Busy;
            return Some((buffer.memory.clone(), None));
        }
        if let Some(buffer) = self.incoming(Stage::New) {
            buffer.stage = Stage::Busy;
            // CAST: `usize` has at least 32 bits.
            let read = (buffer.from, buffer.bytes as usize);
            return Some((buffer.memory.clone()?, Some(read)));
        }
        if let Some(buffer) = self.offered_mut().find(|b| b.stage == Stage::New) {
            buffer.stage = Stage::Busy;
            return Some((buffer.memory.clone()?, None));
        }
        self.any_new = false;
        None
    }

    /// The protocol has finished with a buffer that was sent: its memory, if its key is to be
    /// ended. One whose key was never valid is over.
    pub(super) fn finish_send(&mut self, finished: Finished) -> Option<Arc<Memory>> {
        let buffer = self.outgoing(finished.id)?;
        buffer.bytes = finished.bytes;
        let memory = buffer.memory.clone();
        buffer.stage.finish().then_some(memory)
    }

    /// The same with a buffer that was offered.
    pub(super) fn finish_offer(&mut self, finished: Finished) -> Option<Arc<Memory>> {
        let buffer = self.offered_mut().find(|b| b.id == finished.id)?;
        buffer.bytes = finished.bytes;
        let memory = buffer.memory.clone();
        buffer.stage.finish().then_some(memory)?
    }

    /// Adds a buffer to be sent; gives it back where there is no place.
    pub(super) fn send(&mut self, buffer: Outgoing) -> Result<(), Outgoing> {
        let Some(place) = self.outgoing.iter_mut().find(|place| place.is_none()) else {
            return Err(buffer);
        };
        self.any_new = true;
        if buffer.owner.is_call() {
            self.call.first.get_or_insert(buffer.id);
            self.call.left = self.call.left.saturating_add(1);
        }
        *place = Some(buffer);
        Ok(())
    }

    /// The buffer to be sent with this name.
    pub(super) fn outgoing(&mut self, id: BufferId) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().flatten().find(|b| b.id == id)
    }

    /// So many bytes of a buffer, which a message carries or an RDMA Write takes.
    pub(super) fn payload(&mut self, id: BufferId, offset: u32, bytes: u32) -> Result<Payload> {
        let mut payload = Payload::default();
        if bytes > 0 {
            let buffer = self.outgoing(id).ok_or(EPIPE)?;
            buffer.pushed = buffer.pushed.saturating_add(bytes.into());
            // CAST: `usize` has at least 32 bits.
            let piece = Piece::Registered(buffer.memory.clone(), offset as usize, bytes as usize);
            payload.push(piece).map_err(|_| EMSGSIZE)?;
        }
        Ok(payload)
    }

    /// Takes out a buffer that was sent.
    pub(super) fn take_sent(&mut self) -> Option<Outgoing> {
        let over =
            |place: &&mut Option<Outgoing>| place.as_ref().is_some_and(|b| b.stage == Stage::Over);
        self.outgoing.iter_mut().find(over)?.take()
    }

    /// Nobody waits for the buffers of the last call any more.
    pub(super) fn disown_call(&mut self) {
        for buffer in self.outgoing.iter_mut().flatten() {
            if buffer.owner.is_call() {
                buffer.owner = Owner::Work { _notice: None };
            }
        }
        self.call = Call::default();
    }

    /// Whether another buffer can be read into, or offered.
    pub(super) fn has_fill_place(&self) -> bool {
        let filled = self.incoming.iter().flatten().count();
        filled.saturating_add(self.offered().count()) < BUFFERS
    }

    /// Whether reads are in flight, or wait to be taken out.
    pub(super) fn is_reading(&self) -> bool {
        self.incoming.iter().any(Option::is_some)
    }

    /// Whether the oldest read is over, or there is none.
    pub(super) fn is_read_over(&self) -> bool {
        let oldest = self.incoming.first().and_then(Option::as_ref);
        oldest.is_none_or(|read| read.stage == Stage::Over)
    }

    /// Whether no read is in flight.
    pub(super) fn are_reads_over(&self) -> bool {
        let mut reads = self.incoming.iter().flatten();
        reads.all(|read| read.stage == Stage::Over)
    }

    /// Adds a buffer to be filled; gives it back where there is no place.
    pub(super) fn read(&mut self, buffer: Incoming) -> Result<(), Incoming> {
        self.any_new = true;
        match self.incoming.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(buffer);
                Ok(())
            }
            None => Err(buffer),
        }
    }

    /// The oldest buffer to be filled that is at this stage.
    pub(super) fn incoming(&mut self, stage: Stage) -> Option<&mut Incoming> {
        self.incoming
            .iter_mut()
            .flatten()
            .find(|b| b.stage == stage)
    }

    /// Takes out the oldest buffer to be filled, once it is over.
    pub(super) fn take_read(&mut self) -> Option<Incoming> {
        let oldest = self.incoming.first_mut()?;
        let read = oldest.take_if(|read| read.stage == Stage::Over)?;
        self.incoming.rotate_left(1);
        Some(read)
    }

    /// The buffers that are offered, oldest first.
    pub(super) fn offered(&self) -> impl Iterator<Item = &Offered> {
        self.offered.iter().flatten()
    }

    /// The same, to be changed.
    pub(super) fn offered_mut(&mut self) -> impl Iterator<Item = &mut Offered> {
        self.offered.iter_mut().flatten()
    }

    /// The oldest of them whose key is being ended.
    pub(super) fn ending_offer(&mut self) -> Option<&mut Offered> {
        self.offered_mut().find(|b| b.stage == Stage::Ending)
    }

    /// Adds a buffer that is offered; does nothing where there is no place.
    pub(super) fn offer(&mut self, buffer: Offered) {
        self.any_new = true;
        if let Some(place) = self.offered.iter_mut().find(|place| place.is_none()) {
            *place = Some(buffer);
        }
    }

    /// Takes out the buffers that were offered, oldest first, once all are over.
    pub(super) fn take_offered(&mut self) -> Option<[Option<Offered>; BUFFERS]> {
        let all_over = self.offered().all(|offered| offered.stage == Stage::Over);
        all_over.then(|| core::mem::take(&mut self.offered))
    }

    /// Nothing uses any of them any more: the QP is gone. Gives the memory of those that calls take out,
    /// since a call may come late or never: to be let go, and [`Self::ended`] called.
    pub(super) fn end(&mut self) -> [[Option<Arc<Memory>>; BUFFERS]; 2] {
        for buffer in self.outgoing.iter_mut().flatten() {
            buffer.stage = Stage::Over;
        }
        // Over is what was let go: by then the caller may use its memory again.
        let offered = self.offered.each_mut().map(|place| {
            let buffer = place.as_mut()?;
            buffer.stage = Stage::Ending;
            buffer.memory.take()
        });
        let incoming = self.incoming.each_mut().map(|place| {
            let buffer = place.as_mut()?;
            if buffer.stage <= Stage::Busy {
                buffer.bytes = 0;
            }
            buffer.stage = Stage::Ending;
            buffer.memory.take()
        });
        [offered, incoming]
    }

    /// What [`Self::end`] gave was let go.
    pub(super) fn ended(&mut self) {
        for buffer in self.offered_mut() {
            buffer.stage = Stage::Over;
        }
        for buffer in self.incoming.iter_mut().flatten() {
            buffer.stage = Stage::Over;
        }
    }
}

/// Whether a send queue that takes so many requests has some for buffers, beside those for messages.
pub(super) fn has_buffer_slots(send_wr: u32) -> bool {
    send_wr > BUFFER_SLOTS + 4
}

/// The peer's memory as the fabric names it.
pub(super) fn remote(region: Region) -> Remote {
    Remote {
        addr: region.va,
        key: region.rkey,
    }
}
