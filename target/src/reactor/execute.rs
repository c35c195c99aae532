//! The part of a command's way that the backend walks: queueing in one or more
//! parts, waiting for room, and the end of the last part.

use std::time::Instant;

use sidelane_nvme::spec::Status;
use sidelane_transport::nvmf::HostData;

use super::request::{Request, State};
use super::{Away, Reactor};
use crate::backend::{Blocks, DataRef, Done, Job, NotTaken};
use crate::session::{Completion, IoOp};

impl Reactor {
    /// Gives a request to its backend, in as many parts as that needs.
    pub(super) fn execute(&mut self, slot: usize, now: Instant) {
        let Some(namespace) = self.requests[slot].io.as_ref().map(|io| io.backend) else {
            self.respond(slot, Completion::of(Status::INTERNAL_ERROR), now);
            return;
        };
        if !self.requests[slot].status.is_success() {
            // Its SSD was lost while it waited for its data.
            self.ended(slot, now);
            return;
        }
        if !self.namespaces[namespace].backlog.is_empty() || !self.queue_parts(slot, now) {
            self.enter(slot, State::Queueing);
            self.namespaces[namespace].backlog.push_back(slot);
        }
    }

    /// `false` when the backend's queue is full before all parts are in it.
    fn queue_parts(&mut self, slot: usize, now: Instant) -> bool {
        loop {
            let request = &self.requests[slot];
            let Some(io) = &request.io else { return true };
            let queued = &mut self.namespaces[io.backend];
            let namespace = &mut queued.namespace;
            let Some(backend) = &mut namespace.backend else {
                return self.is_refused(slot, now);
            };
            let most = backend.max_transfer_bytes() / namespace.block_bytes as usize;
            let left = io.blocks - request.blocks_queued;
            // SSDs zero no more at a time than they move, or say so in a log that
            // few have.
            let splits = !matches!(io.op, IoOp::Flush | IoOp::Deallocate { .. });
            let count = if splits {
                left.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
            } else {
                left
            };
            let blocks = Blocks {
                slba: io.slba + u64::from(request.blocks_queued),
                count,
            };
            let skip = request.blocks_queued as usize * namespace.block_bytes as usize;
            let len = count as usize * namespace.block_bytes as usize;
            let port = &self.ports[slot / (self.requests.len() / self.ports.len())];
            let data = match (&request.buffer, &request.host) {
                (Some(buffer), _) => Some(DataRef {
                    region: buffer.region(),
                    offset: buffer.offset() + skip,
                    len,
                }),
                (None, HostData::InCapsule { offset, .. }) => Some(DataRef {
                    region: port.messages.region(),
                    offset: port
                        .messages
                        .capsule_data(slot - port.first_slot, *offset as usize)
                        + skip,
                    len,
                }),
                (None, _) => None,
            };
            let job = match (&io.op, data) {
                (IoOp::Read, Some(data)) => Job::Read(blocks, data),
                (IoOp::Write, Some(data)) => Job::Write {
                    blocks,
                    data,
                    fua: io.fua,
                },
                (IoOp::Flush, _) => Job::Flush,
                (IoOp::WriteZeroes { .. }, _) => Job::WriteZeroes {
                    blocks,
                    fua: io.fua,
                },
                (IoOp::Deallocate { .. }, _) => Job::Deallocate(&request.ranges),
                (IoOp::Read | IoOp::Write, None) => {
                    self.respond(slot, Completion::of(Status::INTERNAL_ERROR), now);
                    return true;
                }
            };
            match backend.submit(&job, slot as u64) {
                Ok(()) => {
                    queued.dirty = true;
                    let all = io.blocks;
                    let request = &mut self.requests[slot];
                    request.parts += 1;
                    request.blocks_queued += count;
                    if request.blocks_queued >= all || !splits {
                        request.blocks_queued = all;
                        self.enter(slot, State::Executing);
                        return true;
                    }
                }
                Err(NotTaken::Full) => return false,
                Err(NotTaken::Refused(status)) => {
                    let request = &mut self.requests[slot];
                    request.status = status;
                    request.blocks_queued = io_blocks(request);
                    if request.parts == 0 {
                        self.respond(slot, Completion::of(status), now);
                    } else {
                        self.enter(slot, State::Executing);
                    }
                    return true;
                }
            }
        }
    }

    /// Whether a request without backend fails rather than waits; then it has.
    fn is_refused(&mut self, slot: usize, now: Instant) -> bool {
        let io = self.requests[slot].io.as_ref();
        let failed = io.is_some_and(|io| self.namespaces[io.backend].away == Away::Failed);
        if failed {
            self.requests[slot].status = Status::INTERNAL_PATH_ERROR;
            self.ended(slot, now);
        }
        failed
    }

    /// Goes on with requests that wait for room in a backend's queue.
    pub(super) fn retry_backlog(&mut self, namespace: usize, now: Instant) {
        while let Some(slot) = self.namespaces[namespace].backlog.front().copied() {
            let index = self.requests[slot].conn;
            let closing = self
                .connections
                .get(index)
                .is_none_or(|c| c.closing.is_some());
            if closing || !self.requests[slot].status.is_success() {
                // No more parts of it: what the backend has ends it.
                let request = &mut self.requests[slot];
                request.blocks_queued = io_blocks(request);
                self.enter(slot, State::Executing);
                self.namespaces[namespace].backlog.pop_front();
                if self.requests[slot].parts == 0 {
                    self.ended(slot, now);
                }
            } else if self.queue_parts(slot, now) {
                self.namespaces[namespace].backlog.pop_front();
            } else {
                return;
            }
        }
    }

    /// A backend has ended a part of a request.
    pub(super) fn executed(&mut self, end: Done, now: Instant) {
        let Some(request) = usize::try_from(end.tag)
            .ok()
            .and_then(|s| self.requests.get_mut(s))
        else {
            tracing::error!(tag = end.tag, "a backend ended what it was never given");
            return;
        };
        if request.parts == 0 {
            tracing::error!(tag = end.tag, "a backend ended a command twice");
            return;
        }
        request.parts -= 1;
        if request.status.is_success() && !end.status.is_success() {
            request.status = end.status;
        }
        if request.parts == 0 && request.state == State::Executing {
            self.ended(end.tag as usize, now);
        }
    }

    /// All parts of a request have ended.
    pub(super) fn ended(&mut self, slot: usize, now: Instant) {
        if self.lost_its_data(slot) {
            if self.may_start_again(slot) {
                self.start_again(slot, now);
                return;
            }
            let request = &mut self.requests[slot];
            if request.status.is_success() {
                request.status = Status::INTERNAL_PATH_ERROR;
            }
        }
        if self.is_aborted_for_nobody(slot) {
            self.execute_again(slot, now);
            return;
        }
        let request = &mut self.requests[slot];
        let (index, status) = (request.conn, request.status);
        let pool = request.buffer.as_ref().and(request.pool.checked_sub(1));
        let pool = pool.and_then(|at| self.counters.pools.get(at));
        if let (Some(pool), Some(io), true) = (pool, &request.io, status.is_success()) {
            pool.commands.add(1);
            pool.payload_bytes.add(u64::from(io.bytes));
        }
        if let Some(io) = &request.io {
            let bytes = u64::from(io.bytes);
            let Some(counters) = self.counters.namespaces.get(io.backend) else {
                return;
            };
            match io.op {
                _ if !status.is_success() => counters.errors.add(1),
                IoOp::Read => {
                    request.return_bytes = io.bytes;
                    counters.reads.count(request.path, bytes);
                }
                IoOp::Write => counters.writes.count(request.path, bytes),
                IoOp::Flush | IoOp::WriteZeroes { .. } | IoOp::Deallocate { .. } => {
                    counters.other_commands.add(1);
                }
            }
        }
        if self
            .connections
            .get(index)
            .is_none_or(|c| c.closing.is_some())
        {
            self.abandon(slot, now);
            self.finish_closing(index, now);
            return;
        }
        if !status.is_success()
            && let Some(connection) = self.connections.get(index)
        {
            connection
                .session
                .record_failure(&self.requests[slot].sqe, status);
        }
        self.respond(slot, Completion::of(status), now);
    }
}

fn io_blocks(request: &Request) -> u32 {
    request.io.as_ref().map_or(0, |io| io.blocks)
}
