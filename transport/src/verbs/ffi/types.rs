//! Plain values that go in and out of the room.
#![forbid(unsafe_code)]

use std::io;

use crate::nic::AddressVector;

/// Why an adapter cannot be opened.
#[derive(Debug)]
pub enum Unopened {
    /// The list of adapters is not to be had: the kernel has no verbs.
    NoList(io::Error),
    /// There is none of that name.
    NotFound {
        /// Those that there are.
        available: Vec<String>,
    },
    /// It is there and did not open.
    Refused {
        /// Which call.
        what: &'static str,
        /// What it answered.
        error: io::Error,
    },
}

/// What a device can do (`struct ibv_device_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ports, numbered from 1.
    pub ports: u8,
    /// Whether it is an iWARP device, whose queue pairs only rdma_cm can connect.
    pub iwarp: bool,
    /// Whether it takes SEND with invalidate (`IBV_DEVICE_MEM_MGT_EXTENSIONS`).
    pub send_invalidate: bool,
    /// Registrations.
    pub max_mr: u32,
    /// Queue pairs.
    pub max_qp: u32,
    /// Work requests of a queue.
    pub max_qp_wr: u32,
    /// Pieces of a work request.
    pub max_sge: u32,
    /// Pieces of a READ.
    pub max_sge_rd: u32,
    /// Completion queues.
    pub max_cq: u32,
    /// Completions of a queue.
    pub max_cqe: u32,
    /// Shared receive queues.
    pub max_srq: u32,
    /// Work requests of a shared receive queue.
    pub max_srq_wr: u32,
    /// READs that a queue pair may have outstanding as their target.
    pub max_qp_rd_atom: u32,
    /// READs that a queue pair may have outstanding as their source.
    pub max_qp_init_rd_atom: u32,
}

/// What kind of network a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand: peers have LIDs.
    InfiniBand,
    /// Ethernet: RoCE, peers have GIDs.
    Ethernet,
}

/// A port (`struct ibv_port_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Whether it is in the state ACTIVE.
    pub active: bool,
    /// What it is on.
    pub link: LinkLayer,
    /// Its LID, on InfiniBand.
    pub lid: u16,
    /// Bytes of payload in a packet.
    pub mtu: u32,
    /// Bytes of a message.
    pub max_message: u32,
}

/// What packets a GID stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GidType {
    /// InfiniBand, or RoCE version 1: no IP header.
    IbOrRoceV1,
    /// RoCE version 2, over UDP.
    RoceV2,
}

/// An entry of a port's GID table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GidEntry {
    /// Its place in the table.
    pub index: u8,
    /// The GID.
    pub gid: [u8; 16],
    /// Its kind.
    pub kind: GidType,
}

impl GidEntry {
    /// Whether it is an IPv4 address (`::ffff:192.0.2.1`).
    pub fn is_ipv4(&self) -> bool {
        matches!(self.gid, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

/// What a registration allows. Relaxed ordering never: the flush rule relies on
/// the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MrAccess {
    /// Received data and READ responses may be placed.
    pub local_write: bool,
    /// It may be read through a queue pair that allows it.
    pub remote_read: bool,
    /// It may be written through a queue pair that allows it.
    pub remote_write: bool,
}

/// How large a queue pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpShape {
    /// Send work requests outstanding.
    pub send_wrs: u32,
    /// Bytes to be taken inline, where the device can.
    pub inline: u32,
}

/// What ready-to-receive takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtr {
    /// Payload bytes of a packet: 256 to 4096.
    pub path_mtu: u32,
    /// The peer's queue pair.
    pub remote_qpn: u32,
    /// The peer's first sequence number.
    pub rq_psn: u32,
    /// READs that the peer may have outstanding.
    pub max_dest_rd_atomic: u8,
    /// What to tell a peer to wait after receiver-not-ready.
    pub min_rnr_timer: u8,
    /// The way.
    pub vector: AddressVector,
}

/// What ready-to-send takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rts {
    /// The own first sequence number.
    pub sq_psn: u32,
    /// READs outstanding.
    pub max_rd_atomic: u8,
    /// ACK timeout, as encoded.
    pub timeout: u8,
    /// Retries.
    pub retry_count: u8,
    /// Retries after receiver-not-ready.
    pub rnr_retry: u8,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QpChange {
    /// From RESET to INIT.
    Init {
        /// The port.
        port: u8,
        /// The partition key's index.
        pkey_index: u16,
        /// What the peer may do. Nothing, for a host's queue pair.
        access: MrAccess,
    },
    /// To ready-to-receive.
    Rtr(Rtr),
    /// To ready-to-send.
    Rts(Rts),
    /// To the error state.
    Error,
}

/// A list was not posted as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostFailure {
    /// Work requests, from the first, that were posted.
    pub posted: usize,
    /// What the provider answered.
    pub errno: i32,
}

/// Something happened to the device (`ibv_get_async_event`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// The queue pair went to the error state by itself.
    QpFailed(u32),
    /// The queue pair takes no more from the shared receive queue, and what it
    /// took has a completion.
    LastWqe(u32),
    /// A completion queue overran or broke.
    CqFailed,
    /// A shared receive queue broke.
    SrqFailed,
    /// A shared receive queue, by [`Srq::id`](super::Srq::id), holds fewer work
    /// requests than its limit.
    SrqLimit(u64),
    /// The device has to be reset.
    DeviceFatal,
    /// A port has a link.
    PortUp(u8),
    /// A port has none.
    PortDown(u8),
    /// Nothing that matters here, by its number in `enum ibv_event_type`.
    Other(u32),
}

/// `enum ibv_wc_status`, as far as it is told apart here.
pub mod status {
    pub use rdma_sys::ibv_wc_status::{
        IBV_WC_LOC_ACCESS_ERR as LOCAL_ACCESS, IBV_WC_LOC_LEN_ERR as LOCAL_LENGTH,
        IBV_WC_LOC_PROT_ERR as LOCAL_PROTECTION, IBV_WC_MW_BIND_ERR as BIND,
        IBV_WC_REM_ACCESS_ERR as REMOTE_ACCESS, IBV_WC_REM_INV_RD_REQ_ERR as REMOTE_INVALID_READ,
        IBV_WC_REM_INV_REQ_ERR as REMOTE_INVALID, IBV_WC_REM_OP_ERR as REMOTE_OPERATION,
        IBV_WC_RESP_TIMEOUT_ERR as RESPONSE_TIMEOUT, IBV_WC_RETRY_EXC_ERR as RETRY,
        IBV_WC_RNR_RETRY_EXC_ERR as RNR_RETRY, IBV_WC_SUCCESS as SUCCESS,
        IBV_WC_WR_FLUSH_ERR as FLUSHED,
    };
}
