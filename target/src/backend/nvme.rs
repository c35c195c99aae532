//! A namespace of a local SSD, by the userspace driver.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_nvme::Backing;
use sidelane_nvme::driver::{DataPointer, IoCommand, IoQueuePair, SubmitError};
use sidelane_nvme::spec::{DsmRange, Status};

use super::{Backend, Blocks, DataRef, Done, DoneList, Job, MAX_DONE, NotTaken};

/// Ranges of one Dataset Management command (NVM 3.2.3).
const MAX_RANGES: usize = 256;

/// One reactor's queue pair of an SSD, for one namespace of it.
pub struct NvmeBackend<B: Backing> {
    queue: IoQueuePair<B>,
    nsid: u32,
    max_transfer_bytes: usize,
}

impl<B: Backing> NvmeBackend<B> {
    /// Commands go to this namespace of the SSD, none longer than the limit.
    pub fn new(queue: IoQueuePair<B>, nsid: u32, max_transfer_bytes: usize) -> Self {
        Self {
            queue,
            nsid,
            max_transfer_bytes,
        }
    }
}

impl<B: Backing> Backend for NvmeBackend<B> {
    fn max_transfer_bytes(&self) -> usize {
        self.max_transfer_bytes
    }

    fn submit(&mut self, job: &Job<'_>, tag: u64) -> Result<(), NotTaken> {
        let nsid = self.nsid;
        let mut ranges = ArrayVec::<DsmRange, MAX_RANGES>::new();
        let command = match *job {
            Job::Read(Blocks { slba, count }, data) => IoCommand::Read {
                nsid,
                slba,
                blocks: count,
                data: pointer(data),
            },
            Job::Write {
                blocks: Blocks { slba, count },
                data,
                fua,
            } => IoCommand::Write {
                nsid,
                slba,
                blocks: count,
                data: pointer(data),
                fua,
            },
            Job::Flush => IoCommand::Flush { nsid },
            Job::WriteZeroes {
                blocks: Blocks { slba, count },
                fua,
            } => IoCommand::WriteZeroes {
                nsid,
                slba,
                blocks: count,
                deallocate: false,
                fua,
            },
            Job::Deallocate(blocks) => {
                ranges.extend(blocks.iter().take(MAX_RANGES).map(|range| DsmRange {
                    slba: range.slba.into(),
                    nlb: range.count.into(),
                    ..DsmRange::default()
                }));
                IoCommand::Deallocate {
                    nsid,
                    ranges: &ranges,
                }
            }
        };
        self.queue.submit(command, tag).map_err(|error| match error {
            SubmitError::QueueFull => NotTaken::Full,
            error => {
                tracing::error!(%error, "a command that the session let pass is refused by the driver");
                NotTaken::Refused(Status::INTERNAL_ERROR)
            }
        })
    }

    fn ring(&mut self) {
        self.queue.ring();
    }

    fn poll(&mut self, _now: Instant, done: &mut DoneList) {
        let room = MAX_DONE - done.len();
        self.queue.poll(room, |end| {
            done.push(Done {
                tag: end.tag,
                status: end.status,
            })
        });
    }

    fn abort(&mut self, _tag: u64) {}

    fn outstanding(&self) -> usize {
        self.queue.outstanding()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue.eventfd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

fn pointer(data: DataRef<'_>) -> DataPointer<'_> {
    DataPointer {
        region: data.region,
        offset: data.offset,
        len: data.len,
    }
}
