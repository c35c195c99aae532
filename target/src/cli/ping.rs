//! `sidelane ping`.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::args::PingArgs;
use crate::ping::{self, Event, ServeOptions, Stop};

/// What a shell reports of a process that SIGINT ended.
const STATUS_INTERRUPTED: i32 = 128 + 2;

/// An address that only documents name: a route to it is a default route.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(super) fn run(args: PingArgs) -> anyhow::Result<()> {
    with_signals(move |stop| match args.address {
        Some(peer) => ask(&args, peer, stop),
        None => answer(&args, stop),
    })
}

/// Runs beside a wait for Ctrl-C or SIGTERM: the first one asks for an orderly end,
/// the second one is heeded at once.
fn with_signals(
    work: impl FnOnce(&Stop) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stop = Stop::new()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let seen = stop.clone();
        let mut work = tokio::task::spawn_blocking(move || work(&seen));
        loop {
            tokio::select! {
                outcome = &mut work => return outcome.context("the ping had panicked")?,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.wish() {
                std::process::exit(STATUS_INTERRUPTED);
            }
        }
    })
}

fn ask(args: &PingArgs, peer: IpAddr, stop: &Stop) -> anyhow::Result<()> {
    let local = match args.from {
        Some(from) if from.is_ipv4() != peer.is_ipv4() => {
            let (local, remote) = (from, peer);
            return Err(ping::PingError::Family { local, remote }.into());
        }
        Some(from) => from,
        None => ping::own_address(peer)?,
    };
    let mut screen = Screen::new(args.json, peer);
    let (good, failure) = match args.bandwidth {
        Some(seconds) => {
            let options = args.bandwidth_options(peer, seconds)?;
            let (nic, cm) = ping::open(local)?;
            let tell = &mut |event: Event<'_>| screen.show(&event);
            let report = ping::bandwidth(nic, cm, &options, stop, tell)?;
            screen.report(&report)?;
            let failure = report.last_loss.clone();
            (report.is_good(), failure)
        }
        None => {
            let options = args.ping_options(peer)?;
            let (nic, cm) = ping::open(local)?;
            screen.size = options.size;
            screen.connections = options.connections;
            let tell = &mut |event: Event<'_>| screen.show(&event);
            let report = ping::ping(nic, cm, &options, stop, tell)?;
            screen.report(&report)?;
            (report.is_good(), report.last_loss.clone())
        }
    };
    match (good, failure) {
        (true, _) => Ok(()),
        (false, Some(why)) => bail!("not every round came back; lastly: {why}"),
        (false, None) => bail!("nothing was found out: it ended before a round came back"),
    }
}

fn answer(args: &PingArgs, stop: &Stop) -> anyhow::Result<()> {
    let at = match args.at {
        Some(at) => at,
        None => ping::own_address(ANYWHERE)
            .context("there is no default route; --at names the own address to serve at")?,
    };
    let (nic, cm) = ping::open(at)?;
    let options = ServeOptions::new(SocketAddr::new(at, args.port));
    let mut screen = Screen::new(false, at);
    screen.line(&format!("answering at {}; Ctrl-C ends it", options.at));
    ping::serve(nic, cm, &options, stop, &mut |event| screen.show(&event))?;
    Ok(())
}

/// What is shown while it happens: lines on stdout, progress on a terminal's
/// stderr.
struct Screen {
    json: bool,
    peer: IpAddr,
    size: u32,
    connections: usize,
    terminal: bool,
}

impl Screen {
    fn new(json: bool, peer: IpAddr) -> Self {
        Self {
            json,
            peer,
            size: 0,
            connections: 1,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, event: &Event<'_>) {
        let on = |line: &usize| match self.connections {
            1 => String::new(),
            _ => format!(" connection={}", line + 1),
        };
        match event {
            Event::Back { line, round, time } => self.line(&format!(
                "{} bytes from {}: seq={round}{} time={:.3} ms",
                self.size,
                self.peer,
                on(line),
                time.as_secs_f64() * 1e3
            )),
            Event::Lost { line, round, loss } => {
                self.line(&format!(
                    "from {}: seq={round}{} lost: {loss}",
                    self.peer,
                    on(line)
                ));
            }
            Event::Note(note) => self.line(note),
            // Of rounds, the lines themselves are the progress.
            Event::Progress(text) if self.size == 0 && self.terminal && !self.json => {
                eprint!("\r\x1b[K{text}");
            }
            Event::Progress(_) => {}
        }
    }

    /// Where nobody reads any more, there is nobody to tell.
    fn line(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    fn report<R: Serialize + std::fmt::Display>(&self, report: &R) -> anyhow::Result<()> {
        if self.terminal && !self.json {
            eprint!("\r\x1b[K");
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(report)?,
            false => report.to_string(),
        };
        writeln!(std::io::stdout(), "{text}").context("the report could not be printed")
    }
}
