//! Opening, identifying, shutting down.

use std::sync::atomic::{AtomicU32, Ordering};

use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::BarInfo;
use sidelane_p2p::{DmaError, DmaSpace};

use super::*;
use crate::BackingError;
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

/// A backing with registers that a test makes up.
struct Odd {
    real: ModelBacking,
    csts: Option<u32>,
    cap: Option<u64>,
    writes_of_cc: AtomicU32,
}

impl Odd {
    fn new(csts: Option<u32>, cap: Option<u64>) -> Self {
        let real = ModelController::new(&ModelBus::new(), ModelOptions::default()).backing();
        Self {
            real,
            csts,
            cap,
            writes_of_cc: AtomicU32::new(0),
        }
    }
}

impl BarOwner for Odd {
    fn address(&self) -> PciAddress {
        self.real.address()
    }

    fn bar_region(
        &self,
        name: &str,
        bar: u8,
        range: std::ops::Range<usize>,
    ) -> Result<Region, DmaError> {
        self.real.bar_region(name, bar, range)
    }
}

impl Backing for Odd {
    fn read32(&self, at: u32) -> u32 {
        let told = self.csts.filter(|_| at == offset::CSTS);
        told.unwrap_or_else(|| self.real.read32(at))
    }

    fn read64(&self, at: u32) -> u64 {
        self.cap
            .filter(|_| at == offset::CAP)
            .unwrap_or_else(|| self.real.read64(at))
    }

    fn write32(&self, at: u32, value: u32) {
        if at == offset::CC {
            self.writes_of_cc.fetch_add(1, Ordering::Relaxed);
        }
        self.real.write32(at, value);
    }

    fn write64(&self, at: u32, value: u64) {
        self.real.write64(at, value);
    }

    fn space(&self) -> &dyn DmaSpace {
        self.real.space()
    }

    fn bar_info(&self, bar: u8) -> Result<BarInfo, BackingError> {
        self.real.bar_info(bar)
    }

    fn interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, BackingError> {
        self.real.interrupts(count)
    }

    fn set_dma(&self, on: bool) -> Result<(), BackingError> {
        self.real.set_dma(on)
    }

    fn quiesce(&self) {
        self.real.quiesce();
    }
}

#[rstest::rstest]
#[case::gone_from_the_start(Odd::new(None, Some(u64::MAX)), "does not answer")]
#[case::gone_at_reset(Odd::new(Some(u32::MAX), None), "does not answer")]
#[case::never_idle(Odd::new(Some(1), Some(1023 | 1 << 37)), "idle after a reset")]
#[case::never_ready(Odd::new(Some(0), Some(1023 | 1 << 37)), "become ready")]
#[case::fatal(Odd::new(Some(2), Some(1023 | 1 << 37)), "CSTS.CFS")]
#[case::no_command_set(Odd::new(None, Some(1023)), "no I/O command set")]
#[case::large_pages(Odd::new(None, Some(1023 | 1 << 37 | 1 << 48)), "4 KiB")]
fn a_controller_that_cannot_be_used_is_refused_in_words(#[case] odd: Odd, #[case] words: &str) {
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
