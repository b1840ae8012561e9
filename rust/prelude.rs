// SPDX-License-Identifier: GPL-2.0

//! The kernel crate's prelude, plus the error codes of sockets, which it has only since Linux 7.3.

pub(crate) use kernel::prelude::*;

use crate::net::errno::error;
use kernel::uapi;

macro_rules! declare_err {
    ($($err:ident),* $(,)?) => {
        $(pub(crate) const $err: Error = error(uapi::$err);)*
    };
}

declare_err!(
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EALREADY,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTUNREACH,
    EINPROGRESS,
    EISCONN,
    ENETUNREACH,
    ENOBUFS,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPROTO,
    EPROTONOSUPPORT,
    ESHUTDOWN,
    ESOCKTNOSUPPORT,
);
