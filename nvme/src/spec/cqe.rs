//! Completion queue entry (clause 3.3.3.2).

use zerocopy::little_endian::{U16, U32, U64};

use super::Status;

/// Bytes of a completion queue entry.
pub const CQE_LEN: usize = 16;

bits! {
    /// The last word of an entry: the phase tag and the status.
    pub struct StatusPhase: u16 {
        /// Phase tag (P); reserved, hence zero, on a fabric.
        pub phase: bool,
        #[bits(15)]
        status_bits: u16,
    }
}

impl StatusPhase {
    /// A word of this status and phase.
    pub const fn of(status: Status, phase: bool) -> Self {
        Self::new()
            .with_phase(phase)
            .with_status_bits(status.into_bits())
    }

    /// The status.
    pub const fn status(&self) -> Status {
        Status::from_bits(self.status_bits())
    }
}

wire! {
    /// Completion queue entry.
    pub struct Cqe: 16 {
        /// Dword 0, specific to the command.
        pub dw0: U32,
        /// Dword 1, specific to the command.
        pub dw1: U32,
        /// Submission queue head pointer (SQHD).
        pub sqhd: U16,
        /// Submission queue identifier (SQID); reserved on a fabric.
        pub sqid: U16,
        /// Identifier of the command that completed (CID).
        pub cid: U16,
        /// Phase and status.
        pub status: StatusPhase,
    }
}

impl Cqe {
    /// An entry for a command, phase clear.
    pub fn new(cid: u16, status: Status) -> Self {
        Self {
            cid: U16::new(cid),
            status: StatusPhase::of(status, false),
            ..Self::default()
        }
    }

    /// The same entry with a result in dwords 0 and 1.
    #[must_use]
    pub fn with_result(mut self, result: u64) -> Self {
        [self.dw0, self.dw1] = zerocopy::transmute!(U64::new(result));
        self
    }

    /// Dwords 0 and 1 as one number, as a Property Get answers.
    pub fn result(&self) -> u64 {
        u64::from(self.dw0.get()) | u64::from(self.dw1.get()) << 32
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.status.status()
    }
}
