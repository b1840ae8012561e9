// SPDX-License-Identifier: GPL-2.0

//! `struct msghdr` of one sendmsg or recvmsg call.

use crate::bindings;
use kernel::iov::{
    IovIterDest,
    IovIterSource, //
};

/// What a sendmsg call sends.
pub(crate) struct SendMsg<'a> {
    /// The bytes; advanced by what is copied from it.
    pub(crate) data: &'a mut IovIterSource<'a>,
    /// `MSG_*`.
    pub(crate) flags: u32,
    /// Whether the caller gave control messages.
    pub(crate) has_control: bool,
}

impl<'a> SendMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a sendmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the contract; the iterator of a send is a source.
        unsafe {
            Self {
                data: IovIterSource::from_raw(&raw mut (*msg).msg_iter),
                flags: (*msg).msg_flags,
                has_control: (*msg).msg_controllen != 0,
            }
        }
    }

    /// Whether the call may not sleep.
    pub(crate) fn nonblock(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT != 0
    }
}

/// Where a recvmsg call wants its bytes.
pub(crate) struct RecvMsg<'a> {
    /// Where the bytes go; advanced by what is copied to it.
    pub(crate) data: &'a mut IovIterDest<'a>,
    /// `MSG_*`.
    pub(crate) flags: u32,
}

impl<'a> RecvMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a recvmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr, flags: u32) -> Self {
        // SAFETY: By the contract; the iterator of a receive is a destination.
        let data = unsafe { IovIterDest::from_raw(&raw mut (*msg).msg_iter) };
        Self { data, flags }
    }

    /// Whether the call may not sleep.
    pub(crate) fn nonblock(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT != 0
    }
}

/// The `MSG_*` flags of socket calls.
pub(crate) mod flags {
    use crate::bindings;

    /// Urgent data.
    pub(crate) const OOB: u32 = bindings::MSG_OOB;
    /// Look, but leave the bytes.
    pub(crate) const PEEK: u32 = bindings::MSG_PEEK;
    /// Drop the bytes instead of copying them.
    pub(crate) const TRUNC: u32 = bindings::MSG_TRUNC;
    /// Wait until all that was asked for is there.
    pub(crate) const WAITALL: u32 = bindings::MSG_WAITALL;
    /// More comes: hold back what does not fill a message.
    pub(crate) const MORE: u32 = bindings::MSG_MORE;
    /// Read the error queue.
    pub(crate) const ERRQUEUE: u32 = bindings::MSG_ERRQUEUE;
}
