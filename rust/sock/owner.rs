// SPDX-License-Identifier: GPL-2.0

//! A connection and who hears of it.

use crate::{
    prelude::*,
    proto::{
        AbortReason,
        Machine, //
    },
    sock::{
        conn::{
            Conn,
            Owner,
            Place, //
        },
        link::{
            Link,
            Progress, //
        },
        Socket, //
    }, //
};

impl Conn {
    /// Runs `f` on the socket that has the connection, if there is one. Any context, without 5 and
    /// what comes after it.
    pub(super) fn with_socket(&self, f: impl FnOnce(&Socket)) {
        if let Owner::Socket(sk) = &*self.owner.lock() {
            f(sk);
        }
    }

    /// The bytes that receive buffers may take: `SO_RCVBUF` where it was set. Any context.
    pub(super) fn recv_limit(&self) -> usize {
        let set = match &*self.owner.lock() {
            Owner::Socket(sk) => sk.rcvbuf_if_set(),
            Owner::Listener(parent, _) => parent.rcvbuf_if_set(),
            Owner::Nobody => None,
        };
        set.unwrap_or(usize::MAX)
    }

    /// Gives the connection to a socket, with the failure that it may have had by now.
    pub(super) fn attach(&self, sk: &Socket) {
        // Dropped after the lock.
        let _former = core::mem::replace(&mut *self.owner.lock(), Owner::Socket(sk.into()));
        self.update_state();
        self.report_failure();
    }

    /// The socket lets the connection go.
    pub(super) fn detach(&self) {
        let owner = core::mem::replace(&mut *self.owner.lock(), Owner::Nobody);
        drop(owner);
    }

    /// A request that waited has got its place: it may be set up. False where it has ended.
    pub(super) fn admit(&self) -> bool {
        let admitted = match &mut *self.owner.lock() {
            Owner::Listener(_, place) => {
                *place = Place::SettingUp;
                true
            }
            Owner::Nobody | Owner::Socket(_) => false,
        };
        if admitted {
            self.queue();
        }
        admitted
    }

    /// Whether it waits for a place in its listener's backlog.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&*self.owner.lock(), Owner::Listener(_, Place::Waiting))
    }

    /// A child is established, and goes to its listener's queue.
    pub(super) fn hand_to_backlog(&self) {
        let parent = match &mut *self.owner.lock() {
            Owner::Listener(parent, place) => {
                *place = Place::Ready;
                parent.clone()
            }
            Owner::Nobody | Owner::Socket(_) => return,
        };
        if !parent.ready(self.arc()) {
            self.abandon();
        }
    }

    /// A child that was not established gives its place to another. Without the locks below.
    pub(super) fn leave_listener(&self) {
        let parent = {
            let mut owner = self.owner.lock();
            match core::mem::replace(&mut *owner, Owner::Nobody) {
                Owner::Listener(parent, place) if place != Place::Ready => parent,
                other => {
                    *owner = other;
                    return;
                }
            }
        };
        parent.lost(self);
    }

    /// Ends a connection that no program has, or will get.
    pub(super) fn abandon(&self) {
        self.detach();
        self.with(Machine::abort);
        // A connection that was never made has nobody to be told of its end.
        self.set_link(match self.progress() {
            Progress::Established => Link::Disconnect,
            Progress::SettingUp | Progress::Failed => Link::Disconnected,
        });
    }

    /// Leaves the reason why the connection failed, if it did, to the next call of its socket. Who
    /// accepts it later is told then.
    pub(super) fn report_failure(&self) {
        let owner = self.owner.lock();
        let Owner::Socket(sk) = &*owner else { return };
        let (reason, cause) = {
            let flow = self.flow.lock();
            if flow.reported {
                return;
            }
            (flow.machine.aborted(), flow.cause)
        };
        let errno = match reason {
            None => return,
            Some(AbortReason::Local) => None,
            Some(AbortReason::Violation(violation)) => {
                pr_debug!("peer broke the protocol: {violation:?}\n");
                Some(EPROTO)
            }
            Some(_) => Some(cause.unwrap_or(ECONNRESET)),
        };
        if let Some(errno) = errno {
            sk.fail(errno);
        }
        self.flow.lock().reported = true;
    }
}
