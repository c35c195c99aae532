//! An I/O queue pair: owned by one thread, without locks and without
//! allocation once it exists.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use sidelane_p2p::Region;

use super::create::Life;
use super::ring::CompletionRing;
use super::slots::Overdue;
use super::writer::CommandWriter;
use super::{DriverError, Inner, IoCommand, SubmitError};
use crate::Backing;
use crate::spec::{Sqe, Status};

/// Called with each SQE, read back from the ring, and the entries of its PRP
/// list, likewise.
pub type Tap = Box<dyn FnMut(&Sqe, &[u64]) + Send>;

/// A command that the controller has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What [`IoQueuePair::submit`] was given.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
}

/// Counts of a queue pair since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Commands written to the ring.
    pub submitted: u64,
    /// Commands completed.
    pub completed: u64,
    /// Times the doorbell was rung for commands.
    pub doorbells: u64,
    /// Times the doorbell was rung for completions that were taken.
    pub head_doorbells: u64,
    /// Times, of both kinds, that the controller was told by a doorbell's shadow
    /// alone.
    pub spared_doorbells: u64,
    /// Completions of no outstanding command: the controller is at fault.
    pub stale: u64,
}

/// A submission queue and its completion queue.
///
/// Commands are written with [`submit`](Self::submit), told to the controller
/// with [`ring`](Self::ring), and taken back with [`poll`](Self::poll). The
/// memory that a command names must stay mapped until its completion has been
/// polled, or the queue pair was deleted.
pub struct IoQueuePair<B: Backing> {
    pub(super) inner: Arc<Inner<B>>,
    pub(super) life: Life,
    pub(super) writer: CommandWriter,
    pub(super) cq: CompletionRing,
    /// Index of the interrupt vector.
    pub(super) vector: Option<usize>,
    /// Completions taken, and those of them that were of no outstanding command.
    pub(super) answered: u64,
    pub(super) stale: u64,
    pub(super) deleted: bool,
}

impl<B: Backing> IoQueuePair<B> {
    /// Writes a command to the ring. The controller does not see it before the
    /// next [`ring`](Self::ring).
    ///
    /// # Errors
    /// When the queue is full or the command is not well-formed; nothing was
    /// written then. [`SubmitError::Halted`] once [`ring`](Self::ring) or
    /// [`poll`](Self::poll) has seen that the controller was halted.
    pub fn submit(&mut self, command: IoCommand<'_>, tag: u64) -> Result<(), SubmitError> {
        let written = self.writer.submit(&command, tag);
        written.map_err(|refused| self.writer.explain(refused, &command))
    }

    /// Tells the controller of all commands written since the last time.
    pub fn ring(&mut self) {
        if self.is_dead() {
            return;
        }
        self.writer.sq.ring(&*self.inner.device.backing);
    }

    /// Hands at most `limit` completions to `f`, and says how many it were.
    pub fn poll(&mut self, limit: usize, mut f: impl FnMut(Completion)) -> usize {
        if self.is_dead() {
            return 0;
        }
        let mut taken = 0;
        while taken < limit {
            let Some(answer) = self.cq.pop() else { break };
            taken += 1;
            match self.writer.slots.complete(answer.cid) {
                Some(tag) => f(Completion {
                    tag,
                    status: answer.status,
                    result: answer.result,
                }),
                None => self.stray(answer.cid),
            }
        }
        self.answered += taken as u64;
        self.cq.ring(&*self.inner.device.backing);
        taken
    }

    /// Whether the controller was halted since this was made: then nothing more
    /// is told to it, and none of the outstanding commands ends. It stays so, as
    /// no epoch comes again.
    #[inline]
    fn is_dead(&mut self) -> bool {
        let is_dead = !self.inner.is_alive(self.life.epoch);
        if is_dead {
            self.writer.halt();
        }
        is_dead
    }

    #[cold]
    fn stray(&mut self, cid: u16) {
        self.stale += 1;
        let (device, qid) = (self.inner.device.address, self.life.qid);
        tracing::warn!(%device, qid, cid, "a completion of no outstanding command");
    }

    /// The time by which the ages of commands are measured, in milliseconds since
    /// any start; it does not go back. To be set once a round, before commands
    /// are submitted: no clock is read for each of them.
    pub fn set_clock(&mut self, now_ms: u64) {
        self.writer.slots.set_clock(now_ms);
    }

    /// Commands that have been outstanding for more than `older_than_ms`, by the
    /// last [`set_clock`](Self::set_clock); ages of more than 49 days are wrong.
    /// Looks through all slots unless nothing is outstanding: some ten times a
    /// second, not each round.
    pub fn overdue(&self, older_than_ms: u64) -> impl Iterator<Item = Overdue> {
        self.writer.slots.overdue(older_than_ms)
    }

    /// Identifiers under which commands with this tag are outstanding, for
    /// Abort. Looks through all slots, as [`overdue`](Self::overdue) does.
    pub fn cids_of(&self, tag: u64) -> impl Iterator<Item = u16> {
        self.writer.slots.cids_of(tag)
    }

    /// The eventfd that counts this queue's interrupts, unless the queue is
    /// polled only. To sleep on it: [`acknowledge`](Self::acknowledge), poll
    /// once more, and sleep if there was nothing.
    pub fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.vectors.get(self.vector?).map(AsFd::as_fd)
    }

    /// Takes the interrupts that have come, so that the eventfd is readable
    /// only after the next one.
    pub fn acknowledge(&self) {
        if let Some(event) = self.eventfd() {
            // That there is none to take is not an error.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
    }

    /// The greatest number of commands outstanding at once.
    pub fn capacity(&self) -> usize {
        self.writer.slots.capacity()
    }

    /// Commands submitted and not yet polled back.
    pub fn outstanding(&self) -> usize {
        self.writer.slots.outstanding()
    }

    /// The queue's identifier at the controller.
    pub fn qid(&self) -> u16 {
        self.life.qid
    }

    /// Counts since the queue pair was made.
    pub fn stats(&self) -> QueueStats {
        let (tail, head) = (self.writer.sq.doorbell(), self.cq.doorbell());
        let completed = self.answered - self.stale;
        QueueStats {
            submitted: completed + self.outstanding() as u64,
            completed,
            doorbells: tail.rung,
            head_doorbells: head.rung,
            spared_doorbells: tail.spared + head.spared,
            stale: self.stale,
        }
    }

    /// Has every command shown to `tap` as the controller will read it.
    pub fn set_tap(&mut self, tap: Tap) {
        self.writer.tap = Some(tap);
    }

    /// Whether the controller is there and without fatal error. One register
    /// read, about a microsecond: for when commands take long, not for each.
    ///
    /// # Errors
    /// When it is gone or broken.
    pub fn check(&self) -> Result<(), DriverError> {
        self.inner
            .device
            .check("while it executed I/O commands")
            .map(|_| ())
    }

    /// The memory of rings and lists, for an audit of what the controller reads.
    pub fn memory(&self) -> [&Region; 3] {
        [
            self.writer.sq.memory(),
            self.cq.memory(),
            self.writer.lists.memory(),
        ]
    }

    /// Deletes both queues. Outstanding commands are aborted by the controller;
    /// afterwards it touches none of their memory.
    ///
    /// # Errors
    /// When the controller does not delete them. The rings are then kept mapped
    /// until the controller is closed.
    pub fn delete(mut self) -> Result<(), DriverError> {
        self.delete_now()
    }

    fn delete_now(&mut self) -> Result<(), DriverError> {
        if self.deleted {
            return Ok(());
        }
        self.deleted = true;
        let regions = self.memory().map(Clone::clone);
        self.inner.delete_queues(self.life, regions)
    }
}

impl<B: Backing> Drop for IoQueuePair<B> {
    fn drop(&mut self) {
        if let Err(error) = self.delete_now() {
            tracing::warn!(qid = self.life.qid, %error, "an I/O queue pair could not be deleted");
        }
    }
}
