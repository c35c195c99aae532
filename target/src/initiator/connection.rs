//! Bringing one queue up: the RDMA connection (RDMA 3, "RDMA_CM_REQUEST"), then
//! Connect (Base 6.3).

use std::time::Instant;

use bytes::Bytes;
use sidelane_nvme::spec::{ConnectInvalid, ConnectResult, Cqe, Nqn, Status};
use sidelane_transport::cm::{CmEvent, ConnError, ConnParams};
use sidelane_transport::nic::{QpAttrs, QpCaps};
use sidelane_transport::nvmf::{ConnectAccept, ConnectReject, ConnectRequest};
use zerocopy::IntoBytes;

use super::error::Refusal;
use super::host::{Data, Host};
use super::queue::Queue;
use super::{HostError, command};

/// Connection management's reason for "the consumer said no" (InfiniBand
/// Architecture, volume 1, 12.6.7.2).
const CONSUMER_REJECT: u16 = 28;

impl Host<'_> {
    /// Connects queue `qid` with a submission queue of `entries` entries and
    /// sends Connect on it; gives the controller identifier.
    pub(super) fn open_queue(
        &mut self,
        qid: u16,
        entries: u16,
        cntlid: u16,
        subnqn: &Nqn,
    ) -> Result<u16, HostError> {
        let attrs = self.request_connection(qid, entries, cntlid)?;
        let queue = &self.queues[usize::from(qid)];
        let now = Instant::now();
        let (qp, conn) = (queue.qp, queue.conn);
        self.endpoint
            .nic
            .connect_qp(qp, &attrs, now)
            .map_err(HostError::nic("connect a queue pair"))?;
        self.endpoint
            .cm
            .establish(conn, now)
            .map_err(HostError::cm("confirm the connection"))?;
        self.send_connect(qid, entries, cntlid, subnqn)
    }

    /// Connection management's part. On success the queue is in the table.
    fn request_connection(
        &mut self,
        qid: u16,
        entries: u16,
        cntlid: u16,
    ) -> Result<QpAttrs, HostError> {
        let remote = self.options.remote;
        let now = Instant::now();
        // The admin queue's Connect is what gives a controller its identifier.
        let cntlid = if qid == 0 { 0 } else { cntlid };
        let private_data = ConnectRequest::new(qid, cntlid, entries, entries)
            .map(|request| Bytes::copy_from_slice(request.as_bytes()))
            .ok_or_else(|| HostError::Options("a queue of no entries".to_owned()))?;
        let caps = QpCaps {
            max_send_wr: u32::from(entries),
        };
        let qp = self
            .endpoint
            .nic
            .create_qp(caps)
            .map_err(HostError::nic("make a queue pair"))?;
        let params = ConnParams { qp, private_data };
        let conn = match self.endpoint.cm.connect(remote, params, now) {
            Ok(conn) => conn,
            Err(source) => {
                self.endpoint.nic.destroy_qp(qp);
                return Err(HostError::Cm {
                    doing: "ask for a connection",
                    source,
                });
            }
        };
        self.connecting = Some(conn);
        self.verdict = None;
        let verdict = self.await_verdict();
        self.connecting = None;
        let error = match verdict {
            Ok(CmEvent::Accepted {
                attrs,
                private_data,
                ..
            }) => {
                let mut queue = Queue::new(qid, qp, conn, entries);
                let accept = ConnectAccept::parse(&private_data);
                if let Some(accept) = accept {
                    queue.limit(accept.receive_queue_entries());
                }
                self.queues.push(queue);
                let unknown = "it accepted with private data that the host cannot read";
                return accept
                    .map(|_| attrs)
                    .ok_or_else(|| HostError::protocol(qid, unknown));
            }
            Ok(CmEvent::Failed { error, .. }) => HostError::Refused {
                remote,
                qid,
                why: refusal(error),
            },
            Ok(_) => HostError::Disconnected { qid },
            Err(error) => {
                // It may be gone already: there is nothing left to end then.
                let _ = self.endpoint.cm.disconnect(conn, Instant::now());
                error
            }
        };
        self.endpoint.nic.destroy_qp(qp);
        Err(error)
    }

    fn await_verdict(&mut self) -> Result<CmEvent, HostError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(event) = self.verdict.take() {
                return Ok(event);
            }
            self.turn(deadline, "setting up the connection of a queue")?;
        }
    }

    fn send_connect(
        &mut self,
        qid: u16,
        entries: u16,
        cntlid: u16,
        subnqn: &Nqn,
    ) -> Result<u16, HostError> {
        let sqe = command::connect(qid, entries, self.options.kato_ms);
        let (hostid, hostnqn) = (self.options.hostid, &self.options.hostnqn);
        let data = command::connect_data(cntlid, hostid, subnqn, hostnqn);
        self.endpoint.memory.admin_write(data.as_bytes())?;
        let sge = self.endpoint.memory.admin_sge(size_of_val(&data));
        let cqe = self.transact("Connect", qid, sqe, Data::Keyed(sge))?;
        let status = cqe.status();
        if !status.is_success() {
            let hint = self.connect_hint(status, &cqe, subnqn);
            return Err(HostError::Command {
                command: "Connect",
                qid,
                status,
                hint,
            });
        }
        let result = ConnectResult::from_bits(cqe.dw0);
        if result.authentication_required() || result.secure_channel_required() {
            return Err(HostError::Unusable("it asks for authentication".to_owned()));
        }
        Ok(result.cntlid())
    }

    fn connect_hint(&self, status: Status, cqe: &Cqe, subnqn: &Nqn) -> Option<String> {
        let hostnqn = &self.options.hostnqn;
        if status.same_code(Status::CONNECT_INVALID_HOST) {
            Some(format!(
                "the target does not allow {hostnqn} to use {subnqn}; allow it there"
            ))
        } else if status.same_code(Status::CONNECT_INVALID_PARAMETERS) {
            let invalid = ConnectInvalid::from_bits(cqe.dw0);
            let field = command::connect_field(invalid.offset(), invalid.in_data());
            Some(format!(
                "the target does not take the {field} (subsystem {subnqn})"
            ))
        } else if status.same_code(Status::CONNECT_CONTROLLER_BUSY) {
            Some(format!("{subnqn} has no controller free"))
        } else {
            None
        }
    }
}

fn refusal(error: ConnError) -> Refusal {
    if let ConnError::Rejected {
        reason: CONSUMER_REJECT,
        private_data,
        ..
    } = &error
        && let Some(reject) = ConnectReject::parse(private_data)
    {
        return Refusal::Nvme(reject.status());
    }
    Refusal::Connection(error)
}
