// SPDX-License-Identifier: GPL-2.0

//! Socket options at TCP's level, and ioctls.

use crate::{
    net::option::{
        OptionRoom,
        IPPROTO_TCP,
        SDP_STATS,
        SDP_ZCOPY_RETRY,
        SDP_ZCOPY_THRESH,
        SIOCINQ,
        SIOCOUTQ,
        TCP_CORK,
        TCP_NODELAY, //
    },
    prelude::*,
    sock::{
        recv,
        settings,
        stats::Counters,
        Socket,
        State, //
    },
};

/// `setsockopt(2)`. `ENOPROTOOPT` for what a stream over RDMA does not have.
pub(super) fn set(sk: &Socket, level: c_int, name: c_int, value: c_int) -> Result {
    let on = value != 0;
    let mut s = sk.lock();
    match (level, name) {
        (IPPROTO_TCP, TCP_NODELAY) => s.options.nodelay = on,
        (IPPROTO_TCP, TCP_CORK) => s.options.cork = on,
        (IPPROTO_TCP, SDP_ZCOPY_THRESH) => {
            s.options.zcopy_threshold = settings::check_zcopy_threshold(value)?;
        }
        (IPPROTO_TCP, SDP_ZCOPY_RETRY) => {
            s.options.zcopy_retry = match value {
                0 if s.kept_send.is_some() || s.kept_recv.is_some() => return Err(EBUSY),
                0 => false,
                1 => true,
                _ => return Err(EINVAL),
            };
        }
        _ => return Err(ENOPROTOOPT),
    }
    if let Some(conn) = &s.conn {
        conn.set_options(s.options);
    }
    if let Some(bound) = &s.bound {
        bound.backlog.set_options(s.options);
    }
    Ok(())
}

/// `getsockopt(2)`.
pub(super) fn get(sk: &Socket, level: c_int, name: c_int, to: OptionRoom) -> Result {
    let s = sk.lock();
    let value: c_int = match (level, name) {
        (IPPROTO_TCP, TCP_NODELAY) => s.options.nodelay.into(),
        (IPPROTO_TCP, TCP_CORK) => s.options.cork.into(),
        (IPPROTO_TCP, SDP_ZCOPY_THRESH) => c_int::try_from(s.options.zcopy_threshold)?,
        (IPPROTO_TCP, SDP_ZCOPY_RETRY) => s.options.zcopy_retry.into(),
        (IPPROTO_TCP, SDP_STATS) => {
            let conn = s.conn.clone();
            drop(s);
            return match conn {
                Some(conn) => to.give(&conn.stats.read()),
                None => to.give(&Counters::new().read()),
            };
        }
        _ => return Err(ENOPROTOOPT),
    };
    drop(s);
    to.give(&value)
}

/// `ioctl(2)`: the bytes that can be read, or that have not reached the peer.
pub(super) fn ioctl(sk: &Socket, cmd: u32) -> Result<c_int> {
    let mut s = sk.lock();
    let bytes = match cmd {
        SIOCINQ | SIOCOUTQ if matches!(s.state(), State::Listening) => return Err(EINVAL),
        SIOCINQ => recv::unread(&mut s),
        SIOCOUTQ => s.conn.as_ref().map_or(0, |conn| conn.queued()),
        _ => return Err(ENOIOCTLCMD),
    };
    Ok(c_int::try_from(bytes).unwrap_or(c_int::MAX))
}
