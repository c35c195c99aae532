//! Storage that stays with the kernel, by io_uring: what all kinds of it have in
//! common. What the kernel is asked for a job, and what its answer means, is up
//! to a [`Kind`].
//!
//! Jobs are queued in a ring, handed over by one system call a batch, and their
//! ends are read from memory that the kernel shares. A job takes one call at a
//! time; a short transfer, or the next of several ranges, is another call of the
//! same job.

mod bytes;
pub(in crate::backend) mod errno;
mod ring;
mod storage;
pub(in crate::backend) mod sysfs;
#[cfg(test)]
pub(super) mod tests;
mod trial;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sidelane_nvme::spec::{DsmRange, Status};
use sidelane_p2p::{MemView, Placement, Region};
use zerocopy::{FromBytes, IntoBytes};

use self::ring::{Memory, Ring};
use super::{Backend, Blocks, DataRef, Done, DoneList, Job, MAX_DONE, NotTaken};

pub(super) use self::bytes::{Bytes, Discard};
pub(super) use self::ring::{Call, NvmeCall};
pub use self::storage::{KernelStorage, StorageError, StorageShape, check_kind, client};

/// Ranges of one deallocation (NVM 3.2.3).
const MAX_RANGES: usize = 256;
/// Bytes of the ranges of one deallocation.
const TABLE_BYTES: usize = MAX_RANGES * size_of::<DsmRange>();
/// Deallocations under way at a time.
const TABLES: u16 = 16;
/// How often a call that the kernel had no means for is made again.
const RETRIES: u8 = 32;
/// How soon, when the kernel takes no calls.
const AGAIN: Duration = Duration::from_millis(2);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write { fua: bool },
    Flush,
    Zeroes { fua: bool },
    Deallocate,
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Task {
    tag: u64,
    operation: Operation,
    blocks: Blocks,
    /// Payload, or for a deallocation its ranges; with the ring while a call is
    /// under way.
    memory: Option<Memory>,
    /// How much of it is over: bytes, or ranges.
    done: usize,
    retries: u8,
    /// Its ranges are in this table.
    table: Option<u16>,
    /// The data is in a device's memory.
    peer: bool,
}

/// What follows the end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another call, for what is left.
    Again,
    /// The job is over.
    Done(Status),
}

/// A kind of storage.
pub(super) trait Kind: Send {
    /// The call for what is left of a task.
    ///
    /// # Errors
    /// How the task has ended, when there is none.
    fn call(&self, task: &Task) -> Result<Call, Status>;

    /// What the kernel's answer means for the task, whose memory is there again.
    fn ended(&mut self, task: &mut Task, result: i32) -> Next;
}

/// One reactor's way to storage of a kind.
struct UringBackend<K> {
    kind: K,
    ring: Ring,
    tasks: Box<[Option<Task>]>,
    free: Vec<u16>,
    /// Ranges of deallocations.
    ranges: Region,
    free_tables: Vec<u16>,
    /// Over without a call of their own.
    over: VecDeque<Done>,
    max_transfer_bytes: usize,
    /// The kernel's last refusal.
    refusal: Option<Errno>,
    told: bool,
}

impl<K: Kind> UringBackend<K> {
    /// # Errors
    /// When the kernel has no io_uring for this process.
    fn new(kind: K, file: Arc<File>, depth: u16, max_transfer_bytes: usize) -> io::Result<Self> {
        let view = MemView::anonymous(TABLE_BYTES * usize::from(TABLES));
        let address = view.as_ptr() as u64;
        let keeper = Box::new(());
        Ok(Self {
            kind,
            ring: Ring::new(file, depth)?,
            tasks: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            ranges: Region::new("ranges", Placement::Host, address, view, keeper),
            free_tables: (0..TABLES).collect(),
            over: VecDeque::with_capacity(usize::from(depth)),
            max_transfer_bytes,
            refusal: None,
            told: false,
        })
    }

    /// The task of a job; its table is taken.
    fn task(&mut self, job: &Job<'_>, tag: u64) -> Result<Task, NotTaken> {
        const NONE: Blocks = Blocks { slba: 0, count: 0 };
        let (operation, blocks, data) = match *job {
            Job::Read(blocks, data) => (Operation::Read, blocks, Some(data)),
            Job::Write { blocks, data, fua } => (Operation::Write { fua }, blocks, Some(data)),
            Job::Flush => (Operation::Flush, NONE, None),
            Job::WriteZeroes { blocks, fua } => (Operation::Zeroes { fua }, blocks, None),
            Job::Deallocate(_) => (Operation::Deallocate, NONE, None),
        };
        let mut table = None;
        let memory = match (job, data) {
            (Job::Deallocate(ranges), _) => {
                table = Some(self.free_tables.pop().ok_or(NotTaken::Full)?);
                table.and_then(|table| self.fill(table, ranges))
            }
            (_, Some(data)) => Some(Memory::new(data).map_err(|error| {
                tracing::error!(%error, "data of a command lies outside its memory");
                NotTaken::Refused(Status::INTERNAL_ERROR)
            })?),
            (_, None) => None,
        };
        Ok(Task {
            tag,
            operation,
            blocks,
            peer: memory.as_ref().is_some_and(|it| it.region().is_peer()),
            memory,
            done: 0,
            retries: 0,
            table,
        })
    }

    /// Writes ranges into a table as NVMe has them, those without blocks left out.
    fn fill(&self, table: u16, ranges: &[Blocks]) -> Option<Memory> {
        let start = usize::from(table) * TABLE_BYTES;
        let mut len = 0;
        let some = ranges.iter().filter(|range| range.count > 0);
        for range in some.take(MAX_RANGES) {
            let range = DsmRange {
                slba: range.slba.into(),
                nlb: range.count.into(),
                ..DsmRange::default()
            };
            let at = start + len;
            self.ranges.view().write(at, range.as_bytes()).ok()?;
            len += size_of::<DsmRange>();
        }
        let data = DataRef {
            region: &self.ranges,
            offset: start,
            len,
        };
        Memory::new(data).ok()
    }

    /// Queues the next call of a task, or says how the task has ended.
    fn go_on(&mut self, number: u16, mut task: Task) -> Option<Done> {
        let call = match self.kind.call(&task) {
            Ok(call) => call,
            Err(status) => return Some(self.finish(number, &task, status)),
        };
        match self.ring.push(number, call, task.memory.take()) {
            Ok(()) => {
                if let Some(slot) = self.tasks.get_mut(usize::from(number)) {
                    *slot = Some(task);
                }
                None
            }
            Err(_) => {
                tracing::error!(number, "a ring has no room for a call that it is owed");
                Some(self.finish(number, &task, Status::INTERNAL_ERROR))
            }
        }
    }

    fn finish(&mut self, number: u16, task: &Task, status: Status) -> Done {
        self.free.push(number);
        self.free_tables.extend(task.table);
        if status.same_code(Status::DATA_TRANSFER_ERROR) && !std::mem::replace(&mut self.told, true)
        {
            tracing::warn!(
                peer = task.peer,
                "the kernel refuses to move data between this memory and the storage, and may say \
                 why in its log (`dmesg`); told once"
            );
        }
        Done {
            tag: task.tag,
            status,
        }
    }
}

impl<K: Kind> Backend for UringBackend<K> {
    fn max_transfer_bytes(&self) -> usize {
        self.max_transfer_bytes
    }

    fn submit(&mut self, job: &Job<'_>, tag: u64) -> Result<(), NotTaken> {
        let number = *self.free.last().ok_or(NotTaken::Full)?;
        let task = self.task(job, tag)?;
        self.free.pop();
        let over = self.go_on(number, task);
        self.over.extend(over);
        Ok(())
    }

    fn ring(&mut self) {
        self.ring.submit();
    }

    fn poll(&mut self, _now: Instant, done: &mut DoneList) {
        while !done.is_full()
            && let Some(over) = self.over.pop_front()
        {
            done.push(over);
        }
        for end in self.ring.ends(MAX_DONE - done.len()) {
            let slot = self.tasks.get_mut(usize::from(end.number));
            let Some(mut task) = slot.and_then(Option::take) else {
                tracing::error!(number = end.number, "the end of a call that was not made");
                continue;
            };
            task.memory = end.memory;
            if end.result < 0 {
                self.refusal = Some(errno::of(end.result));
            }
            let over = match self.kind.ended(&mut task, end.result) {
                Next::Done(status) => Some(self.finish(end.number, &task, status)),
                Next::Again => self.go_on(end.number, task),
            };
            done.extend(over);
        }
        // What goes on is not announced by a call of `ring`.
        if self.ring.is_behind() {
            self.ring.submit();
        }
    }

    fn abort(&mut self, tag: u64) {
        let tasks = self.tasks.iter().zip(0..);
        for (_, number) in tasks.filter(|(task, _)| task.as_ref().is_some_and(|it| it.tag == tag)) {
            self.ring.cancel(number);
        }
        self.ring.submit();
    }

    fn outstanding(&self) -> usize {
        self.ring.running() + self.over.len()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.event_fd())
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = self.ring.is_behind() || !self.over.is_empty();
        waits.then(|| Instant::now() + AGAIN)
    }
}

/// A backend that says what the kernel said.
trait Explaining: Backend {
    /// The kernel's last refusal.
    fn refusal(&self) -> Option<Errno>;
}

impl<K: Kind> Explaining for UringBackend<K> {
    fn refusal(&self) -> Option<Errno> {
        self.refusal
    }
}

impl Task {
    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    pub(super) fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Whether its data is in a device's memory.
    pub(super) fn is_peer(&self) -> bool {
        self.peer
    }

    /// The range of a deallocation that comes next.
    fn range(&self) -> Option<Blocks> {
        let memory = self.memory.as_ref()?;
        let at = self.done.checked_mul(size_of::<DsmRange>())?;
        if at >= memory.len() {
            return None;
        }
        let mut bytes = [0; size_of::<DsmRange>()];
        let view = memory.region().view();
        view.read(memory.offset() + at, &mut bytes).ok()?;
        let range = DsmRange::read_from_bytes(&bytes).ok()?;
        Some(Blocks {
            slba: range.slba.get(),
            count: range.nlb.get(),
        })
    }

    /// How many ranges a deallocation has.
    pub(super) fn ranges(&self) -> usize {
        self.memory.as_ref().map_or(0, Memory::len) / size_of::<DsmRange>()
    }

    /// Whether a call that the kernel had no means for may be made again.
    pub(super) fn may_retry(&mut self) -> bool {
        self.retries += 1;
        self.retries <= RETRIES
    }
}
