// SPDX-License-Identifier: GPL-2.0

//! Stream sockets as the system calls have them: every call, every flag, every error.

use crate::errno::{
    Errno,
    Result, //
};
use libc::{
    c_int,
    c_void,
    socklen_t, //
};
use std::{
    fmt,
    marker::PhantomData,
    mem,
    net::{
        Ipv4Addr,
        Ipv6Addr,
        SocketAddrV4,
        SocketAddrV6, //
    },
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    },
    ptr,
    time::{
        Duration,
        Instant, //
    },
};

/// `AF_INET_SDP`.
pub const AF_INET_SDP: c_int = 27;

/// `AF_INET6_SDP`.
pub const AF_INET6_SDP: c_int = 28;

/// `SO_TIMESTAMPING` with times of 64 bits.
pub const SO_TIMESTAMPING_NEW: c_int = 65;

/// The IPv6 address that stands for `ip` where the tests run over IPv6: `fd00:27::n` for
/// `10.27.0.n` of their network.
pub fn v6_for(ip: Ipv4Addr) -> Ipv6Addr {
    match (ip, ip.octets()) {
        (Ipv4Addr::UNSPECIFIED, _) => Ipv6Addr::UNSPECIFIED,
        (Ipv4Addr::LOCALHOST, _) => Ipv6Addr::LOCALHOST,
        (_, [10, 27, 0, host]) => Ipv6Addr::new(0xfd00, 0x27, 0, 0, 0, 0, 0, host.into()),
        (_, [a, b, c, d]) => {
            let [high, low] = [[a, b], [c, d]].map(u16::from_be_bytes);
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low)
        }
    }
}

/// The IPv4 address that `ip` stands for.
fn v4_for(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    match ip {
        Ipv6Addr::UNSPECIFIED => Ipv4Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST => Ipv4Addr::LOCALHOST,
        _ if ip.segments()[0] == 0xfd00 => Ipv4Addr::new(10, 27, 0, d),
        _ => Ipv4Addr::new(a, b, c, d),
    }
}

/// A socket address of any family and any length, right or wrong.
#[derive(Clone, Copy)]
pub struct Addr {
    storage: libc::sockaddr_storage,
    len: socklen_t,
}

impl Addr {
    /// A `struct sockaddr_in` whose family says `family`.
    pub fn v4(family: c_int, addr: SocketAddrV4) -> Self {
        Self::from_value(libc::sockaddr_in {
            sin_family: family as libc::sa_family_t,
            sin_port: addr.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(*addr.ip()).to_be(),
            },
            sin_zero: [0; 8],
        })
    }

    /// A `struct sockaddr_in6`.
    pub fn v6(ip: Ipv6Addr, port: u16) -> Self {
        Self::from_value(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: ip.octets(),
            },
            sin6_scope_id: 0,
        })
    }

    /// The same with another scope.
    pub fn with_scope(self, scope: u32) -> Self {
        Self::from_value(libc::sockaddr_in6 {
            sin6_scope_id: scope,
            ..self.in6()
        })
    }

    /// The same with another family.
    pub fn with_family(mut self, family: c_int) -> Self {
        self.storage.ss_family = family as libc::sa_family_t;
        self
    }

    fn in6(&self) -> libc::sockaddr_in6 {
        // SAFETY: `sockaddr_storage` is larger than `sockaddr_in6`, aligned for it, and any bytes
        // are valid.
        unsafe {
            ptr::from_ref(&self.storage)
                .cast::<libc::sockaddr_in6>()
                .read()
        }
    }

    /// What a `struct sockaddr_in6` says, whatever its family.
    pub fn to_v6(&self) -> SocketAddrV6 {
        let sin6 = self.in6();
        SocketAddrV6::new(
            Ipv6Addr::from(sin6.sin6_addr.s6_addr),
            u16::from_be(sin6.sin6_port),
            sin6.sin6_flowinfo,
            sin6.sin6_scope_id,
        )
    }

    fn from_value<T: Copy>(value: T) -> Self {
        const {
            assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>());
        }
        // SAFETY: All-zero bytes are a valid `sockaddr_storage`.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: `storage` is as large as any `sockaddr` and aligned for all of them.
        unsafe { ptr::from_mut(&mut storage).cast::<T>().write(value) };
        Self {
            storage,
            len: mem::size_of::<T>() as socklen_t,
        }
    }

    /// The same bytes, said to be `len` long.
    pub fn with_len(self, len: usize) -> Self {
        assert!(len <= mem::size_of::<libc::sockaddr_storage>());
        Self {
            len: len as socklen_t,
            ..self
        }
    }

    /// The address family.
    pub fn family(&self) -> c_int {
        c_int::from(self.storage.ss_family)
    }

    /// Its length as the kernel gave it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the kernel gave no address at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What a `struct sockaddr_in` says; of one of IPv6, the address that it [stands for](v6_for).
    pub fn to_v4(&self) -> SocketAddrV4 {
        if self.family() == libc::AF_INET6 {
            let addr = self.to_v6();
            return SocketAddrV4::new(v4_for(*addr.ip()), addr.port());
        }
        // SAFETY: `sockaddr_storage` is larger than `sockaddr_in`, aligned for it, and any bytes
        // are valid.
        let sin: libc::sockaddr_in = unsafe {
            ptr::from_ref(&self.storage)
                .cast::<libc::sockaddr_in>()
                .read()
        };
        SocketAddrV4::new(
            Ipv4Addr::from(u32::from_be(sin.sin_addr.s_addr)),
            u16::from_be(sin.sin_port),
        )
    }

    /// For calls that this crate has not; it is as long as its family says.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        ptr::from_ref(&self.storage).cast()
    }

    /// Calls `f` with room for an address, and gives the address that it left there.
    fn receive(
        f: impl FnOnce(*mut libc::sockaddr, *mut socklen_t) -> c_int,
    ) -> Result<(c_int, Self)> {
        let mut addr = Self {
            // SAFETY: All-zero bytes are a valid `sockaddr_storage`.
            storage: unsafe { mem::zeroed() },
            len: mem::size_of::<libc::sockaddr_storage>() as socklen_t,
        };
        let ret = f(ptr::from_mut(&mut addr.storage).cast(), &mut addr.len);
        Errno::check(ret).map(|ret| (ret, addr))
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "family {} {} length {}",
            self.family(),
            self.to_v4(),
            self.len
        )
    }
}

/// The side of a connection that `shutdown()` closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

/// One piece of memory of a `sendmsg()` or `recvmsg()`, valid or not.
#[repr(transparent)]
pub struct Piece<'a>(libc::iovec, PhantomData<&'a mut [u8]>);

impl<'a> Piece<'a> {
    fn new(base: *mut u8, len: usize) -> Self {
        Self(
            libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            },
            PhantomData,
        )
    }

    /// Bytes to send.
    pub fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Room to receive into.
    fn into(room: &'a mut [u8]) -> Self {
        Self::new(room.as_mut_ptr(), room.len())
    }

    /// What is at an address, for sending alone: whether memory is there the kernel finds out.
    pub fn at(start: *const u8, len: usize) -> Self {
        Self::new(start.cast_mut(), len)
    }

    /// An address where no memory is.
    pub fn nowhere(len: usize) -> Self {
        Self::new(ptr::without_provenance_mut(8), len)
    }
}

fn message(pieces: &mut [Piece<'_>]) -> libc::msghdr {
    // SAFETY: All-zero bytes are a valid `msghdr`: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr().cast();
    message.msg_iovlen = pieces.len();
    message
}

/// What came on the error queue: a `struct sock_extended_err`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `ee_errno`.
    pub errno: u32,
    /// `ee_origin`.
    pub origin: u8,
    /// `ee_code`.
    pub code: u8,
    /// `ee_info` and `ee_data`.
    pub range: (u32, u32),
}

/// A socket, closed when dropped.
#[derive(Debug)]
pub struct Sock(OwnedFd);

impl From<OwnedFd> for Sock {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsRawFd for Sock {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Sock {
    /// `socket()`.
    pub fn new(family: c_int, kind: c_int, protocol: c_int) -> Result<Self> {
        // SAFETY: `socket()` takes no memory.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
        Errno::check(fd).map(Self::adopt)
    }

    fn adopt(fd: c_int) -> Self {
        // SAFETY: The kernel just gave us this descriptor, and nobody else knows it.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The descriptor, for calls that this type has not.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// `dup()`.
    pub fn dup(&self) -> Result<Self> {
        // SAFETY: `dup()` takes no memory.
        Ok(Self::adopt(Errno::check(unsafe { libc::dup(self.fd()) })?))
    }

    /// `bind()`.
    pub fn bind(&self, addr: &Addr) -> Result<()> {
        // SAFETY: `addr` is a buffer of at least `addr.len` bytes.
        Errno::check(unsafe { libc::bind(self.fd(), addr.as_ptr(), addr.len) }).map(drop)
    }

    /// `connect()`.
    pub fn connect(&self, addr: &Addr) -> Result<()> {
        // SAFETY: `addr` is a buffer of at least `addr.len` bytes.
        Errno::check(unsafe { libc::connect(self.fd(), addr.as_ptr(), addr.len) }).map(drop)
    }

    /// `listen()`.
    pub fn listen(&self, backlog: c_int) -> Result<()> {
        // SAFETY: `listen()` takes no memory.
        Errno::check(unsafe { libc::listen(self.fd(), backlog) }).map(drop)
    }

    /// `accept4()`.
    pub fn accept_from(&self, flags: c_int) -> Result<(Self, Addr)> {
        // SAFETY: `Addr::receive` hands room for any address, and its size.
        Addr::receive(|addr, len| unsafe { libc::accept4(self.fd(), addr, len, flags) })
            .map(|(fd, addr)| (Self::adopt(fd), addr))
    }

    /// `accept()`, without the address.
    pub fn accept(&self) -> Result<Self> {
        self.accept_from(libc::SOCK_CLOEXEC).map(|(sock, _)| sock)
    }

    /// `getsockname()`.
    pub fn name(&self) -> Result<Addr> {
        // SAFETY: `Addr::receive` hands room for any address, and its size.
        Addr::receive(|addr, len| unsafe { libc::getsockname(self.fd(), addr, len) })
            .map(|(_, addr)| addr)
    }

    /// `getpeername()`.
    pub fn peer(&self) -> Result<Addr> {
        // SAFETY: `Addr::receive` hands room for any address, and its size.
        Addr::receive(|addr, len| unsafe { libc::getpeername(self.fd(), addr, len) })
            .map(|(_, addr)| addr)
    }

    /// `shutdown()`.
    pub fn shutdown(&self, how: Shut) -> Result<()> {
        let how = match how {
            Shut::Read => libc::SHUT_RD,
            Shut::Write => libc::SHUT_WR,
            Shut::Both => libc::SHUT_RDWR,
        };
        // SAFETY: `shutdown()` takes no memory.
        Errno::check(unsafe { libc::shutdown(self.fd(), how) }).map(drop)
    }

    /// `send()`.
    pub fn send(&self, bytes: &[u8], flags: c_int) -> Result<usize> {
        // SAFETY: The kernel only reads `bytes`.
        Errno::check_len(unsafe {
            libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), flags)
        })
    }

    /// `recv()`.
    pub fn recv(&self, room: &mut [u8], flags: c_int) -> Result<usize> {
        // SAFETY: The kernel writes at most `room.len()` bytes to `room`.
        Errno::check_len(unsafe {
            libc::recv(self.fd(), room.as_mut_ptr().cast(), room.len(), flags)
        })
    }

    /// `sendmsg()`.
    pub fn sendmsg(&self, pieces: &mut [Piece<'_>], flags: c_int) -> Result<usize> {
        let message = message(pieces);
        // SAFETY: Each piece is memory to read, or memory that the kernel will find to be
        // unreadable.
        Errno::check_len(unsafe { libc::sendmsg(self.fd(), &message, flags) })
    }

    /// `sendmsg()` of `bytes`, with control bytes.
    pub fn send_with_control(
        &self,
        bytes: &[u8],
        control: &mut [u8],
        flags: c_int,
    ) -> Result<usize> {
        let mut piece = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: All-zero bytes are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len();
        // SAFETY: The piece is memory to read, and so is the control buffer.
        Errno::check_len(unsafe { libc::sendmsg(self.fd(), &message, flags) })
    }

    /// `recvmsg()`: the length and the message's flags.
    ///
    /// # Safety
    ///
    /// Each piece must be of [`Piece::into`] or [`Piece::nowhere`].
    unsafe fn recvmsg(&self, pieces: &mut [Piece<'_>], flags: c_int) -> Result<(usize, c_int)> {
        let mut message = message(pieces);
        // SAFETY: By the contract above, the kernel may write to each piece.
        Errno::check_len(unsafe { libc::recvmsg(self.fd(), &mut message, flags) })
            .map(|len| (len, message.msg_flags))
    }

    /// `recvmsg()` into several buffers.
    pub fn recv_vectored(&self, room: &mut [&mut [u8]], flags: c_int) -> Result<(usize, c_int)> {
        let mut pieces: Vec<_> = room.iter_mut().map(|room| Piece::into(room)).collect();
        // SAFETY: Each piece is of `Piece::into`.
        unsafe { self.recvmsg(&mut pieces, flags) }
    }

    /// `recvmsg()` into `room` followed by an address where no memory is.
    pub fn recv_with_fault(&self, room: &mut [u8], beyond: usize) -> Result<usize> {
        let mut pieces = [Piece::into(room), Piece::nowhere(beyond)];
        // SAFETY: The pieces are of `Piece::into` and `Piece::nowhere`.
        unsafe { self.recvmsg(&mut pieces, 0) }.map(|(len, _)| len)
    }

    /// `recv()` to an address, of whatever memory.
    ///
    /// # Safety
    ///
    /// Where memory is that can be written, nothing else may use it over the call.
    pub unsafe fn recv_at(&self, start: *mut u8, len: usize, flags: c_int) -> Result<usize> {
        // SAFETY: By the contract above; where no such memory is the kernel says so.
        Errno::check_len(unsafe { libc::recv(self.fd(), start.cast(), len, flags) })
    }

    /// What is next on the error queue. `EAGAIN` where there is nothing.
    pub fn notice(&self) -> Result<Notice> {
        /// Room for a few control messages.
        #[repr(C, align(8))]
        struct Control([u8; 256]);
        let mut control = Control([0; 256]);
        let mut message = message(&mut []);
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: The message has no pieces, and its control buffer outlives the call.
        Errno::check_len(unsafe {
            libc::recvmsg(
                self.fd(),
                &mut message,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        })?;
        // SAFETY: The kernel left whole control messages in the buffer, whose length it told.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
        while let Some(time) = header.filter(|header| header.cmsg_level == libc::SOL_SOCKET) {
            // SAFETY: As above.
            header = unsafe { libc::CMSG_NXTHDR(&message, time).as_ref() };
        }
        let header = header.expect("the error queue gives a control message");
        let kind = (header.cmsg_level, header.cmsg_type);
        assert!(
            kind == (libc::SOL_IP, libc::IP_RECVERR)
                || kind == (libc::SOL_IPV6, libc::IPV6_RECVERR),
            "the kind of control message: {kind:?}"
        );
        assert_ne!(message.msg_flags & libc::MSG_ERRQUEUE, 0, "MSG_ERRQUEUE");
        // SAFETY: A control message of that kind starts with a `sock_extended_err`.
        let error = unsafe {
            libc::CMSG_DATA(header)
                .cast::<libc::sock_extended_err>()
                .read_unaligned()
        };
        Ok(Notice {
            errno: error.ee_errno,
            origin: error.ee_origin,
            code: error.ee_code,
            range: (error.ee_info, error.ee_data),
        })
    }

    /// `sendmmsg()` of one buffer a message: the lengths that were sent.
    pub fn sendmmsg(&self, messages: &[&[u8]]) -> Result<Vec<usize>> {
        let mut pieces: Vec<_> = messages.iter().map(|bytes| [Piece::from(bytes)]).collect();
        let mut headers: Vec<_> = pieces
            .iter_mut()
            .map(|piece| libc::mmsghdr {
                msg_hdr: message(piece),
                msg_len: 0,
            })
            .collect();
        // SAFETY: The headers name `pieces`, and those name `messages`; all outlive the call.
        let sent = Errno::check(unsafe {
            libc::sendmmsg(self.fd(), headers.as_mut_ptr(), headers.len() as u32, 0)
        })?;
        Ok(headers[..sent as usize]
            .iter()
            .map(|header| header.msg_len as usize)
            .collect())
    }

    /// `recvmmsg()` into one buffer a message: the lengths that were received.
    pub fn recvmmsg(&self, room: &mut [&mut [u8]], flags: c_int) -> Result<Vec<usize>> {
        let mut pieces: Vec<_> = room.iter_mut().map(|room| [Piece::into(room)]).collect();
        let mut headers: Vec<_> = pieces
            .iter_mut()
            .map(|piece| libc::mmsghdr {
                msg_hdr: message(piece),
                msg_len: 0,
            })
            .collect();
        // SAFETY: The headers name `pieces`, and those name `room`, borrowed mutably over the call.
        let got = Errno::check(unsafe {
            libc::recvmmsg(
                self.fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                flags,
                ptr::null_mut(),
            )
        })?;
        Ok(headers[..got as usize]
            .iter()
            .map(|header| header.msg_len as usize)
            .collect())
    }

    /// Sends all of `bytes`, however many calls it takes.
    pub fn send_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(bytes, libc::MSG_NOSIGNAL)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Receives until `room` is full or the peer has ended: the length.
    pub fn recv_all(&self, room: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < room.len() {
            match self.recv(&mut room[got..], 0)? {
                0 => break,
                len => got += len,
            }
        }
        Ok(got)
    }

    /// Receives exactly `len` bytes, or fewer where the peer ends.
    pub fn recv_bytes(&self, len: usize) -> Result<Vec<u8>> {
        let mut room = vec![0; len];
        let got = self.recv_all(&mut room)?;
        room.truncate(got);
        Ok(room)
    }

    /// Receives until the peer ends.
    pub fn recv_to_end(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut room = vec![0; 64 << 10];
        loop {
            match self.recv(&mut room, 0)? {
                0 => return Ok(all),
                len => all.extend_from_slice(&room[..len]),
            }
        }
    }

    /// `setsockopt()`. `T` must be the plain C structure of that option.
    pub fn set<T: Copy>(&self, level: c_int, option: c_int, value: T) -> Result<()> {
        // SAFETY: The kernel reads `size_of::<T>()` bytes at `value`.
        Errno::check(unsafe {
            libc::setsockopt(
                self.fd(),
                level,
                option,
                ptr::from_ref(&value).cast::<c_void>(),
                mem::size_of::<T>() as socklen_t,
            )
        })
        .map(drop)
    }

    /// `getsockopt()` into `room`: how many bytes it gave.
    pub fn get_bytes(&self, level: c_int, option: c_int, room: &mut [u8]) -> Result<usize> {
        let mut len = room.len() as socklen_t;
        let value = room.as_mut_ptr().cast();
        // SAFETY: The kernel writes at most `len` bytes to `room`.
        Errno::check(unsafe { libc::getsockopt(self.fd(), level, option, value, &mut len) })
            .map(|_| len as usize)
    }

    /// `SO_COOKIE`.
    pub fn cookie(&self) -> Result<u64> {
        let mut cookie = [0; 8];
        self.get_bytes(libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie)
            .map(|_| u64::from_ne_bytes(cookie))
    }

    /// `getsockopt()` of an integer.
    pub fn get(&self, level: c_int, option: c_int) -> Result<c_int> {
        let mut value = [0; 4];
        self.get_bytes(level, option, &mut value)
            .map(|_| c_int::from_ne_bytes(value))
    }

    /// The bytes that it is charged for what the kernel holds of it, of `SO_MEMINFO`.
    pub fn charged(&self) -> Result<u32> {
        // SK_MEMINFO_FWD_ALLOC is the last of these.
        let mut values = [[0; 4]; 5];
        let room = values.as_flattened_mut();
        self.get_bytes(libc::SOL_SOCKET, libc::SO_MEMINFO, room)?;
        Ok(u32::from_ne_bytes(values[4]))
    }

    /// `getsockopt(SO_LINGER)`: whether it is on, and its seconds.
    pub fn linger(&self) -> Result<(c_int, c_int)> {
        let mut values = [[0; 4]; 2];
        let room = values.as_flattened_mut();
        self.get_bytes(libc::SOL_SOCKET, libc::SO_LINGER, room)?;
        let [on, seconds] = values.map(c_int::from_ne_bytes);
        Ok((on, seconds))
    }

    /// `SO_LINGER` on, with its seconds.
    pub fn set_linger(&self, seconds: c_int) -> Result<()> {
        let value = libc::linger {
            l_onoff: 1,
            l_linger: seconds,
        };
        self.set(libc::SOL_SOCKET, libc::SO_LINGER, value)
    }

    /// `SO_RCVTIMEO` or `SO_SNDTIMEO`.
    pub fn set_timeout(&self, option: c_int, timeout: Duration) -> Result<()> {
        let value = libc::timeval {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(timeout.subsec_micros()),
        };
        self.set(libc::SOL_SOCKET, option, value)
    }

    /// Reads `SO_ERROR`, which clears it.
    pub fn error(&self) -> Result<()> {
        match self.get(libc::SOL_SOCKET, libc::SO_ERROR)? {
            0 => Ok(()),
            error => Err(Errno(error)),
        }
    }

    /// Sets or clears `O_NONBLOCK`.
    pub fn set_nonblocking(&self, on: bool) -> Result<()> {
        // SAFETY: `F_GETFL` and `F_SETFL` take no memory.
        let flags = Errno::check(unsafe { libc::fcntl(self.fd(), libc::F_GETFL) })?;
        let flags = if on {
            flags | libc::O_NONBLOCK
        } else {
            flags & !libc::O_NONBLOCK
        };
        // SAFETY: As above.
        Errno::check(unsafe { libc::fcntl(self.fd(), libc::F_SETFL, flags) }).map(drop)
    }

    /// `poll()` for `events`: what it returned, or 0 after `timeout`.
    pub fn poll(&self, events: i16, timeout: Duration) -> Result<i16> {
        let mut poll = libc::pollfd {
            fd: self.fd(),
            events,
            revents: 0,
        };
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up, so that the wait is never shorter than asked for.
            let left = left.as_millis() as c_int + c_int::from(left.subsec_micros() % 1000 != 0);
            // SAFETY: `poll` is one `pollfd`.
            match Errno::check(unsafe { libc::poll(&mut poll, 1, left) }) {
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e),
                Ok(_) => return Ok(poll.revents),
            }
        }
    }

    /// An `ioctl()` that gives an integer.
    pub fn ioctl(&self, request: libc::c_ulong) -> Result<c_int> {
        let mut value: c_int = 0;
        // SAFETY: The requests that this is called with write one `int`.
        Errno::check(unsafe { libc::ioctl(self.fd(), request, &mut value) }).map(|_| value)
    }
}
