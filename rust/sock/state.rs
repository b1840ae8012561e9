// SPDX-License-Identifier: GPL-2.0

//! What became of a connection, and what its socket shows of that.

use crate::{
    net::sock::TcpState,
    prelude::*,
    proto::{
        Machine,
        State,
        Violation, //
    },
    sock::{
        conn::{
            Conn,
            Flow, //
        },
        link::{
            Link,
            Progress, //
        },
        ring::Ring, //
    }, //
};

impl Flow {
    /// Decides what becomes of the set-up. False where that was decided before.
    fn decide(&mut self, progress: Progress) -> bool {
        let is_open = self.progress == Progress::SettingUp;
        if is_open {
            pr_debug!("set-up: {} -> {progress}\n", self.progress);
            self.progress = progress;
        }
        is_open
    }

    /// Brings the connection nearer to its end. False where it is as near.
    pub(super) fn go_on_to(&mut self, link: Link) -> bool {
        let is_nearer = self.link < link;
        if is_nearer {
            pr_debug!("link: {} -> {link}\n", self.link);
            self.link = link;
        }
        is_nearer
    }
}

impl Conn {
    /// How far the connection is from its end.
    pub(super) fn link(&self) -> Link {
        self.flow.lock().link
    }

    /// Brings the connection nearer to its end, and has the work see to it. Any context.
    pub(super) fn set_link(&self, link: Link) {
        if !self.flow.lock().go_on_to(link) {
            return;
        }
        self.update_state();
        self.queue();
    }

    /// What became of the set-up.
    pub(super) fn progress(&self) -> Progress {
        self.flow.lock().progress
    }

    /// The HelloAck came: the active side's connection is there, with what arrived before.
    pub(super) fn hello_ack(&self, private_data: &[u8]) -> Result<(), Violation> {
        let mut recycle = Ring::empty();
        let now = self.now();
        let result = {
            let mut guard = self.flow.lock();
            let flow = &mut *guard;
            flow.machine.set_now(now);
            let result = flow.machine.hello_ack_received(private_data);
            if result.is_ok() && flow.decide(Progress::Established) {
                core::mem::swap(&mut recycle, &mut flow.early);
                // Taken in under the lock, so that none that comes now can overtake.
                for _ in 0..recycle.len() {
                    if let Some(buf) = recycle.pop() {
                        if let Some(buf) = flow.receive(buf) {
                            let _ = recycle.push(buf);
                        }
                    }
                }
            }
            result
        };
        while let Some(buf) = recycle.pop() {
            self.recycle(buf);
        }
        self.kick();
        self.arm_held();
        result
    }

    /// The passive side's connection is there, though what came early may have ended it by now.
    pub(super) fn established(&self) {
        self.flow.lock().decide(Progress::Established);
        self.with(Machine::established);
    }

    /// The connection cannot be made: `e` is connect's to tell. False where what became of it was
    /// decided before. Any context.
    pub(super) fn fail_setup(&self, e: Error) -> bool {
        if !self.flow.lock().decide(Progress::Failed) {
            return false;
        }
        self.with_socket(|sk| {
            sk.set_state(TcpState::Close);
            sk.fail(e);
            sk.state_change();
        });
        true
    }

    /// The state that the socket shows.
    pub(super) fn tcp_state(&self) -> TcpState {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        match (flow.progress, machine.state()) {
            (Progress::SettingUp, _) => TcpState::SynSent,
            (Progress::Failed, _) | (_, State::Aborting | State::Disconnecting | State::Closed) => {
                TcpState::Close
            }
            _ if flow.link != Link::Up => TcpState::Close,
            (_, State::DisConnDone) => TcpState::FinWait2,
            _ => match (machine.can_write(), machine.peer_closed()) {
                (true, false) => TcpState::Established,
                (true, true) => TcpState::CloseWait,
                (false, false) => TcpState::FinWait1,
                (false, true) => TcpState::LastAck,
            },
        }
    }

    /// Has the socket show the state. Any context, without 5 and what comes after it.
    pub(super) fn update_state(&self) {
        self.with_socket(|sk| sk.set_state(self.tcp_state()));
    }
}
