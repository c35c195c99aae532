//! Memory for payload: what the devices offer, what the namespaces choose of
//! it, and the pools made of that.

mod judge;
mod providers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use sidelane_config::{Backend as Storage, Config, Namespace};
use sidelane_p2p::pool::{Pool, PoolSpec};
use sidelane_p2p::provider::{Fitness, OwnUse, PathReason, Realm};
use sidelane_p2p::{DmaSpace, PciAddress, Placement, Region};

use self::judge::Judge;
pub(super) use self::providers::reopen;
use self::providers::{Opened, open_all};
use super::adapters::Adapters;
use super::configured;
use super::kernel::{Kernel, SYSFS};
use super::ssds::{Ssds, address};
use crate::backend;
use crate::devices::Devices;
use crate::reactor::{DataPath, Route, Routes};
use crate::report::{PoolFacts, WayFacts};
use crate::resolve::{Candidate, Choice, Client, Way, choose};

/// Host memory for payload, where a namespace uses it and no provider of kind
/// `host` says how much, in bytes over all reactors.
const HOST_POOL_BYTES: usize = 64 << 20;

/// Longest transfer that is offered: 1 MiB, as a power of two of 4 KiB pages.
const MDTS: u8 = 8;

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
        candidates.push(candidate(
            &provider.id,
            device,
            providers::realm(&provider.kind),
        ));
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
    let mut judge = Judge::new(devices, ssds, kernel, &opened);
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
    for ways in all().flat_map(|choice| [&choice.reads, &choice.writes]) {
        // What is in use, and host memory where that is the last resort: it
        // cannot be made when it is needed.
        let needed = |way: &&Way| !way.spare || way.path != PathReason::Peer;
        for way in ways.iter().filter(needed) {
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
        .zip(configured(config))
        .map(|(chosen, (subsystem, namespace))| {
            if chosen.mdts < MDTS {
                tracing::warn!(
                    "{} nsid {}: its memory is small, so hosts may transfer at most {} KiB at a time",
                    subsystem.nqn,
                    namespace.nsid,
                    4 << chosen.mdts
                );
            }
            chosen
        })
        .collect();
    Ok(Memory {
        shares,
        facts,
        chosen,
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
        let open = [routes.reads.open(), routes.writes.open()];
        for open in open {
            // A small memory beside a larger one does not count.
            let longest = open.iter().filter_map(|way| mdts.get(way.pool - 1)).max();
            chosen.mdts = longest.copied().unwrap_or(MDTS).min(chosen.mdts);
        }
        let mut in_use: Vec<usize> = Vec::new();
        for way in open.into_iter().flatten() {
            if !in_use.contains(&(way.pool - 1)) {
                in_use.push(way.pool - 1);
            }
        }
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
                spare: way.spare,
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
    Ok(mdts)
}
