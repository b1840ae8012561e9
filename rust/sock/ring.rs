// SPDX-License-Identifier: GPL-2.0

//! A queue of bounded length, which does not allocate when elements are added.

use crate::{
    net::spinlock_bh::SpinLockBh,
    prelude::*, //
};
use kernel::alloc::Flags;

/// A first-in, first-out queue of at most as many elements as it was made for. Its methods may be
/// called in any context, unless they say otherwise.
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
        Self::allocate(capacity, GFP_KERNEL)
    }

    /// As [`Self::new`], charged to the memory cgroup of the task.
    pub(super) fn new_charged(capacity: usize) -> Result<Self> {
        Self::allocate(capacity, GFP_KERNEL_ACCOUNT)
    }

    fn allocate(capacity: usize, flags: Flags) -> Result<Self> {
        let mut slots = KVVec::with_capacity(capacity, flags)?;
        for _ in 0..capacity {
            slots.push(None, flags)?;
        }
        Ok(Self {
            slots,
            head: 0,
            len: 0,
        })
    }

    /// A queue without room for any element.
    pub(super) const fn empty() -> Self {
        Self {
            slots: KVVec::new(),
            head: 0,
            len: 0,
        }
    }

    /// The slot of the element with index `at`; both are below the capacity.
    fn slot(&self, at: usize) -> usize {
        let slot = self.head.wrapping_add(at);
        if slot >= self.slots.len() {
            slot.wrapping_sub(self.slots.len())
        } else {
            slot
        }
    }

    /// Whether there are no elements.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another element.
    pub(super) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// For how many elements there is room, those that are there included.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends an element, or gives it back if the queue is full.
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

    /// Inserts an element before those that are to come `after` it, or gives it back if the queue
    /// is full. The queue has to be in order.
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

    /// Removes the first element that is `wanted`.
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

    /// The element with index `at`, the first having 0.
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        self.slots.get(self.slot(at))?.as_ref()
    }

    /// As [`Self::get`].
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        let slot = self.slot(at);
        self.slots.get_mut(slot)?.as_mut()
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

    /// Takes over the slots of `longer`, if there are more, and gives back its own, which are empty
    /// then: to be dropped in process context, without spinlocks.
    ///
    /// All elements are moved, with softirqs disabled: 13 ns for each, of 64 bytes. In the longest
    /// queue, that of unread payload, each has a page or more of what the buffers may take. That is
    /// 8 MiB at most while `net.core.rmem_max` is as it was at boot, so 2048 elements, and 26 us;
    /// TCP, when it runs out of as much, copies the payload there (`tcp_collapse()`). As the queue
    /// doubles, an element is moved once on average.
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

    /// Reserves room for another element in the queue that `ring` finds under `lock`, which is not
    /// held while memory is allocated: others may have taken the room when this returns. The memory
    /// is charged to the cgroup of the task. Sleeps. Fails with `ENOMEM`.
    pub(super) fn reserve<S>(lock: &SpinLockBh<S>, ring: impl Fn(&mut S) -> &mut Self) -> Result
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
        let longer = Self::new_charged(capacity.saturating_mul(2).max(8))?;
        let unused = ring(&mut lock.lock()).lengthen(longer);
        drop(unused);
        Ok(())
    }

    /// Moves elements from the front of `other` to the end of this queue, as many as there is room
    /// for.
    pub(super) fn append(&mut self, other: &mut Self) {
        while !self.is_full() {
            let Some(element) = other.pop() else { return };
            if self.push(element).is_err() {
                return;
            }
        }
    }
}
