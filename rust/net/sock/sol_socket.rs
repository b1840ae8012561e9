// SPDX-License-Identifier: GPL-2.0

//! The options of a sock that are the socket layer's: those of `SOL_SOCKET`, and of IP.

use crate::{
    bindings,
    net::{
        bpf::StandIn,
        ops::Protocol,
        optval::{
            OptionRoom,
            OptionValue, //
        },
        sock::{
            Sock,
            TcpState,
            Timeout, //
        },
        sockaddr::IpVersion,
        uapi::IPPROTO_TCP, //
    },
    prelude::*, //
};
use core::ptr::{
    addr_of,
    addr_of_mut, //
};

const SOL_SOCKET: c_int = bindings::SOL_SOCKET as c_int;

impl<P: Protocol> Sock<P> {
    /// Sets an option of `SOL_SOCKET` that the socket layer does not know to mean the same for us
    /// as for TCP. False where it does, and is to set it.
    ///
    /// `EOPNOTSUPP` says that a program would wait for what does not come: a filter sees packets,
    /// of which there are none.
    pub(in crate::net) fn set_socket_option(
        &self,
        name: c_int,
        value: OptionValue<'_>,
    ) -> Result<bool> {
        // CAST: They are small.
        match name as u32 {
            bindings::SO_ZEROCOPY => {
                let on = match value.int()? {
                    0 => false,
                    1 => true,
                    _ => return Err(EINVAL),
                };
                self.lock().set_zerocopy(on);
            }
            bindings::SO_REUSEPORT => {
                let on = value.int()? != 0;
                self.lock().set_reuseport(on);
            }
            // rdma_cm looks for routes without a mark, and filters see packets, of which there are
            // none.
            bindings::SO_MARK if value.int()? == 0 => return Ok(false),
            bindings::SO_MARK | bindings::SO_ATTACH_FILTER | bindings::SO_ATTACH_BPF => {
                return Err(self.refusal(SOL_SOCKET, name, value, EOPNOTSUPP));
            }
            // As with TCP: it did not have SO_REUSEPORT when it began to listen.
            bindings::SO_ATTACH_REUSEPORT_CBPF | bindings::SO_ATTACH_REUSEPORT_EBPF
                if self.is_in_state(TcpState::Listen) && !self.has_group() =>
            {
                return Err(self.refusal(SOL_SOCKET, name, value, EINVAL));
            }
            bindings::SO_TIMESTAMPING_OLD | bindings::SO_TIMESTAMPING_NEW => {
                // CAST: They are bits.
                let flags = value.int()? as u32;
                let numbers = flags & !self.stamp_flags() & bindings::SOF_TIMESTAMPING_OPT_ID != 0;
                if numbers {
                    if [TcpState::Close as u8, TcpState::Listen as u8].contains(&self.state()) {
                        return Err(EINVAL);
                    }
                    let is_tcp = flags & bindings::SOF_TIMESTAMPING_OPT_ID_TCP != 0;
                    P::start_stamp_ids(self, is_tcp);
                }
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Fails as TCP does where that would not set an option, of a new socket, to this value.
    /// Sleeps.
    pub(crate) fn ask_tcp(&self, level: c_int, name: c_int, value: OptionValue<'_>) -> Result {
        self.tcp_socket()?.set_option(level, name, value)
    }

    /// Why an option is refused that an RDMA device cannot have: what TCP says against it, which
    /// would not set it either, or else `error`. Sleeps.
    pub(in crate::net) fn refusal(
        &self,
        level: c_int,
        name: c_int,
        value: OptionValue<'_>,
        error: Error,
    ) -> Error {
        self.ask_tcp(level, name, value).err().unwrap_or(error)
    }

    /// Gives the value that an option of TCP's has by default, or after it was set to `set`.
    /// Sleeps. Fails as TCP does.
    pub(crate) fn give_as_tcp(&self, name: c_int, set: Option<c_int>, to: OptionRoom) -> Result {
        let socket = self.tcp_socket()?;
        if let Some(value) = set {
            let bytes = value.to_ne_bytes();
            socket.set_option(IPPROTO_TCP, name, OptionValue::of(&bytes))?;
        }
        socket.option(IPPROTO_TCP, name, to)
    }

    fn tcp_socket(&self) -> Result<StandIn> {
        StandIn::new(self.net(), self.version() == IpVersion::V6)
    }

    /// `SO_RCVTIMEO`, or no time at all.
    pub(crate) fn recv_timeout(&self, nonblock: bool) -> Timeout {
        // SAFETY: The sock is live.
        Timeout(unsafe { bindings::sdp_helper_sock_rcvtimeo(self.as_ptr(), nonblock) })
    }

    /// `SO_SNDTIMEO`, or no time at all.
    pub(crate) fn send_timeout(&self, nonblock: bool) -> Timeout {
        // SAFETY: The sock is live.
        Timeout(unsafe { bindings::sdp_helper_sock_sndtimeo(self.as_ptr(), nonblock) })
    }

    /// How many bytes a receive of `len` waits for: `SO_RCVLOWAT`, or all of it; at least 1.
    pub(crate) fn recv_target(&self, waitall: bool, len: usize) -> usize {
        let len = c_int::try_from(len).unwrap_or(c_int::MAX);
        // SAFETY: The sock is live.
        let n = unsafe { bindings::sdp_helper_sock_rcvlowat(self.as_ptr(), waitall.into(), len) };
        usize::try_from(n).unwrap_or(1)
    }

    /// Sets `SO_RCVLOWAT`, bounded as TCP's. As there `SO_RCVBUF` grows to twice of it, unless the
    /// program has set that. With the socket locked.
    pub(in crate::net) fn set_recv_low_water(&self, value: c_int) {
        // SAFETY: The sock is live; integers that are changed with it locked.
        unsafe {
            let sk = self.as_ptr();
            let size = addr_of_mut!((*sk).sk_rcvbuf);
            let is_set = u32::from((*sk).sk_userlocks) & bindings::SOCK_RCVBUF_LOCK != 0;
            let most = match is_set {
                true => size.read_volatile(),
                false => bindings::sdp_helper_sock_max_rmem(sk),
            };
            let value = value.min(most / 2).max(1);
            addr_of_mut!((*sk).sk_rcvlowat).write_volatile(value);
            let room = value.saturating_mul(2);
            if !is_set && room > size.read_volatile() {
                size.write_volatile(room);
            }
        }
    }

    /// The bytes that a receive leaves out: of `SO_PEEK_OFF`, if it looks.
    pub(crate) fn peek_offset(&self, peeks: bool) -> usize {
        // SAFETY: The sock is live; the field is an integer.
        let offset = unsafe { addr_of!((*self.as_ptr()).sk_peek_off).read_volatile() };
        match usize::try_from(offset) {
            Ok(offset) if peeks => offset,
            _ => 0,
        }
    }

    /// Moves the place where the next peek begins, unless `SO_PEEK_OFF` is off: a peek has looked
    /// at `n` bytes, or a read has taken them. With the socket locked.
    pub(crate) fn move_peek_offset(&self, n: usize, peeks: bool) {
        let n = c_int::try_from(n).unwrap_or(c_int::MAX);
        // SAFETY: The sock is live; the field is an integer, which setsockopt may change at any
        // time.
        unsafe {
            let at = addr_of_mut!((*self.as_ptr()).sk_peek_off);
            let offset = at.read_volatile();
            if offset >= 0 {
                at.write_volatile(match peeks {
                    true => offset.saturating_add(n),
                    false => offset.saturating_sub(n).max(0),
                });
            }
        }
    }

    /// Turns `SO_PEEK_OFF` off. With the socket locked.
    pub(crate) fn stop_peek_offset(&self) {
        // SAFETY: As above.
        unsafe { addr_of_mut!((*self.as_ptr()).sk_peek_off).write_volatile(-1) };
    }

    /// The mark of its packets. Any context, as for the next.
    pub(in crate::net) fn packet_mark(&self) -> u32 {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).sk_mark).read_volatile() }
    }

    /// What identifies its cgroup, or 0.
    pub(in crate::net) fn cgroup_id(&self) -> u64 {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sk_cgroup_id(self.as_ptr()) }
    }

    /// `SO_SNDBUF` as the kernel keeps it, in bytes. Any context.
    pub(crate) fn send_buffer(&self) -> usize {
        // SAFETY: The sock is live; the field is an integer.
        let n = unsafe { addr_of!((*self.as_ptr()).sk_sndbuf).read_volatile() };
        usize::try_from(n).unwrap_or(0)
    }

    /// Tells on which CPU what comes is handled (`SO_INCOMING_CPU`). Any context.
    pub(crate) fn set_incoming_cpu(&self, cpu: c_int) {
        // SAFETY: The sock is live; the field is an integer, which setsockopt may change too.
        unsafe {
            let common = addr_of_mut!((*self.as_ptr()).__sk_common);
            let at = addr_of_mut!((*common).__bindgen_anon_7).cast::<c_int>();
            if at.read_volatile() != cpu {
                at.write_volatile(cpu);
            }
        }
    }

    /// `SO_RCVBUF` as the kernel keeps it, in bytes. Any context.
    pub(crate) fn rcvbuf(&self) -> usize {
        // SAFETY: The sock is live; the field is an integer.
        let n = unsafe { addr_of!((*self.as_ptr()).sk_rcvbuf).read_volatile() };
        usize::try_from(n).unwrap_or(0)
    }

    /// How far `SO_RCVBUF` may grow, in bytes: to `max`, or not at all if the program has set it.
    /// Any context.
    pub(crate) fn max_rcvbuf(&self, max: u32) -> usize {
        // SAFETY: The sock is live; a bit that only setsockopt changes.
        let locks = unsafe { (*self.as_ptr()).sk_userlocks };
        let is_set = u32::from(locks) & bindings::SOCK_RCVBUF_LOCK != 0;
        // CAST: `usize` has at least 32 bits.
        let max = if is_set { 0 } else { max as usize };
        self.rcvbuf().max(max)
    }

    /// Doubles `SO_RCVBUF`, to `max` bytes at most, unless the program has set it. With the socket
    /// locked.
    pub(crate) fn grow_rcvbuf(&self, max: u32) {
        let max = c_int::try_from(max).unwrap_or(c_int::MAX);
        // SAFETY: The sock is live; a bit and an integer that are changed with the socket locked.
        unsafe {
            let sk = self.as_ptr();
            let size = addr_of_mut!((*sk).sk_rcvbuf);
            let is_set = u32::from((*sk).sk_userlocks) & bindings::SOCK_RCVBUF_LOCK != 0;
            let now = size.read_volatile();
            if !is_set && now < max {
                size.write_volatile(now.saturating_mul(2).min(max));
            }
        }
    }

    /// How far TCP would let `SO_SNDBUF` grow, in bytes: to the maximum of `net.ipv4.tcp_wmem`. Any
    /// context.
    pub(crate) fn max_send_buffer(&self) -> usize {
        // SAFETY: The sock is live, and so is its namespace.
        let n = unsafe { bindings::sdp_helper_sock_max_wmem(self.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Whether the program has set `SO_SNDBUF`. Any context.
    pub(crate) fn is_sndbuf_locked(&self) -> bool {
        // SAFETY: The sock is live; a bit that only setsockopt changes.
        let locks = unsafe { (*self.as_ptr()).sk_userlocks };
        u32::from(locks) & bindings::SOCK_SNDBUF_LOCK != 0
    }

    /// `SO_ZEROCOPY`.
    pub(in crate::net) fn has_zerocopy(&self) -> bool {
        // SAFETY: The sock is live.
        unsafe { bindings::sdp_helper_sock_flag(self.as_ptr(), bindings::sock_flags_SOCK_ZEROCOPY) }
    }

    /// `SO_OOBINLINE`.
    pub(crate) fn is_oob_inline(&self) -> bool {
        // SAFETY: The sock is live.
        unsafe {
            bindings::sdp_helper_sock_flag(self.as_ptr(), bindings::sock_flags_SOCK_URGINLINE)
        }
    }

    /// `SO_REUSEADDR`. Any context.
    pub(crate) fn reuseaddr(&self) -> bool {
        // SAFETY: The sock is live; a bit that only setsockopt changes.
        unsafe { (*self.as_ptr()).__sk_common.skc_reuse() != 0 }
    }

    /// `SO_REUSEPORT`. Any context.
    pub(crate) fn reuseport(&self) -> bool {
        // SAFETY: The sock is live; a bit that changes under its lock.
        unsafe { (*self.as_ptr()).__sk_common.skc_reuseport() != 0 }
    }

    /// `SO_LINGER`: how long close may wait, or `None` when it is off. A task that exits does not
    /// wait, as with TCP.
    pub(crate) fn linger(&self) -> Option<Timeout> {
        // SAFETY: The current task is live, and only itself sets the flag.
        let exits = unsafe { (*kernel::current!().as_ptr()).flags } & bindings::PF_EXITING != 0;
        self.linger_setting()
            .filter(|timeout| timeout.is_zero() || !exits)
    }

    fn linger_setting(&self) -> Option<Timeout> {
        // SAFETY: The sock is live; the field is an integer.
        unsafe {
            bindings::sdp_helper_sock_flag(self.as_ptr(), bindings::sock_flags_SOCK_LINGER).then(
                || {
                    let jiffies = addr_of!((*self.as_ptr()).sk_lingertime).read_volatile();
                    Timeout(c_long::try_from(jiffies).unwrap_or(c_long::MAX))
                },
            )
        }
    }

    /// `SO_MAX_PACING_RATE`, in bytes a second.
    pub(crate) fn max_pacing_rate(&self) -> u64 {
        // SAFETY: The sock is live; the field is an integer.
        let rate = unsafe { addr_of!((*self.as_ptr()).sk_max_pacing_rate).read_volatile() };
        // CAST: It has at most 64 bits.
        rate as u64
    }

    /// `IPV6_V6ONLY`. Any context.
    pub(crate) fn is_v6only(&self) -> bool {
        // SAFETY: The sock is live; a bit that changes under its lock.
        unsafe { (*self.as_ptr()).__sk_common.skc_ipv6only() != 0 }
    }

    /// `IP_TOS`, and `IP_TTL` where it was set, or those of IPv6, whichever `peer` is of. Any
    /// context.
    pub(crate) fn packet_options(&self, peer: IpVersion) -> (u8, Option<u8>) {
        // SAFETY: The sock is live and begins with an `inet_sock`, and one with such a peer is of
        // IPv6; the fields are integers.
        let (tos, ttl) = unsafe {
            let (inet, np) = (addr_of!((*self.0.get()).inet), self.pinet6());
            match peer {
                IpVersion::V4 => (
                    addr_of!((*inet).tos).read_volatile(),
                    addr_of!((*inet).uc_ttl).read_volatile(),
                ),
                IpVersion::V6 => (
                    addr_of!((*np).tclass).read_volatile(),
                    addr_of!((*np).hop_limit).read_volatile(),
                ),
            }
        };
        (tos, u8::try_from(ttl).ok())
    }
}
