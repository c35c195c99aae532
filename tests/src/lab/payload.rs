//! Which way the payload of the lab's namespaces went: by the target's counts,
//! and by the proof from outside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Outcome;
use crate::address_proof::{Proof, bar_range, prove};

/// The BAR that holds the CMB of the lab's SSDs.
const CMB_BAR: usize = 2;

/// Where all payload has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through the CMB.
    Peer,
    /// Through host memory, for these reasons (their codes) and no others.
    Host(&'static [&'static str]),
}

/// The counts of one or more namespaces in a report of statistics.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Bytes by peer memory.
    pub peer_bytes: u64,
    /// Bytes by host memory.
    pub host_bytes: u64,
    /// The latter by the code of their reason.
    pub by_reason: BTreeMap<String, u64>,
    /// Of them, those of writes that came inside a command capsule.
    pub in_capsule_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Commands that failed.
    pub errors: u64,
    /// Batches of placed data that were made visible before a doorbell.
    pub flush_batches: u64,
    /// Commands in them.
    pub flushed_commands: u64,
}

impl Payload {
    /// Sums a report up.
    ///
    /// # Errors
    /// When it has no namespace or no reactor, or a count is missing.
    pub fn of(stats: &Value) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for namespace in list(stats, "namespaces")? {
            sum.peer_bytes += count(namespace, "payload_bytes_peer")?;
            sum.host_bytes += count(namespace, "payload_bytes_host")?;
            sum.errors += count(namespace, "errors")?;
            sum.writes += count(&namespace["writes"], "commands")?;
            for direction in ["reads", "writes"] {
                let reasons = namespace[direction]["host_bytes_by_reason"]
                    .as_object()
                    .context("no reasons")?;
                for (reason, bytes) in reasons {
                    let bytes = bytes.as_u64().context("bytes that are no number")?;
                    *sum.by_reason.entry(reason.clone()).or_default() += bytes;
                }
            }
        }
        sum.in_capsule_bytes = sum.by_reason.get("in-capsule").copied().unwrap_or(0);
        for reactor in list(stats, "reactors")? {
            sum.flush_batches += count(reactor, "flush_batches")?;
            sum.flushed_commands += count(reactor, "flushed_commands")?;
        }
        Ok(sum)
    }

    /// All of it went this way, and no command failed.
    ///
    /// # Errors
    /// With all counts, when not.
    pub fn went(&self, way: Way) -> anyhow::Result<()> {
        let reasons: BTreeSet<&str> = self.by_reason.keys().map(String::as_str).collect();
        let as_meant = match way {
            Way::Peer => self.peer_bytes > 0 && self.host_bytes == 0,
            Way::Host(expected) => {
                self.host_bytes > 0
                    && self.peer_bytes == 0
                    && reasons == expected.iter().copied().collect()
            }
        };
        ensure!(as_meant, "payload is to go by {way:?}: {self:?}");
        ensure!(self.errors == 0, "commands failed: {self:?}");
        Ok(())
    }
}

impl Way {
    /// The same from outside: what the SSDs were told, against where the BAR is.
    ///
    /// # Errors
    /// When a byte went another way, or the scenario left no journal of that
    /// name.
    pub fn is_proved(self, outcome: &Outcome, journal: &str) -> anyhow::Result<Proof> {
        let bar = bar_range(&outcome.text("resource")?, CMB_BAR)?;
        let proof = prove(&outcome.text(journal)?, &bar)?;
        let inside = match self {
            Self::Peer => proof.bytes,
            Self::Host(_) => 0,
        };
        ensure!(
            proof.commands > 0 && proof.inside == inside,
            "payload is to go by {self:?}, and the SSDs were told: {proof:?}"
        );
        Ok(proof)
    }
}

fn list<'a>(stats: &'a Value, key: &str) -> anyhow::Result<&'a [Value]> {
    let list = stats[key].as_array().filter(|list| !list.is_empty());
    Ok(list.with_context(|| format!("no {key} in {stats}"))?)
}

fn count(of: &Value, key: &str) -> anyhow::Result<u64> {
    of[key]
        .as_u64()
        .with_context(|| format!("no count {key} in {of}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A report with a namespace whose writes went by peer and host memory so.
    fn stats(peer: u64, reasons: &Value) -> Value {
        let host: u64 = reasons
            .as_object()
            .into_iter()
            .flat_map(|reasons| reasons.values().filter_map(Value::as_u64))
            .sum();
        json!({
            "namespaces": [{
                "payload_bytes_peer": peer, "payload_bytes_host": host, "errors": 0,
                "reads": { "commands": 0, "host_bytes_by_reason": {} },
                "writes": { "commands": 2, "host_bytes_by_reason": reasons },
            }],
            "reactors": [{ "flush_batches": 1, "flushed_commands": 2 }],
        })
    }

    #[rstest::rstest]
    #[case::all_by_peer_memory(8, json!({}), Way::Peer, true)]
    #[case::nothing_at_all(0, json!({}), Way::Peer, false)]
    #[case::one_byte_beside(8, json!({ "no-route": 1 }), Way::Peer, false)]
    #[case::all_by_host_memory(0, json!({ "off": 8 }), Way::Host(&["off"]), true)]
    #[case::for_another_reason(0, json!({ "no-route": 8 }), Way::Host(&["off"]), false)]
    #[case::for_one_more_reason(0, json!({ "off": 8, "no-route": 1 }), Way::Host(&["off"]), false)]
    #[case::for_one_reason_less(0, json!({ "off": 8 }), Way::Host(&["off", "in-capsule"]), false)]
    #[case::one_byte_by_peer_memory(1, json!({ "off": 8 }), Way::Host(&["off"]), false)]
    fn a_byte_on_another_way_shows(
        #[case] peer: u64,
        #[case] reasons: Value,
        #[case] way: Way,
        #[case] holds: bool,
    ) {
        let payload = Payload::of(&stats(peer, &reasons)).unwrap();
        assert_eq!(payload.went(way).is_ok(), holds, "{payload:?}");
    }

    #[test]
    fn a_report_without_what_is_asked_for_is_no_report_of_zeroes() {
        Payload::of(&json!({})).unwrap_err();
        let mut stats = stats(8, &json!({}));
        stats["namespaces"][0]["errors"] = Value::Null;
        Payload::of(&stats).unwrap_err();
    }
}
