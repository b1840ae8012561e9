// SPDX-License-Identifier: GPL-2.0

//! Error codes that the kernel crate may have no constant for.

use core::mem::transmute;
use kernel::{
    bindings::MAX_ERRNO,
    error::Error, //
};

/// The error with number `errno`, for constants: [`Error::from_errno`] works at run time only.
pub(crate) const fn error(errno: u32) -> Error {
    assert!(errno > 0 && errno <= MAX_ERRNO);
    // CAST: It is small, by the above.
    let errno = -(errno as i32);
    // SAFETY: `transmute` checks that the sizes agree, and the only field of `Error` is a
    // `NonZeroI32`; the value is in `-MAX_ERRNO..=-1`, as `Error` requires.
    unsafe { transmute::<i32, Error>(errno) }
}
