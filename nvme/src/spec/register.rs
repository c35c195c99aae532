//! Controller properties (clause 3.1.3): registers of a PCIe controller, and
//! what Property Get and Set reach over a fabric. Offsets are in bytes.

/// Offsets of the properties; on PCIe, in BAR 0.
pub mod offset {
    /// Controller Capabilities (CAP), 8 bytes.
    pub const CAP: u32 = 0x00;
    /// Version (VS).
    pub const VS: u32 = 0x08;
    /// Interrupt Mask Set (INTMS), PCIe only.
    pub const INTMS: u32 = 0x0c;
    /// Interrupt Mask Clear (INTMC), PCIe only.
    pub const INTMC: u32 = 0x10;
    /// Controller Configuration (CC).
    pub const CC: u32 = 0x14;
    /// Controller Status (CSTS).
    pub const CSTS: u32 = 0x1c;
    /// NVM Subsystem Reset (NSSR).
    pub const NSSR: u32 = 0x20;
    /// Admin Queue Attributes (AQA), PCIe only.
    pub const AQA: u32 = 0x24;
    /// Admin Submission Queue Base Address (ASQ), 8 bytes, PCIe only.
    pub const ASQ: u32 = 0x28;
    /// Admin Completion Queue Base Address (ACQ), 8 bytes, PCIe only.
    pub const ACQ: u32 = 0x30;
    /// Controller Memory Buffer Location (CMBLOC), PCIe only.
    pub const CMBLOC: u32 = 0x38;
    /// Controller Memory Buffer Size (CMBSZ), PCIe only.
    pub const CMBSZ: u32 = 0x3c;
    /// Controller Memory Buffer Memory Space Control (CMBMSC), 8 bytes, PCIe only.
    pub const CMBMSC: u32 = 0x50;
    /// Controller Memory Buffer Status (CMBSTS), PCIe only.
    pub const CMBSTS: u32 = 0x58;
    /// Controller Ready Timeouts (CRTO).
    pub const CRTO: u32 = 0x68;
    /// Persistent Memory Region Capabilities (PMRCAP), PCIe only.
    pub const PMRCAP: u32 = 0xe00;
    /// Persistent Memory Region Control (PMRCTL), PCIe only.
    pub const PMRCTL: u32 = 0xe04;
    /// Persistent Memory Region Status (PMRSTS), PCIe only.
    pub const PMRSTS: u32 = 0xe08;
    /// Persistent Memory Region Memory Space Control, low dword (PMRMSCL), PCIe only.
    pub const PMRMSCL: u32 = 0xe14;
    /// The high dword of the same (PMRMSCU), PCIe only.
    pub const PMRMSCU: u32 = 0xe18;
    /// First doorbell, PCIe only.
    pub const DOORBELLS: u32 = 0x1000;

    /// Doorbell of a submission queue's tail; `dstrd` as CAP gives it.
    pub const fn sq_tail(qid: u16, dstrd: u8) -> u32 {
        doorbell(2 * qid as u32, dstrd)
    }

    /// Doorbell of a completion queue's head; `dstrd` as CAP gives it.
    pub const fn cq_head(qid: u16, dstrd: u8) -> u32 {
        doorbell(2 * qid as u32 + 1, dstrd)
    }

    /// CAP.DSTRD has four bits, so the result stays below 2^32 + 2^13: the
    /// largest stride with the largest queue wraps, and no controller has both.
    const fn doorbell(index: u32, dstrd: u8) -> u32 {
        DOORBELLS.wrapping_add(index.wrapping_mul(4 << (dstrd & 0xf)))
    }
}

bits! {
    /// Controller Capabilities (CAP).
    pub struct Cap: u64 {
        /// Most entries of an I/O queue, zero-based (MQES).
        pub mqes_z: u16,
        /// Queues must be contiguous (CQR).
        pub cqr: bool,
        /// Arbitration mechanisms beyond round robin (AMS).
        #[bits(2)]
        pub ams: u8,
        #[bits(5)]
        __: u8,
        /// Longest wait for CSTS.RDY, in units of 500 ms (TO).
        pub to: u8,
        /// Doorbells are 4 << this many bytes apart (DSTRD).
        #[bits(4)]
        pub dstrd: u8,
        /// NVM Subsystem Reset supported (NSSRS).
        pub nssrs: bool,
        /// The NVM command set is supported (CSS bit 0).
        pub css_nvm: bool,
        #[bits(5)]
        __: u8,
        /// One or more I/O command sets, chosen by CSI (CSS bit 6).
        pub css_multiple: bool,
        /// No I/O command set (CSS bit 7).
        pub css_admin_only: bool,
        /// Boot partitions (BPS).
        pub bps: bool,
        /// Controller power scope (CPS).
        #[bits(2)]
        pub cps: u8,
        /// Smallest memory page, 2^(12 + this) bytes (MPSMIN).
        #[bits(4)]
        pub mpsmin: u8,
        /// Largest memory page, 2^(12 + this) bytes (MPSMAX).
        #[bits(4)]
        pub mpsmax: u8,
        /// Persistent memory region supported (PMRS).
        pub pmrs: bool,
        /// Controller memory buffer supported, enabled by CMBMSC (CMBS).
        pub cmbs: bool,
        /// NVM Subsystem Shutdown supported (NSSS).
        pub nsss: bool,
        /// Ready with media supported (CRMS bit 0).
        pub crwms: bool,
        /// Ready independent of media supported (CRMS bit 1).
        pub crims: bool,
        #[bits(3)]
        __: u8,
    }
}

bits! {
    /// Version (VS).
    pub struct Version: u32 {
        /// Tertiary version (TER).
        pub tertiary: u8,
        /// Minor version (MNR).
        pub minor: u8,
        /// Major version (MJR).
        pub major: u16,
    }
}

impl Version {
    /// 1.4.0, from which CMBMSC governs the controller memory buffer.
    pub const V1_4: Self = Self::of(1, 4, 0);
    /// 2.0.0.
    pub const V2_0: Self = Self::of(2, 0, 0);

    /// A version by its numbers.
    pub const fn of(major: u16, minor: u8, tertiary: u8) -> Self {
        Self::new()
            .with_major(major)
            .with_minor(minor)
            .with_tertiary(tertiary)
    }
}

codes! {
    /// I/O command set selected (CC.CSS).
    pub enum CommandSetSelected {
        /// NVM command set only.
        Nvm = 0,
        /// All command sets, by CSI.
        All = 6,
        /// Admin commands only.
        AdminOnly = 7,
    }
}

codes! {
    /// Shutdown notification (CC.SHN).
    pub enum ShutdownNotification {
        /// No shutdown.
        None = 0,
        /// Normal shutdown.
        Normal = 1,
        /// Abrupt shutdown.
        Abrupt = 2,
    }
}

bits! {
    /// Controller Configuration (CC).
    pub struct Cc: u32 {
        /// Enable (EN).
        pub en: bool,
        #[bits(3)]
        __: u8,
        /// I/O command set selected (CSS).
        #[bits(3)]
        pub css: CommandSetSelected,
        /// Memory page size, 2^(12 + this) bytes (MPS).
        #[bits(4)]
        pub mps: u8,
        /// Arbitration mechanism (AMS).
        #[bits(3)]
        pub ams: u8,
        /// Shutdown notification (SHN).
        #[bits(2)]
        pub shn: ShutdownNotification,
        /// I/O submission queue entry size, as a power of two (IOSQES).
        #[bits(4)]
        pub iosqes: u8,
        /// I/O completion queue entry size, as a power of two (IOCQES).
        #[bits(4)]
        pub iocqes: u8,
        /// Controller ready independent of media enable (CRIME).
        pub crime: bool,
        #[bits(7)]
        __: u8,
    }
}

codes! {
    /// Shutdown status (CSTS.SHST).
    pub enum ShutdownStatus {
        /// Normal operation.
        Normal = 0,
        /// Shutdown is going on.
        Occurring = 1,
        /// Shutdown is complete.
        Complete = 2,
    }
}

bits! {
    /// Controller Status (CSTS).
    pub struct Csts: u32 {
        /// Ready (RDY).
        pub rdy: bool,
        /// Controller fatal status (CFS).
        pub cfs: bool,
        /// Shutdown status (SHST).
        #[bits(2)]
        pub shst: ShutdownStatus,
        /// NVM subsystem reset occurred (NSSRO).
        pub nssro: bool,
        /// Processing paused (PP).
        pub pp: bool,
        /// Shutdown type: of the subsystem (ST).
        pub st: bool,
        #[bits(25)]
        __: u32,
    }
}

bits! {
    /// Admin Queue Attributes (AQA).
    pub struct Aqa: u32 {
        /// Entries of the submission queue, zero-based (ASQS).
        #[bits(12)]
        pub asqs_z: u16,
        #[bits(4)]
        __: u8,
        /// Entries of the completion queue, zero-based (ACQS).
        #[bits(12)]
        pub acqs_z: u16,
        #[bits(4)]
        __: u8,
    }
}

bits! {
    /// Controller Memory Buffer Location (CMBLOC).
    pub struct CmbLoc: u32 {
        /// The BAR that holds it (BIR).
        #[bits(3)]
        pub bir: u8,
        /// Queue memory may be mixed (CQMMS).
        pub cqmms: bool,
        /// Queues may be physically discontiguous (CQPDS).
        pub cqpds: bool,
        /// PRP and SGL lists in it may point outside (CDPLMS).
        pub cdplms: bool,
        /// Pointers in commands in it may point outside (CDPCILS).
        pub cdpcils: bool,
        /// Data and metadata may be mixed (CDMMMS).
        pub cdmmms: bool,
        /// Queue dword alignment is demanded (CQDA).
        pub cqda: bool,
        #[bits(3)]
        __: u8,
        /// Offset in the BAR, in units of [`CmbSz::unit_bytes`] (OFST).
        #[bits(20)]
        pub offset_units: u32,
    }
}

bits! {
    /// Controller Memory Buffer Size (CMBSZ).
    pub struct CmbSz: u32 {
        /// May hold submission queues (SQS).
        pub sqs: bool,
        /// May hold completion queues (CQS).
        pub cqs: bool,
        /// May hold PRP and SGL lists (LISTS).
        pub lists: bool,
        /// May hold data of commands that read: controller to host (RDS).
        pub rds: bool,
        /// May hold data of commands that write: host to controller (WDS).
        pub wds: bool,
        #[bits(3)]
        __: u8,
        /// Unit, 4 KiB times 16 to the power of this (SZU).
        #[bits(4)]
        pub unit: u8,
        /// Size, in units (SZ).
        #[bits(20)]
        pub size_units: u32,
    }
}

impl CmbSz {
    /// Bytes of a unit; `None` for the reserved values above 64 GiB.
    pub const fn unit_bytes(&self) -> Option<u64> {
        match self.unit() {
            unit @ 0..=6 => Some(4096 << (4 * unit as u32)),
            _ => None,
        }
    }
}

bits! {
    /// Controller Memory Buffer Memory Space Control (CMBMSC).
    pub struct CmbMsc: u64 {
        /// CMBLOC and CMBSZ shall tell the truth (CRE).
        pub cre: bool,
        /// The controller answers to addresses from CBA (CMSE).
        pub cmse: bool,
        #[bits(10)]
        __: u16,
        /// Base address as the controller shall know it, in 4 KiB units (CBA).
        #[bits(52)]
        pub cba_pages: u64,
    }
}

bits! {
    /// Controller Memory Buffer Status (CMBSTS).
    pub struct CmbSts: u32 {
        /// The base address in CMBMSC was not accepted (CBAI).
        pub cbai: bool,
        #[bits(31)]
        __: u32,
    }
}

bits! {
    /// Controller Ready Timeouts (CRTO).
    pub struct Crto: u32 {
        /// Longest wait until ready with media, in units of 500 ms (CRWMT).
        pub with_media: u16,
        /// Longest wait until ready independent of media, in units of 500 ms (CRIMT).
        pub independent: u16,
    }
}

/// The value that NSSR takes to reset the subsystem: "NVMe".
pub const NSSR_RESET: u32 = 0x4e56_4d65;
