//! `backend`: what holds the blocks of a namespace.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{ByteSize, PciSlot};

/// What holds the blocks of a namespace. No two namespaces share any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Backend {
    /// A namespace of a local SSD, by the userspace driver.
    Nvme {
        /// The SSD.
        device: PciSlot,
        /// Namespace id on the SSD, 1 to 0xfffffffe.
        nsid: u32,
    },
    /// A block device that stays with the kernel.
    Block {
        /// Its device node; an absolute path.
        path: PathBuf,
    },
    /// A namespace of an SSD that stays with the kernel, by NVMe commands that are handed through.
    Passthrough {
        /// Its generic character device (`/dev/ng0n1`); an absolute path.
        path: PathBuf,
    },
    /// A regular file.
    File {
        /// An absolute path.
        path: PathBuf,
        /// Its length, a multiple of 4096 bytes; a file that is not there is made so long. That of the
        /// file when not given.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
        /// Block size in bytes, 512 or 4096.
        block: u32,
    },
    /// Nothing: writes are forgotten, reads give zeroes.
    Null {
        /// Capacity; a multiple of 4096 bytes, not zero.
        size: ByteSize,
        /// Block size in bytes, 512 or 4096.
        block: u32,
    },
}

impl Backend {
    /// The SSD behind it that the target drives, if there is one.
    #[must_use]
    pub fn device(&self) -> Option<&PciSlot> {
        match self {
            Self::Nvme { device, .. } => Some(device),
            _ => None,
        }
    }

    /// What of the kernel's is behind it, if it is that.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Block { path } | Self::Passthrough { path } | Self::File { path, .. } => {
                Some(path)
            }
            Self::Nvme { .. } | Self::Null { .. } => None,
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Nvme { device, nsid } => format!("nvme {device} nsid {nsid}"),
            Self::Block { path } => format!("block {}", path.display()),
            Self::Passthrough { path } => format!("passthrough {}", path.display()),
            Self::File { path, .. } => format!("file {}", path.display()),
            Self::Null { size, .. } => format!("null {size}"),
        }
    }
}
