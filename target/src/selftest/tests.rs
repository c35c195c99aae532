//! Whole self-tests on modelled SSDs, with an adapter that is as it should be
//! and with others.

mod double;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::double::Manner;
use self::stage::Stage;
use super::{CaseReport, Direction, FirstStale, Outcome, SelftestOptions, SelftestReport};

/// Polls after which no test waits for data any more.
const VERY_LATE: u32 = 1_000_000;

fn small() -> SelftestOptions {
    SelftestOptions {
        rounds: 3,
        depth: 5,
        block_bytes: vec![4096, 32 << 10],
        ..SelftestOptions::default()
    }
}

/// The cases of this kind, of which there must be some.
fn of(report: &SelftestReport, direction: Direction, flush: Option<bool>) -> Vec<&CaseReport> {
    let fits = |case: &&CaseReport| (case.direction, case.flush) == (direction, flush);
    let cases: Vec<_> = report.cases.iter().filter(fits).collect();
    assert!(!cases.is_empty(), "{report:?}");
    cases
}

fn stale(cases: &[&CaseReport]) -> Vec<(u64, u64)> {
    cases.iter().map(|it| (it.stale, it.transfers)).collect()
}

#[test]
fn an_adapter_in_order_passes_by_own_by_other_and_by_host_memory_with_exact_counts() {
    let stage = Stage::new(1 << 20);
    let report = stage.run("prefer", &small(), None);
    assert!(report.passed && !report.interrupted, "{report:#?}");
    let memory = |case: &CaseReport| (case.ssd.clone(), case.peer, case.own);
    let mut seen: Vec<_> = report.cases.iter().map(memory).collect();
    seen.dedup();
    let (three, four) = ("0000:03:00.0".to_owned(), "0000:04:00.0".to_owned());
    let expected = [
        (three.clone(), true, true),
        (four.clone(), true, false),
        (three, false, false),
        (four, false, false),
    ];
    assert_eq!(seen, expected);
    // Two block sizes; with and without the flush, and reads.
    assert_eq!(report.cases.len(), 4 * 2 * 3);
    for case in &report.cases {
        assert_eq!((case.outcome, case.reason.as_ref()), (Outcome::Clean, None));
        assert_eq!((case.transfers, case.stale), (15, 0), "{case:?}");
        assert!(case.bytes_per_second > 0.0 && case.first_stale.is_none());
    }
    let modest = "no stale data was seen in 30 transfers without the flush; that does not prove";
    let said = report.notes.iter().filter(|note| note.contains(modest));
    assert_eq!(said.count(), 4, "{:?}", report.notes);
}

#[test]
fn data_that_arrives_late_is_found_without_the_flush_and_only_without() {
    let stage = Stage::new(1 << 20);
    let late = Manner {
        late: VERY_LATE,
        ..Manner::default()
    };
    let report = stage.run("require", &small(), Some(late));
    let without = of(&report, Direction::NicToSsd, Some(false));
    assert_eq!(stale(&without), [(15, 15); 4]);
    for case in &without {
        let first = FirstStale {
            round: 0,
            slot: 0,
            lba: 0,
        };
        assert_eq!(
            (case.outcome, case.first_stale),
            (Outcome::Stale, Some(first))
        );
    }
    let with = of(&report, Direction::NicToSsd, Some(true));
    assert_eq!(stale(&with), [(0, 15); 4]);
    assert_eq!(stale(&of(&report, Direction::SsdToNic, None)), [(0, 15); 4]);
    assert!(report.passed, "{:?}", report.failures);
    assert!(report.notes[0].contains("this machine needs the flush"));
    assert!(report.to_string().contains("this machine needs the flush"));
}

#[test]
fn data_that_arrives_with_its_completion_is_not_stale() {
    let manner = Manner {
        late: 1,
        ..Manner::default()
    };
    let report = Stage::new(1 << 20).run("require", &small(), Some(manner));
    assert!(
        report.cases.iter().all(|case| case.stale == 0),
        "{report:#?}"
    );
}

#[test]
fn host_memory_is_tested_where_the_policy_is_off() {
    let report = Stage::new(1 << 20).run("off", &small(), None);
    assert!(report.passed && report.cases.len() == 12, "{report:#?}");
    assert!(
        report
            .cases
            .iter()
            .all(|case| !case.peer && case.transfers == 15)
    );
}

#[test]
fn host_memory_in_place_of_peer_memory_is_told_with_the_reason() {
    // No SSD has memory of its own, and no provider is configured.
    let report = Stage::without_cmb().run("prefer", &small(), None);
    assert!(
        report.passed && report.cases.iter().all(|case| !case.peer),
        "{report:#?}"
    );
    let said = |nsid: u32| format!("nsid {nsid} (p2p = \"prefer\") by soft");
    for nsid in [1, 2] {
        let note = report.notes.iter().find(|note| note.contains(&said(nsid)));
        assert!(
            note.is_some_and(|it| it.contains("no peer memory is configured")),
            "{report:#?}"
        );
    }
}

#[test]
fn an_adapter_that_reads_too_early_fails_with_what_to_do() {
    let manner = Manner {
        reads_early: true,
        ..Manner::default()
    };
    let report = Stage::new(1 << 20).run("prefer", &small(), Some(manner));
    assert!(!report.passed);
    for case in of(&report, Direction::SsdToNic, None) {
        let expected = if case.peer { 15 } else { 0 };
        assert_eq!(case.stale, expected, "{case:?}");
    }
    let [own, other] = &report.failures[..] else {
        panic!("{:?}", report.failures)
    };
    assert!(
        own.contains("30 of 30") && own.contains("set p2p = \"off\""),
        "{own}"
    );
    assert!(other.contains("the SSD's own memory"), "{other}");
}

#[test]
fn a_flush_that_does_not_help_is_never_passed() {
    let manner = Manner {
        late: VERY_LATE,
        flush_helps: false,
        ..Manner::default()
    };
    let report = Stage::new(1 << 20).run("require", &small(), Some(manner));
    assert!(!report.passed, "{report:#?}");
}

#[test]
fn an_adapter_with_little_room_gets_no_more_than_it_takes_and_nothing_is_lost() {
    let manner = Manner {
        room: 2,
        ..Manner::default()
    };
    let most = Arc::clone(&manner.most);
    let report = Stage::new(1 << 20).run("require", &small(), Some(manner));
    assert!(report.passed, "{report:#?}");
    assert!(report.cases.iter().all(|case| case.transfers == 15));
    assert_eq!(most.load(Ordering::Relaxed), 2);
}

#[rstest::rstest]
#[case::no_self_test(Manner { refuses: true, ..Manner::default() }, Outcome::NotTestable, "says the double")]
#[case::an_error(Manner { fails_at: 0, ..Manner::default() }, Outcome::Failed, "RemoteAccess")]
fn what_the_adapter_does_not_do_is_not_passed(
    #[case] manner: Manner,
    #[case] outcome: Outcome,
    #[case] said: &str,
) {
    let report = Stage::new(1 << 20).run("require", &small(), Some(manner));
    assert!(!report.passed, "{report:#?}");
    let first = &report.cases[0];
    assert_eq!((first.outcome, first.transfers), (outcome, 0));
    assert!(first.reason.as_ref().unwrap().contains(said), "{first:?}");
    if outcome == Outcome::Failed {
        // What came after an error is none of its business.
        assert!(
            report.cases[1..]
                .iter()
                .all(|it| it.outcome == Outcome::Clean)
        );
        assert_eq!(report.failures.len(), 1);
    } else {
        assert_eq!(
            report.failures,
            ["nothing could be tested, so nothing is known"]
        );
    }
}

#[test]
fn an_adapter_that_ends_nothing_is_given_up_and_said_to_do_nothing() {
    let manner = Manner {
        silent: true,
        ..Manner::default()
    };
    let options = SelftestOptions {
        block_bytes: vec![4096],
        patience: Duration::from_millis(20),
        ..small()
    };
    let report = Stage::new(1 << 20).run("require", &options, Some(manner));
    assert_eq!((report.passed, report.failures.len()), (false, 6));
    for failure in &report.failures {
        assert!(failure.contains("for 20ms neither"), "{failure}");
    }
}

#[test]
fn an_interruption_ends_it_in_order_with_what_was_seen_so_far() {
    let stage = Stage::new(1 << 20);
    let stop = Arc::new(AtomicBool::new(false));
    // Junk to show that it is seen, then a round of junk and data: in the second.
    let manner = Manner {
        stop: Some((Arc::clone(&stop), 5 + 10 + 2)),
        ..Manner::default()
    };
    let report = stage.run_until("require", &small(), Some(manner), &stop);
    assert!(report.interrupted && !report.passed);
    let [case] = &report.cases[..] else {
        panic!("{report:#?}")
    };
    assert_eq!((case.transfers, case.outcome), (10, Outcome::Clean));
    assert!(report.to_string().contains("interrupted"));
    // And nothing of it stays: another one finds all as it has to be.
    assert!(stage.run("require", &small(), None).passed);
    let report = stage.run_until("require", &small(), None, &AtomicBool::new(true));
    assert!(report.cases.is_empty() && report.interrupted && !report.passed);
}

#[test]
fn memory_that_is_too_small_for_a_transfer_is_not_testable_and_for_all_of_them_is_shared() {
    let stage = Stage::new(48 << 10);
    let options = SelftestOptions {
        depth: 32,
        block_bytes: vec![4096, 128 << 10],
        ..small()
    };
    let report = stage.run("require", &options, None);
    assert!(report.passed, "{report:#?}");
    for case in &report.cases {
        let expected = match case.block_bytes {
            4096 => (Outcome::Clean, 3 * 12),
            _ => (Outcome::NotTestable, 0),
        };
        assert_eq!((case.outcome, case.transfers), expected, "{case:?}");
    }
    assert!(
        report
            .notes
            .iter()
            .any(|it| it.starts_with("not tested") && it.contains("131072"))
    );
}

#[test]
fn json_has_what_programs_look_for_and_the_table_what_people_do() {
    let late = Manner {
        late: VERY_LATE,
        ..Manner::default()
    };
    let report = Stage::new(1 << 20).run("require", &small(), Some(late));
    let json = report.to_json().unwrap();
    assert!(!json.contains('\n'));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    for key in [
        "passed",
        "interrupted",
        "rounds",
        "depth",
        "configured_flush",
        "seconds",
        "cases",
        "failures",
        "notes",
    ] {
        assert!(!value[key].is_null(), "no {key} in {json}");
    }
    let case = &value["cases"][1];
    let expected = serde_json::json!({
        "direction": "nic-to-ssd", "flush": false, "block_bytes": 4096, "outcome": "stale",
        "peer": true, "own": true, "ssd": "0000:03:00.0", "nsid": 1, "transfers": 15, "stale": 15,
        "memory": "cmb of 0000:03:00.0", "reason": null,
        "first_stale": { "round": 0, "slot": 0, "lba": 0 },
    });
    for (key, expected) in expected.as_object().unwrap() {
        assert_eq!(&case[key], expected, "{key}");
    }
    for key in ["adapter", "seconds", "bytes_per_second"] {
        assert!(!case[key].is_null(), "no {key} in {case}");
    }
    assert_eq!(value["cases"][2]["flush"], serde_json::Value::Null);
    let text = report.to_string();
    for words in [
        "without",
        "none known",
        "round 0 slot 0 LBA 0",
        "4.00 KiB",
        "PASSED",
    ] {
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }
}
