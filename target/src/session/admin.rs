//! The admin queue of a controller: its state, and which command goes where.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_nvme::spec::{Abort, AbortResult, AdminOpcode, Cc, Csts, FabricsType, Sqe};

use super::aer::{AER_LIMIT, AerQueue};
use super::commands::Queue;
use super::features::Features;
use super::keep_alive;
use super::queue::fabrics_type;
use super::refusal::{Refusal, at};
use super::step::{Completion, HostLen, Step};
use crate::subsystem::{ABORT_LIMIT, ControllerShared, Kind, Portal, Subsystem, Target};

/// A controller, as its admin queue keeps it.
#[derive(Debug)]
pub struct AdminQueue {
    pub(super) target: Arc<Target>,
    pub(super) portal: Portal,
    pub(super) subsystem: Arc<Subsystem>,
    pub(super) shared: Arc<ControllerShared>,
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    pub(super) features: Features,
    pub(super) aers: AerQueue,
    /// Held commands that a reset took away.
    pub(super) forgotten: ArrayVec<u16, { AER_LIMIT + ABORT_LIMIT }>,
}

impl AdminQueue {
    pub(super) fn new(
        target: Arc<Target>,
        portal: Portal,
        subsystem: Arc<Subsystem>,
        shared: Arc<ControllerShared>,
        kato_ms: u32,
    ) -> Self {
        let kato_ms = keep_alive::effective_kato_ms(kato_ms);
        keep_alive::apply(&shared, subsystem.kind(), kato_ms);
        Self {
            target,
            portal,
            subsystem,
            shared,
            cc: Cc::new(),
            csts: Csts::new(),
            features: Features::new(kato_ms),
            aers: AerQueue::default(),
            forgotten: ArrayVec::new(),
        }
    }

    pub(super) fn shared(&self) -> &Arc<ControllerShared> {
        &self.shared
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.subsystem.kind() == Kind::Discovery
    }

    pub(super) fn poll_async(&mut self) -> Option<(u16, Completion)> {
        let event = self.aers.poll(&self.shared, self.features.async_events);
        event.or_else(|| {
            let (by, aborted) = self.shared.aborts().answer()?;
            let result = AbortResult::new().with_not_aborted(!aborted);
            let dword = u32::from_le_bytes(zerocopy::transmute!(result));
            Some((by, Completion::with_dword(dword)))
        })
    }

    /// Abort (5.1). Whatever becomes of it, `poll_async` has the answer.
    fn abort(&self, command: &Abort, now: Instant) -> Result<Step, Refusal> {
        let (by, sqid) = (command.cdw0.cid(), command.sqid.get());
        let mut aborts = self.shared.aborts();
        aborts
            .add(by, sqid, command.cid.get(), now)
            .map_err(|_| Refusal::AbortLimit)?;
        if !self.shared.qids().contains(sqid) {
            aborts.queue_gone(sqid);
        }
        drop(aborts);
        self.shared.wake(sqid);
        Ok(Step::Held)
    }

    pub(super) fn closed(&self) {
        tracing::info!(cntlid = self.shared.cntlid(), host = %self.shared.host().nqn, "association ended");
        self.shared.detach(0);
        self.subsystem.remove_controller(&self.shared);
    }

    pub(super) fn command(
        &mut self,
        sqe: &Sqe,
        host_len: HostLen,
        now: Instant,
        queue: &mut Queue,
    ) -> Result<Step, Refusal> {
        match fabrics_type(sqe) {
            Some(FabricsType::PropertyGet) => return self.property_get(&(*sqe).into()),
            Some(FabricsType::PropertySet) => return self.property_set(&(*sqe).into(), queue),
            Some(FabricsType::Disconnect) => return Err(Refusal::DisconnectAdmin),
            Some(other) => return Err(Refusal::FabricsType(other.into_bits())),
            None => (),
        }
        if !self.csts.rdy() {
            return Err(Refusal::NotReady);
        }
        let opcode = AdminOpcode::from_bits(sqe.opcode());
        match opcode {
            AdminOpcode::Identify => self.identify(&(*sqe).into(), host_len),
            AdminOpcode::GetLogPage => self.get_log_page(&(*sqe).into(), host_len),
            AdminOpcode::GetFeatures => self.get_features(&(*sqe).into(), host_len),
            AdminOpcode::SetFeatures => self.set_features(&(*sqe).into()),
            AdminOpcode::AsyncEventRequest => self.aers.hold(sqe.cid()).map(|()| Step::Held),
            AdminOpcode::KeepAlive => {
                self.shared.heard(now);
                Ok(Step::Complete(Completion::OK))
            }
            AdminOpcode::Abort if !self.is_discovery() => self.abort(&(*sqe).into(), now),
            _ => Err(Refusal::Opcode(opcode.into_bits())),
        }
    }

    /// Checks that the host's data pointer names exactly the bytes of an answer.
    pub(super) fn reply(data: Vec<u8>, host_len: HostLen) -> Result<Step, Refusal> {
        Self::check_len(data.len() as u64, host_len)?;
        Ok(Step::Reply {
            data,
            completion: Completion::OK,
        })
    }

    pub(super) fn check_len(need: u64, host_len: HostLen) -> Result<(), Refusal> {
        match host_len {
            Ok(got) if u64::from(got) == need => Ok(()),
            Ok(got) => Err(Refusal::DataLength { need, got }),
            Err(status) => Err(Refusal::DataPointer(status)),
        }
    }

    /// An answer to a field that cannot be used.
    pub(super) fn field<T>(at: u8, what: &'static str) -> Result<T, Refusal> {
        Err(Refusal::Field { at, what })
    }

    /// Refuses what a UUID index would select: there are no UUID lists.
    pub(super) fn no_uuid_index(index: u32) -> Result<(), Refusal> {
        if index & 0x7f == 0 {
            return Ok(());
        }
        Self::field(at::CDW14, "there is no UUID list to choose from")
    }
}
