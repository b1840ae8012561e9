// SPDX-License-Identifier: GPL-2.0

//! The kernel crate's prelude, and the error codes of sockets, which that has from Linux 7.3 on.

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
    ENOBUFS,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPROTO,
    EPROTONOSUPPORT,
    ESHUTDOWN,
    ESOCKTNOSUPPORT,
);
