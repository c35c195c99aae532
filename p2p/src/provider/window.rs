//! Memory of a device behind a window in one of its BARs: the Controller Memory
//! Buffer or the Persistent Memory Region of an NVMe controller (NVM Express
//! base specification, clauses 8.5 and 8.14), or a BAR that is plain memory.
//!
//! The registers of a controller are the NVMe driver's business: it reads where
//! the memory is and what it may hold, and says so in a [`Window`]. It must also
//! tell the controller the address (CMBMSC, PMRMSC) under which commands name
//! the memory: the I/O address of the region that comes from here.

use std::ops::Range;
use std::sync::Arc;

use super::{Offer, OwnUse, Provider, ProviderError, Realm};
use crate::vfio::Device;
use crate::{DmaError, PciAddress, Placement, Region};

/// A function whose BARs can be made reachable for other devices.
pub trait BarOwner: Send + Sync {
    /// Its address.
    fn address(&self) -> PciAddress;

    /// Makes a part of a BAR reachable, at an I/O address equal to its bus
    /// address.
    ///
    /// # Errors
    /// When the part is not there or cannot be mapped.
    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError>;
}

impl BarOwner for Device {
    fn address(&self) -> PciAddress {
        Device::address(self)
    }

    fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
        Device::bar_region(self, name, bar, range)
    }
}

/// Where memory is, and what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The number of the BAR.
    pub bar: u8,
    /// Offset in that BAR, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The device's own read commands may put data there.
    pub reads: bool,
    /// The device's own write commands may take data from there.
    pub writes: bool,
}

/// Offers the memory behind a window.
pub struct MemoryProvider {
    kind: &'static str,
    owner: Arc<dyn BarOwner>,
    window: Window,
}

impl MemoryProvider {
    /// The Controller Memory Buffer of a controller.
    pub fn cmb(owner: Arc<dyn BarOwner>, window: Window) -> Self {
        let kind = "cmb";
        Self {
            kind,
            owner,
            window,
        }
    }

    /// The Persistent Memory Region of a controller.
    pub fn pmr(owner: Arc<dyn BarOwner>, window: Window) -> Self {
        let kind = "pmr";
        Self {
            kind,
            owner,
            window,
        }
    }

    /// Plain memory of any function; see [`MemoryFunction`](super::MemoryFunction).
    pub fn bar(owner: Arc<dyn BarOwner>, window: Window) -> Self {
        let kind = "bar";
        Self {
            kind,
            owner,
            window,
        }
    }

    fn range(&self) -> Option<Range<usize>> {
        let start = usize::try_from(self.window.offset).ok()?;
        Some(start..start.checked_add(usize::try_from(self.window.len).ok()?)?)
    }
}

impl Provider for MemoryProvider {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn name(&self) -> String {
        match self.kind {
            "bar" => format!("BAR {} of {}", self.window.bar, self.owner.address()),
            kind => format!("{kind} of {}", self.owner.address()),
        }
    }

    fn placement(&self) -> Placement {
        Placement::Peer {
            device: self.owner.address(),
            bar: self.window.bar,
        }
    }

    fn open(&self) -> Result<Offer, ProviderError> {
        let window = self.window;
        let unfit = |reason: &str| ProviderError::Unfit {
            name: self.name(),
            reason: reason.into(),
        };
        // A buffer for queues. To others it would be plain memory, but the
        // controller that has it would take their data for its own entries.
        if self.kind == "cmb" && !window.reads && !window.writes {
            return Err(unfit(
                "the controller supports neither read nor write data in it",
            ));
        }
        let range = self
            .range()
            .ok_or_else(|| unfit("it is longer than this machine can map"))?;
        let region = self.owner.bar_region(&self.name(), window.bar, range)?;
        Ok(Offer {
            region,
            realm: Realm::Vfio,
            own_use: OwnUse {
                reads: window.reads,
                writes: window.writes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemView;

    /// A function with one BAR in ordinary memory.
    struct OneBar(MemView);

    impl BarOwner for OneBar {
        fn address(&self) -> PciAddress {
            "0000:03:00.0".parse().unwrap()
        }

        fn bar_region(&self, name: &str, bar: u8, range: Range<usize>) -> Result<Region, DmaError> {
            let placement = Placement::Peer {
                device: self.address(),
                bar,
            };
            let iova = 0x38_0000_0000 + range.start as u64;
            let len = range.len();
            let view = self.0.slice(range).map_err(|error| DmaError::Map {
                name: name.to_owned(),
                len,
                iova,
                reason: error.to_string(),
            })?;
            Ok(Region::new(name, placement, iova, view, Box::new(())))
        }
    }

    fn provider(window: Window) -> MemoryProvider {
        MemoryProvider::cmb(Arc::new(OneBar(MemView::anonymous(0x10000))), window)
    }

    const WINDOW: Window = Window {
        bar: 2,
        offset: 0x4000,
        len: 0x8000,
        reads: true,
        writes: true,
    };

    #[test]
    fn the_window_becomes_a_region_of_the_controller() {
        let provider = provider(WINDOW);
        let offer = provider.open().unwrap();
        assert_eq!(offer.region.placement(), provider.placement());
        assert_eq!(offer.region.iova(), 0x38_0000_4000);
        assert_eq!(offer.region.len(), 0x8000);
        assert_eq!(offer.region.name(), "cmb of 0000:03:00.0");
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        let owner = || Arc::new(OneBar(MemView::anonymous(0x10000)));
        let made = [
            MemoryProvider::cmb(owner(), WINDOW),
            MemoryProvider::pmr(owner(), WINDOW),
            MemoryProvider::bar(owner(), WINDOW),
        ];
        let names = made.map(|it| (it.kind(), it.open().unwrap().region.name().to_owned()));
        let expected = [
            ("cmb", "cmb of 0000:03:00.0"),
            ("pmr", "pmr of 0000:03:00.0"),
            ("bar", "BAR 2 of 0000:03:00.0"),
        ];
        assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    /// A region that its controller takes no addresses in.
    #[test]
    fn a_region_that_only_others_may_use_is_offered_as_such() {
        let window = Window {
            reads: false,
            writes: false,
            ..WINDOW
        };
        let owner = Arc::new(OneBar(MemView::anonymous(0x10000)));
        let offer = MemoryProvider::pmr(owner, window).open().unwrap();
        let own_use = OwnUse {
            reads: false,
            writes: false,
        };
        assert_eq!(offer.own_use, own_use);
    }

    #[rstest::rstest]
    #[case(true, false)]
    #[case(false, true)]
    fn only_what_the_bits_allow_is_offered(#[case] reads: bool, #[case] writes: bool) {
        let offer = provider(Window {
            reads,
            writes,
            ..WINDOW
        })
        .open()
        .unwrap();
        assert_eq!(offer.own_use, OwnUse { reads, writes });
    }

    #[test]
    fn a_buffer_for_queues_only_is_refused() {
        let error = provider(Window {
            reads: false,
            writes: false,
            ..WINDOW
        })
        .open()
        .unwrap_err();
        assert!(
            error.to_string().contains("neither read nor write data"),
            "{error}"
        );
    }

    #[rstest::rstest]
    #[case(0xc000, 0x8000)]
    #[case(u64::MAX, 1)]
    fn a_window_outside_its_bar_is_refused(#[case] offset: u64, #[case] len: u64) {
        assert!(
            provider(Window {
                offset,
                len,
                ..WINDOW
            })
            .open()
            .is_err()
        );
    }
}
