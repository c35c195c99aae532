//! Log pages (clause 5.16.1), the discovery log apart.

use zerocopy::little_endian::{U16, U32, U64, U128};

use super::{Ascii, Csi, Status};

bits! {
    /// Where in the command an error is (parameter error location).
    pub struct ErrorLocation: u16 {
        /// Byte of the command.
        pub byte: u8,
        /// Bit of that byte.
        #[bits(3)]
        pub bit: u8,
        #[bits(5)]
        __: u8,
    }
}

wire! {
    /// One entry of the error information log (LID 01h).
    pub struct ErrorLogEntry: 64 {
        /// Counts errors; 0 for an unused entry.
        pub error_count: U64,
        /// Submission queue; FFFFh when no one command is at fault.
        pub sqid: U16,
        /// Command identifier; FFFFh when no one command is at fault.
        pub cid: U16,
        /// Status and phase, as in the completion.
        pub status: U16,
        /// Where in the command the error is; FFFFh when not in it.
        pub location: U16,
        /// First logical block concerned.
        pub lba: U64,
        /// Namespace.
        pub nsid: U32,
        /// Log page with vendor information, 0 for none.
        pub vendor_log: u8,
        /// Transport type.
        pub trtype: u8,
        /// I/O command set, where the version below says that it is given.
        pub csi: Csi,
        /// Opcode, likewise.
        pub opcode: u8,
        /// Specific to the command.
        pub command_specific: U64,
        /// Specific to the transport.
        pub transport_specific: U16,
        #[doc(hidden)]
        pub _reserved42: [u8; 21],
        /// Version of the entry: 1 when CSI and opcode are given.
        pub version: u8,
    }
}

impl ErrorLogEntry {
    /// The status, without the phase.
    pub fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }

    /// Sets the status, phase clear.
    pub fn set_status(&mut self, status: Status) {
        self.status = U16::new(status.into_bits() << 1);
    }
}

bits! {
    /// Critical warnings of the SMART log.
    pub struct CriticalWarning: u8 {
        /// Spare capacity is below its threshold.
        pub spare: bool,
        /// The temperature is beyond a threshold.
        pub temperature: bool,
        /// Reliability is degraded.
        pub reliability: bool,
        /// The media is read-only.
        pub read_only: bool,
        /// The volatile memory backup failed.
        pub backup: bool,
        /// The persistent memory region is read-only or unreliable.
        pub pmr: bool,
        #[bits(2)]
        __: u8,
    }
}

wire! {
    /// SMART / health information log (LID 02h).
    pub struct SmartLog: 512 {
        /// Critical warnings.
        pub critical_warning: CriticalWarning,
        /// Composite temperature, in kelvins.
        pub temperature_k: U16,
        /// Spare left, in percent.
        pub spare_percent: u8,
        /// Spare threshold, in percent.
        pub spare_threshold_percent: u8,
        /// Life used, in percent; may exceed 100.
        pub used_percent: u8,
        /// Endurance group critical warnings.
        pub endurance_group_warning: u8,
        #[doc(hidden)]
        pub _reserved7: [u8; 25],
        /// Data read, in units of 512,000 bytes, rounded up.
        pub data_units_read: U128,
        /// Data written, in units of 512,000 bytes, rounded up.
        pub data_units_written: U128,
        /// Read commands.
        pub host_reads: U128,
        /// Write commands.
        pub host_writes: U128,
        /// Time busy with I/O, in minutes.
        pub busy_minutes: U128,
        /// Power cycles.
        pub power_cycles: U128,
        /// Power-on hours.
        pub power_on_hours: U128,
        /// Unsafe shutdowns.
        pub unsafe_shutdowns: U128,
        /// Media and data integrity errors.
        pub media_errors: U128,
        /// Error log entries over the life of the controller.
        pub error_log_entries: U128,
        /// Time above the warning temperature, in minutes.
        pub warning_temperature_minutes: U32,
        /// Time above the critical temperature, in minutes.
        pub critical_temperature_minutes: U32,
        /// Temperature sensors 1 to 8, in kelvins, 0 for none.
        pub sensors_k: [U16; 8],
        /// Transitions by thermal management temperatures 1 and 2.
        pub thermal_transitions: [U32; 2],
        /// Time in thermal management 1 and 2, in seconds.
        pub thermal_seconds: [U32; 2],
        #[doc(hidden)]
        pub _reserved232: [u8; 280],
    }
}

bits! {
    /// Active firmware information (AFI).
    pub struct ActiveFirmware: u8 {
        /// Slot that runs now.
        #[bits(3)]
        pub active_slot: u8,
        __: bool,
        /// Slot that will run after the next reset, 0 for no change.
        #[bits(3)]
        pub next_slot: u8,
        __: bool,
    }
}

wire! {
    /// Firmware slot information log (LID 03h).
    pub struct FirmwareSlotLog: 512 {
        /// Which slot runs.
        pub afi: ActiveFirmware,
        #[doc(hidden)]
        pub _reserved1: [u8; 7],
        /// Revision in slots 1 to 7.
        pub revisions: [Ascii<8>; 7],
        #[doc(hidden)]
        pub _reserved64: [u8; 448],
    }
}

bits! {
    /// What a command can do, in the commands supported and effects log.
    pub struct CommandEffect: u32 {
        /// Supported (CSUPP).
        pub supported: bool,
        /// May change logical block content (LBCC).
        pub block_content: bool,
        /// May change namespace capabilities (NCC).
        pub namespace_capability: bool,
        /// May change the set of namespaces (NIC).
        pub namespace_inventory: bool,
        /// May change controller capabilities (CCC).
        pub controller_capability: bool,
        #[bits(9)]
        __: u16,
        /// Submission and execution relaxations (CSER).
        #[bits(2)]
        pub execution_relaxation: u8,
        /// Submission and execution (CSE).
        #[bits(3)]
        pub execution: u8,
        /// A UUID can be selected.
        pub uuid_selection: bool,
        /// Scope (CSP).
        #[bits(12)]
        pub scope: u16,
    }
}

wire! {
    /// Commands supported and effects log (LID 05h).
    pub struct CommandEffectsLog: 4096 {
        /// Admin commands, by opcode.
        pub admin: [CommandEffect; 256],
        /// I/O commands, by opcode.
        pub io: [CommandEffect; 256],
        #[doc(hidden)]
        pub _reserved2048: [u8; 2048],
    }
}

bits! {
    /// What is said of one log page in the supported log pages log.
    pub struct LogSupport: u32 {
        /// Supported (LSUPP).
        pub supported: bool,
        /// The offset may count entries (IOS).
        pub index_offset: bool,
        #[bits(14)]
        __: u16,
        /// Specific to the log page.
        pub specific: u16,
    }
}

wire! {
    /// Supported log pages log (LID 00h).
    pub struct SupportedLogPages: 1024 {
        /// By log page identifier.
        pub pages: [LogSupport; 256],
    }
}

/// First entry of a changed namespace list (LID 04h, a [`super::NamespaceList`])
/// that could not hold all changes; the rest is then zero.
pub const CHANGED_NAMESPACES_OVERFLOW: u32 = 0xffff_ffff;
