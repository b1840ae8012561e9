// SPDX-License-Identifier: GPL-2.0

//! References of this module, which keep it loaded.

use crate::bindings;

/// Keeps the module loaded.
///
/// The module's removal has to wait for whoever drops the last one, who still runs code of the
/// module then.
pub(super) struct ModuleRef(());

impl ModuleRef {
    /// Takes a reference. Any context, while something else keeps the caller's code loaded.
    pub(super) fn new() -> Self {
        // SAFETY: The module's code runs this, so something keeps it loaded.
        unsafe { bindings::__module_get(&raw mut bindings::__this_module) };
        Self(())
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: `new()` took the reference.
        unsafe { bindings::module_put(&raw mut bindings::__this_module) };
    }
}
