//! Files on a real file system, by the kernel's real io_uring; and what its
//! answers mean, where the kernel cannot be made to give them.

mod answers;
mod files;
mod jobs;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sidelane_config::Backend as Configured;
use sidelane_p2p::{DmaSpace, ProcessMemory, Region};

use super::*;

/// Bounds every wait: what takes so long does not end.
const LIMIT: Duration = Duration::from_secs(30);

/// A file in the build folder, which is on a disk and not in memory.
struct Disk {
    folder: tempfile::TempDir,
    storage: KernelStorage,
}

impl Disk {
    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("OUT_DIR")).unwrap()
}

fn file(path: PathBuf, size: u64, block: u32) -> Configured {
    Configured::File {
        path,
        size: Some(sidelane_config::ByteSize::new(size).unwrap()),
        block,
    }
}

fn open(backend: &Configured) -> Result<KernelStorage, StorageError> {
    let opened = KernelStorage::open(backend, std::path::Path::new("/sys"))?;
    Ok(opened.expect("it is the kernel's"))
}

/// A file of so many blocks; `None`, and a word on it, where the machine has no
/// io_uring or its file system no direct I/O.
fn disk(blocks: u64, block_bytes: u32) -> Option<Disk> {
    let folder = folder();
    let size = blocks * u64::from(block_bytes);
    match open(&file(folder.path().join("disk"), size, block_bytes)) {
        Ok(storage) => Some(Disk { folder, storage }),
        Err(error) => {
            eprintln!("SKIPPED, this machine cannot do it: {error}");
            None
        }
    }
}

fn memory(len: usize) -> Region {
    ProcessMemory.host_region("test", len).unwrap()
}

fn whole(region: &Region, len: usize) -> DataRef<'_> {
    DataRef {
        region,
        offset: 0,
        len,
    }
}

/// A task of so many blocks of 4096 bytes, its data in memory.
pub(in crate::backend) fn task(operation: Operation, slba: u64, count: u32) -> Task {
    let region = memory(count.clamp(1, 8) as usize * 4096);
    let len = region.len();
    Task {
        tag: 1,
        operation,
        blocks: Blocks { slba, count },
        memory: Some(Memory::new(whole(&region, len)).unwrap()),
        done: 0,
        retries: 0,
        table: None,
        peer: false,
    }
}

impl Task {
    /// Its memory now holds so many ranges.
    pub(in crate::backend) fn has_ranges(&mut self, count: usize) {
        let region = memory(4096);
        let data = whole(&region, count * size_of::<DsmRange>());
        self.memory = Some(Memory::new(data).unwrap());
    }
}

/// Ends of so many commands, or of all that come in time.
fn ends(backend: &mut dyn Backend, count: usize) -> Vec<Done> {
    let since = Instant::now();
    let mut all = Vec::new();
    while all.len() < count && since.elapsed() < LIMIT {
        let mut done = DoneList::new();
        backend.poll(Instant::now(), &mut done);
        all.extend(done);
        std::thread::yield_now();
    }
    all
}
