// SPDX-License-Identifier: GPL-2.0

//! A local address, and the connections that wait at it for accept.
//!
//! A request is a connection from the start, of which nothing is set up before it has a place in the
//! backlog. Where it has none it waits, and where too many wait it is told so.
//!
//! Locks: [`Port::id`] may be taken under `lock_sock()`, [`Port::backlog`] and [`Port::owner`] under
//! the owner lock of a connection too; neither is held while a connection is told something. A
//! handler of the CM takes the last two only.
//!
//! References: the cm id owns an `Arc` of the port and the port the cm id, until [`Listener::close`].

use crate::{
    net::{
        namespace::NetRef,
        sock::Shown,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        work::{
            Run,
            Work, //
        },
    },
    prelude::*,
    proto::{
        Side,
        REJECT_BUSY, //
    },
    rdma::cm::{
        ChildId,
        CmEvent,
        CmHandler,
        CmId,
        PeerParam, //
    },
    sock::{
        addr,
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
use core::net::SocketAddrV4;
use kernel::{
    new_mutex,
    sync::{
        aref::ARef,
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
};

/// Requests that an iWARP device is to have room for, however few the program lets wait: it forgets a
/// connection that finds no room, and siw comes to harm when that one ends.
const REQUESTS: usize = 128;

/// The cm id of a port.
pub(super) type PortId = CmId<Arc<Listener>>;

/// A port, with the work that it does by itself.
pub(super) type Listener = Work<Port>;

/// A local address of a socket, at which it may listen.
#[pin_data]
pub(super) struct Port {
    net: NetRef,
    /// It has a loopback address, for the host alone. rdma_cm takes that for any address.
    local_only: bool,
    /// For the work: the device goes.
    removed: AtomicFlag,
    #[pin]
    id: Mutex<Option<PortId>>,
    #[pin]
    backlog: SpinLockBh<Backlog>,
    /// The socket that is told.
    #[pin]
    owner: SpinLockBh<Option<ARef<Socket>>>,
}

/// The connections that wait for accept.
struct Backlog {
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

impl Backlog {
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

impl Listener {
    /// A port of `sk` at `addr`, and the address that it got. Sleeps. Fails as [`CmId::bind`] does.
    pub(super) fn bound(sk: &Socket, addr: SocketAddrV4) -> Result<(Arc<Self>, SocketAddrV4)> {
        let backlog = Backlog {
            listening: false,
            limit: 0,
            ready: Ring::empty(),
            setting_up: Ring::empty(),
            waiting: Ring::empty(),
            next: 0,
            options: Options::default(),
        };
        let port = Work::new(pin_init!(Port {
            net: sk.net().into(),
            local_only: addr.ip().is_loopback(),
            removed: AtomicFlag::new(false),
            id <- new_mutex!(None, "sdp::Port::id"),
            backlog <- new_spinlock_bh!(backlog, "sdp::Port::backlog"),
            owner <- new_spinlock_bh!(None, "sdp::Port::owner"),
        }))?;
        *port.owner.lock() = Some(sk.into());
        // Held until the id is there: the device may go at once.
        let mut id = port.id.lock();
        match addr::bind_id(sk.net(), port.clone(), sk.reuse_address(), addr) {
            Ok((new, bound)) => {
                *id = Some(new);
                drop(id);
                Ok((port, bound))
            }
            Err(e) => {
                drop(id);
                *port.owner.lock() = None;
                Err(e)
            }
        }
    }

    /// Takes the cm id out, for a connect: the port is no more. `None` where the device has gone. Sleeps.
    pub(super) fn take_id(&self) -> Option<PortId> {
        *self.owner.lock() = None;
        self.id.lock().take()
    }

    /// Whether it still has its address.
    pub(super) fn is_bound(&self) -> bool {
        self.id.lock().is_some()
    }

    /// Whether it listens.
    pub(super) fn is_listening(&self) -> bool {
        self.backlog.lock().listening
    }

    /// Whether a connection waits for accept.
    pub(super) fn has_ready(&self) -> bool {
        !self.backlog.lock().ready.is_empty()
    }

    /// What children inherit from now on.
    pub(super) fn set_options(&self, options: Options) {
        self.backlog.lock().options = options;
    }

    /// Listens, or changes the backlog of one that does. Sleeps. Fails with `ENOMEM`, and as
    /// [`CmId::listen`] does.
    pub(super) fn listen(&self, backlog: usize, options: Options) -> Result {
        // As with TCP, a backlog of n holds n + 1.
        let limit = backlog.saturating_add(1);
        let mut ready = Ring::new(limit)?;
        let mut setting_up = Ring::new(limit)?;
        let was_listening = {
            let mut backlog = self.backlog.lock();
            backlog.limit = limit;
            // Those that are there stay.
            ready = backlog.ready.lengthen(ready);
            setting_up = backlog.setting_up.lengthen(setting_up);
            backlog.options = options;
            core::mem::replace(&mut backlog.listening, true)
        };
        drop((ready, setting_up));
        if was_listening {
            self.admit();
            return Ok(());
        }
        // Requests may come from now on.
        let requests = self.net.max_backlog().max(REQUESTS);
        let result = match &mut *self.id.lock() {
            Some(id) => id.listen(i32::try_from(requests).unwrap_or(i32::MAX)),
            None => Err(ENODEV),
        };
        if result.is_err() {
            self.close();
        }
        result
    }

    /// The next connection for accept, which keeps its place until [`Self::free_place`] or
    /// [`Self::put_back`].
    pub(super) fn next(&self) -> Option<Arc<Conn>> {
        let mut backlog = self.backlog.lock();
        let child = backlog.ready.pop()?;
        // There are as many places as in the other queue.
        let _ = backlog.setting_up.push(child.clone());
        Some(child)
    }

    /// A child was accepted, or has ended before that could be: its place is free. Without locks.
    pub(super) fn free_place(&self, child: &Conn) {
        let removed = self.backlog.lock().remove(child);
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
            let mut backlog = self.backlog.lock();
            let removed = backlog.remove(child);
            let inserted = backlog.listening
                && backlog
                    .ready
                    .insert(child.clone(), |other| other.request > child.request)
                    .is_ok();
            (inserted, removed)
        };
        drop(removed);
        inserted
    }

    /// Frees the address, and ends what waits for accept. Sleeps.
    pub(super) fn close(&self) {
        *self.owner.lock() = None;
        let id = self.id.lock().take();
        drop(id);
        // No request comes any more.
        let children = {
            let mut guard = self.backlog.lock();
            let backlog = &mut *guard;
            backlog.listening = false;
            backlog.limit = 0;
            [
                &mut backlog.ready,
                &mut backlog.setting_up,
                &mut backlog.waiting,
            ]
            .map(|children| core::mem::replace(children, Ring::empty()))
        };
        for mut children in children {
            while let Some(child) = children.pop() {
                child.abandon();
            }
        }
    }

    /// Gives places that are free to those who wait for one. Without locks.
    fn admit(&self) {
        loop {
            let child = {
                let mut backlog = self.backlog.lock();
                if !backlog.has_place() {
                    return;
                }
                let Some(child) = backlog.waiting.pop() else {
                    return;
                };
                // It is as long as there are places.
                let _ = backlog.setting_up.push(child.clone());
                child
            };
            if !child.admit() {
                // It has ended meanwhile.
                let removed = self.backlog.lock().remove(&child);
                drop(removed);
            }
        }
    }

    /// A peer asks for a connection. In the handler of the cm id. An error refuses it.
    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8]) -> Result {
        if self.local_only && !self.net.is_local(*addr::v4(id.peer_addr()?)?.ip()) {
            return Err(ECONNREFUSED);
        }
        let most = self.net.max_backlog();
        let (request, options) = {
            let mut backlog = self.backlog.lock();
            if !backlog.listening {
                return Err(ECONNREFUSED);
            }
            if !backlog.has_place() && backlog.waiting.len() >= most {
                drop(backlog);
                id.reject(&REJECT_BUSY);
                return Err(EAGAIN);
            }
            let request = backlog.next;
            backlog.next = request.wrapping_add(1);
            (request, backlog.options)
        };
        let owner = Owner::Listener(self.arc(), Place::Waiting);
        let child = Conn::unconnected(&self.net, Side::Accepting, owner, request, options)?;
        let id = id.adopt(child.clone())?;
        child.request(id, param, hello);
        match self.wait(child) {
            Ok(()) => self.admit(),
            Err(child) => child.abandon(),
        }
        Ok(())
    }

    /// Has a request wait, or gives it back: where there is no memory for that, or nobody listens any more.
    fn wait(&self, child: Arc<Conn>) -> Result<(), Arc<Conn>> {
        let length = {
            let mut backlog = self.backlog.lock();
            if !backlog.listening {
                return Err(child);
            }
            if !backlog.waiting.is_full() {
                return backlog.waiting.push(child);
            }
            backlog.waiting.capacity().saturating_mul(2).max(8)
        };
        let Ok(longer) = Ring::new(length) else {
            return Err(child);
        };
        let (result, unused) = {
            let mut backlog = self.backlog.lock();
            if !backlog.listening {
                return Err(child);
            }
            let unused = backlog.waiting.lengthen(longer);
            (backlog.waiting.push(child), unused)
        };
        drop(unused);
        result
    }
}

impl Parent for Listener {
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

    fn set_recv_buffer(&self) -> Option<usize> {
        let owner = self.owner.lock();
        owner.as_ref().and_then(|sk| sk.set_recv_buffer())
    }

    fn socket(&self) -> Option<ARef<Socket>> {
        self.owner.lock().clone()
    }
}

impl CmHandler for Arc<Listener> {
    fn event(&self, event: CmEvent<'_>) {
        match event {
            CmEvent::ConnectRequest {
                child,
                param,
                private_data,
            } => {
                if let Err(e) = self.request(child, param, private_data) {
                    pr_debug!("connection request refused: {e:?}\n");
                }
            }
            CmEvent::DeviceRemoval => {
                self.removed.store(true, Relaxed);
                self.queue();
            }
            // The others are of connections.
            _ => {}
        }
    }
}

impl Run for Port {
    fn run(this: &Arc<Listener>) {
        if this.removed.load(Relaxed) {
            let sk = this.owner.lock().clone();
            this.close();
            if let Some(sk) = sk {
                sk.show(Shown::Close);
                sk.fail(ENODEV);
                sk.state_change();
            }
        }
    }
}
