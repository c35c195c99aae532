//! Why a command is refused, and the one place where each reason gets the status
//! that the specification names for it.

use sidelane_nvme::spec::{ConnectInvalid, NqnError, Status};

use super::step::Completion;

/// Offset in the command of a field, in bytes, as the error log wants it.
pub(super) mod at {
    pub const OPCODE: u8 = 0;
    pub const FLAGS: u8 = 1;
    pub const CID: u8 = 2;
    pub const NSID: u8 = 4;
    pub const FCTYPE: u8 = 4;
    pub const DPTR: u8 = 24;
    pub const CDW10: u8 = 40;
    pub const CDW11: u8 = 44;
    pub const CDW12: u8 = 48;
    pub const CDW14: u8 = 56;
    pub const PROPERTY: u8 = 44;
    pub const PROPERTY_VALUE: u8 = 48;
}

/// A field of Connect, for [`Refusal::ConnectField`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectField {
    /// Queue identifier.
    Qid,
    /// Submission queue size.
    SqSize,
    /// Host identifier.
    HostId,
    /// Controller identifier.
    Cntlid,
    /// Subsystem's name.
    SubNqn,
    /// Host's name.
    HostNqn,
}

impl ConnectField {
    /// Where it is: offset in bytes, and whether in the data.
    const fn place(self) -> ConnectInvalid {
        let (offset, in_data) = match self {
            Self::Qid => (42, false),
            Self::SqSize => (44, false),
            Self::HostId => (0, true),
            Self::Cntlid => (16, true),
            Self::SubNqn => (256, true),
            Self::HostNqn => (512, true),
        };
        ConnectInvalid::new()
            .with_offset(offset)
            .with_in_data(in_data)
    }
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An opcode that this queue does not take.
    #[error("opcode {0:#04x} is not supported on this queue")]
    Opcode(u8),
    /// A fabrics command that this queue does not take.
    #[error("fabrics command type {0:#04x} is not supported on this queue")]
    FabricsType(u8),
    /// A command other than Connect on a queue that is not connected.
    #[error("a command before Connect")]
    NotConnected,
    /// A second Connect on one queue.
    #[error("the queue is connected already")]
    AlreadyConnected,
    /// CC.EN or CSTS.RDY is clear, or the controller is shut down.
    #[error("the controller is not ready")]
    NotReady,
    /// A command that has to come earlier, or never, on a fabric.
    #[error("{0}")]
    Sequence(&'static str),
    /// A field has a value that cannot be used.
    #[error("{what}")]
    Field {
        /// Its offset in the command.
        at: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// The command identifier is in use.
    #[error("command identifier {0:#06x} is in use")]
    CommandId(u16),
    /// The data pointer names another number of bytes than the command transfers.
    #[error("the data pointer names {got} bytes; the command transfers {need}")]
    DataLength {
        /// Bytes that the command transfers.
        need: u64,
        /// Bytes that the data pointer names.
        got: u32,
    },
    /// The data pointer is malformed, as the caller found.
    #[error("the data pointer is malformed: {0}")]
    DataPointer(Status),
    /// More than MDTS allows.
    #[error("{0} bytes are more than one command may transfer")]
    TransferTooLong(u64),
    /// A namespace identifier that no namespace can have, or broadcast where it
    /// is not allowed.
    #[error("namespace id {0:#x} is not valid here")]
    Namespace(u32),
    /// A valid identifier of a namespace that is not there.
    #[error("namespace {0} is not active")]
    NamespaceInactive(u32),
    /// A namespace whose storage is away, and is expected back.
    #[error("namespace {0} is away: its SSD is lost")]
    NamespaceAway(u32),
    /// Blocks past the end of the namespace.
    #[error("{blocks} blocks from {slba} on reach past the end of the namespace")]
    LbaRange {
        /// First block.
        slba: u64,
        /// Blocks.
        blocks: u64,
    },
    /// Protection information on a namespace without.
    #[error("the namespace has no protection information")]
    ProtectionInformation,
    /// A write to a namespace that takes none.
    #[error("the namespace is read-only")]
    ReadOnly,
    /// A log page that is not there.
    #[error("log page {0:#04x} is not supported")]
    LogPage(u8),
    /// Save was asked for.
    #[error("no feature can be saved")]
    FeatureNotSaveable,
    /// The feature has a fixed value.
    #[error("feature {0:#04x} cannot be changed")]
    FeatureNotChangeable(u8),
    /// The feature is the controller's, and a namespace was named.
    #[error("feature {0:#04x} does not belong to a namespace")]
    FeatureNotNamespaceSpecific(u8),
    /// More Asynchronous Event Requests than AERL.
    #[error("too many asynchronous event requests are outstanding")]
    AerLimit,
    /// More Abort commands than ACL.
    #[error("too many Abort commands are outstanding")]
    AbortLimit,
    /// Connect in a format that is not known.
    #[error("Connect has record format {0}; only 0 is known")]
    ConnectFormat(u16),
    /// Connect with a field that cannot be used.
    #[error("Connect: {what}")]
    ConnectField {
        /// Which field.
        field: ConnectField,
        /// What is wrong.
        what: &'static str,
    },
    /// Connect with a malformed name.
    #[error("Connect: {error}")]
    ConnectName {
        /// Which field.
        field: ConnectField,
        /// What is wrong.
        error: NqnError,
    },
    /// The controller of an I/O queue is dead, or was never there.
    #[error("Connect: there is no controller {0}")]
    ConnectNoController(u16),
    /// The host is not in the list of those allowed.
    #[error("Connect: host {0} is not allowed")]
    ConnectHost(Box<str>),
    /// No controller is left.
    #[error("Connect: no controller is left")]
    ConnectBusy,
    /// Commands of the host's last association are still being executed.
    #[error("Connect: an SSD still has commands of the host's last association")]
    ConnectTooSoon,
    /// Disconnect on the admin queue.
    #[error("Disconnect is for I/O queues")]
    DisconnectAdmin,
}

impl Refusal {
    /// The status for the host.
    pub fn status(&self) -> Status {
        let retry_is_useless = !matches!(
            self,
            Self::ConnectBusy
                | Self::ConnectTooSoon
                | Self::ConnectNoController(_)
                | Self::AerLimit
                | Self::AbortLimit
                | Self::NotReady
                | Self::NamespaceAway(_)
        );
        let status = match self {
            Self::Opcode(_) | Self::FabricsType(_) => Status::INVALID_OPCODE,
            Self::NotConnected | Self::AlreadyConnected | Self::NotReady | Self::Sequence(_) => {
                Status::COMMAND_SEQUENCE_ERROR
            }
            Self::Field { .. } | Self::TransferTooLong(_) | Self::NamespaceInactive(_) => {
                Status::INVALID_FIELD
            }
            // Another path, or another time, may do.
            Self::NamespaceAway(_) => Status::INTERNAL_PATH_ERROR,
            Self::CommandId(_) => Status::COMMAND_ID_CONFLICT,
            Self::DataLength { .. } => Status::DATA_SGL_LENGTH_INVALID,
            Self::DataPointer(status) => *status,
            Self::Namespace(_) => Status::INVALID_NAMESPACE,
            Self::LbaRange { .. } => Status::LBA_OUT_OF_RANGE,
            Self::ProtectionInformation => Status::INVALID_PROTECTION_INFORMATION,
            Self::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED,
            Self::LogPage(_) => Status::INVALID_LOG_PAGE,
            Self::FeatureNotSaveable => Status::FEATURE_NOT_SAVEABLE,
            Self::FeatureNotChangeable(_) => Status::FEATURE_NOT_CHANGEABLE,
            Self::FeatureNotNamespaceSpecific(_) => Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
            Self::AerLimit => Status::AER_LIMIT_EXCEEDED,
            Self::AbortLimit => Status::ABORT_LIMIT_EXCEEDED,
            Self::ConnectFormat(_) => Status::CONNECT_INCOMPATIBLE_FORMAT,
            Self::ConnectField { .. } | Self::ConnectName { .. } | Self::ConnectNoController(_) => {
                Status::CONNECT_INVALID_PARAMETERS
            }
            Self::ConnectHost(_) => Status::CONNECT_INVALID_HOST,
            Self::ConnectBusy | Self::ConnectTooSoon => Status::CONNECT_CONTROLLER_BUSY,
            Self::DisconnectAdmin => Status::DISCONNECT_INVALID_QUEUE_TYPE,
        };
        status.with_dnr(retry_is_useless)
    }

    /// How the command ends. A Connect with a wrong field says which (6.3).
    pub fn completion(&self) -> Completion {
        let place = match self {
            Self::ConnectField { field, .. } | Self::ConnectName { field, .. } => Some(*field),
            Self::ConnectNoController(_) => Some(ConnectField::Cntlid),
            _ => None,
        };
        let result = place.map_or(0, |field| {
            u32::from_le_bytes(zerocopy::transmute!(field.place()))
        });
        Completion {
            status: self.status(),
            result: u64::from(result),
        }
    }

    /// Where in the command the error is, when it is at one place in it.
    pub(super) fn location(&self) -> Option<u16> {
        let byte = match self {
            Self::Opcode(_) => at::OPCODE,
            Self::FabricsType(_) => at::FCTYPE,
            Self::Field { at, .. } => *at,
            Self::CommandId(_) => at::CID,
            Self::DataLength { .. } | Self::DataPointer(_) => at::DPTR,
            Self::Namespace(_) | Self::NamespaceInactive(_) | Self::NamespaceAway(_) => at::NSID,
            Self::LbaRange { .. } | Self::LogPage(_) => at::CDW10,
            Self::TransferTooLong(_) | Self::ProtectionInformation => at::CDW12,
            Self::FeatureNotSaveable
            | Self::FeatureNotChangeable(_)
            | Self::FeatureNotNamespaceSpecific(_) => at::CDW10,
            Self::ConnectField {
                field: ConnectField::Qid,
                ..
            } => 42,
            Self::ConnectField {
                field: ConnectField::SqSize,
                ..
            } => 44,
            Self::ConnectFormat(_) => 40,
            _ => return None,
        };
        Some(u16::from(byte))
    }
}
