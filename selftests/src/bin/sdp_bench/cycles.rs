// SPDX-License-Identifier: GPL-2.0

//! How often something can be done in a second.

use crate::end::Result;
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Goes through cycles in so many threads for `duration`, at least one in each: how many there are
/// in a second. `begin` makes the cycle of a thread.
pub(crate) fn measure<C: FnMut() -> Result<()>>(
    parallel: usize,
    duration: Duration,
    begin: impl Fn() -> Result<C> + Sync,
) -> Result<f64> {
    let start = Instant::now();
    let run = || -> Result<u32> {
        let mut cycle = begin()?;
        let mut number = 0;
        loop {
            cycle()?;
            number += 1;
            if start.elapsed() >= duration {
                return Ok(number);
            }
        }
    };
    let number = thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(run)).collect();
        let ends = threads.into_iter().map(|thread| thread.join());
        ends.map(|end| end.unwrap_or_else(|_| Err("a thread panicked".into())))
            .sum::<Result<u32>>()
    })?;
    Ok(f64::from(number) / start.elapsed().as_secs_f64())
}
