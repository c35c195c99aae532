//! Identify Controller data (clause 5.17.2.1) and that of the NVM command set
//! (NVM 4.1.5.2).

use zerocopy::little_endian::{U16, U32, U64, U128};

use super::{
    AnaCap, Ascii, Cmic, Ctratt, Fcatt, Fna, Frmw, Fuses, Lpa, NqnField, Oacs, Oaes, Ofcs, Oncs,
    QueueEntrySizes, Sgls, Version, Vwc,
};

codes! {
    /// Controller type (CNTRLTYPE).
    pub enum ControllerType {
        /// Not reported, as before 1.4.
        Unreported = 0,
        /// An I/O controller.
        Io = 1,
        /// A discovery controller.
        Discovery = 2,
        /// An administrative controller.
        Administrative = 3,
    }
}

bits! {
    /// Flags of a power state.
    pub struct PowerStateFlags: u8 {
        /// Maximum power is in 0.0001 W, not 0.01 W (MXPS).
        pub fine_scale: bool,
        /// Non-operational (NOPS).
        pub non_operational: bool,
        #[bits(6)]
        __: u8,
    }
}

wire! {
    /// Power state descriptor (PSD).
    pub struct PowerState: 32 {
        /// Maximum power (MP), in 0.01 W unless the flags say otherwise.
        pub max_power: U16,
        #[doc(hidden)]
        pub _reserved2: u8,
        /// Scale, and whether operational.
        pub flags: PowerStateFlags,
        /// Entry latency (ENLAT), in µs.
        pub entry_latency_us: U32,
        /// Exit latency (EXLAT), in µs.
        pub exit_latency_us: U32,
        /// Relative read throughput (RRT).
        pub read_throughput: u8,
        /// Relative read latency (RRL).
        pub read_latency: u8,
        /// Relative write throughput (RWT).
        pub write_throughput: u8,
        /// Relative write latency (RWL).
        pub write_latency: u8,
        /// Idle power (IDLP).
        pub idle_power: U16,
        /// Idle power scale, in the upper two bits (IPS).
        pub idle_power_scale: u8,
        #[doc(hidden)]
        pub _reserved19: u8,
        /// Active power (ACTP).
        pub active_power: U16,
        /// Active power workload and scale (APW, APS).
        pub active_power_scale: u8,
        #[doc(hidden)]
        pub _reserved23: [u8; 9],
    }
}

wire! {
    /// Identify Controller data (CNS 01h). A default value has zeros in its
    /// text fields; set them.
    pub struct IdentifyController: 4096 {
        /// PCI vendor (VID).
        pub vid: U16,
        /// PCI subsystem vendor (SSVID).
        pub ssvid: U16,
        /// Serial number (SN).
        pub sn: Ascii<20>,
        /// Model number (MN).
        pub mn: Ascii<40>,
        /// Firmware revision (FR).
        pub fr: Ascii<8>,
        /// Recommended arbitration burst, as a power of two (RAB).
        pub rab: u8,
        /// IEEE OUI, lowest byte first (IEEE).
        pub ieee: [u8; 3],
        /// Multi-path I/O and sharing (CMIC).
        pub cmic: Cmic,
        /// Longest transfer, 2^this pages of CAP.MPSMIN, 0 for no limit (MDTS).
        pub mdts: u8,
        /// Controller identifier (CNTLID).
        pub cntlid: U16,
        /// Version (VER).
        pub ver: Version,
        /// RTD3 resume latency (RTD3R), in µs.
        pub rtd3r_us: U32,
        /// RTD3 entry latency (RTD3E), in µs.
        pub rtd3e_us: U32,
        /// Optional asynchronous events (OAES).
        pub oaes: Oaes,
        /// Attributes (CTRATT).
        pub ctratt: Ctratt,
        /// Read recovery levels (RRLS).
        pub rrls: U16,
        #[doc(hidden)]
        pub _reserved102: [u8; 9],
        /// Controller type (CNTRLTYPE).
        pub cntrltype: ControllerType,
        /// FRU globally unique identifier (FGUID).
        pub fguid: [u8; 16],
        /// Command retry delays 1 to 3 (CRDT1 to CRDT3), in units of 100 ms.
        pub crdt: [U16; 3],
        #[doc(hidden)]
        pub _reserved134: [u8; 119],
        /// NVM subsystem report (NVMSR).
        pub nvmsr: u8,
        /// Vital product data write cycles (VWCI).
        pub vwci: u8,
        /// Management endpoint capabilities (MEC).
        pub mec: u8,
        /// Optional admin commands (OACS).
        pub oacs: Oacs,
        /// Abort commands at once, zero-based (ACL).
        pub acl_z: u8,
        /// Asynchronous Event Requests at once, zero-based (AERL).
        pub aerl_z: u8,
        /// Firmware updates (FRMW).
        pub frmw: Frmw,
        /// Log page attributes (LPA).
        pub lpa: Lpa,
        /// Error log entries, zero-based (ELPE).
        pub elpe_z: u8,
        /// Power states, zero-based (NPSS).
        pub npss_z: u8,
        /// Admin vendor-specific command configuration (AVSCC).
        pub avscc: u8,
        /// Autonomous power state transitions (APSTA).
        pub apsta: u8,
        /// Warning temperature (WCTEMP), in kelvins.
        pub wctemp_k: U16,
        /// Critical temperature (CCTEMP), in kelvins.
        pub cctemp_k: U16,
        /// Longest firmware activation (MTFA), in units of 100 ms.
        pub mtfa: U16,
        /// Host memory buffer preferred (HMPRE), in units of 4 KiB.
        pub hmpre: U32,
        /// Host memory buffer minimum (HMMIN), in units of 4 KiB.
        pub hmmin: U32,
        /// Total capacity (TNVMCAP), in bytes.
        pub tnvmcap: U128,
        /// Unallocated capacity (UNVMCAP), in bytes.
        pub unvmcap: U128,
        /// Replay protected memory block support (RPMBS).
        pub rpmbs: U32,
        /// Extended self-test time (EDSTT), in minutes.
        pub edstt_min: U16,
        /// Self-test options (DSTO).
        pub dsto: u8,
        /// Firmware update granularity (FWUG), in units of 4 KiB.
        pub fwug: u8,
        /// Keep alive granularity (KAS), in units of 100 ms, 0 for no keep alive.
        pub kas: U16,
        /// Host controlled thermal management (HCTMA).
        pub hctma: U16,
        /// Lowest thermal management temperature (MNTMT), in kelvins.
        pub mntmt_k: U16,
        /// Highest thermal management temperature (MXTMT), in kelvins.
        pub mxtmt_k: U16,
        /// Sanitize capabilities (SANICAP).
        pub sanicap: U32,
        /// Smallest host memory buffer entry (HMMINDS), in units of 4 KiB.
        pub hmminds: U32,
        /// Most host memory buffer entries (HMMAXD).
        pub hmmaxd: U16,
        /// Greatest NVM set identifier (NSETIDMAX).
        pub nsetidmax: U16,
        /// Greatest endurance group identifier (ENDGIDMAX).
        pub endgidmax: U16,
        /// ANA transition time (ANATT), in seconds.
        pub anatt_s: u8,
        /// ANA capabilities (ANACAP).
        pub anacap: AnaCap,
        /// Greatest ANA group identifier (ANAGRPMAX).
        pub anagrpmax: U32,
        /// Number of ANA groups (NANAGRPID).
        pub nanagrpid: U32,
        /// Persistent event log size (PELS), in units of 64 KiB.
        pub pels: U32,
        /// Domain (DOMAINID).
        pub domainid: U16,
        #[doc(hidden)]
        pub _reserved358: [u8; 10],
        /// Greatest endurance group capacity (MEGCAP), in bytes.
        pub megcap: U128,
        #[doc(hidden)]
        pub _reserved384: [u8; 128],
        /// Submission queue entry sizes (SQES).
        pub sqes: QueueEntrySizes,
        /// Completion queue entry sizes (CQES).
        pub cqes: QueueEntrySizes,
        /// Most outstanding commands of a queue (MAXCMD).
        pub maxcmd: U16,
        /// Greatest namespace identifier (NN).
        pub nn: U32,
        /// Optional NVM commands (ONCS).
        pub oncs: Oncs,
        /// Fused operations (FUSES).
        pub fuses: Fuses,
        /// Format attributes (FNA).
        pub fna: Fna,
        /// Volatile write cache (VWC).
        pub vwc: Vwc,
        /// Atomic write unit, normal, zero-based, in logical blocks (AWUN).
        pub awun_z: U16,
        /// Atomic write unit, power fail, zero-based, in logical blocks (AWUPF).
        pub awupf_z: U16,
        /// I/O command set vendor-specific command configuration (ICSVSCC).
        pub icsvscc: u8,
        /// Namespace write protection (NWPC).
        pub nwpc: u8,
        /// Atomic compare and write unit, zero-based, in logical blocks (ACWU).
        pub acwu_z: U16,
        /// Copy descriptor formats, one bit each.
        pub copy_formats: U16,
        /// SGL support (SGLS).
        pub sgls: Sgls,
        /// Most allowed namespaces, 0 for NN (MNAN).
        pub mnan: U32,
        /// Most domain namespace attachments (MAXDNA).
        pub maxdna: U128,
        /// Most namespaces attached to an I/O controller (MAXCNA).
        pub maxcna: U32,
        #[doc(hidden)]
        pub _reserved564: [u8; 204],
        /// Subsystem's name (SUBNQN).
        pub subnqn: NqnField,
        #[doc(hidden)]
        pub _reserved1024: [u8; 768],
        /// I/O capsule size, command and in-capsule data (IOCCSZ), in units of 16 bytes.
        pub ioccsz: U32,
        /// I/O response capsule size (IORCSZ), in units of 16 bytes.
        pub iorcsz: U32,
        /// In-capsule data offset from the end of the SQE (ICDOFF), in units of 16 bytes.
        pub icdoff: U16,
        /// Controller attributes on a fabric (FCATT).
        pub fcatt: Fcatt,
        /// Most data block descriptors of a list, 0 for no limit (MSDBD).
        pub msdbd: u8,
        /// Optional fabrics commands (OFCS).
        pub ofcs: Ofcs,
        /// Discovery controller type (DCTYPE).
        pub dctype: u8,
        #[doc(hidden)]
        pub _reserved1807: [u8; 241],
        /// Power states (PSD0 to PSD31).
        pub psd: [PowerState; 32],
        /// Vendor specific.
        pub vendor: [u8; 1024],
    }
}

wire! {
    /// Identify Controller data of the NVM command set (CNS 06h, CSI 0).
    pub struct IdentifyControllerNvm: 4096 {
        /// Longest Verify, 2^this pages of CAP.MPSMIN, 0 for no word on it (VSL).
        pub vsl: u8,
        /// Longest Write Zeroes, likewise (WZSL).
        pub wzsl: u8,
        /// Longest Write Uncorrectable, likewise (WUSL).
        pub wusl: u8,
        /// Most ranges of a Dataset Management, 0 for no word on it (DMRL).
        pub dmrl: u8,
        /// Most logical blocks of one range (DMRSL).
        pub dmrsl: U32,
        /// Most logical blocks of all ranges (DMSL).
        pub dmsl: U64,
        #[doc(hidden)]
        pub _reserved16: [u8; 4080],
    }
}
