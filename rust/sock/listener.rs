// SPDX-License-Identifier: GPL-2.0

//! A listener as the connections see it that were made for it, its children.
//!
//! `C` is the type of a connection. The connection has a listener, and imports this file, so the
//! type cannot be named here.

use crate::{
    net::{
        sock::Inherited,
        sockaddr::IpVersion,
        stamp::Stamp, //
    },
    prelude::*,
    rdma::cm::{
        CmHandler,
        CmId, //
    },
    sock::types::Socket, //
};
use kernel::{
    fmt,
    sync::{
        aref::ARef,
        Arc, //
    },
};

/// How far a child is from accept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildState {
    /// It is a request that waits for a place in the backlog.
    Waiting,
    /// It is being set up.
    SettingUp,
    /// It waits for accept.
    Ready,
}

impl ChildState {
    /// Changes the state, for the log.
    pub(super) fn set(&mut self, state: Self) {
        pr_debug!("child: {} -> {state}\n", *self);
        *self = state;
    }
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::SettingUp => "setting-up",
            Self::Ready => "ready",
        })
    }
}

/// A connection's listener, as the connection sees it.
pub(super) trait Listener<C>: Send + Sync {
    /// Queues an established child for accept. False where nobody will accept it. Process context,
    /// without spinlocks.
    fn ready(&self, child: Arc<C>) -> bool;

    /// Removes a child that ended before accept. Process context, without spinlocks.
    fn child_gone(&self, child: &C);

    /// The bytes that the receive buffers of a child may take, as `Conn::recv_limit` has them. Any
    /// context.
    fn recv_limit(&self) -> Option<usize>;

    /// The time, if the program has asked when bytes come. Any context.
    fn stamp(&self) -> Option<Stamp>;

    /// Whether a request waits for a place. Any context.
    fn has_waiting(&self) -> bool;

    /// The version of IP of the children's sockets, the uid that owns children until they are
    /// accepted, and the options that they will have then. None where nobody will accept them. Any
    /// context.
    fn inherited(&self) -> Option<(IpVersion, u32, Inherited)>;

    /// Counts one more, or one less, of the requests that are not charged. Any context.
    fn count_uncharged(&self, more: bool);

    /// The socket that is charged for children until they are accepted. Any context.
    fn socket(&self) -> Option<ARef<Socket>>;
}

/// The cm id of a request that is not charged yet.
pub(super) struct UnchargedId<C>
where
    Arc<C>: CmHandler,
{
    id: CmId<Arc<C>>,
    _count: UncountOnDrop<C>,
}

impl<C> UnchargedId<C>
where
    Arc<C>: CmHandler,
{
    /// Counts it at its listener until it is charged, or dropped. Any context.
    pub(super) fn new(id: CmId<Arc<C>>, listener: Arc<dyn Listener<C>>) -> Self {
        listener.count_uncharged(true);
        Self {
            id,
            _count: UncountOnDrop(listener),
        }
    }

    /// The cm id, counted no more. Any context.
    pub(super) fn into_id(self) -> CmId<Arc<C>> {
        self.id
    }
}

struct UncountOnDrop<C>(Arc<dyn Listener<C>>);

impl<C> Drop for UncountOnDrop<C> {
    fn drop(&mut self) {
        self.0.count_uncharged(false);
    }
}
