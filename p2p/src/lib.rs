//! PCI peer memory: which device offers memory, which devices can reach it,
//! and how it is handed out.
//!
//! A **provider** is a device that offers memory, a **client** one that does
//! DMA to it. [`Region`] is a span of such memory, [`DmaSpace`] the I/O virtual
//! address space that all clients of one target share.

mod address;
mod region;
mod view;

pub use address::{ParsePciAddressError, PciAddress};
pub use region::{DmaError, DmaSpace, Placement, Region, RegionId};
pub use view::{MemView, OutOfRange};
