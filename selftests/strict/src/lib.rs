// SPDX-License-Identifier: GPL-2.0

//! A second end for SDP, written from `Documentation/wire.rst` and from nothing of the module, so
//! that the two do not agree where both are wrong.
//!
//! A [`Peer`] refuses what the rules refuse, and picks its own steps at random: any that is legal
//! ([`Peer::legal`]), or one that is not ([`Peer::illegal`]). It does no I/O: a driver carries its
//! messages, and executes its RDMA.

#![forbid(unsafe_code)]

mod end;
mod message;
mod peer;
mod play;
mod random;
pub mod raw;

pub use end::{
    End,
    Offer,
    Side, //
};
pub use message::{
    Body,
    Head,
    Mode,
    Region,
    Violation, //
};
pub use peer::{
    Action,
    Config,
    Peer,
    Window, //
};
pub use play::{
    Illegal,
    Outcome, //
};
pub use random::{
    pattern,
    Random, //
};
