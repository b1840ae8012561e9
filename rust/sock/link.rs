// SPDX-License-Identifier: GPL-2.0

//! The states of a connection: what became of its set-up, and how far it is from its end.

use kernel::fmt;

/// How far the RDMA connection is from its end. It only advances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Link {
    /// It carries messages, or is being set up.
    Up,
    /// The peer is to be told that it ends.
    Disconnect,
    /// The peer was told, and has not confirmed it.
    Disconnecting,
    /// The CM is done with it.
    Disconnected,
    /// What it had on the device is freed.
    Closed,
}

/// What became of the set-up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is being set up.
    SettingUp,
    /// It is established, or was.
    Established,
    /// It was never established.
    Failed,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Disconnect => "disconnect",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
        })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SettingUp => "setting-up",
            Self::Established => "established",
            Self::Failed => "failed",
        })
    }
}
