//! A modelled SSD with something between it and its driver: to count what the
//! driver does, or to lie to it.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidelane_nvme::model::ModelBacking;
use sidelane_nvme::{Backing, BackingError};
use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::BarInfo;
use sidelane_p2p::{DmaError, DmaSpace, PciAddress, Region};

/// What stands between.
pub trait Hook: Send + Sync + 'static {
    /// The driver writes a register; whoever implements this passes it on.
    fn write32(&self, model: &ModelBacking, memory: &Memory, offset: u32, value: u32) {
        let _ = memory;
        model.write32(offset, value);
    }

    /// What the driver gets to see of a register that holds `value`.
    fn seen(&self, offset: u32, value: u64) -> u64 {
        let _ = offset;
        value
    }
}

/// The host memory that the driver was given, in order. Keeps all of it mapped.
#[derive(Debug, Default, Clone)]
pub struct Memory(Arc<Mutex<Vec<Region>>>);

impl Memory {
    /// All regions so far.
    pub fn regions(&self) -> MutexGuard<'_, Vec<Region>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Space {
    model: ModelBacking,
    memory: Memory,
}

impl DmaSpace for Space {
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
        let region = self.model.space().host_region(name, len)?;
        self.memory.regions().push(region.clone());
        Ok(region)
    }
}

/// The backing that a driver takes.
pub struct Hooked<H> {
    space: Space,
    hook: H,
}

impl<H: Hook> Hooked<H> {
    /// Puts `hook` before a model.
    pub fn new(model: ModelBacking, hook: H) -> Self {
        let space = Space {
            model,
            memory: Memory::default(),
        };
        Self { space, hook }
    }

    /// The hook.
    pub fn hook(&self) -> &H {
        &self.hook
    }

    /// The model.
    pub fn model(&self) -> &ModelBacking {
        &self.space.model
    }

    /// The host memory that the driver was given.
    pub fn memory(&self) -> &Memory {
        &self.space.memory
    }
}

impl<H: Hook> BarOwner for Hooked<H> {
    fn address(&self) -> PciAddress {
        self.model().address()
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        self.model().bar_region(name, bar, range)
    }
}

impl<H: Hook> Backing for Hooked<H> {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.model().read32(offset);
        self.hook.seen(offset, value.into()) as u32
    }

    fn read64(&self, offset: u32) -> u64 {
        self.hook.seen(offset, self.model().read64(offset))
    }

    fn write32(&self, offset: u32, value: u32) {
        self.hook
            .write32(self.model(), self.memory(), offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.model().write64(offset, value);
    }

    fn space(&self) -> &dyn DmaSpace {
        &self.space
    }

    fn bar_info(&self, bar: u8) -> Result<BarInfo, BackingError> {
        self.model().bar_info(bar)
    }

    fn interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, BackingError> {
        self.model().interrupts(count)
    }

    fn set_dma(&self, on: bool) -> Result<(), BackingError> {
        self.model().set_dma(on)
    }

    fn quiesce(&self) {
        self.model().quiesce();
    }
}
