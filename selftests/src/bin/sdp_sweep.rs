// SPDX-License-Identifier: GPL-2.0

//! Measures from which size on a call is better without a copy.
//!
//! Figures of copy and of zero copy are taken in turns, since a machine that others use has no
//! constant speed; the ratio of each pair is what counts.

use clap::Parser;
use sdp_selftests::{
    errno::Errno,
    namespace,
    sdp::{
        Stats,
        ZCOPY_THRESH, //
    },
    sock::{
        Addr,
        Shut,
        Sock,
        AF_INET_SDP, //
    },
};
use std::{
    error::Error,
    net::{
        Ipv4Addr,
        SocketAddrV4, //
    },
    process::ExitCode,
    thread,
    time::Instant, //
};

/// Measures blocking send() and recv() with and without a copy, for calls of several sizes.
#[derive(Parser)]
#[command(name = "sdp_sweep")]
struct Options {
    /// The smallest calls, in bytes, a power of two; the next are twice as large
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 10, value_parser = size)]
    from: u32,
    /// The largest calls, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = size)]
    to: u32,
    /// What each connection moves, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    volume: u32,
    /// How many pairs of connections, one with and one without a copy, each size gets
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Network namespace of the sender
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace of the receiver, with 10.27.0.2
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
}

fn size(text: &str) -> std::result::Result<u32, String> {
    match text.parse::<u32>() {
        Ok(size) if size.is_power_of_two() && (4 << 10..=1 << 20).contains(&size) => Ok(size),
        _ => Err("a power of two from 4096 to 1048576".into()),
    }
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the receiver is.
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 27, 0, 2);

/// One connection's figures.
#[derive(Clone, Copy)]
struct Run {
    /// Megabytes a second.
    rate: f64,
    /// The share of the bytes that no processor copied, by the sender and by the receiver.
    direct: (f64, f64),
}

/// Distance of the stamps by which the order of the bytes is checked, in bytes.
const STAMP: usize = 4096;

/// Says in every stamp of a call where in the stream it is; the call starts at `from`.
fn stamp(bytes: &mut [u8], from: u64) {
    for (place, chunk) in (from..).step_by(STAMP).zip(bytes.chunks_exact_mut(STAMP)) {
        chunk[..8].copy_from_slice(&place.to_le_bytes());
    }
}

/// Checks the stamps in what came behind the first `from` bytes.
fn check(bytes: &[u8], from: u64) -> Result<()> {
    let mut at = from.next_multiple_of(STAMP as u64);
    while let Some(found) = bytes
        .get((at - from) as usize..)
        .and_then(|rest| rest.first_chunk())
    {
        let found = u64::from_le_bytes(*found);
        if found != at {
            return Err(format!("byte {at} of the stream is byte {found} of what was sent").into());
        }
        at += STAMP as u64;
    }
    Ok(())
}

/// Moves `volume` bytes over a connection of its own, by calls of `size` bytes; zero copy is for
/// those of `threshold` bytes, if that is not 0.
fn run(options: &Options, size: usize, volume: u64, threshold: i32) -> Result<Run> {
    namespace::enter(&options.netns_b)?;
    let listener = Sock::new(AF_INET_SDP, libc::SOCK_STREAM, 0)?;
    listener.bind(&Addr::v4(libc::AF_INET, SocketAddrV4::new(RECEIVER, 0)))?;
    listener.listen(1)?;
    let to = Addr::v4(
        libc::AF_INET,
        SocketAddrV4::new(RECEIVER, listener.name()?.to_v4().port()),
    );
    namespace::enter(&options.netns_a)?;
    let sender = Sock::new(AF_INET_SDP, libc::SOCK_STREAM, 0)?;
    sender.set(libc::IPPROTO_TCP, ZCOPY_THRESH, threshold)?;
    sender.connect(&to)?;
    let receiver = listener.accept()?;
    receiver.set(libc::IPPROTO_TCP, ZCOPY_THRESH, threshold)?;

    // Touched, so that no page fault is measured.
    let mut bytes = vec![0x5a; size];
    let mut room = vec![1; size];
    let (start, received) = thread::scope(|scope| {
        let receive = scope.spawn(move || -> Result<(u64, Instant, Stats)> {
            let mut came = 0;
            loop {
                match receiver.recv(&mut room, 0)? {
                    0 => return Ok((came, Instant::now(), Stats::of(&receiver)?)),
                    len => {
                        check(&room[..len], came)?;
                        came += len as u64;
                    }
                }
            }
        });
        let start = Instant::now();
        let mut gone = 0;
        let sent = loop {
            if gone == volume {
                break Ok(());
            }
            stamp(&mut bytes, gone);
            match sender.send(&bytes, libc::MSG_NOSIGNAL) {
                // Nothing interrupts it.
                Ok(len) if len < size => break Err(Errno::EINTR),
                Ok(len) => gone += len as u64,
                Err(e) => break Err(e),
            }
        }
        .and_then(|()| sender.shutdown(Shut::Write));
        if sent.is_err() {
            // The receiver is not to wait for more.
            sender.shutdown(Shut::Both).ok();
        }
        let received = receive
            .join()
            .unwrap_or_else(|_| Err("the receiver panicked".into()));
        // What fails the receiver fails the sender too, which then has less to say.
        let received = received.map_err(|e| format!("recv: {e}"))?;
        sent.map_err(|e| format!("send: {e}"))?;
        Result::Ok((start, received))
    })?;
    let (came, end, there) = received;
    if came != volume {
        return Err(format!("{came} of {volume} bytes came").into());
    }
    let here = Stats::of(&sender)?;
    let share = |direct: u64, all: u64| direct as f64 / all.max(1) as f64;
    Ok(Run {
        rate: volume as f64 / 1e6 / (end - start).as_secs_f64().max(1e-9),
        direct: (
            share(here.sent_without_copy(), here.sent()),
            share(there.received_without_copy(), there.received()),
        ),
    })
}

/// The middle one, and the lowest and the highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    let last = values.len().saturating_sub(1);
    ((at(last / 2) + at(last.div_ceil(2))) / 2.0, at(0), at(last))
}

fn sweep(options: &Options) -> Result<()> {
    // Calls of a power of two fill it.
    let volume = u64::from(options.volume) << 20;
    println!(
        "{:>9}  {:>9}  {:>9}  {:>6}  {:<13}  {:>9}  {:>9}",
        "size", "copy", "zero copy", "ratio", "from .. to", "sent", "received"
    );
    println!(
        "{:>9}  {:>9}  {:>9}  {:>6}  {:<13}  {:>9}  {:>9}",
        "bytes", "MB/s", "MB/s", "", "", "direct", "direct"
    );
    let mut size = options.from;
    while size <= options.to {
        let threshold = i32::try_from(size)?;
        let (mut copied, mut lent, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            let copy = || run(options, size as usize, volume, 0);
            let direct = || run(options, size as usize, volume, threshold);
            // Neither is always the first.
            let (copy, direct) = if round % 2 == 0 {
                let copy = copy()?;
                (copy, direct()?)
            } else {
                let direct = direct()?;
                (copy()?, direct)
            };
            if copy.direct != (0.0, 0.0) {
                return Err(format!("calls of {size} bytes were not copied").into());
            }
            if direct.direct.0 < 0.5 {
                return Err(format!("calls of {size} bytes were copied").into());
            }
            copied.push(copy.rate);
            lent.push(direct.rate);
            ratios.push(direct.rate / copy.rate);
            sent.push(direct.direct.0);
            received.push(direct.direct.1);
        }
        let (ratio, least, most) = spread(ratios);
        println!(
            "{size:>9}  {:>9.1}  {:>9.1}  {ratio:>6.2}  {:<13}  {:>7.0} %  {:>7.0} %",
            spread(copied).0,
            spread(lent).0,
            format!("{least:.2} .. {most:.2}"),
            spread(sent).0 * 100.0,
            spread(received).0 * 100.0,
        );
        size = match size.checked_mul(2) {
            Some(size) => size,
            None => break,
        };
    }
    Ok(())
}

fn main() -> ExitCode {
    sdp_selftests::exit("sdp_sweep", sweep(&Options::parse()))
}
