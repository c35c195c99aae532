//! A running target: made from a configuration and devices, until it is stopped.
//!
//! Started bottom up: SSDs (`ssds`), memory (`memory`), what hosts see
//! (`offer`), reactors, the keepers of the SSDs (`keeper`), then the control plane
//! (`plane`), so that a host that can connect finds everything there. Stopped the
//! other way round, but the keepers last: they see to it that reactors end.

pub(crate) mod adapters;
mod journal;
mod keeper;
mod keepers;
pub(crate) mod kernel;
pub(crate) mod memory;
pub(crate) mod offer;
mod plane;
mod probe;
pub(crate) mod ssds;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use sidelane_config::{
    Backend as Storage, Config, Flush, Namespace as ConfiguredNamespace, Subsystem as Configured,
};
use sidelane_nvme::Backing;
use sidelane_p2p::PciAddress;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{oneshot, watch};

use self::adapters::Adapters;
use self::journal::Journal;
use self::keeper::{Desk, Identity, Keeper, Kept};
use self::keepers::Makers;
use self::kernel::Kernel;
use self::memory::{Chosen, Foresight, Memory};
use self::plane::ControlPlane;
use self::ssds::{QUEUE_DEPTH, Ssds};
use crate::backend::{Backend, NullBackend, NvmeBackend};
use crate::devices::Devices;
use crate::reactor::{FlushPolicy, Namespace, ReactorHandle, ReactorSpec};
use crate::report::{ListenerFacts, NamespaceFacts, Reporter};
use crate::stats::{ReactorCounters, SsdCounters, StatsReport};

/// Commands that one reactor takes from one adapter at a time, at most.
const SLOTS: usize = 8192;

/// How long hosts have to take note of a disconnection when the target stops.
const FAREWELL: Duration = Duration::from_millis(300);

/// What is asked of a target beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Write every command that an SSD is given to this file.
    pub sqe_journal: Option<PathBuf>,
}

/// A running target.
pub struct Target {
    reactors: Vec<ReactorHandle>,
    reporter: Arc<Reporter>,
    /// Dropped to stop the control plane.
    stop: oneshot::Sender<()>,
    ended: watch::Receiver<bool>,
    /// How the control plane ended.
    control: JoinHandle<anyhow::Result<()>>,
    keepers: Vec<Keeper>,
    /// Nobody else may have it meanwhile.
    _kernel: Kernel,
}

impl Target {
    /// Starts a target; when this returns, hosts can connect.
    ///
    /// # Errors
    /// When a device, an address or memory cannot be had, or a policy cannot be
    /// met: what it is, why, and what to do about it. Nothing stays behind.
    pub fn start<D: Devices>(
        config: &Config,
        devices: D,
        options: Options,
    ) -> anyhow::Result<Self> {
        let journal = options
            .sqe_journal
            .as_deref()
            .map(Journal::create)
            .transpose()?;
        // Before any device is touched.
        let foreseen = memory::foresee(config, &devices, Foresight::BeforeOpening);
        if let Some(refusal) = foreseen.into_iter().next() {
            return Err(refusal);
        }
        let mut adapters = Adapters::open(config, config.target.cores.len())?;
        let devices = Arc::new(devices);
        let kernel = Kernel::open(config)?;
        let ssds = ssds::open(config, &*devices)?;
        for (subsystem, namespace) in configured(config) {
            // Before anything is tried on it: is it there at all?
            offer::shape(&namespace.backend, &ssds, &kernel)
                .with_context(|| format!("{} nsid {}", subsystem.nqn, namespace.nsid))?;
        }
        let space = devices.space();
        let Memory {
            shares,
            facts: pools,
            chosen,
        } = memory::plan(config, &*devices, &ssds, &kernel, &space, &mut adapters)?;
        let (offered, healths) = offer::make(config, &ssds, &kernel, &chosen)?;
        let desks = desks(config, &ssds)?;
        let memory_of = |address: &PciAddress| Kept::of(*address, &shares);
        let kept: BTreeMap<_, _> = ssds.keys().map(|at| (*at, memory_of(at))).collect();

        let cores: Vec<_> = config
            .target
            .cores
            .iter()
            .map(|core| usize::from(*core))
            .collect();
        let (reports, from_reactors) = unbounded_channel();
        let mut reactors = Vec::new();
        // Every reactor has a share of every pool, in the same order.
        let regions: Vec<_> = shares
            .first()
            .map(|shares| shares.iter().map(|share| share.region.clone()).collect())
            .unwrap_or_default();
        for (&core, pools) in cores.iter().zip(shares) {
            let counters = ReactorCounters::new(core, chosen.len(), pools.len());
            let in_capsule = config.subsystems.iter().map(|s| s.in_capsule.bytes()).max();
            let spec = ReactorSpec {
                core,
                nics: adapters.next_parts(),
                flush: flush_policy(config.target.flush),
                space: Arc::clone(&space),
                namespaces: namespaces(config, &ssds, &kernel, &desks, &chosen, journal.as_ref())?,
                pools,
                in_capsule: in_capsule.unwrap_or(0) as usize,
                counters,
                reports: reports.clone(),
            };
            let reactor = ReactorHandle::start(spec)
                .with_context(|| format!("the reactor on core {core}"))?;
            for region in &regions {
                keeper::tell_revoked(region, &reactor.mailbox);
            }
            reactors.push(reactor);
        }
        // Whoever keeps a region keeps its device open.
        drop(regions);

        let reporter = Arc::new(Reporter {
            started: Instant::now(),
            listeners: listener_facts(config, &adapters),
            pools,
            namespaces: namespace_facts(config, &chosen),
            reactors: reactors
                .iter()
                .map(|reactor| Arc::clone(&reactor.counters))
                .collect(),
            ssds: desks.values().map(|it| Arc::clone(&it.counters)).collect(),
            offered: Arc::clone(&offered),
        });
        let (stop, stopped) = oneshot::channel();
        let (has_ended, ended) = watch::channel(false);
        let plane = ControlPlane {
            socket: config.target.control.clone(),
            adapters: adapters.in_use().map(|it| it.shared.clone()).collect(),
            cores,
            returning: adapters.returning(),
            managers: adapters.into_managers(config),
            mailboxes: reactors
                .iter()
                .map(|reactor| reactor.mailbox.clone())
                .collect(),
            offered: Arc::clone(&offered),
            max_queue_entries: config.target.max_queue_entries,
            reporter: Arc::clone(&reporter),
            from_reactors,
            watches: {
                let mut watches = devices.watches();
                watches.retain(|watch| !ssds.contains_key(&watch.address()));
                watches
            },
            stopped,
        };
        let makers = Makers {
            config,
            devices: &devices,
            reactors: &reactors,
            offered: &offered,
            healths: &healths,
            journal: journal.as_ref(),
        };
        let keepers = makers.start_all(ssds, desks, kept)?;
        let (ready, started) = std::sync::mpsc::channel();
        let control = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let outcome = plane.run(&ready);
                let _ = has_ended.send(true);
                outcome
            })?;
        let target = Self {
            reactors,
            reporter,
            stop,
            ended,
            control,
            keepers,
            _kernel: kernel,
        };
        match started.recv() {
            Ok(()) => Ok(target),
            // It has ended; stopping says why.
            Err(_) => match target.stop() {
                Ok(()) => anyhow::bail!("the control plane ended at once"),
                Err(error) => Err(error),
            },
        }
    }

    /// The statistics at this moment.
    pub fn stats(&self) -> StatsReport {
        self.reporter.report()
    }

    /// What is offered and which way payload goes, a line each.
    pub fn summary(&self) -> Vec<String> {
        let report = self.stats();
        let listeners = report.listeners.iter().map(|l| {
            let (id, nic, state) = (&l.id, l.adapters.join(", "), &l.state);
            let reason = l
                .reason
                .as_ref()
                .map(|it| format!(": {it}"))
                .unwrap_or_default();
            format!(
                "listener {id}: {} port {} on {nic}, {state}{reason}",
                l.address, l.port
            )
        });
        let ways = report
            .namespaces
            .iter()
            .flat_map(|ns| ns.ways.iter().map(move |way| (ns, way)));
        let namespaces = ways.map(|(ns, way)| {
            let memory = match &way.provider {
                Some(provider) => format!("peer memory of {provider}"),
                None => "host memory".to_owned(),
            };
            let (nqn, nsid, p2p, backend) = (&ns.nqn, ns.nsid, &ns.p2p, &ns.backend);
            let (nic, code, reason) = (&way.nic, &way.code, &way.reason);
            format!(
                "{nqn} nsid {nsid} on {backend}, p2p {p2p}, by {nic}: payload in {memory} ({code}: {reason})"
            )
        });
        let pools = report.pools.iter().map(|pool| {
            let kind = if pool.peer { "peer" } else { "host" };
            let last = pool.address + pool.bytes.saturating_sub(1);
            format!(
                "{kind} pool {}: {:#x} to {last:#x}",
                pool.region, pool.address
            )
        });
        listeners.chain(namespaces).chain(pools).collect()
    }

    /// Resolves when the control plane has ended by itself, which it should not.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the sender is gone, and with it the plane.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Disconnects the hosts, ends the reactors, closes the SSDs.
    ///
    /// # Errors
    /// When an SSD or the control plane did not end in order; all is stopped
    /// all the same.
    pub fn stop(self) -> anyhow::Result<()> {
        let had_hosts = self
            .reporter
            .reactors
            .iter()
            .any(|r| r.connections.get() > 0);
        for keeper in &self.keepers {
            keeper.stop_soon();
        }
        drop(self.reactors);
        if had_hosts {
            // The control plane still runs, and tells the hosts.
            std::thread::sleep(FAREWELL);
        }
        drop(self.stop);
        let control = match self.control.join() {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the control plane had panicked")),
        };
        for keeper in &self.keepers {
            keeper.ask_to_stop();
        }
        let mut outcome = control;
        for keeper in self.keepers {
            outcome = keeper.join().and(outcome);
        }
        outcome
    }
}

/// All namespaces with their subsystems: the order of all tables of namespaces.
pub(crate) fn configured(
    config: &Config,
) -> impl Iterator<Item = (&Configured, &ConfiguredNamespace)> {
    let subsystems = config.subsystems.iter();
    subsystems.flat_map(|subsystem| subsystem.namespaces.iter().map(move |ns| (subsystem, ns)))
}

/// A place for each SSD where its troubles are told.
fn desks<B: Backing>(
    config: &Config,
    ssds: &Ssds<B>,
) -> anyhow::Result<BTreeMap<PciAddress, Desk>> {
    let limit = Duration::from_millis(config.target.command_timeout_ms.into());
    let desk = |(address, controller): (&PciAddress, _)| {
        let serial = Identity::of(controller).serial;
        let counters = SsdCounters::new(address.to_string(), serial);
        Ok((*address, Desk::new(limit, counters)?))
    };
    ssds.iter().map(desk).collect()
}

/// One reactor's namespaces, in the order of the configuration.
fn namespaces<B: Backing>(
    config: &Config,
    ssds: &Ssds<B>,
    kernel: &Kernel,
    desks: &BTreeMap<PciAddress, Desk>,
    chosen: &[Chosen],
    journal: Option<&Journal>,
) -> anyhow::Result<Vec<Namespace>> {
    configured(config)
        .zip(chosen)
        .map(|((subsystem, namespace), chosen)| {
            let backend: Box<dyn Backend> = match &namespace.backend {
                Storage::Null { .. } => Box::new(NullBackend::new()),
                Storage::Block { .. } | Storage::Passthrough { .. } | Storage::File { .. } => {
                    let storage = kernel.get(&namespace.backend);
                    let storage = storage.context("the storage is not open")?;
                    storage.backend(QUEUE_DEPTH)?
                }
                Storage::Nvme { device, nsid } => {
                    let address = ssds::address(device)?;
                    let controller = ssds.get(&address).context("the SSD is not open")?;
                    let desk = desks.get(&address).context("the SSD is not open")?;
                    let mut queue = controller.create_io_queue_pair(QUEUE_DEPTH)?;
                    if let Some(journal) = journal {
                        queue.set_tap(journal.tap(address));
                    }
                    Box::new(NvmeBackend::new(
                        queue,
                        *nsid,
                        controller.max_transfer_bytes(),
                        desk.watch(),
                    ))
                }
            };
            Ok(Namespace {
                backend: Some(backend),
                block_bytes: offer::shape(&namespace.backend, ssds, kernel)?.block_bytes,
                routes: chosen.routes.clone(),
                in_capsule: subsystem.in_capsule.bytes() > 0,
            })
        })
        .collect()
}

fn namespace_facts(config: &Config, chosen: &[Chosen]) -> Vec<NamespaceFacts> {
    configured(config)
        .zip(chosen)
        .map(|((subsystem, namespace), chosen)| NamespaceFacts {
            nqn: subsystem.nqn.to_string(),
            nsid: namespace.nsid,
            backend: namespace.backend.what(),
            p2p: namespace.p2p.as_str().to_owned(),
            ways: chosen.ways.clone(),
        })
        .collect()
}

fn listener_facts(config: &Config, adapters: &Adapters) -> Vec<ListenerFacts> {
    let listeners = config.listeners.iter().enumerate();
    listeners
        .map(|(at, listener)| ListenerFacts {
            id: listener.id.clone(),
            nic: listener.nic.as_str(),
            address: listener.socket_address(),
            adapters: adapters
                .in_use()
                .filter(|adapter| adapter.listeners.contains(&at))
                .map(|adapter| adapter.shared.clone())
                .collect(),
            waiting: adapters.waiting(config, at),
            refused: adapters.refusal(at),
        })
        .collect()
}

fn flush_policy(flush: Flush) -> FlushPolicy {
    match flush {
        Flush::Auto => FlushPolicy::Auto,
        Flush::Always => FlushPolicy::Always,
        Flush::Never => FlushPolicy::Never,
    }
}

/// Shuts the SSDs down in order. All queue pairs are gone by now.
pub(crate) fn close<B: Backing>(ssds: Ssds<B>) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    for (address, controller) in ssds {
        if let Err(error) = controller.shutdown() {
            outcome =
                Err(error).with_context(|| format!("SSD {address} was closed, but not in order"));
        }
    }
    outcome
}
