//! Queues of a modelled controller: doorbells, fetching, completing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::dma::lost;
use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{CQE_LEN, Cqe, SQE_LEN, Sqe, Status, StatusPhase};

pub(super) struct SubmissionQueue {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) cqid: u16,
}

pub(super) struct CompletionQueue {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// The host's.
    pub(super) head: u32,
    /// The controller's.
    pub(super) tail: u32,
    pub(super) phase: bool,
    pub(super) vector: Option<u16>,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
        }
    }

    fn is_full(&self) -> bool {
        (self.tail + 1) % self.entries == self.head
    }
}

/// What becomes of a command.
pub(super) enum Outcome {
    /// It ends with this result.
    Done(u64),
    /// It stays outstanding (Asynchronous Event Request).
    Held,
}

impl State {
    /// CC.EN was set.
    pub(super) fn enable(&mut self) {
        let r = &self.registers;
        let sq = SubmissionQueue {
            base: r.asq,
            entries: u32::from(r.aqa.asqs_z()) + 1,
            head: 0,
            tail: 0,
            cqid: 0,
        };
        let cq = CompletionQueue::new(r.acq, u32::from(r.aqa.acqs_z()) + 1, Some(0));
        let fit = sq.entries >= 2
            && cq.entries >= 2
            && r.asq.is_multiple_of(4096)
            && r.acq.is_multiple_of(4096)
            && (r.cc.iosqes(), r.cc.iocqes(), r.cc.mps()) == (6, 4, 0);
        self.sqs.insert(0, sq);
        self.cqs.insert(0, cq);
        self.registers.csts.set_rdy(fit);
        self.registers.csts.set_cfs(!fit);
    }

    /// CC.EN was cleared.
    pub(super) fn forget_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.features.clear();
    }

    /// Doorbell number `index` was written. Values that make no sense are
    /// ignored, as a controller that reports no such events may.
    pub(super) fn doorbell(&mut self, index: u32, value: u16) {
        let value = u32::from(value);
        let Ok(qid) = u16::try_from(index / 2) else {
            return;
        };
        if index.is_multiple_of(2) {
            match self.sqs.get_mut(&qid) {
                Some(sq) if value < sq.entries => sq.tail = value,
                _ => return,
            }
        } else {
            match self.cqs.get_mut(&qid) {
                Some(cq) if value < cq.entries => cq.head = value,
                _ => return,
            }
        }
        if !self.options.defer {
            self.run(usize::MAX);
        }
    }

    /// Executes at most `limit` commands, and says how many there were.
    pub(super) fn run(&mut self, limit: usize) -> usize {
        let mut interrupts = BTreeSet::new();
        let mut done = 0;
        while done < limit && self.is_running() {
            let Some(qid) = self.next_queue() else { break };
            match self.execute_one(qid) {
                Ok(vector) => interrupts.extend(vector),
                Err(status) => {
                    // A queue that cannot be reached is fatal to a controller.
                    tracing::warn!(device = %self.options.address, qid, %status, "the model lost a queue");
                    self.registers.csts.set_cfs(true);
                }
            }
            done += 1;
        }
        for vector in interrupts {
            if let Some(event) = self.vectors.get(usize::from(vector)) {
                // An eventfd refuses only when it is full, and is readable then.
                let _ = rustix::io::write(event, &1u64.to_ne_bytes());
            }
        }
        done
    }

    fn is_running(&self) -> bool {
        let csts = self.registers.csts;
        csts.rdy() && !csts.cfs() && csts.shst() == crate::spec::ShutdownStatus::Normal
    }

    /// A queue with a command to execute and room for its completion.
    fn next_queue(&self) -> Option<u16> {
        let ready = |sq: &SubmissionQueue| {
            sq.head != sq.tail && self.cqs.get(&sq.cqid).is_some_and(|cq| !cq.is_full())
        };
        self.sqs
            .iter()
            .find(|(_, sq)| ready(sq))
            .map(|(qid, _)| *qid)
    }

    fn execute_one(&mut self, qid: u16) -> Result<Option<u16>, Status> {
        let sq = self.sqs.get_mut(&qid).ok_or(Status::INTERNAL_ERROR)?;
        let at = sq.base + u64::from(sq.head) * SQE_LEN as u64;
        sq.head = (sq.head + 1) % sq.entries;
        let (cqid, sqhd) = (sq.cqid, sq.head as u16);
        let mut sqe = Sqe::default();
        self.dma.read(at, sqe.as_mut_bytes(), Purpose::Queue)?;
        let outcome = match qid {
            0 => self.admin(&sqe),
            _ => self.io(&sqe).map(|()| Outcome::Done(0)),
        };
        let (status, result) = match outcome {
            Ok(Outcome::Done(result)) => (Status::SUCCESS, result),
            Ok(Outcome::Held) => return Ok(None),
            Err(status) => (status, 0),
        };
        let mut cqe = Cqe::new(sqe.cid(), status).with_result(result);
        cqe.sqhd = sqhd.into();
        cqe.sqid = qid.into();
        self.post(cqid, cqe)
    }

    /// Puts a completion into its queue; the dword with the phase goes last.
    fn post(&mut self, cqid: u16, mut cqe: Cqe) -> Result<Option<u16>, Status> {
        let cq = self.cqs.get_mut(&cqid).ok_or(Status::INTERNAL_ERROR)?;
        cqe.status = StatusPhase::of(cqe.status(), cq.phase);
        let at = cq.base + u64::from(cq.tail) * CQE_LEN as u64;
        cq.tail = (cq.tail + 1) % cq.entries;
        cq.phase ^= cq.tail == 0;
        let vector = cq.vector;
        let (view, offset) = self
            .dma
            .access(at, CQE_LEN, Direction::ToMemory, Purpose::Queue)?;
        let last = u32::from(cqe.cid.get()) | u32::from(cqe.status.raw()) << 16;
        let head = cqe.as_bytes().get(..12).unwrap_or_default();
        view.write(offset, head).map_err(lost)?;
        view.store_u32(offset + 12, last, Ordering::Release)
            .map_err(lost)?;
        Ok(vector)
    }
}
