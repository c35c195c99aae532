//! A software NVMe controller, for tests and for the demo.
//!
//! It is a device as seen from its registers: it fetches entries, walks PRP
//! lists and SGLs, moves data to and from whatever answers at those addresses on
//! its [`ModelBus`] (host memory, its own memory buffer, another model's), and
//! posts completions. Every address it was told to touch is counted by place and,
//! if asked for, recorded. Addresses where nothing answers give errors, as behind
//! an IOMMU.
//!
//! Commands are executed on the thread that rings the doorbell, so a test is
//! deterministic; with [`ModelOptions::defer`] they wait for
//! [`ModelController::step`].
//!
//! It can be made to fail: [`ModelController::inject`] arms a [`Fault`] for the
//! commands that a [`Matcher`] names. And its world can change: drives are pulled
//! and come back, namespaces are formatted by others, power fails
//! ([`ModelController::vanish`], [`ModelController::format`],
//! [`ModelController::power_loss`] and their neighbours).

mod admin;
mod backing;
mod bus;
mod change;
mod cmb;
mod dma;
mod events;
mod fault;
mod features;
mod identify;
mod io;
mod memory;
mod mischief;
mod options;
mod pmr;
mod queues;
mod registers;
mod shadow;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod touch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidelane_p2p::{MemView, OutOfRange, PciAddress, Revocation};

pub use backing::ModelBacking;
pub use bus::ModelBus;
pub use events::ModelEvent;
pub use fault::{Armed, Broken, Fault, Matcher};
pub use memory::ModelMemory;
pub use options::{CmbKind, ModelCmb, ModelNamespace, ModelOptions};
pub use pmr::ModelPmr;
pub use touch::{Direction, PayloadBytes, Place, Purpose, Touch, Touched};

use dma::Dma;
use state::State;
use touch::Recorder;

/// A controller on a [`ModelBus`]. Clones are the same controller.
#[derive(Clone)]
pub struct ModelController(Arc<Shared>);

struct Shared {
    address: PciAddress,
    bus: ModelBus,
    /// Bus address of BAR 0.
    registers_at: u64,
    state: Mutex<State>,
    /// Of the regions that were made of its memory.
    lent: Mutex<Vec<Revocation>>,
}

impl ModelController {
    /// Puts a controller on the bus.
    pub fn new(bus: &ModelBus, options: ModelOptions) -> Self {
        let registers_at = bus.place_bar(0x4000);
        let cmb = options.cmb.clone().map(|mut cmb| {
            // CMBSZ counts units of 4 KiB in 20 bits.
            cmb.len = cmb.len.clamp(4096, 0xf_ffff << 12) & !0xfff;
            let at = bus.place_bar(cmb.len as u64);
            cmb::Cmb::new(cmb, at)
        });
        let pmr = options.pmr.clone().map(|mut pmr| {
            pmr.len = pmr.len.max(4096) & !0xfff;
            let at = bus.place_bar(pmr.len as u64);
            pmr::Pmr::new(pmr, at)
        });
        let address = options.address;
        let dma = Dma {
            bus: bus.clone(),
            address,
            cmb,
            pmr,
            recorder: Recorder::default(),
            cut_off: false,
            gone: false,
            trick: None,
        };
        let state = Mutex::new(State::new(options, dma));
        Self(Arc::new(Shared {
            address,
            bus: bus.clone(),
            registers_at,
            state,
            lent: Mutex::default(),
        }))
    }

    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.0.address
    }

    /// The controller as the driver takes it, as after a function reset.
    pub fn backing(&self) -> ModelBacking {
        let mut state = self.state();
        state.dma.cut_off = false;
        state.registers = registers::Registers::default();
        state.forget_queues();
        if let Some(pmr) = &mut state.dma.pmr {
            pmr.reset();
        }
        drop(state);
        ModelBacking {
            model: self.clone(),
        }
    }

    /// What it has touched.
    pub fn touched(&self) -> Touched {
        self.state().dma.recorder.touched.clone()
    }

    /// Starts anew with counting, and from now on records each access or not.
    pub fn restart_record(&self, full: bool) {
        self.state().dma.recorder = Recorder {
            full,
            ..Recorder::default()
        };
    }

    /// Executes the next command; `false` when there is none. Shadow doorbells
    /// are looked at, if there are any.
    pub fn step(&self) -> bool {
        self.state().run(1) == 1
    }

    /// Whether commands wait for [`step`](Self::step) from now on.
    pub fn set_defer(&self, defer: bool) {
        self.state().options.defer = defer;
    }

    /// Has `fault` strike the commands that `matcher` names, from now on. Of
    /// several faults that name a command, the first that was armed strikes.
    pub fn inject(&self, matcher: Matcher, fault: Fault) -> Armed {
        self.state().faults.arm(matcher, fault)
    }

    /// Arms no fault any more. What was held back still is.
    pub fn disarm(&self) {
        self.state().faults.disarm();
    }

    /// Lets everything go on that a fault has held back, and says how much it
    /// was.
    pub fn release(&self) -> usize {
        self.state().release()
    }

    /// Reads from a namespace, past all queues: `offset` in bytes. Zeros from a
    /// namespace that does not exist.
    ///
    /// # Errors
    /// Never for a slice that fits in memory.
    pub fn read_media(&self, nsid: u32, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        let view = MemView::anonymous(into.len());
        if let Some(namespace) = self.state().namespace_mut(nsid) {
            namespace.storage.read(offset, &view, 0, into.len())?;
        }
        view.read(0, into)
    }

    /// Takes its memory away from all who use it, as a reset or the removal of a
    /// real one does. They are told before this returns; what they still reach
    /// is what they should not have touched.
    pub fn revoke_memory(&self, reason: &str) {
        // Taken out first: who is told may make regions, or drop some.
        let lent = std::mem::take(&mut *self.lent());
        for revocation in lent {
            revocation.revoke(reason);
        }
    }

    fn lent(&self) -> MutexGuard<'_, Vec<Revocation>> {
        self.0.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No lock is ever held while another model's is taken, and no state is left
    /// half-changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
