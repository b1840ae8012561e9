// SPDX-License-Identifier: GPL-2.0

//! The connections that wait for accept.
//!
//! A request is a connection from the start, but nothing of it is set up before it has a place in
//! the backlog. Without a place it waits; if too many wait it is refused as busy.
//!
//! Locks: see Documentation/architecture.rst. Neither is held while a connection is notified.

use crate::{
    net::{
        sock::Inherited,
        sockaddr::IpVersion,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        stamp::Stamp, //
    },
    prelude::*,
    proto::{
        REJECT_BUSY,
        REJECT_NOBODY, //
    },
    rdma::cm::{
        ChildId,
        PeerParam, //
    },
    sock::{
        addr::AddrPair,
        binding::Sharing,
        conn::Conn,
        conn_options::ConnOptions,
        listener::{
            Listener,
            UnchargedId, //
        },
        owner::recv_limit,
        ring::Ring,
        types::{
            NetRef,
            Socket, //
        }, //
    }, //
};
use core::sync::atomic::{
    AtomicUsize,
    Ordering::Relaxed, //
};
use kernel::sync::{
    aref::ARef,
    Arc, //
};

/// Limit of the requests that are not charged yet; beyond it peers are asked to try again.
const MAX_UNCHARGED: usize = 256;

/// The connections that wait for accept at one listener.
#[pin_data]
pub(super) struct Backlog {
    net: NetRef,
    #[pin]
    queues: SpinLockBh<Queues>,
    /// Requests that are not charged yet.
    uncharged: AtomicUsize,
    /// The listening socket, until its close.
    #[pin]
    owner: SpinLockBh<Option<ARef<Socket>>>,
}

struct Queues {
    listening: bool,
    /// How many may be ready or set up at a time.
    limit: usize,
    /// Established, and waiting for accept, in the order of their requests.
    ready: Ring<Arc<Conn>>,
    /// Those with a place that are not established, or are just being accepted.
    reserved: Ring<Arc<Conn>>,
    /// Requests without a place.
    waiting: Ring<Arc<Conn>>,
    /// The number of the next request.
    next: u64,
    /// The options that children inherit.
    options: ConnOptions,
}

impl Queues {
    fn has_place(&self) -> bool {
        self.ready.len().saturating_add(self.reserved.len()) < self.limit
    }

    /// Removes a child that is not ready.
    fn remove(&mut self, child: &Conn) -> Option<Arc<Conn>> {
        let is_child = |other: &Arc<Conn>| core::ptr::eq(&**other, child);
        self.reserved
            .remove(is_child)
            .or_else(|| self.waiting.remove(is_child))
    }
}

impl Backlog {
    /// A backlog that takes no requests yet. Sleeps; fails with `ENOMEM`.
    pub(super) fn new(sk: &Socket) -> Result<Arc<Self>> {
        let queues = Queues {
            listening: false,
            limit: 0,
            ready: Ring::empty(),
            reserved: Ring::empty(),
            waiting: Ring::empty(),
            next: 0,
            options: ConnOptions::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                net: sk.net().into(),
                queues <- new_spinlock_bh!(queues, "sdp::Backlog::queues"),
                uncharged: AtomicUsize::new(0),
                owner <- new_spinlock_bh!(Some(sk.into()), "sdp::Backlog::owner"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether it takes requests. Any context.
    pub(super) fn is_listening(&self) -> bool {
        self.queues.lock().listening
    }

    /// With whom the socket may share its port, by what it has set now. Any context.
    pub(super) fn sharing(&self) -> Sharing {
        let owner = self.owner.lock();
        owner.as_ref().map_or(Sharing::default(), |sk| Sharing {
            reuseaddr: sk.reuseaddr(),
            reuseport: sk.reuseport().then(|| sk.uid()),
            has_group: sk.has_group(),
            interface: sk.interface(),
            connects: false,
        })
    }

    /// Whether a connection waits for accept. Any context.
    pub(super) fn has_ready(&self) -> bool {
        !self.queues.lock().ready.is_empty()
    }

    /// The length of the accept queue, and the backlog given to listen(2), as ss shows them. Any
    /// context.
    pub(super) fn queue_lengths(&self) -> (usize, usize) {
        let queues = self.queues.lock();
        (queues.ready.len(), queues.limit.saturating_sub(1))
    }

    /// Sets the options that children inherit from now on. Any context.
    pub(super) fn set_options(&self, options: ConnOptions) {
        self.queues.lock().options = options;
    }

    /// The options that children inherit. Any context.
    pub(super) fn options(&self) -> ConnOptions {
        self.queues.lock().options
    }

    /// Takes requests from now on, or none. Any context.
    pub(super) fn set_listening(&self, on: bool) {
        self.queues.lock().listening = on;
    }

    /// Sets how many connections may wait, and what they inherit. Sleeps; fails with `ENOMEM`.
    pub(super) fn set_limit(&self, backlog: usize, options: ConnOptions) -> Result {
        let most = self.net.max_backlog();
        // As with TCP, a backlog of n holds n + 1.
        let limit = backlog.min(most).saturating_add(1);
        let mut ready = Ring::new_charged(limit)?;
        let mut reserved = Ring::new_charged(limit)?;
        // Also a request that finds a place passes here.
        let mut waiting = Ring::new_charged(most.max(1))?;
        {
            let mut queues = self.queues.lock();
            queues.limit = limit;
            // Those that wait already stay.
            ready = queues.ready.lengthen(ready);
            reserved = queues.reserved.lengthen(reserved);
            waiting = queues.waiting.lengthen(waiting);
            queues.options = options;
        }
        drop((ready, reserved, waiting));
        Ok(())
    }

    /// Takes no more requests, and ends what waits for accept. Process context, without spinlocks.
    pub(super) fn close(&self) {
        let children = {
            let mut guard = self.queues.lock();
            let queues = &mut *guard;
            queues.listening = false;
            queues.limit = 0;
            [&mut queues.ready, &mut queues.reserved, &mut queues.waiting]
                .map(|children| core::mem::replace(children, Ring::empty()))
        };
        for mut children in children {
            while let Some(child) = children.pop() {
                child.abandon();
            }
        }
    }

    /// Forgets the socket, which is being closed. Process context.
    pub(super) fn disown(&self) {
        let owner = self.owner.lock().take();
        drop(owner);
    }

    /// Takes the next connection for accept, which keeps its place until [`Self::free_place`] or
    /// [`Self::put_back`]. Any context.
    pub(super) fn next(&self) -> Option<Arc<Conn>> {
        let mut queues = self.queues.lock();
        let child = queues.ready.pop()?;
        // There are as many places as in the other queue.
        let _ = queues.reserved.push(child.clone());
        Some(child)
    }

    /// Frees the place of a child that was accepted, or has ended before. Process context, without
    /// spinlocks.
    pub(super) fn free_place(&self, child: &Conn) {
        let removed = self.queues.lock().remove(child);
        drop(removed);
        self.admit();
    }

    /// Has a connection that could not be accepted wait as before. Process context, without
    /// spinlocks.
    pub(super) fn put_back(&self, child: Arc<Conn>) {
        // Another call may wait for it.
        if !self.ready(child.clone()) {
            child.abandon();
        }
    }

    /// Queues a child for accept. False where nobody listens any more.
    fn insert(&self, child: &Arc<Conn>) -> bool {
        let (inserted, removed) = {
            let mut queues = self.queues.lock();
            let removed = queues.remove(child);
            let inserted = queues.listening
                && queues
                    .ready
                    .insert(child.clone(), |other| other.request_seq > child.request_seq)
                    .is_ok();
            (inserted, removed)
        };
        drop(removed);
        inserted
    }

    /// Gives free places to requests that wait for one. Process context, without spinlocks.
    pub(super) fn admit(&self) {
        loop {
            let child = {
                let mut queues = self.queues.lock();
                if !queues.has_place() {
                    return;
                }
                let Some(child) = queues.waiting.pop() else {
                    return;
                };
                // It has room for as many as there are places.
                let _ = queues.reserved.push(child.clone());
                child
            };
            if !child.admit() {
                // It has ended meanwhile.
                let removed = self.queues.lock().remove(&child);
                drop(removed);
            }
        }
    }

    /// Takes the request of a peer for a connection between these addresses. In the handler of the
    /// port's cm id. Fails with `ECONNREFUSED` where nobody listens, and with `EAGAIN` and
    /// `ENOMEM`, where the peer was asked to come again.
    pub(super) fn request(
        this: &Arc<Self>,
        id: ChildId<'_>,
        param: PeerParam,
        hello: &[u8],
        addrs: AddrPair,
    ) -> Result {
        let (request_seq, options) = {
            let mut queues = this.queues.lock();
            if !queues.listening {
                drop(queues);
                id.reject(&REJECT_NOBODY);
                return Err(ECONNREFUSED);
            }
            if queues.waiting.is_full() || this.uncharged.load(Relaxed) >= MAX_UNCHARGED {
                drop(queues);
                id.reject(&REJECT_BUSY);
                return Err(EAGAIN);
            }
            let request_seq = queues.next;
            queues.next = request_seq.wrapping_add(1);
            (request_seq, queues.options)
        };
        let child = Conn::accepting(&this.net, this.clone(), request_seq, addrs, options).and_then(
            |child| {
                // From here on it may end.
                child.number.list(&this.net, child.clone())?;
                this.enqueue(child.clone())
                    .inspect_err(|_| child.number.unlist(&this.net))?;
                Ok(child)
            },
        );
        let child = match child {
            Ok(child) => child,
            Err(e) => {
                if e == ENOMEM || e == EAGAIN {
                    // There may be memory, or room, when the peer comes again.
                    id.reject(&REJECT_BUSY);
                }
                return Err(e);
            }
        };
        match id.adopt(child.clone()) {
            Ok(id) => child.adopt_request(UnchargedId::new(id, this.clone()), param, hello, addrs),
            Err(id) => {
                id.reject(&REJECT_BUSY);
                child.number.unlist(&this.net);
                this.free_place(&child);
                return Err(ENOMEM);
            }
        }
        this.admit();
        Ok(())
    }

    /// Has a request wait for a place. Any context. Fails with `EAGAIN` where too many do, and with
    /// `ECONNREFUSED` where nobody listens any more.
    fn enqueue(&self, child: Arc<Conn>) -> Result {
        let mut queues = self.queues.lock();
        if !queues.listening {
            return Err(ECONNREFUSED);
        }
        // The caller has another reference: nothing is freed under the lock.
        queues.waiting.push(child).map_err(|_| EAGAIN)
    }
}

impl Listener<Conn> for Backlog {
    fn count_uncharged(&self, more: bool) {
        if more {
            self.uncharged.fetch_add(1, Relaxed);
        } else {
            self.uncharged.fetch_sub(1, Relaxed);
        }
    }

    fn ready(&self, child: Arc<Conn>) -> bool {
        let inserted = self.insert(&child);
        if inserted {
            if let Some(sk) = &*self.owner.lock() {
                sk.data_ready();
            }
        }
        inserted
    }

    fn child_gone(&self, child: &Conn) {
        self.free_place(child);
    }

    fn recv_limit(&self) -> Option<usize> {
        recv_limit(self.owner.lock().as_ref()?)
    }

    fn stamp(&self) -> Option<Stamp> {
        self.owner.lock().as_ref()?.stamp()
    }

    fn has_waiting(&self) -> bool {
        let queues = self.queues.lock();
        !queues.waiting.is_empty() && !queues.has_place()
    }

    fn inherited(&self) -> Option<(IpVersion, u32, Inherited)> {
        let owner = self.owner.lock();
        let sk = owner.as_ref()?;
        Some((sk.version(), sk.uid(), sk.inherited()))
    }

    fn socket(&self) -> Option<ARef<Socket>> {
        self.owner.lock().clone()
    }
}
