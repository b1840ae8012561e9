// SPDX-License-Identifier: GPL-2.0

//! Tests of stream sockets over RDMA: both peers in one program, each in its own network namespace.

mod bpf;
mod bsdh;
mod cases;
mod config;
mod faults;
mod harness;
mod hole;
mod leftovers;
mod memory;
mod peers;
mod raw_peer;
mod signals;
mod zcopy;

use clap::Parser;
use config::{
    Config,
    Family, //
};
use std::{
    path::Path,
    process::ExitCode,
    time::{
        SystemTime,
        UNIX_EPOCH, //
    }, //
};

/// Tests of stream sockets over RDMA, printed as KTAP.
#[derive(Parser)]
#[command(name = "sdp_test")]
struct Options {
    /// List the cases and what each shows
    #[arg(long)]
    list: bool,
    /// Run only the cases whose name contains one of these
    #[arg(long, value_name = "NAME")]
    pick: Vec<String>,
    /// Leave out the cases whose name contains one of these
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// The sockets: the family under test, or its reference
    #[arg(long, value_enum, default_value_t = Family::Sdp)]
    family: Family,
    /// Network namespace of one side, with 10.27.0.1 and fd00:27::1 on interface v0
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace of the other side, with 10.27.0.2 and fd00:27::2 on interface v1
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
    /// Volume of the bulk cases, in percent [default: 100, or 4 on a debug kernel]
    #[arg(long, value_name = "PERCENT")]
    scale: Option<u32>,
    /// Set net.sdp.zcopy_threshold in both namespaces before each case: bytes, or off
    #[arg(long, value_name = "BYTES", value_parser = threshold)]
    threshold: Option<u32>,
    /// Seed of the random data [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// How long each case of the strict peer goes on
    #[arg(long)]
    seconds: Option<u64>,
}

fn threshold(text: &str) -> Result<u32, String> {
    match text {
        "off" => Ok(0),
        bytes => bytes
            .parse()
            .map_err(|_| "a number of bytes, or off".to_string()),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A kernel with kmemleak is one of many checks, and twenty times slower.
    let debug_kernel = Path::new("/sys/kernel/debug/kmemleak").exists();
    config::set(Config {
        family: options.family,
        netns: [options.netns_a, options.netns_b],
        scale: options.scale.unwrap_or(if debug_kernel { 4 } else { 100 }),
        patience: if debug_kernel { 5 } else { 1 },
        threshold: options.threshold,
        seconds: options.seconds,
        seed: options.seed.unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_micros() as u64)
        }),
    });

    let picked = |name: &str| {
        (options.pick.is_empty() || options.pick.iter().any(|pick| name.contains(pick)))
            && !options.skip.iter().any(|skip| name.contains(skip))
    };
    let cases: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| picked(case.name))
        .collect();
    if options.list {
        for case in cases {
            println!("{:32} {}", case.name, case.shows);
        }
        return ExitCode::SUCCESS;
    }
    if cases.is_empty() {
        eprintln!("sdp_test: no case has such a name; `sdp_test --list` shows them all");
        return ExitCode::FAILURE;
    }
    harness::run(&cases)
}
