//! Submission queue entry (clause 3.3.3.1) and its data pointer (4.1, 4.1.1).

use zerocopy::little_endian::{U32, U64};

use super::SglDescriptor;

/// Bytes of a submission queue entry.
pub const SQE_LEN: usize = 64;

codes! {
    /// PRP or SGL for data transfer (PSDT).
    pub enum Psdt {
        /// The data pointer holds two PRP entries.
        Prp = 0,
        /// The data pointer holds an SGL descriptor; metadata is contiguous.
        Sgl = 1,
        /// The data pointer and the metadata pointer both hold an SGL.
        SglMetadata = 2,
    }
}

codes! {
    /// Fused operation (FUSE).
    pub enum Fuse {
        /// An ordinary command.
        Normal = 0,
        /// First of a fused pair.
        First = 1,
        /// Second of a fused pair.
        Second = 2,
    }
}

bits! {
    /// Command dword 0.
    pub struct Cdw0: u32 {
        /// Opcode (OPC); its meaning depends on the queue.
        pub opcode: u8,
        /// Fused operation (FUSE).
        #[bits(2)]
        pub fuse: Fuse,
        #[bits(4)]
        __: u8,
        /// What the data pointer holds (PSDT).
        #[bits(2)]
        pub psdt: Psdt,
        /// Command identifier (CID), unique among the queue's outstanding commands.
        pub cid: u16,
    }
}

wire! {
    /// Data pointer (DPTR): two PRP entries, or one SGL descriptor, as PSDT says.
    pub struct DataPtr: 16 {
        /// The bytes as they stand in the entry.
        pub raw: [u8; 16],
    }
}

impl DataPtr {
    /// Two PRP entries.
    pub fn from_prp(prp1: u64, prp2: u64) -> Self {
        zerocopy::transmute!([U64::new(prp1), U64::new(prp2)])
    }

    /// One SGL descriptor.
    pub fn from_sgl(descriptor: SglDescriptor) -> Self {
        zerocopy::transmute!(descriptor)
    }

    fn prps(self) -> [U64; 2] {
        zerocopy::transmute!(self)
    }

    /// PRP entry 1.
    pub fn prp1(self) -> u64 {
        let [prp1, _] = self.prps();
        prp1.get()
    }

    /// PRP entry 2: a page, or the address of a list.
    pub fn prp2(self) -> u64 {
        let [_, prp2] = self.prps();
        prp2.get()
    }

    /// The SGL descriptor.
    pub fn sgl(self) -> SglDescriptor {
        zerocopy::transmute!(self)
    }
}

wire! {
    /// Submission queue entry, common layout. Typed commands
    /// convert from and into it.
    pub struct Sqe: 64 {
        /// Opcode, fusing, data pointer kind, command identifier.
        pub cdw0: Cdw0,
        /// Namespace identifier (NSID).
        pub nsid: U32,
        /// Command dword 2.
        pub cdw2: U32,
        /// Command dword 3.
        pub cdw3: U32,
        /// Metadata pointer (MPTR).
        pub mptr: U64,
        /// Data pointer (DPTR).
        pub dptr: DataPtr,
        /// Command dword 10.
        pub cdw10: U32,
        /// Command dword 11.
        pub cdw11: U32,
        /// Command dword 12.
        pub cdw12: U32,
        /// Command dword 13.
        pub cdw13: U32,
        /// Command dword 14.
        pub cdw14: U32,
        /// Command dword 15.
        pub cdw15: U32,
    }
}

impl Sqe {
    /// An entry with the given opcode and namespace, all else zero.
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Self {
            cdw0: Cdw0::new().with_opcode(opcode),
            nsid: U32::new(nsid),
            ..Self::default()
        }
    }

    /// Opcode (OPC).
    pub fn opcode(&self) -> u8 {
        self.cdw0.opcode()
    }

    /// Command identifier (CID).
    pub fn cid(&self) -> u16 {
        self.cdw0.cid()
    }
}
