//! The network adapters of a configuration, opened: which listeners each serves,
//! its parts for the reactors, and who answers requests for connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use sidelane_config::{Config, NicKind};
use sidelane_transport::cm::ConnectionManager;
use sidelane_transport::nic::{self, Nic};
use sidelane_transport::soft;

use super::SLOTS;
use crate::control::{ManagerSpec, Reopen, Returning};
use crate::reactor::NicSpec;
use crate::report::{SharedAdapter, Waiting};

/// Connections and commands of the data path, before reactors take them.
pub(crate) struct Adapters {
    /// All adapters.
    pub(super) list: Vec<Adapter>,
    /// Who answers for which of them.
    pub(super) managers: Vec<Manager>,
}

/// An adapter.
pub(crate) struct Adapter {
    pub(crate) adapter: Arc<dyn nic::Adapter>,
    /// The same for statistics, which follow when it is replaced.
    pub(super) shared: SharedAdapter,
    /// How to open it again when it was removed and is back.
    reopen: Option<Reopen>,
    /// The listeners that it serves, by their number in the configuration.
    pub(super) listeners: Vec<usize>,
    /// By reactor, last first.
    parts: Vec<NicSpec>,
    /// Why no listener may use it.
    pub(super) refused: Option<String>,
}

/// A connection manager, and what is its own.
pub(super) struct Manager {
    manager: Box<dyn ConnectionManager>,
    /// Its adapters, by their number in [`Adapters::list`].
    adapters: Vec<usize>,
    /// Its listeners, by their number in the configuration.
    listeners: Vec<usize>,
    /// Says of a listener, by its address, why it waits.
    waiting: Arc<dyn Fn(SocketAddr) -> Option<String> + Send + Sync>,
}

impl Adapters {
    /// Opens what the listeners name.
    ///
    /// # Errors
    /// When an address, a port or an adapter cannot be had, with the remedy.
    pub(crate) fn open(config: &Config, reactors: usize) -> anyhow::Result<Self> {
        let mut adapters = Self {
            list: Vec::new(),
            managers: Vec::new(),
        };
        let of = |kind| {
            let listeners = config.listeners.iter().enumerate();
            listeners.filter(move |(_, listener)| listener.nic == kind)
        };
        let mut soft: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
        for (at, listener) in of(NicKind::Soft) {
            soft.entry(listener.address).or_default().push(at);
        }
        for (address, listeners) in soft {
            // All listeners of an address have the same settings.
            let first = listeners.first().and_then(|at| config.listeners.get(*at));
            let settings = soft_settings(first.and_then(|listener| listener.soft));
            adapters.open_soft(address, listeners, reactors, settings)?;
        }
        let verbs: Vec<usize> = of(NicKind::Verbs).map(|(at, _)| at).collect();
        if !verbs.is_empty() {
            adapters.open_verbs(config, verbs, reactors)?;
        }
        Ok(adapters)
    }

    fn open_soft(
        &mut self,
        address: IpAddr,
        listeners: Vec<usize>,
        reactors: usize,
        settings: soft::port::Settings,
    ) -> anyhow::Result<()> {
        let (parts, manager) = soft::open_with(address, reactors, settings)?;
        let first = parts.first().context("there is no reactor")?;
        let adapter = Arc::new(soft::nic::SoftAdapter::of(first));
        let number = self.add(adapter, listeners.clone(), specs(parts, SLOTS), None);
        self.managers.push(Manager {
            manager: Box::new(manager),
            adapters: vec![number],
            listeners,
            // A socket has its address until it is closed.
            waiting: Arc::new(|_| None),
        });
        Ok(())
    }

    #[cfg(feature = "verbs")]
    fn open_verbs(
        &mut self,
        config: &Config,
        listeners: Vec<usize>,
        reactors: usize,
    ) -> anyhow::Result<()> {
        use sidelane_transport::nic::Adapter as _;
        use sidelane_transport::verbs::{self, AdapterSettings};

        let addresses: Vec<_> = listeners
            .iter()
            .filter_map(|at| Some(config.listeners.get(*at)?.socket_address()))
            .collect();
        let settings = AdapterSettings {
            reactors,
            srq_wr: SLOTS as u32,
            max_connections: crate::reactor::MAX_CONNECTIONS as u32,
            send_wr: 2 * u32::from(
                config
                    .target
                    .max_queue_entries
                    .max(crate::control::ADMIN_DEPTH),
            ),
        };
        let opened = verbs::open(&addresses, settings)?;
        let mut adapters = Vec::new();
        for one in opened.adapters {
            let serves = one.listeners.iter().filter_map(|at| listeners.get(*at));
            let serves = serves.copied().collect();
            let name = one.adapter.caps().name.clone();
            let slots = SLOTS.min(one.adapter.caps().max_srq_wr as usize);
            let reopen = move || {
                let (adapter, parts) = verbs::reopen(&name, settings)?;
                Ok((adapter as Arc<dyn nic::Adapter>, specs(parts, slots)))
            };
            let parts = specs(one.parts, slots);
            adapters.push(self.add(one.adapter, serves, parts, Some(Arc::new(reopen))));
        }
        let states = opened.cm.listeners();
        let waiting = move |at| {
            let of = states.get().into_iter().find(|state| state.at == at);
            match of?.phase {
                verbs::ListenerPhase::Waiting { reason } => Some(reason),
                _ => None,
            }
        };
        self.managers.push(Manager {
            manager: Box::new(opened.cm),
            adapters,
            listeners,
            waiting: Arc::new(waiting),
        });
        Ok(())
    }

    #[cfg(not(feature = "verbs"))]
    fn open_verbs(
        &mut self,
        config: &Config,
        listeners: Vec<usize>,
        _reactors: usize,
    ) -> anyhow::Result<()> {
        let first = listeners.first().and_then(|at| config.listeners.get(*at));
        let id = first.map_or("", |listener| listener.id.as_str());
        bail!(
            "listener {id}: this program was built without verbs; use nic = \"soft\", or build it \
             with the cargo feature `verbs`"
        );
    }

    fn add(
        &mut self,
        adapter: Arc<dyn nic::Adapter>,
        listeners: Vec<usize>,
        mut parts: Vec<NicSpec>,
        reopen: Option<Reopen>,
    ) -> usize {
        parts.reverse();
        self.list.push(Adapter {
            shared: SharedAdapter::new(Arc::clone(&adapter)),
            adapter,
            listeners,
            parts,
            reopen,
            refused: None,
        });
        self.list.len() - 1
    }

    /// What looks for those in use when they are removed, in the order of
    /// [`Self::in_use`].
    pub(super) fn returning(&self) -> Vec<Option<Returning>> {
        let of = |adapter: &Adapter| {
            Some(Returning {
                name: adapter.adapter.caps().name.clone(),
                shared: adapter.shared.clone(),
                reopen: adapter.reopen.clone()?,
                sought: Arc::default(),
            })
        };
        self.in_use().map(of).collect()
    }

    /// Why hosts cannot come in by a listener although its adapter serves.
    pub(super) fn waiting(&self, config: &Config, listener: usize) -> Waiting {
        let manager = self
            .managers
            .iter()
            .find(|it| it.listeners.contains(&listener));
        let at = config.listeners.get(listener).map(|it| it.socket_address());
        match (manager.map(|manager| Arc::clone(&manager.waiting)), at) {
            (Some(waiting), Some(at)) => Arc::new(move || waiting(at)),
            _ => Arc::new(|| None),
        }
    }

    /// Adapters that may be used, with their numbers.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = &Adapter> {
        self.list.iter().filter(|adapter| adapter.refused.is_none())
    }

    /// The next reactor's parts, in the order of [`Self::in_use`]. First reactor
    /// first.
    pub(crate) fn next_parts(&mut self) -> Vec<NicSpec> {
        let in_use = self.list.iter_mut().filter(|it| it.refused.is_none());
        in_use.filter_map(|adapter| adapter.parts.pop()).collect()
    }

    /// Why a listener is not served, if it is not: all its adapters are refused.
    pub(crate) fn refusal(&self, listener: usize) -> Option<String> {
        let mut serving = self
            .list
            .iter()
            .filter(|it| it.listeners.contains(&listener));
        let reasons: Option<Vec<_>> = serving.by_ref().map(|it| it.refused.clone()).collect();
        reasons.filter(|it| !it.is_empty()).map(|it| it.join("; "))
    }

    /// Says which listeners are not served, and fails when none is left.
    ///
    /// # Errors
    /// When nobody could connect, with the reasons.
    pub(super) fn check_served(&self, config: &Config) -> anyhow::Result<()> {
        let mut reasons = Vec::new();
        for (at, listener) in config.listeners.iter().enumerate() {
            if let Some(reason) = self.refusal(at) {
                reasons.push(format!("listener {} is not started: {reason}", listener.id));
            }
        }
        if reasons.len() == config.listeners.len() {
            bail!("{}", reasons.join("\n"));
        }
        for reason in reasons {
            tracing::error!("{reason}");
        }
        Ok(())
    }

    /// What the control plane takes over; parts that no reactor took are closed.
    pub(super) fn into_managers(self, config: &Config) -> Vec<ManagerSpec> {
        let refused: Vec<bool> = (0..config.listeners.len())
            .map(|at| self.refusal(at).is_some())
            .collect();
        let mut number = 0;
        let numbers: Vec<Option<usize>> = self
            .list
            .iter()
            .map(|adapter| {
                let served = adapter.refused.is_none();
                number += usize::from(served);
                served.then(|| number - 1)
            })
            .collect();
        let of = |manager: Manager| ManagerSpec {
            adapters: manager
                .adapters
                .iter()
                .map(|at| {
                    let caps = self.list.get(*at).map(|it| it.adapter.caps().clone());
                    Some((numbers.get(*at).copied().flatten()?, caps?))
                })
                .collect(),
            listen: manager
                .listeners
                .iter()
                .filter(|at| refused.get(**at) == Some(&false))
                .filter_map(|at| config.listeners.get(*at))
                .map(|listener| (listener.id.clone(), listener.socket_address()))
                .collect(),
            manager: manager.manager,
        };
        self.managers.into_iter().map(of).collect()
    }
}

/// The parts of an adapter, with the slots of each.
fn specs<N: Nic + Send + 'static>(parts: Vec<N>, slots: usize) -> Vec<NicSpec> {
    let spec = |nic| NicSpec {
        nic: Box::new(nic) as Box<dyn Nic + Send>,
        slots,
    };
    parts.into_iter().map(spec).collect()
}

fn soft_settings(configured: Option<sidelane_config::SoftNic>) -> soft::port::Settings {
    use sidelane_config::IcrcCheck as Configured;
    use soft::port::IcrcCheck;

    let configured = configured.unwrap_or_default();
    soft::port::Settings {
        offload: configured.offload,
        icrc: match configured.icrc {
            Configured::Auto => IcrcCheck::Auto,
            Configured::Full => IcrcCheck::Full,
            Configured::Socket => IcrcCheck::Socket,
        },
    }
}
