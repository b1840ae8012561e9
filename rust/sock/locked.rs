// SPDX-License-Identifier: GPL-2.0

//! The state of a socket that `lock_sock()` guards.

use crate::{
    net::sock::TcpState,
    prelude::*,
    sock::{
        backlog::Backlog,
        conn::Conn,
        conn_options::ConnOptions,
        endpoint::Bound,
        link::{
            Link,
            Progress, //
        },
        settings,
        stream::Stream,
        types::{
            Net,
            Socket, //
        }, //
    }, //
};
use core::net::SocketAddr;
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
    /// The connection was not made; connect tells why, once.
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
            (Some(conn), _) => match conn.progress() {
                Progress::SettingUp => Self::Connecting,
                Progress::Established => Self::Connected,
                Progress::Failed => Self::Failed,
            },
            (None, Some(backlog)) if backlog.is_listening() => Self::Listening,
            (None, _) => Self::Idle,
        }
    }
}

/// The part of a socket that `lock_sock()` guards, and nobody needs without that.
pub(crate) struct Locked {
    /// The address that it is bound to.
    pub(super) bound: Option<Bound>,
    /// connect() chose that address, for this connection.
    pub(super) is_autobound: bool,
    /// The address of a socket that is bound without a port, which connect() or listen() chooses.
    pub(super) source: Option<SocketAddr>,
    /// Why the last bind failed: a negative errno, or 0. `ENOENT` where it was for want of a
    /// device.
    pub(super) last_bind_error: c_int,
    /// The connection that the socket has, or had until its end; [`Self::set_conn`] changes it.
    conn: Option<Arc<Conn>>,
    /// The connection before, which may still hold the address.
    pub(super) former: Option<Arc<Conn>>,
    /// connect() has not yet reported the result of this connection.
    pub(super) connect_unreported: bool,
    /// How often the socket was disconnected, modulo 2^32: a call that waited meanwhile fails with
    /// `EPIPE`, as with TCP.
    pub(super) disconnects: u32,
    /// The options, which the connection has too, and children of later requests inherit.
    pub(super) options: ConnOptions,
    /// The socket's part of the stream.
    pub(super) stream: Stream,
}

impl Locked {
    /// The state of a new socket in `net`. Any context.
    pub(super) fn new(net: &Net) -> Self {
        Self {
            bound: None,
            is_autobound: false,
            source: None,
            last_bind_error: 0,
            conn: None,
            former: None,
            connect_unreported: false,
            disconnects: 0,
            options: ConnOptions {
                zcopy_threshold: settings::zcopy_threshold(net),
                ..ConnOptions::default()
            },
            stream: Stream::new(),
        }
    }

    /// The present state. Any context, with the socket locked.
    pub(super) fn state(&self) -> SocketState {
        let backlog = self.bound.as_ref().map(|bound| &*bound.backlog);
        SocketState::of(self.conn.as_deref(), backlog)
    }

    /// The connection that the socket has, or had until its end.
    pub(super) fn conn(&self) -> Option<&Arc<Conn>> {
        self.conn.as_ref()
    }

    /// Gives `sk`, which this is of, another connection, or none. Returns the one before.
    pub(super) fn set_conn(&mut self, sk: &Socket, conn: Option<Arc<Conn>>) -> Option<Arc<Conn>> {
        let former = core::mem::replace(&mut sk.shared().lock().conn, conn.clone());
        // Not the last reference.
        drop(former);
        core::mem::replace(&mut self.conn, conn)
    }

    /// Whether `conn` is still the connection of the socket.
    pub(super) fn has(&self, conn: &Conn) -> bool {
        self.conn
            .as_ref()
            .is_some_and(|own| core::ptr::eq(&**own, conn))
    }

    /// Gives up the connection, which goes on to `link` without the socket. `sk` is the socket that
    /// this is of. Sleeps.
    pub(super) fn drop_conn(&mut self, sk: &Socket, link: Link) {
        if let Some(conn) = self.set_conn(sk, None) {
            sk.shared().lock().unshut();
            conn.detach();
            // Those that wait for it, whom it does not wake any more.
            sk.wake_calls();
            conn.set_link(link);
            conn.drop_unread(core::mem::replace(&mut self.stream, Stream::new()).rx);
            if let Some(older) = self.former.replace(conn) {
                older.finish();
            }
        }
        self.connect_unreported = false;
        self.unbind_auto();
        sk.set_state(TcpState::Close);
        let nobody = sk.version().nobody();
        sk.reset_local(self.own_addr().unwrap_or(nobody));
        sk.set_peer(nobody);
    }

    /// The address that it is bound to, of port 0 where it has none yet.
    pub(super) fn own_addr(&self) -> Option<SocketAddr> {
        self.bound
            .as_ref()
            .map(|bound| bound.addr())
            .or(self.source)
    }

    /// Gives up the address that connect() chose. Sleeps.
    pub(super) fn unbind_auto(&mut self) {
        if core::mem::take(&mut self.is_autobound) {
            if let Some(bound) = self.bound.take() {
                bound.close();
            }
        }
    }

    /// Gives up a connection that failed before it was established. `sk` is the socket that this is
    /// of. Sleeps.
    pub(super) fn forget_failed(&mut self, sk: &Socket) {
        if matches!(self.state(), SocketState::Failed) {
            self.drop_conn(sk, Link::Disconnected);
        }
    }

    /// Waits until the connection before does not hold the address any more. Sleeps.
    pub(super) fn finish_former(&mut self) {
        if let Some(conn) = self.former.take() {
            conn.finish();
        }
    }
}
