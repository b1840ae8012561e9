// SPDX-License-Identifier: GPL-2.0

//! The end that accepts: a request waits for a place, is set up and answered, and goes to its
//! listener once it is established.
//!
//! Locks and references are those of [`Conn`].

use crate::{
    prelude::*,
    proto::{
        REJECT_BUSY,
        REJECT_NOBODY, //
    },
    rdma::cm::PeerParam,
    sock::{
        addr::AddrPair,
        conn::{
            Conn,
            Id, //
        },
        listener::UnchargedId,
        notes::{
            PrivateData,
            Setup,
            Step, //
        },
        resources::is_iwarp,
        time::ms, //
    }, //
};

/// How long a request may wait for a place, in milliseconds: as long as TCP's connect sends SYNs,
/// with `net.ipv4.tcp_syn_retries` at 6.
const WAIT_MS: u32 = 127_000;

/// How long a request may wait for a place on iWARP, in milliseconds. Devices drop it after ten
/// seconds, without reporting the reason to the peer.
const IWARP_WAIT_MS: u32 = 5000;

/// How long a peer may take to confirm the accept, in milliseconds, while others wait for its
/// place, and at the connection's end; the CM repeats its answer every four seconds.
pub(super) const CONFIRM_MS: u32 = 10_000;

/// How often a connection that its peer has not confirmed checks whether a request waits for its
/// place, in milliseconds.
const RECHECK_MS: u32 = 1000;

impl Conn {
    /// Takes over the request of a peer. In the handler of the listener's cm id.
    pub(super) fn adopt_request(
        &self,
        id: UnchargedId<Conn>,
        param: PeerParam,
        hello: &[u8],
        addrs: AddrPair,
    ) {
        self.notes.lock().id = Some(id);
        self.note_step(Step::Request(param, PrivateData::new(hello), addrs));
    }

    /// Takes the cm id of a new request, charges for it, and has it filtered, which a handler may
    /// not do: memory may have to be reclaimed before. Sleeps.
    pub(super) fn take_request(&self, setup: &mut Setup<Id>) {
        let Some(id) = self.notes.lock().id.take() else {
            return;
        };
        let charged = self.charge_own();
        let id = setup.id.insert(id.into_id());
        if let Err(e) = charged.and_then(|()| self.filter_request(id)) {
            if e == EPERM {
                let _ = id.reject(&REJECT_NOBODY);
            } else {
                self.reject_busy(setup);
            }
            self.abort_setup(e);
        }
    }

    /// Has the programs of the listener's control group see what makes a connection of TCP. Sleeps.
    /// Fails with `EPERM` where they drop it, and with `ENOMEM`.
    fn filter_request(&self, id: &Id) -> Result {
        let (Some(listener), Some(addrs)) = (self.charged_socket(), self.addrs()) else {
            return Ok(());
        };
        listener.filter_handshake(false, addrs.local, addrs.peer, id.interface())
    }

    /// Rejects a request as busy that has waited too long for a place: its peer may be gone.
    /// Sleeps.
    pub(super) fn check_waiting(&self, setup: &mut Setup<Id>) {
        if !self.awaits_place() || !self.is_up() {
            return;
        }
        let Some(id) = &setup.id else { return };
        // Its time began when the request arrived.
        let until = ms(if is_iwarp(id) { IWARP_WAIT_MS } else { WAIT_MS });
        if self.now() < until {
            return self.work_at(until);
        }
        self.reject_busy(setup);
        self.abort_setup(ETIMEDOUT);
    }

    /// Gives up a connection whose peer does not confirm the accept, if others wait for its place.
    /// Sleeps.
    pub(super) fn check_unconfirmed(&self, setup: &Setup<Id>) {
        let Some(by) = setup.confirm_by else { return };
        if !self.is_up() {
            return;
        }
        if self.now() < by {
            self.work_at(by);
        } else if self.is_in_the_way() {
            self.abort_setup(ETIMEDOUT);
        } else {
            self.work_in(RECHECK_MS);
        }
    }

    /// Holds an established child back from accept until data has come, or for the time of
    /// `TCP_DEFER_ACCEPT`. Process context, without the spinlocks.
    pub(super) fn defer(&self) {
        let now = self.now();
        let mut flow = self.flow.lock();
        let wait = ms(flow.options.defer_accept.saturating_mul(1000));
        flow.deferred = Some(now.saturating_add(wait));
    }

    /// Queues a child that was held back for accept, if it is time. Sleeps; under
    /// [`Connection::setup`](super::conn::Connection::setup).
    pub(super) fn check_deferred(&self) {
        let now = self.now();
        let mut flow = self.flow.lock();
        let Some(until) = flow.deferred else { return };
        // As with TCP, one that has failed meanwhile is accepted only without TCP_DEFER_ACCEPT.
        let may_fail = flow.options.defer_accept == 0;
        if flow.machine.aborted().is_some() && !may_fail {
            flow.deferred = None;
            return;
        }
        let has_data = !flow.rx.is_empty() || flow.machine.readable().is_some();
        if !has_data && !flow.machine.peer_closed() && now < until {
            drop(flow);
            return self.work_at(until);
        }
        flow.deferred = None;
        drop(flow);
        self.hand_to_backlog();
    }

    /// Rejects the peer as busy, unless it was answered already. Sleeps.
    pub(super) fn reject_busy(&self, setup: &Setup<Id>) {
        let _ = match (&setup.id, self.qp(setup)) {
            (Some(id), _) => id.reject(&REJECT_BUSY),
            (None, Some(qp)) => qp.id().reject(&REJECT_BUSY),
            (None, None) => Ok(()),
        };
    }

    /// Sets the connection up, and answers the Hello. Sleeps. Fails as [`Self::make_qp`] and
    /// [`CmId::accept`] do, and with `EPROTO` for a bad Hello.
    pub(super) fn accept(&self, setup: &mut Setup<Id>, param: PeerParam, hello: &[u8]) -> Result {
        self.make_qp(setup)?;
        let ack = self
            .with(|m| m.hello_received(hello))
            .inspect_err(|violation| pr_debug!("bad Hello: {violation:?}\n"))
            .map_err(|_| EPROTO)?;
        self.fill_first()?;
        let qp = self.qp(setup).ok_or(ENOTCONN)?;
        qp.id().accept(&self.param(setup, Some(param)), &ack)?;
        if !self.awaits_answer() {
            let by = self.now().saturating_add(ms(CONFIRM_MS));
            setup.confirm_by = Some(by);
            self.work_at(by);
        }
        Ok(())
    }
}
