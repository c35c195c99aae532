//! What the target counts, and the report made of it.
//!
//! Each reactor owns its counters and is the only one to write them; the control
//! plane reads them at any time. So a count costs a plain load and store, no
//! locked instruction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sidelane_p2p::provider::PathReason;

mod network;
mod ssds;

pub use network::{
    AdapterReport, Counts, FullReport, ManagerReport, NetworkReport, QueuePairReport, QueueReport,
    add_counts,
};
pub use ssds::{SsdCounters, SsdReport};

/// A count with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning reactor may call it.
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Sets; only the owning reactor may call it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value at this moment.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts for one direction of one namespace.
#[derive(Debug, Default)]
pub struct DirectionCounters {
    /// Commands that succeeded.
    pub commands: Counter,
    /// Payload bytes by path, in the order of [`PathReason::ALL`].
    pub bytes: [Counter; PathReason::ALL.len()],
}

impl DirectionCounters {
    /// Counts a command that succeeded.
    pub fn count(&self, path: PathReason, bytes: u64) {
        self.commands.add(1);
        if let Some(counter) = self.bytes.get(path as usize) {
            counter.add(bytes);
        }
    }
}

/// Counts of one namespace in one reactor.
#[derive(Debug, Default)]
pub struct NamespaceCounters {
    /// Read.
    pub reads: DirectionCounters,
    /// Write.
    pub writes: DirectionCounters,
    /// Commands without payload that succeeded (Flush, Write Zeroes, DSM).
    pub other_commands: Counter,
    /// Commands that ended with an error status.
    pub errors: Counter,
}

/// Counts of one reactor's pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Bytes in use.
    pub in_use: Counter,
    /// Most bytes that were in use at once.
    pub peak: Counter,
    /// Commands that had to wait for a buffer.
    pub waits: Counter,
    /// Commands that succeeded, and whose payload went by it.
    pub commands: Counter,
    /// Bytes of that payload.
    pub payload_bytes: Counter,
    /// Adapters that lost their way to it, a bit each.
    lost_by: Counter,
}

impl PoolCounters {
    /// Notes that an adapter, by its number, lost its way to the pool.
    pub fn lose(&self, port: usize) {
        let bit = u32::try_from(port)
            .ok()
            .and_then(|port| 1u64.checked_shl(port));
        self.lost_by.set(self.lost_by.get() | bit.unwrap_or(0));
    }

    /// Notes that an adapter, by its number, has a way to the pool again.
    pub fn regain(&self, port: usize) {
        let bit = u32::try_from(port)
            .ok()
            .and_then(|port| 1u64.checked_shl(port));
        self.lost_by.set(self.lost_by.get() & !bit.unwrap_or(0));
    }

    /// Whether that adapter lost its way to the pool.
    pub fn is_lost_by(&self, port: usize) -> bool {
        let bit = u32::try_from(port)
            .ok()
            .and_then(|port| 1u64.checked_shl(port));
        self.lost_by.get() & bit.unwrap_or(0) != 0
    }
}

/// Counts of one reactor.
#[derive(Debug)]
pub struct ReactorCounters {
    /// Its processor core.
    pub core: usize,
    /// Rounds of its loop.
    pub rounds: Counter,
    /// Times it slept since there was nothing to do.
    pub sleeps: Counter,
    /// Connections it has.
    pub connections: Counter,
    /// Commands it has received.
    pub commands: Counter,
    /// Entries into each state of a request, in the order of
    /// [`crate::reactor::STATE_NAMES`].
    pub states: [Counter; crate::reactor::STATE_COUNT],
    /// Batches of placed data made visible before a doorbell.
    pub flush_batches: Counter,
    /// Commands in those batches.
    pub flushed_commands: Counter,
    /// Commands that ended without being answered: their connection was gone,
    /// or their controller was reset.
    pub abandoned: Counter,
    /// Response slots dropped unspent; anything but 0 is a defect.
    pub unspent_permits: Counter,
    /// By namespace, in the target's order.
    pub namespaces: Vec<NamespaceCounters>,
    /// By pool, in the target's order.
    pub pools: Vec<PoolCounters>,
}

impl ReactorCounters {
    /// All zero.
    pub fn new(core: usize, namespaces: usize, pools: usize) -> Arc<Self> {
        Arc::new(Self {
            core,
            rounds: Counter::default(),
            sleeps: Counter::default(),
            connections: Counter::default(),
            commands: Counter::default(),
            states: Default::default(),
            flush_batches: Counter::default(),
            flushed_commands: Counter::default(),
            abandoned: Counter::default(),
            unspent_permits: Counter::default(),
            namespaces: (0..namespaces)
                .map(|_| NamespaceCounters::default())
                .collect(),
            pools: (0..pools).map(|_| PoolCounters::default()).collect(),
        })
    }
}

/// What the target counts by itself: may be read at any time, and disturbs nobody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Seconds since the target started.
    pub uptime_seconds: u64,
    /// Where hosts connect.
    pub listeners: Vec<ListenerReport>,
    /// What is offered, and which way its payload went.
    pub namespaces: Vec<NamespaceReport>,
    /// Memory that payload goes through.
    pub pools: Vec<PoolReport>,
    /// The SSDs that blocks and memory are on.
    pub ssds: Vec<SsdReport>,
    /// The threads of the data path.
    pub reactors: Vec<ReactorReport>,
    /// Associations with hosts.
    pub controllers: Vec<ControllerReport>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// As configured.
    pub id: String,
    /// Kind of adapter.
    pub nic: String,
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// The adapters behind it.
    pub adapters: Vec<String>,
    /// `up`, `port-down`, `gone`, `waiting` (for its address), or `refused`.
    pub state: String,
    /// Why it is refused, or what it waits for.
    pub reason: Option<String>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceReport {
    /// Its subsystem.
    pub nqn: String,
    /// Its number there.
    pub nsid: u32,
    /// What stores its blocks (`nvme 0000:03:00.0 nsid 1`).
    pub backend: String,
    /// `off`, `prefer` or `require`.
    pub p2p: String,
    /// Which way its payload goes, by adapter.
    pub ways: Vec<WayReport>,
    /// Payload bytes by peer memory, both directions.
    pub payload_bytes_peer: u64,
    /// Payload bytes by host memory, both directions.
    pub payload_bytes_host: u64,
    /// Read.
    pub reads: DirectionReport,
    /// Write.
    pub writes: DirectionReport,
    /// Commands without payload that succeeded.
    pub other_commands: u64,
    /// Commands that ended with an error status.
    pub errors: u64,
}

/// The way of a namespace's payload behind one adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayReport {
    /// The adapter (`soft 192.0.2.1`, `mlx5_0`).
    pub nic: String,
    /// The provider in use, if it is peer memory.
    pub provider: Option<String>,
    /// `peer`, or why not, as in `host_bytes_by_reason`.
    pub code: String,
    /// The same in words.
    pub reason: String,
}

/// One direction of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionReport {
    /// Commands that succeeded.
    pub commands: u64,
    /// Payload bytes by peer memory.
    pub peer_bytes: u64,
    /// Payload bytes by host memory.
    pub host_bytes: u64,
    /// The latter by reason.
    pub host_bytes_by_reason: BTreeMap<String, u64>,
}

impl DirectionReport {
    /// Adds a reactor's counts.
    pub fn add(&mut self, counters: &DirectionCounters) {
        self.commands += counters.commands.get();
        for (path, counter) in PathReason::ALL.iter().zip(&counters.bytes) {
            let bytes = counter.get();
            if *path == PathReason::Peer {
                self.peer_bytes += bytes;
            } else if bytes > 0 {
                self.host_bytes += bytes;
                *self
                    .host_bytes_by_reason
                    .entry(path.name().to_owned())
                    .or_default() += bytes;
            }
        }
    }
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Its provider as configured, or `host`.
    pub provider: String,
    /// The region (`cmb of 0000:03:00.0`).
    pub region: String,
    /// Whether its bytes are on a PCI device.
    pub peer: bool,
    /// First bus address.
    pub address: u64,
    /// Bytes, over all reactors.
    pub bytes: u64,
    /// Bytes in use.
    pub in_use_bytes: u64,
    /// Most bytes in use at once (summed over reactors).
    pub peak_bytes: u64,
    /// Commands that had to wait for a buffer.
    pub waits: u64,
    /// Commands that succeeded, and whose payload went by it.
    pub commands: u64,
    /// Bytes of that payload.
    pub payload_bytes: u64,
}

/// A reactor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactorReport {
    /// Its processor core.
    pub core: usize,
    /// Rounds of its loop.
    pub rounds: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Connections.
    pub connections: u64,
    /// Commands received.
    pub commands: u64,
    /// Entries into each state of a request.
    pub states: BTreeMap<String, u64>,
    /// Batches of placed data made visible before a doorbell.
    pub flush_batches: u64,
    /// Commands in those batches.
    pub flushed_commands: u64,
    /// Commands that ended unanswered: their connection was gone, or their
    /// controller was reset.
    pub abandoned: u64,
    /// Response slots dropped unspent; anything but 0 is a defect.
    pub unspent_permits: u64,
}

impl From<&ReactorCounters> for ReactorReport {
    fn from(c: &ReactorCounters) -> Self {
        let states = crate::reactor::STATE_NAMES.iter().zip(&c.states);
        Self {
            core: c.core,
            rounds: c.rounds.get(),
            sleeps: c.sleeps.get(),
            connections: c.connections.get(),
            commands: c.commands.get(),
            states: states
                .map(|(name, count)| ((*name).to_owned(), count.get()))
                .collect(),
            flush_batches: c.flush_batches.get(),
            flushed_commands: c.flushed_commands.get(),
            abandoned: c.abandoned.get(),
            unspent_permits: c.unspent_permits.get(),
        }
    }
}

/// An association.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerReport {
    /// Subsystem.
    pub nqn: String,
    /// Controller identifier.
    pub cntlid: u16,
    /// The host's name.
    pub host: String,
    /// I/O queues connected.
    pub io_queues: u32,
}
