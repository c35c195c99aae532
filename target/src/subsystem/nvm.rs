//! One subsystem: its names, limits, hosts, namespaces and live controllers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sidelane_nvme::spec::{CNTLID_MAX, CriticalWarning, Nqn, SmartLog};
use zerocopy::little_endian::U16;

use super::{
    AllowedHosts, ControllerShared, Event, HealthWarning, HostIdentity, NamespaceError,
    NamespaceInfo, NamespaceTable, QUEUES_MAX, lock,
};

/// What a subsystem is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its controllers carry I/O.
    Nvm,
    /// Its controllers tell of other subsystems.
    Discovery,
}

/// Limits of every controller of a subsystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most entries of a queue, 2 to 4096; MQES and MAXCMD say it.
    pub max_queue_entries: u16,
    /// Most I/O queues of a controller, 1 to 255.
    pub max_io_queues: u16,
    /// Longest transfer, as a power of two of 4 KiB pages, 1 to 12 (MDTS).
    pub mdts: u8,
    /// Data that a command capsule may carry on an I/O queue, in bytes: a
    /// multiple of 16 up to 64 KiB, 0 for none.
    pub in_capsule_bytes: u32,
    /// Most controllers that live at once.
    pub max_controllers: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_queue_entries: 128,
            max_io_queues: 128,
            mdts: 8,
            in_capsule_bytes: 4096,
            max_controllers: 1024,
        }
    }
}

impl Limits {
    /// Longest transfer in bytes.
    pub fn max_transfer_bytes(&self) -> u64 {
        4096 << self.mdts.min(32)
    }

    fn check(&self) -> Result<(), SubsystemError> {
        let wrong = |limit, value: u64, range| {
            Err(SubsystemError::Limit {
                limit,
                value,
                range,
            })
        };
        let Self {
            max_queue_entries,
            max_io_queues,
            mdts,
            in_capsule_bytes,
            max_controllers,
        } = *self;
        if !(2..=4096).contains(&max_queue_entries) {
            return wrong("max_queue_entries", max_queue_entries.into(), "2 to 4096");
        }
        if !(1..QUEUES_MAX).contains(&max_io_queues) {
            return wrong("max_io_queues", max_io_queues.into(), "1 to 255");
        }
        if !(1..=12).contains(&mdts) {
            return wrong("mdts", mdts.into(), "1 to 12");
        }
        if in_capsule_bytes > 65536 || in_capsule_bytes % 16 != 0 {
            return wrong(
                "in_capsule_bytes",
                in_capsule_bytes.into(),
                "0 to 65536, by 16",
            );
        }
        if !(1..=CNTLID_MAX).contains(&max_controllers) {
            return wrong("max_controllers", max_controllers.into(), "1 to 65519");
        }
        Ok(())
    }
}

/// Where SMART data come from.
pub trait HealthSource: Send + Sync {
    /// The SMART log of the whole controller. Called on the control path, must
    /// not block.
    fn smart(&self) -> SmartLog;
}

/// A subsystem without health data of its own: nothing is wrong, 25 °C.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHealth;

impl HealthSource for NoHealth {
    fn smart(&self) -> SmartLog {
        let mut log = SmartLog::default();
        log.temperature_k = U16::new(298);
        log.spare_percent = 100;
        log.spare_threshold_percent = 10;
        log
    }
}

/// What a subsystem is made from.
pub struct SubsystemConfig {
    /// Its name.
    pub nqn: Nqn,
    /// Serial number, at most 20 printable ASCII characters.
    pub serial: String,
    /// Model number, at most 40 printable ASCII characters.
    pub model: String,
    /// Firmware revision, at most 8 printable ASCII characters.
    pub firmware: String,
    /// Who may connect.
    pub hosts: AllowedHosts,
    /// What there is to connect to.
    pub namespaces: Vec<NamespaceInfo>,
    /// Limits of every controller.
    pub limits: Limits,
    /// Where SMART data come from.
    pub health: Arc<dyn HealthSource>,
}

/// Why a subsystem cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubsystemError {
    /// The name is kept for the discovery service.
    #[error("the discovery service's name cannot be given to a subsystem")]
    DiscoveryName,
    /// Too long, empty or not printable ASCII.
    #[error("{field} `{text}` is not 1 to {max} printable ASCII characters")]
    Text {
        /// Which text.
        field: &'static str,
        /// The text.
        text: String,
        /// Characters that fit.
        max: usize,
    },
    /// A limit is out of its range.
    #[error("{limit} is {value}; {range} can be had")]
    Limit {
        /// Which limit.
        limit: &'static str,
        /// Its value.
        value: u64,
        /// What it can be.
        range: &'static str,
    },
    /// A namespace cannot be offered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// All controller identifiers, or as many as the limit allows, are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subsystem has no controller left to give")]
pub struct NoControllerLeft;

#[derive(Debug, Default)]
struct Controllers {
    last: u16,
    live: BTreeMap<u16, Arc<ControllerShared>>,
    /// Those that have ended and not left yet.
    leaving: Vec<Arc<ControllerShared>>,
}

/// A subsystem, shared by all reactors.
pub struct Subsystem {
    kind: Kind,
    nqn: Nqn,
    serial: String,
    model: String,
    firmware: String,
    limits: Limits,
    health: Arc<dyn HealthSource>,
    hosts: Mutex<AllowedHosts>,
    namespaces: Mutex<Arc<NamespaceTable>>,
    /// Counts changes of `namespaces`, so that a queue need not lock to see
    /// that what it holds is still right.
    namespace_generation: AtomicU64,
    controllers: Mutex<Controllers>,
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), SubsystemError> {
    let printable = text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if text.trim().is_empty() || text.len() > max || !printable {
        return Err(SubsystemError::Text {
            field,
            text: text.to_owned(),
            max,
        });
    }
    Ok(())
}

impl Subsystem {
    /// A subsystem whose controllers carry I/O.
    ///
    /// # Errors
    /// When a text, a limit or a namespace cannot be offered to hosts.
    pub fn new(config: SubsystemConfig) -> Result<Arc<Self>, SubsystemError> {
        if config.nqn.is_discovery() {
            return Err(SubsystemError::DiscoveryName);
        }
        Self::of_kind(Kind::Nvm, config)
    }

    pub(super) fn of_kind(
        kind: Kind,
        config: SubsystemConfig,
    ) -> Result<Arc<Self>, SubsystemError> {
        check_text("serial", &config.serial, 20)?;
        check_text("model", &config.model, 40)?;
        check_text("firmware", &config.firmware, 8)?;
        config.limits.check()?;
        Ok(Arc::new(Self {
            kind,
            nqn: config.nqn,
            serial: config.serial,
            model: config.model,
            firmware: config.firmware,
            limits: config.limits,
            health: config.health,
            hosts: Mutex::new(config.hosts),
            namespaces: Mutex::new(NamespaceTable::new(config.namespaces)?),
            namespace_generation: AtomicU64::new(0),
            controllers: Mutex::default(),
        }))
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name.
    pub fn nqn(&self) -> &Nqn {
        &self.nqn
    }

    /// Serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Model number.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Firmware revision.
    pub fn firmware(&self) -> &str {
        &self.firmware
    }

    /// Limits of its controllers.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The SMART log.
    pub fn smart(&self) -> SmartLog {
        self.health.smart()
    }

    /// Whether a host may connect.
    pub fn admits(&self, host: &str) -> bool {
        lock(&self.hosts).admits(host)
    }

    /// Says anew which hosts may connect, and ends the associations of those
    /// that no longer may. [`super::Target::discovery_changed`] is the caller's.
    pub fn set_hosts(&self, hosts: AllowedHosts) {
        *lock(&self.hosts) = hosts;
        for controller in self.controllers() {
            if !self.admits(&controller.host().nqn) {
                controller.kill();
            }
        }
    }

    /// The namespaces as they are now.
    pub fn namespaces(&self) -> Arc<NamespaceTable> {
        lock(&self.namespaces).clone()
    }

    /// Counts changes of the namespaces. One relaxed load.
    pub fn namespace_generation(&self) -> u64 {
        self.namespace_generation.load(Ordering::Relaxed)
    }

    /// Replaces the namespaces and lets the hosts know which changed.
    ///
    /// # Errors
    /// When one cannot be offered; nothing changes then.
    pub fn set_namespaces(&self, namespaces: Vec<NamespaceInfo>) -> Result<(), NamespaceError> {
        let table = NamespaceTable::new(namespaces)?;
        let old = std::mem::replace(&mut *lock(&self.namespaces), table.clone());
        self.tell_changes(&old, &table);
        Ok(())
    }

    /// Puts one namespace in, in place of any with its identifier, and lets the
    /// hosts know if that is another than before.
    ///
    /// # Errors
    /// When it cannot be offered; nothing changes then.
    pub fn put_namespace(&self, namespace: NamespaceInfo) -> Result<(), NamespaceError> {
        let mut tables = lock(&self.namespaces);
        let nsid = namespace.nsid;
        let others = tables.iter().filter(|other| other.nsid != nsid).cloned();
        let away: Vec<u32> = tables.away().filter(|away| *away != nsid).collect();
        let table = NamespaceTable::new(others.chain([namespace]).collect())?.without(&away);
        let old = std::mem::replace(&mut *tables, table.clone());
        drop(tables);
        self.tell_changes(&old, &table);
        Ok(())
    }

    /// Takes one namespace out and lets the hosts know. It is expected back:
    /// until then commands for it fail with a path error.
    pub fn put_away(&self, nsid: u32) {
        let mut tables = lock(&self.namespaces);
        let mut away: Vec<u32> = tables.away().filter(|away| *away != nsid).collect();
        away.push(nsid);
        let table = tables.without(&away);
        let old = std::mem::replace(&mut *tables, table.clone());
        drop(tables);
        self.tell_changes(&old, &table);
    }

    fn tell_changes(&self, old: &NamespaceTable, table: &NamespaceTable) {
        self.namespace_generation.fetch_add(1, Ordering::Release);
        let changed = old.changed(table);
        if !changed.is_empty() {
            for controller in self.controllers() {
                controller.raise_namespaces_changed(&changed);
            }
        }
    }

    /// The controllers that live now, by ascending identifier.
    pub fn controllers(&self) -> Vec<Arc<ControllerShared>> {
        lock(&self.controllers).live.values().cloned().collect()
    }

    /// The live controller with this identifier.
    pub fn controller(&self, cntlid: u16) -> Option<Arc<ControllerShared>> {
        lock(&self.controllers)
            .live
            .get(&cntlid)
            .filter(|found| !found.is_dead())
            .cloned()
    }

    /// Makes a controller for a host (dynamic model). Identifiers go round, so
    /// that the one of a controller that just died is not soon another's.
    ///
    /// # Errors
    /// When all are in use.
    pub fn create_controller(
        &self,
        host: HostIdentity,
        now: Instant,
    ) -> Result<Arc<ControllerShared>, NoControllerLeft> {
        let mut controllers = lock(&self.controllers);
        if controllers.live.len() >= usize::from(self.limits.max_controllers) {
            return Err(NoControllerLeft);
        }
        let after = (controllers.last.saturating_add(1)..=CNTLID_MAX).chain(1..=controllers.last);
        let free = after
            .into_iter()
            .find(|cntlid| !controllers.live.contains_key(cntlid));
        let cntlid = free.ok_or(NoControllerLeft)?;
        let controller = Arc::new(ControllerShared::new(cntlid, host, now));
        controllers.last = cntlid;
        controllers.live.insert(cntlid, controller.clone());
        Ok(controller)
    }

    /// Ends a controller and frees its identifier.
    pub fn remove_controller(&self, controller: &ControllerShared) {
        controller.kill();
        let mut controllers = lock(&self.controllers);
        let removed = controllers.live.remove(&controller.cntlid());
        controllers.leaving.retain(|it| !it.has_left());
        controllers.leaving.extend(removed);
    }

    /// Whether an association of this host has ended, but an SSD still has
    /// commands of it: a write among them could overtake what the host writes
    /// when it is back, and nothing would tell it.
    pub fn is_leaving(&self, host: &HostIdentity) -> bool {
        let leaving = &mut lock(&self.controllers).leaving;
        leaving.retain(|it| !it.has_left());
        leaving
            .iter()
            .any(|it| it.host().id == host.id && it.lingers())
    }

    /// Ends every association.
    pub fn kill_all(&self) {
        for controller in self.controllers() {
            controller.kill();
        }
    }

    /// The health log has warnings: lets the hosts know that asked to be told.
    pub fn warn_of_health(&self, warnings: CriticalWarning) {
        let bad = warnings.reliability() || warnings.read_only() || warnings.backup();
        for (stands, warning) in [
            (bad, HealthWarning::Reliability),
            (warnings.temperature(), HealthWarning::Temperature),
            (warnings.spare(), HealthWarning::Spare),
        ] {
            if stands {
                self.raise(Event::Health(warning));
            }
        }
    }

    /// Tells every controller of an event.
    pub(super) fn raise(&self, event: Event) {
        for controller in self.controllers() {
            controller.raise(event);
        }
    }
}

impl fmt::Debug for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subsystem")
            .field("nqn", &self.nqn)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
