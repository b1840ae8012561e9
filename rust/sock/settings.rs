// SPDX-License-Identifier: GPL-2.0

//! `net.sdp.*`: the settings of each network namespace, and those of the host; `mem` is in
//! [`crate::net::sk_mem`]. They may be read in any context.

use crate::{
    net::{
        sk_mem,
        sysctl::{
            Knob,
            OfHost, //
        }, //
    },
    prelude::*,
    sock::types::Net, //
};
use core::sync::atomic::AtomicI32;
use kernel::{
    page::PAGE_SIZE,
    str::CStr, //
};

/// `net.sdp.max_orphans`.
static MAX_ORPHANS: AtomicI32 = AtomicI32::new(0);

/// Pages that a connection takes which no socket has any more, at most, unless it has grown.
const ORPHAN_PAGES: u64 = 16;

macro_rules! knobs {
    ($($name:ident = $knob:expr,)*) => {
        /// Where each knob stands in [`KNOBS`].
        #[derive(Clone, Copy)]
        enum At {
            $($name,)*
        }

        /// The knobs of `net.sdp`.
        pub(super) static KNOBS: [Knob; [$(At::$name,)*].len()] = [$($knob,)*];
    };
}

knobs! {
    RecvBufferSize = Knob {
        name: Some(c"recv_buffer_size"),
        default: 16384,
        min: 4096,
        max: 65536,
        allows_zero: false,
        of_host: None,
    },
    RecvBuffers = Knob {
        name: Some(c"recv_buffers"),
        default: 30,
        min: 4,
        max: 1024,
        allows_zero: false,
        of_host: None,
    },
    FinTimeout = Knob {
        name: Some(c"fin_timeout"),
        default: 60,
        min: 1,
        max: 3600,
        allows_zero: false,
        of_host: None,
    },
    ZcopyThreshold = Knob {
        name: Some(c"zcopy_threshold"),
        default: 65536,
        min: PAGE_SIZE as i32,
        max: 1 << 30,
        allows_zero: true,
        of_host: None,
    },
    MaxOrphans = Knob {
        name: Some(c"max_orphans"),
        default: 0,
        min: 0,
        max: i32::MAX,
        allows_zero: false,
        of_host: Some(OfHost {
            value: &MAX_ORPHANS,
            default: default_orphans,
        }),
    },
    IdleTimeout = Knob {
        name: Some(c"idle_timeout"),
        default: 60,
        min: 1,
        max: 3600,
        allows_zero: false,
        of_host: None,
    },
    RmemMin = rmem(Some(c"rmem"), 16384),
    RmemDefault = rmem(None, 131_072),
    RmemMax = rmem(None, 491_520),
    AckTimeout = Knob {
        name: Some(c"ack_timeout"),
        default: 18,
        min: 8,
        max: 31,
        allows_zero: true,
        of_host: None,
    },
}

/// One of the three integers of `net.sdp.rmem`, in bytes.
const fn rmem(name: Option<&'static CStr>, default: i32) -> Knob {
    Knob {
        name,
        default,
        min: PAGE_SIZE as i32,
        max: 1 << 30,
        allows_zero: false,
        of_host: None,
    }
}

/// What `net.sdp.max_orphans` starts with: so many that they take a quarter of what `net.sdp.mem`
/// starts with.
fn default_orphans() -> i32 {
    let [_, _, pages] = sk_mem::default_mem();
    i32::try_from(pages / 4 / ORPHAN_PAGES).unwrap_or(i32::MAX)
}

fn get(net: &Net, at: At) -> u32 {
    // No knob goes below 0.
    // CAST: The discriminants are the indexes.
    net.setting(at as usize).unsigned_abs()
}

/// As [`get`], but no more than the setting of the initial namespace.
fn get_bounded(net: &Net, at: At) -> u32 {
    get(net, at).min(get(net.host(), at))
}

/// The most bytes of one receive buffer, header included; for connections made from now on.
pub(super) fn recv_buffer_size(net: &Net) -> u32 {
    get_bounded(net, At::RecvBufferSize)
}

/// The most receive buffers of one connection; for connections made from now on.
pub(super) fn recv_buffers(net: &Net) -> u32 {
    get_bounded(net, At::RecvBuffers)
}

/// Bytes that the receive buffers of a connection may keep under memory pressure, or when it is
/// idle.
pub(super) fn rmem_min(net: &Net) -> u32 {
    get_bounded(net, At::RmemMin)
}

/// `SO_RCVBUF` of a new socket, in bytes.
pub(super) fn rmem_default(net: &Net) -> u32 {
    get_bounded(net, At::RmemDefault).min(rmem_max(net))
}

/// How far `SO_RCVBUF` grows if the program has not set it, in bytes.
pub(super) fn rmem_max(net: &Net) -> u32 {
    get_bounded(net, At::RmemMax)
}

/// How many connections of closed sockets there may be, in all namespaces.
pub(super) fn max_orphans(net: &Net) -> u32 {
    get(net, At::MaxOrphans)
}

/// How long the connection of a closed socket waits for its peer without progress, in milliseconds.
pub(super) fn fin_timeout_ms(net: &Net) -> u32 {
    get_bounded(net, At::FinTimeout).saturating_mul(1000)
}

/// After how long an idle connection gives memory back, in milliseconds.
pub(super) fn idle_timeout_ms(net: &Net) -> u32 {
    get(net, At::IdleTimeout).saturating_mul(1000)
}

/// How long a device waits for the answer to a packet: 4.096 us times 2 to this power, or for 0
/// what the CM chooses; for connections made from now on.
pub(super) fn ack_timeout(net: &Net) -> u8 {
    u8::try_from(get(net, At::AckTimeout)).unwrap_or(0)
}

/// The least call that moves its bytes without a copy, in bytes, or 0 for none; for new sockets.
pub(super) fn zcopy_threshold(net: &Net) -> u32 {
    get(net, At::ZcopyThreshold)
}

/// Checks such a threshold that a program sets for a socket, against the same bounds. Fails with
/// `EINVAL`.
pub(super) fn check_zcopy_threshold(value: c_int) -> Result<u32> {
    // CAST: As above.
    let knob = KNOBS.get(At::ZcopyThreshold as usize);
    if knob.is_some_and(|knob| knob.allows(value)) {
        Ok(value.unsigned_abs())
    } else {
        Err(EINVAL)
    }
}
