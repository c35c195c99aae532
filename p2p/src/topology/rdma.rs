//! Where RDMA devices stand: from their name to their PCI function, so that a
//! NIC can be judged as a client of peer memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::TopologyError;
use crate::PciAddress;

/// RDMA devices by name, each with its function; none for one that stands on
/// no bus.
pub(super) type RdmaDevices = BTreeMap<String, Option<PciAddress>>;

/// Reads `class/infiniband`. That it is not there means that no RDMA driver is
/// loaded.
pub(super) fn read(sysfs_root: &Path) -> Result<RdmaDevices, TopologyError> {
    let class = sysfs_root.join("class/infiniband");
    let failed = |source| TopologyError::Read {
        path: class.clone(),
        source,
    };
    let entries = match fs::read_dir(&class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RdmaDevices::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut devices = RdmaDevices::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        devices.insert(name, function(&entry.path().join("device")));
    }
    Ok(devices)
}

/// The function at the end of the link: the nearest one on the real path, since
/// a part of a NIC (`mlx5_core.sf.4`) stands below its function and does DMA in
/// its name.
fn function(link: &Path) -> Option<PciAddress> {
    let real = fs::canonicalize(link).ok()?;
    real.components()
        .rev()
        .find_map(|part| part.as_os_str().to_str()?.parse().ok())
}
