//! What the driver needs of a controller: registers, doorbells, memory that it
//! can do DMA to, interrupts.

mod vfio;

use std::os::fd::OwnedFd;

use sidelane_p2p::provider::BarOwner;
use sidelane_p2p::vfio::{BarInfo, VfioError};
use sidelane_p2p::{DmaSpace, PciAddress};

pub use vfio::VfioBacking;

/// A controller on a bus, before anything is known of it.
///
/// Registers are those of BAR 0, values in the CPU's order. Accesses are not
/// combined, split (64 bits apart, where the platform has no such access) or
/// reordered among each other. What was written to memory before a register
/// write is visible to the device when it sees that write.
pub trait Backing: BarOwner + 'static {
    /// Reads a register of 4 bytes. All ones when nobody answers.
    fn read32(&self, offset: u32) -> u32;

    /// Reads a register of 8 bytes. All ones when nobody answers.
    fn read64(&self, offset: u32) -> u64;

    /// Writes a register of 4 bytes; doorbells are among them.
    fn write32(&self, offset: u32, value: u32);

    /// Writes a register of 8 bytes.
    fn write64(&self, offset: u32, value: u64);

    /// The address space in which the controller does DMA.
    fn space(&self) -> &dyn DmaSpace;

    /// Where a BAR is.
    ///
    /// # Errors
    /// When the controller has no such BAR in memory space.
    fn bar_info(&self, bar: u8) -> Result<BarInfo, BackingError>;

    /// Turns on as many interrupt vectors as asked for, or fewer if the
    /// controller has fewer. Each is an eventfd that does not block. To be
    /// called once.
    ///
    /// # Errors
    /// When there are none, or they cannot be turned on.
    fn interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, BackingError>;

    /// Lets the controller reach memory and send interrupts, or keeps it from
    /// both, which it cannot prevent. Vectors that were turned on stay so.
    ///
    /// # Errors
    /// When its configuration space cannot be written.
    fn set_dma(&self, on: bool) -> Result<(), BackingError>;

    /// Cuts the controller off from memory and from interrupts, for good and
    /// whatever state it is in. The memory it used can be given back after this.
    fn quiesce(&self);
}

/// Why a backing could not do something.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// VFIO refused.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// Refused for another reason.
    #[error("{device}: {reason}")]
    Refused {
        /// The controller.
        device: PciAddress,
        /// What was refused, why, and what to do about it.
        reason: String,
    },
}
