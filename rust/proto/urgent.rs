// SPDX-License-Identifier: GPL-2.0

//! Urgent bytes of the send stream (`B-77` to `B-80`).

/// The most bytes between the announcement of an urgent byte and the byte (`B-77`).
const DISTANCE_MAX: usize = 65535;

/// The urgent bytes that stand in the send stream, by the number of unsent bytes up to and with
/// each.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// The next one, and whether the peer was told of it.
    next: Option<(usize, bool)>,
    /// One written after the peer was told of the other.
    later: Option<usize>,
}

impl Urgent {
    /// The last of `unsent` bytes is urgent. As in TCP, only the newest counts; one that was
    /// announced is kept all the same.
    pub(super) fn write(&mut self, unsent: usize) {
        match self.next {
            Some((at, true)) if at == unsent => {}
            Some((_, true)) => self.later = Some(unsent),
            _ => self.next = Some((unsent, false)),
        }
    }

    /// The most bytes that the next message may take: an urgent byte ends its message (`B-78`).
    pub(super) fn limit(&self) -> Option<usize> {
        self.next.map(|(at, _)| at)
    }

    /// Whether the next message, which takes so many bytes, announces one (`B-77`); `others` stand
    /// before it as well.
    pub(super) fn announce(&self, bytes: usize, others: usize) -> bool {
        self.next.is_some_and(|(at, announced)| {
            let distance = at.saturating_add(others);
            !announced && distance <= bytes.max(DISTANCE_MAX)
        })
    }

    /// The announcement goes out.
    pub(super) fn announced(&mut self) {
        if let Some((_, announced)) = &mut self.next {
            *announced = true;
        }
    }

    /// So many bytes leave.
    pub(super) fn take(&mut self, bytes: usize) {
        let Some((at, announced)) = self.next else {
            return;
        };
        self.later = self.later.map(|at| at.saturating_sub(bytes));
        self.next = match at.checked_sub(bytes) {
            None | Some(0) => self.later.take().map(|at| (at, false)),
            Some(at) => Some((at, announced)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_77_announced_once_and_not_too_early() {
        let mut urgent = Urgent::default();
        urgent.write(70_000);
        assert!(!urgent.announce(100, 0));
        assert!(urgent.announce(70_000, 0), "in the message itself");
        assert!(!urgent.announce(69_999, 0));
        urgent.take(5_000);
        assert!(urgent.announce(0, 0));
        urgent.announced();
        assert!(!urgent.announce(0, 0));
        assert_eq!(urgent.limit(), Some(65_000));
        urgent.take(65_000);
        assert_eq!(urgent.limit(), None);
    }

    #[test]
    fn b_79_the_newest_unannounced_counts() {
        let mut urgent = Urgent::default();
        urgent.write(10);
        urgent.write(20);
        assert_eq!(urgent.limit(), Some(20));
        urgent.announced();
        urgent.write(30);
        urgent.write(40);
        assert_eq!(urgent.limit(), Some(20), "the peer knows of it");
        urgent.take(20);
        assert_eq!(urgent.limit(), Some(20));
        assert!(urgent.announce(0, 0));
    }

    #[test]
    fn b_77_one_byte_is_announced_once_however_often_it_is_marked() {
        let mut urgent = Urgent::default();
        urgent.write(10);
        urgent.announced();
        urgent.write(10);
        urgent.take(10);
        assert_eq!(urgent.limit(), None);
    }
}
