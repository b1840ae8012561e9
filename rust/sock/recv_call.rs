// SPDX-License-Identifier: GPL-2.0

//! A call that receives, and its I/O lock.

use crate::{
    net::{
        msg::RecvMsg,
        sock::Timeout,
        stamp::Stamp,
        wait::OpenGuard, //
    },
    prelude::*,
    sock::{
        conn::Conn,
        poll_state,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use kernel::sync::Arc;

/// A call that receives.
pub(super) struct Receiving<'a, 'g, 'm> {
    /// The socket.
    pub(super) sk: &'a Socket,
    /// Its lock.
    pub(super) s: &'a mut OpenGuard<'g, Sdp>,
    /// The connection that it receives from.
    pub(super) conn: &'a Arc<Conn>,
    /// What the call was given.
    pub(super) msg: &'a mut RecvMsg<'m>,
    /// How much longer it may wait.
    pub(super) timeout: Timeout,
    /// Whether the call may sleep at all.
    pub(super) may_sleep: bool,
    /// Bytes that it waits for.
    pub(super) target: usize,
    /// It has the I/O lock.
    pub(super) has_iolock: bool,
    /// Bytes that it returns.
    pub(super) copied: usize,
    /// When the last of them arrived, where the program has asked.
    pub(super) stamp: Option<Stamp>,
    /// Bytes that a peek has already returned, or leaves out (`SO_PEEK_OFF`).
    pub(super) peeked: usize,
}

impl Receiving<'_, '_, '_> {
    /// Waits until no other call has the I/O lock. Fails as a wait does.
    pub(super) fn wait_iolock(&mut self) -> Result {
        let poll_state = self.sk.poll_state();
        let locked = self.s.wait(&mut self.timeout, |_| {
            poll_state.lock().recv_iolock.is_free()
        });
        self.timeout.check(locked)
    }

    /// Takes the I/O lock, if the call has not got it: before it sleeps without the socket lock, or
    /// changes what others find to be read.
    pub(super) fn acquire_iolock(&mut self) {
        if !core::mem::replace(&mut self.has_iolock, true) {
            self.sk.poll_state().lock().recv_iolock.acquire();
        }
    }

    /// Releases the I/O lock, if the call has it, and notifies who has found it held.
    pub(super) fn release_iolock(&mut self) {
        if core::mem::replace(&mut self.has_iolock, false)
            && self.sk.poll_state().lock().recv_iolock.release()
        {
            poll_state::notify_readers(self.sk);
        }
    }
}
