// SPDX-License-Identifier: GPL-2.0

//! Objects that do work of their own in process context, now or later.
//!
//! Reference rules. A [`Work`] lives in an `Arc`. Queued work owns a reference, and so does a
//! pending timer. It is dropped on the workqueue after the work has run, or by
//! [`Work::cancel_later`], whose caller has another. Every [`Work`] holds the module, and the
//! module's removal waits for the workqueue: so no code here runs after it is gone, whoever gives
//! up the last reference.

use crate::{
    bindings,
    net::module::ModuleRef,
    prelude::*, //
};
use core::{
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};
use kernel::{
    str::CStr,
    sync::Arc,
    types::Opaque, //
};

/// The workqueue of the module.
static WORKQUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(null_mut());

/// The module's workqueue, drained and destroyed when dropped. Its items run side by side.
///
/// # Invariants
///
/// `0` is a live workqueue that only this value destroys.
pub(crate) struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be destroyed on any thread.
unsafe impl Send for Workqueue {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Allocates it; `name` shows in `ps`. The module keeps it while it is loaded. May sleep; fails with
    /// `ENOMEM`.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: `name` is a valid string for the time of the call.
        let wq = unsafe { bindings::sdp_helper_alloc_workqueue(name.as_char_ptr()) };
        let wq = NonNull::new(wq).ok_or(ENOMEM)?;
        WORKQUEUE.store(wq.as_ptr(), Ordering::Release);
        // INVARIANT: It was just allocated, and nobody else destroys it.
        Ok(Self(wq))
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        WORKQUEUE.store(null_mut(), Ordering::Release);
        // SAFETY: By the type invariant it is live and ours; this waits for all queued work.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// An object with work to do.
pub(crate) trait Run: Send + Sync + Sized + 'static {
    /// Does what there is to do. Process context of its own; a second call may run at the same time.
    fn run(this: &Arc<Work<Self>>);
}

/// An object with its work and a timer; dereferences to the object.
///
/// # Invariants
///
/// It lives in an `Arc`. `now` and `later` are initialised, for [`Work::on_now`] and
/// [`Work::on_later`]; each owns a reference while it is pending. `queue` is the module's workqueue.
#[pin_data]
pub(crate) struct Work<T: Run> {
    #[pin]
    now: Opaque<bindings::work_struct>,
    #[pin]
    later: Opaque<bindings::delayed_work>,
    queue: NonNull<bindings::workqueue_struct>,
    #[pin]
    object: T,
    /// Let go last.
    _module: ModuleRef,
}

// SAFETY: The object is `Send` by the trait, and the C objects may be used on any thread.
unsafe impl<T: Run> Send for Work<T> {}
// SAFETY: As above; queueing is synchronised by the workqueue.
unsafe impl<T: Run> Sync for Work<T> {}

impl<T: Run> Deref for Work<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T: Run> Work<T> {
    /// Makes an object with nothing to do yet. May sleep. Fails with `ENOMEM`, and with `ENODEV` where the
    /// module has no workqueue.
    pub(crate) fn new(object: impl PinInit<T>) -> Result<Arc<Self>> {
        let queue = NonNull::new(WORKQUEUE.load(Ordering::Acquire)).ok_or(ENODEV)?;
        // INVARIANT: The result lives in an `Arc`. The workqueue goes when the module does, which the
        // object holds.
        Arc::pin_init(
            pin_init!(Self {
                now <- Opaque::ffi_init(|work| {
                    // SAFETY: It is memory for a work item, which stays where it is.
                    unsafe { bindings::sdp_helper_INIT_WORK(work, Some(Self::on_now)) }
                }),
                later <- Opaque::ffi_init(|work| {
                    // SAFETY: As above.
                    unsafe { bindings::sdp_helper_INIT_DELAYED_WORK(work, Some(Self::on_later)) }
                }),
                queue,
                object <- object,
                _module: ModuleRef::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Another reference.
    pub(crate) fn arc(&self) -> Arc<Self> {
        // SAFETY: By the type invariant `self` lives in an `Arc`, of which the borrow's owner has a
        // reference: the count is not zero, also not while the object is dropped, since its own drop
        // cannot reach `self`.
        let arc = unsafe { ManuallyDrop::new(Arc::from_raw(self)) };
        (*arc).clone()
    }

    /// Runs the work soon; once for any number of calls until then. Any context.
    pub(crate) fn queue(&self) {
        let reference = Arc::into_raw(self.arc());
        // SAFETY: The work is initialised and the workqueue live, by the type invariants.
        let queued =
            unsafe { bindings::sdp_helper_queue_work(self.queue.as_ptr(), self.now.get()) };
        if !queued {
            // It is pending with a reference of its own.
            //
            // SAFETY: The reference was taken above. It is not the last: the caller has another.
            drop(unsafe { Arc::from_raw(reference) });
        }
    }

    /// Arms the timer to run the work in `ms` milliseconds, in place of an earlier time. Any
    /// context.
    pub(crate) fn queue_in(&self, ms: u32) {
        let reference = Arc::into_raw(self.arc());
        // SAFETY: As in `queue()`. CAST: The bound of CPUs is a small number.
        let pending = unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.as_ptr(),
                self.later.get(),
                bindings::__msecs_to_jiffies(ms),
            )
        };
        if pending {
            // SAFETY: As in `queue()`.
            drop(unsafe { Arc::from_raw(reference) });
        }
    }

    /// Has no work run later, unless its time has come. Any context.
    pub(crate) fn cancel_later(&self) {
        // SAFETY: The work is initialised.
        if unsafe { bindings::cancel_delayed_work(self.later.get()) } {
            // SAFETY: It was pending with a reference, which is given up here. It is not the last: the
            // caller has another.
            drop(unsafe { Arc::from_raw(self) });
        }
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the `now` of a [`Work`] and the reference that queueing took.
    unsafe extern "C" fn on_now(work: *mut bindings::work_struct) {
        // SAFETY: By the contract; `Opaque` is transparent.
        let this = unsafe {
            let this = work.byte_sub(offset_of!(Self, now)).cast::<Self>();
            Arc::from_raw(this.cast_const())
        };
        T::run(&this);
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the `work` of the `later` of a [`Work`] and the reference that
    /// queueing took.
    unsafe extern "C" fn on_later(work: *mut bindings::work_struct) {
        // SAFETY: By the contract; `Opaque` is transparent.
        let this = unsafe {
            let later = work.byte_sub(offset_of!(bindings::delayed_work, work));
            let this = later.byte_sub(offset_of!(Self, later)).cast::<Self>();
            Arc::from_raw(this.cast_const())
        };
        T::run(&this);
    }
}
