// SPDX-License-Identifier: GPL-2.0

//! The two processes of a measurement: how each is started, and what they say to this one.

use crate::{
    plan::{
        Line,
        Transport, //
    },
    sockets,
    verbs,
    Options, //
};
use clap::{
    Args,
    ValueEnum, //
};
use sdp_selftests::{
    namespace,
    resources::available, //
};
use std::{
    error::Error,
    io::{
        self,
        BufRead,
        BufReader,
        Read,
        Write, //
    },
    net::Ipv4Addr,
    process::{
        Child,
        ChildStdin,
        ChildStdout,
        Command,
        Stdio, //
    },
    thread,
    time::Duration, //
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the listener is.
pub(crate) const LISTENER: Ipv4Addr = Ipv4Addr::new(10, 27, 0, 2);

/// One process of a measurement.
#[derive(Args)]
pub(crate) struct Role {
    #[arg(long, value_enum)]
    side: Side,
    #[arg(long, value_enum)]
    transport: Transport,
    #[arg(long)]
    line: Line,
    #[arg(long)]
    milliseconds: u64,
    #[arg(long)]
    netns: String,
    /// Where the listener listens, for the side that connects.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    Listen,
    Connect,
}

/// Says a word to the process that started this one.
pub(crate) fn tell(word: &str) {
    println!("{word}");
}

/// Tells the port that this process listens on.
pub(crate) fn open_port(port: u16) {
    tell(&port.to_string());
}

/// Waits until the process that started this one says something, or has ended.
pub(crate) fn wait_for_word() {
    io::stdin().read_line(&mut String::new()).ok();
}

impl Role {
    /// Plays it.
    pub(crate) fn play(&self) -> Result<()> {
        let duration = Duration::from_millis(self.milliseconds);
        // Whatever waits for ever ends nevertheless.
        // SAFETY: `alarm()` takes no memory.
        unsafe { libc::alarm(60 + 10 * duration.as_secs() as u32) };
        namespace::enter(&self.netns)?;
        let (transport, line) = (self.transport, self.line);
        match self.side {
            Side::Listen => {
                thread::spawn(|| {
                    io::stdin().read_to_end(&mut Vec::new()).ok();
                    // Nothing is cleaned up but by the kernel: other threads are in the middle of
                    // something.
                    // SAFETY: `_exit()` takes no memory.
                    unsafe { libc::_exit(0) };
                });
                match transport.is_verbs() {
                    true => verbs::serve(line)?,
                    false => sockets::serve(transport, line)?,
                }
                loop {
                    thread::park();
                }
            }
            Side::Connect => {
                let figures = match transport.is_verbs() {
                    true => verbs::work(transport, line, self.port, duration)?,
                    false => sockets::work(transport, line, self.port, duration)?,
                };
                let figures: Vec<_> = figures.iter().map(f64::to_string).collect();
                tell(&figures.join(" "));
                Ok(())
            }
        }
    }
}

/// A process that plays a role.
struct End {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl End {
    fn start(
        options: &Options,
        (side, port): (Side, u16),
        transport: Transport,
        line: Line,
        duration: Duration,
    ) -> Result<Self> {
        let (name, side, netns) = match side {
            Side::Listen => ("listener", "listen", &options.netns_b),
            Side::Connect => ("connecting end", "connect", &options.netns_a),
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["end", "--side", side, "--netns", netns])
            .args(["--transport", &transport.argument()])
            .args(["--line", &line.to_string()])
            .args(["--milliseconds", &duration.as_millis().to_string()])
            .args(["--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if transport == Transport::Rsockets {
            command.env("LD_PRELOAD", sockets::preload()?);
        }
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no output")?;
        Ok(Self {
            name,
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// What it says next. If it ends instead, why.
    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? > 0 {
            return Ok(line.trim().into());
        }
        let status = self.child.wait()?;
        let mut why = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            errors.read_to_string(&mut why)?;
        }
        match why.trim() {
            "" => Err(format!("the {} ended: {status}", self.name).into()),
            why => Err(format!("the {}: {why}", self.name).into()),
        }
    }

    fn say(&mut self) -> Result<()> {
        let input = self.input.as_mut().ok_or("no input")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Lets it end, and waits until it has.
    fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        match self.hear() {
            Ok(word) => Err(format!("the {} said {word}", self.name).into()),
            Err(_) if self.child.wait()?.success() => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Measures `line` over `transport` once.
pub(crate) fn measure(
    options: &Options,
    transport: Transport,
    line: Line,
    duration: Duration,
) -> Result<Vec<f64>> {
    let start = |side| End::start(options, side, transport, line, duration);
    let mut listener = start((Side::Listen, 0))?;
    let port = listener.hear()?.parse()?;
    let mut connector = start((Side::Connect, port))?;
    let memory = match line {
        Line::Memory => {
            connector.hear()?;
            let before = available()?;
            connector.say()?;
            connector.hear()?;
            let taken = before - available()?;
            connector.say()?;
            Some(taken as f64 / (2 * crate::plan::MANY) as f64)
        }
        _ => None,
    };
    let figures = connector.hear().map_err(|e| {
        // The other end may know more.
        match listener.child.try_wait() {
            Ok(Some(_)) => match listener.hear() {
                Err(more) => format!("{e}; {more}").into(),
                Ok(_) => e,
            },
            _ => e,
        }
    })?;
    let figures = figures.split_whitespace().map(str::parse);
    let figures: Vec<f64> = figures.collect::<std::result::Result<_, _>>()?;
    connector.finish()?;
    listener.finish()?;
    Ok(memory.map_or(figures, |kib| vec![kib]))
}
