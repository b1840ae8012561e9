// SPDX-License-Identifier: GPL-2.0

//! Reads the fuzzer's bytes as what a hostile peer sends and a user does; the onlooker of the tests
//! judges the machine.

#![no_main]

#[path = "../tests/hostile/onlooker.rs"]
mod onlooker;

use libfuzzer_sys::fuzz_target;
use onlooker::{
    Act,
    Differences,
    Onlooker,
    Step, //
};
use sdp_proto::{
    wire::{
        Flags,
        Half,
        Message, //
    },
    Mode,
    Region, //
};

const ACTS: [Act; 20] = [
    Act::Write,
    Act::Buffer,
    Act::Offer,
    Act::CancelSend,
    Act::CancelOffers,
    Act::Mode,
    Act::Combine,
    Act::Read,
    Act::ReadDone,
    Act::Decline,
    Act::Resize,
    Act::Ask,
    Act::Urgent,
    Act::Suspend,
    Act::ShutSend,
    Act::ShutReceive,
    Act::Abort,
    Act::Sent,
    Act::Time,
    Act::Posted,
];

/// The fuzzer's bytes, taken from the front.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// A number that is mostly small, and once in a while as large as it gets.
    fn size(&mut self) -> Option<u32> {
        let n = u32::from(self.u16()?);
        Some(if n >= 0xff00 { n << 16 | n } else { n })
    }

    fn message(&mut self) -> Option<Message> {
        let region = |len| Region {
            len,
            rkey: 1,
            va: 5,
        };
        let modes = [Mode::Buffered, Mode::Combined, Mode::Pipelined];
        Some(match self.byte()? % 18 {
            0 => Message::DisConn,
            1 => Message::AbortConn,
            2 => Message::SendSm,
            3 => Message::RdmaWrCompl(self.size()?),
            4 => Message::RdmaRdCompl(self.size()?),
            5 => {
                let n = self.byte()?;
                let half = [Half::Receive, Half::Send][usize::from(n & 1)];
                Message::ModeChange(half, modes[usize::from(n >> 1) % 3])
            }
            6 => Message::SrcAvailCancel,
            7 => Message::SinkAvailCancel,
            8 => Message::SinkCancelAck,
            9 => Message::ChRcvBuf(self.size()?),
            10 => Message::ChRcvBufAck(self.size()?),
            11 => Message::SuspComm(0x1_0000 | u64::from(self.u16()?)),
            12 => Message::SuspCommAck,
            13 => Message::SinkAvail(region(self.size()?), self.byte()?.into()),
            14 | 15 => Message::SrcAvail(region(self.size()?)),
            _ => Message::Data,
        })
    }

    fn step(&mut self) -> Option<Step> {
        let kind = self.byte()?;
        Some(match kind % 8 {
            0..=2 => Step::Act(ACTS[usize::from(self.byte()?) % ACTS.len()], self.u16()?),
            3 => {
                let n = usize::from(self.byte()? % 64).min(self.0.len());
                let (bytes, rest) = self.0.split_at(n);
                self.0 = rest;
                Step::Bytes(bytes.to_vec())
            }
            _ => {
                let odd = self.byte()?;
                let flags = Flags {
                    urgent: odd & 1 != 0,
                    urgent_pending: odd & 2 != 0,
                    pipeline: odd & 4 != 0,
                };
                let differences = Differences {
                    insists: odd & 0x80 != 0,
                    mseq: u32::from(odd == 0xff),
                    unseen: u32::from(odd >> 3 & 3),
                    bufs: u16::from(self.byte()? % 32),
                    len: u32::from(odd == 0xfe),
                    ..Differences::default()
                };
                let payload = usize::from(self.byte()? % 85);
                Step::Message(self.message()?, flags, payload, differences)
            }
        })
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut onlooker = Onlooker::new();
    while let Some(step) = input.step() {
        onlooker.step(&step);
    }
    onlooker.disconnect();
});
