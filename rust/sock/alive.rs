// SPDX-License-Identifier: GPL-2.0

//! How long a peer may be silent: by the options of the socket, and by TCP's settings of the
//! namespace for those that are not set.

use crate::{
    net::namespace::{
        Net,
        TcpSysctls, //
    },
    prelude::*,
    proto::{
        KeepAlive,
        Machine, //
    },
    sock::time::ms, //
};

/// The maximum of `TCP_KEEPIDLE` and `TCP_KEEPINTVL`, in seconds, and of `TCP_KEEPCNT` and
/// `TCP_SYNCNT`, as with TCP.
const SECONDS_MAX: c_int = 32767;
const COUNT_MAX: c_int = 127;

/// TCP's first retransmission timeout of a SYN, and its minimum otherwise, in milliseconds.
const SYN_PAUSE_MS: u32 = 1000;
const PAUSE_MS: u32 = 200;

/// The options of a socket that limit the peer's silence; 0 where one is not set.
#[derive(Clone, Copy, Default)]
pub(super) struct Patience {
    /// `SO_KEEPALIVE`.
    pub(super) keepalive: bool,
    /// `TCP_KEEPIDLE`, in seconds.
    idle: u16,
    /// `TCP_KEEPINTVL`, in seconds.
    interval: u16,
    /// `TCP_KEEPCNT`.
    probes: u8,
    /// `TCP_SYNCNT`.
    syn_count: u8,
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

impl Patience {
    /// Sets `TCP_KEEPIDLE`, in seconds. This and those that follow fail with `EINVAL`, as with TCP.
    pub(super) fn set_idle(&mut self, seconds: c_int) -> Result {
        self.idle = check(seconds, SECONDS_MAX)?;
        Ok(())
    }

    /// Sets `TCP_KEEPINTVL`, in seconds.
    pub(super) fn set_interval(&mut self, seconds: c_int) -> Result {
        self.interval = check(seconds, SECONDS_MAX)?;
        Ok(())
    }

    /// Sets `TCP_KEEPCNT`.
    pub(super) fn set_probes(&mut self, count: c_int) -> Result {
        self.probes = check(count, COUNT_MAX)?;
        Ok(())
    }

    /// Sets `TCP_SYNCNT`.
    pub(super) fn set_syn_count(&mut self, count: c_int) -> Result {
        self.syn_count = check(count, COUNT_MAX)?;
        Ok(())
    }

    /// Sets `TCP_USER_TIMEOUT`, in milliseconds.
    pub(super) fn set_user_timeout(&mut self, ms: c_int) -> Result {
        self.user_timeout = u32::try_from(ms).map_err(|_| EINVAL)?;
        Ok(())
    }

    fn idle_ms(&self, tcp: &TcpSysctls) -> u32 {
        or_default(
            u32::from(self.idle).saturating_mul(1000),
            tcp.keepalive_time,
        )
    }

    fn interval_ms(&self, tcp: &TcpSysctls) -> u32 {
        or_default(
            u32::from(self.interval).saturating_mul(1000),
            tcp.keepalive_intvl,
        )
    }

    /// `TCP_KEEPIDLE` of a socket in `net`, in seconds. This and those that follow may be called in
    /// any context.
    pub(super) fn idle(&self, net: &Net) -> c_int {
        to_int(self.idle_ms(&net.tcp_sysctls()) / 1000)
    }

    /// `TCP_KEEPINTVL` of a socket in `net`, in seconds.
    pub(super) fn interval(&self, net: &Net) -> c_int {
        to_int(self.interval_ms(&net.tcp_sysctls()) / 1000)
    }

    /// `TCP_KEEPCNT` of a socket in `net`.
    pub(super) fn probes(&self, net: &Net) -> c_int {
        to_int(or_default(self.probes, net.tcp_sysctls().keepalive_probes))
    }

    /// `TCP_SYNCNT` of a socket in `net`.
    pub(super) fn syn_count(&self, net: &Net) -> c_int {
        to_int(or_default(self.syn_count, net.tcp_sysctls().syn_retries))
    }

    /// `TCP_USER_TIMEOUT`, in milliseconds.
    pub(super) fn user_timeout(&self) -> c_int {
        to_int(self.user_timeout)
    }

    /// How long a connect in `net` may take, in nanoseconds.
    pub(super) fn connect_ns(&self, net: &Net) -> u64 {
        let tcp = net.tcp_sysctls();
        let retries = or_default(self.syn_count, tcp.syn_retries);
        let limit = retry_ms(retries, SYN_PAUSE_MS, tcp.rto_max);
        ms(or_default(self.user_timeout, limit).min(limit))
    }

    /// Sets the limits in the machine of a connection in `net`.
    pub(super) fn apply(&self, machine: &mut Machine, net: &Net) {
        let tcp = net.tcp_sysctls();
        machine.set_keepalive(self.keepalive.then(|| KeepAlive {
            idle: ms(self.idle_ms(&tcp)),
            interval: ms(self.interval_ms(&tcp)),
            probes: or_default(self.probes, tcp.keepalive_probes),
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
