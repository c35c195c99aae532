//! What a connection has to send, and the room in its queue pair's send queue.
//!
//! A work request that makes no completion of its own gives its place back with
//! the next one that does: completions of a send queue come in order
//! (InfiniBand Architecture, volume 1, 10.8.3). So work is only posted up to one
//! that makes a completion; otherwise a full queue would never say that it has
//! room again.

use std::collections::VecDeque;

use sidelane_transport::nic::SendWr;

/// Work requests of one connection, in order.
#[derive(Debug)]
pub struct Outbox {
    waiting: Vec<SendWr>,
    /// Places in the send queue that are free.
    free: usize,
    /// For each signaled work request that was posted, the places it gives back.
    posted: VecDeque<usize>,
}

impl Outbox {
    /// For a send queue of `depth` work requests, with room for `waiting` without
    /// allocating.
    pub fn new(depth: usize, waiting: usize) -> Self {
        Self {
            waiting: Vec::with_capacity(waiting),
            free: depth,
            posted: VecDeque::with_capacity(depth),
        }
    }

    /// Appends a work request.
    pub fn push(&mut self, wr: SendWr) {
        self.waiting.push(wr);
    }

    /// Whether nothing waits to be posted.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Signaled work requests that have not been posted.
    pub fn unposted(&self) -> usize {
        self.waiting.iter().filter(|wr| wr.signaled).count()
    }

    /// Forgets what has not been posted.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// What fits into the send queue now, up to a signaled work request.
    pub fn postable(&self) -> &[SendWr] {
        let fit = self.waiting.len().min(self.free);
        let fitting = self.waiting.get(..fit).unwrap_or_default();
        let len = fitting.iter().rposition(|wr| wr.signaled);
        fitting
            .get(..len.map_or(0, |at| at + 1))
            .unwrap_or_default()
    }

    /// The first `count` work requests have been posted.
    pub fn sent(&mut self, count: usize) {
        let mut places = 0;
        for wr in self.waiting.drain(..count) {
            places += 1;
            if wr.signaled {
                self.posted.push_back(places);
                places = 0;
            }
        }
        self.free -= count;
    }

    /// A signaled work request came back.
    pub fn completed(&mut self) {
        self.free += self.posted.pop_front().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrayvec::ArrayVec;
    use proptest::prelude::*;
    use sidelane_transport::nic::SendOp;

    fn wr(signaled: bool) -> SendWr {
        SendWr {
            wr_id: 0,
            op: SendOp::Send,
            sges: ArrayVec::new(),
            signaled,
            solicited: false,
        }
    }

    #[test]
    fn a_queue_is_never_filled_with_work_that_gives_no_place_back() {
        let mut outbox = Outbox::new(3, 8);
        for signaled in [false, true, false, false, true] {
            outbox.push(wr(signaled));
        }
        assert_eq!(outbox.postable().len(), 2);
        outbox.sent(2);
        assert_eq!(
            outbox.postable().len(),
            0,
            "three are wanted, one place is free"
        );
        outbox.completed();
        assert_eq!(outbox.postable().len(), 3);
    }

    proptest! {
        #[test]
        fn all_work_is_posted_in_the_end_and_the_queue_never_overflows(
            groups in proptest::collection::vec(1usize..=17, 1..100),
            depth in 17usize..64,
        ) {
            let mut outbox = Outbox::new(depth, 0);
            for group in &groups {
                for at in 1..=*group {
                    outbox.push(wr(at == *group));
                }
            }
            let (mut queued, mut signaled) = (VecDeque::new(), 0);
            while !outbox.is_empty() || !queued.is_empty() {
                let fits: Vec<_> = outbox.postable().iter().map(|wr| wr.signaled).collect();
                outbox.sent(fits.len());
                queued.extend(fits);
                prop_assert!(queued.len() <= depth);
                prop_assert!(!queued.is_empty(), "stuck");
                while queued.pop_front() == Some(false) {}
                signaled += 1;
                outbox.completed();
            }
            prop_assert_eq!(signaled, groups.len());
        }
    }
}
