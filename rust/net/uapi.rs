// SPDX-License-Identifier: GPL-2.0

//! The numbers of socket options, ioctls and events that programs use, from the headers of the
//! kernel and of SDP.

use crate::{
    bindings,
    prelude::*, //
};

/// What `SDP_STATS` gives.
pub(crate) use bindings::sdp_stats;

/// Names of C, each as the type that the calls have it in.
macro_rules! numbers {
    ($type:ty: $($(#[$doc:meta])* $name:ident,)*) => {
        $(
            $(#[$doc])*
            pub(crate) const $name: $type = bindings::$name as $type;
        )*
    };
}

// The levels and names of options.
numbers! {
    c_int:
    /// The level of TCP's options.
    IPPROTO_TCP,
    /// The level of IPv6's options.
    IPPROTO_IPV6,
    /// Send small writes at once.
    TCP_NODELAY,
    /// The most payload of one message.
    TCP_MAXSEG,
    /// Send only full messages.
    TCP_CORK,
    /// After how many seconds an idle peer is probed.
    TCP_KEEPIDLE,
    /// The seconds between probes.
    TCP_KEEPINTVL,
    /// After how many unanswered probes the peer is taken for dead.
    TCP_KEEPCNT,
    /// How many times connect is retried.
    TCP_SYNCNT,
    /// For how many milliseconds written bytes may make no progress.
    TCP_USER_TIMEOUT,
    /// How long a closed socket waits for its peer, in seconds.
    TCP_LINGER2,
    /// For how long a connection waits for data before it can be accepted, in seconds.
    TCP_DEFER_ACCEPT,
    /// The most bytes of receive buffers.
    TCP_WINDOW_CLAMP,
    /// What a connection is doing.
    TCP_INFO,
    /// Acknowledge at once.
    TCP_QUICKACK,
    /// The name of the congestion control.
    TCP_CONGESTION,
    /// How many peers may send data with their request.
    TCP_FASTOPEN,
    /// Above how many bytes that were not sent the socket is not writable.
    TCP_NOTSENT_LOWAT,
    /// What the congestion control is doing.
    TCP_CC_INFO,
    /// The request that the connection came of.
    TCP_SAVED_SYN,
    /// Whether the first write is to be sent with the request.
    TCP_FASTOPEN_CONNECT,
    /// The protocol above the stream.
    TCP_ULP,
    /// The keys of cookies.
    TCP_FASTOPEN_KEY,
    /// Whether a request may carry data without a cookie.
    TCP_FASTOPEN_NO_COOKIE,
    /// Whether a receive tells how much is left to be read.
    TCP_INQ,
    /// Whether the socket is MPTCP's.
    TCP_IS_MPTCP,
    /// The least call that moves its bytes without a copy.
    SDP_ZCOPY_THRESH,
    /// Whether a call that would block may leave its buffer with the socket.
    SDP_ZCOPY_RETRY,
    /// Why the last bind failed.
    SDP_LAST_BIND_ERR,
    /// How the bytes of a connection moved.
    SDP_STATS,
}

// TCP's bounds of its options.
numbers! {
    c_int:
    /// The most of `TCP_KEEPIDLE`, in seconds.
    MAX_TCP_KEEPIDLE,
    /// The most of `TCP_KEEPINTVL`, in seconds.
    MAX_TCP_KEEPINTVL,
    /// The most of `TCP_KEEPCNT`.
    MAX_TCP_KEEPCNT,
    /// The most of `TCP_SYNCNT`.
    MAX_TCP_SYNCNT,
    /// The least of `TCP_MAXSEG`.
    TCP_MIN_MSS,
    /// The most of `TCP_MAXSEG`.
    MAX_TCP_WINDOW,
    /// What `TCP_MAXSEG` says of a socket without a connection.
    TCP_MSS_DEFAULT,
}

/// The most of `TCP_LINGER2`, in seconds.
pub(crate) const TCP_LINGER2_MAX: c_int = bindings::SDP_HELPER_TCP_LINGER2_MAX as c_int;

/// The least of `SO_RCVBUF`; that of `TCP_WINDOW_CLAMP` is half of it.
pub(crate) const SOCK_MIN_RCVBUF: c_int = bindings::SDP_HELPER_SOCK_MIN_RCVBUF as c_int;

// The commands of ioctls.
numbers! {
    u32:
    /// Whether the urgent byte is next.
    SIOCATMARK,
    /// Bytes that were written and are not on their way.
    SIOCOUTQNSD,
}

/// Bytes that can be read.
pub(crate) const SIOCINQ: u32 = bindings::FIONREAD;

/// Bytes that were written and have not reached the peer.
pub(crate) const SIOCOUTQ: u32 = bindings::TIOCOUTQ;

/// Options of TCP that are kept, and have no meaning: hints about its timers and segments.
pub(crate) const TCP_HINTS: [c_int; 5] = [
    bindings::TCP_THIN_LINEAR_TIMEOUTS as c_int,
    bindings::TCP_THIN_DUPACK as c_int,
    bindings::TCP_RTO_MAX_MS as c_int,
    bindings::TCP_RTO_MIN_US as c_int,
    bindings::TCP_DELACK_MAX_US as c_int,
];

/// There is something to read, or the end.
pub(crate) const EPOLLIN: u32 = bindings::SDP_HELPER_EPOLLIN;
/// There is urgent data.
pub(crate) const EPOLLPRI: u32 = bindings::SDP_HELPER_EPOLLPRI;
/// There is room to write.
pub(crate) const EPOLLOUT: u32 = bindings::SDP_HELPER_EPOLLOUT;
/// There is an error, or something in the error queue.
pub(crate) const EPOLLERR: u32 = bindings::SDP_HELPER_EPOLLERR;
/// Both directions have ended.
pub(crate) const EPOLLHUP: u32 = bindings::SDP_HELPER_EPOLLHUP;
/// As [`EPOLLIN`].
pub(crate) const EPOLLRDNORM: u32 = bindings::SDP_HELPER_EPOLLRDNORM;
/// As [`EPOLLOUT`].
pub(crate) const EPOLLWRNORM: u32 = bindings::SDP_HELPER_EPOLLWRNORM;
/// The peer writes no more.
pub(crate) const EPOLLRDHUP: u32 = bindings::SDP_HELPER_EPOLLRDHUP;
