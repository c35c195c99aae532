//! Devices in userspace, through Linux's VFIO (`include/uapi/linux/vfio.h`).
//!
//! One [`Container`] is one I/O address space; every [`Device`] opened through
//! it does DMA in that space, so one address means the same memory to all of
//! them. A BAR is mapped there at its own bus address: then the address holds
//! whether a switch passes a request on directly or sends it up through the
//! IOMMU. Everything else is kept out of all BARs and bridge windows.
//!
//! This layer never takes a device from a kernel driver. It says who has it and
//! what an operator would type.
//!
//! Type 1, version 2, on group files: kernels of distributions have this
//! without iommufd. VFIO checks no route between devices; see
//! [`Topology::route`](crate::topology::Topology::route).

mod container;
mod device;
mod error;
#[cfg(test)]
mod fake;
mod iova;
mod kernel;
mod linux;
mod mapping;
mod words;

pub use container::{Container, openable};
pub use device::{BarInfo, Device, DeviceEvent, DeviceWatch};
pub use error::{GroupMember, VfioError};
pub(crate) use linux::map_shared;
