// SPDX-License-Identifier: GPL-2.0

//! Opens many connections and tells what they cost: memory an end, how much of that the program's
//! memory cgroup is charged, and set-ups a second.
//!
//! Both ends are on this machine, in two network namespaces, so that the memory that it has less of
//! afterwards is that of twice as many ends.

use clap::Parser;
use sdp_selftests::{
    errno::Errno,
    namespace,
    resources::{
        allow_files,
        available, //
    },
    sock::{
        Addr,
        Sock,
        AF_INET_SDP, //
    },
};
use std::{
    collections::HashMap,
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
    /// Threads that connect; for each number, all connections are made once a round
    #[arg(
        long,
        value_name = "THREADS,…",
        default_value = "1,64",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    parallel: Vec<u32>,
    /// Bytes that each connection carries each way, as one message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=4096))]
    bytes: u32,
    /// Bytes that each connection carries each way besides, in one call; then it is left idle for
    /// so long that it gives back what it does not need
    #[arg(long, default_value_t = 0)]
    stream: usize,
    /// How often they are opened and closed
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The most that one end may cost, in KiB: more is a failure
    #[arg(long, value_name = "KIB")]
    limit: Option<u32>,
    /// The least part of that which is charged to the memory cgroup, in per cent: less is a failure
    #[arg(long, value_name = "PERCENT")]
    charged: Option<u32>,
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

/// `net.sdp.idle_timeout` for `--stream`, in seconds.
const IDLE_TIMEOUT: u64 = 5;

/// Where the listener is.
const LISTENER: Ipv4Addr = Ipv4Addr::new(10, 27, 0, 2);

/// What the memory cgroup of this process is charged, in KiB.
fn charged() -> Result<i64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or("no cgroup of version 2")?;
    let bytes = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.current"))?;
    Ok(bytes.trim().parse::<i64>()? / 1024)
}

/// Waits until nothing holds the module any more, as connections do that were closed and wait for
/// their peers' word.
fn wait_for_ends() {
    let is_held = || {
        let count = fs::read_to_string("/sys/module/sdp/refcnt").unwrap_or_default();
        count.trim().parse::<u32>().is_ok_and(|count| count > 0)
    };
    while is_held() {
        thread::sleep(Duration::from_secs(1));
    }
}

/// The ends of all connections, and how long they took.
struct Ends {
    ends: Vec<Sock>,
    took: Duration,
}

/// Makes `count` connections, by so many threads.
fn open(options: &Options, count: u32, threads: u32) -> Result<Ends> {
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
    let (count, threads) = (count as usize, threads as usize);
    let start = Instant::now();
    thread::scope(|scope| {
        let accept = scope.spawn(|| -> Result<Vec<Sock>> {
            let accepted = |number: usize| {
                if number > 0 && number % 1000 == 0 {
                    eprintln!(
                        "{number} connections after {:.0} s",
                        start.elapsed().as_secs_f64()
                    );
                }
                listener.accept().map_err(|e| format!("accept: {e}").into())
            };
            (0..count).map(accepted).collect()
        });
        let connecting: Vec<_> = (0..threads)
            .map(|thread| {
                let to = &to;
                scope.spawn(move || -> Result<Vec<Sock>> {
                    namespace::enter(&options.netns_a)?;
                    (thread..count)
                        .step_by(threads)
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
        for thread in connecting {
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

/// One end of each connection sends in one call what the other receives, and the reverse; then
/// nothing happens until idle connections have given back what they do not need.
fn stream(options: &Options, ends: &[Sock]) -> Result<()> {
    if options.stream == 0 {
        return Ok(());
    }
    let mut ports = HashMap::new();
    let (clients, servers) = ends.split_at(ends.len() / 2);
    for server in servers {
        ports.insert(server.peer()?.to_v4().port(), server);
    }
    let bytes = vec![0xa5; options.stream];
    for client in clients {
        let server = ports.get(&client.name()?.to_v4().port()).copied();
        let server = server.ok_or("an end without a peer")?;
        for (from, to) in [(client, server), (server, client)] {
            let came = thread::scope(|scope| {
                let sender = scope.spawn(|| from.send_all(&bytes));
                let came = to.recv_bytes(bytes.len());
                let sent = sender.join().unwrap_or(Err(Errno::EPIPE));
                sent.and(came)
            });
            if came.map_err(|e| format!("a stream: {e}"))? != bytes {
                return Err("other bytes came than were sent".into());
            }
        }
    }
    // It is idle after one to two of these times, and then asks its peer for smaller buffers.
    thread::sleep(3 * Duration::from_secs(IDLE_TIMEOUT) + Duration::from_secs(5));
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let count = i64::from(options.count);
    allow_files(2 * u64::from(options.count))?;
    let by = |threads: &u32| format!("set-ups/s by {threads}");
    let columns: Vec<_> = options.parallel.iter().map(by).collect();
    println!(
        "{:>5}  {:>11}  {:>12}  {:>9}  {:>13}  {}",
        "round",
        "connections",
        "KiB an end",
        "charged %",
        "KiB not freed",
        columns.join("  ")
    );
    if options.stream > 0 {
        for netns in [&options.netns_a, &options.netns_b] {
            namespace::enter(netns)?;
            fs::write("/proc/sys/net/sdp/idle_timeout", IDLE_TIMEOUT.to_string())?;
        }
    }
    // What only the first connections cost is not theirs.
    drop(open(options, options.count.min(16), 1)?);
    let before = available()?;
    let mut kept = None;
    for round in 1..=options.rounds {
        let mut speeds = Vec::new();
        let mut cost: f64 = 0.0;
        let mut share = f64::MAX;
        for (threads, column) in options.parallel.iter().zip(&columns) {
            let start = available()?;
            let uncharged = charged()?;
            let Ends { ends, took } = open(options, options.count, *threads)?;
            carry(options, &ends)?;
            stream(options, &ends)?;
            let taken = (start - available()?) as f64;
            cost = cost.max(taken / (2 * count) as f64);
            share = share.min((charged()? - uncharged) as f64 * 100.0 / taken);
            drop(ends);
            wait_for_ends();
            let speed = count as f64 / took.as_secs_f64().max(1e-9);
            speeds.push(format!("{speed:>width$.0}", width = column.len()));
        }
        let lost = before - available()?;
        println!(
            "{round:>5}  {count:>11}  {cost:>12.1}  {share:>9.0}  {lost:>13}  {}",
            speeds.join("  ")
        );
        // Caches fill in the first round, and then no more.
        let most = *kept.get_or_insert(lost) + ((cost * count as f64) as i64 / 10).max(8 << 10);
        if lost > most {
            return Err(format!(
                "{} KiB more were not freed than the first time",
                lost - most
            )
            .into());
        }
        if options.limit.is_some_and(|limit| cost > limit.into()) {
            return Err(format!("an end takes {cost:.1} KiB").into());
        }
        if options.charged.is_some_and(|least| share < least.into()) {
            return Err(format!("{share:.0} % of it is charged").into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    sdp_selftests::exit("sdp_connections", run(&Options::parse()))
}
