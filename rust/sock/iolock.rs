// SPDX-License-Identifier: GPL-2.0

//! The I/O lock of a direction, which serialises calls on a socket that sleep without its lock.
//!
//! It is a flag under [`super::poll_state`], like the `iolock` of a Unix socket, but waited for as
//! data is: without the socket lock, and only as long as the call may wait.

/// Whether one of the calls sleeps so, or is about to.
#[derive(Default)]
pub(super) struct IoLock {
    is_held: bool,
    /// Somebody has found it held, and is to be woken when it is released.
    is_wanted: bool,
}

impl IoLock {
    /// Whether nobody holds it. If somebody does, the caller is woken when it is released.
    pub(super) fn is_free(&mut self) -> bool {
        self.is_wanted |= self.is_held;
        !self.is_held
    }

    /// Takes it, which is free.
    pub(super) fn acquire(&mut self) {
        self.is_held = true;
    }

    /// Releases it. Returns whether somebody is to be woken.
    #[must_use]
    pub(super) fn release(&mut self) -> bool {
        core::mem::take(self).is_wanted
    }
}
