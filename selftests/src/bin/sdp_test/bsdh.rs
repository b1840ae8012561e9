// SPDX-License-Identifier: GPL-2.0

//! SDP messages put together by hand, right or wrong; this knows nothing of the module's own
//! protocol code.

use crate::raw_peer::{
    DEPTH,
    RECV_SIZE, //
};
use std::fmt;

/// Message identifiers (A.2).
pub(crate) mod mid {
    pub(crate) const HELLO: u8 = 0x00;
    pub(crate) const HELLO_ACK: u8 = 0x01;
    pub(crate) const DISCONN: u8 = 0x02;
    pub(crate) const ABORT_CONN: u8 = 0x03;
    pub(crate) const SEND_SM: u8 = 0x04;
    pub(crate) const RDMA_WR_COMPL: u8 = 0x05;
    pub(crate) const RDMA_RD_COMPL: u8 = 0x06;
    pub(crate) const MODE_CHANGE: u8 = 0x07;
    pub(crate) const SRC_AVAIL_CANCEL: u8 = 0x08;
    pub(crate) const SINK_AVAIL_CANCEL: u8 = 0x09;
    pub(crate) const SINK_CANCEL_ACK: u8 = 0x0a;
    pub(crate) const CH_RCV_BUF: u8 = 0x0b;
    pub(crate) const CH_RCV_BUF_ACK: u8 = 0x0c;
    pub(crate) const SUSP_COMM: u8 = 0x0d;
    pub(crate) const SUSP_COMM_ACK: u8 = 0x0e;
    pub(crate) const SINK_AVAIL: u8 = 0xfd;
    pub(crate) const SRC_AVAIL: u8 = 0xfe;
    pub(crate) const DATA: u8 = 0xff;
}

/// Bytes of the base header (A.1).
pub(crate) const HEADER: usize = 16;

/// A message, every field as it stands on the wire (A.1).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) mid: u8,
    pub(crate) flags: u8,
    pub(crate) bufs: u16,
    pub(crate) len: u32,
    pub(crate) mseq: u32,
    pub(crate) mseq_ack: u32,
    /// What follows the base header.
    pub(crate) rest: Vec<u8>,
}

impl Message {
    /// A message whose `Len` is right.
    pub(crate) fn new(mid: u8, rest: &[u8]) -> Self {
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

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.mid, self.flags];
        bytes.extend(self.bufs.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes.extend(self.mseq.to_be_bytes());
        bytes.extend(self.mseq_ack.to_be_bytes());
        bytes.extend(&self.rest);
        bytes
    }

    /// Reads a message; `None` when it is shorter than the base header.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
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

/// Memory that is advertised, as SrcAvail has it after the base header (A.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advert {
    pub(crate) len: u32,
    pub(crate) key: u32,
    pub(crate) addr: u64,
}

impl Advert {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.len.to_be_bytes().to_vec();
        bytes.extend(self.key.to_be_bytes());
        bytes.extend(self.addr.to_be_bytes());
        bytes
    }

    /// Reads the advertisement and the payload of a SrcAvail.
    pub(crate) fn split(rest: &[u8]) -> Option<(Self, &[u8])> {
        let (len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (addr, rest) = rest.split_first_chunk()?;
        let advert = Self {
            len: u32::from_be_bytes(*len),
            key: u32::from_be_bytes(*key),
            addr: u64::from_be_bytes(*addr),
        };
        Some((advert, rest))
    }
}

/// The protocol version of the `Hello` of A.5.
pub(crate) const VERSION: u8 = 0x11;

/// What a `Hello` says (A.5, 32 bytes).
pub(crate) struct Hello {
    pub(crate) version: u8,
    pub(crate) bufs: u16,
    pub(crate) max_adverts: u16,
    pub(crate) local_recv_size: u32,
}

impl Hello {
    pub(crate) const GOOD: Self = Self {
        version: VERSION,
        bufs: DEPTH as u16,
        max_adverts: 1,
        local_recv_size: RECV_SIZE as u32,
    };

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut rest = vec![self.version, 0];
        rest.extend(self.max_adverts.to_be_bytes());
        rest.extend(self.local_recv_size.to_be_bytes()); // DesRemRcvSz
        rest.extend(self.local_recv_size.to_be_bytes());
        rest.extend([0, 1, 0, 1]); // LocORD, LocIRD
        let mut message = Message::new(mid::HELLO, &rest);
        message.bufs = self.bufs;
        message.to_bytes()
    }
}

/// What a `HelloAck` says (A.5, 28 bytes).
pub(crate) struct HelloAck {
    pub(crate) version: u8,
    pub(crate) bufs: u16,
    pub(crate) max_adverts: u16,
    pub(crate) actual_recv_size: u32,
}

impl HelloAck {
    pub(crate) const GOOD: Self = Self {
        version: VERSION,
        bufs: DEPTH as u16,
        max_adverts: 1,
        actual_recv_size: RECV_SIZE as u32,
    };

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut rest = vec![self.version, 0];
        rest.extend(self.max_adverts.to_be_bytes());
        rest.extend(self.actual_recv_size.to_be_bytes());
        rest.extend([0, 1, 0, 1]); // LocORD, LocIRD
        let mut message = Message::new(mid::HELLO_ACK, &rest);
        message.bufs = self.bufs;
        message.to_bytes()
    }
}
