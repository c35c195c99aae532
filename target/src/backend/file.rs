//! A regular file: read and written by direct I/O, past the page cache. Slower
//! than a device, and good where there is none to spare.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, OFlags, StatxFlags, fallocate, flock, fstatfs, statx,
};
use rustix::io::Errno;

use super::uring::{Bytes, Discard, StorageError, StorageShape};

/// File systems that keep files in memory (`linux/magic.h`), and take direct I/O
/// without doing it.
const IN_MEMORY: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Transfers are split by the kernel as the device below wants them.
const MAX_TRANSFER_BYTES: usize = 1 << 20;

/// Opens a file, with a lock that other targets heed; makes one of `size` bytes
/// where there is none.
///
/// # Errors
/// When it cannot be had, is in use by another target, or its file system does no
/// direct I/O with such blocks.
pub(super) fn open(
    path: &Path,
    size: Option<u64>,
    block_bytes: u32,
) -> Result<(Bytes, File, StorageShape), StorageError> {
    let failed = |reason: String, remedy: &str| StorageError::new(path, reason, remedy);
    let file = open_or_make(path, size)?;
    let io = |error: Errno| StorageError::open(path, &error.into());
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(failed(
                "it is in use: another process has locked it, or another namespace of this target"
                    .to_owned(),
                "two namespaces cannot share blocks: name another file",
            ));
        }
        Err(error) => return Err(io(error)),
    }
    let meta = file
        .metadata()
        .map_err(|error| StorageError::open(path, &error))?;
    if !meta.is_file() {
        return Err(not_regular(path));
    }
    let len = meta.len();
    if len == 0 || !len.is_multiple_of(u64::from(block_bytes)) {
        let reason =
            format!("it has {len} bytes, which is no whole number of blocks of {block_bytes}");
        return Err(failed(
            reason,
            "make it longer (`truncate`), or remove it and give a size",
        ));
    }
    if let Some(size) = size.filter(|size| *size != len) {
        let reason = format!("it has {len} bytes, and the configuration says {size}");
        return Err(failed(reason, "leave `size` out, or make both the same"));
    }
    check_direct(path, &file, block_bytes)?;
    let shape = StorageShape {
        blocks: len / u64::from(block_bytes),
        block_bytes,
        // The device's below, and the file system's own.
        volatile_write_cache: true,
        deallocate: takes(&file, len, FallocateFlags::PUNCH_HOLE),
        write_zeroes: takes(&file, len, FallocateFlags::ZERO_RANGE),
        max_transfer_bytes: MAX_TRANSFER_BYTES,
    };
    let kind = Bytes {
        block_bytes,
        discard: Discard::Hole,
    };
    Ok((kind, file, shape))
}

/// Whether there is a regular file, or one can be made (`sized`), told without
/// opening anything.
///
/// # Errors
/// When there is none.
pub(super) fn check_kind(path: &Path, sized: bool) -> Result<(), StorageError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(not_regular(path)),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::open(path, &error)),
        Err(_) if !sized => Err(not_there(path)),
        Err(error) => match path.parent().is_some_and(Path::is_dir) {
            true => Ok(()),
            false => Err(StorageError::open(path, &error)),
        },
    }
}

fn not_regular(path: &Path) -> StorageError {
    let remedy = "name a regular file; for a disk use kind = \"block\"";
    StorageError::new(path, "it is no regular file".to_owned(), remedy)
}

fn not_there(path: &Path) -> StorageError {
    let remedy = "give a size to have it made, such as size = \"1 GiB\"";
    StorageError::new(path, "there is no such file".to_owned(), remedy)
}

fn open_or_make(path: &Path, size: Option<u64>) -> Result<File, StorageError> {
    let flags = (OFlags::DIRECT | OFlags::CLOEXEC).bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    let explain = |error: std::io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL) => StorageError::new(
            path,
            "its file system does no direct I/O".to_owned(),
            "put it on another, such as ext4 or xfs",
        ),
        _ => StorageError::open(path, &error),
    };
    match (options.open(path), size) {
        (Err(error), Some(size)) if error.kind() == ErrorKind::NotFound => {
            let file = options.create_new(true).mode(0o600).open(path);
            let file = file.map_err(explain)?;
            let made = file.set_len(size);
            made.map_err(|error| StorageError::open(path, &error))?;
            Ok(file)
        }
        (Err(error), None) if error.kind() == ErrorKind::NotFound => Err(not_there(path)),
        (outcome, _) => outcome.map_err(explain),
    }
}

/// Whether direct I/O is what it says, and goes with such blocks, as far as the
/// kernel tells; that it works is shown by a read afterwards.
fn check_direct(path: &Path, file: &File, block_bytes: u32) -> Result<(), StorageError> {
    let remedy = "put it on another file system, such as ext4 or xfs on an SSD";
    let kind = fstatfs(file).map(|found| found.f_type as u64 & 0xffff_ffff);
    let in_memory = IN_MEMORY.iter().find(|(magic, _)| kind == Ok(*magic));
    if let Some((_, name)) = in_memory {
        let reason = format!("it is on {name}, which keeps files in memory and does no direct I/O");
        return Err(StorageError::new(path, reason, remedy));
    }
    let known = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let Ok(known) = known.inspect_err(|error| tracing::debug!(%error, "no statx")) else {
        return Ok(());
    };
    if known.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        // The kernel, or the file system, is too old to say.
        return Ok(());
    }
    let (memory, offset) = (known.stx_dio_mem_align, known.stx_dio_offset_align);
    if offset == 0 {
        let reason = "its file system does no direct I/O on it".to_owned();
        return Err(StorageError::new(path, reason, remedy));
    }
    if offset > block_bytes {
        let reason =
            format!("direct I/O on it goes by {offset} bytes, and blocks are of {block_bytes}");
        return Err(StorageError::new(path, reason, "write block = 4096"));
    }
    if memory > block_bytes.max(512) {
        let reason = format!("direct I/O on it wants memory aligned to {memory} bytes");
        return Err(StorageError::new(path, reason, remedy));
    }
    Ok(())
}

/// Whether the file system can do this to a file, tried behind its end.
fn takes(file: &File, len: u64, mode: FallocateFlags) -> bool {
    const TRIED: u64 = 4096;
    let try_mode = |mode| fallocate(file, mode | FallocateFlags::KEEP_SIZE, len, TRIED).is_ok();
    let takes = try_mode(mode);
    if takes && mode != FallocateFlags::PUNCH_HOLE {
        // It may have taken space for that.
        try_mode(FallocateFlags::PUNCH_HOLE);
    }
    takes
}
