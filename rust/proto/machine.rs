// SPDX-License-Identifier: GPL-2.0

//! One end of a connection: composes the states of the other files, in the order in which the wire
//! sees them.

use super::{
    buffer::{
        BufferId,
        Finished,
        ADVERTS, //
    },
    connection::{
        Input,
        State, //
    },
    credits::{
        Cost,
        Credits,
        PAYLOAD_CREDIT, //
    },
    events::Events,
    hello::{
        self,
        Endpoints,
        Greeting,
        IbVersion,
        HELLO_ACK_IB_LEN,
        HELLO_ACK_LEN,
        HELLO_IB_LEN,
        HELLO_LEN, //
    },
    mode::SendMode,
    receive::{
        Answer,
        Readable,
        ReceiveHalf, //
    },
    resize::Resize,
    send::{
        Constraints, //
        Next,
        SendHalf,
        SendTag,
        Source,
        Transfer,
    },
    sequence::reached,
    sink::{
        Offers,
        Sinks, //
    },
    suspend::Suspend,
    timer::{
        earlier,
        Awaited,
        Due,
        KeepAlive,
        Pending,
        Timers, //
    },
    traffic::{
        Counts,
        Traffic, //
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
        Region, //
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

/// The fewest receive buffers of a [`Config`].
pub const DEPTH_MIN: u16 = 4;

/// The number of a connection's first buffer, as jiffies begin: so that numbers wrap in every test,
/// and not only on connections that are old.
const FIRST_BUFFER: u32 = u32::MAX - 9;

/// What this end is and offers.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end it is.
    pub side: Side,
    /// Advertisements that the peer may have outstanding here, at least 1 (`B-5`); no more than
    /// [`ADVERTS`] are offered.
    pub max_adverts: u16,
    /// RDMA Reads that this end may have in flight, at least 1 (`B-5`).
    pub ord: u16,
    /// RDMA Reads that this end can serve at a time, at least 1 (`B-5`).
    pub ird: u16,
    /// Bytes of one receive buffer, header included; at least 37 (`B-4`).
    pub recv_size: u32,
    /// Receive buffers posted when the Hello or HelloAck leaves, at least 4: the 3 of `B-3`, and
    /// one for a credit update, which is not answered by another. The caller never lets the ring
    /// shrink below that.
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
    /// The LLP connection went away before both ends had closed (`B-72`, `B-76`), or the peer moved
    /// and the user does not follow (`B-83`).
    PeerReset,
    /// The peer did not answer, or made no progress, for too long (`B-76`).
    TimedOut,
}

/// What a received message brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Where its payload stands in the bytes handed in; empty when it has none for the user.
    pub payload: Range<usize>,
    /// The last payload byte is urgent (`B-78`).
    pub urgent: bool,
    /// An urgent byte was announced, or came without that: signal the user (`B-77`). It takes the
    /// place of one before it.
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
    /// So many bytes of `source` follow the header.
    pub payload: u32,
    /// Where the payload, or what is written, comes from.
    pub source: Source,
    /// Before the message, post an RDMA Write of the next bytes of `source` to all of this memory
    /// (`B-47`).
    pub write: Option<Region>,
    /// Post it with the solicited-event flag (`B-82`).
    pub solicited: bool,
}

/// The protocol state of one end of one connection.
///
/// Every method takes constant time and neither blocks nor allocates. The caller serialises them,
/// hands in receive completions in order, and after any call may find events in
/// [`Machine::take_events`] and messages in [`Machine::poll_transmit`].
#[derive(Debug)]
pub struct Machine {
    side: Side,
    greeting: Greeting,
    send_size: u32,
    desired_remote: u32,
    /// The fabric wants the connecting end to talk first (`B-9a`), and this end has to.
    initiator_first: bool,
    greets: bool,
    /// The version of the Hello.
    version: u8,
    peer_max_adverts: u16,
    state: State,
    credits: Credits,
    send: SendHalf,
    send_mode: SendMode,
    sinks: Sinks,
    receive: ReceiveHalf,
    offers: Offers,
    /// The user wants the receive half out of Buffered (`B-56`).
    combine: bool,
    /// The user would like the peer to use Pipelined mode (`B-60`), and the peer that this end
    /// does.
    hint: bool,
    peer_hint: bool,
    resize: Resize,
    /// Empty messages to send, which use up the buffers of the size that the peer had before.
    flush: u32,
    suspend: Suspend,
    timers: Timers,
    counts: Counts,
    next_buffer: u32,
    /// The DisConn sent, until it reaches the peer.
    disconn: Option<u32>,
    /// The same, for good.
    end: Option<u32>,
    /// The AbortConn sent.
    abort: Option<u32>,
    /// The peer announced an urgent byte that has not come.
    urgent_announced: bool,
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
        // CAST: 8.
        let max_adverts = config.max_adverts.min(ADVERTS as u16);
        let greeting = Greeting {
            max_adverts,
            ord: config.ord,
            ird: config.ird,
            recv_size: config.recv_size,
            recv_depth: config.recv_depth,
        };
        greeting.check()?;
        if config.recv_depth < DEPTH_MIN {
            return Err(Violation::new(Rule::B(3), "fewer than 4 receive buffers"));
        }
        wire::buffer_size(config.send_size)?;
        if config.desired_remote > wire::SIZE_MAX {
            return Err(Violation::new(
                Rule::A(5),
                "DesRemRcvSz of more than 2^31 bytes",
            ));
        }
        Ok(Machine {
            side: config.side,
            greeting,
            send_size: config.send_size,
            desired_remote: config.desired_remote,
            initiator_first: false,
            greets: false,
            version: hello::VERSION,
            peer_max_adverts: 0,
            state: State::Idle,
            credits: Credits::new(config.recv_depth),
            send: SendHalf::new(),
            send_mode: SendMode::new(),
            sinks: Sinks::new(),
            receive: ReceiveHalf::new(),
            offers: Offers::new(),
            combine: false,
            hint: false,
            peer_hint: false,
            resize: Resize::new(config.side, config.recv_size),
            flush: 0,
            suspend: Suspend::new(config.side),
            timers: Timers::default(),
            counts: Counts::default(),
            next_buffer: FIRST_BUFFER,
            disconn: None,
            end: None,
            abort: None,
            urgent_announced: false,
            aborted: None,
            events: Events::default(),
        })
    }

    // Set-up.

    /// Before set-up: the fabric wants the connecting end to talk first (`B-9a`).
    pub fn set_initiator_first(&mut self) {
        self.initiator_first = true;
    }

    /// The Hello for the CM's connection request. `config.recv_depth` receive buffers must stand
    /// posted by the time that it leaves (`B-3`).
    pub fn hello(&mut self) -> [u8; HELLO_LEN] {
        self.advance(Input::HelloOut);
        self.greeting.hello(self.desired_remote)
    }

    /// Takes the Hello of the connection request and gives the HelloAck to accept it with (`B-2`).
    /// Bytes after the Hello are the CM's padding.
    ///
    /// # Errors
    ///
    /// The rule that the Hello breaks: the request is to be refused. The machine is of no use then.
    pub fn hello_received(
        &mut self,
        private_data: &[u8],
    ) -> Result<[u8; HELLO_ACK_LEN], Violation> {
        let result = Greeting::parse_hello(private_data);
        self.accept(result)?;
        Ok(self.greeting.hello_ack())
    }

    /// Takes the HelloAck: the connection is established. Bytes after it are the CM's padding.
    ///
    /// Receive completions that came earlier must be handed in after this call.
    ///
    /// # Errors
    ///
    /// The rule that the HelloAck breaks: the connection is aborted.
    pub fn hello_ack_received(&mut self, private_data: &[u8]) -> Result<(), Violation> {
        self.accepted(Greeting::parse_hello_ack(private_data))
    }

    /// As [`Machine::hello`], in InfiniBand's form.
    pub fn hello_ib(&mut self, version: IbVersion, endpoints: &Endpoints) -> [u8; HELLO_IB_LEN] {
        self.advance(Input::HelloOut);
        self.version = version as u8;
        self.greeting
            .hello_ib(version, self.desired_remote, endpoints)
    }

    /// As [`Machine::hello_received`], in InfiniBand's form; gives the addresses as well, which the
    /// caller has to hold against the path on which the request came.
    ///
    /// # Errors
    ///
    /// The rule that the Hello breaks: the request is to be refused. The machine is of no use then.
    pub fn hello_ib_received(
        &mut self,
        private_data: &[u8],
    ) -> Result<([u8; HELLO_ACK_IB_LEN], Endpoints), Violation> {
        let result = Greeting::parse_hello_ib(private_data);
        if let Ok((_, version, _)) = result {
            self.version = version;
        }
        self.accept(result.map(|(offer, _, _)| offer))?;
        result.map(|(_, version, endpoints)| (self.greeting.hello_ack_ib(version), endpoints))
    }

    /// As [`Machine::hello_ack_received`], in InfiniBand's form.
    ///
    /// # Errors
    ///
    /// The rule that the HelloAck breaks: the connection is aborted.
    pub fn hello_ib_ack_received(&mut self, private_data: &[u8]) -> Result<(), Violation> {
        self.accepted(Greeting::parse_hello_ack_ib(private_data, self.version))
    }

    fn accept(&mut self, peer: Result<Greeting, Violation>) -> Result<(), Violation> {
        self.set_up(peer, State::Idle, Side::Accepting, Input::HelloIn)
    }

    fn accepted(&mut self, peer: Result<Greeting, Violation>) -> Result<(), Violation> {
        self.set_up(peer, State::HelloSent, Side::Connecting, Input::HelloAckIn)?;
        if self.initiator_first {
            self.greets = true;
            self.timers.greets();
        }
        Ok(())
    }

    fn set_up(
        &mut self,
        peer: Result<Greeting, Violation>,
        state: State,
        side: Side,
        input: Input,
    ) -> Result<(), Violation> {
        peer.and_then(|peer| {
            if self.state != state || self.side != side {
                return Err(Violation::new(
                    Rule::B(1),
                    "Hello or HelloAck out of its place",
                ));
            }
            self.start(peer);
            self.advance(input);
            Ok(())
        })
        .inspect_err(|&violation| self.give_up(AbortReason::Violation(violation)))
    }

    /// The accepting end learns from the CM that the connecting end has the HelloAck. A first
    /// message says so too (`B-9`), and must where that end is to talk first (`B-9a`).
    pub fn established(&mut self) {
        if !self.initiator_first {
            self.advance(Input::Confirmed);
        }
    }

    fn start(&mut self, peer: Greeting) {
        self.credits.start(peer.recv_depth);
        self.peer_max_adverts = peer.max_adverts;
        let single = peer.max_adverts == 1 || self.greeting.max_adverts == 1;
        if single || hello::keeps_mode(self.version) {
            self.send_mode.fix();
        }
        self.receive.start(peer.ird.min(self.greeting.ord), single);
        self.resize.start(peer.recv_size);
        self.limit();
    }

    /// Advertisements that the peer may have outstanding, SrcAvails and SinkAvails together
    /// (`B-30`).
    fn max_adverts(&self) -> usize {
        usize::from(self.greeting.max_adverts)
    }

    /// `B-4`, `B-24`.
    fn limit(&mut self) {
        self.send.set_size(self.resize.peer().min(self.send_size));
    }

    // Fabric.

    /// So many receive buffers were posted, beyond the first `config.recv_depth`.
    pub fn posted(&mut self, buffers: u16) {
        self.credits.posted(buffers);
    }

    /// Takes one received message, exactly the bytes that the completion counted. As
    /// [`Machine::received_head`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn received(&mut self, message: &[u8]) -> Result<Received, Violation> {
        self.received_head(message, message.len())
    }

    /// Takes one received message of `len` bytes, as the completion counted them; `head` are its
    /// first, all of its headers at least.
    ///
    /// Its buffer counts as used up; [`Machine::posted`] tells when it, or another, is posted
    /// again.
    ///
    /// # Errors
    ///
    /// The rule that the message breaks. The machine has given the connection up then, and says so
    /// in its events.
    pub fn received_head(&mut self, head: &[u8], len: usize) -> Result<Received, Violation> {
        if self.state == State::HelloAcked {
            self.advance(Input::Confirmed);
        }
        match self.state {
            State::Aborting | State::Disconnecting | State::Closed => Ok(Received::NOTHING),
            _ => self.take(head, len).inspect_err(|&violation| {
                self.give_up(if violation.rule == Rule::B(73) {
                    AbortReason::DataAfterShutdown
                } else {
                    AbortReason::Violation(violation)
                });
            }),
        }
    }

    #[inline]
    fn take(&mut self, head: &[u8], len: usize) -> Result<Received, Violation> {
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
        } = wire::parse_head(head, len)?;
        let update = matches!(message, Message::Data) && payload.is_empty();
        let held = self.send.cancelling();
        self.credits
            .receive(base.mseq, base.mseq_ack, base.bufs, update, held)?;
        self.timers.spoke();
        let answers = matches!(message, Message::SuspCommAck);
        self.suspend.may_come(answers)?;
        self.receive.acknowledged(base.mseq_ack, held);
        self.send_mode.acknowledged(base.mseq_ack);
        self.sinks.acknowledged(base.mseq_ack);

        // What the peer has of our messages, if it does not hold that back.
        let seen = (!held).then_some(base.mseq_ack);
        let mut payload = payload;
        if !payload.is_empty() && !held {
            self.receive.may_follow()?;
        }
        match message {
            Message::Data if update => {}
            Message::Data => {
                self.payload(payload.len())?;
                self.counts.data_received(self.timers.now);
            }
            Message::SrcAvail(region) => {
                let offered = self.offers.oldest_open();
                // After this end's DisConn the peer has no SinkAvail any more.
                let sinks = match self.state.disconn_sent() {
                    true => 0,
                    false => self.sinks.len(),
                };
                let most = self.max_adverts().saturating_sub(sinks);
                self.receive
                    .src_avail(region, payload.len(), most, offered, base.mseq_ack)?;
                if !payload.is_empty() {
                    self.use_up_offer();
                }
                self.counts.data_received(self.timers.now);
                if self.receive.readable().is_some() {
                    self.events |= Events::READABLE;
                }
            }
            Message::SrcAvailCancel => {
                if self.receive.cancel()? {
                    self.credits.hold();
                }
            }
            Message::SendSm => {
                self.send.send_sm(base.mseq_ack)?;
                self.events |= Events::WRITABLE | Events::FINISHED;
            }
            Message::RdmaRdCompl(len) => {
                self.send.read(len)?;
                self.timers.progressed();
                self.note_pending();
                self.hinted(base.flags);
                self.events |= Events::WRITABLE | Events::FINISHED;
            }
            Message::SinkAvail(region, non_discards) => {
                let open = self.receive.outstanding();
                let most = self.max_adverts().saturating_sub(open);
                if self.end.is_some_and(|end| reached(base.mseq_ack, end)) {
                    return Err(Violation::new(Rule::B(69), "SinkAvail after the DisConn"));
                }
                self.sinks.check(region.len, self.resize.peer_has(), seen)?;
                if !self.send_mode.sink_avail()? {
                    self.sinks.add_late(non_discards)?;
                } else if self.sinks.add(region, non_discards, most)? {
                    self.send.crossed(base.mseq_ack)?;
                    self.events |= Events::FINISHED;
                }
                if !payload.is_empty() {
                    self.payload(payload.len())?;
                }
            }
            Message::RdmaWrCompl(len) => {
                self.receive.may_come()?;
                self.offers.written(len)?;
                self.counts.data_received(self.timers.now);
                self.hinted(base.flags);
                self.events |= Events::READABLE | Events::FINISHED;
            }
            Message::SinkAvailCancel => self.sinks.cancelled()?,
            // The cancel crossed the DisConn, which left nothing to take back.
            Message::SinkCancelAck if self.receive.ended() => {}
            Message::SinkCancelAck => {
                self.offers.cancel_acked()?;
                self.events |= Events::FINISHED;
            }
            Message::ModeChange(Half::Receive, mode) => {
                if self.receive.mode() == Mode::Pipelined {
                    self.offers.void();
                    self.events |= Events::FINISHED;
                }
                let next = self.credits.next_sent();
                self.receive.change_mode(mode, next, seen)?;
            }
            Message::ModeChange(Half::Send, mode) => self.send_mode.told(mode)?,
            Message::ChRcvBuf(size) => {
                self.resize.wished(size, base.mseq_ack)?;
                if self.resize.wish().is_some() {
                    self.events |= Events::RESIZE;
                }
            }
            Message::ChRcvBufAck(size) => {
                if self.resize.answered(size)? {
                    self.flush = self.credits.available();
                }
                self.limit();
            }
            Message::SuspComm(id) => {
                self.suspend.received(id)?;
                self.events |= Events::SUSPEND;
            }
            Message::SuspCommAck => {
                self.suspend.acknowledged()?;
                self.advance(Input::Suspended);
            }
            Message::DisConn => {
                self.receive.disconn()?;
                self.offers.void();
                self.advance(Input::DisConnIn);
                self.events |= Events::PEER_CLOSED | Events::READABLE | Events::FINISHED;
            }
            Message::AbortConn => {
                if !self.receive.ended() {
                    return Err(Violation::new(
                        Rule::B(71),
                        "AbortConn without a DisConn before it",
                    ));
                }
                self.give_up(AbortReason::PeerAborted);
                payload = 0..0;
            }
        }

        if !payload.is_empty() {
            self.events |= Events::READABLE;
        }
        let urgent = base.flags.urgent && !payload.is_empty();
        // One is announced at a time, however often a peer says so.
        let urgent_pending = (base.flags.urgent_pending || urgent) && !self.urgent_announced;
        self.urgent_announced = (self.urgent_announced || urgent_pending) && !urgent;
        if urgent_pending {
            self.events |= Events::URGENT;
        }
        Ok(Received {
            payload,
            urgent,
            urgent_pending,
        })
    }

    /// The flags of an RdmaRdCompl, whose sender is sink of this end's send half, or of an
    /// RdmaWrCompl, which means the opposite half and so the same (`B-60`).
    fn hinted(&mut self, flags: Flags) {
        self.peer_hint |= flags.pipeline && self.send_mode.mode() != Mode::Buffered;
    }

    /// Payload of a message other than SrcAvail came.
    #[inline]
    fn payload(&mut self, bytes: usize) -> Result<(), Violation> {
        self.receive.payload(bytes)?;
        self.use_up_offer();
        Ok(())
    }

    #[inline]
    fn use_up_offer(&mut self) {
        if self.offers.payload() {
            self.events |= Events::FINISHED;
        }
    }

    /// The send of a [`Transmit`] completed with success: RC says so when the peer's adapter has
    /// the message. Failed sends are not told; [`Machine::disconnected`] follows them.
    pub fn sent(&mut self, tag: SendTag) {
        self.timers.heard();
        if self.send.sent(tag) {
            self.timers.progressed();
        }
        if self.send.has_buffers() {
            self.events |= Events::FINISHED;
        }
        if tag.stream > 0 {
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
        if self.suspend.sent(tag.mseq) {
            self.note_abandoned();
            self.advance(Input::Suspended);
        }
        self.note_pending();
    }

    /// Ends the time that something was pending, if nothing is any more.
    fn note_pending(&mut self) {
        if self.pending() == Pending::Nothing {
            self.counts.ends(self.timers.now);
        }
    }

    /// The LLP connection is gone. All completions were handed in before.
    pub fn disconnected(&mut self) {
        match self.state {
            State::Closed => return,
            // Nothing is left that could be lost. In Closing, the peer dropped the connection on
            // our DisConn before the fabric told us that it arrived.
            State::Closing | State::Aborting | State::Disconnecting => {}
            _ if self.suspend.is_done() => self.note_abandoned(),
            _ => self.fail(AbortReason::PeerReset),
        }
        self.advance(Input::Gone);
        self.counts.ends(self.timers.now);
        self.send.void();
        self.offers.void();
        self.events |= Events::CLOSED | Events::READABLE | Events::WRITABLE | Events::FINISHED;
    }

    // User.

    /// So many bytes more stand at the tail of the send stream; they may share a message with
    /// others (`B-22`). The last of them may wait for more until [`Machine::push`]. Does nothing
    /// unless [`Machine::can_write`].
    pub fn write(&mut self, bytes: usize) {
        if self.can_write() {
            self.begins();
            self.send.write(bytes, self.timers.now);
        }
    }

    /// The most copied bytes that the next message can carry, since they lie in too many pieces for
    /// more.
    pub fn set_gather(&mut self, bytes: u32) {
        self.send.gather = bytes;
    }

    /// Something is to be sent: if nothing was, its time begins.
    #[inline]
    fn begins(&mut self) {
        if self.pending() == Pending::Nothing {
            self.timers.progressed();
        }
        self.counts.begins(self.timers.now);
    }

    /// What becomes of what was written, the end of the stream included.
    #[inline(always)]
    fn pending(&self) -> Pending {
        if self.send.is_in_flight() || self.disconn.is_some() {
            Pending::InFlight
        } else if self.send.is_open() {
            Pending::Lent
        } else if !self.send.is_drained() || (self.send.shut && !self.state.disconn_sent()) {
            Pending::Held
        } else {
            Pending::Nothing
        }
    }

    /// The most payload of one message, whatever the peer has room for (`TCP_MAXSEG`).
    pub fn set_max_payload(&mut self, bytes: u32) {
        self.send.set_most(bytes);
    }

    /// The most payload of one message that is sent now.
    pub fn max_payload(&self) -> u32 {
        self.send.limit()
    }

    /// No more bytes will follow soon: do not hold a partial message back for them (the end of a
    /// write without `MSG_MORE`, or a writer that is about to sleep).
    pub fn push(&mut self) {
        self.send.push();
    }

    /// `TCP_NODELAY`: a partial message does not wait until the one before it has arrived, but only
    /// while several have not.
    pub fn set_nodelay(&mut self, on: bool) {
        self.send.nodelay = on;
    }

    /// `TCP_CORK`: a partial message waits until it is full or this is turned off.
    pub fn set_cork(&mut self, on: bool) {
        self.send.cork = on;
    }

    /// No more writes: a DisConn goes after all that was written (`B-68`).
    pub fn shutdown_send(&mut self) {
        self.begins();
        self.send.shut = true;
        self.note_closed();
        self.events |= Events::WRITABLE;
    }

    /// No more reads: payload that comes from now on aborts the connection (`B-73`).
    pub fn shutdown_receive(&mut self) {
        self.receive.shut = true;
        self.note_closed();
    }

    fn note_closed(&mut self) {
        if self.send.shut && self.receive.shut {
            self.timers.closed();
        }
    }

    /// The last of the bytes written so far is urgent (`B-77`): it goes without delay, as the last
    /// byte of its message.
    pub fn mark_urgent(&mut self) {
        if self.send.unsent() > 0 {
            self.send.urgent.write(self.send.unsent());
        }
    }

    /// Gives the connection up: by AbortConn after a DisConn, by dropping the LLP connection
    /// otherwise (`B-71`).
    pub fn abort(&mut self) {
        self.give_up(AbortReason::Local);
    }

    // Out.

    /// The next message to post, if one is to go. Call it only with a free send slot, and post what
    /// it gives, in this order.
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
        if self.suspend.silent() {
            return if control { self.poll_move() } else { None };
        }
        if control {
            if let Some(transmit) = self.poll_answer() {
                return Some(transmit);
            }
            if let Some(transmit) = self.poll_request() {
                return Some(transmit);
            }
        }
        if self.suspend.draining() || self.state.disconn_sent() {
            return self.poll_update(control);
        }
        self.poll_stream(control)
    }

    /// An empty Data, for want of anything to say with the news of credit or of an urgent byte.
    #[inline]
    fn poll_update(&mut self, control: bool) -> Option<Transmit> {
        // Not so that the peer has to answer each of them.
        let flushes = self.flush > 0
            && self.credits.allow(Cost::Payload)
            && !self.suspend.draining()
            && !self.state.disconn_sent();
        if flushes {
            self.flush = self.flush.saturating_sub(1);
            return Some(self.transmit(Message::Data, 0));
        }
        let due = control
            && (self.greets
                || self.credits.update_due()
                || self.flags(0, Message::Data).urgent_pending);
        due.then(|| self.transmit(Message::Data, 0))
    }

    /// What the peer waits for.
    #[inline]
    fn poll_answer(&mut self) -> Option<Transmit> {
        // While the peer holds MSeqAck back for a cancel, it could not say whether its Data answers
        // a SendSm.
        let undecided = |answer: &Answer| {
            *answer == Answer::SendSm && self.send.cancelling() && !self.receive.releases()
        };
        let answer = self.receive.next_answer();
        if let Some(answer) = answer.filter(|answer| !undecided(answer)) {
            if self.receive.releases() {
                self.credits.release();
            }
            let message = match answer {
                Answer::Read(len) => Message::RdmaRdCompl(len),
                Answer::SendSm => Message::SendSm,
            };
            let transmit = self.transmit(message, 0);
            if self.receive.answered(answer, transmit.tag.mseq) {
                self.credits.release();
            }
            return Some(transmit);
        }
        if self.sinks.owes_ack() {
            let transmit = self.transmit(Message::SinkCancelAck, 0);
            self.sinks.ack_sent(transmit.tag.mseq);
            return Some(transmit);
        }
        if let Some(size) = self.resize.next_answer() {
            self.resize.answer_sent();
            self.offers.outgrown(size);
            self.events |= Events::FINISHED;
            return Some(self.transmit(Message::ChRcvBufAck(size), 0));
        }
        self.poll_move()
    }

    /// The answer to an end that moves.
    #[inline]
    fn poll_move(&mut self) -> Option<Transmit> {
        if !self.suspend.owes_answer() || self.send.in_flight() > 0 {
            return None;
        }
        let transmit = self.transmit(Message::SuspCommAck, 0);
        self.suspend.answered(transmit.tag.mseq);
        Some(transmit)
    }

    /// What this end asks for.
    #[inline]
    fn poll_request(&mut self) -> Option<Transmit> {
        if self.send.owes_cancel() {
            let transmit = self.transmit(Message::SrcAvailCancel, 0);
            self.send.cancel_sent(transmit.tag.mseq);
            return Some(transmit);
        }
        if self.offers.owes_cancel() {
            self.offers.cancel_sent();
            return Some(self.transmit(Message::SinkAvailCancel, 0));
        }
        if self.suspend.draining() {
            let idle = self.send.in_flight() == 0
                && !self.send.is_open()
                && !self.receive.is_open()
                && !self.offers.is_open();
            let id = self.suspend.next_ask().filter(|_| idle)?;
            self.suspend.asked();
            return Some(self.transmit(Message::SuspComm(id), 0));
        }
        // A peer that has one says so by MSeqAck, which it holds back for a cancel.
        if let Some(size) = self.resize.next_ask().filter(|_| !self.send.cancelling()) {
            // A peer without credit cannot answer.
            let mseq = self.credits.next_sent();
            if self.resize.asked(size, mseq) && !self.peer_is_short() {
                self.timers.asked();
            }
            self.limit();
            return Some(self.transmit(Message::ChRcvBuf(size), 0));
        }
        if self.combine && self.receive.mode() == Mode::Buffered && !self.receive.ended() {
            self.combine = false;
            self.receive.combine();
            return Some(self.transmit(Message::ModeChange(Half::Send, Mode::Combined), 0));
        }
        // The peer must not be reading for this end meanwhile (B-51).
        if self.receive.mode() == Mode::Pipelined
            && !self.receive.is_busy()
            && !self.receive.ended()
        {
            let most = usize::from(self.peer_max_adverts);
            let most = most.saturating_sub(self.send.open_count());
            if let Some((region, non_discards)) = self.offers.next(most) {
                let transmit = self.transmit(Message::SinkAvail(region, non_discards), 0);
                self.offers.advertised(transmit.tag.mseq);
                return Some(transmit);
            }
        }
        None
    }

    /// The send half: mode changes, payload, advertisements, and the DisConn behind all of it.
    #[inline]
    fn poll_stream(&mut self, control: bool) -> Option<Transmit> {
        if control {
            if let Some(mode) = self.send_mode.next(|| self.send.is_open()) {
                let transmit = self.transmit(Message::ModeChange(Half::Receive, mode), 0);
                if self.send_mode.mode() == Mode::Pipelined {
                    self.sinks.discard();
                }
                self.send_mode.changed(mode, transmit.tag.mseq);
                return Some(transmit);
            }
        }
        if self.send.is_idle() && !self.send.shut {
            return self.poll_update(control);
        }
        let next = self.send.next(Constraints {
            mode: self.send_mode.mode(),
            wanted: self.send_mode.wanted(),
            most_open: || {
                usize::from(self.peer_max_adverts).saturating_sub(self.offers.open_count())
            },
            sink: self.sinks.room(),
        });
        let payload = self.credits.allow(Cost::Payload);
        let Some(next) = next else {
            if control && self.send.shut && self.send.is_drained() {
                let transmit = self.transmit(Message::DisConn, 0);
                self.disconn = Some(transmit.tag.mseq);
                self.end = self.disconn;
                self.advance(Input::DisConnOut);
                return Some(transmit);
            }
            return self.poll_update(control);
        };
        let (message, bytes, write) = match next.transfer {
            Transfer::Data if payload => {
                self.sinks.payload();
                (Message::Data, next.bytes, None)
            }
            Transfer::SrcAvail(region) if payload || (control && next.bytes == 0) => {
                if next.bytes > 0 {
                    self.sinks.payload();
                }
                (Message::SrcAvail(region), next.bytes, None)
            }
            Transfer::Write if control => {
                let to = self.sinks.take(next.bytes);
                (Message::RdmaWrCompl(next.bytes), 0, to)
            }
            _ => {
                self.counts.limited(self.timers.now);
                return self.poll_update(control);
            }
        };
        Some(self.transmit_next(next, message, bytes, write))
    }

    /// A message that takes `next` off the send half.
    #[inline]
    fn transmit_next(
        &mut self,
        next: Next,
        message: Message,
        payload: u32,
        write: Option<Region>,
    ) -> Transmit {
        let stream = match next.source {
            Source::Stream => next.bytes,
            Source::Buffer(..) => 0,
        };
        // A message is far shorter than the address space.
        let bytes = usize::try_from(stream).unwrap_or(usize::MAX);
        let flags = self.flags(bytes, message);
        let mseq = self.credits.next_sent();
        let header = self.header(flags, message, payload);
        if flags.urgent {
            self.sinks.urgent(mseq);
        }
        self.greets = false;
        self.counts.data_sent(self.timers.now);
        // The peer let it go. What follows one that has no answer shows nothing of the kind.
        if !self.send.is_in_flight() {
            self.timers.progressed();
        }
        self.events |= Events::WRITABLE;
        Transmit {
            tag: self.send.take(next, mseq),
            header,
            payload,
            source: next.source,
            write,
            solicited: message.solicited() || flags.is_urgent(),
        }
    }

    fn transmit(&mut self, message: Message, payload: u32) -> Transmit {
        let flags = self.flags(0, message);
        let mseq = self.credits.next_sent();
        let header = self.header(flags, message, payload);
        self.greets = false;
        Transmit {
            tag: SendTag {
                mseq,
                stream: 0,
                partial: false,
            },
            header,
            payload,
            source: Source::Stream,
            write: None,
            solicited: message.solicited() || flags.is_urgent(),
        }
    }

    /// The flags of a message that takes so many bytes of the send stream.
    #[inline]
    fn flags(&self, bytes: usize, message: Message) -> Flags {
        let pipeline = self.hint && message.may_hint();
        match self.send.urgent.limit() {
            None => Flags {
                pipeline,
                ..Flags::default()
            },
            Some(at) => Flags {
                urgent: bytes == at,
                urgent_pending: self.send.announces(bytes, at),
                pipeline,
            },
        }
    }

    /// Numbers the message.
    #[inline]
    fn header(&mut self, flags: Flags, message: Message, payload: u32) -> Header {
        if flags.urgent_pending {
            self.send.urgent.announced();
        }
        let (bufs, mseq, mseq_ack) = self.credits.send();
        let base = Base {
            flags,
            bufs,
            mseq,
            mseq_ack,
        };
        Header::new(base, message, payload)
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    // Zero copy. A caller that uses none of this is a correct peer that copies.

    /// The bytes of `region` follow in the send stream, behind all that was written, to be fetched
    /// by the peer, written to it, or copied, as the modes have it. The caller has registered the
    /// memory for the peer to read, and keeps it so until [`Machine::finished`]. None when it
    /// cannot be taken: copy it instead.
    pub fn send_buffer(&mut self, region: Region) -> Option<BufferId> {
        let id = BufferId(self.next_buffer);
        let sane = region.len > 0 && region.len <= wire::SIZE_MAX;
        if !sane || !self.can_write() {
            return None;
        }
        self.begins();
        if !self.send.add(id, region) {
            return None;
        }
        self.next_buffer = self.next_buffer.wrapping_add(1);
        Some(id)
    }

    /// The sender will not wait for the peer to fetch its buffers (`B-36`): what is left of them
    /// goes by copy. To `withdraw`, the last of them is not sent any further, unless something was
    /// written behind it.
    pub fn cancel_send(&mut self, withdraw: bool) {
        self.send.cancel(withdraw);
        self.events |= Events::FINISHED;
    }

    /// Takes back what was not transferred of `from` and the buffers handed in after it, unless
    /// something was written behind them. Each still has to come out of [`Machine::finished`],
    /// which needs the peer where it may be reading.
    pub fn withdraw_send(&mut self, from: BufferId) {
        self.send.withdraw(from);
        self.events |= Events::FINISHED;
    }

    /// Bytes of [`Machine::send_buffer`] that were not transferred.
    pub fn buffered(&self) -> u64 {
        self.send.buffered()
    }

    /// A buffer of [`Machine::send_buffer`] once nobody can touch it.
    pub fn finished(&mut self) -> Option<Finished> {
        self.send.finished()
    }

    /// The user fetches what the peer advertises, see [`Machine::readable`]. Otherwise the peer is
    /// asked to copy (`B-38`).
    pub fn set_zero_copy(&mut self, on: bool) {
        self.receive.zero_copy = on;
    }

    /// The peer's memory that is next in the stream to fetch, if any. Its length is 0 while reads
    /// in flight fetch all of it: bytes behind it have to wait for them. What is fetched next
    /// stands right behind what is being fetched.
    pub fn readable(&self) -> Option<Readable> {
        self.receive.readable()
    }

    /// Whether another RDMA Read may be started while others are in flight (`B-4a`).
    pub fn may_read(&self) -> bool {
        self.receive.may_read()
    }

    /// An RDMA Read of up to `len` bytes of [`Machine::readable`] starts; gives what to read. Reads
    /// are posted in this order. None if there is nothing to read, or as many are in flight as
    /// there may be.
    pub fn start_read(&mut self, len: u32) -> Option<Region> {
        self.receive.start_read(len)
    }

    /// The oldest RDMA Read completed, with so many bytes.
    pub fn read_done(&mut self, len: u32) {
        self.receive.read(len);
    }

    /// What the peer advertised is to come by copy (`B-33`).
    pub fn decline(&mut self) {
        self.receive.decline();
    }

    /// Memory for the peer to write the next bytes of the stream into, larger than a receive buffer
    /// (`B-46`); it is advertised in Pipelined mode only, and stays the fabric's until
    /// [`Machine::offer_finished`]. None when it cannot be taken.
    pub fn offer_buffer(&mut self, region: Region) -> Option<BufferId> {
        let id = BufferId(self.next_buffer);
        let sane = region.len > self.resize.own() && region.len <= wire::SIZE_MAX;
        let usable = self.state.is_open() && !self.receive.ended() && !self.receive.shut;
        if !sane || !usable || !self.offers.add(id, region) {
            return None;
        }
        self.next_buffer = self.next_buffer.wrapping_add(1);
        Some(id)
    }

    /// Takes back those of [`Machine::offer_buffer`] that were not advertised: something came
    /// before them.
    pub fn retract_offers(&mut self) {
        self.offers.retract();
        self.events |= Events::FINISHED;
    }

    /// Takes back all of [`Machine::offer_buffer`] (`B-53`); each still has to come out of
    /// [`Machine::offer_finished`].
    pub fn cancel_offers(&mut self) {
        self.offers.cancel();
        self.events |= Events::FINISHED;
    }

    /// The oldest buffer of [`Machine::offer_buffer`] once nobody writes to it. Ask after each
    /// [`Machine::received`]: the bytes written stand in the stream where the message of that call
    /// does.
    pub fn offer_finished(&mut self) -> Option<Finished> {
        self.offers.finished()
    }

    /// The mode wished for the send half; it changes when the rules let it (`B-55` to `B-59a`).
    pub fn want_mode(&mut self, mode: Mode) {
        self.send_mode.want(mode);
    }

    /// Should the peer have put the receive half into Buffered mode, take it back to Combined
    /// (`B-56`).
    pub fn want_combined(&mut self) {
        self.combine = true;
    }

    /// Whether to hint to the peer that it use Pipelined mode (`B-60`).
    pub fn set_pipeline_hint(&mut self, on: bool) {
        self.hint = on;
    }

    /// Whether the peer hinted that the send half use Pipelined mode (`B-60`, `B-60a`).
    pub fn pipeline_hinted(&self) -> bool {
        self.peer_hint
    }

    // Receive buffer sizes.

    /// Whether the caller answers the peer's wishes for other receive buffers. Otherwise each is
    /// refused (`B-65`).
    pub fn set_resizable(&mut self, on: bool) {
        self.resize.willing = on;
    }

    /// The receive buffer size that the peer wishes and [`Machine::resized`] has not answered
    /// (`B-63`).
    pub fn resize_wish(&self) -> Option<u32> {
        self.resize.wish()
    }

    /// From now on receive buffers have `size` bytes. For larger ones, all of the old size were
    /// consumed (`B-64`). The present size refuses. False when the wish allows no such answer.
    pub fn resized(&mut self, size: u32) -> bool {
        wire::buffer_size(size).is_ok() && self.resize.answer(size)
    }

    /// Bytes of the peer's receive buffers: the longest message that it takes.
    pub fn peer_recv_size(&self) -> u32 {
        self.resize.peer()
    }

    /// Whether the peer has too little credit for payload, as far as it knows (`B-15`).
    pub fn peer_is_short(&self) -> bool {
        self.credits.known() < PAYLOAD_CREDIT
    }

    /// Asks the peer for receive buffers of `size` bytes (`B-63`). False when it refused before, or
    /// is being asked.
    pub fn ask_resize(&mut self, size: u32) -> bool {
        wire::buffer_size(size).is_ok() && self.resize.ask(size)
    }

    // Moving.

    /// Asks the peer to connect again, to `port`, once transfers are done (`B-83`). The caller
    /// listens there already. False when a move is under way or the connection is not open. What
    /// [`Machine::unsent`] counts then is for the machine of the new connection.
    pub fn suspend(&mut self, port: u16) -> bool {
        port != 0 && self.state.is_open() && self.suspend.want(port)
    }

    /// Whether the user connects again where the peer asks for that (`B-83`). Otherwise the peer is
    /// answered all the same, but the end of the connection is a reset.
    pub fn set_movable(&mut self, on: bool) {
        self.suspend.movable = on;
    }

    /// The peer is gone, and the user does not follow: both streams end early, unless both were
    /// closed.
    fn note_abandoned(&mut self) {
        if self.suspend.is_abandoned() && self.state != State::Closing {
            self.fail(AbortReason::PeerReset);
        }
    }

    /// The port to connect to when this connection is gone, if the peer moves (`B-83`).
    pub fn resume_port(&self) -> Option<u16> {
        self.suspend.port()
    }

    // Time.

    /// Tells the time, in nanoseconds of any steady clock, for the calls that follow.
    pub fn set_now(&mut self, now: u64) {
        self.timers.now = now;
    }

    /// Probe an idle peer, by [`Events::PROBE`], and give it up if it does not answer (`B-76`,
    /// `B-81`).
    pub fn set_keepalive(&mut self, keepalive: Option<KeepAlive>) {
        self.timers.set_keepalive(keepalive);
    }

    /// Give the peer up when what was written makes no progress for `user_timeout` nanoseconds,
    /// whatever the fabric says, or when the fabric has no answer to it for `silence`.
    pub fn set_limits(&mut self, user_timeout: Option<u64>, silence: Option<u64>) {
        self.timers.set_limits(user_timeout, silence);
    }

    /// The peer's fabric answered a probe.
    pub fn probed(&mut self) {
        self.timers.heard();
    }

    /// Abort when both halves are shut here and the peer has not closed for so many nanoseconds
    /// (`B-74`).
    pub fn set_close_timeout(&mut self, timeout: Option<u64>) {
        self.timers.set_close_timeout(timeout);
    }

    /// When [`Machine::expired`] is to be called, if nothing else happens before.
    pub fn deadline(&self) -> Option<u64> {
        let deadline = || earlier(self.timers.deadline(self.pending()), self.send.deadline());
        self.state
            .is_open()
            .then(|| earlier(deadline(), self.greeting_at()))?
    }

    /// When a peer that was not heard yet is probed (`B-9a`).
    fn greeting_at(&self) -> Option<u64> {
        let silent = self.credits.next_received() == 1;
        self.timers.greeting.filter(|_| silent)
    }

    /// The time is `now`: does what is due.
    pub fn expired(&mut self, now: u64) {
        self.set_now(now);
        if !self.state.is_open() {
            return;
        }
        self.send.expired(now);
        if self.greeting_at().is_some_and(|at| at <= now) {
            self.timers.greets_again();
            self.events |= Events::NUDGE;
        }
        if self.timers.close_expired() {
            return self.give_up(AbortReason::Local);
        }
        match self.timers.due(self.pending()) {
            None => {}
            Some(Due::Probe) => self.events |= Events::PROBE,
            Some(Due::KeepAlive) => {
                let asks = self.asks_peer();
                // On iWARP the answer tells of the adapter as well: siw takes a message that comes
                // with the answer to an RDMA Read of no bytes for a part of that, and ends.
                if !asks || !self.initiator_first {
                    self.events |= Events::PROBE;
                }
            }
            Some(Due::Copy) => self.cancel_send(false),
            Some(Due::GiveUp) => self.give_up(AbortReason::TimedOut),
        }
    }

    /// Asks the peer for an answer of its own (`B-81`), if there is credit for both.
    fn asks_peer(&mut self) -> bool {
        let may_ask = self.credits.allow(Cost::Control)
            && !self.peer_is_short()
            && !self.receive.ended()
            && !self.state.disconn_sent();
        may_ask && self.resize.ask_same()
    }

    // State.

    fn advance(&mut self, input: Input) {
        if let Some(state) = self.state.after(input) {
            self.state = state;
            match state {
                State::Established => {
                    self.timers.heard();
                    self.events |= Events::CONNECTED;
                }
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
        // Without the credit for it, after the peer aborted itself, or where it does not answer,
        // dropping the LLP connection has to say it.
        let is_deaf = matches!(reason, AbortReason::PeerAborted | AbortReason::TimedOut);
        if self.state == State::Aborting && (is_deaf || !self.credits.allow(Cost::Control)) {
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

    /// Payload bytes of the messages that came, modulo 2^64: what [`Readable::after`] counts by.
    pub fn received_bytes(&self) -> u64 {
        self.receive.bytes()
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

    /// How far the stream of written bytes goes, without those of buffers that were taken back.
    pub fn written(&self) -> u64 {
        self.send.written()
    }

    /// Up to where that is in messages, or advertised to the peer.
    pub fn posted_bytes(&self) -> u64 {
        self.send.posted()
    }

    /// Up to where it has reached the peer; of a buffer nothing has before it is finished.
    pub fn arrived_bytes(&self) -> u64 {
        self.send.arrived()
    }

    /// Messages that the peer has buffers for (`B-14`).
    pub fn credits(&self) -> u32 {
        self.credits.available()
    }

    /// Messages that this end has told the peer of buffers for.
    pub fn peer_credits(&self) -> u32 {
        self.credits.known()
    }

    /// What was sent and received until `now`.
    pub fn traffic(&self, now: u64) -> Traffic {
        let (sent, received) = self.credits.counts();
        (self.counts).traffic(now, sent, received, self.timers.heard)
    }

    /// When the peer is next probed, what for, and how many probes have no answer.
    pub fn awaited(&self) -> Option<(Awaited, u32, u64)> {
        self.state
            .is_open()
            .then(|| self.timers.awaited(self.pending()))?
    }

    /// The mode of the send half (`B-55` to `B-62`).
    pub fn send_mode(&self) -> Mode {
        self.send_mode.mode()
    }

    /// The mode of the receive half (`B-55` to `B-62`).
    pub fn receive_mode(&self) -> Mode {
        self.receive.mode()
    }
}

#[cfg(test)]
mod tests;
