//! The times of the reliable connection.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The time an RNR NAK asks to wait, for its timer code (InfiniBand
/// Architecture, volume 1, 9.7.5.2.8), in units of 10 µs.
const RNR_TENS_OF_US: [u32; 32] = [
    65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
    2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
];

/// The time that goes with an RNR timer code, 5 bits.
pub(super) fn rnr_time(code: u8) -> Duration {
    let units = RNR_TENS_OF_US
        .get(usize::from(code & 31))
        .copied()
        .unwrap_or(65536);
    Duration::from_micros(u64::from(units) * 10)
}

/// The time that goes with a local ACK timeout, 5 bits; none for 0, which
/// means that there is no timeout (9.7.6.1.3).
pub(super) fn ack_time(code: u8) -> Option<Duration> {
    match code & 31 {
        0 => None,
        code => Some(Duration::from_nanos(4096 << code)),
    }
}

/// Watches outstanding requests of one queue pair.
///
/// The agreed timeout counts against the retry limit; it is often seconds long.
/// So before it a lost last packet is helped by probes: the same
/// retransmission, at intervals that double, that cost no retry. The first one
/// waits for several times as long as answers take of late.
#[derive(Debug, Clone)]
pub(super) struct AckTimer {
    timeout: Option<Duration>,
    probe_min: Duration,
    /// Doublings since something was acknowledged.
    backoff: u32,
    /// The longest that an answer took, forgotten by an eighth with each other.
    answer: Duration,
    started: Option<Instant>,
    timeout_at: Option<Instant>,
    probe_at: Option<Instant>,
}

/// What has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Send again.
    Probe,
    /// Send again, and count it as a retry.
    Timeout,
}

/// A probe is sent after so many times the time that an answer takes.
const PATIENCE: u32 = 4;

impl AckTimer {
    pub(super) fn new(code: u8, probe_min: Duration) -> Self {
        Self {
            timeout: ack_time(code),
            probe_min,
            backoff: 0,
            answer: Duration::ZERO,
            started: None,
            timeout_at: None,
            probe_at: None,
        }
    }

    /// The agreed timeout; none when there is none.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn probe(&self) -> Duration {
        let longest = self
            .timeout
            .unwrap_or(Duration::from_secs(1))
            .max(self.probe_min);
        let first = self.probe_min.max(self.answer * PATIENCE);
        first.saturating_mul(1 << self.backoff.min(16)).min(longest)
    }

    /// Something is outstanding: starts the timer unless it runs.
    pub(super) fn start(&mut self, now: Instant) {
        if self.probe_at.is_none() {
            self.started = Some(now);
            self.probe_at = Some(now + self.probe());
            self.timeout_at = self.timeout.map(|timeout| now + timeout);
        }
    }

    /// Something was acknowledged; `outstanding` says whether more is.
    pub(super) fn progress(&mut self, now: Instant, outstanding: bool) {
        if let Some(started) = self.started {
            // After a probe this is too long rather than too short: better than
            // to probe a slow peer for ever.
            let took = now.saturating_duration_since(started);
            self.answer = took.max(self.answer - self.answer / 8);
        }
        self.backoff = 0;
        self.stop();
        if outstanding {
            self.start(now);
        }
    }

    pub(super) fn stop(&mut self) {
        self.started = None;
        self.probe_at = None;
        self.timeout_at = None;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.probe_at, self.timeout_at].into_iter().flatten().min()
    }

    /// Says what has passed, and starts the next interval.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Expired> {
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = self.timeout.map(|timeout| now + timeout);
            self.probe_at = Some(now + self.probe());
            return Some(Expired::Timeout);
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.backoff += 1;
            self.probe_at = Some(now + self.probe());
            return Some(Expired::Probe);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(0, 655_360)]
    #[case(1, 10)]
    #[case(12, 640)]
    #[case(31, 491_520)]
    fn an_rnr_code_has_its_time(#[case] code: u8, #[case] micros: u64) {
        assert_eq!(rnr_time(code), Duration::from_micros(micros));
    }

    #[test]
    fn the_timeout_is_a_power_of_two_and_zero_is_never() {
        assert_eq!(ack_time(0), None);
        assert_eq!(ack_time(14), Some(Duration::from_nanos(67_108_864)));
        assert_eq!(ack_time(31), Some(Duration::from_nanos(4096 << 31)));
    }

    #[test]
    fn probes_come_ever_later_and_the_timeout_in_between() {
        let mut timer = AckTimer::new(14, Duration::from_millis(10));
        let start = Instant::now();
        timer.start(start);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let at = timer.deadline().unwrap();
            seen.push(((at - start).as_millis(), timer.expire(at).unwrap()));
        }
        use Expired::{Probe, Timeout};
        assert_eq!(
            seen[..4],
            [(10, Probe), (30, Probe), (67, Timeout), (107, Probe)]
        );
        timer.progress(start, false);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn a_slow_peer_is_given_more_time_before_a_probe() {
        let mut timer = AckTimer::new(20, Duration::from_millis(10));
        let mut now = Instant::now();
        for _ in 0..3 {
            timer.start(now);
            now += Duration::from_millis(25);
            timer.progress(now, false);
        }
        timer.start(now);
        assert_eq!(timer.deadline(), Some(now + Duration::from_millis(100)));
        for _ in 0..100 {
            timer.progress(now, true);
        }
        assert_eq!(timer.deadline(), Some(now + Duration::from_millis(10)));
    }
}
