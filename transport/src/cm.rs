//! The seam to connection management: what librdmacm is to verbs.
//!
//! It lives in the control plane. Queue pairs live in reactors; so a passive
//! side makes the queue pair when a [`CmEvent::ConnectRequest`] comes and
//! accepts with its number, and an active side makes it before it connects.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use bytes::Bytes;

use crate::nic::{Count, QpAttrs, QpNumber};

/// A connection of one manager; never used twice while the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Why a connection did not come about or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnError {
    /// The peer refused (InfiniBand Architecture, volume 1, 12.6.7.2).
    #[error("the peer refused the connection (reason {reason}: {text})")]
    Rejected {
        /// Reason code; 28 is the consumer's, explained by its private data.
        reason: u16,
        /// The reason in words.
        text: String,
        /// What the peer's consumer added.
        private_data: Bytes,
    },
    /// No answer came in time.
    #[error("the peer at {0} did not answer")]
    Timeout(SocketAddr),
    /// Set-up broke off on this side, or on the way.
    #[error("set-up broke off: {0}")]
    Broken(String),
}

/// Something happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CmEvent {
    /// A peer wants to connect: accept or reject it.
    ConnectRequest {
        /// The connection.
        id: ConnId,
        /// The adapter that it came in by, by its number among those of this
        /// manager.
        adapter: usize,
        /// The own address that the peer used, with the port it wants.
        local: SocketAddr,
        /// The peer's address; its port where known, else 0.
        remote: SocketAddr,
        /// What to bring the queue pair up with.
        attrs: QpAttrs,
        /// The consumer's private data.
        private_data: Bytes,
    },
    /// The peer accepted: bring the queue pair up, then
    /// [`Connector::establish`].
    Accepted {
        /// The connection.
        id: ConnId,
        /// What to bring the queue pair up with.
        attrs: QpAttrs,
        /// The consumer's private data.
        private_data: Bytes,
    },
    /// An accepted connection is up on both sides.
    Established {
        /// The connection.
        id: ConnId,
    },
    /// It did not come about. The identifier is gone.
    Failed {
        /// The connection.
        id: ConnId,
        /// Why.
        error: ConnError,
    },
    /// It has ended: by the peer, as asked, or since its adapter or address went
    /// away, even before it was up. The identifier is gone.
    Disconnected {
        /// The connection.
        id: ConnId,
    },
}

/// What the consumer gives to set a connection up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnParams {
    /// The queue pair.
    pub qp: QpNumber,
    /// For the peer's consumer; at most 196 bytes when accepting, 56 when
    /// connecting (92 less the IP CM header), 148 when rejecting.
    pub private_data: Bytes,
}

/// A call named a connection that does not exist (any more), or not in a state
/// for it, or the private data is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmError {
    /// No such connection: it has ended meanwhile.
    #[error("the connection is gone")]
    Gone,
    /// Not in a state for this.
    #[error("the connection is not in a state for this")]
    State,
    /// Private data longer than the message holds.
    #[error("private data of {len} bytes; the message holds {max}")]
    PrivateData {
        /// Bytes given.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The table of connections is full.
    #[error("all {0} connections are in use")]
    Full(usize),
    /// The system refused: what, why, and what to do.
    #[error("{0}")]
    Refused(String),
}

/// Answers requests for connections and ends them, over one or more adapters.
pub trait ConnectionManager: Send {
    /// Takes connection requests for this address and port (RDMA_PS_TCP) from
    /// now on. A manager that is bound to an address takes that one only.
    ///
    /// # Errors
    /// When the table is full, or the address cannot be listened on.
    fn listen(&mut self, at: SocketAddr) -> Result<(), CmError>;

    /// Accepts a request; the queue pair is connected already.
    ///
    /// # Errors
    /// When the connection is gone, or not a request; when the system refuses,
    /// it is gone too, and no event follows.
    fn accept(&mut self, id: ConnId, params: ConnParams, now: Instant) -> Result<(), CmError>;

    /// Refuses a request as its consumer. The identifier is gone.
    ///
    /// # Errors
    /// When the connection is gone, or not a request.
    fn reject(&mut self, id: ConnId, private_data: Bytes, now: Instant) -> Result<(), CmError>;

    /// Ends a connection in any state; [`CmEvent::Disconnected`] follows.
    ///
    /// # Errors
    /// When the connection is gone.
    fn disconnect(&mut self, id: ConnId, now: Instant) -> Result<(), CmError>;

    /// Moves packets and timers on, and gives the next event if there is one.
    /// Call again until there is none.
    fn poll(&mut self, now: Instant) -> Option<CmEvent>;

    /// Readable when `poll` may have something.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// When `poll` must be called even if nothing arrives.
    fn deadline(&self) -> Option<Instant>;

    /// What it has counted since it was opened. For statistics: it allocates.
    fn counts(&self) -> Vec<Count>;
}

/// A manager that also begins connections.
pub trait Connector: ConnectionManager {
    /// Asks a peer for a connection.
    ///
    /// # Errors
    /// When the private data is too long or the table is full.
    fn connect(
        &mut self,
        remote: SocketAddr,
        params: ConnParams,
        now: Instant,
    ) -> Result<ConnId, CmError>;

    /// After [`CmEvent::Accepted`]: the queue pair is up, tell the peer.
    ///
    /// # Errors
    /// When the connection is gone, or was not accepted.
    fn establish(&mut self, id: ConnId, now: Instant) -> Result<(), CmError>;
}
