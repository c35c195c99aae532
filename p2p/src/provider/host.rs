//! Host memory: the honest fallback, and what `p2p = "off"` asks for.

use std::sync::Arc;

use super::{Offer, OwnUse, Provider, ProviderError, Realm};
use crate::{DmaSpace, Placement};

/// Offers plain memory of the host.
pub struct HostProvider {
    space: Arc<dyn DmaSpace>,
    len: usize,
}

impl HostProvider {
    /// `len` bytes in the address space of the clients; rounded up to pages.
    pub fn new(space: Arc<dyn DmaSpace>, len: usize) -> Self {
        Self { space, len }
    }
}

impl Provider for HostProvider {
    fn kind(&self) -> &'static str {
        "host"
    }

    fn name(&self) -> String {
        "host memory".to_owned()
    }

    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn open(&self) -> Result<Offer, ProviderError> {
        let region = self.space.host_region(&self.name(), self.len)?;
        Ok(Offer {
            region,
            realm: Realm::Both,
            own_use: OwnUse {
                reads: true,
                writes: true,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DmaError, MemView, Region};

    struct Space;

    impl DmaSpace for Space {
        fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
            let view = MemView::anonymous(len);
            Ok(Region::new(
                name,
                Placement::Host,
                1 << 32,
                view,
                Box::new(()),
            ))
        }
    }

    #[test]
    fn host_memory_is_offered_for_everything() {
        let provider = HostProvider::new(Arc::new(Space), 8192);
        let offer = provider.open().unwrap();
        assert_eq!((offer.region.len(), offer.region.is_peer()), (8192, false));
        assert_eq!(
            offer.own_use,
            OwnUse {
                reads: true,
                writes: true
            }
        );
        assert_eq!(provider.placement(), Placement::Host);
    }
}
