//! The SSDs of a configuration, opened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use sidelane_config::{Config, PciSlot};
use sidelane_nvme::driver::{Controller, Options};
use sidelane_nvme::spec::SmartLog;
use sidelane_p2p::PciAddress;

use crate::devices::Devices;
use crate::subsystem::{HealthSource, NoHealth};

/// Commands that one reactor has outstanding at one namespace.
pub(crate) const QUEUE_DEPTH: u16 = 256;

/// How long an SSD has for an admin command. One that takes longer is reset.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The controllers by address.
pub(crate) type Ssds<B> = BTreeMap<PciAddress, Controller<B>>;

/// How an SSD is opened for so many queue pairs of reactors.
pub(super) fn options(queues: u16) -> Options {
    Options {
        // And one to try its memory with.
        io_queues: queues + 1,
        admin_timeout: ADMIN_TIMEOUT,
        ..Options::default()
    }
}

/// The address that a configuration names.
pub(crate) fn address(slot: &PciSlot) -> anyhow::Result<PciAddress> {
    Ok(slot.as_str().parse()?)
}

/// Each SSD that a namespace or a provider names, and how many queue pairs the
/// reactors have of it.
///
/// # Errors
/// When an address is none.
pub(super) fn wanted(config: &Config) -> anyhow::Result<BTreeMap<PciAddress, u16>> {
    let mut queues: BTreeMap<PciAddress, u16> = BTreeMap::new();
    for provider in &config.providers {
        if let Some(device) = provider.ssd() {
            queues.entry(address(device)?).or_default();
        }
    }
    let reactors = config.target.cores.len() as u16;
    for namespace in config
        .subsystems
        .iter()
        .flat_map(|subsystem| &subsystem.namespaces)
    {
        if let Some(device) = namespace.backend.device() {
            *queues.entry(address(device)?).or_default() += reactors;
        }
    }
    Ok(queues)
}

/// Opens each SSD that a namespace or a provider names.
pub(crate) fn open<D: Devices>(config: &Config, devices: &D) -> anyhow::Result<Ssds<D::Backing>> {
    let queues = wanted(config)?;
    // All are let into the address space before any of them is used: memory
    // that is mapped for one is mapped for all.
    let opened: Vec<_> = queues
        .into_iter()
        .map(|(address, queues)| Ok((address, queues, devices.open(address)?)))
        .collect::<anyhow::Result<_>>()?;
    opened
        .into_iter()
        .map(|(address, queues, backing)| {
            let controller = Controller::open(Arc::new(backing), options(queues))
                .with_context(|| format!("SSD {address}"))?;
            let identify = controller.identify();
            tracing::info!(
                %address,
                serial = identify.sn.to_string(),
                model = identify.mn.to_string(),
                namespaces = controller.namespaces().len(),
                "SSD opened"
            );
            for namespace in controller.unusable_namespaces().iter() {
                tracing::warn!(%address, nsid = namespace.nsid, "not usable: {}", namespace.reason);
            }
            Ok((address, controller))
        })
        .collect()
}

/// The health of a subsystem: the worst of its SSDs, as last read.
#[derive(Default)]
pub(crate) struct Health {
    last: Mutex<BTreeMap<PciAddress, SmartLog>>,
}

impl Health {
    /// Takes what one of its SSDs said just now.
    pub(super) fn update(&self, ssd: PciAddress, log: SmartLog) {
        self.logs().insert(ssd, log);
    }

    /// An SSD is gone, and its health with it.
    pub(super) fn forget(&self, ssd: PciAddress) {
        self.logs().remove(&ssd);
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<PciAddress, SmartLog>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthSource for Health {
    fn smart(&self) -> SmartLog {
        let worst = self.logs().values().copied().reduce(worse);
        worst.unwrap_or_else(|| NoHealth.smart())
    }
}

/// Two SSDs as one: what is bad of either, and the sums of what is counted.
fn worse(a: SmartLog, b: SmartLog) -> SmartLog {
    let warning = a.critical_warning.into_bits() | b.critical_warning.into_bits();
    SmartLog {
        critical_warning: warning.into(),
        temperature_k: a.temperature_k.get().max(b.temperature_k.get()).into(),
        spare_percent: a.spare_percent.min(b.spare_percent),
        spare_threshold_percent: a.spare_threshold_percent.max(b.spare_threshold_percent),
        used_percent: a.used_percent.max(b.used_percent),
        data_units_read: (a
            .data_units_read
            .get()
            .saturating_add(b.data_units_read.get()))
        .into(),
        data_units_written: a
            .data_units_written
            .get()
            .saturating_add(b.data_units_written.get())
            .into(),
        host_reads: a.host_reads.get().saturating_add(b.host_reads.get()).into(),
        host_writes: a
            .host_writes
            .get()
            .saturating_add(b.host_writes.get())
            .into(),
        media_errors: a
            .media_errors
            .get()
            .saturating_add(b.media_errors.get())
            .into(),
        ..a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subsystem_is_as_healthy_as_its_worst_ssd() {
        let log = |temperature: u16, spare: u8, reads: u128| SmartLog {
            temperature_k: temperature.into(),
            spare_percent: spare,
            host_reads: reads.into(),
            ..SmartLog::default()
        };
        let health = Health::default();
        assert_eq!(health.smart().temperature_k.get(), 298);
        let [first, second] = ["01:00.0", "02:00.0"].map(|address| address.parse().unwrap());
        health.update(first, log(300, 90, 5));
        health.update(second, log(330, 100, 7));
        let smart = health.smart();
        assert_eq!((smart.temperature_k.get(), smart.spare_percent), (330, 90));
        assert_eq!(smart.host_reads.get(), 12);
        health.forget(second);
        assert_eq!(health.smart().temperature_k.get(), 300);
    }
}
