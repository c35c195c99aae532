//! A modelled function that is plain memory behind one BAR, as a memory card.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sidelane_p2p::provider::{BarOwner, MemoryFunction, ProviderError, Window, window};
use sidelane_p2p::{DmaError, MemView, PciAddress, Placement, Region, Revocation};

use super::bus::ModelBus;

/// A memory card on a [`ModelBus`]. Clones are the same card.
#[derive(Clone)]
pub struct ModelMemory(Arc<Card>);

struct Card {
    address: PciAddress,
    bus: ModelBus,
    bar: u8,
    bus_address: u64,
    view: MemView,
    /// Of the regions that were made of its memory.
    lent: Mutex<Vec<Revocation>>,
}

impl ModelMemory {
    /// Puts a card with `len` bytes, in whole pages, behind one BAR on the bus.
    pub fn new(bus: &ModelBus, address: PciAddress, bar: u8, len: usize) -> Self {
        let len = len.max(4096) & !0xfff;
        Self(Arc::new(Card {
            address,
            bar,
            bus_address: bus.place_bar(len as u64),
            view: MemView::anonymous(len),
            lent: Mutex::default(),
            bus: bus.clone(),
        }))
    }

    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.0.address
    }

    /// Takes its memory away from all who use it, as its removal does.
    pub fn revoke_memory(&self, reason: &str) {
        let lent = std::mem::take(&mut *self.0.lent.lock().unwrap_or_else(PoisonError::into_inner));
        for revocation in lent {
            revocation.revoke(reason);
        }
    }
}

impl BarOwner for ModelMemory {
    fn address(&self) -> PciAddress {
        self.0.address
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        let card = &self.0;
        let refused = |reason: String| DmaError::Map {
            name: name.to_owned(),
            len: range.len(),
            iova: 0,
            reason,
        };
        if bar != card.bar {
            return Err(refused(format!("there is no memory in BAR {bar}")));
        }
        let view = card.view.slice(range.clone());
        let view = view.map_err(|error| refused(error.to_string()))?;
        let placement = Placement::Peer {
            device: card.address,
            bar,
        };
        let start = card.bus_address + range.start as u64;
        let region = card.bus.map(name, placement, start, view)?;
        let mut lent = card.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.push(region.revocation().clone());
        Ok(region)
    }
}

impl MemoryFunction for ModelMemory {
    fn plain_memory(
        &self,
        bar: u8,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Window, ProviderError> {
        let there = if bar == self.0.bar {
            self.0.view.len()
        } else {
            0
        };
        window(bar, there as u64, offset, len).map_err(|reason| ProviderError::Unfit {
            name: format!("BAR {bar} of {}", self.0.address),
            reason,
        })
    }
}
