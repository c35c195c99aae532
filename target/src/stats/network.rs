//! The part of the report that is about the network: what adapters, their queue
//! pairs and connection management have counted, under the names that they give.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidelane_transport::nic::Count;

use super::StatsReport;

/// The report of `sidelane stats --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FullReport {
    /// What the target counts by itself.
    #[serde(flatten)]
    pub target: StatsReport,
    /// What it has to ask for.
    #[serde(flatten)]
    pub network: NetworkReport,
}

/// What was sent and received, and what went wrong on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// The adapters that serve, in their order in reactors.
    pub adapters: Vec<AdapterReport>,
    /// Who answers requests for connections.
    pub connection_managers: Vec<ManagerReport>,
    /// The queue pairs that have a connection, by adapter and number.
    pub queue_pairs: Vec<QueuePairReport>,
    /// Who did not answer in time (`the reactor on core 1`): what it has counted
    /// is missing above.
    pub silent: Vec<String>,
}

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// Adds counts to those that are there, name by name.
pub fn add_counts(counts: &mut Counts, more: impl IntoIterator<Item = Count>) {
    for (name, value) in more {
        let count = counts.entry(name.into_owned()).or_default();
        *count = count.saturating_add(value);
    }
}

/// An adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterReport {
    /// Its name (`soft 192.0.2.1`, `mlx5_0`).
    pub nic: String,
    /// `up`, `port-down` or `gone`.
    pub state: String,
    /// What its parts have counted since they were opened, over all reactors.
    pub counts: Counts,
    /// What its hardware or driver has counted, for whomever, since it was
    /// loaded. Empty for an adapter that has neither.
    pub device: Counts,
}

/// A connection manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerReport {
    /// The adapters that it answers for.
    pub nics: Vec<String>,
    /// What it has counted.
    pub counts: Counts,
}

/// A queue pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePairReport {
    /// Its adapter.
    pub nic: String,
    /// The core of its reactor.
    pub core: usize,
    /// Its number, 24 bits.
    pub qp: u32,
    /// The host's address.
    pub remote: String,
    /// What it serves; `None` before Connect, and when that is over.
    pub queue: Option<QueueReport>,
    /// Whether its connection is ending.
    pub ending: bool,
    /// What it has counted.
    pub counts: Counts,
}

/// The queue of a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Subsystem.
    pub nqn: String,
    /// Controller identifier.
    pub cntlid: u16,
    /// The host's name.
    pub host: String,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_one_name_are_one_count() {
        let mut counts = Counts::new();
        add_counts(&mut counts, [("a".into(), 1), ("b".into(), 2)]);
        add_counts(&mut counts, [("b".into(), 3), ("a".into(), u64::MAX)]);
        let expected = [("a".to_owned(), u64::MAX), ("b".to_owned(), 5)];
        assert_eq!(counts, Counts::from(expected));
    }
}
