//! A controller under vfio-pci.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::{BarInfo, Device};
use sidelane_p2p::{DmaError, DmaSpace, MemView, PciAddress, Region};

use super::{Backing, BackingError};

/// The least that BAR 0 must have: the registers and one pair of doorbells.
const BAR0_MIN: usize = 0x1008;

/// A controller under vfio-pci. Dropping it cuts the controller off.
pub struct VfioBacking {
    device: Arc<Device>,
    space: Arc<dyn DmaSpace>,
    registers: MemView,
    /// Once is enough: by the next time the function may be opened anew.
    quiesced: AtomicBool,
}

impl VfioBacking {
    /// Resets the function and maps its registers. It does no DMA before
    /// [`set_dma`](Backing::set_dma). `space` is the container that the device was
    /// opened in.
    ///
    /// # Errors
    /// When the function cannot be reset or mapped, or BAR 0 is too short to be
    /// that of an NVMe controller.
    pub fn open(device: Arc<Device>, space: Arc<dyn DmaSpace>) -> Result<Self, BackingError> {
        if !device.reset()? {
            tracing::debug!(device = %device.address(), "no function reset; the controller reset must do");
        }
        let registers = device.map_bar(0)?;
        if registers.len() < BAR0_MIN {
            return Err(BackingError::Refused {
                device: device.address(),
                reason: format!(
                    "BAR 0 has {} bytes, too few for an NVMe controller; is it one (`lspci -nn`)?",
                    registers.len()
                ),
            });
        }
        Ok(Self {
            device,
            space,
            registers,
            quiesced: AtomicBool::new(false),
        })
    }

    /// The function.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for VfioBacking {
    fn drop(&mut self) {
        self.quiesce();
    }
}

impl BarOwner for VfioBacking {
    fn address(&self) -> PciAddress {
        self.device.address()
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        self.device.bar_region(name, bar, range)
    }
}

/// A register outside of what is mapped reads as what nobody answers to.
impl Backing for VfioBacking {
    fn read32(&self, offset: u32) -> u32 {
        self.registers
            .load_u32(offset as usize, Ordering::Acquire)
            .unwrap_or(u32::MAX)
    }

    fn read64(&self, offset: u32) -> u64 {
        self.registers
            .load_u64(offset as usize, Ordering::Acquire)
            .unwrap_or(u64::MAX)
    }

    // A release store orders writes to ordinary memory before a write to a BAR
    // on x86, the only platform so far; others need a barrier for devices here.
    fn write32(&self, offset: u32, value: u32) {
        if self
            .registers
            .store_u32(offset as usize, value, Ordering::Release)
            .is_err()
        {
            tracing::error!(device = %self.address(), offset, "register write outside of BAR 0");
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        if self
            .registers
            .store_u64(offset as usize, value, Ordering::Release)
            .is_err()
        {
            tracing::error!(device = %self.address(), offset, "register write outside of BAR 0");
        }
    }

    fn space(&self) -> &dyn DmaSpace {
        &*self.space
    }

    fn bar_info(&self, bar: u8) -> Result<BarInfo, BackingError> {
        Ok(self.device.bar_info(bar)?)
    }

    fn interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, BackingError> {
        Ok(self.device.enable_msix(count)?)
    }

    fn set_dma(&self, on: bool) -> Result<(), BackingError> {
        Ok(match on {
            true => self.device.enable_bus_master(),
            false => self.device.disable_bus_master(),
        }?)
    }

    fn quiesce(&self) {
        if self.quiesced.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.device.disable_bus_master() {
            tracing::warn!(%error, "a controller could not be cut off from memory");
        }
        if let Err(error) = self.device.disable_interrupts() {
            tracing::debug!(%error, "interrupts could not be turned off");
        }
    }
}
