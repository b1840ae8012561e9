// SPDX-License-Identifier: GPL-2.0

//! Charges a connection for its memory, and uncharges what it has given back.

use crate::{
    prelude::*,
    sock::{
        account::{
            Account,
            Parts, //
        },
        conn::Conn,
        conn_state::Teardown,
        output::SEND_ORDER,
        recv_buffers::FIRST,
        slow_queue,
        types::Socket, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// Pages that a connection takes before its set-up, with its cm id.
const OWN_PAGES: usize = 2;

/// Pages that are charged for written bytes from the start: enough for a small write.
const SEND_FIRST: usize = 1;

/// More than the work charges at a time: a connection that is set up, or a few large buffers.
const WORK_PAGES: usize = 128;

/// Written bytes are charged in steps of so many pages. One step stays charged while nothing waits
/// to be sent, for the chunk that the socket may keep.
pub(super) const SEND_CHARGE: usize = 1 << SEND_ORDER;

impl Conn {
    /// Applies `change` to the account, and charges the owner the difference. Process context;
    /// without [`Connection::account`](super::conn::Connection) and the locks after it. Fails with
    /// `ENOBUFS` beyond what is left in the cgroup ([`Self::reclaim`]) or of `net.sdp.mem`, and
    /// with `ENOTCONN` if nobody owns the connection; then it changes nothing. `charge_own`,
    /// `charge_first` and `charge_send` fail likewise.
    pub(super) fn charge(&self, change: impl FnOnce(&mut Parts)) -> Result {
        self.charge_in(&mut self.account.lock(), change)
    }

    fn charge_in(&self, account: &mut Account, change: impl FnOnce(&mut Parts)) -> Result {
        if !account.is_open() {
            account.open(&*self.charged_socket().ok_or(ENOTCONN)?);
        }
        account.change(change)
    }

    /// Charges for a connection of which nothing is set up.
    pub(super) fn charge_own(&self) -> Result {
        self.charge(|parts| parts.own = OWN_PAGES)
    }

    /// Charges for a connection that is set up: `fixed` pages, and its first buffers.
    pub(super) fn charge_first(&self, fixed: usize) -> Result {
        self.charge(|parts| {
            *parts = Parts {
                own: OWN_PAGES,
                fixed,
                recv: FIRST.into(),
                send: SEND_FIRST,
                regions: 0,
            };
        })?;
        self.flow.lock().send_charged = SEND_FIRST;
        Ok(())
    }

    /// The workqueue for the work, if memory of the owner's cgroup has to be reclaimed before it
    /// can charge what it needs. Any context, without
    /// [`Connection::owner`](super::conn::Connection) and the locks after it.
    pub(super) fn reclaim_queue(&self) -> Option<u64> {
        let sk = self.charged_socket()?;
        sk.needs_reclaim(WORK_PAGES)
            .then(|| slow_queue::of_cgroup(&sk))
    }

    /// Has the kernel reclaim memory of the owner's cgroup, if that has no room for what the work
    /// charges. Sleeps, perhaps for long; with no lock but the socket's.
    pub(super) fn reclaim(&self) {
        if let Some(sk) = self.charged_socket() {
            sk.reclaim(WORK_PAGES);
        }
    }

    /// [`Self::reclaim`] for a socket that is about to be charged for the connection, unless it has
    /// the same cgroup as the present one.
    pub(super) fn reclaim_for(&self, sk: &Socket) {
        if self
            .charged_socket()
            .is_some_and(|own| own.cgroup() == sk.cgroup())
        {
            return;
        }
        let pages = self.account.lock().parts().sum();
        sk.reclaim(pages);
    }

    /// Charges another socket from now on.
    pub(super) fn charge_to(&self, sk: &Socket) -> Result {
        self.account.lock().move_to(sk)
    }

    /// Makes sure that so many more written bytes are charged. Sleeps, perhaps for long; with no
    /// lock but the socket's.
    pub(super) fn charge_send(&self, bytes: usize) -> Result {
        let pages = self.copied().saturating_add(bytes).div_ceil(PAGE_SIZE);
        if pages <= self.flow.lock().send_charged {
            return Ok(());
        }
        // More than is needed, so that a stream does not come here for every chunk.
        let pages = pages.next_multiple_of(SEND_CHARGE);
        self.reclaim();
        let mut account = self.account.lock();
        self.charge_in(&mut account, |parts| parts.send = parts.send.max(pages))?;
        self.flow.lock().send_charged = account.parts().send;
        Ok(())
    }

    /// Uncharges the chunk that the socket does not keep any more. Does not fail.
    pub(super) fn uncharge_chunk(&self) {
        let mut account = self.account.lock();
        let mut parts = account.parts();
        {
            let mut flow = self.flow.lock();
            if flow.machine.unsent() == 0 && flow.machine.in_flight() == 0 {
                parts.send = parts.send.min(SEND_FIRST);
                flow.send_charged = parts.send;
            }
        }
        // To charge less cannot fail.
        let _ = account.change(|now| *now = parts);
    }

    /// Uncharges what was freed. Does not fail.
    pub(super) fn uncharge_unused(&self) {
        let mut account = self.account.lock();
        let mut parts = account.parts();
        {
            let mut flow = self.flow.lock();
            let least = match flow.teardown {
                Teardown::Done => flow.recv.pages(),
                _ => flow.recv.least_pages(),
            };
            parts.recv = parts.recv.min(least);
            if flow.machine.unsent() == 0 && flow.machine.in_flight() == 0 {
                parts.send = parts.send.min(SEND_CHARGE);
                flow.send_charged = parts.send;
            }
        }
        // To charge less cannot fail.
        let _ = account.change(|now| *now = parts);
    }
}
