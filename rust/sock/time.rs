// SPDX-License-Identifier: GPL-2.0

//! The time of a connection's machine.

/// Milliseconds as nanoseconds, the unit of that time.
pub(super) fn ms(ms: u32) -> u64 {
    u64::from(ms).saturating_mul(1_000_000)
}
