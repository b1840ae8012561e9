// SPDX-License-Identifier: GPL-2.0

//! What `include/uapi/linux/sdp.h` adds to a stream socket.

use crate::{
    errno::{
        Errno,
        Result, //
    },
    sock::Sock, //
};
use libc::{
    c_int,
    socklen_t, //
};
use std::{
    fmt,
    fs,
    io,
    mem,
    ptr, //
};

/// `SDP_ZCOPY_THRESH`.
pub const ZCOPY_THRESH: c_int = 80;
/// `SDP_ZCOPY_RETRY`.
pub const ZCOPY_RETRY: c_int = 82;
/// `SDP_STATS`.
pub const STATS: c_int = 83;

macro_rules! stats {
    ($($name:ident)*) => {
        /// `struct sdp_stats`: the counters of one connection, or of a namespace's.
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Stats {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub $name: u64,
            )*
        }

        impl fmt::Debug for Stats {
            /// Those that are not zero.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = [$((stringify!($name), self.$name),)*];
                f.debug_map().entries(all.into_iter().filter(|(_, value)| *value != 0)).finish()
            }
        }

        impl Stats {
            /// Reads the lines of `/proc/net/sdp_stat`: a name and a number each.
            fn parse(text: &str) -> Option<Self> {
                let value = |name: &str| {
                    let mut lines = text.lines().map(str::split_whitespace);
                    let mut words = lines.find(|words| words.clone().next() == Some(name))?;
                    words.nth(1)?.parse().ok()
                };
                Some(Self { $($name: value(stringify!($name))?,)* })
            }
        }
    };
}

stats! {
    sent_copied sent_direct sent_read sent_written
    recv_copied recv_read recv_written recv_moved
    src_avails sink_avails declined
    cancels_timeout cancels_signal cancels_retry
    no_memlock no_pages no_mr
    pages_pinned pages_unpinned mrs_registered mrs_invalidated
}

impl Stats {
    /// Those of the connection of `sock`.
    pub fn of(sock: &Sock) -> Result<Self> {
        let mut stats = Self::default();
        let len = sock.stats(ptr::from_mut(&mut stats).cast(), mem::size_of::<Self>())?;
        assert_eq!(len, mem::size_of::<Self>(), "the length of SDP_STATS");
        Ok(stats)
    }

    /// Those of the calling thread's namespace. An error where the module has no such file.
    pub fn of_namespace() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/thread-self/net/sdp_stat")?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("not as expected:\n{text}")))
    }

    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent_copied + self.sent_without_copy()
    }

    /// Bytes sent that no processor copied.
    pub fn sent_without_copy(&self) -> u64 {
        self.sent_direct + self.sent_read + self.sent_written
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.recv_copied + self.received_without_copy()
    }

    /// Bytes received that no processor copied.
    pub fn received_without_copy(&self) -> u64 {
        self.recv_read + self.recv_written + self.recv_moved
    }
}

/// `getsockopt(SDP_STATS)` into the first `room.len()` bytes: how many it gave.
pub fn stats_bytes(sock: &Sock, room: &mut [u8]) -> Result<usize> {
    sock.stats(room.as_mut_ptr(), room.len())
}

impl Sock {
    fn stats(&self, room: *mut u8, len: usize) -> Result<usize> {
        let mut len = len as socklen_t;
        // SAFETY: Both callers own `len` bytes at `room`, of which the kernel writes at most all;
        // any bytes are valid there.
        Errno::check(unsafe {
            libc::getsockopt(self.fd(), libc::IPPROTO_TCP, STATS, room.cast(), &mut len)
        })
        .map(|_| len as usize)
    }
}
