//! The namespaces of an SSD that are offered to hosts.

use std::sync::Arc;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::Controller;

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
