//! PCI peer memory: which device offers memory, which devices can reach it,
//! and how it is handed out.
//!
//! A **provider** is a device that offers memory, a **client** one that does
//! DMA to it. [`Region`] is a span of such memory, [`DmaSpace`] the I/O virtual
//! address space that all clients of one target share.
//!
//! [`topology`] says who can reach whom, [`vfio`] opens devices and makes their
//! BARs reachable, [`provider`] finds memory and judges it, and [`pool`] hands
//! it out in buffers. A NIC registers a region by its dma-buf ([`export`]), and
//! a [`Revocation`] says when the memory was taken away.

mod address;
pub mod export;
pub mod pool;
pub mod provider;
mod region;
mod revocation;
pub mod topology;
pub mod vfio;
mod view;
mod words;

pub use address::{ParsePciAddressError, PciAddress};
pub use export::{DmaBuf, ExportError, Exporter};
pub use pool::{AllocError, Pool, PoolBuf, PoolError, PoolSpec, PoolStats};
pub use region::{DmaError, DmaSpace, Placement, ProcessMemory, Region, RegionId};
pub use revocation::Revocation;
pub use view::{MemView, OutOfRange};
pub use words::Words;
