// SPDX-License-Identifier: GPL-2.0

//! A signal that does nothing but interrupt.

use crate::harness::{
    join,
    must,
    spawn, //
};
use sdp_selftests::errno::Errno;
use std::{
    mem, ptr,
    sync::{
        atomic::{
            AtomicBool,
            AtomicU32,
            Ordering, //
        },
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Duration,
};

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Counts `signal` from now on instead of dying of it; with `flags` such as `SA_RESTART`.
pub(crate) fn catch(signal: libc::c_int, flags: libc::c_int) {
    // SAFETY: All-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = flags;
    // SAFETY: The handler only adds to an atomic, which a signal handler may.
    must!(Errno::check(unsafe {
        libc::sigaction(signal, &action, ptr::null_mut())
    }));
}

/// Keeps `signal` from the calling thread and those that it starts.
pub(crate) fn block(signal: libc::c_int) {
    // SAFETY: All-zero bytes are a valid `sigset_t`, and the calls get pointers to one.
    must!(Errno::check(unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut())
    }));
}

/// How many signals were caught.
pub(crate) fn caught() -> u32 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Sends signals to the thread that made it, until it is dropped.
pub(crate) struct Interrupter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Sends `signal` to the calling thread after every `delay`: once is not enough where the first
/// comes before the call that it shall interrupt.
pub(crate) fn interrupt_every(delay: Duration, signal: libc::c_int) -> Interrupter {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    // SAFETY: `pthread_self()` takes nothing.
    let target = unsafe { libc::pthread_self() };
    let thread = spawn("interrupter", move || loop {
        thread::sleep(delay);
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: The target is alive: it waits for this thread when it drops the `Interrupter`.
        unsafe { libc::pthread_kill(target, signal) };
    });
    Interrupter {
        stop,
        thread: Some(thread),
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(join);
    }
}
