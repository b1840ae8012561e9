// SPDX-License-Identifier: GPL-2.0

//! `proto_ops`: the calls of the socket layer as a trait.

use crate::{
    bindings,
    net::{
        bpf::Hook,
        family::Family,
        inet,
        msg::{
            RecvMsg,
            SendMsg, //
        },
        optval::{
            OptionRoom,
            OptionValue, //
        },
        pernet::{
            NetOf,
            PerNet, //
        },
        pipe::Pipe,
        sock::{
            Child,
            Sock, //
        },
        sockaddr::{
            IpVersion,
            SockAddr, //
        },
        uapi::{
            IPPROTO_IPV6,
            IPPROTO_TCP, //
        },
        wait::OpenSock, //
    },
    prelude::*, //
};
use core::ptr::null_mut;
use kernel::{
    error::from_result,
    sync::aref::ARef,
    uaccess::UserPtr, //
};

const SOL_SOCKET: c_int = bindings::SOL_SOCKET as c_int;
const SOL_IP: c_int = bindings::SOL_IP as c_int;

/// A stream protocol: what each call on one of its sockets does.
///
/// Unless said otherwise a method runs in the context of the calling task, without locks, and may
/// sleep.
pub(crate) trait Protocol: Sized + 'static {
    /// The state of a socket, which `lock_sock()` guards.
    type Locked: Send;

    /// What else is known of a socket, under a spinlock: for who does not wait for that lock, which
    /// a program may hold asleep.
    type PollState: Default + Send;

    /// What it has while the module is loaded.
    type Global: Send + Sync;

    /// What it keeps in each namespace.
    type PerNet: PerNet<Self>;

    /// The address family of its sockets over IPv4.
    const FAMILY: c_int;

    /// That of those over IPv6.
    const FAMILY6: c_int;

    /// The static [`Family`] of the sockets over a version of IP.
    fn family(version: IpVersion) -> &'static Family<Self>;

    /// The module is being loaded; no socket can be made yet.
    fn load() -> Result<Self::Global>;

    /// The state of a new socket in `net`.
    fn new(net: &NetOf<Self>) -> Self::Locked;

    /// `SO_RCVBUF` of a new socket, in bytes.
    fn default_rcvbuf(net: &NetOf<Self>) -> c_int;

    /// The last call on a socket: its file is closed.
    fn release(sk: &OpenSock<Self>);

    /// `bind(2)`.
    fn bind(sk: &Sock<Self>, addr: SockAddr<'_>) -> Result;

    /// `connect(2)`.
    fn connect(sk: &OpenSock<Self>, addr: SockAddr<'_>, nonblock: bool) -> Result;

    /// `listen(2)`.
    fn listen(sk: &Sock<Self>, backlog: c_int) -> Result;

    /// `accept(2)`: a connected socket that has no file yet, and whether more of them wait.
    fn accept(sk: &OpenSock<Self>, nonblock: bool) -> Result<(Child<Self>, bool)>;

    /// The `EPOLL*` events that are pending. Does not take the socket lock.
    fn poll(sk: &Sock<Self>) -> u32;

    /// `SO_RCVLOWAT` was set, and `SO_RCVBUF` may have grown. The socket is locked.
    fn low_water_set(sk: &Sock<Self>);

    /// `SOF_TIMESTAMPING_OPT_ID` is about to be set: the next byte that is written has the number
    /// 0, or the first one that has not reached the peer.
    fn start_stamp_ids(sk: &Sock<Self>, from_next: bool);

    /// `SO_KEEPALIVE` is set. The socket is locked.
    fn set_keepalive(s: &mut Self::Locked, on: bool);

    /// An `ioctl(2)` that gives a number; `ENOIOCTLCMD` where it is not ours.
    fn ioctl(sk: &Sock<Self>, cmd: u32) -> Result<c_int>;

    /// `shutdown(2)`; `read` and `write` are not both false.
    fn shutdown(sk: &Sock<Self>, read: bool, write: bool) -> Result;

    /// `setsockopt(2)` at TCP's level.
    fn set_option(sk: &Sock<Self>, name: c_int, value: OptionValue<'_>) -> Result;

    /// `getsockopt(2)` at TCP's level; the value goes to `to`.
    fn option(sk: &Sock<Self>, name: c_int, to: OptionRoom) -> Result;

    /// `sendmsg(2)`. Returns the number of bytes that were taken.
    fn sendmsg(sk: &OpenSock<Self>, msg: SendMsg<'_>) -> Result<usize>;

    /// `recvmsg(2)`. Returns the number of bytes that were stored.
    fn recvmsg(sk: &OpenSock<Self>, msg: RecvMsg<'_>) -> Result<usize>;

    /// `splice(2)` and `sendfile(2)` out of the socket. Returns the number of bytes that the pipe
    /// was given, 0 at the end of the stream. Bytes that the pipe did not take stay.
    fn splice_read(
        sk: &OpenSock<Self>,
        pipe: &mut Pipe<'_>,
        len: usize,
        nonblock: bool,
    ) -> Result<usize>;

    /// What was spliced into the socket, with more to come, has ended early.
    fn splice_eof(sk: &Sock<Self>);
}

/// The C table for `P`.
pub(super) const fn proto_ops<P: Protocol>(
    family: c_int,
    version: IpVersion,
) -> bindings::proto_ops {
    bindings::proto_ops {
        family,
        owner: &raw mut bindings::__this_module,
        release: Some(release::<P>),
        bind: Some(bind::<P>),
        connect: Some(connect::<P>),
        socketpair: Some(bindings::sock_no_socketpair),
        accept: Some(accept::<P>),
        getname: Some(getname::<P>),
        poll: Some(poll::<P>),
        ioctl: Some(match version {
            IpVersion::V4 => bindings::inet_ioctl,
            IpVersion::V6 => bindings::inet6_ioctl,
        }),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(compat_ioctl::<P>),
        gettstamp: Some(bindings::sock_gettstamp),
        listen: Some(listen::<P>),
        shutdown: Some(shutdown::<P>),
        setsockopt: Some(setsockopt::<P>),
        getsockopt: Some(getsockopt::<P>),
        sendmsg: Some(sendmsg::<P>),
        recvmsg: Some(recvmsg::<P>),
        mmap: Some(bindings::sock_no_mmap),
        set_peek_off: Some(set_peek_off),
        set_rcvlowat: Some(set_rcvlowat::<P>),
        splice_read: Some(splice_read::<P>),
        splice_eof: Some(splice_eof::<P>),
        ..pin_init::zeroed()
    }
}

/// Borrows the sock of a `struct socket`.
///
/// # Safety
///
/// `sock` is a live socket of protocol `P` that has not been released, for `'a`.
unsafe fn sk<'a, P: Protocol>(sock: *mut bindings::socket) -> &'a OpenSock<P> {
    // SAFETY: By the contract `sk` is a `Sock<P>`, which the socket holds a reference to, and the
    // socket is live.
    unsafe { OpenSock::new(&*(*sock).sk.cast::<Sock<P>>()) }
}

/// The address argument of bind and connect.
///
/// # Safety
///
/// `addr` points to `len` bytes that live for `'a`.
unsafe fn sockaddr<'a>(addr: *mut bindings::sockaddr_unsized, len: c_int) -> Result<SockAddr<'a>> {
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    // SAFETY: By the contract.
    Ok(SockAddr::new(unsafe {
        core::slice::from_raw_parts(addr.cast::<u8>(), len)
    }))
}

// The functions below are called by the socket layer alone, with arguments that its own rules make
// valid: the socket is live and of `P`, kernel pointers are readable for the lengths that go with
// them, and user pointers are only given to `UserSlice`.

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn release<P: Protocol>(sock: *mut bindings::socket) -> c_int {
    // SAFETY: A live socket; release is its last call, and nobody else reads `sk` any more.
    let raw = unsafe { core::mem::replace(&mut (*sock).sk, null_mut()) };
    if let Some(raw) = core::ptr::NonNull::new(raw.cast::<Sock<P>>()) {
        // SAFETY: The socket owned a reference to its sock, which passes to `sk`.
        let sk = unsafe { ARef::from_raw(raw) };
        sk.lock().filter_release();
        // SAFETY: The socket is live until this returns.
        P::release(unsafe { OpenSock::new(&sk) });
    }
    0
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn bind<P: Protocol>(
    sock: *mut bindings::socket,
    addr: *mut bindings::sockaddr_unsized,
    len: c_int,
) -> c_int {
    // SAFETY: As said above.
    from_result(|| unsafe { P::bind(sk(sock), sockaddr(addr, len)?).map(|()| 0) })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn connect<P: Protocol>(
    sock: *mut bindings::socket,
    addr: *mut bindings::sockaddr_unsized,
    len: c_int,
    flags: c_int,
) -> c_int {
    let nonblock = flags & bindings::O_NONBLOCK as c_int != 0;
    // SAFETY: As said above.
    from_result(|| unsafe { P::connect(sk(sock), sockaddr(addr, len)?, nonblock).map(|()| 0) })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn accept<P: Protocol>(
    sock: *mut bindings::socket,
    newsock: *mut bindings::socket,
    arg: *mut kernel::bindings::proto_accept_arg,
) -> c_int {
    // The kernel crate has no fields of this type.
    let arg = arg.cast::<bindings::proto_accept_arg>();
    from_result(|| {
        // SAFETY: As said above.
        let nonblock = unsafe { (*arg).flags } & bindings::O_NONBLOCK as c_int != 0;
        // SAFETY: As said above.
        let (child, more) = P::accept(unsafe { sk::<P>(sock) }, nonblock)?;
        // SAFETY: The socket layer made `newsock` for this call; it has no sock yet.
        unsafe { child.graft(newsock) };
        // SAFETY: As said above.
        unsafe { (*arg).is_empty = c_int::from(!more) };
        Ok(0)
    })
}

/// # Safety
///
/// The socket layer calls it, as said above, with room for any address.
unsafe extern "C" fn getname<P: Protocol>(
    sock: *mut bindings::socket,
    addr: *mut bindings::sockaddr,
    peer: c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let mut len = unsafe {
            match sk::<P>(sock).version() {
                IpVersion::V4 => bindings::inet_getname(sock, addr, peer),
                IpVersion::V6 => bindings::inet6_getname(sock, addr, peer),
            }
        };
        if len < 0 {
            return Err(Error::from_errno(len));
        }
        let hook = if peer == 0 {
            Hook::SockName
        } else {
            Hook::PeerName
        };
        // SAFETY: As said above.
        unsafe {
            let mut guard = sk::<P>(sock).lock();
            guard.filter_name(hook, addr.cast(), &mut len)?;
        }
        Ok(len)
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn poll<P: Protocol>(
    file: *mut bindings::file,
    sock: *mut bindings::socket,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: As said above. Registering comes before looking, so that no wake-up is lost.
    unsafe {
        bindings::sdp_helper_sock_poll_wait(file, sock, table);
        P::poll(sk(sock))
    }
}

/// `ioctl` of a `struct proto`: a call of a program, or of io_uring.
///
/// # Safety
///
/// `sk` is a live socket of protocol `P`, and `value` has room for an integer.
pub(super) unsafe extern "C" fn ioctl<P: Protocol>(
    sk: *mut bindings::sock,
    cmd: c_int,
    value: *mut c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: By the contract. CAST: It is a bit pattern.
        let given = unsafe { P::ioctl(&*sk.cast::<Sock<P>>(), cmd as u32) }?;
        // SAFETY: By the contract.
        unsafe { *value = given };
        Ok(0)
    })
}

/// The same for a 32-bit program, whose arguments are those of a 64-bit one but for routes.
///
/// # Safety
///
/// The socket layer calls it, as said above.
#[cfg(CONFIG_COMPAT)]
unsafe extern "C" fn compat_ioctl<P: Protocol>(
    sock: *mut bindings::socket,
    cmd: c_uint,
    arg: c_ulong,
) -> c_int {
    if matches!(cmd, bindings::SIOCADDRT | bindings::SIOCDELRT) {
        return ENOIOCTLCMD.to_errno();
    }
    // SAFETY: As said above.
    unsafe {
        match sk::<P>(sock).version() {
            IpVersion::V4 => bindings::inet_ioctl(sock, cmd, arg),
            IpVersion::V6 => bindings::inet6_ioctl(sock, cmd, arg),
        }
    }
}

// The kernel crate has no fields of the sock of these two.

/// # Safety
///
/// The socket layer calls it, for a live socket.
unsafe extern "C" fn set_peek_off(sk: *mut kernel::bindings::sock, value: c_int) -> c_int {
    // SAFETY: By the contract.
    unsafe { bindings::sk_set_peek_off(sk.cast(), value) }
}

/// # Safety
///
/// The socket layer calls it, with the socket locked.
unsafe extern "C" fn set_rcvlowat<P: Protocol>(
    sk: *mut kernel::bindings::sock,
    value: c_int,
) -> c_int {
    // SAFETY: A live socket of protocol `P`.
    let sk = unsafe { &*sk.cast::<Sock<P>>() };
    sk.set_recv_low_water(value);
    P::low_water_set(sk);
    0
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn listen<P: Protocol>(sock: *mut bindings::socket, backlog: c_int) -> c_int {
    // SAFETY: As said above.
    from_result(|| P::listen(unsafe { sk::<P>(sock) }, backlog).map(|()| 0))
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn shutdown<P: Protocol>(sock: *mut bindings::socket, how: c_int) -> c_int {
    from_result(|| {
        let (read, write) = match how {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            _ => return Err(EINVAL),
        };
        // SAFETY: As said above.
        P::shutdown(unsafe { sk::<P>(sock) }, read, write).map(|()| 0)
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn setsockopt<P: Protocol>(
    sock: *mut bindings::socket,
    level: c_int,
    name: c_int,
    value: bindings::sockptr_t,
    len: c_uint,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let (sk, option) = unsafe { (sk::<P>(sock), OptionValue::new(value, len)) };
        match level {
            SOL_SOCKET => {
                if !sk.set_socket_option(name, option)? {
                    // SAFETY: As said above.
                    let set = unsafe { bindings::sock_setsockopt(sock, level, name, value, len) };
                    // The kernel attaches some programs to sockets of TCP and UDP only, and says so
                    // by an error that is none of a program's.
                    return Ok(match set == ENOTSUPP.to_errno() {
                        true if name == bindings::SO_ATTACH_REUSEPORT_EBPF as c_int => {
                            EOPNOTSUPP.to_errno()
                        }
                        _ => set,
                    });
                }
            }
            SOL_IP => {
                inet::check_option(sk, name, option)?;
                // SAFETY: The socket is live, and begins with an `inet_sock`.
                return Ok(unsafe {
                    bindings::ip_setsockopt(sk.as_ptr(), level, name, value, len)
                });
            }
            IPPROTO_TCP => P::set_option(sk, name, option)?,
            IPPROTO_IPV6 if sk.version() == IpVersion::V6 => inet::set_option6(sk, name, option)?,
            _ => return Err(ENOPROTOOPT),
        }
        Ok(0)
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn getsockopt<P: Protocol>(
    sock: *mut bindings::socket,
    level: c_int,
    name: c_int,
    value: *mut c_char,
    len: *mut c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let sk = unsafe { sk::<P>(sock) };
        if level != IPPROTO_TCP {
            inet::find_route(sk, level, name);
            let get = match sk.version() {
                IpVersion::V4 => bindings::ip_getsockopt,
                IpVersion::V6 => bindings::ipv6_getsockopt,
            };
            // SAFETY: The socket is live, and begins with an `inet_sock`, which has what is IPv6's.
            return Ok(unsafe { get(sk.as_ptr(), level, name, value, len) });
        }
        let room = OptionRoom::new(
            UserPtr::from_ptr(value.cast()),
            UserPtr::from_ptr(len.cast()),
        )?;
        P::option(sk, name, room)?;
        Ok(0)
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn sendmsg<P: Protocol>(
    sock: *mut bindings::socket,
    msg: *mut bindings::msghdr,
    _len: usize,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let n = unsafe { P::sendmsg(sk(sock), SendMsg::from_ptr(msg)) }?;
        // The socket layer bounds a call to MAX_RW_COUNT, which an int holds.
        Ok(c_int::try_from(n).unwrap_or(c_int::MAX))
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn recvmsg<P: Protocol>(
    sock: *mut bindings::socket,
    msg: *mut bindings::msghdr,
    _len: usize,
    flags: c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let n = unsafe { P::recvmsg(sk(sock), RecvMsg::from_ptr(msg, flags as u32)) }?;
        Ok(c_int::try_from(n).unwrap_or(c_int::MAX))
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn splice_read<P: Protocol>(
    sock: *mut bindings::socket,
    at: *mut bindings::loff_t,
    pipe: *mut bindings::pipe_inode_info,
    len: usize,
    _flags: c_uint,
) -> isize {
    from_result(|| {
        // SAFETY: As said above.
        if unsafe { *at } != 0 {
            return Err(ESPIPE);
        }
        // SAFETY: As said above; the call came by the socket's file. Its own flag alone tells
        // whether to wait for data: that of the call is about the pipe.
        let nonblock = unsafe { (*(*sock).file).f_flags } & bindings::O_NONBLOCK != 0;
        // SAFETY: As said above; whoever calls keeps the pipe locked, or knows it alone.
        let mut pipe = unsafe { Pipe::from_ptr(pipe) }?;
        // SAFETY: As said above.
        let n = P::splice_read(unsafe { sk(sock) }, &mut pipe, len, nonblock)?;
        Ok(isize::try_from(n).unwrap_or(isize::MAX))
    })
}

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn splice_eof<P: Protocol>(sock: *mut bindings::socket) {
    // SAFETY: As said above.
    P::splice_eof(unsafe { sk(sock) });
}
