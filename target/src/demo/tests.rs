//! The workload against the initiator's scripted target, and small demos against
//! the real one.

use std::sync::atomic::AtomicBool;

use sidelane_nvme::spec::Nqn;

use super::pattern::{Difference, Pattern};
use super::play;
use super::progress::Progress;
use super::stage::Stage;
use super::workload::{Measure, Observer, Plan};
use super::{DemoError, DemoOptions, run};
use crate::initiator::tests::{BLOCK, BLOCKS, Script, endpoint, options};
use crate::initiator::{Host, HostOptions};

const PLAN: Plan = Plan {
    nsid: 7,
    pattern: Pattern {
        seed: 3,
        pass: 0,
        block_bytes: BLOCK,
    },
    bytes: (BLOCKS * BLOCK) as u64,
    command_bytes: 3 * BLOCK,
    depth: 4,
    lap: 10,
};

static GO: AtomicBool = AtomicBool::new(false);

fn write(plan: &Plan, host: &mut Host<'_>) -> Result<Measure, DemoError> {
    let (progress, at_rest) = (&mut Progress::Silent, &mut || ());
    plan.write(
        host,
        &mut Observer {
            progress,
            stop: &GO,
            at_rest,
        },
    )
}

fn read(plan: &Plan, host: &mut Host<'_>) -> Result<(Measure, Difference), DemoError> {
    let (progress, at_rest) = (&mut Progress::Silent, &mut || ());
    plan.read(
        host,
        &mut Observer {
            progress,
            stop: &GO,
            at_rest,
        },
    )
}

#[test]
fn a_whole_namespace_is_written_and_read_back_the_shorter_last_command_included() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let written = write(&PLAN, &mut host).unwrap();
    let (read, difference) = read(&PLAN, &mut host).unwrap();
    for measure in [written, read] {
        assert_eq!((measure.commands, measure.bytes), (22, PLAN.bytes));
        assert_eq!(measure.latency.len(), 22);
    }
    assert_eq!(difference, Difference::default());
}

#[test]
fn a_byte_that_changed_on_the_media_is_found() {
    let (fabric, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    write(&PLAN, &mut host).unwrap();
    fabric.lock().unwrap().target.media(7)[5 * BLOCK + 17] ^= 1;
    let (_, difference) = read(&PLAN, &mut host).unwrap();
    assert_eq!(
        difference,
        Difference {
            bytes: 1,
            first: Some((5, 17))
        }
    );
}

#[test]
fn data_of_another_pass_or_data_that_never_arrives_is_found() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    write(&PLAN, &mut host).unwrap();
    let second = Plan {
        pattern: Pattern {
            pass: 1,
            ..PLAN.pattern
        },
        ..PLAN
    };
    let (_, difference) = read(&second, &mut host).unwrap();
    assert!(difference.bytes > PLAN.bytes * 9 / 10, "{difference:?}");

    // Fewer commands than places: what was written still lies in the data area.
    let small = Plan {
        bytes: BLOCK as u64,
        ..PLAN
    };
    write(&small, &mut host).unwrap();
    drop(host);
    let (_, mut endpoint) = self::endpoint(Script {
        loses_read_data: true,
        ..Script::default()
    });
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    write(&small, &mut host).unwrap();
    let (_, difference) = read(&small, &mut host).unwrap();
    assert!(
        difference.bytes > 0,
        "data that never came is not taken for the old"
    );
}

#[test]
fn an_interruption_and_an_error_status_end_it() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let (progress, at_rest) = (&mut Progress::Silent, &mut || ());
    let stop = &AtomicBool::new(true);
    let error = PLAN
        .write(
            &mut host,
            &mut Observer {
                progress,
                stop,
                at_rest,
            },
        )
        .unwrap_err();
    assert!(matches!(error, DemoError::Interrupted));
    let too_much = Plan {
        bytes: PLAN.bytes + BLOCK as u64,
        ..PLAN
    };
    let error = write(&too_much, &mut host).unwrap_err();
    assert!(error.to_string().contains("LBA Out of Range"), "{error}");
}

#[test]
fn between_laps_nothing_is_on_its_way() {
    let (fabric, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let before = fabric.lock().unwrap().target.log.len();
    let mut seen = Vec::new();
    let at_rest = &mut || seen.push(fabric.lock().unwrap().target.log.len() - before);
    let progress = &mut Progress::Silent;
    PLAN.write(
        &mut host,
        &mut Observer {
            progress,
            stop: &GO,
            at_rest,
        },
    )
    .unwrap();
    assert_eq!(seen, [10, 20, 22]);
}

fn small() -> DemoOptions {
    DemoOptions {
        json: true,
        bytes: 1 << 20,
        block_bytes: 64 << 10,
        depth: 4,
        spoil: false,
    }
}

#[test]
fn two_demos_side_by_side_both_pass() {
    let demo = || run(&small(), &AtomicBool::new(false)).unwrap();
    let reports = std::thread::scope(|scope| {
        let other = scope.spawn(demo);
        [demo(), other.join().unwrap()]
    });
    for report in reports {
        assert!(report.passed(), "{:?}", report.failures);
        let [require, off] = &report.namespaces[..] else {
            panic!("{report:?}")
        };
        assert_eq!(
            (require.payload_bytes_peer, require.payload_bytes_host),
            (2 << 20, 0)
        );
        assert_eq!(
            (off.payload_bytes_peer, off.payload_bytes_host),
            (0, 2 << 20)
        );
        for namespace in [require, off] {
            assert_eq!(
                (namespace.bytes_written, namespace.bytes_read),
                (1 << 20, 1 << 20)
            );
            assert_eq!(namespace.ssd_payload_bytes_inside, 2 << 20);
            assert!(namespace.ssd_addresses_checked >= 32, "{namespace:?}");
        }
    }
}

#[test]
fn one_byte_that_an_ssd_changes_fails_the_demo_and_nothing_else_does() {
    let options = DemoOptions {
        spoil: true,
        ..small()
    };
    let report = run(&options, &AtomicBool::new(false)).unwrap();
    assert!(!report.verified && !report.passed());
    assert!(!report.namespaces[0].verified && report.namespaces[1].verified);
    assert_eq!(report.namespaces[0].mismatched_bytes, 1);
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert!(
        report.failures[0].contains("LBA 0 byte 2048"),
        "{}",
        report.failures[0]
    );
    let json: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(json["verified"], false);
}

#[test]
fn a_demo_that_is_told_to_stop_stops() {
    let error = run(&small(), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, DemoError::Interrupted), "{error}");
}

#[rstest::rstest]
#[case::no_bytes(DemoOptions { bytes: 0, ..small() }, "0 bytes")]
#[case::half_a_block(DemoOptions { bytes: 6144, ..small() }, "6144 bytes")]
#[case::long(DemoOptions { block_bytes: 2 << 20, ..small() }, "2097152 bytes")]
#[case::shallow(DemoOptions { depth: 0, ..small() }, "0 commands")]
#[case::deep(DemoOptions { depth: 128, ..small() }, "128 commands")]
fn options_that_make_no_sense_are_refused(#[case] options: DemoOptions, #[case] said: &str) {
    let error = run(&options, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn the_real_target_refuses_a_strange_host_a_strange_subsystem_and_a_strange_port() {
    let mut stage = Stage::open(&small()).unwrap();
    let good = play::find(&mut stage, &small()).unwrap();
    let strange: Nqn = "nqn.2026-11.io.sidelane:strange".parse().unwrap();
    let mut port = good.remote;
    port.set_port(4421);
    let cases = [
        (
            HostOptions {
                hostnqn: strange.clone(),
                ..good.clone()
            },
            "does not allow",
        ),
        (
            HostOptions {
                subnqn: strange,
                ..good.clone()
            },
            "does not take the subsystem NQN",
        ),
        (
            HostOptions {
                remote: port,
                ..good.clone()
            },
            "nothing listens on this port",
        ),
    ];
    for (options, said) in cases {
        let refused = Host::connect(&mut stage.endpoint, options);
        let error = refused
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains(said), "`{error}` does not say `{said}`");
    }
    Host::connect(&mut stage.endpoint, good)
        .unwrap()
        .disconnect()
        .unwrap();
    stage.close().unwrap();
}
