//! All that changes in a modelled controller, behind its one lock.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::dma::Dma;
use super::options::{ModelNamespace, ModelOptions};
use super::queues::{CompletionQueue, SubmissionQueue};
use super::registers::Registers;
use super::storage::Storage;

pub(super) struct State {
    pub(super) options: ModelOptions,
    pub(super) registers: Registers,
    pub(super) dma: Dma,
    /// By queue identifier, 0 being the admin queue.
    pub(super) sqs: BTreeMap<u16, SubmissionQueue>,
    pub(super) cqs: BTreeMap<u16, CompletionQueue>,
    /// By namespace identifier, less one.
    pub(super) namespaces: Vec<Namespace>,
    /// Values of features that have been set, by identifier.
    pub(super) features: BTreeMap<u8, u32>,
    pub(super) vectors: Vec<OwnedFd>,
    pub(super) counts: Counts,
}

pub(super) struct Namespace {
    pub(super) shape: ModelNamespace,
    pub(super) storage: Storage,
}

/// What the SMART log tells.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

impl State {
    pub(super) fn new(options: ModelOptions, dma: Dma) -> Self {
        let fresh = |shape: &ModelNamespace| Namespace {
            shape: *shape,
            storage: Storage::default(),
        };
        Self {
            namespaces: options.namespaces.iter().map(fresh).collect(),
            options,
            registers: Registers::default(),
            dma,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            features: BTreeMap::new(),
            vectors: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn namespace(&mut self, nsid: u32) -> Option<&mut Namespace> {
        self.namespaces
            .get_mut(usize::try_from(nsid.checked_sub(1)?).ok()?)
    }
}
