//! I/O commands of the NVM command set (NVM 3.2) and Flush (clause 7.1).

use zerocopy::little_endian::{U16, U32, U64};

use super::{Cdw0, DataPtr};

bits! {
    /// Dword 12 of Read and Write.
    pub struct ReadWriteCdw12: u32 {
        /// Logical blocks, zero-based (NLB).
        pub nlb_z: u16,
        #[bits(4)]
        __: u8,
        /// Directive type, of a write (DTYPE).
        #[bits(4)]
        pub dtype: u8,
        /// Storage tag check (STC).
        pub stc: bool,
        __: bool,
        /// Protection information: check reference tag, application tag, guard,
        /// and in the top bit the action (PRINFO).
        #[bits(4)]
        pub prinfo: u8,
        /// Force unit access (FUA).
        pub fua: bool,
        /// Limited retry (LR).
        pub lr: bool,
    }
}

command! {
    /// Read and Write (NVM 3.2.4 and 3.2.6).
    pub struct ReadWrite {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace.
        pub nsid: U32,
        /// Upper tag bits, for formats with large tags (dwords 2 and 3).
        pub tags_upper: U64,
        /// Metadata pointer.
        pub mptr: U64,
        /// Data pointer.
        pub dptr: DataPtr,
        /// First logical block (SLBA).
        pub slba: U64,
        /// Length and flags.
        pub cdw12: ReadWriteCdw12,
        /// Dataset management hints (DSM).
        pub dsm: u8,
        #[doc(hidden)]
        pub _reserved53: [u8; 1],
        /// Directive specific, of a write (DSPEC).
        pub dspec: U16,
        /// Expected or initial reference tag.
        pub reference_tag: U32,
        /// Application tag.
        pub application_tag: U16,
        /// Application tag mask.
        pub application_tag_mask: U16,
    }
}

bits! {
    /// Dword 12 of Write Zeroes.
    pub struct WriteZeroesCdw12: u32 {
        /// Logical blocks, zero-based (NLB).
        pub nlb_z: u16,
        #[bits(8)]
        __: u8,
        /// Storage tag check (STC).
        pub stc: bool,
        /// The controller should deallocate the blocks (DEAC).
        pub deac: bool,
        /// Protection information (PRINFO).
        #[bits(4)]
        pub prinfo: u8,
        /// Force unit access (FUA).
        pub fua: bool,
        /// Limited retry (LR).
        pub lr: bool,
    }
}

command! {
    /// Write Zeroes (NVM 3.2.8).
    pub struct WriteZeroes {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace.
        pub nsid: U32,
        /// Upper tag bits, for formats with large tags (dwords 2 and 3).
        pub tags_upper: U64,
        #[doc(hidden)]
        pub _reserved16: [u8; 24],
        /// First logical block (SLBA).
        pub slba: U64,
        /// Length and flags.
        pub cdw12: WriteZeroesCdw12,
        #[doc(hidden)]
        pub _reserved52: [u8; 4],
        /// Initial reference tag.
        pub reference_tag: U32,
        /// Application tag.
        pub application_tag: U16,
        /// Application tag mask.
        pub application_tag_mask: U16,
    }
}

command! {
    /// Flush (clause 7.1).
    pub struct Flush {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace, or all.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 56],
    }
}

bits! {
    /// Dword 11 of Dataset Management: what is said of the ranges.
    pub struct DsmAttributes: u32 {
        /// They will be read as a whole (IDR).
        pub idr: bool,
        /// They will be written as a whole (IDW).
        pub idw: bool,
        /// They may be deallocated (AD).
        pub deallocate: bool,
        #[bits(29)]
        __: u32,
    }
}

/// Most ranges that one Dataset Management command can carry.
pub const DSM_RANGES_MAX: usize = 256;

command! {
    /// Dataset Management (NVM 3.2.3).
    pub struct DatasetManagement {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 16],
        /// Where the ranges are.
        pub dptr: DataPtr,
        /// Number of ranges, zero-based (NR).
        pub nr_z: u8,
        #[doc(hidden)]
        pub _reserved41: [u8; 3],
        /// What is said of them.
        pub attributes: DsmAttributes,
        #[doc(hidden)]
        pub _reserved48: [u8; 16],
    }
}

wire! {
    /// One range of Dataset Management.
    pub struct DsmRange: 16 {
        /// Context attributes.
        pub attributes: U32,
        /// Logical blocks, *not* zero-based.
        pub nlb: U32,
        /// First logical block.
        pub slba: U64,
    }
}

impl DsmRange {
    /// A range without context attributes.
    pub fn new(slba: u64, nlb: u32) -> Self {
        Self {
            attributes: U32::ZERO,
            nlb: U32::new(nlb),
            slba: U64::new(slba),
        }
    }
}
