// SPDX-License-Identifier: GPL-2.0

//! The buffer that a non-blocking call leaves with the socket (`SDP_ZCOPY_RETRY`), which the fabric
//! uses until the program makes the call again.

use kernel::{
    mm::Mm,
    sync::aref::ARef, //
};

/// A buffer that was left with the socket.
#[derive(Clone)]
pub(super) struct RetryBuffer {
    /// The address space of the process. The reference keeps another from being mistaken for it.
    mm: Option<ARef<Mm>>,
    /// Where the buffer starts in that.
    addr: usize,
    /// The length of the call, in bytes.
    len: usize,
    /// How many of these bytes were lent, from the first on.
    pub(super) lent: usize,
}

impl RetryBuffer {
    /// What a call of the current process leaves, of `len` bytes at `addr`, of which the first
    /// `lent` are lent.
    pub(super) fn new(addr: usize, len: usize, lent: usize) -> Self {
        Self {
            mm: kernel::current!().mm().map(|mm| (&**mm).into()),
            addr,
            len,
            lent,
        }
    }

    /// Whether a call of the current process, of `len` bytes at `addr`, is the same call.
    pub(super) fn is_of(&self, addr: usize, len: usize) -> bool {
        let own = |mm: &ARef<Mm>| {
            kernel::current!()
                .mm()
                .is_some_and(|current| core::ptr::eq(&**current, &**mm))
        };
        self.mm.as_ref().is_some_and(own) && (self.addr, self.len) == (addr, len)
    }

    /// Whether no process has the address space any more, so that nobody can make the call again.
    /// Sleeps.
    pub(super) fn is_abandoned(&self) -> bool {
        self.mm
            .as_ref()
            .is_none_or(|mm| mm.mmget_not_zero().is_none())
    }
}
