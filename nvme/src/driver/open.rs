//! Bringing a controller up (clause 3.5.1) and reading what it is.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::admin::{ADMIN_ENTRIES, AdminQueue, sqe_of};
use super::device::Device;
use super::{DriverError, Inner, Options};
use crate::Backing;
use crate::spec::{
    AdminOpcode, Cns, FeatureId, IdentifyController, IdentifyNamespace, NAMESPACE_LIST_LEN,
    NamespaceId, NamespaceIdList, NamespaceList, NumberOfQueues, SetFeatures, SetFeaturesCdw10,
    Version,
};

/// More namespaces than this are not looked at.
const NAMESPACES_MAX: usize = 4096;

/// An active namespace that can be used: blocks of 512 or 4096 bytes, without
/// metadata.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Its identifier at this controller.
    pub nsid: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// IEEE extended unique identifier, if it has one.
    pub eui64: Option<[u8; 8]>,
    /// Globally unique identifier, if it has one.
    pub nguid: Option<[u8; 16]>,
    /// UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// All of its Identify data.
    pub identify: Box<IdentifyNamespace>,
}

/// An active namespace that cannot be used.
#[derive(Debug, Clone)]
pub struct UnusableNamespace {
    /// Its identifier at this controller.
    pub nsid: u32,
    /// Why, and what to do about it.
    pub reason: String,
}

pub(super) fn open<B: Backing>(
    backing: Arc<B>,
    options: &Options,
) -> Result<Inner<B>, DriverError> {
    let device = Device::new(backing)?;
    supported(&device)?;
    device.disable()?;
    let mut admin = AdminQueue::new(&device, options.admin_timeout)?;
    let (sq, cq) = admin.addresses();
    let opened = device
        .enable(ADMIN_ENTRIES, sq, cq)
        .and_then(|()| Identified::read(&device, &mut admin, options));
    let found = match opened {
        Ok(found) => found,
        Err(error) => {
            // The queues go; the controller must not know them any more.
            let _ = device.disable();
            device.backing.quiesce();
            return Err(error);
        }
    };
    let sgl = options.prefer_sgl && matches!(found.identify.sgls.support(), 1 | 2);
    Ok(Inner {
        device,
        admin: Mutex::new(admin),
        identify: found.identify,
        namespaces: found.namespaces,
        unusable: found.unusable,
        vectors: found.vectors,
        queue_limit: found.queues,
        free_qids: Mutex::new((1..=found.queues).rev().collect()),
        kept: Mutex::default(),
        cmb: Mutex::default(),
        sgl,
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
    Err(DriverError::Unsupported {
        device: device.address,
        reason: reason.to_owned(),
    })
}

struct Identified {
    identify: Box<IdentifyController>,
    namespaces: Vec<Namespace>,
    unusable: Vec<UnusableNamespace>,
    queues: u16,
    vectors: Vec<std::os::fd::OwnedFd>,
}

impl Identified {
    fn read<B: Backing>(
        device: &Device<B>,
        admin: &mut AdminQueue,
        options: &Options,
    ) -> Result<Self, DriverError> {
        let identify: Box<IdentifyController> =
            admin.identify(device, "Identify Controller", Cns::Controller, 0)?;
        for (what, sizes, needed) in [
            ("submission", identify.sqes, 6),
            ("completion", identify.cqes, 4),
        ] {
            if !(sizes.min()..=sizes.max()).contains(&needed) {
                let reason = format!("its {what} queue entries are not of {} bytes", 1 << needed);
                return Err(DriverError::Unsupported {
                    device: device.address,
                    reason,
                });
            }
        }
        let queues = number_of_queues(device, admin, options.io_queues.max(1))?;
        let vectors = match options.interrupts {
            true => device.backing.interrupts(usize::from(queues) + 1)?,
            false => Vec::new(),
        };
        let (namespaces, unusable) = namespaces(device, admin)?;
        Ok(Self {
            identify,
            namespaces,
            unusable,
            queues,
            vectors,
        })
    }
}

/// Asks for so many I/O queue pairs, and gives how many there may be.
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
    let command = SetFeatures {
        cdw10: SetFeaturesCdw10::new().with_fid(FeatureId::NumberOfQueues),
        cdw11: asked.raw().into(),
        ..sqe_of(AdminOpcode::SetFeatures).into()
    };
    let name = "Set Features (Number of Queues)";
    let given = NumberOfQueues::from_raw(admin.execute(device, name, command.into())? as u32);
    Ok(given.submission_z().min(given.completion_z()).min(wanted_z) + 1)
}

fn namespaces<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
) -> Result<(Vec<Namespace>, Vec<UnusableNamespace>), DriverError> {
    let mut usable = Vec::new();
    let mut unusable = Vec::new();
    for nsid in active_namespaces(device, admin)? {
        let identify: Box<IdentifyNamespace> =
            admin.identify(device, "Identify Namespace", Cns::Namespace, nsid)?;
        match judge(&identify) {
            Ok(block_bytes) => {
                let ids = descriptors(device, admin, nsid)?;
                usable.push(namespace(nsid, block_bytes, identify, &ids));
            }
            Err(reason) => unusable.push(UnusableNamespace { nsid, reason }),
        }
    }
    Ok((usable, unusable))
}

/// Ascending. A list that does not ascend ends where it ceases to.
fn active_namespaces<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
) -> Result<Vec<u32>, DriverError> {
    let mut all = Vec::new();
    let mut last = 0;
    while all.len() < NAMESPACES_MAX {
        let name = "Identify (active namespaces)";
        let list: Box<NamespaceList> = admin.identify(device, name, Cns::ActiveNamespaces, last)?;
        let before = all.len();
        for nsid in list.iter() {
            if nsid <= last {
                return Ok(all);
            }
            last = nsid;
            all.push(nsid);
        }
        if all.len() - before < NAMESPACE_LIST_LEN {
            break;
        }
    }
    Ok(all)
}

/// Bytes of its blocks, or why it cannot be used.
fn judge(identify: &IdentifyNamespace) -> Result<u32, String> {
    let format = identify
        .format()
        .ok_or("its format (FLBAS) is not among its formats")?;
    if format.metadata_bytes.get() != 0 {
        return Err(format!(
            "its blocks have {} bytes of metadata; format it without (`nvme format --ms=0` with a fitting --lbaf)",
            format.metadata_bytes
        ));
    }
    match format.data_bytes() {
        Some(bytes @ (512 | 4096)) if identify.nsze.get() > 0 => Ok(bytes),
        Some(512 | 4096) => Err("it has no blocks".to_owned()),
        _ => Err(format!(
            "its blocks are of 2^{} bytes, not of 512 or 4096; format it with another --lbaf",
            format.lbads
        )),
    }
}

/// Identification descriptors; none from controllers before 1.3.
fn descriptors<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
    nsid: u32,
) -> Result<Vec<NamespaceId>, DriverError> {
    if device.version.raw() < Version::of(1, 3, 0).raw() {
        return Ok(Vec::new());
    }
    let name = "Identify (namespace descriptors)";
    match admin.identify::<_, NamespaceIdList>(device, name, Cns::NamespaceDescriptors, nsid) {
        Ok(list) => Ok(list.iter().collect()),
        // Some controllers refuse it; the namespace can be used all the same.
        Err(DriverError::Command { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn namespace(
    nsid: u32,
    block_bytes: u32,
    identify: Box<IdentifyNamespace>,
    ids: &[NamespaceId],
) -> Namespace {
    let mut namespace = Namespace {
        nsid,
        blocks: identify.nsze.get(),
        block_bytes,
        eui64: Some(identify.eui64).filter(|id| *id != [0; 8]),
        nguid: Some(identify.nguid).filter(|id| *id != [0; 16]),
        uuid: None,
        identify,
    };
    for id in ids {
        match *id {
            NamespaceId::Eui64(id) if id != [0; 8] => namespace.eui64 = Some(id),
            NamespaceId::Nguid(id) if id != [0; 16] => namespace.nguid = Some(id),
            NamespaceId::Uuid(id) if id != [0; 16] => namespace.uuid = Some(id),
            _ => {}
        }
    }
    namespace
}
