//! An association with one controller: its queues, and the loop that moves
//! completions and connection events on.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use sidelane_nvme::spec::{CQE_LEN, Cqe, DataPtr, Psdt, SglDescriptor, Sqe, Status};
use sidelane_transport::cm::{CmEvent, ConnId};
use sidelane_transport::nic::{Completion, NicError, SendOp, SendWr, Sge, WcOp, WcStatus};

use super::queue::{Finished, Purpose, Queue};
use super::{ControllerInfo, Endpoint, HostError, HostOptions, NamespaceInfo, command};

/// How often outstanding commands are looked through for one that takes too long.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// What a command's data pointer says (Base 4.1.2, RDMA 3).
#[derive(Debug, Clone, Copy)]
pub(super) enum Data {
    /// No data.
    None,
    /// The target fetches or places it by RDMA.
    Keyed(Sge),
    /// It follows the command inside the capsule.
    InCapsule(Sge),
}

/// An NVMe over Fabrics host, connected to one controller.
///
/// Belongs to one thread. Calls that wait do so for at most
/// [`HostOptions::timeout`] each; nothing on the path of a read or write
/// allocates.
pub struct Host<'a> {
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) options: HostOptions,
    /// By queue identifier; the admin queue first.
    pub(super) queues: Vec<Queue>,
    pub(super) controller: ControllerInfo,
    pub(super) namespaces: Vec<NamespaceInfo>,
    /// I/O that has ended and was not yet given to the caller.
    pub(super) ready: VecDeque<(u16, Finished)>,
    /// The command that somebody waited for has ended.
    waited: Option<Finished>,
    /// The connection that is being set up, and what became of it.
    pub(super) connecting: Option<ConnId>,
    pub(super) verdict: Option<CmEvent>,
    /// When the next Keep Alive is due, if there are any.
    pub(super) keep_alive_at: Option<Instant>,
    pub(super) keep_alive_out: bool,
    sweep_at: Instant,
    /// Connections are being ended: work requests are expected to fail.
    pub(super) ending: bool,
}

impl<'a> Host<'a> {
    pub(super) fn new(endpoint: &'a mut Endpoint, options: HostOptions) -> Self {
        let queues = usize::from(options.io_queues) + 1;
        let commands = usize::from(options.io_queues) * usize::from(options.depth);
        Self {
            endpoint,
            options,
            queues: Vec::with_capacity(queues),
            controller: ControllerInfo::default(),
            namespaces: Vec::new(),
            ready: VecDeque::with_capacity(commands),
            waited: None,
            connecting: None,
            verdict: None,
            keep_alive_at: None,
            keep_alive_out: false,
            sweep_at: Instant::now() + SWEEP_EVERY,
            ending: false,
        }
    }

    /// What the controller says of itself.
    pub fn controller(&self) -> &ControllerInfo {
        &self.controller
    }

    /// The namespaces that are attached, by rising identifier.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        &self.namespaces
    }

    /// I/O queues that are connected.
    pub fn io_queues(&self) -> usize {
        self.queues.len().saturating_sub(1)
    }

    /// The data area: what reads fill and writes send, named by offset.
    pub fn data(&self) -> &sidelane_p2p::MemView {
        self.endpoint.data()
    }

    /// Sends a command; the outer result is the association's, the inner says
    /// that the queue is full.
    pub(super) fn send(
        &mut self,
        qid: u16,
        mut sqe: Sqe,
        data: Data,
        purpose: Purpose,
        now: Instant,
    ) -> Result<Option<()>, HostError> {
        let descriptor = self.descriptor(data);
        let queue = &mut self.queues[usize::from(qid)];
        let Some((place, cid)) = queue.take(purpose, now) else {
            return Ok(None);
        };
        sqe.cdw0.set_cid(cid);
        sqe.cdw0.set_psdt(Psdt::Sgl);
        sqe.dptr = DataPtr::from_sgl(descriptor);
        let mut sges = ArrayVec::new();
        sges.push(self.endpoint.memory.capsule_write(qid, place, &sqe)?);
        if let Data::InCapsule(sge) = data {
            sges.push(sge);
        }
        let wr = SendWr {
            wr_id: u64::from(cid),
            op: SendOp::Send,
            sges,
            signaled: true,
            solicited: false,
        };
        match self
            .endpoint
            .nic
            .post_send(queue.qp, std::slice::from_ref(&wr))
        {
            Ok(()) => Ok(Some(())),
            Err(NicError::Full) => {
                queue.give_back(place);
                Ok(None)
            }
            Err(source) => {
                queue.give_back(place);
                Err(HostError::Nic {
                    doing: "send a command",
                    source,
                })
            }
        }
    }

    /// A command without data names a keyed block of no bytes, as the Linux host
    /// does: its target looks at the descriptor of every command.
    fn descriptor(&self, data: Data) -> SglDescriptor {
        match data {
            Data::InCapsule(sge) => SglDescriptor::in_capsule(0, sge.len),
            Data::Keyed(sge) => {
                let rkey = self.endpoint.memory.keys().rkey;
                SglDescriptor::keyed(sge.addr, sge.len, rkey, false).unwrap_or_default()
            }
            Data::None => SglDescriptor::keyed(0, 0, 0, false).unwrap_or_default(),
        }
    }

    /// Sends a command and waits for its completion, whatever its status.
    pub(super) fn transact(
        &mut self,
        name: &'static str,
        qid: u16,
        sqe: Sqe,
        data: Data,
    ) -> Result<Cqe, HostError> {
        let now = Instant::now();
        let deadline = now + self.options.timeout;
        self.waited = None;
        while self
            .send(qid, sqe, data, Purpose::Waited, Instant::now())?
            .is_none()
        {
            self.turn(deadline, name)?;
        }
        loop {
            if let Some(finished) = self.waited.take() {
                self.queues[usize::from(qid)].give_back(finished.place);
                return Ok(finished.cqe);
            }
            self.turn(deadline, name)?;
        }
    }

    /// As [`Self::transact`], but any status but success is an error.
    pub(super) fn command(
        &mut self,
        name: &'static str,
        qid: u16,
        sqe: Sqe,
        data: Data,
    ) -> Result<Cqe, HostError> {
        let cqe = self.transact(name, qid, sqe, data)?;
        match cqe.status() {
            status if status.is_success() => Ok(cqe),
            status => Err(HostError::Command {
                command: name,
                qid,
                status,
                hint: None,
            }),
        }
    }

    /// One round of waiting and moving on, until `deadline` at the latest.
    pub(super) fn turn(&mut self, deadline: Instant, what: &'static str) -> Result<(), HostError> {
        self.pump()?;
        if self.waited.is_some() || self.verdict.is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(HostError::Timeout {
                what,
                after: self.options.timeout,
            });
        }
        self.sleep(deadline)
    }

    pub(super) fn sleep(&mut self, until: Instant) -> Result<(), HostError> {
        let until = self
            .keep_alive_at
            .map_or(until, |at| until.min(at))
            .min(self.sweep_at);
        self.endpoint.wait(until)
    }

    /// Moves everything on that can be moved on now.
    pub(super) fn pump(&mut self) -> Result<(), HostError> {
        let now = Instant::now();
        while let Some(event) = self.endpoint.cm.poll(now) {
            self.on_event(event)?;
        }
        let mut completions = std::mem::take(&mut self.endpoint.completions);
        completions.clear();
        self.endpoint.nic.poll(now, &mut completions);
        let outcome = completions
            .iter()
            .try_for_each(|completion| self.on_completion(completion, now));
        self.endpoint.completions = completions;
        self.endpoint.repost()?;
        outcome?;
        self.tick(now)
    }

    /// Keep Alive, and commands that take too long.
    fn tick(&mut self, now: Instant) -> Result<(), HostError> {
        if self.ending {
            return Ok(());
        }
        if self.keep_alive_at.is_some_and(|at| now >= at) {
            let every = Duration::from_millis(u64::from(self.options.kato_ms)) / 2;
            self.keep_alive_at = Some(now + every);
            if !self.keep_alive_out {
                let sent = self.send(
                    0,
                    command::keep_alive(),
                    Data::None,
                    Purpose::KeepAlive,
                    now,
                )?;
                self.keep_alive_out = sent.is_some();
            }
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_EVERY;
            let oldest = self.queues.iter().filter_map(Queue::oldest).min();
            if oldest.is_some_and(|sent| now.duration_since(sent) > self.options.timeout) {
                return Err(HostError::Timeout {
                    what: "a command",
                    after: self.options.timeout,
                });
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: CmEvent) -> Result<(), HostError> {
        match event {
            CmEvent::Accepted { id, .. } | CmEvent::Failed { id, .. } => {
                if self.connecting == Some(id) {
                    self.verdict = Some(event);
                }
            }
            CmEvent::Disconnected { id } => {
                if let Some(queue) = self.queues.iter_mut().find(|queue| queue.conn == id) {
                    queue.ended = true;
                    let qid = queue.qid;
                    self.endpoint
                        .nic
                        .error_qp(queue.qp)
                        .map_err(HostError::nic("end a queue pair"))?;
                    if !self.ending {
                        return Err(HostError::Disconnected { qid });
                    }
                } else if self.connecting == Some(id) {
                    self.verdict = Some(event);
                }
            }
            // Nobody listens here, so this is a manager's mistake at worst.
            CmEvent::ConnectRequest { id, .. } => {
                let refused = self
                    .endpoint
                    .cm
                    .reject(id, bytes::Bytes::new(), Instant::now());
                refused.map_err(HostError::cm("refuse a connection"))?;
            }
            CmEvent::Established { .. } => {}
        }
        Ok(())
    }

    fn on_completion(&mut self, completion: &Completion, now: Instant) -> Result<(), HostError> {
        let position = self
            .queues
            .iter()
            .position(|queue| queue.qp == completion.qp);
        let good = completion.status == WcStatus::Success;
        let cqe = match completion.op {
            WcOp::Recv => Some(self.endpoint.take_response(completion.wr_id)?),
            _ => None,
        };
        let Some(queue) = position.and_then(|at| self.queues.get_mut(at)) else {
            return Ok(());
        };
        let qid = queue.qid;
        if !good {
            let (op, status) = (completion.op, completion.status);
            return if self.ending {
                Ok(())
            } else {
                Err(HostError::Transport { qid, op, status })
            };
        }
        let finished = match (completion.op, cqe) {
            (WcOp::Recv, Some(_)) if completion.len as usize != CQE_LEN => {
                let what = format!("a response of {} bytes, not {CQE_LEN}", completion.len);
                return Err(HostError::protocol(qid, what));
            }
            (WcOp::Recv, Some(_)) if completion.invalidated.is_some() => {
                let what = "it invalidated a key that it was not asked to invalidate";
                return Err(HostError::protocol(qid, what));
            }
            (WcOp::Recv, Some(cqe)) => queue.answer(&cqe, now)?,
            (WcOp::Send, _) => queue.capsule_back(completion.wr_id),
            _ => None,
        };
        match finished {
            Some(finished) => self.on_finished(qid, finished),
            None => Ok(()),
        }
    }

    fn on_finished(&mut self, qid: u16, finished: Finished) -> Result<(), HostError> {
        match finished.purpose {
            Purpose::Waited => self.waited = Some(finished),
            Purpose::Io(_) => self.ready.push_back((qid, finished)),
            Purpose::KeepAlive => {
                self.keep_alive_out = false;
                self.queues[usize::from(qid)].give_back(finished.place);
                let status = finished.cqe.status();
                if !status.is_success() {
                    return Err(failed("Keep Alive", qid, status));
                }
            }
        }
        Ok(())
    }

    /// The key and address of a part of the data area.
    pub(super) fn data_sge(&self, part: &Range<usize>) -> Result<Sge, sidelane_p2p::OutOfRange> {
        self.endpoint.memory.data_sge(part)
    }
}

fn failed(command: &'static str, qid: u16, status: Status) -> HostError {
    HostError::Command {
        command,
        qid,
        status,
        hint: None,
    }
}
