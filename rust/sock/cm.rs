// SPDX-License-Identifier: GPL-2.0

//! What the RDMA CM tells of a socket's connection, handed to the verb that waits for it.
//!
//! Runs in process context under the handler mutex of the id. What goes on with a set-up takes the
//! socket lock there; what ends a connection is left to the socket's work.

use crate::{
    prelude::*,
    rdma::cm::{
        CmEvent,
        CmHandler,
        Handler, //
    },
    sock::{
        conn::Link,
        connect,
        listen,
        release,
        shutdown,
        Socket,
        State, //
    },
};
use kernel::sync::aref::ARef;

impl CmHandler for ARef<Socket> {
    fn event(&self, handler: &Handler<'_>, event: CmEvent<'_>) {
        let sk: &Socket = self;
        match event {
            CmEvent::AddrResolved => connect::addr_resolved(sk, handler),
            CmEvent::RouteResolved => connect::route_resolved(sk, handler),
            CmEvent::Established { private_data } => {
                if sk.lock().listener.is_some() {
                    listen::established(sk);
                } else {
                    connect::established(sk, handler, private_data);
                }
            }
            CmEvent::ConnectRequest {
                child,
                param,
                private_data,
            } => {
                if let Err(e) = listen::request(sk, child, param, private_data) {
                    pr_debug!("connection request refused: {e:?}\n");
                }
            }
            CmEvent::AddrError(e) if e == ETIMEDOUT => ended(sk, Ended::NoAnswer),
            CmEvent::AddrError(e) => ended(sk, Ended::Failed(e)),
            CmEvent::RouteError => ended(sk, Ended::Failed(EHOSTUNREACH)),
            CmEvent::Unreachable => ended(sk, Ended::Failed(ETIMEDOUT)),
            // Nobody listens there, or who does has no room.
            CmEvent::ConnectError | CmEvent::Rejected => ended(sk, Ended::Failed(ECONNREFUSED)),
            CmEvent::Disconnected => ended(sk, Ended::Gone),
            CmEvent::DeviceRemoval => ended(sk, Ended::Removed),
            CmEvent::AddrChange | CmEvent::TimewaitExit => {}
        }
    }
}

/// How the CM said that it is over with a cm id.
pub(super) enum Ended {
    /// The peer did not say its address in time.
    NoAnswer,
    /// There will be no connection, for this reason.
    Failed(Error),
    /// The connection is gone.
    Gone,
    /// The device goes, which waits until the id is destroyed.
    Removed,
}

/// Leaves it to the socket's work: a handler that waited for a user who sleeps in a page fault
/// with the socket lock would keep the CM from all its other connections.
fn ended(sk: &Socket, how: Ended) {
    *sk.ended.lock() = Some(how);
    sk.queue_work();
}

/// Does what [`ended()`] left. In the socket's work.
pub(super) fn take_end(sk: &Socket) {
    let Some(how) = sk.ended.lock().take() else {
        return;
    };
    let mut s = sk.lock();
    if s.listener.is_some() {
        // A child that nobody will accept.
        release::abandon(&mut s);
    } else if matches!(s.state, State::Connecting) {
        match how {
            Ended::NoAnswer => {
                drop(s);
                connect::look_again(sk);
            }
            Ended::Failed(e) => connect::failed(sk, &mut s, e),
            Ended::Gone => connect::failed(sk, &mut s, ECONNREFUSED),
            Ended::Removed => connect::failed(sk, &mut s, ENODEV),
        }
    } else if let Some(conn) = &s.conn {
        if matches!(how, Ended::Removed) {
            conn.broken(ENODEV);
        }
        conn.set_link(Link::Gone);
    } else if matches!(how, Ended::Removed) {
        // A listener, or a bound socket.
        sk.fail(ENODEV);
        shutdown::stop_listening(sk, s);
    }
}
