// SPDX-License-Identifier: GPL-2.0

//! The mark: the place of the peer's urgent byte in the stream.

use crate::{
    prelude::*,
    proto::Readable, //
};
use kernel::fmt;

/// The state of the peer's urgent byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgent {
    /// There is none.
    None,
    /// It was announced, and has not come.
    Announced,
    /// It arrived, has this mark, and is this byte.
    Here(u64, u8),
    /// The same; it was read out of the stream's order.
    Read(u64),
}

impl fmt::Display for Urgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Announced => f.write_str("announced"),
            Self::Here(mark, _) => write!(f, "here at {mark}"),
            Self::Read(mark) => write!(f, "read at {mark}"),
        }
    }
}

impl Urgent {
    /// Changes it, for the log. Returns what it was.
    pub(super) fn set(&mut self, urgent: Self) -> Self {
        if *self != urgent {
            pr_debug!("urgent byte: {} -> {urgent}\n", *self);
        }
        core::mem::replace(self, urgent)
    }

    /// Its place in the stream, if that is known.
    pub(super) fn mark(self) -> Option<u64> {
        match self {
            Self::None | Self::Announced => None,
            Self::Here(mark, _) | Self::Read(mark) => Some(mark),
        }
    }

    /// The same, of a mark that is `bytes` lower, if it has this one.
    pub(super) fn lowered(self, mark: u64, bytes: u64) -> Self {
        match self {
            Self::Here(at, byte) if at == mark => Self::Here(at.wrapping_sub(bytes), byte),
            Self::Read(at) if at == mark => Self::Read(at.wrapping_sub(bytes)),
            other => other,
        }
    }
}

/// What a reader may have next.
pub(super) struct Upcoming {
    /// The peer's memory that is to be fetched before anything that arrived behind it.
    pub(super) advertised: Option<Readable>,
    /// Where reads stop.
    pub(super) mark: Option<u64>,
}

/// How many bytes come before `mark`, if a reader at `at` has not passed it.
pub(super) fn distance(mark: Option<u64>, at: u64) -> Option<usize> {
    let bytes = mark?.wrapping_sub(at);
    // The stream is far shorter than half of what the number can count.
    usize::try_from(i64::try_from(bytes).ok()?).ok()
}
