//! The namespaces of an SSD that are offered to hosts.

use std::sync::Arc;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::{Controller, Namespace};

use crate::subsystem::{NamespaceInfo, Subsystem};

/// A namespace of an SSD, as it is offered.
pub(in crate::target) struct Member {
    /// Its number in the target.
    pub(in crate::target) number: usize,
    /// Its identifier at the SSD.
    pub(in crate::target) nsid: u32,
    /// Where it is offered.
    pub(in crate::target) subsystem: Arc<Subsystem>,
    /// As hosts see it, or saw it last.
    pub(in crate::target) shown: NamespaceInfo,
    /// Whether hosts see it.
    pub(in crate::target) present: bool,
    /// What the SSD calls it: another namespace in its place is not taken.
    pub(in crate::target) name: Name,
}

/// The identifiers that an SSD gives to a namespace, as far as it gives any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::target) struct Name {
    eui64: Option<[u8; 8]>,
    nguid: Option<[u8; 16]>,
    uuid: Option<[u8; 16]>,
}

impl Name {
    fn of(namespace: &Namespace) -> Self {
        Self {
            eui64: namespace.eui64,
            nguid: namespace.nguid,
            uuid: namespace.uuid,
        }
    }

    /// Of a namespace of an SSD; empty when it has no such namespace.
    pub(in crate::target) fn find<B: Backing>(controller: &Controller<B>, nsid: u32) -> Self {
        let namespaces = controller.namespaces();
        let found = namespaces.iter().find(|found| found.nsid == nsid);
        found.map(Self::of).unwrap_or_default()
    }
}

/// What has become of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing, or its size only: commands go on.
    Same,
    /// It is another one to hosts: back again, or of other blocks.
    Anew,
    /// It is not there, or cannot be used.
    Gone,
}

impl Member {
    /// Compares with what the SSD has now, and takes that over.
    pub(super) fn update<B: Backing>(&mut self, controller: &Controller<B>) -> Change {
        let namespaces = controller.namespaces();
        let Some(found) = namespaces.iter().find(|found| found.nsid == self.nsid) else {
            return Change::Gone;
        };
        if Name::of(found) != self.name {
            tracing::error!(ssd = %controller.address(), nsid = self.nsid, "another namespace is in the place of the one that was offered; start the target again to offer it");
            return Change::Gone;
        }
        let same_blocks = found.block_bytes == self.shown.block_bytes;
        self.shown.blocks = found.blocks;
        self.shown.block_bytes = found.block_bytes;
        self.shown.volatile_write_cache = controller.volatile_write_cache();
        match same_blocks && self.present {
            true => Change::Same,
            false => Change::Anew,
        }
    }

    /// Lets hosts see it as it is now.
    pub(super) fn show(&mut self) {
        match self.subsystem.put_namespace(self.shown.clone()) {
            Ok(()) => self.present = true,
            Err(error) => {
                tracing::error!(subsystem = %self.subsystem.nqn(), nsid = self.shown.nsid, %error, "a namespace cannot be offered as it is now");
                self.hide();
            }
        }
    }

    /// Takes it away from hosts, until it is back.
    pub(super) fn hide(&mut self) {
        if std::mem::take(&mut self.present) {
            self.subsystem.put_away(self.shown.nsid);
        }
    }
}
