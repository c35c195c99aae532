//! The adapter's part in it: copies and flushes, whether it does them in the
//! call or later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sidelane_p2p::Region;
use sidelane_transport::nic::{
    Completions, Flush, MemoryRegion, Nic, NicError, NicEvent, Sge, WcOp, WcStatus,
};

use crate::reactor::POOL_ACCESS;

/// Marks the work of a case in what comes back; below it are slots.
const EPOCH_SHIFT: u32 = 16;

/// The slot's place in the number of a flush.
const FLUSH: u64 = (1 << EPOCH_SHIFT) - 1;

/// Why a case came to no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It cannot be tested here: the reason.
    NotTestable(String),
    /// Something that should work did not.
    Failed(String),
}

impl Trouble {
    /// Something that should work did not.
    pub(super) fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

/// What the adapter has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The copy for this slot.
    Copy(usize),
    /// The oldest flush.
    Flush,
}

/// An adapter.
pub(super) struct Wire {
    nic: Box<dyn Nic + Send>,
    /// Done in the call already.
    done: VecDeque<End>,
    outstanding: usize,
    /// Counts cases: what comes late belongs to none.
    epoch: u64,
}

impl Wire {
    pub(super) fn new(nic: Box<dyn Nic + Send>) -> Self {
        Self {
            nic,
            done: VecDeque::new(),
            outstanding: 0,
            epoch: 0,
        }
    }

    /// Registers memory as the target registers its pools.
    pub(super) fn register(&mut self, region: &Region) -> Result<MemoryRegion, Trouble> {
        self.nic
            .register(region, POOL_ACCESS)
            .map_err(|error| Trouble::Failed(error.to_string()))
    }

    pub(super) fn deregister(&mut self, memory: &MemoryRegion) {
        self.nic.deregister(memory);
    }

    /// Has the adapter copy; `false` when it takes no more for now.
    pub(super) fn copy(&mut self, from: Sge, to: Sge, slot: usize) -> Result<bool, Trouble> {
        let id = self.id(slot as u64);
        let posted = self.nic.post_copy(from, to, id);
        self.posted("a copy", posted, End::Copy(slot))
    }

    /// Has the adapter make visible what it has placed, up to these bytes;
    /// `false` when it takes no more for now.
    pub(super) fn flush(&mut self, placed: Sge) -> Result<bool, Trouble> {
        let last = Sge {
            addr: placed.addr + u64::from(placed.len) - 1,
            len: 1,
            ..placed
        };
        let id = self.id(FLUSH);
        let posted = self.nic.post_flush(last, id);
        self.posted("a flush", posted, End::Flush)
    }

    fn id(&self, slot: u64) -> u64 {
        self.epoch << EPOCH_SHIFT | slot
    }

    fn posted(
        &mut self,
        what: &str,
        posted: Result<Flush, NicError>,
        end: End,
    ) -> Result<bool, Trouble> {
        match posted {
            Ok(Flush::Done) => self.done.push_back(end),
            Ok(Flush::Pending) => self.outstanding += 1,
            Err(NicError::Full) if self.outstanding > 0 => return Ok(false),
            Err(NicError::Refused(reason)) => return Err(Trouble::NotTestable(reason)),
            Err(error) => {
                let name = &self.nic.caps().name;
                return Err(Trouble::failed(&format!("{name} refused {what}"), error));
            }
        }
        Ok(true)
    }

    /// What was done since the last time, in order.
    pub(super) fn poll(&mut self, ends: &mut Vec<End>) -> Result<(), Trouble> {
        ends.extend(self.done.drain(..));
        let mut completions = Completions::new();
        self.nic.poll(Instant::now(), &mut completions);
        let mut outcome = Ok(());
        let name = self.nic.caps().name.clone();
        for completion in completions {
            if completion.op != WcOp::Flush || completion.wr_id >> EPOCH_SHIFT != self.epoch {
                continue;
            }
            self.outstanding = self.outstanding.saturating_sub(1);
            if completion.status != WcStatus::Success {
                let what = format!("{name} could not read its own memory");
                outcome = Err(Trouble::failed(&what, format!("{:?}", completion.status)));
                continue;
            }
            ends.push(match completion.wr_id & FLUSH {
                FLUSH => End::Flush,
                slot => End::Copy(slot as usize),
            });
        }
        while let Some(event) = self.nic.event() {
            let reason = match event {
                NicEvent::Gone => format!("{name} is gone"),
                NicEvent::Revoked(_) => {
                    format!("{name} lost its way to memory that was taken away")
                }
                // No queue pair is the self-test's, no buffer is posted.
                NicEvent::Opened { .. }
                | NicEvent::Failed(_)
                | NicEvent::Destroyed(_)
                | NicEvent::SrqLimit => continue,
            };
            outcome = Err(Trouble::Failed(reason));
        }
        outcome
    }

    /// Waits for what is outstanding, good or bad, so that memory can go. What
    /// comes after that is nobody's.
    pub(super) fn end_case(&mut self, limit: Duration) {
        let since = Instant::now();
        while self.outstanding > 0 && since.elapsed() < limit {
            // Each failure is told, and counted down; the case has its reason.
            let _ = self.poll(&mut Vec::new());
            std::thread::yield_now();
        }
        self.done.clear();
        self.outstanding = 0;
        self.epoch += 1;
    }
}
