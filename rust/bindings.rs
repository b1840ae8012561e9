// SPDX-License-Identifier: GPL-2.0

//! Generated bindings of the socket and RDMA headers that the kernel crate's bindings leave out.
//!
//! Only `net`, `rdma` and `mm` may name this module: they wrap what they use in safe types.
//! Everything that the kernel crate binds already is its type here too; what stands below
//! shadows the opaque stand-ins that it has for types it never looks into.

#![allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ptr_cast_constness,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rustdoc::all,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

pub(crate) use kernel::bindings::*;
use pin_init::MaybeZeroable;

include!(env!("SDP_BINDINGS"));
