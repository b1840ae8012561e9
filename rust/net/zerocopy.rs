// SPDX-License-Identifier: GPL-2.0

//! Tells a program when it may change memory again that it sent without a copy.

use crate::{
    bindings,
    net::{
        msg::{
            flags,
            SendMsg, //
        },
        ops::Protocol,
        sock::SockGuard, //
    },
    prelude::*, //
};
use core::ptr::{
    addr_of,
    null_mut,
    NonNull, //
};
use kernel::{
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        UniqueArc, //
    },
    types::Opaque, //
};

/// The notification of one call that its memory is no longer used: by the error queue for
/// `MSG_ZEROCOPY`, by a completion for io_uring's `SEND_ZC`.
///
/// Whoever uses the memory keeps a clone; the program is told when the last one is dropped, which
/// may happen in any context. Notices of consecutive calls on a socket, if given in that order, are
/// merged into one entry of the error queue.
#[derive(Clone)]
pub(crate) struct Notice(Arc<Ubuf>);

/// # Invariants
///
/// `ubuf` is live, and one of its counted references is this value's.
struct Ubuf {
    ubuf: NonNull<bindings::ubuf_info>,
    copied: AtomicFlag,
    aborted: AtomicFlag,
}

// SAFETY: A `ubuf_info` is counted atomically, and completed in whatever context its last user is.
unsafe impl Send for Ubuf {}
// SAFETY: As above; the flags are atomic.
unsafe impl Sync for Ubuf {}

/// A packet that stands for whatever carried the memory.
struct Packet(Opaque<bindings::sk_buff>);

// SAFETY: It is only ever compared with NULL.
unsafe impl Sync for Packet {}

static PACKET: Packet = Packet(
    // SAFETY: All zeroes are valid for this C structure of pointers and integers.
    Opaque::new(unsafe { core::mem::zeroed() }),
);

impl SendMsg<'_> {
    /// The notice that the call asks for with `MSG_ZEROCOPY`, about its `len` bytes; none if it
    /// does not.
    ///
    /// As with TCP the flag has no effect without `SO_ZEROCOPY`, and the memory of `MSG_ZEROCOPY`
    /// calls counts towards `RLIMIT_MEMLOCK` until the notice is given. Fails with `ENOBUFS`.
    /// Sleeps.
    ///
    /// This takes the call's number in the error queue. A call that sends nothing must not have
    /// one: it has to return it by [`Notice::abort`] before it releases the lock of `s`. So this is
    /// to be called after all waits, once there is room for what is sent.
    pub(crate) fn notice<P: Protocol, F>(
        &self,
        s: &SockGuard<'_, P, F>,
        len: usize,
    ) -> Result<Option<Notice>> {
        let sk = s.sock();
        if self.flags & flags::ZEROCOPY == 0 || len == 0 {
            return Ok(None);
        }
        let room = UniqueArc::<Ubuf>::new_uninit(GFP_KERNEL).map_err(|_| ENOBUFS)?;
        let ubuf = if let Some(ubuf) = NonNull::new(self.ubuf) {
            // SAFETY: Who gave it with the call holds a reference for as long.
            unsafe { bindings::sdp_helper_net_zcopy_get(ubuf.as_ptr()) };
            ubuf
        } else if sk.has_zerocopy() {
            // SAFETY: The sock is live, and this is the context of the sending task.
            let ubuf = unsafe {
                bindings::msg_zerocopy_realloc(sk.as_ptr().cast(), len, null_mut(), false)
            };
            NonNull::new(ubuf).ok_or(ENOBUFS)?
        } else {
            return Ok(None);
        };
        // INVARIANT: The reference was taken above, or came with the new one.
        let ubuf = room.write(Ubuf {
            ubuf,
            copied: AtomicFlag::new(false),
            aborted: AtomicFlag::new(false),
        });
        Ok(Some(Notice(ubuf.into())))
    }
}

impl Notice {
    /// Notes that bytes of the call were copied after all, which the notice tells. Any context.
    pub(crate) fn copied(&self) {
        self.0.copied.store(true, Relaxed);
    }

    /// Withdraws the notice of a call that sent nothing: the program is not told, and the next call
    /// gets the number in the error queue.
    ///
    /// The socket must have been locked without a break since [`SendMsg::notice`].
    pub(crate) fn abort(self) {
        self.0.aborted.store(true, Relaxed);
        let ubuf = self.0.ubuf.as_ptr();
        // SAFETY: Live by the type invariant.
        let is_ours = unsafe { (*ubuf).ops == addr_of!(bindings::msg_zerocopy_ubuf_ops) };
        if is_ours {
            // SAFETY: It is one of `msg_zerocopy_realloc()`; its reference remains, which the drop
            // of the last clone puts.
            unsafe { bindings::msg_zerocopy_put_abort(ubuf, false) };
        }
    }
}

impl Drop for Ubuf {
    fn drop(&mut self) {
        let ubuf = self.ubuf.as_ptr();
        // Whether there is a packet tells io_uring whether anything was sent; it does not look at
        // the packet.
        let packet = if self.aborted.load(Relaxed) {
            null_mut()
        } else {
            PACKET.0.get()
        };
        // SAFETY: The reference is ours by the type invariant, and goes with this call.
        unsafe {
            if let Some(complete) = (*(*ubuf).ops).complete {
                complete(packet, ubuf, !self.copied.load(Relaxed));
            }
        }
    }
}
