// SPDX-License-Identifier: GPL-2.0

//! What a non-blocking call left behind with `SDP_ZCOPY_RETRY`: a buffer that the fabric uses until the
//! program makes the call again.

use crate::mm::pages::current_mm;

/// How long the peer may take to let go what is taken back, in milliseconds. It answers without
/// its user, once the RDMA Reads that it has in flight are over.
pub(super) const RETURN_MS: u32 = 30_000;

/// A buffer that was left with the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whose memory it is, and where that starts.
    pub(super) mm: usize,
    pub(super) addr: usize,
    /// The bytes from there on that the call was about.
    pub(super) len: usize,
    /// How many of them were lent, from the first on.
    pub(super) lent: usize,
}

impl Kept {
    /// Whether a call about so many bytes from there on is the same call.
    pub(super) fn is_of(&self, addr: usize, len: usize) -> bool {
        (self.mm, self.addr, self.len) == (current_mm(), addr, len)
    }
}
