// SPDX-License-Identifier: GPL-2.0

//! Makes system calls on sockets at random, as syzkaller does: from several threads of several
//! processes, in both network namespaces, with arguments right and wrong.
//!
//! The supervisor starts the processes and kills one now and then. It sends signals to threads
//! whose call does not return by itself, and fails when one does not return even so. At the end
//! everything is closed, and nothing may be left: no reference to the module, no connection, no
//! pinned page.

mod memory;
mod shared;
mod steps;
mod values;
mod worker;

use clap::Parser;
use io_uring::IoUring;
use memory::{
    Data,
    Scratch, //
};
use sdp_selftests::{
    errno::Errno,
    namespace,
    random::Random,
    sdp::Stats,
    sock::AF_INET_SDP, //
};
use shared::{
    Seat,
    Shared,
    PROCESSES,
    THREADS, //
};
use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt::Write as _,
    fs, mem,
    path::Path,
    process::ExitCode,
    ptr,
    sync::{
        atomic::Ordering::Relaxed,
        Barrier, //
    },
    thread,
    time::{
        Duration,
        Instant,
        SystemTime,
        UNIX_EPOCH, //
    },
};
use steps::KINDS;
use worker::{
    Files,
    Worker, //
};

/// Makes system calls on sockets at random, and prints KTAP.
#[derive(Parser)]
#[command(name = "sdp_random")]
struct Options {
    /// How long at least; up to four times as long, until something of each kind has succeeded
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What each thread does follows from this [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Processes; the first may do anything, the others have no privileges
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=PROCESSES as i64))]
    processes: u8,
    /// Threads of each, half of them in each namespace
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=THREADS as i64))]
    threads: u8,
    /// Tell also with which errors calls failed
    #[arg(long)]
    errors: bool,
    /// The sockets: AF_INET instead of AF_INET_SDP
    #[arg(long)]
    tcp: bool,
    /// Network namespace of one half, with 10.27.0.1
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace of the other half, with 10.27.0.2
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
}

/// How often the supervisor looks.
const TICK: Duration = Duration::from_millis(5);
/// A call that takes longer gets a signal, again and again.
const KICK: Duration = Duration::from_millis(40);
/// How long a process lives, on average, before it is killed.
const LIFE: Duration = Duration::from_secs(20);

/// The setting of the namespaces that the processes change.
const THRESHOLD: &str = "/proc/sys/net/sdp/zcopy_threshold";

/// What the kernel runs to load a module. It is asked for one by many a wrong family, protocol and
/// option; with nothing here it says at once that there is none, which otherwise takes most of the
/// time.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

struct Run {
    options: Options,
    seed: u64,
    family: libc::c_int,
    /// A call that takes longer hangs.
    limit: Duration,
    /// The counters of both namespaces at the start.
    before: [Stats; 2],
    shared: &'static Shared,
    passage: [libc::c_int; 2],
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Has the signals that sockets send, and those of the supervisor, interrupt calls and do nothing
/// else.
fn catch_signals() {
    for signal in [
        libc::SIGUSR1,
        libc::SIGPIPE,
        libc::SIGIO,
        libc::SIGURG,
        libc::SIGALRM,
    ] {
        // SAFETY: All-zero bytes are a valid `sigaction`, and the handler does nothing.
        let caught = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(signal, &action, ptr::null_mut())
        };
        assert_eq!(caught, 0, "{}", Errno::last());
    }
}

/// Takes the privileges from the calling thread.
fn give_up_root() {
    /// `nobody`.
    const NOBODY: libc::c_long = 65534;
    // SAFETY: These calls take numbers. Made directly they are about this thread.
    unsafe {
        libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY);
        libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
    }
}

/// Does `work` in both namespaces.
fn in_both<T: Send>(options: &Options, work: impl Fn() -> T + Sync) -> [T; 2] {
    [&options.netns_a, &options.netns_b].map(|name| {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                namespace::enter(name).unwrap_or_else(|error| panic!("{error}"));
                work()
            });
            there.join().expect("what is done there does not panic")
        })
    })
}

/// Puts back the setting of a namespace.
fn restore(netns: &str, threshold: &str) {
    let restored = thread::scope(|scope| {
        let there =
            scope.spawn(|| namespace::enter(netns).and_then(|()| fs::write(THRESHOLD, threshold)));
        there.join().expect("writing does not panic")
    });
    if let Err(error) = restored {
        println!("# {THRESHOLD}: {error}");
    }
}

impl Run {
    /// What a process does: its threads, until they are told to stop.
    fn work(&self, process: usize, life: u64) {
        static FILES: Files = Files::new();
        catch_signals();
        let data = Data::map();
        let root = process == 0;
        let threads = usize::from(self.options.threads);
        // All of them are there before one gives up what the others need.
        let barrier = Barrier::new(threads);
        thread::scope(|scope| {
            for number in 0..threads {
                let name = [&self.options.netns_a, &self.options.netns_b][number % 2];
                let barrier = &barrier;
                scope.spawn(move || {
                    namespace::enter(name).unwrap_or_else(|error| panic!("{error}"));
                    let stream = (life << 16) + ((process << 8) + number) as u64;
                    let mut worker = Worker {
                        shared: self.shared,
                        seat: self.shared.seat(process, number, false),
                        forked: Some(self.shared.seat(process, number, true)),
                        files: &FILES,
                        random: Random::new(self.seed, stream),
                        scratch: Scratch::map(),
                        data,
                        ring: IoUring::new(32).ok(),
                        passage: self.passage,
                        family: self.family,
                        root,
                        child: None,
                        step: 0,
                        kind: 0,
                    };
                    barrier.wait();
                    if !root {
                        give_up_root();
                    }
                    worker.run(u64::MAX);
                    barrier.wait();
                    // By calls that the supervisor sees.
                    if number == 0 {
                        worker.seat.take();
                        for file in FILES.drain() {
                            worker.close(file as usize);
                        }
                        worker.seat.leave();
                    }
                });
            }
        });
    }

    /// Starts a process.
    fn start(&self, process: usize, life: u64) -> libc::pid_t {
        for (_, _, seat) in self.shared.seats(process) {
            seat.leave();
        }
        // SAFETY: This process has one thread, so that the child may do anything that it could do.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: The call takes numbers: who kills the supervisor ends the run. `_exit()`
                // runs nothing of this process.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::setpgid(0, 0);
                }
                self.work(process, life);
                // SAFETY: As above.
                unsafe { libc::_exit(0) }
            }
            -1 => panic!("fork: {}", Errno::last()),
            pid => {
                // SAFETY: `setpgid()` takes numbers. The group is what ends with the process: those
                // that it forks.
                unsafe { libc::setpgid(pid, pid) };
                pid
            }
        }
    }

    /// Says where a thread is.
    fn report(&self, process: usize, thread: usize, forked: bool, seat: &Seat) {
        let child = if forked {
            ", the process it forked"
        } else {
            ""
        };
        println!("# process {process} thread {thread}{child}; its last calls:");
        for (call, result) in seat.last() {
            let args = call.args.map(|arg| match arg {
                0..=4096 => arg.to_string(),
                _ => format!("{arg:#x}"),
            });
            let result = match result {
                None => "?".to_string(),
                Some(error @ -4095..0) => format!("{:?}", Errno(-error as i32)),
                Some(result) => result.to_string(),
            };
            println!(
                "#   step {} {}: call {} ({}) = {result}",
                call.step,
                KINDS.get(call.kind).map_or("?", |kind| kind.name),
                call.number,
                args.join(", ")
            );
        }
        let path = format!(
            "/proc/{}/task/{}",
            seat.process.load(Relaxed),
            seat.thread.load(Relaxed)
        );
        for file in ["wchan", "stack"] {
            let text = fs::read_to_string(format!("{path}/{file}")).unwrap_or_default();
            for line in text.lines() {
                println!("#     {line}");
            }
        }
    }

    /// Sends signals to those who wait, and gives those that wait for good.
    fn kick(
        &self,
        since: &mut HashMap<(usize, usize, bool), (u64, Instant)>,
    ) -> Vec<(usize, usize, bool)> {
        let mut stuck = Vec::new();
        for process in 0..usize::from(self.options.processes) {
            for (thread, forked, seat) in self.shared.seats(process) {
                let place = (process, thread, forked);
                let id = seat.thread.load(Relaxed);
                if id == 0 {
                    since.remove(&place);
                    continue;
                }
                let changes = seat.changes.load(Relaxed);
                let (last, start) = since.entry(place).or_insert((changes, Instant::now()));
                if *last != changes {
                    (*last, *start) = (changes, Instant::now());
                } else if start.elapsed() > self.limit {
                    stuck.push(place);
                } else if start.elapsed() > KICK {
                    let process = seat.process.load(Relaxed);
                    // SAFETY: The call takes numbers. A thread of this process that ended meanwhile
                    // is not found.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, id, libc::SIGUSR1) };
                }
            }
        }
        stuck
    }

    /// Waits for any process that has ended: its number and its status. An error when there are
    /// none at all.
    fn reap() -> Result<Option<(libc::pid_t, libc::c_int)>, Errno> {
        let mut status = 0;
        // SAFETY: `waitpid()` writes one `int`.
        let pid = Errno::check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) })?;
        Ok((pid > 0).then_some((pid, status)))
    }

    /// Runs all processes for the time that was asked for, until they have ended. An error says
    /// what went wrong.
    fn supervise(&self) -> Result<(), String> {
        let time = Duration::from_secs(self.options.seconds);
        let mut random = Random::new(self.seed, u64::MAX);
        let mut alive: HashMap<libc::pid_t, usize> = HashMap::new();
        let mut killed: HashMap<libc::pid_t, Instant> = HashMap::new();
        let mut since = HashMap::new();
        let mut life = 0;
        for process in 0..usize::from(self.options.processes) {
            alive.insert(self.start(process, life), process);
        }
        let start = Instant::now();
        let mut next = start + LIFE / u32::from(self.options.processes);
        let mut ending = None;
        loop {
            while let Ok(Some((pid, status))) = Self::reap() {
                // Others are forked by one that is not there any more.
                let Some(process) = alive.remove(&pid) else {
                    continue;
                };
                // SAFETY: `kill()` takes no memory. Whoever is in its group was forked by it.
                unsafe { libc::kill(-pid, libc::SIGKILL) };
                let wanted = match killed.remove(&pid) {
                    Some(_) => libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
                    None => ending.is_some() && status == 0,
                };
                // Who was killed may have been about to end.
                if !(wanted || ending.is_some() && status == 0) {
                    return Err(format!("process {process} ended with status {status:#x}"));
                }
                if ending.is_none() {
                    life += 1;
                    alive.insert(self.start(process, life), process);
                }
            }
            let stuck = self.kick(&mut since);
            if !stuck.is_empty() {
                for &(process, thread, forked) in &stuck {
                    self.report(
                        process,
                        thread,
                        forked,
                        self.shared.seat(process, thread, forked),
                    );
                }
                return Err(format!(
                    "{} threads wait for more than {} s",
                    stuck.len(),
                    self.limit.as_secs()
                ));
            }
            if let Some((pid, _)) = killed
                .iter()
                .find(|(_, since)| since.elapsed() > self.limit)
            {
                let process = alive.get(pid).copied().unwrap_or(0);
                for (thread, forked, seat) in self.shared.seats(process) {
                    self.report(process, thread, forked, seat);
                }
                return Err(format!(
                    "process {process} is there {} s after SIGKILL",
                    self.limit.as_secs()
                ));
            }
            let now = Instant::now();
            match ending {
                None if now - start > time && (now - start > 4 * time || self.has_succeeded()) => {
                    self.shared.stop.store(true, Relaxed);
                    ending = Some(now);
                }
                None if now > next => {
                    next = now + LIFE / u32::from(self.options.processes);
                    let victim = random.within(0, usize::from(self.options.processes) - 1);
                    let victim = alive.iter().find(|(_, process)| **process == victim);
                    if let Some((pid, _)) = victim.filter(|(pid, _)| !killed.contains_key(pid)) {
                        // SAFETY: `kill()` takes no memory; the child is not yet waited for, so the
                        // id is still its own.
                        unsafe { libc::kill(*pid, libc::SIGKILL) };
                        killed.insert(*pid, now);
                    }
                }
                Some(_) if alive.is_empty() && Self::reap().is_err() => return Ok(()),
                Some(end) if now - end > 2 * self.limit => {
                    return Err(format!(
                        "{} processes and what they forked do not end",
                        alive.len()
                    ));
                }
                _ => (),
            }
            thread::sleep(TICK);
        }
    }

    /// Whether each call that the others depend on has succeeded, and bytes have moved.
    fn has_succeeded(&self) -> bool {
        self.unsuccessful().next().is_none() && self.has_moved()
    }

    /// The calls that the others depend on, and of which none has succeeded.
    fn unsuccessful(&self) -> impl Iterator<Item = &'static str> + '_ {
        const NEEDED: [&str; 8] = [
            "connection",
            "connect",
            "accept",
            "send",
            "recv",
            "setsockopt",
            "getsockopt",
            "fork",
        ];
        let all = KINDS.iter().zip(&self.shared.counts);
        all.filter(|(kind, count)| {
            NEEDED.contains(&kind.name) && count.succeeded.load(Relaxed) == 0
        })
        .map(|(kind, _)| kind.name)
    }

    /// Whether each namespace has sent and received bytes over SDP.
    fn has_moved(&self) -> bool {
        if self.options.tcp {
            return true;
        }
        let now = in_both(&self.options, || Stats::of_namespace().unwrap_or_default());
        let mut both = self.before.iter().zip(&now);
        both.all(|(before, now)| now.sent() > before.sent() && now.received() > before.received())
    }

    /// What was called how often; an error says what never succeeded.
    fn tell(&self) -> Result<(), String> {
        if self.options.errors {
            for (kind, count) in KINDS.iter().zip(&self.shared.counts) {
                let errors = (0..)
                    .zip(&count.errors)
                    .map(|(number, count)| (count.load(Relaxed), Errno(number)));
                let mut errors: Vec<_> = errors.filter(|(count, _)| *count > 0).collect();
                errors.sort_by_key(|(count, _)| Reverse(*count));
                let errors: Vec<_> = errors
                    .iter()
                    .map(|(count, error)| format!("{error:?} {count}"))
                    .collect();
                println!("# {}: {}", kind.name, errors.join(", "));
            }
        }
        let mut line = String::new();
        let mut all = 0;
        for (kind, count) in KINDS.iter().zip(&self.shared.counts) {
            let (made, succeeded) = (count.made.load(Relaxed), count.succeeded.load(Relaxed));
            all += made;
            let _ = write!(line, " {} {succeeded}/{made}", kind.name);
            if line.len() > 90 {
                println!("#{}", mem::take(&mut line));
            }
        }
        println!("#{line}");
        println!("# {all} calls, seed {}", self.seed);
        let never: Vec<_> = self.unsuccessful().collect();
        if !never.is_empty() {
            return Err(format!("no call succeeded of: {}", never.join(", ")));
        }
        match self.has_moved() {
            true => Ok(()),
            false => Err("no byte moved over SDP".to_string()),
        }
    }

    /// Waits until nothing of all that is left. A peer may take half a minute to confirm the end,
    /// or not do it at all.
    fn closed(&self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let left = self.left()?;
            match left {
                None => return Ok(()),
                Some(what) if start.elapsed() > self.limit + Duration::from_secs(30) => {
                    return Err(what)
                }
                Some(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// What is left; an error where that cannot be read.
    fn left(&self) -> Result<Option<String>, String> {
        let references = fs::read_to_string("/sys/module/sdp/refcnt").map_err(|e| e.to_string())?;
        if references.trim() != "0" {
            return Ok(Some(format!(
                "the module has {} references",
                references.trim()
            )));
        }
        let now = in_both(&self.options, Stats::of_namespace);
        for (before, now) in self.before.iter().zip(now) {
            let now = now.map_err(|error| format!("/proc/net/sdp_stat: {error}"))?;
            if now.pages_pinned - before.pages_pinned != now.pages_unpinned - before.pages_unpinned
            {
                return Ok(Some(format!(
                    "pages are pinned: {now:?}, before {before:?}"
                )));
            }
        }
        Ok(None)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A kernel with kmemleak is twenty times slower.
    let debug_kernel = Path::new("/sys/kernel/debug/kmemleak").exists();
    let seed = options.seed.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_micros() as u64)
    });
    let mut passage = [0; 2];
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: `socketpair()` writes two numbers, and `prctl()` takes numbers: who is left alone
    // becomes this process's child.
    let made = unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::socketpair(libc::AF_UNIX, kind, 0, passage.as_mut_ptr())
    };
    assert_eq!(made, 0, "{}", Errno::last());
    let before = in_both(&options, || Stats::of_namespace().unwrap_or_default());
    let run = Run {
        seed,
        family: if options.tcp {
            libc::AF_INET
        } else {
            AF_INET_SDP
        },
        limit: Duration::from_secs(if debug_kernel { 60 } else { 30 }),
        before,
        shared: Shared::map(),
        passage,
        options,
    };
    println!("KTAP version 1\n1..3");
    println!("# seed {seed}");
    let threshold = in_both(&run.options, || fs::read_to_string(THRESHOLD));
    let modprobe = fs::read_to_string(MODPROBE).unwrap_or_default();
    if let Err(error) = fs::write(MODPROBE, "\n") {
        println!("# {MODPROBE}: {error}");
    }
    let supervised = run.supervise();
    if let Err(error) = fs::write(MODPROBE, modprobe) {
        println!("# {MODPROBE}: {error}");
    }
    if supervised.is_err() {
        run.shared.stop.store(true, Relaxed);
    }
    // Whatever is there still ends with this process; what was changed is put back.
    for (name, threshold) in [&run.options.netns_a, &run.options.netns_b]
        .into_iter()
        .zip(threshold)
    {
        if let Ok(threshold) = threshold {
            restore(name, &threshold);
        }
    }
    // The files on their way go with it.
    for end in run.passage {
        // SAFETY: The descriptors are this program's own, and nobody uses them any more.
        unsafe { libc::close(end) };
    }
    let closed = match &supervised {
        // What still runs has sockets.
        Err(_) => Err("not looked at".to_string()),
        Ok(()) if run.options.tcp => Ok(()),
        Ok(()) => run.closed(),
    };
    let results = [
        ("random_calls", supervised),
        ("random_success", run.tell()),
        ("random_closed", closed),
    ];
    let mut code = ExitCode::SUCCESS;
    for (number, (name, result)) in (1..).zip(results) {
        match result {
            Ok(()) => println!("ok {number} {name}"),
            Err(error) => {
                println!("# {error}\n# again: --seed {seed}\nnot ok {number} {name}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
