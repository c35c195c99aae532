//! What a ping has found out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Loss;

/// What the adapter and its connection management have counted, by name.
pub type Counts = BTreeMap<String, u64>;

/// The longest round trip that is told from a longer one, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Rounds so far.
pub(super) struct Tally {
    pub back: u64,
    pub lost: u64,
    last_loss: Option<String>,
    times: Option<Histogram<u64>>,
    least_ns: u64,
    most_ns: u64,
    sum_ns: u128,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            back: 0,
            lost: 0,
            last_loss: None,
            // Three digits are within its bounds.
            times: Histogram::new_with_bounds(1, LONGEST_NS, 3).ok(),
            least_ns: u64::MAX,
            most_ns: 0,
            sum_ns: 0,
        }
    }

    pub fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.back += 1;
        self.least_ns = self.least_ns.min(ns);
        self.most_ns = self.most_ns.max(ns);
        self.sum_ns += u128::from(ns);
        if let Some(times) = &mut self.times {
            times.saturating_record(ns.max(1));
        }
    }

    pub fn lose(&mut self, loss: &Loss) {
        self.lost += 1;
        self.last_loss = Some(loss.to_string());
    }

    fn round_trip(&self) -> Option<RoundTrip> {
        let times = self.times.as_ref().filter(|_| self.back > 0)?;
        let us = |ns: u64| ns as f64 / 1e3;
        Some(RoundTrip {
            min_us: us(self.least_ns),
            avg_us: self.sum_ns as f64 / self.back as f64 / 1e3,
            p99_us: us(times.value_at_quantile(0.99).min(self.most_ns)),
            max_us: us(self.most_ns),
        })
    }
}

/// How long rounds took that came back, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundTrip {
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub avg_us: f64,
    /// 99 of 100 took no longer, to three digits.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// What became of the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PingReport {
    /// The peer.
    pub remote: SocketAddr,
    /// The adapter.
    pub adapter: String,
    /// Bytes read and written back in each round.
    pub size_bytes: u32,
    /// Connections that they were made on.
    pub connections: usize,
    /// Rounds that came back as they were sent.
    pub back: u64,
    /// Rounds that did not.
    pub lost: u64,
    /// Why the last of those did not.
    pub last_loss: Option<String>,
    /// How long they took; none without one that came back.
    pub round_trip: Option<RoundTrip>,
    /// What was counted meanwhile.
    pub counts: Counts,
}

impl PingReport {
    pub(super) fn new(
        remote: SocketAddr,
        adapter: String,
        size_bytes: u32,
        connections: usize,
        tally: &Tally,
        counts: Counts,
    ) -> Self {
        Self {
            remote,
            adapter,
            size_bytes,
            connections,
            back: tally.back,
            lost: tally.lost,
            last_loss: tally.last_loss.clone(),
            round_trip: tally.round_trip(),
            counts,
        }
    }

    /// Whether all rounds came back, and there was one.
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.back > 0
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, lost) = (self.back + self.lost, self.lost);
        let part = lost as f64 / (sent.max(1)) as f64 * 100.0;
        writeln!(f, "--- {} from {} ---", self.remote, self.adapter)?;
        let back = self.back;
        writeln!(
            f,
            "{sent} sent, {back} came back, {lost} lost ({part:.1} %)"
        )?;
        if let Some(times) = self.round_trip {
            let RoundTrip {
                min_us,
                avg_us,
                p99_us,
                max_us,
            } = times;
            writeln!(
                f,
                "round trip: min {min_us:.1} us, avg {avg_us:.1} us, p99 {p99_us:.1} us, max \
                 {max_us:.1} us"
            )?;
        }
        write_path(f, &self.counts)
    }
}

/// What pipelined work of one kind came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stretch {
    /// `write`, `read`, `send`, or `round` where the peer is a plain rping.
    pub operation: &'static str,
    /// Bytes of each.
    pub size_bytes: u32,
    /// How many were on their way at a time, on each connection.
    pub depth: u32,
    /// How many were done.
    pub operations: u64,
    /// Payload bytes that they moved.
    pub bytes: u64,
    /// In how many seconds.
    pub seconds: f64,
    /// Bytes per second, in units of 10^9.
    pub gb_per_second: f64,
    /// Operations per second.
    pub per_second: f64,
}

impl Stretch {
    pub(super) fn new(
        operation: &'static str,
        size_bytes: u32,
        depth: u32,
        operations: u64,
        bytes: u64,
        time: Duration,
    ) -> Self {
        let seconds = time.as_secs_f64();
        let rate = |amount: u64| match seconds > 0.0 {
            true => amount as f64 / seconds,
            false => 0.0,
        };
        Self {
            operation,
            size_bytes,
            depth,
            operations,
            bytes,
            seconds,
            gb_per_second: rate(bytes) / 1e9,
            per_second: rate(operations),
        }
    }
}

/// How much went through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BandwidthReport {
    /// The peer.
    pub remote: SocketAddr,
    /// The adapter.
    pub adapter: String,
    /// Whether the peer is a Sidelane; a plain rping can only make rounds.
    pub pipelined: bool,
    /// Connections that it went over.
    pub connections: usize,
    /// What was measured, one after the other.
    pub stretches: Vec<Stretch>,
    /// Whether all that was looked at had come as it was sent.
    pub verified: bool,
    /// Rounds that did not come back, of a plain rping.
    pub lost: u64,
    /// Why the last of those did not.
    pub last_loss: Option<String>,
    /// What was counted meanwhile.
    pub counts: Counts,
}

impl BandwidthReport {
    pub(super) fn new(remote: SocketAddr, adapter: String) -> Self {
        Self {
            remote,
            adapter,
            pipelined: true,
            connections: 0,
            stretches: Vec::new(),
            verified: false,
            lost: 0,
            last_loss: None,
            counts: Counts::new(),
        }
    }

    pub(super) fn rounds(&mut self, stretch: Stretch, tally: &Tally) {
        self.pipelined = false;
        self.stretches.push(stretch);
        self.lost = tally.lost;
        self.last_loss.clone_from(&tally.last_loss);
        // A round that came back was compared.
        self.verified = tally.back > 0;
    }

    /// Whether something went through, nothing was lost and nothing altered.
    pub fn is_good(&self) -> bool {
        let moved = |stretch: &Stretch| stretch.operations > 0;
        self.verified && self.lost == 0 && self.stretches.iter().all(moved)
    }
}

impl fmt::Display for BandwidthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections;
        writeln!(
            f,
            "--- {} from {}, {connections} connection{} ---",
            self.remote,
            self.adapter,
            if connections == 1 { "" } else { "s" },
        )?;
        for stretch in &self.stretches {
            writeln!(
                f,
                "{:<6} {:>8} B  depth {:>3}  {:>9.4} GB/s  {:>12.1} /s",
                stretch.operation,
                stretch.size_bytes,
                stretch.depth,
                stretch.gb_per_second,
                stretch.per_second,
            )?;
        }
        let verified = if self.verified {
            "as sent"
        } else {
            "NOT verified"
        };
        writeln!(f, "contents: {verified}")?;
        if let Some(loss) = &self.last_loss {
            writeln!(f, "lost: {} rounds, lastly: {loss}", self.lost)?;
        }
        write_path(f, &self.counts)
    }
}

/// Words in the names of counts that tell of the quality of the path, and not of
/// what went over it.
const TROUBLE: [&str; 10] = [
    "retransmit",
    "timeout",
    "retries",
    "lost",
    "nak",
    "duplicate",
    "drop",
    "repeated",
    "refused",
    "errors",
];

fn write_path(f: &mut fmt::Formatter<'_>, counts: &Counts) -> fmt::Result {
    f.write_str("path:")?;
    let mut silent = true;
    for (name, value) in counts {
        if *value > 0 && TROUBLE.iter().any(|word| name.contains(word)) {
            write!(f, "{} {name} {value}", if silent { "" } else { "," })?;
            silent = false;
        }
    }
    if silent {
        f.write_str(" nothing was repeated, refused or dropped")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tally: &Tally, counts: &[(&str, u64)]) -> PingReport {
        let remote = "192.0.2.1:7174".parse().unwrap();
        let counts = counts.iter().map(|(name, n)| ((*name).to_owned(), *n));
        PingReport::new(
            remote,
            "soft 192.0.2.2".to_owned(),
            64,
            1,
            tally,
            counts.collect(),
        )
    }

    #[test]
    fn the_summary_has_the_times_the_losses_and_what_the_path_did() {
        let mut tally = Tally::new();
        for us in 1..=100 {
            tally.add(Duration::from_micros(us));
        }
        tally.lose(&Loss::Disconnected);
        let report = report(
            &tally,
            &[
                ("retransmits", 3),
                ("packets_in", 900),
                ("cm.sent", 2),
                ("cm.duplicates.rep", 1),
                ("timeouts", 0),
            ],
        );
        assert!(!report.is_good());
        let text = report.to_string();
        assert!(
            text.contains("101 sent, 100 came back, 1 lost (1.0 %)"),
            "{text}"
        );
        assert!(
            text.contains("min 1.0 us, avg 50.5 us, p99 99.0 us, max 100.0 us"),
            "{text}"
        );
        assert!(
            text.ends_with("path: cm.duplicates.rep 1, retransmits 3"),
            "{text}"
        );
    }

    #[test]
    fn nothing_sent_is_not_all_that_was_sent() {
        let report = report(&Tally::new(), &[]);
        assert!(!report.is_good());
        assert_eq!(report.round_trip, None);
        assert!(
            report
                .to_string()
                .ends_with("nothing was repeated, refused or dropped")
        );
    }

    #[test]
    fn no_time_at_all_is_no_rate() {
        let stretch = Stretch::new("read", 1, 1, 0, 0, Duration::ZERO);
        assert_eq!((stretch.gb_per_second, stretch.per_second), (0.0, 0.0));
    }
}
