//! The seam between the target and a network adapter, with verbs semantics
//! (InfiniBand Architecture, volume 1, chapters 10 and 11).
//!
//! One reactor owns one [`Nic`] per adapter: a protection domain, a completion
//! queue, a shared receive queue and the queue pairs bound to them. Nothing here
//! blocks, and nothing is shared between threads. Queue pairs are brought up
//! from what the control plane agreed with the peer, see [`crate::cm`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_p2p::provider::PathReason;
use sidelane_p2p::{PciAddress, Region, RegionId};

/// The most memory pieces one send work request may name.
pub const MAX_SGE: usize = 16;

/// The most completions one poll returns.
pub const MAX_COMPLETIONS: usize = 64;

/// Bits of a `wr_id` that are the consumer's, from the lowest; those above are
/// the adapter's and must be zero when work is posted.
pub const WR_ID_BITS: u32 = 56;

/// A queue pair of one [`Nic`]. Its number on the wire (24 bits) is unique
/// within the adapter's address, over all reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QpNumber(pub u32);

/// What a peer may do with registered memory. The local side may always read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Received data and READ responses may be placed here.
    pub local_write: bool,
    /// The peer may RDMA READ it.
    pub remote_read: bool,
    /// The peer may RDMA WRITE it.
    pub remote_write: bool,
}

/// A registered region. Valid until given back to [`Nic::deregister`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// The region that was registered.
    pub region: RegionId,
    /// Key for the local side's [`Sge`].
    pub lkey: u32,
    /// Key to give to a peer.
    pub rkey: u32,
    /// The address under which work requests and peers name byte 0.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A piece of registered local memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sge {
    /// [`MemoryRegion::base`] plus the offset in the region.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`MemoryRegion::lkey`].
    pub lkey: u32,
}

/// A peer's memory, as a keyed data block of a capsule names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteMemory {
    /// Address in the peer's registration.
    pub addr: u64,
    /// The peer's key.
    pub rkey: u32,
}

/// What a send work request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOp {
    /// SEND into a buffer that the peer has posted.
    Send,
    /// SEND, and the peer's adapter invalidates this key of its own first.
    SendInvalidate {
        /// The peer's key.
        rkey: u32,
    },
    /// SEND with 32 bits for the peer's completion.
    SendImmediate {
        /// Those bits.
        imm: u32,
    },
    /// RDMA WRITE from the local pieces to the peer.
    Write(RemoteMemory),
    /// RDMA WRITE that takes a buffer of the peer's, places nothing in it, and
    /// tells the peer by a completion that the data is there.
    WriteImmediate {
        /// Where to.
        to: RemoteMemory,
        /// Bits for the peer's completion.
        imm: u32,
    },
    /// RDMA READ from the peer into the local pieces.
    Read(RemoteMemory),
}

/// A send work request.
#[derive(Debug, Clone)]
pub struct SendWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// What to do.
    pub op: SendOp,
    /// Local memory, in order.
    pub sges: ArrayVec<Sge, MAX_SGE>,
    /// Whether success makes a completion. Failure always makes one.
    pub signaled: bool,
    /// Whether its end wakes a peer that sleeps for such only (solicited event,
    /// InfiniBand Architecture, volume 1, 9.2.3); means something where the peer's
    /// buffers are used.
    pub solicited: bool,
}

/// A receive work request for the shared receive queue.
#[derive(Debug, Clone, Copy)]
pub struct RecvWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// Where one incoming SEND is placed.
    pub sge: Sge,
}

/// How a work request ended (InfiniBand Architecture, volume 1, 11.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WcStatus {
    /// Done.
    Success,
    /// A message was longer than its receive buffer, or than the adapter takes.
    LocalLength,
    /// Local memory was named by a wrong key, or outside its bounds or rights.
    LocalProtection,
    /// Given back undone, since the queue pair went to the error state.
    Flushed,
    /// The peer refused the message as invalid.
    RemoteInvalidRequest,
    /// The peer refused the key, the bounds or the rights of its memory.
    RemoteAccess,
    /// The peer could not carry it out.
    RemoteOperation,
    /// The peer did not answer, for the last retry.
    RetryExceeded,
    /// The peer had no receive buffer, for the last retry.
    RnrRetryExceeded,
}

/// What kind of work request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WcOp {
    /// SEND, with or without invalidation.
    Send,
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// A message arrived in a buffer of the shared receive queue.
    Recv,
    /// An RDMA WRITE with immediate data arrived; the buffer of the shared receive
    /// queue that it took is as it was.
    RecvWrite,
    /// [`Nic::post_flush`] or [`Nic::post_copy`]: the adapter read its own memory.
    Flush,
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// That of the work request.
    pub wr_id: u64,
    /// The queue pair.
    pub qp: QpNumber,
    /// How it ended. When not success, only `wr_id`, `qp` and `op` mean anything.
    pub status: WcStatus,
    /// What ended.
    pub op: WcOp,
    /// Bytes received, for [`WcOp::Recv`]; bytes that the peer wrote, for
    /// [`WcOp::RecvWrite`].
    pub len: u32,
    /// The local key that the peer invalidated, for [`WcOp::Recv`].
    pub invalidated: Option<u32>,
    /// What the peer sent along, for [`WcOp::Recv`] and [`WcOp::RecvWrite`].
    pub imm: Option<u32>,
}

/// Completions of one poll.
pub type Completions = ArrayVec<Completion, MAX_COMPLETIONS>;

/// How deep a queue pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpCaps {
    /// Send work requests that may be outstanding.
    pub max_send_wr: u32,
}

/// The way to the peer through a port of an adapter: the address vector of verbs
/// (InfiniBand Architecture, volume 1, 11.2.2.1). Connection management fills it
/// in; a software adapter goes by the addresses alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressVector {
    /// Number of the port, from 1.
    pub port: u8,
    /// Index of the partition key in the port's table.
    pub pkey_index: u16,
    /// Index of the own GID in the port's table.
    pub sgid_index: u8,
    /// The peer's GID; for RoCE its IPv6 or mapped IPv4 address.
    pub dgid: [u8; 16],
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit (TTL).
    pub hop_limit: u8,
    /// Traffic class (TOS).
    pub traffic_class: u8,
    /// Whether the GID fields are used; always on RoCE.
    pub is_global: bool,
    /// The peer's LID, on InfiniBand.
    pub dlid: u16,
    /// Service level.
    pub service_level: u8,
    /// Low bits of the own LID.
    pub source_path_bits: u8,
    /// Static rate, as the specification encodes it; 0 for the port's.
    pub static_rate: u8,
}

/// Both sides' part of a connection, as connection management agreed on it:
/// what verbs take to bring a queue pair to ready-to-send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpAttrs {
    /// Own address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's queue pair number, 24 bits.
    pub remote_qpn: u32,
    /// First packet sequence number that this side sends, 24 bits.
    pub sq_psn: u32,
    /// First packet sequence number that the peer sends, 24 bits.
    pub rq_psn: u32,
    /// Payload bytes of a packet: 256, 512, 1024, 2048 or 4096.
    pub path_mtu: u32,
    /// RDMA READs that this side may have outstanding.
    pub max_rd_atomic: u8,
    /// RDMA READs that the peer may have outstanding.
    pub max_dest_rd_atomic: u8,
    /// Local ACK timeout: 4.096 µs times two to this power, 5 bits, 0 for never.
    pub timeout: u8,
    /// Retries after a timeout or a sequence error, 3 bits.
    pub retry_count: u8,
    /// Retries after receiver-not-ready, 3 bits, 7 for ever.
    pub rnr_retry: u8,
    /// How long a peer waits after receiver-not-ready, as the specification
    /// encodes it (5 bits; InfiniBand Architecture, volume 1, table 46).
    pub min_rnr_timer: u8,
    /// The way to the peer.
    pub vector: AddressVector,
}

/// What an adapter can do.
#[derive(Debug, Clone)]
pub struct NicCaps {
    /// What an operator calls it (`soft 192.0.2.1`).
    pub name: String,
    /// Pieces per send work request.
    pub max_sge: usize,
    /// Work requests per send queue.
    pub max_send_wr: u32,
    /// Work requests in the shared receive queue.
    pub max_srq_wr: u32,
    /// Queue pairs.
    pub max_qp: u32,
    /// Bytes of one message.
    pub max_message: u32,
    /// RDMA READs that a queue pair may have outstanding.
    pub max_rd_atomic: u8,
    /// Whether SEND with invalidate works; where not, [`SendOp::SendInvalidate`]
    /// is sent as a plain SEND, and the peer invalidates by itself.
    pub send_invalidate: bool,
}

/// Why a region cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The table of registrations is full.
    #[error(
        "{nic} takes {limit} memory registrations, all in use; fewer pools or listeners are needed for {region}"
    )]
    Full {
        /// The adapter.
        nic: String,
        /// What was to be registered.
        region: String,
        /// Registrations it takes.
        limit: usize,
    },
    /// The memory's device does not let others reach it.
    #[error("{region} cannot be handed to {nic}: {reason}")]
    NotExported {
        /// The adapter.
        nic: String,
        /// What was to be registered.
        region: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The adapter can, and refused this time: memory that may be locked, or a
    /// limit of its own.
    #[error("{nic} refused to register {region}: {reason}")]
    Refused {
        /// The adapter.
        nic: String,
        /// What was to be registered.
        region: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The adapter cannot reach peer memory of this kind.
    #[error("{nic} cannot register {region}: {reason}")]
    Unsupported {
        /// The adapter.
        nic: String,
        /// What was to be registered.
        region: String,
        /// Why, and what to do about it.
        reason: String,
    },
}

impl RegisterError {
    /// Why payload does not go by this memory, as statistics say it.
    pub fn path_reason(&self) -> PathReason {
        match self {
            Self::NotExported { .. } => PathReason::NotExported,
            Self::Full { .. } | Self::Refused { .. } | Self::Unsupported { .. } => {
                PathReason::NicUnsupported
            }
        }
    }
}

/// Why a verb was refused. Nothing of the call took effect, except where said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NicError {
    /// No such queue pair.
    #[error("queue pair {0:?} does not exist")]
    NoSuchQp(QpNumber),
    /// The queue pair is not in a state that allows this.
    #[error("queue pair {0:?} is not in a state for this")]
    State(QpNumber),
    /// All queue pairs are in use.
    #[error("all {0} queue pairs are in use")]
    NoQpLeft(u32),
    /// The queue has no room for all of the list.
    #[error("the work queue is full")]
    Full,
    /// A work request names too many pieces, too many bytes or a wrong key.
    #[error("a work request is malformed: {0}")]
    Malformed(&'static str),
    /// The adapter's driver or firmware refused: what, why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The adapter is gone: removed, reset, or in a fatal error.
    #[error("the adapter is gone")]
    Gone,
}

/// Outcome of [`Nic::post_flush`] and [`Nic::post_copy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// It is done already.
    Done,
    /// It will be when a completion of [`WcOp::Flush`] comes.
    Pending,
}

/// Something happened that is no completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicEvent {
    /// What [`Nic::open_qp`] asked for is there, or is refused.
    Opened {
        /// As given.
        ticket: u64,
        /// The queue pair, ready to receive and to send.
        outcome: Result<QpNumber, NicError>,
    },
    /// A queue pair went to the error state by itself, not by [`Nic::error_qp`];
    /// told once. Where work was outstanding its completions say the same; where
    /// none was, as when the peer named memory that is not there, this alone
    /// does.
    Failed(QpNumber),
    /// What [`Nic::destroy_qp`] asked for is done: the adapter touches no buffer
    /// of the queue pair any more, and no completion of it will come.
    Destroyed(QpNumber),
    /// The adapter lost its way to a registered region: its owner has taken it
    /// back. No key of it may be used again.
    Revoked(RegionId),
    /// The shared receive queue holds fewer buffers than [`Nic::arm_srq_limit`]
    /// asked for. Told once for each call.
    SrqLimit,
    /// The adapter is gone. Its queue pairs fail, and it takes no new ones.
    Gone,
}

/// A count, by the name under which statistics show it.
pub type Count = (Cow<'static, str>, u64);

/// Whether an adapter serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterState {
    /// It does.
    Up,
    /// The port has no link.
    PortDown,
    /// It was removed, reset or broke.
    Gone,
}

impl AdapterState {
    /// Its name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::PortDown => "port-down",
            Self::Gone => "gone",
        }
    }
}

/// An adapter as a whole, over all reactors: what the control plane asks.
pub trait Adapter: Send + Sync {
    /// What each of its parts can do.
    fn caps(&self) -> &NicCaps;

    /// Whether it serves.
    fn state(&self) -> AdapterState;

    /// The PCI function that does its DMA; `None` where a CPU does.
    fn pci(&self) -> Option<PciAddress>;

    /// Whether a region can be registered, found out by doing it once.
    ///
    /// # Errors
    /// Why it cannot, and what to do about it.
    fn try_register(&self, region: &Region, access: Access) -> Result<(), RegisterError>;

    /// What the device as a whole has counted, beside what its parts and its
    /// connection management count: the counters of its hardware or driver.
    /// May block for a moment.
    fn counts(&self) -> Vec<Count>;
}

/// What a reactor wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Everything.
    All,
    /// What a peer sent as solicited, and all failures.
    Solicited,
    /// All but completions of SENDs and RDMA WRITEs, which may wait for the next
    /// thing that wakes: where an answer is on its way and nobody waits for what
    /// it holds, each of them would be a wake-up for nothing.
    NotSent,
}

/// An adapter, as one reactor sees it.
///
/// Calls never block: what may take its time in a driver or in firmware is done
/// elsewhere, and its outcome comes as a [`NicEvent`]. Work that was posted is on its way at the latest after
/// the next [`Nic::poll`] or [`Nic::arm`]. A reactor that has work calls `poll`
/// again and again; before it sleeps it calls `arm`, and when that says that
/// nothing is left, waits for [`Nic::event_fd`] or [`Nic::deadline`].
pub trait Nic {
    /// What it can do.
    fn caps(&self) -> &NicCaps;

    /// Registers a region, host or peer, for its whole length.
    ///
    /// # Errors
    /// When the adapter cannot reach it or has no room.
    fn register(&mut self, region: &Region, access: Access) -> Result<MemoryRegion, RegisterError>;

    /// Ends a registration. Later use of its keys fails with a protection or
    /// access error.
    fn deregister(&mut self, memory: &MemoryRegion);

    /// Makes a queue pair, bound to this adapter's completion queue and shared
    /// receive queue, and brings it to ready-to-receive and ready-to-send.
    /// [`NicEvent::Opened`] with this ticket says how that went.
    fn open_qp(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs, now: Instant);

    /// Brings a queue pair to the error state: outstanding sends come back as
    /// [`WcStatus::Flushed`], each once.
    ///
    /// # Errors
    /// When it does not exist.
    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError>;

    /// Ends a queue pair; [`NicEvent::Destroyed`] says when that is done.
    /// Completions of it that were not polled are dropped.
    fn destroy_qp(&mut self, qp: QpNumber);

    /// Posts buffers to the shared receive queue.
    ///
    /// # Errors
    /// When there is no room for all of them, or a key is wrong.
    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError>;

    /// Asks for [`NicEvent::SrqLimit`] when the shared receive queue holds fewer
    /// than `limit` buffers, at once if it does already (InfiniBand Architecture,
    /// volume 1, 10.2.9.1). 0 for never.
    ///
    /// # Errors
    /// When `limit` is more than the queue takes, or the adapter refuses.
    fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError>;

    /// Posts a list to a send queue, in order, with one doorbell. A queue pair
    /// in the error state takes the list and flushes it.
    ///
    /// # Errors
    /// When there is no room for all of the list, or one is malformed.
    fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError>;

    /// Makes all data placed by completed READs and receives into `memory`
    /// visible to other devices, before a doorbell makes one of them read it:
    /// a completion alone does not say that. Covers everything completed so
    /// far, so one call serves a batch; `last` names the last bytes placed.
    ///
    /// # Errors
    /// As for [`Nic::post_send`].
    fn post_flush(&mut self, last: Sge, wr_id: u64) -> Result<Flush, NicError>;

    /// Has the adapter itself move bytes between registered pieces of equal
    /// length, and place them in `to` as it places the data of a READ: what a
    /// self-test needs that has no peer. Both regions must be registered with
    /// remote read.
    ///
    /// # Errors
    /// As for [`Nic::post_send`].
    fn post_copy(&mut self, from: Sge, to: Sge, wr_id: u64) -> Result<Flush, NicError>;

    /// Moves packets and timers on, and appends completions to `out` until it
    /// is full or none are left.
    fn poll(&mut self, now: Instant, out: &mut Completions);

    /// The next event, if there is one; to be asked after [`Nic::poll`] until
    /// there is none.
    fn event(&mut self) -> Option<NicEvent>;

    /// Arms the event for what `wake` says: `true` when the reactor may sleep,
    /// `false` when there is work already and it must poll again.
    fn arm(&mut self, now: Instant, wake: Wake) -> bool;

    /// Readable when there may be work, once armed.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// When `poll` must be called even if nothing arrives (timers).
    fn deadline(&self) -> Option<Instant>;

    /// What this part has counted since it was opened. For statistics, not for
    /// every round: it allocates.
    fn counts(&self) -> Vec<Count>;

    /// What this part has counted of a queue pair; `None` when it does not exist.
    fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>>;
}

/// An adapter on which connections are also begun, not only answered: the queue
/// pair is there before the peer has said what it is connected to.
pub trait ActiveNic: Nic {
    /// Makes a queue pair, bound to this adapter's completion queue and shared
    /// receive queue, not yet connected.
    ///
    /// # Errors
    /// When none is left.
    fn create_qp(&mut self, caps: QpCaps) -> Result<QpNumber, NicError>;

    /// Brings a queue pair to ready-to-receive and ready-to-send.
    ///
    /// # Errors
    /// When it does not exist or is connected already.
    fn connect_qp(&mut self, qp: QpNumber, attrs: &QpAttrs, now: Instant) -> Result<(), NicError>;
}
