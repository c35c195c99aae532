//! `sidelane selftest`: whether SSDs see data that adapters have placed in
//! memory, and adapters data that SSDs have, at once when its arrival is told.
//!
//! An adapter's completion reaches host memory by another path than its data
//! reaches a third device's memory, and an SSD's completion does not order its
//! data either (PCI Express, "Transaction Ordering": only what takes the same
//! path is ordered). So whether a doorbell or a read can overtake the data is a
//! matter of the machine. Here it is tried, over and over, on the adapters,
//! memory and SSDs that a target with this configuration would use, and with the
//! adapter's own copies in place of a host:
//!
//! - `nic-to-ssd`: into memory that surely holds junk, the adapter copies what a
//!   range of blocks contains, and on its completion the SSD is told to compare
//!   the blocks with the memory; once with the flush between, once without.
//! - `ssd-to-nic`: the SSD reads the blocks into memory that surely holds junk,
//!   and on its completion the adapter copies the memory to where the CPU looks.
//!
//! Nothing is ever written to an SSD: Read and Compare are all that it is told.

mod case;
mod judge;
mod junk;
mod plan;
mod report;
mod rig;
mod rounds;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use sidelane_config::Config;
use sidelane_transport::nic::Nic;

pub use report::{CaseReport, Direction, FirstStale, Outcome, SelftestReport};

use self::plan::Path;
use self::wire::Wire;
use crate::devices::Devices;
use crate::target::adapters::Adapters;
use crate::target::kernel::Kernel;
use crate::target::{close, configured, memory, offer, ssds};

/// Most transfers in flight: what a queue of the target's depth holds.
pub const DEPTH_MAX: u16 = ssds::QUEUE_DEPTH - 1;

/// What a self-test does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelftestOptions {
    /// Rounds of each case; each is as many transfers as are in flight.
    pub rounds: u64,
    /// Transfers in flight, 1 to [`DEPTH_MAX`]; fewer where the memory does not
    /// hold so many.
    pub depth: u16,
    /// Bytes of one transfer, one case each: multiples of 512 up to 1 MiB.
    pub block_bytes: Vec<u64>,
    /// How long a case waits when neither the SSD nor the adapter does anything.
    pub patience: Duration,
}

impl Default for SelftestOptions {
    /// A page and a long transfer, 32 at a time, for a few seconds.
    fn default() -> Self {
        Self {
            rounds: 200,
            depth: 32,
            block_bytes: vec![4 << 10, 128 << 10],
            patience: Duration::from_secs(10),
        }
    }
}

/// Who looks on.
pub struct Observer<'a> {
    /// Says when to end early, between two rounds.
    pub stop: &'a AtomicBool,
    /// Called before the first round of a case and after each: the case, the
    /// transfers that were made, and those to be made, in all.
    pub progress: &'a mut dyn FnMut(&str, u64, u64),
}

impl Observer<'_> {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What stands between the self-test and an adapter: nothing, but in tests.
type Between<'a> = &'a mut dyn FnMut(Box<dyn Nic + Send>) -> Box<dyn Nic + Send>;

/// Tests what a target with this configuration would use, until all is tested or
/// it is told to stop.
///
/// # Errors
/// When the target itself could not start, or an SSD could not be closed. What
/// was found is in the report.
pub fn run<D: Devices>(
    config: &Config,
    devices: &D,
    options: &SelftestOptions,
    observer: &mut Observer<'_>,
) -> anyhow::Result<SelftestReport> {
    run_behind(config, devices, options, observer, &mut |nic| nic)
}

fn run_behind<D: Devices>(
    config: &Config,
    devices: &D,
    options: &SelftestOptions,
    observer: &mut Observer<'_>,
    between: Between<'_>,
) -> anyhow::Result<SelftestReport> {
    let started = Instant::now();
    // All memory for one reactor: the paths are the same for each.
    let mut config = config.clone();
    config.target.cores.truncate(1);
    let foreseen = memory::foresee(&config, devices, memory::Foresight::BeforeOpening);
    if let Some(refusal) = foreseen.into_iter().next() {
        return Err(refusal);
    }
    let alone = "the self-test takes what a target takes, for itself alone (a running target must \
                 be stopped first)";
    let mut adapters = Adapters::open(&config, 1).context(alone)?;
    let kernel = Kernel::open(&config).context(alone)?;
    let ssds = ssds::open(&config, devices).context(alone)?;
    for (subsystem, namespace) in configured(&config) {
        offer::shape(&namespace.backend, &ssds, &kernel)
            .with_context(|| format!("{} nsid {}", subsystem.nqn, namespace.nsid))?;
    }
    let space = devices.space();
    let memory = memory::plan(&config, devices, &ssds, &kernel, &space, &mut adapters)?;
    let (paths, mut notes) = plan::paths(&config, &adapters, &memory)?;
    let mut wires: Vec<Wire> = adapters
        .next_parts()
        .into_iter()
        .map(|part| Wire::new(between(part.nic)))
        .collect();

    let each = options.block_bytes.len() as u64 * options.rounds * u64::from(options.depth);
    let mut tally = case::Tally::new(paths.iter().map(Path::variants).sum::<u64>() * each);
    let mut cases = Vec::new();
    for path in &paths {
        let Some(wire) = wires.get_mut(path.adapter) else {
            continue;
        };
        let ssd = ssds.get(&path.ssd).context("the SSD is not open")?;
        for &block_bytes in &options.block_bytes {
            if observer.stops() {
                break;
            }
            let bench = case::Bench {
                path,
                ssd,
                space: &*space,
                rounds: options.rounds,
                depth: options.depth.clamp(1, DEPTH_MAX),
                block_bytes,
                patience: options.patience,
            };
            cases.extend(bench.run(wire, observer, &mut tally));
        }
    }
    let interrupted = observer.stops();
    // Nothing is in flight; memory goes before the devices do.
    drop((wires, paths, memory, adapters));
    close(ssds)?;
    if cases.is_empty() && !interrupted {
        notes.push("no namespace is on an SSD, so there is nothing to test".to_owned());
    }
    Ok(SelftestReport::new(
        options,
        config.target.flush,
        cases,
        notes,
        interrupted,
        started.elapsed().as_secs_f64(),
    ))
}
