//! Opening, identifying, shutting down.

use super::liar::Liar;
use super::*;
use crate::model::ModelNamespace;

#[test]
fn a_controller_is_opened_and_says_what_it_is() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    assert_eq!(controller.address(), NEAR);
    assert_eq!(controller.identify().sn.to_string(), "NEAR");
    assert_eq!(controller.version(), Version::V1_4);
    assert_eq!(controller.max_transfer_bytes(), 2 << 20);
    assert_eq!(controller.max_io_queue_pairs(), 16);
    let namespaces = controller.namespaces();
    let [namespace] = &namespaces[..] else {
        panic!("one namespace")
    };
    assert_eq!(
        (namespace.nsid, namespace.blocks, namespace.block_bytes),
        (1, 131_072, 512)
    );
    assert!(namespace.nguid.is_some_and(|id| id != [0; 16]));
    assert_ne!(namespace.nguid, open(&bench.far).namespaces()[0].nguid);
    controller.check().unwrap();
    assert_eq!(controller.smart_log().unwrap().spare_percent, 100);
}

#[test]
fn namespaces_of_both_block_sizes_are_found_and_unusable_ones_are_explained() {
    let plain = ModelNamespace::of_bytes(1 << 20);
    let namespaces = vec![
        plain,
        ModelNamespace {
            metadata_bytes: 8,
            ..plain
        },
        plain.in_4k_blocks(),
        ModelNamespace { lbads: 10, ..plain },
    ];
    let options = ModelOptions {
        namespaces,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    let found: Vec<_> = controller
        .namespaces()
        .iter()
        .map(|n| (n.nsid, n.blocks, n.block_bytes))
        .collect();
    assert_eq!(found, [(1, 2048, 512), (3, 256, 4096)]);
    let unusable = controller.unusable_namespaces();
    assert_eq!(unusable.iter().map(|n| n.nsid).collect::<Vec<_>>(), [2, 4]);
    assert!(
        unusable[0].reason.contains("--ms=0"),
        "{}",
        unusable[0].reason
    );
}

#[test]
fn more_namespaces_than_one_list_holds_are_all_found() {
    let namespaces = vec![ModelNamespace::of_bytes(4096); 1500];
    let options = ModelOptions {
        namespaces,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    assert_eq!(open(&bench.near).namespaces().len(), 1500);
}

#[test]
fn a_controller_can_be_closed_and_opened_again() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let queue = controller.create_io_queue_pair(8).unwrap();
    queue.delete().unwrap();
    controller.shutdown().unwrap();
    drop(open(&bench.near));
    open(&bench.near).shutdown().unwrap();
    assert_eq!(
        bench.near.touched().faults,
        0,
        "nothing was touched after it was unmapped"
    );
}

#[test]
fn without_interrupts_there_is_no_eventfd() {
    let bench = Bench::with_cmbs();
    let options = Options {
        interrupts: false,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    assert!(
        controller
            .create_io_queue_pair(8)
            .unwrap()
            .eventfd()
            .is_none()
    );
}

/// A controller that shows these values, where there are some.
fn odd(csts: Option<u32>, cap: Option<u64>) -> Liar {
    Liar::new().seen(move |at, value| match at {
        offset::CSTS => csts.map_or(value, u64::from),
        offset::CAP => cap.unwrap_or(value),
        _ => value,
    })
}

#[rstest::rstest]
#[case::gone_from_the_start(odd(None, Some(u64::MAX)), "does not answer")]
#[case::gone_at_reset(odd(Some(u32::MAX), None), "does not answer")]
#[case::never_idle(odd(Some(1), Some(1023 | 1 << 37)), "idle after a reset")]
#[case::never_ready(odd(Some(0), Some(1023 | 1 << 37)), "become ready")]
#[case::fatal(odd(Some(2), Some(1023 | 1 << 37)), "CSTS.CFS")]
#[case::no_command_set(odd(None, Some(1023)), "no I/O command set")]
#[case::no_room_for_doorbells(odd(None, Some(1023 | 1 << 37 | 15 << 32)), "CAP.DSTRD")]
#[case::large_pages(odd(None, Some(1023 | 1 << 37 | 1 << 48)), "4 KiB")]
fn a_controller_that_cannot_be_used_is_refused_in_words(#[case] odd: Liar, #[case] words: &str) {
    let error = Controller::open(odd, Options::default())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(words), "{error}");
    assert!(error.contains("0000:01:00.0"), "{error}");
}

#[test]
fn an_admin_command_without_answer_ends_and_the_controller_is_given_up() {
    let options = ModelOptions {
        defer: true,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let options = Options {
        admin_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let error = Controller::open(bench.near.backing(), options)
        .err()
        .unwrap();
    assert!(error.to_string().contains("more than 50 ms"), "{error}");
    assert!(matches!(
        error,
        DriverError::Timeout {
            doing: "Identify Controller",
            ..
        }
    ));
}
