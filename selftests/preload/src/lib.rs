// SPDX-License-Identifier: GPL-2.0

//! For `LD_PRELOAD`: a program that asks for a TCP socket gets one of `AF_INET_SDP`, or for IPv6 of
//! `AF_INET6_SDP`.

use libc::c_int;

/// `AF_INET_SDP`.
const AF_INET_SDP: c_int = 27;
/// `AF_INET6_SDP`.
const AF_INET6_SDP: c_int = 28;

/// `socket()`.
#[no_mangle]
pub extern "C" fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int {
    let stream = kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) == libc::SOCK_STREAM;
    let tcp = stream && matches!(protocol, 0 | libc::IPPROTO_TCP);
    let family = match family {
        libc::AF_INET if tcp => AF_INET_SDP,
        libc::AF_INET6 if tcp => AF_INET6_SDP,
        family => family,
    };
    // SAFETY: `socket()` takes no memory.
    unsafe { libc::syscall(libc::SYS_socket, family, kind, protocol) as c_int }
}
