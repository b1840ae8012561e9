// SPDX-License-Identifier: GPL-2.0

//! Connections of closed sockets, which the host bounds.

use crate::{
    net::namespace::Net,
    sock::settings, //
};
use core::sync::atomic::{
    AtomicUsize,
    Ordering::Relaxed, //
};

/// Connections of closed sockets.
static ORPHANS: AtomicUsize = AtomicUsize::new(0);

/// Counts a connection of a closed socket.
pub(super) struct Orphan(());

impl Orphan {
    /// Counts one more, unless there are `net.sdp.max_orphans` already.
    pub(super) fn new(net: &Net) -> Option<Self> {
        // CAST: `usize` has at least 32 bits.
        let most = settings::max_orphans(net) as usize;
        // Dropped, and so not counted, where there are too many.
        let orphan = Self(());
        (ORPHANS.fetch_add(1, Relaxed) < most).then_some(orphan)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        ORPHANS.fetch_sub(1, Relaxed);
    }
}

/// How many connections of closed sockets there are. Any context.
pub(super) fn count() -> usize {
    ORPHANS.load(Relaxed)
}
