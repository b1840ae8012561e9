// SPDX-License-Identifier: GPL-2.0

//! Lists the SDP sockets of a network namespace, or ends some of them.

use clap::Parser;
use sdp_selftests::{
    diag::{
        state,
        Diag,
        Filter,
        Socket,
        INFO,
        MEMINFO, //
    },
    errno::{
        Errno,
        Result, //
    },
    sock::AF_INET_SDP,
};
use std::{
    io::{
        self,
        Write, //
    },
    process::ExitCode, //
};

/// Lists the SDP sockets of this network namespace
#[derive(Parser)]
#[command(name = "sdp_ss")]
struct Options {
    /// Listeners too
    #[arg(short, long)]
    all: bool,
    /// Listeners only
    #[arg(short, long, conflicts_with = "all")]
    listening: bool,
    /// Sockets that are bound and no more
    #[arg(short, long, conflicts_with_all = ["all", "listening"])]
    bound: bool,
    /// Those at this port
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Those whose peer is at this port
    #[arg(short = 'P', long, default_value_t = 0, hide_default_value = true)]
    peer_port: u16,
    /// Their memory, in bytes
    #[arg(short, long)]
    memory: bool,
    /// What TCP_INFO tells of them
    #[arg(short, long)]
    info: bool,
    /// Their cookies
    #[arg(short, long)]
    cookies: bool,
    /// End them: programs get ECONNABORTED (needs CAP_NET_ADMIN)
    #[arg(short = 'K', long)]
    kill: bool,
    /// List those of TCP
    #[arg(long)]
    tcp: bool,
}

fn main() -> ExitCode {
    sdp_selftests::exit("sdp_ss", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let family = if options.tcp {
        libc::AF_INET
    } else {
        AF_INET_SDP
    };
    let listen = state::bit(state::LISTEN);
    let states = match options {
        Options { bound: true, .. } => state::bit(state::BOUND_INACTIVE),
        Options { all: true, .. } => state::ALL,
        Options {
            listening: true, ..
        } => listen,
        _ => state::ALL & !listen,
    };
    let asked = [(options.memory, MEMINFO), (options.info, INFO)];
    let attributes: Vec<_> = asked
        .into_iter()
        .filter_map(|(asked, kind)| asked.then_some(kind))
        .collect();
    let filter = Filter {
        states,
        local_port: options.port,
        peer_port: options.peer_port,
        attributes: &attributes,
    };
    let diag = Diag::new()?;
    let mut sockets = match diag.dump(family, &filter) {
        // Nobody made one yet.
        Err(Errno::ENOENT) => Vec::new(),
        sockets => sockets?,
    };
    sockets.sort_by_key(|socket| (socket.state != state::LISTEN, socket.id.local));
    if options.kill {
        for socket in &sockets {
            match diag.destroy(family, &socket.id) {
                // It has ended meanwhile.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
    print(options, &sockets).map_err(Errno::from)
}

/// The numbers of a `struct tcp_info` that are not 0.
fn told(info: &[u8]) -> String {
    const NUMBERS: [(&str, usize, usize); 9] = [
        ("mss", 16, 4),
        ("rcvmss", 20, 4),
        ("cwnd", 80, 4),
        ("bytes_sent", 200, 8),
        ("bytes_acked", 120, 8),
        ("bytes_received", 128, 8),
        ("notsent", 144, 4),
        ("snd_wnd", 228, 4),
        ("max_pacing_rate", 112, 8),
    ];
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(info.get(at..at + len)?);
        Some(u64::from_ne_bytes(bytes)).filter(|number| !matches!(*number, 0 | u64::MAX))
    };
    let told = NUMBERS
        .iter()
        .filter_map(|(name, at, len)| Some(format!("{name}:{}", number(*at, *len)?)));
    told.collect::<Vec<_>>().join(" ")
}

/// Prints a table, each column as wide as it has to be.
fn print(options: &Options, sockets: &[Socket]) -> io::Result<()> {
    let mut rows = vec![
        vec!["State", "Recv-Q", "Send-Q", "Local", "Peer", "UID", "Inode"]
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>(),
    ];
    if options.memory {
        rows[0].push("Memory".into());
    }
    if options.cookies {
        rows[0].push("Cookie".into());
    }
    for socket in sockets {
        let mut row = vec![
            socket.state_name().to_string(),
            socket.recv_queue.to_string(),
            socket.send_queue.to_string(),
            socket.id.local.to_string(),
            socket.id.peer.to_string(),
            socket.uid.to_string(),
            socket.inode.to_string(),
        ];
        if options.memory {
            row.push(socket.words(MEMINFO).iter().sum::<u32>().to_string());
        }
        if options.cookies {
            row.push(format!("{:x}", socket.id.cookie));
        }
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
    let widths: Vec<_> = (0..rows[0].len()).filter_map(width).collect();
    let mut out = io::stdout().lock();
    for (at, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| {
                // Names to the left, numbers to the right.
                match at {
                    0 | 3 | 4 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                }
            });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        let socket = at.checked_sub(1).and_then(|at| sockets.get(at));
        let info = socket.and_then(|socket| socket.attribute(INFO)).map(told);
        if let Some(info) = info.filter(|info| !info.is_empty()) {
            writeln!(out, "    {info}")?;
        }
    }
    Ok(())
}
