//! Makes the keepers of all SSDs, from what the rest of the target is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidelane_config::{Backend as Storage, Config};
use sidelane_nvme::Backing;
use sidelane_nvme::driver::Controller;
use sidelane_p2p::PciAddress;

use super::configured;
use super::journal::Journal;
use super::keeper::{Desk, Identity, Keeper, Kept, Member, Name, Ssd};
use super::offer::HealthOf;
use super::ssds::{self, Ssds};
use crate::devices::Devices;
use crate::reactor::ReactorHandle;
use crate::subsystem::Target as Offered;

/// What keepers are made from.
pub(super) struct Makers<'a, D: Devices> {
    pub(super) config: &'a Config,
    pub(super) devices: &'a Arc<D>,
    pub(super) reactors: &'a [ReactorHandle],
    pub(super) offered: &'a Offered,
    pub(super) healths: &'a [HealthOf],
    pub(super) journal: Option<&'a Journal>,
}

impl<D: Devices> Makers<'_, D> {
    /// Starts a keeper for each SSD.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub(super) fn start_all(
        &self,
        ssds: Ssds<D::Backing>,
        desks: BTreeMap<PciAddress, Desk>,
        mut kept: BTreeMap<PciAddress, Vec<Kept>>,
    ) -> anyhow::Result<Vec<Keeper>> {
        let queues = ssds::wanted(self.config)?;
        let all = ssds.into_iter().zip(desks.into_values());
        let keeper = |((address, controller), desk): ((PciAddress, _), Desk)| {
            let memory = kept.remove(&address).unwrap_or_default();
            let queues = queues.get(&address).copied().unwrap_or_default();
            let ssd = self.ssd(address, controller, queues, memory, &desk)?;
            Keeper::start(ssd, desk)
        };
        all.map(keeper).collect()
    }

    fn ssd(
        &self,
        address: PciAddress,
        controller: Controller<D::Backing>,
        queues: u16,
        memory: Vec<Kept>,
        desk: &Desk,
    ) -> anyhow::Result<Ssd<D>> {
        let healths = self.healths.iter();
        let healths = healths.filter(|(_, devices)| devices.contains(&address));
        Ok(Ssd {
            devices: Arc::clone(self.devices),
            address,
            identity: Identity::of(&controller),
            options: ssds::options(queues),
            members: self.members(&controller)?,
            controller: Some(controller),
            memory,
            reactors: self.reactors.iter().map(|it| it.mailbox.clone()).collect(),
            healths: healths.map(|(health, _)| Arc::clone(health)).collect(),
            counters: Arc::clone(&desk.counters),
            notices: desk.notices.clone(),
            limit: desk.limit,
            journal: self.journal.cloned(),
            health_read: None,
            said: String::new(),
        })
    }

    /// The namespaces on an SSD.
    fn members<B: Backing>(&self, ssd: &Controller<B>) -> anyhow::Result<Vec<Member>> {
        let subsystems = self.offered.subsystems();
        let mut members = Vec::new();
        for (number, (configured, namespace)) in configured(self.config).enumerate() {
            let Storage::Nvme { device, nsid } = &namespace.backend else {
                continue;
            };
            if ssds::address(device)? != ssd.address() {
                continue;
            }
            let mut subsystems = subsystems.iter();
            let Some(subsystem) =
                subsystems.find(|it| it.nqn().as_str() == configured.nqn.as_str())
            else {
                continue;
            };
            let Some(shown) = subsystem.namespaces().get(namespace.nsid).cloned() else {
                continue;
            };
            members.push(Member {
                number,
                nsid: *nsid,
                subsystem: Arc::clone(subsystem),
                shown,
                present: true,
                name: Name::find(ssd, *nsid),
            });
        }
        Ok(members)
    }
}
