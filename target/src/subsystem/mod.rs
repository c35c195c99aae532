//! Subsystems: what hosts can connect to, and what all reactors share of it.
//!
//! A [`Target`] is all of it: the subsystems, the listeners they are offered on,
//! and the discovery service. A [`Subsystem`] knows its hosts, its namespaces
//! and its live controllers; each of those has a [`ControllerShared`] that its
//! queues refer to. The queues themselves are in [`crate::session`].
//!
//! Everything here is for the control path and may lock. A command on an I/O
//! queue touches nothing of it but relaxed atomics.
#![forbid(unsafe_code)]
#![allow(
    clippy::field_reassign_with_default,
    reason = "the reserved fields of wire types are private, so that they stay zero"
)]

mod aborts;
mod controller;
mod discovery;
mod error_log;
mod hosts;
mod namespace;
mod nvm;
mod qids;
mod target;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use aborts::{ABORT_LIMIT, ABORT_PATIENCE, Aborts, TooManyAborts};
pub use controller::{ControllerShared, Event, HealthWarning, HostIdentity, Lingering};
pub use discovery::{Listener, Portal};
pub use error_log::{ERROR_LOG_LEN, ErrorLog};
pub use hosts::AllowedHosts;
pub use namespace::{NSID_MAX, NamespaceError, NamespaceInfo, NamespaceTable};
pub use nvm::{
    HealthSource, Kind, Limits, NoControllerLeft, NoHealth, Subsystem, SubsystemConfig,
    SubsystemError,
};
pub use qids::{QUEUES_MAX, QidSet};
pub use target::{Target, TargetError};

/// Locks, also after a panic elsewhere: what these locks guard is never left
/// half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
