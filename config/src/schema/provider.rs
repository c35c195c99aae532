//! `[[provider]]`, and how a namespace names providers.

use serde::Serialize;

use crate::{ByteSize, PciSlot};

/// `[[provider]]`: a source of memory for payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provider {
    /// The name by which namespaces choose it; never `auto`.
    pub id: String,
    /// What it is made of.
    #[serde(flatten)]
    pub kind: ProviderKind,
}

/// What a provider's memory is.
///
/// Only the code that opens a provider needs to know the kinds; everything else asks the methods of
/// [`Provider`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProviderKind {
    /// The Controller Memory Buffer of an NVMe SSD.
    Cmb {
        /// The SSD.
        device: PciSlot,
        /// Use no more than this; a multiple of 4096 bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
    },
    /// The Persistent Memory Region of an NVMe SSD.
    Pmr {
        /// The SSD.
        device: PciSlot,
        /// Use no more than this; a multiple of 4096 bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
    },
    /// A BAR of any PCI function that is no SSD of the target's, and that is plain memory.
    Bar {
        /// The function.
        device: PciSlot,
        /// The number of the BAR, 0 to 5.
        bar: u8,
        /// Where in the BAR the memory begins; a multiple of 4096 bytes.
        #[serde(skip_serializing_if = "is_zero")]
        offset: ByteSize,
        /// How much of it, a multiple of 4096 bytes; all from there on when not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
    },
    /// Memory of an SSD that stays under the kernel's nvme driver, which publishes it.
    P2pmem {
        /// The SSD.
        device: PciSlot,
        /// Take so much of it; a multiple of 4096 bytes. All that is left of it when not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
    },
    /// Host memory: the fallback that keeps payload off no bus at all.
    Host {
        /// How much; a multiple of 4096 bytes, not zero.
        size: ByteSize,
    },
}

fn is_zero(size: &ByteSize) -> bool {
    size.bytes() == 0
}

impl Provider {
    /// The PCI function whose memory this is; `None` for host memory.
    #[must_use]
    pub fn device(&self) -> Option<&PciSlot> {
        match &self.kind {
            ProviderKind::Cmb { device, .. }
            | ProviderKind::Pmr { device, .. }
            | ProviderKind::Bar { device, .. }
            | ProviderKind::P2pmem { device, .. } => Some(device),
            ProviderKind::Host { .. } => None,
        }
    }

    /// The PCI function that the target takes from the kernel to have this memory.
    #[must_use]
    pub fn taken_device(&self) -> Option<&PciSlot> {
        match &self.kind {
            ProviderKind::P2pmem { .. } => None,
            _ => self.device(),
        }
    }

    /// The configured size: of host memory all of it, of a device the most to use of it.
    #[must_use]
    pub fn size(&self) -> Option<ByteSize> {
        match self.kind {
            ProviderKind::Cmb { size, .. }
            | ProviderKind::Pmr { size, .. }
            | ProviderKind::Bar { size, .. }
            | ProviderKind::P2pmem { size, .. } => size,
            ProviderKind::Host { size } => Some(size),
        }
    }

    /// The SSD whose memory this is, and that the target therefore drives.
    #[must_use]
    pub fn ssd(&self) -> Option<&PciSlot> {
        match &self.kind {
            ProviderKind::Cmb { device, .. } | ProviderKind::Pmr { device, .. } => Some(device),
            ProviderKind::Bar { .. } | ProviderKind::P2pmem { .. } | ProviderKind::Host { .. } => {
                None
            }
        }
    }

    /// What the memory is, in a few words.
    #[must_use]
    pub fn what(&self) -> String {
        match &self.kind {
            ProviderKind::Cmb { device, .. } => format!("controller memory buffer of {device}"),
            ProviderKind::Pmr { device, .. } => format!("persistent memory region of {device}"),
            ProviderKind::Bar { device, bar, .. } => format!("BAR {bar} of {device}"),
            ProviderKind::P2pmem { device, .. } => {
                format!("memory of {device}, published by the kernel")
            }
            ProviderKind::Host { .. } => "host memory".to_owned(),
        }
    }

    /// Whether payload in this memory stays out of host memory.
    #[must_use]
    pub fn is_peer(&self) -> bool {
        self.device().is_some()
    }
}

/// Which providers a namespace takes its buffers from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "Words")]
pub enum ProviderChoice {
    /// The memory of its own SSD, else the nearest provider that fits.
    #[default]
    Auto,
    /// The providers with these ids, at least one, each of which exists, and none twice. Of several the
    /// nearest that has room serves a transfer.
    Named(Vec<String>),
}

impl ProviderChoice {
    /// The ids; none when the choice is `auto`.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        match self {
            Self::Auto => &[],
            Self::Named(ids) => ids,
        }
    }

    /// Whether a provider of this id is named.
    #[must_use]
    pub fn names(&self, id: &str) -> bool {
        self.ids().iter().any(|named| named == id)
    }
}

/// As a choice is written: one word, or a list of them.
#[derive(Serialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl From<ProviderChoice> for Words {
    fn from(choice: ProviderChoice) -> Self {
        match choice {
            ProviderChoice::Auto => Self::One("auto".to_owned()),
            ProviderChoice::Named(mut ids) if ids.len() == 1 => Self::One(ids.remove(0)),
            ProviderChoice::Named(ids) => Self::Many(ids),
        }
    }
}
