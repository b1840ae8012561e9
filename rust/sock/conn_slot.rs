// SPDX-License-Identifier: GPL-2.0

//! The connection that a socket has, and what is left of the one before.

use crate::{
    prelude::*,
    sock::{
        conn::Conn,
        types::Socket, //
    }, //
};
use kernel::sync::Arc;

/// The connection of a socket. Guarded by the socket lock.
#[derive(Default)]
pub(super) struct ConnSlot {
    /// The connection, which the socket has, or had until its end.
    conn: Option<Arc<Conn>>,
    /// The connection before, which may still hold the address.
    former: Option<Arc<Conn>>,
    /// connect() has not yet reported the result of this connection.
    is_unreported: bool,
    /// How often the socket was disconnected, modulo 2^32.
    disconnects: u32,
}

impl ConnSlot {
    /// The connection that the socket has, or had until its end.
    pub(super) fn get(&self) -> Option<&Arc<Conn>> {
        self.conn.as_ref()
    }

    /// Whether `conn` is still the connection of the socket.
    pub(super) fn has(&self, conn: &Conn) -> bool {
        self.get().is_some_and(|own| core::ptr::eq(&**own, conn))
    }

    /// Replaces the connection of `sk`, which this is of, also in its poll state. Wakes the calls
    /// that wait for the one before, which does not wake them any more, and returns that.
    pub(super) fn set(&mut self, sk: &Socket, conn: Option<Arc<Conn>>) -> Option<Arc<Conn>> {
        let before = core::mem::replace(&mut sk.poll_state().lock().conn, conn.clone());
        // Not the last reference.
        drop(before);
        pr_debug!(
            "socket: {} connection\n",
            if conn.is_some() { "a" } else { "no" }
        );
        let before = core::mem::replace(&mut self.conn, conn);
        if before.is_some() {
            // They look once the socket lock is released.
            sk.wake_calls();
        }
        before
    }

    /// Keeps a connection that the socket has given up, and ends the one before that. Sleeps.
    pub(super) fn retire(&mut self, conn: Arc<Conn>) {
        if let Some(older) = self.former.replace(conn) {
            older.finish();
        }
    }

    /// Waits until the connection before does not hold the address any more. Sleeps.
    pub(super) fn finish_former(&mut self) {
        if let Some(former) = self.former.take() {
            former.finish();
        }
    }

    /// Gives up the connection before: it ends now, unless the device keeps it until the peer has
    /// answered. Sleeps.
    pub(super) fn drop_former(&mut self) {
        if let Some(former) = self.former.take().filter(|former| !former.awaits_answer()) {
            former.finish();
        }
    }

    /// Whether connect has begun this connection, and has not yet reported its result.
    pub(super) fn is_unreported(&self) -> bool {
        self.is_unreported
    }

    /// Notes whether connect has yet to report the result of this connection.
    pub(super) fn set_unreported(&mut self, is_unreported: bool) {
        self.is_unreported = is_unreported;
    }

    /// How often the socket was disconnected, modulo 2^32: a call that waited meanwhile fails with
    /// `EPIPE`, as with TCP.
    pub(super) fn disconnects(&self) -> u32 {
        self.disconnects
    }

    /// Counts that the socket is disconnected.
    pub(super) fn count_disconnect(&mut self) {
        self.disconnects = self.disconnects.wrapping_add(1);
    }
}
