//! Status of a completion (clause 3.3.3.2.1; NVM 3.3.3.2.1 for I/O commands,
//! clause 6 for fabrics commands).

use std::fmt;

codes! {
    /// Status code type (SCT): which table the status code is from.
    pub enum StatusCodeType {
        /// Any command.
        Generic = 0,
        /// One command, or one command set.
        CommandSpecific = 1,
        /// Media and data integrity.
        Media = 2,
        /// The path to the namespace.
        Path = 3,
        /// Defined by a vendor.
        Vendor = 7,
    }
}

/// The status field of a completion, without the phase tag.
#[bitfield_struct::bitfield(u16)]
#[derive(PartialEq, Eq, Hash)]
pub struct Status {
    /// Status code (SC).
    pub sc: u8,
    /// Status code type (SCT).
    #[bits(3)]
    pub sct: StatusCodeType,
    /// Command retry delay (CRD): 0, or which of CRDT1 to CRDT3.
    #[bits(2)]
    pub crd: u8,
    /// More (M): the error log says more.
    pub more: bool,
    /// Do not retry (DNR).
    pub dnr: bool,
    #[bits(1)]
    __: u8,
}

macro_rules! statuses {
    ($($(#[$meta:meta])* $name:ident = $sct:ident $sc:literal, $text:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!($text, ".")]
                $(#[$meta])*
                pub const $name: Self = Self::of(StatusCodeType::$sct, $sc);
            )*

            /// Every status that this module names, with its words.
            const NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

impl Status {
    /// The status of this type and code, to be retried at once.
    pub const fn of(sct: StatusCodeType, sc: u8) -> Self {
        Self::new().with_sct(sct).with_sc(sc)
    }

    /// Whether the command succeeded.
    pub fn is_success(self) -> bool {
        self.same_code(Self::SUCCESS)
    }

    /// Whether both have one type and code, whatever their flags.
    pub fn same_code(self, other: Self) -> bool {
        self.sc() == other.sc() && self.sct() == other.sct()
    }

    /// The status in words. A code that the NVM command set and the fabrics
    /// commands define differently gets both meanings.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED
            .iter()
            .filter(move |(named, _)| self.same_code(*named))
            .map(|(_, words)| *words)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for words in self.words() {
            write!(f, "{}{words}", if any { " / " } else { "" })?;
            any = true;
        }
        if !any {
            f.write_str("unnamed status")?;
        }
        write!(
            f,
            " (SCT {:#x}, SC {:#04x}",
            self.sct().into_bits(),
            self.sc()
        )?;
        write!(f, "{})", if self.dnr() { ", do not retry" } else { "" })
    }
}

statuses! {
    SUCCESS = Generic 0x00, "Successful Completion";
    INVALID_OPCODE = Generic 0x01, "Invalid Command Opcode";
    INVALID_FIELD = Generic 0x02, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = Generic 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = Generic 0x04, "Data Transfer Error";
    ABORTED_POWER_LOSS = Generic 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = Generic 0x06, "Internal Error";
    ABORT_REQUESTED = Generic 0x07, "Command Abort Requested";
    ABORTED_SQ_DELETION = Generic 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = Generic 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = Generic 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = Generic 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = Generic 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT = Generic 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = Generic 0x0e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = Generic 0x0f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = Generic 0x10, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = Generic 0x11, "SGL Descriptor Type Invalid";
    INVALID_USE_OF_CMB = Generic 0x12, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = Generic 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = Generic 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = Generic 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = Generic 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT_FORMAT = Generic 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = Generic 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_INVALID = Generic 0x1a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = Generic 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = Generic 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = Generic 0x1d, "Sanitize In Progress";
    SGL_GRANULARITY_INVALID = Generic 0x1e, "SGL Data Block Granularity Invalid";
    NOT_SUPPORTED_FOR_QUEUE_IN_CMB = Generic 0x1f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = Generic 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = Generic 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = Generic 0x22, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = Generic 0x23, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_MEDIA_NOT_READY = Generic 0x24, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = Generic 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = Generic 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = Generic 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = Generic 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = Generic 0x84, "Format In Progress";

    CQ_INVALID = CommandSpecific 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_ID = CommandSpecific 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = CommandSpecific 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = CommandSpecific 0x03, "Abort Command Limit Exceeded";
    AER_LIMIT_EXCEEDED = CommandSpecific 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = CommandSpecific 0x06, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = CommandSpecific 0x07, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = CommandSpecific 0x08, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = CommandSpecific 0x09, "Invalid Log Page";
    INVALID_FORMAT = CommandSpecific 0x0a, "Invalid Format";
    INVALID_QUEUE_DELETION = CommandSpecific 0x0c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = CommandSpecific 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = CommandSpecific 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = CommandSpecific 0x0f, "Feature Not Namespace Specific";
    INVALID_CONTROLLER_ID = CommandSpecific 0x1f, "Invalid Controller Identifier";
    ANA_GROUP_INVALID = CommandSpecific 0x24, "ANA Group Identifier Invalid";
    COMMAND_SET_NOT_SUPPORTED = CommandSpecific 0x29, "I/O Command Set Not Supported";
    COMMAND_SET_NOT_ENABLED = CommandSpecific 0x2a, "I/O Command Set Not Enabled";
    COMMAND_SET_COMBINATION_REJECTED = CommandSpecific 0x2b, "I/O Command Set Combination Rejected";
    INVALID_COMMAND_SET = CommandSpecific 0x2c, "Invalid I/O Command Set";

    CONFLICTING_ATTRIBUTES = CommandSpecific 0x80, "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = CommandSpecific 0x81, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = CommandSpecific 0x82, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = CommandSpecific 0x83, "Command Size Limit Exceeded";

    CONNECT_INCOMPATIBLE_FORMAT = CommandSpecific 0x80, "Connect Incompatible Format";
    CONNECT_CONTROLLER_BUSY = CommandSpecific 0x81, "Connect Controller Busy";
    CONNECT_INVALID_PARAMETERS = CommandSpecific 0x82, "Connect Invalid Parameters";
    CONNECT_RESTART_DISCOVERY = CommandSpecific 0x83, "Connect Restart Discovery";
    CONNECT_INVALID_HOST = CommandSpecific 0x84, "Connect Invalid Host";
    DISCONNECT_INVALID_QUEUE_TYPE = CommandSpecific 0x85, "Disconnect Invalid Queue Type";
    DISCOVERY_RESTART = CommandSpecific 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = CommandSpecific 0x91, "Authentication Required";

    WRITE_FAULT = Media 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = Media 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = Media 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = Media 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = Media 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = Media 0x85, "Compare Failure";
    ACCESS_DENIED = Media 0x86, "Access Denied";
    UNWRITTEN_BLOCK = Media 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = Media 0x88, "End-to-End Storage Tag Check Error";

    INTERNAL_PATH_ERROR = Path 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = Path 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = Path 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = Path 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = Path 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = Path 0x70, "Host Pathing Error";
    ABORTED_BY_HOST = Path 0x71, "Command Aborted By Host";
}
