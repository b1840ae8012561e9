// SPDX-License-Identifier: GPL-2.0

//! Opens many connections and tells what they cost: memory an end, and set-ups a second.
//!
//! Both ends are on this machine, in two network namespaces, so that the memory that it has less of
//! afterwards is that of twice as many ends.

use clap::Parser;
use sdp_selftests::{
    namespace,
    sock::{
        Addr,
        Sock,
        AF_INET_SDP, //
    },
};
use std::{
    error::Error,
    fs,
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    process::ExitCode,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Opens connections, moves bytes over each, and tells what they cost.
#[derive(Parser)]
#[command(name = "sdp_connections")]
struct Options {
    /// Connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Threads that connect
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// Bytes that each connection carries each way, as one message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=4096))]
    bytes: u32,
    /// How often they are opened and closed
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The most that one end may cost, in KiB: more is a failure
    #[arg(long, value_name = "KIB")]
    limit: Option<u32>,
    /// The sockets: AF_INET instead of AF_INET_SDP
    #[arg(long)]
    tcp: bool,
    /// Network namespace that connects
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace that listens, with 10.27.0.2
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the listener is.
const LISTENER: Ipv4Addr = Ipv4Addr::new(10, 27, 0, 2);

/// `MemAvailable`, in KiB, once what was freed late is there too and caches are as small as they get.
fn available() -> Result<i64> {
    let mut last = 0;
    loop {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        thread::sleep(Duration::from_secs(1));
        let text = fs::read_to_string("/proc/meminfo")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib: i64 = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or("no MemAvailable in /proc/meminfo")?
            .parse()?;
        // It is still growing.
        if kib <= last + 256 {
            return Ok(kib);
        }
        last = kib;
    }
}

/// Lets this process have so many files more.
fn allow_files(more: u64) -> Result<()> {
    let files = more + 256;
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: files,
    };
    // SAFETY: `limit` is a `struct rlimit`.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(format!("{files} files: {}", std::io::Error::last_os_error()).into()),
    }
}

/// The ends of all connections, and how long they took.
struct Ends {
    ends: Vec<Sock>,
    took: Duration,
}

fn open(options: &Options) -> Result<Ends> {
    let family = match options.tcp {
        true => libc::AF_INET,
        false => AF_INET_SDP,
    };
    namespace::enter(&options.netns_b)?;
    let listener = Sock::new(family, libc::SOCK_STREAM, 0)?;
    listener.bind(&Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, 0)))?;
    listener.listen(4096)?;
    let port = listener.name()?.to_v4().port();
    let to = Addr::v4(libc::AF_INET, SocketAddrV4::new(LISTENER, port));
    let count = options.count as usize;
    let start = Instant::now();
    thread::scope(|scope| {
        let accept = scope.spawn(|| -> Result<Vec<Sock>> {
            let accepted = || listener.accept().map_err(|e| format!("accept: {e}").into());
            (0..count).map(|_| accepted()).collect()
        });
        let threads: Vec<_> = (0..options.parallel as usize)
            .map(|thread| {
                let to = &to;
                scope.spawn(move || -> Result<Vec<Sock>> {
                    namespace::enter(&options.netns_a)?;
                    (thread..count)
                        .step_by(options.parallel as usize)
                        .map(|number| {
                            let sock = Sock::new(family, libc::SOCK_STREAM, 0)?;
                            sock.connect(to)
                                .map_err(|e| format!("connect, the {number}th: {e}"))?;
                            Ok(sock)
                        })
                        .collect()
                })
            })
            .collect();
        let mut ends = Vec::new();
        let mut failed = None;
        for thread in threads {
            match thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".into()))
            {
                Ok(socks) => ends.extend(socks),
                Err(e) => failed = Some(e),
            }
        }
        if let Some(e) = failed {
            // The accepting thread would wait for ever.
            listener.shutdown(sdp_selftests::sock::Shut::Both).ok();
            accept.join().ok();
            return Err(e);
        }
        let took = start.elapsed();
        ends.extend(
            accept
                .join()
                .unwrap_or_else(|_| Err("accept panicked".into()))?,
        );
        Ok(Ends { ends, took })
    })
}

/// Each end sends, and then each receives.
fn carry(options: &Options, ends: &[Sock]) -> Result<()> {
    let bytes = vec![0x5a; options.bytes as usize];
    for end in ends {
        end.send_all(&bytes).map_err(|e| format!("send: {e}"))?;
    }
    for end in ends {
        let came = end
            .recv_bytes(bytes.len())
            .map_err(|e| format!("recv: {e}"))?;
        if came != bytes {
            return Err("other bytes came than were sent".into());
        }
    }
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let count = i64::from(options.count);
    allow_files(2 * u64::from(options.count))?;
    println!(
        "{:>5}  {:>11}  {:>12}  {:>12}  {:>12}",
        "round", "connections", "set-ups/s", "KiB an end", "KiB not freed"
    );
    // What only the first connections cost is not theirs.
    let first = Options {
        count: options.count.min(16),
        netns_a: options.netns_a.clone(),
        netns_b: options.netns_b.clone(),
        ..*options
    };
    drop(open(&first)?);
    let before = available()?;
    for round in 1..=options.rounds {
        let start = available()?;
        let Ends { ends, took } = open(options)?;
        carry(options, &ends)?;
        let cost = (start - available()?) as f64 / (2 * count) as f64;
        drop(ends);
        // A connection that was closed waits for its peer's word.
        thread::sleep(Duration::from_secs(2));
        let lost = before - available()?;
        println!(
            "{round:>5}  {count:>11}  {:>12.0}  {cost:>12.1}  {lost:>12}",
            count as f64 / took.as_secs_f64().max(1e-9)
        );
        if options.limit.is_some_and(|limit| cost > limit.into()) {
            return Err(format!("an end takes {cost:.1} KiB").into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    sdp_selftests::exit("sdp_connections", run(&Options::parse()))
}
