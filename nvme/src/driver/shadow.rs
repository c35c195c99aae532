//! Telling the controller of shadow doorbells (Doorbell Buffer Config, clause
//! 5.8), where it offers to look at them. How they are rung, the rings know.

use sidelane_p2p::Region;

use super::DriverError;
use super::admin::{AdminQueue, host_region, sqe_of};
use super::data::PAGE;
use super::device::Device;
use crate::Backing;
use crate::spec::{AdminOpcode, DoorbellBufferConfig, IdentifyController};

/// The two pages of shadow doorbells. Clones are the same pages.
#[derive(Clone)]
pub(super) struct ShadowPages {
    /// What the host writes instead of doorbells, in the same order and with the
    /// same stride as those from 1000h on.
    pub(super) doorbells: Region,
    /// EventIdx: past which values the controller wants the doorbells, likewise.
    pub(super) event_indexes: Region,
}

impl ShadowPages {
    /// Has the controller look at shadow doorbells. `None` when it does not offer
    /// that, or has more queues than the pages have room for. To be called before
    /// there are I/O queues.
    pub(super) fn announce<B: Backing>(
        device: &Device<B>,
        admin: &mut AdminQueue,
        identify: &IdentifyController,
        queue_limit: u16,
    ) -> Result<Option<Self>, DriverError> {
        let stride = 8 << device.cap.dstrd();
        let fits = (usize::from(queue_limit) + 1) * stride <= PAGE;
        if !identify.oacs.doorbell_buffer() || !fits {
            return Ok(None);
        }
        // The admin queue keeps them: it is there as long as the controller is.
        let pages = match &admin.shadows {
            Some(pages) => pages.clone(),
            None => admin.shadows.insert(Self::new(device)?).clone(),
        };
        for page in [&pages.doorbells, &pages.event_indexes] {
            let zeroed = page.view().write(0, &[0; PAGE]);
            zeroed.map_err(|source| device.internal(source))?;
        }
        let command = DoorbellBufferConfig {
            doorbells: pages.doorbells.iova().into(),
            event_indexes: pages.event_indexes.iova().into(),
            ..sqe_of(AdminOpcode::DoorbellBufferConfig).into()
        };
        match admin.execute(device, "Doorbell Buffer Config", command.into()) {
            Ok(_) => Ok(Some(pages)),
            Err(DriverError::Command { status, .. }) => {
                let device = device.address;
                tracing::debug!(%device, %status, "no shadow doorbells");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn new<B: Backing>(device: &Device<B>) -> Result<Self, DriverError> {
        Ok(Self {
            doorbells: host_region(device, "shadow doorbells", PAGE)?,
            event_indexes: host_region(device, "shadow doorbell events", PAGE)?,
        })
    }
}
