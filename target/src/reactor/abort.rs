//! Commands that a host takes back (Abort, NVMe 2.0, 5.1): what can be done
//! depends on how far they are. Each still ends exactly once, on its way through
//! `respond`; there the session tells who wanted it aborted how it ended.

use std::time::Instant;

use sidelane_nvme::spec::Status;

use super::Reactor;
use super::request::State;
use crate::session::Completion;

impl Reactor {
    /// Gives up those commands of a connection that its host wants aborted.
    pub(super) fn carry_out_aborts(&mut self, index: usize, now: Instant) {
        while let Some(cid) = self
            .connections
            .get(index)
            .and_then(|connection| connection.session.poll_abort())
        {
            self.abort(index, cid, now);
        }
    }

    fn abort(&mut self, index: usize, cid: u16, now: Instant) {
        let outstanding = self.requests.iter().position(|request| {
            // One that is on its way to the host has ended; another with the same
            // identifier, refused for that, may be among them.
            let ended = matches!(request.state, State::Posted | State::Responding);
            request.conn == index && request.sqe.cid() == cid && !ended
        });
        let Some(slot) = outstanding else {
            self.not_aborted(index, cid);
            return;
        };
        let request = &mut self.requests[slot];
        tracing::debug!(cid, slot, state = ?request.state, "the host aborts a command");
        match request.state {
            State::WaitingBuffer => {
                let pool = request.pool;
                self.pools[pool].admission.remove(index, slot);
                self.give_up(slot, now);
            }
            // The adapter writes to its buffer until all data is there.
            State::Fetching | State::Flushing => request.aborted = true,
            State::Queueing if request.parts == 0 => {
                for queued in &mut self.namespaces {
                    queued.backlog.retain(|waiting| *waiting != slot);
                }
                self.give_up(slot, now);
            }
            State::Queueing | State::Executing => self.abort_at_backend(slot),
            // Another Abort, or itself: it ends soon in any case.
            State::Held | State::Received | State::Posted | State::Responding => {
                self.not_aborted(index, cid);
            }
        }
    }

    /// The backend is asked to give up what it has of a command; it gets no more.
    fn abort_at_backend(&mut self, slot: usize) {
        let request = &mut self.requests[slot];
        let Some(io) = &request.io else {
            return;
        };
        request.aborted = true;
        if request.state == State::Queueing && request.status.is_success() {
            request.status = Status::ABORT_REQUESTED;
        }
        let queued = self.namespaces.get_mut(io.backend);
        if let Some(backend) = queued.and_then(|queued| queued.namespace.backend.as_mut()) {
            backend.abort(slot as u64);
        }
    }

    /// Ends a command that nobody works on.
    pub(super) fn give_up(&mut self, slot: usize, now: Instant) {
        self.respond(slot, Completion::of(Status::ABORT_REQUESTED), now);
    }

    fn not_aborted(&mut self, index: usize, cid: u16) {
        if let Some(connection) = self.connections.get(index) {
            connection.session.not_aborted(cid);
        }
    }
}
