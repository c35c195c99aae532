//! All that changes in a modelled controller, behind its one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use super::dma::Dma;
use super::events::Events;
use super::fault::{Faults, Health};
use super::features;
use super::mischief::Waiting;
use super::options::{ModelNamespace, ModelOptions};
use super::queues::{CompletionQueue, SubmissionQueue};
use super::registers::Registers;
use super::shadow::Shadows;
use super::storage::Storage;
use crate::spec::Status;

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
    /// Vectors to be signalled before the lock is given up.
    pub(super) interrupts: BTreeSet<u16>,
    pub(super) faults: Faults,
    pub(super) health: Health,
    pub(super) waiting: Waiting,
    pub(super) events: Events,
    pub(super) shadows: Option<Shadows>,
    /// Commands executed.
    pub(super) executed: u64,
    /// Times that the model was stepped or rung.
    pub(super) runs: u64,
    pub(super) counts: Counts,
}

pub(super) struct Namespace {
    pub(super) shape: ModelNamespace,
    pub(super) storage: Storage,
    pub(super) attached: bool,
}

impl Namespace {
    pub(super) fn new(shape: ModelNamespace, forgetful: bool) -> Self {
        Self {
            shape,
            storage: match forgetful {
                true => Storage::forgetful(),
                false => Storage::default(),
            },
            attached: true,
        }
    }
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
        let fresh = |shape: &ModelNamespace| Namespace::new(*shape, options.forgetful);
        Self {
            namespaces: options.namespaces.iter().map(fresh).collect(),
            features: features::defaults(&options),
            options,
            registers: Registers::default(),
            dma,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            vectors: Vec::new(),
            interrupts: BTreeSet::new(),
            faults: Faults::default(),
            health: Health::default(),
            waiting: Waiting::default(),
            events: Events::default(),
            shadows: None,
            executed: 0,
            runs: 0,
            counts: Counts::default(),
        }
    }

    /// A namespace, attached or not.
    pub(super) fn namespace_mut(&mut self, nsid: u32) -> Option<&mut Namespace> {
        self.namespaces
            .get_mut(usize::try_from(nsid.checked_sub(1)?).ok()?)
    }

    /// A namespace for a command: one that does not exist and one that is not
    /// attached are refused in different words (3.2.1.5).
    pub(super) fn namespace(&mut self, nsid: u32) -> Result<&mut Namespace, Status> {
        match self.namespace_mut(nsid) {
            Some(namespace) if namespace.attached => Ok(namespace),
            Some(_) => Err(Status::INVALID_FIELD.with_dnr(true)),
            None => Err(Status::INVALID_NAMESPACE.with_dnr(true)),
        }
    }
}
