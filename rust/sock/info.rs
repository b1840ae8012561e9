// SPDX-License-Identifier: GPL-2.0

//! What `TCP_INFO` tells of a connection.

use crate::{
    net::option::TcpInfo,
    proto::Machine,
    sock::{
        conn::Conn,
        link::Progress, //
    },
};
use core::sync::atomic::Ordering;

impl Conn {
    /// What is known of all that TCP tells, but for what is the socket's. Any context, without the
    /// spinlocks.
    pub(super) fn info(&self) -> TcpInfo {
        let is_there = self.progress() == Progress::Established;
        let came = self
            .reader_unread
            .load(Ordering::Relaxed)
            .saturating_add(self.unread());
        let in_flight = self.inspect(Machine::in_flight) as u64;
        let acked = self.stats.sent().saturating_sub(self.copied() as u64);
        let snd_mss = match is_there {
            true => self.inspect(Machine::max_payload),
            false => 0,
        };
        let rcv_mss = self.recv_payload();
        let snd_cwnd = self.inspect(Machine::credits);
        TcpInfo {
            snd_mss,
            rcv_mss,
            advmss: rcv_mss,
            snd_cwnd,
            snd_wnd: snd_cwnd.saturating_mul(snd_mss),
            bytes_acked: acked.saturating_add(1),
            bytes_sent: acked.saturating_add(in_flight),
            bytes_received: self.stats.received().saturating_add(came as u64),
            notsent_bytes: u32::try_from(self.inspect(Machine::unsent)).unwrap_or(u32::MAX),
            ..TcpInfo::default()
        }
    }
}
