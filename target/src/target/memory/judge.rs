//! Whether memory suits a namespace behind an adapter: by the topology, by the
//! adapter's word, and by a transfer that was tried.

use std::collections::BTreeMap;

use sidelane_config::{Backend as Storage, Namespace};
use sidelane_nvme::driver::Controller;
use sidelane_p2p::provider::{Fitness, OwnUse, PathReason};
use sidelane_p2p::{PciAddress, Placement, Region};
use sidelane_transport::nic;

use super::super::kernel::Kernel;
use super::super::probe;
use super::super::ssds::{Ssds, address};
use super::nowhere;
use super::providers::Opened;
use crate::backend::KernelStorage;
use crate::devices::Devices;
use crate::reactor::POOL_ACCESS;

/// Judges memory for one namespace behind one adapter.
pub(super) struct Judge<'a, D: Devices> {
    devices: &'a D,
    ssds: &'a Ssds<D::Backing>,
    kernel: &'a Kernel,
    opened: &'a [Opened],
    /// What trying the legs to a namespace's SSD showed, by namespace and
    /// candidate: it is the same behind every adapter.
    proved: BTreeMap<(usize, usize), Result<&'static str, String>>,
}

impl<'a, D: Devices> Judge<'a, D> {
    pub(super) fn new(
        devices: &'a D,
        ssds: &'a Ssds<D::Backing>,
        kernel: &'a Kernel,
        opened: &'a [Opened],
    ) -> Self {
        Self {
            devices,
            ssds,
            kernel,
            opened,
            proved: BTreeMap::new(),
        }
    }

    /// What topology says of the SSD and the adapter; then whether the adapter
    /// takes the memory; then whether data arrives.
    pub(super) fn verdict(
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
