//! Namespaces whose SSD is away: being reset, or lost.
//!
//! The backend of such a namespace is gone, and with it what the SSD had: its
//! keeper has made sure that the SSD touches no memory any more. Commands of ours
//! may be carried out twice (read, write, write zeroes, deallocate, flush), so
//! what the SSD had is given to it once more, in all its parts, when it is back;
//! data that was fetched for a write is still in its buffer. A command that was
//! there too often when it had to be reset may be why, and fails.

use std::sync::mpsc;
use std::time::Instant;

use sidelane_nvme::spec::Status;

use super::Reactor;
use super::request::State;
use crate::backend::Backend;

/// How often a command is given to an SSD that then has to be reset.
pub const MAX_ATTEMPTS: u8 = 3;

/// What becomes of the commands of a namespace whose backend is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// They wait until it is back.
    Held,
    /// They fail with Internal Path Error (NVMe 2.0, figure 108): another path,
    /// or another attempt later, may do.
    Failed,
}

/// What the commands of a detached namespace came to, in one reactor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detached {
    /// Those that the SSD had and that are started again.
    pub again: u64,
    /// Those that failed.
    pub failed: u64,
}

/// Backends that are to go.
#[derive(Debug)]
pub struct Detach {
    /// Their namespaces, by number in the target.
    pub namespaces: Vec<usize>,
    /// What becomes of the commands.
    pub away: Away,
    /// Where the outcome goes, when the backends are gone.
    pub reply: mpsc::Sender<Detached>,
}

/// A backend that takes its place.
pub struct Attach {
    /// Its namespace, by number in the target.
    pub namespace: usize,
    /// It.
    pub backend: Box<dyn Backend>,
    /// Bytes of a logical block, as it is now.
    pub block_bytes: u32,
}

impl Reactor {
    /// Takes backends out, and tells when they are gone.
    pub(super) fn detach(&mut self, detach: Detach, now: Instant) {
        let mut outcome = Detached::default();
        for namespace in detach.namespaces {
            if namespace < self.namespaces.len() {
                self.detach_one(namespace, detach.away, &mut outcome, now);
            }
        }
        // Whoever asked may have given up.
        let _ = detach.reply.send(outcome);
    }

    fn detach_one(&mut self, namespace: usize, away: Away, outcome: &mut Detached, now: Instant) {
        let queued = &mut self.namespaces[namespace];
        queued.namespace.backend = None;
        queued.away = away;
        queued.dirty = false;
        // All that waits is looked at with all that was under way.
        queued.backlog.clear();
        for slot in 0..self.requests.len() {
            let request = &mut self.requests[slot];
            if request.io.as_ref().is_none_or(|io| io.backend != namespace) {
                continue;
            }
            match request.state {
                State::Queueing | State::Executing => {}
                // It fails as soon as it has its data.
                State::WaitingBuffer | State::Fetching | State::Flushing
                    if away == Away::Failed =>
                {
                    request.status = Status::INTERNAL_PATH_ERROR;
                    continue;
                }
                _ => continue,
            }
            let had = std::mem::take(&mut request.parts) > 0;
            request.attempts += u8::from(had);
            request.blocks_queued = 0;
            if request.status.is_success() && request.aborted {
                request.status = Status::ABORT_REQUESTED;
            }
            let too_often = request.attempts > MAX_ATTEMPTS;
            if request.status.is_success() && (too_often || away == Away::Failed) {
                request.status = Status::INTERNAL_PATH_ERROR;
            }
            let (index, good) = (request.conn, request.status.is_success());
            if good && !self.is_closing(index) {
                outcome.again += u64::from(had);
                self.enter(slot, State::Queueing);
                self.namespaces[namespace].backlog.push_back(slot);
            } else {
                outcome.failed += 1;
                self.enter(slot, State::Executing);
                self.ended(slot, now);
            }
        }
    }

    /// A namespace has a backend again; what waited goes on.
    pub(super) fn attach(&mut self, attach: Attach) {
        if let Some(queued) = self.namespaces.get_mut(attach.namespace) {
            queued.namespace.backend = Some(attach.backend);
            queued.namespace.block_bytes = attach.block_bytes;
            queued.away = Away::Held;
        }
    }

    /// Whether nobody waits for the answers of a connection any more.
    pub(super) fn is_closing(&mut self, index: usize) -> bool {
        let connection = self.connections.get(index);
        connection.is_none_or(|connection| connection.closing.is_some())
    }

    /// Whether the memory that a command's data is in was taken away meanwhile:
    /// a good status says nothing of the data then, and a bad one nothing of the
    /// command.
    pub(super) fn lost_its_data(&self, slot: usize) -> bool {
        let buffer = self.requests[slot].buffer.as_ref();
        buffer.is_some_and(|buffer| {
            buffer.region().revocation().is_revoked() || self.memory(slot).is_none()
        })
    }

    /// Whether a command may be started from the beginning.
    pub(super) fn may_start_again(&mut self, slot: usize) -> bool {
        let request = &self.requests[slot];
        let backend = request.io.as_ref().map(|io| io.backend);
        let queued = backend.and_then(|at| self.namespaces.get(at));
        let failed = queued.is_none_or(|queued| queued.away == Away::Failed);
        !failed && request.attempts < MAX_ATTEMPTS && !self.is_closing(request.conn)
    }

    /// Whether a command was given up by its SSD, and not because the host wanted
    /// that: the keeper had it aborted, since it was overdue.
    pub(super) fn is_aborted_for_nobody(&mut self, slot: usize) -> bool {
        let request = &self.requests[slot];
        request.status.same_code(Status::ABORT_REQUESTED)
            && !request.aborted
            && request.attempts < MAX_ATTEMPTS
            && !self.is_closing(request.conn)
    }

    /// Gives a command to its backend once more; its data is where it was.
    pub(super) fn execute_again(&mut self, slot: usize, now: Instant) {
        let request = &mut self.requests[slot];
        request.attempts += 1;
        request.blocks_queued = 0;
        request.status = Status::SUCCESS;
        self.execute(slot, now);
    }

    /// Starts a command from the beginning: a read is read, and the data of a
    /// write is fetched from the host once more.
    pub(super) fn start_again(&mut self, slot: usize, now: Instant) {
        let request = &mut self.requests[slot];
        let Some(io) = request.io.take() else { return };
        request.buffer = None;
        request.attempts += 1;
        request.parts = 0;
        request.blocks_queued = 0;
        request.status = Status::SUCCESS;
        self.restart(slot, io, now);
    }
}
