//! The Controller Memory Buffer of an NVMe controller (NVM Express base
//! specification, "Controller Memory Buffer").
//!
//! The registers are the NVMe driver's business: it reads where the buffer is
//! and what it may hold, and says so in a [`CmbWindow`]. It must also tell the
//! controller the address (CMBMSC.CBA) under which commands name the buffer:
//! the I/O address of the region that comes from here.

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

/// Where a controller's buffer is, and what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmbWindow {
    /// The number of the BAR (CMBLOC.BIR).
    pub bar: u8,
    /// Offset in that BAR, in bytes (CMBLOC.OFST times the size unit).
    pub offset: u64,
    /// Length in bytes (CMBSZ.SZ times the size unit).
    pub len: u64,
    /// Read commands may put data there (CMBSZ.RDS).
    pub reads: bool,
    /// Write commands may take data from there (CMBSZ.WDS).
    pub writes: bool,
}

/// Offers a Controller Memory Buffer.
pub struct CmbProvider {
    owner: Arc<dyn BarOwner>,
    window: CmbWindow,
}

impl CmbProvider {
    /// The buffer in `window` of a controller.
    pub fn new(owner: Arc<dyn BarOwner>, window: CmbWindow) -> Self {
        Self { owner, window }
    }

    fn range(&self) -> Option<Range<usize>> {
        let start = usize::try_from(self.window.offset).ok()?;
        Some(start..start.checked_add(usize::try_from(self.window.len).ok()?)?)
    }
}

impl Provider for CmbProvider {
    fn kind(&self) -> &'static str {
        "cmb"
    }

    fn name(&self) -> String {
        format!("cmb of {}", self.owner.address())
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
        if !window.reads && !window.writes {
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

    fn provider(window: CmbWindow) -> CmbProvider {
        CmbProvider::new(Arc::new(OneBar(MemView::anonymous(0x10000))), window)
    }

    const WINDOW: CmbWindow = CmbWindow {
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

    #[rstest::rstest]
    #[case(true, false)]
    #[case(false, true)]
    fn only_what_the_bits_allow_is_offered(#[case] reads: bool, #[case] writes: bool) {
        let offer = provider(CmbWindow {
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
        let error = provider(CmbWindow {
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
            provider(CmbWindow {
                offset,
                len,
                ..WINDOW
            })
            .open()
            .is_err()
        );
    }
}
