//! The whole path, from a host's command to its answer.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidelane::initiator::Host;
use sidelane::stats::StatsReport;

use super::counting;
use super::figures::Figures;
use super::load::Load;
use super::stage::{HOST, NULL, PEER, SSD_BYTES, Stage};
use super::threads;

/// Commands from which figures per command are made.
const COMMANDS: u64 = 10_000;

/// How long it is looked on while nothing is done.
const IDLE: Duration = Duration::from_secs(3);

/// Pairs of measurements of the two ways; each pair in the order of the last one
/// turned round.
const PAIRS: usize = 6;

/// A measurement of one way, in commands of this size.
const WAY: Load = Load {
    nsid: PEER,
    writes: true,
    bytes: 128 << 10,
    depth: 8,
    commands: 600,
    span: SSD_BYTES,
};

/// Everything that needs a running target.
pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let stage = Stage::open()?;
    let mut endpoint = stage.endpoint()?;
    let mut host = Host::connect(&mut endpoint, stage.host_options()?)?;
    allocations(figures, &stage, &mut host)?;
    depths(figures, &stage, &mut host)?;
    ways(figures, &stage, &mut host)?;
    idle(figures, &mut host)?;
    host.disconnect()?;
    drop(endpoint);
    stage.close()
}

fn small(nsid: u32, depth: usize, commands: u64) -> Load {
    Load {
        nsid,
        writes: true,
        bytes: 4096,
        depth,
        commands,
        span: SSD_BYTES / 4,
    }
}

/// In steady state, with SSDs that do their own work.
fn allocations(figures: &mut Figures, stage: &Stage, host: &mut Host<'_>) -> anyhow::Result<()> {
    let names = [
        (NULL, "null backend"),
        (PEER, "SSD, peer memory"),
        (HOST, "SSD, host memory"),
    ];
    // The model allocates: where it works on the reactor's thread, that is seen.
    let (seen, outcome) = counting::of_reactors(|| small(PEER, 1, 100).run(host));
    outcome?;
    ensure!(seen > 0, "allocations of reactors are not counted");
    let ssds = stage.ssds_by_themselves()?;
    for (nsid, name) in names {
        small(nsid, 32, COMMANDS / 4).run(host)?;
        let (allocations, outcome) = counting::of_reactors(|| small(nsid, 32, COMMANDS).run(host));
        outcome?;
        let value = allocations as f64 / COMMANDS as f64;
        let what = format!("reactor: allocations per command ({name})");
        figures.add_with_goal(what, value, "", 0.0);
    }
    drop(ssds);
    Ok(())
}

/// What is shared by the commands of a batch, at several depths.
fn depths(figures: &mut Figures, stage: &Stage, host: &mut Host<'_>) -> anyhow::Result<()> {
    for depth in [1, 8, 32] {
        let doorbells = || {
            let bells = &stage.doorbells;
            let count = |bell: &std::sync::atomic::AtomicU64| bell.load(Ordering::Relaxed);
            (count(&bells.submission), count(&bells.completion))
        };
        let (bells, stats) = (doorbells(), stage.stats());
        let took = small(PEER, depth, COMMANDS).run(host)?;
        let per_command = |n: u64| n as f64 / COMMANDS as f64;
        let after = doorbells();
        let of = |name: &str| format!("{name} per command, depth {depth}");
        figures.add(
            of("SSD: submission doorbells"),
            per_command(after.0 - bells.0),
            "",
        );
        figures.add(
            of("SSD: completion doorbells"),
            per_command(after.1 - bells.1),
            "",
        );
        let (before, after) = (reactor(&stats)?, reactor(&stage.stats())?);
        figures.add(of("reactor: rounds"), per_command(after.0 - before.0), "");
        figures.add(of("reactor: sleeps"), per_command(after.1 - before.1), "");
        let rate = COMMANDS as f64 / took.as_secs_f64();
        figures.add(format!("4 KiB commands, depth {depth}"), rate, "/s");
    }
    let why = "the target does not show its socket's counters; a round is at least one";
    figures.missing("reactor: system calls per command", why);
    Ok(())
}

/// Rounds and sleeps.
fn reactor(stats: &StatsReport) -> anyhow::Result<(u64, u64)> {
    let reactor = stats.reactors.first().context("no reactor")?;
    Ok((reactor.rounds, reactor.sleeps))
}

/// Peer memory beside host memory.
fn ways(figures: &mut Figures, stage: &Stage, host: &mut Host<'_>) -> anyhow::Result<()> {
    let ways = [(PEER, "p2p require"), (HOST, "p2p off")];
    let mut took = [Vec::new(), Vec::new()];
    for (nsid, _) in ways {
        Load { nsid, ..WAY }.run(host)?;
    }
    let before = stage.stats();
    for pair in 0..PAIRS {
        for at in [pair % 2, 1 - pair % 2] {
            let load = Load {
                nsid: ways[at].0,
                ..WAY
            };
            took[at].push(load.run(host)?);
        }
    }
    let after = stage.stats();
    let rate = took.map(|mut times| {
        times.sort();
        let median = (times[PAIRS / 2 - 1] + times[PAIRS / 2]) / 2;
        (WAY.commands * WAY.bytes as u64) as f64 / median.as_secs_f64() / 1e6
    });
    for ((nsid, name), rate) in ways.into_iter().zip(rate) {
        let bytes = |stats: &StatsReport| -> anyhow::Result<(u64, u64)> {
            let found = stats.namespaces.iter().find(|ns| ns.nsid == nsid);
            let ns = found.context("no such namespace")?;
            Ok((ns.payload_bytes_peer, ns.payload_bytes_host))
        };
        let (before, after) = (bytes(&before)?, bytes(&after)?);
        let mib = |n: u64| n as f64 / f64::from(1 << 20);
        figures.add(
            format!("{name}: payload by peer memory"),
            mib(after.0 - before.0),
            "MiB",
        );
        figures.add(
            format!("{name}: payload by host memory"),
            mib(after.1 - before.1),
            "MiB",
        );
        figures.add(
            format!("{name}: 128 KiB, depth 8, median of {PAIRS}"),
            rate,
            "MB/s",
        );
    }
    let what = "require / off, ratio of the medians";
    figures.add_with_floor(what, rate[0] / rate[1], "", 0.98);
    Ok(())
}

/// A connected host that sends nothing but its keep-alive.
fn idle(figures: &mut Figures, host: &mut Host<'_>) -> anyhow::Result<()> {
    let of_target = || threads::run_time(|name| name == "control" || name.starts_with("reactor-"));
    let (start, before) = (Instant::now(), of_target()?);
    while start.elapsed() < IDLE {
        host.poll(|_| ())?;
        host.wait(IDLE.saturating_sub(start.elapsed()))?;
    }
    let ran = of_target()? - before;
    let share = ran.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    let what = "target with an idle host: processor time, % of a core";
    figures.add_with_goal(what, share, "%", 1.0);
    Ok(())
}
