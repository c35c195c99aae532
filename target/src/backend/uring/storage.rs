//! Storage that stays with the kernel, opened once for all reactors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sidelane_config::Backend as Configured;
use sidelane_p2p::{DmaSpace, PciAddress, ProcessMemory, Region};

use super::bytes::Bytes;
use super::{Explaining, UringBackend, sysfs, trial};
use crate::backend::passthrough::Passthrough;
use crate::backend::{Backend, block, file, passthrough};

/// Why storage of the kernel's cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; {remedy}", path = path.display())]
pub struct StorageError {
    path: PathBuf,
    reason: String,
    remedy: String,
}

impl StorageError {
    pub(in crate::backend) fn new(path: &Path, reason: String, remedy: &str) -> Self {
        Self {
            path: path.to_owned(),
            reason,
            remedy: remedy.to_owned(),
        }
    }

    /// The kernel's refusal to open it, or to say what it is.
    pub(in crate::backend) fn open(path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "run the target as root, or as a user who may read and write it"
            }
            io::ErrorKind::NotFound => {
                "name what is there (`lsblk -p`); /dev/nvmeN changes with each boot, /dev/disk/by-id does not"
            }
            _ => "see `dmesg`",
        };
        Self::new(path, format!("it cannot be opened: {error}"), remedy)
    }
}

/// What storage looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageShape {
    /// Capacity in blocks.
    pub blocks: u64,
    /// Bytes of a block, 512 or 4096.
    pub block_bytes: u32,
    /// Written data may be lost with the power until it is flushed.
    pub volatile_write_cache: bool,
    /// Blocks can be given up.
    pub deallocate: bool,
    /// Blocks can be zeroed without data.
    pub write_zeroes: bool,
    /// The most that one command moves, in bytes.
    pub max_transfer_bytes: usize,
}

/// See the module.
pub struct KernelStorage {
    path: PathBuf,
    kind: Kind,
    file: Arc<File>,
    shape: StorageShape,
    /// The most that one command moves; less than the shape has it when the kernel
    /// turned out to hand no more through.
    longest: AtomicUsize,
    _claim: Option<File>,
}

enum Kind {
    Bytes(Bytes),
    Passthrough(Passthrough),
}

impl KernelStorage {
    /// Opens what a configuration names, for this process alone, and reads its
    /// first block; `None` when that is nothing of the kernel's. `sys` is usually
    /// `/sys`.
    ///
    /// # Errors
    /// When it is not there, in use, or does not do direct I/O.
    pub fn open(backend: &Configured, sys: &Path) -> Result<Option<Self>, StorageError> {
        let (path, kind, file, shape, claim) = match backend {
            Configured::Block { path } => {
                let (kind, file, shape) = block::open(path, sys)?;
                (path, Kind::Bytes(kind), file, shape, None)
            }
            Configured::File { path, size, block } => {
                let size = size.map(|size| size.bytes());
                let (kind, file, shape) = file::open(path, size, *block)?;
                (path, Kind::Bytes(kind), file, shape, None)
            }
            Configured::Passthrough { path } => {
                let it = passthrough::open(path, sys)?;
                (
                    path,
                    Kind::Passthrough(it.kind),
                    it.file,
                    it.shape,
                    it.claim,
                )
            }
            Configured::Nvme { .. } | Configured::Null { .. } => return Ok(None),
        };
        let storage = Self {
            path: path.clone(),
            kind,
            file: Arc::new(file),
            shape,
            longest: AtomicUsize::new(shape.max_transfer_bytes),
            _claim: claim,
        };
        storage.try_out()?;
        Ok(Some(storage))
    }

    /// What it looks like.
    pub fn shape(&self) -> StorageShape {
        self.shape
    }

    /// One reactor's way to it, with so many commands at a time.
    ///
    /// # Errors
    /// When the kernel has no io_uring for this process.
    pub fn backend(&self, depth: u16) -> Result<Box<dyn Backend>, StorageError> {
        Ok(self.explaining(depth)?)
    }

    /// The same, which also says what the kernel said.
    pub(super) fn explaining(&self, depth: u16) -> Result<Box<dyn Explaining>, StorageError> {
        let file = Arc::clone(&self.file);
        let most = self.longest.load(Ordering::Relaxed);
        let made: io::Result<Box<dyn Explaining>> = match &self.kind {
            Kind::Bytes(kind) => UringBackend::new(kind.clone(), file, depth, most)
                .map(|backend| Box::new(backend) as _),
            Kind::Passthrough(kind) => UringBackend::new(kind.clone(), file, depth, most)
                .map(|backend| Box::new(backend) as _),
        };
        made.map_err(|error| {
            let reason = format!("the kernel gives no io_uring for it: {error}");
            let remedy = "allow it (sysctl kernel.io_uring_disabled=0; in a container, its seccomp profile); \
                          kernels before 5.19 have none that fits";
            StorageError::new(&self.path, reason, remedy)
        })
    }

    /// Reads the first block: that io_uring and direct I/O work is not to be found
    /// out by a host.
    fn try_out(&self) -> Result<(), StorageError> {
        let failed = |reason: String| {
            let remedy = "see `dmesg`; for a file, try another file system or block = 4096";
            StorageError::new(&self.path, reason, remedy)
        };
        let region = ProcessMemory.host_region("a block to try", self.shape.block_bytes as usize);
        let region = region.map_err(|error| failed(error.to_string()))?;
        self.prove(&region).map(drop).map_err(failed)
    }

    /// Tries whether its first block arrives in memory. Says what was tried.
    ///
    /// # Errors
    /// What the kernel said, or that the data did not arrive.
    pub fn prove(&self, region: &Region) -> Result<&'static str, String> {
        let mut backend = self.explaining(1).map_err(|error| error.to_string())?;
        let block = self.shape.block_bytes as usize;
        let said = trial::prove(&mut *backend, block, region)?;
        if region.is_peer() && matches!(self.kind, Kind::Passthrough(_)) {
            let known = self.longest.load(Ordering::Relaxed);
            let longest = trial::longest(&mut *backend, block, region, known);
            if longest < known {
                tracing::info!(path = %self.path.display(), longest, "the kernel hands no longer commands through with this memory");
                self.longest.store(longest, Ordering::Relaxed);
            }
        }
        Ok(said)
    }
}

/// The PCI function that does the DMA for what a configuration names, found
/// without opening it; `None` when that is nothing of the kernel's. Behind a block
/// device it is found by its own number, behind a file by that of the file
/// system's, behind a character device by the block device beside it.
pub fn client(backend: &Configured, sys: &Path) -> Option<Result<PciAddress, String>> {
    let path = backend.path()?;
    let meta = || fs::metadata(path).ok();
    let folder = match backend {
        Configured::Passthrough { .. } => Some(sysfs::block_beside(path, sys)),
        Configured::Block { .. } => meta().and_then(|meta| sysfs::folder(sys, meta.rdev())),
        // One that is not there yet will be where its folder is.
        _ => meta()
            .or_else(|| fs::metadata(path.parent()?).ok())
            .and_then(|meta| sysfs::folder(sys, meta.dev())),
    };
    Some(sysfs::client(&folder.unwrap_or_default()))
}

/// Whether what a configuration names is there and of its kind, told without opening
/// it. What is nothing of the kernel's is not looked at.
///
/// # Errors
/// When it is not, with the remedy.
pub fn check_kind(backend: &Configured, sys: &Path) -> Result<(), StorageError> {
    match backend {
        Configured::Block { path } => block::check_kind(path).map(drop),
        Configured::Passthrough { path } => passthrough::check_kind(path, sys),
        Configured::File { path, size, .. } => file::check_kind(path, size.is_some()),
        Configured::Nvme { .. } | Configured::Null { .. } => Ok(()),
    }
}
