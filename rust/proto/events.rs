// SPDX-License-Identifier: GPL-2.0

//! What the caller has to look at.

use core::ops::{
    BitOr,
    BitOrAssign, //
};

/// A set of things that happened since [`Machine::take_events`](super::Machine::take_events) was
/// last called.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Events(u16);

const NAMES: [(Events, &str); 14] = [
    (Events::CONNECTED, "CONNECTED"),
    (Events::READABLE, "READABLE"),
    (Events::WRITABLE, "WRITABLE"),
    (Events::PEER_CLOSED, "PEER_CLOSED"),
    (Events::SENT_ALL, "SENT_ALL"),
    (Events::DISCONNECT, "DISCONNECT"),
    (Events::ABORTED, "ABORTED"),
    (Events::URGENT, "URGENT"),
    (Events::CLOSED, "CLOSED"),
    (Events::FINISHED, "FINISHED"),
    (Events::RESIZE, "RESIZE"),
    (Events::SUSPEND, "SUSPEND"),
    (Events::PROBE, "PROBE"),
    (Events::NUDGE, "NUDGE"),
];

impl Events {
    /// The connection is established.
    pub const CONNECTED: Events = Events(0x0001);
    /// Payload came, is advertised, or has ended: wake readers.
    pub const READABLE: Events = Events(0x0002);
    /// Bytes left the send stream or reached the peer, or no more can be written: wake writers.
    pub const WRITABLE: Events = Events(0x0004);
    /// The peer's DisConn came (`B-69`).
    pub const PEER_CLOSED: Events = Events(0x0008);
    /// All that was written reached the peer.
    pub const SENT_ALL: Events = Events(0x0010);
    /// Drop the LLP connection now (`B-70`, `B-71`).
    pub const DISCONNECT: Events = Events(0x0020);
    /// The connection failed; [`Machine::aborted`](super::Machine::aborted) says why.
    pub const ABORTED: Events = Events(0x0040);
    /// The peer announced an urgent byte (`B-77`).
    pub const URGENT: Events = Events(0x0080);
    /// The LLP connection is gone.
    pub const CLOSED: Events = Events(0x0100);
    /// A buffer came back: see [`Machine::finished`](super::Machine::finished).
    pub const FINISHED: Events = Events(0x0200);
    /// The peer wishes other receive buffers: see
    /// [`Machine::resize_wish`](super::Machine::resize_wish).
    pub const RESIZE: Events = Events(0x0400);
    /// The peer moves: connect again when the LLP connection is gone
    /// (see [`Machine::resume_port`](super::Machine::resume_port)).
    pub const SUSPEND: Events = Events(0x0800);
    /// The peer is silent: post an RDMA operation of no bytes that its fabric has to answer, and
    /// hand the answer to [`Machine::probed`](super::Machine::probed) (`B-81`).
    pub const PROBE: Events = Events(0x1000);
    /// The peer was not heard yet: post an RDMA Write of no bytes, which has its fabric look at
    /// what came before (`B-9a`).
    pub const NUDGE: Events = Events(0x2000);

    /// Whether nothing happened.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `events` are in the set.
    pub fn contains(self, events: Events) -> bool {
        self.0 & events.0 == events.0
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

impl core::fmt::Debug for Events {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set()
            .entries(
                NAMES
                    .iter()
                    .filter(|(event, _)| self.contains(*event))
                    .map(|(_, name)| name),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_one_of_its_own() {
        let mut all = Events::default();
        for (event, _) in NAMES {
            assert!(!event.is_empty());
            assert!(!all.contains(event));
            all |= event;
            assert!(all.contains(event));
        }
        assert_eq!(all.0.count_ones() as usize, NAMES.len());
    }

    #[test]
    fn a_union_has_both_and_no_more() {
        let both = Events::URGENT | Events::CLOSED;
        assert!(both.contains(Events::URGENT) && both.contains(Events::CLOSED));
        assert!(!both.contains(Events::URGENT | Events::RESIZE));
        assert_eq!(both | Events::URGENT, both);
        let mut union = both;
        union |= Events::CLOSED;
        assert_eq!(union, both);
        assert!(Events::default().is_empty() && !both.is_empty());
        assert_eq!(format!("{both:?}"), "{\"URGENT\", \"CLOSED\"}");
    }
}
