// SPDX-License-Identifier: GPL-2.0

//! Waits of the calls on a socket.
//!
//! A task waits in a queue of the `struct socket`, which goes with the file: a sock that accept has
//! not returned yet, or that was closed, has none. So only a call on an open file can wait.

use crate::{
    bindings,
    net::{
        ops::Protocol,
        sock::{
            Sock,
            SockGuard,
            Timeout,
            WaitError, //
        },
    },
    prelude::*, //
};
use core::ops::Deref;

/// A socket whose file is open for as long as this is borrowed; dereferences to the socket.
///
/// # Invariants
///
/// Its `struct socket` is live while it is borrowed.
#[repr(transparent)]
pub(crate) struct OpenSock<P: Protocol>(Sock<P>);

impl<P: Protocol> OpenSock<P> {
    /// Asserts that the file of a sock is open.
    ///
    /// # Safety
    ///
    /// Its `struct socket` is live for as long as this borrows the sock.
    pub(super) unsafe fn new(sk: &Sock<P>) -> &Self {
        // SAFETY: INVARIANT: By the contract; the wrapper is transparent.
        unsafe { &*(&raw const *sk).cast() }
    }

    /// As [`Sock::lock`].
    pub(crate) fn lock(&self) -> OpenGuard<'_, P> {
        // SAFETY: By the type invariant its file is open.
        unsafe { SockGuard::new(self) }
    }
}

impl<P: Protocol> Deref for OpenSock<P> {
    type Target = Sock<P>;

    fn deref(&self) -> &Sock<P> {
        &self.0
    }
}

/// Marks the [`SockGuard`] of an [`OpenSock`].
pub(crate) enum Open {}

/// The lock of a socket whose file is open.
pub(crate) type OpenGuard<'a, P> = SockGuard<'a, P, Open>;

/// Whether a signal waits for the current task.
pub(crate) fn is_signal_pending() -> bool {
    // SAFETY: The current task looks at its own signals.
    unsafe { bindings::sdp_helper_signal_pending(kernel::current!().as_ptr()) }
}

impl<P: Protocol> OpenGuard<'_, P> {
    /// Sleeps until `done`, releasing the lock while asleep, and leaves the rest of the time in
    /// `timeout`.
    ///
    /// `done` runs with the lock held, first before any sleep.
    pub(crate) fn wait(
        &mut self,
        timeout: &mut Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        self.sleep(timeout, bindings::TASK_INTERRUPTIBLE, false, done)
    }

    /// As [`Self::wait`], for data: while a call waits for it, it raises no SIGIO (`O_ASYNC`).
    pub(crate) fn wait_data(
        &mut self,
        timeout: &mut Timeout,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        if timeout.is_zero() {
            return self.wait(timeout, done);
        }
        let sk = self.sock().as_ptr();
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_async_waitdata(sk, true) };
        let result = self.wait(timeout, &mut done);
        // SAFETY: As above.
        unsafe { bindings::sdp_helper_sk_async_waitdata(sk, false) };
        match result {
            // What came since it was last `done` raised no signal, so it is for this call.
            Err(_) if done(self) => Ok(()),
            result => result,
        }
    }

    /// As [`Self::wait`], but [`Sock::data_ready`] wakes only one such waiter at a time. One that
    /// does not take what it waited for has to call that for the next.
    pub(crate) fn wait_exclusive(
        &mut self,
        timeout: &mut Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        self.sleep(timeout, bindings::TASK_INTERRUPTIBLE, true, done)
    }

    /// As [`Self::wait`], for at most `slice` of the time, where the rest of that is left. Tells
    /// whether it was `done` by then.
    pub(crate) fn wait_slice(
        &mut self,
        timeout: &mut Timeout,
        slice: &mut Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, WaitError> {
        let (whole, part) = (*timeout, *slice);
        if whole <= part {
            let woken = self.wait(timeout, done);
            slice.spend(whole, *timeout);
            return woken.map(|()| true);
        }
        let woken = self.wait(slice, done);
        timeout.spend(part, *slice);
        match woken {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Signal) => Err(WaitError::Signal),
        }
    }

    /// As [`Self::wait`], but only fatal signals end it. Tells whether it was `done`.
    pub(crate) fn wait_killable(
        &mut self,
        mut timeout: Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        self.sleep(&mut timeout, bindings::TASK_KILLABLE, false, done)
            .is_ok()
    }

    /// As [`Self::wait`], but no signal ends it: for what ends by itself soon. Tells whether it was
    /// `done`.
    pub(crate) fn wait_through(
        &mut self,
        mut timeout: Timeout,
        done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        self.sleep(&mut timeout, bindings::TASK_UNINTERRUPTIBLE, false, done)
            .is_ok()
    }

    fn sleep(
        &mut self,
        timeout: &mut Timeout,
        state: c_uint,
        exclusive: bool,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), WaitError> {
        if done(self) {
            return Ok(());
        }
        let mut entry = bindings::wait_queue_entry {
            private: kernel::current!().as_ptr().cast(),
            func: Some(bindings::woken_wake_function),
            ..Default::default()
        };
        // SAFETY: The sock is live.
        let queue = unsafe { bindings::sdp_helper_sk_sleep(self.sock().as_ptr()) };
        if queue.is_null() {
            // `orphan()` was called.
            return Err(WaitError::TimedOut);
        }
        // SAFETY: The queue is that of the `struct socket`, which is live for `'a` by the invariant
        // of `OpenSock`. The entry stays where it is until it is removed below.
        unsafe {
            match exclusive {
                true => bindings::add_wait_queue_exclusive(queue, &raw mut entry),
                false => bindings::add_wait_queue(queue, &raw mut entry),
            }
        }
        let result = loop {
            if done(self) {
                break Ok(());
            }
            if timeout.is_zero() {
                break Err(WaitError::TimedOut);
            }
            // SAFETY: The current task looks at its own signals.
            if unsafe {
                bindings::sdp_helper_signal_pending_state(state, kernel::current!().as_ptr())
            } {
                break Err(WaitError::Signal);
            }
            // Not before the loop: `done` may have put another guard in place of this one.
            let sk = self.sock().as_ptr();
            // SAFETY: The lock is held; it is dropped for the sleep and taken again, so the type
            // invariant holds whenever this function's caller can look. `&mut self` means that no
            // borrow of the locked state lives across.
            unsafe {
                bindings::release_sock(sk);
                timeout.0 = bindings::wait_woken(&raw mut entry, state, timeout.0);
                bindings::sdp_helper_lock_sock(sk);
            }
        };
        // SAFETY: The entry was added above.
        unsafe { bindings::remove_wait_queue(queue, &raw mut entry) };
        result
    }
}
