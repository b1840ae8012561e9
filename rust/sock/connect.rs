// SPDX-License-Identifier: GPL-2.0

//! connect, and the active side of connection set-up.

use crate::{
    net::sock::{
        Shown,
        SockGuard,
        Woken, //
    },
    prelude::*,
    proto::{
        Machine,
        Side, //
    },
    rdma::cm::Handler,
    sock::{
        bind,
        conn::{
            Conn,
            Id,
            Link, //
        },
        reap,
        receive,
        ring::Ring,
        Locked,
        Sdp,
        Socket,
        State, //
    },
};
use core::net::{
    SocketAddr,
    SocketAddrV4, //
};

/// How long the route to a peer may take, in milliseconds.
const ROUTE_MS: u32 = 3000;

/// How long one look for the peer's address may take, in milliseconds. ib_core misses an answer
/// that comes while it queues the question, and looks again only when this time is over.
const ADDRESS_MS: u32 = 200;

/// How many looks there are; together they take five seconds, as ARP gives up after three.
const ADDRESS_LOOKS: u8 = 25;

/// The address of the peer that a connecting socket looks for.
pub(super) struct Lookup {
    peer: SocketAddrV4,
    /// Looks that are left.
    left: u8,
}

/// `connect(2)`.
pub(super) fn connect(sk: &Socket, peer: SocketAddrV4, nonblock: bool) -> Result {
    let mut timeout = sk.send_timeout(nonblock);
    // Dropped after the lock.
    let mut failed = None;
    let mut s = reap::lock_clean(sk);
    match s.state {
        State::Idle => {
            let lookup = Lookup {
                peer,
                left: ADDRESS_LOOKS,
            };
            // What was left of a connection before this one is not its error.
            let _ = sk.take_error();
            look(sk, &mut s, lookup, &mut failed)?;
        }
        State::Connecting if nonblock => return Err(EALREADY),
        State::Connecting | State::Failed => {}
        // The first call after it tells of success, as with TCP.
        State::Connected if s.untold => {}
        State::Listening(_) | State::Connected => return Err(EISCONN),
    }
    if nonblock && matches!(s.state, State::Connecting) {
        return Err(EINPROGRESS);
    }
    match s.wait(&mut timeout, |s| !matches!(s.state, State::Connecting)) {
        Ok(()) => {}
        Err(Woken::TimedOut) => return Err(EINPROGRESS),
        Err(woken) => return Err(timeout.error(woken)),
    }
    if matches!(s.state, State::Connected) {
        s.untold = false;
        return Ok(());
    }
    if matches!(s.state, State::Failed) {
        s.state = State::Idle;
    }
    // Where SO_ERROR has told the reason already, TCP says so too.
    sk.take_error()?;
    Err(ECONNABORTED)
}

/// Looks for the peer's address, with a cm id that has not looked before.
fn look(
    sk: &Socket,
    s: &mut SockGuard<'_, Sdp>,
    lookup: Lookup,
    failed: &mut Option<Id>,
) -> Result {
    let mut id = match (s.id.take(), s.bound) {
        (Some(id), _) => id,
        (None, Some(bound)) => bind::bind_id(sk, bound, failed)?.0,
        (None, None) => bind::new_id(sk)?,
    };
    // The handler waits for the socket lock before it looks.
    let resolving = id.resolve_addr(None, &SocketAddr::V4(lookup.peer), ADDRESS_MS);
    s.id = Some(id);
    if let Err(e) = resolving {
        s.bury();
        sk.queue_work();
        return Err(e);
    }
    s.lookup = Some(lookup);
    s.state = State::Connecting;
    sk.show(Shown::SynSent);
    Ok(())
}

/// The connection cannot be made: `e` is connect's to tell.
pub(super) fn failed(sk: &Socket, s: &mut SockGuard<'_, Sdp>, e: Error) {
    s.state = State::Failed;
    s.local = None;
    s.peer = None;
    s.bury();
    if let Some(conn) = &s.conn {
        conn.set_link(Link::Gone);
    }
    sk.show(Shown::Close);
    sk.queue_work();
    sk.fail(e);
    sk.state_change();
}

/// The peer did not say its address in time: looks for it again, with a new cm id, since a used
/// one would wait for its handler. In the socket's work.
pub(super) fn look_again(sk: &Socket) {
    let lookup = {
        let mut s = sk.lock();
        if !matches!(s.state, State::Connecting) {
            return;
        }
        match s.lookup.take() {
            Some(lookup) if lookup.left > 0 => {
                s.bury();
                Lookup {
                    left: lookup.left.saturating_sub(1),
                    ..lookup
                }
            }
            // As TCP says it of a host that does not answer.
            _ => return failed(sk, &mut s, EHOSTUNREACH),
        }
    };
    // Dropped after the lock.
    let mut unbound = None;
    // Frees the port, where the socket is bound to one.
    let mut s = reap::lock_clean(sk);
    // Unless another attempt has begun meanwhile.
    let same = s.id.is_none() && s.lookup.is_none() && s.conn.is_none();
    if same && matches!(s.state, State::Connecting) {
        if let Err(e) = look(sk, &mut s, lookup, &mut unbound) {
            failed(sk, &mut s, e);
        }
    }
}

/// The peer's address is known: on to the route.
pub(super) fn addr_resolved(sk: &Socket, handler: &Handler<'_>) {
    let mut s = sk.lock();
    if !matches!(s.state, State::Connecting) {
        return;
    }
    if let Err(e) = handler.resolve_route(ROUTE_MS) {
        failed(sk, &mut s, e);
    }
}

/// The route is known, and with it the device: send the Hello.
pub(super) fn route_resolved(sk: &Socket, handler: &Handler<'_>) {
    let mut s = sk.lock();
    if !matches!(s.state, State::Connecting) {
        return;
    }
    let Some(id) = s.id.take() else { return };
    match Conn::new(sk, id, handler, Side::Connecting) {
        Ok(conn) => {
            s.conn = Some(conn.clone());
            let sent = s.prepare(&conn).and_then(|()| {
                conn.fill_first()?;
                let hello = conn.with(Machine::hello);
                handler.connect(&conn.param(None), &hello)
            });
            if let Err(e) = sent {
                failed(sk, &mut s, e);
            }
        }
        Err((e, id)) => {
            s.id = Some(id);
            failed(sk, &mut s, e);
        }
    }
}

/// The peer accepted, and `private_data` is its HelloAck if it speaks SDP.
pub(super) fn established(sk: &Socket, handler: &Handler<'_>, private_data: &[u8]) {
    let mut s = sk.lock();
    if !matches!(s.state, State::Connecting) {
        return;
    }
    let Some(conn) = s.conn.clone() else { return };
    if let Err(violation) = conn.hello_ack(private_data) {
        pr_debug!("the listener does not speak SDP: {violation:?}\n");
        // The peer has a connection that nobody here wants: it is told, by the work.
        conn.set_link(Link::Drop);
        return failed_after_accept(sk, &mut s);
    }
    if let Err(e) = bind::set_names(&mut s, handler) {
        return failed(sk, &mut s, e);
    }
    s.state = State::Connected;
    s.untold = true;
    sk.show(Shown::Established);
    sk.state_change();
    sk.write_space();
}

/// As [`failed()`], but the peer has to be told.
fn failed_after_accept(sk: &Socket, s: &mut SockGuard<'_, Sdp>) {
    s.state = State::Failed;
    sk.show(Shown::Close);
    sk.fail(EPROTO);
    sk.state_change();
}

impl Locked {
    /// Hands the machine of `conn` the options that it goes by.
    pub(super) fn tell(&self, conn: &Conn) {
        conn.with(|m| {
            m.set_nodelay(self.nodelay);
            m.set_cork(self.cork);
            m.set_zero_copy(self.zcopy_threshold > 0);
            m.set_pipeline_hint(self.zcopy_threshold > 0);
        });
    }

    /// Makes what the user side of `conn` needs, and hands it what was set before it was there.
    pub(super) fn prepare(&mut self, conn: &Conn) -> Result {
        self.rx = Ring::new(receive::FIRST.into())?;
        self.consumed = 0;
        self.crossed_at = None;
        self.lends = false;
        self.tell(conn);
        Ok(())
    }
}
