//! What the queues of one controller share, whichever reactors own them.
//!
//! Per command only relaxed atomics are touched ([`ControllerShared::heard`],
//! [`ControllerShared::is_ready`]); the locks here are for connecting, for
//! events and for commands that failed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use sidelane_nvme::spec::HostId;

use super::aborts::Aborts;
use super::error_log::ErrorLog;
use super::lock;
use super::qids::QidSet;

/// Who a host says it is, in Connect (NVMe 2.0, 6.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// Host NQN. Its form is not checked: it only has to match a list.
    pub nqn: Box<str>,
    /// Host identifier; never zero.
    pub id: HostId,
}

/// What is wrong with the health of an SSD: as asynchronous events tell it (NVMe
/// 2.0, figure 147).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HealthWarning {
    /// Its reliability is degraded, its media are read-only, or its backup of
    /// volatile memory has failed.
    Reliability = 0,
    /// Its temperature is beyond a threshold.
    Temperature = 1,
    /// Its spare capacity is below the threshold.
    Spare = 2,
}

/// Something that an asynchronous event is to tell the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The set of namespaces, or what Identify says of one, changed.
    NamespacesChanged,
    /// The discovery log changed.
    DiscoveryChanged,
    /// The health log has a critical warning.
    Health(HealthWarning),
}

impl Event {
    const fn bit(self) -> u32 {
        match self {
            Self::NamespacesChanged => 1,
            Self::DiscoveryChanged => 2,
            Self::Health(warning) => 4 << warning as u32,
        }
    }
}

/// The part of a controller that all its queues see.
#[derive(Debug)]
pub struct ControllerShared {
    cntlid: u16,
    host: HostIdentity,
    epoch: Instant,
    last_heard_ms: AtomicU64,
    /// Silence after which the association ends; 0 for never.
    silence_limit_ms: AtomicU64,
    ready: AtomicBool,
    dead: AtomicBool,
    /// Counts the times that all I/O queues had to end.
    io_epoch: AtomicU32,
    /// I/O queues that have ended, but some of whose commands have not.
    draining: AtomicU32,
    qids: QidSet,
    lingering: AtomicU32,
    events: AtomicU32,
    changed: Mutex<BTreeSet<u32>>,
    errors: Mutex<ErrorLog>,
    aborts: Mutex<Aborts>,
    wakers: Mutex<Vec<(u16, Waker)>>,
}

impl ControllerShared {
    pub(super) fn new(cntlid: u16, host: HostIdentity, now: Instant) -> Self {
        Self {
            cntlid,
            host,
            epoch: now,
            last_heard_ms: AtomicU64::new(0),
            silence_limit_ms: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            io_epoch: AtomicU32::new(0),
            draining: AtomicU32::new(0),
            qids: QidSet::default(),
            lingering: AtomicU32::new(0),
            events: AtomicU32::new(0),
            changed: Mutex::default(),
            errors: Mutex::default(),
            aborts: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// Controller identifier.
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// Queues that are connected now.
    pub fn qids(&self) -> &QidSet {
        &self.qids
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// A command arrived on one of the queues: keep alive by traffic (3.9.2).
    /// Stores only when the millisecond changed, so that a busy controller's
    /// queues do not fight for the cache line.
    pub fn heard(&self, now: Instant) {
        let now_ms = self.millis(now);
        if self.last_heard_ms.load(Ordering::Relaxed) < now_ms {
            self.last_heard_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Sets the silence after which the association ends; zero for never.
    pub fn set_silence_limit(&self, limit: Duration) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.silence_limit_ms.store(limit_ms, Ordering::Relaxed);
    }

    /// When the association ends unless a command arrives before.
    pub fn silence_deadline(&self) -> Option<Instant> {
        let limit_ms = self.silence_limit_ms.load(Ordering::Relaxed);
        let heard_ms = self.last_heard_ms.load(Ordering::Relaxed);
        let deadline_ms = heard_ms.checked_add(limit_ms)?.checked_add(1)?;
        if limit_ms == 0 {
            return None;
        }
        self.epoch.checked_add(Duration::from_millis(deadline_ms))
    }

    /// Whether the host has been silent for too long.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silence_deadline()
            .is_some_and(|deadline| now >= deadline)
    }

    /// Whether CSTS.RDY is set and no shutdown was asked for.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The admin queue says whether commands may run.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether the association is over. Each of its queues is to be closed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Ends the association and wakes every queue of it, so that its owner asks
    /// it with `tick` and closes it.
    pub fn kill(&self) {
        self.set_ready(false);
        if !self.dead.swap(true, Ordering::AcqRel) {
            self.end_io_queues();
        }
    }

    /// Ends all I/O queues that are connected now, as a controller reset and a
    /// shutdown do, and wakes every queue.
    pub fn end_io_queues(&self) {
        self.io_epoch.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Another number after [`Self::end_io_queues`]: an I/O queue that connected
    /// before is to be closed.
    pub fn io_epoch(&self) -> u32 {
        self.io_epoch.load(Ordering::Acquire)
    }

    /// An I/O queue has ended; its commands have not until
    /// [`Self::end_draining`].
    pub fn begin_draining(&self) {
        self.draining.fetch_add(1, Ordering::AcqRel);
    }

    /// All commands of an I/O queue that had ended have ended too.
    pub fn end_draining(&self) {
        self.draining.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether an I/O queue is connected, or has commands that have not ended.
    pub fn has_io(&self) -> bool {
        let queues = self.qids.len() - u32::from(self.qids.contains(0));
        queues > 0 || self.draining.load(Ordering::Acquire) > 0
    }

    /// Makes a queue one of this controller's; `false` when its identifier is in
    /// use. `waker` is woken, from any thread, when the queue has to be asked.
    pub fn attach(&self, qid: u16, waker: Waker) -> bool {
        let claimed = self.qids.claim(qid);
        if claimed {
            lock(&self.wakers).push((qid, waker));
        }
        claimed
    }

    /// The queue is gone; its identifier is free again.
    pub fn detach(&self, qid: u16) {
        lock(&self.wakers).retain(|(of, _)| *of != qid);
        self.qids.release(qid);
        if self.aborts().queue_gone(qid) {
            self.wake(0);
        }
    }

    /// A queue ends with commands that an SSD still has. Drop it when those have
    /// ended.
    pub fn linger(self: &Arc<Self>) -> Lingering {
        self.lingering.fetch_add(1, Ordering::AcqRel);
        Lingering(Arc::clone(self))
    }

    /// Whether nothing of it is under way any more: each of its queues is gone,
    /// and no SSD has a command of them.
    pub fn has_left(&self) -> bool {
        self.qids.is_empty() && !self.lingers()
    }

    /// Whether an SSD still has commands of queues that have ended.
    pub fn lingers(&self) -> bool {
        self.lingering.load(Ordering::Acquire) > 0
    }

    /// Something happened that the host may want to hear of.
    pub fn raise(&self, event: Event) {
        self.events.fetch_or(event.bit(), Ordering::AcqRel);
        self.wake(0);
    }

    /// Wakes the owner of a queue.
    pub fn wake(&self, qid: u16) {
        for (of, waker) in lock(&self.wakers).iter() {
            if *of == qid {
                waker.wake_by_ref();
            }
        }
    }

    /// The namespaces with these identifiers changed.
    pub fn raise_namespaces_changed(&self, nsids: &[u32]) {
        lock(&self.changed).extend(nsids);
        self.raise(Event::NamespacesChanged);
    }

    /// Whether an event waits to be reported.
    pub fn has_event(&self, event: Event) -> bool {
        self.events.load(Ordering::Acquire) & event.bit() != 0
    }

    /// Takes an event; `false` when there was none.
    pub fn take_event(&self, event: Event) -> bool {
        self.events.fetch_and(!event.bit(), Ordering::AcqRel) & event.bit() != 0
    }

    /// Identifiers of namespaces that changed, ascending, without forgetting them.
    pub fn changed_namespaces(&self) -> Vec<u32> {
        lock(&self.changed).iter().copied().collect()
    }

    /// Forgets which namespaces changed.
    pub fn clear_changed_namespaces(&self) {
        lock(&self.changed).clear();
    }

    /// The error log of the controller.
    pub fn errors(&self) -> MutexGuard<'_, ErrorLog> {
        lock(&self.errors)
    }

    /// The outstanding Abort commands.
    pub fn aborts(&self) -> MutexGuard<'_, Aborts> {
        lock(&self.aborts)
    }

    fn wake_all(&self) {
        for (_, waker) in lock(&self.wakers).iter() {
            waker.wake_by_ref();
        }
    }
}

/// See [`ControllerShared::linger`].
#[derive(Debug)]
#[must_use]
pub struct Lingering(Arc<ControllerShared>);

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(now: Instant) -> ControllerShared {
        let host = HostIdentity {
            nqn: "nqn.2026-01.com.example:host".into(),
            id: HostId([1; 16]),
        };
        ControllerShared::new(1, host, now)
    }

    #[test]
    fn silence_is_measured_from_the_last_command_heard() {
        let t0 = Instant::now();
        let shared = controller(t0);
        assert_eq!(shared.silence_deadline(), None);
        shared.set_silence_limit(Duration::from_secs(5));
        assert!(!shared.is_silent(t0 + Duration::from_secs(5)));
        assert!(shared.is_silent(t0 + Duration::from_millis(5001)));
        shared.heard(t0 + Duration::from_secs(3));
        assert!(!shared.is_silent(t0 + Duration::from_secs(8)));
        assert!(shared.is_silent(t0 + Duration::from_millis(8001)));
    }

    #[test]
    fn an_older_time_never_moves_the_clock_back() {
        let t0 = Instant::now();
        let shared = controller(t0);
        shared.set_silence_limit(Duration::from_secs(1));
        shared.heard(t0 + Duration::from_secs(9));
        shared.heard(t0);
        assert!(!shared.is_silent(t0 + Duration::from_secs(10)));
    }

    #[test]
    fn limits_beyond_all_time_mean_never() {
        let t0 = Instant::now();
        let shared = controller(t0);
        shared.set_silence_limit(Duration::MAX);
        assert!(!shared.is_silent(t0 + Duration::from_secs(1 << 30)));
    }
}
