// SPDX-License-Identifier: GPL-2.0

//! Socket options at TCP's level, what options of the socket layer change here, and ioctls.

use crate::{
    net::{
        diag::Visible,
        optval::{
            OptionRoom,
            OptionValue, //
        },
        sock::TcpState,
        tcp_info::TcpInfo,
        uapi::{
            IPPROTO_TCP,
            MAX_TCP_WINDOW,
            SDP_LAST_BIND_ERR,
            SDP_STATS,
            SDP_ZCOPY_RETRY,
            SDP_ZCOPY_THRESH,
            SIOCATMARK,
            SIOCINQ,
            SIOCOUTQ,
            SIOCOUTQNSD,
            SOCK_MIN_RCVBUF,
            TCP_CC_INFO,
            TCP_CONGESTION,
            TCP_CORK,
            TCP_DEFER_ACCEPT,
            TCP_FASTOPEN,
            TCP_FASTOPEN_CONNECT,
            TCP_FASTOPEN_KEY,
            TCP_FASTOPEN_NO_COOKIE,
            TCP_HINTS,
            TCP_INFO,
            TCP_INQ,
            TCP_IS_MPTCP,
            TCP_KEEPCNT,
            TCP_KEEPIDLE,
            TCP_KEEPINTVL,
            TCP_LINGER2,
            TCP_LINGER2_MAX,
            TCP_MAXSEG,
            TCP_MIN_MSS,
            TCP_MSS_DEFAULT,
            TCP_NODELAY,
            TCP_NOTSENT_LOWAT,
            TCP_QUICKACK,
            TCP_SAVED_SYN,
            TCP_SYNCNT,
            TCP_ULP,
            TCP_USER_TIMEOUT,
            TCP_WINDOW_CLAMP, //
        }, //
    },
    prelude::*,
    proto::Machine,
    sock::{
        conn_options::CONGESTION,
        inq,
        locked::{
            Locked,
            SocketState, //
        },
        owner::recv_limit,
        poll_state,
        settings,
        stats::Counters,
        types::Socket, //
    }, //
};

/// Begins to number the bytes that are sent: with the next one, or the first that has not reached
/// the peer. Sleeps.
pub(super) fn start_stamp_ids(sk: &Socket, from_next: bool) {
    if let Some(conn) = sk.lock().conn() {
        conn.start_stamp_ids(from_next);
    }
}

/// `setsockopt(2)`, with the errors of TCP. Sleeps. Fails with `ENOPROTOOPT` for what a stream over
/// RDMA does not have.
pub(super) fn set(sk: &Socket, name: c_int, value: OptionValue<'_>) -> Result {
    match name {
        TCP_CONGESTION => {
            let name = value.name()?;
            if name != CONGESTION {
                sk.ask_tcp(IPPROTO_TCP, TCP_CONGESTION, OptionValue::of(&name))?;
            }
            let mut s = sk.lock();
            s.options.congestion = name;
            apply(&s);
            return Ok(());
        }
        // As where no module has it.
        TCP_ULP => return value.name::<16>().and(Err(ENOENT)),
        TCP_FASTOPEN_KEY if !matches!(value.len(), 16 | 32) => return Err(EINVAL),
        _ => {}
    }
    let value = value.int()?;
    if let Some(at) = TCP_HINTS.iter().position(|hint| *hint == name) {
        sk.ask_tcp(IPPROTO_TCP, name, OptionValue::of(&value.to_ne_bytes()))?;
        let mut s = sk.lock();
        if let Some(hint) = s.options.hints.get_mut(at) {
            *hint = Some(value);
        }
        apply(&s);
        return Ok(());
    }
    let flag = || match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    };
    let mut s = sk.lock();
    let state = sk.state();
    let is_closed = state == TcpState::Close as u8;
    let is_unconnected = is_closed || state == TcpState::Listen as u8;
    match name {
        TCP_NODELAY => s.options.nodelay = value != 0,
        TCP_CORK => s.options.cork = value != 0,
        TCP_KEEPIDLE => s.options.timeouts.set_keepidle(value)?,
        TCP_KEEPINTVL => s.options.timeouts.set_keepintvl(value)?,
        TCP_KEEPCNT => s.options.timeouts.set_keepcnt(value)?,
        TCP_SYNCNT => s.options.timeouts.set_syncnt(value)?,
        TCP_USER_TIMEOUT => s.options.timeouts.set_user_timeout(value)?,
        TCP_MAXSEG => match value {
            0 | TCP_MIN_MSS..=MAX_TCP_WINDOW => s.options.max_seg = value.unsigned_abs(),
            _ => return Err(EINVAL),
        },
        TCP_LINGER2 => s.options.linger2 = value.clamp(-1, TCP_LINGER2_MAX),
        TCP_DEFER_ACCEPT => s.options.defer_accept = defer_seconds(value),
        // A device acknowledges at once, whatever is set.
        TCP_QUICKACK => {}
        TCP_WINDOW_CLAMP if value == 0 && !is_closed => return Err(EINVAL),
        TCP_WINDOW_CLAMP => {
            s.options.window_clamp = match value {
                0 => 0,
                // CAST: As TCP compares them.
                bytes => bytes.max(SOCK_MIN_RCVBUF / 2) as u32,
            }
        }
        TCP_FASTOPEN if value < 0 || !is_unconnected => return Err(EINVAL),
        TCP_FASTOPEN => s.options.fastopen = value.min(sk.net().somaxconn()),
        TCP_FASTOPEN_CONNECT => {
            let on = flag()?;
            if !sk.net().is_fastopen_client() {
                return Err(EOPNOTSUPP);
            }
            if !is_closed {
                return Err(EINVAL);
            }
            s.options.fastopen_connect = on;
        }
        TCP_FASTOPEN_NO_COOKIE => {
            let on = flag()?;
            if !is_unconnected {
                return Err(EINVAL);
            }
            s.options.fastopen_no_cookie = on;
        }
        // CAST: TCP has it without a sign.
        TCP_NOTSENT_LOWAT => s.options.notsent_lowat = value as u32,
        TCP_INQ => s.options.inq = flag()?,
        SDP_ZCOPY_THRESH => {
            s.options.zcopy_threshold = settings::check_zcopy_threshold(value)?;
        }
        SDP_ZCOPY_RETRY => {
            s.options.zcopy_retry = match value {
                0 if sk.poll_state().lock().has_retry_buffer() => return Err(EBUSY),
                0 => false,
                1 => true,
                _ => return Err(EINVAL),
            };
        }
        _ => return Err(ENOPROTOOPT),
    }
    apply(&s);
    match (name, s.conn()) {
        (TCP_NOTSENT_LOWAT, _) => sk.write_space(),
        (TCP_WINDOW_CLAMP, Some(conn)) => conn.want_more(recv_limit(sk)),
        _ => {}
    }
    Ok(())
}

/// Notifies readers where what is there is enough now, with the socket locked.
pub(super) fn low_water_set(sk: &Socket) {
    // The socket keeps it.
    let conn = sk.poll_state().lock().conn.clone();
    if let Some(conn) = conn {
        conn.want_more(recv_limit(sk));
        poll_state::notify_readers(sk);
    }
}

/// Applies `SO_KEEPALIVE`.
pub(super) fn set_keepalive(s: &mut Locked, on: bool) {
    s.options.timeouts.keepalive = on;
    apply(s);
}

/// Applies the options to the connection, and to those that the socket will accept.
fn apply(s: &Locked) {
    if let Some(conn) = s.conn() {
        conn.set_options(s.options);
    }
    if let Some(bound) = s.local.bound() {
        bound.backlog.set_options(s.options);
    }
}

/// `getsockopt(2)`.
pub(super) fn get(sk: &Socket, name: c_int, to: OptionRoom) -> Result {
    let s = sk.lock();
    let value: c_int = match name {
        TCP_NODELAY => s.options.nodelay.into(),
        TCP_CORK => s.options.cork.into(),
        TCP_KEEPIDLE => s.options.timeouts.keepidle(sk.net()),
        TCP_KEEPINTVL => s.options.timeouts.keepintvl(sk.net()),
        TCP_KEEPCNT => s.options.timeouts.keepcnt(sk.net()),
        TCP_SYNCNT => s.options.timeouts.syncnt(sk.net()),
        TCP_USER_TIMEOUT => s.options.timeouts.user_timeout(),
        TCP_MAXSEG => c_int::try_from(max_seg(&s))?,
        TCP_LINGER2 => match s.options.linger2 {
            0 => c_int::try_from(settings::fin_timeout_ms(sk.net()) / 1000)?,
            seconds => seconds,
        },
        TCP_DEFER_ACCEPT => c_int::try_from(s.options.defer_accept)?,
        TCP_QUICKACK => 1,
        TCP_WINDOW_CLAMP => c_int::try_from(s.options.window_clamp)?,
        TCP_IS_MPTCP => 0,
        TCP_FASTOPEN => s.options.fastopen,
        TCP_FASTOPEN_CONNECT => s.options.fastopen_connect.into(),
        TCP_FASTOPEN_NO_COOKIE => s.options.fastopen_no_cookie.into(),
        // CAST: As above.
        TCP_NOTSENT_LOWAT => s.options.notsent_lowat as c_int,
        TCP_INQ => s.options.inq.into(),
        SDP_ZCOPY_THRESH => c_int::try_from(s.options.zcopy_threshold)?,
        SDP_ZCOPY_RETRY => s.options.zcopy_retry.into(),
        SDP_LAST_BIND_ERR => s.local.last_bind_error(),
        TCP_INFO => {
            let info = info(sk, &s);
            drop(s);
            return to.give(&info.to_bytes());
        }
        TCP_CONGESTION => {
            let name = s.options.congestion();
            drop(s);
            return to.give(&name);
        }
        // None of them is there.
        TCP_CC_INFO | TCP_SAVED_SYN | TCP_ULP | TCP_FASTOPEN_KEY => {
            drop(s);
            return to.give(&[0u8; 0]);
        }
        SDP_STATS => {
            let conn = s.conn().cloned();
            drop(s);
            return match conn {
                Some(conn) => to.give(&conn.stats.read()),
                None => to.give(&Counters::new().read()),
            };
        }
        _ => {
            let at = TCP_HINTS.iter().position(|hint| *hint == name);
            let set = s.options.hints.get(at.ok_or(ENOPROTOOPT)?).copied();
            drop(s);
            return sk.give_as_tcp(name, set.flatten(), to);
        }
    };
    drop(s);
    to.give(&value)
}

/// `TCP_DEFER_ACCEPT` as TCP rounds it: the time in which it sends its SYN-ACK so many times, first
/// after a second, then after twice the time before, and at least each two minutes.
fn defer_seconds(value: c_int) -> u32 {
    let Ok(wanted @ 1..) = u32::try_from(value) else {
        return 0;
    };
    let (mut step, mut period) = (1u32, 1u32);
    for _ in 1..u8::MAX {
        if period >= wanted {
            break;
        }
        step = step.saturating_mul(2).min(120);
        period = period.saturating_add(step);
    }
    period
}

/// The most payload of a message.
fn max_seg(s: &Locked) -> u32 {
    match (s.state(), s.conn()) {
        (SocketState::Connected, Some(conn)) => conn.inspect(Machine::max_payload),
        _ if s.options.max_seg > 0 => s.options.max_seg,
        _ => TCP_MSS_DEFAULT.unsigned_abs(),
    }
}

/// What is known of all that TCP reports.
fn info(sk: &Socket, s: &Locked) -> TcpInfo {
    let known = match (s.conn(), s.local.bound()) {
        (Some(conn), _) => conn.info(),
        (None, Some(bound)) => bound.info(),
        (None, None) => TcpInfo::default(),
    };
    TcpInfo {
        state: sk.state(),
        pacing_rate: u64::MAX,
        max_pacing_rate: sk.max_pacing_rate(),
        snd_mss: max_seg(s),
        ..known
    }
}

/// `ioctl(2)`: the bytes that can be read, up to the urgent one, that have not reached the peer, or
/// that are not on their way; and whether the urgent byte is next.
pub(super) fn ioctl(sk: &Socket, cmd: u32) -> Result<c_int> {
    let s = sk.lock();
    let bytes = match cmd {
        SIOCINQ | SIOCOUTQ | SIOCOUTQNSD if matches!(s.state(), SocketState::Listening) => {
            return Err(EINVAL)
        }
        SIOCINQ => inq::unread_to_mark(&s),
        SIOCATMARK => s.conn().map_or(0, |conn| conn.inq(sk).is_at_mark().into()),
        SIOCOUTQ => s.conn().map_or(0, |conn| conn.queued()),
        SIOCOUTQNSD => s.conn().map_or(0, |conn| conn.inspect(Machine::unsent)),
        _ => return Err(ENOIOCTLCMD),
    };
    Ok(c_int::try_from(bytes).unwrap_or(c_int::MAX))
}
