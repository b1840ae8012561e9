// SPDX-License-Identifier: GPL-2.0

//! What a connection is charged, and what it gives back.

use crate::{
    prelude::*,
    sock::{
        account::{
            Account,
            Parts, //
        },
        conn::{
            ms,
            Conn,
            Owner, //
        },
        recv_buffers::FIRST,
        ring::Ring,
        settings,
        transmit::{
            FIRST_PIECES,
            SEND_ORDER, //
        },
        Socket, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// Pages that are charged for written bytes from the start: a small write takes no more.
const SEND_FIRST: usize = 1;

/// Pages in which more is charged; so many stay so when nothing waits, since the socket may keep a
/// chunk.
pub(super) const SEND_CHARGE: usize = 1 << SEND_ORDER;

impl Conn {
    /// Charges the owner what `change` makes of the account. Sleeps; without the spinlocks. Fails
    /// with `ENOBUFS`, and changes nothing, where that is more than there may be; with `ENOTCONN`
    /// where nobody owns it.
    pub(super) fn charge(&self, change: impl FnOnce(&mut Parts)) -> Result {
        self.charge_in(&mut self.account.lock(), change)
    }

    fn charge_in(&self, account: &mut Account, change: impl FnOnce(&mut Parts)) -> Result {
        if !account.is_open() {
            let sk = match &*self.owner.lock() {
                Owner::Socket(sk) => Some(sk.clone()),
                Owner::Listener(parent, _) => parent.socket(),
                Owner::Nobody => None,
            };
            account.open(&*sk.ok_or(ENOTCONN)?);
        }
        account.change(change)
    }

    /// Charges what a connection takes from the start, `fixed` pages of that for all but its
    /// buffers. Sleeps. Fails with `ENOBUFS`.
    pub(super) fn charge_first(&self, fixed: usize) -> Result {
        self.charge(|parts| {
            *parts = Parts {
                fixed,
                recv: FIRST.into(),
                send: SEND_FIRST,
                regions: 0,
            };
        })?;
        self.flow.lock().send_charged = SEND_FIRST;
        Ok(())
    }

    /// Charges another socket from now on. Sleeps. Fails with `ENOBUFS`, and changes nothing.
    pub(super) fn charge_to(&self, sk: &Socket) -> Result {
        self.account.lock().move_to(sk)
    }

    /// Makes sure that so many more written bytes are charged. Sleeps. Fails with `ENOBUFS`.
    pub(super) fn charge_send(&self, bytes: usize) -> Result {
        let pages = self.copied().saturating_add(bytes).div_ceil(PAGE_SIZE);
        if pages <= self.flow.lock().send_charged {
            return Ok(());
        }
        // More than is needed, so that a stream does not come here for every chunk.
        let pages = pages.next_multiple_of(SEND_CHARGE);
        let mut account = self.account.lock();
        self.charge_in(&mut account, |parts| parts.send = parts.send.max(pages))?;
        self.flow.lock().send_charged = account.parts().send;
        Ok(())
    }

    /// Gives up what is charged for nothing. Sleeps.
    pub(super) fn settle_account(&self) {
        let mut account = self.account.lock();
        let mut parts = account.parts();
        {
            let mut flow = self.flow.lock();
            parts.recv = parts.recv.min(flow.recv.pages());
            if flow.machine.unsent() == 0 && flow.machine.in_flight() == 0 {
                parts.send = parts.send.min(SEND_CHARGE);
                flow.send_charged = parts.send;
            }
        }
        // Less can always be charged.
        let _ = account.change(|now| *now = parts);
    }

    /// Has a connection that has grown go back to what it took at first, when no more messages came
    /// for as long as `net.sdp.idle_timeout` says than it has receive buffers. In the work.
    pub(super) fn check_idle(&self) {
        let now = self.now();
        let (at, idle) = {
            let long = self.post.lock().tx.capacity() > FIRST_PIECES;
            let flow = &mut *self.flow.lock();
            if !long && !flow.recv.have_grown() {
                flow.idle_at = None;
                return;
            }
            match flow.idle_at {
                Some(at) if now < at => (at, false),
                before => {
                    let at = now.saturating_add(self.idle_timeout());
                    flow.idle_at = Some(at);
                    (at, flow.recv.take_unused() && before.is_some())
                }
            }
        };
        if idle {
            self.shrink();
        }
        self.work_at(at);
    }

    /// Gives up what an idle connection does not need. Sleeps.
    fn shrink(&self) {
        self.flow.lock().recv.shrink();
        self.no_more_buffers();
        let Ok(mut spare) = Ring::new(FIRST_PIECES) else {
            return;
        };
        {
            let tx = &mut self.post.lock().tx;
            // Who was given a place has one then, too.
            if tx.is_empty() && tx.capacity() > FIRST_PIECES {
                core::mem::swap(tx, &mut spare);
            }
        }
        drop(spare);
    }

    /// `net.sdp.idle_timeout`, in nanoseconds.
    pub(super) fn idle_timeout(&self) -> u64 {
        ms(settings::idle_timeout_ms(&self.net))
    }
}
