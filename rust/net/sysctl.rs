// SPDX-License-Identifier: GPL-2.0

//! Bounded integers below `/proc/sys/net`, one set for each network namespace.

use crate::{
    bindings,
    net::namespace::Net,
    prelude::*, //
};
use core::{
    ptr::NonNull,
    slice,
    sync::atomic::{
        AtomicI32,
        Ordering, //
    },
};
use kernel::str::CStr;

/// The most integers in one file.
const MAX_IN_FILE: usize = 3;

/// One integer: its file's name, the value of a new namespace, and what may be written.
pub(crate) struct Knob {
    /// The name of its file; none if it is in the file of the knob before it.
    pub(crate) name: Option<&'static CStr>,
    /// What a new namespace starts with.
    pub(crate) default: i32,
    /// The least value that a write may set.
    pub(crate) min: i32,
    /// The greatest value that a write may set.
    pub(crate) max: i32,
    /// Whether 0, which turns the feature off, is allowed although it is below `min`.
    pub(crate) allows_zero: bool,
    /// What there is instead if only the initial namespace can set it, and the others show that.
    /// Such a knob is alone in its file.
    pub(crate) of_host: Option<OfHost>,
}

/// The value of a knob of the host.
#[derive(Clone, Copy)]
pub(crate) struct OfHost {
    /// Where it is.
    pub(crate) value: &'static AtomicI32,
    /// What it starts with.
    pub(crate) default: fn() -> i32,
}

impl Knob {
    /// Whether it allows `value`. Any context.
    pub(crate) fn allows(&self, value: i32) -> bool {
        (self.min..=self.max).contains(&value) || (self.allows_zero && value == 0)
    }
}

/// The values and files of one namespace, until dropped.
///
/// # Invariants
///
/// `header` is the registration of `entries`, in a live namespace. Each entry points to its first
/// knob and that one's value, behind which those of as many follow as `maxlen` has room for.
pub(super) struct Table {
    header: NonNull<bindings::ctl_table_header>,
    knobs: &'static [Knob],
    values: KVec<AtomicI32>,
    _entries: KVec<bindings::ctl_table>,
}

// SAFETY: The C structures are only used by registration, and the values are atomic.
unsafe impl Send for Table {}
// SAFETY: As above.
unsafe impl Sync for Table {}

impl Table {
    /// Makes the files, in the directory `path` below `/proc/sys`. May sleep. Fails with `ENOMEM`,
    /// and with `EINVAL` where a knob of the host is not alone in its file.
    ///
    /// # Safety
    ///
    /// `net` is live until this was dropped.
    pub(super) unsafe fn new(
        net: &Net,
        path: &'static CStr,
        knobs: &'static [Knob],
    ) -> Result<Self> {
        let is_host = net.as_ptr() == &raw mut bindings::init_net;
        let mut values = KVec::with_capacity(knobs.len(), GFP_KERNEL)?;
        for knob in knobs {
            values.push(AtomicI32::new(knob.default), GFP_KERNEL)?;
        }
        let mut entries = KVec::<bindings::ctl_table>::with_capacity(knobs.len(), GFP_KERNEL)?;
        let mut is_alone = true;
        for (at, knob) in knobs.iter().enumerate() {
            match knob.name {
                Some(name) => {
                    is_alone = knob.of_host.is_some();
                    let is_shown = is_alone && !is_host;
                    let value = match knob.of_host {
                        Some(OfHost { value, default }) => {
                            if is_host {
                                value.store(default(), Ordering::Relaxed);
                            }
                            &raw const *value
                        }
                        None => values.as_ptr().wrapping_add(at),
                    };
                    let entry = bindings::ctl_table {
                        procname: name.as_char_ptr(),
                        data: value.cast_mut().cast(),
                        mode: if is_shown { 0o444 } else { 0o644 },
                        proc_handler: Some(access),
                        extra1: knobs.as_ptr().wrapping_add(at).cast_mut().cast(),
                        ..pin_init::zeroed()
                    };
                    entries.push(entry, GFP_KERNEL)?;
                }
                None if is_alone || knob.of_host.is_some() => return Err(EINVAL),
                None => {}
            }
            if let Some(entry) = entries.last_mut() {
                entry.maxlen += size_of::<c_int>() as c_int;
            }
        }
        // SAFETY: The namespace is live by the contract. What the entries point to is on the heap,
        // or static, and lives until the drop has unregistered them.
        let header = unsafe {
            bindings::register_net_sysctl_sz(
                net.as_ptr(),
                path.as_char_ptr(),
                entries.as_mut_ptr(),
                entries.len(),
            )
        };
        // INVARIANT: It was just registered.
        Ok(Self {
            header: NonNull::new(header).ok_or(ENOMEM)?,
            knobs,
            values,
            _entries: entries,
        })
    }

    /// The value of the knob with index `at`; it is one that the knob allows. Any context.
    pub(super) fn get(&self, at: usize) -> i32 {
        let of_host = self.knobs.get(at).and_then(|knob| knob.of_host);
        of_host
            .map(|of_host| of_host.value)
            .or_else(|| self.values.get(at))
            .map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; who reads or writes a file now is waited for.
        unsafe { bindings::unregister_net_sysctl_table(self.header.as_ptr()) };
    }
}

/// A read or a write of one file.
///
/// # Safety
///
/// The kernel calls it, with an entry of a registered [`Table`].
unsafe extern "C" fn access(
    entry: *const bindings::ctl_table,
    write: c_int,
    buffer: *mut c_void,
    len: *mut usize,
    at: *mut bindings::loff_t,
) -> c_int {
    // SAFETY: By the invariant of `Table`, which lives as long as the entry. CAST: It is a few
    // bytes.
    let (knobs, values) = unsafe {
        let count = (*entry).maxlen as usize / size_of::<c_int>();
        (
            slice::from_raw_parts((*entry).extra1.cast::<Knob>(), count),
            slice::from_raw_parts((*entry).data.cast::<AtomicI32>(), count),
        )
    };
    let mut ints: [c_int; MAX_IN_FILE] = [0; MAX_IN_FILE];
    let Some(ints) = ints.get_mut(..values.len()) else {
        return EINVAL.to_errno();
    };
    for (int, value) in ints.iter_mut().zip(values) {
        *int = value.load(Ordering::Relaxed);
    }
    // SAFETY: The entry is a valid one for these integers once `data` is; the rest is what the
    // kernel gave.
    let result = unsafe {
        let copy = bindings::ctl_table {
            data: ints.as_mut_ptr().cast(),
            ..*entry
        };
        bindings::proc_dointvec(&raw const copy, write, buffer, len, at)
    };
    if write == 0 || result != 0 {
        return result;
    }
    if !knobs
        .iter()
        .zip(&*ints)
        .all(|(knob, int)| knob.allows(*int))
    {
        return EINVAL.to_errno();
    }
    for (value, int) in values.iter().zip(ints) {
        value.store(*int, Ordering::Relaxed);
    }
    0
}
