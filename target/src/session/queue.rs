//! One queue: from its connection to its end.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use sidelane_nvme::spec::{AdminOpcode, Cqe, FabricsCommand, FabricsType, Fuse, Psdt, Sqe, Status};

use super::admin::AdminQueue;
use super::commands::{Queue, Taken};
use super::io::IoQueue;
use super::keep_alive::CONNECT_TIMEOUT;
use super::refusal::{Refusal, at};
use super::step::{CloseReason, Completion, HostLen, Step};
use crate::subsystem::{ControllerShared, Portal, Target};

/// What a queue is.
#[derive(Debug)]
pub(super) enum State {
    /// No Connect has succeeded.
    Unconnected,
    /// The admin queue of a controller.
    Admin(Box<AdminQueue>),
    /// An I/O queue of a controller.
    Io(IoQueue),
    /// Over.
    Closed,
}

/// The session of one queue pair. It can move to another thread with its queue
/// pair, and is never shared.
///
/// The waker it was made with is called, from any thread, when something outside
/// of this queue concerns it: [`QueueSession::tick`] and
/// [`QueueSession::poll_async`] are to be called then.
#[derive(Debug)]
pub struct QueueSession {
    pub(super) target: Arc<Target>,
    pub(super) portal: Portal,
    pub(super) waker: Waker,
    opened: Instant,
    pub(super) queue: Queue,
    /// Whether an Abort may wait for one of the commands.
    aborting: bool,
    /// The controller that waits for the end of its commands, once it is closed.
    draining: Option<Arc<ControllerShared>>,
    pub(super) state: State,
}

impl QueueSession {
    /// A queue whose connection came up by `portal`. Only Connect works on it.
    pub fn new(target: Arc<Target>, portal: Portal, waker: Waker, now: Instant) -> Self {
        let queue = Queue::new();
        Self {
            target,
            portal,
            waker,
            opened: now,
            queue,
            aborting: false,
            draining: None,
            state: State::Unconnected,
        }
    }

    /// Queue identifier, once connected.
    pub fn qid(&self) -> Option<u16> {
        self.controller().map(|_| self.queue.qid())
    }

    /// The queue's size, head and outstanding commands.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The controller that the queue belongs to, once connected.
    pub fn controller(&self) -> Option<&Arc<ControllerShared>> {
        match &self.state {
            State::Admin(admin) => Some(admin.shared()),
            State::Io(io) => Some(io.shared()),
            State::Unconnected | State::Closed => None,
        }
    }

    /// A command arrived. `host_len` is what its data pointer names.
    ///
    /// Call [`QueueSession::poll_async`] after commands on an admin queue: they
    /// may have made an event due.
    pub fn command(&mut self, sqe: &Sqe, host_len: HostLen, now: Instant) -> Step {
        if let Some(reason) = self.over() {
            return Step::Close(reason);
        }
        if let Some(shared) = self.controller() {
            shared.heard(now);
        }
        let step = match self.queue.take(sqe.cid()) {
            Taken::New => self.dispatch(sqe, host_len, now),
            Taken::Duplicate => Err(Refusal::CommandId(sqe.cid())),
            Taken::Overrun => return Step::Close(CloseReason::QueueOverrun),
        };
        step.unwrap_or_else(|refusal| self.refuse(sqe, &refusal))
    }

    /// The data arrived that [`Step::Fetch`] asked for: `data` has that length.
    pub fn data(&mut self, sqe: &Sqe, data: &[u8], now: Instant) -> Step {
        if let Some(reason) = self.over() {
            return Step::Close(reason);
        }
        let step = match &mut self.state {
            State::Io(io) => match is_connect(sqe) {
                true => Err(Refusal::AlreadyConnected),
                false => io.data(sqe, data),
            },
            State::Admin(_) => Err(Refusal::AlreadyConnected),
            State::Unconnected => self.connect_data(sqe, data, now),
            State::Closed => return Step::Close(CloseReason::Closed),
        };
        step.unwrap_or_else(|refusal| self.refuse(sqe, &refusal))
    }

    /// Builds the CQE of a command. To be called once for every command, with
    /// what its step said, what [`QueueSession::poll_async`] gave, or how the
    /// backend fared.
    pub fn completed(&mut self, cid: u16, completion: Completion) -> Cqe {
        let duplicate = completion.status.same_code(Status::COMMAND_ID_CONFLICT);
        if self.aborting && !duplicate {
            self.abort_ends(cid, completion.status.same_code(Status::ABORT_REQUESTED));
        }
        self.queue.complete(cid, completion, duplicate)
    }

    /// Puts a command that failed after its checks, in the backend or on the
    /// way, into the controller's error log.
    pub fn record_failure(&self, sqe: &Sqe, status: Status) {
        if let Some(shared) = self.controller() {
            let lba = u64::from(sqe.cdw10.get()) | u64::from(sqe.cdw11.get()) << 32;
            shared
                .errors()
                .record(self.queue.qid(), sqe, status, None, lba);
        }
    }

    /// The next held command that can be answered. Ask until there is none:
    /// after each command on an admin queue, and when the waker was called.
    pub fn poll_async(&mut self) -> Option<(u16, Completion)> {
        match &mut self.state {
            State::Admin(admin) => admin.poll_async(),
            _ => None,
        }
    }

    /// The next held command that will never be answered, since the controller
    /// was reset: its caller may forget it too. Ask with
    /// [`QueueSession::poll_async`].
    pub fn poll_forgotten(&mut self) -> Option<u16> {
        match &mut self.state {
            State::Admin(admin) => admin.forgotten.pop(),
            _ => None,
        }
    }

    /// The next command that the host wants aborted. It is to be answered with
    /// Command Abort Requested if it can be, or in its own time if not; one that
    /// is not there, or will not end sooner for it, is
    /// [`QueueSession::not_aborted`]. Ask until there is none, when the waker was
    /// called, and before [`QueueSession::poll_async`].
    pub fn poll_abort(&mut self) -> Option<u16> {
        loop {
            let cid = self.controller()?.aborts().take(self.queue.qid())?;
            self.aborting = true;
            // Event requests are held here and nowhere else.
            let held = match &mut self.state {
                State::Admin(admin) => admin.aers.abort(cid),
                _ => false,
            };
            if !held {
                return Some(cid);
            }
        }
    }

    /// A command that the host wanted aborted has ended, or cannot be.
    pub fn not_aborted(&mut self, cid: u16) {
        self.abort_ends(cid, false);
    }

    fn abort_ends(&mut self, cid: u16, aborted: bool) {
        let Some(shared) = self.controller().cloned() else {
            return;
        };
        let qid = self.queue.qid();
        let mut aborts = shared.aborts();
        let awaited = aborts.ended(qid, cid, aborted);
        self.aborting = aborts.any_of(qid);
        drop(aborts);
        if awaited {
            shared.wake(0);
        }
    }

    /// Whether the connection is to be ended. To be called when
    /// [`QueueSession::deadline`] has come, and when the waker was called.
    pub fn tick(&mut self, now: Instant) -> Option<CloseReason> {
        if let Some(reason) = self.over() {
            return Some(reason);
        }
        if let State::Admin(admin) = &self.state {
            admin.shared().aborts().expire(now);
        }
        match self.controller() {
            Some(shared) if shared.is_silent(now) => {
                let (cntlid, host) = (shared.cntlid(), &shared.host().nqn);
                tracing::warn!(cntlid, %host, "keep alive expired, the association ends");
                shared.kill();
                Some(CloseReason::KeepAliveExpired)
            }
            Some(_) => None,
            None => (now >= self.opened + CONNECT_TIMEOUT).then_some(CloseReason::ConnectTimeout),
        }
    }

    /// When [`QueueSession::tick`] is to be called at the latest. Commands on
    /// any queue of the association move it: ask again when it has come.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.state, self.controller()) {
            (State::Closed, _) => None,
            (State::Admin(_), Some(shared)) => {
                let abort = shared.aborts().deadline();
                shared.silence_deadline().into_iter().chain(abort).min()
            }
            (_, Some(shared)) => shared.silence_deadline(),
            (_, None) => Some(self.opened + CONNECT_TIMEOUT),
        }
    }

    /// The connection has ended, or is about to, and the session is to be dropped
    /// when none of its commands is under way any more: a host that resets or
    /// shuts its controller down waits for that (CSTS). Frees the queue identifier; the
    /// end of an admin queue ends its association, whose other queues are woken.
    pub fn closed(&mut self) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Admin(admin) => admin.closed(),
            State::Io(io) => {
                // In this order: in between there would seem to be none.
                if self.queue.outstanding() > 0 {
                    io.shared().begin_draining();
                    self.draining = Some(Arc::clone(io.shared()));
                }
                io.shared().detach(self.queue.qid());
            }
            State::Unconnected | State::Closed => (),
        }
    }

    /// Whether its association or its controller's life is over, so that nothing
    /// of it may be carried out any more. Its connection ends soon.
    pub fn is_over(&self) -> bool {
        self.over().is_some()
    }

    fn over(&self) -> Option<CloseReason> {
        match &self.state {
            State::Closed => Some(CloseReason::Closed),
            State::Io(io) => io.over(),
            State::Admin(admin) if admin.shared().is_dead() => Some(CloseReason::AssociationEnded),
            State::Admin(_) | State::Unconnected => None,
        }
    }

    fn dispatch(&mut self, sqe: &Sqe, host_len: HostLen, now: Instant) -> Result<Step, Refusal> {
        if sqe.cdw0.fuse() != Fuse::Normal {
            return Err(Refusal::Field {
                at: at::FLAGS,
                what: "fused commands are not supported",
            });
        }
        if sqe.cdw0.psdt() != Psdt::Sgl {
            let what = "the data pointer is not an SGL without metadata";
            return Err(Refusal::Field {
                at: at::FLAGS,
                what,
            });
        }
        match &mut self.state {
            State::Unconnected if is_connect(sqe) => {
                Self::connect_command(&(*sqe).into(), host_len)
            }
            State::Unconnected => Err(Refusal::NotConnected),
            _ if is_connect(sqe) => Err(Refusal::AlreadyConnected),
            State::Admin(admin) => admin.command(sqe, host_len, now, &mut self.queue),
            State::Io(io) => io.command(sqe, host_len),
            State::Closed => Ok(Step::Close(CloseReason::Closed)),
        }
    }

    fn refuse(&self, sqe: &Sqe, refusal: &Refusal) -> Step {
        let mut completion = refusal.completion();
        let (qid, opcode, cid) = (self.queue.qid(), sqe.opcode(), sqe.cid());
        tracing::debug!(qid, opcode, cid, status = %completion.status, "refused: {refusal}");
        if let Some(shared) = self.controller() {
            let lba = match refusal {
                Refusal::LbaRange { slba, .. } => *slba,
                _ => 0,
            };
            // M set: the error log says more (figure 93).
            completion.status.set_more(true);
            shared
                .errors()
                .record(qid, sqe, completion.status, refusal.location(), lba);
        }
        Step::Complete(completion)
    }
}

impl Drop for QueueSession {
    fn drop(&mut self) {
        self.closed();
        if let Some(shared) = &self.draining {
            shared.end_draining();
        }
    }
}

/// The type of a fabrics command, when it is one.
pub(super) fn fabrics_type(sqe: &Sqe) -> Option<FabricsType> {
    let is_fabrics = sqe.opcode() == AdminOpcode::Fabrics.into_bits();
    is_fabrics.then(|| FabricsCommand::from(*sqe).fctype)
}

fn is_connect(sqe: &Sqe) -> bool {
    fabrics_type(sqe) == Some(FabricsType::Connect)
}

/// A queue may be handed to the reactor that takes it over.
const _: () = {
    const fn can_move<T: Send>() {}
    can_move::<QueueSession>()
};
