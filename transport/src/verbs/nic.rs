//! The part of an RDMA device that one reactor owns: a completion queue with its
//! channel, a shared receive queue, the queue pairs, and a flush queue pair.
//!
//! Nothing here blocks, locks or allocates for a command: lists and tables are
//! made once, and what may take its time is a [`Job`] for the device's worker.
//! `posting` is what goes out, `completing` what comes back, `pairs` the lives of
//! queue pairs, `traffic` what they have carried.
#![forbid(unsafe_code)]

mod completing;
mod pairs;
mod posting;
mod traffic;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use rustix::event::epoll;
use sidelane_p2p::{Region, RegionId};

use self::pairs::Pair;
use self::traffic::Traffic;
use super::adapter::VerbsAdapter;
use super::explain::{MemoryLock, Refusal, refused};
use super::ffi::{Cq, Cqs, Device, RdmaCore, RecvList, SendList, Verbs, WcBuffer};
use super::flusher::{self, FLUSH_DEPTH, Flusher};
use super::registration::Registration;
use super::worker::{Job, Report, STOP_LIMIT};
use crate::nic::{
    Access, Completion, Completions, Count, Flush, MemoryRegion, Nic, NicCaps, NicError, NicEvent,
    QpAttrs, QpCaps, QpNumber, RecvWr, RegisterError, SendWr, Sge, Wake,
};

type DeviceOf<V> = <V as Verbs>::Device;
type QpOf<V> = <DeviceOf<V> as Device>::Qp;

/// What a part has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerbsCounters {
    /// Lists given to the adapter, one doorbell each.
    pub doorbells: u64,
    /// Messages sent inline.
    pub inlined: u64,
    /// Completions of queue pairs that are being destroyed, dropped.
    pub dropped: u64,
    /// Completions that belong to nothing known, dropped.
    pub unknown: u64,
    /// Flush queue pairs made anew after a failure.
    pub flushers_remade: u64,
}

/// The completion queues of a part: apart, since what was sent need not wake
/// anybody.
pub(super) struct OwnCqs<D: Device> {
    sends: Arc<D::Cq>,
    receives: Arc<D::Cq>,
}

impl<D: Device> OwnCqs<D> {
    pub fn both(&self) -> Cqs<'_, D::Cq> {
        Cqs {
            sends: &self.sends,
            receives: &self.receives,
        }
    }
}

impl<D: Device> Clone for OwnCqs<D> {
    fn clone(&self) -> Self {
        Self {
            sends: Arc::clone(&self.sends),
            receives: Arc::clone(&self.receives),
        }
    }
}

/// What a completion queue was asked for, and has not told of yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Armed {
    /// Nothing.
    No,
    /// Solicited events and failures.
    Solicited,
    /// Everything.
    All,
    /// The same, when it had been asked for solicited events before: it may have
    /// told of one in between, and so tells twice.
    Twice,
}

/// A registration that this part uses.
struct Held<D: Device> {
    memory: MemoryRegion,
    registration: Arc<Registration<D>>,
    revoked: bool,
}

/// An RDMA device, as one reactor sees it.
///
/// Fields are dropped in this order: the way to the worker before the adapter,
/// whose end waits for the worker's.
pub struct VerbsNic<V: Verbs = RdmaCore> {
    part: usize,
    pairs: HashMap<u32, Pair<DeviceOf<V>>>,
    /// Queue pairs asked for and not there yet.
    opening: u32,
    /// Queue pairs that are to be destroyed once they are empty.
    draining: Vec<u32>,
    flusher: Flusher<DeviceOf<V>>,
    cqs: OwnCqs<DeviceOf<V>>,
    /// The event that is to come of each: for sends, for receives.
    armed: [Armed; 2],
    /// RDMA READs that will make a completion.
    reads: usize,
    srq: Arc<<DeviceOf<V> as Device>::Srq>,
    /// Completions that no queue pair has claimed yet.
    cq_free: u32,
    srq_posted: u32,
    held: Vec<Held<DeviceOf<V>>>,
    sends: SendList,
    recvs: RecvList,
    wcs: WcBuffer,
    /// Completions that the adapter cannot give any more.
    made_up: VecDeque<Completion>,
    events: VecDeque<NicEvent>,
    /// Jobs that the worker had no room for.
    deferred: VecDeque<Job<DeviceOf<V>>>,
    retry_at: Option<Instant>,
    gone: bool,
    counters: VerbsCounters,
    /// Of queue pairs that are gone.
    ended: Traffic,
    reports: Receiver<Report<DeviceOf<V>>>,
    ready: OwnedFd,
    jobs: Option<SyncSender<Job<DeviceOf<V>>>>,
    adapter: Arc<VerbsAdapter<V>>,
}

impl<V: Verbs> VerbsNic<V> {
    pub(super) fn new(
        part: usize,
        adapter: Arc<VerbsAdapter<V>>,
        reports: Receiver<Report<DeviceOf<V>>>,
    ) -> Result<Self, Refusal> {
        let shared = &adapter.shared;
        let (caps, limits) = (&shared.caps, &shared.limits);
        let lock = MemoryLock::now();
        let make = |entries: u32| -> Result<<DeviceOf<V> as Device>::Cq, Refusal> {
            let cq = shared.device.create_cq(entries);
            cq.map_err(|error| {
                let limit = format!(
                    "the adapter takes {} completion queues of {} entries; fewer cores, or a lower \
                 max_queue_entries, need less",
                    limits.max_cq, limits.max_cqe
                );
                let bytes = u64::from(entries) * 64;
                refused("ibv_create_cq", &error, bytes, Some(&limit), &lock)
            })
        };
        let cqs: OwnCqs<DeviceOf<V>> = OwnCqs {
            sends: Arc::new(make(shared.cq_entries)?),
            receives: Arc::new(make(caps.max_srq_wr)?),
        };
        let srq = shared.device.create_srq(caps.max_srq_wr);
        let srq = srq.map_err(|error| {
            let limit = format!(
                "the adapter takes {} shared receive queues of {} work requests; fewer cores, or \
                 a lower max_queue_entries, need less",
                limits.max_srq, limits.max_srq_wr
            );
            let bytes = u64::from(caps.max_srq_wr) * 32;
            refused("ibv_create_srq", &error, bytes, Some(&limit), &lock)
        })?;
        shared.parts[part].takes_limits_of(super::ffi::Srq::id(&srq));
        let flush_qp = flusher::make_qp(&shared.device, limits, cqs.both(), &srq)?;
        shared
            .routes
            .add(super::ffi::Qp::number(&flush_qp), part, true);
        let system = |what| {
            move |error: rustix::io::Errno| {
                refused(what, &error.into(), 0, None, &MemoryLock::now())
            }
        };
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
        for fd in [
            cqs.sends.channel(),
            cqs.receives.channel(),
            shared.parts[part].bell(),
        ] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&ready, fd, data, epoll::EventFlags::IN).map_err(system("epoll_ctl"))?;
        }
        let connections = shared.max_connections as usize;
        // What the flushes, and what a destroyed queue pair leaves behind, need.
        let fixed = (FLUSH_DEPTH + crate::nic::MAX_COMPLETIONS) as u32;
        Ok(Self {
            part,
            pairs: HashMap::with_capacity(connections),
            opening: 0,
            draining: Vec::with_capacity(connections),
            flusher: Flusher::new(flush_qp),
            cq_free: shared.cq_entries.saturating_sub(fixed),
            cqs,
            armed: [Armed::No; 2],
            reads: 0,
            srq: Arc::new(srq),
            srq_posted: 0,
            held: Vec::new(),
            sends: SendList::new(),
            recvs: RecvList::new(),
            wcs: WcBuffer::new(),
            made_up: VecDeque::new(),
            events: VecDeque::with_capacity(connections),
            deferred: VecDeque::new(),
            retry_at: None,
            gone: false,
            counters: VerbsCounters::default(),
            ended: Traffic::default(),
            reports,
            ready,
            jobs: adapter.jobs(),
            adapter,
        })
    }

    /// What this part has counted.
    pub fn counters(&self) -> VerbsCounters {
        self.counters
    }

    /// The adapter that it is a part of.
    pub fn adapter(&self) -> &Arc<VerbsAdapter<V>> {
        &self.adapter
    }

    /// Arms the queues that are not armed yet, and looks at both.
    fn arm_queues(&mut self, sends: Armed, receives: Armed) -> std::io::Result<()> {
        let [sends_armed, receives_armed] = &mut self.armed;
        arm(&*self.cqs.sends, sends_armed, sends)?;
        arm(&*self.cqs.receives, receives_armed, receives)?;
        self.cqs.receives.poll(&mut self.wcs)?;
        if self.wcs.is_empty() {
            self.cqs.sends.poll(&mut self.wcs)?;
        }
        Ok(())
    }

    fn set_gone(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            self.events.push_back(NicEvent::Gone);
        }
    }

    /// Tells, once, that a region was taken away.
    fn revoke(&mut self, region: RegionId) {
        let mut told = true;
        for held in &mut self.held {
            if held.memory.region == region {
                told &= std::mem::replace(&mut held.revoked, true);
            }
        }
        if !told {
            self.events.push_back(NicEvent::Revoked(region));
        }
    }

    /// A local key was refused: if it is of memory that can be taken away, it
    /// was, and the other parts want to know too.
    fn suspect(&mut self, lkey: u32) {
        let fits = |held: &&Held<_>| held.memory.lkey == lkey && held.registration.is_revocable();
        let Some(held) = self.held.iter().find(fits) else {
            return;
        };
        if !held.revoked {
            let region = held.memory.region;
            self.revoke(region);
            self.adapter.shared.revoked(region);
        }
    }
}

const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<VerbsNic<RdmaCore>>();
};

/// Arms a queue, unless it still is for as much since the last time. An event that
/// nobody takes would wake for ever, so it is taken in any case.
fn arm<C: Cq>(cq: &C, armed: &mut Armed, wanted: Armed) -> std::io::Result<()> {
    if *armed != Armed::No && cq.take_event()? {
        *armed = match *armed {
            Armed::Twice => Armed::Solicited,
            _ => Armed::No,
        };
    }
    if *armed < wanted {
        cq.arm(wanted == Armed::Solicited)?;
        *armed = match *armed {
            Armed::Solicited => Armed::Twice,
            _ => wanted,
        };
    }
    Ok(())
}

/// The registration behind a key.
fn held_by_key<D: Device>(held: &[Held<D>], lkey: u32) -> Option<&Held<D>> {
    held.iter().find(|held| held.memory.lkey == lkey)
}

impl<V: Verbs> Drop for VerbsNic<V> {
    /// What is left is given back in the order that it depends on each other:
    /// queue pairs first, registrations after them.
    fn drop(&mut self) {
        let until = Instant::now() + STOP_LIMIT;
        let left: Vec<Arc<QpOf<V>>> = self
            .pairs
            .values_mut()
            .filter_map(Pair::take)
            .chain(self.flusher.take())
            .collect();
        for qp in left {
            let part = self.part;
            self.submit_at_end(Job::Destroy { part, qp }, until);
        }
        while let Some(job) = self.deferred.pop_front() {
            self.submit_at_end(job, until);
        }
        let keys: Vec<u32> = self.held.drain(..).map(|held| held.memory.lkey).collect();
        for lkey in keys {
            if let Some(memory) = self.adapter.release(lkey) {
                self.submit_at_end(Job::Deregister { _memory: memory }, until);
            }
        }
    }
}

impl<V: Verbs> Nic for VerbsNic<V> {
    fn caps(&self) -> &NicCaps {
        &self.adapter.shared.caps
    }

    fn register(&mut self, region: &Region, access: Access) -> Result<MemoryRegion, RegisterError> {
        let registration = self.adapter.register(region, access, 1)?;
        let memory = registration.memory();
        self.held.push(Held {
            memory,
            registration,
            revoked: false,
        });
        Ok(memory)
    }

    fn deregister(&mut self, memory: &MemoryRegion) {
        let at = self
            .held
            .iter()
            .position(|held| held.memory.lkey == memory.lkey);
        let Some(at) = at else {
            return;
        };
        self.held.swap_remove(at);
        if let Some(memory) = self.adapter.release(memory.lkey) {
            self.submit(Job::Deregister { _memory: memory });
        }
    }

    fn open_qp(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs, _now: Instant) {
        self.open(ticket, caps, attrs);
    }

    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        self.error(qp)
    }

    fn destroy_qp(&mut self, qp: QpNumber) {
        self.destroy(qp);
    }

    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        self.post_recvs(wrs)
    }

    /// A device that is at the limit already tells with the next buffer it takes.
    fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError> {
        if limit > self.adapter.shared.caps.max_srq_wr {
            return Err(NicError::Malformed(
                "a limit above what the shared receive queue holds",
            ));
        }
        if self.gone {
            return Err(NicError::Gone);
        }
        let srq = Arc::clone(&self.srq);
        self.submit(Job::SrqLimit { srq, limit });
        Ok(())
    }

    fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        self.post_sends(qp, wrs)
    }

    fn post_flush(&mut self, last: Sge, wr_id: u64) -> Result<Flush, NicError> {
        self.flush(last, wr_id)
    }

    fn post_copy(&mut self, from: Sge, to: Sge, wr_id: u64) -> Result<Flush, NicError> {
        self.copy(from, to, wr_id)
    }

    fn poll(&mut self, now: Instant, out: &mut Completions) {
        // Reports first: what they say of a queue pair's last completion counts
        // for what is polled after them.
        self.read_reports(now);
        let emptied = self.poll_into(now, out);
        self.keep_house(now, emptied);
    }

    fn event(&mut self) -> Option<NicEvent> {
        self.events.pop_front()
    }

    /// The bell is silenced, the queues are armed, then they are looked at: what
    /// comes between two of these steps is seen by a later one.
    fn arm(&mut self, now: Instant, wake: Wake) -> bool {
        self.adapter.shared.parts[self.part].silence();
        self.read_reports(now);
        if self.wcs.is_empty() {
            let awaited = self.reads > 0 || !self.flusher.is_empty() || !self.draining.is_empty();
            let (sends, receives) = match wake {
                Wake::All => (Armed::All, Armed::All),
                Wake::NotSent if awaited => (Armed::All, Armed::All),
                Wake::NotSent => (Armed::No, Armed::All),
                Wake::Solicited if awaited => (Armed::All, Armed::Solicited),
                // What is sent is never solicited on this side: failures only.
                Wake::Solicited => (Armed::Solicited, Armed::Solicited),
            };
            if self.arm_queues(sends, receives).is_err() {
                self.set_gone();
            }
            let emptied = self.wcs.is_empty();
            self.keep_house(now, emptied);
        }
        self.wcs.is_empty() && self.made_up.is_empty() && self.events.is_empty()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        let draining = self.draining.iter();
        draining
            .filter_map(|qp| self.pairs.get(qp)?.drained_by())
            .chain(self.flusher.deadline())
            .chain(self.retry_at)
            .min()
    }

    fn counts(&self) -> Vec<Count> {
        let met = self.counters();
        let mut carried = self.ended;
        for pair in self.pairs.values() {
            carried.add(&pair.traffic);
        }
        let mut counts = carried.counts();
        let own = [
            ("doorbells", met.doorbells),
            ("inlined", met.inlined),
            ("dropped", met.dropped),
            ("unknown", met.unknown),
            ("flushers_remade", met.flushers_remade),
        ];
        counts.extend(own.map(|(name, value)| (name.into(), value)));
        counts
    }

    fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>> {
        Some(self.pairs.get(&qp.0)?.traffic.counts())
    }
}

#[cfg(test)]
mod tests;
