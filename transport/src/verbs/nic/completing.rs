//! What comes back.

use std::time::Instant;

use super::VerbsNic;
use crate::nic::{Completion, Completions, QpNumber, WcOp, WcStatus};
use crate::verbs::ffi::{Cq, Verbs, Wc, status};
use crate::verbs::flusher::Flushing;
use crate::verbs::tag::untag;

/// What a status is in the seam's words. Those without a word of their own, such
/// as a fatal error of the adapter, are told as an operation that could not be
/// carried out; the log has the number.
pub(super) fn status_of(raw: u32) -> WcStatus {
    match raw {
        status::SUCCESS => WcStatus::Success,
        status::LOCAL_LENGTH => WcStatus::LocalLength,
        status::LOCAL_PROTECTION | status::LOCAL_ACCESS | status::BIND => WcStatus::LocalProtection,
        status::FLUSHED => WcStatus::Flushed,
        status::REMOTE_INVALID | status::REMOTE_INVALID_READ => WcStatus::RemoteInvalidRequest,
        status::REMOTE_ACCESS => WcStatus::RemoteAccess,
        status::RETRY | status::RESPONSE_TIMEOUT => WcStatus::RetryExceeded,
        status::RNR_RETRY => WcStatus::RnrRetryExceeded,
        _ => WcStatus::RemoteOperation,
    }
}

impl<V: Verbs> VerbsNic<V> {
    /// Appends completions until there is no room or there are no more; `true`
    /// when the adapter had none left.
    pub(super) fn poll_into(&mut self, now: Instant, out: &mut Completions) -> bool {
        // Sends first: what they give back is what receives ask for.
        let (mut sends_short, mut short) = (false, false);
        while !out.is_full() {
            if let Some(completion) = self.made_up.pop_front() {
                out.push(completion);
            } else if let Some(wc) = self.wcs.pop() {
                out.extend(self.complete(wc, now));
            } else if short {
                return true;
            } else {
                let cq = match sends_short {
                    false => &self.cqs.sends,
                    true => &self.cqs.receives,
                };
                if cq.poll(&mut self.wcs).is_err() {
                    self.set_gone();
                    return true;
                }
                let ended = self.wcs.is_short();
                short = sends_short && ended;
                sends_short |= ended;
            }
        }
        false
    }

    /// What a completion is for the consumer, if anything.
    fn complete(&mut self, wc: Wc, now: Instant) -> Option<Completion> {
        let Some((mut op, wr_id)) = untag(wc.wr_id) else {
            self.counters.unknown += 1;
            return None;
        };
        let status = status_of(wc.status);
        let success = status == WcStatus::Success;
        if !success && status != WcStatus::Flushed {
            tracing::debug!(adapter = %self.adapter.shared.name, qp = wc.qp, ?op, raw = wc.status, vendor = wc.vendor_error, ?status, "work failed");
        }
        match op {
            // The buffer is the consumer's again, whatever became of the queue
            // pair: it was the shared queue's, not the pair's.
            WcOp::Recv | WcOp::RecvWrite => {
                self.srq_posted = self.srq_posted.saturating_sub(1);
                if let Some(pair) = self.pairs.get_mut(&wc.qp) {
                    pair.traffic.received(status, wc.len);
                }
                if wc.wrote {
                    op = WcOp::RecvWrite;
                }
            }
            WcOp::Flush => return self.complete_flush(&wc, wr_id, now),
            WcOp::Send | WcOp::Read | WcOp::Write => {
                // Of one that failed also those come that were not counted.
                self.reads = self.reads.saturating_sub(usize::from(op == WcOp::Read));
                let Some(pair) = self.pairs.get_mut(&wc.qp) else {
                    self.counters.unknown += 1;
                    return None;
                };
                let Some(keys) = pair.sq.complete(wc.wr_id, success) else {
                    self.counters.unknown += 1;
                    return None;
                };
                pair.traffic.completed(status);
                let ending = pair.is_ending();
                if status == WcStatus::LocalProtection {
                    for key in keys {
                        self.suspect(key);
                    }
                }
                if ending {
                    self.counters.dropped += 1;
                    return None;
                }
            }
        }
        Some(Completion {
            wr_id,
            qp: QpNumber(wc.qp),
            status,
            op,
            len: if success && matches!(op, WcOp::Recv | WcOp::RecvWrite) {
                wc.len
            } else {
                0
            },
            invalidated: wc.invalidated,
            imm: wc.imm,
        })
    }

    fn complete_flush(&mut self, wc: &Wc, wr_id: u64, now: Instant) -> Option<Completion> {
        let Some(flushing) = self.flusher.complete(wr_id) else {
            self.counters.unknown += 1;
            return None;
        };
        if wc.status != status::SUCCESS {
            self.flusher.broke(now);
        }
        // The memory did not answer the READ: it is the one at fault.
        if matches!(
            wc.status,
            status::REMOTE_ACCESS | status::REMOTE_OPERATION | status::LOCAL_PROTECTION
        ) {
            self.suspect(flushing.lkey);
        }
        Some(flushed(&flushing, QpNumber(wc.qp), status_of(wc.status)))
    }

    /// Flushes that will never come back are told to have failed.
    pub(super) fn give_flushes_up(&mut self, now: Instant) {
        let qp = QpNumber(self.flusher.number().unwrap_or_default());
        while let Some(flushing) = self.flusher.given_up(now) {
            self.made_up
                .push_back(flushed(&flushing, qp, WcStatus::Flushed));
        }
    }
}

fn flushed(flushing: &Flushing, qp: QpNumber, status: WcStatus) -> Completion {
    Completion {
        wr_id: flushing.wr_id,
        qp,
        status,
        op: WcOp::Flush,
        len: 0,
        invalidated: None,
        imm: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_meaning() {
        let cases = [
            (0, WcStatus::Success),
            (1, WcStatus::LocalLength),
            (4, WcStatus::LocalProtection),
            (5, WcStatus::Flushed),
            (8, WcStatus::LocalProtection),
            (9, WcStatus::RemoteInvalidRequest),
            (10, WcStatus::RemoteAccess),
            (11, WcStatus::RemoteOperation),
            (12, WcStatus::RetryExceeded),
            (13, WcStatus::RnrRetryExceeded),
            (19, WcStatus::RemoteOperation),
            (21, WcStatus::RemoteOperation),
            (99, WcStatus::RemoteOperation),
        ];
        for (raw, expected) in cases {
            assert_eq!(status_of(raw), expected, "{raw}");
        }
    }
}
