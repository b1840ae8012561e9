// SPDX-License-Identifier: GPL-2.0

//! A signal that does nothing but interrupt.

use crate::harness::{
    must,
    spawn, //
};
use sdp_selftests::errno::Errno;
use std::{
    mem, ptr,
    sync::atomic::{
        AtomicU32,
        Ordering, //
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

/// How many signals were caught.
pub(crate) fn caught() -> u32 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Sends `signal` to the calling thread after `delay`, which must live until then.
pub(crate) fn interrupt_after(delay: Duration, signal: libc::c_int) -> JoinHandle<()> {
    // SAFETY: `pthread_self()` takes nothing.
    let target = unsafe { libc::pthread_self() };
    spawn("interrupter", move || {
        thread::sleep(delay);
        // SAFETY: The target is alive: the case's thread waits for this one before it ends.
        unsafe { libc::pthread_kill(target, signal) };
    })
}
