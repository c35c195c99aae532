//! How often refusals are logged: who asks again and again must not fill the log.

use std::time::{Duration, Instant};

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts what was not said.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    next: Option<Instant>,
    unsaid: u64,
}

impl Refusals {
    /// Whether this one may be logged, and how many were not since the last.
    pub(super) fn may_say(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.unsaid += 1;
            return None;
        }
        self.next = Some(now + INTERVAL);
        Some(std::mem::take(&mut self.unsaid))
    }
}
