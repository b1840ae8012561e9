// SPDX-License-Identifier: GPL-2.0

//! The options at TCP's level, and `SO_KEEPALIVE`, which children of a listener inherit.

use crate::{
    net::{
        namespace::Net,
        uapi::TCP_HINTS, //
    },
    prelude::*,
    proto::Machine,
    sock::timeouts::Timeouts, //
};

/// What `TCP_CONGESTION` gives unless it was set: the fabric controls congestion.
pub(super) const CONGESTION: [u8; 16] = *b"rdma\0\0\0\0\0\0\0\0\0\0\0\0";

/// The options of a socket, which the children of a listener inherit.
#[derive(Clone, Copy, Default)]
pub(super) struct ConnOptions {
    /// `TCP_NODELAY`.
    pub(super) nodelay: bool,
    /// `TCP_CORK`.
    pub(super) cork: bool,
    /// `SDP_ZCOPY_THRESH`: the length of a call from which on its bytes move without a copy, or 0
    /// for none.
    pub(super) zcopy_threshold: u32,
    /// `SDP_ZCOPY_RETRY`: a call that would block may leave its buffer with the socket.
    pub(super) zcopy_retry: bool,
    /// How long the peer may be silent.
    pub(super) timeouts: Timeouts,
    /// `TCP_MAXSEG`: the most payload of a message in bytes, or 0 for what the peer takes.
    pub(super) max_seg: u32,
    /// `TCP_LINGER2`: how long a closed socket waits for its peer, in seconds; 0 for
    /// `net.sdp.fin_timeout`, and negative for not at all.
    pub(super) linger2: c_int,
    /// `TCP_DEFER_ACCEPT`: how long a connection waits for data before it can be accepted, in
    /// seconds.
    pub(super) defer_accept: u32,
    /// `TCP_NOTSENT_LOWAT` in bytes, or 0 for none.
    pub(super) notsent_lowat: u32,
    /// `TCP_INQ`: a receive reports how much is left.
    pub(super) inq: bool,
    /// `TCP_FASTOPEN`. As between TCP peers without it, no data goes with a request.
    pub(super) fastopen: c_int,
    /// `TCP_FASTOPEN_CONNECT`.
    pub(super) fastopen_connect: bool,
    /// `TCP_FASTOPEN_NO_COOKIE`.
    pub(super) fastopen_no_cookie: bool,
    /// `TCP_CONGESTION`, which the program gets again; all zeroes before it is set.
    pub(super) congestion: [u8; 16],
    /// `TCP_WINDOW_CLAMP`: the most bytes of receive buffers, or 0 for what `SO_RCVBUF` says.
    pub(super) window_clamp: u32,
    /// Those of [`TCP_HINTS`] that were set.
    pub(super) hints: [Option<c_int>; TCP_HINTS.len()],
}

impl ConnOptions {
    /// Sets them in the machine of a connection in `net`. Any context.
    pub(super) fn apply(&self, machine: &mut Machine, net: &Net) {
        self.timeouts.apply(machine, net);
        machine.set_nodelay(self.nodelay);
        machine.set_cork(self.cork);
        machine.set_max_payload(match self.max_seg {
            0 => u32::MAX,
            bytes => bytes,
        });
        machine.set_zero_copy(self.zcopy_threshold > 0);
        machine.set_pipeline_hint(self.zcopy_threshold > 0);
    }

    /// The name that `TCP_CONGESTION` gives.
    pub(super) fn congestion(&self) -> [u8; 16] {
        match self.congestion {
            [0, ..] => CONGESTION,
            name => name,
        }
    }

    /// `limit` bytes of receive buffers, or fewer.
    pub(super) fn clamp(&self, limit: usize) -> usize {
        match self.window_clamp {
            0 => limit,
            // CAST: `usize` has at least 32 bits.
            bytes => limit.min(bytes as usize),
        }
    }

    /// What an accepted socket has of those of its connection.
    pub(super) fn accepted(self) -> Self {
        Self {
            defer_accept: 0,
            fastopen: 0,
            fastopen_connect: false,
            ..self
        }
    }

    /// From how many bytes on that are not on their way the socket takes no more.
    pub(super) fn notsent_limit(&self) -> usize {
        match self.notsent_lowat {
            0 => usize::MAX,
            // CAST: `usize` has at least 32 bits.
            bytes => bytes as usize,
        }
    }
}
