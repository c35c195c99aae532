//! All that the target offers: subsystems, listeners, the discovery service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sidelane_nvme::spec::{DISCOVERY_NQN, Nqn, NqnError};

use super::discovery::{ADMIN_QUEUE_ENTRIES, log_page};
use super::{
    AllowedHosts, Event, Kind, Limits, Listener, NoHealth, Portal, Subsystem, SubsystemConfig,
    SubsystemError, lock,
};

/// Why the target cannot be made or changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Two subsystems with one name.
    #[error("there is a subsystem {0} already")]
    DuplicateSubsystem(Nqn),
    /// Two namespaces of different subsystems with one identifier.
    #[error("{0} and {1} have namespaces with the same UUID, NGUID or EUI-64")]
    SameIdentifier(Nqn, Nqn),
    /// The discovery service cannot be made.
    #[error(transparent)]
    Discovery(#[from] SubsystemError),
    /// A name of the target's own is malformed.
    #[error(transparent)]
    Name(#[from] NqnError),
}

/// What the target offers, shared by the control plane and all reactors.
#[derive(Debug)]
pub struct Target {
    discovery: Arc<Subsystem>,
    subsystems: Mutex<BTreeMap<Nqn, Arc<Subsystem>>>,
    listeners: Mutex<Vec<Listener>>,
    generation: AtomicU64,
}

impl Target {
    /// A target without subsystems or listeners. Serial number, model and
    /// firmware revision are the discovery service's.
    ///
    /// # Errors
    /// When one of the texts does not fit.
    pub fn new(serial: &str, model: &str, firmware: &str) -> Result<Arc<Self>, TargetError> {
        let discovery = Subsystem::of_kind(
            Kind::Discovery,
            SubsystemConfig {
                nqn: DISCOVERY_NQN.parse()?,
                serial: serial.to_owned(),
                model: model.to_owned(),
                firmware: firmware.to_owned(),
                hosts: AllowedHosts::Any,
                namespaces: Vec::new(),
                limits: Limits {
                    max_queue_entries: ADMIN_QUEUE_ENTRIES.max(128),
                    in_capsule_bytes: 0,
                    ..Limits::default()
                },
                health: Arc::new(NoHealth),
            },
        )?;
        Ok(Arc::new(Self {
            discovery,
            subsystems: Mutex::default(),
            listeners: Mutex::default(),
            generation: AtomicU64::new(1),
        }))
    }

    /// The discovery service's subsystem.
    pub fn discovery(&self) -> &Arc<Subsystem> {
        &self.discovery
    }

    /// The subsystem with this name, the discovery service included.
    pub fn find(&self, nqn: &str) -> Option<Arc<Subsystem>> {
        if nqn == DISCOVERY_NQN {
            return Some(self.discovery.clone());
        }
        let subsystems = lock(&self.subsystems);
        subsystems
            .iter()
            .find(|(name, _)| name.as_str() == nqn)
            .map(|(_, found)| found.clone())
    }

    /// The subsystems by name, the discovery service left out.
    pub fn subsystems(&self) -> Vec<Arc<Subsystem>> {
        lock(&self.subsystems).values().cloned().collect()
    }

    /// Offers a subsystem.
    ///
    /// # Errors
    /// When its name, or an identifier of one of its namespaces, is taken.
    pub fn add(&self, subsystem: Arc<Subsystem>) -> Result<(), TargetError> {
        let mut subsystems = lock(&self.subsystems);
        if subsystems.contains_key(subsystem.nqn()) {
            return Err(TargetError::DuplicateSubsystem(subsystem.nqn().clone()));
        }
        for other in subsystems.values() {
            if subsystem.namespaces().clashes_with(&other.namespaces()) {
                let names = (subsystem.nqn().clone(), other.nqn().clone());
                return Err(TargetError::SameIdentifier(names.0, names.1));
            }
        }
        subsystems.insert(subsystem.nqn().clone(), subsystem);
        drop(subsystems);
        self.discovery_changed();
        Ok(())
    }

    /// Withdraws a subsystem and ends its associations. Gives it back if there
    /// was one.
    pub fn remove(&self, nqn: &Nqn) -> Option<Arc<Subsystem>> {
        let removed = lock(&self.subsystems).remove(nqn)?;
        removed.kill_all();
        self.discovery_changed();
        Some(removed)
    }

    /// Says where connections are taken.
    pub fn set_listeners(&self, listeners: Vec<Listener>) {
        *lock(&self.listeners) = listeners;
        self.discovery_changed();
    }

    /// The discovery log is another: counts it, and tells the hosts that wait
    /// for it.
    pub fn discovery_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.discovery.raise(Event::DiscoveryChanged);
    }

    /// Number of the discovery log as it is now (GENCTR).
    pub fn discovery_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The discovery log for a host that came by `portal`: the subsystems that
    /// admit it, at the listeners that this portal reaches.
    pub fn discovery_log(&self, host: &str, portal: &Portal) -> Vec<u8> {
        // The number first: a change meanwhile makes it too old, never too new.
        let generation = self.discovery_generation();
        let visible: Vec<Arc<Subsystem>> = self
            .subsystems()
            .into_iter()
            .filter(|subsystem| subsystem.admits(host))
            .collect();
        let listeners = lock(&self.listeners).clone();
        log_page(
            generation,
            visible.iter().map(|subsystem| subsystem.nqn()),
            &listeners,
            portal,
        )
    }
}
