//! Discovery log page (clause 5.16.1.23; RDMA for its transport-specific part).

use zerocopy::little_endian::{U16, U64};

use super::NqnField;

codes! {
    /// Transport type (TRTYPE).
    pub enum TransportType {
        /// Not indicated.
        Unspecified = 0,
        /// RDMA.
        Rdma = 1,
        /// Fibre Channel.
        FibreChannel = 2,
        /// TCP.
        Tcp = 3,
        /// Within one host.
        Loop = 254,
    }
}

codes! {
    /// Address family (ADRFAM).
    pub enum AddressFamily {
        /// Not given by an address family.
        Unspecified = 0,
        /// IPv4.
        Ipv4 = 1,
        /// IPv6.
        Ipv6 = 2,
        /// InfiniBand.
        InfiniBand = 3,
        /// Fibre Channel.
        FibreChannel = 4,
        /// Within one host.
        Loop = 254,
    }
}

codes! {
    /// Subsystem type (SUBTYPE).
    pub enum SubsystemType {
        /// A referral to another discovery service.
        Referral = 1,
        /// A subsystem with I/O controllers.
        Nvm = 2,
        /// The discovery subsystem that gives this log.
        CurrentDiscovery = 3,
    }
}

codes! {
    /// Whether a secure channel is required.
    pub enum SecureChannel {
        /// Not specified.
        Unspecified = 0,
        /// Required.
        Required = 1,
        /// Not required.
        NotRequired = 2,
    }
}

bits! {
    /// Transport requirements (TREQ).
    pub struct Treq: u8 {
        /// Secure channel.
        #[bits(2)]
        pub secure_channel: SecureChannel,
        /// Submission queue flow control can be disabled.
        pub disable_sq_flow_control: bool,
        #[bits(5)]
        __: u8,
    }
}

bits! {
    /// Entry flags (EFLAGS).
    pub struct EntryFlags: u16 {
        /// Duplicate returned information: other entries say the same of it (DUPRETINFO).
        pub duplicate: bool,
        /// Explicit persistent connections are supported (EPCSD).
        pub persistent: bool,
        /// No discovery controller behind this entry knows a CDC (NCC).
        pub no_cdc: bool,
        #[bits(13)]
        __: u16,
    }
}

codes! {
    /// RDMA queue pair service type (RDMA_QPTYPE).
    pub enum RdmaQpType {
        /// Reliable connected.
        Connected = 1,
        /// Reliable datagram.
        Datagram = 2,
    }
}

codes! {
    /// RDMA provider type (RDMA_PRTYPE).
    pub enum RdmaProvider {
        /// None given.
        Unspecified = 1,
        /// InfiniBand.
        InfiniBand = 2,
        /// RoCE version 1.
        Roce = 3,
        /// RoCE version 2.
        RoceV2 = 4,
        /// iWARP.
        Iwarp = 5,
    }
}

codes! {
    /// RDMA connection management service (RDMA_CMS).
    pub enum RdmaCms {
        /// RDMA_IP_CM.
        RdmaCm = 1,
    }
}

wire! {
    /// Transport specific address subtype of RDMA (TSAS).
    pub struct RdmaTsas: 256 {
        /// Queue pair service type.
        pub qptype: RdmaQpType,
        /// Provider type.
        pub prtype: RdmaProvider,
        /// Connection management.
        pub cms: RdmaCms,
        #[doc(hidden)]
        pub _reserved3: [u8; 5],
        /// Partition key, for the InfiniBand address family.
        pub pkey: U16,
        #[doc(hidden)]
        pub _reserved10: [u8; 246],
    }
}

impl RdmaTsas {
    /// What a target on RoCE version 2 says of itself.
    pub fn roce_v2() -> Self {
        Self {
            qptype: RdmaQpType::Connected,
            prtype: RdmaProvider::RoceV2,
            cms: RdmaCms::RdmaCm,
            ..Self::default()
        }
    }
}

wire! {
    /// Discovery log page entry.
    pub struct DiscoveryEntry: 1024 {
        /// Transport type (TRTYPE).
        pub trtype: TransportType,
        /// Address family (ADRFAM).
        pub adrfam: AddressFamily,
        /// Subsystem type (SUBTYPE).
        pub subtype: SubsystemType,
        /// Transport requirements (TREQ).
        pub treq: Treq,
        /// Port (PORTID).
        pub portid: U16,
        /// Controller; FFFFh for the dynamic model (CNTLID).
        pub cntlid: U16,
        /// Most entries of the admin submission queue (ASQSZ), not zero-based.
        pub asqsz: U16,
        /// Flags (EFLAGS).
        pub eflags: EntryFlags,
        #[doc(hidden)]
        pub _reserved12: [u8; 20],
        /// Transport service identifier: a port number in decimal, padded with
        /// spaces (TRSVCID).
        pub trsvcid: super::Ascii<32>,
        #[doc(hidden)]
        pub _reserved64: [u8; 192],
        /// Subsystem's name (SUBNQN).
        pub subnqn: NqnField,
        /// Transport address, padded with spaces (TRADDR).
        pub traddr: super::Ascii<256>,
        /// Transport specific address subtype (TSAS).
        pub tsas: RdmaTsas,
    }
}

wire! {
    /// Discovery log page header; the entries follow it.
    pub struct DiscoveryHeader: 1024 {
        /// Generation counter: differs whenever the log differs (GENCTR).
        pub genctr: U64,
        /// Number of entries (NUMREC).
        pub numrec: U64,
        /// Record format, 0 (RECFMT).
        pub recfmt: U16,
        #[doc(hidden)]
        pub _reserved18: [u8; 1006],
    }
}
