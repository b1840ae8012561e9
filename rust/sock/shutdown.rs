// SPDX-License-Identifier: GPL-2.0

//! shutdown.

use crate::{
    net::sock::Shown,
    proto::Machine,
    sock::{
        conn::Link,
        connect,
        release,
        ring::Ring,
        Socket,
        State, //
    },
};
use kernel::prelude::*;

/// `shutdown(2)`, with what TCP makes of it in each state.
pub(super) fn shutdown(sk: &Socket, read: bool, write: bool) -> Result {
    let children = {
        let mut s = sk.lock();
        match &s.state {
            State::Idle | State::Failed => return Err(ENOTCONN),
            State::Connecting => {
                connect::failed(sk, &mut s, ECONNRESET);
                Ring::empty()
            }
            State::Listening(_) if read => {
                let State::Listening(backlog) = core::mem::replace(&mut s.state, State::Idle)
                else {
                    return Err(ENOTCONN);
                };
                s.bury();
                sk.show(Shown::Close);
                sk.queue_work();
                sk.state_change();
                backlog.into_queue()
            }
            State::Listening(_) => Ring::empty(),
            State::Connected => {
                let conn = s.conn.clone().ok_or(ENOTCONN)?;
                if conn.link() != Link::Up {
                    return Err(ENOTCONN);
                }
                if write {
                    conn.with(Machine::shutdown_send);
                    sk.show(Shown::FinWait1);
                }
                s.recv_shut |= read;
                sk.state_change();
                Ring::empty()
            }
        }
    };
    release::abandon_all(children);
    Ok(())
}
