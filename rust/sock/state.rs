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
            Owner, //
        },
        flow::Flow,
        link::{
            Link,
            Progress, //
        },
        ring::Ring, //
    }, //
};

impl Flow {
    /// Decides what becomes of the set-up. False if that was decided before.
    fn set_progress(&mut self, progress: Progress) -> bool {
        let is_open = self.progress == Progress::SettingUp;
        if is_open {
            pr_debug!("set-up: {} -> {progress}\n", self.progress);
            self.progress = progress;
        }
        is_open
    }

    /// Advances the connection towards its end. False if it is there already.
    pub(super) fn advance_link(&mut self, link: Link) -> bool {
        let is_nearer = self.link < link;
        if is_nearer {
            pr_debug!("link: {} -> {link}\n", self.link);
            self.link = link;
        }
        is_nearer
    }
}

impl Conn {
    /// How far the connection is from its end. Any context.
    pub(super) fn link(&self) -> Link {
        self.flow.lock().link
    }

    /// Advances the connection towards its end, and queues the work. Any context, without the
    /// spinlocks.
    pub(super) fn set_link(&self, link: Link) {
        if !self.flow.lock().advance_link(link) {
            return;
        }
        self.update_state();
        self.queue();
    }

    /// What became of the set-up. Any context.
    pub(super) fn progress(&self) -> Progress {
        self.flow.lock().progress
    }

    /// Handles the HelloAck, which establishes the connection of the connecting side, and takes in
    /// what came early. Process context, without the spinlocks. Fails where that is no valid
    /// HelloAck.
    pub(super) fn hello_ack(&self, private_data: &[u8]) -> Result<(), Violation> {
        let mut recycle = Ring::empty();
        let now = self.now();
        let terms @ (limit, _) = (self.recv_limit(), self.recv_stamp());
        let result = {
            let mut guard = self.flow.lock();
            let flow = &mut *guard;
            flow.machine.set_now(now);
            let result = flow.machine.hello_ack_received(private_data);
            if result.is_ok() && flow.set_progress(Progress::Established) {
                core::mem::swap(&mut recycle, &mut flow.early);
                // Under the lock, so that no message that comes now can overtake.
                for _ in 0..recycle.len() {
                    if let Some(buf) = recycle.pop() {
                        if let Some(buf) = self.take_in(flow, buf, terms) {
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
        self.want_more(limit);
        self.kick();
        self.arm_timer();
        result
    }

    /// Establishes the connection of the accepting side; what came early may have ended it already.
    /// Process context, without the spinlocks.
    pub(super) fn established(&self) {
        self.flow.lock().set_progress(Progress::Established);
        self.with(Machine::established);
    }

    /// Fails the set-up; connect reports `e`. False if the outcome was decided before. Any context,
    /// without [`Connection::owner`](super::conn::Connection::owner) and the locks after it.
    pub(super) fn fail_setup(&self, e: Error) -> bool {
        let owner = self.owner.lock();
        let socket = match &*owner {
            Owner::Socket(sk) => Some(sk),
            Owner::Listener(..) | Owner::Nobody(_) => None,
        };
        {
            let mut flow = self.flow.lock();
            if flow.progress != Progress::SettingUp {
                return false;
            }
            if let Some(sk) = socket {
                sk.set_error(e);
            }
            flow.set_progress(Progress::Failed);
        }
        if let Some(sk) = socket {
            sk.set_state(TcpState::Close);
            sk.report_error();
            sk.state_change();
        }
        true
    }

    /// The state that the socket shows. Any context, without
    /// [`Connection::flow`](super::conn::Connection::flow) and the locks after it.
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

    /// Updates the state that the socket shows. Any context, without
    /// [`Connection::owner`](super::conn::Connection::owner) and the locks after it.
    pub(super) fn update_state(&self) {
        self.with_socket(|sk| sk.set_state(self.tcp_state()));
        if self.tcp_state() == TcpState::FinWait2 {
            self.uncount_orphan();
        }
    }
}
