// SPDX-License-Identifier: GPL-2.0

//! The Sockets Direct Protocol, pure: bytes and events go into a [`Machine`], messages and events
//! come out.
//!
//! It allocates nothing, never blocks, reads no clock and touches no memory that it was not handed.
//! The peer is hostile: nothing that it sends can make this code panic (`B-86`). The rules are
//! those of `Documentation/wire.rst`, cited by number.
//!
//! The same files make the host crate `sdp-proto`, which `cargo test` runs.

mod buffer;
mod connection;
mod credits;
mod events;
mod hello;
mod machine;
mod mode;
mod receive;
mod resize;
mod ring;
mod send;
mod sequence;
mod sink;
mod suspend;
mod timer;
mod traffic;
mod urgent;
mod violation;
pub mod wire;

pub use self::{
    buffer::{
        BufferId,
        Finished,
        ADVERTS, //
    },
    connection::State,
    events::Events,
    hello::{
        Endpoints,
        IbVersion,
        HELLO_ACK_IB_LEN,
        HELLO_ACK_LEN,
        HELLO_IB_LEN,
        HELLO_LEN,
        REJECT_BUSY,
        REJECT_NOBODY, //
    },
    machine::{
        AbortReason,
        Config,
        Machine,
        Received,
        Side,
        Transmit,
        DEPTH_MIN, //
    },
    receive::Readable,
    send::{
        SendTag,
        Source, //
    },
    timer::{
        Awaited,
        KeepAlive, //
    },
    traffic::Traffic,
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Header,
        Mode,
        Region, //
    },
};
