//! Scatter gather list descriptors (clause 4.1.2; keyed ones as RDMA uses them).

use zerocopy::little_endian::{U32, U64};

codes! {
    /// SGL descriptor type.
    pub enum SglType {
        /// A range of data.
        DataBlock = 0x0,
        /// Data of a read to be thrown away.
        BitBucket = 0x1,
        /// The next descriptors of the list; more segments follow.
        Segment = 0x2,
        /// The last descriptors of the list.
        LastSegment = 0x3,
        /// A range of remote memory with its key.
        KeyedDataBlock = 0x4,
        /// Data that the transport carries by means of its own.
        TransportDataBlock = 0x5,
        /// Defined by a vendor.
        Vendor = 0xf,
    }
}

codes! {
    /// SGL descriptor sub type.
    pub enum SglSubtype {
        /// The address is a memory address.
        Address = 0x0,
        /// The address is an offset into the capsule.
        Offset = 0x1,
        /// First of the values left to the transport.
        Transport = 0xa,
        /// Keyed, and the target is asked to invalidate the key when it answers.
        Invalidate = 0xf,
    }
}

bits! {
    /// Type and sub type: the descriptor's last byte.
    pub struct SglIdentifier: u8 {
        /// Sub type.
        #[bits(4)]
        pub subtype: SglSubtype,
        /// Type.
        #[bits(4)]
        pub kind: SglType,
    }
}

wire! {
    /// One descriptor, of any type.
    pub struct SglDescriptor: 16 {
        /// Address, or offset, as the sub type says.
        pub address: U64,
        middle: [u8; 7],
        /// Type and sub type.
        pub identifier: SglIdentifier,
    }
}

/// A descriptor read by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgl {
    /// A range of memory that the controller reaches by address.
    DataBlock {
        /// First byte.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// A range of the capsule, counted from where in-capsule data begins.
    InCapsule {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Bytes of a read that nobody wants.
    BitBucket {
        /// Bytes.
        length: u32,
    },
    /// Where further descriptors are.
    Segment {
        /// Address or capsule offset of the first of them.
        address: u64,
        /// Bytes of descriptors, a multiple of 16 when well-formed.
        length: u32,
        /// Whether `address` is an offset into the capsule.
        in_capsule: bool,
        /// Whether no segment follows.
        last: bool,
    },
    /// A range of the peer's memory and its key.
    Keyed {
        /// First byte.
        address: u64,
        /// Bytes, below 2^24.
        length: u32,
        /// Remote key.
        key: u32,
        /// Whether the answer is to invalidate the key.
        invalidate: bool,
    },
    /// Data carried by the transport.
    Transport {
        /// Bytes.
        length: u32,
    },
    /// A type, or a sub type of a known type, that this revision does not define.
    Unknown(SglIdentifier),
}

/// Longest range of a keyed descriptor, in bytes: its length has 24 bits.
pub const KEYED_LENGTH_MAX: u32 = 0x00ff_ffff;

impl SglDescriptor {
    fn plain(kind: SglType, subtype: SglSubtype, address: u64, length: u32) -> Self {
        let [a, b, c, d] = length.to_le_bytes();
        Self {
            address: U64::new(address),
            middle: [a, b, c, d, 0, 0, 0],
            identifier: SglIdentifier::new().with_kind(kind).with_subtype(subtype),
        }
    }

    /// A range of memory.
    pub fn data_block(address: u64, length: u32) -> Self {
        Self::plain(SglType::DataBlock, SglSubtype::Address, address, length)
    }

    /// A range of in-capsule data.
    pub fn in_capsule(offset: u64, length: u32) -> Self {
        Self::plain(SglType::DataBlock, SglSubtype::Offset, offset, length)
    }

    /// Bytes to be thrown away.
    pub fn bit_bucket(length: u32) -> Self {
        Self::plain(SglType::BitBucket, SglSubtype::Address, 0, length)
    }

    /// Further descriptors in memory, `length` bytes of them.
    pub fn segment(address: u64, length: u32, last: bool) -> Self {
        let kind = if last {
            SglType::LastSegment
        } else {
            SglType::Segment
        };
        Self::plain(kind, SglSubtype::Address, address, length)
    }

    /// Further descriptors in the capsule, `length` bytes of them.
    pub fn in_capsule_segment(offset: u64, length: u32, last: bool) -> Self {
        let kind = if last {
            SglType::LastSegment
        } else {
            SglType::Segment
        };
        Self::plain(kind, SglSubtype::Offset, offset, length)
    }

    /// Data that the transport carries.
    pub fn transport(length: u32) -> Self {
        Self::plain(
            SglType::TransportDataBlock,
            SglSubtype::Transport,
            0,
            length,
        )
    }

    /// A range of the peer's memory; `None` when `length` needs more than 24 bits.
    pub fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Option<Self> {
        if length > KEYED_LENGTH_MAX {
            return None;
        }
        let [a, b, c, _] = length.to_le_bytes();
        let [d, e, f, g] = key.to_le_bytes();
        let subtype = if invalidate {
            SglSubtype::Invalidate
        } else {
            SglSubtype::Address
        };
        Some(Self {
            address: U64::new(address),
            middle: [a, b, c, d, e, f, g],
            identifier: SglIdentifier::new()
                .with_kind(SglType::KeyedDataBlock)
                .with_subtype(subtype),
        })
    }

    /// Reads the descriptor by its type and sub type.
    pub fn decode(&self) -> Sgl {
        let [a, b, c, d, e, f, g] = self.middle;
        let length = U32::from_bytes([a, b, c, d]).get();
        let address = self.address.get();
        let in_capsule = match self.identifier.subtype() {
            SglSubtype::Offset => Some(true),
            SglSubtype::Address => Some(false),
            _ => None,
        };
        let unknown = Sgl::Unknown(self.identifier);
        match (self.identifier.kind(), self.identifier.subtype()) {
            (SglType::DataBlock, SglSubtype::Address) => Sgl::DataBlock { address, length },
            (SglType::DataBlock, SglSubtype::Offset) => Sgl::InCapsule {
                offset: address,
                length,
            },
            (SglType::BitBucket, SglSubtype::Address) => Sgl::BitBucket { length },
            (kind @ (SglType::Segment | SglType::LastSegment), _) => match in_capsule {
                Some(in_capsule) => {
                    let last = kind == SglType::LastSegment;
                    Sgl::Segment {
                        address,
                        length,
                        in_capsule,
                        last,
                    }
                }
                None => unknown,
            },
            (SglType::KeyedDataBlock, SglSubtype::Address | SglSubtype::Invalidate) => Sgl::Keyed {
                address,
                length: U32::from_bytes([a, b, c, 0]).get(),
                key: U32::from_bytes([d, e, f, g]).get(),
                invalidate: self.identifier.subtype() == SglSubtype::Invalidate,
            },
            (SglType::TransportDataBlock, SglSubtype::Transport) => Sgl::Transport { length },
            _ => unknown,
        }
    }
}
