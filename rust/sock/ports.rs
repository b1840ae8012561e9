// SPDX-License-Identifier: GPL-2.0

//! The ports of a network namespace.
//!
//! rdma_cm has a space of ports that all its users share, and gives a port to one of them for an
//! address, or for all. A [`Port`] is a number that this module has there, for all addresses: what
//! a bind bucket is to TCP. Which of our sockets may have which address of it is decided by TCP's
//! rules ([`Binding`]), and so is which of them gets a request.
//!
//! A connection of the host with itself uses the address of a device, whatever addresses the
//! programs use. Where one of those is a loopback address, the end that connects notifies the
//! listening port of the request: [`Port::expect`].
//!
//! rdma_cm lets all connections from a port of ours have any peer, so the port knows them too:
//! [`Port::claim`].
//!
//! Locks: see Documentation/architecture.rst. Only those of a binding's backlog are taken under
//! [`Port::holders`].
//!
//! References: the cm ids of a port have an `Arc` of it, and so has each of its holders; the port
//! has its holders and the cm ids. These circles end when the last binding is removed.

use crate::{
    net::{
        hash,
        namespace::LOOPBACK_INTERFACE,
        sockaddr::IpVersion,
        spinlock_bh::{
            new_spinlock_bh,
            SpinLockBh, //
        },
    },
    prelude::*,
    proto::REJECT_NOBODY,
    rdma::{
        client,
        cm::{
            ChildId,
            CmEvent,
            CmHandler,
            CmId,
            PeerParam, //
        },
    },
    sock::{
        addr::AddrPair,
        binding::{
            conflict,
            is_asked_by,
            is_group,
            overlap,
            versions,
            Binding,
            Sharing, //
        },
        ring::Ring,
        types::{
            Net,
            NetRef, //
        }, //
    },
};
use core::net::{
    IpAddr,
    SocketAddr, //
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

/// How many requests an iWARP device queues, whatever the backlog: it forgets a connection that
/// finds no room, and siw crashes when that one ends.
const REQUESTS: c_int = 512;

/// Pages that an iWARP device and its connection manager take for these requests: 640 bytes each.
const REQUEST_PAGES: usize = 80;

/// The most bindings of a port: each request looks at all of them.
const MAX_HOLDERS: usize = 1024;

/// The ports of one namespace.
#[pin_data]
pub(crate) struct Ports {
    #[pin]
    table: Mutex<RBTree<u16, Arc<Port>>>,
}

impl Ports {
    /// Without ports.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_mutex!(RBTree::new(), "sdp::Ports::table"),
        })
    }
}

/// A port that is in use.
#[pin_data]
pub(super) struct Port {
    number: u16,
    net: NetRef,
    #[pin]
    cm: Mutex<Cm>,
    #[pin]
    holders: SpinLockBh<Ring<Arc<dyn Binding>>>,
    /// The requests of this host that are expected: by the address and port that each comes from,
    /// the addresses of the connection, as the accepting end is to see them.
    #[pin]
    expected: SpinLockBh<RBTree<SocketAddr, AddrPair>>,
    /// The connections that were made from it.
    #[pin]
    claims: SpinLockBh<Ring<Claimed>>,
}

/// The port in rdma_cm, which reserves it for each version of IP.
struct Cm {
    v4: Space,
    v6: Space,
    /// The last binding was removed, and the port is not in the table any more.
    is_gone: bool,
}

impl Cm {
    fn space(&mut self, version: IpVersion) -> &mut Space {
        match version {
            IpVersion::V4 => &mut self.v4,
            IpVersion::V6 => &mut self.v6,
        }
    }
}

/// The port in rdma_cm for one version of IP.
#[derive(Default)]
struct Space {
    id: Option<CmId<Arc<Port>>>,
    is_listening: bool,
}

/// A connection that was made from a port.
#[derive(Clone, Copy)]
struct Claimed {
    addrs: AddrPair,
    /// The interface that its socket is bound to, or 0.
    interface: u32,
}

impl Port {
    /// The port with this number, which may have no holders yet: [`Self::add`] has to follow.
    /// Sleeps. Fails with `ENOMEM`.
    pub(super) fn get(net: &Net, number: u16) -> Result<Arc<Self>> {
        let port = Arc::pin_init(
            pin_init!(Self {
                number,
                net: net.into(),
                cm <- new_mutex!(Cm {
                    v4: Space::default(),
                    v6: Space::default(),
                    is_gone: false,
                }, "sdp::Port::cm"),
                holders <- new_spinlock_bh!(Ring::empty(), "sdp::Port::holders"),
                expected <- new_spinlock_bh!(RBTree::new(), "sdp::Port::expected"),
                claims <- new_spinlock_bh!(Ring::empty(), "sdp::Port::claims"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let node = RBTreeNode::new(number, port.clone(), GFP_KERNEL_ACCOUNT)?;
        let mut table = net.own().ports.table.lock();
        if let Some(there) = table.get(&number) {
            return Ok(there.clone());
        }
        table.insert(node);
        Ok(port)
    }

    /// Whether this number is in use by a socket of this module; for one that `connects`, by one
    /// that shares it with no such. Sleeps.
    pub(super) fn is_used(net: &Net, number: u16, connects: bool) -> bool {
        let port = net.own().ports.table.lock().get(&number).cloned();
        port.is_some_and(|port| {
            let holders = port.holders.lock();
            !connects || holders.iter().any(|other| !other.sharing().connects)
        })
    }

    /// Gives `binding` its address. Sleeps. Fails with `EADDRINUSE` where another has it, with
    /// `EAGAIN` where the port was retired meanwhile and [`Self::get`] has to be called again, and
    /// as [`CmId::new`] does.
    pub(super) fn add(this: &Arc<Self>, net: &Net, binding: Arc<dyn Binding>) -> Result {
        let mut cm = this.cm.lock();
        if cm.is_gone {
            return Err(EAGAIN);
        }
        let reserved =
            versions(&*binding).try_for_each(|version| Self::reserve(this, net, &mut cm, version));
        let added = reserved.and_then(|()| this.insert(net, binding));
        if added.is_err() && this.holders.lock().is_empty() {
            this.retire(net, &mut cm);
        }
        added
    }

    /// Reserves the number in rdma_cm, if it is not reserved yet, shared with the cm ids that
    /// connect from it. Sleeps. Fails with `EADDRINUSE`, and as [`CmId::new`] and [`CmId::bind`]
    /// do.
    fn reserve(this: &Arc<Self>, net: &Net, cm: &mut Cm, version: IpVersion) -> Result {
        let space = cm.space(version);
        if space.id.is_some() {
            return Ok(());
        }
        let mut id = CmId::new(net, this.clone())?;
        // That fails for listeners only, which a new one is not.
        let _ = id.set_reuseaddr(true);
        match id.bind(&SocketAddr::new(version.any(), this.number)) {
            Ok(_) => {
                space.id = Some(id);
                Ok(())
            }
            // It is not available for all addresses where it is in use for one.
            Err(e) if e == EADDRNOTAVAIL => Err(EADDRINUSE),
            Err(e) => Err(e),
        }
    }

    fn insert(&self, net: &Net, binding: Arc<dyn Binding>) -> Result {
        // Holders are added only under the mutex, which is held.
        if self.holders.lock().len() >= MAX_HOLDERS {
            return Err(EADDRINUSE);
        }
        Ring::reserve(&self.holders, |holders| holders)?;
        let mut holders = self.holders.lock();
        if holders
            .iter()
            .any(|other| conflict(net, &*binding, &**other))
        {
            return Err(EADDRINUSE);
        }
        holders.push(binding).map_err(|_| ENOMEM)
    }

    /// Has a binding listen. Sleeps. Fails with `EADDRINUSE` where another listens there, or a
    /// connection was made from the port, and as [`CmId::listen`] does.
    pub(super) fn listen(this: &Arc<Self>, net: &Net, binding: &dyn Binding) -> Result {
        let mut cm = this.cm.lock();
        let sharing = binding.sharing();
        let takes = |other: &Arc<dyn Binding>| {
            if sharing.has_group && !is_same(other, binding) {
                return conflict(net, binding, &**other);
            }
            other.is_listening()
                && overlap(binding, &**other)
                && sharing.meets(&other.sharing(), net)
                && !sharing.is_group(&other.sharing())
        };
        if this.holders.lock().iter().any(takes) {
            return Err(EADDRINUSE);
        }
        let sk = binding.socket().filter(|_| sharing.reuseport.is_some());
        if let Some(sk) = &sk {
            let member = this
                .member_of_group(binding)
                .and_then(|other| other.socket());
            sk.join_group(member.as_deref(), binding.ip().is_unspecified())?;
        }
        // Requests may come before rdma_listen() returns.
        binding.set_listening(true);
        versions(binding)
            .try_for_each(|version| Self::listen_below(this, net, &mut cm, version))
            .inspect_err(|_| {
                // The program that it was given before stays.
                if let Some(sk) = sk.filter(|_| !sharing.has_group) {
                    sk.leave_group();
                }
                binding.set_listening(false);
                Self::stop_below(this, net, &mut cm);
            })
    }

    /// Has a binding take no more requests, and its socket leave the group, with which another that
    /// begins to listen meanwhile would be alone. One that does not listen keeps the program that
    /// it was given. Sleeps.
    pub(super) fn end_listening(this: &Arc<Self>, binding: &dyn Binding) {
        let _cm = this.cm.lock();
        if binding.is_listening() {
            binding.set_listening(false);
            if let Some(sk) = binding.socket() {
                sk.leave_group();
            }
        }
    }

    /// Another that listens and shares the requests with `binding`.
    fn member_of_group(&self, binding: &dyn Binding) -> Option<Arc<dyn Binding>> {
        let holders = self.holders.lock();
        let found = holders
            .iter()
            .find(|other| other.is_listening() && is_group(binding, &***other));
        found.cloned()
    }

    fn listen_below(this: &Arc<Self>, net: &Net, cm: &mut Cm, version: IpVersion) -> Result {
        if cm.space(version).is_listening {
            return Ok(());
        }
        Self::reserve(this, net, cm, version)?;
        let space = cm.space(version);
        let id = space.id.as_mut().ok_or(EADDRINUSE)?;
        match id.listen(REQUESTS) {
            Ok(()) => {
                space.is_listening = true;
                Ok(())
            }
            Err(e) => {
                // It may not share the port any more.
                Self::renew(this, net, cm, version);
                Err(if e == EADDRNOTAVAIL { EADDRINUSE } else { e })
            }
        }
    }

    /// Stops listening in rdma_cm where no binding listens any more: no request comes after this
    /// returns. Sleeps.
    pub(super) fn stop(this: &Arc<Self>, net: &Net) {
        Self::stop_below(this, net, &mut this.cm.lock());
    }

    fn stop_below(this: &Arc<Self>, net: &Net, cm: &mut Cm) {
        for version in IpVersion::ALL {
            if cm.space(version).is_listening && !this.listens_by(version) {
                Self::renew(this, net, cm, version);
            }
        }
    }

    /// Whether a binding listens that is reached by this version of IP. Any context.
    pub(super) fn listens_by(&self, version: IpVersion) -> bool {
        let listens =
            |other: &Arc<dyn Binding>| other.is_listening() && is_asked_by(&**other, version);
        self.holders.lock().iter().any(listens)
    }

    /// Replaces the cm id by one that does not listen. Sleeps.
    fn renew(this: &Arc<Self>, net: &Net, cm: &mut Cm, version: IpVersion) {
        *cm.space(version) = Space::default();
        // If another user of rdma_cm was quicker, the next listen fails.
        let _ = Self::reserve(this, net, cm, version);
    }

    /// Removes a binding, which does not listen any more. Sleeps.
    pub(super) fn remove(this: &Arc<Self>, net: &Net, binding: &dyn Binding) {
        let mut cm = this.cm.lock();
        let removed = this.holders.lock().remove(|other| is_same(other, binding));
        drop(removed);
        if this.holders.lock().is_empty() {
            this.retire(net, &mut cm);
        } else {
            Self::stop_below(this, net, &mut cm);
        }
    }

    fn retire(&self, net: &Net, cm: &mut Cm) {
        // Its handler takes none of the locks that are held.
        cm.v4 = Space::default();
        cm.v6 = Space::default();
        cm.is_gone = true;
        let node = net.own().ports.table.lock().remove_node(&self.number);
        drop(node);
    }

    /// The binding that listens at an address for what comes through an interface, or through any
    /// if that is not known; of a group the one that its program selects, or `peer` is hashed to.
    /// Any context.
    fn listener(
        &self,
        net: &Net,
        ip: IpAddr,
        from: Option<u32>,
        peer: SocketAddr,
    ) -> Option<Arc<dyn Binding>> {
        let holders = self.holders.lock();
        let ip_asked = ip;
        let at = |ip: IpAddr, is_of_both: bool| {
            let hears = |sharing: &Sharing| from.is_none_or(|from| sharing.hears(from, net));
            let there = || {
                holders.iter().filter(|binding| {
                    binding.ip() == ip
                        && binding.is_listening()
                        && !(is_of_both && binding.is_v6only())
                        && hears(&binding.sharing())
                })
            };
            // One that is bound to the interface comes first.
            let first = there().max_by_key(|binding| binding.sharing().interface > 0)?;
            let sharing = first.sharing();
            let group = || {
                there().filter(|other| {
                    let theirs = other.sharing();
                    theirs.is_group(&sharing) && theirs.interface == sharing.interface
                })
            };
            let hash = share(self.number, peer);
            let selected = || {
                if !sharing.has_group {
                    return None;
                }
                let local = SocketAddr::new(ip_asked, self.number);
                // CAST: A half is as good as the whole.
                let selected = first.socket()?.select(peer, local, from?, hash as u32)?;
                let is_it = |other: &&Arc<dyn Binding>| {
                    (other.socket()).is_some_and(|sk| sk.is_selected(&selected))
                };
                group().find(is_it)
            };
            let hashed = || {
                let at = hash.checked_rem(u64::try_from(group().count()).unwrap_or(0));
                group().nth(usize::try_from(at.unwrap_or(0)).unwrap_or(0))
            };
            Some(selected().or_else(hashed).unwrap_or(first).clone())
        };
        at(ip, false)
            .or_else(|| at(IpVersion::of(ip).any(), false))
            .or_else(|| at(IpVersion::V6.any(), true))
    }

    /// The port of `addr`, an address of this host, if a binding listens there. Sleeps.
    pub(super) fn listening(net: &Net, addr: SocketAddr) -> Option<Arc<Self>> {
        let port = {
            let table = net.own().ports.table.lock();
            table.get(&addr.port()).cloned()
        };
        port.filter(|port| port.listener(net, addr.ip(), None, addr).is_some())
    }

    /// Expects a request from `from`, an address of a device of this host, for a connection that
    /// the accepting end is to see under `addrs`. Sleeps. Fails with `ENOMEM`.
    pub(super) fn expect(
        this: Arc<Self>,
        from: SocketAddr,
        addrs: AddrPair,
    ) -> Result<Expectation> {
        let node = RBTreeNode::new(from, addrs, GFP_KERNEL_ACCOUNT)?;
        let replaced = this.expected.lock().insert(node);
        drop(replaced);
        Ok(Expectation { port: this, from })
    }

    /// Claims a connection from the port between these addresses, for a socket that is bound to an
    /// interface, or to none (0). Sleeps. Fails with `EADDRNOTAVAIL` where there is one already, as
    /// with TCP, and with `ENOMEM`.
    pub(super) fn claim(this: &Arc<Self>, addrs: AddrPair, interface: u32) -> Result<Claim> {
        let claimed = Claimed { addrs, interface };
        loop {
            Ring::reserve(&this.claims, |claims| claims)?;
            let mut claims = this.claims.lock();
            let is_same =
                |other: &Claimed| other.addrs == addrs && [0, interface].contains(&other.interface);
            if claims.iter().any(is_same) {
                return Err(EADDRNOTAVAIL);
            }
            if claims.push(claimed).is_ok() {
                drop(claims);
                return Ok(Claim {
                    port: this.clone(),
                    claimed,
                });
            }
        }
    }

    /// The addresses of a connection that is asked for, as the accepting end is to see them. Fails
    /// as [`ChildId::local_addr`] does.
    fn addrs(&self, id: &ChildId<'_>) -> Result<AddrPair> {
        let addrs = AddrPair {
            local: id.local_addr()?,
            peer: id.peer_addr()?,
        };
        if addrs.peer.ip() != addrs.local.ip() || !id.is_own() {
            return Ok(addrs);
        }
        let expected = self.expected.lock().get(&addrs.peer).copied();
        Ok(expected.unwrap_or(addrs))
    }

    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8]) -> Result {
        let addrs = self.addrs(&id)?;
        let local = addrs.local.ip();
        // As with TCP, what the host sends to itself comes through the interface with the address.
        let from = match local.is_loopback() {
            true => LOOPBACK_INTERFACE,
            false => id.interface(),
        };
        let Some(binding) = self.listener(&self.net, local, Some(from), addrs.peer) else {
            id.reject(&REJECT_NOBODY);
            return Err(ECONNREFUSED);
        };
        binding.request(id, param, hello, addrs)
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

/// A request that a port expects by [`Port::expect`], until dropped.
pub(super) struct Expectation {
    port: Arc<Port>,
    from: SocketAddr,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let node = self.port.expected.lock().remove_node(&self.from);
        drop(node);
    }
}

/// The addresses of a connection, which no other from the port has, until dropped.
pub(super) struct Claim {
    port: Arc<Port>,
    claimed: Claimed,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let own = self.claimed;
        let is_own = |other: &Claimed| other.addrs == own.addrs && other.interface == own.interface;
        self.port.claims.lock().remove(is_own);
    }
}

fn is_same(one: &Arc<dyn Binding>, other: &dyn Binding) -> bool {
    core::ptr::addr_eq(&raw const **one, other)
}

/// Pages that a binding takes: for the port and its cm ids, and while it `listens` for the requests
/// that iWARP devices queue for each of these. Any context.
pub(super) fn pages(binding: &dyn Binding, listens: bool) -> usize {
    let requests = match listens {
        true => client::iwarp_devices().saturating_mul(REQUEST_PAGES),
        false => 0,
    };
    versions(binding)
        .count()
        .saturating_mul(requests.saturating_add(1))
}

/// A number by which listeners share the requests of peers: always the same for one peer, which
/// cannot predict it.
fn share(number: u16, peer: SocketAddr) -> u64 {
    let ip = match peer.ip() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let ports = u64::from(number) << 16 | u64::from(peer.port());
    // CAST: Halves.
    hash([ip as u64, (ip >> 64) as u64, ports])
}
