// SPDX-License-Identifier: GPL-2.0

//! listen and accept.

use crate::{
    net::sock::Shown,
    prelude::*,
    sock::{
        listener::Listener,
        Socket,
        State, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddrV4, //
};
use kernel::sync::aref::ARef;

/// `listen(2)`; the socket layer has bounded `backlog` by `net.core.somaxconn`.
pub(super) fn listen(sk: &Socket, backlog: c_int) -> Result {
    let mut s = sk.lock();
    match s.state() {
        State::Idle => s.finish_former(),
        State::Listening => {}
        State::Connecting | State::Failed | State::Connected => return Err(EINVAL),
    }
    let port = match s.port.take().filter(|port| port.is_bound()) {
        Some(port) => port,
        None => {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            let (port, bound) = Listener::bound(sk, s.bound.unwrap_or(any))?;
            s.bound = Some(bound);
            port
        }
    };
    // Before that can fail: who gives the port up closes it.
    s.port = Some(port.clone());
    port.listen(usize::try_from(backlog).unwrap_or(0), s.options)?;
    sk.show(Shown::Listen);
    Ok(())
}

/// `accept(2)`.
///
/// The child's sock is made here, by the accepting task: whose it is, what it is charged to and what
/// label it has follow from that.
pub(super) fn accept(sk: &Socket, nonblock: bool) -> Result<ARef<Socket>> {
    let mut timeout = sk.recv_timeout(nonblock);
    let mut s = sk.lock();
    loop {
        let waited = s.wait(&mut timeout, |s| match (s.state(), &s.port) {
            (State::Listening, Some(port)) => port.has_ready() || sk.has_error(),
            _ => true,
        });
        waited.map_err(|woken| timeout.error(woken))?;
        let port = match (s.state(), &s.port) {
            (State::Listening, Some(port)) => port.clone(),
            _ => return Err(EINVAL),
        };
        if !port.has_ready() {
            return Err(sk.take_error().err().unwrap_or(EAGAIN));
        }
        // Before the connection leaves the queue, where it stays if this fails.
        let child = sk.new_child()?;
        let Some(conn) = port.next() else { continue };
        drop(s);
        if let Err(e) = conn.charge_to(&child) {
            port.put_back(conn);
            return Err(e);
        }
        port.free_place(&conn);
        {
            let mut c = child.lock();
            c.options = conn.flow.lock().options;
            c.conn = Some(conn.clone());
        }
        child.show(Shown::Established);
        conn.attach(&child);
        return Ok(child);
    }
}
