// SPDX-License-Identifier: GPL-2.0

//! `proto_ops`: the calls of the socket layer as a trait.

use crate::{
    bindings,
    net::{
        family::Family,
        msg::{
            RecvMsg,
            SendMsg, //
        },
        namespace::Net,
        option::OptionRoom,
        pipe::Pipe,
        sock::Sock,
        sockaddr::SockAddr, //
    },
    prelude::*, //
};
use core::ptr::null_mut;
use kernel::{
    error::from_result,
    sync::aref::ARef,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// A stream protocol: what each call on one of its sockets does.
///
/// Unless said otherwise a method runs in the context of the calling task, without locks, and may
/// sleep.
pub(crate) trait Protocol: Sized + 'static {
    /// The state of a socket, which `lock_sock()` guards.
    type Locked: Send;

    /// The address family of its sockets.
    const FAMILY: c_int;

    /// The static that [`Family`] is registered from.
    fn family() -> &'static Family<Self>;

    /// The state of a new socket. `net` is where it was made.
    fn new(net: &Net) -> Self::Locked;

    /// The file is closed: the last call of a socket.
    fn release(sk: &Sock<Self>);

    /// `bind(2)`.
    fn bind(sk: &Sock<Self>, addr: SockAddr<'_>) -> Result;

    /// `connect(2)`.
    fn connect(sk: &Sock<Self>, addr: SockAddr<'_>, nonblock: bool) -> Result;

    /// `listen(2)`.
    fn listen(sk: &Sock<Self>, backlog: c_int) -> Result;

    /// `accept(2)`: a connected socket that has no file yet.
    fn accept(sk: &Sock<Self>, nonblock: bool) -> Result<ARef<Sock<Self>>>;

    /// The `EPOLL*` events that are now.
    fn poll(sk: &Sock<Self>) -> u32;

    /// An `ioctl(2)` that stores an `int` for the caller; `ENOIOCTLCMD` where it is not ours.
    fn ioctl(sk: &Sock<Self>, cmd: u32) -> Result<c_int>;

    /// `shutdown(2)`; `read` and `write` are not both false.
    fn shutdown(sk: &Sock<Self>, read: bool, write: bool) -> Result;

    /// `setsockopt(2)` of an option whose value is an `int`, at a level other than `SOL_SOCKET`.
    fn set_option(sk: &Sock<Self>, level: c_int, name: c_int, value: c_int) -> Result;

    /// `getsockopt(2)` at a level other than `SOL_SOCKET`; the value goes to `to`.
    fn option(sk: &Sock<Self>, level: c_int, name: c_int, to: OptionRoom) -> Result;

    /// `sendmsg(2)`: how many bytes were taken.
    fn sendmsg(sk: &Sock<Self>, msg: SendMsg<'_>) -> Result<usize>;

    /// `recvmsg(2)`: how many bytes were given.
    fn recvmsg(sk: &Sock<Self>, msg: RecvMsg<'_>) -> Result<usize>;

    /// `splice(2)` and `sendfile(2)` out of the socket: how many bytes the pipe was given, 0 at the end of
    /// the stream. Bytes that the pipe did not take stay.
    fn splice_read(
        sk: &Sock<Self>,
        pipe: &mut Pipe<'_>,
        len: usize,
        nonblock: bool,
    ) -> Result<usize>;

    /// What was spliced into the socket with more to come ended early: no more comes.
    fn splice_eof(sk: &Sock<Self>);
}

/// The C table for `P`.
pub(super) const fn proto_ops<P: Protocol>() -> bindings::proto_ops {
    bindings::proto_ops {
        family: P::FAMILY,
        owner: &raw mut bindings::__this_module,
        release: Some(release::<P>),
        bind: Some(bind::<P>),
        connect: Some(connect::<P>),
        socketpair: Some(bindings::sock_no_socketpair),
        accept: Some(accept::<P>),
        getname: Some(bindings::inet_getname),
        poll: Some(poll::<P>),
        ioctl: Some(ioctl::<P>),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(ioctl::<P>),
        gettstamp: Some(bindings::sock_gettstamp),
        listen: Some(listen::<P>),
        shutdown: Some(shutdown::<P>),
        setsockopt: Some(setsockopt::<P>),
        getsockopt: Some(getsockopt::<P>),
        sendmsg: Some(sendmsg::<P>),
        recvmsg: Some(recvmsg::<P>),
        mmap: Some(bindings::sock_no_mmap),
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
unsafe fn sk<'a, P: Protocol>(sock: *mut bindings::socket) -> &'a Sock<P> {
    // SAFETY: By the contract `sk` is a `Sock<P>`, which the socket holds a reference to.
    unsafe { &*(*sock).sk.cast::<Sock<P>>() }
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
        P::release(&sk);
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
        let child = P::accept(unsafe { sk::<P>(sock) }, nonblock)?;
        // SAFETY: The socket layer made `newsock` for this call; it has no sock yet.
        unsafe { child.lock().graft(newsock, child.clone()) };
        Ok(0)
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

/// # Safety
///
/// The socket layer calls it, as said above.
unsafe extern "C" fn ioctl<P: Protocol>(
    sock: *mut bindings::socket,
    cmd: c_uint,
    arg: c_ulong,
) -> c_int {
    from_result(|| {
        // SAFETY: As said above.
        let value = P::ioctl(unsafe { sk::<P>(sock) }, cmd)?;
        let user = UserPtr::from_addr(arg);
        UserSlice::new(user, size_of::<c_int>())
            .writer()
            .write(&value)?;
        Ok(0)
    })
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
    let is_generic = level == bindings::SOL_SOCKET as c_int;
    // Of its own level the socket layer knows all but this one, which it keeps from our family.
    let is_zerocopy = is_generic && name == bindings::SO_ZEROCOPY as c_int;
    if is_generic && !is_zerocopy {
        // SAFETY: As said above.
        return unsafe { bindings::sock_setsockopt(sock, level, name, value, len) };
    }
    from_result(|| {
        if (len as usize) < size_of::<c_int>() {
            return Err(EINVAL);
        }
        let mut int: c_int = 0;
        // SAFETY: `int` has the room; a `sockptr_t` knows whether it is the caller's memory.
        let failed = unsafe {
            bindings::sdp_helper_copy_from_sockptr((&raw mut int).cast(), value, size_of::<c_int>())
        };
        if failed != 0 {
            return Err(EFAULT);
        }
        // SAFETY: As said above.
        let sk = unsafe { sk::<P>(sock) };
        if is_zerocopy {
            let on = match int {
                0 => false,
                1 => true,
                _ => return Err(EINVAL),
            };
            sk.lock().set_zerocopy(on);
            return Ok(0);
        }
        P::set_option(sk, level, name, int).map(|()| 0)
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
        let room = OptionRoom::new(
            UserPtr::from_ptr(value.cast()),
            UserPtr::from_ptr(len.cast()),
        )?;
        // SAFETY: As said above.
        P::option(unsafe { sk::<P>(sock) }, level, name, room)?;
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
        // SAFETY: As said above; the call came by the socket's file. Its own flag alone tells whether to
        // wait for data: that of the call is about the pipe.
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
