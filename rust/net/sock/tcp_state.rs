// SPDX-License-Identifier: GPL-2.0

//! The state of a socket as programs and diagnostics see it.

use crate::bindings;
use kernel::fmt;

/// The `TCP_*` states of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub(crate) enum TcpState {
    Established = bindings::TCP_ESTABLISHED as u8,
    SynSent = bindings::TCP_SYN_SENT as u8,
    SynRecv = bindings::TCP_SYN_RECV as u8,
    FinWait1 = bindings::TCP_FIN_WAIT1 as u8,
    FinWait2 = bindings::TCP_FIN_WAIT2 as u8,
    Close = bindings::TCP_CLOSE as u8,
    CloseWait = bindings::TCP_CLOSE_WAIT as u8,
    LastAck = bindings::TCP_LAST_ACK as u8,
    Listen = bindings::TCP_LISTEN as u8,
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Established => "established",
            Self::SynSent => "syn-sent",
            Self::SynRecv => "syn-recv",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::Close => "close",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::Listen => "listen",
        })
    }
}
