// SPDX-License-Identifier: GPL-2.0

//! How long round trips take.

use crate::end::Result;
use std::time::{
    Duration,
    Instant, //
};

/// Makes round trips for `duration`: the middle and the 99th percentile of half of one, in
/// microseconds.
pub(crate) fn measure(
    duration: Duration,
    mut trip: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    let mut last = start;
    while last - start < duration {
        trip()?;
        let now = Instant::now();
        took.push(now - last);
        last = now;
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e6 / 2.0;
    Ok(vec![at(50), at(99)])
}
