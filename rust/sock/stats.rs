// SPDX-License-Identifier: GPL-2.0

//! Counters of what connections did.

use crate::{
    net::{
        sk_mem,
        uapi::sdp_stats, //
    },
    sock::orphan, //
};
use core::{
    mem::offset_of,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    }, //
};
use kernel::{
    seq_file::SeqFile,
    seq_print, //
};

macro_rules! counters {
    ($($variant:ident = $field:ident,)*) => {
        /// The fields of `struct sdp_stats`, which `include/uapi/linux/sdp.h` describes, in order.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub(crate) enum Counter {
            $($variant,)*
        }

        impl Counter {
            /// The names of the fields.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($field),)*];
        }

        $(const _: () = assert!(
            Counter::$variant as usize * size_of::<u64>() == offset_of!(sdp_stats, $field)
        );)*
    };
}

counters! {
    SentCopied = sent_copied,
    SentDirect = sent_direct,
    SentRead = sent_read,
    SentWritten = sent_written,
    RecvCopied = recv_copied,
    RecvRead = recv_read,
    RecvWritten = recv_written,
    RecvMoved = recv_moved,
    SrcAvails = src_avails,
    SinkAvails = sink_avails,
    Declined = declined,
    CancelsTimeout = cancels_timeout,
    CancelsSignal = cancels_signal,
    CancelsRetry = cancels_retry,
    NoMemlock = no_memlock,
    NoPages = no_pages,
    NoMr = no_mr,
    PagesPinned = pages_pinned,
    PagesUnpinned = pages_unpinned,
    MrsRegistered = mrs_registered,
    MrsInvalidated = mrs_invalidated,
}

const _: () = assert!(size_of::<sdp_stats>() == size_of::<Counters>());

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
