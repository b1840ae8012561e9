// SPDX-License-Identifier: GPL-2.0

//! Error numbers that print as their names.

use std::{
    fmt,
    io, //
};

/// An error number of a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a system call gives.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Errno = Errno(libc::$name);
            )*

            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBUSY ECANCELED ECONNABORTED
    ECONNREFUSED ECONNRESET EDESTADDRREQ EDOM EEXIST EFAULT EHOSTDOWN EHOSTUNREACH EINPROGRESS EINTR
    EINVAL EIO EISCONN EMFILE EMSGSIZE ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS ENODEV ENOENT
    ENOMEM ENOPROTOOPT ENOSPC ENOSYS ENOTCONN ENOTSOCK ENOTTY ENXIO EOPNOTSUPP EPERM EPIPE EPROTO
    EPROTONOSUPPORT EPROTOTYPE ERANGE EREMOTEIO ESHUTDOWN ESOCKTNOSUPPORT ESRCH ESTALE ETIME ETIMEDOUT
}

impl Errno {
    /// The calling thread's `errno`.
    pub fn last() -> Self {
        io::Error::last_os_error().into()
    }

    /// Turns the return value of a system call into a result.
    pub fn check(ret: libc::c_int) -> Result<libc::c_int> {
        if ret < 0 {
            Err(Self::last())
        } else {
            Ok(ret)
        }
    }

    /// The same for calls that return a length.
    pub fn check_len(ret: libc::ssize_t) -> Result<usize> {
        usize::try_from(ret).map_err(|_| Self::last())
    }
}

impl From<io::Error> for Errno {
    /// That of an error of the system, 0 for one of another kind.
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(0))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{self:?} ({text})")
    }
}

impl std::error::Error for Errno {}
