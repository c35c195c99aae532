//! Admin commands of a modelled controller (clause 5).

use zerocopy::IntoBytes;

use super::queues::{CompletionQueue, Outcome, SubmissionQueue};
use super::state::State;
use crate::spec::{
    AbortResult, AdminOpcode, CreateIoCq, CreateIoSq, DeleteIoQueue, ErrorLogEntry, FeatureId,
    FirmwareSlotLog, GetFeatures, GetLogPage, LogId, NumberOfQueues, SetFeatures, SmartLog, Sqe,
    Status,
};

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr(true);

impl State {
    pub(super) fn admin(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        let done = |()| Outcome::Done(0);
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::CreateIoCq => self.create_cq(&(*sqe).into()).map(done),
            AdminOpcode::CreateIoSq => self.create_sq(&(*sqe).into()).map(done),
            AdminOpcode::DeleteIoCq => self.delete_cq(&(*sqe).into()).map(done),
            AdminOpcode::DeleteIoSq => {
                let qid = DeleteIoQueue::from(*sqe).qid.get();
                let known = qid != 0 && self.sqs.remove(&qid).is_some();
                known
                    .then_some(Outcome::Done(0))
                    .ok_or(Status::INVALID_QUEUE_ID)
            }
            AdminOpcode::Identify => self.identify(sqe).map(done),
            AdminOpcode::GetLogPage => self.get_log_page(sqe).map(done),
            AdminOpcode::GetFeatures => self.get_features(&(*sqe).into()).map(Outcome::Done),
            AdminOpcode::SetFeatures => self.set_features(&(*sqe).into()).map(Outcome::Done),
            AdminOpcode::Abort => {
                let result = AbortResult::new().with_not_aborted(true);
                Ok(Outcome::Done(result.raw().into()))
            }
            AdminOpcode::AsyncEventRequest => Ok(Outcome::Held),
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
        self.sqs.insert(
            qid,
            SubmissionQueue {
                base,
                entries,
                head: 0,
                tail: 0,
                cqid,
            },
        );
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

    fn set_features(&mut self, command: &SetFeatures) -> Result<u64, Status> {
        let value = command.cdw11.get();
        match command.cdw10.fid() {
            _ if command.cdw10.save() => Err(Status::FEATURE_NOT_SAVEABLE),
            FeatureId::NumberOfQueues => {
                let asked = NumberOfQueues::from_raw(value);
                if asked.submission_z() == 0xffff || asked.completion_z() == 0xffff {
                    return Err(INVALID_FIELD);
                }
                Ok(self.number_of_queues())
            }
            fid if settable(fid) => {
                self.features.insert(fid.0, value);
                Ok(0)
            }
            _ => Err(INVALID_FIELD),
        }
    }

    fn get_features(&mut self, command: &GetFeatures) -> Result<u64, Status> {
        match command.cdw10.fid() {
            FeatureId::NumberOfQueues => Ok(self.number_of_queues()),
            fid if settable(fid) => Ok(self.features.get(&fid.0).copied().unwrap_or(0).into()),
            _ => Err(INVALID_FIELD),
        }
    }

    fn number_of_queues(&self) -> u64 {
        let given_z = self.options.io_queues.saturating_sub(1);
        let given = NumberOfQueues::new()
            .with_submission_z(given_z)
            .with_completion_z(given_z);
        given.raw().into()
    }

    fn get_log_page(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let command = GetLogPage::from(*sqe);
        let mut page = match command.cdw10.lid() {
            LogId::Error => ErrorLogEntry::default().as_bytes().to_vec(),
            LogId::Smart => self.smart().as_bytes().to_vec(),
            LogId::FirmwareSlot => FirmwareSlotLog::default().as_bytes().to_vec(),
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
        self.dma.answer(sqe, &page)
    }

    fn smart(&self) -> SmartLog {
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).into();
        SmartLog {
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

/// Features that hold one dword and change nothing in the model.
fn settable(fid: FeatureId) -> bool {
    matches!(
        fid,
        FeatureId::Arbitration
            | FeatureId::PowerManagement
            | FeatureId::TemperatureThreshold
            | FeatureId::ErrorRecovery
            | FeatureId::VolatileWriteCache
            | FeatureId::InterruptCoalescing
            | FeatureId::InterruptVectorConfig
            | FeatureId::WriteAtomicity
            | FeatureId::AsyncEventConfig
    )
}
