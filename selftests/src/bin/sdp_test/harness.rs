// SPDX-License-Identifier: GPL-2.0

//! Runs cases: each in a process of its own, with a deadline, reported as KTAP.
//!
//! A case fails by panicking, in whichever thread: its process then ends at once, so that no other
//! thread of it can wait for ever. Whatever a case leaves behind, processes included, goes with it.

use crate::{
    config,
    leftovers::Leftovers,
    peers::{
        repair,
        set_threshold, //
    },
};
use sdp_selftests::{
    errno::Errno,
    shared, //
};
use std::{
    cell::Cell,
    fmt::Debug,
    fs,
    io::{
        self,
        Write, //
    },
    mem,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    panic,
    process::{
        self,
        ExitCode, //
    },
    sync::{
        atomic::{
            AtomicU32,
            AtomicU8,
            AtomicUsize,
            Ordering, //
        },
        OnceLock, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// One test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What it shows, for `--list`.
    pub(crate) shows: &'static str,
    /// Seconds that it may take on a fast kernel.
    pub(crate) deadline: u64,
    pub(crate) run: fn(),
}

/// Lists cases: `cases! { name(deadline) "what it shows", … }`, each a function of this module.
macro_rules! cases {
    ($($name:ident($deadline:expr) $shows:literal,)*) => {
        /// The cases of this file.
        pub(crate) const CASES: &[crate::harness::Case] = &[$(crate::harness::Case {
            name: concat!(stringify!($name)),
            shows: $shows,
            deadline: $deadline,
            run: $name,
        }),*];
    };
}
pub(crate) use cases;

/// Checks that a call gave what it must: `check!(sock.send(b"x", 0), Ok(1))`.
macro_rules! check {
    ($got:expr, $expected:expr) => {
        crate::harness::expect(stringify!($got), $got, &[$expected])
    };
}
pub(crate) use check;

/// Checks that a call gave one of several things that are all right.
macro_rules! check_any {
    ($got:expr, [$($expected:expr),+ $(,)?]) => {
        crate::harness::expect(stringify!($got), $got, &[$($expected),+])
    };
}
pub(crate) use check_any;

/// Fails the case unless `got`, which `what` gave, is one of `expected`.
#[track_caller]
pub(crate) fn expect<T: PartialEq + Debug>(what: &str, got: T, expected: &[T]) {
    if !expected.contains(&got) {
        let expected: Vec<_> = expected
            .iter()
            .map(|expected| format!("{expected:?}"))
            .collect();
        panic!(
            "{what}\nexpected {}\n     got {got:?}",
            expected.join(" or ")
        );
    }
}

/// Gives what a call gave, which must be `Ok`: `must!(sock.accept())`.
macro_rules! must {
    ($got:expr) => {
        match $got {
            Ok(value) => value,
            Err(error) => panic!("{}\nexpected success\n     got {error}", stringify!($got)),
        }
    };
}
pub(crate) use must;

/// Says where this thread of the case is now, for the report of a stuck one.
macro_rules! step {
    ($($text:tt)*) => {
        crate::harness::at_step(&format!($($text)*))
    };
}
pub(crate) use step;

const TEXT: usize = 240;
const THREADS: usize = 8;

/// A line of text in memory that the case and its watcher share.
#[repr(C)]
struct Text {
    len: AtomicUsize,
    bytes: [AtomicU8; TEXT],
}

impl Text {
    fn set(&self, text: &str) {
        let len = text.len().min(TEXT);
        for (shared, byte) in self.bytes.iter().zip(text.as_bytes()) {
            shared.store(*byte, Ordering::Relaxed);
        }
        self.len.store(len, Ordering::Release);
    }

    fn get(&self) -> String {
        let len = self.len.load(Ordering::Acquire).min(TEXT);
        let bytes: Vec<_> = self.bytes[..len]
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What a case tells its watcher.
#[repr(C)]
struct Shared {
    threads: AtomicU32,
    steps: [Text; THREADS],
    skip: Text,
}

impl Shared {
    /// Maps a page that stays common after `fork()`.
    fn get() -> &'static Shared {
        static SHARED: OnceLock<&Shared> = OnceLock::new();
        // SAFETY: It is made of atomics alone, for which zero is valid.
        SHARED.get_or_init(|| unsafe { shared::map() })
    }

    fn clear(&self) {
        self.threads.store(0, Ordering::Relaxed);
        self.steps.iter().for_each(|text| text.set(""));
        self.skip.set("");
    }
}

/// Says where this thread of the case is now.
pub(crate) fn at_step(text: &str) {
    thread_local!(static SLOT: Cell<Option<usize>> = const { Cell::new(None) });
    let shared = Shared::get();
    let slot = SLOT
        .get()
        .unwrap_or_else(|| shared.threads.fetch_add(1, Ordering::Relaxed) as usize);
    SLOT.set(Some(slot));
    if let Some(step) = shared.steps.get(slot) {
        let thread = thread::current();
        step.set(&format!("{}: {text}", thread.name().unwrap_or("thread")));
    }
}

const PASSED: i32 = 0;
const FAILED: i32 = 1;
const SKIPPED: i32 = 4;

/// Ends the case as one that cannot run here.
pub(crate) fn skip(reason: &str) -> ! {
    Shared::get().skip.set(reason);
    exit(SKIPPED)
}

fn exit(code: i32) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: `_exit()` ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

/// Prints diagnostics.
pub(crate) fn note(text: &str) {
    let mut out = io::stdout().lock();
    for line in text.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let _ = out.flush();
}

/// Starts a thread of the case.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let thread = thread::Builder::new().name(name.to_string()).spawn(work);
    must!(thread)
}

/// Waits for a thread of the case. A panic in it has ended the case before.
pub(crate) fn join<T>(thread: thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(_) => exit(FAILED),
    }
}

/// Waits for a thread of the case that borrows from it.
pub(crate) fn join_scoped<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(_) => exit(FAILED),
    }
}

/// A process of the case's own; killed when dropped.
pub(crate) struct Child(libc::pid_t);

impl Child {
    /// Starts a process that does `work` and ends. The case must still be of one thread.
    pub(crate) fn start(work: impl FnOnce()) -> Self {
        // SAFETY: The only thread of this process forks, so that the child may do anything that it
        // could do.
        match unsafe { libc::fork() } {
            0 => {
                work();
                exit(PASSED)
            }
            pid => Self(must!(Errno::check(pid))),
        }
    }

    /// Starts a process of a case that has other threads; `work` must do with what a signal handler
    /// may.
    ///
    /// # Safety
    ///
    /// `work` may not take locks, so not allocate either: a thread that is not there any more may
    /// hold them.
    pub(crate) unsafe fn start_beside_threads(work: impl FnOnce()) -> Self {
        Self::start(work)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: libc::c_int) {
        // SAFETY: `kill()` takes no memory; the child is not yet waited for, so the id is still its
        // own.
        must!(Errno::check(unsafe { libc::kill(self.0, signal) }));
    }

    /// Waits for its end: its exit code, or the signal that killed it, negative.
    pub(crate) fn wait(self) -> i32 {
        let pid = self.0;
        mem::forget(self);
        must!(wait(pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: `kill()` takes no memory; the child is not yet waited for, so the id is still its
        // own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let _ = wait(self.0);
    }
}

fn status(status: i32) -> i32 {
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

fn wait(pid: libc::pid_t) -> Result<i32, Errno> {
    let mut result = 0;
    // SAFETY: `waitpid()` writes one `int`.
    Errno::check(unsafe { libc::waitpid(pid, &mut result, 0) }).map(|_| status(result))
}

/// Waits until `pid` ends or the deadline comes. To look for that again and again would take a slow
/// kernel a tenth of its time.
fn wait_until(pid: libc::pid_t, deadline: Instant) -> Option<i32> {
    // SAFETY: `pidfd_open()` takes no memory.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: If it is not -1, it is a descriptor that nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(must!(Errno::check(pidfd as libc::c_int))) };
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ms = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll()` reads and writes the one `pollfd`.
        let ended = unsafe { libc::poll(&mut poll, 1, ms) } == 1;
        if ended {
            return Some(must!(wait(pid)));
        }
        if Instant::now() >= deadline {
            return None;
        }
    }
}

/// Prints where every thread of the process stands.
fn report_stuck(pid: libc::pid_t) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return;
    };
    for task in tasks.flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        note(&format!(
            "  thread {} ({}) waits in {}, system call {}",
            task.file_name().to_string_lossy(),
            read("comm").trim(),
            Some(read("wchan"))
                .filter(|wchan| wchan != "0")
                .as_deref()
                .unwrap_or("user space"),
            read("syscall").split(' ').next().unwrap_or_default().trim(),
        ));
        for line in read("stack").lines() {
            note(&format!("    {line}"));
        }
    }
}

enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

fn run_one(case: &Case) -> Outcome {
    let shared = Shared::get();
    shared.clear();
    set_threshold();
    let before = Leftovers::look();
    let asked = Duration::from_secs(config::get().seconds.unwrap_or(0));
    let limit = config::patience(case.deadline) + asked;
    // SAFETY: This process has one thread, so that the child may do anything that it could do.
    let pid = match unsafe { libc::fork() } {
        0 => {
            // SAFETY: `setpgid()` takes no memory. The group is what ends with the case.
            unsafe { libc::setpgid(0, 0) };
            (case.run)();
            exit(PASSED)
        }
        pid => must!(Errno::check(pid)),
    };
    // SAFETY: As above. Whoever of the two comes first, the group is there.
    unsafe { libc::setpgid(pid, pid) };
    let code = wait_until(pid, Instant::now() + limit);
    if code.is_none() {
        note(&format!(
            "stuck: not done after {} s; each thread's last step:",
            limit.as_secs()
        ));
        shared
            .steps
            .iter()
            .map(Text::get)
            .filter(|step| !step.is_empty())
            .for_each(|step| {
                note(&format!("  {step}"));
            });
        report_stuck(pid);
    }
    // SAFETY: `kill()` takes no memory. The group is the case's own.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    if code.is_none() && wait_until(pid, Instant::now() + config::patience(10)).is_none() {
        note("  and cannot be killed");
    }
    let left = before.left();
    if let Some(what) = &left {
        note(&format!("left behind: {what}"));
    }
    match code {
        Some(PASSED | SKIPPED) if left.is_some() => Outcome::Failed,
        Some(PASSED) => Outcome::Passed,
        Some(SKIPPED) => Outcome::Skipped(shared.skip.get()),
        Some(signal @ ..0) => {
            note(&format!("killed by signal {}", -signal));
            Outcome::Failed
        }
        _ => Outcome::Failed,
    }
}

/// Runs `cases` in order and reports them.
pub(crate) fn run(cases: &[&Case]) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = (payload.downcast_ref::<&str>().copied())
            .or(payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("panicked");
        match info.location() {
            Some(place) => note(&format!("{}:{}: {text}", place.file(), place.line())),
            None => note(text),
        }
        exit(FAILED)
    }));

    println!("KTAP version 1");
    println!("1..{}", cases.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (number, case) in (1..).zip(cases) {
        let start = Instant::now();
        let outcome = run_one(case);
        let time = start.elapsed().as_millis();
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("ok {number} {} # time={time}ms", case.name);
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                println!("ok {number} {} # SKIP {reason}", case.name);
            }
            Outcome::Failed => {
                failed += 1;
                repair();
                note(&format!(
                    "again: --pick {} --seed {}",
                    case.name,
                    config::get().seed
                ));
                println!("not ok {number} {} # time={time}ms", case.name);
            }
        }
    }
    println!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0");
    match (passed, failed) {
        (_, 1..) => process::exit(FAILED),
        (0, _) => process::exit(SKIPPED),
        _ => ExitCode::SUCCESS,
    }
}
