//! What can be wrong with a device, its group or the system, and the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::PciAddress;

/// A function that shares an IOMMU group, and the kernel driver that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// The function.
    pub address: PciAddress,
    /// Its driver.
    pub driver: String,
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.driver)
    }
}

/// Why a device cannot be used through VFIO. Every message names the thing, the
/// reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// The container file cannot be opened.
    #[error("VFIO is not to be had: {}: {source}; {}", path.display(), open_remedy(source))]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel's VFIO has no type 1 IOMMU, version 2.
    #[error(
        "this kernel's VFIO (version {version}) has no type 1 IOMMU driver; run `modprobe vfio_iommu_type1`, and boot with intel_iommu=on on Intel machines"
    )]
    NoType1 {
        /// The version that it reports.
        version: u32,
    },
    /// No such function.
    #[error("there is no PCI function {device}; see `lspci -D` for those that there are")]
    Absent {
        /// The function.
        device: PciAddress,
    },
    /// No IOMMU translates for the device.
    #[error(
        "{device} is in no IOMMU group, so VFIO cannot use it; turn the IOMMU on (VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel command line)"
    )]
    NoIommuGroup {
        /// The function.
        device: PciAddress,
    },
    /// A kernel driver has the device.
    #[error("{device} is in use by the kernel driver `{driver}`; {}", bind_commands(*device, true))]
    KernelDriver {
        /// The function.
        device: PciAddress,
        /// The driver that has it.
        driver: String,
    },
    /// No driver has the device, so vfio-pci has not either.
    #[error("{device} is bound to no driver; {}", bind_commands(*device, false))]
    Unbound {
        /// The function.
        device: PciAddress,
    },
    /// Other functions of the group belong to kernel drivers.
    #[error(
        "{device} shares IOMMU group {group} with functions that kernel drivers have: {}; all of a group must be under vfio-pci (or without a driver) for one of them to be used: unbind these too, or use a device in a group of its own",
        list(members)
    )]
    GroupNotViable {
        /// The function.
        device: PciAddress,
        /// Its group.
        group: u32,
        /// The others.
        members: Vec<GroupMember>,
    },
    /// The group's file cannot be opened.
    #[error("{device} cannot be opened: {}: {source}; {}", path.display(), open_remedy(source))]
    Group {
        /// The function.
        device: PciAddress,
        /// The group's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process has the device or its group.
    #[error(
        "{device} is in use by another process, which has {} open; `fuser -v {}` names it", path.display(), path.display()
    )]
    Busy {
        /// The function.
        device: PciAddress,
        /// The group's file.
        path: PathBuf,
    },
    /// The device has no such BAR, or it cannot be mapped.
    #[error("BAR {bar} of {device} cannot be used: {reason}")]
    Bar {
        /// The function.
        device: PciAddress,
        /// The number of the BAR.
        bar: u8,
        /// Why, and what to do about it.
        reason: String,
    },
    /// Memory of the device is not to be had as a dma-buf.
    #[error(
        "{}{device} cannot be exported as a dma-buf: {} ({source})",
        bar.map(|bar| format!("BAR {bar} of ")).unwrap_or_default(), export_reason(source)
    )]
    Export {
        /// The function.
        device: PciAddress,
        /// The number of the BAR; none when it is about all of them.
        bar: Option<u8>,
        /// The system's answer.
        source: io::Error,
    },
    /// A reset would take exported memory from those that use it.
    #[error(
        "{device} is not reset: a reset would revoke what is exported of its memory (live exports: \
         {live}), and a NIC that registered it would fail; stop the data path, deregister, and drop \
         the exports first"
    )]
    LiveExports {
        /// The function.
        device: PciAddress,
        /// The number of exports.
        live: usize,
    },
    /// The device was taken away while it was open.
    #[error("{device} can be used no more: {reason}; open it again when it is back")]
    Lost {
        /// The function.
        device: PciAddress,
        /// What happened.
        reason: String,
    },
    /// The device has no MSI-X vectors.
    #[error("{device} offers no MSI-X interrupts; poll it instead")]
    NoMsix {
        /// The function.
        device: PciAddress,
    },
    /// A system call on the device failed.
    #[error("{device}: {action} failed: {source}{}", system_remedy(source))]
    System {
        /// The function.
        device: PciAddress,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// What an operator types to hand a function to vfio-pci. Whether that is safe
/// is theirs to see to.
fn bind_commands(device: PciAddress, bound: bool) -> String {
    let check = match bound {
        true => {
            "make sure first that nothing uses it (for an SSD: `lsblk -o NAME,SERIAL,MOUNTPOINTS` \
             shows no mount, and no RAID, LVM or swap is on it); to hand it to vfio-pci, run as root:\n"
        }
        false => "to hand it to vfio-pci, run as root:\n",
    };
    let unbind = match bound {
        true => format!("  echo {device} > /sys/bus/pci/devices/{device}/driver/unbind\n"),
        false => String::new(),
    };
    format!(
        "{check}  modprobe vfio-pci\n  \
         echo vfio-pci > /sys/bus/pci/devices/{device}/driver_override\n{unbind}  \
         echo {device} > /sys/bus/pci/drivers_probe"
    )
}

fn open_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "run `modprobe vfio-pci`; in a container, hand /dev/vfio into it"
        }
        io::ErrorKind::PermissionDenied => {
            "run as root, or give this user the file: `chown USER FILE` (a udev rule makes it last)"
        }
        _ => "the kernel's log (`dmesg`) may say more",
    }
}

fn system_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => {
            "; if `dmesg` says that the platform has no interrupt remapping, turn it on in the firmware"
        }
        Some(libc::ENODEV) => "; the device is gone, or no longer under vfio-pci",
        Some(libc::EMFILE) => "; raise the limit on open files (`ulimit -n`)",
        _ => "; the kernel's log (`dmesg`) may say more",
    }
}

/// What the kernel means by refusing a dma-buf, and the remedy.
pub(super) fn export_reason(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOTTY) => {
            "this kernel's vfio-pci does not export memory; a kernel from 6.19 on, built with VFIO_PCI_DMABUF, does"
        }
        Some(libc::EOPNOTSUPP) => {
            "the VFIO driver that has the device does not export its memory; plain vfio-pci does"
        }
        Some(libc::EINVAL) => {
            "the kernel has no peer-to-peer provider for it on this topology; use another BAR or device, and a kernel with PCI_P2PDMA"
        }
        Some(libc::ENODEV) => "the device is gone, or no longer under vfio-pci",
        Some(libc::EMFILE) => "too many files are open; raise the limit (`ulimit -n`)",
        Some(libc::ENOMEM) => "the kernel is out of memory",
        Some(libc::EPERM | libc::EACCES) => {
            "it is not permitted; a security module may forbid it (`dmesg`, `journalctl` say more)"
        }
        _ => "the kernel's log (`dmesg`) may say more",
    }
}

fn list(members: &[GroupMember]) -> String {
    members
        .iter()
        .map(GroupMember::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
