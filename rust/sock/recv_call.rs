// SPDX-License-Identifier: GPL-2.0

//! A call that receives, which takes turns with others.

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
        shared,
        types::{
            Sdp,
            Socket, //
        }, //
    }, //
};
use kernel::sync::Arc;

/// A call that receives.
pub(super) struct Receiving<'a, 'g, 'm> {
    pub(super) sk: &'a Socket,
    pub(super) s: &'a mut OpenGuard<'g, Sdp>,
    pub(super) conn: &'a Arc<Conn>,
    pub(super) msg: &'a mut RecvMsg<'m>,
    pub(super) timeout: Timeout,
    /// Whether the call may sleep at all.
    pub(super) may_sleep: bool,
    /// Bytes that it waits for.
    pub(super) target: usize,
    /// It has the turn.
    pub(super) has_turn: bool,
    /// Bytes that it returns.
    pub(super) copied: usize,
    /// When the last of them came, where the program has asked.
    pub(super) stamp: Option<Stamp>,
    /// Bytes that a peek has already returned, or leaves out (`SO_PEEK_OFF`).
    pub(super) peeked: usize,
}

impl Receiving<'_, '_, '_> {
    /// Waits until no other call has the turn. Fails as a wait does.
    pub(super) fn await_turn(&mut self) -> Result {
        let shared = self.sk.shared();
        let turn = self
            .s
            .wait(&mut self.timeout, |_| shared.lock().recv_turn.ask());
        self.timeout.check(turn)
    }

    /// Takes the turn, if the call has not got it: before it sleeps without the socket lock, or
    /// changes what others find to be read.
    pub(super) fn take_turn(&mut self) {
        if !core::mem::replace(&mut self.has_turn, true) {
            self.sk.shared().lock().recv_turn.take();
        }
    }

    pub(super) fn end_turn(&mut self) {
        if core::mem::replace(&mut self.has_turn, false) && self.sk.shared().lock().recv_turn.end()
        {
            shared::notify_readers(self.sk);
        }
    }
}
