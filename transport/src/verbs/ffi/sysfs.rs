//! What rdma-core reads from sysfs and the crate does not bind: the kinds of
//! GIDs, the PCI function behind a device, and what its driver has counted.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Read};
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

/// Counters that are looked at, of all ports: far more than any driver has.
const MAX_COUNTERS: usize = 1024;

/// The counters of all ports, added up by name: those that InfiniBand defines
/// (`counters`; volume 1, 16.1.3.5, where data is counted in words of 4 bytes) and
/// those of the driver (`hw_counters`). What is no number is left out, as is
/// what is no count but a setting.
pub fn counters(device: &Path) -> Vec<(String, u64)> {
    let ports = device.join("ports").read_dir().into_iter().flatten();
    let folders = ports.flatten().flat_map(|port| {
        ["counters", "hw_counters"].map(|folder| port.path().join(folder).read_dir())
    });
    let files = folders.flatten().flatten().flatten().take(MAX_COUNTERS);
    let mut counters = BTreeMap::<String, u64>::new();
    for file in files {
        let name = file.file_name().into_string();
        if let (Ok(name), Some(value)) = (name, number(&file.path()))
            && name != "lifespan"
        {
            let counter = counters.entry(name).or_default();
            *counter = counter.saturating_add(value);
        }
    }
    counters.into_iter().collect()
}

/// The number that a file holds.
fn number(file: &Path) -> Option<u64> {
    // Longer than any number.
    let mut text = String::with_capacity(32);
    let mut file = std::fs::File::open(file).ok()?.take(32);
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
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
    fn counters_of_all_ports_are_added_up_and_what_is_no_count_is_left_out() {
        let name = format!("sidelane-counters-{}", std::process::id());
        let device = std::env::temp_dir().join(name);
        let files = [
            ("ports/1/counters/port_rcv_errors", "3\n"),
            ("ports/1/hw_counters/sent_pkts", "40\n"),
            ("ports/1/hw_counters/lifespan", "10\n"),
            ("ports/1/hw_counters/odd", "N/A (no PMA)\n"),
            ("ports/1/hw_counters/long", &"1".repeat(40)),
            ("ports/1/gids/0", "7\n"),
            ("ports/2/hw_counters/sent_pkts", "2"),
            ("ports/2/hw_counters/rcvd_pkts", "18446744073709551615\n"),
        ];
        for (path, text) in files {
            let path = device.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(device.join("ports/2/hw_counters/folder")).unwrap();
        let expected = [
            ("port_rcv_errors", 3),
            ("rcvd_pkts", u64::MAX),
            ("sent_pkts", 42),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        let got = counters(&device);
        std::fs::remove_dir_all(&device).unwrap();
        assert_eq!(got, expected);
        assert_eq!(counters(Path::new("/nonexistent")), []);
    }

    #[test]
    fn a_device_without_a_pci_function_has_none() {
        assert_eq!(pci(Path::new("/nonexistent")), None);
    }
}
