// SPDX-License-Identifier: GPL-2.0

//! The work of a connection, and its timer.
//!
//! It runs on the module's workqueue, or in a task that waits in connect(2). What may wait for the
//! network (a connect over iWARP) or for memory (in a full cgroup) runs on a workqueue for that
//! ([`slow_queue`](super::slow_queue)), so that no user and no cgroup delays all others.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    net::work::Run,
    proto::Side,
    sock::{
        conn::{
            Conn,
            Connection,
            Id, //
        },
        conn_state::{
            SetupResult,
            Teardown, //
        },
        notes::{
            Setup,
            Step, //
        },
        time, //
    }, //
};
use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

impl Run for Connection {
    fn run(this: &Arc<Conn>) {
        this.advance();
    }

    fn run_reclaim(this: &Arc<Conn>) {
        this.advance_reclaiming();
    }

    fn run_connect(this: &Arc<Conn>) {
        this.connect_slowly();
    }
}

impl Conn {
    /// Handles what the CM and the device reported, and what is due. Sleeps; without the locks of a
    /// connection.
    fn advance(&self) {
        // An end does not wait for memory.
        let ends = !self.is_up() || self.notes.lock().end.is_some();
        match self.reclaim_queue().filter(|_| !ends) {
            Some(queue) => self.queue_reclaim(queue),
            None => self.advance_in(&mut self.setup.lock()),
        }
    }

    /// [`Self::advance`] where memory has to be reclaimed first, without the locks of a connection:
    /// what it charges then finds room, or fails.
    fn advance_reclaiming(&self) {
        self.reclaim();
        self.advance_in(&mut self.setup.lock());
    }

    /// [`Self::advance`] in a task that waits for the connection with its socket locked, and may
    /// wait for memory first. Sleeps.
    pub(super) fn advance_waiting(&self) {
        self.reclaim();
        match self.setup.try_lock() {
            Some(mut setup) => self.advance_in(&mut setup),
            // Its holder may have looked before there was something to do.
            None => self.queue(),
        }
    }

    fn advance_in(&self, setup: &mut Setup<Id>) {
        self.begin_work();
        if setup.connecting {
            // Everything else has to wait until connect_slowly() has returned.
            return self.check_connecting();
        }
        self.take_request(setup);
        let (step, end) = self.next_notes(setup);
        if end.is_some() || matches!(step, Some(Step::Established(_))) {
            setup.confirm_by = None;
        }
        if let Some(step) = step {
            if self.is_up() {
                self.run_step(setup, step);
            }
        }
        if let Some(end) = end {
            self.handle_end(setup, end);
        }
        self.ask_again(setup);
        self.check_connecting();
        self.check_waiting(setup);
        self.check_unconfirmed(setup);
        self.check_deferred();
        self.serve(setup);
        self.check_fin_wait(setup);
        self.run_teardown(setup, false);
    }

    /// Begins a run of the work, which arms the timer anew for everything that still needs it.
    fn begin_work(&self) {
        let mut flow = self.flow.lock();
        if flow.teardown != Teardown::Done {
            flow.timers.armed = None;
        }
    }

    /// Handles what the device reported, releases finished buffers, corrects the charge, makes
    /// missing receive buffers, gives back idle memory, and runs the machine's timers. Sleeps.
    fn serve(&self, setup: &Setup<Id>) {
        self.release_finished();
        let unfinished = self.setup_result() != SetupResult::Established;
        if self.comm_est.load(Relaxed) && self.side == Side::Accepting && unfinished {
            if let Some(qp) = self.qp(setup) {
                // If the CM cannot take it now, the RTU or the next message says it again.
                let _ = qp.id().notify_established();
            }
        }
        if self.fatal.load(Relaxed) {
            self.fail(self.link_error());
        }
        if self.is_up() {
            self.uncharge_unused();
            self.decide_resize();
            self.adjust_recv_buffers();
            self.check_idle();
            let now = self.now();
            {
                let flow = &mut *self.flow.lock();
                flow.machine.set_now(now);
                // TCP's settings may have changed.
                flow.options.timeouts.apply(&mut flow.machine, &self.net);
                flow.machine.expired(now);
            }
            self.kick();
            self.arm_timer();
        }
    }
}

/// The timer.
impl Conn {
    /// Arms the timer for the machine's next deadline: bytes held back by `TCP_CORK` or `MSG_MORE`,
    /// keepalive, user timeout. Any context.
    pub(super) fn arm_timer(&self) {
        let due = {
            let flow = self.flow.lock();
            let deadline = flow.machine.deadline();
            deadline.filter(|at| flow.timers.is_before(*at))
        };
        if let Some(at) = due {
            self.work_at(at);
        }
    }

    /// Runs the work in so many milliseconds, or before. Any context.
    pub(super) fn work_in(&self, ms: u32) {
        self.work_at(self.now().saturating_add(time::ms(ms)));
    }

    /// Runs the work at a time of [`Self::now`], or before. Any context.
    pub(super) fn work_at(&self, at: u64) {
        let mut flow = self.flow.lock();
        if flow.timers.is_before(at) {
            flow.timers.armed = Some(at);
            let ms = at.saturating_sub(self.now()).div_ceil(1_000_000);
            // Under the lock, so that the timer is what `armed` says.
            self.queue_in(u32::try_from(ms).unwrap_or(u32::MAX));
        }
    }
}
