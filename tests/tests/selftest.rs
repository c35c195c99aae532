//! The self-test, on SSDs that are not as the model is by itself: without the
//! Compare command, and with one that they only announce.
// Helpers of tests are not tests to clippy.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sidelane::devices::{Devices, ModelDevices};
use sidelane::selftest::{self, Direction, Observer, Outcome, SelftestOptions, SelftestReport};
use sidelane_config::Config;
use sidelane_nvme::Backing;
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelCmb, ModelController, ModelOptions};
use sidelane_p2p::provider::{Fitness, MemoryFunction};
use sidelane_p2p::{DmaSpace, PciAddress, Placement};
use sidelane_tests::hooked::{Hook, Hooked, Memory};
use uuid::Uuid;

/// Offset of the model number, and of ONCS, in Identify Controller data.
const MODEL_NUMBER: usize = 24;
const ONCS: usize = 520;

/// The opcode of Compare.
const COMPARE: u8 = 0x05;

/// How an SSD lacks Compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// It says so.
    Openly,
    /// It announces it, and knows no such opcode.
    Secretly,
}

impl Hook for Lacks {
    fn write32(&self, model: &ModelBacking, memory: &Memory, offset: u32, value: u32) {
        if *self == Self::Secretly && offset >= 0x1000 {
            // No command in any queue stays a Compare: 7Fh is no opcode.
            for queue in memory.regions().iter() {
                if !queue.name().contains("submission") || queue.name().contains("admin") {
                    continue;
                }
                for at in (0..queue.len()).step_by(64) {
                    let mut opcode = [0];
                    queue.view().read(at, &mut opcode).unwrap();
                    if opcode == [COMPARE] {
                        queue.view().write(at, &[0x7f]).unwrap();
                    }
                }
            }
        }
        model.write32(offset, value);
        if *self == Self::Openly {
            for region in memory.regions().iter() {
                let mut name = [0; 14];
                let there = region.view().read(MODEL_NUMBER, &mut name).is_ok();
                if there && &name == b"Sidelane Model" {
                    let mut oncs = [0];
                    region.view().read(ONCS, &mut oncs).unwrap();
                    region.view().write(ONCS, &[oncs[0] & !1]).unwrap();
                }
            }
        }
    }
}

struct LackingDevices {
    models: ModelDevices,
    lacks: Lacks,
}

impl Devices for LackingDevices {
    type Backing = Hooked<Lacks>;

    fn open(&self, address: PciAddress) -> anyhow::Result<Hooked<Lacks>> {
        Ok(Hooked::new(self.models.open(address)?, self.lacks))
    }

    fn open_memory(&self, address: PciAddress) -> anyhow::Result<Arc<dyn MemoryFunction>> {
        self.models.open_memory(address)
    }

    fn space(&self) -> Arc<dyn DmaSpace> {
        self.models.space()
    }

    fn verdict(&self, memory: Placement, clients: &[PciAddress]) -> Fitness {
        self.models.verdict(memory, clients)
    }
}

fn config() -> Config {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    let address = IpAddr::from(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)));
    let text = format!(
        "[target]\ncontrol = \"/nowhere/control.sock\"\ncores = [0]\n\
         [[listener]]\nid = \"front\"\nnic = \"soft\"\naddress = \"{address}\"\n\
         [[subsystem]]\nnqn = \"nqn.2026-11.io.sidelane:test\"\n\
         hosts = [\"nqn.2026-11.io.sidelane:host\"]\n\
         [[subsystem.namespace]]\nnsid = 1\n\
         backend = {{ kind = \"nvme\", device = \"0000:01:00.0\", nsid = 1 }}\np2p = \"off\"\n"
    );
    Config::parse(&text, "test").unwrap()
}

fn run<D: Devices>(devices: &D) -> SelftestReport {
    let options = SelftestOptions {
        rounds: 2,
        depth: 3,
        block_bytes: vec![4096],
        ..SelftestOptions::default()
    };
    let mut observer = Observer {
        stop: &AtomicBool::new(false),
        progress: &mut |_, _, _| {},
    };
    selftest::run(&config(), devices, &options, &mut observer).unwrap()
}

fn models() -> ModelDevices {
    let bus = ModelBus::new();
    let options = ModelOptions {
        cmb: Some(ModelCmb::new(1 << 20)),
        ..ModelOptions::default()
    };
    let ssd = ModelController::new(&bus, options);
    ModelDevices::new(bus, [ssd])
}

#[rstest::rstest]
#[case::openly(Lacks::Openly, "has no Compare command")]
#[case::secretly(Lacks::Secretly, "does not know it")]
fn without_compare_the_write_direction_is_not_testable_and_reads_are_tested(
    #[case] lacks: Lacks,
    #[case] said: &str,
) {
    let devices = LackingDevices {
        models: models(),
        lacks,
    };
    let report = run(&devices);
    assert_eq!(report.cases.len(), 3);
    for case in &report.cases {
        match case.direction {
            Direction::NicToSsd => {
                assert_eq!((case.outcome, case.transfers), (Outcome::NotTestable, 0));
                assert!(case.reason.as_ref().unwrap().contains(said), "{case:?}");
            }
            Direction::SsdToNic => {
                assert_eq!((case.outcome, case.transfers), (Outcome::Clean, 6));
            }
        }
    }
    assert!(report.passed, "{:?}", report.failures);
    let told = report
        .notes
        .iter()
        .filter(|it| it.starts_with("not tested"));
    assert_eq!(told.count(), 1, "{:?}", report.notes);
    assert!(
        !report.to_string().contains("without the flush"),
        "{report}"
    );
}

#[test]
fn with_compare_the_same_is_tested() {
    let report = run(&models());
    assert!(
        report
            .cases
            .iter()
            .all(|case| case.outcome == Outcome::Clean && case.transfers == 6)
    );
}
