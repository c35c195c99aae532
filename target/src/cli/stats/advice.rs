//! Which counts of the network an operator can do something about, and what.
//!
//! Only what is said here is known of a count's name: any other is shown as the
//! adapter names it, and nothing is said of it.

use crate::stats::{Counts, NetworkReport};

/// Counts that mean something, and what to do about them.
struct Rule {
    /// These, added up.
    of: &'static [&'static str],
    /// Said only when there are more than one in a thousand of these, added up;
    /// none for any at all.
    share_of: &'static [&'static str],
    text: &'static str,
}

/// A thousandth is what a network may lose before it is felt.
const SHARE: u64 = 1000;

/// Packets that an adapter or a device has sent.
const SENT: &[&str] = &["packets_out", "sent_pkts", "port_xmit_packets"];

/// The names of the soft NIC, of `rdma_rxe` and of mlx5.
const RULES: &[Rule] = &[
    Rule {
        of: &[
            "retransmits",
            "completer_retry_err",
            "packet_seq_err",
            "local_ack_timeout_err",
        ],
        share_of: SENT,
        text: "more than 0.1 % of packets were sent again: the network loses packets or holds them up; look at the \
               counters of NICs and switches on the way, and whether flow control (PFC) or ECN is on all along it",
    },
    Rule {
        of: &["retry_exceeded_err", "req_transport_retries_exceeded"],
        share_of: &[],
        text: "hosts did not answer at all, and their connections ended: is the way to them up, and of one MTU?",
    },
    Rule {
        of: &[
            "drops.bad_icrc",
            "cm.drops.bad_icrc",
            "rx_icrc_encapsulated",
        ],
        share_of: &[],
        text: "packets arrived changed (invariant CRC): look for a bad cable or memory, and for what rewrites packets \
               on the way, as address translation and some tunnels do",
    },
    Rule {
        of: &["drops.overrun", "cm.drops.overrun"],
        share_of: &[],
        text: "the kernel dropped packets that were not taken in time: allow larger socket buffers (sysctl \
               net.core.rmem_max) and start the target again, or give it more cores",
    },
    Rule {
        of: &[
            "receive_queue_low",
            "rnr_naks_out",
            "send_rnr_err",
            "out_of_buffer",
        ],
        share_of: &[],
        text: "hosts sent commands faster than they were taken, and receive buffers ran low: more cores in \
               target.cores, or fewer queues by host (target.max_io_queues), spread them",
    },
    Rule {
        of: &["rnr_naks_in", "rcvd_rnr_err", "rnr_nak_retry_err"],
        share_of: &[],
        text: "hosts had no buffer for an answer and were sent it again: a host is overloaded",
    },
    Rule {
        of: &["drops.wrong_peer"],
        share_of: &[],
        text: "packets for a connection came from another address than its host's: look for address translation, for \
               hosts with more than one way here, or for somebody who should not be there",
    },
    Rule {
        of: &["access_errors", "invalid_requests"],
        share_of: &[],
        text: "hosts asked for what they may not, such as memory of the target, and their connections ended: the log \
               says whose; this is a defect of theirs, or somebody tries",
    },
    Rule {
        of: &["drops.too_long", "cm.drops.too_long"],
        share_of: &[],
        text: "packets did not fit the interface: its MTU was lowered; have hosts connect again, or raise it",
    },
    Rule {
        of: &["drops.unreachable", "cm.drops.unreachable"],
        share_of: &[],
        text: "the kernel had no way to a host: look at routes, neighbours and the firewall (`ip route get ADDRESS`)",
    },
    Rule {
        of: &[
            "cm.drops.half_open",
            "cm.drops.half_open_of_peer",
            "cm.refused_full",
        ],
        share_of: &[],
        text: "more connections were asked for at a time than are taken, and hosts ask again by themselves: who asks \
               for so many?",
    },
];

/// A line for each thing to do, none where all is well.
pub(super) fn advice(report: &NetworkReport) -> Vec<String> {
    let adapters = report.adapters.iter();
    let of_adapters = adapters.flat_map(|it| [(&it.nic, &it.counts), (&it.nic, &it.device)]);
    let mut lines: Vec<_> = of_adapters
        .flat_map(|(nic, counts)| of_counts(nic, counts))
        .collect();
    for manager in &report.connection_managers {
        lines.extend(of_counts(&manager.nics.join(", "), &manager.counts));
    }
    lines
}

fn of_counts(whose: &str, counts: &Counts) -> Vec<String> {
    let sum = |names: &[&str]| {
        let values = names.iter().filter_map(|name| counts.get(*name));
        values.fold(0u64, |sum, value| sum.saturating_add(*value))
    };
    let due = RULES.iter().filter(|rule| {
        let many = sum(rule.of);
        let few = !rule.share_of.is_empty() && many.saturating_mul(SHARE) <= sum(rule.share_of);
        many > 0 && !few
    });
    due.map(|rule| {
        let there = rule
            .of
            .iter()
            .filter_map(|name| counts.get_key_value(*name));
        let there: Vec<_> = there
            .filter(|(_, value)| **value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("{whose}: {}: {}", there.join(", "), rule.text)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{AdapterReport, ManagerReport};

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    }

    /// What is said of an adapter that has counted this, as its own, as its
    /// device's, and as its connection management's.
    fn said(pairs: &[(&str, u64)]) -> Vec<String> {
        let adapter = |own: &[_], device: &[_]| AdapterReport {
            nic: "soft 192.0.2.1".to_owned(),
            state: "up".to_owned(),
            counts: counts(own),
            device: counts(device),
        };
        let manager = |own: &[_]| ManagerReport {
            nics: vec!["soft 192.0.2.1".to_owned()],
            counts: counts(own),
        };
        let report = |adapter, manager| NetworkReport {
            adapters: vec![adapter],
            connection_managers: vec![manager],
            ..NetworkReport::default()
        };
        let own = advice(&report(adapter(pairs, &[]), manager(&[])));
        assert_eq!(own, advice(&report(adapter(&[], pairs), manager(&[]))));
        assert_eq!(own, advice(&report(adapter(&[], &[]), manager(pairs))));
        own
    }

    #[rstest::rstest]
    #[case(&[("drops.bad_icrc", 1)], "soft 192.0.2.1: drops.bad_icrc 1: packets arrived changed")]
    #[case(&[("rnr_naks_out", 2), ("receive_queue_low", 1)], "receive_queue_low 1, rnr_naks_out 2: ")]
    #[case(&[("retransmits", 2), ("packets_out", 1999)], "retransmits 2: more than 0.1 %")]
    #[case(&[("completer_retry_err", 1), ("sent_pkts", 10)], "completer_retry_err 1: more than 0.1 %")]
    #[case(&[("drops.too_long", 1)], "MTU")]
    #[case(&[("drops.overrun", 1)], "net.core.rmem_max")]
    #[case(&[("cm.drops.half_open", 1)], "more connections were asked for")]
    #[case(&[("access_errors", 1)], "the log")]
    fn a_count_that_means_something_comes_with_advice(
        #[case] pairs: &[(&str, u64)],
        #[case] expected: &str,
    ) {
        let said = said(pairs);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(expected), "{said:?}");
    }

    #[rstest::rstest]
    #[case(&[])]
    #[case(&[("retransmits", 2), ("packets_out", 2000)])]
    #[case(&[("drops.bad_icrc", 0), ("rnr_naks_out", 0)])]
    #[case(&[("drops.stale_response", 3), ("whatever", 9)])]
    fn nothing_is_said_where_all_is_well(#[case] pairs: &[(&str, u64)]) {
        assert_eq!(said(pairs), Vec::<String>::new());
    }

    #[test]
    fn no_count_is_in_two_rules() {
        let mut names: Vec<_> = RULES.iter().flat_map(|rule| rule.of).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
