//! What the interop scenarios leave: what the weather on the link did, and what
//! each side counted in it.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Outcome;

/// What a case left.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// Packets that netem passed on, both ways.
    pub packets: u64,
    /// Packets that netem took, both ways.
    pub dropped: u64,
    /// Microseconds that it lasted.
    pub us: u64,
    /// Connections that were lost, by the word of the side that is not ours.
    pub lost: u64,
    /// What our NIC counted meanwhile, by name.
    pub counts: BTreeMap<String, u64>,
}

/// A line of `weathers`.
#[derive(Debug, Deserialize)]
struct Note {
    case: String,
    key: String,
    value: Value,
}

impl Case {
    /// A count of our NIC's.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Sum of counts of our NIC's.
    pub fn any(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.count(name)).sum()
    }
}

/// The cases by name, as far as the scenario came; without the counts.
///
/// # Errors
/// When the notes are not there, or not understood.
pub fn cases(outcome: &Outcome) -> anyhow::Result<BTreeMap<String, Case>> {
    let mut cases = BTreeMap::<String, Case>::new();
    for line in outcome.text("weathers")?.lines() {
        let note: Note = serde_json::from_str(line).with_context(|| format!("the note {line}"))?;
        let case = cases.entry(note.case).or_default();
        let number = |value: &Value| value.as_u64().context("a note that is no number");
        match note.key.as_str() {
            "us" => case.us = number(&note.value)?,
            "kernel_lost" => case.lost = number(&note.value)?,
            "weather" => {
                case.packets = number(&note.value["packets"])?;
                case.dropped = number(&note.value["dropped"])?;
            }
            _ => {}
        }
    }
    Ok(cases)
}

/// What the adapters of a target counted between two of its reports.
///
/// # Errors
/// When the reports are not there, or have no counts.
pub fn counted_between(
    outcome: &Outcome,
    before: &str,
    after: &str,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let read = |name: &str| -> anyhow::Result<BTreeMap<String, u64>> {
        let stats = outcome.stats(name)?;
        let adapters = stats["adapters"].as_array().context("no adapters")?;
        let mut sum = BTreeMap::new();
        for adapter in adapters {
            let counts = adapter["counts"].as_object().context("no counts")?;
            for (name, count) in counts {
                *sum.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        Ok(sum)
    };
    let (before, mut after) = (read(before)?, read(after)?);
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0).min(*count);
    }
    ensure!(!after.is_empty(), "the target's adapters count nothing");
    Ok(after)
}
