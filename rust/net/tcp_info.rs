// SPDX-License-Identifier: GPL-2.0

//! `struct tcp_info`, what `TCP_INFO` and diagnostics tell of a connection.

use crate::bindings;

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
