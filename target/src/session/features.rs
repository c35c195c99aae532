//! Get Features and Set Features (NVMe 2.0, 5.15 and 5.27).
//!
//! No feature can be saved. The values belong to the controller, none to a
//! namespace.

use sidelane_nvme::spec::{
    AsyncEventConfig, FeatureCapabilities, FeatureId, FeatureSelect, GetFeatures, HostIdCdw11,
    NSID_ALL, NumberOfQueues, SetFeatures, TemperatureThreshold, VolatileWriteCache,
};
use zerocopy::little_endian::U32;

use super::admin::AdminQueue;
use super::keep_alive;
use super::refusal::{Refusal, at};
use super::step::{Completion, HostLen, Step};

/// Composite temperature above which a host is warned, in kelvins (WCTEMP).
pub const WARNING_TEMPERATURE_K: u16 = 343;
/// Composite temperature above which operation is at risk, in kelvins (CCTEMP).
pub const CRITICAL_TEMPERATURE_K: u16 = 353;

/// The current values of the features that a host can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    arbitration: u32,
    power_management: u32,
    over_temperature_k: u16,
    under_temperature_k: u16,
    error_recovery: u32,
    write_atomicity: u32,
    /// Which events are reported.
    pub async_events: AsyncEventConfig,
    /// Keep-alive timeout in force, in milliseconds; 0 for none.
    pub kato_ms: u32,
}

/// What can be done with a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    Changeable,
}

impl Features {
    /// The default values, with this keep-alive timeout.
    pub fn new(kato_ms: u32) -> Self {
        Self {
            arbitration: 0,
            power_management: 0,
            over_temperature_k: WARNING_TEMPERATURE_K,
            under_temperature_k: 0,
            error_recovery: 0,
            write_atomicity: 0,
            async_events: AsyncEventConfig::new(),
            kato_ms,
        }
    }
}

fn dword(bits: U32) -> u32 {
    bits.get()
}

impl AdminQueue {
    fn has_write_cache(&self) -> bool {
        self.subsystem
            .namespaces()
            .iter()
            .any(|namespace| namespace.volatile_write_cache)
    }

    fn number_of_queues(&self) -> u32 {
        let queues_z = self.subsystem.limits().max_io_queues.saturating_sub(1);
        let value = NumberOfQueues::new()
            .with_submission_z(queues_z)
            .with_completion_z(queues_z);
        dword(zerocopy::transmute!(value))
    }

    /// What can be done with a feature of this controller; `None` when it does
    /// not have it.
    fn access(&self, fid: FeatureId) -> Option<Access> {
        match fid {
            FeatureId::AsyncEventConfig | FeatureId::KeepAliveTimer => Some(Access::Changeable),
            FeatureId::HostId => Some(Access::ReadOnly),
            _ if self.is_discovery() => None,
            FeatureId::VolatileWriteCache => self.has_write_cache().then_some(Access::ReadOnly),
            // Without meaning on a fabric, but tools ask for them.
            FeatureId::InterruptCoalescing | FeatureId::InterruptVectorConfig => {
                Some(Access::ReadOnly)
            }
            FeatureId::Arbitration
            | FeatureId::PowerManagement
            | FeatureId::TemperatureThreshold
            | FeatureId::ErrorRecovery
            | FeatureId::NumberOfQueues
            | FeatureId::WriteAtomicity => Some(Access::Changeable),
            _ => None,
        }
    }

    fn value(&self, features: &Features, fid: FeatureId, cdw11: u32) -> Result<u32, Refusal> {
        Ok(match fid {
            FeatureId::Arbitration => features.arbitration,
            FeatureId::PowerManagement => features.power_management,
            FeatureId::TemperatureThreshold => {
                let asked: TemperatureThreshold = zerocopy::transmute!(U32::new(cdw11));
                let kelvins = match (asked.sensor(), asked.kind()) {
                    (0, 0) => features.over_temperature_k,
                    (0, 1) => features.under_temperature_k,
                    _ => return Self::field(at::CDW11, "there is no such temperature sensor"),
                };
                dword(zerocopy::transmute!(
                    TemperatureThreshold::new().with_kelvins(kelvins)
                ))
            }
            FeatureId::ErrorRecovery => features.error_recovery,
            FeatureId::VolatileWriteCache => dword(zerocopy::transmute!(
                VolatileWriteCache::new().with_enabled(true)
            )),
            FeatureId::NumberOfQueues => self.number_of_queues(),
            FeatureId::InterruptVectorConfig => cdw11 & 0xffff,
            FeatureId::WriteAtomicity => features.write_atomicity,
            FeatureId::AsyncEventConfig => dword(zerocopy::transmute!(features.async_events)),
            FeatureId::KeepAliveTimer => features.kato_ms,
            _ => 0,
        })
    }

    pub(super) fn get_features(
        &self,
        command: &GetFeatures,
        host_len: HostLen,
    ) -> Result<Step, Refusal> {
        let (fid, cdw11) = (command.cdw10.fid(), command.cdw11.get());
        Self::no_uuid_index(command.uuid_index.get())?;
        let Some(access) = self.access(fid) else {
            return Self::field(at::CDW10, "there is no such feature");
        };
        match command.cdw10.sel() {
            FeatureSelect::Supported => {
                let capabilities =
                    FeatureCapabilities::new().with_changeable(access == Access::Changeable);
                Ok(Step::Complete(Completion::with_dword(dword(
                    zerocopy::transmute!(capabilities),
                ))))
            }
            FeatureSelect::Current if fid == FeatureId::HostId => {
                let cdw11: HostIdCdw11 = zerocopy::transmute!(command.cdw11);
                if !cdw11.extended() {
                    return Self::field(at::CDW11, "on a fabric, host identifiers have 16 bytes");
                }
                Self::reply(self.shared.host().id.0.to_vec(), host_len)
            }
            FeatureSelect::Current => {
                let value = self.value(&self.features, fid, cdw11)?;
                Ok(Step::Complete(Completion::with_dword(value)))
            }
            // Nothing is saved, so the saved value is the default one.
            FeatureSelect::Default | FeatureSelect::Saved => {
                let value = self.value(&Features::new(0), fid, cdw11)?;
                Ok(Step::Complete(Completion::with_dword(value)))
            }
            _ => Self::field(at::CDW10, "there is no such value to select"),
        }
    }

    pub(super) fn set_features(&mut self, command: &SetFeatures) -> Result<Step, Refusal> {
        let (fid, cdw11) = (command.cdw10.fid(), command.cdw11.get());
        Self::no_uuid_index(command.uuid_index.get())?;
        match self.access(fid) {
            None => return Self::field(at::CDW10, "there is no such feature"),
            _ if command.cdw10.save() => return Err(Refusal::FeatureNotSaveable),
            Some(_) if fid == FeatureId::HostId => {
                return Err(Refusal::Sequence(
                    "on a fabric, Connect sets the host identifier",
                ));
            }
            Some(_) if !matches!(command.nsid.get(), 0 | NSID_ALL) => {
                return Err(Refusal::FeatureNotNamespaceSpecific(fid.into_bits()));
            }
            Some(Access::ReadOnly) => self.unchanged(fid, cdw11)?,
            Some(Access::Changeable) => {
                let result = self.change(fid, command.cdw11)?;
                return Ok(Step::Complete(Completion::with_dword(result)));
            }
        }
        Ok(Step::Complete(Completion::OK))
    }

    /// Setting a fixed value to what it is does no harm.
    fn unchanged(&self, fid: FeatureId, cdw11: u32) -> Result<(), Refusal> {
        if self.value(&self.features, fid, cdw11)? == cdw11 {
            return Ok(());
        }
        Err(Refusal::FeatureNotChangeable(fid.into_bits()))
    }

    /// Changes a feature and gives dword 0 of the answer.
    fn change(&mut self, fid: FeatureId, cdw11: U32) -> Result<u32, Refusal> {
        let value = cdw11.get();
        match fid {
            FeatureId::Arbitration => self.features.arbitration = value,
            FeatureId::PowerManagement if value & 0x1f != 0 => {
                return Self::field(at::CDW11, "there is no power state but 0");
            }
            FeatureId::PowerManagement => self.features.power_management = value & 0xe0,
            FeatureId::TemperatureThreshold => {
                let threshold: TemperatureThreshold = zerocopy::transmute!(cdw11);
                match (threshold.sensor(), threshold.kind()) {
                    (0 | 15, 0) => self.features.over_temperature_k = threshold.kelvins(),
                    (0 | 15, 1) => self.features.under_temperature_k = threshold.kelvins(),
                    _ => return Self::field(at::CDW11, "there is no such temperature sensor"),
                }
            }
            FeatureId::ErrorRecovery if value >> 16 != 0 => {
                return Self::field(at::CDW11, "deallocated blocks give no error");
            }
            FeatureId::ErrorRecovery => self.features.error_recovery = value,
            FeatureId::NumberOfQueues => return self.set_number_of_queues(cdw11),
            FeatureId::WriteAtomicity => self.features.write_atomicity = value & 1,
            FeatureId::AsyncEventConfig => self.features.async_events = zerocopy::transmute!(cdw11),
            FeatureId::KeepAliveTimer => {
                self.features.kato_ms = keep_alive::effective_kato_ms(value);
                keep_alive::apply(&self.shared, self.subsystem.kind(), self.features.kato_ms);
            }
            _ => return Err(Refusal::FeatureNotChangeable(fid.into_bits())),
        }
        Ok(0)
    }

    fn set_number_of_queues(&self, cdw11: U32) -> Result<u32, Refusal> {
        let asked: NumberOfQueues = zerocopy::transmute!(cdw11);
        if asked.submission_z() == u16::MAX || asked.completion_z() == u16::MAX {
            return Self::field(at::CDW11, "65,536 queues were asked for");
        }
        if self.shared.qids().len() > 1 {
            return Err(Refusal::Sequence(
                "the number of queues is set before I/O queues connect",
            ));
        }
        Ok(self.number_of_queues())
    }
}
