// SPDX-License-Identifier: GPL-2.0

//! The states of a connection: the result of its set-up, and how far its teardown is.

use kernel::fmt;

/// How far the teardown of the RDMA connection is. It only advances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Teardown {
    /// The connection carries messages, or is being set up.
    NotBegun,
    /// The peer is to be notified that the connection ends.
    DisconnectNeeded,
    /// The peer was notified, and has not confirmed it.
    Disconnecting,
    /// The CM is done with the connection.
    Disconnected,
    /// What the connection had on the device is freed.
    Done,
}

/// The result of the set-up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SetupResult {
    /// The connection is being set up.
    Pending,
    /// It is established, or was.
    Established,
    /// It was never established.
    Failed,
}

impl fmt::Display for Teardown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBegun => "not-begun",
            Self::DisconnectNeeded => "disconnect-needed",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Done => "done",
        })
    }
}

impl fmt::Display for SetupResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Established => "established",
            Self::Failed => "failed",
        })
    }
}
