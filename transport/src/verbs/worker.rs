//! What may take its time, away from the reactors: a thread per device that
//! makes, changes and destroys queue pairs and ends registrations, and one that
//! waits for the device's asynchronous events. A device that stalls holds up its
//! own two threads and nobody else; and since events have a thread of their own,
//! a fatal error is heard of even while a command hangs in firmware.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use sidelane_p2p::RegionId;

use super::adapter::Shared;
use super::explain::{MemoryLock, refused};
use super::ffi::{
    AsyncEvent, Device, INLINE_BYTES, MrAccess, Qp, QpChange, QpShape, Rtr, Rts, Srq,
};
use super::flusher;
use super::nic::OwnCqs;
use super::registration::Registration;
use super::send_queue::SendQueue;
use crate::nic::{NicError, QpAttrs};

/// Jobs that wait at most; a part keeps what does not fit, and tries again.
pub(super) const QUEUE: usize = 256;

/// How long the threads of a device may take to end.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Something for the worker of a device to do, for one of its parts.
pub(super) enum Job<D: Device> {
    /// Makes a queue pair and brings it up.
    Open(Box<Open<D>>),
    /// Brings a queue pair to the error state.
    Error { part: usize, qp: Arc<D::Qp> },
    /// Destroys a queue pair; this must hold the last reference to it.
    Destroy { part: usize, qp: Arc<D::Qp> },
    /// Makes the part's flush queue pair, after ending what was one.
    Flusher {
        part: usize,
        old: Option<Arc<D::Qp>>,
        cqs: OwnCqs<D>,
        srq: Arc<D::Srq>,
    },
    /// Has the device tell when a shared receive queue holds fewer than that.
    SrqLimit { srq: Arc<D::Srq>, limit: u32 },
    /// Ends a registration, by dropping it.
    Deregister { _memory: Arc<Registration<D>> },
}

/// What it takes to open a queue pair.
pub(super) struct Open<D: Device> {
    pub part: usize,
    pub ticket: u64,
    pub send_wrs: u32,
    pub attrs: QpAttrs,
    pub cqs: OwnCqs<D>,
    pub srq: Arc<D::Srq>,
}

/// What became of it, and what the device says by itself.
pub(super) enum Report<D: Device> {
    Opened {
        ticket: u64,
        send_wrs: u32,
        outcome: Result<(Arc<D::Qp>, SendQueue), NicError>,
    },
    /// The queue pair is in the error state, as asked.
    Errored(u32),
    /// The queue pair went there by itself.
    Failed(u32),
    /// The queue pair takes nothing more from the shared receive queue.
    LastWqe(u32),
    Destroyed(u32),
    Flusher(Result<Arc<D::Qp>, String>),
    Revoked(RegionId),
    /// The part's shared receive queue is low.
    SrqLimit,
    Gone,
}

/// A part's mailbox. Reports are few: three a queue pair, one a region, one for
/// each time that a limit was set.
pub(super) struct Mailbox<D: Device> {
    sender: Sender<Report<D>>,
    bell: OwnedFd,
    /// Whether the bell was rung, so that a silent one costs no system call.
    rung: AtomicBool,
    /// The part's shared receive queue, as events call it.
    srq: OnceLock<u64>,
}

impl<D: Device> Mailbox<D> {
    pub fn new(sender: Sender<Report<D>>) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            sender,
            bell,
            rung: AtomicBool::new(false),
            srq: OnceLock::new(),
        })
    }

    /// Events of this shared receive queue are the part's.
    pub fn takes_limits_of(&self, srq: u64) {
        // A part has one, and says so once.
        let _ = self.srq.set(srq);
    }

    /// Puts a report in, then rings. A part that is gone wants none.
    pub fn send(&self, report: Report<D>) {
        if self.sender.send(report).is_ok() {
            // Fails only when it is readable already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
            // Only then: a bell that is said to be rung can be silenced.
            self.rung.store(true, Ordering::Release);
        }
    }

    /// Makes the bell silent again; to be done before reports are looked for.
    pub fn silence(&self) {
        if self.rung.swap(false, Ordering::Acquire) {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Which part a queue pair belongs to. Events of one that its part does not know
/// yet are kept until it does.
#[derive(Default)]
pub(super) struct Routes(Mutex<HashMap<u32, Route>>);

#[derive(Default)]
struct Route {
    part: usize,
    known: bool,
    failed: bool,
    last_wqe: bool,
}

impl Routes {
    fn table(&self) -> MutexGuard<'_, HashMap<u32, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, qp: u32, part: usize, known: bool) {
        let route = Route {
            part,
            known,
            ..Route::default()
        };
        self.table().insert(qp, route);
    }

    fn remove(&self, qp: u32) {
        self.table().remove(&qp);
    }

    /// The part knows the queue pair from now on; what was kept for it.
    fn known<D: Device>(&self, qp: u32, mailbox: &Mailbox<D>) {
        let mut table = self.table();
        let Some(route) = table.get_mut(&qp) else {
            return;
        };
        route.known = true;
        if route.failed {
            mailbox.send(Report::Failed(qp));
        }
        if route.last_wqe {
            mailbox.send(Report::LastWqe(qp));
        }
    }

    fn told<D: Device>(&self, qp: u32, last_wqe: bool, parts: &[Mailbox<D>]) {
        let mut table = self.table();
        let Some(route) = table.get_mut(&qp) else {
            return;
        };
        let flag = if last_wqe {
            &mut route.last_wqe
        } else {
            &mut route.failed
        };
        // Some devices say so for each of several reasons.
        if !std::mem::replace(flag, true)
            && route.known
            && let Some(mailbox) = parts.get(route.part)
        {
            mailbox.send(if last_wqe {
                Report::LastWqe(qp)
            } else {
                Report::Failed(qp)
            });
        }
    }
}

/// The threads of a device. They end when it is dropped, which waits for them,
/// but not for ever.
pub(super) struct Worker<D: Device> {
    jobs: Option<SyncSender<Job<D>>>,
    threads: Vec<JoinHandle<()>>,
    stop: OwnedFd,
    /// Each thread says here that it has ended.
    ended: Mutex<Receiver<()>>,
    name: String,
}

impl<D: Device> Worker<D> {
    /// Starts the threads.
    pub fn start(shared: &Arc<Shared<D>>) -> io::Result<Self> {
        let (jobs, queue) = std::sync::mpsc::sync_channel(QUEUE);
        let (end, ended) = std::sync::mpsc::channel();
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let (for_jobs, for_events) = (Arc::clone(shared), Arc::clone(shared));
        let also = end.clone();
        let mut worker = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
            stop,
            ended: Mutex::new(ended),
            name: shared.name.clone(),
        };
        let name = |role| format!("{role}-{}", worker.name);
        let jobs = std::thread::Builder::new().name(name("verbs"));
        let events = std::thread::Builder::new().name(name("events"));
        worker.threads.push(jobs.spawn(move || {
            for job in queue {
                work(&for_jobs, job);
            }
            drop(for_jobs);
            let _ = end.send(());
        })?);
        worker.threads.push(events.spawn(move || {
            watch(&for_events, stopped.as_fd());
            drop(for_events);
            let _ = also.send(());
        })?);
        Ok(worker)
    }

    /// The way to the worker, for a part.
    pub fn jobs(&self) -> Option<SyncSender<Job<D>>> {
        self.jobs.clone()
    }
}

impl<D: Device> Drop for Worker<D> {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        let until = Instant::now() + STOP_LIMIT;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..self.threads.len() {
            let left = until.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left).is_err() {
                tracing::error!(
                    adapter = %self.name,
                    "the RDMA adapter does not answer, and is left as it is"
                );
                return;
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work<D: Device>(shared: &Shared<D>, job: Job<D>) {
    match job {
        Job::Open(open) => {
            let mailbox = &shared.parts[open.part];
            let made = make_qp(shared, &open);
            let qp = made.as_ref().ok().map(|(qp, _)| qp.number());
            mailbox.send(Report::Opened {
                ticket: open.ticket,
                send_wrs: open.send_wrs,
                outcome: made,
            });
            if let Some(qp) = qp {
                shared.routes.known(qp, mailbox);
            }
        }
        Job::Error { part, qp } => {
            let number = qp.number();
            // On one that is gone it is no news.
            if let Err(error) = qp.modify(&QpChange::Error)
                && !shared.is_gone()
            {
                tracing::warn!(adapter = %shared.name, qp = number, %error, "a queue pair could not be brought to the error state");
            }
            drop(qp);
            shared.parts[part].send(Report::Errored(number));
        }
        Job::Destroy { part, qp } => {
            let number = qp.number();
            destroy(shared, qp);
            shared.parts[part].send(Report::Destroyed(number));
        }
        Job::Flusher {
            part,
            old,
            cqs,
            srq,
        } => {
            if let Some(old) = old {
                destroy(shared, old);
            }
            let made = flusher::make_qp(&shared.device, &shared.limits, cqs.both(), &srq);
            let made = made.map_err(|refusal| refusal.to_string());
            let made = made.map(Arc::new);
            if let Ok(qp) = &made {
                shared.routes.add(qp.number(), part, true);
            }
            shared.parts[part].send(Report::Flusher(made));
        }
        Job::SrqLimit { srq, limit } => {
            // What is missed is a warning. On one that is gone it is no news.
            if let Err(error) = srq.set_limit(limit)
                && !shared.is_gone()
            {
                tracing::debug!(adapter = %shared.name, limit, %error, "the RDMA adapter does not tell when receive buffers run low");
            }
        }
        Job::Deregister { .. } => {}
    }
}

fn destroy<D: Device>(shared: &Shared<D>, qp: Arc<D::Qp>) {
    let number = qp.number();
    match Arc::into_inner(qp) {
        Some(qp) => drop(qp),
        None => tracing::error!(qp = number, "a queue pair is held by more than its worker"),
    }
    // Only now can the number come back, for another.
    shared.routes.remove(number);
}

fn make_qp<D: Device>(
    shared: &Shared<D>,
    open: &Open<D>,
) -> Result<(Arc<D::Qp>, SendQueue), NicError> {
    if shared.is_gone() {
        return Err(NicError::Gone);
    }
    let limits = &shared.limits;
    let attrs = &open.attrs;
    let because = |what: &str, error: io::Error| {
        let limit = format!(
            "the adapter takes {} queue pairs of {} work requests; fewer connections \
             (max_io_queues) or smaller queues (max_queue_entries) need less",
            limits.max_qp, limits.max_qp_wr
        );
        // A work request takes 128 bytes with most providers.
        let bytes = u64::from(open.send_wrs) * 128;
        let refusal = refused(what, &error, bytes, Some(&limit), &MemoryLock::now());
        NicError::Refused(format!("{}: {refusal}", shared.name))
    };
    let shape = QpShape {
        send_wrs: open.send_wrs,
        inline: INLINE_BYTES as u32,
    };
    let made = shared.device.create_qp(open.cqs.both(), &open.srq, shape);
    // Not every device takes data inline.
    let made = made.or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            let shape = QpShape { inline: 0, ..shape };
            shared.device.create_qp(open.cqs.both(), &open.srq, shape)
        }
        _ => Err(error),
    });
    let qp = made.map_err(|error| because("ibv_create_qp", error))?;
    let number = qp.number();
    shared.routes.add(number, open.part, false);
    // Peers may do nothing by themselves: all RDMA is the target's own. This is
    // what keeps them from memory that is registered for the flush.
    let init = QpChange::Init {
        port: attrs.vector.port,
        pkey_index: attrs.vector.pkey_index,
        access: MrAccess::default(),
    };
    let at_most = |wanted: u8, limit: u32| u32::from(wanted).min(limit) as u8;
    let receive = QpChange::Rtr(Rtr {
        path_mtu: attrs.path_mtu,
        remote_qpn: attrs.remote_qpn,
        rq_psn: attrs.rq_psn,
        max_dest_rd_atomic: at_most(attrs.max_dest_rd_atomic, limits.max_qp_rd_atom),
        min_rnr_timer: attrs.min_rnr_timer,
        vector: attrs.vector,
    });
    let send = QpChange::Rts(Rts {
        sq_psn: attrs.sq_psn,
        max_rd_atomic: at_most(attrs.max_rd_atomic, limits.max_qp_init_rd_atom),
        timeout: attrs.timeout,
        retry_count: attrs.retry_count,
        rnr_retry: attrs.rnr_retry,
    });
    let steps = [
        ("ibv_modify_qp to INIT", init),
        ("ibv_modify_qp to RTR", receive),
        ("ibv_modify_qp to RTS", send),
    ];
    for (what, change) in steps {
        if let Err(error) = qp.modify(&change) {
            drop(qp);
            shared.routes.remove(number);
            return Err(because(what, error));
        }
    }
    Ok((Arc::new(qp), SendQueue::new(open.send_wrs)))
}

/// Hands asynchronous events on, until told to stop or the device is gone.
fn watch<D: Device>(shared: &Shared<D>, stop: BorrowedFd<'_>) {
    loop {
        let event = match shared.device.wait_event(stop) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(adapter = %shared.name, %error, "the RDMA adapter was removed");
                shared.set_gone();
                return;
            }
        };
        match event {
            AsyncEvent::QpFailed(qp) => shared.routes.told(qp, false, &shared.parts),
            AsyncEvent::LastWqe(qp) => shared.routes.told(qp, true, &shared.parts),
            AsyncEvent::SrqLimit(srq) => {
                let mut parts = shared.parts.iter();
                if let Some(part) = parts.find(|part| part.srq.get() == Some(&srq)) {
                    part.send(Report::SrqLimit);
                }
            }
            AsyncEvent::PortUp(port) => shared.set_port(port, true),
            AsyncEvent::PortDown(port) => shared.set_port(port, false),
            AsyncEvent::DeviceFatal | AsyncEvent::CqFailed | AsyncEvent::SrqFailed => {
                tracing::error!(adapter = %shared.name, ?event, "the RDMA adapter has failed; it is used again when it is back");
                shared.set_gone();
            }
            AsyncEvent::Other(kind) => {
                tracing::debug!(adapter = %shared.name, kind, "an event of the RDMA adapter");
            }
        }
    }
}
