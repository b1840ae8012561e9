// SPDX-License-Identifier: GPL-2.0

//! A queue of bounded length, which never allocates after it was made.

use crate::{
    net::spinlock_bh::SpinLockBh,
    prelude::*, //
};

/// A first-in, first-out queue of at most as many elements as it was made for.
///
/// `slots` holds the queue from `head` on, `len` long, wrapped around; all other slots are `None`.
pub(super) struct Ring<T> {
    slots: KVVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Ring<T> {
    /// An empty queue for `capacity` elements. May sleep; fails with `ENOMEM`.
    pub(super) fn new(capacity: usize) -> Result<Self> {
        let mut slots = KVVec::with_capacity(capacity, GFP_KERNEL)?;
        for _ in 0..capacity {
            slots.push(None, GFP_KERNEL)?;
        }
        Ok(Self {
            slots,
            head: 0,
            len: 0,
        })
    }

    /// A queue that takes nothing.
    pub(super) const fn empty() -> Self {
        Self {
            slots: KVVec::new(),
            head: 0,
            len: 0,
        }
    }

    /// The slot of the element that stands `at` behind the first; both are below the capacity.
    fn slot(&self, at: usize) -> usize {
        let slot = self.head.wrapping_add(at);
        if slot >= self.slots.len() {
            slot.wrapping_sub(self.slots.len())
        } else {
            slot
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends an element, or gives it back where the queue is full.
    pub(super) fn push(&mut self, element: T) -> Result<(), T> {
        if self.is_full() {
            return Err(element);
        }
        let slot = self.slot(self.len);
        match self.slots.get_mut(slot) {
            Some(empty) => {
                *empty = Some(element);
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            None => Err(element),
        }
    }

    /// Puts an element before those that are to come after it, or gives it back where the queue is
    /// full; the queue is in order already.
    pub(super) fn insert(&mut self, element: T, after: impl Fn(&T) -> bool) -> Result<(), T> {
        let mut at = self.len;
        self.push(element)?;
        while let Some(before) = at.checked_sub(1) {
            if !self.get(before).is_some_and(&after) {
                break;
            }
            let (a, b) = (self.slot(before), self.slot(at));
            self.slots.swap(a, b);
            at = before;
        }
        Ok(())
    }

    /// Takes out the first element that is `wanted`.
    pub(super) fn remove(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut found = None;
        for _ in 0..self.len {
            let element = self.pop()?;
            if found.is_none() && wanted(&element) {
                found = Some(element);
            } else {
                // The place of the one that was taken is free.
                let _ = self.push(element);
            }
        }
        found
    }

    /// Takes the first element.
    pub(super) fn pop(&mut self) -> Option<T> {
        let element = self.slots.get_mut(self.head)?.take()?;
        self.head = self.slot(1);
        self.len = self.len.wrapping_sub(1);
        Some(element)
    }

    /// The element `at` behind the first.
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        self.slots.get(self.slot(at))?.as_ref()
    }

    /// The first element.
    pub(super) fn front_mut(&mut self) -> Option<&mut T> {
        self.slots.get_mut(self.head)?.as_mut()
    }

    /// The last element.
    pub(super) fn back_mut(&mut self) -> Option<&mut T> {
        let last = self.slot(self.len.checked_sub(1)?);
        self.slots.get_mut(last)?.as_mut()
    }

    /// Takes over the slots of `longer`, if those are more, and gives back its own, which are empty then:
    /// to be dropped where that may be done.
    pub(super) fn lengthen(&mut self, mut longer: Self) -> Self {
        if longer.capacity() <= self.capacity() {
            return longer;
        }
        longer.append(self);
        core::mem::replace(self, longer)
    }

    /// The elements, from the first on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|at| self.get(at))
    }

    /// Makes room for another element of the queue that `ring` finds behind `lock`, which is not
    /// held while memory is allocated: others may have taken the room by the time that this
    /// returns. Sleeps. Fails with `ENOMEM`.
    pub(super) fn make_room<S>(lock: &SpinLockBh<S>, ring: impl Fn(&mut S) -> &mut Self) -> Result
    where
        S: Unpin,
    {
        let capacity = {
            let mut guard = lock.lock();
            let ring = ring(&mut guard);
            if !ring.is_full() {
                return Ok(());
            }
            ring.capacity()
        };
        let longer = Self::new(capacity.saturating_mul(2).max(8))?;
        let unused = ring(&mut lock.lock()).lengthen(longer);
        drop(unused);
        Ok(())
    }

    /// Appends all elements of `other` that there is room for.
    pub(super) fn append(&mut self, other: &mut Self) {
        while !self.is_full() {
            let Some(element) = other.pop() else { return };
            if self.push(element).is_err() {
                return;
            }
        }
    }
}
