//! Proof that storage of the kernel's and memory reach each other.
//!
//! The kernel checks the route of each transfer to memory of a device, and refuses
//! it in a call's answer. A good answer is not believed either: a block is read
//! and compared. Nothing is written to the storage, so the way out of the memory
//! is not tried.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use sidelane_nvme::spec::Status;
use sidelane_p2p::{OutOfRange, Region};

use super::Explaining;
use crate::backend::{Backend, Blocks, DataRef, DoneList, Job, NotTaken};

/// How long one call may take: longer than the kernel itself waits for an SSD.
const LIMIT: Duration = Duration::from_secs(35);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// What the memory holds before the block arrives. Two patterns: a block that
/// happens to look like one does not look like the other.
const BEFORE: [u8; 2] = [0xa5, 0x5a];

/// Reads the first block to the start of `region`, twice, over two patterns. Says
/// what was tried.
///
/// # Errors
/// What the kernel said, or that the data did not arrive.
pub(super) fn prove(
    backend: &mut dyn Explaining,
    block_bytes: usize,
    region: &Region,
) -> Result<&'static str, String> {
    if block_bytes > region.len() {
        return Err("the memory is shorter than a block".to_owned());
    }
    let data = DataRef {
        region,
        offset: 0,
        len: block_bytes,
    };
    let mut seen = Vec::new();
    for before in BEFORE {
        let outside = |error: OutOfRange| error.to_string();
        let mut held = vec![before; block_bytes];
        region.view().write(0, &held).map_err(outside)?;
        // What the CPU wrote is to be there before the device writes.
        fence(Ordering::SeqCst);
        let job = Job::Read(Blocks { slba: 0, count: 1 }, data);
        let status = run(backend, &job).ok_or("a read did not end in time")?;
        if !status.is_success() {
            return Err(match backend.refusal() {
                Some(errno) if region.is_peer() => format!(
                    "the kernel refuses a read into it: {errno}; its log (`dmesg`) may name the devices"
                ),
                Some(errno) => format!("a read fails: {errno}"),
                None => format!("a read fails: {status}"),
            });
        }
        region.view().read(0, &mut held).map_err(outside)?;
        seen.push(held);
    }
    if seen.first() != seen.last() {
        return Err("a read ended with success, and its data did not arrive".to_owned());
    }
    Ok("the way in proved by a compared transfer, the way out not tried")
}

/// How long a read into the memory may be: `most` bytes, or half as often as the
/// kernel refuses that. It splits nothing that it hands through.
pub(super) fn longest(
    backend: &mut dyn Explaining,
    block_bytes: usize,
    region: &Region,
    most: usize,
) -> usize {
    let mut len = most.min(region.len()) / block_bytes * block_bytes;
    while len > block_bytes {
        let data = DataRef {
            region,
            offset: 0,
            len,
        };
        let count = (len / block_bytes) as u32;
        let job = Job::Read(Blocks { slba: 0, count }, data);
        if run(backend, &job).is_some_and(Status::is_success) {
            break;
        }
        len = len / 2 / block_bytes * block_bytes;
    }
    len.max(block_bytes)
}

/// Carries one job out, with nothing else under way; `None` when it does not end
/// in time.
pub(super) fn run(backend: &mut (impl Backend + ?Sized), job: &Job<'_>) -> Option<Status> {
    let since = Instant::now();
    match backend.submit(job, 0) {
        Ok(()) => backend.ring(),
        Err(NotTaken::Refused(status)) => return Some(status),
        Err(NotTaken::Full) => return None,
    }
    while since.elapsed() < LIMIT {
        let mut done = DoneList::new();
        backend.poll(Instant::now(), &mut done);
        if let Some(done) = done.first() {
            return Some(done.status);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    None
}
