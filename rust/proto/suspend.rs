// SPDX-License-Identifier: GPL-2.0

//! Moving a live connection to another endpoint (`B-83`, `B-83a`).

use super::{
    machine::Side,
    violation::{
        Rule,
        Violation, //
    },
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    None,
    /// This end wants to move to a port of its own, as soon as its transfers are done.
    Wanted(u16),
    /// SuspComm came: it is answered as soon as the transfers are done.
    Owed,
    /// SuspComm was sent: this end says nothing more.
    Asked(u16),
    /// SuspComm was sent, and came: it is answered without another word.
    Crossed,
    /// SuspCommAck was sent.
    Answered(u32),
    /// The connection is to be closed and made again.
    Done,
}

#[derive(Debug)]
pub(super) struct Suspend {
    side: Side,
    step: Step,
    /// Where the peer listens for the connection's continuation.
    port: Option<u16>,
    /// The peer asked to move, and says nothing more but that this end may.
    peer_asked: bool,
    /// The user connects there.
    pub(super) movable: bool,
}

/// `A.6`: the service identifier of a TCP port.
fn service_id(port: u16) -> u64 {
    0x1_0000 | u64::from(port)
}

impl Suspend {
    pub(super) fn new(side: Side) -> Suspend {
        Suspend {
            side,
            step: Step::None,
            port: None,
            peer_asked: false,
            movable: false,
        }
    }

    /// Wants to move to `port`; false when a move is under way.
    pub(super) fn want(&mut self, port: u16) -> bool {
        let idle = self.step == Step::None;
        if idle {
            self.step = Step::Wanted(port);
        }
        idle
    }

    /// No new transfer is to start.
    pub(super) fn draining(&self) -> bool {
        self.step != Step::None
    }

    /// Nothing may be sent any more, but for the answer that is owed.
    pub(super) fn silent(&self) -> bool {
        matches!(
            self.step,
            Step::Asked(_) | Step::Crossed | Step::Answered(_) | Step::Done
        )
    }

    pub(super) fn next_ask(&self) -> Option<u64> {
        match self.step {
            Step::Wanted(port) => Some(service_id(port)),
            _ => None,
        }
    }

    pub(super) fn asked(&mut self) {
        if let Step::Wanted(port) = self.step {
            self.step = Step::Asked(port);
        }
    }

    pub(super) fn owes_answer(&self) -> bool {
        matches!(self.step, Step::Owed | Step::Crossed)
    }

    pub(super) fn answered(&mut self, mseq: u32) {
        self.step = Step::Answered(mseq);
    }

    /// A message came; `answers` says that it is a SuspCommAck.
    #[inline]
    pub(super) fn may_come(&self, answers: bool) -> Result<(), Violation> {
        if self.peer_asked && !answers {
            return Err(Violation::new(Rule::B(83), "message after a SuspComm"));
        }
        Ok(())
    }

    /// A SuspComm came, the peer's first.
    pub(super) fn received(&mut self, id: u64) -> Result<(), Violation> {
        let Some(port) = u16::try_from(id ^ 0x1_0000).ok().filter(|&port| port != 0) else {
            return Err(Violation::new(Rule::A(6), "SuspComm to no TCP port"));
        };
        self.peer_asked = true;
        // Both at once: the accepting end's request stands; the connecting end may repeat its own
        // on the new connection.
        self.step = match self.step {
            Step::Asked(_) if self.side == Side::Accepting => return Ok(()),
            Step::Asked(_) => Step::Crossed,
            _ => Step::Owed,
        };
        self.port = Some(port);
        Ok(())
    }

    /// A SuspCommAck came.
    pub(super) fn acknowledged(&mut self) -> Result<(), Violation> {
        if !matches!(self.step, Step::Asked(_)) {
            return Err(Violation::new(
                Rule::B(83),
                "SuspCommAck without a SuspComm",
            ));
        }
        self.step = Step::Done;
        Ok(())
    }

    /// A send completed; true when it was the answer.
    pub(super) fn sent(&mut self, mseq: u32) -> bool {
        let answered = self.step == Step::Answered(mseq);
        if answered {
            self.step = Step::Done;
        }
        answered
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.step, Step::Done | Step::Answered(_))
    }

    /// The peer moves, and the user does not.
    pub(super) fn is_abandoned(&self) -> bool {
        self.port.is_some() && !self.movable
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }
}
