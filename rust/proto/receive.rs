// SPDX-License-Identifier: GPL-2.0

//! The receive half (`B-24` to `B-45`): what payload may come, and the peer's buffers that this end
//! may read.

use super::{
    buffer::ADVERTS,
    mode,
    ring::Ring,
    sequence::{
        forget_reached,
        reached, //
    },
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Half,
        Mode,
        Region, //
    },
};

/// Peer memory that is next in the stream, to be fetched by RDMA Read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readable {
    /// Payload bytes of messages that come before it in the stream, since the connection began,
    /// modulo 2^64.
    pub after: u64,
    /// What is left to read.
    pub region: Region,
}

const BEHIND: Violation = Violation::new(Rule::B(25), "payload while a SrcAvail is outstanding");

/// An open SrcAvail.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    after: u64,
    /// What no RDMA Read was started for.
    region: Region,
    /// Bytes that reads in flight fetch.
    reading: u32,
    /// Bytes fetched and not reported.
    read: u32,
    /// The rest is to come by Data.
    declined: bool,
}

impl Open {
    /// Every byte was fetched, or came with the message.
    fn is_complete(&self) -> bool {
        self.region.len == 0 && self.reading == 0
    }

    /// It is to be read next, once `after` bytes came: those between are being read.
    fn is_next(&self, after: u64) -> bool {
        self.region.len > 0 && self.after == after
    }
}

/// An answer to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// RdmaRdCompl.
    Read(u32),
    SendSm,
}

#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Set by the peer, the half's source (`B-7`, `B-62`), but for leaving Buffered.
    mode: Mode,
    /// The user fetches what is advertised; otherwise each SrcAvail is declined at once (`B-38`).
    pub(super) zero_copy: bool,
    open: Ring<Open, ADVERTS>,
    /// RDMA Reads in flight, and how many there may be (`B-4a`).
    reads: u16,
    most_reads: u16,
    /// A SrcAvailCancel waits for reads in flight; whether a SendSm answers it (`B-40`).
    ending: Option<bool>,
    /// The SendSms that the peer may not have yet, and the bytes that each asks for.
    answers: Ring<(u32, u64), ADVERTS>,
    /// Bytes that the peer knows to send by Data: they stand before any SrcAvail that is open.
    rest: u64,
    /// The SinkAvail because of which a SrcAvail was forgotten, until the peer has it, which takes
    /// the SrcAvail for outstanding as long (`B-50`).
    crossed: Option<u32>,
    /// Payload bytes received.
    bytes: u64,
    /// The own message by which the peer may first know that its half left Pipelined mode here
    /// (`B-58`).
    left: Option<u32>,
    /// There is no Pipelined mode (`B-59a`).
    single: bool,
    /// The user reads no more.
    pub(super) shut: bool,
    /// The peer's DisConn came.
    ended: bool,
}

impl ReceiveHalf {
    pub(super) fn new() -> ReceiveHalf {
        ReceiveHalf {
            mode: Mode::Combined,
            zero_copy: false,
            open: Ring::new(),
            reads: 0,
            most_reads: 0,
            ending: None,
            answers: Ring::new(),
            rest: 0,
            crossed: None,
            bytes: 0,
            left: None,
            single: false,
            shut: false,
            ended: false,
        }
    }

    /// So many RDMA Reads may be in flight at a time; `single` says that an end takes one
    /// advertisement.
    pub(super) fn start(&mut self, most_reads: u16, single: bool) {
        self.most_reads = most_reads;
        self.single = single;
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The peer takes a SrcAvail for outstanding: it is open here, or the answer to it, or to a
    /// cancel, was not acknowledged.
    #[inline]
    fn is_outstanding(&self) -> bool {
        self.is_open() || !self.answers.is_empty() || self.ending.is_some()
    }

    /// What the peer advertised is not all here: no SinkAvail may go (`B-51`).
    pub(super) fn is_busy(&self) -> bool {
        self.is_outstanding() || self.rest > 0
    }

    /// The peer has seen our messages up to `mseq_ack`, or more if it may hold MSeqAck back for a
    /// cancel of ours: then no SendSm but an answer to a cancel of its own went after that, and it
    /// is taken as seen.
    pub(super) fn acknowledged(&mut self, mseq_ack: u32, held: bool) {
        while let Some(&(mseq, bytes)) = self.answers.first() {
            let seen = reached(mseq_ack, mseq) || (held && bytes == 0);
            if !seen {
                break;
            }
            self.rest = self.rest.saturating_add(bytes);
            self.answers.pop();
        }
        forget_reached(&mut self.crossed, mseq_ack);
        // It means nothing once numbers have wrapped.
        forget_reached(&mut self.left, mseq_ack);
    }

    /// Whether the peer may send payload as far as SrcAvails are concerned that were forgotten
    /// here.
    #[inline]
    pub(super) fn may_follow(&self) -> Result<(), Violation> {
        match self.crossed {
            None => Ok(()),
            Some(_) => Err(BEHIND),
        }
    }

    /// Payload of a message other than SrcAvail came.
    #[inline]
    pub(super) fn payload(&mut self, bytes: usize) -> Result<(), Violation> {
        self.may_come()?;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes > self.rest && self.is_outstanding() {
            return Err(BEHIND);
        }
        self.rest = self.rest.saturating_sub(bytes);
        self.bytes = self.bytes.wrapping_add(bytes);
        Ok(())
    }

    /// Whether there may be payload, by whatever way.
    pub(super) fn may_come(&self) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::new(Rule::B(68), "payload after DisConn"));
        }
        if self.shut {
            return Err(Violation::new(Rule::B(73), "data after receive shutdown"));
        }
        Ok(())
    }

    /// SrcAvails that the peer takes for outstanding: it does not know yet of those answered by the
    /// SendSms that it has not acknowledged.
    pub(super) fn outstanding(&self) -> usize {
        self.open.len().saturating_add(self.answers.len())
    }

    /// A SrcAvail came with so much payload; there may be `most` at a time (`B-30`). `offered` is
    /// the oldest SinkAvail that this end has outstanding, which beats it (`B-50`) unless the peer
    /// has `seen` it.
    pub(super) fn src_avail(
        &mut self,
        region: Region,
        payload: usize,
        most: usize,
        offered: Option<u32>,
        seen: u32,
    ) -> Result<(), Violation> {
        let violation = |rule, what| Err(Violation::new(Rule::B(rule), what));
        self.may_come()?;
        match self.mode {
            Mode::Buffered => return violation(27, "SrcAvail in Buffered mode"),
            Mode::Combined if payload == 0 => {
                return violation(27, "SrcAvail without payload in Combined mode")
            }
            Mode::Combined if self.is_open() || !self.answers.is_empty() => {
                return violation(29, "second SrcAvail in Combined mode")
            }
            Mode::Pipelined if payload > 0 => {
                return violation(27, "SrcAvail with payload in Pipelined mode")
            }
            _ => {}
        }
        let payload = u32::try_from(payload).unwrap_or(u32::MAX);
        let Some(left) = region.len.checked_sub(payload) else {
            return violation(26, "SrcAvail with more payload than it describes");
        };
        if self.outstanding() >= most {
            return violation(30, "SrcAvail beyond MaxAdverts");
        }
        if self.ending.is_some() {
            return violation(39, "SrcAvail while a cancel is worked on");
        }
        if let Some(offered) = offered {
            if reached(seen, offered) {
                return violation(50, "SrcAvail though there is a SinkAvail to use");
            }
            self.crossed = Some(offered);
            return Ok(());
        }
        self.bytes = self.bytes.wrapping_add(u64::from(payload));
        if self.answers.is_empty() {
            // The peer knows what was declined: if it were to send more of it, it would have done
            // so first.
            self.rest = 0;
        }
        let asked = self.answers.iter().map(|&(_, bytes)| bytes);
        let to_come = asked.fold(self.rest, u64::saturating_add);
        let declined = self.open.iter().filter(|open| open.declined);
        let declined = declined.map(|open| u64::from(open.region.len));
        let to_come = declined.fold(to_come, u64::saturating_add);
        // Cannot be full: `most` is no more than it holds.
        let _ = self.open.push(Open {
            after: self.bytes.wrapping_add(to_come),
            region: Region {
                len: left,
                va: region.va.wrapping_add(u64::from(payload)),
                ..region
            },
            reading: 0,
            read: 0,
            declined: !self.zero_copy,
        });
        Ok(())
    }

    /// What of the peer's memory is next in the stream: no byte that came later may be read before
    /// all of it was fetched.
    pub(super) fn readable(&self) -> Option<Readable> {
        let oldest = self.open.iter().find(|open| !open.is_complete())?;
        let open = self.open.iter().find(|open| open.is_next(oldest.after));
        let open = open.unwrap_or(oldest);
        (!open.declined).then_some(Readable {
            after: oldest.after,
            region: open.region,
        })
    }

    /// Another RDMA Read may be in flight.
    pub(super) fn may_read(&self) -> bool {
        self.reads < self.most_reads
    }

    /// An RDMA Read of the first `len` bytes of [`ReceiveHalf::readable`] starts; the part that it
    /// may read.
    pub(super) fn start_read(&mut self, len: u32) -> Option<Region> {
        if !self.may_read() {
            return None;
        }
        let after = self.open.iter().find(|open| !open.is_complete())?.after;
        let open = self.open.iter_mut().find(|open| open.is_next(after))?;
        let part = Region {
            len: len.min(open.region.len),
            ..open.region
        };
        if open.declined || part.len == 0 {
            return None;
        }
        open.region.len = open.region.len.saturating_sub(part.len);
        open.region.va = open.region.va.wrapping_add(u64::from(part.len));
        open.reading = open.reading.saturating_add(part.len);
        self.reads = self.reads.saturating_add(1);
        Some(part)
    }

    /// The oldest read completed, of so many bytes.
    pub(super) fn read(&mut self, len: u32) {
        if let Some(open) = self.open.iter_mut().find(|open| open.reading > 0) {
            let len = len.min(open.reading);
            open.reading = open.reading.saturating_sub(len);
            open.read = open.read.saturating_add(len);
            self.reads = self.reads.saturating_sub(1);
        }
    }

    /// The user will not fetch what is advertised: it is to come by Data (`B-33`). All that is open
    /// is declined, in order, for what is later in the stream would have to wait for it anyway.
    pub(super) fn decline(&mut self) {
        for open in self.open.iter_mut() {
            open.declined |= open.region.len > 0;
        }
    }

    /// A SrcAvailCancel came. True when MSeqAck is to be held back (`B-40`, `B-41`, `B-43`).
    /// What was not started is forgotten.
    pub(super) fn cancel(&mut self) -> Result<bool, Violation> {
        if self.ending.is_some() {
            return Err(Violation::new(
                Rule::B(39),
                "SrcAvailCancel while a cancel is worked on",
            ));
        }
        if !self.is_open() {
            return Ok(false);
        }
        let mut cut = false;
        let mut left = Ring::new();
        while let Some(mut open) = self.open.pop() {
            cut |= open.region.len > 0;
            // One that came whole with its message is complete, and is to be reported as well.
            if open.reading > 0 || open.read > 0 || open.is_complete() {
                open.declined = false;
                open.region.len = 0;
                let _ = left.push(open);
            }
        }
        self.open = left;
        self.ending = Some(cut);
        Ok(true)
    }

    /// The answer to send now, oldest buffer first: what was read since the last report (`B-37a`),
    /// then that the rest is to come by Data.
    pub(super) fn next_answer(&self) -> Option<Answer> {
        let Some(open) = self.open.first() else {
            return (self.ending == Some(true)).then_some(Answer::SendSm);
        };
        if open.reading > 0 {
            return None;
        }
        if open.read > 0 || open.is_complete() {
            return Some(Answer::Read(open.read));
        }
        open.declined.then_some(Answer::SendSm)
    }

    /// Whether the answer that [`ReceiveHalf::next_answer`] gives is the SendSm that ends a cancel,
    /// and says so by its MSeqAck (`B-42`).
    pub(super) fn releases(&self) -> bool {
        self.ending == Some(true) && self.open.is_empty()
    }

    /// The answer goes out as this message; true when a cancel that needs no SendSm is over with
    /// it.
    pub(super) fn answered(&mut self, answer: Answer, mseq: u32) -> bool {
        match answer {
            Answer::Read(_) => {
                if let Some(open) = self.open.first_mut() {
                    open.read = 0;
                    let complete = open.is_complete();
                    if complete {
                        self.open.pop();
                    }
                }
            }
            Answer::SendSm => {
                // After a cancel it is the peer's affair how much of it still comes.
                let bytes = self.open.first().map_or(0, |open| open.region.len.into());
                // Cannot be full: each stands for a SrcAvail at least, of which there are no more
                // than that, answered or open.
                let _ = self.answers.push((mseq, bytes));
                if self.open.is_empty() {
                    self.ending = None;
                } else {
                    self.open.pop();
                }
            }
        }
        let over = self.ending == Some(false) && self.open.is_empty();
        if over {
            self.ending = None;
        }
        over
    }

    /// The peer changes its send half, so this one (`B-62`). What is open stays so (`B-58`). `next`
    /// is the number of this end's next message, and `seen` what the peer has got of them, if it
    /// does not hold that back.
    pub(super) fn change_mode(
        &mut self,
        mode: Mode,
        next: u32,
        seen: Option<u32>,
    ) -> Result<(), Violation> {
        mode::check(self.mode, Half::Receive, mode)?;
        if self.single && mode == Mode::Pipelined {
            return Err(Violation::new(
                Rule::B(59),
                "ModeChange to Pipelined though an end takes one advertisement",
            ));
        }
        let knows = |left| seen.is_none_or(|seen| reached(seen, left));
        if !self.left.is_none_or(knows) {
            return Err(Violation::new(
                Rule::B(58),
                "ModeChange before the one out of Pipelined was acknowledged",
            ));
        }
        if mode == Mode::Buffered && self.is_outstanding() {
            return Err(Violation::new(
                Rule::B(55),
                "ModeChange to Buffered with a SrcAvail outstanding",
            ));
        }
        self.left = (self.mode == Mode::Pipelined).then_some(next);
        self.mode = mode;
        Ok(())
    }

    /// This end, the sink, leaves Buffered (`B-56`).
    pub(super) fn combine(&mut self) {
        self.mode = Mode::Combined;
    }

    /// The peer's DisConn came, after all its zero copy (`B-68`).
    pub(super) fn disconn(&mut self) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::new(Rule::B(68), "second DisConn"));
        }
        if self.is_outstanding() {
            return Err(Violation::new(
                Rule::B(68),
                "DisConn while a SrcAvail is outstanding",
            ));
        }
        self.ended = true;
        Ok(())
    }
}
