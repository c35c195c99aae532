//! Admin commands: the 64 bytes as each of them reads (clause 5).

use zerocopy::little_endian::{U16, U32, U64};

use super::{Cdw0, DataPtr};

bits! {
    /// Queue identifier and size, dword 10 of both queue creation commands.
    pub struct QueueIdSize: u32 {
        /// Queue identifier (QID).
        pub qid: u16,
        /// Entries, zero-based (QSIZE).
        pub qsize_z: u16,
    }
}

bits! {
    /// Dword 11 of Create I/O Completion Queue.
    pub struct CreateCqFlags: u32 {
        /// The queue is physically contiguous (PC).
        pub pc: bool,
        /// Interrupts enabled (IEN).
        pub ien: bool,
        #[bits(14)]
        __: u16,
        /// Interrupt vector (IV).
        pub iv: u16,
    }
}

command! {
    /// Create I/O Completion Queue (clause 5.4).
    pub struct CreateIoCq {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 20],
        /// Address of the queue, or of its PRP list.
        pub prp1: U64,
        #[doc(hidden)]
        pub _reserved32: [u8; 8],
        /// Which queue, how many entries.
        pub queue: QueueIdSize,
        /// Contiguity and interrupt.
        pub flags: CreateCqFlags,
        #[doc(hidden)]
        pub _reserved48: [u8; 16],
    }
}

command! {
    /// Doorbell Buffer Config (clause 5.8).
    pub struct DoorbellBufferConfig {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 20],
        /// Address of the page of shadow doorbells, as the host writes them.
        pub doorbells: U64,
        /// Address of the page of EventIdx, as the controller writes them.
        pub event_indexes: U64,
        #[doc(hidden)]
        pub _reserved40: [u8; 24],
    }
}

bits! {
    /// Dword 11 of Create I/O Submission Queue.
    pub struct CreateSqFlags: u32 {
        /// The queue is physically contiguous (PC).
        pub pc: bool,
        /// Priority, for weighted round robin (QPRIO).
        #[bits(2)]
        pub qprio: u8,
        #[bits(13)]
        __: u16,
        /// The completion queue that it uses (CQID).
        pub cqid: u16,
    }
}

command! {
    /// Create I/O Submission Queue (clause 5.5).
    pub struct CreateIoSq {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 20],
        /// Address of the queue, or of its PRP list.
        pub prp1: U64,
        #[doc(hidden)]
        pub _reserved32: [u8; 8],
        /// Which queue, how many entries.
        pub queue: QueueIdSize,
        /// Contiguity, priority, completion queue.
        pub flags: CreateSqFlags,
        #[doc(hidden)]
        pub _reserved48: [u8; 16],
    }
}

command! {
    /// Delete I/O Completion Queue and Delete I/O Submission Queue (clauses 5.6, 5.7).
    pub struct DeleteIoQueue {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 36],
        /// Queue identifier (QID).
        pub qid: U16,
        #[doc(hidden)]
        pub _reserved42: [u8; 22],
    }
}

command! {
    /// Abort (clause 5.1).
    pub struct Abort {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 36],
        /// Submission queue of the command to abort (SQID).
        pub sqid: U16,
        /// Its command identifier (CID).
        pub cid: U16,
        #[doc(hidden)]
        pub _reserved44: [u8; 20],
    }
}

bits! {
    /// Dword 0 of Abort's completion.
    pub struct AbortResult: u32 {
        /// The command was *not* aborted.
        pub not_aborted: bool,
        #[bits(31)]
        __: u32,
    }
}

codes! {
    /// Asynchronous event type (clause 5.2.1).
    pub enum AsyncEventType {
        /// An error that no command reports.
        Error = 0,
        /// SMART or health.
        Smart = 1,
        /// A notice.
        Notice = 2,
        /// Specific to an I/O command set.
        CommandSet = 6,
        /// Defined by a vendor.
        Vendor = 7,
    }
}

codes! {
    /// Asynchronous event information of a notice.
    pub enum NoticeInfo {
        /// The set of attached namespaces, or their Identify data, changed.
        NamespaceAttributeChanged = 0x00,
        /// Firmware activation is starting.
        FirmwareActivationStarting = 0x01,
        /// The telemetry log changed.
        TelemetryLogChanged = 0x02,
        /// The ANA log changed.
        AnaChange = 0x03,
        /// The discovery log page changed.
        DiscoveryLogChange = 0xf0,
    }
}

bits! {
    /// Dword 0 of Asynchronous Event Request's completion (clause 5.2.1).
    pub struct AsyncEventResult: u32 {
        /// Type.
        #[bits(3)]
        pub event_type: AsyncEventType,
        #[bits(5)]
        __: u8,
        /// Information; [`NoticeInfo`] for a notice.
        pub information: u8,
        /// The log page that says more, and re-arms the event when read.
        pub log_page: u8,
        __: u8,
    }
}

codes! {
    /// Controller or namespace structure to identify (CNS, clause 5.17.1).
    pub enum Cns {
        /// Identify Namespace data of the NVM command set.
        Namespace = 0x00,
        /// Identify Controller data.
        Controller = 0x01,
        /// Active namespace identifiers above NSID.
        ActiveNamespaces = 0x02,
        /// Namespace identification descriptors.
        NamespaceDescriptors = 0x03,
        /// NVM set list.
        NvmSets = 0x04,
        /// Namespace data of the I/O command set in CSI.
        CommandSetNamespace = 0x05,
        /// Controller data of the I/O command set in CSI.
        CommandSetController = 0x06,
        /// Active namespaces of the I/O command set in CSI.
        CommandSetActiveNamespaces = 0x07,
        /// Namespace data that no I/O command set owns.
        IndependentNamespace = 0x08,
        /// Allocated namespace identifiers.
        AllocatedNamespaces = 0x10,
        /// Identify Namespace data of an allocated namespace.
        AllocatedNamespace = 0x11,
        /// Controllers that a namespace is attached to.
        NamespaceControllers = 0x12,
        /// Controllers of the subsystem.
        Controllers = 0x13,
        /// Primary controller capabilities.
        PrimaryControllerCapabilities = 0x14,
        /// Secondary controllers.
        SecondaryControllers = 0x15,
        /// UUID list.
        UuidList = 0x17,
        /// Domain list.
        Domains = 0x18,
        /// Endurance groups.
        EnduranceGroups = 0x19,
        /// I/O command set combinations.
        CommandSets = 0x1c,
    }
}

codes! {
    /// Command set identifier (CSI).
    pub enum Csi {
        /// NVM command set.
        Nvm = 0x00,
        /// Key value command set.
        KeyValue = 0x01,
        /// Zoned namespace command set.
        Zoned = 0x02,
    }
}

command! {
    /// Identify (clause 5.17).
    pub struct Identify {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace, or where a list starts.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 16],
        /// Where the 4096 bytes go.
        pub dptr: DataPtr,
        /// Which structure (CNS).
        pub cns: Cns,
        #[doc(hidden)]
        pub _reserved41: [u8; 1],
        /// Controller identifier (CNTID).
        pub cntid: U16,
        /// Identifier specific to CNS.
        pub cnssid: U16,
        #[doc(hidden)]
        pub _reserved46: [u8; 1],
        /// I/O command set (CSI).
        pub csi: Csi,
        #[doc(hidden)]
        pub _reserved48: [u8; 8],
        /// UUID index.
        pub uuid_index: U32,
        #[doc(hidden)]
        pub _reserved60: [u8; 4],
    }
}

codes! {
    /// Log page identifier (LID, clause 5.16.1).
    pub enum LogId {
        /// Supported log pages.
        SupportedLogPages = 0x00,
        /// Error information.
        Error = 0x01,
        /// SMART / health information.
        Smart = 0x02,
        /// Firmware slot information.
        FirmwareSlot = 0x03,
        /// Changed namespace list.
        ChangedNamespaces = 0x04,
        /// Commands supported and effects.
        CommandEffects = 0x05,
        /// Device self-test.
        DeviceSelfTest = 0x06,
        /// Telemetry, begun by the host.
        TelemetryHost = 0x07,
        /// Telemetry, begun by the controller.
        TelemetryController = 0x08,
        /// Endurance group information.
        EnduranceGroup = 0x09,
        /// Asymmetric namespace access.
        Ana = 0x0c,
        /// Persistent event log.
        PersistentEvent = 0x0d,
        /// Feature identifiers supported and effects.
        FeatureEffects = 0x12,
        /// Management interface commands supported and effects.
        MiCommandEffects = 0x13,
        /// Discovery.
        Discovery = 0x70,
        /// Reservation notification.
        Reservation = 0x80,
        /// Sanitize status.
        Sanitize = 0x81,
    }
}

bits! {
    /// Dword 10 of Get Log Page.
    pub struct GetLogPageCdw10: u32 {
        /// Log page identifier (LID).
        #[bits(8)]
        pub lid: LogId,
        /// Specific to the log (LSP).
        #[bits(7)]
        pub lsp: u8,
        /// Retain asynchronous event (RAE).
        pub rae: bool,
        /// Number of dwords, lower half, zero-based together with NUMDU (NUMDL).
        pub numdl: u16,
    }
}

bits! {
    /// Dword 14 of Get Log Page.
    pub struct GetLogPageCdw14: u32 {
        /// UUID index.
        #[bits(7)]
        pub uuid_index: u8,
        #[bits(16)]
        __: u16,
        /// The offset counts entries, not bytes (OT).
        pub offset_is_index: bool,
        /// I/O command set (CSI).
        #[bits(8)]
        pub csi: Csi,
    }
}

command! {
    /// Get Log Page (clause 5.16).
    pub struct GetLogPage {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace, or all.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 16],
        /// Where the bytes go.
        pub dptr: DataPtr,
        /// Which log, and the lower half of the length.
        pub cdw10: GetLogPageCdw10,
        /// Number of dwords, upper half (NUMDU).
        pub numdu: U16,
        /// Specific to the log (LSI).
        pub lsi: U16,
        /// Where in the log to begin, in bytes unless the offset type says
        /// entries (LPOL and LPOU).
        pub lpo: U64,
        /// Offset type, command set.
        pub cdw14: GetLogPageCdw14,
        #[doc(hidden)]
        pub _reserved60: [u8; 4],
    }
}

impl GetLogPage {
    /// Bytes asked for: NUMDU and NUMDL together are one zero-based 32-bit count
    /// of dwords, so this is 4 to 2^34.
    pub fn len_bytes(&self) -> u64 {
        let dwords_z = u64::from(self.numdu.get()) << 16 | u64::from(self.cdw10.numdl());
        (dwords_z + 1) * 4
    }

    /// Asks for `dwords` dwords (1 to 2^32; outside of it, the nearest end).
    #[must_use]
    pub fn with_len_dwords(mut self, dwords: u64) -> Self {
        let dwords_z = dwords.clamp(1, 1 << 32) - 1;
        self.cdw10.set_numdl((dwords_z & 0xffff) as u16);
        self.numdu = U16::new((dwords_z >> 16) as u16);
        self
    }
}

command! {
    /// Keep Alive (clause 5.18).
    pub struct KeepAlive {
        /// Command dword 0.
        pub cdw0: Cdw0,
        #[doc(hidden)]
        pub _reserved4: [u8; 60],
    }
}
