//! Bringing a controller up (clause 3.5.1) and reading what it is.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use super::admin::{ADMIN_ENTRIES, AdminQueue, EVENTS_MAX, sqe_of};
use super::data::{PAGE, TRANSFER_MAX};
use super::device::Device;
use super::namespaces::Namespaces;
use super::shadow::ShadowPages;
use super::{DriverError, Inner, Options};
use crate::Backing;
use crate::spec::{
    AdminOpcode, AsyncEventConfig, Cns, FeatureId, GetFeatures, GetFeaturesCdw10,
    IdentifyController, NumberOfQueues, SetFeatures, SetFeaturesCdw10, VolatileWriteCache,
};

/// What a controller said of itself when it was brought up. Clones share it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) identify: Arc<IdentifyController>,
    pub(super) namespaces: Namespaces,
    /// I/O queue pairs that there may be.
    pub(super) queue_limit: u16,
    /// Data is named by SGL descriptors.
    pub(super) sgl: bool,
    /// There is a volatile write cache, and it is in use.
    pub(super) cached: bool,
    /// The controller looks at shadow doorbells of I/O queues.
    pub(super) shadows: Option<ShadowPages>,
}

pub(super) fn open<B: Backing>(backing: Arc<B>, options: Options) -> Result<Inner<B>, DriverError> {
    let device = Device::new(backing)?;
    supported(&device)?;
    device.queue_pairs_in_bar()?;
    device.disable()?;
    // Not before: it may have been left enabled, with queues in memory that is
    // used for other things by now.
    device.backing.set_dma(true)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let mut admin = AdminQueue::new(&device, options.admin_timeout, Arc::clone(&cancel))?;
    let opened = Known::bring_up(&device, &mut admin, &options).and_then(|known| {
        let vectors = match options.interrupts {
            true => device
                .backing
                .interrupts(usize::from(known.queue_limit) + 1)?,
            false => Vec::new(),
        };
        admin.ask_for_events(&device);
        Ok((known, vectors))
    });
    let (known, vectors) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The queues go; the controller must not know them any more.
            let _ = device.disable();
            device.backing.quiesce();
            return Err(error);
        }
    };
    Ok(Inner {
        free_qids: Mutex::new(known.qids()),
        device,
        options,
        admin: Mutex::new(admin),
        cancel,
        known: Mutex::new(known),
        vectors,
        epoch: AtomicU32::new(0),
        kept: Mutex::default(),
        cmb: Mutex::default(),
        pmr: Mutex::default(),
        closed: AtomicBool::new(false),
    })
}

/// Refuses what the driver is not made for.
fn supported<B: Backing>(device: &Device<B>) -> Result<(), DriverError> {
    let cap = device.cap;
    let reason = if !cap.css_nvm() && !cap.css_multiple() {
        "it has no I/O command set (CAP.CSS); it is no controller of a disk"
    } else if cap.mpsmin() != 0 {
        "it demands memory pages of more than 4 KiB (CAP.MPSMIN), which this driver does not give"
    } else {
        return Ok(());
    };
    Err(device.unsupported(reason))
}

impl Known {
    /// Enables a disabled controller and reads what it is. Events are configured,
    /// and not yet asked for.
    pub(super) fn bring_up<B: Backing>(
        device: &Device<B>,
        admin: &mut AdminQueue,
        options: &Options,
    ) -> Result<Self, DriverError> {
        let (sq, cq) = admin.addresses();
        device.enable(ADMIN_ENTRIES, sq, cq)?;
        let identify: Box<IdentifyController> =
            admin.identify(device, "Identify Controller", Cns::Controller, 0)?;
        for (what, sizes, needed) in [
            ("submission", identify.sqes, 6),
            ("completion", identify.cqes, 4),
        ] {
            if !(sizes.min()..=sizes.max()).contains(&needed) {
                let reason = format!("its {what} queue entries are not of {} bytes", 1 << needed);
                return Err(device.unsupported(reason));
            }
        }
        let queue_limit = number_of_queues(device, admin, options.io_queues.max(1))?;
        configure_events(device, admin, &identify)?;
        Ok(Self {
            shadows: match options.shadow_doorbells {
                true => ShadowPages::announce(device, admin, &identify, queue_limit)?,
                false => None,
            },
            queue_limit,
            cached: identify.vwc.present() && cache_enabled(device, admin)?,
            sgl: options.prefer_sgl && matches!(identify.sgls.support(), 1 | 2),
            namespaces: Namespaces::read(device, admin)?,
            identify: identify.into(),
        })
    }

    /// All identifiers of I/O queues, the least last.
    pub(super) fn qids(&self) -> Vec<u16> {
        (1..=self.queue_limit).rev().collect()
    }

    /// The most data of one command, in bytes.
    pub(super) fn transfer_max(&self) -> usize {
        let limit = match self.identify.mdts {
            0 => None,
            mdts => PAGE
                .checked_shl(u32::from(mdts))
                .filter(|bytes| *bytes != 0),
        };
        limit.unwrap_or(TRANSFER_MAX).min(TRANSFER_MAX)
    }
}

fn set_feature<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
    name: &'static str,
    fid: FeatureId,
    value: u32,
) -> Result<u64, DriverError> {
    let command = SetFeatures {
        cdw10: SetFeaturesCdw10::new().with_fid(fid),
        cdw11: value.into(),
        ..sqe_of(AdminOpcode::SetFeatures).into()
    };
    admin.execute(device, name, command.into())
}

/// Asks for so many I/O queue pairs, and gives how many there may be: not more
/// than have doorbells.
fn number_of_queues<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
    wanted: u16,
) -> Result<u16, DriverError> {
    // FFFFh is not a number of queues.
    let wanted_z = (wanted - 1).min(0xfffe);
    let asked = NumberOfQueues::new()
        .with_submission_z(wanted_z)
        .with_completion_z(wanted_z);
    let name = "Set Features (Number of Queues)";
    let fid = FeatureId::NumberOfQueues;
    let given = set_feature(device, admin, name, fid, asked.raw())?;
    let given = NumberOfQueues::from_raw(given as u32);
    let given_z = given.submission_z().min(given.completion_z()).min(wanted_z);
    Ok(device.queue_pairs_in_bar()?.min(given_z + 1))
}

/// Says which events are wanted, as far as they are offered (5.27.1.9). A
/// controller that refuses is used without them.
fn configure_events<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
    identify: &IdentifyController,
) -> Result<(), DriverError> {
    // Bit 5, of the persistent memory region, is reserved where there is none.
    let smart = 0x1f | u8::from(device.cap.pmrs()) << 5;
    let wanted = AsyncEventConfig::new()
        .with_smart(smart)
        .with_namespace_attribute(identify.oaes.namespace_attribute());
    let name = "Set Features (Asynchronous Event Configuration)";
    let fid = FeatureId::AsyncEventConfig;
    admin.set_event_limit(u16::from(identify.aerl_z).saturating_add(1).min(EVENTS_MAX));
    match set_feature(device, admin, name, fid, wanted.raw()) {
        Ok(_) => Ok(()),
        Err(DriverError::Command { status, .. }) => {
            let device = device.address;
            tracing::warn!(%device, %status, "it sends no events that have to be turned on");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Whether a volatile write cache that is there is in use; yes if it does not say.
pub(super) fn cache_enabled<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
) -> Result<bool, DriverError> {
    let command = GetFeatures {
        cdw10: GetFeaturesCdw10::new().with_fid(FeatureId::VolatileWriteCache),
        ..sqe_of(AdminOpcode::GetFeatures).into()
    };
    let name = "Get Features (Volatile Write Cache)";
    match admin.execute(device, name, command.into()) {
        Ok(value) => Ok(VolatileWriteCache::from_raw(value as u32).enabled()),
        Err(DriverError::Command { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
