// SPDX-License-Identifier: GPL-2.0

//! How long a call may wait.

use crate::{
    bindings,
    prelude::*, //
};

/// Why a wait ended without what it waited for.
pub(crate) enum WaitError {
    /// The time is used up.
    TimedOut,
    /// A signal is pending.
    Signal,
}

/// How long a call may sleep, in jiffies: 0 for not at all, `MAX` for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timeout(pub(in crate::net) c_long);

impl Timeout {
    /// No limit.
    pub(crate) const FOREVER: Self = Self(c_long::MAX);

    /// So many milliseconds, rounded up to jiffies.
    pub(crate) fn from_ms(ms: u32) -> Self {
        // SAFETY: A pure function of its argument.
        let jiffies = unsafe { bindings::__msecs_to_jiffies(ms) };
        Self(c_long::try_from(jiffies).unwrap_or(c_long::MAX))
    }

    /// Whether the call may not sleep, or has slept as long as it may.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Subtracts the time in which another limit went from `from` to `to`.
    pub(crate) fn spend(&mut self, from: Self, to: Self) {
        if *self != Self::FOREVER {
            self.0 = self.0.saturating_sub(from.0.saturating_sub(to.0)).max(0);
        }
    }

    /// The result of a call whose wait ended like this, with this time left: an error is that of
    /// [`Self::error`].
    pub(crate) fn check(self, waited: Result<(), WaitError>) -> Result {
        waited.map_err(|woken| self.error(woken))
    }

    /// The errno of a call whose wait ended with `woken`, with this time left: `EAGAIN`, or for a
    /// signal `ERESTARTSYS` where the call can be restarted without a loss of time, else `EINTR`.
    pub(crate) fn error(self, woken: WaitError) -> Error {
        match woken {
            WaitError::TimedOut => EAGAIN,
            WaitError::Signal => {
                // SAFETY: A pure function of its argument.
                Error::from_errno(unsafe { bindings::sdp_helper_sock_intr_errno(self.0) })
            }
        }
    }
}
