//! What is counted of each SSD. Its keeper is the only one to write.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Counter;

/// Counts of one SSD since the target started, and how it is.
#[derive(Debug)]
pub struct SsdCounters {
    address: String,
    serial: String,
    state: Mutex<(&'static str, String)>,
    /// Commands that did not end in time.
    pub timeouts: Counter,
    /// Aborts that the SSD was asked for.
    pub aborts: Counter,
    /// Those that it says it has carried out.
    pub aborted: Counter,
    /// Times that it was reset.
    pub resets: Counter,
    /// Commands that it had, and that were started again.
    pub retried_commands: Counter,
    /// Commands that failed since it was lost, or was reset too often.
    pub failed_commands: Counter,
    /// Times that it was lost.
    pub losses: Counter,
    /// Times that it came back.
    pub returns: Counter,
    /// Its events about health.
    pub health_events: Counter,
    /// Its events about errors.
    pub error_events: Counter,
    /// Its events about changed namespaces.
    pub namespace_events: Counter,
}

impl SsdCounters {
    /// All zero, of an SSD that serves.
    pub fn new(address: String, serial: String) -> Arc<Self> {
        Arc::new(Self {
            address,
            serial,
            state: Mutex::new(("up", String::new())),
            timeouts: Counter::default(),
            aborts: Counter::default(),
            aborted: Counter::default(),
            resets: Counter::default(),
            retried_commands: Counter::default(),
            failed_commands: Counter::default(),
            losses: Counter::default(),
            returns: Counter::default(),
            health_events: Counter::default(),
            error_events: Counter::default(),
            namespace_events: Counter::default(),
        })
    }

    /// Says how it is.
    pub fn set_state(&self, state: &'static str) {
        self.lock().0 = state;
    }

    /// Says why it was reset or lost.
    pub fn set_reason(&self, reason: &str) {
        reason.clone_into(&mut self.lock().1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (&'static str, String)> {
        // Either text is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report at this moment.
    pub fn report(&self) -> SsdReport {
        let (state, reason) = self.lock().clone();
        SsdReport {
            address: self.address.clone(),
            serial: self.serial.clone(),
            state: state.to_owned(),
            reason: (!reason.is_empty()).then_some(reason),
            timeouts: self.timeouts.get(),
            aborts: self.aborts.get(),
            aborted: self.aborted.get(),
            resets: self.resets.get(),
            retried_commands: self.retried_commands.get(),
            failed_commands: self.failed_commands.get(),
            losses: self.losses.get(),
            returns: self.returns.get(),
            health_events: self.health_events.get(),
            error_events: self.error_events.get(),
            namespace_events: self.namespace_events.get(),
        }
    }
}

/// An SSD. Counts since the target started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsdReport {
    /// PCI address.
    pub address: String,
    /// Serial number.
    pub serial: String,
    /// `up`, `resetting`, `lost` or `stopped`.
    pub state: String,
    /// Why it was last reset or lost; none after its return.
    pub reason: Option<String>,
    /// Commands that did not end in time.
    pub timeouts: u64,
    /// Aborts that it was asked for.
    pub aborts: u64,
    /// Those that it says it has carried out.
    pub aborted: u64,
    /// Times that it was reset.
    pub resets: u64,
    /// Commands that it had, and that were started again.
    pub retried_commands: u64,
    /// Commands that failed since it was lost, or was reset too often.
    pub failed_commands: u64,
    /// Times that it was lost.
    pub losses: u64,
    /// Times that it came back.
    pub returns: u64,
    /// Its events about health.
    pub health_events: u64,
    /// Its events about errors.
    pub error_events: u64,
    /// Its events about changed namespaces.
    pub namespace_events: u64,
}
