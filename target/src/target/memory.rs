//! Memory for payload: what the devices offer, what the namespaces choose of
//! it, and the pools made of that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use sidelane_config::{
    Backend as Storage, Config, Namespace, P2pPolicy, ProviderChoice, ProviderKind,
};
use sidelane_nvme::driver::Controller;
use sidelane_p2p::pool::{Pool, PoolSpec};
use sidelane_p2p::provider::{
    Fitness, HostProvider, MemoryProvider, OwnUse, P2pmemProvider, PathReason, Provider, Realm,
};
use sidelane_p2p::{DmaSpace, PciAddress, Placement, Region};
use sidelane_transport::nic;

use super::adapters::Adapters;
use super::kernel::{Kernel, SYSFS};
use super::ssds::{Ssds, address};
use super::{configured, probe};
use crate::backend::{self, KernelStorage};
use crate::devices::Devices;
use crate::reactor::{DataPath, POOL_ACCESS, Route, Routes};
use crate::report::{PoolFacts, WayFacts};
use crate::resolve::{Candidate, Choice, Client, Way, choose};

/// Host memory for payload, where a namespace uses it and no provider of kind
/// `host` says how much, in bytes over all reactors.
const HOST_POOL_BYTES: usize = 64 << 20;

/// Longest transfer that is offered: 1 MiB, as a power of two of 4 KiB pages.
const MDTS: u8 = 8;

/// Memory that a provider has opened.
struct Opened {
    candidate: Candidate,
    region: Region,
    /// Bytes of it that may be used.
    limit: usize,
}

/// The memory of a namespace.
pub(crate) struct Chosen {
    /// By adapter, in the order of [`Adapters::in_use`].
    pub(crate) routes: Vec<Routes>,
    /// The same for people.
    pub(crate) ways: Vec<WayFacts>,
    /// Longest transfer that its pools hand out, as MDTS says it.
    pub(super) mdts: u8,
}

/// The pools, and what each namespace uses of them.
pub(crate) struct Memory {
    /// By reactor, then by pool.
    pub(crate) shares: Vec<Vec<PoolSpec>>,
    pub(super) facts: Vec<PoolFacts>,
    /// In the order of the configuration's namespaces.
    pub(crate) chosen: Vec<Chosen>,
}

/// What [`foresee`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foresight {
    /// All that can be told without opening anything.
    Alone,
    /// What need not be opened to be refused. The kernel has the last word on its
    /// own storage: it is asked when that is open.
    BeforeOpening,
}

/// What of the policies cannot be met whatever the devices turn out to have:
/// told from the topology alone, before any device is opened.
pub(crate) fn foresee<D: Devices>(
    config: &Config,
    devices: &D,
    asked: Foresight,
) -> Vec<anyhow::Error> {
    let mut refusals = Vec::new();
    for subsystem in &config.subsystems {
        for namespace in &subsystem.namespaces {
            if asked == Foresight::BeforeOpening && namespace.backend.path().is_some() {
                continue;
            }
            let outcome = assumed(config, namespace).and_then(|(client, candidates)| {
                let judge = |memory, clients: &[PciAddress]| {
                    nowhere(&namespace.backend, memory)
                        .unwrap_or_else(|| devices.verdict(memory, clients))
                };
                Ok(choose(
                    namespace.p2p,
                    &namespace.provider,
                    client,
                    &candidates,
                    judge,
                )?)
            });
            if let Err(error) = outcome {
                let name = format!("{} nsid {}", subsystem.nqn, namespace.nsid);
                refusals.push(error.context(name));
            }
        }
    }
    refusals
}

/// What moves the payload of a namespace to and from its blocks.
fn client(storage: &Storage) -> anyhow::Result<Client> {
    let ssd = storage.device().map(address).transpose()?;
    Ok(Client {
        ssd: ssd.or_else(|| backend::client(storage, Path::new(SYSFS))?.ok()),
        realm: match storage {
            Storage::Nvme { .. } => Realm::Vfio,
            Storage::Block { .. } | Storage::Passthrough { .. } | Storage::File { .. } => {
                Realm::Kernel
            }
            Storage::Null { .. } => Realm::Both,
        },
    })
}

/// Why storage of the kernel's has no one function that would reach a device's
/// memory; `None` when it has, or is not the kernel's.
fn nowhere(storage: &Storage, memory: Placement) -> Option<Fitness> {
    let words = backend::client(storage, Path::new(SYSFS))?.err()?;
    matches!(memory, Placement::Peer { .. }).then(|| Fitness {
        code: PathReason::NoRoute,
        text: words,
        remedy: Some("use the SSD itself, or set p2p to \"prefer\" or \"off\"".to_owned()),
        route: None,
    })
}

/// For whose devices memory of a kind is mapped.
fn realm(kind: &ProviderKind) -> Realm {
    match kind {
        ProviderKind::Cmb { .. } | ProviderKind::Pmr { .. } | ProviderKind::Bar { .. } => {
            Realm::Vfio
        }
        ProviderKind::P2pmem { .. } => Realm::Kernel,
        ProviderKind::Host { .. } => Realm::Both,
    }
}

/// What moves the payload of a namespace, and the memory that it could use at
/// best: all that is configured, and memory of the SSD's own.
fn assumed(config: &Config, namespace: &Namespace) -> anyhow::Result<(Client, Vec<Candidate>)> {
    let client = client(&namespace.backend)?;
    let candidate = |name: &str, device: Option<PciAddress>, realm| Candidate {
        name: name.to_owned(),
        placement: device.map_or(Placement::Host, |device| Placement::Peer { device, bar: 0 }),
        realm,
        own_use: OwnUse {
            reads: true,
            writes: true,
        },
    };
    let mut candidates = Vec::new();
    for provider in &config.providers {
        let device = provider.device().map(address).transpose()?;
        candidates.push(candidate(&provider.id, device, realm(&provider.kind)));
    }
    // Only a driver of our own brings the memory of an SSD into service.
    let own = client.ssd.filter(|_| client.realm == Realm::Vfio);
    candidates.extend(own.map(|ssd| candidate(&format!("memory of {ssd}"), own, Realm::Vfio)));
    Ok((client, candidates))
}

/// Opens the providers, chooses for every namespace behind every adapter, and
/// makes the pools. Adapters behind which a policy cannot be met are refused.
///
/// # Errors
/// When a provider cannot be opened, or no listener is left.
pub(crate) fn plan<D: Devices>(
    config: &Config,
    devices: &D,
    ssds: &Ssds<D::Backing>,
    kernel: &Kernel,
    space: &Arc<dyn DmaSpace>,
    adapters: &mut Adapters,
) -> anyhow::Result<Memory> {
    let opened = open_all(config, devices, ssds, space)?;
    let candidates: Vec<_> = opened
        .iter()
        .map(|opened| opened.candidate.clone())
        .collect();
    let mut judge = Judge {
        devices,
        ssds,
        kernel,
        opened: &opened,
        proved: BTreeMap::new(),
    };
    let mut choices = Vec::new();
    for adapter in &mut adapters.list {
        let outcome: anyhow::Result<Vec<_>> = configured(config)
            .enumerate()
            .map(|(at, (subsystem, namespace))| {
                let client = client(&namespace.backend)?;
                let verdict = |memory, clients: &[PciAddress]| {
                    judge.verdict(&*adapter.adapter, (at, namespace), memory, clients)
                };
                choose(
                    namespace.p2p,
                    &namespace.provider,
                    client,
                    &candidates,
                    verdict,
                )
                .with_context(|| format!("{} nsid {}", subsystem.nqn, namespace.nsid))
            })
            .collect();
        match outcome {
            Ok(chosen) => choices.push((adapter.adapter.caps().name.clone(), chosen)),
            Err(error) => adapter.refused = Some(format!("{error:#}")),
        }
    }
    adapters.check_served(config)?;

    let mut pools = Pools::default();
    let all = || choices.iter().flat_map(|(_, chosen)| chosen);
    for way in all().flat_map(|choice| [&choice.reads, &choice.writes]) {
        // What is in use, and host memory where that is the last resort: it
        // cannot be made when it is needed.
        let host = way.last().filter(|way| way.path != PathReason::Peer);
        for way in way.first().into_iter().chain(host) {
            pools.number(*way);
        }
    }
    let reactors = config.target.cores.len();
    let (mut facts, mut specs, mut mdts) = (Vec::new(), Vec::new(), Vec::new());
    for candidate in &pools.order {
        let (spec, fact) = match candidate.and_then(|at| opened.get(at)) {
            Some(opened) => of_provider(opened),
            None => of_host(space)?,
        };
        let shares = spec.split(reactors);
        mdts.push(longest_transfer(&shares, &fact)?);
        facts.push(fact);
        specs.push(shares);
    }
    let shares = (0..reactors)
        .map(|reactor| {
            specs
                .iter()
                .filter_map(|shares| shares.get(reactor).cloned())
                .collect()
        })
        .collect();
    let chosen = (0..configured(config).count())
        .map(|at| {
            let behind = choices
                .iter()
                .filter_map(|(nic, chosen)| Some((nic.as_str(), chosen.get(at)?)));
            chosen(behind, &pools, &facts, &mdts)
        })
        .collect();
    Ok(Memory {
        shares,
        facts,
        chosen,
    })
}

/// Judges memory for one namespace behind one adapter.
struct Judge<'a, D: Devices> {
    devices: &'a D,
    ssds: &'a Ssds<D::Backing>,
    kernel: &'a Kernel,
    opened: &'a [Opened],
    /// What trying the legs to a namespace's SSD showed, by namespace and
    /// candidate: it is the same behind every adapter.
    proved: BTreeMap<(usize, usize), Result<&'static str, String>>,
}

impl<D: Devices> Judge<'_, D> {
    /// What topology says of the SSD and the adapter; then whether the adapter
    /// takes the memory; then whether data arrives.
    fn verdict(
        &mut self,
        adapter: &dyn nic::Adapter,
        (number, namespace): (usize, &Namespace),
        memory: Placement,
        clients: &[PciAddress],
    ) -> Fitness {
        if let Some(nowhere) = nowhere(&namespace.backend, memory) {
            return nowhere;
        }
        let clients: Vec<_> = clients.iter().copied().chain(adapter.pci()).collect();
        let fitness = self.devices.verdict(memory, &clients);
        let mut all = self.opened.iter().enumerate();
        let Some((at, opened)) = all.find(|(_, it)| it.candidate.placement == memory) else {
            return fitness;
        };
        let leg = leg(namespace, opened, self.ssds, self.kernel);
        let mut tried = |leg: &Leg<'_, _>| {
            let tried = || leg.prove().map_err(|error| format!("{error:#}"));
            let known = self.proved.entry((number, at));
            known.or_insert_with(tried).clone()
        };
        if !fitness.is_peer() {
            // The kernel judges for itself, and says so.
            let said = match leg {
                Some(leg @ Leg::Kernel { .. }) => tried(&leg).err(),
                _ => None,
            };
            let text = said.map_or(fitness.text.clone(), |said| {
                format!("{}; {said}", fitness.text)
            });
            return Fitness { text, ..fitness };
        }
        if let Err(error) = adapter.try_register(&opened.region, POOL_ACCESS) {
            return Fitness {
                code: error.path_reason(),
                text: error.to_string(),
                remedy: Some(
                    "use a NIC that can register it, a listener with nic = \"soft\", or set p2p \
                     to \"prefer\" or \"off\""
                        .to_owned(),
                ),
                ..fitness
            };
        }
        let Some(leg) = leg else {
            return fitness;
        };
        match tried(&leg) {
            Ok(said) => Fitness {
                text: format!("{}; {said}", fitness.text),
                ..fitness
            },
            Err(error) => Fitness {
                code: PathReason::ProbeFailed,
                text: format!(
                    "{}, but a transfer that was tried failed: {error}",
                    fitness.text
                ),
                remedy: Some(leg.remedy()),
                ..fitness
            },
        }
    }
}

/// The legs between a namespace's storage and memory.
enum Leg<'a, B: sidelane_nvme::Backing> {
    /// By an SSD that is driven here.
    Driven {
        ssd: PciAddress,
        controller: &'a Controller<B>,
        nsid: u32,
        region: &'a Region,
        uses: OwnUse,
    },
    /// By the kernel.
    Kernel {
        storage: &'a KernelStorage,
        region: &'a Region,
    },
}

impl<B: sidelane_nvme::Backing> Leg<'_, B> {
    fn prove(&self) -> anyhow::Result<&'static str> {
        match *self {
            Self::Driven {
                controller,
                nsid,
                region,
                uses,
                ..
            } => probe::prove(controller, nsid, region, uses),
            Self::Kernel { storage, region } => storage.prove(region).map_err(anyhow::Error::msg),
        }
    }

    /// What to do when that fails.
    fn remedy(&self) -> String {
        match self {
            Self::Driven { ssd, .. } => {
                format!("look for DMA or IOMMU faults of {ssd} in `dmesg`, or use other memory")
            }
            Self::Kernel { .. } => {
                "look for what the kernel says of it in `dmesg`, or use other memory".to_owned()
            }
        }
    }
}

/// `None` where no device is behind the namespace.
fn leg<'a, B: sidelane_nvme::Backing>(
    namespace: &Namespace,
    opened: &'a Opened,
    ssds: &'a Ssds<B>,
    kernel: &'a Kernel,
) -> Option<Leg<'a, B>> {
    if let Some(storage) = kernel.get(&namespace.backend) {
        let region = &opened.region;
        return Some(Leg::Kernel { storage, region });
    }
    let Storage::Nvme { device, nsid } = &namespace.backend else {
        return None;
    };
    let ssd = address(device).ok()?;
    let own = matches!(opened.candidate.placement, Placement::Peer { device, .. } if device == ssd);
    let uses = match own {
        true => opened.candidate.own_use,
        // To another device it is plain memory.
        false => OwnUse {
            reads: true,
            writes: true,
        },
    };
    Some(Leg::Driven {
        ssd,
        controller: ssds.get(&ssd)?,
        nsid: *nsid,
        region: &opened.region,
        uses,
    })
}

/// What a namespace uses, from what was chosen behind each adapter.
fn chosen<'a>(
    behind: impl Iterator<Item = (&'a str, &'a Choice)>,
    pools: &Pools,
    facts: &[PoolFacts],
    mdts: &[u8],
) -> Chosen {
    let mut chosen = Chosen {
        routes: Vec::new(),
        ways: Vec::new(),
        mdts: MDTS,
    };
    for (nic, choice) in behind {
        let routes = Routes {
            reads: pools.route(&choice.reads),
            writes: pools.route(&choice.writes),
        };
        let used = |pool: &usize| routes.reads.uses(pool + 1) || routes.writes.uses(pool + 1);
        let least = (0..mdts.len()).filter(used).filter_map(|at| mdts.get(at));
        chosen.mdts = least.copied().min().unwrap_or(MDTS).min(chosen.mdts);
        let first = [&routes.reads, &routes.writes].map(|route| route.current().map(|w| w.pool));
        let mut in_use: Vec<usize> = first.into_iter().flatten().map(|at| at - 1).collect();
        in_use.dedup();
        let peers: Vec<_> = in_use
            .iter()
            .filter_map(|at| facts.get(*at))
            .filter(|fact| fact.peer)
            .map(|fact| fact.provider.as_str())
            .collect();
        chosen.ways.push(WayFacts {
            nic: nic.to_owned(),
            provider: (!peers.is_empty()).then(|| peers.join(", ")),
            code: choice.code,
            reason: choice.reason.clone(),
            pools: in_use,
        });
        chosen.routes.push(routes);
    }
    chosen
}

/// Pools in the order in which they were first needed.
#[derive(Default)]
struct Pools {
    /// The candidate of each, `None` for plain host memory.
    order: Vec<Option<usize>>,
    numbers: BTreeMap<Option<usize>, usize>,
}

impl Pools {
    fn number(&mut self, way: Way) -> usize {
        *self.numbers.entry(way.candidate).or_insert_with(|| {
            self.order.push(way.candidate);
            self.order.len() - 1
        })
    }

    /// The ways whose pools there are: an unused provider is not opened as a
    /// spare. The control pool comes before all others.
    fn route(&self, ways: &[Way]) -> Route {
        let ways = ways.iter().filter_map(|way| {
            let pool = *self.numbers.get(&way.candidate)?;
            Some(DataPath {
                pool: pool + 1,
                path: way.path,
            })
        });
        Route::new(ways.collect())
    }
}

fn of_provider(opened: &Opened) -> (PoolSpec, PoolFacts) {
    let mut spec = PoolSpec::new(opened.region.clone());
    spec.range.end = spec.range.end.min(opened.limit);
    let facts = facts(
        opened.candidate.name.clone(),
        &opened.region,
        spec.range.len(),
    );
    (spec, facts)
}

fn of_host(space: &Arc<dyn DmaSpace>) -> anyhow::Result<(PoolSpec, PoolFacts)> {
    let region = space.host_region("payload in host memory", HOST_POOL_BYTES)?;
    let facts = facts("host".to_owned(), &region, region.len());
    Ok((PoolSpec::new(region), facts))
}

fn facts(provider: String, region: &Region, bytes: usize) -> PoolFacts {
    PoolFacts {
        provider,
        region: region.name().to_owned(),
        peer: region.is_peer(),
        address: region.iova(),
        bytes: bytes as u64,
    }
}

/// The longest transfer that every reactor's share can hold, as a power of two
/// of pages.
fn longest_transfer(shares: &[PoolSpec], facts: &PoolFacts) -> anyhow::Result<u8> {
    let mut mdts = MDTS;
    for share in shares {
        let pool = Pool::new(share.clone()).with_context(|| {
            format!(
                "{} is too small to be shared by {} reactors; use fewer cores or a larger size",
                facts.region,
                shares.len()
            )
        })?;
        while mdts > 0 && pool.max_len() < 4096 << mdts {
            mdts -= 1;
        }
    }
    if mdts == 0 {
        bail!(
            "{} gives each reactor less than two pages; use fewer cores or a larger size",
            facts.region
        );
    }
    if mdts < MDTS {
        tracing::warn!(
            "{} has {} bytes for {} reactors, so hosts may transfer at most {} KiB at a time",
            facts.region,
            facts.bytes,
            shares.len(),
            4 << mdts
        );
    }
    Ok(mdts)
}

/// The configured providers, then the memory of SSDs whose namespaces choose
/// by themselves.
fn open_all<D: Devices>(
    config: &Config,
    devices: &D,
    ssds: &Ssds<D::Backing>,
    space: &Arc<dyn DmaSpace>,
) -> anyhow::Result<Vec<Opened>> {
    let mut opened = Vec::new();
    for provider in &config.providers {
        let limit = provider
            .size()
            .map_or(usize::MAX, |size| size.bytes() as usize);
        let one = match &provider.kind {
            ProviderKind::Host { size } => {
                let host = HostProvider::new(Arc::clone(space), size.bytes() as usize);
                open(provider.id.clone(), &host, limit)
            }
            ProviderKind::Cmb { device, .. } => {
                let address = address(device)?;
                let cmb = cmb(ssds, address)?.with_context(|| {
                    format!("SSD {address} has no controller memory buffer; remove this provider, or name an SSD that has one")
                });
                cmb.and_then(|cmb| open(provider.id.clone(), &cmb, limit))
            }
            ProviderKind::P2pmem { device, size } => {
                let size = size.map(|size| size.bytes());
                let published = P2pmemProvider::new(SYSFS, address(device)?, size);
                open(provider.id.clone(), &published, limit)
            }
            ProviderKind::Pmr { device, .. } => {
                let address = address(device)?;
                let pmr = pmr(ssds, address)?.with_context(|| {
                    format!("SSD {address} has no persistent memory region; remove this provider, or name an SSD that has one")
                });
                pmr.and_then(|pmr| open(provider.id.clone(), &pmr, limit))
            }
            ProviderKind::Bar {
                device,
                bar,
                offset,
                size,
            } => {
                let function = devices.open_memory(address(device)?)?;
                let len = size.map(|size| size.bytes());
                let window = function.plain_memory(*bar, offset.bytes(), len)?;
                let memory = MemoryProvider::bar(function, window);
                open(provider.id.clone(), &memory, limit)
            }
        };
        opened.push(one.with_context(|| format!("provider {}", provider.id))?);
    }
    let chooses = |namespace: &&Namespace| {
        namespace.p2p != P2pPolicy::Off && namespace.provider == ProviderChoice::Auto
    };
    let namespaces = config
        .subsystems
        .iter()
        .flat_map(|subsystem| &subsystem.namespaces);
    for namespace in namespaces.filter(chooses) {
        let Some(device) = namespace.backend.device() else {
            continue;
        };
        let address = address(device)?;
        let known = opened.iter().any(|opened: &Opened| {
            matches!(opened.candidate.placement, Placement::Peer { device, .. } if device == address)
        });
        if known {
            continue;
        }
        // Its buffer, else its region: one of them is enough.
        let own = match cmb(ssds, address) {
            Ok(None) => pmr(ssds, address),
            own => own,
        };
        let own = own.and_then(|own| {
            own.map(|own| open(own.name(), &own, usize::MAX))
                .transpose()
        });
        match own {
            Ok(own) => opened.extend(own),
            // Nobody asked for it by name: another provider may do.
            Err(error) => tracing::warn!("memory of SSD {address} is not used: {error:#}"),
        }
    }
    Ok(opened)
}

fn cmb<B: sidelane_nvme::Backing>(
    ssds: &Ssds<B>,
    address: PciAddress,
) -> anyhow::Result<Option<MemoryProvider>> {
    let Some(controller) = ssds.get(&address) else {
        return Ok(None);
    };
    let window = controller.enable_cmb()?;
    let backing = Arc::clone(controller.backing());
    Ok(window.map(|window| MemoryProvider::cmb(backing, window)))
}

/// Its persistence is not made use of, and so not promised to anybody.
fn pmr<B: sidelane_nvme::Backing>(
    ssds: &Ssds<B>,
    address: PciAddress,
) -> anyhow::Result<Option<MemoryProvider>> {
    let Some(controller) = ssds.get(&address) else {
        return Ok(None);
    };
    let window = controller.enable_pmr()?;
    if let (Some(_), Some(barrier)) = (window, controller.pmr_barrier()) {
        tracing::info!(
            "the persistent memory region of {address} is used as plain memory, and nothing in it is kept; it would be by {barrier}"
        );
    }
    let backing = Arc::clone(controller.backing());
    Ok(window.map(|window| MemoryProvider::pmr(backing, window)))
}

/// Memory on an SSD that has come back, by the name that it had.
///
/// # Errors
/// When the SSD does not have it any more, or not at a place where it can be used.
pub(super) fn reopen<B: sidelane_nvme::Backing>(
    controller: &Controller<B>,
    name: &str,
) -> anyhow::Result<Region> {
    let backing = || Arc::clone(controller.backing());
    let cmb = controller.enable_cmb()?;
    let cmb = cmb.map(|window| MemoryProvider::cmb(backing(), window));
    let is_it = |provider: &MemoryProvider| provider.name() == name;
    let found = match cmb.filter(is_it) {
        Some(cmb) => Some(cmb),
        None => {
            let pmr = controller.enable_pmr()?;
            let pmr = pmr.map(|window| MemoryProvider::pmr(backing(), window));
            pmr.filter(is_it)
        }
    };
    let found = found.map(|provider| provider.open()).transpose()?;
    let found = found.map(|offer| offer.region);
    found.with_context(|| format!("the SSD has no {name} any more"))
}

fn open(name: String, provider: &dyn Provider, limit: usize) -> anyhow::Result<Opened> {
    let offer = provider.open()?;
    let candidate = Candidate {
        name,
        placement: offer.region.placement(),
        realm: offer.realm,
        own_use: offer.own_use,
    };
    Ok(Opened {
        candidate,
        region: offer.region,
        limit,
    })
}
