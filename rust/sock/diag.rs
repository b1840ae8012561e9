// SPDX-License-Identifier: GPL-2.0

//! What diagnostics show of connections and of bound addresses, and how an administrator ends them.

use crate::{
    net::{
        diag::{
            Timer,
            View,
            Visible, //
        },
        sock::TcpState,
        tcp_info::TcpInfo, //
    },
    prelude::*,
    proto::{
        Awaited,
        Machine,
        Side, //
    },
    sock::{
        conn::{
            Conn,
            Owner, //
        },
        conn_state::Teardown,
        endpoint::Endpoint,
        listener::Listener,
        shutdown,
        types::Sdp, //
    }, //
};
use kernel::sync::atomic::Relaxed;

impl Visible<Sdp> for Conn {
    fn view(&self) -> Option<View<Sdp>> {
        let sock = match &*self.owner.lock() {
            Owner::Socket(sk) => Some(sk.clone()),
            Owner::Listener(..) | Owner::Nobody(_) => None,
        };
        let state = match self.tcp_state() {
            TcpState::Close => return None,
            TcpState::SynSent if self.side == Side::Accepting => TcpState::SynRecv,
            state => state,
        };
        let addrs = self.addrs()?;
        let (peer_closed, can_write) = self.inspect(|m| (m.peer_closed(), m.can_write()));
        let (uid, cookie) = match &sock {
            Some(sk) => (sk.uid(), Some(sk.cookie())),
            None => {
                let identity = &self.flow.lock().identity;
                (identity.uid, identity.cookie.or(self.own_cookie()))
            }
        };
        let cookie = cookie?;
        let now = self.now();
        let timer = self
            .inspect(Machine::awaited)
            .map(|(what, probes, at)| Timer {
                is_keepalive: what == Awaited::KeepAlive,
                probes,
                in_ms: u32::try_from(at.saturating_sub(now) / 1_000_000).unwrap_or(u32::MAX),
            });
        let is_there = !matches!(state, TcpState::SynSent | TcpState::SynRecv);
        Some(View {
            version: self.version,
            state,
            local: addrs.local,
            peer: addrs.peer,
            recv_queue: self.unread().saturating_add(self.advertised()),
            send_queue: self.queued(),
            shut: (
                is_there && (peer_closed || self.recv_shut.load(Relaxed)),
                is_there && !can_write,
            ),
            timer,
            uid,
            cookie,
            sock,
        })
    }

    fn info(&self) -> TcpInfo {
        self.info()
    }

    fn congestion(&self) -> [u8; 16] {
        self.flow.lock().options.congestion()
    }

    fn abort(&self) -> Result {
        if self.tcp_state() == TcpState::Close {
            return Err(ENOENT);
        }
        if self.fail_setup(ECONNABORTED) {
            self.advance_teardown(Teardown::Disconnected);
            return Ok(());
        }
        self.flow.lock().failure.note(ECONNABORTED);
        self.with(Machine::abort);
        self.advance_teardown(Teardown::DisconnectNeeded);
        Ok(())
    }
}

impl Visible<Sdp> for Endpoint {
    fn view(&self) -> Option<View<Sdp>> {
        let sk = self.backlog.socket()?;
        let (state, recv_queue, send_queue) = if self.backlog.is_listening() {
            let (ready, limit) = self.backlog.queue_lengths();
            (TcpState::Listen, ready, limit)
        } else if sk.is_in_state(TcpState::Close) {
            (TcpState::Close, 0, 0)
        } else {
            // The connection is listed by itself.
            return None;
        };
        Some(View {
            version: sk.version(),
            state,
            local: self.addr(),
            peer: sk.version().nobody(),
            recv_queue,
            send_queue,
            shut: (false, false),
            timer: None,
            uid: sk.uid(),
            cookie: sk.cookie(),
            sock: Some(sk),
        })
    }

    fn info(&self) -> TcpInfo {
        let (ready, most) = match self.backlog.is_listening() {
            true => self.backlog.queue_lengths(),
            false => (0, 0),
        };
        TcpInfo {
            unacked: u32::try_from(ready).unwrap_or(u32::MAX),
            sacked: u32::try_from(most).unwrap_or(u32::MAX),
            ..TcpInfo::default()
        }
    }

    fn congestion(&self) -> [u8; 16] {
        self.backlog.options().congestion()
    }

    fn abort(&self) -> Result {
        let sk = self.backlog.socket().ok_or(ENOENT)?;
        shutdown::abort_listener(&sk)
    }
}
