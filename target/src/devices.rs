//! Where a target's PCI devices come from: the machine's, by VFIO, or models in
//! memory. The target is the same for both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::Context;
use sidelane_config::{Config, Namespace, ProviderKind};
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelController, ModelMemory};
use sidelane_nvme::{Backing, VfioBacking};
use sidelane_p2p::provider::{Fitness, MemoryFunction, P2pmemProvider, PathReason, verdict};
use sidelane_p2p::topology::{Route, RoutePath, Topology};
use sidelane_p2p::vfio::{Container, Device, DeviceWatch, openable};
use sidelane_p2p::{DmaSpace, PciAddress, Placement, ProcessMemory};

use crate::backend::check_kind;

#[cfg(test)]
mod tests;

/// Opens devices and judges the routes between them.
pub trait Devices: Send + Sync + 'static {
    /// How a controller's registers and memory are reached.
    type Backing: Backing;

    /// Opens a function for this process alone.
    ///
    /// # Errors
    /// When it is not there or not free, with the remedy.
    fn open(&self, address: PciAddress) -> anyhow::Result<Self::Backing>;

    /// Opens a function that was lost, if it is there again and free.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_again(&self, address: PciAddress) -> anyhow::Result<Self::Backing> {
        self.open(address)
    }

    /// What says that an opened function is taken away.
    fn watch(&self, _address: PciAddress) -> Option<Arc<DeviceWatch>> {
        None
    }

    /// Opens a function that is no SSD for its memory alone, for this process
    /// alone. A function that was opened before is opened once.
    ///
    /// # Errors
    /// When it is not there or not free, with the remedy.
    fn open_memory(&self, address: PciAddress) -> anyhow::Result<Arc<dyn MemoryFunction>>;

    /// The address space that all opened devices share; to be asked for when
    /// all are open.
    fn space(&self) -> Arc<dyn DmaSpace>;

    /// Whether these clients reach that memory.
    fn verdict(&self, memory: Placement, clients: &[PciAddress]) -> Fitness;

    /// The same of all functions.
    fn watches(&self) -> Vec<Arc<DeviceWatch>> {
        Vec::new()
    }
}

/// The machine's devices, under vfio-pci.
pub struct VfioDevices {
    sysfs: PathBuf,
    topology: Topology,
    /// Opened with the first device: a target without any needs no VFIO.
    container: Mutex<Option<Arc<Container>>>,
    watches: Mutex<Vec<Arc<DeviceWatch>>>,
    /// Functions that are open for their memory. What is made of them keeps
    /// them open.
    memory: Mutex<BTreeMap<PciAddress, Weak<Device>>>,
}

impl VfioDevices {
    /// The devices that the tree at `sysfs` (usually `/sys`) shows.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn new(sysfs: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let sysfs = sysfs.into();
        let topology = Topology::load(&sysfs)
            .with_context(|| format!("the PCI devices cannot be read from {}", sysfs.display()))?;
        Ok(Self {
            sysfs,
            topology,
            container: Mutex::new(None),
            watches: Mutex::default(),
            memory: Mutex::default(),
        })
    }

    /// What keeps the devices of a configuration from being opened, and what stays
    /// with the kernel from being used, as far as can be told without opening them:
    /// the thing, the reason and the remedy.
    pub fn problems(&self, config: &Config) -> Vec<String> {
        let namespaces = config
            .subsystems
            .iter()
            .flat_map(|subsystem| &subsystem.namespaces);
        let storage = namespaces.clone().filter_map(|namespace| {
            let outcome = check_kind(&namespace.backend, &self.sysfs);
            outcome.err().map(|error| error.to_string())
        });
        let mut problems = self.problems_of_functions(config);
        problems.extend(storage);
        problems.extend(config.providers.iter().filter_map(|provider| {
            let ProviderKind::P2pmem { device, size } = &provider.kind else {
                return None;
            };
            let address = device.as_str().parse().ok()?;
            let size = size.map(|size| size.bytes());
            let published = P2pmemProvider::new(&self.sysfs, address, size);
            let error = published.check().err()?;
            Some(format!("provider {}: {error}", provider.id))
        }));
        problems
    }

    /// Those of the PCI functions that are taken from the kernel.
    fn problems_of_functions(&self, config: &Config) -> Vec<String> {
        let backends = config
            .subsystems
            .iter()
            .flat_map(|subsystem| &subsystem.namespaces);
        let slots: BTreeSet<_> = backends
            .filter_map(|namespace| namespace.backend.device())
            .chain(
                config
                    .providers
                    .iter()
                    .filter_map(|provider| provider.taken_device()),
            )
            .map(|slot| slot.as_str())
            .collect();
        let problem = |slot: &str| match slot.parse() {
            Ok(address) => openable(address, &self.topology)
                .err()
                .map(|e| e.to_string()),
            Err(error) => Some(format!("{error}")),
        };
        slots.into_iter().filter_map(problem).collect()
    }

    /// The routes from a namespace's SSD to the memory that it could use.
    pub fn routes(&self, config: &Config, namespace: &Namespace) -> Vec<String> {
        let Some(ssd) = namespace
            .backend
            .device()
            .and_then(|slot| slot.as_str().parse().ok())
        else {
            return Vec::new();
        };
        let mut candidates = config.providers_of(namespace);
        if candidates.is_empty() {
            candidates = config.providers.iter().collect();
        }
        candidates
            .into_iter()
            .filter_map(|provider| {
                let device = provider.device()?.as_str().parse().ok()?;
                let fitness = self.verdict(Placement::Peer { device, bar: 0 }, &[ssd]);
                let fit = if fitness.is_peer() {
                    "reached"
                } else {
                    "not reached"
                };
                let remedy = fitness
                    .remedy
                    .map(|remedy| format!("; {remedy}"))
                    .unwrap_or_default();
                Some(format!(
                    "memory of {}: {fit}: {}{remedy}",
                    provider.id, fitness.text
                ))
            })
            .collect()
    }

    fn open_in(
        &self,
        address: PciAddress,
        topology: &Topology,
    ) -> anyhow::Result<(Arc<Device>, Arc<Container>)> {
        // What is wrong with the device is worth more than that VFIO, which it
        // would have loaded, is not there.
        openable(address, topology)?;
        let container = self.container()?;
        let device = container.open_device(address, topology)?;
        lock(&self.watches).retain(|watch| watch.address() != address);
        match device.watch() {
            Ok(watch) => lock(&self.watches).push(watch),
            Err(error) => tracing::warn!("it will not be noticed when {address} goes: {error}"),
        }
        Ok((device, container))
    }

    fn container(&self) -> anyhow::Result<Arc<Container>> {
        let mut container = lock(&self.container);
        if let Some(open) = &*container {
            return Ok(Arc::clone(open));
        }
        let opened = Container::open()?;
        *container = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Devices for VfioDevices {
    type Backing = VfioBacking;

    fn open(&self, address: PciAddress) -> anyhow::Result<VfioBacking> {
        let (device, container) = self.open_in(address, &self.topology)?;
        Ok(VfioBacking::open(device, container)?)
    }

    fn open_again(&self, address: PciAddress) -> anyhow::Result<VfioBacking> {
        // It may be bound to another driver now, or have its BARs elsewhere.
        let topology = Topology::load(&self.sysfs)?;
        let (device, container) = self.open_in(address, &topology)?;
        Ok(VfioBacking::open(device, container)?)
    }

    fn watch(&self, address: PciAddress) -> Option<Arc<DeviceWatch>> {
        let watches = lock(&self.watches);
        watches.iter().find(|it| it.address() == address).cloned()
    }

    fn open_memory(&self, address: PciAddress) -> anyhow::Result<Arc<dyn MemoryFunction>> {
        let known = lock(&self.memory).get(&address).and_then(Weak::upgrade);
        if let Some(device) = known {
            return Ok(device);
        }
        let (device, _) = self.open_in(address, &self.topology)?;
        lock(&self.memory).insert(address, Arc::downgrade(&device));
        Ok(device)
    }

    fn space(&self) -> Arc<dyn DmaSpace> {
        match &*lock(&self.container) {
            Some(container) => Arc::clone(container) as Arc<dyn DmaSpace>,
            // Without devices nobody looks at the addresses.
            None => Arc::new(ProcessMemory),
        }
    }

    fn verdict(&self, memory: Placement, clients: &[PciAddress]) -> Fitness {
        verdict(&self.topology, memory, clients)
    }

    fn watches(&self) -> Vec<Arc<DeviceWatch>> {
        lock(&self.watches).clone()
    }
}

/// What these locks guard is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Modelled SSDs and memory cards on one bus.
pub struct ModelDevices {
    bus: ModelBus,
    controllers: BTreeMap<PciAddress, ModelController>,
    cards: BTreeMap<PciAddress, ModelMemory>,
}

impl ModelDevices {
    /// These models.
    pub fn new(bus: ModelBus, controllers: impl IntoIterator<Item = ModelController>) -> Self {
        let controllers = controllers
            .into_iter()
            .map(|model| (model.address(), model))
            .collect();
        let cards = BTreeMap::new();
        Self {
            bus,
            controllers,
            cards,
        }
    }

    /// The same, and these memory cards.
    #[must_use]
    pub fn with_memory(mut self, cards: impl IntoIterator<Item = ModelMemory>) -> Self {
        let cards = cards.into_iter().map(|card| (card.address(), card));
        self.cards.extend(cards);
        self
    }
}

impl Devices for ModelDevices {
    type Backing = ModelBacking;

    fn open(&self, address: PciAddress) -> anyhow::Result<ModelBacking> {
        let model = self.controllers.get(&address);
        let model = model.with_context(|| format!("there is no modelled SSD {address}"))?;
        Ok(model.backing())
    }

    fn open_memory(&self, address: PciAddress) -> anyhow::Result<Arc<dyn MemoryFunction>> {
        let card = self.cards.get(&address);
        let card = card.with_context(|| format!("there is no modelled memory {address}"))?;
        Ok(Arc::new(card.clone()))
    }

    fn space(&self) -> Arc<dyn DmaSpace> {
        Arc::new(self.bus.clone())
    }

    fn verdict(&self, memory: Placement, clients: &[PciAddress]) -> Fitness {
        let text = "every modelled device reaches all memory of its bus".to_owned();
        let Placement::Peer { device, .. } = memory else {
            return Fitness {
                code: PathReason::HostByPolicy,
                text,
                remedy: None,
                route: None,
            };
        };
        // As behind one switch.
        let (distance, path) = match clients.iter().all(|client| *client == device) {
            true => (0, RoutePath::SameDevice),
            false => (4, RoutePath::ThroughSwitch),
        };
        Fitness {
            code: PathReason::Peer,
            text: text.clone(),
            remedy: None,
            route: Some(Route {
                distance,
                path,
                reason: text,
                remedy: None,
            }),
        }
    }
}
