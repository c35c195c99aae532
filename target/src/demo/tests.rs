//! The workload against the initiator's scripted target.

use std::sync::atomic::{AtomicBool, Ordering};

use super::DemoError;
use super::pattern::{Difference, Pattern};
use super::progress::Progress;
use super::workload::Plan;
use crate::initiator::Host;
use crate::initiator::tests::{BLOCK, BLOCKS, Script, endpoint, options};

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
};

fn go() -> AtomicBool {
    AtomicBool::new(false)
}

#[test]
fn a_whole_namespace_is_written_and_read_back_the_shorter_last_command_included() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let written = PLAN.write(&mut host, &mut Progress::Silent, &go()).unwrap();
    let (read, difference) = PLAN.read(&mut host, &mut Progress::Silent, &go()).unwrap();
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
    PLAN.write(&mut host, &mut Progress::Silent, &go()).unwrap();
    fabric.lock().unwrap().target.media(7)[5 * BLOCK + 17] ^= 1;
    let (_, difference) = PLAN.read(&mut host, &mut Progress::Silent, &go()).unwrap();
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
    PLAN.write(&mut host, &mut Progress::Silent, &go()).unwrap();
    let second = Plan {
        pattern: Pattern {
            pass: 1,
            ..PLAN.pattern
        },
        ..PLAN
    };
    let (_, difference) = second
        .read(&mut host, &mut Progress::Silent, &go())
        .unwrap();
    assert!(difference.bytes > PLAN.bytes * 9 / 10, "{difference:?}");

    // Fewer commands than places: what was written still lies in the data area.
    let small = Plan {
        bytes: BLOCK as u64,
        ..PLAN
    };
    small
        .write(&mut host, &mut Progress::Silent, &go())
        .unwrap();
    drop(host);
    let (_, mut endpoint) = self::endpoint(Script {
        loses_read_data: true,
        ..Script::default()
    });
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    small
        .write(&mut host, &mut Progress::Silent, &go())
        .unwrap();
    let (_, difference) = small.read(&mut host, &mut Progress::Silent, &go()).unwrap();
    assert!(
        difference.bytes > 0,
        "data that never came is not taken for the old"
    );
}

#[test]
fn an_interruption_and_an_error_status_end_it() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let stop = AtomicBool::new(false);
    stop.store(true, Ordering::Relaxed);
    let error = PLAN
        .write(&mut host, &mut Progress::Silent, &stop)
        .unwrap_err();
    assert!(matches!(error, DemoError::Interrupted));
    let too_much = Plan {
        bytes: PLAN.bytes + BLOCK as u64,
        ..PLAN
    };
    let error = too_much
        .write(&mut host, &mut Progress::Silent, &go())
        .unwrap_err();
    assert!(error.to_string().contains("LBA Out of Range"), "{error}");
}
