//! Userspace NVMe over Fabrics target with PCI peer memory.

pub mod initiator;
pub mod session;
pub mod subsystem;
