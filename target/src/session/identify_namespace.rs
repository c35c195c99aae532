//! Identify's structures of namespaces (NVMe 2.0, 5.17.2; NVM 1.0, 4.1.5).

use sidelane_nvme::spec::{
    Csi, DlFeat, IdentifyNamespace, IdentifyNamespaceIndependent, IdentifyNamespaceNvm, LbaFormat,
    NSID_ALL, NamespaceId, NamespaceIdList, NamespaceList, Nmic, NsAttr, NsStatus,
};
use zerocopy::little_endian::{U64, U128};

use super::admin::AdminQueue;
use super::identify::bytes;
use super::refusal::Refusal;
use crate::subsystem::{NSID_MAX, NamespaceInfo};

/// Greatest value below which a namespace list may start: FFFFFFFEh and above
/// can have nothing after them.
const LIST_START_MAX: u32 = NSID_ALL - 2;

fn shared() -> Nmic {
    Nmic::new().with_shared(true)
}

fn identify(namespace: &NamespaceInfo) -> IdentifyNamespace {
    let mut id = IdentifyNamespace::default();
    let bytes = u128::from(namespace.blocks) << namespace.block_shift();
    id.nsze = U64::new(namespace.blocks);
    id.ncap = id.nsze;
    id.nuse = id.nsze;
    id.nvmcap = U128::new(bytes);
    id.nmic = shared();
    // What a deallocated block reads as is the backend's affair: not said.
    id.dlfeat = DlFeat::new().with_write_zeroes_deallocates(namespace.deallocate);
    id.nsattr = NsAttr::new().with_write_protected(namespace.read_only);
    id.nguid = namespace.nguid;
    id.eui64 = namespace.eui64.unwrap_or_default();
    if let Some(format) = id.lbaf.first_mut() {
        *format = LbaFormat::data_only(namespace.block_shift() as u8);
    }
    id
}

/// `make` of an active namespace, or the 4096 zeros that an inactive one gets.
fn of<T: zerocopy::IntoBytes + zerocopy::Immutable + Default>(
    namespace: Option<&NamespaceInfo>,
    make: impl FnOnce(&NamespaceInfo) -> T,
) -> Vec<u8> {
    bytes(&namespace.map(make).unwrap_or_default())
}

impl AdminQueue {
    /// Whether an identifier can be a namespace's; it need not be active.
    fn valid_nsid(nsid: u32) -> Result<u32, Refusal> {
        match nsid {
            1..=NSID_MAX => Ok(nsid),
            _ => Err(Refusal::Namespace(nsid)),
        }
    }

    pub(super) fn identify_namespace(&self, nsid: u32) -> Result<Vec<u8>, Refusal> {
        let nsid = Self::valid_nsid(nsid)?;
        Ok(of(self.subsystem.namespaces().get(nsid), identify))
    }

    pub(super) fn identify_namespace_nvm(&self, nsid: u32) -> Result<Vec<u8>, Refusal> {
        Self::valid_nsid(nsid)?;
        // No protection information: all of it is zero.
        Ok(bytes(&IdentifyNamespaceNvm::default()))
    }

    pub(super) fn identify_namespace_independent(&self, nsid: u32) -> Result<Vec<u8>, Refusal> {
        let nsid = Self::valid_nsid(nsid)?;
        Ok(of(self.subsystem.namespaces().get(nsid), |namespace| {
            let mut id = IdentifyNamespaceIndependent::default();
            id.nmic = shared();
            id.nsattr = NsAttr::new().with_write_protected(namespace.read_only);
            id.nstat = NsStatus::new().with_ready(true);
            id
        }))
    }

    /// Active namespaces with identifiers above `nsid`.
    pub(super) fn active_namespaces(&self, nsid: u32) -> Result<Vec<u8>, Refusal> {
        if nsid > LIST_START_MAX {
            return Err(Refusal::Namespace(nsid));
        }
        let namespaces = self.subsystem.namespaces();
        let above = namespaces
            .iter()
            .map(|namespace| namespace.nsid)
            .filter(|&found| found > nsid);
        Ok(bytes(&NamespaceList::of(above)))
    }

    /// Every identifier of a namespace. One that is not active has none, and
    /// unlike for CNS 00h that is an error (5.17.2.3).
    pub(super) fn namespace_descriptors(&self, nsid: u32) -> Result<Vec<u8>, Refusal> {
        let nsid = Self::valid_nsid(nsid)?;
        let namespaces = self.subsystem.namespaces();
        let namespace = namespaces
            .get(nsid)
            .ok_or(Refusal::NamespaceInactive(nsid))?;
        let ids = [
            namespace.eui64.map(NamespaceId::Eui64),
            Some(NamespaceId::Nguid(namespace.nguid)),
            Some(NamespaceId::Uuid(namespace.uuid.into_bytes())),
            Some(NamespaceId::Csi(Csi::Nvm)),
        ];
        let ids: Vec<NamespaceId> = ids.into_iter().flatten().collect();
        Ok(bytes(&NamespaceIdList::of(&ids)))
    }
}
