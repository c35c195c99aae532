//! What adapters, connection management and queue pairs have counted, for
//! people: only what was counted at all, and what went wrong first.

use comfy_table::Table;

use super::{advice, table};
use crate::stats::{Counts, NetworkReport, QueuePairReport};

/// Words in the names of counts that tell of trouble, by how much of it.
const TROUBLE: &[&[&str]] = &[
    &["retrans", "retry", "retri", "timeout", "lost"],
    &["drop", "discard", "low"],
    &[
        "nak",
        "fail",
        "invalid",
        "rnr",
        "err",
        "seq",
        "duplicate",
        "repeated",
        "refused",
        "ignored",
    ],
];

/// Lower is worse.
fn rank(name: &str) -> usize {
    let has = |words: &&[&str]| words.iter().any(|word| name.contains(word));
    TROUBLE.iter().position(has).unwrap_or(TROUBLE.len())
}

/// Those that are not zero, the worst first.
fn in_order(counts: &Counts) -> Vec<(&str, u64)> {
    let counted = counts.iter().filter(|(_, value)| **value > 0);
    let mut counted: Vec<_> = counted
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    counted.sort_by_key(|(name, _)| (rank(name), *name));
    counted
}

/// All of it, with a line at the end for each thing to do.
pub(super) fn render(report: &NetworkReport, queue_pairs: bool) -> String {
    let mut parts = vec![devices(report).to_string()];
    if queue_pairs {
        parts.extend(report.queue_pairs.iter().map(pair));
    }
    let silent = report.silent.iter();
    parts.extend(
        silent.map(|who| format!("{who} did not answer in time: what it has counted is missing")),
    );
    parts.extend(advice::advice(report));
    parts.join("\n")
}

fn devices(report: &NetworkReport) -> Table {
    let mut table = table(&["nic", "of", "count", "number"], 3);
    for adapter in &report.adapters {
        let nic = format!("{} ({})", adapter.nic, adapter.state);
        let mut rows = Vec::new();
        for (of, counts) in [("target", &adapter.counts), ("device", &adapter.device)] {
            rows.extend(in_order(counts).into_iter().map(|row| (of, row)));
        }
        add_rows(&mut table, &nic, &rows);
    }
    for manager in &report.connection_managers {
        let rows: Vec<_> = in_order(&manager.counts)
            .into_iter()
            .map(|row| ("connections", row))
            .collect();
        add_rows(&mut table, &manager.nics.join(", "), &rows);
    }
    table
}

/// Rows of one thing; its name once, even when it has counted nothing.
fn add_rows(table: &mut Table, name: &str, rows: &[(&str, (&str, u64))]) {
    let mut name = Some(name);
    for (of, (count, number)) in rows {
        let name = name.take().unwrap_or_default();
        table.add_row([name, of, count, &number.to_string()]);
    }
    if let Some(name) = name {
        table.add_row([name]);
    }
}

/// Whose it is, and below that what it has counted: too long for a table.
fn pair(pair: &QueuePairReport) -> String {
    let queue = match &pair.queue {
        Some(it) => format!("queue {} of controller {} of {}", it.qid, it.cntlid, it.nqn),
        None => "not connected".to_owned(),
    };
    let ending = if pair.ending { ", ending" } else { "" };
    let counts = in_order(&pair.counts).into_iter();
    let counts: Vec<_> = counts.map(|(name, n)| format!("{name} {n}")).collect();
    format!(
        "queue pair {:#x} of {} with {}, core {}: {queue}{ending}\n  {}",
        pair.qp,
        pair.nic,
        pair.remote,
        pair.core,
        counts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{AdapterReport, ManagerReport, QueueReport};

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    }

    fn report() -> NetworkReport {
        NetworkReport {
            adapters: vec![AdapterReport {
                nic: "rxe0".to_owned(),
                state: "up".to_owned(),
                counts: counts(&[("posted", 7), ("receive_queue_low", 3), ("errors", 0)]),
                device: counts(&[("sent_pkts", 9000), ("completer_retry_err", 4)]),
            }],
            connection_managers: vec![ManagerReport {
                nics: vec!["rxe0".to_owned(), "rxe1".to_owned()],
                counts: counts(&[("requests", 5)]),
            }],
            queue_pairs: vec![QueuePairReport {
                nic: "rxe0".to_owned(),
                core: 2,
                qp: 0x11,
                remote: "192.0.2.7".to_owned(),
                queue: Some(QueueReport {
                    nqn: "nqn.x:disk".to_owned(),
                    cntlid: 1,
                    host: "nqn.x:host".to_owned(),
                    qid: 3,
                }),
                ending: false,
                counts: counts(&[("packets_out", 10), ("retransmits", 1), ("timeouts", 0)]),
            }],
            silent: vec!["the reactor on core 1".to_owned()],
        }
    }

    /// Where texts stand in another, which must be in this order.
    fn assert_order(text: &str, expected: &[&str]) {
        let mut rest = text;
        for one in expected {
            let at = rest.find(one);
            let at = at.unwrap_or_else(|| panic!("`{one}` is not, or too early, in:\n{text}"));
            rest = &rest[at + one.len()..];
        }
    }

    #[test]
    fn what_went_wrong_comes_first_and_zeros_not_at_all() {
        let text = render(&report(), false);
        let order = [
            "rxe0 (up)",
            "receive_queue_low",
            "posted",
            "completer_retry_err",
            "sent_pkts",
        ];
        assert_order(&text, &order);
        assert_order(&text, &["rxe0, rxe1", "requests", "5"]);
        assert!(
            !text.contains("errors") && !text.contains("nqn.x:disk"),
            "{text}"
        );
    }

    #[test]
    fn who_is_silent_is_said_and_advice_comes_last() {
        let text = render(&report(), false);
        let order = [
            "requests",
            "the reactor on core 1 did not answer",
            "rxe0: receive_queue_low 3: ",
        ];
        assert_order(&text, &order);
    }

    #[test]
    fn a_queue_pair_is_shown_with_whose_it_is() {
        let text = render(&report(), true);
        let order = [
            "queue pair 0x11 of rxe0 with 192.0.2.7, core 2",
            "queue 3 of controller 1 of nqn.x:disk\n",
        ];
        assert_order(&text, &order);
        assert_order(&text, &["retransmits 1, packets_out 10"]);
    }

    #[test]
    fn one_that_has_counted_nothing_is_shown_all_the_same() {
        let mut report = report();
        report.adapters[0].counts.clear();
        report.adapters[0].device.clear();
        assert_order(&render(&report, false), &["rxe0 (up)"]);
    }
}
