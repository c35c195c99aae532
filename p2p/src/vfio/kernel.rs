//! What this crate asks of the kernel, as a seam that a test replaces.

use std::ffi::CStr;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use crate::MemView;

/// The I/O addresses and page sizes that an IOMMU translates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct IommuInfo {
    /// One bit for each page size.
    pub page_sizes: u64,
    /// What may be mapped; empty when the kernel does not say.
    pub ranges: Vec<RangeInclusive<u64>>,
}

/// What a device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceInfo {
    /// `VFIO_DEVICE_FLAGS_*`.
    pub flags: u32,
}

/// A region of a device's file: a BAR or the configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RegionInfo {
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Length in bytes; 0 when not implemented.
    pub size: u64,
    /// Where it is in the device's file.
    pub offset: u64,
    /// The parts that may be mapped, as offset and length; none stated means
    /// all of it.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// One kind of interrupt of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IrqInfo {
    /// `VFIO_IRQ_INFO_*`.
    pub flags: u32,
    /// Number of vectors; 0 when not implemented.
    pub count: u32,
}

/// The system calls, one method each. Errors are the kernel's own.
pub(super) trait Kernel: Send + Sync {
    /// Opens a device file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<OwnedFd>;
    /// `VFIO_GET_API_VERSION`.
    fn api_version(&self, container: BorrowedFd<'_>) -> io::Result<u32>;
    /// `VFIO_CHECK_EXTENSION`.
    fn has_extension(&self, container: BorrowedFd<'_>, extension: u32) -> io::Result<bool>;
    /// `VFIO_SET_IOMMU`.
    fn set_iommu(&self, container: BorrowedFd<'_>, kind: u32) -> io::Result<()>;
    /// `VFIO_IOMMU_GET_INFO`.
    fn iommu_info(&self, container: BorrowedFd<'_>) -> io::Result<IommuInfo>;
    /// `VFIO_IOMMU_MAP_DMA`: devices may read and write the memory at `iova`.
    fn map_dma(&self, container: BorrowedFd<'_>, memory: &MemView, iova: u64) -> io::Result<()>;
    /// `VFIO_IOMMU_UNMAP_DMA`; gives the number of bytes unmapped.
    fn unmap_dma(&self, container: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<u64>;
    /// `VFIO_GROUP_GET_STATUS`: whether all members may be used.
    fn is_viable(&self, group: BorrowedFd<'_>) -> io::Result<bool>;
    /// `VFIO_GROUP_SET_CONTAINER`.
    fn set_container(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()>;
    /// `VFIO_GROUP_UNSET_CONTAINER`.
    fn unset_container(&self, group: BorrowedFd<'_>) -> io::Result<()>;
    /// `VFIO_GROUP_GET_DEVICE_FD`.
    fn device(&self, group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd>;
    /// `VFIO_DEVICE_GET_INFO`.
    fn device_info(&self, device: BorrowedFd<'_>) -> io::Result<DeviceInfo>;
    /// `VFIO_DEVICE_GET_REGION_INFO`.
    fn region_info(&self, device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo>;
    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    fn irq_info(&self, device: BorrowedFd<'_>, index: u32) -> io::Result<IrqInfo>;
    /// `VFIO_DEVICE_SET_IRQS`: from now on the first vectors of `index` count
    /// on these files; none turns the kind off.
    fn set_triggers(
        &self,
        device: BorrowedFd<'_>,
        index: u32,
        triggers: &[OwnedFd],
    ) -> io::Result<()>;
    /// `VFIO_DEVICE_FEATURE` with `VFIO_DEVICE_FEATURE_PROBE`: whether the
    /// feature of that number can be got.
    fn probe_feature(&self, device: BorrowedFd<'_>, feature: u32) -> io::Result<()>;
    /// `VFIO_DEVICE_FEATURE_DMA_BUF`: a part of a BAR as a dma-buf, closed on
    /// exec.
    fn export_dma_buf(
        &self,
        device: BorrowedFd<'_>,
        bar: u32,
        offset: u64,
        len: u64,
    ) -> io::Result<OwnedFd>;
    /// `VFIO_DEVICE_RESET`.
    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()>;
    /// Maps a part of a device's file, shared.
    fn map_device(&self, device: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MemView>;
    /// Zeroed private memory, present from the start.
    fn map_anonymous(&self, len: usize) -> io::Result<MemView>;
    /// Reads from a device's file.
    fn read_at(&self, device: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes to a device's file.
    fn write_at(&self, device: BorrowedFd<'_>, from: &[u8], offset: u64) -> io::Result<usize>;
    /// The limit on locked memory, in bytes; `None` when there is none.
    fn memlock_limit(&self) -> Option<u64>;
}
