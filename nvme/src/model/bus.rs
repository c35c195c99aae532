//! The bus that modelled controllers share: which memory answers to which
//! address.
//!
//! An address is given once only, so that a device which uses memory after it
//! was unmapped gets a DMA error, as it would behind an IOMMU.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use sidelane_p2p::{DmaError, DmaSpace, MemView, PciAddress, Placement, Region};

const PAGE: u64 = 4096;
/// Where host memory begins.
const HOST: u64 = 0x1_0000_0000;
/// Where BARs begin.
const BARS: u64 = 0x38_0000_0000;

/// The address space of modelled controllers. Clones are the same bus.
#[derive(Clone)]
pub struct ModelBus(Arc<Bus>);

struct Bus {
    // Read on each access of a device, written when memory is mapped.
    map: RwLock<Map>,
}

struct Map {
    by_start: BTreeMap<u64, Mapped>,
    next_host: u64,
    next_bar: u64,
    /// Functions that are not there at the moment.
    gone: BTreeSet<PciAddress>,
}

#[derive(Clone)]
struct Mapped {
    view: MemView,
    placement: Placement,
}

/// Memory that answers to an address.
pub(super) struct Hit {
    pub(super) view: MemView,
    pub(super) offset: usize,
    pub(super) placement: Placement,
}

impl ModelBus {
    /// A bus with nothing on it.
    pub fn new() -> Self {
        let map = Map {
            by_start: BTreeMap::new(),
            next_host: HOST,
            next_bar: BARS,
            gone: BTreeSet::new(),
        };
        Self(Arc::new(Bus {
            map: RwLock::new(map),
        }))
    }

    fn change<T>(&self, f: impl FnOnce(&mut Map) -> T) -> T {
        f(&mut self.0.map.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes addresses for a BAR: as a BIOS does, aligned to the length.
    pub(super) fn place_bar(&self, len: u64) -> u64 {
        let align = len.next_power_of_two().max(PAGE);
        self.change(|map| {
            let start = map.next_bar.next_multiple_of(align);
            map.next_bar = start + align;
            start
        })
    }

    /// Whether a function's BARs answer to others.
    pub(super) fn set_gone(&self, device: PciAddress, gone: bool) {
        self.change(|map| match gone {
            true => map.gone.insert(device),
            false => map.gone.remove(&device),
        });
    }

    /// Lets `view` answer at `start` until the region is gone.
    pub(super) fn map(
        &self,
        name: &str,
        placement: Placement,
        start: u64,
        view: MemView,
    ) -> Result<Region, DmaError> {
        let len = view.len();
        let end = start.saturating_add(len as u64);
        let mapped = Mapped {
            view: view.clone(),
            placement,
        };
        let free = self.change(|map| {
            let free = map
                .by_start
                .range(..end)
                .next_back()
                .is_none_or(|(other, mapped)| other + mapped.view.len() as u64 <= start);
            if free {
                map.by_start.insert(start, mapped);
            }
            free
        });
        if !free {
            return Err(DmaError::Map {
                name: name.to_owned(),
                len,
                iova: start,
                reason: "something is mapped there already".to_owned(),
            });
        }
        let unmap = Unmap {
            bus: self.clone(),
            start,
        };
        Ok(Region::new(name, placement, start, view, Box::new(unmap)))
    }

    /// What answers to all of `len` bytes at `address`.
    pub(super) fn resolve(&self, address: u64, len: usize) -> Option<Hit> {
        let map = self.0.map.read().unwrap_or_else(PoisonError::into_inner);
        let (start, mapped) = map.by_start.range(..=address).next_back()?;
        if matches!(mapped.placement, Placement::Peer { device, .. } if map.gone.contains(&device))
        {
            return None;
        }
        let offset = usize::try_from(address - start).ok()?;
        (offset.checked_add(len)? <= mapped.view.len()).then(|| Hit {
            view: mapped.view.clone(),
            offset,
            placement: mapped.placement,
        })
    }
}

impl Default for ModelBus {
    fn default() -> Self {
        Self::new()
    }
}

impl DmaSpace for ModelBus {
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
        let full = || DmaError::Full {
            name: name.to_owned(),
            len,
        };
        let rounded = len
            .max(1)
            .checked_next_multiple_of(PAGE as usize)
            .ok_or_else(full)?;
        let start = self.change(|map| {
            let start = map.next_host;
            // A page is left out, so that running off the end is noticed.
            let next = start
                .checked_add(rounded as u64 + PAGE)
                .filter(|next| *next <= BARS)?;
            map.next_host = next;
            Some(start)
        });
        let start = start.ok_or_else(full)?;
        self.map(name, Placement::Host, start, MemView::anonymous(rounded))
    }
}

/// Ends a mapping.
struct Unmap {
    bus: ModelBus,
    start: u64,
}

impl Drop for Unmap {
    fn drop(&mut self) {
        self.bus.change(|map| map.by_start.remove(&self.start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_answers_while_it_is_mapped_and_never_again() {
        let bus = ModelBus::new();
        let region = bus.host_region("one", 5000).unwrap();
        assert_eq!(region.len(), 8192);
        let (start, end) = (region.iova(), region.iova() + 8192);
        assert!(bus.resolve(start, 8192).is_some());
        assert!(bus.resolve(end - 1, 2).is_none(), "over the end");
        assert!(bus.resolve(start - 1, 1).is_none());
        drop(region);
        assert!(bus.resolve(start, 1).is_none());
        assert_ne!(bus.host_region("two", 4096).unwrap().iova(), start);
    }

    #[test]
    fn an_address_is_mapped_once_at_a_time() {
        let bus = ModelBus::new();
        let start = bus.place_bar(0x4000);
        let map = |at| bus.map("bar", Placement::Host, at, MemView::anonymous(0x2000));
        let first = map(start).unwrap();
        assert!(map(start).is_err());
        assert!(map(start + 0x1000).is_err());
        let _second = map(start + 0x2000).unwrap();
        drop(first);
        assert!(map(start + 0x1000).is_err());
        assert!(map(start).is_ok());
    }
}
