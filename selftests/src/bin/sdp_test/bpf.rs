// SPDX-License-Identifier: GPL-2.0

//! Small BPF programs, and control groups to attach them to.

use crate::harness::{
    must,
    Child, //
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::Sock, //
};
use std::{
    fs::{
        self,
        File, //
    },
    mem,
    net::Ipv6Addr,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    path::PathBuf,
    process, //
};

/// What programs are attached for: `enum bpf_attach_type`.
#[derive(Clone, Copy)]
#[repr(u32)]
#[allow(missing_docs)]
pub(crate) enum Hook {
    Ingress = 0,
    Egress = 1,
    Create = 2,
    Bind = 8,
    Bind6 = 9,
    Connect = 10,
    Connect6 = 11,
    PostBind = 12,
    PeerName = 29,
    PeerName6 = 30,
    SockName = 31,
}

/// An instruction.
pub(crate) type Insn = [u8; 8];

const fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    let (off, imm) = (off.to_le_bytes(), imm.to_le_bytes());
    [
        op,
        dst | (src << 4),
        off[0],
        off[1],
        imm[0],
        imm[1],
        imm[2],
        imm[3],
    ]
}

/// `return value`.
pub(crate) fn end(value: i32) -> [Insn; 2] {
    [insn(0xb7, 0, 0, 0, value), insn(0x95, 0, 0, 0, 0)]
}

/// Returns `value`, unless the 32 bits at `field` of the context are `expected`.
pub(crate) fn end_unless(field: i16, expected: u32, value: i32) -> [Insn; 4] {
    let [set, exit] = end(value);
    [
        insn(0x61, 2, 1, field, 0),
        insn(0x16, 2, 0, 2, expected as i32),
        set,
        exit,
    ]
}

/// Returns 1, and so lets a packet pass, unless the 32 bits at `at` of it are `unwanted`: then 0.
pub(crate) fn drop_if(at: u16, unwanted: u32) -> Vec<Insn> {
    let [drop, exit] = end(0);
    let [pass, _] = end(1);
    let at = i16::try_from(at).unwrap_or(i16::MAX);
    vec![
        // The start of the packet and its end.
        insn(0x61, 2, 1, 76, 0),
        insn(0x61, 3, 1, 80, 0),
        insn(0xbf, 4, 2, 0, 0),
        insn(0x07, 4, 0, 0, i32::from(at) + 4),
        insn(0x2d, 4, 3, 4, 0),
        insn(0x61, 5, 2, at, 0),
        insn(0x56, 5, 0, 2, unwanted as i32),
        drop,
        exit,
        pass,
        exit,
    ]
}

/// Sets the 32 bits at `field` of the context.
pub(crate) fn set(field: i16, value: u32) -> [Insn; 2] {
    [
        insn(0xb4, 2, 0, 0, value as i32),
        insn(0x63, 1, 2, field, 0),
    ]
}

/// Sets the IPv6 address of the context of a program for an address.
pub(crate) fn set_ip6(ip: Ipv6Addr) -> Vec<Insn> {
    let words = ip.octets();
    let words = words.chunks(4).zip((addr::IP6..).step_by(4));
    let set = |(word, field): (&[u8], i16)| {
        let word = [word[0], word[1], word[2], word[3]];
        set(field, u32::from_ne_bytes(word))
    };
    words.flat_map(set).collect()
}

/// `bpf_bind()` of the context's socket to an IPv4 address, without a port.
pub(crate) fn bind(ip: u32) -> [Insn; 7] {
    [
        insn(0x62, 10, 0, -16, libc::AF_INET),
        insn(0x62, 10, 0, -12, ip as i32),
        insn(0x7a, 10, 0, -8, 0),
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, -16),
        insn(0xb7, 3, 0, 0, 16),
        insn(0x85, 0, 0, 0, 64),
    ]
}

/// The fields of a program for an address, a `struct bpf_sock_addr`.
pub(crate) mod addr {
    pub(crate) const IP: i16 = 4;
    pub(crate) const IP6: i16 = 8;
    pub(crate) const PORT: i16 = 24;
    pub(crate) const FAMILY: i16 = 28;
    pub(crate) const TYPE: i16 = 32;
    pub(crate) const PROTOCOL: i16 = 36;
}

/// Those of a program for a socket, a `struct bpf_sock`.
pub(crate) mod sock {
    pub(crate) const FAMILY: i16 = 4;
    pub(crate) const PROTOCOL: i16 = 12;
    pub(crate) const PRIORITY: i16 = 20;
    pub(crate) const PORT: i16 = 44;
}

fn bpf<T>(command: i64, attr: &T) -> Result<i32> {
    // SAFETY: The kernel reads `attr`, and what that points to, which the callers keep.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, mem::size_of::<T>()) };
    Errno::check(ret as i32)
}

/// Loads a program of a kind, `enum bpf_prog_type`, to be attached for a use.
pub(crate) fn load(kind: u32, expected: u32, program: &[Insn]) -> OwnedFd {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        insns: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        expected: u32,
    }
    let load = Load {
        kind,
        count: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        expected,
    };
    let fd = must!(bpf(5, &load));
    // SAFETY: The kernel just gave us this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A map of one socket.
pub(crate) struct SocketMap(OwnedFd);

impl SocketMap {
    /// Of each kind: an array, and a hash.
    pub(crate) const KINDS: [u32; 2] = [15, 18];

    pub(crate) fn new(kind: u32) -> Self {
        #[repr(C)]
        struct Create {
            kind: u32,
            key: u32,
            value: u32,
            entries: u32,
            flags: u32,
        }
        let create = Create {
            kind,
            key: 4,
            value: 4,
            entries: 1,
            flags: 0,
        };
        let fd = must!(bpf(0, &create));
        // SAFETY: The kernel just gave us this descriptor, and nobody else knows it.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Puts a socket into it.
    pub(crate) fn insert(&self, sock: &Sock) -> Result<()> {
        #[repr(C)]
        struct Update {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (key, value) = (0u32, sock.fd());
        let update = Update {
            map: self.0.as_raw_fd() as u64,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf(2, &update).map(drop)
    }
}

/// A control group of the case's own, gone when dropped.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new() -> Self {
        let path = PathBuf::from("/sys/fs/cgroup/sdp_test_bpf");
        let _ = fs::remove_dir(&path);
        must!(fs::create_dir(&path).map_err(Errno::from));
        Self(path)
    }

    /// Attaches a program.
    pub(crate) fn attach(&self, hook: Hook, program: &[Insn]) {
        #[repr(C)]
        struct Attach {
            target: u32,
            program: u32,
            kind: u32,
            flags: u32,
        }
        let kind = match hook {
            Hook::Ingress | Hook::Egress => 8,
            Hook::Create | Hook::PostBind => 9,
            _ => 18,
        };
        let fd = load(kind, hook as u32, program);
        let group = must!(File::open(&self.0).map_err(Errno::from));
        must!(bpf(
            8,
            &Attach {
                target: group.as_raw_fd() as u32,
                program: fd.as_raw_fd() as u32,
                kind: hook as u32,
                flags: 0,
            }
        ));
    }

    /// Runs `work` in a process of the group.
    pub(crate) fn run(&self, work: impl FnOnce()) {
        let child = Child::start(|| {
            let procs = self.0.join("cgroup.procs");
            must!(fs::write(procs, process::id().to_string()).map_err(Errno::from));
            work();
        });
        assert_eq!(child.wait(), 0, "the process in the group");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
