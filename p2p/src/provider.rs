//! Where peer memory comes from, and whether it is fit for a set of clients.
//!
//! A [`Provider`] is one kind of memory on one device, or host memory. Callers
//! know the trait only, so that new kinds come without touching them.

mod bar;
mod fitness;
mod host;
mod p2pmem;
mod window;

pub use bar::{MemoryFunction, window};
pub use fitness::{Fitness, PathReason, Realm, verdict};
pub use host::HostProvider;
pub use p2pmem::P2pmemProvider;
pub use window::{BarOwner, MemoryProvider, Window};

use crate::{DmaError, Placement, Region};

/// Something that offers memory to devices.
pub trait Provider: Send + Sync {
    /// The kind, as configuration names it (`cmb`, `pmr`, `bar`, `host`).
    fn kind(&self) -> &'static str;

    /// What an operator calls it (`cmb of 0000:03:00.0`).
    fn name(&self) -> String;

    /// Where its memory is. Known before it is opened, so that routes can be
    /// judged first.
    fn placement(&self) -> Placement;

    /// Makes the memory reachable. It stays so until the last clone of the
    /// region is gone.
    ///
    /// # Errors
    /// When the memory is not fit for data, or cannot be mapped.
    fn open(&self) -> Result<Offer, ProviderError>;
}

/// Memory that a provider has opened.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The memory.
    pub region: Region,
    /// For whose devices it is mapped.
    pub realm: Realm,
    /// What the device that has the memory may itself use it for. Other devices
    /// see plain memory, and may do both.
    pub own_use: OwnUse,
}

/// What a controller supports in commands that name its own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUse {
    /// Its read commands may put data there.
    pub reads: bool,
    /// Its write commands may take data from there.
    pub writes: bool,
}

/// Why a provider has nothing to offer.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The window does not hold data, or not at that place.
    #[error("{name} cannot hold data: {reason}")]
    Unfit {
        /// The provider.
        name: String,
        /// Why.
        reason: String,
    },
    /// The memory cannot be made reachable for devices.
    #[error(transparent)]
    Dma(#[from] DmaError),
}
