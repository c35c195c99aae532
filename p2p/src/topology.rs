//! Which PCI functions there are, and which can reach whose memory.
//!
//! Read once from sysfs, under a root that a test replaces by a tree of its
//! own. The rules are those of Linux's peer-to-peer support
//! (`drivers/pci/p2pdma.c`): VFIO checks none of them when it maps, so this is
//! the only thing between an operator and a route that the hardware does not
//! take. Nothing here touches a device.

mod acs;
pub mod fixture;
mod function;
mod hosts;
mod rdma;
mod route;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use acs::Acs;
pub use function::{CLASS_BRIDGE_PCI, CLASS_NVME, Function, Link, Resource};
pub use route::{Route, RoutePath};

use crate::PciAddress;

/// Why sysfs could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}; is sysfs mounted there?", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file held something else than the kernel writes there.
    #[error("{} holds `{text}`, which is not what the kernel writes there", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its text, or the part that could not be read.
        text: String,
    },
}

/// The PCI functions of a machine, as they were when it was loaded.
#[derive(Debug, Clone)]
pub struct Topology {
    functions: BTreeMap<PciAddress, Function>,
    cpu: hosts::Cpu,
    rdma: rdma::RdmaDevices,
}

impl Topology {
    /// Reads the functions under `sysfs_root` (`/sys` on a live machine), the
    /// RDMA devices, and the CPU's maker from `sysfs_root/../proc/cpuinfo`.
    ///
    /// # Errors
    /// When sysfs is not there or holds what the kernel does not write. A
    /// function that goes away while it is read is left out.
    pub fn load(sysfs_root: &Path) -> Result<Self, TopologyError> {
        let devices = sysfs_root.join("bus/pci/devices");
        let entries = fs::read_dir(&devices).map_err(|source| TopologyError::Read {
            path: devices.clone(),
            source,
        })?;
        let mut functions = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(|source| TopologyError::Read {
                path: devices.clone(),
                source,
            })?;
            let Ok(address) = entry.file_name().to_string_lossy().parse::<PciAddress>() else {
                continue;
            };
            match Function::read(address, &entry.path()) {
                Ok(function) => {
                    functions.insert(address, function);
                }
                Err(TopologyError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !entry.path().exists() => {}
                Err(error) => return Err(error),
            }
        }
        let cpu = hosts::Cpu::read(&sysfs_root.join("../proc/cpuinfo"));
        let rdma = rdma::read(sysfs_root)?;
        Ok(Self {
            functions,
            cpu,
            rdma,
        })
    }

    /// Every function, in the order of addresses.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }

    /// The function at an address.
    pub fn function(&self, address: PciAddress) -> Option<&Function> {
        self.functions.get(&address)
    }

    /// The kernel driver that has the function, if any.
    pub fn driver_of(&self, address: PciAddress) -> Option<&str> {
        self.function(address)?.driver.as_deref()
    }

    /// The functions of an IOMMU group, in the order of addresses.
    pub fn group_members(&self, group: u32) -> impl Iterator<Item = &Function> {
        self.functions()
            .filter(move |function| function.iommu_group == Some(group))
    }

    /// The PCI function of an RDMA device (`mlx5_0`, as `ibv_devices` lists it):
    /// what does DMA in its name. None for a device that there is not, or that
    /// is made of software (rxe, siw) and so reaches whatever the CPU reaches.
    ///
    /// Some kernels show the function of the network card below a software
    /// device. That its driver is one of software is for its user to know.
    pub fn rdma_device(&self, name: &str) -> Option<PciAddress> {
        self.rdma.get(name).copied().flatten()
    }

    /// Every RDMA device with its PCI function, in the order of names.
    pub fn rdma_devices(&self) -> impl Iterator<Item = (&str, Option<PciAddress>)> {
        self.rdma
            .iter()
            .map(|(name, function)| (name.as_str(), *function))
    }

    /// The function and its bridges, nearest first, up to the root bus. A
    /// virtual function stands where its physical function stands.
    fn chain(&self, function: &Function) -> Vec<PciAddress> {
        let place = function
            .physfn
            .and_then(|pf| self.function(pf))
            .unwrap_or(function);
        std::iter::once(function.address)
            .chain(place.upstream.iter().copied())
            .collect()
    }

    /// What stands for the host bridge of `function` in the kernel's list: the
    /// first device of the root bus, if it is 00.0 or a root port.
    fn host_bridge_device(&self, function: &Function) -> Option<&Function> {
        self.functions()
            .find(|f| f.upstream.is_empty() && f.host_bridge == function.host_bridge)
            .filter(|f| (f.address.device, f.address.function) == (0, 0) || f.is_bridge())
    }
}

#[cfg(test)]
mod tests;
