//! One PCI function under vfio-pci.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio as uapi;

use super::VfioError;
use super::container::Membership;
use super::kernel::{Kernel, RegionInfo};
use super::mapping::Mapping;
use crate::topology::{Function, Resource};
use crate::{DmaError, MemView, PciAddress, Placement, Region};

const PAGE: u64 = 4096;
const BARS: usize = 6;
/// The command register of the configuration space, and two of its bits.
const COMMAND: u16 = 0x04;
const MEMORY_ENABLE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// Where a BAR is and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarInfo {
    /// The address of its first byte on the PCI bus, as the kernel states it.
    pub bus_address: u64,
    /// Length in bytes.
    pub len: usize,
}

/// A PCI function, open in a [`Container`](super::Container).
///
/// Views of its BARs and regions on them keep the function open: the kernel
/// gets it back (and resets it) when the last of them and this are gone.
pub struct Device {
    shared: Arc<Shared>,
    /// Each BAR is mapped for the CPU at most once.
    views: Mutex<[Option<MemView>; BARS]>,
}

struct Shared {
    address: PciAddress,
    flags: u32,
    config: RegionInfo,
    bars: [Option<Resource>; BARS],
    /// Closed before the group is left.
    fd: OwnedFd,
    membership: Membership,
}

impl Shared {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn kernel(&self) -> &dyn Kernel {
        &*self.membership.container.kernel
    }

    fn system(&self, action: &'static str) -> impl FnOnce(io::Error) -> VfioError {
        let device = self.address;
        move |source| VfioError::System {
            device,
            action,
            source,
        }
    }
}

impl Device {
    pub(super) fn open(membership: Membership, function: &Function) -> Result<Self, VfioError> {
        let fd = membership.device(function.address)?;
        let kernel = &membership.container.kernel;
        let system = |action| {
            let device = function.address;
            move |source| VfioError::System {
                device,
                action,
                source,
            }
        };
        let info = kernel
            .device_info(fd.as_fd())
            .map_err(system("asking what it is"))?;
        let config = kernel
            .region_info(fd.as_fd(), uapi::VFIO_PCI_CONFIG_REGION_INDEX)
            .map_err(system("finding its configuration space"))?;
        let bars = std::array::from_fn(|bar| function.bar(bar as u8).copied());
        let address = function.address;
        let shared = Shared {
            address,
            flags: info.flags,
            config,
            bars,
            fd,
            membership,
        };
        let device = Self {
            shared: Arc::new(shared),
            views: Mutex::default(),
        };
        // Without it, touching a mapped BAR kills the process.
        device.set_command(MEMORY_ENABLE, true)?;
        Ok(device)
    }

    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.shared.address
    }

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
    /// container, at an address equal to its bus address.
    ///
    /// # Errors
    /// When the part is not in the BAR or not made of pages, when it is mapped
    /// already, or the IOMMU does not translate that address.
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
        Ok(Region::new(name, placement, iova, part, Box::new(mapping)))
    }

    /// Lets the device do DMA and send interrupts.
    ///
    /// # Errors
    /// When the configuration space cannot be written.
    pub fn enable_bus_master(&self) -> Result<(), VfioError> {
        self.set_command(BUS_MASTER, true)
    }

    /// Stops the device from doing DMA and sending interrupts.
    ///
    /// # Errors
    /// When the configuration space cannot be written.
    pub fn disable_bus_master(&self) -> Result<(), VfioError> {
        self.set_command(BUS_MASTER, false)
    }

    /// Resets the function, where it can be reset; says whether it was. To be
    /// done before anything is enabled or exported: it makes the device forget
    /// everything.
    ///
    /// # Errors
    /// When the kernel tries and fails.
    pub fn reset(&self) -> Result<bool, VfioError> {
        let shared = &self.shared;
        if shared.flags & uapi::VFIO_DEVICE_FLAGS_RESET == 0 {
            return Ok(false);
        }
        shared
            .kernel()
            .reset(shared.fd())
            .map_err(shared.system("resetting it"))?;
        self.set_command(MEMORY_ENABLE, true)?;
        Ok(true)
    }

    /// Turns MSI-X on, with as many vectors as asked for or the device has,
    /// whichever is less. Each comes as an eventfd that counts its interrupts
    /// and does not block.
    ///
    /// # Errors
    /// When the device has none, or the kernel refuses.
    pub fn enable_msix(&self, count: usize) -> Result<Vec<OwnedFd>, VfioError> {
        let shared = &self.shared;
        let index = uapi::VFIO_PCI_MSIX_IRQ_INDEX;
        let offered = shared
            .kernel()
            .irq_info(shared.fd(), index)
            .map_err(shared.system("asking for its interrupts"))?;
        if offered.count == 0 || offered.flags & uapi::VFIO_IRQ_INFO_EVENTFD == 0 {
            return Err(VfioError::NoMsix {
                device: self.address(),
            });
        }
        let count = count.clamp(1, offered.count as usize);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let events = (0..count)
            .map(|_| eventfd(0, flags).map_err(io::Error::from))
            .collect::<io::Result<Vec<_>>>()
            .map_err(shared.system("making an eventfd"))?;
        // The number of vectors cannot change while they are on.
        self.disable_interrupts()?;
        shared
            .kernel()
            .set_triggers(shared.fd(), index, &events)
            .map_err(shared.system("turning MSI-X on"))?;
        Ok(events)
    }

    /// Turns MSI-X off.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disable_interrupts(&self) -> Result<(), VfioError> {
        let shared = &self.shared;
        shared
            .kernel()
            .set_triggers(shared.fd(), uapi::VFIO_PCI_MSIX_IRQ_INDEX, &[])
            .map_err(shared.system("turning MSI-X off"))
    }

    /// Reads configuration space, as vfio-pci presents it.
    ///
    /// # Errors
    /// When the range is not in it.
    pub fn read_config(&self, offset: u16, into: &mut [u8]) -> Result<(), VfioError> {
        let shared = &self.shared;
        let at = self.config_at(offset, into.len())?;
        let read = shared.kernel().read_at(shared.fd(), into, at);
        whole(read, into.len()).map_err(shared.system("reading its configuration space"))
    }

    /// Writes configuration space; vfio-pci keeps back what is not for users.
    ///
    /// # Errors
    /// When the range is not in it.
    pub fn write_config(&self, offset: u16, from: &[u8]) -> Result<(), VfioError> {
        let shared = &self.shared;
        let at = self.config_at(offset, from.len())?;
        let written = shared.kernel().write_at(shared.fd(), from, at);
        whole(written, from.len()).map_err(shared.system("writing its configuration space"))
    }

    fn config_at(&self, offset: u16, len: usize) -> Result<u64, VfioError> {
        let config = &self.shared.config;
        if u64::from(offset) + len as u64 > config.size {
            let error = io::ErrorKind::InvalidInput.into();
            return Err(self
                .shared
                .system("finding that part of its configuration space")(
                error
            ));
        }
        Ok(config.offset + u64::from(offset))
    }

    fn set_command(&self, bit: u16, on: bool) -> Result<(), VfioError> {
        let mut bytes = [0; 2];
        self.read_config(COMMAND, &mut bytes)?;
        let old = u16::from_le_bytes(bytes);
        let new = if on { old | bit } else { old & !bit };
        if new == old {
            Ok(())
        } else {
            self.write_config(COMMAND, &new.to_le_bytes())
        }
    }

    fn bar_error(&self, bar: u8, reason: &str) -> VfioError {
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

fn whole(done: io::Result<usize>, wanted: usize) -> io::Result<()> {
    match done? {
        done if done == wanted => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.address())
    }
}

#[cfg(test)]
mod tests;
