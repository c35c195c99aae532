//! Private data of connection set-up (NVM Express RDMA Transport Specification,
//! revision 1.1, clause 3.3).
//!
//! Sizes of queues are told from the host's point of view: what it sends is
//! received here.

use std::fmt;

use open_enum::open_enum;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only record format (RECFMT) there is.
pub const RECORD_FORMAT: u16 = 0;

/// Why a connection is refused (figure "RDMA Transport-Specific Status Codes").
#[open_enum]
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectStatus {
    /// The private data has a wrong length.
    InvalidLength = 1,
    /// The record format is not known.
    InvalidRecordFormat = 2,
    /// The queue identifier is not one.
    InvalidQueueId = 3,
    /// The host's send queue has a size that cannot be.
    InvalidSendQueueSize = 4,
    /// The host's receive queue has a size that cannot be.
    InvalidReceiveQueueSize = 5,
    /// Memory, queue pairs or the like are used up.
    NoResources = 6,
    /// RDMA READs that the host can answer at a time: not enough.
    InvalidReadDepth = 7,
    /// RDMA READs that the host wants outstanding: not acceptable.
    InvalidInitiatorDepth = 8,
    /// The controller identifier is not one of the host's.
    InvalidControllerId = 9,
}

impl RejectStatus {
    /// What it means.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InvalidLength => "invalid length of the private data",
            Self::InvalidRecordFormat => "unknown record format",
            Self::InvalidQueueId => "invalid queue identifier",
            Self::InvalidSendQueueSize => "invalid size of the host's send queue",
            Self::InvalidReceiveQueueSize => "invalid size of the host's receive queue",
            Self::NoResources => "no resources left",
            Self::InvalidReadDepth => "too few RDMA READs that the host can answer",
            Self::InvalidInitiatorDepth => "too many RDMA READs that the host wants outstanding",
            Self::InvalidControllerId => "invalid controller identifier",
            _ => "a status unknown here",
        }
    }
}

impl fmt::Display for RejectStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (status {:#04x})", self.text(), self.0)
    }
}

impl std::error::Error for RejectStatus {}

/// What a host says in its request for a queue.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ConnectRequest {
    recfmt: U16,
    qid: U16,
    hrqsize: U16,
    /// Zero-based, as is SQSIZE of Connect.
    hsqsize_z: U16,
    cntlid: U16,
    reserved: [u8; 22],
}

const _: () = assert!(size_of::<ConnectRequest>() == 32);

impl ConnectRequest {
    /// A host's request for queue `qid` of controller `cntlid` (0 for an admin
    /// queue), with this many commands outstanding and responses awaited. `None`
    /// when `commands` is 0, which no host has.
    pub fn new(qid: u16, cntlid: u16, commands: u16, responses: u16) -> Option<Self> {
        Some(Self {
            recfmt: RECORD_FORMAT.into(),
            qid: qid.into(),
            hrqsize: responses.into(),
            hsqsize_z: commands.checked_sub(1)?.into(),
            cntlid: cntlid.into(),
            reserved: [0; 22],
        })
    }

    /// Reads the private data of a request, which may be longer: connection
    /// management carries no length.
    ///
    /// # Errors
    /// With the status to refuse it with.
    pub fn parse(private_data: &[u8]) -> Result<Self, RejectStatus> {
        // The record format comes first, since the length depends on it.
        let (recfmt, _) =
            U16::read_from_prefix(private_data).map_err(|_| RejectStatus::InvalidLength)?;
        if recfmt.get() != RECORD_FORMAT {
            return Err(RejectStatus::InvalidRecordFormat);
        }
        let (request, _) =
            Self::read_from_prefix(private_data).map_err(|_| RejectStatus::InvalidLength)?;
        // A queue has at least two entries (base specification, 3.3.3.1), and at
        // most as many as can be counted.
        if request.hsqsize_z.get() == 0 || request.hsqsize_z.get() == u16::MAX {
            return Err(RejectStatus::InvalidSendQueueSize);
        }
        if request.hrqsize.get() == 0 {
            return Err(RejectStatus::InvalidReceiveQueueSize);
        }
        Ok(request)
    }

    /// The queue (QID), 0 for an admin queue.
    pub fn qid(&self) -> u16 {
        self.qid.get()
    }

    /// Entries of the host's send queue: commands that it may have outstanding,
    /// hence receives to be ready for (HSQSIZE, made one-based).
    pub fn send_queue_entries(&self) -> u16 {
        self.hsqsize_z.get().saturating_add(1)
    }

    /// Entries of the host's receive queue: responses that it is ready for
    /// (HRQSIZE).
    pub fn receive_queue_entries(&self) -> u16 {
        self.hrqsize.get()
    }

    /// The controller that an I/O queue is for (CNTLID); 0 from hosts of before
    /// this field, and for admin queues.
    pub fn cntlid(&self) -> u16 {
        self.cntlid.get()
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        IntoBytes::as_bytes(self)
    }
}

/// What a controller says when it accepts.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ConnectAccept {
    recfmt: U16,
    crqsize: U16,
    reserved: [u8; 28],
}

const _: () = assert!(size_of::<ConnectAccept>() == 32);

impl ConnectAccept {
    /// Acceptance with this many receives for the queue.
    pub fn new(receive_queue_entries: u16) -> Self {
        Self {
            crqsize: receive_queue_entries.into(),
            ..Self::new_zeroed()
        }
    }

    /// Reads the private data of a reply. `None` when it is too short, or of an
    /// unknown format.
    pub fn parse(private_data: &[u8]) -> Option<Self> {
        let (accept, _) = Self::read_from_prefix(private_data).ok()?;
        (accept.recfmt.get() == RECORD_FORMAT).then_some(accept)
    }

    /// Receives that the controller has for the queue (CRQSIZE).
    pub fn receive_queue_entries(&self) -> u16 {
        self.crqsize.get()
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        IntoBytes::as_bytes(self)
    }
}

/// What a controller says when it refuses.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ConnectReject {
    recfmt: U16,
    sts: U16,
}

const _: () = assert!(size_of::<ConnectReject>() == 4);

impl ConnectReject {
    /// Refusal for this reason.
    pub fn new(status: RejectStatus) -> Self {
        Self {
            recfmt: RECORD_FORMAT.into(),
            sts: status.0.into(),
        }
    }

    /// Reads the private data of a rejection. `None` when it is too short, or of
    /// an unknown format.
    pub fn parse(private_data: &[u8]) -> Option<Self> {
        let (reject, _) = Self::read_from_prefix(private_data).ok()?;
        (reject.recfmt.get() == RECORD_FORMAT).then_some(reject)
    }

    /// The reason (STS).
    pub fn status(&self) -> RejectStatus {
        RejectStatus(self.sts.get())
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        IntoBytes::as_bytes(self)
    }
}

#[cfg(test)]
mod tests;
