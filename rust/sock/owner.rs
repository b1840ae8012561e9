// SPDX-License-Identifier: GPL-2.0

//! The owner of a connection, who is notified of it.

use crate::{
    net::{
        stamp::Stamp,
        this_cpu, //
    },
    prelude::*,
    proto::{
        AbortReason,
        Machine, //
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
        listener::ChildState,
        orphan::{
            self,
            Orphan, //
        },
        recv_buffers::RecvTerms,
        types::Socket, //
    }, //
};
use core::sync::atomic::Ordering::Relaxed;
use kernel::sync::aref::ARef;

/// [`RecvTerms::limit`] of what `sk` owns. Any context.
pub(super) fn recv_limit(sk: &Socket) -> Option<usize> {
    (!sk.is_under_pressure()).then(|| sk.rcvbuf())
}

impl Owner {
    fn recv_limit(&self) -> Option<usize> {
        match self {
            Self::Socket(sk) => recv_limit(sk),
            Self::Listener(listener, _) => listener.recv_limit(),
            Self::Nobody(_) => None,
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Socket(sk) => sk.stamp(),
            Self::Listener(listener, _) => listener.stamp(),
            Self::Nobody(_) => None,
        }
    }

    fn recv_terms(&self) -> RecvTerms {
        RecvTerms {
            limit: self.recv_limit(),
            stamp: self.stamp(),
        }
    }
}

impl Conn {
    /// Runs `f` on the socket that has the connection, if there is one. Any context, without
    /// [`Connection::owner`] and the locks after it.
    pub(super) fn with_socket(&self, f: impl FnOnce(&Socket)) {
        if let Owner::Socket(sk) = &*self.owner.lock() {
            f(sk);
        }
    }

    /// The socket that is charged for the connection. Any context, without [`Connection::owner`]
    /// and the locks after it.
    pub(super) fn charged_socket(&self) -> Option<ARef<Socket>> {
        match &*self.owner.lock() {
            Owner::Socket(sk) => Some(sk.clone()),
            Owner::Listener(listener, _) => listener.socket(),
            Owner::Nobody(_) => None,
        }
    }

    /// What the owner wants of messages that come. Any context, without [`Connection::owner`] and
    /// the locks after it, as for the next.
    pub(super) fn recv_terms(&self) -> RecvTerms {
        self.owner.lock().recv_terms()
    }

    /// [`RecvTerms::limit`] alone.
    pub(super) fn recv_limit(&self) -> Option<usize> {
        self.owner.lock().recv_limit()
    }

    /// [`RecvTerms::stamp`] alone.
    pub(super) fn recv_stamp(&self) -> Option<Stamp> {
        self.owner.lock().stamp()
    }

    /// Notes that something for the socket arrived on this CPU.
    pub(super) fn note_cpu(&self) {
        self.note_cpu_in(&self.owner.lock());
    }

    /// As [`Self::note_cpu`], for a message. Returns the [`Self::recv_terms`] for it.
    pub(super) fn note_arrival(&self) -> RecvTerms {
        let owner = self.owner.lock();
        self.note_cpu_in(&owner);
        owner.recv_terms()
    }

    fn note_cpu_in(&self, owner: &Owner) {
        let cpu = this_cpu();
        self.cpu.store(cpu, Relaxed);
        if let Owner::Socket(sk) = owner {
            sk.set_incoming_cpu(cpu);
        }
    }

    /// Gives the connection to a socket, with the failure that it may have had by now. Any context,
    /// without the spinlocks.
    pub(super) fn attach(&self, sk: &Socket) {
        // Diagnostics find the socket under the cookie that the connection had.
        if let Some(cookie) = self.own_cookie() {
            sk.set_cookie(cookie);
        }
        let cpu = self.cpu.load(Relaxed);
        if cpu >= 0 {
            sk.set_incoming_cpu(cpu);
        }
        // Dropped after the lock.
        let _former = self.owner.lock().set(Owner::Socket(sk.into()));
        self.update_state();
        self.report_failure();
    }

    /// Takes the connection from its socket or listener. Process context, without the spinlocks.
    pub(super) fn detach(&self) {
        let owner = self.owner.lock().set(Owner::Nobody(Some(Orphan::new())));
        if let Owner::Socket(sk) = &owner {
            let identity = &mut self.flow.lock().identity;
            identity.uid = sk.uid();
            identity.cookie = Some(sk.cookie());
        }
        drop(owner);
    }

    /// Whether it has no owner, and there are more such connections than `net.sdp.max_orphans`.
    pub(super) fn is_surplus(&self) -> bool {
        matches!(&*self.owner.lock(), Owner::Nobody(Some(_))) && orphan::are_too_many(&self.net, 0)
    }

    /// Counts it no longer as one without an owner: it has ended, or as TCP does when it only waits
    /// for the peer's end. Any context, without [`Connection::owner`] and the locks after it.
    pub(super) fn uncount_orphan(&self) {
        if let Owner::Nobody(orphan) = &mut *self.owner.lock() {
            *orphan = None;
        }
    }

    /// Its cookie while no socket has it. None while it is not listed for diagnostics. Any context.
    pub(super) fn own_cookie(&self) -> Option<u64> {
        // The kernel counts those of sockets from 1.
        let number = self.number.get();
        (number != 0).then_some(number | 1 << 63)
    }

    /// Gives a request that waited its place, so that it is set up. False where it has ended. Any
    /// context, without [`Connection::owner`] and the locks after it.
    pub(super) fn admit(&self) -> bool {
        let admitted = match &mut *self.owner.lock() {
            Owner::Listener(_, state) => {
                state.set(ChildState::SettingUp);
                true
            }
            Owner::Nobody(_) | Owner::Socket(_) => false,
        };
        if admitted {
            self.queue();
        }
        admitted
    }

    /// Whether it waits for a place in its listener's backlog. Any context, without
    /// [`Connection::owner`] and the locks after it.
    pub(super) fn awaits_place(&self) -> bool {
        matches!(&*self.owner.lock(), Owner::Listener(_, ChildState::Waiting))
    }

    /// Whether it has a place in the backlog for which a request waits. Any context, without
    /// [`Connection::owner`] and the locks after it.
    pub(super) fn is_in_the_way(&self) -> bool {
        match &*self.owner.lock() {
            Owner::Listener(listener, ChildState::SettingUp) => listener.has_waiting(),
            _ => false,
        }
    }

    /// Queues an established child at its listener, or ends it if nobody listens any more. Process
    /// context, without the spinlocks.
    pub(super) fn hand_to_backlog(&self) {
        let listener = match &mut *self.owner.lock() {
            Owner::Listener(listener, state) => {
                state.set(ChildState::Ready);
                listener.clone()
            }
            Owner::Nobody(_) | Owner::Socket(_) => return,
        };
        if !listener.ready(self.arc()) {
            self.abandon();
        }
    }

    /// Gives up the place of a child that is not ready for accept. Process context, without the
    /// spinlocks.
    pub(super) fn leave_listener(&self) {
        let former = {
            let mut owner = self.owner.lock();
            match &*owner {
                Owner::Listener(_, state) if *state != ChildState::Ready => {}
                _ => return,
            }
            owner.set(Owner::Nobody(None))
        };
        if let Owner::Listener(listener, _) = former {
            listener.child_gone(self);
        }
    }

    /// Ends a connection that no socket has, or will get. Process context, without the spinlocks.
    pub(super) fn abandon(&self) {
        self.detach();
        // Before the abort, with which the work fails what is being set up.
        let setup_result = self.setup_result();
        self.with(Machine::abort);
        // The peer of a failed connection need not be notified. That of one being set up may have
        // it already.
        self.advance_teardown(match setup_result {
            SetupResult::Established | SetupResult::Pending => Teardown::DisconnectNeeded,
            SetupResult::Failed => Teardown::Disconnected,
        });
    }

    /// Leaves the reason why the connection failed, if it did, to the next call of its socket. A
    /// child that is accepted later reports it then. Any context, without [`Connection::owner`] and
    /// the locks after it.
    pub(super) fn report_failure(&self) {
        let owner = self.owner.lock();
        let Owner::Socket(sk) = &*owner else { return };
        let (reason, cause, lost) = {
            let flow = self.flow.lock();
            if flow.failure.reported {
                return;
            }
            // As with TCP, who has read the end of the stream can only have been sending.
            let lost = match flow.machine.peer_closed() {
                true => EPIPE,
                false => ECONNRESET,
            };
            (flow.machine.aborted(), flow.failure.cause, lost)
        };
        let errno = match reason {
            None => return,
            // An abort has a cause unless the program asked for it.
            Some(AbortReason::Local) => cause,
            Some(AbortReason::TimedOut) => Some(ETIMEDOUT),
            Some(AbortReason::Violation(violation)) => {
                pr_debug!("peer broke the protocol: {violation:?}\n");
                Some(EPROTO)
            }
            Some(_) => Some(cause.unwrap_or(lost)),
        };
        if let Some(errno) = errno {
            sk.set_error(errno);
        }
        self.flow.lock().failure.reported = true;
        if errno.is_some() {
            sk.report_error();
        }
    }
}
