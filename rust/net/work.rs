// SPDX-License-Identifier: GPL-2.0

//! Objects with work items of their own, which run in process context, now or later.
//!
//! There is a workqueue for quick work, and there are [`SLOW_QUEUES`] for what may wait for memory
//! ([`Run::run_reclaim`]) or for the network ([`Run::run_connect`]).
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

/// How many workqueues of slow work there are.
const SLOW_QUEUES: usize = 64;

/// How many items of slow work a workqueue runs at a time.
const SLOW_ACTIVE: c_int = 64;

/// The workqueues, while [`Work`] can be made.
static OPEN: AtomicPtr<Queues> = AtomicPtr::new(null_mut());

struct Queues {
    /// Its items run concurrently, up to the kernel's limit.
    quick: Workqueue,
    slow: KVec<Workqueue>,
}

impl Queues {
    /// The queue of slow work that `hash` chooses.
    fn slow(&self, hash: u64) -> &Workqueue {
        // CAST: The low bits suffice.
        self.slow
            .get(hash as usize % SLOW_QUEUES)
            .unwrap_or(&self.quick)
    }
}

/// The workqueues of the module, drained and destroyed when dropped.
pub(super) struct Workqueues(KBox<Queues>);

impl Workqueues {
    /// Allocates them. May sleep. Fails with `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        let mut slow = KVec::with_capacity(SLOW_QUEUES, GFP_KERNEL)?;
        for _ in 0..SLOW_QUEUES {
            slow.push(Workqueue::new(c"sdp_slow", SLOW_ACTIVE)?, GFP_KERNEL)?;
        }
        let queues = Queues {
            quick: Workqueue::new(c"sdp", 0)?,
            slow,
        };
        Ok(Self(KBox::new(queues, GFP_KERNEL)?))
    }

    /// Lets work be made from now on.
    ///
    /// # Safety
    ///
    /// They are dropped only after [`Self::close`], and when nothing holds the module any more.
    pub(super) unsafe fn open(&self) {
        OPEN.store((&raw const *self.0).cast_mut(), Ordering::Release);
    }

    /// Lets no more work be made.
    pub(super) fn close(&self) {
        OPEN.store(null_mut(), Ordering::Release);
    }
}

/// A workqueue, drained and destroyed when dropped.
///
/// # Invariants
///
/// It is live, and only this value destroys it.
struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be destroyed on any thread.
unsafe impl Send for Workqueue {}
// SAFETY: Work may be queued on any thread.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// `name` is what `ps` shows; of the work at most `max_active` runs at a time, or for 0 as much
    /// as the kernel thinks right.
    fn new(name: &'static CStr, max_active: c_int) -> Result<Self> {
        // SAFETY: `name` is a valid string for the time of the call.
        let queue = unsafe { bindings::sdp_helper_alloc_workqueue(name.as_char_ptr(), max_active) };
        // INVARIANT: It was just allocated, and nobody else destroys it.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    fn as_ptr(&self) -> *mut bindings::workqueue_struct {
        self.0.as_ptr()
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is live and ours; this waits for all queued work.
        unsafe { bindings::destroy_workqueue(self.as_ptr()) };
    }
}

/// An object with work items.
pub(crate) trait Run: Send + Sync + Sized + 'static {
    /// Does the work. In a worker, without locks; a second call may run at the same time.
    fn run(this: &Arc<Work<Self>>);

    /// Does work that may wait for memory, on a workqueue for slow work; otherwise as
    /// [`Self::run`].
    fn run_reclaim(this: &Arc<Work<Self>>);

    /// Does work that may wait for the network, to connect or to give that up, on a workqueue for
    /// slow work; otherwise as [`Self::run`].
    fn run_connect(this: &Arc<Work<Self>>);
}

/// An object with its work items and a timer; dereferences to the object.
///
/// # Invariants
///
/// It lives in an `Arc`. `now`, `later`, `reclaim` and `connect` are initialised, for
/// [`Work::on_now`], [`Work::on_later`], [`Work::on_reclaim`] and [`Work::on_connect`]; each owns a
/// reference while it is pending. `queues` are there as long as it is.
#[pin_data]
pub(crate) struct Work<T: Run> {
    #[pin]
    now: Opaque<bindings::work_struct>,
    #[pin]
    later: Opaque<bindings::delayed_work>,
    #[pin]
    reclaim: Opaque<bindings::work_struct>,
    #[pin]
    connect: Opaque<bindings::work_struct>,
    queues: NonNull<Queues>,
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
    /// while the module is being loaded or removed.
    pub(crate) fn new(object: impl PinInit<T>) -> Result<Arc<Self>> {
        let queues = NonNull::new(OPEN.load(Ordering::Acquire)).ok_or(ENODEV)?;
        // INVARIANT: The result lives in an `Arc`. The workqueues are there until nothing holds the
        // module, which the object does.
        Arc::pin_init(
            pin_init!(Self {
                now <- work_item(Self::on_now),
                later <- Opaque::ffi_init(|work| {
                    // SAFETY: It is memory for a work item, which stays where it is.
                    unsafe { bindings::sdp_helper_INIT_DELAYED_WORK(work, Some(Self::on_later)) }
                }),
                reclaim <- work_item(Self::on_reclaim),
                connect <- work_item(Self::on_connect),
                queues,
                object <- object,
                _module: ModuleRef::new(),
            }),
            GFP_KERNEL,
        )
    }

    fn queues(&self) -> &Queues {
        // SAFETY: By the type invariant.
        unsafe { self.queues.as_ref() }
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
        self.queue_on(&self.queues().quick, &self.now);
    }

    /// Queues the work that may wait for memory, on the workqueue that `hash` chooses; otherwise as
    /// [`Self::queue`].
    pub(crate) fn queue_reclaim(&self, hash: u64) {
        self.queue_on(self.queues().slow(hash), &self.reclaim);
    }

    /// Queues the work that may wait for the network, as [`Self::queue_reclaim`] does.
    pub(crate) fn queue_connect(&self, hash: u64) {
        self.queue_on(self.queues().slow(hash), &self.connect);
    }

    fn queue_on(&self, queue: &Workqueue, work: &Opaque<bindings::work_struct>) {
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
                self.queues().quick.as_ptr(),
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

    /// Cancels the slow work, unless it has begun to run. Any context.
    pub(crate) fn cancel_slow(&self) {
        for work in [&self.reclaim, &self.connect] {
            // SAFETY: The work is initialised.
            if unsafe { bindings::cancel_work(work.get()) } {
                // SAFETY: As in `cancel_later()`.
                drop(unsafe { Arc::from_raw(self) });
            }
        }
    }

    /// The object of a work item that runs, with the reference that queueing took.
    ///
    /// # Safety
    ///
    /// The workqueue runs `work`, which lies `offset` bytes into a [`Work`]. This is called once.
    unsafe fn running(work: *mut bindings::work_struct, offset: usize) -> Arc<Self> {
        // SAFETY: By the contract; `Opaque` is transparent.
        unsafe { Arc::from_raw(work.byte_sub(offset).cast::<Self>().cast_const()) }
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the `now` of a [`Work`].
    unsafe extern "C" fn on_now(work: *mut bindings::work_struct) {
        // SAFETY: By the contract.
        T::run(&unsafe { Self::running(work, offset_of!(Self, now)) });
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the work of the `later` of a [`Work`].
    unsafe extern "C" fn on_later(work: *mut bindings::work_struct) {
        let offset = offset_of!(Self, later) + offset_of!(bindings::delayed_work, work);
        // SAFETY: By the contract.
        T::run(&unsafe { Self::running(work, offset) });
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the `reclaim` of a [`Work`].
    unsafe extern "C" fn on_reclaim(work: *mut bindings::work_struct) {
        // SAFETY: By the contract.
        T::run_reclaim(&unsafe { Self::running(work, offset_of!(Self, reclaim)) });
    }

    /// # Safety
    ///
    /// The workqueue calls it, with the `connect` of a [`Work`].
    unsafe extern "C" fn on_connect(work: *mut bindings::work_struct) {
        // SAFETY: By the contract.
        T::run_connect(&unsafe { Self::running(work, offset_of!(Self, connect)) });
    }
}

/// A work item that runs `function`.
fn work_item(
    function: unsafe extern "C" fn(*mut bindings::work_struct),
) -> impl PinInit<Opaque<bindings::work_struct>> {
    Opaque::ffi_init(move |work| {
        // SAFETY: It is memory for a work item, which stays where it is.
        unsafe { bindings::sdp_helper_INIT_WORK(work, Some(function)) }
    })
}
