// SPDX-License-Identifier: GPL-2.0

//! listen and accept.

use crate::{
    net::sock::TcpState,
    prelude::*,
    sock::{
        addr,
        endpoint::Endpoint,
        Socket,
        State, //
    },
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
    let options = s.options;
    let bound = match &mut s.bound {
        Some(bound) => bound,
        None => {
            let bound = Endpoint::bind(sk, addr::ANY)?;
            sk.set_local(bound.addr());
            s.bound.insert(bound)
        }
    };
    bound.listen(usize::try_from(backlog).unwrap_or(0), options)?;
    sk.set_state(TcpState::Listen);
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
        let waited = s.wait(&mut timeout, |s| match (s.state(), &s.bound) {
            (State::Listening, Some(bound)) => bound.backlog.has_ready() || sk.has_error(),
            _ => true,
        });
        waited.map_err(|woken| timeout.error(woken))?;
        let backlog = match (s.state(), &s.bound) {
            (State::Listening, Some(bound)) => bound.backlog.clone(),
            _ => return Err(EINVAL),
        };
        if !backlog.has_ready() {
            return Err(sk.take_error().err().unwrap_or(EAGAIN));
        }
        // Before the connection leaves the queue, where it stays if this fails.
        let child = sk.new_child()?;
        let Some(conn) = backlog.next() else { continue };
        drop(s);
        if let Err(e) = conn.charge_to(&child) {
            backlog.put_back(conn);
            return Err(e);
        }
        backlog.free_place(&conn);
        {
            let mut c = child.lock();
            c.options = conn.flow.lock().options;
            c.conn = Some(conn.clone());
        }
        if let Some(names) = conn.names() {
            child.set_local(names.local);
            child.set_peer(names.peer);
        }
        conn.attach(&child);
        return Ok(child);
    }
}
