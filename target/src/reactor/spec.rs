//! What a reactor is made of, and why it cannot be made.

use std::sync::Arc;

use sidelane_p2p::pool::{PoolError, PoolSpec};
use sidelane_p2p::provider::PathReason;
use sidelane_p2p::{DmaError, DmaSpace};
use sidelane_transport::nic::{Nic, NicError, RegisterError};
use tokio::sync::mpsc::UnboundedSender;

use super::mailbox::FromReactor;
use super::ways::Routes;
use crate::backend::Backend;
use crate::stats::ReactorCounters;

/// When data that an adapter has placed is made visible to other devices before
/// an SSD hears of it (the flush rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Where it lies in peer memory.
    Auto,
    /// Wherever it lies.
    Always,
    /// Never: what the SSD reads may be older than what the host has written.
    Never,
}

impl FlushPolicy {
    pub(super) fn covers(self, path: PathReason) -> bool {
        match self {
            Self::Auto => path == PathReason::Peer,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// A namespace, as a reactor carries out its commands.
pub struct Namespace {
    /// What stores its blocks; `None` while that is away.
    pub backend: Option<Box<dyn Backend>>,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Memory for its payload, by adapter.
    pub routes: Vec<Routes>,
    /// Whether data may come inside the capsule, which is host memory.
    pub in_capsule: bool,
}

/// A reactor's part of an adapter.
pub struct NicSpec {
    /// It.
    pub nic: Box<dyn Nic + Send>,
    /// Commands in flight over all its connections.
    pub slots: usize,
}

/// All that a reactor is made of. Everything in it can be sent to its thread.
pub struct ReactorSpec {
    /// The core it runs on.
    pub core: usize,
    /// Its parts of the adapters.
    pub nics: Vec<NicSpec>,
    /// Address space for its own memory.
    pub space: Arc<dyn DmaSpace>,
    /// Its shares of the pools, in the target's order.
    pub pools: Vec<PoolSpec>,
    /// The namespaces, in the target's order.
    pub namespaces: Vec<Namespace>,
    /// When placed data is made visible before it is used.
    pub flush: FlushPolicy,
    /// The most in-capsule data, in bytes.
    pub in_capsule: usize,
    /// What it counts.
    pub counters: Arc<ReactorCounters>,
    /// Where it reports to.
    pub reports: UnboundedSender<FromReactor>,
}

/// Why a reactor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// Memory for commands and responses.
    #[error("memory for commands and responses: {0}")]
    Memory(#[from] DmaError),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The adapter does not take a region.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Receive buffers.
    #[error("{nic} does not take {slots} receive buffers: {error}")]
    Receive {
        /// The adapter.
        nic: String,
        /// Receive buffers.
        slots: usize,
        /// Its answer.
        error: NicError,
    },
    /// Operating system.
    #[error("the reactor's thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
    /// Too many file descriptors to wait on.
    #[error(
        "a reactor waits for at most {limit} adapters and namespaces, and has {given}; use fewer"
    )]
    TooMany {
        /// Adapters and namespaces it has.
        given: usize,
        /// How many it takes.
        limit: usize,
    },
}
