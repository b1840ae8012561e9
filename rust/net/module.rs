// SPDX-License-Identifier: GPL-2.0

//! The module: what is there while it is loaded, and references that keep it loaded.

use crate::{
    bindings,
    net::{
        family,
        ops::Protocol,
        pernet::PerNet,
        sk_mem,
        work::Workqueues, //
    },
    prelude::*, //
};
use core::sync::atomic::{
    AtomicUsize,
    Ordering, //
};
use kernel::sync::atomic::{
    AtomicFlag,
    Full, //
};

/// What the module of protocol `P` has while it is loaded.
///
/// Fields are dropped in this order: the families first, since their sockets use the others, then
/// the workqueues, whose last items may use the rest.
pub(crate) struct Loaded<P: Protocol> {
    _families: family::Registration<P>,
    workqueues: Workqueues,
    _global: P::Global,
    _limit: sk_mem::Registration,
}

impl<P: Protocol> kernel::Module for Loaded<P> {
    /// Fails with `EBUSY` when it is called again: the kernel calls first, before any other code of
    /// the module runs, and drops the result when nothing holds the module any more.
    fn init(_module: &'static ThisModule) -> Result<Self> {
        static IS_LOADED: AtomicFlag = AtomicFlag::new(false);
        if IS_LOADED.xchg(true, Full) {
            return Err(EBUSY);
        }
        let limit = sk_mem::Registration::new(P::PerNet::SETTINGS)?;
        let global = P::load()?;
        let workqueues = Workqueues::new()?;
        let families = family::Registration::new()?;
        // SAFETY: Nothing can fail any more. So they are dropped, as said above, when nothing holds
        // the module; the workqueues are closed first.
        unsafe {
            workqueues.open();
            families.open();
        }
        Ok(Self {
            _families: families,
            workqueues,
            _global: global,
            _limit: limit,
        })
    }
}

impl<P: Protocol> Drop for Loaded<P> {
    fn drop(&mut self) {
        self.workqueues.close();
    }
}

/// How many [`ModuleRef`]s there are.
static REFS: AtomicUsize = AtomicUsize::new(0);

/// Keeps the module loaded.
///
/// All of them together are one reference of the module, so that lsmod shows the sockets, and one
/// more. The module's removal has to wait for whoever drops the last one, who still runs code of
/// the module then.
pub(super) struct ModuleRef(());

impl ModuleRef {
    /// Takes a reference. Any context, while something else keeps the caller's code loaded.
    pub(super) fn new() -> Self {
        // Others may take theirs before this has the module: what keeps the code of this call
        // loaded then keeps theirs.
        if REFS.fetch_add(1, Ordering::AcqRel) == 0 {
            // SAFETY: The module's code runs this, so something keeps it loaded.
            unsafe { bindings::__module_get(&raw mut bindings::__this_module) };
        }
        Self(())
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        if REFS.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: Each rise from zero takes a reference, and each fall to zero gives one back.
            unsafe { bindings::module_put(&raw mut bindings::__this_module) };
        }
    }
}
