// SPDX-License-Identifier: GPL-2.0

//! The modes of the two halves and their changes (`B-55` to `B-62`).

use super::{
    sequence::forget_reached,
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Half,
        Mode, //
    },
};

/// Who may change a half's mode from what to what: the source tells the receive half
/// ([`Half::Receive`]), the sink the send half (`B-55` to `B-58`).
const CHANGES: [(Mode, Half, Mode); 4] = [
    (Mode::Combined, Half::Receive, Mode::Buffered),
    (Mode::Buffered, Half::Send, Mode::Combined),
    (Mode::Combined, Half::Receive, Mode::Pipelined),
    (Mode::Pipelined, Half::Receive, Mode::Combined),
];

/// Holds a ModeChange that came against the table.
pub(super) fn check(from: Mode, half: Half, to: Mode) -> Result<(), Violation> {
    if from == to {
        return Err(Violation::new(
            Rule::B(59),
            "ModeChange to the mode that is on",
        ));
    }
    if CHANGES.contains(&(from, half, to)) {
        return Ok(());
    }
    Err(Violation::new(
        Rule::B(55),
        "ModeChange that this end of the half may not make",
    ))
}

/// The mode of the send half, which this end masters but for leaving Buffered.
#[derive(Debug)]
pub(super) struct SendMode {
    mode: Mode,
    wanted: Mode,
    /// The ModeChange out of Pipelined, until the peer acknowledged it: nothing may change before,
    /// and SinkAvails that it crossed still arrive (`B-58`, `B-60b`).
    leaving: Option<u32>,
    /// There is no mode but Combined (`B-59a`).
    fixed: bool,
}

impl SendMode {
    pub(super) fn new() -> SendMode {
        SendMode {
            mode: Mode::Combined,
            wanted: Mode::Combined,
            leaving: None,
            fixed: false,
        }
    }

    /// The peer can do nothing else: Combined it stays (`B-59a`).
    pub(super) fn fix(&mut self) {
        self.fixed = true;
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn wanted(&self) -> Mode {
        self.wanted
    }

    pub(super) fn want(&mut self, mode: Mode) {
        self.wanted = mode;
    }

    /// The change to announce now. `open` says that a SrcAvail is outstanding: leaving Combined for
    /// Buffered has to wait for it (`B-55`), and leaving Pipelined waits as well, so that no answer
    /// can mean the SrcAvail of another mode.
    pub(super) fn next(&self, open: impl Fn() -> bool) -> Option<Mode> {
        if self.fixed || self.mode == self.wanted || self.leaving.is_some() {
            return None;
        }
        match (self.mode, self.wanted) {
            (Mode::Combined, Mode::Pipelined) => Some(Mode::Pipelined),
            (Mode::Combined, Mode::Buffered) if !open() => Some(Mode::Buffered),
            (Mode::Pipelined, _) if !open() => Some(Mode::Combined),
            _ => None,
        }
    }

    /// The change goes out in this message.
    pub(super) fn changed(&mut self, to: Mode, mseq: u32) {
        if self.mode == Mode::Pipelined {
            self.leaving = Some(mseq);
        }
        self.mode = to;
    }

    /// The sink changes the send half (`B-56`).
    pub(super) fn told(&mut self, to: Mode) -> Result<(), Violation> {
        check(self.mode, Half::Send, to)?;
        self.mode = to;
        self.wanted = to;
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, mseq_ack: u32) {
        forget_reached(&mut self.leaving, mseq_ack);
    }

    /// What a SinkAvail that arrives now is worth: to be used, to be discarded, or a violation
    /// (`B-46`, `B-60b`).
    pub(super) fn sink_avail(&self) -> Result<bool, Violation> {
        if self.mode == Mode::Pipelined {
            Ok(true)
        } else if self.leaving.is_some() {
            Ok(false)
        } else {
            Err(Violation::new(
                Rule::B(46),
                "SinkAvail outside Pipelined mode",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Mode; 3] = [Mode::Buffered, Mode::Combined, Mode::Pipelined];

    #[test]
    fn b_55_to_b_59_the_whole_table() {
        let mut legal = Vec::new();
        for from in MODES {
            for half in [Half::Receive, Half::Send] {
                for to in MODES {
                    match check(from, half, to) {
                        Ok(()) => legal.push(format!("{from:?} {half:?} {to:?}")),
                        Err(v) if from == to => assert_eq!(v.rule, Rule::B(59)),
                        Err(v) => assert_eq!(v.rule, Rule::B(55)),
                    }
                }
            }
        }
        assert_eq!(
            legal,
            [
                "Buffered Send Combined",
                "Combined Receive Buffered",
                "Combined Receive Pipelined",
                "Pipelined Receive Combined",
            ]
        );
    }

    #[test]
    fn b_55_buffered_waits_for_the_src_avail() {
        let mut mode = SendMode::new();
        mode.want(Mode::Buffered);
        assert_eq!(mode.next(|| true), None);
        assert_eq!(mode.next(|| false), Some(Mode::Buffered));
    }

    #[test]
    fn b_57_pipelined_does_not_wait() {
        let mut mode = SendMode::new();
        mode.want(Mode::Pipelined);
        assert_eq!(mode.next(|| true), Some(Mode::Pipelined));
    }

    #[test]
    fn b_58_no_change_until_the_peer_left_pipelined() {
        let mut mode = SendMode::new();
        mode.changed(Mode::Pipelined, 5);
        mode.want(Mode::Buffered);
        assert_eq!(mode.next(|| false), Some(Mode::Combined));
        mode.changed(Mode::Combined, 9);
        assert_eq!(mode.next(|| false), None);
        assert_eq!(mode.sink_avail(), Ok(false));
        mode.acknowledged(8);
        assert_eq!(mode.next(|| false), None);
        mode.acknowledged(9);
        assert_eq!(mode.next(|| false), Some(Mode::Buffered));
        assert_eq!(mode.sink_avail().unwrap_err().rule, Rule::B(46));
    }

    #[test]
    fn b_56_only_the_sink_leaves_buffered() {
        let mut mode = SendMode::new();
        mode.changed(Mode::Buffered, 1);
        mode.want(Mode::Combined);
        assert_eq!(mode.next(|| false), None);
        assert_eq!(mode.told(Mode::Combined), Ok(()));
        assert_eq!(mode.told(Mode::Combined).unwrap_err().rule, Rule::B(59));
    }
}
