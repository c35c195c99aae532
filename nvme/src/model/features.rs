//! Features of a modelled controller (clauses 5.15 and 5.27).

use std::collections::BTreeMap;

use super::options::ModelOptions;
use super::state::State;
use crate::spec::{
    AsyncEventConfig, FeatureId, FeatureSelect, GetFeatures, NumberOfQueues, SetFeatures, Status,
    VolatileWriteCache,
};

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr(true);

/// Values after a reset, where they are not 0.
pub(super) fn defaults(options: &ModelOptions) -> BTreeMap<u8, u32> {
    let on = options.volatile_cache && options.cache_on;
    let cache = VolatileWriteCache::new().with_enabled(on);
    BTreeMap::from([(FeatureId::VolatileWriteCache.0, cache.raw())])
}

impl State {
    pub(super) fn set_features(&mut self, command: &SetFeatures) -> Result<u64, Status> {
        let value = command.cdw11.get();
        match command.cdw10.fid() {
            _ if command.cdw10.save() => Err(Status::FEATURE_NOT_SAVEABLE),
            FeatureId::NumberOfQueues => {
                let asked = NumberOfQueues::from_raw(value);
                if asked.submission_z() == 0xffff || asked.completion_z() == 0xffff {
                    return Err(INVALID_FIELD);
                }
                Ok(self.number_of_queues())
            }
            fid if self.settable(fid) => {
                self.features.insert(fid.0, value);
                if !self.cache_enabled() {
                    self.flush_all();
                }
                Ok(0)
            }
            _ => Err(INVALID_FIELD),
        }
    }

    pub(super) fn get_features(&mut self, command: &GetFeatures) -> Result<u64, Status> {
        let default = command.cdw10.sel() == FeatureSelect::Default;
        match command.cdw10.fid() {
            FeatureId::NumberOfQueues => Ok(self.number_of_queues()),
            fid if self.settable(fid) && default => {
                Ok(value_of(&defaults(&self.options), fid).into())
            }
            fid if self.settable(fid) => Ok(value_of(&self.features, fid).into()),
            _ => Err(INVALID_FIELD),
        }
    }

    fn number_of_queues(&self) -> u64 {
        let given_z = self.options.io_queues.saturating_sub(1);
        let given = NumberOfQueues::new()
            .with_submission_z(given_z)
            .with_completion_z(given_z);
        given.raw().into()
    }

    /// Whether a write may be lost before it is flushed.
    pub(super) fn cache_enabled(&self) -> bool {
        let value = value_of(&self.features, FeatureId::VolatileWriteCache);
        self.options.volatile_cache && VolatileWriteCache::from_raw(value).enabled()
    }

    /// Which events are to be reported.
    pub(super) fn event_config(&self) -> AsyncEventConfig {
        AsyncEventConfig::from_raw(value_of(&self.features, FeatureId::AsyncEventConfig))
    }

    /// Features that hold one dword. Most of them change nothing in the model.
    fn settable(&self, fid: FeatureId) -> bool {
        match fid {
            FeatureId::VolatileWriteCache => self.options.volatile_cache,
            _ => matches!(
                fid,
                FeatureId::Arbitration
                    | FeatureId::PowerManagement
                    | FeatureId::TemperatureThreshold
                    | FeatureId::ErrorRecovery
                    | FeatureId::InterruptCoalescing
                    | FeatureId::InterruptVectorConfig
                    | FeatureId::WriteAtomicity
                    | FeatureId::AsyncEventConfig
            ),
        }
    }
}

fn value_of(features: &BTreeMap<u8, u32>, fid: FeatureId) -> u32 {
    features.get(&fid.0).copied().unwrap_or(0)
}
