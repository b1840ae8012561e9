// SPDX-License-Identifier: GPL-2.0

//! Numbers of socket options and ioctls.

use crate::bindings;
use kernel::prelude::*;

/// The level of TCP's options.
pub(crate) const IPPROTO_TCP: c_int = bindings::IPPROTO_TCP as c_int;

/// Send small writes at once.
pub(crate) const TCP_NODELAY: c_int = 1;

/// Send only full messages.
pub(crate) const TCP_CORK: c_int = 3;

/// Bytes that can be read.
pub(crate) const SIOCINQ: u32 = 0x541b;

/// Bytes that were written and have not reached the peer.
pub(crate) const SIOCOUTQ: u32 = 0x5411;
