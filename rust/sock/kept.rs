// SPDX-License-Identifier: GPL-2.0

//! The buffer that a non-blocking call leaves with the socket (`SDP_ZCOPY_RETRY`), which the fabric
//! uses until the program makes the call again.

use crate::mm::pages::current_mm;

/// How long the peer may take to give up memory that is taken back, in milliseconds. It answers
/// without its program, once the RDMA Reads that it has in flight are over.
pub(super) const RETURN_MS: u32 = 30_000;

/// A buffer that was left with the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// Identifies the address space of the program.
    pub(super) mm: usize,
    /// Where the buffer starts in that.
    pub(super) addr: usize,
    /// The length of the call, in bytes.
    pub(super) len: usize,
    /// How many of these bytes were lent, from the first on.
    pub(super) lent: usize,
}

impl Kept {
    /// Whether a call of the current task, of `len` bytes at `addr`, is the same call.
    pub(super) fn is_of(&self, addr: usize, len: usize) -> bool {
        (self.mm, self.addr, self.len) == (current_mm(), addr, len)
    }
}
