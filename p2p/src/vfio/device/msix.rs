//! A device's interrupts.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio as uapi;

use super::Device;
use crate::vfio::VfioError;

impl Device {
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
        let mut on = self.msix_on.lock().unwrap_or_else(PoisonError::into_inner);
        // The number of vectors cannot change while they are on.
        self.turn_msix_off(&mut on)?;
        shared
            .kernel()
            .set_triggers(shared.fd(), index, &events)
            .map_err(shared.system("turning MSI-X on"))?;
        *on = true;
        Ok(events)
    }

    /// Turns MSI-X off, if it is on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disable_interrupts(&self) -> Result<(), VfioError> {
        self.turn_msix_off(&mut self.msix_on.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn turn_msix_off(&self, on: &mut bool) -> Result<(), VfioError> {
        let shared = &self.shared;
        if *on {
            shared
                .kernel()
                .set_triggers(shared.fd(), uapi::VFIO_PCI_MSIX_IRQ_INDEX, &[])
                .map_err(shared.system("turning MSI-X off"))?;
            *on = false;
        }
        Ok(())
    }
}
