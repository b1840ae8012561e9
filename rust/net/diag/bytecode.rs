// SPDX-License-Identifier: GPL-2.0

//! Filters of inet_diag, of which `ss` makes its expressions: byte code of conditional jumps, all
//! forward.

use super::{
    words,
    View, //
};
use crate::{
    bindings,
    net::{
        ops::Protocol,
        sockaddr::IpVersion, //
    },
    prelude::*, //
};
use core::net::SocketAddr;

/// A filter that has passed the checks that inet_diag makes: each instruction that can be reached
/// is there with its argument, and jumps forward, to another or just behind all of them; or beyond
/// that, which says no.
pub(super) struct Bytecode<'a>(&'a [u8]);

/// The length of an instruction without its argument.
const OP: usize = size_of::<bindings::inet_diag_bc_op>();

/// The length of what an address is compared with, without the address: family, length of the
/// prefix in bits, and after two bytes the port, or -1 for any.
const HOST: usize = size_of::<bindings::inet_diag_hostcond>();

/// An instruction: what it is, and how far it jumps if that holds, and if not.
struct Op {
    code: c_uint,
    yes: usize,
    no: usize,
}

/// The first instruction of `code`.
fn op(code: &[u8]) -> Option<Op> {
    let [code, yes, low, high] = *code.first_chunk::<OP>()?;
    Some(Op {
        code: code.into(),
        yes: yes.into(),
        no: u16::from_ne_bytes([low, high]).into(),
    })
}

/// A number at a place of an instruction.
fn number<const N: usize>(code: &[u8], at: usize) -> Option<[u8; N]> {
    code.get(at..)?.first_chunk().copied()
}

/// How many bytes of an address the first instruction of `code` compares with, if it does and is
/// right.
fn host_len(code: &[u8]) -> Option<usize> {
    let [family, prefix] = number(code, OP)?;
    let len = match family.into() {
        bindings::AF_UNSPEC => 0,
        bindings::AF_INET => 4,
        bindings::AF_INET6 => 16,
        _ => return None,
    };
    (usize::from(prefix) <= 8 * len).then_some(len)
}

impl<'a> Bytecode<'a> {
    /// Checks a filter. Fails with `EINVAL` as inet_diag does, and with `EPERM` where it asks for
    /// marks and the caller is no administrator, `net_admin`.
    pub(super) fn new(code: &'a [u8], net_admin: bool) -> Result<Self> {
        let mut rest = code;
        if rest.len() < OP {
            return Err(EINVAL);
        }
        while !rest.is_empty() {
            let op = op(rest).ok_or(EINVAL)?;
            let argument = match op.code {
                bindings::INET_DIAG_BC_S_COND | bindings::INET_DIAG_BC_D_COND => {
                    HOST.saturating_add(host_len(rest).ok_or(EINVAL)?)
                }
                bindings::INET_DIAG_BC_DEV_COND => size_of::<u32>(),
                bindings::INET_DIAG_BC_S_EQ..=bindings::INET_DIAG_BC_D_EQ => OP,
                bindings::INET_DIAG_BC_S_GE..=bindings::INET_DIAG_BC_D_LE => OP,
                bindings::INET_DIAG_BC_MARK_COND if !net_admin => return Err(EPERM),
                bindings::INET_DIAG_BC_MARK_COND => size_of::<bindings::inet_diag_markcond>(),
                bindings::INET_DIAG_BC_CGROUP_COND => size_of::<u64>(),
                bindings::INET_DIAG_BC_NOP
                | bindings::INET_DIAG_BC_JMP
                | bindings::INET_DIAG_BC_AUTO => 0,
                _ => return Err(EINVAL),
            };
            let least = OP.saturating_add(argument);
            // Four bytes beyond the end are the jump that says no.
            let most = rest.len().saturating_add(OP);
            let is_right = |jump: usize| (least..=most).contains(&jump) && jump % OP == 0;
            if rest.len() < least || !is_right(op.yes) {
                return Err(EINVAL);
            }
            if op.code != bindings::INET_DIAG_BC_NOP {
                let target = rest.len().checked_sub(op.no);
                if !is_right(op.no) || !target.is_none_or(|left| left == 0 || begins(code, left)) {
                    return Err(EINVAL);
                }
            }
            rest = rest.get(op.yes..).ok_or(EINVAL)?;
        }
        Ok(Self(code))
    }

    /// A filter that [`Self::new`] has checked: that takes long for some, and a dump reads its
    /// request again for every buffer. For any other bytes [`Self::passes`] says something.
    pub(super) fn again(code: &'a [u8]) -> Self {
        Self(code)
    }

    /// Whether the filter lets `view` pass.
    pub(super) fn passes<P: Protocol>(&self, view: &View<P>) -> bool {
        let mut rest = self.0;
        while !rest.is_empty() {
            let Some(op) = op(rest) else { return false };
            let holds = holds(op.code, rest, view).unwrap_or(false);
            let jump = if holds { op.yes } else { op.no };
            // It is at least the length of an instruction already.
            match rest.get(jump.max(OP)..) {
                Some(next) => rest = next,
                None => return false,
            }
        }
        true
    }
}

/// Whether an instruction begins, or all end, where `left` bytes of `code` are left.
fn begins(code: &[u8], left: usize) -> bool {
    let mut rest = code;
    while rest.len() > left {
        let next = op(rest).filter(|op| op.yes >= OP && op.yes % OP == 0);
        match next.and_then(|op| rest.get(op.yes..)) {
            Some(next) => rest = next,
            None => return false,
        }
    }
    rest.len() == left
}

/// Whether what the first instruction of `rest` says holds of `view`.
fn holds<P: Protocol>(code: c_uint, rest: &[u8], view: &View<P>) -> Option<bool> {
    let (sport, dport) = (view.local.port(), view.peer.port());
    // A port is where an instruction has its second jump.
    let port = || number(rest, OP.saturating_add(2)).map(u16::from_ne_bytes);
    let sk = view.sock.as_deref();
    Some(match code {
        bindings::INET_DIAG_BC_NOP => true,
        bindings::INET_DIAG_BC_S_EQ => sport == port()?,
        bindings::INET_DIAG_BC_S_GE => sport >= port()?,
        bindings::INET_DIAG_BC_S_LE => sport <= port()?,
        bindings::INET_DIAG_BC_D_EQ => dport == port()?,
        bindings::INET_DIAG_BC_D_GE => dport >= port()?,
        bindings::INET_DIAG_BC_D_LE => dport <= port()?,
        bindings::INET_DIAG_BC_AUTO => !sk.is_some_and(|sk| sk.has_chosen_port()),
        bindings::INET_DIAG_BC_S_COND => is_host(rest, view.shown(view.local), view.version)?,
        bindings::INET_DIAG_BC_D_COND => is_host(rest, view.shown(view.peer), view.version)?,
        bindings::INET_DIAG_BC_DEV_COND => {
            u32::from_ne_bytes(number(rest, OP)?) == sk.map_or(0, |sk| sk.interface())
        }
        bindings::INET_DIAG_BC_MARK_COND => {
            let [mark, mask] = [OP, OP.saturating_add(size_of::<u32>())];
            let [mark, mask] = [number(rest, mark)?, number(rest, mask)?].map(u32::from_ne_bytes);
            sk.map_or(0, |sk| sk.packet_mark()) & mask == mark
        }
        bindings::INET_DIAG_BC_CGROUP_COND => {
            u64::from_ne_bytes(number(rest, OP)?) == sk.map_or(0, |sk| sk.cgroup_id())
        }
        // A jump is one that does not hold.
        _ => false,
    })
}

/// Whether an end has the address and the port that the first instruction of `rest` says; `version`
/// is that of the socket. One of IPv6 may have an IPv4 address, v4-mapped.
fn is_host(rest: &[u8], end: SocketAddr, version: IpVersion) -> Option<bool> {
    let [family, prefix] = number(rest, OP)?;
    let port = i32::from_ne_bytes(number(rest, OP.saturating_add(4))?);
    if port != -1 && port != i32::from(end.port()) {
        return Some(false);
    }
    let wanted = rest.get(OP.saturating_add(HOST)..)?;
    let (words, count) = words(end.ip());
    let bytes = words.map(u32::to_ne_bytes);
    let bytes = bytes.as_flattened().get(..count.saturating_mul(4))?;
    let bytes = match (u32::from(family), version) {
        (bindings::AF_UNSPEC, _) => return Some(true),
        (bindings::AF_INET, IpVersion::V4) | (bindings::AF_INET6, IpVersion::V6) => bytes,
        (bindings::AF_INET, IpVersion::V6) => {
            match bytes.strip_prefix(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]) {
                Some(mapped) => mapped,
                None => return Some(false),
            }
        }
        _ => return Some(false),
    };
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map(|byte| byte << (at % 8) & 0x80);
    Some((0..usize::from(prefix)).all(|at| bit(bytes, at) == bit(wanted, at)))
}
