// SPDX-License-Identifier: GPL-2.0

//! What `TCP_INFO` reports of a connection.

use crate::{
    net::tcp_info::TcpInfo,
    proto::{
        Machine,
        Side,
        State, //
    },
    sock::{
        conn::Conn,
        conn_state::SetupResult, //
    },
};
use kernel::page::PAGE_SIZE;

impl Conn {
    /// What is known of all that TCP reports, but for what is the socket's. Any context, without
    /// the spinlocks.
    pub(super) fn info(&self) -> TcpInfo {
        let is_there = self.setup_result() == SetupResult::Established;
        let unread = self.unread();
        let in_flight = self.inspect(Machine::in_flight) as u64;
        let acked = self.stats.sent().saturating_sub(self.copied() as u64);
        // As TCP counts its SYN, though not that of its answer, and its FIN.
        let syn = u64::from(self.side == Side::Connecting);
        let (fin_acked, fin_received) = self.inspect(|m| {
            let done = matches!(
                m.state(),
                State::DisConnDone | State::Disconnecting | State::Closed
            );
            let fin_acked = done && m.send_shut() && m.aborted().is_none();
            (u64::from(fin_acked), u64::from(m.peer_closed()))
        });
        let snd_mss = match is_there {
            true => self.inspect(Machine::max_payload),
            false => 0,
        };
        let rcv_mss = self.recv_payload();
        let now = self.now();
        let (snd_cwnd, peer_credits, traffic) =
            self.inspect(|m| (m.credits(), m.peer_credits(), m.traffic(now)));
        let ms = |at: u64| u32::try_from(now.saturating_sub(at) / 1_000_000).unwrap_or(u32::MAX);
        let rcv_space = self.flow.lock().recv.pages().saturating_mul(PAGE_SIZE);
        let post = self.post.lock();
        let pmtu = post.qp.as_ref().map_or(0, |qp| qp.id().path_mtu());
        drop(post);
        TcpInfo {
            snd_mss,
            rcv_mss,
            advmss: rcv_mss,
            last_data_sent: ms(traffic.data_sent_at),
            last_data_recv: ms(traffic.data_received_at),
            last_ack_recv: ms(traffic.heard_at),
            pmtu,
            snd_cwnd,
            snd_wnd: snd_cwnd.saturating_mul(snd_mss),
            bytes_acked: acked.saturating_add(syn).saturating_add(fin_acked),
            bytes_sent: acked.saturating_add(in_flight),
            bytes_received: (self.stats.received())
                .saturating_add(unread as u64)
                .saturating_add(fin_received),
            rcv_space: u32::try_from(rcv_space).unwrap_or(u32::MAX),
            rcv_wnd: peer_credits.saturating_mul(rcv_mss),
            segs_out: traffic.sent,
            segs_in: traffic.received,
            data_segs_out: traffic.data_sent,
            data_segs_in: traffic.data_received,
            busy_time: traffic.busy / 1000,
            rwnd_limited: traffic.limited / 1000,
            notsent_bytes: u32::try_from(self.inspect(Machine::unsent)).unwrap_or(u32::MAX),
            ..TcpInfo::default()
        }
    }
}
