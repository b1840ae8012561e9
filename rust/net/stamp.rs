// SPDX-License-Identifier: GPL-2.0

//! When bytes came, for programs that ask by `SO_TIMESTAMP`, `SO_TIMESTAMPNS` or `SO_TIMESTAMPING`,
//! and when they were sent.

use crate::{
    bindings,
    net::{
        msg::RecvMsg,
        ops::Protocol,
        sock::{
            Sock,
            STAMPS, //
        },
        tcp_info::TcpInfo, //
    },
    prelude::*, //
};
use core::{
    num::NonZeroI64,
    ptr::{
        addr_of,
        null, //
    },
};
use kernel::time::{
    ClockSource,
    RealTime, //
};

/// CAST: It is small.
const NSEC_PER_SEC: i64 = bindings::NSEC_PER_SEC as i64;

/// A time of day, in nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(NonZeroI64);

impl<P: Protocol> Sock<P> {
    /// The time of day, if the program has asked when bytes come. Any context.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        // SAFETY: The sock is live; the flags are an integer that changes at any time.
        let flags = unsafe {
            addr_of!((*self.as_ptr()).__sk_common.__bindgen_anon_5.skc_flags).read_volatile()
        };
        if flags & STAMPS == 0 {
            return None;
        }
        NonZeroI64::new(RealTime::ktime_get()).map(Stamp)
    }
}

/// A stage on the way of a byte that is sent, at which the time is reported.
#[derive(Clone, Copy)]
pub(crate) enum TxStamp {
    /// It was taken from the program.
    Queued,
    /// It was given to the device.
    Sent,
    /// It has reached the peer.
    Arrived,
}

impl TxStamp {
    /// All, in the order in which they come.
    pub(crate) const ALL: [Self; 3] = [Self::Queued, Self::Sent, Self::Arrived];

    fn flag(self) -> u32 {
        match self {
            Self::Queued => bindings::SOF_TIMESTAMPING_TX_SCHED,
            Self::Sent => bindings::SOF_TIMESTAMPING_TX_SOFTWARE,
            Self::Arrived => bindings::SOF_TIMESTAMPING_TX_ACK,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Queued => bindings::SCM_TSTAMP_SCHED,
            Self::Sent => bindings::SCM_TSTAMP_SND,
            Self::Arrived => bindings::SCM_TSTAMP_ACK,
        }
    }
}

/// The stages that a program has asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct TxStamps(u32);

impl TxStamps {
    /// Those of `SOF_TIMESTAMPING_*`. Software takes no part in the others.
    pub(super) fn of(flags: u32) -> Self {
        Self(
            flags
                & TxStamp::ALL
                    .into_iter()
                    .fold(0, |all, stage| all | stage.flag()),
        )
    }

    /// Whether there are none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is one.
    pub(crate) fn has(self, stage: TxStamp) -> bool {
        self.0 & stage.flag() != 0
    }

    /// Adds others.
    pub(crate) fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Removes one.
    pub(crate) fn remove(&mut self, stage: TxStamp) {
        self.0 &= !stage.flag();
    }
}

impl<P: Protocol> Sock<P> {
    /// The `SOF_TIMESTAMPING_*` that are set. Any context, as for those that follow.
    pub(super) fn stamp_flags(&self) -> u32 {
        // SAFETY: The sock is live; the field is an integer.
        unsafe { addr_of!((*self.as_ptr()).sk_tsflags).read_volatile() }
    }

    /// The stages that the program has asked for, of what it sends (`SO_TIMESTAMPING`).
    pub(crate) fn stages(&self) -> TxStamps {
        TxStamps::of(self.stamp_flags())
    }

    /// Whether each stamp comes with statistics of the connection.
    pub(crate) fn wants_stats(&self) -> bool {
        let both = bindings::SOF_TIMESTAMPING_OPT_STATS | bindings::SOF_TIMESTAMPING_OPT_TSONLY;
        self.stamp_flags() & both == both
    }

    /// Reports by the error queue that the byte with this key has reached a stage, now; with
    /// statistics of the connection, and the bytes that are queued there, if given. The entry
    /// counts as received memory: it is dropped where `SO_RCVBUF` has no room for it, as with TCP.
    pub(crate) fn put_sent_stamp(&self, stage: TxStamp, key: u32, stats: Option<(TcpInfo, u32)>) {
        let stats = stats.map(|(info, queued)| (info.to_bytes(), queued));
        let (info, queued) = match &stats {
            Some((info, queued)) => (info.as_ptr(), *queued),
            None => (null(), 0),
        };
        // SAFETY: The sock is live; the information is a `struct tcp_info`, of any alignment.
        unsafe {
            bindings::sdp_helper_put_tx_stamp(
                self.as_ptr(),
                stage.number(),
                key,
                info.cast(),
                queued,
            );
        }
    }
}

impl RecvMsg<'_> {
    /// Tells the caller when the last of its bytes came, by the control messages that the options
    /// of `sk` ask for. Without the socket lock.
    pub(crate) fn put_timestamps<P: Protocol>(&mut self, sk: &Sock<P>, stamp: Stamp) {
        let seconds = stamp.0.get().div_euclid(NSEC_PER_SEC);
        let nanos = stamp.0.get().rem_euclid(NSEC_PER_SEC);
        // SAFETY: The sock is live.
        let has = |flag| unsafe { bindings::sdp_helper_sock_flag(sk.as_ptr(), flag) };
        let is_new = has(bindings::sock_flags_SOCK_TSTAMP_NEW);
        if has(bindings::sock_flags_SOCK_RCVTSTAMP) {
            let is_ns = has(bindings::sock_flags_SOCK_RCVTSTAMPNS);
            let name = match (is_ns, is_new) {
                (true, true) => bindings::SO_TIMESTAMPNS_NEW,
                (true, false) => bindings::SO_TIMESTAMPNS_OLD,
                (false, true) => bindings::SO_TIMESTAMP_NEW,
                (false, false) => bindings::SO_TIMESTAMP_OLD,
            };
            let fraction = if is_ns { nanos } else { nanos / 1000 };
            self.put_times(name, is_new, [seconds, fraction]);
        }
        let flags = sk.stamp_flags();
        let is_set = |flag| flags & flag != 0;
        if is_set(bindings::SOF_TIMESTAMPING_SOFTWARE)
            && (is_set(bindings::SOF_TIMESTAMPING_RX_SOFTWARE)
                || !is_set(bindings::SOF_TIMESTAMPING_OPT_RX_FILTER))
        {
            let name = match is_new {
                true => bindings::SO_TIMESTAMPING_NEW,
                false => bindings::SO_TIMESTAMPING_OLD,
            };
            // The others are times of hardware.
            self.put_times(name, is_new, [seconds, nanos, 0, 0, 0, 0]);
        }
    }

    /// A control message of times, whose numbers have 64 bits, or as many as a `long`.
    fn put_times<const N: usize>(&mut self, name: u32, is_new: bool, numbers: [i64; N]) {
        // CAST: What does not fit is what the new options are for.
        let short = numbers.map(|number| number as c_long);
        let (data, len) = match is_new {
            true => (numbers.as_ptr().cast_mut().cast(), size_of_val(&numbers)),
            false => (short.as_ptr().cast_mut().cast(), size_of_val(&short)),
        };
        // SAFETY: The message is valid, its room for control messages is nobody else's, and `data`
        // has `len` bytes. CAST: They are small.
        unsafe {
            let level = bindings::SOL_SOCKET as c_int;
            bindings::put_cmsg(self.msg, level, name as c_int, len as c_int, data);
        }
    }
}
