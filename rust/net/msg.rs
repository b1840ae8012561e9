// SPDX-License-Identifier: GPL-2.0

//! `struct msghdr` of one sendmsg or recvmsg call.

use crate::bindings;
use core::ptr::null_mut;
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
    /// Whom the caller wants told when its memory is no longer used, or NULL; of use with
    /// [`flags::ZEROCOPY`] alone.
    pub(super) ubuf: *mut bindings::ubuf_info,
    /// The length of the bytes when the call began.
    len: usize,
}

impl<'a> SendMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a sendmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the contract; the iterator of a send is a source.
        unsafe {
            let msg_flags = (*msg).msg_flags;
            let data = IovIterSource::from_raw(&raw mut (*msg).msg_iter);
            Self {
                len: data.len(),
                data,
                flags: msg_flags,
                has_control: (*msg).msg_controllen != 0,
                // Not every caller without the flag sets it.
                ubuf: if msg_flags & flags::ZEROCOPY != 0 {
                    (*msg).msg_ubuf
                } else {
                    null_mut()
                },
            }
        }
    }

    /// Whether the call may not sleep.
    pub(crate) fn nonblock(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT != 0
    }

    /// Takes back the last `n` bytes by which `data` was advanced.
    pub(crate) fn take_back(&mut self, n: usize) {
        let advanced = self.len.saturating_sub(self.data.len());
        // SAFETY: It was advanced by that much.
        unsafe { self.data.revert(n.min(advanced)) };
    }
}

/// Where a recvmsg call wants its bytes.
pub(crate) struct RecvMsg<'a> {
    /// Where the bytes go; advanced by what is copied to it.
    pub(crate) data: &'a mut IovIterDest<'a>,
    /// `MSG_*`.
    pub(crate) flags: u32,
    /// The message, valid for `'a`; using its iterator ends the use of `data`.
    pub(super) msg: *mut bindings::msghdr,
    /// The room that there was when the call began.
    len: usize,
}

impl<'a> RecvMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a recvmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr, flags: u32) -> Self {
        // SAFETY: By the contract; the iterator of a receive is a destination.
        let data = unsafe { IovIterDest::from_raw(&raw mut (*msg).msg_iter) };
        Self {
            len: data.len(),
            data,
            flags,
            msg,
        }
    }

    /// Whether the call may not sleep.
    pub(crate) fn nonblock(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT != 0
    }

    /// Takes back the last `n` bytes by which `data` was advanced.
    pub(crate) fn take_back(&mut self, n: usize) {
        let advanced = self.len.saturating_sub(self.data.len());
        // SAFETY: It was advanced by that much.
        unsafe { self.data.revert(n.min(advanced)) };
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
    /// Leave the bytes where they are, and tell when they are no longer used.
    pub(crate) const ZEROCOPY: u32 = bindings::MSG_ZEROCOPY;
    /// The bytes are pages that may be kept, each by a reference of its own.
    pub(crate) const SPLICE_PAGES: u32 = bindings::MSG_SPLICE_PAGES;
    /// Read the error queue.
    pub(crate) const ERRQUEUE: u32 = bindings::MSG_ERRQUEUE;
}
