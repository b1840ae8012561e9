// SPDX-License-Identifier: GPL-2.0

//! The memory of this machine, and the files of this process.

use std::{
    fs,
    io,
    thread,
    time::Duration, //
};

/// A page, in KiB.
const PAGE_KIB: i64 = 4;

/// The number in `line` behind `name`.
pub fn number(line: &str, name: &str) -> Option<i64> {
    let words = line.trim_start().strip_prefix(name)?;
    words.split_whitespace().next()?.parse().ok()
}

/// Memory that can be had, in KiB, once what was freed late is there too and caches are as small as
/// they get: `MemAvailable`, and the free pages that each processor keeps at hand, which are not in
/// it and may come to many MiB.
pub fn available() -> io::Result<i64> {
    let mut last = 0;
    loop {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        thread::sleep(Duration::from_secs(1));
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let mut lines = meminfo.lines();
        let available = lines.find_map(|line| number(line, "MemAvailable:"));
        let available =
            available.ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))?;
        let zones = fs::read_to_string("/proc/zoneinfo")?;
        let at_hand = zones.lines().filter_map(|line| number(line, "count:"));
        let kib = available + at_hand.sum::<i64>() * PAGE_KIB;
        // It is still growing.
        if kib <= last + 256 {
            return Ok(kib);
        }
        last = kib;
    }
}

/// Lets this process have so many files more.
pub fn allow_files(more: u64) -> io::Result<()> {
    let files = more + 256;
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: files,
    };
    // SAFETY: `limit` is a `struct rlimit`.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(
                error.kind(),
                format!("{files} files: {error}"),
            ))
        }
    }
}
