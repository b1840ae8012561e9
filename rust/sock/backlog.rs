// SPDX-License-Identifier: GPL-2.0

//! The connections that wait for accept.
//!
//! A request is a connection from the start, of which nothing is set up before it has a place in
//! the backlog. Where it has none it waits, and where too many wait it is told so.
//!
//! Locks: both may be taken under the owner lock of a connection; neither is held while a
//! connection is told something.

use crate::{
    net::{
        namespace::NetRef,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
    },
    prelude::*,
    proto::{
        Side,
        REJECT_BUSY, //
    },
    rdma::cm::{
        ChildId,
        PeerParam, //
    },
    sock::{
        addr::Names,
        conn::{
            Conn,
            Owner,
            Parent,
            Place, //
        },
        ring::Ring,
        Options,
        Socket, //
    },
};
use kernel::sync::{
    aref::ARef,
    Arc, //
};

/// The connections that wait for accept at one listener.
#[pin_data]
pub(super) struct Backlog {
    net: NetRef,
    #[pin]
    queues: SpinLockBh<Queues>,
    /// The socket that is told.
    #[pin]
    owner: SpinLockBh<Option<ARef<Socket>>>,
}

struct Queues {
    listening: bool,
    /// How many may be ready or be set up.
    limit: usize,
    /// In the order of their requests, although the CM may tell of the end of set-up in another.
    ready: Ring<Arc<Conn>>,
    setting_up: Ring<Arc<Conn>>,
    /// Requests without a place.
    waiting: Ring<Arc<Conn>>,
    /// The number of the next request.
    next: u64,
    /// What children inherit.
    options: Options,
}

impl Queues {
    fn has_place(&self) -> bool {
        self.ready.len().saturating_add(self.setting_up.len()) < self.limit
    }

    /// Takes out a child that is not ready.
    fn remove(&mut self, child: &Conn) -> Option<Arc<Conn>> {
        let is_child = |other: &Arc<Conn>| core::ptr::eq(&**other, child);
        self.setting_up
            .remove(is_child)
            .or_else(|| self.waiting.remove(is_child))
    }
}

impl Backlog {
    /// One that takes no requests yet. Sleeps; fails with `ENOMEM`.
    pub(super) fn new(sk: &Socket) -> Result<Arc<Self>> {
        let queues = Queues {
            listening: false,
            limit: 0,
            ready: Ring::empty(),
            setting_up: Ring::empty(),
            waiting: Ring::empty(),
            next: 0,
            options: Options::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                net: sk.net().into(),
                queues <- new_spinlock_bh!(queues, "sdp::Backlog::queues"),
                owner <- new_spinlock_bh!(Some(sk.into()), "sdp::Backlog::owner"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether it takes requests. Any context.
    pub(super) fn is_listening(&self) -> bool {
        self.queues.lock().listening
    }

    /// `SO_REUSEADDR` of the socket. Any context.
    pub(super) fn reuseaddr(&self) -> bool {
        let owner = self.owner.lock();
        owner.as_ref().is_some_and(|sk| sk.reuseaddr())
    }

    /// Whether a connection waits for accept.
    pub(super) fn has_ready(&self) -> bool {
        !self.queues.lock().ready.is_empty()
    }

    /// What children inherit from now on.
    pub(super) fn set_options(&self, options: Options) {
        self.queues.lock().options = options;
    }

    /// Takes requests from now on, or none. Any context.
    pub(super) fn set_listening(&self, on: bool) {
        self.queues.lock().listening = on;
    }

    /// Sets how many connections may wait, and what they inherit. Sleeps; fails with `ENOMEM`.
    pub(super) fn set_limit(&self, backlog: usize, options: Options) -> Result {
        // As with TCP, a backlog of n holds n + 1.
        let limit = backlog.saturating_add(1);
        let mut ready = Ring::new(limit)?;
        let mut setting_up = Ring::new(limit)?;
        {
            let mut queues = self.queues.lock();
            queues.limit = limit;
            // Those that are there stay.
            ready = queues.ready.lengthen(ready);
            setting_up = queues.setting_up.lengthen(setting_up);
            queues.options = options;
        }
        drop((ready, setting_up));
        Ok(())
    }

    /// Takes no requests any more, and ends what waits for accept. Without locks.
    pub(super) fn close(&self) {
        let children = {
            let mut guard = self.queues.lock();
            let queues = &mut *guard;
            queues.listening = false;
            queues.limit = 0;
            [
                &mut queues.ready,
                &mut queues.setting_up,
                &mut queues.waiting,
            ]
            .map(|children| core::mem::replace(children, Ring::empty()))
        };
        for mut children in children {
            while let Some(child) = children.pop() {
                child.abandon();
            }
        }
    }

    /// The socket goes.
    pub(super) fn disown(&self) {
        let owner = self.owner.lock().take();
        drop(owner);
    }

    /// The next connection for accept, which keeps its place until [`Self::free_place`] or
    /// [`Self::put_back`].
    pub(super) fn next(&self) -> Option<Arc<Conn>> {
        let mut queues = self.queues.lock();
        let child = queues.ready.pop()?;
        // There are as many places as in the other queue.
        let _ = queues.setting_up.push(child.clone());
        Some(child)
    }

    /// A child was accepted, or has ended before that could be: its place is free. Without locks.
    pub(super) fn free_place(&self, child: &Conn) {
        let removed = self.queues.lock().remove(child);
        drop(removed);
        self.admit();
    }

    /// A connection could not be accepted: it waits as before.
    pub(super) fn put_back(&self, child: Arc<Conn>) {
        // Another call may wait for it.
        if !self.ready(child.clone()) {
            child.abandon();
        }
    }

    /// Has a child wait for accept. False where nobody listens any more.
    fn insert(&self, child: &Arc<Conn>) -> bool {
        let (inserted, removed) = {
            let mut queues = self.queues.lock();
            let removed = queues.remove(child);
            let inserted = queues.listening
                && queues
                    .ready
                    .insert(child.clone(), |other| other.request > child.request)
                    .is_ok();
            (inserted, removed)
        };
        drop(removed);
        inserted
    }

    /// Gives places that are free to those who wait for one. Without locks.
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
                // It is as long as there are places.
                let _ = queues.setting_up.push(child.clone());
                child
            };
            if !child.admit() {
                // It has ended meanwhile.
                let removed = self.queues.lock().remove(&child);
                drop(removed);
            }
        }
    }

    /// A peer asks for a connection, by these names of its ends. In the handler of a cm id. An
    /// error refuses it.
    pub(super) fn request(
        this: &Arc<Self>,
        id: ChildId<'_>,
        param: PeerParam,
        hello: &[u8],
        names: Names,
    ) -> Result {
        let most = this.net.max_backlog();
        let (request, options) = {
            let mut queues = this.queues.lock();
            if !queues.listening {
                return Err(ECONNREFUSED);
            }
            if !queues.has_place() && queues.waiting.len() >= most {
                drop(queues);
                id.reject(&REJECT_BUSY);
                return Err(EAGAIN);
            }
            let request = queues.next;
            queues.next = request.wrapping_add(1);
            (request, queues.options)
        };
        let owner = Owner::Listener(this.clone(), Place::Waiting);
        let child = Conn::unconnected(&this.net, Side::Accepting, owner, request, options)
            .and_then(|child| this.wait(child.clone()).map(|()| child));
        let child = match child {
            Ok(child) => child,
            Err(e) => {
                if e == ENOMEM {
                    // There may be some when the peer comes again.
                    id.reject(&REJECT_BUSY);
                }
                return Err(e);
            }
        };
        match id.adopt(child.clone()) {
            Ok(id) => child.request(id, param, hello, names),
            Err(id) => {
                id.reject(&REJECT_BUSY);
                this.free_place(&child);
                return Err(ENOMEM);
            }
        }
        this.admit();
        Ok(())
    }

    /// Has a request wait. Fails with `ENOMEM`, and `ECONNREFUSED` where nobody listens any more.
    fn wait(&self, child: Arc<Conn>) -> Result {
        let mut child = child;
        loop {
            Ring::make_room(&self.queues, |queues| &mut queues.waiting)?;
            let mut queues = self.queues.lock();
            if !queues.listening {
                return Err(ECONNREFUSED);
            }
            match queues.waiting.push(child) {
                Ok(()) => return Ok(()),
                // Another request was quicker.
                Err(back) => child = back,
            }
        }
    }
}

impl Parent for Backlog {
    fn ready(&self, child: Arc<Conn>) -> bool {
        let inserted = self.insert(&child);
        if inserted {
            if let Some(sk) = &*self.owner.lock() {
                sk.data_ready();
            }
        }
        inserted
    }

    fn lost(&self, child: &Conn) {
        self.free_place(child);
    }

    fn rcvbuf_if_set(&self) -> Option<usize> {
        let owner = self.owner.lock();
        owner.as_ref().and_then(|sk| sk.rcvbuf_if_set())
    }

    fn socket(&self) -> Option<ARef<Socket>> {
        self.owner.lock().clone()
    }
}
