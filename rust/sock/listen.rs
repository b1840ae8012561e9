// SPDX-License-Identifier: GPL-2.0

//! listen, accept, and the passive side of connection set-up.
//!
//! A request becomes a child socket at once; once the CM says that it is connected it moves to the
//! listener's queue. The locks of listener and child are never held together.

use crate::{
    net::sock::Shown,
    prelude::*,
    proto::Side,
    rdma::cm::{
        ChildId,
        PeerParam, //
    },
    sock::{
        bind,
        conn::Conn,
        reap,
        release,
        ring::Ring,
        shutdown,
        Socket,
        State, //
    },
};
use core::net::{
    Ipv4Addr,
    SocketAddrV4, //
};
use kernel::sync::{
    aref::ARef,
    atomic::Relaxed, //
};

/// Requests that the CM is to have room for, however few the program lets wait: [`Backlog`] counts
/// those. iWARP forgets a connection that finds no room, and siw comes to harm when that one ends.
const REQUESTS: c_int = 128;

/// The connections that wait for accept.
pub(super) struct Backlog {
    /// In the order of their requests, although the CM may tell of the end of set-up in another.
    queue: Ring<Waiting>,
    /// The number of the next request.
    next: u64,
}

/// A connection that waits for accept.
pub(super) struct Waiting {
    child: ARef<Socket>,
    request: u64,
}

impl Backlog {
    /// As with TCP, a backlog of n holds n + 1.
    fn new(backlog: c_int) -> Result<Self> {
        let length = usize::try_from(backlog).unwrap_or(0).saturating_add(1);
        Ok(Self {
            queue: Ring::new(length)?,
            next: 0,
        })
    }

    /// Ends what waits, when the listener is no more. Without the listener's lock.
    pub(super) fn abandon(mut self) {
        while let Some(waiting) = self.queue.pop() {
            release::abandon(&mut waiting.child.lock());
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// A child's place in the backlog of its listener until it is connected.
pub(super) struct Pending {
    listener: ARef<Socket>,
    request: u64,
}

impl Pending {
    fn new(listener: &Socket, request: u64) -> Self {
        listener.pending.fetch_add(1, Relaxed);
        Self {
            listener: listener.into(),
            request,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.listener.pending.fetch_sub(1, Relaxed);
    }
}

/// `listen(2)`; the socket layer has bounded `backlog` by `net.core.somaxconn`.
pub(super) fn listen(sk: &Socket, backlog: c_int) -> Result {
    // Dropped after the lock.
    let mut failed = None;
    let mut s = reap::lock_clean(sk);
    let mut room = Backlog::new(backlog)?;
    match &mut s.state {
        State::Idle => {}
        State::Listening(old) => {
            if old.queue.len() > room.queue.capacity() {
                room.queue = Ring::new(old.queue.len())?;
            }
            room.queue.append(&mut old.queue);
            room.next = old.next;
            *old = room;
            return Ok(());
        }
        State::Connecting | State::Failed | State::Connected => return Err(EINVAL),
    }
    let mut id = match s.id.take() {
        Some(id) => id,
        None => {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            let (id, bound) = bind::bind_id(sk, s.bound.unwrap_or(any), &mut failed)?;
            s.bound = Some(bound);
            id
        }
    };
    // Requests may come from now on. Without the lock, since rdma_cm destroys ids of its own where
    // it cannot listen on all devices, and their handlers wait for the lock.
    s.state = State::Listening(room);
    drop(s);
    let result = id.listen(backlog.max(REQUESTS));
    let mut s = sk.lock();
    let is_listening = matches!(s.state, State::Listening(_));
    if is_listening && result.is_ok() {
        s.id = Some(id);
        sk.show(Shown::Listen);
        return Ok(());
    }
    if is_listening {
        shutdown::stop_listening(sk, s);
    } else {
        drop(s);
    }
    drop(id);
    result
}

/// `accept(2)`.
pub(super) fn accept(sk: &Socket, nonblock: bool) -> Result<ARef<Socket>> {
    let mut timeout = sk.recv_timeout(nonblock);
    let mut s = sk.lock();
    let waited = s.wait(&mut timeout, |s| match &s.state {
        State::Listening(backlog) => !backlog.is_empty() || sk.has_error(),
        _ => true,
    });
    waited.map_err(|woken| timeout.error(woken))?;
    match &mut s.state {
        State::Listening(backlog) => match backlog.queue.pop() {
            Some(waiting) => Ok(waiting.child),
            None => Err(sk.take_error().err().unwrap_or(EAGAIN)),
        },
        _ => Err(EINVAL),
    }
}

/// A Hello came to the listener `sk`: a child answers it.
///
/// In the handler of the listener's id. An error refuses the request.
pub(super) fn request(sk: &Socket, id: ChildId<'_>, param: PeerParam, hello: &[u8]) -> Result {
    let (pending, options) = {
        let mut s = sk.lock();
        let State::Listening(backlog) = &mut s.state else {
            return Err(ECONNREFUSED);
        };
        let pending = sk.pending.load(Relaxed) as usize;
        if backlog.queue.len().saturating_add(pending) >= backlog.queue.capacity() {
            return Err(ECONNREFUSED);
        }
        let request = backlog.next;
        backlog.next = request.wrapping_add(1);
        let options = (s.nodelay, s.cork, s.zcopy_threshold, s.zcopy_retry);
        (Pending::new(sk, request), options)
    };
    let child = sk.new_child()?;
    let mut c = child.lock();
    (c.nodelay, c.cork, c.zcopy_threshold, c.zcopy_retry) = options;
    let (id, handler) = id.adopt(child.clone())?;
    let conn = match Conn::new(&child, id, &handler, Side::Accepting) {
        Ok(conn) => conn,
        Err((e, id)) => {
            c.dead = Some(id);
            release::abandon(&mut c);
            return Err(e);
        }
    };
    c.conn = Some(conn.clone());
    // Counted as long as there is anything of it.
    c.listener = Some(pending);
    let accepted = c.prepare(&conn).and_then(|()| {
        let ack = conn
            .with(|m| m.hello_received(hello))
            .inspect_err(|violation| pr_debug!("bad Hello: {violation:?}\n"))
            .map_err(|_| EPROTO)?;
        conn.fill_first()?;
        bind::set_names(&mut c, &handler)?;
        handler.accept(&conn.param(Some(param)), &ack)
    });
    if accepted.is_err() {
        release::abandon(&mut c);
    } else {
        child.show(Shown::SynRecv);
    }
    accepted
}

/// The connecting end knows that the child was accepted.
pub(super) fn established(child: &Socket) {
    let pending = {
        let mut c = child.lock();
        if child.is_orphan() {
            return;
        }
        let (Some(pending), Some(conn)) = (c.listener.take(), c.conn.clone()) else {
            return;
        };
        c.state = State::Connected;
        conn.established();
        child.show(Shown::Established);
        pending
    };
    let listener = &pending.listener;
    let waiting = Waiting {
        child: child.into(),
        request: pending.request,
    };
    let queued = match &mut listener.lock().state {
        State::Listening(backlog) => backlog
            .queue
            .insert(waiting, |other| other.request > pending.request)
            .is_ok(),
        _ => false,
    };
    if queued {
        listener.data_ready();
    } else {
        release::abandon(&mut child.lock());
    }
}
