// SPDX-License-Identifier: GPL-2.0

//! Registration of a protocol family with the socket layer.

use crate::{
    bindings,
    net::{
        diag,
        ops::{
            ioctl,
            proto_ops,
            Protocol, //
        },
        pernet,
        sk_mem,
        sock::{
            pinet6_offset,
            Layout,
            Sock, //
        },
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    str::CStr,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Full,
        Release, //
    },
    types::Opaque, //
};

/// The C side of a family, in a static of the module: `struct proto`, its ops and its `create`.
pub(crate) struct Family<P: Protocol> {
    proto: Opaque<bindings::proto>,
    ops: bindings::proto_ops,
    family: bindings::net_proto_family,
    version: IpVersion,
    /// It was registered, which is done once.
    is_taken: AtomicFlag,
    /// Whether programs may make sockets of it.
    is_open: AtomicFlag,
    _protocol: PhantomData<fn() -> P>,
}

// SAFETY: The C structures are only changed by the socket layer, which synchronises that.
unsafe impl<P: Protocol> Sync for Family<P> {}

impl<P: Protocol> Family<P> {
    /// A family to be registered. Its sockets keep this module loaded.
    pub(crate) const fn new(name: &'static CStr, version: IpVersion) -> Self {
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
        proto.ioctl = Some(ioctl::<P>);
        proto.obj_size = size_of::<Layout<P>>() as u32;
        proto.keepalive = Some(Sock::<P>::on_keepalive);
        let (family, create): (_, unsafe extern "C" fn(_, _, _, _) -> _) = match version {
            IpVersion::V4 => (P::FAMILY, Self::create::<false>),
            IpVersion::V6 => {
                proto.ipv6_pinfo_offset = pinet6_offset::<P>();
                (P::FAMILY6, Self::create::<true>)
            }
        };
        Self {
            proto: Opaque::new(proto),
            ops: proto_ops::<P>(family, version),
            family: bindings::net_proto_family {
                family,
                create: Some(create),
                owner: &raw mut bindings::__this_module,
            },
            version,
            is_taken: AtomicFlag::new(false),
            is_open: AtomicFlag::new(false),
            _protocol: PhantomData,
        }
    }

    /// Whether it is registered, and programs may make sockets of it.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Acquire)
    }

    /// The version of IP of its sockets.
    pub(super) fn version(&self) -> IpVersion {
        self.version
    }

    /// The number of the family.
    pub(super) fn number(&self) -> c_int {
        self.family.family
    }

    /// Its `struct proto`, which is only changed by the socket layer while registered.
    pub(super) fn proto(&'static self) -> *mut bindings::proto {
        self.proto.get()
    }

    /// The calls of its sockets.
    pub(super) fn ops(&'static self) -> *const bindings::proto_ops {
        &raw const self.ops
    }

    /// # Safety
    ///
    /// The socket layer calls it, with a live namespace and a socket under construction.
    unsafe extern "C" fn create<const IS_V6: bool>(
        net: *mut bindings::net,
        sock: *mut bindings::socket,
        protocol: c_int,
        kern: c_int,
    ) -> c_int {
        kernel::error::from_result(|| {
            if !(0..bindings::IPPROTO_MAX as c_int).contains(&protocol) {
                return Err(EINVAL);
            }
            // SAFETY: The socket layer calls with a live socket under construction.
            if c_int::from(unsafe { (*sock).type_ }) != bindings::sock_type_SOCK_STREAM as c_int {
                return Err(ESOCKTNOSUPPORT);
            }
            if protocol != 0 && protocol != bindings::IPPROTO_TCP as c_int {
                return Err(EPROTONOSUPPORT);
            }
            let version = if IS_V6 { IpVersion::V6 } else { IpVersion::V4 };
            let family = P::family(version);
            if !family.is_open() {
                return Err(EAFNOSUPPORT);
            }
            // SAFETY: It is open, and both are what the socket layer handed in.
            unsafe { Sock::<P>::create(net, sock, family, kern) }?;
            Ok(0)
        })
    }
}

/// The families of a protocol with all that belongs to them, registered until dropped. Fields are
/// dropped in this order.
pub(super) struct Registration<P: Protocol> {
    v4: Registered<P>,
    v6: Registered<P>,
    _diag: diag::Registration<P>,
    _per_net: pernet::Registration<P>,
}

impl<P: Protocol> Registration<P> {
    /// Registers both families, of which sockets can be made after [`Self::open`]. May sleep. Fails
    /// with `EEXIST` where another module has the number of one of them, with `ENOBUFS` and
    /// `ENOMEM` without memory, and as [`PerNet::new`](pernet::PerNet::new) does.
    pub(super) fn new() -> Result<Self> {
        const {
            // By its family a socket is told to be of IPv6.
            assert!(P::FAMILY != P::FAMILY6);
        }
        let per_net = pernet::Registration::new()?;
        let diag = diag::Registration::new()?;
        Ok(Self {
            v4: Registered::new(P::family(IpVersion::V4))?,
            v6: Registered::new(P::family(IpVersion::V6))?,
            _diag: diag,
            _per_net: per_net,
        })
    }

    /// Lets programs make sockets.
    ///
    /// # Safety
    ///
    /// This is dropped only when nothing holds the module any more, as every socket does, and
    /// whoever else calls its functions.
    pub(super) unsafe fn open(&self) {
        for family in [&self.v4, &self.v6] {
            family.0.is_open.store(true, Release);
        }
    }
}

/// A registered family; unregistered when dropped.
struct Registered<P: Protocol>(&'static Family<P>);

impl<P: Protocol> Registered<P> {
    /// Registers `family`, of which no sockets can be made yet. Fails with `EBUSY` where that was
    /// done before.
    fn new(family: &'static Family<P>) -> Result<Self> {
        if family.is_taken.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: The static `struct proto` is not registered yet.
        unsafe { sk_mem::set_up(family.proto()) };
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

impl<P: Protocol> Drop for Registered<P> {
    fn drop(&mut self) {
        self.0.is_open.store(false, Release);
        // SAFETY: Both were registered by `new()`. Every sock holds the module, so none is left.
        unsafe {
            bindings::sock_unregister(self.0.family.family);
            bindings::proto_unregister(self.0.proto());
        }
    }
}
