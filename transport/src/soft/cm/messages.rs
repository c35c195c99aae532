//! The messages of connection management, field by field (InfiniBand
//! Architecture, volume 1, 12.6.5 to 12.6.10 and 12.7).
//!
//! All are views of the 232 bytes after the datagram header: any bytes are a
//! valid message here, and [`super::machine`] judges the values.

use bitfield_struct::bitfield;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A global identifier: an IPv6 address, or an IPv4 address mapped into one.
pub type Gid = [u8; 16];

/// A 24-bit number.
#[repr(transparent)]
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct U24([u8; 3]);

impl U24 {
    /// Its value.
    pub const fn get(self) -> u32 {
        let [high, middle, low] = self.0;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> Self {
        let [_, high, middle, low] = value.to_be_bytes();
        Self([high, middle, low])
    }
}

macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($fields:tt)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
            Unaligned,
        )]
        pub struct $name { $($fields)* }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}

/// Byte 43 of a REQ.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct ReqTransport {
    /// How long the receiver may take to answer: 4.096 µs times two to this.
    #[bits(5)]
    pub remote_response_timeout: u8,
    /// 0 is reliable connection.
    #[bits(2)]
    pub service_type: u8,
    /// The sender's queue pair gives credits.
    pub end_to_end_flow_control: bool,
}

/// Byte 47 of a REQ.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct ReqTiming {
    /// How long the sender takes to answer: 4.096 µs times two to this.
    #[bits(5)]
    pub local_response_timeout: u8,
    /// Retries that the receiver's queue pair shall make.
    #[bits(3)]
    pub retry_count: u8,
}

/// Byte 50 of a REQ.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct ReqPath {
    /// Path MTU: 1 to 5 for 256 to 4096.
    #[bits(4)]
    pub mtu: u8,
    /// A reliable datagram channel exists.
    pub rdc_exists: bool,
    /// Retries after receiver-not-ready that the receiver's queue pair shall make.
    #[bits(3)]
    pub rnr_retry: u8,
}

/// Byte 51 of a REQ.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct ReqRetries {
    /// Times the receiver may send its answer again.
    #[bits(4)]
    pub max_cm_retries: u8,
    /// The sender's queue pair uses a shared receive queue.
    pub shared_receive_queue: bool,
    /// 0 except for XRC.
    #[bits(3)]
    pub extended_transport: u8,
}

/// Service level and kind of a path.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct PathLevel {
    /// Service level.
    #[bits(4)]
    pub service_level: u8,
    /// Both ends are in one subnet.
    pub subnet_local: bool,
    #[bits(3)]
    __: u8,
}

/// A value in the upper five bits of a byte: a time as a power of two.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct Upper5 {
    /// The value: 4.096 µs times two to this.
    #[bits(5)]
    pub value: u8,
    #[bits(3)]
    __: u8,
}

/// A value in the upper two bits of a byte.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct Upper2 {
    /// Which message is meant, see [`Subject`].
    #[bits(2)]
    pub value: u8,
    #[bits(6)]
    __: u8,
}

/// The message that a REJ or MRA is about (12.6.6, 12.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The REQ.
    Req,
    /// The REP.
    Rep,
    /// Another one, or none.
    Other,
}

impl From<Upper2> for Subject {
    fn from(bits: Upper2) -> Self {
        match bits.value() {
            0 => Self::Req,
            1 => Self::Rep,
            _ => Self::Other,
        }
    }
}

impl From<Subject> for Upper2 {
    fn from(subject: Subject) -> Self {
        Self::new().with_value(match subject {
            Subject::Req => 0,
            Subject::Rep => 1,
            Subject::Other => 2,
        })
    }
}

wire! {
    /// A path between two ports, as a REQ names it (12.7.10 to 12.7.22).
    pub struct Path {
        /// The sender's LID; means nothing on Ethernet.
        pub local_lid: U16,
        /// The receiver's LID.
        pub remote_lid: U16,
        /// The sender's address.
        pub local_gid: Gid,
        /// The receiver's address.
        pub remote_gid: Gid,
        /// Flow label, in the upper 20 bits.
        pub flow_label: U24,
        /// Static rate code, in the lower six bits.
        pub rate: u8,
        /// Traffic class.
        pub traffic_class: u8,
        /// Hop limit.
        pub hop_limit: u8,
        /// Service level.
        pub level: PathLevel,
        /// Local ACK timeout of the queue pairs.
        pub ack_timeout: Upper5,
    }
}

const _: () = assert!(size_of::<Path>() == 44);

wire! {
    /// Request for communication (12.6.5).
    pub struct Req {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        pub(super) reserved_4: U32,
        /// What it wants to reach.
        pub service_id: U64,
        /// The sender's adapter.
        pub ca_guid: U64,
        pub(super) reserved_24: U32,
        /// Queue key, for datagrams.
        pub qkey: U32,
        /// The sender's queue pair.
        pub qpn: U24,
        /// READs that the sender's queue pair can answer at a time.
        pub responder_resources: u8,
        /// The sender's end-to-end context, for reliable datagrams.
        pub eecn: U24,
        /// READs that the sender will have outstanding.
        pub initiator_depth: u8,
        /// The receiver's end-to-end context.
        pub remote_eecn: U24,
        /// Answering time of the receiver, service type, credits.
        pub transport: ReqTransport,
        /// Where the *receiver* of this message starts its sequence numbers.
        pub starting_psn: U24,
        /// Answering time of the sender, retries.
        pub timing: ReqTiming,
        /// Partition.
        pub pkey: U16,
        /// Path MTU, RNR retries.
        pub path: ReqPath,
        /// Retries of messages, shared receive queue.
        pub retries: ReqRetries,
        /// The path.
        pub primary: Path,
        /// Another path; its LIDs are 0 when there is none.
        pub alternate: Path,
        /// For the consumer; begins with the IP header of RDMA CM here.
        pub private_data: [u8; 92],
    }
}

wire! {
    /// Message receipt acknowledgement (12.6.6).
    pub struct Mra {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        /// The receiver's.
        pub remote_comm_id: U32,
        /// Which message was received.
        pub subject: Upper2,
        /// How long the answer will take.
        pub service_timeout: Upper5,
        /// For the consumer.
        pub private_data: [u8; 222],
    }
}

wire! {
    /// Rejection (12.6.7).
    pub struct Rej {
        /// The sender's number for the connection, 0 when it has none.
        pub local_comm_id: U32,
        /// The receiver's, 0 when not known.
        pub remote_comm_id: U32,
        /// Which message is rejected.
        pub subject: Upper2,
        pub(super) info_len: u8,
        /// Why, see [`super::reason`].
        pub reason: U16,
        /// What would have been accepted, for some reasons.
        pub info: [u8; 72],
        /// For the consumer, with reason 28.
        pub private_data: [u8; 148],
    }
}

impl Rej {
    /// Sets the additional information; what is beyond 72 bytes is left out.
    pub fn set_info(&mut self, info: &[u8]) {
        let mut len = 0;
        for (to, from) in self.info.iter_mut().zip(info) {
            *to = *from;
            len += 1;
        }
        // The length stands in the upper seven bits.
        self.info_len = len << 1;
    }

    /// The additional information.
    pub fn info(&self) -> &[u8] {
        let len = usize::from(self.info_len >> 1).min(self.info.len());
        self.info.get(..len).unwrap_or_default()
    }
}

/// Byte 26 of a REP.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct RepTransport {
    /// How long the sender's adapter takes to acknowledge.
    #[bits(5)]
    pub target_ack_delay: u8,
    /// What became of the alternate path.
    #[bits(2)]
    pub failover: u8,
    /// The sender's queue pair gives credits.
    pub end_to_end_flow_control: bool,
}

/// Byte 27 of a REP.
#[bitfield(u8, order = Msb)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
pub struct RepRetries {
    /// Retries after receiver-not-ready that the receiver's queue pair shall make.
    #[bits(3)]
    pub rnr_retry: u8,
    /// The sender's queue pair uses a shared receive queue.
    pub shared_receive_queue: bool,
    #[bits(4)]
    __: u8,
}

wire! {
    /// Reply to a request (12.6.8).
    pub struct Rep {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        /// The receiver's.
        pub remote_comm_id: U32,
        /// Queue key, for datagrams.
        pub qkey: U32,
        /// The sender's queue pair.
        pub qpn: U24,
        pub(super) reserved_15: u8,
        /// The sender's end-to-end context, for reliable datagrams.
        pub eecn: U24,
        pub(super) reserved_19: u8,
        /// Where the *receiver* of this message starts its sequence numbers.
        pub starting_psn: U24,
        pub(super) reserved_23: u8,
        /// READs that the sender's queue pair can answer at a time.
        pub responder_resources: u8,
        /// READs that the sender will have outstanding.
        pub initiator_depth: u8,
        /// Acknowledge delay, failover, credits.
        pub transport: RepTransport,
        /// RNR retries, shared receive queue.
        pub retries: RepRetries,
        /// The sender's adapter.
        pub ca_guid: U64,
        /// For the consumer.
        pub private_data: [u8; 196],
    }
}

wire! {
    /// Ready to use (12.6.9).
    pub struct Rtu {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        /// The receiver's.
        pub remote_comm_id: U32,
        /// For the consumer.
        pub private_data: [u8; 224],
    }
}

wire! {
    /// Request for disconnection (12.6.10).
    pub struct Dreq {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        /// The receiver's.
        pub remote_comm_id: U32,
        /// The receiver's queue pair.
        pub remote_qpn: U24,
        pub(super) reserved_11: u8,
        /// For the consumer.
        pub private_data: [u8; 220],
    }
}

wire! {
    /// Reply to a request for disconnection (12.6.11).
    pub struct Drep {
        /// The sender's number for the connection.
        pub local_comm_id: U32,
        /// The receiver's.
        pub remote_comm_id: U32,
        /// For the consumer.
        pub private_data: [u8; 224],
    }
}
