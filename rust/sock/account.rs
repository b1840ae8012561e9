// SPDX-License-Identifier: GPL-2.0

//! What a connection is charged for.

use crate::{
    net::account::Charge,
    prelude::*,
    sock::{
        Sdp,
        Socket, //
    },
};

/// What a connection makes the kernel hold, in pages.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts {
    /// From set-up to teardown: QP, queues, tables.
    pub(super) fixed: usize,
    /// Receive buffers.
    pub(super) recv: usize,
    /// Written bytes that have not reached the peer.
    pub(super) send: usize,
    /// Memory regions.
    pub(super) regions: usize,
}

impl Parts {
    fn sum(self) -> usize {
        [self.fixed, self.recv, self.send, self.regions]
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
    /// Whether somebody is charged.
    pub(super) fn is_open(&self) -> bool {
        self.charge.is_some()
    }

    /// From now on `sk` is charged.
    pub(super) fn open(&mut self, sk: &Socket) {
        self.charge = Some(Charge::new(sk));
    }

    /// What is charged.
    pub(super) fn parts(&self) -> Parts {
        self.parts
    }

    /// Charges what `change` makes of it. Sleeps. Fails with `ENOBUFS`, and changes nothing, where that is more
    /// than there may be; with `ENOTCONN` where nobody can be charged.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Parts)) -> Result {
        let mut parts = self.parts;
        change(&mut parts);
        self.charge.as_mut().ok_or(ENOTCONN)?.set(parts.sum())?;
        self.parts = parts;
        Ok(())
    }

    /// Charges another socket instead. Sleeps. Fails with `ENOBUFS`, and changes nothing.
    pub(super) fn move_to(&mut self, sk: &Socket) -> Result {
        match &mut self.charge {
            Some(charge) => charge.move_to(sk),
            None => Ok(()),
        }
    }
}
