//! The demo from beginning to end.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sidelane_nvme::spec::{HostId, SubsystemType};
use uuid::Uuid;

use super::pattern::Pattern;
use super::progress::Progress;
use super::proof::{Proof, commands_per_record};
use super::report::{DirectionOutcome, Mismatch};
use super::stage::{Scene, Stage};
use super::workload::{Observer, Plan};
use super::{DemoError, DemoOptions, DemoReport, NamespaceOutcome};
use crate::initiator::{Host, HostOptions, NamespaceInfo};
use crate::stats::StatsReport;

/// The subsystem and the host of the embedded configuration.
const SUBSYSTEM: &str = "nqn.2026-11.io.sidelane:demo";
const HOST: &str = "nqn.2026-11.io.sidelane:demo-host";

/// How long the target's counters may lag behind the answers it has sent.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs a demo, until its end or until `stop` is set. Progress goes to stderr,
/// unless the options ask for JSON; the report is for the caller to print.
///
/// # Errors
/// When it could not be brought to its end. That data was wrong or went the
/// wrong way is in the report.
pub fn run(options: &DemoOptions, stop: &AtomicBool) -> Result<DemoReport, DemoError> {
    options.check()?;
    let started = Instant::now();
    let mut progress = Progress::new(options.json);
    let mut stage = Stage::open(options)?;
    progress.say(&format!(
        "A target with two modelled SSDs listens on {}, a host connects over RoCEv2.",
        stage.remote
    ));
    let outcome = play(&mut stage, options, &mut progress, stop);
    let closed = stage.close();
    let namespaces = outcome?;
    closed?;
    let (block, depth) = (options.block_bytes, u64::from(options.depth));
    Ok(DemoReport::new(
        namespaces,
        block,
        depth,
        started.elapsed().as_secs_f64(),
    ))
}

fn play(
    stage: &mut Stage,
    options: &DemoOptions,
    progress: &mut Progress,
    stop: &AtomicBool,
) -> Result<Vec<NamespaceOutcome>, DemoError> {
    let stats = stage.stats();
    let host_options = find(stage, options)?;
    let mut host = Host::connect(&mut stage.endpoint, host_options)?;
    let mut outcomes = Vec::new();
    for (at, scene) in stage.scenes.iter().enumerate() {
        let info = host
            .namespaces()
            .iter()
            .find(|info| info.nsid == scene.nsid)
            .cloned();
        let info = info.ok_or_else(|| {
            DemoError::Internal(format!(
                "the target does not offer namespace {}",
                scene.nsid
            ))
        })?;
        let spoil = options.spoil && at == 0;
        let plan = plan(&info, options)?;
        outcomes.push(scene.play(&mut host, &plan, &stats, spoil, progress, stop)?);
    }
    host.disconnect()?;
    let stats = settled(stage, &outcomes);
    for outcome in &mut outcomes {
        take_stats(outcome, &stats)?;
    }
    Ok(outcomes)
}

/// Asks the discovery controller for the subsystem, as a host would.
pub(super) fn find(stage: &mut Stage, options: &DemoOptions) -> Result<HostOptions, DemoError> {
    let name = |text: &str| {
        text.parse()
            .map_err(|error| DemoError::Internal(format!("{error}")))
    };
    let (subnqn, hostnqn) = (name(SUBSYSTEM)?, name(HOST)?);
    let hostid = HostId(*Uuid::new_v4().as_bytes());
    let entries = stage.endpoint.discover(stage.remote, &hostnqn, hostid)?;
    let entry = entries.iter().find(|entry| {
        entry.subtype == SubsystemType::Nvm && entry.subnqn.to_str() == Ok(SUBSYSTEM)
    });
    let remote = entry.and_then(|entry| {
        let address = entry.traddr.to_string().parse().ok()?;
        let port = entry.trsvcid.to_string().parse().ok()?;
        Some(std::net::SocketAddr::new(address, port))
    });
    let remote = remote.ok_or_else(|| {
        DemoError::Internal(format!(
            "discovery does not lead to {SUBSYSTEM}: {entries:?}"
        ))
    })?;
    let depth = options.depth + 1;
    Ok(HostOptions {
        depth,
        ..HostOptions::new(remote, subnqn, hostnqn, hostid)
    })
}

fn plan(info: &NamespaceInfo, options: &DemoOptions) -> Result<Plan, DemoError> {
    let most = u64::from(info.max_blocks) * u64::from(info.block_bytes);
    if options.block_bytes > most {
        let bytes = options.block_bytes;
        let what = format!("commands of {bytes} bytes; the target takes at most {most}");
        return Err(DemoError::Options(what));
    }
    let (seed, _) = Uuid::new_v4().as_u64_pair();
    let block_bytes = info.block_bytes as usize;
    Ok(Plan {
        nsid: info.nsid,
        pattern: Pattern {
            seed: seed ^ u64::from(info.nsid),
            pass: 0,
            block_bytes,
        },
        bytes: options.bytes,
        command_bytes: options.block_bytes as usize,
        depth: options.depth.into(),
        lap: commands_per_record(options.block_bytes),
    })
}

impl Scene {
    /// Writes and reads one namespace, and asks the SSD what it touched.
    fn play(
        &self,
        host: &mut Host<'_>,
        plan: &Plan,
        stats: &StatsReport,
        spoil: bool,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<NamespaceOutcome, DemoError> {
        let expected = self.expected(stats);
        let mut proof = Proof::default();
        // Nothing is on its way when a record is taken, so none is lost.
        let mut at_rest = || {
            proof.add(&self.ssd.touched(), &expected);
            self.ssd.restart_record(true);
        };
        let at_rest = &mut at_rest;
        progress.begin(&format!("p2p = \"{}\": writing", self.p2p), plan.bytes);
        let written = plan.write(
            host,
            &mut Observer {
                progress,
                stop,
                at_rest,
            },
        )?;
        progress.end();
        let spoilt = if spoil { plan.spoil(host)? } else { 0 };
        progress.begin(&format!("p2p = \"{}\": reading", self.p2p), plan.bytes);
        let observer = &mut Observer {
            progress,
            stop,
            at_rest,
        };
        let (read, difference) = plan.read(host, observer)?;
        progress.end();
        Ok(NamespaceOutcome {
            nqn: SUBSYSTEM.to_owned(),
            nsid: self.nsid,
            p2p: self.p2p.to_owned(),
            memory: expected.name,
            verified: difference.bytes == 0 && read.bytes == plan.bytes,
            mismatched_bytes: difference.bytes,
            first_mismatch: difference.first.map(|(lba, byte)| Mismatch { lba, byte }),
            bytes_written: written.bytes + spoilt,
            bytes_read: read.bytes,
            ssd_addresses_checked: proof.checked,
            ssd_addresses_outside: proof.outside,
            ssd_payload_bytes_inside: proof.bytes_inside,
            ssd_payload_bytes_elsewhere: proof.bytes_elsewhere,
            writes: DirectionOutcome::from(&written),
            reads: DirectionOutcome::from(&read),
            ..NamespaceOutcome::default()
        })
    }
}

/// The target's counts, once they have caught up with what was moved; or as they
/// are when they do not.
fn settled(stage: &Stage, outcomes: &[NamespaceOutcome]) -> StatsReport {
    let moved: u64 = outcomes
        .iter()
        .map(|one| one.bytes_written + one.bytes_read)
        .sum();
    let deadline = Instant::now() + SETTLE;
    loop {
        let stats = stage.stats();
        let namespaces = stats.namespaces.iter();
        let counted: u64 = namespaces
            .map(|one| one.payload_bytes_peer + one.payload_bytes_host)
            .sum();
        if counted >= moved || Instant::now() >= deadline {
            return stats;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn take_stats(outcome: &mut NamespaceOutcome, stats: &StatsReport) -> Result<(), DemoError> {
    let of_it = stats
        .namespaces
        .iter()
        .find(|one| one.nqn == outcome.nqn && one.nsid == outcome.nsid);
    let counted = of_it.ok_or_else(|| {
        DemoError::Internal(format!(
            "the target has no statistics of namespace {}",
            outcome.nsid
        ))
    })?;
    outcome.backend.clone_from(&counted.backend);
    outcome.payload_bytes_peer = counted.payload_bytes_peer;
    outcome.payload_bytes_host = counted.payload_bytes_host;
    outcome.commands = counted.reads.commands + counted.writes.commands;
    if counted.p2p != outcome.p2p {
        let (nsid, p2p, wanted) = (outcome.nsid, &counted.p2p, &outcome.p2p);
        return Err(DemoError::Internal(format!(
            "namespace {nsid} has p2p {p2p}, not {wanted}"
        )));
    }
    Ok(())
}
