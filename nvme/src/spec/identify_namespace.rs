//! Identify Namespace data: of the NVM command set (NVM 4.1.5.1 and 4.1.5.3)
//! and independent of command sets (clause 5.17.2.8).

use zerocopy::little_endian::{U16, U32, U64, U128};

use super::{DlFeat, Dps, Flbas, Nmic, NsAttr, NsFeat};

wire! {
    /// LBA format (LBAF).
    pub struct LbaFormat: 4 {
        /// Metadata of each block (MS), in bytes.
        pub metadata_bytes: U16,
        /// Data of each block, as a power of two (LBADS); 0 for no format.
        pub lbads: u8,
        /// Relative performance, in the lower two bits: 0 is best (RP).
        pub relative_performance: u8,
    }
}

impl LbaFormat {
    /// A format of `1 << lbads` bytes without metadata.
    pub fn data_only(lbads: u8) -> Self {
        Self {
            lbads,
            ..Self::default()
        }
    }

    /// Bytes of data of each block; `None` unless it is 512 bytes to 2 GiB.
    pub fn data_bytes(&self) -> Option<u32> {
        (9..32).contains(&self.lbads).then(|| 1 << self.lbads)
    }
}

wire! {
    /// Identify Namespace data of the NVM command set (CNS 00h, CNS 11h).
    pub struct IdentifyNamespace: 4096 {
        /// Size, in logical blocks (NSZE).
        pub nsze: U64,
        /// Capacity, in logical blocks (NCAP).
        pub ncap: U64,
        /// Utilization, in logical blocks (NUSE).
        pub nuse: U64,
        /// Features (NSFEAT).
        pub nsfeat: NsFeat,
        /// Number of LBA formats, zero-based (NLBAF).
        pub nlbaf_z: u8,
        /// Format in use (FLBAS).
        pub flbas: Flbas,
        /// Metadata capabilities (MC).
        pub mc: u8,
        /// Data protection capabilities (DPC).
        pub dpc: u8,
        /// Data protection in use (DPS).
        pub dps: Dps,
        /// Sharing (NMIC).
        pub nmic: Nmic,
        /// Reservation capabilities (RESCAP).
        pub rescap: u8,
        /// Format progress (FPI).
        pub fpi: u8,
        /// Deallocation features (DLFEAT).
        pub dlfeat: DlFeat,
        /// Atomic write unit, normal, zero-based, in logical blocks (NAWUN).
        pub nawun_z: U16,
        /// Atomic write unit, power fail, zero-based, in logical blocks (NAWUPF).
        pub nawupf_z: U16,
        /// Atomic compare and write unit, zero-based, in logical blocks (NACWU).
        pub nacwu_z: U16,
        /// Atomic boundary, normal, zero-based, in logical blocks (NABSN).
        pub nabsn_z: U16,
        /// Atomic boundary offset, in logical blocks (NABO).
        pub nabo: U16,
        /// Atomic boundary, power fail, zero-based, in logical blocks (NABSPF).
        pub nabspf_z: U16,
        /// Optimal I/O boundary, in logical blocks, 0 for none (NOIOB).
        pub noiob: U16,
        /// Capacity, in bytes (NVMCAP).
        pub nvmcap: U128,
        /// Preferred write granularity, zero-based, in logical blocks (NPWG).
        pub npwg_z: U16,
        /// Preferred write alignment, zero-based, in logical blocks (NPWA).
        pub npwa_z: U16,
        /// Preferred deallocate granularity, zero-based, in logical blocks (NPDG).
        pub npdg_z: U16,
        /// Preferred deallocate alignment, zero-based, in logical blocks (NPDA).
        pub npda_z: U16,
        /// Optimal write size, zero-based, in logical blocks (NOWS).
        pub nows_z: U16,
        /// Most logical blocks of one source range of Copy (MSSRL).
        pub mssrl: U16,
        /// Most logical blocks of a Copy (MCL).
        pub mcl: U32,
        /// Most source ranges of a Copy, zero-based (MSRC).
        pub msrc_z: u8,
        #[doc(hidden)]
        pub _reserved81: [u8; 11],
        /// ANA group (ANAGRPID).
        pub anagrpid: U32,
        #[doc(hidden)]
        pub _reserved96: [u8; 3],
        /// Attributes (NSATTR).
        pub nsattr: NsAttr,
        /// NVM set (NVMSETID).
        pub nvmsetid: U16,
        /// Endurance group (ENDGID).
        pub endgid: U16,
        /// Globally unique identifier, big-endian (NGUID); zero for none.
        pub nguid: [u8; 16],
        /// IEEE extended unique identifier, big-endian (EUI64); zero for none.
        pub eui64: [u8; 8],
        /// LBA formats, of which NLBAF are supported.
        pub lbaf: [LbaFormat; 64],
        /// Vendor specific.
        pub vendor: [u8; 3712],
    }
}

impl IdentifyNamespace {
    /// The LBA format in use; `None` when FLBAS points at none.
    pub fn format(&self) -> Option<LbaFormat> {
        let formats = usize::from(self.nlbaf_z) + 1;
        self.lbaf.get(self.flbas.index(formats)).copied()
    }
}

wire! {
    /// Identify Namespace data of the NVM command set, second part (CNS 05h, CSI 0).
    pub struct IdentifyNamespaceNvm: 4096 {
        /// Logical block storage tag mask (LBSTM).
        pub lbstm: U64,
        /// Protection information capabilities (PIC).
        pub pic: u8,
        #[doc(hidden)]
        pub _reserved9: [u8; 3],
        /// Extended LBA formats (ELBAF).
        pub elbaf: [U32; 64],
        #[doc(hidden)]
        pub _reserved268: [u8; 3828],
    }
}

bits! {
    /// Namespace status (NSTAT).
    pub struct NsStatus: u8 {
        /// Ready for I/O (NRDY).
        pub ready: bool,
        #[bits(7)]
        __: u8,
    }
}

wire! {
    /// Identify Namespace data that no I/O command set owns (CNS 08h).
    pub struct IdentifyNamespaceIndependent: 4096 {
        /// Features, of which only the bits that are common to all command sets.
        pub nsfeat: NsFeat,
        /// Sharing (NMIC).
        pub nmic: Nmic,
        /// Reservation capabilities (RESCAP).
        pub rescap: u8,
        /// Format progress (FPI).
        pub fpi: u8,
        /// ANA group (ANAGRPID).
        pub anagrpid: U32,
        /// Attributes (NSATTR).
        pub nsattr: NsAttr,
        #[doc(hidden)]
        pub _reserved9: u8,
        /// NVM set (NVMSETID).
        pub nvmsetid: U16,
        /// Endurance group (ENDGID).
        pub endgid: U16,
        /// Status (NSTAT).
        pub nstat: NsStatus,
        #[doc(hidden)]
        pub _reserved15: [u8; 4081],
    }
}
