// SPDX-License-Identifier: GPL-2.0

//! The state of the connection (`B-1`, `B-2`, `B-9`, `B-68` to `B-76`): the only place where it
//! changes.

use core::fmt;

/// Where the connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing was exchanged.
    Idle,
    /// The Hello went out.
    HelloSent,
    /// A Hello came and was answered; the connecting end may not know yet.
    HelloAcked,
    /// Both halves are open.
    Established,
    /// Our DisConn was handed to the fabric.
    DisConnSent,
    /// Our DisConn reached the peer.
    DisConnDone,
    /// The peer's DisConn came.
    DisConnReceived,
    /// Both DisConns were exchanged and ours has not reached the peer.
    Closing,
    /// An AbortConn is to go, or on its way.
    Aborting,
    /// The LLP connection is to be dropped.
    Disconnecting,
    /// The LLP connection is gone.
    Closed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Idle => "idle",
            State::HelloSent => "hello-sent",
            State::HelloAcked => "hello-acked",
            State::Established => "established",
            State::DisConnSent => "disconn-sent",
            State::DisConnDone => "disconn-done",
            State::DisConnReceived => "disconn-received",
            State::Closing => "closing",
            State::Aborting => "aborting",
            State::Disconnecting => "disconnecting",
            State::Closed => "closed",
        })
    }
}

/// What moves the connection from one state to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// A Hello is sent (`B-1`).
    HelloOut,
    /// A Hello came (`B-2`).
    HelloIn,
    /// A HelloAck came.
    HelloAckIn,
    /// The connecting end knows: the CM's RTU or its first message came (`B-9`).
    Confirmed,
    /// A DisConn is sent (`B-68`).
    DisConnOut,
    /// The sent DisConn reached the peer.
    DisConnDone,
    /// A DisConn came (`B-69`).
    DisConnIn,
    /// The connection is given up, on either end's account (`B-71`).
    Abort,
    /// The sent AbortConn reached the peer, or cannot be sent.
    AbortDone,
    /// The connection continues elsewhere (`B-83`).
    Suspended,
    /// The LLP connection is gone.
    Gone,
}

/// Every transition there is. A pair that is missing changes nothing.
const TRANSITIONS: &[(State, Input, State)] = {
    use Input::*;
    &[
        (State::Idle, HelloOut, State::HelloSent),
        (State::Idle, HelloIn, State::HelloAcked),
        (State::Idle, Abort, State::Disconnecting),
        (State::Idle, Gone, State::Closed),
        (State::HelloSent, HelloAckIn, State::Established),
        (State::HelloSent, Abort, State::Disconnecting),
        (State::HelloSent, Gone, State::Closed),
        (State::HelloAcked, Confirmed, State::Established),
        (State::HelloAcked, Abort, State::Disconnecting),
        (State::HelloAcked, Gone, State::Closed),
        (State::Established, DisConnOut, State::DisConnSent),
        (State::Established, DisConnIn, State::DisConnReceived),
        (State::Established, Abort, State::Disconnecting),
        (State::Established, Suspended, State::Disconnecting),
        (State::Established, Gone, State::Closed),
        (State::DisConnSent, Input::DisConnDone, State::DisConnDone),
        (State::DisConnSent, DisConnIn, State::Closing),
        (State::DisConnSent, Abort, State::Aborting),
        (State::DisConnSent, Suspended, State::Disconnecting),
        (State::DisConnSent, Gone, State::Closed),
        (State::DisConnDone, DisConnIn, State::Disconnecting),
        (State::DisConnDone, Abort, State::Aborting),
        (State::DisConnDone, Suspended, State::Disconnecting),
        (State::DisConnDone, Gone, State::Closed),
        (State::DisConnReceived, DisConnOut, State::Closing),
        (State::DisConnReceived, Abort, State::Disconnecting),
        (State::DisConnReceived, Suspended, State::Disconnecting),
        (State::DisConnReceived, Gone, State::Closed),
        (State::Closing, Input::DisConnDone, State::Disconnecting),
        (State::Closing, Abort, State::Aborting),
        (State::Closing, Suspended, State::Disconnecting),
        (State::Closing, Gone, State::Closed),
        (State::Aborting, AbortDone, State::Disconnecting),
        (State::Aborting, Gone, State::Closed),
        (State::Disconnecting, Gone, State::Closed),
    ]
};

impl State {
    /// The state after `input`, or none where the input has no place.
    pub(super) fn after(self, input: Input) -> Option<State> {
        TRANSITIONS
            .iter()
            .find(|&&(from, on, _)| from == self && on == input)
            .map(|&(_, _, to)| to)
    }

    /// Messages may flow in both directions.
    pub(super) fn is_open(self) -> bool {
        matches!(
            self,
            State::Established
                | State::DisConnSent
                | State::DisConnDone
                | State::DisConnReceived
                | State::Closing
        )
    }

    /// The own DisConn was sent: no payload may follow (`B-68`).
    pub(super) fn disconn_sent(self) -> bool {
        matches!(
            self,
            State::DisConnSent | State::DisConnDone | State::Closing
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 11] = [
        State::Idle,
        State::HelloSent,
        State::HelloAcked,
        State::Established,
        State::DisConnSent,
        State::DisConnDone,
        State::DisConnReceived,
        State::Closing,
        State::Aborting,
        State::Disconnecting,
        State::Closed,
    ];

    #[test]
    fn transitions_are_unambiguous() {
        for (i, &(from, on, _)) in TRANSITIONS.iter().enumerate() {
            for &(other, input, _) in TRANSITIONS.iter().skip(i + 1) {
                assert!((from, on) != (other, input), "{from} {on:?} twice");
            }
        }
    }

    #[test]
    fn b_72_every_state_ends_when_the_fabric_does() {
        for state in STATES {
            let after = state.after(Input::Gone).unwrap_or(state);
            assert_eq!(after, State::Closed, "{state}");
        }
    }

    #[test]
    fn b_71_abort_is_said_only_after_a_disconn() {
        for state in STATES {
            match state.after(Input::Abort) {
                Some(State::Aborting) => assert!(state.disconn_sent(), "{state}"),
                Some(State::Disconnecting) => assert!(!state.disconn_sent(), "{state}"),
                Some(other) => panic!("{state} aborts to {other}"),
                None => assert!(!state.is_open(), "{state}"),
            }
        }
    }

    #[test]
    fn b_75_the_table_is_documented() {
        let text = include_str!("../../Documentation/protocol.rst");
        let (_, table) = text.split_once("state            input").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let documented: Vec<_> = table.lines().skip(1).map(str::trim).collect();
        let transitions: Vec<_> = TRANSITIONS
            .iter()
            .map(|(from, on, to)| {
                let (from, on) = (from.to_string(), format!("{on:?}"));
                format!("{from:<17}{on:<13}{to}")
            })
            .collect();
        assert_eq!(documented, transitions);
    }
}
