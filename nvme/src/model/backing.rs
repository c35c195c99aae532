//! A modelled controller as the driver's backing.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::BarInfo;
use sidelane_p2p::{DmaError, DmaSpace, MemView, PciAddress, Placement, Region};

use super::ModelController;
use super::cmb::CMB_BAR;
use super::pmr::PMR_BAR;
use super::state::State;
use crate::{Backing, BackingError};

/// What the driver sees of a [`ModelController`].
pub struct ModelBacking {
    pub(super) model: ModelController,
}

impl ModelBacking {
    /// The controller behind it.
    pub fn model(&self) -> &ModelController {
        &self.model
    }

    fn refused(&self, reason: impl Into<String>) -> BackingError {
        BackingError::Refused {
            device: self.address(),
            reason: reason.into(),
        }
    }
}

/// The memory behind a BAR, and its bus address.
fn memory(state: &State, bar: u8) -> Option<(u64, &MemView)> {
    match bar {
        CMB_BAR => state.dma.cmb.as_ref().map(|it| (it.bus_address, &it.view)),
        PMR_BAR => state.dma.pmr.as_ref().map(|it| (it.bus_address, &it.view)),
        _ => None,
    }
}

impl BarOwner for ModelBacking {
    fn address(&self) -> PciAddress {
        self.model.address()
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        let state = self.model.state();
        let refused = |reason: &str| DmaError::Map {
            name: name.to_owned(),
            len: range.len(),
            iova: 0,
            reason: format!("{reason} (BAR {bar} of {})", state.options.address),
        };
        let memory = memory(&state, bar);
        let (at, view) = memory.ok_or_else(|| refused("there is no memory in that BAR"))?;
        if range.is_empty() || !range.start.is_multiple_of(4096) || !range.end.is_multiple_of(4096)
        {
            return Err(refused("not whole pages"));
        }
        let view = view
            .slice(range.clone())
            .map_err(|error| refused(&error.to_string()))?;
        let placement = Placement::Peer {
            device: state.options.address,
            bar,
        };
        let start = at + range.start as u64;
        let region = state.dma.bus.map(name, placement, start, view)?;
        self.model.lent().push(region.revocation().clone());
        Ok(region)
    }
}

impl Backing for ModelBacking {
    fn read32(&self, offset: u32) -> u32 {
        self.model.state().read32(offset)
    }

    fn read64(&self, offset: u32) -> u64 {
        let state = self.model.state();
        u64::from(state.read32(offset)) | u64::from(state.read32(offset.wrapping_add(4))) << 32
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model.state().write32(offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut state = self.model.state();
        state.write32(offset.wrapping_add(4), (value >> 32) as u32);
        state.write32(offset, value as u32);
    }

    fn space(&self) -> &dyn DmaSpace {
        &self.model.0.bus
    }

    fn bar_info(&self, bar: u8) -> Result<BarInfo, BackingError> {
        let state = self.model.state();
        match (memory(&state, bar), bar) {
            (_, 0) => Ok(BarInfo {
                bus_address: self.model.0.registers_at,
                len: 0x4000,
            }),
            (Some((bus_address, view)), _) => Ok(BarInfo {
                bus_address,
                len: view.len(),
            }),
            (None, _) => Err(self.refused(format!("there is no BAR {bar}"))),
        }
    }

    fn interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, BackingError> {
        let mut state = self.model.state();
        let count = count.min(state.options.vectors);
        let failed = |error: std::io::Error| self.refused(format!("no eventfd: {error}"));
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let events = (0..count)
            .map(|_| eventfd(0, flags).map_err(std::io::Error::from))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(failed)?;
        let ours = events
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<std::io::Result<_>>();
        state.vectors = ours.map_err(failed)?;
        Ok(events)
    }

    fn set_dma(&self, on: bool) -> Result<(), BackingError> {
        self.model.state().dma.cut_off = !on;
        Ok(())
    }

    fn quiesce(&self) {
        let mut state = self.model.state();
        state.dma.cut_off = true;
        state.vectors.clear();
    }
}
