// SPDX-License-Identifier: GPL-2.0

//! Host build of the protocol core, for `cargo test`: the files that the module compiles as its
//! `proto` layer.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// A module tree under `rust/`, as the kernel crate has it, so that both builds find the same files
// by the same names.
#[path = ".."]
mod rust {
    pub(crate) mod proto;
}

pub use rust::proto::*;
