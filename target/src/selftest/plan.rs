//! Which paths there are to test: those that a target with this configuration
//! would use, each once.

use std::collections::BTreeMap;

use sidelane_config::{Backend as Storage, Config, P2pPolicy};
use sidelane_p2p::pool::PoolSpec;
use sidelane_p2p::{PciAddress, Placement};

use crate::reactor::Route;
use crate::report::WayFacts;
use crate::target::adapters::Adapters;
use crate::target::configured;
use crate::target::memory::Memory;
use crate::target::ssds::address;

/// An adapter, memory and an SSD.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// The adapter's number among those in use.
    pub(super) adapter: usize,
    /// What an operator calls it.
    pub(super) nic: String,
    /// The pool.
    pub(super) pool: PoolSpec,
    /// The SSD.
    pub(super) ssd: PciAddress,
    /// Its namespace whose blocks are read and compared.
    pub(super) nsid: u32,
    /// Whether data of writes goes by it.
    pub(super) writes: bool,
    /// Whether data of reads goes by it.
    pub(super) reads: bool,
}

impl Path {
    /// Cases of each block size.
    pub(super) fn variants(&self) -> u64 {
        2 * u64::from(self.writes) + u64::from(self.reads)
    }

    /// Whether the memory is the SSD's own.
    pub(super) fn own(&self) -> bool {
        matches!(self.pool.region.placement(), Placement::Peer { device, .. } if device == self.ssd)
    }
}

/// All paths, in the order of adapters, memory and SSDs, and what of the
/// configuration has none.
pub(super) fn paths(
    config: &Config,
    adapters: &Adapters,
    memory: &Memory,
) -> anyhow::Result<(Vec<Path>, Vec<String>)> {
    let mut notes: Vec<String> = (0..config.listeners.len())
        .filter_map(|at| Some((config.listeners.get(at)?, adapters.refusal(at)?)))
        .map(|(listener, reason)| format!("listener {} is not tested: {reason}", listener.id))
        .collect();
    let pools = memory.shares.first().map_or(&[][..], Vec::as_slice);
    let mut paths = BTreeMap::new();
    for ((subsystem, namespace), chosen) in configured(config).zip(&memory.chosen) {
        let Storage::Nvme { device, nsid } = &namespace.backend else {
            let (nqn, nsid) = (&subsystem.nqn, namespace.nsid);
            notes.push(format!(
                "{nqn} nsid {nsid} is not tested: no SSD is behind it"
            ));
            continue;
        };
        let ssd = address(device)?;
        if namespace.p2p != P2pPolicy::Off {
            // Who asks for peer memory and sees none tested shall know why.
            let elsewhere = chosen.ways.iter().filter(|way| way.provider.is_none());
            notes.extend(elsewhere.map(|way| {
                let (nqn, nsid, p2p) = (&subsystem.nqn, namespace.nsid, namespace.p2p.as_str());
                let WayFacts { nic, reason, .. } = way;
                format!("{nqn} nsid {nsid} (p2p = \"{p2p}\") by {nic} uses host memory: {reason}")
            }));
        }
        for (at, (routes, adapter)) in chosen.routes.iter().zip(adapters.in_use()).enumerate() {
            for (number, pool) in pools.iter().enumerate() {
                let uses = |route: &Route| route.uses(number + 1);
                let (reads, writes) = (uses(&routes.reads), uses(&routes.writes));
                if !reads && !writes {
                    continue;
                }
                let path = paths.entry((at, number, ssd)).or_insert_with(|| Path {
                    adapter: at,
                    nic: adapter.adapter.caps().name.clone(),
                    pool: pool.clone(),
                    ssd,
                    nsid: *nsid,
                    writes: false,
                    reads: false,
                });
                path.reads |= reads;
                path.writes |= writes;
            }
        }
    }
    Ok((paths.into_values().collect(), notes))
}
