//! Puts the report of statistics together.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sidelane_p2p::provider::PathReason;
use sidelane_transport::nic::{Adapter, AdapterState};

use crate::stats::{
    ControllerReport, DirectionReport, ListenerReport, NamespaceReport, PoolReport,
    ReactorCounters, ReactorReport, SsdCounters, StatsReport, WayReport,
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
    /// The way its payload goes, by adapter.
    pub ways: Vec<WayFacts>,
}

/// The way that the payload of a namespace goes behind one adapter.
#[derive(Debug, Clone)]
pub struct WayFacts {
    /// The adapter.
    pub nic: String,
    /// Providers of peer memory, if any is in use.
    pub provider: Option<String>,
    /// Why not all of it is peer memory; [`PathReason::Peer`] where it is.
    pub code: PathReason,
    /// Why, or why not.
    pub reason: String,
    /// The pools in use, by their number in the target.
    pub pools: Vec<usize>,
}

/// An adapter that may be replaced: one that was removed, by the same one that
/// is back.
#[derive(Clone)]
pub struct SharedAdapter(Arc<Mutex<Arc<dyn Adapter>>>);

impl SharedAdapter {
    /// This one, for now.
    pub fn new(adapter: Arc<dyn Adapter>) -> Self {
        Self(Arc::new(Mutex::new(adapter)))
    }

    /// The one that serves.
    pub fn get(&self) -> Arc<dyn Adapter> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one in its place.
    pub fn set(&self, adapter: Arc<dyn Adapter>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = adapter;
    }
}

/// Says why a listener waits, if it does.
pub type Waiting = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A listener, and what serves it.
#[derive(Clone)]
pub struct ListenerFacts {
    /// As configured.
    pub id: String,
    /// Kind of adapter.
    pub nic: &'static str,
    /// Address and port.
    pub address: SocketAddr,
    /// Its adapters that serve.
    pub adapters: Vec<SharedAdapter>,
    /// Why hosts cannot come in although an adapter serves, if that is so.
    pub waiting: Waiting,
    /// Why it is not served.
    pub refused: Option<String>,
}

/// Reads the counters of all reactors.
pub struct Reporter {
    /// When the target started.
    pub started: Instant,
    /// Where hosts connect.
    pub listeners: Vec<ListenerFacts>,
    /// The target's pools, in order.
    pub pools: Vec<PoolFacts>,
    /// The target's namespaces, in order.
    pub namespaces: Vec<NamespaceFacts>,
    /// Counters of the SSDs.
    pub ssds: Vec<Arc<SsdCounters>>,
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
            listeners: self.listeners.iter().map(listener).collect(),
            namespaces: (0..self.namespaces.len())
                .map(|at| self.namespace(at))
                .collect(),
            pools: (0..self.pools.len()).map(|at| self.pool(at)).collect(),
            ssds: self.ssds.iter().map(|ssd| ssd.report()).collect(),
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
            ways: facts
                .ways
                .iter()
                .enumerate()
                .map(|(port, facts)| self.way(port, facts))
                .collect(),
            payload_bytes_peer: reads.peer_bytes + writes.peer_bytes,
            payload_bytes_host: reads.host_bytes + writes.host_bytes,
            reads,
            writes,
            other_commands,
            errors,
        }
    }

    /// What an adapter lost is not what it was chosen for.
    fn way(&self, port: usize, facts: &WayFacts) -> WayReport {
        let is_lost = |pool: &&usize| {
            let mut counters = self.reactors.iter().filter_map(|r| r.pools.get(**pool));
            counters.any(|pool| pool.is_lost_by(port))
        };
        let (lost, left): (Vec<_>, Vec<_>) = facts.pools.iter().partition(is_lost);
        let names = |pools: &[&usize]| {
            let pools = pools.iter().filter_map(|pool| self.pools.get(**pool));
            let peers = pools
                .filter(|pool| pool.peer)
                .map(|pool| pool.provider.as_str());
            peers.collect::<Vec<_>>().join(", ")
        };
        let (code, provider, reason) = match (lost.is_empty(), names(&left)) {
            (true, _) => (facts.code, facts.provider.clone(), facts.reason.clone()),
            (false, left) => {
                let gone = format!("{} was taken away while it was in use", names(&lost));
                match left.is_empty() {
                    true => (PathReason::Revoked, None, gone),
                    false => (facts.code, Some(left), format!("{}; {gone}", facts.reason)),
                }
            }
        };
        WayReport {
            nic: facts.nic.clone(),
            provider,
            code: code.name().to_owned(),
            reason,
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
            commands: sum(|p| p.commands.get()),
            payload_bytes: sum(|p| p.payload_bytes.get()),
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

fn listener(facts: &ListenerFacts) -> ListenerReport {
    // One adapter that serves is enough.
    let adapters: Vec<_> = facts.adapters.iter().map(SharedAdapter::get).collect();
    let waiting = (facts.waiting)();
    let states = adapters.iter().map(|adapter| adapter.state());
    let state = match states.min_by_key(|state| *state as u8) {
        _ if facts.refused.is_some() => "refused",
        Some(AdapterState::Up) if waiting.is_some() => "waiting",
        Some(state) => state.name(),
        None => AdapterState::Gone.name(),
    };
    ListenerReport {
        id: facts.id.clone(),
        nic: facts.nic.to_owned(),
        address: facts.address.ip().to_string(),
        port: facts.address.port(),
        adapters: adapters.iter().map(|it| it.caps().name.clone()).collect(),
        state: state.to_owned(),
        reason: facts.refused.clone().or(waiting),
    }
}
