// SPDX-License-Identifier: GPL-2.0

//! The local address of a socket: what bind, connect or listen gave it.

use crate::{
    prelude::*,
    sock::endpoint::Bound, //
};
use core::net::SocketAddr;

/// The local address of a socket. Guarded by the socket lock.
#[derive(Default)]
pub(super) struct LocalAddr {
    /// The address, once it has a port.
    bound: Option<Bound>,
    /// connect() chose that, for its connection.
    is_autobound: bool,
    /// The address without a port, which connect() or listen() chooses.
    source: Option<SocketAddr>,
    /// Why the last bind failed: a negative errno, or 0.
    last_bind_error: c_int,
}

impl LocalAddr {
    /// The address with a port, if it has one.
    pub(super) fn bound(&self) -> Option<&Bound> {
        self.bound.as_ref()
    }

    /// As [`Self::bound`], to listen there, or to stop.
    pub(super) fn bound_mut(&mut self) -> Option<&mut Bound> {
        self.bound.as_mut()
    }

    /// The address, of port 0 where it has none yet.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.bound().map(|bound| bound.addr()).or(self.source)
    }

    /// Gives it an address with a port.
    pub(super) fn bind(&mut self, bound: Bound) -> &mut Bound {
        self.bound.insert(bound)
    }

    /// As [`Self::bind`], until [`Self::unbind_auto`].
    pub(super) fn bind_auto(&mut self, bound: Bound) -> &mut Bound {
        self.is_autobound = true;
        self.bind(bound)
    }

    /// Gives it an address without a port, or none.
    pub(super) fn set_source(&mut self, source: Option<SocketAddr>) {
        self.source = source;
    }

    /// Gives up the address that connect() chose. Sleeps.
    pub(super) fn unbind_auto(&mut self) {
        if core::mem::take(&mut self.is_autobound) {
            self.unbind();
        }
    }

    /// Gives up the address with a port, for good. Sleeps.
    pub(super) fn unbind(&mut self) {
        if let Some(bound) = self.bound.take() {
            bound.close();
        }
    }

    /// Notes how a bind ended, for `SDP_LAST_BIND_ERR`.
    pub(super) fn note_bind(&mut self, result: Result) {
        self.last_bind_error = match result {
            Ok(()) => 0,
            // For want of a device.
            Err(e) if e == ENODEV => ENOENT.to_errno(),
            Err(e) => e.to_errno(),
        };
    }

    /// Why the last bind failed: a negative errno, or 0. `ENOENT` where it was for want of a
    /// device.
    pub(super) fn last_bind_error(&self) -> c_int {
        self.last_bind_error
    }
}
