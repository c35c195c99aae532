//! The providers of a configuration, opened, whatever their kind.

use std::sync::Arc;

use anyhow::Context;
use sidelane_config::{
    Config, Namespace, P2pPolicy, Provider as Configured, ProviderChoice, ProviderKind,
};
use sidelane_nvme::driver::Controller;
use sidelane_p2p::provider::{HostProvider, MemoryProvider, P2pmemProvider, Provider, Realm};
use sidelane_p2p::{DmaSpace, PciAddress, Placement, Region};

use super::super::kernel::SYSFS;
use super::super::ssds::{Ssds, address};
use crate::devices::Devices;
use crate::resolve::Candidate;

/// Memory that a provider has opened.
pub(super) struct Opened {
    pub(super) candidate: Candidate,
    pub(super) region: Region,
    /// Bytes of it that may be used.
    pub(super) limit: usize,
}

/// The configured providers, then the memory of SSDs whose namespaces choose
/// by themselves.
pub(super) fn open_all<D: Devices>(
    config: &Config,
    devices: &D,
    ssds: &Ssds<D::Backing>,
    space: &Arc<dyn DmaSpace>,
) -> anyhow::Result<Vec<Opened>> {
    let mut opened = Vec::new();
    for provider in &config.providers {
        let one = open_one(provider, devices, ssds, space);
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

fn open_one<D: Devices>(
    provider: &Configured,
    devices: &D,
    ssds: &Ssds<D::Backing>,
    space: &Arc<dyn DmaSpace>,
) -> anyhow::Result<Opened> {
    let limit = provider
        .size()
        .map_or(usize::MAX, |size| size.bytes() as usize);
    let id = provider.id.clone();
    match &provider.kind {
        ProviderKind::Host { size } => {
            let host = HostProvider::new(Arc::clone(space), size.bytes() as usize);
            open(id, &host, limit)
        }
        ProviderKind::Cmb { device, .. } => {
            let address = address(device)?;
            let cmb = cmb(ssds, address)?.with_context(|| {
                format!("SSD {address} has no controller memory buffer; remove this provider, or name an SSD that has one")
            })?;
            open(id, &cmb, limit)
        }
        ProviderKind::Pmr { device, .. } => {
            let address = address(device)?;
            let pmr = pmr(ssds, address)?.with_context(|| {
                format!("SSD {address} has no persistent memory region; remove this provider, or name an SSD that has one")
            })?;
            open(id, &pmr, limit)
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
            open(id, &MemoryProvider::bar(function, window), limit)
        }
        ProviderKind::P2pmem { device, size } => {
            let size = size.map(|size| size.bytes());
            let published = P2pmemProvider::new(SYSFS, address(device)?, size);
            open(id, &published, limit)
        }
    }
}

/// For whose devices memory of a kind is mapped.
pub(super) fn realm(kind: &ProviderKind) -> Realm {
    match kind {
        ProviderKind::Cmb { .. } | ProviderKind::Pmr { .. } | ProviderKind::Bar { .. } => {
            Realm::Vfio
        }
        ProviderKind::P2pmem { .. } => Realm::Kernel,
        ProviderKind::Host { .. } => Realm::Both,
    }
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
pub(in crate::target) fn reopen<B: sidelane_nvme::Backing>(
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
