//! Connection management of the software adapter: what `ib_cm` and `rdma_cm` are
//! in a kernel (InfiniBand Architecture, volume 1, chapter 12, and annex A11).
//!
//! Messages are management datagrams of class 7, sent to queue pair 1 of the
//! peer. [`mad`] and [`messages`] are their forms, [`address`] how IP addresses
//! and ports appear in them, [`reason`] why one is rejected. [`CmCore`] is the
//! state machine, for both sides, without sockets and without a clock;
//! [`SoftCm`] drives it over a socket.
//!
//! Nothing that a peer sends may panic, grow a table past its limit, or be
//! answered by more than one datagram at once; but a request that shows that the
//! peer has forgotten a connection is refused, and that connection ended.
#![forbid(unsafe_code)]

pub mod address;
pub mod mad;
pub mod messages;
pub mod reason;

mod driver;
mod machine;
pub mod packet;
#[cfg(test)]
mod tests;

pub use driver::{SoftCm, SoftCmCounters};
pub use machine::{CmConfig, CmCore, CmCounters, CmDrops, Duplicates, Outgoing};
