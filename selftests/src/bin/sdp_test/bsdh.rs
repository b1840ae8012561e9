// SPDX-License-Identifier: GPL-2.0

//! SDP messages put together by hand, right or wrong; this knows nothing of the module's own
//! protocol code.

use crate::raw_peer::{
    DEPTH,
    RECV_SIZE, //
};
pub(crate) use sdp_strict::raw::{
    mid,
    Message,
    HEADER,
    VERSION, //
};

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
