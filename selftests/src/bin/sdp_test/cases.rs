// SPDX-License-Identifier: GPL-2.0

//! All cases, a file for each kind.

use crate::harness::Case;

mod accept;
mod alive;
mod bind;
mod cgroup_bpf;
mod charge;
mod connect;
mod device;
mod flags;
mod handshake;
mod ipv6;
mod loopback;
mod netns;
mod no_memory;
mod oob;
mod options;
mod poll;
mod process;
mod seen;
mod shutdown;
mod sigio;
mod socket;
mod splice;
mod state;
mod strict;
mod timeout;
mod transfer;
mod uring;
mod wire;
mod zerocopy_async;
mod zerocopy_race;
mod zerocopy_recv;
mod zerocopy_send;
mod zerocopy_wire;

/// In the order in which they run: what later ones need comes first.
pub(crate) fn all() -> Vec<&'static Case> {
    [
        socket::CASES,
        bind::CASES,
        state::CASES,
        connect::CASES,
        loopback::CASES,
        ipv6::CASES,
        accept::CASES,
        transfer::CASES,
        flags::CASES,
        oob::CASES,
        options::CASES,
        shutdown::CASES,
        timeout::CASES,
        alive::CASES,
        poll::CASES,
        sigio::CASES,
        process::CASES,
        seen::CASES,
        splice::CASES,
        uring::CASES,
        zerocopy_send::CASES,
        zerocopy_recv::CASES,
        zerocopy_async::CASES,
        zerocopy_race::CASES,
        handshake::CASES,
        wire::CASES,
        zerocopy_wire::CASES,
        strict::CASES,
        netns::CASES,
        charge::CASES,
        cgroup_bpf::CASES,
        no_memory::CASES,
        device::CASES,
    ]
    .into_iter()
    .flatten()
    .collect()
}
