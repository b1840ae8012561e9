// SPDX-License-Identifier: GPL-2.0

//! The last close of a socket's file.

use crate::{
    net::{
        sock::TcpState,
        wait::OpenGuard, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn::Conn,
        conn_state::{
            SetupResult,
            Teardown, //
        },
        locked::SocketState,
        orphan,
        recv_zcopy,
        send_zcopy,
        stream::Stream,
        types::{
            OpenSocket,
            Sdp,
            Socket, //
        }, //
    }, //
};

/// `close(2)` of the last file.
///
/// As with TCP: unread data, or a linger time of 0, resets the connection; otherwise what was
/// written is sent first, and the caller waits for that as long as `SO_LINGER` says. The rest is
/// done by the connection, without the socket. Sleeps.
pub(super) fn release(sk: &OpenSocket) {
    let mut s = sk.lock();
    // From here on no connection is established any more.
    if let Some(conn) = s.conn() {
        conn.fail_setup(ECONNRESET);
    }
    if let (SocketState::Connected, Some(conn)) = (s.state(), s.conn().cloned()) {
        close(sk, &mut s, &conn);
    }
    s.orphan();
    s.slot.drop_former();
    let backlog = sk.poll_state().lock().backlog.take();
    drop(backlog);
    s.local.unbind();
    if let Some(conn) = s.slot.set(sk, None) {
        leave_to_itself(&conn);
    }
    sk.set_state(TcpState::Close);
    s.stream = Stream::new();
}

fn close(sk: &Socket, s: &mut OpenGuard<'_, Sdp>, conn: &Conn) {
    send_zcopy::cancel_retry(s, conn);
    recv_zcopy::cancel_retry(s, conn);
    let linger = sk.linger();
    let unread = conn.unread() > 0 || conn.advertised() > 0;
    if unread || linger.is_some_and(|timeout| timeout.is_zero()) {
        conn.with(Machine::abort);
        return;
    }
    if orphan::are_too_many(sk.net(), 1) {
        conn.with(Machine::abort);
        return conn.advance_teardown(Teardown::DisconnectNeeded);
    }
    conn.with(|m| {
        m.shutdown_receive();
        m.shutdown_send();
    });
    if let Some(mut timeout) = linger {
        // However the wait ends, the connection does the rest.
        let _ = s.wait(&mut timeout, |_| conn.queued() == 0 || !conn.is_up());
    }
}

/// Takes a connection from the socket, to end by itself.
fn leave_to_itself(conn: &Conn) {
    if conn.setup_result() == SetupResult::Established {
        conn.detach();
        conn.update_state();
        conn.wait_for_fin();
    } else {
        conn.discard();
    }
}
