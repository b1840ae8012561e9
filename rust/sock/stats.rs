// SPDX-License-Identifier: GPL-2.0

//! Counters of what connections did.

use crate::{
    net::{
        account,
        namespace::Net,
        proc::{
            self,
            Files,
            Show, //
        },
    },
    sock::orphan, //
};
use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use kernel::{
    seq_file::SeqFile,
    seq_print,
    str::CStr, //
};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted, in the order of `struct sdp_stats`.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// Their names, those of the fields of `struct sdp_stats`.
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
    /// Bytes whose pages went to a pipe.
    RecvMoved = "recv_moved",
    /// SrcAvail messages sent.
    SrcAvails = "src_avails",
    /// SinkAvail messages sent.
    SinkAvails = "sink_avails",
    /// Times that the peer was asked for copies.
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
    /// Pages let go.
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

    /// All of them, as they are now.
    pub(crate) fn read(&self) -> [u64; Counter::NAMES.len()] {
        self.0.each_ref().map(|value| value.load(Ordering::Relaxed))
    }
}

static FILES: Files<Counters> = Files::new();

/// `/proc/net/sdp_stat` in every namespace, until dropped.
pub(crate) type Registration = proc::Registration<Counters>;

/// What all connections of `net` did, also those that are no more. Any context.
pub(super) fn of(net: &Net) -> &Counters {
    FILES.get(net)
}

impl Show for Counters {
    const NAME: &'static CStr = c"sdp_stat";

    fn files() -> &'static Files<Self> {
        &FILES
    }

    fn new() -> Self {
        Self::new()
    }

    fn show(&self, to: &SeqFile) {
        for (name, value) in Counter::NAMES.iter().zip(self.read()) {
            seq_print!(to, "{name} {value}\n");
        }
        // Of the whole host, whose limits they meet.
        seq_print!(to, "memory_pages {}\n", account::charged_pages());
        seq_print!(to, "orphans {}\n", orphan::count());
    }
}
