// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, by their names under `/run/netns`.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd, //
};

/// Moves the calling thread into the network namespace `name`.
///
/// Sockets made afterwards stay in that namespace, wherever the thread goes later.
pub fn enter(name: &str) -> io::Result<()> {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}; `ip netns add {name}`?")))?;
    // SAFETY: `setns()` takes a file descriptor, open for the time of the call, and no memory.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
