// SPDX-License-Identifier: GPL-2.0

//! Kernel memory that sockets use, charged to the memory cgroup of their owner, and counted against
//! a limit for all.
//!
//! The kernel's own accounting of socket memory does both: `memory.max` of the cgroup and
//! `net.sdp.mem` bound it, `/proc/net/protocols` and `SO_MEMINFO` show it. All that a socket is
//! charged is in `sk_forward_alloc`, which no other code uses for our sockets; its lock is
//! `Sock::forward_alloc`.

use crate::{
    bindings,
    net::{
        ops::Protocol,
        sock::Sock, //
    },
    prelude::*, //
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicI32,
        AtomicI64,
        AtomicUsize,
        Ordering, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    str::CStr,
    sync::aref::ARef,
    time::{
        ClockSource,
        Monotonic, //
    }, //
};

/// Pages that are charged, except for what is in the per-CPU counters.
static ALLOCATED: AtomicI64 = AtomicI64::new(0);

/// `net.sdp.mem`, in pages: below the first there is no pressure, above the second there is, and
/// above the third charges fail. What each CPU counts by itself is not seen here: so the limit may
/// be exceeded by as much, 1 MiB for each (`net.core.mem_pcpu_rsv`).
static MEM: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];

/// Whether there is memory pressure.
static PRESSURE: AtomicUsize = AtomicUsize::new(0);

/// Stands in for tcp_rmem[0]: below so many received bytes, of which we count none, the kernel
/// grants memory under pressure.
static ALWAYS: AtomicI32 = AtomicI32::new(i32::MAX);

/// The most pages that one socket can be charged: the kernel counts bytes in an `int`.
const MAX_PAGES: usize = (i32::MAX as usize) / PAGE_SIZE;

/// The most pages for which memory is reclaimed at a time.
const MOST_RECLAIMED: usize = 512;

/// Pages that have to be left in the cgroup when more is charged, so that the next page that a
/// program touches does not exceed `memory.max`, for which it would be killed.
const HEADROOM: usize = 32;

/// For how long a cgroup is not reclaimed for a socket after that was in vain, in nanoseconds.
const RECLAIM_PAUSE_NS: i64 = 100_000_000;

/// Pages that all sockets are charged, approximately. Any context.
pub(crate) fn charged_pages() -> u64 {
    u64::try_from(ALLOCATED.load(Ordering::Relaxed)).unwrap_or(0)
}

/// What `net.sdp.mem` starts with, in pages. Unlike TCP's, these limits bound all memory of a
/// connection, most of which is for buffers that wait for data. So they are higher. Any context.
pub(crate) fn default_mem() -> [u64; 3] {
    // SAFETY: A pure query.
    let pages = unsafe { bindings::nr_free_buffer_pages() };
    // OVERFLOW: Memory has far fewer pages. CAST: `u64` is as long.
    [3, 4, 6].map(|sixteenths| pages as u64 / 16 * sixteenths)
}

/// Fills in the fields of a `struct proto` that the kernel's accounting uses.
///
/// # Safety
///
/// `proto` is not registered, and nobody else uses it.
pub(super) unsafe fn set_up(proto: *mut bindings::proto) {
    for (limit, pages) in MEM.iter().zip(default_mem()) {
        limit.store(i64::try_from(pages).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
    // SAFETY: By the contract. The statics live as long as the module, and atomics have the layout
    // of the integers that C takes them for.
    unsafe {
        (*proto).memory_allocated = ALLOCATED.as_ptr().cast();
        (*proto).per_cpu_fw_alloc = bindings::sdp_helper_per_cpu_fw_alloc();
        (*proto).sysctl_mem = MEM.as_ptr().cast_mut().cast();
        (*proto).sysctl_rmem = ALWAYS.as_ptr();
        // The tracepoint of a charge that is refused reads it.
        (*proto).sysctl_wmem = ALWAYS.as_ptr();
        (*proto).memory_pressure = PRESSURE.as_ptr();
        (*proto).enter_memory_pressure = Some(enter_memory_pressure);
    }
}

/// # Safety
///
/// The kernel calls it, in any context.
unsafe extern "C" fn enter_memory_pressure(_sk: *mut bindings::sock) {
    PRESSURE.store(1, Ordering::Relaxed);
}

impl<P: Protocol> Sock<P> {
    /// Charges so many pages of memory, if the kernel need not reclaim any for them: see
    /// [`Self::reclaim`]. Any context. Fails with `ENOBUFS` beyond that, `net.sdp.mem`, or what the
    /// kernel can count for one socket.
    fn charge_pages(&self, pages: usize) -> Result {
        if pages == 0 {
            return Ok(());
        }
        // CAST: `Charge` bounds it.
        let bytes = (pages * PAGE_SIZE) as c_int;
        let _lock = self.forward_alloc().lock();
        if self.needs_reclaim(pages) {
            return Err(ENOBUFS);
        }
        // SAFETY: The sock is live, and the lock of the field held.
        let charged = unsafe { (*self.as_ptr()).sk_forward_alloc };
        charged.checked_add(bytes).ok_or(ENOBUFS)?;
        let kind = bindings::SK_MEM_RECV as c_int;
        // SAFETY: As above. BH is disabled, so that the kernel does not reclaim, nor refuse what is
        // beyond `memory.max`: that may be exceeded by what other sockets charge at the same time.
        match unsafe { bindings::__sk_mem_schedule(self.as_ptr(), bytes, kind) } {
            0 => Err(ENOBUFS),
            _ => Ok(()),
        }
    }

    /// Uncharges so many pages. Any context.
    fn uncharge_pages(&self, pages: usize) {
        if pages == 0 {
            return;
        }
        // CAST: As above.
        let bytes = (pages * PAGE_SIZE) as c_int;
        let _lock = self.forward_alloc().lock();
        // SAFETY: The sock is live, the lock held, and so much is charged.
        unsafe { bindings::__sk_mem_reclaim(self.as_ptr(), bytes) };
    }

    /// Is charged for so many pages from now on that `from` was charged for, which has the same
    /// cgroup. Any context. Fails with `ENOBUFS`, and changes nothing, where that is beyond the
    /// kernel's sum of what one socket is charged.
    fn take_over_pages(&self, from: &Self, pages: usize) -> Result {
        // CAST: `Charge` bounds it.
        let bytes = (pages * PAGE_SIZE) as c_int;
        // One after the other: in between they are charged to the cgroup, and no socket's.
        {
            let _lock = self.forward_alloc().lock();
            // SAFETY: The sock is live, and the lock of the field held.
            let charged = unsafe { &mut (*self.as_ptr()).sk_forward_alloc };
            *charged = charged.checked_add(bytes).ok_or(ENOBUFS)?;
        }
        let _lock = from.forward_alloc().lock();
        // SAFETY: As above; so much of it is charged.
        unsafe { (*from.as_ptr()).sk_forward_alloc -= bytes };
        Ok(())
    }

    /// Whether memory of its cgroup has to be reclaimed before so many pages can be charged. Any
    /// context.
    pub(crate) fn needs_reclaim(&self, pages: usize) -> bool {
        // SAFETY: It is live.
        let room = unsafe { bindings::sdp_helper_sk_memcg_room(self.as_ptr()) };
        // CAST: `c_ulong` is as long.
        (room as usize) < pages.saturating_add(HEADROOM)
    }

    /// Has the kernel reclaim memory of its cgroup if that is needed to charge so many pages,
    /// unless another task does so for it, or did in vain a moment ago. Sleeps, perhaps for long:
    /// without locks that others wait for.
    pub(crate) fn reclaim(&self, pages: usize) {
        const BUSY: i64 = i64::MAX;
        if !self.needs_reclaim(pages) {
            return;
        }
        let again_at = self.reclaim_at();
        let at = again_at.load(Ordering::Relaxed);
        if Monotonic::ktime_get() < at
            || again_at
                .compare_exchange(at, BUSY, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let pages = pages.saturating_add(HEADROOM).min(MOST_RECLAIMED);
        // SAFETY: It is live. CAST: It was just bounded.
        let reclaimed =
            unsafe { bindings::sdp_helper_sk_memcg_reclaim(self.as_ptr(), pages as c_uint) };
        let next = match reclaimed {
            true => 0,
            false => Monotonic::ktime_get().saturating_add(RECLAIM_PAUSE_NS),
        };
        again_at.store(next, Ordering::Relaxed);
    }

    /// What tells the memory cgroup that is charged from others. Any context.
    pub(crate) fn cgroup(&self) -> usize {
        // SAFETY: It is live.
        unsafe { bindings::sdp_helper_sk_memcg(self.as_ptr()) }.addr()
    }

    /// Whether memory is short, in its cgroup or by `net.sdp.mem`: nothing should grow, and what
    /// can should shrink. Any context.
    pub(crate) fn is_under_pressure(&self) -> bool {
        // SAFETY: It is live.
        unsafe { bindings::sdp_helper_sk_under_memory_pressure(self.as_ptr()) }
    }
}

/// What a socket is charged for one purpose.
///
/// # Invariants
///
/// `pages` of what `sk` is charged are this value's.
pub(crate) struct Charge<P: Protocol> {
    sk: ARef<Sock<P>>,
    pages: usize,
}

impl<P: Protocol> Charge<P> {
    /// A charge of nothing yet. Any context.
    pub(crate) fn new(sk: &Sock<P>) -> Self {
        // INVARIANT: It is nothing.
        Self {
            sk: sk.into(),
            pages: 0,
        }
    }

    /// Charges so many pages in all. Any context. Fails with `ENOBUFS`, and changes nothing, where
    /// more would exceed `net.sdp.mem`, or what is left in the cgroup: [`Sock::reclaim`] may help
    /// then.
    pub(crate) fn set(&mut self, pages: usize) -> Result {
        let pages = pages.min(MAX_PAGES);
        self.sk.charge_pages(pages.saturating_sub(self.pages))?;
        self.sk.uncharge_pages(self.pages.saturating_sub(pages));
        // INVARIANT: The difference was just charged, or uncharged.
        self.pages = pages;
        Ok(())
    }

    /// Charges another socket instead. Any context. Fails with `ENOBUFS`, and changes nothing, as
    /// [`Self::set`] does.
    pub(crate) fn move_to(&mut self, sk: &Sock<P>) -> Result {
        let mut charge = Self::new(sk);
        if self.sk.cgroup() == sk.cgroup() && sk.take_over_pages(&self.sk, self.pages).is_ok() {
            // INVARIANT: They are moved.
            charge.pages = core::mem::take(&mut self.pages);
        }
        charge.set(charge.pages.max(self.pages))?;
        *self = charge;
        Ok(())
    }
}

impl<P: Protocol> Drop for Charge<P> {
    fn drop(&mut self) {
        self.sk.uncharge_pages(self.pages);
    }
}

/// The file `mem` of the host's namespace, until dropped.
///
/// # Invariants
///
/// `header` is the registration of `table`.
pub(crate) struct Registration {
    header: NonNull<bindings::ctl_table_header>,
    _table: KBox<bindings::ctl_table>,
}

// SAFETY: It is only unregistered, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: Nothing can be done with a reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Makes the file, in the directory `path` below `/proc/sys`. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new(path: &'static CStr) -> Result<Self> {
        let table = bindings::ctl_table {
            procname: c"mem".as_char_ptr(),
            data: MEM.as_ptr().cast_mut().cast(),
            maxlen: size_of_val(&MEM) as c_int,
            mode: 0o644,
            proc_handler: Some(bindings::proc_doulongvec_minmax),
            ..pin_init::zeroed()
        };
        let mut table = KBox::new(table, GFP_KERNEL)?;
        // SAFETY: The table lives until it is unregistered, and what it points to is static. The
        // host's namespace is always there.
        let header = unsafe {
            bindings::register_net_sysctl_sz(
                &raw mut bindings::init_net,
                path.as_char_ptr(),
                &raw mut *table,
                1,
            )
        };
        // INVARIANT: It was just registered.
        Ok(Self {
            header: NonNull::new(header).ok_or(ENOMEM)?,
            _table: table,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; who uses the file now is waited for.
        unsafe { bindings::unregister_net_sysctl_table(self.header.as_ptr()) };
    }
}
