//! A reactor: one thread, on one core, that owns queue pairs, completion queues,
//! SSD queues and its share of each pool, and shares none of them.
//!
//! It polls while there is work and sleeps on file descriptors when there is
//! none. Which rooms there are: `request` (the states of a command), `path` (what
//! moves a command between them, with `transfer` for the wire's part and `execute`
//! for the backend's), `connections`, `admission` (who gets the next buffer),
//! `messages` (memory for commands and responses), `mailbox` (to and from the
//! control plane).

mod admission;
mod connections;
mod execute;
mod mailbox;
mod messages;
mod path;
mod request;
mod sleep;
mod transfer;

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidelane_p2p::pool::{Pool, PoolError, PoolSpec};
use sidelane_p2p::provider::PathReason;
use sidelane_p2p::{DmaError, DmaSpace};
use sidelane_transport::nic::{
    Access, Completions, MemoryRegion, Nic, NicError, RegisterError, WcOp,
};
use tokio::sync::mpsc::UnboundedSender;

use self::admission::Admission;
use self::connections::Connections;
use self::mailbox::Inbox;
use self::messages::Messages;
use self::request::{Request, State};
use crate::backend::{Backend, DoneList};
use crate::stats::ReactorCounters;

pub use mailbox::{ConnKey, FromReactor, Mailbox, NewConnection, NotOpened, ToReactor};
pub use request::{STATE_COUNT, STATE_NAMES};

/// Connections that one reactor serves at most.
pub const MAX_CONNECTIONS: usize = 512;

/// Memory for the data of Fabrics and admin commands in flight, in bytes.
const CONTROL_POOL_BYTES: usize = 2 << 20;

/// The pool for it, before all pools of the target.
const CONTROL_POOL: usize = 0;

/// Rounds without progress before the reactor sleeps. A round that finds nothing
/// costs about a microsecond, so this is far below what a sleep and a wake-up
/// cost, and far below what anyone would call burning a core.
const IDLE_ROUNDS: u32 = 20;

/// How long the reactor sleeps at most: what it does then costs nothing worth
/// naming, and a lost wake-up does not last for ever.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// How long a stopping reactor waits for SSDs and adapters.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The memory that one direction of a namespace uses.
#[derive(Debug, Clone, Copy)]
pub struct DataPath {
    /// The pool, by its number in the target.
    pub pool: usize,
    /// Whether that is peer memory, and if not, why.
    pub path: PathReason,
}

/// A namespace, as a reactor carries out its commands.
pub struct Namespace {
    /// What stores its blocks.
    pub backend: Box<dyn Backend>,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Memory for reads.
    pub reads: DataPath,
    /// Memory for writes.
    pub writes: DataPath,
    /// Whether data may come inside the capsule, which is host memory.
    pub in_capsule: bool,
}

/// All that a reactor is made of. Everything in it can be sent to its thread.
pub struct ReactorSpec {
    /// The core it runs on.
    pub core: usize,
    /// Its adapters.
    pub nics: Vec<Box<dyn Nic + Send>>,
    /// Address space for its own memory.
    pub space: Arc<dyn DmaSpace>,
    /// Its shares of the pools, in the target's order.
    pub pools: Vec<PoolSpec>,
    /// The namespaces, in the target's order.
    pub namespaces: Vec<Namespace>,
    /// Commands in flight per adapter, over all its connections.
    pub slots: usize,
    /// The most in-capsule data, in bytes.
    pub in_capsule: usize,
    /// What it counts.
    pub counters: Arc<ReactorCounters>,
    /// Where it reports to.
    pub reports: UnboundedSender<FromReactor>,
}

/// Why a reactor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// Memory for commands and responses.
    #[error("memory for commands and responses: {0}")]
    Memory(#[from] DmaError),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The adapter does not take a region.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Receive buffers.
    #[error("{nic} does not take {slots} receive buffers: {error}")]
    Receive {
        /// The adapter.
        nic: String,
        /// Receive buffers.
        slots: usize,
        /// Its answer.
        error: NicError,
    },
    /// Operating system.
    #[error("the reactor's thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
    /// Too many file descriptors to wait on.
    #[error(
        "a reactor waits for at most {limit} adapters and namespaces, and has {given}; use fewer"
    )]
    TooMany {
        /// Adapters and namespaces it has.
        given: usize,
        /// How many it takes.
        limit: usize,
    },
}

/// A running reactor.
#[derive(Debug)]
pub struct ReactorHandle {
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// What it counts.
    pub counters: Arc<ReactorCounters>,
    /// Until it has been waited for.
    thread: Option<JoinHandle<()>>,
}

impl ReactorHandle {
    /// Starts a reactor, and returns when it is ready or has failed.
    ///
    /// # Errors
    /// When memory cannot be had, mapped or registered.
    pub fn start(spec: ReactorSpec) -> Result<Self, ReactorError> {
        let (mailbox, inbox) = mailbox::mailbox()?;
        let counters = Arc::clone(&spec.counters);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{}", spec.core))
            .spawn(move || match Reactor::new(spec, inbox) {
                Ok(mut reactor) => {
                    let _ = ready.send(Ok(()));
                    let (core, reports) = (reactor.counters.core, reactor.reports.clone());
                    // A defect; what is left is to say so, and to end in order.
                    if catch_unwind(AssertUnwindSafe(|| reactor.run())).is_err() {
                        let _ = reports.send(FromReactor::Panicked { core });
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self {
                mailbox,
                counters,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::Error::other("it ended at once").into()),
        }
    }
}

/// Dropping it stops the reactor: its connections are ended, commands that SSDs
/// still have are waited for, and all it owned is given back.
impl Drop for ReactorHandle {
    fn drop(&mut self) {
        self.mailbox.send(ToReactor::Stop);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("a reactor had panicked");
        }
    }
}

/// An adapter and what is registered with it.
struct Port {
    nic: Box<dyn Nic>,
    messages: Messages,
    messages_memory: MemoryRegion,
    /// In the order of [`Reactor::pools`].
    pool_memory: Vec<MemoryRegion>,
    /// The number of its first slot in the table of requests.
    first_slot: usize,
}

/// A pool and who waits for it.
struct WaitedPool {
    pool: Pool,
    admission: Admission,
}

/// A namespace and the requests that wait for room in its queue.
struct Queued {
    namespace: Namespace,
    backlog: VecDeque<usize>,
    /// Whether commands were queued since the last doorbell.
    dirty: bool,
}

/// Fields are dropped in this order: SSD queues first, so that no SSD touches
/// what goes next; the address space last.
struct Reactor {
    namespaces: Vec<Queued>,
    ports: Vec<Port>,
    pools: Vec<WaitedPool>,
    requests: Vec<Request>,
    connections: Connections,
    /// Requests whose data was placed in this round, by port.
    placed: Vec<Vec<usize>>,
    /// Requests whose data is being made visible, oldest first, by port.
    flushing: Vec<VecDeque<usize>>,
    inbox: Inbox,
    counters: Arc<ReactorCounters>,
    reports: UnboundedSender<FromReactor>,
    unspent: Rc<Cell<u64>>,
    /// Since when it is stopping, if it is.
    stopping: Option<Instant>,
    _space: Arc<dyn DmaSpace>,
}

impl Reactor {
    fn new(spec: ReactorSpec, inbox: Inbox) -> Result<Self, ReactorError> {
        pin(spec.core);
        let given = spec.nics.len() + spec.namespaces.len();
        if given > sleep::MAX_WAITED {
            return Err(ReactorError::TooMany {
                given,
                limit: sleep::MAX_WAITED,
            });
        }
        let control = spec
            .space
            .host_region("data of admin commands", CONTROL_POOL_BYTES)?;
        let pools: Vec<_> = std::iter::once(PoolSpec::new(control))
            .chain(spec.pools)
            .map(|pool| {
                let admission = Admission::new(MAX_CONNECTIONS);
                Ok((
                    pool.region.clone(),
                    WaitedPool {
                        pool: Pool::new(pool)?,
                        admission,
                    },
                ))
            })
            .collect::<Result<_, PoolError>>()?;
        let mut ports = Vec::new();
        for mut nic in spec.nics {
            let messages = Messages::new(&*spec.space, spec.slots, spec.in_capsule)?;
            // Peers never name this memory: all RDMA is the target's own.
            let access = Access {
                local_write: true,
                ..Access::default()
            };
            let messages_memory = nic.register(messages.region(), access)?;
            let pool_memory = pools
                .iter()
                .map(|(region, _)| nic.register(region, access))
                .collect::<Result<_, _>>()?;
            let first_slot = ports.len() * spec.slots;
            ports.push(Port {
                nic,
                messages,
                messages_memory,
                pool_memory,
                first_slot,
            });
        }
        let slots = ports.len() * spec.slots;
        let mut reactor = Self {
            placed: ports
                .iter()
                .map(|_| Vec::with_capacity(spec.slots))
                .collect(),
            flushing: ports
                .iter()
                .map(|_| VecDeque::with_capacity(spec.slots))
                .collect(),
            connections: Connections::new(ports.len(), spec.slots),
            requests: (0..slots).map(|_| Request::empty()).collect(),
            ports,
            pools: pools.into_iter().map(|(_, pool)| pool).collect(),
            namespaces: spec
                .namespaces
                .into_iter()
                .map(|namespace| Queued {
                    namespace,
                    backlog: VecDeque::with_capacity(slots),
                    dirty: false,
                })
                .collect(),
            inbox,
            counters: spec.counters,
            reports: spec.reports,
            unspent: Rc::new(Cell::new(0)),
            stopping: None,
            _space: spec.space,
        };
        for slot in 0..slots {
            reactor
                .post_slot(slot)
                .map_err(|(nic, error)| ReactorError::Receive {
                    nic,
                    slots: spec.slots,
                    error,
                })?;
        }
        Ok(reactor)
    }

    fn run(&mut self) {
        let mut idle_rounds = 0;
        loop {
            let now = Instant::now();
            if self
                .stopping
                .is_some_and(|since| self.has_stopped(since, now))
            {
                break;
            }
            let progress = self.round(now);
            self.counters.rounds.add(1);
            if progress {
                idle_rounds = 0;
            } else {
                idle_rounds += 1;
                if idle_rounds > IDLE_ROUNDS && self.sleep(now) {
                    idle_rounds = 0;
                }
            }
        }
        self.teardown();
    }

    /// Everything once, in the order of a command's life; `true` when anything
    /// happened.
    fn round(&mut self, now: Instant) -> bool {
        let mut progress = self.read_mail(now);
        for port in 0..self.ports.len() {
            progress |= self.poll_port(port, now);
        }
        for namespace in 0..self.namespaces.len() {
            progress |= self.poll_backend(namespace, now);
        }
        self.admit(now);
        for queued in &mut self.namespaces {
            if std::mem::take(&mut queued.dirty) {
                queued.namespace.backend.ring();
            }
        }
        self.tick(now);
        self.post_sends();
        self.publish();
        progress
    }

    fn read_mail(&mut self, now: Instant) -> bool {
        if !self.inbox.rung() {
            return false;
        }
        if self.inbox.woken() {
            self.connections.look_at_all(now);
        }
        while let Some(message) = self.inbox.take() {
            match message {
                ToReactor::Open(new) => self.open(*new, now),
                ToReactor::Disconnected(key) => self.disconnected(key, now),
                ToReactor::Stop => {
                    self.stopping = Some(now);
                    self.close_all(now);
                }
            }
        }
        true
    }

    fn poll_port(&mut self, port: usize, now: Instant) -> bool {
        let mut completions = Completions::new();
        self.ports[port].nic.poll(now, &mut completions);
        let any = !completions.is_empty();
        for completion in completions {
            match completion.op {
                WcOp::Recv => self.received(port, &completion, now),
                WcOp::Flush => self.flushed(port, &completion, now),
                WcOp::Send | WcOp::Read | WcOp::Write => self.sent(port, &completion, now),
            }
        }
        while let Some(qp) = self.ports[port].nic.failed_qp() {
            self.queue_pair_failed(port, qp, now);
        }
        self.flush_placed(port, now);
        any
    }

    fn poll_backend(&mut self, namespace: usize, now: Instant) -> bool {
        let queued = &mut self.namespaces[namespace];
        if queued.namespace.backend.outstanding() == 0 && queued.backlog.is_empty() {
            return false;
        }
        let mut done = DoneList::new();
        queued.namespace.backend.poll(&mut done);
        let any = !done.is_empty();
        for end in done {
            self.executed(end, now);
        }
        self.retry_backlog(namespace, now);
        any
    }

    /// Whether nothing is in flight any more, or an SSD has been waited for long
    /// enough: deleting its queues ends its commands.
    fn has_stopped(&self, since: Instant, now: Instant) -> bool {
        let outstanding = self.outstanding();
        let late = now.saturating_duration_since(since) > STOP_LIMIT;
        if late {
            tracing::error!(outstanding, "an SSD did not end its commands in time");
        }
        late || (outstanding == 0 && self.connections.is_empty())
    }

    /// Commands that a backend still has: their buffers must stay.
    fn outstanding(&self) -> usize {
        self.namespaces
            .iter()
            .map(|n| n.namespace.backend.outstanding())
            .sum()
    }

    /// Makes counts visible that are kept elsewhere.
    fn publish(&mut self) {
        self.counters.connections.set(self.connections.len() as u64);
        self.counters.unspent_permits.set(self.unspent.get());
        for (counters, waited) in self
            .counters
            .pools
            .iter()
            .zip(&self.pools[CONTROL_POOL + 1..])
        {
            let stats = waited.pool.stats();
            counters.in_use.set(stats.in_use as u64);
            counters.peak.set(stats.peak as u64);
        }
    }

    /// Nothing is in flight any more: memory is deregistered before it goes.
    fn teardown(&mut self) {
        for port in &mut self.ports {
            for memory in port.pool_memory.iter().chain([&port.messages_memory]) {
                port.nic.deregister(memory);
            }
        }
    }

    /// Gives a slot's receive buffer to its adapter.
    fn post_slot(&mut self, slot: usize) -> Result<(), (String, NicError)> {
        let port = self.port_of(slot);
        let port = &mut self.ports[port];
        let mut wr = port
            .messages
            .recv(slot - port.first_slot, &port.messages_memory);
        wr.wr_id = slot as u64;
        self.requests[slot].state = State::Posted;
        self.counters.states[State::Posted as usize].add(1);
        port.nic
            .post_recv(&[wr])
            .map_err(|error| (port.nic.caps().name.clone(), error))
    }
}

/// Puts the thread on its core. Where that is not allowed it runs anywhere, a
/// little slower, and the log says so.
fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    if core < rustix::thread::CpuSet::MAX_CPU {
        set.set(core);
    }
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "the reactor is not pinned to its core");
    }
}
