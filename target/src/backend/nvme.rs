//! A namespace of a local SSD, by the userspace driver.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use sidelane_nvme::Backing;
use sidelane_nvme::driver::{DataPointer, IoCommand, IoQueuePair, SubmitError};
use sidelane_nvme::spec::{DsmRange, Status};

use super::{Backend, Blocks, DataRef, Done, DoneList, Job, MAX_DONE, NotTaken};

/// Ranges of one Dataset Management command (NVM 3.2.3).
const MAX_RANGES: usize = 256;

/// Overdue commands that are reported by one look: an SSD that has more has
/// other troubles than single commands.
const REPORTED: usize = 8;

/// What a queue pair's owner has to tell the keeper of the SSD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A command is overdue. Told again at every look.
    Overdue {
        /// The queue.
        qid: u16,
        /// The command's identifier there.
        cid: u16,
        /// Since it was submitted.
        age: Duration,
    },
    /// Nobody wants a command any more.
    Unwanted {
        /// The queue.
        qid: u16,
        /// The command's identifier there.
        cid: u16,
    },
    /// The target stops, and commands do not end.
    GivenUp,
}

/// How commands are watched.
pub struct Watch {
    /// Age from which a command is overdue.
    pub limit: Duration,
    /// Where it is told. Must not block.
    pub report: Box<dyn Fn(Trouble) + Send>,
}

impl Watch {
    /// Time between two looks: often enough that a command is found soon after
    /// its time, and no more than ten times a second.
    fn period(&self) -> Duration {
        (self.limit / 8).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

/// One reactor's queue pair of an SSD, for one namespace of it.
pub struct NvmeBackend<B: Backing> {
    queue: IoQueuePair<B>,
    nsid: u32,
    max_transfer_bytes: usize,
    watch: Watch,
    clock: BusyClock,
    next_look: Instant,
}

/// Time that goes on while commands are outstanding. A command that comes when
/// nothing is outstanding need not read the machine's clock: it is as old as the
/// end of what was before it.
struct BusyClock {
    zero: Instant,
    last: Instant,
    idle: bool,
}

impl BusyClock {
    fn new(now: Instant) -> Self {
        Self {
            zero: now,
            last: now,
            idle: true,
        }
    }

    /// Milliseconds of it.
    fn at(&mut self, now: Instant) -> u64 {
        if std::mem::take(&mut self.idle) {
            self.zero += now.saturating_duration_since(self.last);
        }
        self.last = now;
        let busy = now.saturating_duration_since(self.zero);
        u64::try_from(busy.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<B: Backing> NvmeBackend<B> {
    /// Commands go to this namespace of the SSD, none longer than the limit.
    pub fn new(queue: IoQueuePair<B>, nsid: u32, max_transfer_bytes: usize, watch: Watch) -> Self {
        let now = Instant::now();
        Self {
            queue,
            nsid,
            max_transfer_bytes,
            watch,
            clock: BusyClock::new(now),
            next_look: now,
        }
    }

    fn look(&mut self, now: Instant) {
        self.next_look = now + self.watch.period();
        let limit = u64::try_from(self.watch.limit.as_millis()).unwrap_or(u64::MAX);
        let qid = self.queue.qid();
        for overdue in self.queue.overdue(limit).take(REPORTED) {
            (self.watch.report)(Trouble::Overdue {
                qid,
                cid: overdue.cid,
                age: Duration::from_millis(overdue.age_ms),
            });
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
            // A halted one is taken out soon, and what waits goes to its successor.
            SubmitError::QueueFull | SubmitError::Halted => NotTaken::Full,
            error => {
                tracing::error!(%error, "a command that the session let pass is refused by the driver");
                NotTaken::Refused(Status::INTERNAL_ERROR)
            }
        })
    }

    fn ring(&mut self) {
        self.queue.ring();
    }

    fn poll(&mut self, now: Instant, done: &mut DoneList) {
        self.queue.set_clock(self.clock.at(now));
        let room = MAX_DONE - done.len();
        self.queue.poll(room, |end| {
            done.push(Done {
                tag: end.tag,
                status: end.status,
            })
        });
        self.clock.idle = self.queue.outstanding() == 0;
        if !self.clock.idle && now >= self.next_look {
            self.look(now);
        }
    }

    fn abort(&mut self, tag: u64) {
        let qid = self.queue.qid();
        for cid in self.queue.cids_of(tag) {
            (self.watch.report)(Trouble::Unwanted { qid, cid });
        }
    }

    fn give_up(&mut self) {
        (self.watch.report)(Trouble::GivenUp);
    }

    fn outstanding(&self) -> usize {
        self.queue.outstanding()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue.eventfd()
    }

    fn deadline(&self) -> Option<Instant> {
        (self.queue.outstanding() > 0).then_some(self.next_look)
    }
}

fn pointer(data: DataRef<'_>) -> DataPointer<'_> {
    DataPointer {
        region: data.region,
        offset: data.offset,
        len: data.len,
    }
}
