//! The buffers that an adapter holds for what hosts send, and the warning when
//! they run low: the limit of the shared receive queue (InfiniBand Architecture,
//! volume 1, 10.2.9.1).
//!
//! Connections are promised slots, so the queue should never come near its end.
//! Where it does, hosts are about to be told that the receiver is not ready: a
//! count says so, and no line in a log, since it may happen at any rate.

/// The part of the buffers below which the queue is low.
const LOW_SHARE: usize = 8;

/// Of one adapter.
#[derive(Debug)]
pub(super) struct Receives {
    /// Buffers that are posted, and hold nothing that this side has seen.
    posted: usize,
    /// Fewer than these are few.
    low: usize,
    /// Whether the adapter is to tell when they are few.
    armed: bool,
    /// Times it has told.
    told: u64,
}

impl Receives {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            posted: 0,
            low: slots / LOW_SHARE,
            armed: false,
            told: 0,
        }
    }

    /// A buffer was posted.
    pub(super) fn posted(&mut self) {
        self.posted += 1;
    }

    /// A buffer came back.
    pub(super) fn taken(&mut self) {
        self.posted = self.posted.saturating_sub(1);
    }

    /// The adapter says that few are left.
    pub(super) fn ran_low(&mut self) {
        self.armed = false;
        self.told += 1;
    }

    /// The limit to ask the adapter to tell of, where that is due: buffers are
    /// back, twice as many as would be few, so that one burst counts once.
    pub(super) fn arm(&mut self) -> Option<u32> {
        if self.armed || self.posted < 2 * self.low {
            return None;
        }
        self.armed = true;
        u32::try_from(self.low).ok().filter(|limit| *limit > 0)
    }

    /// How many times buffers ran low.
    pub(super) fn times_low(&self) -> u64 {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_armed_again_only_when_buffers_are_back() {
        let mut receives = Receives::new(64);
        assert_eq!(receives.arm(), None, "nothing is posted yet");
        for _ in 0..64 {
            receives.posted();
        }
        assert_eq!(receives.arm(), Some(8));
        assert_eq!(receives.arm(), None, "it is armed");
        for _ in 0..57 {
            receives.taken();
        }
        receives.ran_low();
        assert_eq!(receives.arm(), None, "7 are few");
        for _ in 0..8 {
            receives.posted();
        }
        assert_eq!(receives.arm(), None, "15 would soon be few again");
        receives.posted();
        assert_eq!((receives.arm(), receives.times_low()), (Some(8), 1));
    }

    #[test]
    fn a_queue_too_short_for_a_limit_has_none() {
        let mut receives = Receives::new(7);
        for _ in 0..7 {
            receives.posted();
        }
        assert_eq!(receives.arm(), None);
    }
}
