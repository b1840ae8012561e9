// SPDX-License-Identifier: GPL-2.0

//! Numbers of socket options and ioctls, and the values of options.

use crate::{
    bindings,
    prelude::*, //
};
use core::marker::PhantomData;
use kernel::{
    transmute::AsBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// What `SDP_STATS` gives.
pub(crate) use bindings::sdp_stats;

/// The level of TCP's options.
pub(crate) const IPPROTO_TCP: c_int = bindings::IPPROTO_TCP as c_int;

/// The level of IPv6's options.
pub(crate) const IPPROTO_IPV6: c_int = bindings::IPPROTO_IPV6 as c_int;

/// Send small writes at once.
pub(crate) const TCP_NODELAY: c_int = 1;

/// The most payload of one message.
pub(crate) const TCP_MAXSEG: c_int = 2;

/// Send only full messages.
pub(crate) const TCP_CORK: c_int = 3;

/// After how many seconds an idle peer is probed.
pub(crate) const TCP_KEEPIDLE: c_int = 4;

/// The seconds between probes.
pub(crate) const TCP_KEEPINTVL: c_int = 5;

/// After how many unanswered probes the peer is taken for dead.
pub(crate) const TCP_KEEPCNT: c_int = 6;

/// How many times connect is retried.
pub(crate) const TCP_SYNCNT: c_int = 7;

/// For how many milliseconds written bytes may make no progress.
pub(crate) const TCP_USER_TIMEOUT: c_int = 18;

/// How long a closed socket waits for its peer, in seconds.
pub(crate) const TCP_LINGER2: c_int = 8;

/// For how long a connection waits for data before it can be accepted, in seconds.
pub(crate) const TCP_DEFER_ACCEPT: c_int = 9;

/// The most bytes of receive buffers.
pub(crate) const TCP_WINDOW_CLAMP: c_int = 10;

/// What a connection is doing.
pub(crate) const TCP_INFO: c_int = 11;

/// Acknowledge at once.
pub(crate) const TCP_QUICKACK: c_int = 12;

/// The name of the congestion control.
pub(crate) const TCP_CONGESTION: c_int = 13;

const TCP_THIN_LINEAR_TIMEOUTS: c_int = 16;
const TCP_THIN_DUPACK: c_int = 17;
const TCP_RTO_MAX_MS: c_int = 44;
const TCP_RTO_MIN_US: c_int = 45;
const TCP_DELACK_MAX_US: c_int = 46;

/// How many peers may send data with their request.
pub(crate) const TCP_FASTOPEN: c_int = 23;

/// Above how many bytes that were not sent the socket is not writable.
pub(crate) const TCP_NOTSENT_LOWAT: c_int = 25;

/// What the congestion control is doing.
pub(crate) const TCP_CC_INFO: c_int = 26;

/// The request that the connection came of.
pub(crate) const TCP_SAVED_SYN: c_int = 28;

/// Whether the first write is to be sent with the request.
pub(crate) const TCP_FASTOPEN_CONNECT: c_int = 30;

/// The protocol above the stream.
pub(crate) const TCP_ULP: c_int = 31;

/// The keys of cookies.
pub(crate) const TCP_FASTOPEN_KEY: c_int = 33;

/// Whether a request may carry data without a cookie.
pub(crate) const TCP_FASTOPEN_NO_COOKIE: c_int = 34;

/// Whether a receive tells how much is left to be read.
pub(crate) const TCP_INQ: c_int = 36;

/// Whether the socket is MPTCP's.
pub(crate) const TCP_IS_MPTCP: c_int = 43;

/// The least call that moves its bytes without a copy.
pub(crate) const SDP_ZCOPY_THRESH: c_int = bindings::SDP_ZCOPY_THRESH as c_int;

/// Whether a call that would block may leave its buffer with the socket.
pub(crate) const SDP_ZCOPY_RETRY: c_int = bindings::SDP_ZCOPY_RETRY as c_int;

/// Why the last bind failed.
pub(crate) const SDP_LAST_BIND_ERR: c_int = bindings::SDP_LAST_BIND_ERR as c_int;

/// How the bytes of a connection moved.
pub(crate) const SDP_STATS: c_int = bindings::SDP_STATS as c_int;

/// Whether the urgent byte is next.
pub(crate) const SIOCATMARK: u32 = 0x8905;

/// Bytes that can be read.
pub(crate) const SIOCINQ: u32 = 0x541b;

/// Bytes that were written and have not reached the peer.
pub(crate) const SIOCOUTQ: u32 = 0x5411;

/// Bytes that were written and are not on their way.
pub(crate) const SIOCOUTQNSD: u32 = 0x894b;

/// Options of TCP that are kept, and have no meaning: hints about its timers and segments.
pub(crate) const TCP_HINTS: [c_int; 5] = [
    TCP_THIN_LINEAR_TIMEOUTS,
    TCP_THIN_DUPACK,
    TCP_RTO_MAX_MS,
    TCP_RTO_MIN_US,
    TCP_DELACK_MAX_US,
];

/// What a `setsockopt(2)` call sets an option to.
#[derive(Clone, Copy)]
pub(crate) struct OptionValue<'a> {
    value: bindings::sockptr_t,
    len: usize,
    _call: PhantomData<&'a ()>,
}

impl<'a> OptionValue<'a> {
    /// One of the kernel's own.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut value = bindings::sockptr_t::default();
        value.__bindgen_anon_1.kernel = bytes.as_ptr().cast_mut().cast();
        value.set_is_kernel(true);
        Self {
            value,
            len: bytes.len(),
            _call: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `value` is that of a call that lasts for `'a`; of kernel memory, it is `len` bytes.
    pub(super) unsafe fn new(value: bindings::sockptr_t, len: c_uint) -> Self {
        Self {
            value,
            // CAST: `usize` has at least 32 bits.
            len: len as usize,
            _call: PhantomData,
        }
    }

    /// It as C has it.
    pub(super) fn raw(self) -> (bindings::sockptr_t, c_uint) {
        // CAST: It was one.
        (self.value, self.len as c_uint)
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its first bytes. Fails with `EINVAL` where there are not as many, and `EFAULT`. Sleeps.
    pub(crate) fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        if self.len < N {
            return Err(EINVAL);
        }
        let mut bytes = [0; N];
        self.copy_to(&mut bytes)?;
        Ok(bytes)
    }

    /// It as an integer. Fails as [`Self::bytes`] does.
    pub(crate) fn int(&self) -> Result<c_int> {
        self.bytes().map(c_int::from_ne_bytes)
    }

    /// Whether there is none, whatever its length.
    pub(super) fn is_null(&self) -> bool {
        // SAFETY: Both are pointers.
        unsafe { self.value.__bindgen_anon_1.user.is_null() }
    }

    /// It as a name, cut to what there is room for, and filled up with zeroes. Fails with `EINVAL`
    /// where it is empty, and `EFAULT`. Sleeps.
    pub(crate) fn name<const N: usize>(&self) -> Result<[u8; N]> {
        let mut name = [0; N];
        let len = self.len.min(N.saturating_sub(1));
        let room = name.get_mut(..len).unwrap_or(&mut []);
        if room.is_empty() {
            return Err(EINVAL);
        }
        self.copy_to(room)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(N);
        name.iter_mut().skip(end).for_each(|byte| *byte = 0);
        Ok(name)
    }

    /// `to` is no longer than the value.
    fn copy_to(&self, to: &mut [u8]) -> Result {
        // SAFETY: `to` has the room, and the value is as long; a `sockptr_t` knows whether it is
        // the caller's memory.
        let failed = unsafe {
            bindings::sdp_helper_copy_from_sockptr(to.as_mut_ptr().cast(), self.value, to.len())
        };
        match failed {
            0 => Ok(()),
            _ => Err(EFAULT),
        }
    }
}

/// Where a `getsockopt(2)` call wants the value of an option.
pub(crate) struct OptionRoom {
    value: UserPtr,
    len: UserPtr,
    room: usize,
}

impl OptionRoom {
    /// Reads how much room there is. Sleeps. Fails with `EINVAL` where that is negative, and with
    /// `EFAULT`.
    pub(super) fn new(value: UserPtr, len: UserPtr) -> Result<Self> {
        let room: c_int = UserSlice::new(len, size_of::<c_int>()).reader().read()?;
        Ok(Self {
            value,
            len,
            room: usize::try_from(room).map_err(|_| EINVAL)?,
        })
    }

    /// It as C has it.
    pub(super) fn raw(self) -> (*mut c_char, *mut c_int) {
        (self.value.as_mut_ptr().cast(), self.len.as_mut_ptr().cast())
    }

    /// Stores `value` for the caller, truncated to the room, and its length. Sleeps. Fails with
    /// `EFAULT`.
    pub(crate) fn give(self, value: &impl AsBytes) -> Result {
        let bytes = value.as_bytes();
        let bytes = bytes.get(..self.room).unwrap_or(bytes);
        UserSlice::new(self.len, size_of::<c_int>())
            .writer()
            .write(&c_int::try_from(bytes.len())?)?;
        UserSlice::new(self.value, bytes.len())
            .writer()
            .write_slice(bytes)
    }
}

macro_rules! tcp_info {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $field:ident,)*) => {
        /// What `TCP_INFO` gives; what is not here is 0.
        #[derive(Default)]
        pub(crate) struct TcpInfo {
            $($(#[$doc])* pub(crate) $name: $type,)*
        }

        impl TcpInfo {
            /// It as a `struct tcp_info`.
            pub(crate) fn to_bytes(&self) -> [u8; size_of::<bindings::tcp_info>()] {
                let mut bytes = [0; size_of::<bindings::tcp_info>()];
                $(
                    let value = self.$name.to_ne_bytes();
                    let from = core::mem::offset_of!(bindings::tcp_info, $field);
                    for (to, byte) in bytes.iter_mut().skip(from).zip(value) {
                        *to = byte;
                    }
                )*
                bytes
            }
        }
    };
}

tcp_info! {
    /// One of `TCP_*`.
    state: u8 = tcpi_state,
    /// The most payload of a message that is sent.
    snd_mss: u32 = tcpi_snd_mss,
    /// The most payload of a message that is received.
    rcv_mss: u32 = tcpi_rcv_mss,
    /// Of a listener, the connections that wait for accept.
    unacked: u32 = tcpi_unacked,
    /// Of a listener, its backlog.
    sacked: u32 = tcpi_sacked,
    /// Milliseconds since payload was last sent.
    last_data_sent: u32 = tcpi_last_data_sent,
    /// Milliseconds since payload last came.
    last_data_recv: u32 = tcpi_last_data_recv,
    /// Milliseconds since the fabric last showed that the peer is there.
    last_ack_recv: u32 = tcpi_last_ack_recv,
    /// The most bytes of a packet on the path.
    pmtu: u32 = tcpi_pmtu,
    /// The messages that the peer has buffers for.
    snd_cwnd: u32 = tcpi_snd_cwnd,
    /// As `rcv_mss`.
    advmss: u32 = tcpi_advmss,
    /// Bytes of the receive buffers.
    rcv_space: u32 = tcpi_rcv_space,
    /// Bytes a second.
    pacing_rate: u64 = tcpi_pacing_rate,
    /// Bytes a second.
    max_pacing_rate: u64 = tcpi_max_pacing_rate,
    /// Bytes that have reached the peer, and one more for each that TCP counts of SYN and FIN.
    bytes_acked: u64 = tcpi_bytes_acked,
    /// Bytes that came.
    bytes_received: u64 = tcpi_bytes_received,
    /// Messages that were sent.
    segs_out: u32 = tcpi_segs_out,
    /// Messages that came.
    segs_in: u32 = tcpi_segs_in,
    /// Bytes that were written and are not on their way.
    notsent_bytes: u32 = tcpi_notsent_bytes,
    /// Messages with payload that came.
    data_segs_in: u32 = tcpi_data_segs_in,
    /// Messages with payload that were sent.
    data_segs_out: u32 = tcpi_data_segs_out,
    /// For how many microseconds something was written that the peer did not have.
    busy_time: u64 = tcpi_busy_time,
    /// For how many of them payload waited for the peer to have a buffer.
    rwnd_limited: u64 = tcpi_rwnd_limited,
    /// Bytes that were sent.
    bytes_sent: u64 = tcpi_bytes_sent,
    /// Bytes that the peer has buffers for.
    snd_wnd: u32 = tcpi_snd_wnd,
    /// Bytes that this end has buffers for.
    rcv_wnd: u32 = tcpi_rcv_wnd,
}
