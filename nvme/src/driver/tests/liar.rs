//! A model that does not tell the truth: registers and what admin commands bring
//! are altered on the way to the driver.

use std::ops::Range;

use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::BarInfo;
use sidelane_p2p::{DmaError, DmaSpace};

use super::*;
use crate::BackingError;

/// What becomes of a register's value, given its offset.
type Sight = Box<dyn Fn(u32, u64) -> u64 + Send + Sync>;
/// Alters the data of an admin command.
type Forgery = Box<dyn Fn(&Region) + Send + Sync>;

pub(super) struct Liar {
    pub(super) model: ModelController,
    real: ModelBacking,
    bus: ModelBus,
    sight: Sight,
    forgery: Forgery,
    /// Where the data of admin commands goes.
    data: Mutex<Option<Region>>,
}

impl Liar {
    /// A controller that lies nowhere yet.
    pub(super) fn new() -> Self {
        let bus = ModelBus::new();
        let options = ModelOptions {
            cmb: Some(ModelCmb::new(64 << 10)),
            shadow_doorbells: true,
            ..ModelOptions::default()
        };
        let model = ModelController::new(&bus, options);
        Self {
            real: model.backing(),
            model,
            bus,
            sight: Box::new(|_, value| value),
            forgery: Box::new(|_| ()),
            data: Mutex::default(),
        }
    }

    pub(super) fn seen(self, f: impl Fn(u32, u64) -> u64 + Send + Sync + 'static) -> Self {
        let sight = Box::new(f);
        Self { sight, ..self }
    }

    pub(super) fn forging(self, f: impl Fn(&Region) + Send + Sync + 'static) -> Self {
        let forgery = Box::new(f);
        Self { forgery, ..self }
    }
}

impl DmaSpace for Liar {
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
        let region = self.bus.host_region(name, len)?;
        if name.starts_with("admin data") {
            *lock(&self.data) = Some(region.clone());
        }
        Ok(region)
    }
}

impl BarOwner for Liar {
    fn address(&self) -> PciAddress {
        self.real.address()
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        self.real.bar_region(name, bar, range)
    }
}

impl Backing for Liar {
    fn read32(&self, at: u32) -> u32 {
        (self.sight)(at, self.real.read32(at).into()) as u32
    }

    fn read64(&self, at: u32) -> u64 {
        (self.sight)(at, self.real.read64(at))
    }

    fn write32(&self, at: u32, value: u32) {
        self.real.write32(at, value);
        if at == offset::sq_tail(0, 0)
            && let Some(data) = &*lock(&self.data)
        {
            (self.forgery)(data);
        }
    }

    fn write64(&self, at: u32, value: u64) {
        self.real.write64(at, value);
    }

    fn space(&self) -> &dyn DmaSpace {
        self
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
