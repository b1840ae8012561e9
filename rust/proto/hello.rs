// SPDX-License-Identifier: GPL-2.0

//! Connection set-up: Hello and HelloAck in the CM's private data (`A.5`).

use super::{
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        self,
        mid,
        Bsdh, //
    },
};
use core::mem::size_of;
use zerocopy::{
    byteorder::network_endian::{
        U16,
        U32, //
    },
    FromBytes, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// Bytes of a Hello.
pub const HELLO_LEN: usize = size_of::<Hello>();
/// Bytes of a HelloAck.
pub const HELLO_ACK_LEN: usize = size_of::<HelloAck>();
/// The fewest receive buffers that an end may start with (`B-3`).
const DEPTH_MIN: u16 = 3;

/// Major version 1, minor version 1.
const VERSION: u8 = 0x11;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Hello {
    bsdh: Bsdh,
    version: u8,
    reserved: u8,
    max_adverts: U16,
    desired_remote: U32,
    recv_size: U32,
    ord: U16,
    ird: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct HelloAck {
    bsdh: Bsdh,
    version: u8,
    reserved: u8,
    max_adverts: U16,
    recv_size: U32,
    ord: U16,
    ird: U16,
}

const _: () = assert!(HELLO_LEN == 32);
const _: () = assert!(HELLO_ACK_LEN == 28);

/// What one end says about itself when the connection is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    /// Advertisements that it can have outstanding from the other end.
    pub(super) max_adverts: u16,
    /// RDMA Reads that it may have in flight.
    pub(super) ord: u16,
    /// RDMA Reads that it can serve at a time.
    pub(super) ird: u16,
    /// Bytes of one of its receive buffers, header included (`B-4`).
    pub(super) recv_size: u32,
    /// Receive buffers posted (`B-3`).
    pub(super) recv_depth: u16,
}

impl Offer {
    /// Holds the offer against the rules that bind both ends.
    pub(super) fn check(&self) -> Result<(), Violation> {
        let zero = if self.max_adverts == 0 {
            "MaxAdverts is 0"
        } else if self.ord == 0 {
            "LocORD is 0"
        } else if self.ird == 0 {
            "LocIRD is 0"
        } else {
            ""
        };
        if !zero.is_empty() {
            return Err(Violation::new(Rule::B(5), zero));
        }
        if self.recv_depth < DEPTH_MIN {
            return Err(Violation::new(Rule::B(3), "fewer than 3 receive buffers"));
        }
        wire::buffer_size(self.recv_size).map(|_| ())
    }

    pub(super) fn hello(&self, desired_remote: u32) -> [u8; HELLO_LEN] {
        zerocopy::transmute!(Hello {
            bsdh: self.bsdh(mid::HELLO, HELLO_LEN),
            version: VERSION,
            reserved: 0,
            max_adverts: U16::new(self.max_adverts),
            desired_remote: U32::new(desired_remote),
            recv_size: U32::new(self.recv_size),
            ord: U16::new(self.ord),
            ird: U16::new(self.ird),
        })
    }

    pub(super) fn hello_ack(&self) -> [u8; HELLO_ACK_LEN] {
        zerocopy::transmute!(HelloAck {
            bsdh: self.bsdh(mid::HELLO_ACK, HELLO_ACK_LEN),
            version: VERSION,
            reserved: 0,
            max_adverts: U16::new(self.max_adverts),
            recv_size: U32::new(self.recv_size),
            ord: U16::new(self.ord),
            ird: U16::new(self.ird),
        })
    }

    /// Both carry sequence number 0 (`A.1`).
    fn bsdh(&self, mid: u8, len: usize) -> Bsdh {
        Bsdh {
            mid,
            flags: 0,
            bufs: U16::new(self.recv_depth),
            // CAST: 32 or 28.
            len: U32::new(len as u32),
            mseq: U32::new(0),
            mseq_ack: U32::new(0),
        }
    }

    /// Reads the Hello at the start of the CM's private data; the CM may have padded it.
    pub(super) fn parse_hello(private_data: &[u8]) -> Result<Offer, Violation> {
        let hello: Hello = parse(private_data)?;
        check_base(&hello.bsdh, mid::HELLO, HELLO_LEN, hello.version)?;
        let offer = Offer {
            max_adverts: hello.max_adverts.get(),
            ord: hello.ord.get(),
            ird: hello.ird.get(),
            recv_size: hello.recv_size.get(),
            recv_depth: hello.bsdh.bufs.get(),
        };
        offer.check()?;
        Ok(offer)
    }

    /// Reads the HelloAck at the start of the CM's private data; the CM may have padded it.
    pub(super) fn parse_hello_ack(private_data: &[u8]) -> Result<Offer, Violation> {
        let ack: HelloAck = parse(private_data)?;
        check_base(&ack.bsdh, mid::HELLO_ACK, HELLO_ACK_LEN, ack.version)?;
        let offer = Offer {
            max_adverts: ack.max_adverts.get(),
            ord: ack.ord.get(),
            ird: ack.ird.get(),
            recv_size: ack.recv_size.get(),
            recv_depth: ack.bsdh.bufs.get(),
        };
        offer.check()?;
        Ok(offer)
    }
}

fn parse<T: FromBytes>(private_data: &[u8]) -> Result<T, Violation> {
    T::read_from_prefix(private_data)
        .map(|(hello, _)| hello)
        .map_err(|_| Violation::new(Rule::A(5), "private data too short"))
}

fn check_base(bsdh: &Bsdh, mid: u8, len: usize, version: u8) -> Result<(), Violation> {
    if bsdh.mid != mid {
        return Err(Violation::new(Rule::A(2), "not a Hello or HelloAck"));
    }
    if usize::try_from(bsdh.len.get()) != Ok(len) {
        return Err(Violation::new(Rule::A(5), "Len is not that of the form"));
    }
    // A minor version may differ.
    if version >> 4 != VERSION >> 4 {
        return Err(Violation::new(Rule::B(5), "unsupported major version"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        max_adverts: 0x0102,
        ord: 0x0304,
        ird: 0x0506,
        recv_size: 0x0708_090a,
        recv_depth: 0x0b0c,
    };

    #[test]
    fn a_5_hello_layout() {
        assert_eq!(
            OFFER.hello(0x0d0e_0f10),
            [
                0, 0, 0x0b, 0x0c, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, // BSDH
                0x11, 0, 1, 2, 0x0d, 0x0e, 0x0f, 0x10, 7, 8, 9, 10, 3, 4, 5, 6,
            ]
        );
    }

    #[test]
    fn a_5_hello_ack_layout() {
        assert_eq!(
            OFFER.hello_ack(),
            [
                1, 0, 0x0b, 0x0c, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, // BSDH
                0x11, 0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6,
            ]
        );
    }

    #[test]
    fn a_5_reads_what_it_writes_and_skips_padding() {
        let mut padded = [0xee; 56];
        padded[..HELLO_LEN].copy_from_slice(&OFFER.hello(0));
        assert_eq!(Offer::parse_hello(&padded), Ok(OFFER));
        padded[..HELLO_ACK_LEN].copy_from_slice(&OFFER.hello_ack());
        assert_eq!(Offer::parse_hello_ack(&padded), Ok(OFFER));
    }

    #[test]
    fn a_5_too_short_is_refused() {
        let hello = OFFER.hello(0);
        for len in 0..HELLO_LEN {
            assert_eq!(
                Offer::parse_hello(&hello[..len]).unwrap_err().rule,
                Rule::A(5)
            );
        }
        let ack = OFFER.hello_ack();
        for len in 0..HELLO_ACK_LEN {
            assert_eq!(
                Offer::parse_hello_ack(&ack[..len]).unwrap_err().rule,
                Rule::A(5)
            );
        }
    }

    /// The rule that a Hello with one byte changed breaks.
    fn refused(at: usize, value: u8) -> Option<Rule> {
        let mut hello = OFFER.hello(0);
        hello[at] = value;
        Offer::parse_hello(&hello).err().map(|v| v.rule)
    }

    #[test]
    fn a_2_not_a_hello() {
        assert_eq!(refused(0, 1), Some(Rule::A(2)));
        assert_eq!(refused(0, 0xff), Some(Rule::A(2)));
    }

    #[test]
    fn a_5_len_is_that_of_the_form() {
        assert_eq!(refused(7, 31), Some(Rule::A(5)));
        assert_eq!(refused(7, 92), Some(Rule::A(5)));
    }

    #[test]
    fn b_3_at_least_three_buffers() {
        for (depth, ok) in [(0, false), (2, false), (3, true)] {
            let offer = Offer {
                recv_depth: depth,
                ..OFFER
            };
            assert_eq!(Offer::parse_hello(&offer.hello(0)).is_ok(), ok);
        }
    }

    #[test]
    fn b_4_buffers_hold_37_bytes() {
        for (size, ok) in [
            (0, false),
            (36, false),
            (37, true),
            (1 << 31, true),
            (u32::MAX, false),
        ] {
            let offer = Offer {
                recv_size: size,
                ..OFFER
            };
            assert_eq!(Offer::parse_hello_ack(&offer.hello_ack()).is_ok(), ok);
        }
    }

    #[test]
    fn b_5_major_version_must_be_ours_minor_may_differ() {
        assert_eq!(refused(16, 0x22), Some(Rule::B(5)));
        assert_eq!(refused(16, 0x01), Some(Rule::B(5)));
        assert_eq!(refused(16, 0x1f), None);
    }

    #[test]
    fn b_5_nothing_is_zero() {
        for offer in [
            Offer {
                max_adverts: 0,
                ..OFFER
            },
            Offer { ord: 0, ..OFFER },
            Offer { ird: 0, ..OFFER },
        ] {
            let refused = Offer::parse_hello(&offer.hello(0)).unwrap_err();
            assert_eq!(refused.rule, Rule::B(5));
        }
    }
}
