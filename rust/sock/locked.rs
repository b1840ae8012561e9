// SPDX-License-Identifier: GPL-2.0

//! The state of a socket that `lock_sock()` guards.

use crate::{
    net::sock::TcpState,
    sock::{
        backlog::Backlog,
        conn::Conn,
        conn_options::ConnOptions,
        conn_slot::ConnSlot,
        conn_state::{
            SetupResult,
            Teardown, //
        },
        local_addr::LocalAddr,
        settings,
        stream::Stream,
        types::{
            Net,
            Socket, //
        }, //
    }, //
};
use kernel::{
    fmt,
    sync::Arc, //
};

/// The state of a socket, as its program sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketState {
    /// Nothing, or a local address.
    Idle,
    /// It listens.
    Listening,
    /// Its connection is being made.
    Connecting,
    /// The connection was not made; connect reports why, once.
    Failed,
    /// It has, or had, a connection.
    Connected,
}

impl fmt::Display for SocketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Listening => "listening",
            Self::Connecting => "connecting",
            Self::Failed => "failed",
            Self::Connected => "connected",
        })
    }
}

impl SocketState {
    /// The state of a socket with this connection, and connections that wait for accept. Any
    /// context.
    pub(super) fn of(conn: Option<&Conn>, backlog: Option<&Backlog>) -> Self {
        match (conn, backlog) {
            (Some(conn), _) => match conn.setup_result() {
                SetupResult::Pending => Self::Connecting,
                SetupResult::Established => Self::Connected,
                SetupResult::Failed => Self::Failed,
            },
            (None, Some(backlog)) if backlog.is_listening() => Self::Listening,
            (None, _) => Self::Idle,
        }
    }
}

/// The part of a socket that `lock_sock()` guards, and that is accessed under that lock only.
pub(crate) struct Locked {
    /// Its address.
    pub(super) local: LocalAddr,
    /// Its connection.
    pub(super) slot: ConnSlot,
    /// The options, which the connection has too, and children of later requests inherit.
    pub(super) options: ConnOptions,
    /// The socket's part of the stream.
    pub(super) stream: Stream,
}

impl Locked {
    /// The state of a new socket in `net`. Any context.
    pub(super) fn new(net: &Net) -> Self {
        Self {
            local: LocalAddr::default(),
            slot: ConnSlot::default(),
            options: ConnOptions {
                zcopy_threshold: settings::zcopy_threshold(net),
                ..ConnOptions::default()
            },
            stream: Stream::new(),
        }
    }

    /// The present state.
    pub(super) fn state(&self) -> SocketState {
        let backlog = self.local.bound().map(|bound| &*bound.backlog);
        SocketState::of(self.conn().map(|conn| &**conn), backlog)
    }

    /// The connection that the socket has, or had until its end.
    pub(super) fn conn(&self) -> Option<&Arc<Conn>> {
        self.slot.get()
    }

    /// Whether `conn` is still the connection of the socket.
    pub(super) fn has(&self, conn: &Conn) -> bool {
        self.slot.has(conn)
    }

    /// Gives up the connection, which goes on to `teardown` without the socket. `sk` is the socket
    /// that this is of. Sleeps.
    pub(super) fn drop_conn(&mut self, sk: &Socket, teardown: Teardown) {
        if let Some(conn) = self.slot.set(sk, None) {
            sk.poll_state().lock().unshut();
            conn.detach();
            conn.advance_teardown(teardown);
            conn.drop_unread(core::mem::replace(&mut self.stream, Stream::new()).rx);
            self.slot.retire(conn);
        }
        self.slot.set_unreported(false);
        self.local.unbind_auto();
        sk.set_state(TcpState::Close);
        let nobody = sk.version().nobody();
        sk.reset_local(self.local.addr().unwrap_or(nobody));
        sk.set_peer(nobody);
    }

    /// Gives up a connection that failed before it was established. `sk` is the socket that this is
    /// of. Sleeps.
    pub(super) fn forget_failed(&mut self, sk: &Socket) {
        if matches!(self.state(), SocketState::Failed) {
            self.drop_conn(sk, Teardown::Disconnected);
        }
    }
}
