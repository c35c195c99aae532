//! One side's half of a connection in a story: what it posted, and what came of it.

use std::ops::Range;

use super::super::super::pair::Who;
use super::Theme;
use crate::nic::{Completion, QpNumber, SendOp, WcStatus};

pub(super) struct Job {
    pub(super) op: SendOp,
    pub(super) signaled: bool,
    /// What it moves.
    pub(super) bytes: Vec<u8>,
    /// Where to, unless to a receive buffer.
    pub(super) place: Option<(Who, Vec<Range<usize>>)>,
}

impl Job {
    pub(super) fn takes_buffer(&self) -> bool {
        !matches!(self.op, SendOp::Write(_) | SendOp::Read(_))
    }
}

/// One side's half of a connection.
pub(super) struct End {
    pub(super) qp: QpNumber,
    pub(super) jobs: Vec<Job>,
    pub(super) done: Vec<Completion>,
    /// Of the peer's jobs, those before this one that take a buffer have come.
    pub(super) heard: usize,
    pub(super) aborted: usize,
    pub(super) destroyed: bool,
    /// Brought to error by this side's owner.
    pub(super) ended: bool,
}

impl End {
    pub(super) fn new(qp: QpNumber) -> Self {
        Self {
            qp,
            jobs: Vec::new(),
            done: Vec::new(),
            heard: 0,
            aborted: 0,
            destroyed: false,
            ended: false,
        }
    }

    /// How each work request ended, where that is known: in order and once.
    pub(super) fn fate(&self) -> Vec<Option<WcStatus>> {
        let mut done = self.done.iter().peekable();
        let fate = self.jobs.iter().enumerate().map(|(i, job)| {
            match done.next_if(|done| done.wr_id == i as u64) {
                Some(done) => Some(done.status),
                None if self.destroyed => None,
                None => {
                    assert!(!job.signaled, "{i} of {:?} did not end", self.qp);
                    Some(WcStatus::Success)
                }
            }
        });
        let fate = fate.collect();
        assert_eq!(done.next(), None, "twice, or out of order");
        fate
    }

    pub(super) fn judge(&self, fate: &[Option<WcStatus>], theme: &Theme, rnr_retry: u8) {
        use WcStatus::{Flushed, Success};
        let known: Vec<_> = fate.iter().copied().flatten().collect();
        let mut failed: Vec<_> = known
            .iter()
            .skip_while(|status| **status == Success)
            .collect();
        assert!(self.aborted <= 1);
        // The one at fault comes first, unless it is one that a READ before it,
        // whose responses are not all here, does not hold back from being told.
        let fault = failed.iter().position(|status| **status != Flushed);
        let first = failed.get(fault.unwrap_or(0)).copied();
        fault.map(|at| failed.remove(at));
        assert!(failed.iter().all(|status| **status == Flushed), "{known:?}");
        if fault.is_some_and(|at| at > 0) {
            let local = [WcStatus::RetryExceeded, WcStatus::LocalProtection];
            assert!(
                first.is_some_and(|first| !local.contains(first)),
                "{known:?}"
            );
        }
        let Some(first) = first.filter(|_| theme.checked) else {
            return;
        };
        assert!(!theme.survives, "{known:?}");
        let allowed = match first {
            WcStatus::RetryExceeded => true,
            WcStatus::RnrRetryExceeded => rnr_retry < 7,
            // A peer's wrong key ends both sides.
            WcStatus::RemoteAccess | WcStatus::LocalProtection => theme.keys,
            WcStatus::Flushed => self.ended || theme.keys,
            _ => false,
        };
        assert!(allowed, "{known:?}");
    }
}
