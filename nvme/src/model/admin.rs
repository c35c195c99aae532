//! Admin commands of a modelled controller (clause 5).

use zerocopy::IntoBytes;

use super::queues::{CompletionQueue, Fetched, Outcome, SubmissionQueue};
use super::state::State;
use crate::spec::{
    Abort, AbortResult, AdminOpcode, CreateIoCq, CreateIoSq, DeleteIoQueue, ErrorLogEntry,
    FirmwareSlotLog, GetLogPage, LogId, SmartLog, Sqe, Status,
};

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr(true);

impl State {
    pub(super) fn admin(&mut self, command: &Fetched) -> Result<Outcome, Status> {
        let sqe = &command.sqe;
        let done = |()| Outcome::Done(0);
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::CreateIoCq => self.create_cq(&(*sqe).into()).map(done),
            AdminOpcode::CreateIoSq => self.create_sq(&(*sqe).into()).map(done),
            AdminOpcode::DeleteIoCq => self.delete_cq(&(*sqe).into()).map(done),
            AdminOpcode::DeleteIoSq => {
                let qid = DeleteIoQueue::from(*sqe).qid.get();
                let known = qid != 0 && self.sqs.remove(&qid).is_some();
                if known {
                    self.waiting.forget_queue(qid);
                }
                known
                    .then_some(Outcome::Done(0))
                    .ok_or(Status::INVALID_QUEUE_ID)
            }
            AdminOpcode::Identify => self.identify(sqe).map(done),
            AdminOpcode::GetLogPage => self.get_log_page(sqe).map(done),
            AdminOpcode::GetFeatures => self.get_features(&(*sqe).into()).map(Outcome::Done),
            AdminOpcode::SetFeatures => self.set_features(&(*sqe).into()).map(Outcome::Done),
            AdminOpcode::Abort => self.abort(&(*sqe).into()),
            AdminOpcode::AsyncEventRequest => self.async_event_request(command),
            AdminOpcode::DoorbellBufferConfig => self.doorbell_buffer_config(sqe).map(done),
            AdminOpcode::KeepAlive => Ok(Outcome::Done(0)),
            _ => Err(Status::INVALID_OPCODE.with_dnr(true)),
        }
    }

    /// Whether a queue of this identifier and size can be.
    fn check_queue(&self, qid: u16, qsize_z: u16, base: u64) -> Result<(), Status> {
        if qid == 0 || qid > self.options.io_queues {
            Err(Status::INVALID_QUEUE_ID)
        } else if qsize_z == 0 || qsize_z > self.options.mqes_z {
            Err(Status::INVALID_QUEUE_SIZE)
        } else if !base.is_multiple_of(4096) {
            Err(Status::PRP_OFFSET_INVALID)
        } else {
            Ok(())
        }
    }

    fn create_cq(&mut self, command: &CreateIoCq) -> Result<(), Status> {
        let (qid, qsize_z) = (command.queue.qid(), command.queue.qsize_z());
        let base = command.prp1.get();
        self.check_queue(qid, qsize_z, base)?;
        if self.cqs.contains_key(&qid) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let vector = command.flags.ien().then_some(command.flags.iv());
        if vector.is_some_and(|vector| usize::from(vector) >= self.options.vectors) {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        if !command.flags.pc() {
            return Err(INVALID_FIELD);
        }
        self.cqs.insert(
            qid,
            CompletionQueue::new(base, u32::from(qsize_z) + 1, vector),
        );
        Ok(())
    }

    fn create_sq(&mut self, command: &CreateIoSq) -> Result<(), Status> {
        let (qid, qsize_z) = (command.queue.qid(), command.queue.qsize_z());
        let base = command.prp1.get();
        self.check_queue(qid, qsize_z, base)?;
        if self.sqs.contains_key(&qid) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let cqid = command.flags.cqid();
        if cqid == 0 || !self.cqs.contains_key(&cqid) {
            return Err(Status::CQ_INVALID);
        }
        if !command.flags.pc() {
            return Err(INVALID_FIELD);
        }
        let entries = u32::from(qsize_z) + 1;
        self.sqs
            .insert(qid, SubmissionQueue::new(base, entries, cqid));
        Ok(())
    }

    fn delete_cq(&mut self, command: &DeleteIoQueue) -> Result<(), Status> {
        let qid = command.qid.get();
        if self.sqs.values().any(|sq| sq.cqid == qid) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        let known = qid != 0 && self.cqs.remove(&qid).is_some();
        known.then_some(()).ok_or(Status::INVALID_QUEUE_ID)
    }

    /// Gives a command up that was held back, or a waiting Asynchronous Event
    /// Request (clause 5.1). What is not known is not aborted.
    fn abort(&mut self, command: &Abort) -> Result<Outcome, Status> {
        let (sqid, cid) = (command.sqid.get(), command.cid.get());
        let found = match sqid {
            0 => self.events.abort(cid),
            _ => None,
        };
        let found = found.or_else(|| self.waiting.abort(sqid, cid));
        if let Some(found) = &found {
            self.answer(found, found.cqe(Status::ABORT_REQUESTED))?;
        }
        let result = AbortResult::new().with_not_aborted(found.is_none());
        Ok(Outcome::Done(result.raw().into()))
    }

    fn get_log_page(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let command = GetLogPage::from(*sqe);
        let lid = command.cdw10.lid();
        let mut page = match lid {
            LogId::Error => ErrorLogEntry::default().as_bytes().to_vec(),
            LogId::Smart => self.smart().as_bytes().to_vec(),
            LogId::FirmwareSlot => FirmwareSlotLog::default().as_bytes().to_vec(),
            LogId::ChangedNamespaces => self.events.changed().as_bytes().to_vec(),
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr(true)),
        };
        let from = usize::try_from(command.lpo.get()).unwrap_or(usize::MAX);
        if from > page.len() || command.cdw14.offset_is_index() {
            return Err(INVALID_FIELD);
        }
        page.drain(..from);
        // The page goes on as zeros, up to the greatest transfer.
        let wanted = command.len_bytes();
        if wanted > 1 << 20 {
            return Err(INVALID_FIELD);
        }
        page.resize(wanted as usize, 0);
        self.dma.answer(sqe, &page)?;
        if !command.cdw10.rae() {
            self.log_was_read(lid);
        }
        Ok(())
    }

    fn smart(&self) -> SmartLog {
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).into();
        SmartLog {
            critical_warning: self.events.warning,
            temperature_k: 308.into(),
            spare_percent: 100,
            spare_threshold_percent: 10,
            data_units_read: units(self.counts.bytes_read),
            data_units_written: units(self.counts.bytes_written),
            host_reads: u128::from(self.counts.reads).into(),
            host_writes: u128::from(self.counts.writes).into(),
            power_cycles: 1.into(),
            ..SmartLog::default()
        }
    }
}
