// SPDX-License-Identifier: GPL-2.0

//! What the protocol keeps in each network namespace.

use crate::{
    net::{
        diag::Visible,
        pernet,
        sysctl::Knob, //
    },
    prelude::*,
    sock::{
        diag_list::DiagList,
        ports::Ports,
        settings,
        stats::Counters,
        types::Sdp, //
    }, //
};
use kernel::{
    seq_file::SeqFile,
    str::CStr,
    sync::Arc, //
};

/// What a namespace has, beside its settings.
#[pin_data]
pub(crate) struct SdpNet {
    /// The counters of all its connections, those that have ended included.
    pub(super) stats: Counters,
    #[pin]
    pub(super) diag_list: DiagList,
    #[pin]
    pub(super) ports: Ports,
}

impl pernet::PerNet<Sdp> for SdpNet {
    const SOCKETS: &'static CStr = c"sdp";
    const COUNTERS: &'static CStr = c"sdp_stat";
    const SETTINGS: &'static CStr = c"net/sdp";

    fn knobs() -> &'static [Knob] {
        &settings::KNOBS
    }

    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            stats: Counters::new(),
            diag_list <- DiagList::new(),
            ports <- Ports::new(),
        }? Error)
    }

    fn next(&self, from: u64) -> Option<(u64, Arc<dyn Visible<Sdp>>)> {
        self.diag_list.next(from)
    }

    fn show_counters(&self, to: &SeqFile) {
        self.stats.show(to);
    }
}
