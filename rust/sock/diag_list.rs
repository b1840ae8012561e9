// SPDX-License-Identifier: GPL-2.0

//! What diagnostics find in a network namespace: its connections, from their start until they are
//! torn down, and the addresses that sockets are bound to, which includes listeners.
//!
//! Lock: see Documentation/architecture.rst. Nothing is taken under [`DiagList::table`]: a reader
//! takes a reference of an entry, and looks at it after the lock was released.
//!
//! References: the table has one of each entry. Whoever lists something removes it at its end,
//! which for a connection is [`Conn::tear_down`](super::conn::Conn::tear_down). A reader may drop
//! the last one.

use crate::{
    net::diag::Visible,
    prelude::*,
    sock::types::{
        Net,
        Sdp, //
    }, //
};
use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::{
    new_mutex,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        Arc,
        Mutex, //
    },
};

/// The entries of one namespace, by numbers that are never reused.
#[pin_data]
pub(crate) struct DiagList {
    #[pin]
    table: Mutex<RBTree<u64, Arc<dyn Visible<Sdp>>>>,
}

/// The last number that was given, in any namespace.
static LAST: AtomicU64 = AtomicU64::new(0);

impl DiagList {
    /// Without entries.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_mutex!(RBTree::new(), "sdp::DiagList::table"),
        })
    }

    /// The first entry with a number of at least `from`. Sleeps.
    pub(super) fn next(&self, from: u64) -> Option<(u64, Arc<dyn Visible<Sdp>>)> {
        let table = self.table.lock();
        let cursor = table.cursor_lower_bound(&from)?;
        let (number, what) = cursor.current();
        Some((*number, what.clone()))
    }
}

/// The number under which something is listed; 0 while it is not.
pub(super) struct Number(AtomicU64);

impl Number {
    /// The number of something that is not listed.
    pub(super) const fn none() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The number. Any context.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Lists `what`, whose number this is, and which is not listed yet. Sleeps. Fails with
    /// `ENOMEM`.
    pub(super) fn list(&self, net: &Net, what: Arc<dyn Visible<Sdp>>) -> Result {
        // 64 bits do not run out.
        let number = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        let node = RBTreeNode::new(number, what, GFP_KERNEL)?;
        self.0.store(number, Relaxed);
        let former = net.own().diag_list.table.lock().insert(node);
        drop(former);
        Ok(())
    }

    /// Removes the entry, if there is one. Sleeps.
    pub(super) fn unlist(&self, net: &Net) {
        let number = self.0.swap(0, Relaxed);
        if number != 0 {
            let removed = net.own().diag_list.table.lock().remove_node(&number);
            drop(removed);
        }
    }
}
