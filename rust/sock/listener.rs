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
        bind,
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
    ready: Ring<(u64, Arc<Conn>)>,
    setting_up: usize,
    /// Requests without a place.
    waiting: Ring<Arc<Conn>>,
    /// The number of the next request.
    next: u64,
    /// What children inherit.
    options: Options,
}

impl Backlog {
    fn has_place(&self) -> bool {
        self.ready.len().saturating_add(self.setting_up) < self.limit
    }
}

/// What becomes of a request.
enum Admission {
    Now,
    Later,
    Busy,
}

impl Listener {
    /// A port of `sk` at `addr`, and the address that it got. Sleeps. Fails as [`CmId::bind`] does.
    pub(super) fn bound(sk: &Socket, addr: SocketAddrV4) -> Result<(Arc<Self>, SocketAddrV4)> {
        let backlog = Backlog {
            listening: false,
            limit: 0,
            ready: Ring::empty(),
            setting_up: 0,
            waiting: Ring::empty(),
            next: 0,
            options: Options::default(),
        };
        let port = Work::new(pin_init!(Port {
            net: sk.net().into(),
            removed: AtomicFlag::new(false),
            id <- new_mutex!(None, "sdp::Port::id"),
            backlog <- new_spinlock_bh!(backlog, "sdp::Port::backlog"),
            owner <- new_spinlock_bh!(None, "sdp::Port::owner"),
        }))?;
        let (id, bound) = bind::bind_id(sk.net(), port.clone(), sk.reuse_address(), addr)?;
        *port.owner.lock() = Some(sk.into());
        *port.id.lock() = Some(id);
        Ok((port, bound))
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
        let was_listening = {
            let mut backlog = self.backlog.lock();
            backlog.limit = limit;
            // Those that are there stay.
            if backlog.ready.capacity() < limit {
                ready = backlog.ready.lengthen(ready);
            }
            backlog.options = options;
            core::mem::replace(&mut backlog.listening, true)
        };
        drop(ready);
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

    /// The next connection for accept. Its place is free once it was accepted: see [`Self::admit`].
    pub(super) fn next(&self) -> Option<Arc<Conn>> {
        Some(self.backlog.lock().ready.pop()?.1)
    }

    /// Gives back a connection that could not be accepted.
    pub(super) fn put_back(&self, child: Arc<Conn>) {
        let request = child.request;
        let listening = {
            let mut backlog = self.backlog.lock();
            backlog.listening
                && backlog
                    .ready
                    .insert((request, child.clone()), |(other, _)| *other > request)
                    .is_ok()
        };
        if !listening {
            child.abandon();
        }
    }

    /// Frees the address, and ends what waits for accept. Sleeps.
    pub(super) fn close(&self) {
        *self.owner.lock() = None;
        let id = self.id.lock().take();
        drop(id);
        // No request comes any more.
        let (mut ready, mut waiting) = {
            let mut backlog = self.backlog.lock();
            backlog.listening = false;
            backlog.limit = 0;
            (
                core::mem::replace(&mut backlog.ready, Ring::empty()),
                core::mem::replace(&mut backlog.waiting, Ring::empty()),
            )
        };
        while let Some((_, child)) = ready.pop() {
            child.abandon();
        }
        while let Some(child) = waiting.pop() {
            child.abandon();
        }
    }

    /// Gives places that are free to those who wait for one. Without locks.
    pub(super) fn admit(&self) {
        loop {
            let child = {
                let mut backlog = self.backlog.lock();
                if !backlog.has_place() {
                    return;
                }
                let Some(child) = backlog.waiting.pop() else {
                    return;
                };
                backlog.setting_up = backlog.setting_up.saturating_add(1);
                child
            };
            if !child.admit() {
                self.give_place_back();
            }
        }
    }

    fn give_place_back(&self) {
        let mut backlog = self.backlog.lock();
        backlog.setting_up = backlog.setting_up.saturating_sub(1);
    }

    /// A peer asks for a connection. In the handler of the cm id. An error refuses it.
    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8]) -> Result {
        let most = self.net.max_backlog();
        let (admission, request, options) = {
            let mut backlog = self.backlog.lock();
            if !backlog.listening {
                return Err(ECONNREFUSED);
            }
            let admission = if backlog.waiting.is_empty() && backlog.has_place() {
                backlog.setting_up = backlog.setting_up.saturating_add(1);
                Admission::Now
            } else if backlog.waiting.len() < most {
                Admission::Later
            } else {
                Admission::Busy
            };
            let request = backlog.next;
            backlog.next = request.wrapping_add(1);
            (admission, request, backlog.options)
        };
        let place = match admission {
            Admission::Now => Place::SettingUp,
            Admission::Later => Place::Waiting,
            Admission::Busy => {
                id.reject(&REJECT_BUSY);
                return Err(EAGAIN);
            }
        };
        let adopted = Conn::unconnected(
            &self.net,
            Side::Accepting,
            Owner::Listener(self.arc(), place),
            request,
            options,
        )
        .and_then(|child| Ok((id.adopt(child.clone())?, child)));
        let (id, child) = match adopted {
            Ok(adopted) => adopted,
            Err(e) => {
                if place == Place::SettingUp {
                    self.give_place_back();
                    self.admit();
                }
                return Err(e);
            }
        };
        child.request(id, param, hello);
        if place == Place::Waiting {
            if let Err(child) = self.wait(child) {
                child.abandon();
            }
            // A place may have come free meanwhile.
            self.admit();
        }
        Ok(())
    }

    /// Has a request wait, or gives it back where there is no memory for that.
    fn wait(&self, child: Arc<Conn>) -> Result<(), Arc<Conn>> {
        let length = {
            let mut backlog = self.backlog.lock();
            let waiting = &mut backlog.waiting;
            if !waiting.is_full() {
                return waiting.push(child);
            }
            waiting.capacity().saturating_mul(2).max(8)
        };
        let Ok(longer) = Ring::new(length) else {
            return Err(child);
        };
        let (result, unused) = {
            let mut backlog = self.backlog.lock();
            let unused = backlog.waiting.lengthen(longer);
            (backlog.waiting.push(child), unused)
        };
        drop(unused);
        result
    }
}

impl Parent for Listener {
    fn ready(&self, child: Arc<Conn>, request: u64) -> bool {
        let queued = {
            let mut backlog = self.backlog.lock();
            backlog.setting_up = backlog.setting_up.saturating_sub(1);
            backlog.listening
                && backlog
                    .ready
                    .insert((request, child), |(other, _)| *other > request)
                    .is_ok()
        };
        if queued {
            if let Some(sk) = &*self.owner.lock() {
                sk.data_ready();
            }
        }
        queued
    }

    fn lost(&self, child: &Conn, place: Place) {
        let removed = match place {
            Place::Waiting => {
                let mut backlog = self.backlog.lock();
                backlog
                    .waiting
                    .remove(|other| core::ptr::eq(&**other, child))
            }
            Place::SettingUp => {
                self.give_place_back();
                None
            }
            Place::Ready => None,
        };
        drop(removed);
        self.admit();
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
