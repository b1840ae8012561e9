// SPDX-License-Identifier: GPL-2.0

//! What the test programs share: sockets, their addresses, the two network namespaces, random data,
//! memory that processes have in common, and how they end.

pub mod diag;
pub mod errno;
pub mod namespace;
pub mod random;
pub mod resources;
pub mod sdp;
pub mod shared;
pub mod sock;

use std::{
    fmt::Display,
    process::ExitCode, //
};

/// How `program` ends: what went wrong is said on standard error.
pub fn exit<E: Display>(program: &str, result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
