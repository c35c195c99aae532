//! A reactor: one thread, on one core, that owns queue pairs, completion queues,
//! SSD queues and its share of each pool, and shares none of them.
//!
//! It polls while there is work and sleeps on file descriptors when there is
//! none. Which rooms there are: `spec` (what it is made of), `handle` (how others hold
//! it), `request` (the states of a command), `path` (what
//! moves a command between them, with `transfer` for the wire's part and `execute`
//! for the backend's), `openings` and `connections` (queue pairs, from their making
//! to their end), `outbox` (what waits for room in a send queue), `ways` and
//! `revocation` (which memory payload goes by, and memory that is taken away),
//! `replacement` (adapters that go and come back), `away` (SSDs that do),
//! `abort` (commands that the host takes back), `stopping` (what is waited for at
//! the end), `buffers` (which memory a buffer comes from), `admission` (who gets
//! the next), `messages` (memory for commands and responses), `receives` (which of
//! it an adapter holds), `mailbox` (to and from the control plane), `counting`
//! (what it is told of adapters and queue pairs).

mod abort;
mod admission;
mod away;
mod buffers;
mod connections;
mod counting;
mod execute;
mod handle;
mod mailbox;
mod messages;
mod openings;
mod outbox;
mod path;
mod receives;
mod replacement;
mod request;
mod revocation;
mod sleep;
mod spec;
mod stopping;
mod transfer;
mod ways;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane_p2p::pool::{Pool, PoolError, PoolSpec};
use sidelane_p2p::{DmaSpace, Region};
use sidelane_transport::nic::{
    Access, Completions, MemoryRegion, Nic, NicError, NicEvent, RegisterError, WcOp,
};
use sidelane_transport::nvmf;
use tokio::sync::mpsc::UnboundedSender;

use self::admission::Admission;
use self::buffers::WaitedPool;
use self::connections::Connections;
use self::messages::Messages;
use self::openings::Openings;
use self::receives::Receives;
use self::request::{Request, State};
use crate::backend::DoneList;
use crate::stats::ReactorCounters;

pub use away::{Attach, Away, Detach, Detached};
pub use counting::{NicCounts, QueuePairCounts, RECEIVE_QUEUE_LOW};
pub use handle::ReactorHandle;
pub(crate) use mailbox::clear_eventfd;
pub use mailbox::{
    ConnKey, FromReactor, Inbox, Mailbox, NewConnection, NotOpened, ToReactor, mailbox,
};
pub use request::{STATE_COUNT, STATE_NAMES};
pub use revocation::Install;
pub use spec::{FlushPolicy, Namespace, NicSpec, ReactorError, ReactorSpec};
pub use ways::{DataPath, Route, Routes};

/// Connections that one reactor serves at most.
pub const MAX_CONNECTIONS: usize = 512;

/// Memory for the data of Fabrics and admin commands in flight, in bytes.
const CONTROL_POOL_BYTES: usize = 2 << 20;

/// The pool for it, before all pools of the target.
const CONTROL_POOL: usize = 0;

/// Peers never name the target's memory: all RDMA is its own.
const MESSAGE_ACCESS: Access = Access {
    local_write: true,
    remote_read: false,
    remote_write: false,
};

/// The flush rule has an adapter read its own memory back, by a queue pair that
/// is connected to itself; those of peers allow no remote access.
pub const POOL_ACCESS: Access = Access {
    remote_read: true,
    ..MESSAGE_ACCESS
};

/// How long the reactor looks for work before it sleeps, where work has come about
/// that soon: about what a sleep and a wake-up cost, so that it never loses more by
/// looking than it could gain. After a longer sleep it does not look at all.
const SPIN: Duration = Duration::from_micros(20);

/// How long the reactor sleeps at most: what it does then costs nothing worth
/// naming, and a lost wake-up does not last for ever.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// An adapter and what is registered with it.
struct Port {
    nic: Box<dyn Nic>,
    messages: Messages,
    messages_memory: MemoryRegion,
    /// In the order of [`Reactor::pools`]; none of a pool that nothing goes by
    /// behind this adapter, or that it has lost.
    pool_memory: Vec<Option<MemoryRegion>>,
    /// Slots that it has.
    slots: usize,
    receives: Receives,
    /// The adapter was removed, or broke.
    gone: bool,
    /// What takes its place as soon as nothing of it is in use.
    successor: Option<NicSpec>,
    /// The number of its first slot in the table of requests.
    first_slot: usize,
}

impl Port {
    /// Registers its memory: that for messages, and those pools that it may use.
    fn new<'a>(
        mut nic: Box<dyn Nic>,
        messages: Messages,
        pools: impl Iterator<Item = Option<&'a Region>>,
        first_slot: usize,
        slots: usize,
    ) -> Result<Self, RegisterError> {
        let messages_memory = nic.register(messages.region(), MESSAGE_ACCESS)?;
        let mut register = |region| nic.register(region, POOL_ACCESS);
        let pool_memory = pools
            .map(|region| region.map(&mut register).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            nic,
            messages,
            messages_memory,
            pool_memory,
            first_slot,
            slots,
            receives: Receives::new(slots),
            gone: false,
            successor: None,
        })
    }
}

/// A namespace and the requests that wait for room in its queue.
struct Queued {
    namespace: Namespace,
    /// What becomes of its commands while it has no backend.
    away: Away,
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
    openings: Openings,
    connections: Connections,
    flush: FlushPolicy,
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
    /// Whether backends were told that nobody waits any more.
    gave_up: bool,
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
                        pool: Some(Pool::new(pool)?),
                        admission,
                    },
                ))
            })
            .collect::<Result<_, PoolError>>()?;
        let mut ports = Vec::new();
        // Every adapter has this many slots in the table, used or not.
        let stride = spec.nics.iter().map(|nic| nic.slots).max().unwrap_or(0);
        for (at, NicSpec { nic, slots }) in spec.nics.into_iter().enumerate() {
            let in_capsule = spec.in_capsule.max(nvmf::MAX_LIST_BYTES);
            let messages = Messages::new(&*spec.space, slots, in_capsule)?;
            let used = |pool: usize| {
                let mut routes = spec.namespaces.iter().filter_map(|it| it.routes.get(at));
                pool == CONTROL_POOL || routes.any(|it| it.reads.uses(pool) || it.writes.uses(pool))
            };
            let regions = pools.iter().enumerate();
            let regions = regions.map(|(pool, (region, _))| used(pool).then_some(region));
            ports.push(Port::new(nic, messages, regions, at * stride, slots)?);
        }
        let slots = ports.len() * stride;
        let mut reactor = Self {
            placed: ports.iter().map(|_| Vec::with_capacity(stride)).collect(),
            flushing: ports
                .iter()
                .map(|_| VecDeque::with_capacity(stride))
                .collect(),
            openings: Openings::default(),
            connections: Connections::new(ports.len()),
            flush: spec.flush,
            requests: (0..slots).map(|_| Request::empty()).collect(),
            ports,
            pools: pools.into_iter().map(|(_, pool)| pool).collect(),
            namespaces: spec
                .namespaces
                .into_iter()
                .map(|namespace| Queued {
                    namespace,
                    away: Away::Held,
                    backlog: VecDeque::with_capacity(slots),
                    dirty: false,
                })
                .collect(),
            inbox,
            counters: spec.counters,
            reports: spec.reports,
            unspent: Rc::new(Cell::new(0)),
            stopping: None,
            gave_up: false,
            _space: spec.space,
        };
        for port in 0..reactor.ports.len() {
            reactor.post_all(port)?;
        }
        Ok(reactor)
    }

    /// Gives all slots of an adapter to it.
    fn post_all(&mut self, port: usize) -> Result<(), ReactorError> {
        let Port {
            first_slot, slots, ..
        } = self.ports[port];
        for slot in first_slot..first_slot + slots {
            self.post_slot(slot)
                .map_err(|(nic, error)| ReactorError::Receive { nic, slots, error })?;
        }
        Ok(())
    }

    fn run(&mut self) {
        let mut idle_since = None;
        let mut spin = SPIN;
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
                idle_since = None;
            } else {
                let since = *idle_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= spin && self.sleep(now) {
                    idle_since = None;
                    let soon = now.elapsed() <= 2 * SPIN;
                    spin = if soon { SPIN } else { Duration::ZERO };
                }
            }
        }
        self.teardown();
    }

    /// Everything once, in the order of a command's life; `true` when anything
    /// happened.
    fn round(&mut self, now: Instant) -> bool {
        let mut progress = false;
        // Before anything is polled: a target that was stopped for a while wakes
        // with commands and data of hosts that have given it up meanwhile. Those
        // reach no SSD any more, behind what a host writes when it is back.
        self.tick(now);
        for port in 0..self.ports.len() {
            progress |= self.poll_port(port, now);
        }
        // After the adapters: what they have given back is nothing that memory
        // which is taken away has to be waited for.
        progress |= self.read_mail(now);
        for namespace in 0..self.namespaces.len() {
            progress |= self.poll_backend(namespace, now);
        }
        self.admit(now);
        for queued in &mut self.namespaces {
            if std::mem::take(&mut queued.dirty)
                && let Some(backend) = &mut queued.namespace.backend
            {
                backend.ring();
            }
        }
        self.tick(now);
        self.post_sends();
        self.watch_receives();
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
                ToReactor::Revoked(region) => self.taken_away(region, now),
                ToReactor::Replace(port, spec) => self.replace(port, *spec),
                ToReactor::Detach(detach) => self.detach(detach, now),
                ToReactor::Attach(attach) => self.attach(attach),
                ToReactor::Install(install) => self.install_pool(install),
                ToReactor::Count(reply) => {
                    // Whoever asked may have given up.
                    let _ = reply.send(self.count());
                }
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
        let mut any = !completions.is_empty();
        for completion in completions {
            match completion.op {
                WcOp::Recv | WcOp::RecvWrite => {
                    self.ports[port].receives.taken();
                    self.received(port, &completion, now);
                }
                WcOp::Flush => self.flushed(port, &completion, now),
                WcOp::Send | WcOp::Read | WcOp::Write => self.sent(port, &completion, now),
            }
        }
        self.flush_placed(port, now);
        while let Some(event) = self.ports[port].nic.event() {
            any = true;
            match event {
                NicEvent::Opened { ticket, outcome } => self.opened(port, ticket, outcome, now),
                NicEvent::Failed(qp) => self.queue_pair_failed(port, qp, now),
                NicEvent::Destroyed(qp) => self.destroyed(port, qp, now),
                NicEvent::Revoked(region) => self.lost_way(port, region, now),
                NicEvent::SrqLimit => self.ports[port].receives.ran_low(),
                NicEvent::Gone => self.adapter_gone(port, now),
            }
        }
        any
    }

    fn poll_backend(&mut self, namespace: usize, now: Instant) -> bool {
        let queued = &mut self.namespaces[namespace];
        let Some(backend) = &mut queued.namespace.backend else {
            return false;
        };
        if backend.outstanding() == 0 && queued.backlog.is_empty() {
            return false;
        }
        let mut done = DoneList::new();
        backend.poll(now, &mut done);
        let any = !done.is_empty();
        for end in done {
            self.executed(end, now);
        }
        self.retry_backlog(namespace, now);
        any
    }

    /// Asks adapters to tell when receive buffers run low, once they are there.
    fn watch_receives(&mut self) {
        for port in &mut self.ports {
            let Some(limit) = port.receives.arm() else {
                continue;
            };
            if let Err(error) = port.nic.arm_srq_limit(limit) {
                // It is for a count only, and is not asked again.
                let nic = &port.nic.caps().name;
                tracing::debug!(nic, %error, "receive buffers that run low are not counted");
            }
        }
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
            let stats = waited.pool.as_ref().map(Pool::stats).unwrap_or_default();
            counters.in_use.set(stats.in_use as u64);
            counters.peak.set(stats.peak as u64);
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
            .map_err(|error| (port.nic.caps().name.clone(), error))?;
        port.receives.posted();
        Ok(())
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

#[cfg(test)]
mod tests;
