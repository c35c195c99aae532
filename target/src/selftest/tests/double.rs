//! Adapters that place data as hardware may: later than they say, or not as they
//! should.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use sidelane_p2p::Region;
use sidelane_transport::nic::{
    Access, Completion, Completions, Count, Flush, MemoryRegion, Nic, NicCaps, NicError, NicEvent,
    QpAttrs, QpCaps, QpNumber, RecvWr, RegisterError, SendWr, Sge, Wake, WcOp, WcStatus,
};

/// What an adapter is like. What is not said is as it should be.
#[derive(Clone)]
pub struct Manner {
    /// What it says it has copied into a device's memory is there so many polls
    /// later, or when it is flushed.
    pub late: u32,
    /// Whether a flush places what is late.
    pub flush_helps: bool,
    /// What it reads from a device's memory is what it has itself put there
    /// before, whatever the device has since.
    pub reads_early: bool,
    /// Copies and flushes it takes at a time.
    pub room: usize,
    /// The copy, from 0, that ends with an error.
    pub fails_at: u64,
    /// It has no self-test.
    pub refuses: bool,
    /// Nothing that it takes ever ends.
    pub silent: bool,
    /// Is set with the copy of this number, from 0.
    pub stop: Option<(Arc<AtomicBool>, u64)>,
    /// The most that it ever had at a time.
    pub most: Arc<AtomicU64>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            late: 0,
            flush_helps: true,
            reads_early: false,
            room: usize::MAX,
            fails_at: u64::MAX,
            refuses: false,
            silent: false,
            stop: None,
            most: Arc::default(),
        }
    }
}

/// Data that is on its way.
struct OnItsWay {
    from: Sge,
    to: Sge,
    polls: u32,
}

/// An adapter in front of another one, which does the copying.
pub struct LazyNic {
    inner: Box<dyn Nic + Send>,
    manner: Manner,
    peers: HashSet<u32>,
    on_its_way: VecDeque<OnItsWay>,
    completions: VecDeque<Completion>,
    /// The last source of what was put to an address.
    sources: HashMap<u64, Sge>,
    copies: u64,
}

impl LazyNic {
    pub fn new(inner: Box<dyn Nic + Send>, manner: Manner) -> Self {
        Self {
            inner,
            manner,
            peers: HashSet::new(),
            on_its_way: VecDeque::new(),
            completions: VecDeque::new(),
            sources: HashMap::new(),
            copies: 0,
        }
    }

    fn place(&mut self, which: impl Fn(&OnItsWay) -> bool) {
        // In order, as one adapter's writes to one device are.
        while self.on_its_way.front().is_some_and(&which) {
            let Some(OnItsWay { from, to, .. }) = self.on_its_way.pop_front() else {
                return;
            };
            let done = self.inner.post_copy(from, to, 0);
            assert_eq!(done, Ok(Flush::Done));
        }
    }

    fn complete(&mut self, wr_id: u64, status: WcStatus) -> Result<Flush, NicError> {
        self.completions.push_back(Completion {
            wr_id,
            qp: QpNumber(1),
            status,
            op: WcOp::Flush,
            len: 0,
            invalidated: None,
            imm: None,
        });
        let most = &self.manner.most;
        most.fetch_max(self.completions.len() as u64, Ordering::Relaxed);
        Ok(Flush::Pending)
    }
}

impl Nic for LazyNic {
    fn caps(&self) -> &NicCaps {
        self.inner.caps()
    }

    fn register(&mut self, region: &Region, access: Access) -> Result<MemoryRegion, RegisterError> {
        let memory = self.inner.register(region, access)?;
        if region.is_peer() {
            self.peers.insert(memory.lkey);
        }
        Ok(memory)
    }

    fn deregister(&mut self, memory: &MemoryRegion) {
        self.place(|_| true);
        self.inner.deregister(memory);
    }

    fn post_flush(&mut self, last: Sge, wr_id: u64) -> Result<Flush, NicError> {
        assert_eq!(last.len, 1);
        if self.completions.len() >= self.manner.room {
            return Err(NicError::Full);
        }
        if self.manner.flush_helps {
            self.place(|_| true);
        }
        self.complete(wr_id, WcStatus::Success)
    }

    fn post_copy(&mut self, mut from: Sge, to: Sge, wr_id: u64) -> Result<Flush, NicError> {
        if self.manner.refuses {
            return Err(NicError::Refused(
                "no self-test, says the double".to_owned(),
            ));
        }
        if self.completions.len() >= self.manner.room {
            return Err(NicError::Full);
        }
        if let Some((stop, at)) = &self.manner.stop
            && self.copies == *at
        {
            stop.store(true, Ordering::Relaxed);
        }
        self.copies += 1;
        if self.copies - 1 == self.manner.fails_at {
            return self.complete(wr_id, WcStatus::RemoteAccess);
        }
        let polls = if self.peers.contains(&to.lkey) {
            self.sources.insert(to.addr, from);
            self.manner.late
        } else {
            if let Some(source) = self.sources.get(&from.addr)
                && self.manner.reads_early
                && self.peers.contains(&from.lkey)
            {
                from = *source;
            }
            // To host memory: as the CPU sees a completion, it sees the data.
            self.place(|_| true);
            0
        };
        self.on_its_way.push_back(OnItsWay { from, to, polls });
        self.place(|data| data.polls == 0);
        self.complete(wr_id, WcStatus::Success)
    }

    fn poll(&mut self, now: Instant, out: &mut Completions) {
        self.inner.poll(now, out);
        for data in &mut self.on_its_way {
            data.polls = data.polls.saturating_sub(1);
        }
        self.place(|data| data.polls == 0);
        while !self.manner.silent
            && !out.is_full()
            && let Some(completion) = self.completions.pop_front()
        {
            out.push(completion);
        }
    }

    fn event(&mut self) -> Option<NicEvent> {
        self.inner.event()
    }

    fn arm(&mut self, now: Instant, wake: Wake) -> bool {
        self.completions.is_empty() && self.inner.arm(now, wake)
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.inner.event_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn open_qp(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs, now: Instant) {
        self.inner.open_qp(ticket, caps, attrs, now);
    }

    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        self.inner.error_qp(qp)
    }

    fn destroy_qp(&mut self, qp: QpNumber) {
        self.inner.destroy_qp(qp);
    }

    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        self.inner.post_recv(wrs)
    }

    fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError> {
        self.inner.arm_srq_limit(limit)
    }

    fn counts(&self) -> Vec<Count> {
        self.inner.counts()
    }

    fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>> {
        self.inner.qp_counts(qp)
    }

    fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        self.inner.post_send(qp, wrs)
    }
}
