// SPDX-License-Identifier: GPL-2.0

//! `struct msghdr` of one sendmsg or recvmsg call.

use crate::{
    bindings,
    net::{
        ops::Protocol,
        sock::Sock,
        sockaddr::SockAddr,
        stamp::TxStamps,
        uapi::{
            IPPROTO_TCP,
            TCP_INQ, //
        }, //
    },
    prelude::*, //
};
use core::{
    ffi::c_void,
    ptr::null_mut, //
};
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
    /// The message, valid for `'a`, whose iterator is `data`.
    msg: *mut bindings::msghdr,
    /// The caller's own notification for when its memory is no longer used, or NULL; only with
    /// [`flags::ZEROCOPY`].
    pub(super) ubuf: *mut bindings::ubuf_info,
    /// Its iterator when the call began.
    start: bindings::iov_iter,
}

impl<'a> SendMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a sendmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the contract; the iterator of a send is a source.
        unsafe {
            let msg_flags = (*msg).msg_flags;
            Self {
                start: (&raw const (*msg).msg_iter).read(),
                data: IovIterSource::from_raw(&raw mut (*msg).msg_iter),
                flags: msg_flags,
                msg,
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

    /// The address that the caller names, if it does.
    pub(crate) fn name(&self) -> Option<SockAddr<'a>> {
        // SAFETY: The message is valid for `'a`, and its name, if any, as long as it says.
        unsafe {
            let name = (*self.msg).msg_name.cast::<u8>();
            let len = usize::try_from((*self.msg).msg_namelen).ok()?;
            (!name.is_null()).then(|| SockAddr::new(core::slice::from_raw_parts(name, len)))
        }
    }

    /// Checks the control messages, as TCP does, and returns the stages that are to be reported.
    /// Fails with `EINVAL` and `EPERM`.
    pub(crate) fn control<P: Protocol>(&self, sk: &Sock<P>) -> Result<TxStamps> {
        // SAFETY: The message is valid, and its control messages are not changed.
        let flags = unsafe {
            if (*self.msg).msg_controllen == 0 {
                return Ok(sk.stages());
            }
            bindings::sdp_helper_sock_cmsg_send(sk.as_ptr(), self.msg)
        };
        let flags = u32::try_from(flags).map_err(|_| Error::from_errno(flags))?;
        Ok(TxStamps::of(flags))
    }

    /// Takes back the last `n` bytes by which `data` was advanced, or all of them.
    pub(crate) fn revert(&mut self, n: usize) {
        let left = self.data.len().saturating_add(n);
        // SAFETY: The iterator of the call is valid for `'a`, in the state that it came with too.
        unsafe { self.data.as_raw().write((&raw const self.start).read()) };
        self.data.advance(self.data.len().saturating_sub(left));
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
    /// Its iterator when the call began.
    start: bindings::iov_iter,
}

impl<'a> RecvMsg<'a> {
    /// # Safety
    ///
    /// `msg` is the valid argument of a recvmsg call that lasts for `'a`, used through this alone.
    pub(super) unsafe fn from_ptr(msg: *mut bindings::msghdr, flags: u32) -> Self {
        // SAFETY: By the contract; the iterator of a receive is a destination.
        unsafe {
            Self {
                start: (&raw const (*msg).msg_iter).read(),
                data: IovIterDest::from_raw(&raw mut (*msg).msg_iter),
                flags,
                msg,
            }
        }
    }

    /// Whether the call may not sleep.
    pub(crate) fn nonblock(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT != 0
    }

    /// Gives the caller `MSG_*` flags of what was received.
    pub(crate) fn set_flags(&mut self, flags: u32) {
        // SAFETY: The message is valid, and this is no part of its iterator.
        unsafe { (*self.msg).msg_flags |= flags };
    }

    /// Whether the caller in the kernel wants to be told how much is left to be read.
    pub(crate) fn wants_unread(&self) -> bool {
        // SAFETY: The message is valid.
        unsafe { (*self.msg).msg_get_inq() }
    }

    /// Tells the caller how many bytes are left to be read, by a control message where a program
    /// has asked for it (`TCP_INQ`). Without the socket lock.
    pub(crate) fn put_unread(&mut self, bytes: c_int, has_asked: bool) {
        // SAFETY: The message is valid, and its room for control messages is nobody else's.
        unsafe {
            (*self.msg).msg_inq = bytes;
            if !has_asked {
                return;
            }
            // It says so by MSG_CTRUNC where there is no room. The message has the option's number.
            bindings::put_cmsg(
                self.msg,
                IPPROTO_TCP,
                TCP_INQ,
                size_of::<c_int>() as c_int,
                (&raw const bytes).cast_mut().cast::<c_void>(),
            );
        }
    }

    /// Takes back the last `n` bytes by which `data` was advanced, or all of them.
    pub(crate) fn revert(&mut self, n: usize) {
        let left = self.data.len().saturating_add(n);
        // SAFETY: The iterator of the call is valid for `'a`, in the state that it came with too.
        unsafe { self.data.as_raw().write((&raw const self.start).read()) };
        self.data.advance(self.data.len().saturating_sub(left));
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
    /// Connect, and send with the request.
    pub(crate) const FASTOPEN: u32 = bindings::MSG_FASTOPEN;
    /// The bytes are pages that may be kept, each by a reference of its own.
    pub(crate) const SPLICE_PAGES: u32 = bindings::MSG_SPLICE_PAGES;
    /// Read the error queue.
    pub(crate) const ERRQUEUE: u32 = bindings::MSG_ERRQUEUE;
}
