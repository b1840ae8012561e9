// SPDX-License-Identifier: GPL-2.0

//! A turn, which serialises calls on a socket that sleep without its lock.

/// Whether one of the calls sleeps so, or is about to.
#[derive(Default)]
pub(super) struct Turn {
    taken: bool,
    /// Somebody has asked meanwhile, and is to be woken when the turn ends.
    wanted: bool,
}

impl Turn {
    /// Whether nobody has the turn. If somebody has, the caller is woken when that ends.
    pub(super) fn ask(&mut self) -> bool {
        self.wanted |= self.taken;
        !self.taken
    }

    /// Takes the turn, which is free.
    pub(super) fn take(&mut self) {
        self.taken = true;
    }

    /// Ends the turn. Tells whether somebody is to be woken.
    #[must_use]
    pub(super) fn end(&mut self) -> bool {
        let wanted = self.wanted;
        *self = Self::default();
        wanted
    }
}
