//! What a self-test found.

use serde::Serialize;
use sidelane_config::Flush;

use super::SelftestOptions;
use super::judge::judge;

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// As a host's write: placed by the adapter, read by the SSD.
    NicToSsd,
    /// As a host's read: placed by the SSD, read by the adapter.
    SsdToNic,
}

impl Direction {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NicToSsd => "nic-to-ssd",
            Self::SsdToNic => "ssd-to-nic",
        }
    }
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All data was seen as it should be.
    Clean,
    /// Some was seen as it was before.
    Stale,
    /// It cannot be tested; nothing is known.
    NotTestable,
    /// Something that should work did not.
    Failed,
}

impl Outcome {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Stale => "stale",
            Self::NotTestable => "not testable",
            Self::Failed => "failed",
        }
    }
}

/// The first transfer of which stale data was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FirstStale {
    /// Its round, from 0.
    pub round: u64,
    /// Its place among those in flight, from 0.
    pub slot: usize,
    /// Its first block.
    pub lba: u64,
}

/// One adapter, memory, SSD, direction and block size, with or without the flush.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseReport {
    /// The adapter.
    pub adapter: String,
    /// The memory that data went by.
    pub memory: String,
    /// Whether that is on a PCI device.
    pub peer: bool,
    /// Whether that device is the SSD itself.
    pub own: bool,
    /// The SSD.
    pub ssd: String,
    /// Its namespace.
    pub nsid: u32,
    /// Which way data went.
    pub direction: Direction,
    /// Whether the adapter was had to flush before the SSD was told; `null`
    /// where no flush is known.
    pub flush: Option<bool>,
    /// Bytes of a transfer.
    pub block_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it cannot be tested, or what failed.
    pub reason: Option<String>,
    /// Transfers whose data was looked at.
    pub transfers: u64,
    /// Those of which stale data was seen.
    pub stale: u64,
    /// The first of those.
    pub first_stale: Option<FirstStale>,
    /// Seconds that the transfers took, without preparation.
    pub seconds: f64,
    /// Bytes moved by time.
    pub bytes_per_second: f64,
}

/// The outcome of a self-test. Serialised, it is what `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelftestReport {
    /// All that the target does as configured was seen to be right, as far as it
    /// could be tested; see `failures`.
    pub passed: bool,
    /// It was told to stop before its end.
    pub interrupted: bool,
    /// Rounds of each case.
    pub rounds: u64,
    /// Transfers in flight.
    pub depth: u16,
    /// When the configuration has the target flush: `auto`, `always` or `never`.
    pub configured_flush: Flush,
    /// Seconds from start to end.
    pub seconds: f64,
    /// The cases.
    pub cases: Vec<CaseReport>,
    /// What is not as it has to be, and what to do about it.
    pub failures: Vec<String>,
    /// What else is to be known: whether the flush is needed, what was not
    /// tested.
    pub notes: Vec<String>,
}

impl SelftestReport {
    /// Judges the cases; `notes` come before what is noted of them.
    pub(super) fn new(
        options: &SelftestOptions,
        configured_flush: Flush,
        cases: Vec<CaseReport>,
        mut notes: Vec<String>,
        interrupted: bool,
        seconds: f64,
    ) -> Self {
        let mut judgement = judge(&cases, configured_flush);
        if interrupted {
            let what = "interrupted: what is said here holds for what was seen so far";
            judgement.failures.push(what.to_owned());
        }
        notes.append(&mut judgement.notes);
        Self {
            passed: judgement.failures.is_empty(),
            interrupted,
            rounds: options.rounds,
            depth: options.depth,
            configured_flush,
            seconds,
            cases,
            failures: judgement.failures,
            notes,
        }
    }

    /// One JSON object, on one line.
    ///
    /// # Errors
    /// When a number in it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}
