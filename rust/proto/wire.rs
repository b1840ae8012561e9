// SPDX-License-Identifier: GPL-2.0

//! The wire format of messages (`A.1`, `A.2`, `A.6`): raw big-endian headers and the validated
//! [`Message`].
//!
//! Nothing outside this file and `hello.rs` sees raw bytes.

use super::violation::{
    Rule,
    Violation, //
};
use core::{
    mem::size_of,
    ops::Range, //
};
use zerocopy::{
    byteorder::network_endian::{
        U16,
        U32,
        U64, //
    },
    FromBytes,
    Immutable,
    IntoBytes, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// Bytes of the base header that starts every message (`A.1`).
pub const BASE_LEN: usize = size_of::<Bsdh>();
/// Bytes of the longest header: base and SinkAvail (`A.6`).
pub const HEADER_MAX: usize = BASE_LEN + size_of::<SinkAh>();
/// The smallest legal size of a send or receive buffer: the longest header and one byte (`B-4`).
pub const BUFFER_MIN: u32 = 37;
/// The largest size that a buffer or an advertisement may state (`A.5`, `A.6`).
pub const SIZE_MAX: u32 = 1 << 31;

const _: () = assert!(BASE_LEN == 16);
const _: () = assert!(HEADER_MAX + 1 == BUFFER_MIN as usize);

/// Base Sockets Direct Header (`A.1`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Bsdh {
    pub(super) mid: u8,
    pub(super) flags: u8,
    pub(super) bufs: U16,
    pub(super) len: U32,
    pub(super) mseq: U32,
    pub(super) mseq_ack: U32,
}

/// SrcAvail header (`A.6`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct SrcAh {
    len: U32,
    rkey: U32,
    va: U64,
}

/// SinkAvail header (`A.6`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct SinkAh {
    len: U32,
    rkey: U32,
    va: U64,
    non_discards: U32,
}

/// ModeChange header (`A.6`): S in bit 7, the mode in bits 6 to 4.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Mch {
    half_mode: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<SrcAh>() == 16);
const _: () = assert!(size_of::<SinkAh>() == 20);
const _: () = assert!(size_of::<Mch>() == 4);

/// Message identifiers (`A.2`).
#[allow(missing_docs)]
pub mod mid {
    pub const HELLO: u8 = 0x00;
    pub const HELLO_ACK: u8 = 0x01;
    pub const DIS_CONN: u8 = 0x02;
    pub const ABORT_CONN: u8 = 0x03;
    pub const SEND_SM: u8 = 0x04;
    pub const RDMA_WR_COMPL: u8 = 0x05;
    pub const RDMA_RD_COMPL: u8 = 0x06;
    pub const MODE_CHANGE: u8 = 0x07;
    pub const SRC_AVAIL_CANCEL: u8 = 0x08;
    pub const SINK_AVAIL_CANCEL: u8 = 0x09;
    pub const SINK_CANCEL_ACK: u8 = 0x0a;
    pub const CH_RCV_BUF: u8 = 0x0b;
    pub const CH_RCV_BUF_ACK: u8 = 0x0c;
    pub const SUSP_COMM: u8 = 0x0d;
    pub const SUSP_COMM_ACK: u8 = 0x0e;
    pub const SINK_AVAIL: u8 = 0xfd;
    pub const SRC_AVAIL: u8 = 0xfe;
    pub const DATA: u8 = 0xff;
}

const OOB_PRES: u8 = 0x01;
const OOB_PEND: u8 = 0x02;
const REQ_PIPE: u8 = 0x04;

/// The flags of a message (`A.1`); the other five bits are zero and not checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// The last payload byte is urgent (`B-78`).
    pub urgent: bool,
    /// An urgent byte comes in this message or in one soon after (`B-77`).
    pub urgent_pending: bool,
    /// The peer would like Pipelined mode (`B-60`).
    pub pipeline: bool,
}

impl Flags {
    /// The message has an urgent byte, or announces one, and so is solicited (`B-82`).
    pub(super) fn is_urgent(self) -> bool {
        self.urgent || self.urgent_pending
    }

    fn parse(bits: u8) -> Flags {
        Flags {
            urgent: bits & OOB_PRES != 0,
            urgent_pending: bits & OOB_PEND != 0,
            pipeline: bits & REQ_PIPE != 0,
        }
    }

    fn bits(self) -> u8 {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        bit(self.urgent, OOB_PRES)
            | bit(self.urgent_pending, OOB_PEND)
            | bit(self.pipeline, REQ_PIPE)
    }
}

/// The fields of the base header that every message carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// The flags.
    pub flags: Flags,
    /// Receive buffers posted less messages received (`B-13`).
    pub bufs: u16,
    /// Sequence number (`B-12`).
    pub mseq: u32,
    /// The last sequence number that the sender of this message acknowledges.
    pub mseq_ack: u32,
}

/// How a half of the stream moves its bytes (`B-55` to `B-62`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// By Data only.
    Buffered,
    /// By Data, or by one SrcAvail at a time that carries its first bytes.
    Combined,
    /// By Data, and by SrcAvail and SinkAvail up to the advertised number.
    Pipelined,
}

/// Which half of its stream the receiver of a ModeChange changes: the bit S (`A.6`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// S = 0.
    Receive,
    /// S = 1.
    Send,
}

/// Remote memory that an advertisement names (`A.6`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    /// Bytes, 1 to 2^31 (`B-28`).
    pub len: u32,
    /// Remote key, or STag.
    pub rkey: u32,
    /// Address of the first byte, of any alignment (`B-28`).
    pub va: u64,
}

/// A validated message but for its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// The sender will send no more payload (`B-68`).
    DisConn,
    /// Turns the sender's DisConn into an abort (`B-71`).
    AbortConn,
    /// The sink asks for the rest of an advertised buffer by Data (`B-33`).
    SendSm,
    /// The source wrote this many bytes (`B-47`).
    RdmaWrCompl(u32),
    /// The sink read this many bytes (`B-32`).
    RdmaRdCompl(u32),
    /// The receiver's half changes to this mode (`B-55`).
    ModeChange(Half, Mode),
    /// The source takes its SrcAvails back (`B-39`).
    SrcAvailCancel,
    /// The sink takes its SinkAvails back (`B-53`).
    SinkAvailCancel,
    /// Answer to [`Message::SinkAvailCancel`].
    SinkCancelAck,
    /// Asks for receive buffers of this size (`B-63`).
    ChRcvBuf(u32),
    /// The size that receive buffers now have (`B-63`).
    ChRcvBufAck(u32),
    /// Asks the receiver to connect again to this service identifier (`B-83`).
    SuspComm(u64),
    /// Answer to [`Message::SuspComm`].
    SuspCommAck,
    /// Memory of the sink that the receiver may write (`B-46`), with the sink's NonDiscards
    /// (`B-49`).
    SinkAvail(Region, u32),
    /// Memory of the source that the receiver may read (`B-26`).
    SrcAvail(Region),
    /// Payload, or none: a credit update.
    Data,
}

impl Message {
    /// Whether a message of this kind may have payload (`A.2`).
    fn may_carry(self) -> bool {
        matches!(
            self,
            Message::Data | Message::SrcAvail(_) | Message::SinkAvail(..)
        )
    }

    /// Whether REQ_PIPE means something on it (`B-60`).
    pub(super) fn may_hint(self) -> bool {
        matches!(self, Message::RdmaRdCompl(_) | Message::RdmaWrCompl(_))
    }

    /// Whether the receiver should be woken for it, whatever its flags (`B-82`).
    pub fn solicited(self) -> bool {
        matches!(
            self,
            Message::AbortConn
                | Message::SuspComm(_)
                | Message::SuspCommAck
                | Message::SendSm
                | Message::SrcAvailCancel
                | Message::SinkAvailCancel
                | Message::RdmaWrCompl(_)
                | Message::RdmaRdCompl(_)
                | Message::SinkCancelAck
        )
    }
}

/// A message as it came, with the place of its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// The base header.
    pub base: Base,
    /// What it says.
    pub message: Message,
    /// The payload's place in the bytes parsed; ends where they end.
    pub payload: Range<usize>,
}

/// Reads one received message. `bytes` are exactly those that the receive completion counted. As
/// [`parse_head`].
///
/// # Errors
///
/// As there.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Violation> {
    parse_head(bytes, bytes.len())
}

/// Reads one received message of `len` bytes, which the receive completion counted; `head` are its
/// first, all of its headers at least.
///
/// # Errors
///
/// A [`Violation`] for bytes that are no message of A.2: too short, a length that differs from what
/// arrived (`A.1`), an unknown identifier (`A.2`), a field out of its range, payload or an urgent
/// byte where there may be none.
#[inline]
pub fn parse_head(head: &[u8], len: usize) -> Result<Parsed, Violation> {
    let (bsdh, rest) = Bsdh::read_from_prefix(head)
        .map_err(|_| Violation::new(Rule::A(1), "shorter than the base header"))?;
    if usize::try_from(bsdh.len.get()) != Ok(len) {
        return Err(Violation::new(
            Rule::A(1),
            "Len is not the number of bytes received",
        ));
    }
    let (message, rest) = Message::parse(bsdh.mid, rest)?;
    let payload = head.len().saturating_sub(rest.len())..len;
    if !payload.is_empty() && !message.may_carry() {
        return Err(Violation::new(
            Rule::A(2),
            "payload on a message that has none",
        ));
    }
    let base = Base {
        flags: Flags::parse(bsdh.flags),
        bufs: bsdh.bufs.get(),
        mseq: bsdh.mseq.get(),
        mseq_ack: bsdh.mseq_ack.get(),
    };
    if base.flags.urgent && (!matches!(message, Message::Data) || payload.is_empty()) {
        return Err(Violation::new(
            Rule::B(78),
            "OOB_PRES without a byte of Data",
        ));
    }
    Ok(Parsed {
        base,
        message,
        payload,
    })
}

impl Message {
    /// Takes the extended header that belongs to `mid` off `rest`; what is left is payload.
    #[inline]
    fn parse(mid: u8, rest: &[u8]) -> Result<(Message, &[u8]), Violation> {
        Ok(match mid {
            mid::DATA => (Message::Data, rest),
            mid::DIS_CONN => (Message::DisConn, rest),
            mid::ABORT_CONN => (Message::AbortConn, rest),
            mid::SEND_SM => (Message::SendSm, rest),
            mid::RDMA_WR_COMPL => {
                let (len, rest) = extended::<U32>(rest)?;
                (Message::RdmaWrCompl(len.get()), rest)
            }
            mid::RDMA_RD_COMPL => {
                let (len, rest) = extended::<U32>(rest)?;
                (Message::RdmaRdCompl(len.get()), rest)
            }
            mid::MODE_CHANGE => {
                let (mch, rest) = extended::<Mch>(rest)?;
                let half = match mch.half_mode & 0x80 {
                    0 => Half::Receive,
                    _ => Half::Send,
                };
                let mode = match (mch.half_mode & 0x70) >> 4 {
                    0 => Mode::Buffered,
                    1 => Mode::Combined,
                    2 => Mode::Pipelined,
                    _ => return Err(Violation::new(Rule::A(6), "ModeChange to no known mode")),
                };
                (Message::ModeChange(half, mode), rest)
            }
            mid::SRC_AVAIL_CANCEL => (Message::SrcAvailCancel, rest),
            mid::SINK_AVAIL_CANCEL => (Message::SinkAvailCancel, rest),
            mid::SINK_CANCEL_ACK => (Message::SinkCancelAck, rest),
            mid::CH_RCV_BUF => {
                let (size, rest) = extended::<U32>(rest)?;
                (Message::ChRcvBuf(buffer_size(size.get())?), rest)
            }
            mid::CH_RCV_BUF_ACK => {
                let (size, rest) = extended::<U32>(rest)?;
                (Message::ChRcvBufAck(buffer_size(size.get())?), rest)
            }
            mid::SUSP_COMM => {
                let (id, rest) = extended::<U64>(rest)?;
                (Message::SuspComm(id.get()), rest)
            }
            mid::SUSP_COMM_ACK => (Message::SuspCommAck, rest),
            mid::SINK_AVAIL => {
                let (ah, rest) = extended::<SinkAh>(rest)?;
                let region = Region::parse(ah.len, ah.rkey, ah.va)?;
                (Message::SinkAvail(region, ah.non_discards.get()), rest)
            }
            mid::SRC_AVAIL => {
                let (ah, rest) = extended::<SrcAh>(rest)?;
                (
                    Message::SrcAvail(Region::parse(ah.len, ah.rkey, ah.va)?),
                    rest,
                )
            }
            mid::HELLO | mid::HELLO_ACK => {
                return Err(Violation::new(
                    Rule::A(2),
                    "Hello outside connection set-up",
                ))
            }
            // No experimental identifier is assigned, and reserved ones mean nothing.
            _ => return Err(Violation::new(Rule::A(2), "unknown message identifier")),
        })
    }

    /// The identifier and the extended header.
    #[inline]
    fn encode(self) -> (u8, Extended) {
        let none = Extended::default;
        match self {
            Message::DisConn => (mid::DIS_CONN, none()),
            Message::AbortConn => (mid::ABORT_CONN, none()),
            Message::SendSm => (mid::SEND_SM, none()),
            Message::RdmaWrCompl(len) => (mid::RDMA_WR_COMPL, Extended::new(U32::new(len))),
            Message::RdmaRdCompl(len) => (mid::RDMA_RD_COMPL, Extended::new(U32::new(len))),
            Message::ModeChange(half, mode) => {
                let half = match half {
                    Half::Receive => 0x00,
                    Half::Send => 0x80,
                };
                let mode = match mode {
                    Mode::Buffered => 0x00,
                    Mode::Combined => 0x10,
                    Mode::Pipelined => 0x20,
                };
                let mch = Mch {
                    half_mode: half | mode,
                    reserved: [0; 3],
                };
                (mid::MODE_CHANGE, Extended::new(mch))
            }
            Message::SrcAvailCancel => (mid::SRC_AVAIL_CANCEL, none()),
            Message::SinkAvailCancel => (mid::SINK_AVAIL_CANCEL, none()),
            Message::SinkCancelAck => (mid::SINK_CANCEL_ACK, none()),
            Message::ChRcvBuf(size) => (mid::CH_RCV_BUF, Extended::new(U32::new(size))),
            Message::ChRcvBufAck(size) => (mid::CH_RCV_BUF_ACK, Extended::new(U32::new(size))),
            Message::SuspComm(id) => (mid::SUSP_COMM, Extended::new(U64::new(id))),
            Message::SuspCommAck => (mid::SUSP_COMM_ACK, none()),
            Message::SinkAvail(region, non_discards) => {
                let ah = SinkAh {
                    len: U32::new(region.len),
                    rkey: U32::new(region.rkey),
                    va: U64::new(region.va),
                    non_discards: U32::new(non_discards),
                };
                (mid::SINK_AVAIL, Extended::new(ah))
            }
            Message::SrcAvail(region) => {
                let ah = SrcAh {
                    len: U32::new(region.len),
                    rkey: U32::new(region.rkey),
                    va: U64::new(region.va),
                };
                (mid::SRC_AVAIL, Extended::new(ah))
            }
            Message::Data => (mid::DATA, none()),
        }
    }
}

impl Region {
    fn parse(len: U32, rkey: U32, va: U64) -> Result<Region, Violation> {
        let region = Region {
            len: len.get(),
            rkey: rkey.get(),
            va: va.get(),
        };
        if region.len == 0 || region.len > SIZE_MAX {
            return Err(Violation::new(
                Rule::B(28),
                "advertised length not 1 to 2^31",
            ));
        }
        // The last byte has an address too.
        if region.va.checked_add(u64::from(region.len) - 1).is_none() {
            return Err(Violation::new(
                Rule::B(28),
                "advertised memory ends beyond the address space",
            ));
        }
        Ok(region)
    }
}

/// A buffer size that a peer states, checked against its bounds (`B-4`, `A.5`).
pub(super) fn buffer_size(size: u32) -> Result<u32, Violation> {
    if size < BUFFER_MIN {
        return Err(Violation::new(
            Rule::B(4),
            "receive buffer of less than 37 bytes",
        ));
    }
    if size > SIZE_MAX {
        return Err(Violation::new(
            Rule::A(5),
            "receive buffer of more than 2^31 bytes",
        ));
    }
    Ok(size)
}

fn extended<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), Violation> {
    T::read_from_prefix(bytes)
        .map_err(|_| Violation::new(Rule::A(6), "shorter than the extended header"))
}

/// An extended header ready to send, and its length.
#[derive(Clone, Copy, Default)]
struct Extended {
    bytes: [u8; HEADER_MAX - BASE_LEN],
    len: u8,
}

impl Extended {
    fn new<T: IntoBytes + Immutable>(header: T) -> Extended {
        const { assert!(size_of::<T>() <= HEADER_MAX - BASE_LEN) };
        let mut extended = Extended {
            // CAST: at most 20, see above.
            len: size_of::<T>() as u8,
            ..Extended::default()
        };
        // Cannot fail: the assertion above is the only condition.
        let _ = header.write_to_prefix(&mut extended.bytes);
        extended
    }
}

/// The header of one message to send: base header and extended header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    bsdh: Bsdh,
    extended: [u8; HEADER_MAX - BASE_LEN],
}

/// The header of one message to send, as the bytes that go out before its payload.
#[derive(Clone, Copy)]
pub struct Header {
    raw: Raw,
    len: u8,
}

impl Header {
    /// The header of `message` with `payload` bytes behind it.
    #[inline]
    pub fn new(base: Base, message: Message, payload: u32) -> Header {
        let (mid, extended) = message.encode();
        // CAST: 16, and with at most 20 more no overflow.
        let len = (BASE_LEN as u8).saturating_add(extended.len);
        Header {
            raw: Raw {
                bsdh: Bsdh {
                    mid,
                    flags: base.flags.bits(),
                    bufs: U16::new(base.bufs),
                    // The payload limit (`B-24`) keeps the sum far below 2^32.
                    len: U32::new(payload.saturating_add(u32::from(len))),
                    mseq: U32::new(base.mseq),
                    mseq_ack: U32::new(base.mseq_ack),
                },
                extended: extended.bytes,
            },
            len,
        }
    }

    /// The message's identifier, one of [`mid`] (`A.2`).
    pub fn mid(&self) -> u8 {
        self.raw.bsdh.mid
    }

    /// The bytes to send, 16 to 36 of them.
    pub fn as_bytes(&self) -> &[u8] {
        let bytes = self.raw.as_bytes();
        bytes.get(..usize::from(self.len)).unwrap_or(bytes)
    }
}

impl core::fmt::Debug for Header {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.as_bytes()).finish()
    }
}

#[cfg(test)]
mod tests;
