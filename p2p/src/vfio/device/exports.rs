//! A device's memory as a dma-buf (`VFIO_DEVICE_FEATURE_DMA_BUF`), for NICs to
//! register.
//!
//! The kernel revokes every dma-buf of a function that is reset, put to sleep or
//! has its memory disabled. So exports are counted, and reset asks first.

use std::sync::Arc;

use vfio_bindings::bindings::vfio as uapi;

use super::bars::PAGE;
use super::{Device, Shared};
use crate::vfio::VfioError;
use crate::vfio::error::export_reason;
use crate::{DmaBuf, ExportError, Exporter};

impl Device {
    /// Whether the kernel and the device's VFIO driver export dma-bufs at all.
    /// A BAR can still be refused, for its place in the topology.
    ///
    /// # Errors
    /// When they do not: [`VfioError::Export`] without a BAR, which names the
    /// remedy.
    pub fn probe_export(&self) -> Result<(), VfioError> {
        let shared = &self.shared;
        shared
            .kernel()
            .probe_feature(shared.fd(), uapi::VFIO_DEVICE_FEATURE_DMA_BUF)
            .map_err(|source| shared.export_error(None, source))
    }

    /// Exports `len` bytes at `offset` of a BAR, in whole pages, as a dma-buf
    /// that begins with them. It is counted as live until what comes back is
    /// dropped, and keeps the device open.
    ///
    /// # Errors
    /// When the part is not in the BAR or not made of pages, when the device is
    /// lost, or the kernel cannot export this BAR.
    pub fn export_dma_buf(&self, bar: u8, offset: u64, len: u64) -> Result<DmaBuf, VfioError> {
        let info = self.bar_info(bar)?;
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= info.len as u64);
        let whole_pages = [offset, len].iter().all(|n| n.is_multiple_of(PAGE));
        if len == 0 || !inside || !whole_pages {
            let reason = format!(
                "{len:#x} bytes at {offset:#x} are not whole pages of {PAGE} bytes inside its {:#x}",
                info.len
            );
            return Err(self.bar_error(bar, &reason));
        }
        self.shared.export(bar, offset, len)
    }
}

impl Shared {
    /// Exports a part that has been checked.
    fn export(self: &Arc<Self>, bar: u8, offset: u64, len: u64) -> Result<DmaBuf, VfioError> {
        if let Some(reason) = self.holdings.lost() {
            let device = self.address;
            return Err(VfioError::Lost { device, reason });
        }
        let live = self.holdings.count();
        let fd = self
            .kernel()
            .export_dma_buf(self.fd(), u32::from(bar), offset, len)
            .map_err(|source| self.export_error(Some(bar), source))?;
        // The count ends before the device is let go: a tuple's fields are
        // dropped in order.
        Ok(DmaBuf::new(fd, 0, len).keeping(Arc::new((live, Arc::clone(self)))))
    }

    fn export_error(&self, bar: Option<u8>, source: std::io::Error) -> VfioError {
        VfioError::Export {
            device: self.address,
            bar,
            source,
        }
    }
}

/// Exports a region of a BAR, and keeps its device open.
pub(super) struct BarExporter {
    pub(super) shared: Arc<Shared>,
    pub(super) region: String,
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Exporter for BarExporter {
    fn export(&self) -> Result<DmaBuf, ExportError> {
        self.shared
            .export(self.bar, self.offset, self.len)
            .map_err(|error| match error {
                VfioError::Lost { reason, .. } => ExportError::Revoked {
                    region: self.region.clone(),
                    reason,
                },
                VfioError::Export { device, source, .. } => ExportError::NotExportable {
                    region: self.region.clone(),
                    reason: format!(
                        "BAR {} of {device}: {} ({source})",
                        self.bar,
                        export_reason(&source)
                    ),
                },
                error => ExportError::NotExportable {
                    region: self.region.clone(),
                    reason: error.to_string(),
                },
            })
    }
}
