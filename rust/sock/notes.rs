// SPDX-License-Identifier: GPL-2.0

//! What the RDMA CM told of a connection, and what its set-up and teardown know, for cm ids of type `I`.

use crate::{
    prelude::*,
    rdma::cm::PeerParam,
    sock::{
        addr::Names,
        orphan::Orphan,
        ports::Expectation, //
    },
};
use core::net::SocketAddrV4;

/// What the CM told, until the next step looks at it.
pub(super) struct Notes<I> {
    /// The cm id of a request.
    pub(super) id: Option<I>,
    pub(super) step: Option<Step>,
    pub(super) end: Option<End>,
    /// Tasks that wait for the connection, and take the steps themselves.
    pub(super) waiters: u32,
}

impl<I> Notes<I> {
    /// Nothing was told.
    pub(super) fn new() -> Self {
        Self {
            id: None,
            step: None,
            end: None,
            waiters: 0,
        }
    }
}

/// How the CM goes on with a set-up.
pub(super) enum Step {
    /// The peer's address is known.
    Address,
    /// The route is known, and with it the device.
    Route,
    /// A peer asks for the connection, with this Hello, by these names of its ends.
    Request(PeerParam, PrivateData, Names),
    /// The connection is there, with the HelloAck of the peer if this end has connected.
    Established(PrivateData),
}

/// How the CM said that it is over.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// The peer did not say its address in time.
    NoAnswer,
    /// The peer has no room for the connection now.
    Busy,
    /// There will be no connection, for this reason.
    Failed(Error),
    /// The connection is gone.
    Gone,
    /// The device goes, which waits until the id is destroyed.
    Removed,
}

/// The start of the CM's private data, which is valid in the handler only. A Hello is shorter.
pub(super) struct PrivateData {
    bytes: [u8; 64],
    len: usize,
}

impl PrivateData {
    pub(super) fn new(data: &[u8]) -> Self {
        let mut bytes = [0; 64];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// What only sleeping context has to do with.
pub(super) struct Setup<I> {
    /// The cm id while there is no QP, which has it afterwards.
    pub(super) id: Option<I>,
    /// The peer that a connect looks for.
    pub(super) lookup: Option<Lookup>,
    /// Word that was left with the peer's port.
    pub(super) expectation: Option<Expectation>,
    /// The names of the ends, where they are not as the cm id has them.
    pub(super) names: Option<Names>,
    /// The socket was closed, and the peer is waited for.
    pub(super) fin_wait: Option<FinWait>,
    /// It counts as one without a socket.
    pub(super) orphan: Option<Orphan>,
    /// When the wait for the peer's word on the end is over, in the machine's time.
    pub(super) disconnect_by: Option<u64>,
}

/// The peer that a connect looks for; times are the machine's.
pub(super) struct Lookup {
    pub(super) peer: SocketAddrV4,
    /// The address that the socket is bound to.
    pub(super) bound: Option<SocketAddrV4>,
    /// Looks for the address that are left.
    pub(super) left: u8,
    /// The next pause when the peer is busy, in milliseconds.
    pub(super) pause: u32,
    /// The peer was busy, and is asked again then.
    pub(super) again_at: Option<u64>,
}

/// How long a closed socket's connection waits for its peer.
pub(super) struct FinWait {
    /// When it has waited long enough, in the machine's time.
    pub(super) at: u64,
    /// The bytes that had not reached the peer when the wait began.
    pub(super) queued: usize,
}

impl<I> Setup<I> {
    /// Nothing is set up.
    pub(super) fn new() -> Self {
        Self {
            id: None,
            lookup: None,
            expectation: None,
            names: None,
            fin_wait: None,
            orphan: None,
            disconnect_by: None,
        }
    }
}
