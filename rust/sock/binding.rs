// SPDX-License-Identifier: GPL-2.0

//! A socket that has an address at a port, and TCP's rules of who may share one.

use crate::{
    net::sockaddr::IpVersion,
    prelude::*,
    rdma::cm::{
        ChildId,
        PeerParam, //
    },
    sock::{
        addr::AddrPair,
        types::{
            Net,
            Socket, //
        }, //
    },
};
use core::net::IpAddr;
use kernel::sync::aref::ARef;

/// A socket that has an address at a port.
pub(super) trait Binding: Send + Sync {
    /// Its address; the unspecified one stands for all. Any context.
    fn ip(&self) -> IpAddr;

    /// Whether the unspecified IPv6 address does not include IPv4 (`IPV6_V6ONLY`). Any context.
    fn is_v6only(&self) -> bool;

    /// With whom it may share the address, by what its socket has set now. Any context.
    fn sharing(&self) -> Sharing;

    /// Whether it listens. Any context.
    fn is_listening(&self) -> bool;

    /// The socket itself, until it is closed. Any context.
    fn socket(&self) -> Option<ARef<Socket>>;

    /// Sets whether it listens. Any context.
    fn set_listening(&self, on: bool);

    /// Takes the request of a peer for a connection between these addresses. In the handler of the
    /// port's cm id. An error refuses the peer.
    fn request(&self, id: ChildId<'_>, param: PeerParam, hello: &[u8], addrs: AddrPair) -> Result;
}

/// With whom a binding may share its address.
#[derive(Clone, Copy, Default)]
pub(super) struct Sharing {
    /// With others that have this set too, while none of them listens (`SO_REUSEADDR`).
    pub(super) reuseaddr: bool,
    /// With others that have this set too and are of this user (`SO_REUSEPORT`): they share the
    /// requests.
    pub(super) reuseport: Option<u32>,
    /// It is in a group of its own already: it joins no other.
    pub(super) has_group: bool,
    /// With all that are bound to another interface, if it is bound to one (`SO_BINDTODEVICE`); 0
    /// is none.
    pub(super) interface: u32,
    /// With others that have this set too: the port was chosen by connect, and the peers of its
    /// connections differ.
    pub(super) connects: bool,
}

impl Sharing {
    /// Whether both are in one group of `SO_REUSEPORT`, if they have the same address.
    pub(super) fn is_group(&self, other: &Self) -> bool {
        self.reuseport.is_some() && self.reuseport == other.reuseport
    }

    /// Whether both can be reached through one interface, as they are bound now.
    pub(super) fn meets(&self, other: &Self, net: &Net) -> bool {
        if self.interface == 0 || other.interface == 0 {
            // A VRF has ports of its own.
            return self.vrf(net) == other.vrf(net);
        }
        self.interface == other.interface
    }

    fn vrf(&self, net: &Net) -> u32 {
        net.vrf_of(self.interface)
    }

    /// Whether it takes requests that come through an interface.
    pub(super) fn hears(&self, from: u32, net: &Net) -> bool {
        let vrf = net.vrf_of(from);
        match self.interface {
            0 => vrf == 0 || net.accepts_from_vrfs(),
            own => own == from || own == vrf,
        }
    }
}

/// Whether requests for a binding come by this version of IP. Those for the IPv6 loopback address
/// come by either, as an adapter may have addresses of one version only. Any context, as for those
/// that follow.
pub(super) fn is_asked_by(binding: &dyn Binding, version: IpVersion) -> bool {
    let is_of_both = match binding.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_loopback() || (ip.is_unspecified() && !binding.is_v6only()),
    };
    is_of_both || IpVersion::of(binding.ip()) == version
}

/// The versions of IP by which requests for a binding come.
pub(super) fn versions(binding: &dyn Binding) -> impl Iterator<Item = IpVersion> + use<'_> {
    let versions = IpVersion::ALL.into_iter();
    versions.filter(|version| is_asked_by(binding, *version))
}

/// Whether both have an address in common.
pub(super) fn overlap(a: &dyn Binding, b: &dyn Binding) -> bool {
    let has_all_of = |a: &dyn Binding, b: &dyn Binding| {
        a.ip().is_unspecified()
            && (IpVersion::of(a.ip()) == IpVersion::of(b.ip())
                || (a.ip().is_ipv6() && !a.is_v6only()))
    };
    a.ip() == b.ip() || has_all_of(a, b) || has_all_of(b, a)
}

/// Whether both, if they listen, share the requests for one address.
pub(super) fn is_group(a: &dyn Binding, b: &dyn Binding) -> bool {
    let (one, other) = (a.sharing(), b.sharing());
    a.ip() == b.ip()
        && a.is_v6only() == b.is_v6only()
        && one.is_group(&other)
        && one.interface == other.interface
}

/// Whether `new` must not be bound beside `bound`: their addresses overlap, they can be reached
/// through one interface, and nothing of [`Sharing`] allows it.
pub(super) fn conflict(net: &Net, new: &dyn Binding, bound: &dyn Binding) -> bool {
    let (own, other) = (new.sharing(), bound.sharing());
    let may_share =
        own.connects && other.connects || own.reuseaddr && other.reuseaddr && !bound.is_listening();
    let may_join = own.is_group(&other) && !own.has_group;
    overlap(new, bound) && own.meets(&other, net) && !may_share && !may_join
}
