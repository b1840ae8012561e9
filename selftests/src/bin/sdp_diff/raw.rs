// SPDX-License-Identifier: GPL-2.0

//! System calls with any argument, right or wrong.

use crate::{
    record::Hex,
    sides::MOMENT, //
};
use libc::{
    c_int,
    c_void,
    socklen_t, //
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::Sock, //
};
use std::{
    mem,
    ptr,
    sync::atomic::{
        AtomicI32,
        AtomicU64,
        Ordering, //
    },
    thread::sleep, //
};

/// An address where no memory is.
const NOWHERE: *mut c_void = ptr::without_provenance_mut(8);

/// How an argument points at memory.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Memory,
    Null,
    Nowhere,
}

impl At {
    fn pointer(self, memory: *mut c_void) -> *mut c_void {
        match self {
            At::Memory => memory,
            At::Null => ptr::null_mut(),
            At::Nowhere => NOWHERE,
        }
    }
}

/// `setsockopt()` of the first `len` bytes of `value`.
pub(crate) fn set(
    sock: &Sock,
    level: c_int,
    name: c_int,
    at: At,
    value: &[u8],
    len: c_int,
) -> Result<()> {
    assert!(matches!(at, At::Null | At::Nowhere) || len <= value.len() as c_int);
    let pointer = at.pointer(value.as_ptr().cast_mut().cast());
    // SAFETY: The kernel reads at most `len` bytes at `value`, or finds no memory.
    Errno::check(unsafe { libc::setsockopt(sock.fd(), level, name, pointer, len as socklen_t) })
        .map(drop)
}

/// `getsockopt()` with room for `len` bytes: the length that it gave, and the bytes that it
/// changed.
pub(crate) fn get(
    sock: &Sock,
    level: c_int,
    name: c_int,
    at: [At; 2],
    len: c_int,
) -> Result<(c_int, Hex)> {
    const FILL: u8 = 0xa5;
    let mut room = [FILL; 512];
    assert!(len <= room.len() as c_int);
    let mut len = len;
    let value = at[0].pointer(room.as_mut_ptr().cast());
    let length = at[1].pointer(ptr::from_mut(&mut len).cast());
    // SAFETY: The kernel writes at most `len` bytes to `room`, and an `int` to `len`, or finds no
    // memory.
    Errno::check(unsafe { libc::getsockopt(sock.fd(), level, name, value, length.cast()) })?;
    let changed = room.iter().rposition(|byte| *byte != FILL);
    Ok((
        len,
        Hex(room[..changed.map_or(0, |last| last + 1)].to_vec()),
    ))
}

/// `ioctl()` on `memory`, or on something else.
pub(crate) fn ioctl(sock: &Sock, request: u32, at: At, memory: &mut [u8; 64]) -> Result<c_int> {
    let pointer = at.pointer(memory.as_mut_ptr().cast());
    // SAFETY: The requests that this is called with read and write at most a `struct ifreq` of 40
    // bytes, or find no memory.
    Errno::check(unsafe { libc::ioctl(sock.fd(), request.into(), pointer) })
}

/// What a control message of a call has: level, type, and payload.
pub(crate) type Control = (c_int, c_int, Hex);

/// What `recvmsg()` gave.
#[derive(Debug)]
#[allow(dead_code, reason = "what it has is printed")]
pub(crate) struct Received {
    pub(crate) bytes: Hex,
    pub(crate) len: usize,
    pub(crate) flags: c_int,
    pub(crate) name_len: socklen_t,
    pub(crate) control: Vec<Control>,
}

/// `recvmsg()` into `room` bytes, with room for an address, and for control messages.
pub(crate) fn receive(
    sock: &Sock,
    room: usize,
    control_room: usize,
    flags: c_int,
) -> Result<Received> {
    #[repr(C, align(8))]
    struct Room([u8; 512]);
    let mut bytes = vec![0u8; room];
    let mut name = [0u8; 128];
    let mut control = Room([0; 512]);
    let mut piece = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: room,
    };
    // SAFETY: All-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut piece;
    message.msg_iovlen = 1;
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = name.len() as socklen_t;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control_room.min(control.0.len());
    // SAFETY: The piece, the name and the control buffer are memory of ours to write.
    let len = Errno::check_len(unsafe { libc::recvmsg(sock.fd(), &mut message, flags) })?;
    let mut found = Vec::new();
    // SAFETY: The kernel left whole control messages in the buffer, whose length it told.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: As above; NULL is none.
    while let Some(control) = unsafe { header.as_ref() } {
        // SAFETY: As above.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: `CMSG_LEN(0)` is the length of a header.
        let size = control.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
        // SAFETY: The payload is within the buffer.
        let payload = unsafe { std::slice::from_raw_parts(data, size) }.to_vec();
        found.push((control.cmsg_level, control.cmsg_type, Hex(payload)));
        // SAFETY: As above.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    bytes.truncate(len.min(room));
    Ok(Received {
        bytes: Hex(bytes),
        len,
        flags: message.msg_flags,
        name_len: message.msg_namelen,
        control: found,
    })
}

/// One bit for each signal that came.
static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: c_int) {
    CAME.fetch_or(1 << signal, Ordering::Relaxed);
}

/// What the queued signals of sockets told first, and all that they told: one bit for each `POLL_*`
/// that is a `si_code`.
static FIRST: AtomicI32 = AtomicI32::new(0);
static TOLD: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_queued(_signal: c_int, info: *const libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: The kernel gives the handler a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    let _ = FIRST.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    TOLD.fetch_or(1u64.wrapping_shl(code as u32), Ordering::Relaxed);
}

/// Has `sock` tell this process what happens, from now on, by signals that queue.
pub(crate) fn arm(sock: &Sock) -> [Result<c_int>; 3] {
    const F_SETSIG: c_int = 10;
    // SAFETY: `getpid()` takes nothing.
    let owner = fcntl(sock, libc::F_SETOWN, unsafe { libc::getpid() });
    let signal = fcntl(sock, F_SETSIG, libc::SIGRTMIN());
    let flags = fcntl(sock, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    [owner, signal, flags]
}

/// What they told since the last call: first, and in all.
pub(crate) fn told() -> (&'static str, Vec<&'static str>) {
    const CODES: [&str; 7] = ["none", "IN", "OUT", "MSG", "ERR", "PRI", "HUP"];
    let first = FIRST.swap(0, Ordering::Relaxed);
    let told = TOLD.swap(0, Ordering::Relaxed);
    let name = |code: usize| CODES.get(code).copied().unwrap_or("other");
    let all = (0..64).filter(|code| told & (1 << code) != 0);
    (name(first as usize), all.map(name).collect())
}

/// Has the signals of sockets noted, and end nothing.
pub(crate) fn ignore_signals() {
    // SAFETY: All-zero bytes are a valid `sigaction`, and the handler only touches atomics.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        let handler: extern "C" fn(c_int, *const libc::siginfo_t, *mut c_void) = note_queued;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGRTMIN(), &action, ptr::null_mut());
    }
    for signal in [libc::SIGPIPE, libc::SIGIO, libc::SIGURG] {
        let handler: extern "C" fn(c_int) = note;
        // SAFETY: The handler only touches an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// The signals that came since the last call, by name.
pub(crate) fn signals() -> Vec<&'static str> {
    let came = CAME.swap(0, Ordering::Relaxed);
    [
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGURG, "SIGURG"),
    ]
    .into_iter()
    .filter(|(signal, _)| came & (1 << signal) != 0)
    .map(|(_, name)| name)
    .collect()
}

/// Forgets the signals that came, and what they told, once those on their way have come.
pub(crate) fn forget_signals() {
    sleep(MOMENT);
    let _ = (signals(), told());
}

/// `fcntl()` with an integer.
pub(crate) fn fcntl(sock: &Sock, command: c_int, value: c_int) -> Result<c_int> {
    // SAFETY: The commands that this is called with take an integer.
    Errno::check(unsafe { libc::fcntl(sock.fd(), command, value) })
}
