// SPDX-License-Identifier: GPL-2.0

//! The groups of sockets that listen at one address (`SO_REUSEPORT`), as the kernel keeps them for
//! TCP: a BPF program of a group selects who gets a request. It sees the SYN with which TCP would
//! make the connection.
//!
//! Who is in a group is decided by who has it join. A program that a socket was given before it
//! listens makes it a group of its own, which cannot join another.

use crate::{
    bindings,
    net::{
        ops::Protocol,
        sock::Sock, //
    },
    prelude::*, //
};
use core::{
    net::{
        IpAddr,
        SocketAddr, //
    },
    ptr::{
        addr_of,
        eq,
        null_mut, //
    },
};
use kernel::error::to_result;

/// The socket that a program has selected. It may be gone: it is only ever compared.
pub(crate) struct Selected(*const bindings::sock);

impl<P: Protocol> Sock<P> {
    /// Joins the group of `other`, which listens at the same address, or begins a group; whether
    /// that is at any address. Fails with `ENOMEM`, and with `EBUSY` where it is in another group.
    /// With this socket locked, which guards its flags.
    pub(crate) fn join_group(&self, other: Option<&Self>, is_any: bool) -> Result {
        let other = other.map_or(null_mut(), Self::as_ptr);
        // SAFETY: Both are live socks, and nobody else changes the flags of this one.
        to_result(unsafe { bindings::sdp_helper_reuseport_join(self.as_ptr(), other, is_any) })
    }

    /// Whether it is in a group: it listens, or was given a program before. Any context, as for
    /// those that follow.
    pub(crate) fn has_group(&self) -> bool {
        // SAFETY: The sock is live; what the pointer points to is not looked at.
        unsafe {
            !addr_of!((*self.as_ptr()).sk_reuseport_cb)
                .read_volatile()
                .is_null()
        }
    }

    /// Leaves its group, if it has one.
    pub(crate) fn leave_group(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::reuseport_detach_sock(self.as_ptr()) };
    }

    /// Who is to get the request of `peer` for a connection with `local`, which comes through an
    /// interface, if the group has a program: the one that this selects, or if it selects none,
    /// the one that `hash` does.
    pub(crate) fn select(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        interface: u32,
        hash: u32,
    ) -> Option<Selected> {
        let [peer, local] = [peer, local].map(|end| {
            let ip = match end.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let mut to = bindings::sdp_end {
                port: end.port().to_be(),
                ..Default::default()
            };
            to.ip.in6_u.u6_addr8 = ip.octets();
            to
        });
        let interface = c_int::try_from(interface).unwrap_or(0);
        // SAFETY: The sock is live.
        let selected = unsafe {
            bindings::sdp_helper_reuseport_select(self.as_ptr(), &peer, &local, interface, hash)
        };
        (!selected.is_null()).then(|| Selected(selected.cast()))
    }

    /// Whether this is the one that was selected.
    pub(crate) fn is_selected(&self, selected: &Selected) -> bool {
        eq(self.as_ptr(), selected.0)
    }
}
