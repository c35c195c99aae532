//! Which root complexes are known to pass requests from one of their ports to
//! another. Linux keeps the same knowledge; entries come and go, so it is data.

use std::fs;
use std::path::Path;

use super::Function;

const INTEL: u16 = 0x8086;
const GOOGLE: u16 = 0x1ae0;

/// A host bridge known to forward between its ports.
struct Entry {
    vendor: u16,
    /// `None`: any device of the vendor.
    device: Option<u16>,
    /// Only between ports of one host bridge.
    same_bridge_only: bool,
}

const fn intel(device: u16, same_bridge_only: bool) -> Entry {
    Entry {
        vendor: INTEL,
        device: Some(device),
        same_bridge_only,
    }
}

/// Matched on the first device of the root bus.
const KNOWN: &[Entry] = &[
    intel(0x3c00, true),
    intel(0x3c01, true),
    intel(0x2f00, true),
    intel(0x2f01, true),
    intel(0x2030, false),
    intel(0x2031, false),
    intel(0x2032, false),
    intel(0x2033, false),
    intel(0x2020, false),
    intel(0x09a2, false),
    Entry {
        vendor: GOOGLE,
        device: None,
        same_bridge_only: false,
    },
];

/// Whether the host bridge that `device` stands for is known to forward,
/// between two of its own ports or to another host bridge.
pub(super) fn known_to_forward(device: &Function, same_bridge: bool) -> bool {
    KNOWN
        .iter()
        .find(|e| e.vendor == device.vendor && e.device.is_none_or(|id| id == device.device))
        .is_some_and(|entry| same_bridge || !entry.same_bridge_only)
}

/// What `/proc/cpuinfo` says of the CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    vendor: String,
    family: u32,
}

impl Cpu {
    /// A file that is not there, or of an architecture that names no family,
    /// makes a CPU that nothing is known of.
    pub(super) fn read(cpuinfo: &Path) -> Self {
        let text = fs::read_to_string(cpuinfo).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        Self {
            vendor: field("vendor_id").unwrap_or_default(),
            family: field("cpu family")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        }
    }

    /// AMD root complexes forward since family 0x17 (Zen).
    pub(super) fn forwards(&self) -> bool {
        self.vendor == "AuthenticAMD" && self.family >= 0x17
    }

    pub(super) fn family(&self) -> u32 {
        self.family
    }
}
