//! What the kernel has to say about a device while it is in use: that it wants
//! it back (`VFIO_PCI_REQ_IRQ_INDEX`), and that it met a fatal error
//! (`VFIO_PCI_ERR_IRQ_INDEX`, from PCI Express AER).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio as uapi;

use super::holdings::Holdings;
use super::{Device, Shared};
use crate::PciAddress;
use crate::vfio::VfioError;

/// Something that happened to a device as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The kernel wants the device back: it is being removed or unbound. It
    /// waits until everything that keeps the device open is dropped, and
    /// repeats itself meanwhile.
    RemovalRequested,
    /// The device met an error that it does not recover from by itself.
    FatalError,
}

impl fmt::Display for DeviceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RemovalRequested => "the kernel wants the device back (removed or unbound)",
            Self::FatalError => "the device met a fatal PCI error",
        })
    }
}

/// Tells what happens to a device. Readable (for poll and epoll) while there is
/// something to be read; does not keep the device open.
pub struct DeviceWatch {
    device: PciAddress,
    any: OwnedFd,
    sources: Vec<(DeviceEvent, OwnedFd)>,
    holdings: Arc<Holdings>,
}

impl DeviceWatch {
    /// The device's address.
    pub fn address(&self) -> PciAddress {
        self.device
    }

    /// What happened, if something did; to be called until nothing is left.
    /// Either event is the end of the device: by then, all regions on it are
    /// revoked, and their listeners have been called on this thread.
    pub fn read_event(&self) -> Option<DeviceEvent> {
        let (event, _) = self.sources.iter().find(|(_, fd)| fired(fd))?;
        let reason = format!("{}: {event}", self.device);
        if self.holdings.lose(&reason) {
            tracing::error!(device = %self.device, %event, "memory of a device is taken away");
        }
        Some(*event)
    }
}

impl AsFd for DeviceWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

impl fmt::Debug for DeviceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceWatch({})", self.device)
    }
}

/// Whether an eventfd counted something; it is then at zero again.
fn fired(fd: &OwnedFd) -> bool {
    matches!(rustix::io::read(fd, &mut [0; 8]), Ok(8))
}

impl Device {
    /// Has the kernel tell what happens to the device as a whole. Asked again,
    /// it gives the same watch. A device that is not PCI Express reports no
    /// errors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn watch(&self) -> Result<Arc<DeviceWatch>, VfioError> {
        let mut slot = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &*slot {
            return Ok(Arc::clone(watch));
        }
        let watch = Arc::new(self.shared.start_watch()?);
        Ok(Arc::clone(slot.insert(watch)))
    }
}

impl Shared {
    fn start_watch(&self) -> Result<DeviceWatch, VfioError> {
        let system = |error: rustix::io::Errno| self.system("making an eventfd")(error.into());
        let any = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let mut sources = Vec::new();
        for (index, event) in [
            (uapi::VFIO_PCI_REQ_IRQ_INDEX, DeviceEvent::RemovalRequested),
            (uapi::VFIO_PCI_ERR_IRQ_INDEX, DeviceEvent::FatalError),
        ] {
            if !self.tells(index)? {
                tracing::debug!(device = %self.address, ?event, "the kernel does not tell of it");
                continue;
            }
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let fd = eventfd(0, flags).map_err(system)?;
            let data = epoll::EventData::new_u64(u64::from(index));
            epoll::add(&any, &fd, data, epoll::EventFlags::IN).map_err(system)?;
            self.kernel()
                .set_triggers(self.fd(), index, std::slice::from_ref(&fd))
                .map_err(self.system("asking to be told of its removal and errors"))?;
            sources.push((event, fd));
        }
        Ok(DeviceWatch {
            device: self.address,
            any,
            sources,
            holdings: Arc::clone(&self.holdings),
        })
    }

    fn tells(&self, index: u32) -> Result<bool, VfioError> {
        match self.kernel().irq_info(self.fd(), index) {
            Ok(info) => Ok(info.count > 0 && info.flags & uapi::VFIO_IRQ_INFO_EVENTFD != 0),
            // The kernel's answer for a kind that the device does not have.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(self.system("asking what it tells of")(error)),
        }
    }
}
