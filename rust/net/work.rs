// SPDX-License-Identifier: GPL-2.0

//! Objects with work items of their own, which run in process context, now or later.
//!
//! There is a workqueue for quick work, and there are [`SLOW_QUEUES`] for what may wait for the
//! network ([`Run::connect`]) or for memory ([`Run::run_slow`]).
//!
//! Reference rules. A [`Work`] lives in an `Arc`. Queued work owns a reference, on any queue,
//! and so does a pending timer. It is dropped on the workqueue after the work has run, or by
//! [`Work::cancel_later`] or [`Work::cancel_slow`], whose caller has another. Every [`Work`] holds
//! the module, and the module's removal waits for the workqueues: so no code here runs after it is
//! gone, whoever drops the last reference.

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

/// The workqueue of quick work, whose items run concurrently, up to a limit.
static QUICK: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(null_mut());

/// How many workqueues of slow work there are.
const SLOW_QUEUES: usize = 64;

/// How much slow work of a workqueue may run at a time.
const SLOW_ACTIVE: c_int = 64;

/// The workqueues of slow work.
static SLOW: [AtomicPtr<bindings::workqueue_struct>; SLOW_QUEUES] =
    [const { AtomicPtr::new(null_mut()) }; SLOW_QUEUES];

/// The workqueues of the module, drained and destroyed when dropped.
pub(crate) struct Workqueues {
    _quick: Workqueue,
    _slow: KVec<Workqueue>,
}

impl Workqueues {
    /// Allocates them, to be kept while the module is loaded. May sleep; fails with `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let mut slow = KVec::with_capacity(SLOW_QUEUES, GFP_KERNEL)?;
        for place in &SLOW {
            slow.push(Workqueue::new(c"sdp_slow", SLOW_ACTIVE, place)?, GFP_KERNEL)?;
        }
        Ok(Self {
            // Last, since work can be made from here on.
            _quick: Workqueue::new(c"sdp", 0, &QUICK)?,
            _slow: slow,
        })
    }
}

/// A workqueue, drained and destroyed when dropped.
///
/// # Invariants
///
/// `queue` is a live workqueue that only this value destroys.
struct Workqueue {
    queue: NonNull<bindings::workqueue_struct>,
    /// The static by which it is found.
    place: &'static AtomicPtr<bindings::workqueue_struct>,
}

// SAFETY: A workqueue may be destroyed on any thread.
unsafe impl Send for Workqueue {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// `name` is what `ps` shows; of the work at most `max_active` runs at a time, or for 0 as much
    /// as the kernel thinks right.
    fn new(
        name: &'static CStr,
        max_active: c_int,
        place: &'static AtomicPtr<bindings::workqueue_struct>,
    ) -> Result<Self> {
        // SAFETY: `name` is a valid string for the time of the call.
        let queue = unsafe { bindings::sdp_helper_alloc_workqueue(name.as_char_ptr(), max_active) };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        place.store(queue.as_ptr(), Ordering::Release);
        // INVARIANT: It was just allocated, and nobody else destroys it.
        Ok(Self { queue, place })
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        self.place.store(null_mut(), Ordering::Release);
        // SAFETY: By the type invariant it is live and ours; this waits for all queued work.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}

/// An object with work items.
pub(crate) trait Run: Send + Sync + Sized + 'static {
    /// Does the work. In a worker, without locks; a second call may run at the same time.
    fn run(this: &Arc<Work<Self>>);

    /// Does work that may wait for memory, on a workqueue for that; otherwise as [`Self::run`].
    fn run_slow(this: &Arc<Work<Self>>);

    /// Does work that may wait for the network, on a workqueue for that; otherwise as
    /// [`Self::run`].
    fn connect(this: &Arc<Work<Self>>);
}

/// An object with its work items and a timer; dereferences to the object.
///
/// # Invariants
///
/// It lives in an `Arc`. `now`, `later`, `slow` and `connect` are initialised, for
/// [`Work::on_now`], [`Work::on_later`], [`Work::on_slow`] and [`Work::on_connect`]; each owns a
/// reference while it is pending. The workqueues are there as long as it is.
#[pin_data]
pub(crate) struct Work<T: Run> {
    #[pin]
    now: Opaque<bindings::work_struct>,
    #[pin]
    later: Opaque<bindings::delayed_work>,
    #[pin]
    slow: Opaque<bindings::work_struct>,
    #[pin]
    connect: Opaque<bindings::work_struct>,
    quick_queue: NonNull<bindings::workqueue_struct>,
    #[pin]
    object: T,
    /// Dropped last.
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
    /// Makes an object whose work is not queued. May sleep. Fails with `ENOMEM`, and with `ENODEV`
    /// while there are no [`Workqueues`].
    pub(crate) fn new(object: impl PinInit<T>) -> Result<Arc<Self>> {
        let quick_queue = NonNull::new(QUICK.load(Ordering::Acquire)).ok_or(ENODEV)?;
        // INVARIANT: The result lives in an `Arc`. The workqueues go when the module does, which
        // the object holds.
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
                slow <- Opaque::ffi_init(|work| {
                    // SAFETY: As above.
                    unsafe { bindings::sdp_helper_INIT_WORK(work, Some(Self::on_slow)) }
                }),
                connect <- Opaque::ffi_init(|work| {
                    // SAFETY: As above.
                    unsafe { bindings::sdp_helper_INIT_WORK(work, Some(Self::on_connect)) }
                }),
                quick_queue,
                object <- object,
                _module: ModuleRef::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Another reference of it. Any context.
    pub(crate) fn arc(&self) -> Arc<Self> {
        // SAFETY: By the type invariant `self` lives in an `Arc`, of which the borrow's owner has a
        // reference: the count is not zero, also not while the object is dropped, since its own
        // drop cannot reach `self`.
        let arc = unsafe { ManuallyDrop::new(Arc::from_raw(self)) };
        (*arc).clone()
    }

    /// Queues the work; calls until it begins to run have no further effect. Any context.
    pub(crate) fn queue(&self) {
        self.queue_on(self.quick_queue, &self.now);
    }

    /// Queues the slow work, on the workqueue that `hash` chooses; otherwise as [`Self::queue`].
    pub(crate) fn queue_slow(&self, hash: u64) {
        self.queue_on(self.slow_queue(hash), &self.slow);
    }

    /// Queues the work that may wait for the network, as [`Self::queue_slow`] does.
    pub(crate) fn queue_connect(&self, hash: u64) {
        self.queue_on(self.slow_queue(hash), &self.connect);
    }

    fn slow_queue(&self, hash: u64) -> NonNull<bindings::workqueue_struct> {
        // CAST: The low bits suffice.
        let place = SLOW.get(hash as usize % SLOW_QUEUES);
        let queue = place.and_then(|place| NonNull::new(place.load(Ordering::Acquire)));
        // By the invariant there is one.
        queue.unwrap_or(self.quick_queue)
    }

    fn queue_on(
        &self,
        queue: NonNull<bindings::workqueue_struct>,
        work: &Opaque<bindings::work_struct>,
    ) {
        let reference = Arc::into_raw(self.arc());
        // SAFETY: The work is initialised and the workqueue live, by the type invariants.
        let queued = unsafe { bindings::sdp_helper_queue_work(queue.as_ptr(), work.get()) };
        if !queued {
            // It is pending with a reference of its own.
            //
            // SAFETY: The reference was taken above. It is not the last: the caller has another.
            drop(unsafe { Arc::from_raw(reference) });
        }
    }

    /// Arms the timer to run the work in `ms` milliseconds, instead of the time that was set
    /// before. Any context.
    pub(crate) fn queue_in(&self, ms: u32) {
        let reference = Arc::into_raw(self.arc());
        // SAFETY: As in `queue()`. CAST: The bound of CPUs is a small number.
        let pending = unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.quick_queue.as_ptr(),
                self.later.get(),
                bindings::__msecs_to_jiffies(ms),
            )
        };
        if pending {
            // SAFETY: As in `queue()`.
            drop(unsafe { Arc::from_raw(reference) });
        }
    }

    /// Cancels the timer, unless its work has begun to run. Any context.
    pub(crate) fn cancel_later(&self) {
        // SAFETY: The work is initialised.
        if unsafe { bindings::cancel_delayed_work(self.later.get()) } {
            // SAFETY: It was pending with a reference, which is given up here. It is not the last:
            // the caller has another.
            drop(unsafe { Arc::from_raw(self) });
        }
    }

    /// Cancels what may wait, unless it has begun to run. Any context.
    pub(crate) fn cancel_slow(&self) {
        for work in [&self.slow, &self.connect] {
            // SAFETY: The work is initialised.
            if unsafe { bindings::cancel_work(work.get()) } {
                // SAFETY: As in `cancel_later()`.
                drop(unsafe { Arc::from_raw(self) });
            }
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
    /// As that of [`Self::on_now`], for `slow`.
    unsafe extern "C" fn on_slow(work: *mut bindings::work_struct) {
        // SAFETY: By the contract; `Opaque` is transparent.
        let this = unsafe {
            let this = work.byte_sub(offset_of!(Self, slow)).cast::<Self>();
            Arc::from_raw(this.cast_const())
        };
        T::run_slow(&this);
    }

    /// # Safety
    ///
    /// As that of [`Self::on_now`], for `connect`.
    unsafe extern "C" fn on_connect(work: *mut bindings::work_struct) {
        // SAFETY: By the contract; `Opaque` is transparent.
        let this = unsafe {
            let this = work.byte_sub(offset_of!(Self, connect)).cast::<Self>();
            Arc::from_raw(this.cast_const())
        };
        T::connect(&this);
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
