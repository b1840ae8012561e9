// SPDX-License-Identifier: GPL-2.0

//! shutdown, and disconnecting by connect to `AF_UNSPEC`.

use crate::{
    net::sock::TcpState,
    prelude::*,
    proto::Machine,
    sock::{
        conn_state::Teardown,
        locked::{
            Locked,
            SocketState, //
        },
        recv_zcopy,
        send_zcopy,
        types::{
            OpenSocket,
            Socket, //
        }, //
    }, //
};
use kernel::sync::atomic::Relaxed;

/// `shutdown(2)`, which does in each state what TCP does. Sleeps. Fails with `ENOTCONN`.
pub(super) fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
    let mut s = sk.lock();
    match s.state() {
        SocketState::Idle => {
            // It is shut nevertheless, and so is the connection that it gets.
            {
                let mut poll_state = sk.poll_state().lock();
                poll_state.recv_shut |= read;
                poll_state.send_shut |= write;
            }
            sk.state_change();
            return Err(ENOTCONN);
        }
        SocketState::Failed => {
            sk.state_change();
            return Err(ENOTCONN);
        }
        SocketState::Connecting => {
            let conn = s.conn().cloned().ok_or(ENOTCONN)?;
            if !conn.fail_setup(ECONNRESET) {
                // The outcome of the connect was just decided.
                drop(s);
                return shutdown(sk, read, write);
            }
            s.forget_failed(sk);
        }
        SocketState::Listening => {
            if read {
                stop_listening(sk, &mut s);
                sk.report_error();
            }
        }
        SocketState::Connected => {
            let conn = s.conn().cloned().ok_or(ENOTCONN)?;
            if !conn.is_up() {
                sk.state_change();
                return Err(ENOTCONN);
            }
            if write {
                conn.with(Machine::shutdown_send);
                conn.arm_timer();
                conn.update_state();
            }
            if read {
                conn.recv_shut.store(true, Relaxed);
            }
            if conn.recv_shut.load(Relaxed) && conn.inspect(Machine::send_shut) {
                // Who sends now does so to nobody, and is notified.
                conn.with(Machine::shutdown_receive);
            }
            sk.state_change();
        }
    }
    Ok(())
}

/// Stops listening, and ends what waits for accept. The socket keeps its address.
fn stop_listening(sk: &Socket, s: &mut Locked) {
    if let Some(bound) = s.local.bound_mut() {
        bound.stop();
    }
    sk.set_state(TcpState::Close);
    sk.state_change();
}

/// Ends a listener for an administrator (`ss -K`). Sleeps. Fails with `ENOENT` for a socket that
/// does not listen.
pub(super) fn abort_listener(sk: &Socket) -> Result {
    let mut s = sk.lock();
    if !matches!(s.state(), SocketState::Listening) {
        return Err(ENOENT);
    }
    sk.set_error(ECONNABORTED);
    stop_listening(sk, &mut s);
    sk.report_error();
    Ok(())
}

/// `connect(2)` to `AF_UNSPEC`: resets a connection, ends a connect, or stops listening. Sleeps.
pub(super) fn disconnect(sk: &OpenSocket) {
    let mut s = sk.lock();
    s.slot.count_disconnect();
    match s.state() {
        SocketState::Idle => sk.poll_state().lock().unshut(),
        SocketState::Failed => s.forget_failed(sk),
        SocketState::Connecting => {
            let Some(conn) = s.conn().cloned() else {
                return;
            };
            if !conn.fail_setup(ECONNRESET) {
                // The outcome of the connect was just decided.
                drop(s);
                return disconnect(sk);
            }
            s.forget_failed(sk);
        }
        SocketState::Listening => stop_listening(sk, &mut s),
        SocketState::Connected => {
            if let Some(conn) = s.conn().cloned() {
                let was_up = conn.is_up();
                send_zcopy::cancel_retry(&s, &conn);
                recv_zcopy::cancel_retry(&mut s, &conn);
                conn.with(Machine::abort);
                if was_up {
                    // As TCP reports to who used it at the time.
                    sk.set_error(ECONNRESET);
                }
                s.drop_conn(sk, Teardown::DisconnectNeeded);
            }
            sk.state_change();
        }
    }
    sk.stop_peek_offset();
    // As TCP does, whether there is an error or not.
    sk.report_error();
}
