//! The RDMA devices of this machine, as the system lists them in files.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::explain;
use crate::verbs::OpenError;

/// Where the system lists its RDMA devices, and the network interfaces of this
/// process's network namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// `/sys/class/infiniband`.
    pub(super) devices: &'a Path,
    /// `/proc/self/net/dev`: unlike sysfs, which shows the namespace in which it
    /// was mounted.
    pub(super) interfaces: &'a Path,
}

impl Places<'static> {
    /// The system's.
    pub(super) fn system() -> Self {
        Self {
            devices: Path::new("/sys/class/infiniband"),
            interfaces: Path::new("/proc/self/net/dev"),
        }
    }
}

/// Names of the devices that have an active port, for a wildcard address. Where
/// network namespaces share RDMA devices, only those count that have a network
/// interface in ours: hosts reach no other through us.
///
/// # Errors
/// When there is none.
pub(super) fn active(places: Places<'_>, at: SocketAddr) -> Result<Vec<String>, OpenError> {
    let interfaces = fs::read_to_string(places.interfaces).unwrap_or_default();
    let interfaces: Vec<&str> = interfaces
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    let mut names: Vec<String> = entries(places.devices)
        .filter(|device| {
            entries(&device.join("ports"))
                .any(|port| is_active(&port) && is_ours(&port, &interfaces))
        })
        .filter_map(|device| Some(device.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    match names.is_empty() {
        true => Err(explain::no_device(at)),
        false => Ok(names),
    }
}

/// What is in a folder; nothing if it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// A port's state reads `4: ACTIVE`.
fn is_active(port: &Path) -> bool {
    fs::read_to_string(port.join("state")).is_ok_and(|text| text.starts_with("4:"))
}

/// Whether a GID of the port belongs to one of these network interfaces, or none
/// belongs to any, as on InfiniBand. Entries that are not in use cannot be read.
fn is_ours(port: &Path, interfaces: &[&str]) -> bool {
    let mut owners = entries(&port.join("gid_attrs/ndevs"))
        .filter_map(|owner| fs::read_to_string(owner).ok())
        .peekable();
    owners.peek().is_none() || owners.any(|owner| interfaces.contains(&owner.trim()))
}
