// SPDX-License-Identifier: GPL-2.0

//! The end of a connection: what is reported to the peer, how long its answer is waited for, and
//! what is freed.

use crate::{
    prelude::*,
    proto::{
        Events,
        Machine,
        Side, //
    },
    sock::{
        accepting::CONFIRM_MS,
        account::Parts,
        conn::{
            Conn,
            Id, //
        },
        conn_state::{
            SetupResult,
            Teardown, //
        },
        notes::{
            FinWait,
            Setup, //
        },
        ring::Ring,
        settings,
        time::ms, //
    }, //
};

/// How long the peer may take to confirm the end of the connection, in milliseconds; the CM repeats
/// its message every four seconds.
const DISCONNECT_MS: u32 = 30_000;

impl Conn {
    /// Ends a connection that is not up any more, without waiting for the peer's answer: its port
    /// is free when this returns, unless rdma_connect() still waits. Sleeps; with no lock but a
    /// socket's.
    pub(super) fn finish(&self) {
        self.run_teardown(&mut self.setup.lock(), true);
    }

    /// Ends a connection that was not established, and that nobody wants. Its port is free when
    /// this returns, unless the device keeps it until the peer answers (iWARP). Sleeps; with no
    /// lock but a socket's.
    pub(super) fn discard(&self) {
        self.detach();
        self.advance_teardown(Teardown::Disconnected);
        if !self.awaits_answer() {
            self.finish();
        }
    }

    /// Gives the peer of a closed socket `net.sdp.fin_timeout` to take what is queued, or the
    /// abort, or to close its half. Sleeps; with no lock but a socket's.
    pub(super) fn wait_for_fin(&self) {
        let mut setup = self.setup.lock();
        if !self.is_up() {
            return;
        }
        let queued = self.queued();
        let wait = FinWait {
            at: self.fin_timeout(queued),
            queued,
        };
        self.work_at(wait.at);
        setup.fin_wait = Some(wait);
    }

    /// When a wait for the peer that begins now times out, in the machine's time, with so many
    /// bytes queued. `TCP_LINGER2` is about the peer's own end only.
    fn fin_timeout(&self, queued: usize) -> u64 {
        let linger2 = self.flow.lock().options.linger2;
        let timeout = if linger2 == 0 || queued > 0 {
            settings::fin_timeout_ms(&self.net)
        } else {
            linger2.max(0).unsigned_abs().saturating_mul(1000)
        };
        self.now().saturating_add(ms(timeout))
    }

    /// Resets the connection of a closed socket whose peer has made no progress for too long.
    /// Sleeps.
    pub(super) fn check_fin_wait(&self, setup: &mut Setup<Id>) {
        let Some(wait) = &mut setup.fin_wait else {
            return;
        };
        if !self.is_up() {
            setup.fin_wait = None;
            return;
        }
        let queued = self.queued();
        if queued < wait.queued && (queued == 0 || self.now() >= wait.at) {
            wait.at = self.fin_timeout(queued);
            wait.queued = queued;
        }
        if self.now() < wait.at {
            return self.work_at(wait.at);
        }
        setup.fin_wait = None;
        self.with(Machine::abort);
        // Also where the abort's own message cannot be sent.
        self.advance_teardown(Teardown::DisconnectNeeded);
    }

    /// Whether destroying the cm id may wait for the network: on iWARP, where a connect has no
    /// answer yet. Any context.
    pub(super) fn ends_slowly(&self) -> bool {
        let is_connect = self.side == Side::Connecting && self.awaits_answer();
        is_connect && self.setup_result() != SetupResult::Established && !self.is_up()
    }

    /// Brings a connection that is not up any more to its end; in a `hurry`, without waiting for
    /// the peer's answer, but as long as the device does. Sleeps.
    pub(super) fn run_teardown(&self, setup: &mut Setup<Id>, hurry: bool) {
        if setup.connecting {
            return;
        }
        let may_wait = hurry;
        let hurry = hurry || self.is_surplus();
        let teardown = self.teardown();
        // A connection that ended before it was established has no peer to notify; its program is
        // notified of the reason.
        let cause = self.flow.lock().failure.cause;
        let unmade = teardown > Teardown::NotBegun && self.fail_setup(cause.unwrap_or(ECONNRESET));
        match teardown {
            Teardown::NotBegun => return,
            Teardown::Done => {
                // The listener closed before the request had its cm id.
                if setup.id.is_some() {
                    self.destroy_id(setup);
                }
                return;
            }
            // The CM would reject the peer, once. A reject that overtakes the answer is lost, and
            // the peer's connection would stay for good.
            Teardown::DisconnectNeeded if setup.confirm_by.is_some() && !hurry => {
                let now = self.now();
                let by = *setup
                    .disconnect_by
                    .get_or_insert(now.saturating_add(ms(CONFIRM_MS)));
                if now < by {
                    return self.work_at(by);
                }
            }
            Teardown::DisconnectNeeded if unmade => {}
            Teardown::DisconnectNeeded => {
                if self.disconnect(setup).is_ok() && !hurry {
                    let by = self.now().saturating_add(ms(DISCONNECT_MS));
                    setup.disconnect_by = Some(by);
                    self.advance_teardown(Teardown::Disconnecting);
                    return self.work_at(by);
                }
            }
            Teardown::Disconnecting => {
                let left = setup.disconnect_by.filter(|by| self.now() < *by);
                if let Some(by) = left.filter(|_| !hurry) {
                    return self.work_at(by);
                }
            }
            Teardown::Disconnected => {}
        }
        if !may_wait && self.ends_slowly() {
            return self.queue_connect(setup.slow_queue());
        }
        self.tear_down(setup);
    }

    /// Notifies the peer that the connection ends. Its answer, or the CM's timeout, comes as an
    /// event. Sleeps. Fails with `ENOTCONN` without a QP, or before a connect, and with the
    /// driver's error.
    fn disconnect(&self, setup: &Setup<Id>) -> Result {
        self.qp(setup).ok_or(ENOTCONN)?.disconnect()
    }

    /// Destroys the QP, with the cm id: when this returns no completion comes any more. Sleeps.
    pub(super) fn destroy_qp(&self, _setup: &mut Setup<Id>) {
        // Dropped last: what is freed under the lock below must not be the last to hold the domain.
        let _pd = self.pd();
        let qp = self.post.lock().qp.take();
        // This flushes the completions, which take in what arrived before the end.
        drop(qp);
        let mut early = Ring::empty();
        core::mem::swap(&mut early, &mut self.flow.lock().early);
        while let Some(buf) = early.pop() {
            self.uncount_buffer(buf.page_count());
        }
    }

    /// Destroys the cm id while no QP has it, and forgets what its handler noted. Sleeps.
    pub(super) fn destroy_id(&self, setup: &mut Setup<Id>) {
        let adopted = self.notes.lock().id.take();
        drop(adopted);
        setup.id = None;
        setup.expectation = None;
        self.notes.lock().clear();
    }

    /// Frees what the connection has on the device: when this returns no completion and no CM event
    /// comes any more. What was received stays readable.
    ///
    /// Sleeps.
    pub(super) fn tear_down(&self, setup: &mut Setup<Id>) {
        // As in destroy_qp(): buffers and written bytes are freed below.
        let pd = self.pd();
        self.destroy_qp(setup);
        self.destroy_id(setup);
        setup.claim = None;
        self.uncount_orphan();
        self.flow.lock().machine.disconnected();
        self.invalidate_finished();
        let (buffers, unsent) = {
            let mut post = self.post.lock();
            let tx = core::mem::replace(&mut post.tx, Ring::empty());
            let unsent = (tx, post.waiting.take(), post.chunk.take());
            (post.buffers.flush(), unsent)
        };
        drop(unsent);
        for memory in buffers.into_iter().flatten().flatten() {
            self.release_memory(memory);
        }
        self.post.lock().buffers.flushed();
        self.release_finished();
        // A close that lingers waits for bytes that the peer did not take, and a call for its
        // buffers: neither is left.
        self.advance_teardown(Teardown::Done);
        let events = self.flow.lock().machine.take_events();
        // If both ends had closed, nothing changes for the program.
        if events.contains(Events::ABORTED) {
            self.dispatch(events);
        }
        self.leave_listener();
        self.number.unlist(&self.net);
        drop(pd);
        let received = self.flow.lock().recv.pages();
        let _ = self.account.lock().change(|parts| {
            // What was received and not read is charged until the socket is closed.
            *parts = Parts {
                own: parts.own,
                recv: parts.recv.min(received),
                ..Parts::default()
            };
        });
        self.with_socket(|sk| self.notify_reads_done(sk));
    }
}
