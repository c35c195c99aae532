//! The shared receive queue (InfiniBand Architecture, volume 1, 10.2.9).
//!
//! A buffer counts against the queue's limit from the time it is posted until
//! its completion has been polled. So the completions of receives are bounded
//! by the same number, and a buffer taken back always finds room.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::nic::RecvWr;

#[derive(Debug)]
pub(super) struct Srq {
    posted: VecDeque<RecvWr>,
    /// Taken by a queue pair, and not yet polled or given back.
    taken: usize,
    limit: usize,
    /// Fewer than this are to be told of, 0 for never.
    watermark: usize,
    below: bool,
}

impl Srq {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            posted: VecDeque::with_capacity(limit),
            taken: 0,
            limit,
            watermark: 0,
            below: false,
        }
    }

    /// Whether the whole list fits.
    pub(super) fn has_room(&self, count: usize) -> bool {
        self.posted.len() + self.taken + count <= self.limit
    }

    pub(super) fn post(&mut self, wr: RecvWr) {
        debug_assert!(self.has_room(1));
        self.posted.push_back(wr);
    }

    pub(super) fn take(&mut self) -> Option<RecvWr> {
        let wr = self.posted.pop_front()?;
        self.taken += 1;
        self.watch();
        Some(wr)
    }

    /// Asks to be told when fewer than `watermark` are left (10.2.9.1). `false`
    /// when the queue never holds as many.
    pub(super) fn arm_limit(&mut self, watermark: usize) -> bool {
        if watermark > self.limit {
            return false;
        }
        self.watermark = watermark;
        self.below = false;
        self.watch();
        true
    }

    fn watch(&mut self) {
        if self.posted.len() < self.watermark {
            self.watermark = 0;
            self.below = true;
        }
    }

    /// Whether fewer are left than was asked for; told once.
    pub(super) fn take_limit_event(&mut self) -> bool {
        std::mem::take(&mut self.below)
    }

    pub(super) fn has_limit_event(&self) -> bool {
        self.below
    }

    /// The completion of one was polled.
    pub(super) fn polled(&mut self) {
        debug_assert!(self.taken > 0);
        self.taken = self.taken.saturating_sub(1);
    }

    /// A buffer comes back unused: the next one to be taken.
    pub(super) fn give_back(&mut self, wr: RecvWr) {
        self.polled();
        self.posted.push_front(wr);
    }
}
