//! Abort commands of a controller that wait for the commands that they name
//! (NVMe 2.0, 5.1).
//!
//! The command to abort may be on a queue that another reactor owns. So the
//! admin queue puts an order here and wakes that queue, which carries it out,
//! and the end of the command wakes the admin queue.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

/// Abort commands that may be outstanding; Identify says one less (ACL).
pub const ABORT_LIMIT: usize = 4;

/// How long an Abort waits for the end of its command. The command may still end
/// as aborted afterwards.
pub const ABORT_PATIENCE: Duration = Duration::from_secs(1);

/// More Abort commands are outstanding than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more Abort commands are outstanding than the limit allows")]
pub struct TooManyAborts;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The queue has not seen it.
    Wanted,
    /// The queue does what it can.
    Taken,
    /// The Abort can be answered.
    Ended { aborted: bool },
}

#[derive(Debug, Clone, Copy)]
struct Order {
    /// Identifier of the Abort command.
    by: u16,
    /// The queue of the command to abort, and its identifier there.
    sqid: u16,
    cid: u16,
    until: Instant,
    stage: Stage,
}

/// The outstanding Abort commands of one controller.
#[derive(Debug, Default)]
pub struct Aborts(ArrayVec<Order, ABORT_LIMIT>);

impl Aborts {
    /// Takes Abort command `by`, for command `cid` of queue `sqid`.
    ///
    /// # Errors
    /// When as many are outstanding as may be.
    pub fn add(&mut self, by: u16, sqid: u16, cid: u16, now: Instant) -> Result<(), TooManyAborts> {
        let order = Order {
            by,
            sqid,
            cid,
            until: now + ABORT_PATIENCE,
            stage: Stage::Wanted,
        };
        self.0.try_push(order).map_err(|_| TooManyAborts)
    }

    /// The next command of a queue that is to be given up.
    pub fn take(&mut self, sqid: u16) -> Option<u16> {
        let mut wanted = self.0.iter_mut();
        let order = wanted.find(|order| order.sqid == sqid && order.stage == Stage::Wanted)?;
        order.stage = Stage::Taken;
        Some(order.cid)
    }

    /// A command has ended, or cannot be given up; `true` when an Abort waited
    /// for that.
    pub fn ended(&mut self, sqid: u16, cid: u16, aborted: bool) -> bool {
        self.end(aborted, |order| order.sqid == sqid && order.cid == cid)
    }

    /// A queue is gone with all its commands; `true` when an Abort waited.
    pub fn queue_gone(&mut self, sqid: u16) -> bool {
        self.end(false, |order| order.sqid == sqid)
    }

    /// Abort commands that have waited for long enough wait no longer.
    pub fn expire(&mut self, now: Instant) {
        self.end(false, |order| order.until <= now);
    }

    fn end(&mut self, aborted: bool, which: impl Fn(&Order) -> bool) -> bool {
        let mut any = false;
        for order in &mut self.0 {
            if which(order) && !matches!(order.stage, Stage::Ended { .. }) {
                order.stage = Stage::Ended { aborted };
                any = true;
            }
        }
        any
    }

    /// Whether commands of a queue are being waited for.
    pub fn any_of(&self, sqid: u16) -> bool {
        let mut orders = self.0.iter();
        orders.any(|order| order.sqid == sqid && !matches!(order.stage, Stage::Ended { .. }))
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|order| order.until).min()
    }

    /// The next Abort command that can be answered, and whether its command was
    /// aborted. It is outstanding no more.
    pub fn answer(&mut self) -> Option<(u16, bool)> {
        let at = self
            .0
            .iter()
            .position(|order| matches!(order.stage, Stage::Ended { .. }))?;
        let order = self.0.remove(at);
        Some((order.by, order.stage == Stage::Ended { aborted: true }))
    }

    /// Forgets all, as a controller reset does, and gives the Abort commands that
    /// will never be answered.
    pub fn reset(&mut self) -> ArrayVec<u16, ABORT_LIMIT> {
        self.0.drain(..).map(|order| order.by).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_is_carried_out_once_and_answered_once() {
        let now = Instant::now();
        let mut aborts = Aborts::default();
        aborts.add(10, 1, 5, now).unwrap();
        assert_eq!(aborts.take(2), None);
        assert_eq!((aborts.take(1), aborts.take(1)), (Some(5), None));
        assert!(!aborts.ended(2, 5, true) && !aborts.ended(1, 6, true));
        assert_eq!(aborts.answer(), None);
        assert!(aborts.ended(1, 5, true) && !aborts.ended(1, 5, false));
        assert_eq!((aborts.answer(), aborts.answer()), (Some((10, true)), None));
    }

    #[test]
    fn one_end_answers_all_that_wait_for_it() {
        let now = Instant::now();
        let mut aborts = Aborts::default();
        for by in 0..ABORT_LIMIT as u16 {
            aborts.add(by, 1, 5, now).unwrap();
        }
        assert_eq!(aborts.add(9, 1, 6, now), Err(TooManyAborts));
        assert!(aborts.any_of(1) && aborts.queue_gone(1) && !aborts.any_of(1));
        let answers: Vec<_> = std::iter::from_fn(|| aborts.answer()).collect();
        assert_eq!(answers, [(0, false), (1, false), (2, false), (3, false)]);
    }

    #[test]
    fn an_abort_waits_for_its_time_and_no_longer() {
        let now = Instant::now();
        let mut aborts = Aborts::default();
        aborts.add(1, 1, 5, now).unwrap();
        assert_eq!(aborts.deadline(), Some(now + ABORT_PATIENCE));
        aborts.expire(now + ABORT_PATIENCE - Duration::from_millis(1));
        assert_eq!(aborts.answer(), None);
        aborts.expire(now + ABORT_PATIENCE);
        assert_eq!(aborts.answer(), Some((1, false)));
        assert!(!aborts.ended(1, 5, true), "nobody waits any more");
    }
}
