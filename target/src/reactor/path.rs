//! The way of a command: the one place that moves requests between states.
//!
//! ```text
//! write  received -> [waiting-buffer] -> fetching -> [flushing] -> executing -> responding
//! read   received -> [waiting-buffer] -> executing -> responding (data, then response)
//! other  received -> executing | held -> responding
//! ```

use std::ops::Range;
use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_nvme::spec::{Sqe, Status};
use sidelane_p2p::pool::{AllocError, PoolBuf};
use sidelane_p2p::provider::PathReason;
use sidelane_transport::nic::{Completion as Wc, SendOp, WcOp, WcStatus};
use sidelane_transport::nvmf::{self, HostData};

use super::buffers::{Turn, turn};
use super::messages::SQE_BYTES;
use super::request::{Permit, Purpose, Request, State};
use super::transfer::work;
use super::ways::DataPath;
use super::{Away, CONTROL_POOL, Reactor};
use crate::session::{CloseReason, Completion, IoOp, IoRequest, Step};

/// Where the data of Fabrics and admin commands goes.
const CONTROL: [DataPath; 1] = [DataPath {
    pool: CONTROL_POOL,
    path: PathReason::HostByPolicy,
    spare: false,
}];

/// The data pointer names a place that the data cannot come from or go to.
const WRONG_PLACE: Status = Status::SGL_TYPE_INVALID.with_dnr(true);

impl Reactor {
    /// A message arrived in a slot.
    pub(super) fn received(&mut self, port: usize, wc: &Wc, now: Instant) {
        let Ok(slot) = usize::try_from(wc.wr_id) else {
            return;
        };
        if slot >= self.requests.len() {
            return;
        }
        let connection = self.connections.by_qp(port, wc.qp);
        let open = connection.filter(|index| {
            self.connections
                .get(*index)
                .is_some_and(|c| c.closing.is_none())
        });
        let Some(index) = open else {
            // The connection has ended; only its buffer counts.
            self.repost(slot, now);
            return;
        };
        if wc.status != WcStatus::Success {
            // Its queue pair is in the error state: nothing more will come, and
            // nothing that is posted may be on its way to say so.
            tracing::warn!(port, qp = ?wc.qp, status = ?wc.status, "connection ended: a message was not received");
            self.repost(slot, now);
            self.close(index, now);
            return;
        }
        if wc.op == WcOp::RecvWrite {
            // No key was given to it, so it wrote nothing; a queue pair takes it
            // nevertheless, and no capsule comes this way.
            tracing::warn!(port, qp = ?wc.qp, "connection ended: an RDMA WRITE with immediate data came");
            self.repost(slot, now);
            self.close(index, now);
            return;
        }
        self.counters.commands.add(1);
        self.requests[slot] = Request {
            conn: index,
            received: wc.len,
            permit: Some(Permit::new(&self.unspent)),
            ..Request::empty()
        };
        self.enter(slot, State::Received);
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        connection.in_use += 1;
        if connection.is_overrun() {
            // The session counts by the size that Connect named; the slots of
            // others are protected by what the connection was promised.
            tracing::warn!(key = ?connection.key, reason = %CloseReason::QueueOverrun, "connection ended");
            self.close(index, now);
            return;
        }
        if (wc.len as usize) < SQE_BYTES {
            tracing::warn!(key = ?connection.key, len = wc.len, "connection ended: a capsule shorter than a command");
            self.close(index, now);
            return;
        }
        let local = slot - self.ports[port].first_slot;
        match self.ports[port].messages.command(local) {
            Ok(sqe) => self.dispatch(slot, sqe, now),
            Err(error) => {
                tracing::error!(%error, "a receive buffer outside its memory");
                self.close(index, now);
            }
        }
    }

    /// Hands a command to its session and does what that says.
    fn dispatch(&mut self, slot: usize, sqe: Sqe, now: Instant) {
        let request = &mut self.requests[slot];
        request.sqe = sqe;
        let in_capsule = (request.received as usize).saturating_sub(SQE_BYTES);
        let port = &self.ports[slot / (self.requests.len() / self.ports.len())];
        let list = |range: Range<usize>, list: &mut [u8]| {
            let local = slot - port.first_slot;
            port.messages.read_capsule(local, range.start, list).is_ok()
        };
        let pointer = nvmf::data_pointer(&sqe, in_capsule, nvmf::MAX_DESCRIPTORS, list);
        let request = &mut self.requests[slot];
        let host_len = match pointer {
            Ok(host) => {
                let len = host.len();
                request.host = host;
                Ok(len)
            }
            // It counts only if the command moves data; the session knows.
            Err(error) => Err(error.status()),
        };
        let index = request.conn;
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let step = connection.session.command(&sqe, host_len, now);
        if !matches!(step, Step::Io(_)) {
            self.connections.note_deadline(index);
        }
        self.step(slot, step, now);
        self.answer_held(index, now);
    }

    pub(super) fn step(&mut self, slot: usize, step: Step, now: Instant) {
        match step {
            Step::Io(io) => self.start_io(slot, io, now),
            Step::Fetch { len } => {
                self.requests[slot].purpose = Purpose::Control;
                self.requests[slot].fetch_len = len;
                if let HostData::InCapsule { .. } = self.requests[slot].host {
                    self.fetched(slot, now);
                } else {
                    let turn = turn(&CONTROL, &self.pools, len as usize);
                    self.want_buffer(slot, turn, now);
                }
            }
            // An answer goes where a key says; a capsule is not written to.
            Step::Reply { .. } if in_capsule(&self.requests[slot].host).is_some() => {
                self.respond(slot, Completion::of(WRONG_PLACE), now);
            }
            Step::Reply { data, completion } => {
                self.requests[slot].completion = completion;
                let len = data.len();
                self.requests[slot].reply = Some(data);
                let turn = turn(&CONTROL, &self.pools, len);
                self.want_buffer(slot, turn, now);
            }
            Step::Complete(completion) => self.respond(slot, completion, now),
            Step::Held => self.enter(slot, State::Held),
            Step::CompleteAndClose(completion, reason) => {
                self.requests[slot].then_close = Some(reason);
                self.respond(slot, completion, now);
            }
            Step::Close(reason) => {
                let index = self.requests[slot].conn;
                if let Some(connection) = self.connections.get(index) {
                    tracing::warn!(key = ?connection.key, %reason, "connection ended");
                }
                self.close(index, now);
            }
        }
    }

    pub(super) fn start_io(&mut self, slot: usize, io: IoRequest, now: Instant) {
        let Some(queued) = self.namespaces.get(io.backend) else {
            self.respond(slot, Completion::of(Status::INTERNAL_ERROR), now);
            return;
        };
        let namespace = &queued.namespace;
        if namespace.backend.is_none() && queued.away == Away::Failed {
            self.respond(slot, Completion::of(Status::INTERNAL_PATH_ERROR), now);
            return;
        }
        let port = self.port_of(slot);
        let request = &mut self.requests[slot];
        request.purpose = Purpose::Payload;
        let bytes = io.bytes as usize;
        let Some(routes) = namespace.routes.get(port) else {
            self.respond(slot, Completion::of(Status::INTERNAL_ERROR), now);
            return;
        };
        let open = match io.op {
            IoOp::Read => Some(routes.reads.open()),
            IoOp::Write => Some(routes.writes.open()),
            IoOp::Flush | IoOp::WriteZeroes { .. } | IoOp::Deallocate { .. } => None,
        };
        let in_capsule = in_capsule(&request.host);
        let allowed = namespace.in_capsule && io.op == IoOp::Write;
        request.io = Some(io);
        match open {
            // All its ranges were empty: there is nothing to do, and that is done.
            None if matches!(io.op, IoOp::Deallocate { .. }) && request.ranges.is_empty() => {
                self.respond(slot, Completion::OK, now);
            }
            None => self.execute(slot, now),
            // Data in a capsule is in host memory, which `require` rules out;
            // IOCCSZ told the host so. And it only ever goes to the target.
            Some(_) if in_capsule.is_some() && !allowed => {
                self.respond(slot, Completion::of(WRONG_PLACE), now);
            }
            // SSDs take data from whole dwords only.
            Some(_) if in_capsule.is_some_and(|offset| offset % 4 != 0) => {
                let status = Status::SGL_OFFSET_INVALID.with_dnr(true);
                self.respond(slot, Completion::of(status), now);
            }
            Some(_) if in_capsule.is_some() => {
                request.path = PathReason::InCapsule;
                self.execute(slot, now);
            }
            // Where all memory that the policy allows was taken away, another
            // path to the namespace may have some.
            Some(open) => {
                let turn = turn(open, &self.pools, bytes);
                self.want_buffer(slot, turn, now);
            }
        }
    }

    /// Takes a buffer now, or queues for one.
    fn want_buffer(&mut self, slot: usize, turn: Turn, now: Instant) {
        let request = &mut self.requests[slot];
        let way = match &turn {
            Turn::Now(way, _) | Turn::Wait(way) => *way,
            Turn::Never => {
                // Hosts are told how long a transfer may be. What was too long for
                // all that is left was not before memory was taken away.
                let status = match request.io {
                    Some(_) => Status::INTERNAL_PATH_ERROR,
                    None => Status::INVALID_FIELD.with_dnr(true),
                };
                return self.respond(slot, Completion::of(status), now);
            }
        };
        request.pool = way.pool;
        request.path = way.path;
        let index = request.conn;
        if let Turn::Now(_, buffer) = turn {
            return self.settle(slot, Ok(buffer), now);
        }
        self.enter(slot, State::WaitingBuffer);
        if let Some(counters) = way
            .pool
            .checked_sub(1)
            .and_then(|at| self.counters.pools.get(at))
        {
            counters.waits.add(1);
        }
        self.pools[way.pool].admission.push(index, slot);
    }

    /// Gives buffers that came back to those who wait, in turn.
    pub(super) fn admit(&mut self, now: Instant) {
        for pool in 0..self.pools.len() {
            while let Some((slot, outcome)) =
                self.pools[pool].next(|slot| wanted(&self.requests[slot]))
            {
                // Taken out by now: what follows may end the connection, and with
                // it all that waits for it.
                self.settle(slot, outcome, now);
            }
        }
    }

    fn settle(&mut self, slot: usize, outcome: Result<PoolBuf, AllocError>, now: Instant) {
        match outcome {
            Ok(buffer) => {
                self.requests[slot].buffer = Some(buffer);
                self.buffered(slot, now);
            }
            Err(error) => {
                tracing::warn!(%error, "a command is too long for its pool");
                let status = Status::INVALID_FIELD.with_dnr(true);
                self.respond(slot, Completion::of(status), now);
            }
        }
    }

    /// A request has its buffer.
    fn buffered(&mut self, slot: usize, now: Instant) {
        if let Some(reply) = self.requests[slot].reply.take() {
            self.reply(slot, &reply, now);
            return;
        }
        match self.requests[slot].io.as_ref().map(|io| &io.op) {
            Some(IoOp::Read) => self.execute(slot, now),
            _ => self.fetch(slot, now),
        }
    }

    fn reply(&mut self, slot: usize, reply: &[u8], now: Instant) {
        let request = &mut self.requests[slot];
        let written = request.buffer.as_ref().map(|buffer| buffer.write(0, reply));
        let completion = match written {
            Some(Ok(())) => {
                request.return_bytes = reply.len() as u32;
                request.completion
            }
            _ => Completion::of(Status::INTERNAL_ERROR),
        };
        self.respond(slot, completion, now);
    }

    /// Answers commands that were held until now (AER), and gives up those that
    /// a controller reset has forgotten.
    pub(super) fn answer_held(&mut self, index: usize, now: Instant) {
        while let Some(cid) = self
            .connections
            .get(index)
            .and_then(|connection| connection.session.poll_forgotten())
        {
            match self.held(index, cid) {
                Some(slot) => self.abandon(slot, now),
                None => tracing::error!(cid, "a session forgets what it did not hold"),
            }
        }
        while let Some((cid, completion)) = self
            .connections
            .get(index)
            .and_then(|connection| connection.session.poll_async())
        {
            match self.held(index, cid) {
                Some(slot) => self.respond(slot, completion, now),
                None => tracing::error!(cid, "a session answers what it does not hold"),
            }
        }
    }

    fn held(&self, index: usize, cid: u16) -> Option<usize> {
        self.requests.iter().position(|request| {
            request.conn == index && request.state == State::Held && request.sqe.cid() == cid
        })
    }

    /// Answers a command: its data first, the response behind it, both in order
    /// on one queue pair.
    pub(super) fn respond(&mut self, slot: usize, completion: Completion, now: Instant) {
        let port = self.port_of(slot);
        let request = &mut self.requests[slot];
        let (index, cid) = (request.conn, request.sqe.cid());
        let mut completion = completion;
        let returns = completion.status.is_success() && request.return_bytes > 0;
        if let Some(permit) = request.permit.take() {
            permit.spend();
        }
        let invalidate = request.host.invalidate();
        self.enter(slot, State::Responding);
        let transfers = if returns {
            self.transfers(slot)
        } else {
            ArrayVec::new()
        };
        if returns && transfers.is_empty() {
            // The adapter lost its way to the data while the SSD brought it.
            completion = Completion::of(Status::INTERNAL_PATH_ERROR);
        }
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let cqe = connection.session.completed(cid, completion);
        let ports = &self.ports[port];
        let local = slot - ports.first_slot;
        let Ok(sge) = ports.messages.respond(local, &cqe, &ports.messages_memory) else {
            self.close(index, now);
            return;
        };
        for (data, remote) in transfers {
            self.connections
                .send(index, work(slot, SendOp::Write(remote), Some(data), false));
        }
        let op = match invalidate {
            Some(rkey) => SendOp::SendInvalidate { rkey },
            None => SendOp::Send,
        };
        self.connections
            .send(index, work(slot, op, Some(sge), true));
    }

    /// Ends a request that nobody waits for: its connection is gone, or its
    /// controller was reset.
    pub(super) fn abandon(&mut self, slot: usize, now: Instant) {
        if let Some(permit) = self.requests[slot].permit.take() {
            permit.spend();
            self.counters.abandoned.add(1);
        }
        self.release(slot, now);
    }

    /// A slot has done its round.
    pub(super) fn release(&mut self, slot: usize, now: Instant) {
        let index = self.requests[slot].conn;
        if let Some(connection) = self.connections.get(index) {
            connection.in_use -= 1;
        }
        self.requests[slot] = Request::empty();
        self.repost(slot, now);
    }

    fn repost(&mut self, slot: usize, now: Instant) {
        let gone = self.ports[self.port_of(slot)].gone;
        if let Err((nic, error)) = self.post_slot(slot)
            && !gone
        {
            // The slot is lost; nothing else is.
            tracing::error!(nic, %error, ?now, "a receive buffer was refused");
        }
    }

    pub(super) fn enter(&mut self, slot: usize, state: State) {
        self.requests[slot].state = state;
        self.counters.states[state as usize].add(1);
        tracing::trace!(slot, ?state, "request");
    }
}

/// Bytes of buffer that a request wants.
fn wanted(request: &Request) -> usize {
    match (&request.reply, &request.io) {
        (Some(reply), _) => reply.len(),
        (None, Some(io)) => io.bytes as usize,
        (None, None) => request.fetch_len as usize,
    }
}

/// Where in the capsule a command's data is, if it is there.
fn in_capsule(host: &HostData) -> Option<u32> {
    match host {
        HostData::InCapsule { offset, .. } => Some(*offset),
        HostData::None | HostData::Keyed(_) => None,
    }
}
