// SPDX-License-Identifier: GPL-2.0

//! Sends a file over a stream socket, or receives one, and says how fast and with which SHA-256.

use clap::{
    Parser,
    Subcommand,
    ValueEnum, //
};
use sdp_selftests::{
    errno::{
        Errno,
        Result, //
    },
    sock::{
        Addr,
        Sock,
        AF_INET_SDP, //
    },
};
use sha2::{
    Digest,
    Sha256, //
};
use std::{
    fs::File,
    io::{
        Read,
        Write, //
    },
    net::SocketAddrV4,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Sends a file over a stream socket, or receives one.
#[derive(Parser)]
#[command(name = "sdp_cat")]
struct Options {
    /// The sockets
    #[arg(long, value_enum, default_value_t = Family::Sdp)]
    family: Family,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    /// AF_INET_SDP
    Sdp,
    /// AF_INET
    Tcp,
}

#[derive(Subcommand)]
enum Command {
    /// Accept one connection and receive until its end
    Receive {
        /// Where to listen, such as 10.27.0.2:7
        at: SocketAddrV4,
        /// Where to put what comes [default: nowhere]
        file: Option<PathBuf>,
    },
    /// Connect and send a file
    Send {
        /// Whom to connect to
        to: SocketAddrV4,
        /// What to send
        file: PathBuf,
        /// How long to wait for the listener, in seconds
        #[arg(long, default_value_t = 10)]
        wait: u64,
    },
}

type Failure = Box<dyn std::error::Error>;

/// A transfer under way: counts, hashes and tells.
struct Transfer {
    what: &'static str,
    total: Option<u64>,
    bytes: u64,
    hash: Sha256,
    start: Instant,
    told: Instant,
}

impl Transfer {
    fn new(what: &'static str, total: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            what,
            total,
            bytes: 0,
            hash: Sha256::new(),
            start: now,
            told: now,
        }
    }

    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.start.elapsed().as_secs_f64().max(1e-6)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.told.elapsed() >= Duration::from_secs(2) {
            self.told = Instant::now();
            let percent = match self.total {
                Some(total) if total > 0 => format!("{:3} % ", self.bytes * 100 / total),
                _ => String::new(),
            };
            eprintln!(
                "{:8} {:6.1} MB  {percent}{:6.1} MB/s",
                self.what,
                self.bytes as f64 / 1e6,
                self.rate()
            );
        }
    }

    /// One line for people and scripts: bytes, seconds, rate, hash.
    fn end(self) {
        let (seconds, rate) = (self.start.elapsed().as_secs_f64(), self.rate());
        println!(
            "{} {} bytes in {seconds:.1} s, {rate:.1} MB/s, SHA-256 {:x}",
            self.what,
            self.bytes,
            self.hash.finalize()
        );
    }
}

fn receive(family: i32, at: SocketAddrV4, file: Option<&Path>) -> std::result::Result<(), Failure> {
    let mut file = file.map(File::create).transpose()?;
    let listener = Sock::new(family, libc::SOCK_STREAM, 0)?;
    listener.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    listener.bind(&Addr::v4(libc::AF_INET, at))?;
    listener.listen(1)?;
    let sock = listener.accept()?;
    let mut transfer = Transfer::new("received", None);
    let mut room = vec![0; 256 << 10];
    loop {
        let len = sock.recv(&mut room, 0)?;
        if len == 0 {
            break;
        }
        transfer.add(&room[..len]);
        if let Some(file) = &mut file {
            file.write_all(&room[..len])?;
        }
    }
    transfer.end();
    Ok(())
}

/// Connects as soon as somebody listens.
fn connect(family: i32, to: SocketAddrV4, wait: Duration) -> Result<Sock> {
    let end = Instant::now() + wait;
    loop {
        let sock = Sock::new(family, libc::SOCK_STREAM, 0)?;
        match sock.connect(&Addr::v4(libc::AF_INET, to)) {
            Ok(()) => return Ok(sock),
            Err(Errno::ECONNREFUSED) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50))
            }
            Err(error) => return Err(error),
        }
    }
}

fn send(family: i32, to: SocketAddrV4, file: &Path, wait: u64) -> std::result::Result<(), Failure> {
    let mut file = File::open(file)?;
    let total = file.metadata()?.len();
    let sock = connect(family, to, Duration::from_secs(wait))?;
    let mut transfer = Transfer::new("sent", Some(total));
    let mut room = vec![0; 256 << 10];
    loop {
        let len = file.read(&mut room)?;
        if len == 0 {
            break;
        }
        sock.send_all(&room[..len])?;
        transfer.add(&room[..len]);
    }
    // Until the peer has all: the time counts, and an error is ours to tell.
    sock.shutdown(sdp_selftests::sock::Shut::Write)?;
    if sock.recv(&mut room, 0)? != 0 {
        return Err("the peer sent something back".into());
    }
    transfer.end();
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let family = match options.family {
        Family::Sdp => AF_INET_SDP,
        Family::Tcp => libc::AF_INET,
    };
    let result = match &options.command {
        Command::Receive { at, file } => receive(family, *at, file.as_deref())
            .map_err(|error| format!("receive at {at}: {error}")),
        Command::Send { to, file, wait } => send(family, *to, file, *wait)
            .map_err(|error| format!("send {} to {to}: {error}", file.display())),
    };
    sdp_selftests::exit("sdp_cat", result)
}
