// SPDX-License-Identifier: GPL-2.0

//! listen and accept.

use crate::{
    net::sock::{
        Child,
        TcpState, //
    },
    prelude::*,
    sock::{
        addr,
        endpoint::Bound,
        locked::SocketState,
        types::{
            OpenSocket,
            Sdp,
            Socket, //
        }, //
    }, //
};
use core::net::SocketAddr;

/// `listen(2)`; the socket layer has bounded `backlog` by `net.core.somaxconn`. Sleeps. Fails with
/// `EINVAL` for a socket that connects or is connected, and as [`Bound::new`] and
/// [`Bound::listen`] do.
pub(super) fn listen(sk: &Socket, backlog: c_int) -> Result {
    let mut s = sk.lock();
    match s.state() {
        SocketState::Idle => s.slot.finish_former(),
        SocketState::Listening => {}
        SocketState::Connecting | SocketState::Failed | SocketState::Connected => {
            return Err(EINVAL)
        }
    }
    let options = s.options;
    if s.local.bound().is_none() {
        let addr = s.local.addr().unwrap_or(sk.version().nobody());
        let bound = Bound::new(&s, addr)?;
        sk.set_local(bound.addr());
        s.local.bind(bound);
    }
    let bound = s.local.bound_mut().ok_or(EINVAL)?;
    // Before a connection may come that poll is to report.
    let former = sk
        .poll_state()
        .lock()
        .backlog
        .replace(bound.backlog.clone());
    drop(former);
    bound.listen(sk, usize::try_from(backlog).unwrap_or(0), options)?;
    sk.set_state(TcpState::Listen);
    Ok(())
}

/// `accept(2)`, which also returns whether more connections wait.
///
/// The child's sock is made here, by the accepting task, whose cgroup is charged for it. Sleeps.
pub(super) fn accept(sk: &OpenSocket, nonblock: bool) -> Result<(Child<Sdp>, bool)> {
    let mut timeout = sk.recv_timeout(nonblock);
    let mut s = sk.lock();
    loop {
        let waited = s.wait_exclusive(&mut timeout, |s| match (s.state(), s.local.bound()) {
            (SocketState::Listening, Some(bound)) => bound.backlog.has_ready() || sk.has_error(),
            _ => true,
        });
        timeout.check(waited)?;
        let backlog = match (s.state(), s.local.bound()) {
            (SocketState::Listening, Some(bound)) => bound.backlog.clone(),
            _ => return Err(EINVAL),
        };
        if !backlog.has_ready() {
            return Err(sk.take_error().err().unwrap_or(EAGAIN));
        }
        // Before the connection leaves the queue, where it stays if this fails.
        let child = sk.new_child().inspect_err(|_| sk.data_ready())?;
        let Some(conn) = backlog.next() else { continue };
        if let Some(inherited) = &conn.inherited {
            child.inherit(inherited);
        }
        let own = s.local.addr().filter(|own| !own.ip().is_unspecified());
        drop(s);
        conn.reclaim_for(&child);
        if let Err(e) = conn.charge_to(&child) {
            backlog.put_back(conn);
            return Err(e);
        }
        backlog.free_place(&conn);
        {
            let mut c = child.lock();
            c.options = conn.flow.lock().options.accepted();
            let keepalive = c.options.timeouts.keepalive;
            c.set_keepopen(keepalive);
            c.slot.set(&child, Some(conn.clone()));
        }
        if let Some(addrs) = conn.addrs() {
            if let SocketAddr::V6(local) = addrs.local {
                if local.scope_id() > 0 {
                    child.set_interface(local.scope_id());
                }
            }
            child.set_local(addrs.local);
            child.set_peer(addrs.peer);
            // As with TCP the child is bound to that address too, and keeps it when it is
            // disconnected.
            let source = own.map(|_| addr::with_port(addrs.local, 0));
            child.lock().local.set_source(source);
        }
        conn.attach(&child);
        return Ok((child, backlog.has_ready()));
    }
}
