// SPDX-License-Identifier: GPL-2.0

//! The callers' buffers that take part in zero copy, from registration until their key is
//! invalidated.
//!
//! Guarded by [`Connection::post`](super::conn::Connection), which every method here presumes. A
//! buffer goes through its [`Stage`]s in softirq, but is released by a task, since that sleeps: the
//! memory of a buffer that is done is taken out, and dropped without spinlocks.

use crate::{
    net::{
        stamp::Stamp,
        zerocopy::Notice, //
    },
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
use kernel::{
    fmt,
    sync::Arc, //
};

/// The number of buffers that may be sent at a time, and of those that may be filled: read into, or
/// offered.
pub(super) const BUFFERS: usize = 4;

/// Requests of the send queue that are reserved for the callers' buffers: one for each, to read
/// into it and then to invalidate its key. So no key is left valid for want of a request.
// CAST: It is 4.
pub(super) const BUFFER_SLOTS: u32 = 2 * BUFFERS as u32;

/// How far a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// Its key is to be registered, before the next message.
    New,
    /// The protocol, or the device, uses it.
    Busy,
    /// Its key is being invalidated.
    Invalidating,
    /// Nobody but its owner can access it any more.
    Done,
}

impl Stage {
    /// Advances a buffer with which the protocol has finished. Returns whether its key is to be
    /// invalidated; a new buffer's was never valid.
    fn finish(&mut self) -> bool {
        let valid = *self != Stage::New;
        self.set(if valid {
            Stage::Invalidating
        } else {
            Stage::Done
        });
        valid
    }

    /// The buffer goes on to this one.
    pub(super) fn set(&mut self, stage: Self) {
        if *self != stage {
            pr_debug!("buffer: {} -> {stage}\n", *self);
            *self = stage;
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Busy => "busy",
            Self::Invalidating => "invalidating",
            Self::Done => "done",
        })
    }
}

/// Who waits for a buffer.
pub(super) enum Waiter {
    /// The call that handed it in.
    Call,
    /// Nobody: the connection's work releases it, and gives the notice by dropping it.
    Work {
        /// The notice of `MSG_ZEROCOPY`; the kernel's own pages have none.
        _notice: Option<Notice>,
    },
}

impl Waiter {
    /// Whether a call waits for the buffer.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Waiter::Call)
    }
}

/// A buffer to be sent.
pub(super) struct Outgoing {
    /// Its name in the machine.
    pub(super) id: BufferId,
    /// The registered pages.
    pub(super) memory: Arc<Memory>,
    /// How far it is.
    pub(super) stage: Stage,
    /// Who releases it.
    pub(super) waiter: Waiter,
    /// Bytes that were sent by Data or RDMA Write.
    pub(super) pushed: u64,
    /// Bytes that the peer has, once it is no longer busy.
    pub(super) bytes: u32,
}

/// A buffer that an RDMA Read fills.
pub(super) struct Incoming {
    /// The registered pages; none if teardown has released them.
    pub(super) memory: Option<Arc<Memory>>,
    /// The length of the buffer, in bytes.
    pub(super) len: usize,
    /// How far it is.
    pub(super) stage: Stage,
    /// The peer's memory that is read.
    pub(super) from: Remote,
    /// Bytes to be read, and once it is no longer busy those that were.
    pub(super) bytes: u32,
    /// When they arrived, where the program has asked.
    pub(super) stamp: Option<Stamp>,
}

/// A buffer that the peer may write.
pub(super) struct Offered {
    /// Its name in the machine.
    pub(super) id: BufferId,
    /// The registered pages; none if teardown has released them.
    pub(super) memory: Option<Arc<Memory>>,
    /// The length of the buffer, in bytes.
    pub(super) len: usize,
    /// How far it is.
    pub(super) stage: Stage,
    /// Bytes that the peer has written, once it is no longer busy.
    pub(super) bytes: u32,
    /// When the peer reported it, where the program has asked.
    pub(super) stamp: Option<Stamp>,
}

/// After offers of several buffers that did not help, so many receives offer one. After as many
/// offers of several that helped, one is offered again, to see how much the peer writes.
const PAUSE: u8 = 16;

/// How the peer writes to offered buffers: a receive offers by what the ones before it have seen.
///
/// A write ends the offer that it goes to. So several offers at a time take several writes if each
/// is as long as a write; otherwise what arrived has to be moved together.
#[derive(Default)]
pub(super) struct WritePattern {
    /// Bytes of the last write.
    size: usize,
    /// Whether the one before it had as many.
    again: bool,
    /// How many more receives offer one buffer.
    pause: u8,
    /// How many receives have offered several.
    several: u8,
}

impl WritePattern {
    /// The length of each buffer that a receive with `room` for so many bytes should offer: all of
    /// it, or the length of the last writes, if that is at least `least` and fits in twice.
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

    /// Notes that the peer wrote so many bytes to a single offer; if that was `filled` the peer may
    /// have had more.
    pub(super) fn wrote_one(&mut self, bytes: usize, filled: bool) {
        match filled {
            true => self.again = false,
            false if bytes > 0 => self.wrote(bytes),
            false => {}
        }
    }

    /// Notes that the peer wrote so many bytes to each of several offers, and whether these helped.
    pub(super) fn wrote_several(&mut self, written: impl Iterator<Item = usize>, helped: bool) {
        for bytes in written.filter(|bytes| *bytes > 0) {
            self.wrote(bytes);
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

/// A buffer whose key is to be registered.
pub(super) struct NewBuffer<'a> {
    stage: &'a mut Stage,
    memory: &'a Arc<Memory>,
    read: Option<(Remote, usize)>,
}

impl NewBuffer<'_> {
    /// The buffer is busy from now on. Returns its memory, and for one to be read into, where from
    /// and how many bytes.
    pub(super) fn begin(self) -> (Arc<Memory>, Option<(Remote, usize)>) {
        self.stage.set(Stage::Busy);
        (self.memory.clone(), self.read)
    }
}

/// The buffers of one connection.
#[derive(Default)]
pub(super) struct Buffers {
    /// Whether some may be [`Stage::New`]: without any, messages need not look for one.
    any_new: bool,
    /// The buffers that a receive offers: oldest first, packed.
    offered: [Option<Offered>; BUFFERS],
    /// How the peer writes to them.
    pub(super) pattern: WritePattern,
    /// Buffers to be sent, in no order: the protocol may finish with a later one first.
    outgoing: [Option<Outgoing>; BUFFERS],
    /// Buffers that are read into: oldest first, packed.
    incoming: [Option<Incoming>; BUFFERS],
    /// The buffers of the call that waits to have sent them.
    pub(super) call: Call,
}

/// What a send that waits knows of its buffers.
#[derive(Clone, Copy, Default)]
pub(super) struct Call {
    /// The first of them.
    pub(super) first: Option<BufferId>,
    /// How many were not released yet.
    pub(super) left: usize,
    /// Bytes that the peer has of those that were.
    pub(super) bytes: usize,
}

impl Call {
    /// Counts one that was released, of which the peer has so many bytes.
    pub(super) fn returned(&mut self, bytes: u32) {
        self.left = self.left.saturating_sub(1);
        // CAST: `usize` has at least 32 bits.
        self.bytes = self.bytes.saturating_add(bytes as usize);
    }
}

impl Buffers {
    /// Whether the protocol has finished with the buffers of the call, so that they can be
    /// released.
    pub(super) fn is_call_done(&self) -> bool {
        let sent = self.outgoing.iter().flatten();
        let done = sent.filter(|b| b.waiter.is_call() && b.stage == Stage::Done);
        self.call.left == done.count()
    }

    /// Whether another buffer can be sent.
    pub(super) fn has_place(&self) -> bool {
        self.outgoing.iter().any(Option::is_none)
    }

    /// Whether buffers are on their way.
    pub(super) fn is_sending(&self) -> bool {
        let mut sending = self.outgoing.iter().flatten();
        sending.any(|buffer| buffer.stage <= Stage::Busy)
    }

    /// The next buffer whose key is to be registered, if there is one.
    pub(super) fn next_new(&mut self) -> Option<NewBuffer<'_>> {
        if !self.any_new {
            return None;
        }
        let outgoing = self.outgoing.iter_mut().flatten();
        let mut outgoing = outgoing.map(|b| (&mut b.stage, Some(&b.memory), None));
        let incoming = self.incoming.iter_mut().flatten();
        let mut incoming = incoming.map(|b| {
            // CAST: `usize` has at least 32 bits.
            let read = (b.from, b.bytes as usize);
            (&mut b.stage, b.memory.as_ref(), Some(read))
        });
        let offered = self.offered.iter_mut().flatten();
        let mut offered = offered.map(|b| (&mut b.stage, b.memory.as_ref(), None));
        let is_new = |(stage, _, _): &(&mut Stage, _, _)| **stage == Stage::New;
        let new = outgoing
            .find(is_new)
            .or_else(|| incoming.find(is_new))
            .or_else(|| offered.find(is_new));
        self.any_new = new.is_some();
        let (stage, memory, read) = new?;
        Some(NewBuffer {
            stage,
            memory: memory?,
            read,
        })
    }

    /// Notes that the protocol has finished with a buffer that was sent. Gives its memory if its
    /// key is to be invalidated; a buffer whose key was never valid is done.
    pub(super) fn finish_send(&mut self, finished: Finished) -> Option<Arc<Memory>> {
        let buffer = self.outgoing(finished.id)?;
        buffer.bytes = finished.bytes;
        let memory = buffer.memory.clone();
        buffer.stage.finish().then_some(memory)
    }

    /// As [`Self::finish_send`], for a buffer that was offered, whose bytes arrived at `stamp`.
    pub(super) fn finish_offer(
        &mut self,
        finished: Finished,
        stamp: Option<Stamp>,
    ) -> Option<Arc<Memory>> {
        let buffer = self.offered_mut().find(|b| b.id == finished.id)?;
        buffer.bytes = finished.bytes;
        buffer.stamp = stamp;
        let memory = buffer.memory.clone();
        buffer.stage.finish().then_some(memory)?
    }

    /// Adds a buffer to be sent; gives it back where there is no place.
    pub(super) fn send(&mut self, buffer: Outgoing) -> Result<(), Outgoing> {
        let Some(place) = self.outgoing.iter_mut().find(|place| place.is_none()) else {
            return Err(buffer);
        };
        self.any_new = true;
        if buffer.waiter.is_call() {
            self.call.first.get_or_insert(buffer.id);
            self.call.left = self.call.left.saturating_add(1);
        }
        *place = Some(buffer);
        Ok(())
    }

    /// The buffer to be sent of this name.
    pub(super) fn outgoing(&mut self, id: BufferId) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().flatten().find(|b| b.id == id)
    }

    /// So many bytes of a buffer, for a message or an RDMA Write. Fails with `EPIPE` where there is
    /// no such buffer, and with `EMSGSIZE` where a payload takes no pieces.
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

    /// Takes out a buffer that was sent and is done.
    pub(super) fn take_sent(&mut self) -> Option<Outgoing> {
        let done =
            |place: &&mut Option<Outgoing>| place.as_ref().is_some_and(|b| b.stage == Stage::Done);
        self.outgoing.iter_mut().find(done)?.take()
    }

    /// Leaves the buffers of the last call to the work: nobody waits for them any more.
    pub(super) fn disown_call(&mut self) {
        for buffer in self.outgoing.iter_mut().flatten() {
            if buffer.waiter.is_call() {
                buffer.waiter = Waiter::Work { _notice: None };
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

    /// Whether the oldest read is done, or there is none.
    pub(super) fn is_read_done(&self) -> bool {
        let oldest = self.incoming.first().and_then(Option::as_ref);
        oldest.is_none_or(|read| read.stage == Stage::Done)
    }

    /// Whether no read is in flight.
    pub(super) fn are_reads_done(&self) -> bool {
        let mut reads = self.incoming.iter().flatten();
        reads.all(|read| read.stage == Stage::Done)
    }

    /// Adds a buffer to be filled; gives it back where there is no place.
    pub(super) fn read(&mut self, buffer: Incoming) -> Result<(), Incoming> {
        match self.incoming.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                self.any_new = true;
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

    /// Takes out the oldest buffer to be filled, once it is done.
    pub(super) fn take_read(&mut self) -> Option<Incoming> {
        let oldest = self.incoming.first_mut()?;
        let read = oldest.take_if(|read| read.stage == Stage::Done)?;
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

    /// The oldest of them whose key is being invalidated.
    pub(super) fn invalidating_offer(&mut self) -> Option<&mut Offered> {
        self.offered_mut().find(|b| b.stage == Stage::Invalidating)
    }

    /// Adds a buffer that is offered; gives it back where there is no place.
    pub(super) fn offer(&mut self, buffer: Offered) -> Result<(), Offered> {
        match self.offered.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                self.any_new = true;
                *place = Some(buffer);
                Ok(())
            }
            None => Err(buffer),
        }
    }

    /// Takes out the buffers that were offered, oldest first, once all are done.
    pub(super) fn take_offered(&mut self) -> Option<[Option<Offered>; BUFFERS]> {
        let all_done = self.offered().all(|offered| offered.stage == Stage::Done);
        all_done.then(|| core::mem::take(&mut self.offered))
    }

    /// Flushes all buffers: the QP is gone, so that nothing uses them any more. Gives the memory of
    /// those that calls take out, since a call may come late or never. It is to be released, and
    /// then [`Self::flushed`] called.
    pub(super) fn flush(&mut self) -> [[Option<Arc<Memory>>; BUFFERS]; 2] {
        for buffer in self.outgoing.iter_mut().flatten() {
            buffer.stage.set(Stage::Done);
        }
        // They are done once they are released: then the caller may use its memory again.
        let offered = self.offered.each_mut().map(|place| {
            let buffer = place.as_mut()?;
            buffer.stage.set(Stage::Invalidating);
            buffer.memory.take()
        });
        let incoming = self.incoming.each_mut().map(|place| {
            let buffer = place.as_mut()?;
            if buffer.stage <= Stage::Busy {
                buffer.bytes = 0;
            }
            buffer.stage.set(Stage::Invalidating);
            buffer.memory.take()
        });
        [offered, incoming]
    }

    /// Notes that what [`Self::flush`] gave was released.
    pub(super) fn flushed(&mut self) {
        for buffer in self.offered_mut() {
            buffer.stage.set(Stage::Done);
        }
        for buffer in self.incoming.iter_mut().flatten() {
            buffer.stage.set(Stage::Done);
        }
    }
}

/// Whether a send queue of so many requests has some for buffers, beside those for messages.
pub(super) fn has_buffer_slots(send_wr: u32) -> bool {
    send_wr > BUFFER_SLOTS + 4
}

/// The peer's memory, for a work request.
pub(super) fn remote(region: Region) -> Remote {
    Remote {
        addr: region.va,
        key: region.rkey,
    }
}
