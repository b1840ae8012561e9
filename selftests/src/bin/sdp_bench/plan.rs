// SPDX-License-Identifier: GPL-2.0

//! What is measured, and over what.

use clap::ValueEnum;
use std::{
    fmt,
    str::FromStr, //
};

/// What carries the bytes: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// SDP as it is
    Sdp,
    /// SDP without zero copy
    Copy,
    /// Plain verbs: RC Send
    Send,
    /// Plain verbs: RDMA Write
    Write,
    /// Plain verbs: RDMA Read
    Read,
    /// rsockets, by librspreload
    Rsockets,
    /// TCP
    Tcp,
}

impl Transport {
    /// As the table has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sdp => "SDP",
            Self::Copy => "SDP copy",
            Self::Send => "Send",
            Self::Write => "Write",
            Self::Read => "Read",
            Self::Rsockets => "rsockets",
            Self::Tcp => "TCP",
        }
    }

    /// As the command line has it.
    pub(crate) fn argument(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().into())
    }

    /// Whether it is plain verbs.
    pub(crate) fn is_verbs(self) -> bool {
        matches!(self, Self::Send | Self::Write | Self::Read)
    }

    /// Whether `line` means something for it.
    pub(crate) fn has(self, line: Line) -> bool {
        match line {
            Line::Stream(_) => true,
            Line::Trip(_) | Line::Connect(_) => !matches!(self, Self::Write | Self::Read),
            Line::Requests | Line::Memory => !self.is_verbs(),
        }
    }
}

/// Connections that are open at once where there are many.
pub(crate) const MANY: usize = 128;

/// Work of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Writes of so many bytes, as fast as they go.
    Stream(usize),
    /// So many bytes there and back.
    Trip(usize),
    /// A request and its response on each of [`MANY`] connections.
    Requests,
    /// Connections that end at once, so many at a time.
    Connect(usize),
    /// [`MANY`] idle connections.
    Memory,
}

/// All of it.
pub(crate) const LINES: [Line; 11] = [
    Line::Stream(64),
    Line::Stream(1 << 10),
    Line::Stream(4 << 10),
    Line::Stream(64 << 10),
    Line::Stream(1 << 20),
    Line::Trip(1),
    Line::Trip(4 << 10),
    Line::Requests,
    Line::Connect(1),
    Line::Connect(64),
    Line::Memory,
];

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(size) => write!(f, "stream-{size}"),
            Self::Trip(size) => write!(f, "trip-{size}"),
            Self::Requests => write!(f, "requests"),
            Self::Connect(parallel) => write!(f, "connect-{parallel}"),
            Self::Memory => write!(f, "memory"),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = LINES.into_iter();
        all.find(|line| line.to_string() == text)
            .ok_or_else(|| format!("there is no line {text}"))
    }
}

/// A number that a line gives: a row of the table.
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Whether more is better.
    pub(crate) more: bool,
}

fn size(bytes: usize) -> String {
    match bytes {
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        0x400.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

impl Line {
    /// What it gives, in the order that the client tells it.
    pub(crate) fn measures(self) -> Vec<Measure> {
        let measure = |name: String, unit, more| Measure { name, unit, more };
        match self {
            Self::Stream(bytes) => {
                vec![measure(format!("stream, {}", size(bytes)), "MB/s", true)]
            }
            Self::Trip(bytes) => vec![
                measure(format!("half a trip, {}", size(bytes)), "µs", false),
                measure("  99th percentile".into(), "µs", false),
            ],
            Self::Requests => vec![measure(format!("requests on {MANY}"), "1/s", true)],
            Self::Connect(parallel) => {
                vec![measure(
                    format!("connects, {parallel} at once"),
                    "1/s",
                    true,
                )]
            }
            Self::Memory => vec![measure("idle, one end".into(), "KiB", false)],
        }
    }
}
