//! RDMA as the target needs it.
//!
//! [`nic::Nic`] is the seam with verbs semantics that a reactor owns and drives,
//! [`cm::ConnectionManager`] its counterpart in the control plane. The module `soft`
//! implements both as RoCEv2 over UDP sockets, without kernel module and
//! without privilege; `verbs` does by rdma-core, for hardware adapters and the
//! kernel's software ones. `nvmf` holds what NVMe over Fabrics puts on top: the
//! private data of connection set-up and the data pointers of capsules.

pub mod cm;
pub mod nic;
pub mod nvmf;
pub mod soft;
#[cfg(feature = "verbs")]
pub mod verbs;
