//! What a demo found, and the judgement on it.

use serde::Serialize;

use super::workload::Measure;

/// The outcome of a demo. Serialised, it is what `sidelane demo --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoReport {
    /// Every byte of every namespace was read back as it was written.
    pub verified: bool,
    /// Payload written, all namespaces.
    pub bytes_written: u64,
    /// Payload read, all namespaces.
    pub bytes_read: u64,
    /// Payload that the target moved by peer memory, all namespaces.
    pub payload_bytes_peer: u64,
    /// Payload that the target moved by host memory, all namespaces.
    pub payload_bytes_host: u64,
    /// Addresses that the SSDs were told to touch for payload and that were
    /// compared with the memory they belong to, all namespaces.
    pub ssd_addresses_checked: u64,
    /// Payload of one command, in bytes.
    pub block_bytes: u64,
    /// Commands on their way at a time.
    pub depth: u64,
    /// Seconds from start to end, the target's start and stop included.
    pub seconds: f64,
    /// The namespaces, `require` first.
    pub namespaces: Vec<NamespaceOutcome>,
    /// What is not as it has to be, in words; empty when all is well.
    pub failures: Vec<String>,
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NamespaceOutcome {
    /// Its subsystem.
    pub nqn: String,
    /// Its identifier there.
    pub nsid: u32,
    /// Its policy: `require` or `off`.
    pub p2p: String,
    /// What stores its blocks.
    pub backend: String,
    /// The memory its payload has to go through.
    pub memory: String,
    /// Every byte was read back as it was written.
    pub verified: bool,
    /// Bytes that were not.
    pub mismatched_bytes: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<Mismatch>,
    /// Payload written.
    pub bytes_written: u64,
    /// Payload read.
    pub bytes_read: u64,
    /// Payload that the target moved by peer memory, both directions.
    pub payload_bytes_peer: u64,
    /// Payload that the target moved by host memory, both directions.
    pub payload_bytes_host: u64,
    /// Commands that moved payload, as the target counted them.
    pub commands: u64,
    /// Addresses of payload that the SSD was told to touch.
    pub ssd_addresses_checked: u64,
    /// Those of them that lie outside `memory`.
    pub ssd_addresses_outside: u64,
    /// Payload at the addresses that were checked and lie inside `memory`.
    pub ssd_payload_bytes_inside: u64,
    /// Payload that the SSD itself counted beyond that.
    pub ssd_payload_bytes_elsewhere: u64,
    /// Writes, as the host saw them.
    pub writes: DirectionOutcome,
    /// Reads, as the host saw them.
    pub reads: DirectionOutcome,
}

/// A byte that was read back wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Its logical block.
    pub lba: u64,
    /// Which byte of that block.
    pub byte: usize,
}

/// One direction of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DirectionOutcome {
    /// Commands that succeeded.
    pub commands: u64,
    /// Payload, in bytes.
    pub bytes: u64,
    /// Seconds from the first submission to the last completion.
    pub seconds: f64,
    /// Payload by time.
    pub bytes_per_second: f64,
    /// From submission to completion, in microseconds.
    pub latency_us: LatencyOutcome,
}

/// Percentiles of latency, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LatencyOutcome {
    /// Half of the commands took at most this long.
    pub p50: f64,
    /// 99 % did.
    pub p99: f64,
    /// 99.9 % did.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// The slowest.
    pub max: f64,
}

impl From<&Measure> for DirectionOutcome {
    fn from(measure: &Measure) -> Self {
        let seconds = measure.elapsed.as_secs_f64();
        let us = |ns: u64| ns as f64 / 1e3;
        let quantile = |q| us(measure.latency.value_at_quantile(q));
        Self {
            commands: measure.commands,
            bytes: measure.bytes,
            seconds,
            bytes_per_second: if seconds > 0.0 {
                measure.bytes as f64 / seconds
            } else {
                0.0
            },
            latency_us: LatencyOutcome {
                p50: quantile(0.5),
                p99: quantile(0.99),
                p99_9: quantile(0.999),
                max: us(measure.latency.max()),
            },
        }
    }
}

impl NamespaceOutcome {
    /// What is not as it has to be.
    pub fn failures(&self) -> Vec<String> {
        let moved = self.bytes_written + self.bytes_read;
        let (peer, host) = (self.payload_bytes_peer, self.payload_bytes_host);
        let (wanted, other) = match self.p2p.as_str() {
            "require" => (("peer", peer), ("host", host)),
            _ => (("host", host), ("peer", peer)),
        };
        let mut failures = Vec::new();
        if !self.verified {
            let place = self.first_mismatch.map_or_else(String::new, |first| {
                format!(", the first at LBA {} byte {}", first.lba, first.byte)
            });
            failures.push(format!(
                "{} bytes were not read back as written{place}",
                self.mismatched_bytes
            ));
        }
        if other.1 != 0 {
            failures.push(format!(
                "{} payload bytes went by {} memory",
                other.1, other.0
            ));
        }
        if wanted.1 != moved {
            failures.push(format!(
                "{} payload bytes were counted by {} memory, but {moved} were moved",
                wanted.1, wanted.0
            ));
        }
        let (inside, elsewhere) = (
            self.ssd_payload_bytes_inside,
            self.ssd_payload_bytes_elsewhere,
        );
        if (inside, elsewhere) != (moved, 0) {
            failures.push(format!(
                "the SSD itself counted {inside} payload bytes in {} and {elsewhere} elsewhere, but \
                 {moved} were moved",
                self.memory
            ));
        }
        if self.ssd_addresses_checked == 0 {
            failures.push("the SSD recorded no address of payload".to_owned());
        }
        if self.ssd_addresses_outside != 0 {
            failures.push(format!(
                "{} of {} addresses that the SSD was told to touch lie outside {}",
                self.ssd_addresses_outside, self.ssd_addresses_checked, self.memory
            ));
        }
        let name = format!(
            "namespace {} of {} (p2p = \"{}\")",
            self.nsid, self.nqn, self.p2p
        );
        failures
            .into_iter()
            .map(|what| format!("{name}: {what}"))
            .collect()
    }
}

impl DemoReport {
    /// Sums the namespaces up and judges them.
    pub fn new(
        namespaces: Vec<NamespaceOutcome>,
        block_bytes: u64,
        depth: u64,
        seconds: f64,
    ) -> Self {
        let sum = |of: fn(&NamespaceOutcome) -> u64| namespaces.iter().map(of).sum();
        Self {
            verified: !namespaces.is_empty() && namespaces.iter().all(|one| one.verified),
            bytes_written: sum(|one| one.bytes_written),
            bytes_read: sum(|one| one.bytes_read),
            payload_bytes_peer: sum(|one| one.payload_bytes_peer),
            payload_bytes_host: sum(|one| one.payload_bytes_host),
            ssd_addresses_checked: sum(|one| one.ssd_addresses_checked),
            block_bytes,
            depth,
            seconds,
            failures: namespaces
                .iter()
                .flat_map(NamespaceOutcome::failures)
                .collect(),
            namespaces,
        }
    }

    /// Whether the process may end with status 0: data was right and went the
    /// way its policy says.
    pub fn passed(&self) -> bool {
        self.verified && self.failures.is_empty()
    }

    /// One JSON object, on one line.
    ///
    /// # Errors
    /// When a number in it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::demo) fn good(p2p: &str) -> NamespaceOutcome {
        let (peer, host) = if p2p == "require" {
            (2048, 0)
        } else {
            (0, 2048)
        };
        NamespaceOutcome {
            nqn: "nqn.2026-11.io.sidelane:demo".into(),
            nsid: 1,
            p2p: p2p.into(),
            memory: "cmb of 0000:03:00.0".into(),
            verified: true,
            bytes_written: 1024,
            bytes_read: 1024,
            payload_bytes_peer: peer,
            payload_bytes_host: host,
            commands: 2,
            ssd_addresses_checked: 2,
            ssd_payload_bytes_inside: 2048,
            ..NamespaceOutcome::default()
        }
    }

    fn report(namespace: NamespaceOutcome) -> DemoReport {
        DemoReport::new(vec![namespace, good("off")], 1024, 1, 0.1)
    }

    #[test]
    fn a_demo_in_which_all_is_well_passes() {
        let report = report(good("require"));
        assert!(report.passed(), "{:?}", report.failures);
        assert_eq!(
            (report.bytes_written, report.payload_bytes_host),
            (2048, 2048)
        );
        assert!(
            !DemoReport::new(Vec::new(), 1, 1, 0.0).passed(),
            "nothing was shown"
        );
    }

    #[rstest::rstest]
    #[case::data(|n: &mut NamespaceOutcome| {
        n.verified = false;
        n.mismatched_bytes = 1;
        n.first_mismatch = Some(Mismatch { lba: 7, byte: 9 });
    }, "1 bytes were not read back as written, the first at LBA 7 byte 9")]
    #[case::a_host_byte(|n: &mut NamespaceOutcome| n.payload_bytes_host = 1, "1 payload bytes went by host")]
    #[case::too_few(|n: &mut NamespaceOutcome| n.payload_bytes_peer -= 1, "2047 payload bytes were counted")]
    #[case::too_many(|n: &mut NamespaceOutcome| n.payload_bytes_peer += 1, "2049 payload bytes were counted")]
    #[case::no_record(|n: &mut NamespaceOutcome| n.ssd_addresses_checked = 0, "recorded no address")]
    #[case::elsewhere(|n: &mut NamespaceOutcome| n.ssd_payload_bytes_elsewhere = 8, "and 8 elsewhere")]
    #[case::outside(|n: &mut NamespaceOutcome| n.ssd_addresses_outside = 1, "1 of 2 addresses")]
    fn a_demo_fails_for(#[case] spoil: fn(&mut NamespaceOutcome), #[case] said: &str) {
        let mut namespace = good("require");
        spoil(&mut namespace);
        let report = report(namespace);
        assert!(!report.passed());
        assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
        assert!(report.failures[0].contains(said), "{}", report.failures[0]);
    }

    #[test]
    fn the_namespace_without_peer_memory_is_judged_too() {
        let mut namespace = good("off");
        namespace.payload_bytes_peer = 5;
        assert!(namespace.failures()[0].contains("5 payload bytes went by peer memory"));
    }

    #[test]
    fn json_has_what_programs_look_for() {
        let json = report(good("require")).to_json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["verified"], true);
        let keys = [
            "bytes_written",
            "bytes_read",
            "payload_bytes_peer",
            "payload_bytes_host",
        ];
        for key in keys {
            assert!(value[key].is_u64(), "{key} in {json}");
            assert!(
                value["namespaces"][0][key].is_u64(),
                "{key} of a namespace in {json}"
            );
        }
        assert_eq!(value["namespaces"][1]["p2p"], "off");
        assert!(value["namespaces"][0]["reads"]["latency_us"]["p99.9"].is_number());
        assert!(!json.contains('\n'));
    }
}
