// SPDX-License-Identifier: GPL-2.0

//! The set-up of a connection, step by step: for each end in [`super::connecting`] and
//! [`super::accepting`]. Teardown is in [`super::teardown`].
//!
//! An event of the RDMA CM is noted, and the next step is taken by the connection's work, or by the
//! task that waits in connect(2). Nothing is set up in the CM's own workers.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    prelude::*,
    proto::{
        Side,
        REJECT_BUSY, //
    },
    rdma::cm::{
        CmEvent,
        CmHandler, //
    },
    sock::{
        addr::AddrPair,
        conn::{
            Conn,
            Id, //
        },
        conn_state::{
            SetupResult,
            Teardown, //
        },
        notes::{
            End,
            PrivateData,
            Setup,
            Step, //
        },
        resources::is_iwarp, //
    }, //
};
use kernel::sync::Arc;

impl CmHandler for Arc<Conn> {
    fn event(&self, event: CmEvent<'_>) {
        match event {
            CmEvent::AddrResolved => self.note_step(Step::Address),
            CmEvent::RouteResolved => self.note_step(Step::Route),
            CmEvent::Established { private_data } => {
                self.note_cpu();
                self.note_step(Step::Established(PrivateData::new(private_data)));
            }
            CmEvent::AddrError(e) if e == ETIMEDOUT => self.note_end(End::NoAnswer),
            CmEvent::AddrError(e) => self.note_end(End::Failed(e)),
            CmEvent::RouteError => self.note_end(End::Failed(EHOSTUNREACH)),
            // The path is lost, or has changed: the connection may yet go on.
            CmEvent::Unreachable | CmEvent::AddrChange => self.note_end(End::Lost),
            CmEvent::Rejected { private_data } if private_data.starts_with(&REJECT_BUSY) => {
                self.note_end(End::Busy);
            }
            // Nobody listens there, or the listener refused.
            CmEvent::Rejected { private_data: [] } => self.note_end(End::Refused),
            CmEvent::ConnectError | CmEvent::Rejected { .. } => {
                self.note_end(End::Failed(ECONNREFUSED));
            }
            CmEvent::Disconnected => self.note_end(End::Gone),
            CmEvent::DeviceRemoval => self.note_end(End::Removed),
            // Children make no requests.
            CmEvent::ConnectRequest { .. } | CmEvent::TimewaitExit => {}
        }
    }
}

/// The notes of a connection.
impl Conn {
    /// Notes the next step, for a task that waits for it, or else for the work. In a handler of the
    /// CM.
    pub(super) fn note_step(&self, step: Step) {
        let waited_for = {
            let mut notes = self.notes.lock();
            notes.set_step(step);
            notes.waiters > 0
        };
        if waited_for {
            self.with_socket(|sk| sk.wake_calls());
        } else {
            self.queue();
        }
    }

    /// Notes the end, for the work, which no program can hold up. Process context, without the
    /// spinlocks.
    pub(super) fn note_end(&self, end: End) {
        self.notes.lock().set_end(end);
        self.queue();
    }

    /// Counts a task that is about to wait, and will call [`Self::advance_waiting`] whenever it is
    /// woken, until [`Self::remove_waiter`]. Process context, without the spinlocks.
    pub(super) fn add_waiter(&self) {
        let mut notes = self.notes.lock();
        notes.waiters = notes.waiters.saturating_add(1);
    }

    /// Counts one less. What the last one leaves is for the work. Process context, without the
    /// spinlocks.
    pub(super) fn remove_waiter(&self) {
        let left = {
            let mut notes = self.notes.lock();
            notes.waiters = notes.waiters.saturating_sub(1);
            notes.waiters == 0 && notes.step.is_some()
        };
        if left {
            self.queue();
        }
    }

    /// Takes the step that can be taken now, and the end that was reported after it: both at once,
    /// so that no end overtakes its step. A step that may wait for the network is left to
    /// [`Self::connect_slowly`].
    pub(super) fn next_notes(&self, setup: &mut Setup<Id>) -> (Option<Step>, Option<End>) {
        // First, since a request that is admitted later queues the work.
        let waits = self.awaits_place();
        let mut notes = self.notes.lock();
        let end = notes.end.take();
        let step = match notes.step {
            Some(Step::Request(..)) if waits => None,
            // siw waits there for the TCP connection.
            Some(Step::Route) if setup.id.as_ref().is_some_and(is_iwarp) => {
                self.queue_connect(setup.slow_queue());
                None
            }
            _ => notes.step.take(),
        };
        (step, end)
    }

    /// Takes a step of the set-up, which fails if that does. Sleeps.
    pub(super) fn run_step(&self, setup: &mut Setup<Id>, step: Step) {
        let done = match &step {
            Step::Address => self.find_route(setup),
            Step::Route => self.connect(setup),
            Step::Request(param, hello, addrs) => {
                setup.addrs = Some(*addrs);
                self.accept(setup, *param, hello.get())
            }
            Step::Established(data) => self.handle_established(setup, data.get()),
        };
        if let Err(e) = done {
            if matches!(step, Step::Request(..)) && (e == ENOMEM || e == ENOBUFS) {
                self.reject_busy(setup);
            }
            self.abort_setup(e);
        }
    }

    /// Fails the set-up with `e`, and ends the connection. Process context, without the spinlocks.
    pub(super) fn abort_setup(&self, e: Error) {
        pr_debug!("no connection: {e:?}\n");
        self.fail_setup(e);
        self.advance_teardown(Teardown::Disconnected);
    }

    /// Handles an end that the CM has reported: the peer is asked again, or the set-up or the
    /// connection fails. Sleeps.
    pub(super) fn handle_end(&self, setup: &mut Setup<Id>, end: End) {
        if self.setup_result() == SetupResult::Pending {
            let error = match end {
                End::NoAnswer => match self.resolve_again(setup) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                End::Busy | End::Lost => match self.pause(setup) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                End::Refused => match self.pause_refused(setup) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                End::Failed(e) => e,
                End::Gone => ECONNREFUSED,
                End::Removed => ENODEV,
            };
            self.fail_setup(error);
        } else if matches!(end, End::Lost) {
            // The device finds out whether the path still works.
            if let Err(e) = self.probe() {
                self.post_failed(e);
            }
            return;
        } else if matches!(end, End::Removed) {
            self.fail(ENODEV);
        }
        self.advance_teardown(Teardown::Disconnected);
    }

    fn handle_established(&self, setup: &mut Setup<Id>, private_data: &[u8]) -> Result {
        setup.expectation = None;
        let addrs = match setup.addrs {
            Some(addrs) => addrs,
            None => {
                let qp = self.qp(setup).ok_or(ENOTCONN)?;
                AddrPair {
                    local: qp.id().local_addr()?,
                    peer: qp.id().peer_addr()?,
                }
            }
        };
        self.flow.lock().identity.addrs = Some(addrs);
        if self.side == Side::Accepting {
            self.established();
            self.check_flushed();
            self.defer();
            self.check_deferred();
            return Ok(());
        }
        // Before anybody is notified that it is established.
        self.with_socket(|sk| {
            sk.set_local(addrs.local);
            sk.set_peer(addrs.peer);
        });
        if let Err(violation) = self.hello_ack(private_data) {
            pr_debug!("the listener does not speak SDP: {violation:?}\n");
            // The peer has a connection that nobody here wants, and is notified.
            self.fail_setup(EPROTO);
            self.advance_teardown(Teardown::DisconnectNeeded);
            return Ok(());
        }
        // Otherwise a call has ended it meanwhile.
        if self.setup_result() == SetupResult::Established {
            self.check_flushed();
        }
        Ok(())
    }

    /// Breaks a connection whose QP was taken down before the CM reported it as established.
    fn check_flushed(&self) {
        if self.flow.lock().flushed {
            self.fail(ECONNRESET);
        }
    }
}
