// SPDX-License-Identifier: GPL-2.0

//! The bytes of messages, right or wrong.

use std::fmt;

/// Message identifiers (A.2).
#[allow(missing_docs)]
pub mod mid {
    pub const HELLO: u8 = 0x00;
    pub const HELLO_ACK: u8 = 0x01;
    pub const DISCONN: u8 = 0x02;
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

/// Bytes of the base header (A.1).
pub const HEADER: usize = 16;

/// A message, every field as it stands on the wire (A.1).
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub mid: u8,
    pub flags: u8,
    pub bufs: u16,
    pub len: u32,
    pub mseq: u32,
    pub mseq_ack: u32,
    /// What follows the base header.
    pub rest: Vec<u8>,
}

impl Message {
    /// A message whose `Len` is right.
    pub fn new(mid: u8, rest: &[u8]) -> Self {
        Self {
            mid,
            flags: 0,
            bufs: 0,
            len: (HEADER + rest.len()) as u32,
            mseq: 0,
            mseq_ack: 0,
            rest: rest.to_vec(),
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.mid, self.flags];
        bytes.extend(self.bufs.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes.extend(self.mseq.to_be_bytes());
        bytes.extend(self.mseq_ack.to_be_bytes());
        bytes.extend(&self.rest);
        bytes
    }

    /// Reads a message; `None` when it is shorter than the base header.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Some(Self {
            mid: header[0],
            flags: header[1],
            bufs: u16::from_be_bytes([header[2], header[3]]),
            len: word(4),
            mseq: word(8),
            mseq_ack: word(12),
            rest: rest.to_vec(),
        })
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MID {:#04x} Flags {:#x} Bufs {} Len {} MSeq {} MSeqAck {} and {} bytes",
            self.mid,
            self.flags,
            self.bufs,
            self.len,
            self.mseq,
            self.mseq_ack,
            self.rest.len()
        )
    }
}

/// The protocol version of the short form (A.5).
pub const VERSION: u8 = 0x11;

/// What a `Hello` or a `HelloAck` of the short form says (A.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version.
    pub version: u8,
    /// Receive buffers posted.
    pub bufs: u16,
    /// Advertisements that it takes.
    pub max_adverts: u16,
    /// DesRemRcvSz, of a `Hello` only.
    pub desired: u32,
    /// LocalRcvSz or ActRcvSz.
    pub recv_size: u32,
    /// LocORD.
    pub ord: u16,
    /// LocIRD.
    pub ird: u16,
}

impl Hello {
    fn encode(&self, mid: u8, desired: &[u8]) -> Vec<u8> {
        let mut rest = vec![self.version, 0];
        rest.extend(self.max_adverts.to_be_bytes());
        rest.extend(desired);
        rest.extend(self.recv_size.to_be_bytes());
        rest.extend(self.ord.to_be_bytes());
        rest.extend(self.ird.to_be_bytes());
        let mut message = Message::new(mid, &rest);
        message.bufs = self.bufs;
        message.to_bytes()
    }

    /// The 32 bytes of the `Hello`.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode(mid::HELLO, &self.desired.to_be_bytes())
    }

    /// The 28 bytes of the `HelloAck`.
    pub fn ack_to_bytes(&self) -> Vec<u8> {
        self.encode(mid::HELLO_ACK, &[])
    }

    /// Reads either, with what the connection manager may have appended; `None` when it is neither,
    /// or breaks B-3, B-4 or B-5.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_bytes(bytes.get(..*bytes.get(7)? as usize)?)?;
        let rest = &message.rest;
        let at = match (message.mid, rest.len()) {
            (mid::HELLO, 16) => 8,
            (mid::HELLO_ACK, 12) => 4,
            _ => return None,
        };
        let short = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        let word = |at: usize| (u32::from(short(at)) << 16) | u32::from(short(at + 2));
        let hello = Self {
            version: rest[0],
            bufs: message.bufs,
            max_adverts: short(2),
            desired: if at == 8 { word(4) } else { 0 },
            recv_size: word(at),
            ord: short(at + 4),
            ird: short(at + 6),
        };
        let legal = message.len as usize == HEADER + rest.len()
            && message.flags == 0
            && hello.version == VERSION
            && hello.bufs >= 3
            && hello.max_adverts > 0
            && (37..=1 << 31).contains(&hello.recv_size)
            && hello.ord > 0
            && hello.ird > 0;
        legal.then_some(hello)
    }
}
