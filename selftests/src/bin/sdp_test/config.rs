// SPDX-License-Identifier: GPL-2.0

//! What the command line says, for every case to read.

use clap::ValueEnum;
use sdp_selftests::sock::{
    AF_INET6_SDP,
    AF_INET_SDP, //
};
use std::{
    sync::OnceLock,
    time::Duration, //
};

/// The sockets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// AF_INET_SDP
    Sdp,
    /// AF_INET: what TCP does is what a program expects
    Tcp,
    /// AF_INET6_SDP
    Sdp6,
    /// AF_INET6
    Tcp6,
}

impl Family {
    /// The first argument of `socket()`.
    pub(crate) fn number(self) -> libc::c_int {
        match self {
            Family::Sdp => AF_INET_SDP,
            Family::Tcp => libc::AF_INET,
            Family::Sdp6 => AF_INET6_SDP,
            Family::Tcp6 => libc::AF_INET6,
        }
    }
}

/// The options of a run.
pub(crate) struct Config {
    pub(crate) family: Family,
    /// The namespaces of sides A and B.
    pub(crate) netns: [String; 2],
    /// Percent.
    pub(crate) scale: u32,
    /// Deadlines are multiplied by this.
    pub(crate) patience: u32,
    /// What `net.sdp.zcopy_threshold` shall be, if not what it is.
    pub(crate) threshold: Option<u32>,
    pub(crate) seed: u64,
    /// How long the cases of the strict peer take, if not as long as usual.
    pub(crate) seconds: Option<u64>,
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// Sets the options, once.
pub(crate) fn set(config: Config) {
    assert!(CONFIG.set(config).is_ok(), "the options are set once");
}

/// The options.
pub(crate) fn get() -> &'static Config {
    CONFIG.get().expect("main() sets the options first")
}

/// Whether the sockets are TCP's.
pub(crate) fn tcp() -> bool {
    matches!(get().family, Family::Tcp | Family::Tcp6)
}

/// Whether the sockets are over IPv6.
pub(crate) fn v6() -> bool {
    matches!(get().family, Family::Sdp6 | Family::Tcp6)
}

/// `bytes` at this run's scale, and at least `least`.
pub(crate) fn volume(bytes: usize, least: usize) -> usize {
    (bytes / 100 * get().scale as usize).max(least)
}

/// Whether this run is on a kernel that is too slow to hold to times and shares.
pub(crate) fn slow() -> bool {
    get().scale < 100
}

/// `full` rounds at this run's scale, and at least `least`.
pub(crate) fn rounds(full: usize, least: usize) -> usize {
    (full * get().scale as usize / 100).max(least)
}

/// A time that something must end in, on this kernel.
pub(crate) fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * get().patience
}

/// Long enough for what is under way to arrive.
pub(crate) fn moment() -> Duration {
    Duration::from_millis(200) * get().patience
}

/// A tick of the slowest kernel clock: timeouts count ticks, the first of which may be short.
pub(crate) const TICK: Duration = Duration::from_millis(10);
