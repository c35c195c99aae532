//! What the cases mean: what fails the self-test, what is only to be known, and
//! what to do about either.

use std::collections::BTreeMap;

use sidelane_config::Flush;

use super::report::{CaseReport, Direction, Outcome};

/// In words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) failures: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Transfers and what was seen, over cases that differ in the block size only.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    transfers: u64,
    stale: u64,
}

pub(super) fn judge(cases: &[CaseReport], configured: Flush) -> Judgement {
    let mut judgement = Judgement::default();
    let (failures, notes) = (&mut judgement.failures, &mut judgement.notes);
    // In the order in which they were tested.
    let mut sums: Vec<(&CaseReport, Sum)> = Vec::new();
    let mut numbers = BTreeMap::new();
    for case in cases {
        let reason = case.reason.as_deref().unwrap_or("for no known reason");
        match case.outcome {
            Outcome::Failed => failures.push(format!("{}: {reason}", in_detail(case))),
            Outcome::NotTestable => {
                // The same for all block sizes, mostly, and for the flush.
                let note = format!("not tested: {}: {reason}", subject(case));
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            Outcome::Clean | Outcome::Stale => {}
        }
        if case.transfers > 0 {
            let place = (
                &case.adapter,
                &case.memory,
                &case.ssd,
                case.direction,
                case.flush,
            );
            let number = *numbers.entry(place).or_insert_with(|| {
                sums.push((case, Sum::default()));
                sums.len() - 1
            });
            if let Some((_, sum)) = sums.get_mut(number) {
                sum.transfers += case.transfers;
                sum.stale += case.stale;
            }
        }
    }
    for (case, sum) in sums {
        let said = |text| format!("{}: {text}", subject(case));
        match verdict(case, sum, configured) {
            Verdict::Failure(text) => failures.push(said(text)),
            Verdict::Note(text) => notes.push(said(text)),
            Verdict::Nothing => {}
        }
    }
    if failures.is_empty() && cases.iter().all(|case| case.transfers == 0) {
        failures.push("nothing could be tested, so nothing is known".to_owned());
    }
    judgement
}

enum Verdict {
    Failure(String),
    Note(String),
    Nothing,
}

fn verdict(case: &CaseReport, sum: Sum, configured: Flush) -> Verdict {
    let Sum { transfers, stale } = sum;
    let other = match (case.peer, case.own) {
        (true, true) => "set p2p = \"off\" for its namespaces",
        (true, false) => {
            "let its namespaces use the SSD's own memory, if it has a CMB or PMR (provider = \
             \"auto\" prefers it), or set p2p = \"off\""
        }
        // The usual way of all storage; something is broken.
        (false, _) => {
            "this is host memory, so look for a fault of the machine, the IOMMU or the driver"
        }
    };
    match (case.flush, stale) {
        (Some(true), 1..) => Verdict::Failure(format!(
            "stale data in {stale} of {transfers} transfers WITH the flush; the flush does not help \
             here, and what hosts write would be lost: {other}"
        )),
        (None, 1..) => Verdict::Failure(format!(
            "stale data in {stale} of {transfers} transfers; no flush is known for this direction, \
             and hosts would read what was never theirs: {other}"
        )),
        (Some(true) | None, 0) => Verdict::Nothing,
        (Some(false), 0) => Verdict::Note(format!(
            "no stale data was seen in {transfers} transfers without the flush; that does not prove \
             that it is not needed"
        )),
        (Some(false), 1..) => {
            let keep = match (configured, case.peer) {
                (Flush::Never, _) => {
                    "the configuration has flush = \"never\", so this target WOULD CORRUPT DATA: \
                     set flush = \"auto\""
                }
                (Flush::Auto, false) => {
                    "flush = \"auto\" leaves host memory out, so set flush = \"always\""
                }
                (Flush::Auto, true) | (Flush::Always, _) => "the configuration has it on: keep it",
            };
            Verdict::Note(format!(
                "this machine needs the flush: without it, stale data in {stale} of {transfers} \
                 transfers; {keep}"
            ))
        }
    }
}

/// What a sentence is about.
fn subject(case: &CaseReport) -> String {
    let CaseReport {
        adapter,
        memory,
        ssd,
        ..
    } = case;
    match case.direction {
        Direction::NicToSsd => format!("{adapter} to SSD {ssd} by {memory}"),
        Direction::SsdToNic => format!("SSD {ssd} to {adapter} by {memory}"),
    }
}

/// The same of one case.
fn in_detail(case: &CaseReport) -> String {
    let flush = match case.flush {
        Some(true) => ", flushed",
        Some(false) => ", not flushed",
        None => "",
    };
    format!("{}, {} bytes{flush}", subject(case), case.block_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(peer: bool, own: bool, flush: Option<bool>, stale: u64) -> CaseReport {
        CaseReport {
            adapter: "soft 192.0.2.1".into(),
            memory: "memory".into(),
            peer,
            own,
            ssd: "0000:03:00.0".into(),
            nsid: 1,
            direction: flush.map_or(Direction::SsdToNic, |_| Direction::NicToSsd),
            flush,
            block_bytes: 4096,
            outcome: if stale == 0 {
                Outcome::Clean
            } else {
                Outcome::Stale
            },
            reason: None,
            transfers: 100,
            stale,
            first_stale: None,
            seconds: 1.0,
            bytes_per_second: 1.0,
        }
    }

    #[rstest::rstest]
    #[case::as_it_should_be(Flush::Auto, case(true, true, Some(false), 3), "keep it")]
    #[case::turned_off(Flush::Never, case(true, true, Some(false), 3), "WOULD CORRUPT DATA")]
    #[case::left_out(
        Flush::Auto,
        case(false, false, Some(false), 3),
        "set flush = \"always\""
    )]
    #[case::not_left_out(Flush::Always, case(false, false, Some(false), 3), "keep it")]
    #[case::nothing_seen(Flush::Auto, case(true, false, Some(false), 0), "does not prove")]
    fn what_is_stale_without_the_flush_is_told_and_fails_nothing(
        #[case] configured: Flush,
        #[case] case: CaseReport,
        #[case] said: &str,
    ) {
        let Judgement { failures, notes } = judge(&[case], configured);
        assert!(failures.is_empty(), "{failures:?}");
        assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
    }

    #[rstest::rstest]
    #[case::with_the_flush(case(true, false, Some(true), 1), "1 of 200 transfers WITH the flush")]
    #[case::reads_by_another(case(true, false, None, 2), "let its namespaces use the SSD's own")]
    #[case::reads_by_its_own(case(true, true, None, 2), "set p2p = \"off\"")]
    #[case::reads_by_host_memory(case(false, false, None, 2), "look for a fault")]
    fn anything_else_that_is_stale_fails_once_for_all_block_sizes_with_a_remedy(
        #[case] case: CaseReport,
        #[case] said: &str,
    ) {
        let long = CaseReport {
            block_bytes: 128 << 10,
            stale: 0,
            outcome: Outcome::Clean,
            ..case.clone()
        };
        let Judgement { failures, notes } = judge(&[case, long], Flush::Auto);
        assert!(
            failures.len() == 1 && failures[0].contains(said),
            "{failures:?}"
        );
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn where_nothing_was_tested_nothing_has_passed() {
        let untested = CaseReport {
            outcome: Outcome::NotTestable,
            transfers: 0,
            ..case(true, true, Some(true), 0)
        };
        for cases in [&[][..], std::slice::from_ref(&untested)] {
            let failures = judge(cases, Flush::Auto).failures;
            assert!(
                failures[0].contains("nothing could be tested"),
                "{failures:?}"
            );
        }
        let tested = [untested, case(true, true, None, 0)];
        assert!(judge(&tested, Flush::Auto).failures.is_empty());
    }
}
