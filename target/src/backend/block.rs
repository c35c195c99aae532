//! A block device that stays with the kernel: read and written by direct I/O,
//! past the page cache.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::uring::{Bytes, Discard, StorageError, StorageShape, sysfs};

/// How long a device may still be in use by a target that has just been killed:
/// the kernel ends its calls first.
const AFTER_A_CRASH: Duration = Duration::from_secs(3);

/// Opens a block device for this process alone.
///
/// # Errors
/// When it is not there, no block device, in use, or of a block size that hosts
/// do not take.
pub(super) fn open(path: &Path, sys: &Path) -> Result<(Bytes, File, StorageShape), StorageError> {
    let failed = |reason: String, remedy: &str| StorageError::new(path, reason, remedy);
    let mut file = claim(path, OFlags::RDWR | OFlags::DIRECT, sys)?;
    let meta = file
        .metadata()
        .map_err(|error| StorageError::open(path, &error))?;
    let folder = sysfs::folder(sys, meta.rdev()).unwrap_or_default();
    let queue = sysfs::Queue::of(&folder);
    if queue.read_only() {
        return Err(failed(
            "it is read-only".to_owned(),
            "make it writable (`blockdev --setrw`), or name another",
        ));
    }
    let block_bytes = match queue.block_bytes() {
        Some(bytes @ (512 | 4096)) => bytes,
        other => {
            let found = other.map_or("unknown".to_owned(), |bytes| bytes.to_string());
            let reason = format!("its block size is {found}, not 512 or 4096 bytes");
            return Err(failed(reason, "use another device"));
        }
    };
    let bytes = file
        .seek(SeekFrom::End(0))
        .map_err(|error| StorageError::open(path, &error))?;
    if bytes < u64::from(block_bytes) {
        return Err(failed("it has no blocks".to_owned(), "use another device"));
    }
    let shape = StorageShape {
        blocks: bytes / u64::from(block_bytes),
        block_bytes,
        volatile_write_cache: queue.write_cache(),
        deallocate: queue.discards(),
        // Where the device cannot, the kernel writes them.
        write_zeroes: true,
        max_transfer_bytes: queue.transfer_bytes(),
    };
    let kind = Bytes {
        block_bytes,
        discard: Discard::Command,
    };
    Ok((kind, file, shape))
}

/// Whether there is a block device, told without opening it.
///
/// # Errors
/// When there is none.
pub(super) fn check_kind(path: &Path) -> Result<Metadata, StorageError> {
    let meta = fs::metadata(path).map_err(|error| StorageError::open(path, &error))?;
    if meta.file_type().is_block_device() {
        return Ok(meta);
    }
    let reason = "it is no block device".to_owned();
    let remedy = "name one (`lsblk -p` lists them), or use kind = \"file\" for a file";
    Err(StorageError::new(path, reason, remedy))
}

/// Opens a block device so that nobody else mounts it, or makes it a part of
/// something, and fails if somebody has.
///
/// # Errors
/// Who has it, as far as the kernel says.
pub(super) fn claim(path: &Path, flags: OFlags, sys: &Path) -> Result<File, StorageError> {
    let meta = check_kind(path)?;
    // On a block device it means that nobody else may claim it.
    let flags = flags | OFlags::EXCL | OFlags::CLOEXEC;
    let since = Instant::now();
    loop {
        let outcome = OpenOptions::new()
            .read(true)
            .write(flags.contains(OFlags::RDWR))
            .custom_flags(flags.difference(OFlags::RWMODE).bits() as i32)
            .open(path);
        let error = match outcome {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
            return Err(StorageError::open(path, &error));
        }
        if since.elapsed() > AFTER_A_CRASH {
            let folder = sysfs::folder(sys, meta.rdev()).unwrap_or_default();
            let reason = format!("it is in use: {}", sysfs::users(&folder, sys));
            let remedy = "what is in use is never taken: unmount it or take it out there, or name another device";
            return Err(StorageError::new(path, reason, remedy));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
