//! Connect (NVMe 2.0, 6.3): what makes a connection a queue of a controller.

use std::sync::Arc;
use std::time::Instant;

use sidelane_nvme::spec::{CNTLID_DYNAMIC, Connect, ConnectData, ConnectResult, NqnField, Sqe};
use zerocopy::FromBytes;

use super::admin::AdminQueue;
use super::io::IoQueue;
use super::queue::{QueueSession, State};
use super::refusal::{ConnectField, Refusal};
use super::step::{Completion, HostLen, Step};
use crate::subsystem::{HostIdentity, Kind, Subsystem};

/// Bytes of Connect's data.
const CONNECT_DATA_LEN: u32 = size_of::<ConnectData>() as u32;

fn field(field: ConnectField, what: &'static str) -> Refusal {
    Refusal::ConnectField { field, what }
}

fn name(in_field: ConnectField, value: &NqnField) -> Result<&str, Refusal> {
    value.to_str().map_err(|error| Refusal::ConnectName {
        field: in_field,
        error,
    })
}

impl QueueSession {
    /// What of Connect can be checked before its data are there.
    pub(super) fn connect_command(connect: &Connect, host_len: HostLen) -> Result<Step, Refusal> {
        if connect.recfmt.get() != 0 {
            return Err(Refusal::ConnectFormat(connect.recfmt.get()));
        }
        let got = host_len.map_err(Refusal::DataPointer)?;
        if got != CONNECT_DATA_LEN {
            return Err(Refusal::DataLength {
                need: CONNECT_DATA_LEN.into(),
                got,
            });
        }
        if connect.sqsize_z.get() == 0 {
            return Err(field(
                ConnectField::SqSize,
                "a queue of one entry holds no command",
            ));
        }
        Ok(Step::Fetch {
            len: CONNECT_DATA_LEN,
        })
    }

    /// Connect with its data.
    pub(super) fn connect_data(
        &mut self,
        sqe: &Sqe,
        data: &[u8],
        now: Instant,
    ) -> Result<Step, Refusal> {
        let connect = Connect::from(*sqe);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self::connect_command(&connect, Ok(len))?;
        let Ok(data) = ConnectData::ref_from_bytes(data) else {
            return Err(Refusal::DataLength {
                need: CONNECT_DATA_LEN.into(),
                got: len,
            });
        };
        let subsystem = name(ConnectField::SubNqn, &data.subnqn)?;
        let host = name(ConnectField::HostNqn, &data.hostnqn)?;
        if data.hostid.is_zero() {
            return Err(field(ConnectField::HostId, "the host identifier is zero"));
        }
        let subsystem = self
            .target
            .find(subsystem)
            .ok_or_else(|| field(ConnectField::SubNqn, "there is no such subsystem"))?;
        if !subsystem.admits(host) {
            tracing::warn!(host, subsystem = %subsystem.nqn(), "a host that is not allowed was refused");
            return Err(Refusal::ConnectHost(host.into()));
        }
        let limits = subsystem.limits();
        if connect.sqsize_z.get() >= limits.max_queue_entries {
            return Err(field(
                ConnectField::SqSize,
                "the queue is larger than CAP.MQES",
            ));
        }
        let host = HostIdentity {
            nqn: host.into(),
            id: data.hostid,
        };
        let (qid, cntlid) = (connect.qid.get(), data.cntlid.get());
        let cntlid = match qid {
            0 => self.connect_admin(subsystem, host, cntlid, connect.kato_ms.get(), now)?,
            _ => self.connect_io(subsystem, &host, cntlid, qid, now)?,
        };
        let flow_control = !connect.cattr.disable_sq_flow_control();
        self.queue
            .connect(qid, connect.sqsize_z.get(), flow_control);
        let result = ConnectResult::new().with_cntlid(cntlid);
        let dword = u32::from_le_bytes(zerocopy::transmute!(result));
        Ok(Step::Complete(Completion::with_dword(dword)))
    }

    fn connect_admin(
        &mut self,
        subsystem: Arc<Subsystem>,
        host: HostIdentity,
        cntlid: u16,
        kato_ms: u32,
        now: Instant,
    ) -> Result<u16, Refusal> {
        if cntlid != CNTLID_DYNAMIC {
            let what = "controllers are given dynamically: FFFFh must be asked for";
            return Err(field(ConnectField::Cntlid, what));
        }
        if subsystem.is_leaving(&host) {
            return Err(Refusal::ConnectTooSoon);
        }
        let shared = subsystem
            .create_controller(host, now)
            .map_err(|_| Refusal::ConnectBusy)?;
        if !shared.attach(0, self.waker.clone()) {
            return Err(Refusal::ConnectBusy);
        }
        let cntlid = shared.cntlid();
        let (host, portal) = (&shared.host().nqn, self.portal.address);
        tracing::info!(cntlid, %host, subsystem = %subsystem.nqn(), %portal, kato_ms, "host connected");
        let admin = AdminQueue::new(self.target.clone(), self.portal, subsystem, shared, kato_ms);
        self.state = State::Admin(Box::new(admin));
        Ok(cntlid)
    }

    fn connect_io(
        &mut self,
        subsystem: Arc<Subsystem>,
        host: &HostIdentity,
        cntlid: u16,
        qid: u16,
        now: Instant,
    ) -> Result<u16, Refusal> {
        if subsystem.kind() == Kind::Discovery {
            return Err(field(
                ConnectField::Qid,
                "a discovery controller has no I/O queues",
            ));
        }
        if qid > subsystem.limits().max_io_queues {
            return Err(field(
                ConnectField::Qid,
                "the queue identifier is above the limit",
            ));
        }
        let shared = subsystem
            .controller(cntlid)
            .ok_or(Refusal::ConnectNoController(cntlid))?;
        if shared.host().nqn != host.nqn {
            return Err(field(
                ConnectField::HostNqn,
                "the controller is another host's",
            ));
        }
        if shared.host().id != host.id {
            return Err(field(
                ConnectField::HostId,
                "the controller is another host's",
            ));
        }
        let epoch = shared.io_epoch();
        if !shared.is_ready() {
            return Err(Refusal::NotReady);
        }
        if !shared.attach(qid, self.waker.clone()) {
            return Err(Refusal::Sequence("Connect: the queue identifier is in use"));
        }
        if shared.is_dead() {
            // It died meanwhile, and may have woken its queues before this one.
            shared.detach(qid);
            return Err(Refusal::ConnectNoController(cntlid));
        }
        if shared.io_epoch() != epoch {
            // Likewise, but for a reset.
            shared.detach(qid);
            return Err(Refusal::NotReady);
        }
        shared.heard(now);
        tracing::debug!(cntlid, qid, "I/O queue connected");
        self.state = State::Io(IoQueue::new(subsystem, shared, epoch));
        Ok(cntlid)
    }
}
