// SPDX-License-Identifier: GPL-2.0

//! How long a peer may be silent: by the options of the socket, and by TCP's settings of the
//! namespace for those that are not set.

use crate::{
    net::{
        namespace::{
            Net,
            TcpSysctls, //
        },
        uapi::{
            MAX_TCP_KEEPCNT,
            MAX_TCP_KEEPIDLE,
            MAX_TCP_KEEPINTVL,
            MAX_TCP_SYNCNT, //
        }, //
    },
    prelude::*,
    proto::{
        KeepAlive,
        Machine, //
    },
    sock::time::ms, //
};

/// TCP's first retransmission timeout of a SYN, and its minimum otherwise, in milliseconds.
const SYN_PAUSE_MS: u32 = 1000;
const PAUSE_MS: u32 = 200;

/// The options of a socket that limit the peer's silence; 0 where one is not set.
#[derive(Clone, Copy, Default)]
pub(super) struct Timeouts {
    /// `SO_KEEPALIVE`.
    pub(super) keepalive: bool,
    /// `TCP_KEEPIDLE`, in seconds.
    keepidle: u16,
    /// `TCP_KEEPINTVL`, in seconds.
    keepintvl: u16,
    /// `TCP_KEEPCNT`.
    keepcnt: u8,
    /// `TCP_SYNCNT`.
    syncnt: u8,
    /// `TCP_USER_TIMEOUT`, in milliseconds.
    user_timeout: u32,
}

/// `value` if it is from 1 to `max`. Fails with `EINVAL`.
fn check<T: TryFrom<c_int>>(value: c_int, max: c_int) -> Result<T> {
    if !(1..=max).contains(&value) {
        return Err(EINVAL);
    }
    T::try_from(value).map_err(|_| EINVAL)
}

/// The value that was set, or TCP's.
fn or_default(set: impl Into<u32>, tcp: u32) -> u32 {
    match set.into() {
        0 => tcp,
        set => set,
    }
}

/// As `getsockopt(2)` returns it.
fn to_int(n: u32) -> c_int {
    c_int::try_from(n).unwrap_or(c_int::MAX)
}

/// How long TCP takes to give up after `retries` retransmissions, with timeouts that double from
/// `first` to `most`; all in milliseconds.
fn retry_ms(retries: u32, first: u32, most: u32) -> u32 {
    let doublings = most.checked_div(first).and_then(u32::checked_ilog2);
    let doublings = doublings.unwrap_or(0).min(retries);
    let rest = retries.saturating_sub(doublings);
    2u32.checked_shl(doublings)
        .unwrap_or(u32::MAX)
        .saturating_sub(1)
        .saturating_mul(first)
        .saturating_add(rest.saturating_mul(most))
}

impl Timeouts {
    /// Sets `TCP_KEEPIDLE`, in seconds. This and those that follow fail with `EINVAL`, as with TCP.
    pub(super) fn set_keepidle(&mut self, seconds: c_int) -> Result {
        self.keepidle = check(seconds, MAX_TCP_KEEPIDLE)?;
        Ok(())
    }

    /// Sets `TCP_KEEPINTVL`, in seconds.
    pub(super) fn set_keepintvl(&mut self, seconds: c_int) -> Result {
        self.keepintvl = check(seconds, MAX_TCP_KEEPINTVL)?;
        Ok(())
    }

    /// Sets `TCP_KEEPCNT`.
    pub(super) fn set_keepcnt(&mut self, count: c_int) -> Result {
        self.keepcnt = check(count, MAX_TCP_KEEPCNT)?;
        Ok(())
    }

    /// Sets `TCP_SYNCNT`.
    pub(super) fn set_syncnt(&mut self, count: c_int) -> Result {
        self.syncnt = check(count, MAX_TCP_SYNCNT)?;
        Ok(())
    }

    /// Sets `TCP_USER_TIMEOUT`, in milliseconds.
    pub(super) fn set_user_timeout(&mut self, ms: c_int) -> Result {
        self.user_timeout = u32::try_from(ms).map_err(|_| EINVAL)?;
        Ok(())
    }

    fn keepidle_ms(&self, tcp: &TcpSysctls) -> u32 {
        or_default(
            u32::from(self.keepidle).saturating_mul(1000),
            tcp.keepalive_time,
        )
    }

    fn keepintvl_ms(&self, tcp: &TcpSysctls) -> u32 {
        or_default(
            u32::from(self.keepintvl).saturating_mul(1000),
            tcp.keepalive_intvl,
        )
    }

    /// `TCP_KEEPIDLE` of a socket in `net`, in seconds. This and those that follow may be called in
    /// any context.
    pub(super) fn keepidle(&self, net: &Net) -> c_int {
        to_int(self.keepidle_ms(&net.tcp_sysctls()) / 1000)
    }

    /// `TCP_KEEPINTVL` of a socket in `net`, in seconds.
    pub(super) fn keepintvl(&self, net: &Net) -> c_int {
        to_int(self.keepintvl_ms(&net.tcp_sysctls()) / 1000)
    }

    /// `TCP_KEEPCNT` of a socket in `net`.
    pub(super) fn keepcnt(&self, net: &Net) -> c_int {
        to_int(or_default(self.keepcnt, net.tcp_sysctls().keepalive_probes))
    }

    /// `TCP_SYNCNT` of a socket in `net`.
    pub(super) fn syncnt(&self, net: &Net) -> c_int {
        to_int(or_default(self.syncnt, net.tcp_sysctls().syn_retries))
    }

    /// `TCP_USER_TIMEOUT`, in milliseconds.
    pub(super) fn user_timeout(&self) -> c_int {
        to_int(self.user_timeout)
    }

    /// How long a connect in `net` may take, in nanoseconds.
    pub(super) fn connect_ns(&self, net: &Net) -> u64 {
        let tcp = net.tcp_sysctls();
        let retries = or_default(self.syncnt, tcp.syn_retries);
        let limit = retry_ms(retries, SYN_PAUSE_MS, tcp.rto_max);
        ms(or_default(self.user_timeout, limit).min(limit))
    }

    /// Sets the limits in the machine of a connection in `net`.
    pub(super) fn apply(&self, machine: &mut Machine, net: &Net) {
        let tcp = net.tcp_sysctls();
        machine.set_keepalive(self.keepalive.then(|| KeepAlive {
            idle: ms(self.keepidle_ms(&tcp)),
            interval: ms(self.keepintvl_ms(&tcp)),
            probes: or_default(self.keepcnt, tcp.keepalive_probes),
        }));
        let user_timeout = (self.user_timeout > 0).then(|| ms(self.user_timeout));
        // Without it TCP's number of retries is the limit.
        let silence = match user_timeout {
            None => Some(ms(retry_ms(tcp.retries2, PAUSE_MS, tcp.rto_max))),
            Some(_) => None,
        };
        machine.set_limits(user_timeout, silence);
    }
}
