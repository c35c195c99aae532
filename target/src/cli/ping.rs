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
    let local = ping::own_address(args.from, peer)?;
    let mut screen = Screen::new(args.json, peer, stop);
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
            screen.rounds = Some((options.size, options.connections));
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
        None => ping::own_address(None, ANYWHERE)
            .context("there is no default route; --at names the own address to serve at")?,
    };
    let (nic, cm) = ping::open(at)?;
    let options = ServeOptions::new(SocketAddr::new(at, args.port));
    let screen = Screen::new(false, at, stop);
    screen.line(&format!("answering at {}; Ctrl-C ends it", options.at));
    ping::serve(nic, cm, &options, stop, &mut |event| screen.show(&event))?;
    Ok(())
}

/// What is shown while it happens: lines on stdout, progress on a terminal's
/// stderr.
struct Screen<'a> {
    json: bool,
    peer: IpAddr,
    /// Bytes of a round, and connections; of rounds only, whose lines are progress
    /// enough.
    rounds: Option<(u32, usize)>,
    terminal: bool,
    stop: &'a Stop,
}

impl<'a> Screen<'a> {
    fn new(json: bool, peer: IpAddr, stop: &'a Stop) -> Self {
        Self {
            json,
            peer,
            rounds: None,
            terminal: std::io::stderr().is_terminal() && !json,
            stop,
        }
    }

    fn show(&self, event: &Event<'_>) {
        let (bytes, connections) = self.rounds.unwrap_or_default();
        let on = |line: &usize| match connections {
            0 | 1 => String::new(),
            _ => format!(" connection={}", line + 1),
        };
        let peer = self.peer;
        match event {
            Event::Back { line, round, time } => self.line(&format!(
                "{bytes} bytes from {peer}: seq={round}{} time={:.3} ms",
                on(line),
                time.as_secs_f64() * 1e3
            )),
            Event::Lost { line, round, loss } => {
                self.line(&format!(
                    "from {peer}: seq={round}{} lost: {loss}",
                    on(line)
                ));
            }
            Event::Note(note) => self.line(note),
            Event::Progress(text) if self.rounds.is_none() && self.terminal => {
                eprint!("\r\x1b[K{text}");
            }
            Event::Progress(_) => {}
        }
    }

    /// Where nobody reads any more, nobody wants more.
    fn line(&self, text: &str) {
        if !self.json && writeln!(std::io::stdout(), "{text}").is_err() {
            self.stop.wish();
        }
    }

    fn report<R: Serialize + std::fmt::Display>(&self, report: &R) -> anyhow::Result<()> {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(report)?,
            false => report.to_string(),
        };
        writeln!(std::io::stdout(), "{text}").context("the report could not be printed")
    }
}
