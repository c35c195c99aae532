//! The SSDs in `sidelane stats`: how each is, and what to do about it.

use super::table;
use crate::stats::SsdReport;

/// A table with a row for each SSD, and a line for each thing to do.
pub(super) fn render(ssds: &[SsdReport]) -> String {
    let mut rows = table(
        &[
            "ssd", "serial", "state", "timeouts", "aborted", "resets", "retried", "failed",
            "losses", "returns", "events",
        ],
        3,
    );
    for ssd in ssds {
        let events = ssd.health_events + ssd.error_events + ssd.namespace_events;
        let counts = [
            ssd.timeouts,
            ssd.aborted,
            ssd.resets,
            ssd.retried_commands,
            ssd.failed_commands,
            ssd.losses,
            ssd.returns,
            events,
        ];
        let words = [&ssd.address, &ssd.serial, &ssd.state].map(Clone::clone);
        rows.add_row(words.into_iter().chain(counts.map(|n| n.to_string())));
    }
    let lines = ssds.iter().flat_map(advice).map(|line| format!("\n{line}"));
    format!("{rows}{}", lines.collect::<String>())
}

/// What to do about an SSD, none where all is well.
fn advice(ssd: &SsdReport) -> Vec<String> {
    let reason = ssd.reason.as_deref().unwrap_or("no reason is known");
    let address = &ssd.address;
    let mut lines = Vec::new();
    if ssd.state == "lost" {
        lines.push(format!(
            "{address}: lost: {reason}; when it is there again (`lspci -s {address}`), bind it to vfio-pci, and it is \
             taken back by itself"
        ));
    } else if ssd.resets > 0 {
        lines.push(format!(
            "{address}: reset {} times, last: {reason}; look at its health (`nvme smart-log` at a host) and at `dmesg`, \
             and whether target.command_timeout_ms is too short for it",
            ssd.resets
        ));
    } else if ssd.timeouts > 0 {
        lines.push(format!(
            "{address}: {} commands did not end in time: is it overloaded, or collecting garbage?",
            ssd.timeouts
        ));
    }
    if ssd.health_events > 0 {
        lines.push(format!(
            "{address}: it warns of its health: read its SMART log (`nvme smart-log` at a host)"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SsdCounters;

    fn said(change: impl FnOnce(&SsdCounters)) -> Vec<String> {
        let counters = SsdCounters::new("0000:03:00.0".to_owned(), "S1".to_owned());
        change(&counters);
        advice(&counters.report())
    }

    #[test]
    fn nothing_is_said_of_an_ssd_that_is_well_and_one_thing_of_each_trouble() {
        assert_eq!(said(|_| ()), Vec::<String>::new());
        let lost = said(|ssd| {
            ssd.set_state("lost");
            ssd.set_reason("it was pulled");
        });
        assert!(
            lost.len() == 1 && lost[0].contains("it was pulled"),
            "{lost:?}"
        );
        let reset = said(|ssd| {
            ssd.resets.add(2);
            ssd.timeouts.add(2);
        });
        assert!(
            reset.len() == 1 && reset[0].contains("reset 2 times"),
            "{reset:?}"
        );
        let slow = said(|ssd| ssd.timeouts.add(3));
        assert!(
            slow.len() == 1 && slow[0].contains("3 commands"),
            "{slow:?}"
        );
        let ill = said(|ssd| ssd.health_events.add(1));
        assert!(ill.len() == 1 && ill[0].contains("SMART"), "{ill:?}");
    }
}
