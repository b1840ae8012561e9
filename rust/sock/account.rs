// SPDX-License-Identifier: GPL-2.0

//! The account of a connection: what it is charged for.

use crate::{
    net::sk_mem::Charge,
    prelude::*,
    sock::types::{
        Sdp,
        Socket, //
    },
};

/// The kernel memory that a connection uses, in pages.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts {
    /// For its whole life: the connection itself and its cm id.
    pub(super) own: usize,
    /// From set-up to teardown: QP, queues, tables.
    pub(super) fixed: usize,
    /// Receive buffers.
    pub(super) recv: usize,
    /// Chunks with written bytes that have not reached the peer.
    pub(super) send: usize,
    /// Memory regions.
    pub(super) regions: usize,
}

impl Parts {
    /// All of them.
    pub(super) fn sum(self) -> usize {
        [self.own, self.fixed, self.recv, self.send, self.regions]
            .into_iter()
            .fold(0, usize::saturating_add)
    }
}

/// The account of a connection.
#[derive(Default)]
pub(super) struct Account {
    charge: Option<Charge<Sdp>>,
    parts: Parts,
}

impl Account {
    /// Whether a socket is charged.
    pub(super) fn is_open(&self) -> bool {
        self.charge.is_some()
    }

    /// Charges `sk` from now on.
    pub(super) fn open(&mut self, sk: &Socket) {
        self.charge = Some(Charge::new(sk));
    }

    /// What is charged.
    pub(super) fn parts(&self) -> Parts {
        self.parts
    }

    /// Applies `change`, and charges the difference. Any context. Fails with `ENOBUFS` beyond
    /// `memory.max` or `net.sdp.mem`, and with `ENOTCONN` where no socket is charged; then it
    /// changes nothing.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Parts)) -> Result {
        let mut parts = self.parts;
        change(&mut parts);
        self.charge.as_mut().ok_or(ENOTCONN)?.set(parts.sum())?;
        self.parts = parts;
        Ok(())
    }

    /// Charges another socket instead. Any context. Fails with `ENOBUFS`, and then changes nothing.
    pub(super) fn move_to(&mut self, sk: &Socket) -> Result {
        match &mut self.charge {
            Some(charge) => charge.move_to(sk),
            None => Ok(()),
        }
    }
}
