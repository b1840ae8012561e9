// SPDX-License-Identifier: GPL-2.0

//! A short queue in place.

/// How many items there are. `Iterator::count()` would be compiled with a check for overflow.
pub(super) fn count(items: impl Iterator) -> usize {
    items.fold(0, |sum: usize, _| sum.saturating_add(1))
}

/// The entries that came and did not leave, oldest first.
///
/// # Invariants
///
/// The first `len` slots are taken, and `len` is `N` at most; what the others have means nothing.
/// Moving all of a few entries is cheaper to reason about than indices that wrap, and most of the
/// time there are none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<T, const N: usize> {
    slots: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Ring<T, N> {
    pub(super) fn new() -> Self {
        Ring {
            slots: [T::default(); N],
            len: 0,
        }
    }

    /// Appends, unless it is full: false then.
    #[must_use]
    pub(super) fn push(&mut self, item: T) -> bool {
        match self.slots.get_mut(self.len) {
            Some(slot) => {
                // INVARIANT: the slot behind the taken ones is taken.
                *slot = item;
                self.len = self.len.saturating_add(1);
                true
            }
            None => false,
        }
    }

    /// Removes the oldest.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.remove(0)
    }

    /// Removes the one that is `at` behind the oldest.
    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        let behind = self.slots.get_mut(at..self.len)?;
        let item = *behind.first()?;
        // INVARIANT: all behind it move down by one, and its slot is behind them.
        behind.rotate_left(1);
        self.len = self.len.saturating_sub(1);
        Some(item)
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut T> {
        self.iter_mut().next()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + '_ {
        self.slots.iter().take(self.len)
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> + '_ {
        self.slots.iter_mut().take(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out() {
        let mut ring = Ring::<u8, 3>::new();
        assert!(ring.is_empty());
        assert!(ring.push(1) && ring.push(2) && ring.push(3));
        assert!(!ring.push(4));
        assert_eq!(ring.pop(), Some(1));
        assert!(ring.push(4));
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(ring.len(), 3);
        ring.clear();
        assert_eq!(ring.pop(), None);
    }
}
