// SPDX-License-Identifier: GPL-2.0

use super::*;

const REGION: Region = Region {
    len: 0x0102_0304,
    rkey: 0x0506_0708,
    va: 0x090a_0b0c_0d0e_0f10,
};

/// Every message but the Hellos, with its identifier and extended header.
const MESSAGES: [(Message, u8, &[u8]); 17] = [
    (Message::DisConn, 0x02, &[]),
    (Message::AbortConn, 0x03, &[]),
    (Message::SendSm, 0x04, &[]),
    (Message::RdmaWrCompl(0x0102_0304), 0x05, &[1, 2, 3, 4]),
    (Message::RdmaRdCompl(0x0102_0304), 0x06, &[1, 2, 3, 4]),
    (
        Message::ModeChange(Half::Receive, Mode::Pipelined),
        0x07,
        &[0x20, 0, 0, 0],
    ),
    (
        Message::ModeChange(Half::Send, Mode::Combined),
        0x07,
        &[0x90, 0, 0, 0],
    ),
    (Message::SrcAvailCancel, 0x08, &[]),
    (Message::SinkAvailCancel, 0x09, &[]),
    (Message::SinkCancelAck, 0x0a, &[]),
    (Message::ChRcvBuf(0x0102_0304), 0x0b, &[1, 2, 3, 4]),
    (Message::ChRcvBufAck(0x0102_0304), 0x0c, &[1, 2, 3, 4]),
    (
        Message::SuspComm(0x1_1f90),
        0x0d,
        &[0, 0, 0, 0, 0, 1, 0x1f, 0x90],
    ),
    (Message::SuspCommAck, 0x0e, &[]),
    (
        Message::SinkAvail(REGION, 0x1112_1314),
        0xfd,
        &[
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ],
    ),
    (
        Message::SrcAvail(REGION),
        0xfe,
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    ),
    (Message::Data, 0xff, &[]),
];

fn base() -> Base {
    Base {
        flags: Flags::default(),
        bufs: 0x2122,
        mseq: 0x3132_3334,
        mseq_ack: 0x4142_4344,
    }
}

fn encode(base: Base, message: Message, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(base, message, payload.len() as u32);
    [header.as_bytes(), payload].concat()
}

fn rule(bytes: &[u8]) -> Rule {
    parse(bytes).unwrap_err().rule
}

#[test]
fn a_1_base_header_layout() {
    let bytes = encode(base(), Message::Data, b"abc");
    assert_eq!(
        bytes,
        [
            0xff, 0, 0x21, 0x22, 0, 0, 0, 19, 0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x43, 0x44, b'a',
            b'b', b'c'
        ]
    );
}

#[test]
fn a_1_len_is_the_number_of_bytes_received() {
    let mut bytes = encode(base(), Message::Data, b"abc");
    bytes.push(0);
    assert_eq!(rule(&bytes), Rule::A(1));
    bytes.truncate(18);
    assert_eq!(rule(&bytes), Rule::A(1));
    for len in 0..BASE_LEN {
        assert_eq!(rule(&bytes[..len]), Rule::A(1));
    }
}

#[test]
fn a_1_unknown_flags_are_not_checked() {
    let mut bytes = encode(base(), Message::Data, b"");
    bytes[1] = 0xf8;
    assert_eq!(parse(&bytes).unwrap().base.flags, Flags::default());
}

#[test]
fn a_2_and_a_6_every_message_layout() {
    for (message, mid, extended) in MESSAGES {
        let bytes = encode(base(), message, b"");
        assert_eq!(bytes[0], mid, "{message:?}");
        assert_eq!(&bytes[BASE_LEN..], extended, "{message:?}");
        assert_eq!(Header::new(base(), message, 0).mid(), mid);
        let parsed = parse(&bytes).unwrap();
        assert_eq!((parsed.base, parsed.message), (base(), message));
        assert!(parsed.payload.is_empty());
    }
}

#[test]
fn a_6_shorter_than_the_extended_header() {
    for (message, _, extended) in MESSAGES {
        for len in 0..extended.len() {
            let mut bytes = encode(base(), message, b"");
            bytes.truncate(BASE_LEN + len);
            bytes[7] = bytes.len() as u8;
            assert_eq!(rule(&bytes), Rule::A(6), "{message:?}");
        }
    }
}

#[test]
fn a_2_payload_only_where_the_table_has_it() {
    for (message, mid, extended) in MESSAGES {
        let bytes = encode(base(), message, b"xyz");
        if mid >= 0xfd {
            let parsed = parse(&bytes).unwrap();
            assert_eq!(
                parsed.payload,
                BASE_LEN + extended.len()..bytes.len(),
                "{message:?}"
            );
        } else {
            assert_eq!(rule(&bytes), Rule::A(2), "{message:?}");
        }
    }
}

#[test]
fn a_2_unknown_identifiers() {
    for mid in (0..2).chain(0x0f..0xfd) {
        let mut bytes = encode(base(), Message::Data, b"");
        bytes[0] = mid;
        let violation = parse(&bytes).unwrap_err();
        assert_eq!(violation.rule, Rule::A(2), "{mid:#x}");
        assert_eq!(violation.what.starts_with("Hello"), mid < 2, "{mid:#x}");
    }
}

#[test]
fn a_6_unknown_modes() {
    for mode in [0x30, 0x70, 0xb0, 0xf0] {
        let message = Message::ModeChange(Half::Send, Mode::Buffered);
        let mut bytes = encode(base(), message, b"");
        bytes[BASE_LEN] = mode;
        assert_eq!(rule(&bytes), Rule::A(6));
    }
}

#[test]
fn b_4_a_stated_buffer_holds_37_bytes() {
    for (size, ok) in [(0, false), (36, false), (37, true), (u32::MAX, false)] {
        for message in [Message::ChRcvBuf(size), Message::ChRcvBufAck(size)] {
            assert_eq!(parse(&encode(base(), message, b"")).is_ok(), ok);
        }
    }
}

#[test]
fn b_28_advertised_length_and_address() {
    for (len, va, ok) in [
        (0, 0, false),
        (1, u64::MAX, true),
        (2, u64::MAX, false),
        (1 << 31, 1, true),
        ((1 << 31) + 1, 0, false),
    ] {
        let region = Region { len, rkey: 0, va };
        for message in [Message::SrcAvail(region), Message::SinkAvail(region, 0)] {
            let result = parse(&encode(base(), message, b""));
            assert_eq!(result.is_ok(), ok, "{message:?}");
            if let Err(violation) = result {
                assert_eq!(violation.rule, Rule::B(28));
            }
        }
    }
}

#[test]
fn b_78_urgent_byte_is_the_last_of_data() {
    let mut urgent = base();
    urgent.flags.urgent = true;
    assert!(
        parse(&encode(urgent, Message::Data, b"!"))
            .unwrap()
            .base
            .flags
            .urgent
    );
    assert_eq!(rule(&encode(urgent, Message::Data, b"")), Rule::B(78));
    assert_eq!(
        rule(&encode(urgent, Message::SrcAvail(REGION), b"!")),
        Rule::B(78)
    );
}

#[test]
fn b_77_urgent_pending_may_come_with_any_message() {
    let mut pending = base();
    pending.flags.urgent_pending = true;
    for (message, _, _) in MESSAGES {
        let parsed = parse(&encode(pending, message, b"")).unwrap();
        assert!(parsed.base.flags.urgent_pending);
    }
}

#[test]
fn b_82_solicited_messages() {
    let unsolicited: Vec<Message> = MESSAGES
        .iter()
        .map(|&(message, _, _)| message)
        .filter(|message| !message.solicited())
        .collect();
    assert_eq!(
        unsolicited,
        [
            Message::DisConn,
            Message::ModeChange(Half::Receive, Mode::Pipelined),
            Message::ModeChange(Half::Send, Mode::Combined),
            Message::ChRcvBuf(0x0102_0304),
            Message::ChRcvBufAck(0x0102_0304),
            Message::SinkAvail(REGION, 0x1112_1314),
            Message::SrcAvail(REGION),
            Message::Data,
        ]
    );
}

#[test]
fn a_header_is_shown_as_its_bytes() {
    let header = Header::new(Base::default(), Message::ChRcvBuf(37), 0);
    assert_eq!(
        format!("{header:?}"),
        "[11, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 37]"
    );
}

#[test]
fn b_60_where_the_hint_stands() {
    for (message, ..) in MESSAGES {
        let hints = matches!(message, Message::RdmaRdCompl(_) | Message::RdmaWrCompl(_));
        assert_eq!(message.may_hint(), hints, "{message:?}");
    }
}

#[test]
fn a_1_each_flag_has_its_bit() {
    for (bit, flags) in [
        (
            0,
            Flags {
                urgent: true,
                ..Flags::default()
            },
        ),
        (
            1,
            Flags {
                urgent_pending: true,
                ..Flags::default()
            },
        ),
        (
            2,
            Flags {
                pipeline: true,
                ..Flags::default()
            },
        ),
    ] {
        let bytes = encode(Base { flags, ..base() }, Message::Data, b"x");
        assert_eq!(bytes[1], 1 << bit);
        assert_eq!(parse(&bytes).unwrap().base.flags, flags);
    }
}
