// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.

use crate::bindings;
use core::{
    net::Ipv4Addr,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::types::Opaque;

/// A borrowed `struct net`, as sockets have it.
///
/// # Invariants
///
/// It is live, and has all that the module keeps in each namespace ([`super::pernet`]): that is
/// registered before the family, and goes after the last socket.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: A namespace is shared by all threads; C synchronises what is reached through it.
unsafe impl Send for Net {}
// SAFETY: As above.
unsafe impl Sync for Net {}

impl Net {
    /// Borrows a C namespace.
    ///
    /// # Safety
    ///
    /// For `'a` `net` is live, and a socket of the module is there, or is being made, or a file of
    /// its in `net` is in use.
    pub(crate) unsafe fn from_ptr<'a>(net: *mut bindings::net) -> &'a Self {
        // SAFETY: INVARIANT: By the contract; the wrapper is transparent.
        unsafe { &*net.cast() }
    }

    /// The host's own.
    pub(crate) fn host(&self) -> &Self {
        // SAFETY: `init_net` is never freed, and `self` shows that the rest of the condition holds.
        unsafe { Self::from_ptr(&raw mut bindings::init_net) }
    }

    /// `net.core.somaxconn`: the most connection requests that may wait.
    pub(crate) fn max_backlog(&self) -> usize {
        // SAFETY: The namespace is live.
        let n = unsafe { bindings::sdp_helper_somaxconn(self.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Whether it has this address itself. Any context.
    pub(crate) fn is_local(&self, addr: Ipv4Addr) -> bool {
        let addr = u32::from_ne_bytes(addr.octets());
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_is_local(self.as_ptr(), addr) }
    }

    /// Its own addresses that are no loopback's, by a number from 0 on. Any context.
    pub(crate) fn own_addr(&self, at: u32) -> Option<Ipv4Addr> {
        // SAFETY: The namespace is live.
        let addr = unsafe { bindings::sdp_helper_own_addr(self.as_ptr(), at) };
        (addr != 0).then(|| Ipv4Addr::from(addr.to_ne_bytes()))
    }

    /// Whether the caller may bind to a port, which is privileged below
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub(crate) fn may_bind(&self, port: u16) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_may_bind(self.as_ptr(), port) }
    }

    /// Whether a port is not to be chosen where any will do (`net.ipv4.ip_local_reserved_ports`).
    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_is_reserved(self.as_ptr(), port) }
    }

    /// The C namespace, valid as long as `self`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}

/// A counted reference of a namespace, which keeps it.
///
/// # Invariants
///
/// `0` is a live namespace, and this value owns one of its references.
pub(crate) struct NetRef(NonNull<Net>);

// SAFETY: A namespace may be used and let go on any thread.
unsafe impl Send for NetRef {}
// SAFETY: As above.
unsafe impl Sync for NetRef {}

impl From<&Net> for NetRef {
    fn from(net: &Net) -> Self {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_get_net(net.as_ptr()) };
        // INVARIANT: The reference was just taken.
        Self(net.into())
    }
}

impl Deref for NetRef {
    type Target = Net;

    fn deref(&self) -> &Net {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for NetRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::sdp_helper_put_net(self.as_ptr()) };
    }
}
