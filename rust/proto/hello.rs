// SPDX-License-Identifier: GPL-2.0

//! Connection set-up: Hello and HelloAck in the CM's private data, in the short form (`A.5`) and in
//! that of InfiniBand's service identifiers for SDP (`A.3`, `A.4`).

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
use core::{
    mem::size_of,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    },
};
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

/// The start of the CM's private data with which a listener refuses a connection that has no room
/// in its backlog now: who connects may come again. An extension, which other implementations take
/// for any other refusal.
pub const REJECT_BUSY: [u8; 8] = *b"SDP busy";

/// The CM's private data with which a port refuses a connection where nobody listens at the
/// address. An extension, which over iWARP tells it from a reject that has lost what it said.
pub const REJECT_NOBODY: [u8; 8] = *b"SDP none";

/// Bytes of a Hello.
pub const HELLO_LEN: usize = size_of::<Hello>();
/// Bytes of a HelloAck.
pub const HELLO_ACK_LEN: usize = size_of::<HelloAck>();
/// Bytes of a Hello in InfiniBand's form.
pub const HELLO_IB_LEN: usize = size_of::<HelloIb>();
/// Bytes of a HelloAck in InfiniBand's form.
pub const HELLO_ACK_IB_LEN: usize = size_of::<HelloAckIb>();
/// The fewest receive buffers that an end may start with (`B-3`).
const DEPTH_MIN: u16 = 3;

/// Major version 1, minor version 1.
pub(super) const VERSION: u8 = 0x11;

/// The version that an InfiniBand Hello states, which differs between implementations (`A.3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IbVersion {
    /// 1.1, of the first open implementation.
    V1_1 = VERSION,
    /// 2.2, of OFED and FreeBSD.
    V2_2 = 0x22,
}

/// Addresses in an InfiniBand Hello, which its CM does not carry elsewhere (`A.3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// The TCP port of the connecting end.
    pub port: u16,
    /// Its address.
    pub source: IpAddr,
    /// The address of the accepting end, of the same family.
    pub destination: IpAddr,
}

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

/// `A.3`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct HelloIb {
    bsdh: Bsdh,
    version: u8,
    /// IP version in the upper half, capabilities in the lower.
    ipv_cap: u8,
    reserved: u8,
    max_adverts: u8,
    desired_remote: U32,
    recv_size: U32,
    port: U16,
    reserved_2: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    reserved_3: [u8; 28],
}

/// `A.4`
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct HelloAckIb {
    bsdh: Bsdh,
    version: u8,
    reserved: [u8; 2],
    max_adverts: u8,
    recv_size: U32,
    reserved_2: [u8; 172],
}

const _: () = assert!(HELLO_IB_LEN == 92);
const _: () = assert!(HELLO_ACK_IB_LEN == 196);
const _: () = assert!(HELLO_LEN == 32);
const _: () = assert!(HELLO_ACK_LEN == 28);

/// What one end says about itself when the connection is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
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

impl Greeting {
    /// Holds the greeting against the rules that bind both ends.
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
    pub(super) fn parse_hello(private_data: &[u8]) -> Result<Greeting, Violation> {
        let hello: Hello = parse(private_data)?;
        check_base(&hello.bsdh, mid::HELLO, HELLO_LEN)?;
        check_version(hello.version, VERSION)?;
        let greeting = Greeting {
            max_adverts: hello.max_adverts.get(),
            ord: hello.ord.get(),
            ird: hello.ird.get(),
            recv_size: hello.recv_size.get(),
            recv_depth: hello.bsdh.bufs.get(),
        };
        greeting.check()?;
        Ok(greeting)
    }

    /// Reads the HelloAck at the start of the CM's private data; the CM may have padded it.
    pub(super) fn parse_hello_ack(private_data: &[u8]) -> Result<Greeting, Violation> {
        let ack: HelloAck = parse(private_data)?;
        check_base(&ack.bsdh, mid::HELLO_ACK, HELLO_ACK_LEN)?;
        check_version(ack.version, VERSION)?;
        let greeting = Greeting {
            max_adverts: ack.max_adverts.get(),
            ord: ack.ord.get(),
            ird: ack.ird.get(),
            recv_size: ack.recv_size.get(),
            recv_depth: ack.bsdh.bufs.get(),
        };
        greeting.check()?;
        Ok(greeting)
    }
}

// InfiniBand's form. Its Hellos say nothing of RDMA Reads, which the CM limits.
impl Greeting {
    pub(super) fn hello_ib(
        &self,
        version: IbVersion,
        desired_remote: u32,
        endpoints: &Endpoints,
    ) -> [u8; HELLO_IB_LEN] {
        let ipv = match endpoints.source {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 6,
        };
        zerocopy::transmute!(HelloIb {
            bsdh: self.bsdh(mid::HELLO, HELLO_IB_LEN),
            version: version as u8,
            ipv_cap: ipv << 4,
            reserved: 0,
            max_adverts: self.max_adverts_ib(),
            desired_remote: U32::new(desired_remote),
            recv_size: U32::new(self.recv_size),
            port: U16::new(endpoints.port),
            reserved_2: [0; 2],
            source: address_bytes(endpoints.source),
            destination: address_bytes(endpoints.destination),
            reserved_3: [0; 28],
        })
    }

    /// `version` is that of the Hello (`B-6`).
    pub(super) fn hello_ack_ib(&self, version: u8) -> [u8; HELLO_ACK_IB_LEN] {
        zerocopy::transmute!(HelloAckIb {
            bsdh: self.bsdh(mid::HELLO_ACK, HELLO_ACK_IB_LEN),
            version,
            reserved: [0; 2],
            max_adverts: self.max_adverts_ib(),
            recv_size: U32::new(self.recv_size),
            reserved_2: [0; 172],
        })
    }

    fn max_adverts_ib(&self) -> u8 {
        u8::try_from(self.max_adverts).unwrap_or(u8::MAX)
    }

    /// Reads a Hello: the greeting, the version and the addresses.
    pub(super) fn parse_hello_ib(
        private_data: &[u8],
    ) -> Result<(Greeting, u8, Endpoints), Violation> {
        let hello: HelloIb = parse(private_data)?;
        check_base(&hello.bsdh, mid::HELLO, HELLO_IB_LEN)?;
        let known = [IbVersion::V1_1 as u8, IbVersion::V2_2 as u8];
        if !known
            .iter()
            .any(|&version| check_version(hello.version, version).is_ok())
        {
            return Err(UNSUPPORTED);
        }
        let address = match hello.ipv_cap >> 4 {
            4 => |bytes: [u8; 16]| {
                let [.., a, b, c, d] = bytes;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            },
            6 => |bytes: [u8; 16]| IpAddr::V6(Ipv6Addr::from(bytes)),
            _ => return Err(Violation::new(Rule::A(3), "IP version not 4 or 6")),
        };
        let endpoints = Endpoints {
            port: hello.port.get(),
            source: address(hello.source),
            destination: address(hello.destination),
        };
        let greeting = Greeting::ib(&hello.bsdh, hello.max_adverts, hello.recv_size);
        greeting.check()?;
        Ok((greeting, hello.version, endpoints))
    }

    /// Reads a HelloAck, which has to be of the `version` that the Hello asked for (`B-6`).
    pub(super) fn parse_hello_ack_ib(
        private_data: &[u8],
        version: u8,
    ) -> Result<Greeting, Violation> {
        let ack: HelloAckIb = parse(private_data)?;
        check_base(&ack.bsdh, mid::HELLO_ACK, HELLO_ACK_IB_LEN)?;
        check_version(ack.version, version)?;
        let greeting = Greeting::ib(&ack.bsdh, ack.max_adverts, ack.recv_size);
        greeting.check()?;
        Ok(greeting)
    }

    fn ib(bsdh: &Bsdh, max_adverts: u8, recv_size: U32) -> Greeting {
        Greeting {
            max_adverts: max_adverts.into(),
            ord: u16::MAX,
            ird: u16::MAX,
            recv_size: recv_size.get(),
            recv_depth: bsdh.bufs.get(),
        }
    }
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn parse<T: FromBytes>(private_data: &[u8]) -> Result<T, Violation> {
    T::read_from_prefix(private_data)
        .map(|(hello, _)| hello)
        .map_err(|_| Violation::new(Rule::A(5), "private data too short"))
}

fn check_base(bsdh: &Bsdh, mid: u8, len: usize) -> Result<(), Violation> {
    if bsdh.mid != mid {
        return Err(Violation::new(Rule::A(2), "not a Hello or HelloAck"));
    }
    if usize::try_from(bsdh.len.get()) != Ok(len) {
        return Err(Violation::new(Rule::A(5), "Len is not that of the form"));
    }
    Ok(())
}

const UNSUPPORTED: Violation = Violation::new(Rule::B(5), "unsupported major version");

/// Whether those who speak this version ignore ModeChange, and stay in Combined mode (`B-59a`).
pub(super) fn keeps_mode(version: u8) -> bool {
    version >> 4 == IbVersion::V2_2 as u8 >> 4
}

/// Compares major versions; a minor version may differ.
fn check_version(version: u8, own: u8) -> Result<(), Violation> {
    if version >> 4 == own >> 4 {
        Ok(())
    } else {
        Err(UNSUPPORTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: Greeting = Greeting {
        max_adverts: 0x0102,
        ord: 0x0304,
        ird: 0x0506,
        recv_size: 0x0708_090a,
        recv_depth: 0x0b0c,
    };

    #[test]
    fn a_5_hello_layout() {
        assert_eq!(
            GREETING.hello(0x0d0e_0f10),
            [
                0, 0, 0x0b, 0x0c, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, // BSDH
                0x11, 0, 1, 2, 0x0d, 0x0e, 0x0f, 0x10, 7, 8, 9, 10, 3, 4, 5, 6,
            ]
        );
    }

    #[test]
    fn a_5_hello_ack_layout() {
        assert_eq!(
            GREETING.hello_ack(),
            [
                1, 0, 0x0b, 0x0c, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, // BSDH
                0x11, 0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6,
            ]
        );
    }

    #[test]
    fn a_5_reads_what_it_writes_and_skips_padding() {
        let mut padded = [0xee; 56];
        padded[..HELLO_LEN].copy_from_slice(&GREETING.hello(0));
        assert_eq!(Greeting::parse_hello(&padded), Ok(GREETING));
        padded[..HELLO_ACK_LEN].copy_from_slice(&GREETING.hello_ack());
        assert_eq!(Greeting::parse_hello_ack(&padded), Ok(GREETING));
    }

    #[test]
    fn a_5_too_short_is_refused() {
        let hello = GREETING.hello(0);
        for len in 0..HELLO_LEN {
            assert_eq!(
                Greeting::parse_hello(&hello[..len]).unwrap_err().rule,
                Rule::A(5)
            );
        }
        let ack = GREETING.hello_ack();
        for len in 0..HELLO_ACK_LEN {
            assert_eq!(
                Greeting::parse_hello_ack(&ack[..len]).unwrap_err().rule,
                Rule::A(5)
            );
        }
    }

    /// The rule that a Hello with one byte changed breaks.
    fn refused(at: usize, value: u8) -> Option<Rule> {
        let mut hello = GREETING.hello(0);
        hello[at] = value;
        Greeting::parse_hello(&hello).err().map(|v| v.rule)
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
        let mut ack = GREETING.hello_ack();
        ack[7] = 32;
        let refused = Greeting::parse_hello_ack(&ack).unwrap_err();
        assert_eq!(refused.rule, Rule::A(5));
    }

    #[test]
    fn b_3_at_least_three_buffers() {
        for (depth, ok) in [(0, false), (2, false), (3, true)] {
            let greeting = Greeting {
                recv_depth: depth,
                ..GREETING
            };
            assert_eq!(Greeting::parse_hello(&greeting.hello(0)).is_ok(), ok);
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
            let greeting = Greeting {
                recv_size: size,
                ..GREETING
            };
            assert_eq!(Greeting::parse_hello_ack(&greeting.hello_ack()).is_ok(), ok);
        }
    }

    #[test]
    fn b_5_major_version_must_be_ours_minor_may_differ() {
        assert_eq!(refused(16, 0x22), Some(Rule::B(5)));
        assert_eq!(refused(16, 0x01), Some(Rule::B(5)));
        assert_eq!(refused(16, 0x1f), None);
        for (version, ok) in [(0x22, false), (0x01, false), (0x1f, true)] {
            let mut ack = GREETING.hello_ack();
            ack[16] = version;
            assert_eq!(Greeting::parse_hello_ack(&ack).is_ok(), ok);
        }
    }

    #[test]
    fn b_5_nothing_is_zero() {
        for greeting in [
            Greeting {
                max_adverts: 0,
                ..GREETING
            },
            Greeting { ord: 0, ..GREETING },
            Greeting { ird: 0, ..GREETING },
        ] {
            let refused = Greeting::parse_hello(&greeting.hello(0)).unwrap_err();
            assert_eq!(refused.rule, Rule::B(5));
            let refused = Greeting::parse_hello_ack(&greeting.hello_ack()).unwrap_err();
            assert_eq!(refused.rule, Rule::B(5));
        }
    }

    const ENDPOINTS: Endpoints = Endpoints {
        port: 0x1516,
        source: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 1)),
        destination: IpAddr::V4(Ipv4Addr::new(10, 27, 0, 2)),
    };

    const OFFER_IB: Greeting = Greeting {
        max_adverts: 3,
        ord: u16::MAX,
        ird: u16::MAX,
        ..GREETING
    };

    #[test]
    fn a_3_hello_layout() {
        let hello = OFFER_IB.hello_ib(IbVersion::V2_2, 0x0d0e_0f10, &ENDPOINTS);
        let mut expected = [0; HELLO_IB_LEN];
        expected[2..4].copy_from_slice(&[0x0b, 0x0c]);
        expected[7] = 92;
        expected[16..20].copy_from_slice(&[0x22, 0x40, 0, 3]);
        expected[20..24].copy_from_slice(&[0x0d, 0x0e, 0x0f, 0x10]);
        expected[24..28].copy_from_slice(&[7, 8, 9, 10]);
        expected[28..30].copy_from_slice(&[0x15, 0x16]);
        expected[44..48].copy_from_slice(&[10, 27, 0, 1]);
        expected[60..64].copy_from_slice(&[10, 27, 0, 2]);
        assert_eq!(hello, expected);
    }

    #[test]
    fn a_4_hello_ack_layout() {
        let mut expected = [0; HELLO_ACK_IB_LEN];
        expected[0] = 1;
        expected[2..4].copy_from_slice(&[0x0b, 0x0c]);
        expected[7] = 196;
        expected[16..20].copy_from_slice(&[0x11, 0, 0, 3]);
        expected[20..24].copy_from_slice(&[7, 8, 9, 10]);
        assert_eq!(OFFER_IB.hello_ack_ib(0x11), expected);
    }

    #[test]
    fn a_3_reads_what_it_writes() {
        let v6 = Endpoints {
            source: "fd00:27::1".parse().unwrap(),
            destination: "fd00:27::2".parse().unwrap(),
            ..ENDPOINTS
        };
        for endpoints in [ENDPOINTS, v6] {
            let hello = OFFER_IB.hello_ib(IbVersion::V1_1, 0, &endpoints);
            assert_eq!(
                Greeting::parse_hello_ib(&hello),
                Ok((OFFER_IB, 0x11, endpoints))
            );
            for len in 0..HELLO_IB_LEN {
                assert!(Greeting::parse_hello_ib(&hello[..len]).is_err());
            }
        }
    }

    #[test]
    fn a_3_ip_version_is_4_or_6() {
        let mut hello = OFFER_IB.hello_ib(IbVersion::V1_1, 0, &ENDPOINTS);
        hello[17] = 0x50;
        let refused = Greeting::parse_hello_ib(&hello).unwrap_err();
        assert_eq!(refused.rule, Rule::A(3));
    }

    #[test]
    fn b_5_ib_versions_are_1_and_2() {
        for (version, ok) in [(0x11, true), (0x1f, true), (0x22, true), (0x33, false)] {
            let mut hello = OFFER_IB.hello_ib(IbVersion::V1_1, 0, &ENDPOINTS);
            hello[16] = version;
            assert_eq!(Greeting::parse_hello_ib(&hello).is_ok(), ok);
        }
    }

    #[test]
    fn b_6_hello_ack_repeats_the_major_version() {
        let ack = OFFER_IB.hello_ack_ib(0x22);
        assert_eq!(Greeting::parse_hello_ack_ib(&ack, 0x20), Ok(OFFER_IB));
        let refused = Greeting::parse_hello_ack_ib(&ack, 0x11).unwrap_err();
        assert_eq!(refused.rule, Rule::B(5));
    }

    #[test]
    fn b_3_to_b_5_a_hello_ack_of_infiniband_is_checked() {
        // Bufs of 2, MaxAdverts of 0, and receive buffers of 0x24 bytes.
        for (at, bytes, rule) in [
            (2, &[0, 2][..], Rule::B(3)),
            (19, &[0][..], Rule::B(5)),
            (20, &[0, 0, 0, 0x24][..], Rule::B(4)),
        ] {
            let mut ack = GREETING.hello_ack_ib(0x22);
            assert!(Greeting::parse_hello_ack_ib(&ack, 0x22).is_ok());
            ack[at..at + bytes.len()].copy_from_slice(bytes);
            let refused = Greeting::parse_hello_ack_ib(&ack, 0x22);
            assert_eq!(refused.unwrap_err().rule, rule);
        }
    }
}
