//! The requester: the send queue, and how far it has come.
//!
//! InfiniBand Architecture, volume 1, 9.7.2 to 9.7.3 (packet sequence numbers
//! of requests) and 10.8 (work requests). A work request owns a run
//! of sequence numbers from the time it is posted: one for each packet of a
//! SEND or WRITE, and for a READ one for each packet of the response. So byte
//! and sequence number say the same, and a retransmission is nothing but moving
//! the cursor back: what goes out is taken from the region again.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Instant;

use super::acks::Failure;
use super::timers::{AckTimer, Expired};
use super::window::Window;
use super::{Config, Shared, Stats};
use crate::nic::{Completion, NicError, QpAttrs, QpNumber, SendOp, SendWr, WcOp, WcStatus};
use crate::soft::memory::{Keys, Right};
use crate::soft::psn::Psn;

/// The most bytes of one message: 2^20 packets at the smallest path MTU.
pub(super) const MAX_MESSAGE: u32 = 1 << 28;

/// Sequence numbers that may be given to posted work, well below the half of
/// their space within which they can be told apart.
const MAX_PSN_SPAN: u32 = 1 << 22;

/// Packets that may be under way at first: of SENDs and WRITEs, and of READs.
const FIRST_WINDOW: u32 = 64;
const FIRST_READ_WINDOW: u32 = 256;

#[derive(Debug)]
pub(super) struct Wqe {
    pub(super) wr: SendWr,
    pub(super) len: u32,
    pub(super) first: Psn,
    pub(super) packets: u32,
}

impl Wqe {
    /// The sequence number after its last one.
    pub(super) fn end(&self) -> Psn {
        self.first.plus(self.packets)
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self.wr.op, SendOp::Read(_))
    }

    fn wc_op(&self) -> WcOp {
        wc_op(&self.wr.op)
    }
}

fn wc_op(op: &SendOp) -> WcOp {
    match op {
        SendOp::Send | SendOp::SendInvalidate { .. } | SendOp::SendImmediate { .. } => WcOp::Send,
        SendOp::Write(_) | SendOp::WriteImmediate { .. } => WcOp::Write,
        SendOp::Read(_) => WcOp::Read,
    }
}

/// A READ request that is outstanding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) end: Psn,
    /// Responses still to come.
    pub(super) left: u32,
}

#[derive(Debug)]
pub(super) struct Requester {
    pub(super) number: QpNumber,
    pub(super) stats: Stats,
    pub(super) queue: VecDeque<Wqe>,
    /// Work requests whose place is not free yet: queued, or completed and not
    /// polled.
    used: usize,
    limit: usize,
    pub(super) mtu: u32,
    pub(super) read_packets: u32,
    /// The oldest number not acknowledged.
    pub(super) una: Psn,
    /// The number to send next. Always in or at the end of the queue's numbers.
    pub(super) cursor: Psn,
    /// The work request that the cursor is in.
    pub(super) current: usize,
    /// The number after the last one ever sent.
    pub(super) sent_end: Psn,
    /// The number after the last one given to a work request.
    tail: Psn,
    /// SEND and WRITE packets between `una` and the cursor.
    pub(super) data_in_flight: u32,
    pub(super) window: Window,
    /// READ responses that are waited for.
    pub(super) reads_in_flight: u32,
    pub(super) read_window: Window,
    pub(super) reads: VecDeque<Span>,
    pub(super) max_reads: usize,
    pub(super) since_ack_request: u32,
    retry_count: u8,
    retries_left: u8,
    rnr_retry: u8,
    rnr_left: u8,
    /// Until then, further losses that are seen cost no retry.
    loss_paid_until: Option<Instant>,
    pub(super) timer: AckTimer,
    pub(super) rnr_until: Option<Instant>,
    /// The cursor went back for a response seen to be missing, and nothing has
    /// come since: so many further such signs tell the same, since they were
    /// under way already.
    pub(super) recovering: Option<u32>,
}

impl Requester {
    pub(super) fn new(number: QpNumber, limit: usize) -> Self {
        let zero = Psn::new(0);
        Self {
            number,
            stats: Stats::default(),
            queue: VecDeque::with_capacity(limit),
            used: 0,
            limit,
            mtu: 256,
            read_packets: 1,
            una: zero,
            cursor: zero,
            current: 0,
            sent_end: zero,
            tail: zero,
            data_in_flight: 0,
            reads_in_flight: 0,
            window: Window::new(1, 1),
            read_window: Window::new(1, 1),
            reads: VecDeque::new(),
            max_reads: 0,
            since_ack_request: 0,
            retry_count: 0,
            retries_left: 0,
            rnr_retry: 0,
            rnr_left: 0,
            loss_paid_until: None,
            timer: AckTimer::new(0, std::time::Duration::from_secs(1)),
            rnr_until: None,
            recovering: None,
        }
    }

    pub(super) fn connect(&mut self, attrs: &QpAttrs, config: &Config) {
        let first = Psn::new(attrs.sq_psn);
        self.mtu = attrs.path_mtu;
        self.read_packets = (config.read_chunk / self.mtu).max(1);
        self.una = first;
        self.cursor = first;
        self.sent_end = first;
        self.tail = first;
        self.window = Window::new(FIRST_WINDOW, config.send_window);
        self.read_window = Window::new(FIRST_READ_WINDOW, config.read_window / self.mtu);
        self.max_reads = attrs.max_rd_atomic.into();
        self.reads.reserve(self.max_reads);
        self.retry_count = attrs.retry_count & 7;
        self.rnr_retry = attrs.rnr_retry & 7;
        self.timer = AckTimer::new(attrs.timeout, config.probe_min);
        self.made_progress();
    }

    /// Takes a list, all of it or nothing.
    pub(super) fn post(&mut self, wrs: &[SendWr], keys: &Keys) -> Result<(), NicError> {
        if self.used + wrs.len() > self.limit {
            return Err(NicError::Full);
        }
        let mut span = self.tail.distance(self.una);
        for wr in wrs {
            let right = match wr.op {
                SendOp::Read(_) if self.max_reads == 0 => {
                    return Err(NicError::Malformed("the peer takes no RDMA READ"));
                }
                SendOp::Read(_) => Right::LocalWrite,
                _ => Right::LocalRead,
            };
            keys.check(&wr.sges, right)
                .map_err(|_| NicError::Malformed("a key, its bounds or its rights"))?;
            let len = message_len(wr).ok_or(NicError::Malformed("message too long"))?;
            span = span.saturating_add(len.div_ceil(self.mtu).max(1));
        }
        if span > MAX_PSN_SPAN {
            return Err(NicError::Full);
        }
        for wr in wrs {
            let len = message_len(wr).unwrap_or(0);
            let packets = len.div_ceil(self.mtu).max(1);
            self.queue.push_back(Wqe {
                wr: wr.clone(),
                len,
                first: self.tail,
                packets,
            });
            self.tail = self.tail.plus(packets);
        }
        self.used += wrs.len();
        Ok(())
    }

    /// In the error state: each comes back at once (10.3.1).
    pub(super) fn post_flushed(
        &mut self,
        wrs: &[SendWr],
        shared: &mut Shared,
    ) -> Result<(), NicError> {
        if self.used + wrs.len() > self.limit {
            return Err(NicError::Full);
        }
        self.used += wrs.len();
        for wr in wrs {
            self.complete(wr.wr_id, wc_op(&wr.op), WcStatus::Flushed, shared);
        }
        Ok(())
    }

    /// The completion of a work request was polled: its place is free.
    pub(super) fn polled(&mut self) {
        debug_assert!(self.used > 0);
        self.used = self.used.saturating_sub(1);
    }

    fn complete(&self, wr_id: u64, op: WcOp, status: WcStatus, shared: &mut Shared) {
        let qp = self.number;
        let completion = Completion {
            wr_id,
            qp,
            status,
            op,
            len: 0,
            invalidated: None,
            imm: None,
        };
        shared.completions.push(completion);
    }

    /// The first of the queue is done.
    pub(super) fn complete_front(&mut self, shared: &mut Shared) {
        let Some(wqe) = self.queue.pop_front() else {
            return;
        };
        self.current = self.current.saturating_sub(1);
        self.stats.messages_out += 1;
        if wqe.wr.signaled {
            self.complete(wqe.wr.wr_id, wqe.wc_op(), WcStatus::Success, shared);
        } else {
            self.polled();
        }
    }

    /// Ends all that is queued: the one that failed with its status, all others
    /// flushed, in order, each once.
    pub(super) fn flush(&mut self, failure: Option<Failure>, shared: &mut Shared) {
        self.release_reads(shared);
        self.timer.stop();
        self.rnr_until = None;
        let mut index = 0;
        while let Some(wqe) = self.queue.pop_front() {
            let status = failure
                .filter(|failure| failure.index == index)
                .map_or(WcStatus::Flushed, |failure| failure.status);
            self.complete(wqe.wr.wr_id, wqe.wc_op(), status, shared);
            index += 1;
        }
        self.una = self.tail;
        self.cursor = self.tail;
        self.sent_end = self.tail;
        self.current = 0;
        self.data_in_flight = 0;
    }

    /// Gives the budget of outstanding READs back.
    pub(super) fn release_reads(&mut self, shared: &mut Shared) {
        for span in self.reads.drain(..) {
            shared.release_read_budget(span.left * self.mtu);
        }
        self.reads_in_flight = 0;
    }

    /// Sends again from the oldest number not acknowledged.
    pub(super) fn rewind(&mut self, shared: &mut Shared) {
        if self.cursor == self.una {
            return;
        }
        self.release_reads(shared);
        self.cursor = self.una;
        self.current = 0;
        self.data_in_flight = 0;
    }

    /// Something new was acknowledged: the retry counters start anew
    /// (9.7.5.2.8, 9.9.2).
    pub(super) fn made_progress(&mut self) {
        self.retries_left = self.retry_count;
        self.rnr_left = self.rnr_retry;
        self.loss_paid_until = None;
        self.recovering = None;
    }

    /// Takes one of the retries, if one is left.
    pub(super) fn spend_retry(&mut self) -> bool {
        self.stats.retries += 1;
        let left = self.retries_left > 0;
        self.retries_left = self.retries_left.saturating_sub(1);
        left
    }

    /// As [`Self::spend_retry`], for a loss that was not waited for but seen. That
    /// can happen many times within one round trip, as when an overrun buffer loses
    /// the same packet again and again, so all that is seen within one ACK timeout
    /// costs one retry: no more than a peer costs that says nothing.
    pub(super) fn spend_retry_for_loss(&mut self, now: Instant) -> bool {
        if self.loss_paid_until.is_some_and(|until| now < until) {
            return true;
        }
        self.loss_paid_until = self.timer.timeout().map(|timeout| now + timeout);
        self.spend_retry()
    }

    /// Something was lost.
    pub(super) fn shrink_windows(&mut self) {
        if self.data_in_flight > 0 {
            self.window.lost();
        }
        if self.reads_in_flight > 0 {
            self.read_window.lost();
        }
    }

    /// Waits before sending again; `false` when no retry is left. 7 is for ever.
    pub(super) fn wait_for_receiver(&mut self, until: Instant) -> bool {
        if self.rnr_left == 0 {
            return false;
        }
        if self.rnr_retry != 7 {
            self.rnr_left -= 1;
        }
        self.timer.stop();
        self.rnr_until = Some(until);
        true
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.rnr_until.or_else(|| self.timer.deadline())
    }

    pub(super) fn expire(&mut self, now: Instant) -> Option<Expired> {
        if self.rnr_until.is_some() {
            None
        } else {
            self.timer.expire(now)
        }
    }

    /// Whether a wait for the receiver has just ended.
    pub(super) fn rnr_over(&mut self, now: Instant) -> bool {
        self.rnr_until.take_if(|until| *until <= now).is_some()
    }
}

/// Bytes of a message, if they are not too many.
fn message_len(wr: &SendWr) -> Option<u32> {
    let len: u64 = wr.sges.iter().map(|sge| u64::from(sge.len)).sum();
    u32::try_from(len).ok().filter(|len| *len <= MAX_MESSAGE)
}
