//! Queues of a modelled controller: doorbells, fetching, completing.

use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::dma::lost;
use super::fault::Broken;
use super::features;
use super::mischief::Waiting;
use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{CQE_LEN, Cqe, SQE_LEN, ShutdownStatus, Sqe, Status, StatusPhase};

pub(super) struct SubmissionQueue {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) cqid: u16,
    /// A fault: nothing is fetched from it any more.
    pub(super) stopped: bool,
}

impl SubmissionQueue {
    pub(super) fn new(base: u64, entries: u32, cqid: u16) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            cqid,
            stopped: false,
        }
    }
}

/// A command that was fetched.
#[derive(Clone, Copy)]
pub(super) struct Fetched {
    pub(super) sqe: Sqe,
    pub(super) qid: u16,
    /// Where its completion belongs.
    pub(super) cqid: u16,
    /// Head of its queue when it was fetched.
    sqhd: u16,
}

impl Fetched {
    /// A completion of it.
    pub(super) fn cqe(&self, status: Status) -> Cqe {
        let mut cqe = Cqe::new(self.sqe.cid(), status);
        cqe.sqhd = self.sqhd.into();
        cqe.sqid = self.qid.into();
        cqe
    }
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

    fn tail_address(&self) -> u64 {
        self.base + u64::from(self.tail) * CQE_LEN as u64
    }

    pub(super) fn is_full(&self) -> bool {
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
        let sq = SubmissionQueue::new(r.asq, u32::from(r.aqa.asqs_z()) + 1, 0);
        let cq = CompletionQueue::new(r.acq, u32::from(r.aqa.acqs_z()) + 1, Some(0));
        let fit = sq.entries >= 2
            && cq.entries >= 2
            && r.asq.is_multiple_of(4096)
            && r.acq.is_multiple_of(4096)
            && (r.cc.iosqes(), r.cc.iocqes(), r.cc.mps()) == (6, 4, 0);
        self.sqs.insert(0, sq);
        self.cqs.insert(0, cq);
        let stuck = self.health.is(Broken::NeverReady);
        let fatal = !fit || self.health.is(Broken::Fatal);
        self.registers.csts.set_rdy(fit && !stuck && !fatal);
        self.registers.csts.set_cfs(fatal);
    }

    /// CC.EN was cleared.
    pub(super) fn forget_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.features = features::defaults(&self.options);
        self.waiting = Waiting::default();
        self.events.reset();
        self.shadows = None;
        self.health.reset();
    }

    /// Doorbell number `index` was written.
    pub(super) fn doorbell(&mut self, index: u32, value: u16) {
        if self.set_doorbell(index, value.into()) && !self.options.defer {
            let qid = u16::try_from(index / 2).ok();
            self.run_for(qid, usize::MAX);
        }
    }

    /// Takes a tail or a head, and says whether it did. Values that make no
    /// sense are ignored, as a controller that reports no such events may.
    pub(super) fn set_doorbell(&mut self, index: u32, value: u32) -> bool {
        let Ok(qid) = u16::try_from(index / 2) else {
            return false;
        };
        match (index % 2, self.sqs.get_mut(&qid), self.cqs.get_mut(&qid)) {
            (0, Some(sq), _) if value < sq.entries => sq.tail = value,
            (1, _, Some(cq)) if value < cq.entries => cq.head = value,
            _ => return false,
        }
        true
    }

    /// Executes at most `limit` commands, and says how many there were.
    pub(super) fn run(&mut self, limit: usize) -> usize {
        self.run_for(None, limit)
    }

    /// The same, looking only at the shadow doorbells of one queue.
    fn run_for(&mut self, only: Option<u16>, limit: usize) -> usize {
        self.runs += 1;
        let mut done = 0;
        let looked = self.wake(only);
        self.heed(looked);
        while done < limit && self.is_running() {
            match self.advance() {
                Ok(true) => done += 1,
                Ok(false) => break,
                lost => {
                    self.heed(lost.map(|_| ()));
                    done += 1;
                }
            }
        }
        self.interrupt();
        done
    }

    /// Executes one command; `false` when there is none.
    fn advance(&mut self) -> Result<bool, Status> {
        if !self.waiting.is_empty() {
            self.post_waiting()?;
            if let Some(command) = self.waiting.take_due(self.executed) {
                return self.execute_and_post(&command).map(|()| true);
            }
        }
        loop {
            if let Some(qid) = self.next_queue() {
                let command = self.fetch(qid)?;
                return self.meet(command).map(|()| true);
            }
            if !self.sleep()? {
                return Ok(false);
            }
        }
    }

    /// A queue that cannot be reached is fatal to a controller.
    pub(super) fn heed(&mut self, posted: Result<(), Status>) {
        if let Err(status) = posted {
            let device = self.options.address;
            tracing::warn!(%device, %status, "the model lost a queue");
            self.registers.csts.set_cfs(true);
        }
    }

    /// Tells of completions that were posted. An interrupt is a write to memory.
    pub(super) fn interrupt(&mut self) {
        if self.dma.cut_off || self.dma.gone {
            self.interrupts.clear();
        }
        while let Some(vector) = self.interrupts.pop_first() {
            if let Some(event) = self.vectors.get(usize::from(vector)) {
                // An eventfd refuses only when it is full, and is readable then.
                let _ = rustix::io::write(event, &1u64.to_ne_bytes());
            }
        }
    }

    pub(super) fn is_running(&self) -> bool {
        let csts = self.registers.csts;
        csts.rdy()
            && !csts.cfs()
            && csts.shst() == ShutdownStatus::Normal
            && !self.health.is(Broken::Stopped)
            && !self.health.is(Broken::Vanished)
    }

    pub(super) fn has_room(&self, cqid: u16) -> bool {
        // A queue that is no more takes anything.
        self.cqs.get(&cqid).is_none_or(|cq| !cq.is_full())
    }

    /// A queue with a command to execute and room for its completion.
    fn next_queue(&self) -> Option<u16> {
        let ready = |sq: &SubmissionQueue| {
            sq.head != sq.tail
                && !sq.stopped
                && self.cqs.get(&sq.cqid).is_some_and(|cq| !cq.is_full())
        };
        self.sqs
            .iter()
            .find(|(_, sq)| ready(sq))
            .map(|(qid, _)| *qid)
    }

    fn fetch(&mut self, qid: u16) -> Result<Fetched, Status> {
        let sq = self.sqs.get_mut(&qid).ok_or(Status::INTERNAL_ERROR)?;
        let at = sq.base + u64::from(sq.head) * SQE_LEN as u64;
        sq.head = (sq.head + 1) % sq.entries;
        let (cqid, sqhd) = (sq.cqid, sq.head as u16);
        let mut sqe = Sqe::default();
        self.dma.read(at, sqe.as_mut_bytes(), Purpose::Queue)?;
        Ok(Fetched {
            sqe,
            qid,
            cqid,
            sqhd,
        })
    }

    /// Executes a command; its completion, unless it stays outstanding.
    pub(super) fn execute(&mut self, command: &Fetched) -> Option<Cqe> {
        self.executed += 1;
        let outcome = match command.qid {
            0 => self.admin(command),
            _ => self.io(&command.sqe).map(|()| Outcome::Done(0)),
        };
        match outcome {
            Ok(Outcome::Done(result)) => Some(command.cqe(Status::SUCCESS).with_result(result)),
            Ok(Outcome::Held) => None,
            Err(status) => Some(command.cqe(status)),
        }
    }

    /// Puts a completion into its queue.
    pub(super) fn post(&mut self, cqid: u16, cqe: Cqe) -> Result<(), Status> {
        let Some(cq) = self.cqs.get_mut(&cqid) else {
            return Ok(());
        };
        let (at, phase) = (cq.tail_address(), cq.phase);
        cq.tail = (cq.tail + 1) % cq.entries;
        cq.phase ^= cq.tail == 0;
        self.interrupts.extend(cq.vector);
        self.write_cqe(at, cqe, phase)
    }

    /// Writes a completion where the next one will be, with the phase of the
    /// round before.
    pub(super) fn write_stale(&mut self, cqid: u16, cqe: Cqe) -> Result<(), Status> {
        let Some(cq) = self.cqs.get(&cqid) else {
            return Ok(());
        };
        let (at, stale) = (cq.tail_address(), !cq.phase);
        self.interrupts.extend(cq.vector);
        self.write_cqe(at, cqe, stale)
    }

    /// The dword with the phase goes last.
    fn write_cqe(&mut self, at: u64, mut cqe: Cqe, phase: bool) -> Result<(), Status> {
        cqe.status = StatusPhase::of(cqe.status(), phase);
        let (view, offset) = self
            .dma
            .access(at, CQE_LEN, Direction::ToMemory, Purpose::Queue)?;
        let last = u32::from(cqe.cid.get()) | u32::from(cqe.status.raw()) << 16;
        let head = cqe.as_bytes().get(..12).unwrap_or_default();
        view.write(offset, head).map_err(lost)?;
        view.store_u32(offset + 12, last, Ordering::Release)
            .map_err(lost)
    }
}
