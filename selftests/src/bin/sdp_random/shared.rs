// SPDX-License-Identifier: GPL-2.0

//! What the processes share: who makes which call now, the last calls of each thread, and how many
//! there were.

use sdp_selftests::shared;
use std::sync::atomic::{
    AtomicBool,
    AtomicI32,
    AtomicU64,
    AtomicUsize,
    Ordering::Relaxed, //
};

/// The most processes of a run.
pub(crate) const PROCESSES: usize = 8;
/// The most threads of a process.
pub(crate) const THREADS: usize = 8;
/// The most kinds of steps.
pub(crate) const KINDS: usize = 64;
/// The calls that are remembered of a thread.
const CALLS: usize = 16;
/// One more than the highest error number.
const ERRORS: usize = 134;
/// The result of a call that has not returned.
const PENDING: isize = isize::MIN;

/// A system call as it was made.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// The step it belongs to, from 1; what reproduces it with the seed and the thread.
    pub(crate) step: u64,
    pub(crate) kind: usize,
    pub(crate) number: libc::c_long,
    pub(crate) args: [usize; 6],
}

/// A thread, or the process that it forked, as the supervisor sees it.
#[repr(C)]
pub(crate) struct Seat {
    /// 0 for nobody.
    pub(crate) process: AtomicI32,
    pub(crate) thread: AtomicI32,
    /// Calls begun and calls ended: odd during one.
    pub(crate) changes: AtomicU64,
    calls: [[AtomicUsize; 10]; CALLS],
}

impl Seat {
    /// Notes that the calling thread sits here.
    pub(crate) fn take(&self) {
        // SAFETY: These calls take nothing.
        let (process, thread) = unsafe {
            (
                libc::getpid(),
                libc::syscall(libc::SYS_gettid) as libc::pid_t,
            )
        };
        self.process.store(process, Relaxed);
        self.thread.store(thread, Relaxed);
    }

    /// Notes that nobody does.
    pub(crate) fn leave(&self) {
        self.thread.store(0, Relaxed);
    }

    fn of(&self, number: u64) -> &[AtomicUsize; 10] {
        &self.calls[number as usize % CALLS]
    }

    /// Notes a call before it is made. Only for the thread that sits here, as is
    /// [`end`](Self::end).
    pub(crate) fn begin(&self, call: &Call) {
        let changes = self.changes.load(Relaxed);
        let [step, kind, number, args @ .., result] = self.of(changes / 2);
        step.store(call.step as usize, Relaxed);
        kind.store(call.kind, Relaxed);
        number.store(call.number as usize, Relaxed);
        for (shared, arg) in args.iter().zip(call.args) {
            shared.store(arg, Relaxed);
        }
        result.store(PENDING as usize, Relaxed);
        self.changes.store(changes + 1, Relaxed);
    }

    /// Notes its result.
    pub(crate) fn end(&self, value: isize) {
        let changes = self.changes.load(Relaxed);
        let [.., result] = self.of(changes / 2);
        result.store(value as usize, Relaxed);
        self.changes.store(changes + 1, Relaxed);
    }

    /// The calls that are remembered, the latest last, each with its result once it has one.
    pub(crate) fn last(&self) -> Vec<(Call, Option<isize>)> {
        let begun = self.changes.load(Relaxed).div_ceil(2);
        (begun.saturating_sub(CALLS as u64)..begun)
            .map(|number| {
                let [step, kind, number, args @ .., result] = self.of(number);
                let call = Call {
                    step: step.load(Relaxed) as u64,
                    kind: kind.load(Relaxed),
                    number: number.load(Relaxed) as libc::c_long,
                    args: [0, 1, 2, 3, 4, 5].map(|arg| args[arg].load(Relaxed)),
                };
                let result = result.load(Relaxed) as isize;
                (call, (result != PENDING).then_some(result))
            })
            .collect()
    }
}

/// How many calls the steps of one kind made, and how many of them succeeded.
#[repr(C)]
pub(crate) struct Count {
    pub(crate) made: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    /// How many failed with each error number.
    pub(crate) errors: [AtomicU64; ERRORS],
}

impl Count {
    /// Counts a call that gave `result`.
    pub(crate) fn add(&self, result: isize) {
        self.made.fetch_add(1, Relaxed);
        match usize::try_from(-result) {
            Ok(error @ 1..) => {
                if let Some(count) = self.errors.get(error) {
                    count.fetch_add(1, Relaxed);
                }
            }
            _ => {
                self.succeeded.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The memory that is common to all processes.
#[repr(C)]
pub(crate) struct Shared {
    /// Whether everybody is to end.
    pub(crate) stop: AtomicBool,
    pub(crate) counts: [Count; KINDS],
    /// A thread's, and beside it that of the process that it forked.
    seats: [[[Seat; 2]; THREADS]; PROCESSES],
}

impl Shared {
    /// Maps it: zero, and common to all that are forked from now on.
    pub(crate) fn map() -> &'static Self {
        // SAFETY: It is made of atomics alone, for which zero is valid.
        unsafe { shared::map() }
    }

    /// The seat of a thread of a process; `forked` that of the process that it forked.
    pub(crate) fn seat(&self, process: usize, thread: usize, forked: bool) -> &Seat {
        &self.seats[process][thread][usize::from(forked)]
    }

    /// The seats of a process.
    pub(crate) fn seats(&self, process: usize) -> impl Iterator<Item = (usize, bool, &Seat)> {
        let threads = self.seats[process].iter().enumerate();
        threads.flat_map(|(thread, [own, forked])| [(thread, false, own), (thread, true, forked)])
    }
}
