//! The table at the end of a demo: `require` beside `off`.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::HumanBytes;

use super::report::{DemoReport, DirectionOutcome, NamespaceOutcome};

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(&self.namespaces))?;
        write!(
            f,
            "{} written and {} read back in {:.1} s, {} a command, {} commands at a time",
            HumanBytes(self.bytes_written),
            HumanBytes(self.bytes_read),
            self.seconds,
            HumanBytes(self.block_bytes),
            self.depth
        )?;
        for failure in &self.failures {
            write!(f, "\nFAILED: {failure}")?;
        }
        Ok(())
    }
}

/// How one row reads off a namespace.
type Reading = fn(&NamespaceOutcome) -> String;

fn table(namespaces: &[NamespaceOutcome]) -> Table {
    let rows: [(&str, Reading); 19] = [
        ("backend", |n| n.backend.clone()),
        ("payload goes through", |n| n.memory.clone()),
        ("data read back as written", |n| match n.mismatched_bytes {
            0 if n.verified => "all".to_owned(),
            wrong => format!("NO: {wrong} bytes differ"),
        }),
        ("payload bytes by peer memory", |n| {
            n.payload_bytes_peer.to_string()
        }),
        ("payload bytes by host memory", |n| {
            n.payload_bytes_host.to_string()
        }),
        ("commands", |n| n.commands.to_string()),
        ("SSD: payload bytes through it", |n| {
            n.ssd_payload_bytes_inside.to_string()
        }),
        ("SSD: addresses checked", |n| {
            n.ssd_addresses_checked.to_string()
        }),
        ("SSD: addresses outside", |n| {
            n.ssd_addresses_outside.to_string()
        }),
        ("writes", |n| n.writes.commands.to_string()),
        ("  throughput", |n| throughput(&n.writes)),
        ("  latency p50", |n| latency(n.writes.latency_us.p50)),
        ("  latency p99", |n| latency(n.writes.latency_us.p99)),
        ("  latency p99.9", |n| latency(n.writes.latency_us.p99_9)),
        ("reads", |n| n.reads.commands.to_string()),
        ("  throughput", |n| throughput(&n.reads)),
        ("  latency p50", |n| latency(n.reads.latency_us.p50)),
        ("  latency p99", |n| latency(n.reads.latency_us.p99)),
        ("  latency p99.9", |n| latency(n.reads.latency_us.p99_9)),
    ];
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let policies = namespaces.iter().map(|n| format!("p2p = \"{}\"", n.p2p));
    table.set_header(std::iter::once(String::new()).chain(policies));
    for (label, read) in rows {
        let value = |n| Cell::new(read(n)).set_alignment(CellAlignment::Right);
        table.add_row(std::iter::once(Cell::new(label)).chain(namespaces.iter().map(value)));
    }
    table
}

fn throughput(direction: &DirectionOutcome) -> String {
    format!("{}/s", HumanBytes(direction.bytes_per_second as u64))
}

fn latency(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} µs")
    } else {
        format!("{:.2} ms", us / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::good;
    use super::*;

    #[test]
    fn both_policies_stand_beside_each_other_with_their_bytes_by_path() {
        let report = DemoReport::new(vec![good("require"), good("off")], 1024, 1, 0.1);
        let text = report.to_string();
        let row = |label: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.contains(label)).unwrap();
            let cells = line.split(['│', '┆']).map(|cell| cell.trim().to_owned());
            cells.filter(|cell| !cell.is_empty()).skip(1).collect()
        };
        let header = text.lines().nth(1).unwrap();
        assert!(header.find("require") < header.find("off"), "{header}");
        assert_eq!(row("by peer memory"), ["2048", "0"]);
        assert_eq!(row("by host memory"), ["0", "2048"]);
        assert_eq!(row("read back as written"), ["all", "all"]);
    }

    #[test]
    fn a_failure_is_told_under_the_table() {
        let mut bad = good("require");
        (bad.verified, bad.mismatched_bytes) = (false, 3);
        let text = DemoReport::new(vec![bad], 1024, 1, 0.1).to_string();
        assert!(
            text.contains("NO: 3 bytes differ") && text.contains("FAILED: "),
            "{text}"
        );
    }

    #[test]
    fn latencies_keep_three_digits() {
        assert_eq!(
            (latency(31.4), latency(1234.0)),
            ("31 µs".into(), "1.23 ms".into())
        );
    }
}
