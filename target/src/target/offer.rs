//! What hosts see: subsystems and namespaces, made from the configuration and
//! from what the SSDs are.

use std::sync::Arc;

use anyhow::{Context, bail};
use sidelane_config::{Backend as Storage, Config, Subsystem as Configured};
use sidelane_nvme::Backing;
use sidelane_p2p::PciAddress;
use uuid::Uuid;

use super::kernel::Kernel;
use super::memory::Chosen;
use super::ssds::{Health, Ssds, address};
use crate::subsystem::{
    AllowedHosts, Limits, Listener, NamespaceInfo, Subsystem, SubsystemConfig, Target as Offered,
};

/// Firmware revision that hosts see: the version of this program, 8 characters.
const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// The health of a subsystem and the SSDs that it comes from.
pub(super) type HealthOf = (Arc<Health>, Vec<PciAddress>);

/// Makes everything that is offered; `chosen` goes over all namespaces in the
/// order of the configuration.
pub(super) fn make<B: Backing>(
    config: &Config,
    ssds: &Ssds<B>,
    kernel: &Kernel,
    chosen: &[Chosen],
) -> anyhow::Result<(Arc<Offered>, Vec<HealthOf>)> {
    let serial = config
        .subsystems
        .first()
        .map_or("SIDELANE", |first| first.serial.as_str());
    let offered = Offered::new(serial, Configured::DEFAULT_MODEL, FIRMWARE)?;
    let mut healths = Vec::new();
    let mut backend = 0;
    for subsystem in &config.subsystems {
        let mut namespaces = Vec::new();
        let (mut devices, mut mdts) = (Vec::new(), u8::MAX);
        for namespace in &subsystem.namespaces {
            let name = format!("{} nsid {}", subsystem.nqn, namespace.nsid);
            let uuid = match &namespace.uuid {
                Some(uuid) => Uuid::parse_str(&uuid.to_string())?,
                None => derived(&name, "uuid"),
            };
            let shape = shape(&namespace.backend, ssds, kernel).with_context(|| name.clone())?;
            devices.extend(namespace.backend.device().map(address).transpose()?);
            mdts = mdts.min(chosen.get(backend).map_or(u8::MAX, |chosen| chosen.mdts));
            namespaces.push(NamespaceInfo {
                nsid: namespace.nsid,
                blocks: shape.blocks,
                block_bytes: shape.block_bytes,
                uuid,
                nguid: *derived(&name, "nguid").as_bytes(),
                eui64: None,
                volatile_write_cache: shape.volatile_write_cache,
                deallocate: shape.deallocate,
                write_zeroes: shape.write_zeroes,
                read_only: false,
                backend,
            });
            backend += 1;
        }
        devices.sort_unstable();
        devices.dedup();
        let health = Arc::new(Health::default());
        let hosts = match subsystem.allow_any_host {
            true => AllowedHosts::Any,
            false => AllowedHosts::only(subsystem.hosts.iter().map(|host| host.as_str())),
        };
        let made = Subsystem::new(SubsystemConfig {
            nqn: subsystem.nqn.as_str().parse()?,
            serial: subsystem.serial.clone(),
            model: subsystem.model.clone(),
            firmware: FIRMWARE.to_owned(),
            hosts,
            namespaces,
            limits: Limits {
                max_queue_entries: config.target.max_queue_entries,
                max_io_queues: config.target.max_io_queues,
                mdts,
                in_capsule_bytes: subsystem.in_capsule.bytes() as u32,
                ..Limits::default()
            },
            health: Arc::clone(&health) as _,
        })?;
        offered.add(made)?;
        healths.push((health, devices));
    }
    let listeners = config
        .listeners
        .iter()
        .zip(1..)
        .map(|(listener, port_id)| Listener {
            port_id,
            address: listener.socket_address(),
        });
    offered.set_listeners(listeners.collect());
    Ok((offered, healths))
}

/// What a namespace looks like from below.
pub(crate) struct Shape {
    blocks: u64,
    pub(super) block_bytes: u32,
    volatile_write_cache: bool,
    deallocate: bool,
    write_zeroes: bool,
}

/// The shape of what stores a namespace.
pub(crate) fn shape<B: Backing>(
    backend: &Storage,
    ssds: &Ssds<B>,
    kernel: &Kernel,
) -> anyhow::Result<Shape> {
    match backend {
        Storage::Block { .. } | Storage::Passthrough { .. } | Storage::File { .. } => {
            let storage = kernel.get(backend).context("the storage is not open")?;
            let shape = storage.shape();
            Ok(Shape {
                blocks: shape.blocks,
                block_bytes: shape.block_bytes,
                volatile_write_cache: shape.volatile_write_cache,
                deallocate: shape.deallocate,
                write_zeroes: shape.write_zeroes,
            })
        }
        Storage::Null { size, block } => Ok(Shape {
            blocks: size.bytes() / u64::from(*block),
            block_bytes: *block,
            volatile_write_cache: false,
            deallocate: true,
            write_zeroes: true,
        }),
        Storage::Nvme { device, nsid } => {
            let address = address(device)?;
            let controller = ssds.get(&address).context("the SSD is not open")?;
            let namespaces = controller.namespaces();
            let Some(namespace) = namespaces.iter().find(|ns| ns.nsid == *nsid) else {
                let unusable = controller.unusable_namespaces();
                match unusable.iter().find(|ns| ns.nsid == *nsid) {
                    Some(found) => bail!("namespace {nsid} of SSD {address}: {}", found.reason),
                    None => bail!(
                        "SSD {address} has no active namespace {nsid}; it has {:?}",
                        namespaces.iter().map(|ns| ns.nsid).collect::<Vec<_>>()
                    ),
                }
            };
            let identify = controller.identify();
            Ok(Shape {
                blocks: namespace.blocks,
                block_bytes: namespace.block_bytes,
                volatile_write_cache: controller.volatile_write_cache(),
                deallocate: identify.oncs.dsm(),
                write_zeroes: identify.oncs.write_zeroes(),
            })
        }
    }
}

/// An identifier that is the same at every start, and another for every name.
fn derived(name: &str, purpose: &str) -> Uuid {
    let space = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"sidelane:namespace");
    Uuid::new_v5(&space, format!("{name} {purpose}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_stable_and_differ_by_name_and_purpose() {
        let first = derived("nqn.2026-11.io.sidelane:a nsid 1", "uuid");
        assert_eq!(first, derived("nqn.2026-11.io.sidelane:a nsid 1", "uuid"));
        assert_ne!(first, derived("nqn.2026-11.io.sidelane:a nsid 1", "nguid"));
        assert_ne!(first, derived("nqn.2026-11.io.sidelane:a nsid 2", "uuid"));
        assert!(!first.is_nil());
    }
}
