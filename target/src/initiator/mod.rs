//! A small NVMe over Fabrics host for RDMA: what the demo, the tests and
//! conformance runs against other targets put on the far side of the wire.
//!
//! Follows the NVM Express Base Specification 2.0 ("Base"), the NVM Command Set
//! Specification 1.0 ("NVM") and the RDMA Transport Specification 1.0 ("RDMA").
//! It runs over any [`ActiveNic`](sidelane_transport::nic::ActiveNic) and
//! [`Connector`](sidelane_transport::cm::Connector), on one thread that owns
//! both.
//!
//! An [`Endpoint`] holds the adapter and the registered memory; a [`Host`] is
//! one association on it. It is strict: what the specification does not allow a
//! target to do ends the association with [`HostError::Protocol`]. It must never
//! trust a length, an index or an identifier that came from the target.

mod bringup;
mod command;
mod connection;
mod discovery;
mod endpoint;
mod error;
mod host;
mod identify;
mod io;
mod memory;
mod options;
mod queue;

pub use endpoint::Endpoint;
pub use error::{HostError, Refusal, SubmitError};
pub use host::Host;
pub use identify::{ControllerInfo, NamespaceInfo};
pub use io::{Io, IoDone, IoKind};
pub use options::{ADMIN_QUEUE_ENTRIES, DEPTH_MAX, EndpointOptions, HostOptions, IO_QUEUES_MAX};
pub use sidelane_p2p::ProcessMemory;

#[cfg(test)]
pub(crate) mod tests;
