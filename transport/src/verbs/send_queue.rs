//! What is outstanding in a send queue, in the order of posting, which is the
//! order of completion (InfiniBand Architecture, volume 1, 10.8.3). A work
//! request that was not signaled is done when a later one is.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::ffi::SEND_SGES;

/// Local keys of a work request; 0 where there is none.
pub(super) type Keys = [u32; SEND_SGES];

#[derive(Debug)]
struct Posted {
    wr_id: u64,
    keys: Keys,
    signaled: bool,
}

/// Work requests outstanding. Never grows past what it was made for.
#[derive(Debug)]
pub(super) struct SendQueue {
    posted: VecDeque<Posted>,
    limit: usize,
}

impl SendQueue {
    pub fn new(limit: u32) -> Self {
        let limit = limit as usize;
        Self {
            posted: VecDeque::with_capacity(limit),
            limit,
        }
    }

    /// Work requests that may be posted now.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.posted.len())
    }

    /// Whether nothing is outstanding.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.posted.is_empty()
    }

    pub fn push(&mut self, wr_id: u64, keys: Keys, signaled: bool) {
        self.posted.push_back(Posted {
            wr_id,
            keys,
            signaled,
        });
    }

    /// Takes back the last `count`, which were not posted after all.
    pub fn unpush(&mut self, count: usize) {
        let left = self.posted.len().saturating_sub(count);
        self.posted.truncate(left);
    }

    /// A completion came: retires what it stands for, and says which keys it
    /// named. `None` when it belongs to nothing outstanding.
    pub fn complete(&mut self, wr_id: u64, success: bool) -> Option<Keys> {
        // Failure completes any work request, success only signaled ones; so the
        // first that fits is near the front.
        let is = |posted: &Posted| posted.wr_id == wr_id && (posted.signaled || !success);
        let at = self.posted.iter().position(is)?;
        let keys = self.posted.get(at)?.keys;
        self.posted.drain(..=at);
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_signaled_completion_retires_all_before_it() {
        let mut queue = SendQueue::new(4);
        for (wr_id, signaled) in [(1, false), (2, false), (3, true), (4, true)] {
            queue.push(wr_id, [wr_id as u32; SEND_SGES], signaled);
        }
        assert_eq!(queue.room(), 0);
        assert_eq!(queue.complete(3, true), Some([3; SEND_SGES]));
        assert_eq!(queue.room(), 3);
        assert_eq!(queue.complete(3, true), None);
        assert_eq!(queue.complete(4, true), Some([4; SEND_SGES]));
        assert!(queue.is_empty());
    }

    #[test]
    fn failure_names_one_that_was_not_signaled() {
        let mut queue = SendQueue::new(4);
        queue.push(1, [7; SEND_SGES], false);
        queue.push(2, [8; SEND_SGES], true);
        assert_eq!(queue.complete(1, true), None, "success is not told of it");
        assert_eq!(queue.complete(1, false), Some([7; SEND_SGES]));
        assert_eq!(queue.complete(2, false), Some([8; SEND_SGES]));
    }
}
