//! One PCI function, as its folder in sysfs describes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Acs, TopologyError};
use crate::PciAddress;

/// Class code of an NVMe I/O controller.
pub const CLASS_NVME: u32 = 0x01_0802;
/// Class code of a PCI-to-PCI bridge (root and switch ports included).
pub const CLASS_BRIDGE_PCI: u32 = 0x06_0400;

/// A PCI function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its address.
    pub address: PciAddress,
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
    /// Class code, 24 bits: base class, subclass, programming interface.
    pub class: u32,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group; none when no IOMMU translates for it.
    pub iommu_group: Option<u32>,
    /// Its NUMA node, where the firmware names one.
    pub numa_node: Option<u32>,
    /// For a virtual function, its physical function.
    pub physfn: Option<PciAddress>,
    /// Its BARs and, for a bridge, its windows; empty ones left out.
    pub resources: Vec<Resource>,
    /// The state of its link, for PCI Express.
    pub link: Option<Link>,
    /// Its access control settings.
    pub acs: Acs,
    /// The bridges above it, nearest first; empty on a root bus.
    pub upstream: Vec<PciAddress>,
    /// The host bridge above those, as sysfs names it (`pci0000:00`).
    pub host_bridge: String,
}

/// A span of bus addresses that a function answers to or passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Its line in `resource`: 0 to 5 are the BARs, 6 the option ROM.
    pub index: usize,
    /// First address.
    pub start: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// The kernel's flags (`IORESOURCE_*`).
    pub flags: u64,
}

impl Resource {
    const MEMORY: u64 = 0x200;
    const PREFETCH: u64 = 0x2000;

    /// Whether it is memory, not I/O ports.
    pub fn is_memory(&self) -> bool {
        self.flags & Self::MEMORY != 0
    }

    /// Whether reads of it have no effects.
    pub fn is_prefetchable(&self) -> bool {
        self.flags & Self::PREFETCH != 0
    }

    /// One line of `resource`: start, inclusive end, flags.
    fn parse(index: usize, line: &str) -> Option<Option<Self>> {
        let mut fields = line
            .split_whitespace()
            .map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok());
        let (start, end, flags) = (fields.next()??, fields.next()??, fields.next()??);
        let len = end.wrapping_sub(start).wrapping_add(1);
        Some((flags != 0 && end > start).then_some(Self {
            index,
            start,
            len,
            flags,
        }))
    }
}

/// A PCI Express link as it runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Speed in the kernel's words (`16.0 GT/s PCIe`).
    pub speed: String,
    /// Number of lanes.
    pub width: u32,
}

impl Function {
    pub(super) fn read(address: PciAddress, folder: &Path) -> Result<Self, TopologyError> {
        let real = fs::canonicalize(folder).map_err(|source| TopologyError::Read {
            path: folder.to_owned(),
            source,
        })?;
        let (host_bridge, upstream) = bridges(&real).ok_or_else(|| TopologyError::Malformed {
            path: folder.into(),
            text: real.display().to_string(),
        })?;
        Ok(Self {
            address,
            vendor: hex(&real.join("vendor"))? as u16,
            device: hex(&real.join("device"))? as u16,
            class: hex(&real.join("class"))? & 0xff_ffff,
            driver: link_name(&real.join("driver")),
            iommu_group: link_name(&real.join("iommu_group")).and_then(|name| name.parse().ok()),
            // The kernel writes -1 where there is none.
            numa_node: optional(&real.join("numa_node")).and_then(|text| text.parse().ok()),
            physfn: link_name(&real.join("physfn")).and_then(|name| name.parse().ok()),
            resources: resources(&real.join("resource"))?,
            link: link(&real),
            acs: Acs::parse(&config(&real.join("config"))?),
            upstream,
            host_bridge,
        })
    }

    /// Whether it is an NVMe I/O controller.
    pub fn is_nvme(&self) -> bool {
        self.class == CLASS_NVME
    }

    /// Whether it is a PCI-to-PCI bridge.
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == CLASS_BRIDGE_PCI >> 8
    }

    /// A BAR, by its number from 0 to 5, if it is implemented.
    pub fn bar(&self, bar: u8) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|resource| bar < 6 && resource.index == usize::from(bar))
    }
}

/// Host bridge and bridges of a path such as
/// `/sys/devices/pci0000:00/0000:00:1c.0/0000:03:00.0`, nearest bridge first.
/// A host bridge may itself stand below a function (VMD): the last one counts.
fn bridges(real: &Path) -> Option<(String, Vec<PciAddress>)> {
    let names: Vec<_> = real
        .components()
        .map(|c| c.as_os_str().to_string_lossy())
        .collect();
    let host = names
        .iter()
        .rposition(|name| name.starts_with("pci") && name.contains(':'))?;
    let above = names.get(host + 1..names.len() - 1)?;
    Some((
        names[host].to_string(),
        above.iter().rev().filter_map(|n| n.parse().ok()).collect(),
    ))
}

fn read(path: &Path) -> Result<String, TopologyError> {
    fs::read_to_string(path).map_err(|source| TopologyError::Read {
        path: path.to_owned(),
        source,
    })
}

fn malformed(path: &Path, text: &str) -> TopologyError {
    TopologyError::Malformed {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn hex(path: &Path) -> Result<u32, TopologyError> {
    let text = read(path)?;
    let text = text.trim();
    text.strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| malformed(path, text))
}

fn optional(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn link_name(path: &PathBuf) -> Option<String> {
    Some(
        fs::read_link(path)
            .ok()?
            .file_name()?
            .to_string_lossy()
            .into_owned(),
    )
}

fn link(folder: &Path) -> Option<Link> {
    let speed = optional(&folder.join("current_link_speed"))?;
    let width = optional(&folder.join("current_link_width"))?.parse().ok()?;
    Some(Link { speed, width })
}

fn resources(path: &Path) -> Result<Vec<Resource>, TopologyError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        found.extend(Resource::parse(index, line).ok_or_else(|| malformed(path, line))?);
    }
    Ok(found)
}

/// As much of the configuration space as may be read; nothing when even the
/// file may not be.
fn config(path: &Path) -> Result<Vec<u8>, TopologyError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied) => Ok(Vec::new()),
        Err(source) => Err(TopologyError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}
