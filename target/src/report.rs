//! Puts the report of statistics together.

use std::sync::Arc;
use std::time::Instant;

use crate::stats::{
    ControllerReport, DirectionReport, ListenerReport, NamespaceReport, PoolReport,
    ReactorCounters, ReactorReport, StatsReport,
};
use crate::subsystem;

/// What never changes about a pool.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// Its provider as configured, or `host`.
    pub provider: String,
    /// The region's name.
    pub region: String,
    /// Whether its bytes are on a PCI device.
    pub peer: bool,
    /// First bus address.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What never changes about a namespace.
#[derive(Debug, Clone)]
pub struct NamespaceFacts {
    /// Subsystem.
    pub nqn: String,
    /// Number.
    pub nsid: u32,
    /// Backend in words.
    pub backend: String,
    /// Policy as configured.
    pub p2p: String,
    /// Provider of peer memory, if in use.
    pub provider: Option<String>,
    /// Why, or why not.
    pub reason: String,
}

/// Reads the counters of all reactors.
#[derive(Debug)]
pub struct Reporter {
    /// When the target started.
    pub started: Instant,
    /// Where hosts connect.
    pub listeners: Vec<ListenerReport>,
    /// The target's pools, in order.
    pub pools: Vec<PoolFacts>,
    /// The target's namespaces, in order.
    pub namespaces: Vec<NamespaceFacts>,
    /// Counters of the reactors.
    pub reactors: Vec<Arc<ReactorCounters>>,
    /// What is offered, for the associations.
    pub offered: Arc<subsystem::Target>,
}

impl Reporter {
    /// The statistics at this moment.
    pub fn report(&self) -> StatsReport {
        StatsReport {
            uptime_seconds: self.started.elapsed().as_secs(),
            listeners: self.listeners.clone(),
            namespaces: (0..self.namespaces.len())
                .map(|at| self.namespace(at))
                .collect(),
            pools: (0..self.pools.len()).map(|at| self.pool(at)).collect(),
            reactors: self
                .reactors
                .iter()
                .map(|r| ReactorReport::from(&**r))
                .collect(),
            controllers: self.controllers(),
        }
    }

    fn namespace(&self, at: usize) -> NamespaceReport {
        let facts = self.namespaces[at].clone();
        let mut reads = DirectionReport::default();
        let mut writes = DirectionReport::default();
        let (mut other_commands, mut errors) = (0, 0);
        for counters in self.reactors.iter().filter_map(|r| r.namespaces.get(at)) {
            reads.add(&counters.reads);
            writes.add(&counters.writes);
            other_commands += counters.other_commands.get();
            errors += counters.errors.get();
        }
        NamespaceReport {
            nqn: facts.nqn,
            nsid: facts.nsid,
            backend: facts.backend,
            p2p: facts.p2p,
            provider: facts.provider,
            reason: facts.reason,
            payload_bytes_peer: reads.peer_bytes + writes.peer_bytes,
            payload_bytes_host: reads.host_bytes + writes.host_bytes,
            reads,
            writes,
            other_commands,
            errors,
        }
    }

    fn pool(&self, at: usize) -> PoolReport {
        let facts = self.pools[at].clone();
        let sum = |count: fn(&crate::stats::PoolCounters) -> u64| {
            self.reactors
                .iter()
                .filter_map(|r| r.pools.get(at))
                .map(count)
                .sum()
        };
        PoolReport {
            provider: facts.provider,
            region: facts.region,
            peer: facts.peer,
            address: facts.address,
            bytes: facts.bytes,
            in_use_bytes: sum(|p| p.in_use.get()),
            peak_bytes: sum(|p| p.peak.get()),
            waits: sum(|p| p.waits.get()),
        }
    }

    fn controllers(&self) -> Vec<ControllerReport> {
        let discovery = self.offered.discovery();
        let subsystems = self.offered.subsystems();
        let all = subsystems.iter().chain([discovery]);
        all.flat_map(|subsystem| {
            subsystem
                .controllers()
                .into_iter()
                .map(|controller| ControllerReport {
                    nqn: subsystem.nqn().as_str().to_owned(),
                    cntlid: controller.cntlid(),
                    host: controller.host().nqn.to_string(),
                    io_queues: controller.qids().len() - u32::from(controller.qids().contains(0)),
                })
        })
        .collect()
    }
}
