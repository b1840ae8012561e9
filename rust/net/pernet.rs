// SPDX-License-Identifier: GPL-2.0

//! What a protocol keeps in each network namespace.
//!
//! Each namespace has one value of the protocol's, with the files that show it and the settings. A
//! [`Registration`] makes them in all namespaces, those that exist and those to come. It is a part
//! of that of the families, so there is a value wherever there is a socket: what knows a namespace
//! by a socket has a [`NetOf`], which gives the value.

use crate::{
    bindings,
    net::{
        diag,
        module::ModuleRef,
        namespace::Net,
        ops::Protocol,
        proc::{
            self,
            File, //
        },
        sysctl::{
            Knob,
            Table, //
        },
    },
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    pin::Pin,
    ptr::{
        addr_of_mut,
        drop_in_place,
        NonNull, //
    },
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    seq_file::SeqFile,
    str::CStr,
    sync::{
        atomic::{
            AtomicFlag,
            Full,
            Release, //
        },
        Arc, //
    },
    types::Opaque, //
};

/// What protocol `P` keeps in each namespace.
pub(crate) trait PerNet<P: Protocol>: Send + Sync + Sized + 'static {
    /// The name of the file in `/proc/net` with a line for each socket.
    const SOCKETS: &'static CStr;

    /// The name of the file in `/proc/net` with counters.
    const COUNTERS: &'static CStr;

    /// The directory of the settings, below `/proc/sys`.
    const SETTINGS: &'static CStr;

    /// The settings.
    fn knobs() -> &'static [Knob];

    /// The value of a new namespace. May sleep. An error fails the creation of the namespace.
    fn new() -> impl PinInit<Self, Error>;

    /// The first socket whose number is at least `from`, and that number, which does not change and
    /// is at least 1. May sleep.
    fn next(&self, from: u64) -> Option<(u64, Arc<dyn diag::Visible<P>>)>;

    /// Prints the counters. May sleep.
    fn show_counters(&self, to: &SeqFile);
}

/// What a namespace has. Fields are dropped in this order: the files show the value.
struct Entry<P: Protocol> {
    _sockets: File,
    _counters: File,
    settings: Table,
    value: Pin<KBox<P::PerNet>>,
}

impl<P: Protocol> Entry<P> {
    /// Makes the value, and then the files. Fails with `ENOMEM`, and as [`PerNet::new`] does.
    ///
    /// # Safety
    ///
    /// `net` is live until this was dropped.
    unsafe fn new(net: &Net) -> Result<Self> {
        let value = KBox::pin_init(P::PerNet::new(), GFP_KERNEL)?;
        let shown: *const P::PerNet = &raw const *value;
        // SAFETY: By the contract. The value stays where it is, and goes after the files; the
        // functions take it for what it is.
        unsafe {
            Ok(Self {
                settings: Table::new(net, P::PerNet::SETTINGS, P::PerNet::knobs())?,
                _counters: File::whole(net, P::PerNet::COUNTERS, shown.cast(), show_counters::<P>)?,
                _sockets: File::lines(net, P::PerNet::SOCKETS, shown.cast(), diag::lines::<P>())?,
                value,
            })
        }
    }
}

/// # Safety
///
/// The kernel calls it, with an open file that is of [`Entry::new`].
unsafe extern "C" fn show_counters<P: Protocol>(
    seq: *mut bindings::seq_file,
    _: *mut c_void,
) -> c_int {
    // SAFETY: By the contract the value is of this type.
    unsafe { proc::value::<P::PerNet>(seq).show_counters(SeqFile::from_raw(seq)) };
    0
}

/// The number by which values are found, while they are registered.
static ID: AtomicU32 = AtomicU32::new(0);

/// The C side of the registration.
static OPS: Ops = Ops {
    ops: Opaque::new(pin_init::zeroed()),
    is_taken: AtomicFlag::new(false),
};

struct Ops {
    ops: Opaque<bindings::pernet_operations>,
    /// There is a registration, which alone may use `ops` and `ID`.
    is_taken: AtomicFlag,
}

// SAFETY: `is_taken` says who may use the C structure.
unsafe impl Sync for Ops {}

/// The values of `P` in every namespace, until dropped.
///
/// # Invariants
///
/// [`OPS`] and [`ID`] are this value's. They are registered, for `P`.
pub(super) struct Registration<P: Protocol>(PhantomData<fn() -> P>);

impl<P: Protocol> Registration<P> {
    /// Makes a value in every namespace, present and future. May sleep. Fails with `EBUSY` while
    /// there is another registration, with `ENOMEM`, and as [`PerNet::new`] does.
    pub(super) fn new() -> Result<Self> {
        const {
            // The kernel allocates entries by kzalloc().
            assert!(align_of::<Entry<P>>() <= align_of::<u64>());
        }
        if OPS.is_taken.xchg(true, Full) {
            return Err(EBUSY);
        }
        let ops = OPS.ops.get();
        // SAFETY: By `is_taken` nobody else looks at the static, which is not registered.
        let registered = to_result(unsafe {
            addr_of_mut!((*ops).init).write(Some(init::<P>));
            addr_of_mut!((*ops).exit).write(Some(exit::<P>));
            addr_of_mut!((*ops).id)
                .cast::<*mut c_uint>()
                .write(ID.as_ptr());
            addr_of_mut!((*ops).size).write(size_of::<Entry<P>>());
            bindings::register_pernet_subsys(ops)
        });
        if registered.is_err() {
            OPS.is_taken.store(false, Release);
        }
        // INVARIANT: Just registered.
        registered.map(|()| Self(PhantomData))
    }
}

impl<P: Protocol> Drop for Registration<P> {
    fn drop(&mut self) {
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::unregister_pernet_subsys(OPS.ops.get()) };
        OPS.is_taken.store(false, Release);
    }
}

/// The memory for what `net` has.
///
/// # Safety
///
/// Between the start of [`init`] and the end of [`exit`] for this namespace, which both are `P`'s.
unsafe fn entry<P: Protocol>(net: *mut bindings::net) -> *mut Entry<P> {
    // SAFETY: By the contract.
    unsafe { bindings::sdp_helper_net_generic(net, ID.load(Ordering::Relaxed)) }.cast()
}

/// # Safety
///
/// The kernel calls it, while registered, for each namespace once.
unsafe extern "C" fn init<P: Protocol>(net: *mut bindings::net) -> c_int {
    from_result(|| {
        // SAFETY: This is that. The memory is there until `exit` has returned, or this failed, and
        // the namespace is live until then.
        unsafe { entry::<P>(net).write(Entry::new(Net::from_ptr(net))?) };
        Ok(0)
    })
}

/// # Safety
///
/// The kernel calls it for each namespace whose [`init`] succeeded, once.
unsafe extern "C" fn exit<P: Protocol>(net: *mut bindings::net) {
    // SAFETY: `init` succeeded for this namespace, and its memory is freed after this.
    unsafe { drop_in_place(entry::<P>(net)) };
}

/// A borrowed namespace with what protocol `P` keeps there; dereferences to the namespace.
///
/// # Invariants
///
/// It is live, and for as long as it is borrowed there is a [`Registration`] of `P` that has made
/// the values of all namespaces.
#[repr(transparent)]
pub(crate) struct NetOf<P: Protocol>(Net, PhantomData<fn() -> P>);

impl<P: Protocol> NetOf<P> {
    /// Borrows a C namespace.
    ///
    /// # Safety
    ///
    /// For `'a` `net` is live, and the families of `P` are registered and open.
    pub(super) unsafe fn from_ptr<'a>(net: *mut bindings::net) -> &'a Self {
        // SAFETY: INVARIANT: By the contract: the families are registered after the values of all
        // namespaces were made, and unregistered before these go. The wrapper is transparent.
        unsafe { &*net.cast() }
    }

    /// The initial namespace. Any context.
    pub(crate) fn host(&self) -> &Self {
        // SAFETY: `init_net` is never freed, and `self` shows that the families are open.
        unsafe { Self::from_ptr(&raw mut bindings::init_net) }
    }

    /// What the protocol keeps here. Any context.
    pub(crate) fn own(&self) -> &P::PerNet {
        // SAFETY: By the type invariant it is there.
        unsafe { &(*entry::<P>(self.as_ptr())).value }
    }

    /// The value of a setting, by its index in [`PerNet::knobs`]; it is one that the knob allows.
    /// Any context.
    pub(crate) fn setting(&self, at: usize) -> i32 {
        // SAFETY: By the type invariant it is there.
        unsafe { (*entry::<P>(self.as_ptr())).settings.get(at) }
    }
}

impl<P: Protocol> Deref for NetOf<P> {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0
    }
}

/// A counted reference of a namespace with what protocol `P` keeps there.
///
/// # Invariants
///
/// `net` is live, and this value owns one of its references. The families are open, as long as the
/// module is there.
pub(crate) struct NetRef<P: Protocol> {
    net: NonNull<NetOf<P>>,
    _module: ModuleRef,
}

// SAFETY: A namespace may be used and let go on any thread.
unsafe impl<P: Protocol> Send for NetRef<P> {}
// SAFETY: As above.
unsafe impl<P: Protocol> Sync for NetRef<P> {}

impl<P: Protocol> From<&NetOf<P>> for NetRef<P> {
    fn from(net: &NetOf<P>) -> Self {
        // SAFETY: The namespace is live.
        unsafe { bindings::sdp_helper_get_net(net.as_ptr()) };
        // INVARIANT: The reference was just taken, and the families are open by the invariant of
        // `NetOf`.
        Self {
            net: net.into(),
            _module: ModuleRef::new(),
        }
    }
}

impl<P: Protocol> Deref for NetRef<P> {
    type Target = NetOf<P>;

    fn deref(&self) -> &NetOf<P> {
        // SAFETY: By the type invariant.
        unsafe { self.net.as_ref() }
    }
}

impl<P: Protocol> Drop for NetRef<P> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::sdp_helper_put_net(self.as_ptr()) };
    }
}
