//! What rdma-core reads from sysfs and the crate does not bind: the kinds of
//! GIDs, and the PCI function behind a device.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use sidelane_p2p::PciAddress;

use super::types::{GidEntry, GidType};

/// Where the kernel shows its RDMA devices.
pub fn device_dir(name: &str) -> PathBuf {
    Path::new("/sys/class/infiniband").join(name)
}

/// The PCI function behind a device; none where `device` is missing, or is not
/// on the PCI bus.
pub fn pci(device: &Path) -> Option<PciAddress> {
    let target = device.join("device").canonicalize().ok()?;
    target.file_name()?.to_str()?.parse().ok()
}

/// The GIDs of a port that are in use: an entry that is not in use has no type.
///
/// # Errors
/// When the table is not there.
pub fn gids(device: &Path, port: u8) -> io::Result<Vec<GidEntry>> {
    let port = device.join(format!("ports/{port}"));
    let mut entries = Vec::new();
    for file in port.join("gids").read_dir()? {
        let name = file?.file_name();
        let Some(index) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let gid = read(port.join("gids").join(&name));
        let kind = read(port.join("gid_attrs/types").join(&name));
        entries.extend(entry(index, gid.as_deref(), kind.as_deref()));
    }
    entries.sort_by_key(|entry| entry.index);
    Ok(entries)
}

/// An entry from the text of its two files.
fn entry(index: u8, gid: Option<&str>, kind: Option<&str>) -> Option<GidEntry> {
    let gid: Ipv6Addr = gid?.trim().parse().ok()?;
    let kind = match kind?.trim() {
        "RoCE v2" => GidType::RoceV2,
        _ => GidType::IbOrRoceV1,
    };
    (!gid.is_unspecified()).then(|| GidEntry {
        index,
        gid: gid.octets(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gids_in_use_are_entries_and_each_knows_its_kind() {
        let v4 = "0000:0000:0000:0000:0000:ffff:c000:0201\n";
        let cases = [
            (Some(v4), Some("RoCE v2\n"), Some((GidType::RoceV2, true))),
            (
                Some("fe80:0000:0000:0000:0202:03ff:fe04:0506\n"),
                Some("IB/RoCE v1\n"),
                Some((GidType::IbOrRoceV1, false)),
            ),
            (Some(v4), None, None),
            (
                Some("0000:0000:0000:0000:0000:0000:0000:0000\n"),
                Some("RoCE v2\n"),
                None,
            ),
            (Some("nonsense"), Some("RoCE v2\n"), None),
        ];
        for (gid, kind, expected) in cases {
            let got = entry(3, gid, kind).map(|entry| (entry.kind, entry.is_ipv4()));
            assert_eq!(got, expected, "{gid:?} {kind:?}");
        }
    }

    #[test]
    fn a_device_without_a_pci_function_has_none() {
        assert_eq!(pci(Path::new("/nonexistent")), None);
    }
}
