// SPDX-License-Identifier: GPL-2.0

//! One end of a connection: composes the states of the other files, in the order in which the wire sees them.

use super::{
    connection::{
        Input,
        State, //
    },
    credits::{
        Cost,
        Credits, //
    },
    events::Events,
    hello::{
        Offer,
        HELLO_ACK_LEN,
        HELLO_LEN, //
    },
    receive::ReceiveHalf,
    send::{
        SendHalf,
        SendTag, //
    },
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        self,
        Base,
        Flags,
        Half,
        Header,
        Message,
        Mode,
        BASE_LEN, //
    },
};
use core::ops::Range;

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Sends the Hello.
    Connecting,
    /// Answers it.
    Accepting,
}

/// What this end is and offers.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end it is.
    pub side: Side,
    /// Advertisements that the peer may have outstanding here, at least 1 (`B-5`).
    pub max_adverts: u16,
    /// RDMA Reads that this end may have in flight, at least 1 (`B-5`).
    pub ord: u16,
    /// RDMA Reads that this end can serve at a time, at least 1 (`B-5`).
    pub ird: u16,
    /// Bytes of one receive buffer, header included; at least 37 (`B-4`).
    pub recv_size: u32,
    /// Receive buffers posted when the Hello or HelloAck leaves; at least 3 (`B-3`).
    pub recv_depth: u16,
    /// The longest message that this end sends, header included; at least 37 (`B-4`).
    pub send_size: u32,
    /// The receive buffer size wished of the peer; a hint (`B-6`).
    pub desired_remote: u32,
}

/// Why a connection failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbortReason {
    /// The own user aborted it.
    Local,
    /// The peer broke the protocol (`B-73`).
    Violation(Violation),
    /// Data came after the user had closed the receive half (`B-73`).
    DataAfterShutdown,
    /// The peer aborted it by message (`B-72`).
    PeerAborted,
    /// The LLP connection went away before both ends had closed (`B-72`, `B-76`).
    PeerReset,
}

/// What a received message brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Where its payload stands in the bytes handed in; empty when it has none for the user.
    pub payload: Range<usize>,
    /// The last payload byte is urgent (`B-78`).
    pub urgent: bool,
    /// An urgent byte was announced: signal the user (`B-77`).
    pub urgent_pending: bool,
}

impl Received {
    const NOTHING: Received = Received {
        payload: 0..0,
        urgent: false,
        urgent_pending: false,
    };
}

/// A message to post.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// To hand to [`Machine::sent`] when the send completed.
    pub tag: SendTag,
    /// The first bytes of the message.
    pub header: Header,
    /// The next so many bytes of the send stream follow the header.
    pub payload: u32,
    /// Post it with the solicited-event flag (`B-82`).
    pub solicited: bool,
}

/// The protocol state of one end of one connection.
///
/// Every method takes constant time and neither blocks nor allocates. The caller serialises them, hands in receive completions in
/// order, and after any call may find events in [`Machine::take_events`] and messages in [`Machine::poll_transmit`].
#[derive(Debug)]
pub struct Machine {
    side: Side,
    offer: Offer,
    send_size: u32,
    desired_remote: u32,
    state: State,
    credits: Credits,
    send: SendHalf,
    receive: ReceiveHalf,
    /// The peer asked for another receive buffer size and was not answered (`B-63`).
    owes_ch_rcv_buf_ack: bool,
    /// The DisConn sent, until it reaches the peer.
    disconn: Option<u32>,
    /// The AbortConn sent.
    abort: Option<u32>,
    aborted: Option<AbortReason>,
    events: Events,
}

impl Machine {
    /// A machine before connection set-up.
    ///
    /// # Errors
    ///
    /// The rule that `config` breaks.
    pub fn new(config: Config) -> Result<Machine, Violation> {
        let offer = Offer {
            max_adverts: config.max_adverts,
            ord: config.ord,
            ird: config.ird,
            recv_size: config.recv_size,
            recv_depth: config.recv_depth,
        };
        offer.check()?;
        wire::buffer_size(config.send_size)?;
        if config.desired_remote > wire::SIZE_MAX {
            return Err(Violation::new(
                Rule::A(5),
                "DesRemRcvSz of more than 2^31 bytes",
            ));
        }
        Ok(Machine {
            side: config.side,
            offer,
            send_size: config.send_size,
            desired_remote: config.desired_remote,
            state: State::Idle,
            credits: Credits::new(config.recv_depth),
            send: SendHalf::default(),
            receive: ReceiveHalf::new(config.max_adverts),
            owes_ch_rcv_buf_ack: false,
            disconn: None,
            abort: None,
            aborted: None,
            events: Events::default(),
        })
    }

    // Set-up.

    /// The Hello for the CM's connection request. `config.recv_depth` receive buffers must stand posted by the time that it leaves
    /// (`B-3`).
    pub fn hello(&mut self) -> [u8; HELLO_LEN] {
        self.advance(Input::HelloOut);
        self.offer.hello(self.desired_remote)
    }

    /// Takes the Hello of the connection request and gives the HelloAck to accept it with (`B-2`). Bytes after the Hello are the
    /// CM's padding.
    ///
    /// # Errors
    ///
    /// The rule that the Hello breaks: the request is to be refused. The machine is of no use then.
    pub fn hello_received(
        &mut self,
        private_data: &[u8],
    ) -> Result<[u8; HELLO_ACK_LEN], Violation> {
        let result = Offer::parse_hello(private_data).and_then(|peer| {
            self.expect(State::Idle, Side::Accepting)?;
            self.start(peer);
            self.advance(Input::HelloIn);
            Ok(self.offer.hello_ack())
        });
        result.inspect_err(|&violation| self.give_up(AbortReason::Violation(violation)))
    }

    /// Takes the HelloAck: the connection is established. Bytes after it are the CM's padding.
    ///
    /// Receive completions that came earlier must be handed in after this call.
    ///
    /// # Errors
    ///
    /// The rule that the HelloAck breaks: the connection is aborted.
    pub fn hello_ack_received(&mut self, private_data: &[u8]) -> Result<(), Violation> {
        let result = Offer::parse_hello_ack(private_data).and_then(|peer| {
            self.expect(State::HelloSent, Side::Connecting)?;
            self.start(peer);
            self.advance(Input::HelloAckIn);
            Ok(())
        });
        result.inspect_err(|&violation| self.give_up(AbortReason::Violation(violation)))
    }

    /// The accepting end learns from the CM that the connecting end has the HelloAck. A first message says so too (`B-9`).
    pub fn established(&mut self) {
        self.advance(Input::Confirmed);
    }

    fn expect(&self, state: State, side: Side) -> Result<(), Violation> {
        if self.state == state && self.side == side {
            Ok(())
        } else {
            Err(Violation::new(
                Rule::B(1),
                "Hello or HelloAck out of its place",
            ))
        }
    }

    fn start(&mut self, peer: Offer) {
        self.credits.start(peer.recv_depth);
        // No overflow: both sizes are at least 37 (B-4).
        let size = peer.recv_size.min(self.send_size);
        self.send.set_limit(size.saturating_sub(BASE_LEN as u32));
    }

    // Fabric.

    /// So many receive buffers were posted, beyond the first `config.recv_depth`.
    pub fn posted(&mut self, buffers: u16) {
        self.credits.posted(buffers);
    }

    /// Takes one received message, exactly the bytes that the completion counted.
    ///
    /// Its buffer counts as used up; [`Machine::posted`] tells when it, or another, is posted again.
    ///
    /// # Errors
    ///
    /// The rule that the message breaks. The machine has given the connection up then, and says so in its events.
    pub fn received(&mut self, message: &[u8]) -> Result<Received, Violation> {
        if self.state == State::HelloAcked {
            self.advance(Input::Confirmed);
        }
        match self.state {
            State::Aborting | State::Disconnecting | State::Closed => Ok(Received::NOTHING),
            _ => self.take(message).inspect_err(|&violation| {
                self.give_up(if violation.rule == Rule::B(73) {
                    AbortReason::DataAfterShutdown
                } else {
                    AbortReason::Violation(violation)
                });
            }),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Received, Violation> {
        if !self.state.is_open() {
            return Err(Violation::new(
                Rule::B(1),
                "message before Hello and HelloAck",
            ));
        }
        let wire::Parsed {
            base,
            message,
            payload,
        } = wire::parse(bytes)?;
        let update = message == Message::Data && payload.is_empty();
        self.credits
            .receive(base.mseq, base.mseq_ack, base.bufs, update)?;
        self.receive.acknowledged(base.mseq_ack);

        let violation = |rule, what| Err(Violation::new(Rule::B(rule), what));
        match message {
            Message::Data => {
                if !update {
                    self.receive.data()?;
                }
            }
            Message::SrcAvail(region) => self.receive.src_avail(region, payload.len())?,
            Message::SrcAvailCancel => self.receive.src_avail_cancel(),
            Message::DisConn => {
                self.receive.disconn()?;
                self.advance(Input::DisConnIn);
                self.events |= Events::PEER_CLOSED | Events::READABLE;
            }
            Message::AbortConn => {
                if !self.receive.ended() {
                    return violation(71, "AbortConn without a DisConn before it");
                }
                self.give_up(AbortReason::PeerAborted);
                return Ok(Received::NOTHING);
            }
            Message::ModeChange(Half::Receive, mode) => self.receive.change_mode(mode)?,
            Message::ChRcvBuf(_) => {
                if self.owes_ch_rcv_buf_ack {
                    return violation(63, "second ChRcvBuf before the answer to the first");
                }
                self.owes_ch_rcv_buf_ack = true;
            }

            // This end never leaves Combined mode as a source, nor advertises, nor asks for another buffer size.
            Message::ModeChange(Half::Send, _) => {
                return violation(56, "ModeChange of a send half that is not Buffered")
            }
            Message::SendSm => return violation(33, "SendSm without a SrcAvail"),
            Message::RdmaRdCompl(_) => return violation(32, "RdmaRdCompl without a SrcAvail"),
            Message::RdmaWrCompl(_) => return violation(47, "RdmaWrCompl without a SinkAvail"),
            Message::SinkAvail(..) => return violation(46, "SinkAvail outside Pipelined mode"),
            Message::SinkAvailCancel => {
                return violation(53, "SinkAvailCancel without a SinkAvail")
            }
            Message::SinkCancelAck => return violation(53, "SinkCancelAck without a cancel"),
            Message::ChRcvBufAck(_) => return violation(63, "ChRcvBufAck without a ChRcvBuf"),
            Message::SuspComm(_) => return violation(83, "SuspComm is not supported"),
            Message::SuspCommAck => return violation(83, "SuspCommAck without a SuspComm"),
        }

        if !payload.is_empty() {
            self.events |= Events::READABLE;
        }
        if base.flags.urgent_pending {
            self.events |= Events::URGENT;
        }
        Ok(Received {
            payload,
            urgent: base.flags.urgent,
            urgent_pending: base.flags.urgent_pending,
        })
    }

    /// The send of a [`Transmit`] completed with success: RC says so when the peer's adapter has the message. Failed sends are not
    /// told; [`Machine::disconnected`] follows them.
    pub fn sent(&mut self, tag: SendTag) {
        self.send.sent(tag);
        if tag.payload > 0 {
            self.events |= Events::WRITABLE;
            if self.send.unsent() == 0 && self.send.in_flight() == 0 {
                self.events |= Events::SENT_ALL;
            }
        }
        if self.disconn == Some(tag.mseq) {
            self.disconn = None;
            self.advance(Input::DisConnDone);
        }
        if self.abort == Some(tag.mseq) {
            self.advance(Input::AbortDone);
        }
    }

    /// The LLP connection is gone. All completions were handed in before.
    pub fn disconnected(&mut self) {
        match self.state {
            State::Closed => return,
            // Nothing is left that could be lost. In Closing, the peer dropped the connection on our DisConn before the fabric
            // told us that it arrived.
            State::Closing | State::Aborting | State::Disconnecting => {}
            _ => self.fail(AbortReason::PeerReset),
        }
        self.advance(Input::Gone);
        self.events |= Events::CLOSED | Events::READABLE | Events::WRITABLE;
    }

    // User.

    /// So many bytes more stand at the tail of the send stream; they may share a message with others (`B-22`). The last of them
    /// may wait for more until [`Machine::push`]. Does nothing unless [`Machine::can_write`].
    pub fn write(&mut self, bytes: usize) {
        if self.can_write() {
            self.send.write(bytes);
        }
    }

    /// No more bytes will follow soon: do not hold a partial message back for them (the end of a write without `MSG_MORE`, or a
    /// writer that is about to sleep).
    pub fn push(&mut self) {
        self.send.push();
    }

    /// `TCP_NODELAY`: a partial message does not wait until the one before it has arrived.
    pub fn set_nodelay(&mut self, on: bool) {
        self.send.nodelay = on;
    }

    /// `TCP_CORK`: a partial message waits until it is full or this is turned off.
    pub fn set_cork(&mut self, on: bool) {
        self.send.cork = on;
    }

    /// No more writes: a DisConn goes after all that was written (`B-68`).
    pub fn shutdown_send(&mut self) {
        self.send.shut = true;
        self.events |= Events::WRITABLE;
    }

    /// No more reads: payload that comes from now on aborts the connection (`B-73`).
    pub fn shutdown_receive(&mut self) {
        self.receive.shut = true;
        self.events |= Events::READABLE;
    }

    /// Gives the connection up: by AbortConn after a DisConn, by dropping the LLP connection otherwise (`B-71`).
    pub fn abort(&mut self) {
        self.give_up(AbortReason::Local);
    }

    // Out.

    /// The next message to post, if one is to go. Call it only with a free send slot, and post what it gives, in this order.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.state == State::Aborting {
            if self.abort.is_some() {
                return None;
            }
            let transmit = self.transmit(Message::AbortConn, 0);
            self.abort = Some(transmit.tag.mseq);
            return Some(transmit);
        }
        if !self.state.is_open() {
            return None;
        }
        let control = self.credits.allow(Cost::Control);
        if control && self.receive.owes_send_sm() {
            let transmit = self.transmit(Message::SendSm, 0);
            self.receive.send_sm_sent(transmit.tag.mseq);
            return Some(transmit);
        }
        if control && self.owes_ch_rcv_buf_ack {
            self.owes_ch_rcv_buf_ack = false;
            // The size that there is: a refusal (B-65).
            return Some(self.transmit(Message::ChRcvBufAck(self.offer.recv_size), 0));
        }
        if !self.state.disconn_sent() {
            let payload = self.send.next();
            if payload > 0 && self.credits.allow(Cost::Payload) {
                let transmit = self.transmit(Message::Data, payload);
                self.send.take(transmit.tag);
                self.events |= Events::WRITABLE;
                return Some(transmit);
            }
            if control && self.send.shut && self.send.unsent() == 0 {
                let transmit = self.transmit(Message::DisConn, 0);
                self.disconn = Some(transmit.tag.mseq);
                self.advance(Input::DisConnOut);
                return Some(transmit);
            }
        }
        if control && self.credits.update_due() {
            return Some(self.transmit(Message::Data, 0));
        }
        None
    }

    fn transmit(&mut self, message: Message, payload: u32) -> Transmit {
        let (bufs, mseq, mseq_ack) = self.credits.send();
        let base = Base {
            flags: Flags::default(),
            bufs,
            mseq,
            mseq_ack,
        };
        Transmit {
            tag: SendTag { mseq, payload },
            header: Header::new(base, message, payload),
            payload,
            solicited: message.solicited(),
        }
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    // State.

    fn advance(&mut self, input: Input) {
        if let Some(state) = self.state.after(input) {
            self.state = state;
            match state {
                State::Established => self.events |= Events::CONNECTED,
                State::Disconnecting => self.events |= Events::DISCONNECT,
                _ => {}
            }
        }
    }

    fn fail(&mut self, reason: AbortReason) {
        if self.aborted.is_none() {
            self.aborted = Some(reason);
            self.events |= Events::ABORTED | Events::READABLE | Events::WRITABLE;
        }
    }

    /// `B-71`, `B-73`.
    fn give_up(&mut self, reason: AbortReason) {
        if matches!(
            self.state,
            State::Aborting | State::Disconnecting | State::Closed
        ) {
            return;
        }
        self.fail(reason);
        self.advance(Input::Abort);
        // Without the credit for it, or after the peer aborted itself, dropping the LLP connection has to say it.
        if self.state == State::Aborting
            && (reason == AbortReason::PeerAborted || !self.credits.allow(Cost::Control))
        {
            self.advance(Input::AbortDone);
        }
    }

    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether [`Machine::write`] takes bytes: the connection is set up, and the send half open.
    pub fn can_write(&self) -> bool {
        !self.send.shut
            && matches!(
                self.state,
                State::HelloAcked | State::Established | State::DisConnReceived
            )
    }

    /// Whether the send half is shut.
    pub fn send_shut(&self) -> bool {
        self.send.shut
    }

    /// Whether the peer's DisConn came: after the payload before it, the stream ends.
    pub fn peer_closed(&self) -> bool {
        self.receive.ended()
    }

    /// Why the connection failed, if it did.
    pub fn aborted(&self) -> Option<AbortReason> {
        self.aborted
    }

    /// Bytes written and not yet in a message.
    pub fn unsent(&self) -> usize {
        self.send.unsent()
    }

    /// Bytes in messages whose send has not completed.
    pub fn in_flight(&self) -> usize {
        self.send.in_flight()
    }

    /// Messages that the peer has buffers for (`B-14`).
    pub fn credits(&self) -> u32 {
        self.credits.available()
    }

    /// The mode of the receive half (section B.7).
    pub fn receive_mode(&self) -> Mode {
        self.receive.mode()
    }
}

#[cfg(test)]
mod tests;
