// SPDX-License-Identifier: GPL-2.0

//! Numbers of socket options and ioctls, and the values of options.

use crate::{
    bindings,
    prelude::*, //
};
use kernel::{
    transmute::AsBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// The level of TCP's options.
pub(crate) const IPPROTO_TCP: c_int = bindings::IPPROTO_TCP as c_int;

/// Send small writes at once.
pub(crate) const TCP_NODELAY: c_int = 1;

/// Send only full messages.
pub(crate) const TCP_CORK: c_int = 3;

/// The least call that moves its bytes without a copy.
pub(crate) const SDP_ZCOPY_THRESH: c_int = bindings::SDP_ZCOPY_THRESH as c_int;

/// Whether a call that would block may leave its buffer with the socket.
pub(crate) const SDP_ZCOPY_RETRY: c_int = bindings::SDP_ZCOPY_RETRY as c_int;

/// How the bytes of a connection moved.
pub(crate) const SDP_STATS: c_int = bindings::SDP_STATS as c_int;

/// Bytes that can be read.
pub(crate) const SIOCINQ: u32 = 0x541b;

/// Bytes that were written and have not reached the peer.
pub(crate) const SIOCOUTQ: u32 = 0x5411;

/// Where a `getsockopt(2)` call wants the value of an option.
pub(crate) struct OptionRoom {
    value: UserPtr,
    len: UserPtr,
    room: usize,
}

impl OptionRoom {
    /// Reads how much room there is. `EINVAL` where that is less than nothing.
    pub(super) fn new(value: UserPtr, len: UserPtr) -> Result<Self> {
        let room: c_int = UserSlice::new(len, size_of::<c_int>()).reader().read()?;
        Ok(Self {
            value,
            len,
            room: usize::try_from(room).map_err(|_| EINVAL)?,
        })
    }

    /// Gives the caller `value`, cut to what there is room for, and the length of that. Sleeps.
    pub(crate) fn give(self, value: &impl AsBytes) -> Result {
        let bytes = value.as_bytes();
        let bytes = bytes.get(..self.room).unwrap_or(bytes);
        UserSlice::new(self.len, size_of::<c_int>())
            .writer()
            .write(&c_int::try_from(bytes.len())?)?;
        UserSlice::new(self.value, bytes.len())
            .writer()
            .write_slice(bytes)
    }
}
