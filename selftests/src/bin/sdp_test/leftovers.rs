// SPDX-License-Identifier: GPL-2.0

//! Pages that a case leaves pinned: by the machine's count, and by the module's own.

use crate::{
    config::{
        self,
        patience, //
    },
    peers::{
        becomes,
        Side,
        A,
        B, //
    },
};
use sdp_selftests::sdp::Stats;
use std::{
    cell::RefCell,
    fs,
    io, //
};

/// What is pinned and will be let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// In the whole machine.
    pinned: i64,
    /// By the module, in the namespaces of A and B; `None` where it does not count.
    by_module: [Option<i64>; 2],
}

impl Leftovers {
    /// Looks at the counts; they stay zero for TCP, which pins in other ways.
    pub(crate) fn look() -> Self {
        if config::tcp() {
            return Self {
                pinned: 0,
                by_module: [None; 2],
            };
        }
        Self {
            pinned: pinned().unwrap_or_else(|error| panic!("/proc/vmstat: {error}")),
            by_module: [A, B].map(|side| {
                by_module(side).unwrap_or_else(|error| panic!("/proc/net/sdp_stat: {error}"))
            }),
        }
    }

    /// What is more than before, once all that is under way has had time to end.
    pub(crate) fn left(&self) -> Option<String> {
        let last = RefCell::new(self.clone());
        let none = || {
            let now = Self::look();
            let pairs = self.by_module.iter().zip(&now.by_module);
            let none = now.pinned <= self.pinned && pairs.into_iter().all(|(was, is)| is <= was);
            *last.borrow_mut() = now;
            none
        };
        if becomes(patience(3), none) {
            return None;
        }
        let now = last.into_inner();
        Some(format!(
            "{} pinned pages, before {}; by the module {:?}, before {:?}",
            now.pinned, self.pinned, now.by_module, self.by_module
        ))
    }
}

/// Pages pinned in the machine. Each processor counts for itself, and is asked first for what it
/// has not told yet.
fn pinned() -> io::Result<i64> {
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(found, _)| *found == name)
            .and_then(|(_, value)| value.parse::<i64>().ok())
            .ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    Ok(value("nr_foll_pin_acquired")? - value("nr_foll_pin_released")?)
}

/// Pages pinned by the module at `side`.
fn by_module(side: Side) -> io::Result<Option<i64>> {
    match side.visit(Stats::of_namespace) {
        Ok(stats) => Ok(Some(
            stats.pages_pinned as i64 - stats.pages_unpinned as i64,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
