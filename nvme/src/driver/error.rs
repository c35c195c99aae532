//! What can go wrong with a controller, and the remedy.

use sidelane_p2p::{DmaError, OutOfRange, PciAddress};

use crate::BackingError;
use crate::spec::Status;

/// Why the driver could not do something. Each message names the device, the
/// reason and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The backing refused.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// Memory for queues or buffers could not be had.
    #[error("{device}: {source}")]
    Dma {
        /// The controller.
        device: PciAddress,
        /// What was refused.
        source: DmaError,
    },
    /// Registers read as all ones.
    #[error(
        "{device} does not answer (its registers read as all ones): it was removed, reset or has lost power; look at `dmesg`, and start again when `lspci` shows it"
    )]
    Gone {
        /// The controller.
        device: PciAddress,
    },
    /// CSTS.CFS is set.
    #[error(
        "{device} reports a fatal error (CSTS.CFS) {doing}; it serves nothing until it is reset, and if that does not help, it is broken"
    )]
    Fatal {
        /// The controller.
        device: PciAddress,
        /// What was being done.
        doing: &'static str,
    },
    /// The controller did not do something in time.
    #[error(
        "{device} took more than {limit_ms} ms {doing}; reset it (`echo 1 > /sys/bus/pci/devices/{device}/reset`) and start again"
    )]
    Timeout {
        /// The controller.
        device: PciAddress,
        /// What was being done.
        doing: &'static str,
        /// How long the driver waited, in milliseconds.
        limit_ms: u128,
    },
    /// An admin command failed.
    #[error("{device} refused {command}: {status}")]
    Command {
        /// The controller.
        device: PciAddress,
        /// The command.
        command: &'static str,
        /// Its answer.
        status: Status,
    },
    /// The controller is of a kind that the driver does not serve.
    #[error("{device} cannot be used: {reason}")]
    Unsupported {
        /// The controller.
        device: PciAddress,
        /// What it lacks or is, and what would help.
        reason: String,
    },
    /// No I/O queue pair is left.
    #[error(
        "{device} has {limit} I/O queue pairs, and all are in use; configure fewer reactors or give each device to fewer of them"
    )]
    NoQueueLeft {
        /// The controller.
        device: PciAddress,
        /// How many there are.
        limit: u16,
    },
    /// An admin command was not answered, so the next might be taken for it.
    #[error("{device} has left an admin command unanswered, and takes no more until it is reset")]
    GivenUp {
        /// The controller.
        device: PciAddress,
    },
    /// The controller is halted, or was halted meanwhile.
    #[error("{device} is halted; it takes commands again after a restart")]
    Halted {
        /// The controller.
        device: PciAddress,
    },
    /// The driver itself went outside of its own memory.
    #[error("{device}: driver error: {source}")]
    Internal {
        /// The controller.
        device: PciAddress,
        /// The access.
        source: OutOfRange,
    },
}

/// Why a command was not put on a queue. Nothing was written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many commands are outstanding as the queue can hold; poll first.
    #[error("the queue is full")]
    QueueFull,
    /// The controller was halted: this queue pair is dead.
    #[error("the controller was halted")]
    Halted,
    /// The data does not lie inside its region.
    #[error("the data lies outside its region: {0}")]
    OutOfRange(#[from] OutOfRange),
    /// No usable namespace has this identifier.
    #[error("the controller has no usable namespace {0}")]
    UnknownNamespace(u32),
    /// No blocks, more than 65,536, or not as many bytes as the blocks have.
    #[error("{len} bytes of data for {blocks} blocks")]
    WrongLength {
        /// Logical blocks in the command.
        blocks: u32,
        /// Bytes of data.
        len: usize,
    },
    /// More data than one command can carry.
    #[error("{len} bytes of data, where one command carries at most {max}")]
    TooLong {
        /// Bytes of data.
        len: usize,
        /// [`max_transfer_bytes`](super::Controller::max_transfer_bytes).
        max: usize,
    },
    /// The data begins at an odd address.
    #[error("the data begins at {iova:#x}, which is not a multiple of 4")]
    Misaligned {
        /// The address.
        iova: u64,
    },
    /// No range, or more than 256.
    #[error("{0} ranges in a Dataset Management command")]
    WrongRangeCount(usize),
}
