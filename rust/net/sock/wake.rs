// SPDX-License-Identifier: GPL-2.0

//! What a sock tells its program: wake-ups, signals and errors.

use crate::{
    bindings,
    net::{
        msg::RecvMsg,
        ops::Protocol,
        sock::Sock,
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::ptr::{
    addr_of,
    addr_of_mut, //
};
use kernel::error::to_result;

impl<P: Protocol> Sock<P> {
    /// Tells readers that there is something to read. Any context.
    pub(crate) fn data_ready(&self) {
        // SAFETY: The sock is live; `sock_init_data()` set the callback.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_data_ready {
                f(self.as_ptr());
            }
        }
    }

    /// Sends SIGURG for urgent data to the owner that `F_SETOWN` has set. Any context.
    pub(crate) fn send_sigurg(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_send_sigurg(self.as_ptr()) };
    }

    /// Tells writers that there is room. Any context.
    pub(crate) fn write_space(&self) {
        // SAFETY: As in `data_ready()`.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_write_space {
                f(self.as_ptr());
            }
        }
    }

    /// Has the next [`Self::write_space`] raise SIGIO, for a file with `O_ASYNC`. In a call on that
    /// file, or in poll.
    pub(crate) fn want_async_space(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_async_nospace(self.as_ptr()) };
    }

    /// Raises SIGIO for a file with `O_ASYNC`: the socket is connected. Any context.
    pub(crate) fn wake_async_connected(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_wake_async_out(self.as_ptr()) };
    }

    /// Raises SIGIO where that is asked for: nothing more is to be read, nor sent if it is the end
    /// of `both`. To be called before [`Self::data_ready`], which tells of the end as well. Any
    /// context.
    pub(crate) fn wake_async_end(&self, both: bool) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_wake_async_end(self.as_ptr(), both) };
    }

    /// Wakes everybody who waits for the socket's state. Any context.
    pub(crate) fn state_change(&self) {
        // SAFETY: As in `data_ready()`.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_state_change {
                f(self.as_ptr());
            }
        }
    }

    /// Wakes the calls that wait on the socket, those too that no signal wakes, but not who polls:
    /// nothing changes for them, and who waits for the edge (`EPOLLET`) would take it for one. Any
    /// context.
    pub(crate) fn wake_calls(&self) {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_wake_calls(self.as_ptr()) };
    }

    /// Leaves `error` for the next call to report. Has to be called before the state changes, so
    /// that no program sees the new state without the reason; [`Self::report_error`] wakes the
    /// waiters afterwards. Any context.
    pub(crate) fn set_error(&self, error: Error) {
        // SAFETY: The sock is live; `sk_err` may be written from anywhere.
        unsafe { addr_of_mut!((*self.as_ptr()).sk_err).write_volatile(-error.to_errno()) };
    }

    /// Wakes those who wait for an error. Any context.
    pub(crate) fn report_error(&self) {
        // SAFETY: The sock is live.
        unsafe {
            if let Some(f) = (*self.as_ptr()).sk_error_report {
                f(self.as_ptr());
            }
        }
    }

    /// Takes the error that was left for the next call, and fails with it. Any context.
    pub(crate) fn take_error(&self) -> Result {
        // SAFETY: The sock is live.
        to_result(unsafe { bindings::sdp_helper_sock_error(self.as_ptr()) })
    }

    /// Whether an error was left for the next call. Any context.
    pub(crate) fn has_error(&self) -> bool {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).sk_err).read_volatile() != 0 }
    }

    /// Whether the error queue has an entry for the program. Any context.
    pub(crate) fn has_notices(&self) -> bool {
        // SAFETY: The sock is live; what the queue has is not looked at.
        unsafe {
            !bindings::sdp_helper_skb_queue_empty_lockless(addr_of!(
                (*self.as_ptr()).sk_error_queue
            ))
        }
    }

    /// `MSG_ERRQUEUE`: stores the next entry of the error queue, a control message without data, in
    /// the form that programs know from TCP. Does not wait: fails with `EAGAIN`.
    pub(crate) fn recv_errqueue(&self, msg: &mut RecvMsg<'_>) -> Result<usize> {
        let len = c_int::try_from(msg.data.len()).unwrap_or(c_int::MAX);
        let is_v6 = self.version() == IpVersion::V6;
        // SAFETY: The sock is live, and so is the message, whose iterator this borrows.
        let n = unsafe { bindings::sdp_helper_recv_error(self.as_ptr(), msg.msg, len, is_v6) };
        usize::try_from(n).map_err(|_| Error::from_errno(n))
    }

    /// The error of a failed send, after raising SIGPIPE where it is due. In the sending task.
    pub(crate) fn stream_error(&self, flags: u32, error: Error) -> Error {
        // SAFETY: The sock is live; called in the context of the sending task.
        let errno =
            unsafe { bindings::sk_stream_error(self.as_ptr(), flags as c_int, error.to_errno()) };
        Error::from_errno(errno)
    }
}
