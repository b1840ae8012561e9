// SPDX-License-Identifier: GPL-2.0

//! Teardown: the QP, the cm id and the buffers of a connection.

use crate::{
    prelude::*,
    proto::Events,
    sock::{
        account::Parts,
        conn::{
            Conn,
            Id, //
        },
        link::Link,
        notes::Setup,
        ring::Ring, //
    }, //
};

impl Conn {
    /// Tells the peer that the connection ends. The CM's answer, or its silence, comes as an event.
    /// Sleeps; under [`Connection::setup`].
    pub(super) fn disconnect(&self) -> Result {
        self.qp().ok_or(ENOTCONN)?.disconnect()
    }

    /// Destroys the QP, with the cm id: when this returns no completion comes any more. Sleeps;
    /// under [`Connection::setup`].
    pub(super) fn destroy_qp(&self) {
        // Let go last: what is freed under the lock below must not be the last to hold the domain.
        let _pd = self.pd();
        let qp = self.post.lock().qp.take();
        // The completions that this flushes take in what came before the end.
        drop(qp);
        let mut early = Ring::empty();
        core::mem::swap(&mut early, &mut self.flow.lock().early);
        while let Some(buf) = early.pop() {
            drop(buf);
            self.lost_buffer();
        }
    }

    /// Destroys the cm id that no QP has, and forgets what its handler said last. Sleeps; under
    /// [`Connection::setup`], which `setup` is.
    pub(super) fn destroy_id(&self, setup: &mut Setup<Id>) {
        let adopted = self.notes.lock().id.take();
        drop(adopted);
        setup.id = None;
        setup.expectation = None;
        let mut notes = self.notes.lock();
        notes.step = None;
        notes.end = None;
    }

    /// Ends the connection below: when this returns no completion and no CM event comes any more,
    /// and the device is free of it. What was received stays readable.
    ///
    /// Sleeps; under [`Connection::setup`], which `setup` is.
    pub(super) fn tear_down(&self, setup: &mut Setup<Id>) {
        // Let go last, as there: buffers and written bytes go below.
        let _pd = self.pd();
        self.destroy_qp();
        self.destroy_id(setup);
        setup.orphan = None;
        self.flow.lock().machine.disconnected();
        self.invalidate_finished();
        let (buffers, unsent) = {
            let mut post = self.post.lock();
            let tx = core::mem::replace(&mut post.tx, Ring::empty());
            (post.buffers.end(), (tx, post.waiting.take()))
        };
        drop(unsent);
        for memory in buffers.into_iter().flatten().flatten() {
            self.release_memory(memory);
        }
        self.post.lock().buffers.ended();
        self.release_finished();
        let events = {
            let mut flow = self.flow.lock();
            flow.go_on_to(Link::Closed);
            // Nothing is earlier.
            flow.armed = Some(0);
            self.cancel_later();
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        // Where both ends had closed, nothing changes for the user.
        if events.contains(Events::ABORTED) {
            self.dispatch(events);
        }
        self.leave_listener();
        let received = self.flow.lock().recv.pages();
        let _ = self.account.lock().change(|parts| {
            // What was received and not read is charged until the socket is closed.
            *parts = Parts {
                recv: parts.recv.min(received),
                ..Parts::default()
            };
        });
        // A close that lingers waits for bytes which the peer had no use for, and a call for its
        // buffers.
        self.with_socket(|sk| sk.wake_all());
    }
}
