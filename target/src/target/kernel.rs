//! Storage that stays with the kernel, opened for all reactors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sidelane_config::{Backend as Configured, Config};

use super::configured;
use crate::backend::KernelStorage;

/// Where the kernel shows its devices.
pub(crate) const SYSFS: &str = "/sys";

/// The storage by its path: no two namespaces have the same. Nobody else may have
/// it for as long as this is there.
#[derive(Default)]
pub(crate) struct Kernel(BTreeMap<PathBuf, KernelStorage>);

impl Kernel {
    /// Opens what the namespaces name.
    ///
    /// # Errors
    /// When some of it cannot be had, with the remedy.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let mut all = BTreeMap::new();
        for (subsystem, namespace) in configured(config) {
            let storage = KernelStorage::open(&namespace.backend, Path::new(SYSFS))
                .with_context(|| format!("{} nsid {}", subsystem.nqn, namespace.nsid))?;
            if let Some((path, storage)) = namespace.backend.path().zip(storage) {
                let what = namespace.backend.what();
                tracing::info!(what, shape = ?storage.shape(), "storage opened");
                all.insert(path.to_owned(), storage);
            }
        }
        Ok(Self(all))
    }

    /// What is behind a namespace, if it is the kernel's.
    pub(crate) fn get(&self, backend: &Configured) -> Option<&KernelStorage> {
        self.0.get(backend.path()?)
    }
}
