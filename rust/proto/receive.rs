// SPDX-License-Identifier: GPL-2.0

//! The receive half (sections B.3, B.4, B.7): what payload and which advertisements the peer may send now.

use super::{
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Mode,
        Region, //
    },
};

#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Set by the peer, the half's source (`B-7`, `B-62`).
    mode: Mode,
    /// SrcAvails that the peer may have outstanding in Pipelined mode (`B-30`).
    max_adverts: u16,
    /// SrcAvails not yet answered, each to get one SendSm (`B-33`).
    unanswered: u16,
    /// The last SendSm sent, until the peer has it: payload before that would overtake what the SendSm asks for.
    answer: Option<u32>,
    /// The user reads no more.
    pub(super) shut: bool,
    /// The peer's DisConn came.
    ended: bool,
}

impl ReceiveHalf {
    pub(super) fn new(max_adverts: u16) -> ReceiveHalf {
        ReceiveHalf {
            mode: Mode::Combined,
            max_adverts,
            unanswered: 0,
            answer: None,
            shut: false,
            ended: false,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The peer has seen our messages up to `mseq_ack`.
    pub(super) fn acknowledged(&mut self, mseq_ack: u32) {
        if let Some(answer) = self.answer {
            // CAST: two's complement is meant; sequence numbers wrap.
            if mseq_ack.wrapping_sub(answer) as i32 >= 0 {
                self.answer = None;
            }
        }
    }

    /// Payload came in a Data message.
    pub(super) fn data(&self) -> Result<(), Violation> {
        if self.unanswered > 0 || self.answer.is_some() {
            return Err(Violation::new(
                Rule::B(29),
                "payload while a SrcAvail is outstanding",
            ));
        }
        self.payload()
    }

    fn payload(&self) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::new(Rule::B(68), "payload after DisConn"));
        }
        if self.shut {
            return Err(Violation::new(Rule::B(73), "data after receive shutdown"));
        }
        Ok(())
    }

    /// A SrcAvail came with this much payload.
    pub(super) fn src_avail(&mut self, region: Region, payload: usize) -> Result<(), Violation> {
        let violation = |rule, what| Err(Violation::new(Rule::B(rule), what));
        self.payload()?;
        match self.mode {
            Mode::Buffered => return violation(27, "SrcAvail in Buffered mode"),
            Mode::Combined if payload == 0 => {
                return violation(27, "SrcAvail without payload in Combined mode")
            }
            Mode::Combined if self.unanswered > 0 || self.answer.is_some() => {
                return violation(29, "second SrcAvail in Combined mode")
            }
            Mode::Pipelined if payload > 0 => {
                return violation(27, "SrcAvail with payload in Pipelined mode")
            }
            _ => {}
        }
        if usize::try_from(region.len).is_ok_and(|len| payload > len) {
            return violation(26, "SrcAvail with more payload than it describes");
        }
        if self.unanswered >= self.max_adverts {
            return violation(30, "more SrcAvails than MaxAdverts");
        }
        self.unanswered = self.unanswered.saturating_add(1);
        Ok(())
    }

    /// A SrcAvailCancel came: what was not started is dropped, and one SendSm answers all of it (`B-40`); none outstanding, none
    /// to answer (`B-43`).
    pub(super) fn src_avail_cancel(&mut self) {
        self.unanswered = self.unanswered.min(1);
    }

    pub(super) fn owes_send_sm(&self) -> bool {
        self.unanswered > 0
    }

    pub(super) fn send_sm_sent(&mut self, mseq: u32) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.answer = Some(mseq);
    }

    /// The peer changes its send half, so this one (`B-62`).
    pub(super) fn change_mode(&mut self, mode: Mode) -> Result<(), Violation> {
        match (self.mode, mode) {
            (Mode::Combined, Mode::Buffered) if self.unanswered > 0 => Err(Violation::new(
                Rule::B(55),
                "ModeChange to Buffered with a SrcAvail outstanding",
            )),
            (Mode::Combined, Mode::Buffered | Mode::Pipelined)
            | (Mode::Pipelined, Mode::Combined) => {
                self.mode = mode;
                // Open advertisements are issued again under the rules of the new mode (B-58).
                if mode == Mode::Combined {
                    self.unanswered = 0;
                }
                Ok(())
            }
            (from, to) if from == to => Err(Violation::new(
                Rule::B(59),
                "ModeChange to the mode that is on",
            )),
            _ => Err(Violation::new(
                Rule::B(55),
                "ModeChange that the source may not make",
            )),
        }
    }

    /// The peer's DisConn came, after all its zero copy (`B-68`).
    pub(super) fn disconn(&mut self) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::new(Rule::B(68), "second DisConn"));
        }
        if self.unanswered > 0 || self.answer.is_some() {
            return Err(Violation::new(
                Rule::B(68),
                "DisConn while a SrcAvail is outstanding",
            ));
        }
        self.ended = true;
        Ok(())
    }
}
