//! Lists that Identify gives: namespaces, identification descriptors, command
//! sets (clause 5.17.2).

use arrayvec::ArrayVec;
use zerocopy::little_endian::{U16, U32, U64};

use super::Csi;

/// Identifiers that one namespace list holds.
pub const NAMESPACE_LIST_LEN: usize = 1024;

wire! {
    /// Namespace list: ascending identifiers, then zeros (CNS 02h; log page 04h).
    pub struct NamespaceList: 4096 {
        /// The entries; the first zero ends the list.
        pub nsids: [U32; NAMESPACE_LIST_LEN],
    }
}

impl NamespaceList {
    /// The first identifiers of an ascending sequence, as many as fit.
    pub fn of(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::default();
        for (to, nsid) in list.nsids.iter_mut().zip(nsids) {
            *to = U32::new(nsid);
        }
        list
    }

    /// The identifiers.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsids
            .iter()
            .map(|nsid| nsid.get())
            .take_while(|nsid| *nsid != 0)
    }
}

codes! {
    /// Namespace identifier type (NIDT).
    pub enum NamespaceIdType {
        /// IEEE extended unique identifier, 8 bytes.
        Eui64 = 1,
        /// Namespace globally unique identifier, 16 bytes.
        Nguid = 2,
        /// UUID, 16 bytes.
        Uuid = 3,
        /// Command set identifier, 1 byte.
        Csi = 4,
    }
}

wire! {
    /// Head of a namespace identification descriptor.
    pub struct NamespaceIdHeader: 4 {
        /// Type (NIDT); 0 ends the list.
        pub nidt: NamespaceIdType,
        /// Bytes that follow (NIDL).
        pub nidl: u8,
        #[doc(hidden)]
        pub _reserved2: U16,
    }
}

/// One identifier of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceId {
    /// IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// Namespace globally unique identifier.
    Nguid([u8; 16]),
    /// UUID.
    Uuid([u8; 16]),
    /// The I/O command set.
    Csi(Csi),
}

wire! {
    /// Namespace identification descriptor list (CNS 03h).
    pub struct NamespaceIdList: 4096 {
        /// The bytes of the list.
        pub raw: [u8; 4096],
    }
}

impl NamespaceIdList {
    /// The list of these identifiers, as many as fit.
    pub fn of(ids: &[NamespaceId]) -> Self {
        let mut raw = ArrayVec::<u8, 4096>::new();
        for id in ids {
            let (nidt, bytes): (_, &[u8]) = match id {
                NamespaceId::Eui64(bytes) => (NamespaceIdType::Eui64, bytes),
                NamespaceId::Nguid(bytes) => (NamespaceIdType::Nguid, bytes),
                NamespaceId::Uuid(bytes) => (NamespaceIdType::Uuid, bytes),
                NamespaceId::Csi(csi) => (NamespaceIdType::Csi, &[csi.0]),
            };
            if raw.remaining_capacity() < bytes.len() + 4 {
                break;
            }
            raw.extend([nidt.0, bytes.len() as u8, 0, 0]);
            raw.extend(bytes.iter().copied());
        }
        let mut list = Self::default();
        for (to, from) in list.raw.iter_mut().zip(raw) {
            *to = from;
        }
        list
    }

    /// The identifiers of known type and right length. The list ends at type 0,
    /// at a length of 0, or where a descriptor would pass the end.
    pub fn iter(&self) -> impl Iterator<Item = NamespaceId> + '_ {
        let mut rest: &[u8] = &self.raw;
        std::iter::from_fn(move || {
            let (nidt, bytes, after) = match rest {
                [nidt, nidl, _, _, after @ ..] if *nidt != 0 && *nidl != 0 => {
                    let (bytes, after) = after.split_at_checked(usize::from(*nidl))?;
                    (NamespaceIdType(*nidt), bytes, after)
                }
                _ => return None,
            };
            rest = after;
            Some(match nidt {
                NamespaceIdType::Eui64 => bytes.try_into().ok().map(NamespaceId::Eui64),
                NamespaceIdType::Nguid => bytes.try_into().ok().map(NamespaceId::Nguid),
                NamespaceIdType::Uuid => bytes.try_into().ok().map(NamespaceId::Uuid),
                NamespaceIdType::Csi => match bytes {
                    [csi] => Some(NamespaceId::Csi(Csi(*csi))),
                    _ => None,
                },
                _ => None,
            })
        })
        .flatten()
    }
}

wire! {
    /// I/O command set combinations (CNS 1Ch): each a mask of command sets, by
    /// CSI; a zero ends the list.
    pub struct CommandSetList: 4096 {
        /// The combinations.
        pub combinations: [U64; 512],
    }
}
