// SPDX-License-Identifier: GPL-2.0

//! `sock_diag` as inet's sockets and SDP's speak it: what sockets a network namespace has.

use crate::errno::{
    Errno,
    Result, //
};
use libc::c_int;
use std::{
    fmt,
    mem,
    net::{
        Ipv4Addr,
        Ipv6Addr,
        SocketAddr, //
    },
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    ptr, //
};

/// The states of a socket, as `TCP_*`.
pub mod state {
    /// Their names, from 1 on, as `ss` has them.
    pub const NAMES: [&str; 11] = [
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "UNCONN",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
    ];
    /// `TCP_ESTABLISHED`.
    pub const ESTABLISHED: u8 = 1;
    /// `TCP_SYN_SENT`.
    pub const SYN_SENT: u8 = 2;
    /// `TCP_FIN_WAIT1`.
    pub const FIN_WAIT1: u8 = 4;
    /// `TCP_FIN_WAIT2`.
    pub const FIN_WAIT2: u8 = 5;
    /// `TCP_CLOSE`.
    pub const CLOSE: u8 = 7;
    /// `TCP_CLOSE_WAIT`.
    pub const CLOSE_WAIT: u8 = 8;
    /// `TCP_LISTEN`.
    pub const LISTEN: u8 = 10;
    /// What asks for sockets that are bound and no more, which are shown as `TCP_CLOSE`.
    pub const BOUND_INACTIVE: u8 = 13;

    /// The bit of a state in a request.
    pub const fn bit(state: u8) -> u32 {
        1 << state
    }

    /// All states but that.
    pub const ALL: u32 = 0xfff;
}

/// `INET_DIAG_MEMINFO`.
pub const MEMINFO: u16 = 1;
/// `INET_DIAG_INFO`.
pub const INFO: u16 = 2;
/// `INET_DIAG_CONG`.
pub const CONG: u16 = 4;
/// `INET_DIAG_TOS`.
pub const TOS: u16 = 5;
/// `INET_DIAG_SKMEMINFO`.
pub const SKMEMINFO: u16 = 7;
/// `INET_DIAG_SHUTDOWN`.
pub const SHUTDOWN: u16 = 8;
/// `INET_DIAG_MARK`.
pub const MARK: u16 = 15;
/// `INET_DIAG_CGROUP_ID`.
pub const CGROUP_ID: u16 = 21;
/// `INET_DIAG_SOCKOPT`.
pub const SOCKOPT: u16 = 22;
/// `INET_DIAG_REQ_BYTECODE`, of a request.
pub const REQ_BYTECODE: u16 = 1;

/// `SOCK_DIAG_BY_FAMILY`.
const QUERY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;

/// The timer of a connection that is idle.
pub const KEEPALIVE: u8 = 2;

/// The cookie that is every socket's.
pub const ANY_COOKIE: u64 = u64::MAX;

/// What names a socket: a `struct inet_diag_sockid`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// `SO_BINDTODEVICE`, or 0.
    pub interface: u32,
    /// `SO_COOKIE`.
    pub cookie: u64,
}

impl Id {
    const LEN: usize = 48;

    fn bytes(&self) -> [u8; Self::LEN] {
        fn words(addr: SocketAddr) -> [u8; 16] {
            match addr {
                SocketAddr::V6(addr) => addr.ip().octets(),
                SocketAddr::V4(addr) => {
                    let mut words = [0; 16];
                    words[..4].copy_from_slice(&addr.ip().octets());
                    words
                }
            }
        }
        let mut bytes = [0; Self::LEN];
        bytes[0..2].copy_from_slice(&self.local.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&self.peer.port().to_be_bytes());
        bytes[4..20].copy_from_slice(&words(self.local));
        bytes[20..36].copy_from_slice(&words(self.peer));
        bytes[36..40].copy_from_slice(&self.interface.to_ne_bytes());
        bytes[40..44].copy_from_slice(&(self.cookie as u32).to_ne_bytes());
        bytes[44..48].copy_from_slice(&((self.cookie >> 32) as u32).to_ne_bytes());
        bytes
    }

    fn read(bytes: &[u8], v6: bool) -> Self {
        let addr = |port: usize, words: usize| {
            let port = u16::from_be_bytes(array(bytes, port));
            if v6 {
                SocketAddr::from((Ipv6Addr::from(array::<16>(bytes, words)), port))
            } else {
                SocketAddr::from((Ipv4Addr::from(array::<4>(bytes, words)), port))
            }
        };
        Self {
            local: addr(0, 4),
            peer: addr(2, 20),
            interface: u32::from_ne_bytes(array(bytes, 36)),
            cookie: u64::from(u32::from_ne_bytes(array(bytes, 40)))
                | (u64::from(u32::from_ne_bytes(array(bytes, 44))) << 32),
        }
    }
}

/// A socket as the kernel tells it: a `struct inet_diag_msg` and its attributes.
#[derive(Clone, PartialEq, Eq)]
pub struct Socket {
    /// The address family.
    pub family: c_int,
    /// `TCP_*`.
    pub state: u8,
    /// What names it.
    pub id: Id,
    /// What its timer is for: [`KEEPALIVE`] among others, or 0.
    pub timer: u8,
    /// Milliseconds until that.
    pub expires: u32,
    /// Bytes to be read, or connections to be accepted.
    pub recv_queue: u32,
    /// Bytes to be sent, or connections that may wait.
    pub send_queue: u32,
    /// Whose it is.
    pub uid: u32,
    /// That of its file, or 0.
    pub inode: u32,
    /// `INET_DIAG_*` and the value.
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Socket {
    const LEN: usize = 72;

    fn read(message: &[u8], v6: bool) -> Option<Self> {
        if message.len() < Self::LEN {
            return None;
        }
        let word = |at| u32::from_ne_bytes(array(message, at));
        Some(Self {
            family: c_int::from(message[0]),
            state: message[1],
            timer: message[2],
            expires: word(52),
            id: Id::read(&message[4..52], v6),
            recv_queue: word(56),
            send_queue: word(60),
            uid: word(64),
            inode: word(68),
            attributes: attributes(&message[Self::LEN..]),
        })
    }

    /// The value of an attribute.
    pub fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let mut all = self.attributes.iter();
        all.find(|(other, _)| *other == kind)
            .map(|(_, value)| value.as_slice())
    }

    /// The 32-bit words of an attribute; none where it is not there.
    pub fn words(&self, kind: u16) -> Vec<u32> {
        let words = self.attribute(kind).unwrap_or(&[]).chunks_exact(4);
        words
            .map(|word| u32::from_ne_bytes(array(word, 0)))
            .collect()
    }

    /// The name of its state.
    pub fn state_name(&self) -> &'static str {
        let at = usize::from(self.state).wrapping_sub(1);
        state::NAMES.get(at).unwrap_or(&"?")
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} queues {} {} uid {} inode {} cookie {:x}",
            self.state_name(),
            self.id.local,
            self.id.peer,
            self.recv_queue,
            self.send_queue,
            self.uid,
            self.inode,
            self.id.cookie
        )
    }
}

/// What a dump is to have.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    /// Bits of states.
    pub states: u32,
    /// The own port, or 0.
    pub local_port: u16,
    /// The peer's port, or 0.
    pub peer_port: u16,
    /// Attributes that are given on demand alone.
    pub attributes: &'a [u16],
}

impl Filter<'_> {
    /// Sockets of these states.
    pub fn states(states: u32) -> Self {
        Self {
            states,
            local_port: 0,
            peer_port: 0,
            attributes: &[],
        }
    }
}

/// A socket of `NETLINK_SOCK_DIAG`, for the namespace that the calling thread was in.
pub struct Diag(OwnedFd);

impl Diag {
    /// Opens one.
    pub fn new() -> Result<Self> {
        /// Of `linux/netlink.h`.
        const NETLINK_SOCK_DIAG: c_int = 4;
        // SAFETY: `socket()` takes no memory.
        let fd = Errno::check(unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                NETLINK_SOCK_DIAG,
            )
        })?;
        // SAFETY: The kernel just gave us this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// All TCP-like sockets of `family` that `filter` wants.
    pub fn dump(&self, family: c_int, filter: &Filter<'_>) -> Result<Vec<Socket>> {
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let with_port = |port| {
            let mut addr = unspecified;
            addr.set_port(port);
            addr
        };
        let id = Id {
            local: with_port(filter.local_port),
            peer: with_port(filter.peer_port),
            interface: 0,
            cookie: ANY_COOKIE,
        };
        let request = request(
            family,
            libc::IPPROTO_TCP,
            filter.attributes,
            filter.states,
            &id,
        );
        self.ask(QUERY, libc::NLM_F_DUMP, &request)
    }

    /// The one that `id` names.
    pub fn find(&self, family: c_int, id: &Id, attributes: &[u16]) -> Result<Socket> {
        let request = request(family, libc::IPPROTO_TCP, attributes, state::ALL, id);
        let found = self.ask(QUERY, libc::NLM_F_ACK, &request)?;
        found.into_iter().next().ok_or(Errno::ENOENT)
    }

    /// Ends the one that `id` names.
    pub fn destroy(&self, family: c_int, id: &Id) -> Result<()> {
        let request = request(family, libc::IPPROTO_TCP, &[], state::ALL, id);
        self.ask(DESTROY, libc::NLM_F_ACK, &request).map(drop)
    }

    /// Asks with the payload of a message, right or wrong, for a dump of `protocol` or an answer.
    pub fn raw(&self, dump: bool, payload: &[u8]) -> Result<Vec<Socket>> {
        let flags = if dump {
            libc::NLM_F_DUMP
        } else {
            libc::NLM_F_ACK
        };
        self.ask(QUERY, flags, payload)
    }

    fn ask(&self, kind: u16, flags: c_int, payload: &[u8]) -> Result<Vec<Socket>> {
        let len = 16 + payload.len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&(len as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(payload);
        // SAFETY: The kernel only reads `message`.
        Errno::check_len(unsafe {
            libc::send(
                self.0.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        })?;
        let mut sockets = Vec::new();
        let mut room = vec![0; 64 << 10];
        loop {
            // SAFETY: The kernel writes at most `room.len()` bytes to `room`.
            let len = Errno::check_len(unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    ptr::from_mut(room.as_mut_slice()).cast(),
                    room.len(),
                    0,
                )
            })?;
            let mut rest = &room[..len];
            while rest.len() >= 16 {
                let len = u32::from_ne_bytes(array(rest, 0)) as usize;
                let payload = rest.get(16..len).ok_or(Errno::EINVAL)?;
                match c_int::from(u16::from_ne_bytes(array(rest, 4))) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match i32::from_ne_bytes(array(payload, 0)) {
                            0.. => Ok(sockets),
                            error => Err(Errno(-error)),
                        }
                    }
                    _ => {
                        let v6 = matches!(payload.first(), Some(10 | 28));
                        sockets.extend(Socket::read(payload, v6));
                    }
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
}

/// A `struct inet_diag_req_v2`.
pub fn request(
    family: c_int,
    protocol: c_int,
    attributes: &[u16],
    states: u32,
    id: &Id,
) -> Vec<u8> {
    let attributes = attributes
        .iter()
        .fold(0, |bits, kind| bits | (1 << (kind - 1)));
    let mut request = vec![family as u8, protocol as u8, attributes, 0];
    request.extend_from_slice(&states.to_ne_bytes());
    request.extend_from_slice(&id.bytes());
    request
}

/// The attributes behind a message.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= mem::size_of::<u32>() {
        let len = usize::from(u16::from_ne_bytes(array(bytes, 0)));
        let Some(value) = bytes.get(4..len) else {
            break;
        };
        all.push((u16::from_ne_bytes(array(bytes, 2)), value.to_vec()));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    all
}

/// The `N` bytes at a place, which must be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
