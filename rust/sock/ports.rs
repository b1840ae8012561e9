// SPDX-License-Identifier: GPL-2.0

//! The ports of a network namespace.
//!
//! rdma_cm has a space of ports that all its users share, and gives a port to one of them for an
//! address, or for all. A [`Port`] is a number that this module has there, for all addresses: what
//! a bind bucket is to TCP. Which of our sockets may have which address of it, and who of them gets
//! a request, is decided here by TCP's rules.
//!
//! A connection of the host with itself goes by an address of a device, whatever the names are by
//! which its ends know each other. Where one of those is a loopback address, the end that connects
//! leaves word with the port: [`Port::expect`].
//!
//! Locks: [`Port::cm`] may be taken under `lock_sock()`, and [`Ports::table`] under that, or under
//! the set-up lock of a connection. A handler of the CM takes [`Port::holders`] and
//! [`Port::expected`], under which no other is taken but a binding's own, and then those of the
//! backlog.
//!
//! References: the cm id of a port has an `Arc` of it, and so has each of its holders; the port has
//! those of its holders and the cm id. All this ends when the last binding goes.

use crate::{
    net::{
        namespace::Net,
        pernet::{
            PerNetValue,
            ValueRegistration,
            Values, //
        },
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
    },
    prelude::*,
    rdma::cm::{
        ChildId,
        CmEvent,
        CmHandler,
        CmId,
        PeerParam, //
    },
    sock::{
        addr::{
            self,
            Names, //
        },
        ring::Ring, //
    },
};
use core::{
    net::{
        Ipv4Addr,
        SocketAddr,
        SocketAddrV4, //
    },
    pin::Pin,
};
use kernel::{
    new_mutex,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        Arc,
        Mutex, //
    },
};

/// Requests that an iWARP device is to have room for, however few `net.core.somaxconn` lets wait:
/// it forgets a connection that finds no room, and siw comes to harm when that one ends.
const REQUESTS: usize = 128;

/// What has an address at a port.
pub(super) trait Binding: Send + Sync {
    /// Its address, or the unspecified one for all. Any context.
    fn ip(&self) -> Ipv4Addr;

    /// Whether others may have the address too while none of them listens (`SO_REUSEADDR`). Any
    /// context.
    fn reuseaddr(&self) -> bool;

    /// Whether it listens. Any context.
    fn is_listening(&self) -> bool;

    /// Says so, or no more. Any context.
    fn set_listening(&self, on: bool);

    /// A peer asks for a connection, by these names of its ends. In the handler of a cm id. An
    /// error refuses it.
    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8], names: Names) -> Result;
}

/// The ports of one namespace.
#[pin_data]
pub(crate) struct Ports {
    #[pin]
    table: Mutex<RBTree<u16, Arc<Port>>>,
}

/// The ports of all namespaces, while it lives.
pub(crate) type Registration = ValueRegistration<Ports>;

static PORTS: Values<Ports> = Values::new();

impl PerNetValue for Ports {
    fn values() -> &'static Values<Self> {
        &PORTS
    }

    fn new() -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                table <- new_mutex!(RBTree::new(), "sdp::Ports::table"),
            }),
            GFP_KERNEL,
        )
    }
}

/// A port that is in use.
#[pin_data]
pub(super) struct Port {
    number: u16,
    #[pin]
    cm: Mutex<Cm>,
    #[pin]
    holders: SpinLockBh<Ring<Arc<dyn Binding>>>,
    /// The connections of the host with itself that are being made.
    #[pin]
    expected: SpinLockBh<Ring<Expected>>,
}

/// The port in rdma_cm.
struct Cm {
    id: Option<CmId<Arc<Port>>>,
    is_listening: bool,
    /// The last binding has gone, and the port is not in the table any more.
    is_gone: bool,
}

/// A connection that is being made from this host.
#[derive(Clone, Copy)]
struct Expected {
    /// The address from which its request comes.
    from: SocketAddrV4,
    /// The names of its ends, as the accepting one has them.
    names: Names,
}

impl Port {
    /// The port with this number, which may have no holders yet: [`Self::add`] comes next. Sleeps.
    /// Fails with `ENOMEM`.
    pub(super) fn get(net: &Net, number: u16) -> Result<Arc<Self>> {
        let port = Arc::pin_init(
            pin_init!(Self {
                number,
                cm <- new_mutex!(Cm {
                    id: None,
                    is_listening: false,
                    is_gone: false,
                }, "sdp::Port::cm"),
                holders <- new_spinlock_bh!(Ring::empty(), "sdp::Port::holders"),
                expected <- new_spinlock_bh!(Ring::empty(), "sdp::Port::expected"),
            }),
            GFP_KERNEL,
        )?;
        let node = RBTreeNode::new(number, port.clone(), GFP_KERNEL)?;
        let mut table = PORTS.get(net).table.lock();
        if let Some(there) = table.get(&number) {
            return Ok(there.clone());
        }
        table.insert(node);
        Ok(port)
    }

    /// Whether this number is in use by a socket of this module. Sleeps.
    pub(super) fn is_used(net: &Net, number: u16) -> bool {
        PORTS.get(net).table.lock().get(&number).is_some()
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Gives `binding` its address. Sleeps. Fails with `EADDRINUSE` where that is another's, with
    /// `EAGAIN` where the port has gone meanwhile and is to be got anew, and as [`CmId::new`] does.
    pub(super) fn add(this: &Arc<Self>, net: &Net, binding: Arc<dyn Binding>) -> Result {
        let mut cm = this.cm.lock();
        if cm.is_gone {
            return Err(EAGAIN);
        }
        let added = match &cm.id {
            Some(_) => Ok(()),
            None => Self::reserve(this, net, &mut cm),
        }
        .and_then(|()| this.insert(binding));
        if added.is_err() && this.holders.lock().is_empty() {
            this.retire(net, &mut cm);
        }
        added
    }

    /// Takes the number in rdma_cm's space. It is shared there with the cm ids that connect from
    /// it.
    fn reserve(this: &Arc<Self>, net: &Net, cm: &mut Cm) -> Result {
        let mut id = CmId::new(net, this.clone())?;
        // That fails for listeners only, which a new one is not.
        let _ = id.set_reuseaddr(true);
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, this.number);
        match id.bind(&SocketAddr::V4(any)) {
            Ok(_) => {
                cm.id = Some(id);
                Ok(())
            }
            // For all addresses it is not available where it is in use for one.
            Err(e) if e == EADDRNOTAVAIL => Err(EADDRINUSE),
            Err(e) => Err(e),
        }
    }

    fn insert(&self, binding: Arc<dyn Binding>) -> Result {
        // Only added to under the mutex, which is held.
        Ring::make_room(&self.holders, |holders| holders)?;
        let mut holders = self.holders.lock();
        if holders.iter().any(|other| conflict(&*binding, &**other)) {
            return Err(EADDRINUSE);
        }
        holders.push(binding).map_err(|_| ENOMEM)
    }

    /// Has a binding listen that does not. Sleeps. Fails with `EADDRINUSE` where another listens
    /// there, or a connection was made from the port, and as [`CmId::listen`] does.
    pub(super) fn listen(this: &Arc<Self>, net: &Net, binding: &dyn Binding) -> Result {
        let mut cm = this.cm.lock();
        let takes = |other: &Arc<dyn Binding>| other.is_listening() && overlap(binding, &**other);
        if this.holders.lock().iter().any(takes) {
            return Err(EADDRINUSE);
        }
        // Requests may come before rdma_cm says that it listens.
        binding.set_listening(true);
        Self::listen_below(this, net, &mut cm).inspect_err(|_| binding.set_listening(false))
    }

    fn listen_below(this: &Arc<Self>, net: &Net, cm: &mut Cm) -> Result {
        if cm.is_listening {
            return Ok(());
        }
        if cm.id.is_none() {
            Self::reserve(this, net, cm)?;
        }
        let requests = net.max_backlog().max(REQUESTS);
        let id = cm.id.as_mut().ok_or(EADDRINUSE)?;
        match id.listen(i32::try_from(requests).unwrap_or(i32::MAX)) {
            Ok(()) => {
                cm.is_listening = true;
                Ok(())
            }
            Err(e) => {
                // It may not share the port any more.
                Self::renew(this, net, cm);
                Err(if e == EADDRNOTAVAIL { EADDRINUSE } else { e })
            }
        }
    }

    /// A binding does not listen any more: requests come no longer when this returns, where nobody
    /// else does. Sleeps.
    pub(super) fn stop(this: &Arc<Self>, net: &Net) {
        Self::stop_below(this, net, &mut this.cm.lock());
    }

    fn stop_below(this: &Arc<Self>, net: &Net, cm: &mut Cm) {
        let is_wanted = this.holders.lock().iter().any(|other| other.is_listening());
        if cm.is_listening && !is_wanted {
            Self::renew(this, net, cm);
        }
    }

    /// Exchanges the cm id for one that does not listen.
    fn renew(this: &Arc<Self>, net: &Net, cm: &mut Cm) {
        cm.id = None;
        cm.is_listening = false;
        // Where somebody else was quicker, who listens next is told.
        let _ = Self::reserve(this, net, cm);
    }

    /// Takes the address from a binding, which does not listen any more. Sleeps.
    pub(super) fn remove(this: &Arc<Self>, net: &Net, binding: &dyn Binding) {
        let mut cm = this.cm.lock();
        let is_it = |other: &Arc<dyn Binding>| core::ptr::addr_eq(&raw const **other, binding);
        let removed = this.holders.lock().remove(is_it);
        drop(removed);
        if this.holders.lock().is_empty() {
            this.retire(net, &mut cm);
        } else {
            Self::stop_below(this, net, &mut cm);
        }
    }

    fn retire(&self, net: &Net, cm: &mut Cm) {
        // Its handler takes none of the locks that are held.
        cm.id = None;
        cm.is_listening = false;
        cm.is_gone = true;
        let node = PORTS.get(net).table.lock().remove_node(&self.number);
        drop(node);
    }

    /// Who listens at an address.
    fn listener(&self, ip: Ipv4Addr) -> Option<Arc<dyn Binding>> {
        let holders = self.holders.lock();
        let at = |ip: Ipv4Addr| {
            let mut there = holders
                .iter()
                .filter(|binding| binding.ip() == ip && binding.is_listening());
            there.next().cloned()
        };
        at(ip).or_else(|| at(Ipv4Addr::UNSPECIFIED))
    }

    /// The port of an address of this host at which somebody listens. Sleeps.
    pub(super) fn listening(net: &Net, addr: SocketAddrV4) -> Option<Arc<Self>> {
        let port = {
            let table = PORTS.get(net).table.lock();
            table.get(&addr.port()).cloned()
        };
        port.filter(|port| port.listener(*addr.ip()).is_some())
    }

    /// Leaves word that a request from `from`, an address of a device here, is for a connection
    /// whose accepting end knows it by `names`. Sleeps. Fails with `ENOMEM`.
    pub(super) fn expect(this: Arc<Self>, from: SocketAddrV4, names: Names) -> Result<Expectation> {
        loop {
            Ring::make_room(&this.expected, |expected| expected)?;
            let pushed = this.expected.lock().push(Expected { from, names });
            if pushed.is_ok() {
                return Ok(Expectation { port: this, from });
            }
        }
    }

    /// The names of the ends of a connection that is asked for.
    fn names(&self, id: &ChildId<'_>) -> Result<Names> {
        let names = Names {
            local: addr::v4(id.local_addr()?)?,
            peer: addr::v4(id.peer_addr()?)?,
        };
        if names.peer.ip() != names.local.ip() || !id.is_own() {
            return Ok(names);
        }
        let expected = self.expected.lock();
        let told = expected.iter().find(|other| other.from == names.peer);
        Ok(told.map_or(names, |told| told.names))
    }

    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8]) -> Result {
        let names = self.names(&id)?;
        let binding = self.listener(*names.local.ip()).ok_or(ECONNREFUSED)?;
        binding.request(id, param, hello, names)
    }
}

impl CmHandler for Arc<Port> {
    fn event(&self, event: CmEvent<'_>) {
        // A port belongs to no device, and the other events are of connections.
        if let CmEvent::ConnectRequest {
            child,
            param,
            private_data,
        } = event
        {
            if let Err(e) = self.request(child, param, private_data) {
                pr_debug!("connection request refused: {e:?}\n");
            }
        }
    }
}

/// What was left with a port by [`Port::expect`], until dropped.
pub(super) struct Expectation {
    port: Arc<Port>,
    from: SocketAddrV4,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let from = self.from;
        self.port.expected.lock().remove(|other| other.from == from);
    }
}

/// Whether there is an address that both have.
fn overlap(a: &dyn Binding, b: &dyn Binding) -> bool {
    a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
}

/// Whether `new` must not be bound beside `bound`: their addresses overlap, and not both have
/// `SO_REUSEADDR`, or `bound` listens.
fn conflict(new: &dyn Binding, bound: &dyn Binding) -> bool {
    let may_share = new.reuseaddr() && bound.reuseaddr() && !bound.is_listening();
    overlap(new, bound) && !may_share
}
