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
        conn_state::{
            SetupResult,
            Teardown, //
        },
        flow::Flow,
        ring::Ring, //
    }, //
};
use kernel::sync::atomic::{
    Acquire,
    Release, //
};

impl Flow {
    /// The state that the socket shows.
    fn tcp_state(&self) -> TcpState {
        let machine = &self.machine;
        match (self.setup_result, machine.state()) {
            (SetupResult::Pending, _) => TcpState::SynSent,
            (SetupResult::Failed, _)
            | (_, State::Aborting | State::Disconnecting | State::Closed) => TcpState::Close,
            _ if !self.is_up() => TcpState::Close,
            (_, State::DisConnDone) => TcpState::FinWait2,
            _ => match (machine.can_write(), machine.peer_closed()) {
                (true, false) => TcpState::Established,
                (true, true) => TcpState::CloseWait,
                (false, false) => TcpState::FinWait1,
                (false, true) => TcpState::LastAck,
            },
        }
    }
}

impl Conn {
    /// Whether its teardown has not begun. Any context, as for the next.
    pub(super) fn is_up(&self) -> bool {
        self.flow.lock().is_up()
    }

    /// How far its teardown is.
    pub(super) fn teardown(&self) -> Teardown {
        self.flow.lock().teardown
    }

    /// Advances the teardown: the one place where that changes. Traces it, and wakes the work,
    /// which takes the next step, and the calls that wait for it. Any context, without the
    /// spinlocks.
    pub(super) fn advance_teardown(&self, teardown: Teardown) {
        {
            let mut flow = self.flow.lock();
            if flow.teardown >= teardown {
                return;
            }
            pr_debug!("teardown: {} -> {teardown}\n", flow.teardown);
            flow.teardown = teardown;
            if teardown == Teardown::Done {
                // There is no next step, and nothing is earlier, so that no timer is armed.
                flow.timers.armed = Some(0);
                self.cancel_later();
                self.cancel_slow();
            }
        }
        self.with_socket(|sk| {
            sk.set_state(self.tcp_state());
            sk.wake_calls();
        });
        if teardown != Teardown::Done {
            self.queue();
        }
    }

    /// The result of the set-up. Any context.
    pub(super) fn setup_result(&self) -> SetupResult {
        if self.was_established.load(Acquire) {
            return SetupResult::Established;
        }
        self.flow.lock().setup_result
    }

    /// Decides the result of the set-up: the one place where that changes. `decide` says so under
    /// [`Connection::flow`], with the error that connect reports, or leaves it open. Traces it, has
    /// the socket show it, and wakes calls and who polls. False where it stays open, or was decided
    /// before. Any context, without [`Connection::owner`] and the locks after it.
    ///
    /// [`Connection::owner`]: super::conn::Connection::owner
    /// [`Connection::flow`]: super::conn::Connection::flow
    fn decide_setup(&self, decide: impl FnOnce(&mut Flow) -> Option<Result>) -> bool {
        let owner = self.owner.lock();
        let socket = match &*owner {
            Owner::Socket(sk) => Some(sk),
            Owner::Listener(..) | Owner::Nobody(_) => None,
        };
        let result = {
            let flow = &mut *self.flow.lock();
            let decided = decide(flow).filter(|_| flow.setup_result == SetupResult::Pending);
            let Some(result) = decided else {
                return false;
            };
            let setup_result = match result {
                Ok(()) => SetupResult::Established,
                Err(_) => SetupResult::Failed,
            };
            pr_debug!("set-up: {} -> {setup_result}\n", flow.setup_result);
            flow.setup_result = setup_result;
            // Who finds it decided finds the rest.
            if let Some(sk) = socket {
                if let Err(e) = result {
                    sk.set_error(e);
                }
                sk.set_state(flow.tcp_state());
            }
            if result.is_ok() {
                self.was_established.store(true, Release);
            }
            result
        };
        if let Some(sk) = socket {
            if result.is_err() {
                sk.report_error();
            }
            sk.state_change();
            if result.is_ok() {
                sk.wake_async_connected();
            }
        }
        true
    }

    /// Handles the HelloAck, which establishes the connection of the connecting side, and takes in
    /// what arrived early. Process context, without the spinlocks. Fails where that is no valid
    /// HelloAck.
    pub(super) fn hello_ack(&self, private_data: &[u8]) -> Result<(), Violation> {
        let mut recycle = Ring::empty();
        let now = self.now();
        let terms = self.recv_terms();
        let mut result = Ok(());
        self.decide_setup(|flow| {
            flow.machine.set_now(now);
            result = flow.machine.hello_ack_received(private_data);
            if result.is_err() || flow.setup_result != SetupResult::Pending {
                return None;
            }
            core::mem::swap(&mut recycle, &mut flow.early);
            // Under the lock, so that no message that comes now can overtake.
            for _ in 0..recycle.len() {
                if let Some(buf) = recycle.pop() {
                    if let Some(buf) = self.take_in(flow, buf, terms) {
                        let _ = recycle.push(buf);
                    }
                }
            }
            Some(Ok(()))
        });
        while let Some(buf) = recycle.pop() {
            self.recycle(buf);
        }
        self.want_more(terms.limit);
        self.kick();
        self.arm_timer();
        result
    }

    /// Establishes the connection of the accepting side; what arrived early may have ended it
    /// already. Process context, without the spinlocks.
    pub(super) fn established(&self) {
        self.decide_setup(|_| Some(Ok(())));
        self.with(Machine::established);
    }

    /// Fails the set-up; connect reports `e`. False if the outcome was decided before. Any context,
    /// without [`Connection::owner`](super::conn::Connection::owner) and the locks after it.
    pub(super) fn fail_setup(&self, e: Error) -> bool {
        self.decide_setup(|_| Some(Err(e)))
    }

    /// The state that the socket shows. Any context, without
    /// [`Connection::flow`](super::conn::Connection::flow) and the locks after it.
    pub(super) fn tcp_state(&self) -> TcpState {
        self.flow.lock().tcp_state()
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
