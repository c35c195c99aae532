//! Storage that the kernel reads and writes by the byte: block devices and files.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use sidelane_nvme::spec::Status;

use super::ring::{Call, Memory};
use super::{Kind, Next, Operation, Task, errno};
use crate::backend::Blocks;

/// How the content of blocks is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Discard {
    /// By a command to the block device.
    Command,
    /// By a hole in a file; on a block device by zeroes, if it can make them
    /// without writing.
    Hole,
}

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Bytes {
    pub(in crate::backend) block_bytes: u32,
    pub(in crate::backend) discard: Discard,
}

impl Bytes {
    /// Start and length in bytes.
    ///
    /// # Errors
    /// When that is beyond all storage.
    fn span(&self, blocks: Blocks) -> Result<(u64, u64), Status> {
        let unit = u64::from(self.block_bytes);
        let (at, len) = (
            blocks.slba.checked_mul(unit),
            u64::from(blocks.count) * unit,
        );
        // The kernel's offsets have a sign, and -1 a meaning of its own.
        let fits = |at: &u64| {
            at.checked_add(len)
                .is_some_and(|end| i64::try_from(end).is_ok())
        };
        Ok((at.filter(fits).ok_or(Status::LBA_OUT_OF_RANGE)?, len))
    }
}

impl Kind for Bytes {
    fn call(&self, task: &Task) -> Result<Call, Status> {
        let (at, len) = self.span(task.blocks)?;
        let skip = task.done;
        let rest = at + skip as u64;
        Ok(match task.operation {
            Operation::Read => Call::Read { at: rest, skip },
            Operation::Write { fua } => Call::Write {
                at: rest,
                skip,
                durable: fua,
            },
            Operation::Flush => Call::Sync,
            Operation::Zeroes { .. } => Call::Fallocate {
                at,
                len,
                mode: FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            },
            Operation::Deallocate => {
                let (at, len) = self.span(task.range().ok_or(Status::SUCCESS)?)?;
                match self.discard {
                    Discard::Command => Call::Discard { at, len },
                    Discard::Hole => Call::Fallocate {
                        at,
                        len,
                        mode: FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    },
                }
            }
        })
    }

    fn ended(&mut self, task: &mut Task, result: i32) -> Next {
        let Ok(count) = usize::try_from(result) else {
            let error = errno::of(result);
            return match (error, task.operation) {
                (Errno::AGAIN | Errno::INTR, _) if task.may_retry() => Next::Again,
                // Before Linux 6.12 there is no such command.
                (Errno::OPNOTSUPP | Errno::INVAL, Operation::Deallocate)
                    if self.discard == Discard::Command =>
                {
                    self.discard = Discard::Hole;
                    Next::Again
                }
                // A hint, and one that the storage cannot take.
                (Errno::OPNOTSUPP, Operation::Deallocate) => Next::Done(Status::SUCCESS),
                (error, operation) => Next::Done(errno::status(error, operation, task.peer)),
            };
        };
        match task.operation {
            Operation::Read | Operation::Write { .. } => self.moved(task, count),
            Operation::Zeroes { fua: true } => {
                task.operation = Operation::Flush;
                Next::Again
            }
            Operation::Flush | Operation::Zeroes { fua: false } => Next::Done(Status::SUCCESS),
            Operation::Deallocate => {
                task.done += 1;
                match task.done < task.ranges() {
                    true => Next::Again,
                    false => Next::Done(Status::SUCCESS),
                }
            }
        }
    }
}

impl Bytes {
    /// A transfer may be shorter than was asked for: the rest is another one. One
    /// that gets nowhere is at the end of a file that has become shorter.
    fn moved(&self, task: &mut Task, count: usize) -> Next {
        let len = task.memory.as_ref().map_or(0, Memory::len);
        // Direct I/O goes on at a whole block only.
        let whole = (task.done + count) / self.block_bytes as usize * self.block_bytes as usize;
        if whole >= len {
            return Next::Done(Status::SUCCESS);
        }
        if whole > task.done {
            task.done = whole;
            return Next::Again;
        }
        Next::Done(errno::status(Errno::IO, task.operation, task.peer))
    }
}
