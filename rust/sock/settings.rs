// SPDX-License-Identifier: GPL-2.0

//! `net.sdp.*`: what each network namespace can tune, and what the host can. `mem` is in
//! [`crate::net::account`].

use crate::{
    net::{
        namespace::Net,
        sysctl::{
            self,
            Directory,
            Knob,
            Knobs, //
        },
    },
    prelude::*, //
};
use kernel::{
    page::PAGE_SIZE,
    str::CStr, //
};

/// Where each knob stands in [`KNOBS`].
const RECV_BUFFER_SIZE: usize = 0;
const RECV_BUFFERS: usize = 1;
const FIN_TIMEOUT: usize = 2;
const ZCOPY_THRESHOLD: usize = 3;
const MAX_ORPHANS: usize = 4;
const IDLE_TIMEOUT: usize = 5;

/// How many knobs there are.
const COUNT: usize = 6;

/// The `net.sdp` directory.
pub(crate) struct Sdp;

/// `net.sdp` in every namespace, until dropped.
pub(crate) type Registration = sysctl::Registration<Sdp, COUNT>;

static KNOBS: Knobs<Sdp, COUNT> = Knobs::new([
    Knob {
        name: c"recv_buffer_size",
        default: 16384,
        min: 4096,
        max: 65536,
        has_off: false,
        of_host: false,
    },
    Knob {
        name: c"recv_buffers",
        default: 30,
        min: 4,
        max: 1024,
        has_off: false,
        of_host: false,
    },
    Knob {
        name: c"fin_timeout",
        default: 60,
        min: 1,
        max: 3600,
        has_off: false,
        of_host: false,
    },
    Knob {
        name: c"zcopy_threshold",
        default: 65536,
        min: PAGE_SIZE as i32,
        max: 1 << 30,
        has_off: true,
        of_host: false,
    },
    Knob {
        name: c"max_orphans",
        default: 4096,
        min: 0,
        max: i32::MAX,
        has_off: false,
        of_host: true,
    },
    Knob {
        name: c"idle_timeout",
        default: 60,
        min: 1,
        max: 3600,
        has_off: false,
        of_host: false,
    },
]);

impl Directory<COUNT> for Sdp {
    const PATH: &'static CStr = c"net/sdp";

    fn knobs() -> &'static Knobs<Self, COUNT> {
        &KNOBS
    }
}

fn get(net: &Net, at: usize) -> u32 {
    // No knob goes below 0.
    KNOBS.get(net, at).unsigned_abs()
}

/// The same, but no more than the host's own namespace has.
fn get_bounded(net: &Net, at: usize) -> u32 {
    get(net, at).min(get(net.host(), at))
}

/// The most bytes of one receive buffer, header included; used for connections made from now on.
pub(super) fn recv_buffer_size(net: &Net) -> u32 {
    get_bounded(net, RECV_BUFFER_SIZE)
}

/// The most receive buffers of one connection; used for connections made from now on.
pub(super) fn recv_buffers(net: &Net) -> u32 {
    get_bounded(net, RECV_BUFFERS)
}

/// How many connections of closed sockets there may be.
pub(super) fn max_orphans(net: &Net) -> u32 {
    get(net, MAX_ORPHANS)
}

/// How long a closed socket waits for its peer without progress, in milliseconds.
pub(super) fn fin_timeout_ms(net: &Net) -> u32 {
    get(net, FIN_TIMEOUT).saturating_mul(1000)
}

/// After how long an idle connection gives memory back, in milliseconds.
pub(super) fn idle_timeout_ms(net: &Net) -> u32 {
    get(net, IDLE_TIMEOUT).saturating_mul(1000)
}

/// The least call that moves its bytes without a copy, or 0 for none; what a new socket has.
pub(super) fn zcopy_threshold(net: &Net) -> u32 {
    get(net, ZCOPY_THRESHOLD)
}

/// The same as a program sets it for a socket, within the same bounds. Fails with `EINVAL`.
pub(super) fn check_zcopy_threshold(value: c_int) -> Result<u32> {
    if KNOBS.allows(ZCOPY_THRESHOLD, value) {
        Ok(value.unsigned_abs())
    } else {
        Err(EINVAL)
    }
}
