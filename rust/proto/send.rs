// SPDX-License-Identifier: GPL-2.0

//! The send half's stream by copy (section B.3): which bytes make the next message, and when.

/// What [`Machine::sent`](super::Machine::sent) wants back of a [`Transmit`](super::Transmit).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendTag {
    /// Sequence number of the message.
    pub(super) mseq: u32,
    /// Payload bytes of the message.
    pub(super) payload: u32,
}

#[derive(Debug, Default)]
pub(super) struct SendHalf {
    /// The most payload that one message may have (`B-24`).
    limit: u32,
    /// Bytes written and not yet in a message.
    unsent: usize,
    /// Bytes in messages that have not reached the peer.
    in_flight: usize,
    /// The last message shorter than `limit`, until it reaches the peer.
    partial: Option<u32>,
    /// The last write said that more will follow.
    more: bool,
    pub(super) nodelay: bool,
    pub(super) cork: bool,
    /// No more writes: DisConn follows what is unsent.
    pub(super) shut: bool,
}

impl SendHalf {
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn write(&mut self, bytes: usize) {
        self.unsent = self.unsent.saturating_add(bytes);
        self.more = true;
    }

    pub(super) fn push(&mut self) {
        self.more = false;
    }

    /// Payload bytes of the next message, 0 when none is to go yet.
    ///
    /// Messages cost credit, not bytes (`B-22`), so a partial one waits for more bytes: while the user says that there are more,
    /// and, as Nagle's algorithm has it in TCP, while an earlier partial message has not reached the peer.
    pub(super) fn next(&self) -> u32 {
        match u32::try_from(self.unsent) {
            Ok(unsent) if unsent < self.limit => {
                let held = self.cork || self.more;
                let nagle = !self.nodelay && self.partial.is_some();
                if self.shut || !(held || nagle) {
                    unsent
                } else {
                    0
                }
            }
            _ => self.limit,
        }
    }

    /// The bytes of [`SendHalf::next`] go out as this message.
    pub(super) fn take(&mut self, tag: SendTag) {
        let Ok(bytes) = usize::try_from(tag.payload) else {
            return;
        };
        self.unsent = self.unsent.saturating_sub(bytes);
        self.in_flight = self.in_flight.saturating_add(bytes);
        if tag.payload < self.limit {
            self.partial = Some(tag.mseq);
        }
    }

    /// The message reached the peer.
    pub(super) fn sent(&mut self, tag: SendTag) {
        let Ok(bytes) = usize::try_from(tag.payload) else {
            return;
        };
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if self.partial == Some(tag.mseq) {
            self.partial = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> SendHalf {
        let mut half = SendHalf::default();
        half.set_limit(100);
        half
    }

    fn send(half: &mut SendHalf, mseq: u32) -> SendTag {
        let tag = SendTag {
            mseq,
            payload: half.next(),
        };
        half.take(tag);
        tag
    }

    #[test]
    fn b_22_partial_waits_for_the_partial_before_it() {
        let mut half = half();
        half.write(130);
        half.push();
        assert_eq!(send(&mut half, 1).payload, 100);
        let partial = send(&mut half, 2);
        assert_eq!(partial.payload, 30);
        half.write(20);
        half.push();
        assert_eq!(half.next(), 0);
        half.write(40);
        half.push();
        half.sent(partial);
        assert_eq!(half.next(), 60);
    }

    #[test]
    fn b_22_full_message_never_waits() {
        let mut half = half();
        half.cork = true;
        half.write(250);
        assert_eq!(send(&mut half, 1).payload, 100);
        assert_eq!(send(&mut half, 2).payload, 100);
        assert_eq!(half.next(), 0);
    }

    #[test]
    fn b_22_nodelay_sends_each_push() {
        let mut half = half();
        half.nodelay = true;
        half.write(1);
        assert_eq!(half.next(), 0, "more may follow");
        half.push();
        assert_eq!(send(&mut half, 1).payload, 1);
        half.write(2);
        half.push();
        assert_eq!(send(&mut half, 2).payload, 2);
    }

    #[test]
    fn b_68_shutdown_sends_what_is_held() {
        let mut half = half();
        half.cork = true;
        half.write(5);
        assert_eq!(half.next(), 0);
        half.shut = true;
        assert_eq!(half.next(), 5);
    }

    #[test]
    fn counts_bytes_until_they_arrive() {
        let mut half = half();
        half.write(130);
        half.push();
        let first = send(&mut half, 1);
        assert_eq!((half.unsent(), half.in_flight()), (30, 100));
        half.sent(first);
        assert_eq!((half.unsent(), half.in_flight()), (30, 0));
    }
}
