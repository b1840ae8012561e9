// SPDX-License-Identifier: GPL-2.0

//! Does the same on TCP's sockets and on SDP's, and compares what the calls give, byte by byte.
//!
//! A difference fails the run unless it stands in `Documentation/differences.rst`, and so does a
//! line there that nothing differs by.

mod calls;
mod differences;
mod flags;
mod ioctls;
mod names;
mod options;
mod places;
mod raw;
mod record;
mod sequences;
mod sides;
mod threads;

use clap::Parser;
use differences::Differences;
use record::Record;
use sdp_selftests::{
    namespace,
    sock::{
        Sock,
        AF_INET6_SDP,
        AF_INET_SDP, //
    }, //
};
use sides::Sides;
use std::{
    env, fs, io,
    process::{
        Child,
        Command,
        ExitCode,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Compares SDP's sockets with TCP's, and prints KTAP.
#[derive(Parser)]
#[command(name = "sdp_diff")]
struct Options {
    /// Run only the groups whose name contains one of these
    #[arg(long, value_name = "NAME")]
    pick: Vec<String>,
    /// Print all differences, those of the list too, and what each call gave
    #[arg(long)]
    all: bool,
    /// Print what the first picked group gives of this family, and compare nothing
    #[arg(long, hide = true)]
    family: Option<libc::c_int>,
    /// Network namespace of the side that connects
    #[arg(long, value_name = "NAME", default_value = "a")]
    netns_a: String,
    /// Network namespace of the side that listens
    #[arg(long, value_name = "NAME", default_value = "b")]
    netns_b: String,
}

/// A group of probes: a name, what does them, and the families of TCP and of SDP.
type Group = (&'static str, fn(&Sides, &mut Record), [libc::c_int; 2]);

const V4: [libc::c_int; 2] = [libc::AF_INET, AF_INET_SDP];
const V6: [libc::c_int; 2] = [libc::AF_INET6, AF_INET6_SDP];

const GROUPS: &[Group] = &[
    ("options_socket", options::socket, V4),
    ("options_tcp", options::tcp, V4),
    ("options_ip", options::ip, V4),
    ("options_ipv6", options::ipv6, V4),
    ("flags", flags::run, V4),
    ("ioctls", ioctls::run, V4),
    ("calls", calls::run, V4),
    ("places", places::run, V4),
    ("sequences", sequences::run, V4),
    ("threads", threads::run, V4),
    ("unprivileged", options::unprivileged, V4),
    ("v6_options_socket", options::socket, V6),
    ("v6_options_tcp", options::tcp, V6),
    ("v6_options_ip", options::ip, V6),
    ("v6_options_ipv6", options::ipv6, V6),
    ("v6_flags", flags::run, V6),
    ("v6_ioctls", ioctls::run, V6),
    ("v6_calls", calls::run, V6),
    ("v6_places", places::run, V6),
    ("v6_sequences", sequences::run, V6),
    ("v6_threads", threads::run, V6),
    ("v6_unprivileged", options::unprivileged, V6),
];

/// How many differences are printed of a group.
const SHOWN: usize = 60;

/// Has the kernel look for no module by the names that are tried here, which takes long, until
/// dropped.
struct NoModules(Option<String>);

impl NoModules {
    const PATH: &str = "/proc/sys/kernel/modprobe";

    fn new() -> Self {
        let former = fs::read_to_string(Self::PATH).ok();
        Self(former.filter(|_| fs::write(Self::PATH, "\n").is_ok()))
    }
}

impl Drop for NoModules {
    fn drop(&mut self) {
        if let Some(former) = &self.0 {
            let _ = fs::write(Self::PATH, former);
        }
    }
}

/// Sets the options for which the kernel patches its own code, before there is traffic that runs
/// it: emulated processors do not survive that now and then (`Oops: int3`). It stays patched as
/// long as the socket is there.
fn patch_kernel() -> Option<Sock> {
    const TCP_TX_DELAY: i32 = 37;
    let sock = Sock::new(libc::AF_INET, libc::SOCK_STREAM, 0).ok()?;
    let _ = sock.set(libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1);
    let _ = sock.set(libc::SOL_TCP, TCP_TX_DELAY, 1);
    let _ = sock.set(libc::SOL_IP, libc::IP_MINTTL, 1);
    thread::sleep(Duration::from_millis(200));
    Some(sock)
}

/// Does the probes of a group, here.
fn probe(options: &Options, family: libc::c_int) -> ExitCode {
    let picked = |group: &&Group| options.pick.iter().any(|pick| pick == group.0);
    let Some((_, probe, _)) = GROUPS.iter().find(picked) else {
        return ExitCode::FAILURE;
    };
    let netns = [options.netns_a.clone(), options.netns_b.clone()];
    let mut record = Record::default();
    probe(&Sides::new(family, netns), &mut record);
    print!("{}", record.to_text());
    ExitCode::SUCCESS
}

/// Has the kernel choose ports of this range, in both namespaces.
fn set_ports(options: &Options, range: &str) {
    for netns in [&options.netns_a, &options.netns_b] {
        thread::scope(|scope| {
            scope.spawn(|| {
                namespace::enter(netns).expect("the namespace is there");
                fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("a setting");
            });
        });
    }
}

/// Does the same of both families at once, each in a process of its own, since they mostly wait.
/// The ports of siw are those of TCP, where each family has its turn, and ports of its own. `None`
/// where one has failed.
fn probe_both(options: &Options, name: &str, families: [libc::c_int; 2]) -> Option<[Record; 2]> {
    let program = env::current_exe().ok()?;
    let start = |family: libc::c_int| {
        Command::new(&program)
            .args(["--pick", name, "--family", &family.to_string()])
            .args(["--netns-a", &options.netns_a, "--netns-b", &options.netns_b])
            .stdout(Stdio::piped())
            .spawn()
    };
    let end = |child: io::Result<Child>| child.and_then(Child::wait_with_output);
    let outputs = match env::var("RDMA").as_deref() {
        Ok("siw") => {
            let ranges = ["32768 46999", "47000 60999"].into_iter();
            let mut outputs = families.into_iter().zip(ranges).map(|(family, range)| {
                set_ports(options, range);
                end(start(family))
            });
            let outputs = [outputs.next()?, outputs.next()?];
            // As it is at first.
            set_ports(options, "32768 60999");
            outputs
        }
        _ => families.map(start).map(end),
    };
    let [tcp, sdp] = outputs.map(|output| {
        let output = output.ok().filter(|output| output.status.success())?;
        Some(Record::from_text(&String::from_utf8_lossy(&output.stdout)))
    });
    Some([tcp?, sdp?])
}

fn main() -> ExitCode {
    let options = Options::parse();
    raw::ignore_signals();
    if let Some(family) = options.family {
        return probe(&options, family);
    }
    let _modules = NoModules::new();
    let _patched = patch_kernel();
    let differences = Differences::read();
    let picked: Vec<_> = GROUPS
        .iter()
        .filter(|(name, ..)| {
            options.pick.is_empty() || options.pick.iter().any(|pick| name.contains(&**pick))
        })
        .collect();
    // What is not run can use no line.
    let whole = picked.len() == GROUPS.len();
    println!("KTAP version 1");
    println!("1..{}", picked.len() + usize::from(whole));
    let mut failed = false;
    for (number, (name, _, families)) in picked.iter().enumerate() {
        let start = Instant::now();
        let Some([tcp, sdp]) = probe_both(&options, name, *families) else {
            println!("not ok {} {name}", number + 1);
            failed = true;
            continue;
        };
        let (mut unlisted, mut listed) = (0, 0);
        for (what, [of_tcp, of_sdp]) in tcp.compare(&sdp) {
            let is_listed = differences.has(&what);
            *(if is_listed {
                &mut listed
            } else {
                &mut unlisted
            }) += 1;
            if options.all || (!is_listed && unlisted <= SHOWN) {
                let mark = if is_listed { "listed" } else { "differs" };
                println!("# {mark}: {what}: TCP {of_tcp}, SDP {of_sdp}");
            }
        }
        let probes = tcp.len();
        let time = start.elapsed().as_millis();
        println!("# {name}: {probes} probes, {listed} listed differences, {unlisted} others");
        let not = if unlisted > 0 { "not " } else { "" };
        println!("{not}ok {} {name} # time={time}ms", number + 1);
        failed |= unlisted > 0;
    }
    if whole {
        let unused = differences.unused();
        for pattern in &unused {
            println!("# nothing differs by: {pattern}");
        }
        let not = if unused.is_empty() { "" } else { "not " };
        println!("{not}ok {} list_used", picked.len() + 1);
        failed |= !unused.is_empty();
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
