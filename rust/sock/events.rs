// SPDX-License-Identifier: GPL-2.0

//! What the device and the machine tell a connection.

use crate::{
    prelude::*,
    proto::{
        Events,
        Side,
        State, //
    },
    rdma::{
        buf::RecvBuf,
        qp::{
            Completions,
            QpEvent,
            WcStatus, //
        }, //
    },
    sock::{
        charge::SEND_CHARGE,
        conn::{
            Conn,
            Request, //
        },
        link::{
            Link,
            Progress, //
        }, //
    }, //
};
use kernel::sync::{
    atomic::{
        AtomicFlag,
        Relaxed, //
    },
    Arc, //
};

impl Conn {
    /// Posts what is to be sent, and tells the socket what happened.
    pub(super) fn kick(&self) {
        if let Err(e) = self.transmit() {
            self.refused(e);
        }
        let events = self.flow.lock().machine.take_events();
        self.dispatch(events);
    }

    /// Does what the machine asks for, and tells the socket. Any context, without the spinlocks.
    pub(super) fn dispatch(&self, events: Events) {
        if events.is_empty() {
            return;
        }
        if events.contains(Events::FINISHED) {
            self.invalidate_finished();
        }
        if events.contains(Events::PROBE) {
            if let Err(e) = self.probe() {
                self.refused(e);
            }
        }
        if events.contains(Events::RESIZE) {
            self.resize_wished();
        }
        if events.contains(Events::SENT_ALL) && self.flow.lock().send_charged > SEND_CHARGE {
            self.queue();
        }
        if events.contains(Events::DISCONNECT) {
            self.set_link(Link::Disconnect);
        }
        if events.contains(Events::ABORTED) {
            // What fails before the connection is established is told with that.
            if self.progress() == Progress::Established {
                self.report_failure();
            }
        }
        let has_changed = [
            Events::PEER_CLOSED,
            Events::SENT_ALL,
            Events::ABORTED,
            Events::CLOSED,
        ]
        .into_iter()
        .any(|event| events.contains(event));
        self.with_socket(|sk| {
            if has_changed {
                sk.set_state(self.tcp_state());
            }
            if events.contains(Events::READABLE) {
                sk.data_ready();
            }
            if events.contains(Events::WRITABLE) && self.writable(sk) {
                sk.write_space();
            }
            if has_changed {
                sk.state_change();
            }
        });
    }

    /// The fabric failed the connection: no message goes through any more. Any context.
    pub(super) fn broken(&self, cause: Error) {
        let events = {
            let mut flow = self.flow.lock();
            flow.cause.get_or_insert(cause);
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        self.set_link(Link::Disconnect);
        self.dispatch(events);
    }

    /// A request could not be posted. That the QP has no connection any more may be noticed so
    /// before any completion says it, which on siw is the rule.
    pub(super) fn refused(&self, error: Error) {
        self.broken(if error == ENOTCONN || error == ESHUTDOWN {
            ECONNRESET
        } else {
            error
        });
    }

    /// Whether no more payload will come. Where a failure is why, its reason is the user's to take
    /// by then, lest a reader who comes just now take it for the end of the stream.
    pub(super) fn recv_closed(&self) -> bool {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        let over = match machine.aborted() {
            Some(_) => flow.reported,
            None => machine.state() == State::Closed,
        };
        machine.peer_closed() || over
    }
}

impl Completions for Arc<Conn> {
    type Request = Request;

    fn sent(&self, request: Request, result: Result<(), WcStatus>) {
        let wanted = {
            let mut post = self.post.lock();
            if matches!(
                request,
                Request::Message(_) | Request::Write | Request::Register
            ) {
                post.messages = post.messages.saturating_sub(1);
            }
            match request {
                // What comes behind it may have waited for the slot.
                Request::Register => post.is_full,
                Request::Read => self.read_over(&mut post, result.is_ok()),
                _ => false,
            }
        };
        match (request, &result) {
            (Request::Message(tag), Ok(())) => self.with(|m| m.sent(tag)),
            (Request::EndSend(id), _) => self.send_ended(id),
            (Request::EndRead, _) => self.read_ended(),
            (Request::EndOffer, _) => self.offer_ended(),
            _ => {}
        }
        if wanted {
            self.kick();
        }
        if let Err(status) = result {
            self.failed(status);
        }
    }

    fn received(&self, buf: RecvBuf, result: Result<(), WcStatus>) {
        if let Err(status) = result {
            drop(buf);
            self.lost_buffer();
            return self.failed(status);
        }
        let limit = self.recv_limit();
        let (recycle, early) = {
            let mut flow = self.flow.lock();
            flow.buffer_used();
            let (recycle, early) = if flow.progress == Progress::Established {
                (flow.receive(buf), false)
            } else if self.side == Side::Connecting {
                (flow.early.push(buf).err(), false)
            } else {
                (flow.receive(buf), true)
            };
            flow.want_buffers(limit, recycle.is_some());
            (recycle, early)
        };
        if let Some(buf) = recycle {
            self.recycle(buf);
        }
        if early {
            self.note(&self.came_early);
        }
        self.fill_later();
        self.kick();
    }

    fn qp_event(&self, event: QpEvent) {
        let told = match event {
            QpEvent::CommEst => &self.came_early,
            QpEvent::Fatal => &self.fatal,
            QpEvent::Other(_) => return,
        };
        self.note(told);
    }
}

impl Conn {
    /// Leaves a note to the work. Any context: that of a device's event may have interrupts
    /// off, where none of the locks can be taken, and in softirq none of the CM's can.
    fn note(&self, what: &AtomicFlag) {
        what.store(true, Relaxed);
        self.queue();
    }

    fn failed(&self, status: WcStatus) {
        match status {
            // Somebody took the QP down. If that was not us then the CM may never tell of it: rxe
            // fails a QP so when the interface below it refuses a packet.
            WcStatus::WrFlush => {
                let lost = {
                    let mut flow = self.flow.lock();
                    // The CM tells what became of a set-up.
                    let setting_up = flow.progress == Progress::SettingUp;
                    flow.flushed |= setting_up;
                    !setting_up && flow.machine.state() != State::Closed
                };
                if lost {
                    self.broken(ECONNRESET);
                }
            }
            WcStatus::RetryExc | WcStatus::RnrRetryExc => self.broken(ETIMEDOUT),
            _ => self.broken(self.lost()),
        }
    }

    /// What to tell of a failure that the device gives no reason for. An iWARP device says no more
    /// when it loses its TCP connection.
    pub(super) fn lost(&self) -> Error {
        if self.flow.lock().iwarp {
            ECONNRESET
        } else {
            EIO
        }
    }
}
