// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there: the kernel's fault injection, where it was built with that.

use crate::{
    config,
    harness::{
        note,
        skip,
        step, //
    },
    peers::sdp_only,
};
use std::{
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::{
        BufRead,
        BufReader, //
    },
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
};

/// What can fail: objects, pages, and copies from and to a program.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// Those of them that the module's own work meets.
pub(crate) const ALLOCATIONS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// So many calls in a row without a failure end the attempts.
const MISSES: usize = 2;

/// Failures on demand; none any more once it is dropped.
pub(crate) struct Faults(());

impl Faults {
    /// Skips the case where the kernel knows none, or sockets are TCP's: what the module asks for
    /// is known by where its code is. Nothing fails yet.
    pub(crate) fn new() -> Self {
        sdp_only("only what the module asks for fails");
        if !KINDS.iter().all(|kind| knob(kind, "").exists()) {
            skip("this kernel does not let allocations fail");
        }
        reset();
        for (name, value) in [
            ("task-filter", "Y"),
            ("ignore-gfp-wait", "N"),
            ("ignore-gfp-highmem", "N"),
            ("min-order", "0"),
            ("interval", "1"),
            ("times", "-1"),
            ("verbose", "0"),
        ] {
            set(name, value);
        }
        Self(())
    }

    /// Has all pages be refused to the threads that [`Self::apply`] names.
    pub(crate) fn no_pages(&self) {
        write("fail_page_alloc", "probability", "100");
    }

    /// Makes the calling thread such a one while it does `work`.
    pub(crate) fn apply(&self, work: impl FnOnce()) {
        // Opened once: while pages are refused, that may fail too.
        let opened = OpenOptions::new()
            .write(true)
            .open("/proc/thread-self/make-it-fail");
        let file = opened.unwrap_or_else(|error| panic!("make-it-fail: {error}"));
        let set = |text: &str| {
            if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
                panic!("make-it-fail: {error}");
            }
        };
        set("1");
        work();
        set("0");
    }

    /// Has so many percent fail of what the module asks for, in whatever thread or interrupt; not
    /// of copies.
    pub(crate) fn of_module(&self, percent: u32) {
        only_in_module();
        set("task-filter", "N");
        for kind in ALLOCATIONS {
            write(kind, "probability", &percent.to_string());
        }
    }

    /// Has nothing fail that a function of the kernel asks for.
    pub(crate) fn not_in(&self, name: &str) {
        let (start, end) = function(name);
        set("reject-start", &format!("{start:#x}"));
        set("reject-end", &format!("{end:#x}"));
    }

    /// Has one allocation fail, `kind` of [`ALLOCATIONS`], of those which [`Self::of_module`]
    /// means.
    pub(crate) fn once_of_module(&self, kind: usize, percent: u32) {
        set("probability", "0");
        only_in_module();
        set("task-filter", "N");
        write(ALLOCATIONS[kind], "times", "1");
        write(ALLOCATIONS[kind], "probability", &percent.to_string());
    }

    /// Whether that has happened.
    pub(crate) fn has_failed(&self, kind: usize) -> bool {
        fs::read_to_string(knob(ALLOCATIONS[kind], "times")).is_ok_and(|times| times.trim() == "0")
    }

    /// Makes an attempt in which the first thing that the module asks for in one call fails, then
    /// one with the second, and so on until the call makes do without so many. On a slow kernel it
    /// is every `stride`th, from one on that the seed chooses.
    pub(crate) fn each(&self, stride: usize, mut attempt: impl FnMut(&Nth)) {
        only_in_module();
        let stride = if config::slow() { stride } else { 1 };
        // CAST: It is less than the stride.
        let first = 1 + (config::get().seed % stride as u64) as usize;
        let (mut last, mut misses) = (0, 0);
        for n in (first..).step_by(stride) {
            step!("failure {n}");
            let nth = Nth::new(n);
            attempt(&nth);
            if nth.is_hit() {
                (last, misses) = (n, 0);
            } else {
                // A part of what it waits for may have been done by others this once.
                misses += 1;
                if misses == MISSES {
                    break;
                }
            }
        }
        note(&format!("the last that failed was number {last}"));
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        reset();
    }
}

/// Lets nothing fail any more.
pub(crate) fn reset() {
    for (name, value) in [
        ("probability", "0"),
        ("require-start", "0"),
        ("require-end", "0xffffffffffffffff"),
        ("reject-start", "0"),
        ("reject-end", "0"),
    ] {
        set(name, value);
    }
}

/// Lets only that fail which functions of the module ask for, or what they call.
fn only_in_module() {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    let words: Vec<_> = text
        .lines()
        .find(|line| line.starts_with("sdp "))
        .map_or(vec![], |line| line.split_whitespace().collect());
    let start = words
        .iter()
        .find_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let size = words.get(1).and_then(|size| size.parse::<u64>().ok());
    let (Some(start), Some(size)) = (start, size) else {
        panic!("/proc/modules does not tell where the module is: {words:?}");
    };
    set("require-start", &format!("{start:#x}"));
    set("require-end", &format!("{:#x}", start + size));
    set("stacktrace-depth", "32");
}

/// Where a function of the kernel starts, and what comes behind it.
fn function(name: &str) -> (u64, u64) {
    let file = match File::open("/proc/kallsyms") {
        Ok(file) => file,
        Err(error) => panic!("/proc/kallsyms: {error}"),
    };
    // In the order of addresses.
    let mut symbols = BufReader::new(file).lines().map_while(|line| {
        let line = line.ok()?;
        let mut words = line.split_whitespace();
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((start, words.nth(1)? == name))
    });
    let Some((start, _)) = symbols.find(|(_, found)| *found) else {
        panic!("/proc/kallsyms has no {name}");
    };
    let end = symbols.map(|(at, _)| at).find(|at| *at > start);
    (start, end.unwrap_or(start))
}

fn knob(kind: &str, name: &str) -> PathBuf {
    ["/sys/kernel/debug", kind, name].iter().collect()
}

/// Sets a knob of all kinds that have it.
fn set(name: &str, value: &str) {
    for kind in KINDS {
        if knob(kind, name).exists() {
            write(kind, name, value);
        }
    }
}

fn write(kind: &str, name: &str, value: &str) {
    if let Err(error) = fs::write(knob(kind, name), value) {
        panic!("{kind}/{name}: {error}");
    }
}

/// One failure in one call.
pub(crate) struct Nth {
    n: usize,
    hit: AtomicBool,
}

impl Nth {
    fn new(n: usize) -> Self {
        Self {
            n,
            hit: AtomicBool::new(false),
        }
    }

    fn is_hit(&self) -> bool {
        self.hit.load(Relaxed)
    }

    /// Makes the call.
    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        let file = match OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
        {
            Ok(file) => file,
            Err(error) => panic!("fail-nth: {error}"),
        };
        let set = |n: usize| file.write_at(n.to_string().as_bytes(), 0);
        assert!(set(self.n).is_ok(), "fail-nth takes a number");
        let result = call();
        // It counts down to the failure.
        let mut left = [0; 1];
        assert!(
            file.read_at(&mut left, 0).is_ok(),
            "fail-nth tells a number"
        );
        self.hit.store(left == *b"0", Relaxed);
        assert!(set(0).is_ok(), "fail-nth takes a number");
        result
    }
}
