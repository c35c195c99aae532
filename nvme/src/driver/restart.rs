//! Halting a controller and bringing it up again (clauses 3.5.1 and 3.7.2).
//!
//! The memory that the controller was given is given back only when it surely
//! touches it no more: after CSTS.RDY has fallen, or, if that does not come,
//! after its bus mastering was turned off. Its own memory (CMB, PMR) is not
//! touched by either, and stays where it is.

use std::sync::atomic::Ordering;

use sidelane_p2p::Region;

use super::open::Known;
use super::{Controller, DriverError, Inner, lock};
use crate::Backing;

/// Memory of queue pairs that the controller may still use.
#[derive(Default)]
pub(super) struct Kept {
    regions: Vec<Region>,
    /// Of queue pairs that were made before this epoch it uses none.
    unreachable_before: u32,
}

impl<B: Backing> Controller<B> {
    /// Stops the controller, in whatever state it is. Afterwards it touches no
    /// memory, and queue pairs that exist are dead: nothing is told to the
    /// controller by them, and none of their commands ends. An admin command
    /// that another thread waits for ends with [`DriverError::Halted`]. Halting
    /// twice is halting once.
    ///
    /// # Errors
    /// When it is gone, or can neither be disabled nor kept from memory.
    pub fn halt(&self) -> Result<(), DriverError> {
        let inner = &self.inner;
        inner.epoch.fetch_or(1, Ordering::AcqRel);
        inner.cancel.store(true, Ordering::Release);
        let _admin = lock(&inner.admin);
        inner.cancel.store(false, Ordering::Release);
        // Again: a restart may have ended meanwhile.
        let epoch = inner.epoch.fetch_or(1, Ordering::AcqRel) | 1;
        if inner.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Err(error) = inner.device.disable() {
            let cut_off = inner.device.backing.set_dma(false);
            if matches!(error, DriverError::Gone { .. }) {
                return Err(error);
            }
            cut_off?;
            tracing::warn!(%error, "it is kept from memory by its PCI function instead");
        }
        inner.release_kept(epoch);
        Ok(())
    }

    /// Brings a halted controller up again, without I/O queue pairs; one that
    /// runs is halted first. What it is, and its namespaces, are read anew. Its
    /// own memory stays enabled at its address. Events that have come and were
    /// not taken are still there.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when another controller answers than before.
    /// It is halted then, and may be restarted again.
    pub fn restart(&self) -> Result<(), DriverError> {
        self.halt()?;
        let inner = &self.inner;
        let mut admin = lock(&inner.admin);
        let device = &inner.device;
        let halted = inner.epoch.load(Ordering::Acquire);
        if inner.closed.load(Ordering::Acquire) {
            return Err(inner.halted());
        }
        // Also where only bus mastering was turned off: before it is turned on
        // again, the controller must have forgotten its queues.
        device.disable()?;
        device.same_capabilities()?;
        device.backing.set_dma(true)?;
        admin.renew();
        let restarted = Known::bring_up(device, &mut admin, &inner.options).and_then(|known| {
            inner.is_same(&known)?;
            self.announce_again()?;
            self.restore_pmr()?;
            admin.ask_for_events(device);
            Ok(known)
        });
        match restarted {
            Ok(known) => {
                *lock(&inner.free_qids) = known.qids();
                *lock(&inner.known) = known;
                // Who wants to halt it waits for the admin queue, and goes on then.
                inner.epoch.store(halted + 1, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                if device.disable().is_err() {
                    // Why it failed is told already.
                    let _ = device.backing.set_dma(false);
                }
                Err(error)
            }
        }
    }
}

impl<B: Backing> Inner<B> {
    /// The epoch, unless the controller is halted. A queue pair is alive in the
    /// epoch in which it was made.
    pub(super) fn running(&self) -> Result<u32, DriverError> {
        match self.epoch.load(Ordering::Acquire) {
            epoch if epoch & 1 == 0 => Ok(epoch),
            _ => Err(self.halted()),
        }
    }

    /// Whether what was made in this epoch is alive.
    #[inline]
    pub(super) fn is_alive(&self, epoch: u32) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }

    pub(super) fn halted(&self) -> DriverError {
        DriverError::Halted {
            device: self.device.address,
        }
    }

    /// Keeps memory of a queue pair of this epoch if the controller may use it.
    pub(super) fn keep(&self, epoch: u32, memory: impl IntoIterator<Item = Region>) {
        let mut kept = lock(&self.kept);
        if epoch >= kept.unreachable_before {
            kept.regions.extend(memory);
        }
    }

    fn release_kept(&self, epoch: u32) {
        let mut kept = lock(&self.kept);
        kept.unreachable_before = epoch;
        kept.regions.clear();
    }

    /// Refuses another controller in the same place.
    fn is_same(&self, now: &Known) -> Result<(), DriverError> {
        let identity = |known: &Known| {
            let identify = &known.identify;
            (identify.sn, identify.mn, identify.cntlid.get())
        };
        if identity(&lock(&self.known)) == identity(now) {
            return Ok(());
        }
        let reason = format!(
            "another controller answers than before, with serial number {}; close it and open it again",
            now.identify.sn
        );
        Err(self.device.unsupported(reason))
    }
}
