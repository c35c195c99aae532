//! The part of a command's way that is on the wire: RDMA READs of data, their
//! completions, the flush before an SSD hears of what was placed, and the work
//! requests that answers are made of.

use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_nvme::spec::Status;
use sidelane_transport::nic::{
    Completion as Wc, Flush, MemoryRegion, NicError, RemoteMemory, SendOp, SendWr, Sge, WR_ID_BITS,
    WcStatus,
};
use sidelane_transport::nvmf::{self, HostData};

use super::Reactor;
use super::connections::{Connection, GONE};
use super::request::{Purpose, State};
use crate::backend::Blocks;
use crate::session::{Completion, IoOp, IoRequest, Step, dsm_ranges};

/// Marks the work request of which only failure makes a completion: the data of
/// a read, with the response behind it.
const UNSIGNALED: u64 = 1 << (WR_ID_BITS - 1);

impl Reactor {
    /// The pieces of a request's buffer and of the host's memory, side by side.
    pub(super) fn transfers(
        &self,
        slot: usize,
    ) -> ArrayVec<(Sge, RemoteMemory), { nvmf::MAX_DESCRIPTORS }> {
        let mut transfers = ArrayVec::new();
        let request = &self.requests[slot];
        let (Some(buffer), Some(memory)) = (&request.buffer, self.memory(slot)) else {
            return transfers;
        };
        let HostData::Keyed(descriptors) = &request.host else {
            return transfers;
        };
        let mut offset = buffer.offset() as u64;
        let mut left = buffer.len() as u64;
        for descriptor in descriptors {
            let len = u64::from(descriptor.len).min(left);
            if len == 0 {
                continue;
            }
            let sge = Sge {
                addr: memory.base + offset,
                len: len as u32,
                lkey: memory.lkey,
            };
            transfers.push((
                sge,
                RemoteMemory {
                    addr: descriptor.addr,
                    rkey: descriptor.key,
                },
            ));
            offset += len;
            left -= len;
        }
        transfers
    }

    /// The registration of the pool that a request's buffer is from.
    pub(super) fn memory(&self, slot: usize) -> Option<MemoryRegion> {
        let request = &self.requests[slot];
        let port = &self.ports[self.port_of(slot)];
        let memory = port.pool_memory.get(request.pool).copied().flatten();
        // What has gone and come back is another region, and not what it held.
        let region = request.buffer.as_ref().map(|buffer| buffer.region().id());
        memory.filter(|memory| region.is_none_or(|region| region == memory.region))
    }

    pub(super) fn port_of(&self, slot: usize) -> usize {
        slot / (self.requests.len() / self.ports.len())
    }

    pub(super) fn fetch(&mut self, slot: usize, now: Instant) {
        self.enter(slot, State::Fetching);
        let transfers = self.transfers(slot);
        let index = self.requests[slot].conn;
        let Some(last) = transfers.len().checked_sub(1) else {
            self.respond(slot, Completion::of(Status::DATA_SGL_LENGTH_INVALID), now);
            return;
        };
        for (at, (sge, remote)) in transfers.into_iter().enumerate() {
            let signaled = at == last;
            let wr = work(slot, SendOp::Read(remote), Some(sge), signaled);
            self.connections.send(index, wr);
        }
    }

    /// A send work request came back.
    pub(super) fn sent(&mut self, port: usize, wc: &Wc, now: Instant) {
        let Some(index) = self.connections.by_qp(port, wc.qp) else {
            return;
        };
        let signaled = wc.wr_id & UNSIGNALED == 0;
        let slot = (wc.wr_id & !UNSIGNALED) as usize;
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let (key, closing) = (connection.key, connection.closing.is_some());
        if signaled {
            self.connections.gave_back(index);
        }
        if wc.status != WcStatus::Success {
            if !closing {
                tracing::warn!(?key, status = ?wc.status, op = ?wc.op, "connection ended: its queue pair failed");
                self.close(index, now);
            }
            self.finish_closing(index, now);
            return;
        }
        if !signaled {
            return;
        }
        match self.requests.get(slot).map(|request| request.state) {
            Some(State::Responding) => {
                let then_close = self.requests[slot].then_close;
                self.release(slot, now);
                if let Some(reason) = then_close {
                    tracing::debug!(index, %reason, "connection ended");
                    self.close(index, now);
                }
            }
            // The buffer stays until the queue pair is gone.
            Some(State::Fetching) if closing => {}
            Some(State::Fetching) => {
                let request = &self.requests[slot];
                if request.purpose == Purpose::Payload && self.flush.covers(request.path) {
                    self.placed[port].push(slot);
                } else {
                    self.fetched(slot, now);
                }
            }
            _ => tracing::error!(slot, "a completion for a request that waits for none"),
        }
        if closing {
            self.finish_closing(index, now);
        }
    }

    /// The flush rule: what this round's completions placed in peer memory is
    /// made visible to other devices, once for all of it that is in one memory,
    /// before any SSD hears of it. To read one device back says nothing of what is
    /// on its way to another.
    pub(super) fn flush_placed(&mut self, port: usize, now: Instant) {
        while let Some(last) = self.placed[port].last().copied() {
            if !self.flush_pool(port, last, now) {
                // Those on their way will end, and then it is this batch's turn.
                return;
            }
        }
    }

    /// Flushes what was placed in the same memory as the data of `last`; `false`
    /// when too many flushes are under way.
    fn flush_pool(&mut self, port: usize, last: usize, now: Instant) -> bool {
        let pool = self.requests[last].pool;
        let mut count = 0;
        for &slot in &self.placed[port] {
            count += u64::from(self.requests[slot].pool == pool);
        }
        let sge = self.transfers(last).last().map(|(sge, _)| *sge);
        let outcome = sge.map(|sge| {
            let tail = Sge {
                addr: sge.addr + u64::from(sge.len) - 1,
                len: 1,
                ..sge
            };
            self.ports[port].nic.post_flush(tail, count)
        });
        if matches!(outcome, Some(Err(NicError::Full))) {
            return false;
        }
        self.counters.flush_batches.add(1);
        self.counters.flushed_commands.add(count);
        let mut placed = std::mem::take(&mut self.placed[port]);
        let mut kept = 0;
        for at in 0..placed.len() {
            let slot = placed[at];
            if self.requests[slot].pool != pool {
                placed[kept] = slot;
                kept += 1;
                continue;
            }
            self.enter(slot, State::Flushing);
            match outcome {
                Some(Ok(Flush::Done)) => self.fetched(slot, now),
                Some(Ok(Flush::Pending)) => self.flushing[port].push_back(slot),
                Some(Err(_)) | None => self.not_visible(slot, now),
            }
        }
        placed.truncate(kept);
        self.placed[port] = placed;
        true
    }

    /// Nobody knows whether an SSD would see the data of a request.
    fn not_visible(&mut self, slot: usize, now: Instant) {
        if !self.is_closing(self.requests[slot].conn) {
            self.respond(slot, Completion::of(Status::DATA_TRANSFER_ERROR), now);
        }
    }

    /// The adapter says that the oldest batch of `count` placements is visible.
    pub(super) fn flushed(&mut self, port: usize, wc: &Wc, now: Instant) {
        for _ in 0..wc.wr_id {
            let Some(slot) = self.flushing[port].pop_front() else {
                return;
            };
            if slot == GONE {
                continue;
            }
            if wc.status == WcStatus::Success {
                self.fetched(slot, now);
            } else {
                self.not_visible(slot, now);
            }
        }
    }

    /// A request's data is there: in its buffer, or in its capsule.
    pub(super) fn fetched(&mut self, slot: usize, now: Instant) {
        let request = &self.requests[slot];
        let connection = self.connections.get(request.conn);
        let ends = |it: &mut Connection| it.closing.is_some() || it.session.is_over();
        if connection.is_none_or(ends) {
            // Too late for it to be executed; its buffer stays until the queue
            // pair is gone.
            return;
        }
        if request.aborted {
            self.give_up(slot, now);
            return;
        }
        if request.purpose == Purpose::Payload {
            self.execute(slot, now);
            return;
        }
        // Data of Fabrics and admin commands, and lists of ranges: rare, small,
        // and not payload. As much as was asked for, which may be less than the
        // host has named.
        let len = match &request.buffer {
            Some(buffer) => buffer.len(),
            None => request.fetch_len as usize,
        };
        let mut data = vec![0; len];
        let read = match (&request.buffer, &request.host) {
            (Some(buffer), _) => buffer.read(0, &mut data),
            (None, HostData::InCapsule { offset, .. }) => {
                let port = &self.ports[self.port_of(slot)];
                let at = port
                    .messages
                    .capsule_data(slot - port.first_slot, *offset as usize);
                port.messages.region().view().read(at, &mut data)
            }
            (None, _) => Ok(()),
        };
        if read.is_err() {
            self.respond(slot, Completion::of(Status::INTERNAL_ERROR), now);
            return;
        }
        let (sqe, index) = (request.sqe, request.conn);
        self.requests[slot].buffer = None;
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let step = connection.session.data(&sqe, &data, now);
        self.connections.note_deadline(index);
        if let Step::Io(IoRequest {
            op: IoOp::Deallocate { .. },
            ..
        }) = step
        {
            let blocks = dsm_ranges(&data).map(|range| Blocks {
                slba: range.slba,
                count: range.blocks,
            });
            self.requests[slot].ranges = blocks.collect();
        }
        self.step(slot, step, now);
        self.answer_held(index, now);
    }
}

pub(super) fn work(slot: usize, op: SendOp, sge: Option<Sge>, signaled: bool) -> SendWr {
    let flag = if signaled { 0 } else { UNSIGNALED };
    SendWr {
        wr_id: slot as u64 | flag,
        op,
        sges: sge.into_iter().collect(),
        signaled,
        solicited: false,
    }
}
