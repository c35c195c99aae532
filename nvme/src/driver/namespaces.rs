//! The namespaces of a controller: reading what they are, and what has changed.

use std::sync::Arc;

use super::admin::AdminQueue;
use super::device::Device;
use super::{Controller, DriverError};
use crate::Backing;
use crate::spec::{
    Cns, IdentifyNamespace, NAMESPACE_LIST_LEN, NamespaceId, NamespaceIdList, NamespaceList,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableNamespace {
    /// Its identifier at this controller.
    pub nsid: u32,
    /// Why, and what to do about it.
    pub reason: String,
}

/// What is different about a namespace since it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceChange {
    /// It can be used and could not before, or another one has its identifier.
    Added {
        /// Which.
        nsid: u32,
    },
    /// It is no longer active, or another one has its identifier.
    Removed {
        /// Which.
        nsid: u32,
    },
    /// It has another number of blocks.
    Resized {
        /// Which.
        nsid: u32,
        /// Logical blocks that it has now.
        blocks: u64,
    },
    /// It has blocks of another size, and none of its data. Its number of blocks
    /// is likely to be another, too.
    Reformatted {
        /// Which.
        nsid: u32,
        /// Bytes of a logical block now.
        block_bytes: u32,
    },
    /// It is active and cannot be used.
    Unusable {
        /// Which.
        nsid: u32,
        /// Why, and what to do about it.
        reason: String,
    },
}

/// What was read of all namespaces at one time. Clones share it.
#[derive(Clone)]
pub(super) struct Namespaces {
    /// Ascending by identifier.
    pub(super) usable: Arc<[Namespace]>,
    pub(super) unusable: Arc<[UnusableNamespace]>,
}

impl<B: Backing> Controller<B> {
    /// Active namespaces that can be used, ascending by identifier: as last read
    /// at [`open`](Self::open), [`restart`](Self::restart) or
    /// [`rescan`](Self::rescan).
    pub fn namespaces(&self) -> Arc<[Namespace]> {
        self.inner.known().namespaces.usable
    }

    /// Active namespaces that cannot, and why.
    pub fn unusable_namespaces(&self) -> Arc<[UnusableNamespace]> {
        self.inner.known().namespaces.unusable
    }

    /// Reads all namespaces anew, and says what is different. Queue pairs that
    /// exist go by what was known when they were made.
    ///
    /// # Errors
    /// When the controller does not answer, or refuses; nothing is changed then.
    pub fn rescan(&self) -> Result<Vec<NamespaceChange>, DriverError> {
        let inner = &self.inner;
        let mut admin = inner.admin_queue()?;
        let now = Namespaces::read(&inner.device, &mut admin)?;
        let mut known = super::lock(&inner.known);
        let changes = now.changes_since(&known.namespaces);
        known.namespaces = now;
        Ok(changes)
    }
}

impl Namespaces {
    pub(super) fn read<B: Backing>(
        device: &Device<B>,
        admin: &mut AdminQueue,
    ) -> Result<Self, DriverError> {
        let mut usable = Vec::new();
        let mut unusable = Vec::new();
        for nsid in active_namespaces(device, admin)? {
            match namespace(device, admin, nsid)? {
                Ok(namespace) => usable.push(namespace),
                Err(reason) => unusable.push(UnusableNamespace { nsid, reason }),
            }
        }
        Ok(Self {
            usable: usable.into(),
            unusable: unusable.into(),
        })
    }

    fn usable(&self, nsid: u32) -> Option<&Namespace> {
        find(&self.usable, nsid)
    }

    fn changes_since(&self, before: &Self) -> Vec<NamespaceChange> {
        let mut changes = Vec::new();
        for old in before.usable.iter() {
            let nsid = old.nsid;
            match self.usable(nsid) {
                Some(new) if !old.is_same(new) => {
                    changes.push(NamespaceChange::Removed { nsid });
                    changes.push(NamespaceChange::Added { nsid });
                }
                Some(new) if old.block_bytes != new.block_bytes => {
                    let block_bytes = new.block_bytes;
                    changes.push(NamespaceChange::Reformatted { nsid, block_bytes });
                }
                Some(new) if old.blocks != new.blocks => {
                    let blocks = new.blocks;
                    changes.push(NamespaceChange::Resized { nsid, blocks });
                }
                Some(_) => {}
                None if self.unusable.iter().any(|it| it.nsid == nsid) => {}
                None => changes.push(NamespaceChange::Removed { nsid }),
            }
        }
        let added = |new: &&Namespace| before.usable(new.nsid).is_none();
        changes.extend(self.usable.iter().filter(added).map(|new| {
            let nsid = new.nsid;
            NamespaceChange::Added { nsid }
        }));
        let known = |new: &UnusableNamespace| before.unusable.iter().any(|old| old == new);
        for new in self.unusable.iter().filter(|new| !known(new)) {
            let (nsid, reason) = (new.nsid, new.reason.clone());
            changes.push(NamespaceChange::Unusable { nsid, reason });
        }
        changes
    }
}

/// The one with this identifier, of namespaces in ascending order.
pub(super) fn find(namespaces: &[Namespace], nsid: u32) -> Option<&Namespace> {
    let found = namespaces.binary_search_by_key(&nsid, |it| it.nsid);
    namespaces.get(found.ok()?)
}

/// One namespace, or why it cannot be used.
fn namespace<B: Backing>(
    device: &Device<B>,
    admin: &mut AdminQueue,
    nsid: u32,
) -> Result<Result<Namespace, String>, DriverError> {
    let read = admin.identify(device, "Identify Namespace", Cns::Namespace, nsid);
    let identify: Box<IdentifyNamespace> = match read {
        Ok(identify) => identify,
        // As when it was deleted since the list was read.
        Err(DriverError::Command { status, .. }) => {
            return Ok(Err(format!(
                "the controller does not identify it: {status}"
            )));
        }
        Err(error) => return Err(error),
    };
    let block_bytes = match judge(&identify) {
        Ok(block_bytes) => block_bytes,
        Err(reason) => return Ok(Err(reason)),
    };
    let ids = descriptors(device, admin, nsid)?;
    Ok(Ok(Namespace::new(nsid, block_bytes, identify, &ids)))
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

impl Namespace {
    fn new(
        nsid: u32,
        block_bytes: u32,
        identify: Box<IdentifyNamespace>,
        ids: &[NamespaceId],
    ) -> Self {
        let mut namespace = Self {
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

    /// Whether it has the same identifiers that do not change with a format.
    fn is_same(&self, other: &Self) -> bool {
        let ids = |it: &Self| (it.eui64, it.nguid, it.uuid);
        ids(self) == ids(other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What is known of a namespace: blocks, their size, identity; or nothing but
    /// that it cannot be used.
    type Shape = Option<(u64, u32, u8)>;

    fn shapes() -> impl Strategy<Value = BTreeMap<u32, Shape>> {
        let usable = (1u64..4, prop_oneof![Just(512u32), Just(4096)], 0u8..2);
        proptest::collection::btree_map(1u32..8, proptest::option::of(usable), 0..8)
    }

    fn namespaces(shapes: &BTreeMap<u32, Shape>) -> Namespaces {
        let mut usable = Vec::new();
        let mut unusable = Vec::new();
        for (&nsid, shape) in shapes {
            match *shape {
                Some((blocks, block_bytes, id)) => {
                    let identify = Box::new(IdentifyNamespace {
                        nsze: blocks.into(),
                        nguid: [id; 16],
                        ..IdentifyNamespace::default()
                    });
                    usable.push(Namespace::new(nsid, block_bytes, identify, &[]));
                }
                None => unusable.push(UnusableNamespace {
                    nsid,
                    reason: "none".into(),
                }),
            }
        }
        Namespaces {
            usable: usable.into(),
            unusable: unusable.into(),
        }
    }

    proptest! {
        /// Who follows the changes, and looks at what is named only, knows all.
        #[test]
        fn changes_lead_from_what_was_to_what_is(before in shapes(), after in shapes()) {
            let changes = namespaces(&after).changes_since(&namespaces(&before));
            prop_assert_eq!(changes.is_empty(), before == after || {
                // That an unusable one is gone concerns nobody.
                let gone = before.iter().filter(|(nsid, _)| !after.contains_key(nsid));
                gone.clone().all(|(_, shape)| shape.is_none())
                    && after.iter().all(|(nsid, shape)| before.get(nsid) == Some(shape))
            });
            let mut followed = before.clone();
            for change in changes {
                match change {
                    NamespaceChange::Added { nsid } => {
                        prop_assert!(followed.get(&nsid).is_none_or(Option::is_none));
                        followed.insert(nsid, after[&nsid]);
                    }
                    NamespaceChange::Removed { nsid } => {
                        prop_assert!(followed.remove(&nsid).flatten().is_some());
                    }
                    NamespaceChange::Resized { nsid, blocks } => {
                        let shape = followed[&nsid].map(|(_, bytes, id)| (blocks, bytes, id));
                        followed.insert(nsid, shape);
                    }
                    NamespaceChange::Reformatted { nsid, block_bytes } => {
                        prop_assert_eq!(after[&nsid].map(|shape| shape.1), Some(block_bytes));
                        followed.insert(nsid, after[&nsid]);
                    }
                    NamespaceChange::Unusable { nsid, .. } => {
                        followed.insert(nsid, None);
                    }
                }
            }
            followed.retain(|nsid, shape| shape.is_some() || after.contains_key(nsid));
            prop_assert_eq!(followed, after);
        }
    }
}
