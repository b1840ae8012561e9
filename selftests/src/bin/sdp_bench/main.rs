// SPDX-License-Identifier: GPL-2.0

//! Measures how fast SDP is beside what else a program could use.
//!
//! Every figure is one of two new processes, which open the connections of one transport and do one
//! kind of work over them. All transports take their turns in every round, so that whatever else
//! the machine does meanwhile hits them alike, and the ratios of a round are what counts.

mod cycles;
mod end;
mod plan;
mod sockets;
mod table;
mod trips;
mod verbs;

use clap::{
    Parser,
    Subcommand, //
};
use end::Result;
use plan::{
    Line,
    Transport,
    LINES, //
};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{
        Duration,
        Instant, //
    },
};
use table::Results;

/// Measures SDP beside plain verbs, rsockets and TCP.
#[derive(Parser)]
#[command(name = "sdp_bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each measurement takes
    #[arg(
        long,
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..=600_000)
    )]
    milliseconds: u64,
    /// Only the work whose name contains one of these, such as stream, trip-1, requests
    #[arg(long, value_name = "NAME")]
    pick: Vec<String>,
    /// Only these transports, and SDP
    #[arg(long, value_name = "NAME,…", value_enum, value_delimiter = ',')]
    transports: Vec<Transport>,
    /// Write the figures to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Network namespace that connects
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace that listens, with 10.27.0.2
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
    #[command(subcommand)]
    process: Option<Process>,
}

#[derive(Subcommand)]
enum Process {
    /// One process of a measurement, which the program starts itself
    #[command(hide = true)]
    End(end::Role),
}

/// The transports that are to be had, and why others are not.
fn find(options: &Options) -> (Vec<Transport>, BTreeMap<&'static str, String>) {
    use clap::ValueEnum;
    let wanted = |transport: &Transport| {
        *transport == Transport::Sdp
            || options.transports.is_empty()
            || options.transports.contains(transport)
    };
    let mut found = Vec::new();
    let mut missing = BTreeMap::new();
    for transport in Transport::value_variants().iter().copied().filter(wanted) {
        let line = match transport.has(Line::Trip(1)) {
            true => Line::Trip(1),
            false => Line::Stream(64),
        };
        match end::measure(options, transport, line, Duration::from_millis(10)) {
            Ok(_) => found.push(transport),
            Err(e) => {
                missing.insert(transport.name(), e.to_string());
            }
        }
    }
    (found, missing)
}

fn bench(options: &Options) -> Result<()> {
    let start = Instant::now();
    let (transports, missing) = find(options);
    let picked = |line: &Line| {
        let name = line.to_string();
        options.pick.is_empty() || options.pick.iter().any(|part| name.contains(part))
    };
    let lines: Vec<_> = LINES.into_iter().filter(picked).collect();
    let mut results = Results::new(options, &transports, missing);
    for (why, name) in results.missing.iter().map(|(name, why)| (why, name)) {
        eprintln!("{name} is not available: {why}");
    }
    if !transports.contains(&Transport::Sdp) {
        return Err("without SDP there is nothing to measure the others by".into());
    }
    for round in 0..options.rounds {
        for line in &lines {
            let mut having = transports.clone();
            having.retain(|transport| transport.has(*line));
            // None is always the first.
            let first = round as usize % having.len();
            having.rotate_left(first);
            for transport in having {
                let duration = Duration::from_millis(options.milliseconds);
                let figures = end::measure(options, transport, *line, duration);
                results.add(round, *line, transport, figures);
            }
            eprintln!(
                "{:>5.0} s  {}/{}  {}",
                start.elapsed().as_secs_f64(),
                round + 1,
                options.rounds,
                results.last(*line)
            );
        }
    }
    print!("{}", results.table(&lines));
    if let Some(path) = &options.json {
        fs::write(path, results.json(&lines)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    match results.failed(Transport::Sdp) {
        true => Err("SDP failed".into()),
        false => Ok(()),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.process {
        Some(Process::End(role)) => role.play(),
        None => bench(&options),
    };
    sdp_selftests::exit("sdp_bench", result)
}
