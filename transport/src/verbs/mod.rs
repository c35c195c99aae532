//! RDMA through rdma-core: libibverbs for the adapters, librdmacm for
//! connection management. For hardware adapters, and for the kernel's software
//! ones (rxe, siw).
//!
//! [`open`] is the whole of it for the target: from the addresses to listen on
//! it learns which RDMA devices are meant, opens each, with one
//! [`Nic`](crate::nic::Nic) per reactor, and gives the one [`RdmaCm`] that
//! answers for all of them. What can go wrong before anything is served is an
//! [`OpenError`]; it tells the thing, the reason and the remedy.
//!
//! All unsafe code is in `ffi`. Neither side of it may call the other's
//! libraries past that module, or hold what they returned.

use std::net::SocketAddr;

/// Why RDMA hardware cannot be used for what was asked. Each says the reason and
/// the remedy in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The kernel's part of connection management.
    #[error("RDMA connection management cannot be used: {reason}; {remedy}")]
    ConnectionManager {
        /// What the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// An address to listen on.
    #[error("cannot listen on {at} for RDMA: {reason}; {remedy}")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// What the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// An RDMA device.
    #[error("RDMA device {name} cannot be used: {reason}; {remedy}")]
    Adapter {
        /// Its name, as `rdma dev` lists it.
        name: String,
        /// What was tried and what the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}
