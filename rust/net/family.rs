// SPDX-License-Identifier: GPL-2.0

//! Registration of a protocol family with the socket layer.

use crate::{
    bindings,
    net::{
        account,
        ops::{
            proto_ops,
            Protocol, //
        },
        sock::{
            Layout,
            Sock, //
        }, //
    },
    prelude::*, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    str::CStr,
    types::Opaque, //
};

/// The C side of a family, in a static of the module: `struct proto`, its ops and its `create`.
pub(crate) struct Family<P: Protocol> {
    proto: Opaque<bindings::proto>,
    ops: bindings::proto_ops,
    family: bindings::net_proto_family,
    _protocol: PhantomData<fn() -> P>,
}

// SAFETY: The C structures are only changed by the socket layer, which synchronises that.
unsafe impl<P: Protocol> Sync for Family<P> {}

impl<P: Protocol> Family<P> {
    /// A family to be registered. Its sockets keep this module loaded.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        // SAFETY: All zeroes are valid for this C structure of pointers and integers.
        let mut proto: bindings::proto = unsafe { core::mem::zeroed() };
        let from = name.to_bytes_with_nul();
        let mut i = 0;
        // A name too long for the field fails the build here, by the index.
        while i < from.len() {
            proto.name[i] = from[i];
            i += 1;
        }
        proto.owner = &raw mut bindings::__this_module;
        proto.obj_size = size_of::<Layout<P>>() as u32;
        Self {
            proto: Opaque::new(proto),
            ops: proto_ops::<P>(),
            family: bindings::net_proto_family {
                family: P::FAMILY,
                create: Some(Self::create),
                owner: &raw mut bindings::__this_module,
            },
            _protocol: PhantomData,
        }
    }

    pub(super) fn proto(&'static self) -> *mut bindings::proto {
        self.proto.get()
    }

    pub(super) fn ops(&'static self) -> *const bindings::proto_ops {
        &raw const self.ops
    }

    /// # Safety
    ///
    /// The socket layer calls it, with a live namespace and a socket under construction.
    unsafe extern "C" fn create(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        protocol: c_int,
        kern: c_int,
    ) -> c_int {
        kernel::error::from_result(|| {
            // SAFETY: The socket layer calls with a live socket under construction.
            if c_int::from(unsafe { (*sock).type_ }) != bindings::sock_type_SOCK_STREAM as c_int {
                return Err(ESOCKTNOSUPPORT);
            }
            if protocol != 0 && protocol != bindings::IPPROTO_TCP as c_int {
                return Err(EPROTONOSUPPORT);
            }
            // SAFETY: Both are what the socket layer handed in.
            unsafe { Sock::<P>::create(net, sock, kern) }?;
            Ok(0)
        })
    }
}

/// A registered family; unregistered when dropped.
///
/// The socket layer lets the module go only when no socket is left, so that dropping it cannot
/// race with one.
pub(crate) struct Registration<P: Protocol>(&'static Family<P>);

impl<P: Protocol> Registration<P> {
    /// Registers `family`; from here on programs can open sockets of it.
    ///
    /// Fails with `EEXIST` where another module has the family number.
    pub(crate) fn new(family: &'static Family<P>) -> Result<Self> {
        // SAFETY: The static `struct proto` is not registered yet.
        unsafe { account::set_up(family.proto()) };
        // SAFETY: The static `struct proto` is registered once, and unregistered below or in drop.
        to_result(unsafe { bindings::proto_register(family.proto(), 1) })?;
        // SAFETY: The static family outlives its registration.
        let registered = to_result(unsafe { bindings::sock_register(&raw const family.family) });
        if let Err(e) = registered {
            // SAFETY: Registered above, and no socket can exist.
            unsafe { bindings::proto_unregister(family.proto()) };
            return Err(e);
        }
        Ok(Self(family))
    }
}

impl<P: Protocol> Drop for Registration<P> {
    fn drop(&mut self) {
        // SAFETY: Both were registered by `new()`. Every sock holds the module, so none is left.
        unsafe {
            bindings::sock_unregister(P::FAMILY);
            bindings::proto_unregister(self.0.proto());
        }
    }
}
