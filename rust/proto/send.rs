// SPDX-License-Identifier: GPL-2.0

//! The send half (`B-24` to `B-45`): the stream of copied bytes and of the user's buffers, and what
//! of it goes next.

use super::{
    buffer::{
        BufferId,
        Finished,
        ADVERTS, //
    },
    ring::{
        count,
        Ring, //
    },
    sequence::reached,
    urgent::Urgent,
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Mode,
        Region,
        BASE_LEN, //
    },
};

/// Transfer long a corked partial message waits at most, as in TCP.
const HOLD_NS: u64 = 200_000_000;
/// How many partial messages may be in flight with `TCP_NODELAY` before the next bytes wait for one
/// of them to arrive: few enough that a stream of small writes shares messages, as TCP's automatic
/// corking has it, and more than a program writes before it waits for an answer.
const NODELAY_PARTIALS: u16 = 4;
/// Bytes of a SrcAvail's extended header (`A.6`).
const SRC_AH_LEN: u32 = 16;
/// A SrcAvail that has to carry payload carries what comes before the next multiple of this, which
/// is a page on most machines (`B-27`).
const INLINE_ALIGN: u64 = 4096;

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What [`Machine::sent`](super::Machine::sent) wants back of a [`Transmit`](super::Transmit).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendTag {
    /// Sequence number of the message.
    pub(super) mseq: u32,
    /// Bytes of the send stream that it carries or announces.
    pub(super) stream: u32,
    /// They are fewer than a message may have.
    pub(super) partial: bool,
}

/// Where the bytes of a message come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The next bytes of the send stream.
    Stream,
    /// A buffer that was handed in, from this offset.
    Buffer(BufferId, u32),
}

/// How bytes go to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transfer {
    Data,
    /// The advertisement of this memory, with these bytes in the message.
    SrcAvail(Region),
    /// Into the peer's memory.
    Write,
}

/// What the send half would send next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Next {
    pub(super) transfer: Transfer,
    pub(super) bytes: u32,
    pub(super) source: Source,
}

/// What the rest of the machine lets the send half do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constraints<F> {
    pub(super) mode: Mode,
    /// The mode to be in; a change may wait until nothing is open.
    pub(super) wanted: Mode,
    /// SrcAvails that the peer takes at a time (`B-30`).
    pub(super) most_open: F,
    /// Room in the peer's oldest SinkAvail, or 0 where that is to be used up by Data.
    pub(super) sink: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum BufferState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// The peer may read it.
    Advertised,
    /// The rest goes by Data (`B-33`).
    Copying,
    /// Nothing of it is left to send.
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    id: BufferId,
    region: Region,
    /// Copied bytes that go before it.
    before: usize,
    /// Bytes transferred, or in a message.
    done: u32,
    state: BufferState,
    /// The last message whose send reads the buffer, until it completes.
    in_use: Option<u32>,
    /// The message that advertises it.
    advertised: u32,
    /// The user takes back what cannot be sent any more without the peer's help.
    withdrawn: bool,
}

impl Buffer {
    fn left(&self) -> u32 {
        self.region.len.saturating_sub(self.done)
    }

    /// The part not transferred.
    fn rest(&self) -> Region {
        Region {
            len: self.left(),
            va: self.region.va.wrapping_add(u64::from(self.done)),
            ..self.region
        }
    }

    fn source(&self) -> Source {
        Source::Buffer(self.id, self.done)
    }

    /// Its advertisement is over: what is left goes by Data, or not at all.
    fn fall_back(&mut self) {
        self.state = if self.left() == 0 || self.withdrawn {
            BufferState::Done
        } else {
            BufferState::Copying
        };
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cancel {
    No,
    Wanted,
    /// SrcAvailCancel went out as this message.
    Sent(u32),
}

#[derive(Debug)]
pub(super) struct SendHalf {
    /// The most payload that one Data message may have (`B-24`).
    limit: u32,
    /// What the peer's buffers have room for.
    size: u32,
    /// What the user wants at most.
    most: u32,
    /// The most copied bytes that one message can carry, for the number of pieces that they lie in.
    pub(super) gather: u32,
    /// The user's buffers that are not finished, oldest first.
    buffers: Ring<Buffer, ADVERTS>,
    /// Copied bytes behind the last buffer.
    tail: usize,
    /// When the tail began to wait.
    since: u64,
    /// The tail has waited long enough.
    overdue: bool,
    /// Copied bytes in messages that have not reached the peer.
    in_flight: usize,
    /// Messages with fewer bytes of the stream than `limit` that have not reached the peer.
    partials: u16,
    /// All bytes of the stream, except those of buffers that were taken back.
    written: u64,
    /// The last write said that more will follow.
    more: bool,
    cancel: Cancel,
    pub(super) urgent: Urgent,
    pub(super) nodelay: bool,
    pub(super) cork: bool,
    /// No more writes: DisConn follows what is unsent.
    pub(super) shut: bool,
}

impl SendHalf {
    pub(super) fn new() -> SendHalf {
        SendHalf {
            limit: 0,
            size: 0,
            most: u32::MAX,
            gather: u32::MAX,
            buffers: Ring::new(),
            tail: 0,
            since: 0,
            overdue: false,
            in_flight: 0,
            partials: 0,
            written: 0,
            more: false,
            cancel: Cancel::No,
            urgent: Urgent::default(),
            nodelay: false,
            cork: false,
            shut: false,
        }
    }

    /// The longest message, header included, that may be sent now.
    pub(super) fn set_size(&mut self, size: u32) {
        // No underflow: sizes are 37 at least (B-4).
        self.size = size.saturating_sub(BASE_LEN as u32);
        self.limit = self.size.min(self.most);
    }

    /// The most payload of a message that the user wants.
    pub(super) fn set_most(&mut self, bytes: u32) {
        self.most = bytes;
        self.limit = self.size.min(bytes);
    }

    /// The most payload of a message that may be sent now.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn unsent(&self) -> usize {
        let before = self.buffers.iter().map(|buffer| buffer.before);
        before.fold(self.tail, usize::saturating_add)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Some of what was written is in the fabric, which has not answered.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight > 0 || self.buffers.iter().any(|buffer| buffer.in_use.is_some())
    }

    /// All that was written is in messages, and every buffer's transfer ended (`B-68`).
    #[inline(always)]
    pub(super) fn is_drained(&self) -> bool {
        let is_over = |buffer: &Buffer| buffer.state == BufferState::Done && buffer.before == 0;
        self.tail == 0 && self.buffers.iter().all(is_over)
    }

    pub(super) fn has_buffers(&self) -> bool {
        !self.buffers.is_empty()
    }

    /// The peer may read a buffer.
    pub(super) fn is_open(&self) -> bool {
        self.open_count() > 0
    }

    /// Buffers that the peer may read.
    pub(super) fn open_count(&self) -> usize {
        let open = |buffer: &&Buffer| buffer.state == BufferState::Advertised;
        count(self.buffers.iter().filter(open))
    }

    pub(super) fn write(&mut self, bytes: usize, now: u64) {
        if self.tail == 0 {
            self.since = now;
        }
        self.tail = self.tail.saturating_add(bytes);
        self.written = self.written.saturating_add(wide(bytes));
        self.more = true;
    }

    /// The buffer stands at the end of the stream.
    pub(super) fn add(&mut self, id: BufferId, region: Region) -> bool {
        let added = self.buffers.push(Buffer {
            id,
            region,
            before: self.tail,
            done: 0,
            state: BufferState::Waiting,
            in_use: None,
            advertised: 0,
            withdrawn: false,
        });
        if added {
            self.tail = 0;
            self.written = self.written.saturating_add(region.len.into());
            self.more = false;
        }
        added
    }

    /// How far the stream goes.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Up to where the stream is in messages, or advertised.
    pub(super) fn posted(&self) -> u64 {
        self.before_all(self.unsent(), |buffer| match buffer.state {
            BufferState::Waiting | BufferState::Copying => buffer.left(),
            BufferState::Advertised | BufferState::Done => 0,
        })
    }

    /// Up to where the stream has reached the peer; of a buffer nothing has before it is finished.
    pub(super) fn arrived(&self) -> u64 {
        let copied = self.unsent().saturating_add(self.in_flight);
        self.before_all(copied, |buffer| buffer.region.len)
    }

    /// Where the stream's last bytes begin: so many copied ones, and of each buffer a part.
    fn before_all(&self, copied: usize, part: impl Fn(&Buffer) -> u32) -> u64 {
        let parts = self.buffers.iter().map(|buffer| u64::from(part(buffer)));
        let last = parts.fold(wide(copied), u64::saturating_add);
        self.written.saturating_sub(last)
    }

    pub(super) fn push(&mut self) {
        self.more = false;
    }

    /// When a held partial message is due, however the user holds it.
    pub(super) fn deadline(&self) -> Option<u64> {
        let held = self.tail > 0 && (self.cork || self.more) && !self.overdue;
        held.then(|| self.since.saturating_add(HOLD_NS))
    }

    pub(super) fn expired(&mut self, now: u64) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.overdue = true;
        }
    }

    /// What is to go next if nothing but the peer's credit forbids it.
    #[inline]
    pub(super) fn next(&self, constraints: Constraints<impl Fn() -> usize>) -> Option<Next> {
        let sink = constraints.sink;
        if self.buffers.is_empty() {
            return self.next_stream(self.tail, false, sink);
        }
        let mut open: usize = 0;
        for buffer in self.buffers.iter() {
            // Bytes behind an open SrcAvail are not sent, so that they cannot overtake what a
            // SendSm may ask for.
            match buffer.state {
                _ if buffer.before > 0 && open > 0 => return None,
                _ if buffer.before > 0 => return self.next_stream(buffer.before, true, sink),
                BufferState::Done => {}
                BufferState::Advertised => open = open.saturating_add(1),
                BufferState::Copying if open > 0 => return None,
                BufferState::Copying => return Some(self.next_copy(buffer, sink)),
                BufferState::Waiting => return self.next_buffer(buffer, open, constraints),
            }
        }
        match open {
            0 => self.next_stream(self.tail, false, sink),
            _ => None,
        }
    }

    /// Copied bytes, of which `available` may go.
    ///
    /// Messages cost credit, not bytes (`B-22`), so a partial one waits for more bytes: while the
    /// user says that there are more, and, as Nagle's algorithm has it in TCP, while an earlier
    /// partial message has not reached the peer. With `TCP_NODELAY` that is while several have not.
    #[inline]
    fn next_stream(&self, available: usize, pushed: bool, sink: Option<u32>) -> Option<Next> {
        let urgent = self.urgent.limit();
        let available = urgent.map_or(available, |at| at.min(available));
        let bytes = u32::try_from(available).map_or(self.limit, |bytes| bytes.min(self.limit));
        if bytes < self.limit && !(pushed || self.shut || urgent.is_some()) {
            let held = (self.cork || self.more) && !self.overdue;
            let most = if self.nodelay { NODELAY_PARTIALS } else { 1 };
            if held || self.partials >= most {
                return None;
            }
        }
        let (transfer, bytes) = match sink {
            // An urgent byte has to come by Data (B-78).
            Some(room) if room > 0 && urgent.is_none() => (Transfer::Write, bytes.min(room)),
            _ => (Transfer::Data, bytes),
        };
        let bytes = bytes.min(self.gather);
        (bytes > 0).then_some(Next {
            transfer,
            bytes,
            source: Source::Stream,
        })
    }

    fn next_copy(&self, buffer: &Buffer, sink: Option<u32>) -> Next {
        let (transfer, most) = match sink {
            Some(room) if room > 0 => (Transfer::Write, room),
            _ => (Transfer::Data, self.limit),
        };
        Next {
            transfer,
            bytes: buffer.left().min(most),
            source: buffer.source(),
        }
    }

    fn next_buffer(
        &self,
        buffer: &Buffer,
        open: usize,
        constraints: Constraints<impl Fn() -> usize>,
    ) -> Option<Next> {
        let most_open = (constraints.most_open)();
        let region = buffer.rest();
        let small = region.len <= self.limit;
        // The own SinkAvails may have left no place for a SrcAvail, and the peer need not write to
        // them before it has these bytes.
        let is_barred = constraints.mode == Mode::Buffered || most_open == 0;
        if open == 0 && (constraints.sink.is_some() || small || is_barred) {
            return Some(self.next_copy(buffer, constraints.sink));
        }
        // No new SrcAvail before the cancel is done (B-39).
        if self.cancel != Cancel::No {
            return None;
        }
        let inline = match constraints.mode {
            // At least one byte: the limit is 21 at least, and the buffer longer (B-4, B-27).
            Mode::Combined if open == 0 => {
                let most = self.limit.saturating_sub(SRC_AH_LEN);
                let before = INLINE_ALIGN.saturating_sub(region.va % INLINE_ALIGN);
                u32::try_from(before).map_or(most, |before| before.min(most))
            }
            // What is open is to come to an end when a change waits for it.
            Mode::Pipelined if constraints.wanted != Mode::Pipelined => return None,
            Mode::Pipelined if open < most_open && !small => 0,
            _ => return None,
        };
        Some(Next {
            transfer: Transfer::SrcAvail(region),
            bytes: inline,
            source: buffer.source(),
        })
    }

    /// Whether a message that takes so many copied bytes has to announce the urgent byte `at`
    /// (`B-77`).
    pub(super) fn announces(&self, bytes: usize, at: usize) -> bool {
        self.urgent.announce(bytes, self.before(at))
    }

    /// Bytes of buffers that stand before the copied byte `at`.
    fn before(&self, at: usize) -> usize {
        let mut copied: usize = 0;
        let mut before: usize = 0;
        for buffer in self.buffers.iter() {
            copied = copied.saturating_add(buffer.before);
            if copied >= at {
                break;
            }
            if buffer.state != BufferState::Done {
                let left = usize::try_from(buffer.left()).unwrap_or(usize::MAX);
                before = before.saturating_add(left);
            }
        }
        before
    }

    /// [`SendHalf::next`] goes out as this message.
    #[inline]
    pub(super) fn take(&mut self, next: Next, mseq: u32) -> SendTag {
        if next.source == Source::Stream {
            return SendTag {
                mseq,
                stream: next.bytes,
                partial: self.take_stream(next.bytes),
            };
        }
        if let Some(buffer) = self.turn() {
            buffer.done = buffer.done.saturating_add(next.bytes);
            if next.bytes > 0 {
                buffer.in_use = Some(mseq);
            }
            if matches!(next.transfer, Transfer::SrcAvail(_)) {
                buffer.state = BufferState::Advertised;
                buffer.advertised = mseq;
            } else if buffer.left() == 0 {
                buffer.state = BufferState::Done;
            }
        }
        SendTag {
            mseq,
            stream: 0,
            partial: false,
        }
    }

    /// Nothing waits to be sent, nor for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.tail == 0 && self.buffers.is_empty()
    }

    /// The buffer whose turn it is to be sent from.
    fn turn(&mut self) -> Option<&mut Buffer> {
        self.buffers
            .iter_mut()
            .find(|buffer| matches!(buffer.state, BufferState::Waiting | BufferState::Copying))
    }

    /// So many bytes of the stream go out. Whether they are fewer than a message may have.
    fn take_stream(&mut self, bytes: u32) -> bool {
        let partial = bytes < self.limit;
        // A message is far shorter than the address space.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let queue = match self.buffers.iter_mut().find(|buffer| buffer.before > 0) {
            Some(buffer) => &mut buffer.before,
            None => &mut self.tail,
        };
        *queue = queue.saturating_sub(bytes);
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.overdue = false;
        self.partials = self.partials.saturating_add(partial.into());
        self.urgent.take(bytes);
        partial
    }

    /// The message reached the peer: whether it was one with bytes of the user's.
    pub(super) fn sent(&mut self, tag: SendTag) -> bool {
        let bytes = usize::try_from(tag.stream).unwrap_or(usize::MAX);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.partials = self.partials.saturating_sub(tag.partial.into());
        let mut brought = bytes > 0;
        for buffer in self.buffers.iter_mut() {
            if buffer.in_use == Some(tag.mseq) {
                buffer.in_use = None;
                brought = true;
            }
        }
        brought
    }

    /// A buffer once neither the peer nor the fabric touches it any more.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        let done = |buffer: &Buffer| buffer.state == BufferState::Done && buffer.in_use.is_none();
        let at = self.buffers.iter().position(done)?;
        let buffer = self.buffers.remove(at)?;
        // Of one that was withdrawn nothing stands between the bytes before it and those behind.
        let behind = match self.buffers.iter_mut().nth(at) {
            Some(next) => &mut next.before,
            None => &mut self.tail,
        };
        *behind = behind.saturating_add(buffer.before);
        self.written = self.written.saturating_sub(buffer.left().into());
        Some(Finished {
            id: buffer.id,
            bytes: buffer.done,
        })
    }

    /// Bytes of buffers that were not transferred.
    pub(super) fn buffered(&self) -> u64 {
        self.buffers
            .iter()
            .filter(|buffer| buffer.state != BufferState::Done)
            .map(|buffer| u64::from(buffer.left()))
            .fold(0, u64::saturating_add)
    }

    fn oldest_open(&mut self) -> Option<&mut Buffer> {
        self.buffers
            .iter_mut()
            .find(|buffer| buffer.state == BufferState::Advertised)
    }

    /// An RdmaRdCompl came (`B-32`).
    pub(super) fn read(&mut self, len: u32) -> Result<(), Violation> {
        let Some(buffer) = self.oldest_open() else {
            return Err(Violation::new(
                Rule::B(32),
                "RdmaRdCompl without a SrcAvail",
            ));
        };
        // Something is left of each open one: only a small buffer fits into its SrcAvail, and such
        // are copied.
        if len == 0 || len > buffer.left() {
            return Err(Violation::new(
                Rule::B(32),
                "RdmaRdCompl of nothing, or of more than was advertised",
            ));
        }
        buffer.done = buffer.done.saturating_add(len);
        if buffer.left() == 0 {
            buffer.state = BufferState::Done;
        }
        self.answered();
        Ok(())
    }

    /// A SendSm came (`B-33`, `B-42`).
    pub(super) fn send_sm(&mut self, mseq_ack: u32) -> Result<(), Violation> {
        let cancelled = matches!(self.cancel, Cancel::Sent(mseq) if reached(mseq_ack, mseq));
        let Some(buffer) = self.oldest_open() else {
            return Err(Violation::new(Rule::B(33), "SendSm without a SrcAvail"));
        };
        buffer.fall_back();
        if cancelled {
            while let Some(buffer) = self.oldest_open() {
                buffer.fall_back();
            }
        }
        self.answered();
        Ok(())
    }

    /// A cancel is done when nothing is open (`B-42`).
    fn answered(&mut self) {
        if !self.is_open() {
            self.cancel = Cancel::No;
        }
    }

    /// A usable SinkAvail came: it beats the SrcAvails, which both ends forget (`B-50`), and that
    /// the peer cannot have `seen` (`B-51`).
    pub(super) fn crossed(&mut self, seen: u32) -> Result<(), Violation> {
        if (self.oldest_open()).is_some_and(|buffer| reached(seen, buffer.advertised)) {
            return Err(Violation::new(
                Rule::B(51),
                "SinkAvail though there is a SrcAvail to read",
            ));
        }
        for buffer in self.buffers.iter_mut() {
            if buffer.state == BufferState::Advertised {
                match self.cancel {
                    Cancel::No => buffer.state = BufferState::Waiting,
                    _ => buffer.fall_back(),
                }
            }
        }
        self.cancel = Cancel::No;
        Ok(())
    }

    /// The user will not wait for the peer to read: what is advertised goes by Data (`B-36`), or,
    /// to `withdraw`, the last buffer gives back what is left of it, unless bytes behind it are to
    /// go.
    pub(super) fn cancel(&mut self, withdraw: bool) {
        let last = withdraw && self.tail == 0;
        if let (true, Some(buffer)) = (last, self.buffers.iter_mut().next_back()) {
            buffer.withdrawn = true;
        }
        for buffer in self.buffers.iter_mut() {
            if buffer.state == BufferState::Waiting || buffer.state == BufferState::Copying {
                buffer.fall_back();
            }
        }
        if self.is_open() && self.cancel == Cancel::No {
            self.cancel = Cancel::Wanted;
        }
    }

    /// Takes back `from` and the buffers that came after it, unless bytes behind them are to go.
    pub(super) fn withdraw(&mut self, from: BufferId) {
        if self.tail == 0 {
            for buffer in self.buffers.iter_mut().rev() {
                if !buffer.id.is_at_or_after(from) {
                    break;
                }
                buffer.withdrawn = true;
                if buffer.before > 0 {
                    break;
                }
            }
        }
        self.cancel(false);
    }

    pub(super) fn owes_cancel(&self) -> bool {
        self.cancel == Cancel::Wanted
    }

    pub(super) fn cancel_sent(&mut self, mseq: u32) {
        self.cancel = Cancel::Sent(mseq);
    }

    /// A SrcAvailCancel is on its way or being worked on.
    pub(super) fn cancelling(&self) -> bool {
        matches!(self.cancel, Cancel::Sent(_))
    }

    /// The fabric is gone: nobody touches any buffer.
    pub(super) fn void(&mut self) {
        self.tail = self.unsent();
        for buffer in self.buffers.iter_mut() {
            buffer.before = 0;
            buffer.state = BufferState::Done;
            buffer.in_use = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSTRAINTS: Constraints<fn() -> usize> = Constraints {
        mode: Mode::Combined,
        wanted: Mode::Combined,
        most_open: || 2,
        sink: None,
    };

    fn half() -> SendHalf {
        let mut half = SendHalf::new();
        half.set_size(116);
        half
    }

    fn data(bytes: u32) -> Option<Next> {
        Some(Next {
            transfer: Transfer::Data,
            bytes,
            source: Source::Stream,
        })
    }

    fn send(half: &mut SendHalf, mseq: u32) -> SendTag {
        let next = half.next(CONSTRAINTS).unwrap();
        half.take(next, mseq)
    }

    #[test]
    fn b_22_partial_waits_for_the_partial_before_it() {
        let mut half = half();
        half.write(130, 0);
        half.push();
        assert_eq!(send(&mut half, 1).stream, 100);
        let partial = send(&mut half, 2);
        assert_eq!(partial.stream, 30);
        half.write(20, 0);
        half.push();
        assert_eq!(half.next(CONSTRAINTS), None);
        half.write(40, 0);
        half.push();
        half.sent(partial);
        assert_eq!(half.next(CONSTRAINTS), data(60));
    }

    #[test]
    fn b_22_full_message_never_waits() {
        let mut half = half();
        half.cork = true;
        half.write(250, 0);
        assert_eq!(send(&mut half, 1).stream, 100);
        assert_eq!(send(&mut half, 2).stream, 100);
        assert_eq!(half.next(CONSTRAINTS), None);
        half.write(50, 0);
        assert_eq!(send(&mut half, 3).stream, 100, "just full");
        assert_eq!(half.deadline(), None, "nothing is held");
    }

    #[test]
    fn b_22_nodelay_sends_each_push() {
        let mut half = half();
        half.nodelay = true;
        half.write(1, 0);
        assert_eq!(half.next(CONSTRAINTS), None, "more may follow");
        half.push();
        assert_eq!(send(&mut half, 1).stream, 1);
        half.write(2, 0);
        half.push();
        assert_eq!(send(&mut half, 2).stream, 2);
    }

    #[test]
    fn b_22_nodelay_joins_what_is_behind_a_few() {
        let mut half = half();
        half.nodelay = true;
        let write = |half: &mut SendHalf| {
            half.write(3, 0);
            half.push();
        };
        write(&mut half);
        let first = send(&mut half, 1);
        for mseq in 2..=4 {
            write(&mut half);
            send(&mut half, mseq);
        }
        write(&mut half);
        write(&mut half);
        assert_eq!(half.next(CONSTRAINTS), None);
        half.sent(first);
        assert_eq!(send(&mut half, 5).stream, 6);
        // A full message does not wait.
        half.write(100, 0);
        assert_eq!(send(&mut half, 6).stream, 100);
    }

    #[test]
    fn b_22_cork_holds_for_a_fifth_of_a_second() {
        let mut half = half();
        half.cork = true;
        half.write(5, 1000);
        assert_eq!(half.deadline(), Some(1000 + HOLD_NS));
        half.expired(999 + HOLD_NS);
        assert_eq!(half.next(CONSTRAINTS), None);
        half.expired(1000 + HOLD_NS);
        assert_eq!(half.deadline(), None);
        assert_eq!(send(&mut half, 1).stream, 5);
        half.write(5, 2 * HOLD_NS);
        assert_eq!(half.deadline(), Some(3 * HOLD_NS));
        half.push();
        assert_eq!(half.deadline(), Some(3 * HOLD_NS), "corked");
        half.cork = false;
        assert_eq!(half.deadline(), None);
        half.write(5, 0);
        assert_eq!(half.deadline(), Some(3 * HOLD_NS), "more to come");
    }

    #[test]
    fn sends_no_more_than_the_user_wants() {
        let mut half = half();
        half.set_size(16 + 100);
        half.set_most(88);
        assert_eq!(half.limit(), 88);
        half.write(200, 0);
        assert_eq!(half.next(CONSTRAINTS), data(88));
        half.set_size(16 + 60);
        assert_eq!(half.next(CONSTRAINTS), data(60));
        half.set_most(u32::MAX);
        assert_eq!(half.next(CONSTRAINTS), data(60));
    }

    #[test]
    fn b_68_shutdown_sends_what_is_held() {
        let mut half = half();
        half.cork = true;
        half.write(5, 0);
        assert_eq!(half.next(CONSTRAINTS), None);
        half.shut = true;
        assert_eq!(half.next(CONSTRAINTS), data(5));
    }

    #[test]
    fn sends_no_more_than_can_be_gathered() {
        let mut half = half();
        half.write(130, 0);
        half.gather = 70;
        assert_eq!(send(&mut half, 1).stream, 70);
        half.gather = 100;
        half.push();
        half.sent(SendTag {
            mseq: 1,
            stream: 70,
            partial: true,
        });
        assert_eq!(half.next(CONSTRAINTS), data(60));
    }

    #[test]
    fn counts_bytes_until_they_arrive() {
        let mut half = half();
        half.write(130, 0);
        half.push();
        let first = send(&mut half, 1);
        assert_eq!((half.unsent(), half.in_flight()), (30, 100));
        half.sent(first);
        assert_eq!((half.unsent(), half.in_flight()), (30, 0));
    }

    const REGION: Region = Region {
        len: 1000,
        rkey: 1,
        va: 0,
    };

    fn positions(half: &SendHalf) -> (u64, u64, u64) {
        (half.arrived(), half.posted(), half.written())
    }

    #[test]
    fn tells_how_far_the_stream_is() {
        let mut half = half();
        half.write(130, 0);
        half.push();
        assert_eq!(positions(&half), (0, 0, 130));
        let first = send(&mut half, 1);
        assert_eq!(positions(&half), (0, 100, 130));
        assert!(half.add(BufferId(1), REGION));
        half.write(7, 0);
        assert_eq!(positions(&half), (0, 100, 1137));
        half.sent(first);
        let second = send(&mut half, 2);
        half.sent(second);
        assert_eq!(positions(&half), (130, 130, 1137));
        // Its advertisement carries some of it.
        let advert = send(&mut half, 3);
        assert_eq!(positions(&half), (130, 1130, 1137));
        half.sent(advert);
        let left = half.buffers.iter().next().map(Buffer::left).unwrap();
        half.read(left).unwrap();
        assert_eq!(positions(&half), (130, 1130, 1137));
        assert!(half.finished().is_some());
        assert_eq!(positions(&half), (1130, 1130, 1137));
    }

    #[test]
    fn what_is_taken_back_was_not_written() {
        let mut half = half();
        half.write(10, 0);
        assert!(half.add(BufferId(1), REGION));
        half.withdraw(BufferId(1));
        assert!(half.finished().is_some());
        assert_eq!(half.written(), 10);
    }
}
