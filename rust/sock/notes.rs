// SPDX-License-Identifier: GPL-2.0

//! What the RDMA CM reported of a connection, and the state of its set-up and teardown.
//!
//! `I` is the type of its cm id. The connection is the handler of that, and imports this file, so
//! the type cannot be named here.

use crate::{
    net::sock::Route,
    prelude::*,
    rdma::cm::PeerParam,
    sock::{
        addr::AddrPair,
        ports::{
            Claim,
            Expectation, //
        },
        slow_queue, //
    },
};
use core::net::SocketAddr;
use kernel::fmt;

/// What the CM reported, until the work or a waiting task takes it. Guarded by `Connection::notes`.
pub(super) struct Notes<I> {
    /// The cm id of a new request, which is not charged.
    pub(super) id: Option<I>,
    /// The next step of the set-up.
    pub(super) step: Option<Step>,
    /// The end, if one was reported after that.
    pub(super) end: Option<End>,
    /// How many tasks wait for the connection, and take the steps themselves.
    pub(super) waiters: u32,
}

impl<I> Notes<I> {
    /// Before anything was reported.
    pub(super) fn new() -> Self {
        Self {
            id: None,
            step: None,
            end: None,
            waiters: 0,
        }
    }

    /// Notes the next step.
    pub(super) fn set_step(&mut self, step: Step) {
        pr_debug!("next step: {step}\n");
        self.step = Some(step);
    }

    /// Notes the end: the removal of the device overrides any other, and a path that is lost none.
    pub(super) fn set_end(&mut self, end: End) {
        match (&self.end, &end) {
            (Some(End::Removed), _) | (Some(_), End::Lost) => {}
            _ => {
                pr_debug!("end: {end}\n");
                self.end = Some(end);
            }
        }
    }

    /// Forgets both, of a cm id that is gone.
    pub(super) fn clear(&mut self) {
        self.step = None;
        self.end = None;
    }
}

/// A step of the set-up that the CM has made possible.
pub(super) enum Step {
    /// The peer's address is resolved.
    Address,
    /// The route is resolved, and with it the device known.
    Route,
    /// A peer asks for the connection between these addresses, with this Hello.
    Request(PeerParam, PrivateData, AddrPair),
    /// The connection is established; with the HelloAck of the peer if this end has connected.
    Established(PrivateData),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Route => "route",
            Self::Request(..) => "request",
            Self::Established(_) => "established",
        })
    }
}

/// An end that the CM reported.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// The peer's address was not resolved in time.
    NoAnswer,
    /// The peer has no room for the connection now.
    Busy,
    /// The peer refused, and did not say why.
    Refused,
    /// The peer does not answer, or the path to it has changed.
    Lost,
    /// There will be no connection, for this reason.
    Failed(Error),
    /// The connection was disconnected.
    Gone,
    /// The device is being removed, which waits until the cm id is destroyed.
    Removed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "no-answer",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Failed(_) => "failed",
            Self::Gone => "gone",
            Self::Removed => "removed",
        })
    }
}

/// A copy of the start of the CM's private data, which is valid in the handler only. A Hello is
/// shorter than the 64 bytes.
pub(super) struct PrivateData {
    bytes: [u8; 64],
    len: usize,
}

impl PrivateData {
    /// Copies as much of `data` as there is room for. Any context.
    pub(super) fn new(data: &[u8]) -> Self {
        let mut bytes = [0; 64];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }

    /// The bytes.
    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// State of set-up and teardown, used in process context only; guarded by Connection::setup.
pub(super) struct Setup<I> {
    /// The cm id while there is no QP, which has it afterwards.
    pub(super) id: Option<I>,
    /// What a connect resolves; none for the accepting side.
    pub(super) lookup: Option<Lookup>,
    /// Its addresses at the port that its socket is bound to, until its end.
    pub(super) claim: Option<Claim>,
    /// What the listening port of this host is to expect.
    pub(super) expectation: Option<Expectation>,
    /// The addresses of the ends, where the cm id has others (loopback, and requests).
    pub(super) addrs: Option<AddrPair>,
    /// rdma_connect() waits for the network, without the lock: what it uses stays, and the work
    /// goes on afterwards.
    pub(super) connecting: bool,
    /// The request was accepted, and the peer has not confirmed that, but should have by then, in
    /// the machine's time. Never on iWARP, where TCP confirms it.
    pub(super) confirm_by: Option<u64>,
    /// The socket was closed, and the peer is waited for.
    pub(super) fin_wait: Option<FinWait>,
    /// When the wait for the peer's answer to the end times out, in the machine's time.
    pub(super) disconnect_by: Option<u64>,
}

/// What a connect resolves; times are the machine's, in nanoseconds.
pub(super) struct Lookup {
    /// The address to connect to.
    pub(super) peer: SocketAddr,
    /// The route to it; the source has port 0 before the first attempt, unless the socket is bound
    /// to one.
    pub(super) route: Route,
    /// Whether the socket is bound to a port, which it may share with others.
    pub(super) has_port: bool,
    /// Who connects.
    pub(super) user: u32,
    /// How many more times the address may be resolved.
    pub(super) left: u8,
    /// The next pause if the peer is busy, in milliseconds.
    pub(super) pause: u32,
    /// How often in a row the peer refused and did not say why.
    pub(super) refusals: u8,
    /// When a peer that was busy is asked again.
    pub(super) again_at: Option<u64>,
}

/// How long a closed socket's connection waits for its peer.
pub(super) struct FinWait {
    /// When the wait times out, in the machine's time, in nanoseconds.
    pub(super) at: u64,
    /// The bytes that had not reached the peer when the wait began.
    pub(super) queued: usize,
}

impl<I> Setup<I> {
    /// Before anything is set up.
    pub(super) fn new() -> Self {
        Self {
            id: None,
            lookup: None,
            claim: None,
            expectation: None,
            addrs: None,
            connecting: false,
            confirm_by: None,
            fin_wait: None,
            disconnect_by: None,
        }
    }

    /// The workqueue for what may wait for the network.
    pub(super) fn slow_queue(&self) -> u64 {
        slow_queue::of_user(self.lookup.as_ref().map_or(0, |lookup| lookup.user))
    }
}
