// SPDX-License-Identifier: GPL-2.0

//! When bytes were sent, for programs that ask by `SO_TIMESTAMPING`: the last byte of a call, as
//! with TCP.

use crate::{
    net::stamp::{
        TxStamp,
        TxStamps, //
    },
    proto::Machine,
    sock::ring::Ring, //
};

/// The most calls of a connection of which something is still to be reported. Beyond that the last
/// one is reported together with the next, as TCP does where both are in one packet.
pub(super) const MOST: usize = 64;

/// A call of which something is still to be reported.
pub(super) struct Awaited {
    /// Where the stream ended with it.
    end: u64,
    /// Where it ended with the first of several that are reported together.
    first_end: u64,
    stages: TxStamps,
}

/// What is to be reported to programs of the stream that is sent.
pub(super) struct SentStamps {
    /// The place in the stream whose byte has the number 0.
    pub(super) first: u64,
    /// Where the stream ended with the last call that has asked.
    pub(super) last: u64,
    /// The calls, oldest first.
    pub(super) awaited: Ring<Awaited>,
}

impl SentStamps {
    /// Nobody has asked.
    pub(super) const fn new() -> Self {
        Self {
            first: 0,
            last: 0,
            awaited: Ring::empty(),
        }
    }

    /// Whether there is nothing to be reported.
    pub(super) fn is_idle(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Has these stages reported of the byte that ends the stream now.
    pub(super) fn add(&mut self, end: u64, stages: TxStamps) {
        self.last = end;
        let new = Awaited {
            end,
            first_end: end,
            stages,
        };
        if let Err(new) = self.awaited.push(new) {
            if let Some(last) = self.awaited.back_mut() {
                last.end = new.end;
                last.stages.add(new.stages);
            }
        }
    }

    /// The end of the stream was taken back: of what was there nothing is reported.
    pub(super) fn cut(&mut self, end: u64) {
        if self.last > end {
            self.last = 0;
            while self.awaited.remove(|call| call.first_end > end).is_some() {}
            if let Some(last) = self.awaited.back_mut() {
                last.end = last.end.min(end);
            }
        }
    }

    /// What is to be reported next, and the number of the byte.
    pub(super) fn next(&mut self, machine: &Machine) -> Option<(TxStamp, u32)> {
        if machine.aborted().is_some() {
            while self.awaited.pop().is_some() {}
        }
        let (posted, arrived) = (machine.posted_bytes(), machine.arrived_bytes());
        for at in 0..self.awaited.len() {
            let call = self.awaited.get_mut(at)?;
            let is_due = |stage: &TxStamp| {
                call.stages.has(*stage)
                    && match stage {
                        TxStamp::Queued => true,
                        TxStamp::Sent => call.end <= posted,
                        TxStamp::Arrived => call.end <= arrived,
                    }
            };
            if let Some(stage) = TxStamp::ALL.into_iter().find(is_due) {
                call.stages.remove(stage);
                let number = call.end.wrapping_sub(1).wrapping_sub(self.first);
                if call.stages.is_empty() {
                    self.awaited.remove(|call| call.stages.is_empty());
                }
                // CAST: The numbers have 32 bits, and wrap.
                return Some((stage, number as u32));
            }
        }
        None
    }
}
