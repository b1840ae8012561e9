// SPDX-License-Identifier: GPL-2.0

//! The Sockets Direct Protocol, pure: bytes and events go into a [`Machine`], messages and events come out.
//!
//! It allocates nothing, never blocks, reads no clock and touches no memory that it was not handed. The peer is hostile: nothing
//! that it sends can make this code panic. The rules are those of `Documentation/wire.rst`, cited by number.
//!
//! The same files make the host crate `sdp-proto`, which `cargo test` runs.

mod connection;
mod credits;
mod events;
mod hello;
mod machine;
mod receive;
mod send;
mod violation;
pub mod wire;

pub use self::{
    connection::State,
    events::Events,
    hello::{
        HELLO_ACK_LEN,
        HELLO_LEN, //
    },
    machine::{
        AbortReason,
        Config,
        Machine,
        Received,
        Side,
        Transmit, //
    },
    send::SendTag,
    violation::{
        Rule,
        Violation, //
    },
    wire::{
        Header,
        Mode, //
    },
};
