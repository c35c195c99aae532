//! What the session core knows of a namespace: its shape and its names, never
//! how its blocks are reached.

use std::sync::Arc;

use uuid::Uuid;

/// Greatest namespace identifier that a subsystem gives out (NN in Identify
/// Controller). Identifiers up to it are valid, active or not (NVMe 2.0, 3.2.1).
pub const NSID_MAX: u32 = 1024;

/// One namespace, as hosts see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Namespace identifier, 1 to [`NSID_MAX`].
    pub nsid: u32,
    /// Size and capacity, in logical blocks; at least 1.
    pub blocks: u64,
    /// Bytes of a logical block, a power of two from 512 to 65536.
    pub block_bytes: u32,
    /// UUID; never nil, unique in the target.
    pub uuid: Uuid,
    /// NGUID; never zero, unique in the target.
    pub nguid: [u8; 16],
    /// EUI-64, where there is one; never zero.
    pub eui64: Option<[u8; 8]>,
    /// Written data may stay in a volatile cache until a flush or FUA.
    pub volatile_write_cache: bool,
    /// Dataset Management with deallocation reaches the medium.
    pub deallocate: bool,
    /// Write Zeroes is carried out.
    pub write_zeroes: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// The reactor's number for whatever carries the commands out.
    pub backend: usize,
}

/// Why a namespace cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Outside 1 to [`NSID_MAX`].
    #[error("namespace id {0} is not between 1 and {NSID_MAX}")]
    Nsid(u32),
    /// Two namespaces with one identifier.
    #[error("namespace id {0} is given twice")]
    DuplicateNsid(u32),
    /// No blocks, or more bytes than 64 bits count.
    #[error("namespace {nsid} has {blocks} blocks of {block_bytes} bytes, which is no usable size")]
    Size {
        /// The namespace.
        nsid: u32,
        /// Its blocks.
        blocks: u64,
        /// Bytes of a block.
        block_bytes: u32,
    },
    /// Not a power of two from 512 to 65536.
    #[error(
        "namespace {nsid} has blocks of {block_bytes} bytes; 512 to 65536, a power of two, can be offered"
    )]
    BlockSize {
        /// The namespace.
        nsid: u32,
        /// Bytes of a block.
        block_bytes: u32,
    },
    /// An identifier of zeros: hosts take those for bogus.
    #[error("namespace {0} has a UUID, NGUID or EUI-64 of zeros")]
    ZeroIdentifier(u32),
    /// Two namespaces with one UUID, NGUID or EUI-64.
    #[error("namespaces {0} and {1} have the same UUID, NGUID or EUI-64")]
    SameIdentifier(u32, u32),
}

impl NamespaceInfo {
    /// Base-two logarithm of the block size (LBADS).
    pub fn block_shift(&self) -> u32 {
        self.block_bytes.trailing_zeros()
    }

    fn check(&self) -> Result<(), NamespaceError> {
        let Self {
            nsid,
            blocks,
            block_bytes,
            ..
        } = *self;
        if nsid == 0 || nsid > NSID_MAX {
            return Err(NamespaceError::Nsid(nsid));
        }
        if !block_bytes.is_power_of_two() || !(512..=65536).contains(&block_bytes) {
            return Err(NamespaceError::BlockSize { nsid, block_bytes });
        }
        if blocks == 0 || blocks.checked_mul(u64::from(block_bytes)).is_none() {
            return Err(NamespaceError::Size {
                nsid,
                blocks,
                block_bytes,
            });
        }
        if self.uuid.is_nil() || self.nguid == [0; 16] || self.eui64 == Some([0; 8]) {
            return Err(NamespaceError::ZeroIdentifier(nsid));
        }
        Ok(())
    }

    fn same_identifier(&self, other: &Self) -> bool {
        self.uuid == other.uuid
            || self.nguid == other.nguid
            || (self.eui64.is_some() && self.eui64 == other.eui64)
    }
}

/// The namespaces of a subsystem at one moment, by ascending identifier.
#[derive(Debug, Default)]
pub struct NamespaceTable {
    active: Vec<NamespaceInfo>,
    /// Identifiers of those whose storage is away: not active, but expected back.
    away: Vec<u32>,
}

impl NamespaceTable {
    /// A table of these namespaces, in any order.
    ///
    /// # Errors
    /// When one cannot be offered, or two clash.
    pub fn new(mut namespaces: Vec<NamespaceInfo>) -> Result<Arc<Self>, NamespaceError> {
        namespaces.sort_by_key(|namespace| namespace.nsid);
        for (at, namespace) in namespaces.iter().enumerate() {
            namespace.check()?;
            for earlier in namespaces.iter().take(at) {
                if earlier.nsid == namespace.nsid {
                    return Err(NamespaceError::DuplicateNsid(namespace.nsid));
                }
                if earlier.same_identifier(namespace) {
                    return Err(NamespaceError::SameIdentifier(earlier.nsid, namespace.nsid));
                }
            }
        }
        Ok(Arc::new(Self {
            active: namespaces,
            away: Vec::new(),
        }))
    }

    /// The same, but these identifiers are those of namespaces whose storage is
    /// away: hosts do not see them, and commands for them fail with a path error.
    pub(super) fn without(&self, away: &[u32]) -> Arc<Self> {
        let stays = |namespace: &&NamespaceInfo| !away.contains(&namespace.nsid);
        Arc::new(Self {
            active: self.active.iter().filter(stays).cloned().collect(),
            away: away.to_vec(),
        })
    }

    /// Identifiers of namespaces whose storage is away.
    pub(super) fn away(&self) -> impl Iterator<Item = u32> + '_ {
        self.away.iter().copied()
    }

    /// Whether this is a namespace whose storage is away.
    pub fn is_away(&self, nsid: u32) -> bool {
        self.away.contains(&nsid)
    }

    /// The namespace with this identifier, when it is active.
    pub fn get(&self, nsid: u32) -> Option<&NamespaceInfo> {
        let at = self
            .active
            .binary_search_by_key(&nsid, |namespace| namespace.nsid)
            .ok()?;
        self.active.get(at)
    }

    /// All of them, by ascending identifier.
    pub fn iter(&self) -> std::slice::Iter<'_, NamespaceInfo> {
        self.active.iter()
    }

    /// How many are active.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether a namespace of one table has an identifier of one of the other.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self.iter()
            .any(|own| other.iter().any(|its| own.same_identifier(its)))
    }

    /// Identifiers that are in only one of both tables, or whose namespaces
    /// look different to a host.
    pub fn changed(&self, other: &Self) -> Vec<u32> {
        let mut nsids: Vec<u32> = self.iter().chain(other.iter()).map(|ns| ns.nsid).collect();
        nsids.sort_unstable();
        nsids.dedup();
        nsids.retain(|&nsid| self.get(nsid) != other.get(nsid));
        nsids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(nsid: u32) -> NamespaceInfo {
        NamespaceInfo {
            nsid,
            blocks: 1000,
            block_bytes: 512,
            uuid: Uuid::from_u128(u128::from(nsid) + 1),
            nguid: (u128::from(nsid) + 1).to_be_bytes(),
            eui64: Some((u64::from(nsid) + 1).to_be_bytes()),
            volatile_write_cache: true,
            deallocate: true,
            write_zeroes: true,
            read_only: false,
            backend: 0,
        }
    }

    #[test]
    fn what_hosts_would_call_bogus_is_refused() {
        let with = |change: fn(&mut NamespaceInfo)| {
            let mut changed = namespace(2);
            change(&mut changed);
            NamespaceTable::new(vec![namespace(1), changed]).map(|_| ())
        };
        type Change = fn(&mut NamespaceInfo);
        let cases: [(Change, Result<(), NamespaceError>); 12] = [
            (|_| (), Ok(())),
            (|ns| ns.nsid = 0, Err(NamespaceError::Nsid(0))),
            (
                |ns| ns.nsid = NSID_MAX + 1,
                Err(NamespaceError::Nsid(NSID_MAX + 1)),
            ),
            (|ns| ns.nsid = 1, Err(NamespaceError::DuplicateNsid(1))),
            (
                |ns| ns.uuid = Uuid::nil(),
                Err(NamespaceError::ZeroIdentifier(2)),
            ),
            (
                |ns| ns.nguid = [0; 16],
                Err(NamespaceError::ZeroIdentifier(2)),
            ),
            (
                |ns| ns.eui64 = Some([0; 8]),
                Err(NamespaceError::ZeroIdentifier(2)),
            ),
            (
                |ns| ns.uuid = namespace(1).uuid,
                Err(NamespaceError::SameIdentifier(1, 2)),
            ),
            (
                |ns| ns.eui64 = namespace(1).eui64,
                Err(NamespaceError::SameIdentifier(1, 2)),
            ),
            (
                |ns| ns.nguid = namespace(1).nguid,
                Err(NamespaceError::SameIdentifier(1, 2)),
            ),
            (
                |ns| ns.block_bytes = 1000,
                Err(NamespaceError::BlockSize {
                    nsid: 2,
                    block_bytes: 1000,
                }),
            ),
            (
                |ns| ns.blocks = 1 << 55,
                Err(NamespaceError::Size {
                    nsid: 2,
                    blocks: 1 << 55,
                    block_bytes: 512,
                }),
            ),
        ];
        for (at, (change, expected)) in cases.into_iter().enumerate() {
            assert_eq!(with(change), expected, "case {at}");
        }
    }

    #[test]
    fn a_namespace_that_is_away_is_not_active_and_not_forgotten() {
        let table = NamespaceTable::new(vec![namespace(1), namespace(2)]).unwrap();
        let without = table.without(&[2]);
        assert_eq!(without.get(2), None);
        assert!(without.is_away(2) && !without.is_away(1) && !table.is_away(2));
        assert_eq!(table.changed(&without), [2]);
        assert_eq!(without.len(), 1);
    }

    #[test]
    fn a_change_names_the_namespaces_that_came_went_or_look_different() {
        let mut grown = namespace(2);
        grown.blocks += 1;
        let old = NamespaceTable::new(vec![namespace(1), namespace(2), namespace(3)]).unwrap();
        let new = NamespaceTable::new(vec![grown, namespace(3), namespace(4)]).unwrap();
        assert_eq!(old.changed(&new), [1, 2, 4]);
        assert_eq!(old.changed(&old), [0; 0]);
    }
}
