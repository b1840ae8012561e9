// SPDX-License-Identifier: GPL-2.0

//! The number of connections that no socket has any more, which `net.sdp.max_orphans` bounds.

use crate::sock::{
    settings,
    types::Net, //
};
use core::sync::atomic::{
    AtomicUsize,
    Ordering::Relaxed, //
};

/// How many there are in all namespaces.
static ORPHANS: AtomicUsize = AtomicUsize::new(0);

/// Counts one connection that its socket, or its listener, has given up, until dropped.
pub(super) struct Orphan(());

impl Orphan {
    /// Counts one more. Any context.
    pub(super) fn new() -> Self {
        ORPHANS.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        ORPHANS.fetch_sub(1, Relaxed);
    }
}

/// How many there are. Any context.
pub(super) fn count() -> usize {
    ORPHANS.load(Relaxed)
}

/// Whether there are more than `net.sdp.max_orphans`, or would be with so many `more`. Any context.
pub(super) fn are_too_many(net: &Net, more: usize) -> bool {
    // CAST: `usize` has at least 32 bits.
    count().saturating_add(more) > settings::max_orphans(net) as usize
}
