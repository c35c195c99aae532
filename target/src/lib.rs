//! Userspace NVMe over Fabrics target with PCI peer memory.

pub mod initiator;
