//! The calls of librdmacm that a passive side needs, as a trait: the library
//! stands behind it (`Librdmacm` in `ffi`), and in tests a double, so that the
//! state machine is tested without a kernel.
//!
//! Events come acknowledged, and identifiers are numbers: so there is no order of
//! calls that could harm more than a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use bytes::Bytes;

use crate::nic::AddressVector;

/// An identifier of the library's, `rdma_cm_id`, by a number that is never used
/// twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::verbs) struct CmId(pub u64);

/// What an event says (`man rdma_get_cm_event`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verbs) enum CallKind {
    ConnectRequest,
    ConnectError,
    Unreachable,
    Rejected,
    Established,
    Disconnected,
    DeviceRemoval,
    AddrChange,
    TimewaitExit,
    /// One that a passive side has no use for.
    Other(u32),
}

/// An event, acknowledged already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verbs) struct CallEvent {
    /// What it is about; a new identifier for a request.
    pub id: CmId,
    pub kind: CallKind,
    /// 0, a negative error number, or the reason code of a rejection.
    pub status: i32,
    /// READs that this side is to answer at a time: what the peer calls its
    /// initiator depth.
    pub responder_resources: u8,
    /// READs that this side may have outstanding: what the peer calls its
    /// responder resources.
    pub initiator_depth: u8,
    pub private_data: Bytes,
}

/// What an identifier is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verbs) struct Endpoint {
    /// Name of the RDMA device; none for a wildcard address.
    pub device: Option<String>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
}

/// What queue pair attributes are made of, as `rdma_init_qp_attr` gives them for
/// the three steps to ready-to-send, and the device's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verbs) struct CallAttrs {
    pub vector: AddressVector,
    /// `enum ibv_mtu`.
    pub path_mtu: u32,
    pub remote_qpn: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub timeout: u8,
    pub retry_count: u8,
    pub rnr_retry: u8,
    /// READs that the device lets a queue pair have outstanding.
    pub device_initiator_depth: u8,
    /// READs that the device lets a queue pair answer at a time.
    pub device_responder_resources: u8,
}

/// What an accepting side says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verbs) struct AcceptParam<'a> {
    pub qp: u32,
    pub responder_resources: u8,
    pub initiator_depth: u8,
    /// Retries that the peer's queue pair makes after receiver-not-ready.
    pub rnr_retry: u8,
    /// At most 255 bytes.
    pub private_data: &'a [u8],
}

/// The calls. An identifier that does not exist is answered with `EBADF`.
pub(in crate::verbs) trait CmCalls: Send {
    /// Readable when there may be an event.
    fn fd(&self) -> BorrowedFd<'_>;

    /// `rdma_create_id` for a listener.
    fn create(&mut self) -> io::Result<CmId>;

    /// `rdma_bind_addr`; an IPv6 address takes no IPv4.
    fn bind(&mut self, id: CmId, at: SocketAddr) -> io::Result<()>;

    /// `rdma_listen`.
    fn listen(&mut self, id: CmId, backlog: i32) -> io::Result<()>;

    /// Device and addresses of an identifier.
    fn endpoint(&self, id: CmId) -> io::Result<Endpoint>;

    /// `rdma_init_qp_attr` for all steps, and the device's limits.
    fn qp_attrs(&mut self, id: CmId) -> io::Result<CallAttrs>;

    /// `rdma_accept` for a queue pair that the library does not know, with a
    /// shared receive queue.
    fn accept(&mut self, id: CmId, param: AcceptParam<'_>) -> io::Result<()>;

    /// `rdma_reject`; at most 255 bytes.
    fn reject(&mut self, id: CmId, private_data: &[u8]) -> io::Result<()>;

    /// `rdma_disconnect`: asks the peer for the end, or answers when it asked.
    fn disconnect(&mut self, id: CmId) -> io::Result<()>;

    /// `rdma_destroy_id`. No event of it comes any more. A connection that still
    /// lives is ended, a request refused.
    fn destroy(&mut self, id: CmId);

    /// `rdma_get_cm_event` and `rdma_ack_cm_event`; `None` when there is none.
    fn next_event(&mut self) -> io::Result<Option<CallEvent>>;
}
