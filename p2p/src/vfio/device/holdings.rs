//! What others hold of a device's memory: exports that a reset would revoke,
//! and regions whose owners must learn when the memory goes.
//!
//! Holds no file: what is told that the kernel wants the device back must not
//! itself keep the device open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::revocation::{Revocation, WeakRevocation};

#[derive(Default)]
pub(super) struct Holdings(Mutex<State>);

#[derive(Default)]
struct State {
    /// Exports that nobody has dropped.
    exports: usize,
    regions: Vec<WeakRevocation>,
    /// Why the device will not be back; set once.
    lost: Option<String>,
}

/// One export, counted until it is dropped.
pub(super) struct Live(Arc<Holdings>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.state().exports -= 1;
    }
}

impl Holdings {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing leaves the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the device was lost, if it was.
    pub(super) fn lost(&self) -> Option<String> {
        self.state().lost.clone()
    }

    /// Counts an export, before it is made: a reset at the same time sees it.
    pub(super) fn count(self: &Arc<Self>) -> Live {
        self.state().exports += 1;
        Live(Arc::clone(self))
    }

    /// Runs `reset` unless exports are live, whose number is then the error. No
    /// export is made meanwhile.
    pub(super) fn unless_exported<T>(&self, reset: impl FnOnce() -> T) -> Result<T, usize> {
        let state = self.state();
        match state.exports {
            0 => Ok(reset()),
            live => Err(live),
        }
    }

    /// From now on, the region is told when the memory goes; at once, if it
    /// has gone.
    pub(super) fn enter(&self, region: &Revocation) {
        let mut state = self.state();
        match state.lost.clone() {
            // Outside the lock: a listener may drop exports.
            Some(reason) => {
                drop(state);
                region.revoke(reason);
            }
            None => {
                state.regions.retain(|other| other.upgrade().is_some());
                state.regions.push(region.downgrade());
            }
        }
    }

    /// Tells all regions that their memory is taken away.
    pub(super) fn revoke(&self, reason: &str) {
        let regions = std::mem::take(&mut self.state().regions);
        for region in regions {
            if let Some(region) = region.upgrade() {
                region.revoke(reason);
            }
        }
    }

    /// The device is lost for good. Says whether that is news.
    pub(super) fn lose(&self, reason: &str) -> bool {
        let news = {
            let mut state = self.state();
            let news = state.lost.is_none();
            state.lost.get_or_insert_with(|| reason.to_owned());
            news
        };
        self.revoke(reason);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_made_while_its_device_is_lost_is_told_at_once() {
        let holdings = Holdings::default();
        assert!(holdings.lose("unplugged"));
        assert!(!holdings.lose("broken"), "it is no news");
        let region = Revocation::new();
        holdings.enter(&region);
        assert_eq!(region.reason(), Some("unplugged"));
    }

    #[test]
    fn regions_that_are_gone_leave_nothing_behind() {
        let holdings = Holdings::default();
        for _ in 0..10 {
            holdings.enter(&Revocation::new());
        }
        assert!(holdings.state().regions.len() <= 1);
    }
}
