// SPDX-License-Identifier: GPL-2.0

//! What the RDMA CM tells of a socket's connection, handed to the verb that waits for it.
//!
//! Runs in process context under the handler mutex of the id, and takes the socket lock inside it.

use crate::{
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
use kernel::{
    prelude::*,
    sync::aref::ARef, //
};

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
            CmEvent::AddrError(e) if e == ETIMEDOUT => connect::addr_timed_out(sk),
            CmEvent::AddrError(e) => failed(sk, e),
            CmEvent::RouteError => failed(sk, EHOSTUNREACH),
            CmEvent::Unreachable => failed(sk, ETIMEDOUT),
            CmEvent::ConnectError => failed(sk, ECONNREFUSED),
            // Nobody listens there, or who does has no room.
            CmEvent::Rejected => failed(sk, ECONNREFUSED),
            CmEvent::Disconnected => gone(sk, None),
            CmEvent::DeviceRemoval => gone(sk, Some(ENODEV)),
            CmEvent::AddrChange | CmEvent::TimewaitExit => {}
        }
    }
}

/// A connection that was being made was not made.
fn failed(sk: &Socket, e: Error) {
    let mut s = sk.lock();
    if s.listener.take().is_some() {
        release::abandon(&mut s);
    } else if matches!(s.state, State::Connecting) {
        connect::failed(sk, &mut s, e);
    }
}

/// The connection is gone, or the device below it is going.
fn gone(sk: &Socket, cause: Option<Error>) {
    let mut s = sk.lock();
    if s.listener.take().is_some() {
        release::abandon(&mut s);
    } else if matches!(s.state, State::Connecting) {
        connect::failed(sk, &mut s, cause.unwrap_or(ECONNREFUSED));
    } else if let Some(conn) = &s.conn {
        if let Some(cause) = cause {
            conn.broken(cause);
        }
        conn.set_link(Link::Gone);
    } else if let Some(cause) = cause {
        // A listener, or a bound socket, whose device goes.
        sk.fail(cause);
        shutdown::stop_listening(sk, s);
    }
}
