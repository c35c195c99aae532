//! The driver, run against the model.

mod cmb;
mod events;
mod faults;
mod faults_recovery;
mod io;
mod liar;
mod open;
mod pmr;
mod queue;
mod random;
mod rescan;
mod restart;
mod splitting;

use sidelane_p2p::provider::{MemoryProvider, Provider};
use sidelane_p2p::{DmaSpace, PciAddress, Region};

use super::*;
use crate::model::{ModelBacking, ModelBus, ModelCmb, ModelController, ModelOptions};
use crate::spec::{Status, offset};

/// Two controllers on one bus, the first with a memory buffer.
pub(super) struct Bench {
    pub(super) bus: ModelBus,
    pub(super) near: ModelController,
    pub(super) far: ModelController,
}

pub(super) const NEAR: PciAddress = PciAddress {
    domain: 0,
    bus: 3,
    device: 0,
    function: 0,
};
pub(super) const FAR: PciAddress = PciAddress {
    domain: 0,
    bus: 4,
    device: 0,
    function: 0,
};

impl Bench {
    pub(super) fn new(near: ModelOptions, far: ModelOptions) -> Self {
        let bus = ModelBus::new();
        let near = ModelOptions {
            address: NEAR,
            serial: "NEAR".into(),
            ..near
        };
        let far = ModelOptions {
            address: FAR,
            serial: "FAR".into(),
            ..far
        };
        let near = ModelController::new(&bus, near);
        let far = ModelController::new(&bus, far);
        Self { bus, near, far }
    }

    pub(super) fn with_cmbs() -> Self {
        let options = ModelOptions {
            cmb: Some(ModelCmb::new(8 << 20)),
            ..ModelOptions::default()
        };
        Self::new(options.clone(), options)
    }
}

pub(super) fn open(model: &ModelController) -> Controller<ModelBacking> {
    Controller::open(model.backing(), Options::default()).unwrap()
}

/// Opens with a short limit for admin commands.
pub(super) fn open_impatiently(model: &ModelController) -> Controller<ModelBacking> {
    let options = Options {
        admin_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    Controller::open(model.backing(), options).unwrap()
}

/// The controller's memory buffer as a region that all of the bus can reach.
pub(super) fn cmb_of(controller: &Controller<ModelBacking>) -> Region {
    let window = controller.enable_cmb().unwrap().unwrap();
    let provider = MemoryProvider::cmb(controller.backing().clone(), window);
    provider.open().unwrap().region
}

pub(super) fn host(bus: &ModelBus, len: usize) -> Region {
    bus.host_region("test data", len).unwrap()
}

/// Submits one command and gives its status.
pub(super) fn run(queue: &mut IoQueuePair<ModelBacking>, command: IoCommand<'_>) -> Status {
    queue.submit(command, 77).unwrap();
    queue.ring();
    let mut statuses = Vec::new();
    queue.poll(16, |completion| {
        assert_eq!(completion.tag, 77);
        statuses.push(completion.status);
    });
    assert_eq!(statuses.len(), 1);
    statuses[0]
}

/// Bytes that differ from place to place and from seed to seed.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn bytes_of(region: &Region, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    region.view().read(offset, &mut bytes).unwrap();
    bytes
}
