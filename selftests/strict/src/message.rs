// SPDX-License-Identifier: GPL-2.0

//! Messages as the rules see them, and the rules of form.

use crate::raw::{
    mid,
    Message,
    HEADER, //
};
use std::fmt;

/// A rule that was broken, by its number, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule, as `B-14` or `A.3`.
    pub rule: &'static str,
    /// How it was broken.
    pub what: &'static str,
}

impl Violation {
    pub(crate) const fn new(rule: &'static str, what: &'static str) -> Self {
        Self { rule, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The flags (A.1).
pub(crate) mod flag {
    pub(crate) const OOB_PRES: u8 = 1;
    pub(crate) const OOB_PEND: u8 = 2;
    pub(crate) const REQ_PIPE: u8 = 4;
}

/// How a half moves its bytes.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Buffered,
    Combined,
    Pipelined,
}

/// Advertised memory (A.6).
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    pub len: u32,
    pub key: u32,
    pub addr: u64,
}

/// The kind of a message and its extended header (A.2, A.6).
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    DisConn,
    AbortConn,
    SendSm,
    RdmaWrCompl(u32),
    RdmaRdCompl(u32),
    /// The bit S: whether the receiver changes its send half.
    ModeChange(bool, Mode),
    SrcAvailCancel,
    SinkAvailCancel,
    SinkCancelAck,
    ChRcvBuf(u32),
    ChRcvBufAck(u32),
    SuspComm(u64),
    SuspCommAck,
    /// The memory, and NonDiscards.
    SinkAvail(Region, u32),
    SrcAvail(Region),
    Data,
}

impl Body {
    fn may_carry(self) -> bool {
        matches!(self, Self::Data | Self::SrcAvail(_) | Self::SinkAvail(..))
    }

    /// B-82, but for the flags.
    fn solicited(self) -> bool {
        matches!(
            self,
            Self::AbortConn
                | Self::SuspComm(_)
                | Self::SuspCommAck
                | Self::SendSm
                | Self::SrcAvailCancel
                | Self::SinkAvailCancel
                | Self::SinkCancelAck
                | Self::RdmaWrCompl(_)
                | Self::RdmaRdCompl(_)
        )
    }

    fn encode(self) -> (u8, Vec<u8>) {
        let size = |size: u32| size.to_be_bytes().to_vec();
        match self {
            Self::DisConn => (mid::DISCONN, vec![]),
            Self::AbortConn => (mid::ABORT_CONN, vec![]),
            Self::SendSm => (mid::SEND_SM, vec![]),
            Self::RdmaWrCompl(len) => (mid::RDMA_WR_COMPL, size(len)),
            Self::RdmaRdCompl(len) => (mid::RDMA_RD_COMPL, size(len)),
            Self::ModeChange(send, mode) => {
                let bits = (u8::from(send) << 7) | ((mode as u8) << 4);
                (mid::MODE_CHANGE, vec![bits, 0, 0, 0])
            }
            Self::SrcAvailCancel => (mid::SRC_AVAIL_CANCEL, vec![]),
            Self::SinkAvailCancel => (mid::SINK_AVAIL_CANCEL, vec![]),
            Self::SinkCancelAck => (mid::SINK_CANCEL_ACK, vec![]),
            Self::ChRcvBuf(wish) => (mid::CH_RCV_BUF, size(wish)),
            Self::ChRcvBufAck(actual) => (mid::CH_RCV_BUF_ACK, size(actual)),
            Self::SuspComm(id) => (mid::SUSP_COMM, id.to_be_bytes().to_vec()),
            Self::SuspCommAck => (mid::SUSP_COMM_ACK, vec![]),
            Self::SinkAvail(region, count) => {
                let mut bytes = region.to_bytes();
                bytes.extend(count.to_be_bytes());
                (mid::SINK_AVAIL, bytes)
            }
            Self::SrcAvail(region) => (mid::SRC_AVAIL, region.to_bytes()),
            Self::Data => (mid::DATA, vec![]),
        }
    }

    /// Takes the extended header off `rest`, which then is payload.
    fn parse(mid: u8, rest: &mut &[u8]) -> Result<Self, Violation> {
        Ok(match mid {
            mid::DISCONN => Self::DisConn,
            mid::ABORT_CONN => Self::AbortConn,
            mid::SEND_SM => Self::SendSm,
            mid::RDMA_WR_COMPL => Self::RdmaWrCompl(word(rest)?),
            mid::RDMA_RD_COMPL => Self::RdmaRdCompl(word(rest)?),
            mid::MODE_CHANGE => {
                let [bits, ..] = word(rest)?.to_be_bytes();
                let mode = match (bits >> 4) & 7 {
                    0 => Mode::Buffered,
                    1 => Mode::Combined,
                    2 => Mode::Pipelined,
                    _ => return Err(Violation::new("A.6", "an unknown mode")),
                };
                Self::ModeChange(bits & 0x80 != 0, mode)
            }
            mid::SRC_AVAIL_CANCEL => Self::SrcAvailCancel,
            mid::SINK_AVAIL_CANCEL => Self::SinkAvailCancel,
            mid::SINK_CANCEL_ACK => Self::SinkCancelAck,
            mid::CH_RCV_BUF => Self::ChRcvBuf(buffer_size(word(rest)?)?),
            mid::CH_RCV_BUF_ACK => Self::ChRcvBufAck(buffer_size(word(rest)?)?),
            mid::SUSP_COMM => {
                let id = (u64::from(word(rest)?) << 32) | u64::from(word(rest)?);
                if id >> 16 != 1 || id & 0xffff == 0 {
                    return Err(Violation::new("A.6", "a service identifier without a port"));
                }
                Self::SuspComm(id)
            }
            mid::SUSP_COMM_ACK => Self::SuspCommAck,
            mid::SINK_AVAIL => {
                let region = Region::parse(rest)?;
                Self::SinkAvail(region, word(rest)?)
            }
            mid::SRC_AVAIL => Self::SrcAvail(Region::parse(rest)?),
            mid::DATA => Self::Data,
            _ => return Err(Violation::new("A.2", "no message of a connection")),
        })
    }
}

fn word(rest: &mut &[u8]) -> Result<u32, Violation> {
    let (word, after) = rest
        .split_first_chunk()
        .ok_or(Violation::new("A.6", "a short extended header"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*word))
}

fn buffer_size(size: u32) -> Result<u32, Violation> {
    match size {
        0..37 => Err(Violation::new("B-4", "a buffer of less than 37 bytes")),
        0x8000_0001.. => Err(Violation::new("A.5", "a buffer of more than 2^31 bytes")),
        size => Ok(size),
    }
}

impl Region {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.len.to_be_bytes().to_vec();
        bytes.extend(self.key.to_be_bytes());
        bytes.extend(self.addr.to_be_bytes());
        bytes
    }

    fn parse(rest: &mut &[u8]) -> Result<Self, Violation> {
        let (len, key) = (word(rest)?, word(rest)?);
        let addr = (u64::from(word(rest)?) << 32) | u64::from(word(rest)?);
        if len == 0 || len > 1 << 31 || addr.checked_add(u64::from(len) - 1).is_none() {
            return Err(Violation::new("B-28", "no such memory"));
        }
        Ok(Self { len, key, addr })
    }

    /// The part from `offset` on, of `len` bytes.
    pub(crate) fn part(self, offset: u32, len: u32) -> Self {
        Self {
            len,
            addr: self.addr + u64::from(offset),
            ..self
        }
    }
}

/// What a message says but for the bytes of its payload.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub flags: u8,
    pub bufs: u16,
    pub mseq: u32,
    pub mseq_ack: u32,
    pub body: Body,
    /// Bytes of payload.
    pub payload: u32,
}

impl Head {
    /// Whether this flag is set.
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The last message of the receiver that has a buffer (B-14).
    pub(crate) fn limit(&self) -> u32 {
        self.mseq_ack.wrapping_add(self.bufs.into())
    }

    /// Bytes of the message.
    pub(crate) fn len(&self) -> u32 {
        (HEADER + self.body.encode().1.len()) as u32 + self.payload
    }

    /// B-82.
    pub(crate) fn solicited(&self) -> bool {
        self.body.solicited() || self.has(flag::OOB_PRES | flag::OOB_PEND)
    }

    /// The message with this payload, every field as it stands on the wire.
    pub(crate) fn to_raw(self, payload: &[u8]) -> Message {
        let (mid, mut rest) = self.body.encode();
        rest.extend(payload);
        Message {
            flags: self.flags,
            bufs: self.bufs,
            mseq: self.mseq,
            mseq_ack: self.mseq_ack,
            ..Message::new(mid, &rest)
        }
    }

    /// Reads a message and its payload, by the rules that hold for one by itself.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Violation> {
        let message =
            Message::from_bytes(bytes).ok_or(Violation::new("A.1", "a short base header"))?;
        if message.len as usize != bytes.len() {
            return Err(Violation::new("A.1", "a Len that is not the length"));
        }
        let mut rest = &bytes[HEADER..];
        let body = Body::parse(message.mid, &mut rest)?;
        if !rest.is_empty() && !body.may_carry() {
            return Err(Violation::new("A.2", "payload where there is none"));
        }
        let head = Self {
            flags: message.flags,
            bufs: message.bufs,
            mseq: message.mseq,
            mseq_ack: message.mseq_ack,
            body,
            payload: rest.len() as u32,
        };
        if head.has(flag::OOB_PRES) && (body != Body::Data || rest.is_empty()) {
            return Err(Violation::new("B-78", "an urgent byte where there is none"));
        }
        Ok((head, rest))
    }

    /// What its sender has to keep to, though nobody checks it.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`].
    pub(crate) fn tidy(&self) -> Result<(), Violation> {
        if self.flags & !7 != 0 {
            return Err(Violation::new("A.1", "a flag that there is not"));
        }
        let hints = matches!(self.body, Body::RdmaRdCompl(_) | Body::RdmaWrCompl(_));
        if self.has(flag::REQ_PIPE) && !hints {
            return Err(Violation::new("B-60", "a hint where it means nothing"));
        }
        Ok(())
    }
}
