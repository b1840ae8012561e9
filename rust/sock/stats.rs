// SPDX-License-Identifier: GPL-2.0

//! Counters of what connections did.

use crate::{
    net::sk_mem,
    sock::orphan, //
};
use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use kernel::{
    seq_file::SeqFile,
    seq_print, //
};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted, in the order of `struct sdp_stats`.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// The names of the fields of `struct sdp_stats`.
            pub(crate) const NAMES: &[&str] = &[$($name,)*];
        }
    };
}

counters! {
    /// Bytes copied from the program's memory.
    SentCopied = "sent_copied",
    /// Bytes sent by Data from the program's memory.
    SentDirect = "sent_direct",
    /// Bytes that the peer fetched by RDMA Read.
    SentRead = "sent_read",
    /// Bytes given to the peer by RDMA Write.
    SentWritten = "sent_written",
    /// Bytes copied to the program's memory.
    RecvCopied = "recv_copied",
    /// Bytes fetched by RDMA Read.
    RecvRead = "recv_read",
    /// Bytes that the peer gave by RDMA Write.
    RecvWritten = "recv_written",
    /// Bytes given to a pipe in their pages.
    RecvMoved = "recv_moved",
    /// SrcAvail messages sent.
    SrcAvails = "src_avails",
    /// SinkAvail messages sent.
    SinkAvails = "sink_avails",
    /// Times that the peer was asked to send copies.
    Declined = "declined",
    /// Advertised sends that the peer was too slow for.
    CancelsTimeout = "cancels_timeout",
    /// Advertised calls that a signal ended.
    CancelsSignal = "cancels_signal",
    /// Advertised calls that were not made again.
    CancelsRetry = "cancels_retry",
    /// Copies because of `RLIMIT_MEMLOCK`.
    NoMemlock = "no_memlock",
    /// Copies because pages could not be pinned.
    NoPages = "no_pages",
    /// Copies because memory could not be registered.
    NoMr = "no_mr",
    /// Pages pinned or referenced.
    PagesPinned = "pages_pinned",
    /// Pages released.
    PagesUnpinned = "pages_unpinned",
    /// Memory regions registered.
    MrsRegistered = "mrs_registered",
    /// Memory regions invalidated.
    MrsInvalidated = "mrs_invalidated",
}

/// One value for each [`Counter`].
pub(crate) struct Counters([AtomicU64; Counter::NAMES.len()]);

impl Counters {
    /// All of them at zero.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::NAMES.len()])
    }

    /// Adds to one of them. Any context.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        // CAST: The discriminants are the indexes.
        if let Some(value) = self.0.get(counter as usize) {
            value.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Payload that the user has sent.
    pub(super) fn sent(&self) -> u64 {
        use Counter::{SentCopied, SentDirect, SentRead, SentWritten};
        self.sum([SentCopied, SentDirect, SentRead, SentWritten])
    }

    /// Payload that the user has received.
    pub(super) fn received(&self) -> u64 {
        use Counter::{RecvCopied, RecvMoved, RecvRead, RecvWritten};
        self.sum([RecvCopied, RecvMoved, RecvRead, RecvWritten])
    }

    fn sum<const N: usize>(&self, counters: [Counter; N]) -> u64 {
        let values = self.read();
        let of = |counter: Counter| values.get(counter as usize).copied().unwrap_or(0);
        counters.into_iter().map(of).fold(0, u64::saturating_add)
    }

    /// Their present values. Any context.
    pub(crate) fn read(&self) -> [u64; Counter::NAMES.len()] {
        self.0.each_ref().map(|value| value.load(Ordering::Relaxed))
    }

    /// Prints them for `/proc/net/sdp_stat`.
    pub(super) fn show(&self, to: &SeqFile) {
        for (name, value) in Counter::NAMES.iter().zip(self.read()) {
            seq_print!(to, "{name} {value}\n");
        }
        // For the whole host, as are the settings that bound them.
        seq_print!(to, "memory_pages {}\n", sk_mem::charged_pages());
        seq_print!(to, "orphans {}\n", orphan::count());
    }
}
