// SPDX-License-Identifier: GPL-2.0

//! What the device and the machine report, and what a connection does about it.

use crate::{
    prelude::*,
    proto::{
        Events,
        Machine,
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
        conn::Conn,
        conn_state::{
            SetupResult,
            Teardown, //
        },
        poll_state,
        post::Request, //
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
    /// Posts what is to be sent, and notifies the socket of what happened. Any context, without the
    /// spinlocks.
    pub(super) fn kick(&self) {
        let mut events = Events::default();
        if let Err(e) = self.transmit(&mut events) {
            self.post_failed(e);
        }
        self.dispatch(events);
        if self.awaits_stamps.load(Relaxed) {
            self.report_stamps();
        }
    }

    /// Does what the machine asks for, and notifies the socket. Any context, without the spinlocks.
    pub(super) fn dispatch(&self, events: Events) {
        if events.is_empty() {
            return;
        }
        if events.contains(Events::FINISHED) {
            self.invalidate_finished();
        }
        if events.contains(Events::PROBE) {
            if let Err(e) = self.probe() {
                self.post_failed(e);
            }
        }
        if events.contains(Events::NUDGE) {
            if let Err(e) = self.nudge() {
                self.post_failed(e);
            }
        }
        if events.contains(Events::CONNECTED) {
            self.arm_timer();
        }
        if events.contains(Events::RESIZE) {
            // The work decides: that may sleep.
            self.queue();
        }
        if events.contains(Events::SENT_ALL) {
            let flow = self.flow.lock();
            // The work lets memory go, and begins to wait for the peer of a closed socket.
            if flow.send_charged > SEND_CHARGE || flow.options.linger2 != 0 {
                drop(flow);
                self.queue();
            }
        }
        if events.contains(Events::DISCONNECT) {
            self.advance_teardown(Teardown::DisconnectNeeded);
        }
        if events.contains(Events::ABORTED) {
            // A failure before the connection is established is reported with that.
            if self.setup_result() == SetupResult::Established {
                self.report_failure();
            }
        }
        // That all was sent matters to who closes; others are notified of free space.
        let has_closed = events.contains(Events::SENT_ALL) && self.inspect(Machine::send_shut);
        let has_changed = [Events::PEER_CLOSED, Events::ABORTED, Events::CLOSED]
            .into_iter()
            .any(|event| events.contains(event))
            || has_closed;
        let comes = has_changed || events.contains(Events::READABLE);
        if comes && self.flow.lock().deferred.is_some() {
            self.queue();
        }
        // An error is reported as such, and the end of the connection changes its state.
        let is_over = events.contains(Events::ABORTED) || events.contains(Events::CLOSED);
        self.with_socket(|sk| {
            if has_changed {
                sk.set_state(self.tcp_state());
            }
            if events.contains(Events::URGENT) {
                sk.send_sigurg();
            }
            if events.contains(Events::PEER_CLOSED) {
                sk.wake_async_end(self.send_closed());
            }
            if events.contains(Events::READABLE) && !is_over {
                poll_state::notify_readers(sk);
            }
            if events.contains(Events::WRITABLE) {
                self.notify_writers(sk);
            }
            if has_changed {
                sk.state_change();
            }
        });
    }

    /// Fails a connection on which the fabric carries no message any more. Any context, without the
    /// spinlocks.
    pub(super) fn fail(&self, cause: Error) {
        let events = {
            let mut flow = self.flow.lock();
            flow.failure.note(cause);
            flow.machine.disconnected();
            flow.machine.take_events()
        };
        self.advance_teardown(Teardown::DisconnectNeeded);
        self.dispatch(events);
    }

    /// Fails a connection to whose QP a request could not be posted. The loss of the connection may
    /// be noticed so before any completion reports it; on siw it usually is. Any context, without
    /// the spinlocks.
    pub(super) fn post_failed(&self, error: Error) {
        self.fail(if error == ENOTCONN || error == ESHUTDOWN {
            ECONNRESET
        } else {
            error
        });
    }

    /// Whether no more payload comes, or none is wanted. Some that arrived may be unread. Any
    /// context, as for the next.
    pub(super) fn is_recv_done(&self) -> bool {
        self.recv_shut.load(Relaxed) || self.recv_closed()
    }

    /// Whether no more payload will come. After a failure only once its reason was left in the
    /// socket, lest a reader take it for the end of the stream. Any context, without
    /// [`Connection::flow`](super::conn::Connection) and the locks after it.
    pub(super) fn recv_closed(&self) -> bool {
        let flow = self.flow.lock();
        let machine = &flow.machine;
        let over = match machine.aborted() {
            Some(_) => flow.failure.reported,
            None => machine.state() == State::Closed,
        };
        machine.peer_closed() || over
    }
}

impl Completions for Arc<Conn> {
    type Request = Request;

    fn sent(&self, request: Request, result: Result<(), WcStatus>) {
        let stamp = match request {
            Request::Read => self.recv_stamp(),
            _ => None,
        };
        let wanted = {
            let mut post = self.post.lock();
            if matches!(
                request,
                Request::Message(_) | Request::Write | Request::Probe | Request::Register
            ) {
                post.messages = post.messages.saturating_sub(1);
            }
            let is_read_done = match request {
                Request::Probe => {
                    post.is_probing = false;
                    false
                }
                Request::Read => self.read_completed(&mut post, result.is_ok(), stamp),
                _ => false,
            };
            // The next request may have waited for this one.
            is_read_done || post.is_full
        };
        match (request, &result) {
            (Request::Message(tag), Ok(())) => {
                let is_shut = self.with(|m| {
                    m.sent(tag);
                    m.send_shut()
                });
                if is_shut {
                    // It may have been the DisConn.
                    self.update_state();
                }
            }
            (Request::Probe, Ok(())) => self.with(Machine::probed),
            (Request::InvalidateSend(id), _) => self.send_invalidated(id),
            (Request::InvalidateRead, _) => self.read_invalidated(),
            (Request::InvalidateOffer, _) => self.offer_invalidated(),
            _ => {}
        }
        if wanted {
            self.kick();
        }
        if let Err(status) = result {
            self.completion_failed(status);
        }
    }

    fn received(&self, buf: RecvBuf, result: Result<(), WcStatus>) {
        if let Err(status) = result {
            self.uncount_buffer(buf.page_count());
            return self.completion_failed(status);
        }
        let terms = self.note_arrival();
        let now = self.now();
        let (recycle, early, lacks) = {
            let mut flow = self.flow.lock();
            flow.machine.set_now(now);
            flow.buffer_used(buf.page_count());
            let (recycle, early) = if flow.setup_result == SetupResult::Established {
                (self.take_in(&mut flow, buf, terms), false)
            } else if self.side == Side::Connecting {
                (flow.early.push(buf).err(), false)
            } else {
                (self.take_in(&mut flow, buf, terms), true)
            };
            flow.want_buffers(terms.limit, self.unread(), recycle.is_some());
            (recycle, early, flow.takes_buffer())
        };
        if early {
            self.note(&self.comm_est);
        }
        match recycle {
            Some(buf) => {
                self.recycle(buf);
                self.fill_later();
            }
            None if lacks => self.queue(),
            None => {}
        }
        self.kick();
    }

    fn qp_event(&self, event: QpEvent) {
        let flag = match event {
            QpEvent::CommEst => &self.comm_est,
            QpEvent::Fatal => &self.fatal,
            QpEvent::Other(_) => return,
        };
        self.note(flag);
    }
}

impl Conn {
    /// Sets a flag for the work. Any context: a device's event may come with interrupts disabled,
    /// where none of the locks can be taken, and in softirq the CM's mutexes cannot.
    fn note(&self, flag: &AtomicFlag) {
        flag.store(true, Relaxed);
        self.queue();
    }

    fn completion_failed(&self, status: WcStatus) {
        match status {
            // Somebody took the QP down. If that was not us the CM may never report it: rxe fails a
            // QP so when the interface below it refuses a packet.
            WcStatus::WrFlush => {
                let lost = {
                    let mut flow = self.flow.lock();
                    flow.flushed = true;
                    // During set-up the CM reports the outcome.
                    flow.setup_result != SetupResult::Pending
                        && flow.machine.state() != State::Closed
                };
                if lost {
                    self.fail(ECONNRESET);
                }
            }
            WcStatus::RetryExc | WcStatus::RnrRetryExc => self.fail(ETIMEDOUT),
            _ => self.fail(self.link_error()),
        }
    }

    /// The error for a failure without a reason from the device; an iWARP device gives none when it
    /// loses its TCP connection. Any context.
    pub(super) fn link_error(&self) -> Error {
        if self.flow.lock().iwarp {
            ECONNRESET
        } else {
            EIO
        }
    }
}
