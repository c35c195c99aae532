//! The cases of one path and one block size: both directions, with and without
//! the flush.

use std::time::Duration;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::Controller;
use sidelane_p2p::DmaSpace;

use super::Observer;
use super::plan::Path;
use super::report::{CaseReport, Direction, Outcome};
use super::rig::Rig;
use super::rounds::Count;
use super::wire::{Trouble, Wire};

/// How far the whole self-test is.
pub(super) struct Tally {
    done: u64,
    total: u64,
}

impl Tally {
    pub(super) fn new(total: u64) -> Self {
        Self { done: 0, total }
    }
}

/// A path and how it is tested.
pub(super) struct Bench<'a, B: Backing> {
    pub(super) path: &'a Path,
    pub(super) ssd: &'a Controller<B>,
    pub(super) space: &'a dyn DmaSpace,
    pub(super) rounds: u64,
    pub(super) depth: u16,
    pub(super) block_bytes: u64,
    pub(super) patience: Duration,
}

/// Which case it is.
#[derive(Debug, Clone, Copy)]
struct Variant {
    direction: Direction,
    /// `None` where there is none to be had.
    flush: Option<bool>,
}

impl<B: Backing> Bench<'_, B> {
    /// Runs all cases, or those until it is told to stop.
    pub(super) fn run(
        &self,
        wire: &mut Wire,
        observer: &mut Observer<'_>,
        tally: &mut Tally,
    ) -> Vec<CaseReport> {
        let write = |flush| Variant {
            direction: Direction::NicToSsd,
            flush: Some(flush),
        };
        let read = Variant {
            direction: Direction::SsdToNic,
            flush: None,
        };
        let writes = [write(true), write(false)];
        let variants = writes.into_iter().filter(|_| self.path.writes);
        let variants = variants.chain(Some(read).filter(|_| self.path.reads));
        let mut reports = Vec::new();
        for variant in variants {
            if observer.stops() {
                break;
            }
            let end = tally.done + self.rounds * u64::from(self.depth);
            let mut count = Count::default();
            let outcome = self.try_case(variant, wire, &mut count, observer, tally);
            tally.done = end;
            reports.push(self.report(variant, &count, outcome));
        }
        reports
    }

    fn try_case(
        &self,
        variant: Variant,
        wire: &mut Wire,
        count: &mut Count,
        observer: &mut Observer<'_>,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let writes = variant.direction == Direction::NicToSsd;
        if writes && !self.ssd.identify().oncs.compare() {
            let reason = "the SSD has no Compare command, and by nothing else can it say what it \
                          read without being written to";
            return Err(Trouble::NotTestable(reason.to_owned()));
        }
        let mut rig = Rig::open(self, wire)?;
        let outcome = self.play(&mut rig, variant, count, observer, tally);
        rig.close();
        outcome
    }

    fn play(
        &self,
        rig: &mut Rig<'_, B>,
        variant: Variant,
        count: &mut Count,
        observer: &mut Observer<'_>,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let label = self.label(variant);
        (observer.progress)(&label, tally.done, tally.total);
        rig.learn()?;
        if variant.flush.is_some() {
            rig.junk_is_seen()?;
        }
        tracing::info!("{label}");
        for round in 0..self.rounds {
            match variant.flush {
                Some(flush) => rig.write_round(round, flush, count)?,
                None => rig.read_round(round, count)?,
            }
            tally.done += u64::from(self.depth);
            (observer.progress)(&label, tally.done, tally.total);
            // Not before the first round: what has begun shows something.
            if observer.stops() {
                break;
            }
        }
        Ok(())
    }

    fn label(&self, variant: Variant) -> String {
        let (memory, ssd) = (self.path.pool.region.name(), self.path.ssd);
        let nic = &self.path.nic;
        let size = sidelane_config::ByteSize::new(self.block_bytes);
        let size = size.map_or_else(String::new, |size| format!(", {size}"));
        match variant.flush {
            Some(true) => format!("{nic} to {ssd} by {memory}{size}, flushed"),
            Some(false) => format!("{nic} to {ssd} by {memory}{size}, not flushed"),
            None => format!("{ssd} to {nic} by {memory}{size}"),
        }
    }

    fn report(&self, variant: Variant, count: &Count, outcome: Result<(), Trouble>) -> CaseReport {
        let (outcome, reason) = match outcome {
            Ok(()) if count.stale == 0 => (Outcome::Clean, None),
            Ok(()) => (Outcome::Stale, None),
            Err(Trouble::NotTestable(reason)) => (Outcome::NotTestable, Some(reason)),
            Err(Trouble::Failed(reason)) => (Outcome::Failed, Some(reason)),
        };
        let seconds = count.elapsed.as_secs_f64();
        let bytes = (count.transfers * self.block_bytes) as f64;
        CaseReport {
            adapter: self.path.nic.clone(),
            memory: self.path.pool.region.name().to_owned(),
            peer: self.path.pool.region.is_peer(),
            own: self.path.own(),
            ssd: self.path.ssd.to_string(),
            nsid: self.path.nsid,
            direction: variant.direction,
            flush: variant.flush,
            block_bytes: self.block_bytes,
            outcome,
            reason,
            transfers: count.transfers,
            stale: count.stale,
            first_stale: count.first,
            seconds,
            bytes_per_second: if seconds > 0.0 { bytes / seconds } else { 0.0 },
        }
    }
}
