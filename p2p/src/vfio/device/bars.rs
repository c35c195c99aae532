//! A device's BARs: where they are, their view for the CPU, and regions of them
//! for every device of the container.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use vfio_bindings::bindings::vfio as uapi;

use super::Device;
use super::exports::BarExporter;
use crate::vfio::VfioError;
use crate::vfio::kernel::RegionInfo;
use crate::vfio::mapping::Mapping;
use crate::{DmaError, MemView, Placement, Region};

pub(super) const PAGE: u64 = 4096;

/// Where a BAR is and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarInfo {
    /// The address of its first byte on the PCI bus, as the kernel states it.
    pub bus_address: u64,
    /// Length in bytes.
    pub len: usize,
}

impl Device {
    /// Where a BAR is, by its number from 0 to 5. The bus address is that of
    /// sysfs `resource`; on machines whose host bridges translate, that is the
    /// CPU's address of it, and such machines are not supported.
    ///
    /// # Errors
    /// When the device has no such BAR, or it is not memory.
    pub fn bar_info(&self, bar: u8) -> Result<BarInfo, VfioError> {
        let resource = self.shared.bars.get(usize::from(bar)).copied().flatten();
        match resource {
            Some(resource) if resource.is_memory() => {
                let len = usize::try_from(resource.len)
                    .map_err(|_| self.bar_error(bar, "it is too long for this machine"))?;
                Ok(BarInfo {
                    bus_address: resource.start,
                    len,
                })
            }
            Some(_) => Err(self.bar_error(bar, "it is I/O ports, not memory")),
            None => Err(self.bar_error(bar, "the device does not have it")),
        }
    }

    /// The CPU's view of a BAR, mapped on first use: all of it, or, where the
    /// kernel lets only parts be mapped, the part that begins at its start.
    ///
    /// # Errors
    /// When there is no such BAR, or the kernel does not let it be mapped.
    pub fn map_bar(&self, bar: u8) -> Result<MemView, VfioError> {
        let info = self.bar_info(bar)?;
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut views[usize::from(bar)];
        if let Some(view) = slot {
            return Ok(view.clone());
        }
        let view = self.map_bar_now(bar, info)?;
        Ok(slot.insert(view).clone())
    }

    fn map_bar_now(&self, bar: u8, info: BarInfo) -> Result<MemView, VfioError> {
        let shared = &self.shared;
        let region = shared
            .kernel()
            .region_info(shared.fd(), u32::from(bar))
            .map_err(shared.system("finding a BAR"))?;
        let len = mappable(&region)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(|| self.bar_error(bar, "vfio-pci does not let it be mapped"))?;
        let view = shared
            .kernel()
            .map_device(shared.fd(), region.offset, len.min(info.len))
            .map_err(|error| self.bar_error(bar, &format!("mapping it failed: {error}")))?;
        Ok(view.keeping(Arc::clone(&self.shared) as _))
    }

    /// Makes a part of a BAR, in whole pages, reachable for every device of the
    /// container, at an address equal to its bus address. The region can be
    /// exported, if the kernel can, and is told when the device is taken away.
    ///
    /// # Errors
    /// When the part is not in the BAR or not made of pages, when it is mapped
    /// already, the IOMMU does not translate that address, or the device is
    /// lost.
    pub fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        let len = range.len();
        let refused = |iova, reason| DmaError::Map {
            name: name.to_owned(),
            len,
            iova,
            reason,
        };
        let info = self
            .bar_info(bar)
            .map_err(|error| refused(0, error.to_string()))?;
        let iova = info.bus_address.wrapping_add(range.start as u64);
        let whole_pages = [range.start as u64, len as u64, iova]
            .iter()
            .all(|n| n.is_multiple_of(PAGE));
        if len == 0 || !whole_pages {
            let reason = format!(
                "bytes {range:#x?} of BAR {bar} of {} are not whole pages of {PAGE} bytes",
                self.address()
            );
            return Err(refused(iova, reason));
        }
        let whole = self
            .map_bar(bar)
            .map_err(|error| refused(iova, error.to_string()))?;
        let part = whole.slice(range.clone()).map_err(|_| {
            let there = whole.len();
            refused(
                iova,
                format!(
                    "BAR {bar} of {} can be mapped up to {there:#x}, not for {range:#x?}",
                    self.address()
                ),
            )
        })?;
        if let Some(reason) = self.shared.holdings.lost() {
            return Err(refused(iova, reason));
        }
        let container = &self.shared.membership.container;
        if !container.state().iova.claim(iova, len as u64) {
            return Err(refused(
                iova,
                "devices already have something mapped there".to_owned(),
            ));
        }
        let mapping = Mapping::new(container, name, part.clone(), iova)?;
        let placement = Placement::Peer {
            device: self.address(),
            bar,
        };
        let exporter = BarExporter {
            shared: Arc::clone(&self.shared),
            region: name.to_owned(),
            bar,
            offset: range.start as u64,
            len: len as u64,
        };
        let region = Region::new(name, placement, iova, part, Box::new(mapping))
            .with_exporter(Arc::new(exporter));
        self.shared.holdings.enter(region.revocation());
        Ok(region)
    }

    pub(super) fn bar_error(&self, bar: u8, reason: &str) -> VfioError {
        VfioError::Bar {
            device: self.address(),
            bar,
            reason: reason.to_owned(),
        }
    }
}

/// How much of a region can be mapped from its start.
fn mappable(region: &RegionInfo) -> Option<u64> {
    if region.flags & uapi::VFIO_REGION_INFO_FLAG_MMAP == 0 {
        return None;
    }
    let len = match &region.sparse {
        None => region.size,
        Some(areas) => areas
            .iter()
            .find(|(offset, _)| *offset == 0)?
            .1
            .min(region.size),
    };
    (len > 0).then_some(len)
}
