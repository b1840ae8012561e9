// SPDX-License-Identifier: GPL-2.0

//! What the spinlock [`Connection::post`](super::conn::Connection::post) guards: the QP of a
//! connection, and what is to be posted to it.
//!
//! `Q` is the type of the QP. The connection handles its completions, and imports this file, so the
//! type cannot be named here.

use crate::{
    proto::{
        BufferId,
        SendTag,
        Transmit, //
    },
    rdma::{
        buf::{
            SendBuf,
            Sge, //
        },
        qp::Payload, //
    },
    sock::{
        buffers::Buffers,
        ring::Ring, //
    }, //
};
use kernel::sync::Arc;

/// What `Connection::post` guards: the QP, and what is to be posted to it.
pub(super) struct Post<Q> {
    /// None before the device is known, and after teardown.
    pub(super) qp: Option<Arc<Q>>,
    /// The bytes of the send stream that no message carries yet.
    pub(super) tx: Ring<Sge>,
    /// The chunk with room that the next written bytes go to, while no call has it.
    pub(super) chunk: Option<SendBuf>,
    /// The message that goes before any other: it could not be mapped for want of memory.
    pub(super) waiting: Option<Outbound>,
    /// Requests for messages and registrations that have not completed. Other requests of the
    /// callers' buffers have slots of their own.
    pub(super) messages: usize,
    /// Something may wait until a request completes: for a slot of the send queue, or to be
    /// registered.
    pub(super) is_full: bool,
    /// A probe has no answer yet.
    pub(super) is_probing: bool,
    /// The callers' buffers that take part in zero copy.
    pub(super) buffers: Buffers,
}

impl<Q> Post<Q> {
    /// That of a connection of which nothing is set up.
    pub(super) fn new() -> Self {
        Self {
            qp: None,
            tx: Ring::empty(),
            chunk: None,
            waiting: None,
            messages: 0,
            is_full: false,
            is_probing: false,
            buffers: Buffers::default(),
        }
    }
}

/// A message, or an RDMA Write with the message that reports it, and the bytes that it carries.
pub(super) struct Outbound {
    /// As the machine gave it.
    pub(super) transmit: Transmit,
    /// The bytes, not mapped yet.
    pub(super) payload: Payload,
}

/// A request of the send queue that has not completed.
pub(super) enum Request {
    /// A message.
    Message(SendTag),
    /// An RDMA Write, which the next message reports, or one of no bytes (`Conn::nudge`).
    Write,
    /// A request without bytes that the peer's device has to answer.
    Probe,
    /// The registration of a buffer.
    Register,
    /// An RDMA Read into the oldest buffer that is busy.
    Read,
    /// The invalidation of the key of a buffer that is sent.
    InvalidateSend(BufferId),
    /// The invalidation of the key of the oldest buffer that was read.
    InvalidateRead,
    /// The invalidation of the key of the oldest buffer that was offered.
    InvalidateOffer,
}
