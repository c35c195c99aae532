//! One PCI function under vfio-pci.

mod bars;
mod events;
mod exports;
mod holdings;
mod msix;
mod plain;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

pub use bars::BarInfo;
pub use events::{DeviceEvent, DeviceWatch};
use vfio_bindings::bindings::vfio as uapi;

use super::VfioError;
use super::container::Membership;
use super::kernel::{Kernel, RegionInfo};
use crate::topology::{Function, Resource};
use crate::{MemView, PciAddress};
use holdings::Holdings;

const BARS: usize = 6;
/// The command register of the configuration space, and two of its bits.
const COMMAND: u16 = 0x04;
const MEMORY_ENABLE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// A PCI function, open in a [`Container`](super::Container).
///
/// Views of its BARs, regions on them and exports keep the function open: the kernel
/// gets it back (and resets it) when the last of them and this are gone.
pub struct Device {
    shared: Arc<Shared>,
    /// Each BAR is mapped for the CPU at most once.
    views: Mutex<[Option<MemView>; BARS]>,
    /// Whether MSI-X is on: the kernel refuses to turn off what is not.
    msix_on: Mutex<bool>,
    watch: Mutex<Option<Arc<DeviceWatch>>>,
}

struct Shared {
    address: PciAddress,
    flags: u32,
    config: RegionInfo,
    bars: [Option<Resource>; BARS],
    holdings: Arc<Holdings>,
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
            holdings: Arc::default(),
            fd,
            membership,
        };
        let device = Self {
            shared: Arc::new(shared),
            views: Mutex::default(),
            msix_on: Mutex::default(),
            watch: Mutex::default(),
        };
        // Without it, touching a mapped BAR kills the process.
        device.set_command(MEMORY_ENABLE, true)?;
        Ok(device)
    }

    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.shared.address
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
    /// When exports of its memory are live, which a reset would revoke under
    /// the NICs that registered them; or when the kernel tries and fails.
    pub fn reset(&self) -> Result<bool, VfioError> {
        if !self.can_be_reset() {
            return Ok(false);
        }
        self.shared
            .holdings
            .unless_exported(|| self.reset_now())
            .unwrap_or_else(|live| {
                Err(VfioError::LiveExports {
                    device: self.address(),
                    live,
                })
            })
    }

    /// Resets the function even if its memory is in use: first tells all
    /// regions on it, with `reason`, that their memory is taken away. They stay
    /// revoked; make new ones afterwards, but none meanwhile. Does nothing to a
    /// function that cannot be reset, and says so.
    ///
    /// # Errors
    /// When the kernel tries and fails.
    pub fn reset_revoking(&self, reason: &str) -> Result<bool, VfioError> {
        if !self.can_be_reset() {
            return Ok(false);
        }
        let reason = format!("{} is reset: {reason}", self.address());
        self.shared.holdings.revoke(&reason);
        self.reset_now()
    }

    fn can_be_reset(&self) -> bool {
        self.shared.flags & uapi::VFIO_DEVICE_FLAGS_RESET != 0
    }

    fn reset_now(&self) -> Result<bool, VfioError> {
        let shared = &self.shared;
        shared
            .kernel()
            .reset(shared.fd())
            .map_err(shared.system("resetting it"))?;
        self.set_command(MEMORY_ENABLE, true)?;
        Ok(true)
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
