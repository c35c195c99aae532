//! One I/O address space, and the IOMMU groups that are in it.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_bindings::bindings::vfio as uapi;

use super::iova::IovaSpace;
use super::kernel::Kernel;
use super::linux::Linux;
use super::mapping::Mapping;
use super::{Device, GroupMember, VfioError};
use crate::topology::{Function, Topology};
use crate::{DmaError, DmaSpace, PciAddress, Placement, Region};

/// The page size in which memory is mapped for devices.
const PAGE: usize = 4096;

/// An I/O address space that several devices share.
///
/// The space exists from the first device on: before that, nothing can be
/// mapped in it. Whatever is opened or mapped through a container keeps it
/// alive.
pub struct Container {
    shared: Arc<Shared>,
}

/// What devices and mappings hold on to.
pub(super) struct Shared {
    pub(super) kernel: Arc<dyn Kernel>,
    fd: OwnedFd,
    state: Mutex<State>,
}

/// Guarded: opening and mapping are control-plane work.
#[derive(Default)]
pub(super) struct State {
    groups: BTreeMap<u32, Group>,
    pub(super) iova: IovaSpace,
}

struct Group {
    fd: OwnedFd,
    /// Devices of it that are open.
    devices: usize,
}

impl Container {
    /// Opens `/dev/vfio/vfio`.
    ///
    /// # Errors
    /// When VFIO is not there, not permitted, or has no type 1 IOMMU.
    pub fn open() -> Result<Arc<Self>, VfioError> {
        Self::open_with(Arc::new(Linux))
    }

    pub(super) fn open_with(kernel: Arc<dyn Kernel>) -> Result<Arc<Self>, VfioError> {
        let path = Path::new("/dev/vfio/vfio");
        let unavailable = |source| VfioError::Unavailable {
            path: path.to_owned(),
            source,
        };
        let fd = kernel.open(path).map_err(unavailable)?;
        let version = kernel.api_version(fd.as_fd()).map_err(unavailable)?;
        if version != uapi::VFIO_API_VERSION
            || !kernel
                .has_extension(fd.as_fd(), uapi::VFIO_TYPE1v2_IOMMU)
                .map_err(unavailable)?
        {
            return Err(VfioError::NoType1 { version });
        }
        let shared = Shared {
            kernel,
            fd,
            state: Mutex::default(),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
        }))
    }

    /// Opens a device and lets it into this address space. Checked first, and
    /// explained: whether it is there, under vfio-pci, in a group that can be
    /// used. `topology` must be fresh: it says who has the device now.
    ///
    /// The device is not reset and does no DMA yet; see [`Device::reset`] and
    /// [`Device::enable_bus_master`].
    ///
    /// # Errors
    /// When one of those does not hold, or the kernel refuses.
    pub fn open_device(
        self: &Arc<Self>,
        address: PciAddress,
        topology: &Topology,
    ) -> Result<Arc<Device>, VfioError> {
        let function = topology
            .function(address)
            .ok_or(VfioError::Absent { device: address })?;
        let group = check(function)?;
        let membership = self.shared.join(function, group, topology)?;
        Device::open(membership, function).map(Arc::new)
    }
}

impl DmaSpace for Container {
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
        let shared = &self.shared;
        let no_memory = |source| DmaError::Memory {
            name: name.to_owned(),
            len,
            source,
        };
        let rounded = len
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(|| no_memory(io::ErrorKind::OutOfMemory.into()))?;
        let iova = {
            let mut state = shared.state();
            if state.groups.is_empty() {
                let reason = "no device is open in this address space yet; open one first".into();
                return Err(DmaError::Map {
                    name: name.to_owned(),
                    len,
                    iova: 0,
                    reason,
                });
            }
            let full = || DmaError::Full {
                name: name.to_owned(),
                len,
            };
            state.iova.allocate(rounded as u64).ok_or_else(full)?
        };
        let memory = shared.kernel.map_anonymous(rounded).map_err(|source| {
            shared.state().iova.release(iova);
            no_memory(source)
        })?;
        let mapping = Mapping::new(shared, name, memory.clone(), iova)?;
        Ok(Region::new(
            name,
            Placement::Host,
            iova,
            memory,
            Box::new(mapping),
        ))
    }
}

/// Whether a device could be opened, as far as sysfs tells: it is there, under
/// vfio-pci, and in a group without kernel drivers. Opens nothing.
///
/// # Errors
/// As [`Container::open_device`], for what can be known before.
pub fn openable(address: PciAddress, topology: &Topology) -> Result<(), VfioError> {
    let function = topology
        .function(address)
        .ok_or(VfioError::Absent { device: address })?;
    let group = check(function)?;
    let members = obstacles(function, group, topology);
    if members.is_empty() {
        Ok(())
    } else {
        Err(VfioError::GroupNotViable {
            device: address,
            group,
            members,
        })
    }
}

/// The function's group, if it is one that VFIO can use.
fn check(function: &Function) -> Result<u32, VfioError> {
    let device = function.address;
    let group = function
        .iommu_group
        .ok_or(VfioError::NoIommuGroup { device })?;
    match function.driver.as_deref() {
        Some(driver) if is_vfio(driver) => Ok(group),
        Some(driver) => Err(VfioError::KernelDriver {
            device,
            driver: driver.to_owned(),
        }),
        None => Err(VfioError::Unbound { device }),
    }
}

/// vfio-pci and its kin for particular vendors (`mlx5_vfio_pci`).
fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci")
}

/// Drivers of the group's other functions that keep VFIO from using it. Those
/// of bridges do no DMA, and the kernel lets them be.
fn obstacles(function: &Function, group: u32, topology: &Topology) -> Vec<GroupMember> {
    topology
        .group_members(group)
        .filter(|member| member.address != function.address)
        .filter_map(|member| {
            let driver = member.driver.as_deref()?;
            let harmless = is_vfio(driver) || matches!(driver, "pcieport" | "pci-stub");
            (!harmless).then(|| GroupMember {
                address: member.address,
                driver: driver.to_owned(),
            })
        })
        .collect()
}

/// A device's place in a container; given up when dropped.
pub(super) struct Membership {
    pub(super) container: Arc<Shared>,
    group: u32,
}

impl Membership {
    /// Opens the device's own file.
    pub(super) fn device(&self, address: PciAddress) -> Result<OwnedFd, VfioError> {
        let path = group_path(self.group);
        let system = |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY) => VfioError::Busy {
                device: address,
                path: path.clone(),
            },
            _ => VfioError::System {
                device: address,
                action: "opening it in its group",
                source,
            },
        };
        let name = std::ffi::CString::new(address.to_string())
            .map_err(|_| system(io::ErrorKind::InvalidInput.into()))?;
        let state = self.container.state();
        let group = state
            .groups
            .get(&self.group)
            .ok_or_else(|| system(io::ErrorKind::NotFound.into()))?;
        self.container
            .kernel
            .device(group.fd.as_fd(), &name)
            .map_err(system)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.container.state();
        if let Some(group) = state.groups.get_mut(&self.group) {
            group.devices -= 1;
        }
        self.container.release_idle_groups(&mut state);
    }
}

impl Shared {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the function's group into the container, if it is not in it yet.
    fn join(
        self: &Arc<Self>,
        function: &Function,
        number: u32,
        topology: &Topology,
    ) -> Result<Membership, VfioError> {
        let mut state = self.state();
        if !state.groups.contains_key(&number) {
            let fd = self.attach(function, number, topology, state.groups.is_empty())?;
            state.groups.insert(number, Group { fd, devices: 0 });
        }
        if let Some(group) = state.groups.get_mut(&number) {
            group.devices += 1;
        }
        self.release_idle_groups(&mut state);
        let membership = Membership {
            container: Arc::clone(self),
            group: number,
        };
        let info = self.kernel.iommu_info(self.fd());
        let result = info.map(|info| state.iova.set_limits(info.ranges, windows(topology)));
        // A membership takes the lock when it goes.
        drop(state);
        let system = |source| VfioError::System {
            device: function.address,
            action: "asking for the IOMMU's address ranges",
            source,
        };
        result.map_err(system).map(|()| membership)
    }

    fn attach(
        &self,
        function: &Function,
        number: u32,
        topology: &Topology,
        first: bool,
    ) -> Result<OwnedFd, VfioError> {
        let device = function.address;
        let path = group_path(number);
        let fd = self
            .kernel
            .open(&path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY) => VfioError::Busy {
                    device,
                    path: path.clone(),
                },
                _ => VfioError::Group {
                    device,
                    path: path.clone(),
                    source,
                },
            })?;
        let system = |action| {
            move |source| VfioError::System {
                device,
                action,
                source,
            }
        };
        let viable = self
            .kernel
            .is_viable(fd.as_fd())
            .map_err(system("asking for the group's state"))?;
        if !viable {
            let members = obstacles(function, number, topology);
            return Err(VfioError::GroupNotViable {
                device,
                group: number,
                members,
            });
        }
        self.kernel
            .set_container(fd.as_fd(), self.fd())
            .map_err(system("letting its group into the container"))?;
        if first {
            let set = self.kernel.set_iommu(self.fd(), uapi::VFIO_TYPE1v2_IOMMU);
            if let Err(source) = set {
                // Closing the group's file undoes the rest.
                return Err(system("setting up the IOMMU for it")(source));
            }
        }
        Ok(fd)
    }

    /// Gives back groups without open devices, so that they can be used
    /// elsewhere. One stays: the kernel forgets all mappings with the last.
    fn release_idle_groups(&self, state: &mut State) {
        while state.groups.len() > 1 {
            let Some(idle) = state
                .groups
                .iter()
                .find(|(_, g)| g.devices == 0)
                .map(|(&n, _)| n)
            else {
                return;
            };
            if let Some(group) = state.groups.remove(&idle)
                && let Err(error) = self.kernel.unset_container(group.fd.as_fd())
            {
                tracing::warn!(group = idle, %error, "an IOMMU group could not be given back");
            }
        }
    }
}

fn group_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/vfio/{number}"))
}

/// All memory addresses that some function answers to or passes on.
fn windows(topology: &Topology) -> Vec<RangeInclusive<u64>> {
    topology
        .functions()
        .flat_map(|function| &function.resources)
        .filter(|resource| resource.is_memory())
        .map(|resource| resource.start..=resource.start + (resource.len - 1))
        .collect()
}

#[cfg(test)]
mod tests;
