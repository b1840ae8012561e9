// SPDX-License-Identifier: GPL-2.0

//! A short queue in place.

/// The entries that came and did not leave, oldest first, dense from the start. Moving all of a few entries is cheaper to reason
/// about than indices that wrap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<T, const N: usize>([Option<T>; N]);

impl<T: Copy, const N: usize> Ring<T, N> {
    pub(super) const fn new() -> Self {
        Ring([None; N])
    }

    /// Appends, unless it is full: false then.
    #[must_use]
    pub(super) fn push(&mut self, item: T) -> bool {
        match self.0.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(item);
                true
            }
            None => false,
        }
    }

    /// Removes the oldest.
    pub(super) fn pop(&mut self) -> Option<T> {
        let item = self.0.first_mut()?.take();
        self.0.rotate_left(1);
        item
    }

    pub(super) fn clear(&mut self) {
        self.0 = [None; N];
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    pub(super) fn first(&self) -> Option<&T> {
        self.0.first()?.as_ref()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut T> {
        self.0.first_mut()?.as_mut()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + '_ {
        self.0.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> + '_ {
        self.0.iter_mut().flatten()
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
