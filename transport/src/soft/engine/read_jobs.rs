//! READs of the peer that are being answered: the responder's resources.
//!
//! InfiniBand Architecture, volume 1, 9.7.4 (as many as were agreed on) and
//! 9.7.5.1 (repeated requests). They are answered in the order of their
//! numbers, whichever order they came in; so one that a network delivers again
//! long after it was answered takes nothing from those that are still waited for.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::soft::psn::Psn;
use crate::soft::wire::Reth;

/// A READ that is being answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadJob {
    /// The number of the next response.
    pub(super) psn: Psn,
    /// Where its bytes are.
    pub(super) addr: u64,
    /// The key they were asked for by.
    pub(super) rkey: u32,
    /// Bytes still to be sent.
    pub(super) left: u32,
    /// Some were sent already.
    pub(super) started: bool,
    /// What follows is left to another: there is no last response.
    pub(super) ended_early: bool,
    /// The peer had asked for it before.
    pub(super) repeated: bool,
}

impl ReadJob {
    fn new(psn: Psn, reth: Reth, repeated: bool) -> Self {
        let Reth { addr, rkey, len } = reth;
        Self {
            psn,
            addr,
            rkey,
            left: len,
            started: false,
            ended_early: false,
            repeated,
        }
    }

    /// What has number `end` or a later one is not to be sent.
    fn end_before(&mut self, end: Psn, mtu: u32) {
        let room = end.distance(self.psn).saturating_mul(mtu);
        if room < self.left {
            self.left = room;
            self.ended_early = true;
        }
    }
}

/// Packets of a response of `len` bytes; none is a packet too.
pub(super) fn packets(len: u32, mtu: u32) -> u32 {
    len.div_ceil(mtu).max(1)
}

#[derive(Debug)]
pub(super) struct ReadJobs {
    /// By their numbers.
    jobs: VecDeque<ReadJob>,
    limit: usize,
}

impl ReadJobs {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            jobs: VecDeque::with_capacity(limit),
            limit,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.jobs.clear();
    }

    /// The one whose turn it is.
    pub(super) fn front(&self) -> Option<ReadJob> {
        self.jobs.front().copied()
    }

    pub(super) fn pop(&mut self) {
        self.jobs.pop_front();
    }

    /// The first one's next response, with `len` bytes, was sent.
    pub(super) fn sent(&mut self, len: u32) {
        let Some(front) = self.jobs.front_mut() else {
            return;
        };
        if front.left <= len {
            self.jobs.pop_front();
        } else {
            front.psn = front.psn.plus(1);
            front.addr = front.addr.wrapping_add(len.into());
            front.left -= len;
            front.started = true;
        }
    }

    /// Takes a new request; `false` when it is one more than was agreed on.
    pub(super) fn add(&mut self, psn: Psn, reth: Reth) -> bool {
        let fits = self.jobs.len() < self.limit || self.forget_repeated();
        if fits {
            self.jobs.push_back(ReadJob::new(psn, reth, false));
        }
        fits
    }

    /// Takes a request that came before; `false` when there is no place for it.
    pub(super) fn repeat(&mut self, psn: Psn, reth: Reth, mtu: u32) -> bool {
        let end = psn.plus(packets(reth.len, mtu));
        // Whatever of these numbers is still to be sent, this one sends.
        self.jobs
            .retain(|job| job.psn.is_before(psn) || !job.psn.is_before(end));
        let mut at = self.jobs.partition_point(|job| job.psn.is_before(psn));
        if let Some(before) = at.checked_sub(1).and_then(|at| self.jobs.get_mut(at)) {
            before.end_before(psn, mtu);
        }
        if self.jobs.len() >= self.limit {
            if at == 0 || !self.forget_repeated() {
                return false;
            }
            at -= 1;
        }
        self.jobs.insert(at, ReadJob::new(psn, reth, true));
        true
    }

    /// Makes room. Of those that the peer waits for there are never too many, and
    /// they have the latest numbers: if one can go, it is the first.
    fn forget_repeated(&mut self) -> bool {
        let repeated = self.jobs.front().is_some_and(|job| job.repeated);
        if repeated {
            self.jobs.pop_front();
        }
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MTU: u32 = 256;

    fn reth(packets: u32) -> Reth {
        Reth {
            addr: 0,
            rkey: 1,
            len: packets * MTU,
        }
    }

    fn numbers(jobs: &mut ReadJobs) -> Vec<u32> {
        let mut sent = Vec::new();
        while let Some(job) = jobs.front() {
            sent.push(job.psn.get());
            jobs.sent(job.left.min(MTU));
        }
        sent
    }

    #[test]
    fn a_late_copy_of_a_request_takes_nothing_from_those_that_wait() {
        let mut jobs = ReadJobs::new(2);
        assert!(jobs.add(Psn::new(100), reth(2)));
        assert!(jobs.repeat(Psn::new(10), reth(2), MTU));
        // There is room for as many as were agreed on, whatever was repeated.
        assert!(jobs.add(Psn::new(102), reth(1)));
        assert!(!jobs.add(Psn::new(103), reth(1)));
        assert!(!jobs.repeat(Psn::new(11), reth(1), MTU));
        assert_eq!(numbers(&mut jobs), [100, 101, 102]);
    }

    #[test]
    fn who_asks_again_from_the_middle_gets_each_number_once() {
        let mut jobs = ReadJobs::new(4);
        assert!(jobs.add(Psn::new(0xff_fffe), reth(4)));
        assert!(jobs.add(Psn::new(2), reth(3)));
        jobs.sent(MTU);
        assert!(jobs.repeat(Psn::new(0), reth(2), MTU));
        assert!(jobs.repeat(Psn::new(2), reth(3), MTU));
        assert_eq!(numbers(&mut jobs), [0xff_ffff, 0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_agreed_and_no_number_is_sent_twice(
            start: u32, limit in 0usize..5,
            asked in prop::collection::vec((0u32..40, 0u32..9), 0..30),
        ) {
            let mut jobs = ReadJobs::new(limit);
            let mut next = 0;
            for (at, len) in asked {
                let psn = |at| Psn::new(start).plus(at);
                if at + len.max(1) <= next {
                    jobs.repeat(psn(at), reth(len), MTU);
                } else if jobs.add(psn(next), reth(len)) {
                    next += len.max(1);
                }
                prop_assert!(jobs.jobs.len() <= limit);
            }
            let sent = numbers(&mut jobs);
            let at = |n: &u32| Psn::new(*n).distance(Psn::new(start));
            prop_assert!(sent.iter().map(at).is_sorted_by(|a, b| a < b), "{sent:?}");
        }
    }
}
