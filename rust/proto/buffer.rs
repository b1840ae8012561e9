// SPDX-License-Identifier: GPL-2.0

//! Names of the user's buffers that take part in zero copy.

use super::sequence::reached;

/// Advertisements of each kind that this end holds at a time, whatever its peer would allow.
pub const ADVERTS: usize = 8;

/// Names a buffer between the call that hands it in and [`Finished`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BufferId(pub(super) u32);

impl BufferId {
    /// Whether the buffer was handed in with `other` or later. Few are at a time.
    pub(super) fn is_at_or_after(self, other: BufferId) -> bool {
        reached(self.0, other.0)
    }
}

/// A buffer that the peer can touch no more: its key may be invalidated and its pages let go
/// (`B-35`, `B-85`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    /// The buffer.
    pub id: BufferId,
    /// Bytes of it that were transferred.
    pub bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_buffers_wrap() {
        let (old, new) = (BufferId(u32::MAX), BufferId(0));
        assert!(new.is_at_or_after(old) && !old.is_at_or_after(new));
        assert!(old.is_at_or_after(old));
    }
}
