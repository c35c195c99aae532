//! What the caller decides: sizes of the endpoint, and whom to connect to.

use std::net::SocketAddr;
use std::time::Duration;

use sidelane_nvme::spec::{HostId, Nqn};

/// Entries of the admin queue (as the Linux host uses).
pub const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// Most entries of an I/O queue that [`EndpointOptions::depth`] may ask for.
pub const DEPTH_MAX: u16 = 1024;

/// Most I/O queues that [`EndpointOptions::io_queues`] may ask for.
pub const IO_QUEUES_MAX: u16 = 64;

/// Sizes of an [`Endpoint`](super::Endpoint): all its memory and all its work
/// queues are set up once from these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    /// I/O queues a connection may have, 1 to [`IO_QUEUES_MAX`].
    pub io_queues: u16,
    /// Entries of each I/O submission queue, 2 to [`DEPTH_MAX`]; one fewer
    /// commands can be outstanding.
    pub depth: u16,
    /// Bytes of the data area that reads and writes name.
    pub data_len: usize,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            io_queues: 1,
            depth: 128,
            data_len: 16 << 20,
        }
    }
}

/// Whom to connect to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// The target's address and port (4420 for RDMA by convention).
    pub remote: SocketAddr,
    /// Name of the subsystem.
    pub subnqn: Nqn,
    /// Name of this host.
    pub hostnqn: Nqn,
    /// Identifier of this host, not all zero.
    pub hostid: HostId,
    /// I/O queues to ask for; at most what the endpoint was opened with.
    pub io_queues: u16,
    /// Entries of each I/O submission queue; at most what the endpoint was
    /// opened with. Lowered to what the controller takes.
    pub depth: u16,
    /// Keep alive timeout, in milliseconds; 0 for none.
    pub kato_ms: u32,
    /// Writes of at most this many bytes are sent inside the capsule, if the
    /// controller takes them; 0 never.
    pub in_capsule_max: u32,
    /// How long a connection, a command or a change of the controller's state
    /// may take.
    pub timeout: Duration,
}

impl HostOptions {
    /// Options for one I/O queue of 128 entries, a keep alive timeout of 5 s,
    /// in-capsule data up to 4 KiB, 10 s for each step.
    pub fn new(remote: SocketAddr, subnqn: Nqn, hostnqn: Nqn, hostid: HostId) -> Self {
        Self {
            remote,
            subnqn,
            hostnqn,
            hostid,
            io_queues: 1,
            depth: 128,
            kato_ms: 5_000,
            in_capsule_max: 4_096,
            timeout: Duration::from_secs(10),
        }
    }
}
