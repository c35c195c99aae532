//! Reads, writes and flushes (NVM 3.2). Nothing here allocates.

use std::ops::Range;
use std::time::{Duration, Instant};

use sidelane_nvme::spec::{NvmOpcode, Status};

use super::host::{Data, Host};
use super::queue::Purpose;
use super::{HostError, SubmitError, command};

/// What an I/O command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// The namespace's blocks into the data area.
    Read,
    /// The data area's bytes into the namespace's blocks.
    Write,
    /// All that was written becomes durable. `lba`, `blocks` and `data` are
    /// without meaning.
    Flush,
}

/// A read, write or flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// What to do.
    pub kind: IoKind,
    /// The namespace.
    pub nsid: u32,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks, not zero-based.
    pub blocks: u32,
    /// Offset of the data in the data area, in bytes.
    pub data: usize,
    /// Comes back in the [`IoDone`].
    pub user: u64,
}

/// The end of an I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoDone {
    /// That of the [`Io`].
    pub user: u64,
    /// Its status; an error status is the namespace's word, and the association
    /// goes on.
    pub status: Status,
    /// From when it was submitted until its response was seen.
    pub elapsed: Duration,
}

impl Host<'_> {
    /// Submits to I/O queue `queue` (0 for the first). The data must stay
    /// untouched until the [`IoDone`].
    ///
    /// # Errors
    /// When it does not fit the queue, the namespace or the data area. Nothing
    /// was sent then.
    pub fn submit(&mut self, queue: usize, io: &Io) -> Result<(), SubmitError> {
        if queue >= self.io_queues() {
            return Err(SubmitError::NoSuchQueue(queue));
        }
        let (sqe, data) = self.prepare(io)?;
        match self.send(
            queue as u16 + 1,
            sqe,
            data,
            Purpose::Io(io.user),
            Instant::now(),
        ) {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(SubmitError::QueueFull),
            Err(HostError::Nic { source, .. }) => Err(SubmitError::Nic(source)),
            Err(HostError::Bounds(error)) => Err(SubmitError::Data(error)),
            // Sending a command fails in no other way.
            Err(_) => Err(SubmitError::QueueFull),
        }
    }

    fn prepare(&self, io: &Io) -> Result<(sidelane_nvme::spec::Sqe, Data), SubmitError> {
        let namespaces = &self.namespaces;
        let found = namespaces.binary_search_by_key(&io.nsid, |namespace| namespace.nsid);
        let Some(namespace) = found.ok().and_then(|at| namespaces.get(at)) else {
            return Err(SubmitError::NoSuchNamespace(io.nsid));
        };
        let opcode = match io.kind {
            IoKind::Flush => return Ok((command::flush(io.nsid), Data::None)),
            IoKind::Read => NvmOpcode::Read,
            IoKind::Write => NvmOpcode::Write,
        };
        if io.blocks == 0 || io.blocks > namespace.max_blocks {
            return Err(SubmitError::Length {
                blocks: io.blocks,
                max: namespace.max_blocks,
            });
        }
        let sge = self.data_sge(&part(
            io.data,
            io.blocks as usize * namespace.block_bytes as usize,
        ))?;
        let in_capsule = io.kind == IoKind::Write && sge.len <= self.controller.in_capsule;
        let data = if in_capsule {
            Data::InCapsule(sge)
        } else {
            Data::Keyed(sge)
        };
        Ok((
            command::read_write(opcode, io.nsid, io.lba, io.blocks),
            data,
        ))
    }

    /// Moves everything on and gives each I/O that has ended to `done`.
    ///
    /// # Errors
    /// When the association has broken: only disconnecting is left.
    pub fn poll(&mut self, mut done: impl FnMut(IoDone)) -> Result<(), HostError> {
        self.pump()?;
        while let Some((qid, finished)) = self.ready.pop_front() {
            self.queues[usize::from(qid)].give_back(finished.place);
            if let Purpose::Io(user) = finished.purpose {
                done(IoDone {
                    user,
                    status: finished.cqe.status(),
                    elapsed: finished.elapsed,
                });
            }
        }
        Ok(())
    }

    /// Sleeps until [`Host::poll`] may have something to do, `timeout` at most.
    ///
    /// # Errors
    /// When the event descriptors cannot be waited on.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), HostError> {
        match self.ready.is_empty() {
            true => self.sleep(Instant::now() + timeout),
            false => Ok(()),
        }
    }

    /// I/O commands that I/O queue `queue` can have outstanding at once.
    pub fn queue_places(&self, queue: usize) -> usize {
        self.queues
            .get(queue + 1)
            .map_or(0, super::queue::Queue::places)
    }
}

fn part(start: usize, len: usize) -> Range<usize> {
    start..start.saturating_add(len)
}
